//! Keys with several materials that were brought along.

use strongroom_hsm::testing::fault::{Fault, Op};

use super::import::{create, describe, import, imported, parameters, plain, waiting};
use super::{DAY, Rig, Value, json, text};
use crate::kms::ON_DEMAND_ROTATIONS_MAX;
use crate::meta::table as tables;

pub(super) async fn take(rig: &Rig, key: &Value, byte: u8, more: Value) -> (u16, Value) {
    let parameters = parameters(rig, key).await;
    let mut input = import(key, &parameters, &[byte; 32]);
    for (name, value) in more.as_object().expect("an object") {
        input[name] = value.clone();
    }
    rig.api("ImportKeyMaterial", input).await
}

pub(super) async fn taken(rig: &Rig, key: &Value, byte: u8, more: Value) -> Value {
    let (status, body) = take(rig, key, byte, more).await;
    assert_eq!(status, 200, "{body}");
    body["KeyMaterialId"].clone()
}

async fn refused(rig: &Rig, key: &Value, byte: u8, more: Value) -> String {
    let (status, body) = take(rig, key, byte, more).await;
    assert_ne!(status, 200, "{body}");
    text(&body["__type"])
}

pub(super) fn new() -> Value {
    json!({ "ImportType": "NEW_KEY_MATERIAL" })
}

pub(super) async fn rotate(rig: &Rig, key: &Value) {
    rig.api_ok("RotateKeyOnDemand", json!({ "KeyId": key["KeyId"] }))
        .await;
}

pub(super) async fn list(rig: &Rig, key: &Value) -> Vec<Value> {
    let input = json!({ "KeyId": key["KeyId"], "IncludeKeyMaterial": "ALL_KEY_MATERIAL" });
    let listed = rig.api_ok("ListKeyRotations", input).await;
    listed["Rotations"].as_array().expect("a list").clone()
}

pub(super) async fn encrypt(rig: &Rig, key: &Value) -> Value {
    let made = rig.api_ok("Encrypt", plain(key)).await;
    json!({ "CiphertextBlob": made["CiphertextBlob"] })
}

/// A key with two materials, the second current, and a ciphertext under each.
pub(super) async fn two(rig: &Rig) -> (Value, [Value; 2], [Value; 2]) {
    let key = imported(rig).await;
    let first = describe(rig, &key).await["CurrentKeyMaterialId"].clone();
    let under_first = encrypt(rig, &key).await;
    let second = taken(rig, &key, 6, new()).await;
    rotate(rig, &key).await;
    let under_second = encrypt(rig, &key).await;
    (key, [first, second], [under_first, under_second])
}

#[tokio::test]
async fn a_new_material_waits_and_is_rotated_to_and_both_decrypt() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    let first = describe(&rig, &key).await["CurrentKeyMaterialId"].clone();
    let under_first = encrypt(&rig, &key).await;
    let none = rig
        .api_error("RotateKeyOnDemand", json!({ "KeyId": key["KeyId"] }))
        .await;
    assert_eq!(none.0, "KMSInvalidStateException");
    assert_eq!(
        none.1,
        format!(
            "No available key material pending rotation for the key: {}.",
            text(&key["Arn"])
        )
    );
    let mut more = new();
    more["KeyMaterialDescription"] = json!("of 2026");
    let second = taken(&rig, &key, 6, more).await;
    assert_ne!(first, second);
    assert_eq!(describe(&rig, &key).await["CurrentKeyMaterialId"], first);
    let listed = list(&rig, &key).await;
    assert_eq!(listed[0]["KeyMaterialState"], "CURRENT");
    assert_eq!(listed[1]["KeyMaterialState"], "PENDING_ROTATION");
    assert_eq!(listed[1]["KeyMaterialDescription"], "of 2026");
    assert_eq!(listed[1]["ImportState"], "IMPORTED");
    assert_eq!(listed[1]["ExpirationModel"], "KEY_MATERIAL_DOES_NOT_EXPIRE");
    assert!(listed[1].get("RotationDate").is_none() && listed[1].get("RotationType").is_none());
    let only_rotations = json!({ "KeyId": key["KeyId"] });
    let rotations = rig.api_ok("ListKeyRotations", only_rotations.clone()).await;
    assert_eq!(rotations["Rotations"], json!([]));

    rotate(&rig, &key).await;
    assert_eq!(describe(&rig, &key).await["CurrentKeyMaterialId"], second);
    let listed = list(&rig, &key).await;
    assert_eq!(listed[0]["KeyMaterialState"], "NON_CURRENT");
    assert_eq!(listed[1]["KeyMaterialState"], "CURRENT");
    assert_eq!(listed[1]["RotationType"], "ON_DEMAND");
    assert!(listed[1]["RotationDate"].is_f64());
    let rotations = rig.api_ok("ListKeyRotations", only_rotations).await;
    assert_eq!(rotations["Rotations"], json!([listed[1].clone()]));
    let under_second = encrypt(&rig, &key).await;
    for (under, id) in [(under_first, &first), (under_second, &second)] {
        let opened = rig.api_ok("Decrypt", under).await;
        assert_eq!(opened["KeyMaterialId"], *id);
    }
}

