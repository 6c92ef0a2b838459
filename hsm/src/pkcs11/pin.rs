//! The PIN: read for each login, tried once, forgotten.
//!
//! It comes from a file, or, in a worker process, from the process that started it, which reads the file and remembers
//! what was refused: that must outlive the worker.

use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use super::Setback;
use super::error::{device, unavailable};
use crate::{HsmError, HsmResult};

/// The longest PIN that is read.
pub(crate) const PIN_BYTES_MAX: usize = 255;

/// The one refusal that is ours and not the token's: the PIN was not tried, and may be later, unchanged.
pub(crate) const FINAL_TRY: &str =
    "the next wrong PIN would lock the token; log in elsewhere first";

/// Every reason for which [`HsmError::PinRejected`] is given.
pub(crate) const REASONS: &[&str] = &[
    FINAL_TRY,
    "it is wrong",
    "it is locked",
    "it has expired",
    "its length is out of range",
    "it has invalid characters",
];

/// What asks for a PIN: answers with its bytes.
type Ask = Box<dyn Fn() -> HsmResult<Zeroizing<Vec<u8>>> + Send + Sync>;

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
    /// A PIN that was refused is not tried again until its source holds another one, and none is tried when the next
    /// wrong one would lock the token: we never lock a token.
    pub(super) fn log_in(
        &self,
        context: &Pkcs11,
        slot: Slot,
        session: &Session,
    ) -> Result<(), Setback> {
        let pin = match &self.source {
            Source::File(file) => file.read(),
            Source::Asked(ask) => ask(),
        };
        let pin = pin.map_err(Setback::Other)?;
        let tried = self.refusals.check(&pin).map_err(Setback::Other)?;
        if context
            .get_token_info(slot)
            .is_ok_and(|info| info.user_pin_final_try())
        {
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
            Err(error) => return Err(Setback::Module(device("C_Login")(error))),
        };
        self.refusals.remember(tried, reason);
        Err(Setback::Other(HsmError::PinRejected(reason)))
    }
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

/// The memory of the PIN that the token has refused.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Keys the fingerprint below, so that it says nothing about the PIN outside this process.
    fingerprints: RandomState,
    refused: Mutex<Option<Refused>>,
}

/// Tells two PINs apart, in this process and for this source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

#[derive(Debug, Clone, Copy)]
struct Refused {
    fingerprint: Fingerprint,
    reason: &'static str,
}

impl Refusals {
    /// Leave to try this PIN.
    ///
    /// # Errors
    ///
    /// [`HsmError::PinRejected`] for the one that was refused last.
    pub(crate) fn check(&self, pin: &[u8]) -> HsmResult<Fingerprint> {
        let fingerprint = Fingerprint(self.fingerprints.hash_one(pin));
        match *self.refused() {
            Some(refused) if refused.fingerprint == fingerprint => {
                Err(HsmError::PinRejected(refused.reason))
            }
            _ => Ok(fingerprint),
        }
    }

    /// The PIN was tried, and refused.
    pub(crate) fn remember(&self, fingerprint: Fingerprint, reason: &'static str) {
        *self.refused() = Some(Refused {
            fingerprint,
            reason,
        });
    }

    /// A PIN was accepted.
    pub(crate) fn forget(&self) {
        *self.refused() = None;
    }

    fn refused(&self) -> MutexGuard<'_, Option<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
