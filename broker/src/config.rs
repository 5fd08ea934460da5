//! `broker.conf` under RocketMQ's own keys: one typed struct, each field with its key, default and effect.
//!
//! Guarantees: a value that does not parse is refused with file, line, key and value; an unknown key is named once and
//! ignored; every key that the original lists is listed, also those that mean nothing here (`unused_keys`).
//! The struct is immutable and swapped as a whole by [`ConfigCell`], so that a reader sees one state. Apache:
//! `BrokerConfig`, `MessageStoreConfig`, `NettyServerConfig`, `Configuration`.

mod cell;
mod file;
mod unused_keys;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub use cell::{ConfigCell, UpdateError};
pub use value::{BrokerRole, FlushDiskType, Hours, Seconds, SemicolonList};

use value::Setting;

/// Why a configuration cannot be used. The text names what an operator has to change.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key has a value that is none.
    #[error("{place}: {key}={value} is not {expected}")]
    Value {
        /// File and line, or where else the value came from.
        place: String,
        /// The key as written.
        key: String,
        /// The value as written.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// Values that exclude each other or that this broker does not serve.
    #[error("{0}")]
    Unusable(String),
}

macro_rules! broker_config {
    ($($(#[$doc:meta])* $field:ident : $kind:ty = $key:literal, $default:expr;)*) => {
        /// Everything that can be set, resolved: no value is missing.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub struct BrokerConfig {
            $($(#[$doc])* pub $field: $kind,)*
            /// Values of keys that are accepted and listed but mean nothing here.
            unused: BTreeMap<&'static str, String>,
        }

        impl Default for BrokerConfig {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    unused: unused_keys::DEFAULTS
                        .iter()
                        .map(|&(key, value)| (key, value.to_owned()))
                        .collect(),
                }
            }
        }

        impl BrokerConfig {
            /// Sets one key from its text; `Ok(false)` when nobody knows the key.
            fn set(&mut self, key: &str, text: &str) -> Result<bool, &'static str> {
                match key {
                    $($key => self.$field = Setting::parse(text.trim())?,)*
                    _ => match self.unused.get_mut(key) {
                        Some(value) => text.trim().clone_into(value),
                        None => return Ok(false),
                    },
                }
                Ok(true)
            }

            /// Every key with its value, sorted by key.
            #[must_use]
            pub fn entries(&self) -> BTreeMap<&'static str, String> {
                let mut entries = self.unused.clone();
                $(entries.insert($key, self.$field.text());)*
                entries
            }
        }
    };
}

/// Reading at this rate takes some fifth of a core.
const BACKLOG_BYTES_PER_CORE: u64 = 32 << 20;

fn backlog_bytes_per_second() -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    cores * BACKLOG_BYTES_PER_CORE
}

