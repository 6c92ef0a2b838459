//! Users and their access keys.

use super::Answer;
use super::call::{Call, paged};
use super::form::{ACCESS_KEY_ID, NAME, PATH, PATH_PREFIX, SHORT_NAME};
use super::xml::Xml;
use crate::auth::AccountId;
use crate::iam::keys::AccessKeyEntry;
use crate::iam::record::{EntityRecord, Own};
use crate::iam::{IamError, Kind, Page};

const ROOT_KEYS: &str = "The access keys of the root user are in the server's configuration";

pub(super) async fn dispatch(call: &Call<'_>, operation: &str) -> Option<Answer> {
    Some(match operation {
        "CreateUser" => create(call).await,
        "GetUser" => get(call).await,
        "ListUsers" => list(call).await,
        "UpdateUser" => update(call).await,
        "DeleteUser" => delete(call).await,
        "CreateAccessKey" => create_access_key(call).await,
        "ListAccessKeys" => list_access_keys(call).await,
        "UpdateAccessKey" => update_access_key(call).await,
        "DeleteAccessKey" => delete_access_key(call).await,
        "GetAccountSummary" => summary(call).await,
        _ => return None,
    })
}

/// What is told of a user.
pub(super) fn user(xml: &mut Xml, account: &AccountId, record: &EntityRecord) {
    xml.text("Path", &record.path)
        .text("UserName", &record.name)
        .text("UserId", &record.id)
        .text("Arn", &record.arn(account))
        .time("CreateDate", record.created);
}

async fn create(call: &Call<'_>) -> Answer {
    let name = call.form.required("UserName", &SHORT_NAME)?;
    let path = call.form.text("Path", &PATH)?.unwrap_or("/");
    let arn = Kind::User.arn(call.account(), path, name);
    let proof = call.may("iam:CreateUser", arn)?;
    let own = Own::User {
        groups: Vec::new(),
        access_keys: Vec::new(),
    };
    let record = call.iam.create(&proof, path, name, own).await?;
    let mut xml = Xml::default();
    xml.element("User", |xml| user(xml, call.account(), &record));
    Ok(Some(xml))
}

async fn get(call: &Call<'_>) -> Answer {
    let mut xml = Xml::default();
    let Some(name) = call.user_or_self()? else {
        let arn = format!("arn:aws:iam::{}:root", call.account());
        let _proof = call.may("iam:GetUser", arn.clone())?;
        // When an account began, nobody has recorded.
        xml.element("User", |xml| {
            xml.text("Path", "/")
                .text("UserId", call.account().as_str())
                .text("Arn", &arn);
        });
        return Ok(Some(xml));
    };
    let proof = call.may_entity("iam:GetUser", Kind::User, &name).await?;
    let record = call.iam.load(&proof, Kind::User, &name).await?;
    xml.element("User", |xml| user(xml, call.account(), &record));
    Ok(Some(xml))
}

