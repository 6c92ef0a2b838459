//! The KMS API as its clients see it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Rig, Value, api, json, request, text};
use crate::kms::ALIASES_PER_KEY_MAX;

async fn create(rig: &Rig) -> Value {
    rig.api_ok("CreateKey", json!({ "Description": "a key" }))
        .await["KeyMetadata"]
        .clone()
}

#[tokio::test]
async fn key_metadata_is_complete() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let id = text(&key["KeyId"]);
    assert_eq!(key["AWSAccountId"], "123456789012");
    assert_eq!(
        key["Arn"],
        format!("arn:aws:kms:us-west-2:123456789012:key/{id}")
    );
    assert_eq!(key["Enabled"], true);
    assert_eq!(key["Description"], "a key");
    for (member, value) in [
        ("KeyUsage", "ENCRYPT_DECRYPT"),
        ("KeyState", "Enabled"),
        ("Origin", "AWS_KMS"),
        ("KeyManager", "CUSTOMER"),
        ("KeySpec", "SYMMETRIC_DEFAULT"),
        ("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
    ] {
        assert_eq!(key[member], value, "{member}");
    }
    assert_eq!(key["EncryptionAlgorithms"], json!(["SYMMETRIC_DEFAULT"]));
    assert_eq!(key["MultiRegion"], false);
    assert_eq!(text(&key["CurrentKeyMaterialId"]).len(), 64);
    assert!(key["CreationDate"].is_f64());
    assert!(key.get("DeletionDate").is_none());
}

#[tokio::test]
async fn answers_bear_the_request_id_and_the_content_type() {
    let rig = Rig::new();
    let response = api::handle(&rig.kms, &request(), "TrentService.ListKeys", b"").await;
    assert_eq!(response.headers()["x-amzn-requestid"], "request-1");
    assert_eq!(
        response.headers()["content-type"],
        "application/x-amz-json-1.1"
    );
}

#[tokio::test]
async fn a_key_is_found_by_all_four_forms_and_not_found_in_the_recorded_words() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let (id, arn) = (text(&key["KeyId"]), text(&key["Arn"]));
    rig.api_ok(
        "CreateAlias",
        json!({ "AliasName": "alias/x", "TargetKeyId": id }),
    )
    .await;
    for name in [
        &id,
        &arn,
        "alias/x",
        "arn:aws:kms:us-west-2:123456789012:alias/x",
    ] {
        let found = rig.api_ok("DescribeKey", json!({ "KeyId": name })).await;
        assert_eq!(found["KeyMetadata"]["Arn"], arn.as_str());
    }
    let unknown = "00000000-0000-4000-8000-000000000000";
    let home = "arn:aws:kms:us-west-2:123456789012";
    for (name, message) in [
        ("fake-key-id", "Invalid keyId 'fake-key-id'".to_owned()),
        (
            unknown,
            format!("Key '{home}:key/{unknown}' does not exist"),
        ),
        (
            &format!("arn:aws:kms:eu-west-1:123456789012:key/{id}"),
            "Invalid arn eu-west-1".to_owned(),
        ),
        ("alias/y", format!("Alias {home}:alias/y is not found.")),
    ] {
        let error = rig.api_error("DescribeKey", json!({ "KeyId": name })).await;
        assert_eq!(error, ("NotFoundException".to_owned(), message));
    }
    let other_account = format!("arn:aws:kms:us-west-2:210987654321:key/{id}");
    // Whether another account has such a key is not told.
    let (code, message) = rig
        .api_error("DescribeKey", json!({ "KeyId": other_account }))
        .await;
    assert_eq!(code, "AccessDeniedException");
    assert!(message.contains(&other_account), "{message}");
}

