//! What operators ask and do: the rest of spec/wire.md §4.6.

use crate::header;

header! {
    /// The clients of a consumer group: code 203.
    pub struct GetConsumerConnectionListRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
    }
}

header! {
    /// The clients of a producer group: code 204.
    pub struct GetProducerConnectionListRequest<'e> {
        /// The group.
        producer_group: &'e str = "producerGroup",
    }
}

header! {
    /// How far a group is: code 208.
    pub struct GetConsumeStatsRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: Option<&'e str> = "topic",
        /// Topics, with semicolons between.
        topic_list: Option<&'e str> = "topicList",
    }
}

header! {
    /// How far all groups are: code 317.
    pub struct GetBrokerConsumeStatsRequest {
        /// Only groups in order.
        is_order: bool = "isOrder",
    }
}

header! {
    /// The groups of a topic: code 300.
    pub struct QueryTopicConsumeByWhoRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
    }
}

header! {
    /// The topics of a group: code 343.
    pub struct QueryTopicsByConsumerRequest<'e> {
        /// The group.
        group: &'e str = "group",
    }
}

header! {
    /// A group's subscription: code 345.
    pub struct QuerySubscriptionByConsumerRequest<'e> {
        /// The group.
        group: &'e str = "group",
        /// The topic.
        topic: Option<&'e str> = "topic",
    }
}

header! {
    /// The times of a topic's queues: code 303.
    pub struct QueryConsumeTimeSpanRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The group.
        group: &'e str = "group",
    }
}

header! {
    /// One group is to go on where another is: code 314.
    pub struct CloneGroupOffsetRequest<'e> {
        /// The group to copy from.
        src_group: &'e str = "srcGroup",
        /// The group to copy to.
        dest_group: &'e str = "destGroup",
        /// The topic.
        topic: Option<&'e str> = "topic",
        /// Not used.
        offline: Option<bool> = "offline",
    }
}

header! {
    /// A rate: code 315.
    pub struct ViewBrokerStatsDataRequest<'e> {
        /// Which, `TOPIC_PUT_NUMS` and others.
        stats_name: &'e str = "statsName",
        /// Of what.
        stats_key: &'e str = "statsKey",
    }
}

header! {
    /// What retention removes next: code 900001, our own.
    pub struct ExplainRetentionRequest<'e> {
        /// Only groups' unread messages of this topic.
        topic: Option<&'e str> = "topic",
    }
}

header! {
    /// The version of the settings; the body is their text.
    pub struct GetBrokerConfigResponse<'e> {
        /// A `DataVersion` in JSON.
        version: &'e str = "version",
    }
}

header! {
    /// What a consumer does: code 307, passed on to it.
    pub struct GetConsumerRunningInfoRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The client.
        client_id: &'e str = "clientId",
        /// With the stacks of its threads.
        jstack_enable: Option<bool> = "jstackEnable",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// A message a consumer is to consume now: code 309, passed on to it with the record as body.
    pub struct ConsumeMessageDirectlyRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The client.
        client_id: Option<&'e str> = "clientId",
        /// Its offset id.
        msg_id: Option<&'e str> = "msgId",
        /// The broker that has it.
        broker_name: Option<&'e str> = "brokerName",
        /// The topic.
        topic: Option<&'e str> = "topic",
        /// The topic's flags, added by the broker.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// The group's flags, added by the broker.
        group_sys_flag: Option<i32> = "groupSysFlag",
    }
}

header! {
    /// A group is to go on at a time or an offset: code 222.
    pub struct InvokeBrokerToResetOffsetRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The group.
        group: &'e str = "group",
        /// Store time in ms; -1 is the end.
        timestamp: i64 = "timestamp",
        /// Even if the group would skip messages.
        is_force: bool = "isForce",
        /// One queue; -1 or missing is all.
        queue_id: Option<i32> = "queueId",
        /// An offset; -1 or missing goes by the time.
        offset: Option<i64> = "offset",
    }
}

header! {
    /// New offsets for a client: code 220, from broker to client, one-way.
    pub struct ResetConsumerClientOffsetRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The group.
        group: &'e str = "group",
        /// -1.
        queue_id: Option<i32> = "queueId",
        /// As in the request to the broker.
        timestamp: Option<i64> = "timestamp",
        /// Not used.
        is_force: Option<bool> = "isForce",
    }
}

header! {
    /// How far a client is: code 221, from broker to client.
    pub struct GetConsumerStatusFromClientRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The group.
        group: &'e str = "group",
    }
}

header! {
    /// How far clients are: code 223.
    pub struct InvokeBrokerToGetConsumerStatusRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The group.
        group: &'e str = "group",
        /// One client by id; empty is all.
        client_addr: Option<&'e str> = "clientAddr",
    }
}

header! {
    /// The lowest offsets of other groups: code 308.
    pub struct QueryCorrectionOffsetRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The group to compare with.
        compare_group: Option<&'e str> = "compareGroup",
        /// Groups to leave out, with commas between.
        filter_groups: Option<&'e str> = "filterGroups",
    }
}

header! {
    /// Whether two forms of queues agree: code 354.
    pub struct CheckRocksdbCqWriteProgressRequest<'e> {
        /// The topic.
        topic: Option<&'e str> = "topic",
        /// From this store time on, in ms.
        check_store_time: Option<i64> = "checkStoreTime",
    }
}

header! {
    /// Settings to be written as JSON: code 355.
    pub struct ExportRocksdbConfigToJsonRequest<'e> {
        /// Which, with semicolons between.
        config_type: Option<&'e str> = "configType",
    }
}

header! {
    /// How the system shall read ahead: code 2004.
    pub struct SetCommitlogReadModeRequest<'e> {
        /// 0 normal, 1 random.
        read_ahead_mode: &'e str = "READ_AHEAD_MODE",
    }
}

header! {
    /// How far the master's disk is: code 908.
    pub struct ResetMasterFlushOffsetRequest {
        /// The offset.
        master_flush_offset: i64 = "masterFlushOffset",
    }
}

header! {
    /// A group is to go back to where it was before its last reset: code 900005, which the original does not know.
    pub struct UndoResetOffsetRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The group.
        group: &'e str = "group",
        /// Say what would be done, and change nothing.
        dry_run: Option<bool> = "dryRun",
    }
}
