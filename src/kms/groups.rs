//! The token groups of the configuration: one default, any number of others by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use strongroom_hsm::{HsmError, HsmGroup};
use tokio::sync::Mutex;

use super::error::KmsError;

/// Letters of RFC 4648 base32, as AWS writes them in cluster ids.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Digits of a cluster id: 65 bits of the digest.
const CLUSTER_ID_CHARS: usize = 13;

/// The token groups of the configuration.
#[derive(Debug, Clone)]
pub struct TokenGroups {
    default: HsmGroup,
    named: BTreeMap<String, HsmGroup>,
    /// By group.
    making: Arc<BTreeMap<Option<String>, Making>>,
}

/// Turns of those who make keys in a group.
#[derive(Debug, Default)]
struct Making {
    /// One at a time makes a backing key that others may want too.
    shared: Mutex<()>,
    /// One at a time makes a pair, or tries whether it could: the search for the primes of RSA takes a while, and the
    /// token's other sessions stay with the data. Nobody waits for it who makes no pair.
    pairs: Mutex<()>,
}

impl From<HsmGroup> for TokenGroups {
    fn from(default: HsmGroup) -> Self {
        Self::new(default, BTreeMap::new())
    }
}

impl TokenGroups {
    /// The default group, and the others by name.
    pub fn new(default: HsmGroup, named: BTreeMap<String, HsmGroup>) -> Self {
        let all = std::iter::once(None).chain(named.keys().cloned().map(Some));
        Self {
            making: Arc::new(all.map(|name| (name, Making::default())).collect()),
            default,
            named,
        }
    }

    /// The group of keys that are in no custom key store, of internal keys among them.
    pub fn default_group(&self) -> &HsmGroup {
        &self.default
    }

    /// Every group but the default one.
    pub fn named(&self) -> impl Iterator<Item = (&str, &HsmGroup)> {
        self.named
            .iter()
            .map(|(name, group)| (name.as_str(), group))
    }

    /// Shuts all groups down at the same time.
    pub async fn shutdown(&self) {
        let mut endings = tokio::task::JoinSet::new();
        for group in std::iter::once(&self.default).chain(self.named.values()) {
            let group = group.clone();
            endings.spawn(async move { group.shutdown().await });
        }
        while endings.join_next().await.is_some() {}
    }

    /// The group that was recorded under this name; none is the default one.
    pub(super) fn recorded(&self, name: Option<&str>) -> Result<&HsmGroup, KmsError> {
        match name {
            None => Ok(&self.default),
            Some(name) => self.named.get(name).ok_or_else(|| {
                KmsError::Unavailable(HsmError::Config(format!(
                    "the token group {name} is not in the configuration"
                )))
            }),
        }
    }

    /// The lock of those who make backing keys that others may want too in the group of this name; none is the default
    /// one.
    pub(super) fn making(&self, name: Option<&str>) -> Result<&Mutex<()>, KmsError> {
        self.makers(name).map(|making| &making.shared)
    }

    /// The lock of those who make pairs there.
    pub(super) fn making_pairs(&self, name: Option<&str>) -> Result<&Mutex<()>, KmsError> {
        self.makers(name).map(|making| &making.pairs)
    }

    fn makers(&self, name: Option<&str>) -> Result<&Making, KmsError> {
        self.making
            .get(&name.map(str::to_owned))
            .ok_or(KmsError::internal("a group without a lock"))
    }

    pub(super) fn of_cluster(&self, cluster_id: &str) -> Option<&str> {
        let mut names = self.named.keys().map(String::as_str);
        names.find(|name| cluster_id_of(name) == cluster_id)
    }
}

/// The `CloudHsmClusterId` of a token group: `cluster-` and 13 base32 digits of the SHA-256 of its name.
pub fn cluster_id_of(group: &str) -> String {
    let digest = digest::digest(&digest::SHA256, group.as_bytes());
    let mut bits = digest
        .as_ref()
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let digits = (0..CLUSTER_ID_CHARS).map(|_| {
        let index = bits.by_ref().take(5).fold(0, |index, bit| index << 1 | bit);
        char::from(*BASE32.get(usize::from(index)).unwrap_or(&b'a'))
    });
    std::iter::once("cluster-".to_owned())
        .chain(digits.map(String::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::cluster_id_of;

    #[test]
    fn a_cluster_id_has_the_form_of_aws_and_stays() {
        assert_eq!(cluster_id_of("payroll"), cluster_id_of("payroll"));
        assert_ne!(cluster_id_of("payroll"), cluster_id_of("payrolls"));
        let id = cluster_id_of("payroll");
        let digits = id.strip_prefix("cluster-").expect("the prefix");
        assert_eq!(digits.len(), 13);
        assert!(
            digits
                .bytes()
                .all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
        );
        // SHA-256 of the empty string begins with e3b0c44298fc1c14.
        assert_eq!(cluster_id_of(""), "cluster-4oymiquy7qobj");
    }
}
