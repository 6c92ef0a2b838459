//! The worker's side: confined, then obedient, then gone.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use super::confine::{confine, leave};
use super::message::{Answer, Request};
use super::wire::{Broken, Channel, POLLS_BY_WORKER, REQUEST_BYTES_MAX, VERSION};
use crate::pkcs11::{Abilities, Begun, Pkcs11Config, Pkcs11Token};
use crate::{HsmError, HsmResult, Session, Token};

/// How long the end of a worker waits for its module. Mostly the parent, which kills, waits less.
const END_WAIT: Duration = Duration::from_secs(1);

/// Runs the worker of the build `build`. Returns only when it cannot begin.
pub(super) fn run(build: &str) -> ExitCode {
    match serve(build) {
        Ok(()) => leave(0),
        Err(error) => {
            eprintln!("strongroom HSM worker: {error}");
            leave(1)
        }
    }
}

fn serve(build: &str) -> Result<(), String> {
    let stdin = std::io::stdin();
    confine(stdin.as_fd()).map_err(|error| {
        format!("{error} (the server starts this, with a socket for its standard input)")
    })?;
    let socket = || stdin.as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = || socket().map_err(|error| format!("no socket: {error}"));
    let mut channel = Channel::new(socket()?, POLLS_BY_WORKER);
    if !greet(&mut channel, build)? {
        return Ok(());
    }
    let Some(config) = configuration(&mut channel)? else {
        return Ok(());
    };
    let line = Mutex::new(Channel::new(socket()?, POLLS_BY_WORKER));
    let token = Pkcs11Token::with_pin_from(config, move |few_tries| {
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        ask_for_pin(&mut line, few_tries)
    });
    let mut worker = Worker {
        token,
        begun: None,
        session: None,
    };
    let served = worker.serve(&mut channel);
    worker.end();
    served
}

/// Says hello back, whoever it is: the parent judges. Whether the two understand each other.
fn greet(channel: &mut Channel, build: &str) -> Result<bool, String> {
    let frame = match channel.receive(REQUEST_BYTES_MAX, None) {
        Ok(frame) => frame,
        Err(Broken::Gone(_)) => return Ok(false),
        Err(broken) => return Err(words(&broken)),
    };
    let version = frame.version;
    let alike = match Request::read(frame).map_err(|broken| words(&broken))? {
        Request::Hello { build: theirs } => theirs == build && version == VERSION,
        _ => return Err("the first word was not hello".into()),
    };
    let hello = Answer::Hello {
        version: VERSION,
        build: build.to_owned(),
    };
    Ok(tell(channel, &hello)? && alike)
}

fn configuration(channel: &mut Channel) -> Result<Option<Pkcs11Config>, String> {
    let frame = match channel.receive(REQUEST_BYTES_MAX, None) {
        Ok(frame) => frame,
        Err(Broken::Gone(_)) => return Ok(None),
        Err(broken) => return Err(words(&broken)),
    };
    let config = match Request::read(frame).map_err(|broken| words(&broken))? {
        Request::Configure(config) => config.into_owned(),
        _ => return Err("the second word was not a configuration".into()),
    };
    Ok(tell(channel, &Answer::Done)?.then_some(config))
}

/// Whether the parent is still there to hear it.
fn tell(channel: &mut Channel, answer: &Answer) -> Result<bool, String> {
    let sent = channel.send(answer.kind(), None, |out| answer.write(out));
    let sent = match sent {
        Err(too_long) => {
            let failed = Answer::Failed(too_long);
            channel.send(failed.kind(), None, |out| failed.write(out))
        }
        sent => sent,
    };
    match sent.map_err(|error| error.to_string())? {
        Ok(()) => Ok(true),
        Err(Broken::Gone(_)) => Ok(false),
        Err(broken) => Err(words(&broken)),
    }
}

fn ask_for_pin(line: &mut Channel, few_tries: bool) -> HsmResult<Zeroizing<Vec<u8>>> {
    let none = |what: &str| HsmError::Unavailable {
        reason: format!("no PIN from the parent process: {what}"),
        source: None,
    };
    let please = Answer::PinPlease { few_tries };
    line.send(please.kind(), None, |out| please.write(out))?
        .map_err(|broken| none(&words(&broken)))?;
    let pin = line
        .receive(REQUEST_BYTES_MAX, None)
        .and_then(|frame| match Request::read(frame)? {
            Request::Pin(pin) => Ok(Zeroizing::new(pin.0.to_vec())),
            _ => Err(Broken::Malformed("something else was said")),
        });
    line.forget();
    pin.map_err(|broken| none(&words(&broken)))
}

struct Worker {
    token: Pkcs11Token,
    /// Logged in, until it is known what the token can do.
    begun: Option<Begun>,
    session: Option<Box<dyn Session>>,
}

