//! When keys were last used: what counts, what is kept, what policies and reports make of it.

use serde_json::{Value, json};

use super::{DAY, DECRYPT, GENERATE, Rig, context, may, may_key, text};
use crate::auth::Resource;
use crate::kms::KeyArn;
use crate::meta::{Batch, Row, table};

impl Rig {
    async fn last_usage(&self, key: &KeyArn) -> Value {
        let input = json!({ "KeyId": key.as_str() });
        self.api_ok("GetKeyLastUsage", input).await
    }

    async fn last_operation(&self, key: &KeyArn) -> Value {
        self.last_usage(key).await["KeyLastUsage"]["Operation"].clone()
    }

    /// From now on the key is disabled, and its deletion scheduled, only after 30 days without use.
    async fn only_if_unused(&self, key: &KeyArn) {
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [
                { "Effect": "Allow", "Principal": { "AWS": "arn:aws:iam::123456789012:root" }, "Action": "kms:*", "Resource": "*" },
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": ["kms:DisableKey", "kms:ScheduleKeyDeletion"],
                    "Resource": "*",
                    "Condition": { "NumericLessThan": { "kms:TrailingDaysWithoutKeyUsage": "30" } },
                },
            ],
        });
        let input = json!({ "KeyId": key.as_str(), "Policy": policy.to_string() });
        self.api_ok("PutKeyPolicy", input).await;
    }

    async fn encrypt(&self, key: &KeyArn) -> String {
        let input = json!({ "KeyId": key.as_str(), "Plaintext": "AA==" });
        text(&self.api_ok("Encrypt", input).await["CiphertextBlob"])
    }
}

#[tokio::test]
async fn a_key_that_was_never_used_says_so() {
    let rig = Rig::new();
    let key = rig.key().await;
    let told = rig.last_usage(&key).await;
    assert_eq!(told["KeyId"], key.key_id().to_string());
    assert_eq!(told["KeyLastUsage"], json!({}));
    assert_eq!(told["TrackingStartDate"], told["KeyCreationDate"]);
}

#[tokio::test]
async fn the_last_use_is_told_with_its_record_in_the_audit() {
    let rig = Rig::audited().await;
    let key = rig.key().await;
    let ciphertext = rig.encrypt(&key).await;
    let encrypted = rig.last_usage(&key).await;
    assert_eq!(encrypted["KeyLastUsage"]["Operation"], "Encrypt");
    assert_eq!(encrypted["KeyLastUsage"]["KmsRequestId"], "request-1");
    let event = rig
        .events()
        .into_iter()
        .find(|event| event["eventName"] == "Encrypt")
        .expect("recorded");
    assert_eq!(
        encrypted["KeyLastUsage"]["CloudTrailEventId"],
        event["eventID"]
    );
    rig.clock.shift_to(DAY);
    rig.api_ok("Decrypt", json!({ "CiphertextBlob": ciphertext }))
        .await;
    let decrypted = rig.last_usage(&key).await;
    assert_eq!(decrypted["KeyLastUsage"]["Operation"], "Decrypt");
    let when = |told: &Value| told["KeyLastUsage"]["Timestamp"].as_f64().expect("a time");
    let later = when(&decrypted) - when(&encrypted);
    assert!((86_400.0..86_460.0).contains(&later), "{later}");
}

#[tokio::test]
async fn both_keys_of_a_re_encryption_are_used() {
    let rig = Rig::new();
    let (from, to) = (rig.key().await, rig.key().await);
    let ciphertext = rig.encrypt(&from).await;
    let input = json!({ "CiphertextBlob": ciphertext, "DestinationKeyId": to.as_str() });
    rig.api_ok("ReEncrypt", input).await;
    assert_eq!(rig.last_operation(&from).await, "ReEncrypt");
    assert_eq!(rig.last_operation(&to).await, "ReEncrypt");
}

#[tokio::test]
async fn what_s3_does_with_a_key_is_a_use_of_it() {
    let rig = Rig::new();
    let key = rig.key().await;
    let context = context(&[("aws:s3:arn", "arn:aws:s3:::vault/a")]);
    let (_, encrypted) = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context)
        .await
        .expect("a data key");
    assert_eq!(rig.last_operation(&key).await, "GenerateDataKey");
    rig.clock.shift_to(1);
    let proof = may_key(DECRYPT, &key);
    let unwrapped = rig.kms.unwrap_data_key(&proof, &encrypted, &context);
    unwrapped.await.expect("the data key");
    assert_eq!(rig.last_operation(&key).await, "Decrypt");
}

