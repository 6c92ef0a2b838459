//! Configuration: raw as typed, then meant, once. The only reader of files and of the environment.
//!
//! A value comes from a flag, else from the environment (seven of them: [`SETTINGS`]), else from the TOML file, else it is
//! the default. A key or a variable that nobody knows is an error that names it. Secrets are never values: PIN and access keys are read
//! from files, whose names may be relative to `$CREDENTIALS_DIRECTORY` (systemd) as `credential:NAME`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretBox;
use serde::{Deserialize, Serialize};

use crate::audit::AuditSettings;
use crate::auth::AccountId;
use crate::auth::credentials::Credentials;
use crate::iam::{Account, Accounts, DISPLAY_NAME_CHARS_MAX};
use crate::kms::KEYS_PER_ACCOUNT_MAX_DEFAULT;
use crate::store::{BUCKET_KEY_LIFETIME_DEFAULT, StoreSettings};

mod audit;
mod environment;
mod hsm;

pub use audit::RawAudit;
pub use environment::{CONFIG, EPHEMERAL_EXPORTS, LAID_OUT_DIR, SETTINGS, environment};
pub use hsm::{GROUP_NAME_CHARS_MAX, HsmConfig, Isolation, RawClone, RawHsm, RawTpm, TokenConfig};

use hsm::{check_group_name, check_tpms};

/// The longest time that a bucket key may stay in memory.
const BUCKET_KEY_SECONDS_MAX: u64 = 3600;

/// Configuration as typed, over the defaults: nothing checked.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: String,
    /// Where metadata and blobs are.
    pub data_dir: Option<PathBuf>,
    /// Region of keys, and of buckets that name none.
    pub region: String,
    /// Further regions that are served: what clients sign for that name no region.
    pub extra_regions: Vec<String>,
    /// Twelve digits.
    pub account: String,
    /// Access keys, in the format of `~/.aws/credentials`; `credentials` in the data directory without.
    pub credentials_file: Option<String>,
    /// Further accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<RawAccount>,
    /// The default token group.
    pub hsm: RawHsm,
    /// Further token groups, for custom key stores.
    pub groups: BTreeMap<String, RawHsm>,
    /// Limits of the server.
    pub limits: RawLimits,
    /// Keys.
    pub kms: RawKms,
    /// The store.
    pub store: RawStore,
    /// The audit.
    pub audit: RawAudit,
    /// Logs.
    pub log: RawLog,
}

/// An account beside the default one, as typed.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAccount {
    /// Twelve digits.
    pub id: String,
    /// For people; the number without.
    pub display_name: Option<String>,
    /// 64 lower-case hexadecimal digits; derived from the number without.
    pub canonical_id: Option<String>,
    /// Root access keys, in the format of `~/.aws/credentials`.
    pub credentials_file: Option<String>,
}

/// Limits, as typed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Longest wait for the head of a request, in milliseconds.
    pub header_timeout_ms: u64,
    /// Longest wait for the next bytes of a body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Longest wait for requests under way when the server stops, in milliseconds.
    pub shutdown_ms: u64,
}

/// Keys, as typed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawKms {
    /// Whether a key that objects or uploads depend on is kept: neither scheduled for deletion nor destroyed.
    pub refuse_deletion_while_in_use: bool,
    /// The most KMS keys of an account.
    pub keys_per_account_max: u32,
}

/// The store, as typed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawStore {
    /// How long replaced and deleted bytes are kept for readers under way, in seconds.
    pub garbage_grace_s: u64,
    /// Pause between two rounds of garbage collection and of due key deletions, in seconds.
    pub maintenance_s: u64,
    /// How long a bucket key stays in memory, in seconds; with 0, every use of one asks the HSM.
    pub bucket_key_seconds: u64,
}

