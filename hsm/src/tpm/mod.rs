//! A TPM 2.0.
//!
//! # What is relied on
//!
//! TPM 2.0 Library, Parts 1 to 3, revision 1.38 or later: `TPM2_CreatePrimary`, `TPM2_Create`, `TPM2_Load`,
//! `TPM2_Unseal`, `TPM2_FlushContext`, `TPM2_StartAuthSession`, `TPM2_PolicyNV`, `TPM2_PolicyRestart`,
//! `TPM2_NV_DefineSpace`, `TPM2_NV_Increment`, `TPM2_NV_Read`, `TPM2_NV_ReadPublic`, `TPM2_NV_UndefineSpace`,
//! `TPM2_GetCapability`, `TPM2_TestParms`, `TPM2_ReadPublic`, `TPM2_GetRandom`; for keys that are bound to PCRs
//! `TPM2_PCR_Read`, `TPM2_PolicyPCR`, `TPM2_PolicyOR`, `TPM2_PolicyAuthorize`, `TPM2_LoadExternal`,
//! `TPM2_VerifySignature`; ECC NIST P-256, SHA-256, AES in CFB. The library is tpm2-tss 3.2 or later. It writes what it
//! thinks of every answer that is not success to standard error, unless `TSS2_LOG` is `all+NONE` in the environment.
//!
//! # Keys
//!
//! A backing key is a storage key: restricted, decrypt, fixedTPM, fixedParent, its secrets made in the TPM. Its parent
//! is a primary of the owner hierarchy, which is made anew, and always the same, for each conversation. Nothing of a
//! key but its counter stays in the TPM: its areas are the [`KeyBlob`](crate::KeyBlob), the private one encrypted by
//! the primary. To wrap is to seal an object under it; to unwrap is to load that object and unseal it. A digest of the
//! AAD is sealed with the plaintext. The only bytes of a key hierarchy that ever leave the TPM in the clear are those
//! that were sealed.
//!
//! # Destruction
//!
//! What keeps a blob from being loaded again is not in the blob. Each key has an NV counter, and its policy wants that
//! counter to stand where it stood when the key was made (`TPM2_PolicyNV`). The key has no authorisation value that
//! would do instead (userWithAuth is clear). Destroying a key undefines the counter. After that
//!
//! - no copy of blob and wrapped values opens again. The owner's authorisation does not bring the counter back: one that
//!   is defined anew starts above every count of the past (Part 3 "`TPM2_NV_Increment`");
//! - so a restored backup of the disk brings no destroyed key back.
//!
//! It does not hold
//!
//! - for a key that was made when the TPM had no NV space left, which a warning says (`tpm.no_counter`). It has no
//!   policy; [`Session::contains`] and [`Session::list_keys`] do not know it, and an old copy of its record still
//!   opens after [`Session::destroy_key`]. [`TpmConfig::require_nv`] refuses to make such keys;
//! - against whoever copied data keys out of the memory of a process;
//! - against whoever used the TPM before and kept a sealed object of the key that was loaded: one that was saved
//!   (`TPM2_ContextSave`) opens until the TPM is next reset, and one that was made persistent with the owner's
//!   authorisation, which may be empty (`TPM2_EvictControl`), opens for as long as it stays in the TPM. Each holds one
//!   data key;
//! - the other way round: whoever has the owner's authorisation can destroy every key, and `TPM2_Clear` does.
//!
//! # PCRs
//!
//! With [`TpmConfig::pcrs`] a new key is bound to the values that these PCRs have when it is made, on top of its
//! counter: each use proves both anew. When they are not what they were, the key is [`HsmError::KeyUnavailable`], in
//! words, until they are again, or until a [`PcrPolicy`] for the new values is there that the recovery key has signed
//! (`TPM2_PolicyOR` of `TPM2_PolicyPCR` and `TPM2_PolicyAuthorize`); keys that were made since are used as ever. The
//! recovery key is part of the key's policy: a later change of the configuration changes neither PCRs nor recovery key
//! of keys that there are. A signed policy holds for ever, for every key that was made with that recovery key: to take
//! one back is to destroy the keys.
//!
//! # The way to the TPM
//!
//! Data keys travel in parameters that are encrypted with AES in CFB, in sessions that are salted with the primary
//! (Part 1 §19.6, §21). Who listens on the bus learns nothing; who stands in it and is not the TPM learns the salt only
//! if we take its primary for the TPM's. Therefore the name of the primary is pinned, which is the digest of its public
//! area with its public key in it:
//!
//! - each blob has the name of the primary that its key was made under. Under another one the key is
//!   [`HsmError::KeyNotFound`], and nothing is sealed or unsealed. So a false TPM is shown no data key of a backing key
//!   that was made with the right one. That is all: it makes new backing keys like any other, the next versions of
//!   keys that there are among them, and what is wrapped by those it can read;
//! - [`TpmConfig::primary_name`] pins it from the first moment on, for new keys as well, and also against an exchange
//!   of the blobs: the TPM as a whole is then [`HsmError::UnsafeToken`]. Without it a warning names what to pin when
//!   the first key is made (`tpm.not_pinned`), and so does [`Token::report`].
//!
//! The owner's authorisation value goes into an HMAC and is never sent. That of `TPM2_CreatePrimary` is
//! computed in a session without salt, for there is no key yet to salt it with: who records it can try values
//! against it, so the value should be random and long.
//!
//! # Lockout
//!
//! Every object and index of ours is exempt from dictionary-attack protection, and the one value that is ever tried is
//! the owner's, which has none: we cause no lockout. One that others have caused is reported in words where it hurts.
//!
//! # One conversation
//!
//! A [`TpmToken`] has one conversation with its TPM, which all its sessions share and take turns in: a TPM does one
//! thing at a time. Its handle needs one worker ([`TpmToken::WORKERS`]). Without a resource manager there must be one
//! token for each TPM in all the machine. Any error that is not about the caller's key or data ends the conversation,
//! and the next call begins another: so a TPM that went away and returns is found.
//!
//! A TPM that does not answer keeps the worker that asked it, and so all others: the library waits without limit. The
//! kernel gives up on the TPM behind its device by itself. swtpm, whose host may vanish without a word, is reached by
//! a TCTI of our own, in which each answer has [`TpmToken::ANSWER_WAIT`]; then the conversation is over
//! ([`HsmError::Unavailable`]) and the next begins. Without limit remain `tpm2-abrmd`, should it hang itself, and
//! `mssim`: a worker that waits for those is free again when they are ended.

