//! A token behind a PKCS#11 v2.40 to v3.1 module.
//!
//! # What is relied on
//!
//! - `C_Initialize` with `CKF_OS_LOCKING_OK` (PKCS#11 v3.1 §5.4.1), `C_GetSlotList`, `C_GetTokenInfo`, `C_OpenSession`
//!   (§5.6), `C_Login` as `CKU_USER` (§5.6.8), `C_FindObjects` (§5.7), `C_GenerateKey` with `CKM_AES_KEY_GEN` and
//!   `CKM_GENERIC_SECRET_KEY_GEN` (§5.18.1), and what the scheme in use takes (see `scheme`).
//! - A token is named by label and serial, as in a `pkcs11:` URI ([`Pkcs11Config::from_uri`], RFC 7512); slot numbers
//!   change and are never kept.
//!
//! # Absence and return
//!
//! Constructing a [`Pkcs11Token`] touches nothing. Opening a session loads the module, initialises it, finds the
//! token and logs in. Modules keep their list of tokens from `C_Initialize` on, so when the token cannot be had the
//! module is finalised and initialised again, but only while none of our calls is inside it: a call that hangs
//! forbids that until it returns, and sessions are [`HsmError::Unavailable`](crate::HsmError) meanwhile. All sessions
//! of a module, of every token behind it, are stale after that and are dropped without touching the module.
//!
//! `SoftHSM` 2.6.1 with its token directory moved away: using a key answers `CKR_OBJECT_HANDLE_INVALID` at once, but
//! `C_FindObjects` answers "none" with `CKR_OK` and `C_GenerateRandom` goes on. Therefore no absence of a key is
//! believed, and no random bytes are given, before `C_GetTokenInfo` (60 µs) has named the token again. It stays broken
//! after the directory is back until the module is initialised again.
//!
//! # Schemes and safety
//!
//! When the first session of a token is opened after an initialisation, every [`WrapScheme`](crate::WrapScheme) is tried
//! with keys of one session, and so is what the token lets others do with keys that must not leave it. New keys get the
//! first scheme that works, or the one that [`Pkcs11Config::scheme`] names. A key is used by the scheme of its canary
//! for ever. A token that gives away what it must not is [`HsmError::UnsafeToken`] unless
//! [`Pkcs11Config::allow_unsafe`].
//!
//! # The process
//!
//! - Never fork after the first session is opened: modules lose or corrupt their state in the child (§5.4.1), and some
//!   deadlock. Start helper processes before, or by `posix_spawn` with an immediate `exec`.
//! - Nothing is finalised at exit. Shut the handle down, then leave by `_exit` if a worker is left in the module:
//!   global destructors of a module under a running call crash (`SoftHSM` #635, #780).
//! - A module that somebody else in the process has initialised is used as it is, never finalised, and thus cannot
//!   heal from the loss of its token.

mod error;
mod import;
mod init;
mod key;
mod module;
mod opened;
mod pair;
pub(crate) mod pin;
mod probe;
mod raw;
mod report;
mod scheme;
mod session;
mod sign;
mod tool;
mod uri;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::session::SessionState;
use cryptoki::slot::Slot;
use zeroize::Zeroizing;

pub use self::init::init_token;
pub(crate) use self::probe::Abilities;
pub(crate) use self::scheme::Dialect;
pub use self::uri::{Pkcs11Config, TokenSelector};

use self::error::{device, failed, unavailable};
use self::module::Library;
use self::opened::Opened;
use self::pin::Pin;
use self::probe::Subject;
use self::raw::Raw;
use self::session::Pkcs11Session;
use crate::{HsmError, HsmResult, Report, Session, Token, TokenInfo};

/// How long opening a session waits for another thread that logs in.
const LOGIN_WAIT: Duration = Duration::from_secs(1);

/// A token behind a PKCS#11 module.
#[derive(Debug)]
pub struct Pkcs11Token {
    config: Pkcs11Config,
    pin: Pin,
    /// The generation in which the last login failed for no reason that we know, if it did: none is 0.
    doubted: AtomicU64,
    insistence: Insistence,
}

/// A session that is logged in, while it is not known what its token can do.
pub(crate) struct Begun(Opened);

/// Why a session was not opened, by what may help.
enum Setback {
    /// The module may have an old picture of its tokens: initialise it again.
    Module(HsmError),
    /// `C_Login` failed for no reason that we know. The module may have an old picture, too, but is not initialised
    /// again to try the same PIN at once: it may have been a wrong try. The next session is opened with that.
    Login(HsmError),
    /// Nothing of the module's.
    Other(HsmError),
}

impl Setback {
    fn into_error(self) -> HsmError {
        match self {
            Self::Module(error) | Self::Login(error) | Self::Other(error) => error,
        }
    }
}

