//! The contract of [`Meta`], as tests that every backend runs on an empty store.

use std::sync::Arc;

use crate::meta::{
    BATCH_OPERATIONS_MAX, Batch, KEY_BYTES_MAX, KeyRange, Meta, MetaError, Row, VALUE_BYTES_MAX,
};

async fn load(meta: &dyn Meta, key: &[u8]) -> Option<Vec<u8>> {
    let snapshot = meta.snapshot().await.expect("snapshot");
    snapshot.load(key).await.expect("load")
}

async fn scan(meta: &dyn Meta, range: &KeyRange, limit: usize) -> Vec<Row> {
    let snapshot = meta.snapshot().await.expect("snapshot");
    snapshot.scan(range, limit).await.expect("scan")
}

fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange {
        start: start.to_vec(),
        end: end.to_vec(),
    }
}

fn keys(rows: Vec<Row>) -> Vec<Vec<u8>> {
    rows.into_iter().map(|(key, _)| key).collect()
}

pub(super) async fn a_committed_batch_is_seen_by_the_next_snapshot(meta: Arc<dyn Meta>) {
    meta.commit(Batch::new().put("k", "v").put("empty", ""))
        .await
        .expect("commit");
    assert_eq!(load(&*meta, b"k").await, Some(b"v".to_vec()));
    assert_eq!(load(&*meta, b"empty").await, Some(Vec::new()));
    assert_eq!(load(&*meta, b"absent").await, None);
}

pub(super) async fn a_batch_whose_precondition_fails_changes_nothing(meta: Arc<dyn Meta>) {
    meta.commit(Batch::new().put("k", "v"))
        .await
        .expect("commit");
    for batch in [
        Batch::new().absent("k"),
        Batch::new().unchanged("k", None),
        Batch::new().unchanged("k", Some(b"w")),
        Batch::new().unchanged("absent", Some(b"")),
        Batch::new().range_empty(KeyRange::prefix(b"k")),
        Batch::new()
            .absent("absent")
            .range_empty(range(b"j", b"k\0")),
    ] {
        let refused = meta.commit(batch.put("new", "").delete("k")).await;
        assert!(matches!(refused, Err(MetaError::Conflict)), "{refused:?}");
    }
    assert_eq!(load(&*meta, b"k").await, Some(b"v".to_vec()));
    assert_eq!(load(&*meta, b"new").await, None);
}

pub(super) async fn a_batch_whose_preconditions_hold_is_applied(meta: Arc<dyn Meta>) {
    meta.commit(Batch::new().put("k", "v"))
        .await
        .expect("commit");
    let batch = Batch::new()
        .absent("j")
        .unchanged("k", Some(b"v"))
        .unchanged("absent", None)
        .range_empty(range(b"j", b"k"))
        .range_empty(range(b"k\0", b"l"));
    meta.commit(batch.delete("k").delete("absent").put("j", "v"))
        .await
        .expect("commit");
    assert_eq!(load(&*meta, b"k").await, None);
    assert_eq!(load(&*meta, b"j").await, Some(b"v".to_vec()));
}

pub(super) async fn writes_are_applied_in_order(meta: Arc<dyn Meta>) {
    let batch = Batch::new().put("a", "1").delete("a").put("a", "2");
    meta.commit(batch.put("b", "1").delete("b"))
        .await
        .expect("commit");
    assert_eq!(load(&*meta, b"a").await, Some(b"2".to_vec()));
    assert_eq!(load(&*meta, b"b").await, None);
}

pub(super) async fn a_snapshot_does_not_see_later_batches(meta: Arc<dyn Meta>) {
    meta.commit(Batch::new().put("k", "old").put("l", "old"))
        .await
        .expect("commit");
    let snapshot = meta.snapshot().await.expect("snapshot");
    meta.commit(Batch::new().put("k", "new").delete("l").put("m", "new"))
        .await
        .expect("commit");
    assert_eq!(
        snapshot.load(b"k").await.expect("load"),
        Some(b"old".to_vec())
    );
    let rows = snapshot.scan(&range(b"k", b"z"), 10).await.expect("scan");
    assert_eq!(keys(rows), [b"k", b"l"]);
}

pub(super) async fn a_scan_is_in_order_of_bytes_and_ends_at_its_limit(meta: Arc<dyn Meta>) {
    let ordered: [&[u8]; 6] = [b"", b"\0", b"a", b"a\0", b"a\xFF", b"b"];
    let batch = ordered
        .iter()
        .rev()
        .fold(Batch::new(), |batch, key| batch.put(*key, ""));
    meta.commit(batch).await.expect("commit");
    let everything = range(b"", b"\xFF");
    assert_eq!(keys(scan(&*meta, &everything, usize::MAX).await), ordered);
    assert_eq!(keys(scan(&*meta, &everything, 6).await), ordered);
    assert_eq!(
        keys(scan(&*meta, &everything, 2).await),
        [b"".as_slice(), b"\0"]
    );
    assert!(scan(&*meta, &everything, 0).await.is_empty());
    let of_prefix = keys(scan(&*meta, &KeyRange::prefix(b"a"), 10).await);
    assert_eq!(of_prefix, [b"a".as_slice(), b"a\0", b"a\xFF"]);
    assert_eq!(
        keys(scan(&*meta, &range(b"a", b"a\xFF"), 10).await),
        [b"a".as_slice(), b"a\0"]
    );
}

