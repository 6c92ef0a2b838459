//! Keys: what AWS KMS calls KMS keys, with their backing keys in the HSM.
//!
//! [`Kms`] is the control plane. It owns the records of keys, aliases, policies and backing key versions, asks the
//! HSM to wrap and unwrap, and decides by key state. It decides nothing about callers: a front end authorises and
//! hands the [`Authorised`] proof in; each method checks that the proof is of its own action
//! and key. It knows nothing of objects.
//!
//! # What holds
//!
//! - Key state is read from the records on every request. Nothing is cached but the MAC key of the records (`mac`)
//!   and the counts of reserved wraps (`wraps`).
//! - Token and records are two stores. A backing key is made between an intent row and a commit (`backing`), and
//!   destroyed between a mark and a commit (`deletion`). What the token holds without a record is reported and kept.
//! - Every change is a batch that requires what was read to be unchanged, and is decided again when it is not.
//! - Without the HSM everything here answers [`KmsError::Unavailable`] or [`KmsError::Timeout`], and works again as
//!   soon as the HSM does.
//!
//! # Reading order
//!
//! `spec`, `key`, `context`, `ciphertext`, `table`, `mac`, `backing`, `wraps`, `access`, `data`, then the use cases:
//! `keys`, `key_count`, `hmac`, `import`, `stores`, `aliases`, `tags`, `policy`, `grants`, `rotation`, `dependants`, `deletion`,
//! `rewrap`, `internal`, `held`, `audit`, `inventory`; the front end is [`api`].

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify, Semaphore};

use crate::audit::Audit;
use crate::auth::{AccountId, Authorised, Resource};
use crate::clock::Clock;
use crate::meta::{Batch, KeyRange, Meta, MetaError};

mod access;
mod aliases;
pub mod api;
mod audit;
mod backing;
mod ciphertext;
mod context;
mod data;
mod deletion;
mod dependants;
mod error;
mod first_account;
mod grants;
mod groups;
mod held;
mod hmac;
mod identities;
mod import;
mod internal;
mod inventory;
mod key;
mod key_count;
mod key_pair;
mod keys;
mod last_use;
mod mac;
mod policy;
mod rewrap;
mod rotation;
mod sign;
mod spec;
mod stores;
mod table;
mod tags;
#[cfg(test)]
mod tests;
mod wraps;

pub use access::Ask;
pub use aliases::{ALIASES_PER_KEY_MAX, AliasEntry, AliasName};
pub use audit::{KnownHead, audited_chain};
pub use ciphertext::{CIPHERTEXT_BYTES_MAX, EncryptedDataKey, PLAINTEXT_BYTES_MAX};
pub use context::{CONTEXT_BYTES_MAX, EncryptionContext};
pub use data::{Decrypted, Encrypted, GENERATED_BYTES_MAX, Generated, ReEncrypted};
pub use deletion::{
    DELETION_WINDOW_DAYS_DEFAULT, DELETION_WINDOW_DAYS_MAX, DELETION_WINDOW_DAYS_MIN, Deletion,
};
pub use dependants::{
    Dependants, DependantsError, DependantsOfKey, Dependent, MaterialUsage, Scope, Usage,
};
pub use error::{KeyStoreError, KmsError, WrongState};
pub use grants::{
    GRANTS_PER_KEY_MAX, Grant, GrantConstraint, GrantCursor, GrantFilter, GrantId, GrantOperation,
    NewGrant, is_principal_arn,
};
pub use groups::{TokenGroups, cluster_id_of};
pub use held::KeyWatch;
pub use hmac::{MAC_BYTES_MAX, MAC_MESSAGE_BYTES_MAX};
pub use identities::{BindError, Identities, Starter, StarterIdentity};
pub use import::{
    IMPORT_BYTES_MAX, IMPORT_PAIRS_PER_KEY_MAX, IMPORT_PARAMETERS_VALID_MILLIS, ImportParameters,
    ImportedMaterial, MATERIAL_DESCRIPTION_CHARS_MAX, MATERIAL_VALID_DAYS_MAX, NewMaterial,
};
pub use internal::InternalKey;
pub use inventory::{InventoryEntry, InventoryVersion, ObjectFacts};
pub use key::{
    KeyArn, KeyId, KeyManager, KeyMaterialId, KeyRef, KeyState, RotationSchedule, Timestamp,
};
pub use key_count::KEYS_PER_ACCOUNT_MAX_DEFAULT;
pub use key_pair::{GeneratedPair, KeyPairSpec};
pub use keys::{DESCRIPTION_CHARS_MAX, ImportStatus, KeyMetadata, NewKey};
pub use last_use::{KeyUses, LastUse};
pub(crate) use mac::Sealing;
pub use policy::{POLICY_CHARS_MAX, POLICY_NAME};
pub use rewrap::{
    NewRewrap, REWRAP_RATE_MAX, REWRAPS_MAX, REWRAPS_OPEN_MAX, Rewrap, RewrapCounts, RewrapId,
    RewrapLease, RewrapState,
};
pub use rotation::{
    MaterialRole, ON_DEMAND_ROTATIONS_MAX, ROTATION_PERIOD_DAYS_DEFAULT, ROTATION_PERIOD_DAYS_MAX,
    ROTATION_PERIOD_DAYS_MIN, RotatedBy, RotationEntry, RotationStatus,
};
pub use sign::{Message, PublicKey, SIGN_MESSAGE_BYTES_MAX, SIGNATURE_BYTES_MAX};
pub use spec::{KeyOrigin, KeySpec, KeyUsage};
pub use stores::{
    Connection, KEY_STORE_NAME_CHARS_MAX, KEY_STORES_MAX, KeyStoreChange, KeyStoreEntry,
    KeyStoreId, KeyStoreOfKey,
};
pub use tags::{TAG_NAME_CHARS_MAX, TAG_VALUE_CHARS_MAX, TAGS_PER_KEY_MAX};

