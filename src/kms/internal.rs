//! Keys of the server itself: a class of their own. They have backing keys like every key, live in rows of their own,
//! have no ARN and no alias, and cannot be named by the KMS API.
//!
//! ```text
//! wrapped value: version 1 (1 byte) ‖ backing key version (4 bytes, big-endian) ‖ what the token made
//! AAD:           "strongroom internal v1" ‖ length of the name (1 byte) ‖ name ‖ the 5 bytes above ‖ caller's AAD
//! ```
//!
//! The AAD begins otherwise than a ciphertext's, so that neither can pass for the other even under one backing key.
//! For the metadata MAC key the five bytes are none: it has one backing key, in the same row.

use strongroom_hsm::{DataKey, SecretBytes, Wrapped};

use super::backing::Target;
use super::error::KmsError;
use super::key::{Cause, KeyManager, KeyRecord, Owner};
use super::{Kms, table};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;
const DOMAIN: &[u8] = b"strongroom internal v1";

/// What an internal key is for. (The metadata MAC key is not among them: nobody else wraps under it.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InternalKey {
    /// Data keys under SSE-S3.
    SseS3,
    /// The key that keeps the secrets of access keys.
    Credential,
}

impl InternalKey {
    /// Its name in rows and AAD. Never changes.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SseS3 => "sse-s3",
            Self::Credential => "credential",
        }
    }

    /// The backing key version that [`Kms::wrap_internal`] made this under. None: it did not make it.
    pub(crate) fn version_of(wrapped: &[u8]) -> Option<u32> {
        match wrapped.first_chunk::<HEADER_BYTES>()? {
            [VERSION, version @ ..] => Some(u32::from_be_bytes(*version)),
            _ => None,
        }
    }
}

/// The AAD of a wrap under the internal key `name`.
pub(super) fn aad(name: &str, header: &[u8], caller: &[u8]) -> Vec<u8> {
    // Names are a handful of constants, all short.
    let length = [u8::try_from(name.len()).unwrap_or(u8::MAX)];
    [DOMAIN, length.as_slice(), name.as_bytes(), header, caller].concat()
}

fn header(version: u32) -> Vec<u8> {
    [[VERSION].as_slice(), &version.to_be_bytes()].concat()
}

impl Kms {
    /// Wraps a data key under an internal key, which is made on its first use.
    ///
    /// # Errors
    ///
    /// By the HSM and the records.
    pub async fn wrap_internal(
        &self,
        purpose: InternalKey,
        aad: &[u8],
        data_key: &DataKey,
    ) -> Result<Vec<u8>, KmsError> {
        let owner = Owner::Internal(purpose);
        if !self.has_internal(&owner).await? {
            self.make_internal(&owner).await?;
        }
        let permit = self.permit_wrap(&owner).await?;
        let header = header(permit.version);
        let aad = self::aad(purpose.name(), &header, aad);
        let wrapped = self.wrap(permit, aad, SecretBytes::from(data_key)).await?;
        Ok([&header, wrapped.as_bytes()].concat())
    }

    /// Unwraps what [`Kms::wrap_internal`] made, for the same purpose and AAD.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidCiphertext`] for anything else; by the HSM and the records.
    pub async fn unwrap_internal(
        &self,
        purpose: InternalKey,
        aad: &[u8],
        wrapped: &[u8],
    ) -> Result<DataKey, KmsError> {
        let invalid = || KmsError::InvalidCiphertext;
        let (header, body) = wrapped
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(invalid)?;
        let [VERSION, version @ ..] = header else {
            return Err(invalid());
        };
        let token_wrapped = Wrapped::from_bytes(body).map_err(|_scheme| invalid())?;
        let owner = Owner::Internal(purpose);
        let version = u32::from_be_bytes(*version);
        let aad = self::aad(purpose.name(), header, aad);
        if !self.has_internal(&owner).await? {
            return Err(invalid());
        }
        let (secret, _material) = self
            .unwrap_under(&owner, version, aad, token_wrapped)
            .await?;
        DataKey::from_secret(&secret).map_err(|_length| invalid())
    }

    /// The version of the backing key that wraps for `purpose` now. Makes the first one.
    ///
    /// # Errors
    ///
    /// By the HSM and the records.
    pub async fn internal_version(&self, purpose: InternalKey) -> Result<u32, KmsError> {
        let owner = Owner::Internal(purpose);
        let row = table::head_row(&owner);
        let there = self.rows().await?.load("head of a key", row).await?;
        let head = if let Some(head) = there {
            head
        } else {
            self.make_internal(&owner).await?;
            self.rows().await?.head(&owner).await?
        };
        Ok(head.record.enabled(&owner)?.record.current)
    }

    /// The version of the backing key that made a value of [`Kms::wrap_internal`].
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidCiphertext`] for anything else.
    pub fn internal_version_of(wrapped: &[u8]) -> Result<u32, KmsError> {
        match wrapped.first_chunk::<HEADER_BYTES>() {
            Some([VERSION, version @ ..]) => Ok(u32::from_be_bytes(*version)),
            _ => Err(KmsError::InvalidCiphertext),
        }
    }

    async fn has_internal(&self, owner: &Owner) -> Result<bool, KmsError> {
        let rows = self.rows().await?;
        Ok(rows
            .load::<KeyRecord>("head of a key", table::head_row(owner))
            .await?
            .is_some())
    }

    async fn make_internal(&self, owner: &Owner) -> Result<(), KmsError> {
        let _making = self.lock_making(self.groups.making(None)?).await?;
        if self.has_internal(owner).await? {
            return Ok(());
        }
        // Read before, so that nothing can fail between the key and its commit.
        let rows = self.rows().await?;
        let made = self
            .make_backing(
                &Target::Version(owner, 1),
                Cause::Creation,
                self.default_place(),
            )
            .await?;
        let record = KeyRecord::new(made.record().created, KeyManager::Internal);
        let batch = rows
            .insert(table::head_row(owner), &record)
            .and(made.insert(&rows, owner, 1));
        // If another server was first, its key is there now.
        let _made_by_us = self.commit_made(made, batch).await?;
        Ok(())
    }
}
