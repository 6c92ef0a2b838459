//! Whose is an access key, and which policies does its holder have now: asked once per request, answered from the
//! records as they are.

use std::sync::Arc;

use super::documents::Use;
use super::error::IamError;
use super::names::Kind;
use super::record::{AccessKeyRecord, EntityRecord, access_key_row, credential_row};
use super::secrets::{self, SessionRecord};
use super::{Iam, entity, find_entity, keys};
use crate::auth::credentials::Holder;
use crate::auth::policy::Document;
use crate::auth::sigv4::AuthError;
use crate::auth::{AccountId, Identity, Principal, RoleSession, User};
use crate::kms::{Rows, Starter, StarterIdentity};

/// Stands in for a managed session policy that was deleted since the session began.
const NOTHING: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;

/// The first characters of the access key ids of sessions.
const SESSION_PREFIX: &str = "ASIA";

impl Iam {
    /// The holder of an access key, with the policies that it has now. What is not known is said without the HSM; a root
    /// access key is found without records.
    ///
    /// # Errors
    ///
    /// [`IamError::NotAuthenticated`] when there is none, or when its session is over; [`IamError::Kms`] when the HSM is
    /// needed and is away.
    pub async fn lookup(
        &self,
        access_key_id: &str,
        session_token: Option<&str>,
    ) -> Result<Holder, IamError> {
        if let Some(token) = session_token {
            return self.lookup_session(access_key_id, token).await;
        }
        match self.accounts.root(access_key_id) {
            Some(root) => Ok(root),
            None => self.lookup_user(access_key_id).await,
        }
    }

    async fn lookup_user(&self, access_key_id: &str) -> Result<Holder, IamError> {
        let unknown = || IamError::NotAuthenticated(AuthError::UnknownAccessKey);
        if !self.kms.has_row(&access_key_row(access_key_id)).await? {
            return Err(unknown());
        }
        let rows = self.kms.rows().await?;
        let key = keys::access_key(&rows, access_key_id)
            .await?
            .ok_or_else(unknown)?
            .record;
        if !key.active {
            return Err(unknown());
        }
        let account = self.served(&key.account).ok_or_else(unknown)?;
        let user = holder_of(&rows, &account, access_key_id, &key).await?;
        let secret = self
            .credential()
            .await?
            .unwrap_secret(access_key_id, &account, &key.secret)
            .map_err(|secrets::Unauthentic| IamError::Damaged("the secret of an access key"))?;
        let identity = self.user(&rows, &account, user).await?;
        Ok(Holder {
            secret: Arc::new(secret),
            principal: Principal {
                account,
                access_key_id: access_key_id.to_owned(),
                identity,
            },
        })
    }

    /// A user with its own policies and those of its groups.
    async fn user(
        &self,
        rows: &Rows,
        account: &AccountId,
        user: EntityRecord,
    ) -> Result<Identity, IamError> {
        let mut policies = self.policies_of(rows, account, &user).await?;
        for group in user.groups() {
            let group = entity(rows, account, Kind::Group, group)
                .await
                .map_err(missing)?;
            policies.extend(self.policies_of(rows, account, &group.record).await?);
        }
        Ok(Identity::User(Arc::new(User {
            id: user.id,
            path: user.path,
            name: user.name,
            policies,
        })))
    }

    /// Who began something earlier, with the policies that he has now; nobody, if he is not there any more or has another
    /// name.
    pub(super) async fn find_identity(&self, who: &Starter) -> Result<Option<Identity>, IamError> {
        let account = &who.account;
        if self.accounts.find(account).is_none() {
            return Ok(None);
        }
        let (kind, name, id) = match &who.identity {
            StarterIdentity::Root => return Ok(Some(Identity::Root)),
            StarterIdentity::User { id, name } => (Kind::User, name, id),
            StarterIdentity::Session { role_id, role, .. } => (Kind::Role, role, role_id),
        };
        let rows = self.kms.rows().await?;
        let found = find_entity(&rows, account, kind, name).await?;
        let Some(record) = found
            .map(|found| found.record)
            .filter(|record| record.id == *id)
        else {
            return Ok(None);
        };
        let StarterIdentity::Session { name, policies, .. } = &who.identity else {
            return self.user(&rows, account, record).await.map(Some);
        };
        let cut_down = policies
            .iter()
            .map(|text| self.documents.stored(Use::Identity, text));
        Ok(Some(Identity::Session(Arc::new(RoleSession {
            policies: self.policies_of(&rows, account, &record).await?,
            session_policies: cut_down.collect::<Result<_, _>>()?,
            role_id: record.id,
            path: record.path,
            role: record.name,
            name: name.clone(),
        }))))
    }

