//! Which managed policies are attached to which entities. An entity's record names them; a policy's record counts, so
//! that neither can be deleted under the other.

use super::error::IamError;
use super::names::{Kind, PolicyArn, folded};
use super::policies::find_own_policy;
use super::record::{EntityRecord, entity_prefix};
use super::{Iam, Page, Walk, check_proof, proven_entity, ready, walk};
use crate::auth::{AccountId, Authorised};
use crate::kms::Rows;
use crate::meta::Batch;

/// Managed policies that one entity may have attached.
pub const ATTACHED_MAX: usize = 10;

/// An entity that has a policy attached.
#[derive(Debug, Clone)]
pub(super) struct AttachedTo {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) id: String,
}

impl Iam {
    /// Attaches a managed policy. One that is attached stays so.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`]; [`IamError::LimitExceeded`] beyond [`ATTACHED_MAX`].
    pub(super) async fn attach(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
        arn: &str,
    ) -> Result<(), IamError> {
        let account = &proof.principal().account;
        let action = &format!("iam:Attach{}Policy", kind.title());
        self.change(|rows| async move {
            let loaded = proven_entity(&rows, proof, &[action], kind, name).await?;
            let mut record = loaded.record.clone();
            let count = count(&rows, account, arn, |attachments| {
                attachments.saturating_add(1)
            })
            .await?
            .ok_or_else(|| {
                IamError::NoSuchEntity(format!("Policy {arn} does not exist or is not attachable."))
            })?;
            if record.attached.iter().any(|there| there == arn) {
                return Ok((loaded.unchanged(), ()));
            }
            if record.attached.len() >= ATTACHED_MAX {
                return Err(IamError::quota(
                    &format!("PoliciesPer{}", kind.title()),
                    ATTACHED_MAX,
                ));
            }
            record.attached.push(arn.to_owned());
            record.attached.sort_unstable();
            Ok((rows.replace(&loaded, &record).and(count), ()))
        })
        .await
    }

    /// Detaches a managed policy.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`], also when it is not attached.
    pub(super) async fn detach(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
        arn: &str,
    ) -> Result<(), IamError> {
        let account = &proof.principal().account;
        let action = &format!("iam:Detach{}Policy", kind.title());
        self.change(|rows| async move {
            let loaded = proven_entity(&rows, proof, &[action], kind, name).await?;
            let mut record = loaded.record.clone();
            record.attached.retain(|there| there != arn);
            if record.attached.len() == loaded.record.attached.len() {
                return Err(IamError::no_policy(arn));
            }
            let count = count(&rows, account, arn, |attachments| {
                attachments.saturating_sub(1)
            })
            .await?
            .ok_or(IamError::Damaged("an attached policy is missing"))?;
            Ok((rows.replace(&loaded, &record).and(count), ()))
        })
        .await
    }

    /// The managed policies that are attached to an entity and whose paths begin with `prefix`: name and ARN.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn list_attached(
        &self,
        proof: &Authorised,
        kind: Kind,
        name: &str,
        prefix: &str,
    ) -> Result<Vec<(String, String)>, IamError> {
        let rows = self.kms.rows().await?;
        let action = format!("iam:ListAttached{}Policies", kind.title());
        let loaded = proven_entity(&rows, proof, &[&action], kind, name).await?;
        let named = |arn: String| {
            let parsed = PolicyArn::parse(&arn)?;
            parsed
                .path
                .starts_with(prefix)
                .then_some((parsed.name, arn))
        };
        Ok(loaded
            .record
            .attached
            .into_iter()
            .filter_map(named)
            .collect())
    }

    /// The entities of `kinds` that have a policy attached and whose paths begin with `prefix`.
    ///
    /// # Errors
    ///
    /// [`IamError::NoSuchEntity`].
    pub(super) async fn attached_to(
        &self,
        proof: &Authorised,
        arn: &str,
        (kinds, prefix): (&[Kind], &str),
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<AttachedTo>, IamError> {
        check_proof(proof, &["iam:ListEntitiesForPolicy"], arn)?;
        let account = &proof.principal().account;
        let rows = self.kms.rows().await?;
        if ready::find(arn).is_none() && find_own_policy(&rows, account, arn).await?.is_none() {
            return Err(IamError::no_policy(arn));
        }
        let cursor =
            |entity: &AttachedTo| format!("{}/{}", entity.kind.word(), folded(&entity.name));
        let mut found = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kinds.contains(kind)) {
            walk(&rows, &entity_prefix(kind, account), None, |row| {
                let record: EntityRecord = rows.open("identity", row)?.record;
                if record.path.starts_with(prefix)
                    && record.attached.iter().any(|there| there == arn)
                {
                    found.push(AttachedTo {
                        kind,
                        name: record.name,
                        id: record.id,
                    });
                }
                Ok(Walk::On)
            })
            .await?;
        }
        found.sort_by_key(cursor);
        found.retain(|entity| after.is_none_or(|after| cursor(entity).as_str() > after));
        Ok(Page::cut(found, limit, cursor))
    }
}

/// Changes how many entities have a policy attached; nothing for a ready one. `None` when there is no such policy.
async fn count(
    rows: &Rows,
    account: &AccountId,
    arn: &str,
    change: impl FnOnce(u32) -> u32,
) -> Result<Option<Batch>, IamError> {
    if ready::find(arn).is_some() {
        return Ok(Some(Batch::new()));
    }
    let Some(loaded) = find_own_policy(rows, account, arn).await? else {
        return Ok(None);
    };
    let mut record = loaded.record.clone();
    record.attachments = change(record.attachments);
    Ok(Some(rows.replace(&loaded, &record)))
}
