//! The name server's properties under RocketMQ's own keys: one typed struct, each field with its key, default and
//! effect.
//!
//! A value that does not parse is refused with file, line, key and value; an unknown key is named once and ignored;
//! keys that the original has and that mean nothing here are accepted and listed. Apache: `NamesrvConfig`,
//! `NettyServerConfig`, `Configuration`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::properties_text;
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use thiserror::Error;

use crate::whole_file;

/// Why a configuration cannot be used, or changed. The text names what an operator has to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
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
    /// A key that must not be changed at run time.
    #[error("Can not update config in black list.")]
    BlackListed,
    /// The file cannot be written, so a change would not outlive a restart.
    #[error("cannot write {path}: {source}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A type that a key can have.
trait Setting: Sized {
    /// Reads a trimmed value, or says what would be one.
    fn parse(text: &str) -> Result<Self, &'static str>;

    /// The text that [`Setting::parse`] reads back.
    fn text(&self) -> String;
}

macro_rules! settings_by_from_str {
    ($($kind:ty: $expected:literal),* $(,)?) => {$(
        impl Setting for $kind {
            fn parse(text: &str) -> Result<Self, &'static str> {
                text.parse().map_err(|_| $expected)
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
settings_by_from_str! {
    u16: "a number from 0 to 65535",
    u32: "a whole number, not negative",
    usize: "a whole number, not negative",
    bool: "true or false",
    IpAddr: "an IP address",
    String: "a text",
}

impl Setting for PathBuf {
    fn parse(text: &str) -> Result<Self, &'static str> {
        Ok(Self::from(text))
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}

/// A span of time whose key counts milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(pub u64);

/// A span of time whose key counts seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub u64);

impl Millis {
    /// The span.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Seconds {
    /// The span.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl Setting for Millis {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse()
            .map(Self)
            .map_err(|_| "a number of milliseconds")
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

impl Setting for Seconds {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| "a number of seconds")
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// Keys of the original that size its thread pools, buffers and test modes.
const UNUSED: [(&str, &str); 21] = [
    ("clientRequestThreadPoolNums", "8"),
    ("clientRequestThreadPoolQueueCapacity", "50000"),
    ("clusterTest", "false"),
    ("defaultThreadPoolNums", "16"),
    ("defaultThreadPoolQueueCapacity", "10000"),
    ("enableControllerInNamesrv", "false"),
    ("enableShutdownGracefully", "false"),
    ("productEnvName", "center"),
    ("serverAsyncSemaphoreValue", "64"),
    ("serverCallbackExecutorThreads", "0"),
    ("serverNettyWorkerGroupEnable", "true"),
    ("serverOnewaySemaphoreValue", "256"),
    ("serverPooledByteBufAllocatorEnable", "true"),
    ("serverSelectorThreads", "3"),
    ("serverSocketRcvBufSize", "0"),
    ("serverSocketSndBufSize", "0"),
    ("serverWorkerThreads", "8"),
    ("unRegisterBrokerQueueCapacity", "3000"),
    ("useEpollNativeSelector", "false"),
    ("writeBufferHighWaterMark", "0"),
    ("writeBufferLowWaterMark", "0"),
];

macro_rules! name_server_config {
    ($($(#[$doc:meta])* $field:ident : $kind:ty = $key:literal, $default:expr;)*) => {
        /// Everything that can be set, with no value missing.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub struct NameServerConfig {
            $($(#[$doc])* pub $field: $kind,)*
            /// Values of keys that are accepted and listed but mean nothing here.
            unused: BTreeMap<&'static str, String>,
        }

        impl Default for NameServerConfig {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    unused: UNUSED.iter().map(|&(key, value)| (key, value.to_owned())).collect(),
                }
            }
        }

        impl NameServerConfig {
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

name_server_config! {
    /// Port to listen on; 0 takes any free one.
    listen_port: u16 = "listenPort", 9876;
    /// Interface to listen on.
    bind_address: IpAddr = "bindAddress", IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    /// Connections that the system accepts on our behalf while we are busy.
    server_socket_backlog: u32 = "serverSocketBacklog", 1024;
    /// A connection without traffic for so long is closed, and its broker deregistered.
    server_channel_max_idle_time: Seconds = "serverChannelMaxIdleTimeSeconds", Seconds(120);
    /// How long an orderly stop waits for answers that are owed.
    shutdown_wait_time: Seconds = "shutdownWaitTimeSeconds", Seconds(30);
    /// Home of the original's files; only the place of the two files below is derived from it.
    rocketmq_home: String = "rocketmqHome", std::env::var("ROCKETMQ_HOME").unwrap_or_default();
    /// File of the key-value configuration.
    kv_config_path: PathBuf = "kvConfigPath", under_home("kvConfig.json");
    /// File that changes at run time are written to: the `-c` file if there is one.
    config_store_path: PathBuf = "configStorePath", under_home("namesrv.properties");
    /// Keys that cannot be changed at run time, separated by `;`. `rocketmqHome` never can.
    config_black_list: String = "configBlackList",
        "configBlackList;configStorePath;kvConfigPath".to_owned();
    /// Whether route answers carry the order configuration of their topic. Changes at run time.
    order_message_enable: bool = "orderMessageEnable", false;
    /// Whether brokers are told the order configuration of all topics. Changes at run time.
    return_order_topic_config_to_broker: bool = "returnOrderTopicConfigToBroker", true;
    /// Pause between looks for brokers that went silent.
    scan_not_active_broker_interval: Millis = "scanNotActiveBrokerInterval", Millis(5000);
    /// Silence after which a broker is evicted that did not say otherwise at registration. Our own key; the original
    /// has 120 s fixed.
    broker_silence_timeout: Millis = "brokerSilenceTimeoutMillis", Millis(120_000);
    /// Whether a slave stands in for its master in route answers. Changes at run time.
    support_acting_master: bool = "supportActingMaster", false;
    /// Whether the members of a broker group are told when its smallest id changes. Changes at run time.
    notify_min_broker_id_changed: bool = "notifyMinBrokerIdChanged", false;
    /// Whether the list of all topics may be asked for. Changes at run time.
    enable_all_topic_list: bool = "enableAllTopicList", true;
    /// Whether the other lists of topics may be asked for. Changes at run time.
    enable_topic_list: bool = "enableTopicList", true;
    /// Whether route requests are refused for a while after the start, so that brokers can register first.
    need_wait_for_service: bool = "needWaitForService", false;
    /// How long that while is.
    wait_seconds_for_service: Seconds = "waitSecondsForService", Seconds(45);
    /// Whether topics that a full registration does not name any more are removed. Changes at run time.
    delete_topic_with_broker_registration: bool = "deleteTopicWithBrokerRegistration", false;
    /// More connections than this are closed as they come. Our own key.
    connections_max: usize = "connectionsMax", 100_000;
}

/// Where the original keeps what it remembers.
fn under_home(file: &str) -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_else(|| ".".into());
    PathBuf::from(home).join("namesrv").join(file)
}

impl NameServerConfig {
    /// Reads a file over what is set already; it becomes the file that changes are written to. Keys nobody knows are
    /// named in the log, with their place.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`]; [`ConfigError::Value`] with file and line.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        path.clone_into(&mut self.config_store_path);
        for (key, value) in properties_text::parse(&text) {
            let line = properties_text::line_of(&text, &key).unwrap_or(1);
            let place = format!("{}:{line}", path.display());
            match self.set(&key, &value) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(
                    "{place}: unknown key {key} ignored; `mqnamesrv -p` lists the known ones"
                ),
                Err(expected) => {
                    return Err(ConfigError::Value {
                        place,
                        key,
                        value,
                        expected,
                    });
                }
            }
        }
        Ok(())
    }

    /// Every key and value as a properties text, sorted, as request 319 and `-p` give it.
    #[must_use]
    pub fn text(&self) -> String {
        let entries = self.entries();
        properties_text::write(entries.iter().map(|(key, value)| (*key, value.as_str())))
    }

    fn is_black_listed(&self, key: &str) -> bool {
        key == "rocketmqHome" || self.config_black_list.split(';').any(|black| black == key)
    }
}

/// Holds the configuration in force: read without a lock, replaced as a whole.
#[derive(Debug)]
pub(crate) struct ConfigCell {
    current: ArcSwap<NameServerConfig>,
    /// One change at a time: checking, writing the file and putting in force is one step.
    changing: Mutex<()>,
}

impl ConfigCell {
    pub(crate) fn new(config: NameServerConfig) -> Self {
        Self {
            current: ArcSwap::from_pointee(config),
            changing: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self) -> Guard<Arc<NameServerConfig>> {
        self.current.load()
    }

    /// Applies a properties text, all or nothing, and writes the changed keys into the file, where everything else
    /// stays as it is. Unknown keys are ignored but named in the log. What is read at the start only takes effect at
    /// the next one.
    pub(crate) fn update(&self, text: &str) -> Result<(), ConfigError> {
        let _one_at_a_time = self.changing.lock();
        let mut next = NameServerConfig::clone(&self.get());
        let mut changes = Vec::new();
        for (key, value) in properties_text::parse(text) {
            if self.get().is_black_listed(&key) {
                return Err(ConfigError::BlackListed);
            }
            match next.set(&key, &value) {
                Ok(true) => changes.push((key, value)),
                Ok(false) => tracing::warn!(key, "unknown key in an update ignored"),
                Err(expected) => {
                    return Err(ConfigError::Value {
                        place: "update".to_owned(),
                        key,
                        value,
                        expected,
                    });
                }
            }
        }
        write_back(&next.config_store_path, &changes)?;
        for (key, value) in &changes {
            tracing::info!(key, value, "configuration changed");
        }
        self.current.store(Arc::new(next));
        Ok(())
    }
}

fn write_back(path: &Path, changes: &[(String, String)]) -> Result<(), ConfigError> {
    if changes.is_empty() {
        return Ok(());
    }
    let unwritable = |source| ConfigError::Unwritable {
        path: path.to_owned(),
        source,
    };
    let before = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(unwritable(error)),
    };
    let pairs = changes
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let after = properties_text::with_changes(&before, pairs);
    whole_file::replace(path, after.as_bytes()).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(tempfile::NamedTempFile, NameServerConfig), ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut config = NameServerConfig::default();
        config.read_file(file.path())?;
        Ok((file, config))
    }

    #[test]
    fn known_keys_are_set_and_unknown_ones_do_no_harm() {
        let (file, config) = read("# mine\nlistenPort = 19876\nsomethingElse=1\n").unwrap();
        assert_eq!(config.listen_port, 19876);
        assert_eq!(config.config_store_path, file.path());
    }

    #[test]
    fn a_bad_value_names_file_line_key_and_value() {
        let error = read("\n\nlistenPort=ten\n").unwrap_err().to_string();
        assert!(
            error.contains(":3: listenPort=ten is not a number from 0 to 65535"),
            "{error}"
        );
    }

    #[test]
    fn every_key_that_the_original_lists_is_listed() {
        // getNamesrvConfig of 5.3.3.
        let original = "bindAddress clientRequestThreadPoolNums clientRequestThreadPoolQueueCapacity \
            clusterTest configBlackList configStorePath defaultThreadPoolNums \
            defaultThreadPoolQueueCapacity deleteTopicWithBrokerRegistration \
            enableAllTopicList enableControllerInNamesrv enableShutdownGracefully \
            enableTopicList kvConfigPath listenPort needWaitForService \
            notifyMinBrokerIdChanged orderMessageEnable productEnvName \
            returnOrderTopicConfigToBroker rocketmqHome scanNotActiveBrokerInterval \
            serverAsyncSemaphoreValue serverCallbackExecutorThreads \
            serverChannelMaxIdleTimeSeconds serverNettyWorkerGroupEnable \
            serverOnewaySemaphoreValue serverPooledByteBufAllocatorEnable \
            serverSelectorThreads serverSocketBacklog serverSocketRcvBufSize \
            serverSocketSndBufSize serverWorkerThreads shutdownWaitTimeSeconds \
            supportActingMaster unRegisterBrokerQueueCapacity useEpollNativeSelector \
            waitSecondsForService writeBufferHighWaterMark writeBufferLowWaterMark";
        let listed = NameServerConfig::default().entries();
        for key in original.split(' ') {
            assert!(listed.contains_key(key), "{key}");
        }
        let own = ["brokerSilenceTimeoutMillis", "connectionsMax"];
        assert_eq!(listed.len(), original.split(' ').count() + own.len());
    }

    #[test]
    fn an_update_changes_its_keys_alone_in_the_file() {
        let (file, config) = read("# operator's words\nlistenPort=1\n").unwrap();
        let cell = ConfigCell::new(config);
        cell.update("orderMessageEnable=true\nnobodyKnows=1\n")
            .unwrap();
        assert!(cell.get().order_message_enable);
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "# operator's words\nlistenPort=1\norderMessageEnable=true\n"
        );
    }

    #[test]
    fn a_refused_update_changes_nothing() {
        let (file, config) = read("listenPort=1\n").unwrap();
        let cell = ConfigCell::new(config);
        for text in [
            "enableTopicList=false\nkvConfigPath=/x\n",
            "enableTopicList=false\nrocketmqHome=/x\n",
            "enableTopicList=false\nscanNotActiveBrokerInterval=soon\n",
        ] {
            assert!(cell.update(text).is_err(), "{text}");
            assert!(cell.get().enable_topic_list);
        }
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "listenPort=1\n"
        );
    }
}
