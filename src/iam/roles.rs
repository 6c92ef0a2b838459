//! What only roles have: who may assume them, for how long.

use super::documents::{Use, check, counted_chars};
use super::error::IamError;
use super::names::Kind;
use super::record::{EntityRecord, Own};
use super::{Iam, proven_entity};
use crate::auth::Authorised;
use crate::auth::policy::Document;

/// Characters of a trust policy, white space not counted.
pub const TRUST_CHARS_MAX: usize = 2048;

impl Iam {
    /// Makes a role.
    ///
    /// # Errors
    ///
    /// [`IamError::AlreadyExists`], [`IamError::LimitExceeded`], [`IamError::MalformedPolicy`].
    pub(super) async fn create_role(
        &self,
        proof: &Authorised,
        (path, name, description): (&str, &str, &str),
        trust: &str,
        session_seconds_max: u32,
    ) -> Result<EntityRecord, IamError> {
        let own = Own::Role {
            bound: self.bind_trust(&check_trust(trust)?).await?,
            trust: trust.to_owned(),
            description: description.to_owned(),
            session_seconds_max,
        };
        self.create(proof, path, name, own).await
    }

    /// Changes what a role is described as, and how long its sessions may last. What is `None` stays.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn update_role(
        &self,
        proof: &Authorised,
        name: &str,
        new_description: Option<&str>,
        new_session_seconds_max: Option<u32>,
    ) -> Result<EntityRecord, IamError> {
        let actions = ["iam:UpdateRole", "iam:UpdateRoleDescription"];
        self.update(proof, &actions, name, |own| {
            if let Own::Role {
                description,
                session_seconds_max,
                ..
            } = own
            {
                if let Some(new) = new_description {
                    new.clone_into(description);
                }
                if let Some(new) = new_session_seconds_max {
                    *session_seconds_max = new;
                }
            }
        })
        .await
    }

    /// Changes who may assume a role. Sessions that there are go on.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], [`IamError::MalformedPolicy`], [`IamError::LimitExceeded`].
    pub(super) async fn update_trust(
        &self,
        proof: &Authorised,
        name: &str,
        document: &str,
    ) -> Result<(), IamError> {
        let meant = self.bind_trust(&check_trust(document)?).await?;
        self.update(proof, &["iam:UpdateAssumeRolePolicy"], name, |own| {
            if let Own::Role { trust, bound, .. } = own {
                document.clone_into(trust);
                bound.clone_from(&meant);
            }
        })
        .await
        .map(drop)
    }

    async fn update(
        &self,
        proof: &Authorised,
        actions: &[&str],
        name: &str,
        change: impl Fn(&mut Own),
    ) -> Result<EntityRecord, IamError> {
        let change = &change;
        self.change(|rows| async move {
            let loaded = proven_entity(&rows, proof, actions, Kind::Role, name).await?;
            let mut record = loaded.record.clone();
            change(&mut record.own);
            Ok((rows.replace(&loaded, &record), record))
        })
        .await
    }
}

fn check_trust(document: &str) -> Result<Document, IamError> {
    if counted_chars(document) > TRUST_CHARS_MAX {
        return Err(IamError::quota("ACLSizePerRole", TRUST_CHARS_MAX));
    }
    check(Use::Trust, document)
}
