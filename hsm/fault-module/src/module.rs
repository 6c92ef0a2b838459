//! The function list, and each function of it: strike, forward, spoil.
//!
//! All functions of PKCS#11 v2.40 are forwarded with their arguments unchanged. Those whose output or arguments a
//! fault changes have a body of their own.
#![expect(
    unsafe_code,
    reason = "the C ABI of a PKCS#11 module, both sides of it"
)]
#![expect(
    non_snake_case,
    reason = "functions are called as the standard calls them"
)]

use std::ptr;
use std::time::Duration;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_BYTE, CK_FLAGS, CK_FUNCTION_LIST, CK_INFO, CK_MECHANISM,
    CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE,
    CK_SESSION_INFO, CK_SLOT_ID, CK_SLOT_INFO, CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE, CK_VERSION,
    CK_VOID_PTR, CKF_CLOCK_ON_TOKEN, CKR_ARGUMENTS_BAD, CKR_FUNCTION_NOT_SUPPORTED,
    CKR_GENERAL_ERROR, CKR_MECHANISM_INVALID, CKR_OK, CKR_SESSION_HANDLE_INVALID,
    CKR_USER_NOT_LOGGED_IN,
};

use crate::fault::Fault;
use crate::rules::{Struck, strike};
use crate::{dialect, handles};

/// How often a call that waits for the end of its fault looks.
const HANG_POLL: Duration = Duration::from_millis(5);

/// Runs one call of `function`: the faults that come first, the inner module, the faults that come after.
fn call(
    function: &str,
    session: Option<CK_SESSION_HANDLE>,
    work: impl FnOnce(&CK_FUNCTION_LIST, &[Struck]) -> CK_RV,
) -> CK_RV {
    let Some(inner) = crate::inner::functions() else {
        return CKR_GENERAL_ERROR;
    };
    let struck = strike(function);
    for fault in &struck {
        if let Some(answer) = before(inner, session, fault) {
            return answer;
        }
    }
    let answer = {
        let _numbering = handles::numbering(inner, &struck);
        work(inner, &struck)
    };
    let after = struck.iter().find_map(|struck| match struck.fault {
        Fault::AnswerAfter(code) => Some(code),
        _ => None,
    });
    after.unwrap_or(answer)
}

/// What a fault does before the call, and the answer if there is no call.
fn before(
    inner: &CK_FUNCTION_LIST,
    session: Option<CK_SESSION_HANDLE>,
    struck: &Struck,
) -> Option<CK_RV> {
    match struck.fault {
        Fault::Hang => loop {
            std::thread::park();
        },
        Fault::HangUntilLifted => {
            while struck.is_armed() {
                std::thread::sleep(HANG_POLL);
            }
            None
        }
        Fault::Slow(milliseconds) => {
            std::thread::sleep(Duration::from_millis(milliseconds));
            None
        }
        Fault::Abort => std::process::abort(),
        Fault::Segfault => {
            let nowhere = std::hint::black_box(ptr::null_mut::<u8>());
            // SAFETY: none, on purpose: this is the fault that was asked for, and the process ends by it.
            unsafe { nowhere.write_volatile(1) };
            None
        }
        Fault::Answer(code) => Some(code),
        Fault::LogOut => {
            let _alone = handles::alone();
            // SAFETY: takes the session only, which is the caller's; any value is an answer, not a fault.
            unsafe { session.zip(inner.C_Logout).map(|(s, log_out)| log_out(s)) };
            Some(CKR_USER_NOT_LOGGED_IN)
        }
        Fault::CloseSessions => {
            let _alone = handles::alone();
            if let (Some(session), Some(close_all)) = (session, inner.C_CloseAllSessions)
                && let Some(slot) = slot_of(inner, session)
            {
                // SAFETY: takes the slot only.
                unsafe { close_all(slot) };
            }
            Some(CKR_SESSION_HANDLE_INVALID)
        }
        _ => None,
    }
}

