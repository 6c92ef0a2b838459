use super::disk::Fault;
use super::*;
use crate::meta::successor;

struct Store {
    meta: Arc<RedbMeta>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn store() -> Store {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("meta.redb");
    let meta = Arc::new(RedbMeta::open(&path).expect("open"));
    Store {
        meta,
        path,
        _dir: dir,
    }
}

async fn load(meta: &RedbMeta, key: &str) -> Option<Vec<u8>> {
    let snapshot = meta.snapshot().await.expect("snapshot");
    snapshot.load(key.as_bytes()).await.expect("load")
}

macro_rules! conforms {
        ($($name:ident)*) => { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crate::meta::conformance::$name(store().meta).await;
            }
        )* };
    }

conforms! {
    a_committed_batch_is_seen_by_the_next_snapshot
    a_batch_whose_precondition_fails_changes_nothing
    a_batch_whose_preconditions_hold_is_applied
    writes_are_applied_in_order
    a_snapshot_does_not_see_later_batches
    a_scan_is_in_order_of_bytes_and_ends_at_its_limit
    a_long_scan_misses_nothing
    an_inverted_range_holds_no_rows
    a_precondition_on_an_inverted_range_is_refused
    limits_hold_at_n_and_not_at_n_plus_one
    concurrent_counters_lose_nothing
    a_failed_batch_fails_no_neighbour
}

#[test]
fn the_successor_of_a_prefix_carries_over_ff() {
    assert_eq!(successor(b"a"), b"b");
    assert_eq!(successor(b"a\xFF\xFF"), b"b");
    assert_eq!(successor(b"\x00"), b"\x01");
    assert_eq!(successor(b"\xFF\xFF"), b"");
    assert_eq!(successor(b""), b"");
}

/// Jobs as the commit thread would gather them, and their outcomes.
fn group(batches: Vec<Batch>) -> Vec<Job> {
    let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
    let job = |batch| Job {
        batch,
        answer: oneshot::channel().0,
        room: Arc::clone(&room).try_acquire_many_owned(1).expect("room"),
    };
    batches.into_iter().map(job).collect()
}

#[test]
fn a_batch_meets_the_earlier_ones_of_its_group() {
    let store = store();
    let verdicts = store.meta.engine.commit(&group(vec![
        Batch::new().absent("k").put("k", "1"),
        Batch::new().absent("k").put("k", "2").put("other", "2"),
        Batch::new().unchanged("k", Some(b"1")).put("k", "3"),
    ]));
    assert_eq!(verdicts.ok(), Some(vec![true, false, true]));
    assert_eq!(store.meta.groups_committed(), 1);
}

