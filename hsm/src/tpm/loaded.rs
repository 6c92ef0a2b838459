//! Using keys: loading them, opening their canaries, and sealing and opening under them.

use super::connection::Connection;
use super::error::{Fault, unfit};
use super::esys::{CONTINUE, DECRYPT, ENCRYPT, Tr};
use super::key::Recorded;
use super::nv;
use super::proof::Refusal;
use super::seal;
use crate::{BackingKey, BackingKeyId, Canary, HsmError, HsmResult, KeyBlob, SecretBytes, Wrapped};

/// A storage key in the TPM.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) recorded: Recorded,
    blob: KeyBlob,
    /// The canary that it has opened.
    canary: Option<Canary>,
    object: Tr,
    /// Its counter, as the library calls it.
    pub(super) counter: Option<Tr>,
}

impl Connection {
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

    pub(super) fn last(&self) -> HsmResult<&Loaded> {
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

    pub(super) fn drop_oldest(&mut self) -> Result<(), Fault> {
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
}
