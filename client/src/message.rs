//! What a producer sends and what a consumer gets.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::message_id::OffsetId;
use agena_protocol::properties::{self, Properties, PropertiesBuf};
use agena_protocol::queue::MessageQueue;
use agena_protocol::record::{RecordError, RecordView};
use agena_protocol::sys_flag;
use agena_protocol::{compression, topic};
use bytes::Bytes;

/// A message to be sent.
///
/// ```
/// use agena_client::Message;
///
/// let message = Message::new("orders", "3 pencils")
///     .with_tag("stationery")
///     .with_key("order-4711")
///     .with_property("customer", "17");
/// assert_eq!(message.tag(), Some("stationery"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) topic: String,
    pub(crate) body: Bytes,
    pub(crate) flag: i32,
    pub(crate) properties: PropertiesBuf,
}

impl Message {
    /// A message of `topic` without tag or keys.
    #[must_use]
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            body: body.into(),
            flag: 0,
            properties: PropertiesBuf::new(),
        }
    }

    /// One word that consumers select by.
    #[must_use]
    pub fn with_tag(self, tag: impl Into<String>) -> Self {
        self.with_property(properties::TAGS, tag)
    }

    /// A business key by which the message can be found later; may be given several times. A space in a key separates
    /// it into two.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        let keys = match self.properties.get(properties::KEYS) {
            Some(others) => format!("{others} {key}"),
            None => key.to_owned(),
        };
        self.properties.set(properties::KEYS, keys);
        self
    }

    /// A property of the application. Names of RocketMQ's own properties (`agena_protocol::properties::RESERVED`) have
    /// their effects.
    #[must_use]
    pub fn with_property(mut self, name: &str, value: impl Into<String>) -> Self {
        self.properties.set(name, value);
        self
    }

    /// A number that travels with the message; brokers do not look at it.
    #[must_use]
    pub fn with_flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    /// What the message has to stay in order with: those of one key go to one queue where queues are chosen by it
    /// ([`Producer::deliver`](crate::Producer::deliver)), and one consumer gets them in order.
    #[must_use]
    pub fn with_sharding_key(self, key: impl Into<String>) -> Self {
        self.with_property(properties::SHARDING_KEY, key)
    }

    /// Consumers see the message later, by one of the broker's levels: 1 is 1 s, 3 is 10 s, 18 is 2 h.
    #[must_use]
    pub fn with_delay_level(self, level: i32) -> Self {
        self.with_property(properties::DELAY, level.to_string())
    }

    /// Consumers see the message when this much time has passed on the broker's clock.
    #[must_use]
    pub fn deliver_after(self, delay: Duration) -> Self {
        self.with_property(properties::TIMER_DELAY_MS, delay.as_millis().to_string())
    }

    /// Consumers see the message at this time, in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn deliver_at_ms(self, at_ms: i64) -> Self {
        self.with_property(properties::TIMER_DELIVER_MS, at_ms.to_string())
    }

    /// Whether the broker's answer waits for disk and replicas where these are synchronous. Default: it does.
    #[must_use]
    pub fn wait_until_stored(self, wait: bool) -> Self {
        self.with_property(properties::WAIT, wait.to_string())
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The body as given.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.property(properties::TAGS)
    }

    /// A property by name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name)
    }

    pub(crate) fn is_delayed(&self) -> bool {
        [
            properties::DELAY,
            properties::TIMER_DELAY_SEC,
            properties::TIMER_DELAY_MS,
            properties::TIMER_DELIVER_MS,
        ]
        .iter()
        .any(|name| self.property(name).is_some())
    }
}

/// A message as a consumer gets it. Cloning copies no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The topic the producer sent to. For a message that is consumed again it is the original one.
    pub topic: String,
    /// The queue it was read from; of a message that is consumed again, one of `%RETRY%group`.
    pub queue: MessageQueue,
    /// Its place in that queue.
    pub queue_offset: i64,
    /// Its place in the log of the broker.
    pub physical_offset: i64,
    /// The body, decompressed.
    pub body: Bytes,
    /// The producer's flag.
    pub flag: i32,
    /// Bits of the record, without those of a compression that was undone.
    pub sys_flag: i32,
    /// When the producer sent it, in ms by its clock.
    pub born_timestamp: i64,
    /// Where the producer sent it from.
    pub born_host: SocketAddr,
    /// When the broker stored it, in ms.
    pub store_timestamp: i64,
    /// The broker's address.
    pub store_host: SocketAddr,
    /// How often it failed to be consumed before.
    pub reconsume_times: i32,
    /// Where the half message lies, if this comes from a transaction; else 0.
    pub prepared_transaction_offset: i64,
    encoded_properties: Bytes,
}

