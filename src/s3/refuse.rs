//! What a request may not ask for, since nobody here would do it.

use http::{HeaderMap, Method, Uri};
use s3s::{S3Error, S3Result, s3_error};

use super::update;

/// Headers of capabilities that are not here. Whoever sends one relies on it.
const NOT_IMPLEMENTED: [&str; 15] = [
    "x-amz-tagging",
    "x-amz-tagging-directive",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-bypass-governance-retention",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-mfa",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-optional-object-attributes",
];

/// Headers that may have these values only: what they ask for is what is done anyway.
const ONLY: [(&str, &[&str]); 4] = [
    (
        "x-amz-acl",
        &["private", "bucket-owner-full-control", "bucket-owner-read"],
    ),
    ("x-amz-storage-class", &["STANDARD"]),
    ("x-amz-bucket-object-lock-enabled", &["false"]),
    ("x-amz-object-ownership", &["BucketOwnerEnforced"]),
];

/// Parameters that an operation here has, by method and by what the path names. `s3s` takes a request with a parameter
/// that it does not know for the plain operation, and a `PUT ?something-new` would overwrite the object.
const PARAMETERS: [(Level, &[&str], &[&str]); 8] = [
    (
        Level::Service,
        &["GET"],
        &[
            "max-buckets",
            "continuation-token",
            "prefix",
            "bucket-region",
        ],
    ),
    (
        Level::Bucket,
        &["GET"],
        &[
            "location",
            "encryption",
            "policy",
            "uploads",
            "list-type",
            "prefix",
            "delimiter",
            "max-keys",
            "marker",
            "continuation-token",
            "start-after",
            "fetch-owner",
            "encoding-type",
            "key-marker",
            "upload-id-marker",
            "max-uploads",
        ],
    ),
    (Level::Bucket, &["PUT", "DELETE"], &["encryption", "policy"]),
    (Level::Bucket, &["POST"], &["delete"]),
    (
        Level::Object,
        &["GET", "HEAD"],
        &[
            "partNumber",
            "versionId",
            "uploadId",
            "max-parts",
            "part-number-marker",
            "response-cache-control",
            "response-content-disposition",
            "response-content-encoding",
            "response-content-language",
            "response-content-type",
            "response-expires",
        ],
    ),
    (Level::Object, &["PUT"], &["partNumber", "uploadId"]),
    (Level::Object, &["POST"], &["uploads", "uploadId"]),
    (Level::Object, &["DELETE"], &["uploadId", "versionId"]),
];

/// Parameters of `UpdateObjectEncryption`, which has the path and the method of a `PutObject`.
const UPDATE_PARAMETERS: &[&str] = &["encryption", "versionId"];

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Service,
    Bucket,
    Object,
}

impl Level {
    fn of(path: &str) -> Self {
        match path.trim_start_matches('/').split_once('/') {
            None if path.trim_start_matches('/').is_empty() => Self::Service,
            None | Some((_, "")) => Self::Bucket,
            Some(_) => Self::Object,
        }
    }
}

/// Refuses parameters of operations that are not here.
fn check_parameters(method: &Method, uri: &Uri) -> S3Result<()> {
    // `s3s` decodes the path before it looks for the slash between bucket and key.
    let bucket = uri
        .path()
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    if bucket.contains('%') {
        return Err(s3_error!(
            InvalidBucketName,
            "The specified bucket is not valid."
        ));
    }
    let level = Level::of(uri.path());
    let has = |name: &str| {
        uri.query()
            .unwrap_or_default()
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    // With one of them alone, `s3s` would take a part for an object.
    if level == Level::Object && method == Method::PUT && has("partNumber") != has("uploadId") {
        return Err(s3_error!(
            InvalidArgument,
            "A part is named by both partNumber and uploadId"
        ));
    }
    let known = PARAMETERS
        .iter()
        .find(|(at, methods, _)| *at == level && methods.contains(&method.as_str()))
        .map(|(_, _, names)| *names);
    let known = if update::is_update(method, uri) {
        Some(UPDATE_PARAMETERS)
    } else {
        known
    };
    for pair in uri.query().unwrap_or_default().split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        // Clients say in `x-id` which operation they mean; nobody decides by it.
        let fine =
            name.is_empty() || name == "x-id" || known.is_some_and(|names| names.contains(&name));
        if !fine {
            return Err(not_implemented(name));
        }
    }
    Ok(())
}

