//! What of the module is called directly: one call each way, with buffers of fixed size.
//!
//! `cryptoki` asks the module for the length first: a second round trip to a network HSM, and modules are known to
//! answer it wrongly (NSS leaves the tag out). It has no `CKM_AES_KEY_WRAP_KWP`, cannot describe a token whose clock
//! it cannot read (`openCryptoki`), leaves copies of secrets in templates, and forgets the number of an unknown
//! `CK_RV`. What it does well (sessions, login, templates, finding) stays with it.
//!
//! This is the only file of the backend with unsafe code.

use std::ffi::{CString, c_void};
use std::fmt;
use std::path::Path;
use std::ptr;

use cryptoki::error::{Rv, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys as sys;
use zeroize::Zeroizing;

use crate::BoxError;

pub(super) use cryptoki_sys::{
    CK_FLAGS, CK_MECHANISM_TYPE, CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_ECB, CKM_AES_GCM,
    CKM_AES_KEY_GEN, CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD,
    CKM_GENERIC_SECRET_KEY_GEN, CKM_SHA256_HMAC, CKR_MECHANISM_INVALID,
};

/// Length of the tag of every AES-GCM here.
pub(super) const TAG_BYTES: usize = 16;

/// The most bytes a call gives: the longest of a wrapped plaintext, its digest, an IV and a tag.
const OUT_BYTES_MAX: usize = 192;

/// A call that the module answered with something else than `CKR_OK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{function}: {}", Code(*rv))]
pub(super) struct Failed {
    /// The function of the module.
    pub(super) function: &'static str,
    /// What it said.
    pub(super) rv: sys::CK_RV,
}

impl Failed {
    /// The code as `cryptoki` knows it; [`RvError::GeneralError`] for every code it does not.
    pub(super) fn code(self) -> RvError {
        match Rv::from(self.rv) {
            Rv::Error(code) => code,
            Rv::Ok => RvError::GeneralError,
        }
    }
}

/// The name of a `CK_RV`, or its number.
struct Code(sys::CK_RV);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rv::Error(code) = Rv::from(self.0) else {
            return f.write_str("CKR_OK, and an answer that cannot be");
        };
        if code == RvError::GeneralError && self.0 != sys::CKR_GENERAL_ERROR {
            return write!(f, "CK_RV {:#x}", self.0);
        }
        f.write_str("CKR")?;
        for letter in format!("{code:?}").chars() {
            if letter.is_ascii_uppercase() {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

/// What `C_GetTokenInfo` says, as far as it is of use.
#[derive(Debug)]
pub(super) struct TokenFacts {
    pub(super) label: String,
    pub(super) manufacturer: String,
    pub(super) model: String,
    pub(super) serial: String,
    pub(super) flags: CK_FLAGS,
    /// Open sessions and their limit; `None` where the token does not say, or sets no limit.
    pub(super) sessions: [Option<u64>; 2],
    /// The same of read-write sessions.
    pub(super) rw_sessions: [Option<u64>; 2],
    pub(super) pin_bytes: [u64; 2],
    pub(super) firmware: (u8, u8),
}

impl TokenFacts {
    pub(super) fn initialized(&self) -> bool {
        self.flags & sys::CKF_TOKEN_INITIALIZED != 0
    }

    /// The names of the flags that are set, without `CKF_`.
    pub(super) fn flag_names(&self) -> Vec<&'static str> {
        let names = [
            (sys::CKF_RNG, "RNG"),
            (sys::CKF_WRITE_PROTECTED, "WRITE_PROTECTED"),
            (sys::CKF_LOGIN_REQUIRED, "LOGIN_REQUIRED"),
            (sys::CKF_USER_PIN_INITIALIZED, "USER_PIN_INITIALIZED"),
            (sys::CKF_TOKEN_INITIALIZED, "TOKEN_INITIALIZED"),
            (
                sys::CKF_PROTECTED_AUTHENTICATION_PATH,
                "PROTECTED_AUTHENTICATION_PATH",
            ),
            (sys::CKF_USER_PIN_COUNT_LOW, "USER_PIN_COUNT_LOW"),
            (sys::CKF_USER_PIN_FINAL_TRY, "USER_PIN_FINAL_TRY"),
            (sys::CKF_USER_PIN_LOCKED, "USER_PIN_LOCKED"),
            (sys::CKF_USER_PIN_TO_BE_CHANGED, "USER_PIN_TO_BE_CHANGED"),
            (sys::CKF_SO_PIN_LOCKED, "SO_PIN_LOCKED"),
            (sys::CKF_ERROR_STATE, "ERROR_STATE"),
        ];
        let set = names.into_iter().filter(|(flag, _)| self.flags & flag != 0);
        set.map(|(_, name)| name).collect()
    }
}

/// A mechanism and its parameter.
pub(super) enum Mechanism<'a> {
    /// Without a parameter.
    Bare(CK_MECHANISM_TYPE),
    /// Its parameter is its IV.
    WithIv(CK_MECHANISM_TYPE, &'a [u8]),
    /// `CKM_AES_GCM`. The IV holds afterwards what the module wrote there; none: the module is to make one.
    Gcm { iv: &'a mut [u8], aad: &'a [u8] },
}

/// Who makes the IV in the message interface. `CKG_GENERATE` is not among them: a module may take that for a counter,
/// and start it anew with each operation (kryoptic does), which would repeat the IV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generator {
    /// `CKG_GENERATE_RANDOM`: the token.
    Token,
    /// `CKG_NO_GENERATE`: the caller.
    Caller,
}

/// An object of one session that lives for one operation. The session's caller destroys it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passing(sys::CK_OBJECT_HANDLE);

/// The functions of a module, and the library that holds them.
pub(super) struct Raw {
    functions: sys::CK_FUNCTION_LIST,
    /// Those of PKCS#11 v3.0, where there are such.
    functions_3: Option<sys::CK_FUNCTION_LIST_3_0>,
    /// Keeps the library mapped.
    _library: sys::Pkcs11,
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Raw(..)")
    }
}

