//! Making a backing key: two stores, one commit point.
//!
//! An intent row names the identity first. Then the HSM makes the object, finds it again and makes its canary. Then
//! one batch records the backing key for its owner and deletes the intent: the commit point. The batch requires that
//! the intent is still there, so that a server which was taken for dead cannot commit any more.
//!
//! After a crash an intent is left. If the token holds no such object, the intent is deleted. If it does, the object
//! is reported and kept, for whoever operates the token to destroy: nothing here destroys what it cannot prove to be
//! unused. Only a key that this very process has just made and could not record, because another server was first, is
//! destroyed at once.
//!
//! Material that was brought along is different: its owner has it, and is told that the import failed. What a crash leaves
//! of it is destroyed, and its intent proves that it may be: it says under the records' MAC which key it was for, that
//! key is there and no version of it has its identity, and it is claimed first, so that nobody can commit it any more. Of a
//! key that is not there it is reported and kept.
//!
//! What is imported again because its token seems to have lost it takes the place of a backing key that may be there still,
//! perhaps in a member that answers later. The batch that records the one leaves a claimed intent of the other, which stays
//! until the token that held it says that it is gone.

use minicbor::{Decode, Encode};
use strongroom_hsm::{BackingKeyId, HsmError, Material, ToolSpec};

use super::Kms;
use super::deletion::is_there;
use super::error::KmsError;
use super::key::{BackingRecord, Cause, KeyArn, KeyId, KeyRecord, Owner, Timestamp, name_of};
use super::stores::Place;
use super::table::{self, Rows};
use crate::meta::{Batch, Row, codec, table as tables};

/// After so long an intent of this process cannot end well any more.
const INTENT_STALE_AFTER_MILLIS: i64 = 15 * 60 * 1000;
/// Intents read in one go.
const INTENTS_STEP: usize = 1000;

/// What a backing key is made for.
pub(super) enum Target<'a> {
    /// A version of a key.
    Version(&'a Owner, u32),
    /// The key of the records' MAC.
    MetadataMac,
}

/// What kind of backing key is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    /// One that wraps data keys.
    Wrapping,
    /// A tool.
    Tool(ToolSpec),
    /// One that wraps data keys, of this material.
    Import(&'a Material),
}

/// That a backing key is about to be made.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Intent {
    /// What for, in words.
    #[n(0)]
    label: String,
    #[n(1)]
    created: Timestamp,
    /// Which process.
    #[cbor(n(2), with = "minicbor::bytes")]
    process: [u8; 16],
    /// Whether it was reported as an orphan already.
    #[n(3)]
    reported: bool,
    /// In which token group; none is the default one.
    #[n(4)]
    group: Option<String>,
    /// Of material that is brought along: for which key, with the MAC of that.
    #[cbor(n(5), with = "minicbor::bytes")]
    import: Option<Vec<u8>>,
    /// Of material that was recorded and that another took the place of: the token that held it, as people name it.
    #[n(6)]
    token: Option<String>,
}

/// Where the object of an intent is.
enum Found {
    There,
    Gone,
    /// Not in the tokens that are there, of which none is the one that held it.
    Elsewhere,
}

/// What the MAC in an intent is made under: no row's key begins so.
fn import_domain(id: &BackingKeyId) -> Vec<u8> {
    [b"\0intent of an import v1".as_slice(), id.as_bytes()].concat()
}

/// A backing key that the token holds and no record names yet.
#[must_use = "a key without a record is an orphan"]
pub(super) struct MadeBacking {
    place: Place,
    record: BackingRecord,
    intent: Vec<u8>,
}

impl MadeBacking {
    pub(super) fn record(&self) -> &BackingRecord {
        &self.record
    }

    /// Where it was made.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Records it as a version of `owner`.
    pub(super) fn insert(&self, rows: &Rows, owner: &Owner, version: u32) -> Batch {
        rows.insert(table::backing_row(owner, version), &self.record)
    }

