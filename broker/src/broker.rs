//! The broker as a whole: builds its parts, owns their lives, stops them in order.
//!
//! Start: the store first, since it holds the directory against other brokers; then what is kept beside it; then the
//! listeners; then the name servers are told. Stop: the name servers are told first, so that producers go elsewhere while
//! what is in flight is still answered; then the listeners; then everything that is kept is written; the store last.
//! Apache: `BrokerController`.

mod open;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use agena_protocol::bodies::topic_config::PERM_WRITE;
use agena_protocol::clock::Clock;
use agena_protocol::message_id::UniqueIds;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::queue::QueueId;
use agena_protocol::topic;
use agena_remoting::error::BindError;
use agena_remoting::server::Server;
use agena_store::medium::DiskMedium;
#[cfg(feature = "temp")]
use agena_store::medium::Medium;
use agena_store::{Dispatched, Expiry, Going, Observer, Store, StoreError};
use thiserror::Error;
use tokio::sync::{Notify, watch};

use crate::admin::assignment::RequestModes;
use crate::admin::broker::ColdReadThresholds;
use crate::backlog::Pace;
use crate::config::{BrokerConfig, ConfigCell, ConfigError, UpdateError};
use crate::dedup::Dedup;
use crate::delay::Delay;
use crate::groups::Groups;
use crate::hold::{Arrival, Hold};
use crate::offsets::{self, Offsets};
use crate::order_locks::OrderLocks;
use crate::pool::Pool;
use crate::pull;
use crate::registration::Registration;
use crate::reset_history::ResetHistory;
use crate::sessions::Sessions;
use crate::snapshot_files::{Saver, SnapshotError};
use crate::stats::Stats;
use crate::topics::Topics;
use crate::transaction::{self, Transactions};
use crate::unread;

pub(crate) use open::start;

/// How long answers that are owed may take at a stop.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Name servers hear of a change of the write permission at most so often.
const PERMISSION_PAUSE: Duration = Duration::from_millis(200);

/// Pause between looks at what became old: silent clients, expired locks, the turn of the day.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(10);

/// Who this broker is to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: String,
    /// Its name, which replicas share.
    pub name: String,
    /// Its number under that name; 0 is the master.
    pub id: i64,
    /// Where clients are told to find it, and what message ids contain.
    pub advertised: SocketAddr,
}

/// Why a broker did not start. One line for an operator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is none.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store did not open: damage, or another broker holds the directory.
    #[error("the store did not open: {0}")]
    Store(#[from] StoreError),
    /// A file under `config/` did not read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A port is in use, or the address is not this machine's.
    #[error("cannot listen on {}: {}", .0.address, .0.source)]
    Bind(BindError),
    /// The system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The parts of a broker. Each has its own locks; none calls another under one.
pub struct Broker {
    pub(crate) identity: Identity,
    pub(crate) config: ConfigCell,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<Store>,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) sessions: Sessions,
    pub(crate) offsets: Offsets,
    pub(crate) reset_history: ResetHistory,
    pub(crate) order_locks: OrderLocks,
    pub(crate) hold: Arc<Hold>,
    pub(crate) delay: Arc<Delay>,
    pub(crate) transactions: Transactions,
    pub(crate) dedup: Arc<Dedup>,
    pub(crate) stats: Stats,
    pub(crate) registration: Arc<Registration>,
    pub(crate) request_modes: RequestModes,
    pub(crate) cold_read_thresholds: ColdReadThresholds,
    pub(crate) unique_ids: UniqueIds,
    /// How fast consumers with a backlog are served.
    pub(crate) backlog_pace: Pace,
    /// Threads for cold reads, and others for operators, so that neither waits for the other.
    pub(crate) readers: Pool,
    pub(crate) clerks: Pool,
    pub(crate) runtime: tokio::runtime::Handle,
    /// SYNC_FLUSH: answers to sends wait for the device unless the producer says otherwise. Fixed at the start.
    pub(crate) waits_for_device: bool,
    /// The store takes messages no more, or again: told at once, looked at by [`keep_permission`].
    writability: Arc<Notify>,
    next_queue: AtomicU32,
    saver: Arc<Saver>,
    stopping: watch::Sender<bool>,
}

