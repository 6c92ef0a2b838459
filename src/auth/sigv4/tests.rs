//! The published examples of "Authenticating Requests", S3 API, requests signed by botocore 1.43, and what must be
//! refused, which comes first.

use http::{HeaderMap, Request};
use secrecy::SecretBox;
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::auth::AccountId;
use crate::auth::credentials::Secret;

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const DATE: &str = "20130524T000000Z";
/// When all examples were signed.
const THEN: OffsetDateTime = datetime!(2013-05-24 00:00 UTC);
const BUCKET_HOST: &str = "examplebucket.s3.amazonaws.com";
const LOCAL_HOST: &str = "127.0.0.1:9000";
const ROOT_SCOPE: &str =
    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

const PRESIGNED_GET: &str = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z\
    &X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

/// Signed by botocore, for seven days.
const PRESIGNED_PUT: &str = "/bucket/key?x=1&X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Feu-central-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z\
    &X-Amz-Expires=604800&X-Amz-SignedHeaders=host%3Bx-amz-server-side-encryption\
    &X-Amz-Signature=d9d0f10a6dad8ecaadd649a4b5dc32e8a38359c8f63294db60a08550e5e29736";

#[derive(Debug)]
struct Stopped(OffsetDateTime);

impl Clock for Stopped {
    fn now(&self) -> OffsetDateTime {
        self.0
    }
}

/// A verifier, and the one access key there is.
#[derive(Debug)]
struct Rig {
    verifier: Verifier,
    access_key_id: String,
}

impl Rig {
    fn holder(&self, claim: &Claim) -> Result<Holder, AuthError> {
        if claim.access_key_id() != self.access_key_id {
            return Err(AuthError::UnknownAccessKey);
        }
        let secret = SecretBox::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned());
        let account = AccountId::parse("123456789012").expect("twelve digits");
        Ok(Holder {
            secret: Arc::new(Secret::new(secret)),
            principal: Principal::root(account, claim.access_key_id()),
        })
    }

    fn verify_s3(&self, head: &Parts) -> Result<Verified, AuthError> {
        let claim = self.verifier.claim_s3(head)?;
        let holder = self.holder(&claim)?;
        claim.verify(holder)
    }

    fn verify_whole(
        &self,
        service: Service,
        head: &Parts,
        body: &[u8],
    ) -> Result<Verified, AuthError> {
        let claim = self.verifier.claim_whole(service, head, body)?;
        let holder = self.holder(&claim)?;
        claim.verify(holder)
    }
}

fn verifier(now: OffsetDateTime, access_key_id: &str, regions: &[&str]) -> Rig {
    let regions = regions.iter().map(|&region| region.to_owned()).collect();
    Rig {
        verifier: Verifier::new(regions, Arc::new(Stopped(now))),
        access_key_id: access_key_id.to_owned(),
    }
}

/// Verifies at the time of the examples, with their access key.
pub(in crate::auth) fn verify_s3(head: &Parts) -> Result<Verified, AuthError> {
    verify_s3_at(THEN, head)
}

fn verify_s3_at(now: OffsetDateTime, head: &Parts) -> Result<Verified, AuthError> {
    verifier(now, "AKIAIOSFODNN7EXAMPLE", &["us-east-1", "eu-central-1"]).verify_s3(head)
}

fn verify_kms(head: &Parts, body: &[u8]) -> Result<Verified, AuthError> {
    verifier(THEN, "AKIAIOSFODNN7EXAMPLE", &["us-east-1", "eu-central-1"]).verify_whole(
        Service::Kms,
        head,
        body,
    )
}

pub(in crate::auth) fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn with(mut head: Parts, name: &'static str, value: &str) -> Parts {
    head.headers
        .append(name, value.parse().expect("a header value"));
    head
}

fn authorization(signed_headers: &str, signature: &str) -> String {
    format!("{ROOT_SCOPE},SignedHeaders={signed_headers},Signature={signature}")
}

fn refusal(result: Result<Verified, AuthError>) -> AuthError {
    result.expect_err("must be refused")
}

