//! One use of a key or one call of an API, in the shape of a `CloudTrail` event.
//!
//! Members and their meaning are those of "`CloudTrail` record contents", event version 1.08. For a key that S3 uses on
//! behalf of a caller AWS says `AWS Internal` where the caller's address and agent would be; so does this. What AWS has no
//! place for, the request that S3 was answering, is the member `s3Request`: action, ARN of bucket or object, request id,
//! address and agent.

use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::writer::timestamp;
use crate::auth::{Identity, Origin, Principal};

#[cfg(test)]
mod tests;

/// `eventSource` of the KMS.
pub const KMS_SOURCE: &str = "kms.amazonaws.com";
/// `eventSource` of IAM.
pub const IAM_SOURCE: &str = "iam.amazonaws.com";
/// `eventSource` of STS.
pub const STS_SOURCE: &str = "sts.amazonaws.com";
/// `eventSource` of S3.
pub const S3_SOURCE: &str = "s3.amazonaws.com";
/// `eventSource` of operations that AWS does not have.
pub const OWN_SOURCE: &str = "strongroom";
/// `type` of a KMS key among `resources`.
pub const KEY_TYPE: &str = "AWS::KMS::Key";
/// `type` of a role.
pub const ROLE_TYPE: &str = "AWS::IAM::Role";
/// `type` of a bucket.
pub const BUCKET_TYPE: &str = "AWS::S3::Bucket";
/// Where AWS would say who asked, when it asks itself.
pub const AWS_INTERNAL: &str = "AWS Internal";

const VERSION: &str = "1.08";
/// The longest string that is recorded whole, in characters, but for a policy.
pub(crate) const CHARS_MAX: usize = 8192;
/// The longest policy.
pub(crate) const POLICY_CHARS_MAX: usize = 131_072;
/// The longest message of an error.
pub(crate) const MESSAGE_CHARS_MAX: usize = 2048;
/// The longest name of an operation, which may be anything.
pub(crate) const NAME_CHARS_MAX: usize = 64;
/// The longest record, in bytes. What a record has beside the parameters of its request is far below it, whatever comes.
pub(crate) const RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;
const TOO_LONG: &str = "the record would be too long";
/// The longest ARN.
const ARN_CHARS_MAX: usize = 2048;
/// The most resources of a record; no operation has as many.
const RESOURCES_MAX: usize = 64;
/// In the place of what may be a secret, as `CloudTrail` has it.
const HIDDEN: &str = "HIDDEN_DUE_TO_SECURITY_REASONS";
/// Random characters of an access key id, behind its prefix, and what they are of.
const ACCESS_KEY_ID_CHARS: usize = 16;
const ACCESS_KEY_ID_PREFIXES: [&str; 2] = ["AKIA", "ASIA"];
/// The most characters of what a client says that it is.
const USER_AGENT_CHARS_MAX: usize = 256;

/// How it went: nothing, or `errorCode` and `errorMessage`.
pub type Outcome = Option<(String, String)>;

/// Who did it.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// The service itself.
    Service,
    /// Who signed this request.
    Caller(&'a Principal, &'a Origin),
    /// Somebody who could not be believed, on this request.
    Stranger {
        /// The access key that the request claims to be signed with.
        access_key_id: Option<&'a str>,
        /// Whether there is such an access key here.
        is_known: bool,
        /// The request.
        origin: &'a Origin,
    },
}

impl<'a> Who<'a> {
    fn origin(self) -> Option<&'a Origin> {
        match self {
            Self::Service => None,
            Self::Caller(_, origin) | Self::Stranger { origin, .. } => Some(origin),
        }
    }
}

/// Something to be recorded.
#[derive(Debug)]
pub struct Event<'a> {
    /// `eventSource`.
    pub source: &'static str,
    /// `eventName`.
    pub name: &'a str,
    /// When.
    pub time: OffsetDateTime,
    /// Who, and on which request.
    pub who: Who<'a>,
    /// Whose keys, identities or bucket, or whose call if it is about none of them.
    pub account: &'a str,
    /// Where.
    pub region: &'a str,
    /// Whether it changes nothing.
    pub read_only: bool,
    /// `requestParameters`.
    pub request: Map<String, Value>,
    /// `responseElements` of what changes something; `serviceEventDetails` of the service itself.
    pub response: Map<String, Value>,
    /// `additionalEventData`.
    pub additional: Map<String, Value>,
    /// `type` of `resources`.
    pub resource_type: &'static str,
    /// Their ARNs.
    pub resources: Vec<String>,
    /// How it went.
    pub outcome: Outcome,
}

