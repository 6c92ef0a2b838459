//! What depends on keys, and the book of re-wraps, with a data plane that is made up.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{DAY, Rig, may, may_key, request, request_of, text};
use crate::auth::{AccountId, Authorised, RequestContext, Resource};
use crate::kms::{
    Dependants, DependantsError, Dependent, EncryptionContext, KeyArn, KeyId, Kms, KmsError,
    NewRewrap, REWRAPS_OPEN_MAX, RewrapCounts, RewrapId, RewrapState, Scope, Usage,
};
use crate::meta::{Batch, KeyRange, table};

/// Where the data plane of these tests has its rows: a table that nobody has.
const ROWS: u8 = b'!';

/// Dependants of a key: a row each, in which is nothing.
#[derive(Debug)]
struct MadeUp(Arc<dyn crate::meta::Meta>);

#[async_trait::async_trait]
impl Dependants for MadeUp {
    fn rows(&self, key: KeyId) -> KeyRange {
        KeyRange::prefix(&[[ROWS].as_slice(), key.as_bytes()].concat())
    }

    async fn usage(
        &self,
        key: KeyId,
        _versions: RangeInclusive<u32>,
        _scope: &Scope,
    ) -> Result<Usage, DependantsError> {
        let rows = self.0.snapshot().await?.scan(&self.rows(key), 1000).await?;
        let mut usage = Usage::default();
        let dependent = Dependent {
            objects: rows.len() as u64,
            bytes: 10 * rows.len() as u64,
            uploads: 0,
        };
        usage.versions.insert(1, dependent);
        usage.buckets.insert("vault".to_owned(), dependent);
        Ok(usage)
    }
}

fn dependant(key: &KeyArn) -> Vec<u8> {
    [[ROWS].as_slice(), key.key_id().as_bytes(), b"x"].concat()
}

impl Rig {
    fn with_made_up_dependants(&mut self, refuse_deletion: bool) {
        self.kms = Arc::new(self.another_with_dependants(refuse_deletion));
    }

    fn another_with_dependants(&self, refuse_deletion: bool) -> Kms {
        let dependants = Arc::new(MadeUp(Arc::clone(&self.meta)));
        self.another().with_dependants(dependants, refuse_deletion)
    }

    async fn start(&self, from: &KeyArn, to: &KeyArn) -> Result<RewrapId, KmsError> {
        let proofs = proofs(from, to);
        let new = new(from, to);
        Ok(self.kms.start_rewrap(proofs.each_ref(), &new).await?.id)
    }
}

fn new(from: &KeyArn, to: &KeyArn) -> NewRewrap {
    NewRewrap {
        from: from.clone(),
        material: None,
        to: to.clone(),
        scope: Scope::default(),
        rate: None,
    }
}

fn proofs(from: &KeyArn, to: &KeyArn) -> [Authorised; 3] {
    [
        may_key("kms:StartRewrap", from),
        may_key("kms:ReEncryptFrom", from),
        may_key("kms:ReEncryptTo", to),
    ]
}

#[tokio::test]
async fn a_key_in_use_is_not_scheduled_for_deletion_if_such_keys_are_kept() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(true);
    let key = rig.key().await;
    rig.put(&dependant(&key), b"").await;
    let id = key.key_id().to_string();
    let refused = rig
        .api_error("ScheduleKeyDeletion", json!({ "KeyId": id }))
        .await;
    let message =
        format!("{key} is in use: 1 objects of 10 bytes and 0 multipart uploads depend on it.");
    assert_eq!(refused, ("KMSInvalidStateException".to_owned(), message));
    let described = rig.api_ok("DescribeKey", json!({ "KeyId": id })).await;
    assert_eq!(described["KeyMetadata"]["KeyState"], "Enabled");
    rig.with_made_up_dependants(false);
    rig.api_ok("ScheduleKeyDeletion", json!({ "KeyId": id }))
        .await;
}

#[tokio::test]
async fn material_that_was_imported_stays_while_in_use_but_for_what_only_waits() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(true);
    let imported = super::import::imported(&rig).await;
    let key = rig.kms.arn_of_record(&text(&imported["Arn"])).expect("ARN");
    rig.put(&dependant(&key), b"").await;
    let only = json!({ "KeyId": key.as_str() });
    let refused = rig
        .api_error("DeleteImportedKeyMaterial", only.clone())
        .await;
    assert_eq!(refused.0, "KMSInvalidStateException");
    assert!(refused.1.contains("is in use"), "{refused:?}");
    rig.api_ok("Encrypt", super::import::plain(&imported)).await;
    let parameters = super::import::parameters(&rig, &imported).await;
    let mut input = super::import::import(&imported, &parameters, &[6; 32]);
    input["ImportType"] = json!("NEW_KEY_MATERIAL");
    let waits = rig.api_ok("ImportKeyMaterial", input).await["KeyMaterialId"].clone();
    let waiting = json!({ "KeyId": key.as_str(), "KeyMaterialId": waits });
    rig.api_ok("DeleteImportedKeyMaterial", waiting).await;
    rig.with_made_up_dependants(false);
    rig.api_ok("DeleteImportedKeyMaterial", only).await;
}