#[tokio::test]
async fn encrypt_and_decrypt_agree_on_the_context() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let input = json!({
        "KeyId": key["KeyId"], "Plaintext": STANDARD.encode("hello"), "EncryptionContext": { "a": "b" },
    });
    let encrypted = rig.api_ok("Encrypt", input).await;
    assert_eq!(encrypted["KeyId"], key["Arn"]);
    let blob = &encrypted["CiphertextBlob"];
    let decrypted = rig
        .api_ok(
            "Decrypt",
            json!({ "CiphertextBlob": blob, "EncryptionContext": { "a": "b" } }),
        )
        .await;
    assert_eq!(decrypted["Plaintext"], STANDARD.encode("hello"));
    assert_eq!(decrypted["KeyId"], key["Arn"]);
    assert_eq!(decrypted["KeyMaterialId"], key["CurrentKeyMaterialId"]);
    let error = rig
        .api_error("Decrypt", json!({ "CiphertextBlob": blob }))
        .await;
    assert_eq!(
        error,
        ("InvalidCiphertextException".to_owned(), String::new())
    );
}

#[tokio::test]
async fn decrypt_under_another_named_key_is_an_incorrect_key() {
    let rig = Rig::new();
    let (one, two) = (create(&rig).await, create(&rig).await);
    let encrypted = rig
        .api_ok(
            "Encrypt",
            json!({ "KeyId": one["KeyId"], "Plaintext": STANDARD.encode("x") }),
        )
        .await;
    let input = json!({ "CiphertextBlob": encrypted["CiphertextBlob"], "KeyId": two["KeyId"] });
    let error = rig.api_error("Decrypt", input).await;
    let message =
        "The key ID in the request does not identify a CMK that can perform this operation.";
    assert_eq!(
        error,
        ("IncorrectKeyException".to_owned(), message.to_owned())
    );
}

#[tokio::test]
async fn garbage_is_an_invalid_ciphertext() {
    let rig = Rig::new();
    let error = rig
        .api_error(
            "Decrypt",
            json!({ "CiphertextBlob": STANDARD.encode("garbage") }),
        )
        .await;
    assert_eq!(
        error,
        ("InvalidCiphertextException".to_owned(), String::new())
    );
}

#[tokio::test]
async fn re_encrypt_moves_a_ciphertext_to_another_key_and_context() {
    let rig = Rig::new();
    let (one, two) = (create(&rig).await, create(&rig).await);
    let plaintext = STANDARD.encode(vec![7; 4096]);
    let encrypted = rig
        .api_ok(
            "Encrypt",
            json!({ "KeyId": one["KeyId"], "Plaintext": plaintext }),
        )
        .await;
    let input = json!({
        "CiphertextBlob": encrypted["CiphertextBlob"],
        "DestinationKeyId": two["KeyId"],
        "DestinationEncryptionContext": { "to": "two" },
    });
    let moved = rig.api_ok("ReEncrypt", input).await;
    assert_eq!(
        (&moved["SourceKeyId"], &moved["KeyId"]),
        (&one["Arn"], &two["Arn"])
    );
    let input =
        json!({ "CiphertextBlob": moved["CiphertextBlob"], "EncryptionContext": { "to": "two" } });
    assert_eq!(
        rig.api_ok("Decrypt", input).await["Plaintext"],
        plaintext.as_str()
    );
}

#[tokio::test]
async fn data_keys_have_the_length_asked_for() {
    let rig = Rig::new();
    let key = create(&rig).await;
    for (member, value, bytes) in [
        ("KeySpec", json!("AES_256"), 32),
        ("KeySpec", json!("AES_128"), 16),
        ("NumberOfBytes", json!(1), 1),
        ("NumberOfBytes", json!(1024), 1024),
    ] {
        let made = rig
            .api_ok(
                "GenerateDataKey",
                json!({ "KeyId": key["KeyId"], member: value }),
            )
            .await;
        let plaintext = STANDARD.decode(text(&made["Plaintext"])).expect("base64");
        assert_eq!(plaintext.len(), bytes);
        let opened = rig
            .api_ok(
                "Decrypt",
                json!({ "CiphertextBlob": made["CiphertextBlob"] }),
            )
            .await;
        assert_eq!(opened["Plaintext"], made["Plaintext"]);
    }
    let input = json!({ "KeyId": key["KeyId"], "KeySpec": "AES_256" });
    assert!(
        rig.api_ok("GenerateDataKeyWithoutPlaintext", input)
            .await
            .get("Plaintext")
            .is_none()
    );
    for input in [
        json!({ "KeyId": key["KeyId"] }),
        json!({ "KeyId": key["KeyId"], "KeySpec": "AES_256", "NumberOfBytes": 32 }),
    ] {
        let error = rig.api_error("GenerateDataKey", input).await;
        assert_eq!(
            error.1,
            "Please specify either number of bytes or key spec."
        );
    }
}

