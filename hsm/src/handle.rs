//! The asynchronous face of a token: bounded, with a deadline, and healing by itself.
//!
//! ```text
//! wrap().await ─ Busy? all hung? ─> queue ─> worker hsm-i: skip if overdue ─ session ─ module ─> reply
//!        └──────────────── deadline: Timeout, whatever the module does ───────────────────┘
//! ```
//!
//! - The async side never blocks and never enters the module. A call that the module does not answer ends in
//!   [`HsmError::Timeout`]; its worker counts as hung until the module lets go of it. While every worker hangs, calls
//!   are [`HsmError::Unavailable`] at once instead of queueing.
//! - Each worker has one session. It is dropped after every error that [`HsmError::spoils_session`]; a call that may
//!   be repeated is then repeated once in a fresh one. Generating a key is never repeated.
//! - When no session can be opened, calls fail at once with that error during a back-off of 100 ms, doubling to 5 s;
//!   then the worker tries again, asked or not. So the token heals without traffic and without a restart.
//! - When sessions open but calls fail, five or more in a row (and more than there are workers), the circuit opens:
//!   calls are [`HsmError::Unavailable`] at once with the last error, but for one every 250 ms that is let through, and
//!   only when the one before is answered. A call or a heartbeat that succeeds closes it.
//! - Worker 0, idle for 5 s, wraps and unwraps with the key that was used last (random bytes before that), so that an
//!   outage shows without traffic. Should that key be gone, unfit or unavailable even in a fresh session, that is said
//!   in the log (`hsm.heartbeat_key`) and speaks against the key alone: the heartbeat forgets it and goes on with
//!   random bytes until a call uses a key with success. So it does with one that is destroyed through this handle.
//! - An answer is laid down at once, but its caller may be woken a little later, together with others: to be woken costs
//!   as much as a call. Nobody is left asleep when the queue is empty, nor over a call that is not quick.
//! - A session in a worker process ([`crate::process`]) has a deadline of its own and answers [`HsmError::Timeout`]
//!   itself. The call is then repeated in a fresh session if its own deadline allows, so no worker thread hangs long.

mod fresh;
mod pool;
mod reply;
mod worker;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use self::fresh::Fresh;
use self::pool::Pool;
use self::reply::reply;
use self::worker::{Call, Seat};
use crate::{
    BackingKey, BackingKeyId, HsmError, HsmResult, Material, PAIR_DEADLINE, Report, SecretBytes,
    SignatureAlgorithm, TOOL_INPUT_BYTES_MAX, Token, TokenInfo, ToolKey, ToolSpec, Wrapped,
};

/// How a token is driven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsmSettings {
    /// Worker threads, each with one session: 1 to [`HsmSettings::WORKERS_MAX`].
    pub workers: usize,
    /// Calls that may wait for a worker: 1 to [`HsmSettings::QUEUE_MAX`].
    pub queue: usize,
    /// Time a call may take, waiting included. Not zero.
    pub deadline: Duration,
    /// Whether every wrap is decrypted back, in the same job, before it is acknowledged.
    pub verify_wraps: bool,
}

impl HsmSettings {
    /// The most worker threads.
    pub const WORKERS_MAX: usize = 64;
    /// The longest queue.
    pub const QUEUE_MAX: usize = 65_536;

    fn check(&self) -> HsmResult<()> {
        let within = |what: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(HsmError::Config(format!(
                "{what} must be 1 to {max}, not {value}"
            )))
        };
        within("workers", self.workers, Self::WORKERS_MAX)?;
        within("queue", self.queue, Self::QUEUE_MAX)?;
        if self.deadline.is_zero() {
            return Err(HsmError::Config("the deadline must not be zero".into()));
        }
        Ok(())
    }
}

impl Default for HsmSettings {
    /// 4 workers, 1024 waiting calls, 5 s, wraps verified.
    fn default() -> Self {
        Self {
            workers: 4,
            queue: 1024,
            deadline: Duration::from_secs(5),
            verify_wraps: true,
        }
    }
}

/// What is known of the token without asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing yet: the first session is being opened.
    Unknown,
    /// The last answer was an answer.
    Ready,
    /// The last call failed in a way that speaks against the token.
    Down,
    /// Every worker is in a call that is past its deadline.
    Hung,
}

