//! Tokens that make the IV of AES-GCM themselves. No module that can be had does; a forwarding one stands before
//! `SoftHSM` and behaves as the makers' documents say: it refuses the caller's IV, and gives its own in either manner.

mod interop;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use strongroom_hsm::WrapScheme;
use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::testing::conformance;

use support::{MODULE, SoftHsm};

/// A module of this manner before the token of the process. Each has a file of its own, so that one process can load
/// them all.
fn with_module(manner: &str, definitions: &[&str]) -> Pkcs11Config {
    let softhsm = SoftHsm::with_tokens(&["main"]);
    let built = tempfile::Builder::new()
        .prefix(manner)
        .suffix(".so")
        .tempfile_in(&softhsm.dir)
        .expect("a file")
        .into_temp_path()
        .keep()
        .expect("is kept");
    let source: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/token_iv/module.c");
    let compiled = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"])
        .arg(format!("-DFORWARDS_TO=\"{MODULE}\""))
        .args(definitions)
        .arg("-o")
        .arg(&built)
        .arg(source)
        .output()
        .expect("gcc must be installed: run ci/setup");
    assert!(compiled.status.success(), "{compiled:?}");
    interop::config(&built, "main", &softhsm.pin_file())
}

fn keeps_the_contract(config: &Pkcs11Config) {
    let token = interop::token(config.clone());
    interop::chooses(&token, WrapScheme::AesGcmTokenIv);
    conformance::run_all(&token);
    let report = token.report().expect("reports");
    assert_eq!(
        interop::fact(&report, "scheme", "aes-gcm-token-iv"),
        "works"
    );
    let refused = interop::fact(&report, "scheme", "aes-gcm");
    assert!(
        refused.ends_with("C_EncryptInit: CKR_MECHANISM_PARAM_INVALID"),
        "{refused}"
    );
}

#[test]
fn a_token_that_writes_its_iv_keeps_the_contract() {
    keeps_the_contract(&with_module("writes-", &[]));
}

#[test]
fn a_token_that_appends_its_iv_keeps_the_contract() {
    keeps_the_contract(&with_module("appends-", &["-DAPPENDS=12"]));
}

#[test]
fn a_token_that_appends_a_long_iv_keeps_the_contract() {
    keeps_the_contract(&with_module("appends-long-", &["-DAPPENDS=16"]));
}
