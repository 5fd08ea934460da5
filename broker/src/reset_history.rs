//! Where groups stood before they were reset, so that a reset can be taken back.
//!
//! Kept in `config/resetHistory.json`, a file of ours that the original does not look at. An entry is on the device before its reset
//! takes effect. The last [`RESETS_MAX`] resets of a group on a topic are kept, [`ENTRIES_MAX`] in all, the oldest go first.

use std::collections::BTreeMap;
use std::path::Path;

use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::QueueId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::snapshot_files::{SnapshotError, SnapshotFile};

/// Resets of one group on one topic that can be taken back, one after the other.
const RESETS_MAX: usize = 8;

/// Resets that are remembered in all.
const ENTRIES_MAX: usize = 1000;

/// One reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FormerOffsets {
    /// Ascends; names this reset.
    pub(crate) number: u64,
    pub(crate) group: String,
    pub(crate) topic: String,
    /// When it was reset, wall clock.
    pub(crate) at_ms: i64,
    /// The next offset to consume before the reset, by queue number; -1 where the group had none.
    queues: BTreeMap<u32, i64>,
}

impl FormerOffsets {
    /// The queues that were moved and where each was; a queue without an offset is `None`.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (QueueId, Option<QueueOffset>)> {
        self.queues
            .iter()
            .map(|(queue, offset)| (QueueId::new(*queue), QueueOffset::from_wire(*offset)))
    }
}

/// The file's content.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// Oldest first.
    resets: Vec<FormerOffsets>,
}

/// All resets that can be taken back.
#[derive(Debug)]
pub(crate) struct ResetHistory {
    kept: Mutex<Kept>,
    file: SnapshotFile,
}

impl ResetHistory {
    /// Reads what the file in `config_dir` has.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn open(config_dir: &Path) -> Result<Self, SnapshotError> {
        let file = SnapshotFile::new(config_dir, "resetHistory.json");
        let kept = file.load()?.unwrap_or_default();
        Ok(Self {
            kept: Mutex::new(kept),
            file,
        })
    }

    /// Remembers where `group` stands on `topic`, just before it is moved. On return the device has it.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is remembered then.
    pub(crate) fn remember(
        &self,
        group: &str,
        topic: &str,
        at_ms: i64,
        queues: impl IntoIterator<Item = (QueueId, Option<QueueOffset>)>,
    ) -> Result<(), SnapshotError> {
        let mut kept = self.kept.lock();
        let mut next = kept.clone();
        let number = next.resets.last().map_or(1, |last| last.number + 1);
        next.resets.push(FormerOffsets {
            number,
            group: group.to_owned(),
            topic: topic.to_owned(),
            at_ms,
            queues: queues
                .into_iter()
                .map(|(queue, offset)| (queue.number(), offset.map_or(-1, QueueOffset::wire)))
                .collect(),
        });
        next.drop_oldest(group, topic);
        self.write(&next)?;
        *kept = next;
        Ok(())
    }

    /// The latest reset of `group` on `topic` that was not taken back, and how many are before it.
    pub(crate) fn last(&self, group: &str, topic: &str) -> Option<(FormerOffsets, usize)> {
        let kept = self.kept.lock();
        let mut of_both = kept.resets.iter().filter(|reset| reset.is_of(group, topic));
        let last = of_both.next_back()?.clone();
        Some((last, of_both.count()))
    }

    /// Forgets a reset that was taken back.
    ///
    /// # Errors
    /// [`SnapshotError`]; it is still remembered then, and taking it back once more has the same effect.
    pub(crate) fn forget(&self, number: u64) -> Result<(), SnapshotError> {
        let mut kept = self.kept.lock();
        let mut next = kept.clone();
        next.resets.retain(|reset| reset.number != number);
        self.write(&next)?;
        *kept = next;
        Ok(())
    }

    /// The file is small and resets are rare, so it is written under the lock, by whoever resets.
    fn write(&self, kept: &Kept) -> Result<(), SnapshotError> {
        self.file.save(&fastjson::to_vec(kept, KeyStyle::Bare))
    }
}

impl FormerOffsets {
    fn is_of(&self, group: &str, topic: &str) -> bool {
        self.group == group && self.topic == topic
    }
}

impl Kept {
    fn drop_oldest(&mut self, group: &str, topic: &str) {
        let of_both = |reset: &FormerOffsets| reset.is_of(group, topic);
        if self.resets.iter().filter(|reset| of_both(reset)).count() > RESETS_MAX
            && let Some(oldest) = self.resets.iter().position(of_both)
        {
            self.resets.remove(oldest);
        }
        if self.resets.len() > ENTRIES_MAX {
            self.resets.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> [(QueueId, Option<QueueOffset>); 2] {
        [
            (QueueId::new(0), QueueOffset::from_wire(offset)),
            (QueueId::new(1), None),
        ]
    }

    #[test]
    fn resets_are_taken_back_in_reverse_order_and_outlive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let history = ResetHistory::open(directory.path()).unwrap();
        history.remember("g", "T", 100, at(7)).unwrap();
        history.remember("other", "T", 150, at(1)).unwrap();
        history.remember("g", "T", 200, at(9)).unwrap();
        let history = ResetHistory::open(directory.path()).unwrap();
        let (last, before) = history.last("g", "T").unwrap();
        assert_eq!((last.at_ms, before), (200, 1));
        assert_eq!(last.queues().collect::<Vec<_>>(), at(9));
        history.forget(last.number).unwrap();
        let history = ResetHistory::open(directory.path()).unwrap();
        let (first, before) = history.last("g", "T").unwrap();
        assert_eq!((first.at_ms, before), (100, 0));
        history.forget(first.number).unwrap();
        assert_eq!(history.last("g", "T"), None);
        assert!(history.last("other", "T").is_some());
    }

    #[test]
    fn a_group_keeps_the_last_resets_and_the_file_has_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let history = ResetHistory::open(directory.path()).unwrap();
        let mut kept = history.kept.lock();
        for number in 0..2000 {
            kept.resets.push(FormerOffsets {
                number,
                group: format!("g{}", number % 300),
                topic: "T".to_owned(),
                at_ms: 0,
                queues: BTreeMap::new(),
            });
            kept.drop_oldest(&format!("g{}", number % 300), "T");
        }
        assert_eq!(kept.resets.len(), ENTRIES_MAX);
        assert_eq!(kept.resets.last().map(|reset| reset.number), Some(1999));
        drop(kept);
        for number in 0..20 {
            history.remember("busy", "T", number, at(number)).unwrap();
        }
        let (last, before) = history.last("busy", "T").unwrap();
        assert_eq!((last.at_ms, before), (19, RESETS_MAX - 1));
    }
}
