//! Multipart uploads.

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm as WireAlgorithm,
    ChecksumType, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, ListPartsInput, ListPartsOutput,
    Part, StorageClass, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::error::kms;
use super::headers::{self, etag, length, timestamp};
use super::sse::{self, SseAnswer};
use super::{Front, checksum, context, object};
use crate::auth::RequestContext;
use crate::kms::KeyArn;
use crate::store::context::arn_of_wrap;
use crate::store::record::{ChecksumAlgorithm, ChecksumKind, KeptContext, SseRecord};
use crate::store::{CompletePart, CompleteRequest, KeyAccess, SseTarget, StoreError, UploadTarget};

/// The most parts of one `ListParts`: AWS's limit.
const PARTS_LISTED_MAX: usize = 1000;

impl Front {
    /// What a request brings to use the data key of an upload.
    pub(super) async fn upload_access(
        &self,
        caller: &RequestContext,
        headers: &http::HeaderMap,
        upload: &UploadTarget,
        name: (&str, &str),
    ) -> S3Result<KeyAccess> {
        sse::refuse_bucket_key(headers)?;
        let customer = sse::customer_key_of(headers)?;
        let sse = &upload.record().sse;
        match (sse, &customer) {
            (SseRecord::Customer, None) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate encryption parameters."
                ));
            }
            (SseRecord::S3 | SseRecord::Kms(_), Some(_)) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The multipart upload initiate requested encryption with another method. Subsequent part requests must not include a customer provided key."
                ));
            }
            _ => {}
        }
        let kept = upload.caller_context();
        if let SseRecord::Kms(arn) = sse {
            let arn = self.kms.arn_of_record(arn).map_err(kms)?;
            self.may_also(caller, "kms:GenerateDataKey", &arn, kept, name)
                .await?;
        }
        self.key_access(caller, sse, kept, customer, name).await
    }

    /// Every step of a multipart upload takes both rights: to make a data key and to decrypt it (S3 User Guide,
    /// "Multipart upload API and permissions").
    async fn may_also(
        &self,
        caller: &RequestContext,
        action: &'static str,
        arn: &KeyArn,
        kept: KeptContext<'_>,
        (bucket, key): (&str, &str),
    ) -> S3Result<()> {
        let named = arn_of_wrap(kept.bucket_key, bucket, key);
        let context = sse::full_context(kept.caller, &named)?;
        let _proof = self.may_key(caller, action, arn, None, &context).await?;
        Ok(())
    }
}

pub(super) fn part_number(number: i32) -> S3Result<u32> {
    match u32::try_from(number) {
        Ok(number @ 1..=10_000) => Ok(number),
        _ => Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive"
        )),
    }
}

/// Which checksum an upload's object will have.
fn checksum_kind(
    algorithm: Option<&WireAlgorithm>,
    kind: Option<&ChecksumType>,
) -> S3Result<ChecksumKind> {
    let Some(algorithm) = algorithm else {
        if kind.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            ));
        }
        // AWS's default for an upload that says nothing.
        return Ok(ChecksumKind {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            composite: false,
        });
    };
    let algorithm = checksum::named(algorithm.as_str())?;
    let composite = match kind.map(ChecksumType::as_str) {
        Some(ChecksumType::COMPOSITE) => true,
        Some(ChecksumType::FULL_OBJECT) => false,
        Some(_) => {
            return Err(s3_error!(
                InvalidRequest,
                "Value for x-amz-checksum-type header is invalid."
            ));
        }
        None => algorithm != ChecksumAlgorithm::Crc64Nvme,
    };
    if (composite && algorithm == ChecksumAlgorithm::Crc64Nvme)
        || (!composite && !algorithm.combines())
    {
        return Err(s3_error!(
            InvalidRequest,
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            if composite {
                ChecksumType::COMPOSITE
            } else {
                ChecksumType::FULL_OBJECT
            },
            algorithm.name().to_ascii_lowercase()
        ));
    }
    Ok(ChecksumKind {
        algorithm,
        composite,
    })
}