use key::{KeyRecord, Owner};
use last_use::LastUses;
use mac::MetadataMac;
pub(crate) use table::{Loaded, Rows};
use wraps::WrapCounts;

/// Wraps that one backing key may make with random IVs: far below the 2^32 of SP 800-38D §8.3.
pub const WRAPS_PER_BACKING_KEY_MAX_DEFAULT: u64 = 1 << 30;
/// Wraps that a server reserves with one durable write.
pub const WRAP_COUNT_BLOCK_DEFAULT: u64 = 65_536;

/// How often a change is decided again because its records changed meanwhile.
pub(crate) const COMMIT_ATTEMPTS_MAX: usize = 32;
/// How long a request waits for another one that makes a backing key.
const MAKING_WAIT_MAX: Duration = Duration::from_secs(15);

/// What a [`Kms`] must be told.
#[derive(Debug, Clone)]
pub struct KmsSettings {
    /// The server's first account: the operator's, and that of keys of which no other is recorded.
    pub account: AccountId,
    /// The region in every ARN.
    pub region: String,
    /// After so many wraps a backing key is rotated. [`WRAPS_PER_BACKING_KEY_MAX_DEFAULT`].
    pub wraps_per_backing_key_max: u64,
    /// So many wraps are reserved at a time; a restart forgets what is left of them.
    /// [`WRAP_COUNT_BLOCK_DEFAULT`].
    pub wrap_count_block: u64,
    /// The most KMS keys of an account, those of the service included, which are never refused.
    /// [`KEYS_PER_ACCOUNT_MAX_DEFAULT`].
    pub keys_per_account_max: u32,
}

/// The control plane. Used as `Arc<Kms>`.
pub struct Kms {
    meta: Arc<dyn Meta>,
    groups: TokenGroups,
    clock: Arc<dyn Clock>,
    settings: KmsSettings,
    mac: OnceLock<Arc<MetadataMac>>,
    making_mac: Mutex<()>,
    /// One at a time commits a key or its end: the number of keys changes with each.
    counting_keys: Mutex<()>,
    wraps: WrapCounts,
    read_policies: access::ReadPolicies,
    watchers: held::Watchers,
    /// Names this process in the intents it writes.
    process: [u8; 16],
    audit: Option<Arc<Audit>>,
    /// Who keeps what was wrapped here; nobody without.
    dependants: Option<Arc<dyn Dependants>>,
    refuse_deletion_while_in_use: bool,
    last_uses: LastUses,
    identities: OnceLock<Weak<dyn Identities>>,
    /// That a re-wrap was begun.
    rewraps: Notify,
    /// Turns of those who make key pairs.
    pairs: Arc<Semaphore>,
}

impl fmt::Debug for Kms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kms")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Some of a list, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, C> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// The list goes on after this one.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// The first `limit` of `items`, of which there may be one too many.
    fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> Self {
        let next = if items.len() > limit {
            items.truncate(limit);
            items.last().map(cursor)
        } else {
            None
        };
        Self { items, next }
    }
}

impl Kms {
    /// A control plane over these records and these token groups. Touches neither.
    pub fn new(
        meta: Arc<dyn Meta>,
        groups: impl Into<TokenGroups>,
        clock: Arc<dyn Clock>,
        settings: KmsSettings,
    ) -> Self {
        let last_uses = LastUses::new(Timestamp::of(clock.now()));
        Self {
            meta,
            groups: groups.into(),
            clock,
            settings,
            mac: OnceLock::new(),
            making_mac: Mutex::new(()),
            counting_keys: Mutex::new(()),
            wraps: WrapCounts::default(),
            read_policies: access::ReadPolicies::default(),
            watchers: held::Watchers::default(),
            process: *uuid::Uuid::new_v4().as_bytes(),
            dependants: None,
            refuse_deletion_while_in_use: false,
            last_uses,
            identities: OnceLock::new(),
            rewraps: Notify::new(),
            pairs: Arc::new(Semaphore::new(key_pair::PAIRS_AT_ONCE_MAX)),
            audit: None,
        }
    }

