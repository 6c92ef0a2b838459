//! Records in one redb file.
//!
//! # Group commit
//!
//! One thread, `meta-commit`, does all writing. It takes whatever batches wait, runs them one after another in one
//! redb transaction, flushes once, and answers them all. A batch whose preconditions do not hold is skipped; the
//! others do not notice. So a flush costs the same for one writer and for many.
//!
//! # After a crash
//!
//! A commit writes a checksummed root into the older of two slots and flushes once; a root that does not check is
//! passed over at the next opening. After a crash redb walks the whole file once to learn which pages are free: 0.45 s
//! for 285 MB in the page cache, measured. From [`QUICK_REPAIR_FILE_BYTES`] on, each commit therefore also records
//! the free pages (redb's "quick repair", which implies a second flush): a single writer makes half as many commits
//! a second, and opening after a crash no longer grows with the file.
//!
//! # When the disk fails
//!
//! redb refuses everything after its first failed input or output, so that the file must be opened again. The thread
//! does that by itself, within [`RECOVERY_INTERVAL`], after a failed read or write: a full disk is an outage until
//! there is space, not until somebody restarts the server. Snapshots from before do not survive it. After a failed
//! *flush* the page cache may differ from the disk, and to go on could overwrite the only good state: everything
//! fails until the operator has seen to the disk and restarts.

use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::disk::{Disk, Health};
use super::{
    BATCH_OPERATIONS_MAX, Batch, KEY_BYTES_MAX, KeyRange, Meta, MetaError, Precondition, Row,
    Snapshot, VALUE_BYTES_MAX, Write,
};

mod disk;

/// The most batches that wait.
const QUEUE_BATCHES_MAX: usize = 4096;
/// The most bytes that wait; hence also the largest batch.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What an operation counts for besides its key and value.
const OPERATION_BYTES: usize = 64;
/// The most batches of one group.
const GROUP_BATCHES_MAX: usize = 256;
/// A group of this many bytes takes no further batch.
const GROUP_BYTES_ENOUGH: usize = 8 * 1024 * 1024;
/// Memory that redb may use for pages, read and unwritten ones together.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Files of this size are kept ready for quick repair: one of less is walked in half a second.
const QUICK_REPAIR_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// How long a failed file waits to be opened again.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(1);
/// A scan lets other tasks run after so many rows.
const SCAN_STRETCH_ROWS: usize = 1000;
/// A scan lets other tasks run after so many bytes.
const SCAN_STRETCH_BYTES: usize = 1024 * 1024;

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The metadata store in one file of this server.
///
/// Dropping it answers the batches that wait, closes the file cleanly, and blocks for that long.
pub struct RedbMeta {
    engine: Arc<Engine>,
    /// Absent while it is being dropped.
    queue: Option<SyncSender<Job>>,
    queue_bytes: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

impl RedbMeta {
    /// Opens the file at `path`, made with mode 0600 if absent, and repairs it after a crash. Blocks.
    ///
    /// # Errors
    ///
    /// [`MetaError::Storage`], also when another process has the file open.
    pub fn open(path: &Path) -> Result<Self, MetaError> {
        Self::open_with(path, QUICK_REPAIR_FILE_BYTES)
    }

