//! The index against the records, over a token in memory and files on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{HsmGroup, HsmHandle, HsmSettings};

use super::{
    BUILD_ROWS, DependantIndex, DependantRecord, Dependency, IndexRecord, Kind, add_upload,
    build_step, dependency, index_bucket_key, index_object, marker_row, named,
};
use crate::auth::policy::Side;
use crate::auth::{AccountId, Action, Authorised, Principal, RequestContext, Resource, authorise};
use crate::blob::FsBlobs;
use crate::clock::SystemClock;
use crate::kms::{
    Dependants as _, Dependent, EncryptionContext, KeyArn, Kms, KmsError, KmsSettings, NewKey,
    NewRewrap, Rewrap, RewrapState, Scope, WRAP_COUNT_BLOCK_DEFAULT,
    WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
};
use crate::meta::{Batch, KeyRange, Meta, RedbMeta, Row, codec, table};
use crate::store::record::{
    ChecksumAlgorithm, ChecksumKind, Headers, KeptContext, KeyRecord, ManifestRecord, ObjectRecord,
    SseRecord, UploadRecord,
};
use crate::store::rewrap::Turn;
use crate::store::{
    CompletePart, CompleteRequest, CopyRequest, CustomerKey, Incoming, KeyAccess, PutRequest,
    Selection, SseTarget, Store, StoreError, StoreSettings, UpdateRequest, WriteConditions,
};

const BUCKETS: [&str; 2] = ["cellar", "vault"];
/// An object key with the bytes that rows escape.
const KEYS: [&str; 5] = ["a", "a\0b", "a/c", "b", "ü"];

/// A data plane and all that it stands on.
struct Rig {
    store: Store,
    kms: Arc<Kms>,
    meta: Arc<dyn Meta>,
    index: DependantIndex,
    keys: Vec<KeyArn>,
    _directory: tempfile::TempDir,
}

fn caller() -> RequestContext {
    let account = AccountId::parse("123456789012").expect("twelve digits");
    RequestContext::new(Principal::root(account, "AKIATEST"), "request-1")
}

fn may(action: &'static str, resource: Resource) -> Authorised {
    authorise(
        &caller(),
        Action(action),
        resource,
        Side::None,
        |_values| {},
    )
    .expect("root may")
}

fn may_key(action: &'static str, key: &str) -> Authorised {
    may(action, Resource::KmsKey(key.to_owned()))
}

fn rewrap_proofs(new: &NewRewrap) -> [Authorised; 3] {
    [
        may_key("kms:StartRewrap", new.from.as_str()),
        may_key("kms:ReEncryptFrom", new.from.as_str()),
        may_key("kms:ReEncryptTo", new.to.as_str()),
    ]
}

/// Root's proof about a bucket that is there, or an object in it.
async fn may_in(store: &Store, action: &'static str, resource: Resource) -> Authorised {
    may_in_as(&caller(), store, action, resource).await
}

async fn may_in_as(
    caller: &RequestContext,
    store: &Store,
    action: &'static str,
    resource: Resource,
) -> Authorised {
    let (Resource::Bucket(name) | Resource::Object(name, _)) = &resource else {
        unreachable!("of a bucket");
    };
    let access = store.bucket_access(name).await.expect("reads");
    let access = access.expect("a bucket");
    let side = Side::Bucket {
        bucket: access.bucket,
        owner: &access.owner,
        policy: None,
    };
    authorise(caller, Action(action), resource, side, |_values| {}).expect("root may")
}

async fn object(store: &Store, action: &'static str, bucket: &str, key: &str) -> Authorised {
    let resource = Resource::Object(bucket.to_owned(), key.to_owned());
    may_in(store, action, resource).await
}

fn context(bucket_key: bool, bucket: &str, key: &str) -> EncryptionContext {
    let arn = if bucket_key {
        format!("arn:aws:s3:::{bucket}")
    } else {
        format!("arn:aws:s3:::{bucket}/{key}")
    };
    EncryptionContext::from_map([("aws:s3:arn".to_owned(), arn)].into()).expect("short")
}

fn incoming(body: Vec<u8>) -> Incoming {
    Incoming {
        stream: stream::iter([Ok(body.into())]).boxed(),
        content_md5: None,
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        claimed: None,
        expected: Box::new(|| Ok(None)),
    }
}

