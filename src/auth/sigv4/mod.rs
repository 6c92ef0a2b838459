//! AWS Signature Version 4: one verifier for every service of the endpoint.
//!
//! A front end knows which service was asked before anybody is authenticated, so it asks for that service: a request
//! that was signed for KMS is nothing to S3, and the other way round. S3 signs `x-amz-content-sha256` and the body is
//! held to it while it streams ([`VerifiedBody`](super::payload::VerifiedBody)). KMS signs the digest of the body without
//! a header, so its bodies, which are small, are collected first.
//!
//! Stricter than AWS on purpose: *every* `x-amz-*` header that arrives must be signed, in presigned requests too. An
//! unsigned `x-amz-copy-source` would otherwise turn a presigned upload into a copy from any bucket, and an unsigned
//! SSE-KMS key id would choose the key. `x-amz-content-sha256` of a presigned request is excepted, since it only adds a
//! check of the body.
//!
//! Only AWS4-HMAC-SHA256: neither version 2 nor version 4A, and no session tokens.

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Uri, header};
use time::Duration;

use super::credentials::Credentials;
use super::payload::{Declared, Payload};
use super::{AccountId, Principal};
use crate::clock::Clock;

mod canonical;
mod error;
mod presented;
mod signing;
#[cfg(test)]
pub(super) mod tests;

pub use canonical::{HEADER_BYTES_MAX, QUERY_PARAMETERS_MAX, SIGNED_HEADERS_MAX};
pub use error::AuthError;
pub(super) use error::SIGNATURE_DOES_NOT_MATCH;
pub use presented::{AUTHORIZATION_BYTES_MAX, EXPIRES_MAX};
pub(super) use presented::{only_header, parse_digest};
use signing::hex_sha256;
pub(super) use signing::{DIGEST_BYTES, Sha256, Signer};

use canonical::Query;
use presented::{Presented, QUERY_PARAMETERS};

/// How far the clock of a caller may be from ours, either way.
pub const SKEW_MAX: Duration = Duration::minutes(15);

const CONTENT_SHA256: &str = "x-amz-content-sha256";

/// A service that a request can be signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Objects.
    S3,
    /// Keys.
    Kms,
}

impl Service {
    /// Its name in a scope.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Kms => "kms",
        }
    }
}

/// A request whose signature is right.
#[derive(Debug)]
#[must_use = "an S3 request is verified only when its body has been read through `payload`"]
pub struct Verified {
    /// Who signed.
    pub principal: Principal,
    /// For which service.
    pub service: Service,
    /// For which region; one of the configured.
    pub region: String,
    /// What the body is held to. For KMS it has been compared already.
    pub payload: Payload,
    /// Whether the signature came in the query.
    pub presigned: bool,
}

impl Verified {
    /// Removes from the head what authenticated it and what framed its body, so that nobody behind us interprets either
    /// again: see [`Payload::strip`] and [`strip_query`].
    pub fn strip(&self, head: &mut Parts) {
        self.payload.strip(&mut head.headers);
        if self.presigned {
            head.uri = strip_query(&head.uri);
        }
    }
}