    fn open_with(path: &Path, quick_repair_file_bytes: u64) -> Result<Self, MetaError> {
        let health = Arc::new(Health::default());
        let engine = Arc::new(Engine {
            database: RwLock::new(Some(open_database(path, &health)?)),
            path: path.to_path_buf(),
            quick_repair_file_bytes,
            health,
            groups: AtomicU64::new(0),
        });
        let (queue, jobs) = sync_channel(QUEUE_BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("meta-commit".to_owned())
            .spawn({
                let engine = Arc::clone(&engine);
                move || serve(&engine, &jobs)
            })
            .map_err(|error| storage("starting the commit thread", error))?;
        Ok(Self {
            engine,
            queue: Some(queue),
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            thread: Some(thread),
        })
    }

    /// How many groups of batches have been made durable since the store was opened.
    pub fn groups_committed(&self) -> u64 {
        self.engine.groups.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for RedbMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedbMeta({})", self.engine.path.display())
    }
}

impl Drop for RedbMeta {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(Err(_panic)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!(
                event = "meta.thread_died",
                "the metadata store was not closed cleanly"
            );
        }
    }
}

#[async_trait]
impl Meta for RedbMeta {
    async fn commit(&self, batch: Batch) -> Result<(), MetaError> {
        let bytes = check_limits(&batch)?;
        let room = Arc::clone(&self.queue_bytes)
            .try_acquire_many_owned(bytes)
            .map_err(|_no_permits| MetaError::Busy)?;
        let (answer, outcome) = oneshot::channel();
        let job = Job {
            batch,
            answer,
            room,
        };
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_job) => MetaError::Busy,
            TrySendError::Disconnected(_job) => stopped(),
        })?;
        outcome.await.unwrap_or_else(|_dropped| Err(stopped()))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        Ok(Box::new(RedbSnapshot {
            rows: self.engine.rows()?,
        }))
    }
}

/// A view of one commit. Reads run where they are awaited: a row costs 16 µs, less than a trip to another thread.
struct RedbSnapshot {
    rows: Rows,
}

#[async_trait]
impl Snapshot for RedbSnapshot {
    async fn load(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        let value = self.rows.get(key).map_err(failed("reading a row"))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    async fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, MetaError> {
        let mut rows = Vec::new();
        while scan_stretch(&self.rows, range, limit, &mut rows)? {
            tokio::task::yield_now().await;
        }
        Ok(rows)
    }
}

/// Reads on after the last of `rows`, up to a bound that keeps the thread free. Whether there may be more.
fn scan_stretch(
    table: &Rows,
    range: &KeyRange,
    limit: usize,
    rows: &mut Vec<Row>,
) -> Result<bool, MetaError> {
    let start = match rows.last() {
        Some((last, _)) => Bound::Excluded(last.as_slice()),
        None => Bound::Included(range.start.as_slice()),
    };
    if range.start >= range.end || rows.len() >= limit {
        return Ok(false);
    }
    let found = table
        .range::<&[u8]>((start, Bound::Excluded(range.end.as_slice())))
        .map_err(failed("reading rows"))?;
    let rows_enough = limit.min(rows.len().saturating_add(SCAN_STRETCH_ROWS));
    let mut bytes = 0;
    for row in found {
        let (key, value) = row.map_err(failed("reading rows"))?;
        bytes += key.value().len() + value.value().len();
        rows.push((key.value().to_vec(), value.value().to_vec()));
        if rows.len() >= rows_enough || bytes >= SCAN_STRETCH_BYTES {
            return Ok(rows.len() < limit);
        }
    }
    Ok(false)
}

/// A batch that waits, who waits for it, and the room it takes in the queue.
struct Job {
    batch: Batch,
    answer: oneshot::Sender<Result<(), MetaError>>,
    room: OwnedSemaphorePermit,
}

/// The database, and what is needed to open it again.
struct Engine {
    /// Absent between a failure and a successful opening.
    database: RwLock<Option<Database>>,
    path: PathBuf,
    quick_repair_file_bytes: u64,
    health: Arc<Health>,
    groups: AtomicU64,
}

/// The life of the commit thread: until the queue is closed and empty.
fn serve(engine: &Engine, jobs: &Receiver<Job>) {
    loop {
        // A panic drops the group, which answers its callers, and must not end the thread.
        match catch_unwind(AssertUnwindSafe(|| turn(engine, jobs))) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_panic) => {
                tracing::error!(
                    event = "meta.commit_panicked",
                    "the metadata store is opened again"
                );
                engine.health.distrust();
            }
        }
    }
    if let Some(Err(error)) = engine.take().map(Database::close) {
        tracing::error!(event = "meta.close_failed", error = %error, "repair follows at the next start");
    }
}

