//! The Enhanced System API (TCG TSS 2.0 ESAPI), as far as it is used: every call into the C library, and nothing else.
//!
//! The `Context` of `tss_esapi` 7.7.0 has no `TPM2_PolicyNV` and gives its `ESYS_CONTEXT` to nobody who could add
//! it. Therefore the calls are made here, by the C bindings that the crate exports. All that goes in and comes out is
//! plain: public areas as the TPM writes them, handles as numbers, secrets in zeroed buffers.
#![expect(
    unsafe_code,
    reason = "the library is C; tss_esapi wraps neither TPM2_PolicyNV nor access to its context"
)]

mod emulator;
mod memory;

use std::ffi::CStr;
use std::ptr::{null, null_mut};
use std::time::Duration;

use tss_esapi::tss2_esys as sys;
use zeroize::{Zeroize, Zeroizing};

use self::emulator::Emulator;
use self::memory::{
    Given, Sensitive, digest, fill, listed, malformed, marshal_public, no_data, no_pcrs,
    pcr_selection, sized, unmarshal_public, unmarshal_signature,
};
use super::error::Fault;
use super::pcr::RecoveryKey;
use super::wire::{DIGEST_BYTES, Digest, Name, SHA256_ID, sha256};

/// The layer of codes that the TPM itself answers.
pub(super) const LAYER_TPM: u32 = 0;

/// Attributes of a session in a command (`TPMA_SESSION`, Part 2 §8.4).
pub(super) const CONTINUE: u8 = 0x01;
/// The first parameter of the command is encrypted.
pub(super) const DECRYPT: u8 = 0x20;
/// The first parameter of the response is encrypted.
pub(super) const ENCRYPT: u8 = 0x40;

/// The owner hierarchy.
pub(super) const OWNER: Tr = Tr(sys::ESYS_TR_RH_OWNER);
/// The password session: an authorisation value in the clear, for those that are empty.
pub(super) const PASSWORD: Tr = Tr(sys::ESYS_TR_PASSWORD);
/// Kinds of capability (`TPM_CAP`, Part 2 §6.12).
const CAP_HANDLES: u32 = 1;
const CAP_PROPERTIES: u32 = 6;

const NONE: u32 = sys::ESYS_TR_NONE;

/// What the library calls an object, session or index by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tr(u32);

/// The two kinds of session that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Hmac,
    Policy,
}

/// An NV index as it is defined (`TPMS_NV_PUBLIC`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NvPublic {
    pub(super) index: u32,
    pub(super) attributes: u32,
    pub(super) policy: Digest,
    pub(super) bytes: u16,
}

/// An `ESYS_CONTEXT` and its TCTI. Flushes what it has loaded when it is dropped, unless the way to the TPM is gone.
#[derive(Debug)]
pub(super) struct Esys {
    /// The way to the TPM by the library, or null.
    tcti: *mut sys::TSS2_TCTI_CONTEXT,
    /// The way to an emulator, a box, or null.
    emulator: *mut Emulator,
    context: *mut sys::ESYS_CONTEXT,
    /// Objects and sessions in the TPM that are ours.
    loaded: Vec<Tr>,
    broken: bool,
}

// SAFETY: neither context is bound to the thread that made it, and `Esys` is not `Sync`: one thread at a time.
unsafe impl Send for Esys {}

type Result<T> = std::result::Result<T, Fault>;

/// Calls a function of the library with our context first.
macro_rules! esys {
    ($self:ident, $function:ident $(, $argument:expr)* $(,)?) => {{
        // SAFETY: the context is live; every pointer among the arguments is to a live value of the type that the
        // binding asks for, or null where the function takes null for "none".
        let code = unsafe { sys::$function($self.context $(, $argument)*) };
        $self.check(stringify!($function), code)
    }};
}

