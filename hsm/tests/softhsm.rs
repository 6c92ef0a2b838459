//! `SoftHSM` keeps the contract, and what a token may do to us is noticed.
//!
//! A test that starts a handle shuts it down: a worker that still closes its session while the process ends runs into
//! the module's global destructors.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::{Session as RawSession, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use strongroom_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{
    BackingKey, BackingKeyId, DataKey, HsmError, HsmHandle, HsmSettings, KeyBlob, SecretBytes,
    State, Token, WrapScheme, Wrapped,
};

use tokio::sync::Mutex;

use support::{MODULE, PIN, SoftHsm, config, token_with_pin};

fn softhsm() -> &'static SoftHsm {
    SoftHsm::with_tokens(&["main", "planted", "pin", "unread", "twin", "twin"])
}

fn token(label: &str) -> Arc<dyn Token> {
    token_with_pin(label, &softhsm().pin_file())
}

fn handle() -> HsmHandle {
    handle_of("main")
}

fn handle_of(label: &str) -> HsmHandle {
    HsmHandle::start(token(label), HsmSettings::default()).expect("starts")
}

fn secret() -> SecretBytes {
    SecretBytes::from(&DataKey::random().expect("randomness"))
}

fn fresh_id() -> BackingKeyId {
    BackingKeyId::random().expect("randomness")
}

/// A session of the test's own, in the module that Strongroom has loaded and initialised.
fn raw_session(label: &str) -> RawSession {
    let context = Pkcs11::new(MODULE).expect("loads");
    let labelled = |slot: &Slot| {
        context
            .get_token_info(*slot)
            .is_ok_and(|info| info.label() == label)
    };
    let slot = context
        .get_slots_with_token()
        .expect("lists")
        .into_iter()
        .find(labelled);
    context
        .open_rw_session(slot.expect("the token"))
        .expect("opens")
}

/// The turn to plant keys. `SoftHSM` fails when objects are made at once (its #573); we see to it that ours are not,
/// but planted ones are made past us.
static PLANTING: Mutex<()> = Mutex::const_new(());

/// A key of our making apart from `different`, made past us in the module that we have loaded.
fn plant(token: &Arc<dyn Token>, id: &BackingKeyId, different: &[Attribute]) {
    let _ours = token.open_session().expect("opens");
    let session = raw_session("planted");
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::ValueLen(32.into()),
        Attribute::Id(id.as_bytes().to_vec()),
    ];
    template.retain(|attribute| {
        different
            .iter()
            .all(|other| other.attribute_type() != attribute.attribute_type())
    });
    template.extend_from_slice(different);
    session
        .generate_key(&Mechanism::AesKeyGen, &template)
        .expect("generates");
}

#[test]
fn softhsm_keeps_the_contract() {
    conformance::run_all(&token("main"));
}

/// A token whose new keys are of this scheme.
fn forced(scheme: WrapScheme) -> Arc<dyn Token> {
    let config = Pkcs11Config {
        scheme: Some(scheme),
        ..config("main", &softhsm().pin_file())
    };
    Arc::new(Pkcs11Token::new(config))
}

#[test]
fn softhsm_keeps_the_contract_with_cbc_and_hmac() {
    conformance::run_all(&forced(WrapScheme::AesCbcHmac));
}

#[test]
fn softhsm_keeps_the_contract_with_key_wrap() {
    conformance::run_all(&forced(WrapScheme::AesKwp));
}

#[test]
fn a_planted_key_like_ours_is_fit() {
    let _turn = PLANTING.blocking_lock();
    let (token, id) = (token("planted"), fresh_id());
    plant(&token, &id, &[]);
    token
        .open_session()
        .expect("opens")
        .make_canary(&id, &KeyBlob::EMPTY)
        .expect("is fit");
}

