//! What a consumer says of itself, and how one message went that it was made to consume.
//!
//! Source: spec/wire.md §4.6.4, §4.6.5. Apache: `ConsumerRunningInfo`, `ConsumeMessageDirectlyResult`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::subscription::SubscriptionData;
use crate::queue::QueueMap;
use crate::wire_enum;

/// Property of [`ConsumerRunningInfo`]: name server addresses.
pub const PROP_NAMESERVER_ADDR: &str = "PROP_NAMESERVER_ADDR";
/// Property of [`ConsumerRunningInfo`]: threads of the listener.
pub const PROP_THREADPOOL_CORE_SIZE: &str = "PROP_THREADPOOL_CORE_SIZE";
/// Property of [`ConsumerRunningInfo`]: whether it consumes in order.
pub const PROP_CONSUME_ORDERLY: &str = "PROP_CONSUMEORDERLY";
/// Property of [`ConsumerRunningInfo`]: `CONSUME_PASSIVELY` or another type by name.
pub const PROP_CONSUME_TYPE: &str = "PROP_CONSUME_TYPE";
/// Property of [`ConsumerRunningInfo`]: the client's version by name.
pub const PROP_CLIENT_VERSION: &str = "PROP_CLIENT_VERSION";
/// Property of [`ConsumerRunningInfo`]: when it started, in ms.
pub const PROP_CONSUMER_START_TIMESTAMP: &str = "PROP_CONSUMER_START_TIMESTAMP";

/// What a consumer holds of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessQueueInfo {
    /// Messages held.
    pub cached_msg_count: i32,
    /// Highest offset held.
    pub cached_msg_max_offset: i64,
    /// Lowest offset held.
    pub cached_msg_min_offset: i64,
    /// Bytes held, in MiB.
    #[serde(rename = "cachedMsgSizeInMiB")]
    pub cached_msg_size_in_mib: i32,
    /// The next offset to be consumed.
    pub commit_offset: i64,
    /// The queue was given up.
    pub droped: bool,
    /// When the listener was last called, in ms.
    pub last_consume_timestamp: i64,
    /// When the lock was last renewed, in ms.
    pub last_lock_timestamp: i64,
    /// When it was last pulled, in ms.
    pub last_pull_timestamp: i64,
    /// The client holds the lock.
    pub locked: bool,
    /// Messages that the listener has in hand, in order.
    pub transaction_msg_count: i32,
    /// Highest offset of those.
    pub transaction_msg_max_offset: i64,
    /// Lowest offset of those.
    pub transaction_msg_min_offset: i64,
    /// How often giving back the lock was tried.
    pub try_unlock_times: i64,
}

/// What a pop consumer holds of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PopProcessQueueInfo {
    /// The queue was given up.
    pub droped: bool,
    /// When it was last popped, in ms.
    pub last_pop_timestamp: i64,
    /// Messages not yet acknowledged.
    pub wait_ack_count: i32,
}

/// Rates of one topic.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStatus {
    /// Messages that failed in the last hour.
    pub consume_failed_msgs: i64,
    /// Failures a second.
    #[serde(rename = "consumeFailedTPS")]
    pub consume_failed_tps: f64,
    /// Successes a second.
    #[serde(rename = "consumeOKTPS")]
    pub consume_ok_tps: f64,
    /// Milliseconds the listener takes.
    #[serde(rename = "consumeRT")]
    pub consume_rt: f64,
    /// Milliseconds a pull takes.
    #[serde(rename = "pullRT")]
    pub pull_rt: f64,
    /// Messages pulled a second.
    #[serde(rename = "pullTPS")]
    pub pull_tps: f64,
}

/// Answer to 307.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerRunningInfo {
    /// Stacks of all threads, if asked for.
    pub jstack: Option<String>,
    /// What it holds by pop.
    pub mq_pop_table: QueueMap<PopProcessQueueInfo>,
    /// What it holds by pull.
    pub mq_table: QueueMap<ProcessQueueInfo>,
    /// Its settings, and the `PROP_` constants.
    pub properties: BTreeMap<String, String>,
    /// Rates by topic.
    pub status_table: BTreeMap<String, ConsumeStatus>,
    /// What it subscribes.
    pub subscription_set: Vec<SubscriptionData>,
    /// Whatever the application adds.
    pub user_consumer_info: BTreeMap<String, String>,
}

wire_enum! {
    /// What the listener made of a message.
    pub enum CMResult {
        /// It is done.
        CrSuccess = "CR_SUCCESS",
        /// It is to come again.
        #[default]
        CrLater = "CR_LATER",
        /// In order: it is to come again.
        CrRollback = "CR_ROLLBACK",
        /// In order: it is done.
        CrCommit = "CR_COMMIT",
        /// The listener failed.
        CrThrowException = "CR_THROW_EXCEPTION",
        /// The listener gave no answer.
        CrReturnNull = "CR_RETURN_NULL",
    }
}

/// Answer to 309.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeMessageDirectlyResult {
    /// The listener commits by itself.
    pub auto_commit: bool,
    /// What it made of the message.
    pub consume_result: CMResult,
    /// It consumes in order.
    pub order: bool,
    /// The failure in words.
    pub remark: Option<String>,
    /// Milliseconds it took.
    pub spent_time_mills: i64,
}
