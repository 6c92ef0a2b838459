//! The schemes of PKCS#11, one a file: how a plaintext becomes the body of a wrapped value, and back.
//!
//! All bind the AAD, all are randomised, and none shows a byte of plaintext before it is authentic. A body's layout is
//! in the file of its scheme and never changes.

mod cbc_hmac;
mod gcm;
mod kwp;
mod message;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use zeroize::Zeroizing;

pub(super) use self::gcm::TokenIv;
use super::error::failed;
use super::key::Role;
use super::raw::{
    CK_MECHANISM_TYPE, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD, Failed, Generator, Raw,
};
use crate::{HsmError, HsmResult, WrapScheme};

/// The schemes a token may have, the preferred one first: those that take one call of the module, then those that take
/// more, and last the one that takes two keys.
pub(super) const BY_PREFERENCE: [WrapScheme; 5] = [
    WrapScheme::AesGcm,
    WrapScheme::AesGcmTokenIv,
    WrapScheme::AesGcmMessage,
    WrapScheme::AesKwp,
    WrapScheme::AesCbcHmac,
];

/// The objects of one backing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keys {
    /// The AES key.
    pub(super) main: ObjectHandle,
    /// The key of the MAC, in the scheme that has one.
    pub(super) mac: Option<ObjectHandle>,
    /// The number of RFC 5649's wrap for this key, where it is another than the dialect's: by which it was wrapped when
    /// the library had another version, or the token was ill when it was tried.
    pub(super) kwp: Option<CK_MECHANISM_TYPE>,
}

impl Keys {
    /// The same with the other number.
    pub(super) fn with_other_kwp(self, dialect: Dialect) -> Self {
        let other = match self.kwp.unwrap_or(dialect.kwp) {
            CKM_AES_KEY_WRAP_KWP => CKM_AES_KEY_WRAP_PAD,
            _ => CKM_AES_KEY_WRAP_KWP,
        };
        Self {
            kwp: Some(other),
            ..self
        }
    }
}

/// In which of the permitted ways a token does what a scheme needs. Found by trial; says nothing about what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// How a token that makes the IV gives it.
    pub(in crate::pkcs11) token_iv: TokenIv,
    /// Who makes the IV in the message interface.
    pub(in crate::pkcs11) generator: Generator,
    /// The number of RFC 5649's wrap: `CKM_AES_KEY_WRAP_KWP`, or `CKM_AES_KEY_WRAP_PAD` of PKCS#11 v2.40, which is
    /// the same in some modules and something else in others.
    pub(in crate::pkcs11) kwp: CK_MECHANISM_TYPE,
    /// Whether `C_UnwrapKey` wants `CKA_VALUE_LEN` of a secret. Luna does, others refuse it.
    pub(in crate::pkcs11) unwrap_length: bool,
}

impl Dialect {
    /// The bits of [`Dialect::to_byte`], of what is not the standard's way.
    const APPENDED: u8 = 1;
    const BY_CALLER: u8 = 2;
    const PAD: u8 = 4;
    const UNWRAP_LENGTH: u8 = 8;

    /// In one byte, for another process of this build.
    pub(crate) fn to_byte(self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.token_iv == TokenIv::Appended, Self::APPENDED)
            | bit(self.generator == Generator::Caller, Self::BY_CALLER)
            | bit(self.kwp == CKM_AES_KEY_WRAP_PAD, Self::PAD)
            | bit(self.unwrap_length, Self::UNWRAP_LENGTH)
    }

    /// None for a byte that says what this build does not know.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        let mut dialect = Self::default();
        if byte & Self::APPENDED != 0 {
            dialect.token_iv = TokenIv::Appended;
        }
        if byte & Self::BY_CALLER != 0 {
            dialect.generator = Generator::Caller;
        }
        if byte & Self::PAD != 0 {
            dialect.kwp = CKM_AES_KEY_WRAP_PAD;
        }
        dialect.unwrap_length = byte & Self::UNWRAP_LENGTH != 0;
        (dialect.to_byte() == byte).then_some(dialect)
    }
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            token_iv: TokenIv::Written,
            generator: Generator::Token,
            kwp: CKM_AES_KEY_WRAP_KWP,
            unwrap_length: false,
        }
    }
}

