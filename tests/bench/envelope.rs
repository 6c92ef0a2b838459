//! Sealing and opening against the raw AEAD.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use strongroom::envelope::segment::{SEALED_SEGMENT_BYTES, SEGMENT_BYTES};
use strongroom::envelope::{DataKey, HEADER_BYTES, KeySchedule};

use crate::{median, timed};

pub(crate) const ROUNDS: usize = 9;
const BYTES: usize = 64 << 20;
const FRAME: usize = 256 << 10;

pub(crate) fn run() {
    let plaintext = vec![0x5A; BYTES];
    let raw_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
    let schedule = KeySchedule::new(DataKey::random().expect("randomness"));
    let (mut raw_seal, mut raw_open, mut seal, mut open) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut raw = plaintext.clone();
    let rate = |time: std::time::Duration| BYTES as f64 / time.as_secs_f64() / f64::from(1 << 30);
    for _ in 0..ROUNDS {
        let mut tags = Vec::with_capacity(BYTES / SEGMENT_BYTES);
        raw_seal.push(rate(timed(|| {
            for (index, segment) in raw.chunks_mut(SEGMENT_BYTES).enumerate() {
                let tag =
                    raw_key.seal_in_place_separate_tag(nonce(index), Aad::from([1; 17]), segment);
                tags.push(tag.expect("seals"));
            }
        })));
        let mut sealed: Vec<Vec<u8>> = raw
            .chunks(SEGMENT_BYTES)
            .zip(&tags)
            .map(|(segment, tag)| [segment, tag.as_ref()].concat())
            .collect();
        raw_open.push(rate(timed(|| {
            for (index, segment) in sealed.iter_mut().enumerate() {
                raw_key
                    .open_in_place(nonce(index), Aad::from([1; 17]), segment)
                    .expect("opens");
            }
        })));

        let mut writer = schedule.sealer(&[1; 16]).expect("randomness");
        let began = std::time::Instant::now();
        for mut frame in plaintext.chunks(FRAME) {
            while let Some(run) = writer.push(&mut frame).expect("within limits") {
                std::hint::black_box(run);
            }
        }
        let (_, outcome) = writer.finish().expect("within limits");
        seal.push(rate(began.elapsed()));
        assert_eq!(outcome.plaintext_bytes, BYTES as u64);

        let mut blob = sealed_blob(&schedule, &plaintext);
        let header = blob.get(..HEADER_BYTES).expect("a header").to_vec();
        let salt = header
            .get(4..36)
            .and_then(|salt| salt.try_into().ok())
            .expect("a salt");
        let opener = schedule
            .opener(&[1; 16], &salt, BYTES as u64, &header)
            .expect("ours");
        open.push(rate(timed(|| {
            let segments = blob.get_mut(HEADER_BYTES..).expect("segments");
            for (index, segment) in segments.chunks_mut(SEALED_SEGMENT_BYTES).enumerate() {
                opener.open_segment(index as u64, segment).expect("opens");
            }
        })));
    }
    report("seal", median(seal), median(raw_seal));
    report("open", median(open), median(raw_open));
}

fn report(what: &str, ours: f64, raw: f64) {
    println!(
        "  {what}   {ours:6.2}   raw AES-256-GCM (aws-lc) {raw:6.2}   {:3.0} %   (aim: 90 %)",
        100.0 * ours / raw
    );
}

fn nonce(index: usize) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(index as u64).to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn sealed_blob(schedule: &KeySchedule, plaintext: &[u8]) -> Vec<u8> {
    let mut writer = schedule.sealer(&[1; 16]).expect("randomness");
    let mut blob = Vec::with_capacity(plaintext.len() + (1 << 20));
    let mut rest = plaintext;
    while let Some(run) = writer.push(&mut rest).expect("within limits") {
        blob.extend(run);
    }
    blob.extend(writer.finish().expect("within limits").0);
    blob
}
