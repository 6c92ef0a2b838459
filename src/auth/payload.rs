//! The body, held to what was signed while it streams.
//!
//! `x-amz-content-sha256` says how ("Authenticating Requests: Using the Authorization Header", S3 API): by a digest of
//! the whole, not at all, or as `aws-chunked` with a signature on every chunk, with trailers, or both. Memory is bounded
//! by the frames of the connection, whatever the sizes of body and chunks: data passes through frame by frame.
//!
//! Hence a consumer sees bytes before it is known whether they are right. **An error of the stream means: drop all that
//! came before it.** So that nobody mistakes a body for whole by counting its bytes, the last frame is kept back until
//! everything about the body has been checked.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use aws_lc_rs::constant_time;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http_body::{Body, Frame, SizeHint};

use super::chunked::{Chain, Decoder};
use super::sigv4::{
    AuthError, DIGEST_BYTES, SIGNATURE_DOES_NOT_MATCH, Sha256, Signer, only_header, parse_digest,
};

pub use super::chunked::{
    CHUNK_HEADER_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX, TRAILERS_MAX,
};

/// An error of whatever carries the body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

const DECODED_LENGTH: &str = "x-amz-decoded-content-length";
const TRAILER: &str = "x-amz-trailer";
const AWS_CHUNKED: &str = "aws-chunked";

/// Why a body is not the one that was signed. The caller's fault, but for [`BodyError::Transport`], which is nobody's.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The digest of the body is another than `x-amz-content-sha256`.
    #[error("body does not match x-amz-content-sha256")]
    Sha256Mismatch,
    /// A chunk or the trailers are not signed by the key that signed the request.
    #[error("signature of a chunk or of the trailers does not match")]
    SignatureDoesNotMatch,
    /// The body ended before it was whole.
    #[error("body ended early")]
    Incomplete,
    /// More data than `x-amz-decoded-content-length` announced, or something after the end.
    #[error("body is longer than announced")]
    TooLong,
    /// A chunk size that is no number of at most 16 hexadecimal digits.
    #[error("chunk size is not valid")]
    InvalidChunkSize,
    /// The frame around a chunk is wrong.
    #[error("chunk is malformed")]
    MalformedChunk,
    /// A trailer is not announced, repeated, absent, too long or no header.
    #[error("trailers are malformed")]
    MalformedTrailer,
    /// The connection failed.
    #[error("body could not be received")]
    Transport(#[source] BoxError),
}

impl BodyError {
    /// The code that S3 answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sha256Mismatch => "XAmzContentSHA256Mismatch",
            Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
            Self::Incomplete | Self::TooLong | Self::Transport(_) => "IncompleteBody",
            Self::InvalidChunkSize => "InvalidChunkSizeError",
            Self::MalformedChunk => "InvalidRequest",
            Self::MalformedTrailer => "MalformedTrailerError",
        }
    }

    /// The HTTP status that S3 answers.
    pub fn status(&self) -> u16 {
        match self {
            Self::SignatureDoesNotMatch | Self::InvalidChunkSize => 403,
            Self::Sha256Mismatch
            | Self::Incomplete
            | Self::TooLong
            | Self::MalformedChunk
            | Self::MalformedTrailer
            | Self::Transport(_) => 400,
        }
    }

    /// The text for the caller, in the words of S3 where it has some.
    pub fn message(&self) -> &'static str {
        match self {
            Self::Sha256Mismatch => {
                "The provided 'x-amz-content-sha256' header does not match what was computed."
            }
            Self::SignatureDoesNotMatch => SIGNATURE_DOES_NOT_MATCH,
            Self::Incomplete | Self::TooLong => {
                "You did not provide the number of bytes specified by the Content-Length \
                 HTTP header"
            }
            Self::InvalidChunkSize => "The size of a chunk is not valid.",
            Self::MalformedChunk => "A chunk of the request body is malformed.",
            Self::MalformedTrailer => {
                "The request contained trailing data that was not well-formed \
                 or did not conform to our published schema."
            }
            Self::Transport(_) => "The request body terminated unexpectedly",
        }
    }
}

/// What `x-amz-content-sha256` says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Declared {
    Unsigned,
    Digest([u8; DIGEST_BYTES]),
    Chunked { signed: bool, trailers: bool },
}

impl Declared {
    pub(super) fn parse(value: &str) -> Result<Self, AuthError> {
        match value {
            "UNSIGNED-PAYLOAD" => Ok(Self::Unsigned),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Self::Chunked {
                signed: true,
                trailers: false,
            }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Self::Chunked {
                signed: true,
                trailers: true,
            }),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Self::Chunked {
                signed: false,
                trailers: true,
            }),
            "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"
            | "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER" => {
                Err(AuthError::PayloadUnsupported)
            }
            other => parse_digest(other.as_bytes())
                .map(Self::Digest)
                .ok_or(AuthError::ContentSha256Invalid),
        }
    }

    pub(super) fn is_chunked(self) -> bool {
        matches!(self, Self::Chunked { .. })
    }
}

