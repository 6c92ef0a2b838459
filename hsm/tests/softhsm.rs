//! `SoftHSM` keeps the contract, and what a token may do to us is noticed.
//!
//! A test that starts a handle shuts it down: a worker that still closes its session while the process ends runs into
//! the module's global destructors.

mod interop;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType};
use cryptoki::session::{Session as RawSession, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{
    BackingKey, BackingKeyId, DataKey, HsmError, HsmHandle, HsmSettings, ImportWrapping, KeyBlob,
    SecretBytes, State, Token, WrapScheme, Wrapped,
};

use tokio::sync::Mutex;

use support::{MODULE, PIN, SoftHsm, config, token_with_pin};

fn softhsm() -> &'static SoftHsm {
    SoftHsm::with_tokens(&[
        "main", "planted", "pin", "unread", "twin", "twin", "trials", "pairs",
    ])
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
    let token = token("main");
    conformance::run_all(&token);
    conformance::an_imported_key_does_not_pass_for_a_made_one(&token);
    interop::has_every_mac_key(&token);
    // SoftHSM 2.6.1 has OAEP with SHA-1 only.
    interop::unwraps(
        &token,
        &[ImportWrapping::OaepSha1, ImportWrapping::AesWrapSha1],
    );
    interop::signs(&token, &interop::EVERY_SIGNER);
}

fn main_config() -> Pkcs11Config {
    config("main", &softhsm().pin_file())
}

#[test]
fn softhsm_keeps_the_contract_with_cbc_and_hmac() {
    conformance::run_all(&interop::forced(&main_config(), WrapScheme::AesCbcHmac));
}

/// By its `CKM_AES_KEY_WRAP_PAD`, which is RFC 5649's.
#[test]
fn softhsm_keeps_the_contract_with_key_wrap() {
    conformance::run_all(&interop::forced(&main_config(), WrapScheme::AesKwp));
}

/// `SoftHSM` gives a padded secret back with its padding.
#[test]
fn key_wrap_takes_plaintexts_of_every_length() {
    let token: Arc<dyn Token> = interop::forced(&main_config(), WrapScheme::AesKwp);
    let mut session = token.open_session().expect("opens");
    let id = fresh_id();
    let blob = session.generate_key(&id, "lengths").expect("generates");
    let canary = session.make_canary(&id, &blob).expect("makes a canary");
    let key = BackingKey { id, blob, canary };
    // Zeros, which look like padding.
    for plaintext in (0..=64).flat_map(|length| [vec![7; length], vec![0; length]]) {
        let wrapped = session.wrap(&key, b"aad", &plaintext).expect("wraps");
        let back = session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
        assert_eq!(back.expose(), plaintext);
    }
    session.destroy_key(&id).expect("destroys");
}

#[test]
fn softhsm_gets_aes_gcm_unless_told_otherwise() {
    interop::chooses(&token("main"), WrapScheme::AesGcm);
}

#[test]
fn a_key_keeps_its_scheme_when_another_is_chosen() {
    let schemes = [
        WrapScheme::AesGcm,
        WrapScheme::AesKwp,
        WrapScheme::AesCbcHmac,
    ];
    for first in schemes {
        for then in schemes.into_iter().filter(|then| *then != first) {
            interop::a_key_keeps_its_scheme(&main_config(), first, then);
        }
    }
}

#[test]
fn a_key_without_a_canary_gets_one_of_its_kind() {
    for (first, then) in [
        (WrapScheme::AesGcm, WrapScheme::AesKwp),
        (WrapScheme::AesKwp, WrapScheme::AesGcm),
        (WrapScheme::AesCbcHmac, WrapScheme::AesGcm),
    ] {
        interop::a_key_without_a_canary_gets_one_of_its_kind(&main_config(), first, then);
    }
}

