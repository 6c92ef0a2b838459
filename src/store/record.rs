//! Rows of the store: their keys and their values.
//!
//! Object keys are bytes of any value. In a row's key they are escaped so that rows sort as object keys do:
//! `00` becomes `00 FF`, and `00 00` ends the object key.

use aws_lc_rs::digest::{SHA256, digest};
use minicbor::{Decode, Encode};

use super::StoreError;
use crate::auth::AccountId;
use crate::blob::BlobId;
use crate::envelope::BLOB_ID_BYTES;
use crate::meta::{KeyRange, table};

/// The longest object key: AWS's limit.
pub const OBJECT_KEY_BYTES_MAX: usize = 1024;

/// Sixteen random bytes that name a bucket, an upload or a body for ever.
pub type Uuid = [u8; 16];

/// The version id of objects in a bucket without versioning (`null` on the wire).
pub const NULL_VERSION: Uuid = [0; 16];

/// What a bucket is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BucketRecord {
    /// Names this bucket and no later one of the same name.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub uuid: Uuid,
    /// `LocationConstraint`.
    #[n(1)]
    pub region: String,
    /// Milliseconds since 1970.
    #[n(2)]
    pub created_ms: i64,
    /// What objects are encrypted with unless the request says otherwise.
    #[n(3)]
    pub encryption: DefaultEncryption,
    /// Whether objects under SSE-KMS hang on a bucket key unless the request says otherwise.
    #[cbor(n(4), default)]
    pub bucket_key: bool,
    /// The account that owns it; none is the first of the configuration.
    #[n(5)]
    pub owner: Option<String>,
    /// SHA-256 of the stored row of its policy, if it has one.
    #[cbor(n(6), with = "minicbor::bytes", default)]
    pub policy: Option<[u8; 32]>,
}

impl BucketRecord {
    /// The account that owns it.
    pub fn owner(&self, first: &AccountId) -> AccountId {
        let owner = self.owner.as_deref().and_then(AccountId::parse);
        owner.unwrap_or_else(|| first.clone())
    }
}

/// Default encryption of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DefaultEncryption {
    /// SSE-S3; also when nothing was set.
    #[n(0)]
    S3,
    /// SSE-KMS with this key as the caller named it, or with the default key. Not validated: AWS does not, either.
    #[n(1)]
    Kms(#[n(0)] Option<String>),
}

/// What an object has in clear: what LIST and HEAD say. The manifest authenticates the row.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ObjectRecord {
    /// Without quotes.
    #[n(0)]
    pub etag: String,
    /// Length of the plaintext.
    #[n(1)]
    pub size: u64,
    /// Milliseconds since 1970.
    #[n(2)]
    pub last_modified_ms: i64,
    /// How it is encrypted.
    #[n(3)]
    pub sse: SseRecord,
    /// Which body it refers to.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub body: Uuid,
    /// Number of parts, of a multipart object.
    #[n(5)]
    pub parts: Option<u32>,
    /// Headers to be given back.
    #[n(6)]
    pub headers: Headers,
    /// Which checksum is sealed in the manifest's row.
    #[n(7)]
    pub checksum: Option<ChecksumKind>,
    /// The bucket key that its data key hangs on: what [`KeyRecord::bucket_key`] says of its other row.
    #[n(8)]
    pub bucket_key: Option<BucketKeyId>,
}

impl ObjectRecord {
    /// Whether an answer says `BucketKeyEnabled`: SSE-S3 has it, too, and nobody is told.
    pub fn says_bucket_key(&self) -> bool {
        matches!(self.sse, SseRecord::Kms(_)) && self.bucket_key.is_some()
    }
}

/// How an object is encrypted, in clear.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SseRecord {
    /// SSE-S3.
    #[n(0)]
    S3,
    /// SSE-KMS, by key ARN.
    #[n(1)]
    Kms(#[n(0)] String),
    /// SSE-C.
    #[n(2)]
    Customer,
}

