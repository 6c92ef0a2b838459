//! `strongroom rewrap`: moves what depends on one key to another, on a running server, through its API.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::CliError;
use super::client::{self, Client, number, text};

/// How often the progress is asked for.
const POLL: Duration = Duration::from_millis(500);
/// How often it is told where there is no terminal.
const TELL: Duration = Duration::from_secs(10);
/// So long may no answer come before we give up. The re-wrap itself goes on when its server is back.
const SILENCE_MAX: Duration = Duration::from_mins(2);
/// Width of the bar, in characters.
const BAR_CHARS: u64 = 30;

/// Wrap the data keys that depend on one KMS key anew, without touching a byte of their objects.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Rewrap {
    /// The server [env: `AWS_ENDPOINT_URL`] [default: <http://127.0.0.1:9000>]
    #[arg(long, value_name = "URL", global = true)]
    endpoint: Option<String>,
    /// The key that is left, by id, ARN or alias; with @ and a key material id, only that material of it
    #[arg(long, value_name = "KEY[@MATERIAL]", required = true)]
    from: Option<String>,
    /// The key that is gone to; the same one after a rotation
    #[arg(long, value_name = "KEY", required = true)]
    to: Option<String>,
    /// Only objects of this bucket
    #[arg(long)]
    bucket: Option<String>,
    /// Only objects whose key begins so
    #[arg(long, requires = "bucket")]
    prefix: Option<String>,
    /// At most so many objects a second
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Only say how much there is to do
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    #[command(subcommand)]
    command: Option<RewrapCommand>,
}

#[derive(Debug, Subcommand)]
enum RewrapCommand {
    /// List re-wraps
    List,
    /// Wait for the end of a re-wrap
    Watch(RewrapArg),
    /// Call a re-wrap off; what it has moved stays moved
    Cancel(RewrapArg),
}

#[derive(Debug, Args)]
struct RewrapArg {
    /// Its id
    id: String,
}

impl Rewrap {
    pub(super) fn run(mut self) -> Result<(), CliError> {
        client::run(self.endpoint.take(), async |client| match &self.command {
            None => self.start(client).await,
            Some(RewrapCommand::List) => list(client).await,
            Some(RewrapCommand::Watch(rewrap)) => watch(client, &rewrap.id).await,
            Some(RewrapCommand::Cancel(rewrap)) => {
                let rewrap = json!({ "RewrapId": rewrap.id });
                let answer = client.call("Strongroom.CancelRewrap", &rewrap).await?;
                println!("{}", line(&answer));
                Ok(())
            }
        })
    }

    async fn start(&self, client: &Client) -> Result<(), CliError> {
        let from = self.from.as_deref().unwrap_or_default();
        let (from, material) = match from.split_once('@') {
            Some((from, material)) => (from, Some(material)),
            None => (from, None),
        };
        let request = json!({
            "FromKeyId": from,
            "FromKeyMaterialId": material,
            "ToKeyId": self.to,
            "Bucket": self.bucket,
            "Prefix": self.prefix,
            "ObjectsPerSecond": self.rate,
            "DryRun": self.dry_run,
        });
        let answer = client.call("Strongroom.StartRewrap", &request).await?;
        if self.dry_run {
            println!("would re-wrap {}", counts(&answer, "/Planned"));
            return Ok(());
        }
        let id = text(&answer, "/RewrapId");
        if self.detach {
            println!("{id}");
            return Ok(());
        }
        eprintln!("re-wrap {id} goes on without this program: strongroom rewrap watch {id}");
        watch(client, &id).await
    }
}

async fn list(client: &Client) -> Result<(), CliError> {
    let answer = client.call("Strongroom.ListRewraps", &json!({})).await?;
    let rewraps = answer.get("Rewraps").and_then(Value::as_array);
    for rewrap in rewraps.into_iter().flatten() {
        println!("{}", line(rewrap));
    }
    Ok(())
}

