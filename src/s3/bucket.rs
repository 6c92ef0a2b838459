//! Buckets.

use s3s::dto::{
    Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput,
    DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, DeleteBucketInput,
    DeleteBucketOutput, GetBucketEncryptionInput, GetBucketEncryptionOutput,
    GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput, HeadBucketOutput,
    ListBucketsInput, ListBucketsOutput, Owner, PutBucketEncryptionInput,
    PutBucketEncryptionOutput, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Front;
use super::headers::timestamp;
use super::list::{read_token, write_token};
use super::sse::aes256;
use crate::auth::AccountId;
use crate::kms::KeyRef;
use crate::store::record::DefaultEncryption;
use crate::store::{BUCKETS_OF_ACCOUNT_MAX, BucketsRequest};

/// The region whose buckets have no `LocationConstraint`.
const REGION_WITHOUT_CONSTRAINT: &str = "us-east-1";

impl Front {
    /// An account, as an owner. One that is not configured any more goes by its number.
    pub(super) fn owner(&self, account: &AccountId) -> Owner {
        let (id, name) = match self.owners.get(account) {
            Some((id, name)) => (id.clone(), Some(name.clone())),
            None => (account.to_string(), None),
        };
        Owner {
            display_name: name,
            id: Some(id),
        }
    }
}

pub(super) async fn list(
    front: &Front,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let proof = Front::may_buckets(&request, "s3:ListAllMyBuckets")?;
    let input = request.input;
    let buckets_max = match input.max_buckets {
        None => BUCKETS_OF_ACCOUNT_MAX,
        Some(max) => usize::try_from(max)
            .ok()
            .filter(|max| (1..=BUCKETS_OF_ACCOUNT_MAX).contains(max))
            .ok_or_else(|| {
                s3_error!(
                    InvalidArgument,
                    "Argument max-buckets must be an integer between 1 and {BUCKETS_OF_ACCOUNT_MAX}"
                )
            })?,
    };
    let after = input.continuation_token.as_deref().map(read_token);
    let asked = BucketsRequest {
        prefix: input.prefix.clone().unwrap_or_default(),
        after: after.transpose()?.unwrap_or_default(),
        region: input.bucket_region,
        buckets_max,
    };
    let listing = front.store.list_buckets(&proof, &asked).await?;
    let buckets = listing.buckets.into_iter().map(|bucket| Bucket {
        bucket_region: Some(bucket.region),
        creation_date: Some(timestamp(bucket.created_ms)),
        name: Some(bucket.name),
    });
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets.collect()),
        continuation_token: listing.next.map(write_token),
        owner: Some(front.owner(&proof.principal().account)),
        prefix: input.prefix,
    }))
}

pub(super) async fn create(
    front: &Front,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let bucket = &request.input.bucket;
    let proof = front
        .may_bucket(&request, "s3:CreateBucket", bucket)
        .await?;
    let configuration = request.input.create_bucket_configuration.as_ref();
    if configuration.is_some_and(|configuration| {
        configuration.bucket.is_some() || configuration.location.is_some()
    }) {
        return Err(s3_error!(
            NotImplemented,
            "Directory buckets are not implemented"
        ));
    }
    let region =
        match configuration.and_then(|configuration| configuration.location_constraint.as_ref()) {
            Some(constraint) => front
                .regions
                .iter()
                .find(|region| *region == constraint.as_str())
                .ok_or_else(|| {
                    s3_error!(
                        InvalidLocationConstraint,
                        "The specified location-constraint is not valid"
                    )
                })?,
            None => front
                .regions
                .first()
                .ok_or_else(|| s3_error!(InternalError))?,
        };
    front.store.create_bucket(&proof, region).await?;
    Ok(S3Response::new(CreateBucketOutput {
        location: Some(format!("/{bucket}")),
    }))
}

pub(super) async fn head(
    front: &Front,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let proof = front
        .may_bucket(&request, "s3:ListBucket", &request.input.bucket)
        .await?;
    let record = front.store.load_bucket(&proof).await?;
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region: Some(record.region),
        ..HeadBucketOutput::default()
    }))
}

