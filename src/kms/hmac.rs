//! MACs: made in the token, by a key that does nothing else. One version a key, since AWS rotates none.

use strongroom_hsm::{HsmGroup, ToolKey};

use super::error::KmsError;
use super::key::{KeyArn, Owner};
use super::spec::KeySpec;
use super::{Kms, check_proof};
use crate::auth::Authorised;

/// The longest message, as AWS has it.
pub const MAC_MESSAGE_BYTES_MAX: usize = strongroom_hsm::TOOL_INPUT_BYTES_MAX;
/// The longest MAC that a caller may ask to verify, as AWS has it.
pub const MAC_BYTES_MAX: usize = 6144;

const GENERATE: &str = "kms:GenerateMac";
const VERIFY: &str = "kms:VerifyMac";

impl Kms {
    /// kms:GenerateMac of a message of at most [`MAC_MESSAGE_BYTES_MAX`].
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidKeyUsage`]; by the key's state, the HSM and the records.
    pub async fn generate_mac(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
        message: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        check_proof(proof, &[GENERATE], key)?;
        let (hsm, tool) = self.mac_key(proof, key, algorithm).await?;
        hsm.mac(&tool, message).await.map_err(KmsError::hsm)
    }

    /// kms:VerifyMac.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidMac`] when it is not the MAC of this message under this key; as [`Kms::generate_mac`].
    pub async fn verify_mac(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
        message: &[u8],
        mac: &[u8],
    ) -> Result<(), KmsError> {
        check_proof(proof, &[VERIFY], key)?;
        let (hsm, tool) = self.mac_key(proof, key, algorithm).await?;
        match hsm.verify_mac(&tool, message, mac).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(KmsError::InvalidMac),
            Err(error) => Err(KmsError::hsm(error)),
        }
    }

    /// Checks that `key` may be used now, by this algorithm: a dry run of [`Kms::generate_mac`] and of [`Kms::verify_mac`].
    ///
    /// # Errors
    ///
    /// As [`Kms::generate_mac`].
    pub async fn check_mac_key(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
    ) -> Result<(), KmsError> {
        check_proof(proof, &[GENERATE, VERIFY], key)?;
        self.mac_key(proof, key, algorithm).await.map(|_key| ())
    }

    async fn mac_key(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        algorithm: &str,
    ) -> Result<(&HsmGroup, ToolKey), KmsError> {
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let head = rows.head(&owner).await?;
        let enabled = head.record.usable(&owner, proof.action().0, self.now())?;
        check_algorithm(enabled.record.spec()?, algorithm)?;
        let backing = rows.backing(&owner, enabled.record.current).await?.record;
        let hsm = self.hsm_of(&rows, &owner, &backing).await?;
        Ok((hsm, backing.tool_key()?))
    }
}

/// Checks that keys of this spec have the algorithm.
pub(super) fn check_algorithm(spec: KeySpec, algorithm: &str) -> Result<(), KmsError> {
    if spec.algorithms().contains(&algorithm) {
        return Ok(());
    }
    Err(KmsError::InvalidKeyUsage(format!(
        "The algorithm {algorithm} is incompatible with the key spec {}.",
        spec.name()
    )))
}
