//! Rows of this module: their keys, and how they are read and written.
//!
//! ```text
//! k ‖ key id                      head of a KMS key              KeyRecord
//! v ‖ key id ‖ version            one of its backing keys        BackingRecord
//! a ‖ alias name                  alias of the first account     AliasRecord
//! a ‖ account ‖ : ‖ alias name    alias of another account       AliasRecord
//! y ‖ key id ‖ policy name        key policy                     PolicyRecord
//! g ‖ key id ‖ grant id           grant                          GrantRecord
//! l                               since when uses are kept        last_use::SinceRecord
//! l ‖ key id                      last use of a KMS key          last_use::LastUseRecord
//! n ‖ name                        head of an internal key        KeyRecord
//! n ‖ name ‖ 0 ‖ version          one of its backing keys        BackingRecord
//! n ‖ "metadata-mac"              the MAC key itself             mac::MacRecord     without MAC
//! N ‖ account                     how many KMS keys it has       key_count::KeyCountRecord
//! F                               the server's first account     first_account::FirstAccountRecord
//! x                               all custom key stores          stores::record::KeyStoresRecord
//! J ‖ key id ‖ identity           pair for an import             import::PairRecord
//! i ‖ backing key id              intent to make a backing key   backing::Intent    without MAC
//! ```
//!
//! Numbers are big-endian. Values with a MAC are HMAC-SHA-256 (32 bytes) ‖ record as `meta::codec` writes it; what
//! the MAC covers is said in [`mac`](super::mac). An intent needs none: all that a forged one can do is to be
//! reported.

use std::sync::Arc;

use minicbor::{Decode, Encode};
use strongroom_hsm::BackingKeyId;

use super::error::KmsError;
use super::key::{BackingRecord, KeyId, KeyRecord, Owner};
use super::mac::MetadataMac;
use crate::auth::AccountId;
use crate::meta::{Batch, KeyRange, Row, Snapshot, codec, table};

pub(super) fn key_row(key_id: KeyId) -> Vec<u8> {
    [&[table::KMS_KEY], key_id.as_bytes().as_slice()].concat()
}

pub(super) fn head_row(owner: &Owner) -> Vec<u8> {
    match owner {
        Owner::Key(arn) => key_row(arn.key_id()),
        Owner::Internal(purpose) => internal_row(purpose.name()),
    }
}

pub(super) fn backing_row(owner: &Owner, version: u32) -> Vec<u8> {
    let version = version.to_be_bytes();
    match owner {
        Owner::Key(arn) => [
            [table::KMS_BACKING].as_slice(),
            arn.key_id().as_bytes(),
            version.as_slice(),
        ]
        .concat(),
        Owner::Internal(purpose) => [
            internal_row(purpose.name()).as_slice(),
            [0].as_slice(),
            version.as_slice(),
        ]
        .concat(),
    }
}

pub(super) fn internal_row(name: &str) -> Vec<u8> {
    [[table::KMS_INTERNAL].as_slice(), name.as_bytes()].concat()
}

/// Accounts are digits and alias names begin with a letter, so that no name of one account is in the range of another.
fn alias_row(account: Option<&AccountId>, name: &str) -> Vec<u8> {
    let table = [table::KMS_ALIAS];
    match account {
        None => [table.as_slice(), name.as_bytes()].concat(),
        Some(account) => [&table, account.as_str().as_bytes(), b":", name.as_bytes()].concat(),
    }
}

pub(super) fn policy_row(key_id: KeyId, name: &str) -> Vec<u8> {
    [
        [table::KMS_POLICY].as_slice(),
        key_id.as_bytes(),
        name.as_bytes(),
    ]
    .concat()
}

pub(super) fn last_use_row(key_id: Option<KeyId>) -> Vec<u8> {
    let mut row = vec![table::KMS_LAST_USE];
    row.extend(key_id.iter().flat_map(KeyId::as_bytes));
    row
}

pub(super) fn key_count_row(account: &AccountId) -> Vec<u8> {
    [&[table::KMS_KEY_COUNT], account.as_str().as_bytes()].concat()
}

pub(super) fn intent_row(id: &BackingKeyId) -> Vec<u8> {
    [[table::KMS_INTENT].as_slice(), id.as_bytes()].concat()
}

pub(super) fn import_row(key_id: KeyId, pair: &BackingKeyId) -> Vec<u8> {
    [
        [table::KMS_IMPORT].as_slice(),
        key_id.as_bytes(),
        pair.as_bytes(),
    ]
    .concat()
}

/// The identity in the key of an import's row.
pub(super) fn import_of_row(row: &[u8]) -> Option<BackingKeyId> {
    let id = row.get(1 + KeyId::BYTES..)?.try_into().ok()?;
    Some(BackingKeyId::from_bytes(id))
}

/// The key id in the key of a head row.
pub(super) fn key_id_of_row(row: &[u8]) -> Result<KeyId, KmsError> {
    let bytes = row.get(1..).and_then(|id| id.try_into().ok());
    bytes
        .map(KeyId::from_bytes)
        .ok_or(KmsError::Damaged("row key of a KMS key"))
}

/// A record as it was read, with what it takes to replace it.
pub(crate) struct Loaded<T> {
    row: Vec<u8>,
    stored: Vec<u8>,
    pub(crate) record: T,
}

impl<T> Loaded<T> {
    /// Requires that the record is still as it was read.
    pub(crate) fn unchanged(&self) -> Batch {
        Batch::new().unchanged(self.row.as_slice(), Some(&self.stored))
    }