/// Finds out who signed a request.
#[derive(Debug)]
pub struct Verifier {
    credentials: Arc<Credentials>,
    account: AccountId,
    regions: Vec<String>,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    /// A verifier for the access keys of one account in some regions, the first of which is named to callers that signed
    /// for another.
    pub fn new(
        credentials: Arc<Credentials>,
        account: AccountId,
        regions: Vec<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            credentials,
            account,
            regions,
            clock,
        }
    }

    /// Verifies a request to S3 by its head. The body is to be read through [`Verified::payload`].
    ///
    /// # Errors
    ///
    /// Why the caller is not authenticated.
    pub fn verify_s3(&self, head: &Parts) -> Result<Verified, AuthError> {
        let query = read_query(head)?;
        let presented = Presented::find(head, &query)?;
        let presigned = presented.expires.is_some();
        let header = only_header(&head.headers, CONTENT_SHA256)?;
        let (payload_hash, declared) = if presigned {
            let is_signed = presented
                .signed_headers
                .iter()
                .any(|name| name == CONTENT_SHA256);
            let in_query = query.only("X-Amz-Content-Sha256")?;
            let payload_hash = header
                .filter(|_| is_signed)
                .or(in_query)
                .unwrap_or("UNSIGNED-PAYLOAD");
            let declared = match Declared::parse(payload_hash)? {
                Declared::Unsigned => Declared::parse(header.unwrap_or(payload_hash))?,
                declared => declared,
            };
            if declared.is_chunked() {
                return Err(AuthError::PayloadUnsupported);
            }
            (payload_hash, declared)
        } else {
            let payload_hash = header.ok_or(AuthError::HeaderRequired(CONTENT_SHA256))?;
            (payload_hash, Declared::parse(payload_hash)?)
        };
        let signer = self.check(head, &query, &presented, Service::S3, payload_hash)?;
        let payload = Payload::new(declared, &head.headers, signer, presented.signature)?;
        Ok(self.verified(presented, Service::S3, payload))
    }

    /// Verifies a request to KMS by its head and its whole body, which the caller has collected within its own bound.
    ///
    /// # Errors
    ///
    /// Why the caller is not authenticated.
    pub fn verify_kms(&self, head: &Parts, body: &[u8]) -> Result<Verified, AuthError> {
        let query = read_query(head)?;
        let presented = Presented::find(head, &query)?;
        if presented.expires.is_some() {
            return Err(AuthError::MechanismUnsupported);
        }
        // The header is not needed, and where it comes it must be true: the digest that was signed is that of this body.
        let computed = hex_sha256(body);
        let given = only_header(&head.headers, CONTENT_SHA256)?.unwrap_or(&computed);
        if !given.eq_ignore_ascii_case(&computed) {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        let signer = self.check(head, &query, &presented, Service::Kms, given)?;
        let payload = Payload::new(
            Declared::parse(given)?,
            &head.headers,
            signer,
            presented.signature,
        )?;
        Ok(self.verified(presented, Service::Kms, payload))
    }

    /// Everything but the payload, the cheap refusals first.
    fn check(
        &self,
        head: &Parts,
        query: &Query,
        presented: &Presented,
        service: Service,
        payload_hash: &str,
    ) -> Result<Signer, AuthError> {
        if head.headers.contains_key("x-amz-security-token") || query.has("X-Amz-Security-Token") {
            return Err(AuthError::TokenUnsupported);
        }
        self.check_scope(presented, service)?;
        self.check_time(presented)?;
        check_signed_headers(head, presented)?;

        let credential = &presented.credential;
        let secret = self
            .credentials
            .secret(&credential.access_key_id)
            .ok_or(AuthError::UnknownAccessKey)?;
        let signer = Signer::derive(
            secret,
            &presented.timestamp,
            &credential.date,
            &credential.region,
            &credential.service,
        );
        let request = canonical::request(head, query, &presented.signed_headers, payload_hash)?;
        signer
            .check_request(&request, &presented.signature)
            .map_err(|signing::Mismatch| AuthError::SignatureDoesNotMatch)?;
        Ok(signer)
    }

    fn check_scope(&self, presented: &Presented, service: Service) -> Result<(), AuthError> {
        let presigned = presented.expires.is_some();
        let credential = &presented.credential;
        if credential.service != service.as_str() {
            let given = credential.service.clone();
            return Err(AuthError::WrongService {
                presigned,
                given,
                expected: service.as_str(),
            });
        }
        if !self.regions.contains(&credential.region) {
            let expected = self.regions.first().cloned().unwrap_or_default();
            return Err(AuthError::WrongRegion {
                presigned,
                given: credential.region.clone(),
                expected,
            });
        }
        Ok(())
    }

    fn check_time(&self, presented: &Presented) -> Result<(), AuthError> {
        let age = self.clock.now() - presented.signed_at;
        match presented.expires {
            Some(_) if age < -SKEW_MAX => Err(AuthError::NotYetValid),
            Some(expires) if age > expires => Err(AuthError::Expired),
            None if age.abs() > SKEW_MAX => Err(AuthError::TimeTooSkewed),
            Some(_) | None => Ok(()),
        }
    }

    fn verified(&self, presented: Presented, service: Service, payload: Payload) -> Verified {
        Verified {
            principal: Principal::root(self.account.clone(), presented.credential.access_key_id),
            service,
            region: presented.credential.region,
            payload,
            presigned: presented.expires.is_some(),
        }
    }
}

/// The same URI without the parameters that presigning adds. All others stay as they were sent.
pub fn strip_query(uri: &Uri) -> Uri {
    let Some(query) = uri.query() else {
        return uri.clone();
    };
    let is_authentication = |part: &&str| {
        Query::parse(Some(part)).is_ok_and(|one| QUERY_PARAMETERS.iter().any(|name| one.has(name)))
    };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|part| !is_authentication(part))
        .collect();
    let mut text = uri.path().to_owned();
    if !kept.is_empty() {
        text.push('?');
        text.push_str(&kept.join("&"));
    }
    let mut parts = uri.clone().into_parts();
    // Whole parameters of a valid query make a valid query.
    let Ok(path_and_query) = PathAndQuery::try_from(text) else {
        return uri.clone();
    };
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).unwrap_or_else(|_invalid| uri.clone())
}

fn read_query(head: &Parts) -> Result<Query, AuthError> {
    canonical::bound(&head.headers)?;
    if head.headers.get_all(header::HOST).iter().count() > 1 {
        return Err(AuthError::HeaderRequired("host"));
    }
    Query::parse(head.uri.query())
}

/// `host` and every `x-amz-*` header that arrived must be signed.
fn check_signed_headers(head: &Parts, presented: &Presented) -> Result<(), AuthError> {
    let excepted = |name: &str| presented.expires.is_some() && name == CONTENT_SHA256;
    let mut unsigned: Vec<&str> = std::iter::once(header::HOST.as_str())
        .chain(head.headers.keys().map(header::HeaderName::as_str))
        .filter(|name| *name == header::HOST || name.starts_with("x-amz-"))
        .filter(|name| {
            !excepted(name) && !presented.signed_headers.iter().any(|signed| signed == name)
        })
        .collect();
    unsigned.sort_unstable();
    unsigned.dedup();
    if unsigned.is_empty() {
        Ok(())
    } else {
        Err(AuthError::HeadersNotSigned(unsigned.join(", ")))
    }
}
