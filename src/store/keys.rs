//! From the kind of encryption to a data key, and back.
//!
//! Under SSE-S3, and under SSE-KMS with a bucket key, a [bucket key](super::bucket_key) wraps the data key. Whether the
//! KMS key may be used is asked in every request, before a bucket key that is in memory is.

use std::sync::Arc;

use strongroom_hsm::DataKey;

use super::bucket_key::{self, BucketKey};
use super::bucket_key_cache::{Slot, Turn, Wanted};
use super::bucket_key_use::WrappedKey;
use super::record::{
    BucketKeyId, BucketKeyRecord, BucketKeyWrap, KeyRecord, ObjectName, SseRecord, Uuid,
    bucket_key_row, bucket_rows,
};
use super::{CustomerKey, Store, StoreError};
use crate::auth::Authorised;
use crate::envelope::{EnvelopeError, KeySchedule};
use crate::kms::{EncryptedDataKey, EncryptionContext, InternalKey, KeyArn, Kms, KmsError};
use crate::meta::{MetaError, codec, table};

/// How long a bucket key under SSE-S3 wraps new data keys, in milliseconds, whichever process has it in memory. Those
/// under a KMS key wrap no longer than they are in memory: to open one takes `kms:Decrypt`, which a writer need not have.
const SSE_S3_BUCKET_KEY_MILLIS: i64 = 24 * 3_600_000;
/// Bucket keys of a bucket, newest first, among which one that still wraps is looked for. Those under KMS keys stand
/// between; what is not found is made.
const NEWEST_LOOKED_AT: usize = 512;

/// How an object is to be encrypted.
#[derive(Debug)]
pub enum SseTarget {
    /// SSE-S3.
    S3,
    /// SSE-KMS.
    Kms {
        /// `kms:GenerateDataKey` on `key`.
        proof: Authorised,
        /// Which key.
        key: KeyArn,
        /// What the HSM's wrap is bound to: the caller's context and the object's ARN; with a bucket key, the bucket's
        /// ARN alone.
        context: EncryptionContext,
        /// The caller's context as it came, to be kept.
        caller_context: Vec<(String, String)>,
        /// Whether a bucket key lies between.
        bucket_key: bool,
    },
    /// SSE-C.
    Customer(CustomerKey),
}

/// What a request brings to read an object.
#[derive(Debug)]
pub enum KeyAccess {
    /// Nothing: enough for SSE-S3.
    Plain,
    /// `kms:Decrypt` on the object's key.
    Kms {
        /// The proof.
        proof: Authorised,
        /// What the HSM's wrap is bound to, as [`SseTarget::Kms`] has it.
        context: EncryptionContext,
    },
    /// SSE-C.
    Customer(CustomerKey),
}

/// Under what a bucket key is, and what a request brings for it.
#[derive(Clone, Copy)]
enum Over<'a> {
    S3,
    Kms(&'a Authorised, &'a KeyArn, &'a EncryptionContext),
}

impl SseTarget {
    /// How the record will name it.
    pub fn record(&self) -> SseRecord {
        match self {
            Self::S3 => SseRecord::S3,
            Self::Kms { key, .. } => SseRecord::Kms(key.as_str().to_owned()),
            Self::Customer(_) => SseRecord::Customer,
        }
    }

    /// Whether an answer says `BucketKeyEnabled`.
    pub fn says_bucket_key(&self) -> bool {
        matches!(
            self,
            Self::Kms {
                bucket_key: true,
                ..
            }
        )
    }

    /// Whether the `ETag` of an object sent whole is the MD5 of its plaintext.
    pub(super) fn etag_is_md5(&self) -> bool {
        matches!(self, Self::S3)
    }
}

