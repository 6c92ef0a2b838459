//! Rows as they were written before keys had accounts: they are of the server's first one.

use super::{Rig, account, may};
use crate::auth::Resource;
use crate::kms::{KeyRef, RewrapId, RewrapState};
use crate::meta::table;

/// Fields 0 to 10 of a key: enabled, with a tag and an alias.
const KEY: &str = "018b1b0000018bcfe5680000820080016164f600a1616161628169616c6961732f6f6c64f600";
/// Fields 0 to 2 of an alias.
const ALIAS: &str = "018350070707070707070707070707070707071b0000018bcfe568001b0000018bcfe56800";
/// Fields 0 to 14 of a re-wrap that waits.
const REWRAP: &str = "018f5007070707070707070707070707070707011affffffff50080808080808080808080808\
    08080808f660f664726f6f741b0000018bcfe568008200808305000083090000f6f640";

const KEY_ID: &str = "07070707-0707-0707-0707-070707070707";

async fn put(rig: &Rig, row: &[u8], record: &str) {
    let record = hex::decode(record).expect("hex");
    let stored = rig.kms.seal_row(row, &record).await.expect("a MAC");
    rig.put(row, &stored).await;
}

#[tokio::test]
async fn keys_and_aliases_of_no_account_are_the_first_account_s() {
    let rig = Rig::new();
    put(&rig, &[[table::KMS_KEY].as_slice(), &[7; 16]].concat(), KEY).await;
    put(
        &rig,
        &[[table::KMS_ALIAS].as_slice(), b"alias/old"].concat(),
        ALIAS,
    )
    .await;
    let expected = format!("arn:aws:kms:us-west-2:{}:key/{KEY_ID}", account());
    for name in ["alias/old", KEY_ID, &expected] {
        let name = KeyRef::parse(name).expect("a name");
        let found = rig.kms.resolve(&account(), &name).await.expect("there");
        assert_eq!(found.as_str(), expected);
    }
}

#[tokio::test]
async fn rewraps_of_no_account_are_the_first_account_s() {
    let rig = Rig::new();
    put(
        &rig,
        &[[table::KMS_REWRAP].as_slice(), &[9; 16]].concat(),
        REWRAP,
    )
    .await;
    let proof = may("kms:ListRewraps", Resource::Service);
    let listed = rig.kms.list_rewraps(&proof).await.expect("a list");
    let [rewrap] = listed.as_slice() else {
        unreachable!("one re-wrap")
    };
    let id = RewrapId::parse("09090909-0909-0909-0909-090909090909");
    assert_eq!(Some(rewrap.id), id);
    let accounts = [rewrap.from.account(), rewrap.to.account()];
    assert_eq!(accounts, [&account(), &account()]);
    assert_eq!(rewrap.from.key_id().to_string(), KEY_ID);
    assert_eq!(rewrap.versions, (1, u32::MAX));
    assert_eq!(rewrap.state, RewrapState::Waiting);
    assert_eq!((rewrap.counts.rewrapped, rewrap.planned.objects), (5, 9));
    let lease = rig.kms.claim_rewrap(false).await.expect("records");
    assert!(lease.is_some_and(|lease| Some(lease.rewrap().id) == id));
}
