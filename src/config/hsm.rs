//! Token groups: raw as typed, then meant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::tpm::{TpmConfig, TpmToken};
use strongroom_hsm::{GroupSettings, HsmGroup, HsmSettings, WrapScheme};

use super::{ConfigError, bounded, milliseconds, resolve_pin_source, secret_file, value};

/// The longest name of a token group.
pub const GROUP_NAME_CHARS_MAX: usize = 32;

/// Sessions with a PKCS#11 token.
const SESSIONS_DEFAULT: usize = 4;
const TPM_SCHEME: &str = "tpm2:";
const CLONE_WAIT_MS_DEFAULT: u64 = 10_000;

/// A token group, as typed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHsm {
    /// The token: an RFC 7512 URI `pkcs11:…` with token or serial, module-path and pin-source; or `tpm2:` and a TCTI.
    pub uri: Option<String>,
    /// Sessions with each token, each with a worker of its own: 4 for PKCS#11; a TPM has 1.
    pub sessions: Option<usize>,
    /// Calls that may wait.
    pub queue: usize,
    /// Longest wait for an answer, in milliseconds.
    pub deadline_ms: u64,
    /// Whether every wrap is decrypted back before it is acknowledged.
    pub verify_wraps: bool,
    /// PKCS#11: `process` loads the module into worker processes, `thread` into the server.
    pub isolation: Option<Isolation>,
    /// PKCS#11: how new keys wrap; found by trial without.
    pub scheme: Option<String>,
    /// PKCS#11: use a token that was seen to give away what it must not.
    pub allow_unsafe: bool,
    /// PKCS#11: what the module wants in the reserved field of its initialisation.
    pub init_args: Option<String>,
    /// Tokens in which a new backing key must work before it is used; all of them without.
    pub quorum: Option<usize>,
    /// Longest wait until the maker has cloned a new backing key, in milliseconds: 10,000 without.
    pub clone_wait_ms: Option<u64>,
    /// PKCS#11: environment that the module needs, such as `SOFTHSM2_CONF`.
    pub env: BTreeMap<String, String>,
    /// TPM 2.0.
    pub tpm: RawTpm,
    /// Further tokens that hold the same backing keys: the maker clones them.
    pub clones: Vec<RawClone>,
}

/// Where a module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Into a process for each session.
    Process,
    /// Into the server. A module that hangs or crashes takes it along.
    Thread,
}

/// What only a TPM has, as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTpm {
    /// File with the owner hierarchy's authorisation value; it is empty without.
    pub owner_auth: Option<String>,
    /// The name of the primary, as `strongroom hsm check` prints it.
    pub primary_name: Option<String>,
    /// AES key length, 128 or 256; found by trial without.
    pub aes_bits: Option<u16>,
    /// Refuse to make a key whose destruction would not be final.
    pub require_nv: bool,
    /// PCRs to which new keys are bound.
    pub pcrs: Vec<u8>,
    /// File with the public half of the offline key that may sign other PCR values.
    pub recovery_key: Option<PathBuf>,
    /// File with a policy that the recovery key has signed.
    pub recovery_policy: Option<PathBuf>,
}

/// A clone of the group's token, as typed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawClone {
    /// As the group's own.
    pub uri: String,
    /// Environment that the module needs, over the group's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl Default for RawHsm {
    fn default() -> Self {
        Self {
            uri: None,
            sessions: None,
            queue: 1024,
            deadline_ms: 5_000,
            verify_wraps: true,
            isolation: None,
            scheme: None,
            allow_unsafe: false,
            init_args: None,
            quorum: None,
            clone_wait_ms: None,
            env: BTreeMap::new(),
            tpm: RawTpm::default(),
            clones: Vec::new(),
        }
    }
}

/// A token group, as meant.
#[derive(Debug, Clone)]
pub struct HsmConfig {
    /// Its tokens. Never empty.
    pub tokens: Vec<TokenConfig>,
    /// How each token is driven.
    pub settings: HsmSettings,
    /// How keys get into all of them.
    pub group: GroupSettings,
}

/// A token.
#[derive(Debug, Clone)]
pub enum TokenConfig {
    /// Behind a PKCS#11 module.
    Pkcs11 {
        /// Which, and how it is used.
        config: Pkcs11Config,
        /// Where its module is loaded.
        isolation: Isolation,
        /// The environment that its module needs.
        env: BTreeMap<String, String>,
    },
    /// A TPM 2.0.
    Tpm(TpmConfig),
}

