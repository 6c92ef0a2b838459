//! What the head of a key records of materials that are brought along, and what the key's state makes of it.
//!
//! A key has a row for each of its materials, in the order in which they came: versions `1..=current` belong to it for
//! ever, and none of them may be missing while the key is used. One more may wait to become the current one; it belongs
//! to the key only then, and leaves nothing behind if it goes before.

use std::ops::RangeInclusive;

use minicbor::{Decode, Encode};

use crate::kms::KmsError;
use crate::kms::key::{KeyArn, KeyRecord, KeyState, Timestamp};

/// Where a material is that is brought along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(in crate::kms) enum MaterialState {
    /// There was none yet.
    #[n(0)]
    Never,
    /// In the token.
    #[n(1)]
    Present,
    /// On its way out: of no use, and perhaps still in the token.
    #[n(2)]
    Leaving,
    /// Not in the token any more. Its canary is kept.
    #[n(3)]
    Gone,
}

/// What is recorded of a material that is brought along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(in crate::kms) struct ImportRecord {
    #[n(0)]
    pub(in crate::kms) material: MaterialState,
    /// From then on it is of no use. Of one that leaves: when it expired; none if a caller deletes it.
    #[n(1)]
    pub(in crate::kms) expires: Option<Timestamp>,
}

impl ImportRecord {
    /// Of a new key.
    pub(in crate::kms) const NONE_YET: Self = Self {
        material: MaterialState::Never,
        expires: None,
    };

    /// Whether it is there and over.
    pub(in crate::kms) fn is_expired(&self, now: Timestamp) -> bool {
        self.material == MaterialState::Present && self.expires.is_some_and(|end| end <= now)
    }

    /// Whether it can be used.
    pub(in crate::kms) fn is_of_use(&self, now: Timestamp) -> bool {
        self.material == MaterialState::Present && !self.is_expired(now)
    }

    /// Whether something is left to be done about it.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.material == MaterialState::Leaving || self.is_expired(now)
    }
}

impl KeyRecord {
    /// What is recorded of a version of a key whose material is brought along.
    pub(in crate::kms) fn imported(&self, version: u32) -> Option<ImportRecord> {
        match version.checked_sub(2) {
            None if version == 1 => self.import,
            None => None,
            Some(later) => {
                let later = usize::try_from(later).ok()?;
                self.later_imports.get(later).copied()
            }
        }
    }

    fn imported_mut(&mut self, version: u32) -> Option<&mut ImportRecord> {
        match version.checked_sub(2) {
            None if version == 1 => self.import.as_mut(),
            None => None,
            Some(later) => self.later_imports.get_mut(usize::try_from(later).ok()?),
        }
    }

    /// The versions that belong to the key; one whose material was never brought along has none.
    pub(in crate::kms) fn versions(&self) -> RangeInclusive<u32> {
        let never = |import: ImportRecord| import.material == MaterialState::Never;
        if self.import.is_some_and(never) {
            #[expect(clippy::reversed_empty_ranges, reason = "none")]
            return 1..=0;
        }
        1..=self.current
    }

    /// The version that waits to become the current one.
    pub(in crate::kms) fn pending_version(&self) -> Option<u32> {
        let next = self.current.checked_add(1)?;
        self.import.and(self.imported(next)).map(|_record| next)
    }

    /// The versions that have a row: those that belong to the key, and the one that waits.
    pub(in crate::kms) fn recorded_versions(&self) -> RangeInclusive<u32> {
        match self.pending_version() {
            Some(pending) => 1..=pending,
            None => self.versions(),
        }
    }

    /// What is recorded of each version of a key whose material is brought along; the one that waits is the last.
    pub(in crate::kms) fn imports(&self) -> impl Iterator<Item = (u32, ImportRecord)> {
        self.import
            .iter()
            .chain(&self.later_imports)
            .zip(1..)
            .map(|(record, version)| (version, *record))
    }

    /// Of those that belong to the key.
    pub(in crate::kms) fn own_imports(&self) -> impl Iterator<Item = ImportRecord> {
        let current = self.current;
        self.imports()
            .filter(move |(version, _)| *version <= current)
            .map(|(_, record)| record)
    }

    /// Its state now: material that is over is not there, whether the clock has seen to it or not.
    pub(in crate::kms) fn state_at(&self, now: Timestamp) -> KeyState {
        match self.state {
            KeyState::Enabled | KeyState::Disabled
                if self.own_imports().any(|import| !import.is_of_use(now)) =>
            {
                KeyState::PendingImport
            }
            state => state,
        }
    }

    /// A caller has a material destroyed: it is of no use from now on; nor is the key that it belongs to.
    pub(super) fn lose_material(&mut self, version: u32) {
        if let Some(import) = self.imported_mut(version) {
            import.expires = None;
        }
        self.expire_material(version);
    }

    /// The same of a material that is over. When it was stays recorded, and tells the one from the other.
    pub(super) fn expire_material(&mut self, version: u32) {
        if let Some(import) = self.imported_mut(version) {
            import.material = MaterialState::Leaving;
        }
        match self.state {
            KeyState::Enabled | KeyState::Disabled if version <= self.current => {
                self.state = KeyState::PendingImport;
            }
            _ => {}
        }
    }

    /// A material that was to be destroyed is.
    pub(super) fn material_gone(&mut self, version: u32) {
        if self.pending_version() == Some(version) {
            self.later_imports.pop();
        } else if let Some(import) = self.imported_mut(version) {
            import.material = MaterialState::Gone;
            import.expires = None;
        }
    }

    /// A material is there: the first one, the next one, or one that was there before. With the last that was missing, the
    /// key can be used.
    pub(super) fn material_there(&mut self, version: u32, expires: Option<Timestamp>) {
        let there = ImportRecord {
            material: MaterialState::Present,
            expires,
        };
        match self.imported_mut(version) {
            Some(import) => *import = there,
            None => self.later_imports.push(there),
        }
        if self.state == KeyState::PendingImport && !self.is_missing_material() {
            self.state = KeyState::Enabled;
        }
    }

    /// Whether a material that belongs to the key is not in the token, as recorded.
    pub(in crate::kms) fn is_missing_material(&self) -> bool {
        self.own_imports()
            .any(|import| import.material != MaterialState::Present)
    }

    /// Checks that the key's material is brought along.
    pub(super) fn see_external(&self, key: &KeyArn) -> Result<(), KmsError> {
        match self.import {
            Some(_) => Ok(()),
            None => Err(KmsError::Unsupported(format!(
                "{key} origin is AWS_KMS which is not valid for this operation."
            ))),
        }
    }
}
