//! Tools as objects: how they are made, found, judged and tried.
//!
//! A MAC key is a generic secret: of its digest's length, signs and verifies, and does nothing else. Pairs are made in
//! [`pair`]; what one that unwraps does is in [`import`], of one that signs in [`sign`].

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::error::{device, failed, may_blame_ciphertext};
use super::import;
use super::key::{self, MAC_SUFFIX, Past, Requirement, unfit};
use super::pair::{self, For};
use super::probe::{Subject, with_source};
use super::raw::{
    CK_MECHANISM_TYPE, CKM_SHA224_HMAC, CKM_SHA256_HMAC, CKM_SHA384_HMAC, CKM_SHA512_HMAC, Raw,
};
use super::scheme::{Bench, Dialect, NotOpened};
use super::sign;
use crate::handle::same_bytes;
use crate::{
    BackingKeyId, Curve, HashFunction, HsmError, HsmResult, ImportWrapping, KeyBlob, RsaSize,
    SigningKey, ToolProof, ToolSpec,
};

/// What is tried with a key that is gone afterwards.
const TRIAL: &[u8] = b"strongroom trial";

fn hmac(hash: HashFunction) -> CK_MECHANISM_TYPE {
    match hash {
        HashFunction::Sha224 => CKM_SHA224_HMAC,
        HashFunction::Sha256 => CKM_SHA256_HMAC,
        HashFunction::Sha384 => CKM_SHA384_HMAC,
        HashFunction::Sha512 => CKM_SHA512_HMAC,
    }
}

/// The length of the secret, as `CKA_VALUE_LEN` has it.
fn value_len(hash: HashFunction) -> Attribute {
    // A digest has at most 64 bytes.
    Attribute::ValueLen(u64::try_from(hash.bytes()).unwrap_or_default().into())
}

/// What `C_GenerateKey` is given of a MAC key of one session.
fn passing_mac_template(hash: HashFunction) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        value_len(hash),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(true),
        Attribute::Verify(true),
        Attribute::Derive(false),
    ]
}

