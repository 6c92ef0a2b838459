//! `strongroom hsm pcr-message` and `pcr-policy`: a way back to keys that are bound to PCRs, by the offline recovery key.

use std::io::Write as _;
use std::path::Path;

use strongroom_hsm::tpm::{PcrPolicy, TpmConfig, TpmToken};

use super::{REPORT_WAIT, within};
use crate::cli::CliError;
use crate::config::{Config, TokenConfig};

/// A signature by ECDSA on P-256 has 72 bytes at most.
const SIGNATURE_BYTES_MAX: u64 = 256;

/// Writes what the recovery key is to sign for the PCR values of now to standard output, and these to standard error.
pub(super) fn message(config: &Config) -> Result<(), CliError> {
    let tpm = tpm(config)?;
    let values = values_now(tpm)?;
    eprintln!("values {}", hex::encode(values));
    let message = PcrPolicy::new(&tpm.pcrs, values)?.message();
    std::io::stdout().write_all(&message)?;
    Ok(())
}

/// Writes the file of a signed policy to standard output.
pub(super) fn policy(config: &Config, values: &str, signature: &Path) -> Result<(), CliError> {
    let tpm = tpm(config)?;
    let mut digest = [0; 32];
    hex::decode_to_slice(values, &mut digest)
        .map_err(|_not_hex| "values are the 64 hex digits that pcr-message told")?;
    if std::fs::metadata(signature)?.len() > SIGNATURE_BYTES_MAX {
        return Err(format!("{} is too long for a signature", signature.display()).into());
    }
    let signature = std::fs::read(signature)?;
    print!("{}", PcrPolicy::new(&tpm.pcrs, digest)?.signed(&signature));
    Ok(())
}

fn values_now(tpm: &TpmConfig) -> Result<[u8; 32], CliError> {
    let tpm = tpm.clone();
    within(REPORT_WAIT, move || {
        TpmToken::new(&tpm)?.pcr_values(&tpm.pcrs)
    })
}

fn tpm(config: &Config) -> Result<&TpmConfig, CliError> {
    match config.hsm.tokens.as_slice() {
        [TokenConfig::Tpm(tpm)] if !tpm.pcrs.is_empty() => Ok(tpm),
        _ => Err("hsm.tpm.pcrs is not set: no key is bound to PCRs".into()),
    }
}
