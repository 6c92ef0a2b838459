//! Who may do what with a key: the key's policy, its grants and the caller's own policies, brought before the one
//! decision of [`auth`](crate::auth).
//!
//! Both front ends ask here, the KMS API for its callers and the object path for those who read and write objects.
//! Whether the caller may is decided before the key's state is looked at.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Kms;
use super::context::EncryptionContext;
use super::error::KmsError;
use super::grants::{self, GrantId, GrantOperation, NewGrant, Wanted};
use super::key::{KeyArn, KeyId, KeyRecord, KeyRef, Owner};
use super::policy::{POLICY_NAME, PolicyRecord, default_document};
use super::table::{self, Rows};
use crate::auth::policy::{Denial, Document, Named, PolicyKind, Side, Values};
use crate::auth::{AccountId, Action, Authorised, Denied, RequestContext, Resource, authorise};

/// The most key policies that are kept as they were read.
const POLICIES_KEPT_MAX: usize = 1_000;

/// What only the server's first account asks about: token groups, the tokens' own word and the audit are the operator's.
const OPERATORS: [&str; 8] = [
    "kms:ConnectCustomKeyStore",
    "kms:CreateCustomKeyStore",
    "kms:DeleteCustomKeyStore",
    "kms:DescribeCustomKeyStores",
    "kms:DisconnectCustomKeyStore",
    "kms:UpdateCustomKeyStore",
    "strongroom:KeyInventory",
    "strongroom:VerifyAuditCheckpoints",
];

/// Actions for which `kms:TrailingDaysWithoutKeyUsage` says something.
const ASKED_ABOUT_LAST_USE: [&str; 2] = ["kms:DisableKey", "kms:ScheduleKeyDeletion"];

/// What a caller wants to do with a key, as policies and grants are asked about it.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    action: &'static str,
    context: Option<&'a EncryptionContext>,
    grant: Option<&'a NewGrant>,
    values: Vec<(String, String)>,
    /// The alias ARN by which the key was named.
    alias: Option<String>,
}

impl<'a> Ask<'a> {
    /// Whether the caller may do `action`: `kms:Decrypt`.
    pub fn new(action: &'static str) -> Self {
        Self {
            action,
            context: None,
            grant: None,
            values: Vec::new(),
            alias: None,
        }
    }

    /// With this encryption context.
    #[must_use]
    pub fn context(mut self, context: &'a EncryptionContext) -> Self {
        self.context = Some(context);
        self
    }

    /// To make this grant.
    #[must_use]
    pub fn grant(mut self, grant: &'a NewGrant) -> Self {
        self.grant = Some(grant);
        self
    }

    /// With one more value of a condition key.
    #[must_use]
    pub fn value(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.values.push((name.into(), value.into()));
        self
    }

    /// By this name of the key: `kms:RequestAlias`.
    #[must_use]
    pub fn named(mut self, key: &KeyRef) -> Self {
        self.alias = match key {
            KeyRef::AliasArn { .. } => Some(key.to_string()),
            KeyRef::KeyId(_) | KeyRef::KeyArn { .. } | KeyRef::AliasName(_) => None,
        };
        match key.alias() {
            Some(alias) => self.value("kms:RequestAlias", alias),
            None => self,
        }
    }

    /// Through a service of this region: `kms:ViaService`.
    #[must_use]
    pub fn via(self, service: &str, region: &str) -> Self {
        self.value(
            "kms:ViaService",
            format!("{service}.{region}.amazonaws.com"),
        )
    }
}

/// Policies as they were last read: what is stored, and what it says.
#[derive(Debug, Default)]
pub(super) struct ReadPolicies(Mutex<HashMap<KeyId, (PolicyRecord, Arc<Document>)>>);

impl ReadPolicies {
    fn document(&self, key: KeyId, record: PolicyRecord) -> Result<Arc<Document>, KmsError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, document)) = kept.get(&key).filter(|(was, _)| *was == record) {
            return Ok(Arc::clone(document));
        }
        let document = Arc::new(record.read()?);
        if kept.len() >= POLICIES_KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, (record, Arc::clone(&document)));
        Ok(document)
    }
}

