//! Managed policies and their versions.

use super::Answer;
use super::call::{Call, paged};
use super::form::{ARN, DESCRIPTION, DOCUMENT, NAME, PATH_PREFIX, POLICY_PATH};
use super::xml::Xml;
use crate::auth::Authorised;
use crate::iam::policies::{ManagedPolicy, PolicyFilter, PolicyVersion};
use crate::iam::{IamError, Kind};

pub(super) async fn dispatch(call: &Call<'_>, operation: &str) -> Option<Answer> {
    Some(match operation {
        "CreatePolicy" => create(call).await,
        "GetPolicy" => get(call).await,
        "ListPolicies" => list(call).await,
        "DeletePolicy" => delete(call).await,
        "CreatePolicyVersion" => create_version(call).await,
        "GetPolicyVersion" => get_version(call).await,
        "ListPolicyVersions" => list_versions(call).await,
        "SetDefaultPolicyVersion" => set_default_version(call).await,
        "DeletePolicyVersion" => delete_version(call).await,
        "ListEntitiesForPolicy" => list_entities(call).await,
        _ => return None,
    })
}

/// What is told of a policy; its description only where one policy is told of.
fn policy(xml: &mut Xml, policy: &ManagedPolicy, with_description: bool) {
    xml.text("PolicyName", &policy.name)
        .text("PolicyId", &policy.id)
        .text("Arn", &policy.arn)
        .text("Path", &policy.path)
        .text("DefaultVersionId", &format!("v{}", policy.default))
        .value("AttachmentCount", policy.attachments)
        .value("PermissionsBoundaryUsageCount", 0)
        .value("IsAttachable", true);
    if with_description && !policy.description.is_empty() {
        xml.text("Description", &policy.description);
    }
    xml.time("CreateDate", policy.created)
        .time("UpdateDate", policy.updated);
}

fn version(xml: &mut Xml, version: &PolicyVersion) {
    xml.text("VersionId", &format!("v{}", version.number))
        .value("IsDefaultVersion", version.is_default)
        .time("CreateDate", version.created);
}

/// The policy that the request is about, and the proof that the caller may.
fn authorised<'a>(
    call: &Call<'a>,
    action: &'static str,
) -> Result<(&'a str, Authorised), IamError> {
    let arn = call.form.required("PolicyArn", &ARN)?;
    Ok((arn, call.may(action, arn.to_owned())?))
}

/// `v3`: the number of a version. One that can never be is no version.
fn number(call: &Call<'_>, arn: &str) -> Result<u32, IamError> {
    let text = call.form.required("VersionId", &NAME)?;
    text.strip_prefix('v')
        .filter(|digits| !digits.starts_with(['0', '+']))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| {
            IamError::NoSuchEntity(format!(
                "Policy {arn} version {text} does not exist or is not attachable."
            ))
        })
}

async fn create(call: &Call<'_>) -> Answer {
    let name = call.form.required("PolicyName", &NAME)?;
    let path = call.form.text("Path", &POLICY_PATH)?.unwrap_or("/");
    let document = call.form.required("PolicyDocument", &DOCUMENT)?;
    let description = call.form.text("Description", &DESCRIPTION)?;
    let arn = format!("arn:aws:iam::{}:policy{path}{name}", call.account());
    let proof = call.may("iam:CreatePolicy", arn)?;
    let about = (path, name, description.unwrap_or_default());
    let made = call.iam.create_policy(&proof, about, document).await?;
    let mut xml = Xml::default();
    xml.element("Policy", |xml| policy(xml, &made, true));
    Ok(Some(xml))
}

async fn get(call: &Call<'_>) -> Answer {
    let (arn, proof) = authorised(call, "iam:GetPolicy")?;
    let found = call.iam.load_policy(&proof, arn).await?;
    let mut xml = Xml::default();
    xml.element("Policy", |xml| policy(xml, &found, true));
    Ok(Some(xml))
}

