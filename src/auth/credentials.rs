//! Access keys: what they sign with, whose they are, and those of the configuration.
//!
//! Every key of the configuration is the root of its account; what an access key may do is not decided here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretBox};

use super::Principal;

/// Shortest access key id.
pub const ACCESS_KEY_ID_BYTES_MIN: usize = 3;
/// Longest access key id.
pub const ACCESS_KEY_ID_BYTES_MAX: usize = 128;
/// Shortest secret.
pub const SECRET_BYTES_MIN: usize = 8;
/// Longest secret.
pub const SECRET_BYTES_MAX: usize = 256;

/// The secret half of an access key. Lives as long as the configuration, or as one request; zeroed on drop.
pub struct Secret(SecretBox<str>);

impl Secret {
    /// Takes a secret over.
    pub fn new(secret: SecretBox<str>) -> Self {
        Self(secret)
    }

    /// The secret in the clear, for the derivation of a signing key and nothing else.
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([REDACTED])")
    }
}

/// Whose an access key is, and what it signs with: what a [`Claim`](super::sigv4::Claim) is verified by.
#[derive(Debug)]
pub struct Holder {
    /// What it signs with.
    pub secret: Arc<Secret>,
    /// Whose it is.
    pub principal: Principal,
}

/// Operator: an access key of the configuration cannot be used. Names the key, never its secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The id has a character or a length that the `Authorization` header could not carry.
    ///
    /// Not shown: whoever has mixed up id and secret would find the secret in the log.
    #[error("an access key id of {0} bytes is not 3 to 128 letters, digits, '_', '-' or '.'")]
    InvalidId(usize),
    /// The secret is too short to be one, or longer than any client takes.
    #[error("the secret of access key {0} is not 8 to 256 bytes long")]
    SecretLength(String),
    /// Two secrets for one id.
    #[error("access key {0} is given twice")]
    Repeated(String),
}

/// All access keys, by id.
#[derive(Debug, Default)]
pub struct Credentials {
    secrets: BTreeMap<String, Arc<Secret>>,
}

impl Credentials {
    /// Takes pairs of access key id and secret.
    ///
    /// # Errors
    ///
    /// The first pair that breaks a bound or repeats an id.
    pub fn new(
        access_keys: impl IntoIterator<Item = (String, SecretBox<str>)>,
    ) -> Result<Self, CredentialsError> {
        let mut secrets = BTreeMap::new();
        for (access_key_id, secret) in access_keys {
            if !is_access_key_id(&access_key_id) {
                return Err(CredentialsError::InvalidId(access_key_id.len()));
            }
            if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.expose_secret().len()) {
                return Err(CredentialsError::SecretLength(access_key_id));
            }
            if secrets.contains_key(&access_key_id) {
                return Err(CredentialsError::Repeated(access_key_id));
            }
            secrets.insert(access_key_id, Arc::new(Secret(secret)));
        }
        Ok(Self { secrets })
    }

    /// The secret of an access key.
    pub fn secret(&self, access_key_id: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(access_key_id)
    }

    /// The ids of all access keys, in order.
    pub fn access_key_ids(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }
}

/// Whether the text could name an access key: 3 to 128 of `[A-Za-z0-9_.-]`.
pub(super) fn is_access_key_id(text: &str) -> bool {
    (ACCESS_KEY_ID_BYTES_MIN..=ACCESS_KEY_ID_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, secret: &str) -> Result<Credentials, CredentialsError> {
        Credentials::new([(id.to_owned(), SecretBox::from(secret.to_owned()))])
    }

    #[test]
    fn secret_does_not_show_in_debug_output() {
        let credentials = one("AKIA", "wJalrXUtnFEMI").expect("good");
        assert!(!format!("{credentials:?}").contains("wJalr"));
    }

    #[test]
    fn access_key_id_with_a_slash_is_rejected() {
        let refused = one("AKI/A", "wJalrXUtnFEMI").expect_err("bad id");
        assert_eq!(refused, CredentialsError::InvalidId(5));
    }

    #[test]
    fn access_key_id_is_bounded_at_both_ends() {
        let lengths = [(2, false), (3, true), (128, true), (129, false)];
        for (length, good) in lengths {
            assert_eq!(one(&"a".repeat(length), "wJalrXUtnFEMI").is_ok(), good);
        }
    }

    #[test]
    fn secret_is_bounded_at_both_ends() {
        let lengths = [(7, false), (8, true), (256, true), (257, false)];
        for (length, good) in lengths {
            assert_eq!(one("AKIA", &"s".repeat(length)).is_ok(), good);
        }
    }

    #[test]
    fn access_key_given_twice_is_rejected() {
        let pair = || {
            (
                "AKIA".to_owned(),
                SecretBox::from("wJalrXUtnFEMI".to_owned()),
            )
        };
        let refused = Credentials::new([pair(), pair()]).expect_err("twice");
        assert_eq!(refused, CredentialsError::Repeated("AKIA".to_owned()));
    }

    #[test]
    fn unknown_access_key_has_no_secret() {
        let credentials = one("AKIA", "wJalrXUtnFEMI").expect("good");
        assert!(credentials.secret("AKIB").is_none());
    }
}
