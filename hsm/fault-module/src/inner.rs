//! The module that calls are forwarded to.
#![expect(unsafe_code, reason = "loading a library")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::{CK_FUNCTION_LIST, CKR_OK, Pkcs11};

use crate::{CONTROL_VARIABLE, INNER_DEFAULT, INNER_VARIABLE, rules};

/// The inner module and its functions. Never unloaded.
struct Inner {
    functions: CK_FUNCTION_LIST,
    _library: Pkcs11,
}

static INNER: OnceLock<Option<Inner>> = OnceLock::new();

/// The functions of the inner module, loaded when first asked for. `None`: it does not load, or there is no control
/// file; the reason is on standard error.
pub(crate) fn functions() -> Option<&'static CK_FUNCTION_LIST> {
    let inner = INNER.get_or_init(|| match load() {
        Ok(inner) => Some(inner),
        Err(reason) => {
            eprintln!("fault module: {reason}");
            None
        }
    });
    inner.as_ref().map(|inner| &inner.functions)
}

fn load() -> Result<Inner, String> {
    let control = std::env::var_os(CONTROL_VARIABLE);
    let control = control.ok_or_else(|| format!("{CONTROL_VARIABLE} is not set"))?;
    rules::load(&PathBuf::from(&control))
        .map_err(|error| format!("{}: {error}", control.display()))?;
    let path = std::env::var_os(INNER_VARIABLE).unwrap_or_else(|| OsString::from(INNER_DEFAULT));
    // SAFETY: whoever runs the test names the inner module as code to run; its initialisers run here.
    let library = unsafe { Pkcs11::new(&path) };
    let library = library.map_err(|error| format!("{}: {error}", path.display()))?;
    if library.C_GetFunctionList.is_err() {
        return Err(format!("{} has no C_GetFunctionList", path.display()));
    }
    let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
    // SAFETY: the symbol is there; `list` takes the one pointer that is written (PKCS#11 v2.40 §5.4).
    let rv = unsafe { library.C_GetFunctionList(&raw mut list) };
    if rv != CKR_OK || list.is_null() {
        return Err(format!("{} gives no function list", path.display()));
    }
    // SAFETY: not null, and a static of the library, which stays loaded.
    let functions = unsafe { list.read_unaligned() };
    Ok(Inner {
        functions,
        _library: library,
    })
}
