//! A session of the module, and when it may be used.

use std::sync::Arc;

use cryptoki::context::Pkcs11;
use cryptoki::session::{Session as RawSession, SessionState};
use cryptoki::slot::Slot;

use super::error::{device, unavailable};
use super::module::{Inside, Library};
use super::raw::Raw;
use crate::{HsmError, HsmResult};

/// A module session that closes itself, unless the module has been initialised again: its handle may then be that of
/// somebody else's session.
pub(super) struct Opened {
    library: Arc<Library>,
    generation: u64,
    context: Pkcs11,
    calls: Arc<Raw>,
    slot: Slot,
    serial: String,
    raw: Option<RawSession>,
    /// The count of logins when this session was seen to be logged in.
    logins: u64,
}

impl Opened {
    /// Opens a read-write session on `slot`, which holds the token with this serial number.
    ///
    /// # Errors
    ///
    /// What `C_OpenSession` says.
    pub(super) fn new(
        library: &Arc<Library>,
        generation: u64,
        context: &Pkcs11,
        slot: Slot,
        serial: String,
    ) -> HsmResult<Self> {
        let calls = library.enter(generation)?.raw()?;
        let raw = context
            .open_rw_session_no_drop(slot)
            .map_err(device("C_OpenSession"))?;
        Ok(Self {
            library: Arc::clone(library),
            generation,
            context: context.clone(),
            calls,
            slot,
            serial,
            raw: Some(raw),
            logins: library.logins(),
        })
    }

    /// To be called when the application is logged in.
    pub(super) fn logged_in(&mut self) {
        self.logins = self.library.logins();
    }

    /// Enters the module for the length of a call.
    pub(super) fn enter(&self) -> HsmResult<Inside<'_>> {
        self.library.enter(self.generation)
    }

    /// The calls that `cryptoki` does not make.
    pub(super) fn calls(&self) -> &Raw {
        &self.calls
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    pub(super) fn library(&self) -> &Arc<Library> {
        &self.library
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// The session itself.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when re-opening it has failed.
    pub(super) fn raw(&self) -> HsmResult<&RawSession> {
        self.raw
            .as_ref()
            .ok_or_else(|| unavailable("the session is closed"))
    }

    /// Closes the session and opens another on the same token, which stays logged in by its anchor session.
    pub(super) fn reopen(&mut self) -> HsmResult<()> {
        self.close();
        let raw = self.context.open_rw_session_no_drop(self.slot);
        self.raw = Some(raw.map_err(device("C_OpenSession"))?);
        Ok(())
    }

    fn close(&mut self) {
        if let Some(raw) = self.raw.take()
            && let Err(error) = raw.close()
        {
            tracing::debug!(event = "hsm.close", error = %error, "closing a session");
        }
    }

    /// Sees that the slot still holds the token, and that we are logged in to it: to others it shows no private object
    /// (PKCS#11 v3.1 §5.7.9), and says so by "none" with `CKR_OK`.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when it does not, when we are not, or when nobody can say.
    pub(super) fn see_token(&self) -> HsmResult<()> {
        let session = self.raw()?.get_session_info();
        let session = session.map_err(device("C_GetSessionInfo"))?;
        // Another thread may have logged in again since we looked.
        let then = self.library.logins() == self.logins;
        if !then || session.session_state() != SessionState::RwUser {
            return Err(unavailable("the token has logged us out"));
        }
        match self.calls.token_info(self.slot) {
            Ok(token) if token.serial == self.serial => Ok(()),
            Ok(_) => Err(unavailable("another token is in the slot")),
            Err(failed) => Err(HsmError::Unavailable {
                reason: "the token does not answer".into(),
                source: Some(failed.into()),
            }),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let library = Arc::clone(&self.library);
        if let Ok(_inside) = library.enter(self.generation) {
            self.close();
        }
    }
}
