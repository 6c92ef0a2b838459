//! `CreateAlias`, `UpdateAlias`, `DeleteAlias`, `ListAliases`.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{Constraints, Paging, marker, seconds, there};
use crate::kms::{AliasName, KeyArn, KmsError};

const ALIASES_PER_PAGE_DEFAULT: usize = 50;
const ALIASES_PER_PAGE_MAX: usize = 100;
const LIST: &str = "aliases";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PointAliasRequest {
    alias_name: Option<String>,
    target_key_id: Option<String>,
}

pub(super) async fn create_alias(
    call: &Call<'_>,
    input: PointAliasRequest,
) -> Result<(), KmsError> {
    const ACTION: &str = "kms:CreateAlias";
    let (name, key) = alias_and_key(call, input).await?;
    let proofs = (
        call.may_alias(ACTION, &name)?,
        call.may(&Ask::new(ACTION), &key).await?,
    );
    call.kms
        .create_alias((&proofs.0, &proofs.1), &name, &key)
        .await
}

pub(super) async fn update_alias(
    call: &Call<'_>,
    input: PointAliasRequest,
) -> Result<(), KmsError> {
    const ACTION: &str = "kms:UpdateAlias";
    let (name, key) = alias_and_key(call, input).await?;
    let of_alias = call.may_alias(ACTION, &name)?;
    let of_new = call.may(&Ask::new(ACTION), &key).await?;
    // The key that the alias leaves is asked as well: whoever uses it by this name is sent elsewhere.
    let left = call.kms.target_of_alias(call.account(), &name).await?;
    let of_old = call.may(&Ask::new(ACTION), &left).await?;
    call.kms
        .update_alias((&of_alias, &of_new, &of_old), &name, &key)
        .await
}

async fn alias_and_key(
    call: &Call<'_>,
    input: PointAliasRequest,
) -> Result<(AliasName, KeyArn), KmsError> {
    let mut constraints = Constraints::default();
    constraints.required("aliasName", input.alias_name.as_ref());
    constraints.key_id("targetKeyId", input.target_key_id.as_ref());
    constraints.finish()?;
    let name = AliasName::parse(&there(input.alias_name)?)?;
    let target = there(input.target_key_id)?;
    if target.starts_with("alias/") {
        return Err(KmsError::Validation(
            "Aliases must refer to keys. Not aliases".to_owned(),
        ));
    }
    Ok((name, call.key_but_no_alias(&target).await?))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteAliasRequest {
    alias_name: Option<String>,
}

pub(super) async fn delete_alias(
    call: &Call<'_>,
    input: DeleteAliasRequest,
) -> Result<(), KmsError> {
    const ACTION: &str = "kms:DeleteAlias";
    let mut constraints = Constraints::default();
    constraints.required("aliasName", input.alias_name.as_ref());
    constraints.finish()?;
    let name = AliasName::parse(&there(input.alias_name)?)?;
    // Before it is looked for: whether there is one is not told to who may not delete it.
    let of_alias = call.may_alias(ACTION, &name)?;
    let key = call.kms.target_of_alias(call.account(), &name).await?;
    let of_key = call.may(&Ask::new(ACTION), &key).await?;
    call.kms
        .delete_alias((&of_alias, &of_key), &name, &key)
        .await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListAliasesRequest {
    key_id: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedAliases {
    aliases: Vec<ListedAlias>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedAlias {
    alias_name: String,
    alias_arn: String,
    target_key_id: String,
    creation_date: f64,
    last_updated_date: f64,
}

pub(super) async fn list_aliases(
    call: &Call<'_>,
    input: ListAliasesRequest,
) -> Result<ListedAliases, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id_if_any("keyId", input.key_id.as_ref());
    constraints.paging(&input.paging);
    constraints.finish()?;
    let after = input.paging.after(LIST, |name| Some(name.to_owned()))?;
    let key = match &input.key_id {
        Some(key) => Some(call.key_but_no_alias(key).await?),
        None => None,
    };
    let ask = Ask::new("kms:ListAliases");
    if let Some(key) = key.as_ref().filter(|key| key.account() != call.account()) {
        // Nobody lists those of another account, whatever the key's policy says.
        let _never = call.may(&ask, key).await?;
    }
    let proof = call.may_service(&ask)?;
    let limit = input
        .paging
        .limit(ALIASES_PER_PAGE_DEFAULT, ALIASES_PER_PAGE_MAX);
    let page = call
        .kms
        .list_aliases(&proof, key.as_ref(), limit, after.as_deref())
        .await?;
    let aliases = page.items.into_iter().map(|alias| ListedAlias {
        alias_name: alias.name,
        alias_arn: alias.arn,
        target_key_id: alias.target.to_string(),
        creation_date: seconds(alias.created),
        last_updated_date: seconds(alias.updated),
    });
    Ok(ListedAliases {
        aliases: aliases.collect(),
        truncated: page.next.is_some(),
        next_marker: page.next.map(|cursor| marker(LIST, &cursor)),
    })
}
