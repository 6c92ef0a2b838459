//! Multipart uploads.
//!
//! One data key seals all parts; each request that needs it unwraps it. A part's record carries a tag under the data
//! key, so that Complete believes only what was uploaded. A completed object is a list of the parts' blobs.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use md5::{Digest as _, Md5};

use super::bucket_key_use::WrappedKey;
use super::bucket_row::is_verified;
use super::digest::{Checksum, SealedAttributes};
use super::put::{Incoming, ObjectRows, SealedBlob, opaque_etag};
use super::record::{
    BodyRecord, ChecksumAlgorithm, ChecksumKind, Headers, KeptContext, ObjectName, ObjectRecord,
    PartRecord, SseRecord, UploadRecord, Uuid, body_row, bucket_key_use_row, part_row, part_rows,
};
use super::usage::index_upload;
use super::{KeyAccess, SseTarget, Store, StoreError, WriteConditions, Written, object_of};
use crate::auth::{AccountId, Authorised};
use crate::blob::BlobId;
use crate::envelope::{EnvelopeError, KeySchedule, ManifestPart, PARTS_MAX};
use crate::meta::{Batch, KeyRange, MetaError, Snapshot, codec};

/// The shortest part that is not the last: AWS's limit.
pub(super) const PART_BYTES_MIN: u64 = 5 << 20;
/// The longest part: AWS's limit.
pub(super) const PART_BYTES_MAX: u64 = 5 << 30;
/// The longest object: AWS's limit.
pub(super) const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// An upload, found.
#[derive(Debug)]
pub struct UploadTarget {
    name: ObjectName,
    bucket: String,
    id: Uuid,
    record: UploadRecord,
    /// The account that owns its bucket.
    owner: AccountId,
    /// Whether it was found by verified records.
    verified: bool,
}

impl UploadTarget {
    /// The upload as it is now. Its data key stays, but may have been wrapped again since it was found.
    async fn now(&self, snapshot: &dyn Snapshot) -> Result<(UploadRecord, Vec<u8>), StoreError> {
        let value = snapshot
            .load(&self.name.upload_row(&self.id))
            .await?
            .ok_or_else(|| StoreError::NoSuchUpload(hex::encode(self.id)))?;
        Ok((codec::decode("upload", &value)?, value))
    }

    /// What is in clear.
    pub fn record(&self) -> &UploadRecord {
        &self.record
    }

    /// The account that owns its bucket, and so the upload.
    pub fn owner(&self) -> &AccountId {
        &self.owner
    }

    /// The caller's encryption context, without what the server added.
    pub fn caller_context(&self) -> KeptContext<'_> {
        self.record.key.kept_context()
    }

    /// Whether an answer says `BucketKeyEnabled`.
    pub fn says_bucket_key(&self) -> bool {
        matches!(self.record.sse, SseRecord::Kms(_)) && self.record.key.bucket_key().is_some()
    }
}

/// A part as Complete names it.
#[derive(Debug, Clone)]
pub struct CompletePart {
    /// Part number.
    pub number: u32,
    /// Without quotes.
    pub etag: String,
    /// Its checksum, if the client says it.
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
}

/// An upload to be completed.
#[derive(Debug)]
pub struct CompleteRequest {
    /// Which upload.
    pub upload: UploadTarget,
    /// How its data key is opened.
    pub access: KeyAccess,
    /// The parts in order.
    pub parts: Vec<CompletePart>,
    /// The object's checksum, if the client says it, without `-N`.
    pub checksum: Option<Vec<u8>>,
    /// The object's size, if the client says it.
    pub size: Option<u64>,
    /// Conditions on what is there before.
    pub conditions: WriteConditions,
}

/// Parts of an upload: number, record and checksum are in clear only as far as the record is.
#[derive(Debug)]
pub struct PartListing {
    /// Parts in order.
    pub parts: Vec<(u32, PartRecord)>,
    /// The last number, if there is more.
    pub next: Option<u32>,
}