#[tokio::test]
async fn pages_of_materials_follow_each_other() {
    let rig = Rig::new();
    let (key, ids, _) = two(&rig).await;
    taken(&rig, &key, 7, new()).await;
    let mut input =
        json!({ "KeyId": key["KeyId"], "IncludeKeyMaterial": "ALL_KEY_MATERIAL", "Limit": 1 });
    let mut seen = Vec::new();
    for _ in 0..3 {
        let page = rig.api_ok("ListKeyRotations", input.clone()).await;
        seen.push(page["Rotations"][0]["KeyMaterialId"].clone());
        input["Marker"] = page["NextMarker"].clone();
    }
    assert_eq!(seen[..2], ids);
    assert_eq!(input["Marker"], Value::Null);
}

#[tokio::test]
async fn import_types_are_held_to() {
    let rig = Rig::new();
    let key = create(&rig).await;
    // No pair waits yet.
    let held = rig.token_keys().await;
    let existing = json!({ "ImportType": "EXISTING_KEY_MATERIAL" });
    let incorrect = "IncorrectKeyMaterialException";
    assert_eq!(refused(&rig, &key, 5, existing.clone()).await, incorrect);
    let first = taken(&rig, &key, 5, new()).await;
    // Without a type what comes must have been there.
    assert_eq!(refused(&rig, &key, 6, json!({})).await, incorrect);
    assert_eq!(refused(&rig, &key, 6, existing.clone()).await, incorrect);
    assert_eq!(taken(&rig, &key, 5, existing.clone()).await, first);
    // What is new must be new.
    assert_eq!(refused(&rig, &key, 5, new()).await, incorrect);
    let both = json!({ "ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": first });
    assert_eq!(refused(&rig, &key, 6, both).await, "ValidationException");
    let second = taken(&rig, &key, 6, new()).await;
    let (_, body) = take(&rig, &key, 7, new()).await;
    assert_eq!(body["__type"], "KMSInvalidStateException");
    assert!(text(&body["message"]).contains(&text(&second)), "{body}");
    let named = |id: &Value| json!({ "KeyMaterialId": id });
    assert_eq!(refused(&rig, &key, 5, named(&second)).await, incorrect);
    assert_eq!(taken(&rig, &key, 5, named(&first)).await, first);
    assert_eq!(taken(&rig, &key, 6, named(&second)).await, second);
    let unknown = json!("0".repeat(64));
    assert_eq!(refused(&rig, &key, 5, named(&unknown)).await, incorrect);
    // No more pairs may wait.
    rig.clock.shift_to(DAY + 1);
    rig.kms.destroy_due_keys().await.expect("tends");
    for (member, value) in [
        ("KeyMaterialId", json!("0".repeat(63))),
        ("KeyMaterialId", json!("G".repeat(64))),
        ("KeyMaterialDescription", json!("")),
        ("KeyMaterialDescription", json!("a,b")),
        ("KeyMaterialDescription", json!("a".repeat(257))),
    ] {
        let refused = refused(&rig, &key, 5, json!({ member: value })).await;
        assert_eq!(refused, "ValidationException", "{member}");
    }
    // Of all that was refused nothing is left but pairs that wait.
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    let pairs = rig.rows(tables::KMS_IMPORT).await.len();
    assert_eq!(rig.token_keys().await, held + 2 + pairs);
    rig.clock.shift_to(3 * DAY);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(rig.rows(tables::KMS_IMPORT).await.len(), 0);
    assert_eq!(rig.token_keys().await, held + 2);
}

