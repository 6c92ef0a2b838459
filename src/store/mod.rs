//! Objects: the data plane.
//!
//! One use case a file. Each walks the same way: read a snapshot, get a data key, move sealed bytes, commit one
//! batch. The batch is the only commit point: before it nothing is visible, after it everything is durable.
//!
//! What is where:
//!
//! - [`record`] says what the rows are; [`StoreError`] who must act; [`digest`] what is computed over plaintext.
//! - `keys` gets a data key from the kind of encryption that an object has.
//! - `bucket_key` lies between the HSM and data keys; `bucket_key_cache` holds such keys for a short time, and
//!   `bucket_key_use` knows what hangs on them.
//! - `gc` owns the life of blobs: intent, reference, garbage.
//! - `usage` keeps the index of what hangs on which key.
//! - `put`, `get`, `copy`, `update`, `delete`, `list`, `bucket` (its rows in `bucket_row`), `bucket_policy`, `multipart`,
//!   `rewrap` are the use cases.
//!
//! A use case is told which bucket or object by the [`Authorised`] proof of the front end, and by nothing else: what was
//! not authorised cannot be named.
//!
//! # Life of a blob
//!
//! A blob is begun under an intent row with a lease ([`table::PENDING_BLOB`](crate::meta::table)). The batch that
//! commits its record deletes the intent row and asserts that the row is as it was written: a blob that the collector
//! has claimed cannot be committed any more. Committed blobs belong to a *body*, which counts its references (an
//! object and its copies share one). The batch that takes the last reference away turns the body's blobs into
//! garbage rows; the collector deletes those after a grace time, for readers under way.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::Authorised;
use crate::blob::BlobStore;
use crate::clock::Clock;
use crate::kms::{KeyWatch, Kms};
use crate::meta::{Batch, Meta, MetaError};

mod bucket;
mod bucket_key;
mod bucket_key_cache;
#[cfg(test)]
mod bucket_key_tests;
mod bucket_key_use;
mod bucket_policy;
mod bucket_row;
#[cfg(test)]
mod bucket_tests;
pub mod context;
mod copy;
mod customer;
mod delete;
pub mod digest;
mod error;
mod gc;
mod get;
mod keys;
mod list;
mod multipart;
mod put;
pub mod record;
mod rewrap;
mod update;
mod usage;

pub use bucket::{BUCKETS_OF_ACCOUNT_MAX, BucketListing, BucketsRequest, ListedBucket};
pub use bucket_key_cache::BucketKeyCounts;
pub use bucket_policy::{BUCKET_POLICY_BYTES_MAX, BucketAccess};
pub use copy::CopyRequest;
pub use customer::CustomerKey;
pub use error::StoreError;
pub use get::{Conditions, Located, ObjectBody, Reading, Selection};
pub use keys::{KeyAccess, SseTarget};
pub use list::{LIST_ENTRIES_MAX, ListRequest, Listing, UploadListing};
pub use multipart::{CompletePart, CompleteRequest, PartListing, UploadTarget};
pub use put::{CHECKSUM_DEFAULT, Incoming, PutRequest, WriteConditions, Written};
pub use update::UpdateRequest;
pub use usage::{DependantIndex, Dependency, dependency, index_bucket_key};

use bucket_key_cache::BucketKeyCache;

/// The bucket of a proof.
fn bucket_of(proof: &Authorised) -> Result<&str, StoreError> {
    proof.bucket().ok_or(StoreError::Proof)
}

/// The bucket and the object key of a proof.
fn object_of(proof: &Authorised) -> Result<(&str, &str), StoreError> {
    proof.object().ok_or(StoreError::Proof)
}

/// How often a use case reads and decides again after a conflict.
const CONFLICT_RETRIES_MAX: usize = 32;
/// After so many conflicts it waits for its turn in this process: many writers of one row would keep each other from
/// coming through. Conflicts with other servers go on to be retried.
const CONFLICTS_BEFORE_TURN: usize = 2;

/// How long a bucket key stays in memory unless the operator says otherwise.
pub const BUCKET_KEY_LIFETIME_DEFAULT: Duration = Duration::from_mins(5);

/// What the store may be told.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// How long garbage is kept for readers under way.
    pub garbage_grace: Duration,
    /// How long a pending blob is its writer's without a sign of life.
    pub pending_lease: Duration,
    /// How long a bucket key stays in memory; with zero, every use of one asks the HSM.
    pub bucket_key_lifetime: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            garbage_grace: Duration::from_mins(15),
            pending_lease: Duration::from_hours(1),
            bucket_key_lifetime: BUCKET_KEY_LIFETIME_DEFAULT,
        }
    }
}

/// The data plane.
#[derive(Debug, Clone)]
pub struct Store {
    meta: Arc<dyn Meta>,
    blobs: Arc<dyn BlobStore>,
    kms: Arc<Kms>,
    clock: Arc<dyn Clock>,
    settings: StoreSettings,
    bucket_keys: Arc<BucketKeyCache>,
    turn: Arc<tokio::sync::Mutex<()>>,
    read_policies: Arc<bucket_policy::ReadPolicies>,
    /// One at a time gives the buckets of an older store their MACs.
    sealing: Arc<tokio::sync::Mutex<()>>,
    /// When the HSM, which has not been there since the start, was last asked in vain for the key of these MACs.
    away_since: Arc<tokio::sync::Mutex<Option<tokio::time::Instant>>>,
}

impl Store {
    /// A store on these seams.
    pub fn new(
        meta: Arc<dyn Meta>,
        blobs: Arc<dyn BlobStore>,
        kms: Arc<Kms>,
        clock: Arc<dyn Clock>,
        settings: StoreSettings,
    ) -> Self {
        let bucket_keys = Arc::new(BucketKeyCache::new(settings.bucket_key_lifetime));
        let held: Arc<dyn KeyWatch> = bucket_keys.clone();
        kms.watch(Arc::downgrade(&held));
        Self {
            meta,
            blobs,
            kms,
            clock,
            settings,
            bucket_keys,
            turn: Arc::default(),
            read_policies: Arc::default(),
            sealing: Arc::default(),
            away_since: Arc::default(),
        }
    }

    /// How often bucket keys spared a call of the HSM, and how often they did not.
    pub fn bucket_key_counts(&self) -> BucketKeyCounts {
        self.bucket_keys.counts()
    }

    /// Milliseconds since 1970.
    fn now_ms(&self) -> i64 {
        let now = self.clock.now();
        now.unix_timestamp() * 1000 + i64::from(now.millisecond())
    }

    /// Reads, decides and commits until no other batch came between.
    async fn commit_deciding<T, F, Fut>(&self, mut decide: F) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<(Batch, T), StoreError>>,
    {
        let mut turn = None;
        for attempt in 0..CONFLICT_RETRIES_MAX {
            if attempt == CONFLICTS_BEFORE_TURN {
                turn = Some(self.turn.lock().await);
            }
            let (batch, outcome) = decide().await?;
            match self.meta.commit(batch).await {
                Ok(()) => return Ok(outcome),
                Err(MetaError::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
        drop(turn);
        Err(StoreError::Conflict)
    }
}
