//! Tests of the chain: what is written, what a crash leaves, and every kind of tampering found where it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::chain::Line;
use super::files;
use super::verify::{Expected, Verified, Wrong, verify};
use super::{Audit, AuditError, AuditSettings, Checkpoint, Durability, Head, OnFailure, ServerId};
use crate::clock::{Clock as _, ShiftedClock, SystemClock};

mod limits;

/// How many bytes still fit on the disk of a test.
pub(crate) type Room = Arc<Mutex<Option<usize>>>;

/// The room on the disk of this directory: without limit, until a test sets one.
pub(crate) fn room(dir: &Path) -> Room {
    static ROOMS: Mutex<BTreeMap<PathBuf, Room>> = Mutex::new(BTreeMap::new());
    let mut rooms = ROOMS.lock().expect("no panic");
    Arc::clone(rooms.entry(dir.to_owned()).or_default())
}

/// So many flushes of the audit in this directory fail: none, until a test says so.
pub(crate) fn bad_syncs(dir: &Path) -> Arc<AtomicU64> {
    static DISKS: Mutex<BTreeMap<PathBuf, Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());
    let mut disks = DISKS.lock().expect("no panic");
    Arc::clone(disks.entry(dir.to_owned()).or_default())
}

const SERVER: ServerId = ServerId::from_bytes([7; ServerId::BYTES]);

struct Rig {
    settings: AuditSettings,
    clock: ShiftedClock,
    attested: Option<Head>,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = AuditSettings {
            dir: directory.path().join("audit"),
            durability: Durability::Interval(Duration::from_millis(20)),
            on_failure: OnFailure::Refuse,
            file_bytes_max: 1 << 20,
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_mins(1),
        };
        Self {
            settings,
            clock: noon(),
            attested: None,
            _directory: directory,
        }
    }

    /// Its day is over.
    fn end_day(&self) {
        self.clock.shift_to(to_noon() + 86_400);
    }

    fn dir(&self) -> &Path {
        &self.settings.dir
    }

    fn open(&self) -> Audit {
        Audit::open(
            SERVER,
            self.attested,
            self.settings.clone(),
            Arc::new(self.clock.clone()),
        )
        .expect("an audit")
    }

    /// A chain of `events` events that was closed in order.
    async fn chain(events: usize) -> Self {
        let rig = Self::new();
        rig.extend(events).await;
        rig
    }

    async fn extend(&self, events: usize) {
        let audit = self.open();
        for number in 0..events {
            audit.append(event(number)).await.expect("written");
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = files::list(self.dir()).expect("a directory");
        files.into_iter().map(|(_, path)| path).collect()
    }

    fn only_file(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    fn verify(&self) -> Verified {
        verify(self.dir(), None, &[]).expect("readable")
    }

    /// What is found: line, sequence, kind.
    fn found(&self) -> Vec<(u64, Option<u64>, Wrong)> {
        let found = self.verify().findings.into_iter();
        found
            .map(|finding| (finding.line, finding.sequence, finding.what))
            .collect()
    }
}

/// A clock by which it is noon: no test sees the end of a day that it does not make itself.
fn noon() -> ShiftedClock {
    let clock = ShiftedClock::default();
    clock.shift_to(to_noon());
    clock
}

fn to_noon() -> i64 {
    let now = SystemClock.now();
    43_200 - (now - now.replace_time(time::Time::MIDNIGHT)).whole_seconds()
}

fn lines_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

fn write(path: &Path, lines: &[String]) {
    fs::write(path, lines.join("\n") + "\n").expect("written");
}

fn event(number: usize) -> Vec<u8> {
    json!({ "eventName": "Decrypt", "number": number })
        .to_string()
        .into_bytes()
}

/// The line of a record behind a head.
fn line_after(head: &mut Head, record: &[u8]) -> String {
    let mut line = Vec::new();
    head.extend(&mut line, record);
    String::from_utf8(line)
        .expect("UTF-8")
        .trim_end()
        .to_owned()
}

fn head_of(line: &str) -> Head {
    Line::parse(line.as_bytes()).expect("a line").head
}

#[test]
fn a_line_is_what_the_documentation_says() {
    let mut head = Head::EMPTY;
    let first = line_after(&mut head, b"{}");
    let covered = [
        b"strongroom audit v1".as_slice(),
        &[0; 32],
        &1u64.to_be_bytes(),
        b"{}",
    ]
    .concat();
    let hash = hex::encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        &covered,
    ));
    assert_eq!(
        first,
        format!("{{\"seq\":1,\"hash\":\"{hash}\",\"record\":{{}}}}")
    );
    // Computed by another program.
    assert_eq!(
        hash,
        "c46fa5d2b736c2edab42acceacedc82451f6035b13bd4cf8e34c8d088e36588a"
    );
    let second = line_after(&mut head, b"{\"a\":1}");
    let parsed = Line::parse(second.as_bytes()).expect("a line");
    assert_eq!(
        (parsed.head, parsed.record),
        (head, b"{\"a\":1}".as_slice())
    );
    assert_eq!(head.to_string().parse(), Ok(head));
}

