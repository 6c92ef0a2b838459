//! How to reach a TPM, and what is asked of it.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use super::wire::Name;
use crate::{HsmError, HsmResult};

/// Where a TPM is and how its keys are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TpmConfig {
    /// The way to the TPM:
    ///
    /// - `device:/dev/tpmrm0`: the kernel's resource manager. `/dev/tpm0` is the TPM itself, for one user at a time;
    /// - `tabrmd:bus_type=system` or `tabrmd:bus_type=session`, with `bus_name=…` if need be: `tpm2-abrmd`;
    /// - `swtpm:host=127.0.0.1,port=2321`: the emulator. Its control channel is at the next port. A socket in the file
    ///   system is not among what the library can reach;
    /// - `mssim:host=…,port=…`: the simulator, for tests as well.
    pub tcti: String,
    /// The file with the owner hierarchy's authorisation value. None: the value is empty.
    pub owner_auth: Option<PathBuf>,
    /// The name of the primary, 68 hex digits as `strongroom hsm check` prints them. None: the name that each key was
    /// made under is what counts, and that of the first is believed.
    pub primary_name: Option<String>,
    /// AES key length of primary and keys: 128 or 256. None: 256 if the TPM takes it. It is part of the primary: with
    /// another one no key is found. To be set where new firmware might bring 256 to a TPM with keys of 128.
    pub aes_bits: Option<u16>,
    /// Refuses to make a key that gets no NV counter, since the destruction of such a key is not final.
    pub require_nv: bool,
    /// New keys open only while these PCRs of the SHA-256 bank are what they are when the key is made. Refused without
    /// a recovery key: an update of firmware or boot loader would lose every key.
    pub pcrs: Vec<u8>,
    /// The file with the public half of an offline key on NIST P-256, as PEM or DER. It may sign other PCR values for
    /// the keys that were made while it was configured.
    pub recovery_key: Option<PathBuf>,
    /// The file with a policy that the recovery key has signed ([`PcrPolicy`](super::PcrPolicy)). It is read when the
    /// PCRs are not what they were, and may come and go while the server runs.
    pub recovery_policy: Option<PathBuf>,
}

/// What a connection needs to know.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) primary_name: Option<Name>,
    pub(super) aes_bits: Option<u16>,
    pub(super) require_nv: bool,
    /// Bit n: new keys are bound to PCR n.
    pub(super) pcrs: u32,
    pub(super) recovery_key: Option<PathBuf>,
    pub(super) recovery_policy: Option<PathBuf>,
    /// How long an answer of the TPM may take.
    pub(super) answer_wait: Duration,
}

impl TpmConfig {
    /// # Errors
    ///
    /// [`HsmError::Config`] naming what can never work.
    pub(super) fn settings(&self) -> HsmResult<Settings> {
        let primary_name = match &self.primary_name {
            Some(text) => Some(read_name(text).ok_or_else(|| {
                config(
                    "primary_name must be the 68 hex digits of a SHA-256 name, which begins with 000b",
                )
            })?),
            None => None,
        };
        if !matches!(self.aes_bits, None | Some(128 | 256)) {
            return Err(config("aes_bits must be 128 or 256"));
        }
        let pcrs = super::pcr::selection(&self.pcrs)?;
        let wanted = pcrs != 0 || self.recovery_policy.is_some();
        match (wanted, &self.recovery_key) {
            (true, None) => Err(config(
                "pcrs and recovery_policy want a recovery_key: without one an update of the firmware loses the keys",
            )),
            (false, Some(_)) => Err(config(
                "recovery_key does nothing without pcrs or a recovery_policy",
            )),
            _ => Ok(Settings {
                primary_name,
                aes_bits: self.aes_bits,
                require_nv: self.require_nv,
                pcrs,
                recovery_key: self.recovery_key.clone(),
                recovery_policy: self.recovery_policy.clone(),
                answer_wait: super::TpmToken::ANSWER_WAIT,
            }),
        }
    }

