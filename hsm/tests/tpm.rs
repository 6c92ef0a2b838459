//! A TPM keeps the contract, and what only a TPM promises: destruction that defeats a copy, silence on the bus, and
//! nothing left in it.

#[path = "support/swtpm.rs"]
mod swtpm;

use std::time::{Duration, Instant};

use strongroom_hsm::testing::conformance;

use swtpm::{Swtpm, new_key, open};

#[test]
fn swtpm_keeps_the_contract() {
    let swtpm = Swtpm::start();
    conformance::run_all(&swtpm.token());
}

/// Figures, not a check: `cargo nextest run --release --run-ignored all --no-capture figures`.
#[test]
#[ignore = "a measurement"]
fn figures_of_swtpm() {
    let swtpm = Swtpm::start();
    let token = swtpm.token();
    let mut session = open(&token);
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    println!(
        "blob {} bytes, wrapped {} bytes",
        key.blob.as_bytes().len(),
        wrapped.as_bytes().len()
    );
    let mut rate = |name: &str, work: &mut dyn FnMut(&mut dyn strongroom_hsm::Session)| {
        let (start, mut count) = (Instant::now(), 0_u32);
        while start.elapsed() < Duration::from_secs(3) {
            work(session.as_mut());
            count += 1;
        }
        println!(
            "{name}: {:.0}/s",
            f64::from(count) / start.elapsed().as_secs_f64()
        );
    };
    rate("wrap", &mut |session| {
        session.wrap(&key, b"aad", &[7; 32]).expect("wraps");
    });
    rate("unwrap", &mut |session| {
        session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    });
    rate("probe", &mut |session| session.probe(&key).expect("opens"));
    rate("random", &mut |session| {
        session.random(&mut [0; 32]).expect("answers")
    });
}
