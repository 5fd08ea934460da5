//! Topics: codes 17, 21, 202, 215, 351, 513. Source: spec/wire.md §4.6, §4.7.

use crate::header;

header! {
    /// A topic's settings: codes 17 and 513.
    pub struct UpdateAndCreateTopicRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// `TBW102`.
        default_topic: &'e str = "defaultTopic",
        /// Queues that consumers see.
        read_queue_nums: i32 = "readQueueNums",
        /// Queues that producers see.
        write_queue_nums: i32 = "writeQueueNums",
        /// Permission bits.
        perm: i32 = "perm",
        /// `SINGLE_TAG` or `MULTI_TAG`.
        topic_filter_type: &'e str = "topicFilterType",
        /// Flags.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// Consumers want order across queues.
        order: bool = "order",
        /// `+name=value,-name`.
        attributes: Option<&'e str> = "attributes",
        /// Of static topics: even if that loses messages.
        force: Option<bool> = "force",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// All topics, in pieces: code 21 of releases after 5.3.3.
    pub struct GetAllTopicConfigRequest<'e> {
        /// Where the piece begins.
        topic_seq: Option<i32> = "topicSeq",
        /// The version the pieces must have.
        data_version: Option<&'e str> = "dataVersion",
        /// How many in a piece.
        max_topic_num: Option<i32> = "maxTopicNum",
    }
}

header! {
    /// Offsets of a topic: code 202.
    pub struct GetTopicStatsInfoRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// A topic's settings: code 351.
    pub struct GetTopicConfigRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// False for the number of the broker's own queue, whatever static topic it serves.
        lo: Option<bool> = "lo",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// A topic is to go: code 215.
    pub struct DeleteTopicInBrokerRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
    }
}
