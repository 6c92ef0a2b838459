//! A KMS key: how it is named, what is recorded of it, and what its state allows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use strongroom_hsm::{
    BackingKey, BackingKeyId, Canary, KeyBlob, TokenInfo, ToolKey, ToolProof, Wrapped,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::{KmsError, WrongState};
use super::import::record::ImportRecord;
use super::internal::InternalKey;
use super::spec::{KeyOrigin, KeySpec, KeyUsage};
use super::stores::KeyStoreId;
use crate::auth::AccountId;

/// Names a KMS key for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Uuid);

impl KeyId {
    /// Length of its bytes.
    pub const BYTES: usize = 16;

    pub(super) fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id in these bytes.
    pub(super) const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        self.0.as_bytes()
    }

    /// Reads the hyphenated, lower-case form, which is the only one that names a key.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(Uuid::try_parse(text).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// The ARN of a KMS key of this server. Whether there is such a key, and whether it is that account's, its record says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyArn(Arc<ArnParts>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArnParts {
    text: String,
    account: AccountId,
    key_id: KeyId,
}

impl KeyArn {
    pub(super) fn new(region: &str, account: AccountId, key_id: KeyId) -> Self {
        Self(Arc::new(ArnParts {
            text: format!("arn:aws:kms:{region}:{account}:key/{key_id}"),
            account,
            key_id,
        }))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The key it names.
    pub fn key_id(&self) -> KeyId {
        self.0.key_id
    }

    /// The account it names, which owns the key.
    pub fn account(&self) -> &AccountId {
        &self.0.account
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key as a caller names it. It may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    /// `1234abcd-12ab-34cd-56ef-1234567890ab`
    KeyId(KeyId),
    /// `arn:aws:kms:REGION:ACCOUNT:key/…`
    KeyArn {
        /// The region it names.
        region: String,
        /// The account it names.
        account: String,
        /// The key.
        key_id: KeyId,
    },
    /// `alias/…`
    AliasName(String),
    /// `arn:aws:kms:REGION:ACCOUNT:alias/…`
    AliasArn {
        /// The region it names.
        region: String,
        /// The account it names.
        account: String,
        /// The alias, with its prefix.
        name: String,
    },
}

impl KeyRef {
    /// The most characters of any of them: AWS's limit.
    pub const CHARS_MAX: usize = 2_048;

    /// Reads any of the four forms.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`] for what has none of them, worded as the service does.
    pub fn parse(text: &str) -> Result<Self, KmsError> {
        let unknown = || KmsError::NotFound(format!("Invalid keyId '{text}'"));
        if text.starts_with("alias/") {
            return Ok(Self::AliasName(text.to_owned()));
        }
        let Some(arn) = text.strip_prefix("arn:") else {
            return KeyId::parse(text).map(Self::KeyId).ok_or_else(unknown);
        };
        let mut parts = arn.splitn(5, ':');
        let (Some("aws"), Some("kms"), Some(region), Some(account), Some(name)) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(unknown());
        };
        let (region, account) = (region.to_owned(), account.to_owned());
        if let Some(key_id) = name.strip_prefix("key/").and_then(KeyId::parse) {
            Ok(Self::KeyArn {
                region,
                account,
                key_id,
            })
        } else if name.starts_with("alias/") {
            Ok(Self::AliasArn {
                region,
                account,
                name: name.to_owned(),
            })
        } else {
            Err(unknown())
        }
    }

    /// The account that it names; none where it is the caller's own.
    pub fn account(&self) -> Option<&str> {
        match self {
            Self::KeyArn { account, .. } | Self::AliasArn { account, .. } => Some(account),
            Self::KeyId(_) | Self::AliasName(_) => None,
        }
    }

    /// The alias, of the two alias forms.
    pub fn alias(&self) -> Option<&str> {
        match self {
            Self::AliasName(name) | Self::AliasArn { name, .. } => Some(name),
            Self::KeyId(_) | Self::KeyArn { .. } => None,
        }
    }

    /// Whether it is one of the two alias forms.
    pub fn is_alias(&self) -> bool {
        self.alias().is_some()
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyId(key_id) => key_id.fmt(f),
            Self::AliasName(name) => f.write_str(name),
            Self::KeyArn {
                region,
                account,
                key_id,
            } => write!(f, "arn:aws:kms:{region}:{account}:key/{key_id}"),
            Self::AliasArn {
                region,
                account,
                name,
            } => write!(f, "arn:aws:kms:{region}:{account}:{name}"),
        }
    }
}

