//! The row of all custom key stores.

use std::fmt;

use minicbor::{Decode, Encode};

use super::super::error::{KeyStoreError, KmsError};
use super::super::groups::cluster_id_of;
use super::super::key::Timestamp;
use super::super::table::{Loaded, Rows};
use crate::meta::{Batch, table as tables};

/// Names a custom key store for ever: `cks-` and 17 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct KeyStoreId(#[n(0)] String);

impl KeyStoreId {
    const HEX_DIGITS: usize = 17;

    pub(super) fn random() -> Self {
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
    pub(super) id: KeyStoreId,
    #[n(1)]
    pub(super) name: String,
    /// The token group, by its name in the configuration.
    #[n(2)]
    pub(super) group: String,
    #[n(3)]
    pub(super) created: Timestamp,
    #[n(4)]
    pub(super) connected: bool,
    /// Backing keys in it, of all keys and versions.
    #[n(5)]
    pub(super) backing_keys: u64,
    /// Groups that it was on before, which hold its backing keys, too. What is destroyed is destroyed there as well.
    #[cbor(n(6), default)]
    pub(super) former_groups: Vec<String>,
}

/// The row of all custom key stores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct KeyStoresRecord {
    #[n(0)]
    pub(super) stores: Vec<KeyStoreRecord>,
}

impl KeyStoresRecord {
    pub(super) fn find(&self, id: &KeyStoreId) -> Result<&KeyStoreRecord, KmsError> {
        self.stores
            .iter()
            .find(|store| store.id == *id)
            .ok_or_else(|| not_found(&id.0))
    }

    pub(super) fn find_mut(&mut self, id: &KeyStoreId) -> Result<&mut KeyStoreRecord, KmsError> {
        self.stores
            .iter_mut()
            .find(|store| store.id == *id)
            .ok_or_else(|| not_found(&id.0))
    }
}

/// The row as it was read, or that there is none.
pub(super) struct KeyStores {
    loaded: Option<Loaded<KeyStoresRecord>>,
    pub(super) record: KeyStoresRecord,
}

impl KeyStores {
    pub(super) async fn load(rows: &Rows) -> Result<Self, KmsError> {
        let loaded: Option<Loaded<KeyStoresRecord>> = rows.load("key stores", row()).await?;
        let record = loaded
            .as_ref()
            .map(|loaded| loaded.record.clone())
            .unwrap_or_default();
        Ok(Self { loaded, record })
    }

    /// Puts `record` in the place of what was read.
    pub(super) fn replace(&self, rows: &Rows, record: &KeyStoresRecord) -> Batch {
        match &self.loaded {
            Some(loaded) => rows.replace(loaded, record),
            None => rows.insert(row(), record),
        }
    }
}

fn row() -> Vec<u8> {
    vec![tables::KMS_STORES]
}

/// Checks that nobody else than `own` has the name or the group.
pub(super) fn check_free(
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
    use super::KeyStoreId;

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