#[tokio::test]
async fn many_workers_wrap_at_once_by_each_scheme() {
    for scheme in [WrapScheme::AesKwp, WrapScheme::AesCbcHmac] {
        interop::many_workers_wrap_at_once(interop::forced(&main_config(), scheme)).await;
    }
}

#[test]
fn a_scheme_that_the_token_has_not_makes_no_canary() {
    for scheme in [WrapScheme::AesGcmTokenIv, WrapScheme::AesGcmMessage] {
        let mut session = interop::open(&interop::forced(&main_config(), scheme));
        let id = fresh_id();
        session.generate_key(&id, "other").expect("is any AES key");
        let refused = session.make_canary(&id, &KeyBlob::EMPTY);
        assert!(
            matches!(refused, Err(HsmError::Device { .. })),
            "{refused:?}"
        );
        session.destroy_key(&id).expect("destroys");
    }
    let mut session = interop::open(&interop::forced(&main_config(), WrapScheme::TpmSealed));
    let refused = session.generate_key(&fresh_id(), "other");
    assert!(matches!(refused, Err(HsmError::Config(_))), "{refused:?}");
}

#[test]
fn trials_and_wraps_leave_nothing_on_the_token() {
    let config = config("trials", &softhsm().pin_file());
    let key_wrap = interop::forced(&config, WrapScheme::AesKwp);
    let mut session = interop::open(&key_wrap);
    key_wrap.report().expect("reports");
    let objects = || {
        raw_session("trials")
            .find_objects(&[])
            .expect("finds")
            .len()
    };
    assert_eq!(objects(), 0, "after the trials");
    let key = interop::new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"a", &[1; 32]).expect("wraps");
    session.unwrap(&key, b"a", &wrapped).expect("unwraps");
    let refused = session.unwrap(&key, b"b", &wrapped);
    assert!(matches!(refused, Err(HsmError::Unauthentic)), "{refused:?}");
    assert_eq!(objects(), 1, "the key alone");
}

#[test]
fn the_report_of_softhsm_says_what_works_and_what_is_kept() {
    let schemes = [
        WrapScheme::AesGcm,
        WrapScheme::AesKwp,
        WrapScheme::AesCbcHmac,
    ];
    let report = interop::report_with_keys(&main_config(), &schemes);
    let mechanism = |name: &str| interop::fact(&report, "mechanism", name);
    for name in [
        "CKM_AES_GCM",
        "CKM_AES_KEY_WRAP_PAD",
        "CKM_AES_CBC_PAD",
        "CKM_SHA256_HMAC",
    ] {
        assert_eq!(mechanism(name), "works", "{name}");
    }
    assert_eq!(mechanism("CKM_AES_KEY_WRAP_KWP"), "not listed");
    assert_eq!(
        interop::fact(&report, "library", "interface of v3.0"),
        "absent"
    );
    assert_eq!(report.dangers, Vec::<String>::new());
}

#[test]
fn the_report_names_each_key_that_would_be_refused() {
    let _turn = PLANTING.blocking_lock();
    let (token, id) = (token("planted"), fresh_id());
    plant(&token, &id, &[Attribute::Extractable(true)]);
    let dangers = token.report().expect("reports").dangers;
    let named = dangers
        .iter()
        .any(|danger| danger.contains(&id.to_string()) && danger.contains("CKA_EXTRACTABLE"));
    assert!(named, "{dangers:?}");
}

/// One object of a pair, made past us as we make it.
fn plant_half(id: &BackingKeyId, mac: bool) {
    let (mechanism, uses) = if mac {
        let uses = [Attribute::Sign(true), Attribute::Verify(true)];
        (Mechanism::GenericSecretKeyGen, uses)
    } else {
        let uses = [Attribute::Encrypt(true), Attribute::Decrypt(true)];
        (Mechanism::AesKeyGen, uses)
    };
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::ValueLen(32.into()),
        Attribute::Id(id.as_bytes().to_vec()),
    ];
    template.retain(|attribute| {
        uses.iter()
            .all(|other| other.attribute_type() != attribute.attribute_type())
    });
    template.extend(uses);
    raw_session("pairs")
        .generate_key(&mechanism, &template)
        .expect("generates");
}

