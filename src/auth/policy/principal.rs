//! Whom a policy or a grant names.
//!
//! IAM User Guide, "Principal" and "`NotPrincipal`". A policy names users and roles by ARN, and a name may be used again;
//! so when a policy or a grant is stored, the unique id is kept of everyone it names ([`Bound`]), and later that one is
//! meant, under whatever name. What was stored before ids were kept means whoever has the name.

use std::collections::BTreeMap;

use super::error::Malformed;
use super::json::Node;
use crate::auth::{AccountId, Identity, Principal, RoleSession};

/// How a caller is named: the caller itself, the role of its session, or no more than its account.
///
/// It decides what else must allow a request: nothing, what the session was cut down to, or the policies that the
/// account gave the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// The account, which delegates to its own identity policies.
    Account,
    /// The role that the caller's session is one of.
    Role,
    /// The user, the session or the root user, or everybody.
    Itself,
}

/// Unique ids of users and roles, by the principal as a policy writes it. Of a session's ARN it is the id of its role.
pub type Bound = BTreeMap<String, String>;

/// Whether, and how, a principal as policies and grants write one is the caller: `*`, an account number, or the ARN
/// of an account's root, a user, a role or a session of a role; `id` is that of the user or role that it was stored for.
pub fn names(written: &str, id: Option<&str>, caller: &Principal) -> Option<Named> {
    let account = &caller.account;
    if written == "*" {
        return Some(Named::Itself);
    }
    if written == account.as_str() || written == root_arn(account) {
        return Some(match caller.identity {
            Identity::Root => Named::Itself,
            Identity::User(_) | Identity::Session(_) => Named::Account,
        });
    }
    match &caller.identity {
        Identity::Root => None,
        Identity::User(user) => id
            .map_or_else(|| written == caller.arn(), |id| user.id == id)
            .then_some(Named::Itself),
        Identity::Session(session) if id.is_some_and(|id| session.role_id != id) => None,
        Identity::Session(_) if written == caller.arn() => Some(Named::Itself),
        Identity::Session(_) => (role_arn(caller)? == written).then_some(Named::Role),
    }
}

/// `arn:aws:iam::ACCOUNT:root`.
fn root_arn(account: &AccountId) -> String {
    format!("arn:aws:iam::{account}:root")
}

/// `arn:aws:iam::ACCOUNT:role/PATH/ROLE` of a session's role.
pub(super) fn role_arn(caller: &Principal) -> Option<String> {
    let Identity::Session(session) = &caller.identity else {
        return None;
    };
    let RoleSession { path, role, .. } = session.as_ref();
    Some(format!("arn:aws:iam::{}:role{path}{role}", caller.account))
}

/// A principal as it is written, and the unique id of who it was stored for.
#[derive(Debug)]
struct Written {
    name: String,
    id: Option<String>,
}

impl Written {
    fn names(&self, caller: &Principal) -> Option<Named> {
        names(&self.name, self.id.as_deref(), caller)
    }
}

/// The value of a `Principal` or a `NotPrincipal`.
#[derive(Debug)]
pub(super) struct Principals {
    /// `AWS`, and `*` for everybody.
    aws: Vec<Written>,
    /// Canonical ids of accounts.
    canonical: Vec<String>,
}

impl Principals {
    /// Reads `"*"`, or a map of the kinds of principals.
    ///
    /// Services and identity providers are read and name nobody: nobody calls here as one.
    ///
    /// # Errors
    ///
    /// [`Malformed::Principal`], [`Malformed::Type`], [`Malformed::Unknown`].
    pub(super) fn parse(element: &'static str, node: &Node) -> Result<Self, Malformed> {
        let mut principals = Self {
            aws: Vec::new(),
            canonical: Vec::new(),
        };
        let members = match node {
            Node::Text(text) if text == "*" => {
                principals.write(vec![text.clone()]);
                return Ok(principals);
            }
            Node::Text(text) => return Err(Malformed::Principal(text.clone())),
            Node::Object(members) if !members.is_empty() => members,
            _ => {
                return Err(Malformed::Type {
                    element: element.to_owned(),
                    expected: "\"*\" or an object",
                });
            }
        };
        for (kind, node) in members {
            let names = super::statement::texts(kind, node)?;
            let is_valid = match kind.as_str() {
                "AWS" => is_aws,
                "CanonicalUser" => is_canonical,
                "Service" | "Federated" => is_other,
                _ => return Err(Malformed::Unknown(kind.clone())),
            };
            if let Some(bad) = names.iter().find(|name| !is_valid(name)) {
                return Err(Malformed::Principal(bad.clone()));
            }
            match kind.as_str() {
                "AWS" => principals.write(names),
                "CanonicalUser" => principals.canonical.extend(names),
                _ => {}
            }
        }
        Ok(principals)
    }

    fn write(&mut self, names: Vec<String>) {
        let names = names.into_iter();
        self.aws
            .extend(names.map(|name| Written { name, id: None }));
    }

    /// Says whom the names meant when they were stored.
    pub(super) fn bind(&mut self, bound: &Bound) {
        for written in &mut self.aws {
            written.id = bound.get(&written.name).cloned();
        }
    }

