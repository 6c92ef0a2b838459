//! What is recorded in the audit, and its checkpoints.
//!
//! Calls of the API are recorded by the front end, which knows their parameters; the data plane records the use of a
//! key from the proof that allowed it. What the service does of itself is recorded here, too.
//!
//! # Rows
//!
//! ```text
//! h ‖ 0                 whose chain this store's is     ChainRecord     without MAC
//! h ‖ 1 ‖ server id     its last attested head          HeadRecord      with the checkpoint's proof
//! ```
//!
//! The first needs no MAC: a chain that is another server's from somewhere on is found by whoever verifies it.

use minicbor::{Decode, Encode};
use serde_json::{Map, Value, json};
use strongroom_hsm::DataKey;
use time::OffsetDateTime;
use uuid::Uuid;

use super::api::CodedError;
use super::context::EncryptionContext;
use super::error::KmsError;
use super::internal::InternalKey;
use super::key::{KeyArn, KeyMaterialId, Timestamp};
use super::rewrap::Rewrap;
use super::{Kms, check_proof_of};
use crate::audit::{
    AuditStats, Checkpoint, Event, Head, KEY_TYPE, KMS_SOURCE, Outcome, ServerId, Who,
};
use crate::auth::{Authorised, Denied, Origin, Principal, RequestContext, Resource};
use crate::meta::{Batch, Meta, MetaError, codec, table as tables};

/// How long a checkpoint that could not be made waits for the next attempt.
const CHECKPOINT_RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// Whose chain is recorded in this store.
#[derive(Encode, Decode)]
struct ChainRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    server: [u8; ServerId::BYTES],
}

/// The last head that a checkpoint attests.
#[derive(Encode, Decode)]
struct HeadRecord {
    #[n(0)]
    sequence: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    hash: [u8; 32],
    #[cbor(n(2), with = "minicbor::bytes")]
    proof: Vec<u8>,
    #[n(3)]
    made: Timestamp,
}

fn chain_row() -> Vec<u8> {
    vec![tables::AUDIT, 0]
}

fn head_row(server: ServerId) -> Vec<u8> {
    [[tables::AUDIT, 1].as_slice(), server.as_bytes()].concat()
}

async fn load_head(meta: &dyn Meta, server: ServerId) -> Result<Option<Checkpoint>, MetaError> {
    let stored = meta.snapshot().await?.load(&head_row(server)).await?;
    let Some(stored) = stored else {
        return Ok(None);
    };
    let record: HeadRecord = codec::decode("head of the audit", &stored)?;
    Ok(Some(Checkpoint {
        server,
        head: Head {
            sequence: record.sequence,
            hash: record.hash,
        },
        proof: record.proof,
    }))
}

/// Whose chain is recorded in this store, named on the first call, and the last head that the store knows: what
/// [`Audit::open`](crate::audit::Audit::open) needs.
///
/// # Errors
///
/// By the records.
pub async fn audited_chain(meta: &dyn Meta) -> Result<(ServerId, Option<Head>), KmsError> {
    loop {
        let stored = meta.snapshot().await.map_err(KmsError::meta)?;
        let stored = stored.load(&chain_row()).await.map_err(KmsError::meta)?;
        if let Some(stored) = stored {
            let record: ChainRecord =
                codec::decode("chain of the audit", &stored).map_err(KmsError::meta)?;
            let server = ServerId::from_bytes(record.server);
            let head = load_head(meta, server).await.map_err(KmsError::meta)?;
            return Ok((server, head.map(|checkpoint| checkpoint.head)));
        }
        let record = ChainRecord {
            server: *ServerId::random().as_bytes(),
        };
        let named = Batch::new()
            .absent(chain_row())
            .put(chain_row(), codec::encode(&record));
        match meta.commit(named).await {
            Ok(()) | Err(MetaError::Conflict) => {}
            Err(error) => return Err(KmsError::meta(error)),
        }
    }
}

/// The error of a use of a key that nobody waited for.
const ABANDONED: (&str, &str) = (
    "Abandoned",
    "The request ended before its outcome was known. The key may have been used.",
);

/// On whose behalf a key is used.
#[derive(Clone, Copy)]
enum By<'a> {
    Caller(&'a Principal, &'a Origin),
    Rewrap(&'a Rewrap),
}