#[tokio::test]
async fn a_key_that_is_in_use_when_its_window_is_over_is_not_destroyed_before_nothing_depends_on_it()
 {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(true);
    let (key, other) = (rig.key().await, rig.key().await);
    let before = rig.token_keys().await;
    for key in [&key, &other] {
        rig.kms
            .schedule_key_deletion(&may_key("kms:ScheduleKeyDeletion", key), key, 7)
            .await
            .expect("nothing depends on it");
    }
    // A write that was under way when the deletion was scheduled.
    rig.put(&dependant(&key), b"").await;
    rig.clock.shift_to(8 * DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("runs"), 1);
    assert_eq!(rig.token_keys().await, before - 1);
    let id = key.key_id().to_string();
    let described = rig.api_ok("DescribeKey", json!({ "KeyId": id })).await;
    assert_eq!(described["KeyMetadata"]["KeyState"], "PendingDeletion");
    rig.api_ok("CancelKeyDeletion", json!({ "KeyId": id }))
        .await;
    rig.kms
        .enable_key(&may_key("kms:EnableKey", &key), &key)
        .await
        .expect("it is there");
    super::round_trip(&rig.kms, &key).await.expect("it works");

    rig.meta
        .commit(Batch::new().delete(dependant(&key)))
        .await
        .expect("deleted");
    rig.kms
        .schedule_key_deletion(&may_key("kms:ScheduleKeyDeletion", &key), &key, 7)
        .await
        .expect("nothing depends on it");
    rig.clock.shift_to(16 * DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("runs"), 1);
}

