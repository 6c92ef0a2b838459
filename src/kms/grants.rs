//! Grants: a principal may do this with this key, no matter what the key's policy leaves unsaid.
//!
//! A grant only ever allows; an explicit denial of any policy is stronger. It is in force as soon as it is recorded:
//! grant tokens, which at AWS bridge the time until then, are checked and change nothing here.
//!
//! ```text
//! grant token: base64url, no padding, of HMAC (32 bytes) ‖ key id (16) ‖ grant id (32), the HMAC by the MAC key of
//!              the records under the name "\0grant token", which is no row's
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Encode};

use super::context::EncryptionContext;
use super::error::KmsError;
use super::key::{KeyArn, KeyId, Owner, Timestamp};
use super::spec::KeyUsage;
use super::table::{self, Rows};
use super::{BindError, COMMIT_ATTEMPTS_MAX, Kms, Page, check_proof, check_proof_of};
use crate::auth::policy::{Bound, Named, names};
use crate::auth::{AccountId, Authorised, Identity, Principal, Resource};
use crate::meta::{Batch, KeyRange, Row, table as tables};

/// The most grants of a key. AWS has 50,000; here they are read one by one when no policy has allowed a request.
pub const GRANTS_PER_KEY_MAX: u32 = 2_500;

/// All rows of a key's grants.
const SCAN_MAX: usize = GRANTS_PER_KEY_MAX as usize;
/// Rows of a list of all keys' grants that are read at a time.
const SCAN_STEP: usize = 1_000;
const TOKEN_NAME: &[u8] = b"\0grant token";

/// Names a grant: 32 random bytes, 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantId([u8; GrantId::BYTES]);

impl GrantId {
    const BYTES: usize = 32;

    fn random() -> Result<Self, KmsError> {
        let mut bytes = [0; Self::BYTES];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_unspecified| KmsError::internal("no randomness"))?;
        Ok(Self(bytes))
    }

    /// Reads its digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl std::fmt::Display for GrantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

