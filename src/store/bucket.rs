//! Buckets.

use aws_lc_rs::rand;

use super::bucket_row::{Bucket, is_verified};
use super::record::{
    BucketRecord, DefaultEncryption, Uuid, bucket_row, bucket_rows, buckets_row, owned_row,
    owned_rows, policy_row,
};
use super::{Store, StoreError, bucket_of};
use crate::auth::{AccountId, Authorised, Resource};
use crate::kms::KmsError;
use crate::meta::{Batch, KeyRange, MetaError, Snapshot, codec, table};

/// Names that the server's own paths take.
const RESERVED: [&str; 3] = ["healthz", "readyz", "metrics"];

/// The most buckets of an account: AWS's default.
pub const BUCKETS_OF_ACCOUNT_MAX: usize = 10_000;
/// Rows that are read at a time where buckets are gone through.
pub(super) const SCAN_ROWS: usize = 256;

/// Which of an account's buckets to list.
#[derive(Debug, Clone, Default)]
pub struct BucketsRequest {
    /// Only names that begin with this.
    pub prefix: String,
    /// Only names after this.
    pub after: String,
    /// Only buckets of this region.
    pub region: Option<String>,
    /// At most so many, up to [`BUCKETS_OF_ACCOUNT_MAX`].
    pub buckets_max: usize,
}

/// What a list says of a bucket.
#[derive(Debug)]
pub struct ListedBucket {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
}

/// Buckets of an account.
#[derive(Debug)]
pub struct BucketListing {
    /// By name.
    pub buckets: Vec<ListedBucket>,
    /// The last name, if there is more.
    pub next: Option<String>,
}

