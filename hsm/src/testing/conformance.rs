//! The contract of [`Token`] and [`Session`], as functions that every backend's tests run.
//!
//! Each leaves the token as it found it, so that they may share one and run side by side.
#![expect(clippy::missing_panics_doc, reason = "a broken contract panics")]

mod signing;

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

pub use self::signing::*;
use crate::wrapping;
use crate::{
    BackingKey, BackingKeyId, Canary, HsmError, HsmResult, ImportWrapping, KeyBlob, Material,
    RsaSize, Session, TOOL_INPUT_BYTES_MAX, Token, ToolKey, ToolProof, ToolSpec,
    WRAP_AAD_BYTES_MAX, WRAP_PLAINTEXT_BYTES_MAX, WrapScheme, Wrapped,
};

/// Every contract test, one after the other.
pub fn run_all(token: &Arc<dyn Token>) {
    a_wrap_unwraps_to_its_plaintext(token);
    two_wraps_of_one_plaintext_differ(token);
    a_wrap_outlives_its_session(token);
    another_aad_is_unauthentic(token);
    another_key_is_unauthentic(token);
    a_changed_byte_is_unauthentic(token);
    garbage_of_any_length_is_unauthentic(token);
    an_unauthentic_ciphertext_leaves_the_session_usable(token);
    plaintext_is_taken_up_to_its_limit(token);
    aad_is_taken_up_to_its_limit(token);
    an_identity_is_given_once(token);
    an_absent_key_is_not_found(token);
    a_wrong_canary_makes_a_key_unfit(token);
    a_key_is_listed_until_it_is_destroyed(token);
    destroying_twice_is_harmless(token);
    a_destroyed_key_unwraps_nothing(token);
    a_tool_with_an_obstacle_is_not_made(token);
    a_mac_depends_on_key_and_message(token);
    a_mac_is_the_same_in_another_session(token);
    a_message_is_taken_up_to_its_limit(token);
    a_wrong_proof_makes_a_tool_unfit(token);
    an_identity_is_given_to_one_tool(token);
    a_tool_is_listed_until_it_is_destroyed(token);
    signing::run_all(token);
    an_imported_key_is_its_material(token);
    what_does_not_unwrap_is_not_imported(token);
    the_same_material_and_no_other_is_imported_again(token);
    random_bytes_differ(token);
    the_token_describes_itself(token);
}

/// What was wrapped comes back, for the shortest, the usual and the longest plaintext.
pub fn a_wrap_unwraps_to_its_plaintext(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        for plaintext in [&b""[..], &[7; 32], &[9; WRAP_PLAINTEXT_BYTES_MAX]] {
            for aad in [&b""[..], b"context"] {
                let wrapped = session.wrap(key, aad, plaintext).expect("wraps");
                let back = session.unwrap(key, aad, &wrapped).expect("unwraps");
                assert_eq!(back.expose(), plaintext);
            }
        }
    });
}

/// No IV or salt is used twice.
pub fn two_wraps_of_one_plaintext_differ(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let first = session.wrap(key, b"", &[1; 32]).expect("wraps");
        let second = session.wrap(key, b"", &[1; 32]).expect("wraps");
        assert_ne!(first, second);
    });
}

/// Another session unwraps it, from its stored bytes.
pub fn a_wrap_outlives_its_session(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let stored = session
            .wrap(key, b"a", &[1; 32])
            .expect("wraps")
            .as_bytes()
            .to_vec();
        let wrapped = Wrapped::from_bytes(&stored).expect("reads");
        let back = open(token).unwrap(key, b"a", &wrapped).expect("unwraps");
        assert_eq!(back.expose(), [1; 32]);
    });
}

/// AAD is authenticated.
pub fn another_aad_is_unauthentic(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let wrapped = session.wrap(key, b"mine", &[1; 32]).expect("wraps");
        for aad in [&b"yours"[..], b"", b"mine "] {
            assert_unauthentic(&session.unwrap(key, aad, &wrapped));
        }
    });
}

/// A key opens its own wraps only.
pub fn another_key_is_unauthentic(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        with_key(token, |other_session, other| {
            let wrapped = session.wrap(key, b"", &[1; 32]).expect("wraps");
            assert_unauthentic(&other_session.unwrap(other, b"", &wrapped));
        });
    });
}

