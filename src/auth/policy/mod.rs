//! The policy language, and the one decision.

/// A policy document that reads as one.
#[derive(Debug)]
pub struct Document {}
