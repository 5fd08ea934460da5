//! The topics of this broker: what they are, who may create them, and how they are kept (`config/topics.json`).
//!
//! Look-ups take no lock, since every send and pull makes one. A topic that a send creates is in memory and in the journal before
//! the send goes on; a topic that an administrator creates is on the device before the answer. Whoever tells name servers is called
//! after a change, under no lock. Source: spec/semantics.md §2.2–2.6; Apache `TopicConfigManager`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::topic_config::{
    PERM_INHERIT, PERM_READ, PERM_WRITE, TOPIC_SYS_FLAG_UNIT, TOPIC_SYS_FLAG_UNIT_SUB, TopicConfig,
    TopicConfigSerializeWrapper,
};
use agena_protocol::clock::Clock;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::topic;
use arc_swap::ArcSwap;
use thiserror::Error;

use crate::snapshot_files::{Saver, SnapshotError, SnapshotFile};
use crate::versioned_table::{Content, Edit, FileForm, VersionedTable};

pub mod attributes;

use attributes::{AttributeFault, Attributes};

/// What ordinary topics have.
pub const PERM_READ_WRITE: i32 = PERM_READ | PERM_WRITE;

/// The part of the configuration that topics depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// `brokerClusterName`.
    pub cluster: String,
    /// `brokerName`.
    pub broker_name: String,
    /// `autoCreateTopicEnable`: a send may create its topic.
    pub auto_create: bool,
    /// `defaultTopicQueueNums`: queues of the template that such topics copy.
    pub default_queue_nums: i32,
    /// `clusterTopicEnable`: the topic called as the cluster can be sent to.
    pub cluster_topic: bool,
    /// `brokerTopicEnable`: the topic called as the broker can be sent to.
    pub broker_topic: bool,
    /// `msgTraceTopicName`, if `traceTopicEnable`.
    pub trace_topic: Option<String>,
    /// `timerWheelEnable`.
    pub timer_wheel: bool,
    /// `reviveQueueNum`.
    pub revive_queue_nums: i32,
    /// `enableMixedMessageType`: the attribute `message.type=MIXED` is allowed.
    pub mixed_message_type: bool,
}

