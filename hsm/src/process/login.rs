//! The PIN on the parent's side: read for each login, one login at a time, and the memory of what was tried, which
//! outlives the workers.
//!
//! A worker that dies, hangs, or answers with an error of the device after it was given the PIN leaves it unclear whether
//! that was a wrong try. The rules for that, and for what is refused, are those of [`pin`](crate::pkcs11::pin).

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::message::Answer;
use crate::pkcs11::pin::{FINAL_TRY, Fingerprint, PinFile, Refusals};
use crate::{HsmError, HsmResult};

#[derive(Debug)]
pub(super) struct Login {
    file: PinFile,
    refusals: Refusals,
    under_way: Mutex<bool>,
    free: Condvar,
}

/// A login that a worker is in. While it is, no other begins: workers that log in at once would each try a wrong PIN,
/// and together lock the token.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    login: &'a Login,
    /// The PIN that was given to the worker, until it is known what came of it.
    tried: Option<Fingerprint>,
}

impl Login {
    pub(super) fn new(file: PinFile) -> Self {
        Self {
            file,
            refusals: Refusals::default(),
            under_way: Mutex::new(false),
            free: Condvar::new(),
        }
    }

    /// How long no login is tried, for the outcome of the last one is unclear.
    pub(super) fn pause(&self) -> Duration {
        self.refusals.pause()
    }

    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when another login is under way for all of `patience`.
    pub(super) fn begin(&self, patience: Duration) -> HsmResult<UnderWay<'_>> {
        let give_up = Instant::now() + patience;
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while *under_way {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HsmError::Unavailable {
                    reason: "another login to the token is under way".into(),
                    source: None,
                });
            }
            let waited = self.free.wait_timeout(under_way, left);
            under_way = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *under_way = true;
        Ok(UnderWay {
            login: self,
            tried: None,
        })
    }
}

impl UnderWay<'_> {
    /// The PIN to try. `few_tries`: the token reports that few are left.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when there is none, and during the pause after an unclear outcome;
    /// [`HsmError::PinRejected`] for one that the token has refused, or may have.
    pub(super) fn pin(&mut self, few_tries: bool) -> HsmResult<Zeroizing<Vec<u8>>> {
        // Asked twice, the worker has initialised its module again since: the first try came to nothing.
        self.tried = None;
        let pin = self.login.file.read()?;
        self.tried = Some(self.login.refusals.check(&pin, few_tries)?);
        Ok(pin)
    }

    /// How it ended.
    pub(super) fn end(mut self, answer: &Answer) {
        match (answer, self.tried.take()) {
            // What was not tried is not refused.
            (Answer::Failed(HsmError::PinRejected(reason)), Some(tried))
                if *reason != FINAL_TRY =>
            {
                self.login.refusals.remember(tried, reason);
            }
            (Answer::Failed(HsmError::PinRejected(_) | HsmError::Unavailable { .. }), _)
            | (Answer::Failed(_), None) => {}
            (Answer::Failed(_), Some(tried)) => self.login.refusals.note_unclear(tried),
            _ => self.login.refusals.forget(),
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(tried) = self.tried {
            self.login.refusals.note_unclear(tried);
        }
        let mut under_way = self.login.under_way.lock();
        *under_way.as_deref_mut().unwrap_or(&mut false) = false;
        drop(under_way);
        self.login.free.notify_one();
    }
}
