//! From the configuration of token groups to their workers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use strongroom_hsm::pkcs11::Pkcs11Token;
use strongroom_hsm::process::{ProcessSettings, ProcessToken};
use strongroom_hsm::tpm::TpmToken;
use strongroom_hsm::{HsmGroup, HsmHandle, HsmResult, Token};
use tracing::info;

use crate::config::{Config, HsmConfig, Isolation, TokenConfig};
use crate::kms::{TokenGroups, cluster_id_of};

/// Starts the workers of every group. No token needs to be there.
///
/// # Errors
///
/// As [`HsmHandle::start`].
pub fn start_groups(config: &Config) -> HsmResult<TokenGroups> {
    let default = start(&config.hsm)?;
    let mut named = BTreeMap::new();
    for (name, group) in &config.groups {
        info!(
            event = "server.token_group",
            name,
            cluster_id = cluster_id_of(name),
            tokens = group.tokens.len(),
        );
        named.insert(name.clone(), start(group)?);
    }
    Ok(TokenGroups::new(default, named))
}

fn start(config: &HsmConfig) -> HsmResult<HsmGroup> {
    let members = open_tokens(config)?
        .into_iter()
        .map(|token| HsmHandle::start(token, config.settings.clone()))
        .collect::<HsmResult<Vec<_>>>()?;
    HsmGroup::new(members, config.group.clone())
}

/// The tokens of a group, as configured. Touches none.
///
/// # Errors
///
/// [`HsmError::Config`](strongroom_hsm::HsmError::Config), never for a configuration that was validated.
pub fn open_tokens(config: &HsmConfig) -> HsmResult<Vec<Arc<dyn Token>>> {
    let deadline = config.settings.deadline;
    let tokens = config.tokens.iter();
    tokens.map(|token| open_token(token, deadline)).collect()
}

fn open_token(token: &TokenConfig, deadline: Duration) -> HsmResult<Arc<dyn Token>> {
    Ok(match token {
        TokenConfig::Pkcs11 {
            config,
            isolation: Isolation::Thread,
            env: _set_for_the_whole_process,
        } => Arc::new(Pkcs11Token::new(config.clone())),
        TokenConfig::Pkcs11 {
            config,
            isolation: Isolation::Process,
            env,
        } => {
            let os = |text: &String| OsString::from(text);
            let settings = ProcessSettings {
                environment: env
                    .iter()
                    .map(|(name, value)| (os(name), os(value)))
                    .collect(),
                // So that a call whose worker hangs is repeated by another worker within its own deadline.
                call_deadline: deadline.mul_f64(0.4),
                start_deadline: deadline.mul_f64(0.8),
                ..ProcessSettings::default()
            };
            Arc::new(ProcessToken::new(config.clone(), settings)?)
        }
        TokenConfig::Tpm(config) => Arc::new(TpmToken::new(config)?),
    })
}