broker_config! {
    /// Name of the cluster; also the name of a template topic.
    broker_cluster_name: String = "brokerClusterName", "DefaultCluster".to_owned();
    /// Name of this broker within the cluster; master and slaves share it. Empty until resolved to the host's name.
    broker_name: String = "brokerName", String::new();
    /// 0 is the master.
    broker_id: i64 = "brokerId", 0;
    /// Address that clients are told. Empty until resolved to the first address that is not loopback.
    broker_ip1: String = "brokerIP1", String::new();
    /// Address that replicas are told. Empty until resolved to `brokerIP1`.
    broker_ip2: String = "brokerIP2", String::new();
    /// Interface to listen on.
    bind_address: String = "bindAddress", "0.0.0.0".to_owned();
    /// Port of the remoting protocol; the fast port is two below. 0 takes any free port.
    listen_port: u16 = "listenPort", 10911;
    /// Port of the replication stream, `listenPort` + 1 unless set.
    ha_listen_port: u16 = "haListenPort", 0;
    /// Name servers, separated by `;`. Empty: this broker is found by nobody but those who know its address.
    namesrv_addr: SemicolonList = "namesrvAddr", SemicolonList::default();
    /// The part this broker plays in replication.
    broker_role: BrokerRole = "brokerRole", BrokerRole::AsyncMaster;
    /// Bits 4 read and 2 write of the whole broker. Changes at run time, with a registration at once.
    broker_permission: u32 = "brokerPermission", 6;
    /// Directory of everything this broker keeps. Empty until resolved to `~/store`.
    store_path_root_dir: String = "storePathRootDir", String::new();
    /// Directory of the log. Empty until resolved to `commitlog` under the root.
    store_path_commit_log: String = "storePathCommitLog", String::new();
    /// Whether an answer to a send waits for the device.
    flush_disk_type: FlushDiskType = "flushDiskType", FlushDiskType::Async;
    /// How long a send waits for the device before it is answered FLUSH_DISK_TIMEOUT.
    sync_flush_timeout: Duration = "syncFlushTimeout", Duration::from_secs(5);
    /// Pause between data syncs under asynchronous flush.
    flush_interval_commit_log: Duration = "flushIntervalCommitLog", Duration::from_millis(500);
    /// Pages of 4 KiB that must be dirty for an asynchronous sync.
    flush_commit_log_least_pages: u32 = "flushCommitLogLeastPages", 4;
    /// After this long, a single dirty byte is enough.
    flush_commit_log_thorough_interval: Duration = "flushCommitLogThoroughInterval", Duration::from_secs(10);
    /// Pause between syncs of the consume queues.
    flush_interval_consume_queue: Duration = "flushIntervalConsumeQueue", Duration::from_secs(1);
    /// Bytes of one log segment.
    mapped_file_size_commit_log: u64 = "mappedFileSizeCommitLog", 1_073_741_824;
    /// Bytes of one consume queue segment; rounded up to whole entries of 20 bytes.
    mapped_file_size_consume_queue: u64 = "mappedFileSizeConsumeQueue", 6_000_000;
    /// Bytes of one segment of a batch consume queue, which only the original makes. The key is spelt as the original spells it.
    mapper_file_size_batch_consume_queue: u64 = "mapperFileSizeBatchConsumeQueue", 13_800_000;
    /// Whether keys are indexed.
    message_index_enable: bool = "messageIndexEnable", true;
    /// Entries of one index file.
    max_index_num: u32 = "maxIndexNum", 20_000_000;
    /// Hash slots of one index file.
    max_hash_slot_num: u32 = "maxHashSlotNum", 5_000_000;
    /// Hours of the day at which expired segments go.
    delete_when: SemicolonList = "deleteWhen", SemicolonList(vec!["04".to_owned()]);
    /// Age at which a segment expires.
    file_reserved_time: Hours = "fileReservedTime", Hours(72);
    /// Percent of the disk in use above which expired segments go at any hour.
    disk_max_used_space_ratio: u8 = "diskMaxUsedSpaceRatio", 75;
    /// Percent of the disk in use above which the oldest segments go whatever their age.
    disk_space_clean_forcibly_ratio: u8 = "diskSpaceCleanForciblyRatio", 85;
    /// Percent of the disk in use above which writes are refused.
    disk_space_warning_level_ratio: u8 = "diskSpaceWarningLevelRatio", 90;
    /// Pause between looks at what may be deleted.
    clean_resource_interval: Duration = "cleanResourceInterval", Duration::from_secs(10);
    /// Whether removing old segments regardless of age is allowed.
    clean_file_forcibly_enable: bool = "cleanFileForciblyEnable", true;
    /// Bytes of all log files together above which the oldest go whatever their age, read or not; 0 for no such limit. The
    /// file that is written to stays. Changes at run time. Our own key.
    log_bytes_max: u64 = "logBytesMax", 0;
    /// Bytes a second that all consumers with a backlog get together while messages come in; 0 for no limit. Never less than
    /// twice what comes in. By default 32 MiB for each core. Changes at run time. Our own key.
    backlog_bytes_per_second: u64 = "backlogBytesPerSecond", backlog_bytes_per_second();
    /// Bytes of a message's body. Changes at run time.
    max_message_size: u32 = "maxMessageSize", 4_194_304;
    /// Whether a send to an unknown topic may create it.
    auto_create_topic_enable: bool = "autoCreateTopicEnable", true;
    /// Queues of the template of automatic creation.
    default_topic_queue_nums: u32 = "defaultTopicQueueNums", 8;
    /// Whether the cluster's name is a template topic.
    cluster_topic_enable: bool = "clusterTopicEnable", true;
    /// Whether the broker's name is a template topic.
    broker_topic_enable: bool = "brokerTopicEnable", true;
    /// Whether system topics are protected from operators' changes.
    validate_system_topic_when_update_topic: bool = "validateSystemTopicWhenUpdateTopic", true;
    /// Whether `message.type=MIXED` may be set.
    enable_mixed_message_type: bool = "enableMixedMessageType", false;
    /// Whether deleting a topic takes its pop retry topics along.
    clear_retry_topic_when_delete_topic: bool = "clearRetryTopicWhenDeleteTopic", true;
    /// Whether an unknown group is created when it appears.
    auto_create_subscription_group: bool = "autoCreateSubscriptionGroup", true;
    /// Whether system groups are created even when automatic creation is off.
    enable_create_sys_group: bool = "enableCreateSysGroup", true;
    /// Whether the trace topic exists from the start.
    trace_topic_enable: bool = "traceTopicEnable", false;
    /// Name of the trace topic.
    msg_trace_topic_name: String = "msgTraceTopicName", "RMQ_SYS_TRACE_TOPIC".to_owned();
    /// Told to producers and stamped on messages as TRACE_ON.
    trace_on: bool = "traceOn", true;
    /// Told to producers and stamped on messages as MSG_REGION.
    region_id: String = "regionId", "DefaultRegion".to_owned();
    /// Queues of the pop revive topic.
    revive_queue_num: u32 = "reviveQueueNum", 8;
    /// The eighteen delays, separated by blanks.
    message_delay_level: String = "messageDelayLevel",
        "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h".to_owned();
    /// Pause between writes of delayOffset.json.
    flush_delay_offset_interval: Duration = "flushDelayOffsetInterval", Duration::from_secs(10);
    /// Whether arbitrary deliver times are accepted.
    timer_wheel_enable: bool = "timerWheelEnable", true;
    /// The furthest deliver time.
    timer_max_delay: Seconds = "timerMaxDelaySec", Seconds(259_200);
    /// Granularity of deliver times.
    timer_precision: Duration = "timerPrecisionMs", Duration::from_secs(1);
    /// A timer that is further ahead than this many steps of `timerPrecisionMs` is looked at again in between.
    timer_roll_window_slots: u32 = "timerRollWindowSlot", 172_800;
    /// Whether a timer message can be called back.
    recall_message_enable: bool = "recallMessageEnable", false;
    /// Age at which a half message is asked about for the first time.
    transaction_time_out: Duration = "transactionTimeOut", Duration::from_secs(6);
    /// Pause between questions about a half message.
    transaction_check_interval: Duration = "transactionCheckInterval", Duration::from_secs(30);
    /// Questions before a half message is set aside.
    transaction_check_max: u32 = "transactionCheckMax", 15;
    /// Whether half messages are refused.
    reject_transaction_message: bool = "rejectTransactionMessage", false;
    /// Half messages that may be pending at once, some 200 bytes each; one more is refused as busy. Our own key.
    transaction_pending_max: usize = "transactionPendingMax", 1_000_000;
    /// Producer ids whose sequences are kept, with `AGENA_PRODUCER_ID`; fixed at the start. Our own key.
    dedup_producers_max: usize = "dedupProducersMax", 50_000;
    /// Sequences that are kept for all of them together, 40 bytes each; fixed at the start. Our own key.
    dedup_sequences_max: usize = "dedupSequencesMax", 1_000_000;
    /// Sequences that are kept for one of them at most; fixed at the start. Our own key.
    dedup_window: usize = "dedupWindow", 1_000;
    /// A producer id that is silent for this long may make room for another. Our own key.
    dedup_producer_idle: Duration = "dedupProducerIdleMillis", Duration::from_secs(3600);
    /// Bytes by which the log grows before the sequences are written down again: an open reads about so much of it to know
    /// them. Fixed at the start. Our own key.
    dedup_snapshot_distance: u64 = "dedupSnapshotBytes", 67_108_864;
    /// Sends are refused until this time, in ms since 1970. Changes at run time.
    start_accept_send_request_time_stamp: i64 = "startAcceptSendRequestTimeStamp", 0;
    /// Pause between full registrations with the name servers, held within 10 s and 60 s.
    register_name_server_period: Duration = "registerNameServerPeriod", Duration::from_secs(30);
    /// How long one registration may take.
    register_broker_timeout: Duration = "registerBrokerTimeoutMills", Duration::from_secs(24);
    /// Whether the body of a registration is compressed.
    compressed_register: bool = "compressedRegister", false;
    /// Whether an empty pull is held as long as the client asks; if not, for `shortPollingTimeMills`.
    long_polling_enable: bool = "longPollingEnable", true;
    /// How long an empty pull is held when long polling is off.
    short_polling_time: Duration = "shortPollingTimeMills", Duration::from_secs(1);
    /// Pulls held at once by this broker; one more is answered at once. Our own key.
    max_held_pulls: usize = "maxHeldPulls", 200_000;
    /// Whether members of a group are told of its changes.
    notify_consumer_ids_changed_enable: bool = "notifyConsumerIdsChangedEnable", true;
    /// Whether a heartbeat is refused that subscribes a topic differently from the other members of its group; if not,
    /// the last heartbeat wins, and operators are told. Can be changed at run time. Our own key.
    reject_conflicting_subscriptions: bool = "rejectConflictingSubscriptions", false;
    /// A client that sent no heartbeat for this long is gone.
    channel_expired_timeout: Duration = "channelExpiredTimeout", Duration::from_secs(120);
    /// A subscription that nobody renewed for this long is gone.
    subscription_expired_timeout: Duration = "subscriptionExpiredTimeout", Duration::from_secs(600);
    /// Whether pulls of consumers that announced themselves as pulling are refused.
    reject_pull_consumer_enable: bool = "rejectPullConsumerEnable", false;
    /// Whether code 361 is served.
    lite_pull_message_enable: bool = "litePullMessageEnable", true;
    /// Whether SQL92 expressions are accepted.
    enable_property_filter: bool = "enablePropertyFilter", false;
    /// Whether retried messages are filtered by the properties of the original.
    filter_support_retry: bool = "filterSupportRetry", false;
    /// Whether a reset of offsets is kept by the broker until the next pull.
    use_server_side_reset_offset: bool = "useServerSideResetOffset", true;
    /// Pause between writes of consumerOffset.json. Changes at run time.
    flush_consumer_offset_interval: Duration = "flushConsumerOffsetInterval", Duration::from_secs(5);
    /// Commits between two versions of consumerOffset.json.
    consumer_offset_update_version_step: u64 = "consumerOffsetUpdateVersionStep", 500;
    /// Percent of memory behind the end of the log that counts as hot.
    access_message_in_memory_max_ratio: u8 = "accessMessageInMemoryMaxRatio", 40;
    /// Messages of one pull answer from hot data.
    max_transfer_count_on_message_in_memory: u32 = "maxTransferCountOnMessageInMemory", 32;
    /// Bytes of one pull answer from hot data.
    max_transfer_bytes_on_message_in_memory: u32 = "maxTransferBytesOnMessageInMemory", 262_144;
    /// Messages of one pull answer from cold data.
    max_transfer_count_on_message_in_disk: u32 = "maxTransferCountOnMessageInDisk", 8;
    /// Bytes of one pull answer from cold data.
    max_transfer_bytes_on_message_in_disk: u32 = "maxTransferBytesOnMessageInDisk", 65_536;
    /// Bytes of queue entries that one pull looks at while nothing matches.
    max_filter_message_size: u32 = "maxFilterMessageSize", 16_000;
    /// Messages that one query by unique key gives at most.
    default_query_max_num: u32 = "defaultQueryMaxNum", 32;
    /// Whether slaves answer pulls.
    slave_read_enable: bool = "slaveReadEnable", false;
    /// Whether replies to waiting producers are stored too.
    store_reply_message_enable: bool = "storeReplyMessageEnable", true;
    /// A connection without traffic for this long is closed.
    server_channel_max_idle_time: Seconds = "serverChannelMaxIdleTimeSeconds", Seconds(120);
    /// Keys that `updateBrokerConfig` may not change; `rocketmqHome` is always among them.
    config_black_list: SemicolonList = "configBlackList",
        SemicolonList(vec!["configBlackList".to_owned(), "brokerConfigPath".to_owned()]);
}

