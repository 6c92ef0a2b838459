//! Keys as such: create, describe, list, enable, disable, and the key that the service makes for S3.

use std::collections::BTreeMap;

use super::aliases::{self, AliasRecord};
use super::backing::{Kind, MadeBacking, Target};
use super::deletion::LIST_STEP;
use super::error::KmsError;
use super::key::{
    Cause, KeyArn, KeyId, KeyManager, KeyMaterialId, KeyRecord, KeyState, Owner, Timestamp,
    pending_import,
};
use super::policy::{self, POLICY_NAME, PolicyRecord};
use super::spec::{KeyOrigin, KeySpec};
use super::stores::{KeyStoreId, KeyStoreOfKey};
use super::{COMMIT_ATTEMPTS_MAX, Kms, Page, check_proof, check_proof_of, rotation, table, tags};
use crate::auth::{AccountId, Authorised, Resource};
use crate::meta::{Batch, table as tables};

/// The longest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 8192;

const S3_ALIAS: &str = "alias/aws/s3";
const S3_DESCRIPTION: &str = "Default key that protects my S3 objects when no other key is defined";

/// What a caller says of a key to make.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// At most [`DESCRIPTION_CHARS_MAX`].
    pub description: String,
    /// Its tags, in the order given.
    pub tags: Vec<(String, String)>,
    /// Its policy; the default one without.
    pub policy: Option<String>,
    /// Whether a policy that locks the caller out is taken all the same.
    pub bypass_lockout_check: bool,
    /// The custom key store that it goes into; the default group without.
    pub store: Option<KeyStoreId>,
    /// What it is.
    pub spec: KeySpec,
    /// Whether its material is brought along.
    pub external: bool,
}

/// Material that is brought along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportStatus {
    /// Whether all is there that belongs to the key.
    pub present: bool,
    /// When the first of it expires, if any does.
    pub expires: Option<Timestamp>,
}

/// What is told of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMetadata {
    /// Its ARN.
    pub arn: KeyArn,
    /// When it was made.
    pub created: Timestamp,
    /// Its description.
    pub description: String,
    /// Its state.
    pub state: KeyState,
    /// Who manages it.
    pub manager: KeyManager,
    /// The backing key that encrypts.
    pub current_material: Option<KeyMaterialId>,
    /// Of a key whose material is brought along: how that is.
    pub import: Option<ImportStatus>,
    /// What it is.
    pub spec: KeySpec,
    /// The custom key store that it is in.
    pub store: Option<KeyStoreOfKey>,
}

impl NewKey {
    /// Where its material comes from.
    pub fn origin(&self) -> KeyOrigin {
        KeyOrigin::of(self.external, self.store.is_some())
    }
}

impl KeyMetadata {
    /// Where its material comes from.
    pub fn origin(&self) -> KeyOrigin {
        KeyOrigin::of(self.import.is_some(), self.store.is_some())
    }
}

impl Kms {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// [`KmsError::Tag`], [`KmsError::MalformedPolicy`], [`KmsError::Validation`]; [`KmsError::LimitExceeded`] when the
    /// account has as many as it may; by the HSM and the records.
    pub async fn create_key(
        &self,
        proof: &Authorised,
        new: NewKey,
    ) -> Result<KeyMetadata, KmsError> {
        check_proof_of(proof, &["kms:CreateKey"], &Resource::Service)?;
        check_description(&new.description)?;
        let account = &proof.principal().account;
        self.check_store_for(account, new.store.as_ref())?;
        let policy = match new.policy {
            Some(document) => {
                let who = (account, proof.principal());
                self.checked_policy(&document, "*", who, new.bypass_lockout_check)
                    .await?
            }
            None => PolicyRecord::of_accounts(policy::default_document(account)),
        };
        if new.store.is_some() && new.spec != KeySpec::SYMMETRIC_DEFAULT {
            return Err(KmsError::Unsupported(format!(
                "Keys of key spec {} are not supported in custom key stores",
                new.spec.name()
            )));
        }
        if new.external && (new.store.is_some() || new.spec != KeySpec::SYMMETRIC_DEFAULT) {
            return Err(KmsError::Unsupported(
                "Key material can be imported into symmetric encryption keys outside of custom key stores only"
                    .to_owned(),
            ));
        }
        let mut record = KeyRecord::new(self.now(), KeyManager::Customer)
            .of_account(account, self.account())
            .of_spec(new.spec);
        if new.external {
            self.see_that_imports_work().await?;
            record = record.external();
        }
        record.description = new.description;
        record.store = new.store;
        record.tags = tags::merge(&BTreeMap::new(), &new.tags)?;
        self.make_key(record, &policy, None)
            .await?
            .ok_or(KmsError::internal("no alias can be taken"))
    }

