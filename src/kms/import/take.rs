//! `ImportKeyMaterial`.

use strongroom_hsm::{BackingKeyId, HsmError, Material, ToolKey};

use super::pair::{PairRecord, pair_row};
use super::record::MaterialState;
use super::{MATERIAL_VALID_DAYS_MAX, NewMaterial};
use crate::auth::Authorised;
use crate::kms::backing::{Kind, MadeBacking, Target};
use crate::kms::error::KmsError;
use crate::kms::key::{BackingRecord, Cause, KeyArn, KeyMaterialId, KeyRecord, Owner, Timestamp};
use crate::kms::spec::KeySpec;
use crate::kms::table::{Loaded, Rows, backing_row};
use crate::kms::{COMMIT_ATTEMPTS_MAX, Kms, check_proof};
use crate::meta::Batch;

/// Which version of its key a material becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MaterialVersion {
    /// One that the key does not have yet.
    New(u32),
    /// One that it has, under the identity of its backing key: the number of a material that waited and went is given
    /// again, to another.
    Known {
        version: u32,
        backing: BackingKeyId,
        /// Whether its material is in the token, as recorded.
        present: bool,
    },
}

impl MaterialVersion {
    /// Whether it is what the head says of the key.
    fn is_in(self, head: &KeyRecord) -> bool {
        match self {
            Self::New(version) => next_version(head) == Some(version),
            Self::Known {
                version, present, ..
            } => {
                let state = head.imported(version).map(|import| import.material);
                match state {
                    Some(MaterialState::Present) => present,
                    Some(MaterialState::Gone) => !present,
                    Some(MaterialState::Never | MaterialState::Leaving) | None => false,
                }
            }
        }
    }

    /// Whether it has material in the token, as recorded.
    fn is_present(self) -> bool {
        matches!(self, Self::Known { present: true, .. })
    }

    fn version(self) -> u32 {
        match self {
            Self::New(version) | Self::Known { version, .. } => version,
        }
    }
}

/// The version that a new material would be: the first one, or the one after the current. None while one waits.
fn next_version(head: &KeyRecord) -> Option<u32> {
    match (head.versions().is_empty(), head.pending_version()) {
        (true, _) => Some(1),
        (false, None) => head.current.checked_add(1),
        (false, Some(_)) => None,
    }
}

/// What a commit is about.
struct Import<'a> {
    owner: &'a Owner,
    key: &'a KeyArn,
    pair: &'a Loaded<PairRecord>,
    place: MaterialVersion,
    expires: Option<Timestamp>,
    description: Option<&'a str>,
}

impl Kms {
    /// kms:ImportKeyMaterial. Answers the material's id, which keys of other key specs do not have.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidImportToken`], [`KmsError::ExpiredImportToken`]; [`KmsError::InvalidCiphertext`] for material
    /// that does not unwrap; [`KmsError::IncorrectKeyMaterial`] for what does not fit the key spec, what is not a material
    /// of before where that is meant, or is one where a new one is meant; [`KmsError::MaterialState`] for a new one while
    /// another waits; [`KmsError::Validation`] for a validity that is over or too long; by the key's state, the HSM and the
    /// records.
    pub async fn import_key_material(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        new: NewMaterial,
    ) -> Result<Option<KeyMaterialId>, KmsError> {
        const ACTION: &str = "kms:ImportKeyMaterial";
        check_proof(proof, &[ACTION], key)?;
        let now = self.now();
        let latest = now.plus_days(MATERIAL_VALID_DAYS_MAX);
        if new.valid_to.is_some_and(|end| end <= now || end > latest) {
            return Err(KmsError::Validation(format!(
                "ValidTo must be in the future, and at most {MATERIAL_VALID_DAYS_MAX} days from now"
            )));
        }
        let owner = Owner::Key(key.clone());
        let head = self.importable(&self.rows().await?, key).await?;
        check_said(&new, head.spec()?)?;
        let ticket = self.ticket(key, &new.token).await?;
        if new.encrypted.len() > Material::WRAPPED_BYTES_MAX {
            return Err(KmsError::InvalidCiphertext);
        }
        // What is on its way out, or over, goes first.
        self.end_imports(key, &head).await?;
        let rows = self.rows().await?;
        let head = self.importable(&rows, key).await?;
        let (pair, unwrapper) = self.pair(&rows, &ticket).await?;
        // Before anything is written: what cannot be imported leaves nothing behind.
        let (place, material) = self
            .place_of(&rows, (&owner, key, &head), &new, unwrapper)
            .await?;
        drop(rows);
        let import = Import {
            owner: &owner,
            key,
            pair: &pair,
            place,
            expires: new.valid_to,
            description: new.description.as_deref(),
        };
        let made = if self.is_in_token(place, &material).await? {
            None
        } else {
            let target = Target::Version(&owner, place.version());
            let kind = Kind::Import(&material);
            let made = self.make_backing(&target, kind, Cause::Creation, self.default_place());
            Some(made.await?)
        };
        let replaces = made.is_some() && place.is_present();
        let id = self.commit_import(&import, made).await?;
        tracing::info!(event = "kms.import.done", %key, version = place.version(), material = %id);
        if replaces && let Err(error) = self.reconcile_intents(false).await {
            tracing::warn!(event = "kms.import.replaced_left", %key, %error);
        }
        // It has served. If it cannot be destroyed now, the clock sees to it.
        if let Err(error) = self.end_pair(&ticket.pair, &pair_row(&ticket)).await {
            tracing::warn!(event = "kms.import.pair_left", pair = %ticket.pair, %error);
        }
        let has_id = head.spec()? == KeySpec::SYMMETRIC_DEFAULT;
        Ok(has_id.then_some(id))
    }

