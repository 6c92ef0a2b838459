//! Rows that were tampered with are not used.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use strongroom_hsm::testing::fault::{Fault, Op};
use strongroom_hsm::{HsmHandle, HsmSettings};

use super::{Rig, account, may, round_trip};
use crate::auth::Resource;
use crate::kms::{KeyRef, KmsError};
use crate::meta::{Batch, KeyRange, Row, table};

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
    let begun = rig.kms.begin_sealing().await.expect("begun");
    let begun = begun.expect("not sealed yet");
    let sealing = rig.kms.commit_sealing(begun, Batch::new()).await;
    assert!(
        matches!(sealing, Err(KmsError::Unavailable(_))),
        "{sealing:?}"
    );
    rig.faults.heal();
    rig.restart();
    assert!(!rig.kms.has_sealed_all().await.expect("known"));
    round_trip(&rig.kms, &key).await.expect("as it was");
    let begun = rig.kms.begin_sealing().await.expect("begun");
    let begun = begun.expect("not sealed yet");
    let sealing = rig.kms.commit_sealing(begun, Batch::new()).await;
    assert!(sealing.expect("sealed"));
    let again = rig.kms.begin_sealing().await.expect("reads");
    assert!(again.is_none());
    rig.restart();
    round_trip(&rig.kms, &key).await.expect("as it was");
}

#[tokio::test]
async fn a_damaged_key_or_grant_keeps_no_other_from_being_listed() {
    let rig = Rig::new();
    let root = "arn:aws:iam::123456789012:root";
    let (damaged, lamed, whole) = (rig.key().await, rig.key().await, rig.key().await);
    for key in [&damaged, &lamed, &whole] {
        let grant = json!({
            "KeyId": key.as_str(), "GranteePrincipal": root, "RetiringPrincipal": root, "Operations": ["Decrypt"],
        });
        rig.api_ok("CreateGrant", grant).await;
    }
    for (table, key) in [
        (table::KMS_KEY, &damaged),
        (table::KMS_BACKING, &lamed),
        (table::KMS_GRANT, &lamed),
    ] {
        let rows = rig.rows(table).await;
        let of_key = |(row, _): &&Row| row[1..].starts_with(key.key_id().as_bytes());
        let (row, value) = rows.iter().find(of_key).expect("a row");
        let mut value = value.clone();
        value[0] ^= 1;
        rig.put(row, &value).await;
    }
    let listed = rig.api_ok("ListKeys", json!({})).await;
    let listed = listed["Keys"].as_array().expect("a list").iter();
    let mut listed: Vec<_> = listed.map(|key| key["KeyArn"].clone()).collect();
    let mut expected = [lamed.as_str(), whole.as_str()];
    listed.sort_by_key(ToString::to_string);
    expected.sort_unstable();
    assert_eq!(listed, expected);

    let retirable = json!({ "RetiringPrincipal": root });
    let grants = rig.api_ok("ListRetirableGrants", retirable).await;
    let grants = grants["Grants"].as_array().expect("a list").iter();
    let grants: Vec<_> = grants.map(|grant| grant["KeyId"].clone()).collect();
    assert_eq!(grants, [whole.as_str()]);

    let proof = may("strongroom:KeyInventory", Resource::Service);
    let entries = rig.kms.key_inventory(&proof, 100, None).await;
    let entries = entries.expect("a page").items;
    let keys: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.arn.as_ref())
        .collect();
    assert_eq!(keys, [&whole]);
}
