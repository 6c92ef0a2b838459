//! Bucket keys in the clear: the one place where a key outlives its request.
//!
//! A key leaves when its time is over, when it is used up, when there are too many, and at once when the KMS key above
//! it changes its state or its policy on this server. It is zeroed as soon as the last request that holds it ends. That a
//! KMS key may be used at all is not decided here: whoever takes a key from here has asked the KMS in the same request.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use super::bucket_key::BucketKey;
use super::record::{BucketKeyId, Uuid};
use crate::kms::{KeyId, KeyWatch};

/// The most bucket keys in memory. Beyond it the one whose time is over first makes room.
pub(super) const BUCKET_KEYS_MAX: usize = 4096;
/// The most data keys that one stay in memory wraps and unwraps: far below the 2^32 of SP 800-38D §8.3, although no
/// nonce here is random.
pub(super) const BUCKET_KEY_USES_MAX: u32 = 1 << 20;

/// Whose bucket key encrypts: of which bucket, and under which backing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) bucket: Uuid,
    /// The KMS key; none is the SSE-S3 key.
    pub(super) key: Option<KeyId>,
    /// The version of its backing key.
    pub(super) version: u32,
}

/// What a request looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    /// A key to wrap with.
    Current(Slot),
    /// The key with this id, to unwrap with.
    Id(BucketKeyId),
}

/// Counters of bucket keys, since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketKeyCounts {
    /// Data keys wrapped or unwrapped by a bucket key that was in memory.
    pub hits: u64,
    /// Bucket keys that the HSM was asked to wrap or unwrap.
    pub misses: u64,
    /// Bucket keys in memory now.
    pub held: usize,
}

/// Bucket keys in the clear.
pub(super) struct BucketKeyCache {
    lifetime: Duration,
    state: Mutex<State>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Default)]
struct State {
    entries: HashMap<BucketKeyId, Entry>,
    current: HashMap<Slot, BucketKeyId>,
    flights: HashMap<Wanted, Arc<tokio::sync::Mutex<Flown>>>,
    /// How often keys were flushed.
    flushes: u64,
    sweeping: bool,
}

struct Entry {
    key: Arc<BucketKey>,
    slot: Slot,
    until: Instant,
    uses_left: u32,
}

/// What became of the request that went to the HSM for all who wait.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Flown {
    /// It is on its way, or was given up by its client.
    #[default]
    NotYet,
    Failed,
}

/// The turn of one request to go to the HSM for a key that others may want, too.
#[must_use]
pub(super) struct Turn {
    cache: Arc<BucketKeyCache>,
    wanted: Wanted,
    guard: Option<OwnedMutexGuard<Flown>>,
    flushes: u64,
}

impl fmt::Debug for BucketKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketKeyCache({:?})", self.counts())
    }
}

impl BucketKeyCache {
    /// An empty cache whose keys stay for `lifetime`; for none at all if that is zero.
    pub(super) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            state: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// A key that is there, for one use.
    pub(super) fn find(&self, wanted: &Wanted) -> Option<Arc<BucketKey>> {
        self.find_at(wanted, Instant::now())
    }

