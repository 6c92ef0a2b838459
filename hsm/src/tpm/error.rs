//! What a response code means to us (TPM 2.0 Part 2 §6.6, TSS 2.0 Overview "Response codes").

use std::fmt;

use super::esys::LAYER_TPM;
use crate::{BackingKeyId, HsmError};

/// A call that did not succeed: whose, and with which code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) function: &'static str,
    pub(super) code: u32,
}

/// The layer of codes of the TPM that a resource manager passes on.
const LAYER_RESOURCE_MANAGER_TPM: u32 = 11;
/// The layer of the way to the TPM.
const LAYER_TCTI: u32 = 10;

/// Format-one codes, without the number of the handle, session or parameter they are about.
const HANDLE: u32 = 0x08B;
const AUTH_FAIL: u32 = 0x08E;
const POLICY_FAIL: u32 = 0x09D;
const INTEGRITY: u32 = 0x09F;
const BAD_AUTH: u32 = 0x0A2;
const BINDING: u32 = 0x0A5;

/// Format-zero codes.
const POLICY: u32 = 0x126;
const PCR_CHANGED: u32 = 0x128;
const NV_UNINITIALIZED: u32 = 0x14A;
const NV_SPACE: u32 = 0x14B;
const NV_DEFINED: u32 = 0x14C;
const OBJECT_MEMORY: u32 = 0x902;
const SESSION_MEMORY: u32 = 0x903;
const SESSION_HANDLES: u32 = 0x905;
const OBJECT_HANDLES: u32 = 0x906;
const REFERENCES: std::ops::RangeInclusive<u32> = 0x910..=0x91E;
const NV_RATE: u32 = 0x920;
const LOCKOUT: u32 = 0x921;
const RETRY: u32 = 0x922;
const NV_UNAVAILABLE: u32 = 0x923;
const INITIALIZE: u32 = 0x100;

const FORMAT_ONE: u32 = 0x080;
const OF_A_PARAMETER: u32 = 0x040;

impl Fault {
    /// The TPM's own code, if it is the TPM that spoke.
    fn tpm(self) -> Option<u32> {
        let layer = self.code >> 16;
        (layer == LAYER_TPM || layer == LAYER_RESOURCE_MANAGER_TPM).then_some(self.code & 0xFFFF)
    }

    /// The code without what it is about.
    fn kind(self) -> Option<u32> {
        self.tpm().map(|code| {
            if code & FORMAT_ONE == 0 {
                code
            } else {
                code & 0x0BF
            }
        })
    }

    fn is(self, codes: &[u32]) -> bool {
        self.kind().is_some_and(|kind| codes.contains(&kind))
    }

    /// Whether the way to the TPM is gone, so that nothing more can be said through it.
    pub(super) fn is_transport(self) -> bool {
        self.code >> 16 == LAYER_TCTI
    }

    /// `TPM_RC_OBJECT_MEMORY`, `TPM_RC_SESSION_MEMORY` and their handles: the slots are taken.
    pub(super) fn is_full(self) -> bool {
        self.is(&[
            OBJECT_MEMORY,
            SESSION_MEMORY,
            OBJECT_HANDLES,
            SESSION_HANDLES,
        ])
    }

    /// A handle or session of ours means nothing to the TPM any more: `TPM_RC_REFERENCE_H0` to `S6`.
    fn is_reset(self) -> bool {
        self.tpm().is_some_and(|code| REFERENCES.contains(&code))
    }

    /// An authorisation value was wrong.
    pub(super) fn is_wrong_auth(self) -> bool {
        self.is(&[BAD_AUTH, AUTH_FAIL])
    }

    pub(super) fn is_nv_full(self) -> bool {
        self.is(&[NV_SPACE])
    }

    pub(super) fn is_nv_taken(self) -> bool {
        self.is(&[NV_DEFINED])
    }

