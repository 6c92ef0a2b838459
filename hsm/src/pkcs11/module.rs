//! The module library: one per path and process, initialised, and initialised again when nobody is inside.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    TryLockError,
};
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::error::{device, unavailable};
use super::probe::Abilities;
use super::raw::Raw;
use crate::{BoxError, HsmError, HsmResult, ToolSpec};

/// How long a call waits for a re-initialisation under way.
const ENTER_WAIT: Duration = Duration::from_secs(1);
/// How long a re-initialisation waits for the calls inside the module to return.
const EXCLUSIVE_WAIT: Duration = Duration::from_millis(500);
/// How long a tool is made without another trial after one that went well: a trial of RSA makes a pair, as slowly as the
/// tool itself is made.
const TRIAL_TRUSTED_FOR: Duration = Duration::from_mins(10);
/// How long making an object and looking for one wait for each other.
const OBJECTS_WAIT: Duration = Duration::from_secs(2);
/// How long one who wants to change objects may keep others from beginning to look. There is always somebody who looks;
/// but one of them may hang.
const PRECEDENCE: Duration = Duration::from_millis(250);
/// How often a waiter looks. Waiting is rare: a lock that queues its writers would cost every call instead.
const LOCK_POLL: Duration = Duration::from_millis(1);

/// A module library. Two tokens behind one library share it, since `C_Initialize` and `C_Finalize` are the process's.
#[derive(Debug)]
pub(super) struct Library {
    path: PathBuf,
    init_args: Option<CString>,
    /// Read-locked during every call into the module, write-locked to initialise it.
    phase: RwLock<Phase>,
    anchors: Mutex<Anchors>,
    /// Counts logins, each before it is tried.
    logins: AtomicU64,
    /// Read-locked to look for tokens and objects, write-locked to make or destroy an object.
    objects: RwLock<()>,
    /// Whether one waits to change objects, and has precedence.
    change_waits: AtomicBool,
    /// What each token was found to be able to do since the module was initialised.
    abilities: Mutex<HashMap<Slot, (u64, Arc<Abilities>)>>,
    /// Which tools a token was last found to make and use, in which initialisation and when.
    tools: Mutex<HashMap<(Slot, ToolSpec), (u64, Instant)>>,
}

#[derive(Debug, Default)]
struct Phase {
    loaded: Option<(Pkcs11, Arc<Raw>)>,
    /// Counts initialisations. Sessions and handles of an earlier one mean nothing, or something else.
    generation: u64,
    ready: bool,
    /// Whether the initialisation in force is ours to end.
    owned: bool,
}

/// The logged-in session of each token that is never closed.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    generation: u64,
    sessions: HashMap<Slot, Session>,
}

/// Proof that the module is initialised, and will be for as long as this lives.
pub(super) struct Inside<'a>(RwLockReadGuard<'a, Phase>);

impl Library {
    /// The library at `path`, links resolved. Nothing is loaded yet.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when there is no such file; [`HsmError::Config`] when it is to be initialised with
    /// other arguments than before.
    pub(super) fn at(path: &Path, init_args: Option<&str>) -> HsmResult<Arc<Self>> {
        static REGISTRY: OnceLock<Mutex<HashMap<PathBuf, Arc<Library>>>> = OnceLock::new();
        let path = path
            .canonicalize()
            .map_err(|source| HsmError::Unavailable {
                reason: format!("no PKCS#11 module at {}", path.display()),
                source: Some(source.into()),
            })?;
        let init_args = init_args.map(CString::new).transpose();
        let init_args = init_args
            .map_err(|_nul| HsmError::Config("the init arguments of a module have a NUL".into()))?;
        let registry = REGISTRY.get_or_init(Mutex::default);
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        let library = registry.entry(path.clone()).or_insert_with(|| {
            Arc::new(Self {
                path,
                init_args: init_args.clone(),
                phase: RwLock::default(),
                anchors: Mutex::default(),
                logins: AtomicU64::new(0),
                objects: RwLock::default(),
                change_waits: AtomicBool::new(false),
                abilities: Mutex::default(),
                tools: Mutex::default(),
            })
        });
        if library.init_args != init_args {
            return Err(HsmError::Config(
                "two tokens behind one module have different init arguments".into(),
            ));
        }
        Ok(Arc::clone(library))
    }

