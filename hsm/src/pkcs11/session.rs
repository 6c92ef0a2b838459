//! A session with a PKCS#11 token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::object::ObjectHandle;
use zeroize::Zeroizing;

use super::error::{device, failed, may_blame_ciphertext};
use super::import;
use super::key::{self, Objects, Past, Role, unfit};
use super::opened::Opened;
use super::probe::{Abilities, Subject};
use super::raw::CKR_MECHANISM_INVALID;
use super::scheme::{self, Bench, Keys, NotOpened};
use super::sign;
use super::tool;
use crate::handle::same_bytes;
use crate::wrapping::MATERIAL_BYTES;
use crate::{
    BackingKey, BackingKeyId, Canary, HsmError, HsmResult, ImportWrapping, KeyBlob, Material,
    RsaSize, SecretBytes, Session, SignatureAlgorithm, TOOL_INPUT_BYTES_MAX, ToolKey, ToolProof,
    ToolSpec, WRAP_AAD_BYTES_MAX, WRAP_PLAINTEXT_BYTES_MAX, WrapScheme, Wrapped,
};

/// How long a handle is used before its key is found, judged and its canary opened again. Modules have been seen to
/// renumber handles after a reset (OpenSSL pkcs11-provider #494); this bounds what that could do, for one find, one
/// read of attributes and one decryption a second, session and key (130 µs on `SoftHSM`).
const HANDLE_TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Handles a session remembers. When there are more keys it starts over.
const HANDLES_MAX: usize = 1024;

/// One worker's session.
pub(super) struct Pkcs11Session {
    opened: Opened,
    abilities: Arc<Abilities>,
    /// The scheme of keys to come, when the configuration names one.
    forced: Option<WrapScheme>,
    handles: HashMap<BackingKeyId, Found>,
    tools: HashMap<BackingKeyId, FoundTool>,
}

/// Handles that passed every check.
struct Found {
    keys: Keys,
    canary: Canary,
    at: Instant,
}

/// A tool that has proved itself.
struct FoundTool {
    handle: ObjectHandle,
    tool: ToolKey,
    at: Instant,
}

impl Pkcs11Session {
    pub(super) fn new(
        opened: Opened,
        abilities: Arc<Abilities>,
        forced: Option<WrapScheme>,
    ) -> Self {
        Self {
            opened,
            abilities,
            forced,
            handles: HashMap::new(),
            tools: HashMap::new(),
        }
    }

    /// Closes the module's session and opens another, in which no handle is believed that was found in the first.
    fn reopen(&mut self) -> HsmResult<()> {
        self.handles.clear();
        self.tools.clear();
        self.opened.reopen()
    }

    /// Runs `work` with the module entered: it is neither finalised meanwhile, nor has it been since we opened.
    fn inside<T>(&mut self, work: impl FnOnce(&mut Self) -> HsmResult<T>) -> HsmResult<T> {
        let library = Arc::clone(self.opened.library());
        let _inside = library.enter(self.opened.generation())?;
        work(self)
    }

    /// The same, with leave to look for objects.
    fn looking<T>(&mut self, work: impl FnOnce(&mut Self) -> HsmResult<T>) -> HsmResult<T> {
        let library = Arc::clone(self.opened.library());
        self.inside(|this| {
            let _looking = library.looking()?;
            work(this)
        })
    }

    /// The same, with leave to make and destroy objects.
    fn changing<T>(&mut self, work: impl FnOnce(&mut Self) -> HsmResult<T>) -> HsmResult<T> {
        let library = Arc::clone(self.opened.library());
        self.inside(|this| {
            let _changing = library.changing()?;
            work(this)
        })
    }

    /// The handles of `key`: remembered, or found, judged and its canary opened.
    fn keys(&mut self, key: &BackingKey) -> HsmResult<Keys> {
        if let Some(found) = self.handles.get(&key.id)
            && found.canary == key.canary
            && found.at.elapsed() < HANDLE_TRUSTED_FOR
        {
            return Ok(found.keys);
        }
        self.keys_afresh(key)
    }

