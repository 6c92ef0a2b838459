//! The index of dependants: which objects and uploads hang on which key, and on which version of it.
//!
//! ```text
//! d ‖ class (1) ‖ id (16) ‖ version (4) ‖ bucket UUID (16) ‖ kind (1) ‖ what depends      DependantRecord
//!     1 KMS key: its id, and the version of its backing key
//!     2 internal key: its name, filled up with zero bytes, and the version of its backing key
//!     3 bucket key: its id, and zero
//!                                                              o: rest of the object's row in `table::OBJECT`
//!                                                              u: rest of the upload's row in `table::UPLOAD`
//!                                                              k: id of a bucket key (16), whose own dependants are
//!                                                                 in class 3
//! d ‖ 0                                                                                   IndexRecord
//! ```
//!
//! So one range holds all that hangs on a key, on one version of it, or on that within a bucket or a prefix. A row is
//! written, moved and deleted in the very batch that does so to the encrypted data key it speaks of; whoever changes
//! one requires its row to be unchanged. [`dependency`] is the one function that says where a row belongs. What a
//! customer's key wraps hangs on no key of ours and has no row.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use tracing::info;

use super::bucket::SCAN_ROWS;
use super::bucket_row::{log_damaged, name_of_row, unverified};
use super::record::{
    BucketKeyRecord, BucketKeyWrap, BucketRecord, KeyRecord, ManifestRecord, ObjectName,
    ObjectRecord, UploadRecord, Uuid, bucket_row, split_row,
};
use super::{CONFLICT_RETRIES_MAX, Store, StoreError};
use crate::auth::AccountId;
use crate::kms::{
    Dependants, DependantsError, Dependent, EncryptedDataKey, InternalKey, KeyId, Scope, Usage,
};
use crate::meta::{Batch, KeyRange, Meta, MetaError, Row, Snapshot, codec, successor, table};

#[cfg(test)]
mod tests;

/// Rows that are counted in one snapshot.
const COUNT_ROWS: usize = 10_000;
/// Records that are looked at for one batch when the index is built: each costs two operations.
const BUILD_ROWS: usize = 100;
/// A batch of so many bytes of records takes no further one.
const BUILD_BYTES_ENOUGH: usize = 4 * 1024 * 1024;

const CLASS_KMS: u8 = 1;
const CLASS_INTERNAL: u8 = 2;
const CLASS_BUCKET_KEY: u8 = 3;
/// Class, id and version, with the table before them.
const PREFIX_BYTES: usize = 1 + 1 + 16 + 4;

/// What an encrypted data key hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// A version of a KMS key's backing key.
    Kms(KeyId, u32),
    /// A version of an internal key's backing key.
    Internal(InternalKey, u32),
    /// A bucket key, which itself hangs on another.
    BucketKey(Uuid),
}

/// What depends, by the table that its record is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Upload,
    BucketKey,
}

impl Kind {
    const ALL: [Self; 3] = [Self::BucketKey, Self::Object, Self::Upload];

    const fn byte(self) -> u8 {
        match self {
            Self::Object => b'o',
            Self::Upload => b'u',
            Self::BucketKey => b'k',
        }
    }
}

/// What is recorded of a dependant.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct DependantRecord {
    /// Length of the plaintext; none of an upload.
    #[n(0)]
    bytes: u64,
}

/// How far the index of a store is built.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct IndexRecord {
    /// Everything is in it.
    #[n(0)]
    complete: bool,
    /// All records up to this row are in it.
    #[cbor(n(1), with = "minicbor::bytes")]
    cursor: Vec<u8>,
}

/// What an encrypted data key hangs on: nothing of ours, if a customer's key wraps it. THE place that knows.
pub fn dependency(key: &KeyRecord) -> Option<Dependency> {
    match key {
        KeyRecord::S3(wrapped) => Some(Dependency::Internal(
            InternalKey::SseS3,
            InternalKey::version_of(wrapped)?,
        )),
        KeyRecord::Kms(encrypted, _) => {
            let encrypted = EncryptedDataKey::from_bytes(encrypted.as_slice()).ok()?;
            Some(Dependency::Kms(
                encrypted.key_id(),
                encrypted.backing_version(),
            ))
        }
        KeyRecord::Bucket(id, ..) => Some(Dependency::BucketKey(*id.as_bytes())),
        KeyRecord::Customer(_) => None,
    }
}