mod config;
mod connection;
mod error;
mod esys;
mod key;
mod loaded;
mod nv;
mod owner;
mod pcr;
mod policy;
mod proof;
mod report;
mod seal;
mod session;
mod wire;

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub use self::config::TpmConfig;
pub use self::pcr::PcrPolicy;

use self::config::Settings;
use self::connection::Connection;
use self::error::unavailable;
use self::owner::Owner;
use self::session::TpmSession;
use crate::{HsmError, HsmResult, Report, Session, Token, TokenInfo};

/// How long a call waits for the one before it. A TPM that makes a key takes seconds.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// A TPM 2.0 with its keys.
#[derive(Debug)]
pub struct TpmToken {
    shared: Arc<Shared>,
}

/// What all sessions of a token share.
#[derive(Debug)]
struct Shared {
    tcti: CString,
    settings: Settings,
    owner: Arc<Owner>,
    seat: Mutex<Seat>,
    freed: Condvar,
    /// Whether it was said that keys are made under a primary that is not pinned.
    warned: AtomicBool,
}

/// Where the conversation is.
#[derive(Debug)]
enum Seat {
    Free(Option<Box<Connection>>),
    Taken,
}

impl TpmToken {
    /// Workers that a handle on this token needs: more would only wait for each other.
    pub const WORKERS: usize = 1;

    /// How long swtpm may take for one answer. A TPM that makes a key on a curve takes seconds.
    pub const ANSWER_WAIT: Duration = Duration::from_secs(30);

    /// The TPM that `config` names. Touches neither the TPM nor the owner's authorisation value.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] for what can never work.
    pub fn new(config: &TpmConfig) -> HsmResult<Self> {
        Self::with_answer_wait(config, Self::ANSWER_WAIT)
    }

