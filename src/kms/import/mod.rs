//! Keys whose material is brought along (`Origin` EXTERNAL).
//!
//! A pair of RSA keys is made in the token for each `GetParametersForImport`. Its row stands before the pair does and says
//! when both are over: a day later, or when the pair has served. Whatever happens in between, the clock destroys the pair
//! and then the row. Material goes from one key of the token into another; it is never in our memory.
//!
//! A key has a version for each material that was ever its current one (see [`record`]). Each import makes a backing key
//! with an identity of its own, so that to destroy the one before can never destroy its successor; the material keeps its
//! id. What is imported again must open the canary that is recorded, and what is new must open none. A new material waits
//! until the key is rotated to it.
//!
//! ```text
//! import token: HMAC-SHA-256 of the metadata MAC key (32 bytes) ‖ version 1 (1 byte) ‖ key id (16) ‖ identity of the pair
//!               (32) ‖ kind of the pair (1) ‖ end of validity, milliseconds since 1970 (8, big-endian)
//! ```
//!
//! `pair` has the pairs and the tokens, `take` imports, `rotate` makes what waits the current one, `end` takes material
//! away.

use self::record::ImportRecord;
use super::key::{BackingRecord, Timestamp};

mod end;
mod pair;
pub(super) mod record;
mod rotate;
mod take;

/// How long the parameters of an import are valid, as AWS has it.
pub const IMPORT_PARAMETERS_VALID_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// The longest that material may be valid, as AWS has it.
pub const MATERIAL_VALID_DAYS_MAX: u32 = 365;
/// The most characters of a description of material, as AWS has it.
pub const MATERIAL_DESCRIPTION_CHARS_MAX: usize = 256;
/// The most pairs that wait for material of one key.
pub const IMPORT_PAIRS_PER_KEY_MAX: usize = 8;
/// The most bytes of an import token and of encrypted material, as AWS has it.
pub const IMPORT_BYTES_MAX: usize = 6144;

/// What kms:GetParametersForImport answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportParameters {
    /// To be shown with the material.
    pub token: Vec<u8>,
    /// The key to wrap the material under, a DER `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
    /// Until when both are of use.
    pub valid_to: Timestamp,
}

/// What a caller says of material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMaterial {
    /// The token of [`ImportParameters`].
    pub token: Vec<u8>,
    /// The material, wrapped.
    pub encrypted: Vec<u8>,
    /// When it expires, if it does.
    pub valid_to: Option<Timestamp>,
    /// Whether the key must have had just this material before, if that was said. Without, it must unless it had none.
    pub existing: Option<bool>,
    /// The id that the material must have, if that was said.
    pub material_id: Option<String>,
    /// Words about it, at most [`MATERIAL_DESCRIPTION_CHARS_MAX`] of them; those of before stay without.
    pub description: Option<String>,
}

/// One material of a key that is brought along, as `ListKeyRotations` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedMaterial {
    /// Whether it is in the token and not over.
    pub present: bool,
    /// When it expires, if it is there and does.
    pub expires: Option<Timestamp>,
    /// The caller's words.
    pub description: Option<String>,
}

impl ImportedMaterial {
    pub(super) fn of(import: &ImportRecord, backing: &BackingRecord, now: Timestamp) -> Self {
        let present = import.is_of_use(now);
        Self {
            present,
            expires: import.expires.filter(|_| present),
            description: backing.description.clone(),
        }
    }
}
