//! Checksums on the wire: `x-amz-checksum-*` in headers and trailers, and in answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, Uri};
use s3s::dto::ChecksumType;
use s3s::{S3Result, s3_error};

use crate::auth::payload::{BodyError, Trailers};
use crate::store::digest::Digests;
use crate::store::record::{ChecksumAlgorithm, ChecksumKind};
use crate::store::{CHECKSUM_DEFAULT, Incoming, StoreError};

const ALL: [(&str, ChecksumAlgorithm); 5] = [
    ("x-amz-checksum-crc32", ChecksumAlgorithm::Crc32),
    ("x-amz-checksum-crc32c", ChecksumAlgorithm::Crc32c),
    ("x-amz-checksum-crc64nvme", ChecksumAlgorithm::Crc64Nvme),
    ("x-amz-checksum-sha1", ChecksumAlgorithm::Sha1),
    ("x-amz-checksum-sha256", ChecksumAlgorithm::Sha256),
];

/// The trailers that a request announced, and where they will be. Put into the extensions by the server.
#[derive(Debug, Clone)]
pub struct AnnouncedTrailers {
    /// `x-amz-trailer`, in lower case.
    pub names: Vec<String>,
    /// Read once the body has ended.
    pub trailers: Trailers,
}

/// A checksum as a header, for an answer: base64, with `-N` for a composite of N parts.
pub(super) fn encode(kind: ChecksumKind, bytes: &[u8], parts: Option<u32>) -> String {
    let text = STANDARD.encode(bytes);
    match parts {
        Some(parts) if kind.composite => format!("{text}-{parts}"),
        _ => text,
    }
}

/// `COMPOSITE` or `FULL_OBJECT`.
pub(super) fn kind_name(kind: ChecksumKind) -> ChecksumType {
    ChecksumType::from_static(if kind.composite {
        ChecksumType::COMPOSITE
    } else {
        ChecksumType::FULL_OBJECT
    })
}

/// Sets the one `checksum_*` field of an output that has this algorithm.
macro_rules! set_checksum {
    ($output:expr, $kind:expr, $bytes:expr, $parts:expr) => {{
        let text = Some($crate::s3::checksum::encode($kind, $bytes, $parts));
        match $kind.algorithm {
            $crate::store::record::ChecksumAlgorithm::Crc32 => $output.checksum_crc32 = text,
            $crate::store::record::ChecksumAlgorithm::Crc32c => $output.checksum_crc32c = text,
            $crate::store::record::ChecksumAlgorithm::Crc64Nvme => {
                $output.checksum_crc64nvme = text
            }
            $crate::store::record::ChecksumAlgorithm::Sha1 => $output.checksum_sha1 = text,
            $crate::store::record::ChecksumAlgorithm::Sha256 => $output.checksum_sha256 = text,
        }
    }};
}
pub(super) use set_checksum;

/// The algorithm that a header names.
pub(super) fn named(name: &str) -> S3Result<ChecksumAlgorithm> {
    ALL.iter()
        .map(|(_, algorithm)| *algorithm)
        .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
        .ok_or_else(|| s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"))
}

/// The one checksum among these, decoded. `None` if there is none.
pub(super) fn decode_one<'t>(
    given: impl IntoIterator<Item = (ChecksumAlgorithm, Option<&'t str>)>,
) -> S3Result<Option<(ChecksumAlgorithm, Vec<u8>)>> {
    let mut found = None;
    for (algorithm, text) in given {
        let Some(text) = text else { continue };
        // A composite's `-N` says nothing that the part list does not.
        let text = text.split_once('-').map_or(text, |(checksum, _)| checksum);
        let bytes = STANDARD
            .decode(text)
            .ok()
            .filter(|bytes| bytes.len() == algorithm.bytes())
            .ok_or_else(|| {
                let name = algorithm.name().to_ascii_lowercase();
                s3_error!(
                    InvalidRequest,
                    "Value for x-amz-checksum-{name} header is invalid."
                )
            })?;
        if found.replace((algorithm, bytes)).is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
            ));
        }
    }
    Ok(found)
}

/// The checksum that a request's headers bear.
fn in_headers(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, Vec<u8>)>> {
    decode_one(ALL.iter().map(|(name, algorithm)| {
        (
            *algorithm,
            headers
                .get(*name)
                .map(|value| value.to_str().unwrap_or_default()),
        )
    }))
}