impl Kms {
    /// As [`Kms::resolve`], for what the caller then asks to do. Whether there is an alias of another account is not told.
    ///
    /// # Errors
    ///
    /// As [`Kms::resolve`]; [`KmsError::AccessDenied`] for an alias of another account that is not there.
    pub async fn resolve_for(
        &self,
        caller: &RequestContext,
        ask: &Ask<'_>,
        key: &KeyRef,
    ) -> Result<KeyArn, KmsError> {
        let account = &caller.principal.account;
        match (self.resolve(account, key).await, key) {
            (Err(KmsError::NotFound(_)), KeyRef::AliasArn { account: owner, .. })
                if owner != account.as_str() && AccountId::parse(owner).is_some() =>
            {
                Err(KmsError::AccessDenied(Denied {
                    principal: caller.principal.arn(),
                    action: ask.action,
                    resource: key.to_string(),
                    denial: Denial::Implicit {
                        lacking: PolicyKind::Resource,
                    },
                    own: false,
                }))
            }
            (resolved, _) => resolved,
        }
    }

    /// Decides whether the caller may do what is asked with `key`, whether it exists or not.
    ///
    /// # Errors
    ///
    /// [`KmsError::AccessDenied`]; by the records.
    pub async fn authorise(
        &self,
        caller: &RequestContext,
        ask: &Ask<'_>,
        key: &KeyArn,
    ) -> Result<Authorised, KmsError> {
        let decided = self.decide(caller, ask, key).await;
        match (decided, &ask.alias) {
            // Where an alias of another account points is not told to who may not use it.
            (Err(KmsError::AccessDenied(denied)), Some(alias)) if !denied.own => {
                Err(KmsError::AccessDenied(Denied {
                    resource: alias.clone(),
                    ..denied
                }))
            }
            (decided, _) => decided,
        }
    }

    async fn decide(
        &self,
        caller: &RequestContext,
        ask: &Ask<'_>,
        key: &KeyArn,
    ) -> Result<Authorised, KmsError> {
        let rows = self.rows().await?;
        let head = rows.head_if_any(&Owner::Key(key.clone())).await?;
        let head = head.map(|head| head.record);
        let policy = self.policy_of(&rows, key, head.is_some()).await?;
        let idle = match &head {
            Some(head) if ASKED_ABOUT_LAST_USE.contains(&ask.action) => {
                Some(self.days_without_use(&rows, key.key_id(), head).await?)
            }
            _ => None,
        };
        let add = |values: &mut Values| {
            add_values(values, caller, ask, head.as_ref());
            if let Some(days) = idle {
                values.add("kms:TrailingDaysWithoutKeyUsage", days.to_string());
            }
        };
        let decide = |grant| {
            let side = side(key, &policy, grant);
            authorise(caller, Action(ask.action), resource(key), side, add)
        };
        let denied = match decide(None) {
            Ok(proof) => return Ok(proof),
            Err(denied) => denied,
        };
        // A grant that may be retired by its grantee says so of itself, not of others.
        let operation = ask
            .action
            .strip_prefix("kms:")
            .and_then(GrantOperation::parse)
            .filter(|operation| *operation != GrantOperation::RetireGrant);
        if let (Some(operation), true) =
            (operation, head.as_ref().is_some_and(|head| head.grants > 0))
        {
            let none = EncryptionContext::default();
            let wanted = Wanted {
                principal: &caller.principal,
                operation,
                context: ask.context.unwrap_or(&none),
                grant: ask.grant,
            };
            if let Some(named) = grants::granted(&rows, key.key_id(), wanted).await? {
                return decide(Some(named)).map_err(KmsError::AccessDenied);
            }
        }
        Err(KmsError::AccessDenied(denied))
    }

