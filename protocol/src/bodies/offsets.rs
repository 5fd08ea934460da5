//! Offsets by queue: as they are stored, reset, cloned and compared. Source: spec/wire.md §4.6.9, §6.3, spec/store.md §1.2.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::data_version::DataVersion;
use crate::queue::QueueMap;

/// Between topic and group in the keys of [`ConsumerOffsetSerializeWrapper::offset_table`].
pub const TOPIC_GROUP_SEPARATOR: char = '@';

/// How far every group is; answer to 43, and `consumerOffset.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerOffsetSerializeWrapper {
    /// The table's version.
    pub data_version: DataVersion,
    /// Topics by group: follows from the offsets, and is ignored when read.
    pub group_topic_map: BTreeMap<String, BTreeSet<String>>,
    /// Next offset to consume, by `topic@group` and queue.
    pub offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
}

impl ConsumerOffsetSerializeWrapper {
    /// The key of a topic and a group.
    #[must_use]
    pub fn key(topic: &str, group: &str) -> String {
        format!("{topic}{TOPIC_GROUP_SEPARATOR}{group}")
    }

    /// Topic and group of a key; keys with more parts belong to other features and give `None`.
    #[must_use]
    pub fn split_key(key: &str) -> Option<(&str, &str)> {
        key.split_once(TOPIC_GROUP_SEPARATOR)
            .filter(|(_, group)| !group.contains(TOPIC_GROUP_SEPARATOR))
    }
}

/// How far each delay level is; answer to 45, and `delayOffset.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DelayOffsetSerializeWrapper {
    /// The table's version.
    pub data_version: DataVersion,
    /// Next offset to deliver by level, from 1.
    pub offset_table: BTreeMap<i32, i64>,
}

/// New offsets of a group; answer to 222, body of 220.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetOffsetBody {
    /// Next offset to consume by queue.
    pub offset_table: QueueMap<i64>,
}

/// What was, or would be, done about a group's last reset; answer to 900005.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UndoneReset {
    /// When the group was reset, ms; 0 when there is no reset to take back.
    pub reset_timestamp: i64,
    /// Resets before that one which can still be taken back.
    pub resets_left: usize,
    /// The queues that the reset had moved.
    pub queues: Vec<UndoneQueue>,
}

/// A queue of [`UndoneReset`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UndoneQueue {
    /// The broker.
    pub broker_name: String,
    /// The queue.
    pub queue_id: i32,
    /// Where the group stood just now.
    pub consumer_offset: i64,
    /// Where it goes on; -1 when it had no offset before the reset, and so stays where it is.
    pub offset: i64,
}

/// A queue with an offset, in the form for C++ clients.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueueForC {
    /// The broker.
    pub broker_name: String,
    /// The offset.
    pub offset: i64,
    /// The queue.
    pub queue_id: i32,
    /// The topic.
    pub topic: String,
}

/// New offsets of a group as C++ clients read them; body of 220.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetOffsetBodyForC {
    /// One a queue.
    pub offset_table: Vec<MessageQueueForC>,
}

impl From<&ResetOffsetBody> for ResetOffsetBodyForC {
    fn from(body: &ResetOffsetBody) -> Self {
        let queues = body.offset_table.iter();
        Self {
            offset_table: queues
                .map(|(queue, offset)| MessageQueueForC {
                    broker_name: queue.broker_name.clone(),
                    offset: *offset,
                    queue_id: queue.queue_id,
                    topic: queue.topic.clone(),
                })
                .collect(),
        }
    }
}

/// How far clients are; answer to 221 (one client) and 223 (all).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetConsumerStatusBody {
    /// Offsets by client and queue (223).
    pub consumer_table: BTreeMap<String, QueueMap<i64>>,
    /// Offsets by queue (221).
    pub message_queue_table: QueueMap<i64>,
}

/// Lowest offsets of other groups by queue; answer to 308.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryCorrectionOffsetBody {
    /// Offset by queue.
    pub correction_offsets: BTreeMap<i32, i64>,
}

/// Messages of a topic that wait.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    /// How many.
    pub count: i64,
    /// When that changed, in ms.
    pub time_stamp: i64,
}

/// Messages that wait for their time; answer to 61, and `timermetrics`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimerMetricsSerializeWrapper {
    /// The table's version.
    pub data_version: DataVersion,
    /// By topic.
    pub timing_count: BTreeMap<String, Metric>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{KeyStyle, from_slice, to_vec};
    use crate::queue::MessageQueue;

    #[test]
    fn keys_go_both_ways() {
        let key = ConsumerOffsetSerializeWrapper::key("%RETRY%g", "g");
        assert_eq!(
            ConsumerOffsetSerializeWrapper::split_key(&key),
            Some(("%RETRY%g", "g"))
        );
        assert_eq!(ConsumerOffsetSerializeWrapper::split_key("t@g@b"), None);
        assert_eq!(ConsumerOffsetSerializeWrapper::split_key("t"), None);
    }

    #[test]
    fn c_plus_plus_clients_get_a_list() {
        let body: ResetOffsetBody =
            from_slice(br#"{"offsetTable":{{"brokerName":"b","queueId":3,"topic":"T"}:7}}"#)
                .unwrap();
        assert_eq!(body.offset_table[&MessageQueue::new("T", "b", 3)], 7);
        let list = to_vec(&ResetOffsetBodyForC::from(&body), KeyStyle::Bare);
        assert_eq!(
            String::from_utf8(list).unwrap(),
            r#"{"offsetTable":[{"brokerName":"b","offset":7,"queueId":3,"topic":"T"}]}"#
        );
    }
}
