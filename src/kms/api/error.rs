//! From [`KmsError`] to the wire.

use bytes::Bytes;
use http::StatusCode;

use crate::kms::{KeyStoreError, KmsError};

const INTERNAL: &str = "An internal error occurred. Please try again.";

/// An error as the wire has it.
#[derive(Debug)]
pub(in crate::kms) struct WireError {
    pub(in crate::kms) code: &'static str,
    pub(super) status: StatusCode,
    pub(in crate::kms) message: String,
}

impl WireError {
    /// The error of a request. What is not the caller's business goes to the log here.
    pub(super) fn new(error: &KmsError, request_id: &str, operation: &str) -> Self {
        if error.is_ours() {
            tracing::error!(
                event = "kms.request.failed",
                request_id,
                operation,
                error = chain(error)
            );
        }
        Self::of(error)
    }

    /// The one place where an error gets its code.
    pub(in crate::kms) fn of(error: &KmsError) -> Self {
        use KmsError as E;
        let message = error.to_string();
        let (code, status, message) = match error {
            E::NotFound(_) => ("NotFoundException", BAD, message),
            E::Disabled(_) => ("DisabledException", BAD, message),
            E::InvalidState { .. } | E::InUse { .. } | E::MaterialState(_) => {
                ("KMSInvalidStateException", BAD, message)
            }
            E::KeyStore(error) => (
                match error {
                    KeyStoreError::NotFound(_) => "CustomKeyStoreNotFoundException",
                    KeyStoreError::NameInUse(_) => "CustomKeyStoreNameInUseException",
                    KeyStoreError::ClusterNotFound(_) => "CloudHsmClusterNotFoundException",
                    KeyStoreError::ClusterInUse(_) => "CloudHsmClusterInUseException",
                    KeyStoreError::ClusterNotRelated => "CloudHsmClusterNotRelatedException",
                    KeyStoreError::InvalidState(_) => "CustomKeyStoreInvalidStateException",
                    KeyStoreError::HasKeys => "CustomKeyStoreHasCMKsException",
                },
                BAD,
                message,
            ),
            E::InvalidKeyUsage(_) => ("InvalidKeyUsageException", BAD, message),
            E::InvalidImportToken => ("InvalidImportTokenException", BAD, message),
            E::ExpiredImportToken => ("ExpiredImportTokenException", BAD, message),
            E::IncorrectKeyMaterial => ("IncorrectKeyMaterialException", BAD, message),
            E::InvalidMac => ("KMSInvalidMacException", BAD, message),
            E::InvalidSignature => ("KMSInvalidSignatureException", BAD, String::new()),
            E::InvalidCiphertext => ("InvalidCiphertextException", BAD, String::new()),
            E::AccessDenied(denied) => ("AccessDeniedException", BAD, denied.told()),
            E::ForeignCiphertext | E::Managed { .. } => {
                ("AccessDeniedException", BAD, message)
            }
            E::IncorrectKey => ("IncorrectKeyException", BAD, message),
            E::ReservedAlias => ("NotAuthorizedException", BAD, message),
            E::Validation(_) => ("ValidationException", BAD, message),
            E::LimitExceeded(_) => ("LimitExceededException", BAD, message),
            E::AlreadyExists(_) => ("AlreadyExistsException", BAD, message),
            E::InvalidMarker => ("InvalidMarkerException", BAD, message),
            E::Tag(_) => ("TagException", BAD, message),
            E::MalformedPolicy(_) => ("MalformedPolicyDocumentException", BAD, message),
            E::Unsupported(_) => ("UnsupportedOperationException", BAD, message),
            E::InvalidGrantToken => ("InvalidGrantTokenException", BAD, message),
            E::InvalidGrantId(_) => ("InvalidGrantIdException", BAD, message),
            E::InvalidArn(_) => ("InvalidArnException", BAD, message),
            E::DryRun => ("DryRunOperationException", BAD, message),
            E::Busy => (
                "ThrottlingException",
                BAD,
                "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
                    .to_owned(),
            ),
            E::Timeout(_) => (
                "DependencyTimeoutException",
                StatusCode::SERVICE_UNAVAILABLE,
                "The hardware security module did not answer in time. Please try again.".to_owned(),
            ),
            E::Unavailable(_) => (
                "KeyUnavailableException",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The hardware security module that holds the key is unavailable. Please try again.".to_owned(),
            ),
            E::Audit(_) => (
                "KMSInternalException",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The audit record of this request cannot be written. Please try again.".to_owned(),
            ),
            E::Damaged(_) | E::Storage(_) | E::Internal { .. } => {
                ("KMSInternalException", StatusCode::INTERNAL_SERVER_ERROR, INTERNAL.to_owned())
            }
        };
        Self {
            code,
            status,
            message,
        }
    }

    pub(super) fn unknown_operation() -> Self {
        Self {
            code: "UnknownOperationException",
            status: BAD,
            message: String::new(),
        }
    }

    pub(super) fn too_large() -> Self {
        let message = "Request must be smaller than the service's limit".to_owned();
        Self {
            code: "RequestEntityTooLargeException",
            status: StatusCode::PAYLOAD_TOO_LARGE,
            message,
        }
    }

    /// Where the syntax broke, and nothing of what was there: it may be plaintext.
    pub(super) fn serialization(syntax: &serde_json::Error) -> Self {
        let message = format!(
            "The request does not read at line {}, column {}",
            syntax.line(),
            syntax.column()
        );
        Self {
            code: "SerializationException",
            status: BAD,
            message,
        }
    }

    pub(super) fn body(&self) -> Bytes {
        serde_json::json!({ "__type": self.code, "message": self.message })
            .to_string()
            .into()
    }
}

const BAD: StatusCode = StatusCode::BAD_REQUEST;

/// An error and all that caused it, in one line.
fn chain(error: &KmsError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::WireError;
    use crate::auth::Denied;
    use crate::auth::policy::{Denial, PolicyKind};
    use crate::kms::KmsError;

    #[test]
    fn strangers_are_not_told_which_policy_denied() {
        let denied = |own| {
            let denied = Denied {
                principal: "arn:aws:iam::210987654321:user/eve".to_owned(),
                action: "kms:Decrypt",
                resource: "arn:aws:kms:us-west-2:123456789012:key/k".to_owned(),
                denial: Denial::Explicit {
                    by: PolicyKind::Resource,
                },
                own,
            };
            WireError::of(&KmsError::AccessDenied(denied)).message
        };
        let bare = "User: arn:aws:iam::210987654321:user/eve is not authorized to perform: kms:Decrypt on resource: \
                    arn:aws:kms:us-west-2:123456789012:key/k";
        assert_eq!(denied(false), bare);
        assert_eq!(
            denied(true),
            format!("{bare} with an explicit deny in a resource-based policy")
        );
    }
}
