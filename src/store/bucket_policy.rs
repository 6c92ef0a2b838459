//! Policies of buckets: who may, by the bucket's own word.
//!
//! A policy's row is bound to the bucket's UUID and carries the MAC of the KMS's records, and the bucket's row says which
//! policy there is, so that write access to the disk can neither change nor delete one. Until the HSM has been there once since the start, a bucket that has a policy is not
//! served: what cannot be verified is not believed, and not passed over either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::bucket_row::{Bucket, is_verified, policy_digest};
use super::record::{BucketRecord, Uuid, policy_row};
use super::{Store, StoreError};
use crate::auth::policy::{Document, Kind};
use crate::auth::{AccountId, Authorised, DecidedBucket};
use crate::meta::Snapshot;

/// The longest policy of a bucket: AWS's limit.
pub const BUCKET_POLICY_BYTES_MAX: usize = 20 * 1024;
/// The most policies that are kept as they were read.
const POLICIES_KEPT_MAX: usize = 1_000;

/// What decides about a bucket besides the caller's own policies.
#[derive(Debug)]
pub struct BucketAccess {
    /// Which bucket.
    pub bucket: DecidedBucket,
    /// The account that owns it.
    pub owner: AccountId,
    /// Its policy, if it has one.
    pub policy: Option<Arc<Document>>,
}

/// What is stored, and what it says.
type ReadPolicy = (Vec<u8>, Arc<Document>);

/// Policies as they were last read.
#[derive(Debug, Default)]
pub(super) struct ReadPolicies(Mutex<HashMap<Uuid, ReadPolicy>>);

impl ReadPolicies {
    fn kept(&self, bucket: &Uuid, stored: &[u8]) -> Option<Arc<Document>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, document) = kept.get(bucket).filter(|(was, _)| was == stored)?;
        Some(Arc::clone(document))
    }

    fn keep(&self, bucket: Uuid, stored: Vec<u8>, document: &Arc<Document>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= POLICIES_KEPT_MAX {
            kept.clear();
        }
        kept.insert(bucket, (stored, Arc::clone(document)));
    }
}

impl Store {
    /// What decides about the bucket of this name; `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Kms`] while the policy's row cannot be verified; [`StoreError::Meta`].
    pub async fn bucket_access(&self, name: &str) -> Result<Option<BucketAccess>, StoreError> {
        let snapshot = self.meta.snapshot().await?;
        match self.find_bucket(&*snapshot, name).await? {
            Some(bucket) => self.access(&*snapshot, &bucket).await.map(Some),
            None => Ok(None),
        }
    }

    /// What decides about the bucket of the proof.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`]; as [`Store::bucket_access`].
    pub async fn access_of(&self, proof: &Authorised) -> Result<BucketAccess, StoreError> {
        let snapshot = self.meta.snapshot().await?;
        let bucket = self.proven_bucket(&*snapshot, proof).await?;
        self.access(&*snapshot, &bucket).await
    }

    async fn access(
        &self,
        snapshot: &dyn Snapshot,
        bucket: &Bucket,
    ) -> Result<BucketAccess, StoreError> {
        let record = &bucket.record;
        let row = policy_row(&record.uuid);
        let stored = snapshot.load(&row).await?;
        // An older store says nothing of policies in the rows of buckets before they have MACs.
        let expected = bucket.verified.then_some(record.policy);
        let policy = stored.as_deref().map(policy_digest);
        if expected.is_some_and(|expected| expected != policy) {
            return Err(damaged());
        }
        let policy = match stored {
            None => None,
            Some(stored) => Some(self.read_policy(&record.uuid, row, stored).await?),
        };
        Ok(BucketAccess {
            bucket: bucket.decided(),
            owner: record.owner(self.kms.account()),
            policy,
        })
    }

    async fn read_policy(
        &self,
        bucket: &Uuid,
        row: Vec<u8>,
        stored: Vec<u8>,
    ) -> Result<Arc<Document>, StoreError> {
        if let Some(policy) = self.read_policies.kept(bucket, &stored) {
            return Ok(policy);
        }
        let text = self.kms.open_row("bucket policy", &row, &stored).await?;
        let text = String::from_utf8(text).map_err(|_bytes| damaged())?;
        let document = Document::parse(&text, Kind::Resource);
        let document = Arc::new(document.map_err(|_malformed| damaged())?);
        self.read_policies.keep(*bucket, stored, &document);
        Ok(document)
    }

    /// Sets the bucket's policy, or takes it away.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`]; [`StoreError::Kms`] while the HSM has not been there since the start.
    pub async fn put_bucket_policy(
        &self,
        proof: &Authorised,
        policy: Option<&str>,
    ) -> Result<(), StoreError> {
        self.require_verified(is_verified(proof)?).await?;
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let bucket = self.proven_bucket(&*snapshot, proof).await?;
            let row = policy_row(&bucket.record.uuid);
            let batch = bucket.unchanged();
            let (batch, digest) = match policy {
                None => (batch.delete(row), None),
                Some(policy) => {
                    let sealed = self.kms.seal_row(&row, policy.as_bytes()).await?;
                    let digest = policy_digest(&sealed);
                    (batch.put(row, sealed), Some(digest))
                }
            };
            let record = BucketRecord {
                policy: digest,
                ..bucket.record.clone()
            };
            let sealed = self.seal(&bucket.row, &record).await?;
            Ok((batch.put(bucket.row, sealed), ()))
        })
        .await
    }
}

fn damaged() -> StoreError {
    crate::meta::MetaError::Damaged("bucket policy").into()
}
