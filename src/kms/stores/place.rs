//! Where backing keys are: made, used, counted.

use strongroom_hsm::HsmGroup;

use super::super::Kms;
use super::super::error::{KeyStoreError, KmsError, WrongState};
use super::super::groups::cluster_id_of;
use super::super::key::{BackingRecord, KeyRecord, Owner};
use super::super::table::Rows;
use super::record::{KeyStoreId, KeyStores};
use crate::meta::Batch;

/// Where backing keys of a store are made and used, as of now.
#[derive(Debug, Clone)]
pub(in crate::kms) struct Place {
    pub(in crate::kms) hsm: HsmGroup,
    /// The group's name; none for the default one.
    pub(in crate::kms) group: Option<String>,
    pub(in crate::kms) store: Option<KeyStoreId>,
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

impl Kms {
    /// Where backing keys of a connected store are made.
    pub(in crate::kms) async fn place_for(
        &self,
        store: Option<&KeyStoreId>,
    ) -> Result<Place, KmsError> {
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

    pub(in crate::kms) fn default_place(&self) -> Place {
        Place {
            hsm: self.groups.default_group().clone(),
            group: None,
            store: None,
        }
    }

    /// The tokens that hold a backing key of `owner`, if its store is connected.
    pub(in crate::kms) async fn hsm_of(
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
    pub(in crate::kms) async fn group_name_of(
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
    pub(in crate::kms) async fn all_hsms_of(
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
    pub(in crate::kms) async fn store_of_key(
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
    pub(in crate::kms) async fn count_in(
        &self,
        rows: &Rows,
        place: &Place,
    ) -> Result<Batch, KmsError> {
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
    pub(in crate::kms) async fn count_out(
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
}
