//! How far each group has consumed: the next offset per (group, topic, queue).
//!
//! Guarantees: an offset changes only by a commit, a reset, a clone or a removal; a pending reset hides commits until the
//! queue was pulled once. Commits are in a [`journal`] within a fifth of a second, and folded into `config/consumerOffset.json`, whose shape is the original's,
//! every `flushConsumerOffsetInterval` and at the stop. Apache: `ConsumerOffsetManager`.

pub(crate) mod journal;
mod snapshot;
pub(crate) mod trail;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::QueueId;
use parking_lot::{Mutex, RwLock};

use crate::snapshot_files::SnapshotFile;
use journal::Journal;
use snapshot::SEPARATOR;
use trail::{Trail, Visitor};

/// Groups are spread over this many tables, so that pulls of different groups do not meet at one lock.
const SHARDS: usize = 16;

/// A queue that a consumer may name although its topic no longer has it; above this it is nonsense.
const QUEUES_MAX: u32 = 65_536;

type Topics = HashMap<Arc<str>, Arc<Mutex<Progress>>>;

/// What one group did on one topic, per queue.
#[derive(Debug, Default)]
struct Progress {
    committed: BTreeMap<QueueId, QueueOffset>,
    /// Offsets that the next pull is sent to; commits are ignored meanwhile.
    resets: BTreeMap<QueueId, QueueOffset>,
    /// Who pulled and committed what, for operators. Not kept over a restart.
    trails: BTreeMap<QueueId, Arc<Trail>>,
    /// Queues whose commits are not in the journal yet.
    marked: BTreeSet<QueueId>,
}

impl Progress {
    /// Nothing of it may reach the journal any more, where it would come back to life.
    fn forget(&mut self) {
        *self = Self::default();
    }

    fn trail(&mut self, queue: QueueId) -> &Arc<Trail> {
        let committed = self.committed.get(&queue).copied();
        let trail = self.trails.entry(queue);
        trail.or_insert_with(|| Arc::new(Trail::new(committed)))
    }
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It counts.
    Stored,
    /// A reset is pending: the consumer has not yet heard where it stands.
    ResetPending,
}

/// The offsets of all groups. Locks: a shard's table (read on every call), then one [`Progress`], then a trail; nothing else within.
#[derive(Debug)]
pub(crate) struct Offsets {
    shards: Vec<RwLock<HashMap<Arc<str>, Topics>>>,
    hasher: RandomState,
    /// Counts changes; a snapshot is written only when it moved.
    changes: AtomicU64,
    /// The value of `changes` that the file holds.
    saved: AtomicU64,
    /// One version of the file per this many changes (`consumerOffsetUpdateVersionStep`).
    version_step: u64,
    version: Mutex<DataVersion>,
    file: SnapshotFile,
    journal: Journal,
}

