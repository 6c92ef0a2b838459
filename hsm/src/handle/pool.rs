//! What callers and workers share: the queue, who runs what since when, and how the device fares.

use std::collections::VecDeque;
use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::worker::{Job, Sleepers};
use super::{Health, HsmSettings, State};
use crate::{BackingKey, BackingKeyId, HsmError, HsmResult, Token};

/// Worker 0, when idle this long, has the device do something: an outage shows without traffic, and a network HSM that
/// closes idle sessions (`YubiHSM`: 30 s) does not.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Calls that fail in a row, in a way that speaks against the token, before the circuit opens; and more than there are
/// workers, since on a token with few sessions all workers but one may find that out in a row.
const FAILURES_MAX: usize = 4;
/// How long an open circuit answers by itself before it lets a call through.
const CIRCUIT_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct Pool {
    pub(super) token: Arc<dyn Token>,
    pub(super) settings: HsmSettings,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Workers with a session.
    pub(super) seated: AtomicUsize,
    device: Mutex<Device>,
    /// Copy of `device.state == Ready`, so that a call in good times takes no second lock.
    ready: AtomicBool,
    /// Copy of `device.open_until.is_some()`, likewise.
    open: AtomicBool,
    /// The key that a call used last with success, for the heartbeat.
    key: Mutex<Option<BackingKey>>,
    /// How often that key was forgotten.
    forgotten: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    rejected: AtomicU64,
}

struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    /// By worker: when the call it is in counts as hung.
    hung_from: Vec<Option<Instant>>,
    /// Workers that wait for a job.
    idle: usize,
    /// Workers that wait, but leave jobs to those with a session.
    standing_back: usize,
    closed: bool,
}

struct Device {
    state: State,
    since: Instant,
    last_error: Option<String>,
    /// Failures since the last success.
    in_a_row: usize,
    /// While the circuit is open: when a call is let through next.
    open_until: Option<Instant>,
}

/// What a worker is to do next.
pub(super) enum Next {
    /// A job, which is begun now.
    Job(Box<dyn Job>, Instant),
    /// Nothing to do: see to the session.
    Tend,
    Closed,
}

impl Pool {
    pub(super) fn new(token: Arc<dyn Token>, settings: HsmSettings) -> Self {
        Self {
            queue: Mutex::new(Queue {
                jobs: VecDeque::with_capacity(settings.queue.min(1024)),
                hung_from: vec![None; settings.workers],
                idle: 0,
                standing_back: 0,
                closed: false,
            }),
            wake: Condvar::new(),
            seated: AtomicUsize::new(0),
            device: Mutex::new(Device {
                state: State::Unknown,
                since: Instant::now(),
                last_error: None,
                in_a_row: 0,
                open_until: None,
            }),
            ready: AtomicBool::new(false),
            open: AtomicBool::new(false),
            key: Mutex::default(),
            forgotten: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            token,
            settings,
        }
    }

