//! Key objects: how they are made, found and judged.
//!
//! A backing key is an AES key, and in one scheme a generic secret besides, for the MAC. Both have the same `CKA_ID`
//! and are told apart by `CKA_KEY_TYPE`. The second is made first and destroyed last: where an interruption leaves one
//! of the two, it is the one that can do nothing alone, and nobody takes it for a whole key.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::device;
use super::scheme::{Keys, roles};
use crate::{BackingKeyId, HsmError, HsmResult, WrapScheme};

/// Length of a backing key, and of its second key.
const KEY_BYTES: u64 = 32;

/// How the label of a second key ends.
pub(super) const MAC_SUFFIX: &str = " (MAC)";

/// `CKA_VALUE_LEN` of a backing key.
pub(super) fn value_len() -> Attribute {
    Attribute::ValueLen(KEY_BYTES.into())
}

/// What an object is for. It can do that, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// AES, encrypts and decrypts.
    Cipher,
    /// AES, wraps and unwraps: never together with decryption, which would show what it wrapped.
    Wrapper,
    /// Generic secret, makes MACs and verifies them. Not an AES key: some tokens refuse one key for both
    /// (`CKR_KEY_TYPE_INCONSISTENT`), and it would be a key with two uses.
    Mac,
}

impl Role {
    pub(super) fn key_type(self) -> KeyType {
        match self {
            Self::Cipher | Self::Wrapper => KeyType::AES,
            Self::Mac => KeyType::GENERIC_SECRET,
        }
    }

    /// How a key of this role is generated.
    pub(super) fn mechanism(self) -> Mechanism<'static> {
        match self {
            Self::Cipher | Self::Wrapper => Mechanism::AesKeyGen,
            Self::Mac => Mechanism::GenericSecretKeyGen,
        }
    }

    /// What tells the label of the second key from that of the first, for people.
    fn label_suffix(self) -> &'static str {
        match self {
            Self::Cipher | Self::Wrapper => "",
            Self::Mac => MAC_SUFFIX,
        }
    }
}

/// An attribute that must be so: its name, and what it must be.
pub(super) type Requirement = (&'static str, AttributeType, Attribute);

/// Whether a key must never have been outside its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// It must not, and the token must say so.
    Required,
    /// Its material was brought along: the token must say that it did not make it.
    Imported,
    /// Nothing is asked.
    Ignored,
}

/// What `C_GenerateKey` is given. `CKA_ALWAYS_SENSITIVE`, `CKA_NEVER_EXTRACTABLE` and `CKA_LOCAL` are the token's to
/// say (PKCS#11 v3.1 §4.10) and are read back by [`check`]; `CKA_DESTROYABLE` is true by default.
pub(super) fn template(role: Role, id: &BackingKeyId, label: &str) -> Vec<Attribute> {
    let label = format!("{label}{}", role.label_suffix());
    let mut template = passing_template(role);
    template.retain(|attribute| !matches!(attribute, Attribute::Token(_)));
    template.extend([
        Attribute::Token(true),
        Attribute::Id(id.as_bytes().to_vec()),
        Attribute::Label(label.into_bytes()),
    ]);
    template
}

/// The same for a key of one session, to try things with: it has no name.
pub(super) fn passing_template(role: Role) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(role.key_type()),
        value_len(),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Encrypt(role == Role::Cipher),
        Attribute::Decrypt(role == Role::Cipher),
        Attribute::Wrap(role == Role::Wrapper),
        Attribute::Unwrap(role == Role::Wrapper),
        Attribute::Sign(role == Role::Mac),
        Attribute::Verify(role == Role::Mac),
        Attribute::Derive(false),
    ]
}

/// Every object on the token with this `CKA_ID`, of whatever kind.
pub(super) fn find_all(session: &Session, id: &BackingKeyId) -> HsmResult<Vec<ObjectHandle>> {
    let named = [
        Attribute::Token(true),
        Attribute::Id(id.as_bytes().to_vec()),
    ];
    session
        .find_objects(&named)
        .map_err(device("C_FindObjects"))
}

/// The same, the keys of MACs last: see the head of this file.
pub(super) fn find_for_destruction(
    session: &Session,
    id: &BackingKeyId,
) -> HsmResult<Vec<ObjectHandle>> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for handle in find_all(session, id)? {
        match key_type(session, handle)? {
            Some(KeyType::GENERIC_SECRET) => last.push(handle),
            _ => first.push(handle),
        }
    }
    first.append(&mut last);
    Ok(first)
}

/// The objects with one `CKA_ID`: at most one of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) aes: Option<ObjectHandle>,
    pub(super) mac: Option<ObjectHandle>,
}

