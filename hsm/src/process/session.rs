//! A session whose other half is a worker process.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::link::Link;
use super::message::{Answer, Request, Secret};
use super::wire::Broken;
use crate::{
    BackingKey, BackingKeyId, Canary, HsmError, HsmResult, KeyBlob, Material, PAIR_DEADLINE,
    SecretBytes, Session, SignatureAlgorithm, TOOL_INPUT_BYTES_MAX, ToolKey, ToolProof, ToolSpec,
    WRAP_AAD_BYTES_MAX, WRAP_PLAINTEXT_BYTES_MAX, Wrapped,
};

/// One session, one worker.
#[derive(Debug)]
pub(super) struct ProcessSession {
    link: Link,
    deadline: Duration,
}

impl ProcessSession {
    pub(super) fn new(link: Link, deadline: Duration) -> Self {
        Self { link, deadline }
    }

    fn ask<T>(
        &mut self,
        request: &Request<'_>,
        take: impl FnOnce(Answer) -> Option<T>,
    ) -> HsmResult<T> {
        self.ask_within(self.deadline, request, take)
    }

    fn ask_within<T>(
        &mut self,
        deadline: Duration,
        request: &Request<'_>,
        take: impl FnOnce(Answer) -> Option<T>,
    ) -> HsmResult<T> {
        let give_up = Instant::now() + deadline;
        let answer = self.link.exchange_within(request, give_up, deadline);
        let answer = answer.map_err(|error| match error {
            // Some of it may have gone by before the worker was asked.
            HsmError::Timeout(_) => HsmError::Timeout(deadline),
            other => other,
        })?;
        take(answer).ok_or_else(|| {
            let other = Broken::Malformed("an answer to another question");
            self.link.fail(other, deadline)
        })
    }

    /// How long may be taken to make such a tool, or to try it.
    fn deadline_of(&self, spec: ToolSpec) -> Duration {
        if spec.is_slow() {
            self.deadline.max(PAIR_DEADLINE)
        } else {
            self.deadline
        }
    }

    fn done(&mut self, request: &Request<'_>) -> HsmResult<()> {
        self.ask(request, |answer| {
            matches!(answer, Answer::Done).then_some(())
        })
    }

    fn flag(&mut self, request: &Request<'_>) -> HsmResult<bool> {
        self.ask(request, |answer| match answer {
            Answer::Flag(flag) => Some(flag),
            _ => None,
        })
    }
}

impl Session for ProcessSession {
    fn generate_key(&mut self, id: &BackingKeyId, label: &str) -> HsmResult<KeyBlob> {
        self.ask(
            &Request::Generate { id: *id, label },
            |answer| match answer {
                Answer::Blob(blob) => Some(blob),
                _ => None,
            },
        )
    }

    fn make_canary(&mut self, id: &BackingKeyId, blob: &KeyBlob) -> HsmResult<Canary> {
        let blob = Cow::Borrowed(blob);
        self.ask(
            &Request::MakeCanary { id: *id, blob },
            |answer| match answer {
                Answer::Wrapped(wrapped) => Some(Canary(wrapped)),
                _ => None,
            },
        )
    }

    fn contains(&mut self, id: &BackingKeyId) -> HsmResult<bool> {
        self.flag(&Request::Contains(*id))
    }

    fn probe(&mut self, key: &BackingKey) -> HsmResult<()> {
        self.done(&Request::Probe(Cow::Borrowed(key)))
    }

    fn wrap(&mut self, key: &BackingKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        self.ask(
            &wrap_request(key, aad, plaintext, false)?,
            |answer| match answer {
                Answer::Wrapped(wrapped) => Some(wrapped),
                _ => None,
            },
        )
    }

