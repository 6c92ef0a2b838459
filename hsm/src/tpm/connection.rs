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
use super::error::{Fault, unavailable, unfit};
use super::esys::{CONTINUE, DECRYPT, ENCRYPT, Esys, Kind, OWNER, PASSWORD, Tr};
use super::key::{Recorded, primary_template, template};
use super::nv;
use super::owner::Owner;
use super::pcr::{self, PcrPolicy, RecoveryKey, Signed};
use super::policy::{Counter, POLICY_REF, PcrBinding, key_policy};
use super::seal;
use super::wire::{Digest, Name, sha256};
use crate::{BackingKey, BackingKeyId, Canary, HsmError, HsmResult, KeyBlob, SecretBytes, Wrapped};

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
    primary: Tr,
    primary_name: Name,
    recovery: Recovery,
    /// AES key length of the primary and of what is made under it.
    bits: u16,
    /// The HMAC session.
    pub(super) hmac: Tr,
    policy: Tr,
    /// Whether the policy session has something in its digest.
    policy_begun: bool,
    /// The keys that are loaded, the one used last at the end.
    keys: Vec<Loaded>,
    keys_max: usize,
}

/// The way out for keys whose PCRs are not what they were.
#[derive(Debug)]
struct Recovery {
    key: Option<RecoveryKey>,
    policy: Option<PathBuf>,
}

/// A storage key in the TPM.
#[derive(Debug)]
struct Loaded {
    recorded: Recorded,
    blob: KeyBlob,
    /// The canary that it has opened.
    canary: Option<Canary>,
    object: Tr,
    /// Its counter, as the library calls it.
    counter: Option<Tr>,
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
        let mut esys = Esys::open(tcti)?;
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

    /// Whether the TPM answers, and still knows our session: one that was reset does not, and then nothing is left of
    /// what we had in it.
    pub(super) fn ping(&mut self) -> Result<(), Fault> {
        self.policy_begun = false;
        self.esys.policy_restart(self.policy)
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
                return Err(unavailable(
                    "the TPM has no NV space left for a counter, and require_nv refuses keys without one",
                ));
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

    /// Makes the canary of a key, and opens it.
    pub(super) fn make_canary(&mut self, id: &BackingKeyId, blob: &KeyBlob) -> HsmResult<Canary> {
        self.load(id, blob)?;
        let canary = Canary(self.seal_with_last(&Canary::aad(id), Canary::PLAINTEXT)?);
        self.prove_last(&canary)?;
        Ok(canary)
    }

    /// Loads a key afresh and opens its canary.
    pub(super) fn probe(&mut self, key: &BackingKey) -> HsmResult<()> {
        self.drop_key(&key.id)?;
        self.ready(key)
    }

    pub(super) fn wrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        plaintext: &[u8],
    ) -> HsmResult<Wrapped> {
        self.ready(key)?;
        self.seal_with_last(aad, plaintext)
    }

    pub(super) fn unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<SecretBytes> {
        // The key first: one that is absent or unfit is that, whatever it is shown.
        self.ready(key)?;
        self.open_with_last(aad, wrapped)
    }

    /// Undefines the counter of a key and flushes the key.
    pub(super) fn destroy(&mut self, id: &BackingKeyId) -> HsmResult<()> {
        self.drop_key(id)?;
        if self.undefine_counters(id)? == 0 {
            tracing::debug!(event = "tpm.nothing_to_destroy", key = %id, "the key has no counter");
        }
        Ok(())
    }

    /// Sees that `key` is loaded, that it has opened this very canary, and that it is the last of the keys.
    fn ready(&mut self, key: &BackingKey) -> HsmResult<()> {
        let known = self
            .keys
            .iter()
            .position(|loaded| loaded.recorded.id == key.id);
        if let Some(index) = known {
            let loaded = self.keys.remove(index);
            let same = loaded.blob == key.blob && loaded.canary.as_ref() == Some(&key.canary);
            self.keys.push(loaded);
            if same {
                return Ok(());
            }
        }
        self.load(&key.id, &key.blob)?;
        let proven = self.prove_last(&key.canary);
        if proven.is_err() {
            self.drop_key(&key.id)?;
        }
        proven
    }

