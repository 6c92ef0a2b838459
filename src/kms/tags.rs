//! Tags of keys.

use std::collections::{BTreeMap, BTreeSet};

use super::error::KmsError;
use super::key::{KeyArn, Owner};
use super::{Kms, Page, check_proof};
use crate::auth::Authorised;

/// Tags that one key may have.
pub const TAGS_PER_KEY_MAX: usize = 50;
/// The longest name of a tag, in characters.
pub const TAG_NAME_CHARS_MAX: usize = 128;
/// The longest value of a tag, in characters.
pub const TAG_VALUE_CHARS_MAX: usize = 256;

impl Kms {
    /// Adds tags, and replaces those whose names are there.
    ///
    /// # Errors
    ///
    /// [`KmsError::Tag`], [`KmsError::Validation`]; by the key's state.
    pub async fn tag_resource(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        tags: &[(String, String)],
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:TagResource";
        check_proof(proof, &[ACTION], key)?;
        self.update_key(key, |record| {
            record.customer_managed(key, ACTION)?;
            record.not_dying(key)?;
            record.tags = merge(&record.tags, tags)?;
            Ok(())
        })
        .await
    }

    /// Removes tags; names that are not there are removed already.
    ///
    /// # Errors
    ///
    /// [`KmsError::Tag`]; by the key's state.
    pub async fn untag_resource(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        names: &[String],
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:UntagResource";
        check_proof(proof, &[ACTION], key)?;
        for name in names {
            check_reserved(name)?;
        }
        self.update_key(key, |record| {
            record.customer_managed(key, ACTION)?;
            record.not_dying(key)?;
            record.tags.retain(|name, _| !names.contains(name));
            Ok(())
        })
        .await
    }

    /// Lists tags, by name.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn list_resource_tags(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<(String, String), String>, KmsError> {
        check_proof(proof, &["kms:ListResourceTags"], key)?;
        let tags = self
            .rows()
            .await?
            .head(&Owner::Key(key.clone()))
            .await?
            .record
            .tags;
        let rest = tags
            .into_iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
        Ok(Page::cut(
            rest.take(limit.saturating_add(1)).collect(),
            limit,
            |(name, _)| name.clone(),
        ))
    }
}

/// `tags` with `new` added.
pub(super) fn merge(
    tags: &BTreeMap<String, String>,
    new: &[(String, String)],
) -> Result<BTreeMap<String, String>, KmsError> {
    let mut names = BTreeSet::new();
    let mut merged = tags.clone();
    for (at, (name, value)) in new.iter().enumerate() {
        check_length(name, TAG_NAME_CHARS_MAX, 1, at, "tagKey")?;
        check_length(value, TAG_VALUE_CHARS_MAX, 0, at, "tagValue")?;
        check_reserved(name)?;
        if !names.insert(name) {
            return Err(KmsError::Tag("Duplicate tag keys"));
        }
        merged.insert(name.clone(), value.clone());
    }
    if merged.len() > TAGS_PER_KEY_MAX {
        return Err(KmsError::Tag("Too many tags"));
    }
    Ok(merged)
}

fn check_reserved(name: &str) -> Result<(), KmsError> {
    if name.to_ascii_lowercase().starts_with("aws:") {
        return Err(KmsError::Tag("Tags beginning with aws: are reserved"));
    }
    Ok(())
}

fn check_length(
    text: &str,
    max: usize,
    min: usize,
    at: usize,
    member: &str,
) -> Result<(), KmsError> {
    let length = text.chars().count();
    let constraint = match length {
        _ if length > max => format!("less than or equal to {max}"),
        _ if length < min => format!("greater than or equal to {min}"),
        _ => return Ok(()),
    };
    Err(KmsError::Validation(format!(
        "1 validation error detected: Value '{text}' at 'tags.{}.member.{member}' failed to satisfy constraint: Member \
         must have length {constraint}",
        at + 1
    )))
}