impl Offsets {
    /// Stores `offset` as the next one that `group` wants. It may lie before the former one.
    pub(crate) fn commit(
        &self,
        group: &str,
        topic: &str,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Committed {
        self.commit_by(group, topic, queue, offset, None)
    }

    /// [`Self::commit`], remembering which client it was.
    pub(crate) fn commit_by(
        &self,
        group: &str,
        topic: &str,
        queue: QueueId,
        offset: QueueOffset,
        visitor: Option<&Visitor>,
    ) -> Committed {
        if queue.number() >= QUEUES_MAX {
            return Committed::Stored;
        }
        let shared = self.progress_or_new(group, topic);
        let mut progress = shared.lock();
        if progress.resets.contains_key(&queue) {
            return Committed::ResetPending;
        }
        if let Some(visitor) = visitor {
            progress.trail(queue).committed(Some(visitor), offset);
        }
        // Idle consumers commit the same offsets every few seconds.
        if progress.committed.insert(queue, offset) != Some(offset) {
            self.changed(group, topic, &shared, &mut progress, queue);
        }
        Committed::Stored
    }

    /// The next offset that `group` wants: of a pending reset, else of the last commit.
    pub(crate) fn query(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        let progress = self.progress(group, topic)?;
        let progress = progress.lock();
        let reset = progress.resets.get(&queue);
        reset.or_else(|| progress.committed.get(&queue)).copied()
    }

    /// Remembers where `group` pulls from, and who does. Gives the queue's trail, and true when another client pulled
    /// it before; `None` for a queue that cannot be.
    pub(crate) fn pulled(
        &self,
        group: &str,
        topic: &str,
        queue: QueueId,
        offset: QueueOffset,
        visitor: &Visitor,
    ) -> Option<(Arc<Trail>, bool)> {
        if queue.number() >= QUEUES_MAX {
            return None;
        }
        let progress = self.progress_or_new(group, topic);
        let trail = Arc::clone(progress.lock().trail(queue));
        let is_another = trail.pulled(visitor, offset.wire());
        Some((trail, is_another))
    }

    /// What `group` last did at a queue.
    pub(crate) fn trail(&self, group: &str, topic: &str, queue: QueueId) -> Option<Arc<Trail>> {
        let progress = self.progress(group, topic)?;
        let progress = progress.lock();
        progress.trails.get(&queue).cloned()
    }

    /// Forgets what was done at queues that nobody visited since `before_ms`.
    pub(crate) fn forget_trails(&self, before_ms: i64) {
        for shard in &self.shards {
            for progress in shard.read().values().flat_map(HashMap::values) {
                let trails = &mut progress.lock().trails;
                trails.retain(|_, trail| trail.last_visit_ms() >= before_ms);
            }
        }
    }

    /// The offset of the last pull.
    pub(crate) fn last_pulled(
        &self,
        group: &str,
        topic: &str,
        queue: QueueId,
    ) -> Option<QueueOffset> {
        let progress = self.progress(group, topic)?;
        let progress = progress.lock();
        progress.trails.get(&queue)?.last_pulled()
    }

    /// The offset that the next pull is sent to.
    pub(crate) fn pending_reset(
        &self,
        group: &str,
        topic: &str,
        queue: QueueId,
    ) -> Option<QueueOffset> {
        let progress = self.progress(group, topic)?;
        let progress = progress.lock();
        progress.resets.get(&queue).copied()
    }

    /// Sends the group to `offset` with its next pull, and counts it as committed already (request 222).
    pub(crate) fn reset(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let shared = self.progress_or_new(group, topic);
        let mut progress = shared.lock();
        progress.resets.insert(queue, offset);
        progress.committed.insert(queue, offset);
        if let Some(trail) = progress.trails.get(&queue) {
            trail.committed(None, offset);
        }
        self.changed(group, topic, &shared, &mut progress, queue);
    }

    /// Gives a pending reset to the pull that asks, once.
    pub(crate) fn take_reset(
        &self,
        group: &str,
        topic: &str,
        queue: QueueId,
    ) -> Option<QueueOffset> {
        let progress = self.progress(group, topic)?;
        let mut progress = progress.lock();
        // Nearly no pull finds one: look before the map is touched.
        if progress.resets.is_empty() {
            return None;
        }
        progress.resets.remove(&queue)
    }

    /// The committed offset of one queue.
    pub(crate) fn committed_at(
        &self,
        group: &str,
        topic: &str,
        queue: QueueId,
    ) -> Option<QueueOffset> {
        let progress = self.progress(group, topic)?;
        let progress = progress.lock();
        progress.committed.get(&queue).copied()
    }

    /// Committed offsets of one group on one topic.
    pub(crate) fn committed(&self, group: &str, topic: &str) -> BTreeMap<QueueId, QueueOffset> {
        self.progress(group, topic)
            .map(|progress| progress.lock().committed.clone())
            .unwrap_or_default()
    }

    /// Topics on which `group` has committed, sorted.
    pub(crate) fn topics_of_group(&self, group: &str) -> BTreeSet<String> {
        let shard = self.shard(group).read();
        let topics = shard.get(group).into_iter().flatten();
        topics
            .filter(|(_, progress)| !progress.lock().committed.is_empty())
            .map(|(topic, _)| topic.to_string())
            .collect()
    }

    /// Topics that `group` pulled or committed on, sorted.
    pub(crate) fn visited_topics(&self, group: &str) -> BTreeSet<String> {
        let shard = self.shard(group).read();
        let topics = shard.get(group).into_iter().flatten();
        topics.map(|(topic, _)| topic.to_string()).collect()
    }

    /// Groups that have committed on `topic`, sorted.
    pub(crate) fn groups_of_topic(&self, topic: &str) -> BTreeSet<String> {
        let mut groups = BTreeSet::new();
        for shard in &self.shards {
            for (group, topics) in shard.read().iter() {
                let committed = topics
                    .get(topic)
                    .is_some_and(|p| !p.lock().committed.is_empty());
                if committed {
                    groups.insert(group.to_string());
                }
            }
        }
        groups
    }

    /// Gives every committed offset of every group to `each`, until that says stop; `only` names one topic. No lock is held
    /// while `each` runs.
    pub(crate) fn visit(
        &self,
        only: Option<&str>,
        mut each: impl FnMut(&Arc<str>, &Arc<str>, &BTreeMap<QueueId, QueueOffset>) -> bool,
    ) {
        for shard in &self.shards {
            let mut places = Vec::new();
            for (group, topics) in shard.read().iter() {
                let wanted = topics
                    .iter()
                    .filter(|(topic, _)| only.is_none_or(|only| only == &***topic));
                places.extend(wanted.map(|(topic, progress)| {
                    (Arc::clone(group), Arc::clone(topic), Arc::clone(progress))
                }));
            }
            for (group, topic, progress) in places {
                let committed = progress.lock().committed.clone();
                if !each(&group, &topic, &committed) {
                    return;
                }
            }
        }
    }

    /// Forgets a topic, for all groups.
    pub(crate) fn remove_topic(&self, topic: &str) {
        for shard in &self.shards {
            let mut shard = shard.write();
            for topics in shard.values_mut() {
                if let Some(progress) = topics.remove(topic) {
                    progress.lock().forget();
                }
            }
            shard.retain(|_, topics| !topics.is_empty());
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets a group.
    pub(crate) fn remove_group(&self, group: &str) {
        let topics = self.shard(group).write().remove(group);
        for progress in topics.unwrap_or_default().values() {
            progress.lock().forget();
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives `to` the committed offsets of `from` on `topic`; others of `to` stay.
    pub(crate) fn clone_group(&self, from: &str, to: &str, topic: &str) {
        let source = self.committed(from, topic);
        if source.is_empty() {
            return;
        }
        let shared = self.progress_or_new(to, topic);
        let mut target = shared.lock();
        for (queue, offset) in source {
            target.committed.insert(queue, offset);
            self.changed(to, topic, &shared, &mut target, queue);
        }
    }

    /// A committed offset is another now.
    fn changed(
        &self,
        group: &str,
        topic: &str,
        shared: &Arc<Mutex<Progress>>,
        progress: &mut Progress,
        queue: QueueId,
    ) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let key = || format!("{topic}{SEPARATOR}{group}");
        self.journal.mark(key, shared, progress, queue);
    }

    fn shard(&self, group: &str) -> &RwLock<HashMap<Arc<str>, Topics>> {
        let hash = self.hasher.hash_one(group);
        let at = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        &self.shards[at]
    }

    fn progress(&self, group: &str, topic: &str) -> Option<Arc<Mutex<Progress>>> {
        self.shard(group).read().get(group)?.get(topic).cloned()
    }

    fn progress_or_new(&self, group: &str, topic: &str) -> Arc<Mutex<Progress>> {
        if let Some(progress) = self.progress(group, topic) {
            return progress;
        }
        let mut shard = self.shard(group).write();
        let topics = shard.entry(Arc::from(group)).or_default();
        topics.entry(Arc::from(topic)).or_default().clone()
    }
}
