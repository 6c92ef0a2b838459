//! Who is calling, and may they.
//!
//! [`sigv4`] finds out who signed a request; [`payload`] holds the body to what was signed while it streams;
//! [`authorise`] is the one place that decides. A front end authorises and hands the [`Authorised`] proof down:
//! `kms` and `store` ask for it where a decision must have been made.

use std::fmt;
use std::net::IpAddr;

mod chunked;
pub mod credentials;
pub mod payload;
pub mod sigv4;

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

/// Who signed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The account.
    pub account: AccountId,
    /// Which of its access keys signed.
    pub access_key_id: String,
}

impl Principal {
    /// Its ARN. Every access key of the configuration is the account's root today.
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{}:root", self.account)
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
            Resource::Service | Resource::KmsKey(_) | Resource::KmsAlias(_) => None,
        }
    }

    /// The object: bucket and key.
    pub fn object(&self) -> Option<(&str, &str)> {
        match &self.resource {
            Resource::Object(bucket, key) => Some((bucket, key)),
            Resource::Service
            | Resource::Bucket(_)
            | Resource::KmsKey(_)
            | Resource::KmsAlias(_) => None,
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