/// A body with what it must match. `preset` is the algorithm that the upload of a part
/// was begun with, and whether the client chose it.
pub(super) fn incoming<S>(
    stream: S,
    headers: &HeaderMap,
    extensions: &http::Extensions,
    preset: Option<(ChecksumAlgorithm, bool)>,
) -> S3Result<Incoming>
where
    S: Stream<Item = Result<Bytes, s3s::StdError>> + Send + 'static,
{
    refuse_unknown(headers.keys().map(http::HeaderName::as_str))?;
    let header = in_headers(headers)?;
    let announced = extensions.get::<AnnouncedTrailers>();
    let trailer = announced.and_then(|announced| {
        ALL.iter()
            .find(|(name, _)| announced.names.iter().any(|announced| announced == name))
    });
    if let Some(announced) = announced {
        refuse_unknown(announced.names.iter().map(String::as_str))?;
    }
    let several_trailers = announced.is_some_and(|announced| announced.names.len() > 1);
    if several_trailers || (header.is_some() && trailer.is_some()) {
        return Err(s3_error!(
            InvalidRequest,
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        ));
    }
    let said = header
        .as_ref()
        .map(|(algorithm, _)| *algorithm)
        .or(trailer.map(|(_, algorithm)| *algorithm));
    if let Some(sdk) = headers.get("x-amz-sdk-checksum-algorithm") {
        let sdk = named(sdk.to_str().unwrap_or_default())?;
        match said {
            None if !headers.contains_key("content-md5") => {
                return Err(s3_error!(
                    InvalidRequest,
                    "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
                ));
            }
            Some(said) if said != sdk => {
                return Err(s3_error!(
                    InvalidRequest,
                    "Value for x-amz-sdk-checksum-algorithm header is invalid."
                ));
            }
            _ => {}
        }
    }
    if let (Some((preset, true)), Some(said)) = (preset, said)
        && preset != said
    {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            preset.name().to_ascii_lowercase(),
            said.name().to_ascii_lowercase()
        ));
    }
    let algorithm = preset
        .map(|(preset, _)| preset)
        .or(said)
        .unwrap_or(CHECKSUM_DEFAULT);
    let claimed = said.unwrap_or(algorithm);
    let trailers = announced
        .filter(|_| trailer.is_some())
        .map(|announced| announced.trailers.clone());
    let expected = Box::new(move || match (header, trailers) {
        (Some((_, bytes)), _) => Ok(Some(bytes)),
        (None, Some(trailers)) => in_trailers(&trailers, claimed).map(Some),
        (None, None) => Ok(None),
    });
    Ok(Incoming {
        stream: stream.boxed(),
        content_md5: content_md5(headers)?,
        algorithm,
        claimed: said,
        expected,
    })
}

/// A checksum that nobody computes would be accepted and not verified.
fn refuse_unknown<'n>(names: impl IntoIterator<Item = &'n str>) -> S3Result<()> {
    for name in names {
        let is_checksum = name
            .strip_prefix("x-amz-checksum-")
            .is_some_and(|rest| !["algorithm", "type", "mode"].contains(&rest));
        if is_checksum && !ALL.iter().any(|(known, _)| *known == name) {
            return Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented: {name}"
            ));
        }
    }
    Ok(())
}

fn in_trailers(trailers: &Trailers, algorithm: ChecksumAlgorithm) -> Result<Vec<u8>, StoreError> {
    let malformed = || StoreError::Body(Box::new(BodyError::MalformedTrailer));
    let (name, _) = ALL
        .iter()
        .find(|(_, known)| *known == algorithm)
        .ok_or_else(malformed)?;
    let text = trailers
        .read()
        .and_then(|map| map.get(*name))
        .and_then(|value| value.to_str().ok());
    let bytes = text
        .and_then(|text| STANDARD.decode(text).ok())
        .filter(|bytes| bytes.len() == algorithm.bytes());
    bytes.ok_or_else(malformed)
}

/// Whether a digest came with a request, in its headers or announced as a trailer.
pub(super) fn is_protected(headers: &HeaderMap, extensions: &http::Extensions) -> bool {
    let announced = extensions.get::<AnnouncedTrailers>();
    headers.contains_key("content-md5")
        || ALL.iter().any(|(name, _)| {
            headers.contains_key(*name)
                || announced.is_some_and(|announced| announced.names.iter().any(|is| is == name))
        })
}

/// Checks a document against the digests that came with it. To `CompleteMultipartUpload` (`?uploadId`) the checksum in the
/// headers is that of the object; only `Content-MD5` is of the document then.
///
/// # Errors
///
/// `BadDigest`, `InvalidDigest`, `InvalidRequest`, and what is said of headers that contradict each other.
pub fn check_document(
    uri: &Uri,
    headers: &HeaderMap,
    announced: &AnnouncedTrailers,
    document: &[u8],
) -> S3Result<()> {
    let mut headers = headers.clone();
    if uri
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair.starts_with("uploadId=")))
    {
        for (name, _) in ALL {
            headers.remove(name);
        }
    }
    let mut extensions = http::Extensions::new();
    extensions.insert(announced.clone());
    let body = futures::stream::empty::<Result<Bytes, s3s::StdError>>();
    let incoming = incoming(body, &headers, &extensions, None)?;
    let mut digests = Digests::new(incoming.algorithm, None, incoming.content_md5.is_some());
    digests.update(document);
    let digested = digests.finish();
    if incoming.content_md5.is_some() && incoming.content_md5 != digested.md5 {
        return Err(StoreError::Md5Mismatch.into());
    }
    match (incoming.expected)()? {
        Some(expected) if expected != digested.checksum => {
            Err(StoreError::ChecksumMismatch(incoming.algorithm.name()).into())
        }
        _ => Ok(()),
    }
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(value) = headers.get("content-md5") else {
        return Ok(None);
    };
    STANDARD
        .decode(value.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map(Some)
        .ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."))
}