impl Esys {
    /// Opens the way to the TPM. Sends nothing that changes it. swtpm has `answer_wait` for each answer.
    pub(super) fn open(tcti: &CStr, answer_wait: Duration) -> Result<Self> {
        let mut this = Self {
            tcti: null_mut(),
            emulator: null_mut(),
            context: null_mut(),
            loaded: Vec::new(),
            broken: false,
        };
        let way = if let Some(emulator) = Emulator::at(tcti.to_bytes(), answer_wait) {
            this.emulator = emulator;
            emulator.cast()
        } else {
            // SAFETY: a C string, and a place for the context.
            let code = unsafe { sys::Tss2_TctiLdr_Initialize(tcti.as_ptr(), &raw mut this.tcti) };
            // Whatever the layer: there is no way to the TPM.
            let code = if code == 0 {
                0
            } else {
                0x000A_0000 | code & 0xFFFF
            };
            this.check("Tss2_TctiLdr_Initialize", code)?;
            this.tcti
        };
        // SAFETY: a place for the context, a TCTI that lives until the context is finalised, and no wish for an ABI
        // version.
        let code = unsafe { sys::Esys_Initialize(&raw mut this.context, way, null_mut()) };
        this.check("Esys_Initialize", code)?;
        Ok(this)
    }

    fn check(&mut self, function: &'static str, code: u32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let fault = Fault { function, code };
        self.broken |= fault.is_transport();
        Err(fault)
    }

    /// `TPM2_CreatePrimary` in the owner hierarchy. Gives the object and its public area.
    pub(super) fn create_primary(&mut self, auth: Tr, public: &[u8]) -> Result<(Tr, Vec<u8>)> {
        let public = unmarshal_public(public)?;
        let (sensitive, outside, pcrs) = (Sensitive::new(&[])?, no_data(), no_pcrs());
        let (mut object, mut made) = (NONE, null_mut());
        let (mut data, mut hash, mut ticket) = (null_mut(), null_mut(), null_mut());
        esys!(
            self,
            Esys_CreatePrimary,
            OWNER.0,
            auth.0,
            NONE,
            NONE,
            &raw const sensitive.0,
            &raw const public,
            &raw const outside,
            &raw const pcrs,
            &raw mut object,
            &raw mut made,
            &raw mut data,
            &raw mut hash,
            &raw mut ticket,
        )?;
        self.loaded.push(Tr(object));
        let function = "Esys_CreatePrimary";
        let (_data, _hash, _ticket) = (
            Given::new(data, function),
            Given::new(hash, function),
            Given::new(ticket, function),
        );
        let made = marshal_public(Given::new(made, function)?.get())?;
        Ok((Tr(object), made))
    }

    /// `TPM2_Create` under `parent`. Gives the public and the private area.
    pub(super) fn create(
        &mut self,
        parent: Tr,
        auth: Tr,
        sensitive: &[u8],
        public: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        let public = unmarshal_public(public)?;
        let (sensitive, outside, pcrs) = (Sensitive::new(sensitive)?, no_data(), no_pcrs());
        let (mut private, mut made) = (null_mut(), null_mut());
        let (mut data, mut hash, mut ticket) = (null_mut(), null_mut(), null_mut());
        esys!(
            self,
            Esys_Create,
            parent.0,
            auth.0,
            NONE,
            NONE,
            &raw const sensitive.0,
            &raw const public,
            &raw const outside,
            &raw const pcrs,
            &raw mut private,
            &raw mut made,
            &raw mut data,
            &raw mut hash,
            &raw mut ticket,
        )?;
        let function = "Esys_Create";
        let (_data, _hash, _ticket) = (
            Given::new(data, function),
            Given::new(hash, function),
            Given::new(ticket, function),
        );
        let private: Given<sys::TPM2B_PRIVATE> = Given::new(private, function)?;
        let made = marshal_public(Given::new(made, function)?.get())?;
        let private = sized(function, &private.get().buffer, private.get().size)?;
        Ok((made, private.to_vec()))
    }

    /// `TPM2_Load` under `parent`.
    pub(super) fn load(
        &mut self,
        parent: Tr,
        auth: Tr,
        public: &[u8],
        private: &[u8],
    ) -> Result<Tr> {
        let public = unmarshal_public(public)?;
        let mut area = sys::TPM2B_PRIVATE::default();
        area.size = fill("Esys_Load", &mut area.buffer, private)?;
        let mut object = NONE;
        esys!(
            self,
            Esys_Load,
            parent.0,
            auth.0,
            NONE,
            NONE,
            &raw const area,
            &raw const public,
            &raw mut object,
        )?;
        self.loaded.push(Tr(object));
        Ok(Tr(object))
    }

