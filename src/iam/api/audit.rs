//! The record of a request: what of it goes into the audit.
//!
//! As the KMS front end does it: what is not named here, secrets of access keys and session tokens among it, is not even
//! read.

use serde_json::{Map, Value};

use super::call::Call;
use super::error::WireError;
use super::form::Form;
use super::xml::Xml;
use crate::audit::{
    CHARS_MAX, Event, IAM_SOURCE, MESSAGE_CHARS_MAX, NAME_CHARS_MAX, POLICY_CHARS_MAX, ROLE_TYPE,
    STS_SOURCE, Who, cut, lower_first,
};
use crate::auth::Origin;
use crate::auth::sigv4::Service;
use crate::iam::sessions::SESSION_POLICY_ARNS_MAX;
use crate::kms::KmsError;

// The most characters of a parameter that are recorded. Whatever has more is refused, or was not asked for.
const WORD: usize = 64;
const NAME: usize = 128;
const PATH: usize = 512;
const TEXT: usize = 2048;
/// Parameters that are recorded, as texts.
const PARAMETERS: [(&str, usize); 23] = [
    ("AccessKeyId", NAME),
    ("AssumeRolePolicyDocument", POLICY_CHARS_MAX),
    ("Description", TEXT),
    ("EntityFilter", WORD),
    ("ExternalId", TEXT),
    ("GroupName", NAME),
    ("NewGroupName", NAME),
    ("NewPath", PATH),
    ("NewUserName", NAME),
    ("Path", PATH),
    ("PathPrefix", PATH),
    ("Policy", POLICY_CHARS_MAX),
    ("PolicyArn", TEXT),
    ("PolicyDocument", POLICY_CHARS_MAX),
    ("PolicyName", NAME),
    ("RoleArn", TEXT),
    ("RoleName", NAME),
    ("RoleSessionName", NAME),
    ("Scope", WORD),
    ("Status", WORD),
    ("UserName", NAME),
    ("VersionId", NAME),
    ("Marker", PATH),
];
/// Parameters that are recorded as numbers or truth values, if they are.
const VALUES: [&str; 5] = [
    "DurationSeconds",
    "MaxItems",
    "MaxSessionDuration",
    "OnlyAttached",
    "SetAsDefault",
];
const POLICY_ARNS: &str = "PolicyArns";
/// Elements of answers of what makes or changes something that are recorded.
const ELEMENTS: [&str; 24] = [
    "AccessKeyId",
    "Arn",
    "AssumeRolePolicyDocument",
    "AssumedRoleId",
    "AttachmentCount",
    "CreateDate",
    "DefaultVersionId",
    "Description",
    "Expiration",
    "GroupId",
    "GroupName",
    "IsDefaultVersion",
    "MaxSessionDuration",
    "PackedPolicySize",
    "Path",
    "PolicyId",
    "PolicyName",
    "RoleId",
    "RoleName",
    "Status",
    "UpdateDate",
    "UserId",
    "UserName",
    "VersionId",
];

/// Records a request and how it went. One that names no operation is none.
pub(super) async fn record(
    call: &Call<'_>,
    service: Service,
    operation: &str,
    answer: &Result<Option<Xml>, WireError>,
) -> Result<(), KmsError> {
    let kms = &call.iam.kms;
    if operation.is_empty() || !kms.is_audited() {
        return Ok(());
    }
    let name = cut(operation, NAME_CHARS_MAX);
    let looks = ["Get", "List"]
        .iter()
        .any(|beginning| name.starts_with(beginning));
    let (source, read_only) = match service {
        // Nothing of the account is another after it.
        Service::Sts => (STS_SOURCE, true),
        Service::Iam | Service::S3 | Service::Kms => (IAM_SOURCE, looks),
    };
    let response = match answer {
        Ok(Some(xml)) if !looks => xml.taken(&ELEMENTS),
        _ => Map::new(),
    };
    // Only then is it a role that is there, and not anything that a caller has called so.
    let is_about_a_role = service == Service::Sts && operation == "AssumeRole" && answer.is_ok();
    let role = call.form.raw("RoleArn").filter(|_| is_about_a_role);
    let origin = Origin::of(call.context);
    let event = Event {
        source,
        name: &name,
        time: call.context.time,
        who: Who::Caller(&call.context.principal, &origin),
        account: call.account().as_str(),
        region: kms.region(),
        read_only,
        request: parameters(call.form),
        response,
        additional: Map::new(),
        resource_type: ROLE_TYPE,
        resources: role.map(|role| cut(role, CHARS_MAX)).into_iter().collect(),
        outcome: answer.as_ref().err().map(WireError::outcome),
    };
    kms.record(event).await?;
    Ok(())
}

fn parameters(form: &Form) -> Map<String, Value> {
    let mut told = Map::new();
    for (name, chars_max) in PARAMETERS {
        if let Some(text) = form.raw(name) {
            told.insert(lower_first(name), cut(text, chars_max).into());
        }
    }
    for name in VALUES {
        if let Some(text) = form.raw(name) {
            let value = serde_json::from_str(text)
                .ok()
                .filter(|value: &Value| value.is_u64() || value.is_boolean());
            let value = value.unwrap_or_else(|| cut(text, WORD).into());
            told.insert(lower_first(name), value);
        }
    }
    let arns =
        (1_usize..).map_while(|number| form.raw(&format!("{POLICY_ARNS}.member.{number}.arn")));
    let arns: Vec<_> = arns
        .take(SESSION_POLICY_ARNS_MAX)
        .map(|arn| serde_json::json!({ "arn": cut(arn, TEXT) }))
        .collect();
    if !arns.is_empty() {
        told.insert(lower_first(POLICY_ARNS), arns.into());
    }
    told
}

impl WireError {
    /// As `CloudTrail` has it: by the names of the shapes of the API, most of which end so.
    fn outcome(&self) -> (String, String) {
        let code = match self.code {
            "NoSuchEntity"
            | "EntityAlreadyExists"
            | "DeleteConflict"
            | "LimitExceeded"
            | "MalformedPolicyDocument"
            | "InvalidInput"
            | "UnmodifiableEntity"
            | "PackedPolicyTooLarge"
            | "ConcurrentModification"
            | "ServiceFailure" => format!("{}Exception", self.code),
            code => code.to_owned(),
        };
        (code, cut(&self.message, MESSAGE_CHARS_MAX))
    }
}
