//! Who may do what with buckets and objects: the bucket's policy and the caller's own policies, brought before the one
//! decision of [`auth`](crate::auth); and the KMS keys of objects, which `kms` is asked about in the caller's name.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use s3s::{S3Request, S3Result, s3_error};

use super::{Front, error};
use crate::auth::policy::{Side, Values};
use crate::auth::{Action, Authorised, RequestContext, Resource, authorise};
use crate::kms::{Ask, EncryptionContext, KeyArn, KeyRef, KmsError};
use crate::store::{Located, StoreError};

/// Headers that policies can ask about, each as `s3:` and its name.
const HEADER_KEYS: [&str; 8] = [
    "x-amz-acl",
    "x-amz-copy-source",
    "x-amz-metadata-directive",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "if-none-match",
];

/// Parameters of `ListBucket` that policies can ask about, each as `s3:` and its name.
const LIST_KEYS: [&str; 3] = ["prefix", "delimiter", "max-keys"];

const EXPECTED_OWNER: &str = "x-amz-expected-bucket-owner";
const SOURCE_EXPECTED_OWNER: &str = "x-amz-source-expected-bucket-owner";
const CREATE_BUCKET: &str = "s3:CreateBucket";

impl Front {
    /// Decides about an operation on a bucket.
    pub(super) async fn may_bucket<T>(
        &self,
        request: &S3Request<T>,
        action: &'static str,
        bucket: &str,
    ) -> S3Result<Authorised> {
        let resource = Resource::Bucket(bucket.to_owned());
        self.may(request, (action, EXPECTED_OWNER), resource, bucket)
            .await
    }

    /// Decides about an operation on an object.
    pub(super) async fn may_object<T>(
        &self,
        request: &S3Request<T>,
        action: &'static str,
        bucket: &str,
        key: &str,
    ) -> S3Result<Authorised> {
        let resource = Resource::Object(bucket.to_owned(), key.to_owned());
        self.may(request, (action, EXPECTED_OWNER), resource, bucket)
            .await
    }

    /// Decides about reading the source of a copy.
    pub(super) async fn may_read_source<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        key: &str,
    ) -> S3Result<Authorised> {
        let resource = Resource::Object(bucket.to_owned(), key.to_owned());
        let action = ("s3:GetObject", SOURCE_EXPECTED_OWNER);
        self.may(request, action, resource, bucket).await
    }

    /// Decides about an operation on all buckets of the caller.
    pub(super) fn may_buckets<T>(
        request: &S3Request<T>,
        action: &'static str,
    ) -> S3Result<Authorised> {
        let caller = super::context(request)?;
        let add = |values: &mut Values| add_values(values, request);
        authorise(caller, Action(action), Resource::Buckets, Side::None, add).map_err(error::denied)
    }

    /// The object of the proof. Who may not list the bucket is not told that there is none (S3 API, `GetObject`).
    pub(super) async fn locate<T>(
        &self,
        request: &S3Request<T>,
        proof: &Authorised,
        bucket: &str,
    ) -> S3Result<Located> {
        match self.store.locate(proof).await {
            Ok(located) => Ok(located),
            Err(missing @ (StoreError::NoSuchKey(_) | StoreError::NoSuchVersion(_))) => {
                let _listing = self.may_bucket(request, "s3:ListBucket", bucket).await?;
                Err(missing.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn may<T>(
        &self,
        request: &S3Request<T>,
        (action, owner_header): (&'static str, &'static str),
        resource: Resource,
        bucket: &str,
    ) -> S3Result<Authorised> {
        let caller = super::context(request)?;
        let add = |values: &mut Values| add_values(values, request);
        caller.operation.name(Action(action), &resource);
        let access = self.store.bucket_access(bucket).await?;
        let (Some(access), true) = (&access, action != CREATE_BUCKET) else {
            // Whoever makes it owns it. Of what is not there nothing else is allowed: by the time it is done, the bucket
            // could be there, and another's.
            let proof = authorise(caller, Action(action), resource, Side::None, add)
                .map_err(error::denied)?;
            return match action {
                CREATE_BUCKET => Ok(proof),
                _ => Err(StoreError::NoSuchBucket(bucket.to_owned()).into()),
            };
        };
        let expected = request.headers.get_all(owner_header);
        if expected.iter().any(|owner| owner != access.owner.as_str()) {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        let side = Side::Bucket {
            bucket: access.bucket,
            owner: &access.owner,
            policy: access.policy.as_deref(),
        };
        authorise(caller, Action(action), resource, side, add).map_err(error::denied)
    }

    /// Decides about a KMS key that an object is to be written with or is read by.
    pub(super) async fn may_key(
        &self,
        caller: &RequestContext,
        action: &'static str,
        key: &KeyArn,
        named: Option<&KeyRef>,
        context: &EncryptionContext,
    ) -> S3Result<Authorised> {
        let ask = Ask::new(action)
            .context(context)
            .via("s3", self.kms.region());
        let ask = named.into_iter().fold(ask, Ask::named);
        let decided = self.kms.authorise(caller, &ask, key).await;
        if let Err(KmsError::AccessDenied(denied)) = &decided {
            let recorded = self.kms.record_denied(caller, denied, key, context).await;
            recorded.map_err(error::kms)?;
        }
        decided.map_err(error::kms)
    }
}

/// Adds what policies can ask about a request to S3.
fn add_values<T>(values: &mut Values, request: &S3Request<T>) {
    values.add("s3:signatureversion", "AWS4-HMAC-SHA256");
    if let Ok(caller) = super::context(request) {
        if let Some(digest) = &caller.content_sha256 {
            values.add("s3:x-amz-content-sha256", digest.as_str());
        }
        values.add(
            "s3:authType",
            if caller.presigned {
                "REST-QUERY-STRING"
            } else {
                "REST-HEADER"
            },
        );
    }
    add_headers(values, &request.headers);
    let query = request.uri.query().unwrap_or_default();
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if LIST_KEYS.contains(&name) {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy();
            values.add(&format!("s3:{name}"), value);
        }
    }
}

fn add_headers(values: &mut Values, headers: &HeaderMap) {
    for name in HEADER_KEYS {
        for value in headers.get_all(name) {
            if let Ok(value) = value.to_str() {
                values.add(&format!("s3:{name}"), value);
            }
        }
    }
}
