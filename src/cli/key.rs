//! `strongroom key`: KMS keys of a running server, through its API.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::CliError;
use super::client::{self, Client, text};
use super::rewrap::counts;

const USAGE: &str = "Strongroom.GetKeyUsage";
const LAST_USAGE: &str = "GetKeyLastUsage";

/// Manage KMS keys of a running server.
#[derive(Debug, Args)]
pub(super) struct Key {
    /// The server [env: `AWS_ENDPOINT_URL`] [default: <http://127.0.0.1:9000>]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// List keys and their aliases
    List,
    /// Make a key
    Create {
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// An alias, `alias/NAME`
        #[arg(long)]
        alias: Option<String>,
        /// The custom key store that it goes into, cks-…
        #[arg(long, value_name = "ID")]
        key_store: Option<String>,
    },
    /// Everything about a key, what depends on it, and when it was last used
    Describe(KeyArg),
    /// What depends on a key: by material and by bucket
    Usage {
        #[command(flatten)]
        key: KeyArg,
        /// In JSON
        #[arg(long)]
        json: bool,
    },
    /// Make new material for a key; what was encrypted before still decrypts
    Rotate(KeyArg),
    /// Move a key to another key store under its ARN; what was encrypted before still decrypts
    Move {
        #[command(flatten)]
        key: KeyArg,
        /// The custom key store, cks-…; the default token group without
        #[arg(long, value_name = "ID")]
        key_store: Option<String>,
    },
    /// List a key's materials
    Rotations(KeyArg),
    /// Let a key be used again
    Enable(KeyArg),
    /// Let nobody use a key
    Disable(KeyArg),
    /// Destroy a key in the token when a waiting time is over
    ScheduleDeletion {
        #[command(flatten)]
        key: KeyArg,
        /// Days to wait, 7 to 30
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Call a scheduled deletion off; the key stays disabled
    CancelDeletion(KeyArg),
}

#[derive(Debug, Args)]
struct KeyArg {
    /// Key id, key ARN, alias name or alias ARN
    key: String,
}

impl Key {
    pub(super) fn run(self) -> Result<(), CliError> {
        client::run(self.endpoint, async |client| self.command.run(client).await)
    }
}

impl KeyCommand {
    async fn run(self, client: &Client) -> Result<(), CliError> {
        match self {
            Self::List => list(client).await,
            Self::Create {
                description,
                alias,
                key_store,
            } => {
                let mut input = json!({ "Description": description });
                if let (Some(store), Some(input)) = (key_store, input.as_object_mut()) {
                    input.insert("CustomKeyStoreId".into(), json!(store));
                    input.insert("Origin".into(), json!("AWS_CLOUDHSM"));
                }
                let made = client.kms("CreateKey", &input).await?;
                let id = text(&made, "/KeyMetadata/KeyId");
                if let Some(alias) = alias {
                    client
                        .kms(
                            "CreateAlias",
                            &json!({ "AliasName": alias, "TargetKeyId": id }),
                        )
                        .await?;
                }
                show(made.get("KeyMetadata"))
            }
            Self::Describe(key) => {
                let mut answer = client
                    .kms("DescribeKey", &json!({ "KeyId": key.key }))
                    .await?;
                let id = text(&answer, "/KeyMetadata/KeyId");
                let usage = client.call(USAGE, &json!({ "KeyId": id })).await;
                let last = client.kms(LAST_USAGE, &json!({ "KeyId": id })).await;
                // Who may describe a key may not therefore know more of it.
                let told = [("Usage", usage), ("LastUsage", last)];
                if let Some(metadata) = answer.pointer_mut("/KeyMetadata") {
                    for (name, told) in told {
                        match told {
                            Ok(told) => metadata[name] = told,
                            Err(error) => eprintln!("{name} cannot be told: {error}"),
                        }
                    }
                }
                show(answer.get("KeyMetadata"))
            }
            Self::Usage { key, json } => usage(client, &key.key, json).await,
            Self::Rotate(key) => {
                let id = key_id(client, &key.key).await?;
                client
                    .kms("RotateKeyOnDemand", &json!({ "KeyId": id }))
                    .await?;
                rotations(client, &id).await
            }
            Self::Move { key, key_store } => {
                let id = key_id(client, &key.key).await?;
                let input = json!({ "KeyId": id, "CustomKeyStoreId": key_store });
                client.call("Strongroom.MoveKey", &input).await?;
                rotations(client, &id).await
            }
            Self::Rotations(key) => rotations(client, &key_id(client, &key.key).await?).await,
            Self::Enable(key) => change(client, "EnableKey", &key.key, json!({})).await,
            Self::Disable(key) => change(client, "DisableKey", &key.key, json!({})).await,
            Self::ScheduleDeletion { key, days } => {
                let days = json!({ "PendingWindowInDays": days });
                change(client, "ScheduleKeyDeletion", &key.key, days).await?;
                let usage = client.call(USAGE, &json!({ "KeyId": key.key })).await;
                match usage {
                    Ok(usage) => println!("{} depend on it", counts(&usage, "")),
                    Err(error) => eprintln!("what depends on it cannot be told: {error}"),
                }
                let id = key_id(client, &key.key).await?;
                match client.kms(LAST_USAGE, &json!({ "KeyId": id })).await {
                    Ok(told) => println!("{}", last_use(&told)),
                    Err(error) => eprintln!("when it was last used cannot be told: {error}"),
                }
                Ok(())
            }
            Self::CancelDeletion(key) => {
                change(client, "CancelKeyDeletion", &key.key, json!({})).await
            }
        }
    }
}

async fn usage(client: &Client, key: &str, as_json: bool) -> Result<(), CliError> {
    let usage = client.call(USAGE, &json!({ "KeyId": key })).await?;
    if as_json {
        return show(Some(&usage));
    }
    println!("{}", counts(&usage, ""));
    let rows = |member: &str| usage.get(member).and_then(Value::as_array).cloned();
    for material in rows("KeyMaterials").into_iter().flatten() {
        let is_current = material.get("Current").and_then(Value::as_bool) == Some(true);
        println!(
            "material {}  {}{}",
            text(&material, "/KeyMaterialId"),
            counts(&material, ""),
            if is_current { "  (current)" } else { "" }
        );
    }
    for bucket in rows("Buckets").into_iter().flatten() {
        println!(
            "bucket {}  {}",
            text(&bucket, "/Bucket"),
            counts(&bucket, "")
        );
    }
    println!(
        "other accounts' buckets  {}",
        counts(&usage, "/OtherBuckets")
    );
    Ok(())
}

/// What `GetKeyLastUsage` answers, in words.
fn last_use(told: &Value) -> String {
    match told.pointer("/KeyLastUsage/Timestamp") {
        Some(used) => format!(
            "last used {} for {}",
            client::date(used),
            text(told, "/KeyLastUsage/Operation")
        ),
        None => format!(
            "not used since {}",
            told.get("TrackingStartDate")
                .map(client::date)
                .unwrap_or_default()
        ),
    }
}

async fn list(client: &Client) -> Result<(), CliError> {
    let aliases = client.pages("ListAliases", "Aliases").await?;
    for key in client.pages("ListKeys", "Keys").await? {
        let id = text(&key, "/KeyId");
        let described = client.kms("DescribeKey", &json!({ "KeyId": id })).await?;
        let names: Vec<String> = aliases
            .iter()
            .filter(|alias| text(alias, "/TargetKeyId") == id)
            .map(|alias| text(alias, "/AliasName"))
            .collect();
        println!(
            "{id}  {:<16} {}",
            text(&described, "/KeyMetadata/KeyState"),
            names.join(" ")
        );
    }
    Ok(())
}

async fn rotations(client: &Client, id: &str) -> Result<(), CliError> {
    let query = json!({ "KeyId": id, "IncludeKeyMaterial": "ALL_KEY_MATERIAL" });
    let answer = client.kms("ListKeyRotations", &query).await?;
    for rotation in answer
        .get("Rotations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        println!(
            "{}  {:<12} {}",
            text(rotation, "/KeyMaterialId"),
            text(rotation, "/KeyMaterialState"),
            text(rotation, "/RotationType")
        );
    }
    Ok(())
}

async fn change(
    client: &Client,
    operation: &str,
    key: &str,
    mut body: Value,
) -> Result<(), CliError> {
    let id = key_id(client, key).await?;
    if let Some(body) = body.as_object_mut() {
        body.insert("KeyId".into(), json!(id));
    }
    client.kms(operation, &body).await?;
    let answer = client.kms("DescribeKey", &json!({ "KeyId": id })).await?;
    println!("{id}  {}", text(&answer, "/KeyMetadata/KeyState"));
    Ok(())
}

/// Operations that change a key take no alias, so it is resolved here.
async fn key_id(client: &Client, key: &str) -> Result<String, CliError> {
    let answer = client.kms("DescribeKey", &json!({ "KeyId": key })).await?;
    Ok(text(&answer, "/KeyMetadata/KeyId"))
}

fn show(value: Option<&Value>) -> Result<(), CliError> {
    println!("{}", serde_json::to_string_pretty(&value)?);
    Ok(())
}
