//! Re-wraps: jobs that move what depends on one key, or on one version of it, to the newest version of a key.
//!
//! This is the book of them; the work is done by the data plane, which takes a job under a lease, asks for each data
//! key to be unwrapped and wrapped again, and writes down how far it is. Rows bear a MAC: a job is the right to use
//! two keys until it is done, as long as whoever began it has that right, and nobody may make one up. The keys' states
//! and policies are read for each data key.

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};
use strongroom_hsm::{DataKey, SecretBytes};
use uuid::Uuid;

use super::ciphertext::EncryptedDataKey;
use super::context::EncryptionContext;
use super::dependants::{Dependent, Scope, Usage};
use super::error::KmsError;
use super::key::{KeyArn, KeyId, Owner, Timestamp};
use super::table::{self, Loaded, Rows};
use super::{COMMIT_ATTEMPTS_MAX, Kms, check_proof, check_proof_of};
use crate::auth::{AccountId, Authorised, Resource};
use crate::meta::table as tables;

mod starter;

use starter::{Asked, StarterRecord};

/// The most re-wraps that wait or are under way and leave keys of one account.
pub const REWRAPS_OPEN_MAX: usize = 100;
/// The most re-wraps that are remembered of one account; the oldest that have ended are forgotten.
pub const REWRAPS_MAX: usize = 1000;
/// Rows of re-wraps that are read together.
const SCAN_ROWS: usize = 1000;
/// The fastest that a re-wrap may be asked to be, in objects a second.
pub const REWRAP_RATE_MAX: u32 = 1_000_000;
/// What is asked of the key that is left.
const FROM: &str = "kms:ReEncryptFrom";
/// What is asked of the key that is gone to.
const TO: &str = "kms:ReEncryptTo";
/// For so long a re-wrap is its runner's without a sign of life.
const REWRAP_LEASE_MILLIS: i64 = 30_000;

/// Names a re-wrap. Sorts by the time it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RewrapId(Uuid);

impl RewrapId {
    fn new(now: Timestamp) -> Self {
        let mut bytes = *Uuid::new_v4().as_bytes();
        let millis = now.millis().to_be_bytes();
        for (into, byte) in bytes.iter_mut().zip(millis.iter().skip(2)) {
            *into = *byte;
        }
        Self(Uuid::from_bytes(bytes))
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(Uuid::try_parse(text).ok()?);
        (id.to_string() == text).then_some(id)
    }

    fn row(self) -> Vec<u8> {
        [[tables::KMS_REWRAP].as_slice(), self.0.as_bytes()].concat()
    }
}

impl std::fmt::Display for RewrapId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// A re-wrap to be begun.
#[derive(Debug, Clone)]
pub struct NewRewrap {
    /// The key that is left.
    pub from: KeyArn,
    /// Only this backing key of it, in hex.
    pub material: Option<String>,
    /// The key that is gone to; often the same.
    pub to: KeyArn,
    /// Only these dependants; with a key of another account than the server's first, only in buckets of that account.
    pub scope: Scope,
    /// At most so many data keys a second.
    pub rate: Option<u32>,
}

/// Where a re-wrap stands.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RewrapState {
    /// Nobody has begun it.
    #[n(0)]
    Waiting,
    /// Somebody is at it, or died at it.
    #[n(1)]
    Running,
    /// All was gone through. What could not be moved is counted.
    #[n(2)]
    Completed,
    /// It cannot go on: in words.
    #[n(3)]
    Failed(#[n(0)] String),
    /// Called off.
    #[n(4)]
    Cancelled,
}

impl RewrapState {
    /// Whether there is still something to do.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running)
    }
}

/// What a re-wrap has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct RewrapCounts {
    /// Data keys that are under the new key now.
    #[n(0)]
    pub rewrapped: u64,
    /// Dependants that were gone or changed before their turn came.
    #[n(1)]
    pub skipped: u64,
    /// Dependants that could not be moved, in the pass that is under way or was the last. The log says why.
    #[n(2)]
    pub failed: u64,
    /// Passes that are over.
    #[cbor(n(3), default)]
    pub passes: u32,
    /// How many of [`Self::rewrapped`] were so when the last of these was over.
    #[cbor(n(4), default)]
    pub rewrapped_in_passes: u64,
}

