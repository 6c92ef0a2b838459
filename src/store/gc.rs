//! The life of blobs: intent, reference, garbage. See the module's docs.

use std::sync::Arc;

use aws_lc_rs::rand;
use tracing::{debug, info, warn};

use super::record::{BodyRecord, PendingRecord, Uuid, body_row, pending_row};
use super::{Store, StoreError};
use crate::blob::{BlobId, BlobStore, BlobWriter};
use crate::meta::{Batch, KeyRange, MetaError, Snapshot, codec, table};

/// How many garbage rows one round looks at.
const ROUND_ROWS: usize = 1000;

/// A blob that is being written, under its intent row.
#[must_use = "a pending blob is committed with its record, or abandoned"]
pub(super) struct PendingBlob {
    pub(super) id: BlobId,
    intent: Vec<u8>,
    renew_at_ms: i64,
}

impl PendingBlob {
    /// What the record's batch must contain: the intent is still ours, and is over.
    pub(super) fn commit(&self) -> Batch {
        let row = pending_row(self.id.as_bytes());
        Batch::new()
            .unchanged(row.clone(), Some(&self.intent))
            .delete(row)
    }
}

impl Store {
    /// Writes the intent row of a fresh blob. Durable before the first byte of the blob.
    pub(super) async fn begin_blob(&self) -> Result<PendingBlob, StoreError> {
        let mut id = [0; BlobId::BYTES];
        rand::fill(&mut id).map_err(|_unspecified| StoreError::Random)?;
        let (intent, renew_at_ms) = self.lease();
        self.meta
            .commit(
                Batch::new()
                    .absent(pending_row(&id))
                    .put(pending_row(&id), intent.clone()),
            )
            .await?;
        Ok(PendingBlob {
            id: BlobId::from_bytes(id),
            intent,
            renew_at_ms,
        })
    }

