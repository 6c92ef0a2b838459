//! Object handles that come to mean other keys.
//!
//! Silently ([`Fault::SwapKeys`]): two neighbours among the handles found so far change places. With the sessions lost
//! ([`Fault::Renumber`]): as the sessions are closed, all numbers given so far are retired, and a key that is found from
//! then on gets the number that another key had.
#![expect(unsafe_code, reason = "calls of the inner module")]

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_FUNCTION_LIST, CK_INVALID_HANDLE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE,
    CK_SLOT_ID, CK_TRUE, CK_ULONG, CKA_ID, CKR_OK,
};

use crate::fault::Fault;
use crate::rules::Struck;

/// The most slots whose sessions are closed.
const SLOTS_MAX: usize = 64;
/// The most handles that are remembered.
const HANDLES_MAX: usize = 4096;
/// The longest `CKA_ID` that tells keys apart.
const ID_BYTES_MAX: usize = 64;

/// A number, what it stands for in the inner module, and the key's `CKA_ID`.
#[derive(Debug, Clone)]
struct Handle {
    number: CK_OBJECT_HANDLE,
    inner: CK_OBJECT_HANDLE,
    id: Vec<u8>,
}

#[derive(Debug)]
struct Handles {
    /// In the order in which `C_FindObjects` first gave them.
    found: Vec<Handle>,
    /// From before all sessions were closed.
    retired: Vec<Handle>,
}

static HANDLES: Mutex<Handles> = Mutex::new(Handles {
    found: Vec::new(),
    retired: Vec::new(),
});

fn handles() -> MutexGuard<'static, Handles> {
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether handles are renumbered. Read-locked during each call of the inner module.
static RENUMBERED: RwLock<bool> = RwLock::new(false);

fn does(struck: &[Struck], fault: Fault) -> bool {
    struck.iter().any(|struck| struck.fault == fault)
}

/// Forgets all handles: those of the next initialisation mean other objects.
pub(crate) fn forget() {
    let mut handles = handles();
    handles.found.clear();
    handles.retired.clear();
}

/// Sees that handles are renumbered, or not, for the length of a call; closes all sessions if that changes.
pub(crate) fn numbering(
    inner: &CK_FUNCTION_LIST,
    struck: &[Struck],
) -> RwLockReadGuard<'static, bool> {
    let wanted = does(struck, Fault::Renumber);
    loop {
        let now = RENUMBERED.read().unwrap_or_else(PoisonError::into_inner);
        if *now == wanted {
            return now;
        }
        drop(now);
        let mut now = RENUMBERED.write().unwrap_or_else(PoisonError::into_inner);
        if *now != wanted {
            for slot in slots(inner) {
                // SAFETY: takes the slot only.
                unsafe { inner.C_CloseAllSessions.map(|close| close(slot)) };
            }
            let mut handles = handles();
            handles.retired = std::mem::take(&mut handles.found);
            *now = wanted;
        }
    }
}

/// Waits until no call is in the inner module, and keeps others out.
///
/// SoftHSM 2.6.1 frees the sessions that `C_CloseAllSessions` closes, also those that a call of another thread still
/// uses. That crash is not the fault that was asked for.
pub(crate) fn alone() -> RwLockWriteGuard<'static, bool> {
    RENUMBERED.write().unwrap_or_else(PoisonError::into_inner)
}

/// The number to give for a handle that the inner module has found.
pub(crate) fn number(
    inner: &CK_FUNCTION_LIST,
    struck: &[Struck],
    session: CK_SESSION_HANDLE,
    handle: CK_OBJECT_HANDLE,
) -> CK_OBJECT_HANDLE {
    let known = handles().found.iter().any(|known| known.inner == handle);
    if !known {
        let id = id_of(inner, session, handle);
        handles().add(handle, id, does(struck, Fault::Renumber));
    }
    if does(struck, Fault::SwapKeys) {
        return handles().neighbour(handle);
    }
    let handles = handles();
    let known = handles.found.iter().find(|known| known.inner == handle);
    known.map_or(handle, |known| known.number)
}

/// The handle that the inner module is to be given for a number.
pub(crate) fn handle(struck: &[Struck], number: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
    if does(struck, Fault::SwapKeys) {
        return handles().neighbour(number);
    }
    if !does(struck, Fault::Renumber) {
        return number;
    }
    let handles = handles();
    let known = handles.found.iter().find(|known| known.number == number);
    known.map_or(CK_INVALID_HANDLE, |known| known.inner)
}

impl Handles {
    fn add(&mut self, inner: CK_OBJECT_HANDLE, id: Vec<u8>, renumbered: bool) {
        if self.found.len() >= HANDLES_MAX {
            return;
        }
        let taken = |number| self.found.iter().any(|known| known.number == number);
        let anothers = self
            .retired
            .iter()
            .find(|old| renumbered && old.id != id && !taken(old.number))
            .map(|old| old.number);
        let number = anothers
            .or_else(|| (!taken(inner)).then_some(inner))
            .unwrap_or_else(|| CK_ULONG::MAX - inner);
        self.found.push(Handle { number, inner, id });
    }

    fn neighbour(&self, handle: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        let index = self.found.iter().position(|known| known.inner == handle);
        let neighbour = index.and_then(|index| self.found.get(index ^ 1));
        neighbour.map_or(handle, |neighbour| neighbour.inner)
    }
}

fn id_of(
    inner: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    handle: CK_OBJECT_HANDLE,
) -> Vec<u8> {
    let mut id = vec![0; ID_BYTES_MAX];
    let mut attribute = CK_ATTRIBUTE {
        type_: CKA_ID,
        pValue: id.as_mut_ptr().cast(),
        ulValueLen: CK_ULONG::try_from(id.len()).unwrap_or_default(),
    };
    // SAFETY: one attribute, with room for as many bytes as it says.
    let rv = unsafe {
        inner
            .C_GetAttributeValue
            .map(|attributes| attributes(session, handle, &raw mut attribute, 1))
    };
    let length = usize::try_from(attribute.ulValueLen).unwrap_or_default();
    id.truncate(if rv == Some(CKR_OK) { length } else { 0 });
    id
}

fn slots(inner: &CK_FUNCTION_LIST) -> Vec<CK_SLOT_ID> {
    let mut slots = vec![0; SLOTS_MAX];
    let mut count = CK_ULONG::try_from(slots.len()).unwrap_or_default();
    // SAFETY: `slots` has room for `count` of them.
    let rv = unsafe {
        inner
            .C_GetSlotList
            .map(|list| list(CK_TRUE, slots.as_mut_ptr(), &raw mut count))
    };
    let count = usize::try_from(count).unwrap_or_default();
    slots.truncate(if rv == Some(CKR_OK) { count } else { 0 });
    slots
}