impl Store {
    /// A fresh data key for the object of this name. As many HSM calls as [`Store::wrap_key`].
    pub(super) async fn make_key(
        &self,
        target: &SseTarget,
        name: &ObjectName,
    ) -> Result<(KeySchedule, WrappedKey), StoreError> {
        if let SseTarget::Kms {
            proof,
            key,
            context,
            caller_context,
            bucket_key: false,
        } = target
        {
            let (data_key, encrypted) = self.kms.generate_data_key(proof, key, context).await?;
            let record = KeyRecord::Kms(encrypted.as_bytes().to_vec(), caller_context.clone());
            return Ok((KeySchedule::new(data_key), WrappedKey::of(record)));
        }
        let data_key = DataKey::random().map_err(|_no_randomness| StoreError::Random)?;
        let wrapped = self.wrap_key(target, name, &data_key).await?;
        Ok((KeySchedule::new(data_key), wrapped))
    }

    /// Wraps a data key for the object of this name. One HSM call; none for SSE-C, or if the bucket key is in memory.
    pub(super) async fn wrap_key(
        &self,
        target: &SseTarget,
        name: &ObjectName,
        data_key: &DataKey,
    ) -> Result<WrappedKey, StoreError> {
        let identity = name.identity();
        let (over, caller_context) = match target {
            SseTarget::S3 => (Over::S3, [].as_slice()),
            SseTarget::Kms {
                proof,
                key,
                context,
                caller_context,
                bucket_key: true,
            } => (Over::Kms(proof, key, context), caller_context.as_slice()),
            SseTarget::Kms {
                proof,
                key,
                context,
                caller_context,
                bucket_key: false,
            } => {
                let encrypted = self
                    .kms
                    .wrap_data_key(proof, key, context, data_key)
                    .await?;
                let record = KeyRecord::Kms(encrypted.as_bytes().to_vec(), caller_context.clone());
                return Ok(WrappedKey::of(record));
            }
            SseTarget::Customer(key) => {
                let record = KeyRecord::Customer(key.wrap(&identity, data_key)?);
                return Ok(WrappedKey::of(record));
            }
        };
        let bucket_key = self.bucket_key_to_wrap(over, &name.bucket).await?;
        let record = bucket_key.wrap(&identity, caller_context, data_key)?;
        Ok(WrappedKey::by(&bucket_key, record))
    }

    /// The data key of the record of the object of this name. As many HSM calls as [`Store::wrap_key`].
    ///
    /// # Errors
    ///
    /// [`StoreError::KeyMoved`] when the bucket key that the record names is not there: the record is an old one, or
    /// the row of the bucket key was lost.
    pub(super) async fn open_key(
        &self,
        record: &KeyRecord,
        access: &KeyAccess,
        name: &ObjectName,
    ) -> Result<KeySchedule, StoreError> {
        let identity = name.identity();
        let data_key = match (record, access) {
            (
                KeyRecord::Bucket(id, wrapped, caller_context),
                KeyAccess::Plain | KeyAccess::Kms { .. },
            ) => self
                .bucket_key_to_unwrap(id, &name.bucket, access)
                .await?
                .unwrap(&identity, caller_context, wrapped)?,
            (KeyRecord::S3(wrapped), KeyAccess::Plain) => {
                self.kms
                    .unwrap_internal(InternalKey::SseS3, &identity, wrapped)
                    .await?
            }
            (KeyRecord::Kms(encrypted, _), KeyAccess::Kms { proof, context }) => {
                let encrypted = EncryptedDataKey::from_bytes(encrypted.clone())?;
                self.kms.unwrap_data_key(proof, &encrypted, context).await?
            }
            (KeyRecord::Customer(wrapped), KeyAccess::Customer(key)) => {
                key.unwrap(&identity, wrapped)?
            }
            (KeyRecord::Customer(_), KeyAccess::Plain | KeyAccess::Kms { .. }) => {
                return Err(StoreError::CustomerKeyNeeded);
            }
            (
                KeyRecord::S3(_) | KeyRecord::Kms(..) | KeyRecord::Bucket(..),
                KeyAccess::Customer(_),
            ) => {
                return Err(StoreError::CustomerKeyUnexpected);
            }
            // The front end reads the kind of encryption from the same record: this is a record that was tampered
            // with between its two rows.
            (KeyRecord::S3(_), KeyAccess::Kms { .. }) | (KeyRecord::Kms(..), KeyAccess::Plain) => {
                return Err(tampered());
            }
        };
        Ok(KeySchedule::new(data_key))
    }

