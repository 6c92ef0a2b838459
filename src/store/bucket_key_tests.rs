//! Tests of bucket keys through the store, over a token in memory that counts its calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use strongroom_hsm::testing::fault::{Fault, FaultToken, Op};
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{DataKey, HsmGroup, HsmHandle, HsmSettings};

use super::record::{
    BucketKeyRecord, BucketKeyWrap, ChecksumAlgorithm, ChecksumKind, Headers, KeyRecord,
    ManifestRecord, ObjectName, ObjectRecord, SseRecord, bucket_key_row,
};
use super::{
    CompletePart, CompleteRequest, CopyRequest, Incoming, KeyAccess, PutRequest, Selection,
    SseTarget, Store, StoreError, StoreSettings, WriteConditions,
};
use crate::auth::policy::Side;
use crate::auth::{AccountId, Action, Authorised, Principal, RequestContext, Resource, authorise};
use crate::blob::FsBlobs;
use crate::clock::ShiftedClock;
use crate::kms::{
    EncryptionContext, InternalKey, KeyArn, Kms, KmsError, KmsSettings, NewKey,
    WRAP_COUNT_BLOCK_DEFAULT, WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
};
use crate::meta::{Batch, KeyRange, Meta, MetaError, RedbMeta, Row, codec, table};

pub(super) const BUCKET: &str = "vault";
const GENERATE: &str = "kms:GenerateDataKey";
const DEADLINE: Duration = Duration::from_secs(5);

/// A data plane and all that it stands on.
pub(super) struct Rig {
    pub(super) store: Store,
    pub(super) kms: Arc<Kms>,
    pub(super) meta: Arc<dyn Meta>,
    blobs: Arc<FsBlobs>,
    pub(super) faults: FaultToken,
    clock: ShiftedClock,
    directory: tempfile::TempDir,
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(StoreSettings::default()).await
    }

    async fn with(settings: StoreSettings) -> Self {
        let rig = Self::bare(settings);
        rig.create_bucket(BUCKET).await;
        rig
    }

    /// One without a bucket.
    pub(super) fn bare(settings: StoreSettings) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let meta: Arc<dyn Meta> =
            Arc::new(RedbMeta::open(&directory.path().join("meta")).expect("a store"));
        let faults = FaultToken::new(Arc::new(MemoryToken::new()));
        let clock = ShiftedClock::default();
        let kms = new_kms(&meta, &faults, &clock, DEADLINE);
        let blobs = Arc::new(FsBlobs::open(&directory.path().join("blobs")).expect("a directory"));
        let store = Store::new(
            Arc::clone(&meta),
            blobs.clone(),
            Arc::clone(&kms),
            Arc::new(clock.clone()),
            settings,
        );
        Self {
            store,
            kms,
            meta,
            blobs,
            faults,
            clock,
            directory,
        }
    }

    /// The store after a restart: its KMS has nothing in memory, either.
    pub(super) fn restarted(&self) -> Store {
        self.restarted_with(DEADLINE)
    }

    /// The same, with another deadline of the HSM.
    pub(super) fn restarted_with(&self, deadline: Duration) -> Store {
        Store::new(
            Arc::clone(&self.meta),
            self.blobs.clone(),
            new_kms(&self.meta, &self.faults, &self.clock, deadline),
            Arc::new(self.clock.clone()),
            StoreSettings::default(),
        )
    }

    /// The same with nothing in memory, as after a restart or on another server.
    pub(super) fn forgetful(&self) -> Store {
        Store::new(
            Arc::clone(&self.meta),
            self.blobs.clone(),
            Arc::clone(&self.kms),
            Arc::new(self.clock.clone()),
            StoreSettings::default(),
        )
    }

    pub(super) async fn create_bucket(&self, bucket: &str) {
        let proof = may("s3:CreateBucket", Resource::Bucket(bucket.into()));
        self.store
            .create_bucket(&proof, "us-west-2")
            .await
            .expect("made");
    }

    pub(super) async fn key(&self) -> KeyArn {
        let proof = may("kms:CreateKey", Resource::Service);
        let key = self.kms.create_key(&proof, NewKey::default()).await;
        key.expect("a key").arn
    }

    /// Calls of the token that wrap or unwrap.
    fn calls(&self) -> u64 {
        self.faults.calls(Op::Wrap) + self.faults.calls(Op::Unwrap)
    }

    pub(super) async fn put(&self, key: &str, sse: SseTarget) -> Result<(), StoreError> {
        put(&self.store, BUCKET, key, sse).await
    }

    pub(super) async fn get(
        &self,
        key: &str,
        kms_key: Option<&KeyArn>,
    ) -> Result<Vec<u8>, StoreError> {
        get(&self.store, BUCKET, key, kms_key).await
    }

    pub(super) async fn delete(&self, key: &str) {
        let proof = may_object(&self.store, "s3:DeleteObject", BUCKET, key).await;
        self.store.delete(&proof, None).await.expect("deleted");
    }

    pub(super) async fn rows(&self, table: u8) -> Vec<Row> {
        let snapshot = self.meta.snapshot().await.expect("a snapshot");
        let range = KeyRange::prefix(&[table]);
        snapshot.scan(&range, 10_000).await.expect("rows")
    }

    /// How many bucket keys have a row, and how much hangs on them.
    async fn held(&self) -> (usize, usize) {
        let keys = self.rows(table::BUCKET_KEY).await.len();
        (keys, self.rows(table::BUCKET_KEY_USE).await.len())
    }

    async fn name(&self, bucket: &str, key: &str) -> ObjectName {
        let resource = Resource::Bucket(bucket.into());
        let proof = may_in(&self.store, "s3:ListBucket", resource).await;
        let record = self.store.load_bucket(&proof).await.expect("there");
        ObjectName::new(&record, key).expect("short")
    }

    async fn manifest(&self, bucket: &str, key: &str) -> ManifestRecord {
        let row = self.name(bucket, key).await.manifest_row();
        let snapshot = self.meta.snapshot().await.expect("a snapshot");
        let value = snapshot.load(&row).await.expect("reads").expect("a row");
        codec::decode("manifest", &value).expect("reads")
    }

    pub(super) async fn write(&self, row: Vec<u8>, value: Vec<u8>) {
        let batch = Batch::new().put(row, value);
        self.meta.commit(batch).await.expect("written");
    }
}

