//! `aws-chunked`, decoded as it arrives.
//!
//! ```text
//! body     = *chunk last-chunk trailers
//! chunk    = size [";chunk-signature=" 64HEX] CRLF data CRLF
//! last     = "0" [";chunk-signature=" 64HEX] CRLF
//! trailers = *(name ":" value EOL) ["x-amz-trailer-signature:" 64HEX EOL] CRLF
//! ```
//!
//! Signatures are there if the scheme signs chunks, and then on each; the signature of a chunk covers the one before it,
//! so chunks can be neither reordered nor left out ("Transferring Payload in Multiple Chunks" and "Including Trailing
//! Headers", S3 API). Data is handed out as slices of the input, before its chunk is verified. Trailer lines may end with
//! a bare line feed, empty lines may stand before the trailers are complete and one more after them, since minio-go, and
//! so `mc`, writes them so.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::payload::BodyError;
use super::sigv4::{DIGEST_BYTES, Sha256, Signer, parse_digest};

/// Longest line before the data of a chunk.
pub const CHUNK_HEADER_BYTES_MAX: usize = 256;
/// Most hexadecimal digits of a chunk size: a `u64`.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 16;
/// Most bytes of all trailer lines.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Most trailers that a request may announce.
pub const TRAILERS_MAX: usize = 16;

const LINE_END: &[u8] = b"\r\n";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// The chain of signatures over the chunks.
#[derive(Debug)]
pub(super) struct Chain {
    signer: Signer,
    /// The last signature that was verified.
    previous: [u8; DIGEST_BYTES],
    /// What the header of the current chunk claims.
    claimed: [u8; DIGEST_BYTES],
    content: Sha256,
    trailers: TrailerSignature,
}

#[derive(Debug, PartialEq)]
enum TrailerSignature {
    NotUsed,
    /// The canonical trailers so far.
    Awaited(Vec<u8>),
    Verified,
}

impl Chain {
    /// A chain that goes on from the signature of the request, and ends with one over the trailers if there are any.
    pub(super) fn new(signer: Signer, seed: [u8; DIGEST_BYTES], signs_trailers: bool) -> Self {
        let trailers = if signs_trailers {
            TrailerSignature::Awaited(Vec::new())
        } else {
            TrailerSignature::NotUsed
        };
        Self {
            signer,
            previous: seed,
            claimed: seed,
            content: Sha256::new(),
            trailers,
        }
    }

    fn end_chunk(&mut self) -> Result<(), BodyError> {
        let content = self.content.take();
        self.signer
            .check_chunk(&self.previous, content.as_ref(), &self.claimed)
            .map_err(|_mismatch| BodyError::SignatureDoesNotMatch)?;
        self.previous = self.claimed;
        Ok(())
    }

    fn end_trailers(&mut self, signature: &[u8]) -> Result<(), BodyError> {
        let given = parse_digest(signature).ok_or(BodyError::MalformedTrailer)?;
        let TrailerSignature::Awaited(text) = &self.trailers else {
            return Err(BodyError::MalformedTrailer);
        };
        self.signer
            .check_trailers(&self.previous, text, &given)
            .map_err(|_mismatch| BodyError::SignatureDoesNotMatch)?;
        self.trailers = TrailerSignature::Verified;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// In the line before the data.
    Header,
    /// In the data, with so much of the chunk to come.
    Data { left: u64 },
    /// In the line end after the data.
    DataEnd,
    /// Behind the last chunk.
    Trailers { blank_seen: bool },
    /// Behind the end, and so far into the line end that may follow.
    Done { tail: usize },
}

/// Turns an `aws-chunked` body into its data. Memory: one line.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    line: Vec<u8>,
    /// Data announced for the whole body, and not yet promised by a chunk header.
    unclaimed: u64,
    length: u64,
    chain: Option<Chain>,
    announced: Vec<HeaderName>,
    trailers: HeaderMap,
    trailer_bytes: usize,
}

impl Decoder {
    /// Expects `length` bytes of data, and exactly the trailers announced.
    pub(super) fn new(length: u64, chain: Option<Chain>, announced: Vec<HeaderName>) -> Self {
        Self {
            state: State::Header,
            line: Vec::new(),
            unclaimed: length,
            length,
            chain,
            announced,
            trailers: HeaderMap::new(),
            trailer_bytes: 0,
        }
    }