#[tokio::test]
async fn what_fails_is_tried_out_or_only_described_is_no_use() {
    let rig = Rig::new();
    let key = rig.key().await;
    let id = json!({ "KeyId": key.as_str() });
    let dry = json!({ "KeyId": key.as_str(), "Plaintext": "AA==", "DryRun": true });
    let (code, _) = rig.api_error("Encrypt", dry).await;
    assert_eq!(code, "DryRunOperationException");
    rig.api_ok("DescribeKey", id.clone()).await;
    rig.api_ok("DisableKey", id.clone()).await;
    let input = json!({ "KeyId": key.as_str(), "Plaintext": "AA==" });
    let (code, _) = rig.api_error("Encrypt", input).await;
    assert_eq!(code, "DisabledException");
    assert_eq!(rig.last_usage(&key).await["KeyLastUsage"], json!({}));
}

#[tokio::test]
async fn a_use_that_is_written_outlives_the_process_and_one_that_is_not_does_not() {
    let mut rig = Rig::new();
    let (written, forgotten) = (rig.key().await, rig.key().await);
    rig.encrypt(&written).await;
    rig.kms.write_last_uses().await.expect("written");
    let before = rig.last_usage(&written).await;
    rig.encrypt(&forgotten).await;
    rig.clock.shift_to(DAY);
    rig.restart();
    assert_eq!(rig.last_usage(&written).await, before);
    let told = rig.last_usage(&forgotten).await;
    assert_eq!(told["KeyLastUsage"], json!({}));
    // Since the store keeps them, not since this process.
    assert_eq!(told["TrackingStartDate"], told["KeyCreationDate"]);
}

#[tokio::test]
async fn keys_that_are_older_than_the_records_of_uses_say_since_when() {
    let mut rig = Rig::new();
    let key = rig.key().await;
    rig.clock.shift_to(DAY);
    rig.restart();
    rig.kms.write_last_uses().await.expect("written");
    let told = rig.last_usage(&key).await;
    let [since, created] =
        ["TrackingStartDate", "KeyCreationDate"].map(|date| told[date].as_f64().expect("a date"));
    assert!(since >= created + 86_400.0, "{since} {created}");
}

#[tokio::test]
async fn a_key_that_goes_leaves_no_last_use() {
    let rig = Rig::new();
    let key = rig.key().await;
    rig.encrypt(&key).await;
    rig.kms.write_last_uses().await.expect("written");
    assert_eq!(rig.rows(table::KMS_LAST_USE).await.len(), 2);
    let input = json!({ "KeyId": key.as_str(), "PendingWindowInDays": 7 });
    rig.encrypt(&key).await;
    rig.api_ok("ScheduleKeyDeletion", input).await;
    rig.clock.shift_to(8 * DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("destroyed"), 1);
    rig.kms.write_last_uses().await.expect("written");
    assert_eq!(rig.rows(table::KMS_LAST_USE).await.len(), 1);
}

/// Damages a row that ends so.
async fn damage(rig: &Rig, table: u8, key: &KeyArn) {
    let rows = rig.rows(table).await;
    let of_key = |(row, _): &&Row| row.ends_with(key.key_id().as_bytes());
    let (row, value) = rows.iter().find(of_key).expect("a row");
    let mut value = value.clone();
    value[0] ^= 1;
    rig.put(row, &value).await;
}

#[tokio::test]
async fn a_damaged_last_use_is_not_believed_and_the_next_one_makes_it_good() {
    let mut rig = Rig::new();
    let (key, other) = (rig.key().await, rig.key().await);
    rig.encrypt(&key).await;
    rig.encrypt(&other).await;
    rig.kms.write_last_uses().await.expect("written");
    let rows = rig.rows(table::KMS_LAST_USE).await;
    let (of_key, _) = rows
        .iter()
        .find(|(row, _)| row.ends_with(key.key_id().as_bytes()))
        .expect("a row");
    let (_, of_other) = rows
        .iter()
        .find(|(row, _)| row.ends_with(other.key_id().as_bytes()))
        .expect("a row");
    // Another key's row, whole as it is.
    let put = Batch::new().put(of_key.clone(), of_other.clone());
    rig.meta.commit(put).await.expect("committed");
    rig.restart();
    let input = json!({ "KeyId": key.as_str() });
    let (code, _) = rig.api_error("GetKeyLastUsage", input).await;
    assert_eq!(code, "KMSInternalException");
    rig.encrypt(&key).await;
    rig.kms.write_last_uses().await.expect("written");
    assert_eq!(rig.last_operation(&key).await, "Encrypt");
}

