//! Lines, and how they hang together. The module's documentation has them byte by byte.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};

const DOMAIN: &[u8] = b"strongroom audit v1";
const HASH_BYTES: usize = 32;
const HASH_CHARS: usize = 2 * HASH_BYTES;

const SEQUENCE_FIELD: &[u8] = b"{\"seq\":";
const HASH_FIELD: &[u8] = b",\"hash\":\"";
const RECORD_FIELD: &[u8] = b"\",\"record\":";
const END: &[u8] = b"}";

/// Where a chain stands: its last record, by number and hash. As text `SEQUENCE:HASH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the last record; 0 before the first.
    pub sequence: u64,
    /// Of the last record; zeros before the first.
    pub hash: [u8; HASH_BYTES],
}

impl Head {
    /// Before the first record.
    pub const EMPTY: Self = Self {
        sequence: 0,
        hash: [0; HASH_BYTES],
    };

    /// The head behind one more record.
    pub(super) fn after(&self, record: &[u8]) -> Self {
        let sequence = self.sequence.saturating_add(1);
        let mut digest = Context::new(&SHA256);
        digest.update(DOMAIN);
        digest.update(&self.hash);
        digest.update(&sequence.to_be_bytes());
        digest.update(record);
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(digest.finish().as_ref());
        Self { sequence, hash }
    }

    /// Writes the line of one more record, and stands behind it.
    pub(super) fn extend(&mut self, lines: &mut Vec<u8>, record: &[u8]) {
        *self = self.after(record);
        // Writing to memory cannot fail.
        let _ = write!(lines, "{{\"seq\":{}", self.sequence);
        lines.extend_from_slice(HASH_FIELD);
        lines.extend_from_slice(hex::encode(self.hash).as_bytes());
        lines.extend_from_slice(RECORD_FIELD);
        lines.extend_from_slice(record);
        lines.extend_from_slice(END);
        lines.push(b'\n');
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, hex::encode(self.hash))
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a head is SEQUENCE:HASH, with 64 hex digits";
        let (sequence, hash) = text.split_once(':').ok_or(FORM)?;
        Ok(Self {
            sequence: sequence.parse().map_err(|_number| FORM)?,
            hash: hash_of(hash).ok_or(FORM)?,
        })
    }
}

/// The hash in 64 hex digits.
pub(super) fn hash_of(text: &str) -> Option<[u8; HASH_BYTES]> {
    let mut hash = [0; HASH_BYTES];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

/// A line as it reads. Nothing of it is verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// What it says of itself.
    pub(super) head: Head,
    /// The bytes of its record.
    pub(super) record: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line without its line feed.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(SEQUENCE_FIELD)?;
        let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = rest.split_at(digits);
        let digits = std::str::from_utf8(digits).ok()?;
        let sequence: u64 = digits.parse().ok()?;
        if sequence == 0 || digits.starts_with('0') {
            return None;
        }
        let rest = rest.strip_prefix(HASH_FIELD)?;
        let (hash, rest) = rest.split_at_checked(HASH_CHARS)?;
        if hash.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        let hash = hash_of(std::str::from_utf8(hash).ok()?)?;
        let record = rest.strip_prefix(RECORD_FIELD)?.strip_suffix(END)?;
        Some(Self {
            head: Head { sequence, hash },
            record,
        })
    }
}