    fn wrap_and_unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        plaintext: &[u8],
    ) -> HsmResult<(Wrapped, SecretBytes)> {
        self.ask(
            &wrap_request(key, aad, plaintext, true)?,
            |answer| match answer {
                Answer::WrappedAndSecret(wrapped, secret) => Some((wrapped, secret)),
                _ => None,
            },
        )
    }

    fn unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<SecretBytes> {
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        if wrapped.as_bytes().len() > Wrapped::BYTES_MAX {
            return Err(HsmError::Unauthentic);
        }
        let request = Request::Unwrap {
            key: Cow::Borrowed(key),
            aad,
            wrapped: Cow::Borrowed(wrapped),
        };
        self.ask(&request, |answer| match answer {
            // Copied to its exact length, so that boxing it does not move it and leave a copy.
            Answer::Secret(bytes) => SecretBytes::new(bytes.to_vec()).ok(),
            _ => None,
        })
    }

    fn tool_obstacle(&mut self, spec: ToolSpec) -> HsmResult<Option<String>> {
        let request = Request::ToolObstacle(spec);
        self.ask_within(self.deadline_of(spec), &request, |answer| match answer {
            Answer::Obstacle(reason) => Some(reason),
            _ => None,
        })
    }

    fn generate_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        label: &str,
    ) -> HsmResult<KeyBlob> {
        let request = Request::GenerateTool {
            id: *id,
            spec,
            label,
        };
        self.ask_within(self.deadline_of(spec), &request, |answer| match answer {
            Answer::Blob(blob) => Some(blob),
            _ => None,
        })
    }

    fn prove_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        blob: &KeyBlob,
    ) -> HsmResult<ToolProof> {
        let request = Request::ProveTool {
            id: *id,
            spec,
            blob: Cow::Borrowed(blob),
        };
        self.ask(&request, |answer| match answer {
            Answer::Made(bytes) => ToolProof::from_bytes(&bytes).ok(),
            _ => None,
        })
    }

    fn probe_tool(&mut self, tool: &ToolKey) -> HsmResult<()> {
        self.done(&Request::ProbeTool(Cow::Borrowed(tool)))
    }

    fn mac(&mut self, tool: &ToolKey, message: &[u8]) -> HsmResult<Vec<u8>> {
        within("message to authenticate", message, TOOL_INPUT_BYTES_MAX)?;
        let request = Request::Mac {
            tool: Cow::Borrowed(tool),
            message: Secret(message),
        };
        self.ask(&request, |answer| match answer {
            Answer::Made(mac) => Some(mac),
            _ => None,
        })
    }

    fn sign(
        &mut self,
        tool: &ToolKey,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> HsmResult<Vec<u8>> {
        algorithm.checked(tool, digest)?;
        let request = Request::Sign {
            tool: Cow::Borrowed(tool),
            algorithm,
            digest,
        };
        self.ask(&request, |answer| match answer {
            Answer::Made(signature) => Some(signature),
            _ => None,
        })
    }

    fn import_key(
        &mut self,
        material: &Material,
        into: Option<(&BackingKeyId, &str)>,
    ) -> HsmResult<KeyBlob> {
        within(
            "wrapped material",
            &material.wrapped,
            Material::WRAPPED_BYTES_MAX,
        )?;
        let request = Request::Import {
            material: Cow::Borrowed(material),
            into: into.map(|(id, label)| (*id, label)),
        };
        self.ask(&request, |answer| match answer {
            Answer::Blob(blob) => Some(blob),
            _ => None,
        })
    }

    fn destroy_key(&mut self, id: &BackingKeyId) -> HsmResult<()> {
        self.done(&Request::Destroy(*id))
    }

    fn list_keys(&mut self) -> HsmResult<Vec<BackingKeyId>> {
        self.ask(&Request::ListKeys, |answer| match answer {
            Answer::Ids(ids) => Some(ids),
            _ => None,
        })
    }

    fn random(&mut self, out: &mut [u8]) -> HsmResult<()> {
        self.ask(&Request::Random(out.len()), |answer| match answer {
            Answer::Secret(bytes) if bytes.len() == out.len() => {
                out.copy_from_slice(&bytes);
                Some(())
            }
            _ => None,
        })
    }
}

/// Refused here in the words that every backend has for it.
fn wrap_request<'a>(
    key: &'a BackingKey,
    aad: &'a [u8],
    plaintext: &'a [u8],
    and_unwrap: bool,
) -> HsmResult<Request<'a>> {
    within("plaintext", plaintext, WRAP_PLAINTEXT_BYTES_MAX)?;
    within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
    Ok(Request::Wrap {
        key: Cow::Borrowed(key),
        aad,
        plaintext: Secret(plaintext),
        and_unwrap,
    })
}

fn within(what: &'static str, bytes: &[u8], max: usize) -> HsmResult<()> {
    if bytes.len() > max {
        return Err(HsmError::TooLong {
            what,
            bytes: bytes.len(),
        });
    }
    Ok(())
}
