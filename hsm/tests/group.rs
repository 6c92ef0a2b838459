//! Groups of tokens that hold the same keys. Two `MemoryToken`s that are clones share their keys, as cloned tokens do.

use std::sync::Arc;
use std::time::Duration;

use strongroom_hsm::testing::fault::{Fault, FaultToken, Op};
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{
    BackingKey, BackingKeyId, Curve, GroupSettings, HashFunction, HsmError, HsmGroup, HsmHandle,
    HsmSettings, SecretBytes, SignatureAlgorithm, SigningKey, State, ToolSpec,
};

struct Member {
    faults: FaultToken,
    hsm: HsmHandle,
}

fn member(token: &MemoryToken) -> Member {
    let faults = FaultToken::new(Arc::new(token.clone()));
    let settings = HsmSettings {
        workers: 1,
        deadline: Duration::from_secs(2),
        ..HsmSettings::default()
    };
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings).expect("workers");
    Member { faults, hsm }
}

fn group(members: &[Member], quorum: usize) -> HsmGroup {
    let settings = GroupSettings {
        quorum,
        clone_wait: Duration::from_millis(500),
    };
    let members = members.iter().map(|member| member.hsm.clone()).collect();
    HsmGroup::new(members, settings).expect("a group")
}

fn id() -> BackingKeyId {
    BackingKeyId::random().expect("randomness")
}

async fn round_trip(group: &HsmGroup, key: &BackingKey) -> Result<(), HsmError> {
    let secret = SecretBytes::new(vec![7; 32]).expect("short");
    let wrapped = group.wrap(key, b"aad".to_vec(), secret).await?;
    let back = group.unwrap(key, b"aad".to_vec(), wrapped).await?;
    assert_eq!(back.expose(), [7; 32]);
    Ok(())
}

#[tokio::test]
async fn calls_are_spread_over_the_members() {
    let token = MemoryToken::new();
    let members = [member(&token), member(&token)];
    let group = group(&members, 2);
    let key = group.generate_key(id(), "spread").await.expect("a key");
    let before: Vec<_> = group.health().iter().map(|health| health.calls).collect();
    for _ in 0..20 {
        round_trip(&group, &key).await.expect("works");
    }
    for (now, before) in group.health().iter().zip(before) {
        assert_eq!(now.calls - before, 20);
    }
}

#[tokio::test]
async fn a_dead_member_is_passed_over_and_comes_back() {
    let token = MemoryToken::new();
    let members = [member(&token), member(&token)];
    let [first, _second] = &members;
    let group = group(&members, 2);
    let key = group.generate_key(id(), "spare").await.expect("a key");
    first.faults.always(Op::Open, Fault::Fail);
    first.faults.always(Op::Wrap, Fault::Fail);
    first.faults.always(Op::Unwrap, Fault::Fail);
    for _ in 0..20 {
        round_trip(&group, &key).await.expect("the other serves");
    }
    assert_ne!(first.hsm.health().state, State::Ready);
    assert_eq!(group.state(), State::Ready);
    first.faults.heal();
    let healed = async {
        while first.hsm.health().state != State::Ready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(6), healed)
        .await
        .expect("it comes back by itself");
    let before = first.hsm.health().calls;
    for _ in 0..20 {
        round_trip(&group, &key).await.expect("works");
    }
    assert!(first.hsm.health().calls >= before + 20);
}

#[tokio::test]
async fn a_key_that_is_not_cloned_is_not_used_and_not_left() {
    let (one, two) = (MemoryToken::new(), MemoryToken::new());
    let members = [member(&one), member(&two)];
    let group = group(&members, 2);
    let id = id();
    let refused = group.generate_key(id, "lonely").await;
    assert!(
        matches!(&refused, Err(HsmError::Unavailable { reason, .. }) if reason.contains("reached 1 members")),
        "{refused:?}"
    );
    assert!(!group.contains(id).await.expect("answers"));
}