fn new_kms(
    meta: &Arc<dyn Meta>,
    faults: &FaultToken,
    clock: &ShiftedClock,
    deadline: Duration,
) -> Arc<Kms> {
    let hsm = HsmSettings {
        workers: 2,
        queue: 256,
        deadline,
        verify_wraps: false,
    };
    let hsm = HsmHandle::start(Arc::new(faults.clone()), hsm).expect("workers");
    Arc::new(Kms::new(
        Arc::clone(meta),
        HsmGroup::from(hsm),
        Arc::new(clock.clone()),
        KmsSettings {
            account: AccountId::parse("123456789012").expect("twelve digits"),
            region: "us-west-2".to_owned(),
            wraps_per_backing_key_max: WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
            wrap_count_block: WRAP_COUNT_BLOCK_DEFAULT,
            keys_per_account_max: crate::kms::KEYS_PER_ACCOUNT_MAX_DEFAULT,
        },
    ))
}

pub(super) fn request() -> RequestContext {
    RequestContext::new(
        Principal::root(
            AccountId::parse("123456789012").expect("twelve digits"),
            "AKIATEST",
        ),
        "request-1",
    )
}

pub(super) fn may(action: &'static str, resource: Resource) -> Authorised {
    let decision = authorise(
        &request(),
        Action(action),
        resource,
        Side::None,
        |_values| {},
    );
    decision.expect("root may")
}

/// The owner's proof about a bucket that is there, or an object in it.
pub(super) async fn may_in(store: &Store, action: &'static str, resource: Resource) -> Authorised {
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
    let mut context = request();
    context.principal = Principal::root(access.owner.clone(), "AKIATEST");
    authorise(&context, Action(action), resource, side, |_values| {}).expect("root may")
}

pub(super) async fn may_object(
    store: &Store,
    action: &'static str,
    bucket: &str,
    key: &str,
) -> Authorised {
    may_in(store, action, Resource::Object(bucket.into(), key.into())).await
}

fn may_key(action: &'static str, key: &KeyArn) -> Authorised {
    may(action, Resource::KmsKey(key.as_str().to_owned()))
}

/// The context of a bucket key's wrap.
fn bucket_context(bucket: &str) -> EncryptionContext {
    let pairs = BTreeMap::from([("aws:s3:arn".to_owned(), format!("arn:aws:s3:::{bucket}"))]);
    EncryptionContext::from_map(pairs).expect("short")
}

fn under(key: &KeyArn) -> SseTarget {
    under_in(BUCKET, key)
}

fn under_in(bucket: &str, key: &KeyArn) -> SseTarget {
    SseTarget::Kms {
        proof: may_key(GENERATE, key),
        key: key.clone(),
        context: bucket_context(bucket),
        caller_context: vec![("team".to_owned(), "a".to_owned())],
        bucket_key: true,
    }
}

fn access_of(bucket: &str, kms_key: Option<&KeyArn>) -> KeyAccess {
    match kms_key {
        Some(key) => KeyAccess::Kms {
            proof: may_key("kms:Decrypt", key),
            context: bucket_context(bucket),
        },
        None => KeyAccess::Plain,
    }
}

pub(super) fn incoming(body: Vec<u8>) -> Incoming {
    Incoming {
        stream: stream::iter([Ok(body.into())]).boxed(),
        content_md5: None,
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        claimed: None,
        expected: Box::new(|| Ok(None)),
    }
}