    /// Whether the material is in the token already, and proves itself there. What the token has lost is made again.
    async fn is_in_token(
        &self,
        place: MaterialVersion,
        material: &Material,
    ) -> Result<bool, KmsError> {
        let (true, Some(recorded)) = (place.is_present(), &material.same_as) else {
            return Ok(false);
        };
        let held = self.default_place().hsm;
        match held.holds(std::slice::from_ref(recorded)).await {
            Ok(()) => Ok(true),
            Err(error @ (HsmError::KeyNotFound(_) | HsmError::Unfit { .. })) => {
                tracing::warn!(event = "kms.import.lost", backing_key = %recorded.id, %error);
                Ok(false)
            }
            Err(error) => Err(KmsError::hsm(error)),
        }
    }

    /// What is recorded of a key that may get material now.
    pub(super) async fn importable(
        &self,
        rows: &Rows,
        key: &KeyArn,
    ) -> Result<KeyRecord, KmsError> {
        let record = rows.head(&Owner::Key(key.clone())).await?.record;
        record.see_external(key)?;
        record.not_dying(key)?;
        Ok(record)
    }

    /// Which version of the key the material is, or would be; and the material, with what it must be the same as.
    async fn place_of(
        &self,
        rows: &Rows,
        (owner, key, head): (&Owner, &KeyArn, &KeyRecord),
        new: &NewMaterial,
        unwrapper: ToolKey,
    ) -> Result<(MaterialVersion, Material), KmsError> {
        let had_any = !head.versions().is_empty();
        let mut material = Material {
            unwrapper,
            wrapped: new.encrypted.clone(),
            same_as: None,
        };
        if new.existing.unwrap_or(had_any) {
            let candidates = match &new.material_id {
                Some(id) => match rows.version_of(owner, head, id).await {
                    Ok(version) => vec![version],
                    Err(KmsError::NotFound(_)) => Vec::new(),
                    Err(error) => return Err(error),
                },
                None => head.recorded_versions().rev().collect(),
            };
            for version in candidates {
                let backing = rows.backing(owner, version).await?.record;
                if self.is_material_of(&mut material, &backing).await? {
                    let state = head.imported(version).map(|import| import.material);
                    let present = state == Some(MaterialState::Present);
                    let place = MaterialVersion::Known {
                        version,
                        backing: backing.id(),
                        present,
                    };
                    return Ok((place, material));
                }
            }
            return Err(KmsError::IncorrectKeyMaterial);
        }
        if new.material_id.is_some() {
            return Err(KmsError::IncorrectKeyMaterial);
        }
        let Some(version) = next_version(head) else {
            return Err(self.another_waits(rows, (owner, key, head)).await?);
        };
        let hsm = self.default_place().hsm;
        hsm.check_material(&material).await.map_err(KmsError::hsm)?;
        for known in head.recorded_versions() {
            let backing = rows.backing(owner, known).await?.record;
            if self.is_material_of(&mut material, &backing).await? {
                return Err(KmsError::IncorrectKeyMaterial);
            }
        }
        material.same_as = None;
        Ok((MaterialVersion::New(version), material))
    }

