//! Tests of the control plane, over a token in memory and records on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom_hsm::testing::fault::FaultToken;
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{HsmGroup, HsmHandle, HsmSettings};

use super::key::KeyRecord;
use super::{
    EncryptedDataKey, EncryptionContext, KeyArn, KeyRef, Kms, KmsError, KmsSettings, NewKey, api,
};
use crate::auth::policy::Side;
use crate::auth::{AccountId, Action, Authorised, Principal, RequestContext, Resource, authorise};
use crate::clock::ShiftedClock;
use crate::meta::{Batch, KeyRange, Meta, RedbMeta, Row};

mod access;
mod accounts;
mod audit;
mod conditions;
mod crypto;
mod held;
mod hmac;
mod import;
mod integrity;
mod key_count;
mod last_use;
mod left;
mod life;
mod lost;
mod materials;
mod old_rows;
mod recovery;
mod rewrap;
mod rotate;
mod sign;
mod stores;
mod wire;

const DAY: i64 = 86_400;

/// A server's control plane and all that it stands on.
struct Rig {
    kms: Arc<Kms>,
    meta: Arc<dyn Meta>,
    token: MemoryToken,
    faults: FaultToken,
    hsm: HsmHandle,
    clock: ShiftedClock,
    settings: KmsSettings,
    directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self::with(
            super::WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
            super::WRAP_COUNT_BLOCK_DEFAULT,
        )
    }

    fn with(wraps_per_backing_key_max: u64, wrap_count_block: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let meta: Arc<dyn Meta> =
            Arc::new(RedbMeta::open(&directory.path().join("meta")).expect("a store"));
        let token = MemoryToken::new();
        let faults = FaultToken::new(Arc::new(token.clone()));
        let hsm = HsmSettings {
            workers: 2,
            queue: 256,
            deadline: Duration::from_secs(5),
            verify_wraps: true,
        };
        let hsm = HsmHandle::start(Arc::new(faults.clone()), hsm).expect("workers");
        let clock = ShiftedClock::default();
        let settings = KmsSettings {
            account: account(),
            region: "us-west-2".to_owned(),
            wraps_per_backing_key_max,
            wrap_count_block,
            keys_per_account_max: crate::kms::KEYS_PER_ACCOUNT_MAX_DEFAULT,
        };
        let kms = Kms::new(
            Arc::clone(&meta),
            HsmGroup::from(hsm.clone()),
            Arc::new(clock.clone()),
            settings.clone(),
        );
        Self {
            kms: Arc::new(kms),
            meta,
            token,
            faults,
            hsm,
            clock,
            settings,
            directory,
        }
    }

    /// Another process over the same records and token.
    fn another(&self) -> Kms {
        let clock = Arc::new(self.clock.clone());
        Kms::new(
            Arc::clone(&self.meta),
            HsmGroup::from(self.hsm.clone()),
            clock,
            self.settings.clone(),
        )
    }

    fn restart(&mut self) {
        self.kms = Arc::new(self.another());
    }

    async fn key(&self) -> KeyArn {
        let proof = may("kms:CreateKey", Resource::Service);
        self.kms
            .create_key(&proof, NewKey::default())
            .await
            .expect("a key")
            .arn
    }

    /// A data key under it, encrypted.
    async fn encrypted_data_key(&self, key: &KeyArn) -> EncryptedDataKey {
        let (_, encrypted) = self
            .kms
            .generate_data_key(&may_key(GENERATE, key), key, &context(&[]))
            .await
            .expect("a data key");
        encrypted
    }

    /// Makes the record of a key count so many grants.
    async fn set_grants(&self, key: &str, grants: u32) {
        let KeyRef::KeyArn { key_id, .. } = KeyRef::parse(key).expect("an ARN") else {
            panic!("{key} is no ARN");
        };
        let key = self.kms.key_arn(&account(), key_id);
        let set = |record: &mut KeyRecord| {
            record.grants = grants;
            Ok(())
        };
        self.kms.update_key(&key, set).await.expect("committed");
    }

    async fn token_keys(&self) -> usize {
        self.hsm.list_keys().await.expect("a list").len()
    }

    async fn rows(&self, table: u8) -> Vec<Row> {
        let snapshot = self.meta.snapshot().await.expect("a snapshot");
        snapshot
            .scan(&KeyRange::prefix(&[table]), 1000)
            .await
            .expect("rows")
    }

    async fn put(&self, row: &[u8], value: &[u8]) {
        self.meta
            .commit(Batch::new().put(row, value))
            .await
            .expect("committed");
    }

    /// One request of the KMS API.
    async fn api(&self, operation: &str, input: Value) -> (u16, Value) {
        self.api_as(&request(), operation, input).await
    }

    /// One request of the KMS API by somebody.
    async fn api_as(&self, caller: &RequestContext, operation: &str, input: Value) -> (u16, Value) {
        let target = format!("TrentService.{operation}");
        let response = api::handle(&self.kms, caller, &target, input.to_string().as_bytes()).await;
        let status = response.status().as_u16();
        let body = response.into_body();
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).expect("JSON")
        };
        (status, body)
    }

    async fn api_ok(&self, operation: &str, input: Value) -> Value {
        let (status, body) = self.api(operation, input).await;
        assert_eq!(status, 200, "{operation}: {body}");
        body
    }

    /// Code and message of a request that must fail.
    async fn api_error(&self, operation: &str, input: Value) -> (String, String) {
        let (status, body) = self.api(operation, input).await;
        assert_ne!(status, 200, "{operation}: {body}");
        (text(&body["__type"]), text(&body["message"]))
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The first account.
fn account() -> AccountId {
    AccountId::parse("123456789012").expect("twelve digits")
}

fn request() -> RequestContext {
    request_of(account())
}

/// A request by the root of an account.
fn request_of(account: AccountId) -> RequestContext {
    RequestContext::new(Principal::root(account, "AKIATEST"), "request-1")
}

fn may(action: &'static str, resource: Resource) -> Authorised {
    authorise(
        &request(),
        Action(action),
        resource,
        Side::None,
        |_values| {},
    )
    .expect("root may")
}

fn may_key(action: &'static str, key: &KeyArn) -> Authorised {
    may(action, Resource::KmsKey(key.as_str().to_owned()))
}

fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    let pairs: BTreeMap<_, _> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    EncryptionContext::from_map(pairs).expect("short")
}

const GENERATE: &str = "kms:GenerateDataKey";
const DECRYPT: &str = "kms:Decrypt";

/// Makes a data key and reads it back.
async fn round_trip(kms: &Kms, key: &KeyArn) -> Result<(), KmsError> {
    let context = context(&[("a", "b")]);
    let (data_key, encrypted) = kms
        .generate_data_key(&may_key(GENERATE, key), key, &context)
        .await?;
    let read = kms
        .unwrap_data_key(&may_key(DECRYPT, key), &encrypted, &context)
        .await?;
    assert_eq!(read.expose(), data_key.expose());
    Ok(())
}
