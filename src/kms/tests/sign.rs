//! Keys that sign: tools of the token, seen through the API.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use strongroom_hsm::testing::fault::{Fault, Op};
use strongroom_hsm::{SignatureAlgorithm, ToolSpec};

use super::hmac::is_reported_and_kept;
use super::{Rig, Value, json, text};
use crate::kms::SIGN_MESSAGE_BYTES_MAX;
use crate::meta::table as tables;

async fn create(rig: &Rig, spec: &str) -> Value {
    let input = json!({ "KeyUsage": "SIGN_VERIFY", "KeySpec": spec });
    rig.api_ok("CreateKey", input).await["KeyMetadata"].clone()
}

fn message(key: &Value, algorithm: &str, bytes: &[u8]) -> Value {
    json!({
        "KeyId": key["KeyId"],
        "Message": STANDARD.encode(bytes),
        "SigningAlgorithm": algorithm,
    })
}

fn digest(key: &Value, algorithm: &str, bytes: &[u8]) -> Value {
    with(
        message(key, algorithm, bytes),
        "MessageType",
        json!("DIGEST"),
    )
}

fn with(mut input: Value, member: &str, value: Value) -> Value {
    input[member] = value;
    input
}

/// The algorithms of a key, as the key itself tells them.
fn algorithms(key: &Value) -> Vec<SignatureAlgorithm> {
    let told = key["SigningAlgorithms"].as_array().expect("a list");
    let parse = |name: &Value| SignatureAlgorithm::parse(&text(name)).expect("is known");
    told.iter().map(parse).collect()
}

#[tokio::test]
async fn every_signature_verifies_here_and_by_the_public_key() {
    let rig = Rig::new();
    for spec in ToolSpec::SIGNERS {
        let ToolSpec::Sign(pair) = spec else { continue };
        let key = create(&rig, spec.name()).await;
        assert_eq!(key["KeyUsage"], "SIGN_VERIFY");
        assert_eq!(key["KeySpec"], spec.name());
        assert_eq!(key["CustomerMasterKeySpec"], key["KeySpec"]);
        assert!(key.get("EncryptionAlgorithms").is_none());
        assert!(key.get("MacAlgorithms").is_none());
        assert!(key.get("CurrentKeyMaterialId").is_none());
        assert_eq!(algorithms(&key), pair.algorithms());
        let told = rig
            .api_ok("GetPublicKey", json!({ "KeyId": key["KeyId"] }))
            .await;
        assert_eq!(told["KeyId"], key["Arn"]);
        assert_eq!(told["KeySpec"], spec.name());
        assert_eq!(told["CustomerMasterKeySpec"], spec.name());
        assert_eq!(told["KeyUsage"], "SIGN_VERIFY");
        assert_eq!(told["SigningAlgorithms"], key["SigningAlgorithms"]);
        let public = STANDARD.decode(text(&told["PublicKey"])).expect("base64");
        for algorithm in algorithms(&key) {
            let hashed = algorithm.hash().digest(b"message");
            let raw = message(&key, algorithm.name(), b"message");
            let made = rig.api_ok("Sign", raw.clone()).await;
            assert_eq!(made["KeyId"], key["Arn"]);
            assert_eq!(made["SigningAlgorithm"], algorithm.name());
            let signature = STANDARD.decode(text(&made["Signature"])).expect("base64");
            assert!(pair.verifies(&public, algorithm, &hashed, &signature));
            // The message and its digest are one.
            let hashed = digest(&key, algorithm.name(), &hashed);
            for input in [raw, hashed.clone()] {
                let input = with(input, "Signature", made["Signature"].clone());
                let verified = rig.api_ok("Verify", input).await;
                assert_eq!(verified["SignatureValid"], true);
                assert_eq!(verified["SigningAlgorithm"], algorithm.name());
            }
            rig.api_ok("Sign", hashed).await;
        }
    }
}

