//! The PIN: read for each login, tried once, forgotten.
//!
//! It comes from a file, or, in a worker process, from the process that started it, which reads the file and remembers
//! what was tried: that must outlive the worker.
//!
//! # We never lock a token
//!
//! - A PIN that was refused is not tried again until its source holds another one.
//! - None is tried while the token reports `CKF_USER_PIN_FINAL_TRY` (PKCS#11 v3.1 §3.2, `CK_TOKEN_INFO`), or reports
//!   nothing.
//! - A login whose outcome is *unclear* may have been a wrong try: the module crashed or hung in `C_Login`, or answered
//!   with a code that speaks neither of the PIN nor of a session, a module or a token that went away. The module is not
//!   initialised again, and that PIN not tried again, in the same attempt to open a session.
//! - After an unclear outcome the same PIN is tried again only when the token has been asked and does not report that
//!   few tries are left (`CKF_USER_PIN_COUNT_LOW`, `CKF_USER_PIN_FINAL_TRY`, `CKF_USER_PIN_LOCKED`). If it does, the PIN
//!   counts as refused.
//! - Not every token sets these flags. Therefore the tries after unclear outcomes in a row are spaced:
//!   [`UNCLEAR_PAUSE_MIN`], doubled each time, and after [`UNCLEAR_MAX`] of them one in [`UNCLEAR_PAUSE_MAX`]. A module
//!   that crashes in every call for a while heals in about the time that it was ill.
//! - A clear success forgets all of this; another content of the source is another PIN and starts anew.

use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use super::Setback;
use super::error::unavailable;
use super::raw::Raw;
use crate::{HsmError, HsmResult};

/// The longest PIN that is read.
pub(crate) const PIN_BYTES_MAX: usize = 255;

/// The one refusal that is ours and not the token's: the PIN was not tried, and may be later, unchanged.
pub(crate) const FINAL_TRY: &str =
    "the next wrong PIN would lock the token; log in elsewhere first";

/// Every reason for which [`HsmError::PinRejected`] is given.
pub(crate) const REASONS: &[&str] = &[
    FINAL_TRY,
    UNCLEAR,
    "it is wrong",
    "it is locked",
    "it has expired",
    "its length is out of range",
    "it has invalid characters",
];

/// The other refusal that is ours: it stands until the PIN's source changes.
pub(crate) const UNCLEAR: &str =
    "the outcome of its last try is unclear, and the token reports that few tries are left";

/// How many unclear outcomes in a row have pauses that double.
const UNCLEAR_MAX: u32 = 8;
/// The pause after the first of them.
const UNCLEAR_PAUSE_MIN: Duration = Duration::from_millis(100);
/// The pause after all that follow.
const UNCLEAR_PAUSE_MAX: Duration = Duration::from_mins(1);

/// What asks for a PIN, given whether the token reports that few tries are left: answers with its bytes.
type Ask = Box<dyn Fn(bool) -> HsmResult<Zeroizing<Vec<u8>>> + Send + Sync>;

/// Where the PIN comes from, and whether the token has refused it.
#[derive(Debug)]
pub(super) struct Pin {
    source: Source,
    refusals: Refusals,
}

enum Source {
    File(PinFile),
    Asked(Ask),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Asked(_) => f.write_str("Asked(..)"),
        }
    }
}

impl Pin {
    /// The PIN in the file at `path`.
    pub(super) fn in_file(path: PathBuf) -> Self {
        Self {
            source: Source::File(PinFile::new(path)),
            refusals: Refusals::default(),
        }
    }

    /// The PIN that `ask` hands over for each login.
    pub(super) fn asked(ask: Ask) -> Self {
        Self {
            source: Source::Asked(ask),
            refusals: Refusals::default(),
        }
    }

