//! Keys that were made for a caller who may have gone.

use std::sync::Weak;
use std::time::Instant;

use super::pool::Pool;
use super::worker::{Done, Job, Seat, guarded};
use crate::BackingKeyId;

/// A key that was just made, on its way to who asked for it. Dropped before it is [`Fresh::received`], it is destroyed
/// again: nobody has its blob or its canary, so nobody can have recorded it, and on a TPM it holds an NV counter.
///
/// The caller may leave at any moment until then: while the key is being made, when the answer is sent, and when it is
/// there but not yet looked at.
pub(super) struct Fresh<K> {
    id: BackingKeyId,
    key: K,
    /// Not the pool itself, whose queue holds the job that holds this.
    pool: Weak<Pool>,
    received: bool,
}

impl<K: Clone> Fresh<K> {
    pub(super) fn new(id: BackingKeyId, key: K, pool: &Weak<Pool>) -> Self {
        Self {
            id,
            key,
            pool: Weak::clone(pool),
            received: false,
        }
    }

    /// The caller has it.
    pub(super) fn received(mut self) -> K {
        self.received = true;
        self.key.clone()
    }
}

impl<K> Drop for Fresh<K> {
    fn drop(&mut self) {
        // Without a pool there is no worker left, and the process is about to end.
        if let Some(pool) = self.pool.upgrade().filter(|_| !self.received) {
            pool.queue_clean_up(Box::new(CleanUp { id: self.id }));
        }
    }
}

/// Destroys a key that nobody has heard of. Once: if it fails, the key stays, and with it the intent that its maker has
/// recorded.
struct CleanUp {
    id: BackingKeyId,
}

impl Job for CleanUp {
    fn wanted(&self, _now: Instant) -> bool {
        true
    }

    fn run(&mut self, seat: &mut Seat<'_>) -> Done {
        let id = self.id;
        let spoilt = match guarded(|| seat.session()?.destroy_key(&id)) {
            Ok(()) => {
                tracing::info!(event = "hsm.key_withdrawn", backing_key = %id,
                    "a key that was made too late for its caller is destroyed again");
                false
            }
            Err(error) => {
                tracing::warn!(event = "hsm.key_not_withdrawn", backing_key = %id, %error,
                    "a key that was made too late for its caller could not be destroyed");
                error.spoils_session()
            }
        };
        Done {
            waker: None,
            spoilt,
        }
    }
}