    async fn lookup_session(&self, access_key_id: &str, token: &str) -> Result<Holder, IamError> {
        let invalid = || IamError::NotAuthenticated(AuthError::TokenInvalid);
        if !access_key_id.starts_with(SESSION_PREFIX)
            || !secrets::is_token(token)
            || !self.kms.has_row(&credential_row()).await?
        {
            return Err(invalid());
        }
        let session = self
            .credential()
            .await?
            .open_session(access_key_id, token)
            .map_err(|secrets::Unauthentic| invalid())?;
        if self.now() >= session.expires {
            return Err(IamError::NotAuthenticated(AuthError::TokenExpired));
        }
        let account = self.served(&session.account).ok_or_else(invalid)?;
        let rows = self.kms.rows().await?;
        let role = find_entity(&rows, &account, Kind::Role, &session.role)
            .await?
            .map(|role| role.record)
            .filter(|role| role.id == session.role_id)
            .ok_or_else(invalid)?;
        let identity = RoleSession {
            policies: self.policies_of(&rows, &account, &role).await?,
            session_policies: self.session_policies(&rows, &account, &session).await?,
            role_id: role.id,
            path: role.path,
            role: role.name,
            name: session.name.clone(),
        };
        Ok(Holder {
            secret: Arc::new(session.secret()),
            principal: Principal {
                account,
                access_key_id: access_key_id.to_owned(),
                identity: Identity::Session(Arc::new(identity)),
            },
        })
    }

    /// The account, if it is still one of the configuration.
    fn served(&self, digits: &str) -> Option<AccountId> {
        let account = AccountId::parse(digits)?;
        self.accounts.find(&account).map(|found| found.id.clone())
    }

    /// An entity's inline and attached policies.
    async fn policies_of(
        &self,
        rows: &Rows,
        account: &AccountId,
        record: &EntityRecord,
    ) -> Result<Vec<Arc<Document>>, IamError> {
        let mut policies = Vec::with_capacity(record.inline.len() + record.attached.len());
        for text in record.inline.values() {
            policies.push(self.documents.stored(Use::Identity, text)?);
        }
        for arn in &record.attached {
            let document = self.managed_document(rows, account, arn).await?;
            policies.push(document.ok_or(IamError::Damaged("an attached policy is missing"))?);
        }
        Ok(policies)
    }

    /// What a session was cut down to.
    async fn session_policies(
        &self,
        rows: &Rows,
        account: &AccountId,
        session: &SessionRecord,
    ) -> Result<Vec<Arc<Document>>, IamError> {
        let mut policies = Vec::new();
        for text in &session.policies {
            policies.push(self.documents.stored(Use::Identity, text)?);
        }
        for arn in &session.policy_arns {
            let document = self.managed_document(rows, account, arn).await?;
            policies.push(match document {
                Some(document) => document,
                None => self.documents.stored(Use::Identity, NOTHING)?,
            });
        }
        Ok(policies)
    }
}

/// The user that an access key says is its holder, and that says so too.
async fn holder_of(
    rows: &Rows,
    account: &AccountId,
    access_key_id: &str,
    key: &AccessKeyRecord,
) -> Result<EntityRecord, IamError> {
    let user = entity(rows, account, Kind::User, &key.user)
        .await
        .map_err(missing)?
        .record;
    if user.id != key.user_id || !user.access_keys().iter().any(|id| id == access_key_id) {
        return Err(IamError::Damaged("an access key of nobody"));
    }
    Ok(user)
}

/// What another record says is there and is not.
fn missing(error: IamError) -> IamError {
    match error {
        IamError::NoSuchEntity(_) => IamError::Damaged("an identity is missing"),
        other => other,
    }
}
