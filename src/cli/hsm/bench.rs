//! `strongroom hsm bench`: wraps and unwraps a second, by number of sessions.
//!
//! Through the very handle that the server uses, without the decryption after each wrap, with four callers a session.

use std::time::{Duration, Instant};

use serde_json::json;
use strongroom_hsm::{BackingKey, BackingKeyId, HsmHandle, HsmSettings, SecretBytes, Wrapped};

use super::{Chosen, with_handle};
use crate::cli::CliError;

const CALLERS_PER_SESSION: usize = 4;
const SECONDS_MAX: u64 = 60;

/// What to measure.
pub(super) struct Plan {
    sessions: Vec<usize>,
    time: Duration,
}

impl Plan {
    pub(super) fn new(sessions: Vec<usize>, seconds: u64) -> Result<Self, CliError> {
        let max = HsmSettings::WORKERS_MAX;
        if sessions.is_empty() || sessions.iter().any(|count| !(1..=max).contains(count)) {
            return Err(format!("sessions are 1 to {max}").into());
        }
        if !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(format!("seconds are 1 to {SECONDS_MAX}").into());
        }
        Ok(Self {
            sessions,
            time: Duration::from_secs(seconds),
        })
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Wrap,
    Unwrap,
}

/// One line of the table.
struct Measured {
    per_second: f64,
    median: Duration,
    p99: Duration,
}

pub(super) fn run(chosen: &Chosen, plan: &Plan, json: bool) -> Result<(), CliError> {
    let mut lines = Vec::new();
    for token in &chosen.tokens {
        for &sessions in &plan.sessions {
            let settings = HsmSettings {
                workers: sessions,
                verify_wraps: false,
                ..chosen.settings.clone()
            };
            let (label, wraps, unwraps) = with_handle(token, settings, async |hsm| {
                let label = hsm.info().await?.label;
                let (wraps, unwraps) = measure_both(hsm, sessions, plan.time).await?;
                Ok((label, wraps, unwraps))
            })?;
            if !json {
                if lines.is_empty() {
                    println!(
                        "token            sessions   operation      per second     median        p99"
                    );
                }
                for (name, measured) in [("wrap", &wraps), ("unwrap", &unwraps)] {
                    println!(
                        "{label:<16} {sessions:>8}   {name:<10} {:>14.0} {:>10.1?} {:>10.1?}",
                        measured.per_second, measured.median, measured.p99
                    );
                }
            }
            lines.push(json!({
                "token": label, "sessions": sessions, "wrap": told(&wraps), "unwrap": told(&unwraps),
            }));
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    }
    Ok(())
}

fn told(measured: &Measured) -> serde_json::Value {
    json!({
        "per_second": measured.per_second.round(),
        "median_us": measured.median.as_secs_f64() * 1e6,
        "p99_us": measured.p99.as_secs_f64() * 1e6,
    })
}

async fn measure_both(
    hsm: &HsmHandle,
    sessions: usize,
    time: Duration,
) -> Result<(Measured, Measured), CliError> {
    let id = BackingKeyId::random()?;
    let key = hsm.generate_key(id, "strongroom hsm bench").await?;
    let measured = async {
        let wrapped = hsm.wrap(&key, Vec::new(), secret()?).await?;
        let wraps = measure(hsm, &key, &wrapped, sessions, time, Operation::Wrap).await?;
        let unwraps = measure(hsm, &key, &wrapped, sessions, time, Operation::Unwrap).await?;
        Ok((wraps, unwraps))
    }
    .await;
    hsm.destroy_key(id).await?;
    measured
}

async fn measure(
    hsm: &HsmHandle,
    key: &BackingKey,
    wrapped: &Wrapped,
    sessions: usize,
    time: Duration,
    operation: Operation,
) -> Result<Measured, CliError> {
    let began = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..sessions * CALLERS_PER_SESSION {
        let (hsm, key, wrapped) = (hsm.clone(), key.clone(), wrapped.clone());
        callers.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < time {
                let start = Instant::now();
                match operation {
                    Operation::Wrap => {
                        hsm.wrap(&key, Vec::new(), secret()?).await?;
                    }
                    Operation::Unwrap => {
                        hsm.unwrap(&key, Vec::new(), wrapped.clone()).await?;
                    }
                }
                latencies.push(start.elapsed());
            }
            Ok::<_, CliError>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(caller) = callers.join_next().await {
        latencies.extend(caller??);
    }
    let elapsed = began.elapsed();
    latencies.sort_unstable();
    let at = |part: usize| {
        let index = (latencies.len() * part / 100).min(latencies.len().saturating_sub(1));
        latencies.get(index).copied().unwrap_or_default()
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let count = latencies.len() as f64;
    Ok(Measured {
        per_second: count / elapsed.as_secs_f64(),
        median: at(50),
        p99: at(99),
    })
}

fn secret() -> Result<SecretBytes, CliError> {
    Ok(SecretBytes::new(vec![7; 32])?)
}