/// Why a topic is not changed.
#[derive(Debug, Error)]
pub enum TopicRefused {
    /// Code 29: the name, or something else about the request, is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// Code 1: the attributes cannot be changed so.
    #[error(transparent)]
    Attributes(#[from] AttributeFault),
    /// Code 1: it is not known whether the change survives.
    #[error(transparent)]
    NotDurable(#[from] SnapshotError),
}

type Listener = Box<dyn Fn(&[Arc<TopicConfig>], &DataVersion) + Send + Sync>;

/// All topics.
pub struct Topics {
    table: Arc<VersionedTable<TopicConfig>>,
    settings: ArcSwap<TopicSettings>,
    listener: OnceLock<Listener>,
}

impl Topics {
    /// Reads `topics.json` and adds what every broker has.
    ///
    /// # Errors
    /// [`SnapshotError`] when there is a file that nobody can read.
    pub fn open(
        settings: TopicSettings,
        directory: &Path,
        saver: &Arc<Saver>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SnapshotError> {
        let table = VersionedTable::open(directory, saver, clock)?;
        for config in built_in(&settings) {
            let name = config.topic_name.clone();
            table.provide(&name, config);
        }
        table.save_soon();
        Ok(Self {
            table,
            settings: ArcSwap::from_pointee(settings),
            listener: OnceLock::new(),
        })
    }

    /// Has `listener` called with the topics of each change, on the thread of the change, under no lock. Once only.
    pub fn on_change(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    /// From now on these settings hold; topics that exist stay as they are.
    pub fn configure(&self, settings: TopicSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// The topic `name`.
    pub fn get(&self, name: &str) -> Option<Arc<TopicConfig>> {
        self.table.get(name)
    }

    /// Every topic, in no order.
    pub fn all(&self) -> Vec<Arc<TopicConfig>> {
        let entries = self.table.entries();
        entries.into_iter().map(|(_, config)| config).collect()
    }

    /// Every topic at one moment, with the version of that moment.
    pub fn versioned(&self) -> (DataVersion, Vec<Arc<TopicConfig>>) {
        let (version, entries) = self.table.versioned_entries();
        (
            version,
            entries.into_iter().map(|(_, config)| config).collect(),
        )
    }

    /// How often topics were changed, and when last.
    pub fn data_version(&self) -> DataVersion {
        self.table.version()
    }

    /// Something that is registered together with the topics was changed (the broker's permission).
    pub fn bump_version(&self) {
        self.table.edit(|edit| edit.bump_version());
    }

    /// Reserved on this broker: administrators do not change it.
    pub fn is_system(&self, name: &str) -> bool {
        topic::is_system(name) || own_system_topics(&self.settings.load()).any(|own| own == name)
    }

    /// The reserved names, as request 305 lists them.
    pub fn system_topics(&self) -> Vec<String> {
        let settings = self.settings.load();
        let mut names: Vec<String> = topic::SYSTEM_TOPICS.map(str::to_owned).into();
        names.extend(own_system_topics(&settings));
        names
    }

    /// The topic a send is for, created if the broker allows it (spec/semantics.md §2.4): as a copy of the producer's
    /// `template`, or for a retry topic always.
    pub fn create_on_send(
        &self,
        name: &str,
        template: &str,
        queue_nums: i32,
        unit_mode: bool,
    ) -> Option<Arc<TopicConfig>> {
        if let Some(config) = self.get(name) {
            return Some(config);
        }
        let sys_flag = if unit_mode { TOPIC_SYS_FLAG_UNIT } else { 0 };
        if let Some(copy) = self.copy_of_template(name, template, queue_nums, sys_flag) {
            return Some(self.create_unless_there(copy));
        }
        topic::is_retry(name).then(|| {
            let flag = if unit_mode {
                TOPIC_SYS_FLAG_UNIT_SUB
            } else {
                0
            };
            self.create_unless_there(TopicConfig {
                topic_sys_flag: flag,
                ..TopicConfig::new(name, 1, PERM_READ_WRITE)
            })
        })
    }

    /// The retry topic of a group, made if it is missing; its order mark follows `order`.
    pub fn ensure_retry(
        &self,
        name: &str,
        queue_nums: i32,
        order: bool,
        unit_mode: bool,
    ) -> Arc<TopicConfig> {
        let mut config = match self.get(name) {
            Some(config) if config.order == order => return config,
            Some(config) => TopicConfig::clone(&config),
            None => TopicConfig::new(name, queue_nums, PERM_READ_WRITE),
        };
        config.order = order;
        if unit_mode {
            config.topic_sys_flag |= TOPIC_SYS_FLAG_UNIT_SUB;
        }
        let (config, version) = self.table.edit(|edit| {
            let config = edit.set(name, config);
            (config, *edit.version())
        });
        self.tell(std::slice::from_ref(&config), &version);
        config
    }

    /// A topic of one queue for dead letters, or another that the broker itself needs, made if it is missing.
    pub fn ensure(&self, name: &str, queue_nums: i32) -> Arc<TopicConfig> {
        match self.get(name) {
            Some(config) => config,
            None => self.create_unless_there(TopicConfig::new(name, queue_nums, PERM_READ_WRITE)),
        }
    }

    /// An administrator's create or update: replaces everything but the attributes, which `requested.attributes` holds as changes
    /// with a sign before each name. Durable on return. A topic that is already so keeps its version.
    ///
    /// # Errors
    /// [`TopicRefused`]; [`TopicRefused::NotDurable`] only after the change was made in memory.
    pub fn update(&self, requested: &TopicConfig) -> Result<(), TopicRefused> {
        self.update_all(std::slice::from_ref(requested))
    }

    /// The same for many topics in one change. All are checked before the first is changed.
    ///
    /// # Errors
    /// As [`Topics::update`].
    pub fn update_all(&self, requested: &[TopicConfig]) -> Result<(), TopicRefused> {
        for config in requested {
            self.check_update(config)?;
        }
        let edited = self.table.edit_durably(|edit| {
            let planned: Vec<_> = requested
                .iter()
                .map(|config| planned_update(edit, config))
                .collect::<Result<_, _>>()?;
            let changed: Vec<_> = planned
                .into_iter()
                .flatten()
                .map(|config| edit.set(&config.topic_name.clone(), config))
                .collect();
            Ok::<_, AttributeFault>((changed, *edit.version()))
        });
        let (changed, version) = edited??;
        if !changed.is_empty() {
            self.tell(&changed, &version);
        }
        Ok(())
    }

    /// Removes a topic; the name servers keep its route until they are told. Durable on return.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn delete(&self, name: &str) -> Result<bool, SnapshotError> {
        self.table.edit_durably(|edit| edit.remove(name).is_some())
    }

    /// Marks as ordered what the name servers have an order configuration for; nothing loses the mark by this.
    pub fn mark_order<'n>(&self, names: impl Iterator<Item = &'n str>) {
        for name in names {
            if self.get(name).is_some_and(|config| !config.order) {
                self.table.edit(|edit| {
                    if let Some(config) = edit.get(name) {
                        let mut config = TopicConfig::clone(&config);
                        config.order = true;
                        edit.set(name, config);
                    }
                });
            }
        }
    }

    /// Writes the file now, if it is behind.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn save(&self) -> Result<(), SnapshotError> {
        crate::snapshot_files::Save::save(&*self.table)
    }

    fn copy_of_template(
        &self,
        name: &str,
        template: &str,
        queue_nums: i32,
        sys_flag: i32,
    ) -> Option<TopicConfig> {
        let settings = self.settings.load();
        if template == topic::AUTO_CREATE && !settings.auto_create {
            return None;
        }
        let template = self.get(template)?;
        if template.perm & PERM_INHERIT == 0 {
            return None;
        }
        let queue_nums = queue_nums.min(template.write_queue_nums).max(0);
        Some(TopicConfig {
            topic_sys_flag: sys_flag,
            topic_filter_type: template.topic_filter_type,
            ..TopicConfig::new(name, queue_nums, template.perm & !PERM_INHERIT)
        })
    }

    fn create_unless_there(&self, config: TopicConfig) -> Arc<TopicConfig> {
        let name = config.topic_name.clone();
        let (config, version) = self.table.edit(|edit| match edit.get(&name) {
            Some(there) => (there, None),
            None => {
                let config = edit.set(&name, config);
                (config, Some(*edit.version()))
            }
        });
        if let Some(version) = version {
            tracing::info!(topic = name, queues = config.write_queue_nums, "created");
            self.tell(std::slice::from_ref(&config), &version);
        }
        config
    }

    fn check_update(&self, config: &TopicConfig) -> Result<(), TopicRefused> {
        let name = &config.topic_name;
        topic::check(name).map_err(|fault| TopicRefused::Invalid(fault.to_string()))?;
        if self.is_system(name) {
            return Err(TopicRefused::Invalid(topic::system_conflict_remark(name)));
        }
        let message_type = config.attributes.get("+message.type").map(String::as_str);
        if message_type == Some("MIXED") && !self.settings.load().mixed_message_type {
            let remark = "MIXED message type is not supported.";
            return Err(TopicRefused::Invalid(remark.into()));
        }
        Ok(())
    }

    fn tell(&self, topics: &[Arc<TopicConfig>], version: &DataVersion) {
        if let Some(listener) = self.listener.get() {
            listener(topics, version);
        }
    }
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Topics").field(&self.table).finish()
    }
}

/// What a topic becomes by an update; `None` when it is already so.
fn planned_update(
    edit: &Edit<'_, TopicConfig>,
    requested: &TopicConfig,
) -> Result<Option<TopicConfig>, AttributeFault> {
    let current = edit.get(&requested.topic_name);
    let attributes: Attributes = match &current {
        None => attributes::of_new_topic(&requested.attributes)?,
        Some(current) => attributes::alter(&current.attributes, &requested.attributes)?,
    };
    let planned = TopicConfig {
        attributes,
        ..requested.clone()
    };
    Ok((current.as_deref() != Some(&planned)).then_some(planned))
}

impl FileForm for TopicConfig {
    const FILE_NAME: &'static str = "topics.json";

