//! One request on its way: which key is meant, and whether it may.

use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use super::members::{GrantTokens, Unhonoured};
use crate::auth::{AccountId, Authorised, Origin, RequestContext, Resource};
use crate::kms::{AliasName, GrantId, KeyArn, KeyMaterialId, KeyRef, Kms, KmsError};

pub(super) use crate::kms::Ask;

/// What a request was found to be about: for its record in the audit.
#[derive(Debug, Default)]
pub(super) struct Noted {
    keys: Mutex<Vec<KeyArn>>,
    additional: Mutex<Map<String, Value>>,
}

impl Noted {
    /// The keys that were decided about, each once, in order.
    pub(super) fn keys(&self) -> Vec<KeyArn> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    /// What is known beyond request and answer: `additionalEventData`.
    pub(super) fn additional(&self) -> Map<String, Value> {
        let additional = &self.additional;
        let additional = additional.lock().unwrap_or_else(PoisonError::into_inner);
        additional.clone()
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
    /// The caller's account: names that say nothing of an account are its own.
    pub(super) fn account(&self) -> &AccountId {
        &self.context.principal.account
    }

    /// Where the request came from.
    pub(super) fn origin(&self) -> Origin {
        Origin::of(self.context)
    }

    /// The key that an id or an ARN names; an alias does not name one here.
    pub(super) async fn key_but_no_alias(&self, text: &str) -> Result<KeyArn, KmsError> {
        let key = KeyRef::parse(text)?;
        if key.is_alias() {
            return Err(KmsError::NotFound(format!("Invalid keyId '{text}'")));
        }
        self.kms.resolve(self.account(), &key).await
    }

    /// The key that any of the four forms names, and the proof that the caller may.
    pub(super) async fn authorised_key(
        &self,
        ask: &Ask<'_>,
        text: &str,
    ) -> Result<(Authorised, KeyArn), KmsError> {
        let named = KeyRef::parse(text)?;
        let key = self.kms.resolve_for(self.context, ask, &named).await?;
        let ask = ask.clone().named(&named);
        Ok((self.may(&ask, &key).await?, key))
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
        self.note(key);
        self.kms.authorise(self.context, ask, key).await
    }

    /// The proof that the caller may retire this grant: because the grant says so, or by policy.
    pub(super) async fn may_retire(
        &self,
        key: &KeyArn,
        id: GrantId,
    ) -> Result<Authorised, KmsError> {
        self.note(key);
        self.kms.authorise_retiring(self.context, key, id).await
    }

    /// Notes a key that is decided about.
    fn note(&self, key: &KeyArn) {
        let noted = &self.noted.keys;
        let mut keys = noted.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }

    /// Notes a backing key that was used, under the name that `CloudTrail` has for it.
    pub(super) fn used(&self, name: &'static str, material: KeyMaterialId) {
        self.tell(name, material.to_string());
    }

    /// Notes what is to be in the record beside request and answer.
    pub(super) fn tell(&self, name: &'static str, value: impl Into<Value>) {
        let additional = &self.noted.additional;
        let mut additional = additional.lock().unwrap_or_else(PoisonError::into_inner);
        additional.insert(name.to_owned(), value.into());
    }

    /// The proof that the caller may do this to an alias.
    pub(super) fn may_alias(
        &self,
        action: &'static str,
        name: &AliasName,
    ) -> Result<Authorised, KmsError> {
        let alias = Resource::KmsAlias(self.kms.alias_arn(self.account(), name.as_str()));
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