/// What the body of a verified request is held to.
#[derive(Debug)]
pub struct Payload(Scheme);

#[derive(Debug)]
enum Scheme {
    Unsigned,
    Digest([u8; DIGEST_BYTES]),
    Chunked(Box<Decoder>),
}

impl Payload {
    /// `seed` is the signature of the request, which the signature of the first chunk continues.
    pub(super) fn new(
        declared: Declared,
        headers: &HeaderMap,
        signer: Signer,
        seed: [u8; DIGEST_BYTES],
    ) -> Result<Self, AuthError> {
        let announced = announced(headers, declared)?;
        Ok(Self(match declared {
            Declared::Unsigned => Scheme::Unsigned,
            Declared::Digest(digest) => Scheme::Digest(digest),
            Declared::Chunked { signed, trailers } => {
                let chain = signed.then(|| Chain::new(signer, seed, trailers));
                let length = decoded_length(headers)?;
                Scheme::Chunked(Box::new(Decoder::new(length, chain, announced)))
            }
        }))
    }

    /// The length of the data, where the body is `aws-chunked`; otherwise it is that of the body.
    pub fn decoded_length(&self) -> Option<u64> {
        match &self.0 {
            Scheme::Chunked(decoder) => Some(decoder.length()),
            Scheme::Unsigned | Scheme::Digest(_) => None,
        }
    }

    /// Removes authentication and chunk framing from the headers, so that they describe the data.
    ///
    /// Of `Content-Encoding` only `aws-chunked` goes, for the rest belongs to the object. `Content-Length` becomes the
    /// length of the data.
    pub fn strip(&self, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        for name in [
            "x-amz-content-sha256",
            "x-amz-date",
            "x-amz-security-token",
            DECODED_LENGTH,
            TRAILER,
        ] {
            headers.remove(name);
        }
        strip_content_encoding(headers);
        if let Some(length) = self.decoded_length() {
            headers.remove(TRANSFER_ENCODING);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
}

fn strip_content_encoding(headers: &mut HeaderMap) {
    let is_chunked = |coding: &str| coding.trim().eq_ignore_ascii_case(AWS_CHUNKED);
    let values: Vec<HeaderValue> = headers.get_all(CONTENT_ENCODING).iter().cloned().collect();
    headers.remove(CONTENT_ENCODING);
    for value in values {
        // A value that is not text, or says nothing of chunks, stays as it was sent.
        let Some(text) = value
            .to_str()
            .ok()
            .filter(|text| text.split(',').any(is_chunked))
        else {
            headers.append(CONTENT_ENCODING, value);
            continue;
        };
        let kept: Vec<&str> = text
            .split(',')
            .map(str::trim)
            .filter(|coding| !coding.is_empty() && !is_chunked(coding))
            .collect();
        // Pieces of a valid value make a valid value.
        if let Some(kept) = HeaderValue::from_str(&kept.join(", "))
            .ok()
            .filter(|kept| !kept.is_empty())
        {
            headers.append(CONTENT_ENCODING, kept);
        }
    }
}

fn decoded_length(headers: &HeaderMap) -> Result<u64, AuthError> {
    let text = only_header(headers, DECODED_LENGTH)?.ok_or(AuthError::DecodedLengthMissing)?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthError::DecodedLengthInvalid);
    }
    text.parse()
        .map_err(|_overflow| AuthError::DecodedLengthInvalid)
}

/// The names in `x-amz-trailer`, which only a scheme with trailers may have. Only checksums may come late: anything else
/// would be a header that nobody signed.
fn announced(headers: &HeaderMap, declared: Declared) -> Result<Vec<HeaderName>, AuthError> {
    let may_announce = matches!(declared, Declared::Chunked { trailers: true, .. });
    if headers.contains_key(TRAILER) && !may_announce {
        return Err(AuthError::TrailerUnsupported);
    }
    let mut names = Vec::new();
    for value in headers.get_all(TRAILER) {
        let text = value
            .to_str()
            .map_err(|_not_ascii| AuthError::TrailerUnsupported)?;
        for text in text.split(',').map(str::trim) {
            let name = HeaderName::from_bytes(text.as_bytes())
                .ok()
                .filter(|name| {
                    name.as_str().starts_with("x-amz-checksum-") && !names.contains(name)
                })
                .ok_or(AuthError::TrailerUnsupported)?;
            if names.len() == TRAILERS_MAX {
                return Err(AuthError::TrailerUnsupported);
            }
            names.push(name);
        }
    }
    Ok(names)
}

