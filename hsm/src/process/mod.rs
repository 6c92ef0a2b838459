//! A PKCS#11 module that cannot take the server down: it is loaded in a process of its own.
//!
//! ```text
//! HsmHandle ─ worker thread ─ ProcessSession ══ socket pair ══ worker process ─ Pkcs11Token ─ module
//!                                  │ deadline, kill, reap           dies with its parent, reads no file of ours
//!                                 PIN file
//! ```
//!
//! One worker process per session. A module that crashes, hangs or leaks costs one call and one worker: past its
//! deadline the worker is killed and a call is answered [`HsmError::Timeout`]; one that dies answers
//! [`HsmError::Device`] with the signal that killed it. The handle above drops the session and opens another, with its
//! usual back-off.
//!
//! # The worker
//!
//! - It is our own program, started again with a hidden argument ([`WorkerCommand`]), which calls [`worker_main`] before
//!   anything else. Not by `fork` alone: a module in a forked child has undefined state (PKCS#11 v3.1 §5.4.1).
//! - Its standard input is the socket; its output goes nowhere, its errors to ours. Its environment is what
//!   [`ProcessSettings::environment`] says and nothing else, its directory is `/`, its process group its own.
//! - Before it reads a byte it asks to be killed with its parent (`PR_SET_PDEATHSIG`; looks at the socket's credentials,
//!   `SO_PEERCRED` of unix(7), whether that is still its parent), forbids tracing and cores (`PR_SET_DUMPABLE`,
//!   `RLIMIT_CORE`), closes every descriptor above 2 (`close_range(2)`), and ignores the signals that a terminal or a
//!   service manager sends to all. It ends when the socket does: it closes its sessions, finalises the module, and leaves
//!   by `_exit`.
//! - Death with the parent is by thread: all workers are children of one thread that never ends, so any thread may open
//!   a session.
//!
//! # The PIN
//!
//! The parent reads it when the worker is about to log in and asks, and sends it over the socket: it is in no argument,
//! no environment, and both sides zero it after use. A refused PIN is remembered by the parent, so that no number of
//! workers tries it again before its file changes; workers log in one at a time. A worker that ends in the middle of a
//! login leaves open whether the token has counted a wrong try: what is done then is said in `pkcs11/pin.rs`.
//!
//! # Trust
//!
//! The worker runs foreign code, so the parent believes nothing it says without a bound: lengths, counts and texts are
//! limited, and nonsense ends the worker. What a wrap decrypts back to is compared here, not there. The protocol is
//! specified in `message.rs` (what is said) and `wire.rs` (frames).

mod confine;
mod failure;
mod keeper;
mod link;
mod login;
mod message;
mod objects;
mod session;
mod trial;
mod wire;
mod worker;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::link::Link;
use self::login::Login;
use self::message::{Answer, Request};
use self::objects::Objects;
use self::session::ProcessSession;
use self::trial::Trials;
use self::wire::Broken;
use crate::pkcs11::pin::PinFile;
use crate::pkcs11::{Abilities, Insistence, Pkcs11Config};
use crate::{HsmError, HsmResult, Report, Session, Token, TokenInfo};

/// What both sides must be: they share more than the protocol says.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// How long opening a session waits for the end of the pause after a login whose outcome is unclear. One that is longer
/// is for who opens it to wait for.
const LOGIN_PAUSE_WAIT: Duration = Duration::from_secs(1);

/// How long a report may take: it tries much, and nobody waits for it in a request.
const REPORT_DEADLINE: Duration = Duration::from_mins(1);

/// What a program's `main` calls, and returns, when it is started as a worker: before it reads a file or starts a
/// thread. Does not return if all goes well.
pub fn worker_main() -> ExitCode {
    worker::run(BUILD)
}

/// A worker that claims to be of another build.
#[cfg(feature = "testing")]
pub fn worker_main_of_build(build: &str) -> ExitCode {
    worker::run(build)
}

/// The argument by which a program knows that it is to be a worker.
pub const WORKER_ARGUMENT: &str = "hsm-worker";

/// How a worker is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program: one that calls [`worker_main`].
    pub program: PathBuf,
    /// The arguments that make it do so.
    pub arguments: Vec<OsString>,
}

impl Default for WorkerCommand {
    /// This program, by `/proc/self/exe`, so that it is the same even when its file has been replaced; `hsm-worker`.
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![OsString::from(WORKER_ARGUMENT)],
        }
    }
}

