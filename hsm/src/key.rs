//! Names of backing keys and what is made with them.

use std::fmt;

use crate::{HsmError, HsmResult};

/// Names one backing key for ever: the `CKA_ID` of its object, `KeyMaterialId` (64 hex digits) on the KMS wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackingKeyId([u8; Self::BYTES]);

impl BackingKeyId {
    /// Length of the identity.
    pub const BYTES: usize = 32;

    /// A fresh identity from the operating system's generator.
    ///
    /// # Errors
    ///
    /// [`HsmError::Random`] when the operating system has no randomness to give.
    pub fn random() -> HsmResult<Self> {
        let mut bytes = [0; Self::BYTES];
        getrandom::fill(&mut bytes).map_err(|source| HsmError::Random(source.into()))?;
        Ok(Self(bytes))
    }

    /// The identity with these bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of `CKA_ID`.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Reads 64 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for BackingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BackingKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackingKeyId({self})")
    }
}

/// A known ciphertext under a backing key, made when the key was: what opens it is that key and no other.
///
/// The plaintext is 32 fixed bytes and the AAD is `"strongroom canary v1"` ‖ `CKA_ID`.
#[derive(Clone, PartialEq, Eq)]
pub struct Canary(pub Wrapped);

impl Canary {
    /// The plaintext of every canary.
    pub const PLAINTEXT: &'static [u8; 32] = b"strongroom: this key is the key!";

    /// The AAD of the canary of `id`.
    pub fn aad(id: &BackingKeyId) -> Vec<u8> {
        [b"strongroom canary v1".as_slice(), id.as_bytes()].concat()
    }
}

impl fmt::Debug for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canary(..)")
    }
}

/// What a token hands out of a key that it made, for whoever records the key to keep and to show again.
///
/// Empty where the token keeps the key, has made it, and finds it by its identity (PKCS#11). Of a pair of keys it is the
/// public half. A TPM keeps only the parent of its
/// keys: there it is the key's public area and its private area, encrypted by that parent. Safe to store and to show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyBlob(Vec<u8>);

impl KeyBlob {
    /// The most bytes a blob has.
    pub const BYTES_MAX: usize = 2048;

    /// No bytes: the token finds the key by its identity.
    pub const EMPTY: Self = Self(Vec::new());

    /// What a PKCS#11 token's key is recorded with whose material was brought along: one byte. Such a key has not been in
    /// the token always, and is not judged as if it had.
    pub(crate) fn imported() -> Self {
        Self(vec![1])
    }

    pub(crate) fn is_imported(&self) -> bool {
        self.0 == [1]
    }

    /// Reads a stored blob.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`] beyond [`KeyBlob::BYTES_MAX`].
    pub fn from_bytes(bytes: &[u8]) -> HsmResult<Self> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(HsmError::TooLong {
                what: "key blob",
                bytes: bytes.len(),
            });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for KeyBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBlob({} bytes)", self.0.len())
    }
}

/// A backing key as its users name it: who it is, where it is if not in the token, and how to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingKey {
    /// Its `CKA_ID`.
    pub id: BackingKeyId,
    /// What the token wants to be shown.
    pub blob: KeyBlob,
    /// Opened on every newly found handle before that is used.
    pub canary: Canary,
}

/// How a token wraps. The number is the first byte of every wrapped value and never changes its meaning.
///
/// A key has one scheme, that of its canary. A scheme without AAD of its own binds it by a digest inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum WrapScheme {
    /// `CKM_AES_GCM` through `C_Encrypt`, the IV ours: 12-byte IV ‖ ciphertext ‖ 16-byte tag.
    AesGcm = 1,
    /// The same with an IV that the token makes: the IV's length (12 or 16) in one byte ‖ IV ‖ ciphertext ‖ 16-byte tag.
    AesGcmTokenIv = 2,
    /// The bytes of [`WrapScheme::AesGcm`], by the message interface of PKCS#11 v3.0 (`C_EncryptMessage`), the IV the
    /// token's if it makes one.
    AesGcmMessage = 3,
    /// `CKM_AES_KEY_WRAP_KWP` of a session object: 16-byte salt ‖ wrap of plaintext ‖ SHA-256(salt ‖ AAD).
    AesKwp = 4,
    /// `CKM_AES_CBC_PAD`, then `CKM_SHA256_HMAC` under a second key: 16-byte IV ‖ ciphertext ‖ 32-byte MAC over scheme
    /// byte ‖ IV ‖ length of the AAD in four bytes ‖ AAD ‖ ciphertext.
    AesCbcHmac = 5,
    /// A TPM 2.0 object sealed under the key.
    TpmSealed = 6,
}

impl WrapScheme {
    /// Every scheme, best first: what a token is tried for, in this order.
    pub const ALL: [Self; 6] = [
        Self::AesGcm,
        Self::AesGcmTokenIv,
        Self::AesGcmMessage,
        Self::AesKwp,
        Self::AesCbcHmac,
        Self::TpmSealed,
    ];

    /// Its name in the configuration and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aes-gcm",
            Self::AesGcmTokenIv => "aes-gcm-token-iv",
            Self::AesGcmMessage => "aes-gcm-message",
            Self::AesKwp => "aes-kwp",
            Self::AesCbcHmac => "aes-cbc-hmac",
            Self::TpmSealed => "tpm-sealed",
        }
    }

    /// The scheme with this number.
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::AesGcm),
            2 => Some(Self::AesGcmTokenIv),
            3 => Some(Self::AesGcmMessage),
            4 => Some(Self::AesKwp),
            5 => Some(Self::AesCbcHmac),
            6 => Some(Self::TpmSealed),
            _ => None,
        }
    }
}

/// What a token made of a plaintext: scheme byte ‖ body. Ciphertext; safe to store and to show.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped(Vec<u8>);

impl Wrapped {
    /// The most bytes a wrapped value has in any scheme.
    pub const BYTES_MAX: usize = 1024;

    /// Scheme and body, put together.
    pub fn new(scheme: WrapScheme, body: &[u8]) -> Self {
        Self([&[scheme as u8], body].concat())
    }

    /// Reads a stored value.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unauthentic`] when it is empty, too long or of an unknown scheme.
    pub fn from_bytes(bytes: &[u8]) -> HsmResult<Self> {
        let scheme = bytes.first().copied().and_then(WrapScheme::from_u8);
        if scheme.is_none() || bytes.len() > Self::BYTES_MAX {
            return Err(HsmError::Unauthentic);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its scheme.
    pub fn scheme(&self) -> Option<WrapScheme> {
        self.0.first().copied().and_then(WrapScheme::from_u8)
    }

    /// What follows the scheme byte.
    pub fn body(&self) -> &[u8] {
        self.0.get(1..).unwrap_or_default()
    }
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wrapped({} bytes)", self.0.len())
    }
}
