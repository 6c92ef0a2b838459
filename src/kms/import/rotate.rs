//! A material that waits becomes the current one.

use crate::kms::error::KmsError;
use crate::kms::key::{Cause, KeyArn, KeyState, Owner, pending_import};
use crate::kms::rotation::see_rotations_left;
use crate::kms::{COMMIT_ATTEMPTS_MAX, Kms};

impl Kms {
    /// Rotates a key whose material is brought along to the one that waits: it encrypts from now on, and all earlier ones
    /// go on decrypting.
    ///
    /// # Errors
    ///
    /// [`KmsError::MaterialState`] when none waits; [`KmsError::LimitExceeded`]; by the key's state, the HSM and the
    /// records.
    pub(in crate::kms) async fn rotate_to_imported(&self, key: &KeyArn) -> Result<(), KmsError> {
        let owner = Owner::Key(key.clone());
        let mut recorded = None;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let now = self.now();
            let rows = self.rows().await?;
            let head = rows.head(&owner).await?;
            let _enabled = head.record.enabled(&owner)?;
            if head.record.state_at(now) == KeyState::PendingImport {
                return Err(pending_import(key));
            }
            let waits = |version: &u32| {
                head.record
                    .imported(*version)
                    .is_some_and(|import| import.is_of_use(now))
            };
            let Some(version) = head.record.pending_version().filter(waits) else {
                return Err(KmsError::MaterialState(format!(
                    "No available key material pending rotation for the key: {key}."
                )));
            };
            see_rotations_left(&head.record, &owner)?;
            let backing = rows.backing(&owner, version).await?;
            // What does not prove itself in the token now must not become what all depends on.
            let hsm = self.hsm_of(&rows, &owner, &backing.record).await?;
            let named = [backing.record.backing_key()?];
            hsm.holds(&named).await.map_err(KmsError::hsm)?;
            let mut record = head.record.clone();
            record.current = version;
            record.on_demand_rotations += 1;
            let mut current = backing.record.clone();
            current.cause = Cause::OnDemand;
            current.rotated = Some(now);
            let batch = rows
                .replace(&head, &record)
                .and(rows.replace(&backing, &current));
            let material = current.material();
            if recorded != Some(material) {
                let details = serde_json::json!({
                    "keyId": key.as_str(),
                    "rotationType": "ON_DEMAND",
                    "currentKeyMaterialId": material.to_string(),
                });
                self.record_own("RotateKey", key, details).await?;
                recorded = Some(material);
            }
            if self.commit(batch).await? {
                tracing::info!(event = "kms.key.rotated", label = owner.label(version), %material, imported = true);
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }
}