    /// `TPM2_Unseal`. The library's copy is zeroed.
    pub(super) fn unseal(&mut self, object: Tr, auth: Tr) -> Result<Zeroizing<Vec<u8>>> {
        let mut data: *mut sys::TPM2B_SENSITIVE_DATA = null_mut();
        esys!(
            self,
            Esys_Unseal,
            object.0,
            auth.0,
            NONE,
            NONE,
            &raw mut data
        )?;
        let mut data = Given::new(data, "Esys_Unseal")?;
        // SAFETY: allocated and filled by the library, and ours alone.
        let data = unsafe { data.0.as_mut() };
        let copy = sized("Esys_Unseal", &data.buffer, data.size)
            .map(|bytes| Zeroizing::new(bytes.to_vec()));
        data.buffer.zeroize();
        copy
    }

    /// `TPM2_ReadPublic`: whether the TPM still has the object.
    pub(super) fn read_public(&mut self, object: Tr) -> Result<()> {
        let function = "Esys_ReadPublic";
        let (mut public, mut name, mut qualified) = (null_mut(), null_mut(), null_mut());
        esys!(
            self,
            Esys_ReadPublic,
            object.0,
            NONE,
            NONE,
            NONE,
            &raw mut public,
            &raw mut name,
            &raw mut qualified,
        )?;
        let _public: Given<sys::TPM2B_PUBLIC> = Given::new(public, function)?;
        let _names = (Given::new(name, function), Given::new(qualified, function));
        Ok(())
    }

    /// `TPM2_FlushContext` of an object or session of ours. One that the TPM no longer has is gone all the same.
    pub(super) fn flush(&mut self, object: Tr) -> Result<()> {
        self.loaded.retain(|loaded| *loaded != object);
        esys!(self, Esys_FlushContext, object.0)
    }

    /// `TPM2_StartAuthSession`, salted to `salt` if there is one, with AES of `bits` in CFB for its parameters.
    pub(super) fn start_session(&mut self, kind: Kind, salt: Option<Tr>, bits: u16) -> Result<Tr> {
        let symmetric = sys::TPMT_SYM_DEF {
            algorithm: super::key::AES,
            keyBits: sys::TPMU_SYM_KEY_BITS { aes: bits },
            mode: sys::TPMU_SYM_MODE {
                aes: super::key::CFB,
            },
        };
        let kind = match kind {
            Kind::Hmac => 0,
            Kind::Policy => 1,
        };
        let mut session = NONE;
        esys!(
            self,
            Esys_StartAuthSession,
            salt.map_or(NONE, |key| key.0),
            NONE,
            NONE,
            NONE,
            NONE,
            null(),
            kind,
            &raw const symmetric,
            SHA256_ID,
            &raw mut session,
        )?;
        self.loaded.push(Tr(session));
        self.attributes(Tr(session), CONTINUE)?;
        Ok(Tr(session))
    }

    /// What the session does in the commands that follow. Local to the library.
    pub(super) fn attributes(&mut self, session: Tr, attributes: u8) -> Result<()> {
        esys!(
            self,
            Esys_TRSess_SetAttributes,
            session.0,
            attributes,
            u8::MAX
        )
    }

    /// The authorisation value of a handle. Local to the library; an empty one overwrites the one before.
    pub(super) fn set_auth(&mut self, handle: Tr, value: &[u8]) -> Result<()> {
        let mut auth = sys::TPM2B_AUTH::default();
        auth.size = fill("Esys_TR_SetAuth", &mut auth.buffer, value)?;
        let set = esys!(self, Esys_TR_SetAuth, handle.0, &raw const auth);
        auth.buffer.zeroize();
        set
    }

    /// `TPM2_PolicyRestart`.
    pub(super) fn policy_restart(&mut self, session: Tr) -> Result<()> {
        esys!(self, Esys_PolicyRestart, session.0, NONE, NONE, NONE)
    }

    /// `TPM2_PolicyNV`: the index, read by its own empty authorisation value, equals `operand`.
    pub(super) fn policy_nv(&mut self, index: Tr, session: Tr, operand: &[u8]) -> Result<()> {
        let mut value = sys::TPM2B_OPERAND::default();
        value.size = fill("Esys_PolicyNV", &mut value.buffer, operand)?;
        esys!(
            self,
            Esys_PolicyNV,
            index.0,
            index.0,
            session.0,
            PASSWORD.0,
            NONE,
            NONE,
            &raw const value,
            0,
            super::policy::EO_EQ,
        )
    }

