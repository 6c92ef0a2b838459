//! Real swtpm, a process of its own for each test, and a proxy that listens to it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use strongroom_hsm::tpm::{TpmConfig, TpmToken};
use strongroom_hsm::{BackingKey, BackingKeyId, Session, Token};
use tempfile::TempDir;
use tss_esapi::{Context, TctiNameConf};

/// How long an emulator takes to listen, at most.
const START_WAIT: Duration = Duration::from_secs(10);
/// How often a start is tried, for another process may take the ports first.
const STARTS_MAX: usize = 20;

/// An emulator. Killed when it is dropped, and its state with it.
#[derive(Debug)]
pub(crate) struct Swtpm {
    state: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Swtpm {
    /// A TPM that nobody has used.
    pub(crate) fn start() -> Self {
        let mut this = Self {
            state: tempfile::Builder::new()
                .prefix("swtpm-")
                .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
                .expect("a directory"),
            port: 0,
            process: None,
        };
        for _ in 0..STARTS_MAX {
            this.port = two_free_ports();
            if this.launch() {
                return this;
            }
        }
        panic!("swtpm found no two free ports");
    }

    /// Starts the process. False: it has ended at once, for want of a port.
    fn launch(&mut self) -> bool {
        let (state, port, control) = (self.state.path().display(), self.port, self.port + 1);
        let mut process = Command::new("swtpm")
            .args(["socket", "--tpm2"])
            .args(["--tpmstate", &format!("dir={state}")])
            .args(["--server", &format!("type=tcp,port={port}")])
            .args(["--ctrl", &format!("type=tcp,port={control}")])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("swtpm must be installed: {error}"));
        let give_up = Instant::now() + START_WAIT;
        loop {
            if process.try_wait().expect("is our child").is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, control)).is_ok() {
                self.process = Some(process);
                return true;
            }
            assert!(Instant::now() < give_up, "swtpm does not listen");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the process as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("is killed");
            process.wait().expect("is our child");
        }
    }

    /// Stops it where it stands: it takes connections and says nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("is our child");
    }

    /// Starts it again, with its state, where it was.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let give_up = Instant::now() + START_WAIT;
        while !self.launch() {
            assert!(Instant::now() < give_up, "swtpm does not start again");
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn config(&self) -> TpmConfig {
        config_at(self.port)
    }

    pub(crate) fn token(&self) -> Arc<dyn Token> {
        token(&self.config())
    }

    /// A file with this content, which lives as long as the TPM does.
    pub(crate) fn file(&self, name: &str, content: &str) -> std::path::PathBuf {
        let path = self.state.path().join(name);
        std::fs::write(&path, content).expect("writes");
        path
    }

    /// The test's own access, past us. The emulator speaks to one client at a time: no token may be connected.
    pub(crate) fn raw(&self) -> Context {
        raw_at(self.port)
    }

    pub(crate) fn proxy(&self) -> Proxy {
        Proxy::to(self.port)
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn config_at(port: u16) -> TpmConfig {
    TpmConfig {
        tcti: format!("swtpm:host=127.0.0.1,port={port}"),
        ..TpmConfig::default()
    }
}

fn raw_at(port: u16) -> Context {
    let tcti = format!("swtpm:host=127.0.0.1,port={port}");
    Context::new(TctiNameConf::from_str(&tcti).expect("a valid TCTI")).expect("connects")
}

/// The token of this configuration, which is not looked for yet.
pub(crate) fn token(config: &TpmConfig) -> Arc<dyn Token> {
    Arc::new(TpmToken::new(config).expect("a valid configuration"))
}

pub(crate) fn open(token: &Arc<dyn Token>) -> Box<dyn Session> {
    token.open_session().expect("a session opens")
}

pub(crate) fn fresh_id() -> BackingKeyId {
    BackingKeyId::random().expect("randomness")
}

pub(crate) fn new_key(session: &mut dyn Session) -> BackingKey {
    let id = fresh_id();
    let blob = session.generate_key(&id, "test").expect("generates");
    let canary = session.make_canary(&id, &blob).expect("makes a canary");
    BackingKey { id, blob, canary }
}

/// The lower one of two neighbouring ports that nobody listened at a moment ago. Not of the range that the kernel
/// gives to clients, who would take them.
fn two_free_ports() -> u16 {
    loop {
        let mut bytes = [0; 2];
        bytes.copy_from_slice(&fresh_id().as_bytes()[..2]);
        let port = 10_000 + u16::from_le_bytes(bytes) % 20_000;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
}

/// Stands between a client and the emulator, at two ports of its own, and remembers every byte of either direction.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<u8>>,
    streams: Mutex<Vec<TcpStream>>,
    closed: AtomicBool,
}

impl Proxy {
    fn to(target: u16) -> Self {
        let port = two_free_ports();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            streams: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        for offset in [0, 1] {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset)).expect("a free port");
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for client in listener.incoming() {
                    if shared.closed.load(Ordering::SeqCst) {
                        return;
                    }
                    let client = client.expect("a client");
                    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target + offset))
                        .expect("the emulator");
                    shared.forward(&client, &server);
                    shared.forward(&server, &client);
                }
            });
        }
        Self { port, shared }
    }

    pub(crate) fn config(&self) -> TpmConfig {
        config_at(self.port)
    }

    pub(crate) fn raw(&self) -> Context {
        raw_at(self.port)
    }

    /// Whether these bytes have gone by, in one piece.
    pub(crate) fn has_seen(&self, bytes: &[u8]) -> bool {
        self.count(bytes) > 0
    }

    /// How often these bytes have gone by.
    pub(crate) fn count(&self, bytes: &[u8]) -> usize {
        let seen = self.shared.seen();
        let windows = seen.windows(bytes.len());
        windows.filter(|window| *window == bytes).count()
    }

    pub(crate) fn bytes_seen(&self) -> usize {
        self.shared.seen().len()
    }

    /// Cuts every connection for good, so that a client can say no more.
    pub(crate) fn cut(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        for stream in self.shared.streams().drain(..) {
            // One that its peer has closed already is as cut as it can be.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        for offset in [0, 1] {
            // Wakes the listener, which then sees that it is closed. One that is gone needs no waking.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port + offset));
        }
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what `from` says to `to` until one of them ends.
    fn forward(self: &Arc<Self>, from: &TcpStream, to: &TcpStream) {
        let (mut from, mut to) = (
            from.try_clone().expect("clones"),
            to.try_clone().expect("clones"),
        );
        self.streams().push(from.try_clone().expect("clones"));
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let said = buffer.get(..count).expect("no more than asked for");
                shared.seen().extend_from_slice(said);
                if to.write_all(said).is_err() {
                    break;
                }
            }
            // The other side learns of it; one that is gone has nothing to learn.
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