/// `KeyMaterialId` on the wire: which backing key, in 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyMaterialId(pub(super) BackingKeyId);

impl fmt::Display for KeyMaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970, as records keep time and the wire shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Timestamp(#[n(0)] i64);

impl Timestamp {
    pub(super) fn of(time: OffsetDateTime) -> Self {
        let millis = time.unix_timestamp_nanos() / 1_000_000;
        Self(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// The time so many milliseconds after 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub(super) fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    pub(super) fn plus_days(self, days: u32) -> Self {
        Self(self.0.saturating_add(i64::from(days) * 86_400_000))
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000)) {
            Ok(time) => f.write_str(&crate::audit::timestamp(time)),
            Err(_out_of_range) => write!(f, "{} ms", self.0),
        }
    }
}

/// Who manages a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum KeyManager {
    /// The caller.
    #[n(0)]
    Customer,
    /// The service, on the caller's behalf: `alias/aws/s3`.
    #[n(1)]
    Aws,
    /// The server, for itself: internal keys.
    #[n(2)]
    Internal,
}

/// Key state. What it allows is decided in `KeyRecord::enabled` and in the use cases of its changes, nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum KeyState {
    /// Usable.
    #[n(0)]
    Enabled,
    /// Neither encrypts nor decrypts.
    #[n(1)]
    Disabled,
    /// Neither encrypts nor decrypts, and is destroyed after this date unless the deletion is cancelled.
    #[n(2)]
    PendingDeletion(#[n(0)] Timestamp),
    /// The window of [`KeyState::PendingDeletion`] is over and destruction has begun: no way back.
    #[n(3)]
    Destroying(#[n(0)] Timestamp),
    /// Its material is to be brought along, and is not there.
    #[n(4)]
    PendingImport,
}

/// When automatic rotation is next due, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct RotationSchedule {
    /// Days from one rotation to the next.
    #[n(0)]
    pub period_days: u32,
    /// The next.
    #[n(1)]
    pub next: Timestamp,
}

/// What is recorded of a key, KMS key or internal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct KeyRecord {
    #[n(0)]
    pub(super) created: Timestamp,
    #[n(1)]
    pub(super) manager: KeyManager,
    #[n(2)]
    pub(super) state: KeyState,
    /// The backing key version that encrypts. All of `1..=current` decrypt.
    #[n(3)]
    pub(super) current: u32,
    #[n(4)]
    pub(super) description: String,
    #[n(5)]
    pub(super) rotation: Option<RotationSchedule>,
    /// Rotations that count towards the limit of AWS: those that a caller asked for.
    #[n(6)]
    pub(super) on_demand_rotations: u32,
    #[n(7)]
    pub(super) tags: BTreeMap<String, String>,
    /// Names of the aliases that point here; their rows say the same from the other side.
    #[n(8)]
    pub(super) aliases: Vec<String>,
    /// The custom key store in which backing keys are made; none is the default group.
    #[n(9)]
    pub(super) store: Option<KeyStoreId>,
    /// How many grants there are: rows of their own.
    #[cbor(n(10), default)]
    pub(super) grants: u32,
    /// Its key spec, by number; none is the default one.
    #[n(11)]
    spec: Option<u8>,
    /// Of a key whose material is brought along: the first.
    #[n(12)]
    pub(super) import: Option<ImportRecord>,
    /// The account that owns it; none is the server's first one.
    #[n(15)]
    account: Option<String>,
    /// Those after the first: of versions 2 and on. One more than `current` says waits to become the current one.
    #[cbor(n(16), default)]
    pub(super) later_imports: Vec<ImportRecord>,
}

impl KeyRecord {
    pub(super) fn new(created: Timestamp, manager: KeyManager) -> Self {
        Self {
            created,
            manager,
            state: KeyState::Enabled,
            current: 1,
            description: String::new(),
            rotation: None,
            on_demand_rotations: 0,
            tags: BTreeMap::new(),
            aliases: Vec::new(),
            store: None,
            grants: 0,
            spec: None,
            import: None,
            account: None,
            later_imports: Vec::new(),
        }
    }

