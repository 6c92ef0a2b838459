//! Blobs as files of a directory.
//!
//! ```text
//! <dir>/tmp/<id>           while it is written
//! <dir>/<xx>/<id>          committed; xx is the first byte of the id; all in lower-case hex
//! ```
//!
//! A commit flushes the file, renames it into place and flushes the directory, in that order. Nothing else makes a
//! name outside `tmp`, so what is found there is whole. `tmp` is not read: whoever began a blob knows its id and
//! deletes it ([`BlobStore::delete`] looks in both places).
//!
//! File operations block. They run on the runtime's blocking pool, by [`off_runtime`] only; a small blob is written
//! and committed in a single trip, and read in a single one.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::task::{JoinError, JoinHandle};

use super::{BlobError, BlobId, BlobReader, BlobStore, BlobWriter};

/// A writer collects so many bytes before it sends them to the file. It holds twice as many at most: those on their
/// way and those that come.
const BATCH_BYTES: usize = 512 * 1024;
/// A blob of at most this length is read when it is opened, and is written without a full-sized buffer.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Blobs in a directory of this server.
#[derive(Clone)]
pub struct FsBlobs {
    dir: Arc<Directory>,
}

impl FsBlobs {
    /// Opens the directory `dir`, made with mode 0700 if absent. Blocks.
    ///
    /// # Errors
    ///
    /// [`BlobError::Storage`], [`BlobError::Full`].
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        let dir = Directory::open(dir).map_err(failed("opening the directory"))?;
        Ok(Self { dir: Arc::new(dir) })
    }
}

impl fmt::Debug for FsBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FsBlobs({})", self.dir.root.display())
    }
}

#[async_trait]
impl BlobStore for FsBlobs {
    async fn create(&self, id: BlobId) -> Result<Box<dyn BlobWriter>, BlobError> {
        Ok(Box::new(FsWriter {
            dir: Arc::clone(&self.dir),
            id,
            collected: Vec::new(),
            file: Progress::NotBegun,
        }))
    }

    async fn open(&self, id: BlobId) -> Result<Box<dyn BlobReader>, BlobError> {
        let dir = Arc::clone(&self.dir);
        let opened = done(
            off_runtime(move || FsReader::open(&dir, id)),
            "opening a blob",
        )
        .await;
        match opened {
            Err(BlobError::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(BlobError::NotFound(id))
            }
            opened => Ok(Box::new(opened?)),
        }
    }

    async fn delete(&self, id: BlobId) -> Result<(), BlobError> {
        let dir = Arc::clone(&self.dir);
        done(off_runtime(move || dir.delete(id)), "deleting a blob").await
    }
}

/// The layout, and how it is made durable.
struct Directory {
    root: PathBuf,
    pending: PathBuf,
    /// Subdirectories whose names this process has made durable, by first byte of the id.
    durable: Mutex<BTreeSet<u8>>,
}

impl Directory {
    fn open(root: &Path) -> io::Result<Self> {
        let pending = root.join("tmp");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&pending)?;
        flush_directory(root)?;
        if let Some(parent) = root.canonicalize()?.parent() {
            match flush_directory(parent) {
                // What we may not even list, somebody else has prepared for us.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                flushed => flushed?,
            }
        }
        Ok(Self {
            root: root.to_path_buf(),
            pending,
            durable: Mutex::default(),
        })
    }

    fn pending(&self, id: BlobId) -> PathBuf {
        self.pending.join(id.to_string())
    }

    fn committed(&self, id: BlobId) -> PathBuf {
        self.subdirectory(id).join(id.to_string())
    }

    fn subdirectory(&self, id: BlobId) -> PathBuf {
        let [first, ..] = id.as_bytes();
        self.root.join(hex::encode([*first]))
    }

    fn durable(&self) -> MutexGuard<'_, BTreeSet<u8>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the flushed file of `id` into place, durably.
    fn place(&self, id: BlobId) -> io::Result<()> {
        let [first, ..] = id.as_bytes();
        let subdirectory = self.subdirectory(id);
        // Once in this process for each, whoever made it: its maker may have died before the flush.
        if !self.durable().contains(first) {
            match DirBuilder::new().mode(0o700).create(&subdirectory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => flush_directory(&self.root)?,
            }
            self.durable().insert(*first);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that gives a blob its name"
        )]
        std::fs::rename(self.pending(id), self.committed(id))?;
        flush_directory(&subdirectory)
    }

    fn delete(&self, id: BlobId) -> io::Result<()> {
        if unlink(&self.pending(id))? {
            flush_directory(&self.pending)?;
        }
        unlink(&self.committed(id))?;
        // Even if the name was gone: an earlier deletion may have failed to flush.
        match flush_directory(&self.subdirectory(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            flushed => flushed,
        }
    }
}

