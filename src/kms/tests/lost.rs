//! Material that a group of tokens seems to have lost: what takes its place, and what becomes of what is there still.

use strongroom_hsm::testing::fault::{Fault, FaultToken, Op};
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{
    BackingKey, BackingKeyId, GroupSettings, HsmGroup, HsmHandle, HsmSettings, State,
};

use super::import::{imported, plain};
use super::left::backing_id;
use super::materials::{encrypt, take, taken};
use super::{Arc, Duration, Kms, Rig, json};
use crate::meta::table as tables;

/// A second member beside the rig's token.
struct Member {
    faults: FaultToken,
    hsm: HsmHandle,
}

fn member(token: &MemoryToken) -> Member {
    let faults = FaultToken::new(Arc::new(token.clone()));
    let settings = HsmSettings {
        workers: 1,
        ..HsmSettings::default()
    };
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings).expect("workers");
    Member { faults, hsm }
}

/// The rig goes on with these members.
async fn regroup(rig: &mut Rig, members: Vec<HsmHandle>, quorum: usize) {
    for hsm in &members {
        ready(hsm).await;
    }
    let settings = GroupSettings {
        quorum,
        clone_wait: Duration::ZERO,
    };
    rig.kms = Arc::new(Kms::new(
        Arc::clone(&rig.meta),
        HsmGroup::new(members, settings).expect("a group"),
        Arc::new(rig.clock.clone()),
        rig.settings.clone(),
    ));
}

async fn ready(hsm: &HsmHandle) {
    let answers = async {
        while hsm.health().state != State::Ready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answers)
        .await
        .expect("it answers");
}

/// What a member answers about that holds nothing.
async fn another_key() -> BackingKey {
    let other = HsmGroup::from(member(&MemoryToken::new()).hsm);
    let id = BackingKeyId::random().expect("randomness");
    other.generate_key(id, "another").await.expect("a key")
}

#[tokio::test]
async fn material_is_not_lost_while_a_member_is_away() {
    let mut rig = Rig::new();
    let key = imported(&rig).await;
    let held = rig.token_keys().await;
    let other = member(&MemoryToken::with_serial("1"));
    let members = vec![rig.hsm.clone(), other.hsm.clone()];
    regroup(&mut rig, members, 1).await;
    rig.api_ok("Encrypt", plain(&key)).await;

    rig.token.set_present(false);
    let (status, body) = take(&rig, &key, 5, json!({})).await;
    assert_eq!(body["__type"], "KeyUnavailableException", "{status}");
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    // The pair.
    assert_eq!(other.hsm.list_keys().await.expect("a list").len(), 1);

    rig.token.set_present(true);
    ready(&rig.hsm).await;
    taken(&rig, &key, 5, json!({})).await;
    rig.api_ok(
        "DeleteImportedKeyMaterial",
        json!({ "KeyId": key["KeyId"] }),
    )
    .await;
    rig.clock.shift_to(2 * super::DAY);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(rig.token_keys().await, held - 1);
    assert_eq!(other.hsm.list_keys().await.expect("a list").len(), 0);
}

#[tokio::test]
async fn material_that_takes_the_place_of_what_one_member_has_lost_is_the_only_one() {
    let mut rig = Rig::new();
    let key = imported(&rig).await;
    let under = encrypt(&rig, &key).await;
    let first = backing_id(&rig, &key).await;
    let held = rig.token_keys().await;
    // A clone.
    let other = member(&rig.token);
    let members = vec![rig.hsm.clone(), other.hsm.clone()];
    regroup(&mut rig, members, 2).await;
    let not_there = Fault::WrongKey(another_key().await);
    other.faults.once(Op::Probe, 1, not_there);
    taken(&rig, &key, 5, json!({})).await;
    assert_ne!(backing_id(&rig, &key).await, first);
    assert!(!rig.hsm.contains(first).await.expect("answers"));
    assert_eq!(rig.token_keys().await, held);
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    assert_eq!(rig.api_ok("Decrypt", under).await["Plaintext"], "eA==");
}

/// As of a token that was restored from a copy into another device.
#[tokio::test]
async fn what_a_token_may_hold_that_is_not_there_is_destroyed_when_it_is_back() {
    let mut rig = Rig::new();
    let key = imported(&rig).await;
    let under = encrypt(&rig, &key).await;
    let first = backing_id(&rig, &key).await;
    let restored = MemoryToken::with_serial("1");
    rig.token.clone_keys_into(&restored);
    assert!(restored.lose(&first));
    let other = member(&restored);
    regroup(&mut rig, vec![other.hsm.clone()], 1).await;
    taken(&rig, &key, 5, json!({})).await;
    let under = [under, encrypt(&rig, &key).await];
    rig.kms.destroy_due_keys().await.expect("tends");
    rig.kms.recover().await.expect("recovers");
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 1);
    assert!(rig.hsm.contains(first).await.expect("answers"));

    let members = vec![other.hsm, rig.hsm.clone()];
    regroup(&mut rig, members, 1).await;
    rig.kms.destroy_due_keys().await.expect("tends");
    assert!(!rig.hsm.contains(first).await.expect("answers"));
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    for under in under {
        assert_eq!(rig.api_ok("Decrypt", under).await["Plaintext"], "eA==");
    }
}
