//! All keys and their backing keys, as an auditor asks for them: what the records say, and what the tokens say now.

use std::collections::BTreeMap;

use strongroom_hsm::{Fact, HsmError, HsmGroup, HsmResult, Report, TokenInfo, ToolSpec};

use super::dependants::ALL_VERSIONS;
use super::error::KmsError;
use super::internal::InternalKey;
use super::key::{
    BackingRecord, Cause, KeyArn, KeyId, KeyManager, KeyMaterialId, KeyRecord, KeyState, Owner,
    RotationSchedule, Timestamp, name_of,
};
use super::stores::KeyStoreId;
use super::table::Rows;
use super::{Dependent, KeyUses, Kms, Page, Scope, check_proof_of, mac, table};
use crate::auth::{Authorised, Resource};
use crate::meta::table as tables;

/// What is told of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryEntry {
    /// Its ARN; nothing for the server's own keys, which have none.
    pub arn: Option<KeyArn>,
    /// Its ARN, or `internal/` and the name of a key of the server's own.
    pub name: String,
    /// Its aliases.
    pub aliases: Vec<String>,
    /// Who manages it.
    pub manager: KeyManager,
    /// Its state.
    pub state: KeyState,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used; nothing of the server's own keys.
    pub uses: Option<KeyUses>,
    /// When it is rotated by itself.
    pub rotation: Option<RotationSchedule>,
    /// The custom key store in which its backing keys are made.
    pub store: Option<KeyStoreId>,
    /// When the current backing key was made, or became the current one.
    pub rotated: Timestamp,
    /// Its backing keys, oldest first.
    pub versions: Vec<InventoryVersion>,
}

/// What is told of one backing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryVersion {
    /// 1 came with the key.
    pub version: u32,
    /// Its identity.
    pub material: KeyMaterialId,
    /// Whether it is the one that encrypts.
    pub is_current: bool,
    /// Whether it was brought along and waits to become that one.
    pub is_waiting: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Why.
    pub cause: &'static str,
    /// The token group that holds it, by its name in the configuration.
    pub group: String,
    /// The token in which it was made: label and serial number.
    pub token: String,
    /// How it wraps.
    pub scheme: &'static str,
    /// Wraps that were reserved under it: no more than so many were made.
    pub wraps_reserved: u64,
    /// What depends on it; nothing is told of the server's own keys.
    pub dependent: Option<Dependent>,
    /// Whether its canary opened in the token just now; else why not.
    pub opens: Result<(), String>,
    /// What each token of the group told of its objects just now. Nothing where the token keeps no objects (TPM).
    pub objects: Vec<ObjectFacts>,
    /// Tokens of the group that could not be asked, and why.
    pub unasked: Vec<String>,
}

/// Attributes of one object, as its token told them just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// The token: label and serial number.
    pub token: String,
    /// `AES`, or `MAC` for the second object of a scheme with two.
    pub part: &'static str,
    /// By name: `SENSITIVE` and so on, `true`, `false` or `not told`; `usage` lists what it is for.
    pub attributes: BTreeMap<String, String>,
}

/// What the tokens of a group said.
type Told = Vec<HsmResult<(TokenInfo, Report)>>;

/// Reports of the groups that were asked until now.
type Reports = BTreeMap<Option<String>, Told>;

