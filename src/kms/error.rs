//! What can go wrong with keys, classed by who must act.
//!
//! Where an answer of the real service is recorded, `Display` is that wording; the two front ends show it. What is
//! the operator's business is shown to nobody: it goes to the log.

use std::time::Duration;

use strongroom_hsm::{BoxError, HsmError};

use super::dependants::Dependent;
use super::key::KeyArn;
use crate::audit::{AuditError, Panicked};
use crate::auth::Denied;
use crate::meta::MetaError;

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// Caller: no such key, alias or policy, or a reference that can never name one. The message says which.
    #[error("{0}")]
    NotFound(String),
    /// Caller: the key is disabled.
    #[error("{0} is disabled.")]
    Disabled(KeyArn),
    /// Caller: the key's state does not allow this.
    #[error("{arn} is {state}.")]
    InvalidState {
        /// The key.
        arn: KeyArn,
        /// What it is.
        state: WrongState,
    },
    /// Caller: things depend on the key, and the server is told to keep such keys.
    #[error(
        "{arn} is in use: {} objects of {} bytes and {} multipart uploads depend on it.",
        .dependent.objects, .dependent.bytes, .dependent.uploads
    )]
    InUse {
        /// The key.
        arn: KeyArn,
        /// What depends on it.
        dependent: Dependent,
    },
    /// Caller: a custom key store.
    #[error("{0}")]
    KeyStore(KeyStoreError),
    /// Caller: the key is not for this use, or not with this algorithm.
    #[error("{0}")]
    InvalidKeyUsage(String),
    /// Caller: the import token is not one of ours, or of another key.
    #[error("The import token is not valid for this key.")]
    InvalidImportToken,
    /// Caller: the import token has expired, or has served.
    #[error("The import token has expired. Get a new one with GetParametersForImport.")]
    ExpiredImportToken,
    /// Caller: no material for the key's spec, or not one that the key had, or one where a new one is meant.
    #[error(
        "The key material is not of the length that the key spec requires, or not the one that was imported before, or \
         imported already where new key material is expected."
    )]
    IncorrectKeyMaterial,
    /// Caller: the materials that were brought along do not allow this. The message says why.
    #[error("{0}")]
    MaterialState(String),
    /// Caller: the MAC is not of this message under this key.
    #[error("The HMAC verification failed.")]
    InvalidMac,
    /// Caller: the signature is not of this message by this key. The wire says nothing more.
    #[error("the signature does not verify")]
    InvalidSignature,
    /// Caller: ciphertext, key or encryption context is not what was encrypted. The wire says nothing more.
    #[error("ciphertext does not authenticate under its key and encryption context")]
    InvalidCiphertext,
    /// Caller: the ciphertext names a key that is not here.
    #[error(
        "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you \
         are not allowed to access."
    )]
    ForeignCiphertext,
    /// Caller: the ciphertext was made under another key than the one named.
    #[error("The key ID in the request does not identify a CMK that can perform this operation.")]
    IncorrectKey,
    /// Caller: may not.
    #[error("{0}")]
    AccessDenied(Denied),
    /// Caller: nobody may do this to a key that the service manages.
    #[error("{arn} is managed by the service: {action} is not for callers")]
    Managed {
        /// The key.
        arn: KeyArn,
        /// What was asked, as IAM names it.
        action: &'static str,
    },
    /// Caller: aliases that begin with `alias/aws/` belong to the service.
    #[error("aliases beginning with alias/aws/ are reserved")]
    ReservedAlias,
    /// Caller: a value is out of its bounds. The message is AWS's.
    #[error("{0}")]
    Validation(String),
    /// Caller: a quota is used up.
    #[error("{0}")]
    LimitExceeded(String),
    /// Caller: the name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// Caller: the paging marker is not one of ours, or not of this list.
    #[error("Could not deserialize marker")]
    InvalidMarker,
    /// Caller: tags.
    #[error("{0}")]
    Tag(&'static str),
    /// Caller: the policy does not read, or locks everybody out.
    #[error("{0}")]
    MalformedPolicy(String),
    /// Caller: a parameter or an operation that is not here.
    #[error("{0}")]
    Unsupported(String),
    /// Caller: a grant token that was never given out.
    #[error("grant token is not valid")]
    InvalidGrantToken,
    /// Caller: no id of a grant.
    #[error("{0}")]
    InvalidGrantId(String),
    /// Caller: an ARN that names nothing of its kind.
    #[error("{0}")]
    InvalidArn(String),
    /// Caller: all was well, and nothing was to be done.
    #[error("The request would have succeeded, but the DryRun option is set.")]
    DryRun,
    /// Retry: too many calls wait for the HSM or the records.
    #[error("too many requests wait")]
    Busy,
    /// Retry: the HSM did not answer in time.
    #[error("no answer from the HSM within {0:?}")]
    Timeout(Duration),
    /// Retry: the HSM cannot be had now, or not the backing key in it.
    #[error("the key's hardware is unavailable")]
    Unavailable(#[source] HsmError),
    /// Operator: a record does not authenticate or does not read. It is not used.
    #[error("damaged record: {0}")]
    Damaged(&'static str),
    /// Operator: the metadata store failed.
    #[error("the metadata store failed")]
    Storage(#[source] MetaError),
    /// Operator: the audit cannot be written, and no key is used without.
    #[error("the audit record cannot be written")]
    Audit(#[source] AuditError),
    /// Operator: what should not happen, and a proof of authorisation that does not fit what is asked.
    #[error("internal: {what}")]
    Internal {
        /// What.
        what: &'static str,
        /// Its cause, if it has one.
        source: Option<BoxError>,
    },
}

/// Why a state does not allow an operation, as the recorded answers put it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongState {
    /// Its deletion is scheduled or under way.
    PendingDeletion,
    /// Its key material is to be imported.
    PendingImport,
    /// There is no deletion to cancel.
    NotPendingDeletion,
    /// Its key store is disconnected.
    Unavailable,
}

/// What is wrong about a custom key store, by the API's exceptions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyStoreError {
    /// There is none with this id.
    #[error("The custom key store {0} does not exist")]
    NotFound(String),
    /// Another one has this name.
    #[error("A custom key store named {0} exists already")]
    NameInUse(String),
    /// No token group of the configuration has this cluster id.
    #[error("No token group of the configuration has the cluster id {0}")]
    ClusterNotFound(String),
    /// Another one is on this token group.
    #[error("A custom key store is on {0} already")]
    ClusterInUse(String),
    /// The token group does not hold the store's backing keys.
    #[error("The tokens do not hold the backing keys of this key store")]
    ClusterNotRelated,
    /// Not in its connection state.
    #[error("The custom key store does not allow this now: {0}")]
    InvalidState(&'static str),
    /// There are backing keys in it, of keys or of their earlier versions.
    #[error("There are keys in the custom key store")]
    HasKeys,
}

impl From<KeyStoreError> for KmsError {
    fn from(error: KeyStoreError) -> Self {
        Self::KeyStore(error)
    }
}

impl std::fmt::Display for WrongState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PendingDeletion => "pending deletion",
            Self::PendingImport => "pending import",
            Self::NotPendingDeletion => "not pending deletion",
            Self::Unavailable => "unavailable: its key store is disconnected",
        })
    }
}

