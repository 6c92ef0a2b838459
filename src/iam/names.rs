//! How identities are named: kinds, names, paths, unique ids, ARNs. "IAM identifiers", IAM User Guide.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::error::IamError;
use crate::auth::AccountId;

/// Longest path, in characters.
pub const PATH_CHARS_MAX: usize = 512;
/// Longest name of a group or of a policy, in characters.
pub const NAME_CHARS_MAX: usize = 128;
/// Longest name of a user or of a role, in characters.
pub const SHORT_NAME_CHARS_MAX: usize = 64;

const ID_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Random characters of a unique id, after its prefix: 85 bits.
const ID_CHARS: usize = 17;
/// Random characters of an access key id, after its prefix: 80 bits.
const ACCESS_KEY_ID_CHARS: usize = 16;
/// Random bytes of a secret: 240 bits, 40 characters.
const SECRET_BYTES: usize = 30;

/// What can have policies of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An IAM user.
    User,
    /// A group of users.
    Group,
    /// A role.
    Role,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::User, Self::Group, Self::Role];

    /// As an ARN and a sentence have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Role => "role",
        }
    }

    /// As a name of an operation has it.
    pub fn title(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
            Self::Role => "Role",
        }
    }

    /// The first characters of its unique ids.
    pub(super) fn id_prefix(self) -> &'static str {
        match self {
            Self::User => "AIDA",
            Self::Group => "AGPA",
            Self::Role => "AROA",
        }
    }

    /// Its byte in the keys of rows. Never changes.
    pub(super) fn row_byte(self) -> u8 {
        match self {
            Self::User => b'u',
            Self::Group => b'g',
            Self::Role => b'r',
        }
    }

    /// Its ARN.
    pub fn arn(self, account: &AccountId, path: &str, name: &str) -> String {
        format!("arn:aws:iam::{account}:{}{path}{name}", self.word())
    }
}

/// Names of one account are unique however they are written: `Bob` is `bob`.
pub(super) fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Whether the text is a name: letters, digits and `_+=,.@-`. Its length is checked elsewhere.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

/// Whether the text is a path: `/`, or printable characters between two.
pub(super) fn is_path(text: &str) -> bool {
    let inner = text
        .strip_prefix('/')
        .and_then(|text| text.strip_suffix('/'));
    text == "/"
        || inner.is_some_and(|inner| {
            !inner.is_empty() && inner.bytes().all(|b| (0x21..=0x7e).contains(&b))
        })
}

/// Whether the text is the path of a managed policy: `/`, or names between slashes.
pub(super) fn is_policy_path(text: &str) -> bool {
    let inner = text
        .strip_prefix('/')
        .and_then(|text| text.strip_suffix('/'));
    text == "/" || inner.is_some_and(|inner| inner.split('/').all(is_name))
}

/// Whose a managed policy is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PolicyOwner {
    /// Ready with the server.
    Ready,
    /// An account's own; its digits.
    Account(String),
}

/// The ARN of a managed policy, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PolicyArn {
    pub(super) owner: PolicyOwner,
    pub(super) path: String,
    pub(super) name: String,
}