    /// Loads and initialises the module unless that is done. Returns the generation in force.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when it cannot be loaded, does not initialise, or a call inside forbids it.
    pub(super) fn initialise(&self) -> HsmResult<u64> {
        // Read first, also while another thread initialises: once that is done, the lock is hardly ever free of readers.
        let ready = waiting(ENTER_WAIT, || self.phase.try_read())
            .and_then(|phase| phase.ready.then_some(phase.generation));
        if let Some(generation) = ready {
            return Ok(generation);
        }
        self.exclusively(|phase| {
            if !phase.ready {
                self.bring_up(phase)?;
            }
            Ok(phase.generation)
        })
    }

    /// Finalises the module and initialises it again, unless somebody has done so since `generation`. Returns the
    /// generation in force.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when a call is inside, when the initialisation is not ours, or when it fails.
    pub(super) fn reinitialise(&self, generation: u64) -> HsmResult<u64> {
        self.exclusively(|phase| {
            if phase.ready && phase.generation == generation {
                if !phase.owned {
                    return Err(unavailable(
                        "another part of the process holds the module initialised",
                    ));
                }
                phase.ready = false;
                if let Some((context, _)) = &phase.loaded
                    && let Err(error) = context.clone().finalize()
                {
                    tracing::warn!(event = "hsm.finalize", error = %error, "C_Finalize failed");
                }
            }
            if !phase.ready {
                self.bring_up(phase)?;
            }
            Ok(phase.generation)
        })
    }

    /// Closes the anchor sessions and finalises the module, if it is ours and nobody is inside.
    pub(super) fn retire(&self) {
        let done = self.exclusively(|phase| {
            if !phase.ready || !phase.owned {
                return Ok(());
            }
            self.anchors(EXCLUSIVE_WAIT)?.close_all(phase.generation);
            phase.ready = false;
            if let Some((context, _)) = &phase.loaded {
                context.clone().finalize().map_err(device("C_Finalize"))?;
            }
            Ok(())
        });
        if let Err(error) = done {
            tracing::debug!(event = "hsm.retire", error = %error, "closing the module");
        }
    }

    fn bring_up(&self, phase: &mut Phase) -> HsmResult<()> {
        let (_, raw) = match &mut phase.loaded {
            Some(loaded) => loaded,
            none => none.insert(self.load()?),
        };
        match raw.initialize(self.init_args.as_ref()) {
            Ok(()) => phase.owned = true,
            // Ours still if we brought it up before and `C_Finalize` failed; else another's, and not to be ended.
            Err(failed) if failed.code() == RvError::CryptokiAlreadyInitialized => {}
            Err(failed) => return Err(self.unavailable("C_Initialize failed", failed.into())),
        }
        phase.generation += 1;
        phase.ready = true;
        Ok(())
    }

    fn load(&self) -> HsmResult<(Pkcs11, Arc<Raw>)> {
        let context = Pkcs11::new(&self.path)
            .map_err(|error| self.unavailable("the module does not load", error.into()))?;
        let raw = Raw::load(&self.path)
            .map_err(|error| self.unavailable("the module has no functions to call", error))?;
        Ok((context, Arc::new(raw)))
    }

    fn unavailable(&self, what: &str, source: BoxError) -> HsmError {
        HsmError::Unavailable {
            reason: format!("{what} ({})", self.path.display()),
            source: Some(source),
        }
    }

