//! The record of a request: what of it goes into the audit.
//!
//! Members of requests and answers are taken by name, never left out by name: what is not listed here, plaintexts,
//! ciphertexts, passwords and grant tokens among it, is not even read.

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::call::Call;
use super::error::WireError;
use super::{Bytes, REQUEST_BYTES_MAX, TARGET_PREFIX};
use crate::audit::{
    CHARS_MAX, Event, KEY_TYPE, KMS_SOURCE, MESSAGE_CHARS_MAX, NAME_CHARS_MAX, OWN_SOURCE,
    POLICY_CHARS_MAX, Who, cut, lower_first,
};
use crate::kms::KmsError;

/// Members of requests that are recorded.
const PARAMETERS: [&str; 60] = [
    "AliasName",
    "Bucket",
    "BypassPolicyLockoutSafetyCheck",
    "CloudHsmClusterId",
    "Constraints",
    "CustomKeyStoreId",
    "CustomKeyStoreName",
    "CustomKeyStoreType",
    "CustomerMasterKeySpec",
    "Description",
    "DestinationEncryptionAlgorithm",
    "DestinationEncryptionContext",
    "DestinationKeyId",
    "DryRun",
    "DryRunModifiers",
    "EncryptionAlgorithm",
    "EncryptionContext",
    "ExpirationModel",
    "FromKeyId",
    "FromKeyMaterialId",
    "GrantId",
    "GranteePrincipal",
    "Id",
    "ImportType",
    "IncludeKeyMaterial",
    "KeyAgreementAlgorithm",
    "KeyId",
    "KeyMaterialDescription",
    "KeyMaterialId",
    "KeyPairSpec",
    "KeySpec",
    "KeyUsage",
    "Limit",
    "MacAlgorithm",
    "MessageType",
    "MultiRegion",
    "Name",
    "NewCustomKeyStoreName",
    "NumberOfBytes",
    "ObjectsPerSecond",
    "Operations",
    "Origin",
    "PendingWindowInDays",
    "Policy",
    "PolicyName",
    "Prefix",
    "RetiringPrincipal",
    "RewrapId",
    "RotationPeriodInDays",
    "SigningAlgorithm",
    "SourceEncryptionAlgorithm",
    "SourceEncryptionContext",
    "SourceKeyId",
    "TagKeys",
    "Tags",
    "TargetKeyId",
    "ToKeyId",
    "ValidTo",
    "WrappingAlgorithm",
    "WrappingKeySpec",
];
/// Members of answers of what changes something that are recorded.
const ELEMENTS: [&str; 9] = [
    "CustomKeyStoreId",
    "DeletionDate",
    "GrantId",
    "KeyId",
    "KeyMaterialId",
    "KeyMetadata",
    "KeyState",
    "PendingWindowInDays",
    "RewrapId",
];
/// Members whose own members are the caller's words, not AWS's.
const CONTEXTS: [&str; 3] = [
    "DestinationEncryptionContext",
    "EncryptionContext",
    "SourceEncryptionContext",
];

/// The most members of a list or a map.
const MEMBERS_MAX: usize = 1024;

/// Operations that change nothing.
const READ_ONLY: [&str; 10] = [
    "Decapsulate",
    "Decrypt",
    "DeriveSharedSecret",
    "Encapsulate",
    "Encrypt",
    "KeyInventory",
    "ReEncrypt",
    "Sign",
    "VerifyAuditCheckpoints",
    "VerifyMac",
];
const READ_ONLY_BEGINNINGS: [&str; 4] = ["Describe", "Generate", "Get", "List"];

fn is_read_only(operation: &str) -> bool {
    READ_ONLY.contains(&operation)
        || operation == "Verify"
        || READ_ONLY_BEGINNINGS
            .iter()
            .any(|beginning| operation.starts_with(beginning))
}

/// What of a request is recorded; nothing of an empty one. Taken before anything is done: no operation reads a body that
/// its record cannot be taken from.
///
/// # Errors
///
/// When it is too long, is no JSON object, or has a member to be recorded that does not read.
pub(super) fn parameters(body: &[u8]) -> Result<Map<String, Value>, WireError> {
    if body.len() > REQUEST_BYTES_MAX {
        return Err(WireError::too_large());
    }
    if body.is_empty() {
        return Ok(Map::new());
    }
    taken(body, &PARAMETERS).map_err(|syntax| WireError::serialization(&syntax))
}

