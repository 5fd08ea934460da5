//! [`Store`]: open, append, read, look up, close. The public surface of the crate.
//!
//! Apache: `DefaultMessageStore`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use agena_protocol::clock::Clock;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::append_batch::{AppendBatch, Appended, Limits};
use crate::checkpoint::Checkpoint;
use crate::commit_log::CommitLog;
use crate::config::{Retention, StoreConfig};
use crate::consume_queue::{Kind, Queue};
use crate::dispatch::{Dispatcher, Observer};
use crate::durability::{Ack, FlushError};
use crate::error::StoreError;
use crate::group_commit::GroupCommit;
use crate::health::{Health, ReadOnlyReason};
use crate::index::Index;
use crate::keeper::{self, Alarm, Keeper};
use crate::lock_file::{AbortMark, LockFile};
use crate::medium::make_dir;
use crate::queue_table::QueueTable;
use crate::read::{self, Boundary, Filter, LogSlice, QueueEntry, ReadOutcome, ReadRequest};
use crate::recovery::{self, Damage, Opened};
use crate::retention::{self, Outlook, Removed};
use crate::segment::Segment;
use crate::snapshot::{QueueSnapshot, Snapshot};
use crate::stats::{Counters, StoreStats};
use crate::unsynced::Unsynced;

/// A message store, open. Shared by reference count; dropped without [`close`](Self::close) it leaves its directory as a
/// crash would.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    abort: AbortMark,
    /// Let go of at the close, so that the next may open while this is still referred to.
    lock: Mutex<Option<LockFile>>,
}

/// What the store's threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: StoreConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: CommitLog,
    pub(crate) queues: Arc<QueueTable>,
    pub(crate) index: Option<Arc<Index>>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) commit: GroupCommit,
    pub(crate) health: Health,
    pub(crate) alarm: Alarm,
    pub(crate) checkpoint: Mutex<Checkpoint>,
    /// The rules of retention, which an operator may change.
    pub(crate) retention: RwLock<Retention>,
    /// Whoever holds it removes old files.
    pub(crate) cleaning: Mutex<()>,
    pub(crate) unsynced: Mutex<Unsynced>,
    /// What lies below was in the log before this process.
    pub(crate) opened_end: u64,
    counters: Counters,
    damage: Vec<Damage>,
}

