//! Keys of several accounts: whose a key is, by which names who finds it, and what of it can be had from elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{DAY, DECRYPT, Rig, account, context, may_key, request, request_of, text};
use crate::auth::policy::{Document, Kind};
use crate::auth::{AccountId, Identity, RequestContext, User};
use crate::kms::{EncryptedDataKey, KeyRef, KmsError};
use crate::meta::table;

const OURS: &str = "123456789012";
const THEIRS: &str = "210987654321";
const DENIED: &str = "AccessDeniedException";
const NOT_FOUND: &str = "NotFoundException";

fn their_account() -> AccountId {
    AccountId::parse(THEIRS).expect("twelve digits")
}

/// The root of the second account.
pub(super) fn them() -> RequestContext {
    request_of(their_account())
}

/// A user of the second account with one policy.
fn their_user(actions: &str) -> RequestContext {
    let statement = json!({ "Effect": "Allow", "Action": actions, "Resource": "*" });
    let policy = json!({ "Version": "2012-10-17", "Statement": statement }).to_string();
    let policy = Document::parse(&policy, Kind::Identity).expect("a policy");
    let mut caller = them();
    caller.principal.identity = Identity::User(std::sync::Arc::new(User {
        id: "AIDATHEIRS".to_owned(),
        path: "/".to_owned(),
        name: "anna".to_owned(),
        policies: vec![std::sync::Arc::new(policy)],
    }));
    caller
}

fn open_to(account: &str, owner: &str) -> Value {
    let allow = |who: &str| json!({ "Effect": "Allow", "Principal": { "AWS": who }, "Action": "kms:*", "Resource": "*" });
    let statements = json!([allow(owner), allow(account)]);
    json!(json!({ "Version": "2012-10-17", "Statement": statements }).to_string())
}

async fn key_of(rig: &Rig, caller: &RequestContext) -> Value {
    let (status, body) = rig.api_as(caller, "CreateKey", json!({})).await;
    assert_eq!(status, 200, "{body}");
    body["KeyMetadata"].clone()
}

/// `200`, or the code of the refusal.
async fn answer(rig: &Rig, caller: &RequestContext, operation: &str, input: Value) -> String {
    match rig.api_as(caller, operation, input).await {
        (200, _) => "200".to_owned(),
        (_, refused) => text(&refused["__type"]),
    }
}

async fn ok(rig: &Rig, caller: &RequestContext, operation: &str, input: Value) -> Value {
    let (status, body) = rig.api_as(caller, operation, input).await;
    assert_eq!(status, 200, "{operation}: {body}");
    body
}

#[tokio::test]
async fn a_key_is_of_the_account_that_made_it() {
    let rig = Rig::new();
    let theirs = key_of(&rig, &them()).await;
    assert_eq!(theirs["AWSAccountId"], THEIRS);
    let id = text(&theirs["KeyId"]);
    assert_eq!(
        theirs["Arn"],
        format!("arn:aws:kms:us-west-2:{THEIRS}:key/{id}")
    );
    let ours = key_of(&rig, &request()).await;
    for (caller, key) in [(request(), &ours), (them(), &theirs)] {
        let listed = ok(&rig, &caller, "ListKeys", json!({})).await;
        assert_eq!(
            listed["Keys"],
            json!([{ "KeyId": key["KeyId"], "KeyArn": key["Arn"] }])
        );
        let policy = ok(
            &rig,
            &caller,
            "GetKeyPolicy",
            json!({ "KeyId": key["KeyId"] }),
        )
        .await;
        let account = caller.principal.account;
        assert!(text(&policy["Policy"]).contains(&format!("arn:aws:iam::{account}:root")));
    }
}

