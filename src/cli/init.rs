//! `strongroom init`: a data directory, a token in SoftHSM, access keys and a configuration.

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use clap::Args;
use strongroom_hsm::pkcs11::init_token;
use zeroize::Zeroizing;

use super::{CliError, with_environment};
use crate::config::{LAID_OUT_DIR, RawConfig, RawHsm, environment};
use crate::iam::{new_access_key_id, new_secret};

/// Where distributions put the library.
const SOFTHSM_PATHS: [&str; 6] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
const TOKEN_LABEL: &str = "strongroom";

/// Make a data directory, a token in SoftHSM, access keys and a configuration.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Directory to make; it must not exist, or be empty
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Region of keys, and of buckets that name none
    #[arg(long)]
    region: Option<String>,
    /// An initialised token instead of a new one in SoftHSM
    #[arg(long, value_name = "URI")]
    hsm_uri: Option<String>,
}

impl Init {
    pub(super) fn run(self) -> Result<(), CliError> {
        let laid = match (laid_out_dir(), &self.hsm_uri) {
            (None, Some(uri)) => {
                let laid = Laid::at(&new_dir(&self.dir)?);
                laid.write_configuration(
                    self.region.as_deref(),
                    RawHsm {
                        uri: Some(uri.clone()),
                        ..RawHsm::default()
                    },
                )?;
                laid
            }
            (None, None) => return Laid::at(&new_dir(&self.dir)?).start_again(),
            (Some(dir), _) => {
                let laid = Laid::at(&dir);
                laid.make_token(self.region.as_deref())?;
                laid
            }
        };
        println!("configuration  {}", laid.config.display());
        println!("access key     {}", laid.credentials.display());
        println!(
            "start          strongroom serve --config {}",
            laid.config.display()
        );
        println!(
            "use            export AWS_SHARED_CREDENTIALS_FILE={}",
            laid.credentials.display()
        );
        Ok(())
    }
}

/// The directory that this program has made before it started itself again.
///
/// What is in it may be deleted, so that a variable left over in somebody's shell must not name one: the directory
/// counts only if its file is also what `SoftHSM` reads, and no token has been made there yet.
pub(super) fn laid_out_dir() -> Option<PathBuf> {
    let laid = Laid::at(&PathBuf::from(environment(LAID_OUT_DIR)?));
    let (name, conf) = laid.environment();
    let is_ours = environment(&name)? == conf && laid.softhsm_conf.exists() && !laid.pin.exists();
    is_ours.then_some(laid.dir)
}

/// What is where in a directory that was laid out.
#[derive(Debug)]
pub(super) struct Laid {
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    pub(super) credentials: PathBuf,
    pub(super) data: PathBuf,
    pub(super) tokens: PathBuf,
    softhsm_conf: PathBuf,
    pin: PathBuf,
}

impl Laid {
    pub(super) fn at(dir: &Path) -> Self {
        Self {
            config: dir.join("strongroom.toml"),
            credentials: dir.join("credentials"),
            data: dir.join("data"),
            tokens: dir.join("tokens"),
            softhsm_conf: dir.join("softhsm2.conf"),
            pin: dir.join("pin"),
            dir: dir.to_owned(),
        }
    }

    /// What `SoftHSM` reads its configuration from.
    fn environment(&self) -> (String, String) {
        (
            "SOFTHSM2_CONF".into(),
            self.softhsm_conf.display().to_string(),
        )
    }

    /// Writes what SoftHSM reads, and starts this program again with it in the environment. Does not return on
    /// success.
    pub(super) fn start_again(&self) -> Result<(), CliError> {
        DirBuilder::new().mode(0o700).create(&self.tokens)?;
        let mut conf = String::new();
        writeln!(conf, "directories.tokendir = {}", self.tokens.display())?;
        writeln!(conf, "objectstore.backend = file")?;
        writeln!(conf, "log.level = ERROR")?;
        write_private(&self.softhsm_conf, conf.as_bytes())?;
        let env = [
            self.environment(),
            (LAID_OUT_DIR.into(), self.dir.display().to_string()),
        ];
        with_environment(&env.into())
    }

    /// Makes the token, an access key and the configuration. SoftHSM's environment is set.
    pub(super) fn make_token(&self, region: Option<&str>) -> Result<(), CliError> {
        let module = SOFTHSM_PATHS.iter().map(Path::new).find(|path| path.exists()).ok_or(
            "SoftHSM is not installed (Debian: apt-get install softhsm2); or name a token with --hsm-uri",
        )?;
        let pin = Zeroizing::new(random_text(24)?);
        // Nobody needs the security officer of this token: a lost PIN is a lost token, as it must be.
        let so_pin = Zeroizing::new(random_text(24)?);
        write_private(&self.pin, pin.as_bytes())?;
        init_token(module, TOKEN_LABEL, &so_pin, &pin)?;
        let uri = format!(
            "pkcs11:token={TOKEN_LABEL}?module-path={}&pin-source=file:{}",
            module.display(),
            self.pin.display()
        );
        let env = [self.environment()].into();
        self.write_configuration(
            region,
            RawHsm {
                uri: Some(uri),
                env,
                ..RawHsm::default()
            },
        )
    }

    fn write_configuration(&self, region: Option<&str>, hsm: RawHsm) -> Result<(), CliError> {
        let id = new_access_key_id("AKIA")?;
        let secret = new_secret()?;
        let credentials = Zeroizing::new(format!(
            "[default]\naws_access_key_id = {id}\naws_secret_access_key = {}\n",
            *secret
        ));
        write_private(&self.credentials, credentials.as_bytes())?;
        DirBuilder::new().mode(0o700).create(&self.data)?;
        let defaults = RawConfig::default();
        let config = RawConfig {
            data_dir: Some(self.data.clone()),
            credentials_file: Some(self.credentials.display().to_string()),
            region: region.map_or(defaults.region, str::to_owned),
            hsm,
            ..RawConfig::default()
        };
        write_private(&self.config, config.to_toml()?.as_bytes())
    }

    /// The access key that was made.
    pub(super) fn access_key(&self) -> Result<(String, String), CliError> {
        let text = Zeroizing::new(std::fs::read_to_string(&self.credentials)?);
        let find = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(str::to_owned)
                .ok_or_else(|| format!("no {name} in {}", self.credentials.display()))
        };
        Ok((find("aws_access_key_id")?, find("aws_secret_access_key")?))
    }
}

/// Makes a directory that nobody else reads. One that exists must be empty.
pub(super) fn new_dir(dir: &Path) -> Result<PathBuf, CliError> {
    let at = |error: std::io::Error| format!("{}: {error}", dir.display());
    if dir.exists() {
        if std::fs::read_dir(dir).map_err(at)?.next().is_some() {
            return Err(format!("{} is not empty", dir.display()).into());
        }
    } else {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(dir)
            .map_err(at)?;
    }
    Ok(dir.canonicalize().map_err(at)?)
}

/// Makes a directory in the system's place for temporary files.
pub(super) fn temporary_dir() -> Result<PathBuf, CliError> {
    new_dir(&std::env::temp_dir().join(format!("strongroom-{}", hex::encode(random(8)?))))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

fn random(bytes: usize) -> Result<Vec<u8>, CliError> {
    let mut random = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_unspecified| "no randomness from the operating system")?;
    Ok(random)
}

fn random_text(bytes: usize) -> Result<String, CliError> {
    Ok(STANDARD_NO_PAD.encode(random(bytes)?))
}
