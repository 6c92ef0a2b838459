//! Keys whose material is brought along.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use strongroom_hsm::testing::fault::{Fault, Op};

use super::{DAY, Duration, Rig, Value, json, text};
use crate::kms::IMPORT_PAIRS_PER_KEY_MAX;
use crate::meta::{Batch, table as tables};

pub(super) async fn create(rig: &Rig) -> Value {
    let made = rig.api_ok("CreateKey", json!({ "Origin": "EXTERNAL" }));
    made.await["KeyMetadata"].clone()
}

pub(super) async fn describe(rig: &Rig, key: &Value) -> Value {
    let described = rig.api_ok("DescribeKey", json!({ "KeyId": key["KeyId"] }));
    described.await["KeyMetadata"].clone()
}

pub(super) async fn parameters(rig: &Rig, key: &Value) -> Value {
    let input = json!({
        "KeyId": key["KeyId"], "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
    });
    rig.api_ok("GetParametersForImport", input).await
}

fn wrapped(parameters: &Value, material: &[u8], sha1: bool) -> String {
    let public = STANDARD
        .decode(text(&parameters["PublicKey"]))
        .expect("base64");
    let public = PublicEncryptingKey::from_der(&public).expect("a public key");
    let public = OaepPublicEncryptingKey::new(public).expect("for OAEP");
    let mut out = vec![0; public.ciphertext_size()];
    let algorithm = if sha1 {
        &OAEP_SHA1_MGF1SHA1
    } else {
        &OAEP_SHA256_MGF1SHA256
    };
    public
        .encrypt(algorithm, material, &mut out, None)
        .expect("encrypts");
    STANDARD.encode(out)
}

pub(super) fn import(key: &Value, parameters: &Value, material: &[u8]) -> Value {
    json!({
        "KeyId": key["KeyId"],
        "ImportToken": parameters["ImportToken"],
        "EncryptedKeyMaterial": wrapped(parameters, material, false),
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    })
}

pub(super) async fn imported(rig: &Rig) -> Value {
    let key = create(rig).await;
    let parameters = parameters(rig, &key).await;
    rig.api_ok("ImportKeyMaterial", import(&key, &parameters, &[5; 32]))
        .await;
    key
}

/// A key that waits for its first material, or again for the one that it had.
pub(super) async fn waiting(rig: &Rig, again: bool) -> Value {
    if !again {
        return create(rig).await;
    }
    let key = imported(rig).await;
    let only = json!({ "KeyId": key["KeyId"] });
    rig.api_ok("DeleteImportedKeyMaterial", only).await;
    key
}

pub(super) fn plain(key: &Value) -> Value {
    json!({ "KeyId": key["KeyId"], "Plaintext": "eA==" })
}

#[tokio::test]
async fn a_key_waits_for_its_material_and_works_with_it() {
    let rig = Rig::new();
    let key = create(&rig).await;
    assert_eq!(key["Origin"], "EXTERNAL");
    assert_eq!(key["KeyState"], "PendingImport");
    assert!(key.get("CurrentKeyMaterialId").is_none());
    assert!(key.get("ExpirationModel").is_none());
    let (code, message) = rig.api_error("Encrypt", plain(&key)).await;
    assert_eq!(code, "KMSInvalidStateException");
    assert_eq!(message, format!("{} is pending import.", text(&key["Arn"])));
    let before = rig.token_keys().await;
    let parameters = parameters(&rig, &key).await;
    assert_eq!(rig.token_keys().await, before + 1);
    let done = rig
        .api_ok("ImportKeyMaterial", import(&key, &parameters, &[5; 32]))
        .await;
    // The pair has served: one key for another.
    assert_eq!(rig.token_keys().await, before + 1);
    assert_eq!(rig.rows(tables::KMS_IMPORT).await.len(), 0);
    let described = describe(&rig, &key).await;
    assert_eq!(described["KeyState"], "Enabled");
    assert_eq!(described["ExpirationModel"], "KEY_MATERIAL_DOES_NOT_EXPIRE");
    assert_eq!(described["CurrentKeyMaterialId"], done["KeyMaterialId"]);
    let made = rig.api_ok("Encrypt", plain(&key)).await;
    let back = json!({ "CiphertextBlob": made["CiphertextBlob"] });
    assert_eq!(rig.api_ok("Decrypt", back).await["Plaintext"], "eA==");
    let again = import(&key, &parameters, &[5; 32]);
    assert_eq!(
        rig.api_error("ImportKeyMaterial", again).await.0,
        "ExpiredImportTokenException"
    );
}

