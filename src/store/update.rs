//! `UpdateObjectEncryption`: another key for an object, and nothing else of it. Sealed bytes, `ETag`, dates, headers and
//! checksums stay; there is a new wrap of the same data key, and a new manifest, for the row in clear names the key.

use super::bucket_key_use::WrappedKey;
use super::get::{Located, Opened};
use super::put::{ObjectRows, load_object, load_sealed};
use super::record::{ObjectRecord, SseRecord};
use super::{KeyAccess, SseTarget, Store, StoreError, object_of};
use crate::auth::Authorised;
use crate::meta::MetaError;

/// An object that is to have another key.
#[derive(Debug)]
pub struct UpdateRequest {
    /// The object.
    pub source: Located,
    /// The right to change it.
    pub proof: Authorised,
    /// How it is read.
    pub access: KeyAccess,
    /// How it is to be encrypted.
    pub sse: SseTarget,
}

impl Store {
    /// Wraps the data key of an object anew.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidRequest`] unless it goes from SSE-S3 or SSE-KMS to SSE-KMS;
    /// [`StoreError::Conflict`] when the object was changed meanwhile; those of reading it and of wrapping.
    pub async fn update_encryption(&self, request: UpdateRequest) -> Result<(), StoreError> {
        let UpdateRequest {
            source,
            proof,
            access,
            sse,
        } = request;
        if object_of(&proof)?.1 != source.name().key {
            return Err(StoreError::Proof);
        }
        if source.record().sse == SseRecord::Customer {
            return Err(StoreError::InvalidRequest(SOURCE_UNSUPPORTED.into()));
        }
        if !matches!(sse, SseTarget::Kms { .. }) {
            return Err(StoreError::InvalidRequest(
                "the encryption of an object is updated to SSE-KMS only".into(),
            ));
        }
        let opened = self.unlock(&source, &access).await?;
        let key = self
            .wrap_key(&sse, source.name(), opened.schedule.data_key())
            .await?;
        if self.change_key(&source, opened, sse.record(), key).await? {
            Ok(())
        } else {
            Err(StoreError::Conflict)
        }
    }

    /// Puts another wrap of the data key into an object that is still as it was read. `false`: it is not any more.
    pub(super) async fn change_key(
        &self,
        located: &Located,
        opened: Opened,
        sse: SseRecord,
        key: WrappedKey,
    ) -> Result<bool, StoreError> {
        let name = located.name();
        let snapshot = self.meta.snapshot().await?;
        let object = load_object(&*snapshot, name).await?;
        let sealed = load_sealed(&*snapshot, name).await?;
        let Some((record, value)) = object else {
            return Ok(false);
        };
        if record != *located.record() || sealed.record() != Some(located.manifest()) {
            return Ok(false);
        }
        let rows = ObjectRows::with_attributes(
            &opened.schedule,
            name,
            ObjectRecord {
                sse,
                bucket_key: key.record.bucket_key(),
                ..record.clone()
            },
            opened.manifest.parts,
            key,
            located.manifest().attributes.clone(),
        )?;
        let batch = self
            .replacement(&*snapshot, name, rows, (&record, &value, &sealed))
            .await?;
        drop(snapshot);
        match self.meta.commit(batch).await {
            Ok(()) => Ok(true),
            Err(MetaError::Conflict) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }
}

/// AWS's words, of the API page of `UpdateObjectEncryption`.
const SOURCE_UNSUPPORTED: &str = "The UpdateObjectEncryption operation doesn't support source objects with the encryption type DSSE-KMS or SSE-C. Only source objects encrypted with SSE-S3 or SSE-KMS are supported.";
