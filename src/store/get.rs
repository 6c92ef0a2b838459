//! `GetObject` and `HeadObject`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::bucket_row::is_verified;
use super::digest::SealedAttributes;
use super::put::{load_object, load_sealed, row_digest};
use super::record::{KeptContext, ManifestRecord, ObjectName, ObjectRecord, SseRecord};
use super::{KeyAccess, Store, StoreError, object_of};
use crate::auth::Authorised;
use crate::blob::{BlobId, BlobReader};
use crate::envelope::{EnvelopeError, HEADER_BYTES, KeySchedule, Manifest, ManifestPart, Opener};
use crate::meta::{MetaError, codec};

/// Segments that are read, opened and sent together.
const RUN_SEGMENTS: u64 = 4;
/// Runs that wait for a slow client. With one being read and one being sent, a GET holds at most 1 MiB.
const RUNS_AHEAD: usize = 2;

/// An object, found, not yet opened.
#[derive(Debug)]
pub struct Located {
    name: ObjectName,
    record: ObjectRecord,
    row_digest: [u8; 32],
    manifest: ManifestRecord,
    /// Whether it was found by verified records.
    verified: bool,
}

impl Located {
    /// What is in clear.
    pub fn record(&self) -> &ObjectRecord {
        &self.record
    }

    /// The caller's encryption context, without what the server added.
    pub fn caller_context(&self) -> KeptContext<'_> {
        self.manifest.key.kept_context()
    }

    /// An object whose rows were read together.
    pub(super) fn new(
        name: ObjectName,
        record: ObjectRecord,
        value: &[u8],
        manifest: ManifestRecord,
    ) -> Self {
        Self {
            name,
            record,
            row_digest: row_digest(value),
            manifest,
            verified: true,
        }
    }

    /// The same, found by records that may not be verified.
    fn found_by(self, verified: bool) -> Self {
        Self { verified, ..self }
    }

    pub(super) fn name(&self) -> &ObjectName {
        &self.name
    }

    pub(super) fn manifest(&self) -> &ManifestRecord {
        &self.manifest
    }

    /// The bytes of the part that is selected, if one is.
    fn part_range(
        &self,
        manifest: &Manifest,
        selection: Selection,
    ) -> Result<Option<Range<u64>>, StoreError> {
        let Selection::Part(wanted) = selection else {
            return Ok(None);
        };
        if self.record.parts.is_none() && wanted == 1 {
            // An object sent whole, or a copy, is one part.
            return Ok(Some(0..self.record.size));
        }
        let mut start = 0;
        for part in manifest
            .parts
            .iter()
            .filter(|_| self.record.parts.is_some())
        {
            if part.number == wanted {
                return Ok(Some(start..start + part.plaintext_bytes));
            }
            start += part.plaintext_bytes;
        }
        Err(StoreError::NoSuchPart(wanted))
    }
}

/// Conditions of RFC 9110 §13 on reading.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// `If-Match`: `ETags` without quotes, or `*`.
    pub if_match: Option<Vec<String>>,
    /// `If-None-Match`.
    pub if_none_match: Option<Vec<String>>,
    /// `If-Modified-Since`, in seconds since 1970.
    pub if_modified_since: Option<i64>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<i64>,
}

impl Conditions {
    /// Evaluates in the order of RFC 9110 §13.2.2.
    ///
    /// # Errors
    ///
    /// [`StoreError::PreconditionFailed`]; [`StoreError::NotModified`].
    pub fn check(&self, record: &ObjectRecord) -> Result<(), StoreError> {
        let names = |etags: &[String]| etags.iter().any(|etag| etag == "*" || *etag == record.etag);
        let modified = record.last_modified_ms.div_euclid(1000);
        if let Some(etags) = &self.if_match {
            if !names(etags) {
                return Err(StoreError::PreconditionFailed("If-Match"));
            }
        } else if self
            .if_unmodified_since
            .is_some_and(|since| modified > since)
        {
            return Err(StoreError::PreconditionFailed("If-Unmodified-Since"));
        }
        if let Some(etags) = &self.if_none_match {
            if names(etags) {
                return Err(StoreError::NotModified);
            }
        } else if self
            .if_modified_since
            .is_some_and(|since| modified <= since)
        {
            return Err(StoreError::NotModified);
        }
        Ok(())
    }
}