/// What a bucket key hangs on.
pub(super) fn dependency_of_bucket_key(record: &BucketKeyRecord) -> Option<Dependency> {
    let key = match &record.wrap {
        BucketKeyWrap::S3(wrapped) => KeyRecord::S3(wrapped.clone()),
        BucketKeyWrap::Kms(encrypted) => KeyRecord::Kms(encrypted.clone(), Vec::new()),
    };
    dependency(&key)
}

impl Dependency {
    fn class_and_id(self) -> (u8, Uuid) {
        match self {
            Self::Kms(key, _) => (CLASS_KMS, *key.as_bytes()),
            Self::Internal(key, _) => {
                let mut id = [0; 16];
                for (into, byte) in id.iter_mut().zip(key.name().bytes()) {
                    *into = byte;
                }
                (CLASS_INTERNAL, id)
            }
            Self::BucketKey(id) => (CLASS_BUCKET_KEY, id),
        }
    }

    /// What the rows of its dependants begin with.
    fn prefix(self) -> Vec<u8> {
        let (class, id) = self.class_and_id();
        let version = match self {
            Self::Kms(_, version) | Self::Internal(_, version) => version,
            Self::BucketKey(_) => 0,
        };
        [
            [table::DEPENDANT, class].as_slice(),
            &id,
            &version.to_be_bytes(),
        ]
        .concat()
    }

    fn row(self, bucket: &Uuid, kind: Kind, rest: &[u8]) -> Vec<u8> {
        [self.prefix().as_slice(), bucket, &[kind.byte()], rest].concat()
    }
}

/// The part of an object's or an upload's row that follows the bucket.
fn rest_of(row: &[u8]) -> &[u8] {
    row.get(17..).unwrap_or_default()
}

/// The change of the index when the data key of an object changes from `old` to `new`, which has so many bytes. None:
/// there is no object.
pub(super) fn index_object(
    name: &ObjectName,
    old: Option<&KeyRecord>,
    new: Option<(&KeyRecord, u64)>,
) -> Batch {
    let row = name.object_row();
    let row_of = |key| Some(dependency(key)?.row(&name.bucket, Kind::Object, rest_of(&row)));
    let bytes = new.map_or(0, |(_, bytes)| bytes);
    change(
        old.and_then(row_of),
        new.and_then(|(key, _)| row_of(key)),
        bytes,
    )
}

/// The change of the index when the data key of an upload changes. None: there is no upload.
pub(super) fn index_upload(
    name: &ObjectName,
    upload: &Uuid,
    old: Option<&KeyRecord>,
    new: Option<&KeyRecord>,
) -> Batch {
    let row = name.upload_row(upload);
    let row_of = |key| Some(dependency(key)?.row(&name.bucket, Kind::Upload, rest_of(&row)));
    change(old.and_then(row_of), new.and_then(row_of), 0)
}

/// The change of the index when what wraps a bucket key changes. None: the bucket key has no row.
pub fn index_bucket_key(
    bucket: &Uuid,
    id: &Uuid,
    old: Option<Dependency>,
    new: Option<Dependency>,
) -> Batch {
    let row_of = |on: Dependency| on.row(bucket, Kind::BucketKey, id);
    change(old.map(row_of), new.map(row_of), 0)
}

fn change(old: Option<Vec<u8>>, new: Option<Vec<u8>>, bytes: u64) -> Batch {
    let mut batch = Batch::new();
    if let Some(old) = old.filter(|old| Some(old) != new.as_ref()) {
        batch = batch.delete(old);
    }
    match new {
        Some(new) => batch.put(new, codec::encode(&DependantRecord { bytes })),
        None => batch,
    }
}