#[tokio::test]
async fn keys_of_one_account_are_listed_page_by_page_past_those_of_others() {
    let rig = Rig::new();
    let mut made = Vec::new();
    for _ in 0..3 {
        key_of(&rig, &request()).await;
        made.push(text(&key_of(&rig, &them()).await["Arn"]));
    }
    made.sort_unstable();
    let mut listed = Vec::new();
    let mut input = json!({ "Limit": 1 });
    for _ in 0..3 {
        let page = ok(&rig, &them(), "ListKeys", input.clone()).await;
        assert_eq!(page["Keys"].as_array().map(Vec::len), Some(1));
        listed.push(text(&page["Keys"][0]["KeyArn"]));
        input["Marker"] = page["NextMarker"].clone();
    }
    assert_eq!(input["Marker"], Value::Null);
    assert_eq!(listed, made);
}

#[tokio::test]
async fn names_without_an_account_are_the_callers_own() {
    let rig = Rig::new();
    let (ours, theirs) = (key_of(&rig, &request()).await, key_of(&rig, &them()).await);
    for (caller, key) in [(request(), &ours), (them(), &theirs)] {
        let alias = json!({ "AliasName": "alias/pay", "TargetKeyId": key["KeyId"] });
        ok(&rig, &caller, "CreateAlias", alias).await;
    }
    for (caller, own, others) in [(request(), &ours, &theirs), (them(), &theirs, &ours)] {
        let account = caller.principal.account.clone();
        let describe = |name: &Value| json!({ "KeyId": name });
        let found = ok(&rig, &caller, "DescribeKey", describe(&json!("alias/pay"))).await;
        assert_eq!(found["KeyMetadata"]["Arn"], own["Arn"]);
        let (status, refused) = rig
            .api_as(&caller, "DescribeKey", describe(&others["KeyId"]))
            .await;
        assert_eq!(
            (status, text(&refused["__type"]).as_str()),
            (400, NOT_FOUND)
        );
        let unknown = format!(
            "Key 'arn:aws:kms:us-west-2:{account}:key/{}' does not exist",
            text(&others["KeyId"])
        );
        assert_eq!(refused["message"], unknown);
        // Under the account's own number the other's key is not there either.
        let disguised = format!(
            "arn:aws:kms:us-west-2:{account}:key/{}",
            text(&others["KeyId"])
        );
        let code = answer(&rig, &caller, "DescribeKey", describe(&json!(disguised))).await;
        assert_eq!(code, NOT_FOUND);
        let listed = ok(&rig, &caller, "ListAliases", json!({})).await;
        assert_eq!(listed["Aliases"].as_array().map(Vec::len), Some(1));
        assert_eq!(listed["Aliases"][0]["TargetKeyId"], own["KeyId"]);
        assert_eq!(
            listed["Aliases"][0]["AliasArn"],
            format!("arn:aws:kms:us-west-2:{account}:alias/pay")
        );
    }
    // One goes, the other stays.
    ok(
        &rig,
        &them(),
        "DeleteAlias",
        json!({ "AliasName": "alias/pay" }),
    )
    .await;
    ok(
        &rig,
        &request(),
        "DescribeKey",
        json!({ "KeyId": "alias/pay" }),
    )
    .await;
    let code = answer(
        &rig,
        &them(),
        "DescribeKey",
        json!({ "KeyId": "alias/pay" }),
    )
    .await;
    assert_eq!(code, NOT_FOUND);
}

#[tokio::test]
async fn aliases_of_one_account_are_listed_page_by_page_past_those_of_others() {
    let rig = Rig::new();
    for caller in [request(), them()] {
        let key = key_of(&rig, &caller).await;
        for name in ["alias/a", "alias/b", "alias/c"] {
            let alias = json!({ "AliasName": name, "TargetKeyId": key["KeyId"] });
            ok(&rig, &caller, "CreateAlias", alias).await;
        }
    }
    for caller in [request(), them()] {
        let mut listed = Vec::new();
        let mut input = json!({ "Limit": 2 });
        for _ in 0..2 {
            let page = ok(&rig, &caller, "ListAliases", input.clone()).await;
            for alias in page["Aliases"].as_array().expect("a list") {
                listed.push(text(&alias["AliasName"]));
                assert!(text(&alias["AliasArn"]).contains(caller.principal.account.as_str()));
            }
            input["Marker"] = page["NextMarker"].clone();
        }
        assert_eq!(listed, ["alias/a", "alias/b", "alias/c"]);
        assert_eq!(input["Marker"], Value::Null);
    }
}

