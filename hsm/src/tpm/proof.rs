//! Proving a key's policy before each use of it.

use super::connection::Connection;
use super::error::Fault;
use super::esys::{Esys, Tr};
use super::pcr::{self, PcrPolicy, Signed};
use super::policy::{POLICY_REF, PcrBinding};
use crate::{BackingKeyId, HsmError};

impl Connection {
    /// Uses the last of the keys as a parent, in the session that its policy wants and with that session's
    /// `attributes`.
    pub(super) fn authorised<T>(
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
            // Between the proof and the use, which is a matter of milliseconds. It need not be a PCR of this key.
            Err(Refusal::Use(fault)) if fault.is_pcr_changed() => once(self),
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
}

/// Why a key was not used: what did not go well.
pub(super) enum Refusal {
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
            let what = if list.contains(' ') {
                format!("one of the PCRs {list}")
            } else {
                format!("PCR {list}")
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
    pub(super) fn of(self, id: &BackingKeyId) -> HsmError {
        match self {
            Self::Counter(fault) if fault.is_policy() || fault.is_absent() => {
                HsmError::KeyNotFound(*id)
            }
            Self::Use(fault) if fault.is_policy() => HsmError::KeyNotFound(*id),
            Self::Use(fault) if fault.is_pcr_changed() => HsmError::KeyUnavailable {
                id: *id,
                reason: "PCRs change while it is used".into(),
            },
            Self::Counter(fault) | Self::Use(fault) => fault.into(),
            Self::Pcrs(reason) => HsmError::KeyUnavailable { id: *id, reason },
        }
    }
}
