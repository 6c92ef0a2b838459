//! How much work one decision may take, and all those of one request together.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The most steps of one decision. A step is a character of a pattern or of a text that is looked at, or a value that is
/// compared. Ordinary policies take some ten thousand; without a limit, one value of 8 KiB against the patterns of one
/// policy could take 10⁹.
pub const STEPS_MAX: usize = 4_000_000;

/// The most steps of all decisions of one request together: a `DeleteObjects` takes a thousand, and each of an ordinary
/// kind has some ten thousand steps.
pub const STEPS_OF_REQUEST_MAX: usize = 10 * STEPS_MAX;

/// The steps that the decisions of one request have left. Clones share them.
#[derive(Debug, Clone)]
pub struct RequestSteps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    left: AtomicUsize,
    logged: AtomicBool,
}

impl Default for RequestSteps {
    fn default() -> Self {
        Self::new(STEPS_OF_REQUEST_MAX)
    }
}

impl RequestSteps {
    pub(super) fn new(left: usize) -> Self {
        Self(Arc::new(Shared {
            left: AtomicUsize::new(left),
            logged: AtomicBool::new(false),
        }))
    }

    /// Decides with as many steps as one decision may have of those that are left. None: they were too few, and what was
    /// found means nothing.
    pub(super) fn decide<T>(&self, decide: impl FnOnce(&Steps) -> T) -> Option<T> {
        let lent = self.left().min(STEPS_MAX);
        let steps = Steps::new(lent);
        let decision = decide(&steps);
        let used = lent - steps.left.get();
        let spend = |left: usize| Some(left.saturating_sub(used));
        // What is spent is never refused.
        let _spent = self
            .0
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        (!steps.exhausted()).then_some(decision)
    }

    pub(super) fn left(&self) -> usize {
        self.0.left.load(Ordering::Relaxed)
    }

    /// Whether the log is to be told that the steps of this request do not suffice: once.
    pub(crate) fn is_to_be_logged(&self) -> bool {
        !self.0.logged.swap(true, Ordering::Relaxed)
    }
}

/// The steps that one decision has left.
#[derive(Debug)]
pub(super) struct Steps {
    left: Cell<usize>,
    exhausted: Cell<bool>,
}

#[cfg(test)]
impl Default for Steps {
    fn default() -> Self {
        Self::new(STEPS_MAX)
    }
}

impl Steps {
    pub(super) fn new(left: usize) -> Self {
        Self {
            left: Cell::new(left),
            exhausted: Cell::new(false),
        }
    }

    /// Takes so many. `false`: they are not there, and from now on none are. What is found then means nothing.
    pub(super) fn take(&self, steps: usize) -> bool {
        let left = self.left.get().checked_sub(steps);
        self.left.set(left.unwrap_or(0));
        self.exhausted.set(self.exhausted.get() || left.is_none());
        !self.exhausted.get()
    }

    /// Whether there were too few.
    pub(super) fn exhausted(&self) -> bool {
        self.exhausted.get()
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.left.get()
    }
}
