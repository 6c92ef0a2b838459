//! The end of material: deleted by a caller, or expired.
//!
//! It is marked first, and of no use from then on; then it is destroyed in the token; then that is recorded. Each step can
//! be repeated, so that a crash between any two is made good by the clock.

use crate::auth::Authorised;
use crate::kms::deletion::check_there;
use crate::kms::error::KmsError;
use crate::kms::key::{KeyArn, KeyMaterialId, KeyRecord, Owner};
use crate::kms::{COMMIT_ATTEMPTS_MAX, Kms, check_proof};

use super::record::MaterialState;

impl Kms {
    /// kms:DeleteImportedKeyMaterial, of the current material if none is named: the key is of no use until the same
    /// material is imported again. A material that waits to become the current one is forgotten altogether. Answers whose
    /// turn it was; nothing when the key never had any. Done again, it has no effect.
    ///
    /// # Errors
    ///
    /// [`KmsError::Unsupported`] for a key that has its material from the token; [`KmsError::NotFound`] for a material that
    /// it does not have; [`KmsError::InUse`] when the server is told to keep what is in use; by the HSM and the records.
    pub async fn delete_imported_key_material(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        material: Option<&str>,
    ) -> Result<Option<KeyMaterialId>, KmsError> {
        const ACTION: &str = "kms:DeleteImportedKeyMaterial";
        check_proof(proof, &[ACTION], key)?;
        let owner = Owner::Key(key.clone());
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head = rows.head(&owner).await?;
            head.record.customer_managed(key, ACTION)?;
            head.record.see_external(key)?;
            let version = match material {
                Some(id) => rows.version_of(&owner, &head.record, id).await?,
                None if head.record.versions().is_empty() => return Ok(None),
                None => head.record.current,
            };
            let backing = rows.backing(&owner, version).await?;
            let id = backing.record.material();
            let state = head.record.imported(version).map(|import| import.material);
            match state {
                Some(MaterialState::Present) => {}
                // Begun by somebody who could not end it.
                Some(MaterialState::Leaving) => {
                    self.end_material(key, version, None).await?;
                    return Ok(Some(id));
                }
                Some(MaterialState::Gone | MaterialState::Never) | None => return Ok(Some(id)),
            }
            let mut record = head.record.clone();
            record.lose_material(version);
            let mut batch = rows.replace(&head, &record).and(backing.unchanged());
            // Without any of its own materials the whole key is of no use.
            if version <= record.current
                && let Some(range) = self.keeping(key)
            {
                if !rows.scan(&range, 1).await?.is_empty() {
                    return Err(self.in_use(key).await?);
                }
                batch = batch.range_empty(range);
            }
            if self.commit(batch).await? {
                if record.state != head.record.state {
                    self.tell(key);
                    self.log_dependants(key, "kms.import.deleted").await;
                }
                self.end_material(key, version, None).await?;
                return Ok(Some(id));
            }
        }
        Err(KmsError::Busy)
    }

    /// Ends material that has expired or is on its way out.
    pub(in crate::kms) async fn end_imports(
        &self,
        key: &KeyArn,
        record: &KeyRecord,
    ) -> Result<(), KmsError> {
        let now = self.now();
        let over: Vec<_> = record
            .imports()
            .filter(|(_, import)| import.is_over(now))
            .map(|(version, import)| match import.expires {
                Some(_) => (version, "DeleteExpiredKeyMaterial"),
                // What a caller began.
                None => (version, "DeleteImportedKeyMaterial"),
            })
            .collect();
        // The last first: one that waits leaves its number to another.
        for (version, event) in over.into_iter().rev() {
            self.update_key(key, |record| {
                if record
                    .imported(version)
                    .is_some_and(|import| import.is_expired(now))
                {
                    tracing::info!(event = "kms.import.expired", %key, version);
                    record.expire_material(version);
                }
                Ok(())
            })
            .await?;
            self.end_material(key, version, Some(event)).await?;
        }
        Ok(())
    }

    /// Destroys material that is on its way out, and records that it is gone. What no caller is there for goes into the
    /// audit as `event`, before it is done: rather twice than never.
    async fn end_material(
        &self,
        key: &KeyArn,
        version: u32,
        event: Option<&str>,
    ) -> Result<(), KmsError> {
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        if !is_leaving(&rows.head(&owner).await?.record, version) {
            return Ok(());
        }
        let backing = rows.backing(&owner, version).await?.record;
        let id = backing.id();
        let hsms = self.all_hsms_of(&rows, &owner, &backing).await?;
        check_there(&hsms, &backing).await?;
        if let Some(event) = event {
            let details = serde_json::json!({
                "keyId": key.as_str(), "keyMaterialId": backing.material().to_string()
            });
            self.record_own(event, key, details).await?;
        }
        for hsm in hsms {
            hsm.destroy_key(id).await.map_err(KmsError::hsm)?;
        }
        self.wraps.forget(id);
        drop(rows);
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head = rows.head(&owner).await?;
            if !is_leaving(&head.record, version) {
                return Ok(());
            }
            let backing = rows.backing(&owner, version).await?;
            if backing.record.id() != id {
                return Ok(());
            }
            let mut record = head.record.clone();
            record.material_gone(version);
            let mut batch = rows.replace(&head, &record);
            if head.record.pending_version() == Some(version) {
                batch = batch.and(backing.delete());
            }
            if self.commit(batch).await? {
                tracing::info!(event = "kms.import.material_destroyed", %key, version, backing_key = %id);
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }
}

fn is_leaving(record: &KeyRecord, version: u32) -> bool {
    record
        .imported(version)
        .is_some_and(|import| import.material == MaterialState::Leaving)
}
