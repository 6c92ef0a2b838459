//! The S3 front end: wire types into use cases of `store`, and back.
//!
//! `s3s` routes and (de)serialises. It authenticates nothing here: a request comes with its [`RequestContext`] in the
//! extensions, its authentication and chunk headers stripped, its body decoded and verified as it streams. What this
//! front end does not do is answered `NotImplemented`, never accepted and ignored: by [`refuse`] for headers, and by
//! `s3s` for operations that have no line below.

use std::collections::BTreeMap;
use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput,
    CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, DeleteBucketInput,
    DeleteBucketOutput, DeleteBucketPolicyInput, DeleteBucketPolicyOutput, DeleteObjectInput,
    DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetBucketEncryptionInput,
    GetBucketEncryptionOutput, GetBucketLocationInput, GetBucketLocationOutput,
    GetBucketPolicyInput, GetBucketPolicyOutput, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, ListPartsInput, ListPartsOutput,
    PutBucketEncryptionInput, PutBucketEncryptionOutput, PutBucketPolicyInput,
    PutBucketPolicyOutput, PutObjectInput, PutObjectOutput, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::audit::caught;
use crate::auth::{AccountId, RequestContext};
use crate::kms::Kms;
use crate::store::Store;

mod access;
mod audit;
mod bucket;
mod bucket_policy;
mod checksum;
mod copy;
mod error;
mod headers;
mod list;
mod multipart;
mod object;
pub mod refuse;
mod sse;
mod update;

pub use checksum::{AnnouncedTrailers, check_document};
pub use error::error_response;
pub use headers::drop_meaningless_range;

/// What the front end stands on.
#[derive(Debug, Clone)]
pub struct Front {
    store: Store,
    kms: Arc<Kms>,
    /// Served regions; the first is the default.
    regions: Vec<String>,
    owners: Owners,
    calls: TaskTracker,
}

/// What S3 says of accounts: canonical id and display name.
pub type Owners = BTreeMap<AccountId, (String, String)>;

impl Front {
    /// A front end on these seams. `regions` is not empty.
    pub fn new(store: Store, kms: Arc<Kms>, regions: Vec<String>, owners: Owners) -> Self {
        Self {
            store,
            kms,
            regions,
            owners,
            calls: TaskTracker::new(),
        }
    }

    /// The calls that go on without their callers.
    pub fn calls(&self) -> &TaskTracker {
        &self.calls
    }

    /// Where its objects are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The service that answers requests.
    pub fn into_service(self) -> S3Service {
        let mut builder = S3ServiceBuilder::new(self.clone());
        builder.set_route(update::Route(self));
        builder.build()
    }
}

/// The caller of a request.
fn context<T>(request: &S3Request<T>) -> S3Result<&RequestContext> {
    // Only the server makes these requests, and it puts the context in.
    request
        .extensions
        .get()
        .ok_or_else(|| s3s::s3_error!(AccessDenied))
}

macro_rules! operations {
    (
        managing { $($managing:ident($managing_input:ident) -> $managing_output:ident = $managing_path:path;)* }
        $($name:ident($input:ident) -> $output:ident = $path:path;)*
    ) => {
        #[async_trait::async_trait]
        impl S3 for Front {
            $(async fn $managing(&self, request: S3Request<$managing_input>) -> S3Result<S3Response<$managing_output>> {
                let front = self.clone();
                to_its_end(&self.calls, async move {
                    let call = audit::Call::begin(&front, &request).await?;
                    let kms = Arc::clone(&front.kms);
                    recorded(&kms, call, async move { $managing_path(&front, request).await }).await
                })
                .await
            })*
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                $path(self, request).await
            })*
        }
    };
}

/// Answers a call that changes records, and that is recorded, whether or not its caller still waits.
async fn to_its_end<T: Send + 'static>(
    calls: &TaskTracker,
    answer: impl Future<Output = S3Result<T>> + Send + 'static,
) -> S3Result<T> {
    let answered = calls.spawn(answer.in_current_span()).await;
    answered.unwrap_or_else(|panic| Err(error::internal(panic)))
}

/// Records how a call went, also one that panics.
async fn recorded<T>(
    kms: &Kms,
    call: audit::Call,
    answer: impl Future<Output = S3Result<T>> + Send,
) -> S3Result<T> {
    let answer = caught(answer).await;
    let answer = answer.unwrap_or_else(|panic| Err(error::internal(panic)));
    call.end(kms, answer.as_ref().err()).await?;
    answer
}

operations! {
    managing {
        create_bucket(CreateBucketInput) -> CreateBucketOutput = bucket::create;
        delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = bucket::delete;
        put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput = bucket::put_encryption;
        delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput = bucket::delete_encryption;
        put_bucket_policy(PutBucketPolicyInput) -> PutBucketPolicyOutput = bucket_policy::put;
        delete_bucket_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput = bucket_policy::delete;
    }
    list_buckets(ListBucketsInput) -> ListBucketsOutput = bucket::list;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = bucket::head;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = bucket::location;
    get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = bucket::get_encryption;
    get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = bucket_policy::get;
    put_object(PutObjectInput) -> PutObjectOutput = object::put;
    get_object(GetObjectInput) -> GetObjectOutput = object::get;
    head_object(HeadObjectInput) -> HeadObjectOutput = object::head;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = object::delete;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = object::delete_many;
    copy_object(CopyObjectInput) -> CopyObjectOutput = copy::copy;
    list_objects(ListObjectsInput) -> ListObjectsOutput = list::v1;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = list::v2;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = multipart::create;
    upload_part(UploadPartInput) -> UploadPartOutput = multipart::put_part;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = copy::copy_part;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput = multipart::complete;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = multipart::abort;
    list_parts(ListPartsInput) -> ListPartsOutput = multipart::list_parts;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = list::uploads;
}