/// Which bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// All.
    Whole,
    /// From the first to the last, both included; to the end without a last.
    Range(u64, Option<u64>),
    /// So many at the end.
    Suffix(u64),
    /// One part of a multipart object; 1 is all of another.
    Part(u32),
}

impl Selection {
    /// The bytes of an object of `size`; [`Selection::Part`] is resolved by the manifest.
    ///
    /// # Errors
    ///
    /// [`StoreError::RangeNotSatisfiable`].
    pub fn resolve(self, size: u64) -> Result<Range<u64>, StoreError> {
        match self {
            Self::Whole | Self::Part(_) => Ok(0..size),
            Self::Range(first, last) if first < size && last.is_none_or(|last| last >= first) => {
                Ok(first..last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            Self::Suffix(length) if length > 0 && size > 0 => Ok(size - length.min(size)..size),
            Self::Range(..) | Self::Suffix(_) => Err(StoreError::RangeNotSatisfiable(size)),
        }
    }
}

/// Plaintext on its way out. An error in it must abort the connection: some bytes may have been sent.
pub type ObjectBody = BoxStream<'static, Result<Bytes, StoreError>>;

/// An object that is being read; its first segment is proven.
pub struct Reading {
    /// Plaintext of `range`.
    pub body: ObjectBody,
    /// Which bytes of the object.
    pub range: Range<u64>,
    /// The object's checksum, whose kind the record names.
    pub checksum: Vec<u8>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reading({:?})", self.range)
    }
}

/// An object whose key is at hand and whose manifest is proven.
#[derive(Debug)]
pub(super) struct Opened {
    /// Shared with the stream of the same request, and with nobody else.
    pub(super) schedule: Arc<KeySchedule>,
    pub(super) manifest: Manifest,
    pub(super) attributes: SealedAttributes,
}

impl Store {
    /// Finds an object. No HSM.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`]; [`StoreError::NoSuchKey`].
    pub async fn locate(&self, proof: &Authorised) -> Result<Located, StoreError> {
        let (_, key) = object_of(proof)?;
        let snapshot = self.meta.snapshot().await?;
        let name = ObjectName::new(&self.proven_bucket(&*snapshot, proof).await?.record, key)?;
        let missing = || StoreError::NoSuchKey(key.to_owned());
        let (record, value) = load_object(&*snapshot, &name).await?.ok_or_else(missing)?;
        let manifest = snapshot
            .load(&name.manifest_row())
            .await?
            .ok_or(EnvelopeError::Unauthentic("manifest"))?;
        let manifest = codec::decode("manifest", &manifest)?;
        let located = Located::new(name, record, &value, manifest);
        Ok(located.found_by(is_verified(proof)?))
    }

    /// What is sealed about an object, without its bytes: the range of `selection`, and the checksum. Needs its key.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub async fn inspect(
        &self,
        located: &Located,
        access: &KeyAccess,
        selection: Selection,
    ) -> Result<(Range<u64>, Vec<u8>), StoreError> {
        let range = selection.resolve(located.record.size)?;
        let opened = self.unlock(located, access).await?;
        let range = located
            .part_range(&opened.manifest, selection)?
            .unwrap_or(range);
        Ok((range, opened.attributes.checksum))
    }

    /// Opens an object, and its first segment, before anything is answered.
    ///
    /// # Errors
    ///
    /// [`StoreError::RangeNotSatisfiable`], before any key is used; what the KMS says; [`StoreError::KeyMoved`] when the
    /// object hangs on another key than when it was found: find it again; [`StoreError::Damaged`] and
    /// [`StoreError::Blob`] when record, manifest or bytes are not what was written.
    pub async fn open(
        &self,
        located: &Located,
        access: &KeyAccess,
        selection: Selection,
    ) -> Result<Reading, StoreError> {
        let range = selection.resolve(located.record.size)?;
        let opened = self.unlock(located, access).await?;
        let range = located
            .part_range(&opened.manifest, selection)?
            .unwrap_or(range);
        let body = self
            .stream(opened.schedule, &opened.manifest, range.clone())
            .await?;
        Ok(Reading {
            body,
            range,
            checksum: opened.attributes.checksum,
        })
    }