/// One group, or one look at the health of an idle store. False when the queue is closed.
fn turn(engine: &Engine, jobs: &Receiver<Job>) -> bool {
    let group = match jobs.recv_timeout(RECOVERY_INTERVAL) {
        Ok(first) => gather(first, jobs),
        Err(RecvTimeoutError::Timeout) => Vec::new(),
        Err(RecvTimeoutError::Disconnected) => return false,
    };
    engine.recover();
    if group.is_empty() {
        return true;
    }
    match engine.commit(&group) {
        Ok(applied) => {
            for (job, applied) in group.into_iter().zip(applied) {
                answer(job, applied.then_some(()).ok_or(MetaError::Conflict));
            }
        }
        Err(Failure { action, source }) => {
            tracing::error!(event = "meta.commit_failed", action, error = %source, batches = group.len());
            let source = Arc::new(source);
            for job in group {
                answer(job, Err(storage(action, Arc::clone(&source))));
            }
        }
    }
    true
}

/// `first` and what waits behind it, up to the bounds of a group.
fn gather(first: Job, jobs: &Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.room.num_permits();
    let mut group = vec![first];
    while group.len() < GROUP_BATCHES_MAX && bytes < GROUP_BYTES_ENOUGH {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.room.num_permits();
        group.push(job);
    }
    group
}

fn answer(job: Job, outcome: Result<(), MetaError>) {
    // Who has stopped waiting has agreed not to know.
    let _unheard = job.answer.send(outcome);
}