#[test]
fn other_spellings_of_a_line_are_none() {
    let mut head = Head::EMPTY;
    let line = line_after(&mut head, b"{}");
    assert!(Line::parse(line.as_bytes()).is_some());
    for other in [
        line.replace("\"seq\":1", "\"seq\":01"),
        line.replace("\"seq\":1", "\"seq\": 1"),
        line.replace("\"seq\":1", "\"seq\":0"),
        line.replace("\"seq\":1", "\"seq\":-1"),
        line.to_uppercase(),
        line.replace("\",\"record", "\", \"record"),
        format!(" {line}"),
        format!("{line} "),
        line[..line.len() - 2].to_owned(),
        line[..40].to_owned(),
        String::new(),
    ] {
        assert_eq!(Line::parse(other.as_bytes()), None, "{other}");
    }
}

#[tokio::test]
async fn a_chain_verifies_and_goes_on_after_a_restart() {
    let rig = Rig::chain(3).await;
    rig.extend(2).await;
    let verified = rig.verify();
    assert_eq!(verified.findings, []);
    // File, Start, 3 events; Start, 2 events.
    assert_eq!((verified.files, verified.records), (1, 8));
    assert_eq!(verified.last.expect("records").sequence, 8);
    assert_eq!(verified.server, Some(SERVER));
}

#[tokio::test]
async fn a_chain_has_one_writer_at_a_time() {
    let rig = Rig::new();
    let audit = rig.open();
    let clock = Arc::new(rig.clock.clone());
    let second = Audit::open(SERVER, None, rig.settings.clone(), clock);
    assert!(matches!(second, Err(AuditError::Unwritable(_))));
    drop(audit);
    drop(rig.open());
    assert_eq!(rig.verify().findings, []);
}

#[tokio::test]
async fn a_file_is_closed_at_its_size_and_at_the_end_of_its_day() {
    let mut rig = Rig::new();
    rig.settings.file_bytes_max = 2000;
    rig.extend(30).await;
    let by_size = rig.files().len();
    assert!(by_size >= 3, "{by_size}");
    for path in rig.files() {
        assert!(fs::metadata(path).expect("there").len() <= 2000);
    }
    rig.end_day();
    rig.extend(0).await;
    assert_eq!(rig.files().len(), by_size + 1);
    assert_eq!(rig.verify().findings, []);
}

#[tokio::test]
async fn records_of_many_callers_are_all_there_in_one_order() {
    let rig = Rig::new();
    let audit = Arc::new(rig.open());
    let callers: Vec<_> = (0..50)
        .map(|number| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move { audit.append(event(number)).await })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic").expect("written");
    }
    let verified = rig.verify();
    assert_eq!((verified.records, verified.findings_in_all), (52, 0));
}

#[tokio::test]
async fn a_changed_record_is_found_where_it_is() {
    let rig = Rig::chain(10).await;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    lines[5] = lines[5].replace("Decrypt", "Encrypt");
    write(&path, &lines);
    assert_eq!(rig.found(), [(6, Some(6), Wrong::Changed)]);
}

#[tokio::test]
async fn every_byte_of_a_record_counts() {
    let rig = Rig::chain(3).await;
    let path = rig.only_file();
    let whole = fs::read(&path).expect("there");
    let third = whole
        .split_inclusive(|byte| *byte == b'\n')
        .take(3)
        .map(<[u8]>::len)
        .sum::<usize>();
    let fourth = whole[third..]
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("a line");
    for at in third..third + fourth {
        let mut other = whole.clone();
        other[at] ^= 1;
        fs::write(&path, other).expect("written");
        let found = rig.found();
        assert!(!found.is_empty(), "byte {at}");
        assert!(matches!(found[0].0, 4 | 5), "byte {at}: {found:?}");
    }
}