/// A private key goes the way of every key: cloned it signs wherever, and otherwise it is not made.
#[tokio::test]
async fn a_pair_that_signs_is_in_every_member_or_not_made() {
    let spec = ToolSpec::Sign(SigningKey::Ec(Curve::P256));
    let algorithm = SignatureAlgorithm::Ecdsa(HashFunction::Sha256);
    let digest = algorithm.hash().digest(b"message");
    let token = MemoryToken::new();
    let members = [member(&token), member(&token)];
    let [first, _second] = &members;
    let cloned = group(&members, 2);
    let tool = cloned
        .generate_tool(id(), spec, "signs")
        .await
        .expect("a pair");
    cloned.holds_tool(&tool).await.expect("every member has it");
    first.faults.always(Op::Sign, Fault::Fail);
    for _ in 0..6 {
        let signed = cloned.sign(&tool, algorithm, &digest).await;
        let signature = signed.expect("the other signs");
        let public = tool.proof.as_bytes();
        assert!(SigningKey::Ec(Curve::P256).verifies(public, algorithm, &digest, &signature));
    }
    let apart = [member(&MemoryToken::new()), member(&MemoryToken::new())];
    let apart = group(&apart, 2);
    let lonely = id();
    let refused = apart.generate_tool(lonely, spec, "lonely").await;
    assert!(
        matches!(&refused, Err(HsmError::Unavailable { reason, .. }) if reason.contains("reached 1 members")),
        "{refused:?}"
    );
    assert!(!apart.contains(lonely).await.expect("answers"));
}

#[tokio::test]
async fn a_quorum_of_one_serves_from_the_member_that_has_the_key() {
    let (one, two) = (MemoryToken::new(), MemoryToken::new());
    let members = [member(&one), member(&two)];
    let group = group(&members, 1);
    let key = group.generate_key(id(), "one").await.expect("a key");
    for _ in 0..6 {
        round_trip(&group, &key).await.expect("works");
    }
    assert!(group.contains(key.id).await.expect("answers"));
    group.destroy_key(key.id).await.expect("destroyed");
    assert!(!group.contains(key.id).await.expect("answers"));
}

#[tokio::test]
async fn every_member_is_described_in_order() {
    let (one, two, three) = (MemoryToken::new(), MemoryToken::new(), MemoryToken::new());
    let members = [member(&one), member(&two), member(&three)];
    let group = group(&members, 1);
    two.set_present(false);
    let infos = group.infos().await;
    assert!(
        matches!(
            infos.as_slice(),
            [Ok(_), Err(HsmError::Unavailable { .. }), Ok(_)]
        ),
        "{infos:?}"
    );
}

#[tokio::test]
async fn a_word_about_the_callers_data_is_final() {
    let token = MemoryToken::new();
    let members = [member(&token), member(&token)];
    let group = group(&members, 2);
    let key = group.generate_key(id(), "final").await.expect("a key");
    let secret = SecretBytes::new(vec![7; 32]).expect("short");
    let wrapped = group
        .wrap(&key, b"mine".to_vec(), secret)
        .await
        .expect("wraps");
    let before: u64 = group.health().iter().map(|health| health.calls).sum();
    let refused = group.unwrap(&key, b"yours".to_vec(), wrapped).await;
    assert!(matches!(refused, Err(HsmError::Unauthentic)), "{refused:?}");
    let after: u64 = group.health().iter().map(|health| health.calls).sum();
    assert_eq!(after - before, 1);
}

#[tokio::test]
async fn a_key_is_missing_only_when_no_member_leaves_it_open() {
    let spec = ToolSpec::Hmac(HashFunction::Sha256);
    for down in [0, 1] {
        let (one, two) = (MemoryToken::new(), MemoryToken::new());
        let members = [member(&one), member(&two)];
        let group = group(&members, 1);
        // What neither has.
        let elsewhere = HsmGroup::from(member(&MemoryToken::new()).hsm);
        let key = elsewhere.generate_key(id(), "key").await.expect("a key");
        let tool = elsewhere.generate_tool(id(), spec, "tool").await;
        let tool = tool.expect("a tool");
        let missing = group.holds(std::slice::from_ref(&key)).await;
        assert!(
            matches!(missing, Err(HsmError::KeyNotFound(_))),
            "{missing:?}"
        );
        members[down].faults.always(Op::Probe, Fault::Fail);
        members[down].faults.always(Op::ProbeTool, Fault::Fail);
        for open in [group.holds(&[key]).await, group.holds_tool(&tool).await] {
            assert!(matches!(&open, Err(error) if error.is_outage()), "{open:?}");
        }
    }
}
