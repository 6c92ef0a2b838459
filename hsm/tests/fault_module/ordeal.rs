//! A load on a token while a fault is in force, and what became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use strongroom_fault_module::{Armed, CONTROL_VARIABLE, Control, FILE_NAME, Fault, Times};
use strongroom_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
use strongroom_hsm::process::{ProcessSettings, ProcessToken, WorkerCommand};
use strongroom_hsm::{
    BackingKey, BackingKeyId, HsmError, HsmHandle, HsmSettings, SecretBytes, State, Token,
    WrapScheme, Wrapped,
};

use crate::support::SoftHsm;

pub(crate) const LABEL: &str = "faults";

/// Of a call through the handle.
const DEADLINE: Duration = Duration::from_millis(700);

const CONTROL_FILE: &str = "control";
const WORKER: &str = env!("CARGO_BIN_EXE_strongroom-hsm-test-worker");

/// Callers that wrap and unwrap all the time.
const CALLERS: usize = 8;
/// What each does between two calls: the load is steady rather than high.
const PAUSE: Duration = Duration::from_millis(3);
/// Load before the fault, and with it.
const BEFORE: Duration = Duration::from_millis(300);
const DURING: Duration = Duration::from_millis(1500);
/// Load after the fault, until so long nothing has failed.
const QUIET: Duration = Duration::from_secs(2);
/// The longest time that healing may take.
const HEALS_WITHIN: Duration = Duration::from_secs(5);

/// The module, its control file and its token; the tests of a process take turns.
pub(crate) struct Bench {
    pub(crate) control: &'static Control,
    softhsm: &'static SoftHsm,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static CONTROL: OnceLock<Control> = OnceLock::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let softhsm = SoftHsm::with_tokens(&[LABEL]);
        let control = CONTROL.get_or_init(|| {
            let path = softhsm.dir.join(CONTROL_FILE);
            #[expect(unsafe_code, reason = "the module is told its control file so")]
            // SAFETY: before the module is loaded, which alone reads it, and under the lock of all tests.
            unsafe {
                std::env::set_var(CONTROL_VARIABLE, &path);
            }
            Control::create(&path).expect("a control file")
        });
        Self {
            control,
            softhsm,
            _turn: turn,
        }
    }

    /// The module library: Cargo has built it for this test and put it beside the executable.
    pub(crate) fn module() -> PathBuf {
        let executable = std::env::current_exe().expect("a path");
        let module = executable.with_file_name(FILE_NAME);
        assert!(module.exists(), "no {}", module.display());
        module
    }

    pub(crate) fn control_file(&self) -> PathBuf {
        self.softhsm.dir.join(CONTROL_FILE)
    }

    pub(crate) fn pin_file(&self) -> PathBuf {
        self.softhsm.pin_file()
    }

    pub(crate) fn config(&self) -> Pkcs11Config {
        let (module, pin_file) = (Self::module(), self.pin_file());
        let uri = format!(
            "pkcs11:token={LABEL}?module-path={}&pin-source=file:{}",
            encoded(&module),
            encoded(&pin_file)
        );
        Pkcs11Config::from_uri(&uri).expect("a valid URI")
    }

    /// The token in this process.
    pub(crate) fn token(&self) -> Arc<dyn Token> {
        Arc::new(Pkcs11Token::new(self.config()))
    }

    /// The token in worker processes.
    pub(crate) fn token_in_processes(&self) -> Arc<dyn Token> {
        self.token_in_processes_within(DEADLINE.mul_f64(0.4), DEADLINE.mul_f64(0.8))
    }

    /// The same with these deadlines for a call and for the start of a worker.
    pub(crate) fn token_in_processes_within(
        &self,
        call_deadline: Duration,
        start_deadline: Duration,
    ) -> Arc<dyn Token> {
        let environment = [
            (CONTROL_VARIABLE.into(), self.control_file().into()),
            (
                "SOFTHSM2_CONF".into(),
                self.softhsm.dir.join("softhsm2.conf").into(),
            ),
        ];
        let settings = ProcessSettings {
            command: WorkerCommand {
                program: WORKER.into(),
                ..WorkerCommand::default()
            },
            environment: environment.into(),
            call_deadline,
            start_deadline,
        };
        Arc::new(ProcessToken::new(self.config(), settings).expect("sane settings"))
    }

    /// The token, which chooses the IV.
    pub(crate) fn token_with_its_iv(&self) -> Arc<dyn Token> {
        Arc::new(Pkcs11Token::new(Pkcs11Config {
            scheme: Some(WrapScheme::AesGcmTokenIv),
            ..self.config()
        }))
    }

    /// The token in this process, which wraps keys.
    pub(crate) fn token_with_key_wrap(&self) -> Arc<dyn Token> {
        Arc::new(Pkcs11Token::new(Pkcs11Config {
            scheme: Some(WrapScheme::AesKwp),
            ..self.config()
        }))
    }

    /// `fault` for these functions until it is lifted.
    pub(crate) fn arm(&self, functions: &[&str], fault: Fault) -> Armed<'static> {
        self.control
            .arm(functions, fault, Times::UntilLifted)
            .expect("arms")
    }

    /// `fault` for so many calls.
    pub(crate) fn arm_for(&self, functions: &[&str], fault: Fault, calls: u32) -> Armed<'static> {
        self.control
            .arm(functions, fault, Times::Only(calls))
            .expect("arms")
    }
}

