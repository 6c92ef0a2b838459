//! DER (X.690) of what a token tells in parts: a public key as a `SubjectPublicKeyInfo` (RFC 5280 §4.1), and an ECDSA
//! signature as an `ECDSA-Sig-Value` (RFC 3279 §2.2.3).

use crate::Curve;

/// `rsaEncryption` (RFC 8017 Appendix C) with its NULL, as an `AlgorithmIdentifier`.
const RSA: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

/// `id-ecPublicKey` (RFC 5480 §2.1.1).
const EC: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The public half of an RSA key; both numbers big-endian, as `CKA_MODULUS` and `CKA_PUBLIC_EXPONENT` are.
pub(crate) fn rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let numbers = [integer(modulus), integer(exponent)].concat();
    let key = value(SEQUENCE, &numbers);
    info(&RSA, &key)
}

/// The public half of a key on a curve, whose uncompressed point (SEC 1 §2.3.3) this is.
pub(crate) fn ec(curve: Curve, point: &[u8]) -> Vec<u8> {
    let algorithm = value(SEQUENCE, &[&EC, curve_oid(curve)].concat());
    info(&algorithm, point)
}

/// The name of a curve as an `OBJECT IDENTIFIER` (RFC 5480 §2.1.1.1, SEC 2 §A.2.1): what `CKA_EC_PARAMS` is.
pub(crate) const fn curve_oid(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        Curve::P521 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        Curve::K256 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a],
    }
}

/// An ECDSA signature of these two numbers.
pub(crate) fn ecdsa(r: &[u8], s: &[u8]) -> Vec<u8> {
    value(SEQUENCE, &[integer(r), integer(s)].concat())
}

fn info(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    // No bits are unused.
    let key = value(BIT_STRING, &[&[0], key].concat());
    value(SEQUENCE, &[algorithm, &key].concat())
}

/// A number that is not negative, in the fewest bytes.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    let needs_sign = digits.first().is_none_or(|first| first & 0x80 != 0);
    let sign: &[u8] = if needs_sign { &[0] } else { &[] };
    value(INTEGER, &[sign, digits].concat())
}

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let length = length.get(zeros..).unwrap_or_default();
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            // At most eight bytes.
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey, PublicEncryptingKey};

    use super::*;

    #[test]
    fn an_rsa_key_is_written_as_others_write_it() {
        let pair = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a pair");
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        // SEQUENCE, AlgorithmIdentifier, BIT STRING, SEQUENCE, INTEGER of 257 bytes whose first is 0, INTEGER 65537.
        let modulus = der.as_ref().get(33..33 + 256).expect("is longer");
        for exponent in [&[1, 0, 1][..], &[0, 1, 0, 1]] {
            assert_eq!(rsa(modulus, exponent), der.as_ref());
        }
        assert!(PublicEncryptingKey::from_der(&rsa(modulus, &[1, 0, 1])).is_ok());
    }

    #[test]
    fn a_key_on_a_curve_is_written_as_others_write_it() {
        use aws_lc_rs::signature::{
            ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1_SIGNING,
            ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
            KeyPair as _,
        };
        for (curve, algorithm) in [
            (Curve::P256, &ECDSA_P256_SHA256_ASN1_SIGNING),
            (Curve::P384, &ECDSA_P384_SHA384_ASN1_SIGNING),
            (Curve::P521, &ECDSA_P521_SHA512_ASN1_SIGNING),
            (Curve::K256, &ECDSA_P256K1_SHA256_ASN1_SIGNING),
        ] {
            let pair = EcdsaKeyPair::generate(algorithm).expect("a pair");
            let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
            assert_eq!(ec(curve, pair.public_key().as_ref()), der.as_ref());
        }
    }

    #[test]
    fn numbers_have_a_sign_byte_where_they_need_one_and_no_other_zeros() {
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(value(SEQUENCE, &[0; 0x80])[..3], [0x30, 0x81, 0x80]);
        assert_eq!(value(SEQUENCE, &[0; 0x1_00])[..4], [0x30, 0x82, 1, 0]);
    }
}