impl Pkcs11Token {
    /// The token that `config` names. Touches neither the module nor the PIN.
    pub fn new(config: Pkcs11Config) -> Self {
        let pin = Pin::in_file(config.pin_source.clone());
        Self::with_pin(config, pin)
    }

    /// The same, with the PIN from `ask` for each login instead of from its file; `ask` is told whether the token
    /// reports that few tries are left.
    pub(crate) fn with_pin_from(
        config: Pkcs11Config,
        ask: impl Fn(bool) -> HsmResult<Zeroizing<Vec<u8>>> + Send + Sync + 'static,
    ) -> Self {
        Self::with_pin(config, Pin::asked(Box::new(ask)))
    }

    fn with_pin(config: Pkcs11Config, pin: Pin) -> Self {
        Self {
            config,
            pin,
            doubted: AtomicU64::new(0),
            insistence: Insistence::default(),
        }
    }

    /// Opens a session and logs in.
    ///
    /// # Errors
    ///
    /// As [`Token::open_session`].
    pub(crate) fn begin(&self) -> HsmResult<Begun> {
        self.open().map(Begun)
    }

    /// The session for use, with a token that can do this.
    ///
    /// # Errors
    ///
    /// [`HsmError::UnsafeToken`] unless the configuration allows that.
    pub(crate) fn session(
        &self,
        Begun(opened): Begun,
        abilities: Arc<Abilities>,
    ) -> HsmResult<Box<dyn Session>> {
        if !abilities.dangers.is_empty() {
            if !self.config.allow_unsafe {
                return Err(HsmError::UnsafeToken(abilities.dangers.join("; ")));
            }
            self.insistence.warn(&self.config.token, &abilities.dangers);
        }
        let session = Pkcs11Session::new(opened, abilities, self.config.scheme);
        Ok(Box::new(session))
    }

    /// Closes what is left open at the token, for a process that ends: a device with few sessions may keep those of a
    /// process that said nothing (`YubiHSM` has 16). Sessions of ours are to be dropped before.
    pub(crate) fn retire(&self) {
        let library = Library::at(&self.config.module, self.config.init_args.as_deref());
        if let Ok(library) = library {
            library.retire();
        }
    }

    fn open(&self) -> HsmResult<Opened> {
        let library = Library::at(&self.config.module, self.config.init_args.as_deref())?;
        let mut generation = library.initialise()?;
        if self.doubted.swap(0, Ordering::SeqCst) == generation {
            generation = library.reinitialise(generation)?;
        }
        match self.connect(&library, generation) {
            Ok(opened) => Ok(opened),
            Err(Setback::Other(error)) => Err(error),
            Err(Setback::Login(error)) => {
                self.doubted.store(generation, Ordering::SeqCst);
                Err(error)
            }
            Err(Setback::Module(error)) => {
                tracing::info!(event = "hsm.reinitialise", error = %error, "initialising the module again");
                let generation = library.reinitialise(generation)?;
                self.connect(&library, generation)
                    .map_err(Setback::into_error)
            }
        }
    }

    fn connect(&self, library: &Arc<Library>, generation: u64) -> Result<Opened, Setback> {
        let inside = library.enter(generation).map_err(Setback::Other)?;
        let context = inside.context().map_err(Setback::Other)?;
        let raw = inside.raw().map_err(Setback::Other)?;
        let _looking = library.looking().map_err(Setback::Other)?;
        let (slot, serial) = self.find_slot(context, &raw)?;
        let mut opened =
            Opened::new(library, generation, context, slot, serial).map_err(Setback::Module)?;
        self.log_in(library, generation, context, &raw, &opened)?;
        opened.logged_in();
        Ok(opened)
    }

    /// The one slot whose token matches, and that token's serial number.
    fn find_slot(&self, context: &Pkcs11, raw: &Raw) -> Result<(Slot, String), Setback> {
        let slots = context.get_slots_with_token();
        let slots = slots.map_err(|error| Setback::Module(device("C_GetSlotList")(error)))?;
        let mut found = None;
        for slot in slots {
            // A slot that does not describe its token is not ours; if it is, it counts as absent.
            let Ok(token) = raw.token_info(slot) else {
                continue;
            };
            if token.initialized() && self.config.token.matches(&token) {
                if found.is_some() {
                    return Err(Setback::Other(HsmError::Config(format!(
                        "two tokens match {}: name the serial number, too",
                        self.config.token
                    ))));
                }
                found = Some((slot, token.serial));
            }
        }
        found.ok_or_else(|| {
            Setback::Module(unavailable(format!(
                "no token matches {}",
                self.config.token
            )))
        })
    }