pub(super) async fn put(
    store: &Store,
    bucket: &str,
    key: &str,
    sse: SseTarget,
) -> Result<(), StoreError> {
    let request = PutRequest {
        proof: may_object(store, "s3:PutObject", bucket, key).await,
        sse,
        headers: Headers::default(),
        conditions: WriteConditions::default(),
        incoming: incoming(key.into()),
    };
    store.put(request).await.map(|_written| ())
}

pub(super) async fn get(
    store: &Store,
    bucket: &str,
    key: &str,
    kms_key: Option<&KeyArn>,
) -> Result<Vec<u8>, StoreError> {
    let located = store
        .locate(&may_object(store, "s3:GetObject", bucket, key).await)
        .await?;
    let access = access_of(bucket, kms_key);
    let mut reading = store.open(&located, &access, Selection::Whole).await?;
    let mut bytes = Vec::new();
    while let Some(frame) = reading.body.next().await {
        bytes.extend(frame?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn two_objects_of_a_bucket_are_written_and_read_with_one_call_of_the_hsm() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    let before = rig.calls();
    for name in ["one", "two"] {
        rig.put(name, under(&key)).await.expect("written");
    }
    for name in ["one", "two"] {
        let read = rig.get(name, Some(&key)).await.expect("reads");
        assert_eq!(read, name.as_bytes());
    }
    assert_eq!(rig.calls() - before, 1);
    assert_eq!(rig.held().await, (1, 2));
    let counts = rig.store.bucket_key_counts();
    assert_eq!((counts.hits, counts.misses, counts.held), (3, 1, 1));
}

#[tokio::test]
async fn who_found_an_object_before_its_bucket_key_went_finds_it_again() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    rig.put("object", under(&key)).await.expect("written");
    let reader = rig.forgetful();
    let access = access_of(BUCKET, Some(&key));
    let may_get = may_object(&reader, "s3:GetObject", BUCKET, "object").await;
    let found = reader.locate(&may_get).await.expect("there");
    // By a server that has another bucket key in memory: that of the reader's record goes with its last object.
    let rewritten = put(&rig.forgetful(), BUCKET, "object", under(&key)).await;
    rewritten.expect("written");
    assert_eq!(rig.held().await, (1, 1));
    let outcome = reader.open(&found, &access, Selection::Whole).await;
    assert!(
        matches!(outcome, Err(StoreError::KeyMoved)),
        "{:?}",
        outcome.err()
    );
    let found = reader.locate(&may_get).await.expect("there");
    let outcome = reader.open(&found, &access, Selection::Whole).await;
    assert!(outcome.is_ok(), "{:?}", outcome.err());
}

#[tokio::test]
async fn a_bucket_key_that_is_lost_is_not_waited_for() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    rig.put("object", under(&key)).await.expect("written");
    let [(row, _)] = &*rig.rows(table::BUCKET_KEY).await else {
        panic!("one bucket key");
    };
    let proof = may_object(&rig.store, "s3:PutObject", BUCKET, "large").await;
    let checksum = ChecksumKind {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        composite: false,
    };
    let sse = under(&key);
    let begun = rig
        .store
        .create_upload(&proof, &sse, Headers::default(), (checksum, false));
    let id = hex::encode(begun.await.expect("begun"));
    let lost = Batch::new().delete(row.clone());
    rig.meta.commit(lost).await.expect("deleted");
    let store = rig.forgetful();
    let outcome = get(&store, BUCKET, "object", Some(&key)).await;
    assert!(
        matches!(outcome, Err(StoreError::Meta(MetaError::Damaged(_)))),
        "{:?}",
        outcome.err()
    );
    let upload = store.locate_upload(&proof, &id).await.expect("there");
    let access = access_of(BUCKET, Some(&key));
    let part = incoming(b"a part".to_vec());
    let outcome = store.put_part(&upload, &access, 1, part).await;
    assert!(
        matches!(outcome, Err(StoreError::Meta(MetaError::Damaged(_)))),
        "{:?}",
        outcome.err()
    );
}

#[tokio::test]
async fn sse_s3_takes_one_call_for_a_bucket_and_not_one_for_an_object() {
    let rig = Rig::new().await;
    rig.put("first", SseTarget::S3).await.expect("written");
    let before = rig.calls();
    for number in 0..20 {
        let name = format!("{number}");
        rig.put(&name, SseTarget::S3).await.expect("written");
        rig.get(&name, None).await.expect("reads");
    }
    assert_eq!(rig.calls(), before);
    assert_eq!(rig.held().await, (1, 21));
}

#[tokio::test]
async fn buckets_and_kms_keys_have_bucket_keys_of_their_own() {
    let rig = Rig::new().await;
    rig.create_bucket("other").await;
    let keys = [rig.key().await, rig.key().await];
    let before = rig.calls();
    for bucket in [BUCKET, "other"] {
        for key in &keys {
            let sse = under_in(bucket, key);
            let name = key.to_string();
            put(&rig.store, bucket, &name, sse).await.expect("written");
        }
    }
    assert_eq!(rig.calls() - before, 4);
    assert_eq!(rig.held().await, (4, 4));
}