/// A row of the index, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dependant {
    pub(super) version: u32,
    pub(super) bucket: Uuid,
    pub(super) kind: Kind,
    rest: Vec<u8>,
    bytes: u64,
}

impl Dependant {
    /// Reads a row of the classes with versions.
    pub(super) fn read((row, value): &Row) -> Result<Self, MetaError> {
        let damaged = || MetaError::Damaged("index of dependants");
        let tail = row.get(PREFIX_BYTES - 4..).ok_or_else(damaged)?;
        let (version, tail) = tail.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (bucket, tail) = tail.split_first_chunk::<16>().ok_or_else(damaged)?;
        let (kind, rest) = tail.split_first().ok_or_else(damaged)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.byte() == *kind)
            .ok_or_else(damaged)?;
        let record: DependantRecord = codec::decode("dependant", value)?;
        Ok(Self {
            version: u32::from_be_bytes(*version),
            bucket: *bucket,
            kind,
            rest: rest.to_vec(),
            bytes: record.bytes,
        })
    }

    /// The object it names, or the object that the upload is to become, and the upload.
    pub(super) fn name(&self) -> Result<(ObjectName, Uuid), MetaError> {
        let row = [[0].as_slice(), &self.bucket, &self.rest].concat();
        let (key, tail) = split_row(&row).ok_or(MetaError::Damaged("index of dependants"))?;
        let name = ObjectName {
            bucket: self.bucket,
            key,
            version: match self.kind {
                Kind::Upload | Kind::BucketKey => super::record::NULL_VERSION,
                Kind::Object => tail,
            },
        };
        Ok((name, tail))
    }

    /// The bucket key it names.
    pub(super) fn bucket_key(&self) -> Result<Uuid, MetaError> {
        let id = self.rest.as_slice().try_into();
        id.map_err(|_length| MetaError::Damaged("index of dependants"))
    }

    fn counted(&self) -> Dependent {
        match self.kind {
            Kind::Object => Dependent {
                objects: 1,
                bytes: self.bytes,
                uploads: 0,
            },
            Kind::Upload => Dependent {
                uploads: 1,
                ..Dependent::default()
            },
            Kind::BucketKey => Dependent::default(),
        }
    }
}

/// Which rows of the index are meant: those of some versions of a KMS key, perhaps of one bucket, perhaps of a prefix.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    key: KeyId,
    versions: RangeInclusive<u32>,
    /// The bucket, and the beginning of the object keys as rows have it.
    within: Option<(Uuid, Vec<u8>)>,
    /// Whose bucket it must be.
    owner: Option<AccountId>,
}

impl Wanted {
    /// Resolves a scope.
    pub(super) async fn new(
        snapshot: &dyn Snapshot,
        key: KeyId,
        versions: RangeInclusive<u32>,
        scope: &Scope,
    ) -> Result<Self, DependantsError> {
        let within = match &scope.bucket {
            None => None,
            Some(name) => {
                let value = snapshot.load(&bucket_row(name)).await?;
                let value = value.ok_or_else(|| DependantsError::NoSuchBucket(name.clone()))?;
                let bucket = unverified(&value)?;
                // One of others is told of as if it were not there.
                if !is_of(bucket.owner.as_deref(), scope.owner.as_ref()) {
                    return Err(DependantsError::NoSuchBucket(name.clone()));
                }
                let prefix = super::record::key_prefix(0, &bucket.uuid, scope.prefix.as_bytes());
                Some((bucket.uuid, rest_of(&prefix).to_vec()))
            }
        };
        Ok(Self {
            key,
            versions,
            within,
            owner: scope.owner.clone(),
        })
    }

    fn range(&self) -> KeyRange {
        KeyRange {
            start: Dependency::Kms(self.key, *self.versions.start()).prefix(),
            end: successor(&Dependency::Kms(self.key, *self.versions.end()).prefix()),
        }
    }

