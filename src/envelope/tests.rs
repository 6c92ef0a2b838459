//! The format from the outside, and against an independent implementation of AES-GCM.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

use super::segment::{Layout, SEALED_SEGMENT_BYTES, SEGMENT_BYTES};
use super::*;
use strongroom_hsm::SecretBytes;

const BLOB: [u8; BLOB_ID_BYTES] = [0xB1; BLOB_ID_BYTES];
const SALT: [u8; SALT_BYTES] = [0x5A; SALT_BYTES];

fn schedule(byte: u8) -> KeySchedule {
    let secret = SecretBytes::new(vec![byte; 32]).expect("short");
    KeySchedule::new(DataKey::from_secret(&secret).expect("32 bytes"))
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i * 31 % 251).expect("below 251"))
        .collect()
}

fn seal(
    schedule: &KeySchedule,
    blob: &[u8; BLOB_ID_BYTES],
    plaintext: &[u8],
    frame: usize,
) -> (Vec<u8>, Sealed) {
    let mut writer = schedule.sealer_with_salt(blob, SALT);
    let mut sealed = Vec::new();
    for mut frame in plaintext.chunks(frame.max(1)) {
        while let Some(run) = writer.push(&mut frame).expect("within limits") {
            sealed.extend(run);
        }
    }
    let (rest, outcome) = writer.finish().expect("within limits");
    sealed.extend(rest);
    (sealed, outcome)
}

fn open(
    schedule: &KeySchedule,
    blob: &[u8; BLOB_ID_BYTES],
    length: u64,
    sealed: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let header = sealed
        .get(..HEADER_BYTES)
        .ok_or(EnvelopeError::Format("blob"))?;
    let opener = schedule.opener(blob, &SALT, length, header)?;
    let (mut out, mut rest) = (Vec::new(), &sealed[HEADER_BYTES..]);
    for index in 0..opener.layout().segments() {
        let take = opener.layout().sealed_segment_bytes(index).min(rest.len());
        let mut segment = rest[..take].to_vec();
        out.extend_from_slice(opener.open_segment(index, &mut segment)?);
        rest = &rest[take..];
    }
    if rest.is_empty() {
        Ok(out)
    } else {
        Err(EnvelopeError::Unauthentic("blob length"))
    }
}

fn lengths() -> impl Iterator<Item = usize> {
    [
        0,
        1,
        SEGMENT_BYTES - 1,
        SEGMENT_BYTES,
        SEGMENT_BYTES + 1,
        4 * SEGMENT_BYTES,
        4 * SEGMENT_BYTES + 1,
        300_000,
    ]
    .into_iter()
}

#[test]
fn what_was_sealed_opens_whatever_the_frames() {
    let keys = schedule(1);
    for length in lengths() {
        let (sealed, outcome) = seal(&keys, &BLOB, &plaintext(length), usize::MAX);
        assert_eq!(
            outcome,
            Sealed {
                salt: SALT,
                plaintext_bytes: length as u64
            }
        );
        assert_eq!(
            sealed.len() as u64,
            Layout::new(length as u64).expect("short").sealed_bytes()
        );
        for frame in [7, 4096, SEGMENT_BYTES, SEGMENT_BYTES + 1] {
            assert_eq!(
                seal(&keys, &BLOB, &plaintext(length), frame).0,
                sealed,
                "{length} in frames of {frame}"
            );
        }
        assert_eq!(
            open(&keys, &BLOB, length as u64, &sealed).expect("opens"),
            plaintext(length)
        );
    }
}

