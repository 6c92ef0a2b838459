//! Whose an access key is, as of now.

use super::{ABROAD, ALLOW_ALL, Rig, encoded, refused, tag};
use crate::auth::Identity;
use crate::auth::sigv4::AuthError;

/// How many policies a user has now, its groups' included.
async fn policies(rig: &Rig, key: &str) -> usize {
    match rig.principal(key).await.identity {
        Identity::User(user) => user.policies.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unknown_access_key_is_unknown_without_the_hsm() {
    let rig = Rig::new();
    rig.unplug();
    assert_eq!(
        refused(rig.lookup("AKIANOBODY").await),
        AuthError::UnknownAccessKey
    );
}

#[tokio::test]
async fn a_root_access_key_needs_no_hsm() {
    let rig = Rig::new();
    rig.unplug();
    let arn = rig.principal("AKIAROOTABROAD").await.arn();
    assert_eq!(arn, format!("arn:aws:iam::{ABROAD}:root"));
}

#[tokio::test]
async fn an_access_key_is_its_users() {
    let rig = Rig::new();
    rig.ok("Action=CreateUser&UserName=Bob&Path=%2Fdivision%2F")
        .await;
    let key = rig.access_key("bob").await;
    assert!(key.starts_with("AKIA"));
    let principal = rig.principal(&key).await;
    assert_eq!(
        principal.arn(),
        "arn:aws:iam::123456789012:user/division/Bob"
    );
    assert!(principal.unique_id().starts_with("AIDA"));
}

#[tokio::test]
async fn a_deactivated_access_key_is_unknown_at_once_and_known_again() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    for (status, known) in [("Inactive", false), ("Active", true)] {
        let form = format!("Action=UpdateAccessKey&UserName=bob&AccessKeyId={key}&Status={status}");
        rig.ok(&form).await;
        assert_eq!(rig.lookup(&key).await.is_ok(), known);
    }
    rig.ok(&format!(
        "Action=DeleteAccessKey&UserName=bob&AccessKeyId={key}"
    ))
    .await;
    assert_eq!(refused(rig.lookup(&key).await), AuthError::UnknownAccessKey);
}

#[tokio::test]
async fn a_users_policies_are_its_own_and_those_of_its_groups_as_of_now() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    rig.ok("Action=CreateGroup&GroupName=staff").await;
    rig.ok("Action=AddUserToGroup&GroupName=staff&UserName=bob")
        .await;
    assert_eq!(policies(&rig, &key).await, 0);
    let document = encoded(ALLOW_ALL);
    let ready = "PolicyArn=arn:aws:iam::aws:policy/StrongroomKeyUser";
    rig.ok(&format!(
        "Action=PutUserPolicy&UserName=bob&PolicyName=a&PolicyDocument={document}"
    ))
    .await;
    rig.ok(&format!("Action=AttachUserPolicy&UserName=bob&{ready}"))
        .await;
    assert_eq!(policies(&rig, &key).await, 2);
    rig.ok(&format!(
        "Action=PutGroupPolicy&GroupName=staff&PolicyName=a&PolicyDocument={document}"
    ))
    .await;
    rig.ok(&format!("Action=AttachGroupPolicy&GroupName=staff&{ready}"))
        .await;
    assert_eq!(policies(&rig, &key).await, 4);
    rig.ok(&format!("Action=DetachUserPolicy&UserName=bob&{ready}"))
        .await;
    assert_eq!(policies(&rig, &key).await, 3);
    rig.ok("Action=RemoveUserFromGroup&GroupName=staff&UserName=bob")
        .await;
    assert_eq!(policies(&rig, &key).await, 1);
    rig.ok("Action=DeleteUserPolicy&UserName=bob&PolicyName=a")
        .await;
    assert_eq!(policies(&rig, &key).await, 0);
}

#[tokio::test]
async fn a_managed_policy_counts_in_its_default_version() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    let body = rig
        .ok(&format!(
            "Action=CreatePolicy&PolicyName=p&PolicyDocument={}",
            encoded(ALLOW_ALL)
        ))
        .await;
    let arn = encoded(&tag(&body, "Arn"));
    rig.ok(&format!(
        "Action=AttachUserPolicy&UserName=bob&PolicyArn={arn}"
    ))
    .await;
    let second = ALLOW_ALL.replace("Allow", "Deny");
    rig.ok(&format!(
        "Action=CreatePolicyVersion&PolicyArn={arn}&PolicyDocument={}",
        encoded(&second)
    ))
    .await;
    let text = async || match rig.principal(&key).await.identity {
        Identity::User(user) => user.policies.first().expect("one").text().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(text().await, ALLOW_ALL);
    rig.ok(&format!(
        "Action=SetDefaultPolicyVersion&PolicyArn={arn}&VersionId=v2"
    ))
    .await;
    assert_eq!(text().await, second);
}

#[tokio::test]
async fn a_renamed_user_keeps_its_access_keys_and_groups() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    rig.ok("Action=CreateGroup&GroupName=staff").await;
    rig.ok("Action=AddUserToGroup&GroupName=staff&UserName=bob")
        .await;
    rig.ok("Action=UpdateUser&UserName=bob&NewUserName=robert&NewPath=%2Fx%2F")
        .await;
    rig.ok("Action=UpdateGroup&GroupName=staff&NewGroupName=crew")
        .await;
    assert_eq!(
        rig.principal(&key).await.arn(),
        "arn:aws:iam::123456789012:user/x/robert"
    );
    let body = rig.ok("Action=ListGroupsForUser&UserName=robert").await;
    assert_eq!(tag(&body, "GroupName"), "crew");
    let body = rig.ok("Action=GetGroup&GroupName=crew").await;
    assert_eq!(tag(&body, "UserName"), "robert");
    assert_eq!(
        rig.fails("Action=GetUser&UserName=bob").await.0,
        "NoSuchEntity"
    );
}

#[tokio::test]
async fn a_user_of_the_same_name_gets_no_old_access_key() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    rig.ok(&format!(
        "Action=DeleteAccessKey&UserName=bob&AccessKeyId={key}"
    ))
    .await;
    rig.ok("Action=DeleteUser&UserName=bob").await;
    rig.ok("Action=CreateUser&UserName=bob").await;
    assert_eq!(refused(rig.lookup(&key).await), AuthError::UnknownAccessKey);
}

#[tokio::test]
async fn after_a_restart_without_the_hsm_a_user_is_an_outage_and_root_is_known() {
    let mut rig = Rig::new();
    let key = rig.user("bob").await;
    rig.unplug();
    // What is in memory goes on.
    rig.principal(&key).await;
    rig.restart();
    let error = rig.lookup(&key).await.expect_err("the HSM is away");
    assert!(error.is_outage(), "{error:?}");
    rig.principal("AKIAROOTHOME").await;
    assert_eq!(
        refused(rig.lookup("AKIANOBODY").await),
        AuthError::UnknownAccessKey
    );
    rig.plug_in();
    rig.principal(&key).await;
}

#[tokio::test]
async fn a_session_token_with_an_access_key_that_is_none_of_a_session_is_invalid() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    for key in [key.as_str(), "AKIAROOTHOME", "ASIANOBODY"] {
        let result = rig.iam.lookup(key, Some("AAAA")).await;
        assert_eq!(refused(result), AuthError::TokenInvalid);
    }
}