async fn list(call: &Call<'_>) -> Answer {
    let scope = call.form.one_of("Scope", &["All", "AWS", "Local"])?;
    let scope = scope.unwrap_or("All");
    let filter = PolicyFilter {
        ready: scope != "Local",
        own: scope != "AWS",
        only_attached: call.form.flag("OnlyAttached")?,
        prefix: call.form.text("PathPrefix", &POLICY_PATH)?.unwrap_or("/"),
    };
    let paging = call.form.paging()?;
    let proof = call.may_service("iam:ListPolicies")?;
    let after = paging.after.as_deref();
    let page = call
        .iam
        .list_policies(&proof, &filter, after, paging.limit)
        .await?;
    let mut xml = Xml::default();
    xml.list("Policies", &page.items, |xml, found| {
        policy(xml, found, false);
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}

async fn delete(call: &Call<'_>) -> Answer {
    let (arn, proof) = authorised(call, "iam:DeletePolicy")?;
    call.iam.delete_policy(&proof, arn).await?;
    Ok(None)
}

async fn create_version(call: &Call<'_>) -> Answer {
    let document = call.form.required("PolicyDocument", &DOCUMENT)?;
    let set_as_default = call.form.flag("SetAsDefault")?;
    let (arn, proof) = authorised(call, "iam:CreatePolicyVersion")?;
    let made = call
        .iam
        .create_policy_version(&proof, arn, document, set_as_default)
        .await?;
    let mut xml = Xml::default();
    xml.element("PolicyVersion", |xml| version(xml, &made));
    Ok(Some(xml))
}

async fn get_version(call: &Call<'_>) -> Answer {
    let (arn, proof) = authorised(call, "iam:GetPolicyVersion")?;
    let number = number(call, arn)?;
    let (found, document) = call.iam.load_policy_version(&proof, arn, number).await?;
    let mut xml = Xml::default();
    xml.element("PolicyVersion", |xml| {
        xml.policy("Document", &document);
        version(xml, &found);
    });
    Ok(Some(xml))
}

async fn list_versions(call: &Call<'_>) -> Answer {
    let paging = call.form.paging()?;
    let (arn, proof) = authorised(call, "iam:ListPolicyVersions")?;
    let versions = call.iam.list_policy_versions(&proof, arn).await?;
    // The newest first: the cursor grows as the number falls.
    let page = Call::page(&paging, versions, |version| {
        format!("{:010}", u32::MAX - version.number)
    });
    let mut xml = Xml::default();
    xml.list("Versions", &page.items, version);
    paged(&mut xml, &page);
    Ok(Some(xml))
}

async fn set_default_version(call: &Call<'_>) -> Answer {
    let (arn, proof) = authorised(call, "iam:SetDefaultPolicyVersion")?;
    let number = number(call, arn)?;
    call.iam
        .set_default_policy_version(&proof, arn, number)
        .await?;
    Ok(None)
}

async fn delete_version(call: &Call<'_>) -> Answer {
    let (arn, proof) = authorised(call, "iam:DeletePolicyVersion")?;
    let number = number(call, arn)?;
    call.iam.delete_policy_version(&proof, arn, number).await?;
    Ok(None)
}

async fn list_entities(call: &Call<'_>) -> Answer {
    let filter = call.form.one_of(
        "EntityFilter",
        &[
            "User",
            "Role",
            "Group",
            "LocalManagedPolicy",
            "AWSManagedPolicy",
        ],
    )?;
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| filter.is_none_or(|filter| filter == kind.title()))
        .collect();
    let prefix = call.form.text("PathPrefix", &PATH_PREFIX)?.unwrap_or("/");
    let paging = call.form.paging()?;
    let (arn, proof) = authorised(call, "iam:ListEntitiesForPolicy")?;
    let after = paging.after.as_deref();
    let page = call
        .iam
        .attached_to(&proof, arn, (&kinds, prefix), after, paging.limit)
        .await?;
    let mut xml = Xml::default();
    for kind in Kind::ALL {
        let title = kind.title();
        let entities = page.items.iter().filter(|entity| entity.kind == kind);
        xml.list(&format!("Policy{title}s"), entities, |xml, entity| {
            xml.text(&format!("{title}Name"), &entity.name)
                .text(&format!("{title}Id"), &entity.id);
        });
    }
    paged(&mut xml, &page);
    Ok(Some(xml))
}