type Init = sys::CK_C_EncryptInit;
type Run = sys::CK_C_Encrypt;
type Names = (&'static str, &'static str);

impl Raw {
    /// Takes the functions out of the library's function lists (PKCS#11 v3.1 §5.4.4, §5.4.6). The library is the one
    /// that `cryptoki` has loaded: the dynamic linker maps a file once.
    ///
    /// # Errors
    ///
    /// When the library does not load or has no list.
    pub(super) fn load(path: &Path) -> Result<Self, BoxError> {
        #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
        // SAFETY: the operator names the module, by absolute path, as code to trust; it is loaded already.
        let library = unsafe { sys::Pkcs11::new(path) }?;
        if library.C_GetFunctionList.is_err() {
            return Err("it has no C_GetFunctionList".into());
        }
        let mut list: *mut sys::CK_FUNCTION_LIST = ptr::null_mut();
        #[expect(unsafe_code, reason = "cryptoki does not show its function list")]
        // SAFETY: the symbol is there; `list` is valid for the one pointer it writes.
        let rv = unsafe { library.C_GetFunctionList(&raw mut list) };
        answered("C_GetFunctionList", rv)?;
        if list.is_null() {
            return Err("it has no function list".into());
        }
        #[expect(unsafe_code, reason = "the list is the module's")]
        // SAFETY: not null, and by §5.4.4 it points to a static of the module, mapped for as long as `library` lives.
        // Some platforms pack the structure, hence unaligned.
        let functions = unsafe { list.read_unaligned() };
        let functions_3 = Self::interface_3(&library);
        Ok(Self {
            functions,
            functions_3,
            _library: library,
        })
    }

    /// The function list of interface "PKCS 11" version 3.0, if the library has it. Later versions begin with it.
    fn interface_3(library: &sys::Pkcs11) -> Option<sys::CK_FUNCTION_LIST_3_0> {
        if library.C_GetInterface.is_err() {
            return None;
        }
        let mut name = *b"PKCS 11\0";
        let mut version = sys::CK_VERSION { major: 3, minor: 0 };
        let mut interface: *mut sys::CK_INTERFACE = ptr::null_mut();
        #[expect(unsafe_code, reason = "cryptoki leaves no choice of interface")]
        // SAFETY: the symbol is there; the name ends with NUL; version and interface are valid for the call (§5.4.6).
        let rv = unsafe {
            library.C_GetInterface(name.as_mut_ptr(), &raw mut version, &raw mut interface, 0)
        };
        if rv != sys::CKR_OK || interface.is_null() {
            return None;
        }
        #[expect(unsafe_code, reason = "the interface is the module's")]
        // SAFETY: not null, and a static of the module (§5.4.6). Its list is read only when the version that stands
        // first in it, as in every list, is one whose list begins as that of v3.0 does.
        unsafe {
            let list = interface.read_unaligned().pFunctionList;
            if list.is_null() || list.cast::<sys::CK_VERSION>().read_unaligned().major != 3 {
                return None;
            }
            Some(list.cast::<sys::CK_FUNCTION_LIST_3_0>().read_unaligned())
        }
    }

