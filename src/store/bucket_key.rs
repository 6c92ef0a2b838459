//! Bucket keys: keys between the HSM and the data keys of one bucket.
//!
//! The HSM wraps a bucket key, under a KMS key or under the server's own SSE-S3 key; the bucket key wraps data keys in
//! software. So one call of the HSM is enough for many objects. In the clear it is in the
//! [cache](super::bucket_key_cache) only, and with the request that uses it.
//!
//! ```text
//! wrapped data key = 0x01 ‖ salt[32] ‖ ciphertext[32] ‖ tag[16]
//!                    AES-256-GCM(HKDF-SHA-256(salt, bucket key, "strongroom bucket key wrap v1", 32), nonce = 0[12], aad)
//! aad              = "strongroom bucket key v1" ‖ bucket key id[16] ‖ length of the identity (4 bytes, big-endian)
//!                    ‖ identity of the object ‖ canonical bytes of the caller's encryption context
//! ```
//!
//! The salt is fresh for every wrap, so that a derived key seals one message and no count of nonces bounds a bucket key.
//! What the HSM's wrap of the bucket key is bound to: the ARN of the bucket as the encryption context under a KMS key,
//! and under the SSE-S3 key `"strongroom bucket key v1" ‖ bucket UUID[16] ‖ bucket key id[16]`, which no identity of an
//! object begins with, for an identity begins with a random UUID.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use strongroom_hsm::{DataKey, SecretBytes};
use zeroize::Zeroizing;

use super::StoreError;
use super::record::{BucketKeyId, BucketKeyRecord, KeyRecord, Uuid};
use crate::envelope::EnvelopeError;
use crate::kms::EncryptionContext;

const FORMAT: u8 = 1;
const SALT_BYTES: usize = 32;
const DOMAIN: &[u8] = b"strongroom bucket key v1";
const INFO: &[u8] = b"strongroom bucket key wrap v1";

/// A bucket key in the clear.
#[derive(Debug)] // DataKey prints [REDACTED]
pub(super) struct BucketKey {
    pub(super) id: BucketKeyId,
    pub(super) bucket: Uuid,
    /// What its row holds, or will hold with the first object.
    pub(super) record: BucketKeyRecord,
    pub(super) secret: DataKey,
}