    /// The same of a key of this account; `first` is the server's first one.
    pub(super) fn of_account(self, account: &AccountId, first: &AccountId) -> Self {
        Self {
            account: (account != first).then(|| account.to_string()),
            ..self
        }
    }

    /// The account that owns it; `first` is the server's first one.
    pub(super) fn account(&self, first: &AccountId) -> Result<AccountId, KmsError> {
        match &self.account {
            None => Ok(first.clone()),
            Some(account) => AccountId::parse(account).ok_or(KmsError::Damaged("account of a key")),
        }
    }

    /// The same of another key spec.
    pub(super) fn of_spec(self, spec: KeySpec) -> Self {
        Self {
            spec: spec.recorded(),
            ..self
        }
    }

    /// The same of a key whose material is to be brought along.
    pub(super) fn external(self) -> Self {
        Self {
            state: KeyState::PendingImport,
            import: Some(ImportRecord::NONE_YET),
            ..self
        }
    }

    /// Where its material comes from.
    pub(super) fn origin(&self) -> KeyOrigin {
        KeyOrigin::of(self.import.is_some(), self.store.is_some())
    }

    /// Its key spec.
    pub(super) fn spec(&self) -> Result<KeySpec, KmsError> {
        KeySpec::of_record(self.spec).ok_or(KmsError::Damaged("key spec of a key"))
    }

    /// Checks that the key may be used now, and for this: an action as IAM names it.
    pub(super) fn usable<'a>(
        &'a self,
        owner: &'a Owner,
        action: &str,
        now: Timestamp,
    ) -> Result<EnabledKey<'a>, KmsError> {
        let enabled = self.enabled(owner)?;
        if let (KeyState::PendingImport, Owner::Key(arn)) = (self.state_at(now), owner) {
            return Err(pending_import(arn));
        }
        let usage = self.spec()?.usage();
        let is_other = KeyUsage::of_action(action).is_some_and(|wanted| wanted != usage);
        match owner {
            Owner::Key(arn) if is_other => Err(KmsError::InvalidKeyUsage(format!(
                "{arn} key usage is {} which is not valid for {}.",
                usage.name(),
                operation_of(action)
            ))),
            _ => Ok(enabled),
        }
    }

    /// Checks that the server can make backing keys that take the place of the one that the key has.
    pub(super) fn rotatable(&self, arn: &KeyArn) -> Result<(), KmsError> {
        if self.import.is_some() {
            return Err(KmsError::Unsupported(format!(
                "{arn} origin is EXTERNAL which is not valid for this operation."
            )));
        }
        self.symmetric(arn)
    }

    /// Checks that the key is of the one key spec that is ever rotated.
    pub(super) fn symmetric(&self, arn: &KeyArn) -> Result<(), KmsError> {
        let spec = self.spec()?;
        if spec == KeySpec::SYMMETRIC_DEFAULT {
            return Ok(());
        }
        Err(KmsError::Unsupported(format!(
            "{arn} is of key spec {}: such keys are not rotated",
            spec.name()
        )))
    }

    /// Checks that the key may be used now. Disabled and dying keys neither encrypt nor decrypt.
    pub(super) fn enabled<'a>(&'a self, owner: &'a Owner) -> Result<EnabledKey<'a>, KmsError> {
        match (self.state, owner) {
            (KeyState::Enabled, _) => Ok(EnabledKey {
                owner,
                record: self,
            }),
            (KeyState::Disabled, Owner::Key(arn)) => Err(KmsError::Disabled(arn.clone())),
            (KeyState::PendingDeletion(_) | KeyState::Destroying(_), Owner::Key(arn)) => {
                Err(pending_deletion(arn))
            }
            (KeyState::PendingImport, Owner::Key(arn)) => Err(pending_import(arn)),
            (_, Owner::Internal(_)) => Err(KmsError::internal("an internal key is not enabled")),
        }
    }

    /// Checks that the key is the caller's to manage.
    pub(super) fn customer_managed(
        &self,
        arn: &KeyArn,
        action: &'static str,
    ) -> Result<(), KmsError> {
        match self.manager {
            KeyManager::Customer => Ok(()),
            KeyManager::Aws | KeyManager::Internal => Err(KmsError::Managed {
                arn: arn.clone(),
                action,
            }),
        }
    }

    /// Checks that the key is not on its way out.
    pub(super) fn not_dying(&self, arn: &KeyArn) -> Result<(), KmsError> {
        match self.state {
            KeyState::Enabled | KeyState::Disabled | KeyState::PendingImport => Ok(()),
            KeyState::PendingDeletion(_) | KeyState::Destroying(_) => Err(pending_deletion(arn)),
        }
    }
}

