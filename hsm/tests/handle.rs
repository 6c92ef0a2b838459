//! The handle over a token that misbehaves on command.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom_hsm::testing::conformance;
use strongroom_hsm::testing::fault::{Fault, FaultToken, Op};
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{
    BackingKey, BackingKeyId, HsmError, HsmHandle, HsmResult, HsmSettings, SecretBytes, State,
    Token,
};

/// Of tests that look at what happens at the deadline.
const DEADLINE: Duration = Duration::from_millis(200);
/// Of those that do not: a busy machine may keep a worker waiting, and a panic is printed with its backtrace.
const AMPLE: Duration = Duration::from_secs(20);

fn settings(workers: usize) -> HsmSettings {
    HsmSettings {
        workers,
        queue: 4,
        deadline: AMPLE,
        verify_wraps: true,
    }
}

/// A handle, the faults of its token, and a key.
async fn start(workers: usize) -> (HsmHandle, FaultToken, BackingKey) {
    start_with(settings(workers)).await
}

/// The same, with [`DEADLINE`].
async fn start_hasty(workers: usize) -> (HsmHandle, FaultToken, BackingKey) {
    start_with(HsmSettings {
        deadline: DEADLINE,
        ..settings(workers)
    })
    .await
}

async fn start_with(settings: HsmSettings) -> (HsmHandle, FaultToken, BackingKey) {
    let faults = FaultToken::new(Arc::new(MemoryToken::new()));
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings).expect("starts");
    let id = BackingKeyId::random().expect("randomness");
    let key = hsm.generate_key(id, "test").await.expect("generates");
    (hsm, faults, key)
}

async fn wrap(hsm: &HsmHandle, key: &BackingKey) -> HsmResult<()> {
    let secret = SecretBytes::new(vec![7; 32])?;
    hsm.wrap(key, b"aad".to_vec(), secret)
        .await
        .map(|_wrapped| ())
}

