//! One request on its way: which key is meant, and whether it may.

use super::members::{GrantTokens, Unhonoured};
use crate::auth::{Authorised, RequestContext, Resource};
use crate::kms::{AliasName, GrantId, KeyArn, KeyRef, Kms, KmsError};

pub(super) use crate::kms::Ask;

/// What every operation needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) kms: &'a Kms,
    pub(super) context: &'a RequestContext,
}

impl Call<'_> {
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
        ask: &Ask<'_>,
        text: &str,
    ) -> Result<(Authorised, KeyArn), KmsError> {
        let named = KeyRef::parse(text)?;
        let key = self.kms.resolve(&named).await?;
        let ask = ask.clone().named(&named);
        Ok((self.kms.authorise(self.context, &ask, &key).await?, key))
    }

    /// As [`Call::authorised_key`], but for operations that take no alias.
    pub(super) async fn authorised_key_but_no_alias(
        &self,
        ask: &Ask<'_>,
        text: &str,
    ) -> Result<(Authorised, KeyArn), KmsError> {
        let key = self.key_but_no_alias(text).await?;
        Ok((self.may(ask, &key).await?, key))
    }

    /// The proof that the caller may do this to `key`.
    pub(super) async fn may(&self, ask: &Ask<'_>, key: &KeyArn) -> Result<Authorised, KmsError> {
        self.kms.authorise(self.context, ask, key).await
    }

    /// The proof that the caller may retire this grant: because the grant says so, or by policy.
    pub(super) async fn may_retire(
        &self,
        key: &KeyArn,
        id: GrantId,
    ) -> Result<Authorised, KmsError> {
        self.kms.authorise_retiring(self.context, key, id).await
    }

    /// The proof that the caller may do this to an alias.
    pub(super) fn may_alias(
        &self,
        action: &'static str,
        name: &AliasName,
    ) -> Result<Authorised, KmsError> {
        let alias = Resource::KmsAlias(self.kms.alias_arn(name.as_str()));
        self.kms
            .authorise_without_key(self.context, &Ask::new(action), alias)
    }

    /// The proof that the caller may do what concerns no key.
    pub(super) fn may_service(&self, ask: &Ask<'_>) -> Result<Authorised, KmsError> {
        let service = Resource::Service;
        self.kms.authorise_without_key(self.context, ask, service)
    }

    /// Refuses what is known and cannot be honoured, and grant tokens that are none.
    pub(super) async fn refuse(&self, unhonoured: &Unhonoured) -> Result<(), KmsError> {
        unhonoured.refuse()?;
        self.check_grant_tokens(unhonoured.grant_tokens.as_ref())
            .await
    }

    /// Every grant is in force by the time its token is out: a token is only checked to be one.
    pub(super) async fn check_grant_tokens(
        &self,
        tokens: Option<&GrantTokens>,
    ) -> Result<(), KmsError> {
        for token in tokens
            .map(GrantTokens::checked)
            .transpose()?
            .unwrap_or_default()
        {
            self.kms.read_grant_token(token).await?;
        }
        Ok(())
    }
}
