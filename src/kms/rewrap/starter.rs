//! Who began a re-wrap, and whether he may still: what he might do then says nothing about now.
//!
//! He is asked for at the beginning of each page, with the policies that he has by then, and the policies of both keys
//! are asked for each data key, with its encryption context.

use std::net::IpAddr;

use minicbor::{Decode, Encode};

use super::{Rewrap, RewrapLease};
use crate::auth::{AccountId, Authorised, Identity, Principal, RequestContext};
use crate::kms::access::Ask;
use crate::kms::context::EncryptionContext;
use crate::kms::error::KmsError;
use crate::kms::identities::BindError;
use crate::kms::key::KeyArn;
use crate::kms::{Kms, Starter, StarterIdentity};

/// Who began it, as recorded with a re-wrap.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct StarterRecord {
    /// Twelve digits.
    #[n(0)]
    account: String,
    #[n(1)]
    access_key_id: String,
    #[n(2)]
    identity: StarterIdentity,
    /// Where the request came from.
    #[n(3)]
    source_ip: Option<String>,
}

impl StarterRecord {
    pub(super) fn of(proof: &Authorised) -> Self {
        let principal = proof.principal();
        let identity = match &principal.identity {
            Identity::Root => StarterIdentity::Root,
            Identity::User(user) => StarterIdentity::User {
                id: user.id.clone(),
                name: user.name.clone(),
            },
            Identity::Session(session) => StarterIdentity::Session {
                role_id: session.role_id.clone(),
                role: session.role.clone(),
                name: session.name.clone(),
                policies: session
                    .session_policies
                    .iter()
                    .map(|policy| policy.text().to_owned())
                    .collect(),
            },
        };
        Self {
            account: principal.account.to_string(),
            access_key_id: principal.access_key_id.clone(),
            identity,
            source_ip: proof.origin().source_ip.map(|ip| ip.to_string()),
        }
    }
}

/// Who is asked about each data key.
#[derive(Debug)]
pub(super) enum Asked {
    /// Nobody: it was begun before it was recorded by whom.
    Nobody,
    /// Whoever began it, with the policies that he has now.
    Caller(Box<RequestContext>),
    /// He is not there any more.
    Gone,
}

impl Kms {
    pub(super) async fn asked(
        &self,
        rewrap: &Rewrap,
        starter: Option<&StarterRecord>,
    ) -> Result<Asked, KmsError> {
        let (Some(starter), Some(identities)) = (starter, self.identities()?) else {
            return Ok(Asked::Nobody);
        };
        let damaged = || KmsError::Damaged("who began a re-wrap");
        let account = AccountId::parse(&starter.account).ok_or_else(damaged)?;
        let who = Starter {
            account: account.clone(),
            identity: starter.identity.clone(),
        };
        let identity = identities.identity_of(&who).await;
        let identity = identity.map_err(|error| match error {
            BindError::Nobody(_) => damaged(),
            BindError::Kms(error) => error,
        })?;
        let Some(identity) = identity else {
            return Ok(Asked::Gone);
        };
        let principal = Principal {
            account,
            access_key_id: starter.access_key_id.clone(),
            identity,
        };
        let mut context = RequestContext::new(principal, rewrap.id.to_string());
        context.source_ip = starter
            .source_ip
            .as_deref()
            .and_then(|ip| ip.parse::<IpAddr>().ok());
        context.time = self.time();
        Ok(Asked::Caller(Box::new(context)))
    }

    /// Decides whether whoever began a re-wrap may do `action` with `key` now.
    ///
    /// # Errors
    ///
    /// [`KmsError::AccessDenied`]; [`KmsError::NotFound`] when he is not there any more; by the records.
    pub(super) async fn may_still(
        &self,
        RewrapLease { rewrap, asked, .. }: &RewrapLease,
        (action, key): (&'static str, &KeyArn),
        context: &EncryptionContext,
    ) -> Result<(), KmsError> {
        match asked {
            Asked::Nobody => Ok(()),
            Asked::Caller(caller) => {
                let is_same = rewrap.from == rewrap.to;
                let ask = Ask::new(action)
                    .context(context)
                    .value("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT")
                    .value("kms:ReEncryptOnSameKey", is_same.to_string());
                self.authorise(caller, &ask, key).await.map(drop)
            }
            Asked::Gone => Err(KmsError::NotFound(format!(
                "{}, who began this re-wrap, is not there any more",
                rewrap.started_by
            ))),
        }
    }
}