/// What a scheme works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) raw: &'a Raw,
    pub(super) session: &'a Session,
    pub(super) dialect: Dialect,
}

/// Why a body was not opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// It is not what was sealed, whatever the token's health.
    Forged,
    /// A call failed, which may say so, or something else.
    Failed(Failed),
    /// No call was made.
    Other(HsmError),
}

impl From<Failed> for NotOpened {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

/// A plaintext has the length that its ciphertext says: a module that says otherwise is wrong about either.
fn of_length(
    plaintext: Zeroizing<Vec<u8>>,
    function: &'static str,
    fits: impl FnOnce(usize) -> bool,
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    if fits(plaintext.len()) {
        return Ok(plaintext);
    }
    let what = format!("{} bytes of plaintext for its ciphertext", plaintext.len());
    Err(NotOpened::Other(absurd(function, what)))
}

/// The parts that the key objects of `scheme` have: the AES key first. None for a scheme that is not PKCS#11's.
pub(super) fn roles(scheme: WrapScheme) -> Option<(Role, Option<Role>)> {
    match scheme {
        WrapScheme::AesGcm | WrapScheme::AesGcmTokenIv | WrapScheme::AesGcmMessage => {
            Some((Role::Cipher, None))
        }
        WrapScheme::AesKwp => Some((Role::Wrapper, None)),
        WrapScheme::AesCbcHmac => Some((Role::Cipher, Some(Role::Mac))),
        WrapScheme::TpmSealed => None,
    }
}

/// Seals `plaintext` with `aad` bound: the body of the wrapped value.
///
/// # Errors
///
/// What the device says, and [`HsmError::Random`].
pub(super) fn seal(
    bench: Bench<'_>,
    scheme: WrapScheme,
    keys: Keys,
    aad: &[u8],
    plaintext: &[u8],
) -> HsmResult<Vec<u8>> {
    match scheme {
        WrapScheme::AesGcm => gcm::seal(bench, keys.main, aad, plaintext),
        WrapScheme::AesGcmTokenIv => gcm::seal_by_token_iv(bench, keys.main, aad, plaintext),
        WrapScheme::AesGcmMessage => message::seal(bench, keys.main, aad, plaintext),
        WrapScheme::AesKwp => kwp::seal(bench, keys, aad, plaintext),
        WrapScheme::AesCbcHmac => cbc_hmac::seal(bench, keys, aad, plaintext),
        WrapScheme::TpmSealed => Err(HsmError::Config(
            "a PKCS#11 token seals no TPM objects".into(),
        )),
    }
}

/// Opens a body that [`seal`] made.
pub(super) fn open(
    bench: Bench<'_>,
    scheme: WrapScheme,
    keys: Keys,
    aad: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    match scheme {
        WrapScheme::AesGcm => gcm::open(bench, keys.main, aad, body),
        WrapScheme::AesGcmTokenIv => gcm::open_by_token_iv(bench, keys.main, aad, body),
        WrapScheme::AesGcmMessage => message::open(bench, keys.main, aad, body),
        WrapScheme::AesKwp => kwp::open(bench, keys, aad, body),
        WrapScheme::AesCbcHmac => cbc_hmac::open(bench, keys, aad, body),
        WrapScheme::TpmSealed => Err(NotOpened::Forged),
    }
}

/// Random bytes from the operating system.
pub(super) fn random<const N: usize>() -> HsmResult<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|source| HsmError::Random(source.into()))?;
    Ok(bytes)
}

/// The error of a call that succeeded and gave what cannot be.
fn absurd(function: &'static str, what: String) -> HsmError {
    HsmError::Device {
        function,
        source: what.into(),
    }
}
