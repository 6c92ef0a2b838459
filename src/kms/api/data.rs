//! Encrypt, Decrypt, `ReEncrypt`, `GenerateDataKey`, `GenerateDataKeyWithoutPlaintext`, `GenerateRandom`.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::call::{Ask, Call};
use super::members::{
    Blob, Constraints, ContextMember, SYMMETRIC_DEFAULT, Unhonoured, blob, context,
    refuse_algorithm, there,
};
use crate::auth::Authorised;
use crate::kms::{
    CIPHERTEXT_BYTES_MAX, EncryptedDataKey, EncryptionContext, GENERATED_BYTES_MAX, Generated,
    KeyArn, KeyRef, KmsError, PLAINTEXT_BYTES_MAX,
};

/// What `CloudTrail` calls the backing key of a use.
pub(super) const MATERIAL: &str = "keyMaterialId";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EncryptRequest {
    key_id: Option<String>,
    plaintext: Option<Blob>,
    encryption_context: Option<ContextMember>,
    encryption_algorithm: Option<String>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EncryptAnswer {
    #[serde(serialize_with = "blob")]
    ciphertext_blob: Vec<u8>,
    key_id: String,
    encryption_algorithm: &'static str,
}

pub(super) async fn encrypt(
    call: &Call<'_>,
    input: EncryptRequest,
) -> Result<EncryptAnswer, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.required("plaintext", input.plaintext.as_ref());
    constraints.blob(
        "plaintext",
        input.plaintext.as_ref(),
        1,
        PLAINTEXT_BYTES_MAX,
    );
    constraints.algorithm("encryptionAlgorithm", input.encryption_algorithm.as_ref());
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let context = context(input.encryption_context)?;
    let (proof, key) = call
        .authorised_key(&crypto("kms:Encrypt", &context), &there(input.key_id)?)
        .await?;
    refuse_algorithm(input.encryption_algorithm.as_ref())?;
    if input.dry_run == Some(true) {
        call.kms.check_usable(&proof, &key).await?;
        return Err(KmsError::DryRun);
    }
    let Blob(plaintext) = there(input.plaintext)?;
    let encrypted = call.kms.encrypt(&proof, &key, &context, &plaintext).await?;
    call.used(MATERIAL, encrypted.material);
    Ok(EncryptAnswer {
        ciphertext_blob: encrypted.ciphertext.as_bytes().to_vec(),
        key_id: key.to_string(),
        encryption_algorithm: SYMMETRIC_DEFAULT,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DecryptRequest {
    ciphertext_blob: Option<Blob>,
    encryption_context: Option<ContextMember>,
    key_id: Option<String>,
    encryption_algorithm: Option<String>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DecryptAnswer {
    key_id: String,
    #[serde(serialize_with = "blob")]
    plaintext: Zeroizing<Vec<u8>>,
    encryption_algorithm: &'static str,
    key_material_id: String,
}

pub(super) async fn decrypt(
    call: &Call<'_>,
    input: DecryptRequest,
) -> Result<DecryptAnswer, KmsError> {
    let mut constraints = Constraints::default();
    if !input.unhonoured.ignores_ciphertext(input.dry_run)? {
        constraints.required("ciphertextBlob", input.ciphertext_blob.as_ref());
    }
    constraints.blob(
        "ciphertextBlob",
        input.ciphertext_blob.as_ref(),
        1,
        CIPHERTEXT_BYTES_MAX,
    );
    constraints.key_id_if_any("keyId", input.key_id.as_ref());
    constraints.algorithm("encryptionAlgorithm", input.encryption_algorithm.as_ref());
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let context = context(input.encryption_context)?;
    let ask = crypto("kms:Decrypt", &context);
    if input.unhonoured.ignores_ciphertext(input.dry_run)? {
        return only_authorised(call, &ask, input.key_id.as_deref()).await;
    }
    let (ciphertext, named) =
        source(call, &ask, input.ciphertext_blob, input.key_id.as_deref()).await?;
    let ask = named.iter().fold(ask, |ask, (name, _)| ask.named(name));
    let named = named.map(|(_, key)| key);
    let proof = may_source(call, &ask, &ciphertext).await?;
    refuse_algorithm(input.encryption_algorithm.as_ref())?;
    let decrypted = call
        .kms
        .decrypt(&proof, &ciphertext, &context, named.as_ref())
        .await?;
    call.used(MATERIAL, decrypted.material);
    if input.dry_run == Some(true) {
        return Err(KmsError::DryRun);
    }
    Ok(DecryptAnswer {
        key_id: decrypted.key.to_string(),
        plaintext: decrypted.plaintext,
        encryption_algorithm: SYMMETRIC_DEFAULT,
        key_material_id: decrypted.material.to_string(),
    })
}

/// The condition key that says of a re-encryption whether it is to the key that it is from.
pub(super) const ON_SAME_KEY: &str = "kms:ReEncryptOnSameKey";

/// What a policy is asked about a cryptographic operation.
pub(super) fn crypto<'a>(action: &'static str, context: &'a EncryptionContext) -> Ask<'a> {
    Ask::new(action)
        .context(context)
        .value("kms:EncryptionAlgorithm", SYMMETRIC_DEFAULT)
}

/// A dry run with `IGNORE_CIPHERTEXT`: may the caller, were there a ciphertext?
async fn only_authorised<T>(
    call: &Call<'_>,
    ask: &Ask<'_>,
    key: Option<&str>,
) -> Result<T, KmsError> {
    let key = key.ok_or_else(|| {
        KmsError::Validation(
            "KeyId is required when DryRunModifiers has IGNORE_CIPHERTEXT.".to_owned(),
        )
    })?;
    let (proof, key) = call.authorised_key(ask, key).await?;
    call.kms.check_usable(&proof, &key).await?;
    Err(KmsError::DryRun)
}

/// A ciphertext, and the key that the caller says it is under. Whether there is an alias of another account is not told:
/// one that is not there is one of some other key.
async fn source(
    call: &Call<'_>,
    ask: &Ask<'_>,
    ciphertext: Option<Blob>,
    named: Option<&str>,
) -> Result<(EncryptedDataKey, Option<(KeyRef, KeyArn)>), KmsError> {
    let named = match named {
        Some(named) => {
            let name = KeyRef::parse(named)?;
            let key = match call.kms.resolve_for(call.context, ask, &name).await {
                Err(KmsError::AccessDenied(_)) => call.kms.some_other_key(call.account()),
                resolved => resolved?,
            };
            Some((name, key))
        }
        None => None,
    };
    let Blob(bytes) = there(ciphertext)?;
    Ok((EncryptedDataKey::from_bytes(bytes.as_slice())?, named))
}

/// The key that a ciphertext was made under, before anything is decided; none of what does not read or names none.
async fn under(call: &Call<'_>, bytes: &[u8]) -> Result<Option<KeyArn>, KmsError> {
    match EncryptedDataKey::from_bytes(bytes) {
        Ok(ciphertext) => call.kms.arn_of(&ciphertext).await,
        Err(_refused_later) => Ok(None),
    }
}

/// The key that is named, before anything is decided; none where there is none.
async fn named_if_there(call: &Call<'_>, ask: &Ask<'_>, name: &str) -> Option<KeyArn> {
    let name = KeyRef::parse(name).ok()?;
    let resolved = call.kms.resolve_for(call.context, ask, &name).await;
    resolved.ok()
}

/// The proof that the caller may do this with the key that a ciphertext was made under. Of a key of another account, and
/// of one that is not there, the same is told.
async fn may_source(
    call: &Call<'_>,
    ask: &Ask<'_>,
    ciphertext: &EncryptedDataKey,
) -> Result<Authorised, KmsError> {
    let key = call.kms.arn_of(ciphertext).await?;
    let key = key.ok_or(KmsError::ForeignCiphertext)?;
    match call.may(ask, &key).await {
        Err(KmsError::AccessDenied(denied)) if !denied.own => Err(KmsError::ForeignCiphertext),
        decided => decided,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReEncryptRequest {
    ciphertext_blob: Option<Blob>,
    source_encryption_context: Option<ContextMember>,
    source_key_id: Option<String>,
    destination_key_id: Option<String>,
    destination_encryption_context: Option<ContextMember>,
    source_encryption_algorithm: Option<String>,
    destination_encryption_algorithm: Option<String>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReEncryptAnswer {
    #[serde(serialize_with = "blob")]
    ciphertext_blob: Vec<u8>,
    source_key_id: String,
    key_id: String,
    source_encryption_algorithm: &'static str,
    destination_encryption_algorithm: &'static str,
    source_key_material_id: String,
    destination_key_material_id: String,
}

pub(super) async fn re_encrypt(
    call: &Call<'_>,
    input: ReEncryptRequest,
) -> Result<ReEncryptAnswer, KmsError> {
    let algorithms = [
        input.source_encryption_algorithm.as_ref(),
        input.destination_encryption_algorithm.as_ref(),
    ];
    let mut constraints = Constraints::default();
    if !input.unhonoured.ignores_ciphertext(input.dry_run)? {
        constraints.required("ciphertextBlob", input.ciphertext_blob.as_ref());
    }
    constraints.blob(
        "ciphertextBlob",
        input.ciphertext_blob.as_ref(),
        1,
        CIPHERTEXT_BYTES_MAX,
    );
    constraints.key_id_if_any("sourceKeyId", input.source_key_id.as_ref());
    constraints.key_id("destinationKeyId", input.destination_key_id.as_ref());
    constraints.algorithm("sourceEncryptionAlgorithm", algorithms[0]);
    constraints.algorithm("destinationEncryptionAlgorithm", algorithms[1]);
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let from_context = context(input.source_encryption_context)?;
    let to_context = context(input.destination_encryption_context)?;
    let is_only_asked = input.unhonoured.ignores_ciphertext(input.dry_run)?;
    let from_ask = crypto("kms:ReEncryptFrom", &from_context);
    let to_ask = crypto("kms:ReEncryptTo", &to_context);
    let to_name = KeyRef::parse(&there(input.destination_key_id)?)?;
    let to = call.kms.resolve_for(call.context, &to_ask, &to_name);
    let to = to.await?;
    let from = match (&input.ciphertext_blob, input.source_key_id.as_deref()) {
        (Some(Blob(bytes)), _) if !is_only_asked => under(call, bytes).await?,
        (_, Some(named)) if is_only_asked => named_if_there(call, &from_ask, named).await,
        _ => None,
    };
    let is_same = (from.as_ref() == Some(&to)).to_string();
    let from_ask = from_ask.value(ON_SAME_KEY, is_same.as_str());
    let to_ask = to_ask.value(ON_SAME_KEY, is_same);
    let to_proof = call.may(&to_ask.named(&to_name), &to).await?;
    if is_only_asked {
        call.kms.check_usable(&to_proof, &to).await?;
        return only_authorised(call, &from_ask, input.source_key_id.as_deref()).await;
    }
    let (ciphertext, named) = source(
        call,
        &from_ask,
        input.ciphertext_blob,
        input.source_key_id.as_deref(),
    )
    .await?;
    let from_ask = named
        .iter()
        .fold(from_ask, |ask, (name, _)| ask.named(name));
    let named = named.map(|(_, key)| key);
    let from_proof = may_source(call, &from_ask, &ciphertext).await?;
    algorithms.into_iter().try_for_each(refuse_algorithm)?;
    if input.dry_run == Some(true) {
        call.kms.check_usable(&to_proof, &to).await?;
        let opened = call
            .kms
            .check_opens(&from_proof, &ciphertext, &from_context, named.as_ref());
        opened.await?;
        return Err(KmsError::DryRun);
    }
    let done = call
        .kms
        .re_encrypt(
            (&from_proof, &to_proof),
            &ciphertext,
            (&from_context, named.as_ref()),
            (&to, &to_context),
        )
        .await?;
    call.used("sourceKeyMaterialId", done.source_material);
    call.used("destinationKeyMaterialId", done.encrypted.material);
    Ok(ReEncryptAnswer {
        ciphertext_blob: done.encrypted.ciphertext.as_bytes().to_vec(),
        source_key_id: done.source.to_string(),
        key_id: to.to_string(),
        source_encryption_algorithm: SYMMETRIC_DEFAULT,
        destination_encryption_algorithm: SYMMETRIC_DEFAULT,
        source_key_material_id: done.source_material.to_string(),
        destination_key_material_id: done.encrypted.material.to_string(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateDataKeyRequest {
    key_id: Option<String>,
    encryption_context: Option<ContextMember>,
    number_of_bytes: Option<i64>,
    key_spec: Option<String>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateDataKeyAnswer {
    #[serde(serialize_with = "blob")]
    ciphertext_blob: Vec<u8>,
    #[serde(serialize_with = "blob")]
    plaintext: Zeroizing<Vec<u8>>,
    key_id: String,
    key_material_id: String,
}

pub(super) async fn generate_data_key(
    call: &Call<'_>,
    input: GenerateDataKeyRequest,
) -> Result<GenerateDataKeyAnswer, KmsError> {
    let (key, generated) = generate(call, "kms:GenerateDataKey", input).await?;
    Ok(GenerateDataKeyAnswer {
        ciphertext_blob: generated.encrypted.ciphertext.as_bytes().to_vec(),
        plaintext: generated.plaintext,
        key_id: key.to_string(),
        key_material_id: generated.encrypted.material.to_string(),
    })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateDataKeyWithoutPlaintextAnswer {
    #[serde(serialize_with = "blob")]
    ciphertext_blob: Vec<u8>,
    key_id: String,
    key_material_id: String,
}

pub(super) async fn generate_data_key_without_plaintext(
    call: &Call<'_>,
    input: GenerateDataKeyRequest,
) -> Result<GenerateDataKeyWithoutPlaintextAnswer, KmsError> {
    let (key, generated) = generate(call, "kms:GenerateDataKeyWithoutPlaintext", input).await?;
    Ok(GenerateDataKeyWithoutPlaintextAnswer {
        ciphertext_blob: generated.encrypted.ciphertext.as_bytes().to_vec(),
        key_id: key.to_string(),
        key_material_id: generated.encrypted.material.to_string(),
    })
}

async fn generate(
    call: &Call<'_>,
    action: &'static str,
    input: GenerateDataKeyRequest,
) -> Result<(KeyArn, Generated), KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.number(
        "numberOfBytes",
        input.number_of_bytes,
        1,
        GENERATED_BYTES_MAX_WIRE,
    );
    constraints.one_of(
        "keySpec",
        input.key_spec.as_deref(),
        &["AES_256", "AES_128"],
    );
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let bytes = match (
        input.key_spec.as_deref(),
        input.number_of_bytes.map(usize::try_from),
    ) {
        (Some("AES_256"), None) => 32,
        (Some("AES_128"), None) => 16,
        (None, Some(Ok(bytes))) => bytes,
        _ => {
            return Err(KmsError::Validation(
                "Please specify either number of bytes or key spec.".to_owned(),
            ));
        }
    };
    let context = context(input.encryption_context)?;
    let ask = crypto(action, &context);
    let (proof, key) = call.authorised_key(&ask, &there(input.key_id)?).await?;
    if input.dry_run == Some(true) {
        call.kms.check_usable(&proof, &key).await?;
        return Err(KmsError::DryRun);
    }
    let generated = call
        .kms
        .generate_data_key_of(&proof, &key, &context, bytes)
        .await?;
    call.used(MATERIAL, generated.encrypted.material);
    Ok((key, generated))
}

/// [`GENERATED_BYTES_MAX`] as a number of the wire.
const GENERATED_BYTES_MAX_WIRE: i64 = 1024;
const _: () = assert!(GENERATED_BYTES_MAX == 1024);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateRandomRequest {
    number_of_bytes: Option<i64>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateRandomAnswer {
    #[serde(serialize_with = "blob")]
    plaintext: Zeroizing<Vec<u8>>,
}

pub(super) async fn generate_random(
    call: &Call<'_>,
    input: GenerateRandomRequest,
) -> Result<GenerateRandomAnswer, KmsError> {
    let mut constraints = Constraints::default();
    constraints.number(
        "numberOfBytes",
        input.number_of_bytes,
        1,
        GENERATED_BYTES_MAX_WIRE,
    );
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let Some(Ok(bytes)) = input.number_of_bytes.map(usize::try_from) else {
        return Err(KmsError::Validation(
            "NumberOfBytes is required.".to_owned(),
        ));
    };
    let proof = call.may_service(&Ask::new("kms:GenerateRandom"))?;
    Ok(GenerateRandomAnswer {
        plaintext: call.kms.generate_random(&proof, bytes)?,
    })
}