    /// Gets the key, proves the manifest and the attributes.
    pub(super) async fn unlock(
        &self,
        located: &Located,
        access: &KeyAccess,
    ) -> Result<Opened, StoreError> {
        if located.record.sse != SseRecord::Customer {
            self.require_verified(located.verified).await?;
        }
        let identity = located.name.identity();
        let schedule = self
            .open_key(&located.manifest.key, access, &located.name)
            .await;
        let schedule = match schedule {
            Err(StoreError::KeyMoved) => return Err(self.moved_or_lost(located).await?),
            other => other?,
        };
        let manifest =
            schedule.open_manifest(&located.manifest.manifest, &identity, &located.row_digest)?;
        if manifest.plaintext_bytes() != located.record.size {
            return Err(EnvelopeError::Unauthentic("manifest").into());
        }
        let attributes = schedule.open_attributes(&identity, &located.manifest.attributes)?;
        let attributes = codec::decode("attributes", &attributes)?;
        Ok(Opened {
            schedule: Arc::new(schedule),
            manifest,
            attributes,
        })
    }

    /// Whether an object that was found hangs on another key by now, or has lost the one that it had.
    async fn moved_or_lost(&self, located: &Located) -> Result<StoreError, StoreError> {
        let snapshot = self.meta.snapshot().await?;
        let sealed = load_sealed(&*snapshot, &located.name).await?;
        Ok(match sealed.record() {
            Some(manifest) if manifest.key == located.manifest.key => {
                MetaError::Damaged("bucket key").into()
            }
            Some(_) | None => StoreError::KeyMoved,
        })
    }

    /// Plaintext of `range`. The first run is opened before this returns.
    pub(super) async fn stream(
        &self,
        schedule: Arc<KeySchedule>,
        manifest: &Manifest,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        let mut cursor = Cursor::new(self.clone(), schedule, manifest, range.clone());
        let first = cursor.next_run().await?;
        if cursor.is_done() {
            return Ok(stream::iter(first.into_iter().map(Ok)).boxed());
        }
        let sent: usize = first.iter().map(Bytes::len).sum();
        let left = (range.end - range.start).saturating_sub(sent as u64);
        let (sender, receiver) = mpsc::channel(RUNS_AHEAD);
        tokio::spawn(async move {
            while !cursor.is_done() {
                let run = cursor.next_run().await;
                let failed = run.is_err();
                if let Err(error) = &run {
                    // The answer has begun with a 200: the client sees a broken connection, the operator sees this.
                    tracing::error!(event = "object.unreadable", %error, source = ?std::error::Error::source(error));
                }
                // A closed channel is a client that went away.
                if sender.send(run).await.is_err() || failed {
                    break;
                }
            }
        });
        let rest = stream::unfold(Some((receiver, left)), |state| async move {
            let (mut receiver, left) = state?;
            match receiver.recv().await {
                Some(Ok(frames)) => {
                    let bytes: usize = frames.iter().map(Bytes::len).sum();
                    let left = left.saturating_sub(bytes as u64);
                    Some((frames.into_iter().map(Ok).collect(), Some((receiver, left))))
                }
                Some(Err(error)) => Some((vec![Err(error)], None)),
                // Whoever reads without a length must not take an early end for the end.
                None if left > 0 => {
                    Some((vec![Err(EnvelopeError::Unauthentic("stream").into())], None))
                }
                None => None,
            }
        });
        let rest = rest.flat_map(|frames: Vec<Result<Bytes, StoreError>>| stream::iter(frames));
        Ok(stream::iter(first.into_iter().map(Ok)).chain(rest).boxed())
    }
}

/// Walks over the runs of a range, part by part.
struct Cursor {
    store: Store,
    schedule: Arc<KeySchedule>,
    /// Parts to come, each with the range that is wanted of it.
    parts: VecDeque<(ManifestPart, Range<u64>)>,
    current: Option<OpenPart>,
}

struct OpenPart {
    id: BlobId,
    reader: Box<dyn BlobReader>,
    opener: Opener,
    wanted: Range<u64>,
    segments: Range<u64>,
}

impl Cursor {
    fn new(
        store: Store,
        schedule: Arc<KeySchedule>,
        manifest: &Manifest,
        range: Range<u64>,
    ) -> Self {
        let mut parts = VecDeque::new();
        let mut start = 0;
        for part in &manifest.parts {
            let end = start + part.plaintext_bytes;
            let (from, to) = (range.start.max(start), range.end.min(end));
            // Of an empty range the part at its place is opened, so that damage shows there, too.
            if from < to || (range.is_empty() && parts.is_empty() && range.start <= end) {
                parts.push_back((*part, from - start..to.max(from) - start));
            }
            start = end;
        }
        Self {
            store,
            schedule,
            parts,
            current: None,
        }
    }