#[tokio::test]
async fn random_bytes_have_bounds() {
    let rig = Rig::new();
    for bytes in [1, 1024] {
        let made = rig
            .api_ok("GenerateRandom", json!({ "NumberOfBytes": bytes }))
            .await;
        assert_eq!(
            STANDARD
                .decode(text(&made["Plaintext"]))
                .expect("base64")
                .len(),
            bytes
        );
    }
    for bytes in [0, 1025] {
        let (code, message) = rig
            .api_error("GenerateRandom", json!({ "NumberOfBytes": bytes }))
            .await;
        assert_eq!(code, "ValidationException");
        assert!(message.starts_with(&format!(
            "1 validation error detected: Value '{bytes}' at 'numberOfBytes' failed to satisfy constraint: "
        )));
    }
}

#[tokio::test]
async fn states_answer_in_the_recorded_words() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let (id, arn) = (json!({ "KeyId": key["KeyId"] }), text(&key["Arn"]));
    let use_it = json!({ "KeyId": key["KeyId"], "Plaintext": "eA==" });
    rig.api_ok("DisableKey", id.clone()).await;
    let error = rig.api_error("Encrypt", use_it.clone()).await;
    assert_eq!(
        error,
        (
            "DisabledException".to_owned(),
            format!("{arn} is disabled.")
        )
    );
    let scheduled = rig.api_ok("ScheduleKeyDeletion", id.clone()).await;
    assert_eq!(scheduled["KeyId"], arn.as_str());
    assert_eq!(scheduled["KeyState"], "PendingDeletion");
    assert_eq!(scheduled["PendingWindowInDays"], 30);
    let error = rig.api_error("Encrypt", use_it).await;
    assert_eq!(
        error,
        (
            "KMSInvalidStateException".to_owned(),
            format!("{arn} is pending deletion.")
        )
    );
    let described = rig.api_ok("DescribeKey", id.clone()).await;
    assert_eq!(
        described["KeyMetadata"]["DeletionDate"],
        scheduled["DeletionDate"]
    );
    assert_eq!(
        rig.api_ok("CancelKeyDeletion", id.clone()).await["KeyId"],
        arn.as_str()
    );
    assert_eq!(
        rig.api_ok("DescribeKey", id).await["KeyMetadata"]["KeyState"],
        "Disabled"
    );
}

#[tokio::test]
async fn windows_and_periods_have_bounds() {
    let rig = Rig::new();
    let key = create(&rig).await;
    for (operation, member, bad) in [
        ("ScheduleKeyDeletion", "PendingWindowInDays", [6, 31]),
        ("EnableKeyRotation", "RotationPeriodInDays", [89, 2561]),
    ] {
        for value in bad {
            let (code, _) = rig
                .api_error(operation, json!({ "KeyId": key["KeyId"], member: value }))
                .await;
            assert_eq!(code, "ValidationException");
        }
    }
    for value in [90, 2560] {
        let input = json!({ "KeyId": key["KeyId"], "RotationPeriodInDays": value });
        rig.api_ok("EnableKeyRotation", input).await;
    }
    for value in [7, 30] {
        let input = json!({ "KeyId": key["KeyId"], "PendingWindowInDays": value });
        rig.api_ok("ScheduleKeyDeletion", input).await;
        rig.api_ok("CancelKeyDeletion", json!({ "KeyId": key["KeyId"] }))
            .await;
    }
}

