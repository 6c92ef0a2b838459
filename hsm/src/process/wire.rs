//! Frames over a socket, and the fields in them.
//!
//! ```text
//! frame   = length u32 ‖ version u8 ‖ kind u8 ‖ fields      length counts what follows it
//! bytes   = length u32 ‖ the bytes                          text: the same, UTF-8
//! option  = 0 u8 | 1 u8 ‖ value                             flag: 0 or 1 u8
//! list    = count u32 ‖ each                                id: 32 bytes
//! ```
//!
//! Integers are big-endian. A frame is written by one call and mostly read by one. Nothing follows a frame before it
//! is answered: the two sides take turns.
//!
//! Both buffers are zeroed after each use, as far as they were used, and never moved by growing: plaintexts and PINs
//! pass through them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use zeroize::{Zeroize, Zeroizing};

use crate::{BackingKeyId, HsmError, HsmResult};

/// The version of this protocol: the fifth byte of every frame.
pub(super) const VERSION: u8 = 3;

/// The most bytes of a request: a wrap with the longest AAD and the largest key blob.
pub(super) const REQUEST_BYTES_MAX: usize = 24 * 1024;
/// The most bytes of an answer: a list of [`KEYS_MAX`](super::message::KEYS_MAX) keys.
pub(super) const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024 + 64;

/// How often each side looks before it sleeps (one session, `SoftHSM`, a call costs 25 µs more than in the process
/// without, 8 to 17 with). The worker waits for callers, the parent for an answer that is under way.
pub(super) const POLLS_BY_PARENT: u32 = 100;
pub(super) const POLLS_BY_WORKER: u32 = 20;

const LENGTH_BYTES: usize = 4;
const HEAD_BYTES: usize = 2;
/// What a buffer holds at first: any call but a long list or report.
const BUFFER_BYTES: usize = LENGTH_BYTES + REQUEST_BYTES_MAX;

/// Why no frame came or went.
#[derive(Debug)]
pub(super) enum Broken {
    /// The deadline is past.
    Late,
    /// The other side has gone.
    Gone(std::io::Error),
    /// The other side has sent what it must not send.
    Malformed(&'static str),
}

/// One end of the socket pair.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    /// What the socket's own timeouts are set to.
    timeout: Option<Duration>,
    out: Zeroizing<Vec<u8>>,
    inbox: Zeroizing<Vec<u8>>,
    used: usize,
    /// How often the socket is looked at before a thread sleeps on it.
    polls: u32,
}

/// A frame that was received, until the next one is.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) version: u8,
    pub(super) kind: u8,
    pub(super) fields: Fields<'a>,
}

