//! The writer: one thread appends to the chain, for everybody.
//!
//! Records come through a bounded queue and are written in groups, a `write(2)` each; whoever brought one waits until it
//! is in the kernel ([`Durability::Interval`]) or on stable storage ([`Durability::Always`], one flush a group). Before
//! each group the file is looked at: one that was moved away, replaced, cut or added to by somebody else is left, and the
//! chain goes on in a new file that says why.
//!
//! When a group cannot be written, what was written of it is cut off again, and everybody who brought a record is told.
//! From then on the audit is failing: [`Audit::check`] says so at once to whoever is about to use a key, and the thread
//! tries again by itself until it can say in the chain how many records are lost.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Notify, mpsc, oneshot};

use super::chain::Head;
use super::note::{Checkpoint, Note, ServerId};
use crate::clock::Clock;

mod file;

use file::{Files, Problem};

/// Records that wait for the thread.
const QUEUE_RECORDS_MAX: usize = 4096;
/// Records of one group.
const GROUP_RECORDS_MAX: usize = 512;
/// Longest wait for a place in the queue, and then for the answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Why a record never came into the queue.
const UNQUEUED: &str = "the disk did not answer, and the queue was full";
/// Or why nobody waited until it did.
const LEFT: &str = "the queue was full, and whoever asked went away";
/// How often the thread tries by itself to write again.
const HEAL_PAUSE: Duration = Duration::from_millis(500);

/// When records are on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// At most so long after they are written to the kernel.
    Interval(Duration),
    /// Before the answer leaves that they are about.
    Always,
}

/// What becomes of key use while the audit cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails.
    Refuse,
    /// It goes on without a record; the chain says later how many are missing.
    Continue,
}

/// How an audit is kept.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// The directory of the chain.
    pub dir: PathBuf,
    /// When records are durable.
    pub durability: Durability,
    /// What becomes of key use while they are not written.
    pub on_failure: OnFailure,
    /// A file does not grow beyond this, but for its last record.
    pub file_bytes_max: u64,
    /// A checkpoint is due after so many records.
    pub checkpoint_records: u64,
    /// A checkpoint is due so long after the first record without one.
    pub checkpoint_interval: Duration,
}

/// What can go wrong with the audit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// Operator: the record cannot be written.
    #[error("the audit record cannot be written")]
    Unwritable(#[source] Arc<io::Error>),
    /// Operator: an earlier record could not be written, and nothing since.
    #[error("the audit cannot be written: {0}")]
    Failing(String),
    /// Operator: the disk does not answer.
    #[error("no answer from the audit's disk within {0:?}")]
    Timeout(Duration),
    /// Operator: the audit is closed.
    #[error("the audit is closed")]
    Closed,
}

/// Where the chain stands, and all of it durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its last record.
    pub head: Head,
    /// Records that want a checkpoint, written by this process up to there.
    pub wanting: u64,
}

/// How the audit fares, for gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Records written by this process.
    pub records: u64,
    /// Records that could not be written.
    pub lost: u64,
    /// Whether records cannot be written now.
    pub is_failing: bool,
    /// Records that no checkpoint attests yet.
    pub unattested: u64,
    /// Whether the last attempt at a checkpoint failed.
    pub checkpoint_is_failing: bool,
    /// Flushes to stable storage.
    pub flushes: u64,
}

/// What the thread and its users share.
#[derive(Debug, Default)]
struct Shared {
    records: AtomicU64,
    lost: AtomicU64,
    flushes: AtomicU64,
    /// Records that want a checkpoint: all but the checkpoints themselves.
    wanting: AtomicU64,
    attested: AtomicU64,
    is_failing: AtomicBool,
    checkpoint_is_failing: AtomicBool,
    /// Whether this process has made a checkpoint.
    has_checkpoint: AtomicBool,
    why: Mutex<String>,
    /// What the chain does not yet say to be lost, by why it is.
    unqueued: Mutex<BTreeMap<&'static str, Unqueued>>,
    due: Notify,
}