    /// Logs the application in through `session`. The caller sees that only one thread does so at a time.
    ///
    /// What is tried and what is not: see the head of this file.
    pub(super) fn log_in(&self, raw: &Raw, slot: Slot, session: &Session) -> Result<(), Setback> {
        // Not by `cryptoki`, which cannot describe a token whose clock it cannot read.
        let token = raw.token_info(slot).map_err(|failed| {
            Setback::Module(HsmError::Unavailable {
                reason: "the token does not say how many PINs may be tried".into(),
                source: Some(failed.into()),
            })
        })?;
        let few_tries = token.few_pin_tries();
        let pin = match &self.source {
            Source::File(file) => file.read(),
            Source::Asked(ask) => ask(few_tries),
        };
        let pin = pin.map_err(Setback::Other)?;
        let tried = self.refusals.check(&pin, few_tries);
        let tried = tried.map_err(Setback::Other)?;
        if token.final_pin_try() {
            return Err(Setback::Other(HsmError::PinRejected(FINAL_TRY)));
        }
        // RawAuthPin zeroes its copy, too.
        let answer =
            session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.to_vec())));
        let reason = match answer {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                self.refusals.forget();
                return Ok(());
            }
            Err(Error::Pkcs11(RvError::PinIncorrect, _)) => "it is wrong",
            Err(Error::Pkcs11(RvError::PinLocked, _)) => "it is locked",
            Err(Error::Pkcs11(RvError::PinExpired, _)) => "it has expired",
            Err(Error::Pkcs11(RvError::PinLenRange, _)) => "its length is out of range",
            Err(Error::Pkcs11(RvError::PinInvalid, _)) => "it has invalid characters",
            Err(error @ Error::Pkcs11(RvError::UserPinNotInitialized, _)) => {
                return Err(Setback::Other(HsmError::Unavailable {
                    reason: "the token has no user PIN yet".into(),
                    source: Some(error.into()),
                }));
            }
            Err(Error::Pkcs11(code, function)) if went_away(code) => {
                return Err(Setback::Module(HsmError::Unavailable {
                    reason: "C_Login failed".into(),
                    source: Some(Error::Pkcs11(code, function).into()),
                }));
            }
            Err(error) => {
                self.refusals.note_unclear(tried);
                return Err(Setback::Login(HsmError::Device {
                    function: "C_Login",
                    source: error.into(),
                }));
            }
        };
        self.refusals.remember(tried, reason);
        Err(Setback::Other(HsmError::PinRejected(reason)))
    }
}

/// Whether `C_Login` says by this that it did not come to look at the PIN, for there was nothing to log in to.
fn went_away(code: RvError) -> bool {
    matches!(
        code,
        RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::CryptokiNotInitialized
    )
}

/// A file that holds a PIN.
#[derive(Debug)]
pub(crate) struct PinFile(PathBuf);

impl PinFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The content of the file without the line end that editors leave.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when it cannot be read or holds no PIN.
    pub(crate) fn read(&self) -> HsmResult<Zeroizing<Vec<u8>>> {
        let failed = |source: std::io::Error| HsmError::Unavailable {
            reason: format!("the PIN cannot be read from {}", self.0.display()),
            source: Some(source.into()),
        };
        let file = File::open(&self.0).map_err(failed)?;
        // Room for the longest PIN, its line end and one byte more: the buffer never moves and leaves no copy.
        let mut pin = Zeroizing::new(Vec::with_capacity(PIN_BYTES_MAX + 3));
        let limit = u64::try_from(PIN_BYTES_MAX + 3).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut pin).map_err(failed)?;
        while matches!(pin.last(), Some(b'\n' | b'\r')) {
            pin.pop();
        }
        if pin.is_empty() || pin.len() > PIN_BYTES_MAX {
            let path = self.0.display();
            return Err(unavailable(format!(
                "{path} must hold a PIN of 1 to {PIN_BYTES_MAX} bytes"
            )));
        }
        Ok(pin)
    }
}

/// The memory of the PIN that the token has refused, or may have refused.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Keys the fingerprint below, so that it says nothing about the PIN outside this process.
    fingerprints: RandomState,
    state: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    refused: Option<Refused>,
    unclear: Option<Unclear>,
}

/// Tells two PINs apart, in this process and for this source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

#[derive(Debug, Clone, Copy)]
struct Refused {
    fingerprint: Fingerprint,
    reason: &'static str,
}

/// A PIN whose last outcomes, so many in a row, are unclear.
#[derive(Debug, Clone, Copy)]
struct Unclear {
    fingerprint: Fingerprint,
    in_a_row: u32,
    next_try: Instant,
}