#[tokio::test]
async fn deleted_material_comes_back_as_itself_and_as_no_other() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    let made = rig.api_ok("Encrypt", plain(&key)).await;
    let back = json!({ "CiphertextBlob": made["CiphertextBlob"] });
    let id = describe(&rig, &key).await["CurrentKeyMaterialId"].clone();
    let before = rig.token_keys().await;
    let only = json!({ "KeyId": key["KeyId"] });
    rig.api_ok("DeleteImportedKeyMaterial", only.clone()).await;
    assert_eq!(rig.token_keys().await, before - 1);
    assert_eq!(describe(&rig, &key).await["KeyState"], "PendingImport");
    assert_eq!(
        rig.api_error("Decrypt", back.clone()).await.0,
        "KMSInvalidStateException"
    );
    // Once more has no effect, as AWS has it.
    let again = rig.api_ok("DeleteImportedKeyMaterial", only).await;
    assert_eq!(again["KeyMaterialId"], id);
    let parameters = parameters(&rig, &key).await;
    let other = import(&key, &parameters, &[6; 32]);
    assert_eq!(
        rig.api_error("ImportKeyMaterial", other).await.0,
        "IncorrectKeyMaterialException"
    );
    let same = import(&key, &parameters, &[5; 32]);
    rig.api_ok("ImportKeyMaterial", same).await;
    assert_eq!(describe(&rig, &key).await["CurrentKeyMaterialId"], id);
    assert_eq!(rig.api_ok("Decrypt", back).await["Plaintext"], "eA==");
    assert_eq!(rig.token_keys().await, before);
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
}

#[tokio::test]
async fn material_expires_at_its_moment_and_is_destroyed_by_the_clock() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let parameters = parameters(&rig, &key).await;
    let mut input = import(&key, &parameters, &[5; 32]);
    input["ExpirationModel"] = json!("KEY_MATERIAL_EXPIRES");
    assert_eq!(
        rig.api_error("ImportKeyMaterial", input.clone()).await.0,
        "ValidationException"
    );
    let end = parameters["ParametersValidTo"].as_f64().expect("a time");
    input["ValidTo"] = json!(end + 100.0);
    rig.api_ok("ImportKeyMaterial", input).await;
    let described = describe(&rig, &key).await;
    assert_eq!(described["ExpirationModel"], "KEY_MATERIAL_EXPIRES");
    assert_eq!(described["ValidTo"], json!(end + 100.0));
    rig.api_ok("Encrypt", plain(&key)).await;
    let held = rig.token_keys().await;
    rig.clock.shift_to(2 * DAY);
    // Before the clock has done anything.
    assert_eq!(
        rig.api_error("Encrypt", plain(&key)).await.0,
        "KMSInvalidStateException"
    );
    assert_eq!(describe(&rig, &key).await["KeyState"], "PendingImport");
    assert_eq!(rig.token_keys().await, held);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(rig.token_keys().await, held - 1);
    assert_eq!(describe(&rig, &key).await["KeyState"], "PendingImport");
}