/// "Example: GET Object".
fn get_object() -> Parts {
    let authorization = authorization(
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    );
    let headers = [
        ("host", BUCKET_HOST),
        ("authorization", &authorization),
        ("range", "bytes=0-9"),
        ("x-amz-content-sha256", EMPTY),
        ("x-amz-date", DATE),
    ];
    head("GET", "/test.txt", &headers)
}

/// "Example: PUT Object", which also sends a `Date`.
fn put_object() -> Parts {
    let authorization = authorization(
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
    let headers = [
        ("host", BUCKET_HOST),
        ("authorization", &authorization),
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-date", DATE),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        (
            "x-amz-content-sha256",
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        ),
    ];
    head("PUT", "/test%24file.text", &headers)
}

fn presigned_put() -> Parts {
    let headers = [
        ("host", LOCAL_HOST),
        ("x-amz-server-side-encryption", "aws:kms"),
    ];
    head("PUT", PRESIGNED_PUT, &headers)
}

fn presigned_get() -> Parts {
    head("GET", PRESIGNED_GET, &[("host", BUCKET_HOST)])
}

const KMS_BODY: &[u8] = br#"{"KeyId":"alias/a"}"#;

/// `DescribeKey`, signed by botocore, which sends no digest of the body.
fn describe_key() -> Parts {
    let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-central-1/kms/aws4_request, \
        SignedHeaders=content-type;host;x-amz-date;x-amz-target, \
        Signature=0deecf64b8a73a055b607c51fce8cdab046e2c6baaadb224be124061e690f25e";
    let headers = [
        ("host", LOCAL_HOST),
        ("authorization", authorization),
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-date", DATE),
        ("x-amz-target", "TrentService.DescribeKey"),
    ];
    head("POST", "/", &headers)
}

#[test]
fn unsigned_copy_source_on_a_presigned_put_is_refused() {
    let head = with(presigned_put(), "x-amz-copy-source", "other/secret");
    assert_eq!(
        refusal(verify_s3(&head)),
        AuthError::HeadersNotSigned("x-amz-copy-source".into())
    );
}

#[test]
fn unsigned_kms_key_id_on_a_presigned_put_is_refused() {
    let name = "x-amz-server-side-encryption-aws-kms-key-id";
    let head = with(presigned_put(), name, "alias/mine");
    assert_eq!(
        refusal(verify_s3(&head)),
        AuthError::HeadersNotSigned(name.into())
    );
}

#[test]
fn unsigned_kms_key_id_on_a_signed_put_is_refused() {
    let name = "x-amz-server-side-encryption-aws-kms-key-id";
    let head = with(put_object(), name, "alias/mine");
    assert_eq!(
        refusal(verify_s3(&head)),
        AuthError::HeadersNotSigned(name.into())
    );
}

#[test]
fn unsigned_payload_digest_on_a_signed_put_is_refused() {
    let name = "x-amz-content-sha256";
    let mut head = put_object();
    let text = head.headers["authorization"].to_str().expect("text");
    let text = text.replace(";x-amz-content-sha256", "");
    head.headers
        .insert("authorization", text.parse().expect("a value"));
    assert_eq!(
        refusal(verify_s3(&head)),
        AuthError::HeadersNotSigned(name.into())
    );
}

#[test]
fn signature_that_was_never_made_is_refused() {
    let mut head = get_object();
    let text = head.headers["authorization"].to_str().expect("text");
    let text = text.replace("Signature=f", "Signature=e");
    head.headers
        .insert("authorization", text.parse().expect("a value"));
    assert_eq!(refusal(verify_s3(&head)), AuthError::SignatureDoesNotMatch);
}

#[test]
fn second_value_of_a_signed_header_is_refused() {
    let head = with(presigned_put(), "x-amz-server-side-encryption", "AES256");
    assert_eq!(refusal(verify_s3(&head)), AuthError::SignatureDoesNotMatch);
}

#[test]
fn signed_header_that_did_not_arrive_is_refused() {
    let mut head = presigned_put();
    head.headers.remove("x-amz-server-side-encryption");
    assert_eq!(refusal(verify_s3(&head)), AuthError::SignatureDoesNotMatch);
}

#[test]
fn unsigned_host_is_refused() {
    let uri = PRESIGNED_PUT.replace("host%3B", "");
    let mut head = presigned_put();
    head.uri = uri.parse().expect("a URI");
    assert_eq!(
        refusal(verify_s3(&head)),
        AuthError::HeadersNotSigned("host".into())
    );
}

