//! A token in memory: the contract of [`Token`] without hardware. Its keys are worth nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded as _};
use aws_lc_rs::rsa::{
    KeyPair as RsaKeyPair, KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{self as lc, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

use crate::handle::same_bytes;
use crate::wrapping::{self, MATERIAL_BYTES};
use crate::{
    BackingKey, BackingKeyId, Canary, Curve, HashFunction, HsmError, HsmResult, ImportWrapping,
    KeyBlob, Material, Report, RsaSize, SecretBytes, Session, SignatureAlgorithm, SigningKey,
    TOOL_INPUT_BYTES_MAX, Token, TokenInfo, ToolKey, ToolProof, ToolSpec, WRAP_AAD_BYTES_MAX,
    WRAP_PLAINTEXT_BYTES_MAX, WrapScheme, Wrapped,
};

#[derive(Clone)]
struct Tool(ToolSpec, Secret);

#[derive(Clone)]
enum Secret {
    Mac(Arc<hmac::Key>),
    Pair(Arc<PrivateDecryptingKey>),
    Rsa(Arc<RsaKeyPair>),
    Ec(Arc<EcdsaKeyPair>),
}

/// A token in memory. Clones are the same token, so a test keeps one to unplug what a handle uses.
#[derive(Clone, Default)]
pub struct MemoryToken {
    store: Arc<Mutex<Store>>,
}

#[derive(Default)]
struct Store {
    keys: HashMap<BackingKeyId, Arc<LessSafeKey>>,
    tools: HashMap<BackingKeyId, Tool>,
    /// Whether it has no tools.
    bare: bool,
    serial: Option<&'static str>,
    absent: bool,
    /// Counts removals: a session does not outlive one.
    removals: u64,
}

impl MemoryToken {
    /// An empty token, plugged in.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty token with this serial number; that of others is 0.
    pub fn with_serial(serial: &'static str) -> Self {
        let this = Self::new();
        this.store().serial = Some(serial);
        this
    }

    /// Plugs the token in or out. Its keys stay; its sessions do not survive a removal.
    pub fn set_present(&self, present: bool) {
        let mut store = self.store();
        if !present && !store.absent {
            store.removals += 1;
        }
        store.absent = !present;
    }

    /// Copies every key into `other`, as a maker's cloning does.
    pub fn clone_keys_into(&self, other: &Self) {
        let (keys, tools) = {
            let store = self.store();
            (store.keys.clone(), store.tools.clone())
        };
        let mut other = other.store();
        other.keys.extend(keys);
        other.tools.extend(tools);
    }

    /// Loses the wrapping key of this identity, if it is there. Answers whether it was.
    pub fn lose(&self, id: &BackingKeyId) -> bool {
        self.store().keys.remove(id).is_some()
    }

    /// Whether the token makes and uses tools; it does until told otherwise.
    pub fn set_tools(&self, present: bool) {
        self.store().bare = !present;
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemoryToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryToken(..)")
    }
}

impl Token for MemoryToken {
    fn open_session(&self) -> HsmResult<Box<dyn Session>> {
        let removals = self.store().present()?.removals;
        Ok(Box::new(MemorySession {
            token: self.clone(),
            removals,
        }))
    }

    fn info(&self) -> HsmResult<TokenInfo> {
        let serial = self.store().present()?.serial.unwrap_or("0");
        Ok(TokenInfo {
            backend: "memory",
            module: "none".into(),
            label: "memory".into(),
            serial: serial.into(),
            model: "test".into(),
        })
    }

    fn report(&self) -> HsmResult<Report> {
        self.store().present()?;
        let danger = "its keys are in the memory of this process";
        Ok(Report {
            facts: Vec::new(),
            dangers: vec![danger.into()],
        })
    }
}

impl Store {
    fn present(&mut self) -> HsmResult<&mut Self> {
        if self.absent {
            return Err(unavailable("the token is unplugged"));
        }
        Ok(self)
    }

    fn key(&self, id: &BackingKeyId) -> HsmResult<&LessSafeKey> {
        let key = self.keys.get(id);
        key.map(AsRef::as_ref).ok_or(HsmError::KeyNotFound(*id))
    }

    fn tool(&self, id: &BackingKeyId, spec: ToolSpec) -> HsmResult<&Secret> {
        match self.tools.get(id) {
            None => Err(HsmError::KeyNotFound(*id)),
            Some(Tool(is, _)) if *is != spec => Err(unfit(id, "it is of another kind")),
            Some(Tool(_, secret)) => Ok(secret),
        }
    }

    fn proof(&self, id: &BackingKeyId, spec: ToolSpec) -> HsmResult<ToolProof> {
        match self.tool(id, spec)? {
            Secret::Mac(key) => {
                ToolProof::from_bytes(hmac::sign(key, &ToolProof::mac_input(id)).as_ref())
            }
            Secret::Pair(pair) => ToolProof::from_bytes(&public_half(pair)?),
            Secret::Rsa(pair) => ToolProof::from_bytes(written(pair.public_key())?.as_bytes()),
            Secret::Ec(pair) => ToolProof::from_bytes(written(pair.public_key())?.as_bytes()),
        }
    }

    fn proven_tool(&self, tool: &ToolKey) -> HsmResult<&Secret> {
        let proof = self.proof(&tool.id, tool.spec)?;
        if !same_bytes(proof.as_bytes(), tool.proof.as_bytes()) {
            return Err(unfit(&tool.id, "its proof is of another key"));
        }
        self.tool(&tool.id, tool.spec)
    }

    /// The material, unwrapped and judged.
    fn unwrapped(&self, material: &Material) -> HsmResult<Arc<LessSafeKey>> {
        let tool = &material.unwrapper;
        let (Secret::Pair(pair), ToolSpec::Unwrap(size, wrapping)) =
            (self.proven_tool(tool)?, tool.spec)
        else {
            return Err(unfit(&tool.id, "it unwraps nothing"));
        };
        let bytes = unwrap(pair, size, wrapping, &material.wrapped).ok_or(HsmError::Unauthentic)?;
        let bytes: &[u8; MATERIAL_BYTES] = bytes
            .as_slice()
            .try_into()
            .map_err(|_length| HsmError::OtherMaterial)?;
        let key = UnboundKey::new(&AES_256_GCM, bytes);
        let key = LessSafeKey::new(key.map_err(|unspecified| failed("import", unspecified))?);
        if let Some(same) = &material.same_as {
            match open(&key, &Canary::aad(&same.id), &same.canary.0) {
                Ok(plaintext) if plaintext.expose() == Canary::PLAINTEXT => {}
                _ => return Err(HsmError::OtherMaterial),
            }
        }
        Ok(Arc::new(key))
    }

    fn taken(&self, id: &BackingKeyId) -> bool {
        self.keys.contains_key(id) || self.tools.contains_key(id)
    }

    fn proven(&self, key: &BackingKey) -> HsmResult<&LessSafeKey> {
        let found = self.key(&key.id)?;
        match open(found, &Canary::aad(&key.id), &key.canary.0) {
            Ok(plaintext) if plaintext.expose() == Canary::PLAINTEXT => Ok(found),
            _ => Err(HsmError::Unfit {
                id: key.id,
                reason: "its canary does not open".into(),
            }),
        }
    }
}

struct MemorySession {
    token: MemoryToken,
    removals: u64,
}

impl MemorySession {
    fn with<T>(&self, work: impl FnOnce(&mut Store) -> HsmResult<T>) -> HsmResult<T> {
        let mut store = self.token.store();
        let store = store.present()?;
        if store.removals != self.removals {
            return Err(unavailable("the session went with the token"));
        }
        work(store)
    }
}

impl Session for MemorySession {
    fn generate_key(&mut self, id: &BackingKeyId, _label: &str) -> HsmResult<KeyBlob> {
        self.with(|store| {
            if store.taken(id) {
                return Err(HsmError::KeyExists(*id));
            }
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|source| HsmError::Random(source.into()))?;
            let key = UnboundKey::new(&AES_256_GCM, &bytes);
            let key = key.map_err(|unspecified| failed("generate_key", unspecified))?;
            store.keys.insert(*id, Arc::new(LessSafeKey::new(key)));
            Ok(KeyBlob::EMPTY)
        })
    }

    fn make_canary(&mut self, id: &BackingKeyId, _blob: &KeyBlob) -> HsmResult<Canary> {
        self.with(|store| seal(store.key(id)?, &Canary::aad(id), Canary::PLAINTEXT).map(Canary))
    }

    fn contains(&mut self, id: &BackingKeyId) -> HsmResult<bool> {
        self.with(|store| Ok(store.taken(id)))
    }

    fn probe(&mut self, key: &BackingKey) -> HsmResult<()> {
        self.with(|store| store.proven(key).map(|_key| ()))
    }

    fn wrap(&mut self, key: &BackingKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        within("plaintext", plaintext, WRAP_PLAINTEXT_BYTES_MAX)?;
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        self.with(|store| seal(store.proven(key)?, aad, plaintext))
    }

    fn unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<SecretBytes> {
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        self.with(|store| open(store.proven(key)?, aad, wrapped))
    }

    fn tool_obstacle(&mut self, _spec: ToolSpec) -> HsmResult<Option<String>> {
        self.with(|store| Ok(store.bare.then(|| NO_TOOLS.into())))
    }

    fn generate_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        _label: &str,
    ) -> HsmResult<KeyBlob> {
        self.with(|store| {
            if store.bare {
                return Err(HsmError::Unsupported(NO_TOOLS.into()));
            }
            if store.taken(id) {
                return Err(HsmError::KeyExists(*id));
            }
            let (secret, blob) = match spec {
                ToolSpec::Hmac(hash) => {
                    let mut bytes = vec![0; hash.bytes()];
                    getrandom::fill(&mut bytes)
                        .map_err(|source| HsmError::Random(source.into()))?;
                    let key = hmac::Key::new(algorithm(hash), &bytes);
                    (Secret::Mac(Arc::new(key)), KeyBlob::EMPTY)
                }
                ToolSpec::Sign(SigningKey::Rsa(size)) => {
                    let pair = RsaKeyPair::generate(key_size(size));
                    let pair = pair.map_err(|unspecified| failed("generate_tool", unspecified))?;
                    let public = written(pair.public_key())?;
                    (Secret::Rsa(Arc::new(pair)), public)
                }
                ToolSpec::Sign(SigningKey::Ec(curve)) => {
                    let pair = EcdsaKeyPair::generate(match curve {
                        Curve::P256 => &lc::ECDSA_P256_SHA256_ASN1_SIGNING,
                        Curve::P384 => &lc::ECDSA_P384_SHA384_ASN1_SIGNING,
                        Curve::P521 => &lc::ECDSA_P521_SHA512_ASN1_SIGNING,
                        Curve::K256 => &lc::ECDSA_P256K1_SHA256_ASN1_SIGNING,
                    });
                    let pair = pair.map_err(|unspecified| failed("generate_tool", unspecified))?;
                    let public = written(pair.public_key())?;
                    (Secret::Ec(Arc::new(pair)), public)
                }
                ToolSpec::Unwrap(size, _) => {
                    let pair = PrivateDecryptingKey::generate(key_size(size));
                    let pair = pair.map_err(|unspecified| failed("generate_tool", unspecified))?;
                    let public = KeyBlob::from_bytes(&public_half(&pair)?)?;
                    (Secret::Pair(Arc::new(pair)), public)
                }
            };
            store.tools.insert(*id, Tool(spec, secret));
            Ok(blob)
        })
    }

    fn prove_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        _blob: &KeyBlob,
    ) -> HsmResult<ToolProof> {
        self.with(|store| store.proof(id, spec))
    }

    fn probe_tool(&mut self, tool: &ToolKey) -> HsmResult<()> {
        self.with(|store| store.proven_tool(tool).map(|_secret| ()))
    }

    fn mac(&mut self, tool: &ToolKey, message: &[u8]) -> HsmResult<Vec<u8>> {
        within("message to authenticate", message, TOOL_INPUT_BYTES_MAX)?;
        self.with(|store| match store.proven_tool(tool)? {
            Secret::Mac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Secret::Pair(_) | Secret::Rsa(_) | Secret::Ec(_) => {
                Err(unfit(&tool.id, "it makes no MACs"))
            }
        })
    }

    fn sign(
        &mut self,
        tool: &ToolKey,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> HsmResult<Vec<u8>> {
        algorithm.checked(tool, digest)?;
        self.with(|store| {
            let digest = Digest::import_less_safe(digest, algorithm.hash().algorithm());
            let signature = digest.and_then(|digest| match store.proven_tool(tool) {
                Ok(Secret::Rsa(pair)) => {
                    let mut signature = vec![0; pair.public_modulus_len()];
                    pair.sign_digest(encoding(algorithm)?, &digest, &mut signature)?;
                    Ok(Ok(signature))
                }
                Ok(Secret::Ec(pair)) => Ok(Ok(pair.sign_digest(&digest)?.as_ref().to_vec())),
                Ok(Secret::Mac(_) | Secret::Pair(_)) => Err(Unspecified),
                Err(error) => Ok(Err(error)),
            });
            signature.map_err(|unspecified| failed("sign", unspecified))?
        })
    }

    fn import_key(
        &mut self,
        material: &Material,
        into: Option<(&BackingKeyId, &str)>,
    ) -> HsmResult<KeyBlob> {
        within(
            "wrapped material",
            &material.wrapped,
            Material::WRAPPED_BYTES_MAX,
        )?;
        self.with(|store| {
            let key = store.unwrapped(material)?;
            if let Some((id, _label)) = into {
                if store.taken(id) {
                    return Err(HsmError::KeyExists(*id));
                }
                store.keys.insert(*id, key);
            }
            Ok(KeyBlob::EMPTY)
        })
    }

    fn destroy_key(&mut self, id: &BackingKeyId) -> HsmResult<()> {
        self.with(|store| {
            store.tools.remove(id);
            store.keys.remove(id);
            Ok(())
        })
    }

    fn list_keys(&mut self) -> HsmResult<Vec<BackingKeyId>> {
        self.with(|store| {
            Ok(store
                .keys
                .keys()
                .chain(store.tools.keys())
                .copied()
                .collect())
        })
    }

    fn random(&mut self, out: &mut [u8]) -> HsmResult<()> {
        self.with(|_store| getrandom::fill(out).map_err(|source| HsmError::Random(source.into())))
    }
}

