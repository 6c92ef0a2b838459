use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use http::request::Parts;

use super::*;
use crate::auth::sigv4::tests::{head, verify_s3};

const KEY: &str =
    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

const TRAILING: Declared = Declared::Chunked {
    signed: false,
    trailers: true,
};

/// A body of given frames, which may then fail.
struct Frames {
    frames: VecDeque<Bytes>,
    fails: bool,
}

impl Frames {
    fn of(pieces: &[&[u8]]) -> Self {
        let frames = pieces
            .iter()
            .map(|piece| Bytes::copy_from_slice(piece))
            .collect();
        Self {
            frames,
            fails: false,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match self.frames.pop_front() {
            Some(data) => Some(Ok(Frame::data(data))),
            None if self.fails => Some(Err(std::io::Error::other("reset by peer"))),
            None => None,
        })
    }
}

/// The next frame of a body that is never pending.
fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Bytes, B::Error>> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame.map(|frame| frame.map(|f| f.into_data().unwrap_or_default())),
        Poll::Pending => unreachable!("the inner body is always ready"),
    }
}

fn drain<B>(body: &mut VerifiedBody<B>) -> Result<Vec<u8>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut all = Vec::new();
    while let Some(data) = next(body) {
        all.extend_from_slice(&data?);
    }
    Ok(all)
}

fn read(head: &Parts, pieces: &[&[u8]]) -> Result<Vec<u8>, BodyError> {
    let verified = verify_s3(head).expect("the head is right");
    drain(&mut VerifiedBody::new(Frames::of(pieces), verified.payload))
}

fn code(result: &Result<Vec<u8>, BodyError>) -> &'static str {
    result.as_ref().expect_err("must fail").code()
}

