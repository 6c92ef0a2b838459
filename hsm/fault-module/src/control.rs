//! The test's side of the control file: plain writes, which every process that maps the file sees.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::RULES_MAX;
use crate::fault::{Fault, Meaningless, Rule};

/// Length of a record.
pub(crate) const RECORD_BYTES: usize = 256;
/// Where the count of calls still to strike stands in it.
pub(crate) const LEFT_AT: usize = 8;
/// Where the count of calls struck stands in it.
pub(crate) const HITS_AT: usize = 16;
/// Where its text stands.
pub(crate) const TEXT_AT: usize = 24;
/// Room for the text.
pub(crate) const TEXT_BYTES_MAX: usize = RECORD_BYTES - TEXT_AT;
/// State of a rule that strikes.
pub(crate) const ARMED: u64 = 1;
/// State of a rule that does not strike any more.
pub(crate) const LIFTED: u64 = 2;
/// Length of a control file.
pub(crate) const CONTROL_BYTES: usize = RULES_MAX * RECORD_BYTES;

/// The control file, by its one writer.
#[derive(Debug)]
pub struct Control {
    file: File,
    used: AtomicUsize,
}

/// How many calls a fault strikes, in all processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// So many.
    Only(u32),
    /// All until it is lifted.
    UntilLifted,
}

impl Control {
    /// Makes an empty control file.
    ///
    /// # Errors
    ///
    /// When there is one already, or it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path)?;
        file.set_len(u64::try_from(CONTROL_BYTES).map_err(io::Error::other)?)?;
        Ok(Self {
            file,
            used: AtomicUsize::new(0),
        })
    }

    /// Has `fault` strike calls of `functions`, named as in [`FUNCTIONS`](crate::FUNCTIONS) or `any`, from now on.
    ///
    /// Faults that are armed together all strike, in the order of arming, up to the first that answers.
    ///
    /// # Errors
    ///
    /// [`Meaningless`] when there is no such function or the fault says nothing to it; when [`RULES_MAX`] are used up;
    /// when the file cannot be written.
    pub fn arm(&self, functions: &[&str], fault: Fault, times: Times) -> io::Result<Armed<'_>> {
        let text = format!("{} {fault}", functions.join(","));
        Rule::parse(&text).map_err(io::Error::other)?;
        let index = self.used.fetch_add(1, Ordering::Relaxed);
        if index >= RULES_MAX || text.len() > TEXT_BYTES_MAX {
            return Err(io::Error::other(Meaningless(text)));
        }
        let armed = Armed {
            control: self,
            at: u64::try_from(index * RECORD_BYTES).map_err(io::Error::other)?,
        };
        let left = match times {
            Times::Only(calls) => i64::from(calls),
            Times::UntilLifted => -1,
        };
        armed.write(TEXT_AT, text.as_bytes())?;
        armed.write(LEFT_AT, &left.to_le_bytes())?;
        armed.write(0, &ARMED.to_le_bytes())?;
        Ok(armed)
    }
}

/// A fault in force. Lifted when dropped.
#[derive(Debug)]
#[must_use = "a fault is lifted when this is dropped"]
pub struct Armed<'c> {
    control: &'c Control,
    at: u64,
}

impl Armed<'_> {
    /// How many calls it has struck so far.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn hits(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.control
            .file
            .read_exact_at(&mut bytes, self.at + offset(HITS_AT)?)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Strikes no more, and lets go of calls that wait for this. Returns how many it has struck.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn lift(self) -> io::Result<u64> {
        self.write(0, &LIFTED.to_le_bytes())?;
        self.hits()
    }

    fn write(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        self.control.file.write_all_at(bytes, self.at + offset(at)?)
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        // A file that was written a moment ago can be written; if not, the test sees its fault go on.
        let _ = self.write(0, &LIFTED.to_le_bytes());
    }
}

fn offset(at: usize) -> io::Result<u64> {
    u64::try_from(at).map_err(io::Error::other)
}
