//! One request on its way: which key is meant, and whether it may.

use std::sync::{Mutex, PoisonError};

use crate::auth::{Action, Authorised, Origin, RequestContext, Resource, Via, authorise};
use crate::kms::{AliasName, KeyArn, KeyMaterialId, KeyRef, Kms, KmsError};

/// What a request was found to be about: for its record in the audit.
#[derive(Debug, Default)]
pub(super) struct Noted {
    keys: Mutex<Vec<String>>,
    materials: Mutex<Vec<(&'static str, String)>>,
}

impl Noted {
    /// ARNs of the keys that were decided about, each once, in order.
    pub(super) fn keys(&self) -> Vec<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    /// The backing keys that were used, each with what it was used for.
    pub(super) fn materials(&self) -> Vec<(&'static str, String)> {
        let used = self
            .materials
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.clone()
    }
}

/// What every operation needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) kms: &'a Kms,
    pub(super) context: &'a RequestContext,
    pub(super) noted: &'a Noted,
}

impl Call<'_> {
    /// Where the request came from.
    pub(super) fn origin(&self) -> Origin {
        Origin::of(self.context, Via::Direct)
    }

    /// The key that any of the four forms names.
    pub(super) async fn key(&self, text: &str) -> Result<KeyArn, KmsError> {
        self.kms.resolve(&KeyRef::parse(text)?).await
    }

    /// The key that an id or an ARN names; an alias does not name one here.
    pub(super) async fn key_but_no_alias(&self, text: &str) -> Result<KeyArn, KmsError> {
        let key = KeyRef::parse(text)?;
        if key.is_alias() {
            return Err(KmsError::NotFound(format!("Invalid keyId '{text}'")));
        }
        self.kms.resolve(&key).await
    }

    /// The key that any of the four forms names, and the proof that the caller may.
    pub(super) async fn authorised_key(
        &self,
        action: &'static str,
        text: &str,
    ) -> Result<(Authorised, KeyArn), KmsError> {
        let key = self.key(text).await?;
        Ok((self.may(action, &key)?, key))
    }

    /// As [`Call::authorised_key`], but for operations that take no alias.
    pub(super) async fn authorised_key_but_no_alias(
        &self,
        action: &'static str,
        text: &str,
    ) -> Result<(Authorised, KeyArn), KmsError> {
        let key = self.key_but_no_alias(text).await?;
        Ok((self.may(action, &key)?, key))
    }

    /// The proof that the caller may do this to `key`.
    pub(super) fn may(&self, action: &'static str, key: &KeyArn) -> Result<Authorised, KmsError> {
        let mut keys = self
            .noted
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !keys.iter().any(|noted| noted == key.as_str()) {
            keys.push(key.to_string());
        }
        drop(keys);
        self.authorise(action, Resource::KmsKey(key.as_str().to_owned()))
    }

    /// Notes a backing key that was used, under the name that `CloudTrail` has for it.
    pub(super) fn used(&self, name: &'static str, material: KeyMaterialId) {
        let mut used = self
            .noted
            .materials
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.push((name, material.to_string()));
    }

    /// The proof that the caller may do this to an alias.
    pub(super) fn may_alias(
        &self,
        action: &'static str,
        name: &AliasName,
    ) -> Result<Authorised, KmsError> {
        self.authorise(
            action,
            Resource::KmsAlias(self.kms.alias_arn(name.as_str())),
        )
    }

    /// The proof that the caller may do what concerns no key.
    pub(super) fn may_service(&self, action: &'static str) -> Result<Authorised, KmsError> {
        self.authorise(action, Resource::Service)
    }

    fn authorise(&self, action: &'static str, resource: Resource) -> Result<Authorised, KmsError> {
        authorise(self.context, Via::Direct, Action(action), resource)
            .map_err(KmsError::AccessDenied)
    }
}
