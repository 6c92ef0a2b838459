//! `PutObject`, and what every write shares: sealing a stream into a blob, and the batch that makes an object.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::bucket_key_use::WrappedKey;
use super::bucket_row::is_verified;
use super::digest::{Digested, Digests, SealedAttributes};
use super::gc::PendingBlob;
use super::record::{
    BodyRecord, ChecksumAlgorithm, ChecksumKind, Headers, KeyRecord, ManifestRecord, ObjectName,
    ObjectRecord, SseRecord, body_row,
};
use super::usage::index_object;
use super::{SseTarget, Store, StoreError, object_of};
use crate::auth::Authorised;
use crate::envelope::{KeySchedule, Manifest, ManifestPart, Sealed};
use crate::meta::{Batch, Snapshot, codec};

/// The longest body of one request: AWS's limit.
pub(super) const PUT_BYTES_MAX: u64 = 5 << 30;

/// The checksum of an object whose client asks for none: AWS's default.
pub const CHECKSUM_DEFAULT: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// What the client says the checksum is; asked when the body has ended, for it may come in a trailer.
pub(super) type ExpectedChecksum = Box<dyn FnOnce() -> Result<Option<Vec<u8>>, StoreError> + Send>;

/// A body on its way in.
pub struct Incoming {
    /// Plaintext. An error means that nothing of it may be kept.
    pub stream: BoxStream<'static, Result<Bytes, Box<dyn std::error::Error + Send + Sync>>>,
    /// `Content-MD5`.
    pub content_md5: Option<[u8; 16]>,
    /// Which checksum to keep.
    pub algorithm: ChecksumAlgorithm,
    /// Which checksum the client sends; often the same.
    pub claimed: Option<ChecksumAlgorithm>,
    /// What that should be.
    pub expected: ExpectedChecksum,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({})", self.algorithm.name())
    }
}

/// Conditions on what is there before.
#[derive(Debug, Clone, Default)]
pub struct WriteConditions {
    /// `If-Match`: an `ETag` without quotes, or `*`.
    pub if_match: Option<String>,
    /// `If-None-Match: *`.
    pub if_none_match: bool,
}

/// An object to be written.
#[derive(Debug)]
pub struct PutRequest {
    /// Which object.
    pub proof: Authorised,
    /// Encryption.
    pub sse: SseTarget,
    /// Headers to keep.
    pub headers: Headers,
    /// Conditions.
    pub conditions: WriteConditions,
    /// Body.
    pub incoming: Incoming,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Without quotes.
    pub etag: String,
    /// Length of the plaintext.
    pub size: u64,
    /// Milliseconds since 1970.
    pub last_modified_ms: i64,
    /// How it is encrypted.
    pub sse: SseRecord,
    /// Whether the answer says `BucketKeyEnabled`.
    pub bucket_key: bool,
    /// Its checksum.
    pub checksum: Option<(ChecksumKind, Vec<u8>)>,
}

/// A sealed blob that is durable but belongs to no record yet.
pub(super) struct SealedBlob {
    pub(super) pending: PendingBlob,
    pub(super) sealed: Sealed,
    pub(super) digested: Digested,
}