#[tokio::test]
async fn a_record_changed_with_its_hash_is_found_by_the_next() {
    let rig = Rig::chain(10).await;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    let mut head = head_of(&lines[4]);
    lines[5] = line_after(&mut head, b"{\"eventName\":\"other\"}");
    write(&path, &lines);
    assert_eq!(rig.found(), [(7, Some(7), Wrong::Changed)]);
}

#[tokio::test]
async fn a_removed_record_is_found_where_it_was() {
    let rig = Rig::chain(10).await;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    lines.remove(5);
    write(&path, &lines);
    assert_eq!(
        rig.found(),
        [(6, Some(7), Wrong::Missing { first: 6, last: 6 })]
    );
}

#[tokio::test]
async fn swapped_records_are_found() {
    let rig = Rig::chain(10).await;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    lines.swap(5, 6);
    write(&path, &lines);
    let found = [
        (6, Some(7), Wrong::Missing { first: 6, last: 6 }),
        (7, Some(6), Wrong::Moved),
    ];
    assert_eq!(rig.found(), found);
}

#[tokio::test]
async fn an_inserted_record_is_found() {
    let rig = Rig::chain(10).await;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    // Once as a copy, and once as one that follows where it stands.
    let copy = lines[3].clone();
    lines.insert(6, copy);
    write(&path, &lines);
    assert_eq!(rig.found(), [(7, Some(4), Wrong::Inserted)]);
    let mut head = head_of(&lines[5]);
    lines[6] = line_after(&mut head, b"{\"eventName\":\"made up\"}");
    write(&path, &lines);
    assert_eq!(
        rig.found(),
        [(8, Some(7), Wrong::Inserted), (9, Some(8), Wrong::Changed)]
    );
}

#[tokio::test]
async fn a_line_that_is_none_is_found() {
    let rig = Rig::chain(10).await;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    lines[5] = "nothing".to_owned();
    write(&path, &lines);
    assert_eq!(rig.found(), [(6, Some(6), Wrong::Unreadable)]);
}

#[tokio::test]
async fn a_missing_file_is_found_by_the_next_and_the_rest_verifies() {
    let mut rig = Rig::new();
    rig.settings.file_bytes_max = 2000;
    rig.extend(40).await;
    let files = files::list(rig.dir()).expect("files");
    let ((first, path), (next, _)) = (&files[1], &files[2]);
    fs::remove_file(path).expect("removed");
    let missing = Wrong::Missing {
        first: *first,
        last: next - 1,
    };
    assert_eq!(rig.found(), [(1, Some(*next), missing)]);
    fs::remove_file(&files[0].1).expect("removed");
    let missing = Wrong::Missing {
        first: 1,
        last: next - 1,
    };
    assert_eq!(rig.found(), [(1, Some(*next), missing)]);
}

#[tokio::test]
async fn a_file_cut_short_is_found_by_the_next() {
    let mut rig = Rig::new();
    rig.settings.file_bytes_max = 2000;
    rig.extend(40).await;
    let files = files::list(rig.dir()).expect("files");
    let next = files[2].0;
    let mut lines = lines_of(&files[1].1);
    lines.pop();
    write(&files[1].1, &lines);
    let missing = Wrong::Missing {
        first: next - 1,
        last: next - 1,
    };
    assert_eq!(rig.found(), [(1, Some(next), missing.clone())]);
    // Cut within a record it has an end that the next file knows nothing of, too.
    let text = fs::read_to_string(&files[1].1).expect("there");
    fs::write(&files[1].1, &text[..text.len() - 5]).expect("written");
    let found = rig.found();
    assert_eq!(found[0], (1, Some(next), Wrong::OtherEnd));
    assert!(matches!(found[1].2, Wrong::Missing { .. }));
}

#[tokio::test]
async fn a_cut_end_is_found_against_a_noted_head() {
    let rig = Rig::chain(10).await;
    let path = rig.only_file();
    let noted = rig.verify().last.expect("records");
    let by = |expected| {
        verify(rig.dir(), None, &[expected])
            .expect("readable")
            .findings
    };
    assert_eq!(by(Expected::Head(noted)), []);
    assert_eq!(by(Expected::Hash(noted.hash)), []);
    let mut lines = lines_of(&path);
    lines.truncate(9);
    write(&path, &lines);
    assert_eq!(rig.found(), [], "the chain alone cannot know");
    for expected in [Expected::Head(noted), Expected::Hash(noted.hash)] {
        let found = by(expected);
        assert!(
            matches!(found[..], [ref cut] if matches!(cut.what, Wrong::Cut { .. })),
            "{found:?}"
        );
        assert_eq!(found[0].sequence, Some(9));
    }
    // Nor does a chain that was made anew from there pass.
    let mut head = head_of(&lines[8]);
    lines.extend((0..5).map(|number| line_after(&mut head, &event(number))));
    write(&path, &lines);
    assert_eq!(rig.found(), []);
    assert_eq!(by(Expected::Head(noted)).len(), 1);
}

