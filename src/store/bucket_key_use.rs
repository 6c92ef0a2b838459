//! What hangs on a bucket key. Its row is there as long as the first such row is: both come with the batch of the first
//! object, and the row goes with the batch of the last.
//!
//! What hangs on it is a row of its own for each object and upload, so that writers of a bucket do not meet in one
//! counter. Whoever takes one away must know that another one stays: it names one as its witness, the next in the order
//! of digests, which hardly anybody else takes away at the same time. Without a witness it is the last.

use super::bucket_key::BucketKey;
use super::record::{
    BucketKeyId, KeyRecord, ObjectName, ObjectRecord, Uuid, bucket_key_row, bucket_key_use_row,
    bucket_key_use_rows,
};
use super::usage::{dependency_of_bucket_key, index_bucket_key};
use super::{Store, StoreError};
use crate::meta::{Batch, KeyRange, MetaError, Snapshot, codec};

/// An encrypted data key for a row that is to be written.
#[derive(Debug)]
pub(super) struct WrappedKey {
    pub(super) record: KeyRecord,
    /// The row of the bucket key that it hangs on. Without it, the bucket key must have one already.
    row: Option<Vec<u8>>,
}

impl WrappedKey {
    /// A key that hangs on no bucket key, or on one that something else hangs on as well.
    pub(super) fn of(record: KeyRecord) -> Self {
        Self { record, row: None }
    }

    /// A key that was wrapped by `bucket_key`.
    pub(super) fn by(bucket_key: &BucketKey, record: KeyRecord) -> Self {
        Self {
            record,
            row: Some(codec::encode(&bucket_key.record)),
        }
    }
}

impl Store {
    /// Has `dependant` hang on the bucket key of `key`, and records that bucket key if it is the first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] when the bucket key was wrapped anew since it came into memory.
    pub(super) async fn hold_bucket_key(
        &self,
        snapshot: &dyn Snapshot,
        bucket: &Uuid,
        key: &WrappedKey,
        dependant: Vec<u8>,
    ) -> Result<Batch, StoreError> {
        let Some(id) = key.record.bucket_key() else {
            return Ok(Batch::new());
        };
        let row = bucket_key_row(bucket, &id);
        let there = snapshot.load(&row).await?;
        let batch = Batch::new().unchanged(row.clone(), there.as_deref());
        let batch = match (&there, &key.row) {
            (Some(there), Some(mine)) if there != mine => {
                self.bucket_keys.forget(&id);
                return Err(StoreError::Conflict);
            }
            (Some(_), _) => batch,
            (None, Some(mine)) => {
                let on = dependency_of_bucket_key(&codec::decode("bucket key", mine)?);
                batch
                    .put(row, mine.clone())
                    .and(index_bucket_key(bucket, id.as_bytes(), None, on))
            }
            (None, None) => return Err(MetaError::Damaged("bucket key").into()),
        };
        Ok(batch.put(bucket_key_use_row(&id, &dependant), dependant))
    }

    /// Takes an object that is replaced or deleted off its bucket key, if it has one.
    pub(super) async fn release_object(
        &self,
        snapshot: &dyn Snapshot,
        name: &ObjectName,
        record: &ObjectRecord,
    ) -> Result<Batch, StoreError> {
        match &record.bucket_key {
            Some(id) => {
                self.release_bucket_key(snapshot, &name.bucket, id, &name.object_row())
                    .await
            }
            None => Ok(Batch::new()),
        }
    }

    /// Takes `dependant` off a bucket key, and the bucket key away with the last one.
    pub(super) async fn release_bucket_key(
        &self,
        snapshot: &dyn Snapshot,
        bucket: &Uuid,
        id: &BucketKeyId,
        dependant: &[u8],
    ) -> Result<Batch, StoreError> {
        let all = bucket_key_use_rows(id);
        let mine = bucket_key_use_row(id, dependant);
        let before = KeyRange {
            start: all.start,
            end: mine.clone(),
        };
        let after = KeyRange {
            start: [mine.as_slice(), &[0]].concat(),
            end: all.end,
        };
        let batch = Batch::new().delete(mine);
        for range in [&after, &before] {
            if let Some((witness, value)) = snapshot.scan(range, 1).await?.pop() {
                return Ok(batch.unchanged(witness, Some(&value)));
            }
        }
        let row = bucket_key_row(bucket, id);
        let value = snapshot.load(&row).await?;
        // A row that does not read keeps nothing from being deleted; the index has what was written with it.
        let on = value
            .as_deref()
            .and_then(|value| codec::decode("bucket key", value).ok())
            .and_then(|record| dependency_of_bucket_key(&record));
        Ok(batch
            .and(index_bucket_key(bucket, id.as_bytes(), on, None))
            .range_empty(before)
            .range_empty(after)
            .unchanged(row.clone(), value.as_deref())
            .delete(row))
    }
}