#[test]
fn two_hosts_are_refused() {
    let head = with(get_object(), "host", BUCKET_HOST);
    assert_eq!(refusal(verify_s3(&head)), AuthError::HeaderRequired("host"));
}

#[test]
fn every_changed_part_of_a_request_breaks_its_signature() {
    fn set(head: &mut Parts, name: &'static str, value: &str) {
        head.headers
            .insert(name, value.parse().expect("a header value"));
    }
    let changes: [fn(&mut Parts); 5] = [
        |head| head.method = http::Method::HEAD,
        |head| head.uri = "/test2.txt".parse().expect("a URI"),
        |head| head.uri = "/test.txt?acl".parse().expect("a URI"),
        |head| set(head, "range", "bytes=0-99"),
        |head| set(head, "host", "evil.example"),
    ];
    for change in changes {
        let mut head = get_object();
        change(&mut head);
        assert_eq!(refusal(verify_s3(&head)), AuthError::SignatureDoesNotMatch);
    }
}

#[test]
fn unsigned_request_is_refused() {
    let head = head("GET", "/test.txt", &[("host", BUCKET_HOST)]);
    assert_eq!(refusal(verify_s3(&head)), AuthError::Missing);
}

#[test]
fn signature_version_2_header_is_refused() {
    let headers = [
        ("host", BUCKET_HOST),
        (
            "authorization",
            "AWS AKIAIOSFODNN7EXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=",
        ),
    ];
    let head = head("GET", "/test.txt", &headers);
    assert_eq!(refusal(verify_s3(&head)), AuthError::MechanismUnsupported);
}

#[test]
fn signature_version_2_query_is_refused() {
    let uri = "/k?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1893456000&Signature=vjbyPxybdZaNmGa%2ByT272YEAiv4%3D";
    let head = head("GET", uri, &[("host", BUCKET_HOST)]);
    assert_eq!(refusal(verify_s3(&head)), AuthError::MechanismUnsupported);
}

#[test]
fn signature_version_4a_is_refused() {
    let mut head = get_object();
    head.headers.insert(
        "authorization",
        "AWS4-ECDSA-P256-SHA256 Credential=a"
            .parse()
            .expect("a value"),
    );
    assert_eq!(refusal(verify_s3(&head)), AuthError::MechanismUnsupported);
}

#[test]
fn header_and_query_together_are_refused() {
    let mut head = get_object();
    head.uri = PRESIGNED_GET.parse().expect("a URI");
    assert_eq!(refusal(verify_s3(&head)), AuthError::SeveralMechanisms);
}

#[test]
fn two_authorization_headers_are_refused() {
    let head = with(get_object(), "authorization", "AWS4-HMAC-SHA256 x=y");
    assert_eq!(refusal(verify_s3(&head)), AuthError::SeveralMechanisms);
}

#[test]
fn repeated_authentication_parameter_is_refused() {
    let mut head = presigned_get();
    let again = format!("{PRESIGNED_GET}&X-Amz%2DExpires=1");
    head.uri = again.parse().expect("a URI");
    assert!(matches!(
        refusal(verify_s3(&head)),
        AuthError::QueryMalformed(_)
    ));
}

#[test]
fn unsigned_session_token_is_refused() {
    let name = "x-amz-security-token";
    for unsigned in [get_object(), presigned_put()] {
        let head = with(unsigned, name, "token");
        assert_eq!(
            refusal(verify_s3(&head)),
            AuthError::HeadersNotSigned(name.into())
        );
    }
}

#[test]
fn session_token_in_the_query_of_a_presigned_request_is_signed() {
    let mut head = presigned_get();
    head.uri = format!("{PRESIGNED_GET}&X-Amz-Security-Token=token")
        .parse()
        .expect("a URI");
    assert_eq!(refusal(verify_s3(&head)), AuthError::SignatureDoesNotMatch);
}

#[test]
fn session_token_in_the_query_of_a_signed_request_is_refused() {
    let mut head = get_object();
    head.uri = "/test.txt?X-Amz-Security-Token=token"
        .parse()
        .expect("a URI");
    assert_eq!(refusal(verify_s3(&head)), AuthError::TokenInvalid);
}