impl Engine {
    /// The rows as of the last commit.
    fn rows(&self) -> Result<Rows, Failure> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(closed)?;
        let transaction = database.begin_read().map_err(failed("beginning to read"))?;
        transaction
            .open_table(ROWS)
            .map_err(failed("opening the table"))
    }

    /// Applies a group in one durable transaction. Says of each batch whether its preconditions held.
    fn commit(&self, group: &[Job]) -> Result<Vec<bool>, Failure> {
        // Durability is immediate by default: the commit returns after the flush.
        let mut transaction = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = database.as_ref().ok_or_else(closed)?;
            database
                .begin_write()
                .map_err(failed("beginning to write"))?
        };
        if std::fs::metadata(&self.path)
            .is_ok_and(|file| file.len() >= self.quick_repair_file_bytes)
        {
            transaction.set_quick_repair(true);
        }
        let mut applied = Vec::with_capacity(group.len());
        let mut changed = false;
        {
            let mut table = transaction
                .open_table(ROWS)
                .map_err(failed("opening the table"))?;
            for Job { batch, .. } in group {
                let holds = all_hold(&table, batch.preconditions())
                    .map_err(failed("checking a precondition"))?;
                if holds {
                    write_all(&mut table, batch.writes()).map_err(failed("writing a row"))?;
                    changed |= !batch.writes().is_empty();
                }
                applied.push(holds);
            }
        }
        if changed {
            transaction.commit().map_err(failed("committing"))?;
            self.groups.fetch_add(1, Ordering::Relaxed);
        } else {
            transaction
                .abort()
                .map_err(failed("ending a transaction"))?;
        }
        Ok(applied)
    }

    /// Opens the file again if something failed, unless it was a flush.
    fn recover(&self) {
        if !self.health.failed() || self.health.flush_failed() {
            return;
        }
        if let Some(Err(error)) = self.take().map(Database::close) {
            tracing::warn!(event = "meta.close_failed", error = %error);
        }
        match open_database(&self.path, &self.health) {
            Ok(database) => {
                self.health.trust();
                *self
                    .database
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = Some(database);
                tracing::warn!(
                    event = "meta.recovered",
                    "the metadata store was opened again after a failure"
                );
            }
            Err(Failure { action, source }) => {
                self.health.distrust();
                tracing::error!(event = "meta.unavailable", action, error = %source);
            }
        }
    }

    fn take(&self) -> Option<Database> {
        self.database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Opens the file, with its table.
fn open_database(path: &Path, health: &Arc<Health>) -> Result<Database, Failure> {
    let disk = Disk::open(path, Arc::clone(health)).map_err(failed("opening the file"))?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(disk)
        .map_err(failed("opening the database"))?;
    let transaction = database.begin_read().map_err(failed("beginning to read"))?;
    if transaction.open_table(ROWS).is_err() {
        let transaction = database
            .begin_write()
            .map_err(failed("beginning to write"))?;
        transaction
            .open_table(ROWS)
            .map_err(failed("making the table"))?;
        transaction.commit().map_err(failed("committing"))?;
    }
    Ok(database)
}

fn all_hold(
    table: &Table<&[u8], &[u8]>,
    preconditions: &[Precondition],
) -> Result<bool, redb::StorageError> {
    for precondition in preconditions {
        let holds = match precondition {
            Precondition::Absent(key) => table.get(key.as_slice())?.is_none(),
            Precondition::Unchanged(key, value) => table
                .get(key.as_slice())?
                .is_some_and(|row| row.value() == value.as_slice()),
            Precondition::RangeEmpty(KeyRange { start, end }) => table
                .range(start.as_slice()..end.as_slice())?
                .next()
                .transpose()?
                .is_none(),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_all(table: &mut Table<&[u8], &[u8]>, writes: &[Write]) -> Result<(), redb::StorageError> {
    for write in writes {
        match write {
            Write::Put(key, value) => drop(table.insert(key.as_slice(), value.as_slice())?),
            Write::Delete(key) => drop(table.remove(key.as_slice())?),
        }
    }
    Ok(())
}

/// Holds `batch` against the limits. The bytes it takes in the queue.
fn check_limits(batch: &Batch) -> Result<u32, MetaError> {
    let operations = batch.preconditions().len() + batch.writes().len();
    at_most("operations of a batch", operations, BATCH_OPERATIONS_MAX)?;
    let mut bytes = operations * OPERATION_BYTES;
    let mut count = |what, length: usize, limit| {
        bytes = bytes.saturating_add(length);
        at_most(what, length, limit)
    };
    for precondition in batch.preconditions() {
        match precondition {
            Precondition::Absent(key) => count(KEY_BYTES, key.len(), KEY_BYTES_MAX)?,
            Precondition::Unchanged(key, value) => {
                count(KEY_BYTES, key.len(), KEY_BYTES_MAX)?;
                count(VALUE_BYTES, value.len(), VALUE_BYTES_MAX)?;
            }
            Precondition::RangeEmpty(KeyRange { start, end }) => {
                count(KEY_BYTES, start.len(), KEY_BYTES_MAX)?;
                count(KEY_BYTES, end.len(), KEY_BYTES_MAX)?;
                at_most(
                    "ranges that are empty in themselves",
                    usize::from(start >= end),
                    0,
                )?;
            }
        }
    }
    for write in batch.writes() {
        match write {
            Write::Put(key, value) => {
                count(KEY_BYTES, key.len(), KEY_BYTES_MAX)?;
                count(VALUE_BYTES, value.len(), VALUE_BYTES_MAX)?;
            }
            Write::Delete(key) => count(KEY_BYTES, key.len(), KEY_BYTES_MAX)?,
        }
    }
    at_most("bytes of a batch", bytes, QUEUE_BYTES_MAX)?;
    u32::try_from(bytes).map_err(|_wider| MetaError::Busy)
}

const KEY_BYTES: &str = "bytes of a key";
const VALUE_BYTES: &str = "bytes of a value";

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), MetaError> {
    if count > limit {
        Err(MetaError::Limit { what, limit })
    } else {
        Ok(())
    }
}

/// What redb said, and when.
struct Failure {
    action: &'static str,
    source: redb::Error,
}

impl From<Failure> for MetaError {
    fn from(Failure { action, source }: Failure) -> Self {
        storage(action, source)
    }
}

fn failed<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure {
        action,
        source: error.into(),
    }
}

/// Between a failure and the next opening.
fn closed() -> Failure {
    Failure {
        action: "using the database",
        source: redb::Error::DatabaseClosed,
    }
}

fn stopped() -> MetaError {
    storage("waiting for the commit thread", redb::Error::DatabaseClosed)
}

fn storage(
    action: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> MetaError {
    MetaError::Storage {
        action,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
