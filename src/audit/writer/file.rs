//! The file that is appended to: opened, looked at, left for a new one, cut back after a failed write.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::Date;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{AuditSettings, timestamp};
use crate::audit::chain::{Head, Line};
use crate::audit::files::{self, Lines, Read};
use crate::audit::note::{Note, ServerId, Torn};
use crate::clock::Clock;

/// What a line has beside its record, at most.
const LINE_OVERHEAD_BYTES: u64 = 128;

const UNFLUSHED: &str = "the file before could not be flushed";

/// Why an append failed.
pub(super) struct Problem {
    /// So many of the records are in the file all the same.
    pub(super) whole: usize,
    pub(super) source: io::Error,
}

/// The file that is appended to.
#[derive(Debug)]
struct Current {
    path: PathBuf,
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// Its length as we have made it.
    bytes: u64,
    /// The day (UTC) on which it was begun.
    day: Date,
}

impl Current {
    /// What is wrong with it, if it is not as we have left it.
    fn wrong(&self) -> Option<String> {
        let name = self.path.file_name().unwrap_or_default().display();
        match std::fs::symlink_metadata(&self.path) {
            Err(error) => Some(format!("{name} cannot be seen any more: {error}")),
            Ok(found) if (found.dev(), found.ino()) != self.identity => {
                Some(format!("{name} has been replaced by another file"))
            }
            Ok(found) if found.len() != self.bytes => Some(format!(
                "{name} has been changed by somebody else: it has {} bytes, not {}",
                found.len(),
                self.bytes
            )),
            Ok(_) => None,
        }
    }
}

/// The chain's end, on the disk.
pub(super) struct Files {
    dir: PathBuf,
    server: ServerId,
    file_bytes_max: u64,
    clock: Arc<dyn Clock>,
    head: Head,
    current: Option<Current>,
    /// What the next file has to say of the one before.
    torn: Option<Torn>,
    reason: Option<String>,
    /// Keeps other processes out, for as long as it is open.
    _lock: File,
    #[cfg(test)]
    pub(super) room: Arc<std::sync::Mutex<Option<usize>>>,
    /// So many flushes fail.
    #[cfg(test)]
    pub(super) bad_syncs: Arc<std::sync::atomic::AtomicU64>,
}