#[tokio::test]
async fn tokens_are_of_one_key_and_of_one_day() {
    let rig = Rig::new();
    let (key, other) = (create(&rig).await, create(&rig).await);
    let parameters = parameters(&rig, &key).await;
    let mut input = import(&other, &parameters, &[5; 32]);
    let refused = rig.api_error("ImportKeyMaterial", input.clone()).await.0;
    assert_eq!(refused, "InvalidImportTokenException");
    input["KeyId"] = key["KeyId"].clone();
    let token = STANDARD
        .decode(text(&parameters["ImportToken"]))
        .expect("base64");
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] ^= 1;
        input["ImportToken"] = json!(STANDARD.encode(changed));
        let refused = rig.api_error("ImportKeyMaterial", input.clone()).await.0;
        assert_eq!(refused, "InvalidImportTokenException", "{at}");
    }
    input["ImportToken"] = parameters["ImportToken"].clone();
    let held = rig.token_keys().await;
    rig.clock.shift_to(DAY + 1);
    let refused = rig.api_error("ImportKeyMaterial", input).await.0;
    assert_eq!(refused, "ExpiredImportTokenException");
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(rig.token_keys().await, held - 1);
    assert_eq!(rig.rows(tables::KMS_IMPORT).await.len(), 0);
}

#[tokio::test]
async fn what_does_not_unwrap_leaves_nothing_behind_and_the_token_valid() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let parameters = parameters(&rig, &key).await;
    let held = rig.token_keys().await;
    let good = import(&key, &parameters, &[5; 32]);
    let sha1 = wrapped(&parameters, &[5; 32], true);
    for (encrypted, code) in [
        (STANDARD.encode([1; 256]), "InvalidCiphertextException"),
        (STANDARD.encode([1; 2048]), "InvalidCiphertextException"),
        (sha1, "InvalidCiphertextException"),
        (
            wrapped(&parameters, &[5; 16], false),
            "IncorrectKeyMaterialException",
        ),
    ] {
        let mut input = good.clone();
        input["EncryptedKeyMaterial"] = json!(encrypted);
        assert_eq!(rig.api_error("ImportKeyMaterial", input).await.0, code);
    }
    assert_eq!(rig.token_keys().await, held);
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    rig.api_ok("ImportKeyMaterial", good).await;
}

#[tokio::test]
async fn pairs_that_are_left_over_are_destroyed_from_their_rows() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let before = rig.token_keys().await;
    rig.faults.once(Op::GenerateTool, 1, Fault::FailAfter);
    let input = json!({
        "KeyId": key["KeyId"], "WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048",
    });
    rig.api_error("GetParametersForImport", input.clone()).await;
    assert_eq!(rig.token_keys().await, before + 1);
    for _ in 1..IMPORT_PAIRS_PER_KEY_MAX {
        rig.api_ok("GetParametersForImport", input.clone()).await;
    }
    let beyond = rig.api_error("GetParametersForImport", input).await.0;
    assert_eq!(beyond, "LimitExceededException");
    rig.clock.shift_to(DAY + 1);
    rig.another().destroy_due_keys().await.expect("tends");
    assert_eq!(rig.token_keys().await, before);
    assert_eq!(rig.rows(tables::KMS_IMPORT).await.len(), 0);
}

#[tokio::test]
async fn an_imported_key_is_not_rotated_by_itself_and_can_be_deleted_with_or_without_material() {
    let rig = Rig::new();
    let waiting = create(&rig).await;
    let before = rig.token_keys().await;
    let key = imported(&rig).await;
    let only = json!({ "KeyId": key["KeyId"] });
    let refused = rig.api_error("EnableKeyRotation", only.clone()).await.0;
    assert_eq!(refused, "UnsupportedOperationException");
    let status = rig.api_ok("GetKeyRotationStatus", only.clone()).await;
    assert_eq!(status["KeyRotationEnabled"], false);
    let refused = rig.api_error("EnableKey", json!({ "KeyId": waiting["KeyId"] }));
    assert_eq!(refused.await.0, "KMSInvalidStateException");
    for key in [&waiting, &key] {
        rig.api_ok(
            "ScheduleKeyDeletion",
            json!({ "KeyId": key["KeyId"], "PendingWindowInDays": 7 }),
        )
        .await;
        rig.api_ok("CancelKeyDeletion", json!({ "KeyId": key["KeyId"] }))
            .await;
    }
    assert_eq!(describe(&rig, &waiting).await["KeyState"], "PendingImport");
    assert_eq!(describe(&rig, &key).await["KeyState"], "Disabled");
    for key in [&waiting, &key] {
        rig.api_ok(
            "ScheduleKeyDeletion",
            json!({ "KeyId": key["KeyId"], "PendingWindowInDays": 7 }),
        )
        .await;
    }
    rig.clock.shift_to(8 * DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("destroys"), 2);
    assert_eq!(rig.token_keys().await, before);
}

