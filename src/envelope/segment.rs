//! Where segments lie: pure arithmetic on lengths and offsets.

use std::ops::Range;

use super::HEADER_BYTES;

/// Plaintext bytes of every segment but the last.
pub const SEGMENT_BYTES: usize = 64 * 1024;
/// Bytes that sealing adds to a segment.
pub const TAG_BYTES: usize = 16;
/// Sealed bytes of every segment but the last.
pub const SEALED_SEGMENT_BYTES: usize = SEGMENT_BYTES + TAG_BYTES;
/// The longest plaintext of one blob: 5 TiB, the largest object there is.
pub const PLAINTEXT_BYTES_MAX: u64 = 5 << 40;

const SEGMENT: u64 = SEGMENT_BYTES as u64;
const SEALED_SEGMENT: u64 = SEALED_SEGMENT_BYTES as u64;
const TAG: u64 = TAG_BYTES as u64;
const HEADER: u64 = HEADER_BYTES as u64;

/// Where the segments of a blob lie, from the length of its plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    plaintext: u64,
}

impl Layout {
    /// The layout of a blob of `plaintext` bytes.
    ///
    /// Returns `None` beyond [`PLAINTEXT_BYTES_MAX`].
    pub const fn new(plaintext: u64) -> Option<Self> {
        if plaintext <= PLAINTEXT_BYTES_MAX {
            Some(Self { plaintext })
        } else {
            None
        }
    }

    /// Length of the plaintext.
    pub const fn plaintext_bytes(self) -> u64 {
        self.plaintext
    }

    /// Number of segments; at least one.
    pub const fn segments(self) -> u64 {
        if self.plaintext == 0 {
            1
        } else {
            self.plaintext.div_ceil(SEGMENT)
        }
    }

    /// Length of the blob.
    pub const fn sealed_bytes(self) -> u64 {
        HEADER + self.plaintext + self.segments() * TAG
    }

    /// Whether `index` is the last segment.
    pub const fn is_last(self, index: u64) -> bool {
        index + 1 == self.segments()
    }

    /// Where segment `index` begins in the blob.
    pub const fn sealed_offset(self, index: u64) -> u64 {
        HEADER + index * SEALED_SEGMENT
    }

    /// Length of segment `index` in the blob; zero beyond the last.
    pub const fn sealed_segment_bytes(self, index: u64) -> usize {
        if index + 1 < self.segments() {
            SEALED_SEGMENT_BYTES
        } else if self.is_last(index) {
            // At most SEGMENT_BYTES + TAG_BYTES, which fits.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "bounded by the segment size"
            )]
            let last = (self.plaintext - index * SEGMENT) as usize;
            last + TAG_BYTES
        } else {
            0
        }
    }

    /// The segments that hold plaintext `range`; the range must lie within the plaintext. An empty range is held by
    /// the segment at its start, so that opening it still proves the blob.
    pub const fn segments_of(self, range: &Range<u64>) -> Range<u64> {
        let first = if range.start == self.plaintext && self.plaintext > 0 {
            (self.plaintext - 1) / SEGMENT
        } else {
            range.start / SEGMENT
        };
        let last = if range.end > range.start {
            (range.end - 1) / SEGMENT
        } else {
            first
        };
        first..last + 1
    }
}

const _: () = assert!(Layout { plaintext: 0 }.sealed_bytes() == HEADER + TAG);
const _: () = assert!(Layout { plaintext: SEGMENT }.segments() == 1);
const _: () = assert!(
    Layout {
        plaintext: SEGMENT + 1
    }
    .segments()
        == 2
);
const _: () = assert!(
    Layout {
        plaintext: SEGMENT + 1
    }
    .sealed_segment_bytes(1)
        == 1 + TAG_BYTES
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_tile_the_blob_for_every_length_around_a_border() {
        for plaintext in
            (0..3).flat_map(|n| (0..=2).map(move |d| (n * SEGMENT + d).saturating_sub(1)))
        {
            let layout = Layout::new(plaintext).expect("small");
            let mut at = HEADER;
            for index in 0..layout.segments() {
                assert_eq!(layout.sealed_offset(index), at);
                at += layout.sealed_segment_bytes(index) as u64;
            }
            assert_eq!(at, layout.sealed_bytes(), "{plaintext}");
            assert_eq!(layout.sealed_segment_bytes(layout.segments()), 0);
        }
    }

    #[test]
    fn a_range_is_held_by_the_segments_it_touches() {
        let layout = Layout::new(3 * SEGMENT).expect("small");
        assert_eq!(layout.segments_of(&(0..1)), 0..1);
        assert_eq!(layout.segments_of(&(SEGMENT - 1..SEGMENT + 1)), 0..2);
        assert_eq!(layout.segments_of(&(SEGMENT..2 * SEGMENT)), 1..2);
        assert_eq!(layout.segments_of(&(3 * SEGMENT..3 * SEGMENT)), 2..3);
        assert_eq!(Layout::new(0).expect("empty").segments_of(&(0..0)), 0..1);
    }

    #[test]
    fn the_longest_plaintext_has_a_layout_and_one_byte_more_has_none() {
        assert!(Layout::new(PLAINTEXT_BYTES_MAX).is_some());
        assert!(Layout::new(PLAINTEXT_BYTES_MAX + 1).is_none());
    }
}
