//! Inline policies: they live in the record of their user, group or role.

use super::documents::{Use, check, counted_chars};
use super::error::IamError;
use super::names::Kind;
use super::record::EntityRecord;
use super::{Iam, proven_entity};
use crate::auth::Authorised;
use crate::meta::codec;

/// Characters that all inline policies of a user may have together, white space not counted.
pub const USER_INLINE_CHARS_MAX: usize = 2048;
/// The same of a group.
pub const GROUP_INLINE_CHARS_MAX: usize = 5120;
/// The same of a role.
pub const ROLE_INLINE_CHARS_MAX: usize = 10_240;
/// The largest record of an entity, white space included.
pub const ENTITY_BYTES_MAX: usize = 256 * 1024;

impl Kind {
    fn inline_chars_max(self) -> usize {
        match self {
            Self::User => USER_INLINE_CHARS_MAX,
            Self::Group => GROUP_INLINE_CHARS_MAX,
            Self::Role => ROLE_INLINE_CHARS_MAX,
        }
    }
}

impl Iam {
    /// Adds an inline policy, or replaces the one of that name.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], [`IamError::MalformedPolicy`]; [`IamError::LimitExceeded`] when all of the entity's
    /// are too long together.
    pub(super) async fn put_inline(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
        (policy, document): (&str, &str),
    ) -> Result<(), IamError> {
        check(Use::Identity, document)?;
        let action = &format!("iam:Put{}Policy", kind.title());
        self.change(|rows| async move {
            let loaded = proven_entity(&rows, proof, &[action], kind, name).await?;
            let mut record = loaded.record.clone();
            record.inline.insert(policy.to_owned(), document.to_owned());
            check_size(&record)?;
            Ok((rows.replace(&loaded, &record), ()))
        })
        .await
    }

    /// An inline policy: the entity's name and the policy's text.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn load_inline(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
        policy: &str,
    ) -> Result<(String, String), IamError> {
        let rows = self.kms.rows().await?;
        let action = format!("iam:Get{}Policy", kind.title());
        let mut record = proven_entity(&rows, proof, &[&action], kind, name)
            .await?
            .record;
        let document = record
            .inline
            .remove(policy)
            .ok_or_else(|| no_inline(kind, policy))?;
        Ok((record.name, document))
    }

    /// Deletes an inline policy.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn delete_inline(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
        policy: &str,
    ) -> Result<(), IamError> {
        let action = &format!("iam:Delete{}Policy", kind.title());
        self.change(|rows| async move {
            let loaded = proven_entity(&rows, proof, &[action], kind, name).await?;
            let mut record = loaded.record.clone();
            if record.inline.remove(policy).is_none() {
                return Err(no_inline(kind, policy));
            }
            Ok((rows.replace(&loaded, &record), ()))
        })
        .await
    }

    /// The names of an entity's inline policies, in order.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn list_inline(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
    ) -> Result<Vec<String>, IamError> {
        let rows = self.kms.rows().await?;
        let action = format!("iam:List{}Policies", kind.title());
        let loaded = proven_entity(&rows, proof, &[&action], kind, name).await?;
        Ok(loaded.record.inline.into_keys().collect())
    }
}

fn no_inline(kind: Kind, policy: &str) -> IamError {
    IamError::NoSuchEntity(format!(
        "The {} policy with name {policy} cannot be found.",
        kind.word()
    ))
}

fn check_size(record: &EntityRecord) -> Result<(), IamError> {
    let kind = record.kind();
    let max = kind.inline_chars_max();
    let chars: usize = record.inline.values().map(|text| counted_chars(text)).sum();
    if chars > max || codec::encode(record).len() > ENTITY_BYTES_MAX {
        return Err(IamError::LimitExceeded(format!(
            "Maximum policy size of {max} bytes exceeded for {} {}",
            kind.word(),
            record.name
        )));
    }
    Ok(())
}