    /// The runs of neighbouring rows that are meant within one version.
    fn runs(&self, version: u32) -> Vec<KeyRange> {
        let all = Dependency::Kms(self.key, version);
        match &self.within {
            None => vec![KeyRange::prefix(&all.prefix())],
            Some((bucket, prefix)) => Kind::ALL
                .into_iter()
                .map(|kind| match kind {
                    // A bucket key has no object key; what hangs on it has.
                    Kind::BucketKey => KeyRange::prefix(&all.row(bucket, kind, &[])),
                    Kind::Object | Kind::Upload => KeyRange::prefix(&all.row(bucket, kind, prefix)),
                })
                .collect(),
        }
    }

    /// The runs of rows of what hangs on a bucket key of `bucket` and is meant.
    pub(super) fn under(&self, bucket: &Uuid, id: Uuid) -> [KeyRange; 2] {
        let on = Dependency::BucketKey(id);
        let prefix = self.within.as_ref().map(|(_, prefix)| prefix.as_slice());
        [Kind::Object, Kind::Upload]
            .map(|kind| KeyRange::prefix(&on.row(bucket, kind, prefix.unwrap_or_default())))
    }

    /// The first `limit` rows after the row `cursor`, in order. None: there are no more.
    pub(super) async fn rows(
        &self,
        snapshot: &dyn Snapshot,
        cursor: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, MetaError> {
        let mut rest = self.range();
        if !cursor.is_empty() {
            rest.start = rest.start.max([cursor, &[0]].concat());
        }
        if self.within.is_none() {
            return snapshot.scan(&rest, limit).await;
        }
        // From one version that has rows to the next.
        while let Some(first) = snapshot.scan(&rest, 1).await?.first() {
            let version = Dependant::read(first)?.version;
            for run in self.runs(version) {
                let run = KeyRange {
                    start: run.start.max(rest.start.clone()),
                    end: run.end,
                };
                let rows = snapshot.scan(&run, limit).await?;
                if !rows.is_empty() {
                    return Ok(rows);
                }
            }
            rest.start = successor(&Dependency::Kms(self.key, version).prefix());
        }
        Ok(Vec::new())
    }
}

/// The index, for whoever only wants to know.
#[derive(Debug, Clone)]
pub struct DependantIndex {
    meta: Arc<dyn Meta>,
}

impl DependantIndex {
    /// The index in these records.
    pub fn new(meta: Arc<dyn Meta>) -> Self {
        Self { meta }
    }

    /// What hangs on a bucket key and is meant.
    async fn under_bucket_key(
        &self,
        wanted: &Wanted,
        key: &Dependant,
    ) -> Result<Dependent, MetaError> {
        let mut sum = Dependent::default();
        for mut range in wanted.under(&key.bucket, key.bucket_key()?) {
            loop {
                let rows = self.meta.snapshot().await?.scan(&range, COUNT_ROWS).await?;
                let Some((last, _)) = rows.last() else { break };
                range.start = [last.as_slice(), &[0]].concat();
                for row in &rows {
                    sum.add(Dependant::read(row)?.counted());
                }
            }
        }
        Ok(sum)
    }
}

#[async_trait::async_trait]
impl Dependants for DependantIndex {
    fn rows(&self, key: KeyId) -> KeyRange {
        let mut prefix = Dependency::Kms(key, 0).prefix();
        prefix.truncate(PREFIX_BYTES - 4);
        KeyRange::prefix(&prefix)
    }

