//! What was done to a chain: every record read again, each change said with its file, line and sequence.
//!
//! A change is found where it is, and not again in every record behind it: after a record that does not follow from the
//! one before, the next ones are held against what the lines say of themselves. A record whose content was changed does
//! not have the hash of its line; one whose hash was changed with it lets the next one not follow.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::chain::{Head, Line, hash_of};
use super::files::{self, Lines, Read};
use super::note::{Checkpoint, Note, ServerId, Torn};

/// The most findings that are kept; of the others only the number.
pub const FINDINGS_MAX: usize = 1000;
/// A checkpoint is of one of so many records before it.
const RECENT_MAX: usize = 65_536;

/// What must be in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This record with this hash.
    Head(Head),
    /// A record with this hash.
    Hash([u8; 32]),
}

impl std::str::FromStr for Expected {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match hash_of(text) {
            Some(hash) => Ok(Self::Hash(hash)),
            None => text.parse().map(Self::Head),
        }
    }
}

/// What is wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The record that it is about, as far as that is known.
    pub sequence: Option<u64>,
    /// What.
    pub what: Wrong,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}", self.file, self.line)?;
        if let Some(sequence) = self.sequence {
            write!(f, ", record {sequence}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Ways in which a chain is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The line is no line of a chain.
    Unreadable,
    /// The record does not have the hash that its line says.
    Changed,
    /// These records should stand before this line.
    Missing {
        /// From this one,
        first: u64,
        /// to this one.
        last: u64,
    },
    /// The record stands behind a later one.
    Moved,
    /// There is a record with this sequence already.
    Inserted,
    /// The file does not begin as a file of this chain does.
    NotAFile,
    /// The file is not named by its first record.
    Misnamed,
    /// The file begins behind another record than the file before ends with.
    OtherPast,
    /// The end of the file before is not what this file says of it.
    OtherEnd,
    /// The chain is another server's from here on.
    OtherServer,
    /// The writer had found the chain damaged and says so.
    Reported(String),
    /// A checkpoint of a record that had another hash, or is not there.
    OtherCheckpoint,
    /// The HSM did not make the proof of this checkpoint.
    Forged,
    /// The chain should reach this head, and does not: its end is missing, or was made anew.
    Cut {
        /// The head.
        expected: String,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("is not a record"),
            Self::Changed => f.write_str("does not follow from the record before: it was changed, or the hash of the one before was"),
            Self::Missing { first, last } if first == last => write!(f, "record {first} is missing before it"),
            Self::Missing { first, last } => write!(f, "records {first} to {last} are missing before it"),
            Self::Moved => f.write_str("is out of its place"),
            Self::Inserted => f.write_str("was inserted: there is a record with this number already"),
            Self::NotAFile => f.write_str("the first record does not begin a file of this chain"),
            Self::Misnamed => f.write_str("the file is not named by its first record"),
            Self::OtherPast => f.write_str("the file begins behind another record than the file before ends with"),
            Self::OtherEnd => f.write_str("the end of the file before is not what this file says of it"),
            Self::OtherServer => f.write_str("the chain is another server's from here on"),
            Self::Reported(reason) => write!(f, "the server found at this point: {reason}"),
            Self::OtherCheckpoint => f.write_str("the checkpoint is of another chain than this"),
            Self::Forged => f.write_str("the HSM did not make the proof of this checkpoint"),
            Self::Cut { expected } => write!(f, "the chain does not contain {expected}: its end is missing, or was made anew"),
        }
    }
}

/// A checkpoint, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedCheckpoint {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// Itself.
    pub checkpoint: Checkpoint,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files read.
    pub files: u64,
    /// Records read.
    pub records: u64,
    /// The first record.
    pub first: Option<Head>,
    /// The last record: what an auditor notes.
    pub last: Option<Head>,
    /// Whose chain.
    pub server: Option<ServerId>,
    /// Last lines that were not written whole, and that the chain owns up to or that end it.
    pub torn: Vec<String>,
    /// Times in which records could not be written, as the chain says.
    pub gaps: Vec<String>,
    /// Files that were set aside since nothing of them reads: left by a process that died as it began them, or by
    /// somebody else.
    pub aside: Vec<String>,
    /// Checkpoints, whose proofs the HSM has to check.
    pub checkpoints: Vec<PlacedCheckpoint>,
    /// What is wrong, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub findings_in_all: usize,
}