    fn is_done(&self) -> bool {
        self.current.is_none() && self.parts.is_empty()
    }

    /// Plaintext of the next segments.
    async fn next_run(&mut self) -> Result<Vec<Bytes>, StoreError> {
        let mut part = match self.current.take() {
            Some(part) => part,
            None => match self.parts.pop_front() {
                Some((part, wanted)) => self.open_part(&part, wanted).await?,
                None => return Ok(Vec::new()),
            },
        };
        let layout = part.opener.layout();
        let last = part.segments.end.min(part.segments.start + RUN_SEGMENTS);
        let offset = layout.sealed_offset(part.segments.start);
        let length = (part.segments.start..last)
            .map(|index| layout.sealed_segment_bytes(index))
            .sum();
        let mut sealed = part.reader.read_at(offset, length).await?;
        let mut slices = Vec::with_capacity(4);
        let (mut rest, mut at) = (sealed.as_mut_slice(), 0);
        for index in part.segments.start..last {
            let sealed_bytes = layout.sealed_segment_bytes(index);
            let (segment, after) = rest
                .split_at_mut_checked(sealed_bytes)
                .ok_or(crate::blob::BlobError::Short(part.id))?;
            let plaintext_bytes = part.opener.open_segment(index, segment)?.len();
            let begins = index * crate::envelope::segment::SEGMENT_BYTES as u64;
            let within = clip(&part.wanted, begins, plaintext_bytes);
            if !within.is_empty() {
                slices.push(at + within.start..at + within.end);
            }
            (rest, at) = (after, at + sealed_bytes);
        }
        let run = Bytes::from(sealed);
        part.segments.start = last;
        if !part.segments.is_empty() {
            self.current = Some(part);
        }
        Ok(slices.into_iter().map(|slice| run.slice(slice)).collect())
    }

    async fn open_part(
        &self,
        part: &ManifestPart,
        wanted: Range<u64>,
    ) -> Result<OpenPart, StoreError> {
        let id = BlobId::from_bytes(part.blob_id);
        let mut reader = self.store.blobs().open(id).await?;
        let header = reader.read_at(0, HEADER_BYTES).await?;
        let opener =
            self.schedule
                .opener(&part.blob_id, &part.salt, part.plaintext_bytes, &header)?;
        let layout = opener.layout();
        if reader.len() != layout.sealed_bytes() {
            return Err(EnvelopeError::Unauthentic("blob length").into());
        }
        let segments = layout.segments_of(&wanted);
        Ok(OpenPart {
            id,
            reader,
            opener,
            wanted,
            segments,
        })
    }
}

/// What of a segment that begins at `begins` lies in `wanted`.
fn clip(wanted: &Range<u64>, begins: u64, bytes: usize) -> Range<usize> {
    let within = |offset: u64| {
        usize::try_from(offset.saturating_sub(begins))
            .unwrap_or(usize::MAX)
            .min(bytes)
    };
    within(wanted.start)..within(wanted.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_resolve_as_rfc_9110_says() {
        assert_eq!(Selection::Whole.resolve(10).expect("whole"), 0..10);
        assert_eq!(
            Selection::Range(2, Some(4)).resolve(10).expect("inside"),
            2..5
        );
        assert_eq!(
            Selection::Range(2, Some(99))
                .resolve(10)
                .expect("over the end"),
            2..10
        );
        assert_eq!(
            Selection::Range(9, None).resolve(10).expect("to the end"),
            9..10
        );
        assert_eq!(Selection::Suffix(3).resolve(10).expect("suffix"), 7..10);
        assert_eq!(
            Selection::Suffix(30).resolve(10).expect("long suffix"),
            0..10
        );
        for bad in [
            Selection::Range(10, None),
            Selection::Range(10, Some(11)),
            Selection::Suffix(0),
        ] {
            assert!(
                matches!(bad.resolve(10), Err(StoreError::RangeNotSatisfiable(10))),
                "{bad:?}"
            );
        }
        assert!(Selection::Range(0, Some(0)).resolve(0).is_err());
    }

    #[test]
    fn a_segment_is_clipped_to_what_is_wanted() {
        assert_eq!(clip(&(0..10), 0, 100), 0..10);
        assert_eq!(clip(&(150..260), 100, 100), 50..100);
        assert_eq!(clip(&(150..160), 100, 100), 50..60);
        assert!(clip(&(5..5), 0, 100).is_empty());
    }
}
