//! Rotation, by whoever and whatever causes it.

use strongroom_hsm::DataKey;
use strongroom_hsm::testing::fault::{Fault, Op};

use super::{DAY, DECRYPT, GENERATE, Rig, context, json, may_key, round_trip};
use crate::kms::{InternalKey, KmsError, ON_DEMAND_ROTATIONS_MAX};

const ROTATE: &str = "kms:RotateKeyOnDemand";

#[tokio::test]
async fn old_and_new_data_keys_both_open_after_a_rotation() {
    let rig = Rig::new();
    let key = rig.key().await;
    let before = rig.token_keys().await;
    let old = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
        .await
        .expect("old")
        .1;
    rig.kms
        .rotate_key_on_demand(&may_key(ROTATE, &key), &key)
        .await
        .expect("rotated");
    assert_eq!(rig.token_keys().await, before + 1);
    let new = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
        .await
        .expect("new")
        .1;
    assert_eq!((old.backing_version(), new.backing_version()), (1, 2));
    for encrypted in [old, new] {
        rig.kms
            .unwrap_data_key(&may_key(DECRYPT, &key), &encrypted, &context(&[]))
            .await
            .expect("opens");
    }
}

#[tokio::test]
async fn on_demand_rotations_end_at_their_limit() {
    let rig = Rig::new();
    let key = rig.key().await;
    for _ in 0..ON_DEMAND_ROTATIONS_MAX {
        rig.kms
            .rotate_key_on_demand(&may_key(ROTATE, &key), &key)
            .await
            .expect("within the limit");
    }
    let before = rig.token_keys().await;
    let error = rig
        .kms
        .rotate_key_on_demand(&may_key(ROTATE, &key), &key)
        .await
        .expect_err("beyond");
    assert!(matches!(error, KmsError::LimitExceeded(_)), "{error:?}");
    assert_eq!(rig.token_keys().await, before);
}

#[tokio::test]
async fn each_of_several_rotations_at_once_counts() {
    let rig = Rig::new();
    let key = rig.key().await;
    let other = rig.another();
    let proof = may_key(ROTATE, &key);
    let (one, two) = tokio::join!(
        rig.kms.rotate_key_on_demand(&proof, &key),
        other.rotate_key_on_demand(&proof, &key)
    );
    one.expect("rotated");
    two.expect("rotated");
    let rotations = rig
        .api_ok("ListKeyRotations", json!({ "KeyId": key.as_str() }))
        .await;
    assert_eq!(rotations["Rotations"].as_array().expect("a list").len(), 2);
    // The metadata MAC key and three versions: a key that lost the race was destroyed.
    assert_eq!(rig.token_keys().await, 4);
}

#[tokio::test]
async fn the_limit_of_wraps_forces_a_rotation_that_does_not_count() {
    let rig = Rig::with(6, 2);
    let key = rig.key().await;
    let mut versions = Vec::new();
    for _ in 0..8 {
        let (_, encrypted) = rig
            .kms
            .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
            .await
            .expect("wrapped");
        versions.push(encrypted.backing_version());
    }
    // The fifth takes the last block, for itself, and rotates.
    assert_eq!(versions, [1, 1, 1, 1, 1, 2, 2, 2]);
    let rotations = rig
        .api_ok("ListKeyRotations", json!({ "KeyId": key.as_str() }))
        .await;
    assert_eq!(rotations["Rotations"][0]["RotationType"], "AUTOMATIC");
    for _ in 0..ON_DEMAND_ROTATIONS_MAX {
        rig.kms
            .rotate_key_on_demand(&may_key(ROTATE, &key), &key)
            .await
            .expect("within the limit");
    }
}

#[tokio::test]
async fn no_backing_key_wraps_more_than_it_may_even_if_rotation_fails() {
    let rig = Rig::with(4, 2);
    let key = rig.key().await;
    rig.faults.always(Op::Generate, Fault::Fail);
    let proof = may_key(GENERATE, &key);
    for at in 0..4 {
        let result = rig.kms.generate_data_key(&proof, &key, &context(&[])).await;
        assert_eq!(
            result.expect("within the limit").1.backing_version(),
            1,
            "wrap {at}"
        );
    }
    let error = rig
        .kms
        .generate_data_key(&proof, &key, &context(&[]))
        .await
        .expect_err("beyond the limit");
    assert!(error.is_outage(), "{error:?}");
    rig.faults.heal();
    let (_, encrypted) = rig
        .kms
        .generate_data_key(&proof, &key, &context(&[]))
        .await
        .expect("rotated");
    assert_eq!(encrypted.backing_version(), 2);
}

