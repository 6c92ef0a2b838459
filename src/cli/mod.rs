//! The command line: one file a subcommand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{CONFIG, Config, Isolation, RawConfig, TokenConfig, environment};

mod audit;
mod client;
mod credentials;
mod hsm;
mod init;
mod key;
mod key_store;
mod rewrap;
mod serve;

/// Any error of a command, for people.
pub type CliError = Box<dyn std::error::Error + Send + Sync>;

/// An S3 server whose master keys never leave the hardware.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve S3 and KMS
    Serve(serve::Serve),
    /// Make a data directory, a token in SoftHSM, access keys and a configuration
    Init(init::Init),
    /// Look at the token
    #[command(subcommand)]
    Hsm(hsm::Hsm),
    /// Manage KMS keys of a running server
    Key(key::Key),
    /// Manage custom key stores of a running server
    KeyStore(key_store::KeyStore),
    /// Look into the audit
    Audit(audit::Audit),
    /// Move what depends on one KMS key to another, on a running server
    Rewrap(rewrap::Rewrap),
}

/// Parses the command line and does what it says. Also with which exit code, unless it failed.
///
/// # Errors
///
/// What the command says went wrong.
pub fn run() -> Result<ExitCode, CliError> {
    let done = match Cli::parse().command {
        Command::Audit(audit) => return audit.run(),
        Command::Serve(serve) => serve.run(),
        Command::Init(init) => init.run(),
        Command::Hsm(hsm) => hsm.run(),
        Command::Key(key) => key.run(),
        Command::KeyStore(store) => store.run(),
        Command::Rewrap(rewrap) => rewrap.run(),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// An error and all that caused it, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Where the configuration is.
#[derive(Debug, Default, Args)]
struct ConfigFile {
    /// TOML configuration; without it, `STRONGROOM_CONFIG` names it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The file, and over it the environment.
fn load(file: ConfigFile) -> Result<RawConfig, CliError> {
    let config = file
        .config
        .or_else(|| environment(CONFIG).map(PathBuf::from));
    let mut raw = match config {
        Some(path) => RawConfig::from_file(&path)?,
        None => RawConfig::default(),
    };
    raw.merge_environment()?;
    Ok(raw)
}

/// The library of the TPM would write every refusal to standard error: callers could flood the log with bad
/// ciphertexts. What it has to say comes back as an error, too.
const TPM_LIBRARY_QUIET: (&str, &str) = ("TSS2_LOG", "all+NONE");

/// The environment of all modules that are loaded into this process, as [`with_environment`] sets it.
///
/// # Errors
///
/// When two tokens want different values; as [`with_environment`].
fn with_module_environment(config: &Config) -> Result<(), CliError> {
    let mut env = BTreeMap::new();
    for group in std::iter::once(&config.hsm).chain(config.groups.values()) {
        for token in &group.tokens {
            let (name, value) = TPM_LIBRARY_QUIET;
            let quiet = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let wanted = match token {
                TokenConfig::Pkcs11 {
                    isolation: Isolation::Thread,
                    env,
                    ..
                } => env,
                // A worker process is given its own.
                TokenConfig::Pkcs11 { .. } => continue,
                TokenConfig::Tpm(_) => &quiet,
            };
            for (name, value) in wanted {
                let other = env.insert(name.clone(), value.clone());
                if other.is_some_and(|other| other != *value) {
                    return Err(format!(
                        "two tokens want different values of {name}: use isolation = \"process\""
                    )
                    .into());
                }
            }
        }
    }
    with_environment(&env)
}

/// Starts this program again with the environment that the module needs, unless it is there. Some modules read their
/// configuration from the environment only, and a running process cannot change its own safely.
///
/// # Errors
///
/// Why the program could not be started again; on success it does not return.
fn with_environment(env: &BTreeMap<String, String>) -> Result<(), CliError> {
    use std::os::unix::process::CommandExt as _;
    if env
        .iter()
        .all(|(name, value)| environment(name).as_ref() == Some(value))
    {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    Err(std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .envs(env)
        .exec()
        .into())
}