    fn keys_afresh(&mut self, key: &BackingKey) -> HsmResult<Keys> {
        self.handles.remove(&key.id);
        let library = Arc::clone(self.opened.library());
        let _looking = library.looking()?;
        let keys = self.find(&key.id, &key.blob, scheme_of(key)?)?;
        let keys = self.open_canary(keys, key)?;
        if self.handles.len() >= HANDLES_MAX {
            self.handles.clear();
        }
        self.handles.insert(
            key.id,
            Found {
                keys,
                canary: key.canary.clone(),
                at: Instant::now(),
            },
        );
        Ok(keys)
    }

    /// Finds and judges the objects of a key of this scheme, by its identity alone.
    fn find(&self, id: &BackingKeyId, blob: &KeyBlob, scheme: WrapScheme) -> HsmResult<Keys> {
        let session = self.opened.raw()?;
        let past = match self.abilities.past() {
            Past::Required if blob.is_imported() => Past::Imported,
            past => past,
        };
        let Some(keys) = Objects::find(session, id)?.judged(session, id, scheme, past)? else {
            self.opened.see_token()?;
            return Err(HsmError::KeyNotFound(*id));
        };
        Ok(keys)
    }

    /// The scheme of keys that are made now.
    fn scheme(&self) -> HsmResult<WrapScheme> {
        match self.forced {
            Some(scheme) => Ok(scheme),
            None => self.abilities.scheme(),
        }
    }

    /// The scheme of a key that has no canary yet: what its objects are made for, by which the choice may have changed
    /// since they were made.
    fn scheme_by_objects(&self, id: &BackingKeyId) -> HsmResult<WrapScheme> {
        let session = self.opened.raw()?;
        let objects = Objects::find(session, id)?;
        let chosen = self.scheme();
        if objects.mac.is_some() {
            return Ok(WrapScheme::AesCbcHmac);
        }
        let wraps = match objects.aes {
            Some(aes) => key::is_wrapper(session, aes)?,
            None => return chosen,
        };
        let chosen = chosen?;
        let fits = match scheme::roles(chosen) {
            Some((Role::Wrapper, _)) => wraps,
            _ => !wraps,
        };
        match (fits, wraps) {
            (true, _) => Ok(chosen),
            (false, true) => Ok(WrapScheme::AesKwp),
            (false, false) => self.abilities.gcm_scheme(),
        }
    }

    /// Opens the canary of `key` with `keys`, and says how it opens. When that fails, a new canary tells an ill token from
    /// another key.
    fn open_canary(&mut self, keys: Keys, key: &BackingKey) -> HsmResult<Keys> {
        let aad = Canary::aad(&key.id);
        let opened = self.open(keys, &aad, &key.canary.0);
        if let Err(not_opened) = &opened
            && scheme_of(key)? == WrapScheme::AesKwp
            && (may_be_forged(not_opened) || is_no_mechanism(not_opened))
        {
            self.reopen()?;
            let other = keys.with_other_kwp(self.abilities.dialect);
            match self.open(other, &aad, &key.canary.0) {
                Ok(plaintext) if same_bytes(&plaintext, Canary::PLAINTEXT) => return Ok(other),
                // Whatever the other number came to, what speaks is the first.
                Ok(_) | Err(_) => self.reopen()?,
            }
        }
        match opened {
            Ok(plaintext) if same_bytes(&plaintext, Canary::PLAINTEXT) => Ok(keys),
            Ok(_) => Err(unfit(&key.id, "its canary holds something else")),
            Err(not_opened) if may_be_forged(&not_opened) => {
                // The operation that failed may still be active in this session.
                self.reopen()?;
                self.new_canary(keys, &key.id, scheme_of(key)?)?;
                self.opened.see_token()?;
                Err(unfit(
                    &key.id,
                    "its canary does not open: this is another key",
                ))
            }
            Err(not_opened) => Err(into_error(not_opened)),
        }
    }

