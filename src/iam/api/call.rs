//! One request on its way: which entity is meant, and whether the caller may.

use super::form::{Form, NAME, Paging, to_marker};
use super::xml::Xml;
use crate::auth::policy::Side;
use crate::auth::{AccountId, Action, Authorised, Identity, RequestContext, Resource, authorise};
use crate::iam::{Iam, IamError, Kind, Page};

/// What every operation needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) iam: &'a Iam,
    pub(super) context: &'a RequestContext,
    pub(super) form: &'a Form,
}

impl<'a> Call<'a> {
    /// The account whose identities are meant: always the caller's.
    pub(super) fn account(&self) -> &'a AccountId {
        &self.context.principal.account
    }

    /// The name of the entity that the request is about: `UserName`, `GroupName` or `RoleName`.
    pub(super) fn name(&self, kind: Kind) -> Result<&'a str, IamError> {
        self.form.required(&format!("{}Name", kind.title()), &NAME)
    }

    /// The user that the request names, or else the caller, if it is one; `None` for the root user.
    pub(super) fn user_or_self(&self) -> Result<Option<String>, IamError> {
        if let Some(name) = self.form.text("UserName", &NAME)? {
            return Ok(Some(name.to_owned()));
        }
        match &self.context.principal.identity {
            Identity::User(user) => Ok(Some(user.name.clone())),
            Identity::Root => Ok(None),
            Identity::Session(_) => Err(IamError::Validation(
                "Must specify userName when calling with non-User credentials".to_owned(),
            )),
        }
    }

    /// The proof that the caller may do this to an entity. Where there is none, it is asked for as if it were on the top
    /// level.
    pub(super) async fn may_entity(
        &self,
        action: &'static str,
        kind: Kind,
        name: &str,
    ) -> Result<Authorised, IamError> {
        let arn = self.arn_of(kind, name).await?;
        self.may(action, arn)
    }

    /// As [`Call::may_entity`], where policies can also ask which managed policy it is about: `iam:PolicyARN`.
    pub(super) async fn may_entity_with_policy(
        &self,
        action: &'static str,
        kind: Kind,
        name: &str,
        policy: &str,
    ) -> Result<Authorised, IamError> {
        let arn = self.arn_of(kind, name).await?;
        self.authorise(action, Resource::Iam(arn), Some(policy))
    }

    async fn arn_of(&self, kind: Kind, name: &str) -> Result<String, IamError> {
        let found = self.iam.find(self.account(), kind, name).await?;
        Ok(match found {
            Some(record) => record.arn(self.account()),
            None => kind.arn(self.account(), "/", name),
        })
    }

    /// The proof that the caller may do this to what has this ARN.
    pub(super) fn may(&self, action: &'static str, arn: String) -> Result<Authorised, IamError> {
        self.authorise(action, Resource::Iam(arn), None)
    }

    /// The proof that the caller may do what concerns no entity in particular.
    pub(super) fn may_service(&self, action: &'static str) -> Result<Authorised, IamError> {
        self.authorise(action, Resource::Service, None)
    }

    /// Identities have no policies on the resource's side, and nobody manages those of another account.
    fn authorise(
        &self,
        action: &'static str,
        resource: Resource,
        policy: Option<&str>,
    ) -> Result<Authorised, IamError> {
        authorise(
            self.context,
            Action(action),
            resource,
            Side::None,
            |values| {
                if let Some(policy) = policy {
                    values.add("iam:PolicyARN", policy);
                }
            },
        )
        .map_err(IamError::AccessDenied)
    }

    /// A page of a list that is short enough to be read whole, in order.
    pub(super) fn page<T>(
        paging: &Paging,
        items: Vec<T>,
        cursor: impl Fn(&T) -> String,
    ) -> Page<T> {
        let is_left = |item: &T| {
            paging
                .after
                .as_ref()
                .is_none_or(|after| cursor(item) > *after)
        };
        let mut rest: Vec<T> = items.into_iter().filter(is_left).collect();
        rest.sort_by_key(&cursor);
        Page::cut(rest, paging.limit, cursor)
    }
}

/// The end of a list's answer.
pub(super) fn paged<T>(xml: &mut Xml, page: &Page<T>) {
    xml.value("IsTruncated", page.next.is_some());
    if let Some(next) = &page.next {
        xml.text("Marker", &to_marker(next));
    }
}