/// A cached view of a token: reading it never touches the module.
#[derive(Debug, Clone)]
pub struct Health {
    /// How it fares.
    pub state: State,
    /// Since when it fares so.
    pub since: Instant,
    /// The last error that spoke against the token, with its causes; kept after it has healed.
    pub last_error: Option<String>,
    /// Calls that wait for a worker.
    pub queued: usize,
    /// Worker threads.
    pub workers: usize,
    /// Workers in a call that is past its deadline.
    pub hung_workers: usize,
    /// Calls answered by a worker since the start.
    pub calls: u64,
    /// Those of them whose error spoke against the token.
    pub failures: u64,
    /// Calls that ended at their deadline.
    pub timeouts: u64,
    /// Calls refused because the queue was full, every worker hung, or the circuit was open.
    pub rejected: u64,
}

/// The door to one token. Clones share the threads; the last one to go closes the queue.
#[derive(Clone)]
pub struct HsmHandle {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Arc<Pool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl HsmHandle {
    /// Starts the worker threads `hsm-0`, `hsm-1`, … and returns at once; the token may be absent. Worker 0 opens a
    /// session without being asked, so that [`HsmHandle::health`] soon tells.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] for settings out of bounds; [`HsmError::Unavailable`] when the system gives no thread.
    pub fn start(token: Arc<dyn Token>, settings: HsmSettings) -> HsmResult<Self> {
        settings.check()?;
        let workers = settings.workers;
        let pool = Arc::new(Pool::new(token, settings));
        // Owned from here on, so that a failed spawn ends the threads that did start.
        let handle = Self {
            shared: Arc::new(Shared {
                pool: Arc::clone(&pool),
                threads: Mutex::default(),
            }),
        };
        for index in 0..workers {
            let pool = Arc::clone(&pool);
            let thread = std::thread::Builder::new()
                .name(format!("hsm-{index}"))
                .spawn(move || worker::run(&pool, index))
                .map_err(|source| HsmError::Unavailable {
                    reason: "no thread for an HSM worker".into(),
                    source: Some(source.into()),
                })?;
            handle.threads().push(thread);
        }
        Ok(handle)
    }

    /// Makes a backing key with its canary. Generated in one session, found again and given its canary in a second,
    /// the canary opened in a third: what is returned survives the session that made it.
    ///
    /// Never repeated. After an error other than [`HsmError::KeyExists`] and [`HsmError::Busy`] the key may exist:
    /// the caller has recorded its intent before and looks with [`HsmHandle::contains`]. A key that is made after its
    /// caller has left, at the deadline or because the future was dropped, is destroyed again if the token lets us.
    /// Therefore an identity is for one call: a key that a later call makes under it could be destroyed instead.
    ///
    /// # Errors
    ///
    /// [`HsmError::KeyExists`], [`HsmError::Unfit`] when the token made another key than asked for, and as
    /// [`HsmHandle::wrap`].
    pub async fn generate_key(&self, id: BackingKeyId, label: &str) -> HsmResult<BackingKey> {
        let label = label.to_owned();
        let pool = Arc::downgrade(&self.shared.pool);
        let made = self.call(false, move |seat| {
            // A session that idled may have been closed by the device; a fresh one spares the caller that failure.
            let blob = seat.renew()?.generate_key(&id, &label)?;
            let canary = seat.renew()?.make_canary(&id, &blob)?;
            let key = BackingKey { id, blob, canary };
            seat.renew()?.probe(&key)?;
            Ok(Fresh::new(id, key, &pool))
        });
        made.await.map(Fresh::received)
    }

    /// Encrypts `plaintext` under `key` with `aad` authenticated; by [`HsmSettings::verify_wraps`] also decrypts it
    /// back, in the same job.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`], [`HsmError::KeyNotFound`], [`HsmError::Unfit`]; [`HsmError::Busy`],
    /// [`HsmError::Timeout`], [`HsmError::Unavailable`]; [`HsmError::PinRejected`], [`HsmError::Device`];
    /// [`HsmError::WrapNotReadable`] when it did not decrypt back to `plaintext`.
    pub async fn wrap(
        &self,
        key: &BackingKey,
        aad: Vec<u8>,
        plaintext: SecretBytes,
    ) -> HsmResult<Wrapped> {
        let key = key.clone();
        let verify = self.shared.pool.settings.verify_wraps;
        self.call(true, move |seat| {
            let session = seat.session()?;
            let wrapped = if verify {
                let (wrapped, back) = session.wrap_and_unwrap(&key, &aad, plaintext.expose())?;
                if !same_bytes(back.expose(), plaintext.expose()) {
                    return Err(HsmError::WrapNotReadable);
                }
                wrapped
            } else {
                session.wrap(&key, &aad, plaintext.expose())?
            };
            seat.used(&key);
            Ok(wrapped)
        })
        .await
    }