#[tokio::test]
async fn lists_go_on_at_their_markers() {
    let rig = Rig::new();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(text(&create(&rig).await["KeyId"]));
    }
    made.sort();
    let mut listed = Vec::new();
    let mut input = json!({ "Limit": 2 });
    loop {
        let page = rig.api_ok("ListKeys", input).await;
        listed.extend(
            page["Keys"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|key| text(&key["KeyId"])),
        );
        if page["Truncated"] == false {
            assert!(page.get("NextMarker").is_none());
            break;
        }
        input = json!({ "Limit": 2, "Marker": page["NextMarker"] });
    }
    assert_eq!(listed, made);
    let (code, _) = rig
        .api_error("ListKeys", json!({ "Marker": "nonsense" }))
        .await;
    assert_eq!(code, "InvalidMarkerException");
    assert_eq!(
        rig.api_error("ListKeys", json!({ "Limit": 1001 })).await.0,
        "ValidationException"
    );
}

#[tokio::test]
async fn rotations_are_listed_with_and_without_the_first_material() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let id = json!({ "KeyId": key["KeyId"] });
    rig.api_ok("RotateKeyOnDemand", id.clone()).await;
    let rotations = rig.api_ok("ListKeyRotations", id.clone()).await["Rotations"].clone();
    assert_eq!(rotations.as_array().expect("a list").len(), 1);
    assert_eq!(rotations[0]["RotationType"], "ON_DEMAND");
    assert_eq!(rotations[0]["KeyMaterialState"], "CURRENT");
    let input =
        json!({ "KeyId": key["KeyId"], "IncludeKeyMaterial": "ALL_KEY_MATERIAL", "Limit": 1 });
    let page = rig.api_ok("ListKeyRotations", input).await;
    assert_eq!(
        page["Rotations"][0]["KeyMaterialId"],
        key["CurrentKeyMaterialId"]
    );
    assert_eq!(page["Rotations"][0]["KeyMaterialState"], "NON_CURRENT");
    assert!(page["Rotations"][0].get("RotationDate").is_none());
    let described = rig.api_ok("DescribeKey", id).await;
    assert_eq!(
        described["KeyMetadata"]["CurrentKeyMaterialId"],
        rotations[0]["KeyMaterialId"]
    );
    let input = json!({
        "KeyId": key["KeyId"], "IncludeKeyMaterial": "ALL_KEY_MATERIAL", "Marker": page["NextMarker"],
    });
    assert_eq!(
        rig.api_ok("ListKeyRotations", input).await["Rotations"],
        rotations
    );
}

#[tokio::test]
async fn an_alias_is_made_moved_and_deleted() {
    let rig = Rig::new();
    let (one, two) = (create(&rig).await, create(&rig).await);
    let alias = json!({ "AliasName": "alias/x", "TargetKeyId": one["KeyId"] });
    rig.api_ok("CreateAlias", alias.clone()).await;
    let error = rig.api_error("CreateAlias", alias).await;
    assert_eq!(error.0, "AlreadyExistsException");
    rig.api_ok(
        "UpdateAlias",
        json!({ "AliasName": "alias/x", "TargetKeyId": two["KeyId"] }),
    )
    .await;
    let of_two = rig
        .api_ok("ListAliases", json!({ "KeyId": two["KeyId"] }))
        .await;
    assert_eq!(
        of_two["Aliases"][0]["AliasArn"],
        "arn:aws:kms:us-west-2:123456789012:alias/x"
    );
    assert_eq!(of_two["Aliases"][0]["TargetKeyId"], two["KeyId"]);
    let of_one = rig
        .api_ok("ListAliases", json!({ "KeyId": one["KeyId"] }))
        .await;
    assert_eq!(of_one["Aliases"], json!([]));
    rig.api_ok("DeleteAlias", json!({ "AliasName": "alias/x" }))
        .await;
    assert_eq!(
        rig.api_error("DeleteAlias", json!({ "AliasName": "alias/x" }))
            .await
            .0,
        "NotFoundException"
    );
    assert_eq!(
        rig.api_ok("ListAliases", json!({})).await["Aliases"],
        json!([])
    );
}