#[tokio::test]
async fn a_key_of_another_account_is_used_by_its_arn_with_both_policies() {
    let rig = Rig::new();
    let key = key_of(&rig, &request()).await;
    let arn = text(&key["Arn"]);
    let alias_arn = format!("arn:aws:kms:us-west-2:{OURS}:alias/shared");
    let alias = json!({ "AliasName": "alias/shared", "TargetKeyId": key["KeyId"] });
    rig.api_ok("CreateAlias", alias).await;
    let encrypt = |name: &str| json!({ "KeyId": name, "Plaintext": "eA==" });
    let (may, may_not) = (their_user("kms:*"), their_user("s3:*"));
    for caller in [&may, &may_not, &them()] {
        assert_eq!(answer(&rig, caller, "Encrypt", encrypt(&arn)).await, DENIED);
    }
    let put = json!({ "KeyId": arn, "Policy": open_to(THEIRS, OURS) });
    rig.api_ok("PutKeyPolicy", put).await;
    for name in [&arn, &alias_arn] {
        assert_eq!(
            answer(&rig, &may_not, "Encrypt", encrypt(name)).await,
            DENIED
        );
        for caller in [&may, &them()] {
            let made = ok(&rig, caller, "Encrypt", encrypt(name)).await;
            assert_eq!(made["KeyId"], arn.as_str());
            let blob = json!({ "CiphertextBlob": made["CiphertextBlob"] });
            let read = ok(&rig, caller, "Decrypt", blob.clone()).await;
            assert_eq!(
                (&read["KeyId"], &read["Plaintext"]),
                (&json!(arn), &json!("eA=="))
            );
            assert_eq!(rig.api_ok("Decrypt", blob).await["KeyId"], arn.as_str());
        }
    }
    let by_id = encrypt(&text(&key["KeyId"]));
    assert_eq!(answer(&rig, &may, "Encrypt", by_id).await, NOT_FOUND);
    let described = ok(&rig, &may, "DescribeKey", json!({ "KeyId": arn })).await;
    assert_eq!(described["KeyMetadata"]["AWSAccountId"], OURS);
}

#[tokio::test]
async fn a_key_is_managed_by_its_own_account_whatever_its_policy_says() {
    let rig = Rig::new();
    let arn = text(&key_of(&rig, &request()).await["Arn"]);
    let put = json!({ "KeyId": arn, "Policy": open_to("*", OURS) });
    rig.api_ok("PutKeyPolicy", put.clone()).await;
    let key = json!({ "KeyId": arn });
    for (operation, more) in [
        ("CancelKeyDeletion", json!({})),
        (
            "CreateAlias",
            json!({ "AliasName": "alias/x", "TargetKeyId": arn }),
        ),
        ("DisableKey", json!({})),
        ("EnableKey", json!({})),
        ("EnableKeyRotation", json!({})),
        ("DisableKeyRotation", json!({})),
        ("GetKeyPolicy", json!({})),
        ("ListAliases", json!({})),
        ("ListKeyPolicies", json!({})),
        ("ListKeyRotations", json!({})),
        ("ListResourceTags", json!({})),
        ("PutKeyPolicy", put),
        ("RotateKeyOnDemand", json!({})),
        ("ScheduleKeyDeletion", json!({})),
        (
            "TagResource",
            json!({ "Tags": [{ "TagKey": "a", "TagValue": "b" }] }),
        ),
        ("UntagResource", json!({ "TagKeys": ["a"] })),
        ("UpdateKeyDescription", json!({ "Description": "ours now" })),
    ] {
        let mut input = key.clone();
        for (name, value) in more.as_object().expect("an object") {
            input[name] = value.clone();
        }
        assert_eq!(
            answer(&rig, &them(), operation, input).await,
            DENIED,
            "{operation}"
        );
    }
    for operation in ["DescribeKey", "GetKeyRotationStatus", "ListGrants"] {
        assert_eq!(
            answer(&rig, &them(), operation, key.clone()).await,
            "200",
            "{operation}"
        );
    }
    assert_eq!(
        rig.api_ok("DescribeKey", key).await["KeyMetadata"]["KeyState"],
        "Enabled"
    );
}

