//! A call that panics is recorded as every other one.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

/// Operator: our bug. What the panic said, if it said anything.
#[derive(Debug, thiserror::Error)]
#[error("a call panicked: {0}")]
pub(crate) struct Panicked(String);

/// Answers a call, also one that panics. What it leaves half done is what its death at the same place would leave.
///
/// # Errors
///
/// [`Panicked`].
pub(crate) async fn caught<T>(answer: impl Future<Output = T>) -> Result<T, Panicked> {
    let answer = AssertUnwindSafe(answer).catch_unwind().await;
    answer.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Panicked(text.unwrap_or_default())
    })
}
