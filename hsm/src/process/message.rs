//! What the two sides say to each other, byte for byte.
//!
//! Frames and fields are those of [`wire`](super::wire). The parent asks:
//!
//! | kind | request | fields | answer |
//! | --- | --- | --- | --- |
//! | 01 | hello | magic (14 bytes) ‖ build text | 81 |
//! | 02 | configure | module bytes ‖ label, serial, manufacturer, model: option text ‖ scheme u8 (0: by trial) ‖ allow unsafe flag ‖ init args option text | 82 |
//! | 03 | PIN | bytes | goes on with what it interrupted |
//! | 04 | open | – | 8c |
//! | 05 | info | – | 84 |
//! | 06 | report | – | 85 |
//! | 07 | try | – | 8d |
//! | 08 | begin | abilities | 82 |
//! | 10 | generate key | id ‖ label text | 86 |
//! | 11 | make canary | id ‖ blob bytes | 87 |
//! | 12 | contains | id | 8a |
//! | 13 | probe | key | 82 |
//! | 14 | wrap | key ‖ AAD bytes ‖ plaintext bytes | 87 |
//! | 15 | wrap and unwrap | as wrap | 88 |
//! | 16 | unwrap | key ‖ AAD bytes ‖ wrapped bytes | 89 |
//! | 17 | destroy key | id | 82 |
//! | 18 | list keys | – | 8b |
//! | 19 | random | count u32 | 89 |
//! | 20 | tool obstacle | spec u8 | 8e |
//! | 21 | generate tool | id ‖ spec u8 ‖ label text | 86 |
//! | 22 | prove tool | id ‖ spec u8 ‖ blob bytes | 8f |
//! | 23 | probe tool | tool | 82 |
//! | 24 | MAC | tool ‖ message bytes | 8f |
//! | 25 | import key | tool ‖ wrapped material bytes ‖ same as: option key ‖ into: option (id ‖ label text) | 86 |
//! | 26 | sign | tool ‖ algorithm u8 ‖ digest bytes | 8f |
//!
//! key = id ‖ blob bytes ‖ canary bytes. tool = id ‖ spec u8 ‖ proof bytes. abilities = dialect u8 ‖ list of
//! (scheme u8 ‖ why not: option text) ‖ list of danger text ‖ why untried: option text.
//!
//! To open is to log in; to try is to find out the abilities; to begin, with these or with those that another worker
//! found, is to have a session for what follows. The worker answers each request with one frame, or first, up to
//! [`PIN_ASKS_MAX`] times, with 83:
//!
//! | kind | answer | fields |
//! | --- | --- | --- |
//! | 81 | hello | magic (14 bytes) ‖ build text |
//! | 82 | done | – |
//! | 83 | PIN, please | few tries left flag |
//! | 84 | info | module, label, serial, model: text |
//! | 85 | report | list of (subject, name, value: text) ‖ list of danger text |
//! | 86 | blob | bytes |
//! | 87 | wrapped | bytes |
//! | 88 | wrapped and secret | bytes ‖ bytes |
//! | 89 | secret | bytes |
//! | 8a | flag | flag |
//! | 8b | ids | list of id |
//! | 8c | opened | token and library text |
//! | 8d | abilities | abilities |
//! | 8e | obstacle | option text |
//! | 8f | made by a tool | bytes |
//! | ff | failed | error u8 ‖ its fields |
//!
//! The errors are those of [`failure`].
//!
//! Hello has the same form in every version, so that two versions can tell each other apart.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::failure::{self, TEXT_BYTES_MAX};
use super::objects::Access;
use super::wire::{Broken, Fields, Fill, Frame, VERSION};
use crate::pkcs11::pin::PIN_BYTES_MAX;
use crate::pkcs11::{Abilities, Pkcs11Config};
use crate::{
    BackingKey, BackingKeyId, HsmError, HsmHandle, HsmResult, KeyBlob, Material, Report,
    SecretBytes, SignatureAlgorithm, TOOL_INPUT_BYTES_MAX, TokenInfo, ToolKey, ToolProof, ToolSpec,
    WRAP_AAD_BYTES_MAX, WRAP_PLAINTEXT_BYTES_MAX, Wrapped,
};

mod fields;
#[cfg(test)]
mod tests;

use fields::{
    count_of, read_abilities, read_blob, read_config, read_key, read_report, read_spec, read_tool,
    read_wrapped, secret, write_abilities, write_blob, write_config, write_key, write_report,
    write_tool, write_wrapped,
};