    /// Enters the module as it was initialised in `generation`.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when it has been initialised again since, or is being so for too long.
    pub(super) fn enter(&self, generation: u64) -> HsmResult<Inside<'_>> {
        let phase = waiting(ENTER_WAIT, || self.phase.try_read())
            .ok_or_else(|| unavailable("the module is being initialised"))?;
        if phase.ready && phase.generation == generation {
            return Ok(Inside(phase));
        }
        Err(unavailable(
            "the module has been initialised again since this session was opened",
        ))
    }

    /// The anchor sessions, held for the length of a login: first logins come one after the other.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when another thread's login takes longer than `wait`.
    pub(super) fn anchors(&self, wait: Duration) -> HsmResult<MutexGuard<'_, Anchors>> {
        waiting(wait, || self.anchors.try_lock())
            .ok_or_else(|| unavailable("another login to the token is under way"))
    }

    /// How many logins have been tried. A session that was opened at the same count and is logged in has been so all
    /// the time; at another, the token had logged it out in between.
    pub(super) fn logins(&self) -> u64 {
        self.logins.load(Ordering::SeqCst)
    }

    /// To be called before a login is tried.
    pub(super) fn count_login(&self) {
        self.logins.fetch_add(1, Ordering::SeqCst);
    }

    /// Leave to look for tokens and objects.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when an object has been in the making for too long.
    pub(super) fn looking(&self) -> HsmResult<RwLockReadGuard<'_, ()>> {
        waiting(OBJECTS_WAIT, || {
            if self.change_waits.load(Ordering::SeqCst) {
                return Err(TryLockError::WouldBlock);
            }
            self.objects.try_read()
        })
        .ok_or_else(|| unavailable("an object is being made or destroyed"))
    }

    /// Leave to make or destroy an object while no other thread of ours does, or looks: `SoftHSM` answers
    /// `CKR_GENERAL_ERROR` to either otherwise (its #573). Other processes are not kept out.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when the others take too long.
    pub(super) fn changing(&self) -> HsmResult<RwLockWriteGuard<'_, ()>> {
        let mut until = None;
        let changing = waiting(OBJECTS_WAIT, || {
            let now = Instant::now();
            match until {
                // Another is before us. Those who come later do not pass us for ever: they wait for the same flag.
                None if self.change_waits.swap(true, Ordering::SeqCst) => {
                    return Err(TryLockError::WouldBlock);
                }
                None => until = Some((now + PRECEDENCE, true)),
                Some((at, true)) if now >= at => {
                    until = Some((at, false));
                    self.change_waits.store(false, Ordering::SeqCst);
                }
                Some(_) => {}
            }
            self.objects.try_write()
        });
        if matches!(until, Some((_, true))) {
            self.change_waits.store(false, Ordering::SeqCst);
        }
        changing.ok_or_else(|| unavailable("other threads look for objects"))
    }

    /// What the token in `slot` was found to be able to do, if it has been tried since the module was initialised.
    pub(super) fn abilities(&self, generation: u64, slot: Slot) -> Option<Arc<Abilities>> {
        let known = self
            .abilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (of, abilities) = known.get(&slot)?;
        (*of == generation).then(|| Arc::clone(abilities))
    }

    pub(super) fn remember(&self, generation: u64, slot: Slot, abilities: Arc<Abilities>) {
        let mut known = self
            .abilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.insert(slot, (generation, abilities));
    }

    /// Whether the token in `slot` was found to make and use such tools, lately and since the module was initialised.
    pub(super) fn has_tool(&self, generation: u64, slot: Slot, spec: ToolSpec) -> bool {
        let known = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&(slot, spec))
            .is_some_and(|(of, at)| *of == generation && at.elapsed() < TRIAL_TRUSTED_FOR)
    }

    /// Remembers how trying such a tool went.
    pub(super) fn tried_tool(&self, generation: u64, slot: Slot, spec: ToolSpec, works: bool) {
        let mut known = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        if works {
            known.insert((slot, spec), (generation, Instant::now()));
        } else {
            known.remove(&(slot, spec));
        }
    }

    fn exclusively<T>(&self, work: impl FnOnce(&mut Phase) -> HsmResult<T>) -> HsmResult<T> {
        let mut phase = waiting(EXCLUSIVE_WAIT, || self.phase.try_write())
            .ok_or_else(|| unavailable("a call inside the module forbids initialising it"))?;
        work(&mut phase)
    }
}

impl Inside<'_> {
    /// The module's functions.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when it is not loaded.
    pub(super) fn context(&self) -> HsmResult<&Pkcs11> {
        self.0
            .loaded
            .as_ref()
            .map(|(context, _)| context)
            .ok_or_else(|| unavailable("no module"))
    }

    /// Those that are called directly.
    ///
    /// # Errors
    ///
    /// As [`Inside::context`].
    pub(super) fn raw(&self) -> HsmResult<Arc<Raw>> {
        let loaded = self.0.loaded.as_ref();
        loaded
            .map(|(_, raw)| Arc::clone(raw))
            .ok_or_else(|| unavailable("no module"))
    }
}

impl Anchors {
    pub(super) fn holds(&self, generation: u64, slot: Slot) -> bool {
        self.generation == generation && self.sessions.contains_key(&slot)
    }