/// What an interruption between the two keys leaves, and what somebody else might.
#[test]
fn half_a_pair_is_there_and_unfit_and_can_be_destroyed() {
    let _turn = PLANTING.blocking_lock();
    let config = config("pairs", &softhsm().pin_file());
    let token = interop::forced(&config, WrapScheme::AesCbcHmac);
    let mut session = interop::open(&token);
    for mac in [true, false] {
        let id = fresh_id();
        plant_half(&id, mac);
        assert!(session.contains(&id).expect("answers"));
        assert!(session.list_keys().expect("lists").contains(&id));
        let again = session.generate_key(&id, "again");
        assert!(matches!(again, Err(HsmError::KeyExists(_))), "{again:?}");
        let refused = session.make_canary(&id, &KeyBlob::EMPTY);
        assert!(
            matches!(&refused, Err(HsmError::Unfit { reason, .. }) if reason.contains("half a pair")),
            "{refused:?}"
        );
        session.destroy_key(&id).expect("destroys");
        assert!(!session.contains(&id).expect("answers"));
    }
}

#[test]
fn a_key_that_lost_its_mac_key_or_gained_one_is_unfit() {
    let _turn = PLANTING.blocking_lock();
    let config = config("pairs", &softhsm().pin_file());
    let mut pairs = interop::open(&interop::forced(&config, WrapScheme::AesCbcHmac));
    let pair = interop::new_key(pairs.as_mut());
    let raw = raw_session("pairs");
    let mac_key = raw.find_objects(&[
        Attribute::Id(pair.id.as_bytes().to_vec()),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
    ]);
    for mac_key in mac_key.expect("finds") {
        raw.destroy_object(mac_key).expect("destroys");
    }
    let mut single = interop::open(&interop::forced(&config, WrapScheme::AesGcm));
    let gained = interop::new_key(single.as_mut());
    plant_half(&gained.id, true);
    for key in [pair, gained] {
        let refused = pairs.probe(&key);
        assert!(
            matches!(refused, Err(HsmError::Unfit { .. })),
            "{refused:?}"
        );
        pairs.destroy_key(&key.id).expect("destroys");
    }
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
fn two_keys_of_one_identity_are_unfit_and_both_destroyed() {
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
    let refused = session.probe(&key);
    assert!(
        matches!(refused, Err(HsmError::Unfit { .. })),
        "{refused:?}"
    );
    session.destroy_key(&id).expect("destroys both");
    assert!(!session.contains(&id).expect("answers"));
}

#[test]
fn two_pairs_of_one_identity_are_destroyed() {
    let token = token("pairs");
    let mut session = token.open_session().expect("opens");
    let id = fresh_id();
    for mac in [true, true, false, false] {
        plant_half(&id, mac);
    }
    session.destroy_key(&id).expect("destroys them all");
    assert!(!session.contains(&id).expect("answers"));
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
    // On a busy machine the last of the crowd waits long, which is not what is looked at here.
    let settings = HsmSettings {
        deadline: Duration::from_mins(1),
        ..HsmSettings::default()
    };
    let hsm = HsmHandle::start(token("main"), settings).expect("starts");
    let lives = (0..40).map(|_| {
        let hsm = hsm.clone();
        tokio::spawn(async move {
            let key = hsm.generate_key(fresh_id(), "crowd").await?;
            hsm.wrap(&key, Vec::new(), secret()).await?;
            hsm.destroy_key(key.id).await
        })
    });
    let mut ends = Vec::new();
    for life in lives.collect::<Vec<_>>() {
        ends.push(life.await.expect("does not panic"));
    }
    // Before anything is judged: a test that fails must not end the process while workers are in the module.
    hsm.shutdown().await;
    for end in ends {
        end.expect("lives and dies");
    }
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
