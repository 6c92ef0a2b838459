//! Lists of objects and of uploads.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    ChecksumAlgorithm, CommonPrefix, EncodingType, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, MultipartUpload, Object, ObjectStorageClass, Owner, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::headers::{etag, length, timestamp};
use super::{Front, checksum};
use crate::store::record::ObjectRecord;
use crate::store::{LIST_ENTRIES_MAX, ListRequest};

/// What `encoding-type=url` leaves as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'*');

/// Encodes names if the client asked for it.
struct Encoding(bool);

impl Encoding {
    fn new(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked {
            None => Ok(Self(false)),
            Some(encoding) if encoding.as_str() == EncodingType::URL => Ok(Self(true)),
            Some(_) => Err(s3_error!(
                InvalidArgument,
                "Invalid Encoding Method specified in Request"
            )),
        }
    }

    fn apply(&self, name: &str) -> String {
        if self.0 {
            utf8_percent_encode(name, &PLAIN).to_string()
        } else {
            name.to_owned()
        }
    }

    fn prefixes(&self, prefixes: &[String]) -> Vec<CommonPrefix> {
        let encoded = |prefix: &String| CommonPrefix {
            prefix: Some(self.apply(prefix)),
        };
        prefixes.iter().map(encoded).collect()
    }
}

fn limit(asked: Option<i32>) -> S3Result<usize> {
    match asked {
        None => Ok(LIST_ENTRIES_MAX),
        Some(max) => usize::try_from(max)
            .map(|max| max.min(LIST_ENTRIES_MAX))
            .map_err(|_negative| {
                s3_error!(
                    InvalidArgument,
                    "Argument maxKeys must be an integer between 0 and 2147483647"
                )
            }),
    }
}

/// The last name that was shown, as the client is to send it back.
pub(super) fn write_token(last: String) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

/// What [`write_token`] gave.
pub(super) fn read_token(token: &str) -> S3Result<String> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "The continuation token provided is incorrect"
            )
        })
}

fn wire_limit(limit: usize) -> Option<i32> {
    i32::try_from(limit).ok()
}

fn object(key: String, record: &ObjectRecord, owner: Option<Owner>) -> Object {
    Object {
        checksum_algorithm: record
            .checksum
            .map(|kind| vec![ChecksumAlgorithm::from_static(kind.algorithm.name())]),
        checksum_type: record.checksum.map(checksum::kind_name),
        e_tag: Some(etag(&record.etag)),
        key: Some(key),
        last_modified: Some(timestamp(record.last_modified_ms)),
        owner,
        restore_status: None,
        size: length(record.size),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
    }
}