#[tokio::test]
async fn a_key_of_the_tokens_own_material_takes_none_and_a_token_without_tools_no_such_key() {
    let rig = Rig::new();
    let own = json!({ "KeyId": rig.key().await.key_id().to_string() });
    let refused = rig.api_error("DeleteImportedKeyMaterial", own).await.0;
    assert_eq!(refused, "UnsupportedOperationException");
    rig.token.set_tools(false);
    let refused = rig.api_error("CreateKey", json!({ "Origin": "EXTERNAL" }));
    assert_eq!(refused.await.0, "UnsupportedOperationException");
}

#[tokio::test]
async fn who_makes_a_pair_keeps_no_other_from_making_keys() {
    let rig = Rig::new();
    let waiting = create(&rig).await;
    let key = rig.key().await;
    let rotate = json!({ "KeyId": key.key_id().to_string() });
    for (operation, input) in [
        (
            "GetParametersForImport",
            json!({
                "KeyId": waiting["KeyId"], "WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048",
            }),
        ),
        (
            "CreateKey",
            json!({ "KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY" }),
        ),
    ] {
        let begun = rig.faults.calls(Op::GenerateTool);
        let pause = Duration::from_secs(3);
        rig.faults.once(Op::GenerateTool, 1, Fault::Hang(pause));
        let pair = rig.api(operation, input);
        tokio::pin!(pair);
        let others = async {
            while rig.faults.calls(Op::GenerateTool) == begun {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            rig.api_ok("RotateKeyOnDemand", rotate.clone()).await;
        };
        tokio::select! {
            made = &mut pair => panic!("the pair was faster: {made:?}"),
            () = others => {}
        }
        let (status, body) = pair.await;
        assert_eq!(status, 200, "{body}");
    }
    let key = rig.kms.resolve_default_s3_key(rig.kms.account()).await;
    key.expect("a key");
}

#[tokio::test]
async fn pairs_that_have_served_and_could_not_be_destroyed_keep_no_others_from_being_made() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    rig.faults.always(Op::Destroy, Fault::Fail);
    for _ in 0..IMPORT_PAIRS_PER_KEY_MAX {
        let parameters = parameters(&rig, &key).await;
        rig.api_ok("ImportKeyMaterial", import(&key, &parameters, &[5; 32]))
            .await;
    }
    assert_eq!(
        rig.rows(tables::KMS_IMPORT).await.len(),
        IMPORT_PAIRS_PER_KEY_MAX
    );
    parameters(&rig, &key).await;
}

#[tokio::test]
async fn the_end_of_pairs_goes_past_those_that_wait() {
    let rig = Rig::new();
    let key = imported(&rig).await;
    // More than are looked at in one go, all of them unreadable and before any key's.
    let rows = (0_u16..1_001)
        .map(|number| [&[tables::KMS_IMPORT], number.to_be_bytes().as_slice()].concat());
    let damaged = rows.fold(Batch::new(), |batch, row| batch.put(row, b"damaged"));
    rig.meta.commit(damaged).await.expect("committed");
    parameters(&rig, &key).await;
    let before = rig.token_keys().await;
    rig.clock.shift_to(DAY + 1);
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(rig.token_keys().await, before - 1);
}
