//! How a broker is put together.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use agena_protocol::bodies::topic_config::TopicConfigSerializeWrapper;
use agena_protocol::clock::{Clock, SystemClock};
use agena_protocol::message_id::UniqueIds;
use agena_remoting::file_limit;
use agena_remoting::server::{Server, ServerConfig};
use agena_remoting::threads::ConnectionThreads;
use agena_store::medium::Medium;
use agena_store::{Durability, Opened, ReadLimits, Retention, Store, StoreConfig, StoreError};
use tokio::net::TcpSocket;
use tokio::sync::{Notify, watch};

use super::{
    Arrivals, Broker, Identity, RunningBroker, StartError, keep_house, keep_offsets,
    keep_permission,
};
use crate::admin::assignment::RequestModes;
use crate::admin::broker::ColdReadThresholds;
use crate::backlog::Pace;
use crate::config::{BrokerConfig, ConfigCell, ConfigError, FlushDiskType};
use crate::dedup::{self, Dedup};
use crate::delay::store_log::StoreLog;
use crate::delay::timers::TimerRules;
use crate::delay::{Delay, DelaySettings, SendRules, levels};
use crate::groups::Groups;
use crate::hold::Hold;
use crate::local_time;
use crate::offsets::Offsets;
use crate::order_locks::OrderLocks;
use crate::pool::{Pool, Priority};
use crate::pull;
use crate::registration::Registration;
use crate::requests::Requests;
use crate::reset_history::ResetHistory;
use crate::sessions::Sessions;
use crate::snapshot_files::{Saver, SnapshotFile};
use crate::stats::Stats;
use crate::topics::{TopicSettings, Topics};
use crate::transaction::checks::Checks;
use crate::transaction::{Transactions, check_back};

/// The fast port lies this far below the listen port.
const FAST_PORT_DISTANCE: u16 = 2;

/// How long a start waits until every name server was tried once.
const FIRST_REGISTRATION_MAX: Duration = Duration::from_secs(3);

/// Threads for reads from the disk, and reads that may wait for one.
const READERS: (usize, usize) = (8, 10_000);

/// Threads for operators' requests, and requests that may wait for one.
const CLERKS: (usize, usize) = (8, 10_000);

/// Starts a broker; `path` is the file that changes of the configuration are written to.
pub(crate) async fn start(
    mut config: BrokerConfig,
    path: Option<PathBuf>,
    medium: Arc<dyn Medium>,
) -> Result<RunningBroker, StartError> {
    config.resolve()?;
    let ports = Ports::reserve(&config)?;
    let built = tokio::task::spawn_blocking({
        let runtime = tokio::runtime::Handle::current();
        let port = ports.listen.port();
        move || build(config, path, port, runtime, medium)
    });
    let broker = match built.await {
        Ok(built) => built?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    match serve(&broker, ports).await {
        Ok(running) => Ok(running),
        Err(error) => {
            let closing = broker.clone();
            // The error that is reported is the first one; the store's own log has the second.
            let _ = tokio::task::spawn_blocking(move || closing.store.close()).await;
            Err(error)
        }
    }
}

/// The two addresses to listen on. Free ports are held until the listeners have them: a socket that is bound but does not
/// listen keeps the system from giving its port to others, and not us from listening.
struct Ports {
    listen: SocketAddr,
    fast: SocketAddr,
    _held: Vec<TcpSocket>,
}

impl Ports {
    fn reserve(config: &BrokerConfig) -> Result<Self, StartError> {
        let listen = config.listen_address()?;
        if listen.port() != 0 {
            let fast = SocketAddr::new(listen.ip(), listen.port() - FAST_PORT_DISTANCE);
            return Ok(Self {
                listen,
                fast,
                _held: Vec::new(),
            });
        }
        const ATTEMPTS: usize = 100;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::free_pair(listen.ip()) {
                Ok(ports) => return Ok(ports),
                Err(error) => last = Some(error),
            }
        }
        Err(StartError::System {
            what: "no two free ports",
            source: last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()),
        })
    }

    fn free_pair(ip: IpAddr) -> std::io::Result<Self> {
        let hold = |port| {
            let socket = if ip.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            socket.bind(SocketAddr::new(ip, port))?;
            // Behind the bind, so that nobody's port is shared but this one, and with our own listener only: another broker
            // that looks for ports binds without it, as we did.
            socket.set_reuseaddr(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let main = hold(0)?;
        let listen = main.local_addr()?;
        let below = listen
            .port()
            .checked_sub(FAST_PORT_DISTANCE)
            .filter(|port| *port > 0);
        let fast = hold(below.ok_or(std::io::ErrorKind::AddrInUse)?)?;
        Ok(Self {
            listen,
            fast: fast.local_addr()?,
            _held: vec![main, fast],
        })
    }
}

/// A broker that was killed holds its store until its last write has ended, which on a slow device takes a while.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);
const GIVEN_UP_LOOK: Duration = Duration::from_millis(50);

/// Opens a store that another process may be about to give up.
fn when_given_up<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let begun = Instant::now();
    let mut is_reported = false;
    loop {
        match open() {
            Err(held @ StoreError::Held { .. }) if begun.elapsed() < GIVEN_UP_WITHIN => {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!(%held, within = ?GIVEN_UP_WITHIN, "waiting for it to end");
                }
                std::thread::sleep(GIVEN_UP_LOOK);
            }
            other => return other,
        }
    }
}