    fn find_at(&self, wanted: &Wanted, now: Instant) -> Option<Arc<BucketKey>> {
        let mut state = self.state();
        let id = match wanted {
            Wanted::Current(slot) => *state.current.get(slot)?,
            Wanted::Id(id) => *id,
        };
        let entry = state.entries.get_mut(&id)?;
        if entry.until <= now || entry.uses_left == 0 {
            state.remove(&id);
            return None;
        }
        entry.uses_left -= 1;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&entry.key))
    }

    /// Waits until it is this request's turn to go to the HSM, or until another one has been there: then the key may be
    /// here now. After a failure nobody waits for the next one's: everybody has a turn.
    pub(super) async fn turn(self: &Arc<Self>, wanted: Wanted) -> Result<Turn, Arc<BucketKey>> {
        let guard = if self.lifetime.is_zero() {
            None
        } else {
            let flight = Arc::clone(self.state().flights.entry(wanted).or_default());
            let guard = flight.lock_owned().await;
            (*guard == Flown::NotYet).then_some(guard)
        };
        let turn = Turn {
            cache: Arc::clone(self),
            wanted,
            guard,
            flushes: self.state().flushes,
        };
        if let Some(key) = self.find(&wanted) {
            return Err(key);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        Ok(turn)
    }

    /// Drops a key.
    pub(super) fn forget(&self, id: &BucketKeyId) {
        self.state().remove(id);
    }

    /// Lets a key wrap nothing new. Whoever looks for it by its id finds it for as long as it stays.
    pub(super) fn retire(&self, id: &BucketKeyId) {
        self.state().current.retain(|_, current| current != id);
    }

    /// Drops every key under a KMS key.
    fn flush(&self, key: KeyId) {
        let mut state = self.state();
        state.flushes += 1;
        state.retain(|entry| entry.slot.key != Some(key));
    }

    /// Drops the keys whose time is over. Returns when the next one's is.
    fn sweep_at(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        state.retain(|entry| entry.until > now);
        let next = state.entries.values().map(|entry| entry.until).min();
        state.sweeping = next.is_some();
        next
    }

    fn insert_at(self: &Arc<Self>, turn: &Turn, slot: Slot, key: &Arc<BucketKey>, now: Instant) {
        let mut state = self.state();
        // A flush since the HSM was asked may have been meant for this key.
        if self.lifetime.is_zero() || state.flushes != turn.flushes {
            return;
        }
        if state.entries.len() >= BUCKET_KEYS_MAX && !state.entries.contains_key(&key.id) {
            let oldest = state.entries.iter().min_by_key(|(_, entry)| entry.until);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                state.remove(&id);
            }
        }
        if let Wanted::Current(_) = turn.wanted {
            state.current.insert(slot, key.id);
        }
        let entry = Entry {
            key: Arc::clone(key),
            slot,
            until: now + self.lifetime,
            uses_left: BUCKET_KEY_USES_MAX - 1,
        };
        state.entries.insert(key.id, entry);
        if !state.sweeping {
            state.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.lifetime));
        }
    }

    /// What was counted.
    pub(super) fn counts(&self) -> BucketKeyCounts {
        BucketKeyCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            held: self.state().entries.len(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyWatch for BucketKeyCache {
    fn changed(&self, key: KeyId) {
        self.flush(key);
    }
}

/// Drops keys as their time runs out, until there are none.
async fn sweep(cache: Weak<BucketKeyCache>, mut pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(cache) = cache.upgrade() else { return };
        let now = Instant::now();
        let Some(next) = cache.sweep_at(now) else {
            return;
        };
        pause = next.saturating_duration_since(now);
    }
}

impl State {
    fn remove(&mut self, id: &BucketKeyId) {
        if let Some(entry) = self.entries.remove(id)
            && self.current.get(&entry.slot) == Some(id)
        {
            self.current.remove(&entry.slot);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.entries.retain(|_, entry| keep(entry));
        let entries = &self.entries;
        self.current.retain(|_, id| entries.contains_key(id));
    }
}

impl Turn {
    /// The HSM has answered: the key is kept for all who want it.
    pub(super) fn succeed(self, slot: Slot, key: &Arc<BucketKey>) {
        self.cache.insert_at(&self, slot, key, Instant::now());
    }

    /// The HSM has failed: whoever waits goes there alone.
    pub(super) fn fail(mut self) {
        if let Some(guard) = &mut self.guard {
            **guard = Flown::Failed;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        // Whoever comes later does not wait in the same row.
        let mut state = self.cache.state();
        let flight = OwnedMutexGuard::mutex(&guard);
        if state
            .flights
            .get(&self.wanted)
            .is_some_and(|there| Arc::ptr_eq(there, flight))
        {
            state.flights.remove(&self.wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use strongroom_hsm::DataKey;

    use super::*;
    use crate::store::record::{BucketKeyRecord, BucketKeyWrap};

    const LIFETIME: Duration = Duration::from_mins(5);

    fn cache() -> Arc<BucketKeyCache> {
        Arc::new(BucketKeyCache::new(LIFETIME))
    }

    fn id(number: usize) -> BucketKeyId {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&(number as u64).to_be_bytes());
        BucketKeyId::from_bytes(id)
    }

    fn bucket_key(number: usize) -> Arc<BucketKey> {
        Arc::new(BucketKey {
            id: id(number),
            bucket: [1; 16],
            record: BucketKeyRecord {
                created_ms: 0,
                wrap: BucketKeyWrap::S3(Vec::new()),
            },
            secret: DataKey::random().expect("randomness"),
        })
    }

    fn slot() -> Slot {
        Slot {
            bucket: [1; 16],
            key: None,
            version: 1,
        }
    }

    async fn insert(cache: &Arc<BucketKeyCache>, number: usize, at: Instant) {
        let turn = cache.turn(Wanted::Id(id(number))).await.expect("a miss");
        cache.insert_at(&turn, slot(), &bucket_key(number), at);
    }

    #[tokio::test]
    async fn a_key_stays_for_its_time_and_no_longer() {
        let (cache, begin) = (cache(), Instant::now());
        insert(&cache, 1, begin).await;
        let wanted = Wanted::Id(id(1));
        let last = begin + LIFETIME.saturating_sub(Duration::from_nanos(1));
        assert!(cache.find_at(&wanted, last).is_some());
        assert!(cache.find_at(&wanted, begin + LIFETIME).is_none());
        assert_eq!(cache.counts().held, 0);
    }

    #[tokio::test]
    async fn a_use_does_not_lengthen_the_stay() {
        let (cache, begin) = (cache(), Instant::now());
        insert(&cache, 1, begin).await;
        let wanted = Wanted::Id(id(1));
        assert!(cache.find_at(&wanted, begin + LIFETIME / 2).is_some());
        assert!(cache.find_at(&wanted, begin + LIFETIME).is_none());
    }

    #[tokio::test]
    async fn a_key_is_used_up_at_the_limit_and_not_before() {
        let (cache, begin) = (cache(), Instant::now());
        insert(&cache, 1, begin).await;
        let wanted = Wanted::Id(id(1));
        // The request that brought it was the first use.
        for _ in 1..BUCKET_KEY_USES_MAX {
            assert!(cache.find_at(&wanted, begin).is_some());
        }
        assert!(cache.find_at(&wanted, begin).is_none());
        assert_eq!(cache.counts().held, 0);
    }

    #[tokio::test]
    async fn beyond_the_limit_the_oldest_makes_room() {
        let (cache, begin) = (cache(), Instant::now());
        for number in 0..BUCKET_KEYS_MAX {
            let at = begin + Duration::from_millis(number as u64);
            insert(&cache, number, at).await;
        }
        assert_eq!(cache.counts().held, BUCKET_KEYS_MAX);
        insert(&cache, BUCKET_KEYS_MAX, begin + LIFETIME / 2).await;
        assert_eq!(cache.counts().held, BUCKET_KEYS_MAX);
        assert!(cache.find_at(&Wanted::Id(id(0)), begin).is_none());
        assert!(cache.find_at(&Wanted::Id(id(1)), begin).is_some());
    }

    #[tokio::test]
    async fn what_the_hsm_answers_after_a_flush_is_not_kept() {
        let cache = cache();
        let turn = cache.turn(Wanted::Id(id(1))).await.expect("a miss");
        let key = KeyId::parse("1234abcd-12ab-34cd-56ef-1234567890ab").expect("a key id");
        cache.changed(key);
        turn.succeed(slot(), &bucket_key(1));
        assert_eq!(cache.counts().held, 0);
    }

    #[tokio::test]
    async fn a_key_that_nobody_asks_for_leaves_memory_as_well() {
        let cache = Arc::new(BucketKeyCache::new(Duration::from_millis(20)));
        insert(&cache, 1, Instant::now()).await;
        let held = Arc::downgrade(&cache.find(&Wanted::Id(id(1))).expect("there"));
        assert!(held.upgrade().is_some());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(held.upgrade().is_none());
    }

    #[tokio::test]
    async fn who_was_given_up_by_its_client_leaves_its_turn_to_the_next() {
        let cache = cache();
        let wanted = Wanted::Current(slot());
        let first = cache.turn(wanted).await.expect("a miss");
        let next = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { cache.turn(wanted).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(first);
        assert!(next.await.expect("no panic"));
    }

    #[tokio::test]
    async fn after_a_failure_everybody_has_a_turn_at_once() {
        let cache = cache();
        let wanted = Wanted::Current(slot());
        let first = cache.turn(wanted).await.expect("a miss");
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { cache.turn(wanted).await })
            })
            .collect();
        tokio::task::yield_now().await;
        first.fail();
        let mut turns = Vec::new();
        for one in waiting {
            // None waits for another one's turn to end.
            turns.push(one.await.expect("no panic").expect("a turn"));
        }
        assert_eq!(turns.len(), 3);
    }
}
