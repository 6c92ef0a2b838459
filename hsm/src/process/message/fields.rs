//! What requests and answers are made of.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::pkcs11::{Abilities, Dialect, Pkcs11Config, TokenSelector};
use crate::process::failure::TEXT_BYTES_MAX;
use crate::process::wire::{Broken, Fields, Fill};
use crate::{
    BackingKey, Canary, Fact, HsmError, HsmResult, KeyBlob, Report, SecretBytes, ToolKey,
    ToolProof, ToolSpec, WrapScheme, Wrapped,
};

const PATH_BYTES_MAX: usize = 4096;
const INIT_ARGS_BYTES_MAX: usize = 4096;
/// The most facts and dangers of a report, and the most bytes of them all: both fit into an answer. Of a token with more
/// keys than that not every key is reported, and the report says so.
pub(super) const FACTS_MAX: usize = 4096;
const FACTS_BYTES_MAX: usize = 1536 * 1024;
pub(super) const DANGERS_MAX: usize = 1024;
const DANGERS_BYTES_MAX: usize = 256 * 1024;
/// The most schemes and dangers that abilities name, and the most bytes of what is said of each: all of them fit into a
/// request.
const FINDINGS_MAX: usize = 16;
const FINDING_BYTES_MAX: usize = 512;

pub(super) fn write_config(out: &mut Fill<'_>, config: &Pkcs11Config) -> HsmResult<()> {
    let Pkcs11Config {
        module,
        token:
            TokenSelector {
                label,
                serial,
                manufacturer,
                model,
            },
        // The parent reads the PIN; the worker need not know where it is.
        pin_source: _,
        scheme,
        allow_unsafe,
        init_args,
    } = config;
    out.bytes("module path", module.as_os_str().as_bytes(), PATH_BYTES_MAX)?;
    for text in [label, serial, manufacturer, model] {
        out.u8(u8::from(text.is_some()));
        if let Some(text) = text {
            out.bytes("token attribute", text.as_bytes(), TEXT_BYTES_MAX)?;
        }
    }
    out.u8(scheme.map_or(0, |scheme| scheme as u8));
    out.u8(u8::from(*allow_unsafe));
    out.u8(u8::from(init_args.is_some()));
    if let Some(text) = init_args {
        out.bytes("init args", text.as_bytes(), INIT_ARGS_BYTES_MAX)?;
    }
    Ok(())
}

pub(super) fn read_config(from: &mut Fields<'_>) -> Result<Pkcs11Config, Broken> {
    let module = PathBuf::from(OsStr::from_bytes(from.bytes(PATH_BYTES_MAX)?));
    let mut attribute = || {
        from.flag()?
            .then(|| from.text(TEXT_BYTES_MAX).map(str::to_owned))
            .transpose()
    };
    Ok(Pkcs11Config {
        module,
        token: TokenSelector {
            label: attribute()?,
            serial: attribute()?,
            manufacturer: attribute()?,
            model: attribute()?,
        },
        pin_source: PathBuf::new(),
        scheme: match from.u8()? {
            0 => None,
            byte => Some(WrapScheme::from_u8(byte).ok_or(Broken::Malformed("an unknown scheme"))?),
        },
        allow_unsafe: from.flag()?,
        init_args: from
            .flag()?
            .then(|| from.text(INIT_ARGS_BYTES_MAX).map(str::to_owned))
            .transpose()?,
    })
}

/// Writes a report, or what fits of it.
pub(super) fn write_report(out: &mut Fill<'_>, report: &Report) {
    let words = |out: &mut Fill<'_>, text: &str| out.words(text, TEXT_BYTES_MAX);
    let number = |count: usize| u32::try_from(count).unwrap_or_default();
    let sizes = report.facts.iter().map(|fact| {
        let texts = [&fact.subject, &fact.name, &fact.value];
        texts.iter().map(|text| size_of_words(text)).sum()
    });
    let told = fitting(sizes, FACTS_MAX - 1, FACTS_BYTES_MAX);
    let left_out = report.facts.len().saturating_sub(told);
    let note = (left_out > 0).then(|| Fact {
        subject: "report".into(),
        name: "facts that are left out".into(),
        value: left_out.to_string(),
    });
    out.u32(number(told + usize::from(note.is_some())));
    for fact in report.facts.iter().take(told).chain(&note) {
        for text in [&fact.subject, &fact.name, &fact.value] {
            words(out, text);
        }
    }
    let sizes = report.dangers.iter().map(|danger| size_of_words(danger));
    let told = fitting(sizes, DANGERS_MAX - 1, DANGERS_BYTES_MAX);
    let left_out = report.dangers.len().saturating_sub(told);
    let note = (left_out > 0).then(|| format!("{left_out} more dangers are left out"));
    out.u32(number(told + usize::from(note.is_some())));
    for danger in report.dangers.iter().take(told).chain(&note) {
        words(out, danger);
    }
}

fn size_of_words(text: &str) -> usize {
    size_of::<u32>() + text.len().min(TEXT_BYTES_MAX)
}

/// How many of things with these sizes there may be.
fn fitting(sizes: impl Iterator<Item = usize>, count_max: usize, bytes_max: usize) -> usize {
    let mut bytes = 0_usize;
    sizes
        .take(count_max)
        .take_while(|size| {
            bytes = bytes.saturating_add(*size);
            bytes <= bytes_max
        })
        .count()
}

