//! The KMS API on the wire: AWS JSON 1.1, header `X-Amz-Target: TrentService.OPERATION`.
//!
//! This front end turns JSON into calls of [`Kms`] and answers into JSON. It checks the constraints of the wire,
//! resolves the key that is meant, authorises, and only then lets `kms` look at the key's state. A member that it
//! does not know is ignored, as AWS ignores it; one that it knows and cannot honour is refused.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Map;

use super::{Kms, KmsError};
use crate::audit::caught;
use crate::auth::RequestContext;

mod aliases;
mod audit;
mod call;
mod data;
mod error;
mod grants;
mod import;
mod inventory;
mod key_pair;
mod keys;
mod last_use;
mod mac;
mod members;
mod policy;
mod rewrap;
mod rotation;
mod sign;
mod stores;
mod tags;

use call::{Call, Noted};
use error::WireError;

pub(in crate::kms) use error::WireError as CodedError;

/// The largest request. A policy of its full length, each character escaped, and the rest.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

const TARGET_PREFIX: &str = "TrentService.";

/// What AWS has no operations for: a key goes to another key store under its ARN; what depends on a key, and how that
/// goes to another one; what an auditor asks of all keys at once, and whether the HSM made the proofs of the audit's
/// checkpoints.
const OURS: [&str; 8] = [
    MOVE_KEY,
    GET_KEY_USAGE,
    START_REWRAP,
    DESCRIBE_REWRAP,
    LIST_REWRAPS,
    CANCEL_REWRAP,
    KEY_INVENTORY,
    VERIFY_CHECKPOINTS,
];
const MOVE_KEY: &str = "Strongroom.MoveKey";
const GET_KEY_USAGE: &str = "Strongroom.GetKeyUsage";
const START_REWRAP: &str = "Strongroom.StartRewrap";
const DESCRIBE_REWRAP: &str = "Strongroom.DescribeRewrap";
const LIST_REWRAPS: &str = "Strongroom.ListRewraps";
const CANCEL_REWRAP: &str = "Strongroom.CancelRewrap";
const KEY_INVENTORY: &str = "Strongroom.KeyInventory";
const VERIFY_CHECKPOINTS: &str = "Strongroom.VerifyAuditCheckpoints";

/// Operations of the API that are not here.
const UNSUPPORTED: [&str; 5] = [
    "Decapsulate",
    "DeriveSharedSecret",
    "Encapsulate",
    "ReplicateKey",
    "UpdatePrimaryRegion",
];

/// Answers one request that is authenticated. `target` is the `X-Amz-Target` header.
pub async fn handle(
    kms: &Kms,
    context: &RequestContext,
    target: &str,
    body: &[u8],
) -> Response<Bytes> {
    let request_id = &context.request_id;
    let noted = Noted::default();
    let call = Call {
        kms,
        context,
        noted: &noted,
    };
    let (status, body) = match audited(&call, target, body).await {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (error.status, error.body()),
    };
    tracing::info!(
        event = "kms.request",
        request_id,
        target,
        status = status.as_u16()
    );
    respond(status, body, request_id)
}

/// An answer for what the server refuses before it gets here: authentication, size, shape.
pub fn error_response(
    code: &'static str,
    status: StatusCode,
    message: &str,
    request_id: &str,
) -> Response<Bytes> {
    let error = WireError {
        code,
        status,
        message: message.to_owned(),
    };
    respond(status, error.body(), request_id)
}

fn respond(status: StatusCode, body: Bytes, request_id: &str) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-amz-json-1.1"),
    );
    if let Ok(request_id) = HeaderValue::from_str(request_id) {
        headers.insert("x-amzn-requestid", request_id);
    }
    response
}

/// Answers, and records the answer before it leaves.
async fn audited(call: &Call<'_>, target: &str, body: &[u8]) -> Result<Bytes, WireError> {
    let failed = |error: &KmsError| WireError::new(error, &call.context.request_id, target);
    call.kms.check_audit().map_err(|error| failed(&error))?;
    // What cannot be recorded of a request as it is meant is not done.
    let (parameters, answer) = match audit::parameters(body) {
        Ok(parameters) => {
            let answer = caught(dispatch(call, target, body)).await;
            let panicked = |panic| Err(failed(&KmsError::panicked(panic)));
            (parameters, answer.unwrap_or_else(panicked))
        }
        Err(error) => (Map::new(), Err(error)),
    };
    audit::record(call, target, parameters, &answer)
        .await
        .map_err(|error| failed(&error))?;
    answer
}