impl Kms {
    /// Some keys by id, and at the end of the list the server's own. Asks every token that holds one of them: takes its
    /// time. A key whose records are damaged is left out, and the log tells of it.
    ///
    /// # Errors
    ///
    /// By the records. A token that does not answer is no error, but told.
    pub async fn key_inventory(
        &self,
        proof: &Authorised,
        limit: usize,
        after: Option<KeyId>,
    ) -> Result<Page<InventoryEntry, KeyId>, KmsError> {
        check_proof_of(proof, &["strongroom:KeyInventory"], &Resource::Service)?;
        let mut reports = Reports::new();
        let rows = self.rows().await?;
        let range = table::rows_after(
            tables::KMS_KEY,
            after.as_ref().map(|id| id.as_bytes().as_slice()),
        );
        let mut found = rows.scan(&range, limit.saturating_add(1)).await?;
        let is_last = found.len() <= limit;
        found.truncate(limit);
        let mut entries = Vec::with_capacity(found.len());
        let mut last = None;
        for row in found {
            let key_id = table::key_id_of_row(&row.0)?;
            last = Some(key_id);
            let Some((arn, record)) = self.head_of_row(&rows, key_id, row) else {
                continue;
            };
            let name = arn.to_string();
            let entry = self.inventory_entry(&rows, Owner::Key(arn), name, record, &mut reports);
            match Box::pin(entry).await {
                Ok(entry) => entries.push(entry),
                Err(error @ KmsError::Damaged(_)) => {
                    tracing::error!(event = "kms.key.damaged", %key_id, %error);
                }
                Err(error) => return Err(error),
            }
        }
        if is_last {
            for purpose in InternalKey::ALL {
                let owner = Owner::Internal(purpose);
                let head = rows.load::<KeyRecord>("head of a key", table::head_row(&owner));
                if let Some(head) = head.await? {
                    let name = format!("internal/{}", purpose.name());
                    let entry = self.inventory_entry(&rows, owner, name, head.record, &mut reports);
                    entries.push(Box::pin(entry).await?);
                }
            }
            entries.push(self.inventory_of_mac(&rows, &mut reports).await?);
        }
        Ok(Page {
            items: entries,
            next: last.filter(|_| !is_last),
        })
    }

    async fn inventory_entry(
        &self,
        rows: &Rows,
        owner: Owner,
        name: String,
        record: KeyRecord,
        reports: &mut Reports,
    ) -> Result<InventoryEntry, KmsError> {
        let (uses, usage) = match &owner {
            Owner::Key(arn) => {
                let key = arn.key_id();
                let uses = self.uses_unless_damaged(rows, key, &record).await?;
                let usage = self.usage(key, ALL_VERSIONS, &Scope::default()).await?;
                (uses, Some(usage.versions))
            }
            Owner::Internal(_) => (None, None),
        };
        let mut versions = Vec::new();
        let mut rotated = record.created;
        for version in record.recorded_versions() {
            let backing = rows.backing(&owner, version).await?.record;
            let mut told = self
                .inventory_version(rows, version, &backing, reports)
                .await?;
            told.is_waiting = record.pending_version() == Some(version);
            told.is_current = version == record.current;
            let dependent = usage.as_ref().map(|usage| usage.get(&version));
            told.dependent = dependent.map(|dependent| dependent.copied().unwrap_or_default());
            if told.is_current {
                rotated = backing.rotated.unwrap_or(backing.created);
            }
            versions.push(told);
        }
        let state = record.state_at(self.now());
        Ok(InventoryEntry {
            arn: match owner {
                Owner::Key(arn) => Some(arn),
                Owner::Internal(_) => None,
            },
            name,
            rotated,
            aliases: record.aliases,
            manager: record.manager,
            state,
            created: record.created,
            uses,
            rotation: record.rotation,
            store: record.store,
            versions,
        })
    }

    /// The key of the records' MAC, which has one backing key and no head.
    async fn inventory_of_mac(
        &self,
        rows: &Rows,
        reports: &mut Reports,
    ) -> Result<InventoryEntry, KmsError> {
        let backing = self.mac_backing().await?;
        let version = self.inventory_version(rows, 1, &backing, reports).await?;
        Ok(InventoryEntry {
            arn: None,
            name: format!("internal/{}", mac::NAME),
            aliases: Vec::new(),
            manager: KeyManager::Internal,
            state: KeyState::Enabled,
            created: backing.created,
            uses: None,
            rotation: None,
            store: None,
            rotated: backing.created,
            versions: vec![version],
        })
    }

