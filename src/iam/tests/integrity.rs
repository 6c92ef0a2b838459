//! Rows that were tampered with are not used, and no secret lies in them.

use super::{ALLOW_ALL, Rig, encoded, tag};
use crate::iam::IamError;
use crate::iam::record::{access_key_row, entity_row, policy_row, policy_text_row};
use crate::iam::{Kind, tests::account};
use crate::kms::KmsError;
use crate::meta::Batch;

/// A user whose access key depends on every kind of row.
async fn user_with_everything(rig: &Rig) -> String {
    let key = rig.user("bob").await;
    rig.ok("Action=CreateGroup&GroupName=staff").await;
    rig.ok("Action=AddUserToGroup&GroupName=staff&UserName=bob")
        .await;
    let body = rig
        .ok(&format!(
            "Action=CreatePolicy&PolicyName=p&PolicyDocument={}",
            encoded(ALLOW_ALL)
        ))
        .await;
    let arn = encoded(&tag(&body, "Arn"));
    rig.ok(&format!(
        "Action=AttachGroupPolicy&GroupName=staff&PolicyArn={arn}"
    ))
    .await;
    key
}

fn rows_of(key: &str) -> [Vec<u8>; 5] {
    let home = account(super::HOME);
    [
        access_key_row(key),
        entity_row(Kind::User, &home, "bob"),
        entity_row(Kind::Group, &home, "staff"),
        policy_row(&home, "p"),
        policy_text_row(&home, "p", 1),
    ]
}

#[tokio::test]
async fn a_row_with_a_changed_bit_is_refused() {
    let rig = Rig::new();
    let key = user_with_everything(&rig).await;
    let needed = rows_of(&key);
    for (row, stored) in rig.rows().await {
        if !needed.contains(&row) {
            continue;
        }
        for at in [0, stored.len() / 2, stored.len() - 1] {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            rig.put(&row, &changed).await;
            let result = rig.lookup(&key).await;
            assert!(
                matches!(result, Err(IamError::Kms(KmsError::Damaged(_)))),
                "{row:?} at {at}: {result:?}"
            );
        }
        rig.put(&row, &stored).await;
    }
    rig.principal(&key).await;
}

#[tokio::test]
async fn a_deleted_row_takes_nothing_away_but_the_whole() {
    for at in 1..5 {
        let rig = Rig::new();
        let key = user_with_everything(&rig).await;
        let row = rows_of(&key)[at].clone();
        rig.meta
            .commit(Batch::new().delete(row))
            .await
            .expect("deleted");
        let result = rig.lookup(&key).await;
        assert!(
            matches!(result, Err(IamError::Damaged(_))),
            "{at}: {result:?}"
        );
    }
}

#[tokio::test]
async fn the_access_key_of_another_user_is_refused() {
    let rig = Rig::new();
    let (one, two) = (rig.user("one").await, rig.user("two").await);
    let rows = rig.rows().await;
    let stored = |key: &str| {
        let row = access_key_row(key);
        let found = rows.iter().find(|(there, _)| *there == row);
        found.expect("a row").1.clone()
    };
    rig.put(&access_key_row(&one), &stored(&two)).await;
    let result = rig.lookup(&one).await;
    assert!(
        matches!(result, Err(IamError::Kms(KmsError::Damaged(_)))),
        "{result:?}"
    );
}

#[tokio::test]
async fn the_credential_key_of_another_store_is_refused() {
    let mut rig = Rig::new();
    let key = rig.user("bob").await;
    let other = Rig::new();
    other.user("bob").await;
    let row = crate::iam::record::credential_row();
    let (_, foreign) = other
        .rows()
        .await
        .into_iter()
        .find(|(there, _)| *there == row)
        .expect("a row");
    rig.put(&row, &foreign).await;
    rig.restart();
    assert!(rig.lookup(&key).await.is_err());
}

#[tokio::test]
async fn no_secret_is_in_a_row() {
    let rig = Rig::new();
    rig.ok("Action=CreateUser&UserName=bob").await;
    let body = rig.ok("Action=CreateAccessKey&UserName=bob").await;
    let secret = tag(&body, "SecretAccessKey").into_bytes();
    for (row, stored) in rig.rows().await {
        let found = stored.windows(secret.len()).any(|window| window == secret);
        assert!(!found, "{row:?}");
    }
    assert!(!format!("{:?}", rig.iam).contains("rootsecret"));
}