impl KmsError {
    /// Our bug.
    pub(super) fn internal(what: &'static str) -> Self {
        Self::Internal { what, source: None }
    }

    /// Our bug, of the worst kind.
    pub(crate) fn panicked(panic: Panicked) -> Self {
        Self::Internal {
            what: "a call that panicked",
            source: Some(Box::new(panic)),
        }
    }

    /// What the HSM said, seen from here.
    pub(super) fn hsm(error: HsmError) -> Self {
        match error {
            HsmError::Unauthentic => Self::InvalidCiphertext,
            HsmError::Busy => Self::Busy,
            HsmError::OtherMaterial => Self::IncorrectKeyMaterial,
            HsmError::Unsupported(what) => Self::Unsupported(format!(
                "The hardware security module has no keys of this kind: {what}"
            )),
            HsmError::Timeout(deadline) => Self::Timeout(deadline),
            // A token without the key is another token, or the key is lost: either way the records are right and
            // the hardware is not there. It heals when the right token is back.
            HsmError::KeyNotFound(_)
            | HsmError::Unavailable { .. }
            | HsmError::PinRejected(_)
            | HsmError::UnsafeToken(_)
            | HsmError::Unfit { .. }
            | HsmError::KeyUnavailable { .. }
            | HsmError::Config(_)
            | HsmError::WrapNotReadable
            | HsmError::Device { .. } => Self::Unavailable(error),
            other => Self::Internal {
                what: "HSM call",
                source: Some(Box::new(other)),
            },
        }
    }

    /// What the metadata store said, seen from here. A conflict is the use case's to retry and must not get here.
    pub(super) fn meta(error: MetaError) -> Self {
        match error {
            // A use case that lost its race too often is a use case under too much load.
            MetaError::Busy | MetaError::Conflict => Self::Busy,
            MetaError::Damaged(what) => Self::Damaged(what),
            MetaError::Limit { .. } | MetaError::Storage { .. } => Self::Storage(error),
        }
    }

    /// Whether the hardware is what is missing: try again later.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            // One key that is unfit says nothing about the others.
            Self::Unavailable(source) => source.is_outage(),
            _ => false,
        }
    }

    /// Whether somebody else than the caller must act; such an error belongs in the log, with its sources.
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Timeout(_)
                | Self::Unavailable(_)
                | Self::Damaged(_)
                | Self::Storage(_)
                | Self::Audit(_)
                | Self::Internal { .. }
        )
    }
}