    /// Decrypts what [`HsmHandle::wrap`] made, under the same key and `aad`.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unauthentic`] for anything else, and as [`HsmHandle::wrap`].
    pub async fn unwrap(
        &self,
        key: &BackingKey,
        aad: Vec<u8>,
        wrapped: Wrapped,
    ) -> HsmResult<SecretBytes> {
        let key = key.clone();
        self.call(true, move |seat| {
            let secret = seat.session()?.unwrap(&key, &aad, &wrapped)?;
            seat.used(&key);
            Ok(secret)
        })
        .await
    }

    /// Why the token cannot make or use tools of this kind, if it cannot.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`].
    pub async fn tool_obstacle(&self, spec: ToolSpec) -> HsmResult<Option<String>> {
        let deadline = self.deadline_of(spec);
        self.call_within(deadline, true, move |seat| {
            seat.session()?.tool_obstacle(spec)
        })
        .await
    }

    /// Makes a tool with its proof, as [`HsmHandle::generate_key`] makes a backing key: in three sessions, once, and
    /// gone again when its caller has left.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unsupported`], and as [`HsmHandle::generate_key`].
    pub async fn generate_tool(
        &self,
        id: BackingKeyId,
        spec: ToolSpec,
        label: &str,
    ) -> HsmResult<ToolKey> {
        let label = label.to_owned();
        let pool = Arc::downgrade(&self.shared.pool);
        let made = self.call_within(self.deadline_of(spec), false, move |seat| {
            let blob = seat.renew()?.generate_tool(&id, spec, &label)?;
            let proof = seat.renew()?.prove_tool(&id, spec, &blob)?;
            let tool = ToolKey { id, spec, proof };
            seat.renew()?.probe_tool(&tool)?;
            Ok(Fresh::new(id, tool, &pool))
        });
        made.await.map(Fresh::received)
    }

    /// Finds `tool` afresh and has it prove itself.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`].
    pub async fn probe_tool(&self, tool: &ToolKey) -> HsmResult<()> {
        let tool = tool.clone();
        self.call(true, move |seat| seat.session()?.probe_tool(&tool))
            .await
    }

    /// Makes the MAC of a message of at most [`TOOL_INPUT_BYTES_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`], and as [`HsmHandle::wrap`].
    pub async fn mac(&self, tool: &ToolKey, message: Zeroizing<Vec<u8>>) -> HsmResult<Vec<u8>> {
        if message.len() > TOOL_INPUT_BYTES_MAX {
            return Err(HsmError::TooLong {
                what: "message to authenticate",
                bytes: message.len(),
            });
        }
        let tool = tool.clone();
        self.call(true, move |seat| seat.session()?.mac(&tool, &message))
            .await
    }

    /// Signs a digest of the length that the algorithm's hash has. A signature that does not verify under the tool's public
    /// half counts as a failure of the token, and never leaves.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`] for a digest of another length, and as [`HsmHandle::wrap`].
    pub async fn sign(
        &self,
        tool: &ToolKey,
        algorithm: SignatureAlgorithm,
        digest: Vec<u8>,
    ) -> HsmResult<Vec<u8>> {
        let key = algorithm.checked(tool, &digest)?;
        let tool = tool.clone();
        self.call(true, move |seat| {
            let signature = seat.session()?.sign(&tool, algorithm, &digest)?;
            if !key.verifies(tool.proof.as_bytes(), algorithm, &digest, &signature) {
                return Err(HsmError::Device {
                    function: "C_Sign",
                    source: "the signature does not verify".into(),
                });
            }
            Ok(signature)
        })
        .await
    }