impl Store {
    /// Begins an upload.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`]; what the KMS says.
    pub async fn create_upload(
        &self,
        proof: &Authorised,
        sse: &SseTarget,
        headers: Headers,
        (checksum, checksum_chosen): (ChecksumKind, bool),
    ) -> Result<Uuid, StoreError> {
        let (bucket, key) = object_of(proof)?;
        if sse.record() != SseRecord::Customer {
            self.require_verified(is_verified(proof)?).await?;
        }
        let name = ObjectName::new(&self.load_bucket(proof).await?, key)?;
        // The schedule is dropped here: the data key is unwrapped again for every part.
        let (_, key) = self.make_key(sse, &name).await?;
        let mut id: Uuid = [0; 16];
        rand::fill(&mut id).map_err(|_unspecified| StoreError::Random)?;
        let record = UploadRecord {
            initiated_ms: self.now_ms(),
            sse: sse.record(),
            key: key.record.clone(),
            headers,
            checksum: Some(checksum),
            checksum_chosen,
        };
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let bucket = self.bucket_named(&*snapshot, bucket, &name.bucket).await?;
            let row = name.upload_row(&id);
            let batch = bucket
                .unchanged()
                .put(row.clone(), codec::encode(&record))
                .and(index_upload(&name, &id, None, Some(&record.key)))
                .and(
                    self.hold_bucket_key(&*snapshot, &name.bucket, &key, row)
                        .await?,
                );
            Ok((batch, ()))
        })
        .await?;
        Ok(id)
    }

    /// Finds an upload. No HSM.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchUpload`]; [`StoreError::NoSuchBucket`].
    pub async fn locate_upload(
        &self,
        proof: &Authorised,
        upload: &str,
    ) -> Result<UploadTarget, StoreError> {
        let (bucket, key) = object_of(proof)?;
        let missing = || StoreError::NoSuchUpload(upload.to_owned());
        let mut id: Uuid = [0; 16];
        let snapshot = self.meta.snapshot().await?;
        let bucket_record = self.proven_bucket(&*snapshot, proof).await?.record;
        hex::decode_to_slice(upload, &mut id).map_err(|_not_hex| missing())?;
        let name = ObjectName::new(&bucket_record, key)?;
        let value = snapshot
            .load(&name.upload_row(&id))
            .await?
            .ok_or_else(missing)?;
        Ok(UploadTarget {
            name,
            bucket: bucket.to_owned(),
            id,
            record: codec::decode("upload", &value)?,
            owner: bucket_record.owner(self.kms.account()),
            verified: is_verified(proof)?,
        })
    }

    /// The data key of an upload.
    async fn upload_key(
        &self,
        upload: &UploadTarget,
        access: &KeyAccess,
    ) -> Result<KeySchedule, StoreError> {
        if upload.record.sse != SseRecord::Customer {
            self.require_verified(upload.verified).await?;
        }
        let opened = self.open_key(&upload.record.key, access, &upload.name);
        match opened.await {
            Err(StoreError::KeyMoved) => Err(self.upload_moved_or_lost(upload).await?),
            opened => opened,
        }
    }

    /// Whether an upload that was found hangs on another key by now, or has lost the one that it had.
    async fn upload_moved_or_lost(&self, upload: &UploadTarget) -> Result<StoreError, StoreError> {
        let snapshot = self.meta.snapshot().await?;
        let (now, _) = upload.now(&*snapshot).await?;
        Ok(if now.key == upload.record.key {
            MetaError::Damaged("bucket key").into()
        } else {
            StoreError::KeyMoved
        })
    }

    /// Writes a part. A part of the same number is replaced.
    ///
    /// # Errors
    ///
    /// As [`Store::put`]; [`StoreError::NoSuchUpload`] when the upload was completed or aborted meanwhile.
    pub async fn put_part(
        &self,
        upload: &UploadTarget,
        access: &KeyAccess,
        number: u32,
        incoming: Incoming,
    ) -> Result<(PartRecord, Vec<u8>), StoreError> {
        let (schedule, pending) = tokio::join!(self.upload_key(upload, access), self.begin_blob());
        let pending = pending?;
        let schedule = match schedule {
            Ok(schedule) => schedule,
            Err(error) => {
                self.abandon(pending, &error).await;
                return Err(error);
            }
        };
        let md5 = matches!(upload.record.sse, SseRecord::S3);
        let claimed = incoming.claimed.unwrap_or(incoming.algorithm);
        let blob = self
            .seal_stream(&schedule, pending, incoming, md5, PART_BYTES_MAX)
            .await?;
        let checksum = blob.digested.of(claimed).to_vec();
        match self
            .commit_part(upload, &schedule, number, &blob, md5)
            .await
        {
            Ok(record) => Ok((record, checksum)),
            Err(error) => {
                self.abandon(blob.pending, &error).await;
                Err(error)
            }
        }
    }

    async fn commit_part(
        &self,
        upload: &UploadTarget,
        schedule: &KeySchedule,
        number: u32,
        blob: &SealedBlob,
        md5: bool,
    ) -> Result<PartRecord, StoreError> {
        let attributes = codec::encode(&SealedAttributes {
            checksum: blob.digested.checksum.clone(),
            claimed: blob.digested.claimed.clone(),
        });
        let etag = match blob.digested.md5 {
            Some(digest) if md5 => hex::encode(digest),
            _ => opaque_etag()?,
        };
        let mut record = PartRecord {
            blob: *blob.pending.id.as_bytes(),
            salt: blob.sealed.salt,
            size: blob.sealed.plaintext_bytes,
            etag,
            last_modified_ms: self.now_ms(),
            attributes: schedule.seal_attributes(&upload.id, &attributes)?,
            tag: [0; 32],
        };
        record.tag = schedule.part_tag(&record.tagged_fields(&upload.id, number));
        let row = part_row(&upload.id, number);
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let (_, value) = upload.now(&*snapshot).await?;
            let old = snapshot.load(&row).await?;
            let mut batch = Batch::new()
                .unchanged(upload.name.upload_row(&upload.id), Some(&value))
                .unchanged(row.clone(), old.as_deref())
                .put(row.clone(), codec::encode(&record))
                .and(blob.pending.commit());
            if let Some(old) = old {
                let old: PartRecord = codec::decode("part", &old)?;
                batch = batch.and(self.garbage(&BlobId::from_bytes(old.blob)));
            }
            Ok((batch, ()))
        })
        .await?;
        Ok(record)
    }

    /// Lists parts after number `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Meta`].
    pub async fn list_parts(
        &self,
        upload: &UploadTarget,
        after: u32,
        max: usize,
    ) -> Result<PartListing, StoreError> {
        let mut range = part_rows(&upload.id);
        range.start = part_row(&upload.id, after.saturating_add(1));
        let mut parts = scan_parts(&*self.meta.snapshot().await?, &range, max + 1).await?;
        let more = parts.len() > max;
        parts.truncate(max);
        let next = parts.last().map(|(number, ..)| *number).filter(|_| more);
        Ok(PartListing {
            parts: parts
                .into_iter()
                .map(|(number, record, _)| (number, record))
                .collect(),
            next,
        })
    }

    /// Aborts an upload; its parts become garbage. No HSM.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchUpload`].
    pub async fn abort_upload(&self, upload: &UploadTarget) -> Result<(), StoreError> {
        self.commit_deciding(|| async {
            let snapshot = self.meta.snapshot().await?;
            let (record, value) = upload.now(&*snapshot).await?;
            let row = upload.name.upload_row(&upload.id);
            let mut batch = Batch::new()
                .unchanged(row.clone(), Some(&value))
                .delete(row.clone())
                .and(index_upload(
                    &upload.name,
                    &upload.id,
                    Some(&record.key),
                    None,
                ));
            if let Some(id) = record.key.bucket_key() {
                let bucket = &upload.name.bucket;
                batch = batch.and(
                    self.release_bucket_key(&*snapshot, bucket, &id, &row)
                        .await?,
                );
            }
            let parts = scan_parts(&*snapshot, &part_rows(&upload.id), PARTS_MAX).await?;
            batch = no_other_parts(batch, &upload.id, parts.iter().map(|(number, ..)| *number));
            for (number, record, value) in parts {
                let row = part_row(&upload.id, number);
                batch = batch
                    .unchanged(row.clone(), Some(&value))
                    .delete(row)
                    .and(self.garbage(&BlobId::from_bytes(record.blob)));
            }
            Ok((batch, ()))
        })
        .await
    }

    /// Completes an upload: THE COMMIT POINT of its object.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidPart`], [`StoreError::InvalidPartOrder`], [`StoreError::PartTooSmall`];
    /// [`StoreError::ChecksumMismatch`]; [`StoreError::Damaged`] when a part's record is not what was written.
    pub async fn complete_upload(&self, request: CompleteRequest) -> Result<Written, StoreError> {
        let CompleteRequest {
            upload,
            access,
            parts,
            checksum,
            size,
            conditions,
        } = request;
        if parts.is_empty() || parts.len() > PARTS_MAX {
            return Err(StoreError::InvalidRequest(
                "You must specify at least one part".into(),
            ));
        }
        if !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(StoreError::InvalidPartOrder);
        }
        let snapshot = self.meta.snapshot().await?;
        let uploaded = scan_parts(&*snapshot, &part_rows(&upload.id), PARTS_MAX).await?;
        drop(snapshot);
        let schedule = self.upload_key(&upload, &access).await?;
        let (mut used, unused) = select_parts(uploaded, &parts)?;
        let object_checksum = Self::prove_parts(&schedule, &upload, &parts, &mut used)?;
        let total: u64 = used.iter().map(|part| part.record.size).sum();
        if total > OBJECT_BYTES_MAX {
            return Err(StoreError::TooLarge(OBJECT_BYTES_MAX));
        }
        if size.is_some_and(|size| size != total) {
            return Err(StoreError::InvalidRequest(
                "The size of the object is not what x-amz-mp-object-size says".into(),
            ));
        }
        if let (Some(expected), Some((kind, found))) = (&checksum, &object_checksum)
            && expected != found
        {
            return Err(StoreError::ChecksumMismatch(kind.algorithm.name()));
        }
        let record = ObjectRecord {
            etag: multipart_etag(&used)?,
            size: total,
            last_modified_ms: self.now_ms(),
            sse: upload.record.sse.clone(),
            body: upload.id,
            parts: Some(
                u32::try_from(used.len()).map_err(|_too_many| StoreError::InvalidPartOrder)?,
            ),
            headers: upload.record.headers.clone(),
            checksum: object_checksum.as_ref().map(|(kind, _)| *kind),
            bucket_key: upload.record.key.bucket_key(),
        };
        let attributes = SealedAttributes {
            checksum: object_checksum
                .as_ref()
                .map(|(_, bytes)| bytes.clone())
                .unwrap_or_default(),
            claimed: None,
        };
        let manifest_parts: Vec<_> = used.iter().map(UsedPart::manifest_part).collect();
        let commit = self.completion(&upload, &used, &unused);
        let rows = self
            .commit_deciding(|| async {
                let snapshot = self.meta.snapshot().await?;
                // The same data key, perhaps wrapped by another key meanwhile: the object is to have the newest wrap.
                let (now, value) = upload.now(&*snapshot).await?;
                let mut record = record.clone();
                record.sse.clone_from(&now.sse);
                record.bucket_key = now.key.bucket_key();
                let parts = manifest_parts.clone();
                let rows = ObjectRows::seal(
                    &schedule,
                    &upload.name,
                    record,
                    parts,
                    // A bucket key has its row: the upload hangs on it.
                    WrappedKey::of(now.key.clone()),
                    &attributes,
                )?;
                let row = upload.name.upload_row(&upload.id);
                let mut batch = self
                    .object_batch(&*snapshot, &upload.bucket, &upload.name, &rows, &conditions)
                    .await?
                    .unchanged(row.clone(), Some(&value))
                    .delete(row.clone())
                    .and(index_upload(&upload.name, &upload.id, Some(&now.key), None))
                    .and(commit.clone());
                if let Some(id) = now.key.bucket_key() {
                    // The object hangs on it instead, from this very batch.
                    batch = batch.delete(bucket_key_use_row(&id, &row));
                }
                Ok((batch, rows))
            })
            .await?;
        Ok(rows.written(object_checksum))
    }

    /// Verifies every used part's tag and checksum, and computes the object's checksum.
    fn prove_parts(
        schedule: &KeySchedule,
        upload: &UploadTarget,
        named: &[CompletePart],
        used: &mut [UsedPart],
    ) -> Result<Option<(ChecksumKind, Vec<u8>)>, StoreError> {
        let kind = upload.record.checksum;
        let mut whole: Option<Vec<u8>> = None;
        let mut composite = kind
            .filter(|kind| kind.composite)
            .map(|kind| Checksum::new(kind.algorithm));
        for (part, named) in used.iter_mut().zip(named) {
            let fields = part.record.tagged_fields(&upload.id, part.number);
            schedule.verify_part_tag(&fields, &part.record.tag)?;
            let attributes = schedule.open_attributes(&upload.id, &part.record.attributes)?;
            let attributes: SealedAttributes = codec::decode("attributes", &attributes)?;
            if !attributes.has(kind, named.checksum.as_ref()) {
                return Err(StoreError::InvalidPart(part.number));
            }
            if let Some(composite) = &mut composite {
                composite.update(&attributes.checksum);
            } else if let Some(kind) = kind {
                whole = match whole {
                    None => Some(attributes.checksum),
                    Some(so_far) => {
                        kind.algorithm
                            .combine(&so_far, &attributes.checksum, part.record.size)
                    }
                };
            }
        }
        let checksum = composite.map(Checksum::finish).or(whole);
        Ok(kind.zip(checksum))
    }

    /// What the completion does to the parts.
    fn completion(&self, upload: &UploadTarget, used: &[UsedPart], unused: &[UsedPart]) -> Batch {
        let body = BodyRecord::new(used.iter().map(|part| BlobId::from_bytes(part.record.blob)));
        let mut batch = Batch::new().put(body_row(&upload.id), codec::encode(&body));
        let mut numbers: Vec<u32> = used.iter().chain(unused).map(|part| part.number).collect();
        numbers.sort_unstable();
        batch = no_other_parts(batch, &upload.id, numbers);
        for part in used {
            let row = part_row(&upload.id, part.number);
            batch = batch.unchanged(row.clone(), Some(&part.value)).delete(row);
        }
        for part in unused {
            let row = part_row(&upload.id, part.number);
            batch = batch
                .unchanged(row.clone(), Some(&part.value))
                .delete(row)
                .and(self.garbage(&BlobId::from_bytes(part.record.blob)));
        }
        batch
    }
}

