//! Rows of this module: their keys, and what is in them.
//!
//! ```text
//! I ‖ u ‖ account ‖ folded name              user                       EntityRecord
//! I ‖ g ‖ account ‖ folded name              group                      EntityRecord
//! I ‖ r ‖ account ‖ folded name              role                       EntityRecord
//! I ‖ p ‖ account ‖ folded name              managed policy             PolicyRecord
//! I ‖ v ‖ account ‖ folded name ‖ 0 ‖ number one of its versions        PolicyText
//! I ‖ s ‖ account                            how many there are of each Tally
//! I ‖ k ‖ access key id                      access key of a user       AccessKeyRecord
//! I ‖ c                                      the credential key         secrets::CredentialRecord
//! ```
//!
//! An account is its twelve digits, a number four bytes, big-endian. All values carry the MAC of `kms::mac`, which also
//! covers the row's key. What an identity may do is in its own row, so that no permission can be taken away by deleting
//! a row beside it: a row that is missing is an identity, a group or a policy that is missing, and fails closed.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::names::{Kind, folded};
use crate::auth::AccountId;
use crate::meta::table;

const POLICY: u8 = b'p';
const POLICY_TEXT: u8 = b'v';
const TALLY: u8 = b's';
const ACCESS_KEY: u8 = b'k';
const CREDENTIAL: u8 = b'c';

fn row(kind: u8, account: &AccountId, rest: &[u8]) -> Vec<u8> {
    [&[table::IAM, kind], account.as_str().as_bytes(), rest].concat()
}

/// All entities of a kind in an account.
pub(super) fn entity_prefix(kind: Kind, account: &AccountId) -> Vec<u8> {
    row(kind.row_byte(), account, &[])
}

pub(super) fn entity_row(kind: Kind, account: &AccountId, name: &str) -> Vec<u8> {
    row(kind.row_byte(), account, folded(name).as_bytes())
}

/// All managed policies of an account.
pub(super) fn policy_prefix(account: &AccountId) -> Vec<u8> {
    row(POLICY, account, &[])
}

pub(super) fn policy_row(account: &AccountId, name: &str) -> Vec<u8> {
    row(POLICY, account, folded(name).as_bytes())
}

pub(super) fn policy_text_row(account: &AccountId, name: &str, version: u32) -> Vec<u8> {
    let version = version.to_be_bytes();
    let rest = [folded(name).as_bytes(), &[0], &version].concat();
    row(POLICY_TEXT, account, &rest)
}

pub(super) fn tally_row(account: &AccountId) -> Vec<u8> {
    row(TALLY, account, &[])
}

pub(super) fn access_key_row(access_key_id: &str) -> Vec<u8> {
    [&[table::IAM, ACCESS_KEY], access_key_id.as_bytes()].concat()
}

pub(super) fn credential_row() -> Vec<u8> {
    vec![table::IAM, CREDENTIAL]
}

/// A user, a group or a role.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct EntityRecord {
    /// `AIDA…`, `AGPA…` or `AROA…`.
    #[n(0)]
    pub(super) id: String,
    #[n(1)]
    pub(super) path: String,
    /// As it was written when it was made.
    #[n(2)]
    pub(super) name: String,
    /// Seconds since 1970.
    #[n(3)]
    pub(super) created: i64,
    /// Inline policies by name.
    #[n(4)]
    pub(super) inline: BTreeMap<String, String>,
    /// ARNs of the managed policies that are attached to it.
    #[n(5)]
    pub(super) attached: Vec<String>,
    #[n(6)]
    pub(super) own: Own,
}

/// What only entities of its kind have.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Own {
    #[n(0)]
    User {
        /// Folded names of the groups it is in, sorted.
        #[n(0)]
        groups: Vec<String>,
        /// Ids of its access keys, the oldest first.
        #[n(1)]
        access_keys: Vec<String>,
    },
    #[n(1)]
    Group {
        /// How many users say that they are in it.
        #[n(0)]
        members: u32,
    },
    #[n(2)]
    Role {
        #[n(0)]
        trust: String,
        #[n(1)]
        description: String,
        #[n(2)]
        session_seconds_max: u32,
        /// Whom the trust policy means.
        #[n(3)]
        bound: BTreeMap<String, String>,
    },
}

impl EntityRecord {
    pub(super) fn kind(&self) -> Kind {
        match self.own {
            Own::User { .. } => Kind::User,
            Own::Group { .. } => Kind::Group,
            Own::Role { .. } => Kind::Role,
        }
    }

    pub(super) fn arn(&self, account: &AccountId) -> String {
        self.kind().arn(account, &self.path, &self.name)
    }

    /// Folded names of the groups it is in.
    pub(super) fn groups(&self) -> &[String] {
        match &self.own {
            Own::User { groups, .. } => groups,
            Own::Group { .. } | Own::Role { .. } => &[],
        }
    }

    /// Ids of its access keys.
    pub(super) fn access_keys(&self) -> &[String] {
        match &self.own {
            Own::User { access_keys, .. } => access_keys,
            Own::Group { .. } | Own::Role { .. } => &[],
        }
    }
}

/// An access key of a user.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct AccessKeyRecord {
    /// Twelve digits.
    #[n(0)]
    pub(super) account: String,
    /// Folded.
    #[n(1)]
    pub(super) user: String,
    /// Of the user: a name may be used again, an id is not.
    #[n(2)]
    pub(super) user_id: String,
    #[n(3)]
    pub(super) active: bool,
    /// Seconds since 1970.
    #[n(4)]
    pub(super) created: i64,
    /// The secret, wrapped by the credential key.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub(super) secret: Vec<u8>,
}

/// A managed policy of an account.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PolicyRecord {
    /// `ANPA…`.
    #[n(0)]
    pub(super) id: String,
    #[n(1)]
    pub(super) path: String,
    #[n(2)]
    pub(super) name: String,
    #[n(3)]
    pub(super) description: String,
    /// Seconds since 1970.
    #[n(4)]
    pub(super) created: i64,
    #[n(5)]
    pub(super) updated: i64,
    /// When each version was made, by number.
    #[n(6)]
    pub(super) versions: BTreeMap<u32, i64>,
    /// The version that counts.
    #[n(7)]
    pub(super) default: u32,
    /// The next version's number: none is used twice.
    #[n(8)]
    pub(super) next: u32,
    /// How many entities have it attached.
    #[n(9)]
    pub(super) attachments: u32,
}

impl PolicyRecord {
    pub(super) fn arn(&self, account: &AccountId) -> String {
        format!("arn:aws:iam::{account}:policy{}{}", self.path, self.name)
    }
}

/// The text of a version of a managed policy, which never changes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PolicyText {
    /// Of the policy: its name may be used again.
    #[n(0)]
    pub(super) policy_id: String,
    #[n(1)]
    pub(super) document: String,
}

/// How many entities an account has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Tally {
    #[n(0)]
    pub(super) users: u32,
    #[n(1)]
    pub(super) groups: u32,
    #[n(2)]
    pub(super) roles: u32,
    #[n(3)]
    pub(super) policies: u32,
}

impl Tally {
    /// How many of a kind.
    pub(super) fn of(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::User => &mut self.users,
            Kind::Group => &mut self.groups,
            Kind::Role => &mut self.roles,
        }
    }
}