#[tokio::test]
async fn a_cut_end_that_the_metadata_know_stays_a_gap_after_a_restart() {
    let mut rig = Rig::chain(10).await;
    rig.attested = rig.verify().last;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    lines.truncate(9);
    write(&path, &lines);
    rig.extend(3).await;
    let found = rig.verify().findings;
    assert!(matches!(found[0].what, Wrong::Reported(_)), "{found:?}");
    assert_eq!(
        found[1].what,
        Wrong::Missing {
            first: 10,
            last: 12
        }
    );
    assert_eq!(found.len(), 2, "the rest verifies");
    // So it does when all files are gone.
    for path in rig.files() {
        fs::remove_file(path).expect("removed");
    }
    rig.extend(1).await;
    let found = rig.verify().findings;
    assert_eq!(found[1].what, Wrong::Missing { first: 1, last: 12 });
}

#[tokio::test]
async fn records_made_anew_are_found_by_the_metadata_at_the_next_start() {
    let mut rig = Rig::chain(10).await;
    let path = rig.only_file();
    let mut lines = lines_of(&path);
    rig.attested = Some(head_of(&lines[9]));
    let mut head = head_of(&lines[5]);
    lines.truncate(6);
    lines.extend((0..8).map(|number| line_after(&mut head, &event(number))));
    write(&path, &lines);
    rig.extend(1).await;
    let found = rig.verify().findings;
    assert!(
        matches!(&found[..], [one] if matches!(one.what, Wrong::Reported(_))),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_torn_last_line_is_set_aside_and_the_chain_goes_on() {
    let rig = Rig::chain(5).await;
    let path = rig.only_file();
    let whole = fs::read(&path).expect("there");
    // Killed within the last record, and after it but for its line feed.
    for cut in [40, 1] {
        fs::write(&path, &whole[..whole.len() - cut]).expect("written");
        let verified = rig.verify();
        assert_eq!(
            (verified.findings_in_all, verified.torn.len()),
            (0, 1),
            "as it stands"
        );
        rig.extend(2).await;
        let verified = rig.verify();
        assert_eq!(
            (verified.findings, verified.torn.len(), verified.files),
            (vec![], 1, 2)
        );
        assert_eq!(verified.last.expect("records").sequence, 6 + 4);
        // What was set aside cannot be changed or taken away either.
        fs::write(&path, &whole[..whole.len() - cut - 1]).expect("written");
        assert_eq!(rig.found(), [(1, Some(7), Wrong::OtherEnd)]);
        fs::remove_file(&rig.files()[1]).expect("removed");
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_record_and_heals_by_itself() {
    let rig = Rig::new();
    let room = room(rig.dir());
    let audit = rig.open();
    audit.append(event(1)).await.expect("room");
    // Half a line still fits.
    *room.lock().expect("no panic") = Some(60);
    let error = audit.append(event(2)).await.expect_err("full");
    assert!(matches!(error, AuditError::Unwritable(_)), "{error}");
    assert!(matches!(audit.check(), Err(AuditError::Failing(_))));
    assert!(audit.stats().is_failing);
    assert!(audit.flush().await.is_err());
    assert_eq!(
        rig.verify().torn.len(),
        0,
        "what was written of it is cut off again"
    );
    *room.lock().expect("no panic") = None;
    for _ in 0..100 {
        if audit.check().is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    audit.check().expect("healed");
    audit.append(event(3)).await.expect("room");
    let verified = rig.verify();
    assert_eq!((verified.findings, verified.gaps.len()), (vec![], 1));
    assert!(
        verified.gaps[0].contains(": 1 records could not be written"),
        "{:?}",
        verified.gaps
    );
}

#[tokio::test]
async fn key_use_goes_on_without_records_if_the_settings_say_so() {
    let mut rig = Rig::new();
    rig.settings.on_failure = OnFailure::Continue;
    let room = room(rig.dir());
    let audit = rig.open();
    *room.lock().expect("no panic") = Some(0);
    for number in 0..3 {
        audit.append(event(number)).await.expect("goes on");
        audit.check().expect("goes on");
    }
    assert_eq!(audit.stats().lost, 3);
    *room.lock().expect("no panic") = None;
    audit.append(event(4)).await.expect("room");
    let verified = rig.verify();
    assert!(
        verified.gaps[0].contains(": 3 records could not be written"),
        "{:?}",
        verified.gaps
    );
}

#[tokio::test]
async fn what_was_said_to_be_lost_is_not_said_again() {
    let mut rig = Rig::new();
    rig.settings.on_failure = OnFailure::Continue;
    let room = room(rig.dir());
    let audit = rig.open();
    *room.lock().expect("no panic") = Some(0);
    assert!(!audit.append(event(1)).await.expect("goes on"));
    // For what was lost, and not for what comes behind it.
    *room.lock().expect("no panic") = Some(1000);
    let long = json!({ "eventName": "x".repeat(2000) }).to_string();
    assert!(!audit.append(long.into_bytes()).await.expect("goes on"));
    *room.lock().expect("no panic") = None;
    assert!(audit.append(event(3)).await.expect("room"));
    let verified = rig.verify();
    assert_eq!((verified.findings, verified.gaps.len()), (vec![], 2));
    for gap in &verified.gaps {
        assert!(gap.contains(": 1 records could not be written"), "{gap}");
    }
}

#[tokio::test]
async fn a_file_that_is_taken_away_or_touched_is_noticed_before_the_next_record() {
    let rig = Rig::new();
    let audit = rig.open();
    audit.append(event(1)).await.expect("written");
    fs::remove_file(rig.only_file()).expect("removed");
    audit.append(event(2)).await.expect("written");
    let path = rig.only_file();
    let mut more = fs::read(&path).expect("there");
    more.extend_from_slice(b"more\n");
    fs::write(&path, more).expect("written");
    audit.append(event(3)).await.expect("written");
    let found = rig.found();
    assert!(
        found.contains(&(1, Some(4), Wrong::Missing { first: 1, last: 3 })),
        "{found:?}"
    );
    assert!(
        found.contains(&(3, Some(6), Wrong::Unreadable)),
        "{found:?}"
    );
    let reported = found
        .iter()
        .filter(|(_, _, what)| matches!(what, Wrong::Reported(_)));
    assert_eq!(reported.count(), 2, "{found:?}");
}

#[tokio::test]
async fn a_checkpoint_is_of_a_record_of_this_chain() {
    let rig = Rig::new();
    let audit = rig.open();
    audit.append(event(1)).await.expect("written");
    let standing = audit.flush().await.expect("flushed");
    assert_eq!((standing.head.sequence, standing.wanting), (3, 2));
    let mut checkpoint = Checkpoint {
        server: SERVER,
        head: standing.head,
        proof: vec![1, 2, 3],
    };
    audit.append_checkpoint(&checkpoint).await.expect("written");
    assert_eq!(audit.stats().unattested, 2);
    audit.attested(standing.wanting);
    assert_eq!(audit.stats().unattested, 0);
    let verified = rig.verify();
    assert_eq!(verified.findings, []);
    assert_eq!(verified.checkpoints[0].checkpoint, checkpoint);
    checkpoint.head.hash[0] ^= 1;
    audit.append_checkpoint(&checkpoint).await.expect("written");
    assert_eq!(rig.found(), [(5, Some(5), Wrong::OtherCheckpoint)]);
}

#[tokio::test]
async fn a_checkpoint_is_due_at_the_first_record_and_after_so_many() {
    let mut rig = Rig::new();
    rig.settings.checkpoint_records = 5;
    let audit = rig.open();
    let soon = Duration::from_millis(200);
    tokio::time::timeout(soon, audit.checkpoint_due())
        .await
        .expect("at the start");
    audit.attested(audit.flush().await.expect("flushed").wanting);
    for number in 0..4 {
        audit.append(event(number)).await.expect("written");
    }
    tokio::time::timeout(soon, audit.checkpoint_due())
        .await
        .expect_err("not yet");
    audit.append(event(5)).await.expect("written");
    tokio::time::timeout(soon, audit.checkpoint_due())
        .await
        .expect("after five");
}

#[tokio::test]
async fn an_archive_is_gone_on_from() {
    let mut rig = Rig::new();
    rig.settings.file_bytes_max = 2000;
    rig.extend(40).await;
    let files = files::list(rig.dir()).expect("files");
    let last = lines_of(&files[1].1).pop().expect("a line");
    let archived = head_of(&last);
    let by = |archived| {
        verify(rig.dir(), Some(archived), &[])
            .expect("readable")
            .findings
    };
    assert_eq!(by(archived), [], "still here");
    for (_, path) in &files[..2] {
        fs::remove_file(path).expect("moved");
    }
    assert_eq!(by(archived), []);
    let other = Head {
        hash: [1; 32],
        ..archived
    };
    assert!(!by(other).is_empty());
}

#[tokio::test]
async fn records_are_flushed_as_the_settings_say() {
    let mut rig = Rig::new();
    rig.settings.durability = Durability::Always;
    let audit = rig.open();
    for number in 0..3 {
        audit.append(event(number)).await.expect("written");
    }
    assert_eq!(audit.stats().flushes, 3);
    drop(audit);
    rig.settings.durability = Durability::Interval(Duration::from_millis(300));
    let audit = rig.open();
    for number in 0..50 {
        audit.append(event(number)).await.expect("written");
    }
    let early = audit.stats().flushes;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(early <= 1 && audit.stats().flushes > early, "{early}");
}

#[test]
fn filters_take_what_is_meant() {
    use super::query::{Filter, Wanted};
    let event: Value = json!({
        "eventTime": "2026-11-24T12:00:00Z",
        "eventName": "Decrypt",
        "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::1:user/ann", "userName": "ann", "accessKeyId": "AKIA1" },
        "requestParameters": { "keyId": "alias/a", "encryptionContext": { "aws:s3:arn": "arn:aws:s3:::vault/a/b" } },
        "resources": [{ "ARN": "arn:aws:kms:r:1:key/k1" }],
        "errorCode": "AccessDenied",
    });
    let some = |text: &str| Some(text.to_owned());
    let takes = |filter: Filter| filter.takes(&event);
    let base = Filter::default;
    for key in ["alias/a", "k1", "arn:aws:kms:r:1:key/k1"] {
        assert!(
            takes(Filter {
                key: some(key),
                ..base()
            }),
            "{key}"
        );
    }
    assert!(!takes(Filter {
        key: some("k"),
        ..base()
    }));
    for who in ["ann", "arn:aws:iam::1:user/ann", "AKIA1"] {
        assert!(
            takes(Filter {
                principal: some(who),
                ..base()
            }),
            "{who}"
        );
    }
    assert!(!takes(Filter {
        principal: some("bob"),
        ..base()
    }));
    for object in ["vault/a/b", "vault/a*", "vault*", "arn:aws:s3:::vault/*"] {
        assert!(
            takes(Filter {
                object: some(object),
                ..base()
            }),
            "{object}"
        );
    }
    assert!(!takes(Filter {
        object: some("vault/a"),
        ..base()
    }));
    let object = |object: &str| Filter {
        object: some(object),
        ..base()
    };
    let by_key = |key: &str| Filter {
        key: some(key),
        ..base()
    };
    let by = |principal: &str| Filter {
        principal: some(principal),
        ..base()
    };
    let rule = json!({ "ApplyServerSideEncryptionByDefault": { "KMSMasterKeyID": "alias/x" } });
    for (filter, event) in [
        (
            object("vault"),
            json!({ "resources": [{ "ARN": "arn:aws:s3:::vault" }] }),
        ),
        (
            by_key("alias/x"),
            json!({ "requestParameters": { "fromKeyId": "alias/x", "toKeyId": "alias/y" } }),
        ),
        (
            by_key("alias/y"),
            json!({ "requestParameters": { "fromKeyId": "alias/x", "toKeyId": "alias/y" } }),
        ),
        (
            by_key("alias/x"),
            json!({ "requestParameters": { "ServerSideEncryptionConfiguration": { "Rule": [rule] } } }),
        ),
        (
            by("AKIA2"),
            json!({ "serviceEventDetails": { "accessKeys": [{ "accessKeyId": "AKIA2" }] } }),
        ),
        (
            by("AKIA2"),
            json!({ "responseElements": { "accessKey": { "accessKeyId": "AKIA2" } } }),
        ),
    ] {
        assert!(filter.takes(&event), "{filter:?} {event}");
    }
    assert!(takes(Filter {
        since: some("2026-11-24"),
        until: some("2026-11-25"),
        ..base()
    }));
    assert!(!takes(Filter {
        until: some("2026-11-24"),
        ..base()
    }));
    for (outcome, taken) in [
        ("denied", true),
        ("failure", true),
        ("AccessDenied", true),
        ("success", false),
    ] {
        assert_eq!(
            takes(Filter {
                outcome: Some(Wanted::from(outcome)),
                ..base()
            }),
            taken,
            "{outcome}"
        );
    }
}