    /// The same, with every use of a key and every call of the API recorded. Without an audit none is.
    #[must_use]
    pub fn with_audit(self, audit: Arc<Audit>) -> Self {
        Self {
            audit: Some(audit),
            ..self
        }
    }

    /// The server's first account.
    pub fn account(&self) -> &AccountId {
        &self.settings.account
    }

    /// The region in every ARN.
    pub fn region(&self) -> &str {
        &self.settings.region
    }

    /// The ARN of a key as a record keeps it, whether that key still exists or not.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`] for what is no ARN of a key here.
    pub fn arn_of_record(&self, text: &str) -> Result<KeyArn, KmsError> {
        match KeyRef::parse(text)? {
            KeyRef::KeyArn {
                region,
                account,
                key_id,
            } => {
                self.check_region(&region)?;
                let account = AccountId::parse(&account);
                let account = account
                    .ok_or_else(|| KmsError::NotFound(format!("Key '{text}' does not exist")))?;
                Ok(self.key_arn(&account, key_id))
            }
            _ => Err(KmsError::NotFound(format!("Invalid arn {text}"))),
        }
    }

    /// The ARN of the key that a ciphertext was made under: what to authorise before [`Kms::decrypt`]. None: there is no
    /// such key.
    ///
    /// # Errors
    ///
    /// [`KmsError::Unavailable`] before the records can be verified.
    pub async fn arn_of(&self, ciphertext: &EncryptedDataKey) -> Result<Option<KeyArn>, KmsError> {
        let account = self.rows().await?.account_of(ciphertext.key_id()).await?;
        Ok(account.map(|account| self.key_arn(&account, ciphertext.key_id())))
    }

    /// A key of `account` that nothing was ever made under.
    pub(in crate::kms) fn some_other_key(&self, account: &AccountId) -> KeyArn {
        self.key_arn(account, KeyId::random())
    }

    /// Whether `proof` is of the key that a ciphertext was made under, as far as both name it.
    pub fn is_of_key(&self, proof: &Authorised, ciphertext: &EncryptedDataKey) -> bool {
        matches!(proof.resource(), Resource::KmsKey(arn)
            if self.arn_of_record(arn).is_ok_and(|key| key.key_id() == ciphertext.key_id()))
    }

    /// Finds the key that a caller of this account means: by its bare id or alias name one of the account, by an ARN
    /// that of any. Its state is not looked at. Whether a key of another account exists is left to
    /// [`Kms::authorise`], which tells nobody who may not know.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`] in the recorded words of the service; [`KmsError::Unavailable`] before the records can
    /// be verified.
    pub async fn resolve(&self, caller: &AccountId, key: &KeyRef) -> Result<KeyArn, KmsError> {
        let account = match key {
            KeyRef::KeyId(_) | KeyRef::AliasName(_) => caller.clone(),
            KeyRef::KeyArn {
                region, account, ..
            }
            | KeyRef::AliasArn {
                region, account, ..
            } => {
                self.check_region(region)?;
                AccountId::parse(account)
                    .ok_or_else(|| KmsError::NotFound(format!("Invalid arn {account}")))?
            }
        };
        match key {
            KeyRef::KeyId(key_id) | KeyRef::KeyArn { key_id, .. } => {
                let arn = self.key_arn(&account, *key_id);
                if account == *caller {
                    self.rows().await?.head(&Owner::Key(arn.clone())).await?;
                }
                Ok(arn)
            }
            KeyRef::AliasName(name) | KeyRef::AliasArn { name, .. } => {
                self.resolve_alias(&account, name).await
            }
        }
    }

    /// Start-up: finishes or reports what an earlier process began and did not end, as far as the HSM is there. What
    /// cannot be done now is done by [`Kms::destroy_due_keys`] later.
    ///
    /// # Errors
    ///
    /// [`KmsError::Storage`] when the metadata store does not work; [`KmsError::Damaged`] when its first account is not
    /// the configuration's. An absent HSM is no error.
    pub async fn recover(&self) -> Result<(), KmsError> {
        let recovered = match self.verify_first_account().await {
            Ok(()) => self.reconcile_intents(true).await,
            Err(error) => Err(error),
        };
        match recovered {
            Ok(()) => Ok(()),
            Err(error @ (KmsError::Storage(_) | KmsError::Damaged(_))) => Err(error),
            Err(error) => {
                tracing::warn!(event = "kms.recover.postponed", %error, "the HSM is away; intents are looked at later");
                Ok(())
            }
        }
    }

