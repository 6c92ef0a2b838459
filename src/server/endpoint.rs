//! One endpoint for S3, KMS, IAM and STS: tells them apart, authenticates, and hands over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use s3s::service::S3Service;
use time::OffsetDateTime;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

use super::body::TimedBody;
use super::refusals::{Known, Refusals, Refused};
use super::{health, metrics};
use crate::auth::payload::{BodyError, BoxError, VerifiedBody};
use crate::auth::policy::RequestSteps;
use crate::auth::sigv4::{AuthError, Claim, Service, Verified, Verifier};
use crate::auth::{Operation, Origin, RequestContext};
use crate::clock::Clock;
use crate::config::Limits;
use crate::iam::{Iam, IamError};
use crate::kms::{self, Kms, TokenGroups};
use crate::s3::{
    AnnouncedTrailers, Front, check_document, drop_meaningless_range, error_response, refuse,
};
use crate::store::Store;

/// The longest body of a request to another service than S3.
const SERVICE_BODY_BYTES_MAX: usize = 1024 * 1024;
/// The longest body of an S3 request that is not an object's bytes: lists of parts and of keys, configurations.
const S3_DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest document of an answer: a list of a thousand of the longest keys, encoded.
const S3_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is said when identities cannot be had without the HSM.
const IDENTITIES_AWAY: &str =
    "The hardware security module that keeps identities is unavailable. Please try again.";
const INTERNAL: &str = "We encountered an internal error. Please try again.";
/// How much of a body that nobody wants is read, so that the connection can be used again.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
/// How long that may take.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// What answers requests.
pub(super) struct Endpoint {
    verifier: Verifier,
    s3: S3Service,
    kms: Arc<Kms>,
    store: Store,
    iam: Arc<Iam>,
    refusals: Arc<Refusals>,
    groups: TokenGroups,
    limits: Limits,
    clock: Arc<dyn Clock>,
    calls: TaskTracker,
}

