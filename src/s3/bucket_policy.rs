//! `PutBucketPolicy`, `GetBucketPolicy`, `DeleteBucketPolicy`.

use http::StatusCode;
use s3s::dto::{
    DeleteBucketPolicyInput, DeleteBucketPolicyOutput, GetBucketPolicyInput, GetBucketPolicyOutput,
    PutBucketPolicyInput, PutBucketPolicyOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use serde_json::Value;

use super::error::coded;
use super::{Front, context, error};
use crate::auth::policy::{Document, Kind, Side};
use crate::auth::{Action, Resource, authorise};
use crate::kms::BindError;
use crate::store::BUCKET_POLICY_BYTES_MAX;

const CONFIRM_REMOVE_SELF: &str = "x-amz-confirm-remove-self-bucket-access";
const PUT: &str = "s3:PutBucketPolicy";

pub(super) async fn put(
    front: &Front,
    request: S3Request<PutBucketPolicyInput>,
) -> S3Result<S3Response<PutBucketPolicyOutput>> {
    let bucket = &request.input.bucket;
    let proof = front.may_bucket(&request, PUT, bucket).await?;
    let document = check(&request.input.policy, bucket)?;
    let bound = front.store.bind_policy(document).await;
    let document = bound.map_err(|error| match error {
        BindError::Nobody(_) => malformed("Invalid principal in policy".to_owned()),
        BindError::Kms(error) => error::kms(error),
    })?;
    let confirmed = request.headers.get(CONFIRM_REMOVE_SELF);
    if confirmed.is_none_or(|value| value != "true") {
        let caller = context(&request)?;
        let access = front.store.access_of(&proof).await?;
        let side = Side::Bucket {
            bucket: access.bucket,
            owner: &access.owner,
            policy: Some(&document),
        };
        let resource = Resource::Bucket(bucket.clone());
        let _again =
            authorise(caller, Action(PUT), resource, side, |_values| ()).map_err(error::denied)?;
    }
    front
        .store
        .put_bucket_policy(&proof, Some(&document))
        .await?;
    Ok(S3Response::with_status(
        PutBucketPolicyOutput {},
        StatusCode::NO_CONTENT,
    ))
}

pub(super) async fn get(
    front: &Front,
    request: S3Request<GetBucketPolicyInput>,
) -> S3Result<S3Response<GetBucketPolicyOutput>> {
    let bucket = &request.input.bucket;
    let proof = front
        .may_bucket(&request, "s3:GetBucketPolicy", bucket)
        .await?;
    let access = front.store.access_of(&proof).await?;
    let policy = access.policy.ok_or_else(|| {
        coded(
            StatusCode::NOT_FOUND,
            "NoSuchBucketPolicy",
            "The bucket policy does not exist",
        )
    })?;
    Ok(S3Response::new(GetBucketPolicyOutput {
        policy: Some(policy.text().to_owned()),
    }))
}

pub(super) async fn delete(
    front: &Front,
    request: S3Request<DeleteBucketPolicyInput>,
) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
    let bucket = &request.input.bucket;
    let proof = front
        .may_bucket(&request, "s3:DeleteBucketPolicy", bucket)
        .await?;
    front.store.put_bucket_policy(&proof, None).await?;
    Ok(S3Response::with_status(
        DeleteBucketPolicyOutput {},
        StatusCode::NO_CONTENT,
    ))
}

fn malformed(message: String) -> S3Error {
    let mut error = s3_error!(MalformedPolicy);
    error.set_message(message);
    error
}

/// Reads a policy of this bucket.
fn check(text: &str, bucket: &str) -> S3Result<Document> {
    if text.len() > BUCKET_POLICY_BYTES_MAX {
        return Err(malformed(
            "Policy exceeds the maximum allowed document size.".to_owned(),
        ));
    }
    let document =
        Document::parse(text, Kind::Resource).map_err(|error| malformed(error.to_string()))?;
    let own = format!("arn:aws:s3:::{bucket}");
    let is_own = |resource: &str| {
        resource
            .strip_prefix(&own)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !texts(text, ["Resource", "NotResource"]).all(|resource| is_own(&resource)) {
        return Err(malformed("Policy has invalid resource".to_owned()));
    }
    let of_s3 = |action: &str| action == "*" || action.to_ascii_lowercase().starts_with("s3:");
    if !texts(text, ["Action", "NotAction"]).all(|action| of_s3(&action)) {
        return Err(malformed("Policy has invalid action".to_owned()));
    }
    Ok(document)
}

/// The strings of these elements of all statements of a policy that reads as one.
fn texts(policy: &str, elements: [&'static str; 2]) -> impl Iterator<Item = String> {
    let list = |value: &Value| match value {
        Value::Array(values) => values.clone(),
        other => vec![other.clone()],
    };
    let policy: Value = serde_json::from_str(policy).unwrap_or_default();
    let statements = policy.get("Statement").map(list).unwrap_or_default();
    let values = statements.into_iter().flat_map(move |statement| {
        let found = elements.iter().filter_map(|name| statement.get(name));
        found.flat_map(list).collect::<Vec<_>>()
    });
    values.filter_map(|value| value.as_str().map(str::to_owned))
}
