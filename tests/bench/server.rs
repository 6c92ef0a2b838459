//! PUT and GET against a server in a process of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use strongroom::clock::{Clock as _, SystemClock};
use time::macros::format_description;

use super::median;

const SIZES: [(&str, usize, [usize; 2]); 3] = [
    ("4 KiB", 4 << 10, [200, 2000]),
    ("1 MiB", 1 << 20, [40, 320]),
    ("64 MiB", 64 << 20, [3, 16]),
];
const CLIENTS: [usize; 2] = [1, 16];
/// Of `/proc`, on every architecture that there is a build for (proc(5), `USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;
const OWN_PROGRAM: &str = env!("CARGO_BIN_EXE_strongroom");
pub(crate) const PAIR_ROUNDS: usize = 5;

/// How objects are encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sse {
    S3,
    Kms,
    KmsWithBucketKey,
}

impl Sse {
    fn name(self) -> &'static str {
        match self {
            Self::S3 => "SSE-S3",
            Self::Kms => "SSE-KMS",
            Self::KmsWithBucketKey => "SSE-KMS with bucket key",
        }
    }

    /// Headers of a PUT, sorted.
    fn headers(self) -> &'static [(&'static str, &'static str)] {
        const KMS: (&str, &str) = ("x-amz-server-side-encryption", "aws:kms");
        const BUCKET_KEY: (&str, &str) =
            ("x-amz-server-side-encryption-bucket-key-enabled", "true");
        match self {
            Self::S3 => &[],
            Self::Kms => &[KMS],
            Self::KmsWithBucketKey => &[KMS, BUCKET_KEY],
        }
    }
}

/// A server that is ended with this.
struct Server {
    child: Child,
    exports: BTreeMap<String, String>,
}

impl Server {
    fn start(program: &OsStr) -> Self {
        let mut child = Command::new(program)
            .args(["serve", "--ephemeral"])
            .env_remove("SOFTHSM2_CONF")
            .env_remove("STRONGROOM_HSM_URI")
            .env_remove("STRONGROOM_BENCH_AGAINST")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("strongroom starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let exports = out.lines().take(7).map(|line| {
            let line = line.expect("a line");
            let (name, value) = line
                .strip_prefix("export ")
                .and_then(|line| line.split_once('='))
                .expect("an export");
            (name.to_owned(), value.to_owned())
        });
        let exports = exports.collect();
        Self { child, exports }
    }

    fn export(&self, name: &str) -> String {
        self.exports.get(name).cloned().expect("exported")
    }

    fn account(&self) -> Arc<Account> {
        Arc::new(Account {
            host: self
                .export("AWS_ENDPOINT_URL")
                .trim_start_matches("http://")
                .to_owned(),
            region: self.export("AWS_REGION"),
            id: self.export("AWS_ACCESS_KEY_ID"),
            secret: self.export("AWS_SECRET_ACCESS_KEY"),
        })
    }

    /// Processor time, user and system, of the server and of its workers, in seconds.
    fn processor_seconds(&self) -> f64 {
        let mut ticks = 0;
        for process in std::fs::read_dir("/proc").expect("procfs").flatten() {
            let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else {
                continue;
            };
            let id = stat.split(' ').next().and_then(|id| id.parse::<u32>().ok());
            let after_name = stat.rsplit(") ").next().unwrap_or_default();
            let fields: Vec<u64> = after_name
                .split(' ')
                .skip(1)
                .map(|field| field.parse().unwrap_or_default())
                .collect();
            let own = u64::from(self.child.id());
            if id.map(u64::from) == Some(own) || fields.first() == Some(&own) {
                ticks += fields.iter().skip(10).take(2).sum::<u64>();
            }
        }
        ticks as f64 / TICKS_A_SECOND
    }

    fn memory(&self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<f64>().ok())
            .map_or("?".into(), |kib| format!("{:.0} MiB", kib / 1024.0))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _code = self.child.wait();
    }
}

/// Signs and sends on one connection.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    account: Arc<Account>,
}

struct Account {
    host: String,
    region: String,
    id: String,
    secret: String,
}

impl Client {
    async fn connect(account: Arc<Account>) -> Self {
        let stream = tokio::net::TcpStream::connect(&account.host)
            .await
            .expect("connects");
        stream.set_nodelay(true).expect("an option");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self { sender, account }
    }