#[test]
fn two_session_tokens_are_refused() {
    let name = "x-amz-security-token";
    let twice = with(with(get_object(), name, "one"), name, "two");
    assert_eq!(
        refusal(verify_s3(&twice)),
        AuthError::HeaderRequired("x-amz-security-token")
    );
    let mut both = with(presigned_get(), name, "one");
    both.uri = format!("{PRESIGNED_GET}&X-Amz-Security-Token=two")
        .parse()
        .expect("a URI");
    assert_eq!(refusal(verify_s3(&both)), AuthError::TokenInvalid);
}

#[test]
fn unknown_access_key_is_refused() {
    let verifier = verifier(THEN, "AKIAOTHER", &["us-east-1"]);
    assert_eq!(
        refusal(verifier.verify_s3(&get_object())),
        AuthError::UnknownAccessKey
    );
}

#[test]
fn wrong_region_is_refused_and_the_right_one_is_named() {
    let verifier = verifier(THEN, "AKIAIOSFODNN7EXAMPLE", &["eu-west-1"]);
    let refusal = refusal(verifier.verify_s3(&get_object()));
    assert_eq!(
        (
            refusal.code(),
            refusal.expected_region(),
            refusal.message().as_str()
        ),
        (
            "AuthorizationHeaderMalformed",
            Some("eu-west-1"),
            "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'"
        )
    );
}

#[test]
fn scope_of_another_day_is_refused() {
    let mut head = get_object();
    head.headers
        .insert("x-amz-date", "20130525T000000Z".parse().expect("a value"));
    assert!(matches!(
        refusal(verify_s3(&head)),
        AuthError::HeaderMalformed(_)
    ));
}

#[test]
fn request_without_a_date_is_refused() {
    let mut head = get_object();
    head.headers.remove("x-amz-date");
    assert_eq!(refusal(verify_s3(&head)), AuthError::DateMissing);
}

#[test]
fn clock_may_differ_by_fifteen_minutes_and_no_second_more() {
    let second = Duration::seconds(1);
    for now in [THEN + SKEW_MAX, THEN - SKEW_MAX] {
        assert!(verify_s3_at(now, &get_object()).is_ok());
    }
    for now in [THEN + SKEW_MAX + second, THEN - SKEW_MAX - second] {
        assert_eq!(
            refusal(verify_s3_at(now, &get_object())),
            AuthError::TimeTooSkewed
        );
    }
}

#[test]
fn presigned_request_lives_to_the_second() {
    let end = THEN + Duration::days(1);
    assert!(verify_s3_at(end, &presigned_get()).is_ok());
    assert_eq!(
        refusal(verify_s3_at(end + Duration::seconds(1), &presigned_get())),
        AuthError::Expired
    );
}

#[test]
fn presigned_request_is_not_valid_before_its_time() {
    let start = THEN - SKEW_MAX;
    assert!(verify_s3_at(start, &presigned_get()).is_ok());
    assert_eq!(
        refusal(verify_s3_at(start - Duration::seconds(1), &presigned_get())),
        AuthError::NotYetValid
    );
}

#[test]
fn presigned_life_outside_one_second_to_seven_days_is_refused() {
    for expires in [
        "0",
        "604801",
        "2592000",
        "-1",
        "+1",
        "",
        "1e3",
        "99999999999999999999999",
    ] {
        let uri = PRESIGNED_GET.replace("Expires=86400", &format!("Expires={expires}"));
        let head = head("GET", &uri, &[("host", BUCKET_HOST)]);
        assert_eq!(
            refusal(verify_s3(&head)).code(),
            "AuthorizationQueryParametersError",
            "{expires}"
        );
    }
}

#[test]
fn request_to_s3_without_a_payload_digest_is_refused() {
    let mut head = get_object();
    head.headers.remove("x-amz-content-sha256");
    assert_eq!(
        refusal(verify_s3(&head)).message(),
        "Missing required header for this request: x-amz-content-sha256"
    );
}

#[test]
fn ecdsa_payload_is_not_implemented() {
    let mut head = get_object();
    let value = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"
        .parse()
        .expect("a value");
    head.headers.insert("x-amz-content-sha256", value);
    assert_eq!(refusal(verify_s3(&head)).code(), "NotImplemented");
}