    /// Ends the intent, which must still be there.
    pub(super) fn fulfil(&self) -> Batch {
        let row = table::intent_row(&self.record.id());
        Batch::new()
            .unchanged(row.as_slice(), Some(&self.intent))
            .delete(row)
    }
}

/// Asked before anything is written, so that a token without the mechanisms leaves no intents either.
async fn see_no_obstacle(place: &Place, spec: ToolSpec) -> Result<(), KmsError> {
    let obstacle = place.hsm.tool_obstacle(spec).await;
    match obstacle.map_err(KmsError::hsm)? {
        None => Ok(()),
        Some(reason) => {
            tracing::warn!(
                event = "kms.tool.obstacle",
                spec = spec.name(),
                reason,
                "the token has no keys of this kind"
            );
            Err(KmsError::hsm(HsmError::Unsupported(spec.name().to_owned())))
        }
    }
}

impl Kms {
    /// Makes a backing key in the HSM. Nobody knows of it until [`Kms::commit_made`].
    pub(super) async fn make_backing(
        &self,
        target: &Target<'_>,
        kind: Kind<'_>,
        cause: Cause,
        place: Place,
    ) -> Result<MadeBacking, KmsError> {
        // Asked before anything is written, so that an absent token leaves no intents.
        let info = place.hsm.info().await.map_err(KmsError::hsm)?;
        if let Kind::Tool(spec) = kind {
            see_no_obstacle(&place, spec).await?;
        }
        let id = BackingKeyId::random().map_err(KmsError::hsm)?;
        let label = match target {
            Target::Version(owner, version) => owner.label(*version),
            Target::MetadataMac => "strongroom internal metadata-mac".to_owned(),
        };
        let created = self.now();
        let import = match (kind, target) {
            (Kind::Import(_), Target::Version(Owner::Key(key), _)) => {
                // Whoever imports has read the key's rows, and so has had the MAC key.
                let mac = self.mac.get();
                let mac = mac.ok_or(KmsError::internal("an import before the records"))?;
                Some(mac.seal(&import_domain(&id), key.key_id().as_bytes()))
            }
            _ => None,
        };
        let intent = Intent {
            label: label.clone(),
            created,
            process: self.process,
            reported: false,
            group: place.group.clone(),
            import,
            token: None,
        };
        let intent = codec::encode(&intent);
        let row = table::intent_row(&id);
        if !self
            .commit(
                Batch::new()
                    .absent(row.as_slice())
                    .put(row, intent.as_slice()),
            )
            .await?
        {
            return Err(KmsError::internal("a random identity is taken"));
        }
        // After an error the object may exist or not, or come into being later: the intent stays.
        let (token, store) = (name_of(&info), place.store.clone());
        let record = match kind {
            Kind::Wrapping => {
                let key = place.hsm.generate_key(id, &label).await;
                let key = key.map_err(KmsError::hsm)?;
                BackingRecord::new(&key, created, cause, token, store)
            }
            Kind::Import(material) => {
                let key = place.hsm.import_key(material, id, &label).await;
                let key = key.map_err(KmsError::hsm)?;
                BackingRecord::new(&key, created, cause, token, store)
            }
            Kind::Tool(spec) => {
                let tool = place.hsm.generate_tool(id, spec, &label).await;
                let tool = tool.map_err(KmsError::hsm)?;
                BackingRecord::of_tool(&tool, created, cause, token, store)
            }
        };
        Ok(MadeBacking {
            place,
            record,
            intent,
        })
    }

    /// Commits `batch` and the end of the intent. `false`: a precondition did not hold, and the backing key, which
    /// nobody has used, is gone again.
    pub(super) async fn commit_made(
        &self,
        made: MadeBacking,
        batch: Batch,
    ) -> Result<bool, KmsError> {
        let committed = self.commit(batch.and(made.fulfil())).await?;
        if !committed {
            self.abandon(made).await;
        }
        Ok(committed)
    }