impl RawHsm {
    /// Checks every value; `at` is where the group stands, `hsm` or `groups.NAME`.
    pub(super) fn validate(self, at: &str) -> Result<HsmConfig, ConfigError> {
        let key = |name: &str| format!("{at}.{name}");
        let uri = self
            .uri
            .as_deref()
            .ok_or_else(|| value(key("uri"), "is not set"))?;
        let (tokens, sessions_default, sessions_max) =
            if let Some(tcti) = uri.strip_prefix(TPM_SCHEME) {
                let tokens = vec![TokenConfig::Tpm(self.tpm(at, tcti)?)];
                (tokens, TpmToken::WORKERS, TpmToken::WORKERS)
            } else {
                let tokens = self.pkcs11(at, uri)?;
                (tokens, SESSIONS_DEFAULT, HsmSettings::WORKERS_MAX)
            };
        let sessions = self.sessions.unwrap_or(sessions_default);
        let settings = HsmSettings {
            workers: bounded(key("sessions"), sessions, 1..=sessions_max)?,
            queue: bounded(key("queue"), self.queue, 1..=HsmSettings::QUEUE_MAX)?,
            deadline: milliseconds(key("deadline_ms"), self.deadline_ms)?,
            verify_wraps: self.verify_wraps,
        };
        let quorum = self.quorum.unwrap_or(tokens.len());
        if self.clone_wait_ms.is_some() && tokens.len() == 1 {
            return Err(value(key("clone_wait_ms"), "is for a group with clones"));
        }
        let clone_wait = self.clone_wait_ms.unwrap_or(CLONE_WAIT_MS_DEFAULT);
        let clone_wait = bounded(key("clone_wait_ms"), clone_wait, 0..=60_000)?;
        let group = GroupSettings {
            quorum: bounded(key("quorum"), quorum, 1..=tokens.len())?,
            clone_wait: Duration::from_millis(clone_wait),
        };
        Ok(HsmConfig {
            tokens,
            settings,
            group,
        })
    }

    fn pkcs11(&self, at: &str, uri: &str) -> Result<Vec<TokenConfig>, ConfigError> {
        let key = |name: &str| format!("{at}.{name}");
        if self.tpm != RawTpm::default() {
            return Err(value(key("tpm"), "is for a uri that begins with tpm2:"));
        }
        let scheme = match self.scheme.as_deref() {
            None => None,
            Some(name) => Some(scheme(name).ok_or_else(|| {
                let names: Vec<_> = schemes().map(WrapScheme::name).collect();
                value(key("scheme"), format!("is one of {}", names.join(", ")))
            })?),
        };
        let all = 1 + self.clones.len();
        bounded(key("clones"), all, 1..=HsmGroup::MEMBERS_MAX)?;
        let twice = self.clones.iter().enumerate().any(|(index, clone)| {
            let before = self.clones.iter().take(index);
            (clone.uri == uri && clone.env.is_empty())
                || before.into_iter().any(|other| other == clone)
        });
        if twice {
            let message = "a token stands twice: its loss would be that of two";
            return Err(value(key("clones"), message));
        }
        let own = (key("uri"), uri, &BTreeMap::new());
        let clones = self.clones.iter();
        let clones = clones.map(|clone| (key("clones"), clone.uri.as_str(), &clone.env));
        std::iter::once(own)
            .chain(clones)
            .map(|(at, uri, over)| {
                let config = Pkcs11Config::from_uri(&resolve_pin_source(&at, uri)?)
                    .map_err(|error| value(at, error.to_string()))?;
                let mut env = self.env.clone();
                env.extend(over.clone());
                Ok(TokenConfig::Pkcs11 {
                    config: Pkcs11Config {
                        scheme,
                        allow_unsafe: self.allow_unsafe,
                        init_args: self.init_args.clone(),
                        ..config
                    },
                    isolation: self.isolation.unwrap_or(Isolation::Process),
                    env,
                })
            })
            .collect()
    }

    fn tpm(&self, at: &str, tcti: &str) -> Result<TpmConfig, ConfigError> {
        let key = |name: &str| format!("{at}.{name}");
        for (name, is_set) in [
            ("isolation", self.isolation.is_some()),
            ("scheme", self.scheme.is_some()),
            ("allow_unsafe", self.allow_unsafe),
            ("init_args", self.init_args.is_some()),
            ("env", !self.env.is_empty()),
            // Keys of a TPM are of that TPM alone.
            ("clones", !self.clones.is_empty()),
            ("quorum", self.quorum.is_some()),
            ("clone_wait_ms", self.clone_wait_ms.is_some()),
        ] {
            if is_set {
                return Err(value(key(name), "is for a uri that begins with pkcs11:"));
            }
        }
        let tpm = self.tpm.clone();
        let owner_auth = match tpm.owner_auth {
            Some(name) => Some(secret_file(&key("tpm.owner_auth"), &name)?),
            None => None,
        };
        let config = TpmConfig {
            tcti: tcti.to_owned(),
            owner_auth,
            primary_name: tpm.primary_name,
            aes_bits: tpm.aes_bits,
            require_nv: tpm.require_nv,
            pcrs: tpm.pcrs,
            recovery_key: tpm.recovery_key,
            recovery_policy: tpm.recovery_policy,
        };
        // What can never work is an error of the configuration, and not of the first request.
        TpmToken::new(&config).map_err(|error| value(key("uri"), error.to_string()))?;
        Ok(config)
    }
}

/// The schemes of PKCS#11 tokens.
fn schemes() -> impl Iterator<Item = WrapScheme> {
    let all = WrapScheme::ALL.into_iter();
    all.filter(|scheme| *scheme != WrapScheme::TpmSealed)
}

