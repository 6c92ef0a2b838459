//! Pairs that sign: digests, by `CKM_RSA_PKCS`, `CKM_RSA_PKCS_PSS` and `CKM_ECDSA` (PKCS#11 v3.1 §6.1.6, §6.1.10, §6.3.12).

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::failed;
use super::key::{Past, Requirement, unfit};
use super::pair::{self, For, key_type};
use super::probe::{Subject, with_source};
use super::raw::{self, CKM_ECDSA, CKM_RSA_PKCS, Raw};
use super::tool::common_requirements;
use crate::der;
use crate::{
    BackingKeyId, HashFunction, HsmError, HsmResult, RsaSize, SignatureAlgorithm, SigningKey,
    ToolProof,
};

/// What is tried with a key that is gone afterwards.
const TRIAL: &[u8] = b"strongroom trial";

/// What is asked of the private half.
pub(super) fn requirements(id: &BackingKeyId, key: SigningKey, past: Past) -> Vec<Requirement> {
    use AttributeType as Kind;
    let mut required = vec![
        (
            "CKA_CLASS",
            Kind::Class,
            Attribute::Class(ObjectClass::PRIVATE_KEY),
        ),
        (
            "CKA_KEY_TYPE",
            Kind::KeyType,
            Attribute::KeyType(key_type(key)),
        ),
        ("CKA_DECRYPT", Kind::Decrypt, Attribute::Decrypt(false)),
        ("CKA_UNWRAP", Kind::Unwrap, Attribute::Unwrap(false)),
        ("CKA_SIGN", Kind::Sign, Attribute::Sign(true)),
    ];
    required.extend(common_requirements(id, past));
    required
}

/// Signs a digest that has the length of the algorithm's.
///
/// # Errors
///
/// What the device says, and a signature of another length.
pub(super) fn sign(
    raw: &Raw,
    session: &Session,
    private: ObjectHandle,
    key: SigningKey,
    algorithm: SignatureAlgorithm,
    digest: &[u8],
) -> HsmResult<Vec<u8>> {
    let (mechanism, input) = match algorithm {
        SignatureAlgorithm::Pss(hash) => (raw::Mechanism::Pss(hash), digest.to_vec()),
        SignatureAlgorithm::Pkcs1(hash) => {
            let info = [digest_info(hash), digest].concat();
            (raw::Mechanism::Bare(CKM_RSA_PKCS), info)
        }
        SignatureAlgorithm::Ecdsa(_) => (raw::Mechanism::Bare(CKM_ECDSA), digest.to_vec()),
    };
    let signature = raw.sign_by(session, private, mechanism, &input);
    let signature = signature.map_err(failed)?;
    let expected = match key {
        SigningKey::Rsa(size) => size.bytes(),
        SigningKey::Ec(curve) => 2 * curve.bytes(),
    };
    match key {
        _ if signature.len() != expected => Err(HsmError::Device {
            function: "C_Sign",
            source: format!("a signature of {} bytes, not {expected}", signature.len()).into(),
        }),
        SigningKey::Rsa(_) => Ok(signature),
        SigningKey::Ec(curve) => {
            let (r, s) = signature.split_at(curve.bytes());
            Ok(der::ecdsa(r, s))
        }
    }
}

/// The `DigestInfo` of a digest up to the digest (RFC 8017 §9.2, note 1).
fn digest_info(hash: HashFunction) -> &'static [u8] {
    match hash {
        HashFunction::Sha224 => &[
            0x30, 0x2d, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x04, 0x05, 0x00, 0x04, 0x1c,
        ],
        HashFunction::Sha256 => &[
            0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x01, 0x05, 0x00, 0x04, 0x20,
        ],
        HashFunction::Sha384 => &[
            0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x02, 0x05, 0x00, 0x04, 0x30,
        ],
        HashFunction::Sha512 => &[
            0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x03, 0x05, 0x00, 0x04, 0x40,
        ],
    }
}

/// Sees that the private half belongs to this public half: it signs the canary, and that verifies.
///
/// # Errors
///
/// [`HsmError::Unfit`] for another pair; what the device says.
pub(super) fn prove(
    raw: &Raw,
    session: &Session,
    private: ObjectHandle,
    id: &BackingKeyId,
    key: SigningKey,
    public: &[u8],
) -> HsmResult<ToolProof> {
    let algorithm = key.canary_algorithm();
    let digest = algorithm.hash().digest(&ToolProof::signature_input(id));
    let signature = sign(raw, session, private, key, algorithm, &digest)?;
    if !key.verifies(public, algorithm, &digest, &signature) {
        return Err(unfit(id, "its public half does not verify what it signs"));
    }
    ToolProof::from_bytes(public)
}

impl Subject<'_> {
    /// Tries every algorithm of such a pair, of RSA with a small one, which says as much as a large one, and looks up how
    /// large a pair may be.
    ///
    /// # Errors
    ///
    /// Why it does not work.
    pub(super) fn try_signing(self, key: SigningKey) -> Result<(), String> {
        let text = |error: HsmError| with_source(&error);
        let mut tried = key;
        if let SigningKey::Rsa(size) = key {
            self.see_rsa_of(size)?;
            tried = SigningKey::Rsa(RsaSize::Bits2048);
        }
        let session = self.session().map_err(|error| error.to_string())?;
        let made = pair::generate(&session, tried, For::Signing, None);
        let (private, public) = made.map_err(text)?;
        for algorithm in tried.algorithms() {
            let algorithm = *algorithm;
            let digest = algorithm.hash().digest(TRIAL);
            let signature = sign(self.raw, &session, private, tried, algorithm, &digest)
                .map_err(|error| format!("{}: {}", algorithm.name(), text(error)))?;
            let verifies =
                |digest: &[u8]| tried.verifies(public.as_bytes(), algorithm, digest, &signature);
            if !verifies(&digest) || verifies(&algorithm.hash().digest(b"other")) {
                return Err(format!(
                    "{}: its public half does not verify what it signs",
                    algorithm.name()
                ));
            }
        }
        Ok(())
    }
}