    /// Decides about what concerns no key, or an alias alone.
    ///
    /// # Errors
    ///
    /// [`KmsError::AccessDenied`]; [`KmsError::Unsupported`] for a caller of another account than the first who asks
    /// about what is the operator's: custom key stores, the inventory, the audit.
    pub fn authorise_without_key(
        &self,
        caller: &RequestContext,
        ask: &Ask<'_>,
        resource: Resource,
    ) -> Result<Authorised, KmsError> {
        if OPERATORS.contains(&ask.action) && caller.principal.account != *self.account() {
            return Err(KmsError::Unsupported(format!(
                "{} is not supported for this account: it is of the server's first account only",
                ask.action
            )));
        }
        let add = |values: &mut Values| add_values(values, caller, ask, None);
        authorise(caller, Action(ask.action), resource, Side::None, add)
            .map_err(KmsError::AccessDenied)
    }

    /// Decides whether the caller may retire a grant: by the grant itself, else by policy.
    ///
    /// # Errors
    ///
    /// As [`Kms::authorise`]; [`KmsError::NotFound`] when there is no such grant, to who may know.
    pub async fn authorise_retiring(
        &self,
        caller: &RequestContext,
        key: &KeyArn,
        id: GrantId,
    ) -> Result<Authorised, KmsError> {
        let ask = Ask::new("kms:RetireGrant");
        let grant = match self.grant(key, id).await {
            Ok(grant) => grant.retirable_by(&caller.principal),
            Err(KmsError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        if grant.is_none() {
            return self.authorise(caller, &ask, key).await;
        }
        let rows = self.rows().await?;
        let head = rows.head(&Owner::Key(key.clone())).await?.record;
        let policy = self.policy_of(&rows, key, true).await?;
        let side = side(key, &policy, grant);
        let add = |values: &mut Values| add_values(values, caller, &ask, Some(&head));
        authorise(caller, Action(ask.action), resource(key), side, add)
            .map_err(KmsError::AccessDenied)
    }

    async fn policy_of(
        &self,
        rows: &Rows,
        key: &KeyArn,
        is_there: bool,
    ) -> Result<Arc<Document>, KmsError> {
        // Who may not even ask about a key that is not there, or is of another account than was named, learns nothing of
        // it.
        let record = if is_there {
            let row = table::policy_row(key.key_id(), POLICY_NAME);
            let stored = rows.load::<PolicyRecord>("key policy", row).await?;
            let stored = stored.ok_or(KmsError::Damaged("a key policy is missing"))?;
            stored.record
        } else {
            PolicyRecord::of_accounts(default_document(key.account()))
        };
        self.read_policies.document(key.key_id(), record)
    }
}

/// Adds what policies can ask about a request to KMS.
fn add_values(
    values: &mut Values,
    caller: &RequestContext,
    ask: &Ask<'_>,
    head: Option<&KeyRecord>,
) {
    for (name, value) in &ask.values {
        values.add(name, value.as_str());
    }
    values.add("kms:CallerAccount", caller.principal.account.as_str());
    for (name, value) in ask.context.iter().flat_map(|context| context.iter()) {
        values.add(&format!("kms:EncryptionContext:{name}"), value);
        values.add("kms:EncryptionContextKeys", name);
    }
    let Some(head) = head else { return };
    if let Ok(spec) = head.spec() {
        values.add("kms:KeySpec", spec.name());
        values.add("kms:KeyUsage", spec.usage().name());
    }
    values.add("kms:KeyOrigin", head.origin().name());
    values.add("kms:MultiRegion", "false");
    for (name, value) in &head.tags {
        values.add(&format!("aws:ResourceTag/{name}"), value.as_str());
    }
    for alias in &head.aliases {
        values.add("kms:ResourceAliases", alias.as_str());
    }
}

fn side<'a>(key: &'a KeyArn, policy: &'a Document, grant: Option<Named>) -> Side<'a> {
    Side::Key {
        owner: key.account(),
        policy,
        grant,
    }
}

fn resource(key: &KeyArn) -> Resource {
    Resource::KmsKey(key.as_str().to_owned())
}