    /// How the caller is named, at best.
    pub(super) fn name(&self, caller: &Principal, canonical_id: Option<&str>) -> Option<Named> {
        let by_arn = self.aws.iter().filter_map(|name| name.names(caller)).max();
        by_arn.max(self.account_by_canonical_id(caller, canonical_id))
    }

    /// Whether a `NotPrincipal` of these spares the caller: only if the caller, the role of its session and its account
    /// are all among them.
    pub(super) fn spare(&self, caller: &Principal, canonical_id: Option<&str>) -> bool {
        if self.aws.iter().any(|written| written.name == "*") {
            return true;
        }
        let has = |how| {
            let mut written = self.aws.iter();
            written.any(|written| written.names(caller) == Some(how))
        };
        let by_canonical_id = self.account_by_canonical_id(caller, canonical_id);
        match caller.identity {
            Identity::Root => has(Named::Itself) || by_canonical_id.is_some(),
            Identity::User(_) => {
                (has(Named::Account) || by_canonical_id.is_some()) && has(Named::Itself)
            }
            Identity::Session(_) => {
                (has(Named::Account) || by_canonical_id.is_some())
                    && has(Named::Role)
                    && has(Named::Itself)
            }
        }
    }

    /// Who is named by ARN or account number.
    pub(super) fn aws(&self) -> impl Iterator<Item = &str> {
        self.aws.iter().map(|written| written.name.as_str())
    }

    fn account_by_canonical_id(
        &self,
        caller: &Principal,
        canonical_id: Option<&str>,
    ) -> Option<Named> {
        let id = canonical_id?;
        let named = self.canonical.iter().any(|canonical| canonical == id);
        named.then_some(match caller.identity {
            Identity::Root => Named::Itself,
            Identity::User(_) | Identity::Session(_) => Named::Account,
        })
    }
}

/// `*`, an account, or the ARN of somebody. A wildcard in it names nobody, and is refused.
fn is_aws(name: &str) -> bool {
    if name == "*" || AccountId::parse(name).is_some() {
        return true;
    }
    let parts: Vec<&str> = name.splitn(6, ':').collect();
    let ["arn", "aws", service, "", account, who] = parts.as_slice() else {
        return false;
    };
    if AccountId::parse(account).is_none() || name.contains(['*', '?']) {
        return false;
    }
    let (kind, rest) = who.split_once('/').unwrap_or((who, ""));
    let is_path = rest.split('/').all(|name| !name.is_empty());
    match (*service, kind) {
        ("iam", "root") => *who == "root",
        ("iam", "user" | "role") | ("sts", "federated-user") => is_path,
        ("sts", "assumed-role") => is_path && rest.split('/').count() == 2,
        _ => false,
    }
}

