//! `CreateKey`, `DescribeKey`, `ListKeys`, `EnableKey`, `DisableKey`, `UpdateKeyDescription`, `ScheduleKeyDeletion`,
//! `CancelKeyDeletion`.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::{Ask, Call};
use super::import::expiration_model;
use super::last_use;
use super::members::{Constraints, Paging, SYMMETRIC_DEFAULT, Unhonoured, marker, seconds, there};
use super::policy::check_document;
use super::stores::check_id_if_any;
use super::tags::{Tag, pairs};
use crate::kms::{
    DELETION_WINDOW_DAYS_DEFAULT, DELETION_WINDOW_DAYS_MAX, DELETION_WINDOW_DAYS_MIN,
    DESCRIPTION_CHARS_MAX, KeyId, KeyManager, KeyMetadata, KeyOrigin, KeySpec, KeyState,
    KeyStoreId, KeyUsage, KmsError, NewKey,
};

const ENABLED: &str = "Enabled";
const KEY_USAGES: [&str; 4] = [
    "SIGN_VERIFY",
    "ENCRYPT_DECRYPT",
    "GENERATE_VERIFY_MAC",
    "KEY_AGREEMENT",
];
const ORIGINS: [&str; 4] = [
    KeyOrigin::Kms.name(),
    KeyOrigin::External.name(),
    KeyOrigin::KeyStore.name(),
    "EXTERNAL_KEY_STORE",
];
const KEY_SPECS: [&str; 17] = [
    "RSA_2048",
    "RSA_3072",
    "RSA_4096",
    "ECC_NIST_P256",
    "ECC_NIST_P384",
    "ECC_NIST_P521",
    "ECC_SECG_P256K1",
    SYMMETRIC_DEFAULT,
    "HMAC_224",
    "HMAC_256",
    "HMAC_384",
    "HMAC_512",
    "SM2",
    "ML_DSA_44",
    "ML_DSA_65",
    "ML_DSA_87",
    "ECC_NIST_EDWARDS25519",
];
const KEYS_PER_PAGE_DEFAULT: usize = 100;
const KEYS_PER_PAGE_MAX: usize = 1000;
const LIST: &str = "keys";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateKeyRequest {
    policy: Option<String>,
    description: Option<String>,
    key_usage: Option<String>,
    customer_master_key_spec: Option<String>,
    key_spec: Option<String>,
    origin: Option<String>,
    bypass_policy_lockout_safety_check: Option<bool>,
    tags: Option<Vec<Tag>>,
    multi_region: Option<bool>,
    custom_key_store_id: Option<String>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DescribedKey {
    key_metadata: Metadata,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    #[serde(rename = "AWSAccountId")]
    aws_account_id: String,
    key_id: String,
    arn: String,
    creation_date: f64,
    enabled: bool,
    description: String,
    key_usage: &'static str,
    key_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_date: Option<f64>,
    origin: &'static str,
    key_manager: &'static str,
    customer_master_key_spec: &'static str,
    key_spec: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_algorithms: Option<&'static [&'static str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_algorithms: Option<&'static [&'static str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_algorithms: Option<&'static [&'static str]>,
    multi_region: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_key_material_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_key_store_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_hsm_cluster_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_to: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_model: Option<&'static str>,
}

pub(super) async fn create_key(
    call: &Call<'_>,
    input: CreateKeyRequest,
) -> Result<DescribedKey, KmsError> {
    let mut constraints = Constraints::default();
    constraints.long_chars(
        "description",
        input.description.as_deref(),
        0,
        DESCRIPTION_CHARS_MAX,
    );
    constraints.one_of("keyUsage", input.key_usage.as_deref(), &KEY_USAGES);
    constraints.one_of(
        "customerMasterKeySpec",
        input.customer_master_key_spec.as_deref(),
        &KEY_SPECS,
    );
    constraints.one_of("keySpec", input.key_spec.as_deref(), &KEY_SPECS);
    constraints.one_of("origin", input.origin.as_deref(), &ORIGINS);
    check_document(&mut constraints, input.policy.as_deref());
    check_id_if_any(&mut constraints, input.custom_key_store_id.as_deref());
    constraints.finish()?;
    if input.key_spec.is_some() && input.customer_master_key_spec.is_some() {
        return Err(KmsError::Validation(
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is \
             deprecated."
                .to_owned(),
        ));
    }
    call.refuse(&input.unhonoured).await?;
    let store = input.custom_key_store_id.as_deref();
    let store = store.map(KeyStoreId::parse).transpose()?;
    let is_origin = |origin: KeyOrigin| input.origin.as_deref() == Some(origin.name());
    if store.is_some() != is_origin(KeyOrigin::KeyStore) {
        return Err(KmsError::Validation(
            "Origin AWS_CLOUDHSM and CustomKeyStoreId go together: either both or none of them"
                .to_owned(),
        ));
    }
    let origin = KeyOrigin::of(is_origin(KeyOrigin::External), store.is_some());
    if let Some(other) = input.origin.filter(|named| named != origin.name()) {
        return Err(KmsError::Unsupported(format!(
            "Origin {other} is not supported"
        )));
    }
    let spec = spec_for(
        input.key_spec.or(input.customer_master_key_spec).as_deref(),
        input.key_usage.as_deref(),
    )?;
    if input.multi_region == Some(true) {
        return Err(KmsError::Unsupported(
            "MultiRegion keys are not supported".to_owned(),
        ));
    }
    let new = NewKey {
        description: input.description.unwrap_or_default(),
        tags: pairs(input.tags.unwrap_or_default())?,
        policy: input.policy,
        bypass_lockout_check: input.bypass_policy_lockout_safety_check.unwrap_or(false),
        store,
        spec,
        external: origin == KeyOrigin::External,
    };
    let bypass = new.bypass_lockout_check.to_string();
    let ask = Ask::new("kms:CreateKey")
        .value("kms:BypassPolicyLockoutSafetyCheck", bypass)
        .value("kms:KeyOrigin", new.origin().name())
        .value("kms:KeySpec", new.spec.name())
        .value("kms:KeyUsage", new.spec.usage().name())
        .value("kms:MultiRegion", "false");
    let ask = new.tags.iter().fold(ask, |ask, (name, value)| {
        ask.value(format!("aws:RequestTag/{name}"), value.as_str())
            .value("aws:TagKeys", name.as_str())
    });
    let proof = call.may_service(&ask)?;
    let metadata = call.kms.create_key(&proof, new).await?;
    Ok(described(metadata))
}

