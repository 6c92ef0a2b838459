//! Wiring: HSM, records, blobs, KMS, store, front ends; one listener; maintenance; an orderly end.
//!
//! Nothing here needs the HSM to start. What needs a key fails until the token is there, and heals by itself.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::audit::{Audit, AuditSettings};
use crate::auth::sigv4::Verifier;
use crate::blob::FsBlobs;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Limits};
use crate::iam::Iam;
use crate::kms::{
    Kms, KmsSettings, TokenGroups, WRAP_COUNT_BLOCK_DEFAULT, WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
    audited_chain,
};
use crate::meta::{Meta, RedbMeta};
use crate::s3::Front;
use crate::store::{DependantIndex, Store};

mod body;
mod endpoint;
mod health;
mod metrics;
mod refusals;
mod stream;
pub mod tokens;

use endpoint::Endpoint;
use stream::TimedStream;

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 128;
/// Shortest time for calls whose connections were ended.
const CALLS_WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait until the last uses of keys are written.
const LAST_USES_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the audit's last checkpoint.
const AUDIT_END_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted, for want of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Operator: the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Configuration.
    #[error("configuration")]
    Config(#[source] ConfigError),
    /// The data directory, the records or the blobs.
    #[error("{what} in {path}")]
    Data {
        /// What.
        what: &'static str,
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The workers of the HSM.
    #[error("HSM")]
    Hsm(#[source] strongroom_hsm::HsmError),
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    endpoint: Arc<Endpoint>,
    parts: Parts,
    limits: Limits,
    maintenance: Duration,
}

/// What a server is made of: for maintenance, and for tests that look inside.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where backing keys are.
    pub groups: TokenGroups,
    /// Keys.
    pub kms: Arc<Kms>,
    /// Identities.
    pub iam: Arc<Iam>,
    /// Objects.
    pub store: Store,
    /// Records.
    pub meta: Arc<dyn Meta>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

impl Server {
    /// Opens everything and listens.
    ///
    /// # Errors
    ///
    /// [`StartError`]; an absent token is none.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let accounts = config.read_accounts().map_err(StartError::Config)?;
        let meta_path = config.data_dir.join("meta.redb");
        let meta = RedbMeta::open(&meta_path).map_err(data_error("metadata store", &meta_path))?;
        let meta: Arc<dyn Meta> = Arc::new(meta);
        let blob_path = config.data_dir.join("blobs");
        let blobs =
            Arc::new(FsBlobs::open(&blob_path).map_err(data_error("blob store", &blob_path))?);
        let groups = tokens::start_groups(&config).map_err(StartError::Hsm)?;
        let settings = KmsSettings {
            account: config.account.clone(),
            region: config.regions.first().cloned().unwrap_or_default(),
            wraps_per_backing_key_max: WRAPS_PER_BACKING_KEY_MAX_DEFAULT,
            wrap_count_block: WRAP_COUNT_BLOCK_DEFAULT,
            keys_per_account_max: config.keys_per_account_max,
        };
        let dependants = Arc::new(DependantIndex::new(Arc::clone(&meta)));
        let kms = Kms::new(
            Arc::clone(&meta),
            groups.clone(),
            Arc::clone(&clock),
            settings,
        );
        let kms = kms.with_dependants(dependants, config.refuse_deletion_while_in_use);
        let kms = Arc::new(audited(kms, meta.as_ref(), config.audit, &clock).await?);
        kms.recover()
            .await
            .map_err(data_error("keys", &meta_path))?;
        let store = Store::new(
            Arc::clone(&meta),
            blobs,
            Arc::clone(&kms),
            Arc::clone(&clock),
            config.store.clone(),
        );
        store
            .seal_old_buckets()
            .await
            .map_err(data_error("buckets", &meta_path))?;
        store
            .build_index()
            .await
            .map_err(data_error("index of dependants", &meta_path))?;
        // The lock on the metadata file says that nobody else writes here: what is pending is a dead process's.
        let collected = store
            .collect_after_restart()
            .await
            .map_err(data_error("pending blobs", &blob_path))?;
        if collected > 0 {
            info!(
                event = "server.collected",
                blobs = collected,
                "deleted what an earlier process left unfinished"
            );
        }
        let iam = Arc::new(Iam::new(Arc::clone(&kms), Arc::clone(&clock), accounts));
        let identities: Weak<Iam> = Arc::downgrade(&iam);
        kms.identify_by(identities);
        let verifier = Verifier::new(config.regions.clone(), Arc::clone(&clock));
        let owners = iam.accounts().all().map(|account| {
            let names = (account.canonical_id.clone(), account.display_name.clone());
            (account.id.clone(), names)
        });
        let owners = owners.collect();
        let front = Front::new(store.clone(), Arc::clone(&kms), config.regions, owners);
        let endpoint = Endpoint::new(
            verifier,
            front,
            (Arc::clone(&kms), Arc::clone(&iam)),
            groups.clone(),
            config.limits,
            clock,
        );
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: config.listen,
                    source,
                })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;
        Ok(Self {
            listener,
            address,
            endpoint: Arc::new(endpoint),
            parts: Parts {
                groups,
                kms,
                iam,
                store,
                meta,
            },
            limits: config.limits,
            maintenance: config.maintenance,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is made of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Serves until `stop`; then takes no more, and waits for what is under way.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        info!(event = "server.listening", address = %self.address);
        let endpoint = Arc::clone(&self.endpoint);
        let maintenance = maintain(self.parts.clone(), endpoint, self.maintenance);
        let maintenance = tokio::spawn(maintenance);
        let kms = Arc::clone(&self.parts.kms);
        let checkpoints = tokio::spawn(async move { kms.keep_audit().await });
        let kms = Arc::clone(&self.parts.kms);
        let last_uses = tokio::spawn(async move { kms.keep_last_uses().await });
        // As above: nobody else runs what is under way.
        let rewraps = tokio::spawn(self.parts.store.clone().run_rewraps(true));
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let place = tokio::select! {
                () = &mut stop => break,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
                Some(_ended) = connections.join_next() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(event = "server.accept", %error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = self.connection(stream, peer);
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = connection.await {
                    debug!(event = "server.connection", %peer, %error);
                }
            });
        }
        info!(event = "server.stopping", connections = connections.len());
        maintenance.abort();
        rewraps.abort();
        let deadline = Instant::now() + self.limits.shutdown;
        if tokio::time::timeout_at(deadline, graceful.shutdown())
            .await
            .is_err()
        {
            warn!(
                event = "server.shutdown_timeout",
                connections = connections.len()
            );
        }
        connections.shutdown().await;
        // Of callers that have gone, and of those whose connections were ended just now.
        let deadline = deadline.max(Instant::now() + CALLS_WAIT_MIN);
        if tokio::time::timeout_at(deadline, self.endpoint.end_calls())
            .await
            .is_err()
        {
            warn!(event = "server.shutdown_timeout", "calls are under way");
        }
        checkpoints.abort();
        last_uses.abort();
        match tokio::time::timeout(LAST_USES_WAIT_MAX, self.parts.kms.write_last_uses()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(event = "kms.last_use.not_written", %error),
            Err(_elapsed) => warn!(event = "kms.last_use.not_written", "it takes too long"),
        }
        self.endpoint.end_refusals().await;
        match tokio::time::timeout(AUDIT_END_WAIT_MAX, self.parts.kms.end_audit()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(event = "audit.not_ended", %error),
            Err(_elapsed) => warn!(
                event = "audit.not_ended",
                "the last checkpoint takes too long"
            ),
        }
        self.parts.groups.shutdown().await;
        info!(event = "server.stopped");
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + 'static
    {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(event = "server.nodelay", %error);
        }
        let service = TowerToHyperService::new(Arc::clone(&self.endpoint).router(peer));
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(
                TokioIo::new(TimedStream::new(stream, self.limits.body_timeout)),
                service,
            )
    }
}

