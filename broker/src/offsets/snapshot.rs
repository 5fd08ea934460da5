//! `config/consumerOffset.json`, in the original's shape:
//!
//! ```text
//! {"dataVersion":{…},"groupTopicMap":{"G":["T1"]},"offsetTable":{"T1@G":{0:7,1:3}}}
//! ```
//! A value is the next offset to consume. `groupTopicMap` is a view that the original's serialiser emits; it is written
//! for tools that look at it and ignored when read. Source: spec/store.md §1.2.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::fastjson;
use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::QueueId;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::{Offsets, Progress, QUEUES_MAX, SHARDS};
use crate::snapshot_files::{SnapshotError, SnapshotFile};

/// Between topic and group in a key. Neither can contain it.
pub(super) const SEPARATOR: char = '@';

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConsumerOffsetJson {
    data_version: DataVersion,
    group_topic_map: BTreeMap<String, BTreeSet<String>>,
    offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
}

impl Offsets {
    /// Reads `consumerOffset.json` in `config_dir`, or its backup; starts empty when there is neither.
    ///
    /// # Errors
    /// [`SnapshotError`] when a file is there and cannot be read.
    pub(crate) fn open(config_dir: &Path, version_step: u64) -> Result<Self, SnapshotError> {
        let file = SnapshotFile::new(config_dir, "consumerOffset.json");
        let json: ConsumerOffsetJson = file.load()?.unwrap_or_default();
        let (journal, changes) = Journal::open(config_dir)?;
        let offsets = Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            changes: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            version_step: version_step.max(1),
            version: Mutex::new(json.data_version),
            file,
            journal,
        };
        let mut table = json.offset_table;
        if !changes.is_empty() {
            // The file is behind; the next save brings it up to date.
            offsets.changes.fetch_add(1, Ordering::Relaxed);
        }
        for change in changes {
            let queues = table.entry(change.key).or_default();
            queues.insert(change.queue.wire(), change.offset.wire());
        }
        for (key, queues) in table {
            offsets.load(&key, queues);
        }
        Ok(offsets)
    }

    fn load(&self, key: &str, queues: BTreeMap<i32, i64>) {
        let Some((topic, group)) = key.split_once(SEPARATOR) else {
            tracing::warn!(
                key,
                "an entry of consumerOffset.json names no group and is ignored"
            );
            return;
        };
        let committed = queues.into_iter().filter_map(|(queue, offset)| {
            let queue = QueueId::from_wire(queue).filter(|queue| queue.number() < QUEUES_MAX)?;
            Some((queue, QueueOffset::from_wire(offset)?))
        });
        let progress = Progress {
            committed: committed.collect(),
            ..Progress::default()
        };
        let mut shard = self.shard(group).write();
        let topics = shard.entry(Arc::from(group)).or_default();
        topics.insert(Arc::from(topic), Arc::new(Mutex::new(progress)));
    }

    /// The file has every change.
    #[must_use]
    pub(crate) fn is_saved(&self) -> bool {
        self.changes.load(Ordering::Acquire) == self.saved.load(Ordering::Acquire)
    }

    /// Writes the file if anything changed since it was written.
    ///
    /// # Errors
    /// [`SnapshotError`]; then the next call tries again.
    pub(crate) fn save(&self, now_ms: i64) -> Result<(), SnapshotError> {
        let changes = self.changes.load(Ordering::Acquire);
        if changes == self.saved.load(Ordering::Acquire) {
            return Ok(());
        }
        self.step_version(changes, now_ms);
        self.replace_journal(
            || self.to_json(),
            |json| self.file.save(&fastjson::to_vec_pretty(&json)),
        )?;
        self.saved.store(changes, Ordering::Release);
        Ok(())
    }

    /// The version moves once per `version_step` changes, as replicas of the original expect.
    fn step_version(&self, changes: u64, now_ms: i64) {
        let steps = |count: u64| count / self.version_step;
        let moved = steps(changes) - steps(self.saved.load(Ordering::Acquire).min(changes));
        if moved > 0 {
            let mut version = self.version.lock();
            version.counter = version.counter.saturating_add_unsigned(moved);
            version.timestamp = now_ms;
        }
    }

    /// The file's content as one line, which is also the body of the answer to request 43.
    #[must_use]
    pub(crate) fn to_body(&self) -> Vec<u8> {
        fastjson::to_vec(&self.to_json(), fastjson::KeyStyle::Bare)
    }

    fn to_json(&self) -> ConsumerOffsetJson {
        let mut json = ConsumerOffsetJson {
            data_version: *self.version.lock(),
            ..ConsumerOffsetJson::default()
        };
        for shard in &self.shards {
            for (group, topics) in shard.read().iter() {
                for (topic, progress) in topics {
                    let committed = progress.lock().committed.clone();
                    json.add(topic, group, &committed);
                }
            }
        }
        json
    }
}