/// Any byte of the body counts.
pub fn a_changed_byte_is_unauthentic(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let wrapped = session.wrap(key, b"", &[1; 32]).expect("wraps");
        for index in 1..wrapped.as_bytes().len() {
            let mut bytes = wrapped.as_bytes().to_vec();
            if let Some(byte) = bytes.get_mut(index) {
                *byte ^= 0x80;
            }
            let changed = Wrapped::from_bytes(&bytes).expect("reads");
            assert_unauthentic(&session.unwrap(key, b"", &changed));
        }
    });
}

/// From the scheme byte alone to the longest wrapped value, of the key's scheme and of every other.
pub fn garbage_of_any_length_is_unauthentic(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        for scheme in (1..=u8::MAX).map_while(WrapScheme::from_u8) {
            for length in [1, 2, 12, 13, 28, 29, 30, 61, 93, 94, Wrapped::BYTES_MAX] {
                let garbage = Wrapped::new(scheme, &vec![0x5a; length - 1]);
                let garbage = Wrapped::from_bytes(garbage.as_bytes()).expect("reads");
                assert_unauthentic(&session.unwrap(key, b"", &garbage));
            }
        }
    });
}

/// A caller's bad ciphertext costs nobody else anything.
pub fn an_unauthentic_ciphertext_leaves_the_session_usable(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let wrapped = session.wrap(key, b"", &[1; 32]).expect("wraps");
        for _ in 0..3 {
            assert_unauthentic(&session.unwrap(key, b"other", &wrapped));
            assert_eq!(
                session
                    .unwrap(key, b"", &wrapped)
                    .expect("unwraps")
                    .expose(),
                [1; 32]
            );
            session.wrap(key, b"", &[2; 32]).expect("wraps");
        }
    });
}

/// The limit itself, and one byte more.
pub fn plaintext_is_taken_up_to_its_limit(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        session
            .wrap(key, b"", &[0; WRAP_PLAINTEXT_BYTES_MAX])
            .expect("wraps");
        let beyond = session.wrap(key, b"", &[0; WRAP_PLAINTEXT_BYTES_MAX + 1]);
        assert!(
            matches!(beyond, Err(HsmError::TooLong { bytes: 65, .. })),
            "{beyond:?}"
        );
    });
}

/// The limit itself, and one byte more, both ways.
pub fn aad_is_taken_up_to_its_limit(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let aad = vec![3; WRAP_AAD_BYTES_MAX + 1];
        let longest = aad.get(..WRAP_AAD_BYTES_MAX).expect("is shorter");
        let wrapped = session.wrap(key, longest, &[1; 32]).expect("wraps");
        session.unwrap(key, longest, &wrapped).expect("unwraps");
        let beyond = session.wrap(key, &aad, &[1; 32]);
        assert!(
            matches!(beyond, Err(HsmError::TooLong { .. })),
            "{beyond:?}"
        );
        let beyond = session.unwrap(key, &aad, &wrapped);
        assert!(
            matches!(beyond, Err(HsmError::TooLong { .. })),
            "{beyond:?}"
        );
    });
}

/// The second key of one identity is refused, and the first one still works.
pub fn an_identity_is_given_once(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let again = session.generate_key(&key.id, "again");
        assert!(
            matches!(again, Err(HsmError::KeyExists(id)) if id == key.id),
            "{again:?}"
        );
        open(token).probe(key).expect("still opens");
    });
}

/// By whatever call it is named.
pub fn an_absent_key_is_not_found(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        let absent = BackingKey {
            id: fresh_id(),
            ..key.clone()
        };
        let wrapped = session.wrap(key, b"", &[1; 32]).expect("wraps");
        assert!(!session.contains(&absent.id).expect("answers"));
        assert_not_found(&session.make_canary(&absent.id, &absent.blob));
        assert_not_found(&session.probe(&absent));
        assert_not_found(&session.wrap(&absent, b"", &[1; 32]));
        assert_not_found(&session.unwrap(&absent, b"", &wrapped));
    });
}

/// Key `b` under the identity of `a`, or `a` with the canary of `b`: neither wraps.
pub fn a_wrong_canary_makes_a_key_unfit(token: &Arc<dyn Token>) {
    with_key(token, |session, key| {
        with_key(token, |_, other| {
            let mixed = BackingKey {
                canary: other.canary.clone(),
                ..key.clone()
            };
            let wrapped = session.wrap(key, b"", &[1; 32]).expect("wraps");
            assert_unfit(&session.probe(&mixed));
            assert_unfit(&open(token).wrap(&mixed, b"", &[1; 32]));
            assert_unfit(&open(token).unwrap(&mixed, b"", &wrapped));
            // A session that has the right handle at hand is not fooled, either.
            session.probe(key).expect("opens");
            assert_unfit(&session.wrap(&mixed, b"", &[1; 32]));
        });
    });
}