#[tokio::test]
async fn when_its_time_is_over_the_hsm_is_asked_again() {
    let rig = Rig::with(StoreSettings {
        bucket_key_lifetime: Duration::from_millis(400),
        ..StoreSettings::default()
    })
    .await;
    let key = rig.key().await;
    rig.put("one", under(&key)).await.expect("written");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rig.store.bucket_key_counts().held, 0);
    let before = rig.calls();
    rig.put("two", under(&key)).await.expect("written");
    rig.get("one", Some(&key)).await.expect("reads");
    // One bucket key is made, the other one opened.
    assert_eq!(rig.calls() - before, 2);
    assert_eq!(rig.held().await, (2, 2));
}

#[tokio::test]
async fn with_no_time_at_all_every_use_asks_the_hsm() {
    let rig = Rig::with(StoreSettings {
        bucket_key_lifetime: Duration::ZERO,
        ..StoreSettings::default()
    })
    .await;
    let key = rig.key().await;
    let before = rig.calls();
    rig.put("one", under(&key)).await.expect("written");
    rig.put("two", under(&key)).await.expect("written");
    rig.get("one", Some(&key)).await.expect("reads");
    assert_eq!(rig.calls() - before, 3);
    assert_eq!(rig.store.bucket_key_counts().held, 0);
}

#[tokio::test]
async fn a_disabled_key_refuses_at_once_and_its_bucket_keys_leave_memory() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    rig.put("one", under(&key)).await.expect("written");
    assert_eq!(rig.store.bucket_key_counts().held, 1);
    let proof = may_key("kms:DisableKey", &key);
    rig.kms.disable_key(&proof, &key).await.expect("disabled");
    assert_eq!(rig.store.bucket_key_counts().held, 0);
    assert!(matches!(
        rig.put("two", under(&key)).await,
        Err(StoreError::Kms(KmsError::Disabled(_)))
    ));
    assert!(matches!(
        rig.get("one", Some(&key)).await,
        Err(StoreError::Kms(KmsError::Disabled(_)))
    ));
    let proof = may_key("kms:EnableKey", &key);
    rig.kms.enable_key(&proof, &key).await.expect("enabled");
    assert_eq!(rig.get("one", Some(&key)).await.expect("reads"), b"one");
}

#[tokio::test]
async fn another_server_meets_the_state_of_the_key_although_nobody_told_it() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    rig.put("one", under(&key)).await.expect("written");
    // Another server's control plane over the same records: what it does is not told to ours.
    let other = Kms::new(
        Arc::clone(&rig.meta),
        HsmGroup::from(
            HsmHandle::start(Arc::new(rig.faults.clone()), HsmSettings::default())
                .expect("workers"),
        ),
        Arc::new(rig.clock.clone()),
        KmsSettings {
            account: AccountId::parse("123456789012").expect("twelve digits"),
            region: "us-west-2".to_owned(),
            wraps_per_backing_key_max: WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
            wrap_count_block: WRAP_COUNT_BLOCK_DEFAULT,
            keys_per_account_max: crate::kms::KEYS_PER_ACCOUNT_MAX_DEFAULT,
        },
    );
    let proof = may_key("kms:ScheduleKeyDeletion", &key);
    other
        .schedule_key_deletion(&proof, &key, 7)
        .await
        .expect("scheduled");
    assert_eq!(rig.store.bucket_key_counts().held, 1);
    for outcome in [
        rig.put("two", under(&key)).await,
        rig.get("one", Some(&key)).await.map(|_bytes| ()),
    ] {
        assert!(matches!(
            outcome,
            Err(StoreError::Kms(KmsError::InvalidState { .. }))
        ));
    }
}

#[tokio::test]
async fn a_change_of_policy_and_a_deletion_empty_the_memory_of_that_key_alone() {
    let rig = Rig::new().await;
    let (changed, other) = (rig.key().await, rig.key().await);
    for key in [&changed, &other] {
        let name = key.to_string();
        rig.put(&name, under(key)).await.expect("written");
    }
    assert_eq!(rig.store.bucket_key_counts().held, 2);
    let policy = rig
        .kms
        .key_policy(&may_key("kms:GetKeyPolicy", &changed), &changed)
        .await
        .expect("a policy");
    let proof = may_key("kms:PutKeyPolicy", &changed);
    rig.kms
        .put_key_policy(&proof, &changed, &policy, false)
        .await
        .expect("put");
    assert_eq!(rig.store.bucket_key_counts().held, 1);
    let proof = may_key("kms:ScheduleKeyDeletion", &other);
    rig.kms
        .schedule_key_deletion(&proof, &other, 7)
        .await
        .expect("scheduled");
    assert_eq!(rig.store.bucket_key_counts().held, 0);
}

