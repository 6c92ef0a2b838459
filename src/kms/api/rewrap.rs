//! `Strongroom.GetKeyUsage`, `StartRewrap`, `DescribeRewrap`, `ListRewraps`, `CancelRewrap`: what depends on keys, and
//! how it goes to others. Not operations of AWS.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::data::ON_SAME_KEY;
use super::keys::KeyOnly;
use super::members::{Constraints, SYMMETRIC_DEFAULT, seconds, there};
use crate::auth::Authorised;
use crate::kms::{
    Dependent, KeyArn, KeyRef, KmsError, NewRewrap, REWRAP_RATE_MAX, Rewrap, RewrapId, RewrapState,
    Scope,
};

/// The longest name of a bucket.
const BUCKET_CHARS_MAX: usize = 63;
/// The longest prefix: as long as an object key.
const PREFIX_CHARS_MAX: usize = 1024;

/// How much depends on something.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Counts {
    objects: u64,
    bytes: u64,
    multipart_uploads: u64,
}

impl From<Dependent> for Counts {
    fn from(dependent: Dependent) -> Self {
        Self {
            objects: dependent.objects,
            bytes: dependent.bytes,
            multipart_uploads: dependent.uploads,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FoundKeyUsage {
    key_id: String,
    #[serde(flatten)]
    total: Counts,
    key_materials: Vec<FoundMaterial>,
    buckets: Vec<FoundBucket>,
    /// What is in buckets that are not named: those of other accounts.
    other_buckets: Counts,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct FoundMaterial {
    key_material_id: String,
    current: bool,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct FoundBucket {
    bucket: String,
    #[serde(flatten)]
    counts: Counts,
}

pub(super) async fn get_key_usage(
    call: &Call<'_>,
    input: KeyOnly,
) -> Result<FoundKeyUsage, KmsError> {
    let (proof, key) = call
        .authorised_key(&Ask::new("kms:GetKeyUsage"), &input.checked()?)
        .await?;
    let usage = call.kms.key_usage(&proof, &key).await?;
    let materials = usage.materials.into_iter();
    let buckets = usage.buckets.into_iter();
    Ok(FoundKeyUsage {
        key_id: key.to_string(),
        total: usage.total.into(),
        key_materials: materials
            .map(|found| FoundMaterial {
                key_material_id: found.material.to_string(),
                current: found.is_current,
                counts: found.dependent.into(),
            })
            .collect(),
        buckets: buckets
            .map(|(bucket, dependent)| FoundBucket {
                bucket,
                counts: dependent.into(),
            })
            .collect(),
        other_buckets: usage.other_buckets.into(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StartRequest {
    from_key_id: Option<String>,
    from_key_material_id: Option<String>,
    to_key_id: Option<String>,
    bucket: Option<String>,
    prefix: Option<String>,
    objects_per_second: Option<i64>,
    dry_run: Option<bool>,
}

/// A re-wrap; of one that was only planned, what it would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Started {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    rewrap: Option<Described>,
    planned: Counts,
}

pub(super) async fn start(call: &Call<'_>, input: StartRequest) -> Result<Started, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("fromKeyId", input.from_key_id.as_ref());
    constraints.key_id("toKeyId", input.to_key_id.as_ref());
    constraints.material_id("fromKeyMaterialId", input.from_key_material_id.as_deref());
    constraints.chars("bucket", input.bucket.as_deref(), 1, BUCKET_CHARS_MAX);
    constraints.chars("prefix", input.prefix.as_deref(), 0, PREFIX_CHARS_MAX);
    constraints.number(
        "objectsPerSecond",
        input.objects_per_second,
        1,
        REWRAP_RATE_MAX.into(),
    );
    constraints.finish()?;
    let (start, from) = call
        .authorised_key(&Ask::new("kms:StartRewrap"), &there(input.from_key_id)?)
        .await?;
    // Of many ciphertexts: what a policy says of an encryption context is asked for each of them, later.
    let ask = |action| Ask::new(action).value("kms:EncryptionAlgorithm", SYMMETRIC_DEFAULT);
    let (ask_from, ask_to) = (ask("kms:ReEncryptFrom"), ask("kms:ReEncryptTo"));
    let to_name = KeyRef::parse(&there(input.to_key_id)?)?;
    let to = call.kms.resolve_for(call.context, &ask_to, &to_name);
    let to = to.await?;
    let is_same = (from == to).to_string();
    let ask_from = ask_from.value(ON_SAME_KEY, is_same.as_str());
    let ask_to = ask_to.value(ON_SAME_KEY, is_same).named(&to_name);
    let unwrap = call.may(&ask_from, &from).await?;
    let wrap = call.may(&ask_to, &to).await?;
    let proofs = [&start, &unwrap, &wrap];
    let new = NewRewrap {
        from,
        material: input.from_key_material_id,
        to,
        scope: Scope {
            bucket: input.bucket,
            prefix: input.prefix.unwrap_or_default(),
            owner: None,
        },
        rate: input
            .objects_per_second
            .and_then(|rate| u32::try_from(rate).ok()),
    };
    if input.dry_run.unwrap_or(false) {
        let planned = call.kms.plan_rewrap(proofs, &new).await?.total().into();
        return Ok(Started {
            rewrap: None,
            planned,
        });
    }
    Ok(call.kms.start_rewrap(proofs, &new).await?.into())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RewrapOnly {
    rewrap_id: Option<String>,
}

impl RewrapOnly {
    fn checked(self) -> Result<RewrapId, KmsError> {
        let mut constraints = Constraints::default();
        constraints.required("rewrapId", self.rewrap_id.as_ref());
        constraints.finish()?;
        let text = there(self.rewrap_id)?;
        RewrapId::parse(&text)
            .ok_or_else(|| KmsError::NotFound(format!("Re-wrap {text} does not exist")))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described {
    rewrap_id: String,
    from_key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_key_material_id: Option<String>,
    to_key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_per_second: Option<u32>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<String>,
    started_by: String,
    creation_date: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_date: Option<f64>,
    rewrapped: u64,
    skipped: u64,
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<Counts>,
}

impl From<Rewrap> for Described {
    fn from(rewrap: Rewrap) -> Self {
        let (state, state_reason) = match rewrap.state {
            RewrapState::Waiting => ("WAITING", None),
            RewrapState::Running => ("RUNNING", None),
            RewrapState::Completed => ("COMPLETED", None),
            RewrapState::Failed(why) => ("FAILED", Some(why)),
            RewrapState::Cancelled => ("CANCELLED", None),
        };
        Self {
            rewrap_id: rewrap.id.to_string(),
            from_key_id: rewrap.from.to_string(),
            from_key_material_id: rewrap.material,
            to_key_id: rewrap.to.to_string(),
            bucket: rewrap.scope.bucket,
            prefix: rewrap.scope.prefix,
            objects_per_second: rewrap.rate,
            state,
            state_reason,
            started_by: rewrap.started_by,
            creation_date: seconds(rewrap.created),
            end_date: rewrap.ended.map(seconds),
            rewrapped: rewrap.counts.rewrapped,
            skipped: rewrap.counts.skipped,
            failed: rewrap.counts.failed,
            remaining: rewrap.remaining.map(Counts::from),
        }
    }
}

impl From<Rewrap> for Started {
    fn from(rewrap: Rewrap) -> Self {
        Self {
            planned: rewrap.planned.into(),
            rewrap: Some(rewrap.into()),
        }
    }
}

pub(super) async fn describe(call: &Call<'_>, input: RewrapOnly) -> Result<Started, KmsError> {
    let rewrap = call.kms.find_rewrap(input.checked()?).await?;
    // Ids are random: that one exists says nothing.
    let _proof = may(call, &Ask::new("kms:DescribeRewrap"), &rewrap.from).await?;
    Ok(rewrap.into())
}

/// The proof that the caller may do this to a re-wrap that leaves `from`. The server is that of its first account, whose
/// policies alone are asked about re-wraps of others.
async fn may(call: &Call<'_>, ask: &Ask<'_>, from: &KeyArn) -> Result<Authorised, KmsError> {
    let first = call.kms.account();
    if call.account() == first && from.account() != first {
        return call.may_service(ask);
    }
    call.may(ask, from).await
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedRewraps {
    rewraps: Vec<Started>,
}

pub(super) async fn list(call: &Call<'_>) -> Result<ListedRewraps, KmsError> {
    let proof = call.may_service(&Ask::new("kms:ListRewraps"))?;
    let rewraps = call.kms.list_rewraps(&proof).await?;
    Ok(ListedRewraps {
        rewraps: rewraps.into_iter().map(Started::from).collect(),
    })
}

pub(super) async fn cancel(call: &Call<'_>, input: RewrapOnly) -> Result<Started, KmsError> {
    let id = input.checked()?;
    let from = call.kms.find_rewrap(id).await?.from;
    let proof = may(call, &Ask::new("kms:CancelRewrap"), &from).await?;
    Ok(call.kms.cancel_rewrap(&proof, id).await?.into())
}