macro_rules! operations {
    ($($number:literal $name:ident)*) => {
        /// What a grant can allow.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
        #[cbor(index_only)]
        pub enum GrantOperation {
            $(
                #[doc = concat!("`kms:", stringify!($name), "`")]
                #[n($number)]
                $name,
            )*
        }

        impl GrantOperation {
            /// All of them, by the names of the API.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Reads the name of the API.
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name of the API.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

operations! {
    0 Decrypt
    1 Encrypt
    2 GenerateDataKey
    3 GenerateDataKeyWithoutPlaintext
    4 ReEncryptFrom
    5 ReEncryptTo
    6 Sign
    7 Verify
    8 GetPublicKey
    9 CreateGrant
    10 RetireGrant
    11 DescribeKey
    12 GenerateDataKeyPair
    13 GenerateDataKeyPairWithoutPlaintext
    14 GenerateMac
    15 VerifyMac
    16 DeriveSharedSecret
}

impl GrantOperation {
    /// Whether a key of this usage can do it.
    fn is_of(self, usage: KeyUsage) -> bool {
        match self {
            Self::CreateGrant | Self::RetireGrant | Self::DescribeKey => true,
            Self::GenerateMac | Self::VerifyMac => usage == KeyUsage::GenerateVerifyMac,
            Self::Sign | Self::Verify | Self::GetPublicKey => usage == KeyUsage::SignVerify,
            Self::DeriveSharedSecret => false,
            Self::Decrypt
            | Self::Encrypt
            | Self::GenerateDataKey
            | Self::GenerateDataKeyWithoutPlaintext
            | Self::ReEncryptFrom
            | Self::ReEncryptTo
            | Self::GenerateDataKeyPair
            | Self::GenerateDataKeyPairWithoutPlaintext => usage == KeyUsage::EncryptDecrypt,
        }
    }

    /// Whether its requests bear an encryption context, which a constraint is about.
    fn has_context(self) -> bool {
        matches!(
            self,
            Self::Decrypt
                | Self::Encrypt
                | Self::GenerateDataKey
                | Self::GenerateDataKeyWithoutPlaintext
                | Self::ReEncryptFrom
                | Self::ReEncryptTo
                | Self::GenerateDataKeyPair
                | Self::GenerateDataKeyPairWithoutPlaintext
        )
    }
}

/// What the encryption context of a request must be. Pairs are sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum GrantConstraint {
    /// Just these pairs.
    #[n(0)]
    Equals(#[n(0)] Vec<(String, String)>),
    /// At least these pairs.
    #[n(1)]
    Subset(#[n(0)] Vec<(String, String)>),
}

impl GrantConstraint {
    fn holds(&self, context: &EncryptionContext) -> bool {
        match self {
            Self::Equals(pairs) => context
                .iter()
                .eq(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))),
            Self::Subset(pairs) => pairs
                .iter()
                .all(|(name, value)| context.iter().any(|pair| pair == (name, value))),
        }
    }

    /// Whether nothing passes `self` that would not pass `outer`.
    fn is_within(&self, outer: &Self) -> bool {
        match (self, outer) {
            (Self::Equals(inner), Self::Equals(outer)) => inner == outer,
            (Self::Equals(inner) | Self::Subset(inner), Self::Subset(outer)) => {
                outer.iter().all(|pair| inner.contains(pair))
            }
            (Self::Subset(_), Self::Equals(_)) => false,
        }
    }
}

/// What a new grant is to be.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewGrant {
    /// The ARN of who may.
    #[n(0)]
    pub grantee: String,
    /// The ARN of who may retire it, besides.
    #[n(1)]
    pub retiring: Option<String>,
    /// What. Sorted, none twice.
    #[n(2)]
    pub operations: Vec<GrantOperation>,
    /// With which encryption contexts only.
    #[n(3)]
    pub constraint: Option<GrantConstraint>,
    /// Two requests of one name and otherwise alike make one grant.
    #[n(4)]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct GrantRecord {
    #[n(0)]
    grant: NewGrant,
    #[n(1)]
    created: Timestamp,
    #[n(2)]
    issuing_account: String,
    /// Unique ids of those whom it names, if they are users or roles; not said of a grant from before they were kept.
    #[n(3)]
    bound: Option<Bound>,
}

/// A grant.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Its key.
    pub key: KeyArn,
    /// What it allows to whom.
    pub terms: NewGrant,
    /// When it was made.
    pub created: Timestamp,
    /// The account of who made it.
    pub issuing_account: String,
}

/// Where a list of grants goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantCursor {
    key: KeyId,
    grant: GrantId,
}

impl GrantCursor {
    /// Reads what [`ToString`] gave.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, grant) = text.split_once(' ')?;
        Some(Self {
            key: KeyId::parse(key)?,
            grant: GrantId::parse(grant)?,
        })
    }
}

impl std::fmt::Display for GrantCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.key, self.grant)
    }
}

/// Which grants of a key are listed.
#[derive(Debug, Clone, Default)]
pub struct GrantFilter {
    /// Only this one.
    pub id: Option<GrantId>,
    /// Only those for this grantee.
    pub grantee: Option<String>,
}

/// What a request that a grant may allow is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) principal: &'a Principal,
    pub(super) operation: GrantOperation,
    /// Of the request; empty where it has none.
    pub(super) context: &'a EncryptionContext,
    /// What `CreateGrant` is to make.
    pub(super) grant: Option<&'a NewGrant>,
}

impl GrantRecord {
    /// How `written`, one of its principals, names somebody.
    fn names(&self, written: &str, principal: &Principal) -> Option<Named> {
        let id = self.bound.as_ref().and_then(|bound| bound.get(written));
        names(written, id.map(String::as_str), principal)
    }

