//! Data keys, and small data under a key: all that wraps and unwraps.

use std::fmt;

use strongroom_hsm::{DataKey, SecretBytes, WRAP_PLAINTEXT_BYTES_MAX, Wrapped};
use zeroize::Zeroizing;

use super::ciphertext::{EncryptedDataKey, Form, Header, PLAINTEXT_BYTES_MAX, open_payload};
use super::context::EncryptionContext;
use super::error::KmsError;
use super::key::{KeyArn, KeyMaterialId, Owner};
use super::{Kms, check_proof, check_proof_of, key_of_proof};
use crate::auth::{Authorised, Resource};

/// The most bytes of a generated data key and of `GenerateRandom`, as AWS has it.
pub const GENERATED_BYTES_MAX: usize = 1024;

pub(super) const ENCRYPT: &str = "kms:Encrypt";
const DECRYPT: &str = "kms:Decrypt";
const GENERATE: &str = "kms:GenerateDataKey";
const GENERATE_WITHOUT_PLAINTEXT: &str = "kms:GenerateDataKeyWithoutPlaintext";
const RE_ENCRYPT_FROM: &str = "kms:ReEncryptFrom";
const RE_ENCRYPT_TO: &str = "kms:ReEncryptTo";

/// What kms:Encrypt answers.
#[derive(Debug)]
pub struct Encrypted {
    /// The ciphertext.
    pub ciphertext: EncryptedDataKey,
    /// The backing key it is under.
    pub material: KeyMaterialId,
}

/// What kms:GenerateDataKey answers.
pub struct Generated {
    /// The data key in the clear.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The data key encrypted.
    pub encrypted: Encrypted,
}

impl fmt::Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generated")
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

/// What kms:Decrypt answers.
pub struct Decrypted {
    /// The plaintext.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The key it was under.
    pub key: KeyArn,
    /// The backing key it was under.
    pub material: KeyMaterialId,
}

impl fmt::Debug for Decrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decrypted")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// What kms:ReEncrypt answers.
#[derive(Debug)]
pub struct ReEncrypted {
    /// The key that decrypted.
    pub source: KeyArn,
    /// Its backing key.
    pub source_material: KeyMaterialId,
    /// The new ciphertext.
    pub encrypted: Encrypted,
}

impl Kms {
    /// Makes a data key under `key`. One wrap by the HSM.
    ///
    /// # Errors
    ///
    /// By the key's state, the HSM and the records.
    pub async fn generate_data_key(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        context: &EncryptionContext,
    ) -> Result<(DataKey, EncryptedDataKey), KmsError> {
        check_proof(proof, &[GENERATE], key)?;
        let data_key = DataKey::random().map_err(KmsError::hsm)?;
        let encrypted = self.wrap_data_key(proof, key, context, &data_key).await?;
        Ok((data_key, encrypted))
    }

    /// Wraps a data key that exists under `key`: a copy or a change of the KMS key. The caller needs the right to
    /// generate one there.
    ///
    /// # Errors
    ///
    /// By the key's state, the HSM and the records.
    pub async fn wrap_data_key(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        context: &EncryptionContext,
        data_key: &DataKey,
    ) -> Result<EncryptedDataKey, KmsError> {
        check_proof(proof, &[GENERATE, ENCRYPT, RE_ENCRYPT_TO], key)?;
        let using = self.begin_use(proof, key, context)?;
        let secret = SecretBytes::from(data_key);
        let outcome = self
            .encrypt_direct((key, proof.action().0), context, secret)
            .await;
        let material = outcome.as_ref().map(|encrypted| encrypted.material);
        using.end(material).await?;
        Ok(outcome?.ciphertext)
    }

    /// Unwraps a data key. `proof` is of the key that it is under. One unwrap by the HSM.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`] when its key is gone; [`KmsError::InvalidCiphertext`]; by the key's state, the HSM and
    /// the records.
    pub async fn unwrap_data_key(
        &self,
        proof: &Authorised,
        encrypted: &EncryptedDataKey,
        context: &EncryptionContext,
    ) -> Result<DataKey, KmsError> {
        let key = key_of_proof(self, proof, &[DECRYPT, RE_ENCRYPT_FROM], encrypted)?;
        let using = self.begin_use(proof, &key, context)?;
        let outcome = self.unwrap_direct(&key, encrypted, context).await;
        let material = outcome.as_ref().map(|(_, material)| *material);
        using.end(material).await?;
        outcome.map(|(data_key, _)| data_key)
    }