impl Event<'_> {
    /// Its record, and the `eventID` in it. The record is JSON without a line feed, of at most 2 MiB: of what a caller has
    /// sent so much of that it would be longer, the longest texts and lists are shortened, and the record says so.
    pub fn record(mut self) -> (Uuid, Vec<u8>) {
        let id = Uuid::new_v4();
        (id, self.bytes(id))
    }

    fn bytes(&mut self, id: Uuid) -> Vec<u8> {
        let mut record = self.members(id);
        let whole = record.len();
        let mut length_max = POLICY_CHARS_MAX;
        while record.len() > RECORD_BYTES_MAX {
            length_max /= 2;
            if length_max == 0 {
                // It is in the names, which no caller chooses.
                self.request.clear();
            }
            for value in self.request.values_mut() {
                shorten(value, length_max);
            }
            self.request.insert("shortened".to_owned(), json!(true));
            self.request.insert("originalSize".to_owned(), json!(whole));
            self.request.insert("reason".to_owned(), json!(TOO_LONG));
            record = self.members(id);
            if length_max == 0 {
                break;
            }
        }
        record
    }

    fn members(&self, id: Uuid) -> Vec<u8> {
        let mut record = Members::begin();
        record.put("eventVersion", VERSION);
        record.put("userIdentity", &self.identity());
        record.put("eventTime", &timestamp(self.time));
        record.put("eventSource", self.source);
        record.put("eventName", &cut(self.name, NAME_CHARS_MAX));
        record.put("awsRegion", self.region);
        let (address, agent) = self.from();
        record.put("sourceIPAddress", &address);
        if let Some(agent) = agent {
            record.put("userAgent", &agent);
        }
        if let Some((code, message)) = &self.outcome {
            record.put("errorCode", code);
            record.put("errorMessage", &cut(message, MESSAGE_CHARS_MAX));
        }
        let or_null = |map| Some(map).filter(|map: &&Map<_, _>| !map.is_empty());
        record.put("requestParameters", &or_null(&self.request));
        if matches!(self.who, Who::Service) {
            record.put("responseElements", &());
            record.put("serviceEventDetails", &or_null(&self.response));
        } else {
            record.put("responseElements", &or_null(&self.response));
        }
        if !self.additional.is_empty() {
            record.put("additionalEventData", &self.additional);
        }
        if let Some(origin) = self.who.origin() {
            record.put("requestID", &origin.request_id);
        }
        record.put("eventID", &id.to_string());
        record.put("readOnly", &self.read_only);
        let resource = |arn: &String| {
            let arn = cut(arn, ARN_CHARS_MAX);
            // A bucket's ARN names no account.
            let own = arn.split(':').nth(4).filter(|account| !account.is_empty());
            let account = own.unwrap_or(self.account);
            json!({ "accountId": account, "type": self.resource_type, "ARN": arn })
        };
        if !self.resources.is_empty() {
            let resources: Vec<_> = self
                .resources
                .iter()
                .take(RESOURCES_MAX)
                .map(resource)
                .collect();
            record.put("resources", &resources);
        }
        let kind = match self.who {
            Who::Service => "AwsServiceEvent",
            Who::Caller(..) | Who::Stranger { .. } => "AwsApiCall",
        };
        record.put("eventType", kind);
        record.put("managementEvent", &true);
        record.put("recipientAccountId", self.account);
        record.put("eventCategory", "Management");
        if self.is_via_s3()
            && let Some(request) = self.who.origin().and_then(s3_request)
        {
            record.put("s3Request", &request);
        }
        record.end()
    }

    /// Whether S3 used a key on the caller's behalf.
    fn is_via_s3(&self) -> bool {
        let origin = self.who.origin();
        self.source == KMS_SOURCE && origin.is_some_and(|origin| origin.operation.named().is_some())
    }

    /// Who: "`CloudTrail` userIdentity element".
    fn identity(&self) -> Value {
        let principal = match self.who {
            Who::Service => {
                return json!({ "accountId": self.account, "invokedBy": AWS_INTERNAL });
            }
            Who::Stranger {
                access_key_id,
                is_known,
                ..
            } => {
                return match access_key_id {
                    Some(id) if is_known || is_made_as_ids_are(id) => {
                        json!({ "type": "Unknown", "accessKeyId": id })
                    }
                    // Who takes one for the other sends the secret here, and a record is for ever.
                    Some(_) => json!({ "type": "Unknown", "accessKeyId": HIDDEN }),
                    None => json!({ "type": "Unknown" }),
                };
            }
            Who::Caller(principal, _) => principal,
        };
        let account = principal.account.as_str();
        let mut identity = json!({
            "principalId": principal.unique_id(),
            "arn": principal.arn(),
            "accountId": account,
            "accessKeyId": principal.access_key_id,
        });
        let mut put = |name: &str, value: Value| {
            if let Some(identity) = identity.as_object_mut() {
                identity.insert(name.to_owned(), value);
            }
        };
        match &principal.identity {
            Identity::Root => put("type", json!("Root")),
            Identity::User(user) => {
                put("type", json!("IAMUser"));
                put("userName", json!(user.name));
            }
            Identity::Session(session) => {
                put("type", json!("AssumedRole"));
                let role = format!(
                    "arn:aws:iam::{account}:role{}{}",
                    session.path, session.role
                );
                let issuer = json!({
                    "type": "Role",
                    "principalId": session.role_id,
                    "arn": role,
                    "accountId": account,
                    "userName": session.role,
                });
                put("sessionContext", json!({ "sessionIssuer": issuer }));
            }
        }
        if self.is_via_s3() {
            put("invokedBy", json!(AWS_INTERNAL));
        }
        identity
    }

    /// Address and agent.
    fn from(&self) -> (String, Option<String>) {
        match self.who.origin() {
            Some(origin) if !self.is_via_s3() => (address(origin), agent(origin)),
            _ => (AWS_INTERNAL.to_owned(), Some(AWS_INTERNAL.to_owned())),
        }
    }
}