/// Logs, as typed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// `text` or `json`.
    pub format: String,
    /// A filter of the crate `tracing-subscriber`, such as `info`.
    pub level: String,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9000".into(),
            data_dir: None,
            region: "us-west-2".into(),
            extra_regions: vec!["us-east-1".into()],
            account: "000000000000".into(),
            credentials_file: None,
            accounts: Vec::new(),
            hsm: RawHsm::default(),
            groups: BTreeMap::new(),
            limits: RawLimits::default(),
            kms: RawKms::default(),
            store: RawStore::default(),
            audit: RawAudit::default(),
            log: RawLog::default(),
        }
    }
}

impl Default for RawKms {
    fn default() -> Self {
        Self {
            refuse_deletion_while_in_use: false,
            keys_per_account_max: KEYS_PER_ACCOUNT_MAX_DEFAULT,
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            header_timeout_ms: 30_000,
            body_timeout_ms: 60_000,
            shutdown_ms: 30_000,
        }
    }
}

impl Default for RawStore {
    fn default() -> Self {
        Self {
            garbage_grace_s: 900,
            maintenance_s: 60,
            bucket_key_seconds: BUCKET_KEY_LIFETIME_DEFAULT.as_secs(),
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            format: "text".into(),
            level: "info".into(),
        }
    }
}

/// What is meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where metadata and blobs are.
    pub data_dir: PathBuf,
    /// Served regions, the first of which is the default. Never empty.
    pub regions: Vec<String>,
    /// The account.
    pub account: AccountId,
    /// File with the access keys.
    pub credentials_file: PathBuf,
    /// Accounts beside the default one.
    pub accounts: Vec<AccountConfig>,
    /// The default token group.
    pub hsm: HsmConfig,
    /// Further token groups.
    pub groups: BTreeMap<String, HsmConfig>,
    /// Limits of the server.
    pub limits: Limits,
    /// Whether a key that anything depends on is kept.
    pub refuse_deletion_while_in_use: bool,
    /// The most KMS keys of an account.
    pub keys_per_account_max: u32,
    /// The store.
    pub store: StoreSettings,
    /// The audit, if there is one.
    pub audit: Option<AuditSettings>,
    /// Pause between two rounds of maintenance.
    pub maintenance: Duration,
}

/// An account and the file with its root access keys.
#[derive(Debug, Clone)]
pub struct AccountConfig {
    /// The account.
    pub account: Account,
    /// File with its root access keys.
    pub credentials_file: PathBuf,
}

/// Limits of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Longest wait for the head of a request.
    pub header_timeout: Duration,
    /// Longest wait for the next bytes of a body.
    pub body_timeout: Duration,
    /// Longest wait for requests under way when the server stops.
    pub shutdown: Duration,
}

/// Operator: the configuration cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The TOML file does not read.
    #[error("{path}: {message}")]
    Toml {
        /// Which.
        path: PathBuf,
        /// What is wrong, with line and key.
        message: String,
    },
    /// An environment variable that nobody knows, or whose value does not read.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// Which.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A value is missing or out of its bounds.
    #[error("{key}: {message}")]
    Value {
        /// Which key.
        key: String,
        /// What is wrong.
        message: String,
    },
}

fn value(key: impl Into<String>, message: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.into(),
        message: message.into(),
    }
}