/// The operation that an action is for: `ReEncrypt` has two actions.
fn operation_of(action: &str) -> &str {
    match action.strip_prefix("kms:").unwrap_or(action) {
        "ReEncryptFrom" | "ReEncryptTo" => "ReEncrypt",
        operation => operation,
    }
}

pub(super) fn pending_import(arn: &KeyArn) -> KmsError {
    KmsError::InvalidState {
        arn: arn.clone(),
        state: WrongState::PendingImport,
    }
}

fn pending_deletion(arn: &KeyArn) -> KmsError {
    KmsError::InvalidState {
        arn: arn.clone(),
        state: WrongState::PendingDeletion,
    }
}

/// Whose backing keys: a KMS key's, or those of an internal key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    Key(KeyArn),
    Internal(InternalKey),
}

impl Owner {
    /// The object label on the token, for people. Nothing is found by it.
    pub(super) fn label(&self, version: u32) -> String {
        match self {
            Self::Key(arn) => format!("strongroom {} v{version}", arn.key_id()),
            Self::Internal(purpose) => format!("strongroom internal {} v{version}", purpose.name()),
        }
    }
}

/// A key whose state was read for this very request and is Enabled. Only [`KeyRecord::enabled`] makes one.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(super) struct EnabledKey<'a> {
    pub(super) owner: &'a Owner,
    pub(super) record: &'a KeyRecord,
}

/// Why a backing key version was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Cause {
    /// With its key.
    #[n(0)]
    Creation,
    /// A caller asked.
    #[n(1)]
    OnDemand,
    /// Its time had come.
    #[n(2)]
    Schedule,
    /// The version before had wrapped as much as it may.
    #[n(3)]
    WrapLimit,
    /// Its key has moved to another key store.
    #[n(4)]
    Move,
}

/// What is recorded of a backing key version.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct BackingRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    id: [u8; BackingKeyId::BYTES],
    #[cbor(n(1), with = "minicbor::bytes")]
    canary: Vec<u8>,
    #[n(2)]
    pub(super) created: Timestamp,
    #[n(3)]
    pub(super) cause: Cause,
    /// The token that holds it: label and serial number, for people.
    #[n(4)]
    token: String,
    /// Wraps that servers have reserved, used or not. Only ever grows.
    #[n(5)]
    pub(super) wraps_reserved: u64,
    /// What the token wants to be shown of it.
    #[cbor(n(6), with = "minicbor::bytes", default)]
    blob: Vec<u8>,
    /// The custom key store that holds it; none is the default group.
    #[n(7)]
    pub(super) store: Option<KeyStoreId>,
    /// Which tool it is, by number; none is a key that wraps. Of a tool, what is recorded as its canary is its proof.
    #[n(8)]
    tool: Option<u8>,
    /// The material's id, where it is another than the identity: of material that was imported again.
    #[n(9)]
    material: Option<minicbor::bytes::ByteArray<{ BackingKeyId::BYTES }>>,
    /// The caller's words about material that was brought along.
    #[n(12)]
    pub(super) description: Option<String>,
    /// When material that was brought along became the current one; not of the first.
    #[n(13)]
    pub(super) rotated: Option<Timestamp>,
}

impl BackingRecord {
    pub(super) fn new(
        key: &BackingKey,
        created: Timestamp,
        cause: Cause,
        token: String,
        store: Option<KeyStoreId>,
    ) -> Self {
        Self {
            id: *key.id.as_bytes(),
            canary: key.canary.0.as_bytes().to_vec(),
            created,
            cause,
            token,
            wraps_reserved: 0,
            blob: key.blob.as_bytes().to_vec(),
            store,
            tool: None,
            material: None,
            description: None,
            rotated: None,
        }
    }