/// With its audit, if it has one.
async fn audited(
    kms: Kms,
    meta: &dyn Meta,
    settings: Option<AuditSettings>,
    clock: &Arc<dyn Clock>,
) -> Result<Kms, StartError> {
    let Some(settings) = settings else {
        warn!(
            event = "audit.disabled",
            "nothing is recorded of the use of keys"
        );
        return Ok(kms);
    };
    let dir = settings.dir.clone();
    let (server, head) = audited_chain(meta)
        .await
        .map_err(data_error("audit", &dir))?;
    let audit = Audit::open(server, head, settings, Arc::clone(clock));
    let audit = audit.map_err(data_error("audit", &dir))?;
    Ok(kms.with_audit(Arc::new(audit)))
}

fn data_error<E>(what: &'static str, path: &Path) -> impl FnOnce(E) -> StartError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| StartError::Data {
        what,
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// What is done by the clock: garbage, due deletions of keys, due rotations.
async fn maintain(parts: Parts, endpoint: Arc<Endpoint>, pause: Duration) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        endpoint.tell_refusals().await;
        if let Err(error) = parts.store.collect_garbage().await {
            error!(event = "maintenance.garbage", %error);
        }
        if let Err(error) = parts.kms.destroy_due_keys().await {
            warn!(event = "maintenance.destroy", %error);
        }
        if let Err(error) = parts.kms.rotate_due_keys().await {
            warn!(event = "maintenance.rotate", %error);
        }
    }
}