    /// Sees that the application is logged in, and that a session stays open for ever to keep it so: login is per
    /// token, and closing the last session ends it (PKCS#11 v3.1 §5.6.2).
    fn log_in(
        &self,
        library: &Library,
        generation: u64,
        context: &Pkcs11,
        raw: &Raw,
        opened: &Opened,
    ) -> Result<(), Setback> {
        let mut anchors = library.anchors(LOGIN_WAIT).map_err(Setback::Other)?;
        let state = opened.raw().map_err(Setback::Other)?.get_session_info();
        let state = state.map_err(|error| Setback::Module(device("C_GetSessionInfo")(error)))?;
        let logged_in = matches!(state.session_state(), SessionState::RwUser);
        if logged_in && anchors.holds(generation, opened.slot()) {
            return Ok(());
        }
        let anchor = context.open_rw_session_no_drop(opened.slot());
        let anchor = anchor.map_err(|error| Setback::Module(device("C_OpenSession")(error)))?;
        if !logged_in {
            library.count_login();
        }
        if !logged_in && let Err(setback) = self.pin.log_in(raw, opened.slot(), &anchor) {
            if let Err(error) = anchor.close() {
                tracing::debug!(event = "hsm.close", error = %error, "closing the anchor session");
            }
            return Err(setback);
        }
        anchors.keep(generation, opened.slot(), anchor);
        Ok(())
    }
}

impl Begun {
    /// What tells this token and the library before it from others.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub(crate) fn identity(&self) -> HsmResult<String> {
        let Self(opened) = self;
        let _inside = opened.enter()?;
        let library = opened.context().get_library_info();
        let library = library.map_err(device("C_GetInfo"))?;
        let token = opened.calls().token_info(opened.slot()).map_err(failed)?;
        let (version, speaks) = (library.library_version(), library.cryptoki_version());
        Ok(format!(
            "{} {}.{} of {} for {}.{}\n{}\n{}\n{} {} {}.{}",
            library.library_description(),
            version.major(),
            version.minor(),
            library.manufacturer_id(),
            speaks.major(),
            speaks.minor(),
            token.label,
            token.serial,
            token.manufacturer,
            token.model,
            token.firmware.0,
            token.firmware.1,
        ))
    }

    /// Tries what the token can do, unless that was done since the module was initialised.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub(crate) fn abilities(&self) -> HsmResult<Arc<Abilities>> {
        abilities(&self.0)
    }
}

/// Says once that an unsafe token is used.
#[derive(Debug, Default)]
pub(crate) struct Insistence(AtomicBool);

impl Insistence {
    pub(crate) fn warn(&self, token: &TokenSelector, dangers: &[String]) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "hsm.unsafe_token",
                token = %token,
                dangers = dangers.join("; "),
                "an unsafe token is used, as its configuration insists",
            );
        }
    }
}

/// What the token can do: remembered, or tried now. Nobody of us makes or looks for objects meanwhile.
fn abilities(opened: &Opened) -> HsmResult<Arc<Abilities>> {
    let (library, generation) = (opened.library(), opened.generation());
    if let Some(abilities) = library.abilities(generation, opened.slot()) {
        return Ok(abilities);
    }
    let _inside = opened.enter()?;
    let _changing = library.changing()?;
    // Another thread may have tried while this one waited.
    if let Some(abilities) = library.abilities(generation, opened.slot()) {
        return Ok(abilities);
    }
    let subject = Subject {
        raw: opened.calls(),
        context: opened.context(),
        slot: opened.slot(),
    };
    let abilities = Arc::new(subject.abilities()?);
    if abilities.conclusive() {
        library.remember(generation, opened.slot(), Arc::clone(&abilities));
    }
    Ok(abilities)
}

impl Token for Pkcs11Token {
    fn open_session(&self) -> HsmResult<Box<dyn Session>> {
        let begun = self.begin()?;
        let abilities = begun.abilities()?;
        self.session(begun, abilities)
    }

    fn info(&self) -> HsmResult<TokenInfo> {
        let opened = self.open()?;
        let _inside = opened.enter()?;
        let _looking = opened.library().looking()?;
        let library = opened
            .context()
            .get_library_info()
            .map_err(device("C_GetInfo"))?;
        let token = opened.calls().token_info(opened.slot()).map_err(failed)?;
        let version = library.library_version();
        Ok(TokenInfo {
            backend: "pkcs11",
            module: format!(
                "{} {}.{} ({}), {}",
                library.library_description(),
                version.major(),
                version.minor(),
                library.manufacturer_id(),
                self.config.module.display(),
            ),
            label: token.label,
            serial: token.serial,
            model: format!("{} {}", token.manufacturer, token.model),
        })
    }

    fn report(&self) -> HsmResult<Report> {
        let opened = self.open()?;
        let abilities = abilities(&opened)?;
        let _inside = opened.enter()?;
        report::report(&opened, &abilities, self.config.scheme)
    }
}
