//! Static topics: logical queues that are mapped to queues of several brokers. Source: spec/wire.md §4.7.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One stretch of a logical queue on one broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogicQueueMappingItem {
    /// The broker that holds it.
    pub bname: String,
    /// End in the broker's queue, -1 while it is written.
    pub end_offset: i64,
    /// Number of the stretch.
    #[serde(rename = "gen")]
    pub generation: i32,
    /// Start in the logical queue.
    pub logic_offset: i64,
    /// The broker's queue.
    pub queue_id: i32,
    /// Start in the broker's queue.
    pub start_offset: i64,
    /// Store time of its end, -1 if unknown.
    pub time_of_end: i64,
    /// Store time of its start, -1 if unknown.
    pub time_of_start: i64,
}

/// A static topic on one broker, in short.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicQueueMappingInfo {
    /// The broker.
    pub bname: String,
    /// Logical queues this broker writes, with the broker's own queue of each.
    pub curr_id_map: BTreeMap<i32, i32>,
    /// A remapping is under way.
    pub dirty: bool,
    /// Rises with each remapping.
    pub epoch: i64,
    /// The scope of its name, `__global__`.
    pub scope: Option<String>,
    /// The topic.
    pub topic: String,
    /// Number of logical queues.
    pub total_queues: i32,
}

/// A static topic on one broker, in full.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicQueueMappingDetail {
    /// The broker.
    pub bname: String,
    /// Logical queues this broker writes, with the broker's own queue of each.
    pub curr_id_map: BTreeMap<i32, i32>,
    /// A remapping is under way.
    pub dirty: bool,
    /// Rises with each remapping.
    pub epoch: i64,
    /// The stretches of each logical queue.
    pub hosted_queues: BTreeMap<i32, Vec<LogicQueueMappingItem>>,
    /// The scope of its name, `__global__`.
    pub scope: Option<String>,
    /// The topic.
    pub topic: String,
    /// Number of logical queues.
    pub total_queues: i32,
}
