//! One request on its way: which key is meant, and whether it may.

use crate::auth::{Action, Authorised, RequestContext, Resource, Via, authorise};
use crate::kms::{AliasName, KeyArn, KeyRef, Kms, KmsError};

/// What every operation needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) kms: &'a Kms,
    pub(super) context: &'a RequestContext,
}

impl Call<'_> {
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
        self.authorise(action, Resource::KmsKey(key.as_str().to_owned()))
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