/// Listed and contained exactly while it lives.
pub fn a_key_is_listed_until_it_is_destroyed(token: &Arc<dyn Token>) {
    let id = fresh_id();
    let mut session = open(token);
    assert!(!session.list_keys().expect("lists").contains(&id));
    session.generate_key(&id, "conformance").expect("generates");
    assert!(session.list_keys().expect("lists").contains(&id));
    assert!(open(token).contains(&id).expect("answers"));
    session.destroy_key(&id).expect("destroys");
    assert!(!open(token).list_keys().expect("lists").contains(&id));
    assert!(!open(token).contains(&id).expect("answers"));
}

/// What is gone is gone.
pub fn destroying_twice_is_harmless(token: &Arc<dyn Token>) {
    let mut session = open(token);
    let id = fresh_id();
    session.generate_key(&id, "conformance").expect("generates");
    session.destroy_key(&id).expect("destroys");
    session.destroy_key(&id).expect("is destroyed already");
}

/// Neither in the session that had its handle nor in another.
pub fn a_destroyed_key_unwraps_nothing(token: &Arc<dyn Token>) {
    let (id, mut session) = (fresh_id(), open(token));
    let key = new_key(session.as_mut(), id);
    let wrapped = session.wrap(&key, b"", &[1; 32]).expect("wraps");
    session.destroy_key(&id).expect("destroys");
    assert_not_found(&session.unwrap(&key, b"", &wrapped));
    assert_not_found(&open(token).unwrap(&key, b"", &wrapped));
}

/// The tools that make MACs which this token says it has: which those must be is for the tests of each token to say.
pub fn tools(token: &Arc<dyn Token>) -> Vec<ToolSpec> {
    obstacle_of_none(token, &ToolSpec::MACS)
}

/// Those of `specs` that nothing stands against.
fn obstacle_of_none(token: &Arc<dyn Token>, specs: &[ToolSpec]) -> Vec<ToolSpec> {
    let has = |spec: &ToolSpec| {
        let obstacle = open(token).tool_obstacle(*spec).expect("answers");
        obstacle.is_none()
    };
    specs.iter().copied().filter(has).collect()
}

fn refuses(token: &Arc<dyn Token>, spec: ToolSpec) {
    let id = fresh_id();
    let made = open(token).generate_tool(&id, spec, "conformance");
    assert!(matches!(made, Err(HsmError::Unsupported(_))), "{made:?}");
    assert!(!open(token).contains(&id).expect("answers"));
}

/// What it says that it cannot do, it does not half do.
pub fn a_tool_with_an_obstacle_is_not_made(token: &Arc<dyn Token>) {
    let tools = tools(token);
    for spec in ToolSpec::MACS {
        if tools.contains(&spec) {
            continue;
        }
        refuses(token, spec);
    }
}

/// And on nothing else.
pub fn a_mac_depends_on_key_and_message(token: &Arc<dyn Token>) {
    with_tools(token, |session, tool| {
        let ToolSpec::Hmac(hash) = tool.spec else {
            unreachable!("only MAC keys are asked for");
        };
        let mac = session.mac(tool, b"message").expect("makes");
        assert_eq!(mac.len(), hash.bytes());
        assert_eq!(session.mac(tool, b"message").expect("makes"), mac);
        assert_ne!(session.mac(tool, b"another").expect("makes"), mac);
        let other = new_tool(token, tool.spec);
        assert_ne!(session.mac(&other, b"message").expect("makes"), mac);
        open(token).destroy_key(&other.id).expect("destroys");
    });
}

/// It is of the key, not of the session.
pub fn a_mac_is_the_same_in_another_session(token: &Arc<dyn Token>) {
    with_tools(token, |session, tool| {
        let mac = session.mac(tool, b"message").expect("makes");
        assert_eq!(open(token).mac(tool, b"message").expect("makes"), mac);
    });
}

