//! `strongroom audit`: the audit, from its files and from a running server.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{self, Client, text};
use super::{CliError, ConfigFile, load};
use crate::audit::Head;
use crate::audit::query::{Filter, Wanted, query};
use crate::audit::verify::{Expected, Finding, PlacedCheckpoint, Verified, Wrong, verify};
use crate::clock::{Clock as _, SystemClock};

/// Checkpoints that a server is asked about at a time.
const CHECKPOINTS_AT_ONCE: usize = 100;
/// Keys that a server is asked about at a time.
const KEYS_AT_ONCE: usize = 100;
const PAGES_MAX: usize = 10_000;

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
    pub(super) fn run(self) -> Result<(), CliError> {
        match self.command {
            AuditCommand::Verify(verify) => verify.run(),
            AuditCommand::Query(query) => query.run(),
            AuditCommand::Keys(keys) => keys.run(),
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

#[derive(Debug, Args)]
struct Verify {
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
    fn run(self) -> Result<(), CliError> {
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
            0 => Ok(()),
            1 => Err("the audit is not what it was: one finding".into()),
            many => Err(format!("the audit is not what it was: {many} findings").into()),
        }
    }
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
        println!(
            "Nothing is wrong. Note the head: what stands before it can then not be cut off unnoticed."
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum QueryFormat {
    /// One record a line, as it stands in the audit
    Json,
    /// Columns for people
    Table,
}

#[derive(Debug, Args)]
struct Query {
    #[command(flatten)]
    place: Where,
    /// Key ARN, key id, or the name that the caller used
    #[arg(long)]
    key: Option<String>,
    /// ARN of an identity, a user name, or an access key id
    #[arg(long, value_name = "WHO")]
    principal: Option<String>,
    /// BUCKET, BUCKET/KEY or an ARN; with * at its end, all that begin so
    #[arg(long, value_name = "OBJECT")]
    object: Option<String>,
    /// Event name: Decrypt, …
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// From this time on, in UTC: 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// success, failure, denied, or an error code
    #[arg(long)]
    outcome: Option<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// How to print
    #[arg(long, value_enum, default_value = "json")]
    format: QueryFormat,
}

impl Query {
    fn run(self) -> Result<(), CliError> {
        let filter = Filter {
            key: self.key,
            principal: self.principal,
            object: self.object,
            event: self.event,
            since: self.since.as_deref().map(checked_time).transpose()?,
            until: self.until.as_deref().map(checked_time).transpose()?,
            outcome: self.outcome.as_deref().map(Wanted::from),
        };
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let printed = query(&self.place.dir()?, &filter, |record, event| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            match self.format {
                QueryFormat::Json => {
                    out.write_all(record)?;
                    out.write_all(b"\n")?;
                }
                QueryFormat::Table => writeln!(out, "{}", row(event))?,
            }
            Ok(true)
        });
        match printed.and_then(|()| out.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            printed => Ok(printed?),
        }
    }
}

/// Times are compared as text, which takes them to be written as records write them.
fn checked_time(text: &str) -> Result<String, CliError> {
    const FORM: &[u8] = b"0000-00-00T00:00:00Z";
    let fits = |(byte, form): (u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        form => byte == *form,
    };
    let is_time = (4..=FORM.len()).contains(&text.len()) && text.bytes().zip(FORM).all(fits);
    if !is_time {
        return Err(format!(
            "{text} is not a time like 2026-01-31T12:00:00Z, or the beginning of one"
        )
        .into());
    }
    Ok(text.to_owned())
}

fn row(event: &Value) -> String {
    let key = text(event, "/resources/0/ARN");
    let key = match key.rsplit_once('/') {
        Some((_, id)) => id.to_owned(),
        None => text(event, "/requestParameters/keyId"),
    };
    let outcome = match text(event, "/errorCode") {
        ok if ok.is_empty() => "ok".to_owned(),
        code => code,
    };
    let who = match text(event, "/userIdentity/arn") {
        nobody if nobody.is_empty() => text(event, "/userIdentity/invokedBy"),
        arn => arn,
    };
    let cause = [
        text(event, "/s3Request/action"),
        text(event, "/s3Request/resource"),
    ]
    .join(" ");
    let time = text(event, "/eventTime");
    let name = text(event, "/eventName");
    let row = format!(
        "{time}  {name:<22} {outcome:<22} {key:<36}  {who}  {}",
        cause.trim()
    );
    // Much of it is in the words of callers, who may know what a terminal obeys.
    let row = row.trim_end().chars();
    row.map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeysFormat {
    /// A line a backing key
    Table,
    /// All that the server answers
    Json,
    /// A line a backing key, all columns
    Csv,
}

#[derive(Debug, Args)]
struct Keys {
    /// The server [env: `AWS_ENDPOINT_URL`] [default: <http://127.0.0.1:9000>]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: KeysFormat,
}

impl Keys {
    fn run(self) -> Result<(), CliError> {
        let mut keys = Vec::new();
        client::run(self.endpoint, async |client| {
            let mut query = json!({ "Limit": KEYS_AT_ONCE });
            for _ in 0..PAGES_MAX {
                let page = client.call("Strongroom.KeyInventory", &query).await?;
                let found = page.get("Keys").and_then(Value::as_array);
                keys.extend(found.into_iter().flatten().cloned());
                match page.get("NextMarker") {
                    Some(marker) => query = json!({ "Limit": KEYS_AT_ONCE, "Marker": marker }),
                    None => return Ok(()),
                }
            }
            Err("the list does not end".into())
        })?;
        match self.format {
            KeysFormat::Json => println!(
                "{}",
                serde_json::to_string_pretty(&json!({ "Keys": keys }))?
            ),
            KeysFormat::Table => {
                for line in lines(&keys) {
                    print_line(&line);
                }
            }
            KeysFormat::Csv => {
                println!("{}", COLUMNS.map(|(name, _)| name).join(","));
                for line in lines(&keys) {
                    println!("{}", COLUMNS.map(|(_, read)| csv(&read(&line))).join(","));
                }
            }
        }
        Ok(())
    }
}

/// One backing key, beside the key that it is of.
struct Line<'a> {
    key: &'a Value,
    version: &'a Value,
}

fn lines(keys: &[Value]) -> impl Iterator<Item = Line<'_>> {
    keys.iter().flat_map(|key| {
        let versions = key.get("Versions").and_then(Value::as_array);
        versions
            .into_iter()
            .flatten()
            .map(move |version| Line { key, version })
    })
}

impl Line<'_> {
    /// What all objects of the backing key in all tokens say of an attribute; their values if they differ.
    fn attribute(&self, name: &str) -> String {
        let objects = self.version.get("Objects").and_then(Value::as_array);
        let mut values: Vec<_> = objects
            .into_iter()
            .flatten()
            .map(|object| text(object, &format!("/Attributes/{name}")))
            .collect();
        values.dedup();
        values.join("/")
    }

    fn date(value: &Value, name: &str) -> String {
        value.get(name).map(client::date).unwrap_or_default()
    }

    /// How much depends on the backing key; nothing is told of the server's own keys.
    fn dependants(&self, name: &str) -> String {
        let dependants = self.version.get("Dependants");
        let count = dependants.and_then(|dependants| dependants.get(name));
        count.map_or_else(String::new, Value::to_string)
    }

    /// When the key was last used; since when it was not, if it was not; nothing of the server's own keys.
    fn last_used(&self) -> String {
        match self.key.pointer("/KeyLastUsage/Timestamp") {
            Some(used) => client::date(used),
            None if self.key.get("KeyLastUsage").is_none() => String::new(),
            None => format!("not since {}", Self::date(self.key, "TrackingStartDate")),
        }
    }

    /// Days since the current backing key was made.
    fn age(&self) -> String {
        let made = self
            .key
            .get("LastRotationDate")
            .and_then(Value::as_f64)
            .unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "a date in whole seconds")]
        let seconds = SystemClock.now().unix_timestamp() - made as i64;
        (seconds / 86_400).to_string()
    }
}