impl Store {
    /// Writes an object. Everything that was acknowledged is durable; a failure leaves what was there before.
    ///
    /// # Errors
    ///
    /// Everything that [`StoreError`] says of buckets, conditions, bodies, checksums and keys.
    pub async fn put(&self, request: PutRequest) -> Result<Written, StoreError> {
        let PutRequest {
            proof,
            sse,
            headers,
            conditions,
            incoming,
        } = request;
        let (bucket, key) = object_of(&proof)?;
        let snapshot = self.meta.snapshot().await?;
        if sse.record() != SseRecord::Customer {
            self.require_verified(is_verified(&proof)?).await?;
        }
        let name = ObjectName::new(&self.proven_bucket(&*snapshot, &proof).await?.record, key)?;
        // Checked again in the batch; here, so that a body is not sent in vain.
        let current = load_object(&*snapshot, &name)
            .await?
            .map(|(record, _)| record);
        conditions.check(current.as_ref())?;
        drop(snapshot);

        let algorithm = incoming.algorithm;
        // The intent and the data key do not wait for each other.
        let (key_made, pending) = tokio::join!(self.make_key(&sse, &name), self.begin_blob());
        let pending = pending?;
        let (schedule, key_record) = match key_made {
            Ok(made) => made,
            Err(error) => {
                self.abandon(pending, &error).await;
                return Err(error);
            }
        };
        let blob = self
            .seal_stream(
                &schedule,
                pending,
                incoming,
                sse.etag_is_md5(),
                PUT_BYTES_MAX,
            )
            .await?;

        let etag = match blob.digested.md5 {
            Some(md5) if sse.etag_is_md5() => hex::encode(md5),
            _ => opaque_etag()?,
        };
        let checksum = ChecksumKind {
            algorithm,
            composite: false,
        };
        let record = ObjectRecord {
            etag,
            size: blob.sealed.plaintext_bytes,
            last_modified_ms: self.now_ms(),
            sse: sse.record(),
            body: *blob.pending.id.as_bytes(),
            parts: None,
            headers,
            checksum: Some(checksum),
            bucket_key: key_record.record.bucket_key(),
        };
        let part = ManifestPart {
            number: 1,
            blob_id: *blob.pending.id.as_bytes(),
            salt: blob.sealed.salt,
            plaintext_bytes: blob.sealed.plaintext_bytes,
        };
        let attributes = SealedAttributes {
            checksum: blob.digested.checksum.clone(),
            claimed: None,
        };
        let rows = ObjectRows::seal(
            &schedule,
            &name,
            record,
            vec![part],
            key_record,
            &attributes,
        )?;
        let body = BodyRecord::new([blob.pending.id]);
        let commit = Batch::new()
            .put(body_row(blob.pending.id.as_bytes()), codec::encode(&body))
            .and(blob.pending.commit());
        if let Err(error) = self
            .commit_object(bucket, &name, &rows, &conditions, &commit)
            .await
        {
            self.abandon(blob.pending, &error).await;
            return Err(error);
        }
        Ok(rows.written(Some((checksum, attributes.checksum))))
    }

    /// Seals a stream into a blob and makes it durable. On failure the blob is gone.
    pub(super) async fn seal_stream(
        &self,
        schedule: &KeySchedule,
        mut pending: PendingBlob,
        incoming: Incoming,
        md5: bool,
        bytes_max: u64,
    ) -> Result<SealedBlob, StoreError> {
        match self
            .seal_into(schedule, &mut pending, incoming, md5, bytes_max)
            .await
        {
            Ok((sealed, digested)) => Ok(SealedBlob {
                pending,
                sealed,
                digested,
            }),
            Err(error) => {
                self.abandon(pending, &error).await;
                Err(error)
            }
        }
    }

    async fn seal_into(
        &self,
        schedule: &KeySchedule,
        pending: &mut PendingBlob,
        mut incoming: Incoming,
        md5: bool,
        bytes_max: u64,
    ) -> Result<(Sealed, Digested), StoreError> {
        let mut digests = Digests::new(
            incoming.algorithm,
            incoming.claimed,
            md5 || incoming.content_md5.is_some(),
        );
        let mut sealer = schedule.sealer(pending.id.as_bytes())?;
        let mut writer = self.write_blob(pending).await?;
        let mut bytes = 0u64;
        while let Some(frame) = incoming.stream.next().await {
            let frame = frame.map_err(body_error)?;
            bytes += frame.len() as u64;
            if bytes > bytes_max {
                return Err(StoreError::TooLarge(bytes_max));
            }
            digests.update(&frame);
            let mut plaintext: &[u8] = &frame;
            while let Some(run) = sealer.push(&mut plaintext)? {
                writer.write(run).await?;
                self.renew(pending).await?;
            }
        }
        let digested = digests.finish();
        if incoming.content_md5.is_some() && incoming.content_md5 != digested.md5 {
            return Err(StoreError::Md5Mismatch);
        }
        let claimed = incoming.claimed.unwrap_or(incoming.algorithm);
        if (incoming.expected)()?.is_some_and(|expected| expected != digested.of(claimed)) {
            return Err(StoreError::ChecksumMismatch(claimed.name()));
        }
        let (last_run, outcome) = sealer.finish()?;
        writer.write(&last_run).await?;
        writer.commit().await?;
        Ok((outcome, digested))
    }