const NO_TOOLS: &str = "this token was told to have none";

fn algorithm(hash: HashFunction) -> hmac::Algorithm {
    match hash {
        HashFunction::Sha224 => hmac::HMAC_SHA224,
        HashFunction::Sha256 => hmac::HMAC_SHA256,
        HashFunction::Sha384 => hmac::HMAC_SHA384,
        HashFunction::Sha512 => hmac::HMAC_SHA512,
    }
}

fn key_size(size: RsaSize) -> KeySize {
    match size {
        RsaSize::Bits2048 => KeySize::Rsa2048,
        RsaSize::Bits3072 => KeySize::Rsa3072,
        RsaSize::Bits4096 => KeySize::Rsa4096,
    }
}

fn encoding(
    algorithm: SignatureAlgorithm,
) -> Result<&'static lc::RsaSignatureEncoding, Unspecified> {
    use HashFunction::{Sha256, Sha384, Sha512};
    use SignatureAlgorithm::{Pkcs1, Pss};
    Ok(match algorithm {
        Pss(Sha256) => &lc::RSA_PSS_SHA256,
        Pss(Sha384) => &lc::RSA_PSS_SHA384,
        Pss(Sha512) => &lc::RSA_PSS_SHA512,
        Pkcs1(Sha256) => &lc::RSA_PKCS1_SHA256,
        Pkcs1(Sha384) => &lc::RSA_PKCS1_SHA384,
        Pkcs1(Sha512) => &lc::RSA_PKCS1_SHA512,
        _ => return Err(Unspecified),
    })
}

