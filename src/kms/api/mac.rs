//! `GenerateMac`, `VerifyMac`.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{Blob, Constraints, Unhonoured, blob, there};
use crate::kms::{KmsError, MAC_BYTES_MAX, MAC_MESSAGE_BYTES_MAX};

const MAC_ALGORITHMS: [&str; 4] = [
    "HMAC_SHA_224",
    "HMAC_SHA_256",
    "HMAC_SHA_384",
    "HMAC_SHA_512",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateMacRequest {
    message: Option<Blob>,
    key_id: Option<String>,
    mac_algorithm: Option<String>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateMacAnswer {
    #[serde(serialize_with = "blob")]
    mac: Vec<u8>,
    mac_algorithm: String,
    key_id: String,
}

pub(super) async fn generate_mac(
    call: &Call<'_>,
    input: GenerateMacRequest,
) -> Result<GenerateMacAnswer, KmsError> {
    let mut constraints = Constraints::default();
    message_key_and_algorithm(
        &mut constraints,
        input.message.as_ref(),
        input.key_id.as_ref(),
        input.mac_algorithm.as_ref(),
    );
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let (proof, key) = call
        .authorised_key(
            &ask_for("kms:GenerateMac", input.mac_algorithm.as_deref()),
            &there(input.key_id)?,
        )
        .await?;
    let (Blob(message), algorithm) = (there(input.message)?, there(input.mac_algorithm)?);
    if input.dry_run == Some(true) {
        call.kms.check_mac_key(&proof, &key, &algorithm).await?;
        return Err(KmsError::DryRun);
    }
    let mac = call
        .kms
        .generate_mac(&proof, &key, &algorithm, &message)
        .await?;
    Ok(GenerateMacAnswer {
        mac,
        mac_algorithm: algorithm,
        key_id: key.to_string(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifyMacRequest {
    message: Option<Blob>,
    key_id: Option<String>,
    mac_algorithm: Option<String>,
    mac: Option<Blob>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifyMacAnswer {
    key_id: String,
    mac_valid: bool,
    mac_algorithm: String,
}

pub(super) async fn verify_mac(
    call: &Call<'_>,
    input: VerifyMacRequest,
) -> Result<VerifyMacAnswer, KmsError> {
    let mut constraints = Constraints::default();
    message_key_and_algorithm(
        &mut constraints,
        input.message.as_ref(),
        input.key_id.as_ref(),
        input.mac_algorithm.as_ref(),
    );
    constraints.required("mac", input.mac.as_ref());
    constraints.blob("mac", input.mac.as_ref(), 1, MAC_BYTES_MAX);
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let (proof, key) = call
        .authorised_key(
            &ask_for("kms:VerifyMac", input.mac_algorithm.as_deref()),
            &there(input.key_id)?,
        )
        .await?;
    let (Blob(message), algorithm) = (there(input.message)?, there(input.mac_algorithm)?);
    if input.dry_run == Some(true) {
        call.kms.check_mac_key(&proof, &key, &algorithm).await?;
        return Err(KmsError::DryRun);
    }
    let Blob(mac) = there(input.mac)?;
    call.kms
        .verify_mac(&proof, &key, &algorithm, &message, &mac)
        .await?;
    Ok(VerifyMacAnswer {
        key_id: key.to_string(),
        mac_valid: true,
        mac_algorithm: algorithm,
    })
}

fn message_key_and_algorithm(
    constraints: &mut Constraints,
    message: Option<&Blob>,
    key_id: Option<&String>,
    algorithm: Option<&String>,
) {
    constraints.required("message", message);
    constraints.blob("message", message, 1, MAC_MESSAGE_BYTES_MAX);
    constraints.key_id("keyId", key_id);
    constraints.required("macAlgorithm", algorithm);
    constraints.one_of(
        "macAlgorithm",
        algorithm.map(String::as_str),
        &MAC_ALGORITHMS,
    );
}

/// What a policy is asked.
fn ask_for(action: &'static str, algorithm: Option<&str>) -> Ask<'static> {
    Ask::new(action).value("kms:MacAlgorithm", algorithm.unwrap_or_default())
}
