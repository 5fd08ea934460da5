//! Offsets and rates as operators ask for them: by topic, by group, by broker. Source: spec/wire.md §4.6.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::queue::{MessageQueue, QueueMap};

/// One queue of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicOffset {
    /// Store time of the last message in ms.
    pub last_update_timestamp: i64,
    /// The next offset to be written.
    pub max_offset: i64,
    /// The first offset that is still there.
    pub min_offset: i64,
}

/// A topic's queues; answer to 202.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatsTable {
    /// Offsets by queue.
    pub offset_table: QueueMap<TopicOffset>,
    /// Messages a second.
    pub topic_put_tps: f64,
}

/// How far a group is in one queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetWrapper {
    /// The next offset to be written.
    pub broker_offset: i64,
    /// The next offset to be consumed.
    pub consumer_offset: i64,
    /// Store time of the last message consumed, in ms; 0 if unknown.
    pub last_timestamp: i64,
    /// The next offset to be pulled.
    pub pull_offset: i64,
}

/// How far a group is; answer to 208.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStats {
    /// Messages a second.
    pub consume_tps: f64,
    /// Offsets by queue.
    pub offset_table: QueueMap<OffsetWrapper>,
}

impl ConsumeStats {
    /// Messages stored and not yet consumed.
    #[must_use]
    pub fn total_diff(&self) -> i64 {
        let lags = self.offset_table.values();
        lags.map(|queue| queue.broker_offset.saturating_sub(queue.consumer_offset))
            .sum()
    }

    /// Messages pulled and not yet consumed.
    #[must_use]
    pub fn total_inflight_diff(&self) -> i64 {
        let lags = self.offset_table.values();
        lags.map(|queue| queue.pull_offset.saturating_sub(queue.consumer_offset))
            .sum()
    }
}

/// How far all groups of a broker are; answer to 317.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStatsList {
    /// The broker.
    pub broker_addr: Option<String>,
    /// One map a group: its topics.
    pub consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
    /// Messages stored and not yet consumed.
    pub total_diff: i64,
    /// Messages pulled and not yet consumed.
    pub total_inflight_diff: i64,
}

/// A rate over a span.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerStatsItem {
    /// Mean of one occasion.
    pub avgpt: f64,
    /// Total.
    pub sum: i64,
    /// A second.
    pub tps: f64,
}

/// A rate over three spans; answer to 315.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerStatsData {
    /// The last day.
    pub stats_day: BrokerStatsItem,
    /// The last hour.
    pub stats_hour: BrokerStatsItem,
    /// The last minute.
    pub stats_minute: BrokerStatsItem,
}

/// Times of one queue as a group sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueTimeSpan {
    /// Store time of the message consumed last, in ms.
    pub consume_time_stamp: i64,
    /// The same as text in the broker's zone, `2026-11-21#01:22:01:867`.
    pub consume_time_stamp_str: String,
    /// How far that is behind the newest, in ms.
    pub delay_time: i64,
    /// Store time of the newest message, in ms.
    pub max_time_stamp: i64,
    /// The same as text.
    pub max_time_stamp_str: String,
    /// The queue.
    pub message_queue: MessageQueue,
    /// Store time of the oldest message, in ms.
    pub min_time_stamp: i64,
    /// The same as text.
    pub min_time_stamp_str: String,
}

/// Answer to 303.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryConsumeTimeSpanBody {
    /// One a queue.
    pub consume_time_span_set: Vec<QueueTimeSpan>,
}
