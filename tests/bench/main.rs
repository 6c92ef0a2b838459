//! The figures of this machine, each beside what it is to be compared with, in one run. `ci/bench` runs it; with names
//! of sections, those alone.

#![expect(
    clippy::cast_precision_loss,
    reason = "figures are rounded when they are printed"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

mod audit;
mod envelope;
mod hsm;
mod isolation;
mod server;
mod tpm;

fn main() -> ExitCode {
    // `cargo test --benches` and nextest ask for a list; there are no tests here.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let sections: [(&str, String, fn()); 7] = [
        (
            "envelope",
            format!(
                "64 MiB, one core, GiB/s, median of {} interleaved rounds",
                envelope::ROUNDS
            ),
            envelope::run,
        ),
        (
            "hsm",
            format!(
                "32-byte data keys with 64 bytes of AAD, SoftHSM, wraps/s, median of {} interleaved rounds",
                hsm::ROUNDS
            ),
            hsm::run,
        ),
        (
            "isolation",
            format!(
                "the same, every wrap decrypted back, module in this process and in others, median of {} interleaved rounds",
                isolation::ROUNDS
            ),
            isolation::run,
        ),
        (
            "tpm",
            format!(
                "swtpm, every wrap decrypted back, wraps/s, median of {} interleaved rounds",
                tpm::ROUNDS
            ),
            tpm::run,
        ),
        (
            "audit",
            "a record of the use of a key, made and appended".into(),
            audit::run,
        ),
        (
            "server",
            "SSE-KMS over HTTP on loopback, durable, every wrap decrypted back".into(),
            server::run,
        ),
        (
            "pair",
            format!(
                "two programs in turn, median of {} interleaved rounds",
                server::PAIR_ROUNDS
            ),
            server::run_pair,
        ),
    ];
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let known = |name: &String| sections.iter().any(|(section, ..)| section == name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        eprintln!("no section {unknown}");
        return ExitCode::FAILURE;
    }
    for (section, title, run) in sections {
        if wanted.is_empty() || wanted.iter().any(|name| name == section) {
            println!("{section}: {title}");
            run();
            println!();
        }
    }
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
