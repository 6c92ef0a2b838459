//! Re-wraps: what depends on one key goes to another, or to the newest version of the same one.
//!
//! The index says what depends on the key. Each data key is unwrapped, proven by what it authenticates, wrapped anew
//! and put into its record in a batch of its own, which requires the record to be as it was read: who writes, copies
//! or deletes at the same time is not disturbed, and whatever was changed meanwhile is looked at again in the next
//! pass. What has moved is no longer in the range of the index that is walked, so that a crash costs the data keys of
//! one page at most, to be looked at again.
//!
//! One server runs one re-wrap at a time, under a lease that its progress renews; after each page, and while it rests, it
//! is given back if one of another account waits, so that no account waits for all the objects of another. See
//! `kms::rewrap` for the book of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use strongroom_hsm::DataKey;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::bucket_key::{self, BucketKey};
use super::bucket_key_use::WrappedKey;
use super::context::{ContextError, arn_of_wrap, full_context};
use super::get::{Located, Opened};
use super::put::{load_object, load_sealed, row_digest};
use super::record::{
    BucketKeyId, BucketKeyRecord, BucketKeyWrap, KeyRecord, ObjectName, SseRecord, UploadRecord,
    Uuid, bucket_key_row,
};
use super::usage::{
    Dependant, Dependency, Kind, NamedBucket, Wanted, bucket_names, dependency,
    dependency_of_bucket_key, index_upload,
};
use super::{Store, StoreError};
use crate::envelope::KeySchedule;
use crate::kms::{
    DependantsError, EncryptedDataKey, EncryptionContext, KmsError, Rewrap, RewrapCounts,
    RewrapLease, RewrapState,
};
use crate::meta::{Batch, MetaError, Row, codec};

/// Rows of the index that are read together; the progress is written down after each page.
const PAGE_ROWS: usize = 256;
/// Data keys that are under way at a time: enough for the records' group commit, few enough to leave the HSM to others.
const IN_FLIGHT_MAX: usize = 16;
/// How often everything is gone through as long as each pass still moves something.
const PASSES_MAX: u32 = 4;
/// How often a server looks for a re-wrap that nobody told it of.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// The first pause when the HSM or the records cannot be had.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What became of one dependant.
enum Outcome {
    /// So many data keys are under the new key.
    Moved(u64),
    /// So many, and more are to come of the same row.
    More(u64),
    /// It was gone or changed.
    Skipped,
    /// It is not meant.
    Foreign,
    /// It stays where it is.
    Failed,
    /// Not now.
    Later,
    /// Neither it nor any other, in words.
    Hopeless(String),
}

/// A page that was gone through.
enum Page {
    /// Up to its end.
    Done,
    /// To be gone through again after a while.
    Again,
    /// To be gone through again at once.
    More,
    /// Nothing more can be done.
    Hopeless(String),
}

/// What a server is to do with a re-wrap that it had.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is nothing more to do.
    Ended(RewrapState),
    /// It was called off, or is another server's.
    Left,
    /// One of another account waits. It goes on after this time at the earliest.
    Over(Duration),
}

impl Store {
    /// Runs the re-wraps that there are, and those to come; never returns. `alone`: no other server is on this store,
    /// so that what is under way was a dead one's.
    pub async fn run_rewraps(self, alone: bool) {
        let mut take_over = alone;
        loop {
            match self.kms.claim_rewrap(take_over).await {
                Ok(Some(lease)) => {
                    self.rewrap_or_postpone(lease).await;
                    continue;
                }
                Ok(None) => take_over = false,
                Err(error) => debug!(event = "rewrap.not_looked", %error),
            }
            let begun = self.kms.rewrap_begun();
            let _elapsed = tokio::time::timeout(LOOK_INTERVAL, begun).await;
        }
    }