    /// `TPM2_PolicyPCR`: the PCRs of the selection have values of this digest.
    pub(super) fn policy_pcr(
        &mut self,
        session: Tr,
        selection: u32,
        values: &Digest,
    ) -> Result<()> {
        let values = digest("Esys_PolicyPCR", values)?;
        let selection = pcr_selection(selection);
        esys!(
            self,
            Esys_PolicyPCR,
            session.0,
            NONE,
            NONE,
            NONE,
            &raw const values,
            &raw const selection,
        )
    }

    /// `TPM2_PolicyOR`: the session's digest is one of these.
    pub(super) fn policy_or(&mut self, session: Tr, branches: &[Digest; 2]) -> Result<()> {
        let mut list = sys::TPML_DIGEST::default();
        for (place, branch) in list.digests.iter_mut().zip(branches) {
            *place = digest("Esys_PolicyOR", branch)?;
            list.count += 1;
        }
        esys!(
            self,
            Esys_PolicyOR,
            session.0,
            NONE,
            NONE,
            NONE,
            &raw const list
        )
    }

    /// `TPM2_LoadExternal`, `TPM2_VerifySignature` and `TPM2_PolicyAuthorize`: the session's digest is `approved`, and
    /// `key` has signed that for `reference`.
    pub(super) fn policy_authorize(
        &mut self,
        session: Tr,
        approved: &Digest,
        reference: &[u8],
        key: &RecoveryKey,
        signature: &[u8],
    ) -> Result<()> {
        let signed = digest("Esys_VerifySignature", &sha256(&[approved, reference]))?;
        let ticket = self.verify(key, &signed, signature)?;
        let approved = digest("Esys_PolicyAuthorize", approved)?;
        let mut qualifier = sys::TPM2B_NONCE::default();
        qualifier.size = fill("Esys_PolicyAuthorize", &mut qualifier.buffer, reference)?;
        let mut name = sys::TPM2B_NAME::default();
        name.size = fill("Esys_PolicyAuthorize", &mut name.name, key.name.as_bytes())?;
        esys!(
            self,
            Esys_PolicyAuthorize,
            session.0,
            NONE,
            NONE,
            NONE,
            &raw const approved,
            &raw const qualifier,
            &raw const name,
            ticket.0.as_ptr(),
        )
    }

    fn verify(
        &mut self,
        key: &RecoveryKey,
        signed: &sys::TPM2B_DIGEST,
        signature: &[u8],
    ) -> Result<Given<sys::TPMT_TK_VERIFIED>> {
        let function = "Esys_VerifySignature";
        let public = unmarshal_public(&key.public)?;
        let signature = unmarshal_signature(signature)?;
        let mut object = NONE;
        esys!(
            self,
            Esys_LoadExternal,
            NONE,
            NONE,
            NONE,
            null(),
            &raw const public,
            OWNER.0,
            &raw mut object,
        )?;
        self.loaded.push(Tr(object));
        let mut ticket = null_mut();
        let verified = esys!(
            self,
            Esys_VerifySignature,
            object,
            NONE,
            NONE,
            NONE,
            &raw const *signed,
            &raw const signature,
            &raw mut ticket,
        );
        self.flush(Tr(object))?;
        verified?;
        Given::new(ticket, function)
    }

    /// `TPM2_PCR_Read` of one PCR in the SHA-256 bank. `None`: it is not in that bank.
    pub(super) fn pcr(&mut self, pcr: u8) -> Result<Option<Digest>> {
        let function = "Esys_PCR_Read";
        let wanted = pcr_selection(1 << pcr);
        let (mut counter, mut selection, mut values) = (0, null_mut(), null_mut());
        esys!(
            self,
            Esys_PCR_Read,
            NONE,
            NONE,
            NONE,
            &raw const wanted,
            &raw mut counter,
            &raw mut selection,
            &raw mut values,
        )?;
        let _selection = Given::new(selection, function);
        let values: Given<sys::TPML_DIGEST> = Given::new(values, function)?;
        let value = listed(function, &values.get().digests, values.get().count)?.first();
        let value = value.map(|value| sized(function, &value.buffer, value.size));
        Ok(value.transpose()?.and_then(|value| value.try_into().ok()))
    }

    /// Makes the library know an NV index, or an object or session that somebody else has loaded.
    pub(super) fn adopt(&mut self, handle: u32) -> Result<Tr> {
        let mut known = NONE;
        esys!(
            self,
            Esys_TR_FromTPMPublic,
            handle,
            NONE,
            NONE,
            NONE,
            &raw mut known
        )?;
        Ok(Tr(known))
    }

