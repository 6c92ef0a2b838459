//! The encryption context: the caller's map, and the bytes that are authenticated.
//!
//! # Canonical bytes
//!
//! The pairs sorted by the bytes of their names; for each pair, name then value, each as its length in four bytes
//! (big-endian) and its UTF-8 bytes. An empty context is no bytes. Two contexts have the same bytes only if they are
//! the same map. This never changes: every ciphertext hangs on it.

use std::collections::BTreeMap;
use std::fmt;

use super::error::KmsError;

/// The most canonical bytes of a context.
pub const CONTEXT_BYTES_MAX: usize = 8 * 1024;

/// The caller's encryption context. `Debug` counts it and shows nothing: its values do not belong in logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EncryptionContext(BTreeMap<String, String>);

impl EncryptionContext {
    /// The context of these pairs.
    ///
    /// # Errors
    ///
    /// [`KmsError::Validation`] beyond [`CONTEXT_BYTES_MAX`].
    pub fn from_map(pairs: BTreeMap<String, String>) -> Result<Self, KmsError> {
        let bytes: usize = pairs
            .iter()
            .map(|(name, value)| 8 + name.len() + value.len())
            .sum();
        if bytes > CONTEXT_BYTES_MAX {
            return Err(KmsError::Validation(format!(
                "1 validation error detected: Value at 'encryptionContext' failed to satisfy constraint: Member must \
                 have length less than or equal to {CONTEXT_BYTES_MAX}"
            )));
        }
        Ok(Self(pairs))
    }

    /// Its pairs, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether it has no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes to authenticate, as the module's documentation has them.
    pub fn canonical(&self) -> Vec<u8> {
        // A BTreeMap of strings is in the order of their bytes.
        let mut bytes = Vec::new();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            // from_map has bounded every length far below 2^32.
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

impl fmt::Debug for EncryptionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionContext({} pairs)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTEXT_BYTES_MAX, EncryptionContext};

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        EncryptionContext::from_map(pairs).expect("within bounds")
    }

    #[test]
    fn canonical_bytes_are_these() {
        let bytes = context(&[("b", "2"), ("a", "é"), ("B", "")]).canonical();
        assert_eq!(
            hex::encode(bytes),
            "000000014200000000000000016100000002c3a900000001620000000132"
        );
        assert!(context(&[]).canonical().is_empty());
    }

    #[test]
    fn moving_a_byte_from_name_to_value_changes_the_bytes() {
        assert_ne!(
            context(&[("ab", "c")]).canonical(),
            context(&[("a", "bc")]).canonical()
        );
        assert_ne!(
            context(&[("a", "b"), ("c", "d")]).canonical(),
            context(&[("a", "bcd")]).canonical()
        );
    }

    #[test]
    fn the_limit_is_at_n_and_not_at_n_plus_one() {
        let fits = "x".repeat(CONTEXT_BYTES_MAX - 9);
        assert_eq!(
            context(&[("a", &fits)]).canonical().len(),
            CONTEXT_BYTES_MAX
        );
        let pairs = [("a".to_owned(), format!("{fits}x"))].into();
        assert!(EncryptionContext::from_map(pairs).is_err());
    }

    #[test]
    fn debug_prints_neither_names_nor_values() {
        assert_eq!(
            format!("{:?}", context(&[("name", "value")])),
            "EncryptionContext(1 pairs)"
        );
    }
}