impl Endpoint {
    pub(super) fn new(
        verifier: Verifier,
        front: Front,
        (kms, iam): (Arc<Kms>, Arc<Iam>),
        groups: TokenGroups,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            verifier,
            store: front.store().clone(),
            calls: front.calls().clone(),
            s3: front.into_service(),
            refusals: Arc::new(Refusals::new(Arc::clone(&kms))),
            kms,
            iam,
            groups,
            limits,
            clock,
        }
    }

    /// Waits for the calls that go on without their callers; no connection is left that could begin another.
    pub(super) async fn end_calls(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// The routes, for one connection.
    pub(super) fn router(self: Arc<Self>, peer: SocketAddr) -> Router {
        let ready = Arc::clone(&self);
        let measured = Arc::clone(&self);
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route(
                "/readyz",
                get(move || async move { health::ready(&ready.groups) }),
            )
            .route(
                "/metrics",
                get(move || async move {
                    let bucket_keys = measured.store.bucket_key_counts();
                    metrics::text(
                        &measured.groups,
                        &bucket_keys,
                        measured.kms.audit_stats(),
                        &measured.refusals.metrics(),
                    )
                }),
            )
            .fallback(move |request: Request| {
                let endpoint = Arc::clone(&self);
                async move { endpoint.answer(request, peer).await }
            })
    }

    /// Records what is to be said of requests that were refused a while ago.
    pub(super) async fn tell_refusals(&self) {
        self.refusals.tick(self.clock.now()).await;
    }

    /// The same, of all until now.
    pub(super) async fn end_refusals(&self) {
        self.refusals.end(self.clock.now()).await;
    }

    /// Answers one request, and logs it.
    async fn answer(&self, request: Request, peer: SocketAddr) -> Response {
        let began = Instant::now();
        let request_id = new_request_id();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let span = info_span!("request", id = %request_id);
        let (parts, body) = request.into_parts();
        let waits = parts.headers.contains_key(header::EXPECT);
        let (body, rest) = TimedBody::new(body, self.limits.body_timeout);
        let answer = async {
            if is_kms(&parts) {
                self.kms(parts, body, &request_id, peer).await
            } else if let Some(service) = query_service(&parts) {
                self.query(service, parts, body, &request_id, peer).await
            } else {
                self.s3(parts, body, &request_id, peer).await
            }
        };
        let mut response = answer.instrument(span).await;
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            headers.insert("x-amz-request-id", id);
        }
        headers.insert(header::SERVER, HeaderValue::from_static("Strongroom"));
        // Whoever waits to be asked for the body is not asked for it any more.
        if waits || !rest.drain(DRAIN_BYTES_MAX, DRAIN_WAIT).await {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        info!(
            event = "request",
            id = %request_id,
            %method,
            path,
            status = response.status().as_u16(),
            ms = began.elapsed().as_millis(),
        );
        response
    }

    fn request_context(
        &self,
        verified: &Verified,
        headers: &HeaderMap,
        request_id: &str,
        peer: SocketAddr,
        time: OffsetDateTime,
    ) -> RequestContext {
        let text = |name| {
            let value: Option<&HeaderValue> = headers.get(name);
            value
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let account = self.iam.accounts().find(&verified.principal.account);
        RequestContext {
            principal: verified.principal.clone(),
            canonical_id: account.map(|account| account.canonical_id.clone()),
            request_id: request_id.to_owned(),
            source_ip: Some(peer.ip()),
            secure_transport: false,
            time,
            user_agent: text(header::USER_AGENT),
            referer: text(header::REFERER),
            presigned: verified.presigned,
            content_sha256: None,
            operation: Operation::default(),
            steps: RequestSteps::default(),
        }
    }

    /// Reads a short body, within a time: a client may not take an hour for a few bytes.
    async fn collect<B>(&self, body: B, bytes_max: usize) -> Result<Bytes, BoxError>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let all = Limited::new(body, bytes_max).collect();
        let all = tokio::time::timeout(self.limits.body_timeout, all).await;
        Ok(all
            .map_err(|_elapsed| "the body takes too long")??
            .to_bytes())
    }

    async fn kms(
        &self,
        parts: Parts,
        body: TimedBody<Body>,
        request_id: &str,
        peer: SocketAddr,
    ) -> Response {
        let refuse = |status, code, message: &str| {
            full(kms::api::error_response(code, status, message, request_id))
        };
        let body = match self.collect(body, SERVICE_BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return refuse(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "RequestEntityTooLargeException",
                    "The request is too long",
                );
            }
            Err(_broken) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    "IncompleteBody",
                    "The request body ended early",
                );
            }
        };
        let claim = self.verifier.claim_whole(Service::Kms, &parts, &body);
        let from = Claimant::of(Service::Kms, &parts.headers, request_id, peer);
        let verified = match self.believe(claim, from).await {
            Ok(verified) => verified,
            Err(Refusal::Caller(error)) => {
                let message = error.service_message();
                return refuse(StatusCode::BAD_REQUEST, error.kms_code(), &message);
            }
            Err(Refusal::Later) => {
                let code = "ServiceUnavailableException";
                return refuse(StatusCode::SERVICE_UNAVAILABLE, code, IDENTITIES_AWAY);
            }
            Err(Refusal::Damaged) => {
                let code = "KMSInternalException";
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, code, INTERNAL);
            }
        };
        let Some(target) = parts
            .headers
            .get("x-amz-target")
            .and_then(|target| target.to_str().ok())
        else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "UnknownOperationException",
                "X-Amz-Target is missing",
            );
        };
        let now = self.clock.now();
        let context = self.request_context(&verified, &parts.headers, request_id, peer, now);
        let (kms, target) = (Arc::clone(&self.kms), target.to_owned());
        to_its_end(&self.calls, request_id, async move {
            kms::api::handle(&kms, &context, &target, &body).await
        })
        .await
    }

    /// A request of the query protocol: IAM or STS.
    async fn query(
        &self,
        service: Service,
        parts: Parts,
        body: TimedBody<Body>,
        request_id: &str,
        peer: SocketAddr,
    ) -> Response {
        use crate::iam::api::{auth_error_response, error_response, handle};
        let refuse = |error| full(error_response(service, error, request_id));
        let body = match self.collect(body, SERVICE_BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return refuse(IamError::Validation("The request is too long".to_owned()));
            }
            Err(_broken) => {
                let message = "The request body ended early".to_owned();
                return refuse(IamError::Validation(message));
            }
        };
        let claim = self.verifier.claim_whole(service, &parts, &body);
        let from = Claimant::of(service, &parts.headers, request_id, peer);
        let verified = match self.believe(claim, from).await {
            Ok(verified) => verified,
            Err(Refusal::Caller(error)) => {
                return full(auth_error_response(service, error, request_id));
            }
            Err(Refusal::Later) => return refuse(IamError::Away),
            Err(Refusal::Damaged) => return refuse(IamError::Damaged("identity")),
        };
        let now = self.clock.now();
        let context = self.request_context(&verified, &parts.headers, request_id, peer, now);
        let form = if parts.method == Method::GET {
            Bytes::copy_from_slice(parts.uri.query().unwrap_or_default().as_bytes())
        } else {
            body
        };
        let iam = Arc::clone(&self.iam);
        to_its_end(&self.calls, request_id, async move {
            handle(&iam, service, &context, &form).await
        })
        .await
    }

    /// Finds the holder of the access key that is claimed, and verifies the claim.
    async fn believe(
        &self,
        claim: Result<Claim<'_>, AuthError>,
        from: Claimant,
    ) -> Result<Verified, Refusal> {
        let (mut access_key_id, mut is_known) = (None, false);
        let claimed = async {
            let claim = claim.map_err(IamError::NotAuthenticated)?;
            access_key_id = Some(claim.access_key_id().to_owned());
            let holder = self
                .iam
                .lookup(claim.access_key_id(), claim.session_token())
                .await?;
            is_known = true;
            claim.verify(holder).map_err(IamError::NotAuthenticated)
        };
        let claimed = claimed.await;
        let request_id = from.origin.request_id.clone();
        claimed.map_err(|error| match error {
            IamError::NotAuthenticated(error) => {
                log_refusal(&error);
                self.note_refusal(&error, access_key_id, is_known, from);
                Refusal::Caller(error)
            }
            error if error.is_outage() => {
                warn!(event = "auth.outage", request_id, error = error.chain());
                Refusal::Later
            }
            error => {
                error!(event = "auth.failed", request_id, error = error.chain());
                Refusal::Damaged
            }
        })
    }

    /// Counts a refusal, and records it within bounds: whether or not its caller waits, who need not wait for it.
    fn note_refusal(
        &self,
        error: &AuthError,
        access_key_id: Option<String>,
        is_known: bool,
        from: Claimant,
    ) {
        let now = self.clock.now();
        let known = access_key_id.as_deref().filter(|_| is_known);
        let known = known.map(|access_key_id| Known {
            access_key_id,
            source_ip: from.origin.source_ip,
        });
        let Some(told) = self.refusals.count(error, known, now) else {
            return;
        };
        let (refusals, error) = (Arc::clone(&self.refusals), error.clone());
        let noted = async move {
            let refused = Refused {
                service: from.service,
                access_key_id: access_key_id.as_deref(),
                is_known,
                error: &error,
                origin: &from.origin,
            };
            refusals.tell(told, &refused, now).await;
        };
        self.calls.spawn(noted.in_current_span());
    }

    async fn s3(
        &self,
        mut parts: Parts,
        body: TimedBody<Body>,
        request_id: &str,
        peer: SocketAddr,
    ) -> Response {
        let refuse_later =
            |status, code, message| full(error_response(status, code, message, request_id, &[]));
        let claim = self.verifier.claim_s3(&parts);
        let from = Claimant::of(Service::S3, &parts.headers, request_id, peer);
        let verified = match self.believe(claim, from).await {
            Ok(verified) => verified,
            Err(Refusal::Later) => {
                let code = "ServiceUnavailable";
                return refuse_later(StatusCode::SERVICE_UNAVAILABLE, code, IDENTITIES_AWAY);
            }
            Err(Refusal::Damaged) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return refuse_later(status, "InternalError", INTERNAL);
            }
            Err(Refusal::Caller(error)) => {
                let region = error.expected_region().map(|region| ("Region", region));
                let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::FORBIDDEN);
                let fields = region.as_slice();
                return full(error_response(
                    status,
                    error.code(),
                    &error.message(),
                    request_id,
                    fields,
                ));
            }
        };
        let announced = announced(&parts.headers);
        let content_sha256 = content_sha256(&parts.headers, verified.presigned);
        verified.strip(&mut parts);
        let refused = |error: s3s::S3Error| {
            let status = error.status_code().unwrap_or(StatusCode::BAD_REQUEST);
            let message = error.message().unwrap_or_default();
            full(error_response(
                status,
                error.code().as_str(),
                message,
                request_id,
                &[],
            ))
        };
        if let Err(error) = refuse::check(&parts.method, &parts.uri, &parts.headers) {
            return refused(error);
        }
        drop_meaningless_range(&mut parts.headers);
        hide_secrets(&mut parts.headers);
        let now = self.clock.now();
        let mut context = self.request_context(&verified, &parts.headers, request_id, peer, now);
        context.content_sha256 = content_sha256;
        let body = VerifiedBody::new(body, verified.payload);
        parts.extensions.insert(context);
        let announced = AnnouncedTrailers {
            names: announced,
            trailers: body.trailers(),
        };
        parts.extensions.insert(announced.clone());
        let body = if carries_object(&parts) {
            s3s::Body::http_body_unsync(body)
        } else {
            // A document is read here, so that nothing of it is parsed before all of it is verified.
            match self.collect(body, S3_DOCUMENT_BYTES_MAX).await {
                Ok(document) => {
                    if let Err(error) =
                        check_document(&parts.uri, &parts.headers, &announced, &document)
                    {
                        return refused(error);
                    }
                    s3s::Body::from(document)
                }
                Err(error) => return full(document_error(error.as_ref(), request_id)),
            }
        };
        let is_head = parts.method == Method::HEAD;
        let response = match self.s3.call(http::Request::from_parts(parts, body)).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(event = "s3.service", ?error);
                return full(error_response(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "InternalError",
                    "We encountered an internal error. Please try again.",
                    request_id,
                    &[],
                ));
            }
        };
        let mut response = response.map(Body::new);
        // `s3s` drops the status that a HEAD of a range has.
        if is_head
            && response.status() == StatusCode::OK
            && response.headers().contains_key(header::CONTENT_RANGE)
        {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        mended_document(response, request_id).await
    }
}

