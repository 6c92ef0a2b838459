//! A PKCS#11 v2.40 module for tests: it forwards every call to another module, and misbehaves on command.
//!
//! It is loaded by `dlopen`, as any maker's module is. Two variables of the environment are read when its function
//! list is asked for:
//!
//! - [`INNER_VARIABLE`]: the module to forward to, [`INNER_DEFAULT`] if not set;
//! - [`CONTROL_VARIABLE`]: the control file, made by [`Control::create`]. Without it the module does not load.
//!
//! The control file is shared by all processes that have the module loaded. A test [arms](Control::arm) a [`Fault`]
//! for some functions and for a number of calls, counted across all processes, or until it is lifted; [`Armed::hits`]
//! tells how often it struck.
//!
//! # The control file
//!
//! [`RULES_MAX`] records of 256 bytes, integers little-endian, made as zeros:
//!
//! | at | bytes | meaning |
//! | --- | --- | --- |
//! | 0 | 8 | state: 0 free, 1 armed, 2 lifted |
//! | 8 | 8 | calls still to strike; negative: until lifted |
//! | 16 | 8 | calls struck |
//! | 24 | 232 | text, padded with zeros: functions, space, fault, and after another space its number if it has one |
//!
//! Functions are names of the function list with commas between, or `any`. [`Fault`] says what the faults are called.
//! Records are used in order and never twice, and the state is written last. A module maps the file and takes a call
//! off the count by one atomic exchange; it ends the process when it cannot read a rule, for then the test is wrong.
//!
//! # Reading order
//!
//! [`Fault`], [`Control`]; then, inside, the rules as a module sees them, the inner module, the functions, handles
//! that change their meaning, and the dialects of AES-GCM that some makers speak.

mod control;
mod dialect;
mod fault;
mod handles;
mod inner;
mod module;
mod rules;

pub use control::{Armed, Control, Times};
pub use fault::{Fault, Meaningless};
pub use module::FUNCTIONS;

/// Environment variable: the module to forward to.
pub const INNER_VARIABLE: &str = "FAULT_MODULE_INNER";

/// Environment variable: the control file.
pub const CONTROL_VARIABLE: &str = "FAULT_MODULE_CONTROL";

/// Where Debian keeps `SoftHSM`.
pub const INNER_DEFAULT: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// The file name of the module. Cargo puts it beside the test executables of whoever depends on this crate.
pub const FILE_NAME: &str = "libstrongroom_fault_module.so";

/// The most rules one control file takes.
pub const RULES_MAX: usize = 256;
