//! The IAM and STS APIs on the wire: the AWS query protocol. A request is a form (`POST`) or a query (`GET`) with
//! `Action` and `Version`; an answer is XML.
//!
//! This front end turns parameters into calls of [`Iam`] and answers into XML. It checks the constraints of the wire,
//! finds the entity that is meant, authorises, and only then lets `iam` answer. A parameter that it does not know is
//! ignored, as AWS ignores it; one that it knows and cannot honour is refused.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use super::{Iam, IamError};
use crate::audit::caught;
use crate::auth::RequestContext;
use crate::auth::sigv4::{AuthError, Service};
use crate::kms::KmsError;

mod audit;
mod call;
mod error;
mod form;
mod groups;
mod permissions;
mod policies;
mod roles;
mod sts;
mod users;
mod xml;

use call::Call;
use error::WireError;
use form::Form;
use xml::Xml;

/// The largest request: a policy of its full length, each character encoded, and the rest.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// What AWS has and this server does not: refused, whichever operation brings it.
const UNSUPPORTED: [&str; 8] = [
    "PermissionsBoundary",
    "ProvidedContexts.",
    "SerialNumber",
    "SourceIdentity",
    "Tags.",
    "TokenCode",
    "TransitiveTagKeys.",
    "PolicyUsageFilter",
];

/// What an operation answers: elements of its result, or nothing.
type Answer = Result<Option<Xml>, IamError>;

/// Answers one request that is authenticated. `form` is the body of a `POST`, the query of a `GET`.
pub async fn handle(
    iam: &Iam,
    service: Service,
    context: &RequestContext,
    form: &[u8],
) -> Response<Bytes> {
    let request_id = &context.request_id;
    let (operation, answer) = match Form::parse(form) {
        Ok(form) => {
            let operation = form.raw("Action").unwrap_or_default().to_owned();
            let call = Call {
                iam,
                context,
                form: &form,
            };
            let answer = audited(&call, service, &operation).await;
            (operation, answer)
        }
        Err(error) => {
            let operation = String::new();
            let error = WireError::new(error, request_id, &operation);
            (operation, Err(error))
        }
    };
    let response = match answer {
        Ok(result) => success(service, &operation, result.as_ref(), request_id),
        Err(error) => failure(service, &error, request_id),
    };
    tracing::info!(
        event = "iam.request",
        request_id,
        service = service.as_str(),
        operation = operation.chars().take(64).collect::<String>(),
        status = response.status().as_u16()
    );
    response
}

/// An answer for what the server refuses before it gets here: authentication, size, shape.
pub fn error_response(service: Service, error: IamError, request_id: &str) -> Response<Bytes> {
    let error = WireError::new(error, request_id, "");
    failure(service, &error, request_id)
}

/// An answer to a request that nobody signed as it should be.
pub fn auth_error_response(
    service: Service,
    error: AuthError,
    request_id: &str,
) -> Response<Bytes> {
    error_response(service, IamError::NotAuthenticated(error), request_id)
}

/// The version of each API, which is also in its namespace.
fn version(service: Service) -> &'static str {
    match service {
        Service::Sts => "2011-06-15",
        Service::Iam | Service::S3 | Service::Kms => "2010-05-08",
    }
}

fn namespace(service: Service) -> String {
    let name = match service {
        Service::Sts => "sts",
        Service::Iam | Service::S3 | Service::Kms => "iam",
    };
    format!("https://{name}.amazonaws.com/doc/{}/", version(service))
}

fn success(
    service: Service,
    operation: &str,
    result: Option<&Xml>,
    request_id: &str,
) -> Response<Bytes> {
    let result = match result {
        Some(xml) => format!("<{operation}Result>{}</{operation}Result>", xml.to_text()),
        None => String::new(),
    };
    let mut metadata = Xml::default();
    metadata.element("ResponseMetadata", |inner| {
        inner.text("RequestId", request_id);
    });
    let body = format!(
        "<{operation}Response xmlns=\"{}\">{result}{}</{operation}Response>",
        namespace(service),
        metadata.to_text()
    );
    respond(StatusCode::OK, body, request_id)
}

fn failure(service: Service, error: &WireError, request_id: &str) -> Response<Bytes> {
    let sender = if error.status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    let mut xml = Xml::default();
    xml.element("Error", |inner| {
        inner
            .text("Type", sender)
            .text("Code", error.code)
            .text("Message", &error.message);
    })
    .text("RequestId", request_id);
    let body = format!(
        "<ErrorResponse xmlns=\"{}\">{}</ErrorResponse>",
        namespace(service),
        xml.to_text()
    );
    respond(error.status, body, request_id)
}

fn respond(status: StatusCode, body: String, request_id: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    if let Ok(request_id) = HeaderValue::from_str(request_id) {
        headers.insert("x-amzn-requestid", request_id);
    }
    response
}

/// Answers, and records the answer before it leaves.
async fn audited(
    call: &Call<'_>,
    service: Service,
    operation: &str,
) -> Result<Option<Xml>, WireError> {
    let request_id = &call.context.request_id;
    let failed = |error| WireError::new(error, request_id, operation);
    let unrecorded = |error: KmsError| failed(error.into());
    call.iam.kms.check_audit().map_err(unrecorded)?;
    let answer = caught(dispatch(call, service, operation)).await;
    let panicked = |panic| Err(KmsError::panicked(panic).into());
    let answer = answer.unwrap_or_else(panicked).map_err(failed);
    audit::record(call, service, operation, &answer)
        .await
        .map_err(unrecorded)?;
    answer
}

async fn dispatch(call: &Call<'_>, service: Service, operation: &str) -> Answer {
    let given = call.form.raw("Version");
    let invalid = || IamError::InvalidAction {
        operation: operation.chars().take(64).collect(),
        version: given
            .unwrap_or("NO_VERSION_SPECIFIED")
            .chars()
            .take(32)
            .collect(),
    };
    if given != Some(version(service)) {
        return Err(invalid());
    }
    if let Some(name) = call.form.any_of(&UNSUPPORTED) {
        return Err(IamError::Unsupported(format!(
            "The parameter {name} is not supported"
        )));
    }
    let answered = match service {
        Service::Sts => sts::dispatch(call, operation).await,
        Service::Iam => match users::dispatch(call, operation).await {
            None => match groups::dispatch(call, operation).await {
                None => match roles::dispatch(call, operation).await {
                    None => match permissions::dispatch(call, operation).await {
                        None => policies::dispatch(call, operation).await,
                        some => some,
                    },
                    some => some,
                },
                some => some,
            },
            some => some,
        },
        Service::S3 | Service::Kms => None,
    };
    answered.unwrap_or_else(|| Err(invalid()))
}