fn written<'k>(public: &impl AsDer<PublicKeyX509Der<'k>>) -> HsmResult<KeyBlob> {
    let der = public.as_der();
    let der = der.map_err(|unspecified| failed("generate_tool", unspecified))?;
    KeyBlob::from_bytes(der.as_ref())
}

fn public_half(pair: &PrivateDecryptingKey) -> HsmResult<Vec<u8>> {
    let public: Result<PublicKeyX509Der<'_>, _> = pair.public_key().as_der();
    let public = public.map_err(|unspecified| failed("generate_tool", unspecified))?;
    Ok(public.as_ref().to_vec())
}

fn unwrap(
    pair: &PrivateDecryptingKey,
    size: RsaSize,
    wrapping: ImportWrapping,
    wrapped: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let pair = OaepPrivateDecryptingKey::new(pair.clone()).ok()?;
    let (under_rsa, rest) = wrapped.split_at_checked(size.bytes())?;
    let mut key = Zeroizing::new(vec![0; pair.min_output_size()]);
    let oaep = wrapping::oaep(wrapping);
    let length = pair.decrypt(oaep, under_rsa, &mut key, None).ok()?.len();
    key.truncate(length);
    if !wrapping.has_aes_key() {
        return rest.is_empty().then_some(key);
    }
    let kek = AesKek::new(&AES_256, &key).ok()?;
    let mut material = Zeroizing::new(vec![0; rest.len()]);
    let length = kek.unwrap_with_padding(rest, &mut material).ok()?.len();
    material.truncate(length);
    Some(material)
}