/// Records that never came into the queue.
#[derive(Debug, Clone, Copy)]
struct Unqueued {
    count: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

impl Shared {
    fn unqueued(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Unqueued>> {
        self.unqueued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what never came into the queue.
    fn lose(&self, why: &'static str, lost: Unqueued) {
        let mut unqueued = self.unqueued();
        let all = unqueued.entry(why).or_insert(Unqueued { count: 0, ..lost });
        all.count = all.count.saturating_add(lost.count);
        all.first = all.first.min(lost.first);
        all.last = all.last.max(lost.last);
    }

    fn unattested(&self) -> u64 {
        let attested = self.attested.load(Ordering::Acquire);
        self.wanting
            .load(Ordering::Acquire)
            .saturating_sub(attested)
    }

    fn why(&self) -> std::sync::MutexGuard<'_, String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Job {
    Record {
        record: Vec<u8>,
        /// Whether it wants a checkpoint.
        wants: bool,
        answer: oneshot::Sender<Result<(), AuditError>>,
    },
    Flush(oneshot::Sender<Result<Standing, AuditError>>),
}

/// The audit of this server. Dropping it flushes what there is, and blocks for that long.
pub struct Audit {
    queue: Option<mpsc::Sender<Job>>,
    shared: Arc<Shared>,
    server: ServerId,
    settings: AuditSettings,
    clock: Arc<dyn Clock>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audit({})", self.settings.dir.display())
    }
}

impl Audit {
    /// Opens the chain of `server`, makes good what a crash has left, and says in it that a process begins. `attested`
    /// is the last head that the metadata know: the chain goes on behind it even if its own files end earlier, so that
    /// what is missing stays missing. Blocks.
    ///
    /// # Errors
    ///
    /// [`AuditError::Unwritable`].
    pub fn open(
        server: ServerId,
        attested: Option<Head>,
        settings: AuditSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        let unwritable = |error| AuditError::Unwritable(Arc::new(error));
        let shared = Arc::new(Shared::default());
        let files = Files::open(server, attested, &settings, Arc::clone(&clock));
        let mut writer = Writer {
            files: files.map_err(unwritable)?,
            settings: settings.clone(),
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            unflushed: None,
            trouble: None,
        };
        let start = Note::Start {
            time: timestamp(clock.now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        writer
            .write(&[(start.record(), true)])
            .map_err(|(_none, error)| AuditError::Unwritable(error))?;
        let (queue, jobs) = mpsc::channel(QUEUE_RECORDS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(unwritable)?;
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || runtime.block_on(writer.serve(jobs)))
            .map_err(unwritable)?;
        Ok(Self {
            queue: Some(queue),
            shared,
            server,
            settings,
            clock,
            thread: Some(thread),
        })
    }

    /// Whose chain it is.
    pub fn server(&self) -> ServerId {
        self.server
    }

    /// Before a key is used: whether its record can be written, as far as is known.
    ///
    /// # Errors
    ///
    /// [`AuditError::Failing`], unless key use goes on without records.
    pub fn check(&self) -> Result<(), AuditError> {
        let failing = self.shared.is_failing.load(Ordering::Acquire);
        if failing && self.settings.on_failure == OnFailure::Refuse {
            return Err(AuditError::Failing(self.shared.why().clone()));
        }
        Ok(())
    }

    /// Appends a record: a JSON object without a line feed. Returns when it is as durable as the settings say. `false`: it
    /// is lost, and the settings let it go on without.
    ///
    /// # Errors
    ///
    /// [`AuditError`], unless key use goes on without records.
    pub async fn append(&self, record: Vec<u8>) -> Result<bool, AuditError> {
        match self.append_any(record, true).await {
            Ok(()) => Ok(true),
            Err(_lost) if self.settings.on_failure == OnFailure::Continue => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Appends a record that nobody waits for. What does not come into the queue at once is lost, and counted.
    pub(crate) fn append_unawaited(&self, record: Vec<u8>) {
        let mut unsent = self.unsent();
        let (answer, _nobody) = oneshot::channel();
        let job = Job::Record {
            record,
            wants: true,
            answer,
        };
        let queue = self.queue.as_ref();
        if queue.is_some_and(|queue| queue.try_send(job).is_ok()) {
            unsent.why = None;
        }
    }

    /// Appends a checkpoint.
    ///
    /// # Errors
    ///
    /// [`AuditError`].
    pub async fn append_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), AuditError> {
        let record = checkpoint.record(timestamp(self.clock.now()));
        self.append_any(record, false).await
    }

    /// Says that a checkpoint of so many records ([`Standing::wanting`]) has been made, and is known elsewhere.
    pub fn attested(&self, wanting: u64) {
        self.shared.attested.fetch_max(wanting, Ordering::AcqRel);
        self.shared.has_checkpoint.store(true, Ordering::Release);
        let failing = &self.shared.checkpoint_is_failing;
        failing.store(false, Ordering::Release);
    }

    /// Says that a checkpoint could not be made. `true`: the one before could.
    pub fn checkpoint_failed(&self) -> bool {
        !self
            .shared
            .checkpoint_is_failing
            .swap(true, Ordering::AcqRel)
    }

    /// Waits until a checkpoint is due: at once for the first record of this process, else as the settings say.
    pub async fn checkpoint_due(&self) {
        loop {
            let notified = self.shared.due.notified();
            match self.shared.unattested() {
                0 => notified.await,
                _ if !self.shared.has_checkpoint.load(Ordering::Acquire) => return,
                records if records >= self.settings.checkpoint_records => return,
                _ => {
                    let enough = async {
                        while self.shared.unattested() < self.settings.checkpoint_records {
                            self.shared.due.notified().await;
                        }
                    };
                    let pause = self.settings.checkpoint_interval;
                    let _whichever = tokio::time::timeout(pause, enough).await;
                    return;
                }
            }
        }
    }

    /// Makes all that was appended durable, and says where the chain stands.
    ///
    /// # Errors
    ///
    /// [`AuditError`].
    pub async fn flush(&self) -> Result<Standing, AuditError> {
        self.ask(Job::Flush).await
    }

    /// Says in the chain that the process ends in order.
    ///
    /// # Errors
    ///
    /// [`AuditError`].
    pub async fn stop(&self) -> Result<(), AuditError> {
        let time = timestamp(self.clock.now());
        self.append_any(Note::Stop { time }.record(), true).await
    }

    /// How it fares.
    pub fn stats(&self) -> AuditStats {
        let shared = &self.shared;
        AuditStats {
            records: shared.records.load(Ordering::Relaxed),
            lost: shared.lost.load(Ordering::Relaxed),
            is_failing: shared.is_failing.load(Ordering::Relaxed),
            unattested: shared.unattested(),
            checkpoint_is_failing: shared.checkpoint_is_failing.load(Ordering::Relaxed),
            flushes: shared.flushes.load(Ordering::Relaxed),
        }
    }

    async fn append_any(&self, record: Vec<u8>, wants: bool) -> Result<(), AuditError> {
        let mut unsent = self.unsent();
        let outcome = self
            .ask(|answer| {
                unsent.why = None;
                Job::Record {
                    record,
                    wants,
                    answer,
                }
            })
            .await;
        if unsent.why.is_some() {
            unsent.why = Some(UNQUEUED);
        }
        outcome
    }

    fn unsent(&self) -> Unsent<'_> {
        Unsent {
            audit: self,
            why: Some(LEFT),
        }
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, AuditError>>) -> Job,
    ) -> Result<T, AuditError> {
        let queue = self.queue.as_ref().ok_or(AuditError::Closed)?;
        let (answer, outcome) = oneshot::channel();
        let asked = async {
            let place = queue
                .reserve()
                .await
                .map_err(|_closed| AuditError::Closed)?;
            place.send(job(answer));
            outcome.await.unwrap_or(Err(AuditError::Closed))
        };
        match tokio::time::timeout(ANSWER_WAIT_MAX, asked).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(AuditError::Timeout(ANSWER_WAIT_MAX)),
        }
    }
}

/// A record on its way into the queue. If it does not get there, for nobody waits any more, nobody else counts it.
struct Unsent<'a> {
    audit: &'a Audit,
    /// Why it did not; nothing once it did.
    why: Option<&'static str>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(why) = self.why {
            self.audit.shared.lost.fetch_add(1, Ordering::Relaxed);
            let now = self.audit.clock.now();
            let lost = Unqueued {
                count: 1,
                first: now,
                last: now,
            };
            self.audit.shared.lose(why, lost);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(Err(_panic)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!(
                event = "audit.thread_died",
                "the audit was not closed cleanly"
            );
        }
    }
}

