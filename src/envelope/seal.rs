//! Plaintext in, sealed segments out.

use aws_lc_rs::aead::LessSafeKey;

use super::schedule::{segment_aad, segment_nonce};
use super::segment::{PLAINTEXT_BYTES_MAX, SEGMENT_BYTES, TAG_BYTES};
use super::{BLOB_ID_BYTES, EnvelopeError, SALT_BYTES};

/// Seals one blob, front to back. Holds one segment.
///
/// Plaintext is copied once, into the place where it is sealed and from which it is lent out: the same place for every
/// segment, so that it stays in the processor's cache.
#[must_use = "a blob is sealed only when it is finished"]
pub struct Sealer {
    key: LessSafeKey,
    blob_id: [u8; BLOB_ID_BYTES],
    salt: [u8; SALT_BYTES],
    /// Header (before the first segment), then the segment under way.
    run: Vec<u8>,
    /// Where the segment under way begins in `run`.
    open_at: usize,
    /// Everything in `run` has been lent out, and is over.
    lent: bool,
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
            lent: false,
            index: 0,
            plaintext_bytes: 0,
        }
    }

    /// Takes plaintext from the front of `plaintext`, all of it unless sealed bytes are lent out. Call again until it
    /// returns `None`.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Limit`] when the blob grows beyond [`PLAINTEXT_BYTES_MAX`].
    pub fn push(&mut self, plaintext: &mut &[u8]) -> Result<Option<&[u8]>, EnvelopeError> {
        while !plaintext.is_empty() {
            if self.lent {
                self.run.clear();
                self.open_at = 0;
                self.lent = false;
            }
            // A full segment is sealed only when more follows: the last one is marked as such.
            if self.run.len() - self.open_at == SEGMENT_BYTES {
                self.seal_segment(false)?;
                self.lent = true;
                return Ok(Some(&self.run));
            }
            let room = SEGMENT_BYTES - (self.run.len() - self.open_at);
            let (now, later) = plaintext.split_at(room.min(plaintext.len()));
            if now.len() == room {
                self.run.reserve_exact(room + TAG_BYTES);
            }
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
    ///
    /// # Panics
    ///
    /// When the last [`Sealer::push`] has lent something out: that plaintext follows would be lost.
    pub fn finish(mut self) -> Result<(Vec<u8>, Sealed), EnvelopeError> {
        // A segment is sealed only when more follows, so that a loan is never the end.
        assert!(!self.lent, "push was not called until it returned None");
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
