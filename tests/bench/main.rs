//! The figures of this machine, each beside what it is to be compared with, in one run. `ci/bench` runs it.

#![expect(
    clippy::cast_precision_loss,
    reason = "figures are rounded when they are printed"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

mod envelope;
mod hsm;
mod server;

fn main() -> ExitCode {
    // `cargo test --benches` and nextest ask for a list; there are no tests here.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    println!(
        "envelope: 64 MiB, one core, GiB/s, median of {} interleaved rounds",
        envelope::ROUNDS
    );
    envelope::run();
    println!(
        "\nHSM: 32-byte data keys with 64 bytes of AAD, SoftHSM, wraps/s, median of {} interleaved rounds",
        hsm::ROUNDS
    );
    hsm::run();
    println!("\nserver: SSE-KMS over HTTP on loopback, durable, every wrap decrypted back");
    server::run();
    ExitCode::SUCCESS
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