    /// Whether the material opens the canary of a backing key; `material` says so afterwards.
    async fn is_material_of(
        &self,
        material: &mut Material,
        backing: &BackingRecord,
    ) -> Result<bool, KmsError> {
        material.same_as = Some(backing.backing_key()?);
        let checked = self.default_place().hsm.check_material(material).await;
        match checked.map_err(KmsError::hsm) {
            Ok(()) => Ok(true),
            Err(KmsError::IncorrectKeyMaterial) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn another_waits(
        &self,
        rows: &Rows,
        (owner, key, head): (&Owner, &KeyArn, &KeyRecord),
    ) -> Result<KmsError, KmsError> {
        let Some(version) = head.pending_version() else {
            return Ok(KmsError::Busy);
        };
        let waiting = rows.backing(owner, version).await?.record.material();
        Ok(KmsError::MaterialState(format!(
            "New key material cannot be imported into KMS key {key}, because another key material (id: {waiting}) is \
             pending rotation."
        )))
    }

    /// Records that the material is there: the commit point, with the end of the pair. `made`: the backing key it is in;
    /// none: the one that is recorded.
    async fn commit_import(
        &self,
        import: &Import<'_>,
        made: Option<MadeBacking>,
    ) -> Result<KeyMaterialId, KmsError> {
        let mut refused = KmsError::Busy;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            match self.import_batch(import, made.as_ref()).await {
                Ok((batch, id)) => {
                    // After an error of the store the batch may have been applied: the key is not touched then.
                    if self.commit(batch).await? {
                        return Ok(id);
                    }
                }
                Err(error) => {
                    refused = error;
                    break;
                }
            }
        }
        if let Some(made) = made {
            self.abandon(made).await;
        }
        Err(refused)
    }

    async fn import_batch(
        &self,
        import: &Import<'_>,
        made: Option<&MadeBacking>,
    ) -> Result<(Batch, KeyMaterialId), KmsError> {
        let rows = self.rows().await?;
        let head = rows.head(import.owner).await?;
        head.record.see_external(import.key)?;
        head.record.not_dying(import.key)?;
        // Somebody else was faster.
        if !import.place.is_in(&head.record) {
            return Err(KmsError::Busy);
        }
        let mut served = import.pair.record.clone();
        served.expires = self.now();
        let mut batch = rows.replace(import.pair, &served);
        let version = import.place.version();
        let (earlier, mut backing) = match (import.place, made) {
            (MaterialVersion::New(_), Some(made)) => (None, made.record().clone()),
            (MaterialVersion::Known { backing, .. }, made) => {
                let earlier = rows.backing(import.owner, version).await?;
                if earlier.record.id() != backing {
                    return Err(KmsError::Busy);
                }
                let backing = match made {
                    Some(made) => made.record().clone().of_material(&earlier.record),
                    None => earlier.record.clone(),
                };
                (Some(earlier), backing)
            }
            (MaterialVersion::New(_), None) => {
                return Err(KmsError::internal("new material without a backing key"));
            }
        };
        if let Some(description) = import.description {
            backing.description = Some(description.to_owned());
        }
        batch = batch.and(match &earlier {
            Some(earlier) => rows.replace(earlier, &backing),
            None => rows.insert(backing_row(import.owner, version), &backing),
        });
        if let Some(made) = made {
            batch = batch.and(made.fulfil());
        }
        if let (Some(earlier), Some(_), true) = (&earlier, made, import.place.is_present()) {
            // It seems to be lost. Wherever it is still, it is of nobody.
            let replaced = (import.key, version);
            batch = batch.and(self.see_destroyed(replaced, &earlier.record).await?);
        }
        let mut record = head.record.clone();
        record.material_there(version, import.expires);
        Ok((batch.and(rows.replace(&head, &record)), backing.material()))
    }
}

/// Checks what a caller says of material that only symmetric encryption keys know.
fn check_said(new: &NewMaterial, spec: KeySpec) -> Result<(), KmsError> {
    let said = [
        ("ImportType", new.existing.is_some()),
        ("KeyMaterialId", new.material_id.is_some()),
        ("KeyMaterialDescription", new.description.is_some()),
    ];
    match said.into_iter().find(|(_, said)| *said) {
        Some((member, _)) if spec != KeySpec::SYMMETRIC_DEFAULT => {
            Err(KmsError::Unsupported(format!(
                "{member} is not supported for keys of key spec {}: such a key has one key material",
                spec.name()
            )))
        }
        _ => Ok(()),
    }
}
