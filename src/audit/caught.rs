//! A call that panics is recorded as every other one.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use futures::future::BoxFuture;

/// Operator: our bug. What the panic said, if it said anything.
#[derive(Debug, thiserror::Error)]
#[error("a call panicked: {0}")]
pub(crate) struct Panicked(String);

/// Answers a call, also one that panics. What it leaves half done is what its death at the same place would leave.
///
/// Boxed: futures of whole calls, one within the other, cost the compiler minutes.
///
/// # Errors
///
/// [`Panicked`].
pub(crate) fn caught<'a, T: 'a>(
    answer: impl Future<Output = T> + Send + 'a,
) -> BoxFuture<'a, Result<T, Panicked>> {
    let answer = AssertUnwindSafe(answer).catch_unwind();
    answer
        .map(|answer| answer.map_err(|panic| panicked(&*panic)))
        .boxed()
}

fn panicked(panic: &(dyn Any + Send)) -> Panicked {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Panicked(text.unwrap_or_default())
}
