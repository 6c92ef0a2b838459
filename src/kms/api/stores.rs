//! `CreateCustomKeyStore`, `DescribeCustomKeyStores`, `ConnectCustomKeyStore`, `DisconnectCustomKeyStore`,
//! `UpdateCustomKeyStore`, `DeleteCustomKeyStore`; and our own `Strongroom.MoveKey`.
//!
//! A custom key store is of the type `AWS_CLOUDHSM`, on a token group of the configuration. Password and trust anchor
//! are the operator's, in the configuration, and are refused here.

use serde::{Deserialize, Serialize};

use super::call::{Ask, Call};
use super::members::{Constraints, Paging, marker, seconds, there};
use crate::kms::{
    Connection, KEY_STORE_NAME_CHARS_MAX, KeyStoreChange, KeyStoreEntry, KeyStoreError, KeyStoreId,
    KmsError,
};

const AWS_CLOUDHSM: &str = "AWS_CLOUDHSM";
const TYPES: [&str; 2] = [AWS_CLOUDHSM, "EXTERNAL_KEY_STORE"];
const ID_CHARS_MAX: usize = 64;
const CLUSTER_ID_CHARS: (usize, usize) = (19, 24);
const STORES_PER_PAGE_DEFAULT: usize = 100;
const STORES_PER_PAGE_MAX: usize = 1000;
const LIST: &str = "key stores";

/// Members that are the operator's business here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Foreign {
    trust_anchor_certificate: Option<String>,
    key_store_password: Option<String>,
    custom_key_store_type: Option<String>,
    xks_proxy_uri_endpoint: Option<String>,
    xks_proxy_uri_path: Option<String>,
    xks_proxy_vpc_endpoint_service_name: Option<String>,
    xks_proxy_authentication_credential: Option<serde::de::IgnoredAny>,
    xks_proxy_connectivity: Option<String>,
}

