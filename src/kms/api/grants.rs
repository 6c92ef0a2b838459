//! `CreateGrant`, `ListGrants`, `ListRetirableGrants`, `RetireGrant`, `RevokeGrant`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{
    Constraints, ContextMember, GrantTokens, Paging, context, marker, seconds, there,
};
use crate::kms::{
    Grant, GrantConstraint, GrantCursor, GrantFilter, GrantId, GrantOperation, KeyArn, KmsError,
    NewGrant, Page, is_principal_arn,
};

const GRANTS_PER_PAGE_DEFAULT: usize = 50;
const GRANTS_PER_PAGE_MAX: usize = 100;
const PRINCIPAL_CHARS_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 256;
const GRANT_ID_CHARS_MAX: usize = 128;
const GRANT_TOKEN_CHARS_MAX: usize = 8192;
const OF_KEY: &str = "grants";
const RETIRABLE: &str = "retirable grants";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateGrantRequest {
    key_id: Option<String>,
    grantee_principal: Option<String>,
    retiring_principal: Option<String>,
    operations: Option<Vec<String>>,
    constraints: Option<ConstraintsMember>,
    grant_tokens: Option<GrantTokens>,
    name: Option<String>,
    dry_run: Option<bool>,
    grantee_service_principal: Option<String>,
    retiring_service_principal: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConstraintsMember {
    encryption_context_subset: Option<ContextMember>,
    encryption_context_equals: Option<ContextMember>,
    source_arn: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreatedGrant {
    grant_token: String,
    grant_id: String,
}

pub(super) async fn create_grant(
    call: &Call<'_>,
    input: CreateGrantRequest,
) -> Result<CreatedGrant, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("granteePrincipal", input.grantee_principal.as_ref());
    check_principal(
        &mut constraints,
        "granteePrincipal",
        input.grantee_principal.as_deref(),
    );
    check_principal(
        &mut constraints,
        "retiringPrincipal",
        input.retiring_principal.as_deref(),
    );
    constraints.required("operations", input.operations.as_ref());
    for operation in input.operations.iter().flatten() {
        constraints.one_of("operations", Some(operation), GrantOperation::NAMES);
    }
    constraints.chars("name", input.name.as_deref(), 1, NAME_CHARS_MAX);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '_' | '-');
    let name = input.name.as_deref().unwrap_or_default();
    constraints.pattern("name", name.chars().all(is_name), "^[a-zA-Z0-9:/_-]+$");
    constraints.finish()?;
    if input.grantee_service_principal.is_some() || input.retiring_service_principal.is_some() {
        return Err(KmsError::Unsupported(
            "Service principals are not supported".to_owned(),
        ));
    }
    check_arns([&input.grantee_principal, &input.retiring_principal])?;
    call.check_grant_tokens(input.grant_tokens.as_ref()).await?;
    let terms = NewGrant {
        grantee: there(input.grantee_principal)?,
        retiring: input.retiring_principal,
        operations: operations(&there(input.operations)?)?,
        constraint: constraint(input.constraints)?,
        name: input.name,
    };
    let (proof, key) = call
        .authorised_key_but_no_alias(&ask_for(&terms), &there(input.key_id)?)
        .await?;
    if input.dry_run == Some(true) {
        call.kms.check_usable(&proof, &key).await?;
        return Err(KmsError::DryRun);
    }
    let (grant_id, grant_token) = call.kms.create_grant(&proof, &key, &terms).await?;
    Ok(CreatedGrant {
        grant_token,
        grant_id: grant_id.to_string(),
    })
}

/// What policies can ask of a grant.
fn ask_for(terms: &NewGrant) -> Ask<'_> {
    let mut ask = Ask::new("kms:CreateGrant")
        .grant(terms)
        .value("kms:GranteePrincipal", &terms.grantee)
        .value("kms:GrantIsForAWSResource", "false");
    if let Some(retiring) = &terms.retiring {
        ask = ask.value("kms:RetiringPrincipal", retiring);
    }
    if let Some(constraint) = &terms.constraint {
        ask = ask.value(
            "kms:GrantConstraintType",
            match constraint {
                GrantConstraint::Equals(_) => "EncryptionContextEquals",
                GrantConstraint::Subset(_) => "EncryptionContextSubset",
            },
        );
    }
    terms.operations.iter().fold(ask, |ask, operation| {
        ask.value("kms:GrantOperations", operation.name())
    })
}