impl ReceivedMessage {
    /// Reads the record that `record` views in `answer`, which is not copied.
    pub(crate) fn from_record(
        answer: &Bytes,
        record: &RecordView<'_>,
        broker_name: &str,
    ) -> Result<Self, String> {
        let sys_flag = record.sys_flag();
        let body = match sys_flag::compression(sys_flag) {
            None => answer.slice_ref(record.body()),
            Some(Ok(codec)) => compression::decompress(codec, record.body(), BODY_BYTES_MAX)
                .map(Bytes::from)
                .map_err(|error| error.to_string())?,
            Some(Err(bits)) => return Err(format!("unknown compression {bits:#x}")),
        };
        Ok(Self {
            topic: record.topic().to_owned(),
            queue: MessageQueue::new(record.topic(), broker_name, record.queue_id()),
            queue_offset: record.queue_offset().wire(),
            physical_offset: record.physical_offset().wire(),
            body,
            flag: record.flag(),
            sys_flag: sys_flag & !sys_flag::COMPRESSED,
            born_timestamp: record.born_timestamp(),
            born_host: record.born_host(),
            store_timestamp: record.store_timestamp(),
            store_host: record.store_host(),
            reconsume_times: record.reconsume_times(),
            prepared_transaction_offset: record.prepared_transaction_offset(),
            encoded_properties: answer.slice_ref(record.properties().encoded()),
        })
    }

    /// Everything that `answer` holds, in its order. A record that does not parse ends the list with its reason: what
    /// comes before it is intact.
    pub(crate) fn all_from(answer: &Bytes, broker_name: &str) -> (Vec<Self>, Option<RecordError>) {
        let mut messages = Vec::new();
        let mut rest: &[u8] = answer;
        while !rest.is_empty() {
            let record = match RecordView::parse(rest) {
                Ok(record) => record,
                Err(error) => return (messages, Some(error)),
            };
            rest = &rest[record.bytes().len()..];
            match Self::from_record(answer, &record, broker_name) {
                Ok(message) => messages.push(message),
                Err(reason) => {
                    let offset = record.physical_offset().wire();
                    tracing::warn!(broker = broker_name, offset, %reason, "message skipped: its body cannot be decompressed");
                }
            }
        }
        (messages, None)
    }

    /// The id that the producer gave it; without one, the id that names its place.
    #[must_use]
    pub fn msg_id(&self) -> String {
        self.property(properties::UNIQ_KEY)
            .map_or_else(|| self.offset_msg_id(), str::to_owned)
    }

    /// The id that names its place: broker and log offset.
    #[must_use]
    pub fn offset_msg_id(&self) -> String {
        let offset = u64::try_from(self.physical_offset).unwrap_or(0);
        OffsetId {
            store_host: self.store_host,
            offset: agena_protocol::offset::PhysicalOffset::new(offset),
        }
        .to_string()
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.property(properties::TAGS)
    }

