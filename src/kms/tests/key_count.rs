//! The most keys of an account.

use serde_json::{Value, json};

use super::accounts::them;
use super::{DAY, Rig};
use crate::meta::{Batch, table};

impl Rig {
    fn with_at_most(keys: u32) -> Self {
        let mut rig = Self::new();
        rig.settings.keys_per_account_max = keys;
        rig.restart();
        rig
    }

    async fn is_refused(&self) -> bool {
        let (status, body) = self.api("CreateKey", json!({})).await;
        if status != 200 {
            assert_eq!(body["__type"], "LimitExceededException", "{body}");
        }
        status != 200
    }

    async fn destroy_all(&self, keys: &[Value], day: i64) {
        for key in keys {
            let schedule = json!({ "KeyId": key, "PendingWindowInDays": 7 });
            self.api_ok("ScheduleKeyDeletion", schedule).await;
        }
        self.clock.shift_to(day * DAY);
        let destroyed = self.kms.destroy_due_keys().await.expect("destroys");
        assert_eq!(destroyed, keys.len());
    }

    async fn made(&self) -> Value {
        self.api_ok("CreateKey", json!({})).await["KeyMetadata"]["KeyId"].clone()
    }
}

#[tokio::test]
async fn an_account_has_as_many_keys_as_it_may_and_no_more_until_one_is_gone() {
    let rig = Rig::with_at_most(3);
    let keys = [rig.made().await, rig.made().await, rig.made().await];
    let held = rig.token_keys().await;
    assert!(rig.is_refused().await);
    for more in [
        json!({ "Origin": "EXTERNAL" }),
        json!({ "KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC" }),
    ] {
        let (code, _) = rig.api_error("CreateKey", more).await;
        assert_eq!(code, "LimitExceededException");
    }
    assert_eq!(rig.token_keys().await, held);
    assert!(rig.rows(table::KMS_INTENT).await.is_empty());
    // Of another account there is none yet.
    let (status, body) = rig.api_as(&them(), "CreateKey", json!({})).await;
    assert_eq!(status, 200, "{body}");
    // What the service makes counts, and is not refused.
    let default = rig.kms.resolve_default_s3_key(rig.kms.account()).await;
    default.expect("a key");
    // A key that is on its way out is there until it is gone.
    let [first, second, _] = &keys;
    rig.destroy_all(std::slice::from_ref(first), 8).await;
    assert!(rig.is_refused().await);
    rig.destroy_all(std::slice::from_ref(second), 16).await;
    rig.made().await;
    assert!(rig.is_refused().await);
}

#[tokio::test]
async fn keys_of_a_store_without_their_number_or_with_a_damaged_one_are_counted() {
    let rig = Rig::with_at_most(3);
    let keys = [rig.made().await, rig.made().await, rig.made().await];
    let (status, _) = rig.api_as(&them(), "CreateKey", json!({})).await;
    assert_eq!(status, 200);
    let (row, mut count) = rig.rows(table::KMS_KEY_COUNT).await.swap_remove(0);
    count[0] ^= 1;
    let forget = || async {
        for (row, _) in rig.rows(table::KMS_KEY_COUNT).await {
            let gone = Batch::new().delete(row);
            rig.meta.commit(gone).await.expect("committed");
        }
    };
    forget().await;
    assert!(rig.is_refused().await);
    rig.put(&row, &count).await;
    assert!(rig.is_refused().await);
    let [first, second, _] = &keys;
    rig.destroy_all(std::slice::from_ref(first), 8).await;
    rig.made().await;
    assert!(rig.is_refused().await);
    forget().await;
    rig.destroy_all(std::slice::from_ref(second), 16).await;
    rig.made().await;
    assert!(rig.is_refused().await);
}

#[tokio::test]
async fn keys_that_are_made_at_the_same_time_are_all_counted() {
    let rig = Rig::with_at_most(60);
    let made = (0..64).map(|_| rig.is_refused());
    let refused = futures::future::join_all(made).await;
    assert_eq!(refused.iter().filter(|refused| **refused).count(), 4);
    assert_eq!(rig.rows(table::KMS_KEY).await.len(), 60);
}
