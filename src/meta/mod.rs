//! Records: an ordered, transactional key-value store.
//!
//! Keys are ordered by their bytes. A transaction is a bounded [`Batch`] of preconditions, puts and deletes; it is
//! serialisable, and durable (flushed to stable storage) before [`Meta::commit`] returns. Reads go to a
//! [`Snapshot`] and never see half a batch. This much an embedded engine and a shared database both offer; nothing
//! above this module asks for more.
//!
//! Rows hold ciphertext and records, never plaintext of an object and never a data key. What a row means is known to
//! its owner: each module writes under a [`table`] prefix of its own.

use std::fmt;

use async_trait::async_trait;

pub mod codec;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod panicking;
mod redb;
pub mod table;

#[cfg(test)]
pub(crate) use panicking::PanickingMeta;
pub use redb::RedbMeta;

/// The most operations (preconditions, puts and deletes together) of one batch.
pub const BATCH_OPERATIONS_MAX: usize = 65_536;
/// The longest key of a row.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// The largest value of a row.
pub const VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What must hold for a batch to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// No row has this key.
    Absent(Vec<u8>),
    /// The row of this key has just this value.
    Unchanged(Vec<u8>, Vec<u8>),
    /// No row has a key in `start..end`.
    RangeEmpty(KeyRange),
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Inserts or replaces.
    Put(Vec<u8>, Vec<u8>),
    /// Deletes; a row that is not there is deleted already.
    Delete(Vec<u8>),
}

/// Keys from `start` (included) to `end` (excluded), by bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub start: Vec<u8>,
    /// First key beyond.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// All keys that begin with `prefix`. A prefix of nothing but `0xFF` bytes has no successor and is refused by
    /// [`Meta::commit`] as an empty range; no table prefix is one.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            start: prefix.to_vec(),
            end: successor(prefix),
        }
    }
}

/// The first key that is greater than all keys that begin with `prefix`. Empty when there is none.
pub fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// A transaction: everything or nothing.
#[derive(Default, Clone, PartialEq, Eq)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    preconditions: Vec<Precondition>,
    writes: Vec<Write>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that no row has `key`.
    pub fn absent(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.preconditions.push(Precondition::Absent(key.into()));
        self
    }

    /// Requires that the row of `key` is still as it was read: this value, or absent.
    pub fn unchanged(mut self, key: impl Into<Vec<u8>>, value: Option<&[u8]>) -> Self {
        self.preconditions.push(match value {
            Some(value) => Precondition::Unchanged(key.into(), value.to_vec()),
            None => Precondition::Absent(key.into()),
        });
        self
    }

    /// Requires that `range` holds no row.
    pub fn range_empty(mut self, range: KeyRange) -> Self {
        self.preconditions.push(Precondition::RangeEmpty(range));
        self
    }

    /// Inserts or replaces a row.
    pub fn put(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Put(key.into(), value.into()));
        self
    }

    /// Deletes a row.
    pub fn delete(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// Everything of `other` after everything of this.
    pub fn and(mut self, other: Batch) -> Self {
        self.preconditions.extend(other.preconditions);
        self.writes.extend(other.writes);
        self
    }

    /// Its preconditions.
    pub fn preconditions(&self) -> &[Precondition] {
        &self.preconditions
    }

    /// Its writes, in order.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Batch({} preconditions, {} writes)",
            self.preconditions.len(),
            self.writes.len()
        )
    }
}

/// A row as read: key, value.
pub type Row = (Vec<u8>, Vec<u8>);

/// The store of records.
#[async_trait]
pub trait Meta: fmt::Debug + Send + Sync + 'static {
    /// Applies `batch` if all its preconditions hold, and makes it durable. A failed batch changes nothing and fails
    /// no other batch that is committed with it.
    ///
    /// Dropping the future does not undo the batch: it may still be applied.
    ///
    /// # Errors
    ///
    /// [`MetaError::Conflict`] when a precondition does not hold: read again and decide again.
    /// [`MetaError::Limit`] beyond the limits of this module. [`MetaError::Busy`] when too many batches wait.
    /// After [`MetaError::Storage`] the batch may have been applied or not.
    async fn commit(&self, batch: Batch) -> Result<(), MetaError>;

    /// The store as it is now, unaffected by later batches. Sees every batch whose commit has returned.
    ///
    /// # Errors
    ///
    /// [`MetaError::Storage`].
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError>;
}

/// A consistent view. Short-lived: an old one holds space.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// [`MetaError::Storage`].
    async fn load(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError>;

    /// The first `limit` rows of `range`, in order.
    ///
    /// # Errors
    ///
    /// [`MetaError::Storage`].
    async fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, MetaError>;
}

/// What can go wrong with records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// Caller: a precondition does not hold.
    #[error("the records have changed meanwhile")]
    Conflict,
    /// Caller: beyond a limit.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Retry: too many batches wait.
    #[error("the metadata store's queue is full")]
    Busy,
    /// Operator: a row does not read as what it should be.
    #[error("damaged record: {0}")]
    Damaged(&'static str),
    /// Operator: the engine failed.
    #[error("metadata store: {action} failed")]
    Storage {
        /// What it was doing.
        action: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
