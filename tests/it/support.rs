//! A token and a configuration for tests in the process.

use std::path::PathBuf;
use std::process::Command;

use strongroom::auth::{AccountId, Principal, RequestContext};
use strongroom::config::{Config, Isolation, RawConfig};
use tempfile::TempDir;

/// What `strongroom init` has laid out.
pub(crate) struct House {
    dir: TempDir,
}

impl House {
    /// Lays out a fresh one.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let output = Command::new(env!("CARGO_BIN_EXE_strongroom"))
            .arg("init")
            .arg(dir.path().join("home"))
            .output()
            .expect("strongroom runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("home").join(name)
    }

    /// Runs this test again in a process that has the token's environment: `SoftHSM` reads it from there only, and a
    /// process cannot change its own safely.
    pub(crate) fn run_again(&self, test: &str) {
        let output = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", test, "--nocapture"])
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env(HOME, self.path(""))
            .output()
            .expect("the test runs");
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }
}

const HOME: &str = "STRONGROOM_TEST_HOME";

/// In the process that [`House::run_again`] started: its configuration, on a free port.
pub(crate) fn config() -> Option<Config> {
    let home = PathBuf::from(strongroom::config::environment(HOME)?);
    let mut raw = RawConfig::from_file(&home.join("strongroom.toml")).expect("a configuration");
    // This program is a test and no worker.
    raw.hsm.isolation = Some(Isolation::Thread);
    raw.listen = "127.0.0.1:0".into();
    Some(raw.validate().expect("a valid configuration"))
}

/// The account's root, as a front end hands it down.
pub(crate) fn caller() -> RequestContext {
    let account = AccountId::parse("000000000000").expect("twelve digits");
    RequestContext {
        principal: Principal::root(account, "test"),
        request_id: "test".into(),
        source_ip: None,
        secure_transport: false,
        time: time::OffsetDateTime::UNIX_EPOCH,
        user_agent: None,
        referer: None,
        presigned: false,
    }
}
