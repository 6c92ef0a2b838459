//! What depends on a key: who keeps data keys that were wrapped by it. The data plane knows, and says it here.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::error::KmsError;
use super::key::{KeyArn, KeyId, KeyMaterialId, Owner};
use super::{Kms, check_proof};
use crate::auth::{AccountId, Authorised};
use crate::meta::{KeyRange, MetaError};

/// All versions of a key's backing key.
pub(super) const ALL_VERSIONS: RangeInclusive<u32> = 0..=u32::MAX;

/// Who keeps what was wrapped by a key. The data plane implements it; the control plane asks before a key goes.
#[async_trait::async_trait]
pub trait Dependants: std::fmt::Debug + Send + Sync + 'static {
    /// Where the rows are of which one is there as long as anything depends on `key`: for a precondition.
    fn rows(&self, key: KeyId) -> KeyRange;

    /// Counts what depends on these versions of `key`. What comes and goes meanwhile may be counted or not.
    ///
    /// # Errors
    ///
    /// [`DependantsError`].
    async fn usage(
        &self,
        key: KeyId,
        versions: RangeInclusive<u32>,
        scope: &Scope,
    ) -> Result<Usage, DependantsError>;
}

/// What can go wrong with counting.
#[derive(Debug, thiserror::Error)]
pub enum DependantsError {
    /// Caller: there is no such bucket.
    #[error("The bucket {0} does not exist")]
    NoSuchBucket(String),
    /// Operator: records.
    #[error("metadata")]
    Meta(#[source] MetaError),
}

impl From<MetaError> for DependantsError {
    fn from(error: MetaError) -> Self {
        Self::Meta(error)
    }
}

impl From<DependantsError> for KmsError {
    fn from(error: DependantsError) -> Self {
        match error {
            DependantsError::NoSuchBucket(_) => Self::NotFound(error.to_string()),
            DependantsError::Meta(error) => Self::meta(error),
        }
    }
}

/// Which dependants are meant. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only of this bucket.
    pub bucket: Option<String>,
    /// Only those whose object key begins so; needs a bucket.
    pub prefix: String,
    /// Only in buckets that this account owns.
    pub owner: Option<AccountId>,
}

/// How many dependants there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Dependent {
    /// Objects.
    #[n(0)]
    pub objects: u64,
    /// Bytes of their plaintext.
    #[n(1)]
    pub bytes: u64,
    /// Multipart uploads under way.
    #[n(2)]
    pub uploads: u64,
}

impl Dependent {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects == 0 && self.uploads == 0
    }

    /// Counts `other` in.
    pub fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.uploads += other.uploads;
    }

    /// What is left without `other`.
    fn without(self, other: Self) -> Self {
        Self {
            objects: self.objects.saturating_sub(other.objects),
            bytes: self.bytes.saturating_sub(other.bytes),
            uploads: self.uploads.saturating_sub(other.uploads),
        }
    }
}

/// What depends on a key, divided in two ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// By version of the backing key.
    pub versions: BTreeMap<u32, Dependent>,
    /// By bucket.
    pub buckets: BTreeMap<String, Dependent>,
}

impl Usage {
    /// All together.
    pub fn total(&self) -> Dependent {
        let mut total = Dependent::default();
        for dependent in self.versions.values() {
            total.add(*dependent);
        }
        total
    }
}

/// What depends on a key, as `GetKeyUsage` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependantsOfKey {
    /// All together.
    pub total: Dependent,
    /// By backing key, oldest first, also those that nothing depends on.
    pub materials: Vec<MaterialUsage>,
    /// By bucket. Of a key of another account than the server's first, only those that its account owns.
    pub buckets: BTreeMap<String, Dependent>,
    /// In all buckets that are not named.
    pub other_buckets: Dependent,
}

/// What depends on one backing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaterialUsage {
    /// Its identity.
    pub material: KeyMaterialId,
    /// Whether it is the one that encrypts.
    pub is_current: bool,
    /// What depends on it.
    pub dependent: Dependent,
}

