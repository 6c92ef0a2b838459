//! Making, listing and deleting; what the wire answers.

use super::{ABROAD, ALLOW_ALL, HOME, Rig, account, encoded, root, tag, tags};
use crate::auth::Principal;
use crate::auth::sigv4::Service;

#[tokio::test]
async fn names_are_unique_however_they_are_written() {
    let rig = Rig::new();
    rig.ok("Action=CreateUser&UserName=Bob").await;
    let (code, message) = rig
        .fails("Action=CreateUser&UserName=bOB&Path=%2Fx%2F")
        .await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("EntityAlreadyExists", "User with name Bob already exists.")
    );
    let body = rig.ok("Action=GetUser&UserName=BOB").await;
    assert_eq!(tag(&body, "UserName"), "Bob");
    // Another kind, and another account, have names of their own.
    rig.ok("Action=CreateGroup&GroupName=Bob").await;
    let abroad = Principal::root(account(ABROAD), "AKIAROOTABROAD");
    let (status, body) = rig
        .ask_as(abroad, Service::Iam, "Action=CreateUser&UserName=Bob")
        .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(tag(&body, "Arn"), format!("arn:aws:iam::{ABROAD}:user/Bob"));
}

#[tokio::test]
async fn an_account_sees_nothing_of_another() {
    let rig = Rig::new();
    rig.user("bob").await;
    let body = rig
        .ok(&format!(
            "Action=CreatePolicy&PolicyName=p&PolicyDocument={}",
            encoded(ALLOW_ALL)
        ))
        .await;
    let arn = encoded(&tag(&body, "Arn"));
    let abroad = || Principal::root(account(ABROAD), "AKIAROOTABROAD");
    for form in [
        "Action=GetUser&UserName=bob".to_owned(),
        "Action=ListAccessKeys&UserName=bob".to_owned(),
        format!("Action=GetPolicy&PolicyArn={arn}"),
        format!("Action=DeletePolicy&PolicyArn={arn}"),
        format!(
            "Action=CreatePolicyVersion&PolicyArn={arn}&PolicyDocument={}",
            encoded(ALLOW_ALL)
        ),
    ] {
        let (status, body) = rig.ask_as(abroad(), Service::Iam, &form).await;
        // No such entity, or a policy ARN that the caller may do nothing to.
        assert!(status == 404 || status == 403, "{form}: {body}");
    }
    let (_, body) = rig.ask_as(abroad(), Service::Iam, "Action=ListUsers").await;
    assert!(tags(&body, "UserName").is_empty());
}

#[tokio::test]
async fn lists_have_pages_in_the_order_of_names() {
    let rig = Rig::new();
    for name in ["delta", "Alpha", "charlie", "Bravo"] {
        rig.ok(&format!("Action=CreateUser&UserName={name}&Path=%2Fa%2F"))
            .await;
    }
    rig.ok("Action=CreateUser&UserName=apart").await;
    let mut found = Vec::new();
    let mut marker = String::new();
    for _ in 0..10 {
        let body = rig
            .ok(&format!(
                "Action=ListUsers&PathPrefix=%2Fa&MaxItems=3{marker}"
            ))
            .await;
        found.extend(tags(&body, "UserName"));
        if tag(&body, "IsTruncated") == "false" {
            break;
        }
        marker = format!("&Marker={}", tag(&body, "Marker"));
    }
    assert_eq!(found, ["Alpha", "Bravo", "charlie", "delta"]);
    assert_eq!(
        rig.fails("Action=ListUsers&Marker=%21").await.0,
        "ValidationError"
    );
}

#[tokio::test]
async fn the_ready_policies_are_listed_before_the_accounts_own() {
    let rig = Rig::new();
    rig.ok(&format!(
        "Action=CreatePolicy&PolicyName=Aardvark&PolicyDocument={}",
        encoded(ALLOW_ALL)
    ))
    .await;
    let mut found = Vec::new();
    let mut marker = String::new();
    for _ in 0..20 {
        let body = rig
            .ok(&format!("Action=ListPolicies&MaxItems=2{marker}"))
            .await;
        found.extend(tags(&body, "PolicyName"));
        if tag(&body, "IsTruncated") == "false" {
            break;
        }
        marker = format!("&Marker={}", tag(&body, "Marker"));
    }
    assert_eq!(found.len(), crate::iam::ready::POLICIES.len() + 1);
    assert_eq!(found.last().map(String::as_str), Some("Aardvark"));
    let body = rig.ok("Action=ListPolicies&Scope=Local").await;
    assert_eq!(tags(&body, "PolicyName"), ["Aardvark"]);
    let body = rig.ok("Action=ListPolicies&OnlyAttached=true").await;
    assert!(tags(&body, "PolicyName").is_empty());
}

