//! What a worker gives up before it says or hears a word.

use std::io;
use std::os::fd::AsFd;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

/// The descriptors that a worker keeps: the socket, nothing, and the log.
const DESCRIPTORS_KEPT: libc::c_uint = 3;

/// In this order: to die with the parent; to be read by nobody, alive (`ptrace`, `/proc/PID/mem`) or dead (core);
/// every descriptor but 0, 1 and 2; and to be ended by the signals that a terminal or a service manager sends to all
/// processes of a service, since the server finishes its calls after them and then closes the socket.
///
/// # Errors
///
/// What the system says, and when the parent, which is whoever made the socket at `socket`, has gone already.
pub(super) fn confine(socket: impl AsFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before the line above.
    let parent = rustix::net::sockopt::socket_peercred(socket)?.pid;
    if getppid() != Some(parent) {
        return Err(io::Error::other(
            "the process that made the socket is not my parent",
        ));
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, nothing)?;
    close_descriptors()?;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        ignore(signal)?;
    }
    Ok(())
}

fn close_descriptors() -> io::Result<()> {
    #[expect(unsafe_code, reason = "closing descriptors that nothing in Rust owns")]
    // SAFETY: close_range(2) takes three numbers. This is the first thing the process does: no object of ours holds a
    // descriptor above 2 yet, so none is closed under its owner.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            DESCRIPTORS_KEPT,
            libc::c_uint::MAX,
            0,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn ignore(signal: libc::c_int) -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "no crate at hand ignores a signal by a safe call"
    )]
    // SAFETY: SIG_IGN installs no handler, so no code of ours runs in a signal's context.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends the process without the exit handlers and global destructors of the module: `SoftHSM` crashes in them
/// (`SoftHSMv2` #635, #780). The one exit of the crate; a worker has nothing to unwind that its end does not end.
pub(super) fn leave(code: libc::c_int) -> ! {
    #[expect(unsafe_code, reason = "std's exit runs the module's destructors")]
    // SAFETY: _exit(2) takes a number and does not return.
    unsafe {
        libc::_exit(code)
    }
}
