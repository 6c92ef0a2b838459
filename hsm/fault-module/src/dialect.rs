//! AES-GCM as makers have changed it: the IV is the token's. And what they want of key wrap.
//!
//! `CloudHSM` wants the IV buffer to be zeros and writes its own into it; Luna takes no IV and appends its own to the
//! tag. Either is told by `C_Encrypt`, so that what was asked for in `C_EncryptInit` is remembered by session.
#![expect(
    unsafe_code,
    reason = "mechanism parameters are pointers of the caller's"
)]

use std::collections::HashMap;
use std::ptr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_FUNCTION_LIST, CK_GCM_PARAMS, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV,
    CK_SESSION_HANDLE, CK_ULONG, CKA_VALUE, CKA_VALUE_LEN, CKM_AES_GCM, CKM_AES_KEY_WRAP_KWP,
    CKM_AES_KEY_WRAP_PAD, CKR_BUFFER_TOO_SMALL, CKR_DEVICE_ERROR, CKR_FUNCTION_NOT_SUPPORTED,
    CKR_MECHANISM_PARAM_INVALID, CKR_OK, CKR_TEMPLATE_INCOMPLETE, CKR_WRAPPED_KEY_LEN_RANGE,
};

use crate::fault::Fault;
use crate::rules::Struck;

/// The most bytes of IV that the token makes.
const IV_BYTES_MAX: usize = 64;

/// A copy of `mechanism` with the number of `CKM_AES_KEY_WRAP_PAD`, if a fault takes it for that.
///
/// # Safety
///
/// `mechanism` is null or points to one.
pub(crate) unsafe fn renamed(
    struck: &[Struck],
    mechanism: *const CK_MECHANISM,
) -> Option<CK_MECHANISM> {
    // SAFETY: by the contract of this function.
    let theirs = unsafe { mechanism.as_ref() }?;
    let other = struck.iter().any(|struck| struck.fault == Fault::OtherKwp);
    (other && theirs.mechanism == CKM_AES_KEY_WRAP_KWP).then_some(CK_MECHANISM {
        mechanism: CKM_AES_KEY_WRAP_PAD,
        ..*theirs
    })
}

/// Unwraps by `unwrap` with a template that must tell the length of what comes of it.
///
/// # Safety
///
/// `template` holds `count` attributes, and `key` is null or takes a handle.
pub(crate) unsafe fn unwrap_of_length(
    inner: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    template: *const CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *const CK_OBJECT_HANDLE,
    unwrap: impl FnOnce(*mut CK_ATTRIBUTE, CK_ULONG) -> CK_RV,
) -> CK_RV {
    // SAFETY: by the contract of this function; `CKA_VALUE_LEN` is a number (PKCS#11 v2.40 §2.5, §4.9).
    unsafe {
        let given = usize::try_from(count).unwrap_or_default();
        let given = std::slice::from_raw_parts(template, given);
        let told = given.iter().find(|one| one.type_ == CKA_VALUE_LEN);
        let Some(told) = told.map(|told| told.pValue.cast::<CK_ULONG>().read_unaligned()) else {
            return CKR_TEMPLATE_INCOMPLETE;
        };
        let others = given.iter().filter(|one| one.type_ != CKA_VALUE_LEN);
        let mut others: Vec<CK_ATTRIBUTE> = others.copied().collect();
        let rv = unwrap(
            others.as_mut_ptr(),
            CK_ULONG::try_from(others.len()).unwrap_or_default(),
        );
        let (Some(read), Some(destroy)) = (inner.C_GetAttributeValue, inner.C_DestroyObject) else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        if rv != CKR_OK || key.is_null() {
            return rv;
        }
        let mut value = CK_ATTRIBUTE {
            type_: CKA_VALUE,
            pValue: ptr::null_mut(),
            ulValueLen: 0,
        };
        let rv = read(session, *key, &raw mut value, 1);
        if rv == CKR_OK && value.ulValueLen == told {
            return rv;
        }
        destroy(session, *key);
        CKR_WRAPPED_KEY_LEN_RANGE
    }
}

/// An IV that the token has made and not told yet.
struct Untold {
    iv: Vec<CK_BYTE>,
    place: Place,
}

enum Place {
    /// The address of the caller's buffer, which lives until `C_Encrypt` returns, as the makers' manuals demand.
    Buffer(usize),
    /// The end of the output.
    Output,
}

static UNTOLD: LazyLock<Mutex<HashMap<CK_SESSION_HANDLE, Untold>>> = LazyLock::new(Mutex::default);

