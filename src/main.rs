//! The program: parses, runs, and is the only place that exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    match strongroom::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("strongroom: {}", strongroom::cli::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
