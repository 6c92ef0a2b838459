//! Tests of buckets through the store, over a token in memory.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::bucket_key_tests::{BUCKET, Rig, incoming, may, may_in, may_object};
use super::record::{ChecksumAlgorithm, ChecksumKind, DefaultEncryption, Headers};
use super::{ListRequest, PutRequest, SseTarget, Store, StoreError, WriteConditions};
use crate::auth::{Authorised, Resource};

/// A use of a bucket by a proof.
type Use = for<'a> fn(&'a Store, Authorised) -> BoxFuture<'a, Result<(), StoreError>>;

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
        async move { store.put_bucket_policy(&proof, Some(POLICY)).await }.boxed()
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
