//! The PIN: read for each login, tried once, forgotten.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

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
const PIN_BYTES_MAX: usize = 255;

/// Where the PIN is, and whether the token has refused it.
#[derive(Debug)]
pub(super) struct Pin {
    source: PathBuf,
    /// Keys the fingerprint below, so that it says nothing about the PIN outside this process.
    fingerprints: RandomState,
    refused: Mutex<Option<Refused>>,
}

#[derive(Debug, Clone, Copy)]
struct Refused {
    fingerprint: u64,
    reason: &'static str,
}

impl Pin {
    pub(super) fn new(source: PathBuf) -> Self {
        Self {
            source,
            fingerprints: RandomState::new(),
            refused: Mutex::default(),
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
        let pin = self.read().map_err(Setback::Other)?;
        let fingerprint = self.fingerprints.hash_one(pin.as_slice());
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = refused.filter(|refused| refused.fingerprint == fingerprint) {
            return Err(Setback::Other(HsmError::PinRejected(refused.reason)));
        }
        if context
            .get_token_info(slot)
            .is_ok_and(|info| info.user_pin_final_try())
        {
            return Err(Setback::Other(HsmError::PinRejected(
                "the next wrong PIN would lock the token; log in elsewhere first",
            )));
        }
        // RawAuthPin zeroes its copy, too.
        let answer =
            session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.to_vec())));
        let reason = match answer {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
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
        *refused = Some(Refused {
            fingerprint,
            reason,
        });
        Err(Setback::Other(HsmError::PinRejected(reason)))
    }

    /// The content of the source without the line end that editors leave.
    fn read(&self) -> HsmResult<Zeroizing<Vec<u8>>> {
        let failed = |source: std::io::Error| HsmError::Unavailable {
            reason: format!("the PIN cannot be read from {}", self.source.display()),
            source: Some(source.into()),
        };
        let file = File::open(&self.source).map_err(failed)?;
        // Room for the longest PIN, its line end and one byte more: the buffer never moves and leaves no copy.
        let mut pin = Zeroizing::new(Vec::with_capacity(PIN_BYTES_MAX + 3));
        let limit = u64::try_from(PIN_BYTES_MAX + 3).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut pin).map_err(failed)?;
        while matches!(pin.last(), Some(b'\n' | b'\r')) {
            pin.pop();
        }
        if pin.is_empty() || pin.len() > PIN_BYTES_MAX {
            let path = self.source.display();
            return Err(unavailable(format!(
                "{path} must hold a PIN of 1 to {PIN_BYTES_MAX} bytes"
            )));
        }
        Ok(pin)
    }
}
