//! Key policies and grants, as callers of the API meet them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Rig, request, text};
use crate::auth::policy::{Document, Kind};
use crate::auth::{Identity, RequestContext, User};
use crate::kms::GRANTS_PER_KEY_MAX;

const ROOT: &str = "arn:aws:iam::123456789012:root";
const ANNA: &str = "arn:aws:iam::123456789012:user/anna";
const DENIED: &str = "AccessDeniedException";

/// A user of the account, with these policies.
pub(super) fn user(name: &str, policies: &[Value]) -> RequestContext {
    let policies = policies.iter().map(|policy| {
        let document = Document::parse(&policy.to_string(), Kind::Identity);
        Arc::new(document.expect("a policy"))
    });
    let mut context = request();
    context.principal.identity = Identity::User(Arc::new(User {
        id: format!("AIDA{}", name.to_ascii_uppercase()),
        path: "/".to_owned(),
        name: name.to_owned(),
        policies: policies.collect(),
    }));
    context
}

fn anna() -> RequestContext {
    user("anna", &[])
}

fn allow(action: &str) -> Value {
    let statement = json!({ "Effect": "Allow", "Action": action, "Resource": "*" });
    json!({ "Version": "2012-10-17", "Statement": statement })
}

fn key_policy(statements: &[(&str, &str, &str)]) -> String {
    let statements = statements.iter().map(|(effect, principal, action)| {
        json!({ "Effect": effect, "Principal": { "AWS": principal }, "Action": action, "Resource": "*" })
    });
    json!({ "Version": "2012-10-17", "Statement": statements.collect::<Vec<_>>() }).to_string()
}

async fn key(rig: &Rig) -> String {
    text(&rig.api_ok("CreateKey", json!({})).await["KeyMetadata"]["Arn"])
}

async fn encrypt(rig: &Rig, key: &str) -> Value {
    let input = json!({ "KeyId": key, "Plaintext": "eA==", "EncryptionContext": { "a": "1" } });
    rig.api_ok("Encrypt", input).await["CiphertextBlob"].clone()
}

/// `200`, or the code of the refusal.
pub(super) async fn answer(
    rig: &Rig,
    caller: &RequestContext,
    operation: &str,
    input: Value,
) -> String {
    match rig.api_as(caller, operation, input).await {
        (200, _) => "200".to_owned(),
        (_, refused) => text(&refused["__type"]),
    }
}

async fn decrypt(rig: &Rig, caller: &RequestContext, blob: &Value) -> String {
    let input = json!({ "CiphertextBlob": blob, "EncryptionContext": { "a": "1" } });
    answer(rig, caller, "Decrypt", input).await
}

#[tokio::test]
async fn identity_policies_count_where_the_key_policy_delegates() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let blob = encrypt(&rig, &key).await;
    let may = user("anna", &[allow("kms:Decrypt")]);
    assert_eq!(decrypt(&rig, &anna(), &blob).await, DENIED);
    assert_eq!(decrypt(&rig, &may, &blob).await, "200");
    let closed = key_policy(&[
        ("Allow", ROOT, "kms:PutKeyPolicy"),
        ("Allow", "arn:aws:iam::123456789012:user/bert", "kms:*"),
    ]);
    let put = json!({ "KeyId": key, "Policy": closed });
    rig.api_ok("PutKeyPolicy", put).await;
    let admin = user("admin", &[allow("*")]);
    for (caller, expected) in [
        (may, DENIED),
        (admin, DENIED),
        (request(), DENIED),
        (user("bert", &[]), "200"),
    ] {
        assert_eq!(decrypt(&rig, &caller, &blob).await, expected);
    }
}

#[tokio::test]
async fn a_refusal_says_what_was_denied_and_nothing_of_the_keys_state() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let blob = encrypt(&rig, &key).await;
    rig.api_ok("DisableKey", json!({ "KeyId": key })).await;
    let input = json!({ "CiphertextBlob": blob, "EncryptionContext": { "a": "1" } });
    let (_, refused) = rig.api_as(&anna(), "Decrypt", input).await;
    assert_eq!(text(&refused["__type"]), DENIED);
    assert_eq!(
        text(&refused["message"]),
        format!(
            "User: {ANNA} is not authorized to perform: kms:Decrypt on resource: {key} because no identity-based \
             policy allows the kms:Decrypt action"
        )
    );
}

#[tokio::test]
async fn who_would_lock_itself_out_is_stopped_unless_it_insists() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let policy = key_policy(&[("Allow", ANNA, "kms:*")]);
    let put = |bypass: bool| json!({ "KeyId": key, "Policy": policy, "BypassPolicyLockoutSafetyCheck": bypass });
    let (code, message) = rig.api_error("PutKeyPolicy", put(false)).await;
    assert_eq!(code, "MalformedPolicyDocumentException");
    assert_eq!(
        message,
        "The new key policy will not allow you to update the key policy in the future."
    );
    rig.api_ok("PutKeyPolicy", put(true)).await;
    assert_eq!(rig.api_error("PutKeyPolicy", put(true)).await.0, DENIED);
    assert_eq!(
        answer(&rig, &anna(), "PutKeyPolicy", put(false)).await,
        "200"
    );
}

