//! Records as bytes: a format version byte, then CBOR (RFC 8949) with numbered fields.
//!
//! A field's number never changes its meaning, a new field is optional, and a reader that meets a version it does
//! not know refuses the row.

use minicbor::{Decode, Encode};

use super::MetaError;

/// The version this build writes.
pub const VERSION: u8 = 1;

/// The bytes of `record`.
pub fn encode<T: Encode<()>>(record: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    // Writing to a Vec cannot fail, and our records' own encoders raise no error.
    minicbor::encode(record, &mut bytes)
        .unwrap_or_else(|error| unreachable!("encoding to memory: {error}"));
    bytes
}

/// The record in `bytes`; `what` names it in the error.
///
/// # Errors
///
/// [`MetaError::Damaged`] when the version is unknown or the bytes are not such a record.
pub fn decode<'b, T: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<T, MetaError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => {
            minicbor::decode(body).map_err(|_damage| MetaError::Damaged(what))
        }
        _ => Err(MetaError::Damaged(what)),
    }
}