/// The most keys that a worker lists.
pub(super) const KEYS_MAX: usize = 65_536;
/// How often a worker may ask for the PIN during one request: at a login, and once more when it had to initialise the
/// module again.
pub(super) const PIN_ASKS_MAX: usize = 2;

const MAGIC: &[u8; 14] = b"strongroom hsm";
/// The most bytes that a tool makes at once.
const MADE_BYTES_MAX: usize = ToolProof::BYTES_MAX;
/// The longest digest, that of SHA-512.
const DIGEST_BYTES_MAX: usize = 64;
/// The most random bytes at once.
const RANDOM_BYTES_MAX: usize = HsmHandle::RANDOM_BYTES_MAX;

/// What the parent asks. The borrowed form is what goes out; what comes in borrows from the frame.
#[derive(Debug)]
pub(super) enum Request<'a> {
    Hello {
        build: &'a str,
    },
    Configure(Cow<'a, Pkcs11Config>),
    Pin(Secret<'a>),
    Open,
    Info,
    Report,
    Try,
    Begin(Cow<'a, Abilities>),
    Generate {
        id: BackingKeyId,
        label: &'a str,
    },
    MakeCanary {
        id: BackingKeyId,
        blob: Cow<'a, KeyBlob>,
    },
    Contains(BackingKeyId),
    Probe(Cow<'a, BackingKey>),
    Wrap {
        key: Cow<'a, BackingKey>,
        aad: &'a [u8],
        plaintext: Secret<'a>,
        and_unwrap: bool,
    },
    Unwrap {
        key: Cow<'a, BackingKey>,
        aad: &'a [u8],
        wrapped: Cow<'a, Wrapped>,
    },
    Destroy(BackingKeyId),
    ListKeys,
    Random(usize),
    ToolObstacle(ToolSpec),
    GenerateTool {
        id: BackingKeyId,
        spec: ToolSpec,
        label: &'a str,
    },
    ProveTool {
        id: BackingKeyId,
        spec: ToolSpec,
        blob: Cow<'a, KeyBlob>,
    },
    ProbeTool(Cow<'a, ToolKey>),
    Mac {
        tool: Cow<'a, ToolKey>,
        message: Secret<'a>,
    },
    Sign {
        tool: Cow<'a, ToolKey>,
        algorithm: SignatureAlgorithm,
        digest: &'a [u8],
    },
    Import {
        material: Cow<'a, Material>,
        into: Option<(BackingKeyId, &'a str)>,
    },
}

/// Bytes that no debug output shows.
pub(super) struct Secret<'a>(pub(super) &'a [u8]);

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[REDACTED]")
    }
}

impl<'a> Request<'a> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 0x01,
            Self::Configure(_) => 0x02,
            Self::Pin(_) => 0x03,
            Self::Open => 0x04,
            Self::Info => 0x05,
            Self::Report => 0x06,
            Self::Try => 0x07,
            Self::Begin(_) => 0x08,
            Self::Generate { .. } => 0x10,
            Self::MakeCanary { .. } => 0x11,
            Self::Contains(_) => 0x12,
            Self::Probe(_) => 0x13,
            Self::Wrap { and_unwrap, .. } if *and_unwrap => 0x15,
            Self::Wrap { .. } => 0x14,
            Self::Unwrap { .. } => 0x16,
            Self::Destroy(_) => 0x17,
            Self::ListKeys => 0x18,
            Self::Random(_) => 0x19,
            Self::ToolObstacle(_) => 0x20,
            Self::GenerateTool { .. } => 0x21,
            Self::ProveTool { .. } => 0x22,
            Self::ProbeTool(_) => 0x23,
            Self::Mac { .. } => 0x24,
            Self::Import { .. } => 0x25,
            Self::Sign { .. } => 0x26,
        }
    }

    pub(super) fn access(&self) -> Access {
        match self {
            // Wraps and unwraps find their key once in a while. Were they to wait for leave, a key in the making would
            // hold up all.
            Self::Hello { .. }
            | Self::Configure(_)
            | Self::Pin(_)
            | Self::Begin(_)
            | Self::Wrap { .. }
            | Self::Unwrap { .. }
            | Self::Mac { .. }
            | Self::Sign { .. } => Access::None,
            Self::MakeCanary { .. }
            | Self::Contains(_)
            | Self::Probe(_)
            | Self::ListKeys
            | Self::Random(_)
            | Self::ProveTool { .. }
            | Self::ProbeTool(_) => Access::Look,
            // A login counts tries, in an object of the token.
            Self::Open
            | Self::Info
            | Self::Report
            | Self::Try
            | Self::Generate { .. }
            | Self::ToolObstacle(_)
            | Self::GenerateTool { .. }
            | Self::Import { .. }
            | Self::Destroy(_) => Access::Change,
        }
    }

    /// # Errors
    ///
    /// [`HsmError::TooLong`] for what does not fit.
    pub(super) fn write(&self, out: &mut Fill<'_>) -> HsmResult<()> {
        match self {
            Self::Hello { build } => write_hello(out, build),
            Self::Configure(config) => write_config(out, config)?,
            Self::Pin(pin) => out.bytes("PIN", pin.0, PIN_BYTES_MAX)?,
            Self::Open | Self::Info | Self::Report | Self::Try | Self::ListKeys => {}
            Self::Begin(abilities) => write_abilities(out, abilities),
            Self::Generate { id, label } => {
                out.id(id);
                out.bytes("label", label.as_bytes(), TEXT_BYTES_MAX)?;
            }
            Self::MakeCanary { id, blob } => {
                out.id(id);
                write_blob(out, blob)?;
            }
            Self::Contains(id) | Self::Destroy(id) => out.id(id),
            Self::Probe(key) => write_key(out, key)?,
            Self::Wrap {
                key,
                aad,
                plaintext,
                ..
            } => {
                write_key(out, key)?;
                out.bytes("AAD", aad, WRAP_AAD_BYTES_MAX)?;
                out.bytes("plaintext", plaintext.0, WRAP_PLAINTEXT_BYTES_MAX)?;
            }
            Self::Unwrap { key, aad, wrapped } => {
                write_key(out, key)?;
                out.bytes("AAD", aad, WRAP_AAD_BYTES_MAX)?;
                write_wrapped(out, wrapped)?;
            }
            Self::Random(count) => {
                if *count > RANDOM_BYTES_MAX {
                    return Err(HsmError::TooLong {
                        what: "random",
                        bytes: *count,
                    });
                }
                out.u32(u32::try_from(*count).unwrap_or_default());
            }
            Self::ToolObstacle(spec) => out.u8(spec.to_byte()),
            Self::GenerateTool { id, spec, label } => {
                out.id(id);
                out.u8(spec.to_byte());
                out.bytes("label", label.as_bytes(), TEXT_BYTES_MAX)?;
            }
            Self::ProveTool { id, spec, blob } => {
                out.id(id);
                out.u8(spec.to_byte());
                write_blob(out, blob)?;
            }
            Self::Import { material, into } => write_import(out, material, *into)?,
            Self::ProbeTool(tool) => write_tool(out, tool)?,
            Self::Mac { tool, message } => {
                write_tool(out, tool)?;
                out.bytes("message to authenticate", message.0, TOOL_INPUT_BYTES_MAX)?;
            }
            Self::Sign {
                tool,
                algorithm,
                digest,
            } => {
                write_tool(out, tool)?;
                out.u8(algorithm.to_byte());
                out.bytes("digest", digest, DIGEST_BYTES_MAX)?;
            }
        }
        Ok(())
    }

    pub(super) fn read(frame: Frame<'a>) -> Result<Self, Broken> {
        let Frame {
            version,
            kind,
            fields: mut from,
        } = frame;
        if version != VERSION && kind != 0x01 {
            return Err(OTHER_VERSION);
        }
        let request = match kind {
            0x01 => Self::Hello {
                build: read_hello(&mut from)?,
            },
            0x02 => Self::Configure(Cow::Owned(read_config(&mut from)?)),
            0x03 => Self::Pin(Secret(from.bytes(PIN_BYTES_MAX)?)),
            0x04 => Self::Open,
            0x05 => Self::Info,
            0x06 => Self::Report,
            0x07 => Self::Try,
            0x08 => Self::Begin(Cow::Owned(read_abilities(&mut from)?)),
            0x10 => Self::Generate {
                id: from.id()?,
                label: from.text(TEXT_BYTES_MAX)?,
            },
            0x11 => Self::MakeCanary {
                id: from.id()?,
                blob: Cow::Owned(read_blob(&mut from)?),
            },
            0x12 => Self::Contains(from.id()?),
            0x13 => Self::Probe(Cow::Owned(read_key(&mut from)?)),
            0x14 | 0x15 => Self::Wrap {
                key: Cow::Owned(read_key(&mut from)?),
                aad: from.bytes(WRAP_AAD_BYTES_MAX)?,
                plaintext: Secret(from.bytes(WRAP_PLAINTEXT_BYTES_MAX)?),
                and_unwrap: kind == 0x15,
            },
            0x16 => Self::Unwrap {
                key: Cow::Owned(read_key(&mut from)?),
                aad: from.bytes(WRAP_AAD_BYTES_MAX)?,
                wrapped: Cow::Owned(read_wrapped(&mut from)?),
            },
            0x17 => Self::Destroy(from.id()?),
            0x18 => Self::ListKeys,
            0x19 => Self::Random(from.count(RANDOM_BYTES_MAX)?),
            0x20 => Self::ToolObstacle(read_spec(&mut from)?),
            0x21 => Self::GenerateTool {
                id: from.id()?,
                spec: read_spec(&mut from)?,
                label: from.text(TEXT_BYTES_MAX)?,
            },
            0x22 => Self::ProveTool {
                id: from.id()?,
                spec: read_spec(&mut from)?,
                blob: Cow::Owned(read_blob(&mut from)?),
            },
            0x23 => Self::ProbeTool(Cow::Owned(read_tool(&mut from)?)),
            0x24 => Self::Mac {
                tool: Cow::Owned(read_tool(&mut from)?),
                message: Secret(from.bytes(TOOL_INPUT_BYTES_MAX)?),
            },
            0x25 => read_import(&mut from)?,
            0x26 => Self::Sign {
                tool: Cow::Owned(read_tool(&mut from)?),
                algorithm: SignatureAlgorithm::from_byte(from.u8()?)
                    .ok_or(Broken::Malformed("an unknown algorithm"))?,
                digest: from.bytes(DIGEST_BYTES_MAX)?,
            },
            _ => return Err(Broken::Malformed("an unknown request")),
        };
        from.end()?;
        Ok(request)
    }
}