    /// Unwraps `material` in the token into a backing key with its canary, in three sessions, once, and gone again when its
    /// caller has left: as [`HsmHandle::generate_key`].
    ///
    /// # Errors
    ///
    /// As [`Session::import_key`](crate::Session::import_key) and [`HsmHandle::generate_key`].
    pub async fn import_key(
        &self,
        material: Material,
        id: BackingKeyId,
        label: &str,
    ) -> HsmResult<BackingKey> {
        let label = label.to_owned();
        let pool = Arc::downgrade(&self.shared.pool);
        let made = self.call(false, move |seat| {
            let blob = seat.renew()?.import_key(&material, Some((&id, &label)))?;
            let canary = seat.renew()?.make_canary(&id, &blob)?;
            let key = BackingKey { id, blob, canary };
            seat.renew()?.probe(&key)?;
            Ok(Fresh::new(id, key, &pool))
        });
        made.await.map(Fresh::received)
    }

    /// Whether `material` could be imported: it unwraps, and is the same as what it must be.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::import_key`].
    pub async fn check_material(&self, material: Material) -> HsmResult<()> {
        self.call(true, move |seat| {
            seat.session()?.import_key(&material, None).map(|_blob| ())
        })
        .await
    }

    /// Destroys a backing key for ever. One that is not there is destroyed already.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`]. After an error the key may be there or not; destroying it again is harmless.
    pub async fn destroy_key(&self, id: BackingKeyId) -> HsmResult<()> {
        self.call(true, move |seat| {
            seat.session()?.destroy_key(&id)?;
            seat.destroyed(&id);
            Ok(())
        })
        .await
    }

    /// Whether the token holds an object with this identity, fit or not.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`].
    pub async fn contains(&self, id: BackingKeyId) -> HsmResult<bool> {
        self.call(true, move |seat| seat.session()?.contains(&id))
            .await
    }

    /// Identities of all keys on the token that look like ours, in no order.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`].
    pub async fn list_keys(&self) -> HsmResult<Vec<BackingKeyId>> {
        self.call(true, |seat| seat.session()?.list_keys()).await
    }

    /// `len` random bytes from the token, at most [`HsmHandle::RANDOM_BYTES_MAX`].
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`], and as [`HsmHandle::wrap`].
    pub async fn random(&self, len: usize) -> HsmResult<Zeroizing<Vec<u8>>> {
        if len > Self::RANDOM_BYTES_MAX {
            return Err(HsmError::TooLong {
                what: "random",
                bytes: len,
            });
        }
        self.call(true, move |seat| {
            let mut bytes = Zeroizing::new(vec![0; len]);
            seat.session()?.random(&mut bytes)?;
            Ok(bytes)
        })
        .await
    }

    /// The most bytes one [`HsmHandle::random`] gives: what `kms:GenerateRandom` may ask for.
    pub const RANDOM_BYTES_MAX: usize = 1024;

    /// Finds `key` afresh and opens its canary.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`].
    pub async fn probe(&self, key: &BackingKey) -> HsmResult<()> {
        let key = key.clone();
        self.call(true, move |seat| seat.session()?.probe(&key))
            .await
    }

    /// Describes the token.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`].
    pub async fn info(&self) -> HsmResult<TokenInfo> {
        self.call(true, |seat| seat.token().info()).await
    }

    /// Describes the token and reports on it ([`Token::report`]), on a thread of its own: it takes its time, and keeps no
    /// call from its worker.
    ///
    /// # Errors
    ///
    /// [`HsmError::Timeout`] beyond [`HsmHandle::REPORT_WAIT_MAX`]; as [`Token::report`].
    pub async fn report(&self) -> HsmResult<(TokenInfo, Report)> {
        let token = Arc::clone(&self.shared.pool.token);
        let (reply, answer) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(REPORT_THREAD.into())
            .spawn(move || {
                let report = token.info().and_then(|info| Ok((info, token.report()?)));
                // Whoever has gone does not want to know.
                let _gone = reply.send(report);
            })
            .map_err(|source| HsmError::Unavailable {
                reason: "no thread for a report".into(),
                source: Some(source.into()),
            })?;
        self.keep_report_thread(thread);
        match tokio::time::timeout(Self::REPORT_WAIT_MAX, answer).await {
            Ok(Ok(report)) => report,
            Ok(Err(_panic)) => Err(HsmError::Unavailable {
                reason: "the report broke off".into(),
                source: None,
            }),
            Err(_elapsed) => Err(HsmError::Timeout(Self::REPORT_WAIT_MAX)),
        }
    }

