//! Signatures: made in the token, by a key that does nothing else; verified here, with the public half that was recorded
//! when the key was made. One version a key, since AWS rotates none.
//!
//! To verify takes no secret, so it takes no token: what is relied on is the record, which has a MAC. So a signature is
//! verified while the token is away, at no cost to it, by the same library for every token.

use strongroom_hsm::{SignatureAlgorithm, SigningKey, ToolKey, ToolSpec};

use super::error::KmsError;
use super::hmac::check_algorithm;
use super::key::{BackingRecord, KeyArn, Owner};
use super::spec::{KeySpec, KeyUsage};
use super::table::Rows;
use super::{Kms, check_proof};
use crate::auth::Authorised;

/// The longest message, as AWS has it.
pub const SIGN_MESSAGE_BYTES_MAX: usize = 4096;
/// The longest signature that a caller may ask to verify, as AWS has it.
pub const SIGNATURE_BYTES_MAX: usize = 6144;

const SIGN: &str = "kms:Sign";
const VERIFY: &str = "kms:Verify";
const GET_PUBLIC_KEY: &str = "kms:GetPublicKey";

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    /// The message, which is hashed here: at most [`SIGN_MESSAGE_BYTES_MAX`].
    Raw(&'a [u8]),
    /// The digest of it, made by the caller with the hash of the algorithm.
    Digest(&'a [u8]),
}

impl Message<'_> {
    fn digest(self, algorithm: SignatureAlgorithm) -> Result<Vec<u8>, KmsError> {
        match self {
            Self::Raw(message) => Ok(algorithm.hash().digest(message)),
            Self::Digest(digest) if digest.len() == algorithm.hash().bytes() => Ok(digest.to_vec()),
            Self::Digest(_) => Err(KmsError::Validation(format!(
                "Digest is invalid length for algorithm {}.",
                algorithm.name()
            ))),
        }
    }
}

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// A DER `SubjectPublicKeyInfo` (RFC 5280 §4.1).
    pub der: Vec<u8>,
    /// Its key spec, and so what it is for.
    pub spec: KeySpec,
}

impl Kms {
    /// kms:Sign. ECDSA's signatures are in DER (RFC 3279 §2.2.3).
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidKeyUsage`]; [`KmsError::Validation`] for a digest of another length; by the key's state, the HSM
    /// and the records.
    pub async fn sign(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
        message: Message<'_>,
    ) -> Result<Vec<u8>, KmsError> {
        check_proof(proof, &[SIGN], key)?;
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let signer = self.signer(&rows, proof, &owner, algorithm).await?;
        let digest = message.digest(signer.algorithm)?;
        let hsm = self.hsm_of(&rows, &owner, &signer.backing).await?;
        hsm.sign(&signer.tool, signer.algorithm, &digest)
            .await
            .map_err(KmsError::hsm)
    }

    /// Checks that `key` may be used now, by this algorithm for such a message: a dry run of [`Kms::sign`] and of
    /// [`Kms::verify`].
    ///
    /// # Errors
    ///
    /// As [`Kms::sign`] but for the HSM.
    pub async fn check_signer(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
        message: Message<'_>,
    ) -> Result<(), KmsError> {
        check_proof(proof, &[SIGN, VERIFY], key)?;
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let signer = self.signer(&rows, proof, &owner, algorithm).await?;
        message.digest(signer.algorithm).map(|_digest| ())
    }

    /// kms:Verify. Asks no token.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidSignature`] when it is not of this message by this key; as [`Kms::sign`] but for the HSM.
    pub async fn verify(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
        message: Message<'_>,
        signature: &[u8],
    ) -> Result<(), KmsError> {
        check_proof(proof, &[VERIFY], key)?;
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let signer = self.signer(&rows, proof, &owner, algorithm).await?;
        let digest = message.digest(signer.algorithm)?;
        let public = signer.tool.proof.as_bytes();
        if signer
            .key
            .verifies(public, signer.algorithm, &digest, signature)
        {
            return Ok(());
        }
        Err(KmsError::InvalidSignature)
    }

    /// kms:GetPublicKey. Asks no token.
    ///
    /// # Errors
    ///
    /// [`KmsError::Unsupported`] for a key that has no public half; by the key's state and the records.
    pub async fn public_key(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<PublicKey, KmsError> {
        check_proof(proof, &[GET_PUBLIC_KEY], key)?;
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let head = rows.head(&owner).await?;
        let spec = head.record.spec()?;
        if spec.usage() != KeyUsage::SignVerify {
            return Err(KmsError::Unsupported(format!(
                "{key} key spec is {} which is not valid for GetPublicKey.",
                spec.name()
            )));
        }
        let enabled = head.record.usable(&owner, proof.action().0, self.now())?;
        let backing = rows.backing(&owner, enabled.record.current).await?.record;
        let der = backing.tool_key()?.proof.as_bytes().to_vec();
        Ok(PublicKey { der, spec })
    }

    async fn signer(
        &self,
        rows: &Rows,
        proof: &Authorised,
        owner: &Owner,
        algorithm: &str,
    ) -> Result<Signer, KmsError> {
        let head = rows.head(owner).await?;
        let enabled = head.record.usable(owner, proof.action().0, self.now())?;
        check_algorithm(enabled.record.spec()?, algorithm)?;
        let backing = rows.backing(owner, enabled.record.current).await?.record;
        let tool = backing.tool_key()?;
        let (ToolSpec::Sign(key), Some(algorithm)) =
            (tool.spec, SignatureAlgorithm::parse(algorithm))
        else {
            return Err(KmsError::Damaged("kind of a backing key"));
        };
        Ok(Signer {
            backing,
            tool,
            key,
            algorithm,
        })
    }
}

/// A key that is to sign, or to verify what it has signed.
struct Signer {
    backing: BackingRecord,
    tool: ToolKey,
    key: SigningKey,
    algorithm: SignatureAlgorithm,
}