/// Makes a tool. It has passed its trial, and its identity is free.
///
/// # Errors
///
/// What the device says.
pub(super) fn generate(
    session: &Session,
    id: &BackingKeyId,
    spec: ToolSpec,
    label: &str,
) -> HsmResult<KeyBlob> {
    let hash = match spec {
        ToolSpec::Hmac(hash) => hash,
        ToolSpec::Unwrap(size, _) => {
            let (key, named) = (SigningKey::Rsa(size), Some((id, label)));
            let (_private, public) = pair::generate(session, key, For::Unwrapping, named)?;
            return Ok(public);
        }
        ToolSpec::Sign(key) => {
            let named = Some((id, label));
            let (_private, public) = pair::generate(session, key, For::Signing, named)?;
            return Ok(public);
        }
    };
    let mut template = passing_mac_template(hash);
    template.retain(|attribute| !matches!(attribute, Attribute::Token(_)));
    template.extend([
        Attribute::Token(true),
        Attribute::Id(id.as_bytes().to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ]);
    session
        .generate_key(&Mechanism::GenericSecretKeyGen, &template)
        .map(|_handle| KeyBlob::EMPTY)
        .map_err(device("C_GenerateKey"))
}

/// Finds the one object of a tool and judges it. `None` when there is no object at all.
///
/// # Errors
///
/// [`HsmError::Unfit`] for two objects, or one that is not what we generate; what the device says.
pub(super) fn find(
    session: &Session,
    id: &BackingKeyId,
    spec: ToolSpec,
    past: Past,
) -> HsmResult<Option<ObjectHandle>> {
    let handles = key::find_all(session, id)?;
    let handle = match handles.as_slice() {
        [] => return Ok(None),
        [only] => *only,
        several => {
            let reason = format!("{} objects on the token have its CKA_ID", several.len());
            return Err(unfit(id, reason));
        }
    };
    let required = match spec {
        ToolSpec::Hmac(hash) => mac_requirements(id, hash, past),
        ToolSpec::Unwrap(..) => import::requirements(id, past),
        ToolSpec::Sign(key) => sign::requirements(id, key, past),
    };
    key::require(session, handle, id, &required)?;
    Ok(Some(handle))
}

fn mac_requirements(id: &BackingKeyId, hash: HashFunction, past: Past) -> Vec<Requirement> {
    use AttributeType as Kind;
    let mut required = vec![
        (
            "CKA_CLASS",
            Kind::Class,
            Attribute::Class(ObjectClass::SECRET_KEY),
        ),
        (
            "CKA_KEY_TYPE",
            Kind::KeyType,
            Attribute::KeyType(KeyType::GENERIC_SECRET),
        ),
        ("CKA_VALUE_LEN", Kind::ValueLen, value_len(hash)),
        ("CKA_ENCRYPT", Kind::Encrypt, Attribute::Encrypt(false)),
        ("CKA_WRAP", Kind::Wrap, Attribute::Wrap(false)),
        ("CKA_VERIFY", Kind::Verify, Attribute::Verify(true)),
    ];
    required.extend(common_requirements(id, past));
    required.extend([
        ("CKA_DECRYPT", Kind::Decrypt, Attribute::Decrypt(false)),
        ("CKA_UNWRAP", Kind::Unwrap, Attribute::Unwrap(false)),
        ("CKA_SIGN", Kind::Sign, Attribute::Sign(true)),
    ]);
    required
}

/// What is asked of everything that must not leave the token.
pub(super) fn common_requirements(id: &BackingKeyId, past: Past) -> Vec<Requirement> {
    use AttributeType as Kind;
    let mut required = vec![
        ("CKA_TOKEN", Kind::Token, Attribute::Token(true)),
        ("CKA_PRIVATE", Kind::Private, Attribute::Private(true)),
        ("CKA_SENSITIVE", Kind::Sensitive, Attribute::Sensitive(true)),
        (
            "CKA_EXTRACTABLE",
            Kind::Extractable,
            Attribute::Extractable(false),
        ),
        ("CKA_DERIVE", Kind::Derive, Attribute::Derive(false)),
        ("CKA_ID", Kind::Id, Attribute::Id(id.as_bytes().to_vec())),
    ];
    if past == Past::Required {
        required.extend([
            (
                "CKA_ALWAYS_SENSITIVE",
                Kind::AlwaysSensitive,
                Attribute::AlwaysSensitive(true),
            ),
            (
                "CKA_NEVER_EXTRACTABLE",
                Kind::NeverExtractable,
                Attribute::NeverExtractable(true),
            ),
            ("CKA_LOCAL", Kind::Local, Attribute::Local(true)),
        ]);
    }
    required
}

/// Makes a MAC of the length that its hash has.
///
/// # Errors
///
/// What the device says, and a MAC of another length.
pub(super) fn mac(
    raw: &Raw,
    session: &Session,
    handle: ObjectHandle,
    hash: HashFunction,
    message: &[u8],
) -> HsmResult<Vec<u8>> {
    let mac = raw.sign(session, handle, hmac(hash), message);
    let mac = mac.map_err(failed)?;
    if mac.len() != hash.bytes() {
        return Err(HsmError::Device {
            function: "C_Sign",
            source: format!("a MAC of {} bytes, not {}", mac.len(), hash.bytes()).into(),
        });
    }
    Ok(mac)
}

/// Makes the proof of a tool; of a pair, `public` is its public half as it was written down.
///
/// # Errors
///
/// [`HsmError::Unfit`] for another pair; as [`mac`].
pub(super) fn prove(
    bench: Bench<'_>,
    handle: ObjectHandle,
    id: &BackingKeyId,
    spec: ToolSpec,
    public: &[u8],
) -> HsmResult<ToolProof> {
    match spec {
        ToolSpec::Hmac(hash) => {
            let input = ToolProof::mac_input(id);
            ToolProof::from_bytes(&mac(bench.raw, bench.session, handle, hash, &input)?)
        }
        ToolSpec::Unwrap(size, wrapping) => {
            match import::prove(bench, handle, (size, wrapping), public) {
                Ok(()) => ToolProof::from_bytes(public),
                Err(NotOpened::Other(error)) => Err(error),
                Err(NotOpened::Failed(reason)) if !may_blame_ciphertext(reason) => {
                    Err(failed(reason))
                }
                Err(_) => Err(unfit(id, "it does not unwrap what its public half wraps")),
            }
        }
        ToolSpec::Sign(key) => sign::prove(bench.raw, bench.session, handle, id, key, public),
    }
}

/// What kind of tool a generic secret is, by its length; none that is the second key of a pair, by its label. For
/// people: nothing is used by it.
pub(super) fn spec_of(session: &Session, handle: ObjectHandle) -> Option<ToolSpec> {
    let told = session
        .get_attributes(handle, &[AttributeType::ValueLen])
        .ok()?;
    let second = key::is_labelled(session, handle, MAC_SUFFIX);
    let is_so_long = |spec: &ToolSpec| match spec {
        ToolSpec::Hmac(hash) => told.contains(&value_len(*hash)),
        ToolSpec::Unwrap(..) | ToolSpec::Sign(_) => false,
    };
    ToolSpec::MACS
        .into_iter()
        .find(is_so_long)
        .filter(|_spec| !second)
}

/// The one private key with this identity, and what it may be, by its attributes. For people: nothing is used by it.
pub(super) fn private_half(
    session: &Session,
    id: &BackingKeyId,
) -> Option<(ObjectHandle, ToolSpec)> {
    let [only] = key::find_all(session, id).ok()?.try_into().ok()?;
    let asked = [
        AttributeType::Class,
        AttributeType::KeyType,
        AttributeType::Sign,
    ];
    let told = session.get_attributes(only, &asked).ok()?;
    // All pairs of a kind are asked for the same, whatever their sizes and curves.
    let spec = if told.contains(&Attribute::KeyType(KeyType::EC)) {
        ToolSpec::Sign(SigningKey::Ec(Curve::P256))
    } else if told.contains(&Attribute::Sign(true)) {
        ToolSpec::Sign(SigningKey::Rsa(RsaSize::Bits2048))
    } else {
        ToolSpec::Unwrap(RsaSize::Bits2048, ImportWrapping::OaepSha1)
    };
    told.contains(&Attribute::Class(ObjectClass::PRIVATE_KEY))
        .then_some((only, spec))
}

impl Subject<'_> {
    /// Tries a tool of this kind with a key of one session.
    ///
    /// # Errors
    ///
    /// Why it does not work.
    pub(super) fn try_tool(self, spec: ToolSpec, dialect: Dialect) -> Result<(), String> {
        match spec {
            ToolSpec::Hmac(hash) => self.try_macs(hash),
            ToolSpec::Unwrap(size, wrapping) => self.try_unwrapping(size, wrapping, dialect),
            ToolSpec::Sign(key) => self.try_signing(key),
        }
    }

    /// Tries a small pair, which says as much as a large one, and looks up how large a pair may be.
    fn try_unwrapping(
        self,
        size: RsaSize,
        wrapping: ImportWrapping,
        dialect: Dialect,
    ) -> Result<(), String> {
        self.see_rsa_of(size)?;
        let session = self.session().map_err(|error| error.to_string())?;
        let tried = RsaSize::Bits2048;
        let made = pair::generate(&session, SigningKey::Rsa(tried), For::Unwrapping, None);
        let (private, public) = made.map_err(|error| with_source(&error))?;
        let bench = Bench {
            raw: self.raw,
            session: &session,
            dialect,
        };
        import::prove(bench, private, (tried, wrapping), public.as_bytes()).map_err(import::words)
    }

    fn try_macs(self, hash: HashFunction) -> Result<(), String> {
        let text = |error: HsmError| with_source(&error);
        let session = self.session().map_err(|error| error.to_string())?;
        let made =
            session.generate_key(&Mechanism::GenericSecretKeyGen, &passing_mac_template(hash));
        let handle = made.map_err(|error| format!("C_GenerateKey: {error}"))?;
        let first = mac(self.raw, &session, handle, hash, TRIAL).map_err(text)?;
        let again = mac(self.raw, &session, handle, hash, TRIAL).map_err(text)?;
        let other = mac(self.raw, &session, handle, hash, b"other").map_err(text)?;
        if !same_bytes(&first, &again) || same_bytes(&first, &other) {
            return Err("its MACs do not depend on the message, or not on it alone".into());
        }
        let longest = [7; crate::TOOL_INPUT_BYTES_MAX];
        mac(self.raw, &session, handle, hash, &longest).map_err(text)?;
        let verify = |mac: &[u8]| self.raw.verify(&session, handle, hmac(hash), TRIAL, mac);
        verify(&first).map_err(|failed| failed.to_string())?;
        match verify(&other) {
            Ok(()) => Err("it took the MAC of another message".into()),
            Err(failed) if may_blame_ciphertext(failed) => Ok(()),
            Err(failed) => Err(failed.to_string()),
        }
    }
}
