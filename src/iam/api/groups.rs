//! Groups and who is in them.

use super::Answer;
use super::call::{Call, paged};
use super::form::{NAME, PATH, PATH_PREFIX};
use super::users::{rename, user};
use super::xml::Xml;
use crate::auth::AccountId;
use crate::iam::Kind;
use crate::iam::names::folded;
use crate::iam::record::{EntityRecord, Own};

pub(super) async fn dispatch(call: &Call<'_>, operation: &str) -> Option<Answer> {
    Some(match operation {
        "CreateGroup" => create(call).await,
        "GetGroup" => get(call).await,
        "ListGroups" => list(call).await,
        "UpdateGroup" => update(call).await,
        "DeleteGroup" => delete(call).await,
        "AddUserToGroup" => add_user(call).await,
        "RemoveUserFromGroup" => remove_user(call).await,
        "ListGroupsForUser" => list_for_user(call).await,
        _ => return None,
    })
}

fn group(xml: &mut Xml, account: &AccountId, record: &EntityRecord) {
    xml.text("Path", &record.path)
        .text("GroupName", &record.name)
        .text("GroupId", &record.id)
        .text("Arn", &record.arn(account))
        .time("CreateDate", record.created);
}

async fn create(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Group)?;
    let path = call.form.text("Path", &PATH)?.unwrap_or("/");
    let arn = Kind::Group.arn(call.account(), path, name);
    let proof = call.may("iam:CreateGroup", arn)?;
    let own = Own::Group { members: 0 };
    let record = call.iam.create(&proof, path, name, own).await?;
    let mut xml = Xml::default();
    xml.element("Group", |xml| group(xml, call.account(), &record));
    Ok(Some(xml))
}

async fn get(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Group)?;
    let paging = call.form.paging()?;
    let proof = call.may_entity("iam:GetGroup", Kind::Group, name).await?;
    let after = paging.after.as_deref();
    let (record, page) = call
        .iam
        .group_with_members(&proof, name, after, paging.limit)
        .await?;
    let mut xml = Xml::default();
    xml.element("Group", |xml| group(xml, call.account(), &record));
    xml.list("Users", &page.items, |xml, record| {
        user(xml, call.account(), record);
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}

async fn list(call: &Call<'_>) -> Answer {
    let prefix = call.form.text("PathPrefix", &PATH_PREFIX)?.unwrap_or("/");
    let paging = call.form.paging()?;
    let proof = call.may_service("iam:ListGroups")?;
    let after = paging.after.as_deref();
    let page = call
        .iam
        .list(&proof, Kind::Group, prefix, after, paging.limit)
        .await?;
    let mut xml = Xml::default();
    xml.list("Groups", &page.items, |xml, record| {
        group(xml, call.account(), record);
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}

async fn update(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Group)?;
    let new_path = call.form.text("NewPath", &PATH)?;
    let new_name = call.form.text("NewGroupName", &NAME)?;
    rename(
        call,
        "iam:UpdateGroup",
        Kind::Group,
        name,
        (new_path, new_name),
    )
    .await
}

async fn delete(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::Group)?;
    let proof = call
        .may_entity("iam:DeleteGroup", Kind::Group, name)
        .await?;
    call.iam.delete(&proof, Kind::Group, name).await?;
    Ok(None)
}

async fn add_user(call: &Call<'_>) -> Answer {
    let (group, user) = (call.name(Kind::Group)?, call.name(Kind::User)?);
    let proof = call
        .may_entity("iam:AddUserToGroup", Kind::Group, group)
        .await?;
    call.iam.add_user_to_group(&proof, group, user).await?;
    Ok(None)
}

async fn remove_user(call: &Call<'_>) -> Answer {
    let (group, user) = (call.name(Kind::Group)?, call.name(Kind::User)?);
    let proof = call
        .may_entity("iam:RemoveUserFromGroup", Kind::Group, group)
        .await?;
    call.iam.remove_user_from_group(&proof, group, user).await?;
    Ok(None)
}

async fn list_for_user(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::User)?;
    let paging = call.form.paging()?;
    let proof = call
        .may_entity("iam:ListGroupsForUser", Kind::User, name)
        .await?;
    let groups = call.iam.groups_of_user(&proof, name).await?;
    let page = Call::page(&paging, groups, |record| folded(&record.name));
    let mut xml = Xml::default();
    xml.list("Groups", &page.items, |xml, record| {
        group(xml, call.account(), record);
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}
