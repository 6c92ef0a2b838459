//! Why a request was not authenticated, and how each service says so.

/// The caller's fault, always: nothing here is cured by a retry of the same request.
///
/// The texts follow what S3 answers, because clients and their users search for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No signature at all.
    #[error("request is not signed")]
    Missing,
    /// Version 2, version 4A, an unknown scheme, or a presigned request to a service that takes none.
    #[error("authorization mechanism is not supported")]
    MechanismUnsupported,
    /// Both an `Authorization` header and authentication parameters in the query.
    #[error("more than one authorization mechanism is used")]
    SeveralMechanisms,
    /// The `Authorization` header cannot be understood.
    #[error("authorization header is malformed: {0}")]
    HeaderMalformed(&'static str),
    /// The authentication parameters of a presigned request cannot be understood.
    #[error("authorization query parameters are malformed: {0}")]
    QueryMalformed(&'static str),
    /// The scope names a region that is not served here.
    #[error("scope names region {given:?}, expected {expected:?}")]
    WrongRegion {
        /// The form it came in, which decides the code.
        presigned: bool,
        /// As signed.
        given: String,
        /// The region to sign for.
        expected: String,
    },
    /// The scope names another service than the one that was asked.
    #[error("scope names service {given:?}, expected {expected:?}")]
    WrongService {
        /// The form it came in, which decides the code.
        presigned: bool,
        /// As signed.
        given: String,
        /// The service to sign for.
        expected: &'static str,
    },
    /// The path or the query is not valid percent-encoding.
    #[error("request URI cannot be decoded")]
    InvalidUri,
    /// Headers that must be signed are not.
    #[error("headers are not signed: {0}")]
    HeadersNotSigned(String),
    /// Neither `x-amz-date` nor `Date` tells when the request was signed.
    #[error("request carries no valid date")]
    DateMissing,
    /// Signed more than the permitted skew away from now.
    #[error("request time is too far from the time of the server")]
    TimeTooSkewed,
    /// A presigned request whose time is over.
    #[error("presigned request has expired")]
    Expired,
    /// A presigned request whose time has not come.
    #[error("presigned request is not valid yet")]
    NotYetValid,
    /// No such access key.
    #[error("access key is unknown")]
    UnknownAccessKey,
    /// The signature is another than the one calculated here.
    #[error("signature does not match")]
    SignatureDoesNotMatch,
    /// A session token that was not made here, or not for this access key, or whose role is gone.
    #[error("session token is not valid")]
    TokenInvalid,
    /// A session whose time is over.
    #[error("session has expired")]
    TokenExpired,
    /// A header that is required exactly once is absent or repeated.
    #[error("header {0} is required exactly once")]
    HeaderRequired(&'static str),
    /// `x-amz-content-sha256` is neither a digest nor a known keyword.
    #[error("x-amz-content-sha256 is not valid")]
    ContentSha256Invalid,
    /// A way to send the body that is known but not taken.
    #[error("payload scheme is not supported")]
    PayloadUnsupported,
    /// A chunked body whose decoded length is not given.
    #[error("x-amz-decoded-content-length is absent")]
    DecodedLengthMissing,
    /// A decoded length that is no number.
    #[error("x-amz-decoded-content-length is not valid")]
    DecodedLengthInvalid,
    /// `x-amz-trailer` without a scheme that has trailers, or for anything but a checksum.
    #[error("x-amz-trailer is not supported")]
    TrailerUnsupported,
    /// More headers, or longer ones, than are looked at.
    #[error("request header section is too large")]
    HeadersTooLarge,
    /// More query parameters than are looked at.
    #[error("request has too many query parameters")]
    TooManyQueryParameters,
}

impl AuthError {
    /// The code that S3 answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing
            | Self::HeadersNotSigned(_)
            | Self::DateMissing
            | Self::Expired
            | Self::NotYetValid => "AccessDenied",
            Self::MechanismUnsupported | Self::HeaderRequired(_) | Self::TrailerUnsupported => {
                "InvalidRequest"
            }
            Self::SeveralMechanisms | Self::ContentSha256Invalid | Self::DecodedLengthInvalid => {
                "InvalidArgument"
            }
            Self::HeaderMalformed(_)
            | Self::WrongRegion {
                presigned: false, ..
            }
            | Self::WrongService {
                presigned: false, ..
            } => "AuthorizationHeaderMalformed",
            Self::QueryMalformed(_)
            | Self::WrongRegion {
                presigned: true, ..
            }
            | Self::WrongService {
                presigned: true, ..
            } => "AuthorizationQueryParametersError",
            Self::InvalidUri | Self::TooManyQueryParameters => "InvalidURI",
            Self::TimeTooSkewed => "RequestTimeTooSkewed",
            Self::UnknownAccessKey => "InvalidAccessKeyId",
            Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
            Self::TokenInvalid => "InvalidToken",
            Self::TokenExpired => "ExpiredToken",
            Self::PayloadUnsupported => "NotImplemented",
            Self::DecodedLengthMissing => "MissingContentLength",
            Self::HeadersTooLarge => "RequestHeaderSectionTooLarge",
        }
    }

    /// The code that KMS answers, always with status 400.
    pub fn kms_code(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::MechanismUnsupported
            | Self::SeveralMechanisms
            | Self::HeaderMalformed(_)
            | Self::QueryMalformed(_)
            | Self::InvalidUri
            | Self::DateMissing
            | Self::HeaderRequired(_)
            | Self::ContentSha256Invalid
            | Self::PayloadUnsupported
            | Self::DecodedLengthMissing
            | Self::DecodedLengthInvalid
            | Self::TrailerUnsupported
            | Self::HeadersTooLarge
            | Self::TooManyQueryParameters => "IncompleteSignatureException",
            Self::WrongRegion { .. }
            | Self::WrongService { .. }
            | Self::HeadersNotSigned(_)
            | Self::TimeTooSkewed
            | Self::Expired
            | Self::NotYetValid
            | Self::SignatureDoesNotMatch => "InvalidSignatureException",
            Self::UnknownAccessKey | Self::TokenInvalid => "UnrecognizedClientException",
            Self::TokenExpired => "ExpiredTokenException",
        }
    }

    /// The code that IAM and STS answer.
    pub fn query_code(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationToken",
            Self::MechanismUnsupported
            | Self::SeveralMechanisms
            | Self::HeaderMalformed(_)
            | Self::QueryMalformed(_)
            | Self::InvalidUri
            | Self::DateMissing
            | Self::HeaderRequired(_)
            | Self::ContentSha256Invalid
            | Self::PayloadUnsupported
            | Self::DecodedLengthMissing
            | Self::DecodedLengthInvalid
            | Self::TrailerUnsupported
            | Self::HeadersTooLarge
            | Self::TooManyQueryParameters => "IncompleteSignature",
            Self::WrongRegion { .. }
            | Self::WrongService { .. }
            | Self::HeadersNotSigned(_)
            | Self::TimeTooSkewed
            | Self::Expired
            | Self::NotYetValid
            | Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
            Self::UnknownAccessKey | Self::TokenInvalid => "InvalidClientTokenId",
            Self::TokenExpired => "ExpiredToken",
        }
    }

    /// The HTTP status that IAM and STS answer.
    pub fn query_status(&self) -> u16 {
        match self.query_code() {
            "IncompleteSignature" => 400,
            _ => 403,
        }
    }

    /// The text for the caller, in the words of the services other than S3.
    pub fn service_message(&self) -> String {
        match self {
            Self::UnknownAccessKey | Self::TokenInvalid => {
                "The security token included in the request is invalid.".to_owned()
            }
            Self::TokenExpired => {
                "The security token included in the request is expired".to_owned()
            }
            other => other.message(),
        }
    }

    /// The HTTP status that S3 answers.
    pub fn status(&self) -> u16 {
        match self {
            Self::Missing
            | Self::HeadersNotSigned(_)
            | Self::DateMissing
            | Self::TimeTooSkewed
            | Self::Expired
            | Self::NotYetValid
            | Self::UnknownAccessKey
            | Self::SignatureDoesNotMatch => 403,
            Self::MechanismUnsupported
            | Self::SeveralMechanisms
            | Self::HeaderMalformed(_)
            | Self::QueryMalformed(_)
            | Self::WrongRegion { .. }
            | Self::WrongService { .. }
            | Self::InvalidUri
            | Self::TokenInvalid
            | Self::TokenExpired
            | Self::HeaderRequired(_)
            | Self::ContentSha256Invalid
            | Self::DecodedLengthInvalid
            | Self::TrailerUnsupported
            | Self::HeadersTooLarge
            | Self::TooManyQueryParameters => 400,
            Self::DecodedLengthMissing => 411,
            Self::PayloadUnsupported => 501,
        }
    }

    /// The region that the caller should sign for: S3 answers it in `<Region>`, and clients follow it.
    pub fn expected_region(&self) -> Option<&str> {
        match self {
            Self::WrongRegion { expected, .. } => Some(expected),
            _ => None,
        }
    }

    /// The text for the caller, in the words of S3.
    pub fn message(&self) -> String {
        let fixed = match self {
            Self::HeaderMalformed(why) => {
                return format!("The authorization header is malformed; {why}");
            }
            Self::WrongRegion {
                presigned,
                given,
                expected,
            } => {
                let what = malformed(*presigned);
                return format!("{what}; the region '{given}' is wrong; expecting '{expected}'");
            }
            Self::WrongService {
                presigned,
                given,
                expected,
            } => {
                let what = malformed(*presigned);
                return format!(
                    "{what}; incorrect service \"{given}\". \
                     This endpoint belongs to \"{expected}\"."
                );
            }
            Self::HeadersNotSigned(names) => {
                return format!(
                    "There were headers present in the request which were not signed: {names}"
                );
            }
            Self::HeaderRequired(name) => {
                return format!("Missing required header for this request: {name}");
            }
            Self::QueryMalformed(why) => why,
            Self::Missing => "Access Denied",
            Self::MechanismUnsupported => {
                "The authorization mechanism you have provided is not supported. \
                 Please use AWS4-HMAC-SHA256."
            }
            Self::SeveralMechanisms => {
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, \
                 Signature query string parameter or the Authorization header should be specified"
            }
            Self::InvalidUri => "Couldn't parse the specified URI.",
            Self::DateMissing => "AWS authentication requires a valid Date or x-amz-date header",
            Self::TimeTooSkewed => {
                "The difference between the request time and the current time is too large."
            }
            Self::Expired => "Request has expired",
            Self::NotYetValid => "Request is not yet valid",
            Self::UnknownAccessKey => {
                "The AWS Access Key Id you provided does not exist in our records."
            }
            Self::SignatureDoesNotMatch => SIGNATURE_DOES_NOT_MATCH,
            Self::TokenInvalid => "The provided token is malformed or otherwise invalid.",
            Self::TokenExpired => "The provided token has expired.",
            Self::ContentSha256Invalid => {
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, \
                 STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, \
                 STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, or a valid sha256 value."
            }
            Self::PayloadUnsupported => {
                "A header you provided implies functionality that is not implemented"
            }
            Self::DecodedLengthMissing => "You must provide the Content-Length HTTP header.",
            Self::DecodedLengthInvalid => "x-amz-decoded-content-length must be a number of bytes",
            Self::TrailerUnsupported => {
                "The value specified in the x-amz-trailer header is not supported"
            }
            Self::HeadersTooLarge => {
                "Your request header section exceeds the maximum allowed size."
            }
            Self::TooManyQueryParameters => "The request has too many query parameters.",
        };
        fixed.to_owned()
    }
}

/// What S3 answers for the signature of a request and for that of a chunk.
pub(in crate::auth) const SIGNATURE_DOES_NOT_MATCH: &str = "The request signature we \
    calculated does not match the signature you provided. Check your key and signing method.";

fn malformed(presigned: bool) -> &'static str {
    if presigned {
        "Error parsing the X-Amz-Credential parameter"
    } else {
        "The authorization header is malformed"
    }
}
