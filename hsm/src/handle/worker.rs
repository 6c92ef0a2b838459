//! One worker thread and its session.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::pool::{Next, Pool};
use super::reply::Reply;
use crate::{BackingKey, BackingKeyId, HsmError, HsmResult, Session, Token};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Bytes that a heartbeat asks for, or wraps.
const HEARTBEAT_BYTES: usize = 8;
const HEARTBEAT_AAD: &[u8] = b"strongroom heartbeat";

/// How long callers whose answer is there may be left asleep, counted from the beginning of the first call of a run.
///
/// To wake the callers' runtime costs as much as a `SoftHSM` call, and its threads may then take the processor from
/// this one; one waking serves all answers that are there. A call that takes longer than this wakes its caller at once.
/// Should the module hang while others sleep, they look by themselves: [`LOOK_AFTER`](super::LOOK_AFTER).
const ASLEEP_MAX: Duration = Duration::from_millis(1);

/// The life of worker `index`: until the queue is closed and empty.
pub(super) fn run(pool: &Pool, index: usize) {
    let mut seat = Seat::new(pool);
    if index == 0 {
        seat.retry_at = Some(Instant::now());
    }
    let mut done = Sleepers::default();
    loop {
        match pool.next(index, seat.retry_at, &mut done) {
            Next::Job(mut job, begun) => {
                let Done { waker, spoilt } = job.run(&mut seat);
                done.add(waker, begun);
                drop(job);
                if spoilt {
                    // The session goes last, since closing it enters the module.
                    done.wake();
                }
                seat.settle(spoilt);
            }
            Next::Tend => seat.tend(),
            Next::Closed => return,
        }
    }
}

/// Callers whose answer is there and who do not know it yet.
#[derive(Default)]
pub(super) struct Sleepers {
    wakers: Vec<Waker>,
    /// When the first of their calls was begun.
    since: Option<Instant>,
}

impl Sleepers {
    fn add(&mut self, waker: Option<Waker>, begun: Instant) {
        self.wakers.extend(waker);
        self.since.get_or_insert(begun);
    }

    pub(super) fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
        self.since = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    /// Whether to wake them before the call that is begun `now`: when nothing waits behind it, so that they can ask
    /// anew meanwhile, and when they have slept long enough.
    pub(super) fn are_due(&self, waiting: usize, now: Instant) -> bool {
        waiting == 0 || self.since.is_some_and(|since| now >= since + ASLEEP_MAX)
    }
}

/// Something for a worker to do.
pub(super) trait Job: Send {
    /// Whether anybody still waits for it.
    fn wanted(&self, now: Instant) -> bool;
    /// Does it, and lays the answer down.
    fn run(&mut self, seat: &mut Seat<'_>) -> Done;
}

/// How a job ended.
pub(super) struct Done {
    /// The caller, to be woken.
    pub(super) waker: Option<Waker>,
    /// Whether the session is spoilt.
    pub(super) spoilt: bool,
}

/// The one kind of job: what to do, and where the answer goes.
pub(super) struct Call<T, W> {
    repeatable: bool,
    overdue: Instant,
    work: W,
    reply: Reply<HsmResult<T>>,
}

impl<T, W> Call<T, W> {
    pub(super) fn new(
        repeatable: bool,
        overdue: Instant,
        work: W,
        reply: Reply<HsmResult<T>>,
    ) -> Self {
        Self {
            repeatable,
            overdue,
            work,
            reply,
        }
    }
}

impl<T, W> Job for Call<T, W>
where
    T: Send,
    W: FnMut(&mut Seat<'_>) -> HsmResult<T> + Send,
{
    fn wanted(&self, now: Instant) -> bool {
        now < self.overdue && self.reply.is_awaited()
    }

    fn run(&mut self, seat: &mut Seat<'_>) -> Done {
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
        let waker = self.reply.lay_down(result);
        Done { waker, spoilt }
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
    /// Whose use the pool knows from this worker, and how many keys the pool had forgotten by then.
    key: Option<(BackingKeyId, u64)>,
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
        let known = Some((key.id, self.pool.forgotten()));
        if self.key != known {
            self.key = known;
            self.pool.used(key);
        }
    }

    /// The call has destroyed this key.
    pub(super) fn destroyed(&mut self, id: &BackingKeyId) {
        self.pool.forget(id);
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
        let key = self.pool.key_used_last();
        let mut beat = self.beat(key.as_ref());
        if beat.is_err() && self.failure.is_none() {
            // The session may only have been closed for idling, or its token may have gone from under it.
            self.leave();
            beat = self.beat(key.as_ref());
        }
        if let (Some(key), Err(error)) = (&key, &beat)
            && error.is_about_key()
        {
            // Said in a fresh session, of a key that worked a while ago. The others may be well.
            tracing::warn!(event = "hsm.heartbeat_key", backing_key = %key.id, %error,
                "the key that was used last cannot be used any more");
            self.pool.forget(&key.id);
            beat = self.beat(None);
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
    fn beat(&mut self, key: Option<&BackingKey>) -> HsmResult<()> {
        guarded(|| {
            let session = self.session()?;
            let Some(key) = key else {
                return session.random(&mut [0; HEARTBEAT_BYTES]);
            };
            let plaintext = [0; HEARTBEAT_BYTES];
            match session.wrap_and_unwrap(key, HEARTBEAT_AAD, &plaintext) {
                Ok((_, back)) if back.expose() == plaintext => Ok(()),
                Ok(_) => Err(HsmError::WrapNotReadable),
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
pub(super) fn guarded<T>(work: impl FnOnce() -> HsmResult<T>) -> HsmResult<T> {
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
