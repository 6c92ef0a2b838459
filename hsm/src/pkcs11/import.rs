//! Material that is brought along: a pair that unwraps it, and what it is unwrapped into.
//!
//! `CKM_RSA_AES_KEY_WRAP` (PKCS#11 v3.1 §6.1.20) is done in its two steps, since few tokens have it as one: the AES
//! key is an object of this session in between, and can unwrap and nothing else either.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::{device, failed};
use super::key::{self, Past, Requirement, Role};
use super::raw;
use super::scheme::{Bench, NotOpened, random};
use super::tool::common_requirements;
use crate::wrapping::{MATERIAL_BYTES, wrap};
use crate::{BackingKeyId, HsmError, HsmResult, ImportWrapping, RsaSize};

/// How the label of an imported key ends, for people.
pub(super) const IMPORTED_SUFFIX: &str = " (imported)";

/// What material is unwrapped into.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A key of this session, to see what it is.
    Passing(Role),
    /// A key that stays.
    Staying(Role, &'a BackingKeyId, &'a str),
    /// A key of this session that may be wrapped, to see how long it is.
    Measured,
    /// A key of this session that unwraps what is wrapped under it.
    Step,
}

/// What is asked of the private half.
pub(super) fn requirements(id: &BackingKeyId, past: Past) -> Vec<Requirement> {
    use AttributeType as Kind;
    let mut required = vec![
        (
            "CKA_CLASS",
            Kind::Class,
            Attribute::Class(ObjectClass::PRIVATE_KEY),
        ),
        (
            "CKA_KEY_TYPE",
            Kind::KeyType,
            Attribute::KeyType(KeyType::RSA),
        ),
        ("CKA_DECRYPT", Kind::Decrypt, Attribute::Decrypt(false)),
        ("CKA_SIGN", Kind::Sign, Attribute::Sign(false)),
        ("CKA_UNWRAP", Kind::Unwrap, Attribute::Unwrap(true)),
    ];
    required.extend(common_requirements(id, past));
    required
}

/// Unwraps throw-away material that was wrapped under the public half: only the private half can.
pub(super) fn prove(
    bench: Bench<'_>,
    private: ObjectHandle,
    (size, wrapping): (RsaSize, ImportWrapping),
    public: &[u8],
) -> Result<(), NotOpened> {
    let material = random::<MATERIAL_BYTES>().map_err(NotOpened::Other)?;
    let wrapped = wrap(public, wrapping, &material).ok_or(NotOpened::Forged)?;
    match length(bench, private, (size, wrapping), &wrapped)? {
        MATERIAL_BYTES => Ok(()),
        other => Err(NotOpened::Other(HsmError::Device {
            function: "C_UnwrapKey",
            source: format!("{MATERIAL_BYTES} bytes were unwrapped to {other}").into(),
        })),
    }
}

/// Unwraps material.
pub(super) fn unwrap(
    bench: Bench<'_>,
    private: ObjectHandle,
    (size, wrapping): (RsaSize, ImportWrapping),
    wrapped: &[u8],
    target: Target<'_>,
) -> Result<ObjectHandle, NotOpened> {
    let (under_rsa, rest) = wrapped
        .split_at_checked(size.bytes())
        .filter(|(_, rest)| rest.is_empty() != wrapping.has_aes_key())
        .ok_or(NotOpened::Forged)?;
    let oaep = || raw::Mechanism::Oaep {
        sha1: wrapping.is_sha1(),
    };
    if !wrapping.has_aes_key() {
        return object(bench, private, oaep, under_rsa, target);
    }
    let step = object(bench, private, oaep, under_rsa, Target::Step)?;
    let under_aes = || raw::Mechanism::Bare(bench.dialect.kwp);
    let unwrapped = object(bench, step, under_aes, rest, target);
    let destroyed = destroy(bench.session, step).map_err(NotOpened::Other);
    let unwrapped = unwrapped?;
    destroyed.map(|()| unwrapped)
}

/// One `C_UnwrapKey`. Whether it wants to be told the length is seen by trying, if the token was not seen to yet.
fn object<'m>(
    bench: Bench<'_>,
    key: ObjectHandle,
    mechanism: impl Fn() -> raw::Mechanism<'m>,
    wrapped: &[u8],
    target: Target<'_>,
) -> Result<ObjectHandle, NotOpened> {
    let (mut template, named) = template(target).map_err(NotOpened::Other)?;
    let length = key::value_len();
    if bench.dialect.unwrap_length {
        template.insert(0, length.clone());
    }
    let Bench { raw, session, .. } = bench;
    let done = raw.unwrap_as(session, key, mechanism(), wrapped, &template);
    if let Err(refused) = done {
        if !refused.is_about_template() {
            return Err(refused.into());
        }
        if bench.dialect.unwrap_length {
            template.retain(|attribute| *attribute != length);
        } else {
            template.insert(0, length);
        }
        // What the first way was refused for says more.
        let again = raw.unwrap_as(session, key, mechanism(), wrapped, &template);
        again.map_err(|_other_way| refused)?;
    }
    let found = session.find_objects(&named);
    let found = found.map_err(|error| NotOpened::Other(device("C_FindObjects")(error)))?;
    match found.as_slice() {
        [only] => Ok(*only),
        several => Err(NotOpened::Other(HsmError::Device {
            function: "C_UnwrapKey",
            source: format!("{} objects where one was made", several.len()).into(),
        })),
    }
}

