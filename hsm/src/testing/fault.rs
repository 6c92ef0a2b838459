//! Any token, made to misbehave at a chosen call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{
    BackingKey, BackingKeyId, Canary, HsmError, HsmResult, KeyBlob, Material, Report, SecretBytes,
    Session, SignatureAlgorithm, Token, TokenInfo, ToolKey, ToolProof, ToolSpec, Wrapped,
};

/// The calls a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`Token::open_session`].
    Open,
    /// [`Session::generate_key`].
    Generate,
    /// [`Session::make_canary`].
    MakeCanary,
    /// [`Session::contains`].
    Contains,
    /// [`Session::probe`].
    Probe,
    /// [`Session::wrap`].
    Wrap,
    /// [`Session::unwrap`].
    Unwrap,
    /// [`Session::tool_obstacle`].
    ToolObstacle,
    /// [`Session::generate_tool`].
    GenerateTool,
    /// [`Session::prove_tool`].
    ProveTool,
    /// [`Session::probe_tool`].
    ProbeTool,
    /// [`Session::mac`].
    Mac,
    /// [`Session::sign`].
    Sign,
    /// [`Session::import_key`].
    Import,
    /// [`Session::destroy_key`].
    Destroy,
    /// [`Session::list_keys`].
    List,
    /// [`Session::random`]; heartbeats call it, too.
    Random,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The call takes this much longer, then does what it should.
    Hang(Duration),
    /// The call fails with [`HsmError::Device`], having done nothing.
    Fail,
    /// The call does what it should, and then fails.
    FailAfter,
    /// This call and every later one of the session fail.
    SessionLost,
    /// A wrap or a signature answers with one bit of its last byte flipped.
    Corrupt,
    /// Wrap, unwrap and probe use this key instead, as a module does that has renumbered its handles.
    WrongKey(BackingKey),
    /// The call panics.
    Panic,
}

/// A token that obeys another until told otherwise. Clones share the script.
#[derive(Debug, Clone)]
pub struct FaultToken {
    inner: Arc<dyn Token>,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    /// Calls seen since the start.
    calls: HashMap<Op, u64>,
    /// Call number of the operation, and what befalls it.
    once: Vec<(Op, u64, Fault)>,
    always: Vec<(Op, Fault)>,
}

impl FaultToken {
    /// `inner`, without faults yet.
    pub fn new(inner: Arc<dyn Token>) -> Self {
        Self {
            inner,
            script: Arc::default(),
        }
    }

    /// `fault` strikes the `nth` call of `op` from now on; 1 is the next.
    pub fn once(&self, op: Op, nth: u64, fault: Fault) {
        let number = self.calls(op) + nth;
        self.script().once.push((op, number, fault));
    }

    /// `fault` strikes every call of `op` until [`FaultToken::heal`].
    pub fn always(&self, op: Op, fault: Fault) {
        self.script().always.push((op, fault));
    }

    /// Forgets all faults to come.
    pub fn heal(&self) {
        let mut script = self.script();
        script.once.clear();
        script.always.clear();
    }

    /// How often `op` has been called.
    pub fn calls(&self, op: Op) -> u64 {
        self.script().calls.get(&op).copied().unwrap_or_default()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strike(&self, op: Op) -> Option<Fault> {
        let mut script = self.script();
        let calls = script.calls.entry(op).or_default();
        *calls += 1;
        let number = *calls;
        let due = script
            .once
            .iter()
            .position(|(at, nth, _)| *at == op && *nth == number);
        if let Some(index) = due {
            return Some(script.once.swap_remove(index).2);
        }
        script
            .always
            .iter()
            .find(|(at, _)| *at == op)
            .map(|(_, fault)| fault.clone())
    }
}

impl Token for FaultToken {
    fn open_session(&self) -> HsmResult<Box<dyn Session>> {
        let fault = self.strike(Op::Open);
        before(fault.as_ref())?;
        let inner = self.inner.open_session()?;
        after(fault.as_ref())?;
        Ok(Box::new(FaultSession {
            token: self.clone(),
            inner,
            lost: false,
        }))
    }

    fn info(&self) -> HsmResult<TokenInfo> {
        self.inner.info()
    }

    fn report(&self) -> HsmResult<Report> {
        self.inner.report()
    }
}

struct FaultSession {
    token: FaultToken,
    inner: Box<dyn Session>,
    lost: bool,
}

impl FaultSession {
    fn call<T>(
        &mut self,
        op: Op,
        work: impl FnOnce(&mut dyn Session, Option<&Fault>) -> HsmResult<T>,
    ) -> HsmResult<T> {
        let fault = self.token.strike(op);
        self.lost |= matches!(fault, Some(Fault::SessionLost));
        if self.lost {
            return Err(device("the session is lost"));
        }
        before(fault.as_ref())?;
        let answer = work(self.inner.as_mut(), fault.as_ref())?;
        after(fault.as_ref())?;
        Ok(answer)
    }
}

impl Session for FaultSession {
    fn generate_key(&mut self, id: &BackingKeyId, label: &str) -> HsmResult<KeyBlob> {
        self.call(Op::Generate, |inner, _fault| inner.generate_key(id, label))
    }