#[tokio::test]
async fn what_something_hangs_on_is_not_deleted() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    rig.ok("Action=CreateGroup&GroupName=staff").await;
    rig.ok("Action=AddUserToGroup&GroupName=staff&UserName=bob")
        .await;
    let document = encoded(ALLOW_ALL);
    let body = rig
        .ok(&format!(
            "Action=CreatePolicy&PolicyName=p&PolicyDocument={document}"
        ))
        .await;
    let arn = encoded(&tag(&body, "Arn"));
    rig.ok(&format!(
        "Action=AttachUserPolicy&UserName=bob&PolicyArn={arn}"
    ))
    .await;
    rig.ok(&format!(
        "Action=PutUserPolicy&UserName=bob&PolicyName=i&PolicyDocument={document}"
    ))
    .await;
    rig.ok(&format!(
        "Action=CreatePolicyVersion&PolicyArn={arn}&PolicyDocument={document}"
    ))
    .await;
    for (blocked, freed) in [
        (
            "Action=DeleteUser&UserName=bob".to_owned(),
            format!("Action=DeleteAccessKey&UserName=bob&AccessKeyId={key}"),
        ),
        ("Action=DeleteGroup&GroupName=staff".into(), String::new()),
        (
            "Action=DeleteUser&UserName=bob".into(),
            "Action=RemoveUserFromGroup&GroupName=staff&UserName=bob".into(),
        ),
        (
            format!("Action=DeletePolicy&PolicyArn={arn}"),
            String::new(),
        ),
        (
            "Action=DeleteUser&UserName=bob".into(),
            format!("Action=DetachUserPolicy&UserName=bob&PolicyArn={arn}"),
        ),
        (
            "Action=DeleteUser&UserName=bob".into(),
            "Action=DeleteUserPolicy&UserName=bob&PolicyName=i".into(),
        ),
        (
            format!("Action=DeletePolicyVersion&PolicyArn={arn}&VersionId=v1"),
            String::new(),
        ),
        (
            format!("Action=DeletePolicy&PolicyArn={arn}"),
            format!("Action=DeletePolicyVersion&PolicyArn={arn}&VersionId=v2"),
        ),
    ] {
        let (code, message) = rig.fails(&blocked).await;
        assert_eq!(code, "DeleteConflict", "{blocked}: {message}");
        if !freed.is_empty() {
            rig.ok(&freed).await;
        }
    }
    rig.ok("Action=DeleteUser&UserName=bob").await;
    rig.ok("Action=DeleteGroup&GroupName=staff").await;
    rig.ok(&format!("Action=DeletePolicy&PolicyArn={arn}"))
        .await;
}

#[tokio::test]
async fn who_has_a_policy_is_listed() {
    let rig = Rig::new();
    let arn = "PolicyArn=arn:aws:iam::aws:policy/StrongroomAuditor";
    for kind in ["User", "Group"] {
        rig.ok(&format!("Action=Create{kind}&{kind}Name=e")).await;
        rig.ok(&format!("Action=Attach{kind}Policy&{kind}Name=e&{arn}"))
            .await;
    }
    let body = rig.ok(&format!("Action=ListEntitiesForPolicy&{arn}")).await;
    assert_eq!(
        (
            tags(&body, "UserName").len(),
            tags(&body, "GroupName").len()
        ),
        (1, 1)
    );
    let body = rig
        .ok(&format!(
            "Action=ListEntitiesForPolicy&{arn}&EntityFilter=Group"
        ))
        .await;
    assert_eq!(
        (
            tags(&body, "UserName").len(),
            tags(&body, "GroupName").len()
        ),
        (0, 1)
    );
    let body = rig.ok(&format!("Action=GetPolicy&{arn}")).await;
    assert_eq!(tag(&body, "AttachmentCount"), "2");
}

#[tokio::test]
async fn the_ready_policies_are_not_changed() {
    let rig = Rig::new();
    let arn = "PolicyArn=arn:aws:iam::aws:policy/StrongroomAuditor";
    for form in [
        format!("Action=DeletePolicy&{arn}"),
        format!(
            "Action=CreatePolicyVersion&{arn}&PolicyDocument={}",
            encoded(ALLOW_ALL)
        ),
        format!("Action=SetDefaultPolicyVersion&{arn}&VersionId=v1"),
        format!("Action=DeletePolicyVersion&{arn}&VersionId=v1"),
    ] {
        assert_eq!(rig.fails(&form).await.0, "AccessDenied", "{form}");
    }
    rig.ok(&format!("Action=GetPolicyVersion&{arn}&VersionId=v1"))
        .await;
    assert_eq!(
        rig.fails(&format!("Action=GetPolicyVersion&{arn}&VersionId=v2"))
            .await
            .0,
        "NoSuchEntity"
    );
}

