//! HMAC keys: tools of the token, seen through the API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use strongroom_hsm::testing::fault::{Fault, Op};

use super::{Rig, Value, json, text};
use crate::kms::MAC_MESSAGE_BYTES_MAX;
use crate::meta::table as tables;

async fn create(rig: &Rig, bits: u32) -> Value {
    let input = json!({ "KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": format!("HMAC_{bits}") });
    rig.api_ok("CreateKey", input).await["KeyMetadata"].clone()
}

fn message(key: &Value, bits: u32, bytes: usize) -> Value {
    json!({
        "KeyId": key["KeyId"],
        "Message": STANDARD.encode(vec![7; bytes]),
        "MacAlgorithm": format!("HMAC_SHA_{bits}"),
    })
}

fn with(mut input: Value, member: &str, value: Value) -> Value {
    input[member] = value;
    input
}

#[tokio::test]
async fn a_mac_key_describes_itself_and_its_macs_verify() {
    let rig = Rig::new();
    for (bits, bytes) in [(224, 28), (256, 32), (384, 48), (512, 64)] {
        let key = create(&rig, bits).await;
        assert_eq!(key["KeyUsage"], "GENERATE_VERIFY_MAC");
        assert_eq!(key["KeySpec"], format!("HMAC_{bits}"));
        assert_eq!(key["CustomerMasterKeySpec"], key["KeySpec"]);
        assert_eq!(key["MacAlgorithms"], json!([format!("HMAC_SHA_{bits}")]));
        assert!(key.get("EncryptionAlgorithms").is_none());
        assert!(key.get("CurrentKeyMaterialId").is_none());
        let made = rig.api_ok("GenerateMac", message(&key, bits, 3)).await;
        assert_eq!(made["KeyId"], key["Arn"]);
        let mac = STANDARD.decode(text(&made["Mac"])).expect("base64");
        assert_eq!(mac.len(), bytes);
        let again = with(message(&key, bits, 3), "Mac", made["Mac"].clone());
        let verified = rig.api_ok("VerifyMac", again).await;
        assert_eq!(verified["MacValid"], true);
        assert_eq!(verified["MacAlgorithm"], format!("HMAC_SHA_{bits}"));
    }
}

#[tokio::test]
async fn a_mac_of_another_message_key_or_length_is_invalid() {
    let rig = Rig::new();
    let (key, other) = (create(&rig, 256).await, create(&rig, 256).await);
    let made = rig.api_ok("GenerateMac", message(&key, 256, 3)).await;
    let mac = STANDARD.decode(text(&made["Mac"])).expect("base64");
    let longer = [mac.as_slice(), &[0]].concat();
    for (input, mac) in [
        (message(&key, 256, 4), &mac[..]),
        (message(&other, 256, 3), &mac[..]),
        (message(&key, 256, 3), &mac[..31]),
        (message(&key, 256, 3), &longer[..]),
    ] {
        let input = with(input, "Mac", json!(STANDARD.encode(mac)));
        let (code, _) = rig.api_error("VerifyMac", input).await;
        assert_eq!(code, "KMSInvalidMacException");
    }
}

#[tokio::test]
async fn a_key_does_what_its_usage_says_and_nothing_else() {
    let rig = Rig::new();
    let (mac, wraps) = (create(&rig, 256).await, rig.key().await);
    for (operation, input) in [
        ("Encrypt", json!({ "Plaintext": "eA==" })),
        ("Encrypt", json!({ "Plaintext": "eA==", "DryRun": true })),
        ("GenerateDataKey", json!({ "KeySpec": "AES_256" })),
        (
            "GenerateDataKeyWithoutPlaintext",
            json!({ "KeySpec": "AES_256" }),
        ),
    ] {
        let (code, message) = rig
            .api_error(operation, with(input, "KeyId", mac["KeyId"].clone()))
            .await;
        assert_eq!(code, "InvalidKeyUsageException");
        let arn = text(&mac["Arn"]);
        assert_eq!(
            message,
            format!("{arn} key usage is GENERATE_VERIFY_MAC which is not valid for {operation}.")
        );
    }
    let input = with(
        message(&mac, 256, 3),
        "KeyId",
        json!(wraps.key_id().to_string()),
    );
    let (code, message) = rig.api_error("GenerateMac", input).await;
    assert_eq!(code, "InvalidKeyUsageException");
    assert_eq!(
        message,
        format!("{wraps} key usage is ENCRYPT_DECRYPT which is not valid for GenerateMac.")
    );
    let ciphertext = rig
        .api_ok(
            "Encrypt",
            json!({ "KeyId": wraps.key_id().to_string(), "Plaintext": "eA==" }),
        )
        .await;
    let (code, message) = rig
        .api_error(
            "ReEncrypt",
            json!({ "CiphertextBlob": ciphertext["CiphertextBlob"], "DestinationKeyId": mac["KeyId"] }),
        )
        .await;
    assert_eq!(code, "InvalidKeyUsageException");
    assert!(message.ends_with("not valid for ReEncrypt."), "{message}");
}

