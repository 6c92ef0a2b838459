//! Keys that others hold in memory: the questions before each use answer as the use itself would.

use std::mem::discriminant;
use std::sync::Mutex;

use super::*;
use crate::kms::{KeyId, KeyWatch};

#[derive(Debug, Default)]
struct Told(Mutex<Vec<KeyId>>);

impl KeyWatch for Told {
    fn changed(&self, key: KeyId) {
        self.0.lock().expect("not poisoned").push(key);
    }
}

/// Asks both questions, and does both things.
async fn same(kms: &Kms, key: &KeyArn, encrypted: &crate::kms::EncryptedDataKey, context: &str) {
    let (generate, decrypt) = (may_key(GENERATE, key), may_key(DECRYPT, key));
    let none = EncryptionContext::default();
    let outcomes = [
        (
            kms.check_generates(&generate, key).await.map(|_version| ()),
            kms.generate_data_key(&generate, key, &none)
                .await
                .map(|_made| ()),
        ),
        (
            kms.check_decrypts(&decrypt, encrypted).await,
            kms.unwrap_data_key(&decrypt, encrypted, &none)
                .await
                .map(|_key| ()),
        ),
    ];
    for (asked, done) in outcomes {
        assert_eq!(
            asked.as_ref().map_err(discriminant),
            done.as_ref().map_err(discriminant),
            "{context}: {asked:?} and {done:?}"
        );
        let words =
            |outcome: &Result<(), KmsError>| outcome.as_ref().err().map(ToString::to_string);
        assert_eq!(words(&asked), words(&done), "{context}");
    }
}

#[tokio::test]
async fn in_every_state_the_question_is_answered_as_the_use_is() {
    let rig = Rig::new();
    let key = rig.key().await;
    let (kms, none) = (&rig.kms, EncryptionContext::default());
    let encrypted = kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &none)
        .await
        .expect("made")
        .1;
    let told = Arc::new(Told::default());
    let watch: Arc<dyn KeyWatch> = told.clone();
    kms.watch(Arc::downgrade(&watch));
    let count = || told.0.lock().expect("not poisoned").len();

    same(kms, &key, &encrypted, "enabled").await;
    assert_eq!(count(), 0);
    kms.disable_key(&may_key("kms:DisableKey", &key), &key)
        .await
        .expect("disabled");
    same(kms, &key, &encrypted, "disabled").await;
    assert_eq!(count(), 1);
    kms.schedule_key_deletion(&may_key("kms:ScheduleKeyDeletion", &key), &key, 7)
        .await
        .expect("scheduled");
    same(kms, &key, &encrypted, "pending deletion").await;
    assert_eq!(count(), 2);
    kms.cancel_key_deletion(&may_key("kms:CancelKeyDeletion", &key), &key)
        .await
        .expect("cancelled");
    kms.enable_key(&may_key("kms:EnableKey", &key), &key)
        .await
        .expect("enabled");
    same(kms, &key, &encrypted, "enabled again").await;
    assert_eq!(count(), 4);
    kms.schedule_key_deletion(&may_key("kms:ScheduleKeyDeletion", &key), &key, 7)
        .await
        .expect("scheduled");
    rig.clock.shift_to(8 * DAY);
    assert_eq!(kms.destroy_due_keys().await.expect("destroyed"), 1);
    same(kms, &key, &encrypted, "destroyed").await;
    // Scheduled, destruction begun, gone.
    assert_eq!(count(), 7);
    let keys = told.0.lock().expect("not poisoned").clone();
    assert!(keys.iter().all(|told| *told == key.key_id()));
}

#[tokio::test]
async fn the_version_that_wraps_is_the_one_after_the_last_rotation() {
    let rig = Rig::new();
    let key = rig.key().await;
    let proof = may_key(GENERATE, &key);
    for version in 1..4 {
        let now = rig.kms.check_generates(&proof, &key).await;
        assert_eq!(now.expect("usable"), version);
        rig.kms
            .rotate_key_on_demand(&may_key("kms:RotateKeyOnDemand", &key), &key)
            .await
            .expect("rotated");
    }
}

#[tokio::test]
async fn a_question_takes_the_proof_of_the_use() {
    let rig = Rig::new();
    let (key, other) = (rig.key().await, rig.key().await);
    let (_, encrypted) = rig
        .kms
        .generate_data_key(
            &may_key(GENERATE, &key),
            &key,
            &EncryptionContext::default(),
        )
        .await
        .expect("made");
    for proof in [
        may_key("kms:DescribeKey", &key),
        may_key(GENERATE, &other),
        may_key(DECRYPT, &other),
    ] {
        assert!(rig.kms.check_generates(&proof, &key).await.is_err());
        assert!(rig.kms.check_decrypts(&proof, &encrypted).await.is_err());
    }
    let swapped = (may_key(DECRYPT, &key), may_key(GENERATE, &key));
    assert!(rig.kms.check_generates(&swapped.0, &key).await.is_err());
    assert!(
        rig.kms
            .check_decrypts(&swapped.1, &encrypted)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn who_is_gone_is_told_nothing() {
    let rig = Rig::new();
    let key = rig.key().await;
    let told: Arc<dyn KeyWatch> = Arc::new(Told::default());
    rig.kms.watch(Arc::downgrade(&told));
    drop(told);
    rig.kms
        .disable_key(&may_key("kms:DisableKey", &key), &key)
        .await
        .expect("disabled");
}