#[tokio::test]
async fn without_any_of_its_own_materials_the_whole_key_waits() {
    let rig = Rig::new();
    let (key, [first, second], [under_first, under_second]) = two(&rig).await;
    let named = |id: &Value| json!({ "KeyId": key["KeyId"], "KeyMaterialId": id });
    let gone = rig.api_ok("DeleteImportedKeyMaterial", named(&first)).await;
    assert_eq!(gone["KeyMaterialId"], first);
    assert_eq!(describe(&rig, &key).await["KeyState"], "PendingImport");
    assert_eq!(describe(&rig, &key).await["CurrentKeyMaterialId"], second);
    for under in [&under_first, &under_second] {
        assert_eq!(
            rig.api_error("Decrypt", under.clone()).await.0,
            "KMSInvalidStateException"
        );
    }
    assert_eq!(list(&rig, &key).await[0]["ImportState"], "PENDING_IMPORT");
    let only = json!({ "KeyId": key["KeyId"] });
    let current = rig.api_ok("DeleteImportedKeyMaterial", only).await;
    assert_eq!(current["KeyMaterialId"], second);
    assert_eq!(taken(&rig, &key, 5, json!({})).await, first);
    assert_eq!(describe(&rig, &key).await["KeyState"], "PendingImport");
    assert_eq!(taken(&rig, &key, 6, json!({})).await, second);
    assert_eq!(describe(&rig, &key).await["KeyState"], "Enabled");
    for under in [under_first, under_second] {
        assert_eq!(rig.api_ok("Decrypt", under).await["Plaintext"], "eA==");
    }
    let listed = list(&rig, &key).await;
    assert_eq!(listed[1]["RotationType"], "ON_DEMAND");
    let unknown = json!({ "KeyId": key["KeyId"], "KeyMaterialId": "0".repeat(64) });
    assert_eq!(
        rig.api_error("DeleteImportedKeyMaterial", unknown).await.0,
        "NotFoundException"
    );
}

#[tokio::test]
async fn a_material_that_waits_may_go_without_harm_and_another_takes_its_place() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    let under = encrypt(&rig, &key).await;
    let held = rig.token_keys().await;
    let waiting = taken(&rig, &key, 6, new()).await;
    let input = json!({ "KeyId": key["KeyId"], "KeyMaterialId": waiting });
    rig.api_ok("DeleteImportedKeyMaterial", input).await;
    assert_eq!(rig.token_keys().await, held);
    assert_eq!(list(&rig, &key).await.len(), 1);
    assert_eq!(describe(&rig, &key).await["KeyState"], "Enabled");
    let end = rig.kms.now().millis() / 1000 + 100;
    let mut expires = new();
    expires["ExpirationModel"] = json!("KEY_MATERIAL_EXPIRES");
    expires["ValidTo"] = json!(end);
    taken(&rig, &key, 7, expires).await;
    rig.clock.shift_to(2 * DAY);
    assert_eq!(list(&rig, &key).await[1]["ImportState"], "PENDING_IMPORT");
    assert_eq!(describe(&rig, &key).await["KeyState"], "Enabled");
    let rotated = json!({ "KeyId": key["KeyId"] });
    assert_eq!(
        rig.api_error("RotateKeyOnDemand", rotated).await.0,
        "KMSInvalidStateException"
    );
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(list(&rig, &key).await.len(), 1);
    assert_eq!(rig.token_keys().await, held);
    taken(&rig, &key, 8, new()).await;
    rotate(&rig, &key).await;
    assert_eq!(rig.api_ok("Decrypt", under).await["Plaintext"], "eA==");
}

#[tokio::test]
async fn each_material_expires_by_itself_and_the_first_is_told() {
    let rig = Rig::new();
    let (key, [first, second], _) = two(&rig).await;
    let now = rig.kms.now().millis() / 1000;
    let until = |seconds: i64| json!({ "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": now + seconds });
    assert_eq!(taken(&rig, &key, 5, until(3 * DAY)).await, first);
    assert_eq!(taken(&rig, &key, 6, until(2 * DAY)).await, second);
    let described = describe(&rig, &key).await;
    assert_eq!(described["ExpirationModel"], "KEY_MATERIAL_EXPIRES");
    let told = described["ValidTo"].as_f64().expect("a time");
    assert_eq!(format!("{told:.0}"), (now + 2 * DAY).to_string());
    rig.clock.shift_to(2 * DAY + 10);
    assert_eq!(describe(&rig, &key).await["KeyState"], "PendingImport");
    rig.kms.destroy_due_keys().await.expect("tends");
    let listed = list(&rig, &key).await;
    assert_eq!(listed[0]["ImportState"], "IMPORTED");
    assert_eq!(listed[1]["ImportState"], "PENDING_IMPORT");
    assert_eq!(taken(&rig, &key, 6, json!({})).await, second);
    assert_eq!(describe(&rig, &key).await["KeyState"], "Enabled");
}

#[tokio::test]
async fn rotations_to_imported_material_end_at_the_limit() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    for number in 0..ON_DEMAND_ROTATIONS_MAX {
        let byte = u8::try_from(100 + number).expect("small");
        taken(&rig, &key, byte, new()).await;
        rotate(&rig, &key).await;
    }
    taken(&rig, &key, 200, new()).await;
    let beyond = rig
        .api_error("RotateKeyOnDemand", json!({ "KeyId": key["KeyId"] }))
        .await;
    assert_eq!(beyond.0, "LimitExceededException");
}

