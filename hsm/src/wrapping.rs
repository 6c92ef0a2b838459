//! What those do who bring key material along: they wrap it for a pair in a token. Here it is throw-away material, to see
//! that the token undoes it.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded as _};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey,
    PublicEncryptingKey,
};

use crate::ImportWrapping;

/// Length of an AES-256 key.
pub(crate) const MATERIAL_BYTES: usize = 32;
/// What RFC 5649 adds to a key that is a multiple of eight bytes long.
const AES_WRAP_OVERHEAD_BYTES: usize = 8;

/// Wraps for the pair with this public half, a DER `SubjectPublicKeyInfo`. None for what is no such key, or too small.
pub(crate) fn wrap(public: &[u8], wrapping: ImportWrapping, material: &[u8]) -> Option<Vec<u8>> {
    let public = PublicEncryptingKey::from_der(public).ok()?;
    let public = OaepPublicEncryptingKey::new(public).ok()?;
    let under_rsa = |key: &[u8]| {
        let mut out = vec![0; public.ciphertext_size()];
        let length = public
            .encrypt(oaep(wrapping), key, &mut out, None)
            .ok()?
            .len();
        out.truncate(length);
        Some(out)
    };
    if !wrapping.has_aes_key() {
        return under_rsa(material);
    }
    let mut key = zeroize::Zeroizing::new([0; MATERIAL_BYTES]);
    getrandom::fill(key.as_mut_slice()).ok()?;
    let mut out = vec![0; material.len().next_multiple_of(8) + AES_WRAP_OVERHEAD_BYTES];
    let kek = AesKek::new(&AES_256, key.as_slice()).ok()?;
    let wrapped = kek.wrap_with_padding(material, &mut out).ok()?;
    Some([under_rsa(key.as_slice())?.as_slice(), wrapped].concat())
}

/// OAEP as this wrapping has it.
pub(crate) fn oaep(wrapping: ImportWrapping) -> &'static OaepAlgorithm {
    if wrapping.is_sha1() {
        &OAEP_SHA1_MGF1SHA1
    } else {
        &OAEP_SHA256_MGF1SHA256
    }
}