fn slot_of(inner: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE) -> Option<CK_SLOT_ID> {
    let mut info = CK_SESSION_INFO::default();
    // SAFETY: `info` takes what is written.
    let rv = unsafe { inner.C_GetSessionInfo?(session, &raw mut info) };
    (rv == CKR_OK).then_some(info.slotID)
}

fn does(struck: &[Struck], fault: Fault) -> bool {
    struck.iter().any(|struck| struck.fault == fault)
}

/// Spoils output that was given with `CKR_OK`.
///
/// # Safety
///
/// `out`, if not null, holds `*length` bytes, and `length` points to a number.
unsafe fn spoil(struck: &[Struck], out: *mut CK_BYTE, length: *mut CK_ULONG) {
    for struck in struck {
        // SAFETY: by the contract of this function; the index is within the length.
        unsafe {
            match struck.fault {
                Fault::Flip(index) if !out.is_null() && *length > 0 => {
                    let bytes = usize::try_from(*length).unwrap_or(usize::MAX);
                    *out.add(index % bytes) ^= 0x10;
                }
                Fault::Length(bytes) if !out.is_null() => *length = bytes,
                _ => {}
            }
        }
    }
}

macro_rules! functions {
    (
        plain { $($plain:ident($($argument:ident: $type:ty),*);)* }
        session { $($with:ident($session:ident $(, $more:ident: $kind:ty)*);)* }
        own { $($own:ident)* }
    ) => {
        $(unsafe extern "C" fn $plain($($argument: $type),*) -> CK_RV {
            call(stringify!($plain), None, |inner, _struck| match inner.$plain {
                // SAFETY: the caller's arguments, unchanged, for the function they were meant for.
                Some(function) => unsafe { function($($argument),*) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            })
        })*
        $(unsafe extern "C" fn $with($session: CK_SESSION_HANDLE $(, $more: $kind)*) -> CK_RV {
            call(stringify!($with), Some($session), |inner, _struck| match inner.$with {
                // SAFETY: the caller's arguments, unchanged, for the function they were meant for.
                Some(function) => unsafe { function($session $(, $more)*) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            })
        })*

        static LIST: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: CK_VERSION { major: 2, minor: 40 },
            $($plain: Some($plain),)*
            $($with: Some($with),)*
            $($own: Some($own),)*
            C_GetFunctionList: Some(C_GetFunctionList),
        };

        /// Every function of PKCS#11 v2.40 that a fault can strike: all but `C_GetFunctionList`.
        pub const FUNCTIONS: &[&str] = &[
            $(stringify!($plain),)*
            $(stringify!($with),)*
            $(stringify!($own),)*
        ];

        /// Whether the first argument of the function is a session.
        pub(crate) fn takes_session(function: &str) -> bool {
            let plain = [$(stringify!($plain)),*];
            let own = ["C_Finalize", "C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo"];
            !plain.contains(&function) && !own.contains(&function)
        }
    };
}

functions! {
    plain {
        C_Initialize(arguments: CK_VOID_PTR);
        C_GetInfo(info: *mut CK_INFO);
        C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG);
        C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
        C_InitToken(slot: CK_SLOT_ID, pin: *mut CK_BYTE, length: CK_ULONG, label: *mut CK_BYTE);
        C_OpenSession(
            slot: CK_SLOT_ID,
            flags: CK_FLAGS,
            application: CK_VOID_PTR,
            notify: CK_NOTIFY,
            session: *mut CK_SESSION_HANDLE
        );
        C_CloseAllSessions(slot: CK_SLOT_ID);
        C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: CK_VOID_PTR);
    }
    session {
        C_InitPIN(session, pin: *mut CK_BYTE, length: CK_ULONG);
        C_SetPIN(
            session,
            old: *mut CK_BYTE,
            old_length: CK_ULONG,
            new: *mut CK_BYTE,
            new_length: CK_ULONG
        );
        C_CloseSession(session);
        C_GetSessionInfo(session, info: *mut CK_SESSION_INFO);
        C_GetOperationState(session, state: *mut CK_BYTE, length: *mut CK_ULONG);
        C_SetOperationState(
            session,
            state: *mut CK_BYTE,
            length: CK_ULONG,
            encryption: CK_OBJECT_HANDLE,
            authentication: CK_OBJECT_HANDLE
        );
        C_Login(session, user: CK_USER_TYPE, pin: *mut CK_BYTE, length: CK_ULONG);
        C_Logout(session);
        C_CreateObject(
            session,
            template: *mut CK_ATTRIBUTE,
            count: CK_ULONG,
            object: *mut CK_OBJECT_HANDLE
        );
        C_CopyObject(
            session,
            object: CK_OBJECT_HANDLE,
            template: *mut CK_ATTRIBUTE,
            count: CK_ULONG,
            copy: *mut CK_OBJECT_HANDLE
        );
        C_GetObjectSize(session, object: CK_OBJECT_HANDLE, size: *mut CK_ULONG);
        C_SetAttributeValue(
            session,
            object: CK_OBJECT_HANDLE,
            template: *mut CK_ATTRIBUTE,
            count: CK_ULONG
        );
        C_FindObjectsInit(session, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
        C_FindObjectsFinal(session);
        C_EncryptUpdate(
            session,
            part: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_EncryptFinal(session, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
        C_DecryptUpdate(
            session,
            part: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_DecryptFinal(session, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
        C_DigestInit(session, mechanism: *mut CK_MECHANISM);
        C_Digest(
            session,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_DigestUpdate(session, part: *mut CK_BYTE, length: CK_ULONG);
        C_DigestKey(session, key: CK_OBJECT_HANDLE);
        C_DigestFinal(session, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
        C_SignInit(session, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
        C_Sign(
            session,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_SignUpdate(session, part: *mut CK_BYTE, length: CK_ULONG);
        C_SignFinal(session, out: *mut CK_BYTE, out_length: *mut CK_ULONG);
        C_SignRecoverInit(session, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
        C_SignRecover(
            session,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_VerifyInit(session, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
        C_Verify(
            session,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            signature: *mut CK_BYTE,
            signature_length: CK_ULONG
        );
        C_VerifyUpdate(session, part: *mut CK_BYTE, length: CK_ULONG);
        C_VerifyFinal(session, signature: *mut CK_BYTE, length: CK_ULONG);
        C_VerifyRecoverInit(session, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
        C_VerifyRecover(
            session,
            signature: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_DigestEncryptUpdate(
            session,
            part: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_DecryptDigestUpdate(
            session,
            part: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_SignEncryptUpdate(
            session,
            part: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_DecryptVerifyUpdate(
            session,
            part: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG
        );
        C_GenerateKey(
            session,
            mechanism: *mut CK_MECHANISM,
            template: *mut CK_ATTRIBUTE,
            count: CK_ULONG,
            key: *mut CK_OBJECT_HANDLE
        );
        C_GenerateKeyPair(
            session,
            mechanism: *mut CK_MECHANISM,
            public: *mut CK_ATTRIBUTE,
            public_count: CK_ULONG,
            private: *mut CK_ATTRIBUTE,
            private_count: CK_ULONG,
            public_key: *mut CK_OBJECT_HANDLE,
            private_key: *mut CK_OBJECT_HANDLE
        );
        C_DeriveKey(
            session,
            mechanism: *mut CK_MECHANISM,
            base: CK_OBJECT_HANDLE,
            template: *mut CK_ATTRIBUTE,
            count: CK_ULONG,
            key: *mut CK_OBJECT_HANDLE
        );
        C_SeedRandom(session, seed: *mut CK_BYTE, length: CK_ULONG);
        C_GetFunctionStatus(session);
        C_CancelFunction(session);
    }
    own {
        C_Finalize
        C_GetTokenInfo
        C_GetMechanismList
        C_GetMechanismInfo
        C_DestroyObject
        C_GetAttributeValue
        C_FindObjects
        C_EncryptInit
        C_Encrypt
        C_DecryptInit
        C_Decrypt
        C_GenerateRandom
        C_WrapKey
        C_UnwrapKey
    }
}

/// Gives the function list (PKCS#11 v2.40 §5.4). The one function that is looked up by name.
///
/// # Safety
///
/// `list` is null or takes a pointer.
#[unsafe(no_mangle)]
#[expect(unreachable_pub, reason = "reached by its symbol")]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    if crate::inner::functions().is_none() {
        return CKR_GENERAL_ERROR;
    }
    // SAFETY: not null, and by the contract of this function. Callers do not write to the list.
    unsafe { *list = (&raw const LIST).cast_mut() };
    CKR_OK
}

unsafe extern "C" fn C_Finalize(reserved: CK_VOID_PTR) -> CK_RV {
    call("C_Finalize", None, |inner, _struck| {
        // Handles of the next initialisation mean other objects.
        handles::forget();
        dialect::forget();
        match inner.C_Finalize {
            // SAFETY: the caller's argument.
            Some(function) => unsafe { function(reserved) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    })
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    call("C_GetTokenInfo", None, |inner, struck| {
        let Some(function) = inner.C_GetTokenInfo else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the caller's arguments; after success, `info` is a structure that the inner module has written.
        unsafe {
            let rv = function(slot, info);
            if rv == CKR_OK && !info.is_null() {
                for struck in struck {
                    if let Fault::TokenFlags(flags) = struck.fault {
                        (*info).flags |= flags;
                        if flags & CKF_CLOCK_ON_TOKEN != 0 {
                            (*info).utcTime = [b'?'; 16];
                        }
                    }
                }
            }
            rv
        }
    })
}

unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    call("C_GetMechanismList", None, |inner, struck| {
        let Some(function) = inner.C_GetMechanismList else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the caller's arguments; after success, `list` if not null holds `*count` numbers.
        unsafe {
            let rv = function(slot, list, count);
            if rv == CKR_OK && !list.is_null() {
                let given = usize::try_from(*count).unwrap_or_default();
                let given = std::slice::from_raw_parts_mut(list, given);
                let known =
                    |mechanism: &CK_MECHANISM_TYPE| !does(struck, Fault::NoMechanism(*mechanism));
                let kept: Vec<_> = given.iter().copied().filter(known).collect();
                for (place, mechanism) in given.iter_mut().zip(&kept) {
                    *place = *mechanism;
                }
                *count = CK_ULONG::try_from(kept.len()).unwrap_or_default();
            }
            rv
        }
    })
}

unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    call("C_GetMechanismInfo", None, |inner, struck| {
        if does(struck, Fault::NoMechanism(mechanism)) {
            return CKR_MECHANISM_INVALID;
        }
        match inner.C_GetMechanismInfo {
            // SAFETY: the caller's arguments.
            Some(function) => unsafe { function(slot, mechanism, info) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    })
}

unsafe extern "C" fn C_DestroyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
) -> CK_RV {
    call("C_DestroyObject", Some(session), |inner, struck| {
        match inner.C_DestroyObject {
            // SAFETY: takes numbers only.
            Some(function) => unsafe { function(session, handles::handle(struck, object)) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    })
}

unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    call("C_GetAttributeValue", Some(session), |inner, struck| {
        let object = handles::handle(struck, object);
        match inner.C_GetAttributeValue {
            // SAFETY: the caller's arguments; any handle will do.
            Some(function) => unsafe { function(session, object, template, count) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    })
}

unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    max: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    call("C_FindObjects", Some(session), |inner, struck| {
        let Some(function) = inner.C_FindObjects else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the caller's arguments; after success, `objects` holds `*count` handles.
        unsafe {
            let rv = function(session, objects, max, count);
            if rv == CKR_OK && !objects.is_null() {
                let given = usize::try_from(*count).unwrap_or_default();
                for object in std::slice::from_raw_parts_mut(objects, given) {
                    *object = handles::number(inner, struck, session, *object);
                }
            }
            rv
        }
    })
}

unsafe extern "C" fn C_EncryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    call("C_EncryptInit", Some(session), |inner, struck| {
        let key = handles::handle(struck, key);
        // SAFETY: by the standard `mechanism` is null or points to one, whose parameters are what it says they are.
        unsafe {
            if let Some(answer) = absent(struck, mechanism) {
                return answer;
            }
            let dialect = struck.iter().find_map(|struck| match struck.fault {
                Fault::ZeroIv | Fault::AppendIv(_) => Some(struck.fault),
                _ => None,
            });
            dialect::encrypt_init(inner, dialect, session, mechanism, key)
        }
    })
}

unsafe extern "C" fn C_Encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> CK_RV {
    call("C_Encrypt", Some(session), |inner, struck| {
        // SAFETY: the caller's arguments; after success, `out` if not null holds `*out_length` bytes.
        unsafe {
            let rv = dialect::encrypt(inner, session, data, length, out, out_length);
            if rv == CKR_OK {
                spoil(struck, out, out_length);
            }
            rv
        }
    })
}

unsafe extern "C" fn C_DecryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    call("C_DecryptInit", Some(session), |inner, struck| {
        let key = handles::handle(struck, key);
        // SAFETY: by the standard `mechanism` is null or points to one; the rest are the caller's arguments.
        unsafe {
            if let Some(answer) = absent(struck, mechanism) {
                return answer;
            }
            match inner.C_DecryptInit {
                Some(function) => function(session, mechanism, key),
                None => CKR_FUNCTION_NOT_SUPPORTED,
            }
        }
    })
}

unsafe extern "C" fn C_Decrypt(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> CK_RV {
    call("C_Decrypt", Some(session), |inner, struck| {
        let Some(function) = inner.C_Decrypt else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the caller's arguments; after success, `out` if not null holds `*out_length` bytes.
        unsafe {
            let rv = function(session, data, length, out, out_length);
            if rv == CKR_OK {
                spoil(struck, out, out_length);
            }
            rv
        }
    })
}

unsafe extern "C" fn C_GenerateRandom(
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    mut length: CK_ULONG,
) -> CK_RV {
    call("C_GenerateRandom", Some(session), |inner, struck| {
        let Some(function) = inner.C_GenerateRandom else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the caller's arguments; after success, `out` holds `length` bytes.
        unsafe {
            let rv = function(session, out, length);
            if rv == CKR_OK {
                spoil(struck, out, &raw mut length);
            }
            rv
        }
    })
}

unsafe extern "C" fn C_WrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> CK_RV {
    call("C_WrapKey", Some(session), |inner, struck| {
        let Some(function) = inner.C_WrapKey else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the caller's arguments, but for a copy of the mechanism that lives for the call.
        unsafe {
            let mut renamed = dialect::renamed(struck, mechanism);
            let mechanism = renamed.as_mut().map_or(mechanism, ptr::from_mut);
            function(session, mechanism, wrapping, key, out, out_length)
        }
    })
}

unsafe extern "C" fn C_UnwrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    length: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    call("C_UnwrapKey", Some(session), |inner, struck| {
        let Some(function) = inner.C_UnwrapKey else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the caller's arguments, but for copies of mechanism and template that live for the call.
        unsafe {
            let mut renamed = dialect::renamed(struck, mechanism);
            let mechanism = renamed.as_mut().map_or(mechanism, ptr::from_mut);
            let unwrap = |template, count| {
                function(
                    session, mechanism, unwrapping, wrapped, length, template, count, key,
                )
            };
            if does(struck, Fault::UnwrapLength) {
                return dialect::unwrap_of_length(inner, session, template, count, key, unwrap);
            }
            unwrap(template, count)
        }
    })
}

/// The answer to a mechanism that a fault has taken away.
///
/// # Safety
///
/// `mechanism` is null or points to one.
unsafe fn absent(struck: &[Struck], mechanism: *const CK_MECHANISM) -> Option<CK_RV> {
    // SAFETY: by the contract of this function.
    let mechanism = unsafe { mechanism.as_ref() }?.mechanism;
    does(struck, Fault::NoMechanism(mechanism)).then_some(CKR_MECHANISM_INVALID)
}