    /// The handle that was named means nothing to the TPM.
    pub(super) fn is_absent(self) -> bool {
        self.is(&[HANDLE])
    }

    /// A policy is not met: its counter is gone, unwritten or another one, or the digest is not the key's.
    pub(super) fn is_policy(self) -> bool {
        self.is(&[POLICY, POLICY_FAIL, NV_UNINITIALIZED])
    }

    /// `TPM_RC_PCR_CHANGED`: what a policy session has proven of PCRs holds no more.
    pub(super) fn is_pcr_changed(self) -> bool {
        self.is(&[PCR_CHANGED])
    }

    /// The TPM finds fault with the bytes it was given: a parameter, or their integrity.
    pub(super) fn is_about_data(self) -> bool {
        let parameter = FORMAT_ONE | OF_A_PARAMETER;
        self.tpm().is_some_and(|code| code & parameter == parameter)
            || self.is(&[INTEGRITY, BINDING])
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {:#010x}", self.function, self.code)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for HsmError {
    /// What is left when the caller knows nothing better: absence where the code says so, else the device's.
    fn from(fault: Fault) -> Self {
        let reason = if fault.is_transport() {
            "the TPM cannot be reached"
        } else if fault.is_reset() {
            "the TPM was reset, and nothing of ours is left in it"
        } else if fault.is(&[LOCKOUT]) {
            "the TPM is in dictionary-attack lockout, which is not of our making; it ends by itself or by \
             TPM2_DictionaryAttackLockReset"
        } else if fault.is(&[INITIALIZE]) {
            "the TPM was not started up"
        } else if fault.is_full() {
            "the TPM has no room for another object or session, and what fills it is not ours to flush"
        } else if fault.is(&[NV_RATE, RETRY, NV_UNAVAILABLE]) {
            "the TPM asks to be left alone for a while"
        } else {
            return Self::Device {
                function: fault.function,
                source: fault.into(),
            };
        };
        Self::Unavailable {
            reason: reason.into(),
            source: Some(fault.into()),
        }
    }
}

pub(super) fn unavailable(reason: impl Into<String>) -> HsmError {
    HsmError::Unavailable {
        reason: reason.into(),
        source: None,
    }
}

pub(super) fn unfit(id: &BackingKeyId, reason: impl Into<String>) -> HsmError {
    HsmError::Unfit {
        id: *id,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;
    use crate::HsmError;

    fn fault(code: u32) -> Fault {
        Fault {
            function: "TPM2_Test",
            code,
        }
    }

    #[test]
    fn a_lockout_and_what_passes_by_itself_are_unavailable_in_words() {
        for (code, word) in [
            (0x921, "lockout"),
            (0x000B_0921, "lockout"),
            (0x902, "room"),
            (0x910, "reset"),
            (0x923, "alone"),
            (0x100, "started"),
            (0x000A_000A, "reached"),
        ] {
            match HsmError::from(fault(code)) {
                HsmError::Unavailable { reason, .. } => assert!(reason.contains(word), "{reason}"),
                other => panic!("{code:#x}: {other:?}"),
            }
        }
        assert!(matches!(
            HsmError::from(fault(0x101)),
            HsmError::Device { .. }
        ));
    }

    #[test]
    fn bad_data_is_told_from_a_wrong_authorisation() {
        // TPM_RC_INTEGRITY and TPM_RC_SIZE of parameter 1; TPM_RC_POLICY_FAIL, TPM_RC_BAD_AUTH of session 1.
        assert!(fault(0x1DF).is_about_data() && fault(0x1D5).is_about_data());
        assert!(!fault(0x99D).is_about_data() && fault(0x99D).is_policy());
        assert!(!fault(0x9A2).is_about_data() && fault(0x9A2).is_wrong_auth());
        // What the library or the way to the TPM says is never about data.
        assert!(!fault(0x0007_01DF).is_about_data() && !fault(0x000A_0001).is_about_data());
    }
}