fn untold() -> MutexGuard<'static, HashMap<CK_SESSION_HANDLE, Untold>> {
    UNTOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the IVs of all sessions.
pub(crate) fn forget() {
    untold().clear();
}

/// `C_EncryptInit` in `dialect`, or as it stands.
///
/// # Safety
///
/// `mechanism` is null or points to one whose parameters are of the type that it says (PKCS#11 v2.40 §5.8).
pub(crate) unsafe fn encrypt_init(
    inner: &CK_FUNCTION_LIST,
    dialect: Option<Fault>,
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(function) = inner.C_EncryptInit else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    untold().remove(&session);
    // SAFETY: by the contract of this function. What is changed are copies of ours, which live until the inner call
    // returns; SoftHSM and all modules that follow the standard have taken the IV over by then.
    unsafe {
        let theirs = match mechanism.as_ref() {
            Some(theirs) if theirs.mechanism == CKM_AES_GCM && dialect.is_some() => theirs,
            _ => return function(session, mechanism, key),
        };
        let full = CK_ULONG::try_from(size_of::<CK_GCM_PARAMS>()).unwrap_or(CK_ULONG::MAX);
        if theirs.pParameter.is_null() || theirs.ulParameterLen != full {
            return CKR_MECHANISM_PARAM_INVALID;
        }
        let mut params = theirs.pParameter.cast::<CK_GCM_PARAMS>().read_unaligned();
        let given = usize::try_from(params.ulIvLen).unwrap_or(usize::MAX);
        let (length, place) = match dialect {
            Some(Fault::ZeroIv) => {
                let zeros = !params.pIv.is_null()
                    && (1..=IV_BYTES_MAX).contains(&given)
                    && std::slice::from_raw_parts(params.pIv, given)
                        .iter()
                        .all(|byte| *byte == 0);
                if !zeros {
                    return CKR_MECHANISM_PARAM_INVALID;
                }
                (given, Place::Buffer(params.pIv.expose_provenance()))
            }
            Some(Fault::AppendIv(length)) if params.pIv.is_null() || given == 0 => {
                (length.min(IV_BYTES_MAX), Place::Output)
            }
            // Luna takes an IV of the caller's, too.
            _ => return function(session, mechanism, key),
        };
        let mut iv = vec![0; length];
        let size = CK_ULONG::try_from(length).unwrap_or_default();
        let random = inner.C_GenerateRandom;
        if random.is_none_or(|random| random(session, iv.as_mut_ptr(), size) != CKR_OK) {
            return CKR_DEVICE_ERROR;
        }
        params.pIv = iv.as_mut_ptr();
        params.ulIvLen = size;
        params.ulIvBits = size * 8;
        let mut ours = CK_MECHANISM {
            mechanism: CKM_AES_GCM,
            pParameter: (&raw mut params).cast(),
            ulParameterLen: full,
        };
        let rv = function(session, &raw mut ours, key);
        if rv == CKR_OK {
            untold().insert(session, Untold { iv, place });
        }
        rv
    }
}

/// `C_Encrypt`, which tells the IV if the token has made it.
///
/// # Safety
///
/// As the standard has it for `C_Encrypt` (PKCS#11 v2.40 §5.8); and an IV buffer of zeros lives until this returns.
pub(crate) unsafe fn encrypt(
    inner: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> CK_RV {
    let Some(function) = inner.C_Encrypt else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: by the contract of this function; what is written stays within the room that `*out_length` gives.
    unsafe {
        let Some(Untold { iv, place }) = untold().remove(&session) else {
            return function(session, data, length, out, out_length);
        };
        let appended = match place {
            Place::Output => iv.len(),
            Place::Buffer(_) => 0,
        };
        let appended_length = CK_ULONG::try_from(appended).unwrap_or_default();
        let mut written = (*out_length).saturating_sub(appended_length);
        let rv = function(session, data, length, out, &raw mut written);
        if rv == CKR_OK && !out.is_null() {
            let end = usize::try_from(written).unwrap_or_default();
            let (to, bytes) = match place {
                Place::Output => (out.add(end), appended),
                Place::Buffer(at) => (ptr::with_exposed_provenance_mut(at), iv.len()),
            };
            ptr::copy_nonoverlapping(iv.as_ptr(), to, bytes);
        } else if rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL {
            // Only the length was told: the operation goes on (§5.2).
            untold().insert(session, Untold { iv, place });
        }
        if matches!(rv, CKR_OK | CKR_BUFFER_TOO_SMALL) {
            *out_length = written + appended_length;
        }
        rv
    }
}
