//! Entries of a consume queue as operators see them. Source: spec/wire.md §4.6 (321, 354).

use serde::{Deserialize, Serialize};

use super::subscription::SubscriptionData;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeQueueData {
    /// Bits of the filter, where brokers keep them.
    pub bit_map: Option<String>,
    /// The group's filter takes it.
    pub eval: bool,
    /// What else is kept of it.
    pub extend_data_json: Option<String>,
    /// What is wrong with it.
    pub msg: Option<String>,
    /// Offset in the log.
    pub physic_offset: i64,
    /// Bytes in the log.
    pub physic_size: i32,
    /// Hash of the tags.
    pub tags_code: i64,
}

/// Answer to 321.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryConsumeQueueResponseBody {
    /// The group's filter, compiled.
    pub filter_data: Option<String>,
    /// The next offset to be written.
    pub max_queue_index: i64,
    /// The first offset that is still there.
    pub min_queue_index: i64,
    /// The entries.
    pub queue_data: Vec<ConsumeQueueData>,
    /// The group's subscription.
    pub subscription_data: Option<SubscriptionData>,
}

/// Answer to 354.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckRocksdbCqWriteResult {
    /// What was found, in words.
    pub check_result: Option<String>,
    /// 0 right, 1 wrong, 2 under way or not in use.
    pub check_status: i32,
}