    /// How the grant names the caller, if it allows what is wanted.
    fn allows(&self, wanted: Wanted<'_>) -> Option<Named> {
        let Self { grant, .. } = self;
        let named = self.names(&grant.grantee, wanted.principal)?;
        let allowed = grant.operations.contains(&wanted.operation) && self.is_within(wanted);
        allowed.then_some(named)
    }

    /// Whether the constraint, and what a grantee may pass on, allow what is wanted.
    fn is_within(&self, wanted: Wanted<'_>) -> bool {
        let Self { grant, .. } = self;
        match (&grant.constraint, wanted.grant) {
            (Some(constraint), None) if wanted.operation.has_context() => {
                constraint.holds(wanted.context)
            }
            // A grantee passes on what it has, or less.
            (constraint, Some(new)) => {
                let operations = &new.operations;
                let narrow = match (constraint, &new.constraint) {
                    (None, _) => true,
                    (Some(outer), Some(inner)) => inner.is_within(outer),
                    (Some(_), None) => false,
                };
                narrow && operations.iter().all(|one| grant.operations.contains(one))
            }
            (_, None) => true,
        }
    }
}

fn grant_row(key: KeyId, grant: GrantId) -> Vec<u8> {
    [[tables::KMS_GRANT].as_slice(), key.as_bytes(), &grant.0].concat()
}

fn grant_rows(key: KeyId) -> KeyRange {
    KeyRange::prefix(&[[tables::KMS_GRANT].as_slice(), key.as_bytes()].concat())
}

fn cursor_of_row(row: &[u8]) -> Result<GrantCursor, KmsError> {
    let ids = row
        .get(1..)
        .and_then(|ids| ids.split_first_chunk::<{ KeyId::BYTES }>());
    let grant = ids.and_then(|(_, grant)| <[u8; GrantId::BYTES]>::try_from(grant).ok());
    match (ids, grant) {
        (Some((key, _)), Some(grant)) => Ok(GrantCursor {
            key: KeyId::from_bytes(*key),
            grant: GrantId(grant),
        }),
        _ => Err(KmsError::Damaged("row key of a grant")),
    }
}

/// All grants of a key.
async fn grants_of(rows: &Rows, key: KeyId) -> Result<Vec<(GrantId, GrantRecord)>, KmsError> {
    let found = rows.scan(&grant_rows(key), SCAN_MAX).await?;
    let grants = found.into_iter().map(|row| {
        let id = cursor_of_row(&row.0)?.grant;
        Ok((id, rows.open::<GrantRecord>("grant", row)?.record))
    });
    grants.collect()
}

/// How a grant of the key that allows what is wanted names the caller; the closest if several do.
pub(super) async fn granted(
    rows: &Rows,
    key: KeyId,
    wanted: Wanted<'_>,
) -> Result<Option<Named>, KmsError> {
    let grants = grants_of(rows, key).await?;
    let named = grants
        .iter()
        .filter_map(|(_, record)| record.allows(wanted));
    Ok(named.max())
}

/// Deletes all grants of a key that is destroyed.
pub(super) async fn delete_all(rows: &Rows, key: KeyId) -> Result<Batch, KmsError> {
    let found = rows.scan(&grant_rows(key), SCAN_MAX).await?;
    Ok(found
        .into_iter()
        .fold(Batch::new(), |batch, (row, stored)| {
            batch
                .unchanged(row.as_slice(), Some(&stored))
                .delete(row.as_slice())
        }))
}

