//! Prefixes of all rows, in one place, so that no two owners meet. A prefix is one ASCII byte; keys after it are the
//! owner's.

/// Bucket by name. Owner: `store`.
pub const BUCKET: u8 = b'b';
/// Buckets of an account, by account, name; and their number, by account. Owner: `store`.
pub const BUCKETS_OF: u8 = b'B';
/// Policy of a bucket, by its UUID. Owner: `store`.
pub const BUCKET_POLICY: u8 = b'q';
/// Current object by bucket UUID, key, version id: what LIST reads. Owner: `store`.
pub const OBJECT: u8 = b'o';
/// Manifest and encrypted data key of an object, by the same key: what LIST never reads. Owner: `store`.
pub const MANIFEST: u8 = b'm';
/// Multipart upload by bucket UUID, key, upload id. Owner: `store`.
pub const UPLOAD: u8 = b'u';
/// Part of an upload by upload id, part number. Owner: `store`.
pub const PART: u8 = b'p';
/// Reference count of a committed blob. Owner: `store`.
pub const BLOB: u8 = b'r';
/// Intent row of a pending blob. Owner: `store`.
pub const PENDING_BLOB: u8 = b'w';
/// Bucket key by bucket UUID, id. Owner: `store`.
pub const BUCKET_KEY: u8 = b'K';
/// What hangs on a bucket key, by its id and the digest of the dependant's row. Owner: `store`.
pub const BUCKET_KEY_USE: u8 = b'U';

/// What depends on a key, by key, version, bucket, and what it is: see `store::usage`. Owner: `store`.
pub const DEPENDANT: u8 = b'd';

/// KMS key by key id. Owner: `kms`.
pub const KMS_KEY: u8 = b'k';
/// Number of KMS keys by account. Owner: `kms`.
pub const KMS_KEY_COUNT: u8 = b'N';
/// Backing key version by key id, number. Owner: `kms`.
pub const KMS_BACKING: u8 = b'v';
/// Alias by name. Owner: `kms`.
pub const KMS_ALIAS: u8 = b'a';
/// Key policy by key id, name. Owner: `kms`.
pub const KMS_POLICY: u8 = b'y';
/// Grant by key id, grant id. Owner: `kms`.
pub const KMS_GRANT: u8 = b'g';
/// Intent to make or destroy a backing key, by its identity. Owner: `kms`.
pub const KMS_INTENT: u8 = b'i';
/// Pair that unwraps key material for an import, by key id, identity. Owner: `kms`.
pub const KMS_IMPORT: u8 = b'J';
/// Custom key stores: one row.
pub const KMS_STORES: u8 = b'x';
/// Internal keys by name: never addressable by the KMS API. Owner: `kms`.
pub const KMS_INTERNAL: u8 = b'n';

/// Last use of a KMS key by key id; and since when they are kept. Owner: `kms`.
pub const KMS_LAST_USE: u8 = b'l';

/// The server's first account: one row. Owner: `kms`.
pub const KMS_FIRST_ACCOUNT: u8 = b'F';

/// Re-wrap by id. Owner: `kms`.
pub const KMS_REWRAP: u8 = b'j';

/// The audit's chain: whose it is, and its last attested head. Owner: `kms`.
pub const AUDIT: u8 = b'h';
/// Accounts' identities, access keys and managed policies, by a second byte. Owner: `iam`.
pub const IAM: u8 = b'I';

/// Identity and format version of this store. Owner: `server`.
pub const STORE: u8 = b's';
