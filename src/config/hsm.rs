//! Token groups: raw as typed, then meant.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::{GroupSettings, HsmGroup, HsmSettings};

use super::{ConfigError, bounded, milliseconds, resolve_pin_source, value};

/// The longest name of a token group.
pub const GROUP_NAME_CHARS_MAX: usize = 32;

/// A token group, as typed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHsm {
    /// RFC 7512 URI: token, serial, module-path, pin-source.
    pub uri: Option<String>,
    /// URIs of further tokens that hold the same backing keys: the maker clones them.
    pub clones: Vec<String>,
    /// Tokens in which a new backing key must work before it is used; all of them without.
    pub quorum: Option<usize>,
    /// Longest wait until the maker has cloned a new backing key, in milliseconds.
    pub clone_wait_ms: u64,
    /// Sessions with each token, each with a thread of its own.
    pub sessions: usize,
    /// Calls that may wait.
    pub queue: usize,
    /// Longest wait for an answer, in milliseconds.
    pub deadline_ms: u64,
    /// Whether every wrap is decrypted back before it is acknowledged.
    pub verify_wraps: bool,
    /// Environment that the module needs, such as `SOFTHSM2_CONF`.
    pub env: BTreeMap<String, String>,
}

impl Default for RawHsm {
    fn default() -> Self {
        Self {
            uri: None,
            clones: Vec::new(),
            quorum: None,
            clone_wait_ms: 10_000,
            sessions: 4,
            queue: 1024,
            deadline_ms: 5_000,
            verify_wraps: true,
            env: BTreeMap::new(),
        }
    }
}

/// A token group, as meant.
#[derive(Debug, Clone)]
pub struct HsmConfig {
    /// Its tokens. Never empty.
    pub tokens: Vec<Pkcs11Config>,
    /// Environment that the module needs.
    pub env: BTreeMap<String, String>,
    /// How each token is driven.
    pub settings: HsmSettings,
    /// How keys get into all of them.
    pub group: GroupSettings,
}

impl RawHsm {
    /// Checks every value; `at` is where the group stands, `hsm` or `groups.NAME`.
    pub(super) fn validate(self, at: &str) -> Result<HsmConfig, ConfigError> {
        let key = |name: &str| format!("{at}.{name}");
        let uri = self.uri.ok_or_else(|| value(key("uri"), "is not set"))?;
        let mut tokens = vec![token(key("uri"), &uri)?];
        for clone in &self.clones {
            tokens.push(token(key("clones"), clone)?);
        }
        bounded(key("clones"), tokens.len(), 1..=HsmGroup::MEMBERS_MAX)?;
        let settings = HsmSettings {
            workers: bounded(key("sessions"), self.sessions, 1..=HsmSettings::WORKERS_MAX)?,
            queue: bounded(key("queue"), self.queue, 1..=HsmSettings::QUEUE_MAX)?,
            deadline: milliseconds(key("deadline_ms"), self.deadline_ms)?,
            verify_wraps: self.verify_wraps,
        };
        let quorum = self.quorum.unwrap_or(tokens.len());
        let clone_wait = Duration::from_millis(self.clone_wait_ms);
        let group = GroupSettings {
            quorum: bounded(key("quorum"), quorum, 1..=tokens.len())?,
            clone_wait: bounded(key("clone_wait_ms"), self.clone_wait_ms, 0..=60_000)
                .map(|_within| clone_wait)?,
        };
        Ok(HsmConfig {
            tokens,
            env: self.env,
            settings,
            group,
        })
    }
}

fn token(key: String, uri: &str) -> Result<Pkcs11Config, ConfigError> {
    Pkcs11Config::from_uri(&resolve_pin_source(&key, uri)?)
        .map_err(|error| value(key, error.to_string()))
}

/// A name of a group is part of the configuration's key and of log lines.
pub(super) fn check_group_name(name: &str) -> Result<(), ConfigError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=GROUP_NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(value(
        format!("groups.{name}"),
        format!("a name is 1 to {GROUP_NAME_CHARS_MAX} of A-Z a-z 0-9 - _"),
    ))
}