impl Store {
    /// Opens the store in `config.root`, or makes it. What a crash left is put right first; the observer hears of the
    /// records that were gone over for that, flagged.
    ///
    /// # Errors
    /// [`StoreError::Held`] when another process has it; [`StoreError::Layout`] when files do not fit the configuration;
    /// whatever a device says.
    pub fn open(
        config: StoreConfig,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<(Arc<Self>, Opened), StoreError> {
        let medium = Arc::clone(&config.medium);
        make_dir(&*medium, &config.root)
            .map_err(|error| StoreError::io("create", &config.root, error))?;
        let lock = LockFile::take(&medium, &config.root)?;
        let abort = AbortMark::of(&config.root);
        let unclean = abort.is_set(&*medium);
        abort.set(&*medium)?;
        let (parts, opened) = recovery::open(&config, &clock, Arc::clone(&observer), unclean)?;
        let opened_end = parts.log.end();
        let commit = GroupCommit::new(
            medium,
            Arc::clone(&clock),
            config.durability.clone(),
            // What was found may be in the page cache only, after a crash of the process alone.
            match &opened {
                Opened::Clean => opened_end,
                Opened::Recovered(report) => report.scanned_from.min(opened_end),
            },
        );
        let shared = Arc::new(Shared {
            retention: RwLock::new(config.retention.clone()),
            cleaning: Mutex::default(),
            unsynced: Mutex::new(Unsynced::new(matches!(opened, Opened::Recovered(_)))),
            config,
            clock,
            log: parts.log,
            queues: parts.queues,
            index: parts.index,
            dispatcher: parts.dispatcher,
            commit,
            health: Health::new(observer),
            alarm: Alarm::default(),
            checkpoint: Mutex::new(parts.checkpoint),
            opened_end,
            counters: Counters::default(),
            damage: parts.damage,
        });
        // What recovery found may be in the page cache only; consumers will see it, so it goes to the device first.
        shared.commit.sync(&shared.log)?;
        if shared.queues.unwritten_queues() > 0 {
            shared.alarm.ring();
        }
        let threads = start_threads(&shared)?;
        let store = Self {
            shared,
            threads: Mutex::new(threads),
            closed: AtomicBool::new(false),
            abort,
            lock: Mutex::new(Some(lock)),
        };
        Ok((Arc::new(store), opened))
    }

    /// An empty batch for messages of this store.
    #[must_use]
    pub fn batch<'a>(&self) -> AppendBatch<'a> {
        AppendBatch::new(Limits {
            body_bytes_max: self.shared.config.body_bytes_max,
            sum_records: self.shared.config.sum_records,
        })
    }

    /// Copies the batch behind the end of the log and makes it visible at once, all or nothing.
    ///
    /// Offsets in a queue are consecutive in the order of the batch. In async mode consumers can see the messages when
    /// this returns; in sync mode when the acknowledgement resolves.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] after an earlier failed write or sync; [`StoreError::DiskFull`] before anything was
    /// written; [`StoreError::TooLarge`] for what never fits; [`StoreError::Closed`].
    pub fn append(&self, batch: &mut AppendBatch<'_>) -> Result<Appended, StoreError> {
        let shared = &*self.shared;
        let started = shared.clock.monotonic();
        let appended = shared.append(batch).inspect_err(|error| {
            shared.counters.append_failed();
            if matches!(error, StoreError::DiskFull { .. }) {
                shared.health.disk_full(shared.clock.monotonic());
                shared.alarm.ring_at_once();
            } else if error.is_failed_write() {
                shared.health.fence(error);
            }
        })?;
        let bytes = appended.placed.iter().map(|placed| u64::from(placed.bytes));
        shared.counters.appended(
            appended.placed.len() as u64,
            bytes.sum(),
            shared.clock.monotonic().saturating_sub(started),
        );
        Ok(appended)
    }

    /// Runs `then` when what the store promises holds: at once in async mode and for what is synced already, else on the
    /// group-commit thread, which it must not hold up.
    pub fn when_durable(&self, ack: Ack, then: Box<dyn FnOnce(Result<(), FlushError>) + Send>) {
        self.shared.commit.when_durable(ack, then);
    }

    /// Whether acknowledgements wait for the device.
    #[must_use]
    pub fn is_sync(&self) -> bool {
        self.shared.config.durability.is_device()
    }

    /// Reads messages of a queue.
    #[must_use]
    pub fn read(&self, request: &ReadRequest<'_>, filter: &dyn Filter) -> ReadOutcome {
        let outcome = read::read(&self.shared, request, filter);
        self.shared.counters.read(outcome.messages, outcome.bytes);
        outcome
    }

    /// First message of the queue whose record there is; 0 for an unknown queue.
    #[must_use]
    pub fn min_offset(&self, topic: &str, queue: QueueId) -> QueueOffset {
        QueueOffset::new(self.shared.bounds_of(topic, queue).0)
    }

    /// Behind the last message of the queue that consumers can see; 0 for an unknown queue.
    #[must_use]
    pub fn max_offset(&self, topic: &str, queue: QueueId) -> QueueOffset {
        QueueOffset::new(self.shared.bounds_of(topic, queue).1)
    }

    /// The number that the next message of the queue gets; ahead of [`max_offset`](Self::max_offset) by what is not yet
    /// dispatched.
    #[must_use]
    pub fn next_offset(&self, topic: &str, queue: QueueId) -> QueueOffset {
        let next = self
            .shared
            .known_queue(topic, queue)
            .map_or(0, |queue| queue.next());
        QueueOffset::new(next)
    }

    /// The message at a time; clamped to what there is.
    #[must_use]
    pub fn offset_by_time(
        &self,
        topic: &str,
        queue: QueueId,
        time_ms: i64,
        boundary: Boundary,
    ) -> QueueOffset {
        let found = self
            .shared
            .known_queue(topic, queue)
            .and_then(|queue| read::offset_by_time(&self.shared, &queue, time_ms, boundary).ok());
        QueueOffset::new(found.unwrap_or(0))
    }

    /// When the queue's first message was stored; `None` when it has none.
    #[must_use]
    pub fn earliest_store_time(&self, topic: &str, queue: QueueId) -> Option<i64> {
        self.store_time_at(topic, queue, self.min_offset(topic, queue))
    }

    /// When the log's first message was stored; `None` when there is none.
    #[must_use]
    pub fn earliest_log_time(&self) -> Option<i64> {
        self.shared.store_time(self.shared.log.start())
    }

    /// When a message was stored; `None` when it is not there.
    #[must_use]
    pub fn store_time_at(&self, topic: &str, queue: QueueId, offset: QueueOffset) -> Option<i64> {
        let entry = self.entries(topic, queue, offset, 1).pop()?;
        self.shared.store_time(entry.physical_offset)
    }

    /// Up to `count` entries of a queue from `from` on, from one queue file at most. Places without a message are left
    /// out.
    #[must_use]
    pub fn entries(
        &self,
        topic: &str,
        queue: QueueId,
        from: QueueOffset,
        count: usize,
    ) -> Vec<QueueEntry> {
        let Some(queue) = self.shared.known_queue(topic, queue) else {
            return Vec::new();
        };
        self.shared
            .entries(&queue, from.number(), count as u64)
            .unwrap_or_default()
    }

    /// Whether a place lies so near the end of the log that the original takes it to be in memory
    /// (`accessMessageInMemoryMaxRatio`). Decides limits and where new groups begin, not whether a read waits.
    #[must_use]
    pub fn counts_as_in_memory(&self, offset: PhysicalOffset) -> bool {
        self.shared.counts_as_in_memory(offset.number())
    }

    /// The record at a place, summed; `None` when there is none that holds.
    #[must_use]
    pub fn record_at(&self, offset: PhysicalOffset) -> Option<LogSlice> {
        self.shared.record_at(offset.number())
    }

    /// Whether the record at a place counts as being in memory: it lies within `resident_bytes` of the log's end.
    #[must_use]
    pub fn is_resident(&self, offset: PhysicalOffset) -> bool {
        self.log_end().number().saturating_sub(offset.number())
            <= self.shared.config.read.resident_bytes
    }

    /// First byte behind the last record.
    #[must_use]
    pub fn log_end(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.shared.log.end())
    }

