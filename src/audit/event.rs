//! One use of a key or one call of an API, in the shape of a `CloudTrail` event.
//!
//! Members and their meaning are those of "`CloudTrail` record contents", event version 1.08. For a key that S3 uses on
//! behalf of a caller AWS says `AWS Internal` where the caller's address and agent would be; so does this. What AWS has no
//! place for, the request that S3 was answering, is the member `s3Request`: action, ARN of bucket or object, request id,
//! address and agent.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::writer::timestamp;
use crate::auth::{Identity, Origin, Principal};

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
/// The longest access key id that is only claimed.
const ACCESS_KEY_ID_CHARS_MAX: usize = 128;
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
    /// Its record: JSON without a line feed.
    pub fn record(self) -> Vec<u8> {
        let is_via_s3 = self.is_via_s3();
        let mut record = Map::new();
        let mut put = |name: &str, value: Value| record.insert(name.to_owned(), value);
        put("eventVersion", json!(VERSION));
        put("userIdentity", self.identity());
        put("eventTime", json!(timestamp(self.time)));
        put("eventSource", json!(self.source));
        put("eventName", json!(self.name));
        put("awsRegion", json!(self.region));
        let (address, agent) = self.from();
        put("sourceIPAddress", json!(address));
        if let Some(agent) = agent {
            put("userAgent", json!(agent));
        }
        if let Some((code, message)) = &self.outcome {
            put("errorCode", json!(code));
            put("errorMessage", json!(message));
        }
        let or_null = |map: Map<String, Value>| {
            let map = Some(map).filter(|map| !map.is_empty());
            map.map_or(Value::Null, Value::Object)
        };
        put("requestParameters", or_null(self.request));
        if matches!(self.who, Who::Service) {
            put("responseElements", Value::Null);
            put("serviceEventDetails", or_null(self.response));
        } else {
            put("responseElements", or_null(self.response));
        }
        if !self.additional.is_empty() {
            put("additionalEventData", Value::Object(self.additional));
        }
        if let Some(origin) = self.who.origin() {
            put("requestID", json!(origin.request_id));
        }
        put("eventID", json!(uuid::Uuid::new_v4().to_string()));
        put("readOnly", json!(self.read_only));
        let resource = |arn: &String| {
            // A bucket's ARN names no account.
            let own = arn.split(':').nth(4).filter(|account| !account.is_empty());
            let account = own.unwrap_or(self.account);
            json!({ "accountId": account, "type": self.resource_type, "ARN": arn })
        };
        if !self.resources.is_empty() {
            put("resources", self.resources.iter().map(resource).collect());
        }
        let kind = match self.who {
            Who::Service => "AwsServiceEvent",
            Who::Caller(..) | Who::Stranger { .. } => "AwsApiCall",
        };
        put("eventType", json!(kind));
        put("managementEvent", json!(true));
        put("recipientAccountId", json!(self.account));
        put("eventCategory", json!("Management"));
        if is_via_s3 && let Some(request) = self.who.origin().and_then(s3_request) {
            put("s3Request", request);
        }
        // A map of JSON values always serialises.
        serde_json::to_vec(&record).unwrap_or_default()
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
            Who::Stranger { access_key_id, .. } => {
                let claimed = access_key_id.map(|id| cut(id, ACCESS_KEY_ID_CHARS_MAX));
                return match claimed {
                    Some(id) => json!({ "type": "Unknown", "accessKeyId": id }),
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

/// `KeyId` is `keyId` in `CloudTrail`.
pub(crate) fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}