pub(super) async fn delete(
    front: &Front,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let proof = front
        .may_bucket(&request, "s3:DeleteBucket", &request.input.bucket)
        .await?;
    front.store.delete_bucket(&proof).await?;
    Ok(S3Response::with_status(
        DeleteBucketOutput {},
        http::StatusCode::NO_CONTENT,
    ))
}

pub(super) async fn location(
    front: &Front,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let proof = front
        .may_bucket(&request, "s3:GetBucketLocation", &request.input.bucket)
        .await?;
    let region = front.store.load_bucket(&proof).await?.region;
    let location_constraint =
        (region != REGION_WITHOUT_CONSTRAINT).then(|| BucketLocationConstraint::from(region));
    Ok(S3Response::new(GetBucketLocationOutput {
        location_constraint,
    }))
}

pub(super) async fn put_encryption(
    front: &Front,
    request: S3Request<PutBucketEncryptionInput>,
) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
    let proof = front
        .may_bucket(
            &request,
            "s3:PutEncryptionConfiguration",
            &request.input.bucket,
        )
        .await?;
    let malformed = || {
        s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        )
    };
    let [rule] = request
        .input
        .server_side_encryption_configuration
        .rules
        .as_slice()
    else {
        return Err(malformed());
    };
    let by_default = rule
        .apply_server_side_encryption_by_default
        .as_ref()
        .ok_or_else(malformed)?;
    let key = by_default
        .kms_master_key_id
        .clone()
        .filter(|key| !key.is_empty());
    // It is kept as it is, with the bucket, and need not be there yet.
    if key
        .as_ref()
        .is_some_and(|key| key.chars().count() > KeyRef::CHARS_MAX)
    {
        return Err(s3_error!(
            InvalidArgument,
            "KMSMasterKeyID must have at most {} characters",
            KeyRef::CHARS_MAX
        ));
    }
    let encryption = match (by_default.sse_algorithm.as_str(), key) {
        (ServerSideEncryption::AES256, None) => DefaultEncryption::S3,
        (ServerSideEncryption::AES256, Some(_)) => {
            return Err(s3_error!(
                InvalidArgument,
                "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse"
            ));
        }
        (ServerSideEncryption::AWS_KMS, key) => DefaultEncryption::Kms(key),
        (ServerSideEncryption::AWS_KMS_DSSE, _) => {
            return Err(s3_error!(NotImplemented, "DSSE-KMS is not implemented"));
        }
        _ => return Err(malformed()),
    };
    front
        .store
        // With SSE-S3 it waits for requests that ask for SSE-KMS.
        .put_bucket_encryption(&proof, &encryption, rule.bucket_key_enabled == Some(true))
        .await?;
    Ok(S3Response::new(PutBucketEncryptionOutput {}))
}

pub(super) async fn get_encryption(
    front: &Front,
    request: S3Request<GetBucketEncryptionInput>,
) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
    let proof = front
        .may_bucket(
            &request,
            "s3:GetEncryptionConfiguration",
            &request.input.bucket,
        )
        .await?;
    let record = front.store.load_bucket(&proof).await?;
    let by_default = match record.encryption {
        DefaultEncryption::S3 => ServerSideEncryptionByDefault {
            kms_master_key_id: None,
            sse_algorithm: aes256(),
        },
        DefaultEncryption::Kms(key) => ServerSideEncryptionByDefault {
            kms_master_key_id: key,
            sse_algorithm: ServerSideEncryption::from_static(ServerSideEncryption::AWS_KMS),
        },
    };
    let rule = ServerSideEncryptionRule {
        apply_server_side_encryption_by_default: Some(by_default),
        bucket_key_enabled: Some(record.bucket_key),
    };
    Ok(S3Response::new(GetBucketEncryptionOutput {
        server_side_encryption_configuration: Some(ServerSideEncryptionConfiguration {
            rules: vec![rule],
        }),
    }))
}

pub(super) async fn delete_encryption(
    front: &Front,
    request: S3Request<DeleteBucketEncryptionInput>,
) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
    let proof = front
        .may_bucket(
            &request,
            "s3:PutEncryptionConfiguration",
            &request.input.bucket,
        )
        .await?;
    front
        .store
        .put_bucket_encryption(&proof, &DefaultEncryption::S3, false)
        .await?;
    Ok(S3Response::with_status(
        DeleteBucketEncryptionOutput {},
        http::StatusCode::NO_CONTENT,
    ))
}
