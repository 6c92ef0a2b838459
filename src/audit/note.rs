//! What the chain says of itself, between the events.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Head;
use super::chain::hash_of;

/// How every note begins.
const MARK: &[u8] = b"{\"auditRecord\":";
const CHECKPOINT_DOMAIN: &[u8] = b"strongroom audit checkpoint v1";

/// Names the server whose chain it is, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerId([u8; Self::BYTES]);

impl ServerId {
    /// Its length.
    pub const BYTES: usize = 16;

    /// A fresh one.
    pub fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }

    /// The one with these bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Reads 32 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// That a chain stood at a head, with the HSM's proof of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose chain.
    pub server: ServerId,
    /// Where it stood.
    pub head: Head,
    /// What the HSM made of [`Checkpoint::covered`].
    pub proof: Vec<u8>,
}

impl Checkpoint {
    /// The bytes that a proof authenticates.
    pub fn covered(server: ServerId, head: Head) -> Vec<u8> {
        [
            CHECKPOINT_DOMAIN,
            server.as_bytes().as_slice(),
            &head.sequence.to_be_bytes(),
            &head.hash,
        ]
        .concat()
    }

    /// Its record.
    pub(super) fn record(&self, time: String) -> Vec<u8> {
        Note::Checkpoint {
            time,
            server: self.server.to_string(),
            sequence: self.head.sequence,
            hash: hex::encode(self.head.hash),
            proof: hex::encode(&self.proof),
        }
        .record()
    }
}

/// A record of the chain itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "auditRecord", rename_all_fields = "camelCase")]
pub(super) enum Note {
    /// Begins a file.
    File {
        time: String,
        server: String,
        /// Hash of the record before, which is in another file.
        previous_hash: String,
        /// What is left of a last line in the file before.
        #[serde(skip_serializing_if = "Option::is_none")]
        torn: Option<Torn>,
        /// Why the file before is not gone on with, if something is wrong with it.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A process of the server begins.
    Start { time: String, version: String },
    /// It ends in order.
    Stop { time: String },
    /// Records are written again after a time in which they could not be.
    Resumed {
        time: String,
        since: String,
        /// Records that were wanted meanwhile and are not here.
        lost: u64,
        reason: String,
    },
    /// Records that were wanted and never came so far as to be written, all since this was said before.
    Lost {
        time: String,
        /// When the first of them was given up.
        first: String,
        /// And the last.
        last: String,
        lost: u64,
        reason: String,
    },
    /// [`Checkpoint`].
    Checkpoint {
        time: String,
        server: String,
        sequence: u64,
        hash: String,
        proof: String,
    },
}

/// What is left of a line that was not written whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Torn {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Torn {
    /// The rest of a file; nothing if there is none.
    pub(super) fn of(rest: &[u8]) -> Option<Self> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, rest);
        (!rest.is_empty()).then(|| Self {
            bytes: u64::try_from(rest.len()).unwrap_or(u64::MAX),
            sha256: hex::encode(digest),
        })
    }
}

impl Note {
    /// The note in a record, if it is one.
    pub(super) fn parse(record: &[u8]) -> Option<Self> {
        if !record.starts_with(MARK) {
            return None;
        }
        serde_json::from_slice(record).ok()
    }

    pub(super) fn record(&self) -> Vec<u8> {
        // Strings and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The checkpoint that it is, if it is one that reads.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        let Self::Checkpoint {
            server,
            sequence,
            hash,
            proof,
            ..
        } = self
        else {
            return None;
        };
        Some(Checkpoint {
            server: ServerId::parse(server)?,
            head: Head {
                sequence: *sequence,
                hash: hash_of(hash)?,
            },
            proof: hex::decode(proof).ok()?,
        })
    }
}
