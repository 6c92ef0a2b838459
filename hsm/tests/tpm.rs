//! A TPM keeps the contract, and what only a TPM promises: destruction that defeats a copy, silence on the bus, and
//! nothing left in it.

#[path = "support/swtpm.rs"]
mod swtpm;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use strongroom_hsm::testing::conformance;
use strongroom_hsm::testing::fault::{Fault, FaultToken, Op};
use strongroom_hsm::tpm::{PcrPolicy, TpmConfig, TpmToken};
use strongroom_hsm::{
    BackingKey, DataKey, HsmError, HsmHandle, HsmResult, HsmSettings, KeyBlob, Report, SecretBytes,
    State, Token, WrapScheme, Wrapped,
};
use tss_esapi::Context;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::{CapabilityType, NvIndexType, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle, NvIndexTpmHandle, PcrHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, CapabilityData, Digest, DigestValues, NvPublicBuilder, Private, Public, SensitiveData,
    SymmetricDefinition,
};
use tss_esapi::traits::UnMarshall;

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};

use swtpm::{Swtpm, fresh_id, new_key, open, token};

/// The first NV index of ours.
const FIRST_INDEX: u32 = 0x0185_0000;

fn assert_not_found<T: std::fmt::Debug>(result: &HsmResult<T>) {
    assert!(
        matches!(result, Err(HsmError::KeyNotFound(_))),
        "{result:?}"
    );
}

fn fact(report: &Report, name: &str) -> String {
    let fact = report.facts.iter().find(|fact| fact.name == name);
    fact.unwrap_or_else(|| panic!("no {name} in {report:?}"))
        .value
        .clone()
}

/// The primary's template. Every key that was ever made hangs on these bytes: they do not change.
fn primary_template() -> Public {
    let mut bytes = hex::decode("0023000b0003047200000006010000430010000300100020").expect("hex");
    bytes.extend_from_slice(b"strongroom storage primary v1\0\0\0");
    bytes.extend_from_slice(&[0, 32]);
    bytes.extend_from_slice(&[0; 32]);
    Public::unmarshall(&bytes).expect("a public area")
}

/// Makes the primary past us.
fn raw_primary(context: &mut Context) -> KeyHandle {
    let made = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(Hierarchy::Owner, primary_template(), None, None, None, None)
    });
    made.expect("makes the primary").key_handle
}

/// Public and private area in the blob of a key with a counter.
fn areas(blob: &KeyBlob) -> (Public, Private) {
    let (_, rest) = blob.as_bytes().split_at(1 + 32 + 34 + 1 + 4 + 8);
    let take = |rest: &[u8]| {
        let (length, rest) = rest.split_first_chunk().expect("a length");
        let (area, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        (area.to_vec(), rest.to_vec())
    };
    let (public, rest) = take(rest);
    let (private, _) = take(&rest);
    (
        Public::unmarshall(&public).expect("a public area"),
        Private::try_from(private).expect("a private area"),
    )
}

/// Defines the counter of `key` anew, as it was, and increments it.
fn redefine_counter(context: &mut Context, key: &BackingKey) {
    let attributes = NvIndexAttributesBuilder::new()
        .with_nv_index_type(NvIndexType::Counter)
        .with_owner_write(true)
        .with_auth_read(true)
        .with_no_da(true)
        .build()
        .expect("attributes");
    let public = NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(FIRST_INDEX).expect("an index"))
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_index_auth_policy(Digest::try_from(key.id.as_bytes().to_vec()).expect("a digest"))
        .with_data_area_size(8)
        .build()
        .expect("a public area");
    context.execute_with_session(Some(AuthSession::Password), |context| {
        let index = context
            .nv_define_space(Provision::Owner, None, public)
            .expect("defines");
        let owner = tss_esapi::interface_types::resource_handles::NvAuth::Owner;
        context.nv_increment(owner, index).expect("increments");
    });
}

/// Handles that the TPM has in use from `first` on.
fn handles(context: &mut Context, first: u32) -> usize {
    let (data, _more) = context
        .get_capability(CapabilityType::Handles, first, 64)
        .expect("answers");
    match data {
        CapabilityData::Handles(handles) => handles.len(),
        other => panic!("{other:?}"),
    }
}

/// Transient objects and loaded sessions.
fn loaded(context: &mut Context) -> (usize, usize) {
    (handles(context, 0x8000_0000), handles(context, 0x0200_0000))
}

/// Fills the NV space of the TPM with indices that are not ours, until no counter fits. A TPM may keep room for
/// counters that it gives to nothing else: they come last.
fn fill_nv(context: &mut Context) {
    let mut index = 0x0190_0000;
    let mut define = |kind, bytes| {
        let attributes = NvIndexAttributesBuilder::new()
            .with_nv_index_type(kind)
            .with_owner_write(true)
            .with_owner_read(true)
            .build()
            .expect("attributes");
        let public = NvPublicBuilder::new()
            .with_nv_index(NvIndexTpmHandle::new(index).expect("an index"))
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(bytes)
            .build()
            .expect("a public area");
        index += 1;
        assert!(index < 0x0190_0000 + 4096, "the NV space has no end");
        let defined = context.execute_with_session(Some(AuthSession::Password), |context| {
            context.nv_define_space(Provision::Owner, None, public)
        });
        defined.is_ok()
    };
    for bytes in [2048, 512, 64, 8] {
        while define(NvIndexType::Ordinary, bytes) {}
    }
    while define(NvIndexType::Counter, 8) {}
}

