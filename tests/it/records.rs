//! What an adversary with write access to the metadata can do to objects: nothing unnoticed. On a real token.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use strongroom::auth::policy::Side;
use strongroom::auth::{Action, Authorised, Resource, authorise};
use strongroom::clock::SystemClock;
use strongroom::kms::EncryptionContext;
use strongroom::meta::{Batch, codec};
use strongroom::server::{Parts, Server};
use strongroom::store::record::{
    BucketKeyId, ChecksumAlgorithm, Headers, ManifestRecord, ObjectName, ObjectRecord, SseRecord,
};
use strongroom::store::{
    Incoming, KeyAccess, PutRequest, Selection, SseTarget, StoreError, WriteConditions,
};

use crate::support::{self, House, caller};

const BUCKET: &str = "vault";

async fn kms_target(parts: &Parts, bucket_key: bool) -> SseTarget {
    let key = parts
        .kms
        .resolve_default_s3_key(parts.kms.account())
        .await
        .expect("a key");
    let resource = Resource::KmsKey(key.as_str().to_owned());
    let proof = proof("kms:GenerateDataKey", resource);
    SseTarget::Kms {
        proof,
        key,
        context: EncryptionContext::default(),
        caller_context: Vec::new(),
        bucket_key,
    }
}

fn proof(action: &'static str, resource: Resource) -> Authorised {
    authorise(
        &caller(),
        Action(action),
        resource,
        Side::None,
        |_values| {},
    )
    .expect("root may")
}

/// Root's proof about a bucket that is there, or an object in it.
async fn proof_in(parts: &Parts, action: &'static str, resource: Resource) -> Authorised {
    let (Resource::Bucket(name) | Resource::Object(name, _)) = &resource else {
        unreachable!("of a bucket");
    };
    let access = parts.store.bucket_access(name).await.expect("reads");
    let access = access.expect("a bucket");
    let side = Side::Bucket {
        bucket: access.bucket,
        owner: &access.owner,
        policy: None,
    };
    authorise(&caller(), Action(action), resource, side, |_values| {}).expect("root may")
}

async fn object(parts: &Parts, action: &'static str, key: &str) -> Authorised {
    proof_in(parts, action, Resource::Object(BUCKET.into(), key.into())).await
}

async fn put(parts: &Parts, key: &str, sse: SseTarget) {
    let body = bytes::Bytes::from(format!("the bytes of {key}"));
    let incoming = Incoming {
        stream: stream::iter([Ok(body)]).boxed(),
        content_md5: None,
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        claimed: None,
        expected: Box::new(|| Ok(None)),
    };
    let request = PutRequest {
        proof: object(parts, "s3:PutObject", key).await,
        sse,
        headers: Headers::default(),
        conditions: WriteConditions::default(),
        incoming,
    };
    parts.store.put(request).await.expect("written");
}

async fn get(parts: &Parts, key: &str) -> Result<Vec<u8>, StoreError> {
    let proven = object(parts, "s3:GetObject", key).await;
    let located = parts.store.locate(&proven).await?;
    let access = match &located.record().sse {
        SseRecord::Kms(arn) => {
            let resource = Resource::KmsKey(arn.clone());
            let proof = proof("kms:Decrypt", resource);
            KeyAccess::Kms {
                proof,
                context: EncryptionContext::default(),
            }
        }
        _ => KeyAccess::Plain,
    };
    let mut body = parts
        .store
        .open(&located, &access, Selection::Whole)
        .await?
        .body;
    let mut bytes = Vec::new();
    while let Some(frame) = body.next().await {
        bytes.extend(frame?);
    }
    Ok(bytes)
}

async fn load(parts: &Parts, row: &[u8]) -> Vec<u8> {
    parts
        .meta
        .snapshot()
        .await
        .expect("a snapshot")
        .load(row)
        .await
        .expect("reads")
        .expect("a row")
}

async fn store(parts: &Parts, rows: &[(Vec<u8>, Vec<u8>)]) {
    let batch = rows.iter().fold(Batch::new(), |batch, (row, value)| {
        batch.put(row.clone(), value.clone())
    });
    parts.meta.commit(batch).await.expect("written");
}

