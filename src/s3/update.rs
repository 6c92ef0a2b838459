//! `UpdateObjectEncryption`: `PUT /BUCKET/KEY?encryption`. `s3s` does not know it, so that it comes here by a route.

use http::{Extensions, HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;
use s3s::path::S3Path;
use s3s::route::S3Route;
use s3s::xml::{DeError, DeResult, Deserializer};
use s3s::{Body, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::error::kms;
use super::sse::{self, context_of_wrap, full_context};
use super::{Front, checksum, context};
use crate::auth::{Authorised, RequestContext};
use crate::kms::{KeyArn, KeyRef};
use crate::store::context::{ARN_CONTEXT, arn_of_wrap};
use crate::store::record::SseRecord;
use crate::store::{SseTarget, UpdateRequest};

const ACTION: &str = "s3:UpdateObjectEncryption";

// AWS's words, of the API page of the operation.
const TYPE_MISSING: &str = "Requests that modify an object encryption configuration require a valid new encryption type. Valid values are SSEKMS. Modify the request to specify SSE-KMS for the updated encryption type, and then try again.";
const TYPE_UNSUPPORTED: &str = "The UpdateObjectEncryption operation doesn't support updating the encryption type to DSSE-KMS or SSE-C. Modify the request to specify SSE-KMS for the updated encryption type, and then try again.";
const KEY_MISSING: &str = "Requests that modify an object's encryption type to SSE-KMS require an Amazon Web Services KMS key Amazon Resource Name (ARN). Modify the request to specify a KMS key ARN, and then try again.";
const KEY_MALFORMED: &str = "Requests that modify an object's encryption type to SSE-KMS require a valid Amazon Web Services KMS key Amazon Resource Name (ARN). Confirm that you have a correctly formatted KMS key ARN in your request, and then try again.";
const KEY_FOREIGN: &str = "The Amazon Web Services KMS key in the request must be owned by the same account as the bucket. Modify the request to specify a KMS key from the same account, and then try again.";
const BUCKET_KEY_INVALID: &str = "The BucketKeyEnabled value isn't valid. Valid values are true or false. Modify the request to specify a valid value, and then try again.";
const DIGEST_MISSING: &str =
    "Missing required header for this request: Content-MD5 OR x-amz-checksum-*";
const MALFORMED: &str =
    "The XML you provided was not well-formed or did not validate against our published schema";

/// Whether a request is of this operation. It must be told before `s3s` takes it for a `PutObject`.
pub(super) fn is_update(method: &Method, uri: &Uri) -> bool {
    method == Method::PUT
        && uri
            .path()
            .trim_start_matches('/')
            .split_once('/')
            .is_some_and(|(_, key)| !key.is_empty())
        && uri
            .query()
            .unwrap_or_default()
            .split('&')
            .any(|pair| pair.split('=').next() == Some("encryption"))
}

/// The way past `s3s`.
#[derive(Debug, Clone)]
pub(super) struct Route(pub(super) Front);

#[async_trait::async_trait]
impl S3Route for Route {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        is_update(method, uri)
    }

    /// Who calls was found out before; what they may is decided below.
    async fn check_access(&self, _: &mut S3Request<Body>) -> S3Result<()> {
        Ok(())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        update(&self.0, &request).await?;
        Ok(S3Response::new(Body::empty()))
    }
}

async fn update(front: &Front, request: &S3Request<Body>) -> S3Result<()> {
    let (bucket, key) = named(&request.uri)?;
    let proof = front.may_object(request, ACTION, &bucket, &key).await?;
    let _may_write = front
        .may_object(request, "s3:PutObject", &bucket, &key)
        .await?;
    sse::refuse_on_read(&request.headers)?;
    if !checksum::is_protected(&request.headers, &request.extensions) {
        return Err(s3_error!(InvalidRequest, "{DIGEST_MISSING}"));
    }
    // The server has read the document and checked it against its digest.
    let document = request.input.bytes().unwrap_or_default();
    let wanted = read(&document)?;
    let caller = context(request)?;
    let (target, named) = target_key(front, &proof, caller, &wanted.key).await?;
    let source = front.locate(request, &proof, &bucket).await?;
    let kept = source.caller_context();
    // A caller who named the object named what the server adds; with a bucket key that is the bucket.
    let mut caller_context = kept.caller.to_vec();
    caller_context.retain(|(name, _)| name != ARN_CONTEXT);
    let arn = arn_of_wrap(wanted.bucket_key, &bucket, &key);
    let bound_to = full_context(&caller_context, &arn)?;
    let was_bound_to = full_context(
        &caller_context,
        &arn_of_wrap(kept.bucket_key, &bucket, &key),
    )?;
    // The rights on the target, by all the names that AWS asks for; the last is the one that wraps.
    let may = async |action, key: &KeyArn, named, context| {
        front.may_key(caller, action, key, named, context).await
    };
    let _encrypts = may("kms:Encrypt", &target, Some(&named), &bound_to).await?;
    let _enters = may("kms:ReEncryptTo", &target, Some(&named), &bound_to).await?;
    let wraps = may("kms:GenerateDataKey", &target, Some(&named), &bound_to).await?;
    let sse = &source.record().sse;
    if let SseRecord::Kms(arn) = sse {
        let left = front.kms.arn_of_record(arn).map_err(kms)?;
        let _leaves = may("kms:ReEncryptFrom", &left, None, &was_bound_to).await?;
    }
    let place = (bucket.as_str(), key.as_str());
    let access = front.key_access(caller, sse, kept, None, place).await?;
    let sse = SseTarget::Kms {
        proof: wraps,
        key: target,
        context: context_of_wrap(wanted.bucket_key, bound_to, &arn)?,
        caller_context,
        bucket_key: wanted.bucket_key,
    };
    front
        .store
        .update_encryption(UpdateRequest {
            source,
            proof,
            access,
            sse,
        })
        .await?;
    Ok(())
}

/// The bucket and the object of a path, as `s3s` reads it.
fn named(uri: &Uri) -> S3Result<(String, String)> {
    let path = percent_decode_str(uri.path())
        .decode_utf8()
        .map_err(|_not_utf8| s3_error!(InvalidURI, "Couldn't parse the specified URI."))?;
    match s3s::path::parse_path_style(&path) {
        Ok(S3Path::Object { bucket, key }) => Ok((bucket.into(), key.into())),
        Ok(S3Path::Root | S3Path::Bucket { .. }) => {
            Err(s3_error!(InvalidURI, "Couldn't parse the specified URI."))
        }
        Err(s3s::path::ParseS3PathError::InvalidBucketName) => Err(s3_error!(
            InvalidBucketName,
            "The specified bucket is not valid."
        )),
        Err(s3s::path::ParseS3PathError::KeyTooLong) => {
            Err(s3_error!(KeyTooLongError, "Your key is too long"))
        }
        Err(_) => Err(s3_error!(InvalidURI, "Couldn't parse the specified URI.")),
    }
}

/// The key that is gone to: one of the account of the proof's bucket, by its full ARN.
async fn target_key(
    front: &Front,
    proof: &Authorised,
    caller: &RequestContext,
    arn: &str,
) -> S3Result<(KeyArn, KeyRef)> {
    match KeyRef::parse(arn) {
        Ok(named @ KeyRef::KeyArn { .. }) => {
            let bucket = front.store.access_of(proof).await?;
            if named.account() != Some(bucket.owner.as_str()) {
                return Err(s3_error!(AccessDenied, "{KEY_FOREIGN}"));
            }
            let account = &caller.principal.account;
            let key = front.kms.resolve(account, &named).await.map_err(kms)?;
            Ok((key, named))
        }
        Ok(KeyRef::KeyId(_) | KeyRef::AliasName(_) | KeyRef::AliasArn { .. }) | Err(_) => {
            Err(s3_error!(InvalidRequest, "{KEY_MALFORMED}"))
        }
    }
}

/// What the document asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    key: String,
    bucket_key: bool,
}