fn set_owner_auth(context: &mut Context, value: &str) {
    context.set_sessions((Some(AuthSession::Password), None, None));
    let value = Auth::try_from(value.as_bytes().to_vec()).expect("an authorisation value");
    context
        .hierarchy_change_auth(AuthHandle::Owner, value)
        .expect("changes");
}

#[test]
fn swtpm_keeps_the_contract() {
    let swtpm = Swtpm::start();
    conformance::run_all(&swtpm.token());
}

#[test]
fn a_tpm_with_parents_of_128_bits_keeps_the_contract() {
    let swtpm = Swtpm::start();
    let config = TpmConfig {
        aes_bits: Some(128),
        ..swtpm.config()
    };
    conformance::run_all(&token(&config));
}

#[test]
fn a_counter_that_is_defined_anew_brings_no_destroyed_key_back() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    session.destroy_key(&key.id).expect("destroys");
    drop((session, token));
    redefine_counter(&mut swtpm.raw(), &key);
    let token = swtpm.token();
    let mut session = open(&token);
    assert!(
        session.contains(&key.id).expect("answers"),
        "the counter is like that of the key in all but its value"
    );
    assert_not_found(&session.unwrap(&key, b"aad", &wrapped));
    assert_not_found(&session.wrap(&key, b"aad", &[7; 32]));
    assert_not_found(&session.make_canary(&key.id, &key.blob));
}

#[test]
fn a_counter_that_was_incremented_is_a_destroyed_key() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    drop((session, token));
    let mut context = swtpm.raw();
    let index = NvIndexTpmHandle::new(FIRST_INDEX).expect("an index");
    let index = context
        .tr_from_tpm_public(TpmHandle::NvIndex(index))
        .expect("is there");
    context.execute_with_session(Some(AuthSession::Password), |context| {
        let owner = tss_esapi::interface_types::resource_handles::NvAuth::Owner;
        context
            .nv_increment(owner, index.into())
            .expect("increments");
    });
    drop(context);
    assert_not_found(&open(&swtpm.token()).unwrap(&key, b"aad", &wrapped));
}

#[test]
fn the_tpm_itself_refuses_a_key_without_its_policy() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let key = new_key(open(&token).as_mut());
    drop(token);
    let mut context = swtpm.raw();
    context.set_sessions((Some(AuthSession::Password), None, None));
    let primary = raw_primary(&mut context);
    let (public, private) = areas(&key.blob);
    let parent = context
        .load(primary, private, public)
        .expect("the key itself loads");
    let sealed = hex::decode("0008000b00000452000000100000").expect("hex");
    let sealed = Public::unmarshall(&sealed).expect("a public area");
    let data = SensitiveData::try_from(vec![1; 32]).expect("short");
    let by_password = context.create(parent, sealed.clone(), None, Some(data.clone()), None, None);
    assert!(by_password.is_err());
    let policy = context.execute_without_session(|context| {
        context.start_auth_session(
            None,
            None,
            None,
            SessionType::Policy,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
    });
    let by_empty_policy = context.execute_with_session(policy.expect("starts"), |context| {
        context.create(parent, sealed, None, Some(data), None, None)
    });
    assert!(by_empty_policy.is_err());
}

#[test]
fn another_tpm_does_not_find_the_key() {
    let (swtpm, other) = (Swtpm::start(), Swtpm::start());
    let mut session = open(&swtpm.token());
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    let mut elsewhere = open(&other.token());
    assert_not_found(&elsewhere.unwrap(&key, b"aad", &wrapped));
    assert_not_found(&elsewhere.wrap(&key, b"aad", &[7; 32]));
    session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
}

#[test]
fn a_cleared_owner_hierarchy_has_no_keys() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let key = new_key(open(&token).as_mut());
    drop(token);
    let mut context = swtpm.raw();
    context.set_sessions((Some(AuthSession::Password), None, None));
    context.clear(AuthHandle::Lockout).expect("clears");
    drop(context);
    let token = swtpm.token();
    assert_not_found(&open(&token).probe(&key));
    assert!(open(&token).list_keys().expect("lists").is_empty());
}

#[test]
fn other_aes_bits_do_not_find_the_key() {
    let swtpm = Swtpm::start();
    let token_256 = swtpm.token();
    let key = new_key(open(&token_256).as_mut());
    drop(token_256);
    let config = TpmConfig {
        aes_bits: Some(128),
        ..swtpm.config()
    };
    assert_not_found(&open(&token(&config)).probe(&key));
}

#[test]
fn a_tpm_that_went_away_and_returned_is_found_again() {
    let mut swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    swtpm.kill();
    let refused = session.unwrap(&key, b"aad", &wrapped);
    assert!(
        matches!(refused, Err(HsmError::Unavailable { .. })),
        "{refused:?}"
    );
    let refused = token.open_session().err();
    assert!(
        matches!(refused, Some(HsmError::Unavailable { .. })),
        "{refused:?}"
    );
    swtpm.restart();
    let back = open(&token)
        .unwrap(&key, b"aad", &wrapped)
        .expect("unwraps");
    assert_eq!(back.expose(), [7; 32]);
    // Once more, with nobody speaking while it is away.
    swtpm.restart();
    let back = open(&token)
        .unwrap(&key, b"aad", &wrapped)
        .expect("unwraps");
    assert_eq!(back.expose(), [7; 32]);
}

