//! One answer on its way from a worker to its caller: a channel for one value, of which laying it down and waking the
//! caller are two steps. The worker may put the second off; a caller that looks meanwhile finds its answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The worker's end. Dropped without an answer, it tells the caller so.
pub(super) struct Reply<T>(Arc<Place<T>>);

/// The caller's end: a future of the answer, `None` when there will be none.
pub(super) struct Answer<T>(Arc<Place<T>>);

struct Place<T>(Mutex<State<T>>);

enum State<T> {
    /// No answer yet; whom to wake, once the caller has asked.
    Awaited(Option<Waker>),
    Answered(T),
    /// One of the two has gone, or the answer has been taken.
    Over,
}

pub(super) fn reply<T>() -> (Reply<T>, Answer<T>) {
    let place = Arc::new(Place(Mutex::new(State::Awaited(None))));
    (Reply(Arc::clone(&place)), Answer(place))
}

impl<T> Reply<T> {
    /// Whether the caller still waits.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(*self.0.state(), State::Awaited(_))
    }

    /// Lays the answer down, and says whom to wake. A caller that has left takes none; a secret in it is zeroed as it
    /// drops.
    pub(super) fn lay_down(&self, answer: T) -> Option<Waker> {
        let mut state = self.0.state();
        let State::Awaited(waker) = &mut *state else {
            return None;
        };
        let waker = waker.take();
        *state = State::Answered(answer);
        waker
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let State::Awaited(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Over;
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Future for Answer<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.state();
        match &mut *state {
            State::Awaited(Some(waker)) => waker.clone_from(context.waker()),
            State::Awaited(none) => *none = Some(context.waker().clone()),
            State::Answered(_) | State::Over => {
                let taken = std::mem::replace(&mut *state, State::Over);
                return Poll::Ready(match taken {
                    State::Answered(answer) => Some(answer),
                    _ => None,
                });
            }
        }
        Poll::Pending
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let untaken = std::mem::replace(&mut *self.0.state(), State::Over);
        // Not under the lock: a key that nobody took is queued to be destroyed, and who holds the queue may look here.
        drop(untaken);
    }
}

impl<T> Place<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<T>(answer: &mut Answer<T>, woken: &Arc<Woken>) -> Poll<Option<T>> {
        let waker = Waker::from(Arc::clone(woken));
        Pin::new(answer).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn an_answer_is_there_before_its_caller_is_woken() {
        let woken = Arc::default();
        let (reply, mut answer) = reply();
        assert!(poll(&mut answer, &woken).is_pending() && reply.is_awaited());
        let waker = reply.lay_down(7).expect("somebody waits");
        drop(reply);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert_eq!(poll(&mut answer, &woken), Poll::Ready(Some(7)));
        waker.wake();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn who_has_not_asked_yet_need_not_be_woken() {
        let (reply, mut answer) = reply();
        assert!(reply.lay_down(7).is_none());
        assert_eq!(poll(&mut answer, &Arc::default()), Poll::Ready(Some(7)));
    }

    #[test]
    fn who_is_given_up_is_woken_and_told() {
        let woken = Arc::default();
        let (reply, mut answer) = reply::<()>();
        assert!(poll(&mut answer, &woken).is_pending());
        drop(reply);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut answer, &woken), Poll::Ready(None));
    }

    #[test]
    fn an_answer_that_nobody_takes_is_dropped_at_once() {
        let secret = Arc::new(());
        let (reply, answer) = reply();
        drop(answer);
        assert!(!reply.is_awaited());
        assert!(reply.lay_down(Arc::clone(&secret)).is_none());
        assert_eq!(Arc::strong_count(&secret), 1);
    }
}
