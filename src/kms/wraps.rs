//! How often a backing key has wrapped, and what it wraps next.
//!
//! Random IVs of AES-GCM bound the wraps of a key (SP 800-38D §8.3). A server reserves wraps in blocks: one durable
//! write raises `wraps_reserved` of the backing key's record, and the block is then used up in memory. A restart
//! forgets the rest of its block, which errs on the safe side. Several servers reserve from the one record.
//!
//! Who takes the last block also rotates the key, while there are still wraps left to go on with if that fails. Once
//! none are left, no wrap is made before the rotation succeeds.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use strongroom_hsm::{BackingKey, BackingKeyId, HsmGroup, SecretBytes, Wrapped};

use super::error::KmsError;
use super::key::{EnabledKey, KeyMaterialId, Owner};
use super::rotation::Rotation;
use super::table::Rows;
use super::{COMMIT_ATTEMPTS_MAX, Kms};

/// Wraps that this process has reserved and not used, by backing key.
#[derive(Default)]
pub(super) struct WrapCounts {
    left: Mutex<HashMap<BackingKeyId, u64>>,
    reserving: tokio::sync::Mutex<()>,
}

impl fmt::Debug for WrapCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrapCounts(..)")
    }
}

impl WrapCounts {
    fn take(&self, id: BackingKeyId) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        match left.get_mut(&id) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }

    fn add(&self, id: BackingKeyId, block: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let count = left.entry(id).or_default();
        *count = count.saturating_add(block);
    }

    /// Forgets a key that is destroyed.
    pub(super) fn forget(&self, id: BackingKeyId) {
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }
}

/// One wrap under the current backing key of a key that was Enabled when it was read for this request.
#[must_use]
pub(super) struct WrapPermit {
    pub(super) version: u32,
    pub(super) material: KeyMaterialId,
    backing: BackingKey,
    hsm: HsmGroup,
}

/// What became of an attempt to take a wrap.
enum Reserved {
    /// There is none left.
    Nothing,
    /// It is taken.
    Some,
    /// It is taken, and the backing key's last block with it.
    Last,
}

impl Kms {
    /// Reads the key and its state and reserves a wrap; rotates the key first if it has none left.
    /// `action`: what for, as IAM names it.
    pub(super) async fn permit_wrap(
        &self,
        owner: &Owner,
        action: &str,
    ) -> Result<WrapPermit, KmsError> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head = rows.head(owner).await?;
            let key = head.record.usable(owner, action, self.now())?;
            if let Some(permit) = self.permit_wrap_now(&rows, key).await? {
                return Ok(permit);
            }
            if key.record.import.is_some() {
                return Err(KmsError::LimitExceeded(
                    "The key material has encrypted as often as it may: import new key material and rotate the key on demand"
                        .to_owned(),
                ));
            }
            let _rotated_by_us = self
                .rotate(owner, key.record.current, Rotation::WrapLimit)
                .await?;
        }
        Err(KmsError::Busy)
    }

    /// Wraps, which uses the permit up whatever becomes of it.
    pub(super) async fn wrap(
        &self,
        permit: WrapPermit,
        aad: Vec<u8>,
        plaintext: SecretBytes,
    ) -> Result<Wrapped, KmsError> {
        permit
            .hsm
            .wrap(&permit.backing, aad, plaintext)
            .await
            .map_err(KmsError::hsm)
    }

    async fn permit_wrap_now(
        &self,
        rows: &Rows,
        key: EnabledKey<'_>,
    ) -> Result<Option<WrapPermit>, KmsError> {
        let version = key.record.current;
        let backing = rows.backing(key.owner, version).await?.record;
        let id = backing.id();
        let hsm = self.hsm_of(rows, key.owner, &backing).await?.clone();
        if !self.wraps.take(id) {
            match self.reserve_wraps(key, id).await? {
                Reserved::Nothing => return Ok(None),
                Reserved::Some => {}
                Reserved::Last if key.record.import.is_some() => {}
                Reserved::Last => self.rotate_early(key).await,
            }
        }
        Ok(Some(WrapPermit {
            version,
            material: backing.material(),
            backing: backing.backing_key()?,
            hsm,
        }))
    }

    /// Takes one wrap, after reserving a block if need be.
    async fn reserve_wraps(
        &self,
        key: EnabledKey<'_>,
        id: BackingKeyId,
    ) -> Result<Reserved, KmsError> {
        let _reserving = self.wraps.reserving.lock().await;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            // Whoever held the lock before may have reserved for all who waited.
            if self.wraps.take(id) {
                return Ok(Reserved::Some);
            }
            let rows = self.rows().await?;
            let backing = rows.backing(key.owner, key.record.current).await?;
            let reserved = backing.record.wraps_reserved;
            let left = self
                .settings
                .wraps_per_backing_key_max
                .saturating_sub(reserved);
            let block = left.min(self.settings.wrap_count_block);
            if block == 0 {
                return Ok(Reserved::Nothing);
            }
            let mut record = backing.record.clone();
            record.wraps_reserved = reserved + block;
            if self.commit(rows.replace(&backing, &record)).await? {
                // One of the block is the caller's.
                self.wraps.add(id, block - 1);
                return Ok(if block == left {
                    Reserved::Last
                } else {
                    Reserved::Some
                });
            }
        }
        Err(KmsError::Busy)
    }

    /// The last block is taken: rotates, and goes on with the block if that fails.
    async fn rotate_early(&self, key: EnabledKey<'_>) {
        if let Err(error) = self
            .rotate(key.owner, key.record.current, Rotation::WrapLimit)
            .await
        {
            tracing::warn!(event = "kms.rotation.postponed", key = key.owner.label(key.record.current), %error);
        }
    }
}
