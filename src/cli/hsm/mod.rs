//! `strongroom hsm`: what the tokens of the configuration can do, and how fast.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use clap::{Args, Subcommand};
use strongroom_hsm::{HsmError, HsmHandle, HsmSettings, Token};

use super::{CliError, ConfigFile, load, with_module_environment};
use crate::config::Config;
use crate::kms::cluster_id_of;
use crate::server::tokens::open_tokens;

mod bench;
mod check;
mod pcr;

/// Longest wait for a token's report. It tries many things.
const REPORT_WAIT: Duration = Duration::from_mins(2);

/// Look at tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Hsm {
    /// List token groups and the cluster ids by which key stores name them
    List {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Report what each token can do and how it keeps its keys; fail when something is unsafe
    Check {
        #[command(flatten)]
        which: Which,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure wraps and unwraps a second, by number of sessions
    Bench {
        #[command(flatten)]
        which: Which,
        /// Numbers of sessions
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
        sessions: Vec<usize>,
        /// Seconds a measurement
        #[arg(long, default_value_t = 2)]
        seconds: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// For keys bound to PCRs: write to standard output what the recovery key is to sign, for the PCR values of now
    PcrMessage {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// For keys bound to PCRs: write to standard output the policy that the recovery key has signed
    PcrPolicy {
        #[command(flatten)]
        file: ConfigFile,
        /// The values that pcr-message told
        #[arg(long, value_name = "HEX")]
        values: String,
        /// The signature: `openssl dgst -sha256 -sign KEY MESSAGE`
        #[arg(long, value_name = "FILE")]
        signature: PathBuf,
    },
}

/// Which tokens.
#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    file: ConfigFile,
    /// A token, instead of the configured ones
    #[arg(long, value_name = "URI", conflicts_with = "group")]
    hsm_uri: Option<String>,
    /// A token group of the configuration, instead of the default one
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

/// Tokens, and how the configuration would drive each.
struct Chosen {
    tokens: Vec<Arc<dyn Token>>,
    settings: HsmSettings,
}

impl Hsm {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List { file } => {
                list(&configuration(file, None)?);
                Ok(())
            }
            Self::Check { which, json } => check::run(&which.choose()?, json),
            Self::Bench {
                which,
                sessions,
                seconds,
                json,
            } => {
                let plan = bench::Plan::new(sessions, seconds)?;
                bench::run(&which.choose()?, &plan, json)
            }
            Self::PcrMessage { file } => pcr::message(&equipped(file)?),
            Self::PcrPolicy {
                file,
                values,
                signature,
            } => pcr::policy(&configuration(file, None)?, &values, &signature),
        }
    }
}

impl Which {
    fn choose(self) -> Result<Chosen, CliError> {
        let config = configuration(self.file, self.hsm_uri)?;
        with_module_environment(&config)?;
        let group = match &self.group {
            None => &config.hsm,
            Some(name) => config
                .groups
                .get(name)
                .ok_or_else(|| format!("no token group {name} in the configuration"))?,
        };
        Ok(Chosen {
            tokens: open_tokens(group)?,
            settings: group.settings.clone(),
        })
    }
}

/// The configuration, with the environment that its tokens need.
fn equipped(file: ConfigFile) -> Result<Config, CliError> {
    let config = configuration(file, None)?;
    with_module_environment(&config)?;
    Ok(config)
}

fn configuration(file: ConfigFile, hsm_uri: Option<String>) -> Result<Config, CliError> {
    let mut raw = load(file)?;
    if hsm_uri.is_some() {
        raw.hsm.uri = hsm_uri;
        raw.hsm.clones.clear();
    }
    // Where data would be does not matter here.
    raw.data_dir.get_or_insert_with(|| "/nonexistent".into());
    Ok(raw.validate()?)
}

fn list(config: &Config) {
    println!(
        "{:<20} {:<21} {} tokens",
        "default",
        "-",
        config.hsm.tokens.len()
    );
    for (name, group) in &config.groups {
        let cluster_id = cluster_id_of(name);
        println!("{name:<20} {cluster_id:<21} {} tokens", group.tokens.len());
    }
}

/// Runs `work` with a handle on `token`, and shuts it down.
fn with_handle<T>(
    token: &Arc<dyn Token>,
    settings: HsmSettings,
    work: impl AsyncFnOnce(&HsmHandle) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let hsm = HsmHandle::start(Arc::clone(token), settings)?;
        let result = work(&hsm).await;
        hsm.shutdown().await;
        result
    })
}

/// Runs a blocking call of a token, which may hang, on a thread of its own.
fn within<T: Send + 'static>(
    wait: Duration,
    work: impl FnOnce() -> Result<T, HsmError> + Send + 'static,
) -> Result<T, CliError> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("hsm-report".into())
        .spawn(move || sender.send(work()))?;
    match receiver.recv_timeout(wait) {
        Ok(result) => Ok(result?),
        Err(RecvTimeoutError::Timeout) => Err(HsmError::Timeout(wait).into()),
        Err(RecvTimeoutError::Disconnected) => Err("the token's module panicked".into()),
    }
}
