//! Messages of a group that failed: those that wait in the delay levels for their next try, and those that are back in the
//! retry topic and not consumed. All of it is read from the log, so there is no state to keep and none to lose.

use std::collections::HashMap;

use agena_protocol::bodies::lag::LagCause;
use agena_protocol::message_id::OffsetId;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties;
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::topic;
use agena_store::{LogSlice, QueueEntry};

use super::id_of;
use crate::broker::Broker;

/// Delayed messages of all groups that one explanation looks at, so that an operator's question has an end.
const DELAYED_MAX: usize = 20_000;

/// Bytes of messages that it reads for that.
const BYTES_MAX: usize = 64 << 20;

/// Messages of one retry queue that it looks at.
const RETURNED_MAX: usize = 256;

/// How many entries are fetched in one go.
const CHUNK_ENTRIES: usize = 256;

/// A message that was sent back so often fails again and again.
const TIMES_MIN: i32 = 2;

/// How many of those are named per queue.
const NAMED_MAX: usize = 3;

/// What failed, by queue of the retry topic.
#[derive(Debug, Default)]
pub(super) struct Retries {
    topic: String,
    queues: HashMap<QueueId, QueueRetries>,
}

/// What failed and comes back, or came back, into one queue of the retry topic.
#[derive(Debug, Clone, Default)]
pub(super) struct QueueRetries {
    /// [`LagCause::WaitingForRetry`], if anything waits.
    pub(super) waiting: Option<LagCause>,
    /// [`LagCause::FailingAgain`], the most often tried first.
    pub(super) failing: Vec<LagCause>,
}

/// A message that was sent back.
#[derive(Debug)]
struct Returned {
    id: String,
    times: i32,
    topic: String,
    origin: Option<OffsetId>,
}

#[derive(Debug, Default)]
struct Found {
    /// When each that waits is due.
    due: Vec<i64>,
    /// The latest copy of each message by its id.
    returned: HashMap<String, Returned>,
}

impl Retries {
    /// Looks through the log.
    pub(super) fn of_group(broker: &Broker, group: &str) -> Self {
        let retry_topic = topic::retry_of(group);
        let mut found: HashMap<QueueId, Found> = HashMap::new();
        let mut reading = Reading {
            broker,
            bytes_left: BYTES_MAX,
        };
        returned(&mut reading, group, &retry_topic, &mut found);
        let looked_at_all = waiting(&mut reading, &retry_topic, &mut found);
        let queues = found.into_iter().map(|(queue, found)| {
            let retries = QueueRetries {
                waiting: found.waiting(!looked_at_all),
                failing: found.failing(broker),
            };
            (queue, retries)
        });
        Self {
            queues: queues.collect(),
            topic: retry_topic,
        }
    }

    /// Those of a queue; none of other topics'.
    pub(super) fn of_queue(&self, topic: &str, queue: QueueId) -> QueueRetries {
        let queue = self.queues.get(&queue).filter(|_| topic == self.topic);
        queue.cloned().unwrap_or_default()
    }
}

/// Reads records until it read enough.
struct Reading<'a> {
    broker: &'a Broker,
    bytes_left: usize,
}

impl Reading<'_> {
    /// The record of an entry.
    ///
    /// # Errors
    /// [`Enough`] when as much was read as may be.
    fn record(&mut self, entry: &QueueEntry) -> Result<Option<LogSlice>, Enough> {
        let bytes = usize::try_from(entry.size).unwrap_or(usize::MAX);
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(Enough)?;
        let place = PhysicalOffset::new(entry.physical_offset);
        Ok(self.broker.store.record_at(place))
    }
}

/// There is more than one explanation looks at.
struct Enough;

/// Finds what waits in the delay levels; false when there was too much to look at.
fn waiting(
    reading: &mut Reading<'_>,
    retry_topic: &str,
    found: &mut HashMap<QueueId, Found>,
) -> bool {
    let mut left = DELAYED_MAX;
    let levels = reading.broker.delay.level_offsets();
    let all = levels.into_iter().try_for_each(|(level, next, max)| {
        // Levels count from one, their queues from zero.
        let number = u32::try_from(level.saturating_sub(1)).unwrap_or(u32::MAX);
        let level = Level {
            queue: QueueId::new(number),
            next,
            max,
        };
        level.look_through(reading, &mut left, retry_topic, found)
    });
    all.is_ok()
}

/// A delay level and where its messages that wait begin and end.
struct Level {
    queue: QueueId,
    next: u64,
    max: u64,
}

