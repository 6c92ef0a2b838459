//! Wraps of a software TPM: one session in a loop, and callers of the handle, by turns. It speaks to one at a time.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom_hsm::tpm::{TpmConfig, TpmToken};
use strongroom_hsm::{BackingKeyId, Token};

use crate::hsm::{Load, bare_rate, load, new_key, runtime, start};
use crate::median;

pub(crate) const ROUNDS: usize = 5;
const WRAPS: usize = 200;
const CALLERS: [usize; 2] = [1, 4];
const START_WAIT: Duration = Duration::from_secs(10);
/// How often a start is tried, for another process may take the ports first.
const STARTS_MAX: usize = 20;

pub(crate) fn run() {
    let swtpm = Swtpm::start();
    let config = TpmConfig {
        tcti: format!("swtpm:host=127.0.0.1,port={}", swtpm.port),
        ..TpmConfig::default()
    };
    let token: Arc<dyn Token> = Arc::new(TpmToken::new(&config).expect("a configuration"));
    let runtime = runtime();
    let key = runtime.block_on(async {
        let hsm = start(&token, TpmToken::WORKERS, true);
        let key = new_key(&hsm).await;
        hsm.shutdown().await;
        key
    });
    for callers in CALLERS {
        let (mut bare, mut loads) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(bare_rate(&token, &key, TpmToken::WORKERS, true, WRAPS));
            loads.push(runtime.block_on(async {
                let hsm = start(&token, TpmToken::WORKERS, true);
                hsm.probe(&key).await.expect("the key");
                let load = load(&hsm, &key, callers, WRAPS).await;
                hsm.shutdown().await;
                load
            }));
        }
        let over = |figure: fn(&Load) -> f64| median(loads.iter().map(figure).collect());
        println!(
            "  {callers} caller(s)   {:6.0}   bare loop {:6.0}   median {:6.0} µs   p99 {:6.0} µs",
            over(|load| load.rate),
            median(bare),
            over(|load| load.percentile(50)),
            over(|load| load.percentile(99)),
        );
    }
}

/// An emulator, ended with this, and its state with it.
struct Swtpm {
    _state: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Swtpm {
    fn start() -> Self {
        let state = tempfile::tempdir().expect("a directory");
        for _ in 0..STARTS_MAX {
            let port = two_free_ports();
            let control = port + 1;
            let mut process = Command::new("swtpm")
                .args(["socket", "--tpm2"])
                .args(["--tpmstate", &format!("dir={}", state.path().display())])
                .args(["--server", &format!("type=tcp,port={port}")])
                .args(["--ctrl", &format!("type=tcp,port={control}")])
                .args(["--flags", "not-need-init,startup-clear"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("swtpm is installed by ci/modules");
            if listens(&mut process, control) {
                return Self {
                    _state: state,
                    port,
                    process,
                };
            }
        }
        panic!("swtpm found no two free ports");
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.process.kill().expect("is killed");
        self.process.wait().expect("is our child");
    }
}

/// Whether it came to listen; else it has ended, for want of a port.
fn listens(process: &mut Child, port: u16) -> bool {
    let give_up = Instant::now() + START_WAIT;
    while process.try_wait().expect("is our child").is_none() {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        assert!(Instant::now() < give_up, "swtpm does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The lower one of two neighbouring ports that nobody listened at a moment ago, none of those that clients are given.
fn two_free_ports() -> u16 {
    loop {
        let random = BackingKeyId::random().expect("randomness");
        let [high, low, ..] = random.as_bytes();
        let port = 10_000 + u16::from_be_bytes([*high, *low]) % 20_000;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
}