/// A re-wrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrap {
    /// Which.
    pub id: RewrapId,
    /// The key that is left.
    pub from: KeyArn,
    /// The versions of its backing key that are left, first and last.
    pub versions: (u32, u32),
    /// The one that was named, in hex, if one was.
    pub material: Option<String>,
    /// The key that is gone to.
    pub to: KeyArn,
    /// Which dependants.
    pub scope: Scope,
    /// At most so many data keys a second.
    pub rate: Option<u32>,
    /// Who began it.
    pub started_by: String,
    /// When.
    pub created: Timestamp,
    /// Where it stands.
    pub state: RewrapState,
    /// What it has done.
    pub counts: RewrapCounts,
    /// How much there was to do when it was begun.
    pub planned: Dependent,
    /// What still depended on what it left when it ended.
    pub remaining: Option<Dependent>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The last row of the data plane's that it went past; empty before the first.
    pub cursor: Vec<u8>,
}

/// What is recorded of a re-wrap.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct RewrapRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    from: [u8; KeyId::BYTES],
    #[n(1)]
    first: u32,
    #[n(2)]
    last: u32,
    #[cbor(n(3), with = "minicbor::bytes")]
    to: [u8; KeyId::BYTES],
    #[n(4)]
    bucket: Option<String>,
    #[n(5)]
    prefix: String,
    #[n(6)]
    rate: Option<u32>,
    #[n(7)]
    started_by: String,
    #[n(8)]
    created: Timestamp,
    #[n(9)]
    state: RewrapState,
    #[n(10)]
    counts: RewrapCounts,
    #[n(11)]
    planned: Dependent,
    #[n(12)]
    remaining: Option<Dependent>,
    #[n(13)]
    ended: Option<Timestamp>,
    #[cbor(n(14), with = "minicbor::bytes")]
    cursor: Vec<u8>,
    /// Which process is at it, and until when nobody else is.
    #[n(15)]
    lease: Option<Lease>,
    #[n(16)]
    material: Option<String>,
    /// The accounts of the two keys; none is the server's first one.
    #[n(20)]
    from_account: Option<String>,
    #[n(21)]
    to_account: Option<String>,
    /// When it was last taken, in turns of all re-wraps; 0 is never.
    #[cbor(n(22), default)]
    turn: u64,
    /// Nobody takes it before.
    #[n(23)]
    rest_until: Option<Timestamp>,
    /// Not said of one from before it was recorded.
    #[n(24)]
    starter: Option<StarterRecord>,
}

