//! The audit, as typed and as meant.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, bounded, value};
use crate::audit::{AuditSettings, Durability, OnFailure};

/// The audit, as typed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAudit {
    /// Whether uses of keys and calls of the KMS API are recorded.
    pub enabled: bool,
    /// Where the records are; `audit` in the data directory without.
    pub dir: Option<PathBuf>,
    /// What becomes of key use while it cannot be recorded: `refuse` or `continue`.
    pub on_failure: String,
    /// When a record is on stable storage: `always`, before its answer leaves, or `interval`.
    ///
    /// `interval` is the default because reads flush nothing else: `ci/bench audit` shows a flush to cost many times the
    /// record, and what it buys is the last second before a loss of power.
    pub sync: String,
    /// The longest that a record is not on stable storage with `interval`, in milliseconds.
    pub sync_interval_ms: u64,
    /// The most MiB of a file; another begins then, and each day.
    pub file_mib: u64,
    /// A checkpoint is made after so many records.
    pub checkpoint_records: u64,
    /// A checkpoint is made so many seconds after the first record without one.
    pub checkpoint_s: u64,
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: None,
            on_failure: "refuse".into(),
            sync: "interval".into(),
            sync_interval_ms: 1000,
            file_mib: 64,
            checkpoint_records: 1000,
            checkpoint_s: 60,
        }
    }
}

impl RawAudit {
    /// Where the records are, with this data directory.
    pub fn dir(&self, data_dir: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| data_dir.join("audit"))
    }

    /// Checks every value. Nothing: there is no audit.
    pub(super) fn validate(self, data_dir: &Path) -> Result<Option<AuditSettings>, ConfigError> {
        let interval = Duration::from_millis(bounded(
            "audit.sync_interval_ms",
            self.sync_interval_ms,
            1..=60_000,
        )?);
        let durability = match self.sync.as_str() {
            "always" => Durability::Always,
            "interval" => Durability::Interval(interval),
            other => return Err(neither("audit.sync", other, "interval", "always")),
        };
        let on_failure = match self.on_failure.as_str() {
            "refuse" => OnFailure::Refuse,
            "continue" => OnFailure::Continue,
            other => return Err(neither("audit.on_failure", other, "refuse", "continue")),
        };
        let settings = AuditSettings {
            dir: self.dir(data_dir),
            durability,
            on_failure,
            file_bytes_max: bounded("audit.file_mib", self.file_mib, 1..=65_536)? << 20,
            checkpoint_records: bounded(
                "audit.checkpoint_records",
                self.checkpoint_records,
                1..=50_000,
            )?,
            checkpoint_interval: Duration::from_secs(bounded(
                "audit.checkpoint_s",
                self.checkpoint_s,
                1..=86_400,
            )?),
        };
        Ok(self.enabled.then_some(settings))
    }
}

fn neither(key: &str, given: &str, one: &str, other: &str) -> ConfigError {
    value(key, format!("{given:?} is neither {one} nor {other}"))
}
