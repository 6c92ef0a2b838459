//! AES-GCM by the message interface of PKCS#11 v3.0 (§5.9, §5.11, §6.13.4): made for modules that must make the IV
//! themselves.
//!
//! Body: 12-byte IV ‖ ciphertext ‖ 16-byte tag.

use cryptoki::object::ObjectHandle;
use zeroize::Zeroizing;

use super::gcm::{IV_BYTES, split, used};
use super::{Bench, NotOpened, absurd, failed, of_length, random};
use crate::HsmResult;
use crate::pkcs11::raw::{Generator, Message, TAG_BYTES};

pub(super) fn seal(
    bench: Bench<'_>,
    key: ObjectHandle,
    aad: &[u8],
    plaintext: &[u8],
) -> HsmResult<Vec<u8>> {
    let generator = bench.dialect.generator;
    let mut iv: [u8; IV_BYTES] = match generator {
        Generator::Token => [0; IV_BYTES],
        Generator::Caller => random()?,
    };
    let mut tag = [0; TAG_BYTES];
    let message = Message {
        generator,
        iv: &mut iv,
        tag: &mut tag,
        aad,
    };
    let sealed = bench
        .raw
        .encrypt_message(bench.session, key, message, plaintext);
    let sealed = sealed.map_err(failed)?;
    used(&iv)?;
    if sealed.len() != plaintext.len() {
        let what = format!(
            "{} bytes of ciphertext for {}",
            sealed.len(),
            plaintext.len()
        );
        return Err(absurd("C_EncryptMessage", what));
    }
    Ok([&iv, sealed.as_slice(), &tag].concat())
}

pub(super) fn open(
    bench: Bench<'_>,
    key: ObjectHandle,
    aad: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let (iv, sealed) = split(body).ok_or(NotOpened::Forged)?;
    let (ciphertext, tag) = sealed.split_last_chunk().ok_or(NotOpened::Forged)?;
    let (mut iv, mut tag) = (*iv, *tag);
    let message = Message {
        generator: Generator::Caller,
        iv: &mut iv,
        tag: &mut tag,
        aad,
    };
    let opened = bench
        .raw
        .decrypt_message(bench.session, key, message, ciphertext)?;
    of_length(opened, "C_DecryptMessage", |bytes| {
        bytes == ciphertext.len()
    })
}