async fn until(hsm: &HsmHandle, state: State) {
    let give_up = Instant::now() + Duration::from_secs(8);
    while hsm.health().state != state {
        assert!(Instant::now() < give_up, "{:?}", hsm.health());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn the_memory_token_keeps_the_contract() {
    let token: Arc<dyn Token> = Arc::new(MemoryToken::new());
    conformance::run_all(&token);
}

#[tokio::test]
async fn a_session_lost_is_replaced_unnoticed() {
    let (hsm, faults, key) = start(1).await;
    faults.once(Op::Wrap, 1, Fault::SessionLost);
    wrap(&hsm, &key)
        .await
        .expect("is repeated in a fresh session");
    assert_eq!(hsm.health().state, State::Ready);
}

#[tokio::test]
async fn a_call_is_repeated_once() {
    let (hsm, faults, key) = start(1).await;
    let before = faults.calls(Op::Wrap);
    faults.always(Op::Wrap, Fault::Fail);
    let answer = wrap(&hsm, &key).await;
    assert!(matches!(answer, Err(HsmError::Device { .. })), "{answer:?}");
    assert_eq!(faults.calls(Op::Wrap), before + 2);
}

#[tokio::test]
async fn generating_a_key_is_never_repeated() {
    let (hsm, faults, _key) = start(1).await;
    let before = faults.calls(Op::Generate);
    faults.once(Op::Generate, 1, Fault::FailAfter);
    let id = BackingKeyId::random().expect("randomness");
    let answer = hsm.generate_key(id, "torn").await;
    assert!(matches!(answer, Err(HsmError::Device { .. })), "{answer:?}");
    assert_eq!(faults.calls(Op::Generate), before + 1);
    assert!(
        hsm.contains(id).await.expect("answers"),
        "the caller looks, and finds it"
    );
}

/// Waits until the token holds these keys and no others.
async fn until_keys(token: &MemoryToken, mut wanted: Vec<BackingKeyId>) {
    wanted.sort();
    let give_up = Instant::now() + Duration::from_secs(8);
    loop {
        let mut session = token.open_session().expect("opens");
        let mut keys = session.list_keys().expect("lists");
        keys.sort();
        if keys == wanted {
            return;
        }
        assert!(Instant::now() < give_up, "{keys:?} and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A token, its faults and a handle with this deadline.
fn start_empty(deadline: Duration) -> (MemoryToken, FaultToken, HsmHandle) {
    let memory = MemoryToken::new();
    let faults = FaultToken::new(Arc::new(memory.clone()));
    let settings = HsmSettings {
        deadline,
        ..settings(1)
    };
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings).expect("starts");
    (memory, faults, hsm)
}

#[tokio::test]
async fn a_key_that_is_made_too_late_for_its_caller_is_destroyed_again() {
    let (memory, faults, hsm) = start_empty(DEADLINE);
    let id = || BackingKeyId::random().expect("randomness");
    let kept = hsm.generate_key(id(), "kept").await.expect("generates");
    faults.once(Op::Generate, 1, Fault::Hang(DEADLINE * 2));
    let answer = hsm.generate_key(id(), "late").await;
    assert!(matches!(answer, Err(HsmError::Timeout(_))), "{answer:?}");
    more_calls(&faults, Op::Destroy, 1).await;
    until_keys(&memory, vec![kept.id]).await;
    // As late, by a caller who leaves without waiting for the deadline.
    faults.once(Op::Generate, 1, Fault::Hang(DEADLINE / 2));
    let left = tokio::time::timeout(DEADLINE / 10, hsm.generate_key(id(), "left")).await;
    assert!(left.is_err());
    more_calls(&faults, Op::Destroy, 1).await;
    until_keys(&memory, vec![kept.id]).await;
    wrap(&hsm, &kept).await.expect("wraps");
    // While the handle is shut down.
    faults.once(Op::Generate, 1, Fault::Hang(DEADLINE / 2));
    let left = tokio::time::timeout(DEADLINE / 10, hsm.generate_key(id(), "left")).await;
    assert!(left.is_err());
    hsm.shutdown().await;
    until_keys(&memory, vec![kept.id]).await;
}

#[tokio::test]
async fn a_key_at_the_very_deadline_is_either_received_or_destroyed() {
    let deadline = Duration::from_millis(10);
    let (memory, faults, hsm) = start_empty(deadline);
    let mut received = Vec::new();
    for round in 0..100 {
        let late = Duration::from_micros(8_500 + 20 * round);
        faults.once(Op::Generate, 1, Fault::Hang(late));
        let id = BackingKeyId::random().expect("randomness");
        if hsm.generate_key(id, "close").await.is_ok() {
            received.push(id);
        }
    }
    until_keys(&memory, received).await;
}

#[tokio::test]
async fn a_late_key_that_cannot_be_destroyed_stays_for_its_intent() {
    let (memory, faults, hsm) = start_empty(DEADLINE);
    faults.once(Op::Generate, 1, Fault::Hang(DEADLINE * 2));
    faults.once(Op::Destroy, 1, Fault::Fail);
    let id = BackingKeyId::random().expect("randomness");
    let answer = hsm.generate_key(id, "late").await;
    assert!(matches!(answer, Err(HsmError::Timeout(_))), "{answer:?}");
    more_calls(&faults, Op::Destroy, 1).await;
    until(&hsm, State::Ready).await;
    assert!(hsm.contains(id).await.expect("answers"));
    until_keys(&memory, vec![id]).await;
    hsm.destroy_key(id).await.expect("destroys");
    until_keys(&memory, Vec::new()).await;
}

#[tokio::test]
async fn a_key_is_made_proven_and_proven_again_in_three_sessions() {
    let (hsm, faults, _key) = start(1).await;
    let before = faults.calls(Op::Open);
    let id = BackingKeyId::random().expect("randomness");
    hsm.generate_key(id, "three").await.expect("generates");
    assert_eq!(faults.calls(Op::Open), before + 3);
}

#[tokio::test]
async fn a_corrupted_wrap_is_not_acknowledged() {
    let (hsm, faults, key) = start(1).await;
    faults.once(Op::Wrap, 1, Fault::Corrupt);
    let answer = wrap(&hsm, &key).await;
    assert!(
        matches!(answer, Err(HsmError::WrapNotReadable)),
        "{answer:?}"
    );
    wrap(&hsm, &key).await.expect("the next one is whole");
}

#[tokio::test]
async fn a_wrap_under_another_key_is_not_acknowledged() {
    let (hsm, faults, key) = start(1).await;
    let id = BackingKeyId::random().expect("randomness");
    let other = hsm.generate_key(id, "other").await.expect("generates");
    faults.once(Op::Wrap, 1, Fault::WrongKey(other));
    let answer = wrap(&hsm, &key).await;
    assert!(
        matches!(answer, Err(HsmError::WrapNotReadable)),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_hanging_call_times_out_then_the_circuit_opens_then_it_heals() {
    let (hsm, faults, key) = start_hasty(1).await;
    faults.once(Op::Wrap, 1, Fault::Hang(DEADLINE * 4));
    let answer = wrap(&hsm, &key).await;
    assert!(
        matches!(answer, Err(HsmError::Timeout(DEADLINE))),
        "{answer:?}"
    );
    until(&hsm, State::Hung).await;
    let asked = Instant::now();
    let answer = wrap(&hsm, &key).await;
    assert!(
        matches!(answer, Err(HsmError::Unavailable { .. })),
        "{answer:?}"
    );
    assert!(asked.elapsed() < DEADLINE / 2, "it did not queue");
    until(&hsm, State::Ready).await;
    wrap(&hsm, &key).await.expect("healed");
}

/// Waking a caller is put off while calls are quick, and then one hangs.
#[tokio::test]
async fn a_call_that_is_done_is_answered_though_the_next_one_hangs() {
    const LONG: Duration = Duration::from_secs(2);
    let (hsm, faults, key) = start_with(HsmSettings {
        queue: 8,
        deadline: LONG,
        ..settings(1)
    })
    .await;
    let asked = Instant::now();
    // Keeps the worker until all are in the queue.
    faults.once(Op::Random, 1, Fault::Hang(LONG / 20));
    faults.once(Op::Probe, 1, Fault::Hang(LONG * 2));
    let wrap = || async {
        let answer = wrap(&hsm, &key).await;
        answer.map(|()| asked.elapsed())
    };
    let (random, first, second, hung, behind) =
        tokio::join!(hsm.random(8), wrap(), wrap(), hsm.probe(&key), wrap());
    random.expect("answers");
    for done in [first, second] {
        let after = done.expect("was done");
        assert!(after < LONG / 2, "{after:?}");
    }
    assert!(matches!(hung, Err(HsmError::Timeout(LONG))), "{hung:?}");
    assert!(matches!(behind, Err(HsmError::Timeout(LONG))), "{behind:?}");
}

#[tokio::test]
async fn one_hanging_worker_leaves_the_others_serving() {
    let (hsm, faults, key) = start_hasty(2).await;
    faults.once(Op::Probe, 1, Fault::Hang(DEADLINE * 4));
    let answer = hsm.probe(&key).await;
    assert!(matches!(answer, Err(HsmError::Timeout(_))), "{answer:?}");
    tokio::time::sleep(DEADLINE / 10).await;
    wrap(&hsm, &key).await.expect("wraps");
    let health = hsm.health();
    assert_eq!(
        (health.state, health.hung_workers, health.timeouts),
        (State::Ready, 1, 1)
    );
}

#[tokio::test]
async fn the_queue_takes_its_limit_and_not_one_more() {
    let (hsm, faults, key) = start(1).await;
    faults.once(Op::Probe, 1, Fault::Hang(DEADLINE / 2));
    let spawn_probe = || {
        let (hsm, key) = (hsm.clone(), key.clone());
        tokio::spawn(async move { hsm.probe(&key).await })
    };
    let mut calls = vec![spawn_probe()];
    // The first is with the worker before the queue is filled.
    while faults.calls(Op::Probe) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    calls.extend((0..4).map(|_| spawn_probe()));
    while hsm.health().queued < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let answer = hsm.probe(&key).await;
    assert!(matches!(answer, Err(HsmError::Busy)), "{answer:?}");
    for call in calls {
        call.await.expect("does not panic").expect("answers");
    }
    assert_eq!(hsm.health().rejected, 1);
}

#[tokio::test]
async fn an_overdue_call_in_the_queue_is_never_made() {
    let (hsm, faults, key) = start_hasty(1).await;
    let before = faults.calls(Op::Wrap);
    faults.once(Op::Probe, 1, Fault::Hang(DEADLINE * 2));
    let (probed, wrapped) = tokio::join!(hsm.probe(&key), wrap(&hsm, &key));
    assert!(matches!(probed, Err(HsmError::Timeout(_))), "{probed:?}");
    assert!(matches!(wrapped, Err(HsmError::Timeout(_))), "{wrapped:?}");
    until(&hsm, State::Ready).await;
    hsm.probe(&key).await.expect("answers");
    assert_eq!(faults.calls(Op::Wrap), before);
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_worker_lives() {
    let (hsm, faults, key) = start(1).await;
    faults.always(Op::Wrap, Fault::Panic);
    let answer = wrap(&hsm, &key).await;
    assert!(matches!(answer, Err(HsmError::Device { .. })), "{answer:?}");
    faults.heal();
    wrap(&hsm, &key).await.expect("wraps");
}

#[tokio::test]
async fn an_absent_token_is_not_asked_again_during_the_back_off() {
    let memory = MemoryToken::new();
    let faults = FaultToken::new(Arc::new(memory.clone()));
    memory.set_present(false);
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings(1)).expect("starts");
    until(&hsm, State::Down).await;
    let opened = faults.calls(Op::Open);
    for _ in 0..50 {
        let answer = hsm.list_keys().await;
        assert!(
            matches!(answer, Err(HsmError::Unavailable { .. })),
            "{answer:?}"
        );
    }
    assert!(faults.calls(Op::Open) <= opened + 1);
    memory.set_present(true);
    until(&hsm, State::Ready).await;
    hsm.list_keys().await.expect("healed without being asked");
}

#[tokio::test]
async fn a_worker_that_gets_no_session_leaves_the_work_to_the_others() {
    let faults = FaultToken::new(Arc::new(MemoryToken::new()));
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings(4)).expect("starts");
    until(&hsm, State::Ready).await;
    // A token with one session: worker 0 has it.
    faults.always(Op::Open, Fault::Fail);
    let mut refused = 0;
    for _ in 0..100 {
        refused += usize::from(hsm.list_keys().await.is_err());
    }
    // Each of the other three may find out by one call, and once more after its back-off.
    assert!(refused <= 6, "{refused} calls were refused");
}

#[tokio::test]
async fn an_open_circuit_answers_without_the_token() {
    let (hsm, faults, key) = start(1).await;
    // So that the heartbeat uses the key, too, and does not close the circuit.
    wrap(&hsm, &key).await.expect("wraps");
    faults.always(Op::Wrap, Fault::Fail);
    for _ in 0..5 {
        wrap(&hsm, &key).await.expect_err("fails");
    }
    let opened = Instant::now();
    assert_eq!(hsm.health().rejected, 0);
    let mut unavailable = 0;
    for _ in 0..20 {
        let error = wrap(&hsm, &key).await.expect_err("fails");
        unavailable += u64::from(matches!(error, HsmError::Unavailable { .. }));
    }
    // One for each pause of 250 ms may be let through: none on a machine that does this in less.
    let pauses = u64::try_from(opened.elapsed().as_millis() / 250).expect("small");
    let rejected = hsm.health().rejected;
    assert!(
        rejected >= 20 - pauses.min(19) && unavailable >= rejected,
        "{rejected} rejected, {unavailable} unavailable, {pauses} pauses"
    );
    faults.heal();
    until(&hsm, State::Ready).await;
    wrap(&hsm, &key).await.expect("the circuit is closed");
}

/// Waits for `count` more calls of `op`.
async fn more_calls(faults: &FaultToken, op: Op, count: u64) {
    let (wanted, give_up) = (
        faults.calls(op) + count,
        Instant::now() + Duration::from_secs(8),
    );
    while faults.calls(op) < wanted {
        assert!(Instant::now() < give_up, "no more calls of {op:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Key `bad` has just become unusable, and was the one used last; `good` is well.
async fn one_bad_key_leaves_the_other_served(
    hsm: &HsmHandle,
    faults: &FaultToken,
    bad: &BackingKey,
    good: &BackingKey,
) {
    let all_well = async || {
        for _ in 0..3 {
            wrap(hsm, good).await.expect("the other key serves");
            assert!(hsm.contains(good.id).await.expect("answers"));
            let id = BackingKeyId::random().expect("randomness");
            let new = hsm.generate_key(id, "new").await.expect("generates");
            hsm.destroy_key(new.id).await.expect("destroys");
        }
        assert_eq!(hsm.health().state, State::Ready);
        assert_eq!(hsm.health().failures, 0, "{:?}", hsm.health());
    };
    // The first heartbeat tries the bad key; what follows is random bytes.
    more_calls(faults, Op::Random, 1).await;
    all_well().await;
    // Heartbeats with the good key, and right after calls with the bad one.
    for _ in 0..10 {
        let answer = wrap(hsm, bad).await;
        assert!(
            matches!(
                answer,
                Err(HsmError::KeyNotFound(_) | HsmError::Unfit { .. })
            ),
            "{answer:?}"
        );
        all_well().await;
    }
    more_calls(faults, Op::Wrap, 1).await;
    all_well().await;
}

#[tokio::test]
async fn a_key_that_is_gone_leaves_the_others_served() {
    let memory = MemoryToken::new();
    let faults = FaultToken::new(Arc::new(memory.clone()));
    let hsm = HsmHandle::start(Arc::new(faults.clone()), settings(1)).expect("starts");
    let id = || BackingKeyId::random().expect("randomness");
    let good = hsm.generate_key(id(), "good").await.expect("generates");
    let bad = hsm.generate_key(id(), "bad").await.expect("generates");
    wrap(&hsm, &bad).await.expect("wraps");
    let mut other = memory.open_session().expect("opens");
    other.destroy_key(&bad.id).expect("destroys");
    one_bad_key_leaves_the_other_served(&hsm, &faults, &bad, &good).await;
}

#[tokio::test]
async fn a_key_that_is_unfit_leaves_the_others_served() {
    let with = async |workers| {
        let memory = MemoryToken::new();
        let faults = FaultToken::new(Arc::new(memory.clone()));
        let hsm = HsmHandle::start(Arc::new(faults.clone()), settings(workers)).expect("starts");
        let id = || BackingKeyId::random().expect("randomness");
        let good = hsm.generate_key(id(), "good").await.expect("generates");
        let bad = hsm.generate_key(id(), "bad").await.expect("generates");
        wrap(&hsm, &bad).await.expect("wraps");
        let mut other = memory.open_session().expect("opens");
        other.destroy_key(&bad.id).expect("destroys");
        other.generate_key(&bad.id, "another").expect("generates");
        one_bad_key_leaves_the_other_served(&hsm, &faults, &bad, &good).await;
    };
    tokio::join!(with(1), with(4));
}

#[tokio::test]
async fn a_key_that_was_forgotten_and_works_again_is_used_by_the_heartbeat_again() {
    let (hsm, faults, key) = start(1).await;
    wrap(&hsm, &key).await.expect("wraps");
    // For one heartbeat and its repetition the token uses a key that there is not.
    let missing = BackingKey {
        id: BackingKeyId::random().expect("randomness"),
        ..key.clone()
    };
    faults.once(Op::Wrap, 1, Fault::WrongKey(missing.clone()));
    faults.once(Op::Wrap, 2, Fault::WrongKey(missing));
    more_calls(&faults, Op::Random, 1).await;
    wrap(&hsm, &key).await.expect("wraps");
    more_calls(&faults, Op::Wrap, 1).await;
    assert_eq!(hsm.health().state, State::Ready);
}

#[tokio::test]
async fn a_key_destroyed_by_its_handle_is_not_missed() {
    let (hsm, faults, key) = start(1).await;
    wrap(&hsm, &key).await.expect("wraps");
    hsm.destroy_key(key.id).await.expect("destroys");
    let beats = faults.calls(Op::Random);
    let give_up = Instant::now() + Duration::from_secs(8);
    while faults.calls(Op::Random) == beats {
        assert!(Instant::now() < give_up, "no heartbeat");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(hsm.health().state, State::Ready);
}

#[tokio::test]
async fn health_speaks_before_the_first_call() {
    let hsm = HsmHandle::start(Arc::new(MemoryToken::new()), settings(2)).expect("starts");
    until(&hsm, State::Ready).await;
    let health = hsm.health();
    assert_eq!(
        (health.calls, health.workers, health.last_error),
        (0, 2, None)
    );
}

#[tokio::test]
async fn settings_are_taken_up_to_their_limits() {
    let start = |settings| HsmHandle::start(Arc::new(MemoryToken::new()), settings);
    let most = HsmSettings {
        workers: HsmSettings::WORKERS_MAX,
        queue: HsmSettings::QUEUE_MAX,
        ..HsmSettings::default()
    };
    start(most.clone()).expect("starts").shutdown().await;
    let beyond = [
        HsmSettings {
            workers: HsmSettings::WORKERS_MAX + 1,
            ..most.clone()
        },
        HsmSettings {
            queue: HsmSettings::QUEUE_MAX + 1,
            ..most.clone()
        },
        HsmSettings {
            workers: 0,
            ..most.clone()
        },
        HsmSettings {
            queue: 0,
            ..most.clone()
        },
        HsmSettings {
            deadline: Duration::ZERO,
            ..most
        },
    ];
    for settings in beyond {
        let refused = start(settings);
        assert!(matches!(refused, Err(HsmError::Config(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn random_bytes_are_given_up_to_their_limit() {
    let (hsm, _faults, _key) = start(1).await;
    let most = HsmHandle::RANDOM_BYTES_MAX;
    assert_eq!(hsm.random(most).await.expect("answers").len(), most);
    let beyond = hsm.random(most + 1).await;
    assert!(
        matches!(beyond, Err(HsmError::TooLong { .. })),
        "{beyond:?}"
    );
}

#[tokio::test]
async fn shutting_down_finishes_what_is_queued_and_takes_no_more() {
    let (hsm, faults, key) = start(1).await;
    faults.once(Op::Probe, 1, Fault::Hang(DEADLINE / 2));
    let (probed, wrapped, ()) = tokio::join!(hsm.probe(&key), wrap(&hsm, &key), hsm.shutdown());
    probed.expect("answers");
    wrapped.expect("answers");
    let answer = wrap(&hsm, &key).await;
    assert!(
        matches!(answer, Err(HsmError::Unavailable { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn shutting_down_does_not_wait_for_a_hanging_worker() {
    let (hsm, faults, key) = start_hasty(2).await;
    faults.once(Op::Probe, 1, Fault::Hang(DEADLINE * 10));
    let answer = hsm.probe(&key).await;
    assert!(matches!(answer, Err(HsmError::Timeout(_))), "{answer:?}");
    let asked = Instant::now();
    hsm.shutdown().await;
    assert!(asked.elapsed() < DEADLINE * 2);
}
