//! One session: a share in the conversation.

use std::sync::Arc;

use super::Shared;
use crate::{
    BackingKey, BackingKeyId, Canary, HsmError, HsmResult, KeyBlob, Material, SecretBytes, Session,
    SignatureAlgorithm, ToolKey, ToolProof, ToolSpec, WRAP_AAD_BYTES_MAX, WRAP_PLAINTEXT_BYTES_MAX,
    Wrapped,
};

/// Why there are no tools here: a TPM's keys are sealed objects under a storage key, which wraps and does nothing else.
const NO_TOOLS: &str = "a TPM 2.0 keeps keys that wrap, and no others";

/// A share in the one conversation with the TPM. It holds nothing of its own: what is loaded is the conversation's.
#[derive(Debug)]
pub(super) struct TpmSession {
    shared: Arc<Shared>,
}

impl TpmSession {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Session for TpmSession {
    fn generate_key(&mut self, id: &BackingKeyId, _label: &str) -> HsmResult<KeyBlob> {
        let shared = &self.shared;
        shared.with(|connection| {
            shared.warn_if_not_pinned(connection);
            connection.generate(id, &shared.settings)
        })
    }

    fn make_canary(&mut self, id: &BackingKeyId, blob: &KeyBlob) -> HsmResult<Canary> {
        self.shared
            .with(|connection| connection.make_canary(id, blob))
    }

    fn contains(&mut self, id: &BackingKeyId) -> HsmResult<bool> {
        let ids = self.list_keys()?;
        Ok(ids.contains(id))
    }

    fn probe(&mut self, key: &BackingKey) -> HsmResult<()> {
        self.shared.with(|connection| connection.probe(key))
    }

    fn wrap(&mut self, key: &BackingKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        within("plaintext", plaintext, WRAP_PLAINTEXT_BYTES_MAX)?;
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        self.shared
            .with(|connection| connection.wrap(key, aad, plaintext))
    }

    fn unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<SecretBytes> {
        within("AAD", aad, WRAP_AAD_BYTES_MAX)?;
        self.shared
            .with(|connection| connection.unwrap(key, aad, wrapped))
    }

    fn tool_obstacle(&mut self, _spec: ToolSpec) -> HsmResult<Option<String>> {
        Ok(Some(NO_TOOLS.into()))
    }

    fn generate_tool(
        &mut self,
        _id: &BackingKeyId,
        _spec: ToolSpec,
        _label: &str,
    ) -> HsmResult<KeyBlob> {
        Err(no_tools())
    }

    fn prove_tool(
        &mut self,
        _id: &BackingKeyId,
        _spec: ToolSpec,
        _blob: &KeyBlob,
    ) -> HsmResult<ToolProof> {
        Err(no_tools())
    }

    fn probe_tool(&mut self, _tool: &ToolKey) -> HsmResult<()> {
        Err(no_tools())
    }

    fn mac(&mut self, _tool: &ToolKey, _message: &[u8]) -> HsmResult<Vec<u8>> {
        Err(no_tools())
    }

    fn sign(
        &mut self,
        _tool: &ToolKey,
        _algorithm: SignatureAlgorithm,
        _digest: &[u8],
    ) -> HsmResult<Vec<u8>> {
        Err(no_tools())
    }

    fn import_key(
        &mut self,
        _material: &Material,
        _into: Option<(&BackingKeyId, &str)>,
    ) -> HsmResult<KeyBlob> {
        Err(no_tools())
    }

    fn destroy_key(&mut self, id: &BackingKeyId) -> HsmResult<()> {
        self.shared.with(|connection| connection.destroy(id))
    }

    fn list_keys(&mut self) -> HsmResult<Vec<BackingKeyId>> {
        self.shared.with(|connection| {
            let counters = connection.counters()?;
            Ok(counters.into_iter().map(|(_, id)| id).collect())
        })
    }

    fn random(&mut self, out: &mut [u8]) -> HsmResult<()> {
        self.shared.with(|connection| connection.random(out))
    }
}

fn no_tools() -> HsmError {
    HsmError::Unsupported(NO_TOOLS.into())
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
