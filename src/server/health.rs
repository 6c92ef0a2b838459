//! Health, from cached state: a probe never touches the HSM.
//!
//! `/healthz` says that the process answers. `/readyz` says that requests can be served, in JSON. An absent HSM makes
//! the server `degraded`, not unready: LIST, HEAD and DELETE work, and taking the server out of service would take
//! them, too.

use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Value, json};
use strongroom_hsm::{Health, HsmGroup, State};

use crate::kms::TokenGroups;

pub(super) fn ready(groups: &TokenGroups) -> Response {
    let default = groups.default_group();
    let named: serde_json::Map<String, Value> = groups
        .named()
        .map(|(name, group)| (name.to_owned(), told(group)))
        .collect();
    let all = std::iter::once(default).chain(groups.named().map(|(_, group)| group));
    // A member of a group that is out of order is somebody's work, too.
    let well = all
        .flat_map(HsmGroup::health)
        .all(|health| health.state == State::Ready);
    let body = json!({
        "status": if well { "ready" } else { "degraded" },
        "hsm": told(default),
        "groups": named,
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
        .into_response()
}

fn told(group: &HsmGroup) -> Value {
    json!({
        "state": name(group.state()),
        "tokens": group.health().iter().map(token).collect::<Vec<_>>(),
    })
}

fn token(health: &Health) -> Value {
    json!({
        "state": name(health.state),
        "queued": health.queued,
        "workers": health.workers,
        "hung_workers": health.hung_workers,
    })
}

fn name(state: State) -> &'static str {
    match state {
        State::Unknown => "unknown",
        State::Ready => "ready",
        State::Down => "down",
        State::Hung => "hung",
    }
}