    /// THE COMMIT POINT of an object: its rows, the body's reference, and the release of what was there before.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`] when the bucket went meanwhile; [`StoreError::PreconditionFailed`];
    /// [`StoreError::Conflict`] when `body` does not apply any more.
    pub(super) async fn commit_object(
        &self,
        bucket: &str,
        name: &ObjectName,
        rows: &ObjectRows,
        conditions: &WriteConditions,
        body: &Batch,
    ) -> Result<(), StoreError> {
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let batch = self
                .object_batch(&*snapshot, bucket, name, rows, conditions)
                .await?;
            Ok((batch.and(body.clone()), ()))
        })
        .await
    }

    /// The batch that puts these rows in the place of those that were read, of the same object and with the same body.
    pub(super) async fn replacement(
        &self,
        snapshot: &dyn Snapshot,
        name: &ObjectName,
        rows: ObjectRows,
        (old, object, sealed): (&ObjectRecord, &[u8], &SealedRow),
    ) -> Result<Batch, StoreError> {
        let index = index_object(
            name,
            sealed.key(),
            Some((&rows.key.record, rows.record.size)),
        );
        let held = self
            .hold_bucket_key(snapshot, &name.bucket, &rows.key, name.object_row())
            .await?;
        let batch = Batch::new()
            .unchanged(name.object_row(), Some(object))
            .put(name.object_row(), rows.object_value)
            .and(sealed.unchanged(name))
            .put(name.manifest_row(), rows.manifest_value)
            .and(index)
            .and(held);
        if old.bucket_key == rows.record.bucket_key {
            return Ok(batch);
        }
        Ok(batch.and(self.release_object(snapshot, name, old).await?))
    }

    pub(super) async fn object_batch(
        &self,
        snapshot: &dyn Snapshot,
        bucket: &str,
        name: &ObjectName,
        rows: &ObjectRows,
        conditions: &WriteConditions,
    ) -> Result<Batch, StoreError> {
        let bucket = self.bucket_named(snapshot, bucket, &name.bucket).await?;
        let current = load_object(snapshot, name).await?;
        conditions.check(current.as_ref().map(|(record, _)| record))?;
        let sealed = load_sealed(snapshot, name).await?;
        let mut batch = bucket
            .unchanged()
            .unchanged(
                name.object_row(),
                current.as_ref().map(|(_, value)| value.as_slice()),
            )
            .put(name.object_row(), rows.object_value.clone())
            .and(sealed.unchanged(name))
            .put(name.manifest_row(), rows.manifest_value.clone())
            .and(index_object(
                name,
                sealed.key(),
                Some((&rows.key.record, rows.record.size)),
            ))
            .and(
                self.hold_bucket_key(snapshot, &name.bucket, &rows.key, name.object_row())
                    .await?,
            );
        if let Some((old, _)) = current {
            if old.body != rows.record.body {
                batch = batch.and(self.release_body(snapshot, &old.body).await?);
            }
            if old.bucket_key != rows.record.bucket_key {
                batch = batch.and(self.release_object(snapshot, name, &old).await?);
            }
        }
        Ok(batch)
    }
}

impl WriteConditions {
    /// Whether the conditions hold for what is there now.
    pub(super) fn check(&self, current: Option<&ObjectRecord>) -> Result<(), StoreError> {
        if self.if_none_match && current.is_some() {
            return Err(StoreError::PreconditionFailed("If-None-Match"));
        }
        match (&self.if_match, current) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(StoreError::NoSuchKey(String::new())),
            (Some(etag), Some(record)) if etag == "*" || *etag == record.etag => Ok(()),
            (Some(_), Some(_)) => Err(StoreError::PreconditionFailed("If-Match")),
        }
    }
}

/// A body that is the plaintext of another object fails as that object does, not as a client's body.
fn body_error(error: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(error) => *error,
        Err(error) => StoreError::Body(error),
    }
}

