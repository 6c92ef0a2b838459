//! What can go wrong with objects, classed by who must act.

use crate::blob::BlobError;
use crate::envelope::EnvelopeError;
use crate::kms::KmsError;
use crate::meta::MetaError;

/// What can go wrong with objects.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Caller: no such bucket.
    #[error("no bucket {0:?}")]
    NoSuchBucket(String),
    /// Caller: the bucket is there already.
    #[error("bucket {name:?} exists")]
    BucketExists {
        /// Its name.
        name: String,
        /// Whether it belongs to the caller's account.
        owned: bool,
    },
    /// Caller: the account has as many buckets as it may have.
    #[error("too many buckets")]
    TooManyBuckets,
    /// Caller: the bucket holds objects or uploads.
    #[error("bucket {0:?} is not empty")]
    BucketNotEmpty(String),
    /// Caller: no such object.
    #[error("no object {0:?}")]
    NoSuchKey(String),
    /// Caller: no such version.
    #[error("no version of {0:?}")]
    NoSuchVersion(String),
    /// Caller: no such upload.
    #[error("no upload {0:?}")]
    NoSuchUpload(String),
    /// Caller: a condition of the request does not hold.
    #[error("condition {0} does not hold")]
    PreconditionFailed(&'static str),
    /// Caller: has this already.
    #[error("not modified")]
    NotModified,
    /// Caller: the range lies outside of the object.
    #[error("range outside of {0} bytes")]
    RangeNotSatisfiable(u64),
    /// Caller: a part number that the object does not have.
    #[error("no part {0}")]
    NoSuchPart(u32),
    /// Caller: what came is not what `Content-MD5` says.
    #[error("content does not match Content-MD5")]
    Md5Mismatch,
    /// Caller: what came is not what its checksum says.
    #[error("content does not match its {0} checksum")]
    ChecksumMismatch(&'static str),
    /// Caller: a part or the body is longer than allowed.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// Caller: a part that is not the last is shorter than allowed.
    #[error("part {0} is too small")]
    PartTooSmall(u32),
    /// Caller: a part list names what was not uploaded.
    #[error("part {0} does not match what was uploaded")]
    InvalidPart(u32),
    /// Caller: a part list is out of order.
    #[error("part list is out of order")]
    InvalidPartOrder,
    /// Caller: the body ended early, came wrong, or broke off.
    #[error("the request's body failed")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Caller: something else, in words for the client.
    #[error("{0}")]
    InvalidRequest(String),
    /// Caller: the object has a customer's key, and the request brought none.
    #[error("a customer key is needed")]
    CustomerKeyNeeded,
    /// Caller: the request brought a customer's key, and the object has none.
    #[error("the object has no customer key")]
    CustomerKeyUnexpected,
    /// Caller: not the customer's key that the object was sealed with.
    #[error("not the customer key of this object")]
    CustomerKeyWrong,
    /// Whoever the KMS says.
    #[error("the key management refused")]
    Kms(#[source] KmsError),
    /// Retry: others changed the same records again and again.
    #[error("too many conflicting changes")]
    Conflict,
    /// Retry, after reading the record again: the bucket key of a data key is gone, for the data key has been wrapped
    /// anew since its record was read.
    #[error("the data key was wrapped anew meanwhile")]
    KeyMoved,
    /// Retry: too many changes wait.
    #[error("too many requests wait")]
    Busy,
    /// Operator: a proof that is not of a bucket or an object, where one is needed. A bug of ours.
    #[error("the proof of authorisation is of something else")]
    Proof,
    /// Operator: sealed bytes are not what they were.
    #[error("damaged object")]
    Damaged(#[source] EnvelopeError),
    /// Operator: records.
    #[error("metadata")]
    Meta(#[source] MetaError),
    /// Operator: sealed bytes cannot be written or read.
    #[error("blobs")]
    Blob(#[source] BlobError),
    /// Operator: the operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random,
}

impl From<MetaError> for StoreError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::Busy => Self::Busy,
            MetaError::Conflict => Self::Conflict,
            other => Self::Meta(other),
        }
    }
}

impl From<BlobError> for StoreError {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

impl From<EnvelopeError> for StoreError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Random => Self::Random,
            other => Self::Damaged(other),
        }
    }
}

impl From<KmsError> for StoreError {
    fn from(error: KmsError) -> Self {
        Self::Kms(error)
    }
}
