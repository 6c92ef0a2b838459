//! `CiphertextBlob`, byte for byte.
//!
//! ```text
//! offset  bytes
//!      0      1  version: 1
//!      1     16  key id
//!     17      4  backing key version, big-endian
//!     21      1  form: 1 direct, 2 large
//!     22         form 1: what the token made of the plaintext (scheme byte ‖ body)
//!                form 2: length of the wrapped one-time key in 2 bytes, big-endian
//!                        ‖ the one-time key as the token wrapped it (scheme byte ‖ body)
//!                        ‖ the plaintext in AES-256-GCM under the one-time key ‖ 16-byte tag
//! ```
//!
//! The first 22 bytes are the header. AAD of every wrap, and in form 2 of the payload as well:
//! `"strongroom kms v1"` ‖ header ‖ canonical encryption context. So the key, its backing key version, the form and
//! the context are bound, and nothing that the server wraps for itself (`internal`) can pass for a ciphertext.
//!
//! Form 1 takes what a token takes (64 bytes); form 2 takes the rest. The nonce of the payload is twelve zero bytes:
//! the one-time key seals this one plaintext and is never seen again without it (SP 800-38D §8.2 asks that a pair of
//! key and IV never repeats, and the key does not).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use strongroom_hsm::{DataKey, Wrapped};
use zeroize::Zeroizing;

use super::context::EncryptionContext;
use super::error::KmsError;
use super::key::KeyId;

/// The most bytes of a `CiphertextBlob`, as AWS has it.
pub const CIPHERTEXT_BYTES_MAX: usize = 6144;
/// The most plaintext bytes that kms:Encrypt takes, as AWS has it.
pub const PLAINTEXT_BYTES_MAX: usize = 4096;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + KeyId::BYTES + 4 + 1;
const DOMAIN: &[u8] = b"strongroom kms v1";
const TAG_BYTES: usize = 16;

// The largest ciphertext of ours is one that AWS would take.
const _: () = assert!(
    HEADER_BYTES + 2 + Wrapped::BYTES_MAX + PLAINTEXT_BYTES_MAX + TAG_BYTES <= CIPHERTEXT_BYTES_MAX
);

/// How a ciphertext holds its plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// The token wrapped the plaintext itself.
    Direct = 1,
    /// The token wrapped a one-time key, and that the plaintext.
    Large = 2,
}

/// What a ciphertext says of itself, and what is authenticated of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key_id: KeyId,
    pub(super) version: u32,
    pub(super) form: Form,
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        [
            [VERSION].as_slice(),
            self.key_id.as_bytes(),
            &self.version.to_be_bytes(),
            &[self.form as u8],
        ]
        .concat()
    }

    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&version, rest) = bytes.split_first()?;
        let (key_id, rest) = rest.split_first_chunk()?;
        let (backing_version, rest) = rest.split_first_chunk()?;
        let (&form, body) = rest.split_first()?;
        let form = match form {
            1 => Form::Direct,
            2 => Form::Large,
            _ => return None,
        };
        let header = Self {
            key_id: KeyId::from_bytes(*key_id),
            version: u32::from_be_bytes(*backing_version),
            form,
        };
        (version == VERSION).then_some((header, body))
    }

    /// The AAD of every layer.
    pub(super) fn aad(self, context: &EncryptionContext) -> Vec<u8> {
        [DOMAIN, &self.to_bytes(), &context.canonical()].concat()
    }
}

/// An encrypted data key, or any other `CiphertextBlob`: safe to store and to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedDataKey {
    bytes: Vec<u8>,
    header: Header,
}

/// The layers of a ciphertext, as far as they can be told without a key.
pub(super) struct Parts<'a> {
    /// What the token made: of the plaintext in the direct form, of the one-time key in the large one.
    pub(super) wrapped: Wrapped,
    /// The sealed plaintext of the large form.
    pub(super) payload: Option<&'a [u8]>,
}