    /// Everything below is on the device.
    #[must_use]
    pub fn durable_end(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.shared.commit.durable())
    }

    /// The acknowledgement of whatever was appended below `end`.
    pub fn ack_below(&self, end: PhysicalOffset) -> Ack {
        Ack { end: end.number() }
    }

    /// Gives every record from `from` on to `each`, in log order; `from` is the start of a record, or lies in front of
    /// what retention left. Stops at the end that the log had, or where a record does not hold, and says where that was.
    pub fn scan(
        &self,
        from: PhysicalOffset,
        mut each: impl FnMut(&RecordView<'_>),
    ) -> PhysicalOffset {
        let log = &self.shared.log;
        let from = from.number().max(log.start());
        let walked = log.walk(from, log.end(), false, |record, _| {
            each(record);
            true
        });
        PhysicalOffset::new(walked.unwrap_or_else(|(at, _)| at))
    }

    /// Places of messages whose key has the same hash as `key`: at most `max` of the newest, ascending. The caller
    /// compares the keys. Messages that retention took are left out.
    #[must_use]
    pub fn query(
        &self,
        topic: &str,
        key: &str,
        max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> Vec<PhysicalOffset> {
        let Some(index) = &self.shared.index else {
            return Vec::new();
        };
        let (start, visible) = (self.shared.log.start(), self.shared.dispatcher.settled());
        index
            .query(topic, key, max, begin_ms, end_ms)
            .into_iter()
            .filter(|offset| (start..visible).contains(offset))
            .map(PhysicalOffset::new)
            .collect()
    }

    /// All queues that exist, in order.
    #[must_use]
    pub fn queues(&self) -> Vec<(String, QueueId)> {
        self.shared
            .queues
            .all()
            .iter()
            .map(|queue| (queue.name.topic.to_string(), queue.name.id))
            .collect()
    }

    /// Removes the queues of a topic. Its records stay in the log until they expire.
    ///
    /// # Errors
    /// Whatever the device says; the topic is gone for readers all the same.
    pub fn delete_topic(&self, topic: &str) -> Result<(), StoreError> {
        self.shared.remove_topic(topic)?;
        self.shared.mark_removed()
    }

    /// Removes the queues of all topics that are not `used`; returns their names.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn clean_unused_topics(
        &self,
        used: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>, StoreError> {
        let mut cleaned = Vec::new();
        for topic in self.shared.queues.topics() {
            if !used(&topic) {
                self.shared.remove_topic(&topic)?;
                cleaned.push(topic.to_string());
            }
        }
        if !cleaned.is_empty() {
            self.shared.mark_removed()?;
        }
        Ok(cleaned)
    }

    /// Removes queue files whose messages are all gone; returns how many.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn clean_expired_queues(&self) -> Result<usize, StoreError> {
        Ok(retention::follow(&self.shared)?.queue_files)
    }

    /// Removes expired log files whatever the hour, as far as one run goes.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn delete_expired_segments(&self) -> Result<Removed, StoreError> {
        retention::run(&self.shared, true)
    }

    /// What retention would remove next and when, at most `max` files.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn retention_outlook(&self, max: usize) -> Result<Outlook, StoreError> {
        retention::outlook(&self.shared, max)
    }

    /// Changes the rules of retention; they count from the next look on, which is soon.
    pub fn set_retention(&self, retention: Retention) {
        *self.shared.retention.write() = retention;
        self.shared.alarm.ring_at_once();
    }

    /// The first message of the queue whose record does not lie below `physical` in the log; the queue's end when there is
    /// none, 0 for an unknown queue.
    #[must_use]
    pub fn offset_at(&self, topic: &str, queue: QueueId, physical: u64) -> QueueOffset {
        let found = self.shared.known_queue(topic, queue).and_then(|queue| {
            let files = self.shared.queues.files(queue.kind);
            queue.first_at(files, physical).ok()
        });
        QueueOffset::new(found.unwrap_or(0))
    }

    /// Bytes of the log that do not hold, as recovery found them.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.shared.damage
    }

    /// Counters and positions.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.shared.stats()
    }

    /// Whether messages are taken.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.read_only_reason().is_none() && !self.closed.load(Ordering::Acquire)
    }

    /// Why messages are refused, if they are.
    #[must_use]
    pub fn read_only_reason(&self) -> Option<ReadOnlyReason> {
        self.shared.health.reason()
    }

    /// Syncs everything and writes down what the next start needs to scan nothing. Later calls do nothing.
    ///
    /// # Errors
    /// What could not be written; the next start then recovers.
    pub fn close(&self) -> Result<(), StoreError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.stop_threads();
        let _lock = self.lock.lock().take();
        if let Some(ReadOnlyReason::Failed(cause)) = self.read_only_reason() {
            self.shared.commit.resolve_all();
            return Err(StoreError::ReadOnly { cause });
        }
        let synced = self.shared.finish();
        self.shared.commit.resolve_all();
        synced?;
        self.abort.clear(&*self.shared.config.medium)
    }

    fn stop_threads(&self) {
        self.shared.log.seal();
        self.shared.commit.stop();
        self.shared.alarm.stop();
        if let Some(index) = &self.shared.index {
            index.stop();
        }
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has said so; the rest is stopped all the same.
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.stop_threads();
            self.shared.commit.resolve_all();
        }
    }
}