impl Level {
    fn look_through(
        self,
        reading: &mut Reading<'_>,
        left: &mut usize,
        retry_topic: &str,
        found: &mut HashMap<QueueId, Found>,
    ) -> Result<(), Enough> {
        let store = &reading.broker.store;
        let mut offset = self.next;
        while offset < self.max {
            if *left == 0 {
                return Err(Enough);
            }
            let (from, count) = (QueueOffset::new(offset), CHUNK_ENTRIES.min(*left));
            let entries = store.entries(topic::SCHEDULE, self.queue, from, count);
            let Some(last) = entries.last() else {
                break;
            };
            offset = last.queue_offset.number() + 1;
            *left = left.saturating_sub(entries.len());
            for entry in entries {
                let slice = reading.record(&entry)?;
                let record = slice.as_deref().map(RecordView::parse_unsummed);
                if let Some(Ok(record)) = record
                    && record.properties().get(properties::REAL_TOPIC) == Some(retry_topic)
                {
                    let queue = record.properties().get(properties::REAL_QID);
                    let queue = queue.and_then(|text| text.parse().ok()).unwrap_or(0);
                    let found = found.entry(QueueId::new(queue)).or_default();
                    // The entry of a delayed message has its due time where others have the hash of a tag.
                    found.due.push(entry.tags_code);
                    found.note(&record);
                }
            }
        }
        Ok(())
    }
}

/// Finds what is back in the retry topic and not consumed.
fn returned(
    reading: &mut Reading<'_>,
    group: &str,
    retry_topic: &str,
    found: &mut HashMap<QueueId, Found>,
) {
    let broker = reading.broker;
    let queues = broker
        .topics
        .get(retry_topic)
        .map_or(0, |topic| topic.read_queue_nums);
    for queue in (0..queues).filter_map(QueueId::from_wire) {
        let committed = broker.offsets.committed_at(group, retry_topic, queue);
        let min = broker.store.min_offset(retry_topic, queue);
        let from = committed.unwrap_or(min).max(min);
        for entry in broker.store.entries(retry_topic, queue, from, RETURNED_MAX) {
            let Ok(slice) = reading.record(&entry) else {
                return;
            };
            if let Some(Ok(record)) = slice.as_deref().map(RecordView::parse_unsummed) {
                found.entry(queue).or_default().note(&record);
            }
        }
    }
}

impl Found {
    fn note(&mut self, record: &RecordView<'_>) {
        let times = record.reconsume_times();
        if times < TIMES_MIN {
            return;
        }
        let properties = record.properties();
        let origin = properties.get(properties::ORIGIN_MESSAGE_ID);
        let id = id_of(record);
        let returned = Returned {
            times,
            topic: properties
                .get(properties::RETRY_TOPIC)
                .unwrap_or_default()
                .to_owned(),
            origin: origin.and_then(OffsetId::parse),
            id: id.clone(),
        };
        let known = self.returned.get(&id);
        if known.is_none_or(|known| known.times < times) {
            self.returned.insert(id, returned);
        }
    }

    fn waiting(&self, at_least: bool) -> Option<LagCause> {
        Some(LagCause::WaitingForRetry {
            messages: self.due.len(),
            first_due: *self.due.iter().min()?,
            last_due: *self.due.iter().max()?,
            at_least,
        })
    }

    fn failing(self, broker: &Broker) -> Vec<LagCause> {
        let mut returned: Vec<_> = self.returned.into_values().collect();
        returned.sort_by(|a, b| b.times.cmp(&a.times).then_with(|| a.id.cmp(&b.id)));
        returned.truncate(NAMED_MAX);
        let named = returned.into_iter();
        named.map(|returned| returned.cause(broker)).collect()
    }
}

impl Returned {
    /// The cause, with the original's place as far as the log still has it.
    fn cause(self, broker: &Broker) -> LagCause {
        let own = broker.identity.advertised;
        let origin = self.origin.filter(|origin| origin.store_host == own);
        let slice = origin.and_then(|origin| broker.store.record_at(origin.offset));
        let record = slice.as_deref().map(RecordView::parse_unsummed);
        let place = match record {
            Some(Ok(record)) if record.topic() == self.topic => {
                Some((record.queue_id().wire(), record.queue_offset().wire()))
            }
            _ => None,
        };
        LagCause::FailingAgain {
            topic: self.topic,
            queue_id: place.map(|(queue, _)| queue),
            offset: place.map(|(_, offset)| offset),
            message_id: self.id,
            times: self.times,
        }
    }
}
