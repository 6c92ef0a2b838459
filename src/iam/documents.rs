//! Policies, parsed: the one place that asks `auth::policy` whether a text is one.
//!
//! A policy is parsed once and kept by the digest of its text. Parsing depends on nothing else, so what is kept can never
//! be out of date; which texts an identity has is read from the records at every request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use super::error::IamError;
use crate::auth::policy::{Document, Kind, Malformed};

/// Parsed policies that are kept. One more, and all are forgotten.
pub const DOCUMENTS_MAX: usize = 4096;

const UNREADABLE: IamError = IamError::Damaged("a policy does not read");

/// What a policy is for, which decides what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// What an identity or a session may do: no principals.
    Identity,
    /// Who may assume a role: no resources.
    Trust,
}

/// Parsed policies by the digest of use and text.
#[derive(Debug, Default)]
pub(super) struct Documents(Mutex<HashMap<[u8; 32], Arc<Document>>>);

impl Documents {
    /// A policy that was checked before it was stored.
    ///
    /// # Errors
    ///
    /// [`IamError::Damaged`] when it does not read any more: what it forbids cannot be known, so nothing is allowed.
    pub(super) fn stored(&self, of: Use, text: &str) -> Result<Arc<Document>, IamError> {
        let key = key(of, text);
        if let Some(document) = self.lock().get(&key) {
            return Ok(Arc::clone(document));
        }
        let document = parse(of, text)
            .map(Arc::new)
            .map_err(|_malformed| UNREADABLE)?;
        let mut documents = self.lock();
        if documents.len() >= DOCUMENTS_MAX {
            documents.clear();
        }
        documents.insert(key, Arc::clone(&document));
        Ok(document)
    }

    /// Nothing that panics is done under this lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Arc<Document>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trust policy that was checked before it was stored. It is not kept: it is asked once for a whole session.
///
/// # Errors
///
/// As [`Documents::stored`].
pub(super) fn stored_trust(text: &str) -> Result<Document, IamError> {
    parse(Use::Trust, text).map_err(|_malformed| UNREADABLE)
}

/// Checks a policy before it is stored.
///
/// # Errors
///
/// [`IamError::MalformedPolicy`].
pub(super) fn check(of: Use, text: &str) -> Result<Document, IamError> {
    parse(of, text).map_err(|malformed| IamError::MalformedPolicy(malformed.to_string()))
}

/// Characters of a policy that count against its limit: all but white space.
pub(super) fn counted_chars(text: &str) -> usize {
    text.chars().filter(|c| !c.is_whitespace()).count()
}

fn parse(of: Use, text: &str) -> Result<Document, Malformed> {
    let kind = match of {
        Use::Identity => Kind::Identity,
        Use::Trust => Kind::Trust,
    };
    Document::parse(text, kind)
}

fn key(of: Use, text: &str) -> [u8; 32] {
    let of: &[u8] = match of {
        Use::Identity => b"identity\0",
        Use::Trust => b"trust\0",
    };
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, &[of, text.as_bytes()].concat()).as_ref());
    key
}
