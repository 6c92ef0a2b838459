//! `strongroom audit query`.

use std::io::Write as _;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::Where;
use crate::audit::query::{Filter, Wanted, query};
use crate::cli::CliError;
use crate::cli::client::text;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum QueryFormat {
    /// One record a line, as it stands in the audit
    Json,
    /// Columns for people
    Table,
}

#[derive(Debug, Args)]
pub(super) struct Query {
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
    pub(super) fn run(self) -> Result<(), CliError> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{checked_time, row};

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
}