    /// Loads the key that `blob` records, as the last of the keys.
    fn load(&mut self, id: &BackingKeyId, blob: &KeyBlob) -> HsmResult<()> {
        self.drop_key(id)?;
        let recorded = Recorded::read(id, blob, &self.primary_name)?;
        let counter = match &recorded.counter {
            Some(counter) => {
                self.drop_keys_of(counter.index)?;
                Some(self.find_counter(id, counter.index)?)
            }
            None => None,
        };
        let object = self.load_recorded(&recorded);
        if object.is_err()
            && let Some(counter) = counter
        {
            self.esys.forget(counter)?;
        }
        self.keys.push(Loaded {
            recorded,
            blob: blob.clone(),
            canary: None,
            object: object?,
            counter,
        });
        Ok(())
    }

    fn load_recorded(&mut self, recorded: &Recorded) -> HsmResult<Tr> {
        while self.keys.len() >= self.keys_max {
            self.drop_oldest()?;
        }
        let loaded = self.roomy(|this| {
            this.esys.attributes(this.hmac, CONTINUE)?;
            this.esys
                .load(this.primary, this.hmac, &recorded.public, &recorded.private)
        });
        loaded.map_err(|fault| {
            if fault.is_about_data() {
                unfit(&recorded.id, "the TPM refuses its blob, which is damaged")
            } else {
                fault.into()
            }
        })
    }

    /// The counter at `index`, if it is that of `id` and was not defined anew with other attributes.
    fn find_counter(&mut self, id: &BackingKeyId, index: u32) -> HsmResult<Tr> {
        if !(nv::FIRST..=nv::LAST).contains(&index) {
            return Err(unfit(id, "its counter is none of our NV indices"));
        }
        let known = match self.esys.adopt(index) {
            Ok(known) => known,
            Err(fault) if fault.is_absent() => return Err(HsmError::KeyNotFound(*id)),
            Err(fault) => return Err(fault.into()),
        };
        if self.esys.name(known)? != Some(nv::counter_name(index, id)) {
            self.esys.forget(known)?;
            return Err(HsmError::KeyNotFound(*id));
        }
        Ok(known)
    }

    /// Opens `canary` with the last of the keys.
    fn prove_last(&mut self, canary: &Canary) -> HsmResult<()> {
        let id = self.last()?.recorded.id;
        match self.open_with_last(&Canary::aad(&id), &canary.0) {
            Ok(plaintext) if plaintext.expose() == Canary::PLAINTEXT => {}
            Ok(_) | Err(HsmError::Unauthentic) => {
                return Err(unfit(&id, "its canary does not open"));
            }
            Err(error) => return Err(error),
        }
        if let Some(last) = self.keys.last_mut() {
            last.canary = Some(canary.clone());
        }
        Ok(())
    }

    /// `TPM2_Create` of a sealed object under the last of the keys.
    fn seal_with_last(&mut self, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        let content = seal::content(aad, plaintext);
        let (parent, id) = (self.last()?.object, self.last()?.recorded.id);
        let sealed = self.authorised(CONTINUE | DECRYPT, |esys, session| {
            esys.create(parent, session, &content, &seal::public(&[]))
        });
        let (public, private) = sealed.map_err(|refusal| refusal.of(&id))?;
        let wrapped = seal::wrapped(&public, &private);
        // What could not be read back must not be acknowledged, if only for an area that is longer than any known.
        if seal::areas(&wrapped).is_none() || wrapped.as_bytes().len() > Wrapped::BYTES_MAX {
            return Err(HsmError::WrapNotReadable);
        }
        Ok(wrapped)
    }

