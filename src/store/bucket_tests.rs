//! Tests of buckets through the store, over a token in memory.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::time::timeout;

use strongroom_hsm::testing::fault::{Fault, Op};

use super::bucket_key_tests::{BUCKET, Rig, get, incoming, may, may_in, may_object, put, request};
use super::bucket_row::SEALED_AT_ONCE;
use super::record::{
    BucketRecord, ChecksumAlgorithm, ChecksumKind, DefaultEncryption, Headers, bucket_row,
    buckets_row, owned_row, policy_row,
};
use super::{
    BucketsRequest, Conditions, ListRequest, PutRequest, SseTarget, Store, StoreError,
    StoreSettings, WriteConditions,
};
use crate::auth::policy::{Document, Kind, Side};
use crate::auth::{AccountId, Action, Authorised, Principal, Resource, authorise};
use crate::kms::KmsError;
use crate::meta::{Batch, codec, table};

/// A use of a bucket by a proof.
type Use = for<'a> fn(&'a Store, Authorised) -> BoxFuture<'a, Result<(), StoreError>>;

fn document(text: &str) -> Document {
    Document::parse(text, Kind::Resource).expect("a policy")
}

const OF_BUCKETS: [(&str, Use); 8] = [
    ("s3:ListBucket", |store, proof| {
        async move { store.load_bucket(&proof).await.map(drop) }.boxed()
    }),
    ("s3:ListBucket", |store, proof| {
        async move { store.list(&proof, &everything()).await.map(drop) }.boxed()
    }),
    ("s3:ListBucketMultipartUploads", |store, proof| {
        async move {
            let uploads = store.list_uploads(&proof, &everything(), None).await;
            uploads.map(drop)
        }
        .boxed()
    }),
    ("s3:GetBucketPolicy", |store, proof| {
        async move { store.access_of(&proof).await.map(drop) }.boxed()
    }),
    ("s3:PutBucketPolicy", |store, proof| {
        async move {
            store
                .put_bucket_policy(&proof, Some(&document(POLICY)))
                .await
        }
        .boxed()
    }),
    ("s3:DeleteBucketPolicy", |store, proof| {
        async move { store.put_bucket_policy(&proof, None).await }.boxed()
    }),
    ("s3:PutEncryptionConfiguration", |store, proof| {
        async move {
            let encryption = DefaultEncryption::S3;
            store.put_bucket_encryption(&proof, &encryption, true).await
        }
        .boxed()
    }),
    ("s3:DeleteBucket", |store, proof| {
        async move { store.delete_bucket(&proof).await }.boxed()
    }),
];

const OF_OBJECTS: [(&str, Use); 5] = [
    ("s3:GetObject", |store, proof| {
        async move { store.locate(&proof).await.map(drop) }.boxed()
    }),
    ("s3:DeleteObject", |store, proof| {
        async move { store.delete(&proof, None).await }.boxed()
    }),
    ("s3:PutObject", |store, proof| {
        async move {
            let request = PutRequest {
                proof,
                sse: SseTarget::S3,
                headers: Headers::default(),
                conditions: WriteConditions::default(),
                incoming: incoming(b"late".to_vec()),
            };
            store.put(request).await.map(drop)
        }
        .boxed()
    }),
    ("s3:PutObject", |store, proof| {
        async move {
            let checksum = ChecksumKind {
                algorithm: ChecksumAlgorithm::Crc32,
                composite: true,
            };
            let headers = Headers::default();
            let upload = store.create_upload(&proof, &SseTarget::S3, headers, (checksum, false));
            upload.await.map(drop)
        }
        .boxed()
    }),
    ("s3:PutObject", |store, proof| {
        async move {
            store
                .locate_upload(&proof, &"00".repeat(16))
                .await
                .map(drop)
        }
        .boxed()
    }),
];