impl EncryptedDataKey {
    /// Reads what [`EncryptedDataKey::as_bytes`] gave.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidCiphertext`] for anything else.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, KmsError> {
        let bytes = bytes.into();
        if bytes.len() > CIPHERTEXT_BYTES_MAX {
            return Err(KmsError::InvalidCiphertext);
        }
        let (header, _body) = Header::parse(&bytes).ok_or(KmsError::InvalidCiphertext)?;
        Ok(Self { bytes, header })
    }

    /// The ciphertext of the direct form.
    pub(super) fn direct(header: Header, wrapped: &Wrapped) -> Self {
        debug_assert_eq!(header.form, Form::Direct);
        Self {
            bytes: [&header.to_bytes(), wrapped.as_bytes()].concat(),
            header,
        }
    }

    /// The ciphertext of the large form: `one_time_key`, which `wrapped` is the wrap of, seals `plaintext` and dies.
    pub(super) fn large(
        header: Header,
        wrapped: &Wrapped,
        one_time_key: DataKey,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Self, KmsError> {
        debug_assert_eq!(header.form, Form::Large);
        let mut payload = Zeroizing::new(plaintext.to_vec());
        let tag = payload_key(&one_time_key)?
            .seal_in_place_separate_tag(
                payload_nonce(),
                Aad::from(header.aad(context)),
                &mut payload,
            )
            .map_err(|_unspecified| KmsError::internal("sealing a payload"))?;
        drop(one_time_key);
        let wrapped = wrapped.as_bytes();
        let length = u16::try_from(wrapped.len())
            .map_err(|_long| KmsError::internal("a wrapped key is longer than any may be"))?;
        let bytes = [
            &header.to_bytes(),
            length.to_be_bytes().as_slice(),
            wrapped,
            &payload,
            tag.as_ref(),
        ]
        .concat();
        Ok(Self { bytes, header })
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The KMS key it was made under, which may be gone.
    pub fn key_id(&self) -> KeyId {
        self.header.key_id
    }

    /// The backing key version it was made under.
    pub fn backing_version(&self) -> u32 {
        self.header.version
    }

    pub(super) fn header(&self) -> Header {
        self.header
    }

    pub(super) fn parts(&self) -> Result<Parts<'_>, KmsError> {
        let body = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let (wrapped, payload) = match self.header.form {
            Form::Direct => (body, None),
            Form::Large => {
                let (length, rest) = body
                    .split_first_chunk()
                    .ok_or(KmsError::InvalidCiphertext)?;
                let length = usize::from(u16::from_be_bytes(*length));
                let (wrapped, payload) = rest
                    .split_at_checked(length)
                    .ok_or(KmsError::InvalidCiphertext)?;
                (wrapped, Some(payload))
            }
        };
        let wrapped =
            Wrapped::from_bytes(wrapped).map_err(|_unknown_scheme| KmsError::InvalidCiphertext)?;
        Ok(Parts { wrapped, payload })
    }
}

/// Opens the payload of the large form.
pub(super) fn open_payload(
    header: Header,
    one_time_key: &DataKey,
    context: &EncryptionContext,
    payload: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let mut buffer = Zeroizing::new(payload.to_vec());
    let length = payload_key(one_time_key)?
        .open_in_place(payload_nonce(), Aad::from(header.aad(context)), &mut buffer)
        .map_err(|_unspecified| KmsError::InvalidCiphertext)?
        .len();
    buffer.truncate(length);
    Ok(buffer)
}

fn payload_key(key: &DataKey) -> Result<LessSafeKey, KmsError> {
    UnboundKey::new(&AES_256_GCM, key.expose())
        .map(LessSafeKey::new)
        .map_err(|_unspecified| KmsError::internal("a key schedule"))
}

