//! Who is calling, and may they.
//!
//! [`sigv4`] finds out who signed a request; [`payload`] holds the body to what was signed while it streams;
//! [`authorise`] is the one place that decides. A front end authorises and hands the [`Authorised`] proof down:
//! `kms` and `store` ask for it where a decision must have been made.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

mod chunked;
pub mod credentials;
pub mod payload;
pub mod policy;
pub mod sigv4;

use policy::{
    Decision, Denial, Document, Question, RequestSteps, STEPS_MAX, STEPS_OF_REQUEST_MAX, Side,
    Values,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The twelve digits of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// What a decision may depend on.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Who is calling.
    pub principal: Principal,
    /// What S3 calls the caller's account, by which a bucket policy may name it.
    pub canonical_id: Option<String>,
    /// Names the request in answers and logs.
    pub request_id: String,
    /// Where the request came from.
    pub source_ip: Option<IpAddr>,
    /// Whether it came over TLS.
    pub secure_transport: bool,
    /// When it came.
    pub time: OffsetDateTime,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// `Referer`.
    pub referer: Option<String>,
    /// Whether the signature came in the query.
    pub presigned: bool,
    /// `x-amz-content-sha256`, of a request to S3.
    pub content_sha256: Option<String>,
    /// The S3 operation that it is, once that is known.
    pub operation: Operation,
    /// What its decisions may still take.
    pub steps: RequestSteps,
}

/// The S3 operation of a request: what a use of a key was for. The first that is named stays; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Operation(Arc<OnceLock<(Action, Resource)>>);

impl Operation {
    /// Names it, unless it has been named.
    pub fn name(&self, action: Action, resource: &Resource) {
        self.0.get_or_init(|| (action, resource.clone()));
    }

    /// What was named.
    pub fn named(&self) -> Option<(Action, &Resource)> {
        self.0.get().map(|(action, resource)| (*action, resource))
    }
}

/// Where a request came from and what it was for: what the audit says beside who and what.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Names the request in answers and logs.
    pub request_id: String,
    /// Where it came from.
    pub source_ip: Option<IpAddr>,
    /// What the client says that it is.
    pub user_agent: Option<String>,
    /// The S3 operation that it is. A key that is used then is used by S3, on the caller's behalf.
    pub operation: Operation,
}

impl Origin {
    /// Of a request.
    pub fn of(context: &RequestContext) -> Self {
        Self {
            request_id: context.request_id.clone(),
            source_ip: context.source_ip,
            user_agent: context.user_agent.clone(),
            operation: context.operation.clone(),
        }
    }
}

impl RequestContext {
    /// A request of which nothing else is known: it came at the epoch, from nowhere, in the clear.
    pub fn new(principal: Principal, request_id: impl Into<String>) -> Self {
        Self {
            principal,
            canonical_id: None,
            request_id: request_id.into(),
            source_ip: None,
            secure_transport: false,
            time: OffsetDateTime::UNIX_EPOCH,
            user_agent: None,
            referer: None,
            presigned: false,
            content_sha256: None,
            operation: Operation::default(),
            steps: RequestSteps::default(),
        }
    }

    /// What policies can ask about every request.
    fn values(&self) -> Values {
        let mut values = Values::of(&self.principal);
        if let Some(source_ip) = self.source_ip {
            values.add("aws:SourceIp", source_ip.to_canonical().to_string());
        }
        values.add("aws:SecureTransport", self.secure_transport.to_string());
        if let Ok(time) = self.time.format(&Rfc3339) {
            values.add("aws:CurrentTime", time);
        }
        values.add("aws:EpochTime", self.time.unix_timestamp().to_string());
        for (name, value) in [
            ("aws:UserAgent", &self.user_agent),
            ("aws:Referer", &self.referer),
        ] {
            if let Some(value) = value {
                values.add(name, value.as_str());
            }
        }
        values.add("aws:ViaAWSService", "false");
        values
    }
}

/// What is done, as IAM names it: `s3:PutObject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(pub &'static str);

/// What it is done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Everything of a service.
    Service,
    /// All buckets of the caller's account.
    Buckets,
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

impl Resource {
    /// Its ARN, as policies name it.
    pub fn arn(&self) -> String {
        match self {
            Self::Service => "*".to_owned(),
            Self::Buckets => "arn:aws:s3:::*".to_owned(),
            Self::Bucket(bucket) => format!("arn:aws:s3:::{bucket}"),
            Self::Object(bucket, key) => format!("arn:aws:s3:::{bucket}/{key}"),
            Self::KmsKey(arn) | Self::KmsAlias(arn) | Self::Iam(arn) => arn.clone(),
        }
    }
}