impl Rig {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let meta: Arc<dyn Meta> =
            Arc::new(RedbMeta::open(&directory.path().join("meta")).expect("a store"));
        let blobs = FsBlobs::open(&directory.path().join("blobs")).expect("a store");
        let hsm = HsmSettings {
            workers: 2,
            queue: 256,
            deadline: Duration::from_secs(5),
            verify_wraps: true,
        };
        let hsm = HsmHandle::start(Arc::new(MemoryToken::new()), hsm).expect("workers");
        let settings = KmsSettings {
            account: AccountId::parse("123456789012").expect("twelve digits"),
            region: "us-west-2".to_owned(),
            wraps_per_backing_key_max: WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
            wrap_count_block: WRAP_COUNT_BLOCK_DEFAULT,
            keys_per_account_max: crate::kms::KEYS_PER_ACCOUNT_MAX_DEFAULT,
        };
        let index = DependantIndex::new(Arc::clone(&meta));
        let kms = Kms::new(
            Arc::clone(&meta),
            HsmGroup::from(hsm),
            Arc::new(SystemClock),
            settings,
        );
        let kms = Arc::new(kms.with_dependants(Arc::new(index.clone()), false));
        let store = Store::new(
            Arc::clone(&meta),
            Arc::new(blobs),
            Arc::clone(&kms),
            Arc::new(SystemClock),
            StoreSettings::default(),
        );
        let mut keys = Vec::new();
        for _ in 0..2 {
            let proof = may("kms:CreateKey", Resource::Service);
            keys.push(
                kms.create_key(&proof, NewKey::default())
                    .await
                    .expect("a key")
                    .arn,
            );
        }
        for bucket in BUCKETS {
            let proof = may("s3:CreateBucket", Resource::Bucket(bucket.to_owned()));
            store
                .create_bucket(&proof, "us-west-2")
                .await
                .expect("a bucket");
        }
        Self {
            store,
            kms,
            meta,
            index,
            keys,
            _directory: directory,
        }
    }

    fn key(&self, number: usize) -> &KeyArn {
        self.keys.get(number).expect("one of two")
    }

    fn kms_target(&self, number: usize, bucket_key: bool, bucket: &str, key: &str) -> SseTarget {
        let arn = self.key(number);
        SseTarget::Kms {
            proof: may_key("kms:GenerateDataKey", arn.as_str()),
            key: arn.clone(),
            context: context(bucket_key, bucket, key),
            caller_context: Vec::new(),
            bucket_key,
        }
    }

    fn access(sse: &SseRecord, kept: KeptContext<'_>, bucket: &str, key: &str) -> KeyAccess {
        match sse {
            SseRecord::S3 => KeyAccess::Plain,
            SseRecord::Customer => KeyAccess::Customer(CustomerKey::new(Box::new([7; 32]))),
            SseRecord::Kms(arn) => KeyAccess::Kms {
                proof: may_key("kms:Decrypt", arn),
                context: context(kept.bucket_key, bucket, key),
            },
        }
    }

    fn target(&self, dice: &mut Dice, bucket: &str, key: &str) -> SseTarget {
        match dice.below(6) {
            0 => SseTarget::S3,
            1 => SseTarget::Customer(CustomerKey::new(Box::new([7; 32]))),
            number => self.kms_target(number % 2, number > 3, bucket, key),
        }
    }

    async fn put(&self, bucket: &str, key: &str, sse: SseTarget, bytes: usize) {
        let request = PutRequest {
            proof: object(&self.store, "s3:PutObject", bucket, key).await,
            sse,
            headers: Headers::default(),
            conditions: WriteConditions::default(),
            incoming: incoming(vec![7; bytes]),
        };
        self.store.put(request).await.expect("written");
    }

    async fn copy(&self, (from, key): (&str, &str), (to, name): (&str, &str), sse: SseTarget) {
        let Ok(source) = self
            .store
            .locate(&object(&self.store, "s3:GetObject", from, key).await)
            .await
        else {
            return;
        };
        let access = Self::access(&source.record().sse, source.caller_context(), from, key);
        let request = CopyRequest {
            source,
            access,
            proof: object(&self.store, "s3:PutObject", to, name).await,
            sse,
            headers: None,
            algorithm: None,
            conditions: WriteConditions::default(),
        };
        self.store.copy(request).await.expect("copied");
    }

    async fn update(&self, bucket: &str, key: &str, number: usize) -> Result<(), StoreError> {
        let proof = object(&self.store, "s3:UpdateObjectEncryption", bucket, key).await;
        let source = self.store.locate(&proof).await?;
        let access = Self::access(&source.record().sse, source.caller_context(), bucket, key);
        let sse = self.kms_target(number % 2, number > 1, bucket, key);
        self.store
            .update_encryption(UpdateRequest {
                source,
                proof,
                access,
                sse,
            })
            .await
    }

    /// An upload that is left, aborted or completed.
    async fn upload(&self, dice: &mut Dice, bucket: &str, key: &str) {
        let proof = object(&self.store, "s3:PutObject", bucket, key).await;
        let sse = self.target(dice, bucket, key);
        let kind = ChecksumKind {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            composite: false,
        };
        let id = self
            .store
            .create_upload(&proof, &sse, Headers::default(), (kind, false))
            .await
            .expect("begun");
        let upload = self
            .store
            .locate_upload(&proof, &hex::encode(id))
            .await
            .expect("there");
        match dice.below(3) {
            0 => {}
            1 => self.store.abort_upload(&upload).await.expect("aborted"),
            _ => {
                let access =
                    Self::access(&upload.record().sse, upload.caller_context(), bucket, key);
                let (part, _) = self
                    .store
                    .put_part(&upload, &access, 1, incoming(vec![7; 11]))
                    .await
                    .expect("sent");
                // A re-wrap between the parts and the end: the completion works with what it found before.
                self.rewrap(&NewRewrap {
                    from: self.key(0).clone(),
                    material: None,
                    to: self.key(1).clone(),
                    scope: Scope::default(),
                    rate: None,
                })
                .await;
                let request = CompleteRequest {
                    upload,
                    access,
                    parts: vec![CompletePart {
                        number: 1,
                        etag: part.etag,
                        checksum: None,
                    }],
                    checksum: None,
                    size: None,
                    conditions: WriteConditions::default(),
                };
                self.store
                    .complete_upload(request)
                    .await
                    .expect("completed");
            }
        }
    }

    async fn run_rewrap(&self, new: &NewRewrap) -> Rewrap {
        let proofs = rewrap_proofs(new);
        let id = self
            .kms
            .start_rewrap(proofs.each_ref(), new)
            .await
            .expect("begun")
            .id;
        let lease = self.kms.claim_rewrap(false).await.expect("records");
        self.store
            .rewrap_or_postpone(lease.expect("a re-wrap"))
            .await;
        self.kms.find_rewrap(id).await.expect("there")
    }

    async fn rewrap(&self, new: &NewRewrap) {
        let rewrap = self.run_rewrap(new).await;
        assert_eq!(rewrap.state, RewrapState::Completed);
        assert_eq!(rewrap.remaining, Some(Dependent::default()));
        assert_eq!(rewrap.counts.failed, 0);
    }

    async fn rows(&self, range: KeyRange) -> Vec<Row> {
        let snapshot = self.meta.snapshot().await.expect("a snapshot");
        snapshot.scan(&range, 100_000).await.expect("rows")
    }

    /// The index as it is.
    async fn indexed(&self) -> BTreeSet<Row> {
        let rows = self.rows(KeyRange::prefix(&[table::DEPENDANT])).await;
        rows.into_iter()
            .filter(|(row, _)| *row != marker_row())
            .collect()
    }

    /// The index as the records say it should be.
    async fn expected(&self) -> BTreeSet<Row> {
        let mut batch = Batch::new();
        let snapshot = self.meta.snapshot().await.expect("a snapshot");
        for (row, value) in self.rows(KeyRange::prefix(&[table::MANIFEST])).await {
            let manifest: ManifestRecord = codec::decode("manifest", &value).expect("reads");
            let name = named(&row).expect("a name");
            let object = snapshot.load(&name.object_row()).await.expect("reads");
            let object = object.expect("a manifest is of an object");
            let object: ObjectRecord = codec::decode("object", &object).expect("reads");
            batch = batch.and(index_object(
                &name,
                None,
                Some((&manifest.key, object.size)),
            ));
        }
        for (row, value) in self.rows(KeyRange::prefix(&[table::UPLOAD])).await {
            batch = batch.and(add_upload(&row, &value).expect("reads").unwrap_or_default());
        }
        for (row, value) in self.rows(KeyRange::prefix(&[table::BUCKET_KEY])).await {
            let record = codec::decode("bucket key", &value).expect("reads");
            let (bucket, id) = row[1..].split_first_chunk().expect("a bucket");
            let id = id.try_into().expect("an id");
            let on = super::dependency_of_bucket_key(&record);
            batch = batch.and(index_bucket_key(bucket, id, None, on));
        }
        let puts = batch.writes().iter().map(|write| match write {
            crate::meta::Write::Put(row, value) => (row.clone(), value.clone()),
            crate::meta::Write::Delete(_) => unreachable!("nothing is taken out"),
        });
        puts.collect()
    }

    async fn delete_index(&self) {
        let mut batch = Batch::new();
        for (row, _) in self.rows(KeyRange::prefix(&[table::DEPENDANT])).await {
            batch = batch.delete(row);
        }
        self.meta.commit(batch).await.expect("deleted");
    }
}