impl SealedAttributes {
    /// Whether a part's checksum is the one that Complete names, if it names one.
    fn has(
        &self,
        kept: Option<ChecksumKind>,
        named: Option<&(ChecksumAlgorithm, Vec<u8>)>,
    ) -> bool {
        let Some((algorithm, bytes)) = named else {
            return true;
        };
        let claimed = self
            .claimed
            .as_ref()
            .filter(|claimed| claimed.algorithm == *algorithm);
        match (claimed, kept) {
            (Some(claimed), _) => claimed.bytes == *bytes,
            (None, Some(kept)) => kept.algorithm == *algorithm && self.checksum == *bytes,
            (None, None) => false,
        }
    }
}

/// A part's record as read.
struct UsedPart {
    number: u32,
    record: PartRecord,
    value: Vec<u8>,
}

impl UsedPart {
    fn manifest_part(&self) -> ManifestPart {
        ManifestPart {
            number: self.number,
            blob_id: self.record.blob,
            salt: self.record.salt,
            plaintext_bytes: self.record.size,
        }
    }
}

/// Divides what was uploaded into what the list names, in its order, and the rest.
fn select_parts(
    uploaded: Vec<(u32, PartRecord, Vec<u8>)>,
    named: &[CompletePart],
) -> Result<(Vec<UsedPart>, Vec<UsedPart>), StoreError> {
    let mut uploaded: BTreeMap<u32, UsedPart> = uploaded
        .into_iter()
        .map(|(number, record, value)| {
            (
                number,
                UsedPart {
                    number,
                    record,
                    value,
                },
            )
        })
        .collect();
    let mut used = Vec::with_capacity(named.len());
    for (index, named_part) in named.iter().enumerate() {
        let part = uploaded
            .remove(&named_part.number)
            .filter(|part| part.record.etag == named_part.etag)
            .ok_or(StoreError::InvalidPart(named_part.number))?;
        if index + 1 < named.len() && part.record.size < PART_BYTES_MIN {
            return Err(StoreError::PartTooSmall(part.number));
        }
        used.push(part);
    }
    Ok((used, uploaded.into_values().collect()))
}

