//! Sealed segments in, plaintext out.

use aws_lc_rs::aead::LessSafeKey;

use super::schedule::{segment_aad, segment_nonce};
use super::segment::Layout;
use super::{BLOB_ID_BYTES, EnvelopeError};

/// Opens the segments of one blob, in any order.
pub struct Opener {
    key: LessSafeKey,
    blob_id: [u8; BLOB_ID_BYTES],
    layout: Layout,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({:?})", self.layout)
    }
}

impl Opener {
    pub(super) fn new(
        key: LessSafeKey,
        blob_id: [u8; BLOB_ID_BYTES],
        plaintext_bytes: u64,
    ) -> Result<Self, EnvelopeError> {
        let layout = Layout::new(plaintext_bytes).ok_or(EnvelopeError::Limit("blob"))?;
        Ok(Self {
            key,
            blob_id,
            layout,
        })
    }

    /// Where the segments lie.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Opens segment `index` in place; what is left of `sealed` is its plaintext.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Unauthentic`]; `sealed` holds nothing of use then and is emptied.
    pub fn open_segment<'a>(
        &self,
        index: u64,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], EnvelopeError> {
        if sealed.len() != self.layout.sealed_segment_bytes(index) {
            return Err(EnvelopeError::Unauthentic("segment"));
        }
        let last = self.layout.is_last(index);
        self.key
            .open_in_place(
                segment_nonce(index, last),
                segment_aad(&self.blob_id),
                sealed,
            )
            .map_err(|_unspecified| EnvelopeError::Unauthentic("segment"))
    }
}
