//! The inline and the attached policies of users, groups and roles: the same operations for each.

use super::Answer;
use super::call::{Call, paged};
use super::form::{ARN, DOCUMENT, NAME, POLICY_PATH};
use super::xml::Xml;
use crate::iam::Kind;

pub(super) async fn dispatch(call: &Call<'_>, operation: &str) -> Option<Answer> {
    use Kind::{Group, Role, User};
    Some(match operation {
        "PutUserPolicy" => put(call, User, "iam:PutUserPolicy").await,
        "PutGroupPolicy" => put(call, Group, "iam:PutGroupPolicy").await,
        "PutRolePolicy" => put(call, Role, "iam:PutRolePolicy").await,
        "GetUserPolicy" => get(call, User, "iam:GetUserPolicy").await,
        "GetGroupPolicy" => get(call, Group, "iam:GetGroupPolicy").await,
        "GetRolePolicy" => get(call, Role, "iam:GetRolePolicy").await,
        "DeleteUserPolicy" => delete(call, User, "iam:DeleteUserPolicy").await,
        "DeleteGroupPolicy" => delete(call, Group, "iam:DeleteGroupPolicy").await,
        "DeleteRolePolicy" => delete(call, Role, "iam:DeleteRolePolicy").await,
        "ListUserPolicies" => list(call, User, "iam:ListUserPolicies").await,
        "ListGroupPolicies" => list(call, Group, "iam:ListGroupPolicies").await,
        "ListRolePolicies" => list(call, Role, "iam:ListRolePolicies").await,
        "AttachUserPolicy" => attach(call, User, "iam:AttachUserPolicy").await,
        "AttachGroupPolicy" => attach(call, Group, "iam:AttachGroupPolicy").await,
        "AttachRolePolicy" => attach(call, Role, "iam:AttachRolePolicy").await,
        "DetachUserPolicy" => detach(call, User, "iam:DetachUserPolicy").await,
        "DetachGroupPolicy" => detach(call, Group, "iam:DetachGroupPolicy").await,
        "DetachRolePolicy" => detach(call, Role, "iam:DetachRolePolicy").await,
        "ListAttachedUserPolicies" => {
            list_attached(call, User, "iam:ListAttachedUserPolicies").await
        }
        "ListAttachedGroupPolicies" => {
            list_attached(call, Group, "iam:ListAttachedGroupPolicies").await
        }
        "ListAttachedRolePolicies" => {
            list_attached(call, Role, "iam:ListAttachedRolePolicies").await
        }
        _ => return None,
    })
}

async fn put(call: &Call<'_>, kind: Kind, action: &'static str) -> Answer {
    let name = call.name(kind)?;
    let policy = call.form.required("PolicyName", &NAME)?;
    let document = call.form.required("PolicyDocument", &DOCUMENT)?;
    let proof = call.may_entity(action, kind, name).await?;
    call.iam
        .put_inline(&proof, kind, name, (policy, document))
        .await?;
    Ok(None)
}

async fn get(call: &Call<'_>, kind: Kind, action: &'static str) -> Answer {
    let name = call.name(kind)?;
    let policy = call.form.required("PolicyName", &NAME)?;
    let proof = call.may_entity(action, kind, name).await?;
    let (name, document) = call.iam.load_inline(&proof, kind, name, policy).await?;
    let mut xml = Xml::default();
    xml.text(&format!("{}Name", kind.title()), &name)
        .text("PolicyName", policy)
        .policy("PolicyDocument", &document);
    Ok(Some(xml))
}

async fn delete(call: &Call<'_>, kind: Kind, action: &'static str) -> Answer {
    let name = call.name(kind)?;
    let policy = call.form.required("PolicyName", &NAME)?;
    let proof = call.may_entity(action, kind, name).await?;
    call.iam.delete_inline(&proof, kind, name, policy).await?;
    Ok(None)
}

async fn list(call: &Call<'_>, kind: Kind, action: &'static str) -> Answer {
    let name = call.name(kind)?;
    let paging = call.form.paging()?;
    let proof = call.may_entity(action, kind, name).await?;
    let names = call.iam.list_inline(&proof, kind, name).await?;
    let page = Call::page(&paging, names, String::clone);
    let mut xml = Xml::default();
    xml.element("PolicyNames", |list| {
        for name in &page.items {
            list.text("member", name);
        }
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}

async fn attach(call: &Call<'_>, kind: Kind, action: &'static str) -> Answer {
    let name = call.name(kind)?;
    let arn = call.form.required("PolicyArn", &ARN)?;
    let proof = call.may_entity_with_policy(action, kind, name, arn).await?;
    call.iam.attach(&proof, kind, name, arn).await?;
    Ok(None)
}

async fn detach(call: &Call<'_>, kind: Kind, action: &'static str) -> Answer {
    let name = call.name(kind)?;
    let arn = call.form.required("PolicyArn", &ARN)?;
    let proof = call.may_entity_with_policy(action, kind, name, arn).await?;
    call.iam.detach(&proof, kind, name, arn).await?;
    Ok(None)
}

async fn list_attached(call: &Call<'_>, kind: Kind, action: &'static str) -> Answer {
    let name = call.name(kind)?;
    let prefix = call.form.text("PathPrefix", &POLICY_PATH)?.unwrap_or("/");
    let paging = call.form.paging()?;
    let proof = call.may_entity(action, kind, name).await?;
    let attached = call.iam.list_attached(&proof, kind, name, prefix).await?;
    // Two accounts can have a policy of one name: the ready ones are another's.
    let page = Call::page(&paging, attached, |(name, arn)| {
        let owner = if arn.starts_with("arn:aws:iam::aws:") {
            "aws"
        } else {
            "local"
        };
        format!("{name}/{owner}")
    });
    let mut xml = Xml::default();
    xml.list("AttachedPolicies", &page.items, |xml, (name, arn)| {
        xml.text("PolicyName", name).text("PolicyArn", arn);
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}
