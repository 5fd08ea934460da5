//! Follows the log and builds all that is derived from it: queue entries, index keys, and whatever an [`Observer`] keeps.
//!
//! One function, [`Dispatcher::dispatch`], does it for one record, live as in recovery. Live, whoever appended runs it
//! right behind the publication (in sync mode the group-commit thread does, behind the data sync), under one lock and in
//! log order. Apache: `ReputMessageService`, a thread that polls every millisecond.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{self, Properties};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::sys_flag::INNER_BATCH;
use agena_protocol::tags::tags_code;
use agena_protocol::topic;
use parking_lot::Mutex;

use crate::commit_log::CommitLog;
use crate::consume_queue::{Entry, NewEntry};
use crate::index::{Index, KEY_NAMES, keys_of};
use crate::index_file::Key;
use crate::queue_table::{Queue, QueueTable};
use crate::retention::Going;

/// Queues that dispatch remembers from record to record.
const KNOWN_QUEUES: usize = 16;

/// Hears of every record that consumers may now see. Calls come one at a time, in log order.
pub trait Observer: Send + Sync + 'static {
    /// A record took its place in its queue. Must be short and may not call back into the store's appends.
    fn dispatched(&self, record: &Dispatched<'_>);

    /// The end of a run of records: time to wake who waits, once.
    fn dispatched_all(&self) {}

    /// A log file goes, and with it the messages that nobody has read. Called in front of the removal, by the thread that
    /// looks after the store: it may read from the store, and should not take long.
    fn going(&self, _going: &Going) {}

    /// Messages are refused from now on, or taken again: [`Store::is_writable`](crate::Store::is_writable) and
    /// [`Store::read_only_reason`](crate::Store::read_only_reason) tell which. Called by whoever met the cause, an append
    /// perhaps: must be short and may not call back into the store.
    fn writability_changed(&self) {}
}

/// An observer that keeps nothing.
impl Observer for () {
    fn dispatched(&self, _record: &Dispatched<'_>) {}
}

/// What an [`Observer`] is told.
#[derive(Debug, Clone, Copy)]
pub struct Dispatched<'a> {
    /// The record.
    pub record: &'a RecordView<'a>,
    /// The number that filters see: of the tag, or the delivery time in the schedule topic.
    pub tags_code: i64,
    /// Messages in the record: more than one in an inner batch.
    pub messages: u16,
    /// Whether this is recovery going over records that may have been dispatched before.
    pub recovering: bool,
}

impl<'a> Dispatched<'a> {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        self.record.topic()
    }

    /// The queue.
    #[must_use]
    pub fn queue_id(&self) -> QueueId {
        self.record.queue_id()
    }

    /// The message's number in the queue; the first one's, in a batch.
    #[must_use]
    pub fn queue_offset(&self) -> QueueOffset {
        self.record.queue_offset()
    }

    /// The record's place in the log.
    #[must_use]
    pub fn physical_offset(&self) -> PhysicalOffset {
        self.record.physical_offset()
    }

    /// Bytes of the record.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.record.bytes().len()
    }

    /// When it was stored, ms.
    #[must_use]
    pub fn store_timestamp(&self) -> i64 {
        self.record.store_timestamp()
    }

    /// The properties.
    #[must_use]
    pub fn properties(&self) -> Properties<'a> {
        self.record.properties()
    }

    /// The body as stored.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.record.body()
    }
}

