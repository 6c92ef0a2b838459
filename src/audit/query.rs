//! Finding records. What is found is not verified: that is [`verify`](super::verify)'s.

use std::io;
use std::path::Path;

use serde_json::Value;

use super::chain::Line;
use super::files::{self, Lines, Read};

/// What a record must be like; what is not given does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A key's ARN or id, or what a caller called it.
    pub key: Option<String>,
    /// An identity's ARN or user name, or an access key id; of that, also the call that made it, and refusals that
    /// claimed it.
    pub principal: Option<String>,
    /// `BUCKET` (what was done to itself), `BUCKET/KEY`, or the ARN; with a `*` at its end, all that begin so.
    pub object: Option<String>,
    /// `eventName`.
    pub event: Option<String>,
    /// From this time on, as [`Filter::since`] compares it: RFC 3339 in UTC, or the beginning of it.
    pub since: Option<String>,
    /// Before this time.
    pub until: Option<String>,
    /// How it went.
    pub outcome: Option<Wanted>,
}

/// How it must have gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Well.
    Success,
    /// Not well.
    Failure,
    /// Denied.
    Denied,
    /// With this `errorCode`.
    Code(String),
}

impl From<&str> for Wanted {
    fn from(text: &str) -> Self {
        match text {
            "success" => Self::Success,
            "failure" => Self::Failure,
            "denied" => Self::Denied,
            code => Self::Code(code.to_owned()),
        }
    }
}

const S3_STEM: &str = "arn:aws:s3:::";
const BUCKET_DEFAULT_KEY: &str = "/requestParameters/ServerSideEncryptionConfiguration/Rule/0/ApplyServerSideEncryptionByDefault/KMSMasterKeyID";

impl Filter {
    /// Whether this event is meant.
    pub fn takes(&self, event: &Value) -> bool {
        let time = text(event, "/eventTime");
        self.event
            .as_deref()
            .is_none_or(|name| text(event, "/eventName") == name)
            && self.since.as_deref().is_none_or(|since| time >= since)
            && self.until.as_deref().is_none_or(|until| time < until)
            && self.key.as_deref().is_none_or(|key| names_key(event, key))
            && self
                .principal
                .as_deref()
                .is_none_or(|who| is_by(event, who))
            && self
                .object
                .as_deref()
                .is_none_or(|object| is_for(event, object))
            && self
                .outcome
                .as_ref()
                .is_none_or(|outcome| went(event, outcome))
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    let items = value.pointer(pointer).and_then(Value::as_array);
    items.into_iter().flatten()
}

fn names_key(event: &Value, key: &str) -> bool {
    let is_resource = list(event, "/resources").any(|resource| {
        let arn = text(resource, "/ARN");
        arn == key || arn.rsplit_once('/').is_some_and(|(_, id)| id == key)
    });
    let parameters = event.get("requestParameters").and_then(Value::as_object);
    let mut named = [
        "keyId",
        "sourceKeyId",
        "destinationKeyId",
        "targetKeyId",
        "fromKeyId",
        "toKeyId",
        "aliasName",
    ]
    .into_iter()
    .filter_map(|name| parameters?.get(name)?.as_str());
    is_resource || named.any(|named| named == key) || text(event, BUCKET_DEFAULT_KEY) == key
}

fn is_by(event: &Value, who: &str) -> bool {
    [
        "arn",
        "userName",
        "accessKeyId",
        "principalId",
        "sessionContext/sessionIssuer/arn",
    ]
    .into_iter()
    .any(|name| text(event, &format!("/userIdentity/{name}")) == who)
        || [
            "accessKey/accessKeyId",
            "credentials/accessKeyId",
            "assumedRoleUser/arn",
            "assumedRoleUser/assumedRoleId",
        ]
        .into_iter()
        .any(|name| text(event, &format!("/responseElements/{name}")) == who)
        || list(event, "/serviceEventDetails/accessKeys")
            .any(|claimed| text(claimed, "/accessKeyId") == who)
}

fn is_for(event: &Value, object: &str) -> bool {
    let object = object.strip_prefix(S3_STEM).unwrap_or(object);
    let named = [
        text(event, "/s3Request/resource"),
        text(event, "/requestParameters/encryptionContext/aws:s3:arn"),
    ];
    let resources = list(event, "/resources").map(|resource| text(resource, "/ARN"));
    named
        .into_iter()
        .chain(resources)
        .filter_map(|arn| arn.strip_prefix(S3_STEM))
        .any(|arn| match object.strip_suffix('*') {
            Some(beginning) => arn.starts_with(beginning),
            None => arn == object,
        })
}

fn went(event: &Value, outcome: &Wanted) -> bool {
    let code = event.get("errorCode").and_then(Value::as_str);
    match outcome {
        Wanted::Success => code.is_none(),
        Wanted::Failure => code.is_some(),
        Wanted::Denied => code.is_some_and(|code| code.starts_with("AccessDenied")),
        Wanted::Code(wanted) => code == Some(wanted),
    }
}

/// Shows every event in `dir` that `filter` takes to `each`, oldest first, until that says to stop. Notes of the chain
/// and lines that do not read are passed over.
///
/// # Errors
///
/// When a file cannot be read; of `each`.
pub fn query(
    dir: &Path,
    filter: &Filter,
    mut each: impl FnMut(&[u8], &Value) -> io::Result<bool>,
) -> io::Result<()> {
    for (_, path) in files::list(dir)? {
        let mut lines = Lines::open(&path)?;
        loop {
            let line = match lines.next()? {
                Read::Line(line) => line,
                Read::TooLong => continue,
                Read::Rest(_) | Read::End => break,
            };
            let Some(Line { record, .. }) = Line::parse(line) else {
                continue;
            };
            let Ok(event) = serde_json::from_slice::<Value>(record) else {
                continue;
            };
            if event.get("eventName").is_some() && filter.takes(&event) && !each(record, &event)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
