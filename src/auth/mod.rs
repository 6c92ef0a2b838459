//! Who is calling, and may they.
//!
//! [`sigv4`] finds out who signed a request; [`payload`] holds the body to what was signed while it streams;
//! [`authorise`] is the one place that decides. A front end authorises and hands the [`Authorised`] proof down:
//! `kms` and `store` ask for it where a decision must have been made.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

mod chunked;
pub mod credentials;
pub mod payload;
pub mod policy;
pub mod sigv4;

use policy::Document;

/// The twelve digits of the account that owns everything here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccountId(String);

impl AccountId {
    /// The account with this number.
    ///
    /// Returns `None` unless it is twelve ASCII digits.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| Self(text.to_owned()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who signed a request: an identity of an account, with the policies that are attached to it.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The account that the identity belongs to.
    pub account: AccountId,
    /// Which access key signed.
    pub access_key_id: String,
    /// Which identity of the account.
    pub identity: Identity,
}

/// An identity of an account.
#[derive(Debug, Clone)]
pub enum Identity {
    /// The account itself. Its own account's identity policies do not bind it.
    Root,
    /// An IAM user.
    User(Arc<User>),
    /// A session of a role.
    Session(Arc<RoleSession>),
}

/// An IAM user, as of this request.
#[derive(Debug)]
pub struct User {
    /// Unique and never used again: `AIDA…`.
    pub id: String,
    /// `/`, or `/division/`.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Its own policies and those of its groups.
    pub policies: Vec<Arc<Document>>,
}

/// A session that somebody got by assuming a role, as of this request.
#[derive(Debug)]
pub struct RoleSession {
    /// Of the role: `AROA…`.
    pub role_id: String,
    /// Of the role.
    pub path: String,
    /// Of the role.
    pub role: String,
    /// `RoleSessionName`.
    pub name: String,
    /// The role's policies.
    pub policies: Vec<Arc<Document>>,
    /// What the session was cut down to, if it was.
    pub session_policies: Vec<Arc<Document>>,
}

impl Principal {
    /// The account itself.
    pub fn root(account: AccountId, access_key_id: impl Into<String>) -> Self {
        Self {
            account,
            access_key_id: access_key_id.into(),
            identity: Identity::Root,
        }
    }

    /// Its ARN: `arn:aws:iam::ACCOUNT:root`, `arn:aws:iam::ACCOUNT:user/PATH/NAME` or
    /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub fn arn(&self) -> String {
        let account = &self.account;
        match &self.identity {
            Identity::Root => format!("arn:aws:iam::{account}:root"),
            Identity::User(user) => {
                format!("arn:aws:iam::{account}:user{}{}", user.path, user.name)
            }
            Identity::Session(session) => {
                let RoleSession { role, name, .. } = session.as_ref();
                format!("arn:aws:sts::{account}:assumed-role/{role}/{name}")
            }
        }
    }

    /// Its unique id, `aws:userid`: the account, `AIDA…`, or `AROA…:SESSION`.
    pub fn unique_id(&self) -> String {
        match &self.identity {
            Identity::Root => self.account.to_string(),
            Identity::User(user) => user.id.clone(),
            Identity::Session(session) => format!("{}:{}", session.role_id, session.name),
        }
    }
}

/// A service that asks on behalf of the caller (`kms:ViaService`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The caller asks for itself.
    Direct,
    /// The object path asks for a data key.
    S3,
}

/// What a decision may depend on.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Who is calling.
    pub principal: Principal,
    /// Names the request in answers and logs.
    pub request_id: String,
    /// Where the request came from.
    pub source_ip: Option<IpAddr>,
    /// Whether it came over TLS.
    pub secure_transport: bool,
}

/// What is done, as IAM names it: `s3:PutObject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(pub &'static str);

/// What it is done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Everything of a service.
    Service,
    /// A bucket, by name.
    Bucket(String),
    /// An object, by bucket and key.
    Object(String, String),
    /// A KMS key, by ARN.
    KmsKey(String),
    /// An alias, by ARN.
    KmsAlias(String),
    /// An identity or a managed policy, by ARN.
    Iam(String),
}

/// Proof that [`authorise`] said yes. Nothing else makes one.
#[derive(Debug)]
#[must_use = "a decision that nobody looks at protects nothing"]
pub struct Authorised {
    principal: Principal,
    action: Action,
    resource: Resource,
}

impl Authorised {
    /// Who may.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Do what.
    pub fn action(&self) -> Action {
        self.action
    }

    /// To what.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The bucket, or the bucket of the object.
    pub fn bucket(&self) -> Option<&str> {
        match &self.resource {
            Resource::Bucket(bucket) | Resource::Object(bucket, _) => Some(bucket),
            Resource::Service | Resource::KmsKey(_) | Resource::KmsAlias(_) | Resource::Iam(_) => {
                None
            }
        }
    }

    /// The object: bucket and key.
    pub fn object(&self) -> Option<(&str, &str)> {
        match &self.resource {
            Resource::Object(bucket, key) => Some((bucket, key)),
            Resource::Service
            | Resource::Bucket(_)
            | Resource::KmsKey(_)
            | Resource::KmsAlias(_)
            | Resource::Iam(_) => None,
        }
    }
}

/// Caller: may not.
#[derive(Debug, thiserror::Error)]
#[error("{principal} is not authorized to perform {action}")]
pub struct Denied {
    /// Who.
    pub principal: String,
    /// What.
    pub action: &'static str,
}

/// Decides whether the caller may do `action` to `resource`, on behalf of itself or through a service.
///
/// Today the account's root keys may do everything in their own account, and nobody else authenticates. Policies
/// will be evaluated here and nowhere else.
///
/// # Errors
///
/// [`Denied`], which says nothing about whether the resource exists.
pub fn authorise(
    context: &RequestContext,
    _via: Via,
    action: Action,
    resource: Resource,
) -> Result<Authorised, Denied> {
    if let Resource::KmsKey(arn) | Resource::KmsAlias(arn) = &resource {
        // arn:aws:kms:REGION:ACCOUNT:…
        if arn.split(':').nth(4) != Some(context.principal.account.as_str()) {
            return Err(Denied {
                principal: context.principal.arn(),
                action: action.0,
            });
        }
    }
    Ok(Authorised {
        principal: context.principal.clone(),
        action,
        resource,
    })
}
