//! `EnableKeyRotation`, `DisableKeyRotation`, `GetKeyRotationStatus`, `RotateKeyOnDemand`, `ListKeyRotations`.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::import::expiration_model;
use super::keys::KeyOnly;
use super::members::{Constraints, Paging, marker, seconds, there};
use crate::kms::{
    KeyArn, KmsError, MaterialRole, ROTATION_PERIOD_DAYS_DEFAULT, ROTATION_PERIOD_DAYS_MAX,
    ROTATION_PERIOD_DAYS_MIN, RotatedBy, RotationEntry,
};

const ROTATIONS_PER_PAGE_DEFAULT: usize = 100;
const ROTATIONS_PER_PAGE_MAX: usize = 1000;
const LIST: &str = "rotations";
const ALL_KEY_MATERIAL: &str = "ALL_KEY_MATERIAL";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EnableKeyRotationRequest {
    key_id: Option<String>,
    rotation_period_in_days: Option<i64>,
}

pub(super) async fn enable_key_rotation(
    call: &Call<'_>,
    input: EnableKeyRotationRequest,
) -> Result<(), KmsError> {
    let (min, max) = (
        ROTATION_PERIOD_DAYS_MIN.into(),
        ROTATION_PERIOD_DAYS_MAX.into(),
    );
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.number(
        "rotationPeriodInDays",
        input.rotation_period_in_days,
        min,
        max,
    );
    constraints.finish()?;
    let period = input
        .rotation_period_in_days
        .and_then(|days| u32::try_from(days).ok());
    let period = period.unwrap_or(ROTATION_PERIOD_DAYS_DEFAULT);
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(
            &Ask::new("kms:EnableKeyRotation")
                .value("kms:RotationPeriodInDays", period.to_string()),
            &key,
        )
        .await?;
    call.kms.enable_key_rotation(&proof, &key, period).await
}

pub(super) async fn disable_key_rotation(call: &Call<'_>, input: KeyOnly) -> Result<(), KmsError> {
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:DisableKeyRotation"), &input.checked()?)
        .await?;
    call.kms.disable_key_rotation(&proof, &key).await
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RotationStatusAnswer {
    key_rotation_enabled: bool,
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_period_in_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_rotation_date: Option<f64>,
}

pub(super) async fn get_key_rotation_status(
    call: &Call<'_>,
    input: KeyOnly,
) -> Result<RotationStatusAnswer, KmsError> {
    let key = input.checked()?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:GetKeyRotationStatus"), &key)
        .await?;
    let schedule = call.kms.key_rotation_status(&proof, &key).await?.schedule;
    Ok(RotationStatusAnswer {
        key_rotation_enabled: schedule.is_some(),
        key_id: key.key_id().to_string(),
        rotation_period_in_days: schedule.map(|schedule| schedule.period_days),
        next_rotation_date: schedule.map(|schedule| seconds(schedule.next)),
    })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RotatedKey {
    key_id: String,
}

pub(super) async fn rotate_key_on_demand(
    call: &Call<'_>,
    input: KeyOnly,
) -> Result<RotatedKey, KmsError> {
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:RotateKeyOnDemand"), &input.checked()?)
        .await?;
    call.kms.rotate_key_on_demand(&proof, &key).await?;
    Ok(RotatedKey {
        key_id: key.key_id().to_string(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListKeyRotationsRequest {
    key_id: Option<String>,
    include_key_material: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedRotations {
    rotations: Vec<ListedRotation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedRotation {
    key_id: String,
    key_material_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_material_description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    import_state: Option<&'static str>,
    key_material_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_model: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_to: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_date: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_type: Option<&'static str>,
}

pub(super) async fn list_key_rotations(
    call: &Call<'_>,
    input: ListKeyRotationsRequest,
) -> Result<ListedRotations, KmsError> {
    let include = input.include_key_material.as_deref();
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.one_of(
        "includeKeyMaterial",
        include,
        &[ALL_KEY_MATERIAL, "ROTATIONS_ONLY"],
    );
    constraints.paging(&input.paging);
    constraints.finish()?;
    let after = input.paging.after(LIST, |version| version.parse().ok())?;
    let all = include == Some(ALL_KEY_MATERIAL);
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:ListKeyRotations"), &key)
        .await?;
    let limit = input
        .paging
        .limit(ROTATIONS_PER_PAGE_DEFAULT, ROTATIONS_PER_PAGE_MAX);
    let page = call
        .kms
        .list_key_rotations(&proof, &key, all, limit, after)
        .await?;
    let rotations = page.items.into_iter().map(|entry| listed(&key, entry));
    Ok(ListedRotations {
        rotations: rotations.collect(),
        truncated: page.next.is_some(),
        next_marker: page.next.map(|cursor| marker(LIST, &cursor)),
    })
}

fn listed(key: &KeyArn, entry: RotationEntry) -> ListedRotation {
    let imported = entry.imported.as_ref();
    ListedRotation {
        key_id: key.key_id().to_string(),
        key_material_id: entry.material.to_string(),
        import_state: imported.map(|material| {
            if material.present {
                "IMPORTED"
            } else {
                "PENDING_IMPORT"
            }
        }),
        key_material_state: match entry.role {
            MaterialRole::Current => "CURRENT",
            MaterialRole::NonCurrent => "NON_CURRENT",
            MaterialRole::PendingRotation => "PENDING_ROTATION",
        },
        expiration_model: imported
            .filter(|material| material.present)
            .map(|material| expiration_model(material.expires)),
        valid_to: imported.and_then(|material| material.expires).map(seconds),
        key_material_description: entry.imported.and_then(|material| material.description),
        rotation_date: entry.rotated.map(|(date, _)| seconds(date)),
        rotation_type: entry.rotated.map(|(_, by)| match by {
            RotatedBy::OnDemand => "ON_DEMAND",
            RotatedBy::Automatic => "AUTOMATIC",
        }),
    }
}
