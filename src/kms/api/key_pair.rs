//! `GenerateDataKeyPair`, `GenerateDataKeyPairWithoutPlaintext`.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::call::Call;
use super::data::{MATERIAL, crypto};
use super::members::{Constraints, ContextMember, Unhonoured, blob, context, there};
use crate::kms::{GeneratedPair, KeyArn, KeyPairSpec, KmsError};

/// Of AWS's, those in China among it.
const KEY_PAIR_SPECS: [&str; 9] = [
    "RSA_2048",
    "RSA_3072",
    "RSA_4096",
    "ECC_NIST_P256",
    "ECC_NIST_P384",
    "ECC_NIST_P521",
    "ECC_SECG_P256K1",
    "SM2",
    "ECC_NIST_EDWARDS25519",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateDataKeyPairRequest {
    key_id: Option<String>,
    encryption_context: Option<ContextMember>,
    key_pair_spec: Option<String>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WithoutPlaintextAnswer {
    #[serde(serialize_with = "blob")]
    private_key_ciphertext_blob: Vec<u8>,
    #[serde(serialize_with = "blob")]
    public_key: Vec<u8>,
    key_id: String,
    key_pair_spec: &'static str,
    key_material_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateDataKeyPairAnswer {
    #[serde(serialize_with = "blob")]
    private_key_plaintext: Zeroizing<Vec<u8>>,
    #[serde(flatten)]
    others: WithoutPlaintextAnswer,
}

pub(super) async fn generate_data_key_pair(
    call: &Call<'_>,
    input: GenerateDataKeyPairRequest,
) -> Result<GenerateDataKeyPairAnswer, KmsError> {
    let (key, spec, generated) = generate(call, "kms:GenerateDataKeyPair", input).await?;
    Ok(GenerateDataKeyPairAnswer {
        others: without_plaintext(&key, spec, &generated),
        private_key_plaintext: generated.private,
    })
}

pub(super) async fn generate_data_key_pair_without_plaintext(
    call: &Call<'_>,
    input: GenerateDataKeyPairRequest,
) -> Result<WithoutPlaintextAnswer, KmsError> {
    let action = "kms:GenerateDataKeyPairWithoutPlaintext";
    let (key, spec, generated) = generate(call, action, input).await?;
    Ok(without_plaintext(&key, spec, &generated))
}

fn without_plaintext(
    key: &KeyArn,
    spec: KeyPairSpec,
    generated: &GeneratedPair,
) -> WithoutPlaintextAnswer {
    WithoutPlaintextAnswer {
        private_key_ciphertext_blob: generated.encrypted.ciphertext.as_bytes().to_vec(),
        public_key: generated.public.clone(),
        key_id: key.to_string(),
        key_pair_spec: spec.name(),
        key_material_id: generated.encrypted.material.to_string(),
    }
}

async fn generate(
    call: &Call<'_>,
    action: &'static str,
    input: GenerateDataKeyPairRequest,
) -> Result<(KeyArn, KeyPairSpec, GeneratedPair), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("keyPairSpec", input.key_pair_spec.as_ref());
    constraints.one_of(
        "keyPairSpec",
        input.key_pair_spec.as_deref(),
        &KEY_PAIR_SPECS,
    );
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let context = context(input.encryption_context)?;
    let name = there(input.key_pair_spec)?;
    let ask = crypto(action, &context).value("kms:DataKeyPairSpec", name.as_str());
    let (proof, key) = call.authorised_key(&ask, &there(input.key_id)?).await?;
    let spec = KeyPairSpec::parse(&name)
        .ok_or_else(|| KmsError::Unsupported(format!("{name} is not supported")))?;
    if input.dry_run == Some(true) {
        call.kms.check_usable(&proof, &key).await?;
        return Err(KmsError::DryRun);
    }
    let generated = call
        .kms
        .generate_data_key_pair(&proof, &key, &context, spec)
        .await?;
    call.used(MATERIAL, generated.encrypted.material);
    Ok((key, spec, generated))
}
