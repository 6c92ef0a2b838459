//! The one door to the hardware.
//!
//! A [`Token`] is a place where backing keys live: a PKCS#11 token ([`pkcs11`], or [`process`] with its module in a
//! process of its own) or a TPM 2.0 ([`tpm`]). A [`Session`] is one thread's conversation with it. An [`HsmHandle`] owns
//! the threads that call the module, bounds their queue, gives every call a deadline, and says how the hardware fares.
//! An [`HsmGroup`] is what the rest of Strongroom sees: one token, or several that hold the same keys.
//!
//! # Threat model of the seam
//!
//! - Backing key bytes have no Rust type. Nothing here can ask a token for them, and a key whose attributes would
//!   let anybody else ask is refused ([`HsmError::Unfit`]).
//! - The module is foreign code, in a process of its own unless the operator says otherwise. It may hang, lose sessions, answer `CKR_GENERAL_ERROR` for anything,
//!   and hand out a handle that means another key than yesterday. Therefore handles are never stored: a key is found
//!   by its `CKA_ID`, and before a newly found handle is used its [`Canary`] is opened with it.
//! - A wrap is decrypted back before it is acknowledged unless the operator relaxes that.
//! - Keys that make MACs, sign or unwrap imported keys are tools ([`ToolKey`]): no token need have them, and what it has is tried before a key is made.
//!   They, too, prove themselves before a newly found handle is used.
//! - What a token wraps is at most [`WRAP_PLAINTEXT_BYTES_MAX`] bytes: data keys, not data.
//!
//! # Reading order
//!
//! [`BackingKeyId`] and [`BackingKey`], [`DataKey`], [`HsmError`], the traits below, [`HsmHandle`], [`HsmGroup`], then
//! a backend.

mod der;
mod error;
mod group;
mod handle;
mod key;
pub mod pkcs11;
pub mod process;
mod secret;
mod signature;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tool;
pub mod tpm;
mod wrapping;

pub use error::{BoxError, HsmError, HsmResult};
pub use group::{GroupSettings, HsmGroup};
pub use handle::{Health, HsmHandle, HsmSettings, State};
pub use key::{BackingKey, BackingKeyId, Canary, KeyBlob, WrapScheme, Wrapped};
pub use secret::{DataKey, SecretBytes};
pub use signature::{Curve, SignatureAlgorithm, SigningKey};
pub use tool::{
    HashFunction, ImportWrapping, Material, RsaSize, TOOL_INPUT_BYTES_MAX, ToolKey, ToolProof,
    ToolSpec,
};

/// The most plaintext bytes one wrap takes: a data key and a digest of its context. Every token can do this much.
pub const WRAP_PLAINTEXT_BYTES_MAX: usize = 64;

/// The most bytes of additional authenticated data one wrap takes.
pub const WRAP_AAD_BYTES_MAX: usize = 16 * 1024;

/// The longest that a token may take to make a pair of RSA keys.
pub const PAIR_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// What a token says of itself, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// The backend, `pkcs11` for instance.
    pub backend: &'static str,
    /// Module library, its version and maker, in one line.
    pub module: String,
    /// Token label.
    pub label: String,
    /// Token serial number.
    pub serial: String,
    /// Maker and model of the token.
    pub model: String,
}

/// What a token can do and holds, for its operator and its maker: `strongroom hsm check` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What was found out, in reading order.
    pub facts: Vec<Fact>,
    /// Why keys are not safe in it, a sentence each. Empty: nothing speaks against it.
    pub dangers: Vec<String>,
}

/// One line of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is about: `mechanism`, `key`, `nv`, …; equal ones stand together.
    pub subject: String,
    /// Which of them, or which property.
    pub name: String,
    /// What it is.
    pub value: String,
}

/// A place where backing keys live.
///
/// An implementation is shared by all worker threads. It may do nothing until the first session is opened: a server
/// starts with its token absent.
pub trait Token: std::fmt::Debug + Send + Sync + 'static {
    /// Opens a session that is logged in. Blocks; called on a worker thread only.
    ///
    /// A token that was absent and is back must be noticed here, whatever that takes of the module.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unavailable`] when the module, the token or its PIN cannot be had now;
    /// [`HsmError::PinRejected`] when the token refused the PIN, and from then on, without asking the token again,
    /// until the content of the PIN's source changes.
    fn open_session(&self) -> HsmResult<Box<dyn Session>>;

    /// Describes the token. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Token::open_session`].
    fn info(&self) -> HsmResult<TokenInfo>;

    /// Finds out what the token can do, by trying it, and how its backing keys are kept. Blocks, takes its time, and
    /// leaves the token as it was. An unsafe token is described, too: its dangers are part of the report.
    ///
    /// # Errors
    ///
    /// As [`Token::open_session`].
    fn report(&self) -> HsmResult<Report>;
}

/// One thread's conversation with a token. Dropped after any error whose [`HsmError::spoils_session`] is true.
///
/// Keys are named by [`BackingKey`]: identity and canary. A session finds the object, verifies its attributes, opens
/// the canary with it, and only then uses it; it may remember the handle for its own life. A token that binds a key to
/// more than itself answers [`HsmError::KeyUnavailable`] to its use while that does not hold.
pub trait Session: Send {
    /// Makes an AES-256 key in the token: sensitive, never extractable, not modifiable, for its one use only,
    /// `CKA_ID` = `id`.
    ///
    /// # Errors
    ///
    /// [`HsmError::KeyExists`] when the identity is taken. After any other error the key may exist or not: the
    /// caller looks with [`Session::contains`] before it does anything else.
    fn generate_key(&mut self, id: &BackingKeyId, label: &str) -> HsmResult<KeyBlob>;

