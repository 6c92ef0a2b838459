//! One use of a key or one call of the API, in the shape of a `CloudTrail` event.
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
/// `eventSource` of operations that AWS does not have.
pub const OWN_SOURCE: &str = "strongroom";
/// Where AWS would say who asked, when it asks itself.
pub const AWS_INTERNAL: &str = "AWS Internal";

const VERSION: &str = "1.08";
/// The most characters of what a client says that it is.
const USER_AGENT_CHARS_MAX: usize = 256;

/// How it went: nothing, or `errorCode` and `errorMessage`.
pub type Outcome = Option<(String, String)>;

/// Something to be recorded.
#[derive(Debug)]
pub struct Event<'a> {
    /// `eventSource`.
    pub source: &'static str,
    /// `eventName`.
    pub name: &'a str,
    /// When.
    pub time: OffsetDateTime,
    /// Who, and on which request; nobody: the service itself.
    pub caller: Option<(&'a Principal, &'a Origin)>,
    /// Whose keys, or whose call if it is about no key.
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
    /// ARNs of the keys.
    pub keys: Vec<String>,
    /// How it went.
    pub outcome: Outcome,
}

impl Event<'_> {
    /// Its record: JSON without a line feed.
    pub fn record(self) -> Vec<u8> {
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
        if self.caller.is_some() {
            put("responseElements", or_null(self.response));
        } else {
            put("responseElements", Value::Null);
            put("serviceEventDetails", or_null(self.response));
        }
        if !self.additional.is_empty() {
            put("additionalEventData", Value::Object(self.additional));
        }
        if let Some((_, origin)) = self.caller {
            put("requestID", json!(origin.request_id));
        }
        put("eventID", json!(uuid::Uuid::new_v4().to_string()));
        put("readOnly", json!(self.read_only));
        let resource = |arn: &String| {
            let account = arn.split(':').nth(4).unwrap_or(self.account);
            json!({ "accountId": account, "type": "AWS::KMS::Key", "ARN": arn })
        };
        if !self.keys.is_empty() {
            put("resources", self.keys.iter().map(resource).collect());
        }
        let kind = match self.caller {
            Some(_) => "AwsApiCall",
            None => "AwsServiceEvent",
        };
        put("eventType", json!(kind));
        put("managementEvent", json!(true));
        put("recipientAccountId", json!(self.account));
        put("eventCategory", json!("Management"));
        if let Some(request) = self.caller.and_then(|(_, origin)| s3_request(origin)) {
            put("s3Request", request);
        }
        // A map of JSON values always serialises.
        serde_json::to_vec(&record).unwrap_or_default()
    }

    /// Who: "`CloudTrail` userIdentity element".
    fn identity(&self) -> Value {
        let Some((principal, origin)) = self.caller else {
            return json!({ "accountId": self.account, "invokedBy": AWS_INTERNAL });
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
        if origin.operation.named().is_some() {
            put("invokedBy", json!(AWS_INTERNAL));
        }
        identity
    }

    /// Address and agent.
    fn from(&self) -> (String, Option<String>) {
        match self.caller {
            Some((_, origin)) if origin.operation.named().is_none() => {
                (address(origin), agent(origin))
            }
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