    /// Whether the module has functions of PKCS#11 v3.0.
    pub(super) fn speaks_3(&self) -> bool {
        self.functions_3.is_some()
    }

    /// `C_Initialize` with `CKF_OS_LOCKING_OK`, and `init_args` as what the standard reserves (§5.4.1).
    pub(super) fn initialize(&self, init_args: Option<&CString>) -> Result<(), Failed> {
        /// PKCS#11's structure, and a word more. NSS declares its own, longer by a reserved pointer that must be null;
        /// other modules do not look behind the end of theirs.
        #[repr(C)]
        struct Arguments {
            standard: sys::CK_C_INITIALIZE_ARGS,
            reserved_of_nss: *mut c_void,
        }
        let initialize = there("C_Initialize", self.functions.C_Initialize)?;
        let mut arguments = Arguments {
            standard: sys::CK_C_INITIALIZE_ARGS {
                flags: sys::CKF_OS_LOCKING_OK,
                pReserved: init_args
                    .map_or(ptr::null_mut(), |args| args.as_ptr().cast_mut().cast()),
                ..Default::default()
            },
            reserved_of_nss: ptr::null_mut(),
        };
        debug_assert!(arguments.reserved_of_nss.is_null());
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: the structure and the string live beyond the call, and the module keeps neither (§5.4.1).
        let rv = unsafe { initialize((&raw mut arguments).cast()) };
        answered("C_Initialize", rv)
    }

    /// `C_GetTokenInfo`.
    pub(super) fn token_info(&self, slot: Slot) -> Result<TokenFacts, Failed> {
        let function = there("C_GetTokenInfo", self.functions.C_GetTokenInfo)?;
        let mut info = sys::CK_TOKEN_INFO::default();
        #[expect(unsafe_code, reason = "cryptoki does not read every token's clock")]
        // SAFETY: `info` is valid for the structure that the module writes (§5.5.4).
        let rv = unsafe { function(slot.id(), &raw mut info) };
        answered("C_GetTokenInfo", rv)?;
        // 0 is "as many as you like", the highest number "not told".
        let count =
            |count: sys::CK_ULONG| (count != sys::CK_UNAVAILABLE_INFORMATION).then_some(count);
        let limit = |limit: sys::CK_ULONG| count(limit).filter(|limit| *limit != 0);
        Ok(TokenFacts {
            label: padded(&info.label),
            manufacturer: padded(&info.manufacturerID),
            model: padded(&info.model),
            serial: padded(&info.serialNumber),
            flags: info.flags,
            sessions: [count(info.ulSessionCount), limit(info.ulMaxSessionCount)],
            rw_sessions: [
                count(info.ulRwSessionCount),
                limit(info.ulMaxRwSessionCount),
            ],
            pin_bytes: [info.ulMinPinLen, info.ulMaxPinLen],
            firmware: (info.firmwareVersion.major, info.firmwareVersion.minor),
        })
    }

    /// The flags of a mechanism; [`CKR_MECHANISM_INVALID`] when the token does not list it.
    pub(super) fn mechanism_flags(
        &self,
        slot: Slot,
        mechanism: CK_MECHANISM_TYPE,
    ) -> Result<CK_FLAGS, Failed> {
        let function = there("C_GetMechanismInfo", self.functions.C_GetMechanismInfo)?;
        let mut info = sys::CK_MECHANISM_INFO::default();
        #[expect(unsafe_code, reason = "cryptoki does not know every mechanism")]
        // SAFETY: `info` is valid for the structure that the module writes (§5.5.6).
        let rv = unsafe { function(slot.id(), mechanism, &raw mut info) };
        answered("C_GetMechanismInfo", rv)?;
        Ok(info.flags)
    }