impl Objects {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unfit`] when there are two of a kind: nothing tells which of them is meant.
    pub(super) fn find(session: &Session, id: &BackingKeyId) -> HsmResult<Self> {
        let mut objects = Self::default();
        let handles = find_all(session, id)?;
        for handle in &handles {
            let place = match key_type(session, *handle)? {
                Some(KeyType::AES) => &mut objects.aes,
                Some(KeyType::GENERIC_SECRET) => &mut objects.mac,
                _ => return Err(unfit(id, "an object of another key type has its CKA_ID")),
            };
            if place.replace(*handle).is_some() {
                return Err(unfit(
                    id,
                    format!("{} objects on the token have its CKA_ID", handles.len()),
                ));
            }
        }
        Ok(objects)
    }

    /// Judges them as the key objects of `scheme`: these and no others. `None` when there is no object at all.
    ///
    /// # Errors
    ///
    /// [`HsmError::Unfit`] for half a pair, for one object too many, and as [`check`].
    pub(super) fn judged(
        self,
        session: &Session,
        id: &BackingKeyId,
        scheme: WrapScheme,
        past: Past,
    ) -> HsmResult<Option<Keys>> {
        let Some((main_role, mac_role)) = roles(scheme) else {
            return Err(unfit(id, "its canary is not of a scheme of this token"));
        };
        let main = match (self.aes, self.mac) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err(unfit(id, "half a pair: its AES key is not on the token"));
            }
            (Some(main), _) => main,
        };
        check(session, main, id, main_role, past)?;
        match (mac_role, self.mac) {
            (None, None) => {}
            (Some(role), Some(mac)) => check(session, mac, id, role, past)?,
            (Some(_), None) => {
                return Err(unfit(id, "half a pair: its MAC key is not on the token"));
            }
            (None, Some(_)) => {
                return Err(unfit(
                    id,
                    "a MAC key has its CKA_ID, which its scheme has not",
                ));
            }
        }
        let mac = self.mac;
        Ok(Some(Keys {
            main,
            mac,
            kwp: None,
        }))
    }
}

fn key_type(session: &Session, handle: ObjectHandle) -> HsmResult<Option<KeyType>> {
    let told = session.get_attributes(handle, &[AttributeType::KeyType]);
    let told = told.map_err(device("C_GetAttributeValue"))?;
    Ok(told.into_iter().find_map(|attribute| match attribute {
        Attribute::KeyType(key_type) => Some(key_type),
        _ => None,
    }))
}

/// Whether a label ends so. For people: nothing is used by it.
pub(super) fn is_labelled(session: &Session, handle: ObjectHandle, suffix: &str) -> bool {
    let told = session.get_attributes(handle, &[AttributeType::Label]);
    told.is_ok_and(|told| {
        told.iter().any(|attribute| {
            matches!(attribute, Attribute::Label(label) if label.ends_with(suffix.as_bytes()))
        })
    })
}

/// Whether an AES key is one that wraps, not one that decrypts. One that does both is neither, and unfit.
pub(super) fn is_wrapper(session: &Session, handle: ObjectHandle) -> HsmResult<bool> {
    let told = session.get_attributes(handle, &[AttributeType::Wrap, AttributeType::Decrypt]);
    let told = told.map_err(device("C_GetAttributeValue"))?;
    Ok(told.contains(&Attribute::Wrap(true)) && !told.contains(&Attribute::Decrypt(true)))
}

/// Identities of the token's keys that look like ours, or like half of one: AES keys, generic secrets and private keys
/// whose `CKA_ID` has the length of ours. Each stands once.
pub(super) fn list(session: &Session) -> HsmResult<Vec<BackingKeyId>> {
    let mut ids = Vec::new();
    for role in [Role::Cipher, Role::Mac] {
        let ours = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(role.key_type()),
            Attribute::Token(true),
        ];
        let handles = session.find_objects(&ours);
        for handle in handles.map_err(device("C_FindObjects"))? {
            ids.extend(id_of(session, handle)?);
        }
    }
    ids.extend(private_keys(session)?);
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn private_keys(session: &Session) -> HsmResult<Vec<BackingKeyId>> {
    let ours = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Token(true),
    ];
    let handles = session.find_objects(&ours);
    let mut ids = Vec::new();
    for handle in handles.map_err(device("C_FindObjects"))? {
        ids.extend(id_of(session, handle)?);
    }
    Ok(ids)
}

/// The identity of an object, if its `CKA_ID` has the length of ours.
fn id_of(session: &Session, handle: ObjectHandle) -> HsmResult<Option<BackingKeyId>> {
    let attributes = session.get_attributes(handle, &[AttributeType::Id]);
    let attributes = attributes.map_err(device("C_GetAttributeValue"))?;
    Ok(attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            Attribute::Id(id) => id.try_into().ok().map(BackingKeyId::from_bytes),
            _ => None,
        }))
}

/// Refuses a key that somebody could read out of the token, now or before, or that is not what we generate.
///
/// An attribute that the token does not tell counts as the wrong answer. `CKA_MODIFIABLE` is asked for but not
/// required, since some tokens have no other keys: what is one-way stays so, and usage is checked again with every
/// newly found handle.
///
/// `C_UnwrapKey` leaves `CKA_ALWAYS_SENSITIVE`, `CKA_NEVER_EXTRACTABLE` and `CKA_LOCAL` false (PKCS#11 v3.1 §5.18.4):
/// with [`Past::Imported`] they are not asked for, but that the last is false.
///
/// With [`Past::Ignored`], what the token says of the key's past is not asked for: a token that is used although it gives
/// keys away has nothing to say about where they have been (NSS denies `CKA_LOCAL` of every key it made).
///
/// # Errors
///
/// [`HsmError::Unfit`] naming the first attribute that is not as it must be; or what the device says.
pub(super) fn check(
    session: &Session,
    handle: ObjectHandle,
    id: &BackingKeyId,
    role: Role,
    past: Past,
) -> HsmResult<()> {
    let mut required = vec![
        (
            "CKA_CLASS",
            AttributeType::Class,
            Attribute::Class(ObjectClass::SECRET_KEY),
        ),
        (
            "CKA_KEY_TYPE",
            AttributeType::KeyType,
            Attribute::KeyType(role.key_type()),
        ),
        (
            "CKA_VALUE_LEN",
            AttributeType::ValueLen,
            Attribute::ValueLen(KEY_BYTES.into()),
        ),
        ("CKA_TOKEN", AttributeType::Token, Attribute::Token(true)),
        (
            "CKA_PRIVATE",
            AttributeType::Private,
            Attribute::Private(true),
        ),
        (
            "CKA_SENSITIVE",
            AttributeType::Sensitive,
            Attribute::Sensitive(true),
        ),
        (
            "CKA_EXTRACTABLE",
            AttributeType::Extractable,
            Attribute::Extractable(false),
        ),
        (
            "CKA_ALWAYS_SENSITIVE",
            AttributeType::AlwaysSensitive,
            Attribute::AlwaysSensitive(true),
        ),
        (
            "CKA_NEVER_EXTRACTABLE",
            AttributeType::NeverExtractable,
            Attribute::NeverExtractable(true),
        ),
        ("CKA_LOCAL", AttributeType::Local, Attribute::Local(true)),
        (
            "CKA_ENCRYPT",
            AttributeType::Encrypt,
            Attribute::Encrypt(role == Role::Cipher),
        ),
        (
            "CKA_DECRYPT",
            AttributeType::Decrypt,
            Attribute::Decrypt(role == Role::Cipher),
        ),
        (
            "CKA_WRAP",
            AttributeType::Wrap,
            Attribute::Wrap(role == Role::Wrapper),
        ),
        (
            "CKA_UNWRAP",
            AttributeType::Unwrap,
            Attribute::Unwrap(role == Role::Wrapper),
        ),
        (
            "CKA_ID",
            AttributeType::Id,
            Attribute::Id(id.as_bytes().to_vec()),
        ),
    ];
    if role == Role::Mac {
        required.extend([
            ("CKA_SIGN", AttributeType::Sign, Attribute::Sign(true)),
            ("CKA_VERIFY", AttributeType::Verify, Attribute::Verify(true)),
        ]);
    }
    if past != Past::Required {
        required.retain(|(_, kind, _)| {
            !matches!(
                kind,
                AttributeType::AlwaysSensitive
                    | AttributeType::NeverExtractable
                    | AttributeType::Local
            )
        });
    }
    if past == Past::Imported {
        // SoftHSM does not tell the length. It was measured at the import, and the canary holds the key to its material.
        required.retain(|(_, kind, _)| *kind != AttributeType::ValueLen);
        required.push(("CKA_LOCAL", AttributeType::Local, Attribute::Local(false)));
    }
    require(session, handle, id, &required)
}

/// Refuses an object that the token does not say to be just so.
///
/// # Errors
///
/// As [`check`].
pub(super) fn require(
    session: &Session,
    handle: ObjectHandle,
    id: &BackingKeyId,
    required: &[Requirement],
) -> HsmResult<()> {
    let asked: Vec<_> = required.iter().map(|(_, kind, _)| *kind).collect();
    let told = session
        .get_attributes(handle, &asked)
        .map_err(device("C_GetAttributeValue"))?;
    for (name, kind, must) in required {
        match told
            .iter()
            .find(|attribute| attribute.attribute_type() == *kind)
        {
            Some(is) if is == must => {}
            Some(_) => return Err(unfit(id, format!("{name} is not as it must be"))),
            None => return Err(unfit(id, format!("the token does not tell its {name}"))),
        }
    }
    Ok(())
}

pub(super) fn unfit(id: &BackingKeyId, reason: impl Into<String>) -> HsmError {
    HsmError::Unfit {
        id: *id,
        reason: reason.into(),
    }
}