impl ConsumerOffsetJson {
    fn add(&mut self, topic: &str, group: &str, committed: &BTreeMap<QueueId, QueueOffset>) {
        if committed.is_empty() {
            return;
        }
        let queues = committed
            .iter()
            .map(|(queue, offset)| (queue.wire(), offset.wire()));
        self.offset_table
            .insert(format!("{topic}{SEPARATOR}{group}"), queues.collect());
        self.group_topic_map
            .entry(group.to_owned())
            .or_default()
            .insert(topic.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::Committed;
    use super::super::trail::Visitor;
    use super::*;

    const QUEUE: QueueId = QueueId::new(1);

    fn offset(number: u64) -> QueueOffset {
        QueueOffset::new(number)
    }

    #[test]
    fn what_is_committed_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 2).unwrap();
        offsets.commit("G", "T", QUEUE, offset(7));
        offsets.commit("G", "T", QUEUE, offset(5));
        let visitor = Visitor {
            connection: 1,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            at_ms: 5,
        };
        offsets.pulled("G", "T", QUEUE, offset(9), &visitor);
        assert_eq!(offsets.last_pulled("G", "T", QUEUE), Some(offset(9)));
        offsets.forget_trails(5);
        assert!(offsets.trail("G", "T", QUEUE).is_some());
        offsets.forget_trails(6);
        assert!(offsets.trail("G", "T", QUEUE).is_none());
        offsets.pulled("G", "T", QUEUE, offset(9), &visitor);
        offsets.save(100).unwrap();
        let again = Offsets::open(dir.path(), 2).unwrap();
        assert_eq!(again.query("G", "T", QUEUE), Some(offset(5)));
        assert_eq!(again.last_pulled("G", "T", QUEUE), None);
        assert_eq!(again.version.lock().counter, 1);
        assert_eq!(again.version.lock().timestamp, 100);
    }

