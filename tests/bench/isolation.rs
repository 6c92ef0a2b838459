//! What the handle costs a wrap, and what a process of its own for the module costs it: `SoftHSM`, every wrap decrypted
//! back, by turns.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use strongroom_hsm::Token;
use strongroom_hsm::pkcs11::Pkcs11Token;
use strongroom_hsm::process::{ProcessSettings, ProcessToken, WORKER_ARGUMENT, WorkerCommand};

use crate::hsm::{Load, bare_rate, config, load, new_key, runtime, start};
use crate::median;

pub(crate) const ROUNDS: usize = 7;
const WRAPS: usize = 2000;
/// How many call at once, and how many workers (and bare threads) answer.
const CROWDS: [(usize, usize); 3] = [(1, 1), (4, 2), (16, 2)];

pub(crate) fn run() {
    let runtime = runtime();
    let thread: Arc<dyn Token> = Arc::new(Pkcs11Token::new(config()));
    let process: Arc<dyn Token> = Arc::new(isolated());
    println!("  callers, workers          wraps/s   median µs   p99 µs   µs more a wrap");
    for (callers, workers) in CROWDS {
        let handles = [&thread, &process].map(|token| start(token, workers, true));
        let [in_thread, _] = &handles;
        let key = runtime.block_on(new_key(in_thread));
        let mut bare = Vec::new();
        let mut loads = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            bare.push(bare_rate(&thread, &key, workers, true, WRAPS));
            for (hsm, loads) in handles.iter().zip(&mut loads) {
                loads.push(runtime.block_on(load(hsm, &key, callers, WRAPS)));
            }
        }
        runtime.block_on(async {
            in_thread.destroy_key(key.id).await.expect("destroyed");
            for hsm in &handles {
                hsm.shutdown().await;
            }
        });
        let bare = median(bare);
        let [thread, process] = loads.map(|loads| Figures::of(&loads));
        println!("  {callers:2} {workers} bare loop           {bare:7.0}");
        thread.print(callers, workers, "thread ", bare, "the bare loop");
        process.print(callers, workers, "process", thread.rate, "thread, aim: 30");
    }
}

/// The worker is the program itself. Its environment is what is said here and nothing else.
fn isolated() -> ProcessToken {
    let name = "SOFTHSM2_CONF";
    let conf = strongroom::config::environment(name).expect("ci/bench sets SOFTHSM2_CONF");
    let settings = ProcessSettings {
        command: WorkerCommand {
            program: PathBuf::from(env!("CARGO_BIN_EXE_strongroom")),
            arguments: vec![OsString::from(WORKER_ARGUMENT)],
        },
        environment: BTreeMap::from([(OsString::from(name), OsString::from(conf))]),
        ..ProcessSettings::default()
    };
    ProcessToken::new(config(), settings).expect("good settings")
}

/// Medians over the rounds.
struct Figures {
    rate: f64,
    median: f64,
    p99: f64,
}

impl Figures {
    fn of(loads: &[Load]) -> Self {
        let over = |figure: fn(&Load) -> f64| median(loads.iter().map(figure).collect());
        Self {
            rate: over(|load| load.rate),
            median: over(|load| load.percentile(50)),
            p99: over(|load| load.percentile(99)),
        }
    }

    fn print(&self, callers: usize, workers: usize, what: &str, than: f64, named: &str) {
        let Self { rate, median, p99 } = self;
        let more = 1e6 / rate - 1e6 / than;
        println!(
            "  {callers:2} {workers} {what}             {rate:7.0}   {median:9.0}   {p99:6.0}   {more:6.1} (than {named})"
        );
    }
}
