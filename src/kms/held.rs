//! Keys that others hold in memory, made under a key of ours: what they ask before each use, and what they are told.
//!
//! A holder asks here in every request and so meets every state of the key that a call of the HSM would meet. That it is
//! told of changes serves another end: what may not be used any more is not to lie about either.

use std::fmt;
use std::sync::{Mutex, PoisonError, Weak};

use super::error::KmsError;
use super::key::{KeyArn, KeyId, Owner};
use super::{EncryptedDataKey, Kms, check_proof, key_of_proof};
use crate::auth::Authorised;

/// Who holds something that was made under a key.
pub trait KeyWatch: fmt::Debug + Send + Sync {
    /// The state or the policy of `key` has changed, or it is gone. Called after the change is durable, on this server
    /// only; must not block.
    fn changed(&self, key: KeyId);
}

/// Who is told.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<Vec<Weak<dyn KeyWatch>>>);

impl Kms {
    /// Tells `watch` of every change from now on, for as long as it lives.
    pub fn watch(&self, watch: Weak<dyn KeyWatch>) {
        let mut watchers = self
            .watchers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|there| there.strong_count() > 0);
        watchers.push(watch);
    }

    /// Tells all who watch.
    pub(super) fn tell(&self, key: &KeyArn) {
        let watchers = self
            .watchers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for watch in watchers.iter().filter_map(Weak::upgrade) {
            watch.changed(key.key_id());
        }
    }

    /// All that [`Kms::generate_data_key`] checks, without the HSM. Answers the version of the backing key that wraps
    /// now: what was made under an earlier one must wrap nothing new.
    ///
    /// # Errors
    ///
    /// As [`Kms::generate_data_key`], but for those of the HSM.
    pub async fn check_generates(&self, proof: &Authorised, key: &KeyArn) -> Result<u32, KmsError> {
        check_proof(proof, &["kms:GenerateDataKey"], key)?;
        self.check_audit()?;
        self.check_version(&Owner::Key(key.clone()), "kms:GenerateDataKey", None)
            .await
    }

    /// All that [`Kms::unwrap_data_key`] checks, without the HSM and without opening `encrypted`.
    ///
    /// # Errors
    ///
    /// As [`Kms::unwrap_data_key`], but for those of the HSM.
    pub async fn check_decrypts(
        &self,
        proof: &Authorised,
        encrypted: &EncryptedDataKey,
    ) -> Result<(), KmsError> {
        let actions = ["kms:Decrypt", "kms:ReEncryptFrom"];
        let key = key_of_proof(self, proof, &actions, encrypted)?;
        self.check_audit()?;
        let version = Some(encrypted.backing_version());
        self.check_version(&Owner::Key(key), "kms:Decrypt", version)
            .await?;
        Ok(())
    }

    /// Whether a backing key may be used, the current one if no version is given: its key is Enabled, and its key store
    /// connected. Answers its version.
    async fn check_version(
        &self,
        owner: &Owner,
        action: &str,
        version: Option<u32>,
    ) -> Result<u32, KmsError> {
        let rows = self.rows().await?;
        let head = rows.head(owner).await?;
        let enabled = head.record.usable(owner, action, self.now())?;
        let current = enabled.record.current;
        let version = version.unwrap_or(current);
        if !(1..=current).contains(&version) {
            return Err(KmsError::InvalidCiphertext);
        }
        let backing = rows.backing(owner, version).await?.record;
        let _connected = self.hsm_of(&rows, owner, &backing).await?;
        Ok(version)
    }
}
