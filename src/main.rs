//! The program: parses, runs, and is the only place that exits.

use std::process::ExitCode;

use strongroom_hsm::process::{WORKER_ARGUMENT, worker_main};

fn main() -> ExitCode {
    // A worker process sees to its confinement before it does anything else.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == WORKER_ARGUMENT)
    {
        return worker_main();
    }
    match strongroom::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("strongroom: {}", strongroom::cli::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
