//! What makes an object: which blobs, in which order, how long.

use super::segment::PLAINTEXT_BYTES_MAX;
use super::{BLOB_ID_BYTES, EnvelopeError, IDENTITY_BYTES_MAX, SALT_BYTES};

/// The most blobs of one object: the parts of a multipart upload.
pub const PARTS_MAX: usize = 10_000;

const MAGIC: &[u8; 4] = b"SRM\x01";
const FORMAT: EnvelopeError = EnvelopeError::Format("manifest");

/// One blob of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestPart {
    /// Part number, 1 for an object that was sent whole.
    pub number: u32,
    /// Which blob.
    pub blob_id: [u8; BLOB_ID_BYTES],
    /// The blob's salt.
    pub salt: [u8; SALT_BYTES],
    /// Length of its plaintext.
    pub plaintext_bytes: u64,
}

/// What makes an object. Read only by [`super::KeySchedule::open_manifest`], which authenticates it first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Whose this is: bucket, key and version, as `store` writes them.
    pub identity: Vec<u8>,
    /// SHA-256 of the attributes that are kept in clear beside it.
    pub attributes_digest: [u8; 32],
    /// The blobs in order.
    pub parts: Vec<ManifestPart>,
}

impl Manifest {
    /// Length of the object.
    pub fn plaintext_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.plaintext_bytes).sum()
    }

    /// Everything but the tag.
    pub(super) fn encode(&self, salt: &[u8; SALT_BYTES]) -> Result<Vec<u8>, EnvelopeError> {
        if self.identity.len() > IDENTITY_BYTES_MAX {
            return Err(EnvelopeError::Limit("identity"));
        }
        if self.parts.is_empty() || self.parts.len() > PARTS_MAX {
            return Err(EnvelopeError::Limit("part list"));
        }
        let length = self
            .parts
            .iter()
            .try_fold(0u64, |sum, part| sum.checked_add(part.plaintext_bytes))
            .filter(|&sum| sum <= PLAINTEXT_BYTES_MAX)
            .ok_or(EnvelopeError::Limit("object"))?;
        let mut bytes = Vec::with_capacity(84 + self.identity.len() + 60 * self.parts.len() + 32);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(salt);
        bytes.extend_from_slice(&count(self.identity.len())?);
        bytes.extend_from_slice(&self.identity);
        bytes.extend_from_slice(&self.attributes_digest);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&count(self.parts.len())?);
        for part in &self.parts {
            bytes.extend_from_slice(&part.number.to_be_bytes());
            bytes.extend_from_slice(&part.blob_id);
            bytes.extend_from_slice(&part.salt);
            bytes.extend_from_slice(&part.plaintext_bytes.to_be_bytes());
        }
        Ok(bytes)
    }

    /// The salt of encoded bytes, before anything of them is believed.
    pub(super) fn salt(body: &[u8]) -> Result<&[u8; SALT_BYTES], EnvelopeError> {
        body.strip_prefix(MAGIC)
            .and_then(|rest| rest.first_chunk())
            .ok_or(FORMAT)
    }

    /// Reads what [`Manifest::encode`] wrote; the caller has authenticated it.
    pub(super) fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        let mut rest = body.strip_prefix(MAGIC).ok_or(FORMAT)?;
        take::<SALT_BYTES>(&mut rest)?;
        let identity_bytes =
            usize::try_from(u32::from_be_bytes(take(&mut rest)?)).map_err(|_too_large| FORMAT)?;
        let (identity, after) = rest.split_at_checked(identity_bytes).ok_or(FORMAT)?;
        rest = after;
        let attributes_digest = take(&mut rest)?;
        let length = u64::from_be_bytes(take(&mut rest)?);
        let part_count =
            usize::try_from(u32::from_be_bytes(take(&mut rest)?)).map_err(|_too_large| FORMAT)?;
        if part_count == 0 || part_count > PARTS_MAX {
            return Err(FORMAT);
        }
        let mut parts = Vec::with_capacity(part_count);
        for _ in 0..part_count {
            parts.push(ManifestPart {
                number: u32::from_be_bytes(take(&mut rest)?),
                blob_id: take(&mut rest)?,
                salt: take(&mut rest)?,
                plaintext_bytes: u64::from_be_bytes(take(&mut rest)?),
            });
        }
        let manifest = Self {
            identity: identity.to_vec(),
            attributes_digest,
            parts,
        };
        if !rest.is_empty() || manifest.plaintext_bytes() != length {
            return Err(FORMAT);
        }
        Ok(manifest)
    }
}

fn count(n: usize) -> Result<[u8; 4], EnvelopeError> {
    u32::try_from(n)
        .map(u32::to_be_bytes)
        .map_err(|_too_large| EnvelopeError::Limit("manifest"))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], EnvelopeError> {
    let (now, later) = rest.split_first_chunk::<N>().ok_or(FORMAT)?;
    *rest = later;
    Ok(*now)
}
