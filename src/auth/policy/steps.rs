//! How much work one decision may take.

use std::cell::Cell;

/// The most steps of one decision. A step is a character of a pattern or of a text that is looked at, or a value that is
/// compared. Ordinary policies take some ten thousand; without a limit, one value of 8 KiB against the patterns of one
/// policy could take 10⁹.
pub const STEPS_MAX: usize = 4_000_000;

/// The steps that one decision has left.
#[derive(Debug)]
pub(super) struct Steps {
    left: Cell<usize>,
    exhausted: Cell<bool>,
}

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