/// Marks what must not be logged: `s3s` writes whole requests into its debug log.
fn hide_secrets(headers: &mut HeaderMap) {
    for (name, value) in headers.iter_mut() {
        if name.as_str().contains("server-side-encryption") {
            value.set_sensitive(true);
        }
    }
}

/// What a request comes with before it is known whose it is.
struct Claimant {
    service: Service,
    origin: Origin,
}

impl Claimant {
    fn of(service: Service, headers: &HeaderMap, request_id: &str, peer: SocketAddr) -> Self {
        let agent = headers.get(header::USER_AGENT);
        Self {
            service,
            origin: Origin {
                request_id: request_id.to_owned(),
                source_ip: Some(peer.ip()),
                user_agent: agent
                    .and_then(|agent| agent.to_str().ok())
                    .map(str::to_owned),
                operation: Operation::default(),
            },
        }
    }
}

/// Why a request was not believed, by who must act.
enum Refusal {
    /// The caller.
    Caller(AuthError),
    /// Whoever tries again: identities cannot be had now.
    Later,
    /// The operator: identities cannot be trusted.
    Damaged,
}

/// IAM and STS have no path and no header of their own: the scope of the signature names them.
fn query_service(parts: &Parts) -> Option<Service> {
    let service = Service::claimed(parts)?;
    let asks = parts.uri.path() == "/" && [Method::GET, Method::POST].contains(&parts.method);
    (asks && matches!(service, Service::Iam | Service::Sts)).then_some(service)
}