#[test]
fn a_group_of_conflicts_is_not_flushed() {
    let store = store();
    let verdicts = store.meta.engine.commit(&group(vec![
        Batch::new().unchanged("k", Some(b"")).put("k", "1"),
    ]));
    assert_eq!(verdicts.ok(), Some(vec![false]));
    assert_eq!(store.meta.groups_committed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_batches_share_a_flush() {
    let store = store();
    let commits: Vec<_> = (0..200_u32)
        .map(|n| {
            let meta = Arc::clone(&store.meta);
            tokio::spawn(async move { meta.commit(Batch::new().put(n.to_be_bytes(), "")).await })
        })
        .collect();
    for commit in commits {
        commit.await.expect("join").expect("commit");
    }
    assert!(
        store.meta.groups_committed() < 100,
        "{} groups",
        store.meta.groups_committed()
    );
}

#[tokio::test]
async fn a_full_queue_is_busy() {
    let store = store();
    let room = Arc::clone(&store.meta.queue_bytes);
    let _taken = room
        .try_acquire_many_owned(u32::try_from(QUEUE_BYTES_MAX).expect("fits"))
        .expect("all");
    let refused = store.meta.commit(Batch::new().put("k", "v")).await;
    assert!(matches!(refused, Err(MetaError::Busy)), "{refused:?}");
}

#[test]
fn a_batch_as_large_as_the_queue_is_the_largest() {
    let with_last = |length: usize| {
        let values = (0..31).fold(Batch::new(), |batch, _| {
            batch.put("", vec![0; VALUE_BYTES_MAX])
        });
        check_limits(&values.put("", vec![0; length]))
    };
    let last = QUEUE_BYTES_MAX - 31 * VALUE_BYTES_MAX - 32 * OPERATION_BYTES;
    assert_eq!(with_last(last).ok(), u32::try_from(QUEUE_BYTES_MAX).ok());
    assert!(matches!(with_last(last + 1), Err(MetaError::Limit { .. })));
}

#[tokio::test]
async fn a_second_opening_is_refused() {
    let store = store();
    let second = RedbMeta::open(&store.path);
    assert!(
        matches!(second, Err(MetaError::Storage { .. })),
        "{second:?}"
    );
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(store().path).map(|file| file.permissions().mode() & 0o777);
    assert_eq!(mode.ok(), Some(0o600));
}

#[tokio::test]
async fn dropping_the_store_closes_it_cleanly() {
    let store = store();
    store
        .meta
        .commit(Batch::new().put("k", "v"))
        .await
        .expect("commit");
    let Store { meta, path, _dir } = store;
    drop(meta);
    let mut builder = Database::builder();
    builder.set_repair_callback(|_session| unreachable!("it was left in need of repair"));
    drop(builder.open(&path).expect("open"));
    assert_eq!(
        load(&RedbMeta::open(&path).expect("open"), "k").await,
        Some(b"v".to_vec())
    );
}

/// The file as a dead process would leave it: not closed.
fn leave(store: &Store) -> PathBuf {
    let left = store.path.with_extension("left");
    std::fs::copy(&store.path, &left).expect("copy");
    left
}

#[tokio::test]
async fn what_a_dead_process_committed_is_there() {
    for quick_repair_file_bytes in [u64::MAX, 0] {
        let mut store = store();
        store.path.set_extension("other");
        store.meta = RedbMeta::open_with(&store.path, quick_repair_file_bytes)
            .expect("open")
            .into();
        for n in 0..50_u32 {
            store
                .meta
                .commit(Batch::new().put(n.to_be_bytes(), "v"))
                .await
                .expect("commit");
        }
        let meta = RedbMeta::open(&leave(&store)).expect("open");
        let snapshot = meta.snapshot().await.expect("snapshot");
        let rows = snapshot
            .scan(&KeyRange::prefix(b"\0"), 100)
            .await
            .expect("scan");
        assert_eq!(rows.len(), 50);
    }
}

fn inject(store: &Store, fault: Option<Fault>) {
    *store.meta.engine.health.fault.lock().expect("lock") = fault;
}

/// Asks until the answer is good: the thread looks after the file in its own time.
async fn commit_in_time(store: &Store, batch: Batch) -> Result<(), MetaError> {
    let mut outcome = Ok(());
    for _ in 0..50 {
        outcome = store.meta.commit(batch.clone()).await;
        if outcome.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    outcome
}

#[tokio::test]
async fn a_full_disk_is_over_when_there_is_space() {
    let store = store();
    store
        .meta
        .commit(Batch::new().put("old", "v"))
        .await
        .expect("commit");
    inject(&store, Some(Fault::Full));
    for _ in 0..2 {
        let failure = store.meta.commit(Batch::new().put("lost", "v")).await;
        assert!(
            matches!(failure, Err(MetaError::Storage { .. })),
            "{failure:?}"
        );
    }
    inject(&store, None);
    commit_in_time(&store, Batch::new().put("new", "v"))
        .await
        .expect("commit");
    assert_eq!(load(&store.meta, "old").await, Some(b"v".to_vec()));
    assert_eq!(load(&store.meta, "new").await, Some(b"v".to_vec()));
    assert_eq!(load(&store.meta, "lost").await, None);
}

#[tokio::test]
async fn an_idle_store_recovers_by_itself() {
    let store = store();
    inject(&store, Some(Fault::Full));
    store
        .meta
        .commit(Batch::new().put("lost", "v"))
        .await
        .expect_err("full");
    inject(&store, None);
    tokio::time::sleep(2 * RECOVERY_INTERVAL).await;
    assert_eq!(load(&store.meta, "lost").await, None);
}

#[tokio::test]
async fn a_failed_flush_is_final() {
    let store = store();
    inject(&store, Some(Fault::Unflushable));
    store
        .meta
        .commit(Batch::new().put("k", "v"))
        .await
        .expect_err("no flush");
    inject(&store, None);
    tokio::time::sleep(2 * RECOVERY_INTERVAL).await;
    store
        .meta
        .commit(Batch::new().put("k", "v"))
        .await
        .expect_err("for good");
}

#[tokio::test]
async fn a_panic_does_not_end_the_commit_thread() {
    let store = store();
    store
        .meta
        .commit(Batch::new().put("old", "v"))
        .await
        .expect("commit");
    inject(&store, Some(Fault::Panic));
    let failure = store.meta.commit(Batch::new().put("lost", "v")).await;
    assert!(
        matches!(failure, Err(MetaError::Storage { .. })),
        "{failure:?}"
    );
    commit_in_time(&store, Batch::new().put("new", "v"))
        .await
        .expect("commit");
    assert_eq!(load(&store.meta, "old").await, Some(b"v".to_vec()));
}
