//! `GetParametersForImport`, `ImportKeyMaterial`, `DeleteImportedKeyMaterial`.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{Blob, Constraints, blob, seconds, there, time};
use crate::kms::{
    IMPORT_BYTES_MAX, KmsError, MATERIAL_DESCRIPTION_CHARS_MAX, NewMaterial, Timestamp,
};

const ALGORITHMS: [&str; 6] = [
    "RSAES_PKCS1_V1_5",
    "RSAES_OAEP_SHA_1",
    "RSAES_OAEP_SHA_256",
    "RSA_AES_KEY_WRAP_SHA_1",
    "RSA_AES_KEY_WRAP_SHA_256",
    "SM2PKE",
];
const SPECS: [&str; 4] = ["RSA_2048", "RSA_3072", "RSA_4096", "SM2"];
const EXPIRES: &str = "KEY_MATERIAL_EXPIRES";
const DOES_NOT_EXPIRE: &str = "KEY_MATERIAL_DOES_NOT_EXPIRE";
const NEW: &str = "NEW_KEY_MATERIAL";
const EXISTING: &str = "EXISTING_KEY_MATERIAL";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ParametersRequest {
    key_id: Option<String>,
    wrapping_algorithm: Option<String>,
    wrapping_key_spec: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ParametersAnswer {
    key_id: String,
    #[serde(serialize_with = "blob")]
    import_token: Vec<u8>,
    #[serde(serialize_with = "blob")]
    public_key: Vec<u8>,
    parameters_valid_to: f64,
}

pub(super) async fn parameters(
    call: &Call<'_>,
    input: ParametersRequest,
) -> Result<ParametersAnswer, KmsError> {
    let (algorithm, spec) = (&input.wrapping_algorithm, &input.wrapping_key_spec);
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("wrappingAlgorithm", algorithm.as_ref());
    constraints.one_of("wrappingAlgorithm", algorithm.as_deref(), &ALGORITHMS);
    constraints.required("wrappingKeySpec", spec.as_ref());
    constraints.one_of("wrappingKeySpec", spec.as_deref(), &SPECS);
    constraints.finish()?;
    let ask = Ask::new("kms:GetParametersForImport")
        .value(
            "kms:WrappingAlgorithm",
            algorithm.as_deref().unwrap_or_default(),
        )
        .value("kms:WrappingKeySpec", spec.as_deref().unwrap_or_default());
    let (proof, key) = call
        .authorised_key_but_no_alias(&ask, &there(input.key_id)?)
        .await?;
    let (algorithm, spec) = (
        there(input.wrapping_algorithm)?,
        there(input.wrapping_key_spec)?,
    );
    let parameters = call
        .kms
        .parameters_for_import(&proof, &key, &algorithm, &spec)
        .await?;
    Ok(ParametersAnswer {
        key_id: key.to_string(),
        import_token: parameters.token,
        public_key: parameters.public_key,
        parameters_valid_to: seconds(parameters.valid_to),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImportRequest {
    key_id: Option<String>,
    import_token: Option<Blob>,
    encrypted_key_material: Option<Blob>,
    valid_to: Option<f64>,
    expiration_model: Option<String>,
    import_type: Option<String>,
    key_material_description: Option<String>,
    key_material_id: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MaterialAnswer {
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_material_id: Option<String>,
}

pub(super) async fn import_key_material(
    call: &Call<'_>,
    input: ImportRequest,
) -> Result<MaterialAnswer, KmsError> {
    let (token, encrypted) = (&input.import_token, &input.encrypted_key_material);
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("importToken", token.as_ref());
    constraints.blob("importToken", token.as_ref(), 1, IMPORT_BYTES_MAX);
    constraints.required("encryptedKeyMaterial", encrypted.as_ref());
    constraints.blob(
        "encryptedKeyMaterial",
        encrypted.as_ref(),
        1,
        IMPORT_BYTES_MAX,
    );
    constraints.one_of(
        "expirationModel",
        input.expiration_model.as_deref(),
        &[EXPIRES, DOES_NOT_EXPIRE],
    );
    constraints.one_of("importType", input.import_type.as_deref(), &[NEW, EXISTING]);
    constraints.material_id("keyMaterialId", input.key_material_id.as_deref());
    let description = input.key_material_description.as_deref();
    constraints.chars(
        "keyMaterialDescription",
        description,
        0,
        MATERIAL_DESCRIPTION_CHARS_MAX,
    );
    constraints.pattern(
        "keyMaterialDescription",
        description.is_none_or(is_description),
        "^[a-zA-Z0-9:/_\\s.-]+$",
    );
    constraints.finish()?;
    if input.import_type.as_deref() == Some(NEW) && input.key_material_id.is_some() {
        return Err(KmsError::Validation(
            "KeyMaterialId cannot be specified with ImportType NEW_KEY_MATERIAL".to_owned(),
        ));
    }
    let expires = input.expiration_model.as_deref() != Some(DOES_NOT_EXPIRE);
    if expires != input.valid_to.is_some() {
        return Err(KmsError::Validation(
            "ValidTo goes with ExpirationModel KEY_MATERIAL_EXPIRES, the default, and with no other"
                .to_owned(),
        ));
    }
    let valid_to = input.valid_to.map(time).transpose()?;
    let model = if expires { EXPIRES } else { DOES_NOT_EXPIRE };
    let mut ask = Ask::new("kms:ImportKeyMaterial").value("kms:ExpirationModel", model);
    if let Some(valid_to) = valid_to {
        ask = ask.value("kms:ValidTo", whole_seconds(valid_to).to_string());
    }
    let (proof, key) = call
        .authorised_key_but_no_alias(&ask, &there(input.key_id)?)
        .await?;
    let (Blob(token), Blob(encrypted)) = (
        there(input.import_token)?,
        there(input.encrypted_key_material)?,
    );
    let new = NewMaterial {
        token: token.to_vec(),
        encrypted: encrypted.to_vec(),
        valid_to,
        existing: input.import_type.map(|kind| kind == EXISTING),
        material_id: input.key_material_id,
        description: input.key_material_description,
    };
    let material = call.kms.import_key_material(&proof, &key, new).await?;
    Ok(MaterialAnswer {
        key_id: key.to_string(),
        key_material_id: material.map(|id| id.to_string()),
    })
}

/// Seconds since 1970, which conditions on numbers and on dates read; up to the next whole one, so that what is valid for
/// longer than it may be is never taken for less.
fn whole_seconds(time: Timestamp) -> i64 {
    let millis = time.millis();
    millis.div_euclid(1000) + i64::from(millis.rem_euclid(1000) > 0)
}

/// Whether a text matches `^[a-zA-Z0-9:/_\s.-]+$`.
fn is_description(text: &str) -> bool {
    let is_fit =
        |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":/_.-".contains(c);
    !text.is_empty() && text.chars().all(is_fit)
}

/// `ExpirationModel` of material that is there.
pub(super) fn expiration_model(expires: Option<Timestamp>) -> &'static str {
    match expires {
        Some(_) => EXPIRES,
        None => DOES_NOT_EXPIRE,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteRequest {
    key_id: Option<String>,
    key_material_id: Option<String>,
}

pub(super) async fn delete_imported_key_material(
    call: &Call<'_>,
    input: DeleteRequest,
) -> Result<MaterialAnswer, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.material_id("keyMaterialId", input.key_material_id.as_deref());
    constraints.finish()?;
    let (proof, key) = call
        .authorised_key_but_no_alias(
            &Ask::new("kms:DeleteImportedKeyMaterial"),
            &there(input.key_id)?,
        )
        .await?;
    let named = input.key_material_id.as_deref();
    let material = call
        .kms
        .delete_imported_key_material(&proof, &key, named)
        .await?;
    Ok(MaterialAnswer {
        key_id: key.to_string(),
        key_material_id: material.map(|id| id.to_string()),
    })
}
