//! States of a key, from creation to destruction.

use strongroom_hsm::testing::fault::{Fault, Op};

use super::{DAY, DECRYPT, GENERATE, Rig, account, context, json, may_key, round_trip};
use crate::kms::{KeyRef, KmsError, WrongState};
use crate::meta::table;

const SCHEDULE: &str = "kms:ScheduleKeyDeletion";
const CANCEL: &str = "kms:CancelKeyDeletion";

#[tokio::test]
async fn a_disabled_key_neither_wraps_nor_unwraps_until_it_is_enabled() {
    let rig = Rig::new();
    let key = rig.key().await;
    let encrypted = rig.encrypted_data_key(&key).await;
    rig.kms
        .disable_key(&may_key("kms:DisableKey", &key), &key)
        .await
        .expect("disabled");
    let error = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
        .await;
    assert_eq!(
        error.expect_err("disabled").to_string(),
        format!("{key} is disabled.")
    );
    let error = rig
        .kms
        .unwrap_data_key(&may_key(DECRYPT, &key), &encrypted, &context(&[]))
        .await;
    assert!(matches!(error, Err(KmsError::Disabled(_))), "{error:?}");
    rig.kms
        .enable_key(&may_key("kms:EnableKey", &key), &key)
        .await
        .expect("enabled");
    rig.kms
        .unwrap_data_key(&may_key(DECRYPT, &key), &encrypted, &context(&[]))
        .await
        .expect("heals");
}

#[tokio::test]
async fn another_server_sees_a_disabled_key_at_once() {
    let rig = Rig::new();
    let key = rig.key().await;
    let other = rig.another();
    round_trip(&other, &key).await.expect("enabled");
    rig.kms
        .disable_key(&may_key("kms:DisableKey", &key), &key)
        .await
        .expect("disabled");
    assert!(matches!(
        round_trip(&other, &key).await,
        Err(KmsError::Disabled(_))
    ));
}

#[tokio::test]
async fn a_key_pending_deletion_is_of_no_use_and_cancelling_leaves_it_disabled() {
    let rig = Rig::new();
    let key = rig.key().await;
    rig.kms
        .schedule_key_deletion(&may_key(SCHEDULE, &key), &key, 7)
        .await
        .expect("scheduled");
    let error = round_trip(&rig.kms, &key)
        .await
        .expect_err("pending deletion");
    assert_eq!(error.to_string(), format!("{key} is pending deletion."));
    let again = rig
        .kms
        .schedule_key_deletion(&may_key(SCHEDULE, &key), &key, 7)
        .await;
    assert!(
        matches!(again, Err(KmsError::InvalidState { .. })),
        "{again:?}"
    );
    rig.kms
        .cancel_key_deletion(&may_key(CANCEL, &key), &key)
        .await
        .expect("cancelled");
    assert!(matches!(
        round_trip(&rig.kms, &key).await,
        Err(KmsError::Disabled(_))
    ));
    let again = rig
        .kms
        .cancel_key_deletion(&may_key(CANCEL, &key), &key)
        .await;
    let expected = matches!(
        again,
        Err(KmsError::InvalidState {
            state: WrongState::NotPendingDeletion,
            ..
        })
    );
    assert!(expected, "{again:?}");
}

#[tokio::test]
async fn a_key_is_destroyed_when_its_window_is_over_and_not_before() {
    let rig = Rig::new();
    let key = rig.key().await;
    let other = rig.key().await;
    rig.kms
        .rotate_key_on_demand(&may_key("kms:RotateKeyOnDemand", &key), &key)
        .await
        .expect("rotated");
    rig.api_ok(
        "CreateAlias",
        json!({ "AliasName": "alias/a", "TargetKeyId": key.as_str() }),
    )
    .await;
    rig.kms
        .schedule_key_deletion(&may_key(SCHEDULE, &key), &key, 7)
        .await
        .expect("scheduled");
    let before = rig.token_keys().await;
    rig.clock.shift_to(7 * DAY - 60);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("nothing is due"), 0);
    assert_eq!(rig.token_keys().await, before);
    rig.clock.shift_to(7 * DAY + 60);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("one is due"), 1);
    assert_eq!(rig.token_keys().await, before - 2);
    for name in [key.as_str(), "alias/a"] {
        let result = rig
            .kms
            .resolve(&account(), &KeyRef::parse(name).expect("a reference"))
            .await;
        assert!(matches!(result, Err(KmsError::NotFound(_))), "{result:?}");
    }
    assert_eq!(rig.rows(table::KMS_POLICY).await.len(), 1);
    assert_eq!(rig.rows(table::KMS_BACKING).await.len(), 1);
    round_trip(&rig.kms, &other)
        .await
        .expect("the other is untouched");
}