#[tokio::test]
async fn a_grant_allows_what_it_says_until_it_ends() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let blob = encrypt(&rig, &key).await;
    let grant = json!({
        "KeyId": key, "GranteePrincipal": ANNA, "Operations": ["Decrypt", "DescribeKey"], "Name": "backup",
        "Constraints": { "EncryptionContextSubset": { "a": "1" } },
    });
    let made = rig.api_ok("CreateGrant", grant.clone()).await;
    let id = made["GrantId"].clone();
    assert_eq!(rig.api_ok("CreateGrant", grant).await["GrantId"], id);
    assert_eq!(decrypt(&rig, &anna(), &blob).await, "200");
    let describe = json!({ "KeyId": key, "GrantTokens": [made["GrantToken"]] });
    assert_eq!(answer(&rig, &anna(), "DescribeKey", describe).await, "200");
    assert_eq!(decrypt(&rig, &user("bert", &[]), &blob).await, DENIED);
    let encrypt = json!({ "KeyId": key, "Plaintext": "eA==" });
    assert_eq!(answer(&rig, &anna(), "Encrypt", encrypt).await, DENIED);

    let listed = rig.api_ok("ListGrants", json!({ "KeyId": key })).await;
    let [entry] = listed["Grants"].as_array().expect("a list").as_slice() else {
        panic!("{listed}");
    };
    assert_eq!(entry["GrantId"], id);
    assert_eq!(entry["IssuingAccount"], ROOT);
    assert_eq!(
        entry["Constraints"],
        json!({ "EncryptionContextSubset": { "a": "1" } })
    );
    let revoke = json!({ "KeyId": key, "GrantId": id });
    assert_eq!(
        answer(&rig, &anna(), "RevokeGrant", revoke.clone()).await,
        DENIED
    );
    let mut dry = revoke.clone();
    dry["DryRun"] = json!(true);
    assert_eq!(
        rig.api_error("RevokeGrant", dry).await.0,
        "DryRunOperationException"
    );
    rig.api_ok("RevokeGrant", revoke.clone()).await;
    assert_eq!(decrypt(&rig, &anna(), &blob).await, DENIED);
    assert_eq!(
        rig.api_error("RevokeGrant", revoke).await.0,
        "NotFoundException"
    );
}

#[tokio::test]
async fn a_denial_is_stronger_than_a_grant() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let blob = encrypt(&rig, &key).await;
    let grant = json!({ "KeyId": key, "GranteePrincipal": ANNA, "Operations": ["Decrypt"] });
    rig.api_ok("CreateGrant", grant).await;
    let policy = key_policy(&[("Allow", ROOT, "kms:*"), ("Deny", ANNA, "kms:Decrypt")]);
    let put = json!({ "KeyId": key, "Policy": policy });
    rig.api_ok("PutKeyPolicy", put).await;
    assert_eq!(decrypt(&rig, &anna(), &blob).await, DENIED);
}

#[tokio::test]
async fn a_grant_is_retired_by_whom_it_names() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let bert = user("bert", &[]);
    let bert_arn = "arn:aws:iam::123456789012:user/bert";
    let grant = json!({
        "KeyId": key, "GranteePrincipal": ANNA, "RetiringPrincipal": bert_arn, "Operations": ["Decrypt"],
    });
    let made = rig.api_ok("CreateGrant", grant.clone()).await;
    let by_id = json!({ "KeyId": key, "GrantId": made["GrantId"] });
    let by_token = json!({ "GrantToken": made["GrantToken"] });
    let retirable = rig
        .api_ok(
            "ListRetirableGrants",
            json!({ "RetiringPrincipal": bert_arn }),
        )
        .await;
    assert_eq!(retirable["Grants"][0]["GrantId"], made["GrantId"]);
    assert_eq!(answer(&rig, &anna(), "RetireGrant", by_id).await, DENIED);
    assert_eq!(
        answer(&rig, &bert, "RetireGrant", by_token.clone()).await,
        "200"
    );
    assert_eq!(
        rig.api_error("RetireGrant", by_token).await.0,
        "NotFoundException"
    );
    let mut token = text(&made["GrantToken"]);
    token.replace_range(..1, if token.starts_with('A') { "B" } else { "A" });
    let forged = json!({ "GrantToken": token });
    assert_eq!(
        rig.api_error("RetireGrant", forged).await.0,
        "InvalidGrantTokenException"
    );
}

#[tokio::test]
async fn a_key_has_as_many_grants_as_it_may_and_no_more() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let grant = json!({ "KeyId": key, "GranteePrincipal": ANNA, "Operations": ["Decrypt"] });
    let made = rig.api_ok("CreateGrant", grant.clone()).await;
    rig.set_grants(&key, GRANTS_PER_KEY_MAX - 1).await;
    rig.api_ok("CreateGrant", grant.clone()).await;
    assert_eq!(
        rig.api_error("CreateGrant", grant.clone()).await.0,
        "LimitExceededException"
    );
    let revoke = json!({ "KeyId": key, "GrantId": made["GrantId"] });
    rig.api_ok("RevokeGrant", revoke).await;
    rig.api_ok("CreateGrant", grant).await;
}

