//! Sealed objects: what a wrapped value is made of.
//!
//! # The body of a wrapped value, scheme [`WrapScheme::TpmSealed`]
//!
//! ```text
//! 1   format version, 1
//! 2+n public area of the object (TPMT_PUBLIC)
//! 2+n private area (TPM2B_PRIVATE), encrypted by the storage key
//! ```
//!
//! The object holds plaintext ‖ SHA-256(AAD): at most 96 bytes of the 128 that a sealed object may have
//! (`MAX_SYM_DATA`, Part 2 §11.1.14). The public area is always the same but for its `unique` field, and the integrity
//! value of the private area covers it (Part 1 §22.4): no bit of the body can change and the object still load.

use zeroize::Zeroizing;

use super::key::{BOUND, NO_DA, USER_WITH_AUTH};
use super::wire::{DIGEST_BYTES, Reader, SHA256_ID, put_sized, sha256};
use crate::handle::same_bytes;
use crate::{HsmError, HsmResult, SecretBytes, WRAP_PLAINTEXT_BYTES_MAX, WrapScheme, Wrapped};

const FORMAT: u8 = 1;
const KEYED_HASH: u16 = 0x0008;
const NO_ALGORITHM: u16 = 0x0010;

/// The most bytes of the private area that are read back: one has about 190.
const PRIVATE_BYTES_MAX: usize = 512;

/// The public area of a sealed object. Its own authorisation value is empty, and no wrong one counts: it is the parent
/// that says who may load it. It stays under that parent, in this TPM.
pub(super) fn public(unique: &[u8]) -> Vec<u8> {
    let mut area = Vec::with_capacity(64);
    for number in [KEYED_HASH, SHA256_ID] {
        area.extend_from_slice(&number.to_be_bytes());
    }
    area.extend_from_slice(&(BOUND | USER_WITH_AUTH | NO_DA).to_be_bytes());
    put_sized(&mut area, &[]);
    area.extend_from_slice(&NO_ALGORITHM.to_be_bytes());
    put_sized(&mut area, unique);
    area
}

/// What is sealed.
pub(super) fn content(aad: &[u8], plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut content = Zeroizing::new(Vec::with_capacity(plaintext.len() + DIGEST_BYTES));
    content.extend_from_slice(plaintext);
    content.extend_from_slice(&sha256(&[aad]));
    content
}

/// The plaintext, if it was sealed with this AAD.
pub(super) fn plaintext(aad: &[u8], content: &[u8]) -> HsmResult<SecretBytes> {
    let (plaintext, digest) = content
        .split_last_chunk::<DIGEST_BYTES>()
        .ok_or(HsmError::Unauthentic)?;
    if !same_bytes(digest, &sha256(&[aad])) || plaintext.len() > WRAP_PLAINTEXT_BYTES_MAX {
        return Err(HsmError::Unauthentic);
    }
    // Copied to its exact length, so that boxing it does not move it and leave a copy.
    SecretBytes::new(plaintext.to_vec())
}

/// The wrapped value with these areas.
pub(super) fn wrapped(public: &[u8], private: &[u8]) -> Wrapped {
    let mut body = vec![FORMAT];
    put_sized(&mut body, public);
    put_sized(&mut body, private);
    Wrapped::new(WrapScheme::TpmSealed, &body)
}

/// Public and private area of a wrapped value that could be ours.
pub(super) fn areas(wrapped: &Wrapped) -> Option<(&[u8], &[u8])> {
    if wrapped.scheme()? != WrapScheme::TpmSealed {
        return None;
    }
    let mut reader = Reader::new(wrapped.body());
    if reader.byte()? != FORMAT {
        return None;
    }
    let ours = public(&[0; DIGEST_BYTES]);
    let area = reader.sized(ours.len())?;
    let private = reader.sized(PRIVATE_BYTES_MAX)?;
    reader.end()?;
    let unique = area.last_chunk::<DIGEST_BYTES>()?;
    (area == public(unique)).then_some((area, private))
}
