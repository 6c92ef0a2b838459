//! Prints what a worker process costs a call, on a `SoftHSM` token of its own: bare sessions and the handle, in one
//! process and in workers, by turns in one run, medians.
//!
//! `cargo run --release -p strongroom-hsm --features testing --example isolation`
