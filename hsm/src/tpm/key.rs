//! Storage keys: how they are made, recorded and judged.
//!
//! # What a [`KeyBlob`] of a TPM holds
//!
//! ```text
//! 1   format version, 1
//! 32  identity of the backing key
//! 34  name of the primary that it was made under
//! 1   flags: 1 = it has a counter, 2 = it is bound to PCRs
//!     with a counter:   4  NV index   8  its value
//!     bound to PCRs:    4  bit n: PCR n   32  digest of their values   34  name of the recovery key
//! 2+n public area (TPMT_PUBLIC)
//! 2+n private area (TPM2B_PRIVATE), encrypted by the primary
//! ```
//!
//! Numbers are big-endian. Nothing may follow.

use super::error::unfit;
use super::policy::{Counter, PcrBinding, key_policy};
use super::wire::{Digest, Name, Reader, SHA256_ID, put_sized};
use crate::{BackingKeyId, HsmError, HsmResult, KeyBlob};

const FORMAT: u8 = 1;
const HAS_COUNTER: u8 = 1;
const HAS_PCRS: u8 = 2;

/// The most bytes of each area that are read back. An ECC storage key has about 90 and 190.
const AREA_BYTES_MAX: usize = 512;

/// Algorithms (TCG Algorithm Registry).
pub(super) const AES: u16 = 0x0006;
pub(super) const CFB: u16 = 0x0043;
const ECC: u16 = 0x0023;
const NO_ALGORITHM: u16 = 0x0010;
const NIST_P256: u16 = 0x0003;
const COORDINATE_BYTES: usize = 32;

/// Object attributes (`TPMA_OBJECT`, Part 2 §8.3).
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
pub(super) const USER_WITH_AUTH: u32 = 1 << 6;
const ADMIN_WITH_POLICY: u32 = 1 << 7;
pub(super) const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
pub(super) const BOUND: u32 = FIXED_TPM | FIXED_PARENT;
const STORAGE: u32 = BOUND | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT | NO_DA;

/// Attributes that a storage key must have or must not have, by the names of the standard.
const ATTRIBUTE_NAMES: [(u32, &str); 9] = [
    (FIXED_TPM, "fixedTPM"),
    (FIXED_PARENT, "fixedParent"),
    (SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
    (RESTRICTED, "restricted"),
    (DECRYPT, "decrypt"),
    (USER_WITH_AUTH, "userWithAuth"),
    (ADMIN_WITH_POLICY, "adminWithPolicy"),
    (NO_DA, "noDA"),
    (1 << 18, "sign"),
];

/// The public area of an ECC P-256 storage key whose children are encrypted with AES of `bits` in CFB.
fn storage(bits: u16, attributes: u32, policy: &[u8], unique: [&[u8]; 2]) -> Vec<u8> {
    let mut area = Vec::with_capacity(160);
    for number in [ECC, SHA256_ID] {
        area.extend_from_slice(&number.to_be_bytes());
    }
    area.extend_from_slice(&attributes.to_be_bytes());
    put_sized(&mut area, policy);
    // symmetric, scheme, curve, kdf
    for number in [AES, bits, CFB, NO_ALGORITHM, NIST_P256, NO_ALGORITHM] {
        area.extend_from_slice(&number.to_be_bytes());
    }
    for coordinate in unique {
        put_sized(&mut area, coordinate);
    }
    area
}

/// The template of the primary. What it makes is the same key for as long as the owner hierarchy has its seed; the
/// words in it make it another key than that of any other program.
pub(super) fn primary_template(bits: u16) -> Vec<u8> {
    let words = *b"strongroom storage primary v1\0\0\0";
    let attributes = STORAGE | USER_WITH_AUTH;
    storage(bits, attributes, &[], [&words, &[0; COORDINATE_BYTES]])
}

/// The template of a backing key. Without a policy its empty authorisation value is enough to use it. Nobody changes
/// that value or certifies the key: the admin role wants a policy that says so, and there is none.
pub(super) fn template(bits: u16, policy: Option<&Digest>) -> Vec<u8> {
    let policy = policy.map_or(&[][..], |digest| digest);
    storage(bits, attributes(policy), policy, [&[], &[]])
}

fn attributes(policy: &[u8]) -> u32 {
    let by_auth = if policy.is_empty() { USER_WITH_AUTH } else { 0 };
    STORAGE | ADMIN_WITH_POLICY | by_auth
}

/// A backing key as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) id: BackingKeyId,
    pub(super) primary: Name,
    pub(super) counter: Option<Counter>,
    pub(super) pcrs: Option<PcrBinding>,
    pub(super) public: Vec<u8>,
    pub(super) private: Vec<u8>,
}

