//! Buckets.

use aws_lc_rs::rand;

use super::record::{BucketRecord, DefaultEncryption, Uuid, bucket_row, bucket_rows, policy_row};
use super::{Store, StoreError, bucket_of};
use crate::auth::{Authorised, Resource};
use crate::meta::{Batch, KeyRange, MetaError, Snapshot, codec, table};

/// Names that the server's own paths take.
const RESERVED: [&str; 3] = ["healthz", "readyz", "metrics"];

/// The most buckets: AWS's limit of an account after a quota increase was asked for.
pub(super) const BUCKETS_MAX: usize = 10_000;

impl Store {
    /// Makes a bucket.
    ///
    /// # Errors
    ///
    /// [`StoreError::BucketExists`]; [`StoreError::InvalidRequest`] for a name that the server keeps for itself or
    /// beyond 10,000 buckets.
    pub async fn create_bucket(&self, proof: &Authorised, region: &str) -> Result<(), StoreError> {
        let name = bucket_of(proof)?;
        if RESERVED.contains(&name) {
            return Err(StoreError::InvalidRequest(format!("{name:?} is reserved")));
        }
        if self.load_buckets().await?.len() >= BUCKETS_MAX {
            return Err(StoreError::InvalidRequest("too many buckets".into()));
        }
        let mut uuid: Uuid = [0; 16];
        rand::fill(&mut uuid).map_err(|_unspecified| StoreError::Random)?;
        let record = BucketRecord {
            uuid,
            region: region.to_owned(),
            created_ms: self.now_ms(),
            encryption: DefaultEncryption::S3,
            bucket_key: false,
            owner: Some(proof.principal().account.to_string()),
        };
        let row = bucket_row(name);
        match self
            .meta
            .commit(
                Batch::new()
                    .absent(row.clone())
                    .put(row, codec::encode(&record)),
            )
            .await
        {
            Ok(()) => Ok(()),
            Err(MetaError::Conflict) => Err(StoreError::BucketExists(name.to_owned())),
            Err(other) => Err(other.into()),
        }
    }

    /// The bucket of the proof.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`].
    pub async fn load_bucket(&self, proof: &Authorised) -> Result<BucketRecord, StoreError> {
        let name = bucket_of(proof)?;
        Ok(load_bucket(&*self.meta.snapshot().await?, name).await?.0)
    }

    /// All buckets of the caller's account, by name.
    ///
    /// # Errors
    ///
    /// [`StoreError::Meta`].
    pub async fn list_buckets(
        &self,
        proof: &Authorised,
    ) -> Result<Vec<(String, BucketRecord)>, StoreError> {
        match proof.resource() {
            Resource::Buckets => {
                let mut buckets = self.load_buckets().await?;
                let account = &proof.principal().account;
                buckets.retain(|(_, bucket)| bucket.owner(self.kms.account()) == *account);
                Ok(buckets)
            }
            _ => Err(StoreError::Proof),
        }
    }

    async fn load_buckets(&self) -> Result<Vec<(String, BucketRecord)>, StoreError> {
        let rows = self
            .meta
            .snapshot()
            .await?
            .scan(&KeyRange::prefix(&[table::BUCKET]), BUCKETS_MAX)
            .await?;
        rows.into_iter()
            .map(|(row, value)| {
                let name = row.get(1..).unwrap_or_default().to_vec();
                let name =
                    String::from_utf8(name).map_err(|_bytes| MetaError::Damaged("bucket name"))?;
                Ok((name, codec::decode("bucket", &value)?))
            })
            .collect()
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`]; [`StoreError::BucketNotEmpty`] when objects or uploads are left.
    pub async fn delete_bucket(&self, proof: &Authorised) -> Result<(), StoreError> {
        let name = bucket_of(proof)?;
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let (bucket, value) = load_bucket(&*snapshot, name).await?;
            let mut batch = Batch::new()
                .unchanged(bucket_row(name), Some(&value))
                .delete(bucket_row(name))
                .delete(policy_row(&bucket.uuid));
            for table in [table::OBJECT, table::UPLOAD] {
                let range = bucket_rows(table, &bucket.uuid);
                if !snapshot.scan(&range, 1).await?.is_empty() {
                    return Err(StoreError::BucketNotEmpty(name.to_owned()));
                }
                batch = batch.range_empty(range);
            }
            Ok((batch, ()))
        })
        .await
    }

    /// Sets the default encryption, and whether SSE-KMS uses a bucket key. Objects that exist stay as they are.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`].
    pub async fn put_bucket_encryption(
        &self,
        proof: &Authorised,
        encryption: &DefaultEncryption,
        bucket_key: bool,
    ) -> Result<(), StoreError> {
        let name = bucket_of(proof)?;
        self.commit_deciding(|| async {
            let (mut bucket, value) = load_bucket(&*self.meta.snapshot().await?, name).await?;
            bucket.encryption = encryption.clone();
            bucket.bucket_key = bucket_key;
            let row = bucket_row(name);
            Ok((
                Batch::new()
                    .unchanged(row.clone(), Some(&value))
                    .put(row, codec::encode(&bucket)),
                (),
            ))
        })
        .await
    }
}

/// The bucket and its row's value.
pub(super) async fn load_bucket(
    snapshot: &dyn Snapshot,
    name: &str,
) -> Result<(BucketRecord, Vec<u8>), StoreError> {
    let value = snapshot
        .load(&bucket_row(name))
        .await?
        .ok_or_else(|| StoreError::NoSuchBucket(name.to_owned()))?;
    Ok((codec::decode("bucket", &value)?, value))
}
