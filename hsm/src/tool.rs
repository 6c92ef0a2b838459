//! Keys in the token that do something else than wrap data keys.

use std::fmt;

use aws_lc_rs::digest;

use crate::{BackingKey, BackingKeyId, Curve, HsmError, HsmResult, SigningKey};

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

    /// The digest of `message`.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        digest::digest(self.algorithm(), message).as_ref().to_vec()
    }

    pub(crate) fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha224 => &digest::SHA224,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }
}

/// Length of the modulus of an RSA key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RsaSize {
    /// 2048 bits.
    Bits2048,
    /// 3072 bits.
    Bits3072,
    /// 4096 bits.
    Bits4096,
}

impl RsaSize {
    /// Every one, the smallest first.
    pub const ALL: [Self; 3] = [Self::Bits2048, Self::Bits3072, Self::Bits4096];

    /// Length of the modulus, and so of whatever the key encrypts, in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bits2048 => 256,
            Self::Bits3072 => 384,
            Self::Bits4096 => 512,
        }
    }

    const fn index(self) -> u8 {
        match self {
            Self::Bits2048 => 0,
            Self::Bits3072 => 1,
            Self::Bits4096 => 2,
        }
    }
}

/// How material that is brought along is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImportWrapping {
    /// RSAES-OAEP (RFC 8017 §7.1) with SHA-1, as its MGF, too.
    OaepSha1,
    /// The same with SHA-256.
    OaepSha256,
    /// An AES-256 key by [`ImportWrapping::OaepSha1`], then the material under it by RFC 5649: one after the other.
    AesWrapSha1,
    /// The same with [`ImportWrapping::OaepSha256`].
    AesWrapSha256,
}

impl ImportWrapping {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self::OaepSha1,
        Self::OaepSha256,
        Self::AesWrapSha1,
        Self::AesWrapSha256,
    ];

    /// Whether the material is under an AES key, and that under the RSA key.
    pub const fn has_aes_key(self) -> bool {
        matches!(self, Self::AesWrapSha1 | Self::AesWrapSha256)
    }

    /// Whether the hash of OAEP is SHA-1; else it is SHA-256.
    pub const fn is_sha1(self) -> bool {
        matches!(self, Self::OaepSha1 | Self::AesWrapSha1)
    }

    const fn index(self) -> u8 {
        match self {
            Self::OaepSha1 => 0,
            Self::OaepSha256 => 1,
            Self::AesWrapSha1 => 2,
            Self::AesWrapSha256 => 3,
        }
    }
}

/// What a tool is, and so what it can do: that, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolSpec {
    /// Makes and verifies MACs by HMAC (FIPS 198-1) with this hash, under a secret as long as its digest.
    Hmac(HashFunction),
    /// An RSA pair that unwraps material which is brought along, wrapped in this one way. Only its private half stays in
    /// the token.
    Unwrap(RsaSize, ImportWrapping),
    /// A pair that signs. Only its private half stays in the token.
    Sign(SigningKey),
}

impl ToolSpec {
    /// Those that make MACs.
    pub const MACS: [Self; 4] = [
        Self::Hmac(HashFunction::Sha224),
        Self::Hmac(HashFunction::Sha256),
        Self::Hmac(HashFunction::Sha384),
        Self::Hmac(HashFunction::Sha512),
    ];