/// The template of what is made, without its length, and what it is found by.
fn template(target: Target<'_>) -> HsmResult<(Vec<Attribute>, [Attribute; 2])> {
    let (role, id, label) = match target {
        Target::Staying(role, id, label) => (role, id.as_bytes().to_vec(), Some(label)),
        Target::Passing(role) => (role, random::<16>()?.to_vec(), None),
        Target::Measured => (Role::Cipher, random::<16>()?.to_vec(), None),
        Target::Step => (Role::Wrapper, random::<16>()?.to_vec(), None),
    };
    let mut template = key::passing_template(role);
    template.retain(|attribute| {
        use Attribute::{Modifiable, Token, ValueLen};
        !matches!(attribute, Token(_) | ValueLen(_) | Modifiable(_))
    });
    if matches!(target, Target::Measured) {
        template.retain(|attribute| !matches!(attribute, Attribute::Extractable(_)));
        template.push(Attribute::Extractable(true));
    }
    if matches!(target, Target::Step) {
        template.retain(|attribute| !matches!(attribute, Attribute::Wrap(_)));
        template.push(Attribute::Wrap(false));
    }
    let named = [Attribute::Token(label.is_some()), Attribute::Id(id)];
    template.extend(named.iter().cloned());
    if let Some(label) = label {
        let label = format!("{label}{IMPORTED_SUFFIX}");
        template.push(Attribute::Label(label.into_bytes()));
    }
    // Last: SoftHSM reads the template in order, and takes nothing after it.
    template.push(Attribute::Modifiable(false));
    Ok((template, named))
}

/// The length of wrapped material, in bytes.
///
/// `SoftHSM` does not tell it of an unwrapped key. Then it is measured: unwrapped once more, into a key of this session
/// that is sensitive and may be wrapped, and wrapped under a key of this session that nobody else has and that never leaves
/// the token. The length of that tells; both keys are destroyed.
pub(super) fn length(
    bench: Bench<'_>,
    private: ObjectHandle,
    how: (RsaSize, ImportWrapping),
    wrapped: &[u8],
) -> Result<usize, NotOpened> {
    let Bench { raw, session, .. } = bench;
    let target = Target::Passing(Role::Cipher);
    let key = unwrap(bench, private, how, wrapped, target)?;
    let told = session.get_attributes(key, &[AttributeType::ValueLen]);
    destroy(session, key).map_err(NotOpened::Other)?;
    let told = told.map_err(|error| NotOpened::Other(device("C_GetAttributeValue")(error)))?;
    let told = told.into_iter().find_map(|attribute| match attribute {
        Attribute::ValueLen(length) => usize::try_from(u64::from(length)).ok(),
        _ => None,
    });
    if let Some(length) = told.filter(|length| *length != 0) {
        return Ok(length);
    }
    let above = session.generate_key(&Mechanism::AesKeyGen, &key::passing_template(Role::Wrapper));
    let above = above.map_err(|error| NotOpened::Other(device("C_GenerateKey")(error)))?;
    let measured = unwrap(bench, private, how, wrapped, Target::Measured).and_then(|key| {
        let under_aes = raw::Mechanism::Bare(bench.dialect.kwp);
        let wrap = raw.wrap(session, above, under_aes, raw::Target::Object(key));
        destroy(session, key).map_err(NotOpened::Other)?;
        // RFC 5649 adds eight bytes to a length that is a multiple of eight, as those of AES keys are.
        Ok(wrap?.len().saturating_sub(8))
    });
    let destroyed = destroy(session, above).map_err(NotOpened::Other);
    let measured = measured?;
    destroyed.map(|()| measured)
}

/// Destroys a key of this session.
pub(super) fn destroy(session: &Session, key: ObjectHandle) -> HsmResult<()> {
    session
        .destroy_object(key)
        .map_err(device("C_DestroyObject"))
}

/// Why unwrapping failed, in words.
pub(super) fn words(not_opened: NotOpened) -> String {
    let error = match not_opened {
        NotOpened::Forged => return "what its public half wraps cannot be right".into(),
        NotOpened::Failed(reason) => failed(reason),
        NotOpened::Other(error) => error,
    };
    match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