impl BucketKey {
    /// Wraps a data key for the object with this identity.
    pub(super) fn wrap(
        &self,
        identity: &[u8],
        caller_context: &[(String, String)],
        data_key: &DataKey,
    ) -> Result<KeyRecord, StoreError> {
        let aad = self.aad(identity, caller_context)?;
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_unspecified| StoreError::Random)?;
        let mut body = Zeroizing::new(Vec::with_capacity(DataKey::BYTES + 16));
        body.extend_from_slice(data_key.expose());
        self.derived(&salt)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(aad),
                &mut *body,
            )
            .map_err(|_unspecified| StoreError::Random)?;
        let wrapped = [&[FORMAT], salt.as_slice(), &body].concat();
        Ok(KeyRecord::Bucket(self.id, wrapped, caller_context.to_vec()))
    }

    /// Unwraps what [`BucketKey::wrap`] made for the same object and context.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] for anything else.
    pub(super) fn unwrap(
        &self,
        identity: &[u8],
        caller_context: &[(String, String)],
        wrapped: &[u8],
    ) -> Result<DataKey, StoreError> {
        let damaged = || StoreError::Damaged(EnvelopeError::Unauthentic("key record"));
        let aad = self.aad(identity, caller_context)?;
        let rest = wrapped.strip_prefix(&[FORMAT]).ok_or_else(damaged)?;
        let (salt, body) = rest.split_first_chunk::<SALT_BYTES>().ok_or_else(damaged)?;
        let mut body = Zeroizing::new(body.to_vec());
        let plaintext = self
            .derived(salt)
            .open_in_place(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(aad),
                &mut body,
            )
            .map_err(|_unspecified| damaged())?;
        SecretBytes::new(plaintext.to_vec())
            .and_then(|secret| DataKey::from_secret(&secret))
            .map_err(|_length| damaged())
    }

    fn aad(
        &self,
        identity: &[u8],
        caller_context: &[(String, String)],
    ) -> Result<Vec<u8>, StoreError> {
        let context: BTreeMap<_, _> = caller_context.iter().cloned().collect();
        let context = EncryptionContext::from_map(context)?.canonical();
        // An object's key has 1,024 bytes at most.
        let length = u32::try_from(identity.len()).unwrap_or(u32::MAX);
        Ok([
            DOMAIN,
            self.id.as_bytes(),
            &length.to_be_bytes(),
            identity,
            &context,
        ]
        .concat())
    }

    fn derived(&self, salt: &[u8; SALT_BYTES]) -> LessSafeKey {
        let prk = Salt::new(HKDF_SHA256, salt).extract(self.secret.expose());
        let okm = prk
            .expand(&[INFO], &AES_256_GCM)
            .expect("32 bytes are within the 255 * 32 that HKDF-SHA-256 gives");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

/// What the SSE-S3 key's wrap of a bucket key is bound to.
pub(super) fn internal_aad(bucket: &Uuid, id: &BucketKeyId) -> Vec<u8> {
    [DOMAIN, bucket, id.as_bytes()].concat()
}

/// A fresh id.
pub(super) fn fresh_id(now_ms: i64) -> Result<BucketKeyId, StoreError> {
    let mut random = [0; 10];
    rand::fill(&mut random).map_err(|_unspecified| StoreError::Random)?;
    Ok(BucketKeyId::new(now_ms, random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::BucketKeyWrap;

    fn bucket_key(id: u8) -> BucketKey {
        let secret = SecretBytes::new(vec![7; 32]).expect("short");
        BucketKey {
            id: BucketKeyId::from_bytes([id; 16]),
            bucket: [1; 16],
            record: BucketKeyRecord {
                created_ms: 0,
                wrap: BucketKeyWrap::S3(Vec::new()),
            },
            secret: DataKey::from_secret(&secret).expect("32 bytes"),
        }
    }

    fn pairs(value: &str) -> Vec<(String, String)> {
        vec![("team".to_owned(), value.to_owned())]
    }

    fn wrapped(record: &KeyRecord) -> &[u8] {
        match record {
            KeyRecord::Bucket(_, wrapped, _) => wrapped,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrap_opens_for_its_key_object_and_context_only() {
        let (mine, other) = (bucket_key(1), bucket_key(2));
        let data_key = DataKey::random().expect("randomness");
        let record = mine.wrap(b"object", &pairs("a"), &data_key).expect("wraps");
        let sealed = wrapped(&record);
        let opened = mine.unwrap(b"object", &pairs("a"), sealed).expect("opens");
        assert_eq!(opened.expose(), data_key.expose());
        // The other one has the same bytes, and another id.
        for (key, identity, context) in [
            (&other, b"object".as_slice(), "a"),
            (&mine, b"objects", "a"),
            (&mine, b"object", "b"),
        ] {
            assert!(matches!(
                key.unwrap(identity, &pairs(context), sealed),
                Err(StoreError::Damaged(_))
            ));
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_of_a_wrap_is_found() {
        let key = bucket_key(1);
        let data_key = DataKey::random().expect("randomness");
        let record = key.wrap(b"object", &[], &data_key).expect("wraps");
        let sealed = wrapped(&record);
        assert_eq!(sealed.len(), 1 + SALT_BYTES + 32 + 16);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.unwrap(b"object", &[], &changed).is_err(), "{bit}");
        }
        for length in 0..sealed.len() {
            assert!(key.unwrap(b"object", &[], &sealed[..length]).is_err());
        }
    }

    #[test]
    fn a_byte_that_moves_from_the_identity_to_the_context_changes_what_is_authenticated() {
        let key = bucket_key(1);
        let one = key.aad(b"object", &pairs("a")).expect("short");
        let context = EncryptionContext::from_map(pairs("a").into_iter().collect())
            .expect("short")
            .canonical();
        let longer = [b"object".as_slice(), &context].concat();
        assert_ne!(one, key.aad(&longer, &[]).expect("short"));
    }

    #[test]
    fn a_wrap_of_version_1_opens_for_ever() {
        let mut salt = [0; SALT_BYTES];
        salt[0] = 9;
        let aad = [
            DOMAIN,
            &[1; 16],
            &[0, 0, 0, 6],
            b"object",
            &[0, 0, 0, 4],
            b"team",
            &[0, 0, 0, 1],
            b"a",
        ]
        .concat();
        // Made here by another implementation of AES-256-GCM and of HKDF's place in it.
        let golden = golden_wrap(&[7; 32], &salt, &aad, &[5; 32]);
        let opened = bucket_key(1)
            .unwrap(b"object", &pairs("a"), &golden)
            .expect("opens");
        assert_eq!(opened.expose(), &[5; 32]);
    }

    fn golden_wrap(key: &[u8; 32], salt: &[u8], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
        use aws_lc_rs::hmac;
        // RFC 5869: extract is HMAC(salt, key), and one block of expand is HMAC(prk, info ‖ 01).
        let mac = |key: &[u8], data: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
                .as_ref()
                .to_vec()
        };
        let derived = mac(&mac(salt, key), &[INFO, &[1]].concat());
        let cipher = aes_gcm::Aes256Gcm::new_from_slice(&derived).expect("32 bytes");
        let body = cipher
            .encrypt(
                &[0; 12].into(),
                Payload {
                    msg: plaintext,
                    aad,
                },
            )
            .expect("seals");
        [&[FORMAT], salt, &body].concat()
    }

    #[test]
    fn ids_sort_the_newest_first() {
        let old = fresh_id(1_700_000_000_000).expect("randomness");
        let new = fresh_id(1_700_000_000_001).expect("randomness");
        assert!(new.as_bytes() < old.as_bytes());
    }
}