pub(super) async fn create(
    front: &Front,
    mut request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
    let proof = front
        .may_object(&request, "s3:PutObject", &bucket, &key)
        .await?;
    let checksum = checksum_kind(
        request.input.checksum_algorithm.as_ref(),
        request.input.checksum_type.as_ref(),
    )?;
    let kept = headers::kept(&request.headers, request.input.metadata.take())?;
    let record = front.store.load_bucket(&proof).await?;
    let target = front
        .sse_target(context(&request)?, &request.headers, &record, &bucket, &key)
        .await?;
    if let SseTarget::Kms {
        key: arn,
        caller_context,
        bucket_key,
        ..
    } = &target
    {
        let kept = KeptContext {
            caller: caller_context,
            bucket_key: *bucket_key,
        };
        let name = (bucket.as_str(), key.as_str());
        front
            .may_also(context(&request)?, "kms:Decrypt", arn, kept, name)
            .await?;
    }
    let asked = request.input.checksum_algorithm.is_some();
    let id = front
        .store
        .create_upload(&proof, &target, kept, (checksum, asked))
        .await?;
    let answer =
        SseAnswer::with_context(&target.record(), target.says_bucket_key(), &request.headers);
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(bucket),
        checksum_algorithm: request.input.checksum_algorithm,
        checksum_type: asked.then(|| checksum::kind_name(checksum)),
        key: Some(key),
        bucket_key_enabled: answer.bucket_key,
        server_side_encryption: answer.algorithm,
        ssekms_key_id: answer.kms_key,
        ssekms_encryption_context: answer.context,
        sse_customer_algorithm: answer.customer_algorithm,
        sse_customer_key_md5: answer.customer_md5,
        upload_id: Some(hex::encode(id)),
        ..CreateMultipartUploadOutput::default()
    }))
}

pub(super) async fn put_part(
    front: &Front,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
    let proof = front
        .may_object(&request, "s3:PutObject", &bucket, &key)
        .await?;
    let number = part_number(request.input.part_number)?;
    let upload = front
        .store
        .locate_upload(&proof, &request.input.upload_id)
        .await?;
    let access = front
        .upload_access(
            context(&request)?,
            &request.headers,
            &upload,
            (&bucket, &key),
        )
        .await?;
    let preset = upload
        .record()
        .checksum
        .map(|kind| (kind.algorithm, upload.record().checksum_chosen));
    let body = request.input.body.take().unwrap_or_else(object::empty);
    let incoming = checksum::incoming(body, &request.headers, &request.extensions, preset)?;
    let algorithm = incoming.claimed.unwrap_or(incoming.algorithm);
    let (part, bytes) = front
        .store
        .put_part(&upload, &access, number, incoming)
        .await
        .map_err(of_an_upload)?;
    let answer = SseAnswer::new(
        &upload.record().sse,
        upload.says_bucket_key(),
        &request.headers,
    );
    let mut output = UploadPartOutput {
        e_tag: Some(etag(&part.etag)),
        bucket_key_enabled: answer.bucket_key,
        server_side_encryption: answer.algorithm,
        ssekms_key_id: answer.kms_key,
        sse_customer_algorithm: answer.customer_algorithm,
        sse_customer_key_md5: answer.customer_md5,
        ..UploadPartOutput::default()
    };
    checksum::set_checksum!(
        output,
        ChecksumKind {
            algorithm,
            composite: false
        },
        &bytes,
        None
    );
    Ok(S3Response::new(output))
}

/// To an upload's parts AWS answers otherwise than to its readers.
pub(super) fn of_an_upload(error: StoreError) -> S3Error {
    match error {
        StoreError::CustomerKeyWrong => s3_error!(
            InvalidRequest,
            "The provided encryption parameters did not match the ones used originally."
        ),
        other => other.into(),
    }
}

fn complete_part(part: &CompletedPart) -> S3Result<CompletePart> {
    let malformed = || {
        s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        )
    };
    let checksum = checksum::decode_one([
        (ChecksumAlgorithm::Crc32, part.checksum_crc32.as_deref()),
        (ChecksumAlgorithm::Crc32c, part.checksum_crc32c.as_deref()),
        (
            ChecksumAlgorithm::Crc64Nvme,
            part.checksum_crc64nvme.as_deref(),
        ),
        (ChecksumAlgorithm::Sha1, part.checksum_sha1.as_deref()),
        (ChecksumAlgorithm::Sha256, part.checksum_sha256.as_deref()),
    ])?;
    Ok(CompletePart {
        number: part_number(part.part_number.ok_or_else(malformed)?)?,
        etag: part
            .e_tag
            .clone()
            .map(ETag::into_value)
            .ok_or_else(malformed)?,
        checksum,
    })
}

fn named_parts(input: &CompleteMultipartUploadInput) -> &[CompletedPart] {
    let upload = input.multipart_upload.as_ref();
    upload
        .and_then(|upload| upload.parts.as_deref())
        .unwrap_or_default()
}

