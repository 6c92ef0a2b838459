//! Managed policies of an account, with their versions. The ready ones are beside them, and nobody changes those.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::documents::{Use, check, counted_chars};
use super::error::IamError;
use super::names::{Kind, PolicyArn, PolicyOwner, folded, new_id};
use super::ready::{self, ReadyPolicy};
use super::record::{
    EntityRecord, PolicyRecord, PolicyText, entity_prefix, policy_prefix, policy_row,
    policy_text_row,
};
use super::{Iam, Page, Walk, check_proof, check_service_proof, retally, walk};
use crate::auth::policy::Document;
use crate::auth::{AccountId, Authorised};
use crate::kms::{Loaded, Rows};

/// Managed policies that an account may have.
pub const POLICIES_MAX: u32 = 1500;
/// Versions that a managed policy may have at a time.
pub const VERSIONS_MAX: usize = 5;
/// Characters of a managed policy, white space not counted.
pub const MANAGED_CHARS_MAX: usize = 6144;

/// What is told of a managed policy, ready or an account's own.
#[derive(Debug, Clone)]
pub(super) struct ManagedPolicy {
    pub(super) arn: String,
    pub(super) id: String,
    pub(super) path: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) created: i64,
    pub(super) updated: i64,
    pub(super) default: u32,
    pub(super) attachments: u32,
}

impl ManagedPolicy {
    fn ready(policy: &ReadyPolicy, attachments: &BTreeMap<String, u32>) -> Self {
        let arn = policy.arn();
        Self {
            id: policy.id.to_owned(),
            path: "/".to_owned(),
            name: policy.name.to_owned(),
            description: policy.description.to_owned(),
            created: ready::CREATED,
            updated: ready::CREATED,
            default: 1,
            attachments: attachments.get(&arn).copied().unwrap_or_default(),
            arn,
        }
    }

    fn own(account: &AccountId, record: PolicyRecord) -> Self {
        Self {
            arn: record.arn(account),
            id: record.id,
            path: record.path,
            name: record.name,
            description: record.description,
            created: record.created,
            updated: record.updated,
            default: record.default,
            attachments: record.attachments,
        }
    }

    /// Unique among what an account sees, and short.
    fn cursor(&self) -> String {
        match PolicyArn::parse(&self.arn).map(|arn| arn.owner) {
            Some(PolicyOwner::Ready) => format!("aws/{}", self.name),
            Some(PolicyOwner::Account(_)) | None => format!("local/{}", folded(&self.name)),
        }
    }
}

/// What is told of one version of a managed policy.
#[derive(Debug)]
pub(super) struct PolicyVersion {
    pub(super) number: u32,
    pub(super) is_default: bool,
    pub(super) created: i64,
}

/// Which managed policies are listed.
#[derive(Debug)]
pub(super) struct PolicyFilter<'a> {
    pub(super) ready: bool,
    pub(super) own: bool,
    pub(super) only_attached: bool,
    pub(super) prefix: &'a str,
}

impl Iam {
    /// Makes a managed policy with its first version.
    ///
    /// # Errors
    ///
    /// [`IamError::AlreadyExists`], [`IamError::LimitExceeded`], [`IamError::MalformedPolicy`].
    pub(super) async fn create_policy(
        &self,
        proof: &Authorised,
        (path, name, description): (&str, &str, &str),
        document: &str,
    ) -> Result<ManagedPolicy, IamError> {
        check_document(document)?;
        let account = &proof.principal().account;
        let now = self.now();
        let record = &PolicyRecord {
            id: new_id("ANPA")?,
            path: path.to_owned(),
            name: name.to_owned(),
            description: description.to_owned(),
            created: now,
            updated: now,
            versions: BTreeMap::from([(1, now)]),
            default: 1,
            next: 2,
            attachments: 0,
        };
        check_proof(proof, &["iam:CreatePolicy"], &record.arn(account))?;
        self.change(|rows| async move {
            let row = policy_row(account, name);
            if let Some(there) = rows.load::<PolicyRecord>("policy", row.clone()).await? {
                return Err(IamError::AlreadyExists(format!(
                    "A policy called {} already exists. Duplicate names are not allowed.",
                    there.record.name
                )));
            }
            let tally = retally(&rows, account, |tally| {
                if tally.policies >= POLICIES_MAX {
                    return Err(IamError::LimitExceeded(format!(
                        "Cannot exceed quota for PoliciesPerAccount: {POLICIES_MAX}"
                    )));
                }
                tally.policies += 1;
                Ok(())
            })
            .await?;
            let text = PolicyText {
                policy_id: record.id.clone(),
                document: document.to_owned(),
            };
            let batch = rows
                .insert(row, record)
                .and(rows.insert(policy_text_row(account, name, 1), &text))
                .and(tally);
            Ok((batch, ManagedPolicy::own(account, record.clone())))
        })
        .await
    }

