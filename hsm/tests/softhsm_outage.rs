//! A `SoftHSM` token that goes away and comes back, in one process and without a restart.
//!
//! The tests move the directory of all tokens of the process; they take turns.
#![expect(
    clippy::disallowed_methods,
    reason = "a token is unplugged by moving its directory"
)]

mod support;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use strongroom_hsm::{
    BackingKey, BackingKeyId, HsmError, HsmHandle, HsmResult, HsmSettings, KeyBlob, SecretBytes,
    State, Token,
};

use support::{SoftHsm, token_with_pin};

/// Longer than the longest back-off and one try.
const HEALS_WITHIN: Duration = Duration::from_secs(8);

/// The token of these tests, and the turn to move it.
struct Outage {
    softhsm: &'static SoftHsm,
    _turn: MutexGuard<'static, ()>,
}

impl Outage {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            softhsm: SoftHsm::with_tokens(&["outage"]),
            _turn: turn,
        }
    }

    fn token(&self) -> Arc<dyn Token> {
        token_with_pin("outage", &self.softhsm.pin_file())
    }

    fn start(&self) -> HsmHandle {
        HsmHandle::start(self.token(), HsmSettings::default()).expect("starts")
    }

    fn take_away(&self) {
        std::fs::rename(self.softhsm.tokens(), self.softhsm.dir.join("away")).expect("moves");
    }

    fn put_back(&self) {
        std::fs::rename(self.softhsm.dir.join("away"), self.softhsm.tokens()).expect("moves");
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if !self.softhsm.tokens().exists() {
            self.put_back();
        }
    }
}

fn fresh_id() -> BackingKeyId {
    BackingKeyId::random().expect("randomness")
}

fn secret() -> SecretBytes {
    SecretBytes::new(vec![7; 32]).expect("is short enough")
}

fn assert_outage<T: std::fmt::Debug>(result: &HsmResult<T>) {
    assert!(
        result.as_ref().is_err_and(HsmError::is_outage),
        "{result:?}"
    );
}

async fn healthy_within(hsm: &HsmHandle, patience: Duration) {
    let give_up = Instant::now() + patience;
    while hsm.health().state != State::Ready {
        assert!(Instant::now() < give_up, "{:?}", hsm.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_token_taken_away_fails_every_call_and_heals_when_it_is_back() {
    let outage = Outage::new();
    let hsm = outage.start();
    let key = hsm
        .generate_key(fresh_id(), "outage")
        .await
        .expect("generates");
    let wrapped = hsm.wrap(&key, Vec::new(), secret()).await.expect("wraps");

    outage.take_away();
    assert_outage(&hsm.wrap(&key, Vec::new(), secret()).await);
    for _ in 0..3 {
        assert_outage(&hsm.unwrap(&key, Vec::new(), wrapped.clone()).await);
        assert_outage(&hsm.generate_key(fresh_id(), "lost").await);
        assert_outage(&hsm.contains(key.id).await);
        assert_outage(&hsm.list_keys().await);
        assert_outage(&hsm.destroy_key(key.id).await);
        assert_outage(&hsm.random(8).await);
        assert_outage(&hsm.probe(&key).await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(hsm.health().state, State::Down);

    outage.put_back();
    healthy_within(&hsm, HEALS_WITHIN).await;
    let back = hsm
        .unwrap(&key, Vec::new(), wrapped)
        .await
        .expect("unwraps");
    assert_eq!(back.expose(), [7; 32]);
    hsm.probe(&key).await.expect("the key has survived");
    hsm.destroy_key(key.id).await.expect("destroys");
    hsm.shutdown().await;
}

#[tokio::test]
async fn an_idle_server_notices_an_outage_and_its_end() {
    let outage = Outage::new();
    let hsm = outage.start();
    healthy_within(&hsm, HEALS_WITHIN).await;
    outage.take_away();
    let give_up = Instant::now() + HEALS_WITHIN;
    while hsm.health().state != State::Down {
        assert!(Instant::now() < give_up, "{:?}", hsm.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    outage.put_back();
    healthy_within(&hsm, HEALS_WITHIN).await;
    hsm.shutdown().await;
}

#[tokio::test]
async fn a_server_that_starts_without_its_token_finds_it_later() {
    let outage = Outage::new();
    outage.take_away();
    let hsm = outage.start();
    let absent = hsm.list_keys().await;
    assert!(
        matches!(absent, Err(HsmError::Unavailable { .. })),
        "{absent:?}"
    );
    assert_eq!(hsm.health().state, State::Down);
    outage.put_back();
    healthy_within(&hsm, HEALS_WITHIN).await;
    let key = hsm
        .generate_key(fresh_id(), "late")
        .await
        .expect("generates");
    hsm.wrap(&key, Vec::new(), secret()).await.expect("wraps");
    hsm.shutdown().await;
}

#[test]
fn a_session_from_before_the_outage_is_dead_and_harms_no_later_one() {
    let outage = Outage::new();
    let token = outage.token();
    let mut old = token.open_session().expect("opens");
    let id = fresh_id();
    old.generate_key(&id, "old").expect("generates");
    let key = BackingKey {
        id,
        blob: KeyBlob::EMPTY,
        canary: old
            .make_canary(&id, &KeyBlob::EMPTY)
            .expect("makes a canary"),
    };

    outage.take_away();
    assert_outage(&old.wrap(&key, b"", &[1; 32]));
    assert!(token.open_session().is_err());
    outage.put_back();

    // The module starts counting its sessions anew: some of these have the number of the old one.
    let mut later: Vec<_> = (0..4)
        .map(|_| token.open_session().expect("opens"))
        .collect();
    assert_outage(&old.wrap(&key, b"", &[1; 32]));
    drop(old);
    for session in &mut later {
        session.wrap(&key, b"", &[1; 32]).expect("wraps");
    }
}