#[test]
fn a_key_that_could_be_read_or_misused_is_unfit() {
    let _turn = PLANTING.blocking_lock();
    let token = token("planted");
    let faults: [(&str, &[Attribute]); 6] = [
        ("CKA_EXTRACTABLE", &[Attribute::Extractable(true)]),
        ("CKA_SENSITIVE", &[Attribute::Sensitive(false)]),
        ("CKA_VALUE_LEN", &[Attribute::ValueLen(16.into())]),
        ("CKA_PRIVATE", &[Attribute::Private(false)]),
        ("CKA_WRAP", &[Attribute::Wrap(true)]),
        ("CKA_UNWRAP", &[Attribute::Unwrap(true)]),
    ];
    for (name, different) in faults {
        let id = fresh_id();
        plant(&token, &id, different);
        let refused = token
            .open_session()
            .expect("opens")
            .make_canary(&id, &KeyBlob::EMPTY);
        match refused {
            Err(HsmError::Unfit { reason, .. }) => {
                assert!(reason.contains(name), "{name}: {reason}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_exportable_key_is_refused_by_the_handle() {
    let _turn = PLANTING.lock().await;
    let (hsm, id) = (handle_of("planted"), fresh_id());
    let donor = hsm
        .generate_key(fresh_id(), "donor")
        .await
        .expect("generates");
    plant(&token("planted"), &id, &[Attribute::Extractable(true)]);
    let key = BackingKey { id, ..donor };
    let refused = hsm.wrap(&key, Vec::new(), secret()).await;
    assert!(
        matches!(refused, Err(HsmError::Unfit { .. })),
        "{refused:?}"
    );
    hsm.shutdown().await;
}

#[test]
fn two_keys_of_one_identity_are_unfit() {
    let _turn = PLANTING.blocking_lock();
    let token = token("planted");
    let mut session = token.open_session().expect("opens");
    let id = fresh_id();
    session.generate_key(&id, "first").expect("generates");
    let key = BackingKey {
        id,
        blob: KeyBlob::EMPTY,
        canary: session
            .make_canary(&id, &KeyBlob::EMPTY)
            .expect("makes a canary"),
    };
    plant(&token, &id, &[]);
    for refused in [session.probe(&key), session.destroy_key(&id)] {
        assert!(
            matches!(refused, Err(HsmError::Unfit { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn two_tokens_of_one_label_are_refused() {
    let refused = token("twin").open_session().err();
    assert!(matches!(refused, Some(HsmError::Config(_))), "{refused:?}");
}

#[test]
fn a_wrong_pin_is_tried_once_until_its_file_changes() {
    let softhsm = softhsm();
    let file = softhsm.dir.join("wrong-pin");
    let token = token_with_pin("pin", &file);
    let refused = || match token.open_session() {
        Err(HsmError::PinRejected(_)) => true,
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    };
    std::fs::write(&file, "not-yet-right").expect("writes");
    assert!(refused());
    // From here on the token would take this very PIN: that it is still refused shows that the token is not asked.
    let session = raw_session("pin");
    let pin = |pin: &str| AuthPin::new(pin.into());
    session
        .login(UserType::User, Some(&pin(PIN)))
        .expect("logs in");
    session
        .set_pin(&pin(PIN), &pin("not-yet-right"))
        .expect("changes the PIN");
    session.logout().expect("logs out");
    assert!(refused() && refused());
    std::fs::write(&file, "not-yet-right\n").expect("writes");
    assert!(refused(), "a line end is no change");
    std::fs::write(&file, "wrong-again").expect("writes");
    assert!(refused());
    std::fs::write(&file, "not-yet-right\n").expect("writes");
    assert!(
        !refused(),
        "the token was not locked and the new content is tried"
    );
}

#[test]
fn a_pin_file_that_is_missing_or_empty_is_unavailable() {
    let softhsm = softhsm();
    let empty = softhsm.dir.join("empty-pin");
    std::fs::write(&empty, "\n").expect("writes");
    // Nobody logs in to this token, so that each session needs the PIN.
    for file in [softhsm.dir.join("no-such-pin"), empty] {
        let config = token_with_pin("unread", &file);
        let refused = config.open_session().err();
        assert!(
            matches!(refused, Some(HsmError::Unavailable { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn garbage_is_unauthentic_and_says_nothing_against_the_token() {
    let hsm = handle();
    let key = hsm
        .generate_key(fresh_id(), "garbage")
        .await
        .expect("generates");
    for _ in 0..5 {
        let garbage = Wrapped::new(WrapScheme::AesGcm, &[0x5a; 60]);
        let answer = hsm.unwrap(&key, Vec::new(), garbage).await;
        assert!(matches!(answer, Err(HsmError::Unauthentic)), "{answer:?}");
    }
    let health = hsm.health();
    assert_eq!((health.state, health.failures), (State::Ready, 0));
    hsm.shutdown().await;
}

#[tokio::test]
async fn a_generated_key_is_there_for_every_worker() {
    let hsm = handle();
    let key = hsm
        .generate_key(fresh_id(), "shared")
        .await
        .expect("generates");
    assert!(hsm.contains(key.id).await.expect("answers"));
    assert!(hsm.list_keys().await.expect("lists").contains(&key.id));
    let calls = (0..32).map(|_| {
        let (hsm, key) = (hsm.clone(), key.clone());
        tokio::spawn(async move {
            let data_key = DataKey::random().expect("randomness");
            let wrapped = hsm
                .wrap(&key, b"aad".to_vec(), SecretBytes::from(&data_key))
                .await;
            let wrapped = wrapped.expect("wraps");
            let back = hsm
                .unwrap(&key, b"aad".to_vec(), wrapped)
                .await
                .expect("unwraps");
            assert_eq!(back.expose(), data_key.expose());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("does not panic");
    }
    hsm.destroy_key(key.id).await.expect("destroys");
    let gone = hsm.wrap(&key, Vec::new(), secret()).await;
    assert!(matches!(gone, Err(HsmError::KeyNotFound(_))), "{gone:?}");
    hsm.shutdown().await;
}

#[tokio::test]
async fn keys_can_be_generated_and_destroyed_all_at_once() {
    let hsm = handle();
    let lives = (0..40).map(|_| {
        let hsm = hsm.clone();
        tokio::spawn(async move {
            let key = hsm
                .generate_key(fresh_id(), "crowd")
                .await
                .expect("generates");
            hsm.wrap(&key, Vec::new(), secret()).await.expect("wraps");
            hsm.destroy_key(key.id).await.expect("destroys");
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.expect("does not panic");
    }
    hsm.shutdown().await;
}

#[tokio::test]
async fn an_idle_token_is_ready_without_a_call() {
    let hsm = handle();
    let give_up = Instant::now() + Duration::from_secs(5);
    while hsm.health().state != State::Ready {
        assert!(Instant::now() < give_up, "{:?}", hsm.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    hsm.shutdown().await;
}

#[tokio::test]
async fn the_token_names_itself() {
    let hsm = handle();
    let info = hsm.info().await.expect("answers");
    assert_eq!((info.backend, info.label.as_str()), ("pkcs11", "main"));
    assert!(
        info.module.contains(MODULE.trim_start_matches("/usr")),
        "{info:?}"
    );
    hsm.shutdown().await;
}