/// Requires that the upload has no part but `numbers`, which ascend: one that is committed meanwhile would be left
/// behind without an upload.
fn no_other_parts(
    mut batch: Batch,
    upload: &Uuid,
    numbers: impl IntoIterator<Item = u32>,
) -> Batch {
    let all = part_rows(upload);
    let mut start = all.start;
    for number in numbers {
        let row = part_row(upload, number);
        if start < row {
            batch = batch.range_empty(KeyRange { start, end: row });
        }
        start = part_row(upload, number + 1);
    }
    batch.range_empty(KeyRange {
        start,
        end: all.end,
    })
}

/// MD5 over the parts' `ETags`, and their number: as AWS does.
fn multipart_etag(parts: &[UsedPart]) -> Result<String, StoreError> {
    let mut md5 = Md5::new();
    for part in parts {
        let etag = hex::decode(&part.record.etag)
            .map_err(|_not_hex| EnvelopeError::Unauthentic("part record"))?;
        md5.update(etag);
    }
    Ok(format!("{}-{}", hex::encode(md5.finalize()), parts.len()))
}

async fn scan_parts(
    snapshot: &dyn Snapshot,
    range: &KeyRange,
    max: usize,
) -> Result<Vec<(u32, PartRecord, Vec<u8>)>, StoreError> {
    snapshot
        .scan(range, max)
        .await?
        .into_iter()
        .map(|(row, value)| {
            let number = row
                .last_chunk::<4>()
                .map(|bytes| u32::from_be_bytes(*bytes));
            let number = number.ok_or(MetaError::Damaged("part number"))?;
            Ok((number, codec::decode("part", &value)?, value))
        })
        .collect()
}

// A manifest's row must fit a value: 60 bytes a part.
const _: () = assert!(PARTS_MAX * 60 + 4096 < crate::meta::VALUE_BYTES_MAX);
// Completing takes three operations a part at most, and one more for each blob of the object that is replaced.
const _: () = assert!(4 * PARTS_MAX + 64 < crate::meta::BATCH_OPERATIONS_MAX);
