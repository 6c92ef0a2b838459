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

mod place;
mod record;

use strongroom_hsm::{HsmError, HsmGroup, State};

pub use place::KeyStoreOfKey;
pub(super) use place::Place;
pub use record::KeyStoreId;

use super::error::{KeyStoreError, KmsError};
use super::groups::cluster_id_of;
use super::key::{BackingRecord, Timestamp};
use super::table::{self, Rows};
use super::{COMMIT_ATTEMPTS_MAX, Kms, check_proof_of};
use crate::auth::{AccountId, Authorised, Resource};
use crate::meta::table as tables;
use record::{KeyStoreRecord, KeyStores, KeyStoresRecord, check_free};

/// The most custom key stores.
pub const KEY_STORES_MAX: usize = 100;
/// The longest name of a key store, in characters.
pub const KEY_STORE_NAME_CHARS_MAX: usize = 256;

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

    /// Checks that keys of an account may be made in a store: they are the operator's, and of the first account only.
    pub(super) fn check_store_for(
        &self,
        account: &AccountId,
        store: Option<&KeyStoreId>,
    ) -> Result<(), KmsError> {
        match store {
            Some(store) if account != self.account() => {
                Err(KeyStoreError::NotFound(store.to_string()).into())
            }
            _ => Ok(()),
        }
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
            let (mut keys, mut tools) = (Vec::new(), Vec::new());
            for row in found {
                let backing: BackingRecord = rows.open("backing key", row)?.record;
                if backing.store.as_ref() == Some(id) {
                    match backing.tool_key() {
                        Ok(tool) => tools.push(tool),
                        Err(_wraps) => keys.push(backing.backing_key()?),
                    }
                }
            }
            let mut holds = hsm.holds(&keys).await;
            for tool in &tools {
                holds = match holds {
                    Ok(()) => hsm.holds_tool(tool).await,
                    missing => missing,
                };
            }
            holds.map_err(|error| match error {
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
