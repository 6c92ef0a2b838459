//! What policies are told of a key and of what is asked of it.

use super::access::{answer, user};
use super::import::{create, import, imported, parameters, plain};
use super::{Rig, Value, json};
use crate::auth::RequestContext;
use crate::kms::KeyArn;

const DENIED: &str = "AccessDeniedException";

/// A user who may do everything under this condition.
fn if_only(condition: &Value) -> RequestContext {
    let statement = json!({
        "Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": condition,
    });
    let policy = json!({ "Version": "2012-10-17", "Statement": statement });
    user("anna", &[policy])
}

fn of_origin(origin: &str) -> RequestContext {
    if_only(&json!({ "StringEquals": { "kms:KeyOrigin": origin } }))
}

#[tokio::test]
async fn the_origin_of_a_key_is_that_of_its_material_from_the_first_call_on() {
    let rig = Rig::new();
    let own = rig.api_ok("CreateKey", json!({})).await["KeyMetadata"].clone();
    let external = imported(&rig).await;
    for (origin, keys) in [
        ("AWS_KMS", [&own, &external]),
        ("EXTERNAL", [&external, &own]),
    ] {
        let caller = of_origin(origin);
        let other = if origin == "EXTERNAL" {
            "AWS_KMS"
        } else {
            "EXTERNAL"
        };
        let asked = |origin: &str| json!({ "Origin": origin });
        assert_eq!(
            answer(&rig, &caller, "CreateKey", asked(origin)).await,
            "200"
        );
        assert_eq!(
            answer(&rig, &caller, "CreateKey", asked(other)).await,
            DENIED
        );
        let [its, others] = keys;
        assert_eq!(answer(&rig, &caller, "Encrypt", plain(its)).await, "200");
        assert_eq!(
            answer(&rig, &caller, "Encrypt", plain(others)).await,
            DENIED
        );
    }
    assert_eq!(
        answer(&rig, &of_origin("AWS_KMS"), "CreateKey", json!({})).await,
        "200"
    );
}

#[tokio::test]
async fn how_long_material_is_valid_is_asked_as_a_number_and_as_a_date() {
    let rig = Rig::new();
    let key = create(&rig).await;
    let now = rig.kms.now().millis() / 1000;
    let limit = now + 1000;
    let as_number = json!({ "NumericLessThanEquals": { "kms:ValidTo": limit.to_string() } });
    let as_date = json!({ "DateLessThanEquals": { "kms:ValidTo": limit.to_string() } });
    #[expect(clippy::cast_precision_loss, reason = "a date")]
    let limit = limit as f64;
    for condition in [as_number, as_date] {
        let caller = if_only(&condition);
        for (valid_to, expected) in [(limit + 0.001, DENIED), (limit, "200")] {
            let parameters = parameters(&rig, &key).await;
            let mut input = import(&key, &parameters, &[5; 32]);
            input["ExpirationModel"] = json!("KEY_MATERIAL_EXPIRES");
            input["ValidTo"] = json!(valid_to);
            let answered = answer(&rig, &caller, "ImportKeyMaterial", input.clone());
            assert_eq!(answered.await, expected, "{valid_to}");
        }
    }
    // What never expires has no such value.
    let parameters = parameters(&rig, &key).await;
    let caller = if_only(&json!({ "Null": { "kms:ValidTo": "true" } }));
    let input = import(&key, &parameters, &[5; 32]);
    assert_eq!(
        answer(&rig, &caller, "ImportKeyMaterial", input).await,
        "200"
    );
}

#[tokio::test]
async fn a_re_encryption_says_of_both_sides_whether_they_are_the_same_key() {
    let rig = Rig::new();
    let new = async || rig.api_ok("CreateKey", json!({})).await["KeyMetadata"]["KeyId"].clone();
    let (key, other) = (new().await, new().await);
    let alias = json!({ "AliasName": "alias/it", "TargetKeyId": key });
    rig.api_ok("CreateAlias", alias).await;
    let made = rig
        .api_ok("Encrypt", json!({ "KeyId": key, "Plaintext": "eA==" }))
        .await;
    let to =
        |to: &Value| json!({ "CiphertextBlob": made["CiphertextBlob"], "DestinationKeyId": to });
    let only_asked = |to: &Value| {
        json!({
            "SourceKeyId": key, "DestinationKeyId": to, "DryRun": true,
            "DryRunModifiers": ["IGNORE_CIPHERTEXT"],
        })
    };
    for same in [true, false] {
        let caller = if_only(&json!({ "Bool": { "kms:ReEncryptOnSameKey": same } }));
        for (name, is_same) in [(&key, true), (&json!("alias/it"), true), (&other, false)] {
            let (done, asked) = if is_same == same {
                ("200", "DryRunOperationException")
            } else {
                (DENIED, DENIED)
            };
            assert_eq!(answer(&rig, &caller, "ReEncrypt", to(name)).await, done);
            let asking = answer(&rig, &caller, "ReEncrypt", only_asked(name));
            assert_eq!(asking.await, asked, "{name}");
        }
    }
}

#[tokio::test]
async fn who_may_not_re_encrypt_to_another_key_does_not_begin_a_rewrap_to_one() {
    let rig = Rig::new();
    let (key, other) = (rig.key().await, rig.key().await);
    let statement = |effect: &str, more: Value| {
        let mut statement = json!({ "Effect": effect, "Action": "kms:*", "Resource": "*" });
        for (name, value) in more.as_object().expect("an object") {
            statement[name] = value.clone();
        }
        statement
    };
    let elsewhere = json!({ "Bool": { "kms:ReEncryptOnSameKey": "false" } });
    let statements = [
        statement("Allow", json!({})),
        statement("Deny", json!({ "Condition": elsewhere })),
    ];
    let policy = json!({ "Version": "2012-10-17", "Statement": statements });
    let caller = user("anna", &[policy]);
    let to = |to: &KeyArn| json!({ "FromKeyId": key.as_str(), "ToKeyId": to.as_str() });
    let refused = answer(&rig, &caller, "Strongroom.StartRewrap", to(&other));
    assert_eq!(refused.await, DENIED);
    // Of one material there is nothing to re-wrap.
    let refused = answer(&rig, &caller, "Strongroom.StartRewrap", to(&key));
    assert_eq!(refused.await, "ValidationException");
}
