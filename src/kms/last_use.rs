//! When each KMS key was last used, and for what: `GetKeyLastUsage`, and what is told before a key goes.
//!
//! A use is a cryptographic operation that succeeded: of a caller of the KMS API, of S3 on a caller's behalf, or of a
//! re-wrap. What a bucket key in memory does is none, as in AWS.
//!
//! A use is noted in memory and goes into the records within [`WRITE_INTERVAL`], and at an orderly stop: a process that
//! is killed forgets that there were uses in that time. The audit has each of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use minicbor::{Decode, Encode};
use uuid::Uuid;

use super::error::KmsError;
use super::key::{KeyArn, KeyId, KeyRecord, Owner, Timestamp};
use super::table::{self, Loaded, Rows};
use super::{COMMIT_ATTEMPTS_MAX, Kms, check_proof};
use crate::auth::Authorised;
use crate::meta::Batch;

/// How long a use is known in memory only.
const WRITE_INTERVAL: Duration = Duration::from_secs(15);

/// Keys of one batch.
const KEYS_PER_BATCH: usize = 100;
const DAY_MILLIS: i64 = 86_400_000;

/// What counts as a use: `KeyLastUsageTrackingOperation`, without what is not here.
const OPERATIONS: [&str; 11] = [
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncrypt",
    "Sign",
    "Verify",
    "VerifyMac",
];

fn tracked(operation: &str) -> Option<&'static str> {
    let name = match operation {
        "ReEncryptFrom" | "ReEncryptTo" => "ReEncrypt",
        name => name,
    };
    OPERATIONS.into_iter().find(|tracked| *tracked == name)
}

/// The last use of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUse {
    /// When.
    pub at: Timestamp,
    /// The operation, as the KMS API names it.
    pub operation: &'static str,
    /// Its record in the audit; nothing without one.
    pub event: Option<Uuid>,
    /// The request that it was of; nothing of what the server does by itself.
    pub request: Option<String>,
}

/// What is known of the use of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUses {
    /// The last one; nothing if there was none since `since`.
    pub last: Option<LastUse>,
    /// From when on they are known: since this server keeps them, or since the key was made.
    pub since: Timestamp,
    /// When the key was made.
    pub created: Timestamp,
}

/// `l ‖ key id`.
#[derive(Encode, Decode)]
struct LastUseRecord {
    #[n(0)]
    at: Timestamp,
    #[n(1)]
    operation: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    event: Option<[u8; 16]>,
    #[n(3)]
    request: Option<String>,
}

impl LastUseRecord {
    fn of(last: &LastUse) -> Self {
        Self {
            at: last.at,
            operation: last.operation.to_owned(),
            event: last.event.map(Uuid::into_bytes),
            request: last.request.clone(),
        }
    }

    fn read(self) -> Result<LastUse, KmsError> {
        Ok(LastUse {
            at: self.at,
            operation: tracked(&self.operation).ok_or(KmsError::Damaged("last use of a key"))?,
            event: self.event.map(Uuid::from_bytes),
            request: self.request,
        })
    }
}

/// `l`: since when the store keeps last uses.
#[derive(Encode, Decode)]
struct SinceRecord {
    #[n(0)]
    since: Timestamp,
}

/// Uses that are not in the records yet.
#[derive(Debug)]
pub(super) struct LastUses {
    noted: Mutex<HashMap<KeyId, LastUse>>,
    /// Since when this process notes them.
    since: Timestamp,
}

impl LastUses {
    pub(super) fn new(since: Timestamp) -> Self {
        Self {
            noted: Mutex::default(),
            since,
        }
    }

    fn note(&self, key: KeyId, last: LastUse) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        match noted.get(&key) {
            Some(later) if later.at > last.at => {}
            _ => {
                noted.insert(key, last);
            }
        }
    }

    fn of(&self, key: KeyId) -> Option<LastUse> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(&key).cloned()
    }

    fn all(&self) -> Vec<(KeyId, LastUse)> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted
            .iter()
            .map(|(key, last)| (*key, last.clone()))
            .collect()
    }

    /// Forgets what is in the records now, unless the key was used again since.
    fn written(&self, written: &[(KeyId, LastUse)]) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, last) in written {
            if noted.get(key) == Some(last) {
                noted.remove(key);
            }
        }
    }
}

