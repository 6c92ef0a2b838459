//! Rows of buckets: who owns a bucket, and what decides about it. Each carries the MAC of the KMS's records, so that
//! write access to the disk cannot give a bucket to somebody else.
//!
//! ```text
//! b ‖ name            2 ‖ MAC and BucketRecord, as kms::mac seals it for this row
//! b ‖ name            1 ‖ BucketRecord, before there were MACs (as meta::codec writes it)
//! B ‖ account ‖ name  nothing: the index of an account's buckets. The bucket's row has the word
//! B ‖ account         how many they are
//! ```
//!
//! The MAC key comes from the HSM, and lists are given without it. So a row is used unverified until the HSM has been
//! there once since the start, and [`DecidedBucket`] says so: such a decision lets what the disk shows to everybody be
//! seen, and deleted, and no key be used. A store that was written before there were MACs gets them in batches, the last
//! with another wrap of the MAC key that says so; from then on a row without one is damage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;

use super::record::{BucketRecord, Uuid, bucket_row, buckets_row, owned_row, policy_row};
use super::{CONFLICT_RETRIES_MAX, Store, StoreError, bucket_of};
use crate::auth::{AccountId, Authorised, DecidedBucket};
use crate::kms::{KmsError, Sealing};
use crate::meta::{Batch, KeyRange, MetaError, Row, Snapshot, codec, table};

/// First byte of a row with a MAC. Rows without begin with the version of [`codec`], which is another.
const SEALED: u8 = 2;
const _: () = assert!(SEALED != codec::VERSION);
/// Length of the MAC.
const TAG_BYTES: usize = 32;
/// Rows that get their MACs in one batch.
pub(super) const SEALED_AT_ONCE: usize = 1_024;
/// For so long nobody asks the HSM for the MAC key again that was not to be had.
const AWAY_TIME: Duration = Duration::from_secs(1);

/// A bucket as it was read.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) row: Vec<u8>,
    stored: Vec<u8>,
    pub(super) record: BucketRecord,
    /// Whether its MAC was verified.
    pub(super) verified: bool,
}

impl Bucket {
    /// Requires that it is still as it was read.
    pub(super) fn unchanged(&self) -> Batch {
        Batch::new().unchanged(self.row.as_slice(), Some(&self.stored))
    }

    /// What a decision about it is of.
    pub(super) fn decided(&self) -> DecidedBucket {
        DecidedBucket {
            uuid: self.record.uuid,
            verified: self.verified,
        }
    }
}

/// What a bucket's row says, without a look at its MAC: for what decides nothing.
pub(super) fn unverified(stored: &[u8]) -> Result<BucketRecord, MetaError> {
    let record = match stored.split_first() {
        Some((&SEALED, sealed)) => sealed.get(TAG_BYTES..).unwrap_or_default(),
        _ => stored,
    };
    codec::decode("bucket", record)
}

/// The bucket's name in its row's key.
pub(super) fn name_of_row(row: &[u8]) -> Result<String, MetaError> {
    let name = row.get(1..).unwrap_or_default().to_vec();
    String::from_utf8(name).map_err(|_bytes| MetaError::Damaged("bucket name"))
}

/// Whoever finds a row that does not read goes on, and leaves this to the operator.
pub(super) fn log_damaged(row: &[u8], error: &MetaError) {
    tracing::error!(event = "store.bucket_damaged", row = hex::encode(row), %error);
}

/// What a bucket's record says of its policy: the digest of the policy's row.
pub(super) fn policy_digest(stored: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, stored).as_ref());
    bytes
}

