//! A client of the KMS API, as much of one as `strongroom key`, `key-store` and `rewrap` need: HTTP/1.1 without TLS, `SigV4`.

use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use time::macros::format_description;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::CliError;
use super::credentials::AccessKey;
use crate::clock::{Clock as _, SystemClock};
use crate::config::environment;

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The longest wait for a whole answer. An inventory asks the tokens about every key of a page, and what depends on a key
/// is counted object by object: both are slow where there is much, and neither takes so long.
const CALL_MAX: Duration = Duration::from_mins(10);
const SECURITY_TOKEN: &str = "x-amz-security-token";
/// The most pages of a list.
const PAGES_MAX: usize = 1000;

/// Speaks to one server as one access key.
pub(super) struct Client {
    host: String,
    region: String,
    access_key: AccessKey,
    call_max: Duration,
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
    /// Reads `AWS_ENDPOINT_URL`, `AWS_REGION` or `AWS_DEFAULT_REGION`, and an [`AccessKey`].
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
        Ok(Self {
            host,
            region: region.unwrap_or_else(|| "us-west-2".into()),
            access_key: AccessKey::from_environment()?,
            call_max: CALL_MAX,
        })
    }

    /// One operation of the KMS API.
    pub(super) async fn kms(&self, operation: &str, body: &Value) -> Result<Value, CliError> {
        self.call(&format!("TrentService.{operation}"), body).await
    }

    /// One operation, by its `X-Amz-Target`.
    ///
    /// # Errors
    ///
    /// What the server refused, as `NAME: message`; that it cannot be reached, or has not answered in time. What a late
    /// answer would have said may have been done all the same.
    pub(super) async fn call(&self, target: &str, body: &Value) -> Result<Value, CliError> {
        let answer = tokio::time::timeout(self.call_max, self.exchange(target, body.to_string()));
        let (status, bytes) = answer
            .await
            .map_err(|_elapsed| format!("{}: no answer within {:?}", self.host, self.call_max))??;
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

    /// One request and its answer, on a connection of its own.
    async fn exchange(&self, target: &str, body: String) -> Result<(StatusCode, Bytes), CliError> {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let at = SystemClock.now().format(format)?;
        let mut request = Request::post("/");
        for (name, value) in self.headers(&at, target, body.as_bytes()) {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let at_host = |why: &dyn std::fmt::Display| format!("{}: {why}", self.host);
        let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&self.host))
            .await
            .map_err(|_elapsed| at_host(&format_args!("no connection within {CONNECT_MAX:?}")))?
            .map_err(|error| at_host(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Dropped with the call: a connection to a server that is silent does not outlive it.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?
            .to_bytes();
        Ok((status, bytes))
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

    /// All headers of a request, signed: "Signature Version 4: create a signed request", AWS General Reference.
    fn headers(&self, at: &str, target: &str, body: &[u8]) -> Vec<(&'static str, String)> {
        let hex_digest = |bytes: &[u8]| hex::encode(digest::digest(&digest::SHA256, bytes));
        let token = self.access_key.session_token.as_ref();
        // In the order of their names, in which they are signed.
        let mut headers = vec![
            ("content-type", "application/x-amz-json-1.1".to_owned()),
            ("host", self.host.clone()),
            ("x-amz-date", at.to_owned()),
        ];
        headers.extend(token.map(|token| (SECURITY_TOKEN, token.expose_secret().to_owned())));
        headers.push(("x-amz-target", target.to_owned()));
        let signed = headers.iter().map(|(name, _)| *name);
        let signed = signed.collect::<Vec<_>>().join(";");
        let lines = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}"));
        let lines = lines.collect::<Vec<_>>().join("\n");
        let canonical = format!("POST\n/\n\n{lines}\n\n{signed}\n{}", hex_digest(body));
        let date = at.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/kms/aws4_request", self.region);
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{at}\n{scope}\n{}",
            hex_digest(canonical.as_bytes())
        );
        let secret = self.access_key.secret.expose_secret();
        let first = zeroize::Zeroizing::new(format!("AWS4{secret}"));
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        for part in [date, &self.region, "kms", "aws4_request"] {
            key = hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&key, part.as_bytes()).as_ref(),
            );
        }
        let signature = hex::encode(hmac::sign(&key, to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            self.access_key.id
        );
        headers.push(("authorization", authorization));
        headers
    }
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn client(host: String, call_max: Duration) -> Client {
        Client {
            host,
            region: "us-west-2".into(),
            access_key: AccessKey {
                id: "ASIAEXAMPLE".into(),
                secret: "secret".to_owned().into(),
                session_token: Some("token".to_owned().into()),
            },
            call_max,
        }
    }

    #[test]
    fn a_sessions_token_is_sent_and_signed() {
        let client = client("localhost:1".into(), CALL_MAX);
        let headers = client.headers("20260131T120000Z", "TrentService.ListKeys", b"{}");
        assert!(headers.contains(&(SECURITY_TOKEN, "token".into())));
        let (_, authorization) = headers.last().expect("the last of them");
        assert!(
            authorization
                .contains("=content-type;host;x-amz-date;x-amz-security-token;x-amz-target,"),
            "{authorization}"
        );
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_given_up() {
        for said in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let host = listener.local_addr().expect("its address").to_string();
            let accepted = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                stream.write_all(said).await.expect("written");
                stream
            });
            let client = client(host, Duration::from_millis(50));
            let error = client.call("TrentService.ListKeys", &json!({})).await;
            let error = error.expect_err("no whole answer").to_string();
            assert!(error.ends_with("no answer within 50ms"), "{error}");
            drop(accepted.await.expect("accepted"));
        }
    }
}
