//! `CKM_AES_GCM` through `C_Encrypt` (PKCS#11 v3.1 §6.13.3), the IV by us or by the token.
//!
//! - [`AesGcm`](crate::WrapScheme::AesGcm): 12-byte IV ‖ ciphertext ‖ 16-byte tag.
//! - [`AesGcmTokenIv`](crate::WrapScheme::AesGcmTokenIv): length of the IV in one byte ‖ IV ‖ ciphertext ‖ 16-byte tag.
//!   The length is 12, or 16 where the token knows no other (Luna before firmware 7.9.3).

use std::ops::RangeInclusive;

use cryptoki::object::ObjectHandle;
use zeroize::Zeroizing;

use super::{Bench, NotOpened, absurd, failed, of_length, random};
use crate::pkcs11::raw::{Failed, Mechanism, TAG_BYTES};
use crate::{HsmResult, WRAP_PLAINTEXT_BYTES_MAX};

/// Length of the IV (NIST SP 800-38D §5.2.1.1).
pub(super) const IV_BYTES: usize = 12;
/// Length of the IV of a token that makes a longer one.
const LONG_IV_BYTES: usize = 16;
/// Lengths of ciphertext ‖ tag.
const SEALED_BYTES: RangeInclusive<usize> = TAG_BYTES..=WRAP_PLAINTEXT_BYTES_MAX + TAG_BYTES;

/// How a token that makes the IV gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pkcs11) enum TokenIv {
    /// Over the zeros in the buffer of the parameter (`CloudHSM`, nShield).
    Written,
    /// After the tag; it wants no buffer (Luna in FIPS mode).
    Appended,
}

/// Seals under an IV of the operating system's generator. What the module leaves in its buffer is stored.
pub(super) fn seal(
    bench: Bench<'_>,
    key: ObjectHandle,
    aad: &[u8],
    plaintext: &[u8],
) -> HsmResult<Vec<u8>> {
    let mut iv: [u8; IV_BYTES] = random()?;
    let mechanism = Mechanism::Gcm { iv: &mut iv, aad };
    let sealed = bench.raw.encrypt(bench.session, key, mechanism, plaintext);
    let sealed = sealed.map_err(failed)?;
    used(&iv)?;
    right_length(&sealed, plaintext.len() + TAG_BYTES)?;
    Ok([&iv, sealed.as_slice()].concat())
}

/// Opens what [`seal`] made.
pub(super) fn open(
    bench: Bench<'_>,
    key: ObjectHandle,
    aad: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let (iv, sealed) = split(body).ok_or(NotOpened::Forged)?;
    decrypt(bench, key, &mut iv.to_owned(), aad, sealed)
}

/// IV and ciphertext ‖ tag.
pub(super) fn split(body: &[u8]) -> Option<(&[u8; IV_BYTES], &[u8])> {
    let (iv, sealed) = body.split_first_chunk()?;
    SEALED_BYTES.contains(&sealed.len()).then_some((iv, sealed))
}

/// Seals under an IV that the token makes.
pub(super) fn seal_by_token_iv(
    bench: Bench<'_>,
    key: ObjectHandle,
    aad: &[u8],
    plaintext: &[u8],
) -> HsmResult<Vec<u8>> {
    normalised(bench.dialect.token_iv, plaintext.len(), |iv| {
        let mechanism = Mechanism::Gcm { iv, aad };
        bench.raw.encrypt(bench.session, key, mechanism, plaintext)
    })
}

/// Opens what [`seal_by_token_iv`] made: with the IV in its buffer, however the token had given it.
pub(super) fn open_by_token_iv(
    bench: Bench<'_>,
    key: ObjectHandle,
    aad: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let (iv, sealed) = split_by_length(body).ok_or(NotOpened::Forged)?;
    decrypt(bench, key, &mut iv.to_owned(), aad, sealed)
}

