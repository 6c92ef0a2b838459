//! Who may look at the token's objects, and who may change them.
//!
//! In one process the backend sees to that itself; workers do not see each other. `SoftHSM` 2.6.1 that is initialised
//! while another process writes an object takes the whole token for absent, and a login writes one. Workers of other
//! servers are not kept out.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::{HsmError, HsmResult};

/// Many look, or one changes.
#[derive(Debug, Default)]
pub(super) struct Objects {
    users: Mutex<Users>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Users {
    looking: usize,
    changing: bool,
    /// Those who wait to change go before those who come to look: there is always somebody who looks.
    waiting_to_change: usize,
}

/// What a request does to the objects of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing, or it finds one object that it knows to be there.
    None,
    /// Lists tokens or objects.
    Look,
    /// Makes or destroys an object, or logs in.
    Change,
}

/// Leave, until dropped.
#[derive(Debug)]
pub(super) struct Leave<'a>(&'a Objects, Access);

impl Objects {
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when the others are not done before `give_up`.
    pub(super) fn access(&self, access: Access, give_up: Instant) -> HsmResult<Leave<'_>> {
        if access == Access::None {
            return Ok(Leave(self, access));
        }
        let change = access == Access::Change;
        let mut users = self.users();
        users.waiting_to_change += usize::from(change);
        let free = loop {
            let busy = users.changing
                || if change {
                    users.looking > 0
                } else {
                    users.waiting_to_change > 0
                };
            if !busy {
                break true;
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            let waited = self.free.wait_timeout(users, left);
            users = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        users.waiting_to_change -= usize::from(change);
        if !free {
            drop(users);
            self.free.notify_all();
            return Err(HsmError::Unavailable {
                reason: "other workers look at the token's objects, or change them".into(),
                source: None,
            });
        }
        users.changing = change;
        users.looking += usize::from(!change);
        Ok(Leave(self, access))
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let Self(objects, access) = self;
        let mut users = objects.users();
        match access {
            Access::None => return,
            Access::Look => users.looking -= 1,
            Access::Change => users.changing = false,
        }
        drop(users);
        objects.free.notify_all();
    }
}
