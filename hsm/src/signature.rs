//! Signatures: what kinds of pairs make them, by which algorithms, and how they are verified.
//!
//! A token signs digests, not messages: `CKM_RSA_PKCS`, `CKM_RSA_PKCS_PSS` and `CKM_ECDSA` over a digest are what every
//! module has, and a message of any length is one call. Verifying takes no secret, and is done here: against the public
//! half that was recorded when the pair was made, whether its token is there or not. So every signature that a token gives
//! is verified before it leaves, too: one that a fault has spoilt can give an RSA key away (Boneh, `DeMillo` and Lipton
//! 1997).

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature as lc;

use crate::{HashFunction, HsmError, HsmResult, RsaSize, ToolKey, ToolSpec};

/// A curve of SEC 2 and FIPS 186-5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
    /// secp256k1.
    K256,
}

impl Curve {
    /// Length of a coordinate, and of each of the two numbers of a signature, in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::P256 | Self::K256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    pub(crate) const fn index(self) -> u8 {
        match self {
            Self::P256 => 0,
            Self::P384 => 1,
            Self::P521 => 2,
            Self::K256 => 3,
        }
    }
}

/// A pair that signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigningKey {
    /// RSA, with the exponent 65537.
    Rsa(RsaSize),
    /// On a curve.
    Ec(Curve),
}

/// How a digest is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// RSASSA-PSS (RFC 8017 §8.1) with this hash for everything, and a salt as long as its digests.
    Pss(HashFunction),
    /// RSASSA-PKCS1-v1_5 (RFC 8017 §8.2) with this hash.
    Pkcs1(HashFunction),
    /// ECDSA (FIPS 186-5 §6) with this hash, the signature an `ECDSA-Sig-Value` in DER (RFC 3279 §2.2.3).
    Ecdsa(HashFunction),
}