    /// Those that sign.
    pub const SIGNERS: [Self; 7] = [
        Self::Sign(SigningKey::Rsa(RsaSize::Bits2048)),
        Self::Sign(SigningKey::Rsa(RsaSize::Bits3072)),
        Self::Sign(SigningKey::Rsa(RsaSize::Bits4096)),
        Self::Sign(SigningKey::Ec(Curve::P256)),
        Self::Sign(SigningKey::Ec(Curve::P384)),
        Self::Sign(SigningKey::Ec(Curve::P521)),
        Self::Sign(SigningKey::Ec(Curve::K256)),
    ];

    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        let unwrap = |size| ImportWrapping::ALL.map(|wrapping| Self::Unwrap(size, wrapping));
        Self::MACS
            .into_iter()
            .chain(Self::SIGNERS)
            .chain(RsaSize::ALL.into_iter().flat_map(unwrap))
    }

    /// Whether it is a pair of keys: to make one takes a while, and it has a public half.
    pub const fn is_pair(self) -> bool {
        matches!(self, Self::Unwrap(..) | Self::Sign(_))
    }

    /// Whether to make one may take [`PAIR_DEADLINE`](crate::PAIR_DEADLINE): the primes of RSA are searched for.
    pub(crate) const fn is_slow(self) -> bool {
        matches!(self, Self::Unwrap(..) | Self::Sign(SigningKey::Rsa(_)))
    }

    /// Whether it serves for a day, in the one token that made it.
    pub(crate) const fn is_passing(self) -> bool {
        matches!(self, Self::Unwrap(..))
    }

    /// Its number in records and between processes. It never changes its meaning.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Hmac(HashFunction::Sha224) => 0x10,
            Self::Hmac(HashFunction::Sha256) => 0x11,
            Self::Hmac(HashFunction::Sha384) => 0x12,
            Self::Hmac(HashFunction::Sha512) => 0x13,
            Self::Unwrap(size, wrapping) => 0x40 + 4 * size.index() + wrapping.index(),
            Self::Sign(SigningKey::Rsa(size)) => 0x80 + size.index(),
            Self::Sign(SigningKey::Ec(curve)) => 0x88 + curve.index(),
        }
    }

    /// The one with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::all().find(|spec| spec.to_byte() == byte)
    }

    /// Its name in reports: the `KeySpec` of the KMS API where there is one, or the `WrappingAlgorithm`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hmac(HashFunction::Sha224) => "HMAC_224",
            Self::Hmac(HashFunction::Sha256) => "HMAC_256",
            Self::Hmac(HashFunction::Sha384) => "HMAC_384",
            Self::Hmac(HashFunction::Sha512) => "HMAC_512",
            Self::Unwrap(_, wrapping) => match wrapping {
                ImportWrapping::OaepSha1 => "RSAES_OAEP_SHA_1",
                ImportWrapping::OaepSha256 => "RSAES_OAEP_SHA_256",
                ImportWrapping::AesWrapSha1 => "RSA_AES_KEY_WRAP_SHA_1",
                ImportWrapping::AesWrapSha256 => "RSA_AES_KEY_WRAP_SHA_256",
            },
            Self::Sign(key) => key.name(),
        }
    }
}

/// What a tool made when it was new, by which a newly found handle is known to be that tool. Not secret.
///
/// Of a MAC key: its MAC over `"strongroom mac canary v1"` ‖ `CKA_ID`. Of a pair: its public half as a DER
/// `SubjectPublicKeyInfo` (RFC 5280 §4.1), under which something is made that only the private half undoes, or which
/// verifies what only the private half signs: `"strongroom signature canary v1"` ‖ `CKA_ID`, by its hash.
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

    /// What the pair `id` signs, before it is hashed.
    pub fn signature_input(id: &BackingKeyId) -> Vec<u8> {
        [b"strongroom signature canary v1".as_slice(), id.as_bytes()].concat()
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

/// Key material that is brought along: an AES-256 key, wrapped for a tool that unwraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// The tool, and with it how the material is wrapped.
    pub unwrapper: ToolKey,
    /// The wrapped material: at most [`Material::WRAPPED_BYTES_MAX`] bytes.
    pub wrapped: Vec<u8>,
    /// A backing key of the same material, whose canary it must open; it need not be in the token any more.
    pub same_as: Option<BackingKey>,
}

impl Material {
    /// The most bytes of wrapped material: an AES key under RSA of 4096 bits, and the material under that.
    pub const WRAPPED_BYTES_MAX: usize = 1024;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spec_has_a_number_of_its_own_and_is_read_back() {
        let mut numbers = std::collections::HashSet::new();
        for spec in ToolSpec::all() {
            assert_eq!(ToolSpec::from_byte(spec.to_byte()), Some(spec));
            assert!(numbers.insert(spec.to_byte()));
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
