//! Several tokens that hold the same backing keys, seen as one.
//!
//! Makers of HSMs clone keys from one token to others (high-availability groups, cloning domains, backups restored
//! into a second device). A group spreads calls over such members, passes over a member that is out of order, and
//! uses it again once it answers. Cloning itself is the maker's: a new key is made in one member and becomes usable
//! only when its canary opens in as many members as [`GroupSettings::quorum`] says.
//!
//! A member's word about a caller's data ([`HsmError::Unauthentic`]) is final. Everything else that it says against
//! itself or about a key that it does not hold sends the call to the next member.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::handle::same_bytes;
use crate::{
    BackingKey, BackingKeyId, Health, HsmError, HsmHandle, HsmResult, Material, Report,
    SecretBytes, SignatureAlgorithm, State, TokenInfo, ToolKey, ToolSpec, Wrapped,
};

/// How long a wait for clones pauses between two looks.
const CLONE_POLL: Duration = Duration::from_millis(200);

/// How a group makes keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// Members in which a new key's canary must open before the key is used: 1 to the number of members.
    ///
    /// The members must be different devices. One device that is a member twice counts twice, and nothing here can
    /// see that: clones may share label and serial number.
    pub quorum: usize,
    /// How long the makers' cloning may take. [`GroupSettings::CLONE_WAIT_MAX`] at most.
    pub clone_wait: Duration,
}

impl GroupSettings {
    /// The longest wait for clones: a caller of `kms:CreateKey` waits as long.
    pub const CLONE_WAIT_MAX: Duration = Duration::from_mins(1);
}

/// Tokens that hold the same backing keys. Clones are the same group.
#[derive(Clone)]
pub struct HsmGroup {
    members: Arc<[HsmHandle]>,
    settings: GroupSettings,
    /// Where the next call begins.
    turn: Arc<AtomicUsize>,
}

impl From<HsmHandle> for HsmGroup {
    fn from(only: HsmHandle) -> Self {
        Self {
            members: [only].into(),
            settings: GroupSettings {
                quorum: 1,
                clone_wait: Duration::ZERO,
            },
            turn: Arc::default(),
        }
    }
}

/// What was made in one member.
#[derive(Clone, Copy)]
enum Made<'a> {
    Key(&'a BackingKey),
    Tool(&'a ToolKey),
}

impl Made<'_> {
    async fn prove_in(self, member: &HsmHandle) -> HsmResult<()> {
        match self {
            Self::Key(key) => member.probe(key).await,
            Self::Tool(tool) => member.probe_tool(tool).await,
        }
    }
}

impl HsmGroup {
    /// The most members of a group.
    pub const MEMBERS_MAX: usize = 16;

    /// A group of these members.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] for no members or too many, a quorum that they cannot reach, or too long a wait.
    pub fn new(members: Vec<HsmHandle>, settings: GroupSettings) -> HsmResult<Self> {
        if !(1..=Self::MEMBERS_MAX).contains(&members.len()) {
            return Err(HsmError::Config(format!(
                "a group has 1 to {} members, not {}",
                Self::MEMBERS_MAX,
                members.len()
            )));
        }
        if !(1..=members.len()).contains(&settings.quorum) {
            return Err(HsmError::Config(format!(
                "quorum must be 1 to {}, the number of members, not {}",
                members.len(),
                settings.quorum
            )));
        }
        if settings.clone_wait > GroupSettings::CLONE_WAIT_MAX {
            return Err(HsmError::Config(format!(
                "the wait for clones must be at most {:?}",
                GroupSettings::CLONE_WAIT_MAX
            )));
        }
        Ok(Self {
            members: members.into(),
            settings,
            turn: Arc::default(),
        })
    }

