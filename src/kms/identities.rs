//! Whom policies and grants mean by a name, and what somebody may by now: the identities know, and say it here.

use std::sync::{Arc, Weak};

use minicbor::{Decode, Encode};

use super::Kms;
use super::error::KmsError;
use crate::auth::policy::{Bound, Document};
use crate::auth::{AccountId, Identity};

/// Who knows users and roles. `iam` implements it; it stands on this module, so that it is told of itself later.
#[async_trait::async_trait]
pub trait Identities: std::fmt::Debug + Send + Sync + 'static {
    /// The unique ids of those of `principals`, as policies write them, that are users, roles, or sessions of roles.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    async fn bind(&self, principals: &[&str]) -> Result<Bound, BindError>;

    /// Who began something earlier, with the policies that he has now. `None`: he is not there any more.
    ///
    /// # Errors
    ///
    /// [`BindError::Kms`].
    async fn identity_of(&self, who: &Starter) -> Result<Option<Identity>, BindError>;
}

/// Who began something that goes on without him.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starter {
    /// Whose.
    pub account: AccountId,
    /// Who of it.
    pub identity: StarterIdentity,
}

/// The same within its account, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum StarterIdentity {
    /// The root user.
    #[n(0)]
    Root,
    /// A user.
    #[n(1)]
    User {
        /// Its unique id.
        #[n(0)]
        id: String,
        /// Its name then.
        #[n(1)]
        name: String,
    },
    /// A session of a role. It may have ended since: the role goes on.
    #[n(2)]
    Session {
        /// The role's unique id.
        #[n(0)]
        role_id: String,
        /// The role's name.
        #[n(1)]
        role: String,
        /// `RoleSessionName`.
        #[n(2)]
        name: String,
        /// What the session was cut down to.
        #[n(3)]
        policies: Vec<String>,
    },
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
        match self.identities().map_err(BindError::Kms)? {
            Some(identities) => identities.bind(principals).await,
            None => Ok(Bound::new()),
        }
    }

    /// Who knows users and roles, if anybody was told of.
    pub(super) fn identities(&self) -> Result<Option<Arc<dyn Identities>>, KmsError> {
        let known = self.identities.get();
        // They go with the server only.
        known
            .map(|known| known.upgrade().ok_or(KmsError::Busy))
            .transpose()
    }
}
