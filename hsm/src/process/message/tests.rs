//! Messages written, read, and changed on the way.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::wire::{ANSWER_BYTES_MAX, Channel, REQUEST_BYTES_MAX};
use super::fields::{DANGERS_MAX, FACTS_MAX};
use super::*;
use crate::pkcs11::Dialect;
use crate::{Canary, Fact, HashFunction, WrapScheme};

fn id(byte: u8) -> BackingKeyId {
    BackingKeyId::from_bytes([byte; BackingKeyId::BYTES])
}

fn wrapped() -> Wrapped {
    Wrapped::new(WrapScheme::AesGcm, &[9; 60])
}

fn key() -> BackingKey {
    BackingKey {
        id: id(1),
        blob: KeyBlob::from_bytes(&[4; 30]).expect("short"),
        canary: Canary(wrapped()),
    }
}

const SPEC: ToolSpec = ToolSpec::Hmac(HashFunction::Sha384);

fn tool() -> ToolKey {
    ToolKey {
        id: id(4),
        spec: SPEC,
        proof: ToolProof::from_bytes(&[8; 48]).expect("short"),
    }
}

fn material(same_as: Option<BackingKey>) -> Material {
    Material {
        unwrapper: tool(),
        wrapped: vec![3; Material::WRAPPED_BYTES_MAX],
        same_as,
    }
}

fn secret_bytes() -> SecretBytes {
    SecretBytes::new(vec![7; 32]).expect("short")
}

fn config() -> Pkcs11Config {
    Pkcs11Config::from_uri("pkcs11:token=t;serial=s?module-path=/m&pin-source=/p").expect("good")
}

fn requests() -> Vec<Request<'static>> {
    let wrap = |and_unwrap| Request::Wrap {
        key: Cow::Owned(key()),
        aad: b"aad",
        plaintext: Secret(&[7; 64]),
        and_unwrap,
    };
    vec![
        Request::Hello { build: "1" },
        Request::Configure(Cow::Owned(config())),
        Request::Pin(Secret(b"1234")),
        Request::Open,
        Request::Info,
        Request::Report,
        Request::Try,
        Request::Begin(Cow::Owned(abilities())),
        Request::Generate {
            id: id(1),
            label: "label",
        },
        Request::MakeCanary {
            id: id(1),
            blob: Cow::Owned(KeyBlob::EMPTY),
        },
        Request::Contains(id(2)),
        Request::Probe(Cow::Owned(key())),
        wrap(false),
        wrap(true),
        Request::Unwrap {
            key: Cow::Owned(key()),
            aad: b"",
            wrapped: Cow::Owned(wrapped()),
        },
        Request::Destroy(id(3)),
        Request::ListKeys,
        Request::Random(1024),
        Request::ToolObstacle(SPEC),
        Request::GenerateTool {
            id: id(4),
            spec: SPEC,
            label: "label",
        },
        Request::ProveTool {
            id: id(4),
            spec: SPEC,
            blob: Cow::Owned(KeyBlob::EMPTY),
        },
        Request::ProbeTool(Cow::Owned(tool())),
        Request::Mac {
            tool: Cow::Owned(tool()),
            message: Secret(&[7; TOOL_INPUT_BYTES_MAX]),
        },
        Request::Sign {
            tool: Cow::Owned(tool()),
            algorithm: SignatureAlgorithm::Ecdsa(HashFunction::Sha512),
            digest: &[6; 64],
        },
        Request::Import {
            material: Cow::Owned(material(Some(key()))),
            into: Some((id(5), "label")),
        },
        Request::Import {
            material: Cow::Owned(material(None)),
            into: None,
        },
    ]
}

fn errors() -> Vec<HsmError> {
    vec![
        HsmError::KeyNotFound(id(1)),
        HsmError::KeyExists(id(2)),
        HsmError::Unauthentic,
        HsmError::TooLong {
            what: "AAD",
            bytes: 20_000,
        },
        HsmError::Busy,
        HsmError::Timeout(Duration::from_millis(5)),
        HsmError::Unavailable {
            reason: "gone".into(),
            source: None,
        },
        HsmError::Unavailable {
            reason: "gone".into(),
            source: Some("CKR_DEVICE_REMOVED".into()),
        },
        HsmError::PinRejected("it is wrong"),
        HsmError::Unfit {
            id: id(3),
            reason: "CKA_EXTRACTABLE".into(),
        },
        HsmError::UnsafeToken("it tells keys".into()),
        HsmError::Config("two tokens".into()),
        HsmError::WrapNotReadable,
        HsmError::Device {
            function: "C_Encrypt",
            source: "CKR_DEVICE_ERROR".into(),
        },
        HsmError::Random("ENOSYS".into()),
        HsmError::KeyUnavailable {
            id: id(4),
            reason: "PCR 7 has changed".into(),
        },
        HsmError::Unsupported("it has no such mechanism".into()),
        HsmError::OtherMaterial,
    ]
}