#[tokio::test]
async fn a_rewrap_is_neither_planned_nor_begun_with_a_key_that_cannot_be_used_for_it() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let key = rig.key().await;
    let arn = |made: &serde_json::Value| {
        let arn = text(&made["KeyMetadata"]["Arn"]);
        rig.kms.arn_of_record(&arn).expect("an ARN")
    };
    let signs = json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" });
    let signs = arn(&rig.api_ok("CreateKey", signs).await);
    let waits = json!({ "Origin": "EXTERNAL" });
    let waits = arn(&rig.api_ok("CreateKey", waits).await);
    for (from, to) in [
        (&signs, &key),
        (&key, &signs),
        (&waits, &key),
        (&key, &waits),
    ] {
        let (proofs, new) = (proofs(from, to), new(from, to));
        let planned = rig.kms.plan_rewrap(proofs.each_ref(), &new).await;
        let begun = rig.kms.start_rewrap(proofs.each_ref(), &new).await;
        for refused in [planned.err(), begun.err()] {
            assert!(
                matches!(
                    refused,
                    Some(KmsError::InvalidKeyUsage(_) | KmsError::InvalidState { .. })
                ),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_rewrap_is_one_process_s_at_a_time() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let (from, to) = (rig.key().await, rig.key().await);
    let id = rig.start(&from, &to).await.expect("begun");
    let other = rig.another_with_dependants(false);

    let mut lease = rig
        .kms
        .claim_rewrap(false)
        .await
        .expect("records")
        .expect("a re-wrap");
    assert_eq!(lease.rewrap().state, RewrapState::Running);
    let claimed = other.claim_rewrap(false).await.expect("records");
    assert!(claimed.is_none(), "it is the first one's");
    let counts = RewrapCounts {
        rewrapped: 7,
        ..RewrapCounts::default()
    };
    assert!(
        rig.kms
            .advance_rewrap(&mut lease, b"here", counts)
            .await
            .expect("records")
    );

    // The first one says nothing for too long: the second goes on where it was, and the first one is told.
    rig.clock.shift_to(120);
    let taken = other
        .claim_rewrap(false)
        .await
        .expect("records")
        .expect("nobody's");
    assert_eq!(
        (taken.rewrap().cursor.as_slice(), taken.rewrap().counts),
        (b"here".as_slice(), counts)
    );
    assert!(
        !rig.kms
            .advance_rewrap(&mut lease, b"there", counts)
            .await
            .expect("records")
    );
    let ended = rig.kms.end_rewrap(lease, RewrapState::Completed).await;
    assert_eq!(ended.expect("records"), None);

    // Who is alone on a store need not wait.
    let mut alone = rig
        .kms
        .claim_rewrap(true)
        .await
        .expect("records")
        .expect("taken over");
    rig.kms
        .cancel_rewrap(&may_key("kms:CancelRewrap", &from), id)
        .await
        .expect("called off");
    assert!(
        !rig.kms
            .advance_rewrap(&mut alone, b"there", counts)
            .await
            .expect("records")
    );
    assert!(rig.kms.claim_rewrap(true).await.expect("records").is_none());
}

#[tokio::test]
async fn a_rewrap_unwraps_under_its_own_keys_only() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let (from, to, foreign) = (rig.key().await, rig.key().await, rig.key().await);
    rig.start(&from, &to).await.expect("begun");
    let lease = rig.kms.claim_rewrap(false).await.expect("records");
    let lease = lease.expect("a re-wrap");
    let context = EncryptionContext::default();
    let make = async |key: &KeyArn| {
        let proof = may_key(super::GENERATE, key);
        rig.kms.generate_data_key(&proof, key, &context).await
    };
    let (data_key, encrypted) = make(&from).await.expect("made");
    let found = rig
        .kms
        .unwrap_for_rewrap(&lease, &encrypted, &context)
        .await
        .expect("its own");
    assert_eq!(found.expose(), data_key.expose());
    let wrapped = rig
        .kms
        .wrap_for_rewrap(&lease, &context, &found)
        .await
        .expect("wraps");
    assert_eq!(wrapped.key_id(), to.key_id());
    let (_, encrypted) = make(&foreign).await.expect("made");
    let refused = rig
        .kms
        .unwrap_for_rewrap(&lease, &encrypted, &context)
        .await;
    assert!(matches!(refused, Err(KmsError::IncorrectKey)));
    // States are read for each data key.
    rig.kms
        .disable_key(&may_key("kms:DisableKey", &to), &to)
        .await
        .expect("disabled");
    let refused = rig.kms.wrap_for_rewrap(&lease, &context, &found).await;
    assert!(matches!(refused, Err(KmsError::Disabled(_))));
}

#[tokio::test]
async fn a_rewrap_that_was_made_up_or_changed_on_disk_is_not_run() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let (from, to) = (rig.key().await, rig.key().await);
    let id = rig.start(&from, &to).await.expect("begun");
    let rows = rig.rows(table::KMS_REWRAP).await;
    let [(row, value)] = rows.as_slice() else {
        unreachable!("one re-wrap")
    };
    // As another one's, and with other keys.
    let mut elsewhere = row.clone();
    *elsewhere.last_mut().expect("an id") ^= 1;
    rig.put(&elsewhere, value).await;
    let mut changed = value.clone();
    *changed.last_mut().expect("a record") ^= 1;
    rig.put(row, &changed).await;
    assert!(rig.kms.claim_rewrap(true).await.expect("records").is_none());
    let found = rig.kms.find_rewrap(id).await;
    assert!(matches!(found, Err(KmsError::Damaged(_))));
    let proof = may("kms:ListRewraps", Resource::Service);
    assert_eq!(rig.kms.list_rewraps(&proof).await.expect("a list"), []);
    rig.put(row, value).await;
    assert!(rig.kms.claim_rewrap(true).await.expect("records").is_some());
}

#[tokio::test]
async fn so_many_rewraps_may_wait_and_not_one_more() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let (from, to) = (rig.key().await, rig.key().await);
    for _ in 0..REWRAPS_OPEN_MAX {
        rig.start(&from, &to).await.expect("begun");
    }
    let refused = rig.start(&from, &to).await;
    assert!(matches!(refused, Err(KmsError::LimitExceeded(_))));
    let lease = rig.kms.claim_rewrap(false).await.expect("records");
    let ended = rig
        .kms
        .end_rewrap(lease.expect("the oldest"), RewrapState::Completed)
        .await
        .expect("records")
        .expect("ours");
    assert_eq!(ended.remaining, Some(Dependent::default()));
    rig.start(&from, &to).await.expect("there is room");
}

#[tokio::test]
async fn the_proofs_of_a_rewrap_are_of_its_keys() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let (from, to) = (rig.key().await, rig.key().await);
    let [start, unwrap, wrap] = proofs(&from, &to);
    let turned = new(&to, &from);
    let refused = rig
        .kms
        .start_rewrap([&start, &unwrap, &wrap], &turned)
        .await;
    assert!(matches!(refused, Err(KmsError::Internal { .. })));
    let refused = rig
        .kms
        .start_rewrap([&start, &start, &wrap], &new(&from, &to))
        .await;
    assert!(matches!(refused, Err(KmsError::Internal { .. })));
}