pub(super) async fn a_long_scan_misses_nothing(meta: Arc<dyn Meta>) {
    let numbers = 0..2_500_u32;
    let batch = numbers
        .clone()
        .fold(Batch::new(), |batch, n| batch.put(n.to_be_bytes(), "v"));
    meta.commit(batch).await.expect("commit");
    for limit in [999, 1000, 1001, 2000, 2499, 2500, 2501, usize::MAX] {
        let found = keys(scan(&*meta, &KeyRange::prefix(b"\0"), limit).await);
        let wanted: Vec<_> = numbers
            .clone()
            .take(limit)
            .map(|n| n.to_be_bytes().to_vec())
            .collect();
        assert_eq!(found, wanted, "limit {limit}");
    }
}

pub(super) async fn an_inverted_range_holds_no_rows(meta: Arc<dyn Meta>) {
    meta.commit(Batch::new().put("k", "v").put(b"\xFF", "v"))
        .await
        .expect("commit");
    for range in [
        range(b"l", b"a"),
        range(b"k", b"k"),
        KeyRange::prefix(b"\xFF"),
    ] {
        assert!(scan(&*meta, &range, 10).await.is_empty());
    }
}

pub(super) async fn a_precondition_on_an_inverted_range_is_refused(meta: Arc<dyn Meta>) {
    for range in [
        range(b"l", b"a"),
        range(b"k", b"k"),
        KeyRange::prefix(b"\xFF"),
    ] {
        let refused = meta.commit(Batch::new().range_empty(range)).await;
        assert!(
            matches!(refused, Err(MetaError::Limit { .. })),
            "{refused:?}"
        );
    }
}

pub(super) async fn limits_hold_at_n_and_not_at_n_plus_one(meta: Arc<dyn Meta>) {
    let operations = |count: usize| {
        let half = (0..count / 2).fold(Batch::new(), |batch, _| batch.absent("absent"));
        (count / 2..count).fold(half, |batch, _| batch.put("k", "v"))
    };
    let with_key = |length: usize| {
        [
            Batch::new().put(vec![b'k'; length], ""),
            Batch::new().delete(vec![b'k'; length]),
            Batch::new().absent(vec![b'k'; length]),
            Batch::new().unchanged(vec![b'k'; length], None),
            Batch::new().range_empty(KeyRange::prefix(&vec![b'l'; length])),
        ]
    };
    let with_value = |length: usize| Batch::new().put("v", vec![b'v'; length]);

    let within = with_key(KEY_BYTES_MAX).into_iter().rev();
    for batch in within.chain([
        operations(BATCH_OPERATIONS_MAX),
        with_value(VALUE_BYTES_MAX),
    ]) {
        meta.commit(batch).await.expect("within the limits");
    }
    assert_eq!(
        load(&*meta, b"v").await.map(|value| value.len()),
        Some(VALUE_BYTES_MAX)
    );

    let beyond = with_key(KEY_BYTES_MAX + 1).into_iter();
    for batch in beyond.chain([
        operations(BATCH_OPERATIONS_MAX + 1),
        with_value(VALUE_BYTES_MAX + 1),
    ]) {
        let refused = meta.commit(batch).await;
        assert!(
            matches!(refused, Err(MetaError::Limit { .. })),
            "{refused:?}"
        );
    }
}

pub(super) async fn concurrent_counters_lose_nothing(meta: Arc<dyn Meta>) {
    const TASKS: u32 = 16;
    const EACH: u32 = 20;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let meta = Arc::clone(&meta);
            tokio::spawn(async move {
                for _ in 0..EACH {
                    while let Err(error) = increment(&*meta).await {
                        assert!(matches!(error, MetaError::Conflict), "{error:?}");
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
    let total = load(&*meta, b"counter").await;
    assert_eq!(
        total.as_deref(),
        Some((TASKS * EACH).to_be_bytes().as_slice())
    );
}

async fn increment(meta: &dyn Meta) -> Result<(), MetaError> {
    let old = load(meta, b"counter").await;
    let count = old.as_deref().map_or(0, |bytes| {
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    });
    let next = (count + 1).to_be_bytes();
    meta.commit(
        Batch::new()
            .unchanged("counter", old.as_deref())
            .put("counter", next),
    )
    .await
}

pub(super) async fn a_failed_batch_fails_no_neighbour(meta: Arc<dyn Meta>) {
    let commits: Vec<_> = (0..100_u32)
        .map(|n| {
            let meta = Arc::clone(&meta);
            let batch = Batch::new().put(n.to_be_bytes(), "v");
            let batch = if n % 2 == 0 {
                batch
            } else {
                batch.unchanged("absent", Some(b"v"))
            };
            (n, tokio::spawn(async move { meta.commit(batch).await }))
        })
        .collect();
    for (n, commit) in commits {
        let outcome = commit.await.expect("task");
        assert_eq!(outcome.is_ok(), n % 2 == 0, "{n}: {outcome:?}");
        assert_eq!(load(&*meta, &n.to_be_bytes()).await.is_some(), n % 2 == 0);
    }
}