pub(super) async fn complete(
    front: &Front,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = &request.input;
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let proof = front
        .may_object(&request, "s3:PutObject", &bucket, &key)
        .await?;
    let parts = named_parts(input)
        .iter()
        .map(complete_part)
        .collect::<S3Result<Vec<_>>>()?;
    let checksum = checksum::decode_one([
        (ChecksumAlgorithm::Crc32, input.checksum_crc32.as_deref()),
        (ChecksumAlgorithm::Crc32c, input.checksum_crc32c.as_deref()),
        (
            ChecksumAlgorithm::Crc64Nvme,
            input.checksum_crc64nvme.as_deref(),
        ),
        (ChecksumAlgorithm::Sha1, input.checksum_sha1.as_deref()),
        (ChecksumAlgorithm::Sha256, input.checksum_sha256.as_deref()),
    ])?;
    let upload = front.store.locate_upload(&proof, &input.upload_id).await?;
    let kind = upload.record().checksum;
    if let Some((algorithm, _)) = &checksum
        && kind.is_none_or(|kind| kind.algorithm != *algorithm)
    {
        return Err(s3_error!(
            InvalidRequest,
            "The checksum of the object is not of the algorithm that the upload was initiated with."
        ));
    }
    if let (Some(asked), Some(kind)) = (&input.checksum_type, kind)
        && *asked != checksum::kind_name(kind)
    {
        return Err(s3_error!(
            InvalidRequest,
            "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
            checksum::kind_name(kind).as_str()
        ));
    }
    let access = front
        .upload_access(
            context(&request)?,
            &request.headers,
            &upload,
            (&bucket, &key),
        )
        .await?;
    let size = match input.mpu_object_size {
        Some(size) => Some(u64::try_from(size).map_err(|_negative| {
            s3_error!(
                InvalidRequest,
                "Value for x-amz-mp-object-size header is invalid."
            )
        })?),
        None => None,
    };
    let written = front
        .store
        .complete_upload(CompleteRequest {
            upload,
            access,
            parts,
            checksum: checksum.map(|(_, bytes)| bytes),
            size,
            conditions: headers::write_conditions(
                input.if_match.clone(),
                input.if_none_match.as_ref(),
            )?,
        })
        .await
        .map_err(of_an_upload)?;
    let answer = SseAnswer::new(&written.sse, written.bucket_key, &request.headers);
    let parts = u32::try_from(named_parts(input).len()).ok();
    let mut output = CompleteMultipartUploadOutput {
        e_tag: Some(etag(&written.etag)),
        location: Some(format!("/{bucket}/{key}")),
        bucket: Some(bucket),
        key: Some(key),
        bucket_key_enabled: answer.bucket_key,
        server_side_encryption: answer.algorithm,
        ssekms_key_id: answer.kms_key,
        ..CompleteMultipartUploadOutput::default()
    };
    if let Some((kind, bytes)) = &written.checksum {
        checksum::set_checksum!(output, *kind, bytes, parts);
        output.checksum_type = Some(checksum::kind_name(*kind));
    }
    Ok(S3Response::new(output))
}

pub(super) async fn abort(
    front: &Front,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = &request.input;
    let proof = front
        .may_object(
            &request,
            "s3:AbortMultipartUpload",
            &input.bucket,
            &input.key,
        )
        .await?;
    if input.if_match_initiated_time.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "x-amz-if-match-initiated-time is not implemented"
        ));
    }
    let upload = front.store.locate_upload(&proof, &input.upload_id).await?;
    front.store.abort_upload(&upload).await?;
    Ok(S3Response::with_status(
        AbortMultipartUploadOutput::default(),
        http::StatusCode::NO_CONTENT,
    ))
}

pub(super) async fn list_parts(
    front: &Front,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let proof = front
        .may_object(
            &request,
            "s3:ListMultipartUploadParts",
            &request.input.bucket,
            &request.input.key,
        )
        .await?;
    let input = request.input;
    let max = match input.max_parts {
        None => PARTS_LISTED_MAX,
        Some(max) => usize::try_from(max)
            .map(|max| max.min(PARTS_LISTED_MAX))
            .map_err(|_negative| {
                s3_error!(
                    InvalidArgument,
                    "Argument max-parts must be an integer between 0 and 2147483647"
                )
            })?,
    };
    let after = match input.part_number_marker {
        None => 0,
        Some(marker) => u32::try_from(marker).map_err(|_negative| {
            s3_error!(
                InvalidArgument,
                "Argument part-number-marker must be an integer between 0 and 2147483647"
            )
        })?,
    };
    let upload = front.store.locate_upload(&proof, &input.upload_id).await?;
    let listing = front.store.list_parts(&upload, after, max).await?;
    let checksum = upload.record().checksum;
    // The parts' checksums are sealed: listing needs no key, so it does not show them.
    let parts = listing
        .parts
        .iter()
        .map(|(number, part)| Part {
            e_tag: Some(etag(&part.etag)),
            last_modified: Some(timestamp(part.last_modified_ms)),
            part_number: i32::try_from(*number).ok(),
            size: length(part.size),
            ..Part::default()
        })
        .collect();
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: checksum.map(|kind| WireAlgorithm::from_static(kind.algorithm.name())),
        checksum_type: checksum.map(checksum::kind_name),
        is_truncated: Some(listing.next.is_some()),
        key: Some(input.key),
        max_parts: i32::try_from(max).ok(),
        next_part_number_marker: listing.next.and_then(|next| i32::try_from(next).ok()),
        owner: Some(front.owner(upload.owner())),
        part_number_marker: input.part_number_marker,
        parts: Some(parts),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(input.upload_id),
        ..ListPartsOutput::default()
    }))
}