/// An algorithm, and whether the checksum is one over the parts' checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ChecksumKind {
    /// The algorithm.
    #[n(0)]
    pub algorithm: ChecksumAlgorithm,
    /// A checksum of checksums (`COMPOSITE`), not of the object (`FULL_OBJECT`).
    #[n(1)]
    pub composite: bool,
}

/// The checksum algorithms of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC).
    #[n(0)]
    Crc32,
    /// CRC-32C (iSCSI).
    #[n(1)]
    Crc32c,
    /// CRC-64/NVME.
    #[n(2)]
    Crc64Nvme,
    /// SHA-1.
    #[n(3)]
    Sha1,
    /// SHA-256.
    #[n(4)]
    Sha256,
}

/// Headers that a client stores with an object and gets back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Headers {
    /// `Content-Type`.
    #[n(0)]
    pub content_type: Option<String>,
    /// `Cache-Control`.
    #[n(1)]
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    #[n(2)]
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    #[n(3)]
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    #[n(4)]
    pub content_language: Option<String>,
    /// `Expires`, as sent.
    #[n(5)]
    pub expires: Option<String>,
    /// `x-amz-meta-*`, names in lower case, sorted.
    #[n(6)]
    pub user: Vec<(String, String)>,
}

/// What reading an object's bytes takes. LIST never reads these rows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ManifestRecord {
    /// Authenticated by the data key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub manifest: Vec<u8>,
    /// The encrypted data key.
    #[n(1)]
    pub key: KeyRecord,
    /// Sealed [`super::digest::SealedAttributes`].
    #[cbor(n(2), with = "minicbor::bytes")]
    pub attributes: Vec<u8>,
}

/// An encrypted data key and what it takes to decrypt it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum KeyRecord {
    /// Wrapped by the internal SSE-S3 key itself; AAD = identity of the object. Read for ever, written no more.
    #[n(0)]
    S3(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// `CiphertextBlob` of the KMS, and the caller's encryption context without `aws:s3:arn`.
    #[n(1)]
    Kms(
        #[cbor(n(0), with = "minicbor::bytes")] Vec<u8>,
        #[n(1)] Vec<(String, String)>,
    ),
    /// Wrapped by the customer's key.
    #[n(2)]
    Customer(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// Wrapped by a bucket key of the object's bucket, as the module `bucket_key` says; and the caller's encryption
    /// context.
    #[n(3)]
    Bucket(
        #[n(0)] BucketKeyId,
        #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>,
        #[n(2)] Vec<(String, String)>,
    ),
}

impl KeyRecord {
    /// The bucket key that it hangs on.
    pub fn bucket_key(&self) -> Option<BucketKeyId> {
        match self {
            Self::Bucket(id, ..) => Some(*id),
            Self::S3(_) | Self::Kms(..) | Self::Customer(_) => None,
        }
    }

    /// What the caller's context of the wrap was, without what the server added.
    pub fn kept_context(&self) -> KeptContext<'_> {
        let caller: &[_] = match self {
            Self::Kms(_, caller) | Self::Bucket(_, _, caller) => caller,
            Self::S3(_) | Self::Customer(_) => &[],
        };
        KeptContext {
            caller,
            bucket_key: self.bucket_key().is_some(),
        }
    }
}

/// What is kept of the encryption context of a wrap.
#[derive(Debug, Clone, Copy)]
pub struct KeptContext<'a> {
    /// The caller's.
    pub caller: &'a [(String, String)],
    /// Whether the HSM's wrap is that of a bucket key, whose context names the bucket and not the object.
    pub bucket_key: bool,
}

/// Names a bucket key for ever: six bytes that fall as time goes on, so that the newest of a bucket is its first row,
/// and ten of randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct BucketKeyId(#[cbor(n(0), with = "minicbor::bytes")] [u8; Self::BYTES]);