/// "Example: PUT Object", with a digest of "Welcome to Amazon S3.".
fn digested() -> Parts {
    let authorization = format!(
        "{KEY},SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,\
             Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    );
    let headers = [
        ("host", "examplebucket.s3.amazonaws.com"),
        ("authorization", &authorization),
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        (
            "x-amz-content-sha256",
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        ),
    ];
    head("PUT", "/test%24file.text", &headers)
}

/// The example of "Transferring Payload in Multiple Chunks": 65 KiB of 'a' in two chunks.
fn published_chunks() -> (Parts, Vec<u8>) {
    let authorization = format!(
        "{KEY},SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;\
             x-amz-decoded-content-length;x-amz-storage-class,\
             Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    );
    let headers = [
        ("host", "s3.amazonaws.com"),
        ("authorization", &authorization),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("content-length", "66824"),
    ];
    let body = [
        "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n",
        &"a".repeat(65536),
        "\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n",
        &"a".repeat(1024),
        "\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n",
    ];
    (
        head("PUT", "/examplebucket/chunkObject.txt", &headers),
        body.concat().into_bytes(),
    )
}

/// The example of "Including Trailing Headers".
fn published_trailer() -> (Parts, Vec<u8>) {
    let authorization = format!(
        "{KEY},SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;\
             x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer,\
             Signature=106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    );
    let headers = [
        ("host", "s3.amazonaws.com"),
        ("authorization", &authorization),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        (
            "x-amz-content-sha256",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        ),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("x-amz-trailer", "x-amz-checksum-crc32c"),
    ];
    let body = [
        "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n",
        &"a".repeat(65536),
        "\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n",
        &"a".repeat(1024),
        "\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n",
        "x-amz-checksum-crc32c:sOO8/Q==\r\n",
        "x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
    ];
    (
        head("PUT", "/examplebucket/chunkObject.txt", &headers),
        body.concat().into_bytes(),
    )
}

/// "hello world" in two signed chunks with a signed trailer; the head is signed by botocore.
fn small_signed() -> (Parts, Vec<u8>) {
    let authorization = format!(
        "{KEY}, SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;\
             x-amz-decoded-content-length;x-amz-trailer, \
             Signature=1f09fc0803a304ec58006339ad31ac2186e518f29d156e2f1d876b6db24a55f4"
    );
    let headers = [
        ("host", "127.0.0.1:9000"),
        ("authorization", &authorization),
        ("x-amz-date", "20130524T000000Z"),
        (
            "x-amz-content-sha256",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        ),
        ("content-encoding", "gzip,aws-chunked"),
        ("x-amz-decoded-content-length", "11"),
        ("x-amz-trailer", "x-amz-checksum-crc32c"),
    ];
    let body = "4;chunk-signature=f8788c54b64d02d1d84b586863f886c7f89f336951fbcdbd0900677c2dc50ea3\r\nhell\r\n\
             7;chunk-signature=77df7fff41b78d2defae45cbd7e70484baafb25823411eed19cf164e7a44fee9\r\no world\r\n\
             0;chunk-signature=1220f46a6d232e502d22fdbbdb4084c6f07d0a192f2f1ef8497ec32e9cb139d3\r\n\
             x-amz-checksum-crc32c:yZRlqg==\r\n\
             x-amz-trailer-signature:537533b39a71fd234ee2995ed47259e38a8277d6db9b1953f6daf3bc35ec2ca5\r\n\r\n";
    (
        head("PUT", "/bucket/key", &headers),
        body.as_bytes().to_vec(),
    )
}

/// What botocore sends over TLS by default.
fn unsigned_trailer() -> (Parts, &'static [u8]) {
    let authorization = format!(
        "{KEY}, SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;\
             x-amz-decoded-content-length;x-amz-sdk-checksum-algorithm;x-amz-trailer, \
             Signature=175d70bc9e5884c395dd2134b8c24c0dd0cb5acc94dccc285f6cc70fa62cfbfb"
    );
    let headers = [
        ("host", "127.0.0.1:9000"),
        ("authorization", &authorization),
        ("transfer-encoding", "chunked"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("x-amz-decoded-content-length", "5"),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
    ];
    let body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
    (head("PUT", "/bucket/k", &headers), body)
}

#[test]
fn another_body_than_the_digest_names_is_rejected() {
    let result = read(&digested(), &[b"Welcome to Amazon S3!"]);
    assert_eq!(code(&result), "XAmzContentSHA256Mismatch");
}

#[test]
fn unsigned_digest_of_a_presigned_request_is_checked() {
    let uri = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
            &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let headers = [
        ("host", "examplebucket.s3.amazonaws.com"),
        (
            "x-amz-content-sha256",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
    ];
    let result = read(&head("GET", uri, &headers), &[b"not empty"]);
    assert_eq!(code(&result), "XAmzContentSHA256Mismatch");
}

#[test]
fn trailer_without_a_scheme_that_has_trailers_is_refused() {
    let headers = HeaderMap::from_iter([(
        HeaderName::from_static(TRAILER),
        HeaderValue::from_static("x-amz-checksum-crc32"),
    )]);
    let chunked = Declared::Chunked {
        signed: true,
        trailers: false,
    };
    for declared in [Declared::Unsigned, chunked] {
        assert_eq!(
            announced(&headers, declared),
            Err(AuthError::TrailerUnsupported)
        );
    }
}

#[test]
fn last_frame_is_not_handed_out_before_the_digest_is_right() {
    let payload = verify_s3(&digested()).expect("the head is right").payload;
    let mut body = VerifiedBody::new(Frames::of(&[b"all of the data"]), payload);
    assert!(matches!(
        next(&mut body),
        Some(Err(BodyError::Sha256Mismatch))
    ));
}

#[test]
fn failed_body_never_ends_well() {
    let payload = verify_s3(&digested()).expect("the head is right").payload;
    let mut body = VerifiedBody::new(Frames::of(&[b"wrong"]), payload);
    assert!(drain(&mut body).is_err());
    assert!(matches!(next(&mut body), Some(Err(BodyError::Incomplete))));
}

#[test]
fn failure_of_the_connection_is_told() {
    let payload = verify_s3(&digested()).expect("the head is right").payload;
    let inner = Frames {
        frames: VecDeque::new(),
        fails: true,
    };
    let result = drain(&mut VerifiedBody::new(inner, payload));
    assert!(matches!(result, Err(BodyError::Transport(_))));
}

#[test]
fn body_that_the_digest_names_passes() {
    let all =
        read(&digested(), &[b"Welcome to ", b"", b"Amazon S3."]).expect("the digest is right");
    assert_eq!(all, b"Welcome to Amazon S3.");
}

#[test]
fn unsigned_body_passes_frame_by_frame() {
    let frames = Frames::of(&[b"some", b"thing"]);
    let mut body = VerifiedBody::new(frames, Payload(Scheme::Unsigned));
    assert!(matches!(next(&mut body), Some(Ok(data)) if data == "some"));
}

#[test]
fn published_chunked_example_passes() {
    let (head, body) = published_chunks();
    assert_eq!(
        read(&head, &[&body]).expect("the chain is right"),
        vec![b'a'; 66560]
    );
}

#[test]
fn published_trailer_example_passes() {
    let (head, body) = published_trailer();
    assert_eq!(
        read(&head, &[&body]).expect("the chain is right"),
        vec![b'a'; 66560]
    );
}

#[test]
fn changed_byte_in_a_signed_chunk_is_rejected() {
    let (head, body) = published_chunks();
    let body = String::from_utf8(body)
        .expect("text")
        .replacen("aaaa", "aaba", 1);
    assert_eq!(
        code(&read(&head, &[body.as_bytes()])),
        "SignatureDoesNotMatch"
    );
}

#[test]
fn signed_body_without_the_signature_of_its_trailers_is_rejected() {
    let (head, body) = small_signed();
    let body = String::from_utf8(body).expect("text");
    let (front, _) = body
        .split_once("x-amz-trailer-signature")
        .expect("it is there");
    let body = format!("{front}\r\n");
    assert_eq!(
        code(&read(&head, &[body.as_bytes()])),
        "MalformedTrailerError"
    );
}

#[test]
fn every_flipped_bit_of_a_signed_body_is_noticed() {
    let (head, body) = small_signed();
    for at in 0..body.len() {
        let mut damaged = body.clone();
        damaged[at] ^= 1;
        assert!(read(&head, &[&damaged]).is_err(), "byte {at}");
    }
}

#[test]
fn every_truncation_of_a_body_is_noticed() {
    let (signed_head, signed) = small_signed();
    let (unsigned_head, unsigned) = unsigned_trailer();
    for (head, body) in [(signed_head, signed.as_slice()), (unsigned_head, unsigned)] {
        for end in 0..body.len() {
            assert_eq!(
                code(&read(&head, &[&body[..end]])),
                "IncompleteBody",
                "byte {end}"
            );
        }
    }
}

#[test]
fn frame_boundaries_change_nothing() {
    let (signed_head, signed) = small_signed();
    let (unsigned_head, unsigned) = unsigned_trailer();
    let bodies: [(_, &[u8], &[u8]); 2] = [
        (signed_head, &signed, b"hello world"),
        (unsigned_head, unsigned, b"hello"),
    ];
    for (head, body, data) in bodies {
        for at in 0..=body.len() {
            let (front, back) = body.split_at(at);
            assert_eq!(
                read(&head, &[front, back]).expect("right"),
                data,
                "byte {at}"
            );
        }
        let single: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(read(&head, &single).expect("right"), data);
    }
}

#[test]
fn trailers_are_readable_once_the_body_has_ended() {
    let (head, bytes) = unsigned_trailer();
    let payload = verify_s3(&head).expect("the head is right").payload;
    let mut body = VerifiedBody::new(Frames::of(&[bytes]), payload);
    let trailers = body.trailers();
    assert!(trailers.read().is_none());
    drain(&mut body).expect("right");
    let trailers = trailers.read().expect("the body has ended");
    assert_eq!(
        trailers.get("x-amz-checksum-crc32").expect("announced"),
        "NhCmhg=="
    );
}

#[test]
fn trailers_of_a_bad_body_are_never_readable() {
    let (head, bytes) = unsigned_trailer();
    let payload = verify_s3(&head).expect("the head is right").payload;
    let more = [bytes, b"more"].concat();
    let mut body = VerifiedBody::new(Frames::of(&[&more]), payload);
    assert!(drain(&mut body).is_err());
    assert!(body.trailers().read().is_none());
}

#[test]
fn size_of_a_chunked_body_is_that_of_its_data() {
    let (head, bytes) = unsigned_trailer();
    let payload = verify_s3(&head).expect("the head is right").payload;
    let mut body = VerifiedBody::new(Frames::of(&[bytes]), payload);
    assert_eq!(body.size_hint().exact(), Some(5));
    drain(&mut body).expect("right");
    assert_eq!(
        (body.size_hint().exact(), body.is_end_stream()),
        (Some(0), true)
    );
}

#[test]
fn stripped_headers_describe_the_data() {
    let (mut head, _) = unsigned_trailer();
    verify_s3(&head)
        .expect("the head is right")
        .strip(&mut head);
    let mut left: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .collect();
    left.sort();
    assert_eq!(
        left,
        [
            "content-length: 5",
            "host: 127.0.0.1:9000",
            "x-amz-sdk-checksum-algorithm: CRC32"
        ]
    );
}

#[test]
fn other_content_codings_are_kept() {
    let cases: [(&[&str], &[&str]); 4] = [
        (&["gzip,aws-chunked"], &["gzip"]),
        (&["aws-chunked, gzip , br"], &["gzip, br"]),
        (&["AWS-Chunked", "gzip"], &["gzip"]),
        (&["gzip ,br"], &["gzip ,br"]),
    ];
    for (sent, kept) in cases {
        let mut headers = HeaderMap::new();
        for value in sent {
            headers.append(CONTENT_ENCODING, value.parse().expect("a value"));
        }
        strip_content_encoding(&mut headers);
        let left: Vec<&HeaderValue> = headers.get_all(CONTENT_ENCODING).iter().collect();
        assert_eq!(left, kept, "{sent:?}");
    }
}

#[test]
fn only_checksums_may_be_announced_as_trailers() {
    for names in [
        "x-amz-acl",
        "x-amz-checksum-crc32,x-amz-checksum-crc32",
        "",
        "a b",
    ] {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static(TRAILER),
            names.parse().expect("a value"),
        )]);
        assert_eq!(
            announced(&headers, TRAILING),
            Err(AuthError::TrailerUnsupported),
            "{names}"
        );
    }
}

#[test]
fn announced_trailers_are_bounded() {
    let announce = |count: usize| {
        let names: Vec<String> = (0..count)
            .map(|index| format!("x-amz-checksum-{index}"))
            .collect();
        let value = names.join(", ").parse().expect("a value");
        let headers = HeaderMap::from_iter([(HeaderName::from_static(TRAILER), value)]);
        announced(&headers, TRAILING)
    };
    assert_eq!(announce(TRAILERS_MAX).expect("good").len(), TRAILERS_MAX);
    assert_eq!(
        announce(TRAILERS_MAX + 1),
        Err(AuthError::TrailerUnsupported)
    );
}

#[test]
fn decoded_length_must_be_digits_that_fit() {
    for text in ["", "+5", "-1", "5 5", "0x5", "18446744073709551616"] {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static(DECODED_LENGTH),
            text.parse().expect("a value"),
        )]);
        assert_eq!(
            decoded_length(&headers),
            Err(AuthError::DecodedLengthInvalid),
            "{text}"
        );
    }
    assert_eq!(
        decoded_length(&HeaderMap::new()),
        Err(AuthError::DecodedLengthMissing)
    );
}