pub(super) fn read_report(from: &mut Fields<'_>) -> Result<Report, Broken> {
    let mut report = Report::default();
    for _ in 0..from.count(FACTS_MAX)? {
        let mut text = || from.text(TEXT_BYTES_MAX).map(str::to_owned);
        report.facts.push(Fact {
            subject: text()?,
            name: text()?,
            value: text()?,
        });
    }
    for _ in 0..from.count(DANGERS_MAX)? {
        report.dangers.push(from.text(TEXT_BYTES_MAX)?.to_owned());
    }
    Ok(report)
}

pub(super) fn write_abilities(out: &mut Fill<'_>, abilities: &Abilities) {
    let Abilities {
        dialect,
        schemes,
        dangers,
        untried,
    } = abilities;
    let words = |out: &mut Fill<'_>, text: &str| out.words(text, FINDING_BYTES_MAX);
    let reason = |out: &mut Fill<'_>, reason: Option<&String>| {
        out.u8(u8::from(reason.is_some()));
        if let Some(text) = reason {
            words(out, text);
        }
    };
    out.u8(dialect.to_byte());
    let count = |length: usize| u32::try_from(length.min(FINDINGS_MAX)).unwrap_or_default();
    out.u32(count(schemes.len()));
    for (scheme, result) in schemes.iter().take(FINDINGS_MAX) {
        out.u8(*scheme as u8);
        reason(out, result.as_ref().err());
    }
    out.u32(count(dangers.len()));
    for danger in dangers.iter().take(FINDINGS_MAX) {
        words(out, danger);
    }
    reason(out, untried.as_ref());
}

pub(super) fn read_abilities(from: &mut Fields<'_>) -> Result<Abilities, Broken> {
    let reason = |from: &mut Fields<'_>| {
        from.flag()?
            .then(|| from.text(FINDING_BYTES_MAX).map(str::to_owned))
            .transpose()
    };
    let dialect = Dialect::from_byte(from.u8()?).ok_or(Broken::Malformed("an unknown dialect"))?;
    let mut schemes = Vec::new();
    for _ in 0..from.count(FINDINGS_MAX)? {
        let scheme = WrapScheme::from_u8(from.u8()?);
        let scheme = scheme.ok_or(Broken::Malformed("an unknown scheme"))?;
        schemes.push((scheme, reason(from)?.map_or(Ok(()), Err)));
    }
    let mut dangers = Vec::new();
    for _ in 0..from.count(FINDINGS_MAX)? {
        dangers.push(from.text(FINDING_BYTES_MAX)?.to_owned());
    }
    Ok(Abilities {
        dialect,
        schemes,
        dangers,
        untried: reason(from)?,
    })
}

pub(super) fn write_key(out: &mut Fill<'_>, key: &BackingKey) -> HsmResult<()> {
    out.id(&key.id);
    write_blob(out, &key.blob)?;
    write_wrapped(out, &key.canary.0)
}

pub(super) fn read_key(from: &mut Fields<'_>) -> Result<BackingKey, Broken> {
    Ok(BackingKey {
        id: from.id()?,
        blob: read_blob(from)?,
        canary: Canary(read_wrapped(from)?),
    })
}

pub(super) fn read_spec(from: &mut Fields<'_>) -> Result<ToolSpec, Broken> {
    ToolSpec::from_byte(from.u8()?).ok_or(Broken::Malformed("an unknown tool"))
}

pub(super) fn write_tool(out: &mut Fill<'_>, tool: &ToolKey) -> HsmResult<()> {
    out.id(&tool.id);
    out.u8(tool.spec.to_byte());
    out.bytes("proof", tool.proof.as_bytes(), ToolProof::BYTES_MAX)
}

pub(super) fn read_tool(from: &mut Fields<'_>) -> Result<ToolKey, Broken> {
    Ok(ToolKey {
        id: from.id()?,
        spec: read_spec(from)?,
        proof: ToolProof::from_bytes(from.bytes(ToolProof::BYTES_MAX)?)
            .map_err(|_too_long| Broken::Malformed("a proof is too long"))?,
    })
}

pub(super) fn write_blob(out: &mut Fill<'_>, blob: &KeyBlob) -> HsmResult<()> {
    out.bytes("key blob", blob.as_bytes(), KeyBlob::BYTES_MAX)
}

pub(super) fn read_blob(from: &mut Fields<'_>) -> Result<KeyBlob, Broken> {
    KeyBlob::from_bytes(from.bytes(KeyBlob::BYTES_MAX)?)
        .map_err(|_too_long| Broken::Malformed("a key blob is too long"))
}

pub(super) fn write_wrapped(out: &mut Fill<'_>, wrapped: &Wrapped) -> HsmResult<()> {
    out.bytes("wrapped value", wrapped.as_bytes(), Wrapped::BYTES_MAX)
}

pub(super) fn read_wrapped(from: &mut Fields<'_>) -> Result<Wrapped, Broken> {
    Wrapped::from_bytes(from.bytes(Wrapped::BYTES_MAX)?)
        .map_err(|_unauthentic| Broken::Malformed("a wrapped value is of no scheme"))
}

pub(super) fn secret(bytes: &[u8]) -> Result<SecretBytes, Broken> {
    SecretBytes::new(bytes.to_vec()).map_err(|_too_long| Broken::Malformed("a secret is too long"))
}

pub(super) fn count_of(what: &'static str, count: usize, max: usize) -> HsmResult<u32> {
    match u32::try_from(count) {
        Ok(number) if count <= max => Ok(number),
        _ => Err(HsmError::TooLong { what, bytes: count }),
    }
}
