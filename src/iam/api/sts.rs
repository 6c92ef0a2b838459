//! STS: who am I, and may I be somebody else.

use super::Answer;
use super::call::Call;
use super::form::{ARN, DOCUMENT, EXTERNAL_ID, SESSION_NAME};
use super::xml::Xml;
use crate::iam::sessions::{AssumeRole, SESSION_POLICY_ARNS_MAX, SESSION_SECONDS_MIN};

/// Longest session that can be asked for, in seconds.
const SESSION_SECONDS_MAX: u32 = 43_200;

pub(super) async fn dispatch(call: &Call<'_>, operation: &str) -> Option<Answer> {
    Some(match operation {
        "GetCallerIdentity" => Ok(Some(caller_identity(call))),
        "AssumeRole" => assume_role(call).await,
        _ => return None,
    })
}

/// Needs no permission: everybody may know who it is.
fn caller_identity(call: &Call<'_>) -> Xml {
    let principal = &call.context.principal;
    let mut xml = Xml::default();
    xml.text("Arn", &principal.arn())
        .text("UserId", &principal.unique_id())
        .text("Account", call.account().as_str());
    xml
}

async fn assume_role(call: &Call<'_>) -> Answer {
    let form = call.form;
    let policy_arns = form.members("PolicyArns", "arn", &ARN, SESSION_POLICY_ARNS_MAX)?;
    let ask = AssumeRole {
        role_arn: form.required("RoleArn", &ARN)?,
        session_name: form.required("RoleSessionName", &SESSION_NAME)?,
        seconds: form.number("DurationSeconds", SESSION_SECONDS_MIN, SESSION_SECONDS_MAX)?,
        policy: form.text("Policy", &DOCUMENT)?,
        policy_arns: &policy_arns,
        external_id: form.text("ExternalId", &EXTERNAL_ID)?,
    };
    let session = call.iam.assume_role(call.context, &ask).await?;
    let mut xml = Xml::default();
    xml.element("Credentials", |xml| {
        xml.text("AccessKeyId", &session.access_key_id)
            .text("SecretAccessKey", &session.secret)
            .text("SessionToken", &session.token)
            .time("Expiration", session.expires);
    })
    .element("AssumedRoleUser", |xml| {
        xml.text("AssumedRoleId", &session.user_id)
            .text("Arn", &session.arn);
    });
    if let Some(percent) = session.packed_percent {
        xml.value("PackedPolicySize", percent);
    }
    Ok(Some(xml))
}