    /// Opens the blob's writer.
    pub(super) async fn write_blob(
        &self,
        pending: &PendingBlob,
    ) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(self.blobs.create(pending.id).await?)
    }

    /// A sign of life, when it is time for one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] when the collector has claimed the blob.
    pub(super) async fn renew(&self, pending: &mut PendingBlob) -> Result<(), StoreError> {
        if self.now_ms() < pending.renew_at_ms {
            return Ok(());
        }
        let row = pending_row(pending.id.as_bytes());
        let (intent, renew_at_ms) = self.lease();
        match self
            .meta
            .commit(
                Batch::new()
                    .unchanged(row.clone(), Some(&pending.intent))
                    .put(row, intent.clone()),
            )
            .await
        {
            Ok(()) => {
                pending.intent = intent;
                pending.renew_at_ms = renew_at_ms;
                Ok(())
            }
            Err(MetaError::Conflict) => Err(StoreError::Conflict),
            Err(other) => Err(other.into()),
        }
    }

    /// Deletes a blob that no record refers to, for its request has failed. What cannot be deleted now is deleted by
    /// the collector when the lease is over.
    ///
    /// A batch whose outcome is unknown may have committed the blob: then it is left to the collector, too, which
    /// finds an intent row only if it has not.
    pub(super) async fn abandon(&self, pending: PendingBlob, why: &StoreError) {
        if matches!(why, StoreError::Meta(_)) {
            return;
        }
        let row = pending_row(pending.id.as_bytes());
        let deleted = match self
            .claim_and_delete(pending.id, row, &pending.intent)
            .await
        {
            // The collector was here before a slow writer finished: what came after it is deleted now.
            Ok(false) => self
                .blobs
                .delete(pending.id)
                .await
                .map_err(StoreError::from),
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            debug!(event = "gc.abandon_later", blob = %pending.id, %error);
        }
    }

    /// Claims a blob in a transaction of its own, then deletes it. Returns whether it was there to be claimed.
    async fn claim_and_delete(
        &self,
        id: BlobId,
        row: Vec<u8>,
        value: &[u8],
    ) -> Result<bool, StoreError> {
        let claimed = codec::encode(&PendingRecord {
            until_ms: 0,
            claimed: true,
        });
        match self
            .meta
            .commit(
                Batch::new()
                    .unchanged(row.clone(), Some(value))
                    .put(row.clone(), claimed),
            )
            .await
        {
            Ok(()) => {}
            Err(MetaError::Conflict) => return Ok(false),
            Err(other) => return Err(other.into()),
        }
        self.blobs.delete(id).await?;
        self.meta.commit(Batch::new().delete(row)).await?;
        Ok(true)
    }

    /// Takes one reference away from a body; its blobs become garbage with the last one.
    pub(super) async fn release_body(
        &self,
        snapshot: &dyn Snapshot,
        body: &Uuid,
    ) -> Result<Batch, StoreError> {
        let row = body_row(body);
        let Some(value) = snapshot.load(&row).await? else {
            return Err(StoreError::Meta(MetaError::Damaged("body")));
        };
        let mut record: BodyRecord = codec::decode("body", &value)?;
        let batch = Batch::new().unchanged(row.clone(), Some(&value));
        if record.references > 1 {
            record.references -= 1;
            return Ok(batch.put(row, codec::encode(&record)));
        }
        Ok(record.blob_ids().fold(batch.delete(row), |batch, blob| {
            batch.and(self.garbage(&blob))
        }))
    }

    /// Adds one reference to a body that is there.
    pub(super) async fn retain_body(
        &self,
        snapshot: &dyn Snapshot,
        body: &Uuid,
    ) -> Result<Batch, StoreError> {
        let row = body_row(body);
        let value = snapshot.load(&row).await?.ok_or(StoreError::Conflict)?;
        let mut record: BodyRecord = codec::decode("body", &value)?;
        record.references = record
            .references
            .checked_add(1)
            .ok_or(StoreError::Conflict)?;
        Ok(Batch::new()
            .unchanged(row.clone(), Some(&value))
            .put(row, codec::encode(&record)))
    }

    /// Makes a blob garbage.
    pub(super) fn garbage(&self, blob: &BlobId) -> Batch {
        let grace = i64::try_from(self.settings.garbage_grace.as_millis()).unwrap_or(i64::MAX);
        let record = PendingRecord {
            until_ms: self.now_ms().saturating_add(grace),
            claimed: false,
        };
        Batch::new().put(pending_row(blob.as_bytes()), codec::encode(&record))
    }

    fn lease(&self) -> (Vec<u8>, i64) {
        let lease = i64::try_from(self.settings.pending_lease.as_millis()).unwrap_or(i64::MAX);
        let now = self.now_ms();
        let record = PendingRecord {
            until_ms: now.saturating_add(lease),
            claimed: false,
        };
        (codec::encode(&record), now.saturating_add(lease / 3))
    }

    /// Deletes the blobs whose lease or grace is over. Returns how many.
    ///
    /// Each blob is claimed in a transaction of its own before it is deleted: a writer that comes late finds its
    /// intent changed and cannot commit.
    ///
    /// # Errors
    ///
    /// [`StoreError::Meta`], [`StoreError::Blob`]; what was not deleted stays garbage.
    pub async fn collect_garbage(&self) -> Result<usize, StoreError> {
        self.collect(self.now_ms()).await
    }

    /// Deletes all pending blobs and all garbage, whatever their lease says. For the start of a server that is the
    /// only one on its store: whoever wrote them is dead.
    ///
    /// # Errors
    ///
    /// As [`Store::collect_garbage`].
    pub async fn collect_after_restart(&self) -> Result<usize, StoreError> {
        self.collect(i64::MAX).await
    }

    async fn collect(&self, now_ms: i64) -> Result<usize, StoreError> {
        let mut range = KeyRange::prefix(&[table::PENDING_BLOB]);
        let mut deleted = 0;
        loop {
            let rows = self.meta.snapshot().await?.scan(&range, ROUND_ROWS).await?;
            let Some((last, _)) = rows.last() else { break };
            range.start = [last.as_slice(), &[0]].concat();
            for (row, value) in rows {
                // A row that fails keeps no other from being collected, and no server from starting.
                match self.collect_row(row, &value, now_ms).await {
                    Ok(was_due) => deleted += usize::from(was_due),
                    Err(error) => warn!(event = "gc.row_failed", %error),
                }
            }
        }
        if deleted > 0 {
            info!(event = "gc.collected", blobs = deleted);
        }
        Ok(deleted)
    }

    /// Deletes the blob of one row, if its time has come.
    async fn collect_row(
        &self,
        row: Vec<u8>,
        value: &[u8],
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let record: PendingRecord = codec::decode("pending blob", value)?;
        let id = row
            .get(1..)
            .and_then(|id| id.try_into().ok())
            .map(BlobId::from_bytes);
        let id = id.ok_or(MetaError::Damaged("pending blob"))?;
        if !record.claimed && record.until_ms > now_ms {
            return Ok(false);
        }
        self.claim_and_delete(id, row, value).await
    }

    /// The blob store, for reading.
    pub(super) fn blobs(&self) -> &Arc<dyn BlobStore> {
        &self.blobs
    }
}
