//! Whom policies and grants mean by a name: the identities know, and say it here.

use std::sync::Weak;

use super::Kms;
use super::error::KmsError;
use crate::auth::policy::{Bound, Document};

/// Who knows users and roles. `iam` implements it; it stands on this module, so that it is told of itself later.
#[async_trait::async_trait]
pub trait Identities: std::fmt::Debug + Send + Sync + 'static {
    /// The unique ids of those of `principals`, as policies write them, that are users, roles, or sessions of roles.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    async fn bind(&self, principals: &[&str]) -> Result<Bound, BindError>;
}

/// What can go wrong with finding out who is meant.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Caller: an account, a user or a role that is not here.
    #[error("Invalid principal in policy: \"AWS\":\"{0}\"")]
    Nobody(String),
    /// By the records.
    #[error("identities")]
    Kms(#[source] KmsError),
}

impl Kms {
    /// Tells who knows users and roles. Before, and without, names mean whoever has them.
    pub fn identify_by(&self, identities: Weak<dyn Identities>) {
        // There is one of it: a second call would be a bug, and changes nothing.
        let _first = self.identities.set(identities);
    }

    /// `policy`, meaning those who have its names now: before it is stored.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub async fn bind(&self, policy: Document) -> Result<Document, BindError> {
        let principals: Vec<_> = policy.principals().collect();
        let bound = self.bind_principals(&principals).await?;
        Ok(policy.meaning(bound))
    }

    pub(super) async fn bind_principals(&self, principals: &[&str]) -> Result<Bound, BindError> {
        let Some(identities) = self.identities.get() else {
            return Ok(Bound::new());
        };
        let identities = identities.upgrade();
        let identities = identities.ok_or(BindError::Kms(KmsError::Busy))?;
        identities.bind(principals).await
    }
}