/// Follows the log.
pub(crate) struct Dispatcher {
    queues: Arc<QueueTable>,
    /// `None` when `messageIndexEnable` is off.
    index: Option<Arc<Index>>,
    observer: Arc<dyn Observer>,
    delay_levels: Vec<Duration>,
    /// Whoever holds it dispatches.
    turn: Mutex<Turn>,
    /// Everything below is dispatched. Stored (Release) under `turn`, after the entries.
    position: AtomicU64,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Turn {
    keys: Vec<Key>,
    /// Queues of the last records, by number: those of the next ones, more often than not.
    queues: [Option<Arc<Queue>>; KNOWN_QUEUES],
    /// Topics that were deleted, and where the log ended then, as far as that is not dispatched.
    deleted: HashMap<Box<str>, u64>,
}

impl Turn {
    /// Whether a record's queue is gone. One of that name is another's.
    fn is_deleted(&self, record: &RecordView<'_>) -> bool {
        let deleted_at = self.deleted.get(record.topic());
        deleted_at.is_some_and(|end| record.physical_offset().number() < *end)
    }
}

/// What dispatch makes of a record.
pub(crate) struct Derived {
    /// `None` for records that are in no queue.
    pub(crate) entry: Option<NewEntry>,
}

impl Dispatcher {
    pub(crate) fn new(
        queues: Arc<QueueTable>,
        index: Option<Arc<Index>>,
        observer: Arc<dyn Observer>,
        delay_levels: Vec<Duration>,
    ) -> Self {
        Self {
            queues,
            index,
            observer,
            delay_levels,
            turn: Mutex::default(),
            position: AtomicU64::new(0),
        }
    }

    /// Who hears of what happens.
    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    /// Everything below is dispatched.
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// The same, behind a run of records that is being dispatched: whoever saw an entry of it finds its keys as well.
    pub(crate) fn settled(&self) -> u64 {
        let _turn = self.turn.lock();
        self.position()
    }

    /// Recovery is through; the live path goes on here.
    pub(crate) fn start_at(&self, position: u64) {
        self.position.store(position, Ordering::Release);
    }

    /// Dispatches everything below `limit`. When this returns, whoever asks for a queue's end sees it. `appended` has the
    /// queues of the last records if the caller knows them: with very many queues, finding one costs more than its entry.
    pub(crate) fn dispatch_to(&self, log: &CommitLog, limit: u64, appended: &[Arc<Queue>]) {
        if self.position() >= limit {
            return;
        }
        let mut turn = self.turn.lock();
        let from = self.position();
        if from >= limit {
            return;
        }
        let mut appended = appended.iter();
        let walked = log.walk(from, limit, false, |record, _| {
            self.dispatch(record, &mut turn, &mut appended);
            true
        });
        if let Err((at, error)) = walked {
            // Only this process has written here since the log was scanned.
            tracing::error!(offset = at, %error, "a record that was just appended does not parse");
        }
        if let Some(index) = &self.index
            && !turn.keys.is_empty()
        {
            index.add(&mut turn.keys);
        }
        if !turn.deleted.is_empty() {
            turn.deleted.retain(|_, end| *end > limit);
        }
        self.position.store(limit, Ordering::Release);
        self.observer.dispatched_all();
    }

    /// Queue entry, index keys, observers of one record that was just appended.
    fn dispatch(
        &self,
        record: &RecordView<'_>,
        turn: &mut Turn,
        appended: &mut std::slice::Iter<'_, Arc<Queue>>,
    ) {
        let derived = self.derive(record, &mut turn.keys);
        let Some(entry) = derived.entry else {
            return;
        };
        if !turn.deleted.is_empty() && turn.is_deleted(record) {
            return;
        }
        let is_its_queue = |queue: &Arc<Queue>| {
            queue.name.id == record.queue_id() && *queue.name.topic == *record.topic()
        };
        let known = &mut turn.queues[record.queue_id().index() % KNOWN_QUEUES];
        // Records of other appends may come first, hence the comparison; in turn, the caller's queues are met in order.
        let queue = match (appended.as_slice().first(), &mut *known) {
            (Some(queue), _) if is_its_queue(queue) => {
                appended.next();
                queue
            }
            (_, Some(queue)) if is_its_queue(queue) => queue,
            _ => known.insert(self.queues.get_or_make(record.topic(), record.queue_id())),
        };
        self.queues.put(queue, &entry);
        self.tell(record, &entry, false);
    }

