//! Every quota at N and at N + 1.

use super::{ALLOW_ALL, HOME, Rig, account, encoded, tag};
use crate::iam::record::{Tally, tally_row};
use crate::iam::{
    ACCESS_KEYS_OF_USER_MAX, ATTACHED_MAX, GROUP_INLINE_CHARS_MAX, GROUPS_MAX, GROUPS_OF_USER_MAX,
    MANAGED_CHARS_MAX, POLICIES_MAX, ROLE_INLINE_CHARS_MAX, ROLES_MAX, TRUST_CHARS_MAX,
    USER_INLINE_CHARS_MAX, USERS_MAX, VERSIONS_MAX,
};

/// A policy of so many characters, and as many spaces, which do not count.
fn sized(chars: usize) -> String {
    const RESOURCE: usize = 100;
    let bare = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":["arn:aws:s3:::x"]}]}"#;
    let missing = chars - bare.len();
    // Each of these adds RESOURCE characters, with its comma.
    let more = format!(",\"arn:aws:s3:::{}\"", "y".repeat(RESOURCE - 16));
    assert_eq!(more.len(), RESOURCE);
    let padding = "x".repeat(missing % RESOURCE);
    let more = more.repeat(missing / RESOURCE);
    let text = bare.replace(":::x\"", &format!(":::x{padding}\"{more}"));
    let text = text.strip_suffix("}").expect("an object").to_owned() + &" ".repeat(chars) + "}";
    assert_eq!(text.len(), 2 * chars);
    text
}

const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"","Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;

fn sized_trust(chars: usize) -> String {
    let filling = "x".repeat(chars - TRUST.len());
    TRUST.replace(r#""Sid":"""#, &format!(r#""Sid":"{filling}""#))
}

/// `count` requests go, one more does not.
async fn just(rig: &Rig, count: usize, form: impl Fn(usize) -> String) {
    for n in 0..count {
        rig.ok(&form(n)).await;
    }
    let (code, message) = rig.fails(&form(count)).await;
    assert_eq!(code, "LimitExceeded", "{message}");
}

#[tokio::test]
async fn access_keys_of_a_user() {
    let rig = Rig::new();
    rig.ok("Action=CreateUser&UserName=bob").await;
    just(&rig, ACCESS_KEYS_OF_USER_MAX, |_| {
        "Action=CreateAccessKey&UserName=bob".into()
    })
    .await;
}

#[tokio::test]
async fn groups_of_a_user() {
    let rig = Rig::new();
    rig.ok("Action=CreateUser&UserName=bob").await;
    for n in 0..=GROUPS_OF_USER_MAX {
        rig.ok(&format!("Action=CreateGroup&GroupName=g{n}")).await;
    }
    let form = |n| format!("Action=AddUserToGroup&UserName=bob&GroupName=g{n}");
    just(&rig, GROUPS_OF_USER_MAX, form).await;
    // Who is in stays in.
    rig.ok("Action=AddUserToGroup&UserName=bob&GroupName=g0")
        .await;
}

#[tokio::test]
async fn attached_policies_and_versions() {
    let rig = Rig::new();
    rig.ok("Action=CreateUser&UserName=bob").await;
    let document = encoded(ALLOW_ALL);
    let mut arns = Vec::new();
    for n in 0..=ATTACHED_MAX {
        let body = rig
            .ok(&format!(
                "Action=CreatePolicy&PolicyName=p{n}&PolicyDocument={document}"
            ))
            .await;
        arns.push(encoded(&tag(&body, "Arn")));
    }
    let form = |n: usize| format!("Action=AttachUserPolicy&UserName=bob&PolicyArn={}", arns[n]);
    just(&rig, ATTACHED_MAX, form).await;
    rig.ok(&form(0)).await;
    let form = |_| {
        format!(
            "Action=CreatePolicyVersion&PolicyArn={}&PolicyDocument={document}",
            arns[0]
        )
    };
    just(&rig, VERSIONS_MAX - 1, form).await;
    // A number that was used is not used again.
    rig.ok(&format!(
        "Action=DeletePolicyVersion&PolicyArn={}&VersionId=v5",
        arns[0]
    ))
    .await;
    let body = rig.ok(&form(0)).await;
    assert_eq!(tag(&body, "VersionId"), "v6");
}

#[tokio::test]
async fn sizes_of_policies() {
    let rig = Rig::new();
    for (kind, max) in [
        ("User", USER_INLINE_CHARS_MAX),
        ("Group", GROUP_INLINE_CHARS_MAX),
        ("Role", ROLE_INLINE_CHARS_MAX),
    ] {
        let trust = format!("&AssumeRolePolicyDocument={}", encoded(TRUST));
        rig.ok(&format!("Action=Create{kind}&{kind}Name=e{trust}"))
            .await;
        let put = |name: &str, chars| {
            let document = encoded(&sized(chars));
            format!(
                "Action=Put{kind}Policy&{kind}Name=e&PolicyName={name}&PolicyDocument={document}"
            )
        };
        assert_eq!(rig.fails(&put("p", max + 1)).await.0, "LimitExceeded");
        rig.ok(&put("p", max)).await;
        // All of them count together, and one that is replaced does not.
        assert_eq!(rig.fails(&put("q", 100)).await.0, "LimitExceeded");
        rig.ok(&put("p", max - 1)).await;
    }
    let create = |chars| {
        format!(
            "Action=CreatePolicy&PolicyName=p&PolicyDocument={}",
            encoded(&sized(chars))
        )
    };
    assert_eq!(
        rig.fails(&create(MANAGED_CHARS_MAX + 1)).await.0,
        "LimitExceeded"
    );
    rig.ok(&create(MANAGED_CHARS_MAX)).await;
    let role = |chars| {
        let document = encoded(&sized_trust(chars));
        format!("Action=UpdateAssumeRolePolicy&RoleName=e&PolicyDocument={document}")
    };
    assert_eq!(
        rig.fails(&role(TRUST_CHARS_MAX + 1)).await.0,
        "LimitExceeded"
    );
    rig.ok(&role(TRUST_CHARS_MAX)).await;
}

#[tokio::test]
async fn entities_of_an_account() {
    let rig = Rig::new();
    let almost = Tally {
        users: USERS_MAX - 1,
        groups: GROUPS_MAX - 1,
        roles: ROLES_MAX - 1,
        policies: POLICIES_MAX - 1,
    };
    let rows = rig.iam.kms.rows().await.expect("records");
    let batch = rows.insert(tally_row(&account(HOME)), &almost);
    assert!(rig.iam.kms.commit(batch).await.expect("committed"));
    let (trust, document) = (encoded(TRUST), encoded(ALLOW_ALL));
    for form in [
        "Action=CreateUser&UserName=e".to_owned(),
        "Action=CreateGroup&GroupName=e".to_owned(),
        format!("Action=CreateRole&AssumeRolePolicyDocument={trust}&RoleName=e"),
        format!("Action=CreatePolicy&PolicyDocument={document}&PolicyName=e"),
    ] {
        just(&rig, 1, |n| format!("{form}{n}")).await;
    }
    rig.ok("Action=DeleteUser&UserName=e0").await;
    rig.ok("Action=CreateUser&UserName=e1").await;
    let body = rig.ok("Action=GetAccountSummary").await;
    assert!(
        body.contains("<key>Users</key><value>5000</value>"),
        "{body}"
    );
}
