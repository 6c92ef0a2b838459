//! What callers and workers share: the queue, who runs what since when, and how the device fares.

use std::collections::VecDeque;
use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::worker::{Answers, Job};
use super::{Health, HsmSettings, State};
use crate::{HsmError, HsmResult, Token};

/// Worker 0, when idle this long, asks the device for a few random bytes: an outage shows without traffic, and a
/// network HSM that closes idle sessions (`YubiHSM`: 30 s) does not.
const HEARTBEAT: Duration = Duration::from_secs(5);

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
}

/// What a worker is to do next.
pub(super) enum Next {
    Job(Box<dyn Job>),
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
            }),
            ready: AtomicBool::new(false),
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

    /// Waits for something to do, and gives the answers in `done` before that. `retry_at`: when a worker without a
    /// session wants to open one.
    pub(super) fn next(
        &self,
        worker: usize,
        retry_at: Option<Instant>,
        done: &mut Answers,
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
                        return Next::Job(job);
                    }
                }
            }
            if !done.is_empty() {
                drop(queue);
                done.give();
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
        self.observe(error);
    }

    /// As [`Pool::note`], for what no caller asked for.
    pub(super) fn observe(&self, error: Option<&HsmError>) {
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
        }
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