#[tokio::test]
async fn a_disabled_key_is_not_rotated_and_a_deleted_one_leaves_nothing() {
    let rig = Rig::new();
    rig.key().await;
    let before = rig.token_keys().await;
    let (key, ..) = two(&rig).await;
    taken(&rig, &key, 7, new()).await;
    let only = json!({ "KeyId": key["KeyId"] });
    rig.api_ok("DisableKey", only.clone()).await;
    assert_eq!(
        rig.api_error("RotateKeyOnDemand", only).await.0,
        "DisabledException"
    );
    rig.api_ok(
        "ScheduleKeyDeletion",
        json!({ "KeyId": key["KeyId"], "PendingWindowInDays": 7 }),
    )
    .await;
    rig.clock.shift_to(8 * DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("destroys"), 1);
    assert_eq!(rig.token_keys().await, before);
    assert_eq!(rig.rows(tables::KMS_BACKING).await.len(), 1);
}

#[tokio::test]
async fn a_rotation_asks_the_token_first() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    let first = describe(&rig, &key).await["CurrentKeyMaterialId"].clone();
    taken(&rig, &key, 6, new()).await;
    rig.faults.always(Op::Probe, Fault::Fail);
    rig.api_error("RotateKeyOnDemand", json!({ "KeyId": key["KeyId"] }))
        .await;
    rig.faults.heal();
    assert_eq!(describe(&rig, &key).await["CurrentKeyMaterialId"], first);
    rotate(&rig, &key).await;
}

/// Whatever step of an import a process dies in: the next one finds nothing left of it, and the import can be done again.
#[tokio::test]
async fn what_an_import_leaves_when_it_dies_is_destroyed_by_the_next_process() {
    for (op, nth, fault) in [
        // The first only tries the material.
        (Op::Import, 2, Fault::Fail),
        (Op::Import, 2, Fault::FailAfter),
        (Op::MakeCanary, 1, Fault::Fail),
        (Op::MakeCanary, 1, Fault::FailAfter),
        (Op::Probe, 1, Fault::Fail),
        (Op::Probe, 1, Fault::FailAfter),
    ] {
        for again in [false, true] {
            let mut rig = Rig::new();
            let key = waiting(&rig, again).await;
            let before = rig.token_keys().await;
            let parameters = parameters(&rig, &key).await;
            let input = import(&key, &parameters, &[5; 32]);
            rig.faults.once(op, nth, fault.clone());
            rig.api_error("ImportKeyMaterial", input.clone()).await;
            rig.restart();
            rig.kms.recover().await.expect("recovers");
            // The pair is what may still be used.
            assert_eq!(rig.token_keys().await, before + 1, "{op:?} {nth} {fault:?}");
            assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
            rig.api_ok("ImportKeyMaterial", input).await;
            assert_eq!(rig.token_keys().await, before + 1);
            rig.api_ok("Encrypt", plain(&key)).await;
        }
    }
}

#[tokio::test]
async fn a_forged_intent_destroys_nothing() {
    let mut rig = Rig::new();
    let key = imported(&rig).await;
    // An intent of an import that died, put under the identity of a backing key that is in use.
    rig.faults.once(Op::MakeCanary, 1, Fault::Fail);
    assert_ne!(take(&rig, &key, 6, new()).await.0, 200);
    let intents = rig.rows(tables::KMS_INTENT).await;
    let [(row, intent)] = intents.as_slice() else {
        panic!("{intents:?}");
    };
    let id = describe(&rig, &key).await["CurrentKeyMaterialId"].clone();
    let forged = [
        [tables::KMS_INTENT].as_slice(),
        &hex::decode(text(&id)).expect("hex"),
    ]
    .concat();
    assert_ne!(*row, forged);
    rig.put(&forged, intent).await;
    let held = rig.token_keys().await;
    rig.restart();
    rig.kms.recover().await.expect("recovers");
    assert_eq!(rig.token_keys().await, held - 1);
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 1);
    rig.api_ok("Encrypt", plain(&key)).await;
}

#[tokio::test]
async fn a_deletion_that_dies_half_way_is_ended_by_the_clock() {
    for fault in [Fault::Fail, Fault::FailAfter] {
        let mut rig = Rig::new();
        let (key, [first, _], _) = two(&rig).await;
        let before = rig.token_keys().await;
        rig.faults.always(Op::Destroy, fault);
        let input = json!({ "KeyId": key["KeyId"], "KeyMaterialId": first });
        rig.api_error("DeleteImportedKeyMaterial", input).await;
        rig.faults.heal();
        assert_eq!(describe(&rig, &key).await["KeyState"], "PendingImport");
        rig.restart();
        rig.kms.destroy_due_keys().await.expect("tends");
        assert_eq!(rig.token_keys().await, before - 1);
        assert_eq!(taken(&rig, &key, 5, json!({})).await, first);
        assert_eq!(describe(&rig, &key).await["KeyState"], "Enabled");
    }
}
