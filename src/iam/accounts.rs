//! The accounts of the configuration, with their root access keys.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};

use crate::auth::AccountId;
use crate::auth::Principal;
use crate::auth::credentials::{Credentials, Holder};

/// Accounts that one server may have.
pub const ACCOUNTS_MAX: usize = 1000;
/// Longest display name, in characters.
pub const DISPLAY_NAME_CHARS_MAX: usize = 64;

const CANONICAL_DOMAIN: &[u8] = b"strongroom canonical id v1";

/// An account: what buckets, keys and identities belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Twelve digits.
    pub id: AccountId,
    /// What S3 calls it: 64 lower-case hexadecimal digits.
    pub canonical_id: String,
    /// For people.
    pub display_name: String,
}

impl Account {
    /// An account whose canonical id is derived from its number: it is the same on every server.
    pub fn new(id: AccountId, display_name: impl Into<String>) -> Self {
        let covered = [CANONICAL_DOMAIN, id.as_str().as_bytes()].concat();
        Self {
            canonical_id: hex::encode(digest(&SHA256, &covered)),
            display_name: display_name.into(),
            id,
        }
    }

    /// Whether the text could be a canonical id.
    pub fn is_canonical_id(text: &str) -> bool {
        text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// Operator: the accounts do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountsError {
    /// One number, name or canonical id for two.
    #[error("{what} {value} is given to two accounts")]
    Repeated {
        /// Of what.
        what: &'static str,
        /// Which.
        value: String,
    },
    /// More than [`ACCOUNTS_MAX`].
    #[error("more than {ACCOUNTS_MAX} accounts")]
    TooMany,
}

/// All accounts, the first of which is the default one.
#[derive(Debug)]
pub struct Accounts {
    all: Vec<(Account, Credentials)>,
    /// Places in `all` by number and by root access key.
    by_id: BTreeMap<AccountId, usize>,
    by_key: BTreeMap<String, usize>,
}

impl Accounts {
    /// Takes accounts with their root access keys.
    ///
    /// # Errors
    ///
    /// [`AccountsError`].
    pub fn new(
        accounts: impl IntoIterator<Item = (Account, Credentials)>,
    ) -> Result<Self, AccountsError> {
        let accounts: Vec<_> = accounts.into_iter().collect();
        if accounts.len() > ACCOUNTS_MAX {
            return Err(AccountsError::TooMany);
        }
        let mut canonical_ids = BTreeSet::new();
        let (mut by_id, mut by_key) = (BTreeMap::new(), BTreeMap::new());
        let repeated = |what, value: &str| AccountsError::Repeated {
            what,
            value: value.to_owned(),
        };
        for (at, (account, credentials)) in accounts.iter().enumerate() {
            if by_id.insert(account.id.clone(), at).is_some() {
                return Err(repeated("account", account.id.as_str()));
            }
            if !canonical_ids.insert(account.canonical_id.as_str()) {
                return Err(repeated("canonical id", &account.canonical_id));
            }
            for id in credentials.access_key_ids() {
                if by_key.insert(id.to_owned(), at).is_some() {
                    return Err(repeated("access key", id));
                }
            }
        }
        Ok(Self {
            all: accounts,
            by_id,
            by_key,
        })
    }

    /// The account with this number.
    pub fn find(&self, id: &AccountId) -> Option<&Account> {
        let (account, _) = self.all.get(*self.by_id.get(id)?)?;
        Some(account)
    }

    /// All accounts, the default one first.
    pub fn all(&self) -> impl Iterator<Item = &Account> {
        self.all.iter().map(|(account, _)| account)
    }

    /// Whose root access key this is. Needs no record and no HSM.
    pub(super) fn root(&self, access_key_id: &str) -> Option<Holder> {
        let (account, credentials) = self.all.get(*self.by_key.get(access_key_id)?)?;
        Some(Holder {
            secret: credentials.secret(access_key_id)?.clone(),
            principal: Principal::root(account.id.clone(), access_key_id),
        })
    }

    /// The root access keys of an account.
    pub(super) fn root_keys(&self, id: &AccountId) -> Vec<String> {
        let place = self.by_id.get(id);
        place
            .and_then(|place| self.all.get(*place))
            .map(|(_, credentials)| credentials.access_key_ids().map(str::to_owned).collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretBox;

    use super::*;

    fn account(digits: &str) -> Account {
        Account::new(AccountId::parse(digits).expect("twelve digits"), "name")
    }

    fn keys(id: &str) -> Credentials {
        let secret = SecretBox::from("secretsecret".to_owned());
        Credentials::new([(id.to_owned(), secret)]).expect("a good key")
    }

    #[test]
    fn a_canonical_id_is_derived_and_differs() {
        let (one, two) = (account("000000000001"), account("000000000002"));
        assert!(Account::is_canonical_id(&one.canonical_id));
        assert_ne!(one.canonical_id, two.canonical_id);
        assert_eq!(one, account("000000000001"));
        // Records will name it: it never changes.
        assert_eq!(
            one.canonical_id,
            hex::encode(digest(&SHA256, b"strongroom canonical id v1000000000001"))
        );
    }

    #[test]
    fn an_access_key_belongs_to_the_root_of_its_account() {
        let accounts = Accounts::new([
            (account("000000000001"), keys("AKIA1")),
            (account("000000000002"), keys("AKIA2")),
        ])
        .expect("different");
        let holder = accounts.root("AKIA2").expect("known");
        assert_eq!(holder.principal.arn(), "arn:aws:iam::000000000002:root");
        assert!(accounts.root("AKIA3").is_none());
    }

    #[test]
    fn what_two_accounts_share_is_refused() {
        let refused = |second: Account, id| {
            Accounts::new([(account("000000000001"), keys("AKIA1")), (second, keys(id))])
                .expect_err("shared")
                .to_string()
        };
        assert!(refused(account("000000000001"), "AKIA2").starts_with("account"));
        assert!(refused(account("000000000002"), "AKIA1").starts_with("access key"));
        let mut same = account("000000000002");
        same.canonical_id = account("000000000001").canonical_id;
        assert!(refused(same, "AKIA2").starts_with("canonical id"));
    }
}