#[tokio::test]
async fn a_destruction_that_fails_half_way_is_finished_by_the_next_process() {
    let mut rig = Rig::new();
    let key = rig.key().await;
    rig.kms
        .rotate_key_on_demand(&may_key("kms:RotateKeyOnDemand", &key), &key)
        .await
        .expect("rotated");
    let before = rig.token_keys().await;
    rig.kms
        .schedule_key_deletion(&may_key(SCHEDULE, &key), &key, 7)
        .await
        .expect("scheduled");
    rig.clock.shift_to(8 * DAY);
    // The handle tries once more by itself.
    rig.faults.once(Op::Destroy, 2, Fault::Fail);
    rig.faults.once(Op::Destroy, 3, Fault::Fail);
    let error = rig
        .kms
        .destroy_due_keys()
        .await
        .expect_err("the second version is not destroyed");
    assert!(error.is_outage(), "{error:?}");
    assert_eq!(rig.token_keys().await, before - 1);
    // From here there is no way back.
    let cancelled = rig
        .kms
        .cancel_key_deletion(&may_key(CANCEL, &key), &key)
        .await;
    assert!(
        matches!(cancelled, Err(KmsError::InvalidState { .. })),
        "{cancelled:?}"
    );
    rig.faults.heal();
    rig.restart();
    assert_eq!(rig.kms.destroy_due_keys().await.expect("finished"), 1);
    assert_eq!(rig.token_keys().await, before - 2);
}

#[tokio::test]
async fn what_was_under_a_destroyed_key_says_that_the_key_is_gone() {
    let rig = Rig::new();
    let key = rig.key().await;
    let encrypted = rig.encrypted_data_key(&key).await;
    rig.kms
        .schedule_key_deletion(&may_key(SCHEDULE, &key), &key, 7)
        .await
        .expect("scheduled");
    rig.clock.shift_to(8 * DAY);
    rig.kms.destroy_due_keys().await.expect("destroyed");
    let error = rig
        .kms
        .unwrap_data_key(&may_key(DECRYPT, &key), &encrypted, &context(&[]))
        .await;
    assert_eq!(
        error.expect_err("gone").to_string(),
        format!("Key '{key}' does not exist")
    );
}

#[tokio::test]
async fn many_first_uses_make_one_default_key() {
    let rig = Rig::new();
    let other = rig.another();
    let of = account();
    let made = futures::future::join_all((0..16).map(|at| {
        let kms = if at % 2 == 0 { &rig.kms } else { &other };
        kms.resolve_default_s3_key(&of)
    }));
    let mut arns: Vec<_> = made
        .await
        .into_iter()
        .map(|arn| arn.expect("a key"))
        .collect();
    arns.dedup();
    assert_eq!(arns.len(), 1);
    assert_eq!(rig.rows(table::KMS_KEY).await.len(), 1);
    // The metadata MAC key and this one; what lost the race is gone again.
    assert_eq!(rig.token_keys().await, 2);
    assert!(rig.rows(table::KMS_INTENT).await.is_empty());
}

#[tokio::test]
async fn the_default_key_is_the_service_s_to_manage() {
    let rig = Rig::new();
    let key = rig
        .kms
        .resolve_default_s3_key(&account())
        .await
        .expect("a key");
    round_trip(&rig.kms, &key).await.expect("usable");
    let found = rig
        .kms
        .resolve(
            &account(),
            &KeyRef::parse("alias/aws/s3").expect("an alias"),
        )
        .await
        .expect("found");
    assert_eq!(found, key);
    let id = json!({ "KeyId": key.as_str() });
    for operation in [
        "DisableKey",
        "ScheduleKeyDeletion",
        "RotateKeyOnDemand",
        "DisableKeyRotation",
    ] {
        assert_eq!(
            rig.api_error(operation, id.clone()).await.0,
            "AccessDeniedException",
            "{operation}"
        );
    }
    let metadata = rig
        .api_ok("DescribeKey", json!({ "KeyId": "alias/aws/s3" }))
        .await;
    assert_eq!(metadata["KeyMetadata"]["KeyManager"], "AWS");
    let status = rig.api_ok("GetKeyRotationStatus", id).await;
    assert_eq!(status["KeyRotationEnabled"], true);
    assert_eq!(status["RotationPeriodInDays"], 365);
}
