//! The contract of [`BlobStore`], as tests that every backend runs on an empty store.

use std::sync::Arc;

use crate::blob::{BlobError, BlobId, BlobReader, BlobStore};

const ID: BlobId = BlobId::from_bytes([1; BlobId::BYTES]);
const OTHER: BlobId = BlobId::from_bytes([2; BlobId::BYTES]);

/// Bytes of which no two stretches are alike.
fn pattern(length: usize) -> Vec<u8> {
    let words = (0_u64..).flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    words.take(length).collect()
}

async fn put(blobs: &dyn BlobStore, id: BlobId, content: &[u8], piece_bytes: usize) {
    let mut writer = blobs.create(id).await.expect("create");
    for piece in content.chunks(piece_bytes) {
        writer.write(piece).await.expect("write");
    }
    writer.commit().await.expect("commit");
}

async fn open(blobs: &dyn BlobStore, id: BlobId) -> Box<dyn BlobReader> {
    blobs.open(id).await.expect("open")
}

async fn missing(blobs: &dyn BlobStore, id: BlobId) -> bool {
    matches!(blobs.open(id).await.err(), Some(BlobError::NotFound(missing)) if missing == id)
}

pub(super) async fn a_committed_blob_reads_as_it_was_written(blobs: Arc<dyn BlobStore>) {
    const KIB: usize = 1024;
    let lengths = [
        1,
        64 * KIB,
        64 * KIB + 1,
        512 * KIB,
        512 * KIB + 1,
        1024 * KIB,
        1500 * KIB + 7,
    ];
    for (n, length) in (0_u8..).zip(lengths) {
        for (m, piece_bytes) in (0_u8..).zip([1000, 64 * KIB, 700 * KIB, 4096 * KIB]) {
            let mut id = [n; BlobId::BYTES];
            id[1] = m;
            let id = BlobId::from_bytes(id);
            let content = pattern(length);
            put(&*blobs, id, &content, piece_bytes).await;
            let mut reader = open(&*blobs, id).await;
            assert_eq!(reader.len(), u64::try_from(length).expect("fits"));
            assert!(
                reader.read_at(0, length).await.expect("read") == content,
                "{length} by {piece_bytes}"
            );
            let half = reader
                .read_at(u64::try_from(length / 2).expect("fits"), length / 3)
                .await;
            assert!(
                content
                    .split_at(length / 2)
                    .1
                    .starts_with(&half.expect("read"))
            );
        }
    }
}

pub(super) async fn an_empty_blob_is_a_blob(blobs: Arc<dyn BlobStore>) {
    put(&*blobs, ID, b"", 1).await;
    let mut reader = open(&*blobs, ID).await;
    assert_eq!(reader.len(), 0);
    assert_eq!(reader.read_at(0, 0).await.expect("read"), b"");
}

pub(super) async fn a_blob_is_not_there_before_its_commit(blobs: Arc<dyn BlobStore>) {
    let mut writer = blobs.create(ID).await.expect("create");
    writer.write(&pattern(2_000_000)).await.expect("write");
    assert!(missing(&*blobs, ID).await);
    writer.commit().await.expect("commit");
    assert!(!missing(&*blobs, ID).await);
}

pub(super) async fn a_dropped_writer_leaves_nothing(blobs: Arc<dyn BlobStore>) {
    for length in [10, 2_000_000] {
        let mut writer = blobs.create(ID).await.expect("create");
        writer.write(&pattern(length)).await.expect("write");
        drop(writer);
        assert!(missing(&*blobs, ID).await);
    }
}

pub(super) async fn reading_beyond_the_end_is_short(blobs: Arc<dyn BlobStore>) {
    for (id, length) in [(ID, 100), (OTHER, 1_000_000)] {
        put(&*blobs, id, &pattern(length), length).await;
        let end = u64::try_from(length).expect("fits");
        let mut reader = open(&*blobs, id).await;
        assert_eq!(
            reader.read_at(end, 0).await.expect("nothing at the end"),
            b""
        );
        for (offset, length) in [
            (end, 1),
            (0, length + 1),
            (end + 1, 0),
            (u64::MAX, 2),
            (0, usize::MAX),
        ] {
            let read = reader.read_at(offset, length).await;
            assert!(
                matches!(read, Err(BlobError::Short(short)) if short == id),
                "{offset}, {length}"
            );
        }
    }
}

pub(super) async fn reading_goes_on_after_deletion(blobs: Arc<dyn BlobStore>) {
    for length in [100, 1_000_000] {
        let content = pattern(length);
        put(&*blobs, ID, &content, length).await;
        let mut reader = open(&*blobs, ID).await;
        blobs.delete(ID).await.expect("delete");
        assert!(reader.read_at(0, length).await.expect("read") == content);
    }
}

pub(super) async fn a_deleted_blob_is_missing(blobs: Arc<dyn BlobStore>) {
    put(&*blobs, ID, b"one", 3).await;
    put(&*blobs, OTHER, b"other", 5).await;
    blobs.delete(ID).await.expect("delete");
    assert!(missing(&*blobs, ID).await);
    assert!(!missing(&*blobs, OTHER).await);
}

pub(super) async fn deleting_what_is_not_there_succeeds(blobs: Arc<dyn BlobStore>) {
    blobs.delete(ID).await.expect("never there");
    put(&*blobs, ID, b"one", 3).await;
    blobs.delete(ID).await.expect("there");
    blobs.delete(ID).await.expect("no longer there");
}

/// The collector takes what a slow writer has written so far. (A blob so small that nothing was written yet may
/// still be committed: whoever loses its record deletes the blob.)
pub(super) async fn a_writer_whose_blob_is_deleted_does_not_commit(blobs: Arc<dyn BlobStore>) {
    let mut writer = blobs.create(ID).await.expect("create");
    for _ in 0..3 {
        writer.write(&pattern(1_000_000)).await.expect("write");
    }
    blobs.delete(ID).await.expect("delete");
    writer.commit().await.expect_err("its bytes are gone");
    assert!(missing(&*blobs, ID).await);
}

pub(super) async fn two_writers_do_not_meet(blobs: Arc<dyn BlobStore>) {
    let (one, other) = (pattern(1_300_000), pattern(1_300_001).split_off(1));
    let mut writers = (
        blobs.create(ID).await.expect("create"),
        blobs.create(OTHER).await.expect("create"),
    );
    for (piece, other_piece) in one.chunks(100_000).zip(other.chunks(100_000)) {
        writers.0.write(piece).await.expect("write");
        writers.1.write(other_piece).await.expect("write");
    }
    let (first, second) = tokio::join!(writers.0.commit(), writers.1.commit());
    first.expect("commit");
    second.expect("commit");
    assert!(
        open(&*blobs, ID)
            .await
            .read_at(0, one.len())
            .await
            .expect("read")
            == one
    );
    assert!(
        open(&*blobs, OTHER)
            .await
            .read_at(0, other.len())
            .await
            .expect("read")
            == other
    );
}
