//! The contract of pairs that sign.

use std::sync::Arc;

use super::{
    assert_not_found, assert_unfit, fresh_id, new_key, new_tool, obstacle_of_none, open, refuses,
};
use crate::{
    HsmError, KeyBlob, Session, SignatureAlgorithm, SigningKey, Token, ToolKey, ToolProof, ToolSpec,
};

/// Every test of pairs that sign.
pub(super) fn run_all(token: &Arc<dyn Token>) {
    a_signer_with_an_obstacle_is_not_made(token);
    a_signature_verifies_and_no_other_does(token);
    a_pair_signs_in_another_session(token);
    a_digest_has_the_length_of_its_hash(token);
    another_pairs_public_half_makes_a_signer_unfit(token);
    an_identity_is_given_to_one_signer(token);
    a_signer_is_listed_until_it_is_destroyed(token);
}

/// The pairs that sign which this token says it has: which those must be is for the tests of each token to say.
pub fn signers(token: &Arc<dyn Token>) -> Vec<ToolSpec> {
    obstacle_of_none(token, &ToolSpec::SIGNERS)
}

/// What it says that it cannot do, it does not half do.
pub fn a_signer_with_an_obstacle_is_not_made(token: &Arc<dyn Token>) {
    let signers = signers(token);
    for spec in ToolSpec::SIGNERS {
        if !signers.contains(&spec) {
            refuses(token, spec);
        }
    }
}

/// Of this digest, by this pair, by this algorithm; and so for every algorithm that the pair has.
pub fn a_signature_verifies_and_no_other_does(token: &Arc<dyn Token>) {
    with_signers(token, |session, tool, key| {
        let public = tool.proof.as_bytes();
        for algorithm in key.algorithms().iter().copied() {
            let digest = algorithm.hash().digest(b"message");
            let signature = session.sign(tool, algorithm, &digest).expect("signs");
            assert!(key.verifies(public, algorithm, &digest, &signature));
            let other = algorithm.hash().digest(b"another");
            assert!(!key.verifies(public, algorithm, &other, &signature));
            for at in [0, signature.len() / 2, signature.len() - 1] {
                let mut changed = signature.clone();
                *changed.get_mut(at).expect("is within") ^= 1;
                assert!(!key.verifies(public, algorithm, &digest, &changed));
            }
            for other in key.algorithms().iter().filter(|other| **other != algorithm) {
                let digest = other.hash().digest(b"message");
                assert!(!key.verifies(public, *other, &digest, &signature));
            }
        }
        for algorithm in SignatureAlgorithm::ALL {
            if !key.algorithms().contains(&algorithm) {
                let digest = algorithm.hash().digest(b"message");
                assert_unfit(&session.sign(tool, algorithm, &digest));
            }
        }
        assert_unfit(&session.mac(tool, b"message"));
    });
}

/// It is the token's, not the session's.
pub fn a_pair_signs_in_another_session(token: &Arc<dyn Token>) {
    with_signers(token, |_session, tool, key| {
        let algorithm = key.canary_algorithm();
        let digest = algorithm.hash().digest(b"message");
        let signature = open(token).sign(tool, algorithm, &digest).expect("signs");
        assert!(key.verifies(tool.proof.as_bytes(), algorithm, &digest, &signature));
    });
}

/// One byte less, and one more.
pub fn a_digest_has_the_length_of_its_hash(token: &Arc<dyn Token>) {
    with_signers(token, |session, tool, key| {
        for algorithm in key.algorithms().iter().copied() {
            let right = algorithm.hash().bytes();
            for wrong in [0, right - 1, right + 1] {
                let refused = session.sign(tool, algorithm, &vec![7; wrong]);
                assert!(
                    matches!(refused, Err(HsmError::TooLong { what: "digest", .. })),
                    "{refused:?}"
                );
            }
            session
                .sign(tool, algorithm, &vec![7; right])
                .expect("signs");
        }
    });
}

