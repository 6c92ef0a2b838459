//! Key stores: where a key's backing keys are.
//!
//! The configuration names token groups: one default, any number of others. The API can put a custom key store on a
//! group, by the cluster id that we derive from the group's name, and keys into the store. It can name neither a
//! module nor a PIN: that would be loading code from afar.
//!
//! All custom key stores stand in one row, since their names and groups are each given once, and since a store may go
//! only when nothing is in it: every batch that puts a backing key into a store, or takes one out, counts it there.
//!
//! A key whose store is disconnected is unavailable. Its state does not change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use minicbor::{Decode, Encode};
use strongroom_hsm::{HsmError, HsmGroup, State};
use tokio::sync::Mutex;

use super::error::{KeyStoreError, KmsError, WrongState};
use super::key::{BackingRecord, KeyRecord, Owner, Timestamp};
use super::table::{self, Loaded, Rows};
use super::{COMMIT_ATTEMPTS_MAX, Kms, check_proof_of};
use crate::auth::{Authorised, Resource};
use crate::meta::{Batch, table as tables};

/// The most custom key stores.
pub const KEY_STORES_MAX: usize = 100;
/// The longest name of a key store, in characters.
pub const KEY_STORE_NAME_CHARS_MAX: usize = 256;

/// Letters of RFC 4648 base32, as AWS writes them in cluster ids.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Digits of a cluster id: 65 bits of the digest.
const CLUSTER_ID_CHARS: usize = 13;

/// The token groups of the configuration.
#[derive(Debug, Clone)]
pub struct TokenGroups {
    default: HsmGroup,
    named: BTreeMap<String, HsmGroup>,
    /// By group: one at a time makes a backing key that others may want too.
    making: Arc<BTreeMap<Option<String>, Mutex<()>>>,
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
            making: Arc::new(all.map(|name| (name, Mutex::default())).collect()),
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

    /// The lock of those who make backing keys in the group of this name; none is the default one.
    pub(super) fn making(&self, name: Option<&str>) -> Result<&Mutex<()>, KmsError> {
        self.making
            .get(&name.map(str::to_owned))
            .ok_or(KmsError::internal("a group without a lock"))
    }

    fn of_cluster(&self, cluster_id: &str) -> Option<&str> {
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

/// Names a custom key store for ever: `cks-` and 17 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct KeyStoreId(#[n(0)] String);

impl KeyStoreId {
    const HEX_DIGITS: usize = 17;

    fn random() -> Self {
        let digits: String = uuid::Uuid::new_v4().simple().to_string();
        Self(format!(
            "cks-{}",
            digits.get(..Self::HEX_DIGITS).unwrap_or_default()
        ))
    }

    /// Reads an id. What is not one names no key store.
    pub fn parse(text: &str) -> Result<Self, KmsError> {
        let digits = text.strip_prefix("cks-").unwrap_or_default();
        if digits.len() != Self::HEX_DIGITS
            || !digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(not_found(text));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KeyStoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is recorded of a custom key store.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct KeyStoreRecord {
    #[n(0)]
    id: KeyStoreId,
    #[n(1)]
    name: String,
    /// The token group, by its name in the configuration.
    #[n(2)]
    group: String,
    #[n(3)]
    created: Timestamp,
    #[n(4)]
    connected: bool,
    /// Backing keys in it, of all keys and versions.
    #[n(5)]
    backing_keys: u64,
    /// Groups that it was on before, which hold its backing keys, too. What is destroyed is destroyed there as well.
    #[cbor(n(6), default)]
    former_groups: Vec<String>,
}

/// The row of all custom key stores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
struct KeyStoresRecord {
    #[n(0)]
    stores: Vec<KeyStoreRecord>,
}

impl KeyStoresRecord {
    fn find(&self, id: &KeyStoreId) -> Result<&KeyStoreRecord, KmsError> {
        self.stores
            .iter()
            .find(|store| store.id == *id)
            .ok_or_else(|| not_found(&id.0))
    }

    fn find_mut(&mut self, id: &KeyStoreId) -> Result<&mut KeyStoreRecord, KmsError> {
        self.stores
            .iter_mut()
            .find(|store| store.id == *id)
            .ok_or_else(|| not_found(&id.0))
    }
}

/// The row as it was read, or that there is none.
pub(super) struct KeyStores {
    loaded: Option<Loaded<KeyStoresRecord>>,
    record: KeyStoresRecord,
}

impl KeyStores {
    async fn load(rows: &Rows) -> Result<Self, KmsError> {
        let loaded: Option<Loaded<KeyStoresRecord>> = rows.load("key stores", row()).await?;
        let record = loaded
            .as_ref()
            .map(|loaded| loaded.record.clone())
            .unwrap_or_default();
        Ok(Self { loaded, record })
    }

    /// Puts `record` in the place of what was read.
    fn replace(&self, rows: &Rows, record: &KeyStoresRecord) -> Batch {
        match &self.loaded {
            Some(loaded) => rows.replace(loaded, record),
            None => rows.insert(row(), record),
        }
    }
}

fn row() -> Vec<u8> {
    vec![tables::KMS_STORES]
}

/// Where backing keys of a store are made and used, as of now.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) hsm: HsmGroup,
    /// The group's name; none for the default one.
    pub(super) group: Option<String>,
    pub(super) store: Option<KeyStoreId>,
}

/// What is told of a custom key store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStoreEntry {
    /// Its id.
    pub id: KeyStoreId,
    /// Its name.
    pub name: String,
    /// The cluster id of its token group.
    pub cluster_id: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether its keys can be used.
    pub connection: Connection,
}

/// Whether the keys of a store can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// They can.
    Connected,
    /// The server has just started and knows nothing of the tokens yet.
    Connecting,
    /// They could, but no token of the group answers.
    Unreachable,
    /// They could, but the group is not in the configuration any more.
    NoGroup,
    /// An administrator says that they must not.
    Disconnected,
}

/// Where a key is, for its description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStoreOfKey {
    /// The store.
    pub id: KeyStoreId,
    /// The cluster id of its token group.
    pub cluster_id: String,
    /// Whether an administrator has disconnected it.
    pub disconnected: bool,
}

