//! What is too long, what does not read, and disks that lie or hang.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Rig, bad_syncs, event, room};
use crate::audit::files::{self, Lines, Read};
use crate::audit::query::{Filter, query};
use crate::audit::verify::Wrong;
use crate::audit::{AuditError, Durability, OnFailure};

fn line_bytes_max() -> usize {
    usize::try_from(files::LINE_BYTES_MAX).expect("short")
}

#[test]
fn lines_are_read_in_bounded_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("long");
    let max = line_bytes_max();
    fs::write(&path, [vec![b'a'; max - 1], b"\n".to_vec()].concat()).expect("written");
    assert!(
        matches!(Lines::open(&path).expect("there").next(), Ok(Read::Line(line)) if line.len() == max - 1)
    );
    for long in [max, 3 * max] {
        let long = [vec![b'a'; long], b"\nshort\n".to_vec()].concat();
        fs::write(&path, long).expect("written");
        let mut lines = Lines::open(&path).expect("there");
        assert!(matches!(lines.next(), Ok(Read::TooLong)));
        assert!(matches!(lines.next(), Ok(Read::Line(b"short"))));
        assert!(matches!(lines.next(), Ok(Read::End)));
    }
    fs::write(&path, vec![b'a'; max + 1]).expect("written");
    let mut lines = Lines::open(&path).expect("there");
    assert!(matches!(lines.next(), Ok(Read::TooLong)));
    assert!(matches!(lines.next(), Ok(Read::End)));
}

#[tokio::test]
async fn a_line_that_is_too_long_is_found_and_stops_neither_the_reader_nor_the_server() {
    for end in ["\n", ""] {
        let rig = Rig::chain(3).await;
        let path = rig.only_file();
        let mut whole = fs::read(&path).expect("there");
        whole.extend(vec![b'a'; line_bytes_max() + 1]);
        whole.extend(end.as_bytes());
        fs::write(&path, whole).expect("written");
        assert_eq!(rig.found(), [(6, Some(6), Wrong::Unreadable)]);
        rig.extend(2).await;
        let found = rig.found();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], (6, Some(6), Wrong::Unreadable));
        assert!(matches!(found[1].2, Wrong::Reported(_)), "{found:?}");
        let mut events = 0;
        query(rig.dir(), &Filter::default(), |_, _| {
            events += 1;
            Ok(true)
        })
        .expect("readable");
        assert_eq!(events, 5);
    }
}

#[tokio::test]
async fn a_file_of_which_no_line_reads_is_set_aside_and_an_empty_one_is_none() {
    let rig = Rig::chain(2).await;
    let path = files::path(rig.dir(), 5);
    fs::write(&path, b"").expect("written");
    rig.extend(1).await;
    let verified = rig.verify();
    assert_eq!((verified.findings, verified.files), (vec![], 1));
    assert_eq!(verified.aside, [""; 0]);
    let path = files::path(rig.dir(), 9);
    let mut names = Vec::new();
    for name in ["", "-2"] {
        let content = format!("{{\"seq\":9,\"ha{name}");
        fs::write(&path, &content).expect("written");
        rig.extend(1).await;
        names.push(format!("audit-{:020}.jsonl.unreadable{name}", 9));
        let verified = rig.verify();
        assert_eq!((verified.findings, verified.files), (vec![], 1));
        assert_eq!(verified.aside, names);
        let kept = fs::read_to_string(rig.dir().join(&names[names.len() - 1]));
        assert_eq!(kept.expect("kept"), content);
    }
}

#[tokio::test]
async fn a_file_that_could_not_be_flushed_is_not_gone_on_with() {
    let mut rig = Rig::new();
    rig.settings.durability = Durability::Interval(Duration::from_hours(1));
    let audit = rig.open();
    audit.append(event(1)).await.expect("written");
    // Its day is over, so that it is flushed and left.
    rig.end_day();
    bad_syncs(rig.dir()).store(1, Ordering::Relaxed);
    let error = audit.append(event(2)).await.expect_err("not flushed");
    assert!(matches!(error, AuditError::Unwritable(_)), "{error}");
    audit.append(event(3)).await.expect("in another file");
    let found = rig.found();
    assert!(
        matches!(&found[..], [(1, Some(4), Wrong::Reported(why))] if why.contains("could not be flushed")),
        "{found:?}"
    );
}

#[tokio::test]
async fn what_a_hung_disk_has_lost_is_said_in_the_chain() {
    const CALLERS: usize = 5000;
    let mut rig = Rig::new();
    rig.settings.on_failure = OnFailure::Continue;
    let audit = Arc::new(rig.open());
    let room = room(rig.dir());
    let (hung, hangs) = tokio::sync::oneshot::channel();
    let (heal, healed) = std::sync::mpsc::channel::<()>();
    // The disk answers nothing while somebody else has this lock.
    let disk = std::thread::spawn(move || {
        let _room = room.lock().expect("no panic");
        hung.send(()).expect("waited for");
        healed.recv().expect("healed");
    });
    hangs.await.expect("hung");
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move { audit.append(event(number)).await })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic").expect("goes on");
    }
    heal.send(()).expect("waits");
    disk.join().expect("no panic");
    audit.append(event(CALLERS)).await.expect("written");
    let lost = audit.stats().lost;
    assert!(lost > 0);
    let verified = rig.verify();
    assert_eq!((verified.findings, verified.gaps.len()), (vec![], 1));
    let told = format!(": {lost} records are not here, the first of ");
    assert!(verified.gaps[0].contains(&told), "{:?}", verified.gaps);
    // File, Start, the loss, and the events that are there.
    let events = CALLERS as u64 + 1 - lost;
    assert_eq!(verified.records, 3 + events);
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_or_said_to_be_lost() {
    const CALLERS: usize = 5000;
    let rig = Rig::new();
    let audit = Arc::new(rig.open());
    let room = room(rig.dir());
    let (hung, hangs) = tokio::sync::oneshot::channel();
    let (heal, healed) = std::sync::mpsc::channel::<()>();
    let disk = std::thread::spawn(move || {
        let _room = room.lock().expect("no panic");
        hung.send(()).expect("waited for");
        healed.recv().expect("healed");
    });
    hangs.await.expect("hung");
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move { audit.append(event(number)).await })
        })
        .collect();
    // Each has come as far as it can.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for caller in callers {
        caller.abort();
        let _gone = caller.await;
    }
    let lost = audit.stats().lost;
    assert!(lost > 0);
    audit.append_unawaited(event(CALLERS));
    assert_eq!(audit.stats().lost, lost + 1);
    heal.send(()).expect("waits");
    disk.join().expect("no panic");
    audit.append(event(CALLERS + 1)).await.expect("written");
    audit.append_unawaited(event(CALLERS + 2));
    audit.flush().await.expect("flushed");
    let verified = rig.verify();
    assert_eq!((verified.findings, verified.gaps.len()), (vec![], 1));
    assert!(
        verified.gaps[0].contains("went away"),
        "{:?}",
        verified.gaps
    );
    // File, Start, the loss; the last two are there.
    assert_eq!(verified.records, 3 + 2 + CALLERS as u64 - lost);
}
