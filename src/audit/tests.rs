//! Tests of the chain.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How many bytes still fit on the disk of a test.
type Room = Arc<Mutex<Option<usize>>>;

/// The room on the disk of this directory: without limit, until a test sets one.
pub(super) fn room(dir: &Path) -> Room {
    static ROOMS: Mutex<BTreeMap<PathBuf, Room>> = Mutex::new(BTreeMap::new());
    Arc::clone(ROOMS.lock().expect("no panic").entry(dir.to_owned()).or_default())
}
