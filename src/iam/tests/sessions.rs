//! Sessions of roles: who gets one, what it may, and when it ends.

use super::{ABROAD, ALLOW_ALL, HOME, Rig, account, encoded, refused, root, tag};
use crate::auth::sigv4::{AuthError, Service};
use crate::auth::{Identity, Principal};
use crate::iam::IamError;

/// Who may assume a role.
fn trust(principal: &str, condition: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"{principal}"}},"Action":"sts:AssumeRole"{condition}}}]}}"#
    )
}

fn user_arn(name: &str) -> String {
    format!("arn:aws:iam::{HOME}:user/{name}")
}

async fn role(rig: &Rig, name: &str, trust: &str) {
    let form = format!(
        "Action=CreateRole&RoleName={name}&AssumeRolePolicyDocument={}",
        encoded(trust)
    );
    rig.ok(&form).await;
}

/// Asks for a session of a role of the home account: access key id and token, or the code of the refusal.
async fn assume(rig: &Rig, caller: Principal, rest: &str) -> Result<(String, String), String> {
    let form =
        format!("Action=AssumeRole&RoleSessionName=night&RoleArn=arn:aws:iam::{HOME}:role/{rest}");
    let (status, body) = rig.ask_as(caller, Service::Sts, &form).await;
    if status == 200 {
        Ok((tag(&body, "AccessKeyId"), tag(&body, "SessionToken")))
    } else {
        Err(tag(&body, "Code"))
    }
}

/// A user `bob`, and a role `writer` that trusts it.
async fn bob_and_writer(rig: &Rig) -> Principal {
    let key = rig.user("bob").await;
    role(rig, "writer", &trust(&user_arn("bob"), "")).await;
    rig.principal(&key).await
}

#[tokio::test]
async fn a_session_is_its_roles() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    rig.ok(&format!(
        "Action=PutRolePolicy&RoleName=writer&PolicyName=p&PolicyDocument={}",
        encoded(ALLOW_ALL)
    ))
    .await;
    let (key, token) = assume(&rig, bob, "writer").await.expect("trusted");
    assert!(key.starts_with("ASIA"));
    let principal = rig
        .iam
        .lookup(&key, Some(&token))
        .await
        .expect("a session")
        .principal;
    assert_eq!(
        principal.arn(),
        format!("arn:aws:sts::{HOME}:assumed-role/writer/night")
    );
    let Identity::Session(session) = &principal.identity else {
        panic!("{principal:?}")
    };
    assert_eq!(
        (session.policies.len(), session.session_policies.len()),
        (1, 0)
    );
    // Without its token it is nobody.
    assert_eq!(refused(rig.lookup(&key).await), AuthError::UnknownAccessKey);
    let (_, body) = rig
        .ask_as(principal, Service::Sts, "Action=GetCallerIdentity")
        .await;
    assert!(tag(&body, "UserId").ends_with(":night"));
}

#[tokio::test]
async fn who_is_not_trusted_gets_no_session_and_does_not_learn_of_the_role() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let eve = rig.user("eve").await;
    let eve = rig.principal(&eve).await;
    assert_eq!(
        assume(&rig, eve.clone(), "writer").await,
        Err("AccessDenied".into())
    );
    assert_eq!(
        assume(&rig, eve, "nobody").await,
        Err("AccessDenied".into())
    );
    assert_eq!(
        assume(&rig, bob.clone(), "x/writer").await,
        Err("AccessDenied".into())
    );
    assert_eq!(
        assume(&rig, root(), "writer").await,
        Err("AccessDenied".into())
    );
    assume(&rig, bob, "writer").await.expect("trusted");
}

#[tokio::test]
async fn a_role_that_trusts_the_account_asks_for_the_callers_own_policy() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    role(&rig, "writer", &trust(HOME, "")).await;
    assert_eq!(
        assume(&rig, rig.principal(&key).await, "writer").await,
        Err("AccessDenied".into())
    );
    rig.ok(&format!(
        "Action=PutUserPolicy&UserName=bob&PolicyName=p&PolicyDocument={}",
        encoded(ALLOW_ALL)
    ))
    .await;
    assume(&rig, rig.principal(&key).await, "writer")
        .await
        .expect("both sides allow");
}