/// Shows the progress until the end, and says how it ended.
async fn watch(client: &Client, id: &str) -> Result<(), CliError> {
    let request = json!({ "RewrapId": id });
    let mut progress = Progress::new();
    let mut answered = Instant::now();
    loop {
        match client.call("Strongroom.DescribeRewrap", &request).await {
            Ok(rewrap) => {
                answered = Instant::now();
                let state = text(&rewrap, "/State");
                progress.show(&rewrap)?;
                if state != "WAITING" && state != "RUNNING" {
                    progress.end()?;
                    return ended(&rewrap);
                }
            }
            // What the server refuses it refuses again; a server that is away may come back.
            Err(error) if error.to_string().contains("Exception: ") => return Err(error),
            Err(error) if answered.elapsed() > SILENCE_MAX => return Err(error),
            Err(_may_come_back) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The final statement. An error unless all is done.
fn ended(rewrap: &Value) -> Result<(), CliError> {
    println!(
        "{} data keys re-wrapped, {} skipped, {} failed",
        number(rewrap, "/Rewrapped"),
        number(rewrap, "/Skipped"),
        number(rewrap, "/Failed")
    );
    let mut left = text(rewrap, "/FromKeyId");
    let material = text(rewrap, "/FromKeyMaterialId");
    if !material.is_empty() {
        left = format!("material {material} of {left}");
    } else if left == text(rewrap, "/ToKeyId") {
        left = format!("an earlier material of {left}");
    }
    let bucket = text(rewrap, "/Bucket");
    if !bucket.is_empty() {
        left = format!("{left} in {bucket}/{}", text(rewrap, "/Prefix"));
    }
    match text(rewrap, "/State").as_str() {
        "FAILED" => Err(format!("it could not go on: {}", text(rewrap, "/StateReason")).into()),
        "CANCELLED" => Err("it was called off".into()),
        _ if is_nothing(rewrap, "/Remaining") => {
            println!("nothing depends on {left} any more");
            Ok(())
        }
        _ => Err(format!(
            "{} still depend on {left}: what was written meanwhile, and what the server's log names as rewrap.failed",
            counts(rewrap, "/Remaining")
        )
        .into()),
    }
}

fn line(rewrap: &Value) -> String {
    let material = text(rewrap, "/FromKeyMaterialId");
    format!(
        "{}  {:<9}  {}{}{} -> {}  {} of {}",
        text(rewrap, "/RewrapId"),
        text(rewrap, "/State"),
        text(rewrap, "/FromKeyId"),
        if material.is_empty() { "" } else { "@" },
        material,
        text(rewrap, "/ToKeyId"),
        number(rewrap, "/Rewrapped"),
        planned(rewrap)
    )
}

fn planned(rewrap: &Value) -> u64 {
    number(rewrap, "/Planned/Objects") + number(rewrap, "/Planned/MultipartUploads")
}

fn is_nothing(value: &Value, pointer: &str) -> bool {
    number(value, &format!("{pointer}/Objects")) == 0
        && number(value, &format!("{pointer}/MultipartUploads")) == 0
}

/// How much depends on something, in words.
pub(super) fn counts(value: &Value, pointer: &str) -> String {
    format!(
        "{} objects ({} bytes) and {} multipart uploads",
        number(value, &format!("{pointer}/Objects")),
        number(value, &format!("{pointer}/Bytes")),
        number(value, &format!("{pointer}/MultipartUploads"))
    )
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    is_terminal: bool,
    first: Option<(Instant, u64)>,
    told: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            first: None,
            told: None,
        }
    }

    fn show(&mut self, rewrap: &Value) -> Result<(), CliError> {
        let now = Instant::now();
        let (done, planned) = (number(rewrap, "/Rewrapped"), planned(rewrap));
        let (began, before) = *self.first.get_or_insert((now, done));
        let due = self.told.is_none_or(|told| now - told >= TELL);
        if !self.is_terminal && !due {
            return Ok(());
        }
        self.told = Some(now);
        let seconds = (now - began).as_secs().max(1);
        let rate = done.saturating_sub(before) / seconds;
        let line = format!("{} {done} of {planned}, {rate}/s", bar(done, planned));
        let mut out = std::io::stderr().lock();
        if self.is_terminal {
            write!(out, "\r\x1b[K{line}")?;
        } else {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        Ok(())
    }

    fn end(&self) -> Result<(), CliError> {
        if self.is_terminal {
            writeln!(std::io::stderr())?;
        }
        Ok(())
    }
}

fn bar(done: u64, planned: u64) -> String {
    let filled = (done.min(planned) * BAR_CHARS)
        .checked_div(planned)
        .unwrap_or(BAR_CHARS);
    (0..BAR_CHARS)
        .map(|at| if at < filled { '#' } else { '.' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{BAR_CHARS, bar};

    #[test]
    fn the_bar_is_full_at_the_end_and_never_longer() {
        let full = "#".repeat(BAR_CHARS.try_into().expect("short"));
        assert_eq!(bar(0, 10), full.replace('#', "."));
        assert_eq!(bar(10, 10), full);
        assert_eq!(bar(11, 10), full);
        assert_eq!(bar(0, 0), full);
        assert!(bar(5, 10).starts_with("###############."));
    }
}