    /// Makes the canary of a key that has none yet, and opens it. The attributes are verified.
    ///
    /// # Errors
    ///
    /// [`HsmError::KeyNotFound`], [`HsmError::Unfit`], or what the device says.
    fn make_canary(&mut self, id: &BackingKeyId, blob: &KeyBlob) -> HsmResult<Canary>;

    /// Whether the token holds an object with this identity, fit or not.
    fn contains(&mut self, id: &BackingKeyId) -> HsmResult<bool>;

    /// Opens the canary of `key` afresh, with the handle that a wrap would use now.
    ///
    /// # Errors
    ///
    /// [`HsmError::KeyNotFound`]; [`HsmError::Unfit`] for a key that others could export or that is another key;
    /// or what the device says.
    fn probe(&mut self, key: &BackingKey) -> HsmResult<()>;

    /// Encrypts `plaintext` under `key` with `aad` authenticated.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`] beyond the limits of this crate; [`HsmError::KeyNotFound`]; [`HsmError::Unfit`]; or
    /// what the device says.
    fn wrap(&mut self, key: &BackingKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped>;

    /// Wraps, and unwraps what came of it: for the caller to compare. One round trip where round trips cost.
    ///
    /// # Errors
    ///
    /// As [`Session::wrap`]; [`HsmError::WrapNotReadable`] when the wrap does not authenticate.
    fn wrap_and_unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        plaintext: &[u8],
    ) -> HsmResult<(Wrapped, SecretBytes)> {
        let wrapped = self.wrap(key, aad, plaintext)?;
        match self.unwrap(key, aad, &wrapped) {
            Ok(back) => Ok((wrapped, back)),
            Err(HsmError::Unauthentic) => Err(HsmError::WrapNotReadable),
            Err(error) => Err(error),
        }
    }

    /// Decrypts what [`Session::wrap`] made, under the same key and the same `aad`.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unauthentic`] for a ciphertext that is not ours, told from an ill token by the canary.
    fn unwrap(&mut self, key: &BackingKey, aad: &[u8], wrapped: &Wrapped)
    -> HsmResult<SecretBytes>;

    /// Why the token cannot make or use tools of this kind, if it cannot. Found out by trying, with a key that is gone
    /// afterwards.
    ///
    /// # Errors
    ///
    /// What the device says where that is no answer to the question.
    fn tool_obstacle(&mut self, spec: ToolSpec) -> HsmResult<Option<String>>;

    /// Makes a tool in the token: sensitive, never extractable, not modifiable, for its one use only, `CKA_ID` = `id`.
    ///
    /// # Errors
    ///
    /// As [`Session::generate_key`]; [`HsmError::Unsupported`] before anything is made, when there is an obstacle.
    fn generate_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        label: &str,
    ) -> HsmResult<KeyBlob>;

    /// Makes the proof of a tool that has none yet; `blob` is what [`Session::generate_tool`] answered. The attributes are
    /// verified, and of a pair, that its halves belong together.
    ///
    /// # Errors
    ///
    /// As [`Session::make_canary`].
    fn prove_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        blob: &KeyBlob,
    ) -> HsmResult<ToolProof>;

    /// Has `tool` prove itself afresh, with the handle that would be used now.
    ///
    /// # Errors
    ///
    /// As [`Session::probe`].
    fn probe_tool(&mut self, tool: &ToolKey) -> HsmResult<()>;

    /// Makes the MAC of `message`. To verify one is to make it again and compare: that is the caller's.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`] beyond [`TOOL_INPUT_BYTES_MAX`]; [`HsmError::KeyNotFound`]; [`HsmError::Unfit`], also for a
    /// tool that makes no MACs; or what the device says.
    fn mac(&mut self, tool: &ToolKey, message: &[u8]) -> HsmResult<Vec<u8>>;

    /// Signs a digest of the length that the algorithm's hash has. The signature is as
    /// [`SigningKey::verifies`](crate::SigningKey::verifies) takes it; whether it verifies is the caller's to see.
    ///
    /// # Errors
    ///
    /// [`HsmError::TooLong`] for a digest of another length; [`HsmError::KeyNotFound`]; [`HsmError::Unfit`], also for a tool
    /// that does not sign, or not by this algorithm; or what the device says.
    fn sign(
        &mut self,
        tool: &ToolKey,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> HsmResult<Vec<u8>>;

    /// Unwraps `material` in the token into a backing key like those of [`Session::generate_key`], with this identity and
    /// label; without them, only finds out whether it could. The material is never outside the token.
    ///
    /// # Errors
    ///
    /// [`HsmError::KeyNotFound`] when the unwrapping tool is not there, [`HsmError::Unauthentic`] for bytes that it does
    /// not unwrap, [`HsmError::OtherMaterial`]; then nothing was made. [`HsmError::Unsupported`] where a backing key is
    /// more than the material; and as [`Session::generate_key`].
    fn import_key(
        &mut self,
        material: &Material,
        into: Option<(&BackingKeyId, &str)>,
    ) -> HsmResult<KeyBlob>;

    /// Destroys the key, of whatever kind. A key that is not there is destroyed already.
    fn destroy_key(&mut self, id: &BackingKeyId) -> HsmResult<()>;

    /// Identities of all keys on the token that look like ours: those with a 32-byte `CKA_ID`, halves of a pair
    /// included.
    fn list_keys(&mut self) -> HsmResult<Vec<BackingKeyId>>;

    /// Fills `out` with the token's random bytes.
    fn random(&mut self, out: &mut [u8]) -> HsmResult<()>;
}