impl Store {
    /// Whether rows of buckets can be verified now. `false`: the HSM has not been there since the start. Of all who want
    /// to know, one asks it; while it hangs, each waits for one deadline at most.
    pub(super) async fn can_verify(&self) -> Result<bool, StoreError> {
        if self.kms.knows_that_all_are_sealed() {
            return Ok(true);
        }
        let mut away_since = Arc::clone(&self.away_since).lock_owned().await;
        if away_since.is_some_and(|since| since.elapsed() < AWAY_TIME) {
            return Ok(false);
        }
        let store = self.clone();
        // Apart from the request, which may be given up before the deadline: then nobody would learn how it ended.
        let asking = tokio::spawn(async move {
            match store.seal_buckets().await {
                Ok(()) => Ok(true),
                Err(StoreError::Kms(
                    KmsError::Unavailable(_) | KmsError::Timeout(_) | KmsError::Busy,
                )) => {
                    *away_since = Some(Instant::now());
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        });
        asking.await.unwrap_or(Err(StoreError::Busy))
    }

    /// Start-up: gives the buckets of an older store their MACs. Where there is no HSM, that is done when there is.
    ///
    /// # Errors
    ///
    /// [`StoreError::Kms`] and [`StoreError::Meta`] when the records are damaged.
    pub async fn seal_old_buckets(&self) -> Result<(), StoreError> {
        let snapshot = self.meta.snapshot().await?;
        let range = KeyRange::prefix(&[table::BUCKET]);
        if snapshot.scan(&range, 1).await?.is_empty() {
            return Ok(());
        }
        drop(snapshot);
        if !self.can_verify().await? {
            tracing::warn!(
                event = "store.buckets_unverified",
                "the HSM is away: buckets are listed as the records say; no key is used for them"
            );
        }
        Ok(())
    }

    /// Makes sure that all rows of buckets have MACs.
    pub(super) async fn seal_buckets(&self) -> Result<(), StoreError> {
        if self.kms.has_sealed_all().await? {
            return Ok(());
        }
        let _sealing = self.sealing.lock().await;
        for _ in 0..CONFLICT_RETRIES_MAX {
            if self.kms.has_sealed_all().await? {
                return Ok(());
            }
            // The HSM first: while it hangs, no batch is made that cannot be committed.
            let Some(sealing) = self.kms.begin_sealing().await? else {
                return Ok(());
            };
            if self.seal_all(sealing).await? {
                return Ok(());
            }
        }
        Err(StoreError::Conflict)
    }

    /// Gives all rows their MACs, batch by batch. `false`: something had changed meanwhile; what was sealed before stays.
    async fn seal_all(&self, sealing: Sealing) -> Result<bool, StoreError> {
        let mut range = KeyRange::prefix(&[table::BUCKET]);
        let mut sealed = 0;
        loop {
            let snapshot = self.meta.snapshot().await?;
            let rows = snapshot.scan(&range, SEALED_AT_ONCE).await?;
            let (batch, buckets) = self.sealing_batch(&*snapshot, &rows).await?;
            drop(snapshot);
            let committed = match rows.last() {
                Some((last, _)) if rows.len() == SEALED_AT_ONCE => {
                    range.start = [last.as_slice(), &[0]].concat();
                    match self.meta.commit(batch).await {
                        Err(MetaError::Conflict) => return Ok(false),
                        committed => committed?,
                    }
                    sealed += buckets;
                    continue;
                }
                Some(_) | None => self.kms.commit_sealing(sealing, batch).await?,
            };
            sealed += buckets;
            if committed && sealed > 0 {
                tracing::info!(event = "store.buckets_sealed", buckets = sealed);
            }
            return Ok(committed);
        }
    }

    /// Gives these rows their MACs, and writes the index.
    async fn sealing_batch(
        &self,
        snapshot: &dyn Snapshot,
        rows: &[Row],
    ) -> Result<(Batch, usize), StoreError> {
        let mut buckets = 0;
        let mut counts = BTreeMap::<AccountId, u32>::new();
        let mut batch = Batch::new();
        for (row, stored) in rows {
            // By an earlier batch of a sealing that did not come to its end.
            if stored.first() == Some(&SEALED) {
                continue;
            }
            let read = codec::decode::<BucketRecord>("bucket", stored)
                .and_then(|record| Ok((record, name_of_row(row)?)));
            let (mut record, name) = match read {
                Ok(read) => read,
                Err(error) => {
                    // It opens nothing without a MAC.
                    log_damaged(row, &error);
                    continue;
                }
            };
            let owner = record.owner(self.kms.account());
            record.owner = Some(owner.to_string());
            let policy = snapshot.load(&policy_row(&record.uuid)).await?;
            record.policy = policy.map(|stored| policy_digest(&stored));
            batch = batch
                .unchanged(row.as_slice(), Some(stored))
                .put(owned_row(&owner, &name), Vec::new())
                .put(row.as_slice(), self.seal(row, &record).await?);
            *counts.entry(owner).or_default() += 1;
            buckets += 1;
        }
        for (account, count) in counts {
            let row = buckets_row(&account);
            let stored = snapshot.load(&row).await?;
            let before: u32 = match &stored {
                Some(stored) => codec::decode("number of buckets", stored)?,
                None => 0,
            };
            batch = batch
                .unchanged(row.as_slice(), stored.as_deref())
                .put(row, codec::encode(&before.saturating_add(count)));
        }
        Ok((batch, buckets))
    }

    /// What to store for a bucket.
    ///
    /// # Errors
    ///
    /// By the HSM, until it has been there once.
    pub(super) async fn seal(
        &self,
        row: &[u8],
        record: &BucketRecord,
    ) -> Result<Vec<u8>, StoreError> {
        let sealed = self.kms.seal_row(row, &codec::encode(record)).await?;
        Ok([&[SEALED], sealed.as_slice()].concat())
    }

    /// The bucket that has this name now, if there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Kms`] and [`StoreError::Meta`] when its row is not as it was written.
    pub(super) async fn find_bucket(
        &self,
        snapshot: &dyn Snapshot,
        name: &str,
    ) -> Result<Option<Bucket>, StoreError> {
        let row = bucket_row(name);
        match snapshot.load(&row).await? {
            Some(stored) => {
                let verified = self.can_verify().await?;
                self.open_bucket((row, stored), verified).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// A bucket from its row, which is to be verified if that [can be](Store::can_verify).
    ///
    /// # Errors
    ///
    /// As [`Store::find_bucket`].
    pub(super) async fn open_bucket(
        &self,
        (row, stored): Row,
        verified: bool,
    ) -> Result<Bucket, StoreError> {
        let mut stored = stored;
        if verified && stored.first() != Some(&SEALED) {
            // It was read before the rows got their MACs, in this very request perhaps.
            let now = self.meta.snapshot().await?.load(&row).await?;
            stored = now.unwrap_or_default();
        }
        let record = match stored.split_first() {
            Some((&SEALED, sealed)) if verified => {
                let record = self.kms.open_row("bucket", &row, sealed).await?;
                codec::decode("bucket", &record)?
            }
            _ if verified => return Err(KmsError::Damaged("bucket without a MAC").into()),
            _ => unverified(&stored)?,
        };
        Ok(Bucket {
            row,
            stored,
            record,
            verified,
        })
    }

    /// The bucket with this name and UUID.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`], also when there is another one of this name: the one that is meant has been
    /// deleted; as [`Store::find_bucket`].
    pub(super) async fn bucket_named(
        &self,
        snapshot: &dyn Snapshot,
        name: &str,
        uuid: &Uuid,
    ) -> Result<Bucket, StoreError> {
        let found = self.find_bucket(snapshot, name).await?;
        found
            .filter(|bucket| bucket.record.uuid == *uuid)
            .ok_or_else(|| StoreError::NoSuchBucket(name.to_owned()))
    }

    /// The bucket that the proof is of.
    ///
    /// # Errors
    ///
    /// As [`Store::bucket_named`]; [`StoreError::Proof`].
    pub(super) async fn proven_bucket(
        &self,
        snapshot: &dyn Snapshot,
        proof: &Authorised,
    ) -> Result<Bucket, StoreError> {
        let decided = proof.decided_bucket().ok_or(StoreError::Proof)?;
        self.bucket_named(snapshot, bucket_of(proof)?, &decided.uuid)
            .await
    }

    /// Requires that a decision was made by verified records.
    ///
    /// # Errors
    ///
    /// By the HSM, which is away; [`StoreError::Busy`] when it has come back since.
    pub(super) async fn require_verified(&self, verified: bool) -> Result<(), StoreError> {
        if verified {
            return Ok(());
        }
        self.seal_buckets().await?;
        Err(StoreError::Busy)
    }
}

/// Whether the decision was made by verified records.
pub(super) fn is_verified(proof: &Authorised) -> Result<bool, StoreError> {
    let decided = proof.decided_bucket().ok_or(StoreError::Proof)?;
    Ok(decided.verified)
}
