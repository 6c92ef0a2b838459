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
        let bucket = proven_bucket(&*self.meta.snapshot().await?, proof).await?;
        Ok(bucket.record)
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
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let bucket = proven_bucket(&*snapshot, proof).await?;
            let uuid = &bucket.record.uuid;
            let mut batch = bucket
                .unchanged()
                .delete(bucket.row.as_slice())
                .delete(policy_row(uuid));
            for table in [table::OBJECT, table::UPLOAD] {
                let range = bucket_rows(table, uuid);
                if !snapshot.scan(&range, 1).await?.is_empty() {
                    return Err(StoreError::BucketNotEmpty(bucket_of(proof)?.to_owned()));
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
        self.commit_deciding(|| async {
            let bucket = proven_bucket(&*self.meta.snapshot().await?, proof).await?;
            let record = BucketRecord {
                encryption: encryption.clone(),
                bucket_key,
                ..bucket.record.clone()
            };
            let put = bucket.unchanged();
            Ok((put.put(bucket.row, codec::encode(&record)), ()))
        })
        .await
    }
}

/// A bucket as it was read.
pub(super) struct Bucket {
    row: Vec<u8>,
    stored: Vec<u8>,
    pub(super) record: BucketRecord,
}

impl Bucket {
    /// Requires that it is still as it was read.
    pub(super) fn unchanged(&self) -> Batch {
        Batch::new().unchanged(self.row.as_slice(), Some(&self.stored))
    }
}

/// The bucket that has this name now, if there is one.
pub(super) async fn find_bucket(
    snapshot: &dyn Snapshot,
    name: &str,
) -> Result<Option<Bucket>, StoreError> {
    let row = bucket_row(name);
    let Some(stored) = snapshot.load(&row).await? else {
        return Ok(None);
    };
    Ok(Some(Bucket {
        record: codec::decode("bucket", &stored)?,
        row,
        stored,
    }))
}

/// The bucket with this name and UUID.
///
/// # Errors
///
/// [`StoreError::NoSuchBucket`], also when there is another one of this name: the one that is meant has been deleted.
pub(super) async fn load_bucket(
    snapshot: &dyn Snapshot,
    name: &str,
    uuid: &Uuid,
) -> Result<Bucket, StoreError> {
    find_bucket(snapshot, name)
        .await?
        .filter(|bucket| bucket.record.uuid == *uuid)
        .ok_or_else(|| StoreError::NoSuchBucket(name.to_owned()))
}

/// The bucket that the proof is of.
///
/// # Errors
///
/// As [`load_bucket`]; [`StoreError::Proof`].
pub(super) async fn proven_bucket(
    snapshot: &dyn Snapshot,
    proof: &Authorised,
) -> Result<Bucket, StoreError> {
    let decided = proof.decided_bucket().ok_or(StoreError::Proof)?;
    load_bucket(snapshot, bucket_of(proof)?, &decided.uuid).await
}
