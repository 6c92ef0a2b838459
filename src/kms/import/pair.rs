//! Pairs of RSA keys that unwrap material: made for `GetParametersForImport`, used once, destroyed.

use minicbor::{Decode, Encode};
use strongroom_hsm::{BackingKeyId, ImportWrapping, RsaSize, ToolKey, ToolProof, ToolSpec};

use super::{IMPORT_PAIRS_PER_KEY_MAX, IMPORT_PARAMETERS_VALID_MILLIS, ImportParameters};
use crate::auth::Authorised;
use crate::kms::error::KmsError;
use crate::kms::key::{KeyArn, KeyId, Timestamp};
use crate::kms::table::{self, Loaded, Rows};
use crate::kms::{Kms, check_proof};
use crate::meta::{Batch, KeyRange, table as tables};

/// After so long a pair that is not recorded as made will not be any more.
const PAIR_STALE_AFTER_MILLIS: i64 = 15 * 60 * 1000;
/// Rows of pairs that are looked at in one go, and the most of one key.
const PAIRS_MAX: usize = 1000;

/// What tokens are authenticated as: no row's key begins so.
const TOKEN_DOMAIN: &[u8] = b"\0import token v1";
const TOKEN_VERSION: u8 = 1;

/// What is recorded of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PairRecord {
    /// Its kind, by number.
    #[n(0)]
    kind: u8,
    /// Its public half, once it is made.
    #[cbor(n(1), with = "minicbor::bytes")]
    public: Vec<u8>,
    /// After this it is destroyed.
    #[n(2)]
    pub(super) expires: Timestamp,
}

/// What an import token says.
pub(super) struct Ticket {
    key: KeyId,
    pub(super) pair: BackingKeyId,
    kind: u8,
    expires: Timestamp,
}

/// The kind of pair that two members of `GetParametersForImport` name together.
fn pair_of(algorithm: &str, spec: &str) -> Option<ToolSpec> {
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
        let _making = self.lock_making(self.groups.making_pairs(None)?).await?;
        let rows = self.rows().await?;
        self.importable(&rows, key).await?;
        if !self.may_wait(&rows, key.key_id()).await? {
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

    /// Whether one more pair may wait for material of a key. One that has served, or whose time is over, waits for its end
    /// alone; what cannot be read may be one that waits.
    async fn may_wait(&self, rows: &Rows, key: KeyId) -> Result<bool, KmsError> {
        let now = self.now();
        let found = rows.scan(&pairs_of(key), PAIRS_MAX).await?;
        let has_room = found.len() < PAIRS_MAX;
        let waiting = found.into_iter().filter(|row| {
            let pair = rows.open::<PairRecord>("pair of an import", row.clone());
            pair.map_or(true, |pair| pair.record.expires > now)
        });
        Ok(has_room && waiting.count() < IMPORT_PAIRS_PER_KEY_MAX)
    }

    /// Checks that material of any wrapping could come into the token, before a key is made that waits for some.
    pub(in crate::kms) async fn see_that_imports_work(&self) -> Result<(), KmsError> {
        // It is tried with pairs.
        let _making = self.lock_making(self.groups.making_pairs(None)?).await?;
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

    /// Destroys the pairs whose time is over, of keys that are gone, too.
    pub(in crate::kms) async fn end_pairs(&self) -> Result<(), KmsError> {
        let rows = self.rows().await?;
        let now = self.now();
        let mut outage = None;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let cursor = after.as_deref().and_then(|row| row.get(1..));
            let range = table::rows_after(tables::KMS_IMPORT, cursor);
            let found = rows.scan(&range, PAIRS_MAX).await?;
            let is_last = found.len() < PAIRS_MAX;
            after = found.last().map(|(row, _)| row.clone());
            for row in found {
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
            if is_last {
                return outage.map_or(Ok(()), Err);
            }
        }
    }

    pub(super) async fn end_pair(&self, id: &BackingKeyId, row: &[u8]) -> Result<(), KmsError> {
        let hsm = self.groups.default_group();
        hsm.destroy_key(*id).await.map_err(KmsError::hsm)?;
        // A pair is made once and never again under its identity: its row may go whatever it says now.
        self.commit(Batch::new().delete(row)).await.map(|_gone| ())
    }

    /// What a token says, if it is one of ours, of this key, and not over.
    pub(super) async fn ticket(&self, key: &KeyArn, token: &[u8]) -> Result<Ticket, KmsError> {
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
    pub(super) async fn pair(
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
}

pub(super) fn pair_row(ticket: &Ticket) -> Vec<u8> {
    table::import_row(ticket.key, &ticket.pair)
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
