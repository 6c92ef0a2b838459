//! `CopyObject` and `UploadPartCopy`.

use futures::StreamExt;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, ETagCondition,
    MetadataDirective, Range, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::headers::{self, etag, read_conditions, timestamp};
use super::multipart::part_number;
use super::sse::{self, SseAnswer};
use super::{Front, checksum, context};
use crate::store::record::ChecksumKind;
use crate::store::{
    CHECKSUM_DEFAULT, Conditions, CopyRequest, Incoming, KeyAccess, Located, Selection, StoreError,
    WriteConditions,
};

/// The largest object that one `CopyObject` copies: AWS's limit.
const COPY_BYTES_MAX: u64 = 5 << 30;

/// Conditions of a copy on its target: `s3s` does not know them.
fn conditions_of_target(headers: &http::HeaderMap) -> S3Result<WriteConditions> {
    let condition = |name: &str| match headers.get(name) {
        None => Ok(None),
        Some(value) => ETagCondition::parse_http_header(value.as_bytes())
            .map(Some)
            .map_err(|_syntax| s3_error!(InvalidArgument, "A condition is not an entity tag")),
    };
    headers::write_conditions(condition("if-match")?, condition("if-none-match")?.as_ref())
}

/// Finds the source of a copy, decides about it, and says what reading it takes.
async fn source<T>(
    front: &Front,
    request: &S3Request<T>,
    source: &CopySource,
    conditions: &Conditions,
) -> S3Result<(Located, KeyAccess)> {
    let CopySource::Bucket {
        bucket,
        key,
        version_id,
    } = source
    else {
        return Err(s3_error!(
            NotImplemented,
            "Access points are not implemented"
        ));
    };
    if version_id
        .as_ref()
        .is_some_and(|version| &**version != "null")
    {
        return Err(s3_error!(
            NoSuchVersion,
            "The specified version does not exist."
        ));
    }
    let proof = front.may_read_source(request, bucket, key).await?;
    let located = front.locate(request, &proof, bucket).await?;
    conditions
        .check(located.record())
        .map_err(|error| match error {
            StoreError::NotModified => {
                StoreError::PreconditionFailed("x-amz-copy-source-If-None-Match")
            }
            other => other,
        })?;
    let customer = sse::source_customer_key_of(&request.headers)?;
    let sse = &located.record().sse;
    let access = front
        .key_access(
            context(request)?,
            sse,
            located.caller_context(),
            customer,
            (bucket, key),
        )
        .await?;
    Ok((located, access))
}

pub(super) async fn copy(
    front: &Front,
    mut request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
    let proof = front
        .may_object(&request, "s3:PutObject", &bucket, &key)
        .await?;
    let input = &mut request.input;
    let conditions = read_conditions(
        input.copy_source_if_match.take(),
        input.copy_source_if_none_match.take(),
        input.copy_source_if_modified_since.take(),
        input.copy_source_if_unmodified_since.take(),
    );
    let algorithm = input
        .checksum_algorithm
        .take()
        .map(|name| checksum::named(name.as_str()))
        .transpose()?;
    let directive = input.metadata_directive.take();
    let replaces = match directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => return Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
    };
    let metadata = input.metadata.take();
    let copy_source = input.copy_source.clone();
    let (located, access) = source(front, &request, &copy_source, &conditions).await?;
    if located.record().size > COPY_BYTES_MAX {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: {COPY_BYTES_MAX}"
        ));
    }
    let record = front.store.load_bucket(&proof).await?;
    let target = front
        .sse_target(context(&request)?, &request.headers, &record, &bucket, &key)
        .await?;
    let onto_itself = matches!(&copy_source, CopySource::Bucket { bucket: from, key: name, .. } if **from == *bucket && **name == *key);
    let changes_encryption = request
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("x-amz-server-side-encryption"));
    if onto_itself && !replaces && !changes_encryption && algorithm.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
        ));
    }
    let written = front
        .store
        .copy(CopyRequest {
            source: located,
            access,
            proof,
            sse: target,
            headers: if replaces {
                Some(headers::kept(&request.headers, metadata)?)
            } else {
                None
            },
            algorithm,
            conditions: conditions_of_target(&request.headers)?,
        })
        .await?;
    let answer = SseAnswer::with_context(&written.sse, written.bucket_key, &request.headers);
    let mut result = CopyObjectResult {
        e_tag: Some(etag(&written.etag)),
        last_modified: Some(timestamp(written.last_modified_ms)),
        ..CopyObjectResult::default()
    };
    if let Some((kind, bytes)) = &written.checksum {
        checksum::set_checksum!(result, *kind, bytes, None);
        result.checksum_type = Some(checksum::kind_name(*kind));
    }
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        bucket_key_enabled: answer.bucket_key,
        server_side_encryption: answer.algorithm,
        ssekms_key_id: answer.kms_key,
        ssekms_encryption_context: answer.context,
        sse_customer_algorithm: answer.customer_algorithm,
        sse_customer_key_md5: answer.customer_md5,
        ..CopyObjectOutput::default()
    }))
}

