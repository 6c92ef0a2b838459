//! Data key pairs: kms:GenerateDataKeyPair and its sibling. The pair is made in software, since it is the caller's to
//! take home; its private half is encrypted under a symmetric KMS key as any small data is.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1_SIGNING,
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
};
use zeroize::Zeroizing;

use super::context::EncryptionContext;
use super::data::Encrypted;
use super::error::KmsError;
use super::key::KeyArn;
use super::{Kms, check_proof};
use crate::auth::Authorised;

const GENERATE_PAIR: &str = "kms:GenerateDataKeyPair";
const GENERATE_PAIR_WITHOUT_PLAINTEXT: &str = "kms:GenerateDataKeyPairWithoutPlaintext";

/// Pairs that are made at the same time: the search for the primes of RSA takes a core for up to seconds.
pub(super) const PAIRS_AT_ONCE_MAX: usize = 2;
/// How long a request waits for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

/// `KeyPairSpec` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPairSpec {
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
    /// ECDSA or ECDH on NIST P-256.
    P256,
    /// ECDSA or ECDH on NIST P-384.
    P384,
    /// ECDSA or ECDH on NIST P-521.
    P521,
    /// ECDSA on secp256k1.
    P256K1,
    /// Ed25519, RFC 8032.
    Ed25519,
}

impl KeyPairSpec {
    /// All that are made here: AWS's but SM2, which AWS has in China alone.
    pub const ALL: [Self; 8] = [
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::P256,
        Self::P384,
        Self::P521,
        Self::P256K1,
        Self::Ed25519,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "RSA_2048",
            Self::Rsa3072 => "RSA_3072",
            Self::Rsa4096 => "RSA_4096",
            Self::P256 => "ECC_NIST_P256",
            Self::P384 => "ECC_NIST_P384",
            Self::P521 => "ECC_NIST_P521",
            Self::P256K1 => "ECC_SECG_P256K1",
            Self::Ed25519 => "ECC_NIST_EDWARDS25519",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|spec| spec.name() == name)
    }

    /// Makes a pair. Takes up to seconds.
    fn generate(self) -> Result<KeyPair, Unspecified> {
        match self {
            Self::Rsa2048 => rsa(KeySize::Rsa2048),
            Self::Rsa3072 => rsa(KeySize::Rsa3072),
            Self::Rsa4096 => rsa(KeySize::Rsa4096),
            Self::P256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            Self::P384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            Self::P521 => ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING),
            Self::P256K1 => ecdsa(&ECDSA_P256K1_SHA256_ASN1_SIGNING),
            Self::Ed25519 => {
                let pair = Ed25519KeyPair::generate()?;
                KeyPair::of(pair.to_pkcs8v1()?.as_ref(), pair.public_key())
            }
        }
    }
}

fn rsa(size: KeySize) -> Result<KeyPair, Unspecified> {
    let pair = rsa::KeyPair::generate(size)?;
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)?;
    KeyPair::of(private.as_ref(), pair.public_key())
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Result<KeyPair, Unspecified> {
    let pair = EcdsaKeyPair::generate(algorithm)?;
    KeyPair::of(pair.to_pkcs8v1()?.as_ref(), pair.public_key())
}

/// A pair as it is written down.
struct KeyPair {
    private: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl KeyPair {
    fn of(
        private: &[u8],
        public: &impl AsDer<PublicKeyX509Der<'static>>,
    ) -> Result<Self, Unspecified> {
        Ok(Self {
            private: Zeroizing::new(private.to_vec()),
            public: public.as_der()?.as_ref().to_vec(),
        })
    }
}

/// What kms:GenerateDataKeyPair answers.
pub struct GeneratedPair {
    /// The private key in the clear: `PrivateKeyInfo` in DER, RFC 5208.
    pub private: Zeroizing<Vec<u8>>,
    /// The public key: `SubjectPublicKeyInfo` in DER, RFC 5280 §4.1.
    pub public: Vec<u8>,
    /// The private key encrypted.
    pub encrypted: Encrypted,
}

impl fmt::Debug for GeneratedPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeneratedPair")
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

impl Kms {
    /// kms:GenerateDataKeyPair. What cannot use `key` is told so before a pair is made.
    ///
    /// # Errors
    ///
    /// [`KmsError::Busy`] when it was not this pair's turn within ten seconds, since two are made at a time; by the key's
    /// state, the HSM and the records.
    pub async fn generate_data_key_pair(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        context: &EncryptionContext,
        spec: KeyPairSpec,
    ) -> Result<GeneratedPair, KmsError> {
        check_proof(
            proof,
            &[GENERATE_PAIR, GENERATE_PAIR_WITHOUT_PLAINTEXT],
            key,
        )?;
        self.check_usable(proof, key).await?;
        let turn = tokio::time::timeout(TURN_WAIT_MAX, self.pairs.clone().acquire_owned())
            .await
            .map_err(|_elapsed| KmsError::Busy)?
            .map_err(|_closed| KmsError::internal("no turns for pairs"))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "computes for up to seconds, and few at a time"
        )]
        let made = tokio::task::spawn_blocking(move || {
            let made = spec.generate();
            drop(turn);
            made
        });
        let pair = made
            .await
            .map_err(|_died| KmsError::internal("making a key pair"))?
            .map_err(|_unspecified| KmsError::internal("making a key pair"))?;
        let encrypted = self
            .encrypt_any((key, proof.action().0), context, &pair.private)
            .await?;
        Ok(GeneratedPair {
            private: pair.private,
            public: pair.public,
            encrypted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::KeyPairSpec;
    use crate::kms::PLAINTEXT_BYTES_MAX;

    #[test]
    fn every_private_key_fits_what_a_kms_key_encrypts() {
        for spec in KeyPairSpec::ALL {
            let pair = spec.generate().expect("a pair");
            assert!(pair.private.len() <= PLAINTEXT_BYTES_MAX, "{spec:?}");
            assert_eq!(KeyPairSpec::parse(spec.name()), Some(spec));
        }
        assert_eq!(KeyPairSpec::parse("SM2"), None);
    }
}
