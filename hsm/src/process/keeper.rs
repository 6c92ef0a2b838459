//! The thread that starts workers and sees that none stays behind as a zombie.
//!
//! A worker asks the kernel to be killed when its parent dies (`PR_SET_PDEATHSIG`). To the kernel the parent is the
//! *thread* that started it: one started by a thread that ends is killed then, though the process lives on. Therefore
//! all are started by one thread that never ends, whoever asks for them.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// How often the keeper looks whether a killed worker has ended.
const REAP_POLL: Duration = Duration::from_millis(20);
/// How often somebody who waits for a worker to end looks, at first and at last.
const WAIT_POLL_MIN: Duration = Duration::from_micros(200);
const WAIT_POLL_MAX: Duration = Duration::from_millis(5);

enum Errand {
    Start(Box<Command>, SyncSender<io::Result<Child>>),
    Reap(Child),
}

/// Starts `command`, within `patience`.
///
/// # Errors
///
/// What the system says, or that it takes too long.
pub(super) fn start(command: Command, patience: Duration) -> io::Result<Child> {
    let (reply, answer) = sync_channel(1);
    let errand = Errand::Start(Box::new(command), reply);
    let gone = || io::Error::other("the thread that starts worker processes has gone");
    keeper()?.send(errand).map_err(|_gone| gone())?;
    answer.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
        RecvTimeoutError::Disconnected => gone(),
    })?
}

/// Waits for a worker to end, up to `patience`.
pub(super) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let give_up = Instant::now() + patience;
    let mut pause = WAIT_POLL_MIN;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < give_up => std::thread::sleep(pause),
            Ok(None) | Err(_) => return None,
        }
        pause = (pause * 2).min(WAIT_POLL_MAX);
    }
}

/// Kills a worker and takes its status once there is one: at once as a rule, but a process that waits in the kernel
/// for a device takes its time, and nobody else is to wait for that.
pub(super) fn bury(mut child: Child) {
    kill(&mut child);
    if let Ok(keeper) = keeper()
        && let Err(lost) = keeper.send(Errand::Reap(child))
        && let Errand::Reap(mut child) = lost.0
    {
        wait(&mut child, WAIT_POLL_MAX);
    }
}

/// Kills a worker, which may be dead already. By its handle, so that no other process is hit: its number is its own
/// until its status is taken.
pub(super) fn kill(child: &mut Child) {
    if let Err(error) = child.kill() {
        tracing::warn!(event = "hsm.worker_kill", error = %error, "killing a worker process");
    }
}

fn keeper() -> io::Result<&'static Sender<Errand>> {
    static KEEPER: OnceLock<Sender<Errand>> = OnceLock::new();
    if let Some(keeper) = KEEPER.get() {
        return Ok(keeper);
    }
    // Two that come first at once may each start a thread; the one whose sender is not kept ends at once.
    let (sender, errands) = channel();
    std::thread::Builder::new()
        .name("hsm-keeper".into())
        .spawn(move || keep(&errands))?;
    Ok(KEEPER.get_or_init(|| sender))
}

fn keep(errands: &Receiver<Errand>) {
    let mut dying: Vec<Child> = Vec::new();
    loop {
        let errand = if dying.is_empty() {
            errands
                .recv()
                .map_err(|_closed| RecvTimeoutError::Disconnected)
        } else {
            errands.recv_timeout(REAP_POLL)
        };
        match errand {
            Ok(Errand::Start(mut command, reply)) => {
                let started = command.spawn();
                // Our copy of the worker's end of the socket: with it open, the worker's death would not show.
                drop(command);
                if let Err(unwanted) = reply.send(started)
                    && let Ok(mut child) = unwanted.0
                {
                    kill(&mut child);
                    dying.push(child);
                }
            }
            Ok(Errand::Reap(child)) => dying.push(child),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if dying.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(REAP_POLL),
        }
        dying.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}