    /// `C_EncryptInit` and `C_Encrypt` (§5.8).
    pub(super) fn encrypt(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        input: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        let calls = (self.functions.C_EncryptInit, self.functions.C_Encrypt);
        let names = ("C_EncryptInit", "C_Encrypt");
        run(calls, names, session, key, mechanism, input).map(|out| out.to_vec())
    }

    /// `C_DecryptInit` and `C_Decrypt` (§5.10).
    pub(super) fn decrypt(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let calls = (self.functions.C_DecryptInit, self.functions.C_Decrypt);
        let names = ("C_DecryptInit", "C_Decrypt");
        run(calls, names, session, key, mechanism, input)
    }

    /// `C_SignInit` and `C_Sign` (§5.13).
    pub(super) fn sign(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: CK_MECHANISM_TYPE,
        input: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        let calls = (self.functions.C_SignInit, self.functions.C_Sign);
        let names = ("C_SignInit", "C_Sign");
        let mechanism = Mechanism::Bare(mechanism);
        run(calls, names, session, key, mechanism, input).map(|out| out.to_vec())
    }

    /// `C_VerifyInit` and `C_Verify` (§5.15). `Ok` is "authentic", `CKR_SIGNATURE_INVALID` the answer that it is not.
    pub(super) fn verify(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: CK_MECHANISM_TYPE,
        input: &[u8],
        mac: &[u8],
    ) -> Result<(), Failed> {
        let init = there("C_VerifyInit", self.functions.C_VerifyInit)?;
        let verify = there("C_Verify", self.functions.C_Verify)?;
        let mut mechanism = sys::CK_MECHANISM {
            mechanism,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        };
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: the mechanism lives beyond both calls.
        let rv = unsafe { init(session.handle(), &raw mut mechanism, key.handle()) };
        answered("C_VerifyInit", rv)?;
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: both slices are readable for their lengths and not written.
        let rv = unsafe {
            verify(
                session.handle(),
                input.as_ptr().cast_mut(),
                ulong(input.len()),
                mac.as_ptr().cast_mut(),
                ulong(mac.len()),
            )
        };
        answered("C_Verify", rv)
    }

    /// AES-GCM by `C_MessageEncryptInit`, `C_EncryptMessage` and `C_MessageEncryptFinal` (§5.9): the ciphertext. The
    /// IV holds what was used afterwards.
    pub(super) fn encrypt_message(
        &self,
        session: &Session,
        key: ObjectHandle,
        generator: Generator,
        iv: &mut [u8],
        tag: &mut [u8; TAG_BYTES],
        aad: &[u8],
        input: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        let list = self.functions_3.as_ref();
        let calls = (
            list.and_then(|list| list.C_MessageEncryptInit),
            list.and_then(|list| list.C_EncryptMessage),
            list.and_then(|list| list.C_MessageEncryptFinal),
        );
        let names = (
            "C_MessageEncryptInit",
            "C_EncryptMessage",
            "C_MessageEncryptFinal",
        );
        let parameters = message_parameters(generator, iv, tag);
        message(calls, names, session, key, parameters, aad, input).map(|out| out.to_vec())
    }

    /// AES-GCM by `C_MessageDecryptInit`, `C_DecryptMessage` and `C_MessageDecryptFinal` (§5.11).
    pub(super) fn decrypt_message(
        &self,
        session: &Session,
        key: ObjectHandle,
        iv: &mut [u8],
        tag: &mut [u8; TAG_BYTES],
        aad: &[u8],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let list = self.functions_3.as_ref();
        let calls = (
            list.and_then(|list| list.C_MessageDecryptInit),
            list.and_then(|list| list.C_DecryptMessage),
            list.and_then(|list| list.C_MessageDecryptFinal),
        );
        let names = (
            "C_MessageDecryptInit",
            "C_DecryptMessage",
            "C_MessageDecryptFinal",
        );
        let parameters = message_parameters(Generator::Caller, iv, tag);
        message(calls, names, session, key, parameters, aad, input)
    }

