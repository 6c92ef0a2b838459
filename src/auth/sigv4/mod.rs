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
//! In two steps: a [`Claim`] is what a request says, parsed, bounded and in its time; whoever keeps the access keys is
//! then asked for the [`Holder`] of the one it names; [`Claim::verify`] believes it or not. So nothing here needs to know
//! where access keys are kept, and nobody is asked about a request that could not be verified anyway.
//!
//! Only AWS4-HMAC-SHA256: neither version 2 nor version 4A.

use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Uri, header};
use time::Duration;

use super::Principal;
use super::credentials::Holder;
use super::payload::{Declared, Payload};
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
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// A service that a request can be signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Objects.
    S3,
    /// Keys.
    Kms,
    /// Identities and their policies.
    Iam,
    /// Sessions.
    Sts,
}

impl Service {
    /// Its name in a scope.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Kms => "kms",
            Self::Iam => "iam",
            Self::Sts => "sts",
        }
    }

    /// The service that a request says it is signed for, which nobody believes yet. Tells IAM and STS from the rest of
    /// the endpoint: they have no header and no path of their own.
    pub fn claimed(head: &Parts) -> Option<Self> {
        let name = presented::claimed_service(head)?;
        [Self::S3, Self::Kms, Self::Iam, Self::Sts]
            .into_iter()
            .find(|service| service.as_str() == name)
    }

    /// The region that a service is signed for which has one for the whole world.
    fn global_region(self) -> Option<&'static str> {
        match self {
            Self::S3 | Self::Kms => None,
            Self::Iam | Self::Sts => Some("us-east-1"),
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
    regions: Vec<String>,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    /// A verifier for some regions, the first of which is named to callers that signed for another.
    pub fn new(regions: Vec<String>, clock: Arc<dyn Clock>) -> Self {
        Self { regions, clock }
    }

    /// Reads what the head of a request to S3 claims. The body is to be read through [`Verified::payload`].
    ///
    /// # Errors
    ///
    /// Why the caller cannot be authenticated, whoever it is.
    pub fn claim_s3<'a>(&self, head: &'a Parts) -> Result<Claim<'a>, AuthError> {
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
        let payload_hash = payload_hash.to_owned();
        self.claim(head, query, presented, Service::S3, payload_hash, declared)
    }

    /// Reads what a request to another service claims by its head and its whole body, which the caller has collected
    /// within its own bound. KMS takes no presigned requests; STS does, and IAM with it.
    ///
    /// # Errors
    ///
    /// Why the caller cannot be authenticated, whoever it is.
    pub fn claim_whole<'a>(
        &self,
        service: Service,
        head: &'a Parts,
        body: &[u8],
    ) -> Result<Claim<'a>, AuthError> {
        let query = read_query(head)?;
        let presented = Presented::find(head, &query)?;
        if presented.expires.is_some() && service == Service::Kms {
            return Err(AuthError::MechanismUnsupported);
        }
        // The header is not needed, and where it comes it must be true: the digest that was signed is that of this body.
        let computed = hex_sha256(body);
        let given = only_header(&head.headers, CONTENT_SHA256)?.unwrap_or(&computed);
        if !given.eq_ignore_ascii_case(&computed) {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        let declared = Declared::parse(given)?;
        let payload_hash = given.to_owned();
        self.claim(head, query, presented, service, payload_hash, declared)
    }

    /// Everything that needs no access key, the cheap refusals first.
    fn claim<'a>(
        &self,
        head: &'a Parts,
        query: Query,
        presented: Presented,
        service: Service,
        payload_hash: String,
        declared: Declared,
    ) -> Result<Claim<'a>, AuthError> {
        let session_token = session_token(head, &query, presented.expires.is_some())?;
        self.check_scope(&presented, service)?;
        self.check_time(&presented)?;
        check_signed_headers(head, &presented)?;
        Ok(Claim {
            head,
            query,
            presented,
            service,
            payload_hash,
            declared,
            session_token,
        })
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
        let is_global = service.global_region() == Some(credential.region.as_str());
        if !is_global && !self.regions.contains(&credential.region) {
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
}

/// What a request says of itself: parsed, bounded and in its time, and not believed.
#[derive(Debug)]
#[must_use = "a claim authenticates nobody"]
pub struct Claim<'a> {
    head: &'a Parts,
    query: Query,
    presented: Presented,
    service: Service,
    payload_hash: String,
    declared: Declared,
    session_token: Option<String>,
}

impl Claim<'_> {
    /// The access key that it names.
    pub fn access_key_id(&self) -> &str {
        &self.presented.credential.access_key_id
    }

    /// The session token that it brings. Signed, as far as it is signed at all.
    pub fn session_token(&self) -> Option<&str> {
        self.session_token.as_deref()
    }

    /// Believes the claim if the holder of its access key signed it.
    ///
    /// # Errors
    ///
    /// [`AuthError::SignatureDoesNotMatch`]; what is wrong about the way the body is sent.
    pub fn verify(self, holder: Holder) -> Result<Verified, AuthError> {
        let credential = &self.presented.credential;
        let signer = Signer::derive(
            &holder.secret,
            &self.presented.timestamp,
            &credential.date,
            &credential.region,
            &credential.service,
        );
        let request = canonical::request(
            self.head,
            &self.query,
            &self.presented.signed_headers,
            &self.payload_hash,
        )?;
        signer
            .check_request(&request, &self.presented.signature)
            .map_err(|signing::Mismatch| AuthError::SignatureDoesNotMatch)?;
        let payload = Payload::new(
            self.declared,
            &self.head.headers,
            signer,
            self.presented.signature,
        )?;
        Ok(Verified {
            principal: holder.principal,
            service: self.service,
            region: self.presented.credential.region,
            payload,
            presigned: self.presented.expires.is_some(),
        })
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

/// The one session token of a request: in a header, or in the query of a presigned request. Either is signed: the query
/// always, the header because every `x-amz-*` header must be.
fn session_token(
    head: &Parts,
    query: &Query,
    presigned: bool,
) -> Result<Option<String>, AuthError> {
    let in_header = only_header(&head.headers, SECURITY_TOKEN)?;
    let in_query = query.only("X-Amz-Security-Token")?;
    let token = match (in_header, in_query) {
        (token, None) => token,
        (None, Some(token)) if presigned => Some(token),
        (_, Some(_)) => return Err(AuthError::TokenInvalid),
    };
    Ok(token.map(str::to_owned))
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
