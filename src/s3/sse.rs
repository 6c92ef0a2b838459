//! Server-side encryption on the wire: headers to a target, and back.
//!
//! The encryption context `aws:s3:arn` is set here; a caller may send it only with the same value. It is the ARN of the
//! object, and that of the bucket where a bucket key lies between: as AWS has it.

use std::collections::BTreeMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use md5::{Digest as _, Md5};
use s3s::dto::ServerSideEncryption;
use s3s::{S3Error, S3Result, s3_error};
use zeroize::Zeroizing;

use super::error::{coded, kms};
use super::{Front, error};
use crate::auth::RequestContext;
use crate::kms::{Ask, EncryptionContext, KeyArn, KeyRef, KmsError};
use crate::store::context::{self, ContextError, arn_of_wrap};
use crate::store::record::{BucketRecord, DefaultEncryption, KeptContext, SseRecord};
use crate::store::{CustomerKey, KeyAccess, SseTarget, StoreError};

const ALGORITHM: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const CONTEXT: &str = "x-amz-server-side-encryption-context";
const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
const CUSTOMER: &str = "x-amz-server-side-encryption-customer-";
const COPY_SOURCE_CUSTOMER: &str = "x-amz-copy-source-server-side-encryption-customer-";

/// What an answer says of encryption.
#[derive(Debug, Default)]
pub(super) struct SseAnswer {
    pub(super) algorithm: Option<ServerSideEncryption>,
    pub(super) kms_key: Option<String>,
    pub(super) customer_algorithm: Option<String>,
    pub(super) customer_md5: Option<String>,
    /// Said only where it is so.
    pub(super) bucket_key: Option<bool>,
    /// Echoed by `PutObject`, `CopyObject` and `CreateMultipartUpload` only.
    pub(super) context: Option<String>,
}

impl SseAnswer {
    /// What a record, whether a bucket key is to be named, and a request's headers say.
    pub(super) fn new(record: &SseRecord, bucket_key: bool, headers: &HeaderMap) -> Self {
        match record {
            SseRecord::S3 => Self {
                algorithm: Some(aes256()),
                ..Self::default()
            },
            SseRecord::Kms(arn) => Self {
                algorithm: Some(ServerSideEncryption::from_static(
                    ServerSideEncryption::AWS_KMS,
                )),
                kms_key: Some(arn.clone()),
                bucket_key: bucket_key.then_some(true),
                ..Self::default()
            },
            SseRecord::Customer => Self {
                customer_algorithm: Some("AES256".into()),
                customer_md5: text(headers, &format!("{CUSTOMER}key-md5")).map(str::to_owned),
                ..Self::default()
            },
        }
    }

    /// The same, with the context as it was sent.
    pub(super) fn with_context(record: &SseRecord, bucket_key: bool, headers: &HeaderMap) -> Self {
        let context = text(headers, CONTEXT)
            .map(str::to_owned)
            .filter(|_| matches!(record, SseRecord::Kms(_)));
        Self {
            context,
            ..Self::new(record, bucket_key, headers)
        }
    }
}

pub(super) fn aes256() -> ServerSideEncryption {
    ServerSideEncryption::from_static(ServerSideEncryption::AES256)
}

impl Front {
    /// How a new object is to be encrypted: by the request, else by its bucket.
    pub(super) async fn sse_target(
        &self,
        caller: &RequestContext,
        headers: &HeaderMap,
        bucket_record: &BucketRecord,
        bucket: &str,
        key: &str,
    ) -> S3Result<SseTarget> {
        let without_md5 = invalid(
            "Requests specifying Server Side Encryption with Customer provided keys must provide the client calculated MD5 of the secret key.",
        );
        let customer = customer_key(headers, CUSTOMER, without_md5)?;
        let algorithm = text_or_refuse(headers, ALGORITHM)?;
        let kms_key = text_or_refuse(headers, KMS_KEY)?;
        let asked = bucket_key_asked(headers)?;
        if asked == Some(true) && customer.is_some() {
            return Err(bucket_key_without_kms());
        }
        if customer.is_some()
            && (algorithm.is_some() || kms_key.is_some() || headers.contains_key(CONTEXT))
        {
            return Err(invalid(
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
            ));
        }
        if let Some(customer) = customer {
            return Ok(SseTarget::Customer(customer));
        }
        let key_name = match (algorithm, &bucket_record.encryption) {
            (Some("aws:kms"), DefaultEncryption::Kms(default)) => {
                kms_key.map(str::to_owned).or_else(|| default.clone())
            }
            (Some("aws:kms"), DefaultEncryption::S3) => kms_key.map(str::to_owned),
            (Some("aws:kms:dsse"), _) => {
                return Err(s3_error!(NotImplemented, "DSSE-KMS is not implemented"));
            }
            (Some("AES256"), _) | (None, DefaultEncryption::S3) => {
                if kms_key.is_some() || headers.contains_key(CONTEXT) {
                    return Err(invalid(
                        "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
                    ));
                }
                if asked == Some(true) {
                    return Err(bucket_key_without_kms());
                }
                return Ok(SseTarget::S3);
            }
            (Some(_), _) => {
                return Err(coded(
                    StatusCode::BAD_REQUEST,
                    "InvalidArgument",
                    "The encryption method specified is not supported",
                ));
            }
            (None, DefaultEncryption::Kms(default)) => {
                if kms_key.is_some() {
                    return Err(invalid(
                        "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
                    ));
                }
                default.clone()
            }
        };
        let caller_context = caller_context(headers)?;
        let bucket_key = asked.unwrap_or(bucket_record.bucket_key);
        let arn = arn_of_wrap(bucket_key, bucket, key);
        // What a policy sees of the context: all of it, with or without a bucket key.
        let context = full_context(&caller_context, &arn)?;
        let (key, named) = self.resolve(caller, key_name.as_deref(), &context).await?;
        let named = named.as_ref();
        let proof = self
            .may_key(caller, "kms:GenerateDataKey", &key, named, &context)
            .await?;
        Ok(SseTarget::Kms {
            proof,
            key,
            context: context_of_wrap(bucket_key, context, &arn)?,
            caller_context,
            bucket_key,
        })
    }