    /// The same for a record that recovery found: the entry is the caller's to put, because it may be there.
    pub(crate) fn derive(&self, record: &RecordView<'_>, keys: &mut Vec<Key>) -> Derived {
        let wanted = Wanted::of(record);
        if self.index.is_some() {
            keys_of(record, wanted.unique_key, wanted.keys, keys);
        }
        let entry = record.transaction().is_queued().then(|| NewEntry {
            queue_offset: record.queue_offset().number(),
            entry: Entry {
                physical_offset: record.physical_offset().number(),
                size: u32::try_from(record.bytes().len()).unwrap_or(u32::MAX),
                tags_code: self.tags_code(record, &wanted),
            },
            store_timestamp: record.store_timestamp(),
            messages: wanted.messages,
        });
        Derived { entry }
    }

    /// Tells the observer.
    pub(crate) fn tell(&self, record: &RecordView<'_>, entry: &NewEntry, recovering: bool) {
        self.observer.dispatched(&Dispatched {
            record,
            tags_code: entry.entry.tags_code,
            messages: entry.messages,
            recovering,
        });
    }

    /// A topic is deleted: `take` takes its queues out and tells where the log ends at that moment. What was appended before
    /// and is not dispatched yet goes to no queue, least of all to a new one of that name.
    pub(crate) fn delete_topic(
        &self,
        topic: &str,
        take: impl FnOnce() -> (Vec<Arc<Queue>>, u64),
    ) -> Vec<Arc<Queue>> {
        let mut turn = self.turn.lock();
        let (queues, end) = take();
        turn.queues = Default::default();
        if end > self.position() {
            turn.deleted.insert(topic.into(), end);
        }
        queues
    }

    /// The schedule topic keeps the time of delivery in place of the tag (spec/store.md §3.1).
    fn tags_code(&self, record: &RecordView<'_>, wanted: &Wanted<'_>) -> i64 {
        if let Some(level) = wanted.delay
            && record.topic() == topic::SCHEDULE
            && level > 0
        {
            let level = usize::try_from(level).unwrap_or(usize::MAX);
            let delay = self
                .delay_levels
                .get(level.min(self.delay_levels.len()).wrapping_sub(1))
                .map_or(1000, |delay| {
                    i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)
                });
            return record.store_timestamp().saturating_add(delay);
        }
        wanted.tags.map_or(0, tags_code)
    }
}

/// The properties that dispatch looks at, found in one pass.
#[derive(Default)]
struct Wanted<'a> {
    tags: Option<&'a str>,
    unique_key: Option<&'a str>,
    keys: Option<&'a str>,
    delay: Option<i64>,
    messages: u16,
}

impl<'a> Wanted<'a> {
    fn of(record: &RecordView<'a>) -> Self {
        let mut wanted = Self {
            messages: 1,
            ..Self::default()
        };
        // Only the broker that makes an inner batch sets the flag; a client may name the properties in any message.
        let in_batch = record.sys_flag() & INNER_BATCH != 0;
        let mut messages = None;
        let text = |value: &'a [u8]| std::str::from_utf8(value).ok();
        for (name, value) in record.properties().pairs() {
            // Of several with one name the last wins, as everywhere.
            if name == properties::TAGS.as_bytes() {
                wanted.tags = text(value);
            } else if name == KEY_NAMES[0].as_bytes() {
                wanted.unique_key = text(value);
            } else if name == KEY_NAMES[1].as_bytes() {
                wanted.keys = text(value);
            } else if name == properties::DELAY.as_bytes() {
                wanted.delay = text(value).and_then(|level| level.parse().ok());
            } else if name == properties::INNER_NUM.as_bytes() {
                messages = text(value).and_then(|count| count.parse::<i16>().ok());
            }
        }
        if in_batch && let Some(count) = messages {
            wanted.messages = u16::try_from(count).unwrap_or(1).max(1);
        }
        wanted
    }
}