/// A JSON object that is written as it is made: there is one for each use of a key.
struct Members(Vec<u8>);

impl Members {
    /// What most records have room in.
    const BYTES_AT_FIRST: usize = 1536;

    fn begin() -> Self {
        let mut bytes = Vec::with_capacity(Self::BYTES_AT_FIRST);
        bytes.push(b'{');
        Self(bytes)
    }

    /// `name` is not escaped.
    fn put(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        let begins = self.0.len();
        // Strings and maps with string keys always serialise.
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(begins);
            self.0.extend_from_slice(b"null");
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Whether an access key id has the form of those that are made here and at AWS, which no secret has.
fn is_made_as_ids_are(id: &str) -> bool {
    let mut prefixes = ACCESS_KEY_ID_PREFIXES.into_iter();
    let random = prefixes.find_map(|prefix| id.strip_prefix(prefix));
    random.is_some_and(|random| {
        random.len() == ACCESS_KEY_ID_CHARS
            && random
                .bytes()
                .all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
    })
}

fn address(origin: &Origin) -> String {
    origin
        .source_ip
        .map_or_else(|| AWS_INTERNAL.to_owned(), |address| address.to_string())
}

fn agent(origin: &Origin) -> Option<String> {
    let agent = origin.user_agent.as_deref()?;
    Some(agent.chars().take(USER_AGENT_CHARS_MAX).collect())
}

/// The request that S3 was answering.
fn s3_request(origin: &Origin) -> Option<Value> {
    let (action, resource) = origin.operation.named()?;
    let mut request = json!({
        "requestId": origin.request_id,
        "sourceIPAddress": address(origin),
        "action": action.0,
    });
    let fields = request.as_object_mut()?;
    if let Some(agent) = agent(origin) {
        fields.insert("userAgent".to_owned(), json!(agent));
    }
    fields.insert("resource".to_owned(), json!(resource.arn()));
    Some(request)
}

/// The beginning of a text that is longer than `chars_max`.
pub(crate) fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Leaves no text and no list of `value` longer than `length_max`, in characters or items.
fn shorten(value: &mut Value, length_max: usize) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(length_max) {
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(items) => {
            items.truncate(length_max);
            for item in items {
                shorten(item, length_max);
            }
        }
        Value::Object(members) => {
            let kept = std::mem::take(members).into_iter().take(length_max);
            members.extend(kept);
            for value in members.values_mut() {
                shorten(value, length_max);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `KeyId` is `keyId` in `CloudTrail`.
pub(crate) fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}
