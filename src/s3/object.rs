//! Objects: put, get, head, delete.

use futures::StreamExt;
use futures::future::join_all;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    ETag, Error, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput,
    ObjectIdentifier, PutObjectInput, PutObjectOutput, Range, StreamingBlob,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::headers::{self, etag, etag_condition, length, read_conditions, timestamp};
use super::sse::{self, SseAnswer};
use super::{Front, checksum, context};
use crate::auth::Authorised;
use crate::store::record::SseRecord;
use crate::store::{
    Conditions, CustomerKey, KeyAccess, Located, PutRequest, Selection, StoreError,
};

/// How many objects of one `DeleteObjects` are deleted at the same time, so that they share a flush.
const DELETES_AT_ONCE: usize = 64;
/// How often a reader finds an object again that was wrapped anew between its record and its key.
const REREADS_MAX: u32 = 1;
/// The most objects of one `DeleteObjects`: AWS's limit.
const DELETES_MAX: usize = 1000;

pub(super) async fn put(
    front: &Front,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
    let proof = front
        .may_object(&request, "s3:PutObject", &bucket, &key)
        .await?;
    let record = front.store.load_bucket(&proof).await?;
    let target = front
        .sse_target(context(&request)?, &request.headers, &record, &bucket, &key)
        .await?;
    let body = request.input.body.take().unwrap_or_else(empty);
    let incoming = checksum::incoming(body, &request.headers, &request.extensions, None)?;
    let written = front
        .store
        .put(PutRequest {
            proof,
            sse: target,
            headers: headers::kept(&request.headers, request.input.metadata.take())?,
            conditions: headers::write_conditions(
                request.input.if_match.take(),
                request.input.if_none_match.as_ref(),
            )?,
            incoming,
        })
        .await?;
    let answer = SseAnswer::with_context(&written.sse, written.bucket_key, &request.headers);
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&written.etag)),
        bucket_key_enabled: answer.bucket_key,
        server_side_encryption: answer.algorithm,
        ssekms_key_id: answer.kms_key,
        ssekms_encryption_context: answer.context,
        sse_customer_algorithm: answer.customer_algorithm,
        sse_customer_key_md5: answer.customer_md5,
        ..PutObjectOutput::default()
    };
    if let Some((kind, bytes)) = &written.checksum {
        checksum::set_checksum!(output, *kind, bytes, None);
        output.checksum_type = Some(checksum::kind_name(*kind));
    }
    Ok(S3Response::new(output))
}

pub(super) fn empty() -> StreamingBlob {
    StreamingBlob::wrap(futures::stream::empty::<Result<bytes::Bytes, std::io::Error>>())
}

/// What of GET and HEAD selects and conditions.
struct Reader {
    conditions: Conditions,
    selection: Selection,
    checksum: bool,
}

impl Reader {
    /// The object of the proof, if it is as the conditions say, and the customer's key that came with the request. Selects
    /// the whole if `If-Range` asks for that.
    async fn find<I>(
        &mut self,
        front: &Front,
        request: &S3Request<I>,
        proof: &Authorised,
        bucket: &str,
    ) -> S3Result<(Located, Option<CustomerKey>)> {
        let located = front.locate(request, proof, bucket).await?;
        let record = located.record();
        let is_range = matches!(self.selection, Selection::Range(..) | Selection::Suffix(_));
        if is_range && !headers::if_range_holds(&request.headers, record) {
            self.selection = Selection::Whole;
        }
        self.conditions
            .check(record)
            .map_err(|error| not_modified(error.into(), &located))?;
        Ok((located, sse::customer_key_of(&request.headers)?))
    }

    fn selection(range: Option<Range>, part: Option<i32>) -> S3Result<Selection> {
        match (range, part) {
            (None, None) => Ok(Selection::Whole),
            (Some(Range::Int { first, last }), None) => Ok(Selection::Range(first, last)),
            (Some(Range::Suffix { length }), None) => Ok(Selection::Suffix(length)),
            (None, Some(part)) => match u32::try_from(part) {
                Ok(part @ 1..=10_000) => Ok(Selection::Part(part)),
                _ => Err(s3_error!(
                    InvalidArgument,
                    "Part number must be an integer between 1 and 10000, inclusive"
                )),
            },
            (Some(_), Some(_)) => Err(s3_error!(
                InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter"
            )),
        }
    }
}

/// What of the input of GET or HEAD selects and conditions.
macro_rules! reader {
    ($input:expr) => {
        Reader {
            conditions: read_conditions(
                $input.if_match.take(),
                $input.if_none_match.take(),
                $input.if_modified_since.take(),
                $input.if_unmodified_since.take(),
            ),
            selection: Reader::selection($input.range.take(), $input.part_number)?,
            checksum: $input.checksum_mode.is_some(),
        }
    };
}

