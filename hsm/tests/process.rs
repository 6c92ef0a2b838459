//! A module in a process of its own: it keeps the contract, and nothing that befalls the process reaches the server.

mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use strongroom_hsm::pkcs11::Pkcs11Config;
use strongroom_hsm::process::{ProcessSettings, ProcessToken, WorkerCommand};
use strongroom_hsm::testing::conformance;
use strongroom_hsm::{
    BackingKey, BackingKeyId, HsmError, HsmHandle, HsmSettings, SecretBytes, Session, State, Token,
};

use support::{MODULE, PIN, SoftHsm, token_with_pin};

const WORKER: &str = env!("CARGO_BIN_EXE_strongroom-hsm-test-worker");

/// Longer than anything here takes that is not to be waited for.
const PATIENCE: Duration = Duration::from_secs(10);

fn softhsm() -> &'static SoftHsm {
    SoftHsm::with_tokens(&["process", "pin"])
}

fn conf() -> OsString {
    softhsm().dir.join("softhsm2.conf").into()
}

fn config(label: &str, pin_file: &Path) -> Pkcs11Config {
    let pin_file = pin_file.display();
    let uri = format!("pkcs11:token={label}?module-path={MODULE}&pin-source=file:{pin_file}");
    Pkcs11Config::from_uri(&uri).expect("a valid URI")
}

fn settings() -> ProcessSettings {
    ProcessSettings {
        command: WorkerCommand {
            program: WORKER.into(),
            arguments: vec!["hsm-worker".into()],
        },
        environment: BTreeMap::from([("SOFTHSM2_CONF".into(), conf())]),
        ..ProcessSettings::default()
    }
}

fn run_by(program: &str, arguments: &[&str]) -> ProcessSettings {
    ProcessSettings {
        command: WorkerCommand {
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
        },
        start_deadline: Duration::from_millis(400),
        ..settings()
    }
}

fn token_by(settings: ProcessSettings) -> Arc<dyn Token> {
    let config = config("process", &softhsm().pin_file());
    Arc::new(ProcessToken::new(config, settings).expect("good settings"))
}

fn token() -> Arc<dyn Token> {
    token_by(settings())
}

fn new_key(session: &mut dyn Session) -> BackingKey {
    let id = BackingKeyId::random().expect("randomness");
    let blob = session.generate_key(&id, "process").expect("generates");
    let canary = session.make_canary(&id, &blob).expect("makes a canary");
    BackingKey { id, blob, canary }
}

fn secret() -> SecretBytes {
    SecretBytes::new(vec![7; 32]).expect("is short enough")
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    number: i32,
    zombie: bool,
}

impl Process {
    fn file(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.number.to_string()).join(name)
    }

    fn send(&self, signal: Signal) {
        let number = Pid::from_raw(self.number).expect("a number");
        kill_process(number, signal).expect("sends");
    }

    fn lives(&self) -> bool {
        fs::read_to_string(self.file("stat")).is_ok_and(|stat| state_and_parent(&stat).0 != "Z")
    }

    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(self.file("status")).expect("reads");
        let line = status.lines().find(|line| line.starts_with(field));
        line.expect("the field")
            .trim_start_matches(field)
            .trim_start_matches(':')
            .trim()
            .to_owned()
    }
}

fn state_and_parent(stat: &str) -> (&str, i32) {
    // proc_pid_stat(5): the name is in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    let mut fields = rest.split(' ');
    let state = fields.next().expect("a state");
    (
        state,
        fields.next().expect("a parent").parse().expect("a number"),
    )
}

fn children_of(parent: i32) -> Vec<Process> {
    let numbers = fs::read_dir("/proc").expect("lists").filter_map(|entry| {
        let name = entry.expect("reads").file_name();
        name.to_str().and_then(|name| name.parse::<i32>().ok())
    });
    numbers
        .filter_map(|number| {
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
            let (state, of) = state_and_parent(&stat);
            let zombie = state == "Z";
            (of == parent).then_some(Process { number, zombie })
        })
        .collect()
}

fn own_number() -> i32 {
    i32::try_from(std::process::id()).expect("a number")
}