    async fn usage(
        &self,
        key: KeyId,
        versions: RangeInclusive<u32>,
        scope: &Scope,
    ) -> Result<Usage, DependantsError> {
        let snapshot = self.meta.snapshot().await?;
        let wanted = Wanted::new(&*snapshot, key, versions, scope).await?;
        drop(snapshot);
        let mut found: HashMap<(Uuid, u32), Dependent> = HashMap::new();
        let mut cursor = Vec::new();
        loop {
            let snapshot = self.meta.snapshot().await?;
            let rows = wanted.rows(&*snapshot, &cursor, COUNT_ROWS).await?;
            drop(snapshot);
            let Some((last, _)) = rows.last() else { break };
            cursor.clone_from(last);
            for row in &rows {
                let dependant = Dependant::read(row)?;
                let counted = match dependant.kind {
                    Kind::BucketKey => self.under_bucket_key(&wanted, &dependant).await?,
                    Kind::Object | Kind::Upload => dependant.counted(),
                };
                let key = (dependant.bucket, dependant.version);
                found.entry(key).or_default().add(counted);
            }
        }
        let buckets = bucket_names(&*self.meta.snapshot().await?).await?;
        let mut usage = Usage::default();
        for ((bucket, version), dependent) in found {
            let named = buckets.get(&bucket);
            let owner = named.and_then(|named| named.owner.as_deref());
            if !is_of(owner, wanted.owner.as_ref()) {
                continue;
            }
            // One that was deleted while we counted.
            let name = named.map(|named| named.name.clone());
            let name = name.unwrap_or_else(|| hex::encode(bucket));
            usage.versions.entry(version).or_default().add(dependent);
            usage.buckets.entry(name).or_default().add(dependent);
        }
        Ok(usage)
    }
}

/// Whether a bucket that is recorded as this owner's is of the account that is asked for, if one is. None is the server's
/// first account, and that is never asked for.
fn is_of(owner: Option<&str>, wanted: Option<&AccountId>) -> bool {
    wanted.is_none_or(|wanted| owner == Some(wanted.as_str()))
}

/// A bucket as its row says, unverified.
#[derive(Debug)]
pub(super) struct NamedBucket {
    pub(super) name: String,
    owner: Option<String>,
}

/// All buckets. One whose row does not read is left out, and is logged: what is in the others does not wait for it.
pub(super) async fn bucket_names(
    snapshot: &dyn Snapshot,
) -> Result<BTreeMap<Uuid, NamedBucket>, MetaError> {
    let mut names = BTreeMap::new();
    let mut range = KeyRange::prefix(&[table::BUCKET]);
    loop {
        let rows = snapshot.scan(&range, SCAN_ROWS).await?;
        let Some((last, _)) = rows.last() else {
            return Ok(names);
        };
        range.start = [last.as_slice(), &[0]].concat();
        for (row, value) in &rows {
            match (unverified(value), name_of_row(row)) {
                (Ok(BucketRecord { uuid, owner, .. }), Ok(name)) => {
                    names.insert(uuid, NamedBucket { name, owner });
                }
                (Err(error), _) | (_, Err(error)) => log_damaged(row, &error),
            }
        }
    }
}

impl Store {
    /// Builds the index of a store that was written before there was one. Done once; a crash goes on where it was. No
    /// HSM.
    ///
    /// # Errors
    ///
    /// [`StoreError::Meta`]. A record that does not read is left out, and is logged.
    pub async fn build_index(&self) -> Result<(), StoreError> {
        let (mut indexed, mut conflicts) = (0, 0);
        loop {
            let snapshot = self.meta.snapshot().await?;
            let marker = snapshot.load(&marker_row()).await?;
            let mut record = match &marker {
                Some(value) => codec::decode("index of dependants", value)?,
                None => IndexRecord {
                    complete: false,
                    cursor: vec![table::MANIFEST],
                },
            };
            if record.complete {
                break;
            }
            let step = build_step(&*snapshot, &mut record).await?;
            let batch = Batch::new()
                .unchanged(marker_row(), marker.as_deref())
                .put(marker_row(), codec::encode(&record))
                .and(step.batch);
            match self.meta.commit(batch).await {
                Ok(()) => {
                    indexed += step.dependants;
                    conflicts = 0;
                }
                // Another server writes, or builds.
                Err(MetaError::Conflict) if conflicts < CONFLICT_RETRIES_MAX => conflicts += 1,
                Err(other) => return Err(other.into()),
            }
        }
        if indexed > 0 {
            info!(event = "store.index_built", dependants = indexed);
        }
        Ok(())
    }
}

fn marker_row() -> Vec<u8> {
    vec![table::DEPENDANT, 0]
}

/// What one batch adds to the index.
struct Step {
    batch: Batch,
    dependants: usize,
}

/// The next records after the cursor: manifests first, then uploads, then bucket keys. Moves the cursor.
async fn build_step(
    snapshot: &dyn Snapshot,
    progress: &mut IndexRecord,
) -> Result<Step, StoreError> {
    let table = progress.cursor.first().copied().unwrap_or(table::MANIFEST);
    let range = KeyRange {
        start: [progress.cursor.as_slice(), &[0]].concat(),
        end: successor(&[table]),
    };
    let rows = snapshot.scan(&range, BUILD_ROWS).await?;
    let mut step = Step {
        batch: Batch::new(),
        dependants: 0,
    };
    let mut bytes = 0;
    for (row, value) in &rows {
        if bytes >= BUILD_BYTES_ENOUGH {
            return Ok(step);
        }
        bytes += value.len();
        progress.cursor.clone_from(row);
        let added = match table {
            table::MANIFEST => add_object(snapshot, row, value).await,
            table::BUCKET_KEY => add_bucket_key(row, value),
            _ => add_upload(row, value),
        };
        match added {
            Ok(Some(batch)) => {
                step.batch = step.batch.unchanged(row.as_slice(), Some(value)).and(batch);
                step.dependants += 1;
            }
            Ok(None) => {}
            Err(error @ MetaError::Damaged(_)) => {
                tracing::error!(event = "store.index_left_out", row = hex::encode(row), %error);
            }
            Err(other) => return Err(other.into()),
        }
    }
    if rows.is_empty() {
        match table {
            table::MANIFEST => progress.cursor = vec![table::UPLOAD],
            table::UPLOAD => progress.cursor = vec![table::BUCKET_KEY],
            _ => progress.complete = true,
        }
    }
    Ok(step)
}

async fn add_object(
    snapshot: &dyn Snapshot,
    row: &[u8],
    value: &[u8],
) -> Result<Option<Batch>, MetaError> {
    let manifest: ManifestRecord = codec::decode("manifest", value)?;
    let name = named(row)?;
    let Some(object) = snapshot.load(&name.object_row()).await? else {
        return Ok(None);
    };
    let object: ObjectRecord = codec::decode("object", &object)?;
    let batch = index_object(&name, None, Some((&manifest.key, object.size)));
    Ok(Some(batch).filter(|batch| !batch.writes().is_empty()))
}

fn add_upload(row: &[u8], value: &[u8]) -> Result<Option<Batch>, MetaError> {
    let upload: UploadRecord = codec::decode("upload", value)?;
    let ObjectName {
        bucket,
        key,
        version,
    } = named(row)?;
    // What is the version in an object's row is the id in an upload's.
    let name = ObjectName {
        bucket,
        key,
        version: super::record::NULL_VERSION,
    };
    let batch = index_upload(&name, &version, None, Some(&upload.key));
    Ok(Some(batch).filter(|batch| !batch.writes().is_empty()))
}

fn add_bucket_key(row: &[u8], value: &[u8]) -> Result<Option<Batch>, MetaError> {
    let damaged = || MetaError::Damaged("key of a row");
    let record: BucketKeyRecord = codec::decode("bucket key", value)?;
    let names = row.get(1..).unwrap_or_default();
    let (bucket, id) = names.split_first_chunk().ok_or_else(damaged)?;
    let id = id.try_into().map_err(|_length| damaged())?;
    let batch = index_bucket_key(bucket, id, None, dependency_of_bucket_key(&record));
    Ok(Some(batch).filter(|batch| !batch.writes().is_empty()))
}

/// What the key of a row names.
fn named(row: &[u8]) -> Result<ObjectName, MetaError> {
    let damaged = || MetaError::Damaged("key of a row");
    let bucket = row.get(1..17).and_then(|bucket| bucket.try_into().ok());
    let (key, version) = split_row(row).ok_or_else(damaged)?;
    Ok(ObjectName {
        bucket: bucket.ok_or_else(damaged)?,
        key,
        version,
    })
}