impl Files {
    /// Finds the end of the chain and makes good what a crash has left.
    pub(super) fn open(
        server: ServerId,
        attested: Option<Head>,
        settings: &AuditSettings,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        files::make_dir(&settings.dir)?;
        let lock = File::open(&settings.dir)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process has this audit open",
            ),
            TryLockError::Error(error) => error,
        })?;
        let mut opened = Self {
            dir: settings.dir.clone(),
            server,
            file_bytes_max: settings.file_bytes_max,
            clock,
            head: Head::EMPTY,
            current: None,
            torn: None,
            reason: None,
            _lock: lock,
            #[cfg(test)]
            room: crate::audit::tests::room(&settings.dir),
            #[cfg(test)]
            bad_syncs: crate::audit::tests::bad_syncs(&settings.dir),
        };
        let mut rewritten = false;
        for (_, path) in files::list(&settings.dir)?.into_iter().rev() {
            let end = End::of(&path, attested)?;
            rewritten |= end.rewritten;
            let Some(head) = end.head else {
                opened.pass(&path)?;
                continue;
            };
            opened.go_on(&path, head, &end)?;
            break;
        }
        if let Some(attested) = attested {
            if opened.head.sequence < attested.sequence {
                opened.leave(format!(
                    "the metadata know of record {}, and the files end with record {}: records are missing",
                    attested.sequence, opened.head.sequence
                ));
                // Numbers are not used twice, so that the gap stays.
                opened.head = attested;
            } else if rewritten {
                opened.leave(format!(
                    "record {} has another hash than the metadata know: records were rewritten",
                    attested.sequence
                ));
            }
        }
        Ok(opened)
    }

    /// Makes way for a file in the place of one of which no line reads. A process may have died while it began it; but
    /// it may be what somebody has left of records.
    fn pass(&self, path: &Path) -> io::Result<()> {
        if std::fs::symlink_metadata(path)?.len() == 0 {
            return std::fs::remove_file(path);
        }
        let aside = files::set_aside(path)?;
        tracing::warn!(
            event = "audit.set_aside",
            file = %aside.display(),
            "nothing of a file of the audit reads; it is set aside"
        );
        files::flush_dir(&self.dir)
    }

    /// Goes on behind the end of a file.
    fn go_on(&mut self, path: &Path, head: Head, end: &End) -> io::Result<()> {
        self.head = head;
        self.torn = Torn::of(&end.rest);
        if let Some(torn) = &self.torn {
            tracing::warn!(
                event = "audit.torn",
                file = %path.display(),
                bytes = torn.bytes,
                after = head.sequence,
                "a last record was not written whole; it is set aside"
            );
        } else if end.damaged {
            self.leave("the file before does not verify".to_owned());
        } else {
            let file = OpenOptions::new().append(true).open(path)?;
            let found = file.metadata()?;
            self.current = Some(Current {
                path: path.to_owned(),
                identity: (found.dev(), found.ino()),
                bytes: found.len(),
                day: end.day.unwrap_or(Date::MIN),
                file,
            });
        }
        Ok(())
    }

    /// Leaves the current file, whatever it is, for a new one that says why.
    fn leave(&mut self, reason: String) {
        self.current = None;
        self.reason = Some(reason);
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Appends these records to the chain.
    pub(super) fn append<'r>(
        &mut self,
        records: impl Iterator<Item = &'r [u8]> + Clone,
    ) -> Result<(), Problem> {
        let bytes = records
            .clone()
            .map(|record| record.len() as u64 + LINE_OVERHEAD_BYTES);
        let current = self
            .ready(bytes.sum())
            .map_err(|source| Problem { whole: 0, source })?;
        let (mut lines, mut ends) = (Vec::new(), Vec::new());
        let mut head = self.head;
        for record in records {
            head.extend(&mut lines, record);
            ends.push((lines.len(), head));
        }
        let mut current = current;
        let (written, outcome) = self.write(&mut current, &lines);
        let Err(source) = outcome else {
            current.bytes += lines.len() as u64;
            self.head = head;
            self.current = Some(current);
            return Ok(());
        };
        let whole = ends.partition_point(|(end, _)| *end <= written);
        let kept = whole.checked_sub(1).and_then(|last| ends.get(last));
        let kept_bytes = kept.map_or(0, |(end, _)| *end);
        self.head = kept.map_or(self.head, |(_, head)| *head);
        current.bytes += kept_bytes as u64;
        if written > kept_bytes && current.file.set_len(current.bytes).is_err() {
            // An append-only file, perhaps. What is left of the line stays, and the next file says so.
            self.torn = lines.get(kept_bytes..written).and_then(Torn::of);
        } else {
            self.current = Some(current);
        }
        Err(Problem { whole, source })
    }

    /// Makes what was appended durable. After an error nobody knows what is on the disk: the file is left.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        self.sync(&current.file).inspect_err(|error| {
            self.leave(format!("{UNFLUSHED}: {error}"));
        })
    }

    /// The file for so many bytes more: the current one, unless something is wrong with it, it is full, or the day is
    /// over.
    fn ready(&mut self, bytes: u64) -> io::Result<Current> {
        if let Some(current) = self.current.take() {
            let wrong = current.wrong();
            let fits = current.bytes + bytes <= self.file_bytes_max;
            if wrong.is_none() && fits && current.day == self.clock.now().date() {
                return Ok(current);
            }
            if wrong.is_none()
                && let Err(error) = self.sync(&current.file)
            {
                // The next flush would succeed, whatever this one has lost.
                self.leave(format!("{UNFLUSHED}: {error}"));
                return Err(error);
            }
            let begun = self.begin(wrong.as_deref());
            if begun.is_err() {
                // It may be as it was when we try again.
                self.current = Some(current);
            }
            return begun;
        }
        let reason = self.reason.clone();
        let begun = self.begin(reason.as_deref())?;
        self.reason = None;
        Ok(begun)
    }

    /// Begins a new file.
    fn begin(&mut self, reason: Option<&str>) -> io::Result<Current> {
        files::make_dir(&self.dir)?;
        let now = self.clock.now();
        let note = Note::File {
            time: timestamp(now),
            server: self.server.to_string(),
            previous_hash: hex::encode(self.head.hash),
            torn: self.torn.clone(),
            reason: reason.map(str::to_owned),
        };
        let (mut line, mut head) = (Vec::new(), self.head);
        head.extend(&mut line, &note.record());
        let path = files::path(&self.dir, head.sequence);
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        let file = options.open(&path)?;
        let identity = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        let begun = identity(&file).map(|identity| Current {
            path: path.clone(),
            file,
            identity,
            bytes: line.len() as u64,
            day: now.date(),
        });
        let begun = begun.and_then(|mut current| {
            self.write(&mut current, &line).1?;
            current.file.sync_all()?;
            files::flush_dir(&self.dir)?;
            Ok(current)
        });
        if begun.is_err() {
            let _may_not_be_there = std::fs::remove_file(&path);
        } else {
            if let Some(reason) = reason {
                tracing::error!(
                    event = "audit.file_left",
                    reason,
                    "the audit goes on in a new file"
                );
            }
            self.head = head;
            self.torn = None;
        }
        begun
    }

    /// Writes all of `bytes`, and says how many were written before an error.
    fn write(&self, current: &mut Current, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.write_some(&mut current.file, rest) {
                Ok(0) => {
                    return (
                        bytes.len() - rest.len(),
                        Err(io::ErrorKind::WriteZero.into()),
                    );
                }
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (bytes.len() - rest.len(), Err(error)),
            }
        }
        (bytes.len(), Ok(()))
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the disk of a test fails")]
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    #[cfg(test)]
    fn sync(&self, file: &File) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let fails = self
            .bad_syncs
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        match fails {
            Ok(_) => Err(io::Error::other("input/output error")),
            Err(_) => file.sync_data(),
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the disk of a test has a limit")]
    fn write_some(&self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    #[cfg(test)]
    fn write_some(&self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let mut room = self.room.lock().expect("no panic");
        let Some(left) = room.as_mut() else {
            return file.write(bytes);
        };
        if *left == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = file.write(&bytes[..bytes.len().min(*left)])?;
        *left -= count;
        Ok(count)
    }
}

/// How a file ends.
#[derive(Default)]
struct End {
    /// Its last line that reads.
    head: Option<Head>,
    /// What stands behind its last line feed.
    rest: Vec<u8>,
    /// When it was begun, by its own words.
    day: Option<Date>,
    /// A line of it does not read or does not follow.
    damaged: bool,
    /// The attested record is in it with another hash.
    rewritten: bool,
}

impl End {
    fn of(path: &Path, attested: Option<Head>) -> io::Result<Self> {
        let mut end = Self::default();
        let mut lines = Lines::open(path)?;
        loop {
            let line = match lines.next()? {
                Read::Line(line) => line,
                Read::TooLong => {
                    end.damaged = true;
                    continue;
                }
                Read::Rest(rest) => {
                    end.rest = rest.to_vec();
                    return Ok(end);
                }
                Read::End => return Ok(end),
            };
            let Some(Line { head, record }) = Line::parse(line) else {
                end.damaged = true;
                continue;
            };
            if let Some(before) = end.head {
                end.damaged |= before.after(record) != head;
            } else if let Some(Note::File { time, .. }) = Note::parse(record) {
                let begun = OffsetDateTime::parse(&time, &Rfc3339).ok();
                end.day = begun.map(OffsetDateTime::date);
            }
            end.rewritten |= attested
                .is_some_and(|attested| attested.sequence == head.sequence && attested != head);
            end.head = Some(head);
        }
    }
}