/// The limit itself, and one byte more.
pub fn a_message_is_taken_up_to_its_limit(token: &Arc<dyn Token>) {
    with_tools(token, |session, tool| {
        let message = [3; TOOL_INPUT_BYTES_MAX + 1];
        session
            .mac(tool, &message[..TOOL_INPUT_BYTES_MAX])
            .expect("makes");
        let beyond = session.mac(tool, &message);
        assert!(
            matches!(beyond, Err(HsmError::TooLong { bytes: 4097, .. })),
            "{beyond:?}"
        );
    });
}

/// A tool under the identity of another, and one that is not there.
pub fn a_wrong_proof_makes_a_tool_unfit(token: &Arc<dyn Token>) {
    with_tools(token, |session, tool| {
        let mut proof = tool.proof.as_bytes().to_vec();
        if let Some(byte) = proof.first_mut() {
            *byte ^= 1;
        }
        let mixed = ToolKey {
            proof: ToolProof::from_bytes(&proof).expect("short"),
            ..tool.clone()
        };
        assert_unfit(&session.probe_tool(&mixed));
        assert_unfit(&open(token).mac(&mixed, b"message"));
        // A session that has the right handle at hand is not fooled, either.
        session.probe_tool(tool).expect("is itself");
        assert_unfit(&session.mac(&mixed, b"message"));
        session.probe_tool(tool).expect("is itself");
        let absent = ToolKey {
            id: fresh_id(),
            ..tool.clone()
        };
        assert_not_found(&session.prove_tool(&absent.id, absent.spec, &KeyBlob::EMPTY));
        assert_not_found(&session.probe_tool(&absent));
        assert_not_found(&session.mac(&absent, b"message"));
    });
}

/// Neither another tool nor a key that wraps gets it, nor does a key's identity become a tool's.
pub fn an_identity_is_given_to_one_tool(token: &Arc<dyn Token>) {
    with_tools(token, |_, tool| {
        for again in [
            open(token)
                .generate_tool(&tool.id, tool.spec, "again")
                .map(|_blob| ()),
            open(token).generate_key(&tool.id, "again").map(|_blob| ()),
        ] {
            assert!(matches!(again, Err(HsmError::KeyExists(_))), "{again:?}");
        }
        open(token).probe_tool(tool).expect("is still itself");
    });
}

/// Listed and contained exactly while it lives, and of no use afterwards.
pub fn a_tool_is_listed_until_it_is_destroyed(token: &Arc<dyn Token>) {
    for spec in tools(token) {
        let tool = new_tool(token, spec);
        let (id, mut session) = (tool.id, open(token));
        session.mac(&tool, b"message").expect("makes");
        assert!(open(token).list_keys().expect("lists").contains(&id));
        assert!(open(token).contains(&id).expect("answers"));
        session.destroy_key(&id).expect("destroys");
        assert!(!open(token).list_keys().expect("lists").contains(&id));
        assert_not_found(&session.mac(&tool, b"message"));
        assert_not_found(&open(token).mac(&tool, b"message"));
    }
}

/// The ways to wrap material that this token undoes: which those must be is for the tests of each token to say.
pub fn unwraps(token: &Arc<dyn Token>) -> Vec<ImportWrapping> {
    let does = |wrapping: &ImportWrapping| {
        let spec = ToolSpec::Unwrap(RsaSize::Bits2048, *wrapping);
        let obstacle = open(token).tool_obstacle(spec).expect("answers");
        obstacle.is_none()
    };
    ImportWrapping::ALL.into_iter().filter(does).collect()
}

/// It wraps as the material does elsewhere, where the scheme can be done elsewhere; it is listed, lives in the token, and
/// is not taken for a key that the token has made.
pub fn an_imported_key_is_its_material(token: &Arc<dyn Token>) {
    with_unwrappers(token, |session, import| {
        let id = fresh_id();
        let blob = match session.import_key(import, Some((&id, "conformance"))) {
            Ok(blob) => blob,
            Err(HsmError::Unsupported(_)) => return assert_needs_more_than_material(token),
            Err(error) => panic!("{error:?}"),
        };
        let canary = open(token).make_canary(&id, &blob).expect("makes a canary");
        let key = BackingKey { id, blob, canary };
        let wrapped = open(token).wrap(&key, b"aad", &[9; 32]).expect("wraps");
        if let (Some(WrapScheme::AesGcm), Some((iv, sealed))) =
            (wrapped.scheme(), wrapped.body().split_first_chunk())
        {
            let here = UnboundKey::new(&AES_256_GCM, &MATERIAL).expect("32 bytes");
            let (nonce, mut sealed) = (Nonce::assume_unique_for_key(*iv), sealed.to_vec());
            let opened =
                LessSafeKey::new(here).open_in_place(nonce, Aad::from(b"aad"), &mut sealed);
            assert_eq!(opened.expect("opens"), [9; 32]);
        }
        assert!(open(token).list_keys().expect("lists").contains(&id));
        let again = open(token).import_key(import, Some((&id, "again")));
        assert!(matches!(again, Err(HsmError::KeyExists(_))), "{again:?}");
        open(token).destroy_key(&id).expect("destroys");
        assert!(!open(token).contains(&id).expect("answers"));
    });
}

