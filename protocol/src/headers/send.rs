//! Sending: codes 10, 310, 320, 324, 325, and what is answered. Source: spec/wire.md §4.3.1.

use crate::ext_fields::{ExtFields, HeaderError};
use crate::header;
use crate::headers::{DecodeHeader, FieldValue};
use crate::request_code::RequestCode;

header! {
    /// A message to be stored. The long names of codes 10 and 324; [`SendMessageRequestV2`] gives the same.
    pub struct SendMessageRequest<'e> {
        /// The group of the producer.
        producer_group: &'e str = "producerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// The topic whose settings a new topic takes.
        default_topic: &'e str = "defaultTopic",
        /// How many queues a new topic gets at most.
        default_topic_queue_nums: i32 = "defaultTopicQueueNums",
        /// The queue; negative means any.
        queue_id: i32 = "queueId",
        /// Flags of the record, see `sys_flag`.
        sys_flag: i32 = "sysFlag",
        /// When the client made it, in ms.
        born_timestamp: i64 = "bornTimestamp",
        /// The application's own flags.
        flag: i32 = "flag",
        /// The encoded properties.
        properties: Option<&'e str> = "properties",
        /// How often it was tried before; sends to retry topics only.
        reconsume_times: Option<i32> = "reconsumeTimes",
        /// The client belongs to a unit.
        unit_mode: Option<bool> = "unitMode",
        /// How often it may be tried; sends to retry topics only.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
        /// The body is many messages, see `batch`.
        batch: Option<bool> = "batch",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// A message to be stored, with names of one letter: codes 310, 320, 325. For writing; brokers read
    /// [`SendMessageRequest`].
    pub struct SendMessageRequestV2<'e> {
        /// The group of the producer.
        producer_group: &'e str = "a",
        /// The topic.
        topic: &'e str = "b",
        /// The topic whose settings a new topic takes.
        default_topic: &'e str = "c",
        /// How many queues a new topic gets at most.
        default_topic_queue_nums: i32 = "d",
        /// The queue; negative means any.
        queue_id: i32 = "e",
        /// Flags of the record, see `sys_flag`.
        sys_flag: i32 = "f",
        /// When the client made it, in ms.
        born_timestamp: i64 = "g",
        /// The application's own flags.
        flag: i32 = "h",
        /// The encoded properties.
        properties: Option<&'e str> = "i",
        /// How often it was tried before; sends to retry topics only.
        reconsume_times: Option<i32> = "j",
        /// The client belongs to a unit.
        unit_mode: Option<bool> = "k",
        /// How often it may be tried; sends to retry topics only.
        max_reconsume_times: Option<i32> = "l",
        /// The body is many messages, see `batch`.
        batch: Option<bool> = "m",
        /// The broker the client means.
        bname: Option<&'e str> = "n",
    }
}

header! {
    /// Where a message was stored.
    pub struct SendMessageResponse<'e> {
        /// Offset id; of a batch, all of them with commas between.
        msg_id: &'e str = "msgId",
        /// The queue.
        queue_id: i32 = "queueId",
        /// Its number in the queue, of a batch the first.
        queue_offset: i64 = "queueOffset",
        /// The unique id of the message.
        transaction_id: Option<&'e str> = "transactionId",
        /// The unique id of a batch stored as one record.
        batch_uniq_id: Option<&'e str> = "batchUniqId",
        /// What a timer message is taken back with.
        recall_handle: Option<&'e str> = "recallHandle",
        /// The broker's region.
        msg_region: Option<&'e str> = "MSG_REGION",
        /// Clients shall trace.
        trace_on: Option<bool> = "TRACE_ON",
    }
}

header! {
    /// What stands even in the answer to a send that failed.
    pub struct MessageRegion<'e> {
        /// The broker's region.
        msg_region: Option<&'e str> = "MSG_REGION",
        /// Clients shall trace.
        trace_on: Option<bool> = "TRACE_ON",
    }
}

