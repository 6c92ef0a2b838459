//! Real `SoftHSM`, in a directory of its own for each test process.
#![allow(dead_code, reason = "not every test names its token in both ways")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use strongroom_hsm::Token;
use strongroom_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};

pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub(crate) const PIN: &str = "1234-strongroom";

/// A `SoftHSM` configuration and its tokens.
pub(crate) struct SoftHsm {
    pub(crate) dir: PathBuf,
}

impl SoftHsm {
    /// The process's own, with a token of each label. A label that stands twice makes two tokens.
    ///
    /// Made before the module is loaded: `SoftHSM` reads its environment and its list of tokens then. The directory
    /// stays behind in Cargo's, for a test process has no last moment.
    pub(crate) fn with_tokens(labels: &[&str]) -> &'static Self {
        static SOFTHSM: OnceLock<SoftHsm> = OnceLock::new();
        SOFTHSM.get_or_init(|| {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let dir = tempfile::Builder::new()
                .prefix("softhsm-")
                .tempdir_in(dir)
                .expect("a directory")
                .keep();
            let softhsm = Self { dir };
            softhsm.configure();
            std::fs::create_dir(softhsm.tokens()).expect("a directory");
            for label in labels {
                softhsm.init_token(label);
            }
            std::fs::write(softhsm.pin_file(), format!("{PIN}\n")).expect("writes");
            softhsm
        })
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    pub(crate) fn pin_file(&self) -> PathBuf {
        self.dir.join("pin")
    }

    /// Runs a program of `SoftHSM` or `OpenSC` on this configuration.
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        let command = command.env("SOFTHSM2_CONF", self.conf()).args(arguments);
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
    }

    fn conf(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    fn configure(&self) {
        assert!(
            Path::new(MODULE).exists(),
            "SoftHSM must be installed: no {MODULE}"
        );
        let tokens = self.tokens();
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        std::fs::write(self.conf(), text).expect("writes");
        #[expect(
            unsafe_code,
            reason = "SoftHSM is told its configuration by the environment of the process"
        )]
        // SAFETY: every test calls this first, through the OnceLock, and nothing reads the environment before.
        unsafe {
            std::env::set_var("SOFTHSM2_CONF", self.conf());
        }
    }

    fn init_token(&self, label: &str) {
        let arguments = [
            "--init-token",
            "--free",
            "--label",
            label,
            "--so-pin",
            "so-12345",
            "--pin",
            PIN,
        ];
        self.run("softhsm2-util", &arguments);
    }
}

/// The token of this label, which is not looked for yet.
pub(crate) fn token_with_pin(label: &str, pin_file: &Path) -> Arc<dyn Token> {
    Arc::new(Pkcs11Token::new(config(label, pin_file)))
}

/// What names it.
pub(crate) fn config(label: &str, pin_file: &Path) -> Pkcs11Config {
    let pin_file = pin_file.display();
    let uri = format!("pkcs11:token={label}?module-path={MODULE}&pin-source=file:{pin_file}");
    Pkcs11Config::from_uri(&uri).expect("a valid URI")
}
