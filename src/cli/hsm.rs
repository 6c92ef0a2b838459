//! `strongroom hsm check`: what a token can do, in words.

use std::time::{Duration, Instant};

use clap::Subcommand;
use strongroom_hsm::{BackingKeyId, HsmHandle, HsmSettings, SecretBytes, WRAP_PLAINTEXT_BYTES_MAX};

use super::{CliError, ConfigFile, load, with_module_environment};
use crate::server::tokens::open_tokens;

/// Wraps that are timed.
const ROUNDS: u32 = 200;

/// Look at the token.
#[derive(Debug, Subcommand)]
pub(super) enum Hsm {
    /// Try everything that the server will ask of the token, with a key that is destroyed again
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// The token, instead of the configured one
        #[arg(long, value_name = "URI")]
        hsm_uri: Option<String>,
    },
}

impl Hsm {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Self::Check { file, hsm_uri } = self;
        let mut raw = load(file)?;
        raw.hsm.uri = hsm_uri.or(raw.hsm.uri);
        // Where data would be does not matter here.
        raw.data_dir.get_or_insert_with(|| "/nonexistent".into());
        let config = raw.validate()?;
        with_module_environment(&config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let settings = HsmSettings {
            workers: 1,
            verify_wraps: false,
            ..config.hsm.settings.clone()
        };
        runtime.block_on(async {
            for token in open_tokens(&config.hsm) {
                let hsm = HsmHandle::start(token, settings.clone())?;
                let result = check(&hsm).await;
                hsm.shutdown().await;
                result?;
            }
            Ok(())
        })
    }
}

async fn check(hsm: &HsmHandle) -> Result<(), CliError> {
    let info = hsm.info().await?;
    println!(
        "token      {} (serial {}), {}",
        info.label, info.serial, info.model
    );
    println!("module     {}, backend {}", info.module, info.backend);
    println!(
        "keys       {} that look like backing keys",
        hsm.list_keys().await?.len()
    );
    let id = BackingKeyId::random()?;
    let result = try_key(hsm, id).await;
    hsm.destroy_key(id).await?;
    if hsm.contains(id).await? {
        return Err("the token says that it destroyed a key, and still has it".into());
    }
    println!("destroy    yes: the trial key is gone");
    result?;
    println!("This token can hold Strongroom's keys.");
    Ok(())
}

async fn try_key(hsm: &HsmHandle, id: BackingKeyId) -> Result<(), CliError> {
    let key = hsm.generate_key(id, "strongroom hsm check").await?;
    println!(
        "generate   yes: AES-256, made in the token, sensitive, not extractable, not modifiable"
    );
    let aad = b"strongroom hsm check".to_vec();
    let wrapped = hsm
        .wrap(
            &key,
            aad.clone(),
            SecretBytes::new(vec![7; WRAP_PLAINTEXT_BYTES_MAX])?,
        )
        .await?;
    let back = hsm.unwrap(&key, aad.clone(), wrapped.clone()).await?;
    if back.expose() != [7; WRAP_PLAINTEXT_BYTES_MAX] {
        return Err("the token decrypts to something else than was encrypted".into());
    }
    println!(
        "wrap       yes: CKM_AES_GCM with additional authenticated data, {WRAP_PLAINTEXT_BYTES_MAX} bytes"
    );
    if hsm
        .unwrap(&key, b"something else".to_vec(), wrapped)
        .await
        .is_ok()
    {
        return Err("the token does not authenticate the additional data".into());
    }
    println!("context    yes: another encryption context is refused");
    let began = Instant::now();
    for _ in 0..ROUNDS {
        hsm.wrap(&key, aad.clone(), SecretBytes::new(vec![7; 32])?)
            .await?;
    }
    println!(
        "speed      {:?} a wrap in one session",
        began.elapsed().max(Duration::from_nanos(1)) / ROUNDS
    );
    Ok(())
}