impl RewrapRecord {
    /// Whether this process may take it, or has it.
    fn claimable(&self, process: [u8; 16], now: Timestamp, take_over: bool) -> bool {
        let taken = self
            .lease
            .is_some_and(|lease| lease.process != process && lease.until > now && !take_over);
        self.state.is_open() && !taken && self.rest_until.is_none_or(|until| until <= now)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct Lease {
    #[cbor(n(0), with = "minicbor::bytes")]
    process: [u8; 16],
    #[n(1)]
    until: Timestamp,
}

/// A re-wrap that is this process's to run: the right to unwrap under the one key and to wrap under the other.
#[derive(Debug)]
#[must_use = "a lease that nobody works under keeps others from the work"]
pub struct RewrapLease {
    rewrap: Rewrap,
    starter: Option<StarterRecord>,
    asked: Asked,
}

impl RewrapLease {
    /// The re-wrap.
    pub fn rewrap(&self) -> &Rewrap {
        &self.rewrap
    }
}

impl Kms {
    /// What a re-wrap would move. Proofs as of [`Kms::start_rewrap`].
    ///
    /// # Errors
    ///
    /// As [`Kms::start_rewrap`].
    pub async fn plan_rewrap(
        &self,
        proofs: [&Authorised; 3],
        new: &NewRewrap,
    ) -> Result<Usage, KmsError> {
        let versions = self.check_rewrap(proofs, new).await?;
        let scope = self.scope_of_key(&new.from, &new.scope);
        self.usage(new.from.key_id(), versions.0..=versions.1, &scope)
            .await
    }

    /// Begins a re-wrap, which is carried out by whatever server has the time. Not an operation of AWS. Three proofs:
    /// `kms:StartRewrap` and `kms:ReEncryptFrom` on the key that is left, `kms:ReEncryptTo` on the other. Now policies are
    /// asked without an encryption context; for each data key they are asked again, with its own.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] when there is nothing to leave; [`KmsError::LimitExceeded`] beyond
    /// [`REWRAPS_OPEN_MAX`]; [`KmsError::NotFound`] for a bucket or a material that is not there; by the states of
    /// both keys.
    pub async fn start_rewrap(
        &self,
        proofs: [&Authorised; 3],
        new: &NewRewrap,
    ) -> Result<Rewrap, KmsError> {
        let versions = self.check_rewrap(proofs, new).await?;
        let scope = self.scope_of_key(&new.from, &new.scope);
        let planned = self
            .usage(new.from.key_id(), versions.0..=versions.1, &scope)
            .await?
            .total();
        let [started_by, ..] = proofs;
        let created = self.now();
        let record = RewrapRecord {
            from: *new.from.key_id().as_bytes(),
            first: versions.0,
            last: versions.1,
            to: *new.to.key_id().as_bytes(),
            bucket: new.scope.bucket.clone(),
            prefix: new.scope.prefix.clone(),
            rate: new.rate,
            started_by: started_by.principal().arn(),
            created,
            state: RewrapState::Waiting,
            counts: RewrapCounts::default(),
            planned,
            remaining: None,
            ended: None,
            cursor: Vec::new(),
            lease: None,
            material: new.material.clone(),
            from_account: self.recorded_account(&new.from),
            to_account: self.recorded_account(&new.to),
            turn: 0,
            rest_until: None,
            starter: Some(StarterRecord::of(started_by)),
        };
        let id = RewrapId::new(created);
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let mut all = self.scan_rewraps(&rows).await?;
            all.retain(|(_, loaded)| loaded.record.from_account == record.from_account);
            let open = all
                .iter()
                .filter(|(_, loaded)| loaded.record.state.is_open())
                .count();
            if open >= REWRAPS_OPEN_MAX {
                return Err(KmsError::LimitExceeded(format!(
                    "{open} re-wraps wait or are under way already"
                )));
            }
            let mut batch = rows.insert(id.row(), &record);
            if all.len() >= REWRAPS_MAX
                && let Some((_, oldest)) = all
                    .iter()
                    .find(|(_, loaded)| !loaded.record.state.is_open())
            {
                batch = batch.and(oldest.delete());
            }
            if self.commit(batch).await? {
                tracing::info!(
                    event = "kms.rewrap.begun", rewrap = %id, from = %new.from, to = %new.to,
                    first = versions.0, last = versions.1, objects = planned.objects, uploads = planned.uploads
                );
                self.rewraps.notify_one();
                return Ok(self.rewrap_of(id, &record));
            }
        }
        Err(KmsError::Busy)
    }

    /// A re-wrap; of which keys, so that the caller can be asked for the right to know.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn find_rewrap(&self, id: RewrapId) -> Result<Rewrap, KmsError> {
        let loaded = self.load_rewrap(&self.rows().await?, id).await?;
        Ok(self.rewrap_of(id, &loaded.record))
    }

