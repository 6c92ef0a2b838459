//! Plaintext that came out of a wrap, or goes into one.

use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};

use crate::{HsmError, HsmResult, WRAP_PLAINTEXT_BYTES_MAX};

/// A 256-bit data key in the clear. Lives for one request; zeroed on drop; boxed, so that a move leaves no copy.
#[derive(Debug)] // SecretBox prints [REDACTED]
pub struct DataKey(SecretBox<[u8; DataKey::BYTES]>);

impl DataKey {
    /// Length of the key.
    pub const BYTES: usize = 32;

    /// A fresh key from the operating system's generator, filled in place.
    ///
    /// # Errors
    ///
    /// [`HsmError::Random`] when the operating system has no randomness to give.
    pub fn random() -> HsmResult<Self> {
        let mut key = SecretBox::new(Box::new([0; Self::BYTES]));
        getrandom::fill(key.expose_secret_mut())
            .map_err(|source| HsmError::Random(source.into()))?;
        Ok(Self(key))
    }

    /// The key with these bytes.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unauthentic`] when there are not exactly 32.
    pub fn from_secret(bytes: &SecretBytes) -> HsmResult<Self> {
        let mut key = SecretBox::new(Box::new([0; Self::BYTES]));
        if bytes.expose().len() != Self::BYTES {
            return Err(HsmError::Unauthentic);
        }
        key.expose_secret_mut().copy_from_slice(bytes.expose());
        Ok(Self(key))
    }

    /// The bytes, for a key schedule or a wrap.
    pub fn expose(&self) -> &[u8; Self::BYTES] {
        self.0.expose_secret()
    }
}

/// Secret bytes of any length up to what a wrap takes. Zeroed on drop.
#[derive(Debug)] // SecretBox prints [REDACTED]
pub struct SecretBytes(SecretBox<[u8]>);

impl SecretBytes {
    /// Takes the bytes over.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`] beyond [`WRAP_PLAINTEXT_BYTES_MAX`]; the bytes are zeroed then, too.
    pub fn new(bytes: Vec<u8>) -> HsmResult<Self> {
        let length = bytes.len();
        let secret = Self(SecretBox::new(bytes.into_boxed_slice()));
        if length > WRAP_PLAINTEXT_BYTES_MAX {
            return Err(HsmError::TooLong {
                what: "plaintext",
                bytes: length,
            });
        }
        Ok(secret)
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// A second copy, for a call that may have to be made twice.
    pub(crate) fn duplicate(&self) -> Self {
        Self(SecretBox::new(Box::from(self.expose())))
    }
}

impl From<&DataKey> for SecretBytes {
    fn from(key: &DataKey) -> Self {
        Self(SecretBox::new(Box::from(key.expose().as_slice())))
    }
}
