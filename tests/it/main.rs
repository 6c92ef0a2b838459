//! The one integration binary. What a client sees is tested by the public clients: each Python test is a function of a
//! file in `python/`, with a server of its own, and a test here.

mod clock;
mod python;
mod records;
mod support;
mod tidy;
