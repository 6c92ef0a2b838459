//! Users, groups and roles: making, finding, listing, renaming and deleting them.

use std::collections::BTreeMap;

use super::error::IamError;
use super::names::{Kind, folded, new_id};
use super::record::{EntityRecord, Own, entity_prefix, entity_row};
use super::{
    Iam, Page, Walk, check_action, check_proof, check_service_proof, find_entity, proven_entity,
    retally, walk,
};
use crate::auth::{AccountId, Authorised};
use crate::kms::{Loaded, Rows};
use crate::meta::Batch;

/// Users that an account may have.
pub const USERS_MAX: u32 = 5000;
/// Groups that an account may have.
pub const GROUPS_MAX: u32 = 300;
/// Roles that an account may have.
pub const ROLES_MAX: u32 = 1000;

impl Kind {
    /// How many an account may have, and the quota's name.
    fn quota(self) -> (&'static str, u32) {
        match self {
            Self::User => ("UsersPerAccount", USERS_MAX),
            Self::Group => ("GroupsPerAccount", GROUPS_MAX),
            Self::Role => ("RolesPerAccount", ROLES_MAX),
        }
    }
}

impl Iam {
    /// An entity as it is now: what its ARN is, before anything is decided.
    pub(super) async fn find(
        &self,
        account: &AccountId,
        kind: Kind,
        name: &str,
    ) -> Result<Option<EntityRecord>, IamError> {
        let rows = self.kms.rows().await?;
        let loaded = find_entity(&rows, account, kind, name).await?;
        Ok(loaded.map(|loaded| loaded.record))
    }

    /// Makes an entity.
    ///
    /// # Errors
    ///
    /// [`IamError::AlreadyExists`], [`IamError::LimitExceeded`].
    pub(super) async fn create(
        &self,
        proof: &Authorised,
        path: &str,
        name: &str,
        own: Own,
    ) -> Result<EntityRecord, IamError> {
        let account = &proof.principal().account;
        let record = &EntityRecord {
            id: String::new(),
            path: path.to_owned(),
            name: name.to_owned(),
            created: self.now(),
            inline: BTreeMap::new(),
            attached: Vec::new(),
            own,
        };
        let kind = record.kind();
        let action = format!("iam:Create{}", kind.title());
        check_proof(proof, &[&action], &record.arn(account))?;
        self.change(|rows| async move {
            if let Some(there) = find_entity(&rows, account, kind, name).await? {
                return Err(taken(kind, &there.record.name));
            }
            let record = EntityRecord {
                id: new_id(kind.id_prefix())?,
                ..record.clone()
            };
            let (quota, max) = kind.quota();
            let tally = retally(&rows, account, |tally| {
                let count = tally.of(kind);
                if *count >= max {
                    return Err(IamError::LimitExceeded(format!(
                        "Cannot exceed quota for {quota}: {max}"
                    )));
                }
                *count += 1;
                Ok(())
            })
            .await?;
            let batch = rows
                .insert(entity_row(kind, account, name), &record)
                .and(tally);
            Ok((batch, record))
        })
        .await
    }

