//! What can go wrong with identities, classed by who must act. `Display` is AWS's wording where it is known.

use super::names::Kind;
use crate::auth::Denied;
use crate::auth::sigv4::AuthError;
use crate::kms::KmsError;

/// What can go wrong with identities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IamError {
    /// Caller: no such thing. The message says which.
    #[error("{0}")]
    NoSuchEntity(String),
    /// Caller: the name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// Caller: something hangs on what is to be deleted.
    #[error("{0}")]
    DeleteConflict(&'static str),
    /// Caller: a quota is used up.
    #[error("{0}")]
    LimitExceeded(String),
    /// Caller: a policy does not read as one.
    #[error("{0}")]
    MalformedPolicy(String),
    /// Caller: a value is out of its bounds.
    #[error("{0}")]
    Validation(String),
    /// Caller: a value that reads well and cannot be meant.
    #[error("{0}")]
    InvalidInput(String),
    /// Caller: what the server or its configuration keeps is not changed here.
    #[error("{0}")]
    Unmodifiable(&'static str),
    /// Caller: a managed policy that the server or another account keeps.
    #[error("Policy is outside your own account.")]
    ForeignPolicy,
    /// Caller: session policies that a session token has no room for.
    #[error(
        "Packed size of session policies consumes {0}% of allotted space for shared policy content."
    )]
    PackedPolicyTooLarge(usize),
    /// Caller: may not.
    #[error("{0}")]
    AccessDenied(Denied),
    /// Caller: may not assume a role, or there is none: which of the two is not said.
    #[error("User: {principal} is not authorized to perform: sts:AssumeRole on resource: {role}")]
    MayNotAssume {
        /// ARN of the caller.
        principal: String,
        /// ARN of the role, as the caller gave it.
        role: String,
    },
    /// Caller: roles are not for the root user.
    #[error("Roles may not be assumed by root accounts.")]
    RootMayNotAssume,
    /// Caller: an operation or a parameter that is not here.
    #[error("{0}")]
    Unsupported(String),
    /// Caller: no operation has this name.
    #[error("Could not find operation {operation} for version {version}")]
    InvalidAction {
        /// As given.
        operation: String,
        /// As given.
        version: String,
    },
    /// Caller: who signed is not known here.
    #[error("{0}")]
    NotAuthenticated(AuthError),
    /// Retry: others change the same records.
    #[error(
        "The request was rejected because multiple requests to change this object were submitted simultaneously. Wait a few minutes and submit your request again."
    )]
    Concurrent,
    /// Operator: the operating system has no randomness to give.
    #[error("no randomness")]
    Random,
    /// Operator: a record does not fit those beside it. It is not used.
    #[error("damaged record: {0}")]
    Damaged(&'static str),
    /// Operator: a proof of authorisation that does not fit what is asked.
    #[error("internal: {0}")]
    Internal(&'static str),
    /// Retry: whoever signed may be known, and that cannot be found out now.
    #[error("identities are away")]
    Away,
    /// What the HSM and the records said.
    #[error("identities cannot be had")]
    Kms(#[source] KmsError),
}

impl From<KmsError> for IamError {
    fn from(error: KmsError) -> Self {
        Self::Kms(error)
    }
}

impl IamError {
    /// There is no entity of this name.
    pub(super) fn no_entity(kind: Kind, name: &str) -> Self {
        Self::NoSuchEntity(format!(
            "The {} with name {name} cannot be found.",
            kind.word()
        ))
    }

    /// There is no managed policy of this ARN.
    pub(super) fn no_policy(arn: &str) -> Self {
        Self::NoSuchEntity(format!("Policy {arn} was not found."))
    }

    /// A quota is used up.
    pub(super) fn quota(name: &str, limit: usize) -> Self {
        Self::LimitExceeded(format!("Cannot exceed quota for {name}: {limit}"))
    }

    /// Whether to try again later: the HSM, or the records.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Away | Self::Kms(KmsError::Busy) => true,
            Self::Kms(error) => error.is_outage() || matches!(error, KmsError::Unavailable(_)),
            _ => false,
        }
    }

    /// Whether somebody else than the caller must act; such an error belongs in the log, with its sources.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Kms(error) => error.is_ours(),
            Self::Random | Self::Damaged(_) | Self::Internal(_) => true,
            _ => false,
        }
    }

    /// The error and all that caused it, in one line, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
