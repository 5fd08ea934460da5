//! (topic, queue) -> queue: found on disk or made by the first message, loaded when first asked for.
//!
//! Apache: `ConsumeQueueStore`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use agena_protocol::queue::QueueId;
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::batch_queue::BATCH_ENTRY_BYTES;
use crate::config::{IsBatchTopic, StoreConfig};
use crate::consume_queue::{ENTRY_BYTES, Kind, NewEntry};
use crate::entry_log::{EntryFiles, QueueName};
use crate::error::StoreError;
use crate::medium::Medium;
use crate::unsynced::Unsynced;

pub(crate) use crate::consume_queue::Queue;

/// Bytes of entries that a queue gathers before it is written out of turn: a page.
const WRITE_AT_BYTES: usize = 4096;

/// All queues.
pub(crate) struct QueueTable {
    pub(crate) simple: EntryFiles,
    pub(crate) batch: EntryFiles,
    topics: RwLock<HashMap<Arc<str>, TopicQueues>>,
    /// Queues with entries that are not on disk.
    unwritten: Mutex<Vec<Arc<Queue>>>,
    /// Bytes of such entries, of all queues; an estimate that the writing thread corrects.
    unwritten_bytes: AtomicUsize,
    /// Queues of more than one file: what retention looks at, so that it need not go over all.
    long: Mutex<Vec<Weak<Queue>>>,
    /// Held by whoever writes or removes files of queues, one queue at a time, or all of a topic that goes: a file that is being
    /// written must not be made anew behind its removal.
    file_changes: Mutex<()>,
    /// Queues in `topics`. Changed while that is locked for writing.
    count: AtomicUsize,
    /// Queues with files. Changed by whoever holds `file_changes`, or by recovery.
    count_on_disk: AtomicU64,
    medium: Arc<dyn Medium>,
    is_batch_topic: IsBatchTopic,
}

/// The queues of one topic, by number. These nearly always run from 0 without gaps, so that a number tells the place: with very
/// many topics each step of a search is a miss of the processor's cache.
#[derive(Debug, Default)]
struct TopicQueues(Vec<Arc<Queue>>);

impl TopicQueues {
    /// Where the queue is, or where it would have to be put.
    fn place_of(&self, id: QueueId) -> Result<usize, usize> {
        match self.0.get(id.index()) {
            Some(queue) if queue.name.id == id => Ok(id.index()),
            _ => self.0.binary_search_by_key(&id, |queue| queue.name.id),
        }
    }

    fn get(&self, id: QueueId) -> Option<&Arc<Queue>> {
        self.0.get(self.place_of(id).ok()?)
    }

    /// Puts a queue in, in place of one with its number if there is; true when there was none.
    fn insert(&mut self, queue: Arc<Queue>) -> bool {
        match self.place_of(queue.name.id) {
            Ok(place) => {
                self.0[place] = queue;
                false
            }
            Err(place) => {
                self.0.insert(place, queue);
                true
            }
        }
    }
}

impl std::fmt::Debug for QueueTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueTable")
            .field("topics", &self.topics.read().len())
            .finish_non_exhaustive()
    }
}

impl QueueTable {
    /// No queues yet.
    pub(crate) fn new(config: &StoreConfig) -> Self {
        let files = |dir: &str, entry_bytes, file_bytes| {
            EntryFiles::new(
                config.root.join(dir),
                Arc::clone(&config.medium),
                entry_bytes,
                file_bytes,
                config.open_queue_files_max.max(1),
            )
        };
        Self {
            simple: files(
                "consumequeue",
                ENTRY_BYTES,
                config.rounded_queue_file_bytes(),
            ),
            batch: files(
                "batchconsumequeue",
                BATCH_ENTRY_BYTES,
                config.batch_queue_file_bytes,
            ),
            topics: RwLock::default(),
            unwritten: Mutex::default(),
            unwritten_bytes: AtomicUsize::new(0),
            long: Mutex::default(),
            file_changes: Mutex::default(),
            count: AtomicUsize::new(0),
            count_on_disk: AtomicU64::new(0),
            medium: Arc::clone(&config.medium),
            is_batch_topic: Arc::clone(&config.is_batch_topic),
        }
    }

    /// The files of queues of this kind.
    pub(crate) fn files(&self, kind: Kind) -> &EntryFiles {
        match kind {
            Kind::Simple => &self.simple,
            Kind::Batch => &self.batch,
        }
    }

