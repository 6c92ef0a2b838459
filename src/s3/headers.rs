//! Headers that are kept with an object, and conditions.

use std::collections::HashMap;

use http::HeaderMap;
use s3s::dto::{ETag, ETagCondition, Range, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};
use time::OffsetDateTime;

use crate::store::record::{Headers, ObjectRecord};
use crate::store::{Conditions, WriteConditions};

/// The most bytes of user metadata, names and values: AWS's limit.
pub(super) const USER_METADATA_BYTES_MAX: usize = 2 * 1024;

/// What of a request's headers is kept.
pub(super) fn kept(
    headers: &HeaderMap,
    metadata: Option<HashMap<String, String>>,
) -> S3Result<Headers> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let mut user: Vec<(String, String)> = metadata.unwrap_or_default().into_iter().collect();
    user.sort();
    let bytes: usize = user
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size"
        ));
    }
    Ok(Headers {
        content_type: text("content-type"),
        cache_control: text("cache-control"),
        content_disposition: text("content-disposition"),
        content_encoding: text("content-encoding").filter(|coding| !coding.is_empty()),
        content_language: text("content-language"),
        expires: text("expires"),
        user,
    })
}

/// Removes a `Range` that is none, or that asks for several pieces: RFC 9110 §14.2 lets a server ignore it, and S3 does.
pub fn drop_meaningless_range(headers: &mut HeaderMap) {
    let range = headers
        .get("range")
        .map(|range| range.to_str().is_ok_and(|text| Range::parse(text).is_ok()));
    if range == Some(false) {
        headers.remove("range");
    }
}

/// User metadata of an answer.
pub(super) fn user_metadata(headers: &Headers) -> Option<HashMap<String, String>> {
    (!headers.user.is_empty()).then(|| headers.user.iter().cloned().collect())
}

/// `Expires`, if it is a date.
pub(super) fn expires(headers: &Headers) -> Option<Timestamp> {
    headers
        .expires
        .as_deref()
        .and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok())
}

/// A moment of a record.
pub(super) fn timestamp(milliseconds: i64) -> Timestamp {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000);
    Timestamp::from(at.unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

/// A moment of a request, in seconds since 1970.
fn seconds(timestamp: Timestamp) -> i64 {
    OffsetDateTime::from(timestamp).unix_timestamp()
}

/// An `ETag` of an answer.
pub(super) fn etag(text: &str) -> ETag {
    ETag::Strong(text.to_owned())
}

/// The `ETag` of a condition, or `*`.
pub(super) fn etag_condition(condition: ETagCondition) -> String {
    condition
        .into_etag()
        .map_or_else(|| "*".to_owned(), ETag::into_value)
}

/// Conditions of reading an object, or the source of a copy.
pub(super) fn read_conditions(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
) -> Conditions {
    Conditions {
        if_match: if_match.map(|condition| vec![etag_condition(condition)]),
        if_none_match: if_none_match.map(|condition| vec![etag_condition(condition)]),
        if_modified_since: if_modified_since.map(seconds),
        if_unmodified_since: if_unmodified_since.map(seconds),
    }
}

/// Whether `If-Range` lets a range be served: the whole is sent when the object is not the one that the client has a
/// piece of (RFC 9110 §13.1.5).
pub(super) fn if_range_holds(headers: &HeaderMap, record: &ObjectRecord) -> bool {
    let Some(value) = headers.get("if-range") else {
        return true;
    };
    if let Ok(etag) = ETag::parse_http_header(value.as_bytes()) {
        return etag.as_strong() == Some(record.etag.as_str());
    }
    let date = value
        .to_str()
        .ok()
        .and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok());
    date.is_some_and(|date| seconds(date) == record.last_modified_ms.div_euclid(1000))
}

/// Conditions of a write.
pub(super) fn write_conditions(
    if_match: Option<ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<WriteConditions> {
    if if_none_match.is_some_and(|condition| !condition.is_any()) {
        return Err(s3_error!(
            NotImplemented,
            "A header you provided implies functionality that is not implemented: If-None-Match with an ETag"
        ));
    }
    Ok(WriteConditions {
        if_match: if_match.map(etag_condition),
        if_none_match: if_none_match.is_some(),
    })
}

/// A length on the wire.
pub(super) fn length(bytes: u64) -> Option<i64> {
    i64::try_from(bytes).ok()
}