#[tokio::test]
async fn a_signature_of_another_message_key_or_form_is_invalid() {
    const ALGORITHM: &str = "ECDSA_SHA_256";
    let rig = Rig::new();
    let key = create(&rig, "ECC_NIST_P256").await;
    let other = create(&rig, "ECC_NIST_P256").await;
    let made = rig.api_ok("Sign", message(&key, ALGORITHM, b"m")).await;
    let signature = STANDARD.decode(text(&made["Signature"])).expect("base64");
    let longer = [signature.as_slice(), &[0]].concat();
    for (input, signature) in [
        (message(&key, ALGORITHM, b"n"), &signature[..]),
        (message(&other, ALGORITHM, b"m"), &signature[..]),
        (message(&key, ALGORITHM, b"m"), &signature[1..]),
        (message(&key, ALGORITHM, b"m"), &longer[..]),
        (message(&key, ALGORITHM, b"m"), &[7; 64]),
    ] {
        let input = with(input, "Signature", json!(STANDARD.encode(signature)));
        let (code, _) = rig.api_error("Verify", input).await;
        assert_eq!(code, "KMSInvalidSignatureException");
    }
}

#[tokio::test]
async fn a_key_does_what_its_usage_says_and_nothing_else() {
    let rig = Rig::new();
    let (signs, wraps) = (create(&rig, "ECC_NIST_P384").await, rig.key().await);
    let arn = text(&signs["Arn"]);
    for (operation, input) in [
        ("Encrypt", json!({ "Plaintext": "eA==" })),
        ("GenerateDataKey", json!({ "KeySpec": "AES_256" })),
        (
            "GenerateMac",
            json!({ "Message": "eA==", "MacAlgorithm": "HMAC_SHA_256" }),
        ),
    ] {
        let input = with(input, "KeyId", signs["KeyId"].clone());
        let (code, message) = rig.api_error(operation, input).await;
        assert_eq!(code, "InvalidKeyUsageException");
        assert_eq!(
            message,
            format!("{arn} key usage is SIGN_VERIFY which is not valid for {operation}.")
        );
    }
    let wraps = json!({ "KeyId": wraps.key_id().to_string(), "Arn": wraps.as_str() });
    for dry_run in [false, true] {
        let input = with(
            message(&wraps, "ECDSA_SHA_256", b"m"),
            "DryRun",
            json!(dry_run),
        );
        let (code, told) = rig.api_error("Sign", input).await;
        assert_eq!(code, "InvalidKeyUsageException");
        let arn = text(&wraps["Arn"]);
        assert_eq!(
            told,
            format!("{arn} key usage is ENCRYPT_DECRYPT which is not valid for Sign.")
        );
    }
    let (code, _) = rig
        .api_error("GetPublicKey", json!({ "KeyId": wraps["KeyId"] }))
        .await;
    assert_eq!(code, "UnsupportedOperationException");
    for operation in [
        "EnableKeyRotation",
        "DisableKeyRotation",
        "GetKeyRotationStatus",
        "ListKeyRotations",
        "RotateKeyOnDemand",
    ] {
        let input = json!({ "KeyId": signs["KeyId"] });
        let (code, _) = rig.api_error(operation, input).await;
        assert_eq!(code, "UnsupportedOperationException", "{operation}");
    }
}

#[tokio::test]
async fn algorithms_lengths_and_types_are_checked() {
    const ALGORITHM: &str = "ECDSA_SHA_384";
    let rig = Rig::new();
    let key = create(&rig, "ECC_NIST_P384").await;
    let (code, told) = rig
        .api_error("Sign", message(&key, "ECDSA_SHA_256", b"m"))
        .await;
    assert_eq!(code, "InvalidKeyUsageException");
    assert_eq!(
        told,
        "The algorithm ECDSA_SHA_256 is incompatible with the key spec ECC_NIST_P384."
    );
    for wrong in [47, 49] {
        let (code, told) = rig
            .api_error("Sign", digest(&key, ALGORITHM, &vec![7; wrong]))
            .await;
        assert_eq!(code, "ValidationException");
        assert_eq!(
            told,
            "Digest is invalid length for algorithm ECDSA_SHA_384."
        );
    }
    for (member, value, code) in [
        ("DryRun", json!(true), "DryRunOperationException"),
        ("SigningAlgorithm", json!("ECDSA"), "ValidationException"),
        ("MessageType", json!("TEXT"), "ValidationException"),
        ("MessageType", json!("EXTERNAL_MU"), "ValidationException"),
        ("Message", json!(""), "ValidationException"),
        ("GrantTokens", json!(["x"]), "InvalidGrantTokenException"),
    ] {
        let input = with(message(&key, ALGORITHM, b"m"), member, value);
        assert_eq!(rig.api_error("Sign", input.clone()).await.0, code);
        let input = with(input, "Signature", json!("eA=="));
        assert_eq!(rig.api_error("Verify", input).await.0, code);
    }
    let longest = vec![7; SIGN_MESSAGE_BYTES_MAX];
    rig.api_ok("Sign", message(&key, ALGORITHM, &longest)).await;
    let beyond = vec![7; SIGN_MESSAGE_BYTES_MAX + 1];
    assert_eq!(
        rig.api_error("Sign", message(&key, ALGORITHM, &beyond))
            .await
            .0,
        "ValidationException"
    );
}