/// Reads `<ObjectEncryption><SSE-KMS><KMSKeyArn/><BucketKeyEnabled/></SSE-KMS></ObjectEncryption>`.
fn read(document: &[u8]) -> S3Result<Wanted> {
    let mut found = Found::default();
    let mut xml = Deserializer::new(document);
    let outcome = xml
        .named_element("ObjectEncryption", |xml| found.read(xml))
        .and_then(|()| xml.expect_eof());
    // What was found first is what is wrong: the rest of an unknown type is not read.
    if found.unsupported {
        return Err(s3_error!(InvalidRequest, "{TYPE_UNSUPPORTED}"));
    }
    if found.unknown {
        return Err(s3_error!(InvalidRequest, "{TYPE_MISSING}"));
    }
    outcome.map_err(|_syntax| malformed())?;
    let Some(target) = found.kms else {
        return Err(s3_error!(InvalidRequest, "{TYPE_MISSING}"));
    };
    let key = target.key.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| s3_error!(InvalidRequest, "{KEY_MISSING}"))?;
    let bucket_key = match target.bucket_key.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(s3_error!(InvalidRequest, "{BUCKET_KEY_INVALID}")),
    };
    Ok(Wanted { key, bucket_key })
}

fn malformed() -> S3Error {
    s3_error!(MalformedXML, "{MALFORMED}")
}