fn abilities() -> Abilities {
    Abilities {
        dialect: Dialect::from_byte(5).expect("is known"),
        schemes: vec![
            (WrapScheme::AesGcm, Err("CKR_MECHANISM_INVALID".into())),
            (WrapScheme::AesKwp, Ok(())),
        ],
        dangers: vec!["it burns".into()],
        untried: Some("it is hot".into()),
    }
}

fn answers() -> Vec<Answer> {
    let mut answers = vec![
        Answer::Hello {
            version: VERSION,
            build: "1".into(),
        },
        Answer::Done,
        Answer::PinPlease { few_tries: true },
        Answer::Info(TokenInfo {
            backend: "pkcs11",
            module: "m".into(),
            label: "l".into(),
            serial: "s".into(),
            model: "o".into(),
        }),
        Answer::Report(Report {
            facts: vec![Fact {
                subject: "token".into(),
                name: "label".into(),
                value: "l".into(),
            }],
            dangers: vec!["it burns".into()],
        }),
        Answer::Blob(KeyBlob::EMPTY),
        Answer::Wrapped(wrapped()),
        Answer::WrappedAndSecret(wrapped(), secret_bytes()),
        Answer::Secret(Zeroizing::new(vec![7; 32])),
        Answer::Flag(true),
        Answer::Ids(vec![id(1), id(2)]),
        Answer::Opened("a token".into()),
        Answer::Abilities(abilities()),
        Answer::Obstacle(None),
        Answer::Obstacle(Some("it has no such mechanism".into())),
        Answer::Made(vec![7; 64]),
    ];
    answers.extend(errors().into_iter().map(Answer::Failed));
    answers
}

/// The bytes of a frame after its length.
fn framed(kind: u8, write: impl FnOnce(&mut Fill<'_>) -> HsmResult<()>) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind];
    write(&mut Fill(&mut bytes)).expect("fits");
    bytes
}

fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (head, fields) = bytes.split_first_chunk::<2>()?;
    Some(Frame {
        version: head[0],
        kind: head[1],
        fields: Fields::new(fields),
    })
}

#[test]
fn what_is_written_is_read() {
    for request in requests() {
        let bytes = framed(request.kind(), |out| request.write(out));
        let back = Request::read(frame(&bytes).expect("a head")).expect("reads");
        let again = framed(back.kind(), |out| back.write(out));
        assert_eq!(bytes, again, "{request:?}");
    }
    for answer in answers() {
        let bytes = framed(answer.kind(), |out| answer.write(out));
        let back = Answer::read(frame(&bytes).expect("a head")).expect("reads");
        assert_eq!(format!("{answer:?}"), format!("{back:?}"));
    }
}

#[test]
fn the_bytes_of_a_wrap_are_as_specified() {
    let request = Request::Wrap {
        key: Cow::Owned(key()),
        aad: b"aad",
        plaintext: Secret(&[7; 2]),
        and_unwrap: true,
    };
    let bytes = framed(request.kind(), |out| request.write(out));
    let mut expected = vec![VERSION, 0x15];
    expected.extend([1; 32]);
    expected.extend([0, 0, 0, 30]);
    expected.extend([4; 30]);
    expected.extend([0, 0, 0, 61, 1]);
    expected.extend([9; 60]);
    expected.extend([0, 0, 0, 3]);
    expected.extend(b"aad");
    expected.extend([0, 0, 0, 2, 7, 7]);
    assert_eq!(bytes, expected);
}

#[test]
fn a_device_error_of_an_unknown_function_names_it_in_its_cause() {
    let error = HsmError::Device {
        function: "C_Surprise",
        source: "CKR_VENDOR_DEFINED".into(),
    };
    let answer = Answer::Failed(error);
    let bytes = framed(answer.kind(), |out| answer.write(out));
    let back = Answer::read(frame(&bytes).expect("a head")).expect("reads");
    let text = format!("{back:?}");
    assert!(text.contains("C_Surprise: CKR_VENDOR_DEFINED"), "{text}");
}

