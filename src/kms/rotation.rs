//! Rotation: a new backing key encrypts from now on; all earlier ones go on decrypting. Nothing is re-wrapped.
//!
//! Three causes: a caller asks, the schedule says so, or the backing key has wrapped as often as it may
//! ([`wraps`](super::wraps)). Only the first counts towards the limit of AWS.

use std::cmp::Ordering;

use super::backing::{Kind, MadeBacking, Target};
use super::deletion::LIST_STEP;
use super::error::{KeyStoreError, KmsError};
use super::import::ImportedMaterial;
use super::internal::InternalKey;
use super::key::{
    Cause, KeyArn, KeyManager, KeyMaterialId, KeyRecord, KeyState, Owner, RotationSchedule,
    Timestamp,
};
use super::stores::KeyStoreId;
use super::{COMMIT_ATTEMPTS_MAX, Kms, Page, check_proof, table};
use crate::auth::Authorised;
use crate::meta::Batch;

/// Rotations that callers may ask for, per key.
pub const ON_DEMAND_ROTATIONS_MAX: u32 = 25;
/// The shortest period of automatic rotation.
pub const ROTATION_PERIOD_DAYS_MIN: u32 = 90;
/// The longest period of automatic rotation.
pub const ROTATION_PERIOD_DAYS_MAX: u32 = 2560;
/// The period when none is given, and that of keys the service manages.
pub const ROTATION_PERIOD_DAYS_DEFAULT: u32 = 365;

/// Whether and when a key is rotated by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationStatus {
    /// Nothing: it is not, or not in this state.
    pub schedule: Option<RotationSchedule>,
}

/// Who rotated, as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotatedBy {
    /// A caller.
    OnDemand,
    /// The schedule, or the limit of wraps.
    Automatic,
}

/// What a backing key is to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaterialRole {
    /// It encrypts and decrypts.
    Current,
    /// It decrypts.
    NonCurrent,
    /// It was brought along, and waits for a rotation.
    PendingRotation,
}

/// One backing key of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationEntry {
    /// Its version: 1 came with the key.
    pub version: u32,
    /// Its identity.
    pub material: KeyMaterialId,
    /// What it is to the key.
    pub role: MaterialRole,
    /// When it was rotated in, and by whom; nothing for the first, and for one that waits.
    pub rotated: Option<(Timestamp, RotatedBy)>,
    /// Of material that was brought along: how that is.
    pub imported: Option<ImportedMaterial>,
}

/// Why a key gets a new backing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rotation {
    OnDemand,
    Schedule,
    WrapLimit,
    /// Into another key store; none is the default group.
    Move(Option<KeyStoreId>),
}

impl Rotation {
    /// As `CloudTrail` has it, and in its manner what it does not know.
    fn name(&self) -> &'static str {
        match self {
            Self::OnDemand => "ON_DEMAND",
            Self::Schedule => "AUTOMATIC",
            Self::WrapLimit => "WRAP_LIMIT",
            Self::Move(_) => "MOVE",
        }
    }

    fn cause(&self) -> Cause {
        match self {
            Self::OnDemand => Cause::OnDemand,
            Self::Schedule => Cause::Schedule,
            Self::WrapLimit => Cause::WrapLimit,
            Self::Move(_) => Cause::Move,
        }
    }
}

