//! Whom a policy or a grant means when it is stored: see [`auth::policy`](crate::auth::policy::Bound).

use super::Iam;
use super::error::IamError;
use super::names::{Kind, is_name, is_path};
use super::record::{self, EntityRecord};
use crate::auth::policy::{Bound, Document};
use crate::auth::{AccountId, Identity};
use crate::kms::{BindError, Identities, KmsError, Rows, Starter};

#[async_trait::async_trait]
impl Identities for Iam {
    async fn bind(&self, principals: &[&str]) -> Result<Bound, BindError> {
        let rows = self.kms.rows().await.map_err(BindError::Kms)?;
        let mut bound = Bound::new();
        for name in principals {
            let invalid = || BindError::Nobody((*name).to_owned());
            match Written::parse(name).ok_or_else(invalid)? {
                Written::Everybody | Written::Nobody => {}
                Written::Account(account) => {
                    self.accounts.find(&account).ok_or_else(invalid)?;
                }
                Written::Entity(kind, account, entity, arn) => {
                    let id = id_of(&rows, kind, &account, entity, arn);
                    let id = id.await?;
                    bound.insert((*name).to_owned(), id.ok_or_else(invalid)?);
                }
            }
        }
        Ok(bound)
    }

    async fn identity_of(&self, who: &Starter) -> Result<Option<Identity>, BindError> {
        let found = self.find_identity(who).await;
        found.map_err(|error| {
            BindError::Kms(match error {
                IamError::Kms(error) => error,
                IamError::Damaged(what) => KmsError::Damaged(what),
                // There is no other.
                _ => KmsError::Damaged("an identity"),
            })
        })
    }
}

impl Iam {
    /// Whom a trust policy means.
    ///
    /// # Errors
    ///
    /// [`IamError::MalformedPolicy`] when it names an account, a user or a role that is not here.
    pub(super) async fn bind_trust(&self, trust: &Document) -> Result<Bound, IamError> {
        let principals: Vec<_> = trust.principals().collect();
        self.bind(&principals).await.map_err(|error| match error {
            BindError::Nobody(_) => IamError::MalformedPolicy(error.to_string()),
            BindError::Kms(error) => error.into(),
        })
    }
}

/// A principal as a policy writes it.
enum Written<'a> {
    Everybody,
    /// A federated user: there is none here.
    Nobody,
    Account(AccountId),
    /// Kind, account and name; its ARN, where that is what was written.
    Entity(Kind, AccountId, &'a str, Option<&'a str>),
}

impl<'a> Written<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        if name == "*" {
            return Some(Self::Everybody);
        }
        if let Some(account) = AccountId::parse(name) {
            return Some(Self::Account(account));
        }
        if let Some(rest) = name.strip_prefix("arn:aws:sts::") {
            let (account, rest) = rest.split_once(":assumed-role/")?;
            let (role, _session) = rest.split_once('/')?;
            return is_name(role).then_some(Self::Entity(
                Kind::Role,
                AccountId::parse(account)?,
                role,
                None,
            ));
        }
        if name.contains(":federated-user/") {
            return Some(Self::Nobody);
        }
        let (account, resource) = name.strip_prefix("arn:aws:iam::")?.split_once(':')?;
        let account = AccountId::parse(account)?;
        if resource == "root" {
            return Some(Self::Account(account));
        }
        let kind = [Kind::User, Kind::Role]
            .into_iter()
            .find(|kind| resource.starts_with(&format!("{}/", kind.word())))?;
        let rest = resource.strip_prefix(kind.word())?;
        let (path, entity) = rest.split_at(rest.rfind('/')? + 1);
        (is_path(path) && is_name(entity)).then_some(Self::Entity(
            kind,
            account,
            entity,
            Some(name),
        ))
    }
}

async fn id_of(
    rows: &Rows,
    kind: Kind,
    account: &AccountId,
    name: &str,
    arn: Option<&str>,
) -> Result<Option<String>, BindError> {
    let row = record::entity_row(kind, account, name);
    let found = rows.load::<EntityRecord>("identity", row).await;
    let found = found.map_err(BindError::Kms)?.map(|found| found.record);
    Ok(found
        .filter(|record| record.kind() == kind)
        .filter(|record| arn.is_none_or(|arn| record.arn(account) == arn))
        .map(|record| record.id))
}
