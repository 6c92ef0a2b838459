//! The credential key: keeps the secrets of access keys, and seals session tokens.
//!
//! ```text
//! sealed = 0x01 ‖ salt[32] ‖ ciphertext ‖ tag[16]
//!          AES-256-GCM(HKDF-SHA-256(salt, credential key, purpose, 32), nonce = 0[12], aad)
//! secret of an access key: purpose "strongroom access key v1",    aad = access key id ‖ account (twelve digits)
//! session token:           purpose "strongroom session token v1", aad = access key id; base64url without padding
//! ```
//!
//! The key is a data key. It is wrapped by the HSM (`InternalKey::Credential`) in a row of its own, made on first use,
//! and held in [`CredentialKey`] for the life of the process: that one struct is where it lives. The salt is fresh, so
//! that every derived key seals one message and no nonce can be used twice.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Encode};
use secrecy::SecretBox;
use strongroom_hsm::DataKey;
use zeroize::{Zeroize as _, Zeroizing};

use super::error::IamError;
use super::{Iam, record};
use crate::auth::AccountId;
use crate::auth::credentials::Secret;
use crate::kms::{COMMIT_ATTEMPTS_MAX, InternalKey};

/// The longest session token that is looked at.
pub const SESSION_TOKEN_CHARS_MAX: usize = 12 * 1024;

const FORMAT: u8 = 1;
const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const ACCESS_KEY: &[u8] = b"strongroom access key v1";
const SESSION_TOKEN: &[u8] = b"strongroom session token v1";
/// What the wrap of the credential key is bound to.
const WRAP_AAD: &[u8] = b"credential key";

/// The credential key in the clear, and all that is done with it. Zeroed on drop.
pub(super) struct CredentialKey(DataKey);

impl fmt::Debug for CredentialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialKey([REDACTED])")
    }
}

/// What was sealed does not open: under another key, for something else, or changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unauthentic;

impl CredentialKey {
    /// Wraps the secret of an access key.
    pub(super) fn wrap_secret(
        &self,
        access_key_id: &str,
        account: &AccountId,
        secret: &str,
    ) -> Result<Vec<u8>, IamError> {
        let aad = [access_key_id, account.as_str()].concat();
        self.seal(ACCESS_KEY, aad.as_bytes(), secret.as_bytes())
    }

    /// Unwraps what [`CredentialKey::wrap_secret`] made for the same access key and account.
    pub(super) fn unwrap_secret(
        &self,
        access_key_id: &str,
        account: &AccountId,
        wrapped: &[u8],
    ) -> Result<Secret, Unauthentic> {
        let aad = [access_key_id, account.as_str()].concat();
        let secret = self.open(ACCESS_KEY, aad.as_bytes(), wrapped)?;
        let secret = std::str::from_utf8(&secret).map_err(|_not_ours| Unauthentic)?;
        Ok(Secret::new(SecretBox::new(secret.into())))
    }

