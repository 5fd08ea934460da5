//! Subscription groups: their settings, which of their topics are forbidden to them, and how they are kept
//! (`config/subscriptionGroup.json`).
//!
//! Look-ups take no lock. A group comes to be with its first heartbeat, pull or send-back if the broker allows that, and is in the
//! journal before it is used. Source: spec/semantics.md §2.6, spec/store.md §1.2; Apache `SubscriptionGroupManager`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::subscription_group::{
    SubscriptionGroupConfig, SubscriptionGroupWrapper,
};
use agena_protocol::clock::Clock;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::group;
use serde::{Deserialize, Serialize};

use crate::snapshot_files::{Saver, SnapshotError, SnapshotFile};
use crate::topics::attributes::AttributeFault;
use crate::versioned_table::{Content, Edit, FileForm, VersionedTable};

/// The bit of a forbidden topic that says "not readable": bit 2, as the read permission.
const FORBIDDEN_READ: i32 = 1 << 2;

/// Groups every broker has (spec/store.md §6.7).
const BUILT_IN: [&str; 8] = [
    group::TOOLS_CONSUMER,
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    group::TRANSACTION_CONSUMER,
];

/// A group's settings and the topics that are forbidden to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The settings; `None` for a group that only has forbidden topics.
    pub config: Option<SubscriptionGroupConfig>,
    /// Bits by topic.
    #[serde(default)]
    pub forbidden: BTreeMap<String, i32>,
}

/// All groups.
#[derive(Debug)]
pub struct Groups {
    table: Arc<VersionedTable<Group>>,
    auto_create: AtomicBool,
}

impl Groups {
    /// Reads `subscriptionGroup.json` and adds what every broker has. `auto_create` is `autoCreateSubscriptionGroup`.
    ///
    /// # Errors
    /// [`SnapshotError`] when there is a file that nobody can read.
    pub fn open(
        auto_create: bool,
        directory: &Path,
        saver: &Arc<Saver>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SnapshotError> {
        let table = VersionedTable::open(directory, saver, clock)?;
        for name in BUILT_IN {
            let config = SubscriptionGroupConfig::new(name);
            table.provide(name, Group::of(config));
        }
        table.save_soon();
        Ok(Self {
            table,
            auto_create: AtomicBool::new(auto_create),
        })
    }

    /// From now on unknown groups are created on demand, or not.
    pub fn configure(&self, auto_create: bool) {
        self.auto_create.store(auto_create, Ordering::Relaxed);
    }

    /// The group with its forbidden topics: one look-up for a pull.
    pub fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.table.get(name).filter(|group| group.config.is_some())
    }

    /// The settings of a group.
    pub fn get(&self, name: &str) -> Option<SubscriptionGroupConfig> {
        self.table.get(name)?.config.clone()
    }

    /// The group, created if it is missing, its name is legal and the broker allows it; the system's own always.
    pub fn get_or_create(&self, name: &str) -> Option<Arc<Group>> {
        if let Some(group) = self.group(name) {
            return Some(group);
        }
        let allowed = self.auto_create.load(Ordering::Relaxed) || group::is_system(name);
        if !allowed || group::check(name).is_err() {
            return None;
        }
        Some(self.table.edit(|edit| match edit.get(name) {
            Some(group) if group.config.is_some() => group,
            existing => {
                let mut group = Group::of(SubscriptionGroupConfig::new(name));
                if let Some(existing) = existing {
                    group.forbidden = existing.forbidden.clone();
                }
                tracing::info!(group = name, "created");
                edit.set(name, group)
            }
        }))
    }

    /// Every group's settings, in no order.
    pub fn all(&self) -> Vec<SubscriptionGroupConfig> {
        let entries = self.table.entries().into_iter();
        entries
            .filter_map(|(_, group)| group.config.clone())
            .collect()
    }

    /// Everything as request 201 answers it.
    pub fn wrapper(&self) -> SubscriptionGroupWrapper {
        let (version, entries) = self.table.versioned_entries();
        wrapper_of(&version, &entries)
    }

    /// How often groups were changed, and when last.
    pub fn data_version(&self) -> DataVersion {
        self.table.version()
    }