#[tokio::test]
async fn across_accounts_both_sides_must_allow() {
    let rig = Rig::new();
    let theirs = || Principal::root(account(ABROAD), "AKIAROOTABROAD");
    for form in [
        "Action=CreateUser&UserName=ann",
        "Action=CreateAccessKey&UserName=ann",
    ] {
        assert_eq!(rig.ask_as(theirs(), Service::Iam, form).await.0, 200);
    }
    let (_, body) = rig
        .ask_as(theirs(), Service::Iam, "Action=ListAccessKeys&UserName=ann")
        .await;
    let key = tag(&body, "AccessKeyId");
    role(
        &rig,
        "writer",
        &trust(&format!("arn:aws:iam::{ABROAD}:user/ann"), ""),
    )
    .await;
    assert_eq!(
        assume(&rig, rig.principal(&key).await, "writer").await,
        Err("AccessDenied".into())
    );
    let form = format!(
        "Action=PutUserPolicy&UserName=ann&PolicyName=p&PolicyDocument={}",
        encoded(ALLOW_ALL)
    );
    assert_eq!(rig.ask_as(theirs(), Service::Iam, &form).await.0, 200);
    let (key, token) = assume(&rig, rig.principal(&key).await, "writer")
        .await
        .expect("both sides allow");
    let session = rig.iam.lookup(&key, Some(&token)).await.expect("a session");
    assert_eq!(session.principal.account, account(HOME));
}

#[tokio::test]
async fn an_external_id_is_a_condition() {
    let rig = Rig::new();
    let key = rig.user("bob").await;
    let condition = r#","Condition":{"StringEquals":{"sts:ExternalId":"4711"}}"#;
    role(&rig, "writer", &trust(&user_arn("bob"), condition)).await;
    for (rest, good) in [
        ("writer", false),
        ("writer&ExternalId=0815", false),
        ("writer&ExternalId=4711", true),
    ] {
        let result = assume(&rig, rig.principal(&key).await, rest).await;
        assert_eq!(result.is_ok(), good, "{rest}: {result:?}");
    }
}

#[tokio::test]
async fn a_session_ends_at_its_time() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let (key, token) = assume(&rig, bob, "writer&DurationSeconds=900")
        .await
        .expect("trusted");
    rig.clock.shift_to(890);
    assert!(rig.iam.lookup(&key, Some(&token)).await.is_ok());
    rig.clock.shift_to(901);
    assert_eq!(
        refused(rig.iam.lookup(&key, Some(&token)).await),
        AuthError::TokenExpired
    );
}

#[tokio::test]
async fn a_session_is_no_longer_than_its_role_lets_it() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    for (seconds, good) in [(899, false), (900, true), (3600, true), (3601, false)] {
        let rest = format!("writer&DurationSeconds={seconds}");
        let result = assume(&rig, bob.clone(), &rest).await;
        assert_eq!(result.is_ok(), good, "{seconds}");
    }
    rig.ok("Action=UpdateRole&RoleName=writer&MaxSessionDuration=43200")
        .await;
    assume(&rig, bob.clone(), "writer&DurationSeconds=43200")
        .await
        .expect("just");
    assert_eq!(
        assume(&rig, bob, "writer&DurationSeconds=43201").await,
        Err("ValidationError".into())
    );
}

#[tokio::test]
async fn a_session_of_a_session_lasts_an_hour_at_most() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let (key, token) = assume(&rig, bob, "writer").await.expect("trusted");
    let session = rig
        .iam
        .lookup(&key, Some(&token))
        .await
        .expect("a session")
        .principal;
    role(
        &rig,
        "second",
        &trust(&format!("arn:aws:iam::{HOME}:role/writer"), ""),
    )
    .await;
    rig.ok("Action=UpdateRole&RoleName=second&MaxSessionDuration=7200")
        .await;
    assume(&rig, session.clone(), "second&DurationSeconds=3600")
        .await
        .expect("just");
    let refused = assume(&rig, session, "second&DurationSeconds=3601").await;
    assert_eq!(refused, Err("ValidationError".into()));
}

#[tokio::test]
async fn a_session_dies_with_its_role() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let (key, token) = assume(&rig, bob, "writer").await.expect("trusted");
    rig.ok("Action=DeleteRole&RoleName=writer").await;
    assert_eq!(
        refused(rig.iam.lookup(&key, Some(&token)).await),
        AuthError::TokenInvalid
    );
    // Another role of that name is another role.
    role(&rig, "writer", &trust(&user_arn("bob"), "")).await;
    assert_eq!(
        refused(rig.iam.lookup(&key, Some(&token)).await),
        AuthError::TokenInvalid
    );
}

#[tokio::test]
async fn a_token_that_was_changed_is_invalid() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let (key, token) = assume(&rig, bob.clone(), "writer").await.expect("trusted");
    let (other, _) = assume(&rig, bob, "writer").await.expect("trusted");
    assert_eq!(
        refused(rig.iam.lookup(&other, Some(&token)).await),
        AuthError::TokenInvalid
    );
    for at in [0, token.len() / 2, token.len() - 2] {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        assert_eq!(
            refused(rig.iam.lookup(&key, Some(&changed)).await),
            AuthError::TokenInvalid
        );
    }
}