#[tokio::test]
async fn a_bucket_key_in_memory_asks_for_the_proof_all_the_same() {
    let rig = Rig::new().await;
    let (key, other) = (rig.key().await, rig.key().await);
    rig.put("one", under(&key)).await.expect("written");
    let wrong_action = SseTarget::Kms {
        proof: may_key("kms:DescribeKey", &key),
        key: key.clone(),
        context: bucket_context(BUCKET),
        caller_context: Vec::new(),
        bucket_key: true,
    };
    assert!(rig.put("two", wrong_action).await.is_err());
    assert!(rig.get("one", Some(&other)).await.is_err());
    assert!(rig.get("one", None).await.is_err());
    assert_eq!(rig.get("one", Some(&key)).await.expect("reads"), b"one");
}

#[tokio::test]
async fn a_rotation_makes_a_new_bucket_key_and_the_old_one_goes_on_reading() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    rig.put("old", under(&key)).await.expect("written");
    let proof = may_key("kms:RotateKeyOnDemand", &key);
    rig.kms
        .rotate_key_on_demand(&proof, &key)
        .await
        .expect("rotated");
    rig.put("new", under(&key)).await.expect("written");
    assert_eq!(rig.held().await, (2, 2));
    let mut versions: Vec<_> = rig
        .rows(table::BUCKET_KEY)
        .await
        .into_iter()
        .map(|(_, value)| codec::decode::<BucketKeyRecord>("bucket key", &value).expect("reads"))
        .map(|record| match record.wrap {
            BucketKeyWrap::Kms(bytes) => crate::kms::EncryptedDataKey::from_bytes(bytes)
                .expect("a ciphertext")
                .backing_version(),
            BucketKeyWrap::S3(_) => panic!("under a KMS key"),
        })
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2]);
    for name in ["old", "new"] {
        rig.get(name, Some(&key)).await.expect("reads");
    }
}

#[tokio::test]
async fn the_sse_s3_key_rotates_every_year_and_old_objects_read() {
    let rig = Rig::new().await;
    rig.put("old", SseTarget::S3).await.expect("written");
    rig.clock.shift_to(364 * 86_400);
    assert_eq!(rig.kms.rotate_due_keys().await.expect("looked at"), 0);
    for year in 1..3 {
        rig.clock.shift_to(year * 366 * 86_400);
        assert_eq!(rig.kms.rotate_due_keys().await.expect("rotated"), 1);
        assert_eq!(rig.kms.rotate_due_keys().await.expect("looked at"), 0);
    }
    rig.put("new", SseTarget::S3).await.expect("written");
    assert_eq!(rig.held().await, (2, 2));
    let version = rig.kms.internal_version(InternalKey::SseS3).await;
    assert_eq!(version.expect("there"), 3);
    let store = rig.forgetful();
    for name in ["old", "new"] {
        get(&store, BUCKET, name, None).await.expect("reads");
    }
}

#[tokio::test]
async fn after_a_restart_sse_s3_goes_on_with_the_bucket_key_of_the_day() {
    let rig = Rig::new().await;
    rig.put("one", SseTarget::S3).await.expect("written");
    let (store, before) = (rig.forgetful(), rig.calls());
    put(&store, BUCKET, "two", SseTarget::S3)
        .await
        .expect("written");
    get(&store, BUCKET, "one", None).await.expect("reads");
    assert_eq!(rig.calls() - before, 1);
    assert_eq!(rig.held().await, (1, 2));
    rig.clock.shift_to(25 * 3600);
    put(&rig.forgetful(), BUCKET, "three", SseTarget::S3)
        .await
        .expect("written");
    assert_eq!(rig.held().await, (2, 3));
}

#[tokio::test]
async fn many_first_writers_make_one_bucket_key() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    let before = rig.calls();
    let names: Vec<_> = (0..64).map(|number| format!("{number}")).collect();
    for outcome in join_all(names.iter().map(|name| rig.put(name, under(&key)))).await {
        outcome.expect("written");
    }
    assert_eq!(rig.calls() - before, 1);
    assert_eq!(rig.held().await, (1, 64));
    let (store, before) = (rig.forgetful(), rig.calls());
    let reads = names
        .iter()
        .map(|name| get(&store, BUCKET, name, Some(&key)));
    for outcome in join_all(reads).await {
        outcome.expect("reads");
    }
    assert_eq!(rig.calls() - before, 1);
}

#[tokio::test]
async fn when_the_hsm_fails_nobody_waits_for_the_failures_of_others() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    rig.put("warm", under(&key)).await.expect("written");
    let store = rig.forgetful();
    let names: Vec<_> = (0..8).map(|number| format!("{number}")).collect();
    rig.faults.always(Op::Wrap, Fault::Fail);
    let writes = names
        .iter()
        .map(|name| put(&store, BUCKET, name, under(&key)));
    for outcome in join_all(writes).await {
        assert!(matches!(outcome, Err(StoreError::Kms(_))));
    }
    rig.faults.heal();
    eventually_put(&store, &key).await;
    // Whoever has it in memory did not notice.
    rig.put("served", under(&key)).await.expect("written");
}

