//! Wraps through the handle against the same calls in a bare loop: like with like, and as many threads.

use std::sync::Arc;
use std::time::Instant;

use strongroom_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
use strongroom_hsm::{BackingKey, BackingKeyId, HsmHandle, HsmSettings, SecretBytes, Token};

use crate::median;

pub(crate) const ROUNDS: usize = 7;
const WRAPS: usize = 4000;
const CALLERS: usize = 32;

/// The token is named by the environment: `ci/bench` makes one.
pub(crate) fn run() {
    let uri = strongroom::config::environment("STRONGROOM_HSM_URI")
        .expect("ci/bench sets STRONGROOM_HSM_URI");
    let config = Pkcs11Config::from_uri(&uri).expect("a URI");
    let token: Arc<dyn Token> = Arc::new(Pkcs11Token::new(config));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for verify in [false, true] {
        for threads in [1, 2] {
            let settings = HsmSettings {
                workers: threads,
                verify_wraps: verify,
                ..HsmSettings::default()
            };
            let hsm = HsmHandle::start(Arc::clone(&token), settings).expect("starts");
            let id = BackingKeyId::random().expect("randomness");
            let key = runtime
                .block_on(hsm.generate_key(id, "strongroom bench"))
                .expect("a key");
            let (mut bare, mut handled) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                bare.push(bare_rate(&token, &key, threads, verify));
                handled.push(runtime.block_on(handled_rate(&hsm, &key)));
            }
            runtime.block_on(async {
                hsm.destroy_key(id).await.expect("destroyed");
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

fn secret() -> SecretBytes {
    SecretBytes::new(vec![7; 32]).expect("short")
}

/// `C_EncryptInit` and `C_Encrypt` (and the decryption) in a loop, a session a thread, with nothing between.
fn bare_rate(token: &Arc<dyn Token>, key: &BackingKey, threads: usize, verify: bool) -> f64 {
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
                for _ in 0..WRAPS / threads {
                    let wrapped = session
                        .wrap(key, &[3; 64], secret().expose())
                        .expect("wraps");
                    if verify {
                        session.unwrap(key, &[3; 64], &wrapped).expect("unwraps");
                    }
                }
            });
        }
    });
    per_second(began)
}

async fn handled_rate(hsm: &HsmHandle, key: &BackingKey) -> f64 {
    let began = Instant::now();
    let callers = (0..CALLERS).map(|_| {
        let (hsm, key) = (hsm.clone(), key.clone());
        tokio::spawn(async move {
            for _ in 0..WRAPS / CALLERS {
                hsm.wrap(&key, vec![3; 64], secret()).await.expect("wraps");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("no panic");
    }
    per_second(began)
}

fn per_second(began: Instant) -> f64 {
    WRAPS as f64 / began.elapsed().as_secs_f64()
}