impl Broker {
    /// Opens the store, listens, and registers with the name servers of `config`.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: BrokerConfig) -> Result<RunningBroker, StartError> {
        start(config, None, Arc::new(DiskMedium)).await
    }

    /// A broker with an empty store in a directory of its own, on free ports of the loopback, known to no name server.
    /// The directory goes when the [`RunningBroker`] does.
    ///
    /// # Errors
    /// [`StartError`].
    #[cfg(feature = "temp")]
    pub async fn temp() -> Result<RunningBroker, StartError> {
        Self::temp_with(BrokerConfig::default()).await
    }

    /// [`Broker::temp`] with settings of one's own; address, ports and directory are chosen here.
    ///
    /// # Errors
    /// [`StartError`].
    #[cfg(feature = "temp")]
    pub async fn temp_with(config: BrokerConfig) -> Result<RunningBroker, StartError> {
        let directory = tempfile::tempdir().map_err(|source| StartError::System {
            what: "no temporary directory",
            source,
        })?;
        Self::temp_in(directory, config, Arc::new(DiskMedium)).await
    }

    /// [`Broker::temp_with`] in a directory of one's choice, which is removed with the broker, on a medium that may fail.
    ///
    /// # Errors
    /// [`StartError`].
    #[cfg(feature = "temp")]
    pub async fn temp_in(
        directory: tempfile::TempDir,
        mut config: BrokerConfig,
        medium: Arc<dyn Medium>,
    ) -> Result<RunningBroker, StartError> {
        config.store_path_root_dir = directory.path().display().to_string();
        config.store_path_commit_log = String::new();
        "127.0.0.1".clone_into(&mut config.broker_ip1);
        "127.0.0.1".clone_into(&mut config.bind_address);
        config.listen_port = 0;
        // A thousandth of the original's sizes: tests come in hundreds.
        config.mapped_file_size_commit_log = config.mapped_file_size_commit_log.min(16 << 20);
        config.max_hash_slot_num = config.max_hash_slot_num.min(5000);
        config.max_index_num = config.max_index_num.min(20_000);
        let mut running = start(config, None, medium).await?;
        running.directory = Some(directory);
        Ok(running)
    }

    /// Becomes true once, when the broker stops.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// A queue for a message whose producer does not mind, each in turn.
    pub(crate) fn next_queue(&self, queues: i32) -> QueueId {
        let queues = u32::try_from(queues).unwrap_or(1).max(1);
        QueueId::new(self.next_queue.fetch_add(1, Ordering::Relaxed) % queues)
    }

    /// Permission bits of the broker as a whole: what is configured, without writing while the store takes none.
    pub(crate) fn permission(&self) -> i32 {
        let configured = i32::try_from(self.config.get().broker_permission).unwrap_or(0);
        if self.store.is_writable() {
            configured
        } else {
            configured & !PERM_WRITE
        }
    }

    /// Changes the configuration by a properties text (request 25), and what depends on it.
    ///
    /// # Errors
    /// [`UpdateError`]; nothing is changed then.
    pub fn update_config(self: &Arc<Self>, text: &str) -> Result<(), UpdateError> {
        let before = self.config.get().clone();
        self.config.update(text)?;
        let after = self.config.get();
        self.topics.configure(open::topic_settings(&after));
        self.groups.configure(after.auto_create_subscription_group);
        if after.broker_permission != before.broker_permission {
            self.topics.bump_version();
            self.registration.changed_everything();
        }
        if after.namesrv_addr != before.namesrv_addr {
            self.registration.follow(self);
        }
        match open::retention(&after) {
            Ok(retention) => self.store.set_retention(retention),
            Err(error) => tracing::warn!(%error, "the rules of retention are still the old ones"),
        }
        Ok(())
    }

    /// Writes what is kept beside the log. The log is closed, so all that the files speak of is on the device.
    fn save(&self) {
        let now_ms = self.clock.now_ms();
        self.transactions.save_progress_at_stop(self);
        self.dedup.save(&self.store);
        let saved = [
            self.delay.save_at_stop(),
            self.offsets.save(now_ms),
            self.topics.save(),
            self.groups.save(),
        ];
        for saved in saved {
            if let Err(error) = saved {
                tracing::error!(%error, "a file under config/ is not up to date");
            }
        }
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// A broker that serves until it is told to stop. Dropping it without [`RunningBroker::shutdown`] is a crash: nothing is
/// lost that was acknowledged, but the next start has to recover.
#[derive(Debug)]
pub struct RunningBroker {
    broker: Arc<Broker>,
    listeners: Vec<Server>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// A directory that goes with the broker.
    #[cfg(feature = "temp")]
    directory: Option<tempfile::TempDir>,
}

impl RunningBroker {
    /// Where clients are told to find it.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.broker.identity.advertised
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listeners
            .first()
            .map_or(self.addr(), Server::local_addr)
    }

    /// Who it is to others.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.broker.identity
    }

    /// The name servers it registers with, separated by `;`.
    #[must_use]
    pub fn name_servers(&self) -> String {
        self.broker.config.get().namesrv_addr.0.join(";")
    }

    /// Stops in order. On return everything is on the device, and the directory is free for another broker.
    ///
    /// # Errors
    /// [`StoreError`] when the last sync failed.
    pub async fn shutdown(self) -> Result<(), StoreError> {
        let broker = self.broker;
        broker.stopping.send_replace(true);
        broker.registration.farewell(&broker).await;
        for listener in self.listeners {
            listener.shutdown(STOP_GRACE).await;
        }
        for task in self.tasks {
            // A panic in a task was reported by the panic hook; there is nothing to add.
            let _ = task.await;
        }
        let closing = move || {
            broker.readers.stop();
            broker.clerks.stop();
            broker.delay.stop();
            let closed = broker.store.close();
            broker.save();
            broker.saver.stop();
            closed
        };
        match tokio::task::spawn_blocking(closing).await {
            Ok(closed) => closed,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Hears from the store what consumers may now see, and passes it to those who wait for it.
struct Arrivals {
    hold: Arc<Hold>,
    /// Set when the store is open. Before that there is nothing to deliver. Weak, like the broker: the store owns this
    /// observer, and whoever owns the store must not be owned by it.
    delay: OnceLock<Weak<Delay>>,
    /// Set once the broker is built. Before that nobody waits.
    broker: OnceLock<Weak<Broker>>,
    writability: Arc<Notify>,
}

impl Observer for Arrivals {
    fn dispatched(&self, record: &Dispatched<'_>) {
        if record.recovering {
            return;
        }
        if matches!(record.topic(), topic::SCHEDULE | topic::TIMER_WHEEL)
            && let Some(delay) = self.delay.get().and_then(Weak::upgrade)
        {
            delay.arrived(record.topic(), record.queue_id());
        }
        if transaction::is_kept_in(record.topic())
            && let Some(broker) = self.broker.get().and_then(Weak::upgrade)
        {
            broker.transactions.dispatched(record, &broker.config.get());
        }
        self.hold.arrived(&Arrival {
            topic: record.topic(),
            queue: record.queue_id(),
            offset: record.queue_offset(),
            messages: record.messages,
            tags_code: record.tags_code,
            properties: record.record.properties(),
        });
    }

    fn writability_changed(&self) {
        self.writability.notify_one();
    }

    fn dispatched_all(&self) {
        if self.hold.has_ready()
            && let Some(broker) = self.broker.get().and_then(Weak::upgrade)
        {
            pull::answer_ready(&broker);
        }
    }

    fn going(&self, going: &Going) {
        let Some(broker) = self.broker.get().and_then(Weak::upgrade) else {
            return;
        };
        transaction::check_back::park_below(&broker, PhysicalOffset::new(going.to));
        // By age a file goes in its time; what goes before it, somebody may still have wanted.
        if going.why != Expiry::Age {
            unread::say_lost(&broker, going);
        }
    }
}

/// Who was at a queue is forgotten this long after the last visit.
const TRAIL_KEPT: Duration = Duration::from_secs(86_400);

/// Pause between looks at old trails: there may be many.
const TRAILS_PERIOD: Duration = Duration::from_secs(3600);

/// Looks after what becomes old.
async fn keep_house(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut trails_at = broker.clock.monotonic() + TRAILS_PERIOD;
    loop {
        tokio::select! {
            () = tokio::time::sleep(HOUSEKEEPING_PERIOD) => {}
            _ = stopping.wait_for(|stops| *stops) => return,
        }
        broker.sessions.expire();
        broker.order_locks.forget_expired();
        broker.stats.turn_of_day(broker.clock.now_ms());
        if broker.clock.monotonic() >= trails_at {
            trails_at = broker.clock.monotonic() + TRAILS_PERIOD;
            let kept_ms = i64::try_from(TRAIL_KEPT.as_millis()).unwrap_or(i64::MAX);
            let before_ms = broker.clock.now_ms().saturating_sub(kept_ms);
            broker.offsets.forget_trails(before_ms);
        }
    }
}

/// Takes the write permission out of the routes as soon as the store refuses messages, and gives it back when it takes
/// them again.
async fn keep_permission(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut was_writable = true;
    loop {
        let is_writable = broker.store.is_writable();
        if is_writable != was_writable {
            was_writable = is_writable;
            tracing::warn!(is_writable, reason = ?broker.store.read_only_reason(), "telling the name servers");
            // Name servers look at the topics again only under a new version.
            broker.topics.bump_version();
            broker.registration.changed_everything();
            // On a disk that is nearly full, space comes and goes.
            tokio::time::sleep(PERMISSION_PAUSE).await;
        }
        tokio::select! {
            () = broker.writability.notified() => {}
            _ = stopping.wait_for(|stops| *stops) => return,
        }
    }
}

/// Writes commits of offsets to their journal soon after they come, and folds them into the file every
/// `flushConsumerOffsetInterval`. Without commits there is nothing to do.
async fn keep_offsets(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut fold_at = broker.clock.monotonic();
    loop {
        let behind = async {
            match broker.offsets.is_saved() {
                true => std::future::pending().await,
                false => {
                    tokio::time::sleep(fold_at.saturating_sub(broker.clock.monotonic())).await;
                }
            }
        };
        tokio::select! {
            () = behind => {}
            () = broker.offsets.marked() => {}
            _ = stopping.wait_for(|stops| *stops) => return,
        }
        tokio::time::sleep(offsets::journal::GATHER).await;
        let now = broker.clock.monotonic();
        let folds = now >= fold_at;
        if folds {
            fold_at = now + broker.config.get().flush_consumer_offset_interval;
        }
        let saving = broker.clone();
        let saved = move || match folds {
            true => saving.offsets.save(saving.clock.now_ms()),
            false => saving.offsets.write_journal(),
        };
        match tokio::task::spawn_blocking(saved).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "consumer offsets are not saved; trying again")
            }
            Err(error) => tracing::error!(%error, "saving consumer offsets panicked"),
        }
    }
}