impl BucketKeyId {
    /// Length of its bytes.
    pub const BYTES: usize = 16;

    /// The id of a bucket key that is made at `now_ms`; `random` is fresh.
    pub fn new(now_ms: i64, random: [u8; 10]) -> Self {
        let mut id = [0; Self::BYTES];
        // Forty-eight bits of milliseconds last for 8,900 years.
        let [_, _, time @ ..] = (!now_ms).to_be_bytes();
        id[..6].copy_from_slice(&time);
        id[6..].copy_from_slice(&random);
        Self(id)
    }

    /// The id in these bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// A bucket key, wrapped: what lies between a KMS key, or the server's SSE-S3 key, and data keys of one bucket. The row
/// is there as long as an object or an upload hangs on it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BucketKeyRecord {
    /// Milliseconds since 1970.
    #[n(0)]
    pub created_ms: i64,
    /// The key, wrapped.
    #[n(1)]
    pub wrap: BucketKeyWrap,
}

/// How a bucket key is wrapped by the HSM.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum BucketKeyWrap {
    /// By the internal SSE-S3 key.
    #[n(0)]
    S3(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// By a KMS key: a `CiphertextBlob`, which says under which and under which of its backing keys. Its context is
    /// the ARN of the bucket alone.
    #[n(1)]
    Kms(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

/// Sealed bytes that live and die together.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BodyRecord {
    /// How many objects refer to it.
    #[n(0)]
    pub references: u32,
    /// Its blobs, 16 bytes each.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub blobs: Vec<u8>,
}

impl BodyRecord {
    /// A body with one reference.
    pub fn new(blobs: impl IntoIterator<Item = BlobId>) -> Self {
        Self {
            references: 1,
            blobs: blobs.into_iter().flat_map(|id| *id.as_bytes()).collect(),
        }
    }

    /// Its blobs.
    pub fn blob_ids(&self) -> impl Iterator<Item = BlobId> {
        self.blobs
            .as_chunks::<BLOB_ID_BYTES>()
            .0
            .iter()
            .map(|id| BlobId::from_bytes(*id))
    }
}

/// A blob that no record refers to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PendingRecord {
    /// Until when it is not touched, in milliseconds since 1970.
    #[n(0)]
    pub until_ms: i64,
    /// Claimed by the collector, never to be committed.
    #[n(1)]
    pub claimed: bool,
}

/// A multipart upload under way.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct UploadRecord {
    /// Milliseconds since 1970.
    #[n(0)]
    pub initiated_ms: i64,
    /// How the object will be encrypted.
    #[n(1)]
    pub sse: SseRecord,
    /// Its data key.
    #[n(2)]
    pub key: KeyRecord,
    /// Headers of the object.
    #[n(3)]
    pub headers: Headers,
    /// Checksum of the object, and of every part.
    #[n(4)]
    pub checksum: Option<ChecksumKind>,
    /// Whether the client chose the checksum: then its parts may claim no other.
    #[n(5)]
    pub checksum_chosen: bool,
}

/// A part of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PartRecord {
    /// Which blob.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub blob: [u8; BLOB_ID_BYTES],
    /// Its salt.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub salt: [u8; 32],
    /// Length of its plaintext.
    #[n(2)]
    pub size: u64,
    /// Without quotes.
    #[n(3)]
    pub etag: String,
    /// Milliseconds since 1970.
    #[n(4)]
    pub last_modified_ms: i64,
    /// Sealed checksum.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub attributes: Vec<u8>,
    /// Tag over all of the above, upload id and part number.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub tag: [u8; 32],
}

