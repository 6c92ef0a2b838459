//! What of the module is called directly: one call each way, with buffers of fixed size.
//!
//! `cryptoki` asks the module for the length first: a second round trip to a network HSM, and modules are known to
//! answer it wrongly (NSS leaves the tag out). It has no `CKM_AES_KEY_WRAP_KWP`, cannot describe a token whose clock
//! it cannot read (`openCryptoki`), leaves copies of secrets in templates, and forgets the number of an unknown
//! `CK_RV`. What it does well (sessions, login, templates, finding) stays with it.
//!
//! This and its two parts are the only files of the backend with unsafe code.

mod crypto;
mod passing;

use std::ffi::{CString, c_void};
use std::fmt;
use std::path::Path;
use std::ptr;

use cryptoki::error::{Rv, RvError};
use cryptoki::slot::Slot;
use cryptoki_sys as sys;

use crate::BoxError;

pub(super) use self::crypto::{Generator, Mechanism, Message};
pub(super) use self::passing::{Passing, Target};
pub(super) use cryptoki_sys::{
    CK_FLAGS, CK_MECHANISM_TYPE, CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_ECB, CKM_AES_GCM,
    CKM_AES_KEY_GEN, CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD, CKM_ECDSA,
    CKM_GENERIC_SECRET_KEY_GEN, CKM_RSA_PKCS, CKM_SHA224_HMAC, CKM_SHA256_HMAC, CKM_SHA384_HMAC,
    CKM_SHA512_HMAC, CKR_MECHANISM_INVALID,
};

/// Length of the tag of every AES-GCM here.
pub(super) const TAG_BYTES: usize = 16;

/// The most bytes a call gives: a signature by RSA of 4096 bits. A wrapped plaintext, its digest, an IV and a tag are less.
const OUT_BYTES_MAX: usize = 512;

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
    /// Whether it speaks of what the template has or has not.
    pub(super) fn is_about_template(self) -> bool {
        matches!(
            self.code(),
            RvError::TemplateIncomplete
                | RvError::TemplateInconsistent
                | RvError::AttributeReadOnly
                | RvError::AttributeTypeInvalid
                | RvError::AttributeValueInvalid
        )
    }

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

    /// Whether the token reports that few PINs of the user may still be tried, or none.
    pub(super) fn few_pin_tries(&self) -> bool {
        let few =
            sys::CKF_USER_PIN_COUNT_LOW | sys::CKF_USER_PIN_FINAL_TRY | sys::CKF_USER_PIN_LOCKED;
        self.flags & few != 0
    }

    /// Whether the next wrong PIN of the user locks the token.
    pub(super) fn final_pin_try(&self) -> bool {
        self.flags & sys::CKF_USER_PIN_FINAL_TRY != 0
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