    /// Makes a canary with `keys` and opens it.
    fn new_canary(&self, keys: Keys, id: &BackingKeyId, scheme: WrapScheme) -> HsmResult<Canary> {
        let aad = Canary::aad(id);
        let wrapped = self.seal(scheme, keys, &aad, Canary::PLAINTEXT)?;
        let opened = self.open(keys, &aad, &wrapped);
        let opened = opened.map_err(|not_opened| match not_opened {
            NotOpened::Forged => HsmError::WrapNotReadable,
            other => into_error(other),
        })?;
        if !same_bytes(&opened, Canary::PLAINTEXT) {
            return Err(HsmError::WrapNotReadable);
        }
        Ok(Canary(wrapped))
    }

    /// The handle of `tool`: remembered, or found, judged and proved.
    fn tool(&mut self, tool: &ToolKey) -> HsmResult<ObjectHandle> {
        if let Some(found) = self.tools.get(&tool.id)
            && found.tool == *tool
            && found.at.elapsed() < HANDLE_TRUSTED_FOR
        {
            return Ok(found.handle);
        }
        self.tool_afresh(tool)
    }

    fn tool_afresh(&mut self, tool: &ToolKey) -> HsmResult<ObjectHandle> {
        self.tools.remove(&tool.id);
        let library = Arc::clone(self.opened.library());
        let _looking = library.looking()?;
        let handle = self.find_tool(&tool.id, tool.spec)?;
        let proof = self.proof(handle, &tool.id, tool.spec, tool.proof.as_bytes())?;
        if !same_bytes(proof.as_bytes(), tool.proof.as_bytes()) {
            return Err(unfit(&tool.id, "its proof is of another key"));
        }
        if self.tools.len() >= HANDLES_MAX {
            self.tools.clear();
        }
        self.tools.insert(
            tool.id,
            FoundTool {
                handle,
                tool: tool.clone(),
                at: Instant::now(),
            },
        );
        Ok(handle)
    }

    fn find_tool(&self, id: &BackingKeyId, spec: ToolSpec) -> HsmResult<ObjectHandle> {
        let found = tool::find(self.opened.raw()?, id, spec, self.abilities.past())?;
        let Some(handle) = found else {
            self.opened.see_token()?;
            return Err(HsmError::KeyNotFound(*id));
        };
        Ok(handle)
    }

    fn proof(
        &self,
        handle: ObjectHandle,
        id: &BackingKeyId,
        spec: ToolSpec,
        public: &[u8],
    ) -> HsmResult<ToolProof> {
        tool::prove(self.bench()?, handle, id, spec, public)
    }

    /// Unwraps material into a key of this session and judges it. Answers what for a key of it is.
    fn try_material(&mut self, material: &Material) -> HsmResult<Role> {
        let how = unwrapping(&material.unwrapper)?;
        let scheme = match &material.same_as {
            Some(key) => scheme_of(key)?,
            None => self.scheme()?,
        };
        let Some((role, None)) = scheme::roles(scheme) else {
            return Err(HsmError::Unsupported(format!(
                "by the scheme {} a key is more than its material",
                scheme.name()
            )));
        };
        let tool = self.tool(&material.unwrapper)?;
        match import::length(self.bench()?, tool, how, &material.wrapped) {
            Ok(MATERIAL_BYTES) => {}
            Ok(_) => return Err(HsmError::OtherMaterial),
            Err(not_opened) if may_be_forged(&not_opened) => {
                // The code may mean anything: the tool says whether the token is ill.
                self.reopen()?;
                self.tool_afresh(&material.unwrapper)?;
                return Err(HsmError::Unauthentic);
            }
            Err(not_opened) => return Err(into_error(not_opened)),
        }
        let Some(same) = &material.same_as else {
            return Ok(role);
        };
        let keys = self.passing_keys(material, role)?;
        let (aad, canary) = (Canary::aad(&same.id), &same.canary.0);
        match self.open(keys, &aad, canary) {
            Ok(plaintext) if same_bytes(&plaintext, Canary::PLAINTEXT) => {
                import::destroy(self.opened.raw()?, keys.main)?;
                return Ok(role);
            }
            Err(not_opened) if !may_be_forged(&not_opened) => return Err(into_error(not_opened)),
            Ok(_) | Err(_) => {}
        }
        // The operation that failed may still be active in this session, and the code may mean anything: a canary of its
        // own tells an ill token from another key, and a second try a hiccup. The keys go with their sessions.
        self.reopen()?;
        let keys = self.passing_keys(material, role)?;
        self.new_canary(keys, &same.id, scheme)?;
        let again = self.open(keys, &aad, canary);
        self.reopen()?;
        match again {
            Ok(plaintext) if same_bytes(&plaintext, Canary::PLAINTEXT) => Ok(role),
            Err(not_opened) if !may_be_forged(&not_opened) => Err(into_error(not_opened)),
            Ok(_) | Err(_) => Err(HsmError::OtherMaterial),
        }
    }

