//! Keys whose material is brought along (`Origin` EXTERNAL).
//!
//! A pair of RSA keys is made in the token for each `GetParametersForImport`. Its row stands before the pair does and says
//! when both are over: a day later, or when the pair has served. Whatever happens in between, the clock destroys the pair
//! and then the row. Material goes from one key of the token into another; it is never in our memory.
//!
//! A key has one material for ever, in version 1 of its backing key. Each import makes a backing key with an identity of
//! its own, so that to destroy the one before can never destroy its successor; the material keeps its id. What is
//! imported again must open the canary that is recorded.
//!
//! ```text
//! import token: HMAC-SHA-256 of the metadata MAC key (32 bytes) ‖ version 1 (1 byte) ‖ key id (16) ‖ identity of the pair
//!               (32) ‖ kind of the pair (1) ‖ end of validity, milliseconds since 1970 (8, big-endian)
//! ```

use minicbor::{Decode, Encode};
use strongroom_hsm::{
    BackingKeyId, ImportWrapping, Material, RsaSize, ToolKey, ToolProof, ToolSpec,
};

use super::backing::{Kind, MadeBacking, Target};
use super::deletion::check_there;
use super::error::KmsError;
use super::key::{
    BackingRecord, Cause, ImportRecord, KeyArn, KeyId, KeyMaterialId, KeyRecord, KeyState,
    MaterialState, Owner, Timestamp, pending_import,
};
use super::table::{self, Loaded, Rows};
use super::{COMMIT_ATTEMPTS_MAX, Kms, check_proof};
use crate::auth::Authorised;
use crate::meta::{Batch, KeyRange, table as tables};

/// How long the parameters of an import are valid, as AWS has it.
pub const IMPORT_PARAMETERS_VALID_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// The longest that material may be valid, as AWS has it.
pub const MATERIAL_VALID_DAYS_MAX: u32 = 365;
/// The most pairs that wait for material of one key.
pub const IMPORT_PAIRS_PER_KEY_MAX: usize = 8;
/// The most bytes of an import token and of encrypted material, as AWS has it.
pub const IMPORT_BYTES_MAX: usize = 6144;

/// After so long a pair that is not recorded as made will not be any more.
const PAIR_STALE_AFTER_MILLIS: i64 = 15 * 60 * 1000;
/// Rows of pairs that are looked at in one go.
const PAIRS_MAX: usize = 1000;

/// What tokens are authenticated as: no row's key begins so.
const TOKEN_DOMAIN: &[u8] = b"\0import token v1";
const TOKEN_VERSION: u8 = 1;

/// What kms:GetParametersForImport answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportParameters {
    /// To be shown with the material.
    pub token: Vec<u8>,
    /// The key to wrap the material under, a DER `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
    /// Until when both are of use.
    pub valid_to: Timestamp,
}

/// What a caller says of material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMaterial {
    /// The token of [`ImportParameters`].
    pub token: Vec<u8>,
    /// The material, wrapped.
    pub encrypted: Vec<u8>,
    /// When it expires, if it does.
    pub valid_to: Option<Timestamp>,
    /// Whether the key must have had material before, if that was said.
    pub existing: Option<bool>,
    /// The id that the material must have, if that was said.
    pub material_id: Option<String>,
}

/// What is recorded of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct PairRecord {
    /// Its kind, by number.
    #[n(0)]
    kind: u8,
    /// Its public half, once it is made.
    #[cbor(n(1), with = "minicbor::bytes")]
    public: Vec<u8>,
    /// After this it is destroyed.
    #[n(2)]
    expires: Timestamp,
}

/// What an import token says.
struct Ticket {
    key: KeyId,
    pair: BackingKeyId,
    kind: u8,
    expires: Timestamp,
}

/// The kind of pair that two members of `GetParametersForImport` name together.
pub(super) fn pair_of(algorithm: &str, spec: &str) -> Option<ToolSpec> {
    let wrapping = match algorithm {
        "RSAES_OAEP_SHA_1" => ImportWrapping::OaepSha1,
        "RSAES_OAEP_SHA_256" => ImportWrapping::OaepSha256,
        "RSA_AES_KEY_WRAP_SHA_1" => ImportWrapping::AesWrapSha1,
        "RSA_AES_KEY_WRAP_SHA_256" => ImportWrapping::AesWrapSha256,
        _ => return None,
    };
    let size = match spec {
        "RSA_2048" => RsaSize::Bits2048,
        "RSA_3072" => RsaSize::Bits3072,
        "RSA_4096" => RsaSize::Bits4096,
        _ => return None,
    };
    Some(ToolSpec::Unwrap(size, wrapping))
}

