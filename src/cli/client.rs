//! A client of the KMS API, as much of one as `strongroom key`, `key-store` and `rewrap` need: HTTP/1.1 without TLS, `SigV4`.

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use time::macros::format_description;
use tokio::net::TcpStream;

use super::CliError;
use crate::clock::{Clock as _, SystemClock};
use crate::config::environment;

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most pages of a list.
const PAGES_MAX: usize = 1000;

/// Speaks to one server as one access key.
pub(super) struct Client {
    host: String,
    region: String,
    access_key_id: String,
    secret: SecretString,
}

/// The day, of seconds since 1970 as the wire has them.
pub(super) fn date(seconds: &Value) -> String {
    let seconds = seconds.as_f64().unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "a date in whole seconds")]
    let time = time::OffsetDateTime::from_unix_timestamp(seconds as i64).ok();
    time.map_or_else(String::new, |time| time.date().to_string())
}

/// Runs `work` with a client of the server at `endpoint`; without one, of what the environment names.
pub(super) fn run(
    endpoint: Option<String>,
    work: impl AsyncFnOnce(&Client) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::from_environment(endpoint)?;
        work(&client).await
    })
}

impl Client {
    /// Reads what the AWS CLI reads: `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` or
    /// the default profile of `AWS_SHARED_CREDENTIALS_FILE`.
    fn from_environment(endpoint: Option<String>) -> Result<Self, CliError> {
        let endpoint = endpoint
            .or_else(|| environment("AWS_ENDPOINT_URL"))
            .unwrap_or_else(|| "http://127.0.0.1:9000".into());
        let uri: Uri = endpoint
            .parse()
            .map_err(|error| format!("{endpoint}: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("{endpoint}: only http is spoken here").into());
        }
        let host = uri.authority().ok_or("the endpoint has no host")?;
        let host = if host.port().is_some() {
            host.to_string()
        } else {
            format!("{host}:80")
        };
        let region = environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION"));
        let (access_key_id, secret) = credentials()?;
        Ok(Self {
            host,
            region: region.unwrap_or_else(|| "us-west-2".into()),
            access_key_id,
            secret,
        })
    }

    /// One operation of the KMS API.
    pub(super) async fn kms(&self, operation: &str, body: &Value) -> Result<Value, CliError> {
        self.call(&format!("TrentService.{operation}"), body).await
    }

    /// One operation, by its `X-Amz-Target`.
    pub(super) async fn call(&self, target: &str, body: &Value) -> Result<Value, CliError> {
        let body = body.to_string();
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let at = SystemClock.now().format(format)?;
        let request = Request::post("/")
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/x-amz-json-1.1")
            .header("x-amz-date", &at)
            .header("x-amz-target", target)
            .header(
                header::AUTHORIZATION,
                self.authorization(&at, target, body.as_bytes()),
            )
            .body(Full::new(Bytes::from(body)))?;
        let stream = TcpStream::connect(&self.host)
            .await
            .map_err(|error| format!("{}: {error}", self.host))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?
            .to_bytes();
        driver.abort();
        let answer: Value = if bytes.is_empty() {
            json!({})
        } else {
            serde_json::from_slice(&bytes)?
        };
        if status.is_success() {
            return Ok(answer);
        }
        let said = |name: &str| {
            answer
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Err(format!("{}: {}{}", said("__type"), said("message"), said("Message")).into())
    }

    /// All entries of a list.
    pub(super) async fn pages(
        &self,
        operation: &str,
        entries: &str,
    ) -> Result<Vec<Value>, CliError> {
        let mut all = Vec::new();
        let mut query = json!({});
        for _ in 0..PAGES_MAX {
            let page = self.kms(operation, &query).await?;
            all.extend(
                page.get(entries)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
            match page.get("NextMarker") {
                Some(marker) => query = json!({ "Marker": marker }),
                None => break,
            }
        }
        Ok(all)
    }

    /// "Signature Version 4: create a signed request", AWS General Reference.
    fn authorization(&self, at: &str, target: &str, body: &[u8]) -> String {
        let hex_digest = |bytes: &[u8]| hex::encode(digest::digest(&digest::SHA256, bytes));
        let signed = "content-type;host;x-amz-date;x-amz-target";
        let canonical = format!(
            "POST\n/\n\ncontent-type:application/x-amz-json-1.1\nhost:{}\nx-amz-date:{at}\nx-amz-target:{target}\n\n{signed}\n{}",
            self.host,
            hex_digest(body)
        );
        let date = at.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/kms/aws4_request", self.region);
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{at}\n{scope}\n{}",
            hex_digest(canonical.as_bytes())
        );
        let first = zeroize::Zeroizing::new(format!("AWS4{}", self.secret.expose_secret()));
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        for part in [date, &self.region, "kms", "aws4_request"] {
            key = hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&key, part.as_bytes()).as_ref(),
            );
        }
        let signature = hex::encode(hmac::sign(&key, to_sign.as_bytes()));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            self.access_key_id
        )
    }
}

fn credentials() -> Result<(String, SecretString), CliError> {
    if let (Some(id), Some(secret)) = (
        environment("AWS_ACCESS_KEY_ID"),
        environment("AWS_SECRET_ACCESS_KEY"),
    ) {
        return Ok((id, secret.into()));
    }
    let path = environment("AWS_SHARED_CREDENTIALS_FILE")
        .ok_or("set AWS_SHARED_CREDENTIALS_FILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")?;
    let text = zeroize::Zeroizing::new(
        std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?,
    );
    let find = |name: &str| {
        let value = text.lines().find_map(|line| {
            Some(
                line.trim()
                    .strip_prefix(name)?
                    .trim()
                    .strip_prefix('=')?
                    .trim(),
            )
        });
        value
            .map(str::to_owned)
            .ok_or_else(|| format!("{path}: no {name}"))
    };
    Ok((
        find("aws_access_key_id")?,
        find("aws_secret_access_key")?.into(),
    ))
}

/// The string at `pointer`; empty if there is none.
pub(super) fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// The number at `pointer`; zero if there is none.
pub(super) fn number(value: &Value, pointer: &str) -> u64 {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}