type Column = (&'static str, fn(&Line<'_>) -> String);

const COLUMNS: [Column; 30] = [
    ("key", |line| text(line.key, "/Name")),
    ("account", |line| text(line.key, "/Account")),
    ("aliases", |line| {
        let aliases = line.key.get("Aliases").and_then(Value::as_array);
        let names: Vec<_> = aliases
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        names.join(" ")
    }),
    ("manager", |line| text(line.key, "/KeyManager")),
    ("state", |line| text(line.key, "/KeyState")),
    ("created", |line| Line::date(line.key, "CreationDate")),
    ("last_used", |line| line.last_used()),
    ("last_operation", |line| {
        text(line.key, "/KeyLastUsage/Operation")
    }),
    ("rotation_age_days", |line| line.age()),
    ("rotation_period_days", |line| {
        line.key
            .get("RotationPeriodInDays")
            .map_or_else(String::new, Value::to_string)
    }),
    ("version", |line| {
        line.version
            .get("Version")
            .map_or_else(String::new, Value::to_string)
    }),
    ("current", |line| {
        line.version
            .get("Current")
            .map_or_else(String::new, Value::to_string)
    }),
    ("key_material_id", |line| {
        text(line.version, "/KeyMaterialId")
    }),
    ("version_created", |line| {
        Line::date(line.version, "CreationDate")
    }),
    ("cause", |line| text(line.version, "/Cause")),
    ("key_store", |line| text(line.key, "/CustomKeyStoreId")),
    ("token_group", |line| text(line.version, "/TokenGroup")),
    ("token", |line| text(line.version, "/Token")),
    ("scheme", |line| text(line.version, "/Scheme")),
    ("objects", |line| line.dependants("Objects")),
    ("bytes", |line| line.dependants("Bytes")),
    ("multipart_uploads", |line| {
        line.dependants("MultipartUploads")
    }),
    ("opens", |line| {
        line.version
            .get("Opens")
            .map_or_else(String::new, Value::to_string)
    }),
    ("error", |line| text(line.version, "/Error")),
    ("SENSITIVE", |line| line.attribute("SENSITIVE")),
    ("EXTRACTABLE", |line| line.attribute("EXTRACTABLE")),
    ("ALWAYS_SENSITIVE", |line| {
        line.attribute("ALWAYS_SENSITIVE")
    }),
    ("NEVER_EXTRACTABLE", |line| {
        line.attribute("NEVER_EXTRACTABLE")
    }),
    ("LOCAL", |line| line.attribute("LOCAL")),
    ("usage", |line| line.attribute("usage")),
];