    /// Runs one re-wrap. What stands in its way does not stand in that of others.
    pub(super) async fn rewrap_or_postpone(&self, mut lease: RewrapLease) {
        let id = lease.rewrap().id;
        let done = match self.rewrap(&mut lease).await {
            Ok(Turn::Ended(state)) => self.ended(lease, state).await,
            Ok(Turn::Left) => Ok(()),
            Ok(Turn::Over(rest)) => {
                let put_back = self.kms.put_back_rewrap(lease, rest).await;
                put_back.map_err(StoreError::from)
            }
            Err(error) => {
                warn!(event = "rewrap.postponed", rewrap = %id, %error);
                let put_back = self.kms.put_back_rewrap(lease, LOOK_INTERVAL).await;
                put_back.map_err(StoreError::from)
            }
        };
        if let Err(error) = done {
            warn!(event = "rewrap.postponed", rewrap = %id, %error);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Runs one re-wrap to its end, or to the end of a page if another account's waits.
    pub(super) async fn rewrap(&self, lease: &mut RewrapLease) -> Result<Turn, StoreError> {
        let rewrap = lease.rewrap().clone();
        info!(event = "rewrap.running", rewrap = %rewrap.id, from = %rewrap.from, to = %rewrap.to);
        let (first, last) = rewrap.versions;
        let wanted = {
            let snapshot = self.meta.snapshot().await?;
            match Wanted::new(
                &*snapshot,
                rewrap.from.key_id(),
                first..=last,
                &rewrap.scope,
            )
            .await
            {
                Ok(wanted) => wanted,
                // Its bucket is gone, and everything in it.
                Err(DependantsError::NoSuchBucket(_)) => {
                    return Ok(Turn::Ended(RewrapState::Completed));
                }
                Err(DependantsError::Meta(error)) => return Err(error.into()),
            }
        };
        let (mut cursor, mut counts) = (rewrap.cursor, rewrap.counts);
        let mut names = BTreeMap::new();
        let mut pause = PAUSE_MIN;
        let page_rows = page_rows(rewrap.rate);
        loop {
            let began = Instant::now();
            let mut page = {
                let snapshot = self.meta.snapshot().await?;
                wanted.rows(&*snapshot, &cursor, page_rows).await?
            };
            if rewrap.rate.is_some() {
                end_with_a_bucket_key(&mut page);
            }
            let Some((page_end, _)) = page.last().cloned() else {
                counts.passes += 1;
                if counts.rewrapped == counts.rewrapped_in_passes || counts.passes >= PASSES_MAX {
                    return Ok(Turn::Ended(RewrapState::Completed));
                }
                counts.rewrapped_in_passes = counts.rewrapped;
                counts.failed = 0;
                cursor.clear();
                continue;
            };
            let rewrapped_before = counts.rewrapped;
            // Buckets keep their names, so that only a new one has them read again.
            let is_new = |row| {
                Dependant::read(row).is_ok_and(|dependant| !names.contains_key(&dependant.bucket))
            };
            if page.iter().any(is_new) {
                names = bucket_names(&*self.meta.snapshot().await?).await?;
            }
            let gone_through = self.rewrap_page(lease, &wanted, &names, &page, &mut counts);
            let rest = match gone_through.await? {
                Page::Done => {
                    cursor = page_end;
                    pause = PAUSE_MIN;
                    Duration::ZERO
                }
                Page::More => {
                    pause = PAUSE_MIN;
                    Duration::ZERO
                }
                Page::Again => {
                    let rest = pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                    rest
                }
                Page::Hopeless(why) => return Ok(Turn::Ended(RewrapState::Failed(why))),
            };
            if !self.kms.advance_rewrap(lease, &cursor, counts).await? {
                info!(event = "rewrap.left", rewrap = %rewrap.id, "called off, or another server's");
                return Ok(Turn::Left);
            }
            let rewrapped = usize::try_from(counts.rewrapped - rewrapped_before);
            let data_keys = rewrapped.unwrap_or(usize::MAX).max(page.len());
            let page_time = page_time(data_keys, rewrap.rate).saturating_sub(began.elapsed());
            let rest = rest.max(page_time);
            if let Some(rest) = self.rest_unless_another_waits(lease, rest).await? {
                return Ok(Turn::Over(rest));
            }
        }
    }

    /// Waits for so long, or until a re-wrap of another account waits: then it says how long it has not waited.
    async fn rest_unless_another_waits(
        &self,
        lease: &RewrapLease,
        rest: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let until = Instant::now() + rest;
        loop {
            let waits = self.kms.another_account_waits(lease).await?;
            let left = until.saturating_duration_since(Instant::now());
            match (waits, left) {
                (true, left) => return Ok(Some(left)),
                (false, Duration::ZERO) => return Ok(None),
                (false, left) => tokio::select! {
                    () = tokio::time::sleep(left.min(LOOK_INTERVAL)) => {}
                    () = self.kms.rewrap_begun() => {}
                },
            }
        }
    }

    async fn ended(&self, lease: RewrapLease, state: RewrapState) -> Result<(), StoreError> {
        if let Some(rewrap) = self.kms.end_rewrap(lease, state).await? {
            let Rewrap {
                id,
                state,
                counts,
                remaining,
                ..
            } = rewrap;
            let remaining = remaining.unwrap_or_default();
            info!(
                event = "rewrap.ended", rewrap = %id, ?state, rewrapped = counts.rewrapped, skipped = counts.skipped,
                failed = counts.failed, objects_left = remaining.objects, uploads_left = remaining.uploads
            );
        }
        Ok(())
    }

    /// Goes through a page. What has moved is counted even if the page has to be gone through again.
    async fn rewrap_page(
        &self,
        lease: &RewrapLease,
        wanted: &Wanted,
        names: &BTreeMap<Uuid, NamedBucket>,
        page: &[(Vec<u8>, Vec<u8>)],
        counts: &mut RewrapCounts,
    ) -> Result<Page, StoreError> {
        let rows: Vec<_> = page
            .iter()
            .map(|row| self.rewrap_row(lease, wanted, names, row).boxed())
            .collect();
        let mut outcomes = stream::iter(rows).buffer_unordered(IN_FLIGHT_MAX);
        let (mut skipped, mut failed) = (0, 0);
        let mut result = Page::Done;
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Outcome::Moved(moved) => counts.rewrapped += moved,
                Outcome::More(moved) => {
                    counts.rewrapped += moved;
                    if matches!(result, Page::Done) {
                        result = Page::More;
                    }
                }
                Outcome::Skipped => skipped += 1,
                Outcome::Failed => failed += 1,
                Outcome::Later if matches!(result, Page::Done | Page::More) => {
                    result = Page::Again;
                }
                Outcome::Later | Outcome::Foreign => {}
                Outcome::Hopeless(why) => result = Page::Hopeless(why),
            }
        }
        if !matches!(result, Page::Again | Page::More) {
            counts.skipped += skipped;
            counts.failed += failed;
        }
        Ok(result)
    }

