//! AES-GCM by one call of the module each way.
//!
//! `cryptoki` asks the module for the length first: a second round trip to a network HSM, and modules are known to
//! answer it without the tag (NSS). Here a buffer of fixed size is large enough for anything we wrap, and the IV is
//! read back, for some modules write their own (`CloudHSM`).
//!
//! This is the only file of the crate with unsafe code.

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use cryptoki::context::Function;
use cryptoki::error::{Error, Rv};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys as sys;
use zeroize::Zeroizing;

use crate::{BoxError, WRAP_PLAINTEXT_BYTES_MAX};

/// Length of the IV, which comes first in the body (NIST SP 800-38D §5.2.1.1).
pub(super) const IV_BYTES: usize = 12;
/// Length of the tag, which comes last.
pub(super) const TAG_BYTES: usize = 16;

const OUT_BYTES: usize = WRAP_PLAINTEXT_BYTES_MAX + TAG_BYTES;

type Init = unsafe extern "C" fn(
    sys::CK_SESSION_HANDLE,
    sys::CK_MECHANISM_PTR,
    sys::CK_OBJECT_HANDLE,
) -> sys::CK_RV;
type Run = unsafe extern "C" fn(
    sys::CK_SESSION_HANDLE,
    sys::CK_BYTE_PTR,
    sys::CK_ULONG,
    sys::CK_BYTE_PTR,
    sys::CK_ULONG_PTR,
) -> sys::CK_RV;

/// The four functions, and the library that holds them.
pub(super) struct Aead {
    encrypt: (Init, Run),
    decrypt: (Init, Run),
    /// Keeps the library mapped.
    _library: sys::Pkcs11,
}

impl std::fmt::Debug for Aead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aead(..)")
    }
}

impl Aead {
    /// Takes the functions out of the library's function list (PKCS#11 v3.1 §5.4.4). The library is the one that
    /// `cryptoki` has loaded: the dynamic linker maps a file once.
    ///
    /// # Errors
    ///
    /// When the library does not load or lacks one of them.
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
        Rv::from(rv).into_result(Function::GetFunctionList)?;
        #[expect(unsafe_code, reason = "the list is the module's")]
        // SAFETY: by §5.4.4 it points to a static of the module, mapped for as long as `library` lives. Some platforms
        // pack the structure, hence unaligned.
        let list = unsafe {
            if list.is_null() {
                None
            } else {
                Some(list.read_unaligned())
            }
        };
        let list = list.ok_or("it has no function list")?;
        let missing = "its function list lacks C_Encrypt or C_Decrypt";
        Ok(Self {
            encrypt: (
                { list.C_EncryptInit }.ok_or(missing)?,
                { list.C_Encrypt }.ok_or(missing)?,
            ),
            decrypt: (
                { list.C_DecryptInit }.ok_or(missing)?,
                { list.C_Decrypt }.ok_or(missing)?,
            ),
            _library: library,
        })
    }

    /// `C_EncryptInit` and `C_Encrypt`: ciphertext ‖ tag. `iv` holds what was used afterwards.
    pub(super) fn seal(
        &self,
        session: &Session,
        key: ObjectHandle,
        iv: &mut [u8; IV_BYTES],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let functions = (Function::EncryptInit, Function::Encrypt);
        let out = run(self.encrypt, functions, session, key, iv, aad, plaintext)?;
        Ok(out.to_vec())
    }

    /// `C_DecryptInit` and `C_Decrypt` of ciphertext ‖ tag.
    pub(super) fn open(
        &self,
        session: &Session,
        key: ObjectHandle,
        iv: &[u8; IV_BYTES],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let functions = (Function::DecryptInit, Function::Decrypt);
        run(
            self.decrypt,
            functions,
            session,
            key,
            &mut { *iv },
            aad,
            sealed,
        )
    }
}

/// One operation, start to end. After an error it may still be active in the session, which is to be dropped.
fn run(
    (init, run): (Init, Run),
    (init_name, run_name): (Function, Function),
    session: &Session,
    key: ObjectHandle,
    iv: &mut [u8; IV_BYTES],
    aad: &[u8],
    input: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut parameters = sys::CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: ulong(IV_BYTES)?,
        // Luna 7 decrypts only with this set, and others ignore it.
        ulIvBits: ulong(IV_BYTES * 8)?,
        pAAD: if aad.is_empty() {
            ptr::null_mut()
        } else {
            aad.as_ptr().cast_mut()
        },
        ulAADLen: ulong(aad.len())?,
        ulTagBits: ulong(TAG_BYTES * 8)?,
    };
    let mut mechanism = sys::CK_MECHANISM {
        mechanism: sys::CKM_AES_GCM,
        pParameter: (&raw mut parameters).cast::<c_void>(),
        ulParameterLen: ulong(size_of::<sys::CK_GCM_PARAMS>())?,
    };
    let mut out = Zeroizing::new(vec![0; OUT_BYTES]);
    let mut out_len = ulong(OUT_BYTES)?;
    let input_len = ulong(input.len())?;
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: `init` is C_EncryptInit or C_DecryptInit of the module that opened `session` (§5.8.1, §5.10.1); the
    // mechanism and all it points to live, with the lengths given, beyond the call of `run` below, which is as long as
    // a module may keep them. `iv` is writable; AAD is input, which a module does not write.
    let rv = unsafe { init(session.handle(), &raw mut mechanism, key.handle()) };
    Rv::from(rv).into_result(init_name)?;
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: `run` belongs to `init` (§5.8.2, §5.10.2). `input` is readable for its length and not written; `out` is
    // writable for `out_len` bytes, which tells the module its size.
    let rv = unsafe {
        run(
            session.handle(),
            input.as_ptr().cast_mut(),
            input_len,
            out.as_mut_ptr(),
            &raw mut out_len,
        )
    };
    Rv::from(rv).into_result(run_name)?;
    let written = usize::try_from(out_len)?;
    if written > OUT_BYTES {
        return Err(Error::InvalidValue);
    }
    out.truncate(written);
    Ok(out)
}

fn ulong(length: usize) -> Result<sys::CK_ULONG, Error> {
    Ok(sys::CK_ULONG::try_from(length)?)
}