/// What the request brings to read an object that was found.
async fn access_to<I>(
    front: &Front,
    request: &S3Request<I>,
    located: &Located,
    customer: Option<CustomerKey>,
    place: (&str, &str),
) -> S3Result<KeyAccess> {
    let sse = &located.record().sse;
    front
        .key_access(
            context(request)?,
            sse,
            located.caller_context(),
            customer,
            place,
        )
        .await
}

/// What GET and HEAD say of an object in the same words: its headers, as overridden by the request, and its encryption.
macro_rules! describe {
    ($Output:ident, $request:expr, $located:expr, $reader:expr, $range:expr) => {{
        let record = $located.record();
        let answer = SseAnswer::new(&record.sse, record.says_bucket_key(), &$request.headers);
        let (input, kept) = ($request.input, &record.headers);
        let part_of = !matches!($reader.selection, Selection::Whole) && !$range.is_empty();
        let content_type = input
            .response_content_type
            .or_else(|| kept.content_type.clone());
        $Output {
            accept_ranges: Some("bytes".into()),
            cache_control: input
                .response_cache_control
                .or_else(|| kept.cache_control.clone()),
            content_disposition: input
                .response_content_disposition
                .or_else(|| kept.content_disposition.clone()),
            content_encoding: input
                .response_content_encoding
                .or_else(|| kept.content_encoding.clone()),
            content_language: input
                .response_content_language
                .or_else(|| kept.content_language.clone()),
            content_length: length($range.end - $range.start),
            content_range: part_of
                .then(|| format!("bytes {}-{}/{}", $range.start, $range.end - 1, record.size)),
            content_type: Some(content_type.unwrap_or_else(|| "binary/octet-stream".into())),
            e_tag: Some(etag(&record.etag)),
            expires: input.response_expires.or_else(|| headers::expires(kept)),
            last_modified: Some(timestamp(record.last_modified_ms)),
            metadata: headers::user_metadata(kept),
            parts_count: parts_count($reader.selection, record.parts),
            bucket_key_enabled: answer.bucket_key,
            server_side_encryption: answer.algorithm,
            ssekms_key_id: answer.kms_key,
            sse_customer_algorithm: answer.customer_algorithm,
            sse_customer_key_md5: answer.customer_md5,
            ..$Output::default()
        }
    }};
}

/// A 304 bears what the 200 would have said of the object (RFC 9110 §15.4.5).
fn not_modified(mut error: S3Error, located: &Located) -> S3Error {
    if error.status_code() == Some(http::StatusCode::NOT_MODIFIED) {
        let etag = http::HeaderValue::from_str(&format!("\"{}\"", located.record().etag));
        error.set_headers(
            etag.into_iter()
                .map(|etag| (http::header::ETAG, etag))
                .collect(),
        );
    }
    error
}

pub(super) async fn get(
    front: &Front,
    mut request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
    let proof = front
        .may_object(&request, "s3:GetObject", &bucket, &key)
        .await?;
    sse::refuse_on_read(&request.headers)?;
    let mut reader = reader!(request.input);
    let asked = reader.selection;
    let mut rereads = 0;
    let (located, reading) = loop {
        reader.selection = asked;
        let (located, customer) = reader.find(front, &request, &proof, &bucket).await?;
        let place = (bucket.as_str(), key.as_str());
        let access = access_to(front, &request, &located, customer, place).await?;
        let opened = front.store.open(&located, &access, reader.selection).await;
        match opened {
            // It hangs on another key by now, and the caller is asked about that one.
            Err(StoreError::KeyMoved) if rereads < REREADS_MAX => rereads += 1,
            opened => break (located, opened?),
        }
    };
    let record = located.record();

    let whole = reading.range == (0..record.size);
    let mut output = describe!(GetObjectOutput, request, located, reader, reading.range);
    output.body = Some(StreamingBlob::wrap(SyncStream::new(reading.body)));
    if let Some(kind) = record.checksum.filter(|_| reader.checksum && whole) {
        checksum::set_checksum!(output, kind, &reading.checksum, record.parts);
        output.checksum_type = Some(checksum::kind_name(kind));
    }
    Ok(S3Response::new(output))
}

