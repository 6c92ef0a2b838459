//! Plaintext in, sealed segments out.

use aws_lc_rs::aead::LessSafeKey;

use super::schedule::{segment_aad, segment_nonce};
use super::segment::{PLAINTEXT_BYTES_MAX, SEALED_SEGMENT_BYTES, SEGMENT_BYTES};
use super::{BLOB_ID_BYTES, EnvelopeError, SALT_BYTES};

/// Sealed bytes are handed out in runs of so many segments.
const RUN_SEGMENTS: usize = 4;

/// Seals one blob, front to back. Holds at most a run of segments (256 KiB).
///
/// Plaintext is copied once, into the place where it is sealed and from which it is handed out.
#[must_use = "a blob is sealed only when it is finished"]
pub struct Sealer {
    key: LessSafeKey,
    blob_id: [u8; BLOB_ID_BYTES],
    salt: [u8; SALT_BYTES],
    /// Header (in the first run) and sealed segments, then the plaintext of the segment under way.
    run: Vec<u8>,
    /// Where the segment under way begins in `run`.
    open_at: usize,
    index: u64,
    plaintext_bytes: u64,
}

/// What a finished blob is, for its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Its salt.
    pub salt: [u8; SALT_BYTES],
    /// Length of its plaintext.
    pub plaintext_bytes: u64,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer(segment {})", self.index)
    }
}

impl Sealer {
    pub(super) fn new(
        key: LessSafeKey,
        blob_id: [u8; BLOB_ID_BYTES],
        salt: [u8; SALT_BYTES],
        header: Vec<u8>,
    ) -> Self {
        let open_at = header.len();
        Self {
            key,
            blob_id,
            salt,
            run: header,
            open_at,
            index: 0,
            plaintext_bytes: 0,
        }
    }

    /// Takes plaintext from the front of `plaintext`, all of it unless a run of sealed bytes is handed out. Call
    /// again until `plaintext` is empty.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Limit`] when the blob grows beyond [`PLAINTEXT_BYTES_MAX`].
    pub fn push(&mut self, plaintext: &mut &[u8]) -> Result<Option<Vec<u8>>, EnvelopeError> {
        while !plaintext.is_empty() {
            // A full segment is sealed only when more follows: the last one is marked as such.
            if self.run.len() - self.open_at == SEGMENT_BYTES {
                self.seal_segment(false)?;
                if self.run.len() >= RUN_SEGMENTS * SEALED_SEGMENT_BYTES {
                    self.open_at = 0;
                    let next = Vec::with_capacity(RUN_SEGMENTS * SEALED_SEGMENT_BYTES);
                    return Ok(Some(std::mem::replace(&mut self.run, next)));
                }
            }
            let room = SEGMENT_BYTES - (self.run.len() - self.open_at);
            let (now, later) = plaintext.split_at(room.min(plaintext.len()));
            self.run.extend_from_slice(now);
            *plaintext = later;
            self.plaintext_bytes += now.len() as u64;
            if self.plaintext_bytes > PLAINTEXT_BYTES_MAX {
                return Err(EnvelopeError::Limit("blob"));
            }
        }
        Ok(None)
    }

    /// Seals the last segment and hands out what is left.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Limit`], never within [`PLAINTEXT_BYTES_MAX`].
    pub fn finish(mut self) -> Result<(Vec<u8>, Sealed), EnvelopeError> {
        self.seal_segment(true)?;
        let run = std::mem::take(&mut self.run);
        self.open_at = 0;
        Ok((
            run,
            Sealed {
                salt: self.salt,
                plaintext_bytes: self.plaintext_bytes,
            },
        ))
    }

    fn seal_segment(&mut self, last: bool) -> Result<(), EnvelopeError> {
        // `index` counts up from zero and is bounded by PLAINTEXT_BYTES_MAX: no nonce comes twice.
        let (_, segment) = self.run.split_at_mut(self.open_at);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                segment_nonce(self.index, last),
                segment_aad(&self.blob_id),
                segment,
            )
            .map_err(|_unspecified| EnvelopeError::Limit("segment"))?;
        self.run.extend_from_slice(tag.as_ref());
        self.open_at = self.run.len();
        self.index += 1;
        Ok(())
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        // The segment under way is plaintext.
        if let Some(plaintext) = self.run.get_mut(self.open_at..) {
            zeroize::Zeroize::zeroize(plaintext);
        }
    }
}