fn encoded(path: &Path) -> String {
    path.to_str()
        .expect("UTF-8")
        .replace('%', "%25")
        .replace(' ', "%20")
}

/// A handle with settings that make a short test of it.
pub(crate) fn start(token: Arc<dyn Token>) -> HsmHandle {
    let settings = HsmSettings {
        deadline: DEADLINE,
        ..HsmSettings::default()
    };
    HsmHandle::start(token, settings).expect("starts")
}

pub(crate) fn fresh_id() -> BackingKeyId {
    BackingKeyId::random().expect("randomness")
}

pub(crate) async fn fresh_key(hsm: &HsmHandle) -> BackingKey {
    hsm.generate_key(fresh_id(), "ordeal")
        .await
        .expect("generates")
}

/// What was wrapped and acknowledged.
#[derive(Clone)]
struct Kept {
    key: BackingKey,
    aad: Vec<u8>,
    plaintext: Vec<u8>,
    wrapped: Wrapped,
    at: Instant,
}

/// What became of a load.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) tried: u64,
    /// Wraps that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Calls that failed, by the kind of error.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Acknowledged wraps that do not unwrap when the fault is over.
    pub(crate) lost: u64,
    /// When those were acknowledged, counted from the last time the fault began or ended.
    pub(crate) lost_until: Duration,
    /// Unwraps that gave another plaintext.
    pub(crate) wrong: u64,
    /// The last of them, counted from the start of the fault.
    pub(crate) wrong_until: Duration,
    /// Calls of the module that the fault struck.
    pub(crate) hits: u64,
    /// From the end of the fault to the last call that failed.
    pub(crate) healed: Duration,
    /// The longest call.
    pub(crate) slowest: Duration,
    /// When a call failed last.
    failed_at: Option<Instant>,
    wrong_at: Option<Instant>,
}

impl Figures {
    pub(crate) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    pub(crate) fn failed_with(&self, kind: &str) -> u64 {
        self.failed.get(kind).copied().unwrap_or_default()
    }

    /// Holds whatever the fault: it struck, nothing was lost or wrong, nobody was blamed for it, and it healed.
    pub(crate) fn assert_sound(&self) {
        assert_eq!(self.wrong, 0, "wrong plaintexts: {self}");
        self.assert_nothing_lost();
        for innocent in ["Unauthentic", "KeyNotFound", "KeyExists", "TooLong"] {
            let blamed = self.failed_with(innocent);
            assert_eq!(blamed, 0, "the caller is blamed: {self}");
        }
    }

    pub(crate) fn assert_nothing_lost(&self) {
        assert!(self.hits > 0, "the fault never struck: {self}");
        assert!(self.acknowledged > 0, "nothing was wrapped: {self}");
        assert_eq!(self.lost, 0, "lost: {self}");
        assert!(self.healed < HEALS_WITHIN, "healed too late: {self}");
    }

    fn note_failure(&mut self, error: &HsmError) {
        let kind = format!("{error:?}");
        let kind = kind.split(['(', ' ', '{']).next().unwrap_or_default();
        *self.failed.entry(kind.to_owned()).or_default() += 1;
        self.failed_at = Some(Instant::now());
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tried {} acknowledged {} failed {} {:?} lost {} wrong {} struck {} healed in {:?} slowest call {:?}",
            self.tried,
            self.acknowledged,
            self.failures(),
            self.failed,
            self.lost,
            self.wrong,
            self.hits,
            self.healed,
            self.slowest,
        )
    }
}