    /// The key of that name, or the default one. A name that says nothing of an account means one of the requester's,
    /// also where it is the bucket's default, and the default key is the requester's (S3 User Guide, "Using encryption
    /// for cross-account operations"; S3 API, `ServerSideEncryptionByDefault`).
    async fn resolve(
        &self,
        caller: &RequestContext,
        name: Option<&str>,
        context: &EncryptionContext,
    ) -> S3Result<(KeyArn, Option<KeyRef>)> {
        let Some(name) = name else {
            let account = &caller.principal.account;
            let key = self.kms.resolve_default_s3_key(account).await;
            return Ok((key.map_err(kms)?, None));
        };
        let named = KeyRef::parse(name).map_err(kms)?;
        let ask = Ask::new("kms:GenerateDataKey");
        let key = self.kms.resolve_for(caller, &ask, &named).await;
        if let Err(KmsError::AccessDenied(denied)) = &key {
            let recorded = self.kms.record_denied_alias(caller, denied, context).await;
            recorded.map_err(kms)?;
        }
        let key = key.map_err(kms)?;
        Ok((key, Some(named)))
    }

    /// What a request brings to read an object that is encrypted so.
    pub(super) async fn key_access(
        &self,
        caller: &RequestContext,
        record: &SseRecord,
        kept: KeptContext<'_>,
        customer: Option<CustomerKey>,
        (bucket, key): (&str, &str),
    ) -> S3Result<KeyAccess> {
        match (record, customer) {
            (_, Some(customer)) => Ok(KeyAccess::Customer(customer)),
            (SseRecord::S3 | SseRecord::Customer, None) => Ok(KeyAccess::Plain),
            (SseRecord::Kms(arn), None) => {
                let name = arn_of_wrap(kept.bucket_key, bucket, key);
                // What a policy sees, as when it was written.
                let context = full_context(kept.caller, &name)?;
                let arn = self.kms.arn_of_record(arn).map_err(kms)?;
                let proof = self
                    .may_key(caller, "kms:Decrypt", &arn, None, &context)
                    .await?;
                let context = context_of_wrap(kept.bucket_key, context, &name)?;
                Ok(KeyAccess::Kms { proof, context })
            }
        }
    }
}

/// Reading an object takes no encryption headers but a customer's.
pub(super) fn refuse_on_read(headers: &HeaderMap) -> S3Result<()> {
    refuse_any(headers, &[ALGORITHM, KMS_KEY, CONTEXT, BUCKET_KEY])
}

/// A part has a bucket key as its upload does.
pub(super) fn refuse_bucket_key(headers: &HeaderMap) -> S3Result<()> {
    refuse_any(headers, &[BUCKET_KEY])
}

fn refuse_any(headers: &HeaderMap, names: &[&str]) -> S3Result<()> {
    if names.iter().any(|name| headers.contains_key(*name)) {
        return Err(invalid(
            "x-amz-server-side-encryption header is not supported for this operation.",
        ));
    }
    Ok(())
}

/// The customer's key of a request.
pub(super) fn customer_key_of(headers: &HeaderMap) -> S3Result<Option<CustomerKey>> {
    // Who reads without it is told no more than who reads with the wrong key.
    customer_key(headers, CUSTOMER, StoreError::CustomerKeyWrong.into())
}