fn unfit(id: &BackingKeyId, reason: &str) -> HsmError {
    HsmError::Unfit {
        id: *id,
        reason: reason.into(),
    }
}

fn seal(key: &LessSafeKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
    let mut iv = [0; NONCE_LEN];
    getrandom::fill(&mut iv).map_err(|source| HsmError::Random(source.into()))?;
    let mut sealed = plaintext.to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(iv),
        Aad::from(aad),
        &mut sealed,
    )
    .map_err(|unspecified| failed("wrap", unspecified))?;
    Ok(Wrapped::new(
        WrapScheme::AesGcm,
        &[&iv, sealed.as_slice()].concat(),
    ))
}

fn open(key: &LessSafeKey, aad: &[u8], wrapped: &Wrapped) -> HsmResult<SecretBytes> {
    let Some((iv, sealed)) = wrapped.body().split_first_chunk() else {
        return Err(HsmError::Unauthentic);
    };
    let mut sealed = sealed.to_vec();
    let opened = key.open_in_place(
        Nonce::assume_unique_for_key(*iv),
        Aad::from(aad),
        &mut sealed,
    );
    match opened {
        Ok(plaintext) => SecretBytes::new(plaintext.to_vec()),
        Err(aws_lc_rs::error::Unspecified) => Err(HsmError::Unauthentic),
    }
}

fn within(what: &'static str, bytes: &[u8], max: usize) -> HsmResult<()> {
    if bytes.len() > max {
        return Err(HsmError::TooLong {
            what,
            bytes: bytes.len(),
        });
    }
    Ok(())
}

fn failed(function: &'static str, source: aws_lc_rs::error::Unspecified) -> HsmError {
    HsmError::Device {
        function,
        source: source.into(),
    }
}

fn unavailable(reason: &str) -> HsmError {
    HsmError::Unavailable {
        reason: reason.into(),
        source: None,
    }
}