/// The root of a second account.
fn them() -> RequestContext {
    request_of(AccountId::parse("210987654321").expect("twelve digits"))
}

/// A re-wrap from one new key of the caller's to another.
async fn begun_by(rig: &Rig, caller: &RequestContext) -> String {
    let mut input = json!({});
    for name in ["FromKeyId", "ToKeyId"] {
        let (status, made) = rig.api_as(caller, "CreateKey", json!({})).await;
        assert_eq!(status, 200, "{made}");
        input[name] = made["KeyMetadata"]["KeyId"].clone();
    }
    begun_again(rig, caller, &input).await
}

async fn begun_again(rig: &Rig, caller: &RequestContext, input: &serde_json::Value) -> String {
    let (status, begun) = rig
        .api_as(caller, "Strongroom.StartRewrap", input.clone())
        .await;
    assert_eq!(status, 200, "{begun}");
    text(&begun["RewrapId"])
}

#[tokio::test]
async fn accounts_take_turns_at_their_rewraps() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let first = begun_by(&rig, &request()).await;
    rig.clock.shift_to(1);
    let second = begun_by(&rig, &request()).await;
    rig.clock.shift_to(2);
    let theirs = begun_by(&rig, &them()).await;
    let claim = async || {
        let lease = rig.kms.claim_rewrap(false).await.expect("records");
        lease.expect("a re-wrap")
    };
    for expected in [&first, &theirs, &first, &theirs] {
        let lease = claim().await;
        assert_eq!(lease.rewrap().id.to_string(), *expected);
        let waits = rig.kms.another_account_waits(&lease).await;
        assert!(waits.expect("records"));
        let back = rig.kms.put_back_rewrap(lease, Duration::ZERO).await;
        back.expect("put back");
    }
    // One that is to rest keeps nobody waiting, and gets nobody's turn.
    let lease = claim().await;
    assert_eq!(lease.rewrap().id.to_string(), first);
    let back = rig.kms.put_back_rewrap(lease, Duration::from_mins(1)).await;
    back.expect("put back");
    let lease = claim().await;
    assert_eq!(lease.rewrap().id.to_string(), theirs);
    let ended = rig.kms.end_rewrap(lease, RewrapState::Completed).await;
    ended.expect("records").expect("ours");
    let lease = claim().await;
    assert_eq!(lease.rewrap().id.to_string(), second);
    let waits = rig.kms.another_account_waits(&lease).await;
    assert!(!waits.expect("records"), "those of one account do not");
    rig.clock.shift_to(120);
    let lease = claim().await;
    assert_eq!(lease.rewrap().id.to_string(), first);
}

#[tokio::test]
async fn the_first_account_sees_the_rewraps_of_all_and_calls_them_off() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let ours = begun_by(&rig, &request()).await;
    rig.clock.shift_to(1);
    let theirs = begun_by(&rig, &them()).await;
    let listed = async |caller: &RequestContext| {
        let (_, listed) = rig
            .api_as(caller, "Strongroom.ListRewraps", json!({}))
            .await;
        let rewraps = listed["Rewraps"].as_array().expect("a list").clone();
        rewraps
            .iter()
            .map(|found| text(&found["RewrapId"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(&request()).await, [ours.clone(), theirs.clone()]);
    assert_eq!(listed(&them()).await, std::slice::from_ref(&theirs));
    for (caller, rewrap, status) in [
        (them(), &ours, 400),
        (request(), &theirs, 200),
        (request(), &ours, 200),
    ] {
        for operation in ["DescribeRewrap", "CancelRewrap"] {
            let operation = format!("Strongroom.{operation}");
            let input = json!({ "RewrapId": rewrap });
            let (answered, body) = rig.api_as(&caller, &operation, input).await;
            assert_eq!(answered, status, "{operation}: {body}");
        }
    }
}

#[tokio::test]
async fn rewraps_that_wait_are_counted_for_each_account() {
    let mut rig = Rig::new();
    rig.with_made_up_dependants(false);
    let (from, to) = (rig.key().await, rig.key().await);
    for _ in 0..REWRAPS_OPEN_MAX {
        rig.start(&from, &to).await.expect("begun");
    }
    begun_by(&rig, &them()).await;
    let refused = rig.start(&from, &to).await;
    assert!(matches!(refused, Err(KmsError::LimitExceeded(_))));
}