#[tokio::test]
async fn spec_and_usage_must_go_together() {
    let rig = Rig::new();
    for (spec, usage, code) in [
        ("RSA_2048", None, "ValidationException"),
        (
            "RSA_2048",
            Some("ENCRYPT_DECRYPT"),
            "UnsupportedOperationException",
        ),
        ("RSA_2048", Some("KEY_AGREEMENT"), "ValidationException"),
        (
            "ECC_NIST_P256",
            Some("KEY_AGREEMENT"),
            "UnsupportedOperationException",
        ),
        (
            "ECC_SECG_P256K1",
            Some("KEY_AGREEMENT"),
            "ValidationException",
        ),
        (
            "ECC_NIST_P256",
            Some("ENCRYPT_DECRYPT"),
            "ValidationException",
        ),
        (
            "SYMMETRIC_DEFAULT",
            Some("SIGN_VERIFY"),
            "ValidationException",
        ),
        (
            "ECC_NIST_EDWARDS25519",
            Some("SIGN_VERIFY"),
            "UnsupportedOperationException",
        ),
        (
            "ML_DSA_44",
            Some("SIGN_VERIFY"),
            "UnsupportedOperationException",
        ),
    ] {
        let input = json!({ "KeySpec": spec, "KeyUsage": usage });
        let told = rig.api_error("CreateKey", input).await;
        assert_eq!(told.0, code, "{spec} {usage:?}: {}", told.1);
    }
    assert_eq!(rig.rows(tables::KMS_KEY).await.len(), 0);
}

#[tokio::test]
async fn a_key_that_is_disabled_or_dying_neither_signs_nor_verifies_nor_shows_itself() {
    let rig = Rig::new();
    rig.key().await;
    let before = rig.token_keys().await;
    let key = create(&rig, "ECC_NIST_P256").await;
    assert_eq!(rig.token_keys().await, before + 1);
    let named = json!({ "KeyId": key["KeyId"] });
    let signs = message(&key, "ECDSA_SHA_256", b"m");
    let verifies = with(signs.clone(), "Signature", json!("eA=="));
    let operations = [
        ("Sign", signs),
        ("Verify", verifies),
        ("GetPublicKey", named.clone()),
    ];
    rig.api_ok("DisableKey", named.clone()).await;
    for (operation, input) in operations.clone() {
        let (code, _) = rig.api_error(operation, input).await;
        assert_eq!(code, "DisabledException", "{operation}");
    }
    let input = with(named, "PendingWindowInDays", json!(7));
    rig.api_ok("ScheduleKeyDeletion", input).await;
    for (operation, input) in operations {
        let (code, _) = rig.api_error(operation, input).await;
        assert_eq!(code, "KMSInvalidStateException", "{operation}");
    }
    rig.clock.shift_to(8 * super::DAY);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("destroys"), 1);
    assert_eq!(rig.token_keys().await, before);
}