/// Nor the other way round, as long as the token's word on the past of its keys is asked for: not part of
/// [`run_all`], since it is not asked for of a token that is used although it gives keys away.
pub fn an_imported_key_does_not_pass_for_a_made_one(token: &Arc<dyn Token>) {
    with_unwrappers(token, |session, import| {
        let id = fresh_id();
        let blob = session.import_key(import, Some((&id, "conformance")));
        let blob = blob.expect("imports");
        let canary = open(token).make_canary(&id, &blob).expect("makes a canary");
        let key = BackingKey { id, blob, canary };
        session.probe(&key).expect("opens");
        assert_unfit(&session.probe(&BackingKey {
            blob: KeyBlob::EMPTY,
            ..key.clone()
        }));
        with_key(token, |session, made| {
            assert_unfit(&session.probe(&BackingKey {
                blob: key.blob.clone(),
                ..made.clone()
            }));
        });
        open(token).destroy_key(&id).expect("destroys");
    });
}

/// Changed, cut and lengthened bytes, and material of another length; and nothing without its tool.
pub fn what_does_not_unwrap_is_not_imported(token: &Arc<dyn Token>) {
    with_unwrappers(token, |session, import| {
        if session.import_key(import, None).is_err() {
            return assert_needs_more_than_material(token);
        }
        let id = fresh_id();
        let (wrapped, last) = (&import.wrapped, import.wrapped.len() - 1);
        let mut changed = wrapped.clone();
        if let Some(byte) = changed.last_mut() {
            *byte ^= 1;
        }
        let cut = wrapped.get(..last).expect("is longer").to_vec();
        let longer = [wrapped.as_slice(), &[0; 8]].concat();
        for wrapped in [changed, cut, longer, Vec::new()] {
            let bad = Material {
                wrapped,
                ..import.clone()
            };
            assert_unauthentic(&session.import_key(&bad, Some((&id, "bad"))));
        }
        let ToolSpec::Unwrap(_, wrapping) = import.unwrapper.spec else {
            unreachable!("it unwraps");
        };
        let public = import.unwrapper.proof.as_bytes();
        let short = Material {
            wrapped: wrapping::wrap(public, wrapping, &[7; 16]).expect("wraps"),
            ..import.clone()
        };
        let refused = session.import_key(&short, Some((&id, "short")));
        assert!(
            matches!(refused, Err(HsmError::OtherMaterial)),
            "{refused:?}"
        );
        assert!(!open(token).contains(&id).expect("answers"));
        session.import_key(import, None).expect("unwraps");
        let mut absent = import.clone();
        absent.unwrapper.id = fresh_id();
        assert_not_found(&session.import_key(&absent, None));
        assert_unfit(&session.mac(&import.unwrapper, b"message"));
    });
}

/// By whether it opens the canary.
pub fn the_same_material_and_no_other_is_imported_again(token: &Arc<dyn Token>) {
    with_unwrappers(token, |session, import| {
        let (id, again) = (fresh_id(), fresh_id());
        let Ok(blob) = session.import_key(import, Some((&id, "conformance"))) else {
            return assert_needs_more_than_material(token);
        };
        let canary = open(token).make_canary(&id, &blob).expect("makes a canary");
        // The key itself may be gone.
        open(token).destroy_key(&id).expect("destroys");
        let same = Material {
            same_as: Some(BackingKey { id, blob, canary }),
            ..import.clone()
        };
        let blob = open(token).import_key(&same, Some((&again, "again")));
        let blob = blob.expect("is the same");
        open(token)
            .make_canary(&again, &blob)
            .expect("makes a canary");
        open(token).destroy_key(&again).expect("destroys");
        let ToolSpec::Unwrap(_, wrapping) = import.unwrapper.spec else {
            unreachable!("it unwraps");
        };
        let public = import.unwrapper.proof.as_bytes();
        let other = Material {
            wrapped: wrapping::wrap(public, wrapping, &[8; 32]).expect("wraps"),
            ..same
        };
        let refused = open(token).import_key(&other, Some((&again, "other")));
        assert!(
            matches!(refused, Err(HsmError::OtherMaterial)),
            "{refused:?}"
        );
        assert!(!open(token).contains(&again).expect("answers"));
    });
}