/// Reads the chain in `dir`. `archived`: where the records end that were moved away. `expected`: what must be in it.
///
/// # Errors
///
/// When the directory or a file cannot be read.
pub fn verify(dir: &Path, archived: Option<Head>, expected: &[Expected]) -> io::Result<Verified> {
    let mut reader = Reader {
        expected: expected.to_vec(),
        archived,
        before: archived,
        ..Reader::default()
    };
    for (first, path) in files::list(dir)? {
        reader.file(first, &path)?;
    }
    reader.verified.aside = files::list_aside(dir)?;
    Ok(reader.end())
}

#[derive(Default)]
struct Reader {
    verified: Verified,
    expected: Vec<Expected>,
    archived: Option<Head>,
    /// The record before, with the highest sequence until now.
    before: Option<Head>,
    /// Hashes of the last records.
    recent: VecDeque<Head>,
    /// Missing until now, by first and last.
    missing: BTreeMap<u64, u64>,
    /// Lines that did not read, since the last that did.
    unreadable: u64,
    /// What stands behind the last line of the file before, and where.
    torn: Option<(Torn, String)>,
    name: String,
    line: u64,
}

impl Reader {
    fn file(&mut self, first: u64, path: &Path) -> io::Result<()> {
        self.name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        self.line = 0;
        self.verified.files += 1;
        let mut lines = Lines::open(path).map_err(|error| at(path, &error))?;
        loop {
            self.line += 1;
            match lines.next().map_err(|error| at(path, &error))? {
                Read::Line(line) => self.line(first, line),
                Read::TooLong => self.unreadable(),
                Read::Rest(rest) => {
                    self.torn = Torn::of(rest).map(|torn| {
                        let place = format!(
                            "{} line {}: {} bytes of a record that was not written whole",
                            self.name, self.line, torn.bytes
                        );
                        (torn, place)
                    });
                    return Ok(());
                }
                Read::End => return Ok(()),
            }
        }
    }

    fn line(&mut self, first: u64, line: &[u8]) {
        let Some(Line { head, record }) = Line::parse(line) else {
            self.unreadable();
            return;
        };
        self.verified.records += 1;
        let note = Note::parse(record);
        if self.line == 1 {
            self.begin(first, head, note.as_ref());
        }
        self.place(head, record);
        self.note(head, note);
        self.expected.retain(|expected| match expected {
            Expected::Head(wanted) => *wanted != head,
            Expected::Hash(hash) => *hash != head.hash,
        });
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(head);
    }

    fn unreadable(&mut self) {
        self.unreadable += 1;
        let before = self.before.map(|before| before.sequence);
        let sequence = before.map(|before| before.saturating_add(self.unreadable));
        self.found(sequence, Wrong::Unreadable);
    }

    /// The first line of a file.
    fn begin(&mut self, first: u64, head: Head, note: Option<&Note>) {
        if first != head.sequence {
            self.found(Some(head.sequence), Wrong::Misnamed);
        }
        let torn = self.torn.take();
        let Some(Note::File {
            server,
            previous_hash,
            torn: told,
            reason,
            ..
        }) = note
        else {
            self.found(Some(head.sequence), Wrong::NotAFile);
            return;
        };
        let is = torn.as_ref().map(|(torn, _)| torn);
        let archived = self.verified.files == 1;
        if is != told.as_ref() && !archived {
            self.found(Some(head.sequence), Wrong::OtherEnd);
        }
        self.verified.torn.extend(torn.map(|(_, place)| place));
        if let Some(reason) = reason {
            self.found(Some(head.sequence), Wrong::Reported(reason.clone()));
        }
        let server = ServerId::parse(server);
        let known = self.verified.server.or(server);
        if server.is_none() || known != server {
            self.found(Some(head.sequence), Wrong::OtherServer);
        }
        self.verified.server = server.or(known);
        let Some(previous) = hash_of(previous_hash) else {
            self.found(Some(head.sequence), Wrong::NotAFile);
            return;
        };
        let past = Head {
            sequence: head.sequence.saturating_sub(1),
            hash: previous,
        };
        match self.before {
            Some(before) if before.sequence == past.sequence && before != past => {
                self.found(Some(head.sequence), Wrong::OtherPast);
            }
            // What is missing before is said when the line is placed; the file can be verified all the same.
            Some(before) if before.sequence < past.sequence => {
                self.gap(before.sequence + 1, past.sequence, head.sequence);
                self.before = Some(past);
            }
            Some(_) => {}
            None => {
                if past.sequence > 0 {
                    self.gap(1, past.sequence, head.sequence);
                } else if past != Head::EMPTY {
                    self.found(Some(head.sequence), Wrong::OtherPast);
                }
                self.before = Some(past);
            }
        }
        // An archive may overlap with what is here; then its head is looked for instead.
        if self.verified.records == 1
            && let Some(archived) = self.archived
            && archived.sequence >= head.sequence
        {
            self.expected.push(Expected::Head(archived));
            self.before = Some(past);
        }
    }

