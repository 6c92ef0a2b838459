//! The file under redb, watched.
//!
//! redb says that an input or output failed, not which. The difference matters to recovery: after a failed write the
//! file is what it was and can be opened again, after a failed flush nobody knows what is on the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// What has befallen the file; outlives one opening of it.
#[derive(Debug, Default)]
pub(super) struct Health {
    failed: AtomicBool,
    flush_failed: AtomicBool,
    #[cfg(test)]
    pub(super) fault: std::sync::Mutex<Option<Fault>>,
}

impl Health {
    /// Something failed since the last opening: redb refuses everything until the next.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// A flush failed since the process began.
    pub(super) fn flush_failed(&self) -> bool {
        self.flush_failed.load(Ordering::Acquire)
    }

    /// The file is to be opened again before it is used.
    pub(super) fn distrust(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// The file has been opened again.
    pub(super) fn trust(&self) {
        self.failed.store(false, Ordering::Release);
    }

    fn watch<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.distrust();
        }
        result
    }
}

/// What a test lets go wrong.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No write finds space.
    Full,
    /// No flush succeeds.
    Unflushable,
    /// A write panics, once.
    Panic,
}

#[cfg(test)]
impl Health {
    fn fault(&self, action: &[Fault]) -> io::Result<()> {
        let mut fault = self
            .fault
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match *fault {
            Some(Fault::Panic) if action.contains(&Fault::Panic) => {
                *fault = None;
                drop(fault);
                panic!("injected");
            }
            Some(Fault::Full) if action.contains(&Fault::Full) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(Fault::Unflushable) if action.contains(&Fault::Unflushable) => {
                Err(io::Error::other("injected"))
            }
            _ => Ok(()),
        }
    }
}

/// The database file.
#[derive(Debug)]
pub(super) struct Disk {
    file: FileBackend,
    health: Arc<Health>,
}

impl Disk {
    /// Opens the file at `path`, or makes an empty one whose name is durable.
    pub(super) fn open(path: &Path, health: Arc<Health>) -> Result<Self, DatabaseError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if file.metadata()?.len() == 0 {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self {
            file: FileBackend::new(file)?,
            health,
        })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.health.watch(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.health.watch(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.health.watch(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let flushed = self.file.sync_data();
        #[cfg(test)]
        let flushed = flushed.and(self.health.fault(&[Fault::Unflushable]));
        if flushed.is_err() {
            self.health.flush_failed.store(true, Ordering::Release);
        }
        self.health.watch(flushed)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.health
            .watch(self.health.fault(&[Fault::Full, Fault::Panic]))?;
        self.health.watch(self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