    /// A managed policy.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn load_policy(
        &self,
        proof: &Authorised,
        arn: &str,
    ) -> Result<ManagedPolicy, IamError> {
        check_proof(proof, &["iam:GetPolicy"], arn)?;
        let account = &proof.principal().account;
        let rows = self.kms.rows().await?;
        if let Some(policy) = ready::find(arn) {
            let attachments = ready_attachments(&rows, account).await?;
            return Ok(ManagedPolicy::ready(policy, &attachments));
        }
        let loaded = own_policy(&rows, account, arn).await?;
        Ok(ManagedPolicy::own(account, loaded.record))
    }

    /// Managed policies: the ready ones, then the account's own, each by name.
    pub(super) async fn list_policies(
        &self,
        proof: &Authorised,
        filter: &PolicyFilter<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<ManagedPolicy>, IamError> {
        check_service_proof(proof, &["iam:ListPolicies"])?;
        let account = &proof.principal().account;
        let rows = self.kms.rows().await?;
        let matches = |policy: &ManagedPolicy| {
            policy.path.starts_with(filter.prefix)
                && (!filter.only_attached || policy.attachments > 0)
        };
        let mut items = Vec::new();
        let after_own = after.and_then(|after| after.strip_prefix("local/"));
        if filter.ready && after_own.is_none() {
            let attachments = ready_attachments(&rows, account).await?;
            let ready = ready::POLICIES
                .iter()
                .map(|policy| ManagedPolicy::ready(policy, &attachments));
            items.extend(ready.filter(|policy| {
                matches(policy) && after.is_none_or(|after| policy.cursor().as_str() > after)
            }));
        }
        if filter.own {
            walk(&rows, &policy_prefix(account), after_own, |row| {
                let record: PolicyRecord = rows.open("policy", row)?.record;
                let policy = ManagedPolicy::own(account, record);
                if matches(&policy) {
                    items.push(policy);
                }
                Ok(if items.len() > limit {
                    Walk::Stop
                } else {
                    Walk::On
                })
            })
            .await?;
        }
        Ok(Page::cut(items, limit, ManagedPolicy::cursor))
    }

    /// Deletes a managed policy that is attached to nothing and has one version.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], [`IamError::DeleteConflict`].
    pub(super) async fn delete_policy(
        &self,
        proof: &Authorised,
        arn: &str,
    ) -> Result<(), IamError> {
        check_proof(proof, &["iam:DeletePolicy"], arn)?;
        let account = &proof.principal().account;
        self.change(|rows| async move {
            let loaded = changeable_policy(&rows, account, arn).await?;
            if loaded.record.attachments > 0 {
                return Err(IamError::DeleteConflict(
                    "Cannot delete a policy attached to entities.",
                ));
            }
            if loaded.record.versions.len() > 1 {
                return Err(IamError::DeleteConflict(
                    "This policy has more than one version. Before you delete a policy, you must delete the policy's \
                     versions. The default version is deleted with the policy.",
                ));
            }
            let tally = retally(&rows, account, |tally| {
                tally.policies = tally.policies.saturating_sub(1);
                Ok(())
            })
            .await?;
            let text = policy_text_row(account, &loaded.record.name, loaded.record.default);
            Ok((loaded.delete().delete(text).and(tally), ()))
        })
        .await
    }

    /// Adds a version to a managed policy.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], [`IamError::MalformedPolicy`]; [`IamError::LimitExceeded`] beyond [`VERSIONS_MAX`].
    pub(super) async fn create_policy_version(
        &self,
        proof: &Authorised,
        arn: &str,
        document: &str,
        set_as_default: bool,
    ) -> Result<PolicyVersion, IamError> {
        check_proof(proof, &["iam:CreatePolicyVersion"], arn)?;
        check_document(document)?;
        let account = &proof.principal().account;
        let now = self.now();
        self.change(|rows| async move {
            let loaded = changeable_policy(&rows, account, arn).await?;
            let mut record = loaded.record.clone();
            if record.versions.len() >= VERSIONS_MAX {
                return Err(IamError::LimitExceeded(format!(
                    "A managed policy can have up to {VERSIONS_MAX} versions. Before you create a new version, you must \
                     delete an existing version."
                )));
            }
            let number = record.next;
            record.next = number.saturating_add(1);
            record.versions.insert(number, now);
            record.updated = now;
            if set_as_default {
                record.default = number;
            }
            let text = PolicyText {
                policy_id: record.id.clone(),
                document: document.to_owned(),
            };
            let row = policy_text_row(account, &record.name, number);
            let batch = rows.replace(&loaded, &record).and(rows.insert(row, &text));
            let version = PolicyVersion {
                number,
                is_default: set_as_default,
                created: now,
            };
            Ok((batch, version))
        })
        .await
    }

    /// A version of a managed policy and its text.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn load_policy_version(
        &self,
        proof: &Authorised,
        arn: &str,
        number: u32,
    ) -> Result<(PolicyVersion, String), IamError> {
        check_proof(proof, &["iam:GetPolicyVersion"], arn)?;
        let account = &proof.principal().account;
        if let Some(policy) = ready::find(arn) {
            let version = ready_version();
            return if number == version.number {
                Ok((version, policy.document.to_owned()))
            } else {
                Err(no_version(arn, number))
            };
        }
        let rows = self.kms.rows().await?;
        let record = own_policy(&rows, account, arn).await?.record;
        let created = record
            .versions
            .get(&number)
            .ok_or_else(|| no_version(arn, number))?;
        let version = PolicyVersion {
            number,
            is_default: record.default == number,
            created: *created,
        };
        Ok((version, text(&rows, account, &record, number).await?))
    }

    /// The versions of a managed policy, the newest first.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn list_policy_versions(
        &self,
        proof: &Authorised,
        arn: &str,
    ) -> Result<Vec<PolicyVersion>, IamError> {
        check_proof(proof, &["iam:ListPolicyVersions"], arn)?;
        if ready::find(arn).is_some() {
            return Ok(vec![ready_version()]);
        }
        let rows = self.kms.rows().await?;
        let record = own_policy(&rows, &proof.principal().account, arn)
            .await?
            .record;
        let version = |(&number, &created): (&u32, &i64)| PolicyVersion {
            number,
            is_default: record.default == number,
            created,
        };
        Ok(record.versions.iter().rev().map(version).collect())
    }

    /// Makes another version the one that counts.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn set_default_policy_version(
        &self,
        proof: &Authorised,
        arn: &str,
        number: u32,
    ) -> Result<(), IamError> {
        check_proof(proof, &["iam:SetDefaultPolicyVersion"], arn)?;
        let account = &proof.principal().account;
        let now = self.now();
        self.change(|rows| async move {
            let loaded = changeable_policy(&rows, account, arn).await?;
            let mut record = loaded.record.clone();
            if !record.versions.contains_key(&number) {
                return Err(no_version(arn, number));
            }
            record.default = number;
            record.updated = now;
            Ok((rows.replace(&loaded, &record), ()))
        })
        .await
    }

    /// Deletes a version that does not count.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], [`IamError::DeleteConflict`].
    pub(super) async fn delete_policy_version(
        &self,
        proof: &Authorised,
        arn: &str,
        number: u32,
    ) -> Result<(), IamError> {
        check_proof(proof, &["iam:DeletePolicyVersion"], arn)?;
        let account = &proof.principal().account;
        let now = self.now();
        self.change(|rows| async move {
            let loaded = changeable_policy(&rows, account, arn).await?;
            let mut record = loaded.record.clone();
            if record.versions.remove(&number).is_none() {
                return Err(no_version(arn, number));
            }
            if record.default == number {
                return Err(IamError::DeleteConflict(
                    "Cannot delete the default version of a policy.",
                ));
            }
            record.updated = now;
            let text = policy_text_row(account, &record.name, number);
            Ok((rows.replace(&loaded, &record).delete(text), ()))
        })
        .await
    }

    /// The default version of a managed policy that an identity of `account` refers to; `None` when there is no such
    /// policy.
    pub(super) async fn managed_document(
        &self,
        rows: &Rows,
        account: &AccountId,
        arn: &str,
    ) -> Result<Option<Arc<Document>>, IamError> {
        if let Some(policy) = ready::find(arn) {
            return self
                .documents
                .stored(Use::Identity, policy.document)
                .map(Some);
        }
        let Some(loaded) = find_own_policy(rows, account, arn).await? else {
            return Ok(None);
        };
        let text = text(rows, account, &loaded.record, loaded.record.default).await?;
        self.documents.stored(Use::Identity, &text).map(Some)
    }
}