    /// The key of some material, in this session only.
    fn passing_keys(&mut self, material: &Material, role: Role) -> HsmResult<Keys> {
        let tool = self.tool(&material.unwrapper)?;
        let how = unwrapping(&material.unwrapper)?;
        let target = import::Target::Passing(role);
        let key = import::unwrap(self.bench()?, tool, how, &material.wrapped, target);
        Ok(Keys {
            main: key.map_err(into_error)?,
            mac: None,
            kwp: None,
        })
    }

    /// Tries what a tool of this kind takes, with sessions of its own.
    fn try_tool(&self, spec: ToolSpec) -> Result<(), String> {
        self.scheme_has(spec)?;
        let subject = Subject {
            raw: self.opened.calls(),
            context: self.opened.context(),
            slot: self.opened.slot(),
        };
        let tried = subject.try_tool(spec, self.abilities.dialect);
        let (library, generation) = (self.opened.library(), self.opened.generation());
        library.tried_tool(generation, self.opened.slot(), spec, tried.is_ok());
        tried
    }

    /// As [`Self::try_tool`], but what has lately gone well is not tried again.
    fn has_tool(&self, spec: ToolSpec) -> Result<(), String> {
        // By the configuration, and so by session: the memory is of the token.
        self.scheme_has(spec)?;
        let (library, generation) = (self.opened.library(), self.opened.generation());
        if library.has_tool(generation, self.opened.slot(), spec) {
            return Ok(());
        }
        self.try_tool(spec)
    }

    /// Whether a tool of this kind is of use with the keys that are made now.
    fn scheme_has(&self, spec: ToolSpec) -> Result<(), String> {
        if let (ToolSpec::Unwrap(..), Ok(scheme)) = (spec, self.scheme())
            && let Some((_, Some(_))) = scheme::roles(scheme)
        {
            return Err(format!(
                "by the scheme {} a key is more than its material",
                scheme.name()
            ));
        }
        Ok(())
    }

    fn bench(&self) -> HsmResult<Bench<'_>> {
        Ok(Bench {
            raw: self.opened.calls(),
            session: self.opened.raw()?,
            dialect: self.abilities.dialect,
        })
    }

    fn seal(
        &self,
        scheme: WrapScheme,
        keys: Keys,
        aad: &[u8],
        plaintext: &[u8],
    ) -> HsmResult<Wrapped> {
        let body = scheme::seal(self.bench()?, scheme, keys, aad, plaintext)?;
        Ok(Wrapped::new(scheme, &body))
    }

    fn open(
        &self,
        keys: Keys,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let Some(scheme) = wrapped.scheme() else {
            return Err(NotOpened::Forged);
        };
        let bench = self.bench().map_err(NotOpened::Other)?;
        scheme::open(bench, scheme, keys, aad, wrapped.body())
    }

    /// Opening has failed with a code that may mean anything. In a fresh session, with the key found afresh: when the
    /// canary does not open, that error is the token's; when it does, the ciphertext gets a second try, since the code
    /// may have been a hiccup, and then the blame.
    fn judge(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<Zeroizing<Vec<u8>>> {
        self.reopen()?;
        let keys = self.keys_afresh(key)?;
        let again = self.open(keys, aad, wrapped);
        again.or_else(|not_opened| {
            if !may_be_forged(&not_opened) {
                return Err(into_error(not_opened));
            }
            // The operation that failed may still be active in this session.
            self.reopen()?;
            Err(HsmError::Unauthentic)
        })
    }
}

