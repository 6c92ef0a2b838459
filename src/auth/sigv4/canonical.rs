//! The canonical request: what was signed, rebuilt from what arrived.
//!
//! Path and query are decoded and encoded again by the one rule of "Create a signed AWS API request" (every byte but
//! `A-Z a-z 0-9 - . _ ~`, upper-case hexadecimal), so that what is signed is what a handler will see after its own
//! decoding. The path is encoded once and never normalised, as S3 asks; `/` is kept. In a query `+` is a space, because
//! handlers read it so; in a path it is itself.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::AuthError;

/// Most parameters that a query may have.
pub const QUERY_PARAMETERS_MAX: usize = 128;
/// Most headers that a request may have signed.
pub const SIGNED_HEADERS_MAX: usize = 128;
/// Most bytes that all header names and values of a request may have.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// The parameters of a query, decoded, in the order of arrival.
#[derive(Debug)]
pub(super) struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    pub(super) fn parse(raw: Option<&str>) -> Result<Self, AuthError> {
        let mut parameters = Vec::new();
        for part in raw
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty())
        {
            if parameters.len() == QUERY_PARAMETERS_MAX {
                return Err(AuthError::TooManyQueryParameters);
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            parameters.push((decode(name, Plus::Space)?, decode(value, Plus::Space)?));
        }
        Ok(Self(parameters))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name.as_bytes())
    }

    /// The value of a parameter that may come once at most.
    pub(super) fn only(&self, name: &str) -> Result<Option<&str>, AuthError> {
        let mut values = self.0.iter().filter(|(known, _)| known == name.as_bytes());
        let Some((_, value)) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(AuthError::QueryMalformed(
                "An authentication parameter is given twice",
            ));
        }
        std::str::from_utf8(value).map(Some).map_err(|_not_utf8| {
            AuthError::QueryMalformed("An authentication parameter is not text")
        })
    }

    /// Sorted by encoded name, then by encoded value, without the parameter named `left_out`.
    fn canonical(&self, left_out: &str) -> String {
        let mut pairs: Vec<(String, String)> = self
            .0
            .iter()
            .filter(|(name, _)| name != left_out.as_bytes())
            .map(|(name, value)| (encode(name, RESERVED), encode(value, RESERVED)))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    }
}

/// Builds the canonical request over the headers named in `signed_headers`, which are sorted and in lower case.
///
/// # Errors
///
/// [`AuthError::InvalidUri`] if the path does not decode; [`AuthError::SignatureDoesNotMatch`] if a header that is said
/// to be signed did not arrive.
pub(super) fn request(
    head: &Parts,
    query: &Query,
    signed_headers: &[HeaderName],
    payload_hash: &str,
) -> Result<Vec<u8>, AuthError> {
    let mut text = Vec::with_capacity(1024);
    let path = match head.uri.path() {
        "" => "/".to_owned(),
        raw => encode(&decode(raw, Plus::Itself)?, RESERVED_IN_PATH),
    };
    for line in [
        head.method.as_str(),
        &path,
        &query.canonical("X-Amz-Signature"),
    ] {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    for name in signed_headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.push(b':');
        push_header_values(&mut text, head, name)?;
        text.push(b'\n');
    }
    text.push(b'\n');
    let names: Vec<&str> = signed_headers.iter().map(HeaderName::as_str).collect();
    text.extend_from_slice(names.join(";").as_bytes());
    text.push(b'\n');
    text.extend_from_slice(payload_hash.as_bytes());
    Ok(text)
}

/// The values of a header, each trimmed and with inner runs of white space as one space, joined by commas.
fn push_header_values(
    text: &mut Vec<u8>,
    head: &Parts,
    name: &HeaderName,
) -> Result<(), AuthError> {
    let mut values = head
        .headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .peekable();
    if values.peek().is_none() {
        let authority = head.uri.authority().filter(|_| name == http::header::HOST);
        let Some(authority) = authority else {
            return Err(AuthError::SignatureDoesNotMatch);
        };
        text.extend_from_slice(authority.as_str().as_bytes());
        return Ok(());
    }
    for (index, value) in values.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let words = value
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        for (index, word) in words.enumerate() {
            if index > 0 {
                text.push(b' ');
            }
            text.extend_from_slice(word);
        }
    }
    Ok(())
}

