//! `PutKeyPolicy`, `GetKeyPolicy`, `ListKeyPolicies`.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{Constraints, Paging, there};
use crate::kms::{KmsError, POLICY_CHARS_MAX, POLICY_NAME};

const POLICY_NAME_CHARS_MAX: usize = 128;

/// The constraints on a policy document.
pub(super) fn check_document(constraints: &mut Constraints, document: Option<&str>) {
    let Some(document) = document else { return };
    constraints.long_chars("policy", Some(document), 1, POLICY_CHARS_MAX);
    let is_allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{FF}');
    constraints.pattern(
        "policy",
        document.chars().all(is_allowed),
        "[\\u0009\\u000A\\u000D\\u0020-\\u00FF]+",
    );
}

fn check_name(constraints: &mut Constraints, name: Option<&str>) {
    constraints.chars("policyName", name, 1, POLICY_NAME_CHARS_MAX);
}

fn check_is_default(name: Option<&str>) -> Result<(), KmsError> {
    match name {
        None | Some(POLICY_NAME) => Ok(()),
        Some(_) => Err(KmsError::NotFound("No such policy exists".to_owned())),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PutKeyPolicyRequest {
    key_id: Option<String>,
    policy_name: Option<String>,
    policy: Option<String>,
    bypass_policy_lockout_safety_check: Option<bool>,
}

pub(super) async fn put_key_policy(
    call: &Call<'_>,
    input: PutKeyPolicyRequest,
) -> Result<(), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    check_name(&mut constraints, input.policy_name.as_deref());
    constraints.required("policy", input.policy.as_ref());
    check_document(&mut constraints, input.policy.as_deref());
    constraints.finish()?;
    let key = there(input.key_id)?;
    let bypass = input.bypass_policy_lockout_safety_check.unwrap_or(false);
    let ask = Ask::new("kms:PutKeyPolicy")
        .value("kms:BypassPolicyLockoutSafetyCheck", bypass.to_string());
    let (proof, key) = call.authorised_key_but_no_alias(&ask, &key).await?;
    check_is_default(input.policy_name.as_deref())?;
    call.kms
        .put_key_policy(&proof, &key, &there(input.policy)?, bypass)
        .await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetKeyPolicyRequest {
    key_id: Option<String>,
    policy_name: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FoundKeyPolicy {
    policy: String,
    policy_name: &'static str,
}

pub(super) async fn get_key_policy(
    call: &Call<'_>,
    input: GetKeyPolicyRequest,
) -> Result<FoundKeyPolicy, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    check_name(&mut constraints, input.policy_name.as_deref());
    constraints.finish()?;
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:GetKeyPolicy"), &key)
        .await?;
    check_is_default(input.policy_name.as_deref())?;
    let policy = call.kms.key_policy(&proof, &key).await?;
    Ok(FoundKeyPolicy {
        policy,
        policy_name: POLICY_NAME,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListKeyPoliciesRequest {
    key_id: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedKeyPolicies {
    policy_names: Vec<&'static str>,
    truncated: bool,
}

pub(super) async fn list_key_policies(
    call: &Call<'_>,
    input: ListKeyPoliciesRequest,
) -> Result<ListedKeyPolicies, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.paging(&input.paging);
    constraints.finish()?;
    // The list has one item, so that no marker was ever given out.
    if input.paging.after("policies", |_| None::<()>)?.is_some() {
        return Err(KmsError::InvalidMarker);
    }
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:ListKeyPolicies"), &key)
        .await?;
    let policy_names = call.kms.list_key_policies(&proof, &key).await?;
    Ok(ListedKeyPolicies {
        policy_names,
        truncated: false,
    })
}
