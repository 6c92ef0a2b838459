//! Rows that were tampered with are not used.

use std::sync::Arc;
use std::time::Duration;

use strongroom_hsm::testing::fault::{Fault, Op};
use strongroom_hsm::{HsmHandle, HsmSettings};

use super::{Rig, account, round_trip};
use crate::kms::{KeyRef, KmsError};
use crate::meta::{Batch, KeyRange, table};

#[tokio::test]
async fn a_row_with_a_changed_bit_is_refused() {
    for tampered in [table::KMS_KEY, table::KMS_BACKING] {
        let rig = Rig::new();
        let key = rig.key().await;
        for (row, stored) in rig.rows(tampered).await {
            for at in [0, stored.len() / 2, stored.len() - 1] {
                let mut changed = stored.clone();
                changed
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= 1);
                rig.put(&row, &changed).await;
                let result = round_trip(&rig.kms, &key).await;
                assert!(matches!(result, Err(KmsError::Damaged(_))), "{result:?}");
            }
            rig.put(&row, &stored).await;
        }
        round_trip(&rig.kms, &key).await.expect("as it was");
    }
}

#[tokio::test]
async fn the_backing_row_of_another_key_is_refused() {
    let rig = Rig::new();
    let (one, two) = (rig.key().await, rig.key().await);
    let rows = rig.rows(table::KMS_BACKING).await;
    let [(row_a, stored_a), (row_b, stored_b)] = rows.as_slice() else {
        panic!("two rows")
    };
    rig.put(row_a, stored_b).await;
    rig.put(row_b, stored_a).await;
    for key in [one, two] {
        let result = round_trip(&rig.kms, &key).await;
        assert!(matches!(result, Err(KmsError::Damaged(_))), "{result:?}");
    }
}

#[tokio::test]
async fn an_alias_pointed_elsewhere_on_the_disk_is_refused() {
    let rig = Rig::new();
    let (one, two) = (rig.key().await, rig.key().await);
    for (name, key) in [("alias/one", &one), ("alias/two", &two)] {
        let input = serde_json::json!({ "AliasName": name, "TargetKeyId": key.as_str() });
        rig.api_ok("CreateAlias", input).await;
    }
    let rows = rig.rows(table::KMS_ALIAS).await;
    let [(row, _), (_, other)] = rows.as_slice() else {
        panic!("two rows")
    };
    rig.put(row, other).await;
    let result = rig
        .kms
        .resolve(&account(), &KeyRef::parse("alias/one").expect("an alias"))
        .await;
    assert!(matches!(result, Err(KmsError::Damaged(_))), "{result:?}");
}

#[tokio::test]
async fn a_store_with_keys_but_without_its_mac_key_is_refused() {
    let mut rig = Rig::new();
    let key = rig.key().await;
    let keys_before = rig.token_keys().await;
    for (row, _) in rig.rows(table::KMS_INTERNAL).await {
        rig.meta
            .commit(Batch::new().delete(row))
            .await
            .expect("deleted");
    }
    rig.restart();
    let result = round_trip(&rig.kms, &key).await;
    assert!(matches!(result, Err(KmsError::Damaged(_))), "{result:?}");
    assert_eq!(rig.token_keys().await, keys_before);
}

#[tokio::test]
async fn the_mac_key_of_another_store_is_refused() {
    let mut rig = Rig::new();
    let key = rig.key().await;
    let other = Rig::new();
    other.key().await;
    let mac_row = other.rows(table::KMS_INTERNAL).await;
    for (row, stored) in mac_row {
        rig.put(&row, &stored).await;
    }
    rig.restart();
    // Its backing key is on another token.
    let result = round_trip(&rig.kms, &key).await;
    assert!(
        matches!(result, Err(KmsError::Unavailable(_))),
        "{result:?}"
    );
}

#[tokio::test]
async fn the_mac_key_is_loaded_again_after_a_restart() {
    let mut rig = Rig::new();
    let key = rig.key().await;
    let keys_before = rig.token_keys().await;
    rig.restart();
    round_trip(&rig.kms, &key).await.expect("reads");
    assert_eq!(rig.token_keys().await, keys_before);
}

#[tokio::test]
async fn one_damaged_key_does_not_keep_the_others_from_being_destroyed() {
    let rig = Rig::new();
    let (one, two) = (rig.key().await, rig.key().await);
    for key in [&one, &two] {
        let input = serde_json::json!({ "KeyId": key.as_str(), "PendingWindowInDays": 7 });
        rig.api_ok("ScheduleKeyDeletion", input).await;
    }
    let rows = rig.rows(table::KMS_KEY).await;
    let (row, stored) = rows.first().expect("a row");
    let mut changed = stored.clone();
    changed.reverse();
    rig.put(row, &changed).await;
    rig.clock.shift_to(8 * super::DAY);
    assert_eq!(
        rig.kms.destroy_due_keys().await.expect("one is destroyed"),
        1
    );
    let snapshot = rig.meta.snapshot().await.expect("a snapshot");
    let left = snapshot
        .scan(&KeyRange::prefix(&[table::KMS_KEY]), 9)
        .await
        .expect("rows");
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn a_wrap_of_the_mac_key_that_does_not_open_takes_no_place() {
    let mut rig = Rig::new();
    let key = rig.key().await;
    let settings = HsmSettings {
        workers: 2,
        queue: 256,
        deadline: Duration::from_secs(5),
        verify_wraps: false,
    };
    rig.hsm = HsmHandle::start(Arc::new(rig.faults.clone()), settings).expect("workers");
    rig.restart();
    rig.faults.always(Op::Wrap, Fault::Corrupt);
    let sealing = rig.kms.commit_sealing(Batch::new()).await;
    assert!(
        matches!(sealing, Err(KmsError::Unavailable(_))),
        "{sealing:?}"
    );
    rig.faults.heal();
    rig.restart();
    assert!(!rig.kms.has_sealed_all().await.expect("known"));
    round_trip(&rig.kms, &key).await.expect("as it was");
    assert!(rig.kms.commit_sealing(Batch::new()).await.expect("sealed"));
    rig.restart();
    round_trip(&rig.kms, &key).await.expect("as it was");
}
