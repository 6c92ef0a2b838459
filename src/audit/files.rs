//! The files of a chain: their names, and what is in one.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::RECORD_BYTES_MAX;

/// The longest line that is read, with its line feed.
pub(super) const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;
// No record is nearly as long.
const _: () = assert!(2 * RECORD_BYTES_MAX as u64 <= LINE_BYTES_MAX);

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";
const DIGITS: usize = 20;
/// What stands behind the name of a file that was set aside, perhaps with a number.
const ASIDE: &str = ".unreadable";
/// The most files that are set aside under one name.
const ASIDE_MAX: u32 = 1000;

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

/// Sets a file aside of which nothing reads: it may be evidence. Answers its name there. What a crash leaves of that is
/// there twice.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    for number in 1..=ASIDE_MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(ASIDE);
        if number > 1 {
            name.push(format!("-{number}"));
        }
        let aside = PathBuf::from(name);
        match options.open(&aside) {
            Ok(mut copy) => {
                io::copy(&mut File::open(path)?, &mut copy)?;
                copy.sync_all()?;
                std::fs::remove_file(path)?;
                return Ok(aside);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many files are set aside"))
}

/// The names of the files that were set aside.
pub(super) fn list_aside(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let is_aside = name
            .to_str()
            .and_then(|name| name.split_once(ASIDE))
            .is_some_and(|(name, _)| first_of(OsStr::new(name)).is_some());
        if is_aside {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
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
    /// A line beyond [`LINE_BYTES_MAX`]: no server has written it so, and it is passed over.
    TooLong,
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
    /// When the file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Read<'_>> {
        self.line.clear();
        let mut bounded = (&mut self.file).take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut self.line)?;
        let is_bound = bounded.limit() == 0;
        if read == 0 {
            return Ok(Read::End);
        }
        if is_bound && !self.line.ends_with(b"\n") {
            self.file.skip_until(b'\n')?;
            return Ok(Read::TooLong);
        }
        match self.line.strip_suffix(b"\n") {
            Some(line) => Ok(Read::Line(line)),
            None => Ok(Read::Rest(&self.line)),
        }
    }
}
