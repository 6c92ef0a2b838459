//! `GetKeyLastUsage`.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::call::{Ask, Call};
use super::keys::KeyOnly;
use super::members::seconds;
use crate::kms::{KeyUses, KmsError, LastUse};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FoundLastUsage {
    key_id: String,
    /// Without members when there was none.
    key_last_usage: LastUsage,
    tracking_start_date: f64,
    key_creation_date: f64,
}

/// `KeyLastUsageData`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct LastUsage {
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_trail_event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_request_id: Option<String>,
}

impl LastUsage {
    pub(super) fn of(last: Option<LastUse>) -> Self {
        last.map_or_else(Self::default, |last| Self {
            operation: Some(last.operation),
            timestamp: Some(seconds(last.at)),
            cloud_trail_event_id: last.event.map(|event| event.to_string()),
            kms_request_id: last.request,
        })
    }
}

pub(super) async fn get_key_last_usage(
    call: &Call<'_>,
    input: KeyOnly,
) -> Result<FoundLastUsage, KmsError> {
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:GetKeyLastUsage"), &input.checked()?)
        .await?;
    let uses = call.kms.key_last_usage(&proof, &key).await?;
    Ok(FoundLastUsage {
        key_id: key.key_id().to_string(),
        key_last_usage: LastUsage::of(uses.last),
        tracking_start_date: seconds(uses.since),
        key_creation_date: seconds(uses.created),
    })
}

/// The same for the record of a call, as `CloudTrail` writes it.
pub(super) fn told(uses: &KeyUses) -> Value {
    let mut told = Map::new();
    if let Some(last) = &uses.last {
        told.insert("operation".to_owned(), json!(last.operation));
        told.insert("timestamp".to_owned(), json!(last.at.to_string()));
        if let Some(event) = last.event {
            told.insert("cloudTrailEventId".to_owned(), json!(event.to_string()));
        }
    } else {
        told.insert("noneSince".to_owned(), json!(uses.since.to_string()));
    }
    Value::Object(told)
}