    fn load(file: &SnapshotFile) -> Result<Option<Content<Self>>, SnapshotError> {
        let content: Option<TopicConfigSerializeWrapper> = file.load()?;
        Ok(content.map(|wrapper| Content {
            version: wrapper.data_version,
            entries: wrapper.topic_config_table.into_iter().collect(),
        }))
    }

    fn encode(version: &DataVersion, entries: &[(Arc<str>, Arc<Self>)]) -> Vec<u8> {
        let wrapper = TopicConfigSerializeWrapper {
            data_version: *version,
            topic_config_table: entries
                .iter()
                .map(|(name, config)| (name.to_string(), TopicConfig::clone(config)))
                .collect(),
        };
        fastjson::to_vec(&wrapper, KeyStyle::Bare)
    }
}

/// Names reserved on this broker because they are made of its own name and its cluster's.
fn own_system_topics(settings: &TopicSettings) -> impl Iterator<Item = String> {
    let (cluster, broker) = (&settings.cluster, &settings.broker_name);
    [
        topic::TIMER_WHEEL.to_owned(),
        format!("{}{cluster}", topic::REVIVE_LOG_PREFIX),
        format!("{}{broker}", topic::SYNC_BROKER_MEMBER_PREFIX),
        topic::reply_of(cluster),
        broker.clone(),
        cluster.clone(),
    ]
    .into_iter()
    .chain(settings.trace_topic.clone())
}

/// Spec/semantics.md §2.2, spec/store.md §6.7.
fn built_in(settings: &TopicSettings) -> Vec<TopicConfig> {
    let (cluster, broker) = (&settings.cluster, &settings.broker_name);
    let template = |enabled: bool| PERM_INHERIT | if enabled { PERM_READ_WRITE } else { 0 };
    let mut topics = vec![
        TopicConfig::new(topic::SELF_TEST, 1, PERM_READ_WRITE),
        TopicConfig::new(topic::BENCHMARK, 1024, PERM_READ_WRITE),
        TopicConfig::new(cluster, 16, template(settings.cluster_topic)),
        TopicConfig::new(broker, 1, template(settings.broker_topic)),
        TopicConfig::new(topic::OFFSET_MOVED_EVENT, 1, PERM_READ_WRITE),
        TopicConfig::new(topic::SCHEDULE, 18, PERM_READ_WRITE),
        TopicConfig::new(topic::reply_of(cluster), 1, PERM_READ_WRITE),
        TopicConfig::new(
            format!("{}{cluster}", topic::REVIVE_LOG_PREFIX),
            settings.revive_queue_nums,
            PERM_READ_WRITE,
        ),
        TopicConfig::new(
            format!("{}{broker}", topic::SYNC_BROKER_MEMBER_PREFIX),
            1,
            PERM_INHERIT,
        ),
        TopicConfig::new(topic::TRANS_HALF, 1, PERM_READ_WRITE),
        TopicConfig::new(topic::TRANS_OP_HALF, 1, PERM_READ_WRITE),
    ];
    if settings.auto_create {
        let queues = settings.default_queue_nums;
        topics.push(TopicConfig::new(topic::AUTO_CREATE, queues, template(true)));
    }
    if let Some(trace) = &settings.trace_topic {
        topics.push(TopicConfig::new(trace, 1, PERM_READ_WRITE));
    }
    if settings.timer_wheel {
        topics.push(TopicConfig::new(topic::TIMER_WHEEL, 1, PERM_READ_WRITE));
    }
    topics
}

#[cfg(test)]
mod tests {
    use agena_protocol::clock::ManualClock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn settings() -> TopicSettings {
        TopicSettings {
            cluster: "C".into(),
            broker_name: "broker-a".into(),
            auto_create: true,
            default_queue_nums: 8,
            cluster_topic: true,
            broker_topic: true,
            trace_topic: None,
            timer_wheel: true,
            revive_queue_nums: 8,
            mixed_message_type: false,
        }
    }