fn children() -> Vec<Process> {
    children_of(own_number())
}

/// The one worker there is.
fn worker() -> Process {
    match children().as_slice() {
        [worker] => worker.clone(),
        others => panic!("{others:?}"),
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < give_up, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_module_in_a_process_keeps_the_contract() {
    // Tests of one process share its children: each test is to have its own.
    conformance::run_all(&token());
    until("all workers have ended", || children().is_empty());
}

#[test]
fn what_a_worker_wraps_a_module_in_our_process_unwraps() {
    let token = token();
    let mut session = token.open_session().expect("opens");
    let key = new_key(session.as_mut());
    let wrapped = session.wrap(&key, b"aad", &[5; 32]).expect("wraps");
    let thread = token_with_pin("process", &softhsm().pin_file());
    let mut thread = thread.open_session().expect("opens");
    let back = thread.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    assert_eq!(back.expose(), [5; 32]);
    let wrapped = thread.wrap(&key, b"aad", &[6; 32]).expect("wraps");
    let back = session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    assert_eq!(back.expose(), [6; 32]);
}

#[test]
fn a_wrap_comes_back_with_its_proof() {
    let mut session = token().open_session().expect("opens");
    let key = new_key(session.as_mut());
    let both = session.wrap_and_unwrap(&key, b"aad", &[5; 64]);
    let (wrapped, back) = both.expect("wraps");
    assert_eq!(back.expose(), [5; 64]);
    let again = session.unwrap(&key, b"aad", &wrapped).expect("unwraps");
    assert_eq!(again.expose(), [5; 64]);
}

#[test]
fn the_token_names_itself_and_leaves_no_worker() {
    let token = token();
    let info = token.info().expect("answers");
    assert_eq!((info.backend, info.label.as_str()), ("pkcs11", "process"));
    let report = token.report().expect("answers");
    assert!(
        report.facts.iter().any(|fact| fact.value == info.serial),
        "{report:?}"
    );
    until("all workers have ended", || children().is_empty());
}

#[test]
fn a_worker_that_is_killed_is_told_by_its_signal() {
    let mut session = token().open_session().expect("opens");
    worker().send(Signal::ABORT);
    let answer = session.list_keys().expect_err("it is dead");
    assert!(matches!(answer, HsmError::Device { .. }), "{answer:?}");
    assert!(
        format!("{answer:?}").contains("killed by signal 6"),
        "{answer:?}"
    );
    assert!(answer.spoils_session());
    let again = session.list_keys();
    assert!(
        matches!(again, Err(HsmError::Unavailable { .. })),
        "{again:?}"
    );
}

#[test]
fn a_worker_that_stops_is_killed_at_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(300);
    let token = token_by(ProcessSettings {
        call_deadline: DEADLINE,
        ..settings()
    });
    let mut session = token.open_session().expect("opens");
    let stopped = worker();
    stopped.send(Signal::STOP);
    let asked = Instant::now();
    let answer = session.list_keys();
    assert!(
        matches!(answer, Err(HsmError::Timeout(DEADLINE))),
        "{answer:?}"
    );
    let took = asked.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE * 2, "{took:?}");
    until("it is gone and buried", || children().is_empty());
}

fn handle_of(token: Arc<dyn Token>, workers: usize, deadline: Duration) -> HsmHandle {
    let settings = HsmSettings {
        workers,
        deadline,
        ..HsmSettings::default()
    };
    HsmHandle::start(token, settings).expect("starts")
}