impl RawConfig {
    /// Reads the TOML file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`], [`ConfigError::Toml`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Toml {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Value`], naming the key.
    pub fn validate(self) -> Result<Config, ConfigError> {
        let listen = self.listen;
        let listen = listen
            .parse()
            .map_err(|_syntax| value("listen", format!("{listen:?} is not ADDRESS:PORT")))?;
        let data_dir = self
            .data_dir
            .ok_or_else(|| value("data_dir", "is not set"))?;
        let mut regions = vec![self.region];
        regions.extend(self.extra_regions);
        let mut seen = BTreeSet::new();
        regions.retain(|region| seen.insert(region.clone()));
        if let Some(bad) = regions.iter().find(|region| !is_region(region)) {
            return Err(value(
                "region",
                format!("{bad:?} is not the name of a region"),
            ));
        }
        let account = AccountId::parse(&self.account)
            .ok_or_else(|| value("account", "is not twelve digits"))?;
        let credentials_file = match self.credentials_file {
            Some(name) => secret_file("credentials_file", &name)?,
            None => data_dir.join("credentials"),
        };
        let accounts = self.accounts.into_iter().enumerate();
        let accounts = accounts
            .map(|(at, raw)| raw.validate(&format!("accounts[{at}]")))
            .collect::<Result<_, _>>()?;
        let hsm = self.hsm.validate("hsm")?;
        let mut groups = BTreeMap::new();
        for (name, group) in self.groups {
            check_group_name(&name)?;
            let group = group.validate(&format!("groups.{name}"))?;
            groups.insert(name, group);
        }
        check_tpms(std::iter::once(&hsm).chain(groups.values()))?;
        let limits = Limits {
            connections: bounded("limits.connections", self.limits.connections, 1..=65_536)?,
            header_timeout: milliseconds(
                "limits.header_timeout_ms",
                self.limits.header_timeout_ms,
            )?,
            body_timeout: milliseconds("limits.body_timeout_ms", self.limits.body_timeout_ms)?,
            shutdown: milliseconds("limits.shutdown_ms", self.limits.shutdown_ms)?,
        };
        let garbage_grace = bounded(
            "store.garbage_grace_s",
            self.store.garbage_grace_s,
            0..=30 * 86_400,
        )?;
        let bucket_key_seconds = bounded(
            "store.bucket_key_seconds",
            self.store.bucket_key_seconds,
            0..=BUCKET_KEY_SECONDS_MAX,
        )?;
        let store = StoreSettings {
            garbage_grace: Duration::from_secs(garbage_grace),
            bucket_key_lifetime: Duration::from_secs(bucket_key_seconds),
            ..StoreSettings::default()
        };
        let audit = self.audit.validate(&data_dir)?;
        let keys_per_account_max = bounded(
            "kms.keys_per_account_max",
            self.kms.keys_per_account_max,
            1..=1_000_000,
        )?;
        let maintenance = bounded("store.maintenance_s", self.store.maintenance_s, 1..=86_400)?;
        Ok(Config {
            listen,
            data_dir,
            regions,
            account,
            credentials_file,
            accounts,
            hsm,
            groups,
            limits,
            refuse_deletion_while_in_use: self.kms.refuse_deletion_while_in_use,
            keys_per_account_max,
            store,
            audit,
            maintenance: Duration::from_secs(maintenance),
        })
    }

    /// The effective configuration as TOML. There are no secrets in it, by design: only names of files.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Value`], never for a configuration that was read.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(|error| value("config", error.to_string()))
    }
}

impl RawAccount {
    fn validate(self, key: &str) -> Result<AccountConfig, ConfigError> {
        let id = AccountId::parse(&self.id)
            .ok_or_else(|| value(format!("{key}.id"), "is not twelve digits"))?;
        let display_name = self.display_name.unwrap_or_else(|| id.to_string());
        if !(1..=DISPLAY_NAME_CHARS_MAX).contains(&display_name.chars().count())
            || display_name.chars().any(char::is_control)
        {
            let message = format!("is not 1 to {DISPLAY_NAME_CHARS_MAX} printable characters");
            return Err(value(format!("{key}.display_name"), message));
        }
        let mut account = Account::new(id, display_name);
        if let Some(canonical_id) = self.canonical_id {
            if !Account::is_canonical_id(&canonical_id) {
                let message = "is not 64 lower-case hexadecimal digits";
                return Err(value(format!("{key}.canonical_id"), message));
            }
            account.canonical_id = canonical_id;
        }
        let file_key = format!("{key}.credentials_file");
        let file = self
            .credentials_file
            .ok_or_else(|| value(&*file_key, "is not set"))?;
        Ok(AccountConfig {
            account,
            credentials_file: secret_file(&file_key, &file)?,
        })
    }
}

