//! `/metrics`: counters in the text format of Prometheus 0.0.4, from cached state like [`health`](super::health).

use std::fmt::Write as _;

use axum::response::{IntoResponse, Response};
use http::header;
use strongroom_hsm::{Health, State};

use crate::audit::AuditStats;
use crate::kms::TokenGroups;
use crate::store::BucketKeyCounts;

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

/// A family of what the server counts itself: the same, without tokens.
type ServerFamily<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

const BUCKET_KEY_FAMILIES: [ServerFamily<BucketKeyCounts>; 3] = [
    (
        "strongroom_bucket_key_hits_total",
        "counter",
        "Data keys wrapped or unwrapped by a bucket key in memory: calls of the token that were spared.",
        |counts| counts.hits,
    ),
    (
        "strongroom_bucket_key_misses_total",
        "counter",
        "Bucket keys that were not in memory, for which the token was called.",
        |counts| counts.misses,
    ),
    (
        "strongroom_bucket_keys",
        "gauge",
        "Bucket keys in memory.",
        |counts| count(counts.held),
    ),
];

const AUDIT_FAMILIES: [ServerFamily<AuditStats>; 6] = [
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

/// Every family: of every token, of bucket keys, and of the audit if there is one; `refusals` is written already.
pub(super) fn text(
    groups: &TokenGroups,
    bucket_keys: &BucketKeyCounts,
    audit: Option<AuditStats>,
    refusals: &str,
) -> Response {
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
    add(&mut text, &BUCKET_KEY_FAMILIES, bucket_keys);
    if let Some(stats) = &audit {
        add(&mut text, &AUDIT_FAMILIES, stats);
    }
    text.push_str(refusals);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

fn add<T>(text: &mut String, families: &[ServerFamily<T>], counted: &T) {
    for (family, kind, help, read) in families {
        let value = read(counted);
        let _ = writeln!(
            text,
            "# HELP {family} {help}\n# TYPE {family} {kind}\n{family} {value}"
        );
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
