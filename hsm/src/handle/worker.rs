//! One worker thread and its session.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::pool::{Next, Pool};
use crate::{BackingKey, BackingKeyId, HsmError, HsmResult, Session, Token};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Bytes that a heartbeat asks for, or wraps.
const HEARTBEAT_BYTES: usize = 8;
const HEARTBEAT_AAD: &[u8] = b"strongroom heartbeat";

/// Answers that a worker may keep back for the next ones, and how quick a call must be for that. Waking the callers'
/// runtime costs the worker as much as half a `SoftHSM` call, and one wake-up serves several answers. Should the module
/// hang right then, up to three callers see [`HsmError::Timeout`] for a call that was done: what that error says anyway.
const ANSWERS_MAX: usize = 4;
const QUICK: Duration = Duration::from_micros(250);

/// The life of worker `index`: until the queue is closed and empty.
pub(super) fn run(pool: &Pool, index: usize) {
    let mut seat = Seat::new(pool);
    if index == 0 {
        seat.retry_at = Some(Instant::now());
    }
    let mut done = Answers::default();
    loop {
        match pool.next(index, seat.retry_at, &mut done) {
            Next::Job(mut job) => {
                let spoilt = job.run(&mut seat);
                done.add(job);
                if spoilt {
                    // The session goes last, since closing it enters the module.
                    done.give();
                }
                seat.settle(spoilt);
            }
            Next::Tend => seat.tend(),
            Next::Closed => return,
        }
    }
}

/// Jobs that are done and not yet answered.
#[derive(Default)]
pub(super) struct Answers(Vec<Box<dyn Job>>);

impl Answers {
    fn add(&mut self, job: Box<dyn Job>) {
        let quick = job.was_quick();
        self.0.push(job);
        if !quick || self.0.len() >= ANSWERS_MAX {
            self.give();
        }
    }

