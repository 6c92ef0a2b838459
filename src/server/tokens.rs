//! From the configuration of token groups to their workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use strongroom_hsm::pkcs11::Pkcs11Token;
use strongroom_hsm::{HsmGroup, HsmHandle, HsmResult, Token};
use tracing::info;

use crate::config::{Config, HsmConfig};
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
    let members = open_tokens(config)
        .into_iter()
        .map(|token| HsmHandle::start(token, config.settings.clone()))
        .collect::<HsmResult<Vec<_>>>()?;
    HsmGroup::new(members, config.group.clone())
}

/// The tokens of a group, as configured. Touches none.
pub fn open_tokens(config: &HsmConfig) -> Vec<Arc<dyn Token>> {
    let open = |token: &_| Arc::new(Pkcs11Token::new(Clone::clone(token))) as Arc<dyn Token>;
    config.tokens.iter().map(open).collect()
}