#[tokio::test]
async fn whether_another_account_has_a_key_or_an_alias_is_not_told() {
    let rig = Rig::new();
    let there = text(&key_of(&rig, &request()).await["Arn"]);
    let alias = json!({ "AliasName": "alias/there", "TargetKeyId": there });
    rig.api_ok("CreateAlias", alias).await;
    let message = async |name: &str| {
        let (_, refused) = rig
            .api_as(&them(), "DescribeKey", json!({ "KeyId": name }))
            .await;
        assert_eq!(refused["__type"], DENIED, "{refused}");
        text(&refused["message"]).replace(name, "NAME")
    };
    let alias_of = |name: &str| format!("arn:aws:kms:us-west-2:{OURS}:alias/{name}");
    let missing = format!("arn:aws:kms:us-west-2:{OURS}:key/00000000-0000-4000-8000-000000000000");
    let told = message(&there).await;
    assert!(told.ends_with("is not authorized to perform: kms:DescribeKey on resource: NAME"));
    assert_eq!(message(&missing).await, told);
    assert_eq!(message(&alias_of("there")).await, told);
    assert_eq!(message(&alias_of("missing")).await, told);
}

/// The sentence of AWS's API reference, "Common Errors" of Decrypt.
const FOREIGN: &str = "The ciphertext refers to a customer master key that does not exist, does not exist in this \
                       region, or you are not allowed to access.";

#[tokio::test]
async fn whether_the_alias_of_another_account_is_there_is_not_told_with_a_ciphertext() {
    let rig = Rig::new();
    let there = text(&key_of(&rig, &request()).await["Arn"]);
    let alias = json!({ "AliasName": "alias/there", "TargetKeyId": there });
    rig.api_ok("CreateAlias", alias).await;
    let theirs = text(&key_of(&rig, &them()).await["Arn"]);
    let sealed = json!({ "KeyId": theirs, "Plaintext": "eA==" });
    let sealed = ok(&rig, &them(), "Encrypt", sealed).await["CiphertextBlob"].clone();
    for name in ["there", "missing"] {
        let alias = format!("arn:aws:kms:us-west-2:{OURS}:alias/{name}");
        let decrypt = json!({ "CiphertextBlob": sealed, "KeyId": alias });
        let re_encrypt = json!({
            "CiphertextBlob": sealed, "SourceKeyId": alias, "DestinationKeyId": theirs,
        });
        let mut dry = re_encrypt.clone();
        dry["DryRun"] = json!(true);
        for (operation, input) in [
            ("Decrypt", decrypt),
            ("ReEncrypt", re_encrypt),
            ("ReEncrypt", dry),
        ] {
            let code = answer(&rig, &them(), operation, input.clone()).await;
            assert_eq!(code, "IncorrectKeyException", "{operation} {name}");
            // Who may not use the ciphertext's own key is told that first.
            let code = answer(&rig, &their_user("kms:ReEncryptTo"), operation, input).await;
            assert_eq!(code, DENIED, "{operation} {name}");
        }
    }
}

