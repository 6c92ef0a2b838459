//! Tokens for tests, and the contract that every token is held to. Never part of the server.

pub mod conformance;
pub mod fault;
pub mod memory;