#[tokio::test]
async fn a_damaged_last_use_keeps_no_key_from_its_end_and_counts_as_a_use_just_now() {
    let mut rig = Rig::new();
    let (key, asked) = (rig.key().await, rig.key().await);
    rig.only_if_unused(&asked).await;
    for key in [&key, &asked] {
        rig.encrypt(key).await;
    }
    rig.kms.write_last_uses().await.expect("written");
    for key in [&key, &asked] {
        damage(&rig, table::KMS_LAST_USE, key).await;
    }
    rig.clock.shift_to(50 * DAY);
    rig.restart();
    let proof = may("strongroom:KeyInventory", Resource::Service);
    let entries = rig.kms.key_inventory(&proof, 100, None).await;
    for entry in entries.expect("a page").items {
        assert!(entry.uses.is_none(), "{}", entry.name);
    }
    let schedule = |key: &KeyArn| json!({ "KeyId": key.as_str(), "PendingWindowInDays": 7 });
    let (code, _) = rig.api_error("ScheduleKeyDeletion", schedule(&asked)).await;
    assert_eq!(code, "AccessDeniedException");
    rig.api_ok("DisableKey", json!({ "KeyId": key.as_str() }))
        .await;
    rig.api_ok("ScheduleKeyDeletion", schedule(&key)).await;
    rig.clock.shift_to(60 * DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("destroys"), 1);
    assert_eq!(rig.rows(table::KMS_LAST_USE).await.len(), 2);
}

#[tokio::test]
async fn damage_to_one_key_or_to_the_beginning_keeps_no_use_of_another_from_the_records() {
    let mut rig = Rig::new();
    let (damaged, key) = (rig.key().await, rig.key().await);
    rig.kms.write_last_uses().await.expect("written");
    for key in [&damaged, &key] {
        rig.encrypt(key).await;
    }
    damage(&rig, table::KMS_KEY, &damaged).await;
    rig.put(&[table::KMS_LAST_USE], b"damaged").await;
    rig.kms.write_last_uses().await.expect("written");
    rig.restart();
    assert_eq!(rig.last_operation(&key).await, "Encrypt");
}

#[tokio::test]
async fn policies_can_ask_how_long_a_key_was_not_used() {
    let rig = Rig::new();
    let key = rig.key().await;
    rig.only_if_unused(&key).await;
    let disable = json!({ "KeyId": key.as_str() });
    let schedule = json!({ "KeyId": key.as_str(), "PendingWindowInDays": 7 });
    // It was made only just now.
    for (operation, input) in [("DisableKey", &disable), ("ScheduleKeyDeletion", &schedule)] {
        let (code, _) = rig.api_error(operation, input.clone()).await;
        assert_eq!(code, "AccessDeniedException", "{operation}");
    }
    rig.clock.shift_to(20 * DAY);
    rig.encrypt(&key).await;
    rig.clock.shift_to(50 * DAY - 60);
    let (code, _) = rig.api_error("ScheduleKeyDeletion", schedule.clone()).await;
    assert_eq!(code, "AccessDeniedException");
    rig.clock.shift_to(50 * DAY);
    rig.api_ok("ScheduleKeyDeletion", schedule).await;
}

#[tokio::test]
async fn the_record_of_a_scheduled_deletion_says_when_the_key_was_last_used() {
    let rig = Rig::audited().await;
    let (used, unused) = (rig.key().await, rig.key().await);
    rig.encrypt(&used).await;
    let scheduled = |key: &KeyArn| {
        let events = rig.events();
        let of_key = |event: &&Value| {
            event["eventName"] == "ScheduleKeyDeletion"
                && event["resources"][0]["ARN"] == key.as_str()
        };
        events.iter().find(of_key).expect("recorded")["additionalEventData"].clone()
    };
    for key in [&used, &unused] {
        rig.api_ok("ScheduleKeyDeletion", json!({ "KeyId": key.as_str() }))
            .await;
    }
    let told = scheduled(&used);
    assert_eq!(told["lastUsage"]["operation"], "Encrypt");
    let nothing = json!({ "objects": 0, "bytes": 0, "multipartUploads": 0 });
    assert_eq!(told["dependants"], nothing);
    let told = scheduled(&unused);
    assert_eq!(text(&told["lastUsage"]["noneSince"]).len(), 20);
}