#[test]
fn rows_that_are_swapped_or_changed_are_found() {
    let Some(config) = support::config() else {
        return House::new().run_again("records::rows_that_are_swapped_or_changed_are_found");
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = Server::start(config, Arc::new(SystemClock))
            .await
            .expect("starts");
        let parts = server.parts().clone();
        parts
            .store
            .create_bucket(
                &proof("s3:CreateBucket", Resource::Bucket(BUCKET.into())),
                "us-west-2",
            )
            .await
            .expect("made");
        for kind in ["s3", "kms", "bucket-key"] {
            for name in ["one", "two"] {
                let sse = if kind == "s3" {
                    SseTarget::S3
                } else {
                    kms_target(&parts, kind == "bucket-key").await
                };
                put(&parts, &format!("{kind}/{name}"), sse).await;
            }
            tamper(&parts, &format!("{kind}/one"), &format!("{kind}/two")).await;
        }
        parts.groups.shutdown().await;
    });
}

async fn tamper(parts: &Parts, one: &str, two: &str) {
    let listing = Resource::Bucket(BUCKET.into());
    let listing = proof_in(parts, "s3:ListBucket", listing).await;
    let bucket = parts.store.load_bucket(&listing).await.expect("there");
    let names = [one, two].map(|key| ObjectName::new(&bucket, key).expect("short"));
    let [object_1, object_2] = names.each_ref().map(ObjectName::object_row);
    let [manifest_1, manifest_2] = names.each_ref().map(ObjectName::manifest_row);
    let mut originals = Vec::new();
    for row in [&object_1, &object_2, &manifest_1, &manifest_2] {
        originals.push((row.clone(), load(parts, row).await));
    }
    let [(_, clear_1), (_, clear_2), (_, value_1), (_, value_2)] = originals.as_slice() else {
        unreachable!("four rows")
    };
    let sealed_1: ManifestRecord = codec::decode("manifest", value_1).expect("reads");
    let sealed_2: ManifestRecord = codec::decode("manifest", value_2).expect("reads");
    let with_key = |manifest: &ManifestRecord, key: &ManifestRecord| {
        codec::encode(&ManifestRecord {
            key: key.key.clone(),
            ..manifest.clone()
        })
    };
    let record: ObjectRecord = codec::decode("object", clear_1).expect("reads");
    let changed = |record: ObjectRecord| vec![(object_1.clone(), codec::encode(&record))];
    let other_body: ObjectRecord = codec::decode("object", clear_2).expect("reads");
    let attacks = [
        // The wrapped keys alone.
        vec![
            (manifest_1.clone(), with_key(&sealed_1, &sealed_2)),
            (manifest_2.clone(), with_key(&sealed_2, &sealed_1)),
        ],
        // The manifests with their keys.
        vec![
            (manifest_1.clone(), value_2.clone()),
            (manifest_2.clone(), value_1.clone()),
        ],
        // Everything of the two objects.
        vec![
            (manifest_1.clone(), value_2.clone()),
            (manifest_2.clone(), value_1.clone()),
            (object_1.clone(), clear_2.clone()),
            (object_2.clone(), clear_1.clone()),
        ],
        changed(ObjectRecord {
            size: record.size - 1,
            ..record.clone()
        }),
        changed(ObjectRecord {
            etag: "0".repeat(32),
            ..record.clone()
        }),
        changed(ObjectRecord {
            body: other_body.body,
            ..record.clone()
        }),
        changed(ObjectRecord {
            checksum: None,
            ..record.clone()
        }),
        changed(ObjectRecord {
            bucket_key: Some(BucketKeyId::from_bytes([0; 16])),
            ..record.clone()
        }),
    ];
    for (number, attack) in attacks.iter().enumerate() {
        store(parts, attack).await;
        let outcome = get(parts, one).await;
        assert!(
            outcome.is_err(),
            "attack {number} on {one}: {:?}",
            outcome.map(String::from_utf8)
        );
        store(parts, &originals).await;
        for key in [one, two] {
            assert_eq!(
                get(parts, key).await.expect("whole again"),
                format!("the bytes of {key}").into_bytes()
            );
        }
    }
}
