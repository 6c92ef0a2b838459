//! The conversation with one TPM: its primary, its two sessions, and the keys that are loaded.
//!
//! # What is in the TPM
//!
//! A TPM need have room for three objects and three sessions (`TPM_PT_HR_TRANSIENT_MIN`, `TPM_PT_HR_LOADED_MIN`). Ours
//! are the primary, the storage keys that were used last, and for a moment a sealed object; and two sessions, both
//! salted with the primary and kept for as long as the conversation lasts, since to set one up costs more than to
//! use it:
//!
//! - an HMAC session, which authorises what has an authorisation value, and encrypts parameters;
//! - a policy session, which authorises the use of a key that has a policy, and encrypts parameters as well. Using it
//!   puts its digest back to the start (Part 1 §19.7), so that the policy is proven anew for each use.
//!
//! When the TPM has no room, keys that are not in use are flushed, then what is in the TPM and not ours, and the call
//! is made once more. Through a resource manager nothing is seen that is not ours. Without one we are the only user
//! of the TPM, and it is what a process that was killed has left.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;

use super::config::Settings;
use super::error::Fault;
use super::esys::{CONTINUE, DECRYPT, ENCRYPT, Esys, Kind, OWNER, PASSWORD, Tr};
use super::key::{Recorded, primary_template, template};
use super::loaded::Loaded;
use super::owner::Owner;
use super::pcr::{self, RecoveryKey};
use super::policy::{Counter, PcrBinding, key_policy};
use super::wire::{Digest, Name, sha256};
use crate::{BackingKeyId, HsmError, HsmResult, KeyBlob};

/// The most storage keys that stay loaded, where the TPM has room for them.
const KEYS_MAX: usize = 4;

/// The first handle of loaded sessions, of either kind, and of transient objects (Part 2 §7.2, Part 3
/// "`TPM2_GetCapability`").
const SESSIONS_FIRST: u32 = 0x0200_0000;
const OBJECTS_FIRST: u32 = 0x8000_0000;
/// More than any TPM has loaded at once.
const LOADED_MAX: u32 = 64;

/// A conversation.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) esys: Esys,
    owner: Arc<Owner>,
    pub(super) primary: Tr,
    pub(super) primary_name: Name,
    pub(super) recovery: Recovery,
    /// AES key length of the primary and of what is made under it.
    bits: u16,
    /// The HMAC session.
    pub(super) hmac: Tr,
    pub(super) policy: Tr,
    /// Whether the policy session has something in its digest.
    pub(super) policy_begun: bool,
    /// The keys that are loaded, the one used last at the end.
    pub(super) keys: Vec<Loaded>,
    pub(super) keys_max: usize,
}

/// The way out for keys whose PCRs are not what they were.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) key: Option<RecoveryKey>,
    pub(super) policy: Option<PathBuf>,
}

impl Connection {
    /// Opens the way to the TPM, makes the primary and starts the sessions.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`]; [`HsmError::PinRejected`] when the owner's authorisation value is wrong;
    /// [`HsmError::UnsafeToken`] when the primary is not the one that is pinned.
    pub(super) fn open(tcti: &CString, owner: &Arc<Owner>, settings: &Settings) -> HsmResult<Self> {
        let recovery = Recovery {
            key: settings
                .recovery_key
                .as_deref()
                .map(RecoveryKey::read)
                .transpose()?,
            policy: settings.recovery_policy.clone(),
        };
        let mut esys = Esys::open(tcti, settings.answer_wait)?;
        let bits = match settings.aes_bits {
            Some(bits) => bits,
            None if esys.takes(&primary_template(256))? => 256,
            None => 128,
        };
        let (primary, public) = create_primary(&mut esys, owner, bits)?;
        // The library has verified that this is the name that the TPM goes by.
        let primary_name = Name::of(&public);
        if let Some(pinned) = settings
            .primary_name
            .filter(|pinned| *pinned != primary_name)
        {
            return Err(HsmError::UnsafeToken(format!(
                "its primary is {}, not {} as pinned: another TPM, a cleared owner hierarchy, or something that \
                 stands between",
                primary_name.to_hex(),
                pinned.to_hex()
            )));
        }
        let hmac = roomy(&mut esys, |esys| {
            esys.start_session(Kind::Hmac, Some(primary), bits)
        })?;
        let policy = roomy(&mut esys, |esys| {
            esys.start_session(Kind::Policy, Some(primary), bits)
        })?;
        Ok(Self {
            esys,
            owner: Arc::clone(owner),
            primary,
            primary_name,
            recovery,
            bits,
            hmac,
            policy,
            policy_begun: false,
            keys: Vec::new(),
            keys_max: KEYS_MAX,
        })
    }

