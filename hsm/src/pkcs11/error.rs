//! What a `CKR_` code means to us.

use cryptoki::error::{Error, RvError};

use super::raw::Failed;
use crate::HsmError;

/// The error of a call to `function`: absence where the code says so, else the device's.
pub(super) fn device(function: &'static str) -> impl Fn(Error) -> HsmError {
    move |error| match &error {
        Error::Pkcs11(code, _) if is_absence(*code) => HsmError::Unavailable {
            reason: format!("{function} failed"),
            source: Some(error.into()),
        },
        _ => HsmError::Device {
            function,
            source: error.into(),
        },
    }
}

/// The same of a call that `cryptoki` does not make.
pub(super) fn failed(failed: Failed) -> HsmError {
    if is_absence(failed.code()) {
        return HsmError::Unavailable {
            reason: format!("{} failed", failed.function),
            source: Some(failed.into()),
        };
    }
    HsmError::Device {
        function: failed.function,
        source: failed.into(),
    }
}

fn is_absence(code: RvError) -> bool {
    matches!(
        code,
        RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::DeviceRemoved
            | RvError::SlotIdInvalid
            | RvError::SessionCount
            | RvError::UserNotLoggedIn
            | RvError::CryptokiNotInitialized
    )
}

pub(super) fn unavailable(reason: impl Into<String>) -> HsmError {
    HsmError::Unavailable {
        reason: reason.into(),
        source: None,
    }
}

/// Whether a call that opens may mean the ciphertext by this: `CKR_ENCRYPTED_DATA_INVALID`, `CKR_SIGNATURE_INVALID`
/// and `CKR_WRAPPED_KEY_INVALID` by the standard (PKCS#11 v3.1 §5.10.2, §5.15.2, §5.18.4), `CKR_GENERAL_ERROR` in
/// `SoftHSM` and for every code `cryptoki` does not know, `CKR_FUNCTION_FAILED` in nShield, `CKR_DEVICE_ERROR` in
/// libkmsp11. Most of them may as well mean an ill device, and only the canary can tell.
pub(super) fn may_blame_ciphertext(failed: Failed) -> bool {
    matches!(
        failed.code(),
        RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::DeviceError
            | RvError::ArgumentsBad
            | RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::SignatureInvalid
            | RvError::SignatureLenRange
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange
    )
}