    /// Deletes the record as it was read.
    pub(crate) fn delete(&self) -> Batch {
        self.unchanged().delete(self.row.as_slice())
    }
}

/// The records at one moment. Every record is verified before it is believed. `iam` keeps its records by the same means,
/// under a prefix of its own.
pub(crate) struct Rows {
    mac: Arc<MetadataMac>,
    snapshot: Box<dyn Snapshot>,
    first_account: AccountId,
}

impl Rows {
    pub(super) fn new(
        mac: Arc<MetadataMac>,
        snapshot: Box<dyn Snapshot>,
        first_account: AccountId,
    ) -> Self {
        Self {
            mac,
            snapshot,
            first_account,
        }
    }

    pub(crate) async fn load<T: for<'b> Decode<'b, ()>>(
        &self,
        what: &'static str,
        row: Vec<u8>,
    ) -> Result<Option<Loaded<T>>, KmsError> {
        match self.snapshot.load(&row).await.map_err(KmsError::meta)? {
            Some(stored) => self.open(what, (row, stored)).map(Some),
            None => Ok(None),
        }
    }

    /// The head of a key, if there is such a key and it is of the account that the ARN names.
    pub(super) async fn head_if_any(
        &self,
        owner: &Owner,
    ) -> Result<Option<Loaded<KeyRecord>>, KmsError> {
        let head: Option<Loaded<KeyRecord>> = self.load("head of a key", head_row(owner)).await?;
        match (head, owner) {
            (Some(head), Owner::Key(arn)) => {
                let is_its = head.record.account(&self.first_account)? == *arn.account();
                Ok(is_its.then_some(head))
            }
            (head, _) => Ok(head),
        }
    }

    /// Where the alias of an account is.
    pub(super) fn alias_row(&self, account: &AccountId, name: &str) -> Vec<u8> {
        alias_row(
            Some(account).filter(|account| **account != self.first_account),
            name,
        )
    }

    /// The account that owns a key, if there is such a key.
    pub(super) async fn account_of(&self, key_id: KeyId) -> Result<Option<AccountId>, KmsError> {
        let head: Option<Loaded<KeyRecord>> = self.load("head of a key", key_row(key_id)).await?;
        let account = head.map(|head| head.record.account(&self.first_account));
        account.transpose()
    }

    /// The head of a key.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`] in the recorded words when there is none.
    pub(super) async fn head(&self, owner: &Owner) -> Result<Loaded<KeyRecord>, KmsError> {
        self.head_if_any(owner).await?.ok_or_else(|| match owner {
            Owner::Key(arn) => KmsError::NotFound(format!("Key '{arn}' does not exist")),
            Owner::Internal(_) => KmsError::internal("an internal key is not there"),
        })
    }

    /// A backing key version that the head says there is.
    pub(super) async fn backing(
        &self,
        owner: &Owner,
        version: u32,
    ) -> Result<Loaded<BackingRecord>, KmsError> {
        let row = backing_row(owner, version);
        self.load("backing key", row)
            .await?
            .ok_or(KmsError::Damaged("a backing key is missing"))
    }

    /// The version of a key that has this material, the one that waits among them.
    pub(super) async fn version_of(
        &self,
        owner: &Owner,
        head: &KeyRecord,
        material: &str,
    ) -> Result<u32, KmsError> {
        for version in head.recorded_versions() {
            let backing = self.backing(owner, version).await?.record;
            if backing.material().to_string() == material {
                return Ok(version);
            }
        }
        Err(KmsError::NotFound(format!(
            "Key material '{material}' does not exist"
        )))
    }

    /// The rows of `range` as they are stored. [`Rows::open`] makes records of them.
    pub(crate) async fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KmsError> {
        self.snapshot
            .scan(range, limit)
            .await
            .map_err(KmsError::meta)
    }

    pub(crate) fn open<T: for<'b> Decode<'b, ()>>(
        &self,
        what: &'static str,
        (row, stored): Row,
    ) -> Result<Loaded<T>, KmsError> {
        let bytes = self
            .mac
            .open(&row, &stored)
            .ok_or(KmsError::Damaged(what))?;
        let record = codec::decode(what, bytes).map_err(KmsError::meta)?;
        Ok(Loaded {
            row,
            stored,
            record,
        })
    }

    /// Puts `record` in the place of what was read.
    pub(crate) fn replace<T: Encode<()>>(&self, loaded: &Loaded<T>, record: &T) -> Batch {
        loaded.unchanged().and(self.put(loaded.row.clone(), record))
    }

    /// Inserts a record where there is none.
    pub(crate) fn insert<T: Encode<()>>(&self, row: Vec<u8>, record: &T) -> Batch {
        Batch::new()
            .absent(row.as_slice())
            .and(self.put(row, record))
    }

    /// Puts a record, whatever is there.
    pub(super) fn put<T: Encode<()>>(&self, row: Vec<u8>, record: &T) -> Batch {
        let stored = self.mac.seal(&row, &codec::encode(record));
        Batch::new().put(row, stored)
    }
}

/// The rows of a table after `cursor`, which is a row's key without the table's byte; all of them without one.
pub(super) fn rows_after(table: u8, cursor: Option<&[u8]>) -> KeyRange {
    let mut range = KeyRange::prefix(&[table]);
    if let Some(cursor) = cursor {
        range.start.extend_from_slice(cursor);
        range.start.push(0);
    }
    range
}