impl Kms {
    /// The same, knowing what depends on its keys. With `refuse_deletion`, a key that anything depends on is neither
    /// scheduled for deletion nor destroyed.
    #[must_use]
    pub fn with_dependants(
        mut self,
        dependants: Arc<dyn Dependants>,
        refuse_deletion: bool,
    ) -> Self {
        self.dependants = Some(dependants);
        self.refuse_deletion_while_in_use = refuse_deletion;
        self
    }

    /// Counts what depends on a key. Not an operation of AWS.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`]; by the records.
    pub async fn key_usage(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<DependantsOfKey, KmsError> {
        check_proof(proof, &["kms:GetKeyUsage"], key)?;
        let owner = Owner::Key(key.clone());
        let rows = self.rows().await?;
        let head = rows.head(&owner).await?.record;
        let current = head.current;
        let mut materials = Vec::new();
        for version in head.versions() {
            materials.push((version, rows.backing(&owner, version).await?.record));
        }
        drop(rows);
        let usage = self
            .usage(key.key_id(), ALL_VERSIONS, &Scope::default())
            .await?;
        let all = Scope::default();
        let scope = self.scope_of_key(key, &all);
        let buckets = if scope == all {
            usage.buckets.clone()
        } else {
            let own = self.usage(key.key_id(), ALL_VERSIONS, &scope).await?;
            own.buckets
        };
        let mut named = Dependent::default();
        for dependent in buckets.values() {
            named.add(*dependent);
        }
        let materials = materials
            .into_iter()
            .map(|(version, record)| MaterialUsage {
                material: record.material(),
                is_current: version == current,
                dependent: usage.versions.get(&version).copied().unwrap_or_default(),
            })
            .collect();
        Ok(DependantsOfKey {
            total: usage.total(),
            materials,
            buckets,
            other_buckets: usage.total().without(named),
        })
    }

    /// Of `scope`, what those who have a key may see and move by its right alone: all of it with a key of the server's
    /// first account, whose the server is; else what is in buckets of the key's own account. Others let their objects be
    /// wrapped by a key without showing them, or giving them away, to its account.
    pub(super) fn scope_of_key(&self, key: &KeyArn, scope: &Scope) -> Scope {
        let owner = (key.account() != self.account()).then(|| key.account().clone());
        Scope {
            owner,
            ..scope.clone()
        }
    }

    /// Counts what depends on these versions of a key.
    pub(super) async fn usage(
        &self,
        key: KeyId,
        versions: RangeInclusive<u32>,
        scope: &Scope,
    ) -> Result<Usage, KmsError> {
        match &self.dependants {
            None => Ok(Usage::default()),
            Some(dependants) => Ok(dependants.usage(key, versions, scope).await?),
        }
    }

    /// The rows that must not be there when `key` goes, if its dependants keep it.
    pub(super) fn keeping(&self, key: &KeyArn) -> Option<KeyRange> {
        self.dependants
            .as_ref()
            .filter(|_| self.refuse_deletion_while_in_use)
            .map(|dependants| dependants.rows(key.key_id()))
    }

    /// Says in the log what depends on a key that is of no use any more, and answers it if it can be counted.
    pub(super) async fn log_dependants(
        &self,
        key: &KeyArn,
        because: &'static str,
    ) -> Option<Dependent> {
        let all = Scope::default();
        match self.usage(key.key_id(), ALL_VERSIONS, &all).await {
            Ok(usage) => {
                let total = usage.total();
                let Dependent {
                    objects,
                    bytes,
                    uploads,
                } = total;
                tracing::info!(event = "kms.key.dependants", %key, because, objects, bytes, uploads);
                Some(total)
            }
            // It is of no use all the same.
            Err(error) => {
                tracing::warn!(event = "kms.key.dependants", %key, because, %error);
                None
            }
        }
    }

    /// That `key` must not go.
    pub(super) async fn in_use(&self, key: &KeyArn) -> Result<KmsError, KmsError> {
        let usage = self
            .usage(key.key_id(), ALL_VERSIONS, &Scope::default())
            .await?;
        Ok(KmsError::InUse {
            arn: key.clone(),
            dependent: usage.total(),
        })
    }
}
