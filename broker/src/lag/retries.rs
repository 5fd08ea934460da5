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

use super::id_of;
use crate::broker::Broker;

/// Delayed messages of all groups that one explanation looks at, so that an operator's question has an end.
const DELAYED_MAX: usize = 20_000;

/// Messages of one retry queue that one explanation looks at.
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
        let looked_at_all = waiting(broker, &retry_topic, &mut found);
        returned(broker, group, &retry_topic, &mut found);
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

/// Finds what waits in the delay levels; false when there was too much to look at.
fn waiting(broker: &Broker, retry_topic: &str, found: &mut HashMap<QueueId, Found>) -> bool {
    let mut left = DELAYED_MAX;
    for (level, next, max) in broker.delay.level_offsets() {
        // Levels count from one, their queues from zero.
        let number = u32::try_from(level.saturating_sub(1)).unwrap_or(u32::MAX);
        let queue = QueueId::new(number);
        let mut offset = next;
        while offset < max {
            if left == 0 {
                return false;
            }
            let from = QueueOffset::new(offset);
            let entries =
                broker
                    .store
                    .entries(topic::SCHEDULE, queue, from, CHUNK_ENTRIES.min(left));
            let Some(last) = entries.last() else {
                break;
            };
            offset = last.queue_offset.number() + 1;
            left -= entries.len().min(left);
            for entry in entries {
                let slice = broker
                    .store
                    .record_at(PhysicalOffset::new(entry.physical_offset));
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
    }
    true
}

/// Finds what is back in the retry topic and not consumed.
fn returned(broker: &Broker, group: &str, retry_topic: &str, found: &mut HashMap<QueueId, Found>) {
    let queues = broker
        .topics
        .get(retry_topic)
        .map_or(0, |topic| topic.read_queue_nums);
    for queue in (0..queues).filter_map(QueueId::from_wire) {
        let committed = broker.offsets.committed_at(group, retry_topic, queue);
        let min = broker.store.min_offset(retry_topic, queue);
        let from = committed.unwrap_or(min).max(min);
        let entries = broker.store.entries(retry_topic, queue, from, RETURNED_MAX);
        for entry in entries {
            let slice = broker
                .store
                .record_at(PhysicalOffset::new(entry.physical_offset));
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