    /// `TPM2_Load` under the last of the keys, `TPM2_Unseal`, `TPM2_FlushContext`.
    fn open_with_last(&mut self, aad: &[u8], wrapped: &Wrapped) -> HsmResult<SecretBytes> {
        let (public, private) = seal::areas(wrapped).ok_or(HsmError::Unauthentic)?;
        let (parent, id) = (self.last()?.object, self.last()?.recorded.id);
        let loaded = self.authorised(CONTINUE, |esys, session| {
            esys.load(parent, session, public, private)
        });
        let object = loaded.map_err(|refusal| match refusal {
            Refusal::Use(fault) if fault.is_about_data() => HsmError::Unauthentic,
            refusal => refusal.of(&id),
        })?;
        let unsealed = self
            .esys
            .attributes(self.hmac, CONTINUE | ENCRYPT)
            .and_then(|()| self.esys.unseal(object, self.hmac));
        self.esys.flush(object)?;
        seal::plaintext(aad, &unsealed?)
    }

    /// Uses the last of the keys as a parent, in the session that its policy wants and with that session's
    /// `attributes`.
    fn authorised<T>(
        &mut self,
        attributes: u8,
        work: impl Fn(&mut Esys, Tr) -> Result<T, Fault>,
    ) -> Result<T, Refusal> {
        let once = |this: &mut Self| {
            let session = this.prove_policy()?;
            let worked = this
                .esys
                .attributes(session, attributes)
                .and_then(|()| work(&mut this.esys, session));
            if worked.is_ok() {
                this.policy_begun = false;
            }
            worked.map_err(Refusal::Use)
        };
        match once(self) {
            Err(refusal) if refusal.is_full() => {
                self.make_room().map_err(Refusal::Use)?;
                once(self)
            }
            other => other,
        }
    }

    /// Brings the policy session to the digest of the last of the keys. Gives the session that authorises its use.
    fn prove_policy(&mut self) -> Result<Tr, Refusal> {
        let Some(last) = self.keys.last() else {
            return Ok(self.hmac);
        };
        let (pcrs, counter) = (last.recorded.pcrs, last.counter.zip(last.recorded.counter));
        if pcrs.is_none() && counter.is_none() {
            return Ok(self.hmac);
        }
        if std::mem::replace(&mut self.policy_begun, true) {
            self.esys
                .policy_restart(self.policy)
                .map_err(Refusal::Use)?;
        }
        if let Some(pcrs) = pcrs {
            self.prove_pcrs(&pcrs)?;
        }
        if let Some((index, counter)) = counter {
            self.esys
                .policy_nv(index, self.policy, &counter.value.to_be_bytes())
                .map_err(Refusal::Counter)?;
        }
        Ok(self.policy)
    }

    /// The PCRs are what they were, or what a policy allows that the recovery key has signed.
    fn prove_pcrs(&mut self, pcrs: &PcrBinding) -> Result<(), Refusal> {
        match self
            .esys
            .policy_pcr(self.policy, pcrs.selection, &pcrs.values)
        {
            Ok(()) => {}
            Err(fault) if fault.is_about_data() => self.recover(pcrs)?,
            Err(fault) => return Err(Refusal::Use(fault)),
        }
        self.esys
            .policy_or(self.policy, &pcrs.branches())
            .map_err(Refusal::Use)
    }

    fn recover(&mut self, pcrs: &PcrBinding) -> Result<(), Refusal> {
        let changed = Refusal::pcrs(pcrs.selection);
        let Some(path) = &self.recovery.policy else {
            return Err(changed("and no recovery policy is configured"));
        };
        let key = self.recovery.key.as_ref();
        let Some(key) = key.filter(|key| key.name == pcrs.recovery) else {
            return Err(changed(
                "and the recovery key is not the one that the key was made with",
            ));
        };
        let signed = Signed::read(path).map_err(|error| changed(&format!("and {error}")))?;
        let PcrPolicy { selection, values } = signed.policy;
        match self.esys.policy_pcr(self.policy, selection, &values) {
            Ok(()) => {}
            Err(fault) if fault.is_about_data() => {
                return Err(changed("nor what the recovery policy allows"));
            }
            Err(fault) => return Err(Refusal::Use(fault)),
        }
        let (policy, digest) = (self.policy, signed.policy.digest());
        let authorized =
            self.esys
                .policy_authorize(policy, &digest, POLICY_REF, key, &signed.signature);
        match authorized {
            Err(fault) if fault.is_about_data() => Err(changed(
                "and the recovery policy is not signed by the recovery key",
            )),
            other => other.map_err(Refusal::Use),
        }
    }