header! {
    /// A reply for the client that waits for it: code 326, from broker to client. Source: spec/wire.md §4.3.2.
    pub struct PushReplyMessageToClientRequest<'e> {
        /// The group of the replier.
        producer_group: &'e str = "producerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// As in the send.
        default_topic: Option<&'e str> = "defaultTopic",
        /// As in the send.
        default_topic_queue_nums: Option<i32> = "defaultTopicQueueNums",
        /// The queue.
        queue_id: i32 = "queueId",
        /// Flags of the record, see `sys_flag`.
        sys_flag: i32 = "sysFlag",
        /// When the replier made it, in ms.
        born_timestamp: i64 = "bornTimestamp",
        /// The application's own flags.
        flag: i32 = "flag",
        /// The encoded properties.
        properties: Option<&'e str> = "properties",
        /// As in the send.
        reconsume_times: Option<i32> = "reconsumeTimes",
        /// As in the send.
        unit_mode: Option<bool> = "unitMode",
        /// Address of the replier.
        born_host: &'e str = "bornHost",
        /// Address of the broker.
        store_host: &'e str = "storeHost",
        /// When the broker got it, in ms.
        store_timestamp: i64 = "storeTimestamp",
    }
}

header! {
    /// A message that failed and is to come again: code 36. Source: spec/wire.md §4.3.3.
    pub struct ConsumerSendMsgBackRequest<'e> {
        /// Offset in the log.
        offset: i64 = "offset",
        /// The group.
        group: &'e str = "group",
        /// The pause: a level, 0 for the usual one, negative for never again.
        delay_level: i32 = "delayLevel",
        /// Its first id.
        origin_msg_id: Option<&'e str> = "originMsgId",
        /// Its first topic.
        origin_topic: Option<&'e str> = "originTopic",
        /// The client belongs to a unit.
        unit_mode: Option<bool> = "unitMode",
        /// How often it may be tried.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// A timer message to be taken back: code 370. Source: spec/wire.md §4.3.6.
    pub struct RecallMessageRequest<'e> {
        /// The group of the producer.
        producer_group: Option<&'e str> = "producerGroup",
        /// The topic.
        topic: &'e str = "topic",
        /// What the send answered.
        recall_handle: &'e str = "recallHandle",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// The message that was taken back.
    pub struct RecallMessageResponse<'e> {
        /// Its unique id.
        msg_id: &'e str = "msgId",
        /// The broker's region.
        msg_region: Option<&'e str> = "MSG_REGION",
    }
}

impl<'e> SendMessageRequest<'e> {
    /// Reads the header of a send of either form, by its request code.
    ///
    /// # Errors
    /// [`HeaderError`] when a required field is missing or does not parse.
    pub fn read(code: RequestCode, ext: &'e ExtFields<'_>) -> Result<Self, HeaderError> {
        match code {
            RequestCode::SendMessageV2
            | RequestCode::SendBatchMessage
            | RequestCode::SendReplyMessageV2 => Self::read_short(ext),
            _ => Self::decode(ext),
        }
    }

    /// Reads the short form. Its names are the letters a to n, so one walk over the fields finds all of them; this is
    /// the header of nearly every send.
    fn read_short(ext: &'e ExtFields<'_>) -> Result<Self, HeaderError> {
        let mut texts = [None; 14];
        for (name, value) in ext.iter() {
            if let [letter @ b'a'..=b'n'] = name.as_bytes() {
                texts[usize::from(letter - b'a')] = Some(value);
            }
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = texts;
        Ok(Self {
            producer_group: FieldValue::from_text("a", a)?,
            topic: FieldValue::from_text("b", b)?,
            default_topic: FieldValue::from_text("c", c)?,
            default_topic_queue_nums: FieldValue::from_text("d", d)?,
            queue_id: FieldValue::from_text("e", e)?,
            sys_flag: FieldValue::from_text("f", f)?,
            born_timestamp: FieldValue::from_text("g", g)?,
            flag: FieldValue::from_text("h", h)?,
            properties: FieldValue::from_text("i", i)?,
            reconsume_times: FieldValue::from_text("j", j)?,
            unit_mode: FieldValue::from_text("k", k)?,
            max_reconsume_times: FieldValue::from_text("l", l)?,
            batch: FieldValue::from_text("m", m)?,
            bname: FieldValue::from_text("n", n)?,
        })
    }

    /// The body is many messages.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.batch == Some(true)
    }
}