/// Which bucket was decided about: a name may be used again, by another account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecidedBucket {
    /// Of this bucket and of no later one of the same name.
    pub uuid: [u8; 16],
    /// Whether what the decision was made by could be verified: then it lets keys be used. Without the HSM it cannot.
    pub verified: bool,
}

/// Proof that [`authorise`] said yes. Nothing else makes one.
#[derive(Debug)]
#[must_use = "a decision that nobody looks at protects nothing"]
pub struct Authorised {
    /// Who, and on which request.
    caller: Arc<(Principal, Origin)>,
    action: Action,
    resource: Resource,
    decided: Option<DecidedBucket>,
}

impl Authorised {
    /// Who may.
    pub fn principal(&self) -> &Principal {
        &self.caller.0
    }

    /// Do what.
    pub fn action(&self) -> Action {
        self.action
    }

    /// To what.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// On which request.
    pub fn origin(&self) -> &Origin {
        &self.caller.1
    }

    /// The bucket, or the bucket of the object.
    pub fn bucket(&self) -> Option<&str> {
        match &self.resource {
            Resource::Bucket(bucket) | Resource::Object(bucket, _) => Some(bucket),
            Resource::Service
            | Resource::Buckets
            | Resource::KmsKey(_)
            | Resource::KmsAlias(_)
            | Resource::Iam(_) => None,
        }
    }

    /// The bucket that was there when it was decided. `None`: there was none, or nothing about a bucket was decided.
    pub fn decided_bucket(&self) -> Option<DecidedBucket> {
        self.decided
    }

    /// The object: bucket and key.
    pub fn object(&self) -> Option<(&str, &str)> {
        match &self.resource {
            Resource::Object(bucket, key) => Some((bucket, key)),
            Resource::Service
            | Resource::Buckets
            | Resource::Bucket(_)
            | Resource::KmsKey(_)
            | Resource::KmsAlias(_)
            | Resource::Iam(_) => None,
        }
    }
}

/// Caller: may not. Says which action, on what, and what kind of policy says so: as AWS does.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "User: {principal} is not authorized to perform: {action} on resource: {resource} {}", denial.reason(action)
)]
pub struct Denied {
    /// Who.
    pub principal: String,
    /// What.
    pub action: &'static str,
    /// On what.
    pub resource: String,
    /// Why.
    pub denial: Denial,
    /// Whether the caller is of the account that owns the resource. Who is not is not told why.
    pub own: bool,
}

impl Denied {
    /// What the caller is told: the kind of policy only within the account that owns the resource ("Troubleshoot access
    /// denied error messages", IAM User Guide).
    pub fn told(&self) -> String {
        if self.own {
            return self.to_string();
        }
        let Self {
            principal,
            action,
            resource,
            ..
        } = self;
        format!("User: {principal} is not authorized to perform: {action} on resource: {resource}")
    }
}

/// Decides whether the caller may do `action` to `resource`, of which `side` says what stands there; `add` adds what
/// else policies can ask about this request. The one place that decides.
///
/// # Errors
///
/// [`Denied`], which says nothing about whether the resource exists.
pub fn authorise(
    context: &RequestContext,
    action: Action,
    resource: Resource,
    side: Side<'_>,
    add: impl FnOnce(&mut Values),
) -> Result<Authorised, Denied> {
    let mut values = context.values();
    add(&mut values);
    let arn = resource.arn();
    let question = Question {
        principal: &context.principal,
        canonical_id: context.canonical_id.as_deref(),
        action: action.0,
        resource: &arn,
        values: &values,
        side,
    };
    let decision = policy::decide(&question, &context.steps);
    let own = match side {
        Side::None => true,
        Side::Bucket { owner, .. } | Side::Key { owner, .. } | Side::Role { owner, .. } => {
            *owner == context.principal.account
        }
    };
    let decided = match side {
        Side::Bucket { bucket, .. } => Some(bucket),
        Side::None | Side::Key { .. } | Side::Role { .. } => None,
    };
    match decision {
        Decision::Allowed => Ok(Authorised {
            caller: Arc::new((context.principal.clone(), Origin::of(context))),
            action,
            resource,
            decided,
        }),
        Decision::Denied(denial) => {
            if denial == Denial::Undecided && context.steps.is_to_be_logged() {
                tracing::error!(
                    event = "auth.undecided",
                    principal = context.principal.arn(),
                    action = action.0,
                    resource = arn,
                    steps_max = STEPS_MAX,
                    steps_of_request_max = STEPS_OF_REQUEST_MAX,
                );
            }
            Err(Denied {
                principal: context.principal.arn(),
                action: action.0,
                resource: arn,
                denial,
                own,
            })
        }
    }
}