impl Session for Pkcs11Session {
    fn generate_key(&mut self, id: &BackingKeyId, label: &str) -> HsmResult<KeyBlob> {
        self.changing(|this| {
            let session = this.opened.raw()?;
            if !key::find_all(session, id)?.is_empty() {
                return Err(HsmError::KeyExists(*id));
            }
            this.opened.see_token()?;
            let scheme = this.scheme()?;
            let Some((main, mac)) = scheme::roles(scheme) else {
                return Err(HsmError::Config(format!(
                    "PKCS#11 has no scheme {scheme:?}"
                )));
            };
            // The MAC key first: see the module `key`.
            for role in mac.into_iter().chain([main]) {
                session
                    .generate_key(&role.mechanism(), &key::template(role, id, label))
                    .map_err(device("C_GenerateKey"))?;
            }
            Ok(KeyBlob::EMPTY)
        })
    }

    fn make_canary(&mut self, id: &BackingKeyId, blob: &KeyBlob) -> HsmResult<Canary> {
        self.looking(|this| {
            let scheme = this.scheme_by_objects(id)?;
            let keys = this.find(id, blob, scheme)?;
            this.new_canary(keys, id, scheme)
        })
    }

    fn contains(&mut self, id: &BackingKeyId) -> HsmResult<bool> {
        self.looking(|this| {
            let there = !key::find_all(this.opened.raw()?, id)?.is_empty();
            if !there {
                this.opened.see_token()?;
            }
            Ok(there)
        })
    }

    fn probe(&mut self, key: &BackingKey) -> HsmResult<()> {
        self.inside(|this| this.keys_afresh(key).map(|_keys| ()))
    }

    fn wrap(&mut self, key: &BackingKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        within("plaintext", plaintext, WRAP_PLAINTEXT_BYTES_MAX)?;
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        self.inside(|this| {
            let keys = this.keys(key)?;
            this.seal(scheme_of(key)?, keys, aad, plaintext)
        })
    }

    fn unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<SecretBytes> {
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        // A key has one scheme, that of its canary.
        if wrapped.scheme() != key.canary.0.scheme() {
            return Err(HsmError::Unauthentic);
        }
        self.inside(|this| {
            let keys = this.keys(key)?;
            let plaintext = match this.open(keys, aad, wrapped) {
                Ok(plaintext) => plaintext,
                Err(NotOpened::Forged) => return Err(HsmError::Unauthentic),
                Err(not_opened) if may_be_forged(&not_opened) => this.judge(key, aad, wrapped)?,
                Err(not_opened) => return Err(into_error(not_opened)),
            };
            // Copied to its exact length, so that boxing it does not move it and leave a copy.
            SecretBytes::new(plaintext.to_vec())
        })
    }

    fn tool_obstacle(&mut self, spec: ToolSpec) -> HsmResult<Option<String>> {
        self.changing(|this| {
            let obstacle = this.try_tool(spec).err();
            if obstacle.is_some() {
                // A token that has gone does nothing, which says nothing of what it can do.
                this.opened.see_token()?;
            }
            Ok(obstacle)
        })
    }

