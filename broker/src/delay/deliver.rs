//! One pass over everything that may be due: find it, read it, append it to where it belongs, go on.
//!
//! What is due is appended in batches; progress advances only over what was appended or set aside by name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties::{self, Properties, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordFields, RecordView};
use agena_protocol::topic;
use tracing::{error, warn};

use super::levels::{Level, Waiting};
use super::log::{DelayLog, LogFault};
use super::progress::Progress;
use super::recalled::Recalled;
use super::timers::{Timers, times_of, until};
use super::{DelaySettings, queue_of_level};

/// Messages of one append.
const BATCH: usize = 64;

/// Bytes after which an append takes no further message.
const BATCH_BYTES: usize = 4 << 20;

/// Entries of the timer topic read in one pass, so that a flood of new timers does not hold up those that are due.
const TIMERS_READ_PER_PASS: usize = 4096;

/// Pause after a delivery that the store refused, at first and at most.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

const TIMER_QUEUE: QueueId = QueueId::new(0);

/// What is known in memory.
#[derive(Debug)]
pub(super) struct Work {
    levels: Vec<Level>,
    timers: Timers,
    /// What was settled when the broker was opened; entries before are looked up there.
    settled: super::timers::TimerProgress,
    recalled: Recalled,
    log_end: PhysicalOffset,
    /// How long to wait when the store refuses the next time.
    retry_pause: Duration,
}

/// What a pass did.
#[derive(Debug)]
pub(super) struct Pass {
    /// How far everything is, if anything was done.
    pub(super) delivered: Option<Progress>,
    /// There may be more to do at once.
    pub(super) more: bool,
    /// Otherwise, how long there is nothing; [`Duration::MAX`] for "until something arrives".
    pub(super) idle_for: Duration,
    /// The store refused.
    pub(super) fault: Option<LogFault>,
}

/// A message on its way from where it waited to where it belongs, owned, since the record's bytes are shown only briefly.
#[derive(Debug)]
struct Parcel {
    topic: String,
    queue_id: QueueId,
    properties: Vec<u8>,
    body: Vec<u8>,
    flag: i32,
    sys_flag: i32,
    born_timestamp: i64,
    born_host: std::net::SocketAddr,
    store_host: std::net::SocketAddr,
    reconsume_times: i32,
    prepared_transaction_offset: i64,
}

/// What goes into one append.
#[derive(Debug, Default)]
struct Parcels {
    all: Vec<Parcel>,
    bytes: usize,
}

impl Parcels {
    fn take(&mut self, parcel: Option<Parcel>) {
        if let Some(parcel) = parcel {
            self.bytes += parcel.body.len() + parcel.properties.len();
            self.all.push(parcel);
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
    }
}

impl Work {
    pub(super) fn new(settings: &DelaySettings, progress: &Progress) -> Self {
        let levels = settings.levels.iter().zip(&progress.levels);
        Self {
            levels: levels
                .map(|(delay, next)| Level::new(*delay, *next))
                .collect(),
            timers: Timers::new(settings.send.timers, progress.timers),
            settled: progress.timers,
            recalled: Recalled::default(),
            log_end: progress.log_end,
            retry_pause: RETRY_PAUSE,
        }
    }

    /// How long to leave the store alone; longer each time until it takes something.
    pub(super) fn pause_after_fault(&mut self) -> Duration {
        let pause = self.retry_pause;
        self.retry_pause = (pause * 2).min(RETRY_PAUSE_MAX);
        pause
    }

    /// Timer progress whose first pending entry was looked for anew.
    pub(super) fn exact_timer_progress(&mut self) -> super::timers::TimerProgress {
        self.timers.progress_exact();
        self.timer_progress()
    }