#[test]
fn presigned_request_with_a_chunked_body_is_refused() {
    let head = with(
        presigned_put(),
        "x-amz-content-sha256",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    );
    assert_eq!(refusal(verify_s3(&head)), AuthError::PayloadUnsupported);
}

#[test]
fn malformed_authorization_headers_are_refused() {
    let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    let malformed = [
        "AWS4-HMAC-SHA256".to_owned(),
        format!("{ROOT_SCOPE}, SignedHeaders=host"),
        format!("{ROOT_SCOPE}, SignedHeaders=host, Signature={signature}, Signature={signature}"),
        format!("{ROOT_SCOPE}, SignedHeaders=host, Signature={signature}, Extra=1"),
        format!("{ROOT_SCOPE}, SignedHeaders=Host, Signature={signature}"),
        format!("{ROOT_SCOPE}, SignedHeaders=x-amz-date;host, Signature={signature}"),
        format!("{ROOT_SCOPE}, SignedHeaders=host;host, Signature={signature}"),
        format!("{ROOT_SCOPE}, SignedHeaders=, Signature={signature}"),
        format!("{ROOT_SCOPE}, SignedHeaders=host, Signature=00"),
        format!("{ROOT_SCOPE}/more, SignedHeaders=host, Signature={signature}"),
        format!("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature={signature}"),
    ];
    for text in malformed {
        let mut head = get_object();
        head.headers
            .insert("authorization", text.parse().expect("a value"));
        assert_eq!(
            refusal(verify_s3(&head)).code(),
            "AuthorizationHeaderMalformed",
            "{text}"
        );
    }
}

#[test]
fn signed_headers_are_bounded() {
    let names = |count: usize| {
        let names: Vec<String> = (0..count).map(|index| format!("h{index:03}")).collect();
        let mut head = get_object();
        let text = authorization(&names.join(";"), EMPTY);
        head.headers
            .insert("authorization", text.parse().expect("a value"));
        refusal(verify_s3(&head))
    };
    assert!(matches!(
        names(SIGNED_HEADERS_MAX),
        AuthError::HeadersNotSigned(_)
    ));
    assert!(matches!(
        names(SIGNED_HEADERS_MAX + 1),
        AuthError::HeaderMalformed(_)
    ));
}

#[test]
fn authorization_header_is_bounded() {
    let refused = |bytes: usize| {
        let text = format!("{:a<bytes$}", "AWS4-HMAC-SHA256 ");
        let mut head = get_object();
        head.headers
            .insert("authorization", text.parse().expect("a value"));
        refusal(verify_s3(&head)).code()
    };
    assert_eq!(
        refused(AUTHORIZATION_BYTES_MAX),
        "AuthorizationHeaderMalformed"
    );
    assert_eq!(
        refused(AUTHORIZATION_BYTES_MAX + 1),
        "RequestHeaderSectionTooLarge"
    );
}

#[test]
fn request_signed_for_kms_is_nothing_to_s3() {
    let head = with(describe_key(), "x-amz-content-sha256", EMPTY);
    assert_eq!(
        refusal(verify_s3(&head)),
        AuthError::WrongService {
            presigned: false,
            given: "kms".into(),
            expected: "s3"
        }
    );
}

#[test]
fn request_signed_for_s3_is_nothing_to_kms() {
    assert!(matches!(
        refusal(verify_kms(&get_object(), b"")),
        AuthError::WrongService { .. }
    ));
}