/// The token is found to be well again in a moment.
async fn eventually_put(store: &Store, key: &KeyArn) {
    for _ in 0..200 {
        if put(store, BUCKET, "healed", under(key)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the token does not heal");
}

#[tokio::test]
async fn the_row_of_a_bucket_key_is_there_as_long_as_something_hangs_on_it() {
    let rig = Rig::new().await;
    let (key, other) = (rig.key().await, rig.key().await);
    for name in ["one", "two"] {
        rig.put(name, under(&key)).await.expect("written");
    }
    // Replaced under the same bucket key, deleted twice, replaced under another one.
    rig.put("one", under(&key)).await.expect("written");
    assert_eq!(rig.held().await, (1, 2));
    rig.delete("two").await;
    rig.delete("two").await;
    assert_eq!(rig.held().await, (1, 1));
    rig.put("one", under(&other)).await.expect("written");
    assert_eq!(rig.held().await, (1, 1));
    assert_eq!(rig.get("one", Some(&other)).await.expect("reads"), b"one");
    rig.delete("one").await;
    assert_eq!(rig.held().await, (0, 0));
    // A key that is still in memory gets its row back.
    let before = rig.calls();
    rig.put("one", under(&key)).await.expect("written");
    assert_eq!((rig.calls(), rig.held().await), (before, (1, 1)));
    let read = get(&rig.forgetful(), BUCKET, "one", Some(&key)).await;
    assert_eq!(read.expect("reads"), b"one");
    // And an object without a bucket key takes its place.
    let plain = SseTarget::Kms {
        proof: may_key(GENERATE, &key),
        key: key.clone(),
        context: bucket_context(BUCKET),
        caller_context: Vec::new(),
        bucket_key: false,
    };
    rig.put("one", plain).await.expect("written");
    assert_eq!(rig.held().await, (0, 0));
    rig.delete("one").await;
    let bucket = Resource::Bucket(BUCKET.into());
    let proof = may_in(&rig.store, "s3:DeleteBucket", bucket).await;
    rig.store.delete_bucket(&proof).await.expect("deleted");
}

#[tokio::test]
async fn deletes_at_once_leave_no_row_behind() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    let names: Vec<_> = (0..48).map(|number| format!("{number:02}")).collect();
    for round in 0..3 {
        let writes = names.iter().map(|name| rig.put(name, under(&key)));
        for outcome in join_all(writes).await {
            outcome.expect("written");
        }
        assert_eq!(rig.held().await, (1, names.len()), "{round}");
        join_all(names.iter().map(|name| rig.delete(name))).await;
        assert_eq!(rig.held().await, (0, 0), "{round}");
    }
}

#[tokio::test]
async fn deletes_and_writes_at_once_leave_a_row_exactly_if_something_hangs_on_it() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    let names: Vec<_> = (0..8).map(|number| format!("{number}")).collect();
    for round in 0..6 {
        let changes = names.iter().enumerate().map(|(number, name)| {
            let (rig, key) = (&rig, &key);
            async move {
                if (number + round) % 2 == 0 {
                    rig.put(name, under(key)).await.expect("written");
                } else {
                    rig.delete(name).await;
                }
            }
        });
        join_all(changes).await;
        assert_eq!(rig.held().await, (1, 4), "{round}");
        for (number, name) in names.iter().enumerate() {
            if (number + round) % 2 == 0 {
                rig.get(name, Some(&key)).await.expect("reads");
            }
        }
    }
}

#[tokio::test]
async fn a_copy_hangs_on_the_bucket_key_of_its_own_bucket() {
    let rig = Rig::new().await;
    rig.create_bucket("other").await;
    let key = rig.key().await;
    rig.put("one", under(&key)).await.expect("written");
    for (bucket, name) in [("other", "copy"), (BUCKET, "copy")] {
        let source = may_object(&rig.store, "s3:GetObject", BUCKET, "one").await;
        let source = rig.store.locate(&source).await.expect("there");
        let request = CopyRequest {
            source,
            access: access_of(BUCKET, Some(&key)),
            proof: may_object(&rig.store, "s3:PutObject", bucket, name).await,
            sse: under_in(bucket, &key),
            headers: None,
            algorithm: None,
            conditions: WriteConditions::default(),
        };
        rig.store.copy(request).await.expect("copied");
    }
    assert_eq!(rig.held().await, (2, 3));
    rig.delete("one").await;
    rig.delete("copy").await;
    assert_eq!(rig.held().await, (1, 1));
    let read = get(&rig.forgetful(), "other", "copy", Some(&key)).await;
    assert_eq!(read.expect("reads"), b"one");
}