impl BrokerConfig {
    /// Fills what depends on the machine and refuses what this broker cannot be.
    ///
    /// # Errors
    /// [`ConfigError::Unusable`].
    pub fn resolve(&mut self) -> Result<(), ConfigError> {
        if self.broker_name.is_empty() {
            self.broker_name = host_name();
        }
        if self.broker_ip1.is_empty() {
            self.broker_ip1 = first_address().to_string();
        }
        if self.broker_ip2.is_empty() {
            self.broker_ip2.clone_from(&self.broker_ip1);
        }
        if self.store_path_root_dir.is_empty() {
            let home = std::env::var("HOME").unwrap_or_else(|_| ".".to_owned());
            self.store_path_root_dir = format!("{home}/store");
        }
        if self.store_path_commit_log.is_empty() {
            self.store_path_commit_log = format!("{}/commitlog", self.store_path_root_dir);
        }
        if self.ha_listen_port == 0 {
            self.ha_listen_port = self.listen_port.saturating_add(1);
        }
        self.check()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |text: String| Err(ConfigError::Unusable(text));
        match self.broker_role {
            BrokerRole::Slave => {
                return refuse(
                    "brokerRole=SLAVE: replication is not supported by this version".to_owned(),
                );
            }
            BrokerRole::AsyncMaster | BrokerRole::SyncMaster if self.broker_id != 0 => {
                return refuse(format!(
                    "brokerId={}: a master's brokerId is 0",
                    self.broker_id
                ));
            }
            BrokerRole::AsyncMaster | BrokerRole::SyncMaster => {}
        }
        if self.broker_ip1.parse::<IpAddr>().is_err() {
            return refuse(format!("brokerIP1={}: not an IP address", self.broker_ip1));
        }
        if self.bind_address.parse::<IpAddr>().is_err() {
            return refuse(format!(
                "bindAddress={}: not an IP address",
                self.bind_address
            ));
        }
        if self.listen_port == 1 || self.listen_port == 2 {
            return refuse(format!(
                "listenPort={}: the fast port is two below and would not exist",
                self.listen_port
            ));
        }
        for address in &self.namesrv_addr.0 {
            if !is_host_and_port(address) {
                return refuse(format!("namesrvAddr: {address} is not host:port"));
            }
        }
        Ok(())
    }