/// Refuses a header section that is larger than [`HEADER_BYTES_MAX`].
pub(super) fn bound(headers: &HeaderMap) -> Result<(), AuthError> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > HEADER_BYTES_MAX {
        Err(AuthError::HeadersTooLarge)
    } else {
        Ok(())
    }
}

/// What a `+` stands for.
#[derive(Clone, Copy, PartialEq)]
enum Plus {
    Itself,
    Space,
}

/// Undoes percent-encoding; strict, because what two readers decode differently cannot be signed.
fn decode(text: &str, plus: Plus) -> Result<Vec<u8>, AuthError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(AuthError::InvalidUri);
                };
                u8::try_from(high << 4 | low).map_err(|_two_digits_fit| AuthError::InvalidUri)?
            }
            b'+' if plus == Plus::Space => b' ',
            other => other,
        });
    }
    Ok(decoded)
}

fn encode(bytes: &[u8], set: &'static AsciiSet) -> String {
    percent_encode(bytes, set).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> Result<String, AuthError> {
        Ok(encode(&decode(raw, Plus::Itself)?, RESERVED_IN_PATH))
    }

    fn query(raw: &str) -> Result<String, AuthError> {
        Ok(Query::parse(Some(raw))?.canonical("X-Amz-Signature"))
    }

    #[test]
    fn broken_percent_encoding_is_rejected() {
        for raw in ["/%", "/%4", "/%zz", "/%+1"] {
            assert_eq!(path(raw), Err(AuthError::InvalidUri), "{raw}");
        }
    }

    #[test]
    fn encoded_slash_is_the_same_key_as_a_slash() {
        assert_eq!(path("/b/a%2Fc").as_deref(), Ok("/b/a/c"));
    }

    #[test]
    fn empty_and_dotted_segments_are_kept() {
        assert_eq!(path("/b//a/../c/.").as_deref(), Ok("/b//a/../c/."));
    }

    #[test]
    fn plus_in_a_path_is_itself() {
        assert_eq!(path("/a+b").as_deref(), Ok("/a%2Bb"));
    }

    #[test]
    fn plus_in_a_query_is_a_space() {
        assert_eq!(query("a=b+c").as_deref(), Ok("a=b%20c"));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_encoded_one_by_one() {
        assert_eq!(path("/%ff%fe").as_deref(), Ok("/%FF%FE"));
    }

    #[test]
    fn encoding_is_idempotent_over_the_percent_sign() {
        assert_eq!(path("/%2525").as_deref(), Ok("/%2525"));
    }

    #[test]
    fn query_is_sorted_by_name_then_value() {
        assert_eq!(query("b&a=2&a=1&A=").as_deref(), Ok("A=&a=1&a=2&b="));
    }

    #[test]
    fn query_is_sorted_by_encoded_name() {
        // '%' sorts before letters, '{' after them: encoding changes the order.
        assert_eq!(query("z=1&%7B=2").as_deref(), Ok("%7B=2&z=1"));
    }

    #[test]
    fn signature_is_left_out_of_the_query() {
        assert_eq!(query("X-Amz-Signature=00&a=1").as_deref(), Ok("a=1"));
    }

    #[test]
    fn query_parameters_are_bounded() {
        let raw = |count: usize| vec!["a=1"; count].join("&");
        assert!(query(&raw(QUERY_PARAMETERS_MAX)).is_ok());
        assert_eq!(
            query(&raw(QUERY_PARAMETERS_MAX + 1)),
            Err(AuthError::TooManyQueryParameters)
        );
    }

    #[test]
    fn header_bytes_are_bounded() {
        let headers = |bytes: usize| {
            let value = HeaderValue::from_str(&"v".repeat(bytes - 1)).expect("visible");
            HeaderMap::from_iter([(HeaderName::from_static("n"), value)])
        };
        assert_eq!(bound(&headers(HEADER_BYTES_MAX)), Ok(()));
        assert_eq!(
            bound(&headers(HEADER_BYTES_MAX + 1)),
            Err(AuthError::HeadersTooLarge)
        );
    }
}
