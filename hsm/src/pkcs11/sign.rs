//! Pairs that sign.
//!
//! The public half is an object of one session, read and forgotten: what stays in the token can sign and nothing else.
//! Signed are digests, by `CKM_RSA_PKCS`, `CKM_RSA_PKCS_PSS` and `CKM_ECDSA` (PKCS#11 v3.1 §6.1.6, §6.1.10, §6.3.12).

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::{device, failed};
use super::key::{Past, Requirement, unfit};
use super::probe::{Subject, with_source};
use super::raw::{self, CKM_ECDSA, CKM_RSA_PKCS, Raw};
use super::tool::common_requirements;
use crate::der;
use crate::{
    BackingKeyId, Curve, HashFunction, HsmError, HsmResult, KeyBlob, RsaSize, SignatureAlgorithm,
    SigningKey, ToolProof,
};

/// What is tried with a key that is gone afterwards.
const TRIAL: &[u8] = b"strongroom trial";

/// Makes a pair whose private half has this identity; without one, in this session only. Answers the private half, and the
/// public half as it is written down.
///
/// # Errors
///
/// What the device says.
pub(super) fn generate(
    session: &Session,
    key: SigningKey,
    named: Option<(&BackingKeyId, &str)>,
) -> HsmResult<(ObjectHandle, KeyBlob)> {
    let mut public = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(key_type(key)),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Encrypt(false),
        Attribute::Verify(true),
        Attribute::Wrap(false),
    ];
    let mechanism = match key {
        SigningKey::Rsa(size) => {
            let bits = u64::try_from(size.bytes() * 8).unwrap_or_default();
            public.extend([
                Attribute::ModulusBits(bits.into()),
                Attribute::PublicExponent(vec![1, 0, 1]),
            ]);
            Mechanism::RsaPkcsKeyPairGen
        }
        SigningKey::Ec(curve) => {
            public.push(Attribute::EcParams(der::curve_oid(curve).to_vec()));
            Mechanism::EccKeyPairGen
        }
    };
    let mut private = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(key_type(key)),
        Attribute::Token(named.is_some()),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Decrypt(false),
        Attribute::Sign(true),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    if let Some((id, label)) = named {
        private.extend([
            Attribute::Id(id.as_bytes().to_vec()),
            Attribute::Label(label.as_bytes().to_vec()),
        ]);
    }
    let made = session.generate_key_pair(&mechanism, &public, &private);
    let (public, private) = made.map_err(device("C_GenerateKeyPair"))?;
    let written = public_half(session, public, key)?;
    session
        .destroy_object(public)
        .map_err(device("C_DestroyObject"))?;
    Ok((private, KeyBlob::from_bytes(&written)?))
}

fn key_type(key: SigningKey) -> KeyType {
    match key {
        SigningKey::Rsa(_) => KeyType::RSA,
        SigningKey::Ec(_) => KeyType::EC,
    }
}

/// The public half as a `SubjectPublicKeyInfo`, of the parts that the token tells.
fn public_half(session: &Session, public: ObjectHandle, key: SigningKey) -> HsmResult<Vec<u8>> {
    let asked: &[AttributeType] = match key {
        SigningKey::Rsa(_) => &[AttributeType::Modulus, AttributeType::PublicExponent],
        SigningKey::Ec(_) => &[AttributeType::EcPoint],
    };
    let told = session.get_attributes(public, asked);
    let told = told.map_err(device("C_GetAttributeValue"))?;
    let (mut modulus, mut exponent, mut point) = (Vec::new(), Vec::new(), Vec::new());
    for attribute in told {
        match attribute {
            Attribute::Modulus(bytes) => modulus = bytes,
            Attribute::PublicExponent(bytes) => exponent = bytes,
            Attribute::EcPoint(bytes) => point = bytes,
            _ => {}
        }
    }
    let written = match key {
        SigningKey::Rsa(_) => der::rsa(&modulus, &exponent),
        SigningKey::Ec(curve) => {
            let point = uncompressed(curve, &point).ok_or_else(|| HsmError::Device {
                function: "C_GetAttributeValue",
                source: "CKA_EC_POINT is no uncompressed point of the curve".into(),
            })?;
            der::ec(curve, point)
        }
    };
    Ok(written)
}

/// The point in a `CKA_EC_POINT`: an `OCTET STRING` that holds it (§6.3.3), or, of some tokens, the point itself.
fn uncompressed(curve: Curve, told: &[u8]) -> Option<&[u8]> {
    const UNCOMPRESSED: u8 = 4;
    const OCTET_STRING: u8 = 4;
    let length = 1 + 2 * curve.bytes();
    let point = match told {
        bare if bare.len() == length => bare,
        // A point of at most 133 bytes: a length of one byte, or of two.
        [OCTET_STRING, rest @ ..] => {
            let point = rest.get(rest.len().checked_sub(length)?..)?;
            let header = rest.get(..rest.len() - length)?;
            let length = u8::try_from(length).ok()?;
            (header == [length] && length < 0x80 || header == [0x81, length]).then_some(point)?
        }
        _ => return None,
    };
    (point.first() == Some(&UNCOMPRESSED)).then_some(point)
}

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
            let kind = MechanismType::RSA_PKCS_KEY_PAIR_GEN;
            let info = self.context.get_mechanism_info(self.slot, kind);
            let info = info.map_err(|error| format!("CKM_RSA_PKCS_KEY_PAIR_GEN: {error}"))?;
            if info.max_key_size() < size.bytes() * 8 {
                return Err(format!(
                    "it makes RSA keys of at most {} bits",
                    info.max_key_size()
                ));
            }
            tried = SigningKey::Rsa(RsaSize::Bits2048);
        }
        let session = self.session().map_err(|error| error.to_string())?;
        let (private, public) = generate(&session, tried, None).map_err(text)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_taken_bare_or_in_its_octet_string_and_no_other_way() {
        for (curve, header) in [
            (Curve::P256, &[4, 65][..]),
            (Curve::P384, &[4, 97]),
            (Curve::P521, &[4, 0x81, 133]),
            (Curve::K256, &[4, 65]),
        ] {
            let mut point = vec![7; 1 + 2 * curve.bytes()];
            point[0] = 4;
            let held = [header, &point].concat();
            assert_eq!(uncompressed(curve, &point), Some(point.as_slice()));
            assert_eq!(uncompressed(curve, &held), Some(point.as_slice()));
            assert_eq!(uncompressed(curve, &held[1..]), None);
            assert_eq!(uncompressed(curve, &held[..held.len() - 1]), None);
            assert_eq!(uncompressed(curve, &[]), None);
            point[0] = 2;
            assert_eq!(uncompressed(curve, &point), None);
        }
    }
}
