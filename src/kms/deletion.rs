//! The end of a key: scheduled, perhaps cancelled, carried out.
//!
//! A key that objects depend on may be kept by a setting: then it is neither scheduled nor, should something depend on
//! it still or again when the window is over, destroyed before nothing does.
//!
//! When the window is over the head is marked as being destroyed, from which there is no way back. Then that is recorded
//! in the audit, and without that it goes no further. Then every backing key is destroyed in the token. Then one batch
//! deletes the head, the backing keys' rows, the aliases and the policy: the commit point. Each step can be repeated, so
//! that a crash between any two is made good by the next run.

use strongroom_hsm::{HsmError, HsmGroup};

use super::error::{KmsError, WrongState};
use super::key::{BackingRecord, KeyArn, KeyId, KeyRecord, KeyState, Owner, Timestamp, name_of};
use super::policy::{POLICY_NAME, PolicyRecord};
use super::table::{self, Loaded, Rows};
use super::{COMMIT_ATTEMPTS_MAX, Dependent, KeyUses, Kms, aliases, check_proof, grants, last_use};
use crate::auth::Authorised;
use crate::meta::{Row, table as tables};

/// The shortest window before a key is destroyed.
pub const DELETION_WINDOW_DAYS_MIN: u32 = 7;
/// The longest window before a key is destroyed.
pub const DELETION_WINDOW_DAYS_MAX: u32 = 30;
/// The window when none is given.
pub const DELETION_WINDOW_DAYS_DEFAULT: u32 = 30;

/// Heads read in one go when all keys are looked at.
pub(super) const LIST_STEP: usize = 500;

/// A deletion that is scheduled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// After this the key is destroyed.
    pub date: Timestamp,
    /// The window, in days.
    pub window_days: u32,
    /// What depends on the key, if it could be counted.
    pub dependent: Option<Dependent>,
    /// When it was last used, if that could be read.
    pub uses: Option<KeyUses>,
}

/// Some heads, and after which key id there may be more.
pub(super) struct Heads {
    pub(super) heads: Vec<(KeyArn, KeyRecord)>,
    pub(super) last: Option<KeyId>,
}

impl Kms {
    /// Schedules the deletion of a key. It is of no use from now on. The log and the answer say what still depends on it, and
    /// when it was last used.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] outside of the bounds; [`KmsError::InvalidState`] when it is scheduled already;
    /// [`KmsError::InUse`] when the server is told to keep what is in use; [`KmsError::Managed`].
    pub async fn schedule_key_deletion(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        window_days: u32,
    ) -> Result<Deletion, KmsError> {
        const ACTION: &str = "kms:ScheduleKeyDeletion";
        check_proof(proof, &[ACTION], key)?;
        if !(DELETION_WINDOW_DAYS_MIN..=DELETION_WINDOW_DAYS_MAX).contains(&window_days) {
            return Err(KmsError::Validation(
                "the deletion window is out of its bounds".to_owned(),
            ));
        }
        let date = self.now().plus_days(window_days);
        self.update_key_unless(key, self.keeping(key), |record| {
            record.customer_managed(key, ACTION)?;
            record.not_dying(key)?;
            record.state = KeyState::PendingDeletion(date);
            Ok(())
        })
        .await?;
        let uses = self.uses_if_known(key).await;
        let last = uses.as_ref().and_then(|uses| uses.last.as_ref());
        tracing::info!(
            event = "kms.key.deletion_scheduled",
            %key,
            window_days,
            last_use = last.map(|last| last.at.to_string()),
            last_operation = last.map(|last| last.operation),
        );
        Ok(Deletion {
            date,
            window_days,
            dependent: self.log_dependants(key, "kms.key.deletion_scheduled").await,
            uses,
        })
    }

