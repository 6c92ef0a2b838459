//! What imports leave, with a store of records that fails or shows what was written.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use strongroom_hsm::BackingKeyId;
use strongroom_hsm::testing::fault::{Fault, Op};

use super::accounts::them;
use super::import::{describe, import, imported, parameters, plain, waiting};
use super::materials::{encrypt, list, new, rotate, take, taken, two};
use super::{DAY, Rig, Value, json, may, request, text};
use crate::auth::{RequestContext, Resource};
use crate::kms::InventoryEntry;
use crate::kms::key::{KeyId, Owner};
use crate::kms::table::key_row;
use crate::meta::{Batch, Meta, MetaError, Row, Snapshot, Write, table as tables};

/// A store of records that keeps a copy of every intent, and fails when it is told to.
#[derive(Debug)]
struct Spy {
    inner: Arc<dyn Meta>,
    intents: Mutex<Vec<Row>>,
    /// What becomes of the next commit of a backing key.
    next: Mutex<Option<Commit>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// It is not applied, and fails.
    NotApplied,
    /// It is applied, and fails.
    Applied,
}

impl Spy {
    /// Puts itself before the records of a rig.
    fn on(rig: &mut Rig) -> Arc<Self> {
        let spy = Arc::new(Self {
            inner: Arc::clone(&rig.meta),
            intents: Mutex::default(),
            next: Mutex::default(),
        });
        rig.meta = Arc::<Self>::clone(&spy);
        rig.restart();
        spy
    }

    fn fail_next(&self, commit: Commit) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(commit);
    }

    fn fault_of(&self, batch: &Batch) -> Option<Commit> {
        let is_backing = |write: &Write| matches!(write, Write::Put(row, _) if row.first() == Some(&tables::KMS_BACKING));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take_if(|_commit| batch.writes().iter().any(is_backing))
    }

    fn last_intent(&self) -> Row {
        let intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        intents.last().expect("an intent").clone()
    }
}

#[async_trait]
impl Meta for Spy {
    async fn commit(&self, batch: Batch) -> Result<(), MetaError> {
        for write in batch.writes() {
            if let Write::Put(row, value) = write
                && row.first() == Some(&tables::KMS_INTENT)
            {
                let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
                intents.push((row.clone(), value.clone()));
            }
        }
        let fault = self.fault_of(&batch);
        if fault != Some(Commit::NotApplied) {
            self.inner.commit(batch).await?;
        }
        match fault {
            None => Ok(()),
            Some(_) => Err(MetaError::Storage {
                action: "a commit",
                source: "told to fail".into(),
            }),
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        self.inner.snapshot().await
    }
}

async fn ok(rig: &Rig, caller: &RequestContext, operation: &str, input: Value) -> Value {
    let (status, body) = rig.api_as(caller, operation, input).await;
    assert_eq!(status, 200, "{operation}: {body}");
    body
}

/// An intent that was genuine until its commit, and is put back after it.
#[tokio::test]
async fn an_intent_that_is_put_back_after_its_commit_destroys_nothing_of_any_account() {
    for caller in [request(), them()] {
        let mut rig = Rig::new();
        let spy = Spy::on(&mut rig);
        let made = ok(&rig, &caller, "CreateKey", json!({ "Origin": "EXTERNAL" })).await;
        let key = made["KeyMetadata"].clone();
        let parameters = json!({
            "KeyId": key["KeyId"], "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
        });
        let parameters = ok(&rig, &caller, "GetParametersForImport", parameters).await;
        let input = import(&key, &parameters, &[5; 32]);
        ok(&rig, &caller, "ImportKeyMaterial", input).await;
        let (row, intent) = spy.last_intent();
        assert!(rig.rows(tables::KMS_INTENT).await.is_empty());
        let before = rig.token_keys().await;

        rig.put(&row, &intent).await;
        rig.restart();
        rig.kms.recover().await.expect("recovers");
        assert_eq!(rig.token_keys().await, before);
        ok(&rig, &caller, "Encrypt", plain(&key)).await;
        assert!(rig.rows(tables::KMS_INTENT).await.is_empty());

        // With nothing recorded of the key either, there is no proof that it is not in use.
        let id = KeyId::parse(&text(&key["KeyId"])).expect("a key id");
        let heads = rig.rows(tables::KMS_KEY).await;
        let found = heads.iter().find(|(row, _)| *row == key_row(id));
        let (place, record) = found.expect("a head").clone();
        let gone = Batch::new().delete(place.as_slice());
        rig.meta.commit(gone).await.expect("committed");
        rig.put(&row, &intent).await;
        for _ in 0..2 {
            rig.restart();
            rig.kms.recover().await.expect("recovers");
            rig.kms.destroy_due_keys().await.expect("tends");
        }
        assert_eq!(rig.token_keys().await, before);
        assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 1);
        rig.put(&place, &record).await;
        rig.kms.destroy_due_keys().await.expect("tends");
        ok(&rig, &caller, "Encrypt", plain(&key)).await;
        assert_eq!(rig.token_keys().await, before);
    }
}

