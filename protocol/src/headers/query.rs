//! Finding messages: codes 12, 33, 321, 323. Source: spec/wire.md §4.4.3, §4.4.4, §4.6.

use crate::header;

header! {
    /// Messages with a key: code 12.
    pub struct QueryMessageRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The key, or a unique id.
        key: &'e str = "key",
        /// How many at most.
        max_num: i32 = "maxNum",
        /// Stored at this time or later, in ms.
        begin_timestamp: i64 = "beginTimestamp",
        /// Stored at this time or earlier, in ms.
        end_timestamp: i64 = "endTimestamp",
        /// The key is a unique id.
        unique_key_query: Option<bool> = "_UNIQUE_KEY_QUERY",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// How far the index is; the body is the records.
    pub struct QueryMessageResponse {
        /// Store time of the last record in it, in ms.
        index_last_update_timestamp: i64 = "indexLastUpdateTimestamp",
        /// Offset of the last record in it.
        index_last_update_phyoffset: i64 = "indexLastUpdatePhyoffset",
    }
}

header! {
    /// One message: code 33.
    pub struct ViewMessageByIdRequest<'e> {
        /// The topic.
        topic: Option<&'e str> = "topic",
        /// Its offset in the log.
        offset: i64 = "offset",
    }
}

header! {
    /// Entries of a queue: code 321.
    pub struct QueryConsumeQueueRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The first entry.
        index: i64 = "index",
        /// How many.
        count: i32 = "count",
        /// The group whose filter is tried on them.
        consumer_group: Option<&'e str> = "consumerGroup",
    }
}
