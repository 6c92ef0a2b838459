//! `/metrics`: counters in the text format of Prometheus 0.0.4, from cached state like [`health`](super::health).

use std::fmt::Write as _;

use axum::response::{IntoResponse, Response};
use http::header;
use strongroom_hsm::{Health, State};

use crate::audit::AuditStats;
use crate::kms::TokenGroups;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A family: its name, type and help, and how to read it.
type Family = (&'static str, &'static str, &'static str, fn(&Health) -> u64);

const FAMILIES: [Family; 8] = [
    (
        "strongroom_hsm_up",
        "gauge",
        "Whether the last answer of the token was an answer.",
        |health| u64::from(health.state == State::Ready),
    ),
    (
        "strongroom_hsm_queued",
        "gauge",
        "Calls that wait for a session.",
        |health| count(health.queued),
    ),
    (
        "strongroom_hsm_workers",
        "gauge",
        "Workers, each with one session.",
        |health| count(health.workers),
    ),
    (
        "strongroom_hsm_hung_workers",
        "gauge",
        "Workers in a call that is past its deadline.",
        |health| count(health.hung_workers),
    ),
    (
        "strongroom_hsm_calls_total",
        "counter",
        "Calls that the token answered, with an error or not.",
        |health| health.calls,
    ),
    (
        "strongroom_hsm_failures_total",
        "counter",
        "Answers that spoke against the token.",
        |health| health.failures,
    ),
    (
        "strongroom_hsm_timeouts_total",
        "counter",
        "Calls that ended at their deadline.",
        |health| health.timeouts,
    ),
    (
        "strongroom_hsm_rejected_total",
        "counter",
        "Calls refused because the queue was full or every worker hung.",
        |health| health.rejected,
    ),
];

/// The same, of the audit.
type AuditFamily = (
    &'static str,
    &'static str,
    &'static str,
    fn(&AuditStats) -> u64,
);

const AUDIT_FAMILIES: [AuditFamily; 6] = [
    (
        "strongroom_audit_failing",
        "gauge",
        "Whether audit records cannot be written.",
        |stats| u64::from(stats.is_failing),
    ),
    (
        "strongroom_audit_unattested_records",
        "gauge",
        "Audit records that no checkpoint of the HSM attests yet.",
        |stats| stats.unattested,
    ),
    (
        "strongroom_audit_checkpoint_failing",
        "gauge",
        "Whether the last attempt at a checkpoint of the audit failed.",
        |stats| u64::from(stats.checkpoint_is_failing),
    ),
    (
        "strongroom_audit_records_total",
        "counter",
        "Audit records written.",
        |stats| stats.records,
    ),
    (
        "strongroom_audit_lost_records_total",
        "counter",
        "Audit records that could not be written.",
        |stats| stats.lost,
    ),
    (
        "strongroom_audit_flushes_total",
        "counter",
        "Flushes of the audit to stable storage.",
        |stats| stats.flushes,
    ),
];

/// Every family, of every token and of the audit if there is one.
pub(super) fn text(groups: &TokenGroups, audit: Option<AuditStats>) -> Response {
    let default = std::iter::once(("default", groups.default_group()));
    let tokens: Vec<_> = default
        .chain(groups.named())
        .flat_map(|(name, group)| {
            let health = group.health().into_iter().enumerate();
            health.map(move |(index, health)| (name, index, health))
        })
        .collect();
    let mut text = String::new();
    for (family, kind, help, read) in FAMILIES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}");
        for (group, index, health) in &tokens {
            let value = read(health);
            let _ = writeln!(
                text,
                "{family}{{group=\"{group}\",token=\"{index}\"}} {value}"
            );
        }
    }
    for (family, kind, help, read) in AUDIT_FAMILIES {
        if let Some(stats) = &audit {
            let value = read(stats);
            let _ = writeln!(
                text,
                "# HELP {family} {help}\n# TYPE {family} {kind}\n{family} {value}"
            );
        }
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