    fn generate_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        label: &str,
    ) -> HsmResult<KeyBlob> {
        self.changing(|this| {
            let tried = this.has_tool(spec);
            let session = this.opened.raw()?;
            if !key::find_all(session, id)?.is_empty() {
                return Err(HsmError::KeyExists(*id));
            }
            this.opened.see_token()?;
            tried.map_err(|reason| HsmError::Unsupported(format!("{}: {reason}", spec.name())))?;
            tool::generate(session, id, spec, label)
        })
    }

    fn prove_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        blob: &KeyBlob,
    ) -> HsmResult<ToolProof> {
        self.looking(|this| {
            let handle = this.find_tool(id, spec)?;
            this.proof(handle, id, spec, blob.as_bytes())
        })
    }

    fn probe_tool(&mut self, tool: &ToolKey) -> HsmResult<()> {
        self.inside(|this| this.tool_afresh(tool).map(|_handle| ()))
    }

    fn mac(&mut self, tool: &ToolKey, message: &[u8]) -> HsmResult<Vec<u8>> {
        within("message to authenticate", message, TOOL_INPUT_BYTES_MAX)?;
        let ToolSpec::Hmac(hash) = tool.spec else {
            return Err(unfit(&tool.id, "it makes no MACs"));
        };
        self.inside(|this| {
            let handle = this.tool(tool)?;
            let session = this.opened.raw()?;
            tool::mac(this.opened.calls(), session, handle, hash, message)
        })
    }

    fn sign(
        &mut self,
        tool: &ToolKey,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> HsmResult<Vec<u8>> {
        let key = algorithm.checked(tool, digest)?;
        self.inside(|this| {
            let handle = this.tool(tool)?;
            let session = this.opened.raw()?;
            sign::sign(this.opened.calls(), session, handle, key, algorithm, digest)
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
        let role = self.inside(|this| this.try_material(material))?;
        let Some((id, label)) = into else {
            return Ok(KeyBlob::imported());
        };
        let tool = self.inside(|this| this.tool(&material.unwrapper))?;
        self.changing(|this| {
            let session = this.opened.raw()?;
            if !key::find_all(session, id)?.is_empty() {
                return Err(HsmError::KeyExists(*id));
            }
            this.opened.see_token()?;
            let target = import::Target::Staying(role, id, label);
            let how = unwrapping(&material.unwrapper)?;
            import::unwrap(this.bench()?, tool, how, &material.wrapped, target)
                .map_err(into_error)?;
            Ok(KeyBlob::imported())
        })
    }

    fn destroy_key(&mut self, id: &BackingKeyId) -> HsmResult<()> {
        self.changing(|this| {
            this.handles.remove(id);
            this.tools.remove(id);
            let session = this.opened.raw()?;
            // All of them: nothing tells which of two was meant, and none is to stay.
            for handle in key::find_for_destruction(session, id)? {
                session
                    .destroy_object(handle)
                    .map_err(device("C_DestroyObject"))?;
            }
            if !key::find_all(session, id)?.is_empty() {
                let source = "the key is still there".into();
                return Err(HsmError::Device {
                    function: "C_DestroyObject",
                    source,
                });
            }
            this.opened.see_token()
        })
    }

    fn list_keys(&mut self) -> HsmResult<Vec<BackingKeyId>> {
        self.looking(|this| {
            let ids = key::list(this.opened.raw()?)?;
            this.opened.see_token()?;
            Ok(ids)
        })
    }

    fn random(&mut self, out: &mut [u8]) -> HsmResult<()> {
        self.looking(|this| {
            this.opened.see_token()?;
            this.opened
                .raw()?
                .generate_random_slice(out)
                .map_err(device("C_GenerateRandom"))
        })
    }
}

/// How a tool unwraps material.
fn unwrapping(tool: &ToolKey) -> HsmResult<(RsaSize, ImportWrapping)> {
    match tool.spec {
        ToolSpec::Unwrap(size, wrapping) => Ok((size, wrapping)),
        ToolSpec::Hmac(_) | ToolSpec::Sign(_) => Err(unfit(&tool.id, "it unwraps nothing")),
    }
}

/// The scheme of a key: that of its canary, whatever the token would choose today.
fn scheme_of(key: &BackingKey) -> HsmResult<WrapScheme> {
    let scheme = key.canary.0.scheme();
    scheme.ok_or_else(|| unfit(&key.id, "its canary is not of a scheme of this token"))
}

fn may_be_forged(not_opened: &NotOpened) -> bool {
    match not_opened {
        NotOpened::Forged => true,
        NotOpened::Failed(failed) => may_blame_ciphertext(*failed),
        NotOpened::Other(_) => false,
    }
}

fn is_no_mechanism(not_opened: &NotOpened) -> bool {
    matches!(not_opened, NotOpened::Failed(failed) if failed.rv == CKR_MECHANISM_INVALID)
}

fn into_error(not_opened: NotOpened) -> HsmError {
    match not_opened {
        NotOpened::Forged => HsmError::Unauthentic,
        NotOpened::Failed(reason) => failed(reason),
        NotOpened::Other(error) => error,
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
