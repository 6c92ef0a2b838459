//! The audit: who used which key for what, in a record that cannot be changed unnoticed.
//!
//! Every use of a KMS key, every call of the KMS, IAM and STS APIs, and every call of S3 that changes a bucket, its
//! policy or its encryption is one record, in the shape of a `CloudTrail` event ([`Event`]).
//! Records form a chain of hashes in files that are only ever appended to ([`Audit`]); checkpoints of the chain carry a
//! proof that only the HSM can make. [`verify`] finds what was changed, and [`query`] finds records.
//!
//! # Files
//!
//! A directory holds the one chain of one server, in files `audit-NNNNNNNNNNNNNNNNNNNN.jsonl`: the twenty digits are the
//! sequence number of the file's first record. A file is closed, and the next begun, when it would grow beyond its size
//! and when the day (UTC) is another. Nothing deletes files; what an operator has moved to an archive, [`verify`] is told
//! with the head up to which the archive reaches.
//!
//! # Lines
//!
//! ```text
//! line   = {"seq":SEQUENCE,"hash":"HASH","record":RECORD} LF
//! ```
//!
//! without any other space, and of no more than 4 MiB, of which a record has at most 2 MiB: SEQUENCE in decimal without
//! leading zeros, HASH in 64 lower-case hex digits, RECORD a JSON object without a line feed. Sequences count from 1 and
//! leave none out, over all files. The hash is
//!
//! ```text
//! SHA-256("strongroom audit v1" ‖ hash of the record before (32 bytes) ‖ SEQUENCE (8 bytes, big-endian) ‖ RECORD)
//! ```
//!
//! with the bytes of RECORD as they stand in the line, and 32 zero bytes before the first record.
//!
//! # Records of the chain itself
//!
//! A record with the member `auditRecord` is no event but says something of the chain: `File` begins every
//! file and repeats server id and hash of the record before, so that a file can be verified alone; `Start` and `Stop`
//! are of the server's process; `Resumed` says that records could not be written for a while, how many and why; `Lost`
//! says how many did not come so far because the queue was full, and the times of the first and the last of them;
//! `Checkpoint` says that the record with this sequence had this hash, with the HSM's proof of it.
//!
//! # Checkpoints
//!
//! The proof is an authenticated encryption under the internal key `audit`, made in the token, of a random value that
//! nobody needs, with these additional authenticated bytes:
//!
//! ```text
//! "strongroom audit checkpoint v1" ‖ server id (16 bytes) ‖ sequence (8 bytes, big-endian) ‖ hash (32 bytes)
//! ```
//!
//! Without the token nobody can make one, whoever has the disk. A checkpoint is made at the first record after a start,
//! after so many records, after so much time, and at an orderly stop. Its head goes, with the same proof, also into the
//! metadata. While the HSM is away records go on, and a checkpoint is made when it is back; a gauge says how many
//! records wait for one.
//!
//! # What is durable, and what is found
//!
//! A record is written to the kernel before the answer leaves that it is about: it survives the death of the process.
//! With `sync = "always"` it is on stable storage by then, too. With `sync = "interval"`, the default, it is within the
//! interval: a loss of power can take the records of the last interval, a second by default, whose answers had left.
//! A last line that was cut off is left where it is; the `File` record of the next file says its length and hash. A file
//! of which no line reads is set aside under its name with `.unreadable` behind it; only an empty one is deleted.
//!
//! Who can write to the disk, but not ask the HSM, can change or cut only what no checkpoint attests yet: the records
//! since the last one, at most those of `checkpoint_s` seconds or `checkpoint_records` records (more while the HSM was
//! away), and only by making up the chain anew from there to its end. Everything else is found: against the proofs
//! (which takes the HSM, through a running server) and against the head in the metadata or a head that the auditor has
//! noted. What stays open beyond that: the row of the head has no MAC of its own, so that who has the disk of a stopped
//! server can set it, and the chain, back to an earlier checkpoint, and make up what came after, unless somebody has noted
//! a later head; and who can ask the HSM as the server does can make proofs of anything.
//!
//! A call that changes something is recorded when it has ended, also if it panics, and whether or not its caller still
//! waits. What is left: a process that is killed between the commit of a change and its record leaves the change without
//! one, and nothing says so; and where the record of a change is the first one that cannot be written, the change is done,
//! its caller is told that it could not be recorded, and the chain counts a record that is missing. What the service does
//! of itself is recorded before it is done, so that a record may tell of what did not come to its end.
//!
//! # What is not in it
//!
//! No plaintext, no ciphertext, no key material, no grant tokens, no secrets of access keys, no session tokens, no
//! passwords. Requests that nobody could be found for (wrong signatures) are all in the log and counted, and here within
//! bounds, so that no stranger can fill the disk. A bucket key that is in memory is no KMS key: what it wraps and unwraps
//! asks no HSM and leaves no record, but waits for the audit like a use of its KMS key. Uses of the server's internal keys
//! (SSE-S3, secrets of access keys) name no KMS key and no decision, and are not recorded.

mod caught;
mod chain;
mod event;
mod files;
mod note;
pub mod query;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

#[cfg(test)]
pub(crate) use tests::room as room_of_tests;

pub(crate) use caught::{Panicked, caught};
pub use chain::Head;
pub use event::{
    AWS_INTERNAL, BUCKET_TYPE, Event, IAM_SOURCE, KEY_TYPE, KMS_SOURCE, OWN_SOURCE, Outcome,
    ROLE_TYPE, S3_SOURCE, STS_SOURCE, Who,
};
pub(crate) use event::{
    CHARS_MAX, MESSAGE_CHARS_MAX, NAME_CHARS_MAX, POLICY_CHARS_MAX, RECORD_BYTES_MAX, cut,
    lower_first,
};
pub use note::{Checkpoint, ServerId};
pub(crate) use writer::timestamp;
pub use writer::{Audit, AuditError, AuditSettings, AuditStats, Durability, OnFailure, Standing};
