//! The owner's authorisation value: read for each use, tried once, forgotten.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use super::error::{Fault, unavailable};
use crate::{HsmError, HsmResult};

/// The longest authorisation value of a hierarchy: a SHA-512 digest.
const AUTH_BYTES_MAX: usize = 64;

/// Where the value is, and whether the TPM has refused it.
#[derive(Debug)]
pub(super) struct Owner {
    /// None: the owner hierarchy has an empty authorisation value.
    source: Option<PathBuf>,
    /// Keys the fingerprint below, so that it says nothing about the value outside this process.
    fingerprints: RandomState,
    refused: Mutex<Option<u64>>,
}

impl Owner {
    pub(super) fn new(source: Option<PathBuf>) -> Self {
        Self {
            source,
            fingerprints: RandomState::new(),
            refused: Mutex::default(),
        }
    }

    /// The value to try.
    ///
    /// # Errors
    ///
    /// [`HsmError::PinRejected`] for one that the TPM has refused: it is not tried again until its source holds
    /// another one. The owner's value is not subject to dictionary-attack protection (Part 1 §19.8), but to guess it
    /// is not ours. [`HsmError::Unavailable`] when the source cannot be read.
    pub(super) fn value(&self) -> HsmResult<Zeroizing<Vec<u8>>> {
        let value = self.read()?;
        if *self.refused() == Some(self.fingerprint(&value)) {
            return Err(self.rejected());
        }
        Ok(value)
    }

    /// What came of trying `value`: an answer of the TPM, or that it refused the value.
    pub(super) fn judge<T>(
        &self,
        value: &[u8],
        answer: Result<T, Fault>,
    ) -> HsmResult<Result<T, Fault>> {
        match answer {
            Err(fault) if fault.is_wrong_auth() => {
                *self.refused() = Some(self.fingerprint(value));
                Err(self.rejected())
            }
            answer => Ok(answer),
        }
    }

    fn rejected(&self) -> HsmError {
        HsmError::PinRejected(match self.source {
            Some(_) => "the owner hierarchy has another authorisation value",
            None => "the owner hierarchy has an authorisation value, and none is configured",
        })
    }

    fn fingerprint(&self, value: &[u8]) -> u64 {
        self.fingerprints.hash_one(value)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of the source without the line end that editors leave.
    fn read(&self) -> HsmResult<Zeroizing<Vec<u8>>> {
        let Some(source) = &self.source else {
            return Ok(Zeroizing::default());
        };
        let path = source.display();
        let failed = |error: std::io::Error| HsmError::Unavailable {
            reason: format!("the owner's authorisation value cannot be read from {path}"),
            source: Some(error.into()),
        };
        let file = File::open(source).map_err(failed)?;
        // Room for the longest value, its line end and one byte more: the buffer never moves and leaves no copy.
        let mut value = Zeroizing::new(Vec::with_capacity(AUTH_BYTES_MAX + 3));
        let limit = u64::try_from(AUTH_BYTES_MAX + 3).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut value).map_err(failed)?;
        while matches!(value.last(), Some(b'\n' | b'\r')) {
            value.pop();
        }
        if value.is_empty() || value.len() > AUTH_BYTES_MAX {
            return Err(unavailable(format!(
                "{path} must hold an authorisation value of 1 to {AUTH_BYTES_MAX} bytes"
            )));
        }
        Ok(value)
    }
}