/// Callers on a handle, and what they have noted.
struct Load {
    hsm: HsmHandle,
    keys: Vec<BackingKey>,
    over: AtomicBool,
    figures: Mutex<Figures>,
    kept: Mutex<Vec<Kept>>,
}

impl Load {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call_until_it_is_over(self: Arc<Self>, caller: usize) {
        let mut round = caller;
        while !self.over.load(Ordering::Acquire) {
            self.wrap(round).await;
            self.unwrap(round).await;
            round += CALLERS;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn wrap(&self, round: usize) {
        let key = self.keys.get(round % self.keys.len()).expect("a key");
        let aad = round.to_le_bytes().to_vec();
        let plaintext = BackingKeyId::random().expect("randomness");
        let plaintext = plaintext.as_bytes().to_vec();
        let secret = SecretBytes::new(plaintext.clone()).expect("is short enough");
        let begun = Instant::now();
        let answer = self.hsm.wrap(key, aad.clone(), secret).await;
        let mut figures = self.figures();
        figures.tried += 1;
        figures.slowest = figures.slowest.max(begun.elapsed());
        match answer {
            Ok(wrapped) => {
                figures.acknowledged += 1;
                self.kept().push(Kept {
                    key: key.clone(),
                    aad,
                    plaintext,
                    wrapped,
                    at: Instant::now(),
                });
            }
            Err(error) => figures.note_failure(&error),
        }
    }

    async fn unwrap(&self, round: usize) {
        let kept = {
            let kept = self.kept();
            kept.get((round * 7919) % kept.len().max(1)).cloned()
        };
        let Some(kept) = kept else {
            return;
        };
        let begun = Instant::now();
        let answer = self.hsm.unwrap(&kept.key, kept.aad, kept.wrapped).await;
        let mut figures = self.figures();
        figures.tried += 1;
        figures.slowest = figures.slowest.max(begun.elapsed());
        match answer {
            Ok(back) if back.expose() == kept.plaintext => {}
            Ok(_) => {
                figures.wrong += 1;
                figures.wrong_at = Some(Instant::now());
            }
            Err(error) => figures.note_failure(&error),
        }
    }
}

/// Puts a load on `token`, has `fault` strike for a while, lifts it, waits until nothing fails any more, and unwraps
/// all that was acknowledged. Prints and returns the figures.
pub(crate) async fn ordeal(
    name: &str,
    token: Arc<dyn Token>,
    fault: impl FnOnce() -> Vec<Armed<'static>>,
) -> Figures {
    let hsm = start(token);
    let keys = vec![fresh_key(&hsm).await, fresh_key(&hsm).await];
    let load = Arc::new(Load {
        hsm: hsm.clone(),
        keys,
        over: AtomicBool::new(false),
        figures: Mutex::default(),
        kept: Mutex::default(),
    });
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(Arc::clone(&load).call_until_it_is_over(caller)))
        .collect();
    tokio::time::sleep(BEFORE).await;
    assert_eq!(load.figures().failures(), 0, "{}", load.figures());

    let struck = Instant::now();
    let armed = fault();
    tokio::time::sleep(DURING).await;
    let hits: u64 = armed
        .into_iter()
        .map(|armed| armed.lift().expect("lifts"))
        .sum();
    let lifted = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let quiet_since = load.figures().failed_at.unwrap_or(lifted).max(lifted);
        if quiet_since.elapsed() > QUIET || lifted.elapsed() > HEALS_WITHIN + QUIET {
            break;
        }
    }
    load.over.store(true, Ordering::Release);
    for caller in callers {
        caller.await.expect("does not panic");
    }

    let mut figures = std::mem::take(&mut *load.figures());
    figures.hits = hits;
    let since = |at: Option<Instant>, start| at.map_or(Duration::ZERO, |at| at - start);
    figures.healed = since(figures.failed_at.filter(|at| *at > lifted), lifted);
    figures.wrong_until = since(figures.wrong_at, struck);
    let all = std::mem::take(&mut *load.kept());
    for kept in all {
        let back = hsm.unwrap(&kept.key, kept.aad, kept.wrapped).await;
        if !back.is_ok_and(|back| back.expose() == kept.plaintext) {
            figures.lost += 1;
            let edge = if kept.at > lifted { lifted } else { struck };
            figures.lost_until = figures.lost_until.max(kept.at - edge);
        }
    }
    println!("{name}: {figures}");
    assert_eq!(hsm.health().state, State::Ready, "{:?}", hsm.health());
    hsm.shutdown().await;
    figures
}
