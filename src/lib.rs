//! Strongroom: an S3 server whose master keys never leave the hardware.
//!
//! One binary speaks the S3 API and the AWS KMS API on one endpoint. Every object is sealed with its own data key;
//! every data key is wrapped by a KMS key whose material lives in an HSM and is never exported.
//!
//! # Bird's eye
//!
//! ```text
//!         aws cli · boto3 · rclone · aws kms                  systemd · kubernetes
//!                        │ one endpoint, SigV4                     │ /healthz /readyz
//!   ┌────────────────────▼─────────────────────────────────────────▼────┐
//!   │ server   listener, routing, limits, maintenance, shutdown         │
//!   ├──────────────────────────┬───────────────────────┬────────────────┤
//!   │ s3   front end           │ kms::api   front end  │ iam::api       │  only translate
//!   ├──────────────────────────┴───────┬───────────────┴────────────────┤
//!   │ auth   who is calling, and may they                               │  one decision, one place
//!   ├──────────────────────────────────┼────────────────┬───────────────┤
//!   │                                  │                │ iam           │  whose is this key
//!   │ store   DATA PLANE               │ kms   CONTROL PLANE            │
//!   ├──────────┬──────────┬────────┬───┴────┬───────────────────────────┤
//!   │ envelope │ blob     │ meta   │ audit  │ strongroom-hsm            │
//!   └──────────┴──────────┴────────┴────────┴───────────────────────────┘
//! ```
//!
//! # Invariants
//!
//! A module imports only what is beside or below it; `tests/it/tidy.rs` keeps the list.
//!
//! 1. [`s3`], [`kms::api`] and [`iam::api`] never import each other, nor the HSM, [`meta`] or [`blob`].
//! 2. [`kms`] does not know that S3 exists. The HSM crate does not know that KMS exists.
//! 3. [`envelope`] never awaits, opens no file, sees no key id. It names nothing of the HSM but `DataKey`.
//! 4. Only `hsm::pkcs11` names `cryptoki`; only [`s3`] and [`server`] name `s3s`; only [`server`] names `axum`.
//! 5. [`blob`] and [`meta`] see ciphertext and records, never plaintext of an object and never a data key.
//! 6. Master key bytes have no Rust type: there is nothing to leak.
//! 7. A plaintext data key is never stored, cloned, serialised or logged, and lives for one request. Bucket keys are the
//!    one exception: `store`'s `BucketKeyCache` holds them for a short time, a number of uses, and no longer than the
//!    state and the policy of their KMS key stay as they are.
//! 8. The metadata commit is the only commit point. A blob without a record is garbage; a record without its blob
//!    must be impossible.
//! 9. LIST, HEAD, health and start-up work with the HSM unplugged. What needs a key fails closed, with a clear 503,
//!    and heals by itself.
//!
//! # Reading order
//!
//! [`strongroom_hsm`], [`envelope`], [`meta`], [`blob`], [`audit`], [`kms`], [`store`], [`auth`], [`iam`], [`s3`],
//! [`server`], [`config`],
//! [`cli`].

#![forbid(unsafe_code)]

pub mod audit;
pub mod auth;
pub mod blob;
pub mod cli;
pub mod clock;
pub mod config;
pub mod envelope;
pub mod iam;
pub mod kms;
pub mod meta;
pub mod s3;
pub mod server;
pub mod store;
pub mod telemetry;
