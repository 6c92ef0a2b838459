//! `CKM_AES_CBC_PAD` (PKCS#11 v3.1 §6.13.2), then `CKM_SHA256_HMAC` (§6.20.3) under a second key: for tokens without
//! an authenticated cipher.
//!
//! Body: 16-byte IV ‖ ciphertext ‖ 32-byte MAC. The MAC is over scheme byte ‖ IV ‖ length of the AAD as four bytes,
//! the highest first ‖ AAD ‖ ciphertext. It is checked, by the token, before anything is decrypted: so the padding
//! tells nobody anything.

use std::ops::RangeInclusive;

use zeroize::Zeroizing;

use super::{Bench, Keys, NotOpened, absurd, failed, of_length, random};
use crate::pkcs11::raw::{CKM_AES_CBC_PAD, CKM_SHA256_HMAC, Mechanism};
use crate::{HsmError, HsmResult, WRAP_PLAINTEXT_BYTES_MAX, WrapScheme};

const BLOCK_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
/// Lengths of the ciphertext: padding is 1 to 16 bytes.
const CIPHERTEXT_BYTES: RangeInclusive<usize> =
    BLOCK_BYTES..=WRAP_PLAINTEXT_BYTES_MAX + BLOCK_BYTES;

pub(super) fn seal(
    bench: Bench<'_>,
    keys: Keys,
    aad: &[u8],
    plaintext: &[u8],
) -> HsmResult<Vec<u8>> {
    let mac_key = keys.mac.ok_or_else(|| {
        HsmError::Config("this scheme has a second key, which was not looked for".into())
    })?;
    let iv: [u8; BLOCK_BYTES] = random()?;
    let mechanism = Mechanism::WithIv(CKM_AES_CBC_PAD, &iv);
    let ciphertext = bench
        .raw
        .encrypt(bench.session, keys.main, mechanism, plaintext)
        .map_err(failed)?;
    let expected = (plaintext.len() / BLOCK_BYTES + 1) * BLOCK_BYTES;
    if ciphertext.len() != expected {
        let what = format!("{} bytes of ciphertext, not {expected}", ciphertext.len());
        return Err(absurd("C_Encrypt", what));
    }
    let input = authenticated(&iv, aad, &ciphertext)?;
    let mac = bench
        .raw
        .sign(bench.session, mac_key, CKM_SHA256_HMAC, &input)
        .map_err(failed)?;
    if mac.len() != MAC_BYTES {
        return Err(absurd("C_Sign", format!("a MAC of {} bytes", mac.len())));
    }
    Ok([&iv, ciphertext.as_slice(), &mac].concat())
}

pub(super) fn open(
    bench: Bench<'_>,
    keys: Keys,
    aad: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let mac_key = keys.mac.ok_or(NotOpened::Forged)?;
    let (iv, ciphertext, mac) = split(body).ok_or(NotOpened::Forged)?;
    let input = authenticated(iv, aad, ciphertext).map_err(|_too_long| NotOpened::Forged)?;
    bench
        .raw
        .verify(bench.session, mac_key, CKM_SHA256_HMAC, &input, mac)?;
    let mechanism = Mechanism::WithIv(CKM_AES_CBC_PAD, iv);
    let plaintext = bench
        .raw
        .decrypt(bench.session, keys.main, mechanism, ciphertext)?;
    // Padding is 1 to 16 bytes (PKCS#11 v3.1 §6.10.4).
    of_length(plaintext, "C_Decrypt", |bytes| {
        bytes < ciphertext.len() && bytes + BLOCK_BYTES >= ciphertext.len()
    })
}

fn split(body: &[u8]) -> Option<(&[u8; BLOCK_BYTES], &[u8], &[u8; MAC_BYTES])> {
    let (iv, rest) = body.split_first_chunk()?;
    let (ciphertext, mac) = rest.split_last_chunk()?;
    let whole = ciphertext.len() % BLOCK_BYTES == 0;
    (whole && CIPHERTEXT_BYTES.contains(&ciphertext.len())).then_some((iv, ciphertext, mac))
}

/// What the MAC is over.
fn authenticated(iv: &[u8; BLOCK_BYTES], aad: &[u8], ciphertext: &[u8]) -> HsmResult<Vec<u8>> {
    let length = u32::try_from(aad.len()).map_err(|_overflow| HsmError::TooLong {
        what: "AAD",
        bytes: aad.len(),
    })?;
    let scheme = [WrapScheme::AesCbcHmac as u8];
    Ok([
        &scheme,
        iv.as_slice(),
        &length.to_be_bytes(),
        aad,
        ciphertext,
    ]
    .concat())
}