fn pairs_of(key: KeyId) -> KeyRange {
    KeyRange::prefix(&[&[tables::KMS_IMPORT], key.as_bytes().as_slice()].concat())
}

impl Kms {
    /// kms:GetParametersForImport: makes a pair in the token.
    ///
    /// # Errors
    ///
    /// [`KmsError::Unsupported`] for a key that has its material from the token, and where the token does not unwrap so;
    /// [`KmsError::LimitExceeded`] beyond [`IMPORT_PAIRS_PER_KEY_MAX`]; by the key's state, the HSM and the records.
    pub async fn parameters_for_import(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
        spec: &str,
    ) -> Result<ImportParameters, KmsError> {
        const ACTION: &str = "kms:GetParametersForImport";
        check_proof(proof, &[ACTION], key)?;
        let pair = pair_of(algorithm, spec).ok_or_else(|| {
            KmsError::Unsupported(format!("{algorithm} by {spec} is not supported"))
        })?;
        // To make a pair takes a while: one at a time.
        let _making = self.lock_making(self.groups.making(None)?).await?;
        let rows = self.rows().await?;
        self.importable(&rows, key).await?;
        let waiting = rows
            .scan(&pairs_of(key.key_id()), IMPORT_PAIRS_PER_KEY_MAX)
            .await?;
        if waiting.len() >= IMPORT_PAIRS_PER_KEY_MAX {
            return Err(KmsError::LimitExceeded(format!(
                "At most {IMPORT_PAIRS_PER_KEY_MAX} imports of key material can be under way for a key"
            )));
        }
        let hsm = self.groups.default_group();
        let obstacle = hsm.tool_obstacle(pair).await.map_err(KmsError::hsm)?;
        if let Some(reason) = obstacle {
            tracing::warn!(event = "kms.import.obstacle", algorithm, reason);
            return Err(KmsError::Unsupported(format!(
                "WrappingAlgorithm {algorithm} with {spec} is not supported by the hardware security module"
            )));
        }
        let id = BackingKeyId::random().map_err(KmsError::hsm)?;
        let row = table::import_row(key.key_id(), &id);
        let now = self.now();
        let mut record = PairRecord {
            kind: pair.to_byte(),
            public: Vec::new(),
            expires: now.plus_millis(PAIR_STALE_AFTER_MILLIS),
        };
        if !self.commit(rows.insert(row.clone(), &record)).await? {
            return Err(KmsError::internal("a random identity is taken"));
        }
        // After an error the pair may exist or not: its row stays, and the clock sees to both.
        let label = format!("strongroom {} import", key.key_id());
        let tool = hsm.generate_tool(id, pair, &label).await;
        let tool = tool.map_err(KmsError::hsm)?;
        record.public = tool.proof.as_bytes().to_vec();
        record.expires = now.plus_millis(IMPORT_PARAMETERS_VALID_MILLIS);
        let rows = self.rows().await?;
        let Some(begun) = rows.load::<PairRecord>("pair of an import", row).await? else {
            return Err(KmsError::Busy);
        };
        if !self.commit(rows.replace(&begun, &record)).await? {
            return Err(KmsError::Busy);
        }
        tracing::info!(event = "kms.import.parameters", %key, pair = %id, algorithm, spec);
        let ticket = Ticket {
            key: key.key_id(),
            pair: id,
            kind: record.kind,
            expires: record.expires,
        };
        Ok(ImportParameters {
            token: self.mac().await?.seal(TOKEN_DOMAIN, &ticket.to_bytes()),
            public_key: record.public,
            valid_to: record.expires,
        })
    }

    /// Checks that material of any wrapping could come into the token, before a key is made that waits for some.
    pub(super) async fn see_that_imports_work(&self) -> Result<(), KmsError> {
        let hsm = self.groups.default_group();
        for wrapping in [ImportWrapping::OaepSha256, ImportWrapping::OaepSha1] {
            let pair = ToolSpec::Unwrap(RsaSize::Bits2048, wrapping);
            let obstacle = hsm.tool_obstacle(pair).await.map_err(KmsError::hsm)?;
            let Some(reason) = obstacle else {
                return Ok(());
            };
            tracing::debug!(
                event = "kms.import.obstacle",
                algorithm = pair.name(),
                reason
            );
        }
        Err(KmsError::Unsupported(
            "Origin EXTERNAL is not supported by the hardware security module: it does not unwrap key material"
                .to_owned(),
        ))
    }