/// Every truncation, and many changes of a few bytes by a generator with a fixed seed: an error or a message, never
/// a panic, and what is read is written back within the limits.
#[test]
fn no_change_of_a_message_harms_its_reader() {
    let requests = requests();
    let answers = answers();
    let frames = requests
        .iter()
        .map(|request| framed(request.kind(), |out| request.write(out)))
        .chain(
            answers
                .iter()
                .map(|answer| framed(answer.kind(), |out| answer.write(out))),
        );
    let frames: Vec<Vec<u8>> = frames.collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("64 bits") % below
    };
    let (mut read, mut refused) = (0, 0);
    let mut try_both = |bytes: &[u8]| {
        let Some(one) = frame(bytes) else { return };
        match Request::read(one) {
            Ok(request) => {
                read += 1;
                assert!(
                    framed(request.kind(), |out| request.write(out)).len() <= REQUEST_BYTES_MAX
                );
            }
            Err(_) => refused += 1,
        }
        match Answer::read(frame(bytes).expect("has a head")) {
            Ok(answer) => {
                read += 1;
                assert!(framed(answer.kind(), |out| answer.write(out)).len() <= ANSWER_BYTES_MAX);
            }
            Err(_) => refused += 1,
        }
    };
    for whole in &frames {
        for length in 0..whole.len() {
            try_both(&whole[..length]);
        }
        for _ in 0..2_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = 0xff,
                    1 => bytes[at] ^= 1 << random(8),
                    2 => bytes.insert(at, u8::try_from(random(256)).expect("a byte")),
                    _ => {
                        if bytes.len() > 1 {
                            bytes.remove(at);
                        }
                    }
                }
            }
            try_both(&bytes);
        }
    }
    assert!(read > 1_000 && refused > 1_000, "{read} {refused}");
}

#[test]
fn limits_are_kept_on_both_sides() {
    let fits = |aad: usize| {
        let aad = vec![3; aad];
        let request = Request::Wrap {
            key: Cow::Owned(key()),
            aad: &aad,
            plaintext: Secret(&[]),
            and_unwrap: false,
        };
        let mut bytes = Vec::new();
        request.write(&mut Fill(&mut bytes)).is_ok()
    };
    assert!(fits(WRAP_AAD_BYTES_MAX) && !fits(WRAP_AAD_BYTES_MAX + 1));
    let listed = |count: usize| {
        let answer = Answer::Ids(vec![id(1); count]);
        let mut bytes = Vec::new();
        answer.write(&mut Fill(&mut bytes)).map(|()| bytes.len())
    };
    assert!(listed(KEYS_MAX).expect("fits") <= ANSWER_BYTES_MAX);
    assert!(listed(KEYS_MAX + 1).is_err());
    // A count that no bytes follow is refused, whatever it says.
    let bytes = [VERSION, 0x8b, 0xff, 0xff, 0xff, 0xff];
    assert!(Answer::read(frame(&bytes).expect("a head")).is_err());
}

#[test]
fn a_long_list_passes_through_a_socket_whole() {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let sender = std::thread::spawn(move || {
        let answer = Answer::Ids(vec![id(5); KEYS_MAX]);
        let sent = Channel::new(theirs, 0).send(answer.kind(), None, |out| answer.write(out));
        sent.expect("fits").expect("goes");
    });
    let mut ours = Channel::new(ours, 0);
    let frame = ours.receive(ANSWER_BYTES_MAX, None).expect("comes");
    match Answer::read(frame).expect("reads") {
        Answer::Ids(ids) => assert_eq!(ids.len(), KEYS_MAX),
        other => panic!("{other:?}"),
    }
    sender.join().expect("does not panic");
}

fn sent_and_read(report: Report) -> Report {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let mut ours = Channel::new(ours, 0);
    let mut theirs = Channel::new(theirs, 0);
    let sender = std::thread::spawn(move || {
        let answer = Answer::Report(report);
        let sent = ours.send(answer.kind(), None, |out| answer.write(out));
        sent.expect("fits").expect("goes");
    });
    let frame = theirs.receive(ANSWER_BYTES_MAX, None).expect("comes");
    let answer = Answer::read(frame).expect("reads");
    sender.join().expect("does not panic");
    match answer {
        Answer::Report(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_report_that_is_too_long_says_how_much_is_left_out() {
    let fact = |bytes: usize| Fact {
        subject: "key".into(),
        name: "k".repeat(64),
        value: "v".repeat(bytes),
    };
    for (facts, bytes) in [(10_000, 200), (20_000, 1024), (FACTS_MAX, 10)] {
        let report = Report {
            facts: vec![fact(bytes); facts],
            dangers: vec!["d".repeat(bytes); facts],
        };
        let read = sent_and_read(report);
        let (note, told) = read.facts.split_last().expect("facts");
        assert_eq!(note.name, "facts that are left out");
        assert_eq!(note.value, (facts - told.len()).to_string());
        assert!(told.len() > 1000, "{}", told.len());
        let (note, told) = read.dangers.split_last().expect("dangers");
        let left_out = facts - told.len();
        assert_eq!(*note, format!("{left_out} more dangers are left out"));
    }
    let whole = Report {
        facts: vec![fact(10); FACTS_MAX - 1],
        dangers: vec!["d".into(); DANGERS_MAX - 1],
    };
    assert_eq!(sent_and_read(whole.clone()), whole);
}