    /// The TCTI as the loader of the library wants it.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] for anything but the documented forms: the library ignores what it does not know.
    pub(super) fn tcti(&self) -> HsmResult<CString> {
        let (name, rest) = self.tcti.split_once(':').unwrap_or((&self.tcti, ""));
        match name {
            "device" => {
                if !rest.starts_with('/') {
                    return Err(config("tcti: device wants an absolute path"));
                }
            }
            "swtpm" | "mssim" => {
                let mut host = false;
                let mut port = false;
                for (key, value) in settings_of(rest)? {
                    match key {
                        "host" if !value.is_empty() => host = true,
                        // The control channel is at the next port.
                        "port"
                            if value
                                .parse()
                                .is_ok_and(|port| (1..u16::MAX).contains(&port)) =>
                        {
                            port = true;
                        }
                        "path" => {
                            return Err(config(
                                "tcti: the library does not reach a TPM at a socket in the file system",
                            ));
                        }
                        _ => {
                            return Err(config(
                                "tcti: an emulator has a host and a port, and nothing else",
                            ));
                        }
                    }
                }
                if !(host && port) {
                    return Err(config("tcti: an emulator needs a host and a port"));
                }
            }
            "tabrmd" => {
                for (key, value) in settings_of(rest)? {
                    let known = match key {
                        "bus_type" => matches!(value, "session" | "system"),
                        "bus_name" => !value.is_empty(),
                        _ => false,
                    };
                    if !known {
                        return Err(config("tcti: tabrmd takes bus_name and bus_type"));
                    }
                }
            }
            _ => {
                return Err(config(
                    "tcti must begin with device:, swtpm:, mssim: or tabrmd:",
                ));
            }
        }
        CString::new(self.tcti.as_str()).map_err(|_zero| config("tcti has a zero byte"))
    }
}

/// The settings of a comma-separated list of `key=value`, none twice.
fn settings_of(text: &str) -> HsmResult<Vec<(&str, &str)>> {
    let mut settings: Vec<(&str, &str)> = Vec::new();
    for setting in text.split(',').filter(|setting| !setting.is_empty()) {
        let setting = setting
            .split_once('=')
            .ok_or_else(|| config("tcti: settings are written key=value"))?;
        if settings.iter().any(|(key, _)| *key == setting.0) {
            return Err(config("tcti: a setting stands twice"));
        }
        settings.push(setting);
    }
    Ok(settings)
}

fn read_name(text: &str) -> Option<Name> {
    let mut bytes = [0; Name::BYTES];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    let sha256 = super::wire::SHA256_ID.to_be_bytes();
    bytes.starts_with(&sha256).then(|| Name::from_bytes(bytes))
}

fn config(text: &str) -> HsmError {
    HsmError::Config(format!("TPM: {text}"))
}

#[cfg(test)]
mod tests {
    use super::TpmConfig;

    fn accepted(tcti: &str) -> bool {
        let config = TpmConfig {
            tcti: tcti.into(),
            ..TpmConfig::default()
        };
        config.tcti().is_ok()
    }

    #[test]
    fn the_documented_tctis_are_taken_and_no_others() {
        for good in [
            "device:/dev/tpmrm0",
            "swtpm:host=127.0.0.1,port=2321",
            "mssim:port=2321,host=localhost",
            "tabrmd",
            "tabrmd:bus_type=session",
            "tabrmd:bus_name=com.intel.tss2.Tabrmd,bus_type=system",
        ] {
            assert!(accepted(good), "{good}");
        }
        for bad in [
            "",
            "device",
            "device:tpm0",
            "swtpm",
            "swtpm:port=2321",
            "swtpm:host=localhost",
            "swtpm:host=,port=1",
            "swtpm:host=h,port=0",
            "swtpm:host=h,port=65535",
            "swtpm:host=h,port=1,port=2",
            "swtpm:host=h,port=1,color=red",
            "swtpm:path=/run/swtpm",
            "tabrmd:bus_type=both",
            "cmd:sh -c true",
            "libtss2-tcti-device.so.0:/dev/tpm0",
            "device:/dev/tpm0\0",
        ] {
            assert!(!accepted(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_or_key_length_that_cannot_be_is_refused() {
        let refused = |config: TpmConfig| config.settings().is_err();
        for name in ["", "000b", &"zz".repeat(34), &"00".repeat(34)] {
            assert!(
                refused(TpmConfig {
                    primary_name: Some(name.into()),
                    ..TpmConfig::default()
                }),
                "{name}"
            );
        }
        assert!(refused(TpmConfig {
            aes_bits: Some(192),
            ..TpmConfig::default()
        }));
    }

    #[test]
    fn pcrs_and_a_recovery_key_go_together() {
        let config = |pcrs: &[u8], key: Option<&str>, policy: Option<&str>| TpmConfig {
            pcrs: pcrs.to_vec(),
            recovery_key: key.map(Into::into),
            recovery_policy: policy.map(Into::into),
            ..TpmConfig::default()
        };
        for good in [
            config(&[], None, None),
            config(&[7], Some("key"), None),
            config(&[7], Some("key"), Some("policy")),
            config(&[], Some("key"), Some("policy")),
        ] {
            assert!(good.settings().is_ok(), "{good:?}");
        }
        for bad in [
            config(&[7], None, None),
            config(&[], Some("key"), None),
            config(&[], None, Some("policy")),
            config(&[24], Some("key"), None),
        ] {
            assert!(bad.settings().is_err(), "{bad:?}");
        }
    }
}