    /// Makes a backing key in one member, and waits until its canary opens in a quorum of them. As
    /// [`HsmHandle::generate_key`].
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::generate_key`]; [`HsmError::Unavailable`] when the key did not reach the quorum in time: it is
    /// destroyed again where it was made.
    pub async fn generate_key(&self, id: BackingKeyId, label: &str) -> HsmResult<BackingKey> {
        // Never repeated in another member: after an error the key may exist in the first.
        let Some(maker) = self.in_turn().next() else {
            return Err(nobody());
        };
        let key = maker.generate_key(id, label).await?;
        if let Err(missing) = self.await_clones(id, Made::Key(&key)).await {
            if let Err(error) = self.destroy_key(id).await {
                tracing::warn!(event = "hsm.group.not_destroyed", backing_key = %id, %error);
            }
            return Err(missing);
        }
        Ok(key)
    }

    /// Waits until as many members as the quorum hold what was made.
    async fn await_clones(&self, id: BackingKeyId, made: Made<'_>) -> HsmResult<()> {
        let quorum = self.settings.quorum;
        let give_up = Instant::now() + self.settings.clone_wait;
        loop {
            let mut holders = 0;
            for member in self.members.iter() {
                holders += usize::from(made.prove_in(member).await.is_ok());
                if holders >= quorum {
                    return Ok(());
                }
            }
            if Instant::now() + CLONE_POLL > give_up {
                return Err(HsmError::Unavailable {
                    reason: format!(
                        "backing key {} reached {holders} members of the group, and not {quorum}, within {:?}",
                        id, self.settings.clone_wait
                    ),
                    source: None,
                });
            }
            tokio::time::sleep(CLONE_POLL).await;
        }
    }

    /// Why no member can make or use tools of this kind, if none can: what the last member says.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::tool_obstacle`], when no member can and one does not answer.
    pub async fn tool_obstacle(&self, spec: ToolSpec) -> HsmResult<Option<String>> {
        let mut obstacle = Err(nobody());
        for member in self.members.iter() {
            match (member.tool_obstacle(spec).await, &obstacle) {
                (Ok(None), _) => return Ok(None),
                (Ok(Some(reason)), _) => obstacle = Ok(Some(reason)),
                (Err(error), Err(_)) => obstacle = Err(error),
                (Err(_unheard), Ok(_)) => {}
            }
        }
        obstacle
    }

    /// Makes a tool in one member, and waits until it proves itself in a quorum of them.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::generate_tool`] and [`HsmGroup::generate_key`].
    pub async fn generate_tool(
        &self,
        id: BackingKeyId,
        spec: ToolSpec,
        label: &str,
    ) -> HsmResult<ToolKey> {
        // Never repeated in another member: after an error the key may exist in the first.
        let Some(maker) = self.in_turn().next() else {
            return Err(nobody());
        };
        let tool = maker.generate_tool(id, spec, label).await?;
        // A pair that unwraps lives for a day, and is used where it was made.
        if !spec.is_passing()
            && let Err(missing) = self.await_clones(id, Made::Tool(&tool)).await
        {
            if let Err(error) = self.destroy_key(id).await {
                tracing::warn!(event = "hsm.group.not_destroyed", backing_key = %id, %error);
            }
            return Err(missing);
        }
        Ok(tool)
    }

    /// Imports a backing key in the member that has the unwrapping tool, and waits until its canary opens in a quorum of
    /// them.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::import_key`] and [`HsmGroup::generate_key`].
    pub async fn import_key(
        &self,
        material: &Material,
        id: BackingKeyId,
        label: &str,
    ) -> HsmResult<BackingKey> {
        let member = self.holder(&material.unwrapper).await?;
        let key = member.import_key(material.clone(), id, label).await?;
        if let Err(missing) = self.await_clones(id, Made::Key(&key)).await {
            if let Err(error) = self.destroy_key(id).await {
                tracing::warn!(event = "hsm.group.not_destroyed", backing_key = %id, %error);
            }
            return Err(missing);
        }
        Ok(key)
    }

    /// As [`HsmHandle::check_material`], in the member that has the unwrapping tool.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::check_material`].
    pub async fn check_material(&self, material: &Material) -> HsmResult<()> {
        let member = self.holder(&material.unwrapper).await?;
        member.check_material(material.clone()).await
    }

    /// The member in which `tool` proves itself.
    async fn holder(&self, tool: &ToolKey) -> HsmResult<&HsmHandle> {
        let mut last = nobody();
        for member in self.in_turn() {
            match member.probe_tool(tool).await {
                Ok(()) => return Ok(member),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// As [`HsmHandle::mac`], by the first member in turn that can.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::mac`], of the last member that was asked.
    pub async fn mac(&self, tool: &ToolKey, message: &[u8]) -> HsmResult<Vec<u8>> {
        let mut last = nobody();
        for member in self.in_turn() {
            match member.mac(tool, Zeroizing::new(message.to_vec())).await {
                Err(error) if another_may(&error) => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Whether `mac` is the MAC of `message`: made again in a token, and compared in a time that does not tell where they
    /// differ.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::mac`], of the last member that was asked.
    pub async fn verify_mac(&self, tool: &ToolKey, message: &[u8], mac: &[u8]) -> HsmResult<bool> {
        let right = self.mac(tool, message).await?;
        Ok(same_bytes(&right, mac))
    }

    /// As [`HsmHandle::sign`], by the first member in turn that can.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::sign`], of the last member that was asked.
    pub async fn sign(
        &self,
        tool: &ToolKey,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
    ) -> HsmResult<Vec<u8>> {
        let mut last = nobody();
        for member in self.in_turn() {
            match member.sign(tool, algorithm, digest.to_vec()).await {
                Err(error) if another_may(&error) => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// As [`HsmHandle::wrap`], by the first member in turn that can.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::wrap`], of the last member that was asked.
    pub async fn wrap(
        &self,
        key: &BackingKey,
        aad: Vec<u8>,
        plaintext: SecretBytes,
    ) -> HsmResult<Wrapped> {
        if let [only] = &*self.members {
            return only.wrap(key, aad, plaintext).await;
        }
        let mut last = nobody();
        for member in self.in_turn() {
            match member.wrap(key, aad.clone(), plaintext.duplicate()).await {
                Err(error) if another_may(&error) => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// As [`HsmHandle::unwrap`], by the first member in turn that can.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::unwrap`], of the last member that was asked.
    pub async fn unwrap(
        &self,
        key: &BackingKey,
        aad: Vec<u8>,
        wrapped: Wrapped,
    ) -> HsmResult<SecretBytes> {
        let mut last = nobody();
        for member in self.in_turn() {
            match member.unwrap(key, aad.clone(), wrapped.clone()).await {
                Err(error) if another_may(&error) => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Destroys a backing key in every member.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::destroy_key`], of the first member that failed; the others are asked all the same.
    pub async fn destroy_key(&self, id: BackingKeyId) -> HsmResult<()> {
        let mut outcome = Ok(());
        for member in self.members.iter() {
            outcome = outcome.and(member.destroy_key(id).await);
        }
        outcome
    }

    /// Whether any member holds an object with this identity.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::contains`], when no member says yes and one does not answer.
    pub async fn contains(&self, id: BackingKeyId) -> HsmResult<bool> {
        let mut outcome = Ok(false);
        for member in self.members.iter() {
            match member.contains(id).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Whether every backing key of `keys` opens its canary in the quorum of members that new keys need.
    ///
    /// # Errors
    ///
    /// Of the first key that does not. That it is not there, or is another key, is answered only when every member that
    /// does not hold it says so: one that does not answer may hold it.
    pub async fn holds(&self, keys: &[BackingKey]) -> HsmResult<()> {
        for key in keys {
            self.in_quorum(Made::Key(key)).await?;
        }
        Ok(())
    }

    /// Whether `tool` proves itself in the quorum of members that new keys need; one that serves for a day, in a member.
    ///
    /// # Errors
    ///
    /// As [`HsmGroup::holds`]; of one that serves for a day, of the last member that does not hold it.
    pub async fn holds_tool(&self, tool: &ToolKey) -> HsmResult<()> {
        if tool.spec.is_passing() {
            return self.holder(tool).await.map(|_member| ());
        }
        self.in_quorum(Made::Tool(tool)).await
    }

    async fn in_quorum(&self, made: Made<'_>) -> HsmResult<()> {
        let (mut holders, mut missing) = (0, None);
        for member in self.members.iter() {
            match made.prove_in(member).await {
                Ok(()) => holders += 1,
                Err(error) => missing = Some(less_certain(missing, error)),
            }
        }
        if holders < self.settings.quorum {
            return Err(missing.unwrap_or_else(nobody));
        }
        Ok(())
    }

    /// Describes the first member that answers.
    ///
    /// # Errors
    ///
    /// As [`HsmHandle::info`], of the last member.
    pub async fn info(&self) -> HsmResult<TokenInfo> {
        let mut last = nobody();
        for member in self.in_turn() {
            match member.info().await {
                Err(error) if another_may(&error) => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Describes every member, or says why it does not answer, in the order of the configuration.
    pub async fn infos(&self) -> Vec<HsmResult<TokenInfo>> {
        let mut infos = Vec::with_capacity(self.members.len());
        for member in self.members.iter() {
            infos.push(member.info().await);
        }
        infos
    }

    /// Describes every member and reports on it, or says why it does not answer, in the order of the configuration. As
    /// [`HsmHandle::report`].
    pub async fn reports(&self) -> Vec<HsmResult<(TokenInfo, Report)>> {
        let mut reports = Vec::with_capacity(self.members.len());
        for member in self.members.iter() {
            reports.push(member.report().await);
        }
        reports
    }

    /// How each member fares, in the order of the configuration. Never enters a module.
    pub fn health(&self) -> Vec<Health> {
        self.members.iter().map(HsmHandle::health).collect()
    }

    /// How the group fares: as its best member. Never enters a module.
    pub fn state(&self) -> State {
        let states = self.health().into_iter().map(|health| health.state);
        states
            .min_by_key(|state| match state {
                State::Ready => 0,
                State::Unknown => 1,
                State::Down => 2,
                State::Hung => 3,
            })
            .unwrap_or(State::Unknown)
    }

    /// As [`HsmHandle::shutdown`], of all members at the same time.
    pub async fn shutdown(&self) {
        let mut endings = tokio::task::JoinSet::new();
        for member in self.members.iter() {
            let member = member.clone();
            endings.spawn(async move { member.shutdown().await });
        }
        while endings.join_next().await.is_some() {}
    }

    /// Members in the order to ask them: those that are well before those that are not, each call beginning with
    /// another one.
    fn in_turn(&self) -> impl Iterator<Item = &HsmHandle> {
        let count = self.members.len();
        let first = if count > 1 {
            self.turn.fetch_add(1, Ordering::Relaxed) % count
        } else {
            0
        };
        let (head, tail) = self.members.split_at(first);
        let mut order: Vec<_> = tail.iter().chain(head).collect();
        if count > 1 {
            order.sort_by_key(|member| member.health().state != State::Ready);
        }
        order.into_iter()
    }
}

impl fmt::Debug for HsmGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HsmGroup")
            .field("members", &self.members.len())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Whether another member may do what this one could not.
fn another_may(error: &HsmError) -> bool {
    !matches!(
        error,
        HsmError::Unauthentic | HsmError::TooLong { .. } | HsmError::Random(_)
    )
}

/// Of what members say that do not hold a key, what leaves open whether it is there.
fn less_certain(known: Option<HsmError>, said: HsmError) -> HsmError {
    match known {
        None | Some(HsmError::KeyNotFound(_) | HsmError::Unfit { .. }) => said,
        Some(open) => open,
    }
}

fn nobody() -> HsmError {
    HsmError::Unavailable {
        reason: "the group has no member".into(),
        source: None,
    }
}