fn csv(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}

fn print_line(line: &Line<'_>) {
    let name = text(line.key, "/Name");
    let name = name
        .rsplit_once(":key/")
        .map_or(name.as_str(), |(_, id)| id);
    let current = if line.version.get("Current") == Some(&json!(true)) {
        "*"
    } else {
        " "
    };
    let version = line
        .version
        .get("Version")
        .map_or_else(String::new, Value::to_string);
    let material = text(line.version, "/KeyMaterialId");
    let material = material.get(..16).unwrap_or(&material);
    let opens = match text(line.version, "/Error") {
        well if well.is_empty() => "opens".to_owned(),
        error => error,
    };
    let attributes = ["SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL"].map(|name| {
        let value = line.attribute(name);
        format!("{name}={}", if value.is_empty() { "-" } else { &value })
    });
    println!(
        "{name:<36} {:<15} v{version}{current} {material}… {} age {:>4} d  used {:<20} objects {:<8} {:<16} {}  {}  {opens}",
        text(line.key, "/KeyState"),
        Line::date(line.version, "CreationDate"),
        line.age(),
        match line.last_used() {
            unknown if unknown.is_empty() => "-".to_owned(),
            known => known,
        },
        match line.dependants("Objects") {
            unknown if unknown.is_empty() => "-".to_owned(),
            known => known,
        },
        text(line.version, "/Scheme"),
        text(line.version, "/Token"),
        attributes.join(" "),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{checked_time, csv, row};

    #[test]
    fn a_row_tells_a_terminal_nothing() {
        let event = json!({ "eventName": "Decrypt", "s3Request": { "resource": "arn:aws:s3:::b/\u{1b}[2J\n" } });
        let row = row(&event);
        assert!(
            row.contains("arn:aws:s3:::b/") && !row.contains(['\u{1b}', '\n']),
            "{row}"
        );
    }

    #[test]
    fn a_time_is_one_or_the_beginning_of_one() {
        for good in [
            "2026-01-31",
            "2026",
            "2026-01-31T12:00",
            "2026-01-31T12:00:00Z",
        ] {
            checked_time(good).expect(good);
        }
        for bad in [
            "yesterday",
            "26-01-31",
            "2026-01-31 12:00",
            "2026-01-31T12:00:00+01:00",
            "",
        ] {
            checked_time(bad).expect_err(bad);
        }
    }

    #[test]
    fn fields_of_csv_are_quoted_where_they_must_be() {
        assert_eq!(csv("plain"), "plain");
        assert_eq!(csv("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