#[tokio::test]
async fn without_its_token_a_key_verifies_and_shows_itself_and_does_not_sign() {
    let rig = Rig::new();
    let key = create(&rig, "ECC_NIST_P256").await;
    let signs = message(&key, "ECDSA_SHA_256", b"m");
    let made = rig.api_ok("Sign", signs.clone()).await;
    rig.token.set_present(false);
    let (code, _) = rig.api_error("Sign", signs.clone()).await;
    assert_eq!(code, "KeyUnavailableException");
    let verifies = with(signs.clone(), "Signature", made["Signature"].clone());
    rig.api_ok("Verify", verifies).await;
    rig.api_ok("GetPublicKey", json!({ "KeyId": key["KeyId"] }))
        .await;
    rig.token.set_present(true);
    for _ in 0..50 {
        if rig.api("Sign", signs.clone()).await.0 == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("it does not heal");
}

#[tokio::test]
async fn a_signature_that_a_fault_has_spoilt_never_leaves() {
    let rig = Rig::new();
    let key = create(&rig, "ECC_NIST_P256").await;
    let signs = message(&key, "ECDSA_SHA_256", b"m");
    // Once is made good by asking again in a fresh session.
    rig.faults.once(Op::Sign, 1, Fault::Corrupt);
    let made = rig.api_ok("Sign", signs.clone()).await;
    let verifies = with(signs.clone(), "Signature", made["Signature"].clone());
    rig.api_ok("Verify", verifies).await;
    rig.faults.always(Op::Sign, Fault::Corrupt);
    let (code, _) = rig.api_error("Sign", signs).await;
    assert_eq!(code, "KeyUnavailableException");
}

#[tokio::test]
async fn a_token_that_cannot_sign_refuses_at_the_creation_and_leaves_nothing_behind() {
    let rig = Rig::new();
    rig.key().await;
    rig.token.set_tools(false);
    let input = json!({ "KeyUsage": "SIGN_VERIFY", "KeySpec": "RSA_2048" });
    let (code, message) = rig.api_error("CreateKey", input).await;
    assert_eq!(code, "UnsupportedOperationException");
    assert!(message.contains("RSA_2048"), "{message}");
    assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 0);
}

#[tokio::test]
async fn a_pair_that_was_made_and_not_recorded_is_reported_and_kept() {
    let input = json!({ "KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256" });
    is_reported_and_kept(input).await;
}

#[tokio::test]
async fn pairs_are_made_one_at_a_time() {
    const EACH: Duration = Duration::from_millis(150);
    let rig = Rig::new();
    rig.key().await;
    rig.faults.always(Op::GenerateTool, Fault::Hang(EACH));
    let began = Instant::now();
    let make = || create(&rig, "ECC_NIST_P256");
    let (one, two, three) = tokio::join!(make(), make(), make());
    assert!(began.elapsed() >= EACH * 3, "{:?}", began.elapsed());
    assert!(one != two && two != three);
    assert_eq!(rig.faults.calls(Op::GenerateTool), 3);
}

#[tokio::test]
async fn a_dry_run_refuses_what_the_call_would_refuse() {
    let rig = Rig::new();
    let key = create(&rig, "ECC_NIST_P256").await;
    let dry = |input: Value| with(input, "DryRun", json!(true));
    let signature = json!(STANDARD.encode([0; 64]));
    let asked = [
        (
            message(&key, "ECDSA_SHA_256", b"m"),
            "DryRunOperationException",
        ),
        (
            digest(&key, "ECDSA_SHA_256", &[7; 32]),
            "DryRunOperationException",
        ),
        (
            digest(&key, "ECDSA_SHA_256", &[7; 31]),
            "ValidationException",
        ),
        (
            message(&key, "ECDSA_SHA_384", b"m"),
            "InvalidKeyUsageException",
        ),
    ];
    for (input, expected) in asked {
        let (code, _) = rig.api_error("Sign", dry(input.clone())).await;
        assert_eq!(code, expected, "{input}");
        let verifies = with(dry(input), "Signature", signature.clone());
        let (code, _) = rig.api_error("Verify", verifies).await;
        assert_eq!(code, expected);
    }
    let input = json!({ "KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": "HMAC_256" });
    let key = rig.api_ok("CreateKey", input).await["KeyMetadata"].clone();
    let asked = [
        ("HMAC_SHA_256", "DryRunOperationException"),
        ("HMAC_SHA_512", "InvalidKeyUsageException"),
    ];
    for (algorithm, expected) in asked {
        let input = json!({
            "KeyId": key["KeyId"],
            "Message": STANDARD.encode(b"m"),
            "MacAlgorithm": algorithm,
            "DryRun": true,
        });
        let (code, _) = rig.api_error("GenerateMac", input.clone()).await;
        assert_eq!(code, expected);
        let verifies = with(input, "Mac", json!(STANDARD.encode([0; 32])));
        let (code, _) = rig.api_error("VerifyMac", verifies).await;
        assert_eq!(code, expected);
    }
}