impl PartRecord {
    /// What the tag is over.
    pub fn tagged_fields(&self, upload: &Uuid, number: u32) -> Vec<u8> {
        let mut fields = Vec::with_capacity(256);
        fields.extend_from_slice(upload);
        fields.extend_from_slice(&number.to_be_bytes());
        fields.extend_from_slice(&self.blob);
        fields.extend_from_slice(&self.salt);
        fields.extend_from_slice(&self.size.to_be_bytes());
        fields.extend_from_slice(&(self.etag.len() as u64).to_be_bytes());
        fields.extend_from_slice(self.etag.as_bytes());
        fields.extend_from_slice(&self.attributes);
        fields
    }
}

/// Names one object: bucket, key, version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The bucket's UUID.
    pub bucket: Uuid,
    /// The object key.
    pub key: String,
    /// The version.
    pub version: Uuid,
}

impl ObjectName {
    /// The only version of a key in a bucket without versioning.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidRequest`] beyond [`OBJECT_KEY_BYTES_MAX`].
    pub fn new(bucket: &BucketRecord, key: &str) -> Result<Self, StoreError> {
        if key.is_empty() || key.len() > OBJECT_KEY_BYTES_MAX {
            return Err(StoreError::InvalidRequest("Your key is too long".into()));
        }
        Ok(Self {
            bucket: bucket.uuid,
            key: key.to_owned(),
            version: NULL_VERSION,
        })
    }

    /// The identity that manifest, attributes and wraps are bound to: bucket ‖ version ‖ key.
    pub fn identity(&self) -> Vec<u8> {
        [self.bucket.as_slice(), &self.version, self.key.as_bytes()].concat()
    }

    /// Key of the row in [`table::OBJECT`].
    pub fn object_row(&self) -> Vec<u8> {
        self.row(table::OBJECT)
    }

    /// Key of the row in [`table::MANIFEST`].
    pub fn manifest_row(&self) -> Vec<u8> {
        self.row(table::MANIFEST)
    }

    /// Key of the row of `upload` in [`table::UPLOAD`].
    pub fn upload_row(&self, upload: &Uuid) -> Vec<u8> {
        let mut row = key_prefix(table::UPLOAD, &self.bucket, self.key.as_bytes());
        row.extend_from_slice(&[0, 0]);
        row.extend_from_slice(upload);
        row
    }

    fn row(&self, table: u8) -> Vec<u8> {
        let mut row = key_prefix(table, &self.bucket, self.key.as_bytes());
        row.extend_from_slice(&[0, 0]);
        row.extend_from_slice(&self.version);
        row
    }
}

/// Key of a bucket's row.
pub fn bucket_row(name: &str) -> Vec<u8> {
    [&[table::BUCKET], name.as_bytes()].concat()
}

/// Key of the row that says how many buckets an account has.
pub fn buckets_row(account: &AccountId) -> Vec<u8> {
    [&[table::BUCKETS_OF], account.as_str().as_bytes()].concat()
}

/// Key of the row that says that an account has the bucket of this name.
pub fn owned_row(account: &AccountId, name: &str) -> Vec<u8> {
    [buckets_row(account).as_slice(), name.as_bytes()].concat()
}

/// Rows of all buckets of an account, without their number.
pub fn owned_rows(account: &AccountId) -> KeyRange {
    let mut range = KeyRange::prefix(&buckets_row(account));
    range.start.push(0);
    range
}

/// Key of the row of a bucket's policy.
pub fn policy_row(bucket: &Uuid) -> Vec<u8> {
    [[table::BUCKET_POLICY].as_slice(), bucket].concat()
}

/// Key of a body's row.
pub fn body_row(body: &Uuid) -> Vec<u8> {
    [[table::BLOB].as_slice(), body].concat()
}

/// Key of a pending blob's row.
pub fn pending_row(blob: &[u8; BLOB_ID_BYTES]) -> Vec<u8> {
    [[table::PENDING_BLOB].as_slice(), blob].concat()
}

/// Key of a part's row.
pub fn part_row(upload: &Uuid, number: u32) -> Vec<u8> {
    [[table::PART].as_slice(), upload, &number.to_be_bytes()].concat()
}