    /// Closes the anchors of this generation.
    fn close_all(&mut self, generation: u64) {
        let sessions = std::mem::take(&mut self.sessions);
        if self.generation != generation {
            return;
        }
        for anchor in sessions.into_values() {
            if let Err(error) = anchor.close() {
                tracing::debug!(event = "hsm.close", error = %error, "closing an anchor session");
            }
        }
    }

    /// Keeps `anchor`, which must not close itself when dropped. Anchors of an earlier generation are forgotten: their
    /// handles may be those of new sessions.
    pub(super) fn keep(&mut self, generation: u64, slot: Slot, anchor: Session) {
        if self.generation != generation {
            self.sessions.clear();
            self.generation = generation;
        }
        if let Some(old) = self.sessions.insert(slot, anchor)
            && let Err(error) = old.close()
        {
            tracing::debug!(event = "hsm.close", error = %error, "closing the old anchor session");
        }
    }
}

/// Tries a lock until it is had or `patience` is over. A poisoned lock is taken: what it guards is valid after any
/// step.
fn waiting<G>(
    patience: Duration,
    mut lock: impl FnMut() -> Result<G, TryLockError<G>>,
) -> Option<G> {
    let give_up = Instant::now() + patience;
    loop {
        match lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= give_up => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(generation: u64) -> Library {
        Library {
            path: PathBuf::from("/nonexistent/module.so"),
            init_args: None,
            phase: RwLock::new(Phase {
                loaded: None,
                generation,
                ready: true,
                owned: true,
            }),
            anchors: Mutex::default(),
            logins: AtomicU64::new(0),
            objects: RwLock::default(),
            change_waits: AtomicBool::new(false),
            abilities: Mutex::default(),
            tools: Mutex::default(),
        }
    }

    /// Others look all the time, so that the lock is never free by itself.
    #[test]
    fn who_wants_to_change_objects_comes_to_it_among_many_who_look() {
        let library = ready(1);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut mine = library.looking().expect("looks");
                    while !done.load(Ordering::SeqCst) {
                        // The next one before the last one goes: one of the two threads looks at any time.
                        std::thread::sleep(Duration::from_millis(1));
                        drop(mine);
                        mine = library.looking().expect("looks");
                    }
                });
            }
            for _ in 0..20 {
                let changed = library.changing().map(drop);
                if changed.is_err() {
                    done.store(true, Ordering::SeqCst);
                }
                changed.expect("changes");
            }
            done.store(true, Ordering::SeqCst);
        });
    }

    #[test]
    fn one_who_hangs_while_looking_keeps_no_other_from_it() {
        let library = ready(1);
        let _hung = library.looking().expect("looks");
        std::thread::scope(|scope| {
            let change = scope.spawn(|| library.changing().map(drop));
            std::thread::sleep(PRECEDENCE / 5);
            let began = Instant::now();
            drop(library.looking().expect("looks"));
            assert!(began.elapsed() < OBJECTS_WAIT / 2);
            let refused = change.join().expect("does not panic");
            assert!(
                matches!(refused, Err(HsmError::Unavailable { .. })),
                "{refused:?}"
            );
        });
    }

    #[test]
    fn a_call_inside_forbids_initialising_again() {
        let library = ready(1);
        let _hung = library.enter(1).expect("enters");
        let refused = library.reinitialise(1);
        assert!(
            matches!(refused, Err(HsmError::Unavailable { .. })),
            "{refused:?}"
        );
        library.enter(1).expect("the module is as it was");
    }

    #[test]
    fn a_session_of_an_earlier_initialisation_does_not_enter() {
        let library = ready(2);
        assert!(matches!(
            library.enter(1).err(),
            Some(HsmError::Unavailable { .. })
        ));
    }

    #[test]
    fn the_module_is_initialised_again_once_for_all_that_ask() {
        let library = ready(2);
        assert_eq!(
            library.reinitialise(1).expect("somebody else has done it"),
            2
        );
    }

    #[test]
    fn a_module_that_somebody_else_initialised_is_not_finalised() {
        let library = ready(1);
        library.phase.write().expect("not poisoned").owned = false;
        let refused = library.reinitialise(1);
        assert!(
            matches!(refused, Err(HsmError::Unavailable { .. })),
            "{refused:?}"
        );
        library.enter(1).expect("the module is as it was");
    }
}