impl Kms {
    /// Makes a grant, and its token; the earlier one when there is one of the same name and terms.
    ///
    /// # Errors
    ///
    /// [`KmsError::LimitExceeded`] beyond [`GRANTS_PER_KEY_MAX`]; [`KmsError::Managed`] for a key of the service;
    /// by the key's state.
    pub async fn create_grant(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        terms: &NewGrant,
    ) -> Result<(GrantId, String), KmsError> {
        const ACTION: &str = "kms:CreateGrant";
        check_proof(proof, &[ACTION], key)?;
        let owner = Owner::Key(key.clone());
        let id = GrantId::random()?;
        let bound = self.bind_grant(terms).await?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head = rows.head(&owner).await?;
            head.record.customer_managed(key, ACTION)?;
            let _enabled = head.record.usable(&owner, ACTION, self.now())?;
            let usage = head.record.spec()?.usage();
            if let Some(other) = terms.operations.iter().find(|one| !one.is_of(usage)) {
                return Err(KmsError::Validation(format!(
                    "{key} key usage is {} which is not valid for {}.",
                    usage.name(),
                    other.name()
                )));
            }
            if terms.name.is_some() {
                let grants = grants_of(&rows, key.key_id()).await?;
                let alike = |record: &GrantRecord| {
                    record.grant == *terms && record.bound.as_ref() == Some(&bound)
                };
                if let Some((id, _)) = grants.iter().find(|(_, record)| alike(record)) {
                    return Ok((*id, self.grant_token(key.key_id(), *id).await?));
                }
            }
            let mut counted = head.record.clone();
            counted.grants += 1;
            if counted.grants > GRANTS_PER_KEY_MAX {
                return Err(KmsError::LimitExceeded(format!(
                    "Too many grants: a key has at most {GRANTS_PER_KEY_MAX}"
                )));
            }
            let record = GrantRecord {
                grant: terms.clone(),
                created: self.now(),
                issuing_account: proof.principal().account.to_string(),
                bound: Some(bound.clone()),
            };
            let batch = rows
                .insert(grant_row(key.key_id(), id), &record)
                .and(rows.replace(&head, &counted));
            if self.commit(batch).await? {
                return Ok((id, self.grant_token(key.key_id(), id).await?));
            }
        }
        Err(KmsError::Busy)
    }

    async fn bind_grant(&self, terms: &NewGrant) -> Result<Bound, KmsError> {
        let principals = [Some(&terms.grantee), terms.retiring.as_ref()];
        let principals = principals.into_iter().flatten();
        let principals: Vec<_> = principals.map(String::as_str).collect();
        let bound = self.bind_principals(&principals).await;
        bound.map_err(|error| match error {
            BindError::Nobody(arn) => {
                KmsError::InvalidArn(format!("ARN does not refer to a valid principal: {arn}"))
            }
            BindError::Kms(error) => error,
        })
    }

    /// Lists a key's grants by id.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn list_grants(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        filter: &GrantFilter,
        limit: usize,
        after: Option<GrantCursor>,
    ) -> Result<Page<Grant, GrantCursor>, KmsError> {
        check_proof(proof, &["kms:ListGrants"], key)?;
        let rows = self.rows().await?;
        rows.head(&Owner::Key(key.clone())).await?;
        let grants = grants_of(&rows, key.key_id()).await?.into_iter();
        let items = grants
            .filter(|(id, _)| after.is_none_or(|after| *id > after.grant))
            .filter(|(id, _)| filter.id.is_none_or(|wanted| wanted == *id))
            .filter(|(_, record)| {
                let grantee = filter.grantee.as_ref();
                grantee.is_none_or(|grantee| *grantee == record.grant.grantee)
            })
            .take(limit.saturating_add(1))
            .map(|(id, record)| entry(id, key.clone(), record));
        Ok(Page::cut(items.collect(), limit, cursor))
    }

    /// Lists the grants of all keys, also those of other accounts, that `retiring` may retire because they say so. It is a
    /// principal of the caller's account (KMS API, `ListRetirableGrants`).
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidArn`] for a principal of another account; by the records.
    pub async fn list_retirable_grants(
        &self,
        proof: &Authorised,
        retiring: &str,
        limit: usize,
        after: Option<GrantCursor>,
    ) -> Result<Page<Grant, GrantCursor>, KmsError> {
        check_proof_of(proof, &["kms:ListRetirableGrants"], &Resource::Service)?;
        let account = &proof.principal().account;
        if retiring.split(':').nth(4) != Some(account.as_str()) {
            return Err(KmsError::InvalidArn(format!(
                "{retiring} is not a principal of the account {account}"
            )));
        }
        let rows = self.rows().await?;
        let mut items = Vec::new();
        let mut last = after.map(|after| grant_row(after.key, after.grant));
        loop {
            let after = last.as_deref().and_then(|row| row.get(1..));
            let range = table::rows_after(tables::KMS_GRANT, after);
            let found = rows.scan(&range, SCAN_STEP).await?;
            let full = found.len() == SCAN_STEP;
            last = found.last().map(|(row, _)| row.clone());
            for row in found {
                let at = cursor_of_row(&row.0)?;
                match self.retirable(&rows, at, row, retiring).await {
                    Ok(grant) => items.extend(grant),
                    // It says nothing about grants of other keys.
                    Err(error @ KmsError::Damaged(_)) => {
                        tracing::error!(event = "kms.grant.damaged", key_id = %at.key, %error);
                    }
                    Err(error) => return Err(error),
                }
            }
            if !full || items.len() > limit {
                return Ok(Page::cut(items, limit, cursor));
            }
        }
    }

    /// The grant in a row, if `retiring` may retire it.
    async fn retirable(
        &self,
        rows: &Rows,
        at: GrantCursor,
        row: Row,
        retiring: &str,
    ) -> Result<Option<Grant>, KmsError> {
        let record = rows.open::<GrantRecord>("grant", row)?.record;
        if record.grant.retiring.as_deref() != Some(retiring) {
            return Ok(None);
        }
        let account = rows.account_of(at.key).await?;
        let account = account.ok_or(KmsError::Damaged("grant of no key"))?;
        Ok(Some(entry(
            at.grant,
            self.key_arn(&account, at.key),
            record,
        )))
    }

    /// The grant that is to be retired or revoked.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub(super) async fn grant(&self, key: &KeyArn, id: GrantId) -> Result<GrantRecord, KmsError> {
        let rows = self.rows().await?;
        rows.head(&Owner::Key(key.clone())).await?;
        let row = grant_row(key.key_id(), id);
        let found = rows.load::<GrantRecord>("grant", row).await?;
        Ok(found.ok_or_else(|| no_grant(id))?.record)
    }

    /// Ends a grant: kms:RevokeGrant, or kms:RetireGrant by who may.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`]; [`KmsError::InvalidState`] for a key that is pending deletion.
    pub async fn end_grant(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        id: GrantId,
    ) -> Result<(), KmsError> {
        check_proof(proof, &["kms:RevokeGrant", "kms:RetireGrant"], key)?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head = rows.head(&Owner::Key(key.clone())).await?;
            head.record.not_dying(key)?;
            let row = grant_row(key.key_id(), id);
            let found = rows.load::<GrantRecord>("grant", row).await?;
            let found = found.ok_or_else(|| no_grant(id))?;
            let mut counted = head.record.clone();
            counted.grants = counted.grants.saturating_sub(1);
            let batch = found.delete().and(rows.replace(&head, &counted));
            if self.commit(batch).await? {
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    async fn grant_token(&self, key: KeyId, grant: GrantId) -> Result<String, KmsError> {
        let ids = [key.as_bytes().as_slice(), &grant.0].concat();
        Ok(URL_SAFE_NO_PAD.encode(self.mac().await?.seal(TOKEN_NAME, &ids)))
    }

    /// The grant that a token was given for, whether it is still there or not.
    ///
    /// # Errors
    ///
    /// [`KmsError::InvalidGrantToken`] for what [`Kms::create_grant`] has not given.
    pub async fn read_grant_token(&self, token: &str) -> Result<(KeyArn, GrantId), KmsError> {
        let sealed = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_not_base64| KmsError::InvalidGrantToken)?;
        let mac = self.mac().await?;
        let ids = mac
            .open(TOKEN_NAME, &sealed)
            .and_then(|ids| ids.split_first_chunk::<{ KeyId::BYTES }>())
            .and_then(|(key, grant)| Some((key, grant.try_into().ok()?)));
        let (key, grant) = ids.ok_or(KmsError::InvalidGrantToken)?;
        let key = KeyId::from_bytes(*key);
        let account = self.rows().await?.account_of(key).await?;
        // Of a key that is gone nobody knows whose it was.
        let account = account.as_ref().unwrap_or(self.account());
        Ok((self.key_arn(account, key), GrantId(grant)))
    }
}