impl Config {
    /// All accounts with their root access keys, the default one first. Reads the files.
    ///
    /// # Errors
    ///
    /// As [`read_credentials`]; [`ConfigError::Value`] when two accounts share what is to be unique.
    pub fn read_accounts(&self) -> Result<Accounts, ConfigError> {
        let id = self.account.clone();
        let default = Account::new(id.clone(), id.as_str());
        let mut accounts = vec![(default, read_credentials(&self.credentials_file)?)];
        for further in &self.accounts {
            let credentials = read_credentials(&further.credentials_file)?;
            accounts.push((further.account.clone(), credentials));
        }
        Accounts::new(accounts).map_err(|error| value("accounts", error.to_string()))
    }
}

fn is_region(name: &str) -> bool {
    (3..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn bounded<T: PartialOrd + std::fmt::Display>(
    key: impl Into<String>,
    given: T,
    bounds: std::ops::RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if bounds.contains(&given) {
        return Ok(given);
    }
    Err(value(
        key,
        format!(
            "{given} is not within {} and {}",
            bounds.start(),
            bounds.end()
        ),
    ))
}

fn milliseconds(key: impl Into<String>, given: u64) -> Result<Duration, ConfigError> {
    bounded(key, given, 1..=3_600_000).map(Duration::from_millis)
}

/// A file with a secret: a path, or `credential:NAME` in systemd's `$CREDENTIALS_DIRECTORY`.
fn secret_file(key: &str, name: &str) -> Result<PathBuf, ConfigError> {
    let Some(credential) = name.strip_prefix("credential:") else {
        return Ok(PathBuf::from(name));
    };
    if credential.is_empty() || credential.contains('/') {
        return Err(value(key, "a credential is named without a path"));
    }
    let directory = environment("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        value(
            key,
            "$CREDENTIALS_DIRECTORY is not set: LoadCredential= is missing in the unit",
        )
    })?;
    Ok(Path::new(&directory).join(credential))
}

/// Replaces `pin-source=credential:NAME` by the file that systemd made.
fn resolve_pin_source(key: &str, uri: &str) -> Result<String, ConfigError> {
    let Some((before, rest)) = uri.split_once("pin-source=credential:") else {
        return Ok(uri.to_owned());
    };
    let (name, after) = rest.split_at(rest.find('&').unwrap_or(rest.len()));
    let path = secret_file(key, &format!("credential:{name}"))?;
    Ok(format!("{before}pin-source=file:{}{after}", path.display()))
}

