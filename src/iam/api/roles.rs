//! Roles.

use super::Answer;
use super::call::{Call, paged};
use super::form::{DESCRIPTION, DOCUMENT, PATH, PATH_PREFIX, SHORT_NAME};
use super::xml::Xml;
use crate::auth::AccountId;
use crate::iam::Kind;
use crate::iam::record::{EntityRecord, Own};

/// Shortest and longest that the longest session of a role can be, in seconds.
const SESSION_SECONDS: (u32, u32) = (3600, 43_200);
const SESSION_SECONDS_DEFAULT: u32 = 3600;

pub(super) async fn dispatch(call: &Call<'_>, operation: &str) -> Option<Answer> {
    Some(match operation {
        "CreateRole" => create(call).await,
        "GetRole" => get(call).await,
        "ListRoles" => list(call).await,
        "UpdateRole" => update(call).await,
        "UpdateRoleDescription" => update_description(call).await,
        "UpdateAssumeRolePolicy" => update_trust(call).await,
        "DeleteRole" => delete(call).await,
        _ => return None,
    })
}

fn role(xml: &mut Xml, account: &AccountId, record: &EntityRecord) {
    xml.text("Path", &record.path)
        .text("RoleName", &record.name)
        .text("RoleId", &record.id)
        .text("Arn", &record.arn(account))
        .time("CreateDate", record.created);
    if let Own::Role {
        trust,
        description,
        session_seconds_max,
        ..
    } = &record.own
    {
        xml.policy("AssumeRolePolicyDocument", trust);
        if !description.is_empty() {
            xml.text("Description", description);
        }
        xml.value("MaxSessionDuration", session_seconds_max);
    }
}

async fn create(call: &Call<'_>) -> Answer {
    let name = call.form.required("RoleName", &SHORT_NAME)?;
    let path = call.form.text("Path", &PATH)?.unwrap_or("/");
    let trust = call.form.required("AssumeRolePolicyDocument", &DOCUMENT)?;
    let description = call.form.text("Description", &DESCRIPTION)?;
    let (min, max) = SESSION_SECONDS;
    let seconds = call.form.number("MaxSessionDuration", min, max)?;
    let arn = Kind::Role.arn(call.account(), path, name);
    let proof = call.may("iam:CreateRole", arn)?;
    let record = call
        .iam
        .create_role(
            &proof,
            (path, name, description.unwrap_or_default()),
            trust,
            seconds.unwrap_or(SESSION_SECONDS_DEFAULT),
        )
        .await?;
    let mut xml = Xml::default();
    xml.element("Role", |xml| role(xml, call.account(), &record));
    Ok(Some(xml))
}

async fn get(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Role)?;
    let proof = call.may_entity("iam:GetRole", Kind::Role, name).await?;
    let record = call.iam.load(&proof, Kind::Role, name).await?;
    let mut xml = Xml::default();
    xml.element("Role", |xml| role(xml, call.account(), &record));
    Ok(Some(xml))
}

async fn list(call: &Call<'_>) -> Answer {
    let prefix = call.form.text("PathPrefix", &PATH_PREFIX)?.unwrap_or("/");
    let paging = call.form.paging()?;
    let proof = call.may_service("iam:ListRoles")?;
    let after = paging.after.as_deref();
    let page = call
        .iam
        .list(&proof, Kind::Role, prefix, after, paging.limit)
        .await?;
    let mut xml = Xml::default();
    xml.list("Roles", &page.items, |xml, record| {
        role(xml, call.account(), record);
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}

/// Without a duration it is the default again, as AWS has it; without a description that stays.
async fn update(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Role)?;
    let description = call.form.text("Description", &DESCRIPTION)?;
    let (min, max) = SESSION_SECONDS;
    let seconds = call.form.number("MaxSessionDuration", min, max)?;
    let seconds = seconds.unwrap_or(SESSION_SECONDS_DEFAULT);
    let proof = call.may_entity("iam:UpdateRole", Kind::Role, name).await?;
    call.iam
        .update_role(&proof, name, description, Some(seconds))
        .await?;
    Ok(Some(Xml::default()))
}

async fn update_description(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Role)?;
    let description = call.form.required("Description", &DESCRIPTION)?;
    let proof = call
        .may_entity("iam:UpdateRoleDescription", Kind::Role, name)
        .await?;
    let record = call
        .iam
        .update_role(&proof, name, Some(description), None)
        .await?;
    let mut xml = Xml::default();
    xml.element("Role", |xml| role(xml, call.account(), &record));
    Ok(Some(xml))
}

async fn update_trust(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Role)?;
    let document = call.form.required("PolicyDocument", &DOCUMENT)?;
    let proof = call
        .may_entity("iam:UpdateAssumeRolePolicy", Kind::Role, name)
        .await?;
    call.iam.update_trust(&proof, name, document).await?;
    Ok(None)
}

async fn delete(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Role)?;
    let proof = call.may_entity("iam:DeleteRole", Kind::Role, name).await?;
    call.iam.delete(&proof, Kind::Role, name).await?;
    Ok(None)
}