impl Kms {
    /// Rotates now (kms:RotateKeyOnDemand), a key whose material is brought along to the one that waits. Done when this
    /// returns.
    ///
    /// # Errors
    ///
    /// [`KmsError::MaterialState`] when none waits; [`KmsError::LimitExceeded`] beyond [`ON_DEMAND_ROTATIONS_MAX`]; by the
    /// key's state; by the HSM.
    pub async fn rotate_key_on_demand(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:RotateKeyOnDemand";
        check_proof(proof, &[ACTION], key)?;
        let owner = Owner::Key(key.clone());
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let head = self.rows().await?.head(&owner).await?.record;
            head.customer_managed(key, ACTION)?;
            head.symmetric(key)?;
            if head.import.is_some() {
                return self.rotate_to_imported(key).await;
            }
            if self
                .rotate(&owner, head.current, Rotation::OnDemand)
                .await?
            {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    /// Moves a key to another key store under the same ARN: a new backing key is made there and encrypts from now on,
    /// the earlier ones stay where they are and go on decrypting. Not an operation of AWS.
    ///
    /// # Errors
    ///
    /// [`KeyStoreError`]; by the key's state; by the HSM.
    pub async fn move_key(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        to: Option<KeyStoreId>,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:MoveKey";
        check_proof(proof, &[ACTION], key)?;
        self.check_store_for(key.account(), to.as_ref())?;
        let owner = Owner::Key(key.clone());
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let head = self.rows().await?.head(&owner).await?.record;
            head.customer_managed(key, ACTION)?;
            head.rotatable(key)?;
            if head.store == to {
                return Ok(());
            }
            if self
                .rotate(&owner, head.current, Rotation::Move(to.clone()))
                .await?
            {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    /// Turns automatic rotation on, the first in a period from now, or changes its period.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] outside of the bounds; by the key's state.
    pub async fn enable_key_rotation(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        period_days: u32,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:EnableKeyRotation";
        check_proof(proof, &[ACTION], key)?;
        if !(ROTATION_PERIOD_DAYS_MIN..=ROTATION_PERIOD_DAYS_MAX).contains(&period_days) {
            return Err(KmsError::Validation(
                "the rotation period is out of its bounds".to_owned(),
            ));
        }
        let next = self.now().plus_days(period_days);
        self.set_schedule(key, ACTION, Some(RotationSchedule { period_days, next }))
            .await
    }

    /// Turns automatic rotation off.
    ///
    /// # Errors
    ///
    /// By the key's state.
    pub async fn disable_key_rotation(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:DisableKeyRotation";
        check_proof(proof, &[ACTION], key)?;
        self.set_schedule(key, ACTION, None).await
    }

    async fn set_schedule(
        &self,
        key: &KeyArn,
        action: &'static str,
        schedule: Option<RotationSchedule>,
    ) -> Result<(), KmsError> {
        let owner = Owner::Key(key.clone());
        self.update_key(key, |record| {
            record.customer_managed(key, action)?;
            record.rotatable(key)?;
            let _enabled = record.enabled(&owner)?;
            record.rotation = schedule;
            Ok(())
        })
        .await
    }

    /// Whether and when the key is rotated by itself. A key that is pending deletion is not.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn key_rotation_status(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<RotationStatus, KmsError> {
        check_proof(proof, &["kms:GetKeyRotationStatus"], key)?;
        let record = self
            .rows()
            .await?
            .head(&Owner::Key(key.clone()))
            .await?
            .record;
        record.symmetric(key)?;
        let schedule = match record.state {
            KeyState::Enabled | KeyState::Disabled | KeyState::PendingImport => record.rotation,
            KeyState::PendingDeletion(_) | KeyState::Destroying(_) => None,
        };
        Ok(RotationStatus { schedule })
    }

    /// The backing keys of a key, oldest first; with `all`, also the one that came with the key, and one that waits for a
    /// rotation.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn list_key_rotations(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        all: bool,
        limit: usize,
        after: Option<u32>,
    ) -> Result<Page<RotationEntry, u32>, KmsError> {
        check_proof(proof, &["kms:ListKeyRotations"], key)?;
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let head = rows.head(&owner).await?.record;
        head.symmetric(key)?;
        let now = self.now();
        let (first, versions) = if all {
            (1, head.recorded_versions())
        } else {
            (2, head.versions())
        };
        let start = after.map_or(first, |version| version.saturating_add(1));
        let mut entries = Vec::new();
        for version in (start..=*versions.end()).take(limit.saturating_add(1)) {
            let backing = rows.backing(&owner, version).await?.record;
            let by = match backing.cause {
                Cause::Creation => None,
                Cause::OnDemand | Cause::Move => Some(RotatedBy::OnDemand),
                Cause::Schedule | Cause::WrapLimit => Some(RotatedBy::Automatic),
            };
            entries.push(RotationEntry {
                version,
                material: backing.material(),
                role: match version.cmp(&head.current) {
                    Ordering::Less => MaterialRole::NonCurrent,
                    Ordering::Equal => MaterialRole::Current,
                    Ordering::Greater => MaterialRole::PendingRotation,
                },
                rotated: by.map(|by| (backing.rotated.unwrap_or(backing.created), by)),
                imported: head
                    .imported(version)
                    .map(|import| ImportedMaterial::of(&import, &backing, now)),
            });
        }
        Ok(Page::cut(entries, limit, |entry| entry.version))
    }

    /// Rotates the keys whose time has come; called on a timer. Answers how many.
    ///
    /// # Errors
    ///
    /// When the HSM or the records cannot be had. A single key that cannot be rotated is logged and does not keep
    /// the others.
    pub async fn rotate_due_keys(&self) -> Result<usize, KmsError> {
        let (mut rotated, mut outage) = (0, None);
        let mut after = None;
        loop {
            let step = self.scan_heads(after, LIST_STEP).await?;
            for (arn, record) in step.heads {
                let due = record
                    .rotation
                    .is_some_and(|schedule| schedule.next <= self.now());
                if !due || record.state != KeyState::Enabled {
                    continue;
                }
                match self
                    .rotate(&Owner::Key(arn.clone()), record.current, Rotation::Schedule)
                    .await
                {
                    Ok(by_us) => rotated += usize::from(by_us),
                    // The tokens of other keys may answer.
                    Err(error) if error.is_outage() => outage = outage.or(Some(error)),
                    // It is due until its key store is connected.
                    Err(KmsError::KeyStore(KeyStoreError::InvalidState(why))) => {
                        tracing::debug!(event = "kms.rotation.waits", key = %arn, why);
                    }
                    Err(error) => {
                        tracing::error!(event = "kms.rotation.failed", key = %arn, %error);
                    }
                }
            }
            match step.last {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        match self.rotate_internal_if_due(InternalKey::SseS3).await {
            Ok(by_us) => rotated += usize::from(by_us),
            Err(error) if error.is_outage() => outage = outage.or(Some(error)),
            Err(error) => {
                tracing::error!(event = "kms.rotation.failed", key = "sse-s3", %error);
            }
        }
        outage.map_or(Ok(rotated), Err)
    }

    /// Rotates an internal key, if there is one, every year like those that the service manages.
    async fn rotate_internal_if_due(&self, purpose: InternalKey) -> Result<bool, KmsError> {
        let owner = Owner::Internal(purpose);
        let rows = self.rows().await?;
        let head = rows
            .load::<KeyRecord>("head of a key", table::head_row(&owner))
            .await?;
        let Some(record) = head.map(|head| head.record) else {
            return Ok(false);
        };
        if schedule_of(&record).is_none_or(|schedule| schedule.next > self.now()) {
            return Ok(false);
        }
        self.rotate(&owner, record.current, Rotation::Schedule)
            .await
    }

    /// Gives `owner` a backing key after version `from`. `false`: it has one already, made by somebody else.
    pub(super) async fn rotate(
        &self,
        owner: &Owner,
        from: u32,
        rotation: Rotation,
    ) -> Result<bool, KmsError> {
        let now = self.now();
        let head = self.rows().await?.head(owner).await?.record;
        let Some(next) = rotated(&head, owner, from, &rotation, now)? else {
            return Ok(false);
        };
        let place = self.place_for(next.store.as_ref()).await?;
        let making = self.groups.making(place.group.as_deref())?;
        let _making = self.lock_making(making).await?;
        // Somebody else may have done it while we waited.
        let head = self.rows().await?.head(owner).await?.record;
        if rotated(&head, owner, from, &rotation, now)?.is_none() {
            return Ok(false);
        }
        let version = from
            .checked_add(1)
            .ok_or(KmsError::internal("backing key versions are used up"))?;
        let made = self
            .make_backing(
                &Target::Version(owner, version),
                Kind::Wrapping,
                rotation.cause(),
                place,
            )
            .await?;
        let material = made.record().material();
        let mut recorded = false;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            match self.rotation(&made, owner, from, &rotation, now).await {
                Ok(Some(batch)) => {
                    // Before it is done: a record of what is then done later does no harm, none would.
                    if let (Owner::Key(key), false) = (owner, recorded) {
                        let details = serde_json::json!({
                            "keyId": key.as_str(),
                            "rotationType": rotation.name(),
                            "currentKeyMaterialId": material.to_string(),
                        });
                        if let Err(error) = self.record_own("RotateKey", key, details).await {
                            self.abandon(made).await;
                            return Err(error);
                        }
                        recorded = true;
                    }
                    // After an error of the store the batch may have been applied: the key is not touched then.
                    if self.commit(batch).await? {
                        tracing::info!(event = "kms.key.rotated", label = owner.label(version), %material, ?rotation);
                        return Ok(true);
                    }
                }
                Ok(None) => {
                    self.abandon(made).await;
                    return Ok(false);
                }
                Err(error) => {
                    self.abandon(made).await;
                    return Err(error);
                }
            }
        }
        self.abandon(made).await;
        Err(KmsError::Busy)
    }

    /// The batch that puts `made` in after version `from`, if that is still wanted.
    async fn rotation(
        &self,
        made: &MadeBacking,
        owner: &Owner,
        from: u32,
        rotation: &Rotation,
        now: Timestamp,
    ) -> Result<Option<Batch>, KmsError> {
        let rows = self.rows().await?;
        let head = rows.head(owner).await?;
        let Some(record) = rotated(&head.record, owner, from, rotation, now)? else {
            return Ok(None);
        };
        let batch = rows
            .replace(&head, &record)
            .and(made.insert(&rows, owner, record.current))
            .and(self.count_in(&rows, made.place()).await?);
        Ok(Some(batch.and(made.fulfil())))
    }
}

/// `head` after a rotation from version `from`; `None` when it has left that version already.
fn rotated(
    head: &KeyRecord,
    owner: &Owner,
    from: u32,
    rotation: &Rotation,
    now: Timestamp,
) -> Result<Option<KeyRecord>, KmsError> {
    let _enabled = head.enabled(owner)?;
    if head.current != from {
        return Ok(None);
    }
    let mut record = head.clone();
    record.current += 1;
    match rotation {
        Rotation::OnDemand => {
            see_rotations_left(head, owner)?;
            record.on_demand_rotations += 1;
        }
        Rotation::Schedule => {
            record.rotation = schedule_of(head);
            // The schedule keeps its days, however late this one is; what was missed is not made up for.
            if let Some(schedule) = &mut record.rotation {
                while schedule.next <= now && schedule.period_days > 0 {
                    schedule.next = schedule.next.plus_days(schedule.period_days);
                }
            }
        }
        Rotation::WrapLimit => {}
        Rotation::Move(to) => record.store.clone_from(to),
    }
    Ok(Some(record))
}

/// Checks that a caller may ask for one more rotation.
pub(super) fn see_rotations_left(head: &KeyRecord, owner: &Owner) -> Result<(), KmsError> {
    if head.on_demand_rotations < ON_DEMAND_ROTATIONS_MAX {
        return Ok(());
    }
    let key_id = match owner {
        Owner::Key(arn) => arn.key_id().to_string(),
        Owner::Internal(_) => String::new(),
    };
    Err(KmsError::LimitExceeded(format!(
        "The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be \
         performed for this key: {key_id}"
    )))
}

/// The schedule of a key. Internal keys have the one that the service gives its own, and record it with their first
/// rotation.
fn schedule_of(record: &KeyRecord) -> Option<RotationSchedule> {
    match record.manager {
        KeyManager::Internal => record
            .rotation
            .or_else(|| initial_schedule(KeyManager::Aws, record.created)),
        KeyManager::Customer | KeyManager::Aws => record.rotation,
    }
}

/// The schedule of a new key.
pub(super) fn initial_schedule(
    manager: KeyManager,
    created: Timestamp,
) -> Option<RotationSchedule> {
    let period_days = ROTATION_PERIOD_DAYS_DEFAULT;
    match manager {
        KeyManager::Aws => Some(RotationSchedule {
            period_days,
            next: created.plus_days(period_days),
        }),
        KeyManager::Customer | KeyManager::Internal => None,
    }
}