fn entry(id: GrantId, key: KeyArn, record: GrantRecord) -> Grant {
    Grant {
        id,
        key,
        terms: record.grant,
        created: record.created,
        issuing_account: record.issuing_account,
    }
}

fn cursor(grant: &Grant) -> GrantCursor {
    GrantCursor {
        key: grant.key.key_id(),
        grant: grant.id,
    }
}

fn no_grant(id: GrantId) -> KmsError {
    KmsError::NotFound(format!("Grant ID {id} not found"))
}

impl GrantRecord {
    /// How the grant names who may retire it without any policy saying so: the retiring principal, the grantee if
    /// `RetireGrant` is among the operations, and the root of the account that made it (AWS KMS Developer Guide,
    /// "Retiring and revoking grants").
    pub(super) fn retirable_by(&self, principal: &Principal) -> Option<Named> {
        let Self { grant, .. } = self;
        let retiring = grant.retiring.as_deref();
        let grantee = Some(grant.grantee.as_str())
            .filter(|_| grant.operations.contains(&GrantOperation::RetireGrant));
        let named = [retiring, grantee].into_iter().flatten();
        let is_issuer = matches!(principal.identity, Identity::Root)
            && principal.account.as_str() == self.issuing_account;
        named
            .filter_map(|arn| self.names(arn, principal))
            .find(|named| *named != Named::Account)
            .or(is_issuer.then_some(Named::Itself))
    }
}

