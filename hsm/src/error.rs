//! What can go wrong at the hardware, classed by who must act.

use std::time::Duration;

use crate::BackingKeyId;

/// Any cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Result of an HSM call.
pub type HsmResult<T> = Result<T, HsmError>;

/// What can go wrong at the hardware.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HsmError {
    /// Caller: the token has no such key.
    #[error("no backing key {0} on the token")]
    KeyNotFound(BackingKeyId),
    /// Caller: the identity is taken.
    #[error("the token already holds a backing key {0}")]
    KeyExists(BackingKeyId),
    /// Caller: the ciphertext, its key or its AAD is not what was wrapped.
    #[error("ciphertext does not authenticate under this key and AAD")]
    Unauthentic,
    /// Caller: longer than a token takes.
    #[error("{what} of {bytes} bytes is longer than a token takes")]
    TooLong {
        /// Plaintext or AAD.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// Caller: no key of this kind is to be had from this token.
    #[error("the token does not do this: {0}")]
    Unsupported(String),
    /// Caller: what was to be imported is no AES-256 key, or not the same key as before.
    #[error("the key material is not what it must be")]
    OtherMaterial,
    /// Retry: too many calls wait.
    #[error("HSM queue is full")]
    Busy,
    /// Retry: the call may still be under way.
    #[error("no answer from the HSM within {0:?}")]
    Timeout(Duration),
    /// Retry: module or token cannot be had now.
    #[error("the token is unavailable: {reason}")]
    Unavailable {
        /// What is missing, in words.
        reason: String,
        /// What the module said, if it said anything.
        source: Option<BoxError>,
    },
    /// Operator: the token refused the PIN. Not tried again until the PIN's source changes.
    #[error("the token refused the PIN: {0}")]
    PinRejected(&'static str),
    /// Operator: the key may not be used, for it could be exported, or is not the key it claims to be.
    #[error("backing key {id} is unfit: {reason}")]
    Unfit {
        /// Which key.
        id: BackingKeyId,
        /// Which attribute, or what the canary said.
        reason: String,
    },
    /// Retry, or operator: this key may not be used now. Says nothing against the token or its other keys.
    #[error("backing key {id} cannot be used now: {reason}")]
    KeyUnavailable {
        /// Which key.
        id: BackingKeyId,
        /// What keeps it from being used, in words.
        reason: String,
    },
    /// Operator: the token as a whole does not protect keys.
    #[error("the token is unsafe: {0}")]
    UnsafeToken(String),
    /// Operator: configuration of the token that can never work.
    #[error("HSM configuration: {0}")]
    Config(String),
    /// Operator: a wrap did not decrypt back; it was not acknowledged.
    #[error("the token could not decrypt what it had just encrypted")]
    WrapNotReadable,
    /// Operator: a call failed.
    #[error("{function} failed")]
    Device {
        /// The function of the module.
        function: &'static str,
        /// What it said.
        source: BoxError,
    },
    /// Operator: the operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random(#[source] BoxError),
}

impl HsmError {
    /// Whether the session that answered this is to be dropped: after every answer of the device that is not an
    /// answer about the caller's data.
    pub fn spoils_session(&self) -> bool {
        !matches!(
            self,
            Self::KeyNotFound(_)
                | Self::KeyExists(_)
                | Self::Unauthentic
                | Self::TooLong { .. }
                | Self::Unsupported(_)
                | Self::OtherMaterial
                | Self::Busy
                | Self::KeyUnavailable { .. }
        )
    }

    /// Whether this is said of one key: others may be used.
    pub(crate) fn is_about_key(&self) -> bool {
        matches!(
            self,
            Self::KeyNotFound(_) | Self::Unfit { .. } | Self::KeyUnavailable { .. }
        )
    }

    /// Whether this speaks against the token's health.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Timeout(_)
                | Self::Unavailable { .. }
                | Self::PinRejected(_)
                | Self::UnsafeToken(_)
                | Self::Device { .. }
                | Self::WrapNotReadable
        )
    }
}