/// What the worker answers.
#[derive(Debug)]
pub(super) enum Answer {
    Hello { version: u8, build: String },
    Done,
    PinPlease { few_tries: bool },
    Info(TokenInfo),
    Report(Report),
    Blob(KeyBlob),
    Wrapped(Wrapped),
    WrappedAndSecret(Wrapped, SecretBytes),
    Secret(Zeroizing<Vec<u8>>),
    Flag(bool),
    Ids(Vec<BackingKeyId>),
    Opened(String),
    Abilities(Abilities),
    Obstacle(Option<String>),
    Made(Vec<u8>),
    Failed(HsmError),
}

impl Answer {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 0x81,
            Self::Done => 0x82,
            Self::PinPlease { .. } => 0x83,
            Self::Info(_) => 0x84,
            Self::Report(_) => 0x85,
            Self::Blob(_) => 0x86,
            Self::Wrapped(_) => 0x87,
            Self::WrappedAndSecret(..) => 0x88,
            Self::Secret(_) => 0x89,
            Self::Flag(_) => 0x8a,
            Self::Ids(_) => 0x8b,
            Self::Opened(_) => 0x8c,
            Self::Abilities(_) => 0x8d,
            Self::Obstacle(_) => 0x8e,
            Self::Made(_) => 0x8f,
            Self::Failed(_) => 0xff,
        }
    }

    /// # Errors
    ///
    /// [`HsmError::TooLong`] for what does not fit.
    pub(super) fn write(&self, out: &mut Fill<'_>) -> HsmResult<()> {
        match self {
            Self::Hello { build, .. } => write_hello(out, build),
            Self::Done => {}
            Self::PinPlease { few_tries } => out.u8(u8::from(*few_tries)),
            Self::Info(info) => {
                for text in [&info.module, &info.label, &info.serial, &info.model] {
                    out.words(text, TEXT_BYTES_MAX);
                }
            }
            Self::Report(report) => write_report(out, report),
            Self::Blob(blob) => write_blob(out, blob)?,
            Self::Wrapped(wrapped) => write_wrapped(out, wrapped)?,
            Self::WrappedAndSecret(wrapped, secret) => {
                write_wrapped(out, wrapped)?;
                out.bytes("plaintext", secret.expose(), WRAP_PLAINTEXT_BYTES_MAX)?;
            }
            Self::Secret(bytes) => out.bytes("secret", bytes, RANDOM_BYTES_MAX)?,
            Self::Flag(flag) => out.u8(u8::from(*flag)),
            Self::Ids(ids) => {
                out.u32(count_of("list of keys", ids.len(), KEYS_MAX)?);
                for id in ids {
                    out.id(id);
                }
            }
            Self::Opened(identity) => out.words(identity, TEXT_BYTES_MAX),
            Self::Abilities(abilities) => write_abilities(out, abilities),
            Self::Obstacle(reason) => {
                out.u8(u8::from(reason.is_some()));
                if let Some(text) = reason {
                    out.words(text, TEXT_BYTES_MAX);
                }
            }
            Self::Made(bytes) => out.bytes("message", bytes, MADE_BYTES_MAX)?,
            Self::Failed(error) => failure::write(out, error),
        }
        Ok(())
    }

    pub(super) fn read(frame: Frame<'_>) -> Result<Self, Broken> {
        let Frame {
            version,
            kind,
            fields: mut from,
        } = frame;
        if version != VERSION && kind != 0x81 {
            return Err(OTHER_VERSION);
        }
        let answer = match kind {
            0x81 => Self::Hello {
                version,
                build: read_hello(&mut from)?.to_owned(),
            },
            0x82 => Self::Done,
            0x83 => Self::PinPlease {
                few_tries: from.flag()?,
            },
            0x84 => {
                let mut text = || from.text(TEXT_BYTES_MAX).map(str::to_owned);
                Self::Info(TokenInfo {
                    backend: "pkcs11",
                    module: text()?,
                    label: text()?,
                    serial: text()?,
                    model: text()?,
                })
            }
            0x85 => Self::Report(read_report(&mut from)?),
            0x86 => Self::Blob(read_blob(&mut from)?),
            0x87 => Self::Wrapped(read_wrapped(&mut from)?),
            0x88 => Self::WrappedAndSecret(
                read_wrapped(&mut from)?,
                secret(from.bytes(WRAP_PLAINTEXT_BYTES_MAX)?)?,
            ),
            0x89 => Self::Secret(Zeroizing::new(from.bytes(RANDOM_BYTES_MAX)?.to_vec())),
            0x8a => Self::Flag(from.flag()?),
            0x8b => {
                let count = from.count(KEYS_MAX)?;
                let mut ids = Vec::new();
                for _ in 0..count {
                    ids.push(from.id()?);
                }
                Self::Ids(ids)
            }
            0x8c => Self::Opened(from.text(TEXT_BYTES_MAX)?.to_owned()),
            0x8d => Self::Abilities(read_abilities(&mut from)?),
            0x8e => Self::Obstacle(
                from.flag()?
                    .then(|| from.text(TEXT_BYTES_MAX).map(str::to_owned))
                    .transpose()?,
            ),
            0x8f => Self::Made(from.bytes(MADE_BYTES_MAX)?.to_vec()),
            0xff => Self::Failed(failure::read(&mut from)?),
            _ => return Err(Broken::Malformed("an unknown answer")),
        };
        from.end()?;
        Ok(answer)
    }
}