    /// How long the data is.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How much data is yet to come.
    pub(super) fn left(&self) -> u64 {
        match self.state {
            State::Data { left } => self.unclaimed + left,
            State::Header | State::DataEnd | State::Trailers { .. } | State::Done { .. } => {
                self.unclaimed
            }
        }
    }

    /// Takes from the front of `input` and returns the data found there; `None` when the input is used up.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, BodyError> {
        while !input.is_empty() {
            match self.state {
                State::Data { left } => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let data = input.split_to(take);
                    if let Some(chain) = &mut self.chain {
                        chain.content.update(&data);
                    }
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data { left }
                    };
                    return Ok(Some(data));
                }
                State::Header => {
                    let line = self.take_line(input, CHUNK_HEADER_BYTES_MAX);
                    if let Some(line) = line.map_err(|_too_long| BodyError::MalformedChunk)? {
                        self.begin_chunk(&line)?;
                    }
                }
                State::DataEnd => {
                    let line = self.take_line(input, LINE_END.len());
                    if let Some(line) = line.map_err(|_too_long| BodyError::MalformedChunk)? {
                        if line != LINE_END {
                            return Err(BodyError::MalformedChunk);
                        }
                        self.end_chunk()?;
                        self.state = State::Header;
                    }
                }
                State::Trailers { .. } => {
                    let line = self.take_line(input, TRAILER_BYTES_MAX - self.trailer_bytes);
                    if let Some(line) = line.map_err(|_too_long| BodyError::MalformedTrailer)? {
                        self.trailer_bytes += line.len();
                        self.trailer_line(&line)?;
                    }
                }
                State::Done { tail } => {
                    if LINE_END.get(tail) != input.first() {
                        return Err(BodyError::TooLong);
                    }
                    let _line_end = input.split_to(1);
                    self.state = State::Done { tail: tail + 1 };
                }
            }
        }
        Ok(None)
    }

    /// The input has ended: returns the trailers if it ended where a body may end.
    pub(super) fn finish(self) -> Result<HeaderMap, BodyError> {
        match self.state {
            State::Done { tail } if tail == 0 || tail == LINE_END.len() => Ok(self.trailers),
            // The sender thought it was done, and trailers are missing.
            State::Trailers { blank_seen: true } if self.line.is_empty() => {
                Err(BodyError::MalformedTrailer)
            }
            State::Header
            | State::Data { .. }
            | State::DataEnd
            | State::Trailers { .. }
            | State::Done { .. } => Err(BodyError::Incomplete),
        }
    }

    /// A whole line with its line feed, once it is there.
    fn take_line(
        &mut self,
        input: &mut Bytes,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, LineTooLong> {
        let room = bytes_max.saturating_sub(self.line.len());
        match input.iter().take(room).position(|byte| *byte == b'\n') {
            Some(at) => {
                self.line.extend_from_slice(&input.split_to(at + 1));
                Ok(Some(std::mem::take(&mut self.line)))
            }
            None if input.len() >= room => Err(LineTooLong),
            None => {
                self.line.extend_from_slice(input);
                input.clear();
                Ok(None)
            }
        }
    }

    fn begin_chunk(&mut self, line: &[u8]) -> Result<(), BodyError> {
        let line = line
            .strip_suffix(LINE_END)
            .ok_or(BodyError::MalformedChunk)?;
        let line = std::str::from_utf8(line).map_err(|_not_utf8| BodyError::MalformedChunk)?;
        let (size, extension) = match line.split_once(';') {
            Some((size, extension)) => (size, Some(extension)),
            None => (line, None),
        };
        match (&mut self.chain, extension) {
            (Some(chain), Some(extension)) => {
                chain.claimed = extension
                    .strip_prefix("chunk-signature=")
                    .and_then(|text| parse_digest(text.as_bytes()))
                    .ok_or(BodyError::MalformedChunk)?;
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(BodyError::MalformedChunk),
        }
        let left = parse_size(size)?;
        self.unclaimed = self.unclaimed.checked_sub(left).ok_or(BodyError::TooLong)?;
        if left > 0 {
            self.state = State::Data { left };
            return Ok(());
        }
        self.end_chunk()?;
        if self.unclaimed > 0 {
            return Err(BodyError::Incomplete);
        }
        self.state = State::Trailers { blank_seen: false };
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), BodyError> {
        self.chain.as_mut().map_or(Ok(()), Chain::end_chunk)
    }

    fn trailer_line(&mut self, line: &[u8]) -> Result<(), BodyError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.state = if self.trailers_are_complete() {
                State::Done { tail: 0 }
            } else {
                State::Trailers { blank_seen: true }
            };
            return Ok(());
        }
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(BodyError::MalformedTrailer)?;
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name).map_err(|_no_name| BodyError::MalformedTrailer)?;
        // Parsed before it is trimmed, so that nothing but spaces and tabs is trimmed.
        let value = value.strip_prefix(b":").unwrap_or_default();
        let value =
            HeaderValue::from_bytes(value).map_err(|_no_value| BodyError::MalformedTrailer)?;
        let value = value.as_bytes().trim_ascii();
        if name == TRAILER_SIGNATURE && self.all_announced_came() {
            let chain = self.chain.as_mut().ok_or(BodyError::MalformedTrailer)?;
            return chain.end_trailers(value);
        }
        if !self.announced.contains(&name) || self.trailers.contains_key(&name) {
            return Err(BodyError::MalformedTrailer);
        }
        if let Some(Chain {
            trailers: TrailerSignature::Awaited(text),
            ..
        }) = &mut self.chain
        {
            for part in [name.as_str().as_bytes(), b":", value, b"\n"] {
                text.extend_from_slice(part);
            }
        }
        let value =
            HeaderValue::from_bytes(value).map_err(|_no_value| BodyError::MalformedTrailer)?;
        self.trailers.insert(name, value);
        Ok(())
    }

    fn all_announced_came(&self) -> bool {
        self.trailers.len() == self.announced.len()
    }

    fn trailers_are_complete(&self) -> bool {
        let awaits_signature = matches!(
            &self.chain,
            Some(Chain {
                trailers: TrailerSignature::Awaited(_),
                ..
            })
        );
        self.all_announced_came() && !awaits_signature
    }
}

