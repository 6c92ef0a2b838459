//! Domain errors to S3's: one exhaustive match each. What a client must not know goes to the log.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use s3s::{S3Error, S3ErrorCode};
use tracing::{error, warn};

use crate::auth::Denied;
use crate::auth::payload::BodyError;
use crate::auth::policy::Denial;
use crate::kms::KmsError;
use crate::store::StoreError;

/// An answer in S3's form, made without `s3s`. `fields` are further elements of the error, name and text.
pub fn error_response(
    status: StatusCode,
    code: &str,
    message: &str,
    request_id: &str,
    fields: &[(&str, &str)],
) -> Response<Bytes> {
    let mut body = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>");
    for (name, text) in [("Code", code), ("Message", message)]
        .iter()
        .chain(fields)
        .chain(&[("RequestId", request_id)])
    {
        body.extend(["<", name, ">", &escape(text), "</", name, ">"]);
    }
    body.push_str("</Error>");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    );
    response
}

fn escape(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '&' => "&amp;".into(),
            '"' => "&quot;".into(),
            // XML 1.0 has no way to write these.
            c if c.is_control() && !matches!(c, '\n' | '\r' | '\t') => "\u{FFFD}".into(),
            c => Cow::from(c.to_string()),
        })
        .collect()
}

/// A decision that was no. Why is told to callers of the account that owns the bucket or the key, as AWS does.
pub(super) fn denied(denied: Denied) -> S3Error {
    let mut error = match denied.denial {
        Denial::OwnersAlone => coded(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "The specified method is not allowed against this resource.",
        ),
        Denial::Implicit { .. } | Denial::Explicit { .. } | Denial::Undecided => {
            s3s::s3_error!(AccessDenied, "Access Denied")
        }
    };
    if denied.own {
        error.set_message(denied.to_string());
    }
    error.set_source(Box::new(denied));
    error
}

/// An error with a code that `s3s` may not know.
pub(super) fn coded(
    status: StatusCode,
    code: &'static str,
    message: impl Into<Cow<'static, str>>,
) -> S3Error {
    let known = S3ErrorCode::from_bytes(code.as_bytes())
        .unwrap_or_else(|| S3ErrorCode::Custom(code.into()));
    let mut error = S3Error::with_message(known, message);
    error.set_status_code(status);
    error
}

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const INTERNAL: &str = "We encountered an internal error. Please try again.";

impl From<StoreError> for S3Error {
    #[expect(
        clippy::too_many_lines,
        reason = "one exhaustive match, to be read as a table"
    )]
    fn from(error: StoreError) -> Self {
        use StoreError as E;
        match error {
            E::NoSuchBucket(_) => coded(
                StatusCode::NOT_FOUND,
                "NoSuchBucket",
                "The specified bucket does not exist",
            ),
            E::BucketExists { owned: true, .. } => coded(
                StatusCode::CONFLICT,
                "BucketAlreadyOwnedByYou",
                "Your previous request to create the named bucket succeeded and you already own it.",
            ),
            E::BucketExists { owned: false, .. } => coded(
                StatusCode::CONFLICT,
                "BucketAlreadyExists",
                "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.",
            ),
            E::TooManyBuckets => coded(
                BAD,
                "TooManyBuckets",
                "You have attempted to create more buckets than allowed",
            ),
            E::BucketNotEmpty(_) => coded(
                StatusCode::CONFLICT,
                "BucketNotEmpty",
                "The bucket you tried to delete is not empty",
            ),
            E::NoSuchKey(_) => coded(
                StatusCode::NOT_FOUND,
                "NoSuchKey",
                "The specified key does not exist.",
            ),
            E::NoSuchVersion(_) => coded(
                StatusCode::NOT_FOUND,
                "NoSuchVersion",
                "The specified version does not exist.",
            ),
            E::NoSuchUpload(_) => coded(
                StatusCode::NOT_FOUND,
                "NoSuchUpload",
                "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
            ),
            E::PreconditionFailed(condition) => coded(
                StatusCode::PRECONDITION_FAILED,
                "PreconditionFailed",
                format!(
                    "At least one of the pre-conditions you specified did not hold: {condition}"
                ),
            ),
            E::NotModified => coded(StatusCode::NOT_MODIFIED, "NotModified", "Not Modified"),
            E::RangeNotSatisfiable(size) => {
                let mut error = coded(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "InvalidRange",
                    "The requested range is not satisfiable",
                );
                if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    // These replace what `s3s` would set.
                    let xml = HeaderValue::from_static("application/xml");
                    error.set_headers(
                        [(header::CONTENT_RANGE, range), (header::CONTENT_TYPE, xml)]
                            .into_iter()
                            .collect(),
                    );
                }
                error
            }
            E::NoSuchPart(_) => coded(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "InvalidPartNumber",
                "The requested partnumber is not satisfiable",
            ),
            E::Md5Mismatch => coded(
                BAD,
                "BadDigest",
                "The Content-MD5 you specified did not match what we received.",
            ),
            E::ChecksumMismatch(algorithm) => coded(
                BAD,
                "BadDigest",
                format!("The {algorithm} you specified did not match the calculated checksum."),
            ),
            E::TooLarge(_) => coded(
                BAD,
                "EntityTooLarge",
                "Your proposed upload exceeds the maximum allowed object size.",
            ),
            E::PartTooSmall(_) => coded(
                BAD,
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size",
            ),
            E::InvalidPart(number) => coded(
                BAD,
                "InvalidPart",
                format!(
                    "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag. Part {number}."
                ),
            ),
            E::InvalidPartOrder => coded(
                BAD,
                "InvalidPartOrder",
                "The list of parts was not in ascending order. Parts must be ordered by part number.",
            ),
            E::Body(source) => body(source.as_ref()),
            E::InvalidRequest(message) => coded(BAD, "InvalidRequest", message),
            E::CustomerKeyNeeded => coded(
                BAD,
                "InvalidRequest",
                "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.",
            ),
            E::CustomerKeyUnexpected => coded(
                BAD,
                "InvalidRequest",
                "The encryption parameters are not applicable to this object.",
            ),
            E::CustomerKeyWrong => coded(
                StatusCode::FORBIDDEN,
                "AccessDenied",
                "Requests specifying Server Side Encryption with Customer provided keys must provide the correct secret key.",
            ),
            E::Kms(source) => kms(source),
            E::Conflict => coded(
                StatusCode::CONFLICT,
                "OperationAborted",
                "A conflicting operation is in progress against this resource. Please try again.",
            ),
            E::Busy | E::KeyMoved => {
                coded(UNAVAILABLE, "SlowDown", "Please reduce your request rate.")
            }
            E::Proof | E::Damaged(_) | E::Meta(_) | E::Blob(_) | E::Random => internal(error),
        }
    }
}