    pub(super) fn primary_name(&self) -> Name {
        self.primary_name
    }

    pub(super) fn bits(&self) -> u16 {
        self.bits
    }

    /// Does something that wants the owner's authorisation.
    pub(super) fn as_owner<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> HsmResult<Result<T, Fault>> {
        let owner = Arc::clone(&self.owner);
        let value = owner.value()?;
        self.esys.set_auth(OWNER, &value)?;
        let answer = work(self);
        self.esys.set_auth(OWNER, &[])?;
        owner.judge(&value, answer)
    }

    /// Whether the TPM answers, and still knows our session and our primary: one that was reset knows neither, and one
    /// whose owner hierarchy was cleared has no primary of ours any more.
    pub(super) fn ping(&mut self) -> Result<(), Fault> {
        self.policy_begun = false;
        self.esys.policy_restart(self.policy)?;
        self.esys.read_public(self.primary)
    }

    /// How many objects and sessions the TPM has loaded, as far as we are shown.
    pub(super) fn loaded(&mut self) -> Result<(usize, usize), Fault> {
        let (objects, _more) = self.esys.handles(OBJECTS_FIRST, LOADED_MAX)?;
        let (sessions, _more) = self.esys.handles(SESSIONS_FIRST, LOADED_MAX)?;
        Ok((objects.len(), sessions.len()))
    }

    /// Random bytes of the TPM's, encrypted on their way.
    pub(super) fn random(&mut self, out: &mut [u8]) -> HsmResult<()> {
        self.esys.attributes(self.hmac, CONTINUE | ENCRYPT)?;
        let mut rest = out;
        while !rest.is_empty() {
            let bytes = self.esys.random(self.hmac, rest.len())?;
            let (filled, later) = rest
                .split_at_mut_checked(bytes.len())
                .filter(|(filled, _)| !filled.is_empty())
                .ok_or_else(|| HsmError::Device {
                    function: "Esys_GetRandom",
                    source: "not as many bytes as were asked for".into(),
                })?;
            filled.copy_from_slice(&bytes);
            rest = later;
        }
        Ok(())
    }

    /// Makes a storage key, with a counter if the TPM has room for one.
    pub(super) fn generate(
        &mut self,
        id: &BackingKeyId,
        settings: &Settings,
    ) -> HsmResult<KeyBlob> {
        if self.counters()?.iter().any(|(_, whose)| whose == id) {
            return Err(HsmError::KeyExists(*id));
        }
        let pcrs = self.bind_to_pcrs(settings.pcrs)?;
        let counter = self.define_counter(id)?;
        if counter.is_none() {
            if settings.require_nv {
                // Said of the key to be made: those that there are are used as ever.
                return Err(HsmError::KeyUnavailable {
                    id: *id,
                    reason: "the TPM has no NV space left for its counter, and require_nv refuses keys without one"
                        .into(),
                });
            }
            tracing::warn!(event = "tpm.no_counter", key = %id,
                "the TPM has no NV space left: the key is made without a counter, and its destruction will not \
                 defeat an old copy of its record");
        }
        let made = self.make(id, counter, pcrs);
        if made.is_err() && counter.is_some() {
            // Best effort: a counter that stays is found and reported by whoever lists the keys.
            if let Err(error) = self.undefine_counters(id) {
                tracing::warn!(event = "tpm.counter_left", key = %id, error = %error,
                    "a key could not be made, and its counter could not be undefined");
            }
        }
        made
    }