impl Refusals {
    /// Leave to try this PIN. `few_tries`: the token, asked just now, reports that few are left.
    ///
    /// # Errors
    ///
    /// [`HsmError::PinRejected`] for the one that was refused last, or may have been, with few tries left;
    /// [`HsmError::Unavailable`] during the pause after an unclear outcome.
    pub(crate) fn check(&self, pin: &[u8], few_tries: bool) -> HsmResult<Fingerprint> {
        let fingerprint = Fingerprint(self.fingerprints.hash_one(pin));
        let mut memory = self.memory();
        if let Some(refused) = memory.refused
            && refused.fingerprint == fingerprint
        {
            return Err(HsmError::PinRejected(refused.reason));
        }
        if let Some(unclear) = memory.unclear
            && unclear.fingerprint == fingerprint
        {
            if few_tries {
                memory.refused = Some(Refused {
                    fingerprint,
                    reason: UNCLEAR,
                });
                return Err(HsmError::PinRejected(UNCLEAR));
            }
            let left = unclear.next_try.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Err(unavailable(format!(
                    "the outcome of the last {} logins is unclear; the next try is in {left:?}",
                    unclear.in_a_row
                )));
            }
        }
        Ok(fingerprint)
    }

    /// The PIN was tried, and refused.
    pub(crate) fn remember(&self, fingerprint: Fingerprint, reason: &'static str) {
        *self.memory() = Memory {
            refused: Some(Refused {
                fingerprint,
                reason,
            }),
            unclear: None,
        };
    }

    /// The PIN was tried, and nobody can say what came of it.
    pub(crate) fn note_unclear(&self, fingerprint: Fingerprint) {
        let mut memory = self.memory();
        let before = memory
            .unclear
            .filter(|unclear| unclear.fingerprint == fingerprint);
        let in_a_row = before.map_or(1, |unclear| unclear.in_a_row.saturating_add(1));
        let pause = unclear_pause(in_a_row);
        tracing::warn!(
            event = "hsm.login_unclear",
            in_a_row,
            pause = ?pause,
            "the outcome of a login is unclear",
        );
        memory.unclear = Some(Unclear {
            fingerprint,
            in_a_row,
            next_try: Instant::now() + pause,
        });
    }

    /// A PIN was accepted.
    pub(crate) fn forget(&self) {
        *self.memory() = Memory::default();
    }

    /// How long no PIN is tried, unless its source changes.
    pub(crate) fn pause(&self) -> Duration {
        let unclear = self.memory().unclear;
        unclear.map_or(Duration::ZERO, |unclear| {
            unclear.next_try.saturating_duration_since(Instant::now())
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unclear_pause(in_a_row: u32) -> Duration {
    if in_a_row > UNCLEAR_MAX {
        return UNCLEAR_PAUSE_MAX;
    }
    UNCLEAR_PAUSE_MIN * 2_u32.pow(in_a_row.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_unclear_outcomes_double_and_then_last_a_minute() {
        let pauses: Vec<_> = (1..=10)
            .map(|in_a_row| unclear_pause(in_a_row).as_millis())
            .collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 60_000, 60_000];
        assert_eq!(pauses, expected);
    }

    #[test]
    fn another_pin_does_not_wait_for_the_unclear_one() {
        let refusals = Refusals::default();
        let tried = refusals.check(b"one", true).expect("nothing is known");
        refusals.note_unclear(tried);
        let paused = refusals.check(b"one", false);
        assert!(
            matches!(paused, Err(HsmError::Unavailable { .. })),
            "{paused:?}"
        );
        refusals.check(b"two", true).expect("is another");
        assert!(!refusals.pause().is_zero());
        refusals.forget();
        assert!(refusals.pause().is_zero());
        refusals.check(b"one", true).expect("all is forgotten");
    }

    #[test]
    fn an_unclear_pin_counts_as_refused_when_few_tries_are_left() {
        let refusals = Refusals::default();
        let tried = refusals.check(b"one", true).expect("nothing is known");
        refusals.note_unclear(tried);
        std::thread::sleep(UNCLEAR_PAUSE_MIN);
        refusals.check(b"one", false).expect("may be tried");
        for few_tries in [true, false] {
            let refused = refusals.check(b"one", few_tries);
            assert!(
                matches!(refused, Err(HsmError::PinRejected(UNCLEAR))),
                "{refused:?}"
            );
        }
    }
}