#[tokio::test]
async fn alias_names_have_rules() {
    let rig = Rig::new();
    let key = create(&rig).await;
    for (name, code) in [
        ("x", "ValidationException"),
        ("alias/", "ValidationException"),
        ("alias/a b", "ValidationException"),
        ("alias/aws/s3", "NotAuthorizedException"),
        ("alias/aws/mine", "NotAuthorizedException"),
    ] {
        let input = json!({ "AliasName": name, "TargetKeyId": key["KeyId"] });
        assert_eq!(rig.api_error("CreateAlias", input).await.0, code, "{name}");
    }
    for number in 0..ALIASES_PER_KEY_MAX {
        let input = json!({ "AliasName": format!("alias/{number}"), "TargetKeyId": key["KeyId"] });
        rig.api_ok("CreateAlias", input).await;
    }
    let input = json!({ "AliasName": "alias/one-too-many", "TargetKeyId": key["KeyId"] });
    assert_eq!(
        rig.api_error("CreateAlias", input).await.0,
        "LimitExceededException"
    );
}

#[tokio::test]
async fn tags_are_kept_and_have_rules() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let tag = |name: &str, value: &str| json!({ "TagKey": name, "TagValue": value });
    let put = |tags: Value| json!({ "KeyId": key["KeyId"], "Tags": tags });
    rig.api_ok("TagResource", put(json!([tag("b", "1"), tag("a", "2")])))
        .await;
    rig.api_ok("TagResource", put(json!([tag("b", "3")]))).await;
    let id = json!({ "KeyId": key["KeyId"] });
    let tags = rig.api_ok("ListResourceTags", id.clone()).await;
    assert_eq!(tags["Tags"], json!([tag("a", "2"), tag("b", "3")]));
    rig.api_ok(
        "UntagResource",
        json!({ "KeyId": key["KeyId"], "TagKeys": ["a", "zzz"] }),
    )
    .await;
    assert_eq!(
        rig.api_ok("ListResourceTags", id).await["Tags"],
        json!([tag("b", "3")])
    );
    let many: Vec<_> = (0..50)
        .map(|number| tag(&format!("t{number}"), ""))
        .collect();
    for (tags, message) in [
        (json!([tag("x", ""), tag("x", "")]), "Duplicate tag keys"),
        (json!(many), "Too many tags"),
        (
            json!([tag("aws:x", "")]),
            "Tags beginning with aws: are reserved",
        ),
    ] {
        let error = rig.api_error("TagResource", put(tags)).await;
        assert_eq!(error, ("TagException".to_owned(), message.to_owned()));
    }
    rig.api_ok("TagResource", put(json!(many[..49]))).await;
}

