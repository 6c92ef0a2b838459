//! From [`IamError`] to the wire.

use http::StatusCode;

use crate::iam::IamError;
use crate::kms::KmsError;

/// An error as the wire has it.
#[derive(Debug)]
pub(super) struct WireError {
    pub(super) code: &'static str,
    pub(super) status: StatusCode,
    pub(super) message: String,
}

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
const CONFLICT: StatusCode = StatusCode::CONFLICT;

impl WireError {
    /// The one place where an error gets its code. What is not the caller's business goes to the log here.
    pub(super) fn new(error: IamError, request_id: &str, operation: &str) -> Self {
        use IamError as E;
        if error.is_ours() {
            tracing::error!(
                event = "iam.request.failed",
                request_id,
                operation,
                error = error.chain()
            );
        }
        let message = error.to_string();
        let (code, status, message) = match error {
            E::NoSuchEntity(_) => ("NoSuchEntity", StatusCode::NOT_FOUND, message),
            E::AlreadyExists(_) => ("EntityAlreadyExists", CONFLICT, message),
            E::DeleteConflict(_) => ("DeleteConflict", CONFLICT, message),
            E::LimitExceeded(_) => ("LimitExceeded", CONFLICT, message),
            E::MalformedPolicy(_) => ("MalformedPolicyDocument", BAD, message),
            E::Validation(_) => ("ValidationError", BAD, message),
            E::InvalidInput(_) => ("InvalidInput", BAD, message),
            E::Unmodifiable(_) => ("UnmodifiableEntity", BAD, message),
            E::PackedPolicyTooLarge(_) => ("PackedPolicyTooLarge", BAD, message),
            E::AccessDenied(_) | E::ForeignPolicy | E::MayNotAssume { .. } | E::RootMayNotAssume => {
                ("AccessDenied", FORBIDDEN, message)
            }
            E::Unsupported(_) => ("NotImplemented", StatusCode::NOT_IMPLEMENTED, message),
            E::InvalidAction { .. } => ("InvalidAction", BAD, message),
            E::NotAuthenticated(error) => (
                error.query_code(),
                StatusCode::from_u16(error.query_status()).unwrap_or(FORBIDDEN),
                error.service_message(),
            ),
            E::Concurrent => ("ConcurrentModification", CONFLICT, message),
            E::Kms(KmsError::Busy) => (
                "Throttling",
                BAD,
                "Rate exceeded".to_owned(),
            ),
            E::Away | E::Kms(KmsError::Timeout(_) | KmsError::Unavailable(_)) => (
                "ServiceUnavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The hardware security module that keeps identities is unavailable. Please try again."
                    .to_owned(),
            ),
            E::Kms(KmsError::Audit(_)) => (
                "ServiceFailure",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The audit record of this request cannot be written. Please try again.".to_owned(),
            ),
            E::Kms(_) | E::Random | E::Damaged(_) | E::Internal(_) => (
                "ServiceFailure",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The request processing has failed because of an unknown error, exception or failure."
                    .to_owned(),
            ),
        };
        Self {
            code,
            status,
            message,
        }
    }
}