fn check_principal(constraints: &mut Constraints, member: &str, value: Option<&str>) {
    constraints.chars(member, value, 1, PRINCIPAL_CHARS_MAX);
    let is_allowed = |c: char| c.is_alphanumeric() || "_+=,.@:/-".contains(c);
    let allowed = value.is_none_or(|text| text.chars().all(is_allowed));
    constraints.pattern(member, allowed, "^[\\w+=,.@:/-]+$");
}

fn check_arns<'a>(arns: impl IntoIterator<Item = &'a Option<String>>) -> Result<(), KmsError> {
    for arn in arns.into_iter().flatten() {
        if !is_principal_arn(arn) {
            return Err(KmsError::InvalidArn(format!(
                "ARN does not refer to a valid principal: {arn}"
            )));
        }
    }
    Ok(())
}

fn operations(names: &[String]) -> Result<Vec<GrantOperation>, KmsError> {
    let mut operations: Vec<_> = names
        .iter()
        .filter_map(|name| GrantOperation::parse(name))
        .collect();
    operations.sort_unstable();
    operations.dedup();
    if operations.is_empty() {
        return Err(KmsError::Validation(
            "1 validation error detected: Value '[]' at 'operations' failed to satisfy constraint: Member must have \
             length greater than or equal to 1"
                .to_owned(),
        ));
    }
    Ok(operations)
}