/// A pair under the identity of another, a public half that is none, and a pair that is not there.
pub fn another_pairs_public_half_makes_a_signer_unfit(token: &Arc<dyn Token>) {
    with_signers(token, |session, tool, key| {
        let algorithm = key.canary_algorithm();
        let digest = algorithm.hash().digest(b"message");
        let other = new_tool(token, tool.spec);
        let none = ToolProof::from_bytes(b"none").expect("is short");
        for proof in [other.proof.clone(), none] {
            let mixed = ToolKey {
                proof,
                ..tool.clone()
            };
            assert_unfit(&session.probe_tool(&mixed));
            assert_unfit(&open(token).sign(&mixed, algorithm, &digest));
            // Nor is it used because the right one was used a moment ago.
            session.probe_tool(tool).expect("is itself");
            assert_unfit(&session.sign(&mixed, algorithm, &digest));
            session.probe_tool(tool).expect("is itself");
        }
        open(token).destroy_key(&other.id).expect("destroys");
        let absent = ToolKey {
            id: fresh_id(),
            ..tool.clone()
        };
        assert_not_found(&session.prove_tool(&absent.id, absent.spec, &KeyBlob::EMPTY));
        assert_not_found(&session.probe_tool(&absent));
        assert_not_found(&session.sign(&absent, algorithm, &digest));
    });
}

/// Neither another pair nor a key that wraps gets it.
pub fn an_identity_is_given_to_one_signer(token: &Arc<dyn Token>) {
    with_signers(token, |_session, tool, _key| {
        let again = open(token).generate_tool(&tool.id, tool.spec, "again");
        let wraps = open(token).generate_key(&tool.id, "again");
        for made in [again, wraps] {
            assert!(matches!(made, Err(HsmError::KeyExists(_))), "{made:?}");
        }
        open(token).probe_tool(tool).expect("is still itself");
    });
}

/// And signs no more then, in whatever session.
pub fn a_signer_is_listed_until_it_is_destroyed(token: &Arc<dyn Token>) {
    let wraps = new_key(open(token).as_mut(), fresh_id());
    with_signers(token, |session, tool, key| {
        let algorithm = key.canary_algorithm();
        let digest = algorithm.hash().digest(b"message");
        session.sign(tool, algorithm, &digest).expect("signs");
        assert!(session.contains(&tool.id).expect("answers"));
        assert!(session.list_keys().expect("lists").contains(&tool.id));
        session.destroy_key(&tool.id).expect("destroys");
        assert!(!session.contains(&tool.id).expect("answers"));
        assert!(!session.list_keys().expect("lists").contains(&tool.id));
        assert_not_found(&session.sign(tool, algorithm, &digest));
        assert_not_found(&open(token).sign(tool, algorithm, &digest));
        // A key that wraps signs nothing.
        let wraps = ToolKey {
            id: wraps.id,
            ..tool.clone()
        };
        let refused = open(token).sign(&wraps, algorithm, &digest);
        assert!(
            matches!(
                refused,
                Err(HsmError::Unfit { .. } | HsmError::KeyNotFound(_))
            ),
            "{refused:?}"
        );
    });
    open(token).destroy_key(&wraps.id).expect("destroys");
}

fn with_signers(token: &Arc<dyn Token>, test: impl Fn(&mut dyn Session, &ToolKey, SigningKey)) {
    for spec in signers(token) {
        let ToolSpec::Sign(key) = spec else {
            unreachable!("only pairs that sign are asked for");
        };
        // One RSA pair is as good as another here, and takes a second or more to make.
        if matches!(key, SigningKey::Rsa(size) if size.bytes() > RSA_BYTES_TESTED) {
            continue;
        }
        let mut session = open(token);
        let tool = new_tool(token, spec);
        test(session.as_mut(), &tool, key);
        open(token).destroy_key(&tool.id).expect("destroys");
    }
}

/// The largest RSA pair that every test is run with. That larger ones are made and sign is one test's of each token.
const RSA_BYTES_TESTED: usize = 256;

/// A pair of this kind is made, signs and goes.
pub fn a_pair_is_made_and_signs(token: &Arc<dyn Token>, key: SigningKey) {
    let tool = new_tool(token, ToolSpec::Sign(key));
    for algorithm in key.algorithms().iter().copied() {
        let digest = algorithm.hash().digest(b"message");
        let signature = open(token).sign(&tool, algorithm, &digest).expect("signs");
        assert!(key.verifies(tool.proof.as_bytes(), algorithm, &digest, &signature));
    }
    open(token).destroy_key(&tool.id).expect("destroys");
}
