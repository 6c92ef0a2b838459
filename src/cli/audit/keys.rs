//! `strongroom audit keys`.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::CliError;
use crate::cli::client::{self, text};
use crate::clock::{Clock as _, SystemClock};

/// Keys that a server is asked about at a time.
const KEYS_AT_ONCE: usize = 100;
const PAGES_MAX: usize = 10_000;

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
pub(super) struct Keys {
    /// The server [env: `AWS_ENDPOINT_URL`] [default: <http://127.0.0.1:9000>]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: KeysFormat,
}

impl Keys {
    pub(super) fn run(self) -> Result<(), CliError> {
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
    use super::csv;

    #[test]
    fn fields_of_csv_are_quoted_where_they_must_be() {
        assert_eq!(csv("plain"), "plain");
        assert_eq!(csv("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