#[test]
fn another_body_breaks_the_signature_of_a_kms_request() {
    let refusal = refusal(verify_kms(&describe_key(), br#"{"KeyId":"alias/b"}"#));
    assert_eq!(refusal.kms_code(), "InvalidSignatureException");
}

#[test]
fn unsigned_target_of_a_kms_request_is_refused() {
    let mut head = describe_key();
    let text = head.headers["authorization"]
        .to_str()
        .expect("text")
        .replace(";x-amz-target", "");
    head.headers
        .insert("authorization", text.parse().expect("a value"));
    assert_eq!(
        refusal(verify_kms(&head, KMS_BODY)),
        AuthError::HeadersNotSigned("x-amz-target".into())
    );
}

#[test]
fn digest_header_of_another_body_is_refused_by_kms() {
    let head = with(describe_key(), "x-amz-content-sha256", EMPTY);
    assert_eq!(
        refusal(verify_kms(&head, KMS_BODY)),
        AuthError::SignatureDoesNotMatch
    );
}

#[test]
fn presigned_request_to_kms_is_refused() {
    assert_eq!(
        refusal(verify_kms(&presigned_get(), b"")),
        AuthError::MechanismUnsupported
    );
}

/// A request of a service that is signed for one region wherever the server is.
fn query_request(scope: &str) -> Parts {
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/{scope}/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature={EMPTY}"
    );
    let headers = [
        ("host", LOCAL_HOST),
        ("authorization", authorization.as_str()),
        ("x-amz-date", DATE),
    ];
    head("POST", "/", &headers)
}

#[test]
fn iam_and_sts_are_signed_for_the_whole_world_and_others_are_not() {
    let rig = verifier(THEN, "AKIAIOSFODNN7EXAMPLE", &["eu-central-1"]);
    for (service, region, good) in [
        (Service::Iam, "us-east-1", true),
        (Service::Sts, "us-east-1", true),
        (Service::Sts, "eu-central-1", true),
        (Service::Sts, "us-west-1", false),
        (Service::Kms, "us-east-1", false),
    ] {
        let head = query_request(&format!("{region}/{}", service.as_str()));
        assert_eq!(Service::claimed(&head), Some(service));
        let claim = rig.verifier.claim_whole(service, &head, b"");
        assert_eq!(claim.is_ok(), good, "{service:?} {region}");
    }
}

#[test]
fn request_that_was_signed_for_sts_is_nothing_to_iam() {
    let head = query_request("us-east-1/sts");
    let refused = refusal(
        verifier(THEN, "AKIAIOSFODNN7EXAMPLE", &["us-east-1"]).verify_whole(
            Service::Iam,
            &head,
            b"",
        ),
    );
    assert!(
        matches!(refused, AuthError::WrongService { .. }),
        "{refused}"
    );
}

#[test]
fn a_service_that_nobody_knows_is_not_claimed() {
    assert_eq!(Service::claimed(&query_request("us-east-1/ec2")), None);
    assert_eq!(Service::claimed(&head("GET", "/", &[])), None);
    assert_eq!(Service::claimed(&presigned_get()), Some(Service::S3));
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("small")
    };
    for _ in 0..4000 {
        let base = get_object();
        let mut text = base.headers["authorization"].as_bytes().to_vec();
        let mut uri = PRESIGNED_GET.as_bytes().to_vec();
        for bytes in [&mut text, &mut uri] {
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = b" %=&;,/+aZ0~\x80\xff"[random(14)];
            }
        }
        // The signature covers itself too, but for its case and blanks between fields.
        if let Ok(value) = http::HeaderValue::from_bytes(&text) {
            let mut head = base;
            head.headers.insert("authorization", value);
            let _may_be_blanks_only = verify_s3(&head);
        }
        if let Ok(uri) = Uri::try_from(uri.as_slice()) {
            let mut head = presigned_get();
            head.uri = uri;
            let _may_be_an_equal_encoding = verify_s3(&head);
            let _stripped = strip_query(&head.uri);
        }
    }
}

#[test]
fn published_get_object_example_verifies() {
    let verified = verify_s3(&get_object()).expect("the signature is right");
    assert_eq!(
        (
            verified.principal.access_key_id.as_str(),
            verified.region.as_str(),
            verified.presigned
        ),
        ("AKIAIOSFODNN7EXAMPLE", "us-east-1", false)
    );
}

#[test]
fn access_key_is_the_root_of_the_account() {
    let verified = verify_s3(&get_object()).expect("the signature is right");
    assert_eq!(verified.principal.arn(), "arn:aws:iam::123456789012:root");
}

#[test]
fn published_put_object_example_verifies() {
    assert!(verify_s3(&put_object()).is_ok());
}