/// Whether there was such a file.
fn unlink(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn flush_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes one blob. The next bytes are collected while the last are written.
struct FsWriter {
    dir: Arc<Directory>,
    id: BlobId,
    collected: Vec<u8>,
    file: Progress,
}

enum Progress {
    /// All there is has been collected; there is no file.
    NotBegun,
    /// The file takes bytes, or has taken them, and hands back their buffer.
    Writing(JoinHandle<io::Result<(PendingFile, Vec<u8>)>>),
    /// Bytes are lost, or it is over.
    Ended,
}

#[async_trait]
impl BlobWriter for FsWriter {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = BATCH_BYTES - self.collected.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            if self.collected.len() + now.len() > SMALL_BYTES_MAX {
                self.collected.reserve_exact(room);
            }
            self.collected.extend_from_slice(now);
            rest = later;
            if self.collected.len() == BATCH_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), BlobError> {
        let begun = self.settle().await?;
        self.file = Progress::Ended;
        let file = begun.map(|(file, _buffer)| file);
        let (dir, id, last) = (
            Arc::clone(&self.dir),
            self.id,
            mem::take(&mut self.collected),
        );
        let committing = off_runtime(move || {
            let mut file = file.map_or_else(|| PendingFile::create(&dir, id), Ok)?;
            file.file.write_all(&last)?;
            file.file.sync_data()?;
            dir.place(id)?;
            file.placed = true;
            Ok(())
        });
        done(committing, "committing a blob").await
    }
}

impl FsWriter {
    /// Sends what is collected on its way to the file.
    async fn send(&mut self) -> Result<(), BlobError> {
        let begun = self.settle().await?;
        let (dir, id) = (Arc::clone(&self.dir), self.id);
        let (file, spare) = match begun {
            Some((file, spare)) => (Some(file), spare),
            None => (None, Vec::with_capacity(BATCH_BYTES)),
        };
        let mut batch = mem::replace(&mut self.collected, spare);
        self.file = Progress::Writing(off_runtime(move || {
            let mut file = file.map_or_else(|| PendingFile::create(&dir, id), Ok)?;
            file.file.write_all(&batch)?;
            batch.clear();
            Ok((file, batch))
        }));
        Ok(())
    }

    /// Waits for the bytes on their way. The file, if there is one, and a spare buffer. When the caller stops waiting
    /// nothing is lost: the handle stays.
    async fn settle(&mut self) -> Result<Option<(PendingFile, Vec<u8>)>, BlobError> {
        let settled = match &mut self.file {
            Progress::NotBegun => return Ok(None),
            Progress::Writing(writing) => done(writing, "writing a blob").await,
            Progress::Ended => Err(failed("writing after a failure")(
                io::ErrorKind::BrokenPipe.into(),
            )),
        };
        self.file = Progress::Ended;
        settled.map(Some)
    }
}

/// A file in `tmp`; unlinked on drop, unless it has been placed. It travels into the blocking pool and back, and
/// is dropped there when nobody waits for it any more.
struct PendingFile {
    file: File,
    path: PathBuf,
    placed: bool,
}

