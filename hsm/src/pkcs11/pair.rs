//! Pairs of keys: how they are made and their public halves read.
//!
//! The public half is an object of one session, read and forgotten: what stays in the token can do what the pair is for and
//! nothing else.

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::device;
use super::probe::Subject;
use crate::der;
use crate::{BackingKeyId, Curve, HsmError, HsmResult, KeyBlob, RsaSize, SigningKey};

/// What a pair is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Signing,
    Unwrapping,
}

/// Makes a pair for this, whose private half has this identity; without one, in this session only. Answers the private
/// half, and the public half as it is written down.
///
/// # Errors
///
/// What the device says.
pub(super) fn generate(
    session: &Session,
    key: SigningKey,
    purpose: For,
    named: Option<(&BackingKeyId, &str)>,
) -> HsmResult<(ObjectHandle, KeyBlob)> {
    let mut public = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(key_type(key)),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Encrypt(false),
        Attribute::Verify(purpose == For::Signing),
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
        Attribute::Sign(purpose == For::Signing),
        Attribute::Unwrap(purpose == For::Unwrapping),
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

pub(super) fn key_type(key: SigningKey) -> KeyType {
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

impl Subject<'_> {
    /// Looks up how large a pair of RSA keys may be.
    ///
    /// # Errors
    ///
    /// That it may not be of this size, in words.
    pub(super) fn see_rsa_of(self, size: RsaSize) -> Result<(), String> {
        let kind = MechanismType::RSA_PKCS_KEY_PAIR_GEN;
        let info = self.context.get_mechanism_info(self.slot, kind);
        let info = info.map_err(|error| format!("CKM_RSA_PKCS_KEY_PAIR_GEN: {error}"))?;
        if info.max_key_size() < size.bytes() * 8 {
            return Err(format!(
                "it makes RSA keys of at most {} bits",
                info.max_key_size()
            ));
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