    /// `C_CreateObject` (§5.7.1) of a secret that can be wrapped and read, in this session only.
    pub(super) fn create_passing(
        &self,
        session: &Session,
        value: &[u8],
    ) -> Result<Passing, Failed> {
        let function = there("C_CreateObject", self.functions.C_CreateObject)?;
        let mut object = sys::CK_INVALID_HANDLE;
        with_passing_template(Some(value), |template| {
            #[expect(unsafe_code, reason = "cryptoki would leave copies of the secret")]
            // SAFETY: the template and all it points to live for the call; `object` is valid for the handle.
            let rv = unsafe {
                function(
                    session.handle(),
                    template.as_mut_ptr(),
                    ulong(template.len()),
                    &raw mut object,
                )
            };
            answered("C_CreateObject", rv)
        })?;
        Ok(Passing(object))
    }

    /// `C_WrapKey` (§5.18.3) of the object with handle `target`.
    pub(super) fn wrap(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        target: Target,
    ) -> Result<Vec<u8>, Failed> {
        let function = there("C_WrapKey", self.functions.C_WrapKey)?;
        let target = match target {
            Target::Passing(Passing(handle)) => handle,
            Target::Object(object) => object.handle(),
        };
        let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
        let mut out_len = ulong(OUT_BYTES_MAX);
        with_mechanism(mechanism, |mechanism| {
            #[expect(
                unsafe_code,
                reason = "cryptoki asks twice and does not cut the answer"
            )]
            // SAFETY: the mechanism lives for the call; `out` is writable for `out_len` bytes.
            let rv = unsafe {
                function(
                    session.handle(),
                    mechanism,
                    key.handle(),
                    target,
                    out.as_mut_ptr(),
                    &raw mut out_len,
                )
            };
            answered("C_WrapKey", rv)
        })?;
        cut("C_WrapKey", &mut out, out_len)?;
        Ok(out.to_vec())
    }

    /// `C_UnwrapKey` (§5.18.4) of a secret that can be read, into this session only.
    pub(super) fn unwrap(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        wrapped: &[u8],
    ) -> Result<Passing, Failed> {
        let function = there("C_UnwrapKey", self.functions.C_UnwrapKey)?;
        let mut object = sys::CK_INVALID_HANDLE;
        with_mechanism(mechanism, |mechanism| {
            with_passing_template(None, |template| {
                #[expect(unsafe_code, reason = "cryptoki does not know the mechanism")]
                // SAFETY: mechanism, template and what they point to live for the call; `wrapped` is readable and
                // not written; `object` is valid for the handle.
                let rv = unsafe {
                    function(
                        session.handle(),
                        mechanism,
                        key.handle(),
                        wrapped.as_ptr().cast_mut(),
                        ulong(wrapped.len()),
                        template.as_mut_ptr(),
                        ulong(template.len()),
                        &raw mut object,
                    )
                };
                answered("C_UnwrapKey", rv)
            })
        })?;
        Ok(Passing(object))
    }

    /// `CKA_VALUE` of an object, by one `C_GetAttributeValue` (§5.7.5).
    pub(super) fn value(
        &self,
        session: &Session,
        target: Target,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let function = there("C_GetAttributeValue", self.functions.C_GetAttributeValue)?;
        let target = match target {
            Target::Passing(Passing(handle)) => handle,
            Target::Object(object) => object.handle(),
        };
        let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
        let mut attribute = sys::CK_ATTRIBUTE {
            type_: sys::CKA_VALUE,
            pValue: out.as_mut_ptr().cast(),
            ulValueLen: ulong(OUT_BYTES_MAX),
        };
        #[expect(
            unsafe_code,
            reason = "cryptoki asks twice and leaves copies of the secret"
        )]
        // SAFETY: one attribute, whose buffer is writable for the length it names.
        let rv = unsafe { function(session.handle(), target, &raw mut attribute, 1) };
        answered("C_GetAttributeValue", rv)?;
        cut("C_GetAttributeValue", &mut out, attribute.ulValueLen)?;
        Ok(out)
    }

    /// `C_DestroyObject` (§5.7.3).
    pub(super) fn destroy(
        &self,
        session: &Session,
        Passing(object): Passing,
    ) -> Result<(), Failed> {
        let function = there("C_DestroyObject", self.functions.C_DestroyObject)?;
        #[expect(unsafe_code, reason = "cryptoki makes no handle of a number")]
        // SAFETY: no memory is passed.
        let rv = unsafe { function(session.handle(), object) };
        answered("C_DestroyObject", rv)
    }
}