impl Kms {
    /// When a key was last used, and for what (kms:GetKeyLastUsage).
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`]; by the records.
    pub async fn key_last_usage(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<KeyUses, KmsError> {
        check_proof(proof, &["kms:GetKeyLastUsage"], key)?;
        let rows = self.rows().await?;
        let head = rows.head(&Owner::Key(key.clone())).await?.record;
        self.uses(&rows, key.key_id(), &head).await
    }

    pub(super) async fn uses(
        &self,
        rows: &Rows,
        key: KeyId,
        head: &KeyRecord,
    ) -> Result<KeyUses, KmsError> {
        let recorded = load(rows, key).await?;
        let recorded = recorded
            .map(|recorded| recorded.record.read())
            .transpose()?;
        let last = self.last_uses.of(key).into_iter().chain(recorded);
        let since = load_since(rows).await?;
        let since = since.map_or(self.last_uses.since, |since| since.record.since);
        Ok(KeyUses {
            last: last.max_by_key(|last| last.at),
            since: since.max(head.created),
            created: head.created,
        })
    }

    /// The uses of a key that is to go, if they can be read: it goes all the same.
    pub(super) async fn uses_if_known(&self, key: &KeyArn) -> Option<KeyUses> {
        let uses = async {
            let rows = self.rows().await?;
            let head = rows.head(&Owner::Key(key.clone())).await?.record;
            self.uses(&rows, key.key_id(), &head).await
        };
        uses.await
            .inspect_err(|error| tracing::warn!(event = "kms.last_use.unknown", %key, %error))
            .ok()
    }

    /// The same, where a record that is damaged is to keep nobody from anything: nothing is known then.
    pub(super) async fn uses_unless_damaged(
        &self,
        rows: &Rows,
        key: KeyId,
        head: &KeyRecord,
    ) -> Result<Option<KeyUses>, KmsError> {
        match self.uses(rows, key, head).await {
            Err(error @ KmsError::Damaged(_)) => {
                tracing::error!(event = "kms.last_use.damaged", %key, %error);
                Ok(None)
            }
            uses => uses.map(Some),
        }
    }

    /// Whole days since a key was last used, or since when that is known: `kms:TrailingDaysWithoutKeyUsage`. None at all
    /// when it cannot be known: what only an unused key is for is then not for this one.
    pub(super) async fn days_without_use(
        &self,
        rows: &Rows,
        key: KeyId,
        head: &KeyRecord,
    ) -> Result<i64, KmsError> {
        let Some(uses) = self.uses_unless_damaged(rows, key, head).await? else {
            return Ok(0);
        };
        let last = uses.last.map_or(uses.since, |last| last.at);
        Ok((self.now().millis() - last.millis()).max(0) / DAY_MILLIS)
    }

    /// Notes that a key was used, if that is what `operation` is.
    pub(super) fn note_use(
        &self,
        key: &KeyArn,
        operation: &str,
        event: Option<Uuid>,
        request: Option<&str>,
    ) {
        if let Some(operation) = tracked(operation) {
            let last = LastUse {
                at: self.now(),
                operation,
                event,
                request: request.map(str::to_owned),
            };
            self.last_uses.note(key.key_id(), last);
        }
    }

    /// Writes last uses into the records at short intervals, for ever.
    pub async fn keep_last_uses(&self) {
        let mut is_failing = false;
        loop {
            let written = self.write_last_uses().await;
            if let (Err(error), false) = (&written, is_failing) {
                tracing::warn!(event = "kms.last_use.postponed", %error);
            }
            is_failing = written.is_err();
            tokio::time::sleep(WRITE_INTERVAL).await;
        }
    }

    /// Writes last uses into the records now.
    ///
    /// # Errors
    ///
    /// By the HSM, before the records can be verified, and the records. What is not written is kept for the next time.
    pub async fn write_last_uses(&self) -> Result<(), KmsError> {
        self.write_since().await?;
        for some in self.last_uses.all().chunks(KEYS_PER_BATCH) {
            self.write_some(some).await?;
            self.last_uses.written(some);
        }
        Ok(())
    }

    async fn write_since(&self) -> Result<(), KmsError> {
        let rows = self.rows().await?;
        let row = table::last_use_row(None);
        let since = SinceRecord {
            since: self.last_uses.since,
        };
        let batch = match load_since(&rows).await {
            Ok(Some(_)) => return Ok(()),
            // If somebody else was faster, it is there.
            Ok(None) => rows.insert(row, &since),
            // That they are kept for longer is forgotten.
            Err(error @ KmsError::Damaged(_)) => {
                tracing::error!(event = "kms.last_use.damaged", %error);
                rows.put(row, &since)
            }
            Err(error) => return Err(error),
        };
        self.commit(batch).await.map(|_written| ())
    }

    async fn write_some(&self, noted: &[(KeyId, LastUse)]) -> Result<(), KmsError> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let mut batch = Batch::new();
            for (key, last) in noted {
                let head = rows.load::<KeyRecord>("head of a key", table::key_row(*key));
                let head = match head.await {
                    Ok(Some(head)) => head,
                    // A key that is gone leaves nothing.
                    Ok(None) => continue,
                    // Nor does it keep the others from being written.
                    Err(error @ KmsError::Damaged(_)) => {
                        tracing::error!(event = "kms.key.damaged", key_id = %key, %error);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                match load(&rows, *key).await {
                    Ok(Some(later)) if later.record.at > last.at => continue,
                    Ok(_) => {}
                    // What is written now makes it good.
                    Err(error @ KmsError::Damaged(_)) => {
                        tracing::error!(event = "kms.last_use.damaged", %key, %error);
                    }
                    Err(error) => return Err(error),
                }
                let row = table::last_use_row(Some(*key));
                batch = batch
                    .and(head.unchanged())
                    .and(rows.put(row, &LastUseRecord::of(last)));
            }
            if self.commit(batch).await? {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }
}

async fn load(rows: &Rows, key: KeyId) -> Result<Option<Loaded<LastUseRecord>>, KmsError> {
    let row = table::last_use_row(Some(key));
    rows.load("last use of a key", row).await
}

async fn load_since(rows: &Rows) -> Result<Option<Loaded<SinceRecord>>, KmsError> {
    let row = table::last_use_row(None);
    rows.load("since when last uses are kept", row).await
}

/// Deletes what is recorded of a key that goes, whatever it says.
pub(super) fn delete(key: KeyId) -> Batch {
    Batch::new().delete(table::last_use_row(Some(key)))
}
