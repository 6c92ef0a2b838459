//! What the caller presents: the `Authorization` header or the `X-Amz-*` parameters of a presigned request, parsed but
//! not believed.
//!
//! "Authenticating Requests: Using the Authorization Header" and "… Using Query Parameters", S3 API.

use http::HeaderMap;
use http::header::{AUTHORIZATION, DATE, HeaderName};
use http::request::Parts;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

use super::AuthError;
use super::canonical::{Query, SIGNED_HEADERS_MAX};
use super::signing::{ALGORITHM, DIGEST_BYTES, TERMINATOR};
use crate::auth::credentials::is_access_key_id;

/// Most bytes of an `Authorization` header.
pub const AUTHORIZATION_BYTES_MAX: usize = 8 * 1024;
/// Longest life of a presigned request: seven days.
pub const EXPIRES_MAX: Duration = Duration::seconds(604_800);

/// Every parameter that presigning adds. Compared by their bytes: `x-amz-date` is an ordinary parameter.
pub(super) const QUERY_PARAMETERS: [&str; 8] = [
    "X-Amz-Algorithm",
    "X-Amz-Content-Sha256",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
const CREDENTIAL_MALFORMED: &str =
    "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".";

/// A signature and all that it claims.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) credential: Credential,
    /// Sorted, each once.
    pub(super) signed_headers: Vec<HeaderName>,
    pub(super) signature: [u8; DIGEST_BYTES],
    pub(super) signed_at: OffsetDateTime,
    /// `signed_at` as it was signed: `YYYYMMDDThhmmssZ`.
    pub(super) timestamp: String,
    /// How long a presigned request lives; `None` for the header form.
    pub(super) expires: Option<Duration>,
}

impl Presented {
    /// Finds the one signature of a request.
    pub(super) fn find(head: &Parts, query: &Query) -> Result<Self, AuthError> {
        let mut headers = head.headers.get_all(AUTHORIZATION).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Err(AuthError::SeveralMechanisms);
        }
        let sigv2_in_query =
            query.has("AWSAccessKeyId") || (query.has("Signature") && query.has("Expires"));
        let sigv4_in_query = ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"]
            .iter()
            .any(|name| query.has(name));
        match (header, sigv4_in_query, sigv2_in_query) {
            (None, false, false) => Err(AuthError::Missing),
            (None, false, true) => Err(AuthError::MechanismUnsupported),
            (None, true, false) => Self::from_query(query),
            (Some(value), false, false) => {
                let value = value
                    .to_str()
                    .map_err(|_not_ascii| AuthError::HeaderMalformed("it is not text"))?;
                Self::from_header(value, &head.headers)
            }
            (Some(_), _, _) | (None, true, true) => Err(AuthError::SeveralMechanisms),
        }
    }

    fn from_header(value: &str, headers: &HeaderMap) -> Result<Self, AuthError> {
        if value.len() > AUTHORIZATION_BYTES_MAX {
            return Err(AuthError::HeadersTooLarge);
        }
        let (algorithm, fields) = value.split_once(' ').unwrap_or((value, ""));
        if algorithm != ALGORITHM {
            return Err(AuthError::MechanismUnsupported);
        }
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',').map(str::trim) {
            let (name, value) = field
                .split_once('=')
                .ok_or(AuthError::HeaderMalformed("a field has no value"))?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(AuthError::HeaderMalformed("it has an unknown field")),
            };
            if slot.replace(value).is_some() {
                return Err(AuthError::HeaderMalformed("a field is given twice"));
            }
        }
        let (Some(credential), Some(signed_headers), Some(signature)) =
            (credential, signed_headers, signature)
        else {
            return Err(AuthError::HeaderMalformed(
                "Credential, SignedHeaders and Signature are required",
            ));
        };
        let (signed_at, timestamp) = date_of(headers)?;
        Self::assemble(
            credential,
            signed_headers,
            signature,
            (signed_at, timestamp),
            None,
        )
        .map_err(AuthError::HeaderMalformed)
    }

    fn from_query(query: &Query) -> Result<Self, AuthError> {
        let required = |name| {
            query.only(name)?.ok_or(AuthError::QueryMalformed(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, \
                 X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
                 X-Amz-Expires parameters.",
            ))
        };
        if required("X-Amz-Algorithm")? != ALGORITHM {
            return Err(AuthError::QueryMalformed(
                "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"",
            ));
        }
        let expires = expires(required("X-Amz-Expires")?).map_err(AuthError::QueryMalformed)?;
        let timestamp = required("X-Amz-Date")?;
        let signed_at = parse_timestamp(timestamp).ok_or(AuthError::QueryMalformed(
            "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
        ))?;
        Self::assemble(
            required("X-Amz-Credential")?,
            required("X-Amz-SignedHeaders")?,
            required("X-Amz-Signature")?,
            (signed_at, timestamp.to_owned()),
            Some(expires),
        )
        .map_err(AuthError::QueryMalformed)
    }

    fn assemble(
        credential: &str,
        signed_headers: &str,
        signature: &str,
        (signed_at, timestamp): (OffsetDateTime, String),
        expires: Option<Duration>,
    ) -> Result<Self, &'static str> {
        let credential = Credential::parse(credential).ok_or(CREDENTIAL_MALFORMED)?;
        if !timestamp.starts_with(&credential.date) {
            return Err("Invalid credential date. This date is not the same as X-Amz-Date.");
        }
        Ok(Self {
            credential,
            signed_headers: parse_signed_headers(signed_headers)?,
            signature: parse_digest(signature.as_bytes())
                .ok_or("the Signature is not 64 hexadecimal digits")?,
            signed_at,
            timestamp,
            expires,
        })
    }
}