    /// All re-wraps that are remembered and leave keys of the caller's account, the oldest first; to the server's first
    /// account, those of all.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn list_rewraps(&self, proof: &Authorised) -> Result<Vec<Rewrap>, KmsError> {
        check_proof_of(proof, &["kms:ListRewraps"], &Resource::Service)?;
        let all = self.scan_rewraps(&self.rows().await?).await?;
        let account = &proof.principal().account;
        Ok(all
            .into_iter()
            .map(|(id, loaded)| self.rewrap_of(id, &loaded.record))
            .filter(|rewrap| account == self.account() || account == rewrap.from.account())
            .collect())
    }

    /// Calls a re-wrap off. What it has moved stays moved. `proof` is of the key that it leaves; of none, if it is of
    /// the server's first account.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`]; [`KmsError::Validation`] when it has ended.
    pub async fn cancel_rewrap(
        &self,
        proof: &Authorised,
        id: RewrapId,
    ) -> Result<Rewrap, KmsError> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let loaded = self.load_rewrap(&rows, id).await?;
            let rewrap = self.rewrap_of(id, &loaded.record);
            let cancel = &["kms:CancelRewrap"];
            if proof.principal().account != *self.account()
                || check_proof_of(proof, cancel, &Resource::Service).is_err()
            {
                check_proof(proof, cancel, &rewrap.from)?;
            }
            if !rewrap.state.is_open() {
                return Err(KmsError::Validation(format!("{id} has ended")));
            }
            let mut record = loaded.record.clone();
            record.state = RewrapState::Cancelled;
            record.ended = Some(self.now());
            record.lease = None;
            if self.commit(rows.replace(&loaded, &record)).await? {
                tracing::info!(event = "kms.rewrap.cancelled", rewrap = %id);
                return Ok(self.rewrap_of(id, &record));
            }
        }
        Err(KmsError::Busy)
    }

    /// Returns when a re-wrap may be waiting.
    pub async fn rewrap_begun(&self) {
        self.rewraps.notified().await;
    }

    /// Takes the oldest re-wrap that is nobody's, of the account whose turn it is. With `take_over`, also one that
    /// another process has: for the start of a server that is the only one on its store.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn claim_rewrap(&self, take_over: bool) -> Result<Option<RewrapLease>, KmsError> {
        let rows = self.rows().await?;
        let all = self.scan_rewraps(&rows).await?;
        let mut turns: BTreeMap<Option<String>, u64> = BTreeMap::new();
        for (_, loaded) in &all {
            let turn = turns.entry(loaded.record.from_account.clone()).or_default();
            *turn = loaded.record.turn.max(*turn);
        }
        let last = turns.values().copied().max().unwrap_or_default();
        let now = self.now();
        let mut claimable: Vec<_> = all
            .into_iter()
            .filter(|(_, loaded)| loaded.record.claimable(self.process, now, take_over))
            .collect();
        claimable
            .sort_by_key(|(id, loaded)| (turns.get(&loaded.record.from_account).copied(), *id));
        for (id, loaded) in claimable {
            let mut record = loaded.record.clone();
            record.state = RewrapState::Running;
            record.lease = Some(self.new_lease());
            record.turn = last.saturating_add(1);
            record.rest_until = None;
            if self.commit(rows.replace(&loaded, &record)).await? {
                let rewrap = self.rewrap_of(id, &record);
                let starter = record.starter;
                let asked = self.asked(&rewrap, starter.as_ref()).await?;
                return Ok(Some(RewrapLease {
                    rewrap,
                    starter,
                    asked,
                }));
            }
        }
        Ok(None)
    }

    /// Writes down how far a re-wrap is, and that it is still being run, and asks again what whoever began it may.
    /// `false`: it is not ours any more.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn advance_rewrap(
        &self,
        lease: &mut RewrapLease,
        cursor: &[u8],
        counts: RewrapCounts,
    ) -> Result<bool, KmsError> {
        let ours = self
            .write_rewrap(lease, |record| {
                record.cursor = cursor.to_vec();
                record.counts = counts;
                record.lease = Some(self.new_lease());
            })
            .await?;
        if ours {
            lease.asked = self.asked(&lease.rewrap, lease.starter.as_ref()).await?;
        }
        Ok(ours)
    }

    /// Whether a re-wrap of another account could be taken now.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn another_account_waits(&self, lease: &RewrapLease) -> Result<bool, KmsError> {
        let ours = self.recorded_account(&lease.rewrap.from);
        let now = self.now();
        let all = self.scan_rewraps(&self.rows().await?).await?;
        Ok(all.iter().any(|(_, Loaded { record, .. })| {
            record.from_account != ours && record.claimable(self.process, now, false)
        }))
    }

    /// Gives back a re-wrap that is this process's, to be taken again after `rest` at the earliest.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn put_back_rewrap(
        &self,
        mut lease: RewrapLease,
        rest: Duration,
    ) -> Result<(), KmsError> {
        let rest = i64::try_from(rest.as_millis()).unwrap_or(i64::MAX);
        let until = self.now().plus_millis(rest);
        self.write_rewrap(&mut lease, |record| {
            record.lease = None;
            record.rest_until = Some(until);
        })
        .await?;
        Ok(())
    }

    /// Ends a re-wrap, and counts what still depends on what it left. `None`: it is not ours any more.
    ///
    /// # Errors
    ///
    /// By the records.
    pub async fn end_rewrap(
        &self,
        mut lease: RewrapLease,
        state: RewrapState,
    ) -> Result<Option<Rewrap>, KmsError> {
        let Rewrap {
            from,
            versions: (first, last),
            scope,
            ..
        } = lease.rewrap.clone();
        let remaining = match self.usage(from.key_id(), first..=last, &scope).await {
            Ok(usage) => Some(usage.total()),
            // The bucket is gone, and everything in it.
            Err(KmsError::NotFound(_)) => Some(Dependent::default()),
            Err(error) => return Err(error),
        };
        let ended = self.now();
        let ours = self
            .write_rewrap(&mut lease, |record| {
                record.state = state.clone();
                record.remaining = remaining;
                record.ended = Some(ended);
                record.lease = None;
            })
            .await?;
        Ok(ours.then_some(lease.rewrap))
    }

    /// Unwraps a data key that a re-wrap moves.
    ///
    /// # Errors
    ///
    /// [`KmsError::IncorrectKey`] for one that hangs on another key; as [`Kms::unwrap_data_key`].
    pub async fn unwrap_for_rewrap(
        &self,
        lease: &RewrapLease,
        encrypted: &EncryptedDataKey,
        context: &EncryptionContext,
    ) -> Result<DataKey, KmsError> {
        if encrypted.header().key_id != lease.rewrap.from.key_id() {
            return Err(KmsError::IncorrectKey);
        }
        let using = self.begin_rewrap_use(&lease.rewrap, "Decrypt", context)?;
        let from = &lease.rewrap.from;
        let outcome = match self.may_still(lease, (FROM, from), context).await {
            Ok(()) => self.unwrap_direct(from, encrypted, context).await,
            Err(denied) => Err(denied),
        };
        let material = outcome.as_ref().map(|(_, material)| *material);
        using.end(material).await?;
        outcome.map(|(data_key, _)| data_key)
    }

    /// Wraps a data key that a re-wrap moves.
    ///
    /// # Errors
    ///
    /// As [`Kms::wrap_data_key`].
    pub async fn wrap_for_rewrap(
        &self,
        lease: &RewrapLease,
        context: &EncryptionContext,
        data_key: &DataKey,
    ) -> Result<EncryptedDataKey, KmsError> {
        let to = &lease.rewrap.to;
        let using = self.begin_rewrap_use(&lease.rewrap, "Encrypt", context)?;
        let secret = SecretBytes::from(data_key);
        let outcome = match self.may_still(lease, (TO, to), context).await {
            Ok(()) => self.encrypt_direct((to, TO), context, secret).await,
            Err(denied) => Err(denied),
        };
        let material = outcome.as_ref().map(|encrypted| encrypted.material);
        using.end(material).await?;
        Ok(outcome?.ciphertext)
    }

    /// Checks what a re-wrap may be, and says which versions it leaves.
    async fn check_rewrap(
        &self,
        [start, from, to]: [&Authorised; 3],
        new: &NewRewrap,
    ) -> Result<(u32, u32), KmsError> {
        check_proof(start, &["kms:StartRewrap"], &new.from)?;
        check_proof(from, &[FROM], &new.from)?;
        check_proof(to, &[TO], &new.to)?;
        if new.scope.bucket.is_none() && !new.scope.prefix.is_empty() {
            return Err(KmsError::Validation("a prefix needs a bucket".to_owned()));
        }
        let rows = self.rows().await?;
        let (from, to) = (Owner::Key(new.from.clone()), Owner::Key(new.to.clone()));
        let (head, now) = (rows.head(&from).await?.record, self.now());
        let _usable = head.usable(&from, "kms:ReEncryptFrom", now)?;
        let into = rows.head(&to).await?.record;
        let _usable = into.usable(&to, "kms:ReEncryptTo", now)?;
        let current = head.current;
        let same = new.from == new.to;
        let nothing = || {
            Err(KmsError::Validation(
                "there is nothing to re-wrap: this is the newest material of the key that it would be wrapped under"
                    .to_owned(),
            ))
        };
        match &new.material {
            Some(material) => {
                let version = rows.version_of(&from, &head, material).await?;
                if same && version >= current {
                    return nothing();
                }
                Ok((version, version))
            }
            None if same && current == 1 => nothing(),
            None if same => Ok((1, current - 1)),
            None => Ok((1, u32::MAX)),
        }
    }

    /// Changes the record of a re-wrap that is run here. `false`: it was called off, or taken over.
    async fn write_rewrap(
        &self,
        lease: &mut RewrapLease,
        change: impl Fn(&mut RewrapRecord),
    ) -> Result<bool, KmsError> {
        let id = lease.rewrap.id;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let loaded = self.load_rewrap(&rows, id).await?;
            let ours = loaded.record.state.is_open()
                && loaded
                    .record
                    .lease
                    .is_some_and(|lease| lease.process == self.process);
            if !ours {
                return Ok(false);
            }
            let mut record = loaded.record.clone();
            change(&mut record);
            if self.commit(rows.replace(&loaded, &record)).await? {
                lease.rewrap = self.rewrap_of(id, &record);
                return Ok(true);
            }
        }
        Err(KmsError::Busy)
    }

    async fn load_rewrap(
        &self,
        rows: &Rows,
        id: RewrapId,
    ) -> Result<Loaded<RewrapRecord>, KmsError> {
        rows.load("re-wrap", id.row())
            .await?
            .ok_or_else(|| KmsError::NotFound(format!("Re-wrap {id} does not exist")))
    }

    /// All that verify, oldest first.
    async fn scan_rewraps(
        &self,
        rows: &Rows,
    ) -> Result<Vec<(RewrapId, Loaded<RewrapRecord>)>, KmsError> {
        let mut range = table::rows_after(tables::KMS_REWRAP, None);
        let mut all = Vec::new();
        loop {
            let page = rows.scan(&range, SCAN_ROWS).await?;
            let Some((last, _)) = page.last() else {
                return Ok(all);
            };
            range.start = [last.as_slice(), &[0]].concat();
            for row in page {
                let id = row.0.get(1..).and_then(|id| Uuid::from_slice(id).ok());
                let id = RewrapId(id.ok_or(KmsError::Damaged("row key of a re-wrap"))?);
                match rows.open("re-wrap", row) {
                    Ok(loaded) => all.push((id, loaded)),
                    Err(error) => {
                        tracing::error!(event = "kms.rewrap.damaged", rewrap = %id, %error);
                    }
                }
            }
        }
    }

    fn recorded_account(&self, key: &KeyArn) -> Option<String> {
        (key.account() != self.account()).then(|| key.account().to_string())
    }

    fn rewrap_of(&self, id: RewrapId, record: &RewrapRecord) -> Rewrap {
        let arn = |account: &Option<String>, key| {
            let account = account.as_deref().and_then(AccountId::parse);
            let account = account.as_ref().unwrap_or(self.account());
            self.key_arn(account, KeyId::from_bytes(key))
        };
        let from = arn(&record.from_account, record.from);
        let scope = Scope {
            bucket: record.bucket.clone(),
            prefix: record.prefix.clone(),
            owner: None,
        };
        Rewrap {
            id,
            scope: self.scope_of_key(&from, &scope),
            from,
            versions: (record.first, record.last),
            material: record.material.clone(),
            to: arn(&record.to_account, record.to),
            rate: record.rate,
            started_by: record.started_by.clone(),
            created: record.created,
            state: record.state.clone(),
            counts: record.counts,
            planned: record.planned,
            remaining: record.remaining,
            ended: record.ended,
            cursor: record.cursor.clone(),
        }
    }

    fn new_lease(&self) -> Lease {
        Lease {
            process: self.process,
            until: self.now().plus_millis(REWRAP_LEASE_MILLIS),
        }
    }
}