/// The two rows of an object, sealed to each other.
pub(super) struct ObjectRows {
    pub(super) record: ObjectRecord,
    key: WrappedKey,
    object_value: Vec<u8>,
    manifest_value: Vec<u8>,
}

impl ObjectRows {
    /// Makes the rows: the manifest authenticates the parts, whose they are, and the row that is in clear.
    pub(super) fn seal(
        schedule: &KeySchedule,
        name: &ObjectName,
        record: ObjectRecord,
        parts: Vec<ManifestPart>,
        key: WrappedKey,
        attributes: &SealedAttributes,
    ) -> Result<Self, StoreError> {
        let attributes = schedule.seal_attributes(&name.identity(), &codec::encode(attributes))?;
        Self::with_attributes(schedule, name, record, parts, key, attributes)
    }

    /// The same, with attributes that are sealed already.
    pub(super) fn with_attributes(
        schedule: &KeySchedule,
        name: &ObjectName,
        record: ObjectRecord,
        parts: Vec<ManifestPart>,
        key: WrappedKey,
        attributes: Vec<u8>,
    ) -> Result<Self, StoreError> {
        let object_value = codec::encode(&record);
        let manifest = Manifest {
            identity: name.identity(),
            attributes_digest: row_digest(&object_value),
            parts,
        };
        let manifest = ManifestRecord {
            manifest: schedule.seal_manifest(&manifest)?,
            key: key.record.clone(),
            attributes,
        };
        let manifest_value = codec::encode(&manifest);
        Ok(Self {
            record,
            key,
            object_value,
            manifest_value,
        })
    }

    /// What to tell the client.
    pub(super) fn written(self, checksum: Option<(ChecksumKind, Vec<u8>)>) -> Written {
        let bucket_key = self.record.says_bucket_key();
        let ObjectRecord {
            etag,
            size,
            last_modified_ms,
            sse,
            ..
        } = self.record;
        Written {
            etag,
            size,
            last_modified_ms,
            sse,
            bucket_key,
            checksum,
        }
    }
}

/// What the manifest authenticates of an object's row: all of it.
pub(super) fn row_digest(object_value: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, object_value).as_ref());
    out
}

/// The object's record and its row's value.
pub(super) async fn load_object(
    snapshot: &dyn Snapshot,
    name: &ObjectName,
) -> Result<Option<(ObjectRecord, Vec<u8>)>, StoreError> {
    match snapshot.load(&name.object_row()).await? {
        Some(value) => Ok(Some((codec::decode("object", &value)?, value))),
        None => Ok(None),
    }
}

/// The row of an object's manifest as it was read, if there is one.
pub(super) struct SealedRow(Option<(Option<ManifestRecord>, Vec<u8>)>);

impl SealedRow {
    /// What is in it; nothing if it does not read.
    pub(super) fn record(&self) -> Option<&ManifestRecord> {
        self.0.as_ref()?.0.as_ref()
    }

    /// The encrypted data key in it.
    pub(super) fn key(&self) -> Option<&KeyRecord> {
        Some(&self.record()?.key)
    }

    /// Requires that the row is still as it was read: the index of dependants speaks of what it was.
    pub(super) fn unchanged(&self, name: &ObjectName) -> Batch {
        let value = self.0.as_ref().map(|(_, value)| value.as_slice());
        Batch::new().unchanged(name.manifest_row(), value)
    }
}

/// Reads the row of an object's manifest. One that is damaged keeps nobody from replacing or deleting it.
pub(super) async fn load_sealed(
    snapshot: &dyn Snapshot,
    name: &ObjectName,
) -> Result<SealedRow, StoreError> {
    let value = snapshot.load(&name.manifest_row()).await?;
    Ok(SealedRow(value.map(|value| {
        (codec::decode("manifest", &value).ok(), value)
    })))
}

/// An `ETag` that says nothing about the plaintext.
pub(super) fn opaque_etag() -> Result<String, StoreError> {
    let mut etag = [0; 16];
    rand::fill(&mut etag).map_err(|_unspecified| StoreError::Random)?;
    Ok(hex::encode(etag))
}
