//! Policy digests, computed here as the TPM computes them (TPM 2.0 Part 3 §23).

use super::esys::NvPublic;
use super::wire::{Digest, Name, SHA256_ID, put_sized, sha256};
use crate::BackingKeyId;

/// `TPM_EO_EQ`.
pub(super) const EO_EQ: u16 = 0x0000;

const CC_POLICY_NV: u32 = 0x0000_0149;
const CC_POLICY_AUTHORIZE: u32 = 0x0000_016A;
const CC_POLICY_OR: u32 = 0x0000_0171;
const CC_POLICY_PCR: u32 = 0x0000_017F;

/// The counter whose value a key's policy wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) index: u32,
    pub(super) value: u64,
}

/// The PCR values that a key wants, and who may put others in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PcrBinding {
    /// Bit n: PCR n of the SHA-256 bank.
    pub(super) selection: u32,
    /// Digest of the values of the selected PCRs, in ascending order.
    pub(super) values: Digest,
    /// The name of the recovery key.
    pub(super) recovery: Name,
}

impl PcrBinding {
    /// What `TPM2_PolicyOR` takes: the PCRs as they were, or a policy that the recovery key has signed.
    pub(super) fn branches(&self) -> [Digest; 2] {
        [
            with_pcrs(&START, self.selection, &self.values),
            authorized_by(&self.recovery),
        ]
    }
}

/// The digest of every policy session at its start.
pub(super) const START: Digest = [0; 32];

/// What a recovery key signs a policy for (`policyRef`, Part 3 "`TPM2_PolicyAuthorize`"): it signs for nobody else.
pub(super) const POLICY_REF: &[u8] = b"strongroom pcr recovery v1";

/// The policy of a key: the PCRs stand as they stood or as its recovery key allows, and then its counter stands where
/// it stood when the key was made.
pub(super) fn key_policy(
    id: &BackingKeyId,
    counter: Option<&Counter>,
    pcrs: Option<&PcrBinding>,
) -> Option<Digest> {
    let pcrs = pcrs.map(|pcrs| {
        let [as_they_were, as_allowed] = pcrs.branches();
        sha256(&[
            &START,
            &CC_POLICY_OR.to_be_bytes(),
            &as_they_were,
            &as_allowed,
        ])
    });
    match counter {
        Some(counter) => Some(with_counter(&pcrs.unwrap_or(START), id, counter)),
        None => pcrs,
    }
}

/// `TPM2_PolicyPCR` on top of `before`.
pub(super) fn with_pcrs(before: &Digest, selection: u32, values: &Digest) -> Digest {
    // TPML_PCR_SELECTION: one bank, three bytes of bits, the lowest PCR in the lowest bit of the first.
    let [first, second, third, _] = selection.to_le_bytes();
    let bits = [3, first, second, third];
    sha256(&[
        before,
        &CC_POLICY_PCR.to_be_bytes(),
        &1_u32.to_be_bytes(),
        &SHA256_ID.to_be_bytes(),
        &bits,
        values,
    ])
}

/// `TPM2_PolicyAuthorize` by the key of this name, whatever it has signed.
fn authorized_by(key: &Name) -> Digest {
    let key = sha256(&[&START, &CC_POLICY_AUTHORIZE.to_be_bytes(), key.as_bytes()]);
    sha256(&[&key, POLICY_REF])
}

/// `TPM2_PolicyNV` on top of `before`: arguments are the operand, its offset and the comparison.
fn with_counter(before: &Digest, id: &BackingKeyId, counter: &Counter) -> Digest {
    let arguments = sha256(&[
        &counter.value.to_be_bytes(),
        &0_u16.to_be_bytes(),
        &EO_EQ.to_be_bytes(),
    ]);
    let name = index_name(&super::nv::written(counter.index, id));
    sha256(&[
        before,
        &CC_POLICY_NV.to_be_bytes(),
        &arguments,
        name.as_bytes(),
    ])
}

/// The name of an NV index: the digest of its `TPMS_NV_PUBLIC`.
pub(super) fn index_name(public: &NvPublic) -> Name {
    let mut area = Vec::with_capacity(48);
    area.extend_from_slice(&public.index.to_be_bytes());
    area.extend_from_slice(&SHA256_ID.to_be_bytes());
    area.extend_from_slice(&public.attributes.to_be_bytes());
    put_sized(&mut area, &public.policy);
    area.extend_from_slice(&public.bytes.to_be_bytes());
    Name::of(&area)
}