/// A use of a key that is under way. One that is dropped, for whoever asked has gone, is recorded all the same: the HSM
/// goes on with what it has begun.
#[must_use]
pub(super) struct KeyUse<'a> {
    kms: &'a Kms,
    by: By<'a>,
    operation: &'a str,
    key: &'a KeyArn,
    context: &'a EncryptionContext,
    is_over: bool,
}

impl KeyUse<'_> {
    /// Records how it went.
    pub(super) async fn end(
        mut self,
        outcome: Result<KeyMaterialId, &KmsError>,
    ) -> Result<(), KmsError> {
        self.is_over = true;
        let (kms, by, operation, key) = (self.kms, self.by, self.operation, self.key);
        let named = (key.as_str(), key.account().as_str());
        let event = kms
            .record_data(by, operation, named, self.context, outcome)
            .await?;
        if outcome.is_ok() {
            let request = match by {
                By::Caller(_, origin) => Some(origin.request_id.as_str()),
                By::Rewrap(_) => None,
            };
            kms.note_use(key, operation, event, request);
        }
        Ok(())
    }
}

impl Drop for KeyUse<'_> {
    fn drop(&mut self) {
        if let (Some(audit), false) = (&self.kms.audit, self.is_over) {
            let named = (self.key.as_str(), self.key.account().as_str());
            let (code, message) = ABANDONED;
            let outcome = Some((code.to_owned(), message.to_owned()));
            let event =
                self.kms
                    .data_event(self.by, self.operation, named, self.context, None, outcome);
            audit.append_unawaited(event.record().1);
        }
    }
}

/// A head that the records know, and whether the HSM made its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownHead {
    /// Whose chain.
    pub server: ServerId,
    /// Its last attested head.
    pub head: Head,
    /// Whether the HSM made its proof.
    pub is_genuine: bool,
}

impl Kms {
    /// Whether there is an audit.
    pub(crate) fn is_audited(&self) -> bool {
        self.audit.is_some()
    }

