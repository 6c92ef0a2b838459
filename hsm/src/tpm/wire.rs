//! Bytes as the TPM writes them (TPM 2.0 Part 2): big-endian, lengths before what they measure.

use aws_lc_rs::digest::{Context, SHA256};

/// `TPM_ALG_SHA256`: the name algorithm of everything we make.
pub(super) const SHA256_ID: u16 = 0x000B;

/// Length of a SHA-256 digest.
pub(super) const DIGEST_BYTES: usize = 32;

pub(super) type Digest = [u8; DIGEST_BYTES];

/// The name of an object or NV index (Part 1 §16): its name algorithm and the digest of its public area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name([u8; Self::BYTES]);

impl Name {
    pub(super) const BYTES: usize = 2 + DIGEST_BYTES;

    /// The name of what has this public area.
    pub(super) fn of(public: &[u8]) -> Self {
        let mut name = [0; Self::BYTES];
        let (algorithm, digest) = name.split_at_mut(2);
        algorithm.copy_from_slice(&SHA256_ID.to_be_bytes());
        digest.copy_from_slice(&sha256(&[public]));
        Self(name)
    }

    pub(super) const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    pub(super) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// SHA-256 of the parts, one after the other.
pub(super) fn sha256(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Reads from the front; `None` once the bytes do not suffice.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// What a 16-bit length announces, at most `max` bytes of it.
    pub(super) fn sized(&mut self, max: usize) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?);
        if length > max {
            return None;
        }
        let (front, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(front)
    }

    /// `Some` when nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends `bytes` and their 16-bit length.
///
/// # Panics
///
/// Beyond 65,535 bytes, which nothing that is written here comes near.
pub(super) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("an area of a TPM object is short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}