#[tokio::test]
async fn grants_that_cannot_be_are_refused() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let good = json!({ "KeyId": key, "GranteePrincipal": ANNA, "Operations": ["Decrypt"] });
    for (member, value, code) in [
        ("GranteePrincipal", json!("anna"), "InvalidArnException"),
        ("GranteePrincipal", json!("an na"), "ValidationException"),
        (
            "RetiringPrincipal",
            json!("arn:aws:s3:::b"),
            "InvalidArnException",
        ),
        ("Operations", json!(["Nonsense"]), "ValidationException"),
        ("Operations", json!([]), "ValidationException"),
        ("Operations", json!(["Sign"]), "ValidationException"),
        ("Operations", json!(["GenerateMac"]), "ValidationException"),
        ("Name", json!("not a name"), "ValidationException"),
        ("KeyId", json!("alias/a"), "NotFoundException"),
        (
            "Constraints",
            json!({ "SourceArn": "arn:aws:s3:::b" }),
            "UnsupportedOperationException",
        ),
        (
            "Constraints",
            json!({ "EncryptionContextEquals": {}, "EncryptionContextSubset": {} }),
            "ValidationException",
        ),
        ("GrantTokens", json!(["x"]), "InvalidGrantTokenException"),
        ("DryRun", json!(true), "DryRunOperationException"),
    ] {
        let mut input = good.clone();
        input[member] = value;
        assert_eq!(
            rig.api_error("CreateGrant", input).await.0,
            code,
            "{member}"
        );
    }
    rig.api_ok("DisableKey", json!({ "KeyId": key })).await;
    assert_eq!(
        rig.api_error("CreateGrant", good).await.0,
        "DisabledException"
    );
}

#[tokio::test]
async fn a_dry_run_can_leave_the_ciphertext_out() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let ask = json!({ "KeyId": key, "DryRun": true, "DryRunModifiers": ["IGNORE_CIPHERTEXT"] });
    assert_eq!(
        answer(&rig, &request(), "Decrypt", ask.clone()).await,
        "DryRunOperationException"
    );
    assert_eq!(answer(&rig, &anna(), "Decrypt", ask).await, DENIED);
    let nameless = json!({ "DryRun": true, "DryRunModifiers": ["IGNORE_CIPHERTEXT"] });
    assert_eq!(
        rig.api_error("Decrypt", nameless).await.0,
        "ValidationException"
    );
}

#[tokio::test]
async fn an_alias_is_pointed_elsewhere_only_if_the_key_it_leaves_allows_it() {
    let rig = Rig::new();
    let (left, own) = (key(&rig).await, key(&rig).await);
    let alias = json!({ "AliasName": "alias/pay", "TargetKeyId": left.rsplit('/').next() });
    rig.api_ok("CreateAlias", alias).await;
    let closed = key_policy(&[("Allow", ROOT, "kms:*"), ("Deny", ANNA, "kms:UpdateAlias")]);
    let put = json!({ "KeyId": left, "Policy": closed });
    rig.api_ok("PutKeyPolicy", put).await;
    let may = user("anna", &[allow("kms:UpdateAlias")]);
    let point = json!({ "AliasName": "alias/pay", "TargetKeyId": own.rsplit('/').next() });
    assert_eq!(
        answer(&rig, &may, "UpdateAlias", point.clone()).await,
        DENIED
    );
    assert_eq!(answer(&rig, &request(), "UpdateAlias", point).await, "200");
}

#[tokio::test]
async fn who_may_retire_its_own_grant_may_retire_no_other() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let grant = |grantee: &str, operations: Value| json!({ "KeyId": key, "GranteePrincipal": grantee, "Operations": operations });
    let own = grant(ANNA, json!(["Decrypt", "RetireGrant"]));
    let own = rig.api_ok("CreateGrant", own).await["GrantId"].clone();
    let other = grant("arn:aws:iam::123456789012:user/bert", json!(["Decrypt"]));
    let other = rig.api_ok("CreateGrant", other).await["GrantId"].clone();
    let retire = |id: &Value| json!({ "KeyId": key, "GrantId": id });
    assert_eq!(
        answer(&rig, &anna(), "RetireGrant", retire(&other)).await,
        DENIED
    );
    assert_eq!(
        answer(&rig, &anna(), "RetireGrant", retire(&own)).await,
        "200"
    );
}

#[tokio::test]
async fn a_key_whose_policy_is_gone_is_damaged_and_open_to_nobody() {
    let rig = Rig::new();
    let key = key(&rig).await;
    let blob = encrypt(&rig, &key).await;
    let [(policy, _)] = rig
        .rows(crate::meta::table::KMS_POLICY)
        .await
        .try_into()
        .expect("one");
    let gone = crate::meta::Batch::new().delete(policy);
    rig.meta.commit(gone).await.expect("deleted");
    assert_eq!(
        decrypt(&rig, &request(), &blob).await,
        "KMSInternalException"
    );
}