#[tokio::test]
async fn a_commit_that_fails_leaves_the_material_or_nothing() {
    for (commit, again) in [
        (Commit::NotApplied, false),
        (Commit::NotApplied, true),
        (Commit::Applied, false),
        (Commit::Applied, true),
    ] {
        let mut rig = Rig::new();
        let spy = Spy::on(&mut rig);
        let key = waiting(&rig, again).await;
        let before = rig.token_keys().await;
        let parameters = parameters(&rig, &key).await;
        let input = import(&key, &parameters, &[5; 32]);
        spy.fail_next(commit);
        rig.api_error("ImportKeyMaterial", input.clone()).await;
        // The pair and the material.
        assert_eq!(rig.token_keys().await, before + 2);
        rig.restart();
        rig.kms.recover().await.expect("recovers");
        assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
        if commit == Commit::NotApplied {
            assert_eq!(rig.token_keys().await, before + 1);
            rig.api_ok("ImportKeyMaterial", input).await;
        } else {
            assert_eq!(rig.token_keys().await, before + 2);
            // The pair has served.
            let refused = rig.api_error("ImportKeyMaterial", input).await.0;
            assert_eq!(refused, "ExpiredImportTokenException");
            rig.kms.destroy_due_keys().await.expect("tends");
        }
        assert_eq!(rig.token_keys().await, before + 1);
        assert_eq!(rig.rows(tables::KMS_IMPORT).await.len(), 0);
        rig.api_ok("Encrypt", plain(&key)).await;
    }
}

#[tokio::test]
async fn what_an_import_left_and_could_not_be_destroyed_is_at_the_next_turn_of_the_clock() {
    let mut rig = Rig::new();
    let key = imported(&rig).await;
    let held = rig.token_keys().await;
    rig.faults.once(Op::MakeCanary, 1, Fault::Fail);
    assert_ne!(take(&rig, &key, 6, new()).await.0, 200);
    rig.restart();
    rig.faults.always(Op::Destroy, Fault::Fail);
    // Whether an outage is told or not, it goes on.
    let _told = rig.kms.recover().await;
    rig.faults.heal();
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 1);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    // The pair may still be used.
    assert_eq!(rig.token_keys().await, held + 1);
}

#[tokio::test]
async fn material_that_the_token_has_lost_is_brought_again() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    let under = encrypt(&rig, &key).await;
    let held = rig.token_keys().await;
    let material = describe(&rig, &key).await["CurrentKeyMaterialId"].clone();
    for _ in 0..2 {
        // Lost, and lost once more under the identity that it has then.
        assert!(rig.token.lose(&backing_id(&rig, &key).await));
        let (code, _) = rig.api_error("Decrypt", under.clone()).await;
        assert_eq!(code, "KeyUnavailableException");
        assert_eq!(taken(&rig, &key, 5, json!({})).await, material);
        assert_eq!(
            rig.api_ok("Decrypt", under.clone()).await["Plaintext"],
            "eA=="
        );
        rig.api_ok("Encrypt", plain(&key)).await;
        assert_eq!(rig.token_keys().await, held);
        assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    }
    // What is there is not made again.
    let imports = rig.faults.calls(Op::MakeCanary);
    assert_eq!(taken(&rig, &key, 5, json!({})).await, material);
    assert_eq!(rig.faults.calls(Op::MakeCanary), imports);
}

/// The identity of a key's first backing key.
pub(super) async fn backing_id(rig: &Rig, key: &Value) -> BackingKeyId {
    let id = KeyId::parse(&text(&key["KeyId"])).expect("a key id");
    let owner = Owner::Key(rig.kms.key_arn(rig.kms.account(), id));
    let rows = rig.kms.rows().await.expect("rows");
    let backing = rows.backing(&owner, 1).await;
    backing.expect("a backing key").record.id()
}