impl SignatureAlgorithm {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Pss(HashFunction::Sha256),
        Self::Pss(HashFunction::Sha384),
        Self::Pss(HashFunction::Sha512),
        Self::Pkcs1(HashFunction::Sha256),
        Self::Pkcs1(HashFunction::Sha384),
        Self::Pkcs1(HashFunction::Sha512),
        Self::Ecdsa(HashFunction::Sha256),
        Self::Ecdsa(HashFunction::Sha384),
        Self::Ecdsa(HashFunction::Sha512),
    ];

    /// The hash whose digests it signs.
    pub const fn hash(self) -> HashFunction {
        match self {
            Self::Pss(hash) | Self::Pkcs1(hash) | Self::Ecdsa(hash) => hash,
        }
    }

    /// Its name in reports and in the KMS API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pss(HashFunction::Sha256) => "RSASSA_PSS_SHA_256",
            Self::Pss(HashFunction::Sha384) => "RSASSA_PSS_SHA_384",
            Self::Pss(HashFunction::Sha512) => "RSASSA_PSS_SHA_512",
            Self::Pkcs1(HashFunction::Sha256) => "RSASSA_PKCS1_V1_5_SHA_256",
            Self::Pkcs1(HashFunction::Sha384) => "RSASSA_PKCS1_V1_5_SHA_384",
            Self::Pkcs1(HashFunction::Sha512) => "RSASSA_PKCS1_V1_5_SHA_512",
            Self::Ecdsa(HashFunction::Sha256) => "ECDSA_SHA_256",
            Self::Ecdsa(HashFunction::Sha384) => "ECDSA_SHA_384",
            Self::Ecdsa(HashFunction::Sha512) => "ECDSA_SHA_512",
            Self::Pss(HashFunction::Sha224)
            | Self::Pkcs1(HashFunction::Sha224)
            | Self::Ecdsa(HashFunction::Sha224) => "none",
        }
    }

    /// The one with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The pair that `tool` is, if it signs such a digest by this algorithm.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unfit`] and [`HsmError::TooLong`], as [`Session::sign`](crate::Session::sign).
    pub(crate) fn checked(self, tool: &ToolKey, digest: &[u8]) -> HsmResult<SigningKey> {
        let signs = |key: &SigningKey| key.algorithms().contains(&self);
        let key = match tool.spec {
            ToolSpec::Sign(key) => Some(key).filter(signs),
            ToolSpec::Hmac(_) | ToolSpec::Unwrap(..) => None,
        };
        let Some(key) = key else {
            return Err(HsmError::Unfit {
                id: tool.id,
                reason: format!("it does not sign by {}", self.name()),
            });
        };
        if digest.len() != self.hash().bytes() {
            return Err(HsmError::TooLong {
                what: "digest",
                bytes: digest.len(),
            });
        }
        Ok(key)
    }

    /// Its number between processes.
    pub(crate) fn to_byte(self) -> u8 {
        let index = Self::ALL.iter().position(|algorithm| *algorithm == self);
        // One that is none of them has a number that is read as nothing.
        index
            .and_then(|index| u8::try_from(index).ok())
            .unwrap_or(u8::MAX)
    }

    /// The one with this number.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl SigningKey {
    /// Its name: the `KeySpec` of the KMS API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa(RsaSize::Bits2048) => "RSA_2048",
            Self::Rsa(RsaSize::Bits3072) => "RSA_3072",
            Self::Rsa(RsaSize::Bits4096) => "RSA_4096",
            Self::Ec(Curve::P256) => "ECC_NIST_P256",
            Self::Ec(Curve::P384) => "ECC_NIST_P384",
            Self::Ec(Curve::P521) => "ECC_NIST_P521",
            Self::Ec(Curve::K256) => "ECC_SECG_P256K1",
        }
    }

    /// By which algorithms it signs: AWS has one for a curve.
    pub const fn algorithms(self) -> &'static [SignatureAlgorithm] {
        use HashFunction::{Sha256, Sha384, Sha512};
        use SignatureAlgorithm::{Ecdsa, Pkcs1, Pss};
        match self {
            Self::Rsa(_) => &[
                Pss(Sha256),
                Pss(Sha384),
                Pss(Sha512),
                Pkcs1(Sha256),
                Pkcs1(Sha384),
                Pkcs1(Sha512),
            ],
            Self::Ec(Curve::P256 | Curve::K256) => &[Ecdsa(Sha256)],
            Self::Ec(Curve::P384) => &[Ecdsa(Sha384)],
            Self::Ec(Curve::P521) => &[Ecdsa(Sha512)],
        }
    }

    /// The algorithm by which it signs its canary.
    pub(crate) const fn canary_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::Rsa(_) => SignatureAlgorithm::Pkcs1(HashFunction::Sha256),
            Self::Ec(Curve::P256 | Curve::K256) => SignatureAlgorithm::Ecdsa(HashFunction::Sha256),
            Self::Ec(Curve::P384) => SignatureAlgorithm::Ecdsa(HashFunction::Sha384),
            Self::Ec(Curve::P521) => SignatureAlgorithm::Ecdsa(HashFunction::Sha512),
        }
    }

    /// Whether `signature` is one of this digest by the pair whose public half this is, a DER `SubjectPublicKeyInfo`. No
    /// secret takes part: the time it takes tells nothing.
    pub fn verifies(
        self,
        public: &[u8],
        algorithm: SignatureAlgorithm,
        digest: &[u8],
        signature: &[u8],
    ) -> bool {
        let Some(verification) = self.verification(algorithm) else {
            return false;
        };
        if let Self::Rsa(size) = self
            && signature.len() != size.bytes()
        {
            return false;
        }
        Digest::import_less_safe(digest, algorithm.hash().algorithm())
            .and_then(|digest| {
                lc::UnparsedPublicKey::new(verification, public).verify_digest(&digest, signature)
            })
            .is_ok()
    }

    fn verification(
        self,
        algorithm: SignatureAlgorithm,
    ) -> Option<&'static dyn lc::VerificationAlgorithm> {
        use HashFunction::{Sha256, Sha384, Sha512};
        use SignatureAlgorithm::{Ecdsa, Pkcs1, Pss};
        Some(match (self, algorithm) {
            (Self::Rsa(_), Pss(Sha256)) => &lc::RSA_PSS_2048_8192_SHA256,
            (Self::Rsa(_), Pss(Sha384)) => &lc::RSA_PSS_2048_8192_SHA384,
            (Self::Rsa(_), Pss(Sha512)) => &lc::RSA_PSS_2048_8192_SHA512,
            (Self::Rsa(_), Pkcs1(Sha256)) => &lc::RSA_PKCS1_2048_8192_SHA256,
            (Self::Rsa(_), Pkcs1(Sha384)) => &lc::RSA_PKCS1_2048_8192_SHA384,
            (Self::Rsa(_), Pkcs1(Sha512)) => &lc::RSA_PKCS1_2048_8192_SHA512,
            (Self::Ec(Curve::P256), Ecdsa(Sha256)) => &lc::ECDSA_P256_SHA256_ASN1,
            (Self::Ec(Curve::P384), Ecdsa(Sha384)) => &lc::ECDSA_P384_SHA384_ASN1,
            (Self::Ec(Curve::P521), Ecdsa(Sha512)) => &lc::ECDSA_P521_SHA512_ASN1,
            (Self::Ec(Curve::K256), Ecdsa(Sha256)) => &lc::ECDSA_P256K1_SHA256_ASN1,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ToolSpec;

    #[test]
    fn every_algorithm_is_read_by_its_name_and_by_its_number() {
        for algorithm in SignatureAlgorithm::ALL {
            assert_eq!(SignatureAlgorithm::parse(algorithm.name()), Some(algorithm));
            assert_eq!(
                SignatureAlgorithm::from_byte(algorithm.to_byte()),
                Some(algorithm)
            );
        }
        assert_eq!(SignatureAlgorithm::parse("none"), None);
        assert_eq!(SignatureAlgorithm::from_byte(9), None);
    }

    #[test]
    fn every_algorithm_of_a_key_is_verified_and_its_canarys_is_one_of_them() {
        for spec in ToolSpec::SIGNERS {
            let ToolSpec::Sign(key) = spec else {
                panic!("{spec:?} does not sign");
            };
            for algorithm in SignatureAlgorithm::ALL {
                let has = key.algorithms().contains(&algorithm);
                assert_eq!(key.verification(algorithm).is_some(), has, "{key:?}");
            }
            assert!(key.algorithms().contains(&key.canary_algorithm()));
        }
    }
}