impl Channel {
    pub(super) fn new(socket: UnixStream, polls: u32) -> Self {
        Self {
            socket,
            timeout: None,
            out: Zeroizing::new(Vec::with_capacity(BUFFER_BYTES)),
            inbox: Zeroizing::new(vec![0; BUFFER_BYTES]),
            used: 0,
            polls,
        }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends one frame. `deadline`: how long the socket may take for it.
    ///
    /// # Errors
    ///
    /// What `write` says, before anything is sent; or that the frame did not go.
    pub(super) fn send(
        &mut self,
        kind: u8,
        deadline: Option<Duration>,
        write: impl FnOnce(&mut Fill<'_>) -> HsmResult<()>,
    ) -> HsmResult<Result<(), Broken>> {
        self.forget();
        self.out.extend_from_slice(&[0, 0, 0, 0, VERSION, kind]);
        let length = match self.fill(write) {
            Ok(length) => length,
            Err(error) => {
                // What was written of it would be the start of the next frame.
                self.forget_out();
                return Err(error);
            }
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(place) = self.out.first_chunk_mut() {
            *place = length;
        }
        let sent = self
            .set_timeout(deadline)
            .and_then(|()| self.socket.write_all(&self.out));
        self.forget_out();
        Ok(sent.map_err(broken))
    }

    /// The length of the frame that is now complete but for it.
    fn fill(&mut self, write: impl FnOnce(&mut Fill<'_>) -> HsmResult<()>) -> HsmResult<usize> {
        write(&mut Fill(&mut self.out))?;
        let length = self.out.len().saturating_sub(LENGTH_BYTES);
        if length > ANSWER_BYTES_MAX {
            return Err(HsmError::TooLong {
                what: "message",
                bytes: length,
            });
        }
        Ok(length)
    }

    fn forget_out(&mut self) {
        self.out.as_mut_slice().zeroize();
        self.out.clear();
    }

    /// Receives one frame of at most `bytes_max`, before `give_up` if there is one.
    pub(super) fn receive(
        &mut self,
        bytes_max: usize,
        give_up: Option<Instant>,
    ) -> Result<Frame<'_>, Broken> {
        self.forget();
        let length = loop {
            self.read_more(give_up)?;
            let received = self.inbox.get(..self.used).unwrap_or_default();
            let Some(length) = received.first_chunk::<LENGTH_BYTES>() else {
                continue;
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length < HEAD_BYTES || length > bytes_max {
                return Err(Broken::Malformed("the length of a frame is out of range"));
            }
            let whole = LENGTH_BYTES + length;
            if self.used == whole {
                break length;
            }
            if self.used > whole {
                return Err(Broken::Malformed("something follows a frame"));
            }
            self.make_room(whole);
        };
        let frame = self.inbox.get(LENGTH_BYTES..LENGTH_BYTES + length);
        match frame {
            Some([version, kind, fields @ ..]) => Ok(Frame {
                version: *version,
                kind: *kind,
                fields: Fields(fields),
            }),
            _ => Err(Broken::Malformed("a frame has no head")),
        }
    }

    /// Zeroes what was received last.
    pub(super) fn forget(&mut self) {
        if let Some(used) = self.inbox.get_mut(..self.used) {
            used.zeroize();
        }
        self.used = 0;
    }

    fn read_more(&mut self, give_up: Option<Instant>) -> Result<(), Broken> {
        loop {
            if self.used > 0
                && let Some(give_up) = give_up
            {
                // Whoever sends byte by byte gains no time by it.
                let left = give_up.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Broken::Late);
                }
                self.set_timeout(Some(left)).map_err(broken)?;
            }
            let room = self.inbox.get_mut(self.used..).unwrap_or_default();
            let early = if self.used == 0 {
                poll(&self.socket, room, self.polls)
            } else {
                None
            };
            match early.map_or_else(|| self.socket.read(room), Ok) {
                Ok(0) => return Err(Broken::Gone(ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    self.used += count;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// A larger buffer when a frame needs it; the old one is zeroed as it goes.
    fn make_room(&mut self, bytes: usize) {
        if bytes > self.inbox.len() {
            let mut larger = Zeroizing::new(vec![0; bytes]);
            let used = self.inbox.get(..self.used).unwrap_or_default();
            if let Some(start) = larger.get_mut(..used.len()) {
                start.copy_from_slice(used);
            }
            self.inbox = larger;
        }
    }

    fn set_timeout(&mut self, timeout: Option<Duration>) -> std::io::Result<()> {
        if self.timeout != timeout {
            self.socket.set_read_timeout(timeout)?;
            self.socket.set_write_timeout(timeout)?;
            self.timeout = timeout;
        }
        Ok(())
    }
}

/// Looks for a message, and lets others run in between: to be woken costs as much as a `SoftHSM` call, and mostly the
/// other side is quicker.
fn poll(socket: &UnixStream, room: &mut [u8], polls: u32) -> Option<usize> {
    for _ in 0..polls {
        match rustix::net::recv(socket, &mut *room, RecvFlags::DONTWAIT) {
            Ok((_, count)) => return Some(count),
            Err(Errno::AGAIN) => std::thread::yield_now(),
            Err(_) => return None,
        }
    }
    None
}

fn broken(error: std::io::Error) -> Broken {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken::Late,
        _ => Broken::Gone(error),
    }
}

/// Where the fields of a frame are written.
pub(super) struct Fill<'a>(pub(super) &'a mut Vec<u8>);

impl Fill<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn id(&mut self, id: &BackingKeyId) {
        self.0.extend_from_slice(id.as_bytes());
    }

    /// # Errors
    ///
    /// [`HsmError::TooLong`] beyond `max`.
    pub(super) fn bytes(&mut self, what: &'static str, bytes: &[u8], max: usize) -> HsmResult<()> {
        match u32::try_from(bytes.len()) {
            Ok(length) if bytes.len() <= max => {
                self.u32(length);
                self.0.extend_from_slice(bytes);
                Ok(())
            }
            _ => Err(HsmError::TooLong {
                what,
                bytes: bytes.len(),
            }),
        }
    }

    /// As much of `text`, which is for people, as `max` bytes hold.
    pub(super) fn words(&mut self, text: &str, max: usize) {
        let text = text.get(..text.floor_char_boundary(max)).unwrap_or(text);
        self.u32(u32::try_from(text.len()).unwrap_or_default());
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// The fields of a frame, read from the front.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    #[cfg(test)]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Broken> {
        let (array, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Broken> {
        self.array().map(|[byte]| *byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Broken> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Broken::Malformed("a flag is neither 0 nor 1")),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Broken> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Broken> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// A length or a count of at most `max`.
    pub(super) fn count(&mut self, max: usize) -> Result<usize, Broken> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if count > max {
            return Err(Broken::Malformed("a length is out of range"));
        }
        Ok(count)
    }

    pub(super) fn id(&mut self) -> Result<BackingKeyId, Broken> {
        self.array().map(|bytes| BackingKeyId::from_bytes(*bytes))
    }

    pub(super) fn bytes(&mut self, max: usize) -> Result<&'a [u8], Broken> {
        let length = self.count(max)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self, max: usize) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes(max)?)
            .map_err(|_invalid| Broken::Malformed("a text is not UTF-8"))
    }

    pub(super) fn end(self) -> Result<(), Broken> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Broken::Malformed("a frame is longer than its fields"))
    }
}

const SHORT: Broken = Broken::Malformed("a frame is shorter than its fields");

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        (Channel::new(ours, 0), theirs)
    }

    #[test]
    fn a_frame_that_trickles_in_gains_no_time() {
        const DEADLINE: Duration = Duration::from_millis(100);
        let (mut ours, mut theirs) = pair();
        ours.set_timeout(Some(DEADLINE)).expect("sets");
        let trickle = std::thread::spawn(move || {
            let frame = [0, 0, 0, 200, VERSION, 0x82];
            for byte in frame.into_iter().chain([0; 198]) {
                if theirs.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let began = Instant::now();
        let answer = ours.receive(ANSWER_BYTES_MAX, Some(began + DEADLINE));
        assert!(matches!(answer, Err(Broken::Late)), "{answer:?}");
        assert!(began.elapsed() < DEADLINE * 3);
        drop(ours);
        trickle.join().expect("does not panic");
    }

    #[test]
    fn lengths_out_of_range_are_refused_before_anything_is_read() {
        let long = u32::try_from(REQUEST_BYTES_MAX + 1).expect("small");
        for length in [0, 1, long, u32::MAX] {
            let (mut ours, mut theirs) = pair();
            theirs.write_all(&length.to_be_bytes()).expect("writes");
            let answer = ours.receive(REQUEST_BYTES_MAX, None);
            assert!(matches!(answer, Err(Broken::Malformed(_))), "{answer:?}");
        }
    }

    #[test]
    fn two_frames_at_once_are_refused() {
        let (mut ours, mut theirs) = pair();
        let frame = [0, 0, 0, 2, VERSION, 0x82];
        theirs.write_all(&[frame, frame].concat()).expect("writes");
        let answer = ours.receive(ANSWER_BYTES_MAX, None);
        assert!(matches!(answer, Err(Broken::Malformed(_))), "{answer:?}");
    }

    #[test]
    fn a_frame_that_could_not_be_written_leaves_nothing_behind() {
        let (mut ours, theirs) = pair();
        let mut theirs = Channel::new(theirs, 0);
        let refused = ours.send(3, None, |out| {
            out.bytes("PIN", b"secret", 10)?;
            out.bytes("PIN", b"longer than it may be", 10)
        });
        assert!(
            matches!(refused, Err(HsmError::TooLong { .. })),
            "{refused:?}"
        );
        assert!(ours.out.is_empty());
        let sent = ours.send(4, None, |_out| Ok(()));
        sent.expect("fits").expect("goes");
        let frame = theirs.receive(REQUEST_BYTES_MAX, None).expect("comes");
        assert_eq!(frame.kind, 4);
        frame.fields.end().expect("is whole");
    }

    #[test]
    fn nothing_stays_in_the_buffers() {
        let (mut ours, theirs) = pair();
        let mut theirs = Channel::new(theirs, 3);
        let sent = ours.send(3, None, |out| out.bytes("PIN", b"secret", 10));
        sent.expect("fits").expect("goes");
        let frame = theirs.receive(REQUEST_BYTES_MAX, None).expect("comes");
        let mut fields = frame.fields;
        assert_eq!(fields.bytes(10).expect("reads"), b"secret");
        theirs.forget();
        assert!(theirs.inbox.iter().all(|byte| *byte == 0));
        assert!(ours.out.is_empty());
    }
}