    /// Seals what a session is into its token.
    pub(super) fn seal_session(
        &self,
        access_key_id: &str,
        session: &SessionRecord,
    ) -> Result<String, IamError> {
        let mut plaintext = Zeroizing::new(Vec::with_capacity(SESSION_TOKEN_CHARS_MAX));
        // Writing to a Vec cannot fail, and our records' own encoders raise no error.
        minicbor::encode(session, &mut *plaintext)
            .unwrap_or_else(|error| unreachable!("encoding to memory: {error}"));
        let sealed = self.seal(SESSION_TOKEN, access_key_id.as_bytes(), &plaintext)?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens a token that [`CredentialKey::seal_session`] made for the same access key.
    pub(super) fn open_session(
        &self,
        access_key_id: &str,
        token: &str,
    ) -> Result<SessionRecord, Unauthentic> {
        let sealed = decode_token(token).ok_or(Unauthentic)?;
        let plaintext = self.open(SESSION_TOKEN, access_key_id.as_bytes(), &sealed)?;
        minicbor::decode(&plaintext).map_err(|_not_ours| Unauthentic)
    }

    fn seal(&self, purpose: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, IamError> {
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_unspecified| IamError::Random)?;
        let mut body = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_BYTES));
        body.extend_from_slice(plaintext);
        self.derived(&salt, purpose)
            .seal_in_place_append_tag(nonce(), Aad::from(aad), &mut *body)
            .map_err(|_unspecified| IamError::Random)?;
        Ok([&[FORMAT], salt.as_slice(), &body].concat())
    }

    fn open(
        &self,
        purpose: &[u8],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        let (salt, body) = split_sealed(sealed).ok_or(Unauthentic)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .derived(salt, purpose)
            .open_in_place(nonce(), Aad::from(aad), &mut body)
            .map_err(|_unspecified| Unauthentic)?
            .len();
        body.truncate(length);
        Ok(body)
    }

    fn derived(&self, salt: &[u8], purpose: &[u8]) -> LessSafeKey {
        let prk: Prk = Salt::new(HKDF_SHA256, salt).extract(self.0.expose());
        let info = [purpose];
        let okm = prk
            .expand(&info, &AES_256_GCM)
            .expect("32 bytes are within the 255 * 32 that HKDF-SHA-256 gives");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

/// The salt is fresh, so the derived key seals this one message.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn split_sealed(sealed: &[u8]) -> Option<(&[u8; SALT_BYTES], &[u8])> {
    let (salt, body) = sealed
        .strip_prefix(&[FORMAT])?
        .split_first_chunk::<SALT_BYTES>()?;
    (body.len() >= TAG_BYTES).then_some((salt, body))
}

fn decode_token(token: &str) -> Option<Vec<u8>> {
    if token.len() > SESSION_TOKEN_CHARS_MAX {
        return None;
    }
    URL_SAFE_NO_PAD.decode(token).ok()
}

/// Whether a token has the form of ours. Asked before the HSM is.
pub(super) fn is_token(token: &str) -> bool {
    decode_token(token).is_some_and(|sealed| split_sealed(&sealed).is_some())
}

/// What a session token says. No row is needed for a session, only its role's.
#[derive(Encode, Decode)]
pub(super) struct SessionRecord {
    /// Twelve digits, of the role.
    #[n(0)]
    pub(super) account: String,
    /// Folded.
    #[n(1)]
    pub(super) role: String,
    #[n(2)]
    pub(super) role_id: String,
    /// `RoleSessionName`.
    #[n(3)]
    pub(super) name: String,
    /// Seconds since 1970.
    #[n(4)]
    pub(super) expires: i64,
    #[n(5)]
    pub(super) secret: String,
    /// Session policies by their text.
    #[n(6)]
    pub(super) policies: Vec<String>,
    /// Session policies by ARN: looked up at each request.
    #[n(7)]
    pub(super) policy_arns: Vec<String>,
}

impl Drop for SessionRecord {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl SessionRecord {
    /// The secret in a shape that can be signed with.
    pub(super) fn secret(&self) -> Secret {
        Secret::new(SecretBox::new(self.secret.as_str().into()))
    }
}

/// The row of the credential key.
#[derive(Encode, Decode)]
pub(super) struct CredentialRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    wrapped: Vec<u8>,
}

impl Iam {
    /// The credential key: from memory, else from its row by the HSM.
    ///
    /// # Errors
    ///
    /// [`IamError::Damaged`] when there is none; by the HSM and the records.
    pub(super) async fn credential(&self) -> Result<Arc<CredentialKey>, IamError> {
        self.load_credential()
            .await?
            .ok_or(IamError::Damaged("the credential key is missing"))
    }