    /// An administrator's create or update, durable on return.
    ///
    /// # Errors
    /// [`GroupRefused`].
    pub fn update_all(&self, configs: &[SubscriptionGroupConfig]) -> Result<(), GroupRefused> {
        for config in configs {
            // No attribute of groups exists in 5.3.3; a plus or minus stands before the name.
            if let Some(signed) = config.attributes.keys().next() {
                let name = signed.get(1..).unwrap_or_default().to_owned();
                return Err(AttributeFault::Unsupported(name).into());
            }
        }
        self.table.edit_durably(|edit| {
            for config in configs {
                set_config(edit, config);
            }
        })?;
        Ok(())
    }

    /// Removes a group's settings and its forbidden topics; durable on return. False when there was none.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn delete(&self, name: &str) -> Result<bool, SnapshotError> {
        self.table.edit_durably(|edit| edit.remove(name).is_some())
    }

    /// Stops a group from consuming, or lets it again (`consumeEnable`). False when there is no such group.
    pub fn set_consume_enable(&self, name: &str, enable: bool) -> bool {
        self.table.edit(|edit| {
            let Some(mut config) = edit.get(name).and_then(|group| group.config.clone()) else {
                return false;
            };
            config.consume_enable = enable;
            set_config(edit, &config);
            true
        })
    }

    /// Whether `topic` is forbidden to the group.
    pub fn is_forbidden(&self, name: &str, topic: &str) -> bool {
        self.table
            .get(name)
            .is_some_and(|group| group.forbids_reading(topic))
    }

    /// Forbids a topic to a group, or allows it again; durable on return.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn set_readable(
        &self,
        name: &str,
        topic: &str,
        readable: bool,
    ) -> Result<(), SnapshotError> {
        self.table.edit_durably(|edit| {
            let before = edit.get(name);
            let mut group = before.as_deref().cloned().unwrap_or(Group {
                config: None,
                forbidden: BTreeMap::new(),
            });
            let bits = group.forbidden.get(topic).copied().unwrap_or(0);
            let bits = if readable {
                bits & !FORBIDDEN_READ
            } else {
                bits | FORBIDDEN_READ
            };
            if bits == 0 {
                group.forbidden.remove(topic);
            } else {
                group.forbidden.insert(topic.to_owned(), bits);
            }
            if before.as_deref() != Some(&group) {
                edit.set(name, group);
            }
        })
    }

    /// Writes the file now, if it is behind.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn save(&self) -> Result<(), SnapshotError> {
        crate::snapshot_files::Save::save(&*self.table)
    }
}

/// Why a group is not changed (code 1).
#[derive(Debug, thiserror::Error)]
pub enum GroupRefused {
    /// The attributes cannot be changed so.
    #[error(transparent)]
    Attributes(#[from] AttributeFault),
    /// It is not known whether the change survives.
    #[error(transparent)]
    NotDurable(#[from] SnapshotError),
}

impl Group {
    fn of(config: SubscriptionGroupConfig) -> Self {
        Self {
            config: Some(config),
            forbidden: BTreeMap::new(),
        }
    }

    /// Its name; empty for one without settings, which no look-up gives.
    pub fn name(&self) -> &str {
        self.config.as_ref().map_or("", |config| &config.group_name)
    }

    /// May consume at all.
    pub fn may_consume(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|config| config.consume_enable)
    }

    /// May consume by broadcasting.
    pub fn may_broadcast(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|config| config.consume_broadcast_enable)
    }

    /// The bits that pull answers carry.
    pub fn sys_flag(&self) -> i32 {
        self.config
            .as_ref()
            .map_or(0, |config| config.group_sys_flag)
    }

    /// Whether `topic` is forbidden to this group.
    pub fn forbids_reading(&self, topic: &str) -> bool {
        let bits = self.forbidden.get(topic).copied().unwrap_or(0);
        bits & FORBIDDEN_READ != 0
    }
}

fn set_config(edit: &mut Edit<'_, Group>, config: &SubscriptionGroupConfig) {
    let before = edit.get(&config.group_name);
    let forbidden = before.as_deref().map(|group| group.forbidden.clone());
    let group = Group {
        config: Some(config.clone()),
        forbidden: forbidden.unwrap_or_default(),
    };
    if before.as_deref() != Some(&group) {
        edit.set(&config.group_name, group);
    }
}

