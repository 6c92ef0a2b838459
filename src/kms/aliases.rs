//! Aliases: names that point to keys. A row by name, and the same in the key's head; both change in one batch.

use minicbor::{Decode, Encode};

use super::error::KmsError;
use super::key::{KeyArn, KeyId, KeyRecord, Owner, Timestamp};
use super::table::{Loaded, Rows};
use super::{COMMIT_ATTEMPTS_MAX, Kms, Page, check_proof, check_proof_of};
use crate::auth::{AccountId, Authorised, Resource};
use crate::meta::KeyRange;

/// Aliases that one key may have.
pub const ALIASES_PER_KEY_MAX: usize = 50;
/// The longest alias name, prefix included.
pub(super) const ALIAS_NAME_CHARS_MAX: usize = 256;

const PREFIX: &str = "alias/";
const RESERVED_PREFIX: &str = "alias/aws/";

/// A well-formed alias name, with its prefix `alias/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasName(String);

impl AliasName {
    /// Reads an alias name.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] in the recorded words when the prefix is missing, else in those of the constraint.
    pub fn parse(text: &str) -> Result<Self, KmsError> {
        let constraint = |constraint: String| {
            Err(KmsError::Validation(format!(
                "1 validation error detected: Value '{text}' at 'aliasName' failed to satisfy constraint: {constraint}"
            )))
        };
        if text.is_empty() {
            return constraint("Member must have length greater than or equal to 1".to_owned());
        }
        if text.chars().count() > ALIAS_NAME_CHARS_MAX {
            return constraint(format!(
                "Member must have length less than or equal to {ALIAS_NAME_CHARS_MAX}"
            ));
        }
        let Some(name) = text.strip_prefix(PREFIX) else {
            return Err(KmsError::Validation(
                "Alias must start with the prefix \"alias/\". Please see \
                 https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
                    .to_owned(),
            ));
        };
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_allowed) {
            return constraint(
                "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$".to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text, with the prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn not_reserved(&self) -> Result<(), KmsError> {
        if self.0.starts_with(RESERVED_PREFIX) {
            Err(KmsError::ReservedAlias)
        } else {
            Ok(())
        }
    }
}

/// What is recorded of an alias.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct AliasRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    target: [u8; KeyId::BYTES],
    #[n(1)]
    created: Timestamp,
    #[n(2)]
    updated: Timestamp,
}

impl AliasRecord {
    pub(super) fn new(target: KeyId, now: Timestamp) -> Self {
        Self {
            target: *target.as_bytes(),
            created: now,
            updated: now,
        }
    }

    pub(super) fn target(&self) -> KeyId {
        KeyId::from_bytes(self.target)
    }
}

/// The alias of an account.
pub(super) async fn load(
    rows: &Rows,
    account: &AccountId,
    name: &str,
) -> Result<Option<Loaded<AliasRecord>>, KmsError> {
    rows.load("alias", rows.alias_row(account, name)).await
}

/// One alias of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasEntry {
    /// Its name, with the prefix.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// The key it points to.
    pub target: KeyId,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last pointed to a key.
    pub updated: Timestamp,
}

impl Kms {
    /// The ARN that an alias of an account has or would have.
    pub fn alias_arn(&self, account: &AccountId, name: &str) -> String {
        format!("arn:aws:kms:{}:{account}:{name}", self.region())
    }