impl PendingFile {
    fn create(dir: &Directory, id: BlobId) -> io::Result<Self> {
        let path = dir.pending(id);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            file,
            path,
            placed: false,
        })
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        // At best: what stays is deleted by whoever knows the id.
        if !self.placed
            && let Err(error) = unlink(&self.path)
        {
            tracing::warn!(event = "blob.unlink_failed", path = %self.path.display(), error = %error);
        }
    }
}

impl Drop for FsWriter {
    fn drop(&mut self) {
        if let Progress::Writing(writing) = mem::replace(&mut self.file, Progress::Ended)
            && tokio::runtime::Handle::try_current().is_ok()
        {
            // To unlink a large file takes a while.
            drop(off_runtime(move || drop(writing)));
        }
    }
}

/// Reads one blob.
struct FsReader {
    id: BlobId,
    len: u64,
    content: Content,
}

enum Content {
    Small(Vec<u8>),
    Large(Arc<File>),
}

impl FsReader {
    fn open(dir: &Directory, id: BlobId) -> io::Result<Self> {
        let file = File::open(dir.committed(id))?;
        let len = file.metadata()?.len();
        let content = match usize::try_from(len) {
            Ok(length) if length <= SMALL_BYTES_MAX => {
                Content::Small(read_exact(&file, 0, length)?)
            }
            _ => Content::Large(Arc::new(file)),
        };
        Ok(Self { id, len, content })
    }
}

#[async_trait]
impl BlobReader for FsReader {
    fn len(&self) -> u64 {
        self.len
    }

    async fn read_at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, BlobError> {
        // Before any memory is taken: the length comes from a record.
        let end = u64::try_from(length)
            .ok()
            .and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| end > self.len) {
            return Err(BlobError::Short(self.id));
        }
        let file = match &self.content {
            Content::Small(bytes) => {
                let from = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| bytes.get(offset..));
                let slice = from.and_then(|bytes| bytes.get(..length));
                return slice.map(<[u8]>::to_vec).ok_or(BlobError::Short(self.id));
            }
            Content::Large(file) => Arc::clone(file),
        };
        match done(
            off_runtime(move || read_exact(&file, offset, length)),
            "reading a blob",
        )
        .await
        {
            Err(BlobError::Storage { source, .. })
                if source.kind() == io::ErrorKind::UnexpectedEof =>
            {
                Err(BlobError::Short(self.id))
            }
            read => read,
        }
    }
}

fn read_exact(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Runs what blocks on the pool that is there for it. It runs to its end even if nobody waits.
fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "the named helper for files")]
    tokio::task::spawn_blocking(work)
}