    fn open(directory: &Path, settings: TopicSettings) -> (Topics, Arc<Saver>) {
        let saver = Saver::start();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let topics = Topics::open(settings, directory, &saver, clock).unwrap();
        (topics, saver)
    }

    fn requested(name: &str, queues: i32) -> TopicConfig {
        TopicConfig::new(name, queues, PERM_READ_WRITE)
    }

    #[test]
    fn every_broker_has_the_built_in_topics() {
        let directory = tempfile::tempdir().unwrap();
        let (topics, _saver) = open(directory.path(), settings());
        let template = topics.get("TBW102").unwrap();
        assert_eq!((template.perm, template.write_queue_nums), (7, 8));
        assert_eq!(
            topics.get("SCHEDULE_TOPIC_XXXX").unwrap().read_queue_nums,
            18
        );
        assert_eq!(
            topics
                .get("rmq_sys_SYNC_BROKER_MEMBER_broker-a")
                .unwrap()
                .perm,
            1
        );
        assert_eq!(topics.all().len(), 13);
        assert_eq!(topics.data_version().counter, 0);
    }

    #[test]
    fn a_send_creates_its_topic_from_the_template() {
        let directory = tempfile::tempdir().unwrap();
        let (topics, _saver) = open(directory.path(), settings());
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        topics.on_change(Box::new(move |changed, _| {
            count.fetch_add(changed.len(), Ordering::SeqCst);
        }));
        let made = topics.create_on_send("T", "TBW102", 4, false).unwrap();
        assert_eq!(
            (made.write_queue_nums, made.read_queue_nums, made.perm),
            (4, 4, 6)
        );
        let many = topics.create_on_send("T16", "TBW102", 16, true).unwrap();
        assert_eq!((many.write_queue_nums, many.topic_sys_flag), (8, 1));
        assert!(topics.create_on_send("T", "TBW102", 4, false).is_some());
        assert!(
            topics
                .create_on_send("N", "no such template", 4, false)
                .is_none()
        );
        assert!(
            topics
                .create_on_send("N", "BenchmarkTest", 4, false)
                .is_none()
        );
        assert_eq!(told.load(Ordering::SeqCst), 2);
        assert_eq!(topics.data_version().counter, 2);
    }