fn start_threads(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, StoreError> {
    let mut threads = Vec::new();
    let mut start = |name: &str, run: fn(&Shared)| {
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .name(format!("store-{name}"))
            .spawn(move || run(&shared))
            .map(|thread| threads.push(thread))
            .map_err(|error| StoreError::io("start a thread", std::path::Path::new(name), error))
    };
    start("commit", |shared| {
        shared.commit.run(
            &shared.log,
            |durable| {
                if shared.config.durability.is_device() {
                    shared.dispatcher.dispatch_to(&shared.log, durable, &[]);
                }
                shared.alarm.ring();
            },
            &shared.health,
        );
    })?;
    start("prepare", |shared| shared.log.prepare_ahead(&shared.health))?;
    start("keeper", |shared| {
        Keeper::new(shared).run(shared);
    })?;
    if shared.config.durability.is_device() {
        start("expire", |shared| shared.commit.expire())?;
    }
    if shared.index.is_some() {
        start("index", |shared| {
            if let Some(index) = &shared.index {
                index.run(|error| shared.note_failure(&error));
            }
        })?;
    }
    Ok(threads)
}

impl Shared {
    fn append(&self, batch: &mut AppendBatch<'_>) -> Result<Appended, StoreError> {
        self.health
            .may_append(|| self.clock.monotonic())
            .map_err(|reason| self.refusal(reason))?;
        let (written, queues) = loop {
            let queues = self.queues_of(batch)?;
            if let Some(written) = self.log.append(batch, &queues)? {
                break (written, queues);
            }
        };
        self.health.has_space();
        self.commit.appended();
        if !self.config.durability.is_device() {
            self.dispatcher.dispatch_to(&self.log, written.end, &queues);
            self.alarm.ring();
        }
        Ok(Appended {
            placed: written.placed,
            ack: Ack { end: written.end },
            wait_for_flush: batch.items.iter().any(|item| item.wait_for_flush),
        })
    }

    /// The queue of each message.
    fn queues_of(&self, batch: &AppendBatch<'_>) -> Result<SmallVec<[Arc<Queue>; 8]>, StoreError> {
        let mut queues: SmallVec<[Arc<Queue>; 8]> = SmallVec::with_capacity(batch.items.len());
        for item in &batch.items {
            let fields = item.encoder.fields();
            // A read's messages often go to few queues.
            let known = queues.iter().rev().take(8).find(|queue| {
                queue.name.id == fields.queue_id && *queue.name.topic == *fields.topic
            });
            let queue = match known {
                Some(queue) => Arc::clone(queue),
                None => self.loaded_queue(fields.topic, fields.queue_id)?,
            };
            queues.push(queue);
        }
        Ok(queues)
    }

    fn refusal(&self, reason: ReadOnlyReason) -> StoreError {
        match reason {
            ReadOnlyReason::Failed(cause) => StoreError::ReadOnly { cause },
            ReadOnlyReason::DiskFull => StoreError::DiskFull {
                path: self.config.log_dir(),
            },
            ReadOnlyReason::DiskRatio => StoreError::DiskRatio {
                path: self.config.log_dir(),
                limit_percent: self.retention.read().refuse_ratio,
            },
        }
    }

    /// The queue, made if need be, and loaded.
    fn loaded_queue(&self, topic: &str, id: QueueId) -> Result<Arc<Queue>, StoreError> {
        loop {
            let queue = self.queues.get_or_make(topic, id);
            match self.load(&queue) {
                Ok(()) => return Ok(queue),
                // Its files went while they were read.
                Err(_) if queue.is_removed.load(Ordering::Relaxed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn load(&self, queue: &Queue) -> Result<(), StoreError> {
        if queue.is_loaded() {
            return Ok(());
        }
        queue.load(self.queues.files(queue.kind), &|name, number, entry| {
            recovery::belongs(&self.log, name, number, entry)
        })
    }

    /// The queue, if there is one, loaded.
    pub(crate) fn known_queue(&self, topic: &str, id: QueueId) -> Option<Arc<Queue>> {
        let queue = self.queues.get(topic, id)?;
        self.load(&queue)
            .inspect_err(|error| tracing::error!(topic, %id, %error, "a queue cannot be opened"))
            .ok()?;
        Some(queue)
    }

    /// First message and behind the last.
    pub(crate) fn bounds(&self, queue: &Queue) -> Result<(u64, u64), StoreError> {
        let files = self.queues.files(queue.kind);
        let min = queue.min(files, self.log.start())?;
        Ok((min, queue.lock().max))
    }

    fn bounds_of(&self, topic: &str, id: QueueId) -> (u64, u64) {
        self.known_queue(topic, id)
            .and_then(|queue| self.bounds(&queue).ok())
            .unwrap_or((0, 0))
    }

    /// When the record at a place was stored.
    pub(crate) fn store_time(&self, offset: u64) -> Option<i64> {
        let segment = self.log.segments().find(offset)?;
        if offset < segment.base() {
            return None;
        }
        let record = RecordView::parse_unsummed(segment.bytes_from(offset)).ok()?;
        (record.physical_offset().number() == offset).then(|| record.store_timestamp())
    }

    /// A time such that every record not younger lies below `offset`.
    pub(crate) fn last_time_below(&self, offset: u64) -> i64 {
        if offset >= self.log.end() {
            return self.log.store_timestamp();
        }
        // At a filler the next file's first record would tell; a little less is safe as well.
        self.store_time(offset).map_or(0, |time| time - 1)
    }

    fn entries(&self, queue: &Queue, from: u64, count: u64) -> Result<Vec<QueueEntry>, StoreError> {
        let files = self.queues.files(queue.kind);
        let first = queue.number_of(files, from)?;
        let end = queue.entries().1;
        let mut found = Vec::new();
        for number in first..first.saturating_add(count).min(end) {
            let (entry, queue_offset, _) = queue.entry(files, number)?;
            if let Some(entry) = entry.filter(|entry| !entry.is_filler()) {
                found.push(QueueEntry {
                    queue_offset: QueueOffset::new(queue_offset),
                    physical_offset: entry.physical_offset,
                    size: entry.size,
                    tags_code: entry.tags_code,
                });
            }
        }
        Ok(found)
    }

    pub(crate) fn counts_as_in_memory(&self, offset: u64) -> bool {
        self.log.end().saturating_sub(offset) <= self.config.read.resident_bytes
    }

    fn record_at(&self, offset: u64) -> Option<LogSlice> {
        let segment = self.log.segments().find(offset)?;
        let record = RecordView::parse(segment.bytes_from(offset)).ok()?;
        let is_placeholder = record.topic() == recovery::PLACEHOLDER_TOPIC;
        if record.physical_offset().number() != offset || is_placeholder {
            return None;
        }
        let size = record.bytes().len();
        self.log.slice(offset, size)
    }

    /// A record that readers met does not hold.
    pub(crate) fn note_damaged(&self, segment: &Segment, offset: u64, record: &[u8]) {
        self.counters.damaged();
        let reason = RecordView::parse(record).err().map_or_else(
            || "another record is there".to_owned(),
            |error| error.to_string(),
        );
        tracing::warn!(file = %segment.file().path.display(), offset, reason, "damaged record");
    }

    /// A background write failed.
    pub(crate) fn note_failure(&self, error: &StoreError) {
        if matches!(error, StoreError::DiskFull { .. }) {
            self.health.disk_full(self.clock.monotonic());
        } else if error.is_out_of_files() {
            tracing::warn!(%error, "a file of the store could not be opened; it is tried again");
        } else {
            self.health.fence(error);
        }
    }

    /// Removes the files of a queue whose messages are all gone.
    pub(crate) fn trim_queue(&self, queue: &Queue, log_start: u64) -> Result<usize, StoreError> {
        self.load(queue)?;
        let files = self.queues.files(queue.kind);
        if !queue.is_long() || queue.needs_first_file(files, log_start)? {
            return Ok(0);
        }
        let min = queue.min(files, log_start)?;
        self.queues.drop_below(queue, min)
    }

    /// Marks the end of the log: what was removed until now is not derived again from the records that are still there,
    /// where it would mix with those of a topic of the same name.
    fn mark_removed(&self) -> Result<(), StoreError> {
        let marked = self.commit.sync(&self.log).and_then(|durable| {
            self.dispatcher.dispatch_to(&self.log, durable, &[]);
            keeper::mark(self)
        });
        marked.inspect_err(|error| self.note_failure(error))
    }

    fn remove_topic(&self, topic: &str) -> Result<(), StoreError> {
        // In front of the rest: what a new queue of this name writes must not go with the old one's files.
        let alone = self.queues.stop_writing();
        let queues = self.dispatcher.delete_topic(topic, || {
            self.log
                .between_appends(|end| (self.queues.take_topic(topic), end))
        });
        let removed = self.queues.remove_files(topic, &queues, &alone)?;
        drop(alone);
        // The mark tells how many queues there are; one too many would make the next start look for it.
        let mut checkpoint = self.checkpoint.lock();
        if let Some(mark) = &mut checkpoint.mark {
            mark.queues = mark.queues.saturating_sub(removed);
            checkpoint.write(&self.config.medium, &self.config.root)?;
        }
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        let segments = self.log.segments();
        let mut stats = StoreStats {
            log_min: self.log.start(),
            log_max: self.log.end(),
            flushed: self.commit.durable(),
            dispatched: self.dispatcher.position(),
            last_store_timestamp: self.log.store_timestamp(),
            segments: segments.all().len(),
            disk_used_percent: self
                .config
                .medium
                .space(segments.dir())
                .map_or(0, |space| space.used_percent()),
            queues: self.queues.len(),
            index_files: self.index.as_ref().map_or(0, |index| index.file_count()),
            ..StoreStats::default()
        };
        self.counters.fill(&mut stats);
        stats
    }

    /// The end of a clean stop: log, then what is derived, then the mark, then the summary.
    fn finish(&self) -> Result<(), StoreError> {
        let durable = self.commit.sync(&self.log)?;
        self.dispatcher.dispatch_to(&self.log, durable, &[]);
        keeper::mark(self)?;
        self.log.segments().discard_ahead()?;
        self.snapshot()
            .write(&self.config.medium, &self.config.root)
    }

    fn snapshot(&self) -> Snapshot {
        let queues = self
            .queues
            .all()
            .iter()
            .map(|queue| {
                let files = queue.lock().log.files();
                QueueSnapshot::new(
                    &queue.name.topic,
                    queue.name.id.number(),
                    queue.kind == Kind::Batch,
                    queue.is_loaded(),
                    files,
                    queue.summary(),
                )
            })
            .collect();
        Snapshot::new(
            (self.log.start(), self.log.end()),
            self.log.last_record(),
            self.log.store_timestamp(),
            self.index
                .as_ref()
                .map_or(0, |index| index.file_count() as u64),
            queues,
        )
    }
}