pub(super) async fn v1(
    front: &Front,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let proof = front
        .may_bucket(&request, "s3:ListBucket", &request.input.bucket)
        .await?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let entries_max = limit(input.max_keys)?;
    let listing = front
        .store
        .list(
            &proof,
            &ListRequest {
                prefix: input.prefix.clone().unwrap_or_default(),
                delimiter: input.delimiter.clone(),
                after: input.marker.clone().unwrap_or_default(),
                entries_max,
            },
        )
        .await?;
    let owner = front.owner(&listing.owner);
    let contents = listing
        .entries
        .iter()
        .map(|(key, record)| object(encoding.apply(key), record, Some(owner.clone())))
        .collect();
    Ok(S3Response::new(ListObjectsOutput {
        common_prefixes: Some(encoding.prefixes(&listing.prefixes)),
        contents: Some(contents),
        delimiter: input
            .delimiter
            .as_deref()
            .map(|delimiter| encoding.apply(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(listing.next.is_some()),
        marker: Some(encoding.apply(&input.marker.unwrap_or_default())),
        max_keys: wire_limit(entries_max),
        name: Some(input.bucket),
        // AWS gives the marker only with a delimiter: else it is the last key.
        next_marker: listing
            .next
            .as_deref()
            .filter(|_| input.delimiter.is_some())
            .map(|next| encoding.apply(next)),
        prefix: Some(encoding.apply(&input.prefix.unwrap_or_default())),
        ..ListObjectsOutput::default()
    }))
}

pub(super) async fn v2(
    front: &Front,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let proof = front
        .may_bucket(&request, "s3:ListBucket", &request.input.bucket)
        .await?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let entries_max = limit(input.max_keys)?;
    let after = match &input.continuation_token {
        Some(token) => read_token(token)?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let listing = front
        .store
        .list(
            &proof,
            &ListRequest {
                prefix: input.prefix.clone().unwrap_or_default(),
                delimiter: input.delimiter.clone(),
                after,
                entries_max,
            },
        )
        .await?;
    let owner = match input.fetch_owner {
        Some(true) => Some(front.owner(&listing.owner)),
        Some(false) | None => None,
    };
    let contents = listing
        .entries
        .iter()
        .map(|(key, record)| object(encoding.apply(key), record, owner.clone()))
        .collect();
    Ok(S3Response::new(ListObjectsV2Output {
        common_prefixes: Some(encoding.prefixes(&listing.prefixes)),
        contents: Some(contents),
        continuation_token: input.continuation_token,
        delimiter: input
            .delimiter
            .as_deref()
            .map(|delimiter| encoding.apply(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(listing.next.is_some()),
        key_count: wire_limit(listing.entries.len() + listing.prefixes.len()),
        max_keys: wire_limit(entries_max),
        name: Some(input.bucket),
        next_continuation_token: listing.next.map(write_token),
        prefix: Some(encoding.apply(&input.prefix.unwrap_or_default())),
        start_after: input
            .start_after
            .as_deref()
            .map(|after| encoding.apply(after)),
        ..ListObjectsV2Output::default()
    }))
}

pub(super) async fn uploads(
    front: &Front,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let proof = front
        .may_bucket(
            &request,
            "s3:ListBucketMultipartUploads",
            &request.input.bucket,
        )
        .await?;
    let input = request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let entries_max = limit(input.max_uploads)?;
    let mut after_upload = [0; 16];
    let upload_marker = input
        .upload_id_marker
        .as_deref()
        .filter(|marker| !marker.is_empty());
    if let Some(marker) = upload_marker {
        hex::decode_to_slice(marker, &mut after_upload)
            .map_err(|_not_hex| s3_error!(InvalidArgument, "Invalid uploadId marker"))?;
    }
    let listing = front
        .store
        .list_uploads(
            &proof,
            &ListRequest {
                prefix: input.prefix.clone().unwrap_or_default(),
                delimiter: input.delimiter.clone(),
                after: input.key_marker.clone().unwrap_or_default(),
                entries_max,
            },
            upload_marker.map(|_| &after_upload),
        )
        .await?;
    let last = listing.entries.last();
    let next_upload = last
        .filter(|(key, _)| listing.next.as_ref() == Some(key))
        .map(|(_, (id, _))| hex::encode(id));
    let owner = front.owner(&listing.owner);
    let uploads = listing
        .entries
        .iter()
        .map(|(key, (id, record))| MultipartUpload {
            checksum_algorithm: record
                .checksum
                .map(|kind| ChecksumAlgorithm::from_static(kind.algorithm.name())),
            checksum_type: record.checksum.map(checksum::kind_name),
            initiated: Some(timestamp(record.initiated_ms)),
            initiator: None,
            key: Some(encoding.apply(key)),
            owner: Some(owner.clone()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            upload_id: Some(hex::encode(id)),
        })
        .collect();
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: Some(encoding.prefixes(&listing.prefixes)),
        delimiter: input
            .delimiter
            .as_deref()
            .map(|delimiter| encoding.apply(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(listing.next.is_some()),
        key_marker: input
            .key_marker
            .as_deref()
            .map(|marker| encoding.apply(marker)),
        max_uploads: wire_limit(entries_max),
        next_key_marker: listing.next.as_deref().map(|next| encoding.apply(next)),
        next_upload_id_marker: next_upload,
        prefix: Some(encoding.apply(&input.prefix.unwrap_or_default())),
        upload_id_marker: input.upload_id_marker,
        uploads: Some(uploads),
        ..ListMultipartUploadsOutput::default()
    }))
}
