//! Key objects: how they are made, found and judged.

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::device;
use crate::{BackingKeyId, HsmError, HsmResult};

/// Length of a backing key.
const KEY_BYTES: u64 = 32;

/// What `C_GenerateKey` is given. `CKA_ALWAYS_SENSITIVE`, `CKA_NEVER_EXTRACTABLE` and `CKA_LOCAL` are the token's to
/// say (PKCS#11 v3.1 §4.10) and are read back by [`check`]; `CKA_DESTROYABLE` is true by default.
pub(super) fn template(id: &BackingKeyId, label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(KEY_BYTES.into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
        Attribute::Id(id.as_bytes().to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

/// Every secret-key object on the token with this `CKA_ID`.
pub(super) fn find_all(session: &Session, id: &BackingKeyId) -> HsmResult<Vec<ObjectHandle>> {
    let named = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Id(id.as_bytes().to_vec()),
    ];
    session
        .find_objects(&named)
        .map_err(device("C_FindObjects"))
}

/// The one object with this `CKA_ID`.
///
/// # Errors
///
/// [`HsmError::Unfit`] when there are two: nothing tells which of them is meant.
pub(super) fn find(session: &Session, id: &BackingKeyId) -> HsmResult<Option<ObjectHandle>> {
    match find_all(session, id)?.as_slice() {
        [] => Ok(None),
        [handle] => Ok(Some(*handle)),
        several => Err(unfit(
            id,
            format!("{} objects on the token have its CKA_ID", several.len()),
        )),
    }
}

/// Identities of the token's secret AES keys whose `CKA_ID` has the length of ours.
pub(super) fn list(session: &Session) -> HsmResult<Vec<BackingKeyId>> {
    let ours = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
    ];
    let mut ids = Vec::new();
    for handle in session
        .find_objects(&ours)
        .map_err(device("C_FindObjects"))?
    {
        let attributes = session.get_attributes(handle, &[AttributeType::Id]);
        for attribute in attributes.map_err(device("C_GetAttributeValue"))? {
            if let Attribute::Id(id) = attribute
                && let Ok(bytes) = id.try_into()
            {
                ids.push(BackingKeyId::from_bytes(bytes));
            }
        }
    }
    Ok(ids)
}

/// Refuses a key that somebody could read out of the token, now or before, or that is not what we generate.
///
/// An attribute that the token does not tell counts as the wrong answer. `CKA_MODIFIABLE` is asked for but not
/// required, since some tokens have no other keys: what is one-way stays so, and usage is checked again with every
/// newly found handle.
///
/// # Errors
///
/// [`HsmError::Unfit`] naming the first attribute that is not as it must be; or what the device says.
pub(super) fn check(session: &Session, handle: ObjectHandle, id: &BackingKeyId) -> HsmResult<()> {
    let required = [
        (
            "CKA_CLASS",
            AttributeType::Class,
            Attribute::Class(ObjectClass::SECRET_KEY),
        ),
        (
            "CKA_KEY_TYPE",
            AttributeType::KeyType,
            Attribute::KeyType(KeyType::AES),
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
            Attribute::Encrypt(true),
        ),
        (
            "CKA_DECRYPT",
            AttributeType::Decrypt,
            Attribute::Decrypt(true),
        ),
        ("CKA_WRAP", AttributeType::Wrap, Attribute::Wrap(false)),
        (
            "CKA_UNWRAP",
            AttributeType::Unwrap,
            Attribute::Unwrap(false),
        ),
        (
            "CKA_ID",
            AttributeType::Id,
            Attribute::Id(id.as_bytes().to_vec()),
        ),
    ];
    let asked: Vec<_> = required.iter().map(|(_, kind, _)| *kind).collect();
    let told = session
        .get_attributes(handle, &asked)
        .map_err(device("C_GetAttributeValue"))?;
    for (name, kind, must) in &required {
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