    /// Cancels a scheduled deletion. The key is Disabled then.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidState`] when none is scheduled or it is too late.
    pub async fn cancel_key_deletion(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:CancelKeyDeletion";
        check_proof(proof, &[ACTION], key)?;
        self.update_key(key, |record| {
            record.customer_managed(key, ACTION)?;
            let wrong = |state| {
                Err(KmsError::InvalidState {
                    arn: key.clone(),
                    state,
                })
            };
            match record.state {
                KeyState::PendingDeletion(_) => {
                    record.state = if record.is_missing_material() {
                        KeyState::PendingImport
                    } else {
                        KeyState::Disabled
                    };
                    Ok(())
                }
                KeyState::Destroying(_) => wrong(WrongState::PendingDeletion),
                KeyState::Enabled | KeyState::Disabled | KeyState::PendingImport => {
                    wrong(WrongState::NotPendingDeletion)
                }
            }
        })
        .await
    }

    /// Destroys the keys whose window is over, and ends what earlier processes left; called on a timer. Answers how
    /// many keys are gone.
    ///
    /// # Errors
    ///
    /// When the HSM or the records cannot be had. A single key that cannot be destroyed is logged and does not keep
    /// the others.
    pub async fn destroy_due_keys(&self) -> Result<usize, KmsError> {
        // What is left of making keys must not keep others from their end.
        let mut outage = match self.reconcile_intents(false).await {
            Ok(()) => None,
            Err(error @ (KmsError::Storage(_) | KmsError::Damaged(_))) => return Err(error),
            Err(error) => Some(error),
        };
        if let Err(error) = self.end_pairs().await {
            if matches!(error, KmsError::Storage(_) | KmsError::Damaged(_)) {
                return Err(error);
            }
            outage = outage.or(Some(error));
        }
        let mut destroyed = 0;
        let mut after = None;
        loop {
            let step = self.scan_heads(after, LIST_STEP).await?;
            for (arn, record) in step.heads {
                let due = match record.state {
                    KeyState::PendingDeletion(date) => date <= self.now(),
                    KeyState::Destroying(_) => true,
                    KeyState::Enabled | KeyState::Disabled | KeyState::PendingImport => false,
                };
                if !due {
                    match self.end_imports(&arn, &record).await {
                        Ok(()) => {}
                        Err(error) if error.is_outage() => outage = outage.or(Some(error)),
                        Err(error) => {
                            tracing::error!(event = "kms.import.not_ended", key = %arn, %error);
                        }
                    }
                    continue;
                }
                match self.destroy(&arn).await {
                    Ok(by_us) => destroyed += usize::from(by_us),
                    // The tokens of other keys may answer.
                    Err(error) if error.is_outage() => outage = outage.or(Some(error)),
                    Err(error) => {
                        tracing::error!(event = "kms.key.not_destroyed", key = %arn, %error);
                    }
                }
            }
            match step.last {
                Some(last) => after = Some(last),
                None => return outage.map_or(Ok(destroyed), Err),
            }
        }
    }

