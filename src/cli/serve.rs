//! `strongroom serve`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tracing::{info, warn};

use super::init::{self, Laid};
use super::{CliError, ConfigFile, load, with_module_environment};
use crate::clock::SystemClock;
use crate::config::{Config, EPHEMERAL_EXPORTS, RawConfig, RawLog};
use crate::server::Server;
use crate::telemetry;

/// Serve S3 and KMS.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where metadata and blobs are
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Region of keys, and of buckets that name none
    #[arg(long)]
    region: Option<String>,
    /// The token: pkcs11:token=NAME?module-path=/lib.so&pin-source=file:/PIN
    #[arg(long, value_name = "URI")]
    hsm_uri: Option<String>,
    /// Print the effective configuration and stop
    #[arg(long)]
    print_config: bool,
    /// Start on a free port with a fresh SoftHSM token and data directory, print `export NAME=value` lines when ready,
    /// and delete both at the end. Of the environment it takes `STRONGROOM_LISTEN`, `_REGION`, `_LOG_FORMAT` and
    /// `_LOG_LEVEL`, and starts beside no other setting
    #[arg(long, conflicts_with_all = ["config", "hsm_uri", "print_config"])]
    ephemeral: bool,
    /// Leave the directories of --ephemeral behind
    #[arg(long, requires = "ephemeral")]
    keep: bool,
}

impl Serve {
    pub(super) fn run(mut self) -> Result<(), CliError> {
        if self.ephemeral {
            return self.ephemeral();
        }
        let mut raw = load(std::mem::take(&mut self.file))?;
        self.merge_into(&mut raw);
        if self.print_config {
            std::io::stdout().write_all(raw.to_toml()?.as_bytes())?;
            return Ok(());
        }
        let log = raw.log.clone();
        let config = raw.validate()?;
        with_module_environment(&config)?;
        serve(config, &log, |_address| Ok(()))
    }

    fn merge_into(&self, raw: &mut RawConfig) {
        if let Some(listen) = &self.listen {
            raw.listen.clone_from(listen);
        }
        if let Some(region) = &self.region {
            raw.region.clone_from(region);
        }
        raw.data_dir = self.data_dir.clone().or(raw.data_dir.take());
        raw.hsm.uri = self.hsm_uri.clone().or(raw.hsm.uri.take());
    }

    /// Lays everything out, starts this program again with the token's environment, and serves.
    fn ephemeral(self) -> Result<(), CliError> {
        let mut settings = RawConfig {
            listen: "127.0.0.1:0".into(),
            ..RawConfig::default()
        };
        settings.merge_ephemeral_environment()?;
        self.merge_into(&mut settings);
        let Some(dir) = init::laid_out_dir() else {
            if let Some(data) = &self.data_dir {
                init::new_dir(data)?;
            }
            let dir = init::temporary_dir()?;
            return Laid::at(&dir)
                .start_again()
                .inspect_err(|_error| self.clean_up(&dir));
        };
        let result = Self::serve_ephemeral(&Laid::at(&dir), settings);
        self.clean_up(&dir);
        result
    }

    fn serve_ephemeral(laid: &Laid, settings: RawConfig) -> Result<(), CliError> {
        laid.make_token(Some(&settings.region))?;
        let mut raw = RawConfig::from_file(&laid.config)?;
        raw.listen = settings.listen;
        raw.log = settings.log;
        let data = match settings.data_dir {
            Some(data) => data.canonicalize()?,
            None => laid.data.clone(),
        };
        raw.data_dir = Some(data.clone());
        let (log, region) = (raw.log.clone(), raw.region.clone());
        let (id, secret) = laid.access_key()?;
        let [data_name, token_name, pid_name] = EPHEMERAL_EXPORTS;
        let exports = [
            ("AWS_ACCESS_KEY_ID", id),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", region),
            (data_name, path_text(&data)?),
            (token_name, path_text(&laid.tokens)?),
            (pid_name, std::process::id().to_string()),
        ];
        serve(raw.validate()?, &log, |address| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "export AWS_ENDPOINT_URL=http://{address}")?;
            for (name, value) in &exports {
                writeln!(out, "export {name}={}", shell_quoted(value))?;
            }
            out.flush()?;
            Ok(())
        })
    }

    fn clean_up(&self, dir: &Path) {
        let dirs = [Some(dir), self.data_dir.as_deref()];
        for dir in dirs.into_iter().flatten() {
            if self.keep {
                info!(event = "ephemeral.kept", dir = %dir.display());
            } else if let Err(error) = std::fs::remove_dir_all(dir) {
                warn!(event = "ephemeral.clean_up", dir = %dir.display(), %error);
            }
        }
    }
}

/// Serves until SIGTERM or SIGINT; `ready` is told the address.
fn serve(
    config: Config,
    log: &RawLog,
    ready: impl FnOnce(SocketAddr) -> Result<(), CliError>,
) -> Result<(), CliError> {
    telemetry::init(log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let server = Server::start(config, Arc::new(SystemClock)).await?;
        ready(server.address())?;
        server
            .run(async move {
                tokio::select! {
                    _signal = terminate.recv() => {}
                    _signal = tokio::signal::ctrl_c() => {}
                }
            })
            .await;
        Ok(())
    })
}

fn path_text(path: &Path) -> Result<String, CliError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}

/// A value as a shell reads it back.
fn shell_quoted(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._:-+=@%".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_from_a_shell() {
        assert_eq!(shell_quoted("/tmp/a.b-c"), "/tmp/a.b-c");
        assert_eq!(shell_quoted("a b"), "'a b'");
        assert_eq!(shell_quoted("it's"), r"'it'\''s'");
        assert_eq!(shell_quoted(""), "''");
    }
}
