//! Identities: users with access keys, groups, roles with their sessions, and the managed policies of each account.
//!
//! [`Iam`] owns the records of identities and answers one question for the whole endpoint: whose is this access key, and
//! which policies does its holder have now ([`Iam::lookup`]). What may be done is decided by `auth`. A front end
//! authorises and hands the [`Authorised`] proof in; each method checks that the proof is of its own action and entity.
//!
//! # What holds
//!
//! - Root access keys are in the configuration and need neither records nor the HSM. All others need the MAC key of the
//!   records and the credential key (`secrets`), which are in memory from their first use on; before that, without the
//!   HSM, they are refused as an outage and never as unknown.
//! - Nothing about an identity is cached but parsed policies, by their text (`documents`): a detached policy, a
//!   deactivated access key and a deleted role take effect with the next request.
//! - A session has no record: its token says all (`sessions`). It lives as long as its role.
//! - Every change is a batch that requires what was read to be unchanged, and is decided again when it is not.
//!
//! # Reading order
//!
//! `accounts`, `names`, `record`, `secrets`, `documents`, `ready`, `lookup`, `principals`, then the use cases: `entities`, `keys`,
//! `groups`, `roles`, `inline`, `policies`, `attach`, `sessions`; the front end is [`api`].

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::auth::{AccountId, Authorised, Resource};
use crate::clock::Clock;
use crate::kms::{COMMIT_ATTEMPTS_MAX, Kms, Loaded, Rows};
use crate::meta::{Batch, KeyRange, Row};

mod accounts;
pub mod api;
mod attach;
mod documents;
mod entities;
mod error;
mod groups;
mod inline;
mod keys;
mod lookup;
mod names;
mod policies;
mod principals;
mod ready;
mod record;
mod roles;
mod secrets;
mod sessions;
#[cfg(test)]
mod tests;

pub use accounts::{ACCOUNTS_MAX, Account, Accounts, AccountsError, DISPLAY_NAME_CHARS_MAX};
pub use attach::ATTACHED_MAX;
pub use documents::DOCUMENTS_MAX;
pub use entities::{GROUPS_MAX, ROLES_MAX, USERS_MAX};
pub use error::IamError;
pub use groups::GROUPS_OF_USER_MAX;
pub use inline::{
    ENTITY_BYTES_MAX, GROUP_INLINE_CHARS_MAX, ROLE_INLINE_CHARS_MAX, USER_INLINE_CHARS_MAX,
};
pub use keys::ACCESS_KEYS_OF_USER_MAX;
pub use names::{
    Kind, NAME_CHARS_MAX, PATH_CHARS_MAX, SHORT_NAME_CHARS_MAX, new_access_key_id, new_secret,
};
pub use policies::{MANAGED_CHARS_MAX, POLICIES_MAX, VERSIONS_MAX};
pub use roles::TRUST_CHARS_MAX;
pub use secrets::SESSION_TOKEN_CHARS_MAX;
pub use sessions::{CHAINED_SECONDS_MAX, SESSION_POLICY_CHARS_MAX, SESSION_SECONDS_MIN};

use documents::Documents;
use record::{EntityRecord, Tally};
use secrets::CredentialKey;

/// Rows that are read at a time where a whole table is gone through.
const SCAN_ROWS: usize = 256;

/// The identities of all accounts. Used as `Arc<Iam>`.
pub struct Iam {
    kms: Arc<Kms>,
    clock: Arc<dyn Clock>,
    accounts: Accounts,
    credential: OnceLock<Arc<CredentialKey>>,
    documents: Documents,
}

impl fmt::Debug for Iam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iam")
            .field("accounts", &self.accounts)
            .finish_non_exhaustive()
    }
}

/// Some of a list, and where to go on.
#[derive(Debug)]
struct Page<T> {
    items: Vec<T>,
    /// The list goes on after the item with this cursor.
    next: Option<String>,
}

impl<T> Page<T> {
    /// The first `limit` of `items`, of which there may be one too many.
    fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let next = if items.len() > limit {
            items.truncate(limit);
            items.last().map(cursor)
        } else {
            None
        };
        Self { items, next }
    }
}

impl Iam {
    /// Identities in the records of `kms`. Touches nothing.
    pub fn new(kms: Arc<Kms>, clock: Arc<dyn Clock>, accounts: Accounts) -> Self {
        Self {
            kms,
            clock,
            accounts,
            credential: OnceLock::new(),
            documents: Documents::default(),
        }
    }

    /// The accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Seconds since 1970.
    fn now(&self) -> i64 {
        self.clock.now().unix_timestamp()
    }