    /// Queues a job, and wakes a worker only if one sleeps.
    pub(super) fn submit(&self, job: Box<dyn Job>) -> HsmResult<()> {
        if self.open.load(Ordering::Acquire) {
            self.pass_open_circuit()?;
        }
        let mut queue = self.queue();
        if queue.closed {
            return Err(unavailable("the HSM is shut down"));
        }
        // Asked only when callers already wait: a hung worker takes nothing off the queue.
        if queue.busy() && queue.hung(Instant::now()) == queue.hung_from.len() {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(unavailable("every HSM worker hangs in the module"));
        }
        if queue.jobs.len() >= self.settings.queue {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(HsmError::Busy);
        }
        queue.jobs.push_back(job);
        let (idle, standing_back) = (queue.idle, queue.standing_back);
        drop(queue);
        if standing_back > 0 {
            // One wake-up could go to a worker that will not take the job.
            self.wake.notify_all();
        } else if idle > 0 {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Queues what no caller waits for. It is taken whatever the state of queue and circuit: there is one at most for
    /// each call that was.
    pub(super) fn queue_clean_up(&self, job: Box<dyn Job>) {
        self.queue().jobs.push_back(job);
        self.wake.notify_all();
    }

    /// Half open: one call in each pause is let through, and the next one only when that is answered or overdue.
    fn pass_open_circuit(&self) -> HsmResult<()> {
        let mut device = self.device();
        let now = Instant::now();
        match device.open_until {
            Some(until) if now < until => {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                Err(HsmError::Unavailable {
                    reason: format!("the last {} calls failed", device.in_a_row),
                    source: device.last_error.clone().map(Into::into),
                })
            }
            Some(_) => {
                device.open_until = Some(now + self.settings.deadline);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes note of the key that a call has just used.
    pub(super) fn used(&self, key: &BackingKey) {
        *self.key() = Some(key.clone());
    }

    /// The key is destroyed, or cannot be used: no heartbeat uses it, until a call does.
    pub(super) fn forget(&self, id: &BackingKeyId) {
        let mut key = self.key();
        if key.as_ref().is_some_and(|key| key.id == *id) {
            *key = None;
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many keys were forgotten so far.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    pub(super) fn key_used_last(&self) -> Option<BackingKey> {
        self.key().clone()
    }

    /// Waits for something to do, and wakes those in `done` before that; before a job, if they are due. `retry_at`: when a worker without a
    /// session wants to open one.
    pub(super) fn next(
        &self,
        worker: usize,
        retry_at: Option<Instant>,
        done: &mut Sleepers,
    ) -> Next {
        let mut queue = self.queue();
        queue.runs(worker, None);
        let tend_at = retry_at.or_else(|| (worker == 0).then(|| Instant::now() + HEARTBEAT));
        loop {
            let now = Instant::now();
            // Between a failure and the next try, this worker could only fail a job that another can do.
            let stands_back =
                retry_at.is_some_and(|at| now < at) && self.seated.load(Ordering::Relaxed) > 0;
            if !stands_back {
                while let Some(job) = queue.jobs.pop_front() {
                    if job.wanted(now) {
                        queue.runs(worker, Some(now + self.settings.deadline));
                        let due = done.are_due(queue.jobs.len(), now);
                        drop(queue);
                        if due {
                            done.wake();
                        }
                        return Next::Job(job, now);
                    }
                }
            }
            if !done.is_empty() {
                drop(queue);
                done.wake();
                queue = self.queue();
                continue;
            }
            if queue.closed {
                return Next::Closed;
            }
            if tend_at.is_some_and(|at| now >= at) {
                queue.runs(worker, Some(now + self.settings.deadline));
                return Next::Tend;
            }
            queue.idle += 1;
            queue.standing_back += usize::from(stands_back);
            queue = match tend_at {
                Some(at) => {
                    let waited = self
                        .wake
                        .wait_timeout(queue, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .wake
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
            };
            queue.standing_back -= usize::from(stands_back);
            queue.idle -= 1;
        }
    }

    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.wake.notify_all();
    }

    /// Takes note of how a call ended: `None` or an error about the caller's data shows that the device answers.
    pub(super) fn note(&self, error: Option<&HsmError>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.observe(error, true);
    }

    /// As [`Pool::note`], for what no caller asked for: it may close the circuit, not open it.
    pub(super) fn note_heartbeat(&self, error: Option<&HsmError>) {
        self.observe(error, false);
    }

    fn observe(&self, error: Option<&HsmError>, called: bool) {
        let against = error.filter(|error| speaks_against(error));
        if against.is_none() && self.ready.load(Ordering::Acquire) {
            return;
        }
        let state = if against.is_some() {
            State::Down
        } else {
            State::Ready
        };
        let mut device = self.device();
        if let Some(error) = against {
            self.failures.fetch_add(1, Ordering::Relaxed);
            device.last_error = Some(with_causes(error));
            // The others, a refused PIN for instance, are answered without the token during the back-off anyway.
            if called && is_costly(error) {
                device.in_a_row += 1;
                if device.in_a_row > FAILURES_MAX.max(self.settings.workers) {
                    device.open_until = Some(Instant::now() + CIRCUIT_PAUSE);
                }
            }
        } else {
            device.in_a_row = 0;
            device.open_until = None;
        }
        self.open
            .store(device.open_until.is_some(), Ordering::Release);
        if device.state != state {
            device.state = state;
            device.since = Instant::now();
            match &device.last_error {
                Some(error) if state == State::Down => {
                    tracing::warn!(event = "hsm.down", error = %error, "the HSM is down");
                }
                _ => tracing::info!(event = "hsm.ready", "the HSM answers"),
            }
        }
        self.ready.store(state == State::Ready, Ordering::Release);
    }

    pub(super) fn count_timeout(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn health(&self, now: Instant) -> Health {
        let (queued, hung, all_hung_since) = {
            let queue = self.queue();
            let hung = queue.hung(now);
            let last = queue.hung_from.iter().flatten().max().copied();
            (
                queue.jobs.len(),
                hung,
                last.filter(|_| hung == self.settings.workers),
            )
        };
        let device = self.device();
        Health {
            state: all_hung_since.map_or(device.state, |_| State::Hung),
            since: all_hung_since.unwrap_or(device.since),
            last_error: device.last_error.clone(),
            queued,
            workers: self.settings.workers,
            hung_workers: hung,
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self) -> MutexGuard<'_, Option<BackingKey>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn runs(&mut self, worker: usize, hung_from: Option<Instant>) {
        if let Some(slot) = self.hung_from.get_mut(worker) {
            *slot = hung_from;
        }
    }

    fn busy(&self) -> bool {
        self.idle == 0
    }

    fn hung(&self, now: Instant) -> usize {
        self.hung_from
            .iter()
            .flatten()
            .filter(|from| now >= **from)
            .count()
    }
}

/// A configuration that cannot work and a system without randomness keep the token from answering, too.
fn speaks_against(error: &HsmError) -> bool {
    error.is_outage() || matches!(error, HsmError::Config(_) | HsmError::Random(_))
}

fn is_costly(error: &HsmError) -> bool {
    matches!(
        error,
        HsmError::Timeout(_)
            | HsmError::Unavailable { .. }
            | HsmError::Device { .. }
            | HsmError::WrapNotReadable
    )
}

fn unavailable(reason: &str) -> HsmError {
    HsmError::Unavailable {
        reason: reason.into(),
        source: None,
    }
}

fn with_causes(error: &HsmError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::worker::{Done, Seat};
    use crate::testing::memory::MemoryToken;

    struct Nothing;

    impl Job for Nothing {
        fn wanted(&self, _now: Instant) -> bool {
            true
        }

        fn run(&mut self, _seat: &mut Seat<'_>) -> Done {
            Done {
                waker: None,
                spoilt: false,
            }
        }
    }

    fn pool(workers: usize) -> Pool {
        let settings = HsmSettings {
            workers,
            ..HsmSettings::default()
        };
        Pool::new(Arc::new(MemoryToken::new()), settings)
    }

    fn passes(pool: &Pool) -> bool {
        pool.submit(Box::new(Nothing)).is_ok()
    }

    #[test]
    fn the_circuit_opens_at_its_limit_lets_one_through_and_closes_on_success() {
        let pool = pool(1);
        let failed = unavailable("test");
        for _ in 0..FAILURES_MAX {
            pool.note(Some(&failed));
        }
        assert!(passes(&pool));
        pool.note(Some(&failed));
        assert!(!passes(&pool) && !passes(&pool));
        std::thread::sleep(CIRCUIT_PAUSE);
        assert!(passes(&pool), "half open");
        assert!(!passes(&pool), "one at a time");
        pool.note(Some(&failed));
        assert!(!passes(&pool));
        std::thread::sleep(CIRCUIT_PAUSE);
        assert!(passes(&pool));
        pool.note(None);
        assert!(passes(&pool) && passes(&pool));
    }

    #[test]
    fn heartbeats_close_the_circuit_and_do_not_open_it() {
        let pool = pool(1);
        let failed = unavailable("test");
        for _ in 0..3 * FAILURES_MAX {
            pool.note_heartbeat(Some(&failed));
        }
        assert!(passes(&pool));
        for _ in 0..=FAILURES_MAX {
            pool.note(Some(&failed));
        }
        assert!(!passes(&pool));
        pool.note_heartbeat(None);
        assert!(passes(&pool));
    }

    #[test]
    fn as_many_failures_as_workers_open_no_circuit() {
        let pool = pool(16);
        let failed = unavailable("test");
        for _ in 0..16 {
            pool.note(Some(&failed));
        }
        assert!(passes(&pool));
        pool.note(Some(&failed));
        assert!(!passes(&pool));
    }

    #[test]
    fn a_refused_pin_opens_no_circuit() {
        let pool = pool(1);
        for _ in 0..3 * FAILURES_MAX {
            pool.note(Some(&HsmError::PinRejected("it is wrong")));
        }
        assert!(passes(&pool));
    }
}
