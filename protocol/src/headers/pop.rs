//! Popping: codes 200050 to 200056. Source: spec/wire.md §4.5.

use crate::header;

header! {
    /// Messages that the broker hands out: code 200050.
    pub struct PopMessageRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue; -1 means all.
        queue_id: i32 = "queueId",
        /// How many at most, 32 or fewer.
        max_msg_nums: i32 = "maxMsgNums",
        /// How long nobody else gets them, in ms.
        invisible_time: i64 = "invisibleTime",
        /// How long the broker may wait for messages, in ms.
        poll_time: i64 = "pollTime",
        /// When the client asked, in ms; 0 or missing is the broker's time.
        born_time: Option<i64> = "bornTime",
        /// Where a new group starts: 0 at the beginning, 1 at the end.
        init_mode: i32 = "initMode",
        /// The type of the filter.
        exp_type: Option<&'e str> = "expType",
        /// The filter.
        exp: Option<&'e str> = "exp",
        /// In order.
        order: Option<bool> = "order",
        /// Equal for tries of one request.
        attempt_id: Option<&'e str> = "attemptId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// What a pop found; the body is the records.
    pub struct PopMessageResponse<'e> {
        /// When they were handed out, in ms.
        pop_time: i64 = "popTime",
        /// How long nobody else gets them, in ms.
        invisible_time: i64 = "invisibleTime",
        /// The queue of the receipts.
        revive_qid: i32 = "reviveQid",
        /// How many there are besides.
        rest_num: i64 = "restNum",
        /// `retryFlag queueId startOffset`, with semicolons between.
        start_offset_info: Option<&'e str> = "startOffsetInfo",
        /// `retryFlag queueId offset,offset`, with semicolons between.
        msg_offset_info: Option<&'e str> = "msgOffsetInfo",
        /// How often each was tried, in order.
        order_count_info: Option<&'e str> = "orderCountInfo",
    }
}

header! {
    /// A popped message is done: code 200051.
    pub struct AckMessageRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The receipt.
        extra_info: &'e str = "extraInfo",
        /// Its number in the queue.
        offset: i64 = "offset",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// A popped message takes longer: code 200053.
    pub struct ChangeMessageInvisibletimeRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The receipt.
        extra_info: &'e str = "extraInfo",
        /// Its number in the queue.
        offset: i64 = "offset",
        /// How long nobody else gets it from now on, in ms.
        invisible_time: i64 = "invisibleTime",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// Parts of the new receipt.
    pub struct ChangeMessageInvisibletimeResponse {
        /// When that was, in ms.
        pop_time: i64 = "popTime",
        /// How long nobody else gets it, in ms.
        invisible_time: i64 = "invisibleTime",
        /// The queue of the receipts.
        revive_qid: i32 = "reviveQid",
    }
}

header! {
    /// Whether there is anything to pop: code 200054.
    pub struct NotificationRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue; -1 means all.
        queue_id: i32 = "queueId",
        /// How long the broker may wait for messages, in ms.
        poll_time: i64 = "pollTime",
        /// When the client asked, in ms.
        born_time: Option<i64> = "bornTime",
        /// In order.
        order: Option<bool> = "order",
        /// Equal for tries of one request.
        attempt_id: Option<&'e str> = "attemptId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// Whether there is.
    pub struct NotificationResponse {
        /// There is.
        has_msg: bool = "hasMsg",
        /// Too many wait already.
        polling_full: Option<bool> = "pollingFull",
    }
}

header! {
    /// How many wait: code 200055.
    pub struct PollingInfoRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The queue; -1 means all.
        queue_id: i32 = "queueId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// How many wait.
    pub struct PollingInfoResponse {
        /// How many.
        polling_num: i32 = "pollingNum",
    }
}

header! {
    /// Messages without taking them: code 200052.
    pub struct PeekMessageRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// The queue; -1 means all.
        queue_id: i32 = "queueId",
        /// How many at most.
        max_msg_nums: i32 = "maxMsgNums",
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}