pub(super) async fn head(
    front: &Front,
    mut request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
    let proof = front
        .may_object(&request, "s3:GetObject", &bucket, &key)
        .await?;
    sse::refuse_on_read(&request.headers)?;
    let mut reader = reader!(request.input);
    let asked = reader.selection;
    let mut rereads = 0;
    let (located, range) = loop {
        reader.selection = asked;
        let (located, customer) = reader.find(front, &request, &proof, &bucket).await?;
        // A customer's key is proven; of the others only what is sealed needs the key.
        let needs_key = reader.checksum
            || matches!(reader.selection, Selection::Part(_))
            || customer.is_some()
            || located.record().sse == SseRecord::Customer;
        if !needs_key {
            break (located, None);
        }
        let place = (bucket.as_str(), key.as_str());
        let access = access_to(front, &request, &located, customer, place).await?;
        let inspected = front
            .store
            .inspect(&located, &access, reader.selection)
            .await;
        match inspected {
            Err(StoreError::KeyMoved) if rereads < REREADS_MAX => rereads += 1,
            inspected => break (located, Some(inspected?)),
        }
    };
    let record = located.record();
    let (range, sealed_checksum) = match range {
        Some((range, checksum)) => (range, Some(checksum).filter(|_| reader.checksum)),
        None => (reader.selection.resolve(record.size)?, None),
    };
    let partial = !matches!(reader.selection, Selection::Whole) && !range.is_empty();
    let mut output = describe!(HeadObjectOutput, request, located, reader, range);
    if let (Some(kind), Some(bytes)) = (record.checksum, sealed_checksum) {
        checksum::set_checksum!(output, kind, &bytes, record.parts);
        output.checksum_type = Some(checksum::kind_name(kind));
    }
    let status = if partial {
        http::StatusCode::PARTIAL_CONTENT
    } else {
        http::StatusCode::OK
    };
    Ok(S3Response::with_status(output, status))
}

/// AWS says how many parts there are only to who asks for one of them.
fn parts_count(selection: Selection, parts: Option<u32>) -> Option<i32> {
    matches!(selection, Selection::Part(_))
        .then(|| parts.and_then(|parts| i32::try_from(parts).ok()))
        .flatten()
}

pub(super) async fn delete(
    front: &Front,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = &request.input;
    let proof = front
        .may_object(&request, "s3:DeleteObject", &input.bucket, &input.key)
        .await?;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "Conditional deletes by time or size are not implemented"
        ));
    }
    let if_match = input.if_match.clone().map(etag_condition);
    front.store.delete(&proof, if_match.as_deref()).await?;
    Ok(S3Response::with_status(
        DeleteObjectOutput::default(),
        http::StatusCode::NO_CONTENT,
    ))
}

pub(super) async fn delete_many(
    front: &Front,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let bucket = &request.input.bucket;
    let delete = &request.input.delete;
    let quiet = delete.quiet == Some(true);
    if delete.objects.is_empty() || delete.objects.len() > DELETES_MAX {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        ));
    }
    // What the caller may is decided for each object.
    if front.store.bucket_access(bucket).await?.is_none() {
        return Err(StoreError::NoSuchBucket(bucket.clone()).into());
    }
    let mut results: Vec<S3Result<()>> = Vec::with_capacity(delete.objects.len());
    for objects in delete.objects.chunks(DELETES_AT_ONCE) {
        let mut decided = Vec::with_capacity(objects.len());
        for object in objects {
            decided.push((object, may_delete(front, &request, object).await));
            // A decision may take long, and a thousand of them do.
            tokio::task::yield_now().await;
        }
        let deletes = decided.into_iter().map(async |(object, proof)| {
            let if_match = object.e_tag.as_ref().map(ETag::value);
            Ok(front.store.delete(&proof?, if_match).await?)
        });
        results.extend(join_all(deletes).await);
    }
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (object, result) in delete.objects.iter().zip(results) {
        let key = object.key.clone();
        match result {
            Ok(()) if quiet => {}
            Ok(()) => deleted.push(DeletedObject {
                key: Some(key),
                ..DeletedObject::default()
            }),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                key: Some(key),
                message: error.message().map(str::to_owned),
                version_id: None,
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..DeleteObjectsOutput::default()
    }))
}

async fn may_delete(
    front: &Front,
    request: &S3Request<DeleteObjectsInput>,
    object: &ObjectIdentifier,
) -> S3Result<Authorised> {
    let bucket = &request.input.bucket;
    let proof = front
        .may_object(request, "s3:DeleteObject", bucket, &object.key)
        .await?;
    if object
        .version_id
        .as_ref()
        .is_some_and(|version| version != "null")
    {
        return Err(s3_error!(
            NoSuchVersion,
            "The specified version does not exist."
        ));
    }
    if object.last_modified_time.is_some() || object.size.is_some() {
        return Err(s3_error!(
            NotImplemented,
            "Conditional deletes by time or size are not implemented"
        ));
    }
    Ok(proof)
}

/// Makes a stream `Sync`, as `s3s` asks: it is polled through `&mut` only.
struct SyncStream<S>(std::sync::Mutex<S>);

impl<S> SyncStream<S> {
    fn new(stream: S) -> Self {
        Self(std::sync::Mutex::new(stream))
    }
}

impl<S: futures::Stream + Unpin> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        // `get_mut` takes no lock, and a poisoned stream has panicked and will not be polled again.
        match self.get_mut().0.get_mut() {
            Ok(stream) => stream.poll_next_unpin(cx),
            Err(_poisoned) => std::task::Poll::Ready(None),
        }
    }
}