#[tokio::test]
async fn a_restart_never_counts_a_wrap_twice() {
    let mut rig = Rig::with(4, 2);
    let key = rig.key().await;
    rig.faults.always(Op::Generate, Fault::Fail);
    for _ in 0..2 {
        rig.restart();
        round_trip(&rig.kms, &key)
            .await
            .expect("the first of its block");
    }
    rig.restart();
    assert!(
        round_trip(&rig.kms, &key).await.is_err(),
        "both blocks are reserved"
    );
}

#[tokio::test]
async fn internal_keys_rotate_at_the_limit_too() {
    let rig = Rig::with(2, 1);
    let data_key = DataKey::random().expect("randomness");
    let mut wraps = Vec::new();
    for _ in 0..4 {
        wraps.push(
            rig.kms
                .wrap_internal(InternalKey::SseS3, b"x", &data_key)
                .await
                .expect("wrapped"),
        );
    }
    for wrapped in &wraps {
        let read = rig
            .kms
            .unwrap_internal(InternalKey::SseS3, b"x", wrapped)
            .await
            .expect("opens");
        assert_eq!(read.expose(), data_key.expose());
    }
    // The metadata MAC key, and three versions for four wraps of two each: the last one is rotated ahead.
    assert_eq!(rig.token_keys().await, 4);
}

#[tokio::test]
async fn many_wraps_at_once_stay_within_the_limit() {
    let rig = Rig::with(10, 3);
    let key = rig.key().await;
    let (proof, context) = (may_key(GENERATE, &key), context(&[]));
    let wraps = futures::future::join_all(
        (0..40).map(|_| rig.kms.generate_data_key(&proof, &key, &context)),
    )
    .await;
    let mut per_version = std::collections::BTreeMap::new();
    for wrap in wraps {
        *per_version
            .entry(wrap.expect("wrapped").1.backing_version())
            .or_insert(0) += 1;
    }
    assert!(
        per_version.values().all(|count| *count <= 10),
        "{per_version:?}"
    );
}

#[tokio::test]
async fn a_schedule_rotates_when_its_time_has_come() {
    let rig = Rig::new();
    let key = rig.key().await;
    let id = json!({ "KeyId": key.as_str() });
    rig.api_ok(
        "EnableKeyRotation",
        json!({ "KeyId": key.as_str(), "RotationPeriodInDays": 90 }),
    )
    .await;
    let next = rig.api_ok("GetKeyRotationStatus", id.clone()).await["NextRotationDate"].clone();
    assert_eq!(rig.kms.rotate_due_keys().await.expect("not yet"), 0);
    rig.clock.shift_to(91 * DAY);
    assert_eq!(rig.kms.rotate_due_keys().await.expect("due"), 1);
    assert_eq!(rig.kms.rotate_due_keys().await.expect("done"), 0);
    let after = rig.api_ok("GetKeyRotationStatus", id.clone()).await["NextRotationDate"].clone();
    let (next, after) = (
        next.as_f64().expect("a time"),
        after.as_f64().expect("a time"),
    );
    assert!(
        (after - next - 90.0 * 86_400.0).abs() < 0.01,
        "the schedule keeps its days"
    );
    let rotations = rig.api_ok("ListKeyRotations", id).await;
    assert_eq!(rotations["Rotations"][0]["RotationType"], "AUTOMATIC");
}

#[tokio::test]
async fn a_disabled_key_is_not_rotated_by_its_schedule() {
    let rig = Rig::new();
    let key = rig.key().await;
    rig.api_ok(
        "EnableKeyRotation",
        json!({ "KeyId": key.as_str(), "RotationPeriodInDays": 90 }),
    )
    .await;
    rig.api_ok("DisableKey", json!({ "KeyId": key.as_str() }))
        .await;
    rig.clock.shift_to(400 * DAY);
    assert_eq!(rig.kms.rotate_due_keys().await.expect("none"), 0);
    rig.api_ok("EnableKey", json!({ "KeyId": key.as_str() }))
        .await;
    assert_eq!(rig.kms.rotate_due_keys().await.expect("at once"), 1);
}