    async fn rewrap_row(
        &self,
        lease: &RewrapLease,
        wanted: &Wanted,
        names: &BTreeMap<Uuid, NamedBucket>,
        row: &(Vec<u8>, Vec<u8>),
    ) -> Outcome {
        let moved = async {
            let dependant = Dependant::read(row)?;
            // A bucket that was deleted since had nothing in it any more.
            let Some(NamedBucket { name: bucket, .. }) = names.get(&dependant.bucket) else {
                return Ok(Outcome::Skipped);
            };
            if !self.is_in_scope(lease, bucket, &dependant.bucket).await? {
                return Ok(Outcome::Foreign);
            }
            if dependant.kind == Kind::BucketKey {
                return self
                    .rewrap_bucket_key(lease, wanted, bucket, &dependant)
                    .await;
            }
            let moved = self.rewrap_one(lease, bucket, &dependant, None).await?;
            Ok(if moved {
                Outcome::Moved(1)
            } else {
                Outcome::Skipped
            })
        };
        moved.await.unwrap_or_else(|error| judge(error, &row.0))
    }

    /// Whether a bucket is of the account whose buckets alone are meant, by its verified row.
    async fn is_in_scope(
        &self,
        lease: &RewrapLease,
        name: &str,
        uuid: &Uuid,
    ) -> Result<bool, StoreError> {
        let Some(owner) = &lease.rewrap().scope.owner else {
            return Ok(true);
        };
        let snapshot = self.meta.snapshot().await?;
        match self.bucket_named(&*snapshot, name, uuid).await {
            Ok(bucket) => {
                self.require_verified(bucket.verified).await?;
                Ok(bucket.record.owner(self.kms.account()) == *owner)
            }
            Err(StoreError::NoSuchBucket(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn rewrap_one(
        &self,
        lease: &RewrapLease,
        bucket: &str,
        dependant: &Dependant,
        between: Option<&Between>,
    ) -> Result<bool, StoreError> {
        match dependant.kind {
            Kind::Object => self.rewrap_object(lease, bucket, dependant, between).await,
            Kind::Upload => self.rewrap_upload(lease, bucket, dependant, between).await,
            // None hangs on another one.
            Kind::BucketKey => Ok(false),
        }
    }

    /// Moves what hangs on a bucket key to a new one under the new key: some of it, for a page is short. The row of each
    /// object names its KMS key, so that each is moved in a batch of its own; the old bucket key goes with the last.
    async fn rewrap_bucket_key(
        &self,
        lease: &RewrapLease,
        wanted: &Wanted,
        bucket: &str,
        dependant: &Dependant,
    ) -> Result<Outcome, StoreError> {
        let id = BucketKeyId::from_bytes(dependant.bucket_key()?);
        let row = bucket_key_row(&dependant.bucket, &id);
        let snapshot = self.meta.snapshot().await?;
        let Some(value) = snapshot.load(&row).await? else {
            return Ok(Outcome::Skipped);
        };
        let mut page = Vec::new();
        // Not fewer than that, however low the rate: each page is a bucket key more for whoever reads them.
        let page_rows = page_rows(lease.rewrap().rate).max(IN_FLIGHT_MAX);
        for range in wanted.under(&dependant.bucket, *id.as_bytes()) {
            let room = page_rows + 1 - page.len();
            page.extend(snapshot.scan(&range, room).await?);
        }
        drop(snapshot);
        let record: BucketKeyRecord = codec::decode("bucket key", &value)?;
        let expected = Dependency::Kms(lease.rewrap().from.key_id(), dependant.version);
        let (BucketKeyWrap::Kms(encrypted), true) = (
            &record.wrap,
            dependency_of_bucket_key(&record) == Some(expected),
        ) else {
            return Ok(Outcome::Skipped);
        };
        // Whoever writes under the old key from now on does so with another bucket key. Whoever reads what has moved
        // since he found it may still open it.
        self.bucket_keys.retire(&id);
        let context = context_of(true, &[], bucket, "")?;
        let encrypted = EncryptedDataKey::from_bytes(encrypted.clone())?;
        let secret = self
            .kms
            .unwrap_for_rewrap(lease, &encrypted, &context)
            .await?;
        let old = BucketKey {
            id,
            bucket: dependant.bucket,
            record,
            secret,
        };
        let secret = DataKey::random().map_err(|_no_randomness| StoreError::Random)?;
        let encrypted = self.kms.wrap_for_rewrap(lease, &context, &secret).await?;
        let created_ms = self.now_ms();
        let new = BucketKey {
            id: bucket_key::fresh_id(created_ms)?,
            bucket: dependant.bucket,
            record: BucketKeyRecord {
                created_ms,
                wrap: BucketKeyWrap::Kms(encrypted.as_bytes().to_vec()),
            },
            secret,
        };
        let between = Between { old, new };
        let more = page.len() > page_rows;
        let page = page.get(..page_rows).unwrap_or(&page);
        let (mut moved, mut failed, mut left) = (0, false, Vec::new());
        // The first brings the row of the new bucket key. What then meets others at the row of a witness comes again
        // alone; so does what was changed, to no effect.
        let (first, rest) = page.split_at(page.len().min(1));
        for (rows, at_once) in [(first, 1), (rest, IN_FLIGHT_MAX)] {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| self.rewrap_between(lease, bucket, row, &between).boxed())
                .collect();
            let mut outcomes = stream::iter(rows).buffer_unordered(at_once);
            while let Some((row, outcome)) = outcomes.next().await {
                match outcome {
                    Outcome::Moved(one) => moved += one,
                    Outcome::Failed => failed = true,
                    Outcome::Skipped => left.push(row),
                    other => return Ok(other),
                }
            }
        }
        for row in left {
            match self.rewrap_between(lease, bucket, row, &between).await.1 {
                Outcome::Moved(one) => moved += one,
                Outcome::Failed => failed = true,
                Outcome::Skipped => {}
                other => return Ok(other),
            }
        }
        Ok(match (moved, more, failed) {
            (0, _, true) => Outcome::Failed,
            (0, _, false) => Outcome::Skipped,
            (_, true, _) => Outcome::More(moved),
            (_, false, _) => Outcome::Moved(moved),
        })
    }

    /// Moves one data key from one bucket key to the other.
    async fn rewrap_between<'r>(
        &self,
        lease: &RewrapLease,
        bucket: &str,
        row: &'r (Vec<u8>, Vec<u8>),
        between: &Between,
    ) -> (&'r (Vec<u8>, Vec<u8>), Outcome) {
        let moved = async {
            let dependant = Dependant::read(row)?;
            self.rewrap_one(lease, bucket, &dependant, Some(between))
                .await
        };
        let outcome = match moved.await {
            Ok(true) => Outcome::Moved(1),
            Ok(false) => Outcome::Skipped,
            Err(error) => judge(error, &row.0),
        };
        (row, outcome)
    }

    /// Moves an object's data key. `false`: the object is gone, or changed.
    async fn rewrap_object(
        &self,
        lease: &RewrapLease,
        bucket: &str,
        dependant: &Dependant,
        between: Option<&Between>,
    ) -> Result<bool, StoreError> {
        let (name, _) = dependant.name()?;
        let snapshot = self.meta.snapshot().await?;
        let object = load_object(&*snapshot, &name).await?;
        let sealed = load_sealed(&*snapshot, &name).await?;
        drop(snapshot);
        let (Some((record, value)), Some(manifest)) = (object, sealed.record()) else {
            return Ok(false);
        };
        let Some((schedule, key)) = self
            .rewrap_key(lease, (bucket, &name), dependant, &manifest.key, between)
            .await?
        else {
            return Ok(false);
        };
        // The old wrap goes only if what came out of it is this object's data key.
        let opened =
            schedule.open_manifest(&manifest.manifest, &name.identity(), &row_digest(&value))?;
        let attributes = schedule.open_attributes(&name.identity(), &manifest.attributes)?;
        let opened = Opened {
            schedule: Arc::new(schedule),
            manifest: opened,
            attributes: codec::decode("attributes", &attributes)?,
        };
        let located = Located::new(name, record, &value, manifest.clone());
        let sse = SseRecord::Kms(lease.rewrap().to.as_str().to_owned());
        self.change_key(&located, opened, sse, key).await
    }

    /// Moves an upload's data key. Parts that are being sent do not notice.
    async fn rewrap_upload(
        &self,
        lease: &RewrapLease,
        bucket: &str,
        dependant: &Dependant,
        between: Option<&Between>,
    ) -> Result<bool, StoreError> {
        let (name, id) = dependant.name()?;
        let row = name.upload_row(&id);
        let snapshot = self.meta.snapshot().await?;
        let Some(value) = snapshot.load(&row).await? else {
            return Ok(false);
        };
        let upload: UploadRecord = codec::decode("upload", &value)?;
        let Some((_schedule, key)) = self
            .rewrap_key(lease, (bucket, &name), dependant, &upload.key, between)
            .await?
        else {
            return Ok(false);
        };
        let index = index_upload(&name, &id, Some(&upload.key), Some(&key.record));
        let mut held = self
            .hold_bucket_key(&*snapshot, &name.bucket, &key, row.clone())
            .await?;
        if let Some(between) = between {
            let old = &between.old.id;
            held = held.and(
                self.release_bucket_key(&*snapshot, &name.bucket, old, &row)
                    .await?,
            );
        }
        drop(snapshot);
        let upload = UploadRecord {
            key: key.record,
            sse: SseRecord::Kms(lease.rewrap().to.as_str().to_owned()),
            ..upload
        };
        let batch = Batch::new()
            .unchanged(row.clone(), Some(&value))
            .put(row, codec::encode(&upload))
            .and(index)
            .and(held);
        match self.meta.commit(batch).await {
            Ok(()) => Ok(true),
            Err(MetaError::Conflict) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    /// Unwraps a data key and wraps it anew, by the HSM or between two bucket keys. None: it hangs on something else by
    /// now.
    async fn rewrap_key(
        &self,
        lease: &RewrapLease,
        (bucket, name): (&str, &ObjectName),
        dependant: &Dependant,
        key: &KeyRecord,
        between: Option<&Between>,
    ) -> Result<Option<(KeySchedule, WrappedKey)>, StoreError> {
        match (key, between) {
            (KeyRecord::Bucket(id, wrapped, caller_context), Some(Between { old, new }))
                if *id == old.id =>
            {
                let identity = name.identity();
                let data_key = old.unwrap(&identity, caller_context, wrapped)?;
                let key = new.wrap(&identity, caller_context, &data_key)?;
                Ok(Some((KeySchedule::new(data_key), WrappedKey::by(new, key))))
            }
            (KeyRecord::Kms(encrypted, caller_context), None) => {
                let expected = Dependency::Kms(lease.rewrap().from.key_id(), dependant.version);
                if dependency(key) != Some(expected) {
                    return Ok(None);
                }
                let encrypted = EncryptedDataKey::from_bytes(encrypted.as_slice())?;
                let context = context_of(false, caller_context, bucket, &name.key)?;
                let data_key = self
                    .kms
                    .unwrap_for_rewrap(lease, &encrypted, &context)
                    .await?;
                let encrypted = self.kms.wrap_for_rewrap(lease, &context, &data_key).await?;
                let key = KeyRecord::Kms(encrypted.as_bytes().to_vec(), caller_context.clone());
                Ok(Some((KeySchedule::new(data_key), WrappedKey::of(key))))
            }
            _ => Ok(None),
        }
    }
}

/// The two bucket keys of a page of a re-wrap, in the clear as long as it takes.
struct Between {
    old: BucketKey,
    new: BucketKey,
}

/// Rows of a page, so that one takes a second at most at this rate.
fn page_rows(rate: Option<u32>) -> usize {
    let rate = rate.and_then(|rate| usize::try_from(rate).ok());
    rate.map_or(PAGE_ROWS, |rate| rate.clamp(1, PAGE_ROWS))
}

/// Has a page of a re-wrap with a rate end with its first bucket key, on which a page of data keys hangs by itself.
fn end_with_a_bucket_key(page: &mut Vec<Row>) {
    let is_bucket_key =
        |row| Dependant::read(row).is_ok_and(|dependant| dependant.kind == Kind::BucketKey);
    if let Some(first) = page.iter().position(is_bucket_key) {
        page.truncate(first + 1);
    }
}

/// The shortest time that a page may take at this rate.
fn page_time(data_keys: usize, rate: Option<u32>) -> Duration {
    match (rate, u32::try_from(data_keys)) {
        (Some(rate), Ok(data_keys)) if rate > 0 => Duration::from_secs(1) * data_keys / rate,
        _ => Duration::ZERO,
    }
}

/// Who must act on an error: nobody, for it will pass; the operator, for one object; or whoever began all this.
fn judge(error: StoreError, row: &[u8]) -> Outcome {
    match error {
        StoreError::Busy
        | StoreError::Conflict
        | StoreError::Meta(MetaError::Storage { .. })
        | StoreError::Kms(KmsError::Busy | KmsError::Storage(_) | KmsError::Audit(_)) => {
            Outcome::Later
        }
        StoreError::Kms(error) if error.is_outage() => Outcome::Later,
        StoreError::Kms(
            error @ (KmsError::NotFound(_)
            | KmsError::Disabled(_)
            | KmsError::InvalidState { .. }
            | KmsError::InvalidKeyUsage(_)
            | KmsError::LimitExceeded(_)
            | KmsError::KeyStore(_)),
        ) => Outcome::Hopeless(error.to_string()),
        error => {
            let row = hex::encode(row);
            warn!(event = "rewrap.failed", row, %error, source = ?std::error::Error::source(&error));
            Outcome::Failed
        }
    }
}

/// What the wrap of an object's data key, or of a bucket key, is bound to.
fn context_of(
    bucket_key: bool,
    caller: &[(String, String)],
    bucket: &str,
    key: &str,
) -> Result<EncryptionContext, StoreError> {
    full_context(caller, &arn_of_wrap(bucket_key, bucket, key)).map_err(|error| match error {
        // Nobody can have written such a record.
        ContextError::Reserved => MetaError::Damaged("kept encryption context").into(),
        ContextError::Kms(error) => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::EnvelopeError;

    #[test]
    fn a_page_takes_as_long_as_its_rate_says() {
        assert_eq!(page_rows(None), PAGE_ROWS);
        assert_eq!(page_rows(Some(1)), 1);
        assert_eq!(page_rows(Some(u32::MAX)), PAGE_ROWS);
        assert_eq!(page_time(256, None), Duration::ZERO);
        assert_eq!(page_time(1, Some(1)), Duration::from_secs(1));
        assert_eq!(page_time(256, Some(1024)), Duration::from_millis(250));
    }

    #[test]
    fn an_outage_is_waited_for_and_a_disabled_key_is_not() {
        let timeout = StoreError::Kms(KmsError::Timeout(Duration::from_secs(1)));
        assert!(matches!(judge(timeout, b"row"), Outcome::Later));
        let gone = StoreError::Kms(KmsError::NotFound("Key 'x' does not exist".into()));
        assert!(matches!(judge(gone, b"row"), Outcome::Hopeless(_)));
        let damage = StoreError::Damaged(EnvelopeError::Unauthentic("manifest"));
        assert!(matches!(judge(damage, b"row"), Outcome::Failed));
    }
}
