//! What a `CKR_` code means to us.

use cryptoki::error::{Error, RvError};

use crate::HsmError;

/// The error of a call to `function`: absence where the code says so, else the device's.
pub(super) fn device(function: &'static str) -> impl Fn(Error) -> HsmError {
    move |error| match &error {
        Error::Pkcs11(
            RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::DeviceRemoved
            | RvError::SlotIdInvalid
            | RvError::SessionCount
            | RvError::UserNotLoggedIn
            | RvError::CryptokiNotInitialized,
            _,
        ) => HsmError::Unavailable {
            reason: format!("{function} failed"),
            source: Some(error.into()),
        },
        _ => HsmError::Device {
            function,
            source: error.into(),
        },
    }
}

pub(super) fn unavailable(reason: impl Into<String>) -> HsmError {
    HsmError::Unavailable {
        reason: reason.into(),
        source: None,
    }
}

/// Whether `C_Decrypt` may mean the ciphertext by this: `CKR_ENCRYPTED_DATA_INVALID` by the standard
/// (PKCS#11 v3.1 §5.10.2), `CKR_GENERAL_ERROR` in `SoftHSM` and for every code `cryptoki` does not know, `CKR_FUNCTION_FAILED` in nShield,
/// `CKR_DEVICE_ERROR` in libkmsp11. Most of them may as well mean an ill device, and only the canary can tell.
pub(super) fn may_blame_ciphertext(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::GeneralError
                | RvError::FunctionFailed
                | RvError::DeviceError
                | RvError::ArgumentsBad
                | RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::SignatureInvalid,
            _
        )
    )
}
