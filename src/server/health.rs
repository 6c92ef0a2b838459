//! Health, from cached state: a probe never touches the HSM.
//!
//! `/healthz` says that the process answers. `/readyz` says that requests can be served, in JSON. An absent HSM makes
//! the server `degraded`, not unready: LIST, HEAD and DELETE work, and taking the server out of service would take
//! them, too.

use axum::response::{IntoResponse, Response};
use http::header;
use strongroom_hsm::{Health, State};

pub(super) fn ready(hsm: &Health) -> Response {
    let state = match hsm.state {
        State::Unknown => "unknown",
        State::Ready => "ready",
        State::Down => "down",
        State::Hung => "hung",
    };
    let status = if hsm.state == State::Ready {
        "ready"
    } else {
        "degraded"
    };
    let body = serde_json::json!({
        "status": status,
        "hsm": { "state": state, "queued": hsm.queued, "workers": hsm.workers, "hung_workers": hsm.hung_workers },
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
        .into_response()
}