fn build(
    config: BrokerConfig,
    path: Option<PathBuf>,
    port: u16,
    runtime: tokio::runtime::Handle,
    medium: Arc<dyn Medium>,
) -> Result<Arc<Broker>, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let config_dir = config.config_dir();
    let hold = Arc::new(Hold::new(config.max_held_pulls));
    let arrivals = Arc::new(Arrivals {
        hold: hold.clone(),
        delay: OnceLock::new(),
        broker: OnceLock::new(),
        writability: Arc::new(Notify::new()),
    });
    let batch_topics = batch_topics(&config_dir)?;
    let mut store_config = store_config(&config, batch_topics)?;
    store_config.medium = medium;
    let open = || Store::open(store_config.clone(), clock.clone(), arrivals.clone());
    let (store, opened) = when_given_up(open)?;
    let ended_cleanly = matches!(opened, Opened::Clean);
    match opened {
        Opened::Clean => tracing::info!(root = config.store_path_root_dir, "store opened"),
        Opened::Recovered(report) if !report.unclean && report.damage.is_empty() => {
            let records = report.records;
            tracing::info!(root = config.store_path_root_dir, records, "store opened");
        }
        Opened::Recovered(report) => {
            tracing::warn!(
                root = config.store_path_root_dir,
                ?report,
                "store recovered"
            );
        }
    }
    let saver = Saver::start();
    let registration = Arc::new(Registration::new(runtime.clone()));
    let topics = Topics::open(topic_settings(&config), &config_dir, &saver, clock.clone())?;
    let changed = registration.clone();
    topics.on_change(Box::new(move |topics, _version| changed.changed(topics)));
    let log = Arc::new(StoreLog(store.clone()));
    let delay = Delay::open(delay_settings(&config)?, &config_dir, log, clock.clone())?;
    let _ = arrivals.delay.set(Arc::downgrade(&delay));
    let auto_create = config.auto_create_subscription_group;
    let advertised = config.advertised(port);
    let offsets = Offsets::open(&config_dir, config.consumer_offset_update_version_step)?;
    let transactions = Transactions::open(
        &store,
        &offsets,
        Checks::open(&config_dir)?,
        &config,
        advertised,
        clock.clone(),
        ended_cleanly,
    );
    let broker = Arc::new(Broker {
        identity: Identity {
            cluster: config.broker_cluster_name.clone(),
            name: config.broker_name.clone(),
            id: config.broker_id,
            advertised,
        },
        topics,
        transactions,
        dedup: Arc::new(Dedup::open(&config_dir, &config, &store)),
        groups: Groups::open(auto_create, &config_dir, &saver, clock.clone())?,
        sessions: Sessions::new(config.channel_expired_timeout, clock.clone()),
        offsets,
        reset_history: ResetHistory::open(&config_dir)?,
        order_locks: OrderLocks::open(&config_dir, clock.clone())?,
        hold,
        delay,
        stats: Stats::new(&*clock),
        registration,
        request_modes: RequestModes::open(&config_dir)?,
        cold_read_thresholds: ColdReadThresholds::default(),
        unique_ids: unique_ids(&config, &*clock),
        readers: Pool::new("reader", READERS.0, READERS.1, Priority::Low),
        backlog_pace: Pace::default(),
        clerks: Pool::new("clerk", CLERKS.0, CLERKS.1, Priority::Normal),
        runtime,
        waits_for_device: config.flush_disk_type == FlushDiskType::Sync,
        writability: arrivals.writability.clone(),
        next_queue: AtomicU32::new(0),
        saver,
        stopping: watch::Sender::new(false),
        store,
        clock,
        config: ConfigCell::new(config, path),
    });
    broker.stats.turn_of_day(broker.clock.now_ms());
    // Nobody set it before: the observer is ours alone.
    let _ = arrivals.broker.set(Arc::downgrade(&broker));
    Ok(broker)
}

