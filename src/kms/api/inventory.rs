//! Our own `Strongroom.KeyInventory` and `Strongroom.VerifyAuditCheckpoints`: what an auditor asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::keys::state;
use super::last_use::LastUsage;
use super::members::{Constraints, Paging, marker, seconds};
use super::rewrap::Counts;
use crate::audit::{Checkpoint, Head, ServerId};
use crate::kms::{InventoryEntry, InventoryVersion, KeyId, KeyManager, KmsError, ObjectFacts};

const KEYS_PER_PAGE_DEFAULT: usize = 100;
const KEYS_PER_PAGE_MAX: usize = 1000;
const LIST: &str = "inventory";
/// The most checkpoints of one request: each takes a call of the HSM.
const CHECKPOINTS_MAX: usize = 100;

#[derive(Debug, Deserialize)]
pub(super) struct KeyInventoryRequest {
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyInventory {
    keys: Vec<Entry>,
    /// When the tokens were asked.
    asked_date: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    name: String,
    /// The account that owns it; none of the server's own keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    aliases: Vec<String>,
    key_manager: &'static str,
    key_state: &'static str,
    creation_date: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_last_usage: Option<LastUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracking_start_date: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_period_in_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_rotation_date: Option<f64>,
    /// When the current version was made.
    last_rotation_date: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_key_store_id: Option<String>,
    versions: Vec<Version>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(rename = "Version")]
    number: u32,
    key_material_id: String,
    current: bool,
    pending_rotation: bool,
    creation_date: f64,
    cause: &'static str,
    token_group: String,
    token: String,
    scheme: &'static str,
    wraps_reserved: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dependants: Option<Counts>,
    /// Whether its canary opened just now.
    opens: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    objects: Vec<Object>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tokens_not_asked: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    token: String,
    part: &'static str,
    attributes: BTreeMap<String, String>,
}

impl From<InventoryEntry> for Entry {
    fn from(entry: InventoryEntry) -> Self {
        Self {
            name: entry.name,
            account: entry.arn.as_ref().map(|arn| arn.account().to_string()),
            key_id: entry.arn.map(|arn| arn.key_id().to_string()),
            aliases: entry.aliases,
            key_manager: match entry.manager {
                KeyManager::Customer => "CUSTOMER",
                KeyManager::Aws => "AWS",
                KeyManager::Internal => "INTERNAL",
            },
            key_state: state(entry.state),
            creation_date: seconds(entry.created),
            tracking_start_date: entry.uses.as_ref().map(|uses| seconds(uses.since)),
            key_last_usage: entry.uses.map(|uses| LastUsage::of(uses.last)),
            rotation_period_in_days: entry.rotation.map(|schedule| schedule.period_days),
            next_rotation_date: entry.rotation.map(|schedule| seconds(schedule.next)),
            last_rotation_date: seconds(entry.rotated),
            custom_key_store_id: entry.store.map(|store| store.to_string()),
            versions: entry.versions.into_iter().map(Version::from).collect(),
        }
    }
}

impl From<InventoryVersion> for Version {
    fn from(version: InventoryVersion) -> Self {
        Self {
            number: version.version,
            key_material_id: version.material.to_string(),
            current: version.is_current,
            pending_rotation: version.is_waiting,
            creation_date: seconds(version.created),
            cause: version.cause,
            token_group: version.group,
            token: version.token,
            scheme: version.scheme,
            wraps_reserved: version.wraps_reserved,
            dependants: version.dependent.map(Counts::from),
            opens: version.opens.is_ok(),
            error: version.opens.err(),
            objects: version.objects.into_iter().map(Object::from).collect(),
            tokens_not_asked: version.unasked,
        }
    }
}

impl From<ObjectFacts> for Object {
    fn from(facts: ObjectFacts) -> Self {
        Self {
            token: facts.token,
            part: facts.part,
            attributes: facts.attributes,
        }
    }
}

pub(super) async fn key_inventory(
    call: &Call<'_>,
    input: KeyInventoryRequest,
) -> Result<KeyInventory, KmsError> {
    let mut constraints = Constraints::default();
    constraints.paging(&input.paging);
    constraints.finish()?;
    let limit = input.paging.limit(KEYS_PER_PAGE_DEFAULT, KEYS_PER_PAGE_MAX);
    let after = input.paging.after(LIST, KeyId::parse)?;
    let proof = call.may_service(&Ask::new("strongroom:KeyInventory"))?;
    let asked_date = seconds(call.kms.now());
    let page = Box::pin(call.kms.key_inventory(&proof, limit, after)).await?;
    Ok(KeyInventory {
        truncated: page.next.is_some(),
        next_marker: page.next.map(|last| marker(LIST, &last)),
        asked_date,
        keys: page.items.into_iter().map(Entry::from).collect(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifyRequest {
    #[serde(default)]
    checkpoints: Vec<CheckpointMember>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckpointMember {
    server: String,
    head: String,
    proof: String,
}

impl CheckpointMember {
    fn read(&self) -> Option<Checkpoint> {
        Some(Checkpoint {
            server: ServerId::parse(&self.server)?,
            head: self.head.parse::<Head>().ok()?,
            proof: hex::decode(&self.proof).ok()?,
        })
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifiedCheckpoints {
    /// For each checkpoint whether the HSM made its proof.
    genuine: Vec<bool>,
    /// What the server's records know of its own chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<Known>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Known {
    server: String,
    head: String,
    genuine: bool,
}

pub(super) async fn verify_checkpoints(
    call: &Call<'_>,
    input: VerifyRequest,
) -> Result<VerifiedCheckpoints, KmsError> {
    if input.checkpoints.len() > CHECKPOINTS_MAX {
        return Err(KmsError::Validation(format!(
            "1 validation error detected: Value at 'checkpoints' failed to satisfy constraint: Member must have length \
             less than or equal to {CHECKPOINTS_MAX}"
        )));
    }
    let checkpoints: Option<Vec<_>> = input
        .checkpoints
        .iter()
        .map(CheckpointMember::read)
        .collect();
    let checkpoints =
        checkpoints.ok_or_else(|| KmsError::Validation("a checkpoint does not read".to_owned()))?;
    let proof = call.may_service(&Ask::new("strongroom:VerifyAuditCheckpoints"))?;
    let (genuine, known) = call
        .kms
        .verify_audit_checkpoints(&proof, &checkpoints)
        .await?;
    Ok(VerifiedCheckpoints {
        genuine,
        known: known.map(|known| Known {
            server: known.server.to_string(),
            head: known.head.to_string(),
            genuine: known.is_genuine,
        }),
    })
}