impl Store {
    /// Makes a bucket.
    ///
    /// # Errors
    ///
    /// [`StoreError::BucketExists`]; [`StoreError::TooManyBuckets`]; [`StoreError::InvalidRequest`] for a name that the
    /// server keeps for itself; [`StoreError::Kms`] while the HSM has not been there since the start.
    pub async fn create_bucket(&self, proof: &Authorised, region: &str) -> Result<(), StoreError> {
        let name = bucket_of(proof)?;
        if RESERVED.contains(&name) {
            return Err(StoreError::InvalidRequest(format!("{name:?} is reserved")));
        }
        let account = &proof.principal().account;
        let mut uuid: Uuid = [0; 16];
        rand::fill(&mut uuid).map_err(|_unspecified| StoreError::Random)?;
        let record = BucketRecord {
            uuid,
            region: region.to_owned(),
            created_ms: self.now_ms(),
            encryption: DefaultEncryption::S3,
            bucket_key: false,
            owner: Some(account.to_string()),
            policy: None,
        };
        // What is there without a MAC gets one before anything is added.
        self.seal_buckets().await?;
        let row = bucket_row(name);
        let sealed = self.seal(&row, &record).await?;
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            if let Some(there) = self.find_bucket(&*snapshot, name).await? {
                let owned = there.record.owner(self.kms.account()) == *account;
                return Err(StoreError::BucketExists {
                    name: name.to_owned(),
                    owned,
                });
            }
            let counted = self.count(&*snapshot, account, |count| count.checked_add(1));
            let batch = counted
                .await?
                .absent(row.as_slice())
                .put(row.as_slice(), sealed.as_slice())
                .put(owned_row(account, name), Vec::new());
            Ok((batch, ()))
        })
        .await
    }

    /// Changes how many buckets an account has.
    async fn count(
        &self,
        snapshot: &dyn Snapshot,
        account: &AccountId,
        change: impl Fn(u32) -> Option<u32>,
    ) -> Result<Batch, StoreError> {
        let row = buckets_row(account);
        let stored = snapshot.load(&row).await?;
        let before: u32 = match &stored {
            Some(stored) => codec::decode("number of buckets", stored)?,
            None => 0,
        };
        let after = change(before)
            .filter(|after| {
                *after <= before
                    || usize::try_from(*after).is_ok_and(|after| after <= BUCKETS_OF_ACCOUNT_MAX)
            })
            .ok_or(StoreError::TooManyBuckets)?;
        Ok(Batch::new()
            .unchanged(row.as_slice(), stored.as_deref())
            .put(row.as_slice(), codec::encode(&after)))
    }

    /// The bucket of the proof.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`].
    pub async fn load_bucket(&self, proof: &Authorised) -> Result<BucketRecord, StoreError> {
        let snapshot = self.meta.snapshot().await?;
        Ok(self.proven_bucket(&*snapshot, proof).await?.record)
    }

    /// Buckets of the caller's account, by name. One whose row is not as it was written is left out, and reported: who
    /// asks for it by its name is told.
    ///
    /// # Errors
    ///
    /// [`StoreError::Kms`] and [`StoreError::Meta`].
    pub async fn list_buckets(
        &self,
        proof: &Authorised,
        request: &BucketsRequest,
    ) -> Result<BucketListing, StoreError> {
        if *proof.resource() != Resource::Buckets {
            return Err(StoreError::Proof);
        }
        let account = &proof.principal().account;
        // Without the HSM an older store has no index yet.
        let indexed = self.can_verify().await?;
        let row_of = |name: &str| {
            if indexed {
                owned_row(account, name)
            } else {
                bucket_row(name)
            }
        };
        let mut range = KeyRange::prefix(&row_of(&request.prefix));
        if request.prefix.is_empty() && indexed {
            range = owned_rows(account);
        }
        if !request.after.is_empty() {
            let after = [row_of(&request.after).as_slice(), &[0]].concat();
            range.start = range.start.max(after);
        }
        let buckets_max = request.buckets_max.min(BUCKETS_OF_ACCOUNT_MAX);
        let snapshot = self.meta.snapshot().await?;
        let mut buckets = Vec::new();
        loop {
            let rows = snapshot.scan(&range, SCAN_ROWS).await?;
            let more = rows.len() == SCAN_ROWS;
            for (row, _) in rows {
                range.start = [row.as_slice(), &[0]].concat();
                let name = row.get(row_of("").len()..).unwrap_or_default().to_vec();
                // Whose name is no text has no bucket: the row was made up.
                let Ok(name) = String::from_utf8(name) else {
                    continue;
                };
                let bucket = bucket_row(&name);
                let Some(stored) = snapshot.load(&bucket).await? else {
                    continue;
                };
                let bucket = match self.open_bucket((bucket, stored), indexed).await {
                    Ok(bucket) => bucket,
                    Err(
                        error @ (StoreError::Kms(KmsError::Damaged(_))
                        | StoreError::Meta(MetaError::Damaged(_))),
                    ) => {
                        tracing::error!(event = "store.bucket_damaged", bucket = name, %error);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if !is_listed(&bucket, account, self.kms.account(), request) {
                    continue;
                }
                if buckets.len() == buckets_max {
                    let next = buckets.last().map(|last: &ListedBucket| last.name.clone());
                    return Ok(BucketListing { buckets, next });
                }
                let BucketRecord {
                    region, created_ms, ..
                } = bucket.record;
                buckets.push(ListedBucket {
                    name,
                    region,
                    created_ms,
                });
            }
            if !more {
                let next = None;
                return Ok(BucketListing { buckets, next });
            }
        }
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
            let bucket = self.proven_bucket(&*snapshot, proof).await?;
            let uuid = &bucket.record.uuid;
            let owner = bucket.record.owner(self.kms.account());
            let mut batch = bucket
                .unchanged()
                .delete(bucket.row.as_slice())
                .delete(owned_row(&owner, name))
                .delete(policy_row(uuid));
            // Without the HSM an older store does not count yet.
            if snapshot.load(&owned_row(&owner, name)).await?.is_some() {
                let counted = self.count(&*snapshot, &owner, |count| Some(count.saturating_sub(1)));
                batch = batch.and(counted.await?);
            }
            for table in [table::OBJECT, table::UPLOAD] {
                let range = bucket_rows(table, uuid);
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
    /// [`StoreError::NoSuchBucket`]; [`StoreError::Kms`] while the HSM has not been there since the start.
    pub async fn put_bucket_encryption(
        &self,
        proof: &Authorised,
        encryption: &DefaultEncryption,
        bucket_key: bool,
    ) -> Result<(), StoreError> {
        self.require_verified(is_verified(proof)?).await?;
        self.commit_deciding(|| async {
            let bucket = self
                .proven_bucket(&*self.meta.snapshot().await?, proof)
                .await?;
            let record = BucketRecord {
                encryption: encryption.clone(),
                bucket_key,
                ..bucket.record.clone()
            };
            let sealed = self.seal(&bucket.row, &record).await?;
            Ok((bucket.unchanged().put(bucket.row, sealed), ()))
        })
        .await
    }
}

fn is_listed(
    bucket: &Bucket,
    account: &AccountId,
    first: &AccountId,
    request: &BucketsRequest,
) -> bool {
    let region = request.region.as_ref();
    bucket.record.owner(first) == *account
        && region.is_none_or(|region| *region == bucket.record.region)
}
