//! The way to swtpm, with a limit on every wait.
//!
//! The library's own TCTI for it waits for an answer without limit, takes no time limit (TSS 2.0 TCTI "receive") and
//! shows nobody its socket: when the peer vanishes without a word, the thread would stay in `read` until the process
//! ends. So this one is used instead. To swtpm's data channel a command is written as it is, and the response is read
//! as it is (TPM 2.0 Part 1 §18: tag u16 ‖ length u32 ‖ …), in a connection of its own, as the library does: swtpm has
//! one client at a time.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use tss_esapi::tss2_esys as sys;

/// "strongro": it tells ours from others in a debugger.
const MAGIC: u64 = 0x7374_726F_6E67_726F;
/// `TSS2_TCTI_RC_INSUFFICIENT_BUFFER`, `TSS2_TCTI_RC_IO_ERROR`.
const INSUFFICIENT_BUFFER: u32 = 0x000A_0006;
const IO_ERROR: u32 = 0x000A_000A;

/// Tag, length and code of a response.
const HEADER_BYTES: usize = 10;
/// The longest command or response (`TPM2_MAX_COMMAND_SIZE`).
const MESSAGE_BYTES_MAX: usize = 4096;

type Common = sys::TSS2_TCTI_CONTEXT_COMMON_V1;
type Context = sys::TSS2_TCTI_CONTEXT;

/// A TCTI. The library takes a pointer to it for one: the table stands first.
#[repr(C)]
pub(super) struct Emulator {
    common: Common,
    host: String,
    port: u16,
    limit: Duration,
    /// Where the answer is to come from, and until when.
    asked: Option<(TcpStream, Instant)>,
    /// An answer that is there and not yet taken.
    answer: Option<Vec<u8>>,
}

impl Emulator {
    /// The way to the emulator of this TCTI, if it names one. To be freed as a box. Says nothing to it yet.
    pub(super) fn at(tcti: &[u8], limit: Duration) -> Option<*mut Self> {
        let settings = std::str::from_utf8(tcti).ok()?.strip_prefix("swtpm:")?;
        let setting = |name| {
            let mut all = settings.split(',');
            all.find_map(|setting| setting.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Box::into_raw(Box::new(Self {
            common: Common {
                magic: MAGIC,
                version: 1,
                transmit: Some(transmit),
                receive: Some(receive),
                finalize: None,
                cancel: None,
                getPollHandles: None,
                setLocality: None,
            },
            host: setting("host")?.to_owned(),
            port: setting("port")?.parse().ok()?,
            limit,
            asked: None,
            answer: None,
        })))
    }

    fn ask(&mut self, command: &[u8]) -> io::Result<()> {
        let until = Instant::now() + self.limit;
        let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            outcome = TcpStream::connect_timeout(&address, left(until)?);
            if outcome.is_ok() {
                break;
            }
        }
        let mut stream = outcome?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(left(until)?))?;
        stream.write_all(command)?;
        self.answer = None;
        self.asked = Some((stream, until));
        Ok(())
    }

    fn hear(&mut self) -> io::Result<Vec<u8>> {
        let (mut stream, until) = self.asked.take().ok_or(io::ErrorKind::NotConnected)?;
        let mut answer = vec![0; HEADER_BYTES];
        fill(&mut stream, until, &mut answer)?;
        let length = answer.get(2..6).and_then(|bytes| bytes.try_into().ok());
        let length = length.map(u32::from_be_bytes).map(usize::try_from);
        match length {
            Some(Ok(length)) if (HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&length) => {
                answer.resize(length, 0);
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        fill(
            &mut stream,
            until,
            answer.get_mut(HEADER_BYTES..).unwrap_or_default(),
        )?;
        Ok(answer)
    }
}

/// Reads as many bytes as there is room for: all of them within the limit, not each.
fn fill(stream: &mut TcpStream, until: Instant, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(out) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => out = out.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time that is left, which is not zero: that would be no limit.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn code_of(function: &'static str, outcome: io::Result<()>) -> u32 {
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            tracing::debug!(event = "tpm.emulator", function, %error);
            IO_ERROR
        }
    }
}

unsafe extern "C" fn transmit(context: *mut Context, size: sys::size_t, command: *const u8) -> u32 {
    let Some(size) = usize::try_from(size)
        .ok()
        .filter(|size| *size <= MESSAGE_BYTES_MAX && !command.is_null())
    else {
        return IO_ERROR;
    };
    // SAFETY: the library calls what is in the table of `context` with it, which was made by `at`, one call at a time;
    // the command has as many bytes as it says.
    let (this, command) = unsafe {
        (
            &mut *context.cast::<Emulator>(),
            std::slice::from_raw_parts(command, size),
        )
    };
    code_of("transmit", this.ask(command))
}

/// Without a buffer, or with one that is too small, the answer stays and its length is told. The library sets no time
/// limit of its own where it is called as we call it.
unsafe extern "C" fn receive(
    context: *mut Context,
    size: *mut sys::size_t,
    response: *mut u8,
    _timeout: i32,
) -> u32 {
    if size.is_null() {
        return IO_ERROR;
    }
    // SAFETY: as in `transmit`; `size` is a number of the library's.
    let (this, size) = unsafe { (&mut *context.cast::<Emulator>(), &mut *size) };
    let answer = match this.answer.take().map_or_else(|| this.hear(), Ok) {
        Ok(answer) => answer,
        Err(error) => return code_of("receive", Err(error)),
    };
    let (room, length) = (*size, answer.len() as sys::size_t);
    *size = length;
    if response.is_null() || room < length {
        this.answer = Some(answer);
        return if response.is_null() {
            0
        } else {
            INSUFFICIENT_BUFFER
        };
    }
    // SAFETY: there is room for `room` bytes, and so for these.
    unsafe { std::ptr::copy_nonoverlapping(answer.as_ptr(), response, answer.len()) };
    0
}
