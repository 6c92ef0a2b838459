//! `strongroom audit`: the audit, from its files and from a running server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{CliError, ConfigFile, load};

mod keys;
mod query;
mod verify;

use keys::Keys;
use query::Query;
use verify::Verify;

/// Look into the audit.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Find out whether anything was changed, removed, reordered or cut
    Verify(Verify),
    /// Find records
    Query(Query),
    /// Every key, where it lives, and what its token says of it now; from a running server
    Keys(Keys),
}

impl Audit {
    /// Also with which exit code, unless it failed.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        match self.command {
            AuditCommand::Verify(verify) => verify.run(),
            AuditCommand::Query(query) => query.run().map(|()| ExitCode::SUCCESS),
            AuditCommand::Keys(keys) => keys.run().map(|()| ExitCode::SUCCESS),
        }
    }
}

#[derive(Debug, Args)]
struct Where {
    /// Directory with the records [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    file: ConfigFile,
}

impl Where {
    fn dir(self) -> Result<PathBuf, CliError> {
        if let Some(dir) = self.dir {
            return Ok(dir);
        }
        let raw = load(self.file)?;
        let data = raw
            .data_dir
            .clone()
            .ok_or("data_dir is not set: name the directory with --dir")?;
        Ok(raw.audit.dir(&data))
    }
}