/// `body` is none or an object: `serde` reads a list into a structure, too, by position.
async fn dispatch(call: &Call<'_>, target: &str, body: &[u8]) -> Result<Bytes, WireError> {
    let operation = match target.strip_prefix(TARGET_PREFIX) {
        Some(operation) => operation,
        None if OURS.contains(&target) => target,
        None => return Err(WireError::unknown_operation()),
    };
    let done = match operation {
        MOVE_KEY => answer(stores::move_key(call, read(body)?).await),
        KEY_INVENTORY => answer(inventory::key_inventory(call, read(body)?).await),
        VERIFY_CHECKPOINTS => answer(inventory::verify_checkpoints(call, read(body)?).await),
        GET_KEY_USAGE => answer(rewrap::get_key_usage(call, read(body)?).await),
        START_REWRAP => answer(rewrap::start(call, read(body)?).await),
        DESCRIBE_REWRAP => answer(rewrap::describe(call, read(body)?).await),
        LIST_REWRAPS => answer(rewrap::list(call).await),
        CANCEL_REWRAP => answer(rewrap::cancel(call, read(body)?).await),
        "CancelKeyDeletion" => answer(keys::cancel_key_deletion(call, read(body)?).await),
        "ConnectCustomKeyStore" => answer(stores::connect(call, read(body)?).await),
        "CreateAlias" => nothing(aliases::create_alias(call, read(body)?).await),
        "CreateCustomKeyStore" => answer(stores::create(call, read(body)?).await),
        "CreateGrant" => answer(grants::create_grant(call, read(body)?).await),
        "CreateKey" => answer(keys::create_key(call, read(body)?).await),
        "Decrypt" => answer(data::decrypt(call, read(body)?).await),
        "DeleteAlias" => nothing(aliases::delete_alias(call, read(body)?).await),
        "DeleteCustomKeyStore" => answer(stores::delete(call, read(body)?).await),
        "DeleteImportedKeyMaterial" => {
            answer(import::delete_imported_key_material(call, read(body)?).await)
        }
        "DescribeCustomKeyStores" => answer(stores::describe(call, read(body)?).await),
        "DescribeKey" => answer(keys::describe_key(call, read(body)?).await),
        "DisableKey" => nothing(keys::disable_key(call, read(body)?).await),
        "DisableKeyRotation" => nothing(rotation::disable_key_rotation(call, read(body)?).await),
        "DisconnectCustomKeyStore" => answer(stores::disconnect(call, read(body)?).await),
        "EnableKey" => nothing(keys::enable_key(call, read(body)?).await),
        "EnableKeyRotation" => nothing(rotation::enable_key_rotation(call, read(body)?).await),
        "Encrypt" => answer(data::encrypt(call, read(body)?).await),
        "GenerateDataKey" => answer(data::generate_data_key(call, read(body)?).await),
        "GenerateDataKeyPair" => answer(key_pair::generate_data_key_pair(call, read(body)?).await),
        "GenerateDataKeyPairWithoutPlaintext" => {
            answer(key_pair::generate_data_key_pair_without_plaintext(call, read(body)?).await)
        }
        "GenerateDataKeyWithoutPlaintext" => {
            answer(data::generate_data_key_without_plaintext(call, read(body)?).await)
        }
        "GenerateMac" => answer(mac::generate_mac(call, read(body)?).await),
        "GenerateRandom" => answer(data::generate_random(call, read(body)?).await),
        "GetKeyLastUsage" => answer(last_use::get_key_last_usage(call, read(body)?).await),
        "GetKeyPolicy" => answer(policy::get_key_policy(call, read(body)?).await),
        "GetKeyRotationStatus" => {
            answer(rotation::get_key_rotation_status(call, read(body)?).await)
        }
        "GetParametersForImport" => answer(import::parameters(call, read(body)?).await),
        "GetPublicKey" => answer(sign::get_public_key(call, read(body)?).await),
        "ImportKeyMaterial" => answer(import::import_key_material(call, read(body)?).await),
        "ListAliases" => answer(aliases::list_aliases(call, read(body)?).await),
        "ListGrants" => answer(grants::list_grants(call, read(body)?).await),
        "ListKeyPolicies" => answer(policy::list_key_policies(call, read(body)?).await),
        "ListKeyRotations" => answer(rotation::list_key_rotations(call, read(body)?).await),
        "ListKeys" => answer(keys::list_keys(call, read(body)?).await),
        "ListResourceTags" => answer(tags::list_resource_tags(call, read(body)?).await),
        "ListRetirableGrants" => answer(grants::list_retirable_grants(call, read(body)?).await),
        "PutKeyPolicy" => nothing(policy::put_key_policy(call, read(body)?).await),
        "ReEncrypt" => answer(data::re_encrypt(call, read(body)?).await),
        "RetireGrant" => nothing(grants::retire_grant(call, read(body)?).await),
        "RevokeGrant" => nothing(grants::revoke_grant(call, read(body)?).await),
        "RotateKeyOnDemand" => answer(rotation::rotate_key_on_demand(call, read(body)?).await),
        "ScheduleKeyDeletion" => answer(keys::schedule_key_deletion(call, read(body)?).await),
        "Sign" => answer(sign::sign(call, read(body)?).await),
        "TagResource" => nothing(tags::tag_resource(call, read(body)?).await),
        "UntagResource" => nothing(tags::untag_resource(call, read(body)?).await),
        "UpdateAlias" => nothing(aliases::update_alias(call, read(body)?).await),
        "UpdateCustomKeyStore" => answer(stores::update(call, read(body)?).await),
        "UpdateKeyDescription" => nothing(keys::update_key_description(call, read(body)?).await),
        "Verify" => answer(sign::verify(call, read(body)?).await),
        "VerifyMac" => answer(mac::verify_mac(call, read(body)?).await),
        other if UNSUPPORTED.contains(&other) => {
            Err(KmsError::Unsupported(format!("{other} is not supported")))
        }
        _ => return Err(WireError::unknown_operation()),
    };
    done.map_err(|error| WireError::new(&error, &call.context.request_id, operation))
}

/// The request in a body; none is the empty one.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|syntax| WireError::serialization(&syntax))
}

fn answer<T: Serialize>(answer: Result<T, KmsError>) -> Result<Bytes, KmsError> {
    let bytes = serde_json::to_vec(&answer?).map_err(|source| KmsError::Internal {
        what: "writing an answer",
        source: Some(Box::new(source)),
    })?;
    Ok(bytes.into())
}

fn nothing(answer: Result<(), KmsError>) -> Result<Bytes, KmsError> {
    answer.map(|()| Bytes::new())
}