#[tokio::test]
async fn an_upload_hangs_on_its_bucket_key_and_hands_it_to_its_object() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    let before = rig.calls();
    let checksum = ChecksumKind {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        composite: false,
    };
    for completes in [true, false] {
        let proof = may_object(&rig.store, "s3:PutObject", BUCKET, "large").await;
        let sse = under(&key);
        assert!(sse.says_bucket_key());
        let id = rig
            .store
            .create_upload(&proof, &sse, Headers::default(), (checksum, false))
            .await
            .expect("begun");
        let held = if completes { (1, 1) } else { (1, 2) };
        assert_eq!(rig.held().await, held);
        let upload = rig
            .store
            .locate_upload(&proof, &hex::encode(id))
            .await
            .expect("there");
        assert!(upload.says_bucket_key());
        let access = access_of(BUCKET, Some(&key));
        let (part, _) = rig
            .store
            .put_part(&upload, &access, 1, incoming(b"a part".to_vec()))
            .await
            .expect("written");
        if completes {
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
            let written = rig.store.complete_upload(request).await.expect("completed");
            assert!(written.bucket_key);
        } else {
            rig.store.abort_upload(&upload).await.expect("aborted");
        }
        assert_eq!(rig.held().await, (1, 1));
    }
    assert_eq!(rig.calls() - before, 1);
    let read = get(&rig.forgetful(), BUCKET, "large", Some(&key)).await;
    assert_eq!(read.expect("reads"), b"a part");
    rig.delete("large").await;
    assert_eq!(rig.held().await, (0, 0));
}

#[tokio::test]
async fn a_bucket_key_that_was_wrapped_anew_is_read_by_who_has_the_old_one_in_memory() {
    let rig = Rig::new().await;
    let (old, new) = (rig.key().await, rig.key().await);
    rig.put("one", under(&old)).await.expect("written");
    let manifest = rig.manifest(BUCKET, "one").await;
    let id = manifest.key.bucket_key().expect("a bucket key");
    let name = rig.name(BUCKET, "one").await;
    let row = bucket_key_row(&name.bucket, &id);
    let (_, value) = rig.rows(table::BUCKET_KEY).await.remove(0);
    let mut record: BucketKeyRecord = codec::decode("bucket key", &value).expect("reads");
    let BucketKeyWrap::Kms(encrypted) = &record.wrap else {
        panic!("under a KMS key")
    };
    let encrypted = crate::kms::EncryptedDataKey::from_bytes(encrypted.clone()).expect("reads");
    let context = bucket_context(BUCKET);
    let secret = rig
        .kms
        .unwrap_data_key(&may_key("kms:Decrypt", &old), &encrypted, &context)
        .await
        .expect("opens");
    let again = rig
        .kms
        .wrap_data_key(&may_key(GENERATE, &new), &new, &context, &secret)
        .await
        .expect("wraps");
    record.wrap = BucketKeyWrap::Kms(again.as_bytes().to_vec());
    rig.write(row.clone(), codec::encode(&record)).await;
    // Who would still write with it under the old key tries again, and has another one.
    let outcome = rig.put("two", under(&old)).await;
    assert!(matches!(outcome, Err(StoreError::Conflict)));
    rig.put("two", under(&old)).await.expect("written");
    assert_eq!(rig.held().await, (2, 2));
    // The object's own row names the new key, in a re-wrap: here the proof does. What is in memory was opened by the old.
    let store = rig.forgetful();
    rig.write(row.clone(), value).await;
    assert_eq!(
        get(&store, BUCKET, "one", Some(&old)).await.expect("reads"),
        b"one"
    );
    rig.write(row, codec::encode(&record)).await;
    assert_eq!(
        get(&store, BUCKET, "one", Some(&new)).await.expect("reads"),
        b"one"
    );
}

#[tokio::test]
async fn a_tampered_or_swapped_row_or_wrap_opens_nothing() {
    let rig = Rig::new().await;
    rig.create_bucket("other").await;
    let key = rig.key().await;
    for (bucket, name) in [(BUCKET, "one"), (BUCKET, "two"), ("other", "one")] {
        let sse = under_in(bucket, &key);
        put(&rig.store, bucket, name, sse).await.expect("written");
    }
    let row = rig.name(BUCKET, "one").await.manifest_row();
    let original = rig.manifest(BUCKET, "one").await;
    // The wrap of another object of the bucket, and of the same key in another bucket.
    for (bucket, name) in [(BUCKET, "two"), ("other", "one")] {
        let mut swapped = original.clone();
        swapped.key = rig.manifest(bucket, name).await.key;
        rig.write(row.clone(), codec::encode(&swapped)).await;
        for store in [&rig.store, &rig.forgetful()] {
            let outcome = get(store, BUCKET, "one", Some(&key)).await;
            assert!(matches!(
                outcome,
                Err(StoreError::Damaged(_) | StoreError::Meta(_))
            ));
        }
    }
    // Another caller's context.
    let mut changed = original.clone();
    if let KeyRecord::Bucket(_, _, context) = &mut changed.key {
        context[0].1 = "b".to_owned();
    }
    rig.write(row.clone(), codec::encode(&changed)).await;
    let outcome = rig.get("one", Some(&key)).await;
    assert!(matches!(outcome, Err(StoreError::Damaged(_))));
    rig.write(row, codec::encode(&original)).await;
    assert_eq!(rig.get("one", Some(&key)).await.expect("reads"), b"one");

    let rows = rig.rows(table::BUCKET_KEY).await;
    assert_eq!(rows.len(), 2);
    // Each with the other one's wrap, and with one bit changed in its last byte.
    let swapped = [
        (rows[0].0.clone(), rows[1].1.clone()),
        (rows[1].0.clone(), rows[0].1.clone()),
    ];
    let mut flipped = rows.clone();
    for (_, value) in &mut flipped {
        if let Some(last) = value.last_mut() {
            *last ^= 1;
        }
    }
    for attack in [swapped.to_vec(), flipped] {
        for (row, value) in attack {
            rig.write(row, value).await;
        }
        let store = rig.forgetful();
        for (bucket, name) in [(BUCKET, "one"), ("other", "one")] {
            let outcome = get(&store, bucket, name, Some(&key)).await;
            assert!(matches!(
                outcome,
                Err(StoreError::Kms(KmsError::InvalidCiphertext))
            ));
        }
    }
}