    #[test]
    fn what_was_journaled_is_there_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        offsets.commit("G", "T", QUEUE, offset(7));
        offsets.save(100).unwrap();
        offsets.commit("G", "T", QUEUE, offset(9));
        offsets.commit("G", "U", QUEUE, offset(1));
        offsets.write_journal().unwrap();
        offsets.commit("G", "T", QUEUE, offset(8));
        offsets.write_journal().unwrap();
        drop(offsets);
        let again = Offsets::open(dir.path(), 500).unwrap();
        assert_eq!(
            again.query("G", "T", QUEUE),
            Some(offset(8)),
            "the last commit, although it went back"
        );
        assert_eq!(again.query("G", "U", QUEUE), Some(offset(1)));
        assert!(!again.is_saved());
        again.save(200).unwrap();
        let journal = std::fs::read(dir.path().join("consumerOffset.journal")).unwrap();
        assert!(journal.is_empty(), "the file says it all");
    }

    #[test]
    fn a_save_leaves_no_journal_to_overrule_who_goes_on_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        offsets.commit("G", "T", QUEUE, offset(7));
        offsets.save(100).unwrap();
        let journal = std::fs::read(dir.path().join("consumerOffset.journal")).unwrap();
        assert!(journal.is_empty(), "{}", String::from_utf8_lossy(&journal));
    }

    #[test]
    fn what_was_removed_does_not_come_back_by_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        offsets.commit("G", "T", QUEUE, offset(7));
        offsets.commit("H", "T", QUEUE, offset(8));
        offsets.commit("H", "U", QUEUE, offset(9));
        offsets.remove_group("G");
        offsets.remove_topic("U");
        offsets.write_journal().unwrap();
        drop(offsets);
        let again = Offsets::open(dir.path(), 500).unwrap();
        assert_eq!(again.query("G", "T", QUEUE), None);
        assert_eq!(again.query("H", "U", QUEUE), None);
        assert_eq!(again.query("H", "T", QUEUE), Some(offset(8)));
    }

    #[test]
    fn a_journal_torn_anywhere_gives_the_commits_before_the_tear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("consumerOffset.journal");
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        let mut ends = vec![0];
        for number in 1..=5 {
            offsets.commit("G", "T", QUEUE, offset(number));
            offsets.write_journal().unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len());
        }
        drop(offsets);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let offsets = Offsets::open(dir.path(), 500).unwrap();
            let held = ends.iter().rposition(|end| *end <= cut as u64).unwrap();
            let expected = (held > 0).then(|| offset(held as u64));
            assert_eq!(offsets.query("G", "T", QUEUE), expected, "cut at {cut}");
        }
    }

    #[test]
    fn committing_the_same_again_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        offsets.commit("G", "T", QUEUE, offset(7));
        offsets.save(100).unwrap();
        offsets.commit("G", "T", QUEUE, offset(7));
        assert!(offsets.is_saved());
    }

    #[test]
    fn the_files_shape_is_the_originals() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        offsets.commit("G", "T", QueueId::new(0), offset(7));
        assert_eq!(
            String::from_utf8(offsets.to_body()).unwrap(),
            r#"{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"groupTopicMap":{"G":["T"]},"offsetTable":{"T@G":{0:7}}}"#
        );
    }

    #[test]
    fn a_damaged_file_falls_back_to_its_backup() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("consumerOffset.json"), "{\"offsetTa").unwrap();
        let backup = r#"{"offsetTable":{"T@G":{"0":3},"nonsense":{0:1},"T@H":{-1:5}}}"#;
        std::fs::write(dir.path().join("consumerOffset.json.bak"), backup).unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        assert_eq!(offsets.query("G", "T", QueueId::new(0)), Some(offset(3)));
        assert_eq!(
            offsets.groups_of_topic("T"),
            BTreeSet::from(["G".to_owned()])
        );
    }

    #[test]
    fn commits_wait_until_a_reset_was_pulled_once() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        offsets.commit("G", "T", QUEUE, offset(70));
        offsets.reset("G", "T", QUEUE, offset(10));
        assert_eq!(
            offsets.commit("G", "T", QUEUE, offset(71)),
            Committed::ResetPending
        );
        assert_eq!(offsets.query("G", "T", QUEUE), Some(offset(10)));
        assert_eq!(offsets.take_reset("G", "T", QUEUE), Some(offset(10)));
        assert_eq!(offsets.take_reset("G", "T", QUEUE), None);
        assert_eq!(
            offsets.commit("G", "T", QUEUE, offset(11)),
            Committed::Stored
        );
        assert_eq!(offsets.query("G", "T", QUEUE), Some(offset(11)));
    }

    #[test]
    fn cloning_and_removing_leave_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let offsets = Offsets::open(dir.path(), 500).unwrap();
        offsets.commit("G", "T", QUEUE, offset(7));
        offsets.commit("H", "T", QueueId::new(0), offset(1));
        offsets.clone_group("G", "H", "T");
        assert_eq!(offsets.committed("H", "T").len(), 2);
        offsets.remove_group("G");
        assert_eq!(offsets.query("G", "T", QUEUE), None);
        assert_eq!(offsets.query("H", "T", QUEUE), Some(offset(7)));
        offsets.remove_topic("T");
        assert!(offsets.groups_of_topic("T").is_empty());
    }
}