async fn serve(broker: &Arc<Broker>, ports: Ports) -> Result<RunningBroker, StartError> {
    let config = broker.config.get().clone();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = ConnectionThreads::start(cores, "connections");
    let threads = threads.map_err(|source| StartError::System {
        what: "no threads for connections",
        source,
    })?;
    let listen = async |address, is_fast| {
        let server = ServerConfig {
            address,
            threads: Some(Arc::clone(&threads)),
            idle_timeout: config.server_channel_max_idle_time.duration(),
            ..ServerConfig::default()
        };
        let requests = Arc::new(Requests::new(broker.clone(), is_fast));
        Server::bind(server, requests)
            .await
            .map_err(StartError::Bind)
    };
    let listeners = vec![
        listen(ports.listen, false).await?,
        listen(ports.fast, true).await?,
    ];
    let tasks = vec![
        tokio::spawn(pull::answer_expired(broker.clone())),
        tokio::spawn(keep_house(broker.clone())),
        tokio::spawn(dedup::keep_snapshots(broker.clone())),
        tokio::spawn(keep_permission(broker.clone())),
        tokio::spawn(keep_offsets(broker.clone())),
        tokio::spawn(check_back::run(broker.clone())),
    ];
    broker.delay.start(&broker.saver);
    broker.registration.follow(broker);
    broker.registration.settled(FIRST_REGISTRATION_MAX).await;
    let advertised = broker.identity.advertised;
    tracing::info!(%advertised, listen = %ports.listen, fast = %ports.fast, "serving");
    Ok(RunningBroker {
        broker: broker.clone(),
        listeners,
        tasks,
        #[cfg(feature = "temp")]
        directory: None,
    })
}

/// The part of the configuration that topics depend on.
pub(super) fn topic_settings(config: &BrokerConfig) -> TopicSettings {
    let count = |queues: u32| i32::try_from(queues).unwrap_or(i32::MAX);
    TopicSettings {
        cluster: config.broker_cluster_name.clone(),
        broker_name: config.broker_name.clone(),
        auto_create: config.auto_create_topic_enable,
        default_queue_nums: count(config.default_topic_queue_nums),
        cluster_topic: config.cluster_topic_enable,
        broker_topic: config.broker_topic_enable,
        trace_topic: config
            .trace_topic_enable
            .then(|| config.msg_trace_topic_name.clone()),
        timer_wheel: config.timer_wheel_enable,
        revive_queue_nums: count(config.revive_queue_num),
        mixed_message_type: config.enable_mixed_message_type,
    }
}

/// Topics whose queues are of the batch kind, which only the original makes. Read before the store opens, since recovery
/// has to know; new ones cannot come.
fn batch_topics(config_dir: &Path) -> Result<HashSet<String>, StartError> {
    let file = SnapshotFile::new(config_dir, "topics.json");
    let topics: TopicConfigSerializeWrapper = file.load()?.unwrap_or_default();
    let is_batch = |attributes: &std::collections::BTreeMap<String, String>| {
        attributes
            .get("queue.type")
            .is_some_and(|kind| kind == "BatchCQ")
    };
    let batch = topics.topic_config_table.into_iter();
    Ok(batch
        .filter(|(_, topic)| is_batch(&topic.attributes))
        .map(|(name, _)| name)
        .collect())
}

