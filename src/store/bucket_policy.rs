//! Policies of buckets: who may, by the bucket's own word.
//!
//! A policy's row is bound to the bucket's UUID and carries the MAC of the KMS's records, so that write access to the
//! disk cannot change one. (It can delete one, or give the bucket another owner: the bucket's own row has no MAC, for
//! LIST and HEAD work without the HSM.) Until the HSM has been there once since the start, a bucket that has a policy is not
//! served: what cannot be verified is not believed, and not passed over either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::bucket::load_bucket;
use super::record::{Uuid, bucket_row, policy_row};
use super::{Store, StoreError, bucket_of};
use crate::auth::policy::{Document, Kind};
use crate::auth::{AccountId, Authorised};
use crate::meta::Batch;

/// The longest policy of a bucket: AWS's limit.
pub const BUCKET_POLICY_BYTES_MAX: usize = 20 * 1024;
/// The most policies that are kept as they were read.
const POLICIES_KEPT_MAX: usize = 1_000;

/// What decides about a bucket besides the caller's own policies.
#[derive(Debug)]
pub struct BucketAccess {
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
        let bucket = match load_bucket(&*snapshot, name).await {
            Ok((bucket, _)) => bucket,
            Err(StoreError::NoSuchBucket(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let owner = bucket.owner(self.kms.account());
        let row = policy_row(&bucket.uuid);
        let Some(stored) = snapshot.load(&row).await? else {
            return Ok(Some(BucketAccess {
                owner,
                policy: None,
            }));
        };
        if let Some(policy) = self.read_policies.kept(&bucket.uuid, &stored) {
            let policy = Some(policy);
            return Ok(Some(BucketAccess { owner, policy }));
        }
        let text = self.kms.open_row("bucket policy", &row, &stored).await?;
        let text = String::from_utf8(text).map_err(|_bytes| damaged())?;
        let document = Document::parse(&text, Kind::Resource);
        let document = Arc::new(document.map_err(|_malformed| damaged())?);
        self.read_policies.keep(bucket.uuid, stored, &document);
        let policy = Some(document);
        Ok(Some(BucketAccess { owner, policy }))
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
        let name = bucket_of(proof)?;
        self.commit_deciding(|| async {
            let (bucket, value) = load_bucket(&*self.meta.snapshot().await?, name).await?;
            let row = policy_row(&bucket.uuid);
            let batch = Batch::new().unchanged(bucket_row(name), Some(&value));
            let batch = match policy {
                None => batch.delete(row),
                Some(policy) => {
                    let sealed = self.kms.seal_row(&row, policy.as_bytes()).await?;
                    batch.put(row, sealed)
                }
            };
            Ok((batch, ()))
        })
        .await
    }
}

fn damaged() -> StoreError {
    crate::meta::MetaError::Damaged("bucket policy").into()
}