pub(super) async fn copy_part(
    front: &Front,
    mut request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
    let proof = front
        .may_object(&request, "s3:PutObject", &bucket, &key)
        .await?;
    let number = part_number(request.input.part_number)?;
    let input = &mut request.input;
    let conditions = read_conditions(
        input.copy_source_if_match.take(),
        input.copy_source_if_none_match.take(),
        input.copy_source_if_modified_since.take(),
        input.copy_source_if_unmodified_since.take(),
    );
    let selection = match input.copy_source_range.as_deref() {
        None => Selection::Whole,
        Some(text) => match Range::parse(text) {
            Ok(Range::Int {
                first,
                last: Some(last),
            }) => Selection::Range(first, Some(last)),
            _ => {
                return Err(s3_error!(
                    InvalidArgument,
                    "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
                ));
            }
        },
    };
    let copy_source = input.copy_source.clone();
    let upload = front
        .store
        .locate_upload(&proof, &request.input.upload_id)
        .await?;
    let upload_access = front
        .upload_access(
            context(&request)?,
            &request.headers,
            &upload,
            (&bucket, &key),
        )
        .await?;
    let (located, access) = source(front, &request, &copy_source, &conditions).await?;
    if matches!(selection, Selection::Range(_, Some(last)) if last >= located.record().size) {
        return Err(s3_error!(
            InvalidArgument,
            "Range specified is not valid for source object of size: {}",
            located.record().size
        ));
    }
    let reading = front.store.open(&located, &access, selection).await?;
    let algorithm = upload
        .record()
        .checksum
        .map_or(CHECKSUM_DEFAULT, |kind| kind.algorithm);
    let stream = reading.body.map(|frame| frame.map_err(Into::into)).boxed();
    let incoming = Incoming {
        stream,
        content_md5: None,
        algorithm,
        claimed: None,
        expected: Box::new(|| Ok(None)),
    };
    let (part, bytes) = front
        .store
        .put_part(&upload, &upload_access, number, incoming)
        .await?;
    let answer = SseAnswer::new(
        &upload.record().sse,
        upload.says_bucket_key(),
        &request.headers,
    );
    let mut result = CopyPartResult {
        e_tag: Some(etag(&part.etag)),
        last_modified: Some(timestamp(part.last_modified_ms)),
        ..CopyPartResult::default()
    };
    checksum::set_checksum!(
        result,
        ChecksumKind {
            algorithm,
            composite: false
        },
        &bytes,
        None
    );
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        bucket_key_enabled: answer.bucket_key,
        server_side_encryption: answer.algorithm,
        ssekms_key_id: answer.kms_key,
        sse_customer_algorithm: answer.customer_algorithm,
        sse_customer_key_md5: answer.customer_md5,
        ..UploadPartCopyOutput::default()
    }))
}