fn constraint(member: Option<ConstraintsMember>) -> Result<Option<GrantConstraint>, KmsError> {
    let Some(member) = member else {
        return Ok(None);
    };
    if member.source_arn.is_some() {
        return Err(KmsError::Unsupported(
            "The grant constraint SourceArn is not supported".to_owned(),
        ));
    }
    let pairs = |member: ContextMember| -> Result<Vec<(String, String)>, KmsError> {
        let context = context(Some(member))?;
        let pairs = context.iter();
        Ok(pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    };
    match (
        member.encryption_context_equals,
        member.encryption_context_subset,
    ) {
        (None, None) => Ok(None),
        (Some(equals), None) => Ok(Some(GrantConstraint::Equals(pairs(equals)?))),
        (None, Some(subset)) => Ok(Some(GrantConstraint::Subset(pairs(subset)?))),
        (Some(_), Some(_)) => Err(KmsError::Validation(
            "Only one of EncryptionContextEquals and EncryptionContextSubset can be specified."
                .to_owned(),
        )),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedGrants {
    grants: Vec<ListedGrant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedGrant {
    key_id: String,
    grant_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    creation_date: f64,
    grantee_principal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retiring_principal: Option<String>,
    issuing_account: String,
    operations: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<ListedConstraint>,
}

#[derive(Debug, Serialize)]
enum ListedConstraint {
    EncryptionContextEquals(BTreeMap<String, String>),
    EncryptionContextSubset(BTreeMap<String, String>),
}

fn listed(list: &'static str, page: Page<Grant, GrantCursor>) -> ListedGrants {
    let grants = page.items.into_iter().map(|grant| ListedGrant {
        key_id: grant.key.to_string(),
        grant_id: grant.id.to_string(),
        name: grant.terms.name,
        creation_date: seconds(grant.created),
        grantee_principal: grant.terms.grantee,
        retiring_principal: grant.terms.retiring,
        issuing_account: format!("arn:aws:iam::{}:root", grant.issuing_account),
        operations: grant.terms.operations.iter().map(|o| o.name()).collect(),
        constraints: grant.terms.constraint.map(|constraint| match constraint {
            GrantConstraint::Equals(pairs) => {
                ListedConstraint::EncryptionContextEquals(pairs.into_iter().collect())
            }
            GrantConstraint::Subset(pairs) => {
                ListedConstraint::EncryptionContextSubset(pairs.into_iter().collect())
            }
        }),
    });
    ListedGrants {
        grants: grants.collect(),
        truncated: page.next.is_some(),
        next_marker: page.next.map(|cursor| marker(list, &cursor)),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListGrantsRequest {
    key_id: Option<String>,
    grant_id: Option<String>,
    grantee_principal: Option<String>,
    grantee_service_principal: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

pub(super) async fn list_grants(
    call: &Call<'_>,
    input: ListGrantsRequest,
) -> Result<ListedGrants, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    check_grant_id(&mut constraints, input.grant_id.as_deref());
    check_principal(
        &mut constraints,
        "granteePrincipal",
        input.grantee_principal.as_deref(),
    );
    constraints.paging(&input.paging);
    constraints.finish()?;
    if input.grantee_service_principal.is_some() {
        return Err(KmsError::Unsupported(
            "Service principals are not supported".to_owned(),
        ));
    }
    let filter = GrantFilter {
        id: input.grant_id.as_deref().map(grant_id).transpose()?,
        grantee: input.grantee_principal,
    };
    let after = input.paging.after(OF_KEY, GrantCursor::parse)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:ListGrants"), &there(input.key_id)?)
        .await?;
    let limit = input
        .paging
        .limit(GRANTS_PER_PAGE_DEFAULT, GRANTS_PER_PAGE_MAX);
    let page = call.kms.list_grants(&proof, &key, &filter, limit, after);
    Ok(listed(OF_KEY, page.await?))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListRetirableGrantsRequest {
    retiring_principal: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

pub(super) async fn list_retirable_grants(
    call: &Call<'_>,
    input: ListRetirableGrantsRequest,
) -> Result<ListedGrants, KmsError> {
    let mut constraints = Constraints::default();
    let retiring = input.retiring_principal;
    constraints.required("retiringPrincipal", retiring.as_ref());
    check_principal(&mut constraints, "retiringPrincipal", retiring.as_deref());
    constraints.paging(&input.paging);
    constraints.finish()?;
    check_arns([&retiring])?;
    let after = input.paging.after(RETIRABLE, GrantCursor::parse)?;
    let proof = call.may_service(&Ask::new("kms:ListRetirableGrants"))?;
    let limit = input
        .paging
        .limit(GRANTS_PER_PAGE_DEFAULT, GRANTS_PER_PAGE_MAX);
    let page = call
        .kms
        .list_retirable_grants(&proof, &there(retiring)?, limit, after)
        .await?;
    Ok(listed(RETIRABLE, page))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndGrantRequest {
    grant_token: Option<String>,
    key_id: Option<String>,
    grant_id: Option<String>,
    dry_run: Option<bool>,
}

pub(super) async fn retire_grant(call: &Call<'_>, input: EndGrantRequest) -> Result<(), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id_if_any("keyId", input.key_id.as_ref());
    check_grant_id(&mut constraints, input.grant_id.as_deref());
    constraints.chars(
        "grantToken",
        input.grant_token.as_deref(),
        1,
        GRANT_TOKEN_CHARS_MAX,
    );
    constraints.finish()?;
    let (key, id) = match (input.grant_token, input.key_id, input.grant_id) {
        (Some(token), None, None) => call.kms.read_grant_token(&token).await?,
        (None, Some(key), Some(id)) => (call.key_but_no_alias(&key).await?, grant_id(&id)?),
        _ => {
            return Err(KmsError::Validation(
                "RetireGrant takes a GrantToken, or a KeyId and a GrantId.".to_owned(),
            ));
        }
    };
    let proof = call.may_retire(&key, id).await?;
    end_grant(call, (&key, id), &proof, input.dry_run).await
}

pub(super) async fn revoke_grant(call: &Call<'_>, input: EndGrantRequest) -> Result<(), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("grantId", input.grant_id.as_ref());
    check_grant_id(&mut constraints, input.grant_id.as_deref());
    constraints.finish()?;
    let id = grant_id(&there(input.grant_id)?)?;
    let ask = Ask::new("kms:RevokeGrant").value("kms:GrantIsForAWSResource", "false");
    let (proof, key) = call
        .authorised_key_but_no_alias(&ask, &there(input.key_id)?)
        .await?;
    end_grant(call, (&key, id), &proof, input.dry_run).await
}

async fn end_grant(
    call: &Call<'_>,
    (key, id): (&KeyArn, GrantId),
    proof: &crate::auth::Authorised,
    dry_run: Option<bool>,
) -> Result<(), KmsError> {
    if dry_run == Some(true) {
        call.kms.grant(key, id).await?;
        return Err(KmsError::DryRun);
    }
    call.kms.end_grant(proof, key, id).await
}

fn check_grant_id(constraints: &mut Constraints, value: Option<&str>) {
    constraints.chars("grantId", value, 1, GRANT_ID_CHARS_MAX);
}

fn grant_id(text: &str) -> Result<GrantId, KmsError> {
    GrantId::parse(text).ok_or_else(|| KmsError::InvalidGrantId(format!("Invalid grant ID {text}")))
}