    /// The TPM's handles of the objects and sessions that are ours.
    pub(super) fn loaded(&mut self) -> Result<Vec<u32>> {
        let mut handles = Vec::new();
        for object in self.loaded.clone() {
            let mut handle = 0;
            esys!(self, Esys_TR_GetTpmHandle, object.0, &raw mut handle)?;
            handles.push(handle);
        }
        Ok(handles)
    }

    /// Makes the library forget an NV index.
    pub(super) fn forget(&mut self, index: Tr) -> Result<()> {
        let mut index = index.0;
        esys!(self, Esys_TR_Close, &raw mut index)
    }

    /// The name of what the library knows, which it has verified against the public area.
    pub(super) fn name(&mut self, object: Tr) -> Result<Option<Name>> {
        let mut name: *mut sys::TPM2B_NAME = null_mut();
        esys!(self, Esys_TR_GetName, object.0, &raw mut name)?;
        let name = Given::new(name, "Esys_TR_GetName")?;
        let bytes = sized("Esys_TR_GetName", &name.get().name, name.get().size)?;
        Ok(bytes.try_into().ok().map(Name::from_bytes))
    }

    /// `TPM2_NV_DefineSpace` by the owner, with an empty authorisation value.
    pub(super) fn nv_define(&mut self, auth: Tr, public: &NvPublic) -> Result<Tr> {
        let empty = sys::TPM2B_AUTH::default();
        let mut policy = sys::TPM2B_DIGEST::default();
        policy.size = fill("Esys_NV_DefineSpace", &mut policy.buffer, &public.policy)?;
        let public = sys::TPM2B_NV_PUBLIC {
            size: 0,
            nvPublic: sys::TPMS_NV_PUBLIC {
                nvIndex: public.index,
                nameAlg: SHA256_ID,
                attributes: public.attributes,
                authPolicy: policy,
                dataSize: public.bytes,
            },
        };
        let mut index = NONE;
        esys!(
            self,
            Esys_NV_DefineSpace,
            OWNER.0,
            auth.0,
            NONE,
            NONE,
            &raw const empty,
            &raw const public,
            &raw mut index,
        )?;
        Ok(Tr(index))
    }

    /// `TPM2_NV_UndefineSpace` by the owner. The library forgets the index, too.
    pub(super) fn nv_undefine(&mut self, auth: Tr, index: Tr) -> Result<()> {
        esys!(
            self,
            Esys_NV_UndefineSpace,
            OWNER.0,
            index.0,
            auth.0,
            NONE,
            NONE
        )
    }

    /// `TPM2_NV_Increment` by the owner.
    pub(super) fn nv_increment(&mut self, auth: Tr, index: Tr) -> Result<()> {
        esys!(
            self,
            Esys_NV_Increment,
            OWNER.0,
            index.0,
            auth.0,
            NONE,
            NONE
        )
    }

    /// `TPM2_NV_Read` of a counter, by its own empty authorisation value.
    pub(super) fn nv_read_counter(&mut self, auth: Tr, index: Tr) -> Result<Option<u64>> {
        let mut data: *mut sys::TPM2B_MAX_NV_BUFFER = null_mut();
        esys!(
            self,
            Esys_NV_Read,
            index.0,
            index.0,
            auth.0,
            NONE,
            NONE,
            8,
            0,
            &raw mut data
        )?;
        let data = Given::new(data, "Esys_NV_Read")?;
        let bytes = sized("Esys_NV_Read", &data.get().buffer, data.get().size)?;
        Ok(bytes.try_into().ok().map(u64::from_be_bytes))
    }

    /// `TPM2_NV_ReadPublic`. `None`: defined otherwise than any index of ours.
    pub(super) fn nv_public(&mut self, index: Tr) -> Result<Option<NvPublic>> {
        let (mut public, mut name): (*mut sys::TPM2B_NV_PUBLIC, _) = (null_mut(), null_mut());
        esys!(
            self,
            Esys_NV_ReadPublic,
            index.0,
            NONE,
            NONE,
            NONE,
            &raw mut public,
            &raw mut name
        )?;
        let function = "Esys_NV_ReadPublic";
        let _name = Given::new(name, function);
        let public = Given::new(public, function)?;
        let public = &public.get().nvPublic;
        let policy = sized(function, &public.authPolicy.buffer, public.authPolicy.size)?;
        let policy = policy.try_into().ok();
        Ok(policy
            .filter(|_| public.nameAlg == SHA256_ID)
            .map(|policy| NvPublic {
                index: public.nvIndex,
                attributes: public.attributes,
                policy,
                bytes: public.dataSize,
            }))
    }