    /// Address to listen on.
    ///
    /// # Errors
    /// [`ConfigError::Unusable`] when `bindAddress` is not an address.
    pub fn listen_address(&self) -> Result<SocketAddr, ConfigError> {
        let ip: IpAddr = self.bind_address.parse().map_err(|_| {
            ConfigError::Unusable(format!(
                "bindAddress={}: not an IP address",
                self.bind_address
            ))
        })?;
        Ok(SocketAddr::new(ip, self.listen_port))
    }

    /// Address that clients are told, with the port that is really listened on.
    #[must_use]
    pub fn advertised(&self, port: u16) -> SocketAddr {
        let ip = self
            .broker_ip1
            .parse()
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        SocketAddr::new(ip, port)
    }

    /// Directory of RocketMQ's JSON files.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        PathBuf::from(&self.store_path_root_dir).join("config")
    }

    /// The broker as a whole may be written to.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.broker_permission & 2 != 0
    }

    /// The broker as a whole may be read from.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.broker_permission & 4 != 0
    }
}

fn is_host_and_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "DEFAULT_BROKER".to_owned())
}

/// The address this machine would use towards others; loopback when it has no network. Connecting a datagram socket
/// sends nothing, it only asks the routing table.
fn first_address() -> IpAddr {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ask()
        .ok()
        .filter(|ip| !ip.is_unspecified())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_original_is_listed() {
        let listed = BrokerConfig::default().entries();
        for line in include_str!("config/original_keys.txt").lines() {
            assert!(listed.contains_key(line), "{line} is not listed");
        }
    }

    #[test]
    fn a_key_is_declared_once() {
        let typed = BrokerConfig::default();
        let all = typed.entries().len();
        let unused = typed.unused.len();
        assert_eq!(unused, unused_keys::DEFAULTS.len());
        let mut only_typed = typed;
        only_typed.unused.clear();
        assert_eq!(all, unused + only_typed.entries().len());
    }

    #[test]
    fn what_is_listed_can_be_set_again() {
        let mut config = BrokerConfig::default();
        config.resolve().unwrap();
        let mut again = BrokerConfig::default();
        for (key, value) in config.entries() {
            assert_eq!(again.set(key, &value), Ok(true), "{key}={value}");
        }
        assert_eq!(again, config);
    }

    #[test]
    fn slaves_and_impossible_addresses_are_refused_by_name() {
        for (key, value, word) in [
            ("brokerRole", "SLAVE", "replication"),
            ("brokerId", "3", "brokerId=3"),
            ("brokerIP1", "nowhere", "brokerIP1=nowhere"),
            ("namesrvAddr", "127.0.0.1:9876;oops", "oops"),
            ("listenPort", "2", "fast port"),
        ] {
            let mut config = BrokerConfig::default();
            config.set(key, value).unwrap();
            let error = config.resolve().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