/// Refuses what is not implemented.
///
/// # Errors
///
/// `NotImplemented`, `InvalidStorageClass`.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> S3Result<()> {
    if let Some(name) = NOT_IMPLEMENTED
        .iter()
        .find(|name| headers.contains_key(**name))
    {
        return Err(not_implemented(name));
    }
    for (name, allowed) in ONLY {
        for value in headers.get_all(name) {
            if value.to_str().is_ok_and(|value| allowed.contains(&value)) {
                continue;
            }
            if name == "x-amz-storage-class" {
                return Err(s3_error!(
                    InvalidStorageClass,
                    "The storage class you specified is not valid"
                ));
            }
            return Err(not_implemented(name));
        }
    }
    if method == Method::POST
        && headers
            .get("content-type")
            .is_some_and(|kind| is_form(kind.as_bytes()))
    {
        return Err(not_implemented("POST form upload"));
    }
    check_parameters(method, uri)?;
    // There is one version of everything, and it is called "null".
    let other_version = |query: &str| {
        query
            .split('&')
            .any(|pair| pair.starts_with("versionId=") && pair != "versionId=null")
    };
    if uri.query().is_some_and(other_version) {
        return Err(s3_error!(
            NoSuchVersion,
            "The specified version does not exist."
        ));
    }
    Ok(())
}

fn is_form(content_type: &[u8]) -> bool {
    content_type
        .get(..19)
        .is_some_and(|head| head.eq_ignore_ascii_case(b"multipart/form-data"))
}

fn not_implemented(what: &str) -> S3Error {
    s3_error!(
        NotImplemented,
        "A header or request you provided implies functionality that is not implemented: {what}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &'static str, value: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, http::HeaderValue::from_static(value));
        let error = check(&Method::PUT, &Uri::from_static("/b/k"), &headers).err()?;
        Some(error.code().as_str().to_owned())
    }

    #[test]
    fn what_nobody_would_do_is_refused() {
        assert_eq!(
            refused("x-amz-tagging", "a=b").as_deref(),
            Some("NotImplemented")
        );
        assert_eq!(
            refused("x-amz-acl", "public-read").as_deref(),
            Some("NotImplemented")
        );
        assert_eq!(
            refused("x-amz-storage-class", "GLACIER").as_deref(),
            Some("InvalidStorageClass")
        );
        assert_eq!(
            refused("x-amz-bucket-object-lock-enabled", "true").as_deref(),
            Some("NotImplemented")
        );
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_refused_and_never_ignored() {
        let refused = |method: Method, uri: &'static str| {
            check(&method, &Uri::from_static(uri), &HeaderMap::new()).is_err()
        };
        assert!(refused(Method::PUT, "/b/k?versionId=null"));
        assert!(refused(
            Method::PUT,
            "/b/k?encryption&partNumber=1&uploadId=x"
        ));
        assert!(refused(Method::PUT, "/b/k?encryption&acl"));
        assert!(refused(Method::GET, "/b/k?encryption"));
        assert!(refused(Method::DELETE, "/b/k?encryption"));
        assert!(refused(Method::PUT, "/b/k?renameObject"));
        assert!(refused(Method::DELETE, "/b?metadataConfiguration"));
        assert!(refused(Method::GET, "/b/k?acl"));
        assert!(!refused(
            Method::PUT,
            "/b/k?partNumber=1&uploadId=x&x-id=UploadPart"
        ));
        assert!(!refused(Method::PUT, "/b/k?encryption"));
        assert!(!refused(Method::PUT, "/b/k?encryption&versionId=null"));
        assert!(!refused(Method::PUT, "/b?encryption"));
        assert!(!refused(Method::GET, "/b/?list-type=2&prefix=a/"));
    }

    #[test]
    fn what_is_done_anyway_may_be_asked_for() {
        assert_eq!(refused("x-amz-acl", "private"), None);
        assert_eq!(refused("x-amz-storage-class", "STANDARD"), None);
    }
}