/// What is wrapped or read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Passing(Passing),
    Object(ObjectHandle),
}

/// One operation, start to end. After an error it may still be active in the session, which is to be dropped.
fn run(
    (init, run): (Init, Run),
    (init_name, run_name): Names,
    session: &Session,
    key: ObjectHandle,
    mechanism: Mechanism<'_>,
    input: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let (init, run) = (there(init_name, init)?, there(run_name, run)?);
    let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
    let mut out_len = ulong(OUT_BYTES_MAX);
    with_mechanism(mechanism, |mechanism| {
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: `init` is of the module that opened `session`; the mechanism and all it points to live, with the
        // lengths given, beyond the call of `run` below, which is as long as a module may keep them.
        let rv = unsafe { init(session.handle(), mechanism, key.handle()) };
        answered(init_name, rv)?;
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: `run` belongs to `init`. `input` is readable for its length and not written; `out` is writable for
        // `out_len` bytes, which tells the module its size.
        let rv = unsafe {
            run(
                session.handle(),
                input.as_ptr().cast_mut(),
                ulong(input.len()),
                out.as_mut_ptr(),
                &raw mut out_len,
            )
        };
        answered(run_name, rv)
    })?;
    cut(run_name, &mut out, out_len)?;
    Ok(out)
}

/// One message of the message interface, start to end.
fn message(
    (init, run, end): (
        Init,
        sys::CK_C_EncryptMessage,
        sys::CK_C_MessageEncryptFinal,
    ),
    (init_name, run_name, end_name): (&'static str, &'static str, &'static str),
    session: &Session,
    key: ObjectHandle,
    mut parameters: sys::CK_GCM_MESSAGE_PARAMS,
    aad: &[u8],
    input: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let (init, run) = (there(init_name, init)?, there(run_name, run)?);
    let end = there(end_name, end)?;
    let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
    let mut out_len = ulong(OUT_BYTES_MAX);
    let mut mechanism = sys::CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::null_mut(),
        ulParameterLen: 0,
    };
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: the mechanism lives beyond the operation.
    let rv = unsafe { init(session.handle(), &raw mut mechanism, key.handle()) };
    answered(init_name, rv)?;
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: the parameters point to IV and tag of the caller, writable for the lengths named and alive for the call;
    // AAD and input are readable and not written; `out` is writable for `out_len` bytes.
    let rv = unsafe {
        run(
            session.handle(),
            (&raw mut parameters).cast::<c_void>(),
            ulong(size_of::<sys::CK_GCM_MESSAGE_PARAMS>()),
            or_null(aad),
            ulong(aad.len()),
            input.as_ptr().cast_mut(),
            ulong(input.len()),
            out.as_mut_ptr(),
            &raw mut out_len,
        )
    };
    let done = answered(run_name, rv);
    // A message that fails does not end the operation (NSS goes by that): it is ended in any case.
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: no memory is passed.
    let rv = unsafe { end(session.handle()) };
    done?;
    answered(end_name, rv)?;
    cut(run_name, &mut out, out_len)?;
    Ok(out)
}

/// The parameters of one message, no bit of the IV fixed. They point into `iv` and `tag`, which must outlive them.
fn message_parameters(
    generator: Generator,
    iv: &mut [u8],
    tag: &mut [u8; TAG_BYTES],
) -> sys::CK_GCM_MESSAGE_PARAMS {
    sys::CK_GCM_MESSAGE_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: ulong(iv.len()),
        ulIvFixedBits: 0,
        ivGenerator: match generator {
            Generator::Token => sys::CKG_GENERATE_RANDOM,
            Generator::Caller => sys::CKG_NO_GENERATE,
        },
        pTag: tag.as_mut_ptr(),
        ulTagBits: ulong(TAG_BYTES * 8),
    }
}