    /// Finds every queue on disk, without opening any.
    pub(crate) fn scan(&self) -> Result<(), StoreError> {
        for kind in [Kind::Simple, Kind::Batch] {
            let files = self.files(kind);
            for topic in self.list(files.root())? {
                let name: Arc<str> = Arc::from(topic);
                for id in self.list(&files.root().join(&*name))? {
                    let Some(id) = parse_queue_id(&id) else {
                        continue;
                    };
                    let name = QueueName::new(Arc::clone(&name), id);
                    let found = files.find(&name)?;
                    if found.0 < found.1 {
                        self.insert(Queue::on_disk(name, kind, files, found));
                    }
                }
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, StoreError> {
        let entries = self
            .medium
            .list(dir)
            .map_err(|error| StoreError::io("list", dir, error))?;
        Ok(entries
            .into_iter()
            .filter(|entry| entry.is_dir)
            .map(|entry| entry.name)
            .collect())
    }

    /// Takes a queue in that was found.
    pub(crate) fn insert(&self, queue: Queue) {
        let queue = Arc::new(queue);
        if queue.is_long() {
            self.put_long(std::slice::from_ref(&queue));
        }
        let (first, behind) = queue.lock().log.files();
        let mut topics = self.topics.write();
        let queues = topics.entry(Arc::clone(&queue.name.topic)).or_default();
        if queues.insert(queue) {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.share_memory();
            self.count_on_disk
                .fetch_add(u64::from(first < behind), Ordering::Relaxed);
        }
    }

    /// Divides the memory for written entries among the queues that there are now.
    fn share_memory(&self) {
        self.simple.set_queue_count(self.len());
        self.batch.set_queue_count(self.len());
    }

    /// The queue, if it is known.
    pub(crate) fn get(&self, topic: &str, id: QueueId) -> Option<Arc<Queue>> {
        self.topics.read().get(topic)?.get(id).cloned()
    }

    /// The queue, made in memory when there is none. Nothing is on disk before its first entry.
    pub(crate) fn get_or_make(&self, topic: &str, id: QueueId) -> Arc<Queue> {
        if let Some(queue) = self.get(topic, id) {
            return queue;
        }
        let mut topics = self.topics.write();
        let name = match topics.get_key_value(topic) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(topic),
        };
        let queues = topics.entry(Arc::clone(&name)).or_default();
        if let Some(queue) = queues.get(id) {
            return Arc::clone(queue);
        }
        let kind = if (self.is_batch_topic)(topic) {
            Kind::Batch
        } else {
            Kind::Simple
        };
        let queue = Arc::new(Queue::new(QueueName::new(name, id), kind, self.files(kind)));
        queues.insert(Arc::clone(&queue));
        self.count.fetch_add(1, Ordering::Relaxed);
        self.share_memory();
        queue
    }

    /// All queues, in order of topic and number.
    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        let mut all: Vec<_> = self
            .topics
            .read()
            .values()
            .flat_map(|queues| queues.0.iter().cloned())
            .collect();
        all.sort_by(|a, b| (&a.name.topic, a.name.id).cmp(&(&b.name.topic, b.name.id)));
        all
    }

    /// Takes the list of queues that have more than one file, each once; the caller puts back those that still have.
    pub(crate) fn take_long(&self) -> Vec<Arc<Queue>> {
        let listed = std::mem::take(&mut *self.long.lock());
        let mut queues: Vec<_> = listed.iter().filter_map(Weak::upgrade).collect();
        queues.sort_unstable_by_key(|queue| Arc::as_ptr(queue).addr());
        queues.dedup_by(|a, b| Arc::ptr_eq(a, b));
        queues
    }

    /// Lists queues that have more than one file.
    pub(crate) fn put_long(&self, queues: &[Arc<Queue>]) {
        self.long.lock().extend(queues.iter().map(Arc::downgrade));
    }

    /// Until this is dropped, no file of a queue is written or removed by anybody else.
    pub(crate) fn stop_writing(&self) -> MutexGuard<'_, ()> {
        self.file_changes.lock()
    }

    /// Takes a topic's queues out. Between two appends: who appends looks under the same lock whether his queues are here.
    pub(crate) fn take_topic(&self, topic: &str) -> Vec<Arc<Queue>> {
        let queues = self.topics.write().remove(topic).unwrap_or_default().0;
        for queue in &queues {
            queue.is_removed.store(true, Ordering::Relaxed);
        }
        self.count.fetch_sub(queues.len(), Ordering::Relaxed);
        self.share_memory();
        queues
    }