    fn check_region(&self, region: &str) -> Result<(), KmsError> {
        if region == self.settings.region {
            Ok(())
        } else {
            Err(KmsError::NotFound(format!("Invalid arn {region}")))
        }
    }

    fn key_arn(&self, account: &AccountId, key_id: KeyId) -> KeyArn {
        KeyArn::new(&self.settings.region, account.clone(), key_id)
    }

    /// The ARN of a key whose record this is.
    fn arn_of_head(&self, key_id: KeyId, record: &KeyRecord) -> Result<KeyArn, KmsError> {
        Ok(self.key_arn(&record.account(self.account())?, key_id))
    }

    fn now(&self) -> Timestamp {
        Timestamp::of(self.clock.now())
    }

    /// Whether a row is there. Nothing is verified, so that it needs no HSM, and all that it can be used for is to say
    /// that something is not there.
    pub(crate) async fn has_row(&self, row: &[u8]) -> Result<bool, KmsError> {
        let snapshot = self.meta.snapshot().await.map_err(KmsError::meta)?;
        let stored = snapshot.load(row).await.map_err(KmsError::meta)?;
        Ok(stored.is_some())
    }

    /// The records as they are now, each verified as it is read.
    pub(crate) async fn rows(&self) -> Result<Rows, KmsError> {
        let mac = self.mac().await?;
        let snapshot = self.meta.snapshot().await.map_err(KmsError::meta)?;
        Ok(Rows::new(mac, snapshot, self.account().clone()))
    }

    /// Commits. `false`: something had changed meanwhile, and nothing was done.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<bool, KmsError> {
        match self.meta.commit(batch).await {
            Ok(()) => Ok(true),
            Err(MetaError::Conflict) => Ok(false),
            Err(error) => Err(KmsError::meta(error)),
        }
    }

    /// Reads the record of `key`, lets `change` decide, and commits; again while others change it meanwhile.
    async fn update_key<T>(
        &self,
        key: &KeyArn,
        change: impl Fn(&mut KeyRecord) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        self.update_key_unless(key, None, change).await
    }

    /// As [`Kms::update_key`], but nothing is changed while a row is in `kept_by`: [`KmsError::InUse`].
    async fn update_key_unless<T>(
        &self,
        key: &KeyArn,
        kept_by: Option<KeyRange>,
        change: impl Fn(&mut KeyRecord) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let owner = Owner::Key(key.clone());
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head = rows.head(&owner).await?;
            let mut record = head.record.clone();
            let answer = change(&mut record)?;
            if record == head.record {
                return Ok(answer);
            }
            let mut batch = rows.replace(&head, &record);
            if let Some(range) = &kept_by {
                if !rows.scan(range, 1).await?.is_empty() {
                    return Err(self.in_use(key).await?);
                }
                batch = batch.range_empty(range.clone());
            }
            if self.commit(batch).await? {
                if record.state != head.record.state {
                    self.tell(key);
                }
                return Ok(answer);
            }
        }
        Err(KmsError::Busy)
    }

    /// Waits for a turn to make a key.
    async fn lock_making<'a>(&self, making: &'a Mutex<()>) -> Result<MutexGuard<'a, ()>, KmsError> {
        tokio::time::timeout(MAKING_WAIT_MAX, making.lock())
            .await
            .map_err(|_elapsed| KmsError::Busy)
    }
}

/// Checks that `proof` is of one of `actions` on `key`. It always is, unless a front end has a bug.
fn check_proof(proof: &Authorised, actions: &[&str], key: &KeyArn) -> Result<(), KmsError> {
    check_proof_of(proof, actions, &Resource::KmsKey(key.as_str().to_owned()))
}

/// The key that `proof` is of: the one that `ciphertext` names, for one of `actions`. That there is such a key, and
/// that it is of the account that was decided about, is found when its record is read.
fn key_of_proof(
    kms: &Kms,
    proof: &Authorised,
    actions: &[&str],
    ciphertext: &EncryptedDataKey,
) -> Result<KeyArn, KmsError> {
    let key = match proof.resource() {
        Resource::KmsKey(arn) => kms.arn_of_record(arn)?,
        _ => return Err(other_proof()),
    };
    if key.key_id() != ciphertext.key_id() {
        return Err(other_proof());
    }
    check_proof(proof, actions, &key)?;
    Ok(key)
}

fn check_proof_of(
    proof: &Authorised,
    actions: &[&str],
    resource: &Resource,
) -> Result<(), KmsError> {
    if actions.contains(&proof.action().0) && proof.resource() == resource {
        Ok(())
    } else {
        Err(other_proof())
    }
}

fn other_proof() -> KmsError {
    KmsError::internal("the proof of authorisation is of something else")
}