/// A time as records have it: RFC 3339 in UTC, to the second, as `CloudTrail` writes it.
pub(crate) fn timestamp(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    // It formats from the year 0 to 9999.
    time.format(&Rfc3339).unwrap_or_default()
}

/// Since when, how many, and why records cannot be written.
struct Trouble {
    since: OffsetDateTime,
    lost: u64,
    reason: String,
    next_try: Instant,
}

/// What the thread owns.
struct Writer {
    files: Files,
    settings: AuditSettings,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    /// Since when there is something to flush.
    unflushed: Option<Instant>,
    trouble: Option<Trouble>,
}

impl Writer {
    /// The life of the thread: until the queue is closed and empty.
    async fn serve(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP_RECORDS_MAX);
        loop {
            let wake = self.wake();
            let wait = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(wake.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = jobs.recv_many(&mut group, GROUP_RECORDS_MAX) => {
                    if received == 0 {
                        break;
                    }
                }
                () = wait => {}
            }
            self.turn(&mut group);
        }
        // The loss has no record behind it to go with.
        if !self.shared.unqueued().is_empty() {
            let _logged = self.write(&[]);
        }
        let _logged = self.flush();
    }

    /// When there is something to do without being asked.
    fn wake(&self) -> Option<Instant> {
        let heal = self.trouble.as_ref().map(|trouble| trouble.next_try);
        let flush = match self.settings.durability {
            // While nothing can be written, nothing is flushed: the next try does both.
            Durability::Interval(_) if heal.is_some() => None,
            Durability::Interval(interval) => self.unflushed.map(|since| since + interval),
            Durability::Always => None,
        };
        heal.into_iter().chain(flush).min()
    }

    fn turn(&mut self, group: &mut Vec<Job>) {
        let now = Instant::now();
        let (mut records, mut answers, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
        for job in group.drain(..) {
            match job {
                Job::Record {
                    record,
                    wants,
                    answer,
                } => {
                    records.push((record, wants));
                    answers.push(answer);
                }
                Job::Flush(answer) => flushes.push(answer),
            }
        }
        let heals = self
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.next_try <= now);
        if !records.is_empty() || heals {
            let mut outcome = self.write(&records);
            if outcome.is_ok() && self.settings.durability == Durability::Always {
                outcome = self.flush().map_err(|error| (0, error));
            }
            let (whole, error) = match outcome {
                Ok(()) => (answers.len(), None),
                Err((whole, error)) => (whole, Some(error)),
            };
            for (index, answer) in answers.into_iter().enumerate() {
                let failed = error.as_ref().filter(|_| index >= whole);
                let told = failed.map_or(Ok(()), |error| {
                    Err(AuditError::Unwritable(Arc::clone(error)))
                });
                // Whoever has gone does not want to know.
                let _gone = answer.send(told);
            }
        }
        let is_due = |wake: Instant| wake <= Instant::now();
        if self.unflushed.is_some() && self.wake().is_some_and(is_due) {
            let _logged = self.flush();
        }
        for answer in flushes {
            let outcome = self.flush().map_err(AuditError::Unwritable);
            let _gone = answer.send(outcome.map(|()| Standing {
                head: self.files.head(),
                wanting: self.shared.wanting.load(Ordering::Acquire),
            }));
        }
    }

    /// Writes records, each with whether it wants a checkpoint. After an error so many of them are written.
    fn write(&mut self, records: &[(Vec<u8>, bool)]) -> Result<(), (usize, Arc<io::Error>)> {
        let resumed = self.trouble.as_ref().map(|trouble| {
            let note = Note::Resumed {
                time: timestamp(self.clock.now()),
                since: timestamp(trouble.since),
                lost: trouble.lost,
                reason: trouble.reason.clone(),
            };
            (note.record(), true)
        });
        let told = usize::from(resumed.is_some());
        let unqueued = std::mem::take(&mut *self.shared.unqueued());
        let lost = unqueued.iter().map(|(why, unqueued)| {
            let note = Note::Lost {
                time: timestamp(self.clock.now()),
                first: timestamp(unqueued.first),
                last: timestamp(unqueued.last),
                lost: unqueued.count,
                reason: (*why).to_owned(),
            };
            (note.record(), true)
        });
        let notes: Vec<_> = resumed.into_iter().chain(lost).collect();
        let all: Vec<_> = notes.iter().chain(records).collect();
        let (whole, outcome) = match self.files.append(all.iter().map(|(record, _)| &**record)) {
            Ok(()) => (all.len(), Ok(())),
            Err(Problem { whole, source }) => (whole, Err(source)),
        };
        let written = all.iter().take(whole);
        self.count(written.map(|(_, wants)| *wants));
        for (why, unqueued) in unqueued.into_iter().skip(whole.saturating_sub(told)) {
            self.shared.lose(why, unqueued);
        }
        if outcome.is_err() && whole >= told {
            // The chain says so already: what is lost from here on is another loss.
            self.trouble = None;
        }
        let whole = whole.saturating_sub(notes.len());
        match outcome {
            Ok(()) => {
                self.recovered();
                Ok(())
            }
            Err(source) => {
                let source = Arc::new(source);
                let lost = records.len().saturating_sub(whole);
                self.failed(&source, u64::try_from(lost).unwrap_or(u64::MAX));
                Err((whole, source))
            }
        }
    }

    fn count(&mut self, wanting: impl Iterator<Item = bool>) {
        let (mut records, mut wants) = (0, 0);
        for wanted in wanting {
            records += 1;
            wants += u64::from(wanted);
        }
        if records == 0 {
            return;
        }
        self.unflushed.get_or_insert_with(Instant::now);
        self.shared.records.fetch_add(records, Ordering::Relaxed);
        let before = self.shared.unattested();
        self.shared.wanting.fetch_add(wants, Ordering::AcqRel);
        if wants > 0 && (before == 0 || before + wants >= self.settings.checkpoint_records) {
            self.shared.due.notify_one();
        }
    }

    fn flush(&mut self) -> Result<(), Arc<io::Error>> {
        if let Some(trouble) = &self.trouble {
            return Err(Arc::new(io::Error::other(trouble.reason.clone())));
        }
        if self.unflushed.is_none() {
            return Ok(());
        }
        self.unflushed = None;
        self.shared.flushes.fetch_add(1, Ordering::Relaxed);
        self.files.flush().map_err(|error| {
            let error = Arc::new(error);
            self.failed(&error, 0);
            error
        })
    }

    fn failed(&mut self, error: &io::Error, lost: u64) {
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        let next_try = Instant::now() + HEAL_PAUSE;
        if let Some(trouble) = &mut self.trouble {
            trouble.lost += lost;
            trouble.next_try = next_try;
            return;
        }
        tracing::error!(
            event = "audit.failing",
            dir = %self.settings.dir.display(),
            %error,
            on_failure = ?self.settings.on_failure,
            "the audit cannot be written"
        );
        self.trouble = Some(Trouble {
            since: self.clock.now(),
            lost,
            reason: error.to_string(),
            next_try,
        });
        *self.shared.why() = error.to_string();
        self.shared.is_failing.store(true, Ordering::Release);
    }

    fn recovered(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            self.shared.is_failing.store(false, Ordering::Release);
            tracing::warn!(
                event = "audit.resumed",
                lost = trouble.lost,
                "the audit is written again"
            );
        }
    }
}
