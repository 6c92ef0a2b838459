//! A worker process as its parent holds it: the process, the socket, and what is done when it does not answer.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::login::UnderWay;
use super::message::{Answer, PIN_ASKS_MAX, Request, Secret};
use super::objects::Access;
use super::wire::{ANSWER_BYTES_MAX, Broken, Channel, POLLS_BY_PARENT, VERSION};
use super::{BUILD, ProcessSettings, Shared, keeper};
use crate::{HsmError, HsmResult};

/// How long the end of a session waits for its worker to close it and end; then the worker is killed.
const CLOSE_WAIT: Duration = Duration::from_millis(250);
/// How long a worker that has closed its socket may take to die, so that its last words can be told.
const DEATH_WAIT: Duration = Duration::from_millis(100);

/// What [`HsmError::Device`] calls a failure of the worker itself.
const WORKER: &str = "the worker process";

/// A worker that has said hello. Killed, and taken note of, when dropped.
#[derive(Debug)]
pub(super) struct Link {
    /// None once it is dead.
    child: Option<Child>,
    channel: Channel,
    shared: Arc<Shared>,
}

impl Link {
    /// Starts a worker and exchanges hellos, all before `give_up`.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when it does not start or says nothing; [`HsmError::Config`] when it is another build.
    pub(super) fn start(
        settings: &ProcessSettings,
        shared: &Arc<Shared>,
        give_up: Instant,
    ) -> HsmResult<Self> {
        let failed = |source: std::io::Error| HsmError::Unavailable {
            reason: format!(
                "no worker process for the HSM can be started from {}",
                settings.command.program.display()
            ),
            source: Some(source.into()),
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(&settings.command.program);
        command
            .arg0("strongroom-hsm-worker")
            .args(&settings.command.arguments)
            .env_clear()
            .envs(&settings.environment)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .current_dir("/")
            // Not in the terminal's group: an interrupt is for the server, which then ends its workers in order.
            .process_group(0);
        let child = keeper::start(command, left(give_up)).map_err(failed)?;
        let mut link = Self {
            child: Some(child),
            channel: Channel::new(ours, POLLS_BY_PARENT),
            shared: Arc::clone(shared),
        };
        let hello = Request::Hello { build: BUILD };
        match link.exchange(&hello, give_up) {
            Ok(Answer::Hello { version, build }) if version == VERSION && build == BUILD => {
                Ok(link)
            }
            Ok(Answer::Hello { version, build }) => Err(HsmError::Config(format!(
                "the worker process is of another build: it is {build:?} with protocol {version}, \
                 this is {BUILD:?} with protocol {VERSION}"
            ))),
            Ok(_) => {
                let other = Broken::Malformed("its first word was not hello");
                Err(link.fail(other, settings.start_deadline))
            }
            Err(error) => Err(error),
        }
        .map_err(|error| at_start(error, settings.start_deadline))
    }

    /// Asks and waits for the answer, giving the PIN in between when the worker logs in.
    ///
    /// # Errors
    ///
    /// What the worker answers; else the worker is dead now: [`HsmError::Timeout`] when it did not answer in time,
    /// [`HsmError::Device`] when it died or sent nonsense; and what the login says.
    pub(super) fn exchange(
        &mut self,
        request: &Request<'_>,
        give_up: Instant,
    ) -> HsmResult<Answer> {
        let deadline = left(give_up);
        self.exchange_within(request, give_up, deadline)
    }

    /// The same with the time that is left given, so that all calls of a session set the socket's timeout once.
    pub(super) fn exchange_within(
        &mut self,
        request: &Request<'_>,
        give_up: Instant,
        deadline: Duration,
    ) -> HsmResult<Answer> {
        if self.child.is_none() {
            return Err(HsmError::Unavailable {
                reason: "the worker process of this session has ended".into(),
                source: None,
            });
        }
        let shared = Arc::clone(&self.shared);
        let access = request.access();
        let _leave = shared.objects.access(access, give_up)?;
        let deadline = if access == Access::None {
            deadline
        } else {
            // Waiting for leave has taken its share.
            left(give_up)
        };
        let mut under_way: Option<UnderWay<'_>> = None;
        self.send(request, deadline)?;
        let mut asked = 0;
        loop {
            let answer = self.receive(give_up, deadline)?;
            let Answer::PinPlease { few_tries } = answer else {
                if let Some(under_way) = under_way {
                    under_way.end(&answer);
                }
                return match answer {
                    Answer::Failed(error) => Err(error),
                    answer => Ok(answer),
                };
            };
            asked += 1;
            if asked > PIN_ASKS_MAX {
                let reason = Broken::Malformed("it asks for the PIN again and again");
                return Err(self.fail(reason, deadline));
            }
            // Whatever keeps the PIN from the worker ends it: it waits in the middle of a login.
            let pin = match under_way.take() {
                Some(under_way) => Ok(under_way),
                None => shared.login.begin(left(give_up)),
            }
            .and_then(|mut begun| {
                let pin = begun.pin(few_tries)?;
                under_way = Some(begun);
                Ok(pin)
            })
            .inspect_err(|_no_pin| self.end())?;
            self.send(&Request::Pin(Secret(&pin)), left(give_up))?;
        }
    }

    fn send(&mut self, request: &Request<'_>, deadline: Duration) -> HsmResult<()> {
        if deadline.is_zero() {
            return Err(self.fail(Broken::Late, deadline));
        }
        let sent = self
            .channel
            .send(request.kind(), Some(deadline), |out| request.write(out))?;
        sent.map_err(|broken| self.fail(broken, deadline))
    }

    fn receive(&mut self, give_up: Instant, deadline: Duration) -> HsmResult<Answer> {
        let answer = self.channel.receive(ANSWER_BYTES_MAX, Some(give_up));
        let answer = answer.and_then(Answer::read);
        self.channel.forget();
        answer.map_err(|broken| self.fail(broken, deadline))
    }

    /// Kills the worker, and says why.
    pub(super) fn fail(&mut self, broken: Broken, deadline: Duration) -> HsmError {
        let source = match broken {
            Broken::Late => {
                self.end();
                return HsmError::Timeout(deadline);
            }
            Broken::Malformed(what) => format!("its answer is malformed: {what}"),
            Broken::Gone(error) => match self.child.as_mut() {
                Some(child) => match keeper::wait(child, DEATH_WAIT) {
                    Some(status) => last_words(status),
                    None => format!("it has closed its socket ({error})"),
                },
                None => error.to_string(),
            },
        };
        self.end();
        HsmError::Device {
            function: WORKER,
            source: source.into(),
        }
    }

    fn end(&mut self) {
        if let Some(child) = self.child.take() {
            keeper::bury(child);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // The worker reads the end of the stream, closes its session and ends.
            if let Err(error) = self.channel.socket().shutdown(std::net::Shutdown::Both) {
                tracing::debug!(event = "hsm.worker_close", error = %error, "closing a worker's socket");
            }
            if keeper::wait(child, CLOSE_WAIT).is_some() {
                self.child = None;
            }
        }
        self.end();
    }
}

/// What a failure of the hello means: not of a call, but of the whole.
fn at_start(error: HsmError, deadline: Duration) -> HsmError {
    match error {
        HsmError::Timeout(_) => HsmError::Unavailable {
            reason: format!("the worker process said nothing within {deadline:?}"),
            source: None,
        },
        HsmError::Device { function, source } => HsmError::Unavailable {
            reason: format!("{function} did not start"),
            source: Some(source),
        },
        other => other,
    }
}

pub(super) fn left(give_up: Instant) -> Duration {
    give_up.saturating_duration_since(Instant::now())
}

fn last_words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("it ended with code {code}"),
        (None, None) => "it ended".into(),
    }
}