    /// Reads, lets `decide` make a batch of it, and commits; again while others change what was read meanwhile.
    async fn change<T, F>(&self, decide: impl Fn(Rows) -> F) -> Result<T, IamError>
    where
        F: Future<Output = Result<(Batch, T), IamError>>,
    {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let (batch, answer) = decide(self.kms.rows().await?).await?;
            if self.kms.commit(batch).await? {
                return Ok(answer);
            }
        }
        Err(IamError::Concurrent)
    }
}

/// An entity, which must be there and what the proof is of.
async fn proven_entity(
    rows: &Rows,
    proof: &Authorised,
    actions: &[&str],
    kind: Kind,
    name: &str,
) -> Result<Loaded<EntityRecord>, IamError> {
    let account = &proof.principal().account;
    let loaded = entity(rows, account, kind, name).await?;
    check_proof(proof, actions, &loaded.record.arn(account))?;
    Ok(loaded)
}

/// An entity, which must be there.
async fn entity(
    rows: &Rows,
    account: &AccountId,
    kind: Kind,
    name: &str,
) -> Result<Loaded<EntityRecord>, IamError> {
    find_entity(rows, account, kind, name)
        .await?
        .ok_or_else(|| IamError::no_entity(kind, name))
}

/// An entity, if it is there.
async fn find_entity(
    rows: &Rows,
    account: &AccountId,
    kind: Kind,
    name: &str,
) -> Result<Option<Loaded<EntityRecord>>, IamError> {
    let row = record::entity_row(kind, account, name);
    let loaded = rows.load::<EntityRecord>("identity", row).await?;
    if loaded
        .as_ref()
        .is_some_and(|loaded| loaded.record.kind() != kind)
    {
        return Err(IamError::Damaged("an identity of another kind"));
    }
    Ok(loaded)
}

/// Goes through the rows that begin with `prefix`, after `cursor`, until `take` has had enough.
async fn walk(
    rows: &Rows,
    prefix: &[u8],
    cursor: Option<&str>,
    mut take: impl FnMut(Row) -> Result<Walk, IamError>,
) -> Result<(), IamError> {
    let mut range = KeyRange::prefix(prefix);
    if let Some(cursor) = cursor {
        range.start.extend_from_slice(cursor.as_bytes());
        range.start.push(0);
    }
    loop {
        let found = rows.scan(&range, SCAN_ROWS).await?;
        let more = found.len() == SCAN_ROWS;
        for (row, stored) in found {
            range.start.clone_from(&row);
            range.start.push(0);
            if take((row, stored))? == Walk::Stop {
                return Ok(());
            }
        }
        if !more {
            return Ok(());
        }
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    On,
    Stop,
}

/// Changes how many entities an account has.
async fn retally(
    rows: &Rows,
    account: &AccountId,
    change: impl FnOnce(&mut Tally) -> Result<(), IamError>,
) -> Result<Batch, IamError> {
    let row = record::tally_row(account);
    let loaded = rows
        .load::<Tally>("tally of an account", row.clone())
        .await?;
    let mut tally = loaded
        .as_ref()
        .map(|loaded| loaded.record)
        .unwrap_or_default();
    change(&mut tally)?;
    Ok(match loaded {
        Some(loaded) => rows.replace(&loaded, &tally),
        None => rows.insert(row, &tally),
    })
}

/// Checks that `proof` is of one of `actions` on the thing with this ARN. The ARN is another than the proof's when its
/// path has changed since the decision.
fn check_proof(proof: &Authorised, actions: &[&str], arn: &str) -> Result<(), IamError> {
    check_action(proof, actions)?;
    match proof.resource() {
        Resource::Iam(proven) if proven == arn => Ok(()),
        Resource::Iam(_) => Err(IamError::Concurrent),
        Resource::Service
        | Resource::Buckets
        | Resource::Bucket(_)
        | Resource::Object(..)
        | Resource::KmsKey(_)
        | Resource::KmsAlias(_) => Err(IamError::Internal(
            "the proof of authorisation is of something else",
        )),
    }
}

/// Checks that `proof` is of one of `actions` on no entity in particular.
fn check_service_proof(proof: &Authorised, actions: &[&str]) -> Result<(), IamError> {
    check_action(proof, actions)?;
    match proof.resource() {
        Resource::Service => Ok(()),
        _ => Err(IamError::Internal(
            "the proof of authorisation is of something else",
        )),
    }
}

fn check_action(proof: &Authorised, actions: &[&str]) -> Result<(), IamError> {
    if actions.contains(&proof.action().0) {
        Ok(())
    } else {
        Err(IamError::Internal(
            "the proof of authorisation is of another action",
        ))
    }
}