fn is_canonical(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_other(name: &str) -> bool {
    !name.is_empty() && !name.contains(['*', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::policy::tests::{alice, foreign_alice, foreign_root, root, session};

    const CANONICAL: &str = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be";

    fn parse(json: &str) -> Result<Principals, Malformed> {
        Principals::parse("Principal", &serde_json::from_str(json).expect("JSON"))
    }

    fn list(names: &[&str]) -> Principals {
        let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
        parse(&format!(r#"{{"AWS":[{}]}}"#, names.join(","))).expect("principals")
    }

    #[test]
    fn who_is_nobody_is_malformed() {
        for name in [
            "",
            "alice",
            "1111",
            "arn:aws:iam::111122223333:*",
            "arn:aws:iam::111122223333:user/*",
            "arn:aws:iam::111122223333:user/al?ce",
            "arn:aws:iam::*:root",
            "arn:aws:iam::111122223333:user",
            "arn:aws:iam::111122223333:user/",
            "arn:aws:iam::111122223333:user//alice",
            "arn:aws:iam::111122223333:group/all",
            "arn:aws:iam::111122223333:root/x",
            "arn:aws:iam:us-east-1:111122223333:root",
            "arn:aws:sts::111122223333:assumed-role/writer",
            "arn:aws:sts::111122223333:assumed-role/app/writer/night",
            "arn:aws:s3:::bucket",
            "AIDAALICE",
        ] {
            let parsed = parse(&format!(r#"{{"AWS":{name:?}}}"#));
            assert!(
                matches!(&parsed, Err(Malformed::Principal(bad)) if bad == name),
                "{name} {parsed:?}"
            );
        }
    }

    #[test]
    fn what_is_no_map_of_principals_is_malformed() {
        for json in [
            r#""111122223333""#,
            "{}",
            "[]",
            "7",
            r#"{"AWS":[]}"#,
            r#"{"AWS":[7]}"#,
            r#"{"Everyone":"*"}"#,
            r#"{"Service":"*"}"#,
            r#"{"CanonicalUser":"79a5"}"#,
        ] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn strangers_are_not_named() {
        for (written, caller) in [
            ("111122223333", foreign_alice(&[])),
            ("arn:aws:iam::111122223333:root", foreign_root()),
            ("arn:aws:iam::111122223333:user/alice", foreign_alice(&[])),
            ("arn:aws:iam::111122223333:user/Alice", alice(&[])),
            ("arn:aws:iam::111122223333:user/alice", root()),
            ("arn:aws:iam::111122223333:role/writer", session(&[], &[])),
            (
                "arn:aws:sts::111122223333:assumed-role/writer/day",
                session(&[], &[]),
            ),
        ] {
            assert_eq!(names(written, None, &caller), None, "{written}");
        }
    }

    #[test]
    fn a_caller_is_named_as_itself_its_role_or_its_account() {
        for (written, caller, how) in [
            ("*", foreign_alice(&[]), Named::Itself),
            ("111122223333", root(), Named::Itself),
            ("arn:aws:iam::111122223333:root", root(), Named::Itself),
            ("arn:aws:iam::111122223333:root", alice(&[]), Named::Account),
            ("111122223333", session(&[], &[]), Named::Account),
            (
                "arn:aws:iam::111122223333:user/alice",
                alice(&[]),
                Named::Itself,
            ),
            (
                "arn:aws:iam::111122223333:role/app/writer",
                session(&[], &[]),
                Named::Role,
            ),
            (
                "arn:aws:sts::111122223333:assumed-role/writer/night",
                session(&[], &[]),
                Named::Itself,
            ),
        ] {
            assert_eq!(names(written, None, &caller), Some(how), "{written}");
        }
    }

    #[test]
    fn the_closest_name_counts() {
        let both = list(&[
            "111122223333",
            "arn:aws:sts::111122223333:assumed-role/writer/night",
            "arn:aws:iam::111122223333:role/app/writer",
        ]);
        assert_eq!(both.name(&session(&[], &[]), None), Some(Named::Itself));
        assert_eq!(both.name(&alice(&[]), None), Some(Named::Account));
        assert_eq!(both.name(&foreign_root(), None), None);
    }

    #[test]
    fn a_canonical_id_names_its_account() {
        let by_id = parse(&format!(r#"{{"CanonicalUser":"{CANONICAL}"}}"#)).expect("principals");
        assert_eq!(by_id.name(&alice(&[]), None), None);
        assert_eq!(by_id.name(&alice(&[]), Some("00")), None);
        assert_eq!(
            by_id.name(&alice(&[]), Some(CANONICAL)),
            Some(Named::Account)
        );
        assert_eq!(by_id.name(&root(), Some(CANONICAL)), Some(Named::Itself));
    }

    #[test]
    fn who_was_meant_is_named_by_its_id_and_nobody_else_of_its_name() {
        let user = "arn:aws:iam::111122223333:user/alice";
        let renamed = "arn:aws:iam::111122223333:user/alicia";
        for written in [user, renamed] {
            let named = names(written, Some("AIDAALICE"), &alice(&[]));
            assert_eq!(named, Some(Named::Itself), "{written}");
            assert_eq!(names(written, Some("AIDAOTHER"), &alice(&[])), None);
        }
        let role = "arn:aws:iam::111122223333:role/app/writer";
        let night = "arn:aws:sts::111122223333:assumed-role/writer/night";
        let day = "arn:aws:sts::111122223333:assumed-role/writer/day";
        for (written, how) in [
            (role, Some(Named::Role)),
            (night, Some(Named::Itself)),
            (day, None),
        ] {
            let caller = session(&[], &[]);
            assert_eq!(names(written, Some("AROAWRITER"), &caller), how);
            assert_eq!(names(written, Some("AROAOTHER"), &caller), None);
        }
        let mut spared = list(&["111122223333", user]);
        spared.bind(&Bound::from([(user.to_owned(), "AIDAOTHER".to_owned())]));
        assert!(!spared.spare(&alice(&[]), None));
        assert_eq!(spared.name(&alice(&[]), None), Some(Named::Account));
    }

    #[test]
    fn services_and_identity_providers_name_nobody() {
        let others =
            parse(r#"{"Service":["s3.amazonaws.com"],"Federated":"www.amazon.com"}"#).expect("map");
        assert_eq!(others.name(&root(), None), None);
        assert!(!others.spare(&root(), None));
    }

    #[test]
    fn only_who_is_named_with_its_role_and_account_is_spared() {
        let account = "arn:aws:iam::111122223333:root";
        let user = "arn:aws:iam::111122223333:user/alice";
        let role = "arn:aws:iam::111122223333:role/app/writer";
        let night = "arn:aws:sts::111122223333:assumed-role/writer/night";
        for names in [&[user][..], &[account], &[account, role, night]] {
            assert!(!list(names).spare(&alice(&[]), None), "{names:?}");
        }
        assert!(list(&[account, user]).spare(&alice(&[]), None));
        for names in [
            &[night][..],
            &[role, night],
            &[account, night],
            &[account, role],
        ] {
            assert!(!list(names).spare(&session(&[], &[]), None), "{names:?}");
        }
        assert!(list(&["111122223333", role, night]).spare(&session(&[], &[]), None));
        assert!(list(&[account]).spare(&root(), None));
        assert!(!list(&[account]).spare(&foreign_root(), None));
        assert!(list(&["*"]).spare(&foreign_root(), None));
    }
}