    /// An entity.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn load(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
    ) -> Result<EntityRecord, IamError> {
        let rows = self.kms.rows().await?;
        let action = format!("iam:Get{}", kind.title());
        let loaded = proven_entity(&rows, proof, &[&action], kind, name).await?;
        Ok(loaded.record)
    }

    /// The entities of a kind whose paths begin with `prefix`, by name; from after the one named `after` on.
    pub(super) async fn list(
        &self,
        proof: &Authorised,
        kind: Kind,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<EntityRecord>, IamError> {
        check_service_proof(proof, &[&format!("iam:List{}s", kind.title())])?;
        let rows = self.kms.rows().await?;
        let mut items = Vec::new();
        let table = entity_prefix(kind, &proof.principal().account);
        walk(&rows, &table, after, |row| {
            let record: EntityRecord = rows.open("identity", row)?.record;
            if record.path.starts_with(prefix) {
                items.push(record);
            }
            Ok(if items.len() > limit {
                Walk::Stop
            } else {
                Walk::On
            })
        })
        .await?;
        Ok(Page::cut(items, limit, |record| folded(&record.name)))
    }

    /// Gives a user or a group another name, another path, or both. `target` is the proof for what it will be.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], [`IamError::AlreadyExists`].
    pub(super) async fn rename(
        &self,
        (proof, target): (&Authorised, &Authorised),
        kind: Kind,
        name: &str,
        (new_path, new_name): (Option<&str>, Option<&str>),
    ) -> Result<(), IamError> {
        let account = &proof.principal().account;
        let action = &format!("iam:Update{}", kind.title());
        self.change(|rows| async move {
            let loaded = proven_entity(&rows, proof, &[action], kind, name).await?;
            let mut record = loaded.record.clone();
            if let Some(path) = new_path {
                path.clone_into(&mut record.path);
            }
            if let Some(name) = new_name {
                name.clone_into(&mut record.name);
            }
            check_proof(target, &[action], &record.arn(account))?;
            if folded(&record.name) == folded(&loaded.record.name) {
                return Ok((rows.replace(&loaded, &record), ()));
            }
            let row = entity_row(kind, account, &record.name);
            if let Some(there) = find_entity(&rows, account, kind, &record.name).await? {
                return Err(taken(kind, &there.record.name));
            }
            let referring = match kind {
                Kind::User => rename_in_keys(&rows, &loaded.record, &record).await?,
                Kind::Group => rename_in_members(&rows, account, &loaded.record, &record).await?,
                Kind::Role => return Err(IamError::Internal("roles are not renamed")),
            };
            let batch = loaded
                .delete()
                .and(rows.insert(row, &record))
                .and(referring);
            Ok((batch, ()))
        })
        .await
    }

    /// Deletes an entity that nothing hangs on.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], [`IamError::DeleteConflict`].
    pub(super) async fn delete(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
    ) -> Result<(), IamError> {
        let account = &proof.principal().account;
        let action = &format!("iam:Delete{}", kind.title());
        self.change(|rows| async move {
            let loaded = proven_entity(&rows, proof, &[action], kind, name).await?;
            check_free(&loaded.record)?;
            let tally = retally(&rows, account, |tally| {
                let count = tally.of(kind);
                *count = count.saturating_sub(1);
                Ok(())
            })
            .await?;
            Ok((loaded.delete().and(tally), ()))
        })
        .await
    }

    /// How many entities of each kind the caller's account has, by the names of `GetAccountSummary`.
    pub(super) async fn summary(
        &self,
        proof: &Authorised,
    ) -> Result<Vec<(&'static str, u64)>, IamError> {
        check_action(proof, &["iam:GetAccountSummary"])?;
        let rows = self.kms.rows().await?;
        let row = super::record::tally_row(&proof.principal().account);
        let tally = rows
            .load::<super::record::Tally>("tally of an account", row)
            .await?;
        let tally = tally.map(|loaded| loaded.record).unwrap_or_default();
        let large = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Ok(vec![
            ("Users", tally.users.into()),
            ("UsersQuota", USERS_MAX.into()),
            ("Groups", tally.groups.into()),
            ("GroupsQuota", GROUPS_MAX.into()),
            ("Roles", tally.roles.into()),
            ("RolesQuota", ROLES_MAX.into()),
            ("Policies", tally.policies.into()),
            ("PoliciesQuota", super::POLICIES_MAX.into()),
            (
                "AccessKeysPerUserQuota",
                large(super::ACCESS_KEYS_OF_USER_MAX),
            ),
            ("GroupsPerUserQuota", large(super::GROUPS_OF_USER_MAX)),
            ("AttachedPoliciesPerUserQuota", large(super::ATTACHED_MAX)),
            ("AttachedPoliciesPerGroupQuota", large(super::ATTACHED_MAX)),
            ("AttachedPoliciesPerRoleQuota", large(super::ATTACHED_MAX)),
            ("UserPolicySizeQuota", large(super::USER_INLINE_CHARS_MAX)),
            ("GroupPolicySizeQuota", large(super::GROUP_INLINE_CHARS_MAX)),
            ("RolePolicySizeQuota", large(super::ROLE_INLINE_CHARS_MAX)),
            ("AssumeRolePolicySizeQuota", large(super::TRUST_CHARS_MAX)),
            ("PolicySizeQuota", large(super::MANAGED_CHARS_MAX)),
            ("VersionsPerPolicyQuota", large(super::VERSIONS_MAX)),
        ])
    }
}

fn taken(kind: Kind, name: &str) -> IamError {
    IamError::AlreadyExists(format!("{} with name {name} already exists.", kind.title()))
}

/// Checks that nothing hangs on an entity that is to go.
fn check_free(record: &EntityRecord) -> Result<(), IamError> {
    let conflict = match &record.own {
        Own::User { access_keys, .. } if !access_keys.is_empty() => {
            "Cannot delete entity, must delete access keys first."
        }
        Own::User { groups, .. } if !groups.is_empty() => {
            "Cannot delete entity, must remove users from group first."
        }
        Own::Group { members: 1.. } => "Cannot delete entity, must remove users from group first.",
        _ if !record.attached.is_empty() => "Cannot delete entity, must detach all policies first.",
        _ if !record.inline.is_empty() => "Cannot delete entity, must delete policies first.",
        _ => return Ok(()),
    };
    Err(IamError::DeleteConflict(conflict))
}

/// The access keys of a user name it.
async fn rename_in_keys(
    rows: &Rows,
    old: &EntityRecord,
    new: &EntityRecord,
) -> Result<Batch, IamError> {
    let mut batch = Batch::new();
    for id in old.access_keys() {
        let loaded = super::keys::access_key(rows, id)
            .await?
            .ok_or(IamError::Damaged("an access key is missing"))?;
        let mut record = loaded.record.clone();
        record.user = folded(&new.name);
        batch = batch.and(rows.replace(&loaded, &record));
    }
    Ok(batch)
}

/// The members of a group name it.
async fn rename_in_members(
    rows: &Rows,
    account: &AccountId,
    old: &EntityRecord,
    new: &EntityRecord,
) -> Result<Batch, IamError> {
    let (old, new) = (folded(&old.name), folded(&new.name));
    let mut members: Vec<Loaded<EntityRecord>> = Vec::new();
    walk(rows, &entity_prefix(Kind::User, account), None, |row| {
        let loaded: Loaded<EntityRecord> = rows.open("identity", row)?;
        if loaded.record.groups().contains(&old) {
            members.push(loaded);
        }
        Ok(Walk::On)
    })
    .await?;
    let mut batch = Batch::new();
    for loaded in members {
        let mut record = loaded.record.clone();
        if let Own::User { groups, .. } = &mut record.own {
            groups.retain(|group| *group != old);
            groups.push(new.clone());
            groups.sort_unstable();
        }
        batch = batch.and(rows.replace(&loaded, &record));
    }
    Ok(batch)
}
