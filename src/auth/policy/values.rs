//! The values of condition keys that a request is judged by.

use std::collections::BTreeMap;
use std::fmt;

use crate::auth::{Identity, Principal};

/// Values by condition key, filled by whoever asks. Keys are equal whatever the case of their letters.
///
/// A key that is not here is missing from the request, which is another thing than an empty value. Numbers, dates,
/// addresses and booleans are given as policies write them, binary values in base64. `Debug` counts and shows nothing:
/// the values of an encryption context are among them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, Vec<String>>);

impl Values {
    /// The values that follow from who is calling: `aws:PrincipalArn` (of a session, the role's), `aws:PrincipalAccount`,
    /// `aws:PrincipalType`, `aws:userid` and, for a user, `aws:username`.
    pub fn of(principal: &Principal) -> Self {
        let mut values = Self::default();
        let (kind, arn) = match &principal.identity {
            Identity::Root => ("Account", principal.arn()),
            Identity::User(user) => {
                values.add("aws:username", user.name.as_str());
                ("User", principal.arn())
            }
            Identity::Session(_) => {
                let role = super::principal::role_arn(principal);
                ("AssumedRole", role.unwrap_or_else(|| principal.arn()))
            }
        };
        values.add("aws:PrincipalArn", arn);
        values.add("aws:PrincipalAccount", principal.account.as_str());
        values.add("aws:PrincipalType", kind);
        values.add("aws:userid", principal.unique_id());
        values
    }

    /// Adds a value to those of a key.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.0
            .entry(key.to_ascii_lowercase())
            .or_default()
            .push(value.into());
    }

    /// The values of a key that is given in lower case; `None` if it is missing.
    pub(super) fn find(&self, key: &str) -> Option<&[String]> {
        self.0
            .get(key)
            .map(Vec::as_slice)
            .filter(|values| !values.is_empty())
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({} keys)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Values;
    use crate::auth::policy::tests::{alice, root, session};

    fn one(values: &Values, key: &str) -> Option<String> {
        let found = values.find(key)?;
        assert_eq!(found.len(), 1, "{key}");
        found.first().cloned()
    }

    #[test]
    fn what_was_not_added_is_missing_and_an_empty_value_is_not() {
        let mut values = Values::default();
        assert_eq!(values.find("s3:prefix"), None);
        values.add("s3:Prefix", "");
        assert_eq!(one(&values, "s3:prefix").as_deref(), Some(""));
    }

    #[test]
    fn debug_shows_no_values() {
        let mut values = Values::default();
        values.add("kms:EncryptionContext:patient", "4711");
        assert_eq!(format!("{values:?}"), "Values(1 keys)");
    }

    #[test]
    fn a_user_has_a_name_and_nobody_else_has() {
        assert_eq!(one(&Values::of(&root()), "aws:username"), None);
        assert_eq!(one(&Values::of(&session(&[], &[])), "aws:username"), None);
        let user = Values::of(&alice(&[]));
        assert_eq!(one(&user, "aws:username").as_deref(), Some("alice"));
        assert_eq!(one(&user, "aws:userid").as_deref(), Some("AIDAALICE"));
        assert_eq!(
            one(&user, "aws:principalarn").as_deref(),
            Some("arn:aws:iam::111122223333:user/alice")
        );
        assert_eq!(one(&user, "aws:principaltype").as_deref(), Some("User"));
    }

    #[test]
    fn the_principal_arn_of_a_session_is_its_roles() {
        let values = Values::of(&session(&[], &[]));
        assert_eq!(
            one(&values, "aws:principalarn").as_deref(),
            Some("arn:aws:iam::111122223333:role/app/writer")
        );
        assert_eq!(
            one(&values, "aws:userid").as_deref(),
            Some("AROAWRITER:night")
        );
        assert_eq!(
            one(&values, "aws:principalaccount").as_deref(),
            Some("111122223333")
        );
        assert_eq!(
            one(&values, "aws:principaltype").as_deref(),
            Some("AssumedRole")
        );
    }
}
