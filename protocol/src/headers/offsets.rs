//! Offsets: codes 14, 15, 29 to 32. Source: spec/wire.md §4.4.2.

use crate::header;

header! {
    /// How far a group is in a queue: code 14.
    pub struct QueryConsumerOffsetRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// False: say that there is none, even on a young queue.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
    }
}

header! {
    /// The next offset to consume.
    pub struct QueryConsumerOffsetResponse {
        /// The offset.
        offset: i64 = "offset",
    }
}

header! {
    /// How far a group is in a queue: code 15.
    pub struct UpdateConsumerOffsetRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The next offset to consume.
        commit_offset: i64 = "commitOffset",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
    }
}

header! {
    /// Where a queue ends: code 30.
    pub struct GetMaxOffsetRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// Only what replicas confirmed.
        committed: Option<bool> = "committed",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
    }
}

header! {
    /// The next offset to be written.
    pub struct GetMaxOffsetResponse {
        /// The offset.
        offset: i64 = "offset",
    }
}

header! {
    /// Where a queue begins: code 31.
    pub struct GetMinOffsetRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
    }
}

header! {
    /// The first offset that is there.
    pub struct GetMinOffsetResponse {
        /// The offset.
        offset: i64 = "offset",
    }
}

header! {
    /// The message of a time: code 29.
    pub struct SearchOffsetByTimestampRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// Store time in ms.
        timestamp: i64 = "timestamp",
        /// `LOWER` (the default) or `UPPER`, in any case.
        boundary_type: Option<&'e str> = "boundaryType",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
    }
}

header! {
    /// The offset found.
    pub struct SearchOffsetByTimestampResponse {
        /// The offset.
        offset: i64 = "offset",
    }
}

header! {
    /// How old a queue is: code 32.
    pub struct GetEarliestMsgStoretimeRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
    }
}

header! {
    /// Store time of the oldest message.
    pub struct GetEarliestMsgStoretimeResponse {
        /// In ms; -1 if there is none.
        timestamp: i64 = "timestamp",
    }
}