    /// kms:ImportKeyMaterial.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidImportToken`], [`KmsError::ExpiredImportToken`]; [`KmsError::InvalidCiphertext`] for material
    /// that does not unwrap; [`KmsError::IncorrectKeyMaterial`] for what is no AES-256 key, or another one than before;
    /// [`KmsError::Validation`] for a validity that is over or too long; by the key's state, the HSM and the records.
    pub async fn import_key_material(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        new: NewMaterial,
    ) -> Result<KeyMaterialId, KmsError> {
        const ACTION: &str = "kms:ImportKeyMaterial";
        check_proof(proof, &[ACTION], key)?;
        let now = self.now();
        let latest = now.plus_days(MATERIAL_VALID_DAYS_MAX);
        if new.valid_to.is_some_and(|end| end <= now || end > latest) {
            return Err(KmsError::Validation(format!(
                "ValidTo must be in the future, and at most {MATERIAL_VALID_DAYS_MAX} days from now"
            )));
        }
        if new.encrypted.len() > Material::WRAPPED_BYTES_MAX {
            return Err(KmsError::InvalidCiphertext);
        }
        let ticket = self.ticket(key, &new.token).await?;
        if self.importable(&self.rows().await?, key).await?.material == MaterialState::Leaving {
            self.end_material(key).await?;
        }
        let rows = self.rows().await?;
        let import = self.importable(&rows, key).await?;
        let (pair, unwrapper) = self.pair(&rows, &ticket).await?;
        let owner = Owner::Key(key.clone());
        let earlier = match import.material {
            MaterialState::Never => None,
            _ => Some(rows.backing(&owner, 1).await?.record),
        };
        check_said(&new, earlier.as_ref().map(BackingRecord::material))?;
        let material = Material {
            unwrapper,
            wrapped: new.encrypted,
            same_as: earlier
                .as_ref()
                .map(BackingRecord::backing_key)
                .transpose()?,
        };
        // Before anything is written: what cannot be imported leaves nothing behind.
        let place = self.default_place();
        let checked = place.hsm.check_material(&material).await;
        checked.map_err(KmsError::hsm)?;
        let id = if import.material == MaterialState::Present {
            self.commit_import(key, &pair, new.valid_to, None).await?
        } else {
            let kind = Kind::Import(&material);
            let made = self
                .make_backing(&Target::Version(&owner, 1), kind, Cause::Creation, place)
                .await?;
            self.commit_import(key, &pair, new.valid_to, Some(made))
                .await?
        };
        tracing::info!(event = "kms.import.done", %key, material = %id);
        // It has served. If it cannot be destroyed now, the clock sees to it.
        if let Err(error) = self.end_pair(&ticket.pair, &pair_row(&ticket)).await {
            tracing::warn!(event = "kms.import.pair_left", pair = %ticket.pair, %error);
        }
        Ok(id)
    }