/// KMS requests name their operation in a header; S3 ones never do.
fn is_kms(parts: &Parts) -> bool {
    parts.method == Method::POST
        && parts.uri.path() == "/"
        && parts.headers.contains_key("x-amz-target")
}

/// Whether the body is the bytes of an object or a part: `PUT /bucket/key`, plain or as a part.
fn carries_object(parts: &Parts) -> bool {
    let has_key = parts
        .uri
        .path()
        .trim_start_matches('/')
        .split_once('/')
        .is_some_and(|(_, key)| !key.is_empty());
    let plain = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        name.is_empty() || ["partNumber", "uploadId", "x-id"].contains(&name)
    };
    parts.method == Method::PUT
        && has_key
        && parts.uri.query().unwrap_or_default().split('&').all(plain)
}

fn announced(headers: &HeaderMap) -> Vec<String> {
    let values = headers
        .get_all("x-amz-trailer")
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

/// What a request to S3 says of its body's digest.
fn content_sha256(headers: &HeaderMap, presigned: bool) -> Option<String> {
    let header = headers.get("x-amz-content-sha256");
    let header = header.and_then(|value| value.to_str().ok());
    let unsigned = presigned.then_some("UNSIGNED-PAYLOAD");
    header.or(unsigned).map(str::to_owned)
}

/// Answers a request that changes records, and that is recorded, whether or not its caller still waits: hyper drops the
/// future of a connection that is closed.
async fn to_its_end(
    calls: &TaskTracker,
    request_id: &str,
    answer: impl Future<Output = http::Response<Bytes>> + Send + 'static,
) -> Response {
    let answer = calls.spawn(answer.in_current_span());
    full(answer.await.unwrap_or_else(|error| {
        error!(event = "request.panicked", %error);
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        kms::api::error_response("InternalFailure", status, INTERNAL, request_id)
    }))
}

fn log_refusal(error: &AuthError) {
    info!(event = "auth.refused", code = error.code(), reason = %error);
}

fn document_error(
    error: &(dyn std::error::Error + Send + Sync + 'static),
    request_id: &str,
) -> http::Response<Bytes> {
    if error.is::<http_body_util::LengthLimitError>() {
        return error_response(
            StatusCode::BAD_REQUEST,
            "MaxMessageLengthExceeded",
            "Your request was too big.",
            request_id,
            &[],
        );
    }
    match error.downcast_ref::<BodyError>() {
        Some(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            error_response(status, error.code(), error.message(), request_id, &[])
        }
        None => error_response(
            StatusCode::BAD_REQUEST,
            "IncompleteBody",
            "The request body terminated unexpectedly",
            request_id,
            &[],
        ),
    }
}

fn full(response: http::Response<Bytes>) -> Response {
    response.map(|bytes| Body::new(Full::new(bytes)))
}

/// Mends what `s3s` writes: errors get the request id, and a carriage return in a key is written as XML must write it
/// (XML 1.0 §2.11: raw, it would be read as a line feed).
async fn mended_document(response: Response, request_id: &str) -> Response {
    let is_xml = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/xml");
    if !response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(is_xml)
        || response.headers().contains_key(header::ACCEPT_RANGES)
    {
        return response;
    }
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    let (mut parts, body) = response.into_parts();
    let Ok(document) = Limited::new(body, S3_ANSWER_BYTES_MAX).collect().await else {
        parts.status = StatusCode::INTERNAL_SERVER_ERROR;
        return Response::from_parts(parts, Body::empty());
    };
    let mut document = document.to_bytes();
    if document.contains(&b'\r') {
        document = String::from_utf8_lossy(&document)
            .replace('\r', "&#13;")
            .into();
    }
    if is_error
        && let Some((before, _)) = String::from_utf8_lossy(&document).rsplit_once("</Error>")
        && !before.contains("<RequestId>")
    {
        document = format!("{before}<RequestId>{request_id}</RequestId></Error>").into();
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(document))
}

/// Sixteen hex digits, as AWS's are.
fn new_request_id() -> String {
    let mut id = [0; 8];
    // An id that is not random only makes logs harder to read.
    let _ = aws_lc_rs::rand::fill(&mut id);
    hex::encode_upper(id)
}