#[tokio::test]
async fn a_mac_key_is_not_rotated_or_moved() {
    let rig = Rig::new();
    let key = create(&rig, 384).await;
    for operation in [
        "EnableKeyRotation",
        "DisableKeyRotation",
        "GetKeyRotationStatus",
        "ListKeyRotations",
        "RotateKeyOnDemand",
    ] {
        let (code, _) = rig
            .api_error(operation, json!({ "KeyId": key["KeyId"] }))
            .await;
        assert_eq!(code, "UnsupportedOperationException", "{operation}");
    }
}

#[tokio::test]
async fn states_and_algorithms_are_checked() {
    let rig = Rig::new();
    let key = create(&rig, 256).await;
    let (code, message_) = rig.api_error("GenerateMac", message(&key, 512, 3)).await;
    assert_eq!(code, "InvalidKeyUsageException");
    assert_eq!(
        message_,
        "The algorithm HMAC_SHA_512 is incompatible with the key spec HMAC_256."
    );
    for (member, value, code) in [
        ("DryRun", json!(true), "DryRunOperationException"),
        ("MacAlgorithm", json!("HMAC_MD5"), "ValidationException"),
        ("Message", json!(""), "ValidationException"),
        ("GrantTokens", json!(["x"]), "InvalidGrantTokenException"),
    ] {
        let input = with(message(&key, 256, 3), member, value);
        assert_eq!(rig.api_error("GenerateMac", input).await.0, code);
    }
    rig.api_ok("GenerateMac", message(&key, 256, MAC_MESSAGE_BYTES_MAX))
        .await;
    let beyond = message(&key, 256, MAC_MESSAGE_BYTES_MAX + 1);
    assert_eq!(
        rig.api_error("GenerateMac", beyond).await.0,
        "ValidationException"
    );
    rig.api_ok("DisableKey", json!({ "KeyId": key["KeyId"] }))
        .await;
    assert_eq!(
        rig.api_error("GenerateMac", message(&key, 256, 3)).await.0,
        "DisabledException"
    );
}

#[tokio::test]
async fn spec_and_usage_must_go_together() {
    let rig = Rig::new();
    for (input, code) in [
        (json!({ "KeySpec": "HMAC_256" }), "ValidationException"),
        (
            json!({ "KeyUsage": "GENERATE_VERIFY_MAC" }),
            "ValidationException",
        ),
        (
            json!({ "KeySpec": "HMAC_256", "KeyUsage": "ENCRYPT_DECRYPT" }),
            "ValidationException",
        ),
    ] {
        assert_eq!(rig.api_error("CreateKey", input).await.0, code);
    }
    assert_eq!(rig.rows(tables::KMS_KEY).await.len(), 0);
}

#[tokio::test]
async fn a_token_without_macs_refuses_at_the_creation_and_leaves_nothing_behind() {
    let rig = Rig::new();
    let wraps = rig.key().await;
    rig.token.set_tools(false);
    let input = json!({ "KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": "HMAC_256" });
    let (code, message) = rig.api_error("CreateKey", input).await;
    assert_eq!(code, "UnsupportedOperationException");
    assert!(message.contains("HMAC_256"), "{message}");
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
    let plain = json!({ "KeyId": wraps.key_id().to_string(), "Plaintext": "eA==" });
    rig.api_ok("Encrypt", plain).await;
}

#[tokio::test]
async fn a_mac_key_that_was_made_and_not_recorded_is_reported_and_kept() {
    let input = json!({ "KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": "HMAC_256" });
    is_reported_and_kept(input).await;
}

/// A tool of this kind, when something fails after it was made.
pub(super) async fn is_reported_and_kept(input: Value) {
    let rig = Rig::new();
    rig.key().await;
    let before = rig.token_keys().await;
    rig.faults.once(Op::GenerateTool, 1, Fault::FailAfter);
    let (code, _) = rig.api_error("CreateKey", input).await;
    assert_eq!(code, "KeyUnavailableException");
    assert_eq!(rig.token_keys().await, before + 1);
    rig.another().recover().await.expect("recovers");
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 1);
    assert_eq!(rig.token_keys().await, before + 1);
}

#[tokio::test]
async fn a_mac_key_is_destroyed_when_its_window_is_over() {
    let rig = Rig::new();
    rig.key().await;
    let before = rig.token_keys().await;
    let key = create(&rig, 512).await;
    assert_eq!(rig.token_keys().await, before + 1);
    let input = json!({ "KeyId": key["KeyId"], "PendingWindowInDays": 7 });
    rig.api_ok("ScheduleKeyDeletion", input).await;
    assert_eq!(
        rig.api_error("GenerateMac", message(&key, 512, 3)).await.0,
        "KMSInvalidStateException"
    );
    rig.clock.shift_to(8 * super::DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("destroys"), 1);
    assert_eq!(rig.token_keys().await, before);
}