#[derive(Debug, Default)]
struct Found {
    kms: Option<Target>,
    /// A type that exists, but not here.
    unsupported: bool,
    /// A type that does not exist.
    unknown: bool,
}

#[derive(Debug, Default)]
struct Target {
    key: Option<String>,
    bucket_key: Option<String>,
}

impl Found {
    fn read(&mut self, xml: &mut Deserializer<'_>) -> DeResult<()> {
        xml.for_each_element(|xml, name| match name {
            b"SSE-KMS" if self.kms.is_none() => {
                let mut target = Target::default();
                xml.for_each_element(|xml, name| {
                    let member = match name {
                        b"KMSKeyArn" => &mut target.key,
                        b"BucketKeyEnabled" => &mut target.bucket_key,
                        _ => return Err(DeError::UnexpectedTagName),
                    };
                    match member.replace(xml.content()?) {
                        None => Ok(()),
                        Some(_) => Err(DeError::DuplicateField),
                    }
                })?;
                self.kms = Some(target);
                Ok(())
            }
            b"SSE-KMS" => Err(DeError::DuplicateField),
            b"DSSE-KMS" | b"SSE-C" => {
                self.unsupported = true;
                Err(DeError::UnexpectedTagName)
            }
            _ => {
                self.unknown = true;
                Err(DeError::UnexpectedTagName)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: &str) -> (String, String) {
        let error = read(document.as_bytes()).expect_err("refused");
        (
            error.code().as_str().to_owned(),
            error.message().unwrap_or_default().to_owned(),
        )
    }

    #[test]
    fn a_document_says_which_key() {
        let arn = "arn:aws:kms:us-west-2:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let document = format!(
            "<?xml version=\"1.0\"?><ObjectEncryption xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><SSE-KMS>\
             <KMSKeyArn>{arn}</KMSKeyArn><BucketKeyEnabled>true</BucketKeyEnabled></SSE-KMS></ObjectEncryption>"
        );
        let wanted = read(document.as_bytes()).expect("reads");
        assert_eq!((wanted.key.as_str(), wanted.bucket_key), (arn, true));
    }

    #[test]
    fn what_is_wrong_with_a_document_is_said_in_the_words_of_aws() {
        for (inside, code, message) in [
            ("", "InvalidRequest", TYPE_MISSING),
            ("<SSE-S3/>", "InvalidRequest", TYPE_MISSING),
            (
                "<DSSE-KMS><KMSKeyArn>a</KMSKeyArn></DSSE-KMS>",
                "InvalidRequest",
                TYPE_UNSUPPORTED,
            ),
            ("<SSE-C></SSE-C>", "InvalidRequest", TYPE_UNSUPPORTED),
            ("<SSE-KMS></SSE-KMS>", "InvalidRequest", KEY_MISSING),
            (
                "<SSE-KMS><KMSKeyArn></KMSKeyArn></SSE-KMS>",
                "InvalidRequest",
                KEY_MISSING,
            ),
            (
                "<SSE-KMS><KMSKeyArn>a</KMSKeyArn><BucketKeyEnabled>yes</BucketKeyEnabled></SSE-KMS>",
                "InvalidRequest",
                BUCKET_KEY_INVALID,
            ),
            (
                "<SSE-KMS><KeyId>a</KeyId></SSE-KMS>",
                "MalformedXML",
                MALFORMED,
            ),
            (
                "<SSE-KMS><KMSKeyArn>a</KMSKeyArn></SSE-KMS><SSE-KMS/>",
                "MalformedXML",
                MALFORMED,
            ),
            ("<SSE-KMS><KMSKeyArn>a", "MalformedXML", MALFORMED),
        ] {
            let document = format!("<ObjectEncryption>{inside}</ObjectEncryption>");
            assert_eq!(
                refused(&document),
                (code.to_owned(), message.to_owned()),
                "{inside}"
            );
        }
        assert_eq!(refused("").0, "MalformedXML");
        assert_eq!(refused("<Other/>").0, "MalformedXML");
    }
}
