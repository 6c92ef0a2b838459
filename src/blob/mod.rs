//! Sealed bytes, by [`BlobId`].
//!
//! A blob is written once, front to back, made durable, and never changed. This module sees ciphertext only. Who
//! refers to a blob is known to `store`, whose metadata commit is the commit point: a blob without a record is
//! garbage.

use std::fmt;

use async_trait::async_trait;

#[cfg(test)]
mod conformance;
mod fs;

pub use fs::FsBlobs;

/// Names a blob for ever, independent of backend and path. Random, and chosen before the first byte is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId([u8; Self::BYTES]);

impl BlobId {
    /// Length of the identity.
    pub const BYTES: usize = 16;

    /// The identity with these bytes, which the caller took from a random generator or from a record.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

/// Where sealed bytes are kept.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Begins a blob. Nothing can be read under `id` until the writer commits; a writer that is dropped, or whose
    /// process dies, leaves nothing that [`BlobStore::open`] finds.
    ///
    /// # Errors
    ///
    /// [`BlobError::Storage`], or [`BlobError::Full`].
    async fn create(&self, id: BlobId) -> Result<Box<dyn BlobWriter>, BlobError>;

    /// Opens a committed blob.
    ///
    /// # Errors
    ///
    /// [`BlobError::NotFound`]; [`BlobError::Storage`].
    async fn open(&self, id: BlobId) -> Result<Box<dyn BlobReader>, BlobError>;

    /// Deletes a blob and what a dead writer left of it. One that is not there is deleted already. Durable.
    ///
    /// # Errors
    ///
    /// [`BlobError::Storage`].
    async fn delete(&self, id: BlobId) -> Result<(), BlobError>;
}

/// A blob in the making.
#[async_trait]
pub trait BlobWriter: Send {
    /// Appends. Returns when the bytes may be forgotten by the caller, not when they are durable.
    ///
    /// # Errors
    ///
    /// [`BlobError::Storage`], or [`BlobError::Full`]; the writer is of no use then.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError>;

    /// Makes bytes and name durable, and the blob readable.
    ///
    /// # Errors
    ///
    /// As [`BlobWriter::write`]; the blob may then be there or not.
    async fn commit(self: Box<Self>) -> Result<(), BlobError>;
}

/// A committed blob, open for reading. Reading goes on even if the blob is deleted meanwhile.
#[async_trait]
#[expect(
    clippy::len_without_is_empty,
    reason = "no blob is empty: it has a header"
)]
pub trait BlobReader: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Exactly `length` bytes from `offset`.
    ///
    /// # Errors
    ///
    /// [`BlobError::Short`] when the blob ends before; [`BlobError::Storage`].
    async fn read_at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, BlobError>;
}

/// What can go wrong with sealed bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// Operator: a record names a blob that is not there.
    #[error("blob {0} is missing")]
    NotFound(BlobId),
    /// Operator: shorter than its record says.
    #[error("blob {0} is cut short")]
    Short(BlobId),
    /// Operator: no space left.
    #[error("no space left for blobs")]
    Full(#[source] std::io::Error),
    /// Operator: the store failed.
    #[error("blob store: {action} failed")]
    Storage {
        /// What it was doing.
        action: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}
