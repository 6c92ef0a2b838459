//! From the kind of encryption to a data key, and back.

use strongroom_hsm::DataKey;

use super::record::{KeyRecord, SseRecord};
use super::{CustomerKey, Store, StoreError};
use crate::auth::Authorised;
use crate::envelope::KeySchedule;
use crate::kms::{EncryptedDataKey, EncryptionContext, InternalKey, KeyArn};

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
        /// What the wrap is bound to: the caller's context and the object's ARN.
        context: EncryptionContext,
        /// The caller's context as it came, to be kept.
        caller_context: Vec<(String, String)>,
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
        /// The caller's context of the object and the object's ARN.
        context: EncryptionContext,
    },
    /// SSE-C.
    Customer(CustomerKey),
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

    /// Whether the `ETag` of an object sent whole is the MD5 of its plaintext.
    pub(super) fn etag_is_md5(&self) -> bool {
        matches!(self, Self::S3)
    }
}

impl Store {
    /// A fresh data key for the object with this identity. One HSM call, or none for SSE-C.
    pub(super) async fn make_key(
        &self,
        target: &SseTarget,
        identity: &[u8],
    ) -> Result<(KeySchedule, KeyRecord), StoreError> {
        if let SseTarget::Kms {
            proof,
            key,
            context,
            caller_context,
        } = target
        {
            let (data_key, encrypted) = self.kms.generate_data_key(proof, key, context).await?;
            let record = KeyRecord::Kms(encrypted.as_bytes().to_vec(), caller_context.clone());
            return Ok((KeySchedule::new(data_key), record));
        }
        let data_key = DataKey::random().map_err(|_no_randomness| StoreError::Random)?;
        let record = self.wrap_key(target, identity, &data_key).await?;
        Ok((KeySchedule::new(data_key), record))
    }

    /// Wraps a data key that exists for another object: a copy.
    pub(super) async fn wrap_key(
        &self,
        target: &SseTarget,
        identity: &[u8],
        data_key: &DataKey,
    ) -> Result<KeyRecord, StoreError> {
        Ok(match target {
            SseTarget::S3 => KeyRecord::S3(
                self.kms
                    .wrap_internal(InternalKey::SseS3, identity, data_key)
                    .await?,
            ),
            SseTarget::Kms {
                proof,
                key,
                context,
                caller_context,
            } => {
                let encrypted = self
                    .kms
                    .wrap_data_key(proof, key, context, data_key)
                    .await?;
                KeyRecord::Kms(encrypted.as_bytes().to_vec(), caller_context.clone())
            }
            SseTarget::Customer(key) => KeyRecord::Customer(key.wrap(identity, data_key)?),
        })
    }

    /// The data key of a record. One HSM call, or none for SSE-C.
    pub(super) async fn open_key(
        &self,
        record: &KeyRecord,
        access: &KeyAccess,
        identity: &[u8],
    ) -> Result<KeySchedule, StoreError> {
        let data_key = match (record, access) {
            (KeyRecord::S3(wrapped), KeyAccess::Plain) => {
                self.kms
                    .unwrap_internal(InternalKey::SseS3, identity, wrapped)
                    .await?
            }
            (KeyRecord::Kms(encrypted, _), KeyAccess::Kms { proof, context }) => {
                let encrypted = EncryptedDataKey::from_bytes(encrypted.clone())?;
                self.kms.unwrap_data_key(proof, &encrypted, context).await?
            }
            (KeyRecord::Customer(wrapped), KeyAccess::Customer(key)) => {
                key.unwrap(identity, wrapped)?
            }
            (KeyRecord::Customer(_), KeyAccess::Plain | KeyAccess::Kms { .. }) => {
                return Err(StoreError::CustomerKeyNeeded);
            }
            (KeyRecord::S3(_) | KeyRecord::Kms(..), KeyAccess::Customer(_)) => {
                return Err(StoreError::CustomerKeyUnexpected);
            }
            // The front end reads the kind of encryption from the same record: this is a record that was tampered
            // with between its two rows.
            (KeyRecord::S3(_), KeyAccess::Kms { .. }) | (KeyRecord::Kms(..), KeyAccess::Plain) => {
                return Err(StoreError::Damaged(
                    crate::envelope::EnvelopeError::Unauthentic("key record"),
                ));
            }
        };
        Ok(KeySchedule::new(data_key))
    }
}