/// The trailers of a body, for whoever consumes it: clones share them.
#[derive(Debug, Clone, Default)]
pub struct Trailers(Arc<OnceLock<HeaderMap>>);

impl Trailers {
    /// The announced trailers, no more and no fewer. `None` until the body has ended, and for ever if it ended badly.
    pub fn read(&self) -> Option<&HeaderMap> {
        self.0.get()
    }
}

/// A body that ends well only if it is the one that was signed. Once it has failed it fails for ever.
#[derive(Debug)]
pub struct VerifiedBody<B> {
    inner: B,
    check: Check,
    /// Checked-so-far data that waits for what follows it.
    held: Option<Bytes>,
    trailers: Trailers,
}

#[derive(Debug)]
enum Check {
    Unsigned,
    Digest {
        running: Sha256,
        expected: [u8; DIGEST_BYTES],
    },
    Chunked {
        decoder: Box<Decoder>,
        input: Bytes,
    },
    Ended,
    Failed,
}

impl<B> VerifiedBody<B> {
    /// Holds `inner` to `payload`.
    pub fn new(inner: B, payload: Payload) -> Self {
        let check = match payload.0 {
            Scheme::Unsigned => Check::Unsigned,
            Scheme::Digest(expected) => Check::Digest {
                running: Sha256::new(),
                expected,
            },
            Scheme::Chunked(decoder) => Check::Chunked {
                decoder,
                input: Bytes::new(),
            },
        };
        Self {
            inner,
            check,
            held: None,
            trailers: Trailers::default(),
        }
    }

    /// Where the trailers will be. Always present; empty at the end of a body that has none.
    pub fn trailers(&self) -> Trailers {
        self.trailers.clone()
    }
}

impl<B> VerifiedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next piece of data, or `None` once the body is whole and right.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        loop {
            match &mut self.check {
                Check::Chunked { decoder, input } => {
                    if let Some(data) = decoder.decode(input)? {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Check::Ended => return Poll::Ready(Ok(None)),
                Check::Failed => return Poll::Ready(Err(BodyError::Incomplete)),
                Check::Unsigned | Check::Digest { .. } => {}
            }
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                self.end()?;
                continue;
            };
            let frame = frame.map_err(|error| BodyError::Transport(error.into()))?;
            // Trailers of HTTP itself are signed by nobody and asked for by nobody.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            match &mut self.check {
                Check::Chunked { input, .. } => *input = data,
                Check::Digest { running, .. } if !data.is_empty() => {
                    running.update(&data);
                    return Poll::Ready(Ok(Some(data)));
                }
                Check::Unsigned if !data.is_empty() => return Poll::Ready(Ok(Some(data))),
                Check::Digest { .. } | Check::Unsigned | Check::Ended | Check::Failed => {}
            }
        }
    }

    /// The connection has no more: is it whole, and is it right?
    fn end(&mut self) -> Result<(), BodyError> {
        let trailers = match std::mem::replace(&mut self.check, Check::Ended) {
            Check::Chunked { decoder, .. } => decoder.finish()?,
            Check::Digest {
                mut running,
                expected,
            } => {
                constant_time::verify_slices_are_equal(running.take().as_ref(), &expected)
                    .map_err(|aws_lc_rs::error::Unspecified| BodyError::Sha256Mismatch)?;
                HeaderMap::new()
            }
            Check::Unsigned | Check::Ended | Check::Failed => HeaderMap::new(),
        };
        // Nobody else writes here, and the body ends once.
        self.trailers.0.get_or_init(|| trailers);
        Ok(())
    }
}

impl<B> Body for VerifiedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let holds_back = !matches!(this.check, Check::Unsigned);
            match ready!(this.poll_data(cx)) {
                Ok(Some(data)) => {
                    let data = if holds_back {
                        this.held.replace(data)
                    } else {
                        Some(data)
                    };
                    if let Some(data) = data {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Ok(None) => return Poll::Ready(this.held.take().map(|data| Ok(Frame::data(data)))),
                Err(error) => {
                    this.check = Check::Failed;
                    this.held = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.check {
            Check::Ended => self.held.is_none(),
            Check::Unsigned => self.inner.is_end_stream(),
            Check::Digest { .. } | Check::Chunked { .. } | Check::Failed => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |held| held.len() as u64);
        match &self.check {
            Check::Chunked { decoder, .. } => SizeHint::with_exact(held + decoder.left()),
            Check::Unsigned | Check::Digest { .. } => {
                let inner = self.inner.size_hint();
                let mut hint = SizeHint::new();
                if let Some(upper) = inner.upper() {
                    hint.set_upper(upper.saturating_add(held));
                }
                hint.set_lower(inner.lower().saturating_add(held));
                hint
            }
            Check::Ended | Check::Failed => SizeHint::with_exact(held),
        }
    }
}

#[cfg(test)]
mod tests;