fn store_config(
    config: &BrokerConfig,
    batch_topics: HashSet<String>,
) -> Result<StoreConfig, StartError> {
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut store = StoreConfig::new(&config.store_path_root_dir);
    store.commit_log_dir = Some(PathBuf::from(&config.store_path_commit_log));
    store.segment_bytes = config.mapped_file_size_commit_log;
    store.queue_file_bytes = config.mapped_file_size_consume_queue;
    store.batch_queue_file_bytes = config.mapper_file_size_batch_consume_queue;
    store.index_enabled = config.message_index_enable;
    store.index_slots = config.max_hash_slot_num;
    store.index_entries = config.max_index_num;
    store.durability = match config.flush_disk_type {
        FlushDiskType::Sync => Durability::Device {
            timeout: config.sync_flush_timeout,
        },
        FlushDiskType::Async => Durability::PageCache {
            interval: config.flush_interval_commit_log,
            least_pages: config.flush_commit_log_least_pages,
            thorough_interval: config.flush_commit_log_thorough_interval,
        },
    };
    store.body_bytes_max = size(config.max_message_size);
    store.delay_levels = delay_levels(config)?;
    store.read = ReadLimits {
        bytes_in_memory: size(config.max_transfer_bytes_on_message_in_memory),
        count_in_memory: size(config.max_transfer_count_on_message_in_memory),
        bytes_on_disk: size(config.max_transfer_bytes_on_message_in_disk),
        count_on_disk: size(config.max_transfer_count_on_message_in_disk),
        scan_bytes: u64::from(config.max_filter_message_size),
        resident_bytes: resident_bytes(config.access_message_in_memory_max_ratio),
    };
    store.retention = retention(config)?;
    store.is_batch_topic = Arc::new(move |topic| batch_topics.contains(topic));
    // Of each kind of queue, beside the log's and the index's own.
    store.open_queue_files_max = store.open_queue_files_max.min(file_limit::spare() / 4);
    Ok(store)
}

/// The rules by which log files go.
pub(super) fn retention(config: &BrokerConfig) -> Result<Retention, ConfigError> {
    Ok(Retention {
        reserved: config.file_reserved_time.duration(),
        delete_hours: hours(config)?,
        expire_ratio: config.disk_max_used_space_ratio,
        force_ratio: config.disk_space_clean_forcibly_ratio,
        force: config.clean_file_forcibly_enable,
        refuse_ratio: config.disk_space_warning_level_ratio,
        log_bytes_max: Some(config.log_bytes_max).filter(|bytes| *bytes > 0),
        interval: config.clean_resource_interval,
        ..Retention::default()
    })
}

/// So many percent of the machine's memory.
fn resident_bytes(percent: u8) -> u64 {
    const DEFAULT_PERCENT: u64 = 40;
    ReadLimits::default().resident_bytes / DEFAULT_PERCENT * u64::from(percent)
}

fn delay_levels(config: &BrokerConfig) -> Result<Vec<Duration>, ConfigError> {
    levels::parse_levels(&config.message_delay_level)
        .map_err(|error| ConfigError::Unusable(format!("messageDelayLevel: {error}")))
}

fn delay_settings(config: &BrokerConfig) -> Result<DelaySettings, ConfigError> {
    let levels = delay_levels(config)?;
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let precision_ms = ms(config.timer_precision).max(1);
    Ok(DelaySettings {
        send: SendRules {
            levels: levels.len(),
            timers_enabled: config.timer_wheel_enable,
            timer_delay_max_ms: ms(config.timer_max_delay.duration()),
            timers: TimerRules {
                precision_ms,
                roll_window_ms: i64::from(config.timer_roll_window_slots) * precision_ms,
            },
        },
        levels,
        broker_name: config.broker_name.clone(),
    })
}

fn hours(config: &BrokerConfig) -> Result<Vec<u32>, ConfigError> {
    let hours = config.delete_when.0.iter().map(|text| match text.parse() {
        Ok(hour) if hour < 24 => Ok(hour),
        _ => Err(ConfigError::Unusable(format!(
            "deleteWhen: {text} is not an hour of the day"
        ))),
    });
    hours.collect()
}

/// Ids of messages whose producers gave none.
fn unique_ids(config: &BrokerConfig, clock: &dyn Clock) -> UniqueIds {
    let pid = std::process::id();
    let low = u16::try_from(pid & 0xFFFF).unwrap_or(0);
    let now_ms = clock.now_ms();
    let salt = u32::try_from(now_ms & 0xFFFF_FFFF).unwrap_or(0) ^ pid;
    UniqueIds::new(
        config.advertised(0).ip(),
        low,
        salt,
        local_time::utc_offset_ms(now_ms),
    )
}