async fn list(call: &Call<'_>) -> Answer {
    let prefix = call.form.text("PathPrefix", &PATH_PREFIX)?.unwrap_or("/");
    let paging = call.form.paging()?;
    let proof = call.may_service("iam:ListUsers")?;
    let after = paging.after.as_deref();
    let page = call
        .iam
        .list(&proof, Kind::User, prefix, after, paging.limit)
        .await?;
    let mut xml = Xml::default();
    xml.list("Users", &page.items, |xml, record| {
        user(xml, call.account(), record);
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}

async fn update(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::User)?;
    let new_path = call.form.text("NewPath", &PATH)?;
    let new_name = call.form.text("NewUserName", &SHORT_NAME)?;
    rename(
        call,
        "iam:UpdateUser",
        Kind::User,
        name,
        (new_path, new_name),
    )
    .await
}

/// Asks for both what an entity is and what it will be, as AWS does.
pub(super) async fn rename(
    call: &Call<'_>,
    action: &'static str,
    kind: Kind,
    name: &str,
    (new_path, new_name): (Option<&str>, Option<&str>),
) -> Answer {
    let found = call.iam.find(call.account(), kind, name).await?;
    let (path, written) = match &found {
        Some(record) => (record.path.as_str(), record.name.as_str()),
        None => ("/", name),
    };
    let proof = call.may(action, kind.arn(call.account(), path, written))?;
    let target = kind.arn(
        call.account(),
        new_path.unwrap_or(path),
        new_name.unwrap_or(written),
    );
    let target = call.may(action, target)?;
    call.iam
        .rename((&proof, &target), kind, name, (new_path, new_name))
        .await?;
    Ok(None)
}

async fn delete(call: &Call<'_>) -> Answer {
    let name = call.name(Kind::User)?;
    let proof = call.may_entity("iam:DeleteUser", Kind::User, name).await?;
    call.iam.delete(&proof, Kind::User, name).await?;
    Ok(None)
}

async fn create_access_key(call: &Call<'_>) -> Answer {
    let name = call
        .user_or_self()?
        .ok_or(IamError::Unmodifiable(ROOT_KEYS))?;
    let proof = call
        .may_entity("iam:CreateAccessKey", Kind::User, &name)
        .await?;
    let (user, key) = call.iam.create_access_key(&proof, &name).await?;
    let mut xml = Xml::default();
    xml.element("AccessKey", |xml| {
        xml.text("UserName", &user.name)
            .text("AccessKeyId", &key.id)
            .text("Status", "Active")
            .text("SecretAccessKey", &key.secret)
            .time("CreateDate", key.created);
    });
    Ok(Some(xml))
}

async fn list_access_keys(call: &Call<'_>) -> Answer {
    let paging = call.form.paging()?;
    let (user_name, keys) = if let Some(name) = call.user_or_self()? {
        let proof = call
            .may_entity("iam:ListAccessKeys", Kind::User, &name)
            .await?;
        let (user, keys) = call.iam.list_access_keys(&proof, &name).await?;
        (Some(user.name), keys)
    } else {
        let arn = format!("arn:aws:iam::{}:root", call.account());
        let proof = call.may("iam:ListAccessKeys", arn)?;
        (None, call.iam.list_root_access_keys(&proof)?)
    };
    let page: Page<AccessKeyEntry> = Call::page(&paging, keys, |key| key.id.clone());
    let mut xml = Xml::default();
    xml.list("AccessKeyMetadata", &page.items, |xml, key| {
        xml.text_if_any("UserName", user_name.as_deref())
            .text("AccessKeyId", &key.id)
            .text("Status", if key.active { "Active" } else { "Inactive" });
        if let Some(created) = key.created {
            xml.time("CreateDate", created);
        }
    });
    paged(&mut xml, &page);
    Ok(Some(xml))
}

/// The user whose access key is meant: named, or else the holder of the key.
async fn holder(call: &Call<'_>, id: &str) -> Result<String, IamError> {
    if let Some(name) = call.form.text("UserName", &NAME)? {
        return Ok(name.to_owned());
    }
    if call
        .iam
        .list_root_ids(call.account())
        .iter()
        .any(|root| root == id)
    {
        return Err(IamError::Unmodifiable(ROOT_KEYS));
    }
    if let Some(own) = call.user_or_self()? {
        return Ok(own);
    }
    let owner = call.iam.owner_of_key(call.account(), id).await?;
    owner.map(|owner| owner.name).ok_or_else(|| {
        IamError::NoSuchEntity(format!("The Access Key with id {id} cannot be found."))
    })
}

async fn update_access_key(call: &Call<'_>) -> Answer {
    let id = call.form.required("AccessKeyId", &ACCESS_KEY_ID)?;
    let status = call.form.one_of("Status", &["Active", "Inactive"])?;
    let status = status.ok_or_else(|| {
        IamError::Validation(
            "1 validation error detected: Value null at 'status' failed to satisfy constraint: Member must not be null"
                .to_owned(),
        )
    })?;
    let name = holder(call, id).await?;
    let proof = call
        .may_entity("iam:UpdateAccessKey", Kind::User, &name)
        .await?;
    call.iam
        .update_access_key(&proof, &name, id, status == "Active")
        .await?;
    Ok(None)
}

async fn delete_access_key(call: &Call<'_>) -> Answer {
    let id = call.form.required("AccessKeyId", &ACCESS_KEY_ID)?;
    let name = holder(call, id).await?;
    let proof = call
        .may_entity("iam:DeleteAccessKey", Kind::User, &name)
        .await?;
    call.iam.delete_access_key(&proof, &name, id).await?;
    Ok(None)
}

async fn summary(call: &Call<'_>) -> Answer {
    let proof = call.may_service("iam:GetAccountSummary")?;
    let counts = call.iam.summary(&proof).await?;
    let mut xml = Xml::default();
    xml.element("SummaryMap", |map| {
        for (name, count) in counts {
            map.element("entry", |entry| {
                entry.text("key", name).value("value", count);
            });
        }
    });
    Ok(Some(xml))
}
