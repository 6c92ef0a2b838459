//! Access keys of users.

use super::error::IamError;
use super::names::{Kind, folded, new_access_key_id, new_secret};
use super::record::{AccessKeyRecord, EntityRecord, Own, access_key_row};
use super::{Iam, check_proof, entity, proven_entity};
use crate::auth::{AccountId, Authorised};
use crate::kms::{Loaded, Rows};
use zeroize::Zeroizing;

/// Access keys that one user may have.
pub const ACCESS_KEYS_OF_USER_MAX: usize = 2;

/// An access key that was made just now: the only time that its secret is told.
pub(super) struct NewAccessKey {
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
    pub(super) created: i64,
}

/// What is told of an access key.
#[derive(Debug)]
pub(super) struct AccessKeyEntry {
    pub(super) id: String,
    pub(super) active: bool,
    /// Seconds since 1970; unknown of a root key.
    pub(super) created: Option<i64>,
}

impl Iam {
    /// Makes an access key of a user.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`]; [`IamError::LimitExceeded`] beyond [`ACCESS_KEYS_OF_USER_MAX`]; by the HSM.
    pub(super) async fn create_access_key(
        &self,
        proof: &Authorised,
        user: &str,
    ) -> Result<(EntityRecord, NewAccessKey), IamError> {
        let account = &proof.principal().account;
        let credential = &*self.credential_or_make().await?;
        let created = self.now();
        self.change(|rows| async move {
            let actions = ["iam:CreateAccessKey"];
            let loaded = proven_entity(&rows, proof, &actions, Kind::User, user).await?;
            let mut record = loaded.record.clone();
            let Own::User { access_keys, .. } = &mut record.own else {
                return Err(IamError::Damaged("a user that is none"));
            };
            if access_keys.len() >= ACCESS_KEYS_OF_USER_MAX {
                return Err(IamError::quota(
                    "AccessKeysPerUser",
                    ACCESS_KEYS_OF_USER_MAX,
                ));
            }
            let id = new_access_key_id("AKIA")?;
            let secret = new_secret()?;
            access_keys.push(id.clone());
            let key = AccessKeyRecord {
                account: account.as_str().to_owned(),
                user: folded(&record.name),
                user_id: record.id.clone(),
                active: true,
                created,
                secret: credential.wrap_secret(&id, account, &secret)?,
            };
            let batch = rows
                .replace(&loaded, &record)
                .and(rows.insert(access_key_row(&id), &key));
            let made = NewAccessKey {
                id,
                secret,
                created,
            };
            Ok((batch, (record, made)))
        })
        .await
    }

    /// The access keys of a user, the oldest first.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn list_access_keys(
        &self,
        proof: &Authorised,
        user: &str,
    ) -> Result<(EntityRecord, Vec<AccessKeyEntry>), IamError> {
        let rows = self.kms.rows().await?;
        let actions = ["iam:ListAccessKeys"];
        let user = proven_entity(&rows, proof, &actions, Kind::User, user)
            .await?
            .record;
        let mut keys = Vec::new();
        for id in user.access_keys() {
            let record = key_of(&rows, &user, id).await?.record;
            keys.push(AccessKeyEntry {
                id: id.clone(),
                active: record.active,
                created: Some(record.created),
            });
        }
        Ok((user, keys))
    }

    /// The access keys of the root user, which are in the configuration.
    pub(super) fn list_root_access_keys(
        &self,
        proof: &Authorised,
    ) -> Result<Vec<AccessKeyEntry>, IamError> {
        let account = &proof.principal().account;
        check_proof(
            proof,
            &["iam:ListAccessKeys"],
            &format!("arn:aws:iam::{account}:root"),
        )?;
        let entry = |id| AccessKeyEntry {
            id,
            active: true,
            created: None,
        };
        Ok(self
            .accounts
            .root_keys(account)
            .into_iter()
            .map(entry)
            .collect())
    }

    /// The ids of an account's root access keys.
    pub(super) fn list_root_ids(&self, account: &AccountId) -> Vec<String> {
        self.accounts.root_keys(account)
    }

    /// Activates or deactivates an access key. With the next request it is so.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn update_access_key(
        &self,
        proof: &Authorised,
        user: &str,
        id: &str,
        active: bool,
    ) -> Result<(), IamError> {
        self.change(|rows| async move {
            let actions = ["iam:UpdateAccessKey"];
            let user = proven_entity(&rows, proof, &actions, Kind::User, user).await?;
            let loaded = key_of(&rows, &user.record, id).await?;
            let mut record = loaded.record.clone();
            record.active = active;
            Ok((rows.replace(&loaded, &record).and(user.unchanged()), ()))
        })
        .await
    }

    /// Deletes an access key.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn delete_access_key(
        &self,
        proof: &Authorised,
        user: &str,
        id: &str,
    ) -> Result<(), IamError> {
        self.change(|rows| async move {
            let actions = ["iam:DeleteAccessKey"];
            let loaded = proven_entity(&rows, proof, &actions, Kind::User, user).await?;
            let key = key_of(&rows, &loaded.record, id).await?;
            let mut record = loaded.record.clone();
            if let Own::User { access_keys, .. } = &mut record.own {
                access_keys.retain(|known| known != id);
            }
            Ok((rows.replace(&loaded, &record).and(key.delete()), ()))
        })
        .await
    }

    /// Whose an access key of the caller's account is: before anything is decided.
    pub(super) async fn owner_of_key(
        &self,
        account: &AccountId,
        id: &str,
    ) -> Result<Option<EntityRecord>, IamError> {
        let rows = self.kms.rows().await?;
        let Some(key) = access_key(&rows, id).await? else {
            return Ok(None);
        };
        if key.record.account != account.as_str() {
            return Ok(None);
        }
        let user = entity(&rows, account, Kind::User, &key.record.user).await?;
        Ok(Some(user.record))
    }
}

/// An access key, if it is there.
pub(super) async fn access_key(
    rows: &Rows,
    id: &str,
) -> Result<Option<Loaded<AccessKeyRecord>>, IamError> {
    Ok(rows.load("access key", access_key_row(id)).await?)
}

/// An access key that must be the user's.
async fn key_of(
    rows: &Rows,
    user: &EntityRecord,
    id: &str,
) -> Result<Loaded<AccessKeyRecord>, IamError> {
    if !user.access_keys().iter().any(|known| known == id) {
        return Err(IamError::NoSuchEntity(format!(
            "The Access Key with id {id} cannot be found."
        )));
    }
    access_key(rows, id)
        .await?
        .filter(|key| key.record.user_id == user.id)
        .ok_or(IamError::Damaged("an access key is missing"))
}
