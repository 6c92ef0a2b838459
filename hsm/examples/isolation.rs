//! Prints what a worker process costs a call, on a `SoftHSM` token of its own: bare sessions and the handle, with the
//! module in this process and in workers, by turns in one run; medians.
//!
//! `cargo run --release -p strongroom-hsm --example isolation`

#![expect(
    clippy::cast_precision_loss,
    reason = "a few thousand calls are counted"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use strongroom_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
use strongroom_hsm::process::{ProcessSettings, ProcessToken, worker_main};
use strongroom_hsm::{
    BackingKey, BackingKeyId, HsmHandle, HsmSettings, SecretBytes, Session, Token,
};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "1234-strongroom";
const ROUNDS: usize = 7;
const CALLS: usize = 2000;
const CALLERS: usize = 32;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hsm-worker"] => return worker_main(),
        ["measure", dir] => measure(dir),
        // A module reads its environment when it is loaded: the measuring is done by a process that was given one.
        _ => {
            let dir = tempfile::tempdir().expect("a directory");
            make_token(dir.path());
            let done = Command::new("/proc/self/exe")
                .arg("measure")
                .arg(dir.path())
                .env("SOFTHSM2_CONF", dir.path().join("softhsm2.conf"))
                .status();
            assert!(done.expect("starts").success());
        }
    }
    ExitCode::SUCCESS
}

fn make_token(dir: &std::path::Path) {
    let (conf, tokens) = (dir.join("softhsm2.conf"), dir.join("tokens"));
    std::fs::create_dir(&tokens).expect("a directory");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&conf, text).expect("writes");
    std::fs::write(dir.join("pin"), PIN).expect("writes");
    let made = Command::new("softhsm2-util")
        .args([
            "--init-token",
            "--free",
            "--label",
            "figures",
            "--so-pin",
            "so-12345",
            "--pin",
            PIN,
        ])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .expect("softhsm2-util is installed");
    assert!(made.status.success(), "{made:?}");
}

fn measure(dir: &str) {
    let uri = format!("pkcs11:token=figures?module-path={MODULE}&pin-source=file:{dir}/pin");
    let config = Pkcs11Config::from_uri(&uri).expect("a URI");
    let settings = ProcessSettings {
        environment: BTreeMap::from([(
            OsString::from("SOFTHSM2_CONF"),
            OsString::from(format!("{dir}/softhsm2.conf")),
        )]),
        ..ProcessSettings::default()
    };
    let isolated = ProcessToken::new(config.clone(), settings).expect("good settings");
    let isolated: Arc<dyn Token> = Arc::new(isolated);
    let inside: Arc<dyn Token> = Arc::new(Pkcs11Token::new(config));
    let key = make_key(inside.open_session().expect("opens").as_mut());
    sessions(&inside, &isolated, &key);
    handles(&inside, &isolated, &key);
}

fn make_key(session: &mut dyn Session) -> BackingKey {
    let id = BackingKeyId::random().expect("randomness");
    let blob = session.generate_key(&id, "figures").expect("generates");
    let canary = session.make_canary(&id, &blob).expect("makes a canary");
    BackingKey { id, blob, canary }
}

/// One caller, no handle: what a round trip costs.
fn sessions(inside: &Arc<dyn Token>, isolated: &Arc<dyn Token>, key: &BackingKey) {
    type Act = fn(&mut dyn Session, &BackingKey);
    let acts: [(&str, Act); 4] = [
        ("random 8 bytes", |session, _| {
            session.random(&mut [0; 8]).expect("answers");
        }),
        ("wrap", |session, key| {
            session.wrap(key, &[3; 64], &[7; 32]).expect("wraps");
        }),
        ("wrap, then unwrap: two calls", |session, key| {
            let wrapped = session.wrap(key, &[3; 64], &[7; 32]).expect("wraps");
            session.unwrap(key, &[3; 64], &wrapped).expect("unwraps");
        }),
        ("wrap and unwrap: one call", |session, key| {
            session
                .wrap_and_unwrap(key, &[3; 64], &[7; 32])
                .expect("wraps");
        }),
    ];
    println!("one session, µs a call           in process   in worker   cost");
    println!(
        "  {:30} {:10}  {:10}  {:6.1}",
        "an echo by another thread",
        "",
        "",
        median(echoes())
    );
    for (what, act) in acts {
        let mut both = [inside, isolated].map(|token| {
            let session = token.open_session().expect("opens");
            (session, Vec::new())
        });
        for _ in 0..ROUNDS {
            for (session, times) in &mut both {
                let began = Instant::now();
                (0..CALLS).for_each(|_| act(session.as_mut(), key));
                times.push(micros(began) / CALLS as f64);
            }
        }
        let [inside, isolated] = both.map(|(_, times)| median(times));
        println!(
            "  {what:30} {inside:10.1}  {isolated:10.1}  {:6.1}",
            isolated - inside
        );
    }
}