/// The customer's key of a copy's source.
pub(super) fn source_customer_key_of(headers: &HeaderMap) -> S3Result<Option<CustomerKey>> {
    customer_key(
        headers,
        COPY_SOURCE_CUSTOMER,
        StoreError::CustomerKeyWrong.into(),
    )
}

fn customer_key(
    headers: &HeaderMap,
    prefix: &str,
    without_md5: S3Error,
) -> S3Result<Option<CustomerKey>> {
    let name = |suffix: &str| format!("{prefix}{suffix}");
    let algorithm = text_or_refuse(headers, &name("algorithm"))?;
    let key = text_or_refuse(headers, &name("key"))?;
    let md5 = text_or_refuse(headers, &name("key-md5"))?;
    let Some(algorithm) = algorithm else {
        if key.is_some() || md5.is_some() {
            return Err(invalid(
                "Requests specifying Server Side Encryption with Customer provided keys must provide a valid encryption algorithm.",
            ));
        }
        return Ok(None);
    };
    if algorithm != "AES256" {
        return Err(coded(
            StatusCode::BAD_REQUEST,
            "InvalidEncryptionAlgorithmError",
            "The Encryption request you specified is not valid. Supported value: AES256.",
        ));
    }
    let Some(key) = key else {
        return Err(invalid(
            "Requests specifying Server Side Encryption with Customer provided keys must provide an appropriate secret key.",
        ));
    };
    let decoded = STANDARD.decode(key).map(Zeroizing::new).unwrap_or_default();
    let mut bytes = Box::new([0; 32]);
    if decoded.len() != bytes.len() {
        return Err(invalid(
            "The secret key was invalid for the specified algorithm.",
        ));
    }
    bytes.copy_from_slice(&decoded);
    let key = CustomerKey::new(bytes);
    let Some(md5) = md5 else {
        return Err(without_md5);
    };
    let found: [u8; 16] = Md5::digest(decoded.as_slice()).into();
    let claimed = STANDARD.decode(md5).unwrap_or_default();
    if verify_slices_are_equal(&found, &claimed).is_err() {
        return Err(invalid(
            "The calculated MD5 hash of the key did not match the hash that was provided.",
        ));
    }
    Ok(Some(key))
}

/// The caller's encryption context, sorted.
fn caller_context(headers: &HeaderMap) -> S3Result<Vec<(String, String)>> {
    let Some(header) = text_or_refuse(headers, CONTEXT)? else {
        return Ok(Vec::new());
    };
    let malformed = || {
        invalid(
            "The header 'x-amz-server-side-encryption-context' shall be Base64-encoded UTF-8 string holding JSON which represents a string-string map",
        )
    };
    let json = STANDARD.decode(header).map_err(|_not_base64| malformed())?;
    let map: BTreeMap<String, String> =
        serde_json::from_slice(&json).map_err(|_not_a_map| malformed())?;
    Ok(map.into_iter().collect())
}

/// Whether a request asks for a bucket key, or asks for none.
fn bucket_key_asked(headers: &HeaderMap) -> S3Result<Option<bool>> {
    match text_or_refuse(headers, BUCKET_KEY)? {
        None => Ok(None),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
        Some(_) => Err(invalid(
            "The value of x-amz-server-side-encryption-bucket-key-enabled is neither true nor false",
        )),
    }
}

/// Bucket keys are of SSE-KMS, and what nobody would do is not taken.
fn bucket_key_without_kms() -> S3Error {
    invalid(
        "x-amz-server-side-encryption-bucket-key-enabled requires HTTP header x-amz-server-side-encryption : aws:kms",
    )
}

/// What the HSM's wrap is bound to: that of a bucket key serves all objects, and knows nothing of a caller.
pub(super) fn context_of_wrap(
    bucket_key: bool,
    full: EncryptionContext,
    arn: &str,
) -> S3Result<EncryptionContext> {
    if bucket_key {
        full_context(&[], arn)
    } else {
        Ok(full)
    }
}

/// The caller's context with the ARN of what is wrapped for.
pub(super) fn full_context(caller: &[(String, String)], arn: &str) -> S3Result<EncryptionContext> {
    context::full_context(caller, arn).map_err(|error| match error {
        ContextError::Reserved => invalid(
            "The encryption context aws:s3:arn is reserved for the ARN of the object, or of the bucket with a bucket key",
        ),
        ContextError::Kms(error) => kms(error),
    })
}

fn invalid(message: &'static str) -> S3Error {
    error::coded(StatusCode::BAD_REQUEST, "InvalidArgument", message)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The value of a header that comes at most once and is ASCII.
fn text_or_refuse<'h>(headers: &'h HeaderMap, name: &str) -> S3Result<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value)),
        _ => Err(invalid(
            "A server-side encryption header is repeated or is not ASCII",
        )),
    }
}