    /// The credential key: from memory, else from its row by the HSM, else made.
    pub(super) async fn credential_or_make(&self) -> Result<Arc<CredentialKey>, IamError> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            if let Some(key) = self.load_credential().await? {
                return Ok(key);
            }
            let rows = self.kms.rows().await?;
            let key = DataKey::random().map_err(|_no_randomness| IamError::Random)?;
            let wrapped = self
                .kms
                .wrap_internal(InternalKey::Credential, WRAP_AAD, &key)
                .await?;
            let record = CredentialRecord { wrapped };
            // Whoever is first; its key is loaded then.
            self.kms
                .commit(rows.insert(record::credential_row(), &record))
                .await?;
        }
        Err(IamError::Concurrent)
    }

    async fn load_credential(&self) -> Result<Option<Arc<CredentialKey>>, IamError> {
        if let Some(key) = self.credential.get() {
            return Ok(Some(Arc::clone(key)));
        }
        let rows = self.kms.rows().await?;
        let Some(loaded) = rows
            .load::<CredentialRecord>("credential key", record::credential_row())
            .await?
        else {
            return Ok(None);
        };
        let key = self
            .kms
            .unwrap_internal(InternalKey::Credential, WRAP_AAD, &loaded.record.wrapped)
            .await?;
        let key = self.credential.get_or_init(|| Arc::new(CredentialKey(key)));
        Ok(Some(Arc::clone(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> CredentialKey {
        CredentialKey(DataKey::random().expect("randomness"))
    }

    fn account(digits: &str) -> AccountId {
        AccountId::parse(digits).expect("twelve digits")
    }

    fn session() -> SessionRecord {
        SessionRecord {
            account: "123456789012".into(),
            role: "r".into(),
            role_id: "AROA1".into(),
            name: "s".into(),
            expires: 1,
            secret: "secret".into(),
            policies: vec!["{}".into()],
            policy_arns: vec![],
        }
    }

    #[test]
    fn a_secret_opens_for_its_access_key_and_account_only() {
        let (key, mine) = (key(), account("123456789012"));
        let wrapped = key.wrap_secret("AKIA1", &mine, "secret").expect("wraps");
        assert!(key.unwrap_secret("AKIA1", &mine, &wrapped).is_ok());
        for (id, account) in [
            ("AKIA2", mine.clone()),
            ("AKIA1", account("123456789013")),
            // The same characters, divided otherwise.
            ("AKIA11", account("234567890121")),
        ] {
            assert!(key.unwrap_secret(id, &account, &wrapped).is_err(), "{id}");
        }
        assert!(self::key().unwrap_secret("AKIA1", &mine, &wrapped).is_err());
    }

    #[test]
    fn a_changed_bit_anywhere_in_a_wrapped_secret_is_refused() {
        let (key, mine) = (key(), account("123456789012"));
        let wrapped = key.wrap_secret("AKIA1", &mine, "secret").expect("wraps");
        for at in 0..wrapped.len() {
            let mut other = wrapped.clone();
            other[at] ^= 1;
            assert!(key.unwrap_secret("AKIA1", &mine, &other).is_err(), "{at}");
            assert!(
                key.unwrap_secret("AKIA1", &mine, &wrapped[..at]).is_err(),
                "{at}"
            );
        }
    }

    #[test]
    fn a_session_token_opens_for_its_access_key_only() {
        let key = key();
        let token = key.seal_session("ASIA1", &session()).expect("seals");
        assert!(is_token(&token));
        assert_eq!(key.open_session("ASIA1", &token).map(|s| s.expires), Ok(1));
        assert!(key.open_session("ASIA2", &token).is_err());
        assert!(self::key().open_session("ASIA1", &token).is_err());
        assert!(!token.contains("secret"));
    }

    #[test]
    fn a_wrapped_secret_is_no_session_token_and_the_other_way_round() {
        let (key, mine) = (key(), account("123456789012"));
        let wrapped = key.wrap_secret("AKIA1", &mine, "secret").expect("wraps");
        let posing = URL_SAFE_NO_PAD.encode(wrapped);
        assert!(key.open_session("AKIA1123456789012", &posing).is_err());
        let token = key
            .seal_session("ASIA1123456789012", &session())
            .expect("seals");
        let sealed = URL_SAFE_NO_PAD.decode(token).expect("base64");
        assert!(key.unwrap_secret("ASIA1", &mine, &sealed).is_err());
    }

    #[test]
    fn what_is_no_token_is_seen_without_a_key() {
        for text in ["", "a", "!!!!", &"A".repeat(SESSION_TOKEN_CHARS_MAX + 1)] {
            assert!(!is_token(text));
        }
        let shortest =
            URL_SAFE_NO_PAD.encode([&[FORMAT][..], &[0; SALT_BYTES + TAG_BYTES]].concat());
        assert!(is_token(&shortest));
        let shorter =
            URL_SAFE_NO_PAD.encode([&[FORMAT][..], &[0; SALT_BYTES + TAG_BYTES - 1]].concat());
        assert!(!is_token(&shorter));
    }
}