    /// A batch of every level and of the timers.
    pub(super) fn pass(
        &mut self,
        log: &dyn DelayLog,
        clock: &dyn Clock,
        caught_up: &[AtomicBool],
    ) -> Pass {
        let mut worked = false;
        let mut more = false;
        let mut fault = None;
        for (level, waits) in (0..self.levels.len()).zip(caught_up) {
            self.read_level(level, log, waits);
            match self.deliver_level(level, log, clock.now_ms()) {
                Ok(0) => {}
                Ok(_) => (worked, more) = (true, true),
                Err(refused) => fault = Some(refused),
            }
        }
        if let Some(waits) = caught_up.last() {
            match self.read_timers(log, clock.now_ms(), waits) {
                0 => {}
                read => {
                    worked = true;
                    more |= read == TIMERS_READ_PER_PASS;
                }
            }
        }
        match self.deliver_timers(log, clock.now_ms()) {
            Ok(0) => {}
            Ok(_) => (worked, more) = (true, true),
            Err(refused) => fault = Some(refused),
        }
        Pass {
            delivered: worked.then(|| self.progress()),
            more,
            idle_for: self.idle_for(clock.now_ms()),
            fault,
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            levels: self.levels.iter().map(Level::next).collect(),
            timers: self.timer_progress(),
            log_end: self.log_end,
        }
    }

    /// Until the queue is read as far as it was before the restart, what was settled then stays so.
    fn timer_progress(&self) -> super::timers::TimerProgress {
        let now = self.timers.progress();
        if now.read < self.settled.read {
            self.settled
        } else {
            now
        }
    }

    fn idle_for(&self, now_ms: i64) -> Duration {
        let levels = self.levels.iter().filter_map(|level| level.due_at(now_ms));
        let next = levels.chain(self.timers.next_act_ms()).min();
        // A millisecond that has begun is not over yet: waking at its end is never early.
        next.map_or(Duration::MAX, |at| until(at, now_ms))
    }

    fn read_level(&mut self, level: usize, log: &dyn DelayLog, waits: &AtomicBool) {
        let queue = queue_of_level(level);
        let level = &mut self.levels[level];
        let (first, _) = log.bounds(topic::SCHEDULE, queue);
        if level.next() < first {
            warn!(
                ?queue,
                from = level.next(),
                to = first,
                "delayed messages were deleted by retention before they were due"
            );
            level.skip_to(first);
        }
        let read = |from, count| log.entries(topic::SCHEDULE, queue, from, count);
        level.read_ahead(read);
        if level.has_nothing() {
            // The mark first, then a second look: an entry that arrives in between is seen by one of the two.
            waits.swap(true, Ordering::SeqCst);
            level.read_ahead(read);
        }
    }

    fn deliver_level(
        &mut self,
        level: usize,
        log: &dyn DelayLog,
        now_ms: i64,
    ) -> Result<usize, LogFault> {
        let due: Vec<Waiting> = self.levels[level].due(now_ms, BATCH).collect();
        let mut parcels = Parcels::default();
        let mut last = None;
        for entry in &due {
            if parcels.is_full() {
                break;
            }
            parcels.take(parcel_at(log, entry, Parcel::of_level));
            last = Some(entry.offset);
        }
        let Some(last) = last else { return Ok(0) };
        self.append(log, &parcels)?;
        self.levels[level].delivered_through(last);
        Ok(due.len())
    }

    /// How many entries of the timer topic were read.
    fn read_timers(&mut self, log: &dyn DelayLog, now_ms: i64, waits: &AtomicBool) -> usize {
        if let Some((low, from_ms)) = self.timers.take_beyond(now_ms) {
            self.read_timers_again(log, low, from_ms);
        }
        let mut read = self.read_new_timers(log);
        if read == 0 {
            waits.swap(true, Ordering::SeqCst);
            read = self.read_new_timers(log);
        }
        read
    }