    /// The key of an account's `alias/aws/s3`, which the service manages and makes on its first use.
    ///
    /// # Errors
    ///
    /// By the HSM and the records.
    pub async fn resolve_default_s3_key(&self, account: &AccountId) -> Result<KeyArn, KmsError> {
        if let Some(target) = self.alias_target(account, S3_ALIAS).await? {
            return Ok(target);
        }
        self.check_audit()?;
        let _making = self.lock_making(self.groups.making(None)?).await?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            if let Some(target) = self.alias_target(account, S3_ALIAS).await? {
                return Ok(target);
            }
            let mut record =
                KeyRecord::new(self.now(), KeyManager::Aws).of_account(account, self.account());
            S3_DESCRIPTION.clone_into(&mut record.description);
            let policy = policy::managed_document(account, self.region());
            let policy = PolicyRecord::of_accounts(policy);
            if let Some(metadata) = self.make_key(record, &policy, Some(S3_ALIAS)).await? {
                return Ok(metadata.arn);
            }
        }
        Err(KmsError::Busy)
    }

    /// Makes a key and its policy; one that has an alias from the start is of the service's own making, and is recorded
    /// before it is there. `None`: the alias is taken, and nothing was made.
    async fn make_key(
        &self,
        mut record: KeyRecord,
        policy: &PolicyRecord,
        alias: Option<&str>,
    ) -> Result<Option<KeyMetadata>, KmsError> {
        // Before anything else, for the records' MAC may need the HSM first.
        self.mac().await?;
        let arn = self.arn_of_head(KeyId::random(), &record)?;
        let owner = Owner::Key(arn.clone());
        if record.manager == KeyManager::Customer {
            self.see_room_for_key(arn.account()).await?;
        }
        let place = self.place_for(record.store.as_ref()).await?;
        let target = Target::Version(&owner, record.current);
        let tool = record.spec()?.tool();
        let kind = tool.map_or(Kind::Wrapping, Kind::Tool);
        let _making = match tool {
            Some(tool) if tool.is_pair() => {
                let making = self.groups.making_pairs(place.group.as_deref())?;
                Some(self.lock_making(making).await?)
            }
            Some(_) | None => None,
        };
        let made = if record.import.is_some() {
            None
        } else {
            let made = self.make_backing(&target, kind, Cause::Creation, place);
            Some(made.await?)
        };
        let material = made.as_ref().map(|made| made.record().material());
        record.rotation = rotation::initial_schedule(record.manager, record.created);
        record.aliases.extend(alias.map(str::to_owned));
        if let Some(alias) = alias {
            let details = serde_json::json!({ "aliasName": alias });
            if let Err(error) = self.record_own("CreateKey", &arn, details).await {
                self.abandon_if_any(made).await;
                return Err(error);
            }
        }
        let counting = self.counting_keys.lock().await;
        let mut refused = Err(KmsError::Busy);
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            match self
                .new_key(made.as_ref(), &owner, &record, policy, alias)
                .await
            {
                Ok(Some((batch, store))) => {
                    // After an error of the store the batch may have been applied: the backing key is not touched then.
                    if self.commit(batch).await? {
                        tracing::info!(event = "kms.key.created", key = %arn, ?material, manager = ?record.manager);
                        return metadata(arn, &record, material, store, self.now()).map(Some);
                    }
                }
                Ok(None) => {
                    refused = Ok(None);
                    break;
                }
                Err(error) => {
                    refused = Err(error);
                    break;
                }
            }
        }
        drop(counting);
        self.abandon_if_any(made).await;
        refused
    }

    async fn abandon_if_any(&self, made: Option<MadeBacking>) {
        if let Some(made) = made {
            self.abandon(made).await;
        }
    }

    /// The batch that records a new key, and where it is. `None`: the alias is taken.
    async fn new_key(
        &self,
        made: Option<&MadeBacking>,
        owner: &Owner,
        record: &KeyRecord,
        policy: &PolicyRecord,
        alias: Option<&str>,
    ) -> Result<Option<(Batch, Option<KeyStoreOfKey>)>, KmsError> {
        let rows = self.rows().await?;
        let Owner::Key(arn) = owner else {
            return Err(KmsError::internal("an internal key has no policy"));
        };
        let mut batch = rows
            .insert(table::head_row(owner), record)
            .and(rows.insert(table::policy_row(arn.key_id(), POLICY_NAME), policy))
            .and(
                self.count_key_in(&rows, arn.account(), record.manager)
                    .await?,
            );
        if let Some(made) = made {
            batch = batch
                .and(made.insert(&rows, owner, record.current))
                .and(self.count_in(&rows, made.place()).await?)
                .and(made.fulfil());
        }
        if let Some(alias) = alias {
            if aliases::load(&rows, arn.account(), alias).await?.is_some() {
                return Ok(None);
            }
            let target = AliasRecord::new(arn.key_id(), record.created);
            batch = batch.and(rows.insert(rows.alias_row(arn.account(), alias), &target));
        }
        let store = self.store_of_key(&rows, record).await?;
        Ok(Some((batch, store)))
    }

    /// Describes a key.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn describe_key(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<KeyMetadata, KmsError> {
        check_proof(proof, &["kms:DescribeKey"], key)?;
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let record = rows.head(&owner).await?.record;
        let material = if record.versions().is_empty() {
            None
        } else {
            let backing = rows.backing(&owner, record.current).await?;
            Some(backing.record.material())
        };
        let store = self.store_of_key(&rows, &record).await?;
        metadata(key.clone(), &record, material, store, self.now())
    }

    /// Lists all keys of the caller's account, by id. One whose record is damaged is left out.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn list_keys(
        &self,
        proof: &Authorised,
        limit: usize,
        after: Option<KeyId>,
    ) -> Result<Page<KeyArn, KeyId>, KmsError> {
        check_proof_of(proof, &["kms:ListKeys"], &Resource::Service)?;
        let account = &proof.principal().account;
        let rows = self.rows().await?;
        let mut keys = Vec::new();
        let mut after = after;
        loop {
            let range = table::rows_after(
                tables::KMS_KEY,
                after.as_ref().map(|id| id.as_bytes().as_slice()),
            );
            let found = rows.scan(&range, LIST_STEP).await?;
            let is_last = found.len() < LIST_STEP;
            for row in found {
                let key_id = table::key_id_of_row(&row.0)?;
                after = Some(key_id);
                let head = self.head_of_row(&rows, key_id, row);
                keys.extend(
                    head.map(|(arn, _)| arn)
                        .filter(|arn| arn.account() == account),
                );
            }
            if is_last || keys.len() > limit {
                return Ok(Page::cut(keys, limit, KeyArn::key_id));
            }
        }
    }

    /// Enables a key.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidState`] when it is pending deletion; [`KmsError::Managed`].
    pub async fn enable_key(&self, proof: &Authorised, key: &KeyArn) -> Result<(), KmsError> {
        self.set_state(proof, key, "kms:EnableKey", KeyState::Enabled)
            .await
    }

    /// Disables a key: it neither encrypts nor decrypts.
    ///
    /// # Errors
    ///
    /// As [`Kms::enable_key`].
    pub async fn disable_key(&self, proof: &Authorised, key: &KeyArn) -> Result<(), KmsError> {
        self.set_state(proof, key, "kms:DisableKey", KeyState::Disabled)
            .await
    }

    async fn set_state(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        action: &'static str,
        state: KeyState,
    ) -> Result<(), KmsError> {
        check_proof(proof, &[action], key)?;
        self.update_key(key, |record| {
            record.customer_managed(key, action)?;
            record.not_dying(key)?;
            if record.state_at(self.now()) == KeyState::PendingImport {
                return Err(pending_import(key));
            }
            record.state = state;
            Ok(())
        })
        .await?;
        tracing::info!(event = "kms.key.state", %key, ?state);
        Ok(())
    }

    /// Changes a key's description.
    ///
    /// # Errors
    ///
    /// As [`Kms::enable_key`]; [`KmsError::Validation`] when it is too long.
    pub async fn update_key_description(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        description: &str,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:UpdateKeyDescription";
        check_proof(proof, &[ACTION], key)?;
        check_description(description)?;
        self.update_key(key, |record| {
            record.customer_managed(key, ACTION)?;
            record.not_dying(key)?;
            description.clone_into(&mut record.description);
            Ok(())
        })
        .await
    }

    async fn alias_target(
        &self,
        account: &AccountId,
        name: &str,
    ) -> Result<Option<KeyArn>, KmsError> {
        let alias = aliases::load(&self.rows().await?, account, name).await?;
        Ok(alias.map(|alias| self.key_arn(account, alias.record.target())))
    }

    pub(super) async fn resolve_alias(
        &self,
        account: &AccountId,
        name: &str,
    ) -> Result<KeyArn, KmsError> {
        let unknown = || {
            let arn = self.alias_arn(account, name);
            KmsError::NotFound(format!("Alias {arn} is not found."))
        };
        // Longer than a name may be is not a row's key either.
        if name.len() > aliases::ALIAS_NAME_CHARS_MAX {
            return Err(unknown());
        }
        self.alias_target(account, name).await?.ok_or_else(unknown)
    }
}

fn metadata(
    arn: KeyArn,
    record: &KeyRecord,
    current_material: Option<KeyMaterialId>,
    store: Option<KeyStoreOfKey>,
    now: Timestamp,
) -> Result<KeyMetadata, KmsError> {
    Ok(KeyMetadata {
        arn,
        created: record.created,
        description: record.description.clone(),
        state: record.state_at(now),
        manager: record.manager,
        current_material,
        spec: record.spec()?,
        import: record.import.map(|_first| ImportStatus {
            present: record.own_imports().all(|import| import.is_of_use(now)),
            expires: record
                .own_imports()
                .filter_map(|import| import.expires)
                .min(),
        }),
        store,
    })
}

fn check_description(description: &str) -> Result<(), KmsError> {
    if description.chars().count() > DESCRIPTION_CHARS_MAX {
        return Err(KmsError::Validation(
            "the description is too long".to_owned(),
        ));
    }
    Ok(())
}