impl PolicyArn {
    /// Takes an ARN apart. `None` when it can never name a policy.
    pub(super) fn parse(arn: &str) -> Option<Self> {
        let (owner, resource) = arn.strip_prefix("arn:aws:iam::")?.split_once(':')?;
        let owner = match owner {
            "aws" => PolicyOwner::Ready,
            account => PolicyOwner::Account(AccountId::parse(account)?.as_str().to_owned()),
        };
        let rest = resource.strip_prefix("policy")?;
        let (path, name) = rest.split_at(rest.rfind('/')? + 1);
        (is_policy_path(path) && is_name(name)).then(|| Self {
            owner,
            path: path.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl std::fmt::Display for PolicyArn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let owner = match &self.owner {
            PolicyOwner::Ready => "aws",
            PolicyOwner::Account(account) => account,
        };
        write!(f, "arn:aws:iam::{owner}:policy{}{}", self.path, self.name)
    }
}

/// The ARN of a role, taken apart: account, path and name. `None` when it can never name a role.
pub(super) fn parse_role_arn(arn: &str) -> Option<(AccountId, &str, &str)> {
    let (account, resource) = arn.strip_prefix("arn:aws:iam::")?.split_once(':')?;
    let rest = resource.strip_prefix("role")?;
    let (path, name) = rest.split_at(rest.rfind('/')? + 1);
    (is_path(path) && is_name(name)).then_some((AccountId::parse(account)?, path, name))
}

/// A unique id that was never used before.
pub(super) fn new_id(prefix: &str) -> Result<String, IamError> {
    random_text(prefix, ID_CHARS)
}

/// An access key id that was never used before: `AKIA` of a user or of root, `ASIA` of a session.
///
/// # Errors
///
/// [`IamError::Random`].
pub fn new_access_key_id(prefix: &str) -> Result<String, IamError> {
    random_text(prefix, ACCESS_KEY_ID_CHARS)
}

/// A fresh secret of forty characters.
///
/// # Errors
///
/// [`IamError::Random`].
pub fn new_secret() -> Result<Zeroizing<String>, IamError> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_unspecified| IamError::Random)?;
    Ok(Zeroizing::new(STANDARD.encode(bytes.as_slice())))
}

fn random_text(prefix: &str, chars: usize) -> Result<String, IamError> {
    let mut bytes = vec![0; chars];
    rand::fill(&mut bytes).map_err(|_unspecified| IamError::Random)?;
    let letter = |byte: u8| {
        let at = usize::from(byte) % ID_ALPHABET.len();
        char::from(*ID_ALPHABET.get(at).unwrap_or(&b'A'))
    };
    Ok(prefix
        .chars()
        .chain(bytes.into_iter().map(letter))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_and_end_with_a_slash() {
        for good in ["/", "/a/", "/a/b/", "//", "/!~/"] {
            assert_eq!(is_path(good), good != "//", "{good}");
        }
        for bad in ["", "a", "/a", "a/", "/a b/", "/ä/"] {
            assert!(!is_path(bad), "{bad}");
        }
        assert!(is_policy_path("/a/b/") && !is_policy_path("/a//b/") && !is_policy_path("/!/"));
    }

    #[test]
    fn an_arn_of_a_policy_comes_apart_and_together() {
        for arn in [
            "arn:aws:iam::aws:policy/StrongroomAuditor",
            "arn:aws:iam::123456789012:policy/a/b/name",
        ] {
            assert_eq!(PolicyArn::parse(arn).expect("a policy").to_string(), arn);
        }
        for bad in [
            "arn:aws:iam::aws:policy",
            "arn:aws:iam::aws:policy/",
            "arn:aws:iam::12:policy/a",
            "arn:aws:iam::aws:user/a",
            "arn:aws:iam::aws:policyx/a",
            "a",
        ] {
            assert_eq!(PolicyArn::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_arn_of_a_role_comes_apart() {
        let (account, path, name) =
            parse_role_arn("arn:aws:iam::123456789012:role/x/y/z").expect("a role");
        assert_eq!(
            (account.as_str(), path, name),
            ("123456789012", "/x/y/", "z")
        );
        for bad in [
            "arn:aws:iam::123456789012:role",
            "arn:aws:iam::12:role/a",
            "arn:aws:iam::123456789012:user/a",
        ] {
            assert!(parse_role_arn(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn ids_and_secrets_have_their_lengths() {
        assert_eq!(new_id("AIDA").expect("randomness").len(), 21);
        assert_eq!(new_access_key_id("AKIA").expect("randomness").len(), 20);
        assert_eq!(new_secret().expect("randomness").len(), 40);
    }
}