    fn read_new_timers(&mut self, log: &dyn DelayLog) -> usize {
        let from = self.timers.next_to_read();
        let entries = log.entries(topic::TIMER_WHEEL, TIMER_QUEUE, from, TIMERS_READ_PER_PASS);
        for entry in &entries {
            let act_ms = self.when_to_act(log, entry);
            let act_ms = act_ms.filter(|act_ms| !self.settled.is_settled(entry.offset, *act_ms));
            self.timers.offer(entry.offset, act_ms);
        }
        entries.len()
    }

    fn read_timers_again(&mut self, log: &dyn DelayLog, low: u64, from_ms: i64) {
        let end = self.timers.next_to_read();
        let mut from = low;
        while from < end {
            let entries = log.entries(topic::TIMER_WHEEL, TIMER_QUEUE, from, TIMERS_READ_PER_PASS);
            let Some(last) = entries.last() else { return };
            from = last.offset + 1;
            for entry in entries.iter().filter(|entry| entry.offset < end) {
                if let Some(act_ms) = self.when_to_act(log, entry) {
                    self.timers.offer_again(entry.offset, act_ms, from_ms);
                }
            }
        }
    }

    /// When to act on an entry; a recall takes effect as soon as it is read.
    fn when_to_act(&mut self, log: &dyn DelayLog, entry: &Waiting) -> Option<i64> {
        let rules = self.timers.rules();
        let mut act_ms = None;
        let mut recall = None;
        let found = log.look_at(entry.place, &mut |record| {
            let properties = record.properties();
            let times = times_of(properties, record.store_timestamp(), rules);
            act_ms = Some(times.map_or(record.store_timestamp(), |times| times.act_ms));
            let key = properties.get(properties::TIMER_DEL_UNIQKEY);
            recall = key.map(str::to_owned);
        });
        if found.is_none() {
            warn!(
                offset = entry.offset,
                place = entry.place.number(),
                "a timer's record is gone"
            );
        }
        if let (Some(key), Some(act_ms)) = (recall, act_ms) {
            // The recalled message is due within the same step, so the mark has to last a little longer than it.
            let forget_ms = act_ms.saturating_add(rules.precision_ms.saturating_mul(2));
            self.recalled.add(key, forget_ms);
            return Some(forget_ms);
        }
        act_ms
    }

    fn deliver_timers(&mut self, log: &dyn DelayLog, now_ms: i64) -> Result<usize, LogFault> {
        let due = self.timers.take_due(now_ms, BATCH);
        if due.is_empty() {
            self.timers.acted(now_ms);
            return Ok(0);
        }
        let mut parcels = Parcels::default();
        let mut done = 0;
        for (_, offset) in &due {
            if parcels.is_full() {
                break;
            }
            done += 1;
            let entry = log.entries(topic::TIMER_WHEEL, TIMER_QUEUE, *offset, 1);
            let Some(entry) = entry.first().filter(|entry| entry.offset == *offset) else {
                warn!(offset, "a timer's queue entry is gone");
                continue;
            };
            let rules = self.timers.rules();
            let recalled = &self.recalled;
            let parcel = parcel_at(log, entry, |record| {
                let times = times_of(record.properties(), record.store_timestamp(), rules);
                match times {
                    _ if recalled.has(record.properties()) => None,
                    Some(times) if times.due_ms > now_ms => Parcel::rolled(record),
                    _ => Parcel::of_timer(record, now_ms),
                }
            });
            parcels.take(parcel);
        }
        if let Err(refused) = self.append(log, &parcels) {
            self.timers.put_back(&due);
            return Err(refused);
        }
        self.timers.put_back(&due[done..]);
        self.timers.acted(now_ms);
        self.recalled.forget(now_ms);
        Ok(due.len())
    }