/// The operator's business.
pub(super) fn internal(cause: impl std::error::Error + Send + Sync + 'static) -> S3Error {
    error!(event = "s3.internal", error = %Chain(&cause));
    coded(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", INTERNAL)
}

/// An error and all that caused it, in one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

fn body(source: &(dyn std::error::Error + Send + Sync + 'static)) -> S3Error {
    match find_body_error(source) {
        Some(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(BAD);
            coded(status, error.code(), error.message())
        }
        None => coded(
            BAD,
            "IncompleteBody",
            "The request body terminated unexpectedly",
        ),
    }
}

fn find_body_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e BodyError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<BodyError>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What the KMS said, as S3 says it.
pub(super) fn kms(error: KmsError) -> S3Error {
    use KmsError as E;
    let message = error.to_string();
    match error {
        E::NotFound(_) | E::ForeignCiphertext => coded(BAD, "KMS.NotFoundException", message),
        E::Disabled(_) => coded(BAD, "KMS.DisabledException", message),
        E::InvalidState { .. } => coded(BAD, "KMS.KMSInvalidStateException", message),
        E::InvalidKeyUsage(_) => coded(BAD, "KMS.InvalidKeyUsageException", message),
        // An imported key has made all the wraps that its one backing key may make.
        E::LimitExceeded(_) => coded(BAD, "KMS.LimitExceededException", message),
        E::AccessDenied(denied_by) => denied(denied_by),
        E::Validation(_) => coded(BAD, "InvalidArgument", message),
        E::Busy => coded(
            UNAVAILABLE,
            "SlowDown",
            "Please reduce your request rate for operations involving AWS KMS.",
        ),
        E::Timeout(_) | E::Unavailable(_) => {
            warn!(event = "s3.kms_unavailable", error = %Chain(&error));
            coded(
                UNAVAILABLE,
                "ServiceUnavailable",
                "The hardware security module that holds the key is unavailable. Please try again.",
            )
        }
        E::Audit(_) => {
            error!(event = "s3.audit_failing", error = %Chain(&error));
            coded(
                UNAVAILABLE,
                "ServiceUnavailable",
                "The audit record of the use of the key cannot be written. Please try again.",
            )
        }
        // A wrap that was stored does not open: of an object, that is damage. The rest cannot come from these calls.
        E::InvalidCiphertext
        | E::InvalidMac
        | E::InvalidSignature
        | E::InvalidImportToken
        | E::ExpiredImportToken
        | E::IncorrectKeyMaterial
        | E::IncorrectKey
        | E::Managed { .. }
        | E::ReservedAlias
        | E::AlreadyExists(_)
        | E::InvalidMarker
        | E::Tag(_)
        | E::InUse { .. }
        | E::MaterialState(_)
        | E::KeyStore(_)
        | E::MalformedPolicy(_)
        | E::Unsupported(_)
        | E::InvalidGrantToken
        | E::InvalidGrantId(_)
        | E::InvalidArn(_)
        | E::DryRun
        | E::Damaged(_)
        | E::Storage(_)
        | E::Internal { .. } => internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{StatusCode, kms};
    use crate::kms::KmsError;

    #[test]
    fn a_key_that_has_made_all_its_wraps_is_the_callers_business() {
        let error = kms(KmsError::LimitExceeded("so many wraps".to_owned()));
        assert_eq!(error.code().as_str(), "KMS.LimitExceededException");
        assert_eq!(error.status_code(), Some(StatusCode::BAD_REQUEST));
    }
}