/// Reads access keys in the format of `~/.aws/credentials`: any number of profiles with `aws_access_key_id` and
/// `aws_secret_access_key`.
///
/// # Errors
///
/// [`ConfigError::Read`]; [`ConfigError::Value`] when there is none, or one is incomplete.
pub fn read_credentials(path: &Path) -> Result<Credentials, ConfigError> {
    let bad = |message: String| value("credentials_file", message);
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = zeroize::Zeroizing::new(text);
    let mut keys: Vec<(String, SecretBox<str>)> = Vec::new();
    let mut id: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';', '[']) {
            continue;
        }
        let (name, text) = line
            .split_once('=')
            .ok_or_else(|| bad(format!("line {} is not NAME = VALUE", number + 1)))?;
        match name.trim() {
            "aws_access_key_id" => id = Some(text.trim().to_owned()),
            "aws_secret_access_key" => {
                let id = id
                    .take()
                    .ok_or_else(|| bad(format!("line {}: a secret without its id", number + 1)))?;
                keys.push((id, SecretBox::new(text.trim().into())));
            }
            other => return Err(bad(format!("line {}: unknown key {other:?}", number + 1))),
        }
    }
    if let Some(id) = id {
        return Err(bad(format!("access key {id} has no secret")));
    }
    if keys.is_empty() {
        return Err(bad("no access key".into()));
    }
    Credentials::new(keys).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use strongroom_hsm::HsmSettings;

    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = toml::from_str::<RawConfig>("lissten = \"x\"").expect_err("unknown");
        assert!(error.to_string().contains("lissten"));
        let error =
            toml::from_str::<RawConfig>("[hsm]\npin = \"1\"").expect_err("a PIN is never a value");
        assert!(error.to_string().contains("pin"));
    }

    #[test]
    fn a_value_out_of_bounds_is_an_error_that_names_it() {
        let raw = RawConfig {
            data_dir: Some("/nowhere".into()),
            hsm: RawHsm {
                uri: Some("pkcs11:token=t?module-path=/m.so&pin-source=file:/p".into()),
                sessions: Some(HsmSettings::WORKERS_MAX + 1),
                ..RawHsm::default()
            },
            ..RawConfig::default()
        };
        let mut good = raw.clone();
        good.hsm.sessions = Some(HsmSettings::WORKERS_MAX);
        assert!(good.validate().is_ok());
        assert!(
            raw.validate()
                .expect_err("too many")
                .to_string()
                .starts_with("hsm.sessions")
        );
    }

    #[test]
    fn a_bucket_key_stays_in_memory_for_an_hour_at_most() {
        let seconds = |bucket_key_seconds| {
            let mut raw = RawConfig {
                data_dir: Some("/nowhere".into()),
                hsm: RawHsm {
                    uri: Some("pkcs11:token=t?module-path=/m.so&pin-source=file:/p".into()),
                    ..RawHsm::default()
                },
                ..RawConfig::default()
            };
            raw.store.bucket_key_seconds = bucket_key_seconds;
            raw.validate()
                .map(|config| config.store.bucket_key_lifetime.as_secs())
        };
        assert_eq!(seconds(0).expect("none at all"), 0);
        assert_eq!(seconds(3600).expect("an hour"), 3600);
        let error = seconds(3601).expect_err("longer").to_string();
        assert!(error.starts_with("store.bucket_key_seconds"), "{error}");
    }

    #[test]
    fn a_pin_in_the_uri_is_refused() {
        let raw = RawConfig {
            data_dir: Some("/nowhere".into()),
            hsm: RawHsm {
                uri: Some("pkcs11:token=t?module-path=/m.so&pin-value=1234".into()),
                ..RawHsm::default()
            },
            ..RawConfig::default()
        };
        let error = raw.validate().expect_err("a PIN").to_string();
        assert!(
            error.contains("pin-value") && !error.contains("1234"),
            "{error}"
        );
    }

    #[test]
    fn a_further_account_needs_its_number_and_its_keys() {
        let read = |text: &str| {
            let text = format!(
                "data_dir = \"/d\"\n[hsm]\nuri = \"pkcs11:token=t?module-path=/m.so&pin-source=file:/p\"\n{text}"
            );
            toml::from_str::<RawConfig>(&text)
                .expect("reads")
                .validate()
        };
        let good = "[[accounts]]\nid = \"210987654321\"\ncredentials_file = \"/c\"\n";
        let config = read(good).expect("good");
        let account = &config.accounts.first().expect("one").account;
        assert_eq!(account.display_name, "210987654321");
        for (bad, key) in [
            (good.replace("2109", "x"), "accounts[0].id"),
            (
                good.replace("credentials_file = \"/c\"", ""),
                "accounts[0].credentials_file",
            ),
            (
                format!("{good}canonical_id = \"AB\"\n"),
                "accounts[0].canonical_id",
            ),
            (
                format!("{good}display_name = \"\"\n"),
                "accounts[0].display_name",
            ),
        ] {
            let error = read(&bad).expect_err("bad").to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert!(toml::from_str::<RawConfig>(&format!("{good}secret = \"x\"\n")).is_err());
    }

    #[test]
    fn credentials_read_as_the_aws_cli_reads_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credentials");
        std::fs::write(&path, "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = c2VjcmV0c2VjcmV0\n")
            .expect("written");
        let credentials = read_credentials(&path).expect("read");
        assert!(credentials.secret("AKIDEXAMPLE").is_some());
        std::fs::write(&path, "[default]\naws_access_key_id = AKIDEXAMPLE\n").expect("written");
        assert!(read_credentials(&path).is_err());
    }
}
