//! Sealing and opening against the raw AEAD.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use strongroom::envelope::segment::{SEALED_SEGMENT_BYTES, SEGMENT_BYTES};
use strongroom::envelope::{DataKey, HEADER_BYTES, KeySchedule};

use crate::{median, timed};

pub(crate) const ROUNDS: usize = 9;
const BYTES: usize = 64 << 20;
const FRAME: usize = 256 << 10;

/// Twice: over plaintext that has just been received, as in the server, where the kernel has copied each frame into the
/// cache; and over plaintext that has to come from memory.
pub(crate) fn run() {
    for (what, length) in [("just received", FRAME), ("from memory", BYTES)] {
        let figures = Figures::measure(length);
        report("seal", what, median(figures.seal), median(figures.raw_seal));
        report("open", what, median(figures.open), median(figures.raw_open));
    }
}

#[derive(Default)]
struct Figures {
    seal: Vec<f64>,
    raw_seal: Vec<f64>,
    open: Vec<f64>,
    raw_open: Vec<f64>,
}

impl Figures {
    /// Seals and opens [`BYTES`], by going over `length` bytes again and again.
    fn measure(length: usize) -> Self {
        let plaintext = vec![0x5A; length];
        let raw_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
        let schedule = KeySchedule::new(DataKey::random().expect("randomness"));
        let mut figures = Self::default();
        let mut raw = plaintext.clone();
        let times = BYTES / length;
        let segments = length / SEGMENT_BYTES;
        for _ in 0..ROUNDS {
            figures.raw_seal.push(rate(timed(|| {
                for time in 0..times {
                    for (index, segment) in raw.chunks_mut(SEGMENT_BYTES).enumerate() {
                        let nonce = nonce(time * segments + index);
                        let tag = raw_key.seal_in_place_separate_tag(nonce, aad(), segment);
                        let _ = std::hint::black_box(tag.expect("seals"));
                    }
                }
            })));

            let mut sealer = schedule.sealer(&[1; 16]).expect("randomness");
            let began = std::time::Instant::now();
            for _ in 0..times {
                for mut frame in plaintext.chunks(FRAME) {
                    while let Some(run) = sealer.push(&mut frame).expect("within limits") {
                        std::hint::black_box(run);
                    }
                }
            }
            let (_, outcome) = sealer.finish().expect("within limits");
            figures.seal.push(rate(began.elapsed()));
            assert_eq!(outcome.plaintext_bytes, BYTES as u64);

            // What is opened in place is plaintext afterwards, so that every time opens another copy.
            let mut raw_blob = raw_sealed(&raw_key, &plaintext);
            figures
                .raw_open
                .push(opened(times, &mut raw_blob, |index, segment| {
                    raw_key
                        .open_in_place(nonce(index), aad(), segment)
                        .expect("opens");
                }));
            let mut blob = sealed_blob(&schedule, &plaintext);
            let mut segments = blob.split_off(HEADER_BYTES);
            let salt = blob
                .get(4..36)
                .and_then(|salt| salt.try_into().ok())
                .expect("a salt");
            let opener = schedule
                .opener(&[1; 16], &salt, length as u64, &blob)
                .expect("ours");
            figures
                .open
                .push(opened(times, &mut segments, |index, segment| {
                    opener.open_segment(index as u64, segment).expect("opens");
                }));
        }
        figures
    }
}

/// GiB/s of opening `sealed` again and again; only the opening is timed.
fn opened(times: usize, sealed: &mut [u8], open: impl Fn(usize, &mut [u8])) -> f64 {
    let fresh = sealed.to_vec();
    let mut time = std::time::Duration::ZERO;
    for _ in 0..times {
        sealed.copy_from_slice(&fresh);
        time += timed(|| {
            for (index, segment) in sealed.chunks_mut(SEALED_SEGMENT_BYTES).enumerate() {
                open(index, segment);
            }
        });
    }
    rate(time)
}

fn rate(time: std::time::Duration) -> f64 {
    BYTES as f64 / time.as_secs_f64() / f64::from(1 << 30)
}

fn raw_sealed(key: &LessSafeKey, plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    for (index, segment) in plaintext.chunks(SEGMENT_BYTES).enumerate() {
        let mut segment = segment.to_vec();
        key.seal_in_place_append_tag(nonce(index), aad(), &mut segment)
            .expect("seals");
        sealed.extend(segment);
    }
    sealed
}

fn aad() -> Aad<[u8; 17]> {
    Aad::from([1; 17])
}

fn report(operation: &str, what: &str, ours: f64, raw: f64) {
    println!(
        "  {operation} {what:<13}   {ours:6.2}   raw AES-256-GCM (aws-lc) {raw:6.2}   {:3.0} %   (aim: 90 %)",
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