/// A line goes on behind its bound.
#[derive(Debug)]
struct LineTooLong;

fn parse_size(text: &str) -> Result<u64, BodyError> {
    let plain = (1..=CHUNK_SIZE_DIGITS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let size = plain.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    size.ok_or(BodyError::InvalidChunkSize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRC32: HeaderName = HeaderName::from_static("x-amz-checksum-crc32");

    /// Decodes an unsigned body that announces a CRC-32.
    fn decode(length: u64, body: &str) -> Result<Vec<u8>, BodyError> {
        decode_frames(length, &[body.as_bytes()])
    }

    fn decode_frames(length: u64, frames: &[&[u8]]) -> Result<Vec<u8>, BodyError> {
        let mut decoder = Decoder::new(length, None, vec![CRC32]);
        let mut all = Vec::new();
        for frame in frames {
            let mut input = Bytes::copy_from_slice(frame);
            while let Some(data) = decoder.decode(&mut input)? {
                all.extend_from_slice(&data);
            }
        }
        decoder.finish().map(|_trailers| all)
    }

    fn refusal(length: u64, body: &str) -> BodyError {
        decode(length, body).expect_err("must be refused")
    }

    #[test]
    fn less_data_than_announced_is_rejected() {
        let body = "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n";
        assert!(matches!(refusal(5, body), BodyError::Incomplete));
    }

    #[test]
    fn more_data_than_announced_is_rejected_before_it_is_read() {
        assert!(matches!(refusal(2, "3\r\n"), BodyError::TooLong));
    }

    #[test]
    fn more_data_in_a_later_chunk_is_rejected() {
        assert!(matches!(
            refusal(4, "3\r\nabc\r\n2\r\n"),
            BodyError::TooLong
        ));
    }

    #[test]
    fn chunk_sizes_that_are_no_plain_hexadecimal_are_rejected() {
        for size in ["", "+5", "-5", "0x5", " 5", "5 ", "g", "00000000000000005"] {
            let refusal = refusal(5, &format!("{size}\r\nhello\r\n"));
            assert!(matches!(refusal, BodyError::InvalidChunkSize), "{size}");
        }
    }

    #[test]
    fn chunk_size_may_have_sixteen_digits() {
        let body = "0000000000000005\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n";
        assert_eq!(decode(5, body).expect("good"), b"hello");
    }

    #[test]
    fn greatest_chunk_size_does_not_overflow() {
        assert!(matches!(
            refusal(5, "ffffffffffffffff\r\n"),
            BodyError::TooLong
        ));
        assert!(matches!(
            refusal(u64::MAX, "ffffffffffffffff\r\nabc"),
            BodyError::Incomplete
        ));
    }

    #[test]
    fn sizes_of_chunks_cannot_add_up_past_the_end() {
        let body = "5\r\nhello\r\nffffffffffffffff\r\n";
        assert!(matches!(refusal(u64::MAX, body), BodyError::TooLong));
    }

    #[test]
    fn chunk_signature_in_an_unsigned_body_is_rejected() {
        let body = format!("5;chunk-signature={}\r\nhello\r\n", "0".repeat(64));
        assert!(matches!(refusal(5, &body), BodyError::MalformedChunk));
    }

    #[test]
    fn chunk_header_without_an_end_is_bounded() {
        let header = |bytes: usize| decode(5, &"0".repeat(bytes)).expect_err("no chunk");
        assert!(matches!(
            header(CHUNK_HEADER_BYTES_MAX - 1),
            BodyError::Incomplete
        ));
        assert!(matches!(
            header(CHUNK_HEADER_BYTES_MAX),
            BodyError::MalformedChunk
        ));
    }

    #[test]
    fn chunk_header_with_a_bare_line_feed_is_rejected() {
        assert!(matches!(
            refusal(5, "5\nhello\r\n"),
            BodyError::MalformedChunk
        ));
    }

    #[test]
    fn data_that_goes_on_behind_its_chunk_is_rejected() {
        assert!(matches!(
            refusal(6, "5\r\nhello!\r\n"),
            BodyError::MalformedChunk
        ));
    }

    #[test]
    fn trailer_that_was_not_announced_is_rejected() {
        let body = "0\r\nx-amz-checksum-crc32:a\r\nx-amz-acl:public-read\r\n\r\n";
        assert!(matches!(refusal(0, body), BodyError::MalformedTrailer));
    }

    #[test]
    fn trailer_given_twice_is_rejected() {
        let body = "0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:b\r\n\r\n";
        assert!(matches!(refusal(0, body), BodyError::MalformedTrailer));
    }

    #[test]
    fn announced_trailer_that_does_not_come_is_noticed() {
        assert!(matches!(
            refusal(0, "0\r\n\r\n"),
            BodyError::MalformedTrailer
        ));
    }

    #[test]
    fn trailer_signature_in_an_unsigned_body_is_rejected() {
        let body = "0\r\nx-amz-checksum-crc32:a\r\nx-amz-trailer-signature:00\r\n\r\n";
        assert!(matches!(refusal(0, body), BodyError::MalformedTrailer));
    }

    #[test]
    fn trailers_are_bounded() {
        let body = |bytes: usize| {
            let value = "v".repeat(bytes - "x-amz-checksum-crc32:\r\n\r\n".len());
            format!("0\r\nx-amz-checksum-crc32:{value}\r\n\r\n")
        };
        assert!(decode(0, &body(TRAILER_BYTES_MAX)).is_ok());
        assert!(matches!(
            refusal(0, &body(TRAILER_BYTES_MAX + 1)),
            BodyError::MalformedTrailer
        ));
    }

    #[test]
    fn blank_lines_in_place_of_trailers_are_bounded() {
        let body = format!("0\r\n{}", "\r\n".repeat(TRAILER_BYTES_MAX));
        assert!(matches!(refusal(0, &body), BodyError::MalformedTrailer));
    }

    #[test]
    fn anything_behind_the_end_is_rejected() {
        for more in ["x", "\r\n\r\n", "0\r\n\r\n", "\n"] {
            let body = format!("0\r\nx-amz-checksum-crc32:a\r\n\r\n{more}");
            assert!(matches!(refusal(0, &body), BodyError::TooLong), "{more:?}");
        }
    }

    #[test]
    fn line_ends_of_minio_are_accepted() {
        let body = "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\n\r\n\r\n";
        assert_eq!(decode(5, body).expect("good"), b"hello");
    }

    #[test]
    fn blank_line_before_the_trailers_is_accepted() {
        let body = "5\r\nhello\r\n0\r\n\r\nx-amz-checksum-crc32:a\r\n\r\n";
        assert_eq!(decode(5, body).expect("good"), b"hello");
    }

    #[test]
    fn garbage_never_panics_and_never_yields_more_than_announced() {
        let body = b"5\r\nhello\r\n1\r\n!\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n";
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).expect("small")
        };
        for _ in 0..20_000 {
            let mut bytes = body.to_vec();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = b"\r\n0159aAfF:;-+\x00\xff"[random(16)];
            }
            let (front, back) = bytes.split_at(random(bytes.len()));
            if let Ok(data) = decode_frames(6, &[front, back]) {
                assert_eq!(data.len(), 6);
            }
        }
    }
}
