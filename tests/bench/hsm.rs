//! Wraps through the handle against the same calls in a bare loop: like with like, and as many threads.

use std::sync::Arc;
use std::time::Instant;

use strongroom_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
use strongroom_hsm::{
    BackingKey, BackingKeyId, HsmHandle, HsmSettings, SecretBytes, Session, Token,
};
use tokio::runtime::Runtime;

use crate::median;

pub(crate) const ROUNDS: usize = 7;
const WRAPS: usize = 4000;
const CALLERS: usize = 32;

pub(crate) fn run() {
    let token: Arc<dyn Token> = Arc::new(Pkcs11Token::new(config()));
    let runtime = runtime();
    for verify in [false, true] {
        for threads in [1, 2] {
            let hsm = start(&token, threads, verify);
            let key = runtime.block_on(new_key(&hsm));
            let (mut bare, mut handled) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                bare.push(bare_rate(&token, &key, threads, verify, WRAPS));
                handled.push(runtime.block_on(load(&hsm, &key, CALLERS, WRAPS)).rate);
            }
            runtime.block_on(async {
                hsm.destroy_key(key.id).await.expect("destroyed");
                hsm.shutdown().await;
            });
            let (bare, handled) = (median(bare), median(handled));
            let what = if verify {
                "encrypt and decrypt back"
            } else {
                "encrypt                 "
            };
            println!(
                "  {what} {threads} thread(s)   {handled:7.0}   bare loop {bare:7.0}   {:3.0} %   (aim: 85 %)",
                100.0 * handled / bare
            );
        }
    }
}

/// The token is named by the environment: `ci/bench` makes one.
pub(crate) fn config() -> Pkcs11Config {
    let uri = strongroom::config::environment("STRONGROOM_HSM_URI")
        .expect("ci/bench sets STRONGROOM_HSM_URI");
    Pkcs11Config::from_uri(&uri).expect("a URI")
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

pub(crate) fn start(token: &Arc<dyn Token>, workers: usize, verify_wraps: bool) -> HsmHandle {
    let settings = HsmSettings {
        workers,
        verify_wraps,
        ..HsmSettings::default()
    };
    HsmHandle::start(Arc::clone(token), settings).expect("starts")
}

pub(crate) async fn new_key(hsm: &HsmHandle) -> BackingKey {
    let id = BackingKeyId::random().expect("randomness");
    hsm.generate_key(id, "strongroom bench")
        .await
        .expect("a key")
}

fn secret() -> SecretBytes {
    SecretBytes::new(vec![7; 32]).expect("short")
}

/// Encryptions (and decryptions) a second in a loop, a session a thread, with nothing between.
pub(crate) fn bare_rate(
    token: &Arc<dyn Token>,
    key: &BackingKey,
    threads: usize,
    verify: bool,
    wraps: usize,
) -> f64 {
    let mut sessions: Vec<_> = (0..threads)
        .map(|_| token.open_session().expect("a session"))
        .collect();
    for session in &mut sessions {
        session.probe(key).expect("the key");
    }
    let began = Instant::now();
    std::thread::scope(|scope| {
        for session in &mut sessions {
            scope.spawn(move || {
                for _ in 0..wraps / threads {
                    bare_wrap(session.as_mut(), key, verify);
                }
            });
        }
    });
    wraps as f64 / began.elapsed().as_secs_f64()
}

fn bare_wrap(session: &mut dyn Session, key: &BackingKey, verify: bool) {
    let wrapped = session
        .wrap(key, &[3; 64], secret().expose())
        .expect("wraps");
    if verify {
        session.unwrap(key, &[3; 64], &wrapped).expect("unwraps");
    }
}

/// What callers of the handle saw.
pub(crate) struct Load {
    /// Wraps a second.
    pub(crate) rate: f64,
    /// Microseconds that each took, in order of length.
    latencies: Vec<f64>,
}

impl Load {
    /// The latency that this many of a hundred wraps do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let index = self.latencies.len() * percent / 100;
        self.latencies.get(index).copied().unwrap_or(f64::NAN)
    }
}

pub(crate) async fn load(hsm: &HsmHandle, key: &BackingKey, callers: usize, wraps: usize) -> Load {
    let began = Instant::now();
    let tasks = (0..callers).map(|_| {
        let (hsm, key) = (hsm.clone(), key.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(wraps / callers);
            for _ in 0..wraps / callers {
                let asked = Instant::now();
                hsm.wrap(&key, vec![3; 64], secret()).await.expect("wraps");
                latencies.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            latencies
        })
    });
    let mut latencies = Vec::with_capacity(wraps);
    for task in tasks.collect::<Vec<_>>() {
        latencies.extend(task.await.expect("no panic"));
    }
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Load { rate, latencies }
}
