//! What the wrap of a data key is bound to: the caller's context, and the ARN of what is wrapped for. One place, for who
//! writes, who reads and who wraps anew must come to the same.

use std::collections::BTreeMap;

use crate::kms::{EncryptionContext, KmsError};

/// The pair that the server sets; a caller may send it only with the same value.
pub const ARN_CONTEXT: &str = "aws:s3:arn";

/// Why there is no such context.
#[derive(Debug)]
pub enum ContextError {
    /// The caller has set [`ARN_CONTEXT`] to something else.
    Reserved,
    /// It is beyond a limit.
    Kms(KmsError),
}

/// The ARN that a wrap is bound to: of the object; with a bucket key of the bucket.
pub fn arn_of_wrap(bucket_key: bool, bucket: &str, key: &str) -> String {
    if bucket_key {
        format!("arn:aws:s3:::{bucket}")
    } else {
        format!("arn:aws:s3:::{bucket}/{key}")
    }
}

/// The caller's context with the ARN of what is wrapped for.
///
/// # Errors
///
/// [`ContextError`].
pub fn full_context(
    caller: &[(String, String)],
    arn: &str,
) -> Result<EncryptionContext, ContextError> {
    let mut map: BTreeMap<String, String> = caller.iter().cloned().collect();
    if map
        .insert(ARN_CONTEXT.to_owned(), arn.to_owned())
        .is_some_and(|given| given != arn)
    {
        return Err(ContextError::Reserved);
    }
    EncryptionContext::from_map(map).map_err(ContextError::Kms)
}