/// Whether the text is the ARN of a principal that a grant can name: an account's root, a user, a role, a session.
pub fn is_principal_arn(text: &str) -> bool {
    let mut parts = text.splitn(6, ':');
    let head: [Option<&str>; 6] = std::array::from_fn(|_| parts.next());
    let [
        Some("arn"),
        Some("aws"),
        Some(service),
        Some(""),
        Some(account),
        Some(name),
    ] = head
    else {
        return false;
    };
    let kinds: &[&str] = match service {
        "iam" => &["user/", "role/"],
        "sts" => &["assumed-role/", "federated-user/"],
        _ => return false,
    };
    let named = kinds
        .iter()
        .any(|kind| name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()));
    AccountId::parse(account).is_some() && (named || (service == "iam" && name == "root"))
}

#[cfg(test)]
mod tests {
    use super::{
        EncryptionContext, GrantConstraint, GrantOperation, GrantRecord, NewGrant, Timestamp,
        Wanted, is_principal_arn,
    };
    use crate::auth::{AccountId, Principal};

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn context(of: &[(&str, &str)]) -> EncryptionContext {
        EncryptionContext::from_map(pairs(of).into_iter().collect()).expect("within bounds")
    }

    fn root() -> Principal {
        Principal::root(AccountId::parse("123456789012").expect("digits"), "AKIA")
    }

    fn grant(operations: &[GrantOperation], constraint: Option<GrantConstraint>) -> NewGrant {
        NewGrant {
            grantee: root().arn(),
            retiring: None,
            operations: operations.to_vec(),
            constraint,
            name: None,
        }
    }