fn decrypt(
    bench: Bench<'_>,
    key: ObjectHandle,
    iv: &mut [u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let mechanism = Mechanism::Gcm { iv, aad };
    let plaintext = bench.raw.decrypt(bench.session, key, mechanism, sealed)?;
    of_length(plaintext, "C_Decrypt", |bytes| {
        bytes + TAG_BYTES == sealed.len()
    })
}

/// The body, from what a token gives that makes the IV. `encrypt` is given the buffer for it, which may be none.
fn normalised(
    token_iv: TokenIv,
    plaintext_bytes: usize,
    encrypt: impl FnOnce(&mut [u8]) -> Result<Vec<u8>, Failed>,
) -> HsmResult<Vec<u8>> {
    let mut buffer = [0; IV_BYTES];
    let sealed_bytes = plaintext_bytes + TAG_BYTES;
    let out = match token_iv {
        TokenIv::Written => encrypt(&mut buffer),
        TokenIv::Appended => encrypt(&mut []),
    };
    let out = out.map_err(failed)?;
    let (sealed, appended) = out.split_at_checked(sealed_bytes).unwrap_or((&out, &[]));
    right_length(sealed, sealed_bytes)?;
    let (length, iv) = match (token_iv, appended.len()) {
        (TokenIv::Written, 0) => (12, buffer.as_slice()),
        (TokenIv::Appended, IV_BYTES) => (12, appended),
        (TokenIv::Appended, LONG_IV_BYTES) => (16, appended),
        (_, length) => {
            return Err(absurd(
                "C_Encrypt",
                format!("{length} bytes behind ciphertext and tag"),
            ));
        }
    };
    used(iv)?;
    Ok([&[length], iv, sealed].concat())
}

/// IV and ciphertext ‖ tag, when the length of the IV comes first.
fn split_by_length(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first()?;
    let length = usize::from(*length);
    if length != IV_BYTES && length != LONG_IV_BYTES {
        return None;
    }
    let (iv, sealed) = rest.split_at_checked(length)?;
    SEALED_BYTES.contains(&sealed.len()).then_some((iv, sealed))
}

/// A token that was to choose the IV and did not would use the same one for ever, which gives GCM's key away.
pub(super) fn used(iv: &[u8]) -> HsmResult<()> {
    if iv.iter().all(|byte| *byte == 0) {
        return Err(absurd("C_Encrypt", "it chose no IV".into()));
    }
    Ok(())
}

fn right_length(sealed: &[u8], expected: usize) -> HsmResult<()> {
    if sealed.len() != expected {
        let what = format!(
            "{} bytes of ciphertext and tag, not {expected}",
            sealed.len()
        );
        return Err(absurd("C_Encrypt", what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use super::*;
    use crate::HsmError;

    const AAD: &[u8] = b"aad";
    const PLAINTEXT: &[u8] = b"thirty-two bytes of a data key..";
    const IV: [u8; IV_BYTES] = [7; IV_BYTES];

    fn cipher() -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).expect("a key"))
    }

    fn encrypted(iv: [u8; IV_BYTES]) -> Vec<u8> {
        let mut out = PLAINTEXT.to_vec();
        let nonce = Nonce::assume_unique_for_key(iv);
        let sealed = cipher().seal_in_place_append_tag(nonce, Aad::from(AAD), &mut out);
        sealed.expect("seals");
        out
    }

    fn decrypted(iv: &[u8], sealed: &[u8]) -> Vec<u8> {
        let mut out = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(iv).expect("12 bytes");
        let opened = cipher().open_in_place(nonce, Aad::from(AAD), &mut out);
        opened.expect("opens").to_vec()
    }

    /// What a token in the manner of `CloudHSM` does.
    fn writing(iv: &mut [u8]) -> Vec<u8> {
        assert_eq!(iv, [0; IV_BYTES], "it insists on zeros");
        iv.copy_from_slice(&IV);
        encrypted(IV)
    }

    /// What a token in the manner of Luna does.
    fn appending(iv: &mut [u8]) -> Vec<u8> {
        assert!(iv.is_empty(), "it insists on no IV");
        [encrypted(IV), IV.to_vec()].concat()
    }

    #[test]
    fn an_iv_that_the_token_wrote_is_kept_and_opens() {
        let body =
            normalised(TokenIv::Written, PLAINTEXT.len(), |iv| Ok(writing(iv))).expect("seals");
        let (iv, sealed) = split_by_length(&body).expect("splits");
        assert_eq!(decrypted(iv, sealed), PLAINTEXT);
    }

    #[test]
    fn an_iv_that_the_token_appended_is_kept_and_opens() {
        let body =
            normalised(TokenIv::Appended, PLAINTEXT.len(), |iv| Ok(appending(iv))).expect("seals");
        let (iv, sealed) = split_by_length(&body).expect("splits");
        assert_eq!(decrypted(iv, sealed), PLAINTEXT);
    }

    #[test]
    fn both_manners_give_one_body() {
        let written =
            normalised(TokenIv::Written, PLAINTEXT.len(), |iv| Ok(writing(iv))).expect("seals");
        let appended =
            normalised(TokenIv::Appended, PLAINTEXT.len(), |iv| Ok(appending(iv))).expect("seals");
        assert_eq!(written, appended);
    }

    #[test]
    fn an_appended_iv_of_16_bytes_is_kept_whole() {
        let body = normalised(TokenIv::Appended, 0, |_| Ok(vec![9; TAG_BYTES + 16]));
        let body = body.expect("seals");
        let (iv, sealed) = split_by_length(&body).expect("splits");
        assert_eq!((iv, sealed), (&[9; 16][..], &[9; TAG_BYTES][..]));
    }

    #[test]
    fn a_token_that_chooses_no_iv_is_refused() {
        let left = normalised(TokenIv::Written, PLAINTEXT.len(), |_| {
            Ok(encrypted([0; IV_BYTES]))
        });
        assert!(matches!(left, Err(HsmError::Device { .. })), "{left:?}");
        let zeros = normalised(TokenIv::Appended, 0, |_| {
            Ok([vec![9; TAG_BYTES], vec![0; IV_BYTES]].concat())
        });
        assert!(matches!(zeros, Err(HsmError::Device { .. })), "{zeros:?}");
    }

    #[test]
    fn an_answer_of_another_length_is_refused() {
        for extra in [1, 11, 13, 15, 17] {
            let refused = normalised(TokenIv::Appended, 0, |_| Ok(vec![9; TAG_BYTES + extra]));
            assert!(matches!(refused, Err(HsmError::Device { .. })), "{extra}");
        }
        for short in 0..TAG_BYTES {
            let refused = normalised(TokenIv::Written, 0, |iv| {
                iv.fill(1);
                Ok(vec![9; short])
            });
            assert!(matches!(refused, Err(HsmError::Device { .. })), "{short}");
        }
    }

    #[test]
    fn a_body_whose_length_of_iv_is_absurd_does_not_split() {
        for length in (0..=u8::MAX).filter(|length| *length != 12 && *length != 16) {
            assert_eq!(split_by_length(&[&[length][..], &[1; 60]].concat()), None);
        }
    }
}
