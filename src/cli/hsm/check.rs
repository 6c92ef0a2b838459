//! `strongroom hsm check`: a report for the operator, and for the maker of the token.

use std::sync::Arc;

use serde_json::{Value, json};
use strongroom_hsm::{
    BackingKeyId, HsmHandle, HsmSettings, Report, SecretBytes, Token, TokenInfo,
    WRAP_PLAINTEXT_BYTES_MAX,
};

use super::{Chosen, REPORT_WAIT, with_handle, within};
use crate::cli::{CliError, chain};

/// What was found out about one token.
struct Found {
    info: TokenInfo,
    report: Report,
    /// What the trial key could do; nothing when the token is unsafe, for then it gets no key.
    trial: Option<Result<Vec<(&'static str, String)>, CliError>>,
}

impl Found {
    fn is_safe(&self) -> bool {
        self.report.dangers.is_empty() && matches!(self.trial, Some(Ok(_)))
    }
}

pub(super) fn run(chosen: &Chosen, json: bool) -> Result<(), CliError> {
    let settings = HsmSettings {
        workers: 1,
        verify_wraps: false,
        ..chosen.settings.clone()
    };
    let mut all = Vec::new();
    for token in &chosen.tokens {
        all.push(examine(token, &settings)?);
    }
    if json {
        let tokens: Vec<_> = all.iter().map(as_json).collect();
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "tokens": tokens }))?
        );
    } else {
        all.iter().for_each(print);
    }
    if all.iter().all(Found::is_safe) {
        Ok(())
    } else {
        Err("a token is not fit to hold Strongroom's keys".into())
    }
}

fn examine(token: &Arc<dyn Token>, settings: &HsmSettings) -> Result<Found, CliError> {
    let asked = Arc::clone(token);
    let (info, report) = within(REPORT_WAIT, move || {
        let report = asked.report()?;
        Ok((asked.info()?, report))
    })?;
    let trial = report
        .dangers
        .is_empty()
        .then(|| with_handle(token, settings.clone(), trial));
    Ok(Found {
        info,
        report,
        trial,
    })
}

/// All that the server will ask of the token, with a key that is destroyed again.
async fn trial(hsm: &HsmHandle) -> Result<Vec<(&'static str, String)>, CliError> {
    let id = BackingKeyId::random()?;
    let result = try_key(hsm, id).await;
    hsm.destroy_key(id).await?;
    if hsm.contains(id).await? {
        return Err("the token says that it destroyed a key, and still has it".into());
    }
    let mut done = result?;
    done.push(("destroy", "yes: the trial key is gone".into()));
    Ok(done)
}

async fn try_key(
    hsm: &HsmHandle,
    id: BackingKeyId,
) -> Result<Vec<(&'static str, String)>, CliError> {
    let key = hsm.generate_key(id, "strongroom hsm check").await?;
    let aad = b"strongroom hsm check".to_vec();
    let plaintext = SecretBytes::new(vec![7; WRAP_PLAINTEXT_BYTES_MAX])?;
    let wrapped = hsm.wrap(&key, aad.clone(), plaintext).await?;
    let back = hsm.unwrap(&key, aad.clone(), wrapped.clone()).await?;
    if back.expose() != [7; WRAP_PLAINTEXT_BYTES_MAX] {
        return Err("the token decrypts to something else than was encrypted".into());
    }
    let scheme = wrapped.scheme().map_or("unknown", |scheme| scheme.name());
    let size = wrapped.as_bytes().len();
    if hsm
        .unwrap(&key, b"something else".to_vec(), wrapped)
        .await
        .is_ok()
    {
        return Err("the token does not authenticate the encryption context".into());
    }
    Ok(vec![
        (
            "generate",
            "yes: AES-256, made in the token and never to leave it".into(),
        ),
        (
            "wrap",
            format!("yes: {WRAP_PLAINTEXT_BYTES_MAX} bytes become {size}, scheme {scheme}"),
        ),
        (
            "context",
            "yes: another encryption context is refused".into(),
        ),
    ])
}

fn print(found: &Found) {
    let Found {
        info,
        report,
        trial,
    } = found;
    println!(
        "token      {} (serial {}), {}",
        info.label, info.serial, info.model
    );
    println!("module     {}, backend {}", info.module, info.backend);
    for fact in &report.facts {
        println!("{:<10} {}: {}", fact.subject, fact.name, fact.value);
    }
    match trial {
        Some(Ok(done)) => {
            for (what, outcome) in done {
                println!("{what:<10} {outcome}");
            }
        }
        Some(Err(error)) => println!("TRIAL      failed: {}", chain(error.as_ref())),
        None => {}
    }
    for danger in &report.dangers {
        println!("UNSAFE     {danger}");
    }
    if found.is_safe() {
        println!("This token can hold Strongroom's keys.");
    }
}

fn as_json(found: &Found) -> Value {
    let facts = found.report.facts.iter();
    let facts: Vec<_> = facts
        .map(|fact| json!({ "subject": fact.subject, "name": fact.name, "value": fact.value }))
        .collect();
    let trial = match &found.trial {
        Some(Ok(done)) => done
            .iter()
            .map(|(what, outcome)| ((*what).to_owned(), json!(outcome)))
            .collect(),
        Some(Err(error)) => json!({ "error": chain(error.as_ref()) }),
        None => Value::Null,
    };
    json!({
        "label": found.info.label,
        "serial": found.info.serial,
        "model": found.info.model,
        "module": found.info.module,
        "backend": found.info.backend,
        "facts": facts,
        "trial": trial,
        "dangers": found.report.dangers,
        "safe": found.is_safe(),
    })
}