/// How workers are started and how long they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    /// What is started.
    pub command: WorkerCommand,
    /// The whole environment of a worker: what the module needs, `SOFTHSM2_CONF` for instance.
    pub environment: BTreeMap<OsString, OsString>,
    /// How long a worker may take for a call. At most half of the handle's deadline, so that a call that may be repeated
    /// is, and the caller hears from the second worker.
    pub call_deadline: Duration,
    /// How long a worker may take from its start to an open session. What the token can do is found out by the first
    /// worker of all, which may take longer than this; callers then hear that the token is being tried.
    pub start_deadline: Duration,
}

impl Default for ProcessSettings {
    /// This program, an empty environment, 2 s for a call and 4 s to start.
    fn default() -> Self {
        Self {
            command: WorkerCommand::default(),
            environment: BTreeMap::new(),
            call_deadline: Duration::from_secs(2),
            start_deadline: Duration::from_secs(4),
        }
    }
}

/// A token behind a PKCS#11 module that is loaded in worker processes, one for each session.
#[derive(Debug)]
pub struct ProcessToken {
    config: Pkcs11Config,
    settings: ProcessSettings,
    shared: Arc<Shared>,
}

/// What the workers of one token have in common.
#[derive(Debug)]
struct Shared {
    login: Login,
    objects: Objects,
    trials: Trials,
    insistence: Insistence,
}

impl ProcessToken {
    /// The token that `config` names. Starts nothing.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] for a deadline of zero.
    pub fn new(config: Pkcs11Config, settings: ProcessSettings) -> HsmResult<Self> {
        if settings.call_deadline.is_zero() || settings.start_deadline.is_zero() {
            return Err(HsmError::Config(
                "the deadlines of a worker process must not be zero".into(),
            ));
        }
        let shared = Arc::new(Shared {
            login: Login::new(PinFile::new(config.pin_source.clone())),
            objects: Objects::default(),
            trials: Trials::default(),
            insistence: Insistence::default(),
        });
        Ok(Self {
            config,
            settings,
            shared,
        })
    }

    /// A worker that is logged in, and what it says that it is logged in to.
    fn start(&self, give_up: Instant) -> HsmResult<(Link, String)> {
        // A worker's life begins with a login.
        let pause = self.shared.login.pause();
        if pause <= LOGIN_PAUSE_WAIT.min(link::left(give_up) / 2) {
            std::thread::sleep(pause);
        }
        let mut link = Link::start(&self.settings, &self.shared, give_up)?;
        let configure = Request::Configure(Cow::Borrowed(&self.config));
        match link.exchange(&configure, give_up)? {
            Answer::Done => {}
            _ => return Err(self.nonsense(&mut link)),
        }
        match link.exchange(&Request::Open, give_up)? {
            Answer::Opened(identity) => Ok((link, identity)),
            _ => Err(self.nonsense(&mut link)),
        }
    }

    /// The worker, whose words nobody hears, sees that an unsafe token is refused.
    fn heed(&self, abilities: &Abilities) {
        if self.config.allow_unsafe && !abilities.dangers.is_empty() {
            let insistence = &self.shared.insistence;
            insistence.warn(&self.config.token, &abilities.dangers);
        }
    }

    fn nonsense(&self, link: &mut Link) -> HsmError {
        let other = Broken::Malformed("an answer to another question");
        link.fail(other, self.settings.start_deadline)
    }

    fn until_started(&self) -> Instant {
        Instant::now() + self.settings.start_deadline
    }
}

impl Token for ProcessToken {
    fn open_session(&self) -> HsmResult<Box<dyn Session>> {
        let give_up = self.until_started();
        // A worker that came now would only wait, logged in.
        self.shared.trials.wait(give_up)?;
        let (link, identity) = self.start(give_up)?;
        let allow_unsafe = self.config.allow_unsafe;
        let tried = trial::abilities(&self.shared, link, identity, allow_unsafe, give_up);
        let (mut link, abilities) = tried?;
        self.heed(&abilities);
        match link.exchange(&Request::Begin(Cow::Borrowed(&abilities)), give_up)? {
            Answer::Done => Ok(Box::new(ProcessSession::new(
                link,
                self.settings.call_deadline,
            ))),
            _ => Err(self.nonsense(&mut link)),
        }
    }

    fn info(&self) -> HsmResult<TokenInfo> {
        let give_up = self.until_started();
        let (mut link, _identity) = self.start(give_up)?;
        match link.exchange(&Request::Info, give_up)? {
            Answer::Info(info) => Ok(info),
            _ => Err(self.nonsense(&mut link)),
        }
    }

    fn report(&self) -> HsmResult<Report> {
        let (mut link, _identity) = self.start(self.until_started())?;
        match link.exchange(&Request::Report, Instant::now() + REPORT_DEADLINE)? {
            Answer::Report(report) => Ok(report),
            _ => Err(self.nonsense(&mut link)),
        }
    }
}