#[tokio::test]
async fn a_handle_heals_by_itself() {
    let mut swtpm = Swtpm::start();
    let settings = HsmSettings {
        workers: TpmToken::WORKERS,
        ..HsmSettings::default()
    };
    let hsm = HsmHandle::start(swtpm.token(), settings).expect("starts");
    let key = hsm
        .generate_key(fresh_id(), "healing")
        .await
        .expect("generates");
    let data_key = DataKey::random().expect("randomness");
    let wrapped = hsm
        .wrap(&key, b"aad".to_vec(), SecretBytes::from(&data_key))
        .await
        .expect("wraps");
    swtpm.restart();
    let give_up = Instant::now() + Duration::from_secs(20);
    let back = loop {
        match hsm.unwrap(&key, b"aad".to_vec(), wrapped.clone()).await {
            Ok(back) => break back,
            Err(error) if error.is_outage() && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(back.expose(), data_key.expose());
    assert_eq!(hsm.health().state, State::Ready);
    hsm.shutdown().await;
}

#[tokio::test]
async fn a_tpm_that_hangs_is_left_alone_and_found_again() {
    let swtpm = Swtpm::start();
    let answer_wait = Duration::from_secs(3);
    let token = TpmToken::with_answer_wait(&swtpm.config(), answer_wait).expect("a token");
    let settings = HsmSettings {
        workers: TpmToken::WORKERS,
        deadline: Duration::from_secs(2),
        ..HsmSettings::default()
    };
    let hsm = HsmHandle::start(Arc::new(token), settings).expect("starts");
    let key = hsm.generate_key(fresh_id(), "hangs").await.expect("makes");
    let secret = || SecretBytes::new(vec![7; 32]).expect("short");
    let wrapped = hsm.wrap(&key, Vec::new(), secret()).await.expect("wraps");

    swtpm.freeze();
    let answer = hsm.unwrap(&key, Vec::new(), wrapped.clone()).await;
    assert!(matches!(answer, Err(HsmError::Timeout(_))), "{answer:?}");
    let give_up = Instant::now() + Duration::from_secs(20);
    while hsm.health().state != State::Hung {
        assert!(Instant::now() < give_up, "{:?}", hsm.health());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The worker is let go of, though nothing has happened to the TPM.
    while hsm.health().state != State::Down {
        assert!(Instant::now() < give_up, "{:?}", hsm.health());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = hsm.health().last_error.expect("an error");
    assert!(error.contains("cannot be reached"), "{error}");

    swtpm.thaw();
    let back = loop {
        match hsm.unwrap(&key, Vec::new(), wrapped.clone()).await {
            Ok(back) => break back,
            Err(error) => assert!(Instant::now() < give_up, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(back.expose(), [7; 32]);
    hsm.shutdown().await;
}

#[test]
fn nothing_stays_loaded() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let keys: Vec<_> = (0..6).map(|_| new_key(session.as_mut())).collect();
    let in_use = |token: &Arc<dyn Token>| {
        let report = token.report().expect("reports");
        let number = |name| fact(&report, name).parse::<usize>().expect("a number");
        (
            number("transient objects in use"),
            number("sessions in use"),
        )
    };
    for round in 0..20_usize {
        for key in &keys {
            let wrapped = session.wrap(key, b"aad", &[7; 32]).expect("wraps");
            session.unwrap(key, b"aad", &wrapped).expect("unwraps");
            session
                .unwrap(key, b"other", &wrapped)
                .expect_err("another AAD");
            let garbage = Wrapped::new(WrapScheme::TpmSealed, &[1; 100]);
            session.unwrap(key, b"", &garbage).expect_err("garbage");
            let mut bytes = wrapped.as_bytes().to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            let damaged = Wrapped::from_bytes(&bytes).expect("reads");
            session.unwrap(key, b"aad", &damaged).expect_err("damaged");
            let mixed = BackingKey {
                canary: keys[(round + 1) % keys.len()].canary.clone(),
                ..key.clone()
            };
            if mixed != *key {
                session.probe(&mixed).expect_err("another canary");
            }
        }
        let (objects, sessions) = in_use(&token);
        assert!(objects <= 5 && sessions == 2, "{objects} and {sessions}");
    }
    drop((session, token));
    assert_eq!(loaded(&mut swtpm.raw()), (0, 0));
}

#[test]
fn what_a_killed_process_has_left_is_flushed_for_room() {
    let swtpm = Swtpm::start();
    let proxy = swtpm.proxy();
    let mut context = proxy.raw();
    for _ in 0..3 {
        raw_primary(&mut context);
    }
    for _ in 0..3 {
        context
            .start_auth_session(
                None,
                None,
                None,
                SessionType::Hmac,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .expect("starts");
    }
    proxy.cut();
    drop(context);
    assert_eq!(loaded(&mut swtpm.raw()), (3, 3), "they are left");
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    session.wrap(&key, b"", &[7; 32]).expect("wraps");
}

#[test]
fn no_data_key_is_seen_on_the_wire() {
    let swtpm = Swtpm::start();
    let proxy = swtpm.proxy();
    let data_key = DataKey::random().expect("randomness");
    let token = token(&proxy.config());
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    let wrapped = session
        .wrap(&key, b"aad", data_key.expose())
        .expect("wraps");
    let back = session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    assert_eq!(back.expose(), data_key.expose());
    let mut random = [0; 32];
    session.random(&mut random).expect("answers");
    assert!(proxy.bytes_seen() > 1000, "the proxy is in between");
    assert!(
        proxy.has_seen(&wrapped.body()[60..120]),
        "what is no secret is seen as it is"
    );
    assert!(!proxy.has_seen(data_key.expose()));
    assert!(!proxy.has_seen(&data_key.expose()[..8]));
    assert!(!proxy.has_seen(&random[..8]));
    drop((session, token));

    // The same key, sealed and unsealed without protection: the same search finds it, on its way in and on its way out.
    let (going_in, coming_out) = (swtpm.proxy(), swtpm.proxy());
    let mut context = going_in.raw();
    context.set_sessions((Some(AuthSession::Password), None, None));
    let primary = raw_primary(&mut context);
    let sealed = hex::decode("0008000b00000452000000100000").expect("hex");
    let sealed = Public::unmarshall(&sealed).expect("a public area");
    let data = SensitiveData::try_from(data_key.expose().to_vec()).expect("short");
    let made = context
        .create(primary, sealed, None, Some(data), None, None)
        .expect("seals");
    assert!(going_in.has_seen(data_key.expose()));
    drop(context);
    let mut context = coming_out.raw();
    context.set_sessions((Some(AuthSession::Password), None, None));
    let primary = raw_primary(&mut context);
    let object = context
        .load(primary, made.out_private, made.out_public)
        .expect("loads");
    assert!(!coming_out.has_seen(data_key.expose()));
    context.unseal(object.into()).expect("unseals");
    assert!(coming_out.has_seen(data_key.expose()));
}

#[test]
fn sessions_of_several_threads_take_turns() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let token = &token;
            scope.spawn(move || {
                let mut session = open(token);
                let key = new_key(session.as_mut());
                for _ in 0..10 {
                    let wrapped = session.wrap(&key, b"aad", &[thread; 32]).expect("wraps");
                    let back = session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
                    assert_eq!(back.expose(), [thread; 32]);
                }
            });
        }
    });
}

#[test]
fn a_wrong_owner_value_is_tried_once_until_its_file_changes() {
    let swtpm = Swtpm::start();
    set_owner_auth(&mut swtpm.raw(), "right");
    let file = swtpm.file("owner", "not-yet-right");
    let config = TpmConfig {
        owner_auth: Some(file.clone()),
        ..swtpm.config()
    };
    let token = token(&config);
    let refused = || match token.open_session() {
        Err(HsmError::PinRejected(_)) => true,
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    };
    assert!(refused());
    // From here on the TPM would take this very value: that it is still refused shows that the TPM is not asked.
    let mut context = swtpm.raw();
    let right = Auth::try_from(b"right".to_vec()).expect("short");
    context
        .tr_set_auth(tss_esapi::handles::ObjectHandle::Owner, right)
        .expect("sets");
    set_owner_auth(&mut context, "not-yet-right");
    drop(context);
    assert!(refused() && refused());
    std::fs::write(&file, "not-yet-right\n").expect("writes");
    assert!(refused(), "a line end is no change");
    std::fs::write(&file, "wrong-again").expect("writes");
    assert!(refused());
    std::fs::write(&file, "not-yet-right\n").expect("writes");
    assert!(!refused());
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    session.wrap(&key, b"", &[7; 32]).expect("wraps");
    session.destroy_key(&key.id).expect("destroys");
    assert!(session.list_keys().expect("lists").is_empty());
    let report = token.report().expect("reports");
    assert_eq!(fact(&report, "authorisation value"), "set");
    assert!(
        fact(&report, "failures").starts_with("0 of "),
        "no wrong owner value counts towards a lockout"
    );
}

#[test]
fn an_owner_value_that_is_wanted_and_missing_is_refused() {
    let swtpm = Swtpm::start();
    set_owner_auth(&mut swtpm.raw(), "right");
    let refused = swtpm.token().open_session().err();
    assert!(
        matches!(refused, Some(HsmError::PinRejected(_))),
        "{refused:?}"
    );
    for file in [
        swtpm.file("empty", "\n"),
        swtpm.file("long", &"x".repeat(65)),
        "/no/such/file".into(),
    ] {
        let config = TpmConfig {
            owner_auth: Some(file),
            ..swtpm.config()
        };
        let refused = token(&config).open_session().err();
        assert!(
            matches!(refused, Some(HsmError::Unavailable { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn the_owner_value_is_not_seen_on_the_wire() {
    let swtpm = Swtpm::start();
    set_owner_auth(&mut swtpm.raw(), "a-value-of-the-owner");
    let proxy = swtpm.proxy();
    let config = TpmConfig {
        owner_auth: Some(swtpm.file("owner", "a-value-of-the-owner\n")),
        ..proxy.config()
    };
    let token = token(&config);
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    session.destroy_key(&key.id).expect("destroys");
    assert!(proxy.bytes_seen() > 1000, "the proxy is in between");
    assert!(!proxy.has_seen(b"a-value-of-the-owner"));
}

#[test]
fn without_nv_space_a_key_is_made_without_a_counter_or_refused() {
    let swtpm = Swtpm::start();
    fill_nv(&mut swtpm.raw());
    let strict = TpmConfig {
        require_nv: true,
        ..swtpm.config()
    };
    let strict = token(&strict);
    let refused = open(&strict).generate_key(&fresh_id(), "refused");
    assert!(
        matches!(refused, Err(HsmError::KeyUnavailable { .. })),
        "{refused:?}"
    );
    let report = strict.report().expect("reports");
    assert!(report.dangers.is_empty(), "no such key is made: {report:?}");
    assert!(fact(&report, "new keys").contains("are refused"));
    drop(strict);
    let token = swtpm.token();
    let report = token.report().expect("reports");
    assert!(
        matches!(report.dangers.as_slice(), [danger] if danger.contains("no NV space is left")),
        "{report:?}"
    );
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    assert!(!session.contains(&key.id).expect("answers"));
    assert!(session.list_keys().expect("lists").is_empty());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    // What the module says of such keys: to destroy them defeats no copy.
    session.destroy_key(&key.id).expect("does what it can");
    let back = open(&token).unwrap(&key, b"aad", &wrapped).expect("opens");
    assert_eq!(back.expose(), [7; 32]);
    // It is bound to its identity and canary like any other.
    let other = BackingKey {
        id: fresh_id(),
        ..key.clone()
    };
    assert_not_found(&session.probe(&other));
}

#[test]
fn any_changed_byte_of_a_blob_makes_the_key_unusable() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    for index in 0..key.blob.as_bytes().len() {
        for bit in [1, 0x40] {
            let mut bytes = key.blob.as_bytes().to_vec();
            bytes[index] ^= bit;
            let changed = BackingKey {
                blob: KeyBlob::from_bytes(&bytes).expect("is short"),
                ..key.clone()
            };
            let refused = session.probe(&changed);
            assert!(
                matches!(
                    refused,
                    Err(HsmError::Unfit { .. } | HsmError::KeyNotFound(_))
                ),
                "byte {index}: {refused:?}"
            );
        }
    }
    for length in 0..key.blob.as_bytes().len() {
        let cut = KeyBlob::from_bytes(&key.blob.as_bytes()[..length]).expect("is short");
        session
            .make_canary(&key.id, &cut)
            .expect_err("a part of a blob");
    }
    session.probe(&key).expect("the blob itself still opens");
}

#[test]
fn a_blob_with_other_attributes_is_unfit_by_name() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    // Version, identity, primary, flags, counter, length; then type and name algorithm.
    let attributes = 1 + 32 + 34 + 1 + 12 + 2 + 4;
    for (bit, name) in [
        (1, "fixedTPM"),
        (4, "fixedParent"),
        (5, "sensitiveDataOrigin"),
        (6, "userWithAuth"),
        (10, "noDA"),
        (16, "restricted"),
        (17, "decrypt"),
        (18, "sign"),
    ] {
        let mut bytes = key.blob.as_bytes().to_vec();
        for (byte, flip) in bytes[attributes..attributes + 4]
            .iter_mut()
            .zip((1_u32 << bit).to_be_bytes())
        {
            *byte ^= flip;
        }
        let changed = BackingKey {
            blob: KeyBlob::from_bytes(&bytes).expect("is short"),
            ..key.clone()
        };
        match session.probe(&changed) {
            Err(HsmError::Unfit { reason, .. }) => assert!(reason.contains(name), "{reason}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_primary_other_than_the_pinned_one_is_refused() {
    let (swtpm, other) = (Swtpm::start(), Swtpm::start());
    let name_of = |swtpm: &Swtpm| {
        let report = swtpm.token().report().expect("reports");
        assert_eq!(report.dangers, Vec::<String>::new());
        fact(&report, "name")
    };
    let (name, other_name) = (name_of(&swtpm), name_of(&other));
    assert_ne!(name, other_name);
    let pinned = |name: &str| {
        token(&TpmConfig {
            primary_name: Some(name.into()),
            ..swtpm.config()
        })
    };
    let right = pinned(&name);
    new_key(open(&right).as_mut());
    drop(right);
    let wrong = pinned(&other_name);
    let refused = wrong.open_session().err();
    assert!(
        matches!(refused, Some(HsmError::UnsafeToken(_))),
        "{refused:?}"
    );
    let report = wrong.report().expect("an unsafe token is described");
    assert!(
        matches!(report.dangers.as_slice(), [danger] if danger.contains(&other_name)),
        "{report:?}"
    );
}

#[test]
fn a_lockout_of_others_making_keeps_no_key_from_being_used() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    drop((session, token));
    cause_lockout(&mut swtpm.raw());
    let token = swtpm.token();
    let report = token.report().expect("reports");
    assert_eq!(fact(&report, "in lockout"), "yes");
    let mut session = open(&token);
    session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    new_key(session.as_mut());
    assert_eq!(
        fact(&token.report().expect("reports"), "failures"),
        fact(&report, "failures"),
        "nothing of ours counts"
    );
}

/// Guesses the authorisation value of a sealed object that is subject to dictionary-attack protection.
fn cause_lockout(context: &mut Context) {
    context.set_sessions((Some(AuthSession::Password), None, None));
    let primary = raw_primary(context);
    let sealed = hex::decode("0008000b00000052000000100000").expect("hex");
    let sealed = Public::unmarshall(&sealed).expect("a public area");
    let auth = |text: &str| Auth::try_from(text.as_bytes().to_vec()).expect("short");
    let data = SensitiveData::try_from(vec![1; 32]).expect("short");
    let made = context
        .create(primary, sealed, Some(auth("right")), Some(data), None, None)
        .expect("seals");
    let object = context
        .load(primary, made.out_private, made.out_public)
        .expect("loads");
    context
        .tr_set_auth(object.into(), auth("wrong"))
        .expect("sets");
    for _ in 0..64 {
        let guessed = context.unseal(object.into()).expect_err("a wrong value");
        if guessed.to_string().contains("lockout") {
            return;
        }
    }
    panic!("64 wrong guesses cause no lockout");
}

#[test]
fn the_token_describes_itself_the_same_each_time() {
    let mut swtpm = Swtpm::start();
    let token = swtpm.token();
    let info = token.info().expect("answers");
    assert_eq!(info.backend, "tpm");
    assert!(
        info.label.ends_with(&info.serial) && info.serial.len() == 16,
        "{info:?}"
    );
    assert!(info.model.contains("firmware"), "{info:?}");
    swtpm.restart();
    assert_eq!(token.info().expect("answers"), info);
    swtpm.restart();
    let report = token.report().expect("reports");
    for name in [
        "manufacturer",
        "firmware",
        "specification",
        "ECC P-256 parent with AES-128 CFB and SHA-256",
        "ECC P-256 parent with AES-256 CFB and SHA-256",
        "in lockout",
        "failures",
        "counters that still fit",
        "transient objects that still fit",
        "persistent objects in use",
        "name",
    ] {
        assert!(!fact(&report, name).is_empty(), "{name}");
    }
    assert!(report.dangers.is_empty(), "{report:?}");
    assert_eq!(fact(&report, "new keys"), "get a counter");
    let counters = |report: &Report| fact(report, "counters of keys");
    assert!(counters(&report).starts_with("0 of "));
    let report = token.report().expect("reports");
    assert!(
        counters(&report).starts_with("0 of "),
        "it leaves no counter of its own"
    );
    assert!(fact(&report, "authorisation value").contains("TPM2_EvictControl"));
    let name = fact(&report, "name");
    assert!(fact(&report, "pinned").ends_with(&format!("primary_name = \"{name}\"")));
    let pinned = swtpm::token(&TpmConfig {
        primary_name: Some(name),
        ..swtpm.config()
    });
    assert_eq!(fact(&pinned.report().expect("reports"), "pinned"), "yes");
}

/// The events of this name among what is said in `work`, by their fields.
fn events_in(wanted: &str, work: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Listener(Arc<Mutex<Vec<String>>>);
    struct Fields(Vec<String>);
    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0.push(format!("{field}={value:?}"));
        }
    }
    impl Subscriber for Listener {
        fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _span: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _span: &Id, _values: &Record<'_>) {}
        fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut fields = Fields(Vec::new());
            event.record(&mut fields);
            self.0.lock().expect("no panic").push(fields.0.join(" "));
        }
        fn enter(&self, _span: &Id) {}
        fn exit(&self, _span: &Id) {}
    }
    let listener = Listener::default();
    tracing::subscriber::with_default(listener.clone(), work);
    let mut events = std::mem::take(&mut *listener.0.lock().expect("no panic"));
    events.retain(|fields| fields.contains(&format!("event=\"{wanted}\"")));
    events
}

#[test]
fn a_primary_that_is_not_pinned_is_named_once_when_keys_are_made() {
    let swtpm = Swtpm::start();
    let name = fact(&swtpm.token().report().expect("reports"), "name");
    let make = |config: TpmConfig| {
        events_in("tpm.not_pinned", || {
            let token = token(&config);
            for _ in 0..2 {
                new_key(open(&token).as_mut());
            }
        })
    };
    let said = make(swtpm.config());
    assert!(
        matches!(said.as_slice(), [once] if once.contains(&format!("primary_name=\"{name}\""))),
        "{said:?}"
    );
    let pinned = TpmConfig {
        primary_name: Some(name),
        ..swtpm.config()
    };
    assert_eq!(make(pinned), Vec::<String>::new());
}

#[test]
fn a_serial_number_tells_tpms_and_primaries_apart() {
    let (mut swtpm, other) = (Swtpm::start(), Swtpm::start());
    let identity = |config: TpmConfig| {
        let info = token(&config).info().expect("answers");
        (info.label, info.serial)
    };
    let bits = |bits, swtpm: &Swtpm| TpmConfig {
        aes_bits: Some(bits),
        ..swtpm.config()
    };
    let known = identity(swtpm.config());
    assert_eq!(identity(bits(256, &swtpm)), known);
    let smaller = identity(bits(128, &swtpm));
    assert_ne!(smaller.1, known.1);
    assert_ne!(identity(other.config()).1, known.1);
    assert_ne!(identity(bits(128, &other)).1, smaller.1);
    swtpm.restart();
    assert_eq!(identity(swtpm.config()), known);
    assert_eq!(identity(bits(128, &swtpm)), smaller);
    // It is made of the primary's name, behind the number of its algorithm.
    let name = fact(&swtpm.token().report().expect("reports"), "name");
    assert_eq!(known.1, name[4..20]);
    // A conversation outlives what happens to its TPM; what it tells does not.
    let token = swtpm.token();
    let mut session = open(&token);
    assert_eq!(token.info().expect("answers").serial, known.1);
    let mut context = swtpm.raw();
    context.set_sessions((Some(AuthSession::Password), None, None));
    context.clear(AuthHandle::Lockout).expect("clears");
    drop(context);
    let cleared = token.info().expect("answers").serial;
    assert_ne!(cleared, known.1);
    new_key(session.as_mut());
    drop((session, token));
    assert_eq!(identity(swtpm.config()).1, cleared);
}

#[test]
fn a_key_that_is_half_made_is_listed_and_can_be_destroyed() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let id = fresh_id();
    // The blob is lost before anybody has recorded it.
    session.generate_key(&id, "lost").expect("generates");
    drop((session, token));
    let token = swtpm.token();
    let mut session = open(&token);
    assert_eq!(session.list_keys().expect("lists"), [id]);
    assert_not_found(&session.make_canary(&id, &KeyBlob::EMPTY));
    session.destroy_key(&id).expect("destroys");
    assert!(session.list_keys().expect("lists").is_empty());
}

#[tokio::test]
async fn a_key_that_is_made_too_late_for_its_caller_leaves_no_counter() {
    let swtpm = Swtpm::start();
    let faults = FaultToken::new(swtpm.token());
    let settings = HsmSettings {
        workers: TpmToken::WORKERS,
        deadline: Duration::from_secs(1),
        ..HsmSettings::default()
    };
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings).expect("starts");
    faults.once(Op::Generate, 1, Fault::Hang(Duration::from_secs(2)));
    let late = hsm.generate_key(fresh_id(), "late").await;
    assert!(matches!(late, Err(HsmError::Timeout(_))), "{late:?}");
    let give_up = Instant::now() + Duration::from_secs(10);
    while faults.calls(Op::Destroy) == 0 {
        assert!(Instant::now() < give_up, "the key is not withdrawn");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(hsm.list_keys().await.expect("lists"), []);
    hsm.shutdown().await;
}

/// A recovery key, which a server never has, and the file of its public half.
struct Recovery {
    key: EcdsaKeyPair,
    public: PathBuf,
}

impl Recovery {
    fn new(swtpm: &Swtpm, name: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("generates");
        let public = swtpm.file(name, "");
        let mut der =
            hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").expect("hex");
        der.extend_from_slice(key.public_key().as_ref());
        std::fs::write(&public, der).expect("writes");
        Self { key, public }
    }

    /// The file of a policy for the values that these PCRs have now.
    fn sign(&self, token: &TpmToken, pcrs: &[u8]) -> String {
        let values = token.pcr_values(pcrs).expect("reads");
        let policy = PcrPolicy::new(pcrs, values).expect("PCRs");
        let signature = self.key.sign(&SystemRandom::new(), &policy.message());
        policy.signed(signature.expect("signs").as_ref())
    }
}

/// What a change of firmware or boot loader does.
fn extend_pcr_7(swtpm: &Swtpm) {
    let mut context = swtpm.raw();
    let mut values = DigestValues::new();
    values.set(
        HashingAlgorithm::Sha256,
        Digest::try_from(vec![1; 32]).expect("a digest"),
    );
    context.execute_with_session(Some(AuthSession::Password), |context| {
        context
            .pcr_extend(PcrHandle::Pcr7, values)
            .expect("extends");
    });
}

fn assert_pcr_changed<T: std::fmt::Debug>(result: &HsmResult<T>, word: &str) {
    match result {
        Err(HsmError::KeyUnavailable { reason, .. }) => assert!(
            reason.contains("PCR 7 is not what it was when the key was made")
                && reason.contains(word),
            "{reason}"
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tpm_with_keys_bound_to_pcrs_keeps_the_contract() {
    let swtpm = Swtpm::start();
    let recovery = Recovery::new(&swtpm, "recovery");
    let config = TpmConfig {
        pcrs: vec![0, 7],
        recovery_key: Some(recovery.public),
        ..swtpm.config()
    };
    conformance::run_all(&token(&config));
}

#[test]
fn a_key_opens_only_with_its_pcrs_or_a_policy_of_its_recovery_key() {
    let swtpm = Swtpm::start();
    let recovery = Recovery::new(&swtpm, "recovery");
    let policy = swtpm.file("policy", "");
    std::fs::remove_file(&policy).expect("removes");
    let config = TpmConfig {
        pcrs: vec![7],
        recovery_key: Some(recovery.public.clone()),
        recovery_policy: Some(policy.clone()),
        ..swtpm.config()
    };
    let bound = Arc::new(TpmToken::new(&config).expect("a valid configuration"));
    let sign = |recovery: &Recovery| recovery.sign(&bound, &[7]);
    let mut session = bound.open_session().expect("opens");
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    let early = sign(&recovery);

    // While the key is loaded and proven.
    extend_pcr_7(&swtpm);
    assert_pcr_changed(&session.unwrap(&key, b"aad", &wrapped), "cannot be read");
    assert_pcr_changed(&session.wrap(&key, b"aad", &[7; 32]), "cannot be read");

    for (text, word) in [
        ("garbage".to_owned(), "no signed PCR policy"),
        (early, "nor what the recovery policy allows"),
        (
            sign(&Recovery::new(&swtpm, "stranger")),
            "not signed by the recovery key",
        ),
    ] {
        std::fs::write(&policy, text).expect("writes");
        assert_pcr_changed(&session.unwrap(&key, b"aad", &wrapped), word);
    }

    std::fs::write(&policy, sign(&recovery)).expect("writes");
    for _ in 0..3 {
        let back = session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
        assert_eq!(back.expose(), [7; 32]);
        session.wrap(&key, b"aad", &[8; 32]).expect("wraps");
    }
    let report = bound.report().expect("reports");
    assert_eq!(fact(&report, "sessions in use"), "2");

    // A new key is bound to what is now, and needs no policy.
    let newer = new_key(session.as_mut());
    std::fs::remove_file(&policy).expect("removes");
    session.wrap(&newer, b"", &[7; 32]).expect("wraps");
    assert_pcr_changed(&session.unwrap(&key, b"aad", &wrapped), "cannot be read");

    // The counter still has the last word.
    std::fs::write(&policy, sign(&recovery)).expect("writes");
    session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    session.destroy_key(&key.id).expect("destroys");
    assert_not_found(&session.unwrap(&key, b"aad", &wrapped));
}

#[tokio::test]
async fn a_key_whose_pcrs_have_changed_leaves_the_others_served() {
    let swtpm = Swtpm::start();
    let recovery = Recovery::new(&swtpm, "recovery");
    let config = TpmConfig {
        pcrs: vec![7],
        recovery_key: Some(recovery.public),
        ..swtpm.config()
    };
    let proxy = swtpm.proxy();
    let config = TpmConfig {
        tcti: proxy.config().tcti,
        ..config
    };
    let settings = HsmSettings {
        workers: TpmToken::WORKERS,
        ..HsmSettings::default()
    };
    let hsm = HsmHandle::start(token(&config), settings).expect("starts");
    let bound = hsm.generate_key(fresh_id(), "bound").await.expect("makes");
    let secret = || SecretBytes::new(vec![7; 32]).expect("short");
    let wrapped = hsm.wrap(&bound, Vec::new(), secret()).await.expect("wraps");
    extend_pcr_7(&swtpm);
    let refuse = async || {
        // More of them than the circuit breaker suffers.
        for _ in 0..8 {
            assert_pcr_changed(
                &hsm.unwrap(&bound, Vec::new(), wrapped.clone()).await,
                "no recovery policy is configured",
            );
        }
    };
    refuse().await;
    // Idle for longer than a heartbeat, with the bound key as the one that was used last.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let newer = hsm.generate_key(fresh_id(), "newer").await.expect("makes");
    for _ in 0..3 {
        hsm.wrap(&newer, Vec::new(), secret()).await.expect("wraps");
        refuse().await;
    }
    // TPM2_CreatePrimary, with which a conversation begins.
    assert_eq!(proxy.count(&[0, 0, 1, 0x31]), 1, "it is one conversation");
    let health = hsm.health();
    assert_eq!((health.state, health.failures), (State::Ready, 0));
    hsm.shutdown().await;
}

#[test]
fn another_recovery_key_helps_no_key() {
    let swtpm = Swtpm::start();
    let recovery = Recovery::new(&swtpm, "recovery");
    let config = TpmConfig {
        pcrs: vec![7],
        recovery_key: Some(recovery.public),
        ..swtpm.config()
    };
    let bound = token(&config);
    let key = new_key(open(&bound).as_mut());
    drop(bound);
    extend_pcr_7(&swtpm);
    let stranger = Recovery::new(&swtpm, "stranger");
    let signer = TpmToken::new(&swtpm.config()).expect("a valid configuration");
    let policy = stranger.sign(&signer, &[7]);
    drop(signer);
    let config = TpmConfig {
        recovery_policy: Some(swtpm.file("policy", &policy)),
        recovery_key: Some(stranger.public),
        ..config
    };
    let refused = open(&token(&config)).probe(&key);
    assert_pcr_changed(&refused, "not the one that the key was made with");
}

#[test]
fn a_key_bound_to_pcrs_needs_no_counter_to_be_bound() {
    let swtpm = Swtpm::start();
    fill_nv(&mut swtpm.raw());
    let recovery = Recovery::new(&swtpm, "recovery");
    let config = TpmConfig {
        pcrs: vec![7],
        recovery_key: Some(recovery.public),
        ..swtpm.config()
    };
    let bound = token(&config);
    let mut session = open(&bound);
    let key = new_key(session.as_mut());
    assert!(!session.contains(&key.id).expect("answers"));
    session.probe(&key).expect("opens");
    extend_pcr_7(&swtpm);
    assert_pcr_changed(&session.probe(&key), "no recovery policy is configured");
}

/// Figures, not a check: `cargo nextest run --release --run-ignored all --no-capture figures`.
#[test]
#[ignore = "a measurement"]
fn figures_of_swtpm() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    println!(
        "blob {} bytes, wrapped {} bytes",
        key.blob.as_bytes().len(),
        wrapped.as_bytes().len()
    );
    let mut rate = |name: &str, work: &mut dyn FnMut(&mut dyn strongroom_hsm::Session)| {
        let (start, mut count) = (Instant::now(), 0_u32);
        while start.elapsed() < Duration::from_secs(3) {
            work(session.as_mut());
            count += 1;
        }
        println!(
            "{name}: {:.0}/s",
            f64::from(count) / start.elapsed().as_secs_f64()
        );
    };
    rate("wrap", &mut |session| {
        session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    });
    rate("unwrap", &mut |session| {
        session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    });
    rate("probe", &mut |session| session.probe(&key).expect("opens"));
    rate("random", &mut |session| {
        session.random(&mut [0; 32]).expect("answers");
    });
}
