//! `Sign`, `Verify`, `GetPublicKey`.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{Blob, Constraints, Unhonoured, blob, there};
use crate::kms::{KmsError, Message, SIGN_MESSAGE_BYTES_MAX, SIGNATURE_BYTES_MAX};

const SIGNING_ALGORITHMS: [&str; 13] = [
    "RSASSA_PSS_SHA_256",
    "RSASSA_PSS_SHA_384",
    "RSASSA_PSS_SHA_512",
    "RSASSA_PKCS1_V1_5_SHA_256",
    "RSASSA_PKCS1_V1_5_SHA_384",
    "RSASSA_PKCS1_V1_5_SHA_512",
    "ECDSA_SHA_256",
    "ECDSA_SHA_384",
    "ECDSA_SHA_512",
    "SM2DSA",
    "ML_DSA_SHAKE_256",
    "ED25519_SHA_512",
    "ED25519_PH_SHA_512",
];
const RAW: &str = "RAW";
const DIGEST: &str = "DIGEST";
const MESSAGE_TYPES: [&str; 3] = [RAW, DIGEST, "EXTERNAL_MU"];

/// What `Sign` and `Verify` have in common.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Signed {
    key_id: Option<String>,
    message: Option<Blob>,
    message_type: Option<String>,
    signing_algorithm: Option<String>,
    dry_run: Option<bool>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

impl Signed {
    fn constrain(&self, constraints: &mut Constraints) {
        constraints.key_id("keyId", self.key_id.as_ref());
        constraints.required("message", self.message.as_ref());
        constraints.blob("message", self.message.as_ref(), 1, SIGN_MESSAGE_BYTES_MAX);
        constraints.one_of("messageType", self.message_type.as_deref(), &MESSAGE_TYPES);
        constraints.required("signingAlgorithm", self.signing_algorithm.as_ref());
        constraints.one_of(
            "signingAlgorithm",
            self.signing_algorithm.as_deref(),
            &SIGNING_ALGORITHMS,
        );
    }

    fn message_type(&self) -> &str {
        self.message_type.as_deref().unwrap_or(RAW)
    }

    /// What a policy is asked.
    fn ask(&self, action: &'static str) -> Ask<'static> {
        Ask::new(action)
            .value("kms:MessageType", self.message_type().to_owned())
            .value(
                "kms:SigningAlgorithm",
                self.signing_algorithm.clone().unwrap_or_default(),
            )
    }

    fn message(&self) -> Result<Message<'_>, KmsError> {
        let Blob(bytes) = there(self.message.as_ref())?;
        match self.message_type() {
            RAW => Ok(Message::Raw(bytes)),
            DIGEST => Ok(Message::Digest(bytes)),
            other => Err(KmsError::Validation(format!(
                "MessageType {other} is for ML-DSA keys, and there are none here"
            ))),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct SignRequest(Signed);

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SignAnswer {
    key_id: String,
    #[serde(serialize_with = "blob")]
    signature: Vec<u8>,
    signing_algorithm: String,
}

pub(super) async fn sign(
    call: &Call<'_>,
    SignRequest(input): SignRequest,
) -> Result<SignAnswer, KmsError> {
    let mut constraints = Constraints::default();
    input.constrain(&mut constraints);
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let named = there(input.key_id.as_deref())?;
    let (proof, key) = call.authorised_key(&input.ask("kms:Sign"), named).await?;
    let (algorithm, message) = (there(input.signing_algorithm.as_deref())?, input.message()?);
    if input.dry_run == Some(true) {
        call.kms
            .check_signer(&proof, &key, algorithm, message)
            .await?;
        return Err(KmsError::DryRun);
    }
    let signature = call.kms.sign(&proof, &key, algorithm, message).await?;
    Ok(SignAnswer {
        key_id: key.to_string(),
        signature,
        signing_algorithm: algorithm.to_owned(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifyRequest {
    signature: Option<Blob>,
    #[serde(flatten)]
    signed: Signed,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VerifyAnswer {
    key_id: String,
    signature_valid: bool,
    signing_algorithm: String,
}

pub(super) async fn verify(
    call: &Call<'_>,
    input: VerifyRequest,
) -> Result<VerifyAnswer, KmsError> {
    let VerifyRequest { signature, signed } = input;
    let mut constraints = Constraints::default();
    signed.constrain(&mut constraints);
    constraints.required("signature", signature.as_ref());
    constraints.blob("signature", signature.as_ref(), 1, SIGNATURE_BYTES_MAX);
    constraints.finish()?;
    call.refuse(&signed.unhonoured).await?;
    let named = there(signed.key_id.as_deref())?;
    let (proof, key) = call
        .authorised_key(&signed.ask("kms:Verify"), named)
        .await?;
    let (algorithm, message) = (
        there(signed.signing_algorithm.as_deref())?,
        signed.message()?,
    );
    if signed.dry_run == Some(true) {
        call.kms
            .check_signer(&proof, &key, algorithm, message)
            .await?;
        return Err(KmsError::DryRun);
    }
    let Blob(signature) = there(signature)?;
    call.kms
        .verify(&proof, &key, algorithm, message, &signature)
        .await?;
    Ok(VerifyAnswer {
        key_id: key.to_string(),
        signature_valid: true,
        signing_algorithm: algorithm.to_owned(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetPublicKeyRequest {
    key_id: Option<String>,
    #[serde(flatten)]
    unhonoured: Unhonoured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetPublicKeyAnswer {
    key_id: String,
    #[serde(serialize_with = "blob")]
    public_key: Vec<u8>,
    customer_master_key_spec: &'static str,
    key_spec: &'static str,
    key_usage: &'static str,
    signing_algorithms: &'static [&'static str],
}

pub(super) async fn get_public_key(
    call: &Call<'_>,
    input: GetPublicKeyRequest,
) -> Result<GetPublicKeyAnswer, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    constraints.finish()?;
    call.refuse(&input.unhonoured).await?;
    let (proof, key) = call
        .authorised_key(&Ask::new("kms:GetPublicKey"), &there(input.key_id)?)
        .await?;
    let public = call.kms.public_key(&proof, &key).await?;
    Ok(GetPublicKeyAnswer {
        key_id: key.to_string(),
        public_key: public.der,
        customer_master_key_spec: public.spec.name(),
        key_spec: public.spec.name(),
        key_usage: public.spec.usage().name(),
        signing_algorithms: public.spec.algorithms(),
    })
}