#[test]
fn an_independent_aes_gcm_opens_every_segment_as_the_spec_says() {
    let length = 2 * SEGMENT_BYTES + 5;
    let (sealed, _) = seal(&schedule(1), &BLOB, &plaintext(length), usize::MAX);
    assert_eq!(&sealed[..4], b"SRB\x01");
    assert_eq!(sealed[4..36], SALT);
    let mut key = [0; 32];
    let info = [b"strongroom blob segment v1".as_slice(), &BLOB];
    let prk = Salt::new(HKDF_SHA256, &SALT).extract(&[1; 32]);
    prk.expand(&info, HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes");
    let aes = Aes256Gcm::new_from_slice(&key).expect("32 bytes");
    let mut out = Vec::new();
    for (index, segment) in sealed[HEADER_BYTES..]
        .chunks(SEALED_SEGMENT_BYTES)
        .enumerate()
    {
        let mut nonce = [0; 12];
        nonce[0] = u8::from(index == 2);
        nonce[4..].copy_from_slice(&(index as u64).to_be_bytes());
        let aad = [&[1], BLOB.as_slice()].concat();
        let nonce = Nonce::try_from(nonce.as_slice()).expect("12 bytes");
        out.extend(
            aes.decrypt(
                &nonce,
                Payload {
                    msg: segment,
                    aad: &aad,
                },
            )
            .expect("authentic"),
        );
    }
    assert_eq!(out, plaintext(length));
}

#[test]
fn another_key_blob_or_salt_is_found_before_any_segment() {
    let (sealed, _) = seal(&schedule(1), &BLOB, b"x", 1);
    let header = &sealed[..HEADER_BYTES];
    let commitment =
        |result: Result<Opener, EnvelopeError>| matches!(result, Err(EnvelopeError::Commitment));
    assert!(commitment(schedule(2).opener(&BLOB, &SALT, 1, header)));
    assert!(commitment(schedule(1).opener(&[0; 16], &SALT, 1, header)));
    assert!(commitment(schedule(1).opener(&BLOB, &[0; 32], 1, header)));
    assert!(schedule(1).opener(&BLOB, &SALT, 1, header).is_ok());
}

#[test]
fn truncation_extension_and_reorder_are_found() {
    let keys = schedule(1);
    let length = 3 * SEGMENT_BYTES;
    let (sealed, _) = seal(&keys, &BLOB, &plaintext(length), usize::MAX);
    let at = |segment: usize| HEADER_BYTES + segment * SEALED_SEGMENT_BYTES;
    // Cut at a border, with a record that was cut to match: the last flag is missing.
    assert!(open(&keys, &BLOB, 2 * SEGMENT_BYTES as u64, &sealed[..at(2)]).is_err());
    // Extended by a segment of the same blob, with a record to match.
    let longer = [sealed.as_slice(), &sealed[at(2)..]].concat();
    assert!(open(&keys, &BLOB, 4 * SEGMENT_BYTES as u64, &longer).is_err());
    let swapped = [
        &sealed[..at(0)],
        &sealed[at(1)..at(2)],
        &sealed[at(0)..at(1)],
        &sealed[at(2)..],
    ]
    .concat();
    assert!(open(&keys, &BLOB, length as u64, &swapped).is_err());
}

fn manifest() -> Manifest {
    let part = |number: u8| ManifestPart {
        number: u32::from(number),
        blob_id: [number; BLOB_ID_BYTES],
        salt: [number; SALT_BYTES],
        plaintext_bytes: 5 << 20,
    };
    Manifest {
        identity: b"bucket/key".to_vec(),
        attributes_digest: [3; 32],
        parts: vec![part(1), part(2)],
    }
}

#[test]
fn a_manifest_opens_for_its_key_identity_and_attributes_only() {
    let sealed = schedule(1).seal_manifest(&manifest()).expect("short");
    assert_eq!(
        schedule(1)
            .open_manifest(&sealed, b"bucket/key", &[3; 32])
            .expect("opens"),
        manifest()
    );
    for (key, identity, digest) in [
        (2, b"bucket/key", [3; 32]),
        (1, b"bucket/kex", [3; 32]),
        (1, b"bucket/key", [4; 32]),
    ] {
        assert!(
            schedule(key)
                .open_manifest(&sealed, identity, &digest)
                .is_err()
        );
    }
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(
            schedule(1)
                .open_manifest(&changed, b"bucket/key", &[3; 32])
                .is_err(),
            "byte {at}"
        );
        assert!(
            schedule(1)
                .open_manifest(&sealed[..at], b"bucket/key", &[3; 32])
                .is_err(),
            "cut at {at}"
        );
    }
}