    /// The binding of a new key to the PCRs as they are.
    fn bind_to_pcrs(&mut self, selection: u32) -> HsmResult<Option<PcrBinding>> {
        let Some(key) = self.recovery.key.as_ref().filter(|_| selection != 0) else {
            return Ok(None);
        };
        let recovery = key.name;
        let values = self.pcr_values(selection)?;
        Ok(Some(PcrBinding {
            selection,
            values,
            recovery,
        }))
    }

    /// The digest of the values that these PCRs have.
    pub(super) fn pcr_values(&mut self, selection: u32) -> HsmResult<Digest> {
        let mut values = Vec::new();
        for pcr in pcr::selected(selection) {
            let value = self
                .esys
                .pcr(pcr)?
                .ok_or_else(|| HsmError::Config(format!("TPM: PCR {pcr} has no SHA-256 value")))?;
            values.extend_from_slice(&value);
        }
        Ok(sha256(&[&values]))
    }

    fn make(
        &mut self,
        id: &BackingKeyId,
        counter: Option<Counter>,
        pcrs: Option<PcrBinding>,
    ) -> HsmResult<KeyBlob> {
        let policy = key_policy(id, counter.as_ref(), pcrs.as_ref());
        let wanted = template(self.bits, policy.as_ref());
        let made = self.roomy(|this| {
            this.esys
                .attributes(this.hmac, CONTINUE | DECRYPT | ENCRYPT)?;
            this.esys.create(this.primary, this.hmac, &[], &wanted)
        });
        let (public, private) = made?;
        let recorded = Recorded {
            id: *id,
            primary: self.primary_name,
            counter,
            pcrs,
            public,
            private,
        };
        recorded.check()?;
        recorded.to_blob()
    }

    pub(super) fn roomy<T>(
        &mut self,
        work: impl Fn(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match work(self) {
            Err(fault) if fault.is_full() => {
                while !self.keys.is_empty() {
                    self.drop_oldest()?;
                }
                self.make_room()?;
                work(self)
            }
            other => other,
        }
    }

    /// Flushes every key but the last, and what is not ours. Fewer keys stay loaded from now on.
    pub(super) fn make_room(&mut self) -> Result<(), Fault> {
        self.keys_max = self.keys.len().saturating_sub(1).max(1);
        while self.keys.len() > 1 {
            self.drop_oldest()?;
        }
        flush_strangers(&mut self.esys)
    }
}

/// Makes the primary. There is nothing yet that a session could be salted with: a value that is not empty goes into
/// an HMAC, and is not sent.
fn create_primary(esys: &mut Esys, owner: &Owner, bits: u16) -> HsmResult<(Tr, Vec<u8>)> {
    let value = owner.value()?;
    let template = primary_template(bits);
    let session = if value.is_empty() {
        PASSWORD
    } else {
        roomy(esys, |esys| esys.start_session(Kind::Hmac, None, bits))?
    };
    esys.set_auth(OWNER, &value)?;
    let made = roomy(esys, |esys| esys.create_primary(session, &template));
    esys.set_auth(OWNER, &[])?;
    if session != PASSWORD {
        esys.flush(session)?;
    }
    Ok(owner.judge(&value, made)??)
}

/// Does `work`, and once more when the TPM had no room and what is not ours was flushed.
fn roomy<T>(esys: &mut Esys, work: impl Fn(&mut Esys) -> Result<T, Fault>) -> Result<T, Fault> {
    match work(esys) {
        Err(fault) if fault.is_full() => {
            flush_strangers(esys)?;
            work(esys)
        }
        other => other,
    }
}

/// Flushes what the TPM has loaded and is not ours.
fn flush_strangers(esys: &mut Esys) -> Result<(), Fault> {
    let ours = esys.loaded()?;
    for first in [OBJECTS_FIRST, SESSIONS_FIRST] {
        let (loaded, _more) = esys.handles(first, LOADED_MAX)?;
        for handle in loaded {
            if !ours.contains(&handle) {
                tracing::info!(
                    event = "tpm.flush_stranger",
                    handle = format!("{handle:#010x}"),
                    "the TPM is full: flushing what is not ours"
                );
                let stranger = esys.adopt(handle)?;
                esys.flush(stranger)?;
            }
        }
    }
    Ok(())
}