fn check_document(document: &str) -> Result<(), IamError> {
    if counted_chars(document) > MANAGED_CHARS_MAX {
        return Err(IamError::quota("PolicySize", MANAGED_CHARS_MAX));
    }
    check(Use::Identity, document).map(drop)
}

fn no_version(arn: &str, number: u32) -> IamError {
    IamError::NoSuchEntity(format!(
        "Policy {arn} version v{number} does not exist or is not attachable."
    ))
}

fn ready_version() -> PolicyVersion {
    PolicyVersion {
        number: 1,
        is_default: true,
        created: ready::CREATED,
    }
}

/// The account's own policy with this ARN, if it is there.
pub(super) async fn find_own_policy(
    rows: &Rows,
    account: &AccountId,
    arn: &str,
) -> Result<Option<Loaded<PolicyRecord>>, IamError> {
    let Some(parsed) = PolicyArn::parse(arn) else {
        return Ok(None);
    };
    if parsed.owner != PolicyOwner::Account(account.as_str().to_owned()) {
        return Ok(None);
    }
    let loaded = rows
        .load::<PolicyRecord>("policy", policy_row(account, &parsed.name))
        .await?;
    // Names are unique without their paths, but an ARN has its path.
    Ok(loaded.filter(|loaded| loaded.record.arn(account) == arn))
}

