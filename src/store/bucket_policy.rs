//! Policies of buckets: who may, by the bucket's own word.
//!
//! ```text
//! 1 ‖ CBOR      PolicyRecord
//! {…            the text alone, of a policy from before it was kept whom it means
//! ```
//!
//! A policy's row is bound to the bucket's UUID and carries the MAC of the KMS's records, and the bucket's row says which
//! policy there is, so that write access to the disk can neither change nor delete one. Until the HSM has been there
//! once since the start, a bucket that has a policy is not served: what cannot be verified is not believed, and not
//! passed over either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use minicbor::{Decode, Encode};

use super::bucket_row::{Bucket, is_verified, policy_digest};
use super::record::{BucketRecord, Uuid, policy_row};
use super::{Store, StoreError};
use crate::auth::policy::{Bound, Document, Kind};
use crate::auth::{AccountId, Authorised, DecidedBucket};
use crate::kms::BindError;
use crate::meta::{Snapshot, codec};

/// The longest policy of a bucket: AWS's limit.
pub const BUCKET_POLICY_BYTES_MAX: usize = 20 * 1024;
/// The most policies that are kept as they were read.
const POLICIES_KEPT_MAX: usize = 1_000;

/// What a row with a version begins with; no text of a policy does.
const VERSION: u8 = 1;

/// A policy, and whom it means.
#[derive(Encode, Decode)]
struct PolicyRecord {
    #[n(0)]
    text: String,
    #[n(1)]
    bound: Option<Bound>,
}

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
        let record = self.kms.open_row("bucket policy", &row, &stored).await?;
        let document = Arc::new(read(&record)?);
        self.read_policies.keep(*bucket, stored, &document);
        Ok(document)
    }

    /// `policy`, meaning those who have its names now: before it is set.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub async fn bind_policy(&self, policy: Document) -> Result<Document, BindError> {
        self.kms.bind(policy).await
    }

    /// Sets the bucket's policy, or takes it away.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`]; [`StoreError::Kms`] while the HSM has not been there since the start.
    pub async fn put_bucket_policy(
        &self,
        proof: &Authorised,
        policy: Option<&Document>,
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
                    let sealed = self.kms.seal_row(&row, &written(policy)).await?;
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

fn written(policy: &Document) -> Vec<u8> {
    let record = PolicyRecord {
        text: policy.text().to_owned(),
        bound: policy.bound().cloned(),
    };
    [&[VERSION], codec::encode(&record).as_slice()].concat()
}

fn read(record: &[u8]) -> Result<Document, StoreError> {
    let record = match record.split_first() {
        Some((&VERSION, record)) => codec::decode("bucket policy", record)?,
        _ => PolicyRecord {
            text: String::from_utf8(record.to_vec()).map_err(|_bytes| damaged())?,
            bound: None,
        },
    };
    let document = Document::parse(&record.text, Kind::Resource).map_err(|_malformed| damaged())?;
    Ok(match record.bound {
        Some(bound) => document.meaning(bound),
        None => document,
    })
}

fn damaged() -> StoreError {
    crate::meta::MetaError::Damaged("bucket policy").into()
}