    /// Unwraps a data key that is wrapped by the HSM itself under `key`, and says under which backing key.
    pub(super) async fn unwrap_direct(
        &self,
        key: &KeyArn,
        encrypted: &EncryptedDataKey,
        context: &EncryptionContext,
    ) -> Result<(DataKey, KeyMaterialId), KmsError> {
        let header = encrypted.header();
        let parts = encrypted.parts()?;
        if header.form != Form::Direct {
            return Err(KmsError::InvalidCiphertext);
        }
        let (secret, material) = self
            .unwrap_ciphertext(key, header, context, parts.wrapped)
            .await?;
        let data_key =
            DataKey::from_secret(&secret).map_err(|_length| KmsError::InvalidCiphertext)?;
        Ok((data_key, material))
    }

    /// kms:Encrypt of up to [`PLAINTEXT_BYTES_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] beyond the bounds; by the key's state, the HSM and the records.
    pub async fn encrypt(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Encrypted, KmsError> {
        check_proof(proof, &[ENCRYPT], key)?;
        self.encrypt_any((key, ENCRYPT), context, plaintext).await
    }

    /// kms:Decrypt. `proof` is of [`Kms::arn_of`] the ciphertext; `named` is the key that the caller says it is
    /// under.
    ///
    /// # Errors
    ///
    /// [`KmsError::IncorrectKey`] when it is under another than `named`; [`KmsError::ForeignCiphertext`] when its key
    /// is not here; [`KmsError::InvalidCiphertext`]; by the key's state, the HSM and the records.
    pub async fn decrypt(
        &self,
        proof: &Authorised,
        ciphertext: &EncryptedDataKey,
        context: &EncryptionContext,
        named: Option<&KeyArn>,
    ) -> Result<Decrypted, KmsError> {
        let key = key_of_proof(self, proof, &[DECRYPT], ciphertext)?;
        self.decrypt_any(key, ciphertext, context, named).await
    }

    /// kms:ReEncrypt: decrypts and encrypts without the plaintext leaving. Two proofs: of [`Kms::arn_of`] the
    /// ciphertext, and of `to`.
    ///
    /// # Errors
    ///
    /// As [`Kms::decrypt`] and [`Kms::encrypt`].
    pub async fn re_encrypt(
        &self,
        (from_proof, to_proof): (&Authorised, &Authorised),
        ciphertext: &EncryptedDataKey,
        (context, named): (&EncryptionContext, Option<&KeyArn>),
        (to, to_context): (&KeyArn, &EncryptionContext),
    ) -> Result<ReEncrypted, KmsError> {
        let from = key_of_proof(self, from_proof, &[RE_ENCRYPT_FROM], ciphertext)?;
        check_proof(to_proof, &[RE_ENCRYPT_TO], to)?;
        let opened = self.decrypt_any(from, ciphertext, context, named).await?;
        let encrypted = self
            .encrypt_any((to, RE_ENCRYPT_TO), to_context, &opened.plaintext)
            .await?;
        Ok(ReEncrypted {
            source: opened.key,
            source_material: opened.material,
            encrypted,
        })
    }

    /// kms:GenerateDataKey of any length, for callers who take the plaintext home.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] beyond [`GENERATED_BYTES_MAX`]; by the key's state, the HSM and the records.
    pub async fn generate_data_key_of(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        context: &EncryptionContext,
        bytes: usize,
    ) -> Result<Generated, KmsError> {
        check_proof(proof, &[GENERATE, GENERATE_WITHOUT_PLAINTEXT], key)?;
        let plaintext = random_bytes(bytes)?;
        let encrypted = self
            .encrypt_any((key, proof.action().0), context, &plaintext)
            .await?;
        Ok(Generated {
            plaintext,
            encrypted,
        })
    }

    /// kms:GenerateRandom, from the operating system's generator by way of AWS-LC's.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] beyond [`GENERATED_BYTES_MAX`].
    pub fn generate_random(
        &self,
        proof: &Authorised,
        bytes: usize,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        check_proof_of(proof, &["kms:GenerateRandom"], &Resource::Service)?;
        random_bytes(bytes)
    }

    /// Checks that `key` exists and may be used now: a dry run of whatever `proof` allows.
    ///
    /// # Errors
    ///
    /// By the key's state and the records.
    pub async fn check_usable(&self, proof: &Authorised, key: &KeyArn) -> Result<(), KmsError> {
        check_proof(proof, &[proof.action().0], key)?;
        let owner = Owner::Key(key.clone());
        let head = self.rows().await?.head(&owner).await?;
        head.record
            .usable(&owner, proof.action().0, self.now())
            .map(|_usable| ())
    }

    /// Checks that a ciphertext opens: a dry run of [`Kms::re_encrypt`].
    ///
    /// # Errors
    ///
    /// As [`Kms::decrypt`].
    pub async fn check_opens(
        &self,
        proof: &Authorised,
        ciphertext: &EncryptedDataKey,
        context: &EncryptionContext,
        named: Option<&KeyArn>,
    ) -> Result<(), KmsError> {
        let key = key_of_proof(self, proof, &[DECRYPT, RE_ENCRYPT_FROM], ciphertext)?;
        self.decrypt_any(key, ciphertext, context, named)
            .await
            .map(|_opened| ())
    }

    /// `action`: what for, as IAM names it.
    pub(super) async fn encrypt_any(
        &self,
        (key, action): (&KeyArn, &str),
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Encrypted, KmsError> {
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(KmsError::Validation(format!(
                "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have \
                 length less than or equal to {PLAINTEXT_BYTES_MAX}"
            )));
        }
        if plaintext.len() <= WRAP_PLAINTEXT_BYTES_MAX {
            let secret = SecretBytes::new(plaintext.to_vec()).map_err(KmsError::hsm)?;
            return self.encrypt_direct((key, action), context, secret).await;
        }
        let permit = self.permit_wrap(&Owner::Key(key.clone()), action).await?;
        let material = permit.material;
        let header = Header {
            key_id: key.key_id(),
            version: permit.version,
            form: Form::Large,
        };
        let one_time_key = DataKey::random().map_err(KmsError::hsm)?;
        let wrapped = self
            .wrap(
                permit,
                header.aad(context),
                SecretBytes::from(&one_time_key),
            )
            .await?;
        let ciphertext =
            EncryptedDataKey::large(header, &wrapped, one_time_key, context, plaintext)?;
        Ok(Encrypted {
            ciphertext,
            material,
        })
    }

    pub(super) async fn encrypt_direct(
        &self,
        (key, action): (&KeyArn, &str),
        context: &EncryptionContext,
        secret: SecretBytes,
    ) -> Result<Encrypted, KmsError> {
        let permit = self.permit_wrap(&Owner::Key(key.clone()), action).await?;
        let material = permit.material;
        let header = Header {
            key_id: key.key_id(),
            version: permit.version,
            form: Form::Direct,
        };
        let wrapped = self.wrap(permit, header.aad(context), secret).await?;
        Ok(Encrypted {
            ciphertext: EncryptedDataKey::direct(header, &wrapped),
            material,
        })
    }

    async fn decrypt_any(
        &self,
        key: KeyArn,
        ciphertext: &EncryptedDataKey,
        context: &EncryptionContext,
        named: Option<&KeyArn>,
    ) -> Result<Decrypted, KmsError> {
        if named.is_some_and(|named| *named != key) {
            return Err(KmsError::IncorrectKey);
        }
        let header = ciphertext.header();
        let parts = ciphertext.parts()?;
        let (secret, material) = self
            .unwrap_ciphertext(&key, header, context, parts.wrapped)
            .await
            .map_err(|error| match error {
                KmsError::NotFound(_) => KmsError::ForeignCiphertext,
                other => other,
            })?;
        let plaintext = match parts.payload {
            None => Zeroizing::new(secret.expose().to_vec()),
            Some(payload) => {
                let one_time_key =
                    DataKey::from_secret(&secret).map_err(|_length| KmsError::InvalidCiphertext)?;
                open_payload(header, &one_time_key, context, payload)?
            }
        };
        Ok(Decrypted {
            plaintext,
            key,
            material,
        })
    }

    async fn unwrap_ciphertext(
        &self,
        key: &KeyArn,
        header: Header,
        context: &EncryptionContext,
        wrapped: Wrapped,
    ) -> Result<(SecretBytes, KeyMaterialId), KmsError> {
        let owner = Owner::Key(key.clone());
        self.unwrap_under(&owner, header.version, header.aad(context), wrapped)
            .await
    }

    /// Reads the key and its state and unwraps under one of its backing keys.
    pub(super) async fn unwrap_under(
        &self,
        owner: &Owner,
        version: u32,
        aad: Vec<u8>,
        wrapped: Wrapped,
    ) -> Result<(SecretBytes, KeyMaterialId), KmsError> {
        let rows = self.rows().await?;
        let head = rows.head(owner).await?;
        let key = head.record.usable(owner, DECRYPT, self.now())?;
        if !(1..=key.record.current).contains(&version) {
            return Err(KmsError::InvalidCiphertext);
        }
        let backing = rows.backing(key.owner, version).await?.record;
        let secret = self
            .hsm_of(&rows, owner, &backing)
            .await?
            .unwrap(&backing.backing_key()?, aad, wrapped)
            .await
            .map_err(KmsError::hsm)?;
        Ok((secret, backing.material()))
    }
}

fn random_bytes(bytes: usize) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    if !(1..=GENERATED_BYTES_MAX).contains(&bytes) {
        return Err(KmsError::Validation(
            "the number of bytes is out of its bounds".to_owned(),
        ));
    }
    let mut buffer = Zeroizing::new(vec![0; bytes]);
    aws_lc_rs::rand::fill(&mut buffer)
        .map_err(|_unspecified| KmsError::internal("no randomness"))?;
    Ok(buffer)
}