    async fn inventory_version(
        &self,
        rows: &Rows,
        version: u32,
        backing: &BackingRecord,
        reports: &mut Reports,
    ) -> Result<InventoryVersion, KmsError> {
        let group = self.group_name_of(rows, backing).await?;
        let hsm = self.groups.recorded(group.as_deref());
        // Nothing about one key keeps the others from being told.
        let (opens, scheme) = match &hsm {
            Ok(hsm) => opens(hsm, backing).await,
            Err(error) => (Err(error.to_string()), "unknown"),
        };
        if !reports.contains_key(&group) {
            let told = match &hsm {
                Ok(hsm) => hsm.reports().await,
                Err(_not_configured) => Vec::new(),
            };
            reports.insert(group.clone(), told);
        }
        let told = reports.get(&group).map(Vec::as_slice).unwrap_or_default();
        let material = backing.material();
        let id = backing.id().to_string();
        let mut objects = Vec::new();
        for (info, report) in told.iter().flatten() {
            let of_it = report.facts.iter().filter(|fact| fact.subject == "key");
            objects.extend(of_it.filter_map(|fact| object_facts(fact, &id, name_of(info))));
        }
        let unasked = told.iter().filter_map(|told| told.as_ref().err());
        Ok(InventoryVersion {
            version,
            material,
            is_current: true,
            is_waiting: false,
            created: backing.created,
            cause: match backing.cause {
                Cause::Creation => "CREATION",
                Cause::OnDemand => "ON_DEMAND",
                Cause::Schedule => "SCHEDULE",
                Cause::WrapLimit => "WRAP_LIMIT",
                Cause::Move => "MOVE",
            },
            group: group.unwrap_or_else(|| "default".to_owned()),
            token: backing.token().to_owned(),
            scheme,
            wraps_reserved: backing.wraps_reserved,
            dependent: None,
            opens,
            objects,
            unasked: unasked.map(ToString::to_string).collect(),
        })
    }
}

/// Whether a backing key proves itself in its token now, and how it wraps.
async fn opens(hsm: &HsmGroup, backing: &BackingRecord) -> (Result<(), String>, &'static str) {
    let said = |error: HsmError| error.to_string();
    if let Ok(tool) = backing.tool_key() {
        let kind = match tool.spec {
            ToolSpec::Sign(_) => "signature",
            _ => "MAC",
        };
        return (hsm.holds_tool(&tool).await.map_err(said), kind);
    }
    match backing.backing_key() {
        Ok(key) => {
            let scheme = key.canary.0.scheme();
            let scheme = scheme.map_or("unknown", |scheme| scheme.name());
            let keys = std::slice::from_ref(&key);
            (hsm.holds(keys).await.map_err(said), scheme)
        }
        Err(error) => (Err(error.to_string()), "unknown"),
    }
}

/// What a fact of a report says of the object with this identity.
fn object_facts(fact: &Fact, id: &str, token: String) -> Option<ObjectFacts> {
    let part = match fact.name.strip_prefix(id)? {
        "" => "AES",
        " (MAC)" => "MAC",
        " (private key)" => "private key",
        // A MAC key that is a KMS key is reported with its key spec.
        other if other.starts_with(" (HMAC_") => "MAC",
        _ => return None,
    };
    let mut attributes = BTreeMap::new();
    // NAME=value NAME=value, where a value may have spaces.
    let mut last: Option<(String, String)> = None;
    for word in fact.value.split(' ') {
        match (word.split_once('='), &mut last) {
            (Some((name, value)), _) => {
                attributes.extend(last.replace((name.to_owned(), value.to_owned())));
            }
            (None, Some((_, value))) => {
                value.push(' ');
                value.push_str(word);
            }
            (None, None) => return None,
        }
    }
    attributes.extend(last);
    Some(ObjectFacts {
        token,
        part,
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use strongroom_hsm::Fact;

    use super::object_facts;

    #[test]
    fn attributes_read_as_the_report_writes_them() {
        let fact = Fact {
            subject: "key".into(),
            name: "ab (MAC)".into(),
            value: "SENSITIVE=true LOCAL=not told usage=SIGN+VERIFY".into(),
        };
        let facts = object_facts(&fact, "ab", "token 1".into()).expect("its own");
        assert_eq!(facts.part, "MAC");
        let told: Vec<_> = facts
            .attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("LOCAL", "not told"),
                ("SENSITIVE", "true"),
                ("usage", "SIGN+VERIFY")
            ]
        );
        assert_eq!(object_facts(&fact, "abc", String::new()), None);
        assert_eq!(object_facts(&fact, "a", String::new()), None);
    }
}