const POLICY: &str = r#"{"Version":"2012-10-17","Statement":
    [{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::vault/*"}]}"#;

fn everything() -> ListRequest {
    ListRequest {
        prefix: String::new(),
        delimiter: None,
        after: String::new(),
        entries_max: 10,
    }
}

/// Deletes the bucket and makes another one of its name, as another account could.
async fn swap(rig: &Rig) {
    rig.delete("one").await;
    let proof = may_in(
        &rig.store,
        "s3:DeleteBucket",
        Resource::Bucket(BUCKET.into()),
    )
    .await;
    rig.store.delete_bucket(&proof).await.expect("deleted");
    rig.create_bucket(BUCKET).await;
    rig.put("one", SseTarget::S3).await.expect("written");
}

#[tokio::test]
async fn a_decision_about_a_bucket_is_not_one_about_the_next_of_its_name() {
    let rig = Rig::new().await;
    rig.put("one", SseTarget::S3).await.expect("written");
    let mut decided = Vec::new();
    for (action, then) in OF_BUCKETS {
        let bucket = Resource::Bucket(BUCKET.into());
        decided.push((action, may_in(&rig.store, action, bucket).await, then));
    }
    for (action, then) in OF_OBJECTS {
        let proof = may_object(&rig.store, action, BUCKET, "one").await;
        decided.push((action, proof, then));
    }
    swap(&rig).await;
    for (action, proof, then) in decided {
        let refused = then(&rig.store, proof).await;
        let is_gone = matches!(&refused, Err(StoreError::NoSuchBucket(name)) if name == BUCKET);
        assert!(is_gone, "{action}: {refused:?}");
    }
    // What is there now is as it was made.
    let proof = may_object(&rig.store, "s3:GetObject", BUCKET, "one").await;
    rig.store.locate(&proof).await.expect("there");
    let access = rig.store.bucket_access(BUCKET).await.expect("reads");
    assert!(access.expect("there").policy.is_none());
}

#[tokio::test]
async fn a_decision_that_was_about_no_bucket_opens_none() {
    let rig = Rig::new().await;
    let proof = may("s3:ListBucket", Resource::Bucket(BUCKET.into()));
    let refused = rig.store.load_bucket(&proof).await;
    assert!(matches!(refused, Err(StoreError::Proof)), "{refused:?}");
}

const OTHER: &str = "210987654321";

async fn load(rig: &Rig, row: &[u8]) -> Option<Vec<u8>> {
    let snapshot = rig.meta.snapshot().await.expect("a snapshot");
    snapshot.load(row).await.expect("reads")
}

/// Whether the bucket is refused as damage, by whoever asks for it.
async fn is_refused(rig: &Rig) -> bool {
    let refused = |error: StoreError| match error {
        StoreError::Kms(KmsError::Damaged(_)) | StoreError::Meta(_) => true,
        other => panic!("{other:?}"),
    };
    let access = rig.store.bucket_access(BUCKET).await;
    access.is_err_and(refused)
}

/// The names that its account is shown.
async fn listed(rig: &Rig) -> Vec<String> {
    let all = may("s3:ListAllMyBuckets", Resource::Buckets);
    let listing = rig.store.list_buckets(&all, &all_buckets()).await;
    let buckets = listing.expect("lists").buckets.into_iter();
    buckets.map(|bucket| bucket.name).collect()
}

fn all_buckets() -> BucketsRequest {
    BucketsRequest {
        buckets_max: 1000,
        ..BucketsRequest::default()
    }
}

#[tokio::test]
async fn a_bucket_that_was_given_away_on_the_disk_is_refused() {
    let rig = Rig::new().await;
    let row = bucket_row(BUCKET);
    let stored = load(&rig, &row).await.expect("there");
    let at = stored
        .windows(12)
        .position(|bytes| bytes == b"123456789012");
    let mut given = stored.clone();
    given.splice(
        at.expect("its owner")..at.expect("its owner") + 12,
        OTHER.bytes(),
    );
    rig.write(row.clone(), given).await;
    assert!(is_refused(&rig).await);
    for at in 0..stored.len() {
        let mut changed = stored.clone();
        changed
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte ^= 1);
        rig.write(row.clone(), changed).await;
        assert!(is_refused(&rig).await, "{at}");
    }
    rig.write(row, stored).await;
    assert!(
        rig.store
            .bucket_access(BUCKET)
            .await
            .expect("reads")
            .is_some()
    );
}

#[tokio::test]
async fn a_damaged_bucket_is_left_out_of_the_list_and_the_others_stay() {
    let rig = Rig::new().await;
    rig.create_bucket("aaa").await;
    rig.create_bucket("zzz").await;
    let all = ["aaa", BUCKET, "zzz"].map(str::to_owned);
    assert_eq!(listed(&rig).await, all);
    let row = bucket_row(BUCKET);
    let stored = load(&rig, &row).await.expect("there");
    let mut changed = stored.clone();
    changed.iter_mut().last().into_iter().for_each(|b| *b ^= 1);
    let without_mac = stored.iter().skip(33).copied().collect();
    let of_another = load(&rig, &bucket_row("aaa")).await.expect("there");
    for damaged in [changed, without_mac, of_another, vec![2], Vec::new()] {
        rig.write(row.clone(), damaged.clone()).await;
        assert_eq!(listed(&rig).await, ["aaa", "zzz"], "{damaged:?}");
        assert!(is_refused(&rig).await, "{damaged:?}");
    }
    rig.write(row, stored).await;
    assert_eq!(listed(&rig).await, all);
}

#[tokio::test]
async fn a_bucket_without_its_mac_is_refused() {
    let rig = Rig::new().await;
    let row = bucket_row(BUCKET);
    let stored = load(&rig, &row).await.expect("there");
    let without: Vec<u8> = stored.iter().skip(33).copied().collect();
    codec::decode::<BucketRecord>("bucket", &without).expect("the record");
    rig.write(row.clone(), without).await;
    assert!(is_refused(&rig).await);
    rig.write(row, Vec::new()).await;
    assert!(is_refused(&rig).await);
}

#[tokio::test]
async fn two_buckets_that_were_swapped_on_the_disk_are_refused() {
    let rig = Rig::new().await;
    rig.create_bucket("other").await;
    let (one, two) = (bucket_row(BUCKET), bucket_row("other"));
    let stored = load(&rig, &two).await.expect("there");
    rig.write(one, stored).await;
    assert!(is_refused(&rig).await);
}

#[tokio::test]
async fn a_policy_that_was_deleted_or_put_back_on_the_disk_closes_its_bucket() {
    let rig = Rig::new().await;
    let bucket = || Resource::Bucket(BUCKET.into());
    let proof = may_in(&rig.store, "s3:PutBucketPolicy", bucket()).await;
    rig.store
        .put_bucket_policy(&proof, Some(&document(POLICY)))
        .await
        .expect("set");
    let uuid = rig.store.load_bucket(&proof).await.expect("there").uuid;
    let first = load(&rig, &policy_row(&uuid)).await.expect("there");
    let other = POLICY.replace("Allow", "Deny");
    rig.store
        .put_bucket_policy(&proof, Some(&document(&other)))
        .await
        .expect("set");
    let second = load(&rig, &policy_row(&uuid)).await.expect("there");
    rig.write(policy_row(&uuid), first).await;
    assert!(is_refused(&rig).await);
    let batch = Batch::new().delete(policy_row(&uuid));
    rig.meta.commit(batch).await.expect("deleted");
    assert!(is_refused(&rig).await);
    rig.write(policy_row(&uuid), second).await;
    let access = rig.store.bucket_access(BUCKET).await.expect("reads");
    assert_eq!(access.expect("there").policy.expect("set").text(), other);
}

#[tokio::test]
async fn without_the_hsm_buckets_are_looked_at_and_no_key_is_used_for_them() {
    let rig = Rig::new().await;
    rig.put("one", SseTarget::S3).await.expect("written");
    rig.put("two", SseTarget::S3).await.expect("written");
    rig.faults.always(Op::Unwrap, Fault::Fail);
    let store = rig.restarted();
    let looks = may_object(&store, "s3:GetObject", BUCKET, "one").await;
    assert!(!looks.decided_bucket().expect("a bucket").verified);
    let located = store.locate(&looks).await.expect("there");
    let conditions = Conditions::default();
    conditions
        .check(located.record())
        .expect("HEAD is answered");
    let lists = may_in(&store, "s3:ListBucket", Resource::Bucket(BUCKET.into())).await;
    assert_eq!(
        store
            .list(&lists, &everything())
            .await
            .expect("lists")
            .entries
            .len(),
        2
    );
    let all = may("s3:ListAllMyBuckets", Resource::Buckets);
    let listed = store
        .list_buckets(&all, &all_buckets())
        .await
        .expect("lists");
    assert_eq!(listed.buckets.len(), 1);
    let deletes = may_object(&store, "s3:DeleteObject", BUCKET, "two").await;
    store.delete(&deletes, None).await.expect("deleted");
    let away = get(&store, BUCKET, "one", None).await;
    assert!(
        matches!(away, Err(StoreError::Kms(KmsError::Unavailable(_)))),
        "{away:?}"
    );
    let away = put(&store, BUCKET, "three", SseTarget::S3).await;
    assert!(
        matches!(away, Err(StoreError::Kms(KmsError::Unavailable(_)))),
        "{away:?}"
    );
    let new = may("s3:CreateBucket", Resource::Bucket("new".into()));
    let away = store.create_bucket(&new, "r").await;
    assert!(
        matches!(away, Err(StoreError::Kms(KmsError::Unavailable(_)))),
        "{away:?}"
    );

    // What was decided without the HSM uses no key when it is back, either.
    rig.faults.heal();
    let access = super::KeyAccess::Plain;
    let refused = store.open(&located, &access, super::Selection::Whole).await;
    assert!(
        matches!(refused, Err(StoreError::Busy)),
        "{:?}",
        refused.err()
    );
    assert_eq!(
        get(&store, BUCKET, "one", None).await.expect("reads"),
        b"one"
    );
}

/// A store of before buckets had MACs: one with a policy, one of another account.
async fn old_store() -> (Rig, Vec<u8>) {
    let rig = Rig::bare(StoreSettings::default());
    rig.key().await;
    for (name, uuid, owner) in [(BUCKET, [1; 16], None), ("other", [2; 16], Some(OTHER))] {
        let record = BucketRecord {
            uuid,
            region: "us-west-2".to_owned(),
            created_ms: 0,
            encryption: DefaultEncryption::S3,
            bucket_key: false,
            owner: owner.map(str::to_owned),
            policy: None,
        };
        rig.write(bucket_row(name), codec::encode(&record)).await;
    }
    let row = policy_row(&[1; 16]);
    let sealed = rig.kms.seal_row(&row, POLICY.as_bytes()).await;
    rig.write(row, sealed.expect("sealed")).await;
    let row = [&[table::KMS_INTERNAL], b"metadata-mac".as_slice()].concat();
    (rig, row)
}

#[tokio::test]
async fn the_buckets_of_an_older_store_get_their_macs_once() {
    let (rig, mac_row) = old_store().await;
    let old = load(&rig, &bucket_row("other")).await.expect("there");
    // Without the HSM they are looked at as they are.
    rig.faults.always(Op::Unwrap, Fault::Fail);
    let store = rig.restarted();
    store.seal_old_buckets().await.expect("starts");
    let all = may("s3:ListAllMyBuckets", Resource::Buckets);
    let listed = store
        .list_buckets(&all, &all_buckets())
        .await
        .expect("lists");
    assert_eq!(listed.buckets.len(), 1);
    assert_eq!(load(&rig, &bucket_row("other")).await.as_ref(), Some(&old));
    rig.faults.heal();

    let store = rig.restarted();
    store.seal_old_buckets().await.expect("sealed");
    let access = store
        .bucket_access(BUCKET)
        .await
        .expect("reads")
        .expect("there");
    assert!(access.bucket.verified && access.policy.is_some());
    assert_eq!(access.owner.as_str(), "123456789012");
    let access = store
        .bucket_access("other")
        .await
        .expect("reads")
        .expect("there");
    assert_eq!(access.owner.as_str(), OTHER);
    let listed = store
        .list_buckets(&all, &all_buckets())
        .await
        .expect("lists");
    assert_eq!(listed.buckets.len(), 1);
    let other = AccountId::parse(OTHER).expect("twelve digits");
    assert!(load(&rig, &owned_row(&other, "other")).await.is_some());
    let counted = load(&rig, &buckets_row(&other)).await.expect("there");
    assert_eq!(codec::decode::<u32>("count", &counted).expect("reads"), 1);

    // One of before is refused from now on, also after a restart.
    rig.write(bucket_row("other"), old.clone()).await;
    for store in [store, rig.restarted()] {
        let refused = store.bucket_access("other").await;
        assert!(
            matches!(refused, Err(StoreError::Kms(KmsError::Damaged(_)))),
            "{refused:?}"
        );
    }

    // That they were sealed cannot be taken back on the disk.
    let mut stored = load(&rig, &mac_row).await.expect("there");
    assert_eq!(stored.pop(), Some(1));
    stored.push(0);
    rig.write(mac_row, stored).await;
    let refused = rig.restarted().bucket_access("other").await;
    assert!(
        matches!(refused, Err(StoreError::Kms(KmsError::Damaged(_)))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_older_store_of_any_size_gets_its_macs_and_what_is_damaged_is_left_out() {
    let (rig, _) = old_store().await;
    let mut batch = Batch::new();
    let many = 2 * SEALED_AT_ONCE + 10;
    for number in 0..many {
        let number = u32::try_from(number).expect("small");
        let mut uuid = [3; 16];
        uuid[..4].copy_from_slice(&number.to_be_bytes());
        let record = BucketRecord {
            uuid,
            region: "us-west-2".to_owned(),
            created_ms: 0,
            encryption: DefaultEncryption::S3,
            bucket_key: false,
            owner: Some(OTHER.to_owned()),
            policy: None,
        };
        batch = batch.put(
            bucket_row(&format!("many-{number:05}")),
            codec::encode(&record),
        );
    }
    rig.meta.commit(batch).await.expect("written");
    let old = load(&rig, &bucket_row("many-00000")).await.expect("there");
    let no_text = [bucket_row("many").as_slice(), &[0xFF]].concat();
    rig.write(no_text.clone(), old.clone()).await;
    rig.write(bucket_row("made-up"), b"no record".to_vec())
        .await;
    let store = rig.restarted();
    store.seal_old_buckets().await.expect("starts");
    let counted = async || {
        let other = AccountId::parse(OTHER).expect("twelve digits");
        let counted = load(&rig, &buckets_row(&other)).await.expect("there");
        codec::decode::<u32>("count", &counted).expect("reads")
    };
    // And "other".
    assert_eq!(usize::try_from(counted().await).expect("small"), many + 1);
    for name in [
        BUCKET.to_owned(),
        "many-00000".to_owned(),
        format!("many-{:05}", many - 1),
    ] {
        let access = store.bucket_access(&name).await.expect("reads");
        assert!(access.expect("there").bucket.verified, "{name}");
    }
    assert_eq!(load(&rig, &no_text).await, Some(old));
    let refused = store.bucket_access("made-up").await;
    assert!(
        matches!(refused, Err(StoreError::Kms(KmsError::Damaged(_)))),
        "{refused:?}"
    );
    rig.restarted().seal_old_buckets().await.expect("starts");
    assert_eq!(usize::try_from(counted().await).expect("small"), many + 1);
}

#[tokio::test]
async fn a_server_that_does_not_know_that_all_was_sealed_seals_nothing_more() {
    let (rig, _) = old_store().await;
    let old = load(&rig, &bucket_row("other")).await.expect("there");
    // As after a commit of which it did not hear any more: it has the MAC key, and took the rows for unsealed.
    let other_server = rig.restarted();
    other_server.seal_old_buckets().await.expect("sealed");
    rig.write(bucket_row("other"), old.clone()).await;
    let refused = rig.store.bucket_access("other").await;
    assert!(
        matches!(refused, Err(StoreError::Kms(KmsError::Damaged(_)))),
        "{refused:?}"
    );
    assert_eq!(load(&rig, &bucket_row("other")).await, Some(old));
    let access = rig.store.bucket_access(BUCKET).await.expect("reads");
    assert!(access.expect("there").bucket.verified);
}

#[tokio::test]
async fn while_the_hsm_hangs_from_the_start_head_and_list_wait_for_one_deadline_at_most() {
    const DEADLINE: Duration = Duration::from_secs(1);
    let rig = Rig::new().await;
    rig.put("one", SseTarget::S3).await.expect("written");
    for number in 0..20 {
        rig.create_bucket(&format!("bucket-{number}")).await;
    }
    rig.faults
        .always(Op::Unwrap, Fault::Hang(Duration::from_secs(6)));
    let store = rig.restarted_with(DEADLINE);
    let all = may("s3:ListAllMyBuckets", Resource::Buckets);
    let head_and_list = async || {
        let looks = may_object(&store, "s3:GetObject", BUCKET, "one").await;
        store.locate(&looks).await.expect("there");
        let lists = may_in(&store, "s3:ListBucket", Resource::Bucket(BUCKET.into())).await;
        store.list(&lists, &everything()).await.expect("lists");
        let listed = store.list_buckets(&all, &all_buckets()).await;
        assert_eq!(listed.expect("lists").buckets.len(), 21);
    };
    let began = Instant::now();
    // Whoever gives up first leaves the others no longer to wait.
    let impatient = timeout(DEADLINE / 2, store.bucket_access(BUCKET));
    assert!(impatient.await.is_err());
    join_all((0..10).map(|_| head_and_list())).await;
    assert!(began.elapsed() < DEADLINE * 2, "{:?}", began.elapsed());
    let began = Instant::now();
    head_and_list().await;
    assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
    // Now and then it is asked again, and once it answers the rows are verified.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    head_and_list().await;
    assert!(began.elapsed() < DEADLINE * 2, "{:?}", began.elapsed());
    rig.faults.heal();
    let verified = async {
        loop {
            let access = store.bucket_access(BUCKET).await.expect("reads");
            if access.expect("there").bucket.verified {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let verified = timeout(Duration::from_secs(20), verified).await;
    verified.expect("it heals by itself");
}

/// A proof of another account's root.
fn others(action: &'static str, resource: Resource) -> Authorised {
    let account = AccountId::parse(OTHER).expect("twelve digits");
    let mut context = request();
    context.principal = Principal::root(account, "AKIAOTHER");
    authorise(&context, Action(action), resource, Side::None, |_values| {}).expect("root may")
}

#[tokio::test]
async fn a_name_that_is_taken_says_whose_it_is_to_its_owner_alone() {
    let rig = Rig::new().await;
    let bucket = || Resource::Bucket(BUCKET.into());
    let own = rig
        .store
        .create_bucket(&may("s3:CreateBucket", bucket()), "r")
        .await;
    assert!(
        matches!(own, Err(StoreError::BucketExists { owned: true, .. })),
        "{own:?}"
    );
    let other = rig
        .store
        .create_bucket(&others("s3:CreateBucket", bucket()), "r")
        .await;
    assert!(
        matches!(other, Err(StoreError::BucketExists { owned: false, .. })),
        "{other:?}"
    );
}

#[tokio::test]
async fn each_account_has_its_own_list_and_its_own_limit() {
    let rig = Rig::new().await;
    let make = |name: &str| others("s3:CreateBucket", Resource::Bucket(name.into()));
    for name in ["other-a", "other-b", "others"] {
        rig.store
            .create_bucket(&make(name), "us-west-2")
            .await
            .expect("made");
    }
    let all = others("s3:ListAllMyBuckets", Resource::Buckets);
    let names = |listing: super::BucketListing| {
        let names = listing.buckets.into_iter().map(|bucket| bucket.name);
        (names.collect::<Vec<_>>(), listing.next)
    };
    let mut asked = BucketsRequest {
        prefix: "other-".to_owned(),
        buckets_max: 1,
        ..BucketsRequest::default()
    };
    let first = names(rig.store.list_buckets(&all, &asked).await.expect("lists"));
    assert_eq!(
        first,
        (vec!["other-a".to_owned()], Some("other-a".to_owned()))
    );
    asked.after = "other-a".to_owned();
    let second = names(rig.store.list_buckets(&all, &asked).await.expect("lists"));
    assert_eq!(second, (vec!["other-b".to_owned()], None));
    asked = BucketsRequest {
        region: Some("eu-west-1".to_owned()),
        ..all_buckets()
    };
    let elsewhere = names(rig.store.list_buckets(&all, &asked).await.expect("lists"));
    assert_eq!(elsewhere, (Vec::new(), None));

    // At the limit, and one below it: deleting makes room.
    let other = AccountId::parse(OTHER).expect("twelve digits");
    let full = u32::try_from(super::BUCKETS_OF_ACCOUNT_MAX).expect("small");
    rig.write(buckets_row(&other), codec::encode(&full)).await;
    let refused = rig.store.create_bucket(&make("more"), "r").await;
    assert!(
        matches!(refused, Err(StoreError::TooManyBuckets)),
        "{refused:?}"
    );
    rig.create_bucket("mine-still").await;
    let proof = may_in(
        &rig.store,
        "s3:DeleteBucket",
        Resource::Bucket("others".into()),
    )
    .await;
    rig.store.delete_bucket(&proof).await.expect("deleted");
    rig.store
        .create_bucket(&make("more"), "r")
        .await
        .expect("made");
    let refused = rig.store.create_bucket(&make("too-many"), "r").await;
    assert!(
        matches!(refused, Err(StoreError::TooManyBuckets)),
        "{refused:?}"
    );
}