#[tokio::test]
async fn whether_the_key_of_a_ciphertext_is_there_is_not_told_to_another_account() {
    let rig = Rig::new();
    let there = text(&key_of(&rig, &request()).await["Arn"]);
    let theirs = text(&key_of(&rig, &them()).await["Arn"]);
    let sealed = json!({ "KeyId": there, "Plaintext": "eA==" });
    let sealed = text(&rig.api_ok("Encrypt", sealed).await["CiphertextBlob"]);
    let mut bytes = STANDARD.decode(&sealed).expect("base64");
    let key_id = text(&json!(there.rsplit('/').next())).replace('-', "");
    let key_id = hex::decode(key_id).expect("an id");
    let at = bytes
        .windows(16)
        .position(|window| window == key_id)
        .expect("the key's id");
    *bytes.get_mut(at).expect("its first byte") ^= 1;
    let missing = STANDARD.encode(bytes);
    for caller in [them(), their_user("kms:ReEncryptTo"), their_user("kms:*")] {
        for sealed in [&sealed, &missing] {
            for named in [None, Some(&there), Some(&theirs)] {
                let decrypt = json!({ "CiphertextBlob": sealed, "KeyId": named });
                let re_encrypt = json!({
                    "CiphertextBlob": sealed, "SourceKeyId": named, "DestinationKeyId": theirs,
                });
                for (operation, input) in [("Decrypt", decrypt), ("ReEncrypt", re_encrypt)] {
                    let (_, refused) = rig.api_as(&caller, operation, input).await;
                    let told = (text(&refused["__type"]), text(&refused["message"]));
                    assert_eq!(told, (DENIED.to_owned(), FOREIGN.to_owned()), "{operation}");
                }
            }
        }
    }
}

#[tokio::test]
async fn whether_there_is_an_alias_is_not_told_to_who_may_not_delete_it() {
    let rig = Rig::new();
    let key = key_of(&rig, &them()).await;
    let alias = json!({ "AliasName": "alias/there", "TargetKeyId": key["KeyId"] });
    ok(&rig, &them(), "CreateAlias", alias).await;
    for name in ["alias/there", "alias/missing"] {
        let input = json!({ "AliasName": name });
        let code = answer(&rig, &their_user("kms:ListKeys"), "DeleteAlias", input).await;
        assert_eq!(code, DENIED, "{name}");
    }
}

#[tokio::test]
async fn each_account_has_a_default_key_of_its_own() {
    let rig = Rig::new();
    let ours = rig
        .kms
        .resolve_default_s3_key(&account())
        .await
        .expect("a key");
    let theirs = rig
        .kms
        .resolve_default_s3_key(&their_account())
        .await
        .expect("a key");
    assert_eq!(
        (ours.account(), theirs.account()),
        (&account(), &their_account())
    );
    assert_ne!(ours.key_id(), theirs.key_id());
    for (caller, key) in [(request(), &ours), (them(), &theirs)] {
        let found = ok(
            &rig,
            &caller,
            "DescribeKey",
            json!({ "KeyId": "alias/aws/s3" }),
        )
        .await;
        assert_eq!(found["KeyMetadata"]["Arn"], key.as_str());
        assert_eq!(found["KeyMetadata"]["KeyManager"], "AWS");
    }
    let again = rig
        .kms
        .resolve_default_s3_key(&their_account())
        .await
        .expect("a key");
    assert_eq!(again, theirs);
}

#[tokio::test]
async fn a_grant_lets_another_account_in_and_is_known_there() {
    let rig = Rig::new();
    let arn = text(&key_of(&rig, &request()).await["Arn"]);
    let their_root = format!("arn:aws:iam::{THEIRS}:root");
    let grant = json!({
        "KeyId": arn, "GranteePrincipal": their_root, "RetiringPrincipal": their_root, "Operations": ["Encrypt"],
    });
    let made = rig.api_ok("CreateGrant", grant).await;
    let encrypt = json!({ "KeyId": arn, "Plaintext": "eA==" });
    assert_eq!(
        answer(&rig, &them(), "Encrypt", encrypt.clone()).await,
        "200"
    );
    assert_eq!(
        answer(&rig, &their_user("kms:Encrypt"), "Encrypt", encrypt.clone()).await,
        "200"
    );
    assert_eq!(
        answer(&rig, &their_user("s3:*"), "Encrypt", encrypt.clone()).await,
        DENIED
    );
    let retirable = json!({ "RetiringPrincipal": their_root });
    let listed = ok(&rig, &them(), "ListRetirableGrants", retirable.clone()).await;
    assert_eq!(listed["Grants"][0]["KeyId"], arn.as_str());
    // One asks about principals of one's own account.
    assert_eq!(
        rig.api_error("ListRetirableGrants", retirable).await.0,
        "InvalidArnException"
    );
    let retire = json!({ "GrantToken": made["GrantToken"] });
    assert_eq!(answer(&rig, &them(), "RetireGrant", retire).await, "200");
    assert_eq!(answer(&rig, &them(), "Encrypt", encrypt).await, DENIED);
}