fn scheme(name: &str) -> Option<WrapScheme> {
    schemes().find(|scheme| scheme.name() == name)
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

/// Refuses two groups on one TPM: each would flush what the other has loaded.
pub(super) fn check_tpms<'a>(
    groups: impl Iterator<Item = &'a HsmConfig>,
) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for token in groups.flat_map(|group| &group.tokens) {
        if let TokenConfig::Tpm(tpm) = token
            && !seen.insert(tpm.tcti.as_str())
        {
            return Err(value(
                "groups",
                format!("two token groups are on the TPM {}", tpm.tcti),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Isolation, RawHsm, TokenConfig};

    const TOKEN: &str = "uri = \"pkcs11:token=t?module-path=/m.so&pin-source=file:/p\"";

    fn read(text: &str) -> RawHsm {
        toml::from_str(text).expect("reads")
    }

    fn refused(text: &str) -> String {
        read(text)
            .validate("hsm")
            .expect_err("cannot be meant")
            .to_string()
    }

    #[test]
    fn a_module_is_loaded_into_processes_unless_told_otherwise() {
        for (more, isolation) in [
            ("", Isolation::Process),
            ("isolation = \"process\"", Isolation::Process),
            ("isolation = \"thread\"", Isolation::Thread),
        ] {
            let config = read(&format!("{TOKEN}\n{more}"))
                .validate("hsm")
                .expect("is meant");
            let [TokenConfig::Pkcs11 { isolation: is, .. }] = config.tokens.as_slice() else {
                panic!("{config:?}");
            };
            assert_eq!(*is, isolation);
            assert_eq!(config.settings.workers, 4);
        }
    }

    #[test]
    fn clones_are_members_with_an_environment_over_the_groups() {
        let text = format!(
            "{TOKEN}\nquorum = 1\n[env]\nA = \"1\"\nB = \"2\"\n[[clones]]\n{TOKEN}\nenv = {{ B = \"3\" }}\n"
        );
        let config = read(&text).validate("hsm").expect("is meant");
        let [_, TokenConfig::Pkcs11 { env, .. }] = config.tokens.as_slice() else {
            panic!("{config:?}");
        };
        let env: Vec<_> = env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(env, ["A=1", "B=3"]);
        assert_eq!(config.group.quorum, 1);
    }

    #[test]
    fn a_token_counts_once() {
        let said = refused(&format!("{TOKEN}\n[[clones]]\n{TOKEN}\n"));
        assert!(said.starts_with("hsm.clones"), "{said}");
        let clone = format!("[[clones]]\n{TOKEN}\nenv = {{ B = \"3\" }}\n");
        let said = refused(&format!("{TOKEN}\n{clone}{clone}"));
        assert!(said.starts_with("hsm.clones"), "{said}");
        let said = refused(&format!("{TOKEN}\nclone_wait_ms = 5"));
        assert!(said.starts_with("hsm.clone_wait_ms"), "{said}");
    }

    #[test]
    fn what_is_for_the_other_kind_of_token_is_refused() {
        let tpm = "uri = \"tpm2:device:/dev/tpmrm0\"";
        let config = read(tpm).validate("hsm").expect("is meant");
        assert_eq!(config.settings.workers, 1);
        for (more, key) in [
            ("isolation = \"thread\"", "hsm.isolation"),
            ("scheme = \"aes-gcm\"", "hsm.scheme"),
            ("allow_unsafe = true", "hsm.allow_unsafe"),
            ("sessions = 2", "hsm.sessions"),
            ("quorum = 1", "hsm.quorum"),
            ("[env]\nA = \"1\"", "hsm.env"),
            ("[tpm]\npcrs = [7]", "hsm.uri"),
        ] {
            let said = refused(&format!("{tpm}\n{more}"));
            assert!(said.starts_with(key), "{said}");
        }
        let said = refused(&format!("{TOKEN}\n[tpm]\nrequire_nv = true"));
        assert!(said.starts_with("hsm.tpm"), "{said}");
        let said = refused("uri = \"tpm2:cmd:sh\"");
        assert!(said.starts_with("hsm.uri"), "{said}");
    }

    #[test]
    fn one_tpm_is_one_group() {
        let group = |tcti: &str| {
            read(&format!("uri = \"tpm2:{tcti}\""))
                .validate("hsm")
                .expect("is meant")
        };
        let (one, two) = (group("device:/dev/tpmrm0"), group("device:/dev/tpmrm1"));
        assert!(super::check_tpms([&one, &two].into_iter()).is_ok());
        assert!(super::check_tpms([&one, &two, &one].into_iter()).is_err());
    }

    #[test]
    fn an_unknown_scheme_is_an_error_that_names_the_known_ones() {
        let said = refused(&format!("{TOKEN}\nscheme = \"rot13\""));
        assert!(
            said.starts_with("hsm.scheme") && said.contains("aes-kwp") && !said.contains("tpm"),
            "{said}"
        );
        let said = refused(&format!("{TOKEN}\nquorum = 2"));
        assert!(said.starts_with("hsm.quorum"), "{said}");
    }
}