    /// Holds a record against the one before.
    fn place(&mut self, head: Head, record: &[u8]) {
        self.verified.first.get_or_insert(head);
        let before = self.before.unwrap_or(Head::EMPTY);
        let lost = std::mem::take(&mut self.unreadable);
        if head.sequence <= before.sequence {
            let wrong = if self.fill(head.sequence) {
                Wrong::Moved
            } else {
                Wrong::Inserted
            };
            self.found(Some(head.sequence), wrong);
            return;
        }
        let next = before.sequence + 1;
        if head.sequence == next {
            if before.after(record) != head {
                self.found(Some(head.sequence), Wrong::Changed);
            }
        } else if head.sequence > next + lost {
            self.gap(next + lost, head.sequence - 1, head.sequence);
        }
        self.before = Some(head);
        self.verified.last = Some(head);
    }

    fn gap(&mut self, first: u64, last: u64, here: u64) {
        self.missing.insert(first, last);
        self.found(Some(here), Wrong::Missing { first, last });
    }

    /// Whether a record was missing until now.
    fn fill(&mut self, sequence: u64) -> bool {
        let found = self.missing.range(..=sequence).next_back();
        let Some((&first, &last)) = found.filter(|(_, last)| sequence <= **last) else {
            return false;
        };
        self.missing.remove(&first);
        if first < sequence {
            self.missing.insert(first, sequence - 1);
        }
        if sequence < last {
            self.missing.insert(sequence + 1, last);
        }
        true
    }

    fn note(&mut self, head: Head, note: Option<Note>) {
        match note {
            Some(Note::Resumed {
                time,
                since,
                lost,
                reason,
            }) => self.verified.gaps.push(format!(
                "{} line {}, record {}: {lost} records could not be written from {since} to {time}: {reason}",
                self.name, self.line, head.sequence
            )),
            Some(Note::Lost {
                first,
                last,
                lost,
                reason,
                ..
            }) => self.verified.gaps.push(format!(
                "{} line {}, record {}: {lost} records are not here, the first of {first} and the last of {last}: {reason}",
                self.name, self.line, head.sequence
            )),
            Some(note @ Note::Checkpoint { .. }) => {
                let Some(checkpoint) = note.checkpoint() else {
                    self.found(Some(head.sequence), Wrong::OtherCheckpoint);
                    return;
                };
                let is_here = self.recent.iter().rev().any(|seen| *seen == checkpoint.head)
                    || self.archived == Some(checkpoint.head);
                // What is behind the border of an archive cannot be seen, and is in its proof.
                let is_beyond = self.verified.first.is_some_and(|first| checkpoint.head.sequence < first.sequence);
                if (!is_here && !is_beyond) || Some(checkpoint.server) != self.verified.server {
                    self.found(Some(head.sequence), Wrong::OtherCheckpoint);
                }
                self.verified.checkpoints.push(PlacedCheckpoint {
                    file: self.name.clone(),
                    line: self.line,
                    checkpoint,
                });
            }
            Some(Note::File { .. } | Note::Start { .. } | Note::Stop { .. }) | None => {}
        }
    }

    fn found(&mut self, sequence: Option<u64>, what: Wrong) {
        self.verified.findings_in_all += 1;
        if self.verified.findings.len() < FINDINGS_MAX {
            self.verified.findings.push(Finding {
                file: self.name.clone(),
                line: self.line,
                sequence,
                what,
            });
        }
    }

    fn end(mut self) -> Verified {
        let torn = self.torn.take();
        self.verified.torn.extend(torn.map(|(_, place)| place));
        let sequence = self.verified.last.map(|last| last.sequence);
        for expected in std::mem::take(&mut self.expected) {
            let expected = match expected {
                Expected::Head(head) => head.to_string(),
                Expected::Hash(hash) => hex::encode(hash),
            };
            self.found(sequence, Wrong::Cut { expected });
        }
        self.verified
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    let path: PathBuf = path.to_owned();
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
