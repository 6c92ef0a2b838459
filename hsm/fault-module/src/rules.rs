//! The module's side of the control file: mapped, so that a call without faults costs one read of memory.
#![expect(unsafe_code, reason = "the control file is shared memory")]

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::RULES_MAX;
use crate::control::{
    ARMED, CONTROL_BYTES, HITS_AT, LEFT_AT, RECORD_BYTES, TEXT_AT, TEXT_BYTES_MAX,
};
use crate::fault::{Fault, Rule};

static RULES: OnceLock<Rules> = OnceLock::new();

/// The mapped control file. Never unmapped: a call may hang on a rule until the process ends.
#[derive(Debug)]
pub(crate) struct Rules(NonNull<c_void>);

// SAFETY: what it points to is mapped for ever and reached through atomics, or read only once it does not change.
unsafe impl Send for Rules {}
// SAFETY: as above.
unsafe impl Sync for Rules {}

/// A fault that strikes this call, and the rule it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    state: &'static AtomicU64,
}

impl Struck {
    /// Whether the fault is still in force for calls that wait for its end.
    pub(crate) fn is_armed(&self) -> bool {
        self.state.load(Ordering::Acquire) == ARMED
    }
}

/// Maps the control file, once.
///
/// # Errors
///
/// When there is none or it has another length than ours.
pub(crate) fn load(path: &Path) -> io::Result<()> {
    if RULES.get().is_some() {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() != u64::try_from(CONTROL_BYTES).map_err(io::Error::other)? {
        return Err(io::Error::other("not a control file"));
    }
    let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, where the system likes it, of a file of exactly this length.
    let at = unsafe { mmap(ptr::null_mut(), CONTROL_BYTES, rights, flags, &file, 0) }?;
    let at = NonNull::new(at).ok_or_else(|| io::Error::other("mapped at null"))?;
    // Another thread may have been first; its mapping of the same file is as good.
    let _ = RULES.set(Rules(at));
    Ok(())
}

/// The faults that strike this call of `function`, each taken off its count.
pub(crate) fn strike(function: &str) -> Vec<Struck> {
    let mut struck = Vec::new();
    let Some(rules) = RULES.get() else {
        return struck;
    };
    for record in rules.records() {
        match record.state.load(Ordering::Acquire) {
            0 => break,
            ARMED => {}
            _ => continue,
        }
        let text = record.text();
        let rule = Rule::parse(&text).unwrap_or_else(|error| {
            eprintln!("control file: {error}");
            std::process::abort();
        });
        if rule.is_for(function) && record.claim() {
            record.hits.fetch_add(1, Ordering::AcqRel);
            struck.push(Struck {
                fault: rule.fault,
                state: record.state,
            });
        }
    }
    struck
}

struct Record {
    state: &'static AtomicU64,
    left: &'static AtomicI64,
    hits: &'static AtomicU64,
    text: *const [u8; TEXT_BYTES_MAX],
}

impl Rules {
    fn records(&self) -> impl Iterator<Item = Record> {
        (0..RULES_MAX).map(|index| {
            // SAFETY: within the mapping, which lives for ever, and aligned: it starts at a page and records are 256
            // bytes long. Other processes reach the integers as single aligned words, too.
            unsafe {
                let at = self.0.cast::<u8>().add(index * RECORD_BYTES);
                Record {
                    state: at.cast().as_ref(),
                    left: at.add(LEFT_AT).cast().as_ref(),
                    hits: at.add(HITS_AT).cast().as_ref(),
                    text: at.add(TEXT_AT).cast().as_ptr(),
                }
            }
        })
    }
}

impl Record {
    /// The text of a rule that has been armed.
    fn text(&self) -> String {
        // SAFETY: within the mapping; once the state is other than free, which was read with acquire, nobody writes it.
        let bytes = unsafe { self.text.read() };
        let text = String::from_utf8_lossy(&bytes);
        text.trim_end_matches('\0').to_owned()
    }

    /// Takes one call off the count, unless it is used up.
    fn claim(&self) -> bool {
        let one_less = |left: i64| match left {
            0 => None,
            1.. => Some(left - 1),
            ..0 => Some(left),
        };
        self.left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
            .is_ok()
    }
}
