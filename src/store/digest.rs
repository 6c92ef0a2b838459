//! What is computed over plaintext while it streams: MD5 where a client or an `ETag` needs it, and one checksum.

use aws_lc_rs::digest;
use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};
use minicbor::{Decode, Encode};

use super::record::ChecksumAlgorithm;

/// What is sealed beside the manifest: it says something about the plaintext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SealedAttributes {
    /// The checksum whose kind the record names.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub checksum: Vec<u8>,
    /// Of a part: the checksum that the client sent, where that is of another algorithm.
    #[n(1)]
    pub claimed: Option<ClaimedChecksum>,
}

/// A checksum that a client sent, and that was found right.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ClaimedChecksum {
    /// Its algorithm.
    #[n(0)]
    pub algorithm: ChecksumAlgorithm,
    /// Its bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

impl ChecksumAlgorithm {
    /// As S3 names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Length of the checksum.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    const fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Whether the checksum of a whole follows from those of its parts.
    pub const fn combines(self) -> bool {
        self.crc().is_some()
    }

    /// Checksum of `a ‖ b` from the checksums of `a` and `b` and the length of `b`.
    ///
    /// Returns `None` for an algorithm that does not combine, or checksums of another length.
    pub fn combine(self, a: &[u8], b: &[u8], b_bytes: u64) -> Option<Vec<u8>> {
        let combined = crc_fast::checksum_combine(self.crc()?, be_u64(a)?, be_u64(b)?, b_bytes);
        Some(self.crc_bytes(combined))
    }

    fn crc_bytes(self, value: u64) -> Vec<u8> {
        let bytes = value.to_be_bytes();
        bytes.get(8 - self.bytes()..).unwrap_or_default().to_vec()
    }
}

fn be_u64(bytes: &[u8]) -> Option<u64> {
    let mut wide = [0; 8];
    wide.get_mut(8usize.checked_sub(bytes.len())?..)?
        .copy_from_slice(bytes);
    Some(u64::from_be_bytes(wide))
}

/// Computes one checksum.
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    state: State,
}

enum State {
    Crc(Box<crc_fast::Digest>),
    Sha(digest::Context),
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checksum({})", self.algorithm.name())
    }
}

impl Checksum {
    /// Begins.
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let state = match (algorithm.crc(), algorithm) {
            (Some(crc), _) => State::Crc(Box::new(crc_fast::Digest::new(crc))),
            (None, ChecksumAlgorithm::Sha1) => {
                State::Sha(digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY))
            }
            (None, _) => State::Sha(digest::Context::new(&digest::SHA256)),
        };
        Self { algorithm, state }
    }

    /// Goes on.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(crc) => crc.update(bytes),
            State::Sha(sha) => sha.update(bytes),
        }
    }

    /// The checksum, big-endian.
    pub fn finish(self) -> Vec<u8> {
        match self.state {
            State::Crc(crc) => self.algorithm.crc_bytes(crc.finalize()),
            State::Sha(sha) => sha.finish().as_ref().to_vec(),
        }
    }
}

/// MD5, if wanted, the checksum that is kept, and the one that the client claims, if that is another.
#[derive(Debug)]
pub struct Digests {
    md5: Option<Md5>,
    checksum: Checksum,
    claimed: Option<Checksum>,
}

/// What [`Digests`] found.
#[derive(Debug)]
pub struct Digested {
    /// MD5, if wanted.
    pub md5: Option<[u8; 16]>,
    /// The checksum that is kept.
    pub checksum: Vec<u8>,
    /// The checksum of the claimed algorithm, if that is another.
    pub claimed: Option<ClaimedChecksum>,
}

impl Digests {
    /// Begins. MD5 is fifteen times slower than sealing; `md5` asks for it.
    pub fn new(kept: ChecksumAlgorithm, claimed: Option<ChecksumAlgorithm>, md5: bool) -> Self {
        Self {
            md5: md5.then(Md5::new),
            checksum: Checksum::new(kept),
            claimed: claimed
                .filter(|claimed| *claimed != kept)
                .map(Checksum::new),
        }
    }

    /// Goes on.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(claimed) = &mut self.claimed {
            claimed.update(bytes);
        }
        self.checksum.update(bytes);
    }

    /// The end.
    pub fn finish(self) -> Digested {
        Digested {
            md5: self.md5.map(|md5| md5.finalize().into()),
            checksum: self.checksum.finish(),
            claimed: self.claimed.map(|claimed| ClaimedChecksum {
                algorithm: claimed.algorithm,
                bytes: claimed.finish(),
            }),
        }
    }
}

impl Digested {
    /// What was found for an algorithm that was computed.
    pub fn of(&self, algorithm: ChecksumAlgorithm) -> &[u8] {
        match &self.claimed {
            Some(claimed) if claimed.algorithm == algorithm => &claimed.bytes,
            _ => &self.checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(ChecksumAlgorithm, &str); 5] = [
        // Check values of the CRC catalogue and of FIPS 180-4 for "123456789".
        (ChecksumAlgorithm::Crc32, "cbf43926"),
        (ChecksumAlgorithm::Crc32c, "e3069283"),
        (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
        (
            ChecksumAlgorithm::Sha1,
            "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
        ),
        (
            ChecksumAlgorithm::Sha256,
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        ),
    ];

    #[test]
    fn checksums_have_their_published_values() {
        for (algorithm, expected) in ALL {
            let mut checksum = Checksum::new(algorithm);
            checksum.update(b"1234");
            checksum.update(b"56789");
            let found = checksum.finish();
            assert_eq!(hex::encode(&found), expected, "{}", algorithm.name());
            assert_eq!(found.len(), algorithm.bytes());
        }
    }

    #[test]
    fn a_crc_of_a_whole_follows_from_its_parts() {
        for (algorithm, expected) in ALL {
            let of = |bytes: &[u8]| {
                let mut checksum = Checksum::new(algorithm);
                checksum.update(bytes);
                checksum.finish()
            };
            let combined = algorithm.combine(&of(b"1234"), &of(b"56789"), 5);
            assert_eq!(
                combined.map(hex::encode),
                algorithm.combines().then(|| expected.to_owned())
            );
        }
    }
}
