//! Keys in the token that do something else than wrap data keys.

use std::fmt;

use crate::{BackingKeyId, HsmError, HsmResult};

/// The most bytes that a tool works on at once: a message of `kms:GenerateMac`.
pub const TOOL_INPUT_BYTES_MAX: usize = 4096;

/// A hash function of FIPS 180-4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashFunction {
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashFunction {
    /// Length of its digests.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// What a tool is, and so what it can do: that, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolSpec {
    /// Makes and verifies MACs by HMAC (FIPS 198-1) with this hash, under a secret as long as its digest.
    Hmac(HashFunction),
}

impl ToolSpec {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self::Hmac(HashFunction::Sha224),
        Self::Hmac(HashFunction::Sha256),
        Self::Hmac(HashFunction::Sha384),
        Self::Hmac(HashFunction::Sha512),
    ];

    /// Its number in records and between processes. It never changes its meaning.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Hmac(HashFunction::Sha224) => 0x10,
            Self::Hmac(HashFunction::Sha256) => 0x11,
            Self::Hmac(HashFunction::Sha384) => 0x12,
            Self::Hmac(HashFunction::Sha512) => 0x13,
        }
    }

    /// The one with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|spec| spec.to_byte() == byte)
    }

    /// Its name in reports: the `KeySpec` of the KMS API where there is one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hmac(HashFunction::Sha224) => "HMAC_224",
            Self::Hmac(HashFunction::Sha256) => "HMAC_256",
            Self::Hmac(HashFunction::Sha384) => "HMAC_384",
            Self::Hmac(HashFunction::Sha512) => "HMAC_512",
        }
    }
}

/// What a tool made when it was new, by which a newly found handle is known to be that tool. Not secret.
///
/// Of a MAC key: its MAC over `"strongroom mac canary v1"` ‖ `CKA_ID`.
#[derive(Clone, PartialEq, Eq)]
pub struct ToolProof(Vec<u8>);

impl ToolProof {
    /// The most bytes a proof has.
    pub const BYTES_MAX: usize = 1024;

    /// Reads a stored proof.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`] beyond [`ToolProof::BYTES_MAX`].
    pub fn from_bytes(bytes: &[u8]) -> HsmResult<Self> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(HsmError::TooLong {
                what: "proof",
                bytes: bytes.len(),
            });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the MAC key `id` makes its MAC over.
    pub fn mac_input(id: &BackingKeyId) -> Vec<u8> {
        [b"strongroom mac canary v1".as_slice(), id.as_bytes()].concat()
    }
}

impl fmt::Debug for ToolProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToolProof({} bytes)", self.0.len())
    }
}

/// A tool as its users name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolKey {
    /// Its `CKA_ID`.
    pub id: BackingKeyId,
    /// What it is.
    pub spec: ToolSpec,
    /// Compared with what every newly found handle makes, before that is used.
    pub proof: ToolProof,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spec_has_a_number_of_its_own_and_is_read_back() {
        for spec in ToolSpec::ALL {
            assert_eq!(ToolSpec::from_byte(spec.to_byte()), Some(spec));
        }
        assert_eq!(ToolSpec::from_byte(0), None);
    }

    #[test]
    fn a_proof_is_taken_up_to_its_limit() {
        let longest = vec![0; ToolProof::BYTES_MAX];
        assert!(ToolProof::from_bytes(&longest).is_ok());
        let beyond = ToolProof::from_bytes(&[longest.as_slice(), &[0]].concat());
        assert!(matches!(
            beyond,
            Err(HsmError::TooLong { what: "proof", .. })
        ));
    }
}