#[tokio::test]
async fn a_damaged_row_of_sse_s3_keeps_no_writer_from_writing() {
    let rig = Rig::new().await;
    rig.put("one", SseTarget::S3).await.expect("written");
    for (row, mut value) in rig.rows(table::BUCKET_KEY).await {
        if let Some(last) = value.last_mut() {
            *last ^= 1;
        }
        rig.write(row, value).await;
    }
    let store = rig.forgetful();
    put(&store, BUCKET, "two", SseTarget::S3)
        .await
        .expect("written");
    assert_eq!(
        get(&store, BUCKET, "two", None).await.expect("reads"),
        b"two"
    );
    assert!(get(&store, BUCKET, "one", None).await.is_err());
}

#[tokio::test]
async fn an_object_whose_data_key_the_sse_s3_key_wraps_itself_reads_for_ever() {
    let rig = Rig::new().await;
    rig.put("one", SseTarget::S3).await.expect("written");
    // As builds before bucket keys wrote it: the same data key, wrapped by the internal key for the object's identity.
    let name = rig.name(BUCKET, "one").await;
    let manifest = rig.manifest(BUCKET, "one").await;
    let schedule = rig
        .store
        .open_key(&manifest.key, &KeyAccess::Plain, &name)
        .await
        .expect("opens");
    let wrapped = rig
        .kms
        .wrap_internal(InternalKey::SseS3, &name.identity(), schedule.data_key())
        .await
        .expect("wraps");
    let old = ManifestRecord {
        key: KeyRecord::S3(wrapped),
        ..manifest
    };
    rig.write(name.manifest_row(), codec::encode(&old)).await;
    assert_eq!(
        get(&rig.forgetful(), BUCKET, "one", None)
            .await
            .expect("reads"),
        b"one"
    );
}

#[test]
fn an_object_s_row_of_a_build_before_bucket_keys_reads() {
    // As `codec` wrote it then: eight fields.
    #[derive(minicbor::Encode)]
    struct Before {
        #[n(0)]
        etag: String,
        #[n(1)]
        size: u64,
        #[n(2)]
        last_modified_ms: i64,
        #[n(3)]
        sse: SseRecord,
        #[cbor(n(4), with = "minicbor::bytes")]
        body: [u8; 16],
        #[n(5)]
        parts: Option<u32>,
        #[n(6)]
        headers: Headers,
        #[n(7)]
        checksum: Option<ChecksumKind>,
    }
    let before = codec::encode(&Before {
        etag: "e".into(),
        size: 1,
        last_modified_ms: 2,
        sse: SseRecord::S3,
        body: [3; 16],
        parts: None,
        headers: Headers::default(),
        checksum: None,
    });
    let record: ObjectRecord = codec::decode("object", &before).expect("reads");
    assert_eq!(record.bucket_key, None);
    // Its manifest authenticates these very bytes: an object without a bucket key has the same ones today.
    assert_eq!(codec::encode(&record), before);
}

#[tokio::test]
async fn what_is_in_the_rows_is_no_key_in_the_clear() {
    let rig = Rig::new().await;
    let key = rig.key().await;
    rig.put("one", under(&key)).await.expect("written");
    let manifest = rig.manifest(BUCKET, "one").await;
    let id = manifest.key.bucket_key().expect("a bucket key");
    let wanted = super::bucket_key_cache::Wanted::Id(id);
    let bucket_key = rig.store.bucket_keys.find(&wanted).expect("in memory");
    let name = rig.name(BUCKET, "one").await;
    let access = access_of(BUCKET, Some(&key));
    let schedule = rig.store.open_key(&manifest.key, &access, &name).await;
    let schedule = schedule.expect("opens");
    let secrets: [&DataKey; 2] = [&bucket_key.secret, schedule.data_key()];
    let files = std::fs::read(rig.directory.path().join("meta")).expect("a file");
    for secret in secrets {
        let there = files
            .windows(DataKey::BYTES)
            .any(|at| at == secret.expose());
        assert!(!there, "a key is in the records");
    }
    assert!(!format!("{bucket_key:?}").contains(&hex::encode(bucket_key.secret.expose())));
}
