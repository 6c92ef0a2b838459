//! Re-wraps of bucket keys. Within one KMS key the bucket key itself is wrapped anew, and what hangs on it does not
//! notice. To another KMS key what hangs on it moves to a bucket key there, one by one, for each object's row in clear
//! names its KMS key.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use strongroom_hsm::DataKey;

use super::bucket_key::{self, BucketKey};
use super::bucket_key_use::WrappedKey;
use super::put::{load_object, load_sealed};
use super::record::{
    BucketKeyId, BucketKeyRecord, BucketKeyWrap, KeyRecord, SseRecord, UploadRecord, bucket_key_row,
};
use super::rewrap::{IN_FLIGHT_MAX, Outcome, PAGE_ROWS, Page, judge};
use super::usage::{
    Dependant, Dependency, Kind, dependency_of_bucket_key, index_bucket_key, index_upload,
};
use super::{Store, StoreError};
use crate::envelope::KeySchedule;
use crate::kms::{EncryptedDataKey, EncryptionContext, RewrapCounts, RewrapLease};
use crate::meta::{Batch, MetaError, Row, codec};

/// A bucket key that is left, and the one that is gone to.
struct Move {
    from: BucketKey,
    to: BucketKey,
}

impl Store {
    /// Moves a bucket key of the bucket of this name, with all that hangs on it. The lease is renewed as it goes on.
    pub(super) async fn rewrap_bucket_key(
        &self,
        lease: &mut RewrapLease,
        (bucket, row): (&str, &Row),
        (cursor, counts): (&[u8], &mut RewrapCounts),
    ) -> Result<Page, StoreError> {
        let moving = match self.begin_move(lease, bucket, row).await {
            Ok(Some(moving)) => moving,
            Ok(None) => {
                counts.rewrapped += 1;
                return Ok(Page::Done);
            }
            Err(StoreError::Conflict) => {
                counts.skipped += 1;
                return Ok(Page::Done);
            }
            Err(error) => match judge(error, &row.0) {
                Outcome::Later => return Ok(Page::Again),
                Outcome::Hopeless(why) => return Ok(Page::Hopeless(why)),
                Outcome::Moved | Outcome::Skipped | Outcome::Failed => {
                    counts.failed += 1;
                    return Ok(Page::Done);
                }
            },
        };
        loop {
            let mut moved = 0;
            let mut after = Vec::new();
            loop {
                let snapshot = self.meta.snapshot().await?;
                let id = Dependency::BucketKey(*moving.from.id.as_bytes());
                let rows = snapshot.scan(&id.rows_after(&after), PAGE_ROWS).await?;
                drop(snapshot);
                let Some((last, _)) = rows.last() else { break };
                after.clone_from(last);
                match self.move_page(lease, &moving, &rows, counts).await {
                    (count, Page::Done) => moved += count,
                    (_, other) => return Ok(other),
                }
                if !self.kms.advance_rewrap(lease, cursor, *counts).await? {
                    return Ok(Page::Again);
                }
            }
            // Whoever lost the race to write the new bucket key's row is moved by the next round.
            if moved == 0 {
                return Ok(Page::Done);
            }
        }
    }

    /// Wraps a bucket key anew, and is done (`None`); or prepares the one that is gone to.
    async fn begin_move(
        &self,
        lease: &RewrapLease,
        bucket: &str,
        row: &Row,
    ) -> Result<Option<Move>, StoreError> {
        let dependant = Dependant::read(row)?;
        let id = BucketKeyId::from_bytes(dependant.bucket_key()?);
        let key_row = bucket_key_row(&dependant.bucket, &id);
        let Some(value) = self.meta.snapshot().await?.load(&key_row).await? else {
            return Err(StoreError::Conflict);
        };
        let record: BucketKeyRecord = codec::decode("bucket key", &value)?;
        let expected = Dependency::Kms(lease.rewrap().from.key_id(), dependant.version);
        let (BucketKeyWrap::Kms(encrypted), true) = (
            &record.wrap,
            dependency_of_bucket_key(&record.wrap) == Some(expected),
        ) else {
            return Err(StoreError::Conflict);
        };
        let encrypted = EncryptedDataKey::from_bytes(encrypted.as_slice())?;
        let context = bucket_context(bucket)?;
        let secret = self
            .kms
            .unwrap_for_rewrap(lease, &encrypted, &context)
            .await?;
        let stays = lease.rewrap().from == lease.rewrap().to;
        let new_secret = DataKey::random().map_err(|_no_randomness| StoreError::Random)?;
        let wrapped = if stays { &secret } else { &new_secret };
        let encrypted = self.kms.wrap_for_rewrap(lease, &context, wrapped).await?;
        let wrap = BucketKeyWrap::Kms(encrypted.as_bytes().to_vec());
        if !stays {
            let created_ms = self.now_ms();
            let to = BucketKey {
                id: bucket_key::fresh_id(created_ms)?,
                bucket: dependant.bucket,
                record: BucketKeyRecord { created_ms, wrap },
                secret: new_secret,
            };
            let from = BucketKey {
                id,
                bucket: dependant.bucket,
                record,
                secret,
            };
            return Ok(Some(Move { from, to }));
        }
        let new = dependency_of_bucket_key(&wrap);
        let index = index_bucket_key(&dependant.bucket, id.as_bytes(), Some(expected), new);
        let record = BucketKeyRecord { wrap, ..record };
        let batch = Batch::new()
            .unchanged(key_row.clone(), Some(&value))
            .put(key_row, codec::encode(&record))
            .and(index);
        self.meta.commit(batch).await.map_err(|error| match error {
            MetaError::Conflict => StoreError::Conflict,
            other => other.into(),
        })?;
        self.bucket_keys.forget(&id);
        Ok(None)
    }