impl Worker {
    /// Answers until the parent has gone.
    fn serve(&mut self, channel: &mut Channel) -> Result<(), String> {
        loop {
            let frame = match channel.receive(REQUEST_BYTES_MAX, None) {
                Ok(frame) => frame,
                Err(Broken::Gone(_)) => return Ok(()),
                Err(broken) => return Err(words(&broken)),
            };
            let request = Request::read(frame).map_err(|broken| words(&broken))?;
            let answer = self.answer(&request);
            drop(request);
            if !tell(channel, &answer.unwrap_or_else(Answer::Failed))? {
                return Ok(());
            }
        }
    }

    /// Leaves the token as if nobody had been there. A module that hangs over it is left by the whole process.
    fn end(self) {
        let bound = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(END_WAIT);
            leave(0)
        });
        if bound.is_ok() {
            drop(self.session);
            drop(self.begun);
            self.token.retire();
        }
    }

    fn session(&mut self) -> HsmResult<&mut dyn Session> {
        match self.session.as_mut() {
            Some(session) => Ok(session.as_mut()),
            None => Err(HsmError::Unavailable {
                reason: "the worker process has no session".into(),
                source: None,
            }),
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> HsmResult<Answer> {
        match request {
            Request::Open => {
                let begun = self.token.begin()?;
                let identity = begun.identity()?;
                self.begun = Some(begun);
                Ok(Answer::Opened(identity))
            }
            Request::Try => {
                let begun = self.begun.as_ref().ok_or_else(out_of_turn)?;
                let abilities = begun.abilities()?;
                Ok(Answer::Abilities(Abilities::clone(&abilities)))
            }
            Request::Begin(abilities) => {
                let begun = self.begun.take().ok_or_else(out_of_turn)?;
                let abilities = Arc::new(Abilities::clone(abilities));
                self.session = Some(self.token.session(begun, abilities)?);
                Ok(Answer::Done)
            }
            Request::Info => self.token.info().map(Answer::Info),
            Request::Report => self.token.report().map(Answer::Report),
            Request::Generate { id, label } => {
                self.session()?.generate_key(id, label).map(Answer::Blob)
            }
            Request::MakeCanary { id, blob } => {
                let canary = self.session()?.make_canary(id, blob)?;
                Ok(Answer::Wrapped(canary.0))
            }
            Request::Contains(id) => self.session()?.contains(id).map(Answer::Flag),
            Request::Probe(key) => self.session()?.probe(key).map(|()| Answer::Done),
            Request::Wrap {
                key,
                aad,
                plaintext,
                and_unwrap: false,
            } => {
                let wrapped = self.session()?.wrap(key, aad, plaintext.0)?;
                Ok(Answer::Wrapped(wrapped))
            }
            Request::Wrap {
                key,
                aad,
                plaintext,
                and_unwrap: true,
            } => {
                let session = self.session()?;
                let (wrapped, back) = session.wrap_and_unwrap(key, aad, plaintext.0)?;
                Ok(Answer::WrappedAndSecret(wrapped, back))
            }
            Request::Unwrap { key, aad, wrapped } => {
                let secret = self.session()?.unwrap(key, aad, wrapped)?;
                Ok(Answer::Secret(Zeroizing::new(secret.expose().to_vec())))
            }
            Request::Destroy(id) => self.session()?.destroy_key(id).map(|()| Answer::Done),
            Request::ListKeys => self.session()?.list_keys().map(Answer::Ids),
            Request::Random(count) => {
                let mut bytes = Zeroizing::new(vec![0; *count]);
                self.session()?.random(&mut bytes)?;
                Ok(Answer::Secret(bytes))
            }
            Request::ToolObstacle(spec) => {
                self.session()?.tool_obstacle(*spec).map(Answer::Obstacle)
            }
            Request::GenerateTool { id, spec, label } => {
                let blob = self.session()?.generate_tool(id, *spec, label)?;
                Ok(Answer::Blob(blob))
            }
            Request::ProveTool { id, spec, blob } => {
                let proof = self.session()?.prove_tool(id, *spec, blob)?;
                Ok(Answer::Made(proof.as_bytes().to_vec()))
            }
            Request::ProbeTool(tool) => self.session()?.probe_tool(tool).map(|()| Answer::Done),
            Request::Mac { tool, message } => {
                self.session()?.mac(tool, message.0).map(Answer::Made)
            }
            Request::Sign {
                tool,
                algorithm,
                digest,
            } => {
                let signature = self.session()?.sign(tool, *algorithm, digest)?;
                Ok(Answer::Made(signature))
            }
            Request::Import { material, into } => {
                let into = into.as_ref().map(|(id, label)| (id, *label));
                self.session()?.import_key(material, into).map(Answer::Blob)
            }
            Request::Hello { .. } | Request::Configure(_) | Request::Pin(_) => Err(out_of_turn()),
        }
    }
}

fn out_of_turn() -> HsmError {
    HsmError::Unavailable {
        reason: "the worker process was asked out of turn".into(),
        source: None,
    }
}

fn words(broken: &Broken) -> String {
    match broken {
        Broken::Late => "the socket has a timeout".into(),
        Broken::Gone(error) => format!("the socket: {error}"),
        Broken::Malformed(what) => format!("the parent process speaks nonsense: {what}"),
    }
}