    fn allows(grant: &NewGrant, operation: GrantOperation, of: &EncryptionContext) -> bool {
        let record = GrantRecord {
            grant: grant.clone(),
            created: Timestamp::of(time::OffsetDateTime::UNIX_EPOCH),
            issuing_account: String::new(),
            bound: None,
        };
        let named = record.allows(Wanted {
            principal: &root(),
            operation,
            context: of,
            grant: None,
        });
        named.is_some()
    }

    #[test]
    fn a_grant_allows_its_operations_to_its_grantee_only() {
        use GrantOperation::{Decrypt, Encrypt};
        let mut given = grant(&[Decrypt], None);
        assert!(allows(&given, Decrypt, &context(&[])));
        assert!(!allows(&given, Encrypt, &context(&[])));
        given.grantee = "arn:aws:iam::123456789012:user/root".to_owned();
        assert!(!allows(&given, Decrypt, &context(&[])));
    }

    #[test]
    fn constraints_hold_for_requests_with_a_context_only() {
        use GrantOperation::{Decrypt, DescribeKey};
        let both = [Decrypt, DescribeKey];
        let equals = grant(&both, Some(GrantConstraint::Equals(pairs(&[("a", "1")]))));
        let subset = grant(&both, Some(GrantConstraint::Subset(pairs(&[("a", "1")]))));
        for (of, by_equals, by_subset) in [
            (context(&[]), false, false),
            (context(&[("a", "1")]), true, true),
            (context(&[("a", "2")]), false, false),
            (context(&[("a", "1"), ("b", "2")]), false, true),
            (context(&[("b", "2")]), false, false),
        ] {
            assert_eq!(allows(&equals, Decrypt, &of), by_equals);
            assert_eq!(allows(&subset, Decrypt, &of), by_subset);
            assert!(allows(&equals, DescribeKey, &of));
        }
    }

    #[test]
    fn a_grantee_passes_on_no_more_than_it_has() {
        use GrantOperation::{CreateGrant, Decrypt, Encrypt};
        let subset = |of: &[(&str, &str)]| Some(GrantConstraint::Subset(pairs(of)));
        let equals = |of: &[(&str, &str)]| Some(GrantConstraint::Equals(pairs(of)));
        let parent = GrantRecord {
            grant: grant(&[CreateGrant, Decrypt], subset(&[("a", "1")])),
            created: Timestamp::of(time::OffsetDateTime::UNIX_EPOCH),
            issuing_account: String::new(),
            bound: None,
        };
        for (child, may) in [
            (grant(&[Decrypt], subset(&[("a", "1")])), true),
            (grant(&[Decrypt], subset(&[("a", "1"), ("b", "2")])), true),
            (grant(&[Decrypt], equals(&[("a", "1")])), true),
            (grant(&[Decrypt], None), false),
            (grant(&[Decrypt], subset(&[("b", "2")])), false),
            (grant(&[Decrypt], equals(&[("b", "2")])), false),
            (grant(&[Encrypt], subset(&[("a", "1")])), false),
        ] {
            let wanted = Wanted {
                principal: &root(),
                operation: CreateGrant,
                context: &context(&[]),
                grant: Some(&child),
            };
            assert_eq!(parent.allows(wanted).is_some(), may, "{child:?}");
        }
    }

    #[test]
    fn principals_are_accounts_users_roles_and_sessions() {
        for (arn, is) in [
            ("arn:aws:iam::123456789012:root", true),
            ("arn:aws:iam::123456789012:user/division/anna", true),
            ("arn:aws:iam::123456789012:role/r", true),
            ("arn:aws:sts::123456789012:assumed-role/r/s", true),
            ("arn:aws:iam::123456789012:user/", false),
            ("arn:aws:iam::1234:root", false),
            ("arn:aws:s3:::bucket", false),
            ("123456789012", false),
            ("*", false),
        ] {
            assert_eq!(is_principal_arn(arn), is, "{arn}");
        }
    }
}