/// Numbers that are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        usize::try_from(z % sides as u64).expect("small")
    }

    fn one_of(&mut self, of: &[&'static str]) -> &'static str {
        of.get(self.below(of.len())).expect("one of them")
    }
}

#[tokio::test]
async fn the_index_is_what_the_records_say_after_any_operations() {
    let rig = Rig::new().await;
    let mut dice = Dice(1);
    for round in 0..150 {
        let (bucket, key) = (dice.one_of(&BUCKETS), dice.one_of(&KEYS));
        match dice.below(12) {
            0..4 => {
                let (sse, bytes) = (rig.target(&mut dice, bucket, key), dice.below(100));
                rig.put(bucket, key, sse, bytes).await;
            }
            4 | 5 => {
                let (from, name) = (dice.one_of(&BUCKETS), dice.one_of(&KEYS));
                let sse = rig.target(&mut dice, bucket, key);
                rig.copy((from, name), (bucket, key), sse).await;
            }
            6 => {
                let sse = rig.target(&mut dice, bucket, key);
                rig.copy((bucket, key), (bucket, key), sse).await;
            }
            7 => {
                let proof = object(&rig.store, "s3:DeleteObject", bucket, key).await;
                rig.store.delete(&proof, None).await.expect("deleted");
            }
            8 => {
                let updated = rig.update(bucket, key, dice.below(4)).await;
                assert!(matches!(
                    updated,
                    Ok(()) | Err(StoreError::NoSuchKey(_) | StoreError::InvalidRequest(_))
                ));
            }
            9 => {
                let (number, prefix) = (dice.below(2), dice.one_of(&["", "a"]));
                rig.rewrap(&NewRewrap {
                    from: rig.key(number).clone(),
                    material: None,
                    to: rig.key(1 - number).clone(),
                    scope: Scope {
                        bucket: Some(bucket.to_owned()),
                        prefix: prefix.to_owned(),
                        ..Scope::default()
                    },
                    rate: None,
                })
                .await;
            }
            10 if round % 3 == 0 => {
                let key = rig.key(dice.below(2));
                let proof = may_key("kms:RotateKeyOnDemand", key.as_str());
                // At some time it has been rotated as often as it may.
                let _rotated = rig.kms.rotate_key_on_demand(&proof, key).await;
            }
            _ => rig.upload(&mut dice, bucket, key).await,
        }
        assert_eq!(rig.indexed().await, rig.expected().await, "round {round}");
    }
    assert!(rig.indexed().await.len() > 10, "the test does something");

    // What it answers adds up to what there is.
    let mut total = Dependent::default();
    for key in &rig.keys {
        let proof = may_key("kms:GetKeyUsage", key.as_str());
        let usage = rig.kms.key_usage(&proof, key).await.expect("counts");
        let mut by_material = Dependent::default();
        for material in &usage.materials {
            by_material.add(material.dependent);
        }
        let mut by_bucket = Dependent::default();
        for bucket in usage.buckets.values() {
            by_bucket.add(*bucket);
        }
        assert_eq!((by_material, by_bucket), (usage.total, usage.total));
        total.add(usage.total);
    }
    let mut under_kms = 0;
    for (_, value) in rig.rows(KeyRange::prefix(&[table::OBJECT])).await {
        let object: ObjectRecord = codec::decode("object", &value).expect("reads");
        under_kms += u64::from(matches!(object.sse, SseRecord::Kms(_)));
    }
    for (_, value) in rig.rows(KeyRange::prefix(&[table::UPLOAD])).await {
        let upload: UploadRecord = codec::decode("upload", &value).expect("reads");
        under_kms += u64::from(matches!(upload.sse, SseRecord::Kms(_)));
    }
    assert_eq!(total.objects + total.uploads, under_kms);

    // Everything still reads.
    for bucket in BUCKETS {
        for key in KEYS {
            let proof = object(&rig.store, "s3:GetObject", bucket, key).await;
            let Ok(located) = rig.store.locate(&proof).await else {
                continue;
            };
            let access = Rig::access(&located.record().sse, located.caller_context(), bucket, key);
            let reading = rig.store.open(&located, &access, Selection::Whole).await;
            let mut body = reading.expect("opens").body;
            let mut bytes = 0;
            while let Some(frame) = body.next().await {
                bytes += frame.expect("reads").len() as u64;
            }
            assert_eq!(bytes, located.record().size);
        }
    }

    // A store without an index gets the same one.
    let before = rig.indexed().await;
    rig.delete_index().await;
    rig.store.build_index().await.expect("built");
    assert_eq!(rig.indexed().await, before);
}

#[tokio::test]
async fn an_index_that_was_begun_is_finished_and_one_that_is_there_is_left_alone() {
    let rig = Rig::new().await;
    for number in 0..BUILD_ROWS + 30 {
        let key = format!("{number:04}");
        rig.put("vault", &key, rig.kms_target(0, false, "vault", &key), 1)
            .await;
    }
    let proof = object(&rig.store, "s3:PutObject", "vault", "m").await;
    let kind = ChecksumKind {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        composite: false,
    };
    rig.store
        .create_upload(
            &proof,
            &rig.kms_target(1, false, "vault", "m"),
            Headers::default(),
            (kind, false),
        )
        .await
        .expect("begun");
    let whole = rig.indexed().await;
    assert_eq!(whole.len(), BUILD_ROWS + 31);

    // A crash after the first step: the second process goes on behind it.
    rig.delete_index().await;
    let mut progress = IndexRecord {
        complete: false,
        cursor: vec![table::MANIFEST],
    };
    let snapshot = rig.meta.snapshot().await.expect("a snapshot");
    let step = build_step(&*snapshot, &mut progress).await.expect("a step");
    drop(snapshot);
    assert_eq!(step.dependants, BUILD_ROWS);
    let marked = step.batch.put(marker_row(), codec::encode(&progress));
    rig.meta.commit(marked).await.expect("committed");
    rig.store.build_index().await.expect("built");
    assert_eq!(rig.indexed().await, whole);

    // Done is done: what is complete is not read again.
    let (row, _) = whole.first().expect("rows").clone();
    rig.meta
        .commit(Batch::new().delete(row))
        .await
        .expect("deleted");
    rig.store.build_index().await.expect("nothing to do");
    assert_eq!(rig.indexed().await.len(), whole.len() - 1);
}

#[tokio::test]
async fn a_record_that_does_not_read_is_left_out_and_keeps_no_store_from_starting() {
    let rig = Rig::new().await;
    for key in ["a", "b"] {
        rig.put("vault", key, rig.kms_target(0, false, "vault", key), 1)
            .await;
    }
    let whole = rig.indexed().await;
    rig.delete_index().await;
    let manifests = rig.rows(KeyRange::prefix(&[table::MANIFEST])).await;
    let (row, _) = manifests.first().expect("two").clone();
    rig.meta
        .commit(Batch::new().put(row, b"damage".as_slice()))
        .await
        .expect("committed");
    rig.store.build_index().await.expect("built");
    assert_eq!(rig.indexed().await.len(), whole.len() - 1);
    // It can be replaced and deleted all the same.
    rig.put("vault", "a", rig.kms_target(0, false, "vault", "a"), 1)
        .await;
    assert_eq!(rig.indexed().await, whole);
}

#[tokio::test]
async fn what_hangs_on_a_bucket_key_hangs_on_the_key_that_wraps_it() {
    let rig = Rig::new().await;
    rig.put("vault", "a", rig.kms_target(0, false, "vault", "a"), 5)
        .await;
    let vault = Resource::Bucket("vault".to_owned());
    let proof = may_in(&rig.store, "s3:ListBucket", vault).await;
    let bucket = rig.store.load_bucket(&proof).await.expect("there").uuid;
    let id = [9; 16];
    let parent = Dependency::Kms(rig.key(0).key_id(), 1);
    let value = |bytes| codec::encode(&DependantRecord { bytes });
    let mut batch = index_bucket_key(&bucket, &id, None, Some(parent));
    for (number, bytes) in [(1, 100), (2, 1000)] {
        let child = Dependency::BucketKey(id).row(&bucket, Kind::Object, &[number]);
        batch = batch.put(child, value(bytes));
    }
    rig.meta.commit(batch).await.expect("committed");
    let usage = |scope: Scope| {
        let index = rig.index.clone();
        let key = rig.key(0).key_id();
        async move {
            index
                .usage(key, 0..=u32::MAX, &scope)
                .await
                .expect("counts")
        }
    };
    let all = usage(Scope::default()).await;
    let expected = Dependent {
        objects: 3,
        bytes: 1105,
        uploads: 0,
    };
    assert_eq!(all.total(), expected);
    assert_eq!(
        all.buckets,
        BTreeMap::from([("vault".to_owned(), expected)])
    );
    let within = Scope {
        bucket: Some("vault".to_owned()),
        prefix: String::new(),
        ..Scope::default()
    };
    assert_eq!(usage(within).await.total(), expected);
    // It moves and goes as a whole.
    let newer = Dependency::Kms(rig.key(0).key_id(), 2);
    let moved = index_bucket_key(&bucket, &id, Some(parent), Some(newer));
    rig.meta.commit(moved).await.expect("committed");
    let by_version = usage(Scope::default()).await.versions;
    assert_eq!(
        [1, 2].map(|version| by_version.get(&version).map(|found| found.objects)),
        [Some(1), Some(2)]
    );
    let gone = index_bucket_key(&bucket, &id, Some(newer), None);
    rig.meta.commit(gone).await.expect("committed");
    assert_eq!(usage(Scope::default()).await.total().objects, 1);
    let elsewhere = Scope {
        bucket: Some("cellar".to_owned()),
        prefix: String::new(),
        ..Scope::default()
    };
    assert_eq!(usage(elsewhere).await.total(), Dependent::default());
}

#[tokio::test]
async fn a_scope_is_found_among_many_versions_and_neighbours() {
    let rig = Rig::new().await;
    let key = rig.key(0).clone();
    for version in 1..=3 {
        for bucket in BUCKETS {
            for (number, prefix) in ["a", "aa", "ab", "b"].iter().enumerate() {
                let name = format!("{prefix}/{version}");
                rig.put(
                    bucket,
                    &name,
                    rig.kms_target(0, false, bucket, &name),
                    10 + number,
                )
                .await;
            }
        }
        if version < 3 {
            let proof = may_key("kms:RotateKeyOnDemand", key.as_str());
            rig.kms
                .rotate_key_on_demand(&proof, &key)
                .await
                .expect("rotated");
        }
    }
    let count = |bucket: &str, prefix: &str, versions| {
        let scope = Scope {
            bucket: Some(bucket.to_owned()),
            prefix: prefix.to_owned(),
            ..Scope::default()
        };
        let index = rig.index.clone();
        let key = key.key_id();
        async move {
            let total = index
                .usage(key, versions, &scope)
                .await
                .expect("counts")
                .total();
            (total.objects, total.bytes)
        }
    };
    assert_eq!(count("vault", "", 0..=u32::MAX).await, (12, 138));
    assert_eq!(count("vault", "a", 0..=u32::MAX).await, (9, 99));
    assert_eq!(count("vault", "a/", 0..=u32::MAX).await, (3, 30));
    assert_eq!(count("cellar", "aa", 2..=2).await, (1, 11));
    assert_eq!(count("cellar", "aa", 2..=3).await, (2, 22));
    assert_eq!(count("cellar", "c", 0..=u32::MAX).await, (0, 0));
    assert_eq!(count("cellar", "", 4..=9).await, (0, 0));
}

#[tokio::test]
async fn a_range_is_empty_as_soon_as_nothing_depends_on_its_key() {
    let rig = Rig::new().await;
    let range = rig.index.rows(rig.key(0).key_id());
    assert!(rig.rows(range.clone()).await.is_empty());
    rig.put("vault", "a", rig.kms_target(0, false, "vault", "a"), 5)
        .await;
    assert_eq!(rig.rows(range.clone()).await.len(), 1);
    let proof = object(&rig.store, "s3:DeleteObject", "vault", "a").await;
    rig.store.delete(&proof, None).await.expect("deleted");
    assert!(rig.rows(range).await.is_empty());
}

#[test]
fn what_a_customer_key_wraps_hangs_on_nothing_of_ours() {
    assert_eq!(dependency(&KeyRecord::Customer(vec![1; 61])), None);
    assert_eq!(dependency(&KeyRecord::S3(vec![9])), None);
    assert_eq!(dependency(&KeyRecord::Kms(vec![9], Vec::new())), None);
}

#[tokio::test]
async fn what_hangs_on_a_bucket_key_moves_to_new_ones_and_the_old_one_goes() {
    let rig = Rig::new().await;
    // More than one page of them, and an upload.
    for number in 0..300 {
        let key = format!("{number}");
        rig.put("vault", &key, rig.kms_target(0, true, "vault", &key), 1)
            .await;
    }
    let proof = object(&rig.store, "s3:PutObject", "vault", "large").await;
    let kind = ChecksumKind {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        composite: false,
    };
    let sse = rig.kms_target(0, true, "vault", "large");
    rig.store
        .create_upload(&proof, &sse, Headers::default(), (kind, false))
        .await
        .expect("begun");
    let old = rig.rows(KeyRange::prefix(&[table::BUCKET_KEY])).await;
    assert_eq!(old.len(), 1);
    rig.rewrap(&NewRewrap {
        from: rig.key(0).clone(),
        material: None,
        to: rig.key(1).clone(),
        scope: Scope::default(),
        rate: None,
    })
    .await;
    let new = rig.rows(KeyRange::prefix(&[table::BUCKET_KEY])).await;
    assert!((1..=4).contains(&new.len()) && !new.contains(&old[0]));
    for (_, value) in new {
        let record = codec::decode("bucket key", &value).expect("reads");
        assert!(matches!(
            super::dependency_of_bucket_key(&record),
            Some(Dependency::Kms(key, _)) if key == rig.key(1).key_id()
        ));
    }
    assert_eq!(rig.indexed().await, rig.expected().await);
    for number in 0..300 {
        let key = format!("{number}");
        let located = rig
            .store
            .locate(&object(&rig.store, "s3:GetObject", "vault", &key).await)
            .await
            .expect("there");
        assert!(located.record().says_bucket_key());
        let access = Rig::access(
            &located.record().sse,
            located.caller_context(),
            "vault",
            &key,
        );
        let reading = rig.store.open(&located, &access, Selection::Whole).await;
        reading.expect("opens");
    }
}

#[tokio::test]
async fn a_prefix_is_counted_and_moved_among_what_hangs_on_one_bucket_key() {
    let rig = Rig::new().await;
    for (key, bytes) in [("a/1", 10), ("a/2", 20), ("b/1", 100)] {
        rig.put("vault", key, rig.kms_target(0, true, "vault", key), bytes)
            .await;
    }
    let scope = Scope {
        bucket: Some("vault".to_owned()),
        prefix: "a/".to_owned(),
        ..Scope::default()
    };
    let count = async |number: usize, scope: &Scope| {
        let key = rig.key(number).key_id();
        let usage = rig.index.usage(key, 0..=u32::MAX, scope).await;
        let total = usage.expect("counts").total();
        (total.objects, total.bytes)
    };
    assert_eq!(count(0, &scope).await, (2, 30));
    rig.rewrap(&NewRewrap {
        from: rig.key(0).clone(),
        material: None,
        to: rig.key(1).clone(),
        scope: scope.clone(),
        rate: None,
    })
    .await;
    assert_eq!(count(0, &scope).await, (0, 0));
    assert_eq!(count(0, &Scope::default()).await, (1, 100));
    assert_eq!(count(1, &Scope::default()).await, (2, 30));
    assert_eq!(rig.indexed().await, rig.expected().await);
}

#[tokio::test]
async fn by_its_key_alone_an_account_neither_sees_nor_moves_what_is_in_buckets_of_others() {
    let rig = Rig::new().await;
    let account = AccountId::parse("210987654321").expect("twelve digits");
    let them = RequestContext::new(Principal::root(account, "AKIATHEIRS"), "request-2");
    let ours = caller();
    let may_alone = |action, resource| {
        let may = authorise(&them, Action(action), resource, Side::None, |_values| {});
        may.expect("root may")
    };
    let mut keys = Vec::new();
    for _ in 0..2 {
        let proof = may_alone("kms:CreateKey", Resource::Service);
        let made = rig.kms.create_key(&proof, NewKey::default()).await;
        keys.push(made.expect("a key").arn);
    }
    let [from, to] = keys.as_slice() else {
        unreachable!("two")
    };
    let proof = may_alone("s3:CreateBucket", Resource::Bucket("guests".to_owned()));
    let made = rig.store.create_bucket(&proof, "us-west-2").await;
    made.expect("a bucket");
    for (bucket, key, bucket_key, bytes) in [
        ("vault", "secret", false, 10),
        ("vault", "under a bucket key", true, 10),
        ("guests", "own", false, 20),
        ("guests", "own under a bucket key", true, 20),
    ] {
        let caller = if bucket == "guests" { &them } else { &ours };
        let resource = Resource::Object(bucket.to_owned(), key.to_owned());
        let request = PutRequest {
            proof: may_in_as(caller, &rig.store, "s3:PutObject", resource).await,
            sse: SseTarget::Kms {
                proof: may_key("kms:GenerateDataKey", from.as_str()),
                key: from.clone(),
                context: context(bucket_key, bucket, key),
                caller_context: Vec::new(),
                bucket_key,
            },
            headers: Headers::default(),
            conditions: WriteConditions::default(),
            incoming: incoming(vec![7; bytes]),
        };
        rig.store.put(request).await.expect("written");
    }
    let objects = async |key: &KeyArn| {
        let all = Scope::default();
        let usage = rig.index.usage(key.key_id(), 0..=u32::MAX, &all).await;
        usage.expect("counts").buckets
    };
    assert_eq!(objects(from).await.len(), 2);

    let proof = may_key("kms:GetKeyUsage", from.as_str());
    let usage = rig.kms.key_usage(&proof, from).await.expect("counts");
    assert_eq!(usage.total.objects, 4);
    assert_eq!(usage.buckets.keys().collect::<Vec<_>>(), ["guests"]);
    assert_eq!(
        (usage.other_buckets.objects, usage.other_buckets.bytes),
        (2, 20)
    );

    let mut new = NewRewrap {
        from: from.clone(),
        material: None,
        to: to.clone(),
        scope: Scope {
            bucket: Some("vault".to_owned()),
            prefix: "s".to_owned(),
            ..Scope::default()
        },
        rate: None,
    };
    let proofs = [
        may_key("kms:StartRewrap", from.as_str()),
        may_key("kms:ReEncryptFrom", from.as_str()),
        may_key("kms:ReEncryptTo", to.as_str()),
    ];
    let planned = rig.kms.plan_rewrap(proofs.each_ref(), &new).await;
    assert!(matches!(planned, Err(KmsError::NotFound(_))), "{planned:?}");
    new.scope = Scope::default();
    let planned = rig.kms.plan_rewrap(proofs.each_ref(), &new).await;
    assert_eq!(planned.expect("planned").total().objects, 2);
    rig.rewrap(&new).await;
    assert_eq!(objects(from).await.keys().collect::<Vec<_>>(), ["vault"]);
    assert_eq!(objects(to).await.keys().collect::<Vec<_>>(), ["guests"]);
    assert_eq!(rig.indexed().await, rig.expected().await);
}

#[tokio::test]
async fn a_bucket_that_does_not_read_stops_neither_counts_nor_rewraps_of_the_others() {
    let rig = Rig::new().await;
    for bucket in BUCKETS {
        let sse = rig.kms_target(0, false, bucket, "a");
        rig.put(bucket, "a", sse, 5).await;
    }
    let whole = rig.rows(KeyRange::prefix(&[table::BUCKET])).await;
    let (row, stored) = whole.first().expect("two").clone();
    let no_text = [row.as_slice(), &[0xFF]].concat();
    let damaged = Batch::new()
        .put(row.clone(), b"no record".as_slice())
        .put(no_text, stored.clone());
    rig.meta.commit(damaged).await.expect("written");
    let usage = async |number: usize| {
        let key = rig.key(number).key_id();
        let all = Scope::default();
        let usage = rig.index.usage(key, 0..=u32::MAX, &all).await;
        usage.expect("counts")
    };
    assert_eq!(usage(0).await.total().objects, 2);
    let new = NewRewrap {
        from: rig.key(0).clone(),
        material: None,
        to: rig.key(1).clone(),
        scope: Scope::default(),
        rate: None,
    };
    let rewrapped = rig.run_rewrap(&new).await;
    assert_eq!(rewrapped.state, RewrapState::Completed);
    assert_eq!(rewrapped.remaining.expect("counted").objects, 1);
    let moved = usage(1).await.buckets;
    assert_eq!(moved.keys().collect::<Vec<_>>(), ["vault"]);
    rig.meta
        .commit(Batch::new().put(row, stored))
        .await
        .expect("written");
    rig.rewrap(&new).await;
    assert_eq!(usage(1).await.buckets.len(), 2);
}

#[tokio::test]
async fn a_slow_rewrap_moves_few_data_keys_at_once_and_gives_way_while_it_rests() {
    let rig = Rig::new().await;
    for number in 0..40 {
        let key = format!("{number}");
        let sse = rig.kms_target(0, true, "vault", &key);
        rig.put("vault", &key, sse, 1).await;
    }
    let begin = async |from: &KeyArn, to: &KeyArn, rate| {
        let new = NewRewrap {
            from: from.clone(),
            material: None,
            to: to.clone(),
            scope: Scope::default(),
            rate,
        };
        let proofs = rewrap_proofs(&new);
        let begun = rig.kms.start_rewrap(proofs.each_ref(), &new).await;
        begun.expect("begun").id
    };
    let id = begin(rig.key(0), rig.key(1), Some(1)).await;
    let lease = rig.kms.claim_rewrap(false).await.expect("records");
    let mut lease = lease.expect("a re-wrap");
    let store = rig.store.clone();
    let running = tokio::spawn(async move { store.rewrap(&mut lease).await });
    let moved = async {
        loop {
            let counts = rig.kms.find_rewrap(id).await.expect("there").counts;
            if counts.rewrapped > 0 {
                break counts.rewrapped;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let moved = tokio::time::timeout(Duration::from_secs(5), moved).await;
    assert_eq!(moved.expect("soon"), 16);
    // It rests for as many seconds, unless somebody else comes.
    let account = AccountId::parse("210987654321").expect("twelve digits");
    let them = RequestContext::new(Principal::root(account, "AKIATHEIRS"), "request-2");
    let mut keys = Vec::new();
    for _ in 0..2 {
        let create = Action("kms:CreateKey");
        let proof = authorise(&them, create, Resource::Service, Side::None, |_values| {});
        let proof = proof.expect("root may");
        let made = rig.kms.create_key(&proof, NewKey::default());
        keys.push(made.await.expect("a key").arn);
    }
    let [from, to] = keys.as_slice() else {
        unreachable!("two")
    };
    begin(from, to, None).await;
    let turn = tokio::time::timeout(Duration::from_secs(5), running).await;
    let turn = turn.expect("at once").expect("no panic").expect("runs");
    assert!(
        matches!(turn, Turn::Over(rest) if rest > Duration::from_secs(5)),
        "{turn:?}"
    );
}