#[tokio::test]
async fn a_re_import_of_what_waited_says_nothing_of_what_waits_now() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    let second = taken(&rig, &key, 6, new()).await;
    let again = parameters(&rig, &key).await;
    let mut again = import(&key, &again, &[6; 32]);
    again["KeyMaterialDescription"] = json!("of the second");
    let third = parameters(&rig, &key).await;
    let mut third = import(&key, &third, &[7; 32]);
    third["ImportType"] = json!("NEW_KEY_MATERIAL");
    let probes = rig.faults.calls(Op::Probe);
    let pause = std::time::Duration::from_secs(2);
    rig.faults.once(Op::Probe, 1, Fault::Hang(pause));
    let other = async {
        for _ in 0..1000 {
            if rig.faults.calls(Op::Probe) > probes {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let input = json!({ "KeyId": key["KeyId"], "KeyMaterialId": second });
        rig.api_ok("DeleteImportedKeyMaterial", input).await;
        rig.api_ok("ImportKeyMaterial", third).await
    };
    let ((status, body), third) = tokio::join!(rig.api("ImportKeyMaterial", again), other);
    assert_ne!(status, 200, "{body}");
    let listed = list(&rig, &key).await;
    assert_eq!(listed[1]["KeyMaterialId"], third["KeyMaterialId"]);
    assert!(listed[1].get("KeyMaterialDescription").is_none());
}

#[tokio::test]
async fn the_inventory_dates_the_rotation_and_tells_what_waits() {
    async fn entry(rig: &Rig, key: &Value) -> InventoryEntry {
        let proof = may("strongroom:KeyInventory", Resource::Service);
        let page = rig.kms.key_inventory(&proof, 100, None).await;
        let entries = page.expect("a page").items;
        let arn = text(&key["Arn"]);
        let mut entries = entries.into_iter();
        entries.find(|entry| entry.name == arn).expect("the key")
    }
    let rig = Rig::new();
    let key = imported(&rig).await;
    taken(&rig, &key, 6, new()).await;
    rig.clock.shift_to(DAY);
    rotate(&rig, &key).await;
    let told = entry(&rig, &key).await;
    assert!(told.rotated.millis() - told.versions[1].created.millis() >= (DAY - 60) * 1000);
    rig.clock.shift_to(2 * DAY);
    taken(&rig, &key, 7, new()).await;
    let later = entry(&rig, &key).await;
    assert_eq!(later.rotated, told.rotated);
    let told = later.versions.iter();
    let told: Vec<_> = told
        .map(|version| (version.is_current, version.is_waiting))
        .collect();
    assert_eq!(told, [(false, false), (true, false), (false, true)]);
}

/// How many events of the service itself have this name.
fn named(rig: &Rig, name: &str) -> usize {
    let events = rig.events();
    let own =
        |event: &&Value| event["eventName"] == name && event["eventType"] == "AwsServiceEvent";
    events.iter().filter(own).count()
}

#[tokio::test]
async fn the_audit_tells_of_material_before_it_is_destroyed_and_by_whose_will() {
    let rig = Rig::audited().await;
    let (key, [first, _], _) = two(&rig).await;
    let now = rig.kms.now().millis() / 1000;
    let until = json!({ "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": now + 2 * DAY });
    taken(&rig, &key, 5, until).await;
    let only = json!({ "KeyId": key["KeyId"] });
    // A caller's, ended by the clock after it would have expired.
    rig.faults.always(Op::Destroy, Fault::Fail);
    let input = json!({ "KeyId": key["KeyId"], "KeyMaterialId": first });
    rig.api_error("DeleteImportedKeyMaterial", input).await;
    rig.faults.heal();
    rig.clock.shift_to(3 * DAY);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(named(&rig, "DeleteExpiredKeyMaterial"), 0);
    assert_eq!(named(&rig, "DeleteImportedKeyMaterial"), 1);

    // One that expires, and is told of before anything happens to it.
    let until = json!({ "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": now + 5 * DAY });
    taken(&rig, &key, 5, until).await;
    rig.clock.shift_to(6 * DAY);
    let held = rig.token_keys().await;
    rig.faults.always(Op::Destroy, Fault::Fail);
    let _told = rig.kms.destroy_due_keys().await;
    rig.faults.heal();
    assert_eq!(rig.token_keys().await, held);
    assert_eq!(named(&rig, "DeleteExpiredKeyMaterial"), 1);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(named(&rig, "DeleteExpiredKeyMaterial"), 2);
    assert_eq!(named(&rig, "DeleteImportedKeyMaterial"), 1);
    let state = describe(&rig, &key).await["KeyState"].clone();
    assert_eq!(state, "PendingImport");
    let again = rig.api_ok("DeleteImportedKeyMaterial", only).await;
    assert_ne!(again["KeyMaterialId"], first);

    // What an import left.
    rig.faults.once(Op::MakeCanary, 1, Fault::Fail);
    assert_ne!(take(&rig, &key, 5, json!({})).await.0, 200);
    rig.clock.shift_to(6 * DAY + 16 * 60);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(named(&rig, "DeleteAbandonedKeyMaterial"), 1);
}