#[test]
fn a_manifest_has_between_one_and_ten_thousand_parts() {
    let with = |count: usize| Manifest {
        parts: vec![manifest().parts[0]; count],
        ..manifest()
    };
    assert!(schedule(1).seal_manifest(&with(0)).is_err());
    assert!(schedule(1).seal_manifest(&with(PARTS_MAX)).is_ok());
    assert!(schedule(1).seal_manifest(&with(PARTS_MAX + 1)).is_err());
}

#[test]
fn sealed_attributes_open_for_their_key_and_identity_only() {
    let sealed = schedule(1)
        .seal_attributes(b"me", b"checksum")
        .expect("short");
    assert_eq!(
        schedule(1).open_attributes(b"me", &sealed).expect("opens"),
        b"checksum"
    );
    assert!(schedule(1).open_attributes(b"you", &sealed).is_err());
    assert!(schedule(2).open_attributes(b"me", &sealed).is_err());
    assert!(
        schedule(1)
            .seal_attributes(b"me", &vec![0; ATTRIBUTES_BYTES_MAX])
            .is_ok()
    );
    assert!(
        schedule(1)
            .seal_attributes(b"me", &vec![0; ATTRIBUTES_BYTES_MAX + 1])
            .is_err()
    );
}

#[test]
fn a_part_tag_is_of_its_fields_and_key() {
    let tag = schedule(1).part_tag(b"fields");
    assert!(schedule(1).verify_part_tag(b"fields", &tag).is_ok());
    assert!(schedule(1).verify_part_tag(b"field", &tag).is_err());
    assert!(schedule(2).verify_part_tag(b"fields", &tag).is_err());
}

/// Files in `tests/vectors` are never changed: a new version gets new ones.
#[test]
fn golden_files_of_version_1_are_reproduced_and_open() {
    let keys = schedule(1);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let golden = |name: &str, made: &[u8]| {
        let path = dir.join(name);
        let stored =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(stored, made, "{name}");
    };
    golden("blob-v1-empty.bin", &seal(&keys, &BLOB, b"", 1).0);
    golden(
        "blob-v1-short.bin",
        &seal(&keys, &BLOB, &plaintext(100), 1).0,
    );
    let long = seal(&keys, &BLOB, &plaintext(SEGMENT_BYTES + 1), usize::MAX).0;
    golden("blob-v1-two-segments.bin", &long);
    golden(
        "manifest-v1.bin",
        &keys
            .seal_manifest_with_salt(&manifest(), SALT)
            .expect("short"),
    );
    golden(
        "attributes-v1.bin",
        &keys
            .seal_attributes_with_salt(b"me", b"checksum", SALT)
            .expect("short"),
    );
    golden("part-tag-v1.bin", &keys.part_tag(b"fields"));
}

/// A smoke run of a fuzzer: bounded, the same every time, and negative. Whatever is not what was sealed is refused,
/// and nothing panics.
#[test]
fn ten_thousand_changed_envelopes_are_refused_without_a_panic() {
    let keys = schedule(1);
    let (blob, _) = seal(&keys, &BLOB, &plaintext(70_000), usize::MAX);
    let manifest = keys.seal_manifest(&manifest()).expect("short");
    let attributes = keys.seal_attributes(b"me", b"checksum").expect("short");
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move |below: usize| {
        // xorshift64: the same sequence in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below")
    };
    for round in 0..10_000 {
        let original =
            [&blob, &manifest, &attributes][if round % 50 == 0 { 0 } else { 1 + round % 2 }];
        let mut changed = original.clone();
        match random(4) {
            0 => changed.truncate(random(changed.len())),
            1 => changed.extend((0..=random(40)).map(|i| u8::try_from(i).expect("small"))),
            2 => {
                let (a, b) = (random(changed.len()), random(changed.len()));
                changed.swap(a, b);
            }
            _ => {
                let at = random(changed.len());
                changed[at] ^= 1 << random(8);
            }
        }
        if changed == *original {
            continue;
        }
        assert!(open(&keys, &BLOB, 70_000, &changed).is_err());
        assert!(
            keys.open_manifest(&changed, b"bucket/key", &[3; 32])
                .is_err()
        );
        assert!(keys.open_attributes(b"me", &changed).is_err());
    }
}