    pub(super) fn give(&mut self) {
        self.0.drain(..).for_each(Job::answer);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Something for a worker to do.
pub(super) trait Job: Send {
    /// Whether anybody still waits for it.
    fn wanted(&self, now: Instant) -> bool;
    /// Does it. Returns whether the session is spoilt.
    fn run(&mut self, seat: &mut Seat<'_>) -> bool;
    /// Whether doing it took no time worth speaking of.
    fn was_quick(&self) -> bool;
    /// Answers, when it is done.
    fn answer(self: Box<Self>);
}

/// The one kind of job: what to do, and where the answer goes.
pub(super) struct Call<T, W> {
    repeatable: bool,
    overdue: Instant,
    work: W,
    reply: oneshot::Sender<HsmResult<T>>,
    result: Option<HsmResult<T>>,
    took: Duration,
}

impl<T, W> Call<T, W> {
    pub(super) fn new(
        repeatable: bool,
        overdue: Instant,
        work: W,
        reply: oneshot::Sender<HsmResult<T>>,
    ) -> Self {
        Self {
            repeatable,
            overdue,
            work,
            reply,
            result: None,
            took: Duration::ZERO,
        }
    }
}

impl<T, W> Job for Call<T, W>
where
    T: Send,
    W: FnMut(&mut Seat<'_>) -> HsmResult<T> + Send,
{
    fn wanted(&self, now: Instant) -> bool {
        now < self.overdue && !self.reply.is_closed()
    }

    fn run(&mut self, seat: &mut Seat<'_>) -> bool {
        let start = Instant::now();
        let mut result = guarded(|| (self.work)(seat));
        let broken = matches!(
            result,
            Err(HsmError::Device { .. } | HsmError::Unavailable { .. } | HsmError::Timeout(_))
        );
        if broken && self.repeatable && seat.failure.is_none() && Instant::now() < self.overdue {
            seat.leave();
            result = guarded(|| (self.work)(seat));
        }
        // Health first, then the answer: who reads both sees them agree.
        seat.pool.note(result.as_ref().err());
        let spoilt = result.as_ref().is_err_and(HsmError::spoils_session);
        self.result = Some(result);
        self.took = start.elapsed();
        spoilt
    }

    fn was_quick(&self) -> bool {
        self.took < QUICK
    }

    fn answer(self: Box<Self>) {
        if let Some(result) = self.result {
            // A caller that has left at its deadline takes no answer; a secret in it is zeroed as it drops.
            let _ = self.reply.send(result);
        }
    }
}

/// A worker's place at the device: its session, or why it has none.
pub(super) struct Seat<'p> {
    pool: &'p Pool,
    session: Option<Box<dyn Session>>,
    /// Why the last session could not be opened. Calls are answered with it until `retry_at`.
    failure: Option<Arc<HsmError>>,
    /// When this worker opens a session unasked.
    retry_at: Option<Instant>,
    backoff: Duration,
    /// Whose use the pool knows from this worker.
    key: Option<BackingKeyId>,
}

impl<'p> Seat<'p> {
    fn new(pool: &'p Pool) -> Self {
        Self {
            pool,
            session: None,
            failure: None,
            retry_at: None,
            backoff: BACKOFF_MIN,
            key: None,
        }
    }

    /// The call has used `key`, with success.
    pub(super) fn used(&mut self, key: &BackingKey) {
        if self.key != Some(key.id) {
            self.key = Some(key.id);
            self.pool.used(key);
        }
    }

    /// The call has destroyed this key.
    pub(super) fn destroyed(&mut self, id: &BackingKeyId) {
        self.pool.destroyed(id);
    }

    pub(super) fn token(&self) -> &dyn Token {
        self.pool.token.as_ref()
    }

    /// The session, opened if there is none.
    ///
    /// # Errors
    ///
    /// As [`Token::open_session`]; during the back-off, the last error of it.
    pub(super) fn session(&mut self) -> HsmResult<&mut dyn Session> {
        if self.session.is_none() {
            if let Some(failure) = self.backing_off() {
                return Err(repeated(failure));
            }
            match guarded(|| self.pool.token.open_session()) {
                Ok(session) => {
                    self.pool.seated.fetch_add(1, Ordering::Relaxed);
                    self.session = Some(session);
                    self.failure = None;
                    self.retry_at = None;
                }
                Err(error) => return Err(repeated(self.back_off(error))),
            }
        }
        match self.session.as_mut() {
            Some(session) => Ok(session.as_mut()),
            None => Err(HsmError::Unavailable {
                reason: "no session".into(),
                source: None,
            }),
        }
    }

    /// A session opened just now.
    pub(super) fn renew(&mut self) -> HsmResult<&mut dyn Session> {
        self.leave();
        self.session()
    }

    fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            self.pool.seated.fetch_sub(1, Ordering::Relaxed);
            let closed = guarded(|| {
                drop(session);
                Ok(())
            });
            if let Err(error) = closed {
                tracing::error!(event = "hsm.close_panicked", error = %error, "closing a session");
            }
        }
    }

    fn settle(&mut self, spoilt: bool) {
        if spoilt {
            self.leave();
            // An opened session that then failed is no reason to wait: the next one is opened at leisure, now.
            self.retry_at = self.retry_at.or_else(|| Some(Instant::now()));
        } else if self.session.is_some() {
            self.backoff = BACKOFF_MIN;
        }
    }

    /// Opens a session if there is none, and has the device do something in it.
    fn tend(&mut self) {
        let mut beat = self.beat();
        if beat.is_err() && self.failure.is_none() {
            // The session may only have been closed for idling.
            self.leave();
            beat = self.beat();
        }
        self.pool.note_heartbeat(beat.as_ref().err());
        match beat {
            Ok(()) => self.backoff = BACKOFF_MIN,
            Err(error) => {
                self.leave();
                if self.failure.is_none() {
                    self.back_off(error);
                }
            }
        }
    }

    /// A wrap and its unwrap with the key that was used last: a token may give random bytes while its keys are gone.
    /// Random bytes when no key has been used yet.
    fn beat(&mut self) -> HsmResult<()> {
        let key = self.pool.key_used_last();
        guarded(|| {
            let session = self.session()?;
            let Some(key) = &key else {
                return session.random(&mut [0; HEARTBEAT_BYTES]);
            };
            let plaintext = [0; HEARTBEAT_BYTES];
            match session.wrap_and_unwrap(key, HEARTBEAT_AAD, &plaintext) {
                Ok((_, back)) if back.expose() == plaintext => Ok(()),
                Ok(_) => Err(HsmError::WrapNotReadable),
                // To a caller this is an answer about a key; here it is the key that worked a while ago.
                Err(gone @ (HsmError::KeyNotFound(_) | HsmError::Unfit { .. })) => {
                    Err(HsmError::Unavailable {
                        reason: "the key that was used last is gone".into(),
                        source: Some(gone.into()),
                    })
                }
                Err(error) => Err(error),
            }
        })
    }

    fn backing_off(&self) -> Option<&Arc<HsmError>> {
        let waits = self.retry_at.is_some_and(|at| Instant::now() < at);
        self.failure.as_ref().filter(|_| waits)
    }

    fn back_off(&mut self, error: HsmError) -> &Arc<HsmError> {
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.failure.insert(Arc::new(error))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The same refusal once more. What is not the operator's stays [`HsmError::Unavailable`], with the cause under it.
fn repeated(failure: &Arc<HsmError>) -> HsmError {
    match failure.as_ref() {
        HsmError::PinRejected(reason) => HsmError::PinRejected(reason),
        HsmError::Config(text) => HsmError::Config(text.clone()),
        HsmError::UnsafeToken(text) => HsmError::UnsafeToken(text.clone()),
        HsmError::Unavailable { reason, .. } => HsmError::Unavailable {
            reason: reason.clone(),
            source: cause(failure),
        },
        other => HsmError::Unavailable {
            reason: other.to_string(),
            source: cause(failure),
        },
    }
}

/// What lies under a shared failure: itself shared, since errors are not cloned.
fn cause(failure: &Arc<HsmError>) -> Option<crate::BoxError> {
    std::error::Error::source(failure.as_ref()).map(|source| source.to_string().into())
}

/// Runs foreign code; its panic is an error of the device, and the worker lives on.
fn guarded<T>(work: impl FnOnce() -> HsmResult<T>) -> HsmResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(HsmError::Device {
            function: "an HSM call that panicked",
            source: text_of(panic.as_ref()).into(),
        })
    })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