    pub(super) fn time(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// How the audit fares; nothing without one.
    pub fn audit_stats(&self) -> Option<AuditStats> {
        self.audit.as_ref().map(|audit| audit.stats())
    }

    /// Before a key is used or anything is changed: whether that can be recorded.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`], unless the settings let it go on without records.
    pub(crate) fn check_audit(&self) -> Result<(), KmsError> {
        match &self.audit {
            Some(audit) => audit.check().map_err(KmsError::Audit),
            None => Ok(()),
        }
    }

    /// Records something; it is as durable then as the settings say. Answers the record's `eventID`; nothing without one.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`], unless the settings let it go on without records.
    pub(crate) async fn record(&self, event: Event<'_>) -> Result<Option<Uuid>, KmsError> {
        let Some(audit) = &self.audit else {
            return Ok(None);
        };
        let (id, record) = event.record();
        let is_written = audit.append(record).await.map_err(KmsError::Audit)?;
        Ok(is_written.then_some(id))
    }

    /// Begins a use of a key that `proof` allows.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`], if it cannot be recorded.
    pub(super) fn begin_use<'a>(
        &'a self,
        proof: &'a Authorised,
        key: &'a KeyArn,
        context: &'a EncryptionContext,
    ) -> Result<KeyUse<'a>, KmsError> {
        let action = proof.action().0;
        let operation = action.strip_prefix("kms:").unwrap_or(action);
        let by = By::Caller(proof.principal(), proof.origin());
        self.begin_use_by(by, operation, key, context)
    }

    /// Begins a use of a key by a re-wrap: `Decrypt`, of the key that it moves from, or `Encrypt`.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`], if it cannot be recorded.
    pub(super) fn begin_rewrap_use<'a>(
        &'a self,
        rewrap: &'a Rewrap,
        operation: &'static str,
        context: &'a EncryptionContext,
    ) -> Result<KeyUse<'a>, KmsError> {
        let key = match operation {
            "Decrypt" => &rewrap.from,
            _ => &rewrap.to,
        };
        self.begin_use_by(By::Rewrap(rewrap), operation, key, context)
    }

    fn begin_use_by<'a>(
        &'a self,
        by: By<'a>,
        operation: &'a str,
        key: &'a KeyArn,
        context: &'a EncryptionContext,
    ) -> Result<KeyUse<'a>, KmsError> {
        self.check_audit()?;
        Ok(KeyUse {
            kms: self,
            by,
            operation,
            key,
            context,
            is_over: false,
        })
    }

    /// Records that S3 was denied the use of a key on a caller's behalf.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`]: the caller is told that instead.
    pub async fn record_denied(
        &self,
        request: &RequestContext,
        denied: &Denied,
        key: &KeyArn,
        context: &EncryptionContext,
    ) -> Result<(), KmsError> {
        let named = (key.as_str(), key.account().as_str());
        self.record_denied_of(request, denied, named, context).await
    }

    /// The same, where the name of the key is an alias of another account that leads nowhere.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`]: the caller is told that instead.
    pub async fn record_denied_alias(
        &self,
        request: &RequestContext,
        denied: &Denied,
        context: &EncryptionContext,
    ) -> Result<(), KmsError> {
        let caller = request.principal.account.as_str();
        let owner = denied.resource.split(':').nth(4).unwrap_or(caller);
        let named = (denied.resource.as_str(), owner);
        self.record_denied_of(request, denied, named, context).await
    }

    async fn record_denied_of(
        &self,
        request: &RequestContext,
        denied: &Denied,
        named: (&str, &str),
        context: &EncryptionContext,
    ) -> Result<(), KmsError> {
        let error = KmsError::AccessDenied(denied.clone());
        let origin = Origin::of(request);
        let caller = By::Caller(&request.principal, &origin);
        let operation = denied.action.strip_prefix("kms:").unwrap_or(denied.action);
        self.record_data(caller, operation, named, context, Err(&error))
            .await?;
        Ok(())
    }

    /// `named`: the ARN of the key, and whose it is.
    async fn record_data(
        &self,
        by: By<'_>,
        operation: &str,
        named: (&str, &str),
        context: &EncryptionContext,
        outcome: Result<KeyMaterialId, &KmsError>,
    ) -> Result<Option<Uuid>, KmsError> {
        if !self.is_audited() {
            return Ok(None);
        }
        let failed = outcome.err().map(|error| CodedError::of(error).outcome());
        let event = self.data_event(by, operation, named, context, outcome.ok(), failed);
        self.record(event).await
    }

    fn data_event<'a>(
        &'a self,
        by: By<'a>,
        operation: &'a str,
        (arn, owner): (&str, &'a str),
        context: &EncryptionContext,
        material: Option<KeyMaterialId>,
        outcome: Outcome,
    ) -> Event<'a> {
        let name = match operation {
            "ReEncryptFrom" | "ReEncryptTo" => "ReEncrypt",
            name => name,
        };
        let mut request = Map::new();
        request.insert("keyId".to_owned(), json!(arn));
        match name {
            "GenerateDataKey" => request.insert("keySpec".to_owned(), json!("AES_256")),
            _ => request.insert("encryptionAlgorithm".to_owned(), json!("SYMMETRIC_DEFAULT")),
        };
        if !context.is_empty() {
            let pairs = context.iter();
            let pairs: Map<_, _> = pairs
                .map(|(name, value)| (name.to_owned(), json!(value)))
                .collect();
            request.insert("encryptionContext".to_owned(), Value::Object(pairs));
        }
        let mut details = Map::new();
        let who = match by {
            By::Caller(principal, origin) => Who::Caller(principal, origin),
            By::Rewrap(rewrap) => {
                details.insert("rewrapId".to_owned(), json!(rewrap.id.to_string()));
                details.insert("startedBy".to_owned(), json!(rewrap.started_by));
                Who::Service
            }
        };
        let mut additional = Map::new();
        if let Some(material) = material {
            additional.insert("keyMaterialId".to_owned(), json!(material.to_string()));
        }
        Event {
            source: KMS_SOURCE,
            name,
            time: self.time(),
            who,
            account: owner,
            region: self.region(),
            read_only: true,
            request,
            response: details,
            additional,
            resource_type: KEY_TYPE,
            resources: vec![arn.to_owned()],
            outcome,
        }
    }

    /// Records what the service is about to do of itself. Twice does no harm: what comes after it may fail, and is done
    /// again.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`]: then it is not to be done.
    pub(super) async fn record_own(
        &self,
        name: &str,
        key: &KeyArn,
        details: Value,
    ) -> Result<(), KmsError> {
        let details = match details {
            Value::Object(details) => details,
            _ => Map::new(),
        };
        let event = Event {
            source: KMS_SOURCE,
            name,
            time: self.time(),
            who: Who::Service,
            account: key.account().as_str(),
            region: self.region(),
            read_only: false,
            request: Map::new(),
            response: details,
            additional: Map::new(),
            resource_type: KEY_TYPE,
            resources: vec![key.to_string()],
            outcome: None,
        };
        self.record(event).await?;
        Ok(())
    }

    /// Makes checkpoints of the audit whenever they are due, for ever. While the HSM is away they are made up for.
    pub async fn keep_audit(&self) {
        let Some(audit) = &self.audit else {
            return;
        };
        loop {
            audit.checkpoint_due().await;
            if let Err(error) = self.checkpoint_audit().await {
                if audit.checkpoint_failed() {
                    tracing::warn!(
                        event = "audit.checkpoint.postponed",
                        %error,
                        "records go on, and are attested later"
                    );
                }
                tokio::time::sleep(CHECKPOINT_RETRY).await;
            }
        }
    }

    /// Makes a checkpoint of the audit now, if there is anything that none attests.
    ///
    /// # Errors
    ///
    /// [`KmsError::Audit`]; by the HSM and the records.
    pub async fn checkpoint_audit(&self) -> Result<(), KmsError> {
        let Some(audit) = &self.audit else {
            return Ok(());
        };
        if audit.stats().unattested == 0 {
            return Ok(());
        }
        // Durable first: a head in the metadata whose record is lost would look like a record that was taken away.
        let standing = audit.flush().await.map_err(KmsError::Audit)?;
        let (server, head) = (audit.server(), standing.head);
        let nothing = DataKey::random().map_err(KmsError::hsm)?;
        let covered = Checkpoint::covered(server, head);
        let proof = self
            .wrap_internal(InternalKey::Audit, &covered, &nothing)
            .await?;
        let record = HeadRecord {
            sequence: head.sequence,
            hash: head.hash,
            proof: proof.clone(),
            made: self.now(),
        };
        let checkpoint = Checkpoint {
            server,
            head,
            proof,
        };
        audit
            .append_checkpoint(&checkpoint)
            .await
            .map_err(KmsError::Audit)?;
        let known = Batch::new().put(head_row(server), codec::encode(&record));
        self.meta.commit(known).await.map_err(KmsError::meta)?;
        audit.attested(standing.wanting);
        Ok(())
    }

    /// Says in the audit that the process ends in order, and makes the last checkpoint.
    ///
    /// # Errors
    ///
    /// As [`Kms::checkpoint_audit`].
    pub async fn end_audit(&self) -> Result<(), KmsError> {
        let Some(audit) = &self.audit else {
            return Ok(());
        };
        audit.stop().await.map_err(KmsError::Audit)?;
        let ended = self.checkpoint_audit().await;
        audit.flush().await.map_err(KmsError::Audit)?;
        ended
    }

    /// Whether the HSM made the proofs of these checkpoints, in their order; and the head that the records know.
    ///
    /// # Errors
    ///
    /// By the HSM and the records.
    pub async fn verify_audit_checkpoints(
        &self,
        proof: &Authorised,
        checkpoints: &[Checkpoint],
    ) -> Result<(Vec<bool>, Option<KnownHead>), KmsError> {
        check_proof_of(
            proof,
            &["strongroom:VerifyAuditCheckpoints"],
            &Resource::Service,
        )?;
        let mut genuine = Vec::with_capacity(checkpoints.len());
        for checkpoint in checkpoints {
            genuine.push(self.is_genuine(checkpoint).await?);
        }
        let known = match self.audit.as_ref().map(|audit| audit.server()) {
            Some(server) => load_head(self.meta.as_ref(), server)
                .await
                .map_err(KmsError::meta)?,
            None => None,
        };
        let known = match known {
            Some(checkpoint) => Some(KnownHead {
                server: checkpoint.server,
                head: checkpoint.head,
                is_genuine: self.is_genuine(&checkpoint).await?,
            }),
            None => None,
        };
        Ok((genuine, known))
    }

    async fn is_genuine(&self, checkpoint: &Checkpoint) -> Result<bool, KmsError> {
        let covered = Checkpoint::covered(checkpoint.server, checkpoint.head);
        let opened = self
            .unwrap_internal(InternalKey::Audit, &covered, &checkpoint.proof)
            .await;
        match opened {
            Ok(_nothing) => Ok(true),
            Err(KmsError::InvalidCiphertext) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