/// What the system takes for a message to another thread and back: no isolation is cheaper.
fn echoes() -> Vec<f64> {
    let (mut ours, mut theirs) = UnixStream::pair().expect("sockets");
    let echo = std::thread::spawn(move || {
        let mut message = [0; 256];
        while theirs.read_exact(&mut message).is_ok() {
            theirs.write_all(&message).expect("writes");
        }
    });
    let times = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        for _ in 0..CALLS {
            let mut message = [0; 256];
            ours.write_all(&message).expect("writes");
            ours.read_exact(&mut message).expect("reads");
        }
        micros(began) / CALLS as f64
    });
    let times = times.collect();
    drop(ours);
    echo.join().expect("does not panic");
    times
}

/// What callers of the handle see.
fn handles(inside: &Arc<dyn Token>, isolated: &Arc<dyn Token>, key: &BackingKey) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    println!(
        "handle, calls a second                          bare loop  in process    in worker   µs more a call"
    );
    for verify in [false, true] {
        for workers in [1, 2, 4] {
            let all = [inside, isolated].map(|token| {
                let settings = HsmSettings {
                    workers,
                    verify_wraps: verify,
                    ..HsmSettings::default()
                };
                HsmHandle::start(Arc::clone(token), settings).expect("starts")
            });
            for callers in [1, 4, 16, CALLERS] {
                let mut rates = [Vec::new(), Vec::new()];
                let mut bare = Vec::new();
                for _ in 0..ROUNDS {
                    bare.push(bare_rate(inside, key, workers, verify));
                    for (hsm, rates) in all.iter().zip(&mut rates) {
                        rates.push(runtime.block_on(rate(hsm, key, callers)));
                    }
                }
                let [inside, isolated] = rates.map(median);
                let more = 1e6 / isolated - 1e6 / inside;
                let what = if verify { "wrap and unwrap" } else { "wrap" };
                let bare = median(bare);
                println!(
                    "  {what:15} {workers} workers {callers:2} callers          {bare:9.0}   {inside:9.0} ({:3.0} %) {isolated:9.0}   {more:6.1}",
                    100.0 * inside / bare
                );
            }
            runtime.block_on(async {
                for hsm in all {
                    hsm.shutdown().await;
                }
            });
        }
    }
}

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
                for _ in 0..CALLS / threads {
                    let secret = SecretBytes::new(vec![7; 32]).expect("short");
                    let wrapped = session.wrap(key, &[3; 64], secret.expose()).expect("wraps");
                    if verify {
                        session.unwrap(key, &[3; 64], &wrapped).expect("unwraps");
                    }
                }
            });
        }
    });
    1e6 * CALLS as f64 / micros(began)
}

async fn rate(hsm: &HsmHandle, key: &BackingKey, callers: usize) -> f64 {
    let began = Instant::now();
    let tasks = (0..callers).map(|_| {
        let (hsm, key) = (hsm.clone(), key.clone());
        tokio::spawn(async move {
            for _ in 0..CALLS / callers {
                let secret = SecretBytes::new(vec![7; 32]).expect("short");
                hsm.wrap(&key, vec![3; 64], secret).await.expect("wraps");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("does not panic");
    }
    1e6 * CALLS as f64 / micros(began)
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