    /// Destroys a key that was certainly not recorded. If that fails, its intent stays and reports it.
    pub(super) async fn abandon(&self, made: MadeBacking) {
        let id = made.record.id();
        let ended = match made.place.hsm.destroy_key(id).await.map_err(KmsError::hsm) {
            Ok(()) => self.commit(made.fulfil()).await.map(|_intent_was_there| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::warn!(event = "kms.backing_key.not_abandoned", backing_key = %id, %error);
        }
    }

    /// In the batch that records another backing key of the same material in the place of `replaced`: has that destroyed.
    pub(super) async fn see_destroyed(
        &self,
        (key, version): (&KeyArn, u32),
        replaced: &BackingRecord,
    ) -> Result<Batch, KmsError> {
        let (mac, id) = (self.mac().await?, replaced.id());
        let intent = Intent {
            label: Owner::Key(key.clone()).label(version),
            created: self.now(),
            process: self.process,
            reported: true,
            // Of no custom key store: there are no imports.
            group: None,
            import: Some(mac.seal(&import_domain(&id), key.key_id().as_bytes())),
            token: Some(replaced.token().to_owned()),
        };
        Ok(Batch::new().put(table::intent_row(&id), codec::encode(&intent)))
    }

    async fn find_made(&self, id: BackingKeyId, intent: &Intent) -> Result<Found, KmsError> {
        let hsm = self.groups.recorded(intent.group.as_deref())?;
        if hsm.contains(id).await.map_err(KmsError::hsm)? {
            return Ok(Found::There);
        }
        match &intent.token {
            Some(token) if !is_there(hsm, token).await? => Ok(Found::Elsewhere),
            Some(_) | None => Ok(Found::Gone),
        }
    }

    /// Ends intents without an object and reports those with one; `again`, also those that were reported before. What an
    /// import left is destroyed.
    pub(super) async fn reconcile_intents(&self, again: bool) -> Result<(), KmsError> {
        let mut outage = None;
        for (row, stored) in self.intents().await? {
            let id = row
                .get(1..)
                .and_then(|id| id.try_into().ok())
                .map(BackingKeyId::from_bytes);
            // A row that does not read says nothing about the others, and keeps no server from starting.
            let (Some(id), Ok(intent)) = (id, codec::decode::<Intent>("intent", &stored)) else {
                tracing::error!(event = "kms.intent.damaged", row = hex::encode(&row));
                continue;
            };
            let age = self.now().millis().saturating_sub(intent.created.millis());
            // What is claimed already is nobody's any more.
            let is_claimed = intent.import.is_some() && intent.reported;
            if intent.process == self.process && age < INTENT_STALE_AFTER_MILLIS && !is_claimed {
                continue;
            }
            let found = Batch::new().unchanged(row.as_slice(), Some(&stored));
            match self.find_made(id, &intent).await {
                Ok(Found::There) => {}
                Ok(Found::Gone) => {
                    self.commit(found.delete(row)).await?;
                    tracing::info!(event = "kms.intent.ended", backing_key = %id, label = intent.label);
                    continue;
                }
                Ok(Found::Elsewhere) => {
                    if again {
                        report_elsewhere(&id, &intent);
                    }
                    continue;
                }
                // The tokens of other groups may answer.
                Err(error) => {
                    outage.get_or_insert(error);
                    continue;
                }
            }
            if let Some(sealed) = &intent.import {
                let is_news = again || !intent.reported;
                let ended = self.end_import_left(&id, sealed, (row, found), &intent, is_news);
                if let Err(error) = ended.await {
                    tracing::warn!(event = "kms.import.left", backing_key = %id, label = intent.label, %error);
                    if error.is_outage() {
                        outage.get_or_insert(error);
                    }
                }
            } else if again || !intent.reported {
                report_orphan(&id, &intent.label);
                let reported = Intent {
                    reported: true,
                    ..intent
                };
                self.commit(found.put(row, codec::encode(&reported)))
                    .await?;
            }
        }
        outage.map_or(Ok(()), Err)
    }

    /// All intents as they are stored: some stay until somebody has destroyed what they report.
    async fn intents(&self) -> Result<Vec<Row>, KmsError> {
        let snapshot = self.meta.snapshot().await.map_err(KmsError::meta)?;
        let mut intents = Vec::<Row>::new();
        loop {
            let last = intents.last().and_then(|(row, _)| row.get(1..));
            let range = table::rows_after(tables::KMS_INTENT, last);
            let found = snapshot.scan(&range, INTENTS_STEP).await;
            let found = found.map_err(KmsError::meta)?;
            let is_last = found.len() < INTENTS_STEP;
            intents.extend(found);
            if is_last {
                return Ok(intents);
            }
        }
    }

    /// Destroys what an import left in the token: see the head of this file.
    async fn end_import_left(
        &self,
        id: &BackingKeyId,
        sealed: &[u8],
        (row, found): (Vec<u8>, Batch),
        intent: &Intent,
        is_news: bool,
    ) -> Result<(), KmsError> {
        let mac = self.mac().await?;
        let key = mac
            .open(&import_domain(id), sealed)
            .and_then(|key| key.try_into().ok())
            .map(KeyId::from_bytes)
            .ok_or(KmsError::Damaged("intent of an import"))?;
        // From now on nobody can commit it who has not by now.
        let claimed = codec::encode(&Intent {
            label: intent.label.clone(),
            reported: true,
            group: intent.group.clone(),
            import: intent.import.clone(),
            token: intent.token.clone(),
            process: self.process,
            created: intent.created,
        });
        if !self
            .commit(found.put(row.as_slice(), claimed.as_slice()))
            .await?
        {
            return Ok(());
        }
        let claimed = Batch::new().unchanged(row.as_slice(), Some(&claimed));
        match self.use_of(key, id).await? {
            Use::None(owner) => {
                let details = serde_json::json!({
                    "keyId": owner.as_str(), "backingKeyId": id.to_string()
                });
                self.record_own("DeleteAbandonedKeyMaterial", &owner, details)
                    .await?;
            }
            // An intent from before its commit: it has nothing to say.
            Use::Version(version) => {
                tracing::error!(event = "kms.intent.put_back", backing_key = %id, label = intent.label, version);
                return self.commit(claimed.delete(row)).await.map(|_gone| ());
            }
            Use::Unknown => {
                if is_news {
                    report_orphan(id, &intent.label);
                }
                return Ok(());
            }
        }
        let hsm = self.groups.recorded(intent.group.as_deref())?;
        hsm.destroy_key(*id).await.map_err(KmsError::hsm)?;
        self.wraps.forget(*id);
        self.commit(claimed.delete(row)).await?;
        tracing::info!(event = "kms.import.left_ended", backing_key = %id, label = intent.label);
        Ok(())
    }

    /// What a key has to do with a backing key of this identity. Asks for its rows, whosever it is.
    async fn use_of(&self, key: KeyId, id: &BackingKeyId) -> Result<Use, KmsError> {
        let rows = self.rows().await?;
        let head = rows.load::<KeyRecord>("head of a key", table::key_row(key));
        let Some(head) = head.await? else {
            return Ok(Use::Unknown);
        };
        let arn = self.arn_of_head(key, &head.record)?;
        let owner = Owner::Key(arn.clone());
        for version in head.record.recorded_versions() {
            if rows.backing(&owner, version).await?.record.id() == *id {
                return Ok(Use::Version(version));
            }
        }
        Ok(Use::None(arn))
    }
}

/// What a key has to do with a backing key.
enum Use {
    /// The records of this key tell of all its backing keys, and this is none of them.
    None(KeyArn),
    /// It is this version.
    Version(u32),
    /// Nothing is recorded of such a key.
    Unknown,
}

fn report_elsewhere(id: &BackingKeyId, intent: &Intent) {
    tracing::warn!(
        event = "kms.backing_key.elsewhere",
        backing_key = %id,
        label = intent.label,
        token = intent.token,
        "a token that is not there may hold this key, which another has taken the place of"
    );
}

fn report_orphan(id: &BackingKeyId, label: &str) {
    tracing::warn!(
        event = "kms.backing_key.orphan",
        backing_key = %id,
        label,
        "the token holds a backing key that was never recorded; it is kept"
    );
}