/// Records a request and how it went; and notes that its keys were used, if they were.
pub(super) async fn record(
    call: &Call<'_>,
    target: &str,
    parameters: Map<String, Value>,
    answer: &Result<Bytes, WireError>,
) -> Result<(), KmsError> {
    let (source, operation) = match target.split_once('.') {
        Some((_, operation)) if target.starts_with(TARGET_PREFIX) => (KMS_SOURCE, operation),
        Some(("Strongroom", operation)) => (OWN_SOURCE, operation),
        _ => (KMS_SOURCE, target),
    };
    let name = cut(operation, NAME_CHARS_MAX);
    let read_only = is_read_only(&name);
    let response = match answer {
        // An answer is what was written here a moment ago, or empty.
        Ok(body) if !read_only => taken(body, &ELEMENTS).unwrap_or_default(),
        _ => Map::new(),
    };
    let used = call.noted.keys();
    let mut keys: Vec<_> = used.iter().map(ToString::to_string).collect();
    if keys.is_empty() {
        let made = response.get("keyMetadata").and_then(|made| made.get("arn"));
        keys.extend(made.and_then(Value::as_str).map(str::to_owned));
    }
    // Of keys of several accounts, that of the first one that was decided about.
    let account = keys.first().and_then(|arn| arn.split(':').nth(4));
    let account = account.map(str::to_owned);
    let event = Event {
        source,
        name: &name,
        time: call.kms.time(),
        who: Who::Caller(&call.context.principal, &call.origin()),
        account: account
            .as_deref()
            .unwrap_or(call.context.principal.account.as_str()),
        region: call.kms.region(),
        read_only,
        request: parameters,
        response,
        additional: call.noted.additional(),
        resource_type: KEY_TYPE,
        resources: keys,
        outcome: answer.as_ref().err().map(WireError::outcome),
    };
    let recorded = call.kms.record(event).await?;
    if answer.is_ok() && source == KMS_SOURCE {
        let request = call.context.request_id.as_str();
        for key in &used {
            call.kms.note_use(key, &name, recorded, Some(request));
        }
    }
    Ok(())
}

impl WireError {
    /// As `CloudTrail` has it.
    pub(in crate::kms) fn outcome(&self) -> (String, String) {
        let code = match self.code {
            "AccessDeniedException" => "AccessDenied",
            code => code,
        };
        (code.to_owned(), cut(&self.message, MESSAGE_CHARS_MAX))
    }
}

/// The members of `body` that are named, as `CloudTrail` writes them.
fn taken(body: &[u8], names: &[&str]) -> serde_json::Result<Map<String, Value>> {
    struct Taking<'n>(&'n [&'n str]);
    impl<'de> Visitor<'de> for Taking<'_> {
        type Value = Map<String, Value>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut taken = Map::new();
            while let Some(name) = members.next_key::<Name>()? {
                let name = name.0.as_str();
                if self.0.contains(&name) {
                    let chars_max = match name {
                        "Policy" => POLICY_CHARS_MAX,
                        _ => CHARS_MAX,
                    };
                    let value =
                        recorded(members.next_value()?, chars_max, CONTEXTS.contains(&name));
                    taken.insert(lower_first(name), value);
                } else {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            Ok(taken)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let taken = json.deserialize_map(Taking(names))?;
    json.end()?;
    Ok(taken)
}

/// A member's name.
#[derive(Deserialize)]
struct Name(String);

/// A value as it is recorded: members in `CloudTrail`'s spelling unless they are the caller's, and within the bounds.
fn recorded(value: Value, chars_max: usize, verbatim: bool) -> Value {
    match value {
        Value::String(text) => Value::String(cut(&text, chars_max)),
        Value::Array(items) => items
            .into_iter()
            .take(MEMBERS_MAX)
            .map(|item| recorded(item, chars_max, verbatim))
            .collect(),
        Value::Object(members) => members
            .into_iter()
            // Members of the API begin with a capital; what else is there is nobody's, and must not pass for one.
            .filter(|(name, _)| {
                verbatim || name.starts_with(|first: char| first.is_ascii_uppercase())
            })
            .take(MEMBERS_MAX)
            .map(|(name, value)| {
                let verbatim = verbatim || name.starts_with("EncryptionContext");
                let spelt = if verbatim && !name.starts_with("EncryptionContext") {
                    name
                } else {
                    lower_first(&name)
                };
                (spelt, recorded(value, chars_max, verbatim))
            })
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{PARAMETERS, taken};

    #[test]
    fn secrets_of_a_request_are_not_even_read() {
        let body = json!({
            "KeyId": "alias/a",
            "Plaintext": "c2VjcmV0",
            "CiphertextBlob": "c2VjcmV0",
            "Message": "c2VjcmV0",
            "KeyStorePassword": "secret",
            "GrantTokens": ["secret"],
            "EncryptedKeyMaterial": "c2VjcmV0",
            "ImportToken": "c2VjcmV0",
            "EncryptionContext": { "Department": "a" },
            "Tags": [{ "TagKey": "k", "TagValue": "v" }],
        });
        let taken = taken(body.to_string().as_bytes(), &PARAMETERS).expect("an object");
        let expected = json!({
            "keyId": "alias/a",
            "encryptionContext": { "Department": "a" },
            "tags": [{ "tagKey": "k", "tagValue": "v" }],
        });
        assert_eq!(json!(taken), expected);
    }

    #[test]
    fn what_is_no_member_of_the_api_does_not_pass_for_one() {
        let body =
            br#"{"Tags": [{"TagKey": "k", "tagKey": "other"}], "EncryptionContext": {"a": "b"}}"#;
        let expected = json!({ "tags": [{ "tagKey": "k" }], "encryptionContext": { "a": "b" } });
        assert_eq!(
            json!(taken(body, &PARAMETERS).expect("an object")),
            expected
        );
    }
}
