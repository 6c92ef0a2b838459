//! The sealed object, byte for byte. No I/O, nothing asynchronous, no key id.
//!
//! One [`DataKey`] seals an object. It is moved into a [`KeySchedule`], from which everything below is derived;
//! it is used for nothing else. Integers are big-endian. `‖` is concatenation. `HKDF` is RFC 5869 with SHA-256.
//!
//! # Blob, version 1
//!
//! A blob is one run of plaintext: a whole object, or one part of one. It is bound to the data key and to its
//! 16-byte blob id, and to nothing else: an object that is copied or re-wrapped gets a new manifest, and its blobs
//! stay as they are.
//!
//! ```text
//! blob     = header ‖ segment*              header = "SRB" ‖ 0x01 ‖ salt[32] ‖ commitment[32]       (68 bytes)
//! segment  = ciphertext ‖ tag[16]           65,536 bytes of plaintext in each but the last; the last has
//!                                           1..=65,536, or 0 if the blob is empty
//! prk        = HKDF-Extract(salt, data key)
//! key        = HKDF-Expand(prk, "strongroom blob segment v1" ‖ blob id, 32)
//! commitment = HKDF-Expand(prk, "strongroom blob commitment v1" ‖ blob id, 32)
//! segment i  = AES-256-GCM(key, nonce = last ‖ 00 00 00 ‖ i[8], aad = 0x01 ‖ blob id)     last = 1 for the last, else 0
//! ```
//!
//! The salt is fresh for every attempt to write a blob, so a nonce is used once even if a part is sent again. The
//! commitment is compared before any segment is opened: a wrong data key is found out with certainty, also by an
//! adversary who may choose keys (AES-GCM alone does not commit to its key). Order, truncation and extension are
//! caught by the nonce; which blobs make an object, by the manifest.
//!
//! # Manifest, version 1
//!
//! ```text
//! manifest = "SRM" ‖ 0x01 ‖ salt[32] ‖ n[4] identity[n] ‖ digest[32] ‖ length[8] ‖ parts[4] ‖ part* ‖ tag[32]
//! part     = number[4] ‖ blob id[16] ‖ blob salt[32] ‖ length[8]                          (60 bytes)
//! tag      = HMAC-SHA-256(HKDF(salt, data key, "strongroom manifest v1", 32), everything before it)
//! ```
//!
//! `identity` is opaque here: `store` puts bucket, key and version into it. `digest` is SHA-256 of the attributes
//! that `store` keeps in clear beside the manifest. HMAC and not GCM, since one data key makes several manifests.
//!
//! # Sealed attributes, version 1
//!
//! ```text
//! attributes = "SRA" ‖ 0x01 ‖ salt[32] ‖ ciphertext ‖ tag[16]
//!              AES-256-GCM(HKDF(salt, data key, "strongroom attributes v1", 32), nonce = 0[12], aad = identity)
//! ```
//!
//! # Part tag
//!
//! ```text
//! part tag = HMAC-SHA-256(HKDF("", data key, "strongroom part v1", 32), fields), fields given by `store`
//! ```
//!
//! Golden files of every version are in `tests/vectors`; they are only ever added to.

mod manifest;
mod open;
mod schedule;
mod seal;
pub mod segment;
#[cfg(test)]
mod tests;

pub use manifest::{Manifest, ManifestPart, PARTS_MAX};
pub use open::Opener;
pub use schedule::{KeySchedule, PartTag};
pub use seal::{Sealed, Sealer};
pub use strongroom_hsm::DataKey;

/// Length of the identity that segments are bound to.
pub const BLOB_ID_BYTES: usize = 16;
/// Length of every salt.
pub const SALT_BYTES: usize = 32;
/// Length of a blob's header.
pub const HEADER_BYTES: usize = 4 + SALT_BYTES + 32;
/// The longest identity of an object.
pub const IDENTITY_BYTES_MAX: usize = 2048;
/// The longest plaintext of sealed attributes.
pub const ATTRIBUTES_BYTES_MAX: usize = 4096;

/// What can be wrong with sealed bytes. Never says more than an adversary may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Operator: not ours, or of a version that this build does not know.
    #[error("unknown {0} format")]
    Format(&'static str),
    /// Operator: sealed under another data key, or for another blob.
    #[error("the data key does not belong to this blob")]
    Commitment,
    /// Operator: changed, cut, extended or out of place.
    #[error("{0} does not authenticate")]
    Unauthentic(&'static str),
    /// Caller: beyond a limit.
    #[error("{0} is beyond its limit")]
    Limit(&'static str),
    /// Operator: the operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random,
}
