//! What the token can do: found out by one worker, told to all.
//!
//! A trial is some hundred calls. Were each worker to make its own, a token at the end of a network would never come to
//! anything else. So the parent keeps what was found, together with what the worker says of token and library: one that
//! speaks of another token, or of another version of the library, is to find out anew.
//!
//! The first trial has a deadline of its own, [`TRIAL_DEADLINE`], and a thread of its own: who opens a session waits for it
//! as long as a start may take, then hears that it is under way, and a later one finds it done.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::link::{Link, left};
use super::message::{Answer, Request};
use super::wire::Broken;
use crate::pkcs11::Abilities;
use crate::{HsmError, HsmResult};

/// How long a trial may take.
const TRIAL_DEADLINE: Duration = Duration::from_mins(1);

/// How long is believed what a trial has found. That the preferred scheme works, and nothing speaks against the token:
/// for ever. Anything else may have been an illness, or be mended by the operator.
const LESS_BELIEVED_FOR: Duration = Duration::from_hours(1);
const REFUSAL_BELIEVED_FOR: Duration = Duration::from_mins(1);
const NOTHING_BELIEVED_FOR: Duration = Duration::from_secs(5);

/// What was found out, and whether somebody is about it.
#[derive(Debug, Default)]
pub(super) struct Trials {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Known>,
    under_way: bool,
}

#[derive(Debug)]
struct Known {
    /// Of what token and library.
    of: String,
    abilities: Arc<Abilities>,
    until: Option<Instant>,
}

/// A worker that has logged in to a token, and what the token can do.
pub(super) type Tried = (Link, Arc<Abilities>);

/// A trial under way, until dropped.
struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let trials = &self.0.trials;
        trials.state().under_way = false;
        trials.ended.notify_all();
    }
}

impl Trials {
    /// Waits until no trial is under way.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when one still is at `give_up`.
    pub(super) fn wait(&self, give_up: Instant) -> HsmResult<()> {
        let mut state = self.state();
        while state.under_way {
            let left = left(give_up);
            if left.is_zero() {
                return Err(being_tried());
            }
            let waited = self.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn known(&self, of: &str) -> Option<Arc<Abilities>> {
        let state = self.state();
        let known = state.known.as_ref().filter(|known| known.of == of)?;
        let believed = known.until.is_none_or(|until| Instant::now() < until);
        believed.then(|| Arc::clone(&known.abilities))
    }

    fn remember(&self, of: String, abilities: Arc<Abilities>, allow_unsafe: bool) {
        let refused = !allow_unsafe && !abilities.dangers.is_empty();
        let believed_for = if abilities.scheme().is_err() {
            Some(NOTHING_BELIEVED_FOR)
        } else if refused {
            Some(REFUSAL_BELIEVED_FOR)
        } else if abilities.all_is_well() {
            None
        } else {
            Some(LESS_BELIEVED_FOR)
        };
        self.state().known = Some(Known {
            of,
            abilities,
            until: believed_for.map(|time| Instant::now() + time),
        });
    }

    /// Whether this is the one to make a trial.
    fn begin(&self) -> bool {
        !std::mem::replace(&mut self.state().under_way, true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The abilities of the token that `link`'s worker has logged in to, which it says is `of`: known, or tried now.
///
/// # Errors
///
/// [`HsmError::Unavailable`] when that is not done at `give_up`; what the trial says.
pub(super) fn abilities(
    shared: &Arc<Shared>,
    link: Link,
    of: String,
    allow_unsafe: bool,
    give_up: Instant,
) -> HsmResult<Tried> {
    loop {
        if let Some(abilities) = shared.trials.known(&of) {
            return Ok((link, abilities));
        }
        if shared.trials.begin() {
            return try_now(shared, link, of, allow_unsafe, give_up);
        }
        shared.trials.wait(give_up)?;
    }
}

fn try_now(
    shared: &Arc<Shared>,
    mut link: Link,
    of: String,
    allow_unsafe: bool,
    give_up: Instant,
) -> HsmResult<Tried> {
    let under_way = UnderWay(Arc::clone(shared));
    let (reply, answer) = sync_channel(1);
    let work = move || {
        let found = match link.exchange(&Request::Try, Instant::now() + TRIAL_DEADLINE) {
            Ok(Answer::Abilities(abilities)) => {
                let abilities = Arc::new(abilities);
                let trials = &under_way.0.trials;
                trials.remember(of, Arc::clone(&abilities), allow_unsafe);
                Ok((link, abilities))
            }
            Ok(_) => {
                let other = Broken::Malformed("an answer to another question");
                Err(link.fail(other, TRIAL_DEADLINE))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &found {
            tracing::warn!(event = "hsm.trial", error = %error, "trying what the token can do");
        }
        drop(under_way);
        // If nobody waits any more, the worker ends here: the next one is told what this one found.
        let _ = reply.send(found);
    };
    std::thread::Builder::new()
        .name("hsm-trial".into())
        .spawn(work)
        .map_err(|source| HsmError::Unavailable {
            reason: "no thread to try the token".into(),
            source: Some(source.into()),
        })?;
    answer.recv_timeout(left(give_up)).unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => being_tried(),
            RecvTimeoutError::Disconnected => HsmError::Unavailable {
                reason: "the trial of the token was given up".into(),
                source: None,
            },
        })
    })
}

fn being_tried() -> HsmError {
    HsmError::Unavailable {
        reason: "the token is being tried".into(),
        source: None,
    }
}