    /// As [`TpmToken::new`], with another limit than [`TpmToken::ANSWER_WAIT`].
    ///
    /// # Errors
    ///
    /// As [`TpmToken::new`]; zero is no limit.
    pub fn with_answer_wait(config: &TpmConfig, answer_wait: Duration) -> HsmResult<Self> {
        if answer_wait.is_zero() {
            return Err(HsmError::Config(
                "TPM: the wait for an answer must not be zero".into(),
            ));
        }
        let settings = Settings {
            answer_wait,
            ..config.settings()?
        };
        Ok(Self {
            shared: Arc::new(Shared {
                tcti: config.tcti()?,
                settings,
                owner: Arc::new(Owner::new(config.owner_auth.clone())),
                seat: Mutex::new(Seat::Free(None)),
                freed: Condvar::new(),
                warned: AtomicBool::new(false),
            }),
        })
    }
}

impl TpmToken {
    /// The digest of the values that these PCRs of the SHA-256 bank have now, for a [`PcrPolicy`]. Blocks.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] for PCRs that the TPM does not have; and as [`Token::open_session`].
    pub fn pcr_values(&self, pcrs: &[u8]) -> HsmResult<[u8; 32]> {
        let selection = pcr::selection(pcrs)?;
        self.shared
            .with(|connection| connection.pcr_values(selection))
    }
}

impl Token for TpmToken {
    fn open_session(&self) -> HsmResult<Box<dyn Session>> {
        self.shared.wake()?;
        Ok(Box::new(TpmSession::new(Arc::clone(&self.shared))))
    }

    fn info(&self) -> HsmResult<TokenInfo> {
        // What is told is of the TPM that is there now, not of the one that the conversation was begun with.
        self.shared.wake()?;
        let tcti = self.shared.tcti.to_string_lossy();
        self.shared
            .with(|connection| report::info(connection, &tcti))
    }

    fn report(&self) -> HsmResult<Report> {
        let settings = &self.shared.settings;
        let awake = self.shared.wake();
        awake
            .and_then(|()| {
                self.shared
                    .with(|connection| report::report(connection, settings))
            })
            .or_else(report::of_unsafe)
    }
}

impl Shared {
    /// Sees that there is a conversation, and that it is with the TPM that is there.
    fn wake(&self) -> HsmResult<()> {
        let ping = || self.with(|connection| Ok(connection.ping()?));
        // A conversation that died while nobody spoke is no sign that the next one will.
        match ping() {
            Err(HsmError::Unavailable { .. } | HsmError::Device { .. }) => ping(),
            answer => answer,
        }
    }

    /// Does `work` in the conversation, which is begun if there is none, and ended by an error that may be its own.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> HsmResult<T>) -> HsmResult<T> {
        let mut turn = self.turn()?;
        let connection = match &mut turn.connection {
            Some(connection) => connection,
            none => none.insert(Box::new(Connection::open(
                &self.tcti,
                &self.owner,
                &self.settings,
            )?)),
        };
        let answer = work(connection);
        let of_the_caller = match &answer {
            Ok(_) | Err(HsmError::Unfit { .. } | HsmError::PinRejected(_)) => true,
            Err(error) => !error.spoils_session(),
        };
        turn.keep = of_the_caller;
        answer
    }

    /// Says, once for each token, that keys are made under a primary that is not pinned.
    fn warn_if_not_pinned(&self, connection: &Connection) {
        if self.settings.primary_name.is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "tpm.not_pinned",
                primary_name = connection.primary_name().to_hex(),
                "a key is made under a primary that is not pinned: a TPM in this one's place would be given the next \
                 ones; to pin it, set primary_name in the configuration"
            );
        }
    }

    /// Waits for the conversation to be free.
    fn turn(&self) -> HsmResult<Turn<'_>> {
        let seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut seat, _timeout) = self
            .freed
            .wait_timeout_while(seat, TURN_WAIT, |seat| matches!(seat, Seat::Taken))
            .unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *seat, Seat::Taken) {
            Seat::Free(connection) => Ok(Turn {
                shared: self,
                connection,
                keep: false,
            }),
            Seat::Taken => Err(unavailable("the TPM is still busy with an earlier call")),
        }
    }
}

/// The conversation, for one call. Given back when it is to be kept, and ended otherwise: after a panic, too.
struct Turn<'a> {
    shared: &'a Shared,
    connection: Option<Box<Connection>>,
    keep: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut connection = self.connection.take();
        if !self.keep {
            // Flushes what is loaded, which the next conversation may need the room for.
            connection = None;
        }
        let mut seat = self
            .shared
            .seat
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *seat = Seat::Free(connection);
        self.shared.freed.notify_one();
    }
}