    async fn send(&mut self, method: Method, path: &str, sse: Sse, body: Bytes) -> usize {
        let account = &self.account;
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let at = SystemClock.now().format(format).expect("a date");
        let headers = if method == Method::PUT {
            sse.headers()
        } else {
            &[]
        };
        let (mut extra, mut name) = (String::new(), String::new());
        for (header, value) in headers {
            extra.extend([header, ":", value, "\n"]);
            name.extend([";", header]);
        }
        let signed = format!("host;x-amz-content-sha256;x-amz-date{name}");
        let canonical = format!(
            "{method}\n{path}\n\nhost:{}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{at}\n{extra}\n{signed}\nUNSIGNED-PAYLOAD",
            account.host
        );
        let date = at.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/s3/aws4_request", account.region);
        let hash = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let mut key = hmac::Key::new(
            hmac::HMAC_SHA256,
            format!("AWS4{}", account.secret).as_bytes(),
        );
        for part in [date, &account.region, "s3", "aws4_request"] {
            key = hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&key, part.as_bytes()).as_ref(),
            );
        }
        let signature = hmac::sign(
            &key,
            format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{hash}").as_bytes(),
        );
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={}",
            account.id,
            hex::encode(signature)
        );
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &account.host)
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .header("x-amz-date", at)
            .header("authorization", authorization);
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let request = request.body(Full::new(body)).expect("a request");
        let mut response = self.sender.send_request(request).await.expect("an answer");
        assert!(response.status().is_success(), "{}", response.status());
        let mut bytes = 0;
        while let Some(frame) = response.body_mut().frame().await {
            bytes += frame
                .expect("a whole body")
                .data_ref()
                .map_or(0, Bytes::len);
        }
        bytes
    }
}

pub(crate) fn run() {
    let server = Server::start(OsStr::new(OWN_PROGRAM));
    let account = server.account();
    println!("  memory at rest {}", server.memory("VmRSS:"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        Client::connect(Arc::clone(&account)).await.send(Method::PUT, "/bench", Sse::S3, Bytes::new()).await;
        for (name, size, operations) in SIZES {
            for (clients, operations) in CLIENTS.into_iter().zip(operations) {
                for sse in kinds(size) {
                    for method in [Method::PUT, Method::GET] {
                        let load = (size, clients, operations);
                        let seconds = measure(&account, &method, *sse, load).await;
                        let rate = operations as f64 / seconds;
                        let megabytes = rate * size as f64 / 1e6;
                        let kind = sse.name();
                        println!("  {method} {name:>6} {clients:2} client(s)   {rate:8.1}/s   {megabytes:8.1} MB/s   {kind}");
                    }
                }
            }
        }
    });
    println!("  peak memory of the server {}", server.memory("VmHWM:"));
}

/// This program against another one, in turn: `STRONGROOM_BENCH_AGAINST` names it.
pub(crate) fn run_pair() {
    const LOAD: (usize, usize, usize) = (4 << 10, 16, 4000);
    let Some(other) = std::env::var_os("STRONGROOM_BENCH_AGAINST") else {
        println!("  STRONGROOM_BENCH_AGAINST names no other program");
        return;
    };
    let servers = [OsStr::new(OWN_PROGRAM), &other].map(Server::start);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for server in &servers {
            Client::connect(server.account()).await.send(Method::PUT, "/bench", Sse::S3, Bytes::new()).await;
        }
        for sse in kinds(LOAD.0) {
            for method in [Method::PUT, Method::GET] {
                let (mut rates, mut costs) = ([vec![], vec![]], [vec![], vec![]]);
                for _ in 0..PAIR_ROUNDS {
                    for (server, (rates, costs)) in servers.iter().zip(rates.iter_mut().zip(&mut costs)) {
                        let before = server.processor_seconds();
                        let seconds = measure(&server.account(), &method, *sse, LOAD).await;
                        let used = server.processor_seconds() - before;
                        rates.push(LOAD.2 as f64 / seconds);
                        costs.push(used * 1e6 / LOAD.2 as f64);
                    }
                }
                let ([rate, other_rate], [cost, other_cost]) =
                    (rates.map(median), costs.map(median));
                let kind = sse.name();
                println!("  {method} 4 KiB 16 clients   {rate:7.0}/s {cost:5.0} µs   the other {other_rate:7.0}/s {other_cost:5.0} µs of processor a request   {kind}");
            }
        }
    });
}

/// What the key costs is seen in small objects.
fn kinds(size: usize) -> &'static [Sse] {
    if size <= 4 << 10 {
        &[Sse::Kms, Sse::KmsWithBucketKey, Sse::S3]
    } else {
        &[Sse::Kms]
    }
}

async fn measure(
    account: &Arc<Account>,
    method: &Method,
    sse: Sse,
    (size, clients, operations): (usize, usize, usize),
) -> f64 {
    let body = Bytes::from(vec![0x5A; size]);
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(Client::connect(Arc::clone(account)).await);
    }
    let began = Instant::now();
    let tasks: Vec<_> = connected
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            let (method, body) = (method.clone(), body.clone());
            tokio::spawn(async move {
                for i in 0..operations / clients {
                    let path = format!("/bench/{size}/{number}/{}", i % 100);
                    let is_put = method == Method::PUT;
                    let sent = if is_put { body.clone() } else { Bytes::new() };
                    let received = client.send(method.clone(), &path, sse, sent).await;
                    assert!(is_put || received == size);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    began.elapsed().as_secs_f64()
}