/// Runs `work` with the structure that the module takes, which points to what `mechanism` borrows.
fn with_mechanism<T>(mechanism: Mechanism<'_>, work: impl FnOnce(sys::CK_MECHANISM_PTR) -> T) -> T {
    let mut raw = sys::CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::null_mut(),
        ulParameterLen: 0,
    };
    match mechanism {
        Mechanism::Bare(kind) => {
            raw.mechanism = kind;
            work(&raw mut raw)
        }
        Mechanism::WithIv(kind, iv) => {
            raw.mechanism = kind;
            raw.pParameter = iv.as_ptr().cast_mut().cast();
            raw.ulParameterLen = ulong(iv.len());
            work(&raw mut raw)
        }
        Mechanism::Gcm { iv, aad } => {
            let mut parameters = sys::CK_GCM_PARAMS {
                pIv: if iv.is_empty() {
                    ptr::null_mut()
                } else {
                    iv.as_mut_ptr()
                },
                ulIvLen: ulong(iv.len()),
                // Luna 7 decrypts only with this set; without an IV it is the length of the one it makes.
                ulIvBits: ulong(if iv.is_empty() { 96 } else { iv.len() * 8 }),
                pAAD: or_null(aad),
                ulAADLen: ulong(aad.len()),
                ulTagBits: ulong(TAG_BYTES * 8),
            };
            raw.pParameter = (&raw mut parameters).cast();
            raw.ulParameterLen = ulong(size_of::<sys::CK_GCM_PARAMS>());
            work(&raw mut raw)
        }
    }
}

/// Runs `work` with the template of a secret of this session that can be read, and its value unless it comes by
/// unwrapping.
fn with_passing_template<T>(
    value: Option<&[u8]>,
    work: impl FnOnce(&mut [sys::CK_ATTRIBUTE]) -> T,
) -> T {
    let (mut class, mut kind) = (sys::CKO_SECRET_KEY, sys::CKK_GENERIC_SECRET);
    let (mut yes, mut no) = (sys::CK_TRUE, sys::CK_FALSE);
    let mut template = vec![
        attribute(sys::CKA_CLASS, &mut class),
        attribute(sys::CKA_KEY_TYPE, &mut kind),
        attribute(sys::CKA_TOKEN, &mut no),
        attribute(sys::CKA_SENSITIVE, &mut no),
        attribute(sys::CKA_EXTRACTABLE, &mut yes),
    ];
    if let Some(value) = value {
        template.push(sys::CK_ATTRIBUTE {
            type_: sys::CKA_VALUE,
            pValue: value.as_ptr().cast_mut().cast(),
            ulValueLen: ulong(value.len()),
        });
    }
    work(&mut template)
}

fn attribute<T>(kind: sys::CK_ATTRIBUTE_TYPE, value: &mut T) -> sys::CK_ATTRIBUTE {
    sys::CK_ATTRIBUTE {
        type_: kind,
        pValue: ptr::from_mut(value).cast(),
        ulValueLen: ulong(size_of::<T>()),
    }
}

fn or_null(bytes: &[u8]) -> sys::CK_BYTE_PTR {
    if bytes.is_empty() {
        ptr::null_mut()
    } else {
        bytes.as_ptr().cast_mut()
    }
}

/// The function, unless the module has none.
fn there<F>(name: &'static str, function: Option<F>) -> Result<F, Failed> {
    function.ok_or(Failed {
        function: name,
        rv: sys::CKR_FUNCTION_NOT_SUPPORTED,
    })
}

fn answered(function: &'static str, rv: sys::CK_RV) -> Result<(), Failed> {
    if rv == sys::CKR_OK {
        return Ok(());
    }
    Err(Failed { function, rv })
}

/// Cuts `out` to the length that the module says it wrote.
fn cut(function: &'static str, out: &mut Vec<u8>, length: sys::CK_ULONG) -> Result<(), Failed> {
    match usize::try_from(length) {
        Ok(length) if length <= out.len() => {
            out.truncate(length);
            Ok(())
        }
        _ => Err(Failed {
            function,
            rv: sys::CKR_OK,
        }),
    }
}

/// Lengths here are of buffers in memory, which `CK_ULONG` holds on every platform.
fn ulong(length: usize) -> sys::CK_ULONG {
    sys::CK_ULONG::try_from(length).unwrap_or(sys::CK_ULONG::MAX)
}

/// Text that is padded with blanks, as `cryptoki` reads it.
fn padded(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .trim_end_matches([' ', '\0'])
        .to_owned()
}