#[test]
fn published_query_examples_verify() {
    let examples = [
        (
            "/?lifecycle",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/?max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ];
    for (uri, signature) in examples {
        let authorization = authorization("host;x-amz-content-sha256;x-amz-date", signature);
        let headers = [
            ("host", BUCKET_HOST),
            ("authorization", &authorization),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", DATE),
        ];
        assert!(verify_s3(&head("GET", uri, &headers)).is_ok(), "{uri}");
    }
}

#[test]
fn published_presigned_example_verifies() {
    let verified = verify_s3(&presigned_get()).expect("the signature is right");
    assert!(verified.presigned);
}

#[test]
fn presigned_put_of_botocore_verifies() {
    let verified =
        verify_s3_at(THEN + EXPIRES_MAX, &presigned_put()).expect("the signature is right");
    assert_eq!(verified.region, "eu-central-1");
}

#[test]
fn unsigned_payload_digest_on_a_presigned_put_is_accepted() {
    assert!(verify_s3(&with(presigned_put(), "x-amz-content-sha256", EMPTY)).is_ok());
}

#[test]
fn odd_path_query_and_header_of_botocore_verify() {
    let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/eu-central-1/s3/aws4_request, \
        SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-note, \
        Signature=0f7275be67869b0e5b537eb593d969c1b1440b2106569721499730d73a1c1eab";
    let headers = [
        ("host", LOCAL_HOST),
        ("authorization", authorization),
        ("content-type", "text/plain"),
        (
            "x-amz-content-sha256",
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        ),
        ("x-amz-date", DATE),
        ("x-amz-meta-note", "  two   words "),
    ];
    let uri = "/bucket/a//b%20c/%2B%25%F0%9F%94%91/..?uploads&partNumber=1&x=%2B%20z&x=a";
    assert!(verify_s3(&head("PUT", uri, &headers)).is_ok());
}

#[test]
fn date_header_stands_in_for_the_amazon_one() {
    let authorization = authorization(
        "date;host;x-amz-content-sha256",
        "cc55830ed2ef677b50ab3a012920e577c1fc3bbdf62113d126bc28175d66bcdb",
    );
    let headers = [
        ("host", LOCAL_HOST),
        ("authorization", &authorization),
        ("date", "Fri, 24 May 2013 00:00:00 -0000"),
        ("x-amz-content-sha256", EMPTY),
    ];
    assert!(verify_s3(&head("GET", "/bucket/key", &headers)).is_ok());
}

#[test]
fn authority_of_the_uri_stands_in_for_the_host_header() {
    let mut head = get_object();
    head.headers.remove("host");
    head.uri = format!("https://{BUCKET_HOST}/test.txt")
        .parse()
        .expect("a URI");
    assert!(verify_s3(&head).is_ok());
}

#[test]
fn kms_request_of_botocore_verifies_with_its_body() {
    let verified = verify_kms(&describe_key(), KMS_BODY).expect("the signature is right");
    assert_eq!(verified.service, Service::Kms);
}

#[test]
fn stripping_a_presigned_request_leaves_only_its_own_parameters() {
    let mut head = presigned_put();
    verify_s3(&head)
        .expect("the signature is right")
        .strip(&mut head);
    assert_eq!(head.uri, "/bucket/key?x=1");
}

#[test]
fn stripping_leaves_no_question_mark_behind() {
    let mut head = presigned_get();
    verify_s3(&head)
        .expect("the signature is right")
        .strip(&mut head);
    assert_eq!(head.uri, "/test.txt");
}

#[test]
fn stripping_a_signed_request_leaves_what_describes_the_object() {
    let mut head = put_object();
    verify_s3(&head)
        .expect("the signature is right")
        .strip(&mut head);
    let expected = HeaderMap::from_iter([
        (
            "host".parse().expect("a name"),
            BUCKET_HOST.parse().expect("a value"),
        ),
        (
            "date".parse().expect("a name"),
            "Fri, 24 May 2013 00:00:00 GMT".parse().expect("a value"),
        ),
        (
            "x-amz-storage-class".parse().expect("a name"),
            "REDUCED_REDUNDANCY".parse().expect("a value"),
        ),
    ]);
    assert_eq!(head.headers, expected);
}

#[test]
fn no_secret_shows_in_debug_output() {
    let all = verifier(THEN, "AKIAIOSFODNN7EXAMPLE", &["us-east-1"]);
    let verified = all.verify_s3(&get_object());
    assert!(!format!("{all:?}{verified:?}").contains("wJalr"));
}
