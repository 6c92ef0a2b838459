//! `strongroom audit verify`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Where;
use crate::audit::Head;
use crate::audit::verify::{Expected, Finding, PlacedCheckpoint, Verified, Wrong, verify};
use crate::cli::CliError;
use crate::cli::client::{self, Client, text};

/// Checkpoints that a server is asked about at a time.
const CHECKPOINTS_AT_ONCE: usize = 100;
/// The exit code when nothing was changed and something is not there all the same. 2 is a command line that does not
/// read.
const NOT_WHOLE: u8 = 3;
const EXIT_CODES: &str = "\
Exit codes:
  0  nothing is wrong
  1  something is, or it could not be found out
  3  nothing that reads was changed, and the audit is not whole: records could not be written (\"gap\"), or nothing of a
     file reads (\"set aside\")";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Verify {
    #[command(flatten)]
    place: Where,
    /// A head that was noted earlier and must be in the chain: HASH or SEQUENCE:HASH; may be repeated
    #[arg(long, value_name = "HEAD")]
    expect_head: Vec<Expected>,
    /// Where the records end that were moved to an archive
    #[arg(long, value_name = "SEQUENCE:HASH")]
    archived: Option<Head>,
    /// Have the proofs of the checkpoints checked by the HSM, and the end by the metadata, through the running server
    /// that the environment names as for `strongroom key`
    #[arg(long)]
    online: bool,
    /// The same, and which server
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let dir = self.place.dir()?;
        let mut proofs = None;
        let mut expected = self.expect_head;
        if self.online || self.endpoint.is_some() {
            // What the metadata know is asked first: the chain may only grow until it is read.
            let known = ask(self.endpoint.clone(), &[])?.1;
            let known =
                known.ok_or("the server keeps no audit, or has made no checkpoint of it yet")?;
            expected.push(Expected::Head(known));
            proofs = Some(self.endpoint);
        }
        let mut found = verify(&dir, self.archived, &expected)?;
        if found.records == 0 {
            return Err(format!("there are no records in {}", dir.display()).into());
        }
        let asked = proofs.is_some();
        if let Some(endpoint) = proofs {
            let forged = ask(endpoint, &found.checkpoints)?.0;
            found.findings_in_all += forged.len();
            found.findings.extend(forged);
        }
        if self.json {
            print_json(&found, asked)?;
        } else {
            print(&found, asked);
        }
        match found.findings_in_all {
            0 if is_whole(&found) => Ok(ExitCode::SUCCESS),
            0 => Ok(NOT_WHOLE.into()),
            1 => Err("the audit is not what it was: one finding".into()),
            many => Err(format!("the audit is not what it was: {many} findings").into()),
        }
    }
}

/// Whether all that happened is in the chain, as far as it says.
fn is_whole(found: &Verified) -> bool {
    found.gaps.is_empty() && found.aside.is_empty()
}

/// Which checkpoints the HSM did not make, and the head that the metadata know.
fn ask(
    endpoint: Option<String>,
    checkpoints: &[PlacedCheckpoint],
) -> Result<(Vec<Finding>, Option<Head>), CliError> {
    let mut answer = (Vec::new(), None);
    client::run(endpoint, async |client| {
        let nothing: &[PlacedCheckpoint] = &[];
        let chunks = checkpoints.chunks(CHECKPOINTS_AT_ONCE);
        for chunk in std::iter::once(nothing).chain(chunks) {
            let told = ask_server(client, chunk).await?;
            let genuine = told.get("Genuine").and_then(Value::as_array);
            let genuine = genuine.ok_or("the server's answer does not read")?;
            for (placed, genuine) in chunk.iter().zip(genuine) {
                if genuine != &json!(true) {
                    answer.0.push(Finding {
                        file: placed.file.clone(),
                        line: placed.line,
                        sequence: Some(placed.checkpoint.head.sequence),
                        what: Wrong::Forged,
                    });
                }
            }
            if genuine.len() != chunk.len() {
                return Err("the server's answer does not read".into());
            }
            let Some(known) = told.get("Known") else {
                continue;
            };
            if known.get("Genuine") != Some(&json!(true)) {
                return Err("the head in the server's metadata has no proof of the HSM".into());
            }
            answer.1 = Some(text(known, "/Head").parse()?);
        }
        Ok(())
    })?;
    Ok(answer)
}

async fn ask_server(client: &Client, checkpoints: &[PlacedCheckpoint]) -> Result<Value, CliError> {
    let members: Vec<_> = checkpoints
        .iter()
        .map(|placed| {
            json!({
                "Server": placed.checkpoint.server.to_string(),
                "Head": placed.checkpoint.head.to_string(),
                "Proof": hex::encode(&placed.checkpoint.proof),
            })
        })
        .collect();
    let query = json!({ "Checkpoints": members });
    client
        .call("Strongroom.VerifyAuditCheckpoints", &query)
        .await
}

fn print(found: &Verified, asked: bool) {
    let head = |head: Option<Head>| head.map_or_else(String::new, |head| head.to_string());
    println!("records     {} in {} files", found.records, found.files);
    println!(
        "chain of    {}",
        found
            .server
            .map_or_else(String::new, |server| server.to_string())
    );
    println!("first       {}", head(found.first));
    println!("head        {}", head(found.last));
    let checked = if asked {
        "checked by the HSM, and the end by the metadata"
    } else {
        "NOT checked: that takes the HSM, with --online"
    };
    println!("checkpoints {}: {checked}", found.checkpoints.len());
    for torn in &found.torn {
        println!("torn        {torn}");
    }
    for aside in &found.aside {
        println!("set aside   {aside}: nothing of this file reads");
    }
    for gap in &found.gaps {
        println!("gap         {gap}");
    }
    for finding in &found.findings {
        println!("FOUND       {finding}");
    }
    if found.findings_in_all > found.findings.len() {
        println!(
            "FOUND       and {} more",
            found.findings_in_all - found.findings.len()
        );
    }
    if found.findings_in_all == 0 {
        let verdict = if is_whole(found) {
            "Nothing is wrong."
        } else {
            "Nothing that reads was changed, but it is NOT all that happened: see each gap, and what was set aside."
        };
        println!(
            "{verdict} Note the head: what stands before it can then not be cut off unnoticed."
        );
    }
}

fn print_json(found: &Verified, asked: bool) -> Result<(), CliError> {
    let findings: Vec<_> = found
        .findings
        .iter()
        .map(|finding| {
            json!({
                "file": finding.file,
                "line": finding.line,
                "sequence": finding.sequence,
                "what": finding.what.to_string(),
            })
        })
        .collect();
    let all = json!({
        "records": found.records,
        "files": found.files,
        "server": found.server.map(|server| server.to_string()),
        "first": found.first.map(|head| head.to_string()),
        "head": found.last.map(|head| head.to_string()),
        "checkpoints": found.checkpoints.len(),
        "checkpoints_checked": asked,
        "torn": found.torn,
        "set_aside": found.aside,
        "gaps": found.gaps,
        "findings": findings,
        "findings_in_all": found.findings_in_all,
    });
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}