/// The service in the scope of a signature that may not be one.
pub(super) fn claimed_service(head: &Parts) -> Option<String> {
    let credential = if let Some(value) = head.headers.get(AUTHORIZATION) {
        let (_, rest) = value.to_str().ok()?.split_once("Credential=")?;
        rest.split(',').next()?.trim().to_owned()
    } else {
        let query = Query::parse(head.uri.query()).ok()?;
        query.only("X-Amz-Credential").ok()??.to_owned()
    };
    Some(Credential::parse(&credential)?.service)
}

/// An access key and the scope it signed for.
#[derive(Debug)]
pub(super) struct Credential {
    pub(super) access_key_id: String,
    /// `YYYYMMDD`.
    pub(super) date: String,
    pub(super) region: String,
    pub(super) service: String,
}

impl Credential {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let [id, date, region, service, terminator] = std::array::from_fn(|_| parts.next());
        if parts.next().is_some() || terminator != Some(TERMINATOR) {
            return None;
        }
        let date =
            date.filter(|date| date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()))?;
        Some(Self {
            access_key_id: id.filter(|id| is_access_key_id(id))?.to_owned(),
            date: date.to_owned(),
            region: region?.to_owned(),
            service: service?.to_owned(),
        })
    }
}

/// The value of a header that may come once at most.
pub(in crate::auth) fn only_header<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, AuthError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(AuthError::HeaderRequired(name));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_not_ascii| AuthError::HeaderRequired(name))
}

/// 64 hexadecimal digits.
pub(in crate::auth) fn parse_digest(text: &[u8]) -> Option<[u8; DIGEST_BYTES]> {
    let mut digest = [0; DIGEST_BYTES];
    hex::decode_to_slice(text, &mut digest)
        .ok()
        .map(|()| digest)
}

/// Names in lower case, strictly ascending: the canonical request has one form only.
fn parse_signed_headers(text: &str) -> Result<Vec<HeaderName>, &'static str> {
    let mut names: Vec<HeaderName> = Vec::new();
    for text in text.split(';') {
        if names.len() == SIGNED_HEADERS_MAX {
            return Err("SignedHeaders names too many headers");
        }
        let name = HeaderName::from_bytes(text.as_bytes())
            .ok()
            .filter(|name| name.as_str() == text)
            .ok_or("SignedHeaders must be header names in lower case")?;
        if names
            .last()
            .is_some_and(|last| last.as_str() >= name.as_str())
        {
            return Err("SignedHeaders must be sorted, each once");
        }
        names.push(name);
    }
    Ok(names)
}

/// When the request says it was signed: `x-amz-date`, or else `Date`.
fn date_of(headers: &HeaderMap) -> Result<(OffsetDateTime, String), AuthError> {
    if let Some(text) = only_header(headers, "x-amz-date")? {
        let date = parse_timestamp(text).ok_or(AuthError::DateMissing)?;
        return Ok((date, text.to_owned()));
    }
    let text = only_header(headers, DATE.as_str())
        .map_err(|_repeated| AuthError::DateMissing)?
        .ok_or(AuthError::DateMissing)?;
    let date = OffsetDateTime::parse(text, &Rfc2822)
        .ok()
        .or_else(|| parse_timestamp(text))
        .ok_or(AuthError::DateMissing)?
        .to_offset(time::UtcOffset::UTC);
    let text = date
        .format(TIMESTAMP)
        .map_err(|_unprintable| AuthError::DateMissing)?;
    Ok((date, text))
}

fn parse_timestamp(text: &str) -> Option<OffsetDateTime> {
    // The parser would take a sign before the year.
    let plain = text.len() == 16 && text.starts_with(|c: char| c.is_ascii_digit());
    let date = plain.then(|| PrimitiveDateTime::parse(text, TIMESTAMP).ok())??;
    Some(date.assume_utc())
}

fn expires(text: &str) -> Result<Duration, &'static str> {
    if text.starts_with('-') {
        return Err("X-Amz-Expires must be non-negative");
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("X-Amz-Expires should be a number");
    }
    // More digits than fit are more seconds than a week has.
    let seconds = text.parse().unwrap_or(i64::MAX);
    if seconds == 0 {
        return Err("X-Amz-Expires must be at least one second");
    }
    if seconds > EXPIRES_MAX.whole_seconds() {
        return Err(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given \
             X-Amz-Expires must be less than 604800 seconds",
        );
    }
    Ok(Duration::seconds(seconds))
}
