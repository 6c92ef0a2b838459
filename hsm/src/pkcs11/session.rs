//! A session with a PKCS#11 token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session as RawSession, SessionState};
use cryptoki::slot::Slot;
use zeroize::Zeroizing;

use super::aead::{Aead, IV_BYTES, TAG_BYTES};
use super::error::{device, may_blame_ciphertext, unavailable};
use super::key::{self, unfit};
use super::module::{Inside, Library};
use super::uri::IvOrigin;
use crate::handle::same_bytes;
use crate::{
    BackingKey, BackingKeyId, Canary, HsmError, HsmResult, KeyBlob, SecretBytes, Session,
    WRAP_AAD_BYTES_MAX, WRAP_PLAINTEXT_BYTES_MAX, WrapScheme, Wrapped,
};

/// How long a handle is used before its key is found, judged and its canary opened again. Modules have been seen to
/// renumber handles after a reset (OpenSSL pkcs11-provider #494); this bounds what that could do, for one find, one
/// read of attributes and one decryption a second, session and key (130 µs on `SoftHSM`).
const HANDLE_TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Handles a session remembers. When there are more keys it starts over.
const HANDLES_MAX: usize = 1024;

/// A module session that closes itself, unless the module has been initialised again: its handle may then be that of
/// somebody else's session.
pub(super) struct Opened {
    library: Arc<Library>,
    generation: u64,
    context: Pkcs11,
    aead: Arc<Aead>,
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
        let aead = library.enter(generation)?.aead()?;
        let raw = context
            .open_rw_session_no_drop(slot)
            .map_err(device("C_OpenSession"))?;
        Ok(Self {
            library: Arc::clone(library),
            generation,
            context: context.clone(),
            aead,
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

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    pub(super) fn library(&self) -> &Library {
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
    fn reopen(&mut self) -> HsmResult<()> {
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
    fn see_token(&self) -> HsmResult<()> {
        let session = self.raw()?.get_session_info();
        let session = session.map_err(device("C_GetSessionInfo"))?;
        // Another thread may have logged in again since we looked.
        let then = self.library.logins() == self.logins;
        if !then || session.session_state() != SessionState::RwUser {
            return Err(unavailable("the token has logged us out"));
        }
        match self.context.get_token_info(self.slot) {
            Ok(info) if info.serial_number() != self.serial => {
                Err(unavailable("another token is in the slot"))
            }
            Err(error @ Error::Pkcs11(..)) => Err(HsmError::Unavailable {
                reason: "the token does not answer".into(),
                source: Some(error.into()),
            }),
            // A description that cryptoki cannot read (opencryptoki's utcTime) is an answer, too.
            Ok(_) | Err(_) => Ok(()),
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

/// One worker's session.
pub(super) struct Pkcs11Session {
    opened: Opened,
    iv: IvOrigin,
    handles: HashMap<BackingKeyId, Found>,
}

/// A handle that passed every check.
struct Found {
    handle: ObjectHandle,
    canary: Canary,
    at: Instant,
}

impl Pkcs11Session {
    pub(super) fn new(opened: Opened, iv: IvOrigin) -> Self {
        Self {
            opened,
            iv,
            handles: HashMap::new(),
        }
    }

    /// Runs `work` with the module entered: it is neither finalised meanwhile, nor has it been since we opened.
    fn inside<T>(&mut self, work: impl FnOnce(&mut Self) -> HsmResult<T>) -> HsmResult<T> {
        let library = Arc::clone(&self.opened.library);
        let _inside = library.enter(self.opened.generation)?;
        work(self)
    }

    /// The same, with leave to look for objects.
    fn looking<T>(&mut self, work: impl FnOnce(&mut Self) -> HsmResult<T>) -> HsmResult<T> {
        let library = Arc::clone(&self.opened.library);
        self.inside(|this| {
            let _looking = library.looking()?;
            work(this)
        })
    }

    /// The same, with leave to make and destroy objects.
    fn changing<T>(&mut self, work: impl FnOnce(&mut Self) -> HsmResult<T>) -> HsmResult<T> {
        let library = Arc::clone(&self.opened.library);
        self.inside(|this| {
            let _changing = library.changing()?;
            work(this)
        })
    }

    /// The handle of `key`: remembered, or found, judged and its canary opened.
    fn handle(&mut self, key: &BackingKey) -> HsmResult<ObjectHandle> {
        if let Some(found) = self.handles.get(&key.id)
            && found.canary == key.canary
            && found.at.elapsed() < HANDLE_TRUSTED_FOR
        {
            return Ok(found.handle);
        }
        self.handle_afresh(key)
    }

    fn handle_afresh(&mut self, key: &BackingKey) -> HsmResult<ObjectHandle> {
        self.handles.remove(&key.id);
        let library = Arc::clone(&self.opened.library);
        let _looking = library.looking()?;
        let handle = self.find(&key.id)?;
        self.open_canary(handle, key)?;
        if self.handles.len() >= HANDLES_MAX {
            self.handles.clear();
        }
        self.handles.insert(
            key.id,
            Found {
                handle,
                canary: key.canary.clone(),
                at: Instant::now(),
            },
        );
        Ok(handle)
    }

    /// Finds and judges a key, by its identity alone.
    fn find(&self, id: &BackingKeyId) -> HsmResult<ObjectHandle> {
        let session = self.opened.raw()?;
        let Some(handle) = key::find(session, id)? else {
            self.opened.see_token()?;
            return Err(HsmError::KeyNotFound(*id));
        };
        key::check(session, handle, id)?;
        Ok(handle)
    }

    /// Opens the canary of `key` with `handle`. When that fails, a new canary tells an ill token from another key.
    fn open_canary(&self, handle: ObjectHandle, key: &BackingKey) -> HsmResult<()> {
        let aad = Canary::aad(&key.id);
        let Some((iv, sealed)) = split(&key.canary.0) else {
            return Err(unfit(
                &key.id,
                "its canary is not of a scheme of this token",
            ));
        };
        match self.decrypt(handle, iv, &aad, sealed) {
            Ok(plaintext) if same_bytes(&plaintext, Canary::PLAINTEXT) => Ok(()),
            Ok(_) => Err(unfit(&key.id, "its canary holds something else")),
            Err(error) if may_blame_ciphertext(&error) => {
                self.new_canary(handle, &key.id)?;
                self.opened.see_token()?;
                Err(unfit(
                    &key.id,
                    "its canary does not open: this is another key",
                ))
            }
            Err(error) => Err(device("C_Decrypt")(error)),
        }
    }

    /// Makes a canary with `handle` and opens it.
    fn new_canary(&self, handle: ObjectHandle, id: &BackingKeyId) -> HsmResult<Canary> {
        let aad = Canary::aad(id);
        let wrapped = self.encrypt(handle, &aad, Canary::PLAINTEXT)?;
        let (iv, sealed) = split(&wrapped).ok_or(HsmError::WrapNotReadable)?;
        let opened = self
            .decrypt(handle, iv, &aad, sealed)
            .map_err(device("C_Decrypt"))?;
        if !same_bytes(&opened, Canary::PLAINTEXT) {
            return Err(HsmError::WrapNotReadable);
        }
        Ok(Canary(wrapped))
    }

    fn encrypt(&self, handle: ObjectHandle, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        let mut body = [0; IV_BYTES + WRAP_PLAINTEXT_BYTES_MAX + TAG_BYTES];
        let mut iv = [0; IV_BYTES];
        if self.iv == IvOrigin::System {
            getrandom::fill(&mut iv).map_err(|source| HsmError::Random(source.into()))?;
        }
        let session = self.opened.raw()?;
        let sealed = self
            .opened
            .aead
            .seal(session, handle, &mut iv, aad, plaintext);
        let sealed = sealed.map_err(device("C_Encrypt"))?;
        // A token that was to choose the IV and did not would use the same one for ever, which gives GCM's key away.
        if iv == [0; IV_BYTES] {
            return Err(HsmError::Device {
                function: "C_Encrypt",
                source: "it chose no IV".into(),
            });
        }
        let length = IV_BYTES + sealed.len();
        match body.get_mut(..length) {
            Some(body) if sealed.len() == plaintext.len() + TAG_BYTES => {
                let (iv_part, sealed_part) = body.split_at_mut(IV_BYTES);
                iv_part.copy_from_slice(&iv);
                sealed_part.copy_from_slice(&sealed);
                Ok(Wrapped::new(WrapScheme::AesGcm, body))
            }
            _ => Err(HsmError::Device {
                function: "C_Encrypt",
                source: format!(
                    "{} bytes of ciphertext for {}",
                    sealed.len(),
                    plaintext.len()
                )
                .into(),
            }),
        }
    }

    fn decrypt(
        &self,
        handle: ObjectHandle,
        iv: &[u8; IV_BYTES],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        // A closed session has no name for its error in cryptoki; the module would answer a handle of 0 so.
        let Ok(session) = self.opened.raw() else {
            return Err(Error::InvalidValue);
        };
        let plaintext = self.opened.aead.open(session, handle, iv, aad, sealed)?;
        // GCM's plaintext is as long as its ciphertext: a module that says otherwise is wrong about either.
        if plaintext.len() + TAG_BYTES != sealed.len() {
            return Err(Error::InvalidValue);
        }
        Ok(plaintext)
    }

    /// `C_Decrypt` has failed with a code that may mean anything. In a fresh session, with the key found afresh: when
    /// the canary does not open, that error is the token's; when it does, the ciphertext gets a second try, since the
    /// code may have been a hiccup, and then the blame.
    fn judge(
        &mut self,
        key: &BackingKey,
        iv: &[u8; IV_BYTES],
        aad: &[u8],
        sealed: &[u8],
    ) -> HsmResult<Zeroizing<Vec<u8>>> {
        self.handles.clear();
        self.opened.reopen()?;
        let handle = self.handle_afresh(key)?;
        let again = self.decrypt(handle, iv, aad, sealed);
        again.or_else(|error| {
            if !may_blame_ciphertext(&error) {
                return Err(device("C_Decrypt")(error));
            }
            // The operation that failed may still be active in this session.
            self.handles.clear();
            self.opened.reopen()?;
            Err(HsmError::Unauthentic)
        })
    }
}

impl Session for Pkcs11Session {
    fn generate_key(&mut self, id: &BackingKeyId, label: &str) -> HsmResult<KeyBlob> {
        self.changing(|this| {
            let session = this.opened.raw()?;
            if !key::find_all(session, id)?.is_empty() {
                return Err(HsmError::KeyExists(*id));
            }
            this.opened.see_token()?;
            let made = session.generate_key(&Mechanism::AesKeyGen, &key::template(id, label));
            made.map(|_handle| KeyBlob::EMPTY)
                .map_err(device("C_GenerateKey"))
        })
    }

    fn make_canary(&mut self, id: &BackingKeyId, _blob: &KeyBlob) -> HsmResult<Canary> {
        self.looking(|this| {
            let handle = this.find(id)?;
            this.new_canary(handle, id)
        })
    }

    fn contains(&mut self, id: &BackingKeyId) -> HsmResult<bool> {
        self.looking(|this| {
            let there = !key::find_all(this.opened.raw()?, id)?.is_empty();
            if !there {
                this.opened.see_token()?;
            }
            Ok(there)
        })
    }

    fn probe(&mut self, key: &BackingKey) -> HsmResult<()> {
        self.inside(|this| this.handle_afresh(key).map(|_handle| ()))
    }

    fn wrap(&mut self, key: &BackingKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        within("plaintext", plaintext, WRAP_PLAINTEXT_BYTES_MAX)?;
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        self.inside(|this| {
            let handle = this.handle(key)?;
            this.encrypt(handle, aad, plaintext)
        })
    }

    fn unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<SecretBytes> {
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        let (iv, sealed) = split(wrapped).ok_or(HsmError::Unauthentic)?;
        self.inside(|this| {
            let handle = this.handle(key)?;
            let plaintext = match this.decrypt(handle, iv, aad, sealed) {
                Ok(plaintext) => plaintext,
                Err(error) if may_blame_ciphertext(&error) => this.judge(key, iv, aad, sealed)?,
                Err(error) => return Err(device("C_Decrypt")(error)),
            };
            // Copied to its exact length, so that boxing it does not move it and leave a copy.
            SecretBytes::new(plaintext.to_vec())
        })
    }

    fn destroy_key(&mut self, id: &BackingKeyId) -> HsmResult<()> {
        self.changing(|this| {
            this.handles.remove(id);
            let session = this.opened.raw()?;
            if let Some(handle) = key::find(session, id)? {
                session
                    .destroy_object(handle)
                    .map_err(device("C_DestroyObject"))?;
            }
            if key::find(session, id)?.is_some() {
                let source = "the key is still there".into();
                return Err(HsmError::Device {
                    function: "C_DestroyObject",
                    source,
                });
            }
            this.opened.see_token()
        })
    }

    fn list_keys(&mut self) -> HsmResult<Vec<BackingKeyId>> {
        self.looking(|this| {
            let ids = key::list(this.opened.raw()?)?;
            this.opened.see_token()?;
            Ok(ids)
        })
    }

    fn random(&mut self, out: &mut [u8]) -> HsmResult<()> {
        self.looking(|this| {
            this.opened.see_token()?;
            this.opened
                .raw()?
                .generate_random_slice(out)
                .map_err(device("C_GenerateRandom"))
        })
    }
}

/// IV, and ciphertext ‖ tag, of a wrapped value that could be ours.
fn split(wrapped: &Wrapped) -> Option<(&[u8; IV_BYTES], &[u8])> {
    match wrapped.scheme()? {
        WrapScheme::AesGcm => {
            let (iv, sealed) = wrapped.body().split_first_chunk()?;
            let plausible = TAG_BYTES..=WRAP_PLAINTEXT_BYTES_MAX + TAG_BYTES;
            plausible.contains(&sealed.len()).then_some((iv, sealed))
        }
        _ => None,
    }
}

fn within(what: &'static str, bytes: &[u8], max: usize) -> HsmResult<()> {
    if bytes.len() > max {
        return Err(HsmError::TooLong {
            what,
            bytes: bytes.len(),
        });
    }
    Ok(())
}