    /// Moves what these rows of the index name, and says how many there were.
    async fn move_page(
        &self,
        lease: &RewrapLease,
        moving: &Move,
        rows: &[Row],
        counts: &mut RewrapCounts,
    ) -> (u64, Page) {
        let moves: Vec<_> = rows
            .iter()
            .map(|row| {
                async move {
                    match self.move_dependant(lease, moving, row).await {
                        Ok(true) => Outcome::Moved,
                        Ok(false) => Outcome::Skipped,
                        Err(error) => judge(error, &row.0),
                    }
                }
                .boxed()
            })
            .collect();
        let mut outcomes = stream::iter(moves).buffer_unordered(IN_FLIGHT_MAX);
        let (mut moved, mut result) = (0, Page::Done);
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Outcome::Moved => moved += 1,
                Outcome::Skipped => {}
                Outcome::Failed => counts.failed += 1,
                Outcome::Later if matches!(result, Page::Done) => result = Page::Again,
                Outcome::Later => {}
                Outcome::Hopeless(why) => result = Page::Hopeless(why),
            }
        }
        counts.rewrapped += moved;
        (moved, result)
    }

    /// Moves an object or an upload. `false`: it is gone, or changed.
    async fn move_dependant(
        &self,
        lease: &RewrapLease,
        moving: &Move,
        row: &Row,
    ) -> Result<bool, StoreError> {
        let dependant = Dependant::read(row)?;
        let (name, upload) = dependant.name()?;
        match dependant.kind {
            Kind::Object => {
                let snapshot = self.meta.snapshot().await?;
                let object = load_object(&*snapshot, &name).await?;
                let sealed = load_sealed(&*snapshot, &name).await?;
                drop(snapshot);
                let (Some((record, value)), Some(manifest)) = (object, sealed.record()) else {
                    return Ok(false);
                };
                let Some((schedule, key)) = moving.key(&name.identity(), &manifest.key)? else {
                    return Ok(false);
                };
                self.move_object(lease, name, (record, &value), manifest, schedule, key)
                    .await
            }
            Kind::Upload => {
                let row = name.upload_row(&upload);
                let snapshot = self.meta.snapshot().await?;
                let Some(value) = snapshot.load(&row).await? else {
                    return Ok(false);
                };
                let record: UploadRecord = codec::decode("upload", &value)?;
                let Some((_, key)) = moving.key(&name.identity(), &record.key)? else {
                    return Ok(false);
                };
                let new = UploadRecord {
                    key: key.record.clone(),
                    sse: SseRecord::Kms(lease.rewrap().to.as_str().to_owned()),
                    ..record.clone()
                };
                let from = &moving.from.id;
                let batch = Batch::new()
                    .unchanged(row.clone(), Some(&value))
                    .put(row.clone(), codec::encode(&new))
                    .and(index_upload(
                        &name,
                        &upload,
                        Some(&record.key),
                        Some(&new.key),
                    ))
                    .and(
                        self.hold_bucket_key(&*snapshot, &name.bucket, &key, row.clone())
                            .await?,
                    )
                    .and(
                        self.release_bucket_key(&*snapshot, &name.bucket, from, &row)
                            .await?,
                    );
                drop(snapshot);
                match self.meta.commit(batch).await {
                    Ok(()) => Ok(true),
                    Err(MetaError::Conflict) => Ok(false),
                    Err(other) => Err(other.into()),
                }
            }
            // A bucket key hangs on no other.
            Kind::BucketKey => Err(MetaError::Damaged("index of dependants").into()),
        }
    }
}

impl Move {
    /// The data key of a record that hangs on what is left, and its new wrap. `None`: it hangs on something else.
    fn key(
        &self,
        identity: &[u8],
        key: &KeyRecord,
    ) -> Result<Option<(Arc<KeySchedule>, WrappedKey)>, StoreError> {
        let KeyRecord::Bucket(id, wrapped, caller_context) = key else {
            return Ok(None);
        };
        if *id != self.from.id {
            return Ok(None);
        }
        let data_key = self.from.unwrap(identity, caller_context, wrapped)?;
        let record = self.to.wrap(identity, caller_context, &data_key)?;
        let key = WrappedKey::by(&self.to, record);
        Ok(Some((Arc::new(KeySchedule::new(data_key)), key)))
    }
}

/// What the HSM's wrap of a bucket key is bound to: as the front end that had it made has it.
fn bucket_context(bucket: &str) -> Result<EncryptionContext, StoreError> {
    let arn = format!("arn:aws:s3:::{bucket}");
    let pairs = [("aws:s3:arn".to_owned(), arn)].into_iter().collect();
    Ok(EncryptionContext::from_map(pairs)?)
}
