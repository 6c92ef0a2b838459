//! A customer's key (SSE-C): wraps the object's data key in software, is never stored, and lives for one request.
//!
//! ```text
//! wrapped = 0x01 ‖ salt[32] ‖ ciphertext[32] ‖ tag[16]
//!           AES-256-GCM(HKDF(salt, customer key, "strongroom sse-c wrap v1", 32), nonce = 0[12], aad = identity)
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use secrecy::{ExposeSecret, SecretBox};
use strongroom_hsm::{DataKey, SecretBytes};
use zeroize::Zeroizing;

use super::StoreError;

const FORMAT: u8 = 1;
const SALT_BYTES: usize = 32;

/// A 256-bit key that came with a request. Zeroed on drop.
#[derive(Debug)] // SecretBox prints [REDACTED]
pub struct CustomerKey(SecretBox<[u8; 32]>);

impl CustomerKey {
    /// The key with these bytes.
    pub fn new(bytes: Box<[u8; 32]>) -> Self {
        Self(SecretBox::new(bytes))
    }

    /// Wraps a data key for the object with this identity.
    pub(super) fn wrap(&self, identity: &[u8], data_key: &DataKey) -> Result<Vec<u8>, StoreError> {
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_unspecified| StoreError::Random)?;
        let mut body = Zeroizing::new(Vec::with_capacity(DataKey::BYTES + 16));
        body.extend_from_slice(data_key.expose());
        // The salt is fresh, so the derived key seals this one message.
        self.key(&salt)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(identity),
                &mut *body,
            )
            .map_err(|_unspecified| StoreError::Random)?;
        Ok([&[FORMAT], salt.as_slice(), &body].concat())
    }

    /// Unwraps what [`CustomerKey::wrap`] made with the same key for the same identity.
    pub(super) fn unwrap(&self, identity: &[u8], wrapped: &[u8]) -> Result<DataKey, StoreError> {
        let rest = wrapped
            .strip_prefix(&[FORMAT])
            .ok_or(StoreError::CustomerKeyWrong)?;
        let (salt, body) = rest
            .split_first_chunk::<SALT_BYTES>()
            .ok_or(StoreError::CustomerKeyWrong)?;
        let mut body = Zeroizing::new(body.to_vec());
        let plaintext = self
            .key(salt)
            .open_in_place(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(identity),
                &mut body,
            )
            .map_err(|_unspecified| StoreError::CustomerKeyWrong)?;
        SecretBytes::new(plaintext.to_vec())
            .and_then(|secret| DataKey::from_secret(&secret))
            .map_err(|_length| StoreError::CustomerKeyWrong)
    }

    fn key(&self, salt: &[u8]) -> LessSafeKey {
        let prk = Salt::new(HKDF_SHA256, salt).extract(self.0.expose_secret());
        let okm = prk
            .expand(&[b"strongroom sse-c wrap v1"], &AES_256_GCM)
            .expect("32 bytes are within the 255 * 32 that HKDF-SHA-256 gives");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_opens_with_its_key_and_identity_only() {
        let (mine, other) = (
            CustomerKey::new(Box::new([1; 32])),
            CustomerKey::new(Box::new([2; 32])),
        );
        let data_key = DataKey::random().expect("randomness");
        let wrapped = mine.wrap(b"object", &data_key).expect("wraps");
        assert_eq!(
            mine.unwrap(b"object", &wrapped).expect("opens").expose(),
            data_key.expose()
        );
        assert!(matches!(
            other.unwrap(b"object", &wrapped),
            Err(StoreError::CustomerKeyWrong)
        ));
        assert!(matches!(
            mine.unwrap(b"another", &wrapped),
            Err(StoreError::CustomerKeyWrong)
        ));
        assert!(matches!(
            mine.unwrap(b"object", &wrapped[..40]),
            Err(StoreError::CustomerKeyWrong)
        ));
    }
}