/// What the material of an import is.
const MATERIAL: [u8; 32] = [7; 32];

/// For each way to wrap that the token undoes, with [`MATERIAL`] wrapped so.
fn with_unwrappers(token: &Arc<dyn Token>, test: impl Fn(&mut dyn Session, &Material)) {
    for wrapping in unwraps(token) {
        let tool = new_tool(token, ToolSpec::Unwrap(RsaSize::Bits2048, wrapping));
        let public = tool.proof.as_bytes();
        let import = Material {
            wrapped: wrapping::wrap(public, wrapping, &MATERIAL).expect("wraps"),
            unwrapper: tool.clone(),
            same_as: None,
        };
        test(open(token).as_mut(), &import);
        open(token).destroy_key(&tool.id).expect("destroys");
        let gone = open(token).import_key(&import, None);
        if matches!(gone, Err(HsmError::Unsupported(_))) {
            assert_needs_more_than_material(token);
        } else {
            assert_not_found(&gone);
        }
    }
}

/// A token whose keys are two objects takes no material for one.
fn assert_needs_more_than_material(token: &Arc<dyn Token>) {
    with_key(token, |_, key| {
        assert_eq!(key.canary.0.scheme(), Some(WrapScheme::AesCbcHmac));
    });
}

/// Two draws of 32 bytes are not the same.
pub fn random_bytes_differ(token: &Arc<dyn Token>) {
    let (mut first, mut second) = ([0; 32], [0; 32]);
    let mut session = open(token);
    session.random(&mut first).expect("answers");
    session.random(&mut second).expect("answers");
    assert_ne!(first, second);
}

/// With a backend, and without a session of the caller's.
pub fn the_token_describes_itself(token: &Arc<dyn Token>) {
    let info = token.info().expect("answers");
    assert!(!info.backend.is_empty() && !info.label.is_empty() && !info.serial.is_empty());
}

fn with_key(token: &Arc<dyn Token>, test: impl FnOnce(&mut dyn Session, &BackingKey)) {
    let mut session = open(token);
    let key = new_key(session.as_mut(), fresh_id());
    test(session.as_mut(), &key);
    open(token).destroy_key(&key.id).expect("destroys");
}

fn new_key(session: &mut dyn Session, id: BackingKeyId) -> BackingKey {
    let blob = session.generate_key(&id, "conformance").expect("generates");
    let canary: Canary = session.make_canary(&id, &blob).expect("makes a canary");
    BackingKey { id, blob, canary }
}

fn with_tools(token: &Arc<dyn Token>, test: impl Fn(&mut dyn Session, &ToolKey)) {
    for spec in tools(token) {
        let mut session = open(token);
        let tool = new_tool(token, spec);
        test(session.as_mut(), &tool);
        open(token).destroy_key(&tool.id).expect("destroys");
    }
}

/// Made in sessions of its own: one in which nothing was done for long may have been logged out by another test.
fn new_tool(token: &Arc<dyn Token>, spec: ToolSpec) -> ToolKey {
    let id = fresh_id();
    let blob = open(token)
        .generate_tool(&id, spec, "conformance")
        .expect("generates");
    let proof = open(token)
        .prove_tool(&id, spec, &blob)
        .expect("makes a proof");
    ToolKey { id, spec, proof }
}

fn open(token: &Arc<dyn Token>) -> Box<dyn Session> {
    token.open_session().expect("a session opens")
}

fn fresh_id() -> BackingKeyId {
    BackingKeyId::random().expect("randomness")
}

fn assert_unauthentic<T: std::fmt::Debug>(result: &HsmResult<T>) {
    assert!(matches!(result, Err(HsmError::Unauthentic)), "{result:?}");
}

fn assert_not_found<T: std::fmt::Debug>(result: &HsmResult<T>) {
    assert!(
        matches!(result, Err(HsmError::KeyNotFound(_))),
        "{result:?}"
    );
}

fn assert_unfit<T: std::fmt::Debug>(result: &HsmResult<T>) {
    assert!(matches!(result, Err(HsmError::Unfit { .. })), "{result:?}");
}