fn payload_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use strongroom_hsm::{DataKey, SecretBytes, WrapScheme, Wrapped};

    use super::{EncryptedDataKey, Form, Header, open_payload};
    use crate::kms::context::EncryptionContext;
    use crate::kms::key::KeyId;

    fn header(form: Form) -> Header {
        let key_id = KeyId::parse("00112233-4455-6677-8899-aabbccddeeff").expect("a key id");
        Header {
            key_id,
            version: 7,
            form,
        }
    }

    fn context() -> EncryptionContext {
        EncryptionContext::from_map([("a".to_owned(), "b".to_owned())].into()).expect("short")
    }

    fn one_time_key() -> DataKey {
        DataKey::from_secret(&SecretBytes::new((0..32).collect()).expect("32 bytes"))
            .expect("32 bytes")
    }

    /// Golden: only ever added to.
    const DIRECT: &str = "0100112233445566778899aabbccddeeff000000070101c0ffee";
    const DIRECT_AAD: &str = "7374726f6e67726f6f6d206b6d73207631\
        0100112233445566778899aabbccddeeff0000000701000000016100000001\
        62";
    const LARGE: &str = "0100112233445566778899aabbccddeeff0000000702000401c0ffee7dc8c7b1db4bf1d267c5e4ae96379fc25349dd1d8bccc9ae7ee4";

    #[test]
    fn the_direct_form_is_these_bytes() {
        let wrapped = Wrapped::new(WrapScheme::AesGcm, &[0xC0, 0xFF, 0xEE]);
        let made = EncryptedDataKey::direct(header(Form::Direct), &wrapped);
        assert_eq!(hex::encode(made.as_bytes()), DIRECT);
        assert_eq!(
            hex::encode(header(Form::Direct).aad(&context())),
            DIRECT_AAD
        );
        let read =
            EncryptedDataKey::from_bytes(hex::decode(DIRECT).expect("hex")).expect("a ciphertext");
        assert_eq!(read, made);
        assert_eq!(read.parts().expect("its parts").wrapped, wrapped);
    }

    #[test]
    fn the_large_form_is_these_bytes() {
        let wrapped = Wrapped::new(WrapScheme::AesGcm, &[0xC0, 0xFF, 0xEE]);
        let header = header(Form::Large);
        let made =
            EncryptedDataKey::large(header, &wrapped, one_time_key(), &context(), b"strongroom")
                .expect("sealed");
        assert_eq!(hex::encode(made.as_bytes()), LARGE);
        let read =
            EncryptedDataKey::from_bytes(hex::decode(LARGE).expect("hex")).expect("a ciphertext");
        let payload = read
            .parts()
            .expect("its parts")
            .payload
            .expect("a payload")
            .to_vec();
        let opened = open_payload(header, &one_time_key(), &context(), &payload).expect("opens");
        assert_eq!(opened.as_slice(), b"strongroom");
    }

    #[test]
    fn a_payload_does_not_open_under_another_header_or_context() {
        let wrapped = Wrapped::new(WrapScheme::AesGcm, &[1]);
        let header = header(Form::Large);
        let made =
            EncryptedDataKey::large(header, &wrapped, one_time_key(), &context(), b"strongroom")
                .expect("sealed");
        let payload = made
            .parts()
            .expect("its parts")
            .payload
            .expect("a payload")
            .to_vec();
        let other_version = Header {
            version: 8,
            ..header
        };
        assert!(open_payload(other_version, &one_time_key(), &context(), &payload).is_err());
        assert!(
            open_payload(
                header,
                &one_time_key(),
                &EncryptionContext::default(),
                &payload
            )
            .is_err()
        );
    }

    #[test]
    fn what_is_cut_or_of_an_unknown_version_or_form_is_no_ciphertext() {
        let bytes = hex::decode(DIRECT).expect("hex");
        for cut in 0..22 {
            assert!(EncryptedDataKey::from_bytes(bytes.get(..cut).expect("a prefix")).is_err());
        }
        for (at, value) in [(0, 0), (0, 2), (21, 0), (21, 3)] {
            let mut other = bytes.clone();
            *other.get_mut(at).expect("in the header") = value;
            assert!(EncryptedDataKey::from_bytes(other).is_err());
        }
    }

    #[test]
    fn a_large_form_whose_length_points_outside_is_refused() {
        let mut bytes = hex::decode(DIRECT).expect("hex");
        bytes.truncate(21);
        bytes.extend([2, 0xFF, 0xFF, 1, 2, 3]);
        assert!(
            EncryptedDataKey::from_bytes(bytes)
                .expect("a header")
                .parts()
                .is_err()
        );
    }
}