fn wrapper_of(
    version: &DataVersion,
    entries: &[(Arc<str>, Arc<Group>)],
) -> SubscriptionGroupWrapper {
    let mut wrapper = SubscriptionGroupWrapper {
        data_version: *version,
        ..SubscriptionGroupWrapper::default()
    };
    for (name, group) in entries {
        if let Some(config) = &group.config {
            let table = &mut wrapper.subscription_group_table;
            table.insert(name.to_string(), config.clone());
        }
        if !group.forbidden.is_empty() {
            let table = &mut wrapper.forbidden_table;
            table.insert(name.to_string(), group.forbidden.clone());
        }
    }
    wrapper
}

impl FileForm for Group {
    const FILE_NAME: &'static str = "subscriptionGroup.json";

    fn load(file: &SnapshotFile) -> Result<Option<Content<Self>>, SnapshotError> {
        let Some(mut wrapper) = file.load::<SubscriptionGroupWrapper>()? else {
            return Ok(None);
        };
        let mut entries: Vec<_> = wrapper
            .subscription_group_table
            .into_iter()
            .map(|(name, config)| {
                let forbidden = wrapper.forbidden_table.remove(&name).unwrap_or_default();
                let config = Some(config);
                (name, Self { config, forbidden })
            })
            .collect();
        entries.extend(
            wrapper
                .forbidden_table
                .into_iter()
                .map(|(name, forbidden)| {
                    let config = None;
                    (name, Self { config, forbidden })
                }),
        );
        Ok(Some(Content {
            version: wrapper.data_version,
            entries,
        }))
    }

    fn encode(version: &DataVersion, entries: &[(Arc<str>, Arc<Self>)]) -> Vec<u8> {
        fastjson::to_vec(&wrapper_of(version, entries), KeyStyle::Bare)
    }
}

#[cfg(test)]
mod tests {
    use agena_protocol::clock::ManualClock;

    use super::*;

    fn open(directory: &Path, auto_create: bool) -> (Groups, Arc<Saver>) {
        let saver = Saver::start();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let groups = Groups::open(auto_create, directory, &saver, clock).unwrap();
        (groups, saver)
    }

    #[test]
    fn a_group_comes_to_be_when_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let (groups, _saver) = open(directory.path(), true);
        let made = groups.get_or_create("g").unwrap();
        let config = made.config.as_ref().unwrap();
        assert_eq!((config.retry_max_times, config.retry_queue_nums), (16, 1));
        assert!(config.consume_enable && config.consume_broadcast_enable);
        assert!(groups.get_or_create("not legal!").is_none());
        assert!(groups.get_or_create(&"g".repeat(256)).is_none());
        groups.configure(false);
        assert!(groups.get_or_create("h").is_none());
        assert!(groups.get_or_create("CID_RMQ_SYS_x").is_some());
    }

    #[test]
    fn settings_and_forbidden_topics_survive_a_crash_and_a_clean_stop() {
        let directory = tempfile::tempdir().unwrap();
        let (groups, _never_saved) = open(directory.path(), true);
        let mut config = SubscriptionGroupConfig::new("g");
        config.retry_max_times = 3;
        groups.update_all(&[config]).unwrap();
        groups.set_readable("g", "T", false).unwrap();
        groups.set_readable("unknown", "T", false).unwrap();
        for clean in [false, true] {
            let (again, saver) = open(directory.path(), true);
            assert_eq!(again.get("g").unwrap().retry_max_times, 3, "clean: {clean}");
            assert!(again.is_forbidden("g", "T") && again.is_forbidden("unknown", "T"));
            assert!(!again.is_forbidden("g", "U"));
            assert!(again.get("unknown").is_none());
            saver.stop();
        }
        let (again, _saver) = open(directory.path(), true);
        again.set_readable("g", "T", true).unwrap();
        assert!(!again.is_forbidden("g", "T"));
        assert!(again.delete("g").unwrap());
        assert!(again.get("g").is_none());
    }

    #[test]
    fn the_same_settings_again_are_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let (groups, _saver) = open(directory.path(), true);
        groups
            .update_all(&[SubscriptionGroupConfig::new("g")])
            .unwrap();
        let version = groups.data_version();
        groups
            .update_all(&[SubscriptionGroupConfig::new("g")])
            .unwrap();
        assert_eq!(groups.data_version(), version);
    }
}
