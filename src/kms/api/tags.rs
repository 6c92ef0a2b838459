//! `TagResource`, `UntagResource`, `ListResourceTags`.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{Constraints, Paging, marker, there};
use crate::kms::{KmsError, TAG_NAME_CHARS_MAX};

const TAGS_PER_PAGE_DEFAULT: usize = 50;
const TAGS_PER_PAGE_MAX: usize = 50;
const LIST: &str = "tags";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    tag_key: Option<String>,
    tag_value: Option<String>,
}

/// Names and values; `kms` checks them.
pub(super) fn pairs(tags: Vec<Tag>) -> Result<Vec<(String, String)>, KmsError> {
    let mut constraints = Constraints::default();
    for (at, tag) in (1..).zip(&tags) {
        constraints.required(&format!("tags.{at}.member.tagKey"), tag.tag_key.as_ref());
        constraints.required(
            &format!("tags.{at}.member.tagValue"),
            tag.tag_value.as_ref(),
        );
    }
    constraints.finish()?;
    tags.into_iter()
        .map(|tag| Ok((there(tag.tag_key)?, there(tag.tag_value)?)))
        .collect()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagResourceRequest {
    key_id: Option<String>,
    tags: Option<Vec<Tag>>,
}

pub(super) async fn tag_resource(
    call: &Call<'_>,
    input: TagResourceRequest,
) -> Result<(), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("tags", input.tags.as_ref());
    constraints.finish()?;
    let tags = pairs(there(input.tags)?)?;
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:TagResource"), &key)
        .await?;
    call.kms.tag_resource(&proof, &key, &tags).await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UntagResourceRequest {
    key_id: Option<String>,
    tag_keys: Option<Vec<String>>,
}

pub(super) async fn untag_resource(
    call: &Call<'_>,
    input: UntagResourceRequest,
) -> Result<(), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("tagKeys", input.tag_keys.as_ref());
    for (at, name) in (1..).zip(input.tag_keys.iter().flatten()) {
        constraints.chars(
            &format!("tagKeys.{at}.member"),
            Some(name),
            1,
            TAG_NAME_CHARS_MAX,
        );
    }
    constraints.finish()?;
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:UntagResource"), &key)
        .await?;
    call.kms
        .untag_resource(&proof, &key, &there(input.tag_keys)?)
        .await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListResourceTagsRequest {
    key_id: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedTags {
    tags: Vec<ListedTag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedTag {
    tag_key: String,
    tag_value: String,
}

pub(super) async fn list_resource_tags(
    call: &Call<'_>,
    input: ListResourceTagsRequest,
) -> Result<ListedTags, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.paging(&input.paging);
    constraints.finish()?;
    let after = input.paging.after(LIST, |name| Some(name.to_owned()))?;
    let key = there(input.key_id)?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:ListResourceTags"), &key)
        .await?;
    let limit = input.paging.limit(TAGS_PER_PAGE_DEFAULT, TAGS_PER_PAGE_MAX);
    let page = call
        .kms
        .list_resource_tags(&proof, &key, limit, after.as_deref())
        .await?;
    let tags = page.items.into_iter();
    Ok(ListedTags {
        tags: tags
            .map(|(tag_key, tag_value)| ListedTag { tag_key, tag_value })
            .collect(),
        truncated: page.next.is_some(),
        next_marker: page.next.map(|cursor| marker(LIST, &cursor)),
    })
}