    /// The business keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(properties::KEYS)
            .unwrap_or_default()
            .split(' ')
            .filter(|key| !key.is_empty())
    }

    /// The key it has to stay in order with, see [`Message::with_sharding_key`].
    #[must_use]
    pub fn sharding_key(&self) -> Option<&str> {
        self.property(properties::SHARDING_KEY)
    }

    /// By which a consumer can tell whether it has seen the message before: its producer's id for it, the same for every
    /// attempt to send it and for every delivery. Without one, the id of the place where it was first stored.
    #[must_use]
    pub fn once_key(&self) -> String {
        let given = self.property(properties::UNIQ_KEY);
        match given.or_else(|| self.property(properties::ORIGIN_MESSAGE_ID)) {
            Some(id) => id.to_owned(),
            None => self.offset_msg_id(),
        }
    }

    /// A property by name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties().get(name)
    }

    /// All properties, the broker's among them.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::new(&self.encoded_properties)
    }

    /// The same message with its original topic, as listeners see messages that are consumed again.
    pub(crate) fn with_original_topic(mut self, group: &str) -> Self {
        if topic::group_of_retry(&self.topic) == Some(group)
            && let Some(original) = self.property(properties::RETRY_TOPIC)
        {
            self.topic = original.to_owned();
        }
        self
    }

    #[cfg(test)]
    pub(crate) fn for_test(topic: &str, queue_offset: i64, body: impl Into<Bytes>) -> Self {
        let host = SocketAddr::from(([127, 0, 0, 1], 10911));
        Self {
            topic: topic.to_owned(),
            queue: MessageQueue::new(topic, "b", 0),
            queue_offset,
            physical_offset: queue_offset * 100,
            body: body.into(),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_timestamp: 0,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            encoded_properties: Bytes::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_test_property(mut self, name: &str, value: &str) -> Self {
        let mut properties = PropertiesBuf::parse(&self.encoded_properties);
        properties.set(name, value);
        self.encoded_properties = properties.encode().into();
        self
    }
}

/// What a compressed body may grow to. Larger than any broker accepts uncompressed, small enough to be safe.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 20;

/// Messages of one queue that a listener gets together, in the order of their offsets.
#[derive(Debug, Clone)]
pub struct Batch {
    pub(crate) queue: MessageQueue,
    pub(crate) messages: Vec<Arc<ReceivedMessage>>,
}

impl Batch {
    /// The queue they were read from.
    #[must_use]
    pub fn queue(&self) -> &MessageQueue {
        &self.queue
    }
}

impl Deref for Batch {
    type Target = [Arc<ReceivedMessage>];

    fn deref(&self) -> &Self::Target {
        &self.messages
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Arc<ReceivedMessage>;
    type IntoIter = std::slice::Iter<'a, Arc<ReceivedMessage>>;

    fn into_iter(self) -> Self::IntoIter {
        self.messages.iter()
    }
}

impl IntoIterator for Batch {
    type Item = Arc<ReceivedMessage>;
    type IntoIter = std::vec::IntoIter<Arc<ReceivedMessage>>;

    fn into_iter(self) -> Self::IntoIter {
        self.messages.into_iter()
    }
}

/// How far the promise of an accepted message reaches. Every variant means that the broker has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SendStatus {
    /// Stored as the broker's configuration promises.
    Ok,
    /// Stored, but not on the device in time although the broker flushes synchronously.
    FlushDiskTimeout,
    /// Stored, but not confirmed by a replica in time although the broker replicates synchronously.
    FlushSlaveTimeout,
    /// Stored, but no replica is in sync although the broker replicates synchronously.
    SlaveNotAvailable,
}

/// What became of a message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendResult {
    /// How far the promise reaches.
    pub status: SendStatus,
    /// The id this producer gave the message; of a batch, those of its messages separated by commas.
    pub msg_id: String,
    /// The id that names its place, likewise.
    pub offset_msg_id: String,
    /// Where it was put.
    pub queue: MessageQueue,
    /// Its place in the queue; of a batch, that of its first message.
    pub queue_offset: i64,
    /// The transaction's id.
    pub transaction_id: Option<String>,
    /// By which a timed message can be recalled.
    pub recall_handle: Option<String>,
    /// The broker's region.
    pub region: String,
    /// The broker wants message traces.
    pub trace_on: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_add_up() {
        let message = Message::new("T", "x").with_key("a").with_key("b");
        assert_eq!(message.property(properties::KEYS), Some("a b"));
        let received = ReceivedMessage::for_test("T", 0, "x").with_test_property("KEYS", "a  b");
        assert_eq!(received.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_message_consumed_again_shows_its_original_topic_to_its_own_group_only() {
        let retried = ReceivedMessage::for_test("%RETRY%g", 0, "x")
            .with_test_property(properties::RETRY_TOPIC, "T");
        assert_eq!(retried.clone().with_original_topic("g").topic, "T");
        assert_eq!(retried.with_original_topic("other").topic, "%RETRY%g");
    }

    #[test]
    fn a_cut_answer_gives_what_is_whole() {
        let (messages, error) = ReceivedMessage::all_from(&Bytes::from_static(&[0, 0, 0, 99]), "b");
        assert!(messages.is_empty());
        assert!(error.is_some());
    }

    #[test]
    fn ids_name_the_sending_or_the_place() {
        let message = ReceivedMessage::for_test("T", 3, "x");
        assert_eq!(message.msg_id(), "7F00000100002A9F000000000000012C");
        let message = message.with_test_property(properties::UNIQ_KEY, "U");
        assert_eq!(message.msg_id(), "U");
    }
}