    /// `TPM2_GetCapability` of handles: those in use from `first` on, in order, and whether there are more.
    pub(super) fn handles(&mut self, first: u32, count: u32) -> Result<(Vec<u32>, bool)> {
        let function = "Esys_GetCapability";
        let (data, more) = self.capability(CAP_HANDLES, first, count)?;
        // SAFETY: `capability` has checked that the union is of this kind, and every member is made of integers.
        let list = unsafe { &data.get().data.handles };
        let handles = listed(function, &list.handle, list.count)?;
        Ok((handles.to_vec(), more))
    }

    /// `TPM2_GetCapability` of properties: tag and value of those from `first` on.
    pub(super) fn properties(&mut self, first: u32, count: u32) -> Result<Vec<(u32, u32)>> {
        let function = "Esys_GetCapability";
        let (data, _more) = self.capability(CAP_PROPERTIES, first, count)?;
        // SAFETY: as in `handles`.
        let list = unsafe { &data.get().data.tpmProperties };
        let properties = listed(function, &list.tpmProperty, list.count)?;
        Ok(properties
            .iter()
            .map(|property| (property.property, property.value))
            .collect())
    }

    fn capability(
        &mut self,
        capability: u32,
        first: u32,
        count: u32,
    ) -> Result<(Given<sys::TPMS_CAPABILITY_DATA>, bool)> {
        let function = "Esys_GetCapability";
        let (mut more, mut data) = (0, null_mut());
        esys!(
            self,
            Esys_GetCapability,
            NONE,
            NONE,
            NONE,
            capability,
            first,
            count,
            &raw mut more,
            &raw mut data,
        )?;
        let data: Given<sys::TPMS_CAPABILITY_DATA> = Given::new(data, function)?;
        if data.get().capability != capability {
            return Err(malformed(function));
        }
        Ok((data, more != 0))
    }

    /// `TPM2_GetRandom`: at most as many bytes as a digest has, encrypted on the way if `session` says so.
    pub(super) fn random(&mut self, session: Tr, bytes: usize) -> Result<Zeroizing<Vec<u8>>> {
        let function = "Esys_GetRandom";
        let mut data: *mut sys::TPM2B_DIGEST = null_mut();
        let wanted = u16::try_from(bytes.min(DIGEST_BYTES)).map_err(|_wide| malformed(function))?;
        esys!(
            self,
            Esys_GetRandom,
            session.0,
            NONE,
            NONE,
            wanted,
            &raw mut data
        )?;
        let mut data = Given::new(data, function)?;
        // SAFETY: allocated and filled by the library, and ours alone.
        let data = unsafe { data.0.as_mut() };
        let copy =
            sized(function, &data.buffer, data.size).map(|bytes| Zeroizing::new(bytes.to_vec()));
        data.buffer.zeroize();
        copy
    }

    /// `TPM2_TestParms`: whether the TPM takes the parameters of this public area.
    pub(super) fn takes(&mut self, public: &[u8]) -> Result<bool> {
        let public = unmarshal_public(public)?;
        let mut parameters = sys::TPMT_PUBLIC_PARMS::default();
        parameters.type_ = public.publicArea.type_;
        parameters.parameters = public.publicArea.parameters;
        match esys!(
            self,
            Esys_TestParms,
            NONE,
            NONE,
            NONE,
            &raw const parameters
        ) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_about_data() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

impl Drop for Esys {
    fn drop(&mut self) {
        while let Some(object) = self.loaded.pop() {
            if self.broken {
                break;
            }
            if let Err(fault) = self.flush(object) {
                tracing::debug!(event = "tpm.flush", error = %fault, "flushing what a context had loaded");
            }
        }
        // SAFETY: all were initialised by `open` or are null, which the functions take; nobody uses them after. The
        // emulator's is a box, which the context has used until then.
        unsafe {
            sys::Esys_Finalize(&raw mut self.context);
            if !self.emulator.is_null() {
                drop(Box::from_raw(self.emulator));
            }
            sys::Tss2_TctiLdr_Finalize(&raw mut self.tcti);
        }
    }
}
