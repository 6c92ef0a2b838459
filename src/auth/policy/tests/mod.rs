//! Documents as they are read, and decisions: what is refused comes first.

use std::sync::Arc;

mod condition;
mod decision;
mod document;
mod matrix;

use super::{Document, Kind};
use crate::auth::{AccountId, Identity, Principal, RoleSession, User};

pub(super) const OURS: &str = "111122223333";
pub(super) const THEIRS: &str = "444455556666";

pub(super) fn account(digits: &str) -> AccountId {
    AccountId::parse(digits).expect("twelve digits")
}

pub(super) fn policies(texts: &[&str]) -> Vec<Arc<Document>> {
    texts
        .iter()
        .map(|text| Arc::new(Document::parse(text, Kind::Identity).expect(text)))
        .collect()
}

fn principal(of: &str, identity: Identity) -> Principal {
    Principal {
        account: account(of),
        access_key_id: "AKIATEST".into(),
        identity,
    }
}

pub(super) fn root() -> Principal {
    Principal::root(account(OURS), "AKIATEST")
}

pub(super) fn foreign_root() -> Principal {
    Principal::root(account(THEIRS), "AKIATEST")
}

fn user(of: &str, texts: &[&str]) -> Principal {
    let user = User {
        id: "AIDAALICE".into(),
        path: "/".into(),
        name: "alice".into(),
        policies: policies(texts),
    };
    principal(of, Identity::User(Arc::new(user)))
}

pub(super) fn alice(texts: &[&str]) -> Principal {
    user(OURS, texts)
}

/// Another alice, of another account.
pub(super) fn foreign_alice(texts: &[&str]) -> Principal {
    user(THEIRS, texts)
}

fn session_of(of: &str, texts: &[&str], session: &[&str]) -> Principal {
    let session = RoleSession {
        role_id: "AROAWRITER".into(),
        path: "/app/".into(),
        role: "writer".into(),
        name: "night".into(),
        policies: policies(texts),
        session_policies: policies(session),
    };
    principal(of, Identity::Session(Arc::new(session)))
}

pub(super) fn session(texts: &[&str], session: &[&str]) -> Principal {
    session_of(OURS, texts, session)
}

pub(super) fn foreign_session(texts: &[&str], session: &[&str]) -> Principal {
    session_of(THEIRS, texts, session)
}