/// What to change of a custom key store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyStoreChange {
    /// Its new name.
    pub name: Option<String>,
    /// The cluster id of a group that holds the same backing keys.
    pub cluster_id: Option<String>,
}

const CREATE: &str = "kms:CreateCustomKeyStore";
const DESCRIBE: &str = "kms:DescribeCustomKeyStores";
const CONNECT: &str = "kms:ConnectCustomKeyStore";
const DISCONNECT: &str = "kms:DisconnectCustomKeyStore";
const UPDATE: &str = "kms:UpdateCustomKeyStore";
const DELETE: &str = "kms:DeleteCustomKeyStore";

impl Kms {
    /// Makes a custom key store on a token group. It is not connected.
    ///
    /// # Errors
    ///
    /// [`KeyStoreError`]; [`KmsError::LimitExceeded`] beyond [`KEY_STORES_MAX`].
    pub async fn create_key_store(
        &self,
        proof: &Authorised,
        name: &str,
        cluster_id: &str,
    ) -> Result<KeyStoreId, KmsError> {
        check_proof_of(proof, &[CREATE], &Resource::Service)?;
        let group = self.free_group(cluster_id)?;
        let id = KeyStoreId::random();
        self.update_key_stores(|record| {
            if record.stores.len() >= KEY_STORES_MAX {
                return Err(KmsError::LimitExceeded(format!(
                    "There are {KEY_STORES_MAX} custom key stores already"
                )));
            }
            check_free(record, None, Some(name), Some(&group))?;
            record.stores.push(KeyStoreRecord {
                id: id.clone(),
                name: name.to_owned(),
                group: group.clone(),
                created: self.now(),
                connected: false,
                backing_keys: 0,
                former_groups: Vec::new(),
            });
            Ok(())
        })
        .await?;
        tracing::info!(event = "kms.key_store.created", key_store = %id, name, group);
        Ok(id)
    }

