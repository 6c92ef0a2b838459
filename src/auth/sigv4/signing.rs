//! From a secret to a signature: the derived key and what it signs.
//!
//! "Signature Version 4: calculate the signature", AWS General Reference; the chunk and trailer forms are of
//! "Authenticating Requests: Transferring Payload in Multiple Chunks" and "… Including Trailing Headers", S3 API.

use std::fmt;

use aws_lc_rs::{constant_time, digest, hmac};
use zeroize::Zeroizing;

use crate::auth::credentials::Secret;

/// The name of the one algorithm that is taken.
pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The last word of every scope.
pub(super) const TERMINATOR: &str = "aws4_request";

/// Bytes of a SHA-256 digest and of an HMAC-SHA-256 signature.
pub(crate) const DIGEST_BYTES: usize = digest::SHA256_OUTPUT_LEN;

/// The signature is not the one that was calculated.
#[derive(Debug)]
pub(crate) struct Mismatch;

/// Signs for one date, region and service, at one instant. Made once per request and dropped with it.
pub(crate) struct Signer {
    key: hmac::Key,
    timestamp: String,
    scope: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Derives the signing key. `timestamp` is `YYYYMMDDThhmmssZ` and begins with `date`.
    pub(super) fn derive(
        secret: &Secret,
        timestamp: &str,
        date: &str,
        region: &str,
        service: &str,
    ) -> Self {
        let secret = secret.expose().as_bytes();
        // Sized beforehand, so that no growth leaves a copy behind.
        let mut first = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(secret);
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &first);
        for part in [date, region, service, TERMINATOR] {
            key = hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&key, part.as_bytes()).as_ref(),
            );
        }
        Self {
            key,
            timestamp: timestamp.to_owned(),
            scope: format!("{date}/{region}/{service}/{TERMINATOR}"),
        }
    }

    /// Checks the signature of the request itself: the seed of the chain that chunks go on with.
    pub(super) fn check_request(
        &self,
        canonical_request: &[u8],
        given: &[u8],
    ) -> Result<(), Mismatch> {
        self.check(ALGORITHM, &[hex_sha256(canonical_request).as_str()], given)
    }

    /// Checks the signature of a chunk against the one before it.
    pub(crate) fn check_chunk(
        &self,
        previous: &[u8; DIGEST_BYTES],
        content: &[u8],
        given: &[u8],
    ) -> Result<(), Mismatch> {
        let parts = [
            &hex::encode(previous),
            &hex_sha256(b""),
            &hex::encode(content),
        ];
        self.check(
            "AWS4-HMAC-SHA256-PAYLOAD",
            &parts.map(String::as_str),
            given,
        )
    }

    /// Checks the signature of the trailers, which ends the chain.
    pub(crate) fn check_trailers(
        &self,
        previous: &[u8; DIGEST_BYTES],
        trailers: &[u8],
        given: &[u8],
    ) -> Result<(), Mismatch> {
        let parts = [&hex::encode(previous), &hex_sha256(trailers)];
        self.check(
            "AWS4-HMAC-SHA256-TRAILER",
            &parts.map(String::as_str),
            given,
        )
    }

    fn check(&self, algorithm: &str, parts: &[&str], given: &[u8]) -> Result<(), Mismatch> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(algorithm.as_bytes());
        for part in [self.timestamp.as_str(), &self.scope].iter().chain(parts) {
            context.update(b"\n");
            context.update(part.as_bytes());
        }
        constant_time::verify_slices_are_equal(context.sign().as_ref(), given)
            .map_err(|aws_lc_rs::error::Unspecified| Mismatch)
    }
}

/// A SHA-256 that is not finished.
pub(crate) struct Sha256(digest::Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all so far; the next byte begins anew.
    pub(crate) fn take(&mut self) -> digest::Digest {
        std::mem::replace(self, Self::new()).0.finish()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256(..)")
    }
}

/// The digest of `bytes` in lower-case hexadecimal.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}