/// One chunk of a GiB, and how much of it has been made.
struct Gibibyte {
    made: Rc<Cell<u64>>,
    frame: Bytes,
    ended: bool,
}

const GIBIBYTE: u64 = 1 << 30;

impl Body for Gibibyte {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let made = self.made.get();
        let frame = if made == 0 && self.frame.is_empty() {
            self.frame = Bytes::from(vec![0; 1 << 20]);
            Bytes::from_static(b"40000000\r\n")
        } else if made < GIBIBYTE {
            self.made.set(made + self.frame.len() as u64);
            self.frame.clone()
        } else if self.ended {
            return Poll::Ready(None);
        } else {
            self.ended = true;
            Bytes::from_static(b"\r\n0\r\n\r\n")
        };
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }
}

#[test]
fn gibibyte_in_one_chunk_streams_with_at_most_two_frames_in_memory() {
    let made = Rc::new(Cell::new(0));
    let inner = Gibibyte {
        made: Rc::clone(&made),
        frame: Bytes::new(),
        ended: false,
    };
    let payload = Payload(Scheme::Chunked(Box::new(Decoder::new(
        GIBIBYTE,
        None,
        Vec::new(),
    ))));
    let mut body = VerifiedBody::new(inner, payload);
    let (mut read, mut buffered_max) = (0, 0);
    while let Some(data) = next(&mut body) {
        buffered_max = buffered_max.max(made.get() - read);
        read += data.expect("right").len() as u64;
    }
    assert_eq!((read, buffered_max), (GIBIBYTE, 2 << 20));
}

#[test]
fn verified_body_can_be_sent_and_shared() {
    fn assert_send_sync<T: Send + Sync + 'static>() {}
    assert_send_sync::<VerifiedBody<http_body_util::Full<Bytes>>>();
}