async fn handle_key(hsm: &HsmHandle) -> BackingKey {
    let id = BackingKeyId::random().expect("randomness");
    hsm.generate_key(id, "handle").await.expect("generates")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_workers_under_load_loses_no_call() {
    const KILLS: usize = 10;
    let hsm = handle_of(token(), 3, Duration::from_secs(5));
    let key = handle_key(&hsm).await;
    let killed = Arc::new(AtomicBool::new(false));
    let callers = (0..8).map(|_| {
        let (hsm, key, killed) = (hsm.clone(), key.clone(), Arc::clone(&killed));
        tokio::spawn(async move {
            let mut calls = 0_u32;
            while !killed.load(Ordering::Relaxed) {
                let wrapped = hsm.wrap(&key, b"aad".to_vec(), secret()).await;
                let wrapped = wrapped.expect("no call is lost");
                let back = hsm.unwrap(&key, b"aad".to_vec(), wrapped).await;
                assert_eq!(back.expect("no call is lost").expose(), [7; 32]);
                calls += 1;
            }
            calls
        })
    });
    let callers: Vec<_> = callers.collect();
    for kill in 0..KILLS {
        let before = children();
        tokio::time::sleep(Duration::from_millis(400)).await;
        // One that has been there for a while: a module that dies as it starts is another matter.
        let old: Vec<_> = children()
            .into_iter()
            .filter(|worker| before.contains(worker))
            .collect();
        old.get(kill % old.len().max(1))
            .expect("a worker")
            .send(Signal::KILL);
    }
    killed.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("does not panic");
    }
    assert!(calls > 0);
    let health = hsm.health();
    assert_eq!((health.state, health.timeouts), (State::Ready, 0));
    hsm.destroy_key(key.id).await.expect("destroys");
    hsm.shutdown().await;
    until("all workers have ended", || children().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_costs_its_own_call_and_no_other() {
    const DEADLINE: Duration = Duration::from_millis(400);
    let process = ProcessSettings {
        call_deadline: DEADLINE,
        ..settings()
    };
    let hsm = handle_of(token_by(process), 2, DEADLINE);
    let key = handle_key(&hsm).await;
    // Both workers have a session.
    until("two workers", || {
        let calls = (0..8).map(|_| hsm.wrap(&key, Vec::new(), secret()));
        futures_join(calls.collect());
        children().len() == 2
    });
    let stopped = children().remove(0);
    stopped.send(Signal::STOP);
    let calls = (0..40).map(|_| {
        let (hsm, key) = (hsm.clone(), key.clone());
        tokio::spawn(async move { hsm.wrap(&key, Vec::new(), secret()).await })
    });
    let (mut done, mut late) = (0, 0);
    for call in calls.collect::<Vec<_>>() {
        match call.await.expect("does not panic") {
            Ok(_) => done += 1,
            Err(HsmError::Timeout(_)) => late += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((done, late), (39, 1));
    until("it is dead", || !stopped.lives());
    hsm.wrap(&key, Vec::new(), secret()).await.expect("healed");
    until("no worker thread hangs", || hsm.health().hung_workers == 0);
    hsm.shutdown().await;
}

/// Runs futures to their end on a thread that may block.
fn futures_join<F: Future<Output = Result<T, HsmError>>, T>(calls: Vec<F>) {
    tokio::task::block_in_place(|| {
        for call in calls {
            let done = tokio::runtime::Handle::current().block_on(call);
            assert!(done.is_ok());
        }
    });
}

#[tokio::test]
async fn a_call_that_hangs_is_done_by_the_next_worker_if_there_is_time() {
    let process = ProcessSettings {
        call_deadline: Duration::from_millis(300),
        ..settings()
    };
    let hsm = handle_of(token_by(process), 1, Duration::from_secs(5));
    let key = handle_key(&hsm).await;
    until("one worker", || children().len() == 1);
    worker().send(Signal::STOP);
    hsm.wrap(&key, Vec::new(), secret())
        .await
        .expect("is repeated");
    assert_eq!(hsm.health().state, State::Ready);
    hsm.shutdown().await;
}

#[tokio::test]
async fn keys_can_be_made_and_destroyed_by_many_workers_at_once() {
    let hsm = handle_of(token(), 4, Duration::from_secs(30));
    let lives = (0..24).map(|_| {
        let hsm = hsm.clone();
        tokio::spawn(async move {
            let key = handle_key(&hsm).await;
            hsm.wrap(&key, Vec::new(), secret()).await.expect("wraps");
            hsm.destroy_key(key.id).await.expect("destroys");
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.expect("does not panic");
    }
    hsm.shutdown().await;
}

#[test]
fn workers_die_with_their_parent() {
    let pin_file = softhsm().pin_file();
    let pin_file = pin_file.display();
    let uri = format!("pkcs11:token=process?module-path={MODULE}&pin-source=file:{pin_file}");
    let mut parent = Command::new(WORKER)
        .args(["parent", &uri, "SOFTHSM2_CONF"])
        .arg(conf())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    let stdout = parent.stdout.take().expect("is piped");
    BufReader::new(stdout).read_line(&mut line).expect("reads");
    assert_eq!(line, "open\n");
    let number = i32::try_from(parent.id()).expect("a number");
    let workers = children_of(number);
    // Stopped, so that it is not the end of the socket that it dies of.
    for worker in &workers {
        worker.send(Signal::STOP);
    }
    parent.kill().expect("kills");
    parent.wait().expect("waits");
    assert_eq!(workers.len(), 1);
    until("the worker is dead", || !workers.iter().any(Process::lives));
}

#[test]
fn a_worker_outlives_the_thread_that_asked_for_it() {
    let session = std::thread::spawn(|| token().open_session().expect("opens"));
    let mut session = session.join().expect("does not panic");
    std::thread::sleep(Duration::from_millis(50));
    session.list_keys().expect("answers");
}

#[test]
fn a_worker_inherits_no_descriptor() {
    let marker = softhsm().dir.join("marker");
    let file = fs::File::create(&marker).expect("creates");
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("sets");
    let holds_marker = |process: &Process| {
        let descriptors = fs::read_dir(process.file("fd")).expect("lists");
        let targets = descriptors.map(|entry| fs::read_link(entry.expect("reads").path()));
        targets
            .filter_map(Result::ok)
            .any(|target| target == marker)
    };
    let mut other = Command::new("sleep").arg("60").spawn().expect("starts");
    until("another child has it", || {
        children().iter().any(holds_marker)
    });
    other.kill().expect("kills");
    other.wait().expect("waits");

    let _session = token().open_session().expect("opens");
    let worker = worker();
    assert!(!holds_marker(&worker));
    for entry in fs::read_dir(worker.file("fd")).expect("lists") {
        let path = entry.expect("reads").path();
        let number: u32 = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
            .expect("a number");
        let target = fs::read_link(path).expect("reads");
        let harmless = number <= 2
            || target.starts_with(&softhsm().dir)
            || target.to_string_lossy().starts_with("socket:");
        assert!(harmless, "{number} is {}", target.display());
    }
}

#[test]
fn a_worker_leaves_no_core_and_heeds_no_terminal() {
    let mut session = token().open_session().expect("opens");
    let worker = worker();
    let limits = fs::read_to_string(worker.file("limits")).expect("reads");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let numbers: Vec<&str> = core
        .expect("the limit")
        .split_whitespace()
        .skip(4)
        .collect();
    assert_eq!(numbers.get(..2), Some(&["0", "0"][..]), "{numbers:?}");
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM] {
        worker.send(signal);
    }
    std::thread::sleep(Duration::from_millis(20));
    session.list_keys().expect("answers");
    drop(session);
    until("it ends with its session", || !worker.lives());
}

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// The files in `/proc` of a process that may be traced belong to its user, of one that may not to root (proc(5)).
#[test]
fn a_worker_may_not_be_traced_when_its_pin_arrives() {
    assert!(
        rustix::process::geteuid().is_root(),
        "run as root: the worker of this test is another user's"
    );
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("sets");
    let program = dir.path().join("worker");
    fs::copy(WORKER, &program).expect("copies");
    let pin_file = dir.path().join("pin");
    let made = Command::new("mkfifo").arg(&pin_file).status();
    assert!(made.expect("mkfifo is there").success());
    let nobody = NOBODY.to_string();
    let as_nobody = |command: &[&str]| {
        let mut arguments: Vec<OsString> =
            ["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]
                .map(OsString::from)
                .to_vec();
        arguments.extend(command.iter().map(OsString::from));
        arguments
    };
    let owner = |process: &Process| fs::metadata(process.file("environ")).map(|file| file.uid());

    let mut other = Command::new("setpriv")
        .args(as_nobody(&["sleep", "60"]))
        .spawn()
        .expect("setpriv is there");
    until("another process may be traced", || {
        children()
            .iter()
            .any(|child| owner(child).is_ok_and(|owner| owner == NOBODY))
    });
    other.kill().expect("kills");
    other.wait().expect("waits");

    let conf = open_copy(dir.path());
    let given = Command::new("chown")
        .args(["-R", &nobody])
        .arg(dir.path())
        .status();
    assert!(given.expect("chown is there").success());
    let program = program.to_str().expect("UTF-8");
    let settings = ProcessSettings {
        command: WorkerCommand {
            program: "/usr/bin/setpriv".into(),
            arguments: as_nobody(&[program, "hsm-worker"]),
        },
        environment: BTreeMap::from([("SOFTHSM2_CONF".into(), conf)]),
        start_deadline: PATIENCE,
        ..settings()
    };
    let config = config("process", &pin_file);
    let token = ProcessToken::new(config, settings).expect("good settings");
    std::thread::scope(|scope| {
        let session = scope.spawn(|| token.open_session());
        // The parent waits for the PIN in its file, the worker for its parent.
        let give_up = Instant::now() + PATIENCE;
        let asks = |child: &Process| child.status("Uid").starts_with(&nobody) && loaded(child);
        while !children().iter().any(asks) && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(5));
        }
        let owners: Vec<_> = children().iter().map(|child| owner(child).ok()).collect();
        fs::write(&pin_file, PIN).expect("writes");
        session.join().expect("does not panic").expect("opens");
        assert_eq!(owners, [Some(0)]);
    });
}

fn loaded(process: &Process) -> bool {
    fs::read_to_string(process.file("maps")).is_ok_and(|maps| maps.contains("libsofthsm2.so"))
}

/// The tokens, where everybody gets to.
fn open_copy(dir: &Path) -> OsString {
    let tokens = dir.join("tokens");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(softhsm().tokens())
        .arg(&tokens)
        .status();
    assert!(copied.expect("cp is there").success());
    let conf = dir.join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(&conf, text).expect("writes");
    conf.into()
}

#[test]
fn neither_arguments_nor_environment_hold_more_than_was_given() {
    let _session = token().open_session().expect("opens");
    let worker = worker();
    let arguments = fs::read(worker.file("cmdline")).expect("reads");
    assert_eq!(arguments, b"strongroom-hsm-worker\0hsm-worker\0");
    let environment = fs::read(worker.file("environ")).expect("reads");
    let given = format!("SOFTHSM2_CONF={}\0", conf().to_string_lossy());
    assert_eq!(String::from_utf8_lossy(&environment), given);
    assert_eq!(
        fs::read_link(worker.file("cwd")).expect("reads"),
        Path::new("/")
    );
}

#[test]
fn another_build_is_refused_by_name() {
    let refused = token_by(run_by(WORKER, &["other-build"])).open_session();
    match refused.err() {
        Some(HsmError::Config(text)) => assert!(text.contains("another build"), "{text}"),
        other => panic!("{other:?}"),
    }
    until("it has ended", || children().is_empty());
}

#[test]
fn a_program_that_is_no_worker_is_given_up() {
    for (program, arguments, word) in [
        ("/bin/sleep", &["60"][..], "within"),
        ("/bin/false", &[], "ended with code 1"),
        (
            "/bin/sh",
            &["-c", "echo nonsense, and more of it >&0; exec sleep 60"],
            "malformed",
        ),
        ("/nonexistent", &[], "NotFound"),
    ] {
        let asked = Instant::now();
        let refused = token_by(run_by(program, arguments)).open_session().err();
        assert!(
            matches!(refused, Some(HsmError::Unavailable { .. })),
            "{program}: {refused:?}"
        );
        assert!(
            format!("{refused:?}").contains(word),
            "{program}: {refused:?}"
        );
        assert!(asked.elapsed() < Duration::from_secs(2), "{program}");
    }
    until("all have ended", || children().is_empty());
}

#[test]
fn a_wrong_pin_is_tried_once_by_all_workers_together() {
    let file = softhsm().dir.join("wrong-pin");
    let token = ProcessToken::new(config("pin", &file), settings()).expect("good settings");
    let refused = || match token.open_session() {
        Err(HsmError::PinRejected(reason)) => {
            assert_eq!(reason, "it is wrong");
            true
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    };
    fs::write(&file, "not-yet-right").expect("writes");
    assert!(refused());
    // From here on the token would take this very PIN: that it is still refused shows that the token is not asked.
    change_pin(PIN, "not-yet-right");
    assert!(refused() && refused());
    fs::write(&file, "not-yet-right\n").expect("writes");
    assert!(refused(), "a line end is no change");
    fs::write(&file, "wrong-again").expect("writes");
    assert!(refused());
    fs::write(&file, "not-yet-right").expect("writes");
    assert!(!refused(), "the new content is tried");
}

/// By a program of its own, since the module has no place in this process.
fn change_pin(old: &str, new: &str) {
    let changed = Command::new("pkcs11-tool")
        .env("SOFTHSM2_CONF", conf())
        .args([
            "--module",
            MODULE,
            "--token-label",
            "pin",
            "--login",
            "--change-pin",
        ])
        .args(["--pin", old, "--new-pin", new])
        .output()
        .expect("pkcs11-tool must be installed");
    assert!(changed.status.success(), "{changed:?}");
}

#[test]
fn a_hundred_workers_leave_no_zombie() {
    let token = token();
    for turn in 0..100 {
        let mut session = token.open_session().expect("opens");
        if turn % 2 == 0 {
            worker().send(Signal::KILL);
            session.list_keys().expect_err("it is dead");
        }
        drop(session);
        until("at most the last one is dying", || children().len() <= 1);
        until("it is buried", || children().is_empty());
    }
}

/// A library that does `what` as it is loaded.
fn bad_module(name: &str, what: &str) -> PathBuf {
    let dir = &softhsm().dir;
    let (source, library) = (
        dir.join(format!("{name}.c")),
        dir.join(format!("{name}.so")),
    );
    let text = format!(
        "#include <stdlib.h>\n#include <unistd.h>\n__attribute__((constructor)) static void load(void) {{ {what} }}\n"
    );
    fs::write(&source, text).expect("writes");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.expect("a C compiler must be installed").success());
    library
}

fn token_of_module(module: PathBuf, start_deadline: Duration) -> Arc<dyn Token> {
    let config = Pkcs11Config {
        module,
        ..config("process", &softhsm().pin_file())
    };
    let settings = ProcessSettings {
        start_deadline,
        ..settings()
    };
    Arc::new(ProcessToken::new(config, settings).expect("good settings"))
}

#[tokio::test]
async fn a_module_that_crashes_as_it_is_loaded_is_tried_at_leisure() {
    let log = softhsm().dir.join("loads");
    let what = format!(
        "if (system(\"echo >> {}\")) _exit(3); abort();",
        log.display()
    );
    let token = token_of_module(bad_module("crash", &what), PATIENCE);
    let refused = token.open_session().err();
    assert!(
        format!("{refused:?}").contains("killed by signal 6"),
        "{refused:?}"
    );
    let loads = || fs::read_to_string(&log).expect("reads").lines().count();
    let before = loads();
    let hsm = handle_of(token, 1, Duration::from_secs(5));
    let give_up = Instant::now() + Duration::from_secs(2);
    while Instant::now() < give_up {
        let refused = hsm.list_keys().await;
        assert!(
            refused.as_ref().is_err_and(HsmError::is_outage),
            "{refused:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The back-off doubles from 100 ms: 0, 0.1, 0.3, 0.7, 1.5 s.
    let tries = loads() - before;
    assert!((2..=6).contains(&tries), "{tries}");
    assert_eq!(hsm.health().state, State::Down);
    hsm.shutdown().await;
    until("all have ended", || children().is_empty());
}

#[test]
fn a_module_that_hangs_as_it_is_loaded_is_killed() {
    let token = token_of_module(bad_module("hang", "pause();"), Duration::from_millis(400));
    let asked = Instant::now();
    let refused = token.open_session().err();
    assert!(matches!(refused, Some(HsmError::Timeout(_))), "{refused:?}");
    assert!(asked.elapsed() < Duration::from_secs(2));
    until("it is buried", || children().is_empty());
}