    #[test]
    fn without_auto_create_only_retry_topics_come_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let (before, saver) = open(directory.path(), settings());
        saver.stop();
        drop(before);
        let forbidden = TopicSettings {
            auto_create: false,
            ..settings()
        };
        let (topics, _saver) = open(directory.path(), forbidden);
        assert!(topics.get("TBW102").is_some());
        assert!(topics.create_on_send("T", "TBW102", 4, false).is_none());
        let retry = topics
            .create_on_send("%RETRY%g", "TBW102", 4, false)
            .unwrap();
        assert_eq!((retry.write_queue_nums, retry.perm), (1, 6));
    }

    #[test]
    fn what_was_created_is_there_after_a_crash_and_after_a_clean_stop() {
        let directory = tempfile::tempdir().unwrap();
        let (topics, _never_saved) = open(directory.path(), settings());
        topics.create_on_send("T", "TBW102", 4, false).unwrap();
        topics.update(&requested("A", 3)).unwrap();
        topics.update(&requested("B", 3)).unwrap();
        assert!(topics.delete("B").unwrap());
        let version = topics.data_version();

        let (crashed, saver) = open(directory.path(), settings());
        assert_eq!(crashed.data_version(), version);
        assert_eq!(crashed.get("T").unwrap().write_queue_nums, 4);
        assert!(crashed.get("B").is_none());
        saver.stop();
        let journal = directory.path().join("topics.json.journal");
        assert_eq!(std::fs::metadata(journal).unwrap().len(), 0);

        let (stopped, _saver) = open(directory.path(), settings());
        assert_eq!(stopped.data_version(), version);
        assert_eq!(stopped.get("A").unwrap().read_queue_nums, 3);
    }

    #[test]
    fn an_update_replaces_everything_but_attributes_and_the_same_again_is_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let (topics, _saver) = open(directory.path(), settings());
        let mut config = requested("T", 4);
        config.order = true;
        config.attributes = attributes::parse_changes("+message.type=FIFO").unwrap();
        topics.update(&config).unwrap();
        assert_eq!(topics.get("T").unwrap().attributes["message.type"], "FIFO");
        let version = topics.data_version();
        topics.update(&requested("T", 4)).unwrap();
        let updated = topics.get("T").unwrap();
        assert!(!updated.order);
        assert_eq!(updated.attributes["message.type"], "FIFO");
        assert_eq!(topics.data_version().counter, version.counter + 1);
        topics.update(&requested("T", 4)).unwrap();
        assert_eq!(topics.data_version().counter, version.counter + 1);
    }

    #[test]
    fn what_may_not_be_updated_is_refused_with_the_original_s_words() {
        let directory = tempfile::tempdir().unwrap();
        let (topics, _saver) = open(directory.path(), settings());
        for (name, remark) in [
            ("TBW102", "The topic[TBW102] is conflict with system topic."),
            (
                "broker-a",
                "The topic[broker-a] is conflict with system topic.",
            ),
            ("", "The specified topic is blank."),
        ] {
            let refused = topics.update(&requested(name, 1)).unwrap_err();
            assert!(
                matches!(&refused, TopicRefused::Invalid(text) if text == remark),
                "{refused}"
            );
        }
        let mut mixed = requested("M", 1);
        mixed.attributes = attributes::parse_changes("+message.type=MIXED").unwrap();
        assert!(matches!(
            topics.update(&mixed),
            Err(TopicRefused::Invalid(_))
        ));
        let good = requested("G", 1);
        mixed.attributes = attributes::parse_changes("+message.type=NO").unwrap();
        assert!(topics.update_all(&[good, mixed]).is_err());
        assert!(
            topics.get("G").is_none(),
            "a list is changed as a whole or not at all"
        );
    }

    #[test]
    fn a_retry_topic_follows_the_order_of_what_its_group_consumes() {
        let directory = tempfile::tempdir().unwrap();
        let (topics, _saver) = open(directory.path(), settings());
        assert!(!topics.ensure_retry("%RETRY%g", 1, false, false).order);
        let counter = topics.data_version().counter;
        assert!(!topics.ensure_retry("%RETRY%g", 5, false, false).order);
        assert_eq!(topics.data_version().counter, counter);
        assert!(topics.ensure_retry("%RETRY%g", 5, true, false).order);
        assert_eq!(topics.get("%RETRY%g").unwrap().write_queue_nums, 1);
    }
}