#[tokio::test]
async fn session_policies_come_with_the_session() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let body = rig
        .ok(&format!(
            "Action=CreatePolicy&PolicyName=p&PolicyDocument={}",
            encoded(ALLOW_ALL)
        ))
        .await;
    let arn = encoded(&tag(&body, "Arn"));
    let rest = format!(
        "writer&Policy={}&PolicyArns.member.1.arn={arn}",
        encoded(ALLOW_ALL)
    );
    let (key, token) = assume(&rig, bob.clone(), &rest).await.expect("trusted");
    let texts = async || match rig
        .iam
        .lookup(&key, Some(&token))
        .await
        .expect("a session")
        .principal
        .identity
    {
        Identity::Session(session) => {
            let texts = session
                .session_policies
                .iter()
                .map(|policy| policy.text().to_owned());
            texts.collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(texts().await, [ALLOW_ALL, ALLOW_ALL]);
    // One that is deleted allows nothing any more.
    rig.ok(&format!("Action=DeletePolicy&PolicyArn={arn}"))
        .await;
    assert!(texts().await[1].contains("Deny"));
    let gone = assume(&rig, bob.clone(), &rest).await;
    assert_eq!(gone, Err("MalformedPolicyDocument".into()));
    assert_eq!(
        assume(&rig, bob, "writer&Policy=x").await,
        Err("MalformedPolicyDocument".into())
    );
}

#[tokio::test]
async fn after_a_restart_without_the_hsm_a_session_is_an_outage() {
    let mut rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let (key, token) = assume(&rig, bob, "writer").await.expect("trusted");
    rig.restart();
    rig.unplug();
    let error = rig
        .iam
        .lookup(&key, Some(&token))
        .await
        .expect_err("the HSM is away");
    assert!(error.is_outage(), "{error:?}");
    // What is no token is invalid even so.
    let result = rig.iam.lookup(&key, Some("AAAA")).await;
    assert!(
        matches!(
            result,
            Err(IamError::NotAuthenticated(AuthError::TokenInvalid))
        ),
        "{result:?}"
    );
    rig.plug_in();
    assert!(rig.iam.lookup(&key, Some(&token)).await.is_ok());
}

#[tokio::test]
async fn a_trust_policy_names_who_is_there() {
    let rig = Rig::new();
    rig.user("bob").await;
    for (name, good) in [
        ("*", true),
        (HOME, true),
        (ABROAD, true),
        ("999999999999", false),
        ("arn:aws:iam::999999999999:root", false),
        ("arn:aws:iam::123456789012:root", true),
        ("arn:aws:iam::123456789012:user/bob", true),
        ("arn:aws:iam::123456789012:user/x/bob", false),
        ("arn:aws:iam::123456789012:user/eve", false),
        ("arn:aws:iam::123456789012:role/bob", false),
        ("arn:aws:sts::123456789012:assumed-role/bob/night", false),
    ] {
        let document = encoded(&trust(name, ""));
        let create = format!("Action=CreateRole&RoleName=r&AssumeRolePolicyDocument={document}");
        if good {
            rig.ok(&create).await;
            rig.ok("Action=DeleteRole&RoleName=r").await;
        } else {
            assert_eq!(
                rig.fails(&create).await.0,
                "MalformedPolicyDocument",
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn another_user_of_a_trusted_name_is_not_trusted() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    let key = bob.access_key_id.clone();
    rig.ok(&format!(
        "Action=DeleteAccessKey&UserName=bob&AccessKeyId={key}"
    ))
    .await;
    rig.ok("Action=DeleteUser&UserName=bob").await;
    let key = rig.user("bob").await;
    let result = assume(&rig, rig.principal(&key).await, "writer").await;
    assert_eq!(result, Err("AccessDenied".into()));
    // Until somebody says again who is meant.
    let document = encoded(&trust(&user_arn("bob"), ""));
    rig.ok(&format!(
        "Action=UpdateAssumeRolePolicy&RoleName=writer&PolicyDocument={document}"
    ))
    .await;
    assume(&rig, rig.principal(&key).await, "writer")
        .await
        .expect("trusted");
}

#[tokio::test]
async fn a_session_of_another_role_of_a_trusted_name_is_not_trusted() {
    let rig = Rig::new();
    let bob = bob_and_writer(&rig).await;
    role(
        &rig,
        "second",
        &trust(&format!("arn:aws:iam::{HOME}:role/writer"), ""),
    )
    .await;
    role(
        &rig,
        "third",
        &trust(
            &format!("arn:aws:sts::{HOME}:assumed-role/writer/night"),
            "",
        ),
    )
    .await;
    let session = async || {
        let (key, token) = assume(&rig, bob.clone(), "writer").await.expect("trusted");
        rig.iam
            .lookup(&key, Some(&token))
            .await
            .expect("a session")
            .principal
    };
    for name in ["second", "third"] {
        assume(&rig, session().await, name).await.expect("trusted");
    }
    rig.ok("Action=DeleteRole&RoleName=writer").await;
    role(&rig, "writer", &trust(&user_arn("bob"), "")).await;
    for name in ["second", "third"] {
        let result = assume(&rig, session().await, name).await;
        assert_eq!(result, Err("AccessDenied".into()), "{name}");
    }
}
