//! Whom a policy means. A policy names users and roles by ARN, and a name may be used again; so when a policy is stored,
//! the unique id is kept of everyone it names, and later only that one is meant. Who is renamed is meant no more.

use std::collections::BTreeMap;

use super::error::IamError;
use super::names::{Kind, is_name, is_path};
use super::{Iam, find_entity};
use crate::auth::policy::Document;
use crate::auth::{AccountId, Identity, Principal};
use crate::kms::Rows;

/// Unique ids by the ARN as a policy writes it.
pub type Bound = BTreeMap<String, String>;

impl Iam {
    /// The unique ids of the users and roles that a policy names.
    ///
    /// # Errors
    ///
    /// [`IamError::MalformedPolicy`] when it names an account, a user or a role that is not here.
    pub async fn bind(&self, policy: &Document) -> Result<Bound, IamError> {
        let rows = self.kms.rows().await?;
        let mut bound = Bound::new();
        for name in policy.principals() {
            let invalid = || {
                IamError::MalformedPolicy(format!(
                    "Invalid principal in policy: \"AWS\":\"{name}\""
                ))
            };
            match Written::parse(name).ok_or_else(invalid)? {
                Written::Everybody => {}
                Written::Account(account) => {
                    self.accounts.find(&account).ok_or_else(invalid)?;
                }
                Written::Entity(kind, account, entity, arn) => {
                    let id = id_of(&rows, kind, &account, entity, arn).await?;
                    bound.insert(name.to_owned(), id.ok_or_else(invalid)?);
                }
            }
        }
        Ok(bound)
    }
}

/// Whether a policy that was bound so can mean the caller: wherever it names the caller's ARN, it means this very user
/// or role.
pub fn may_mean(bound: &Bound, caller: &Principal) -> bool {
    let (id, role) = match &caller.identity {
        Identity::Root => return true,
        Identity::User(user) => (&user.id, None),
        Identity::Session(session) => {
            let arn = Kind::Role.arn(&caller.account, &session.path, &session.role);
            (&session.role_id, Some(arn))
        }
    };
    [Some(caller.arn()), role]
        .into_iter()
        .flatten()
        .all(|arn| bound.get(&arn).is_none_or(|meant| meant == id))
}

/// A principal as a policy writes it.
enum Written<'a> {
    Everybody,
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
) -> Result<Option<String>, IamError> {
    let found = find_entity(rows, account, kind, name).await?;
    let found = found.map(|found| found.record);
    Ok(found
        .filter(|record| arn.is_none_or(|arn| record.arn(account) == arn))
        .map(|record| record.id))
}