/// The result of such work.
async fn done<T>(
    work: impl Future<Output = Result<io::Result<T>, JoinError>>,
    action: &'static str,
) -> Result<T, BlobError> {
    work.await
        .unwrap_or_else(|died| Err(io::Error::other(died)))
        .map_err(failed(action))
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> BlobError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::Full(source),
        _ => BlobError::Storage { action, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Store {
        blobs: Arc<FsBlobs>,
        dir: tempfile::TempDir,
    }

    fn store() -> Store {
        let dir = tempfile::tempdir().expect("directory");
        let blobs = Arc::new(FsBlobs::open(&dir.path().join("blobs")).expect("open"));
        Store { blobs, dir }
    }

    const ID: BlobId = BlobId::from_bytes([0xA5; BlobId::BYTES]);

    async fn write(store: &Store, lengths: &[usize]) -> Box<dyn BlobWriter> {
        let mut writer = store.blobs.create(ID).await.expect("create");
        for length in lengths {
            writer.write(&vec![7; *length]).await.expect("write");
        }
        writer
    }

    /// Names in `tmp`, once it is empty or a second has passed.
    async fn pending(store: &Store) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..100 {
            let files = std::fs::read_dir(store.dir.path().join("blobs/tmp")).expect("tmp");
            names = files
                .flatten()
                .map(|file| file.file_name().to_string_lossy().into_owned())
                .collect();
            if names.is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        names
    }

    macro_rules! conforms {
        ($($name:ident)*) => { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let store = store();
                crate::blob::conformance::$name(store.blobs.clone()).await;
            }
        )* };
    }

    conforms! {
        a_committed_blob_reads_as_it_was_written
        an_empty_blob_is_a_blob
        a_blob_is_not_there_before_its_commit
        a_dropped_writer_leaves_nothing
        reading_beyond_the_end_is_short
        reading_goes_on_after_deletion
        a_deleted_blob_is_missing
        deleting_what_is_not_there_succeeds
        a_writer_whose_blob_is_deleted_does_not_commit
        two_writers_do_not_meet
    }

    #[tokio::test]
    async fn a_dropped_writer_unlinks_its_file() {
        let store = store();
        let writer = write(&store, &[BATCH_BYTES + 1]).await;
        drop(writer);
        assert_eq!(pending(&store).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_writer_dropped_outside_the_runtime_unlinks_its_file() {
        let store = store();
        let writer = write(&store, &[BATCH_BYTES, BATCH_BYTES]).await;
        std::thread::spawn(move || drop(writer))
            .join()
            .expect("join");
        assert_eq!(pending(&store).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_committed_blob_leaves_no_pending_name() {
        for lengths in [vec![1], vec![BATCH_BYTES, 1]] {
            let store = store();
            write(&store, &lengths)
                .await
                .commit()
                .await
                .expect("commit");
            assert_eq!(pending(&store).await, Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn files_and_directories_are_for_their_owner_only() {
        let store = store();
        write(&store, &[1]).await.commit().await.expect("commit");
        let root = store.dir.path().join("blobs");
        let file = store.blobs.dir.committed(ID);
        for (path, wanted) in [
            (root.clone(), 0o700),
            (root.join("tmp"), 0o700),
            (root.join("a5"), 0o700),
            (file, 0o600),
        ] {
            let mode = std::fs::metadata(&path)
                .expect("metadata")
                .permissions()
                .mode()
                & 0o777;
            assert_eq!(mode, wanted, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn a_committed_blob_is_there_after_opening_again() {
        let store = store();
        write(&store, &[3]).await.commit().await.expect("commit");
        let again = FsBlobs::open(&store.dir.path().join("blobs")).expect("open");
        assert_eq!(again.open(ID).await.expect("open").len(), 3);
    }

    #[tokio::test]
    async fn what_a_dead_writer_left_is_deleted() {
        let store = store();
        let left = store.blobs.dir.pending(ID);
        std::fs::write(&left, "left").expect("write");
        store.blobs.delete(ID).await.expect("delete");
        assert_eq!(pending(&store).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_file_that_shrinks_while_it_is_read_is_short() {
        let store = store();
        write(&store, &[SMALL_BYTES_MAX + 1])
            .await
            .commit()
            .await
            .expect("commit");
        let mut reader = store.blobs.open(ID).await.expect("open");
        let file = OpenOptions::new()
            .write(true)
            .open(store.blobs.dir.committed(ID))
            .expect("file");
        file.set_len(10).expect("cut");
        let read = reader.read_at(5, 10).await;
        assert!(matches!(read, Err(BlobError::Short(ID))), "{read:?}");
    }

    #[tokio::test]
    async fn a_writer_is_of_no_use_after_a_failure() {
        let store = store();
        std::fs::write(store.blobs.dir.pending(ID), "in the way").expect("write");
        let mut writer = store.blobs.create(ID).await.expect("create");
        let batch = vec![7; BATCH_BYTES];
        writer.write(&batch).await.expect("on its way");
        writer.write(&batch).await.expect_err("in the way");
        std::fs::remove_file(store.blobs.dir.pending(ID)).expect("remove");
        writer.write(&batch).await.expect_err("bytes are lost");
        writer.commit().await.expect_err("bytes are lost");
        assert!(matches!(
            store.blobs.open(ID).await.err(),
            Some(BlobError::NotFound(ID))
        ));
    }

    #[test]
    fn no_space_and_no_quota_are_full() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert!(matches!(failed("testing")(kind.into()), BlobError::Full(_)));
        }
    }
}