    fn make_canary(&mut self, id: &BackingKeyId, blob: &KeyBlob) -> HsmResult<Canary> {
        self.call(Op::MakeCanary, |inner, _fault| inner.make_canary(id, blob))
    }

    fn contains(&mut self, id: &BackingKeyId) -> HsmResult<bool> {
        self.call(Op::Contains, |inner, _fault| inner.contains(id))
    }

    fn probe(&mut self, key: &BackingKey) -> HsmResult<()> {
        self.call(Op::Probe, |inner, fault| inner.probe(used(fault, key)))
    }

    fn wrap(&mut self, key: &BackingKey, aad: &[u8], plaintext: &[u8]) -> HsmResult<Wrapped> {
        self.call(Op::Wrap, |inner, fault| {
            let wrapped = inner.wrap(used(fault, key), aad, plaintext)?;
            match fault {
                Some(Fault::Corrupt) => corrupted(&wrapped),
                _ => Ok(wrapped),
            }
        })
    }

    fn unwrap(
        &mut self,
        key: &BackingKey,
        aad: &[u8],
        wrapped: &Wrapped,
    ) -> HsmResult<SecretBytes> {
        self.call(Op::Unwrap, |inner, fault| {
            inner.unwrap(used(fault, key), aad, wrapped)
        })
    }

    fn tool_obstacle(&mut self, spec: ToolSpec) -> HsmResult<Option<String>> {
        self.call(Op::ToolObstacle, |inner, _fault| inner.tool_obstacle(spec))
    }

    fn generate_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        label: &str,
    ) -> HsmResult<KeyBlob> {
        self.call(Op::GenerateTool, |inner, _fault| {
            inner.generate_tool(id, spec, label)
        })
    }

    fn prove_tool(
        &mut self,
        id: &BackingKeyId,
        spec: ToolSpec,
        blob: &KeyBlob,
    ) -> HsmResult<ToolProof> {
        self.call(Op::ProveTool, |inner, _fault| {
            inner.prove_tool(id, spec, blob)
        })
    }

    fn probe_tool(&mut self, tool: &ToolKey) -> HsmResult<()> {
        self.call(Op::ProbeTool, |inner, _fault| inner.probe_tool(tool))
    }

    fn mac(&mut self, tool: &ToolKey, message: &[u8]) -> HsmResult<Vec<u8>> {
        self.call(Op::Mac, |inner, _fault| inner.mac(tool, message))
    }

    fn sign(
        &mut self,
        tool: &ToolKey,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> HsmResult<Vec<u8>> {
        self.call(Op::Sign, |inner, fault| {
            let mut signature = inner.sign(tool, algorithm, digest)?;
            if let (Some(Fault::Corrupt), Some(last)) = (fault, signature.last_mut()) {
                *last ^= 1;
            }
            Ok(signature)
        })
    }

    fn import_key(
        &mut self,
        material: &Material,
        into: Option<(&BackingKeyId, &str)>,
    ) -> HsmResult<KeyBlob> {
        self.call(Op::Import, |inner, _fault| inner.import_key(material, into))
    }

    fn destroy_key(&mut self, id: &BackingKeyId) -> HsmResult<()> {
        self.call(Op::Destroy, |inner, _fault| inner.destroy_key(id))
    }

    fn list_keys(&mut self) -> HsmResult<Vec<BackingKeyId>> {
        self.call(Op::List, |inner, _fault| inner.list_keys())
    }

    fn random(&mut self, out: &mut [u8]) -> HsmResult<()> {
        self.call(Op::Random, |inner, _fault| inner.random(out))
    }
}

fn before(fault: Option<&Fault>) -> HsmResult<()> {
    match fault {
        Some(Fault::Hang(duration)) => std::thread::sleep(*duration),
        Some(Fault::Fail) => return Err(device("a fault was injected")),
        Some(Fault::Panic) => panic!("a panic was injected"),
        _ => {}
    }
    Ok(())
}

fn after(fault: Option<&Fault>) -> HsmResult<()> {
    match fault {
        Some(Fault::FailAfter) => Err(device("a fault was injected after the deed")),
        _ => Ok(()),
    }
}

fn used<'k>(fault: Option<&'k Fault>, key: &'k BackingKey) -> &'k BackingKey {
    match fault {
        Some(Fault::WrongKey(other)) => other,
        _ => key,
    }
}

fn corrupted(wrapped: &Wrapped) -> HsmResult<Wrapped> {
    let mut bytes = wrapped.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    Wrapped::from_bytes(&bytes)
}

fn device(what: &'static str) -> HsmError {
    HsmError::Device {
        function: "FaultToken",
        source: what.into(),
    }
}