const OTHER_VERSION: Broken = Broken::Malformed("a frame of another version");

fn write_hello(out: &mut Fill<'_>, build: &str) {
    for byte in MAGIC {
        out.u8(*byte);
    }
    out.words(build, TEXT_BYTES_MAX);
}

fn read_hello<'a>(from: &mut Fields<'a>) -> Result<&'a str, Broken> {
    for expected in MAGIC {
        if from.u8()? != *expected {
            return Err(Broken::Malformed("the magic is not ours"));
        }
    }
    from.text(TEXT_BYTES_MAX)
}

fn write_import(
    out: &mut Fill<'_>,
    material: &Material,
    into: Option<(BackingKeyId, &str)>,
) -> HsmResult<()> {
    let Material {
        unwrapper,
        wrapped,
        same_as,
    } = material;
    write_tool(out, unwrapper)?;
    out.bytes("wrapped material", wrapped, Material::WRAPPED_BYTES_MAX)?;
    out.u8(u8::from(same_as.is_some()));
    if let Some(key) = same_as {
        write_key(out, key)?;
    }
    out.u8(u8::from(into.is_some()));
    if let Some((id, label)) = into {
        out.id(&id);
        out.bytes("label", label.as_bytes(), TEXT_BYTES_MAX)?;
    }
    Ok(())
}

fn read_import<'a>(from: &mut Fields<'a>) -> Result<Request<'a>, Broken> {
    let material = Material {
        unwrapper: read_tool(from)?,
        wrapped: from.bytes(Material::WRAPPED_BYTES_MAX)?.to_vec(),
        same_as: from.flag()?.then(|| read_key(from)).transpose()?,
    };
    let into = from
        .flag()?
        .then(|| Ok((from.id()?, from.text(TEXT_BYTES_MAX)?)));
    Ok(Request::Import {
        material: Cow::Owned(material),
        into: into.transpose()?,
    })
}