    /// The same, of the material of an earlier one: its id stays, and so do the wraps that it has made, and what it was
    /// in its key.
    pub(super) fn of_material(self, earlier: &Self) -> Self {
        Self {
            material: Some((*earlier.material().0.as_bytes()).into()),
            wraps_reserved: earlier.wraps_reserved,
            cause: earlier.cause,
            description: earlier.description.clone(),
            rotated: earlier.rotated,
            ..self
        }
    }

    pub(super) fn of_tool(
        tool: &ToolKey,
        created: Timestamp,
        cause: Cause,
        token: String,
        store: Option<KeyStoreId>,
    ) -> Self {
        Self {
            id: *tool.id.as_bytes(),
            canary: tool.proof.as_bytes().to_vec(),
            created,
            cause,
            token,
            wraps_reserved: 0,
            blob: Vec::new(),
            store,
            tool: Some(tool.spec.to_byte()),
            material: None,
            description: None,
            rotated: None,
        }
    }

    pub(super) fn id(&self) -> BackingKeyId {
        BackingKeyId::from_bytes(self.id)
    }

    pub(super) fn material(&self) -> KeyMaterialId {
        let material = self.material.as_ref();
        KeyMaterialId(material.map_or(self.id(), |id| BackingKeyId::from_bytes(**id)))
    }

    /// The token that holds it, as people name it.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// The tool as the HSM wants it named.
    pub(super) fn tool_key(&self) -> Result<ToolKey, KmsError> {
        let spec = KeySpec::of_record(self.tool).and_then(KeySpec::tool);
        let proof = ToolProof::from_bytes(&self.canary)
            .map_err(|_length| KmsError::Damaged("proof of a backing key"))?;
        Ok(ToolKey {
            id: self.id(),
            spec: spec.ok_or(KmsError::Damaged("kind of a backing key"))?,
            proof,
        })
    }

    /// The key as the HSM wants it named.
    pub(super) fn backing_key(&self) -> Result<BackingKey, KmsError> {
        if self.tool.is_some() {
            return Err(KmsError::Damaged("kind of a backing key"));
        }
        let canary = Wrapped::from_bytes(&self.canary)
            .map_err(|_scheme| KmsError::Damaged("canary of a backing key"))?;
        let blob = KeyBlob::from_bytes(&self.blob)
            .map_err(|_length| KmsError::Damaged("blob of a backing key"))?;
        Ok(BackingKey {
            id: self.id(),
            blob,
            canary: Canary(canary),
        })
    }
}

/// Label and serial number of a token: recorded with each backing key.
pub(super) fn name_of(token: &TokenInfo) -> String {
    format!("{} {}", token.label, token.serial)
}

#[cfg(test)]
mod tests {
    use super::{KeyId, KeyRef};

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn all_four_forms_are_read() {
        let key_id = KeyId::parse(ID).expect("a key id");
        assert_eq!(KeyRef::parse(ID).expect("id"), KeyRef::KeyId(key_id));
        assert!(matches!(
            KeyRef::parse(&format!("arn:aws:kms:us-west-2:123456789012:key/{ID}")).expect("ARN"),
            KeyRef::KeyArn { key_id: named, .. } if named == key_id
        ));
        assert!(KeyRef::parse("alias/a").expect("alias").is_alias());
        assert!(
            KeyRef::parse("arn:aws:kms:us-west-2:123456789012:alias/a")
                .expect("alias ARN")
                .is_alias()
        );
    }

    #[test]
    fn what_has_none_of_the_forms_is_not_found_in_the_recorded_words() {
        for text in [
            "fake-key-id",
            "",
            "arn:aws:s3:::x",
            "1234ABCD-12AB-34CD-56EF-1234567890AB",
            "urn:uuid:1",
        ] {
            let error = KeyRef::parse(text).expect_err("not a reference");
            assert_eq!(error.to_string(), format!("Invalid keyId '{text}'"));
        }
    }
}
