//! Time of day. Everything that decides by the calendar asks a [`Clock`], so that a test can turn it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use time::OffsetDateTime;

/// Tells the time of day, in UTC.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now.
    fn now(&self) -> OffsetDateTime;
}

/// The clock of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that asks the machine"
        )]
        OffsetDateTime::now_utc()
    }
}

/// The clock of the machine, set forward or back.
#[derive(Debug, Default, Clone)]
pub struct ShiftedClock {
    seconds: Arc<AtomicI64>,
}

impl ShiftedClock {
    /// Moves the clock by `seconds` from the machine's.
    pub fn shift_to(&self, seconds: i64) {
        self.seconds.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> OffsetDateTime {
        SystemClock.now() + time::Duration::seconds(self.seconds.load(Ordering::SeqCst))
    }
}
