//! The files of a chain: their names, and what is in one.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The longest line that is read. No record is nearly as long.
pub(super) const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";
const DIGITS: usize = 20;

/// The file whose first record has this sequence.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{first:020}{SUFFIX}"))
}

/// The sequence that a name says, if it is the name of such a file.
fn first_of(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    (digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// The files of a directory, oldest first, each with the sequence that its name says.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(first) = first_of(&entry.file_name()) {
            files.push((first, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

/// Makes the directory, with mode 0700, and its name durable.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.canonicalize()?.parent().map(flush_dir) {
        // What we may not even list, somebody else has prepared for us.
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        flushed => flushed.unwrap_or(Ok(())),
    }
}

pub(super) fn flush_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a file line by line, in bounded memory.
pub(super) struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
}

/// What [`Lines::next`] came upon.
pub(super) enum Read<'a> {
    /// A whole line, without its line feed.
    Line(&'a [u8]),
    /// What stands behind the last line feed of the file.
    Rest(&'a [u8]),
    /// Nothing more.
    End,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufReader::with_capacity(256 * 1024, File::open(path)?),
            line: Vec::new(),
        })
    }

    /// # Errors
    ///
    /// When the file cannot be read, and for a line beyond [`LINE_BYTES_MAX`].
    pub(super) fn next(&mut self) -> io::Result<Read<'_>> {
        self.line.clear();
        let mut bounded = (&mut self.file).take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(Read::End);
        }
        match self.line.strip_suffix(b"\n") {
            Some(line) => Ok(Read::Line(line)),
            None if bounded.limit() == 0 => Err(io::Error::other("a line is too long")),
            None => Ok(Read::Rest(&self.line)),
        }
    }
}