/// Rows of all parts of an upload.
pub fn part_rows(upload: &Uuid) -> KeyRange {
    KeyRange::prefix(&[[table::PART].as_slice(), upload].concat())
}

/// Key of a bucket key's row.
pub fn bucket_key_row(bucket: &Uuid, id: &BucketKeyId) -> Vec<u8> {
    [[table::BUCKET_KEY].as_slice(), bucket, id.as_bytes()].concat()
}

/// Key of the row that says that `dependant`, the row of an object or of an upload, hangs on a bucket key; its value is
/// `dependant`.
pub fn bucket_key_use_row(id: &BucketKeyId, dependant: &[u8]) -> Vec<u8> {
    let place = digest(&SHA256, dependant);
    [
        [table::BUCKET_KEY_USE].as_slice(),
        id.as_bytes(),
        place.as_ref(),
    ]
    .concat()
}

/// Rows of everything that hangs on a bucket key.
pub fn bucket_key_use_rows(id: &BucketKeyId) -> KeyRange {
    KeyRange::prefix(&[[table::BUCKET_KEY_USE].as_slice(), id.as_bytes()].concat())
}

/// Rows of a table that belong to a bucket.
pub fn bucket_rows(table: u8, bucket: &Uuid) -> KeyRange {
    KeyRange::prefix(&[[table].as_slice(), bucket].concat())
}

/// Beginning of the keys of rows whose object key begins with `key_prefix`.
pub fn key_prefix(table: u8, bucket: &Uuid, key_prefix: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + 16 + key_prefix.len() + 18);
    row.push(table);
    row.extend_from_slice(bucket);
    for &byte in key_prefix {
        row.push(byte);
        if byte == 0 {
            row.push(0xFF);
        }
    }
    row
}

/// The object key in a row's key, and the sixteen bytes after it.
///
/// Returns `None` for a row that is not of such a table.
pub fn split_row(row: &[u8]) -> Option<(String, Uuid)> {
    let (escaped, tail) = row.get(17..)?.split_last_chunk::<16>()?;
    let escaped = escaped.strip_suffix(&[0, 0])?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        key.push(byte);
        if byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    Some((String::from_utf8(key).ok()?, *tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> ObjectName {
        ObjectName {
            bucket: [7; 16],
            key: key.into(),
            version: NULL_VERSION,
        }
    }

    #[test]
    fn rows_sort_as_object_keys_do() {
        let keys = ["a", "a\0", "a\0b", "a\u{1}", "ab", "b", "\u{ffff}"];
        let mut rows: Vec<_> = keys.iter().map(|key| name(key).object_row()).collect();
        let sorted = {
            let mut sorted = keys.to_vec();
            sorted.sort_unstable();
            sorted
        };
        rows.sort();
        let back: Vec<_> = rows
            .iter()
            .map(|row| split_row(row).expect("a row").0)
            .collect();
        assert_eq!(back, sorted);
    }

    #[test]
    fn a_key_with_zero_bytes_comes_back() {
        for key in ["\0", "x\0\0y", "\0\u{ff}"] {
            assert_eq!(
                split_row(&name(key).object_row()),
                Some((key.to_owned(), NULL_VERSION))
            );
        }
    }

    #[test]
    fn the_longest_key_is_taken_and_one_byte_more_is_not() {
        let bucket = BucketRecord {
            uuid: [7; 16],
            region: "r".into(),
            created_ms: 0,
            encryption: DefaultEncryption::S3,
            bucket_key: false,
            owner: None,
            policy: None,
        };
        assert!(ObjectName::new(&bucket, &"k".repeat(OBJECT_KEY_BYTES_MAX)).is_ok());
        assert!(ObjectName::new(&bucket, &"k".repeat(OBJECT_KEY_BYTES_MAX + 1)).is_err());
        assert!(ObjectName::new(&bucket, "").is_err());
    }
}