    /// Heads of KMS keys after a key id. One that does not verify is logged and left out.
    pub(super) async fn scan_heads(
        &self,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Heads, KmsError> {
        let rows = self.rows().await?;
        let range = table::rows_after(
            tables::KMS_KEY,
            after.as_ref().map(|id| id.as_bytes().as_slice()),
        );
        let found = rows.scan(&range, limit).await?;
        let full = found.len() == limit;
        let mut heads = Vec::with_capacity(found.len());
        let mut last = None;
        for row in found {
            let key_id = table::key_id_of_row(&row.0)?;
            last = Some(key_id);
            heads.extend(self.head_of_row(&rows, key_id, row));
        }
        Ok(Heads {
            heads,
            last: last.filter(|_| full),
        })
    }

    /// A head that was scanned. One that does not verify is logged and left out: it says nothing about other keys.
    pub(super) fn head_of_row(
        &self,
        rows: &Rows,
        key_id: KeyId,
        row: Row,
    ) -> Option<(KeyArn, KeyRecord)> {
        let head = rows.open::<KeyRecord>("head of a key", row);
        let head = head.and_then(|head| Ok((self.arn_of_head(key_id, &head.record)?, head.record)));
        head.inspect_err(|error| tracing::error!(event = "kms.key.damaged", %key_id, %error))
            .ok()
    }

    /// Destroys one key whose time has come. `false`: it was cancelled, or somebody else was faster.
    async fn destroy(&self, key: &KeyArn) -> Result<bool, KmsError> {
        let owner = Owner::Key(key.clone());
        let now = self.now();
        let begun = self.update_key_unless(key, self.keeping(key), |record| {
            if let KeyState::PendingDeletion(date) = record.state
                && date <= now
            {
                record.state = KeyState::Destroying(date);
            }
            Ok(matches!(record.state, KeyState::Destroying(_)))
        });
        match begun.await {
            Ok(true) => {}
            Ok(false) | Err(KmsError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        // Nothing makes backing keys for a key in this state, and no wrap or unwrap begins.
        let rows = self.rows().await?;
        let head = rows.head(&owner).await?.record;
        let mut backings = Vec::new();
        for version in head.recorded_versions() {
            let backing = rows.backing(&owner, version).await?.record;
            let hsms = self.all_hsms_of(&rows, &owner, &backing).await?;
            check_there(&hsms, &backing).await?;
            backings.push((version, backing));
        }
        // From here on there is no way back. A record twice does no harm, none would.
        let details = serde_json::json!({ "keyId": key.as_str() });
        self.record_own("DeleteKey", key, details).await?;
        for (version, backing) in backings {
            let id = backing.id();
            for hsm in self.all_hsms_of(&rows, &owner, &backing).await? {
                hsm.destroy_key(id).await.map_err(KmsError::hsm)?;
            }
            self.wraps.forget(id);
            tracing::info!(event = "kms.backing_key.destroyed", %key, version, backing_key = %id);
        }
        drop(rows);
        self.delete_records(key, &owner).await
    }

    async fn delete_records(&self, key: &KeyArn, owner: &Owner) -> Result<bool, KmsError> {
        let _counting = self.counting_keys.lock().await;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head: Loaded<KeyRecord> = match rows.head(owner).await {
                Ok(head) => head,
                Err(KmsError::NotFound(_)) => return Ok(false),
                Err(error) => return Err(error),
            };
            let mut batch = head.delete();
            let mut stores = Vec::new();
            for version in head.record.recorded_versions() {
                let backing = rows.backing(owner, version).await?;
                batch = batch.and(backing.delete());
                stores.extend(backing.record.store);
            }
            batch = batch.and(self.count_out(&rows, &stores).await?);
            for name in &head.record.aliases {
                if let Some(alias) = aliases::load(&rows, key.account(), name).await? {
                    batch = batch.and(alias.delete());
                }
            }
            let policy = table::policy_row(key.key_id(), POLICY_NAME);
            if let Some(policy) = rows.load::<PolicyRecord>("key policy", policy).await? {
                batch = batch.and(policy.delete());
            }
            batch = batch.and(grants::delete_all(&rows, key.key_id()).await?);
            batch = batch.and(last_use::delete(key.key_id()));
            batch = batch.and(self.count_key_out(&rows, key.account()).await?);
            if self.commit(batch).await? {
                self.tell(key);
                tracing::info!(event = "kms.key.destroyed", %key);
                return Ok(true);
            }
        }
        Err(KmsError::Busy)
    }
}

/// A key that is not there is destroyed already only if its token is there: another one behind the same name says nothing
/// about it, and the key would live on in the right one.
pub(super) async fn check_there(
    hsms: &[&HsmGroup],
    backing: &BackingRecord,
) -> Result<(), KmsError> {
    for hsm in hsms {
        if hsm.contains(backing.id()).await.map_err(KmsError::hsm)? {
            return Ok(());
        }
    }
    for hsm in hsms {
        if is_there(hsm, backing.token()).await? {
            return Ok(());
        }
    }
    Err(KmsError::Unavailable(HsmError::Unavailable {
        reason: format!(
            "backing key {} is to be destroyed in the token {:?}, which is not there",
            backing.id(),
            backing.token()
        ),
        source: None,
    }))
}

/// Whether this token, as people name it, is a member of the group and there.
pub(super) async fn is_there(hsm: &HsmGroup, token: &str) -> Result<bool, KmsError> {
    for info in hsm.infos().await {
        if name_of(&info.map_err(KmsError::hsm)?) == token {
            return Ok(true);
        }
    }
    Ok(false)
}