async fn own_policy(
    rows: &Rows,
    account: &AccountId,
    arn: &str,
) -> Result<Loaded<PolicyRecord>, IamError> {
    find_own_policy(rows, account, arn)
        .await?
        .ok_or_else(|| IamError::no_policy(arn))
}

/// A policy that the account may change: its own.
async fn changeable_policy(
    rows: &Rows,
    account: &AccountId,
    arn: &str,
) -> Result<Loaded<PolicyRecord>, IamError> {
    if ready::find(arn).is_some() {
        return Err(IamError::ForeignPolicy);
    }
    own_policy(rows, account, arn).await
}

/// The text of a version that the record says there is.
async fn text(
    rows: &Rows,
    account: &AccountId,
    record: &PolicyRecord,
    number: u32,
) -> Result<String, IamError> {
    let row = policy_text_row(account, &record.name, number);
    let text = rows.load::<PolicyText>("version of a policy", row).await?;
    text.filter(|text| text.record.policy_id == record.id)
        .map(|text| text.record.document)
        .ok_or(IamError::Damaged("a version of a policy is missing"))
}

/// How many entities of the account have each managed policy attached: counted, for the ready ones, which have no record.
async fn ready_attachments(
    rows: &Rows,
    account: &AccountId,
) -> Result<BTreeMap<String, u32>, IamError> {
    let mut counts = BTreeMap::new();
    for kind in Kind::ALL {
        walk(rows, &entity_prefix(kind, account), None, |row| {
            let record: EntityRecord = rows.open("identity", row)?.record;
            for arn in record.attached {
                *counts.entry(arn).or_insert(0) += 1;
            }
            Ok(Walk::On)
        })
        .await?;
    }
    Ok(counts)
}