    /// The bucket key that wraps new data keys of a bucket.
    async fn bucket_key_to_wrap(
        &self,
        over: Over<'_>,
        bucket: &Uuid,
    ) -> Result<Arc<BucketKey>, StoreError> {
        let (key, version) = match over {
            Over::S3 => (None, self.kms.internal_version(InternalKey::SseS3).await?),
            Over::Kms(proof, key, _) => {
                let version = self.kms.check_generates(proof, key).await?;
                (Some(key.key_id()), version)
            }
        };
        let wanted = Wanted::Current(Slot {
            bucket: *bucket,
            key,
            version,
        });
        if let Some(there) = self.bucket_keys.find(&wanted) {
            return Ok(there);
        }
        let turn = match self.bucket_keys.turn(wanted).await {
            Ok(turn) => turn,
            Err(there) => return Ok(there),
        };
        let made = async {
            match over {
                Over::S3 => match self.reopen_bucket_key(bucket, version).await? {
                    Some(there) => Ok(there),
                    None => self.make_bucket_key(over, bucket).await,
                },
                Over::Kms(..) => self.make_bucket_key(over, bucket).await,
            }
        };
        keep(turn, made.await)
    }

    /// The bucket key with this id, if `access` lets it be used.
    async fn bucket_key_to_unwrap(
        &self,
        id: &BucketKeyId,
        bucket: &Uuid,
        access: &KeyAccess,
    ) -> Result<Arc<BucketKey>, StoreError> {
        let wanted = Wanted::Id(*id);
        if let Some(there) = self.bucket_keys.find(&wanted) {
            if self.may_open(&there.record, access).await? {
                return Ok(there);
            }
            // It came into memory before its row was wrapped anew.
            self.bucket_keys.forget(id);
        }
        let turn = match self.bucket_keys.turn(wanted).await {
            Ok(turn) => turn,
            Err(there) if self.may_open(&there.record, access).await? => return Ok(there),
            Err(_of_another_key) => return Err(tampered()),
        };
        let opened = async {
            let row = bucket_key_row(bucket, id);
            let value = self.meta.snapshot().await?.load(&row).await?;
            let value = value.ok_or(StoreError::KeyMoved)?;
            let record = codec::decode("bucket key", &value)?;
            self.open_bucket_key(*id, bucket, record, access).await
        };
        keep(turn, opened.await)
    }