#[tokio::test]
async fn what_is_no_policy_is_malformed() {
    let rig = Rig::new();
    rig.ok("Action=CreateUser&UserName=bob").await;
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}"#;
    for form in [
        "Action=PutUserPolicy&UserName=bob&PolicyName=p&PolicyDocument=x".to_owned(),
        format!(
            "Action=PutUserPolicy&UserName=bob&PolicyName=p&PolicyDocument={}",
            encoded(trust)
        ),
        "Action=CreatePolicy&PolicyName=p&PolicyDocument=%7B%7D".to_owned(),
        format!(
            "Action=CreateRole&RoleName=r&AssumeRolePolicyDocument={}",
            encoded(ALLOW_ALL)
        ),
    ] {
        assert_eq!(
            rig.fails(&form).await.0,
            "MalformedPolicyDocument",
            "{form}"
        );
    }
}

#[tokio::test]
async fn what_is_not_here_says_so() {
    let rig = Rig::new();
    for (form, code) in [
        (
            "Action=CreateUser&UserName=a&Tags.member.1.Key=k&Tags.member.1.Value=v",
            "NotImplemented",
        ),
        (
            "Action=CreateUser&UserName=a&PermissionsBoundary=arn",
            "NotImplemented",
        ),
        ("Action=CreateLoginProfile&UserName=a", "InvalidAction"),
        ("Action=AssumeRole", "InvalidAction"),
        ("UserName=a", "InvalidAction"),
    ] {
        assert_eq!(rig.fails(form).await.0, code, "{form}");
    }
    assert_eq!(
        rig.fails("Action=GetUser&UserName=a").await.0,
        "NoSuchEntity"
    );
    let (status, body) = rig.ask_as(root(), Service::Sts, "Action=GetUser").await;
    assert_eq!(
        (status, tag(&body, "Code").as_str()),
        (400, "InvalidAction")
    );
}

#[tokio::test]
async fn the_root_user_is_told_of_itself() {
    let rig = Rig::new();
    let body = rig.ok("Action=GetUser").await;
    assert_eq!(tag(&body, "Arn"), format!("arn:aws:iam::{HOME}:root"));
    let body = rig.ok("Action=ListAccessKeys").await;
    assert_eq!(tags(&body, "AccessKeyId"), ["AKIAROOTHOME"]);
    assert_eq!(
        rig.fails("Action=CreateAccessKey").await.0,
        "UnmodifiableEntity"
    );
    let (_, body) = rig
        .ask_as(root(), Service::Sts, "Action=GetCallerIdentity")
        .await;
    assert_eq!(
        (tag(&body, "UserId"), tag(&body, "Account")),
        (HOME.into(), HOME.into())
    );
}

#[tokio::test]
async fn a_user_that_names_nobody_means_itself() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    rig.ok("Action=AttachUserPolicy&UserName=bob&PolicyArn=arn:aws:iam::aws:policy/IAMFullAccess")
        .await;
    let bob = rig.principal(&key).await;
    let (_, body) = rig
        .ask_as(bob.clone(), Service::Iam, "Action=GetUser")
        .await;
    assert_eq!(tag(&body, "UserName"), "bob");
    let (_, body) = rig.ask_as(bob, Service::Iam, "Action=ListAccessKeys").await;
    assert_eq!(tags(&body, "AccessKeyId"), [key]);
}

#[tokio::test]
async fn a_user_may_what_its_policies_say() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    let only_auditor = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Action":"iam:GetUser","Resource":"arn:aws:iam::*:user/${aws:username}"},
        {"Effect":"Allow","Action":"iam:AttachUserPolicy","Resource":"*","Condition":{"ArnEquals":
            {"iam:PolicyARN":"arn:aws:iam::aws:policy/StrongroomAuditor"}}}]}"#;
    rig.ok("Action=CreateUser&UserName=ann").await;
    let document = encoded(only_auditor);
    rig.ok(&format!(
        "Action=PutUserPolicy&UserName=bob&PolicyName=p&PolicyDocument={document}"
    ))
    .await;
    let bob = rig.principal(&key).await;
    let attach = "Action=AttachUserPolicy&UserName=ann&PolicyArn=arn:aws:iam::aws:policy/";
    for (form, good) in [
        ("Action=GetUser".to_owned(), true),
        ("Action=GetUser&UserName=ann".to_owned(), false),
        // Whoever may not look does not learn who is there.
        ("Action=GetUser&UserName=nobody".to_owned(), false),
        ("Action=ListUsers".to_owned(), false),
        (format!("{attach}StrongroomAuditor"), true),
        (format!("{attach}AdministratorAccess"), false),
    ] {
        let (status, body) = rig.ask_as(bob.clone(), Service::Iam, &form).await;
        assert_eq!(status, if good { 200 } else { 403 }, "{form}: {body}");
        if !good {
            assert_eq!(tag(&body, "Code"), "AccessDenied");
        }
    }
    let (status, _) = rig
        .ask_as(bob, Service::Sts, "Action=GetCallerIdentity")
        .await;
    assert_eq!(status, 200, "needs no permission");
}