    /// kms:DeleteImportedKeyMaterial: the key is of no use until the same material is imported again.
    ///
    /// # Errors
    ///
    /// [`KmsError::Unsupported`] for a key that has its material from the token; [`KmsError::InvalidState`] when there is
    /// none; by the HSM and the records.
    pub async fn delete_imported_key_material(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<KeyMaterialId, KmsError> {
        const ACTION: &str = "kms:DeleteImportedKeyMaterial";
        check_proof(proof, &[ACTION], key)?;
        self.update_key(key, |record| {
            record.customer_managed(key, ACTION)?;
            let import = external(record, key)?;
            match import.material {
                MaterialState::Present => record.lose_material(),
                // Begun by somebody who could not end it.
                MaterialState::Leaving => {}
                MaterialState::Never | MaterialState::Gone => return Err(pending_import(key)),
            }
            Ok(())
        })
        .await?;
        self.end_material(key).await?;
        let owner = Owner::Key(key.clone());
        let backing = self.rows().await?.backing(&owner, 1).await?;
        Ok(backing.record.material())
    }

    /// Ends what is over: material that has expired or is on its way out, and pairs that have served or were not used.
    pub(super) async fn end_imports(
        &self,
        key: &KeyArn,
        record: &KeyRecord,
    ) -> Result<(), KmsError> {
        let now = self.now();
        match &record.import {
            Some(import) if import.is_expired(now) || import.material == MaterialState::Leaving => {
                self.update_key(key, |record| {
                    if record.import.is_some_and(|import| import.is_expired(now)) {
                        tracing::info!(event = "kms.import.expired", %key);
                        record.lose_material();
                    }
                    Ok(())
                })
                .await?;
                self.end_material(key).await?;
                let details = serde_json::json!({ "keyId": key.as_str() });
                self.record_own("DeleteExpiredKeyMaterial", key, details)
                    .await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Destroys the pairs whose time is over, of keys that are gone, too.
    pub(super) async fn end_pairs(&self) -> Result<(), KmsError> {
        let rows = self.rows().await?;
        let range = KeyRange::prefix(&[tables::KMS_IMPORT]);
        let now = self.now();
        let mut outage = None;
        for row in rows.scan(&range, PAIRS_MAX).await? {
            let key = row.0.clone();
            let id = table::import_of_row(&key);
            let (Some(id), Ok(pair)) = (id, rows.open::<PairRecord>("pair of an import", row))
            else {
                tracing::error!(event = "kms.import.damaged", row = hex::encode(&key));
                continue;
            };
            if pair.record.expires > now {
                continue;
            }
            match self.end_pair(&id, &key).await {
                Ok(()) => tracing::info!(event = "kms.import.pair_ended", pair = %id),
                Err(error) => {
                    outage.get_or_insert(error);
                }
            }
        }
        outage.map_or(Ok(()), Err)
    }

    async fn end_pair(&self, id: &BackingKeyId, row: &[u8]) -> Result<(), KmsError> {
        let hsm = self.groups.default_group();
        hsm.destroy_key(*id).await.map_err(KmsError::hsm)?;
        // A pair is made once and never again under its identity: its row may go whatever it says now.
        self.commit(Batch::new().delete(row)).await.map(|_gone| ())
    }

    /// Destroys material that is on its way out, and records that it is gone.
    async fn end_material(&self, key: &KeyArn) -> Result<(), KmsError> {
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let leaving = |record: &KeyRecord| {
            record
                .import
                .is_some_and(|import| import.material == MaterialState::Leaving)
        };
        if !leaving(&rows.head(&owner).await?.record) {
            return Ok(());
        }
        let backing = rows.backing(&owner, 1).await?.record;
        let id = backing.id();
        let hsms = self.all_hsms_of(&rows, &owner, &backing).await?;
        check_there(&hsms, &backing).await?;
        for hsm in hsms {
            hsm.destroy_key(id).await.map_err(KmsError::hsm)?;
        }
        self.wraps.forget(id);
        drop(rows);
        self.update_key(key, |record| {
            if let Some(import) = &mut record.import
                && import.material == MaterialState::Leaving
            {
                import.material = MaterialState::Gone;
                import.expires = None;
            }
            Ok(())
        })
        .await?;
        tracing::info!(event = "kms.import.material_destroyed", %key, backing_key = %id);
        Ok(())
    }

    /// What is recorded of the material of a key that may get some now.
    async fn importable(&self, rows: &Rows, key: &KeyArn) -> Result<ImportRecord, KmsError> {
        let record = rows.head(&Owner::Key(key.clone())).await?.record;
        let import = external(&record, key)?;
        record.not_dying(key)?;
        Ok(import)
    }

    /// What a token says, if it is one of ours, of this key, and not over.
    async fn ticket(&self, key: &KeyArn, token: &[u8]) -> Result<Ticket, KmsError> {
        let mac = self.mac().await?;
        let ticket = mac.open(TOKEN_DOMAIN, token).and_then(Ticket::from_bytes);
        let ticket = ticket.filter(|ticket| ticket.key == key.key_id());
        let ticket = ticket.ok_or(KmsError::InvalidImportToken)?;
        if ticket.expires <= self.now() {
            return Err(KmsError::ExpiredImportToken);
        }
        Ok(ticket)
    }

    /// The pair of a token. One that has served is gone, and its token over.
    async fn pair(
        &self,
        rows: &Rows,
        ticket: &Ticket,
    ) -> Result<(Loaded<PairRecord>, ToolKey), KmsError> {
        let pair = rows.load::<PairRecord>("pair of an import", pair_row(ticket));
        let pair = pair.await?.ok_or(KmsError::ExpiredImportToken)?;
        if pair.record.kind != ticket.kind || pair.record.expires != ticket.expires {
            return Err(KmsError::ExpiredImportToken);
        }
        let damaged = || KmsError::Damaged("pair of an import");
        let tool = ToolKey {
            id: ticket.pair,
            spec: ToolSpec::from_byte(pair.record.kind).ok_or_else(damaged)?,
            proof: ToolProof::from_bytes(&pair.record.public).map_err(|_length| damaged())?,
        };
        Ok((pair, tool))
    }

    /// Records that the material is there: the commit point, with the end of the pair. `made`: the backing key it is in;
    /// none: the one that is recorded.
    async fn commit_import(
        &self,
        key: &KeyArn,
        pair: &Loaded<PairRecord>,
        expires: Option<Timestamp>,
        made: Option<MadeBacking>,
    ) -> Result<KeyMaterialId, KmsError> {
        let owner = Owner::Key(key.clone());
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            match self
                .import_batch(&owner, key, pair, expires, made.as_ref())
                .await
            {
                Ok((batch, id)) => {
                    // After an error of the store the batch may have been applied: the key is not touched then.
                    if self.commit(batch).await? {
                        return Ok(id);
                    }
                }
                Err(error) => {
                    if let Some(made) = made {
                        self.abandon(made).await;
                    }
                    return Err(error);
                }
            }
        }
        if let Some(made) = made {
            self.abandon(made).await;
        }
        Err(KmsError::Busy)
    }

    async fn import_batch(
        &self,
        owner: &Owner,
        key: &KeyArn,
        pair: &Loaded<PairRecord>,
        expires: Option<Timestamp>,
        made: Option<&MadeBacking>,
    ) -> Result<(Batch, KeyMaterialId), KmsError> {
        let rows = self.rows().await?;
        let head = rows.head(owner).await?;
        let import = external(&head.record, key)?;
        head.record.not_dying(key)?;
        let mut served = pair.record.clone();
        served.expires = self.now();
        let mut batch = rows.replace(pair, &served);
        let id = match (made, import.material) {
            (None, MaterialState::Present) => rows.backing(owner, 1).await?.record.material(),
            (Some(made), MaterialState::Never) => {
                batch = batch.and(made.insert(&rows, owner, 1)).and(made.fulfil());
                made.record().material()
            }
            (Some(made), MaterialState::Gone) => {
                let earlier = rows.backing(owner, 1).await?;
                let record = made.record().clone().of_material(&earlier.record);
                batch = batch
                    .and(rows.replace(&earlier, &record))
                    .and(made.fulfil());
                record.material()
            }
            // Somebody else was faster.
            _ => return Err(KmsError::Busy),
        };
        let mut record = head.record.clone();
        record.import = Some(ImportRecord {
            material: MaterialState::Present,
            expires,
        });
        if record.state == KeyState::PendingImport {
            record.state = KeyState::Enabled;
        }
        Ok((batch.and(rows.replace(&head, &record)), id))
    }
}

fn pair_row(ticket: &Ticket) -> Vec<u8> {
    table::import_row(ticket.key, &ticket.pair)
}

/// What is recorded of a key's material, if it is brought along.
fn external(record: &KeyRecord, key: &KeyArn) -> Result<ImportRecord, KmsError> {
    record.import.ok_or_else(|| {
        KmsError::Unsupported(format!(
            "{key} origin is AWS_KMS which is not valid for this operation."
        ))
    })
}

/// Checks what a caller says of the material that the key has had.
fn check_said(new: &NewMaterial, had: Option<KeyMaterialId>) -> Result<(), KmsError> {
    match (new.existing, had) {
        (Some(false), Some(_)) => {
            return Err(KmsError::Unsupported(
                "A key has one key material: ImportType NEW_KEY_MATERIAL is for its first import"
                    .to_owned(),
            ));
        }
        (Some(true), None) => return Err(KmsError::IncorrectKeyMaterial),
        _ => {}
    }
    match &new.material_id {
        Some(said) if had.is_none_or(|id| id.to_string() != *said) => {
            Err(KmsError::IncorrectKeyMaterial)
        }
        _ => Ok(()),
    }
}

impl Ticket {
    fn to_bytes(&self) -> Vec<u8> {
        [
            &[TOKEN_VERSION],
            self.key.as_bytes().as_slice(),
            self.pair.as_bytes(),
            &[self.kind],
            &self.expires.millis().to_be_bytes(),
        ]
        .concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (pair, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        (*version == TOKEN_VERSION).then_some(Self {
            key: KeyId::from_bytes(*key),
            pair: BackingKeyId::from_bytes(*pair),
            kind: *kind,
            expires: Timestamp::from_millis(i64::from_be_bytes(rest.try_into().ok()?)),
        })
    }
}