    fn append(&mut self, log: &dyn DelayLog, parcels: &Parcels) -> Result<(), LogFault> {
        if parcels.all.is_empty() {
            return Ok(());
        }
        let messages: Vec<RecordFields<'_>> = parcels.all.iter().map(Parcel::message).collect();
        self.log_end = log.append(&messages)?;
        self.retry_pause = RETRY_PAUSE;
        Ok(())
    }
}

/// What `make` makes of the record of an entry. A record that is gone or cannot be delivered is left out by name.
fn parcel_at(
    log: &dyn DelayLog,
    entry: &Waiting,
    make: impl Fn(&RecordView<'_>) -> Option<Parcel>,
) -> Option<Parcel> {
    let mut parcel = None;
    let found = log.look_at(entry.place, &mut |record| parcel = make(record));
    if found.is_none() {
        warn!(
            offset = entry.offset,
            place = entry.place.number(),
            "a delayed message is gone"
        );
    }
    parcel
}

impl Parcel {
    /// A message of a level: its properties stay as they were stored.
    fn of_level(record: &RecordView<'_>) -> Option<Self> {
        let (topic, queue_id) = real_place(record)?;
        if topic == topic::TRANS_HALF {
            error!(
                place = record.physical_offset().number(),
                "a delayed half message is dropped"
            );
            return None;
        }
        let properties = record.properties().encoded().to_vec();
        Some(Self::to(topic, queue_id, properties, record))
    }

    fn of_timer(record: &RecordView<'_>, now_ms: i64) -> Option<Self> {
        let properties = record.properties();
        if properties.get(properties::TIMER_DEL_UNIQKEY).is_some() {
            return None;
        }
        let (topic, queue_id) = real_place(record)?;
        let mut delivered = PropertiesBuf::parse(properties.encoded());
        let stored = record.store_timestamp().to_string();
        delivered.set(properties::TIMER_ENQUEUE_MS, stored);
        delivered.set(properties::TIMER_DEQUEUE_MS, now_ms.to_string());
        Some(Self::to(topic, queue_id, delivered.encode(), record))
    }

    /// A message that waits on, in a younger record.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "one shape with the other two ways out of the queue"
    )]
    fn rolled(record: &RecordView<'_>) -> Option<Self> {
        let mut rolled = PropertiesBuf::parse(record.properties().encoded());
        let times = rolled.get(properties::TIMER_ROLL_TIMES);
        let times: u32 = times.and_then(|times| times.parse().ok()).unwrap_or(0);
        rolled.set(
            properties::TIMER_ROLL_TIMES,
            times.saturating_add(1).to_string(),
        );
        Some(Self::to(
            record.topic(),
            record.queue_id(),
            rolled.encode(),
            record,
        ))
    }

    fn to(topic: &str, queue_id: QueueId, properties: Vec<u8>, record: &RecordView<'_>) -> Self {
        Self {
            topic: topic.to_owned(),
            queue_id,
            properties,
            body: record.body().to_vec(),
            flag: record.flag(),
            sys_flag: record.sys_flag(),
            born_timestamp: record.born_timestamp(),
            born_host: record.born_host(),
            store_host: record.store_host(),
            reconsume_times: record.reconsume_times(),
            prepared_transaction_offset: record.prepared_transaction_offset(),
        }
    }

    fn message(&self) -> RecordFields<'_> {
        RecordFields {
            topic: &self.topic,
            queue_id: self.queue_id,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_timestamp: self.born_timestamp,
            born_host: self.born_host,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: self.prepared_transaction_offset,
            body: &self.body,
            properties: &self.properties,
        }
    }
}

/// The topic and queue that a waiting message is for.
fn real_place<'r>(record: &RecordView<'r>) -> Option<(&'r str, QueueId)> {
    let properties: Properties<'r> = record.properties();
    let topic = properties.get(properties::REAL_TOPIC);
    let queue = properties
        .get(properties::REAL_QID)
        .and_then(|text| text.parse().ok())
        .and_then(QueueId::from_wire);
    if topic.is_none() || queue.is_none() {
        let place = record.physical_offset().number();
        error!(
            place,
            "a delayed message names no topic and queue, and is set aside"
        );
    }
    Some((topic?, queue?))
}