/// The key spec that the two members name together.
fn spec_for(spec: Option<&str>, usage: Option<&str>) -> Result<KeySpec, KmsError> {
    let name = spec.unwrap_or(SYMMETRIC_DEFAULT);
    let Some(spec) = KeySpec::parse(name) else {
        return Err(KmsError::Unsupported(format!(
            "KeySpec {name} is not supported"
        )));
    };
    match usage {
        None if spec == KeySpec::SYMMETRIC_DEFAULT => Ok(spec),
        None => Err(KmsError::Validation(
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
                .to_owned(),
        )),
        Some(usage) if usage == spec.usage().name() => Ok(spec),
        // What AWS has, and no key here can do.
        Some(usage) if is_of_aws(spec, usage) => Err(KmsError::Unsupported(format!(
            "KeyUsage {usage} is not supported for KeySpec {name}"
        ))),
        Some(usage) => Err(KmsError::Validation(format!(
            "KeyUsage {usage} is not compatible with KeySpec {name}"
        ))),
    }
}

/// Whether AWS has keys of this spec for this usage: RSA for encryption, and curves for key agreement.
fn is_of_aws(spec: KeySpec, usage: &str) -> bool {
    let name = spec.name();
    match usage {
        "ENCRYPT_DECRYPT" => name.starts_with("RSA_"),
        "KEY_AGREEMENT" => name.starts_with("ECC_NIST_P"),
        _ => false,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DescribeKeyRequest {
    key_id: Option<String>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

pub(super) async fn describe_key(
    call: &Call<'_>,
    input: DescribeKeyRequest,
) -> Result<DescribedKey, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let (proof, key) = call
        .authorised_key(&Ask::new("kms:DescribeKey"), &there(input.key_id)?)
        .await?;
    Ok(described(call.kms.describe_key(&proof, &key).await?))
}

fn described(key: KeyMetadata) -> DescribedKey {
    let present = key.import.filter(|import| import.present);
    let origin = key.origin().name();
    let usage = key.spec.usage();
    let algorithms_if = |this: KeyUsage| (this == usage).then(|| key.spec.algorithms());
    let unavailable = key.store.as_ref().is_some_and(|store| store.disconnected);
    DescribedKey {
        key_metadata: Metadata {
            aws_account_id: key.arn.account().to_string(),
            key_id: key.arn.key_id().to_string(),
            arn: key.arn.to_string(),
            creation_date: seconds(key.created),
            enabled: key.state == KeyState::Enabled && !unavailable,
            description: key.description,
            key_usage: usage.name(),
            key_state: match state(key.state) {
                ENABLED if unavailable => "Unavailable",
                state => state,
            },
            deletion_date: match key.state {
                KeyState::PendingDeletion(date) | KeyState::Destroying(date) => Some(seconds(date)),
                KeyState::Enabled | KeyState::Disabled | KeyState::PendingImport => None,
            },
            origin,
            key_manager: match key.manager {
                KeyManager::Customer => "CUSTOMER",
                KeyManager::Aws | KeyManager::Internal => "AWS",
            },
            customer_master_key_spec: key.spec.name(),
            key_spec: key.spec.name(),
            encryption_algorithms: algorithms_if(KeyUsage::EncryptDecrypt),
            signing_algorithms: algorithms_if(KeyUsage::SignVerify),
            mac_algorithms: algorithms_if(KeyUsage::GenerateVerifyMac),
            multi_region: false,
            current_key_material_id: (usage == KeyUsage::EncryptDecrypt)
                .then_some(key.current_material)
                .flatten()
                .map(|material| material.to_string()),
            custom_key_store_id: key.store.as_ref().map(|store| store.id.to_string()),
            cloud_hsm_cluster_id: key.store.map(|store| store.cluster_id),
            valid_to: present.and_then(|import| import.expires).map(seconds),
            expiration_model: present.map(|import| expiration_model(import.expires)),
        },
    }
}

pub(super) fn state(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => ENABLED,
        KeyState::Disabled => "Disabled",
        KeyState::PendingImport => "PendingImport",
        KeyState::PendingDeletion(_) | KeyState::Destroying(_) => "PendingDeletion",
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedKeys {
    keys: Vec<ListedKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedKey {
    key_id: String,
    key_arn: String,
}

pub(super) async fn list_keys(call: &Call<'_>, paging: Paging) -> Result<ListedKeys, KmsError> {
    let mut constraints = Constraints::default();
    constraints.paging(&paging);
    constraints.finish()?;
    let after = paging.after(LIST, KeyId::parse)?;
    let proof = call.may_service(&Ask::new("kms:ListKeys"))?;
    let limit = paging.limit(KEYS_PER_PAGE_DEFAULT, KEYS_PER_PAGE_MAX);
    let page = call.kms.list_keys(&proof, limit, after).await?;
    let keys = page.items.iter();
    Ok(ListedKeys {
        keys: keys
            .map(|arn| ListedKey {
                key_id: arn.key_id().to_string(),
                key_arn: arn.to_string(),
            })
            .collect(),
        truncated: page.next.is_some(),
        next_marker: page.next.map(|cursor| marker(LIST, &cursor)),
    })
}

/// A request that names a key and nothing else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyOnly {
    key_id: Option<String>,
}

impl KeyOnly {
    /// The reference to the key.
    pub(super) fn checked(self) -> Result<String, KmsError> {
        let mut constraints = Constraints::default();
        constraints.key_id("keyId", self.key_id.as_ref());
        constraints.finish()?;
        there(self.key_id)
    }
}

pub(super) async fn enable_key(call: &Call<'_>, input: KeyOnly) -> Result<(), KmsError> {
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:EnableKey"), &input.checked()?)
        .await?;
    call.kms.enable_key(&proof, &key).await
}

pub(super) async fn disable_key(call: &Call<'_>, input: KeyOnly) -> Result<(), KmsError> {
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:DisableKey"), &input.checked()?)
        .await?;
    call.kms.disable_key(&proof, &key).await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateKeyDescriptionRequest {
    key_id: Option<String>,
    description: Option<String>,
}

pub(super) async fn update_key_description(
    call: &Call<'_>,
    input: UpdateKeyDescriptionRequest,
) -> Result<(), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("description", input.description.as_ref());
    constraints.long_chars(
        "description",
        input.description.as_deref(),
        0,
        DESCRIPTION_CHARS_MAX,
    );
    constraints.finish()?;
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:UpdateKeyDescription"), &key)
        .await?;
    call.kms
        .update_key_description(&proof, &key, &there(input.description)?)
        .await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ScheduleKeyDeletionRequest {
    key_id: Option<String>,
    pending_window_in_days: Option<i64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ScheduledKeyDeletion {
    key_id: String,
    deletion_date: f64,
    key_state: &'static str,
    pending_window_in_days: u32,
}

pub(super) async fn schedule_key_deletion(
    call: &Call<'_>,
    input: ScheduleKeyDeletionRequest,
) -> Result<ScheduledKeyDeletion, KmsError> {
    let (min, max) = (
        DELETION_WINDOW_DAYS_MIN.into(),
        DELETION_WINDOW_DAYS_MAX.into(),
    );
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.number(
        "pendingWindowInDays",
        input.pending_window_in_days,
        min,
        max,
    );
    constraints.finish()?;
    let window = input
        .pending_window_in_days
        .and_then(|days| u32::try_from(days).ok());
    let window = window.unwrap_or(DELETION_WINDOW_DAYS_DEFAULT);
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(
            &Ask::new("kms:ScheduleKeyDeletion").value(
                "kms:ScheduleKeyDeletionPendingWindowInDays",
                window.to_string(),
            ),
            &key,
        )
        .await?;
    let deletion = call.kms.schedule_key_deletion(&proof, &key, window).await?;
    if let Some(dependent) = deletion.dependent {
        let dependants = json!({
            "objects": dependent.objects,
            "bytes": dependent.bytes,
            "multipartUploads": dependent.uploads,
        });
        call.tell("dependants", dependants);
    }
    if let Some(uses) = &deletion.uses {
        call.tell("lastUsage", last_use::told(uses));
    }
    Ok(ScheduledKeyDeletion {
        key_id: key.to_string(),
        deletion_date: seconds(deletion.date),
        key_state: state(KeyState::PendingDeletion(deletion.date)),
        pending_window_in_days: deletion.window_days,
    })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CancelledKeyDeletion {
    key_id: String,
}

pub(super) async fn cancel_key_deletion(
    call: &Call<'_>,
    input: KeyOnly,
) -> Result<CancelledKeyDeletion, KmsError> {
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:CancelKeyDeletion"), &input.checked()?)
        .await?;
    call.kms.cancel_key_deletion(&proof, &key).await?;
    Ok(CancelledKeyDeletion {
        key_id: key.to_string(),
    })
}
