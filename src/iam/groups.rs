//! Who is in which group. A user's record names its groups; a group's record counts its members, so that neither can be
//! deleted under the other.

use super::error::IamError;
use super::names::{Kind, folded};
use super::record::{EntityRecord, Own, entity_prefix};
use super::{Iam, Page, Walk, entity, proven_entity, walk};
use crate::auth::Authorised;

/// Groups that one user may be in.
pub const GROUPS_OF_USER_MAX: usize = 10;

impl Iam {
    /// Puts a user into a group. One that is in it stays in it.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`]; [`IamError::LimitExceeded`] beyond [`GROUPS_OF_USER_MAX`].
    pub(super) async fn add_user_to_group(
        &self,
        proof: &Authorised,
        group: &str,
        user: &str,
    ) -> Result<(), IamError> {
        self.change_membership(proof, "iam:AddUserToGroup", group, user, true)
            .await
    }

    /// Takes a user out of a group. One that is not in it stays out.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn remove_user_from_group(
        &self,
        proof: &Authorised,
        group: &str,
        user: &str,
    ) -> Result<(), IamError> {
        self.change_membership(proof, "iam:RemoveUserFromGroup", group, user, false)
            .await
    }

    async fn change_membership(
        &self,
        proof: &Authorised,
        action: &str,
        group: &str,
        user: &str,
        is_in: bool,
    ) -> Result<(), IamError> {
        let account = &proof.principal().account;
        self.change(|rows| async move {
            let loaded_group = proven_entity(&rows, proof, &[action], Kind::Group, group).await?;
            let loaded_user = entity(&rows, account, Kind::User, user).await?;
            let (mut group, mut user) = (loaded_group.record.clone(), loaded_user.record.clone());
            let name = folded(&group.name);
            let (Own::Group { members }, Own::User { groups, .. }) =
                (&mut group.own, &mut user.own)
            else {
                return Err(IamError::Damaged("an identity of another kind"));
            };
            match (groups.binary_search(&name), is_in) {
                (Err(at), true) => {
                    if groups.len() >= GROUPS_OF_USER_MAX {
                        return Err(IamError::quota("GroupsPerUser", GROUPS_OF_USER_MAX));
                    }
                    groups.insert(at, name);
                    *members = members.saturating_add(1);
                }
                (Ok(at), false) => {
                    groups.remove(at);
                    *members = members.saturating_sub(1);
                }
                (Ok(_), true) | (Err(_), false) => {}
            }
            let batch = rows
                .replace(&loaded_group, &group)
                .and(rows.replace(&loaded_user, &user));
            Ok((batch, ()))
        })
        .await
    }

    /// A group and the users in it, by name.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn group_with_members(
        &self,
        proof: &Authorised,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(EntityRecord, Page<EntityRecord>), IamError> {
        let rows = self.kms.rows().await?;
        let group = proven_entity(&rows, proof, &["iam:GetGroup"], Kind::Group, group).await?;
        let name = folded(&group.record.name);
        let mut users = Vec::new();
        let table = entity_prefix(Kind::User, &proof.principal().account);
        walk(&rows, &table, after, |row| {
            let record: EntityRecord = rows.open("identity", row)?.record;
            if record.groups().contains(&name) {
                users.push(record);
            }
            Ok(if users.len() > limit {
                Walk::Stop
            } else {
                Walk::On
            })
        })
        .await?;
        let page = Page::cut(users, limit, |user| folded(&user.name));
        Ok((group.record, page))
    }

    /// The groups that a user is in, by name.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn groups_of_user(
        &self,
        proof: &Authorised,
        user: &str,
    ) -> Result<Vec<EntityRecord>, IamError> {
        let rows = self.kms.rows().await?;
        let account = &proof.principal().account;
        let user =
            proven_entity(&rows, proof, &["iam:ListGroupsForUser"], Kind::User, user).await?;
        let mut groups = Vec::new();
        for name in user.record.groups() {
            groups.push(entity(&rows, account, Kind::Group, name).await?.record);
        }
        Ok(groups)
    }
}
