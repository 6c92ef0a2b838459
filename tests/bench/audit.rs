//! What a record costs: appended alone and by many at once, by durability, beside the write and the flush that it takes.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use strongroom::audit::{
    Audit, AuditSettings, Durability, Event, KEY_TYPE, KMS_SOURCE, OnFailure, ServerId, Who,
    verify::verify,
};
use strongroom::auth::{AccountId, Action, Operation, Origin, Principal, RequestContext, Resource};
use strongroom::clock::{Clock as _, SystemClock};

use crate::timed;

const CALLERS: [(usize, usize); 2] = [(1, 2_000), (64, 40_000)];
const FLUSHES: usize = 50;

pub(crate) fn run() {
    let runtime = crate::hsm::runtime();
    let request = request();
    let made = timed(|| {
        for _ in 0..10_000 {
            std::hint::black_box(record(&request));
        }
    });
    let bytes = record(&request).len();
    println!(
        "  making a record of {bytes} bytes   {:6.1} us",
        micros(made, 10_000)
    );
    let directory = tempfile::tempdir().expect("a directory");
    let (written, flushed) = bare(&directory.path().join("bare"), bytes);
    println!("  a bare write of it   {written:6.1} us   a bare flush {flushed:8.1} us");
    let interval = Durability::Interval(Duration::from_secs(1));
    for (name, durability) in [("interval", interval), ("always", Durability::Always)] {
        for (callers, records) in CALLERS {
            let records = match durability {
                Durability::Always => records / 20,
                Durability::Interval(_) => records,
            };
            let dir = directory.path().join(format!("{name}-{callers}"));
            let audit = Arc::new(open(&dir, durability));
            let began = Instant::now();
            let mut latencies = runtime.block_on(load(&audit, &request, callers, records));
            let rate = records as f64 / began.elapsed().as_secs_f64();
            latencies.sort_unstable();
            let at = |part: usize| {
                let latency = latencies.get(latencies.len() * part / 100);
                latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
            };
            println!(
                "  sync {name:<8} {callers:2} caller(s)   {rate:8.0} records/s   median {:8.1} us   99 % {:8.1} us   {} flushes",
                at(50),
                at(99),
                audit.stats().flushes
            );
            drop(audit);
            let checked = Instant::now();
            let verified = verify(&dir, None, &[]).expect("readable");
            assert_eq!(verified.findings, []);
            if callers > 1 && durability == interval {
                let rate = verified.records as f64 / checked.elapsed().as_secs_f64();
                println!("  verify   {rate:8.0} records/s");
            }
        }
    }
}

fn micros(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// Microseconds of a write and of a flush.
fn bare(path: &Path, bytes: usize) -> (f64, f64) {
    let line = vec![b'x'; bytes];
    let mut options = OpenOptions::new();
    let mut file: File = options
        .append(true)
        .create(true)
        .open(path)
        .expect("a file");
    let written = timed(|| {
        for _ in 0..2_000 {
            file.write_all(&line).expect("written");
        }
    });
    let flushed = timed(|| {
        for _ in 0..FLUSHES {
            file.write_all(&line).expect("written");
            file.sync_data().expect("flushed");
        }
    });
    (micros(written, 2_000), micros(flushed, FLUSHES))
}

fn open(dir: &Path, durability: Durability) -> Audit {
    let settings = AuditSettings {
        dir: dir.to_owned(),
        durability,
        on_failure: OnFailure::Refuse,
        file_bytes_max: 64 << 20,
        checkpoint_records: 1000,
        checkpoint_interval: Duration::from_mins(1),
    };
    Audit::open(ServerId::random(), None, settings, Arc::new(SystemClock)).expect("an audit")
}

fn request() -> RequestContext {
    let operation = Operation::default();
    let object = Resource::Object("bucket".into(), "some/object".into());
    operation.name(Action("s3:PutObject"), &object);
    let account = AccountId::parse("000000000000").expect("twelve digits");
    let root = Principal::root(account, "AKIAIOSFODNN7EXAMPLE");
    RequestContext {
        source_ip: Some([192, 0, 2, 1].into()),
        user_agent: Some("Boto3/1.40 md/Botocore#1.40".into()),
        time: SystemClock.now(),
        operation,
        ..RequestContext::new(root, "0123456789ABCDEF")
    }
}

/// The record of a data key that S3 asks for.
fn record(request: &RequestContext) -> Vec<u8> {
    let origin = Origin::of(request);
    let key = "arn:aws:kms:us-west-2:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let mut parameters = Map::new();
    parameters.insert("keyId".into(), json!(key));
    let context = json!({ "aws:s3:arn": "arn:aws:s3:::bucket/some/object" });
    parameters.insert("encryptionContext".into(), context);
    let mut additional = Map::new();
    additional.insert("keyMaterialId".into(), json!("0".repeat(64)));
    let event = Event {
        source: KMS_SOURCE,
        name: "GenerateDataKey",
        time: SystemClock.now(),
        who: Who::Caller(&request.principal, &origin),
        account: "000000000000",
        region: "us-west-2",
        read_only: true,
        request: parameters,
        response: Map::new(),
        additional,
        resource_type: KEY_TYPE,
        resources: vec![key.into()],
        outcome: None,
    };
    event.record().1
}

async fn load(
    audit: &Arc<Audit>,
    request: &RequestContext,
    callers: usize,
    records: usize,
) -> Vec<Duration> {
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (audit, request) = (Arc::clone(audit), request.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(records / callers);
                for _ in 0..records / callers {
                    let began = Instant::now();
                    audit.append(record(&request)).await.expect("written");
                    latencies.push(began.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut all = Vec::with_capacity(records);
    for task in tasks {
        all.extend(task.await.expect("no panic"));
    }
    all
}
