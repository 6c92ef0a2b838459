//! The worker of the tests of process isolation, and a parent that they can kill.
//!
//! `hsm-worker …` is a worker; `other-build` one of another build; `parent URI NAME VALUE` opens a session in a worker
//! with that one variable, says so on standard output, and sleeps.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use strongroom_hsm::Token;
use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::process::{ProcessSettings, ProcessToken, worker_main, worker_main_of_build};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hsm-worker", ..] => worker_main(),
        ["other-build"] => worker_main_of_build("another build"),
        ["parent", uri, name, value] => parent(uri, (*name).into(), (*value).into()),
        _ => {
            eprintln!("usage: hsm-worker | other-build | parent URI NAME VALUE");
            ExitCode::FAILURE
        }
    }
}

fn parent(uri: &str, name: OsString, value: OsString) -> ExitCode {
    let settings = ProcessSettings {
        environment: BTreeMap::from([(name, value)]),
        ..ProcessSettings::default()
    };
    let session = Pkcs11Config::from_uri(uri)
        .and_then(|config| ProcessToken::new(config, settings))
        .and_then(|token| token.open_session());
    match session {
        Ok(_session) => {
            println!("open");
            std::thread::sleep(Duration::from_mins(1));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