impl Foreign {
    fn refuse(&self) -> Result<(), KmsError> {
        let there = [
            (
                "TrustAnchorCertificate",
                self.trust_anchor_certificate.is_some(),
            ),
            ("KeyStorePassword", self.key_store_password.is_some()),
            (
                "CustomKeyStoreType EXTERNAL_KEY_STORE",
                self.custom_key_store_type
                    .as_deref()
                    .is_some_and(|kind| kind != AWS_CLOUDHSM),
            ),
            ("XksProxyUriEndpoint", self.xks_proxy_uri_endpoint.is_some()),
            ("XksProxyUriPath", self.xks_proxy_uri_path.is_some()),
            (
                "XksProxyVpcEndpointServiceName",
                self.xks_proxy_vpc_endpoint_service_name.is_some(),
            ),
            (
                "XksProxyAuthenticationCredential",
                self.xks_proxy_authentication_credential.is_some(),
            ),
            (
                "XksProxyConnectivity",
                self.xks_proxy_connectivity.is_some(),
            ),
        ];
        match there.iter().find(|(_, is_there)| *is_there) {
            Some((member, _)) => Err(KmsError::Unsupported(format!(
                "{member} is not supported: a key store is on a token group of the server's configuration"
            ))),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateRequest {
    custom_key_store_name: Option<String>,
    cloud_hsm_cluster_id: Option<String>,
    #[serde(flatten)]
    foreign: Foreign,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Created {
    custom_key_store_id: String,
}

pub(super) async fn create(call: &Call<'_>, input: CreateRequest) -> Result<Created, KmsError> {
    let mut constraints = Constraints::default();
    constraints.required("customKeyStoreName", input.custom_key_store_name.as_ref());
    check_name(
        &mut constraints,
        "customKeyStoreName",
        input.custom_key_store_name.as_deref(),
    );
    check_cluster(&mut constraints, input.cloud_hsm_cluster_id.as_deref());
    constraints.one_of(
        "customKeyStoreType",
        input.foreign.custom_key_store_type.as_deref(),
        &TYPES,
    );
    constraints.finish()?;
    input.foreign.refuse()?;
    let name = there(input.custom_key_store_name)?;
    let cluster_id = input.cloud_hsm_cluster_id.ok_or_else(|| {
        KmsError::Validation("CloudHsmClusterId is required: it names the token group".to_owned())
    })?;
    let proof = call.may_service(&Ask::new("kms:CreateCustomKeyStore"))?;
    let id = call
        .kms
        .create_key_store(&proof, &name, &cluster_id)
        .await?;
    Ok(Created {
        custom_key_store_id: id.to_string(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DescribeRequest {
    custom_key_store_id: Option<String>,
    custom_key_store_name: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described {
    custom_key_stores: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    custom_key_store_id: String,
    custom_key_store_name: String,
    cloud_hsm_cluster_id: String,
    connection_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_error_code: Option<&'static str>,
    creation_date: f64,
    custom_key_store_type: &'static str,
}

impl From<KeyStoreEntry> for Entry {
    fn from(store: KeyStoreEntry) -> Self {
        let (connection_state, connection_error_code) = match store.connection {
            Connection::Connected => ("CONNECTED", None),
            Connection::Connecting => ("CONNECTING", None),
            Connection::Unreachable => ("FAILED", Some("NETWORK_ERRORS")),
            Connection::NoGroup => ("FAILED", Some("CLUSTER_NOT_FOUND")),
            Connection::Disconnected => ("DISCONNECTED", None),
        };
        Self {
            custom_key_store_id: store.id.to_string(),
            custom_key_store_name: store.name,
            cloud_hsm_cluster_id: store.cluster_id,
            connection_state,
            connection_error_code,
            creation_date: seconds(store.created),
            custom_key_store_type: AWS_CLOUDHSM,
        }
    }
}

pub(super) async fn describe(
    call: &Call<'_>,
    input: DescribeRequest,
) -> Result<Described, KmsError> {
    let mut constraints = Constraints::default();
    check_id_if_any(&mut constraints, input.custom_key_store_id.as_deref());
    check_name(
        &mut constraints,
        "customKeyStoreName",
        input.custom_key_store_name.as_deref(),
    );
    constraints.paging(&input.paging);
    constraints.finish()?;
    let (id, name) = (input.custom_key_store_id, input.custom_key_store_name);
    if id.is_some() && name.is_some() {
        return Err(KmsError::Validation(
            "CustomKeyStoreId and CustomKeyStoreName cannot both be given".to_owned(),
        ));
    }
    let after = input
        .paging
        .after(LIST, |text| KeyStoreId::parse(text).ok())?;
    let proof = call.may_service(&Ask::new("kms:DescribeCustomKeyStores"))?;
    let mut stores = call.kms.key_stores(&proof).await?;
    if let Some(wanted) = id.as_ref().or(name.as_ref()) {
        let by_id = id.is_some();
        stores.retain(|store| {
            if by_id {
                store.id.to_string() == *wanted
            } else {
                store.name == *wanted
            }
        });
        if stores.is_empty() {
            return Err(KeyStoreError::NotFound(wanted.clone()).into());
        }
    }
    if let Some(after) = after {
        let passed = stores.iter().position(|store| store.id == after);
        stores.drain(..passed.map_or(0, |at| at + 1));
    }
    let limit = input
        .paging
        .limit(STORES_PER_PAGE_DEFAULT, STORES_PER_PAGE_MAX);
    let truncated = stores.len() > limit;
    stores.truncate(limit);
    Ok(Described {
        next_marker: stores
            .last()
            .filter(|_| truncated)
            .map(|last| marker(LIST, &last.id)),
        truncated,
        custom_key_stores: stores.into_iter().map(Entry::from).collect(),
    })
}

/// A request that names a key store and nothing else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StoreOnly {
    custom_key_store_id: Option<String>,
}

impl StoreOnly {
    fn checked(self) -> Result<KeyStoreId, KmsError> {
        let mut constraints = Constraints::default();
        check_id(&mut constraints, self.custom_key_store_id.as_ref());
        constraints.finish()?;
        KeyStoreId::parse(&there(self.custom_key_store_id)?)
    }
}

/// The answer of operations that say nothing.
#[derive(Debug, Serialize)]
pub(super) struct Nothing {}

pub(super) async fn connect(call: &Call<'_>, input: StoreOnly) -> Result<Nothing, KmsError> {
    let id = input.checked()?;
    let proof = call.may_service(&Ask::new("kms:ConnectCustomKeyStore"))?;
    call.kms.connect_key_store(&proof, &id).await?;
    Ok(Nothing {})
}

pub(super) async fn disconnect(call: &Call<'_>, input: StoreOnly) -> Result<Nothing, KmsError> {
    let id = input.checked()?;
    let proof = call.may_service(&Ask::new("kms:DisconnectCustomKeyStore"))?;
    call.kms.disconnect_key_store(&proof, &id).await?;
    Ok(Nothing {})
}

pub(super) async fn delete(call: &Call<'_>, input: StoreOnly) -> Result<Nothing, KmsError> {
    let id = input.checked()?;
    let proof = call.may_service(&Ask::new("kms:DeleteCustomKeyStore"))?;
    call.kms.delete_key_store(&proof, &id).await?;
    Ok(Nothing {})
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateRequest {
    custom_key_store_id: Option<String>,
    new_custom_key_store_name: Option<String>,
    cloud_hsm_cluster_id: Option<String>,
    #[serde(flatten)]
    foreign: Foreign,
}

pub(super) async fn update(call: &Call<'_>, input: UpdateRequest) -> Result<Nothing, KmsError> {
    let mut constraints = Constraints::default();
    check_id(&mut constraints, input.custom_key_store_id.as_ref());
    check_name(
        &mut constraints,
        "newCustomKeyStoreName",
        input.new_custom_key_store_name.as_deref(),
    );
    check_cluster(&mut constraints, input.cloud_hsm_cluster_id.as_deref());
    constraints.finish()?;
    input.foreign.refuse()?;
    let id = KeyStoreId::parse(&there(input.custom_key_store_id)?)?;
    let proof = call.may_service(&Ask::new("kms:UpdateCustomKeyStore"))?;
    let change = KeyStoreChange {
        name: input.new_custom_key_store_name,
        cluster_id: input.cloud_hsm_cluster_id,
    };
    call.kms.update_key_store(&proof, &id, &change).await?;
    Ok(Nothing {})
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MoveKeyRequest {
    key_id: Option<String>,
    /// None: the default token group.
    custom_key_store_id: Option<String>,
}

pub(super) async fn move_key(call: &Call<'_>, input: MoveKeyRequest) -> Result<Nothing, KmsError> {
    let mut constraints = Constraints::default();
    constraints.key_id("keyId", input.key_id.as_ref());
    check_id_if_any(&mut constraints, input.custom_key_store_id.as_deref());
    constraints.finish()?;
    let to = input
        .custom_key_store_id
        .as_deref()
        .map(KeyStoreId::parse)
        .transpose()?;
    let (proof, key) = call
        .authorised_key_but_no_alias(&Ask::new("kms:MoveKey"), &there(input.key_id)?)
        .await?;
    call.kms.move_key(&proof, &key, to).await?;
    Ok(Nothing {})
}

fn check_id(constraints: &mut Constraints, id: Option<&String>) {
    constraints.required("customKeyStoreId", id);
    check_id_if_any(constraints, id.map(String::as_str));
}

/// The bounds of an id of a key store.
pub(super) fn check_id_if_any(constraints: &mut Constraints, id: Option<&str>) {
    constraints.chars("customKeyStoreId", id, 1, ID_CHARS_MAX);
}

fn check_name(constraints: &mut Constraints, member: &str, name: Option<&str>) {
    constraints.chars(member, name, 1, KEY_STORE_NAME_CHARS_MAX);
}

fn check_cluster(constraints: &mut Constraints, cluster_id: Option<&str>) {
    let (min, max) = CLUSTER_ID_CHARS;
    constraints.chars("cloudHsmClusterId", cluster_id, min, max);
}
