//! A topic's queues: their numbers, and the name of one queue of one broker.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a queue within its topic on one broker; ascends from 0.
///
/// On the wire an i32 in which -1 means "all" or "any": that is `Option::None` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QueueId(u32);

impl QueueId {
    /// The queue with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The queue a wire number names; `None` for the negative numbers that mean "all" or "any".
    #[must_use]
    pub fn from_wire(number: i32) -> Option<Self> {
        u32::try_from(number).ok().map(Self)
    }

    /// The plain number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The number as the wire has it.
    #[must_use]
    pub fn wire(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }

    /// The number as an index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One queue of one broker, as bodies name it. Source: spec/wire.md (Q), Apache `MessageQueue`.
///
/// Fields stand in the order of the wire; the order of values is the original's: topic, broker, queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueue {
    /// The broker's name; `__syslo__<scope>` for a static topic.
    pub broker_name: String,
    /// The queue's number; -1 for "all queues of this broker" in the assignments of pop consumers.
    pub queue_id: i32,
    /// The topic.
    pub topic: String,
}

impl MessageQueue {
    /// Names a queue.
    #[must_use]
    pub fn new(
        topic: impl Into<String>,
        broker_name: impl Into<String>,
        queue_id: impl Into<i32>,
    ) -> Self {
        Self {
            broker_name: broker_name.into(),
            queue_id: queue_id.into(),
            topic: topic.into(),
        }
    }
}

impl From<QueueId> for i32 {
    fn from(queue: QueueId) -> Self {
        queue.wire()
    }
}

impl Ord for MessageQueue {
    fn cmp(&self, other: &Self) -> Ordering {
        self.topic
            .cmp(&other.topic)
            .then_with(|| self.broker_name.cmp(&other.broker_name))
            .then_with(|| self.queue_id.cmp(&other.queue_id))
    }
}

impl PartialOrd for MessageQueue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The text form of the original, which its tools print.
impl fmt::Display for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MessageQueue [topic={}, brokerName={}, queueId={}]",
            self.topic, self.broker_name, self.queue_id
        )
    }
}

/// A map by queue: in the original's JSON its keys are objects (spec/wire.md §1.4).
pub type QueueMap<V> = BTreeMap<MessageQueue, V>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_sort_by_topic_then_broker_then_number() {
        let mut queues = [
            MessageQueue::new("b", "x", 0),
            MessageQueue::new("a", "y", 10),
            MessageQueue::new("a", "y", 9),
            MessageQueue::new("a", "x", 11),
        ];
        queues.sort();
        let order: Vec<_> = queues.iter().map(ToString::to_string).collect();
        assert_eq!(order[0], "MessageQueue [topic=a, brokerName=x, queueId=11]");
        assert_eq!(order[1], "MessageQueue [topic=a, brokerName=y, queueId=9]");
        assert_eq!(order[3], "MessageQueue [topic=b, brokerName=x, queueId=0]");
    }

    #[test]
    fn negative_wire_numbers_name_no_queue() {
        assert_eq!(QueueId::from_wire(-1), None);
        assert_eq!(QueueId::from_wire(7), Some(QueueId::new(7)));
        assert_eq!(i32::from(QueueId::new(7)), 7);
    }
}