impl Recorded {
    /// # Errors
    ///
    /// [`HsmError::Config`] beyond what a blob holds: such a TPM has areas like no other.
    pub(super) fn to_blob(&self) -> HsmResult<KeyBlob> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(self.primary.as_bytes());
        let flag = |there, flag| if there { flag } else { 0 };
        out.push(flag(self.counter.is_some(), HAS_COUNTER) | flag(self.pcrs.is_some(), HAS_PCRS));
        if let Some(counter) = &self.counter {
            out.extend_from_slice(&counter.index.to_be_bytes());
            out.extend_from_slice(&counter.value.to_be_bytes());
        }
        if let Some(pcrs) = &self.pcrs {
            out.extend_from_slice(&pcrs.selection.to_be_bytes());
            out.extend_from_slice(&pcrs.values);
            out.extend_from_slice(pcrs.recovery.as_bytes());
        }
        if self.public.len().max(self.private.len()) > AREA_BYTES_MAX {
            return Err(HsmError::Config(
                "the TPM's objects are longer than any known".into(),
            ));
        }
        put_sized(&mut out, &self.public);
        put_sized(&mut out, &self.private);
        KeyBlob::from_bytes(&out)
    }

    /// # Errors
    ///
    /// [`HsmError::KeyNotFound`] for an empty blob, that of another key or of another TPM, so that it counts as
    /// absent; [`HsmError::Unfit`] for one that no TPM of ours has given.
    pub(super) fn read(id: &BackingKeyId, blob: &KeyBlob, primary: &Name) -> HsmResult<Self> {
        if *blob == KeyBlob::EMPTY {
            return Err(HsmError::KeyNotFound(*id));
        }
        let recorded =
            Self::parse(blob.as_bytes()).ok_or_else(|| unfit(id, "its blob is malformed"))?;
        if recorded.id != *id {
            return Err(HsmError::KeyNotFound(*id));
        }
        if recorded.primary != *primary {
            tracing::warn!(event = "tpm.another_primary", key = %id, made_under = recorded.primary.to_hex(),
                here = primary.to_hex(),
                "the key was made under another primary: another TPM, a cleared owner hierarchy, other AES bits, or \
                 something that stands between");
            return Err(HsmError::KeyNotFound(*id));
        }
        recorded.check()?;
        Ok(recorded)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.byte()? != FORMAT {
            return None;
        }
        let id = BackingKeyId::from_bytes(reader.array()?);
        let primary = Name::from_bytes(reader.array()?);
        let flags = reader.byte()?;
        if flags & !(HAS_COUNTER | HAS_PCRS) != 0 {
            return None;
        }
        let counter = match flags & HAS_COUNTER {
            0 => None,
            _ => Some(Counter {
                index: reader.u32()?,
                value: reader.u64()?,
            }),
        };
        let pcrs = match flags & HAS_PCRS {
            0 => None,
            _ => Some(PcrBinding {
                selection: reader.u32()?,
                values: reader.array()?,
                recovery: Name::from_bytes(reader.array()?),
            }),
        };
        let public = reader.sized(AREA_BYTES_MAX)?.to_vec();
        let private = reader.sized(AREA_BYTES_MAX)?.to_vec();
        reader.end()?;
        Some(Self {
            id,
            primary,
            counter,
            pcrs,
            public,
            private,
        })
    }

    /// The digest that its use must reach in a policy session, if it has any.
    pub(super) fn policy(&self) -> Option<Digest> {
        key_policy(&self.id, self.counter.as_ref(), self.pcrs.as_ref())
    }

    /// Refuses a public area that is not exactly what [`template`] asks for, whatever its key.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unfit`] naming what is not as it must be.
    pub(super) fn check(&self) -> HsmResult<()> {
        let policy = self.policy();
        let policy = policy.as_ref().map_or(&[][..], |digest| digest);
        let parts =
            read_storage(&self.public).ok_or_else(|| unfit(&self.id, "it is no storage key"))?;
        let wrong = parts.attributes ^ attributes(policy);
        if wrong != 0 {
            let named = ATTRIBUTE_NAMES.iter().find(|(bit, _)| wrong & bit != 0);
            let name = named.map_or("an attribute", |(_, name)| name);
            return Err(unfit(&self.id, format!("{name} is not as it must be")));
        }
        if parts.policy != policy {
            return Err(unfit(&self.id, "its policy is not the one it must have"));
        }
        let known = [128, 256]
            .into_iter()
            .any(|bits| self.public == storage(bits, parts.attributes, policy, [parts.x, parts.y]));
        if !known {
            return Err(unfit(
                &self.id,
                "its algorithms are not those of our storage keys",
            ));
        }
        Ok(())
    }
}

struct Parts<'a> {
    attributes: u32,
    policy: &'a [u8],
    x: &'a [u8],
    y: &'a [u8],
}

fn read_storage(public: &[u8]) -> Option<Parts<'_>> {
    let mut reader = Reader::new(public);
    if reader.u16()? != ECC || reader.u16()? != SHA256_ID {
        return None;
    }
    let attributes = reader.u32()?;
    let policy = reader.sized(AREA_BYTES_MAX)?;
    let _algorithms: [u8; 12] = reader.array()?;
    let x = reader.sized(COORDINATE_BYTES)?;
    let y = reader.sized(COORDINATE_BYTES)?;
    reader.end()?;
    Some(Parts {
        attributes,
        policy,
        x,
        y,
    })
}