    /// Makes an alias. Two proofs: of the alias and of its key.
    ///
    /// # Errors
    ///
    /// [`KmsError::AlreadyExists`], [`KmsError::ReservedAlias`], [`KmsError::LimitExceeded`], [`KmsError::Managed`];
    /// [`KmsError::InvalidState`] when the key is pending deletion.
    pub async fn create_alias(
        &self,
        proofs: (&Authorised, &Authorised),
        name: &AliasName,
        key: &KeyArn,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:CreateAlias";
        self.check_alias_proofs(proofs, ACTION, name, key)?;
        name.not_reserved()?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            if load(&rows, key.account(), name.as_str()).await?.is_some() {
                let arn = self.alias_arn(key.account(), name.as_str());
                return Err(KmsError::AlreadyExists(format!(
                    "An alias with the name {arn} already exists"
                )));
            }
            let head = rows.head(&Owner::Key(key.clone())).await?;
            let record = with_alias(&head.record, key, name, ACTION)?;
            let alias = AliasRecord::new(key.key_id(), self.now());
            let batch = rows
                .replace(&head, &record)
                .and(rows.insert(rows.alias_row(key.account(), name.as_str()), &alias));
            if self.commit(batch).await? {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    /// Points an alias to another key. Three proofs: of the alias, of the new key and of the one that it leaves.
    ///
    /// # Errors
    ///
    /// As [`Kms::create_alias`]; [`KmsError::NotFound`].
    pub async fn update_alias(
        &self,
        (of_alias, of_new, of_old): (&Authorised, &Authorised, &Authorised),
        name: &AliasName,
        key: &KeyArn,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:UpdateAlias";
        self.check_alias_proofs((of_alias, of_new), ACTION, name, key)?;
        name.not_reserved()?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let alias = self.load_alias(&rows, key.account(), name).await?;
            let old = self.key_arn(key.account(), alias.record.target());
            if check_proof(of_old, &[ACTION], &old).is_err() {
                // Somebody has pointed it elsewhere since the caller was asked about.
                return Err(KmsError::Busy);
            }
            let mut updated = alias.record.clone();
            updated.target = *key.key_id().as_bytes();
            updated.updated = self.now();
            let mut batch = rows.replace(&alias, &updated);
            let head = rows.head(&Owner::Key(key.clone())).await?;
            if old == *key {
                head.record.not_dying(key)?;
                batch = batch.and(head.unchanged());
            } else {
                let old_head = rows.head(&Owner::Key(old)).await?;
                batch = batch
                    .and(rows.replace(&old_head, &without_alias(&old_head.record, name)))
                    .and(rows.replace(&head, &with_alias(&head.record, key, name, ACTION)?));
            }
            if self.commit(batch).await? {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    /// The key that an alias of an account points to, for the caller to authorise before [`Kms::delete_alias`].
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn target_of_alias(
        &self,
        account: &AccountId,
        name: &AliasName,
    ) -> Result<KeyArn, KmsError> {
        self.resolve_alias(account, name.as_str()).await
    }

    /// Deletes an alias. The key stays. Two proofs: of the alias and of its key.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`], also when it has been pointed elsewhere meanwhile; [`KmsError::ReservedAlias`].
    pub async fn delete_alias(
        &self,
        proofs: (&Authorised, &Authorised),
        name: &AliasName,
        key: &KeyArn,
    ) -> Result<(), KmsError> {
        self.check_alias_proofs(proofs, "kms:DeleteAlias", name, key)?;
        name.not_reserved()?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let alias = self.load_alias(&rows, key.account(), name).await?;
            if alias.record.target() != key.key_id() {
                return Err(self.no_alias(key.account(), name));
            }
            let head = rows.head(&Owner::Key(key.clone())).await?;
            let batch = alias
                .delete()
                .and(rows.replace(&head, &without_alias(&head.record, name)));
            if self.commit(batch).await? {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    /// Lists aliases of the caller's account by name: all, or those of one key.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn list_aliases(
        &self,
        proof: &Authorised,
        of: Option<&KeyArn>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<AliasEntry, String>, KmsError> {
        check_proof_of(proof, &["kms:ListAliases"], &Resource::Service)?;
        let account = &proof.principal().account;
        let rows = self.rows().await?;
        let mut entries = Vec::new();
        if let Some(key) = of {
            let mut names = rows.head(&Owner::Key(key.clone())).await?.record.aliases;
            names.sort_unstable();
            let rest = names
                .into_iter()
                .filter(|name| after.is_none_or(|after| name.as_str() > after));
            for name in rest.take(limit.saturating_add(1)) {
                if let Some(alias) = load(&rows, key.account(), &name).await? {
                    entries.push(self.entry(key.account(), name, &alias.record));
                }
            }
        } else {
            let of_account = rows.alias_row(account, "");
            let mut range = KeyRange::prefix(&rows.alias_row(account, PREFIX));
            if let Some(after) = after.filter(|after| *after > PREFIX) {
                range.start = [of_account.as_slice(), after.as_bytes(), &[0]].concat();
            }
            for row in rows.scan(&range, limit.saturating_add(1)).await? {
                let name = row
                    .0
                    .get(of_account.len()..)
                    .and_then(|name| std::str::from_utf8(name).ok());
                let name = name
                    .ok_or(KmsError::Damaged("row key of an alias"))?
                    .to_owned();
                let alias = rows.open::<AliasRecord>("alias", row)?;
                entries.push(self.entry(account, name, &alias.record));
            }
        }
        Ok(Page::cut(entries, limit, |entry| entry.name.clone()))
    }

    fn entry(&self, account: &AccountId, name: String, alias: &AliasRecord) -> AliasEntry {
        let arn = self.alias_arn(account, &name);
        AliasEntry {
            name,
            arn,
            target: alias.target(),
            created: alias.created,
            updated: alias.updated,
        }
    }

    async fn load_alias(
        &self,
        rows: &Rows,
        account: &AccountId,
        name: &AliasName,
    ) -> Result<Loaded<AliasRecord>, KmsError> {
        load(rows, account, name.as_str())
            .await?
            .ok_or_else(|| self.no_alias(account, name))
    }

    fn no_alias(&self, account: &AccountId, name: &AliasName) -> KmsError {
        KmsError::NotFound(format!(
            "Alias {} is not found.",
            self.alias_arn(account, name.as_str())
        ))
    }

    fn check_alias_proofs(
        &self,
        (of_alias, of_key): (&Authorised, &Authorised),
        action: &str,
        name: &AliasName,
        key: &KeyArn,
    ) -> Result<(), KmsError> {
        check_proof_of(
            of_alias,
            &[action],
            &Resource::KmsAlias(self.alias_arn(key.account(), name.as_str())),
        )?;
        check_proof(of_key, &[action], key)
    }
}

fn with_alias(
    head: &KeyRecord,
    key: &KeyArn,
    name: &AliasName,
    action: &'static str,
) -> Result<KeyRecord, KmsError> {
    head.customer_managed(key, action)?;
    head.not_dying(key)?;
    if head.aliases.len() >= ALIASES_PER_KEY_MAX {
        return Err(KmsError::LimitExceeded(format!(
            "{key} has {ALIASES_PER_KEY_MAX} aliases already"
        )));
    }
    let mut record = head.clone();
    record.aliases.push(name.as_str().to_owned());
    Ok(record)
}

fn without_alias(head: &KeyRecord, name: &AliasName) -> KeyRecord {
    let mut record = head.clone();
    record.aliases.retain(|alias| alias != name.as_str());
    record
}
