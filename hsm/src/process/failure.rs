//! Errors on their way from the worker to its parent.
//!
//! error u8 ‖ its fields: 1 key not found (id), 2 key exists (id), 3 unauthentic, 4 too long (what text ‖ bytes u64), 5 busy,
//! 6 timeout (milliseconds u64), 7 unavailable (reason text ‖ option cause text), 8 PIN rejected (reason text),
//! 9 unfit (id ‖ reason text), 10 unsafe token (text), 11 configuration (text), 12 wrap not readable, 13 device
//! (function text ‖ cause text), 14 no randomness (cause text), 15 key unavailable (id ‖ reason text), 16 unsupported
//! (text), 17 other material. A cause is the chain of causes in one line.

use std::time::Duration;

use super::wire::{Broken, Fields, Fill};
use crate::HsmError;
use crate::pkcs11::pin::REASONS;

/// The most bytes of a text: an error's words, a name, a label.
pub(super) const TEXT_BYTES_MAX: usize = 1024;

/// Writes an error: the words for people as far as they fit, the rest without loss.
pub(super) fn write(out: &mut Fill<'_>, error: &HsmError) {
    let words = |out: &mut Fill<'_>, text: &str| out.words(text, TEXT_BYTES_MAX);
    match error {
        HsmError::KeyNotFound(id) => {
            out.u8(1);
            out.id(id);
        }
        HsmError::KeyExists(id) => {
            out.u8(2);
            out.id(id);
        }
        HsmError::Unauthentic => out.u8(3),
        HsmError::TooLong { what, bytes } => {
            out.u8(4);
            words(out, what);
            out.u64(u64::try_from(*bytes).unwrap_or(u64::MAX));
        }
        HsmError::Busy => out.u8(5),
        HsmError::Timeout(after) => {
            out.u8(6);
            out.u64(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        }
        HsmError::Unavailable { reason, source } => {
            out.u8(7);
            words(out, reason);
            out.u8(u8::from(source.is_some()));
            if let Some(source) = source {
                words(out, &chain(source.as_ref()));
            }
        }
        HsmError::PinRejected(reason) => {
            out.u8(8);
            words(out, reason);
        }
        HsmError::Unfit { id, reason } => {
            out.u8(9);
            out.id(id);
            words(out, reason);
        }
        HsmError::UnsafeToken(text) => {
            out.u8(10);
            words(out, text);
        }
        HsmError::Config(text) => {
            out.u8(11);
            words(out, text);
        }
        HsmError::WrapNotReadable => out.u8(12),
        HsmError::Device { function, source } => {
            out.u8(13);
            words(out, function);
            words(out, &chain(source.as_ref()));
        }
        HsmError::Random(source) => {
            out.u8(14);
            words(out, &chain(source.as_ref()));
        }
        HsmError::KeyUnavailable { id, reason } => {
            out.u8(15);
            out.id(id);
            words(out, reason);
        }
        HsmError::Unsupported(text) => {
            out.u8(16);
            words(out, text);
        }
        HsmError::OtherMaterial => out.u8(17),
    }
}

pub(super) fn read(from: &mut Fields<'_>) -> Result<HsmError, Broken> {
    Ok(match from.u8()? {
        1 => HsmError::KeyNotFound(from.id()?),
        2 => HsmError::KeyExists(from.id()?),
        3 => HsmError::Unauthentic,
        4 => HsmError::TooLong {
            what: known(from.text(TEXT_BYTES_MAX)?, LENGTHS).unwrap_or("something"),
            bytes: usize::try_from(from.u64()?).unwrap_or(usize::MAX),
        },
        5 => HsmError::Busy,
        6 => HsmError::Timeout(Duration::from_millis(from.u64()?)),
        7 => HsmError::Unavailable {
            reason: from.text(TEXT_BYTES_MAX)?.to_owned(),
            source: if from.flag()? {
                Some(from.text(TEXT_BYTES_MAX)?.into())
            } else {
                None
            },
        },
        8 => HsmError::PinRejected(
            known(from.text(TEXT_BYTES_MAX)?, REASONS).unwrap_or("for a reason of its own"),
        ),
        9 => HsmError::Unfit {
            id: from.id()?,
            reason: from.text(TEXT_BYTES_MAX)?.to_owned(),
        },
        10 => HsmError::UnsafeToken(from.text(TEXT_BYTES_MAX)?.to_owned()),
        11 => HsmError::Config(from.text(TEXT_BYTES_MAX)?.to_owned()),
        12 => HsmError::WrapNotReadable,
        13 => {
            let (function, cause) = (from.text(TEXT_BYTES_MAX)?, from.text(TEXT_BYTES_MAX)?);
            match known(function, FUNCTIONS) {
                Some(function) => HsmError::Device {
                    function,
                    source: cause.into(),
                },
                None => HsmError::Device {
                    function: "a call in the worker process",
                    source: format!("{function}: {cause}").into(),
                },
            }
        }
        14 => HsmError::Random(from.text(TEXT_BYTES_MAX)?.into()),
        15 => HsmError::KeyUnavailable {
            id: from.id()?,
            reason: from.text(TEXT_BYTES_MAX)?.to_owned(),
        },
        16 => HsmError::Unsupported(from.text(TEXT_BYTES_MAX)?.to_owned()),
        17 => HsmError::OtherMaterial,
        _ => return Err(Broken::Malformed("an unknown error")),
    })
}

/// `text` as one of ours: errors name things by text that lives for ever, and a worker must not make us keep its own.
fn known(text: &str, names: &'static [&'static str]) -> Option<&'static str> {
    names.iter().find(|name| **name == text).copied()
}

/// What [`HsmError::TooLong`] speaks of.
const LENGTHS: &[&str] = &[
    "plaintext",
    "AAD",
    "key blob",
    "random",
    "list of keys",
    "label",
    "message",
    "wrapped value",
    "proof",
    "message to authenticate",
    "wrapped material",
    "digest",
];

/// The functions that [`HsmError::Device`] names (PKCS#11 v3.1 §5); others are named in its cause.
const FUNCTIONS: &[&str] = &[
    "C_CloseSession",
    "C_CopyObject",
    "C_CreateObject",
    "C_Decrypt",
    "C_DecryptInit",
    "C_DecryptMessage",
    "C_DestroyObject",
    "C_Encrypt",
    "C_EncryptInit",
    "C_EncryptMessage",
    "C_FindObjects",
    "C_GenerateKey",
    "C_GenerateKeyPair",
    "C_GenerateRandom",
    "C_GetAttributeValue",
    "C_GetInfo",
    "C_GetMechanismInfo",
    "C_GetMechanismList",
    "C_GetSessionInfo",
    "C_GetSlotInfo",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_InitPIN",
    "C_InitToken",
    "C_Initialize",
    "C_Login",
    "C_Logout",
    "C_MessageDecryptInit",
    "C_MessageEncryptInit",
    "C_OpenSession",
    "C_SetAttributeValue",
    "C_Sign",
    "C_SignInit",
    "C_UnwrapKey",
    "C_Verify",
    "C_VerifyInit",
    "C_WrapKey",
];

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