#[tokio::test]
async fn a_ciphertext_goes_from_a_key_of_one_account_to_one_of_another() {
    let rig = Rig::new();
    let ours = text(&key_of(&rig, &request()).await["Arn"]);
    let theirs = text(&key_of(&rig, &them()).await["Arn"]);
    let sealed = rig
        .api_ok("Encrypt", json!({ "KeyId": ours, "Plaintext": "eA==" }))
        .await["CiphertextBlob"]
        .clone();
    let re_encrypt = json!({ "CiphertextBlob": sealed, "DestinationKeyId": theirs });
    for caller in [request(), them()] {
        assert_eq!(
            answer(&rig, &caller, "ReEncrypt", re_encrypt.clone()).await,
            DENIED
        );
    }
    let put = json!({ "KeyId": ours, "Policy": open_to(THEIRS, OURS) });
    rig.api_ok("PutKeyPolicy", put).await;
    let moved = ok(&rig, &them(), "ReEncrypt", re_encrypt).await;
    assert_eq!(
        (&moved["SourceKeyId"], &moved["KeyId"]),
        (&json!(ours), &json!(theirs))
    );
    let blob = json!({ "CiphertextBlob": moved["CiphertextBlob"] });
    assert_eq!(answer(&rig, &them(), "Decrypt", blob.clone()).await, "200");
    assert_eq!(answer(&rig, &request(), "Decrypt", blob).await, DENIED);
}

#[tokio::test]
async fn a_proof_of_another_account_s_key_opens_nothing() {
    let rig = Rig::new();
    let key = rig.key().await;
    let encrypted = rig.encrypted_data_key(&key).await;
    // As a front end would be given it that believed a forged record.
    let forged = rig.kms.key_arn(&their_account(), key.key_id());
    let proof = may_key(DECRYPT, &forged);
    let read = |encrypted: EncryptedDataKey| {
        let (kms, proof) = (&rig.kms, &proof);
        async move { kms.unwrap_data_key(proof, &encrypted, &context(&[])).await }
    };
    assert!(matches!(read(encrypted).await, Err(KmsError::NotFound(_))));
}

#[tokio::test]
async fn what_is_the_operators_is_of_the_first_account() {
    let rig = Rig::new();
    for (operation, input) in [
        ("DescribeCustomKeyStores", json!({})),
        (
            "DisconnectCustomKeyStore",
            json!({ "CustomKeyStoreId": "cks-1234567890abcdef0" }),
        ),
    ] {
        let code = answer(&rig, &them(), operation, input).await;
        assert_eq!(code, "UnsupportedOperationException", "{operation}");
    }
    let in_store = json!({ "Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": "cks-1234567890abcdef0" });
    let code = answer(&rig, &them(), "CreateKey", in_store).await;
    assert_eq!(code, "CustomKeyStoreNotFoundException");
}