#[tokio::test]
async fn a_policy_is_kept() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let id = json!({ "KeyId": key["KeyId"] });
    let found = rig.api_ok("GetKeyPolicy", id.clone()).await;
    assert_eq!(found["PolicyName"], "default");
    assert!(text(&found["Policy"]).contains("arn:aws:iam::123456789012:root"));
    let policy = text(&found["Policy"]).replace("Enable IAM User Permissions", "Another");
    rig.api_ok(
        "PutKeyPolicy",
        json!({ "KeyId": key["KeyId"], "Policy": policy }),
    )
    .await;
    assert_eq!(
        rig.api_ok("GetKeyPolicy", id.clone()).await["Policy"],
        policy
    );
    assert_eq!(
        rig.api_ok("ListKeyPolicies", id).await["PolicyNames"],
        json!(["default"])
    );
    let error = rig
        .api_error(
            "PutKeyPolicy",
            json!({ "KeyId": key["KeyId"], "Policy": "no" }),
        )
        .await;
    assert_eq!(error.0, "MalformedPolicyDocumentException");
    let other = json!({ "KeyId": key["KeyId"], "PolicyName": "other" });
    assert_eq!(
        rig.api_error("GetKeyPolicy", other).await.0,
        "NotFoundException"
    );
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_and_not_ignored() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let unsupported = "UnsupportedOperationException";
    for (member, value) in [
        ("MultiRegion", json!(true)),
        ("Origin", json!("EXTERNAL_KEY_STORE")),
        ("KeySpec", json!("ML_DSA_44")),
        ("CustomerMasterKeySpec", json!("SM2")),
        ("XksKeyId", json!("x")),
    ] {
        assert_eq!(
            rig.api_error("CreateKey", json!({ member: value })).await.0,
            unsupported,
            "{member}"
        );
    }
    for (member, value, code) in [
        (
            "GrantTokens",
            json!(["token"]),
            "InvalidGrantTokenException",
        ),
        (
            "EncryptionAlgorithm",
            json!("SM2PKE"),
            "InvalidKeyUsageException",
        ),
        ("EncryptionAlgorithm", json!("ROT13"), "ValidationException"),
        ("DryRun", json!(true), "DryRunOperationException"),
    ] {
        let input = json!({ "KeyId": key["KeyId"], "Plaintext": "eA==", member: value });
        assert_eq!(rig.api_error("Encrypt", input).await.0, code, "{member}");
    }
    let encrypted = rig
        .api_ok(
            "Encrypt",
            json!({ "KeyId": key["KeyId"], "Plaintext": "eA==" }),
        )
        .await;
    for (member, value, code) in [
        ("Recipient", json!({}), unsupported),
        ("DryRunModifiers", json!(["OTHER"]), "ValidationException"),
        ("DryRun", json!(true), "DryRunOperationException"),
    ] {
        let input = json!({ "CiphertextBlob": encrypted["CiphertextBlob"], member: value });
        assert_eq!(rig.api_error("Decrypt", input).await.0, code, "{member}");
    }
    let lenient = json!({
        "KeyId": key["KeyId"], "Plaintext": "eA==", "GrantTokens": [], "DryRun": false, "Unknown": 1,
    });
    rig.api_ok("Encrypt", lenient).await;
}

#[tokio::test]
async fn other_operations_are_unsupported_or_unknown() {
    let rig = Rig::new();
    for (target, code) in [
        (
            "TrentService.DeriveSharedSecret",
            "UnsupportedOperationException",
        ),
        ("TrentService.ReplicateKey", "UnsupportedOperationException"),
        ("TrentService.Nonsense", "UnknownOperationException"),
        ("Nonsense", "UnknownOperationException"),
    ] {
        let response = api::handle(&rig.kms, &request(), target, b"{}").await;
        let body: Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(body["__type"], code, "{target}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_read_is_refused_without_being_repeated() {
    let rig = Rig::new();
    for body in [
        &b"{\"Plaintext\": \"secret"[..],
        b"[]",
        b"{\"Plaintext\": \"secret!\"}",
        b"\xFF",
    ] {
        let response = api::handle(&rig.kms, &request(), "TrentService.Encrypt", body).await;
        assert_eq!(response.status(), 400);
        let answer = String::from_utf8(response.body().to_vec()).expect("text");
        assert!(
            answer.contains("SerializationException") && !answer.contains("secret"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_missing_member_is_named() {
    let rig = Rig::new();
    let (code, message) = rig.api_error("DescribeKey", json!({})).await;
    assert_eq!(code, "ValidationException");
    assert_eq!(
        message,
        "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null"
    );
}

#[tokio::test]
async fn a_description_changes_within_its_limit() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let put = |length: usize| json!({ "KeyId": key["KeyId"], "Description": "ä".repeat(length) });
    rig.api_ok("UpdateKeyDescription", put(8192)).await;
    assert_eq!(
        rig.api_error("UpdateKeyDescription", put(8193)).await.0,
        "ValidationException"
    );
}

#[tokio::test]
async fn a_request_can_be_served_on_any_thread() {
    let rig = std::sync::Arc::new(Rig::new());
    let served = tokio::spawn(async move {
        api::handle(&rig.kms, &request(), "TrentService.CreateKey", b"")
            .await
            .status()
    });
    assert_eq!(served.await.expect("no panic"), 200);
}