    /// Removes the files of a topic whose queues were taken out; returns how many of these had any.
    pub(crate) fn remove_files(
        &self,
        topic: &str,
        queues: &[Arc<Queue>],
        _alone: &MutexGuard<'_, ()>,
    ) -> Result<u64, StoreError> {
        let mut removed = 0;
        for queue in queues {
            let mut state = queue.lock();
            let (first, behind) = state.log.files();
            state.log.remove_all(self.files(queue.kind), &queue.name)?;
            if first < behind {
                removed += 1;
                self.count_on_disk.fetch_sub(1, Ordering::Relaxed);
            }
        }
        for kind in [Kind::Simple, Kind::Batch] {
            self.remove_topic_dir(kind, topic)?;
        }
        Ok(removed)
    }

    /// Removes the files of a queue whose messages all lie below `min`; returns how many.
    pub(crate) fn drop_below(&self, queue: &Queue, min: u64) -> Result<usize, StoreError> {
        let files = self.files(queue.kind);
        let number = queue.number_of(files, min)?;
        let _turn = self.file_changes.lock();
        queue.lock().log.drop_below(files, &queue.name, number)
    }

    /// Removes what is left of a topic's directory.
    fn remove_topic_dir(&self, kind: Kind, topic: &str) -> Result<(), StoreError> {
        let dir = self.files(kind).root().join(topic);
        match self.medium.remove_dir(&dir) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("remove", &dir, error)),
        }
    }

    /// How many queues there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts the queues with files anew, behind a recovery that removed some.
    pub(crate) fn recount_on_disk(&self) {
        let all = self.all();
        let count = all.iter().filter(|queue| {
            let (first, behind) = queue.lock().log.files();
            first < behind
        });
        self.count_on_disk
            .store(count.count() as u64, Ordering::Relaxed);
    }

    /// How many queues have files.
    pub(crate) fn count_on_disk(&self) -> u64 {
        self.count_on_disk.load(Ordering::Relaxed)
    }

    /// The names of all topics with queues.
    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        self.topics.read().keys().cloned().collect()
    }

    /// Puts a dispatched entry into its queue.
    pub(crate) fn put(&self, queue: &Arc<Queue>, new: &NewEntry) {
        queue.put(new);
        self.note_unwritten(queue);
    }

    /// Remembers that a queue has entries to write.
    pub(crate) fn note_unwritten(&self, queue: &Arc<Queue>) {
        self.unwritten_bytes
            .fetch_add(ENTRY_BYTES, Ordering::Relaxed);
        if !queue.listed.load(Ordering::Relaxed) && !queue.listed.swap(true, Ordering::AcqRel) {
            self.unwritten.lock().push(Arc::clone(queue));
        }
    }

    /// Bytes of entries that are in memory only.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.unwritten_bytes.load(Ordering::Relaxed)
    }

    /// How many queues have such entries.
    pub(crate) fn unwritten_queues(&self) -> usize {
        self.unwritten.lock().len()
    }

    /// Writes entries of records below `durable`: all of them, or only queues that have gathered a page. After an error
    /// the queues that were not reached are still listed.
    pub(crate) fn write(
        &self,
        durable: u64,
        all: bool,
        unsynced: &mut Unsynced,
    ) -> Result<(), StoreError> {
        let mut queues = std::mem::take(&mut *self.unwritten.lock());
        let mut left_bytes = 0;
        let mut left = Vec::new();
        let mut result = Ok(());
        for queue in queues.drain(..) {
            // Cleared first: what is put meanwhile lists the queue again, at worst once too often.
            queue.listed.store(false, Ordering::Release);
            let (waiting, was_long) = {
                let state = queue.lock();
                (state.log.unwritten_bytes(), state.log.is_long())
            };
            let mut rest = waiting;
            if result.is_ok() && (all || waiting >= WRITE_AT_BYTES) {
                let _turn = self.file_changes.lock();
                if queue.is_removed.load(Ordering::Relaxed) {
                    continue;
                }
                match queue.write(self.files(queue.kind), durable, unsynced) {
                    Ok(written) => {
                        rest = written.left_bytes;
                        self.count_on_disk
                            .fetch_add(u64::from(written.is_first), Ordering::Relaxed);
                    }
                    Err(error) => result = Err(error),
                }
                if !was_long && queue.is_long() {
                    self.put_long(std::slice::from_ref(&queue));
                }
            }
            left_bytes += rest;
            if rest > 0 && !queue.listed.swap(true, Ordering::AcqRel) {
                left.push(queue);
            }
        }
        self.unwritten.lock().append(&mut left);
        self.unwritten_bytes.store(left_bytes, Ordering::Relaxed);
        result
    }
}

/// The number that a queue's directory tells.
pub(crate) fn parse_queue_id(name: &str) -> Option<QueueId> {
    QueueId::from_wire(name.parse().ok()?)
}
