//! Crashes between token and records, and a token that is away.

use strongroom_hsm::testing::fault::{Fault, Op};

use super::{GENERATE, Rig, account, context, json, may_key, round_trip};
use crate::kms::KmsError;
use crate::meta::table;

#[tokio::test]
async fn a_key_generated_but_not_recorded_is_kept_and_reported_as_an_orphan() {
    let mut rig = Rig::new();
    rig.key().await;
    let before = rig.token_keys().await;
    rig.faults.once(Op::MakeCanary, 1, Fault::Fail);
    let (status, _) = rig.api("CreateKey", json!({})).await;
    assert_eq!(status, 500);
    assert_eq!(rig.token_keys().await, before + 1);
    assert_eq!(rig.rows(table::KMS_KEY).await.len(), 1);
    assert_eq!(rig.rows(table::KMS_INTENT).await.len(), 1);
    rig.restart();
    rig.kms.recover().await.expect("reported");
    rig.kms
        .destroy_due_keys()
        .await
        .expect("nothing is destroyed");
    assert_eq!(rig.token_keys().await, before + 1);
    assert_eq!(rig.rows(table::KMS_INTENT).await.len(), 1);
}

#[tokio::test]
async fn an_intent_without_an_object_is_ended_by_the_next_process() {
    let mut rig = Rig::new();
    rig.key().await;
    rig.faults.once(Op::Generate, 1, Fault::Fail);
    rig.api_error("CreateKey", json!({})).await;
    assert_eq!(rig.rows(table::KMS_INTENT).await.len(), 1);
    rig.kms.destroy_due_keys().await.expect("looks");
    assert_eq!(
        rig.rows(table::KMS_INTENT).await.len(),
        1,
        "it may yet come into being"
    );
    rig.restart();
    rig.kms.recover().await.expect("ended");
    assert!(rig.rows(table::KMS_INTENT).await.is_empty());
}

#[tokio::test]
async fn an_intent_of_this_process_is_ended_once_it_is_stale() {
    let rig = Rig::new();
    rig.key().await;
    rig.faults.once(Op::Generate, 1, Fault::Fail);
    rig.api_error("CreateKey", json!({})).await;
    rig.clock.shift_to(16 * 60);
    rig.kms.destroy_due_keys().await.expect("ended");
    assert!(rig.rows(table::KMS_INTENT).await.is_empty());
}

#[tokio::test]
async fn a_rotation_that_was_not_recorded_leaves_the_key_as_it_was() {
    let rig = Rig::new();
    let key = rig.key().await;
    rig.faults.once(Op::MakeCanary, 1, Fault::FailAfter);
    let input = json!({ "KeyId": key.as_str() });
    rig.api_error("RotateKeyOnDemand", input.clone()).await;
    round_trip(&rig.kms, &key).await.expect("version 1 serves");
    let rotations = rig.api_ok("ListKeyRotations", input.clone()).await;
    assert_eq!(rotations["Rotations"], json!([]));
    rig.api_ok("RotateKeyOnDemand", input).await;
    round_trip(&rig.kms, &key).await.expect("version 2 serves");
}

#[tokio::test]
async fn without_its_token_everything_is_unavailable_and_heals_by_itself() {
    let rig = Rig::new();
    let key = rig.key().await;
    rig.token.set_present(false);
    let result = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
        .await;
    assert!(
        matches!(&result, Err(error) if error.is_outage()),
        "{result:?}"
    );
    let (code, _) = rig.api_error("CreateKey", json!({})).await;
    assert_eq!(code, "KeyUnavailableException");
    assert!(
        rig.rows(table::KMS_INTENT).await.is_empty(),
        "nothing was begun"
    );
    rig.api_ok("DescribeKey", json!({ "KeyId": key.as_str() }))
        .await;
    rig.token.set_present(true);
    healed(&rig, &key).await;
}

#[tokio::test]
async fn a_start_without_the_token_works_and_heals_by_itself() {
    let mut rig = Rig::new();
    let key = rig.key().await;
    rig.token.set_present(false);
    rig.restart();
    rig.kms.recover().await.expect("starts");
    let result = rig.kms.resolve_default_s3_key(&account()).await;
    assert!(
        matches!(&result, Err(error) if error.is_outage()),
        "{result:?}"
    );
    rig.token.set_present(true);
    healed(&rig, &key).await;
}

/// A worker may need a moment to notice.
async fn healed(rig: &Rig, key: &crate::kms::KeyArn) {
    let mut result = round_trip(&rig.kms, key).await;
    for _ in 0..100 {
        match result {
            Ok(()) => return,
            Err(ref error) if error.is_outage() => {}
            Err(error) => panic!("{error:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        result = round_trip(&rig.kms, key).await;
    }
    panic!("did not heal: {result:?}");
}

#[tokio::test]
async fn a_bad_ciphertext_does_not_count_as_an_outage() {
    let rig = Rig::new();
    let key = rig.key().await;
    let (_, encrypted) = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
        .await
        .expect("a data key");
    let error = rig
        .kms
        .unwrap_data_key(
            &may_key("kms:Decrypt", &key),
            &encrypted,
            &context(&[("x", "y")]),
        )
        .await
        .expect_err("another context");
    assert!(matches!(error, KmsError::InvalidCiphertext) && !error.is_outage() && !error.is_ours());
}