    fn last(&self) -> HsmResult<&Loaded> {
        self.keys.last().ok_or_else(|| HsmError::Device {
            function: "TPM2_Load",
            source: "no key is loaded".into(),
        })
    }

    fn drop_key(&mut self, id: &BackingKeyId) -> Result<(), Fault> {
        match self
            .keys
            .iter()
            .position(|loaded| loaded.recorded.id == *id)
        {
            Some(index) => self.drop_at(index),
            None => Ok(()),
        }
    }

    /// What the library calls the counter at `index` by, if it knows it: it has one name for an index, however often
    /// it is asked for one, and forgets it at the first word.
    pub(super) fn counter_in_use(&self, index: u32) -> Option<Tr> {
        let counter_of = |loaded: &Loaded| Some(loaded.recorded.counter.as_ref()?.index);
        let user = self
            .keys
            .iter()
            .find(|loaded| counter_of(loaded) == Some(index));
        user?.counter
    }

    /// Drops every key whose counter is, or was, at `index`.
    pub(super) fn drop_keys_of(&mut self, index: u32) -> Result<(), Fault> {
        while let Some(at) = self.keys.iter().position(|loaded| {
            let counter = loaded.recorded.counter.as_ref();
            counter.is_some_and(|counter| counter.index == index)
        }) {
            self.drop_at(at)?;
        }
        Ok(())
    }

    fn drop_oldest(&mut self) -> Result<(), Fault> {
        self.drop_at(0)
    }

    fn drop_at(&mut self, index: usize) -> Result<(), Fault> {
        let Loaded {
            object, counter, ..
        } = self.keys.remove(index);
        if let Some(counter) = counter {
            self.esys.forget(counter)?;
        }
        self.esys.flush(object)
    }

    fn roomy<T>(&mut self, work: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
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
    fn make_room(&mut self) -> Result<(), Fault> {
        self.keys_max = self.keys.len().saturating_sub(1).max(1);
        while self.keys.len() > 1 {
            self.drop_oldest()?;
        }
        flush_strangers(&mut self.esys)
    }
}

/// Why a key was not used: what did not go well.
enum Refusal {
    /// `TPM2_PolicyNV` of its counter.
    Counter(Fault),
    /// Its use, or the way to it.
    Use(Fault),
    /// Its PCRs: why, in words.
    Pcrs(String),
}

impl Refusal {
    fn pcrs(selection: u32) -> impl Fn(&str) -> Self {
        let list = pcr::list(selection);
        move |why| {
            let what = match list.contains(' ') {
                true => format!("one of the PCRs {list}"),
                false => format!("PCR {list}"),
            };
            Self::Pcrs(format!(
                "{what} is not what it was when the key was made, {why}"
            ))
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::Counter(fault) | Self::Use(fault) => fault.is_full(),
            Self::Pcrs(_) => false,
        }
    }

    /// A key whose counter is not what it was is gone for good: it counts as absent.
    fn of(self, id: &BackingKeyId) -> HsmError {
        match self {
            Self::Counter(fault) if fault.is_policy() || fault.is_absent() => {
                HsmError::KeyNotFound(*id)
            }
            Self::Use(fault) if fault.is_policy() => HsmError::KeyNotFound(*id),
            Self::Counter(fault) | Self::Use(fault) => fault.into(),
            Self::Pcrs(why) => unavailable(why),
        }
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