    /// Whether a bucket key that is in memory may be used. `false`: it was wrapped by another key than that which
    /// `access` is for.
    async fn may_open(
        &self,
        record: &BucketKeyRecord,
        access: &KeyAccess,
    ) -> Result<bool, StoreError> {
        match (&record.wrap, access) {
            (BucketKeyWrap::S3(_), KeyAccess::Plain) => Ok(true),
            (BucketKeyWrap::Kms(encrypted), KeyAccess::Kms { proof, .. }) => {
                let encrypted = EncryptedDataKey::from_bytes(encrypted.clone())?;
                if !self.kms.is_of_key(proof, &encrypted) {
                    return Ok(false);
                }
                self.kms.check_decrypts(proof, &encrypted).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Opens a bucket key. One HSM call.
    async fn open_bucket_key(
        &self,
        id: BucketKeyId,
        bucket: &Uuid,
        record: BucketKeyRecord,
        access: &KeyAccess,
    ) -> Result<BucketKey, StoreError> {
        let secret = match (&record.wrap, access) {
            (BucketKeyWrap::S3(wrapped), KeyAccess::Plain) => {
                let aad = bucket_key::internal_aad(bucket, &id);
                self.kms
                    .unwrap_internal(InternalKey::SseS3, &aad, wrapped)
                    .await?
            }
            (BucketKeyWrap::Kms(encrypted), KeyAccess::Kms { proof, context }) => {
                let encrypted = EncryptedDataKey::from_bytes(encrypted.clone())?;
                self.kms.unwrap_data_key(proof, &encrypted, context).await?
            }
            _ => return Err(tampered()),
        };
        Ok(BucketKey {
            id,
            bucket: *bucket,
            record,
            secret,
        })
    }

    /// Makes a bucket key. One HSM call; its row is written with the first object.
    async fn make_bucket_key(
        &self,
        over: Over<'_>,
        bucket: &Uuid,
    ) -> Result<BucketKey, StoreError> {
        let created_ms = self.now_ms();
        let id = bucket_key::fresh_id(created_ms)?;
        let (secret, wrap) = match over {
            Over::S3 => {
                let secret = DataKey::random().map_err(|_no_randomness| StoreError::Random)?;
                let aad = bucket_key::internal_aad(bucket, &id);
                let wrapped = self.kms.wrap_internal(InternalKey::SseS3, &aad, &secret);
                let wrapped = wrapped.await?;
                (secret, BucketKeyWrap::S3(wrapped))
            }
            Over::Kms(proof, key, context) => {
                let (secret, encrypted) = self.kms.generate_data_key(proof, key, context).await?;
                (secret, BucketKeyWrap::Kms(encrypted.as_bytes().to_vec()))
            }
        };
        let record = BucketKeyRecord { created_ms, wrap };
        Ok(BucketKey {
            id,
            bucket: *bucket,
            record,
            secret,
        })
    }

    /// Opens the newest bucket key under SSE-S3 that still wraps. One HSM call, or none if there is no such key.
    async fn reopen_bucket_key(
        &self,
        bucket: &Uuid,
        version: u32,
    ) -> Result<Option<BucketKey>, StoreError> {
        let range = bucket_rows(table::BUCKET_KEY, bucket);
        let snapshot = self.meta.snapshot().await?;
        let rows = snapshot.scan(&range, NEWEST_LOOKED_AT).await?;
        drop(snapshot);
        let since = self.now_ms().saturating_sub(SSE_S3_BUCKET_KEY_MILLIS);
        for (row, value) in rows {
            let id = row
                .last_chunk()
                .map(|id| BucketKeyId::from_bytes(*id))
                .ok_or(MetaError::Damaged("bucket key"))?;
            // A row that was damaged costs its objects, and no writer his.
            let Ok(record) = codec::decode::<BucketKeyRecord>("bucket key", &value) else {
                continue;
            };
            let wraps = match &record.wrap {
                BucketKeyWrap::S3(wrapped) => {
                    record.created_ms >= since
                        && Kms::internal_version_of(wrapped).is_ok_and(|of| of == version)
                }
                BucketKeyWrap::Kms(_) => false,
            };
            if !wraps {
                continue;
            }
            match self
                .open_bucket_key(id, bucket, record, &KeyAccess::Plain)
                .await
            {
                Err(StoreError::Kms(KmsError::InvalidCiphertext)) => {
                    tracing::error!(event = "bucket_key.damaged", row = hex::encode(&row));
                    return Ok(None);
                }
                other => return other.map(Some),
            }
        }
        Ok(None)
    }
}

/// Ends a turn, and keeps the key in memory.
fn keep(turn: Turn, made: Result<BucketKey, StoreError>) -> Result<Arc<BucketKey>, StoreError> {
    let key = match made {
        Ok(key) => Arc::new(key),
        Err(error) => {
            turn.fail();
            return Err(error);
        }
    };
    let (kms_key, version) = match &key.record.wrap {
        BucketKeyWrap::S3(wrapped) => (None, Kms::internal_version_of(wrapped)?),
        BucketKeyWrap::Kms(encrypted) => {
            let encrypted = EncryptedDataKey::from_bytes(encrypted.clone())?;
            (Some(encrypted.key_id()), encrypted.backing_version())
        }
    };
    let slot = Slot {
        bucket: key.bucket,
        key: kms_key,
        version,
    };
    turn.succeed(slot, &key);
    Ok(key)
}

fn tampered() -> StoreError {
    StoreError::Damaged(EnvelopeError::Unauthentic("key record"))
}