#[tokio::test]
async fn keys_of_every_account_are_rotated_and_destroyed() {
    let rig = Rig::new();
    let (kept, gone) = (key_of(&rig, &them()).await, key_of(&rig, &them()).await);
    let enable = json!({ "KeyId": kept["KeyId"], "RotationPeriodInDays": 90 });
    ok(&rig, &them(), "EnableKeyRotation", enable).await;
    let alias = json!({ "AliasName": "alias/gone", "TargetKeyId": gone["KeyId"] });
    ok(&rig, &them(), "CreateAlias", alias).await;
    let schedule = json!({ "KeyId": gone["KeyId"], "PendingWindowInDays": 7 });
    ok(&rig, &them(), "ScheduleKeyDeletion", schedule).await;
    rig.clock.shift_to(91 * DAY);
    assert_eq!(rig.kms.rotate_due_keys().await.expect("rotated"), 1);
    assert_eq!(rig.kms.destroy_due_keys().await.expect("destroyed"), 1);
    for name in [&gone["KeyId"], &json!("alias/gone")] {
        let code = answer(&rig, &them(), "DescribeKey", json!({ "KeyId": name })).await;
        assert_eq!(code, NOT_FOUND);
    }
    let rotations = ok(
        &rig,
        &them(),
        "ListKeyRotations",
        json!({ "KeyId": kept["KeyId"] }),
    )
    .await;
    assert_eq!(rotations["Rotations"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn every_form_resolves_to_the_account_it_means() {
    let rig = Rig::new();
    let (ours, theirs) = (key_of(&rig, &request()).await, key_of(&rig, &them()).await);
    let alias = json!({ "AliasName": "alias/x", "TargetKeyId": theirs["KeyId"] });
    ok(&rig, &them(), "CreateAlias", alias).await;
    let (our_id, their_id) = (text(&ours["KeyId"]), text(&theirs["KeyId"]));
    let stem = format!("arn:aws:kms:us-west-2:{THEIRS}:");
    for (caller, name, found) in [
        (account(), our_id.clone(), Some(&ours)),
        (account(), their_id.clone(), None),
        (account(), format!("{stem}key/{their_id}"), Some(&theirs)),
        (account(), "alias/x".to_owned(), None),
        (account(), format!("{stem}alias/x"), Some(&theirs)),
        (their_account(), their_id, Some(&theirs)),
        (their_account(), "alias/x".to_owned(), Some(&theirs)),
        (their_account(), format!("{stem}key/{our_id}"), None),
        (
            account(),
            "arn:aws:kms:us-west-2:12:alias/x".to_owned(),
            None,
        ),
        (
            account(),
            format!("arn:aws:kms:eu-west-1:{THEIRS}:alias/x"),
            None,
        ),
    ] {
        let named = KeyRef::parse(&name).expect("a reference");
        match (rig.kms.resolve(&caller, &named).await, found) {
            (Ok(key), Some(found)) => assert_eq!(key.as_str(), text(&found["Arn"])),
            (Err(KmsError::NotFound(_)), None) => {}
            (resolved, _) => panic!("{name} for {caller}: {resolved:?}"),
        }
    }
}

#[tokio::test]
async fn the_first_account_of_a_store_is_not_changed_by_the_configuration() {
    let mut rig = Rig::new();
    let ours = key_of(&rig, &request()).await;
    rig.settings.account = their_account();
    rig.restart();
    let refused = rig.kms.recover().await;
    assert!(
        matches!(refused, Err(KmsError::Damaged(why)) if why.contains("first account")),
        "{refused:?}"
    );
    let describe = json!({ "KeyId": ours["KeyId"] });
    for caller in [them(), request()] {
        let code = answer(&rig, &caller, "DescribeKey", describe.clone()).await;
        assert_eq!(code, "KMSInternalException");
    }
    rig.settings.account = account();
    rig.restart();
    rig.kms.recover().await.expect("its own account");
    rig.api_ok("DescribeKey", describe.clone()).await;
    // Nor by what is on the disk.
    let rows = rig.rows(table::KMS_FIRST_ACCOUNT).await;
    let [(row, value)] = rows.as_slice() else {
        unreachable!("one row")
    };
    let mut changed = value.clone();
    *changed.last_mut().expect("a digit") ^= 1;
    rig.put(row, &changed).await;
    rig.restart();
    assert!(matches!(rig.kms.recover().await, Err(KmsError::Damaged(_))));
}