    /// All custom key stores, oldest first.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn key_stores(&self, proof: &Authorised) -> Result<Vec<KeyStoreEntry>, KmsError> {
        check_proof_of(proof, &[DESCRIBE], &Resource::Service)?;
        let stores = KeyStores::load(&self.rows().await?).await?.record.stores;
        Ok(stores
            .into_iter()
            .map(|store| KeyStoreEntry {
                connection: self.connection(&store),
                cluster_id: cluster_id_of(&store.group),
                id: store.id,
                name: store.name,
                created: store.created,
            })
            .collect())
    }

    /// Lets the keys of a store be used. The tokens must answer.
    ///
    /// # Errors
    ///
    /// [`KeyStoreError::NotFound`]; by the HSM.
    pub async fn connect_key_store(
        &self,
        proof: &Authorised,
        id: &KeyStoreId,
    ) -> Result<(), KmsError> {
        check_proof_of(proof, &[CONNECT], &Resource::Service)?;
        let stores = KeyStores::load(&self.rows().await?).await?.record;
        let group = stores.find(id)?.group.clone();
        let hsm = self.groups.recorded(Some(&group))?;
        hsm.info().await.map_err(KmsError::hsm)?;
        self.set_connected(id, true).await
    }

    /// Lets the keys of a store not be used: a switch for an emergency.
    ///
    /// # Errors
    ///
    /// [`KeyStoreError::NotFound`]; [`KeyStoreError::InvalidState`] when it is disconnected already.
    pub async fn disconnect_key_store(
        &self,
        proof: &Authorised,
        id: &KeyStoreId,
    ) -> Result<(), KmsError> {
        check_proof_of(proof, &[DISCONNECT], &Resource::Service)?;
        self.set_connected(id, false).await
    }

    async fn set_connected(&self, id: &KeyStoreId, connected: bool) -> Result<(), KmsError> {
        self.update_key_stores(|record| {
            let store = record.find_mut(id)?;
            if !connected && !store.connected {
                return Err(KeyStoreError::InvalidState("it is disconnected").into());
            }
            store.connected = connected;
            Ok(())
        })
        .await?;
        tracing::info!(event = "kms.key_store.connection", key_store = %id, connected);
        Ok(())
    }

    /// Renames a store that is disconnected, or puts it on another group that holds the same backing keys: every one of
    /// them is looked for there first. The former group goes on holding them until they are destroyed in both.
    ///
    /// # Errors
    ///
    /// [`KeyStoreError`]; by the HSM.
    pub async fn update_key_store(
        &self,
        proof: &Authorised,
        id: &KeyStoreId,
        change: &KeyStoreChange,
    ) -> Result<(), KmsError> {
        check_proof_of(proof, &[UPDATE], &Resource::Service)?;
        let group = match &change.cluster_id {
            Some(cluster_id) => Some(self.free_group(cluster_id)?),
            None => None,
        };
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let stores = KeyStores::load(&rows).await?;
            let mut record = stores.record.clone();
            check_free(&record, Some(id), change.name.as_deref(), group.as_deref())?;
            let store = record.find_mut(id)?;
            if store.connected {
                return Err(KeyStoreError::InvalidState("disconnect it first").into());
            }
            if let Some(name) = &change.name {
                store.name.clone_from(name);
            }
            if let Some(group) = &group {
                self.check_holds(&rows, id, group).await?;
                store.former_groups.retain(|former| former != group);
                let former = std::mem::replace(&mut store.group, group.clone());
                if former != *group && !store.former_groups.contains(&former) {
                    store.former_groups.push(former);
                }
            }
            if self.commit(stores.replace(&rows, &record)).await? {
                tracing::info!(event = "kms.key_store.updated", key_store = %id, group);
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    /// Deletes a store that is disconnected and empty.
    ///
    /// # Errors
    ///
    /// [`KeyStoreError`].
    pub async fn delete_key_store(
        &self,
        proof: &Authorised,
        id: &KeyStoreId,
    ) -> Result<(), KmsError> {
        check_proof_of(proof, &[DELETE], &Resource::Service)?;
        self.update_key_stores(|record| {
            let store = record.find(id)?;
            if store.connected {
                return Err(KeyStoreError::InvalidState("disconnect it first").into());
            }
            if store.backing_keys > 0 {
                return Err(KeyStoreError::HasKeys.into());
            }
            record.stores.retain(|store| store.id != *id);
            Ok(())
        })
        .await?;
        tracing::info!(event = "kms.key_store.deleted", key_store = %id);
        Ok(())
    }

    /// Where backing keys of a connected store are made.
    pub(super) async fn place_for(&self, store: Option<&KeyStoreId>) -> Result<Place, KmsError> {
        let Some(id) = store else {
            return Ok(self.default_place());
        };
        let stores = KeyStores::load(&self.rows().await?).await?.record;
        let store = stores.find(id)?;
        if !store.connected {
            return Err(KeyStoreError::InvalidState("it is disconnected").into());
        }
        Ok(Place {
            hsm: self.groups.recorded(Some(&store.group))?.clone(),
            group: Some(store.group.clone()),
            store: Some(id.clone()),
        })
    }

    pub(super) fn default_place(&self) -> Place {
        Place {
            hsm: self.groups.default_group().clone(),
            group: None,
            store: None,
        }
    }

    /// The tokens that hold a backing key of `owner`, if its store is connected.
    pub(super) async fn hsm_of(
        &self,
        rows: &Rows,
        owner: &Owner,
        backing: &BackingRecord,
    ) -> Result<&HsmGroup, KmsError> {
        let Some(id) = &backing.store else {
            return Ok(self.groups.default_group());
        };
        let stores = KeyStores::load(rows).await?.record;
        let store = stores
            .find(id)
            .map_err(|_missing| KmsError::Damaged("the key store of a backing key is missing"))?;
        if !store.connected {
            return Err(match owner {
                Owner::Key(arn) => KmsError::InvalidState {
                    arn: arn.clone(),
                    state: WrongState::Unavailable,
                },
                Owner::Internal(_) => KmsError::internal("an internal key is in a custom store"),
            });
        }
        self.groups.recorded(Some(&store.group))
    }

    /// The name of the token group that a backing key is in; none is the default one.
    pub(super) async fn group_name_of(
        &self,
        rows: &Rows,
        backing: &BackingRecord,
    ) -> Result<Option<String>, KmsError> {
        let Some(id) = &backing.store else {
            return Ok(None);
        };
        let stores = KeyStores::load(rows).await?.record;
        Ok(Some(stores.find(id)?.group.clone()))
    }

    /// All tokens that may hold a backing key of `owner`: those of groups that its store was on before, too.
    pub(super) async fn all_hsms_of(
        &self,
        rows: &Rows,
        owner: &Owner,
        backing: &BackingRecord,
    ) -> Result<Vec<&HsmGroup>, KmsError> {
        let mut hsms = vec![self.hsm_of(rows, owner, backing).await?];
        if let Some(id) = &backing.store {
            let stores = KeyStores::load(rows).await?.record;
            for former in &stores.find(id)?.former_groups {
                match self.groups.recorded(Some(former)) {
                    Ok(hsm) => hsms.push(hsm),
                    // Its tokens were taken out of service, and what they hold is the operator's to destroy.
                    Err(_not_configured) => tracing::warn!(
                        event = "kms.backing_key.elsewhere",
                        backing_key = %backing.id(),
                        group = former,
                        "a token group that is not in the configuration any more may hold this key"
                    ),
                }
            }
        }
        Ok(hsms)
    }

    /// What a key's description says of its store.
    pub(super) async fn store_of_key(
        &self,
        rows: &Rows,
        record: &KeyRecord,
    ) -> Result<Option<KeyStoreOfKey>, KmsError> {
        let Some(id) = &record.store else {
            return Ok(None);
        };
        let stores = KeyStores::load(rows).await?.record;
        let store = stores
            .find(id)
            .map_err(|_missing| KmsError::Damaged("the key store of a key is missing"))?;
        Ok(Some(KeyStoreOfKey {
            id: id.clone(),
            cluster_id: cluster_id_of(&store.group),
            disconnected: !store.connected,
        }))
    }

    /// Counts a backing key that was made at `place` into its store, in the batch that records it. A store that has
    /// gone meanwhile, was disconnected or is on another group now takes none.
    pub(super) async fn count_in(&self, rows: &Rows, place: &Place) -> Result<Batch, KmsError> {
        let Some(id) = &place.store else {
            return Ok(Batch::new());
        };
        let stores = KeyStores::load(rows).await?;
        let mut record = stores.record.clone();
        let store = record.find_mut(id)?;
        if !store.connected || place.group.as_ref() != Some(&store.group) {
            return Err(KeyStoreError::InvalidState("it has changed meanwhile").into());
        }
        store.backing_keys += 1;
        Ok(stores.replace(rows, &record))
    }

    /// Counts backing keys out of their stores, in the batch that deletes their records.
    pub(super) async fn count_out(
        &self,
        rows: &Rows,
        out_of: &[KeyStoreId],
    ) -> Result<Batch, KmsError> {
        if out_of.is_empty() {
            return Ok(Batch::new());
        }
        let stores = KeyStores::load(rows).await?;
        let mut record = stores.record.clone();
        for id in out_of {
            let store = record.find_mut(id)?;
            store.backing_keys = store.backing_keys.saturating_sub(1);
        }
        Ok(stores.replace(rows, &record))
    }

    async fn update_key_stores(
        &self,
        change: impl Fn(&mut KeyStoresRecord) -> Result<(), KmsError>,
    ) -> Result<(), KmsError> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let stores = KeyStores::load(&rows).await?;
            let mut record = stores.record.clone();
            change(&mut record)?;
            if self.commit(stores.replace(&rows, &record)).await? {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    fn free_group(&self, cluster_id: &str) -> Result<String, KmsError> {
        let group = self.groups.of_cluster(cluster_id);
        group
            .map(str::to_owned)
            .ok_or_else(|| KeyStoreError::ClusterNotFound(cluster_id.to_owned()).into())
    }

    /// Looks for every backing key of a store in another group.
    async fn check_holds(&self, rows: &Rows, id: &KeyStoreId, group: &str) -> Result<(), KmsError> {
        let hsm = self.groups.recorded(Some(group))?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let range = table::rows_after(tables::KMS_BACKING, after.as_deref());
            let found = rows.scan(&range, SCAN_STEP).await?;
            let full = found.len() == SCAN_STEP;
            after = found
                .last()
                .map(|(row, _)| row.iter().skip(1).copied().collect());
            let mut keys = Vec::new();
            for row in found {
                let backing: BackingRecord = rows.open("backing key", row)?.record;
                if backing.store.as_ref() == Some(id) {
                    keys.push(backing.backing_key()?);
                }
            }
            hsm.holds(&keys).await.map_err(|error| match error {
                HsmError::KeyNotFound(_) | HsmError::Unfit { .. } => {
                    KeyStoreError::ClusterNotRelated.into()
                }
                other => KmsError::hsm(other),
            })?;
            if !full {
                return Ok(());
            }
        }
    }

    fn connection(&self, store: &KeyStoreRecord) -> Connection {
        let group = self.groups.recorded(Some(&store.group));
        match (store.connected, group.map(HsmGroup::state)) {
            (false, _) => Connection::Disconnected,
            (true, Ok(State::Ready)) => Connection::Connected,
            (true, Ok(State::Unknown)) => Connection::Connecting,
            (true, Ok(State::Down | State::Hung)) => Connection::Unreachable,
            (true, Err(_not_configured)) => Connection::NoGroup,
        }
    }
}

/// Backing keys read in one go.
const SCAN_STEP: usize = 500;

/// Checks that nobody else than `own` has the name or the group.
fn check_free(
    record: &KeyStoresRecord,
    own: Option<&KeyStoreId>,
    name: Option<&str>,
    group: Option<&str>,
) -> Result<(), KmsError> {
    for store in &record.stores {
        if own == Some(&store.id) {
            continue;
        }
        if name == Some(store.name.as_str()) {
            return Err(KeyStoreError::NameInUse(store.name.clone()).into());
        }
        if group == Some(store.group.as_str()) {
            return Err(KeyStoreError::ClusterInUse(cluster_id_of(&store.group)).into());
        }
    }
    Ok(())
}

fn not_found(id: &str) -> KmsError {
    KeyStoreError::NotFound(id.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::{KeyStoreId, cluster_id_of};

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

    #[test]
    fn an_id_reads_back_and_nothing_else_does() {
        let id = KeyStoreId::random();
        assert_eq!(KeyStoreId::parse(&id.to_string()).expect("an id"), id);
        for text in [
            "",
            "cks-",
            "cks-1234567890abcdef",
            "cks-1234567890ABCDEF0",
            "cks-1234567890abcdef01",
        ] {
            assert!(KeyStoreId::parse(text).is_err(), "{text}");
        }
    }
}
