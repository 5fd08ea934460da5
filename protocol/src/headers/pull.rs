//! Pulling: codes 11 and 361. Source: spec/wire.md §4.4.1.

use crate::header;

/// `sysFlag` of a pull: the client says how far it is.
pub const PULL_COMMIT_OFFSET: i32 = 1;
/// `sysFlag` of a pull: the broker may wait for messages.
pub const PULL_SUSPEND: i32 = 2;
/// `sysFlag` of a pull: the filter stands in the request.
pub const PULL_SUBSCRIPTION: i32 = 4;
/// `sysFlag` of a pull: the filter is a class, a feature long gone.
pub const PULL_CLASS_FILTER: i32 = 8;
/// `sysFlag` of a pull: the lite consumer asks.
pub const PULL_LITE: i32 = 16;

header! {
    /// Messages of a queue from an offset on.
    pub struct PullMessageRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The first message wanted.
        queue_offset: i64 = "queueOffset",
        /// How many at most.
        max_msg_nums: i32 = "maxMsgNums",
        /// The `PULL_` bits of this module.
        sys_flag: i32 = "sysFlag",
        /// How far the client is, with [`PULL_COMMIT_OFFSET`].
        commit_offset: i64 = "commitOffset",
        /// How long the broker may wait for messages, with [`PULL_SUSPEND`].
        suspend_timeout_millis: i64 = "suspendTimeoutMillis",
        /// The filter, with [`PULL_SUBSCRIPTION`].
        subscription: Option<&'e str> = "subscription",
        /// The version of the subscription the client goes by.
        sub_version: i64 = "subVersion",
        /// The type of the filter.
        expression_type: Option<&'e str> = "expressionType",
        /// How many bytes at most.
        max_msg_bytes: Option<i32> = "maxMsgBytes",
        /// What kind of proxy asks.
        request_source: Option<i32> = "requestSource",
        /// The client behind a proxy. (The name is misspelt on the wire.)
        proxy_forward_client_id: Option<&'e str> = "proxyFrowardClientId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
    }
}

header! {
    /// What a pull found; the body is the records.
    pub struct PullMessageResponse {
        /// The replica to ask next.
        suggest_which_broker_id: i64 = "suggestWhichBrokerId",
        /// The offset to ask for next.
        next_begin_offset: i64 = "nextBeginOffset",
        /// The first offset that is there.
        min_offset: i64 = "minOffset",
        /// The next offset to be written.
        max_offset: i64 = "maxOffset",
        /// To be added to every queue offset of a static topic.
        offset_delta: Option<i64> = "offsetDelta",
        /// The topic's flags.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// The group's flags.
        group_sys_flag: Option<i32> = "groupSysFlag",
        /// Who forbids, with code 16: 1 broker, 2 group, 3 topic, 4 broadcasting, 5 subscription.
        forbidden_type: Option<i32> = "forbiddenType",
    }
}