    /// Joined by a shutdown, like the workers.
    fn keep_report_thread(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads();
        threads
            .retain(|other| !other.is_finished() || other.thread().name() != Some(REPORT_THREAD));
        threads.push(thread);
    }

    /// The longest that a report may take.
    pub const REPORT_WAIT_MAX: Duration = Duration::from_mins(2);

    /// How the token fares, by what is known already: never enters the module and never waits for it.
    pub fn health(&self) -> Health {
        self.shared.pool.health(Instant::now())
    }

    /// Takes no more calls, lets the workers finish what is queued, and joins those that are done within the
    /// deadline. To be awaited before the process ends: `SoftHSM` was seen to crash when its global destructors ran
    /// while a worker closed its session. A worker that hangs in the module is left behind, and then only `_exit` ends
    /// the process safely.
    pub async fn shutdown(&self) {
        self.shared.pool.close();
        let give_up = Instant::now() + self.shared.pool.settings.deadline;
        let mut threads = std::mem::take(&mut *self.threads());
        while !threads.is_empty() && Instant::now() < give_up {
            for thread in threads.extract_if(.., |thread| thread.is_finished()) {
                if thread.join().is_err() {
                    tracing::error!(event = "hsm.worker_panicked", "an HSM worker had died");
                }
            }
            tokio::time::sleep(JOIN_POLL).await;
        }
        if !threads.is_empty() {
            tracing::warn!(
                event = "hsm.workers_left",
                count = threads.len(),
                "HSM workers still hang"
            );
        }
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.shared
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `work` done by a worker. `repeatable`: doing it twice does no harm.
    async fn call<T, W>(&self, repeatable: bool, work: W) -> HsmResult<T>
    where
        T: Send + 'static,
        W: FnMut(&mut Seat<'_>) -> HsmResult<T> + Send + 'static,
    {
        let deadline = self.shared.pool.settings.deadline;
        self.call_within(deadline, repeatable, work).await
    }

    /// How long may be taken to make such a tool, or to try it.
    fn deadline_of(&self, spec: ToolSpec) -> Duration {
        let deadline = self.shared.pool.settings.deadline;
        if spec.is_slow() {
            deadline.max(PAIR_DEADLINE)
        } else {
            deadline
        }
    }

    async fn call_within<T, W>(&self, deadline: Duration, repeatable: bool, work: W) -> HsmResult<T>
    where
        T: Send + 'static,
        W: FnMut(&mut Seat<'_>) -> HsmResult<T> + Send + 'static,
    {
        let pool = &self.shared.pool;
        let (reply, mut answer) = reply();
        let asked = Instant::now();
        let overdue = asked + deadline;
        pool.submit(Box::new(Call::new(repeatable, overdue, work, reply)))?;
        let mut look_after = LOOK_AFTER;
        loop {
            let until = overdue.min(asked + look_after);
            match tokio::time::timeout_at(until.into(), &mut answer).await {
                Ok(Some(result)) => return result,
                // The job was dropped unanswered: at the very end of its deadline, or with the process.
                Ok(None) => {
                    return Err(HsmError::Unavailable {
                        reason: "the HSM worker gave the call up".into(),
                        source: None,
                    });
                }
                Err(_elapsed) if until < overdue => look_after *= 2,
                Err(_elapsed) => {
                    pool.count_timeout();
                    return Err(HsmError::Timeout(deadline));
                }
            }
        }
    }
}

impl fmt::Debug for HsmHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HsmHandle")
            .field("settings", &self.shared.pool.settings)
            .finish_non_exhaustive()
    }
}

/// When a caller looks for its answer unwoken, and each time after twice as long. Workers put waking off while calls are
/// quick, and then one may hang: who has an answer by then waits at most as long again.
const LOOK_AFTER: Duration = Duration::from_millis(10);

const REPORT_THREAD: &str = "hsm-report";

/// How often `shutdown` looks whether a thread has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// Compares secrets in a time that depends on their lengths only.
pub(crate) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let differing = a
        .iter()
        .zip(b)
        .fold(0, |differing, (a, b)| differing | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}
