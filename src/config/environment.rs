//! What the environment says of the configuration: a few settings, and no name that nobody knows.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{ConfigError, RawConfig};

const LISTEN: &str = "STRONGROOM_LISTEN";
const DATA_DIR: &str = "STRONGROOM_DATA_DIR";
const REGION: &str = "STRONGROOM_REGION";
const CREDENTIALS_FILE: &str = "STRONGROOM_CREDENTIALS_FILE";
const HSM_URI: &str = "STRONGROOM_HSM_URI";
const LOG_FORMAT: &str = "STRONGROOM_LOG_FORMAT";
const LOG_LEVEL: &str = "STRONGROOM_LOG_LEVEL";
/// All settings that the environment has.
pub const SETTINGS: [&str; 7] = [
    LISTEN,
    DATA_DIR,
    REGION,
    CREDENTIALS_FILE,
    HSM_URI,
    LOG_FORMAT,
    LOG_LEVEL,
];
/// Where the configuration is.
pub const CONFIG: &str = "STRONGROOM_CONFIG";
/// Tells this program, started again, which directory it has made.
pub const LAID_OUT_DIR: &str = "STRONGROOM_LAID_OUT_DIR";
/// What an ephemeral server exports for who reads it, and no server does: its data, its token and its process.
pub const EPHEMERAL_EXPORTS: [&str; 3] = [
    "STRONGROOM_EPHEMERAL_DIR",
    "STRONGROOM_TOKEN_DIR",
    "STRONGROOM_PID",
];
/// What would make an ephemeral server another one: it makes its own token, its own access key and, where a flag does
/// not say where, its own directory, which it deletes.
const NOT_EPHEMERAL: [&str; 4] = [CONFIG, DATA_DIR, CREDENTIALS_FILE, HSM_URI];

impl RawConfig {
    /// Takes over what the environment says of [`SETTINGS`].
    ///
    /// # Errors
    ///
    /// [`ConfigError::Environment`], naming the variable.
    pub fn merge_environment(&mut self) -> Result<(), ConfigError> {
        check_variables(std::env::vars_os())?;
        let take = |name: &str, into: &mut String| {
            if let Some(value) = environment(name) {
                *into = value;
            }
        };
        take(LISTEN, &mut self.listen);
        take(REGION, &mut self.region);
        take(LOG_FORMAT, &mut self.log.format);
        take(LOG_LEVEL, &mut self.log.level);
        self.credentials_file = environment(CREDENTIALS_FILE).or(self.credentials_file.take());
        self.hsm.uri = environment(HSM_URI).or(self.hsm.uri.take());
        self.data_dir = environment(DATA_DIR)
            .map(PathBuf::from)
            .or(self.data_dir.take());
        Ok(())
    }

    /// As [`Self::merge_environment`], for an ephemeral server.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Environment`], also for what such a server has its own of.
    pub fn merge_ephemeral_environment(&mut self) -> Result<(), ConfigError> {
        if let Some(name) = NOT_EPHEMERAL
            .iter()
            .find(|name| environment(name).is_some())
        {
            return Err(variable(*name, "an ephemeral server has its own: unset it"));
        }
        self.merge_environment()
    }
}

/// An environment variable, if it is set and UTF-8.
pub fn environment(name: &str) -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    std::env::var(name).ok()
}

fn variable(name: impl Into<String>, message: impl Into<String>) -> ConfigError {
    ConfigError::Environment {
        name: name.into(),
        message: message.into(),
    }
}

/// Whether there is no variable of ours that nobody knows, and none that is not text.
fn check_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if !name.starts_with("STRONGROOM_") {
            continue;
        }
        let mut known = SETTINGS
            .into_iter()
            .chain([CONFIG, LAID_OUT_DIR])
            .chain(EPHEMERAL_EXPORTS);
        if !known.any(|known| known == name) {
            let known = SETTINGS.join(", ");
            return Err(variable(name, format!("is no setting; these are: {known}")));
        }
        if value.to_str().is_none() {
            return Err(variable(name, "is not UTF-8"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_nobody_knows_is_an_error_that_names_it() {
        use std::os::unix::ffi::OsStringExt as _;
        let check = |name: &str, value: &[u8]| {
            let value = OsString::from_vec(value.to_vec());
            check_variables([(OsString::from(name), value)].into_iter())
        };
        let known = [CONFIG, LAID_OUT_DIR].into_iter();
        for name in known.chain(SETTINGS).chain(EPHEMERAL_EXPORTS) {
            check(name, b"x").expect(name);
        }
        check("STRONGHOLD", b"x").expect("nobody's business");
        for (name, value) in [
            ("STRONGROOM_AUDIT_SYNC", &b"always"[..]),
            ("STRONGROOM_REGIONS", b""),
            (REGION, b"\xff"),
        ] {
            let error = check(name, value).expect_err(name).to_string();
            assert!(error.contains(&format!("{name}: is no")), "{error}");
        }
    }
}
