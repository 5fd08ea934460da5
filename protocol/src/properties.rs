//! A message's properties: `name 0x01 value 0x02`, repeated.
//!
//! [`Properties`] reads the encoded string in place; [`PropertiesBuf`] edits and writes one. An entry with an empty
//! name or value is dropped, the last of two with one name wins, a missing last separator is accepted. Text that is not
//! UTF-8 is dropped with its entry. Source: Apache's `MessageDecoder.string2messageProperties`, spec/wire.md §5.3.

/// Between a name and its value.
pub const NAME_VALUE_SEPARATOR: u8 = 1;
/// Behind every value.
pub const PROPERTY_SEPARATOR: u8 = 2;
/// What the length word of a record can say.
pub const PROPERTIES_BYTES_MAX: usize = 32_767;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// Names that the original reserves; a user's property may not be called so.
        pub const RESERVED: &[&str] = &[$($name),*];
    };
}

names! {
    /// Index keys, separated by spaces.
    KEYS = "KEYS";
    /// The tag.
    TAGS = "TAGS";
    /// Whether the producer waits for disk and replicas.
    WAIT = "WAIT";
    /// Delay level.
    DELAY = "DELAY";
    /// Topic of the message a retry was made of.
    RETRY_TOPIC = "RETRY_TOPIC";
    /// Topic behind a delayed or half message.
    REAL_TOPIC = "REAL_TOPIC";
    /// Queue behind a delayed or half message.
    REAL_QID = "REAL_QID";
    /// `true` on half messages.
    TRAN_MSG = "TRAN_MSG";
    /// Producer group.
    PGROUP = "PGROUP";
    /// Smallest offset of the queue, added by consumers.
    MIN_OFFSET = "MIN_OFFSET";
    /// Largest offset of the queue, added by consumers.
    MAX_OFFSET = "MAX_OFFSET";
    /// Buyer.
    BUYER_ID = "BUYER_ID";
    /// Id of the first of all retries.
    ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID";
    /// Transfer flag.
    TRANSFER_FLAG = "TRANSFER_FLAG";
    /// Correction flag.
    CORRECTION_FLAG = "CORRECTION_FLAG";
    /// Flag of an older product.
    MQ2_FLAG = "MQ2_FLAG";
    /// How often a message was consumed again.
    RECONSUME_TIME = "RECONSUME_TIME";
    /// Region of the broker.
    MSG_REGION = "MSG_REGION";
    /// Whether clients trace this message.
    TRACE_ON = "TRACE_ON";
    /// The producer's id of the message.
    UNIQ_KEY = "UNIQ_KEY";
    /// More about the unique id.
    EXTEND_UNIQ_INFO = "EXTEND_UNIQ_INFO";
    /// How often a message may be consumed again.
    MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES";
    /// When consumption began, ms.
    CONSUME_START_TIME = "CONSUME_START_TIME";
    /// Offset of the half message that was checked.
    TRAN_PREPARED_QUEUE_OFFSET = "TRAN_PREPARED_QUEUE_OFFSET";
    /// Offset of the half message before it was appended again.
    TRAN_PREPARED_OFFSET = "TRAN_PREPARED_OFFSET";
    /// How often the producer was asked.
    TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES";
    /// Seconds without a check after the half message.
    CHECK_IMMUNITY_TIME_IN_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    /// Transaction id.
    TRANSACTION_ID = "__transactionId__";
    /// Order key.
    SHARDING_KEY = "__SHARDINGKEY";
    /// Instance.
    INSTANCE_ID = "INSTANCE_ID";
    /// Request-reply: joins question and answer.
    CORRELATION_ID = "CORRELATION_ID";
    /// Request-reply: client that waits.
    REPLY_TO_CLIENT = "REPLY_TO_CLIENT";
    /// Request-reply: ms the client waits.
    TTL = "TTL";
    /// Request-reply: when the answer arrived.
    ARRIVE_TIME = "ARRIVE_TIME";
    /// Request-reply: when the answer was pushed.
    PUSH_REPLY_TIME = "PUSH_REPLY_TIME";
    /// Request-reply: cluster.
    CLUSTER = "CLUSTER";
    /// Request-reply: `reply` on answers.
    MSG_TYPE = "MSG_TYPE";
    /// Pop receipt.
    POP_CK = "POP_CK";
    /// Offset of a pop receipt.
    POP_CK_OFFSET = "POP_CK_OFFSET";
    /// First pop, ms.
    FIRST_POP_TIME = "1ST_POP_TIME";
    /// Queue to forward to.
    FORWARD_QUEUE_ID = "PROPERTY_FORWARD_QUEUE_ID";
    /// Redirected.
    REDIRECT = "REDIRECT";
    /// Messages in an inner batch.
    INNER_NUM = "INNER_NUM";
    /// First queue offset of an inner batch.
    INNER_BASE = "INNER_BASE";
    /// Light queues a message also goes to.
    INNER_MULTI_DISPATCH = "INNER_MULTI_DISPATCH";
    /// Offsets in the light queues.
    INNER_MULTI_QUEUE_OFFSET = "INNER_MULTI_QUEUE_OFFSET";
    /// Trace context.
    TRACE_CONTEXT = "TRACE_CONTEXT";
    /// Timer: seconds.
    TIMER_DELAY_SEC = "TIMER_DELAY_SEC";
    /// Timer: absolute ms.
    TIMER_DELIVER_MS = "TIMER_DELIVER_MS";
    /// Born host.
    BORN_HOST = "__BORNHOST";
    /// Born time.
    BORN_TIMESTAMP = "BORN_TIMESTAMP";
    /// Topic of a dead letter.
    DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC";
    /// Id of a dead letter.
    DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID";
    /// CRC over the record in front of this property.
    CRC32 = "__CRC32#";
    /// Duplicate information.
    DUP_INFO = "DUP_INFO";
    /// Timer: relative ms.
    TIMER_DELAY_MS = "TIMER_DELAY_MS";
    /// Timer: when it entered the wheel.
    TIMER_ENQUEUE_MS = "TIMER_ENQUEUE_MS";
    /// Timer: when it left the wheel.
    TIMER_DEQUEUE_MS = "TIMER_DEQUEUE_MS";
    /// Timer: how often it was put back.
    TIMER_ROLL_TIMES = "TIMER_ROLL_TIMES";
    /// Timer: due, ms.
    TIMER_OUT_MS = "TIMER_OUT_MS";
    /// Timer: cancels the message with this unique key.
    TIMER_DEL_UNIQKEY = "TIMER_DEL_UNIQKEY";
    /// Timer: level.
    TIMER_DELAY_LEVEL = "TIMER_DELAY_LEVEL";
    /// Never sent.
    TRANSIENT_TOPIC_SYS_FLAG = "__RMQ.TRANSIENT.TOPIC_SYS_FLAG";
    /// Never sent.
    TRANSIENT_GROUP_SYS_FLAG = "__RMQ.TRANSIENT.GROUP_SYS_FLAG";
}

/// Ours, on dead letters: why there is no further try, `MAX_RECONSUME_TIMES` or `GIVEN_UP`. An ordinary property to other brokers
/// and clients, and so not among [`RESERVED`].
pub const DEATH_REASON: &str = "DEATH_REASON";
/// Ours, on dead letters: the id of the consumer that failed last.
pub const DEATH_CONSUMER: &str = "DEATH_CONSUMER";
/// Ours, on dead letters: what that consumer said about its failure, where it said something.
pub const DEATH_CAUSE: &str = "DEATH_CAUSE";
/// Ours, on messages sent again by `mqadmin dlq redrive`: the offset id of the dead letter.
pub const REDRIVEN_FROM: &str = "REDRIVEN_FROM";
/// Which producer numbered the message, for deduplication: 1 to 64 characters of `A-Za-z0-9_.-`. Not one of the
/// original's names: its brokers carry it unread. See docs/once.md.
pub const PRODUCER_ID: &str = "AGENA_PRODUCER_ID";

/// The message's number, decimal, u64: ascends per producer id, gaps possible; all attempts to send it carry the same.
pub const SEQUENCE: &str = "AGENA_SEQUENCE";

/// An encoded property string, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a> {
    encoded: &'a [u8],
}

impl<'a> Properties<'a> {
    /// Reads `encoded`, whatever it holds.
    #[must_use]
    pub fn new(encoded: &'a [u8]) -> Self {
        Self { encoded }
    }

    /// The encoded string.
    #[must_use]
    pub fn encoded(self) -> &'a [u8] {
        self.encoded
    }

    /// The value of `name`; of several the last.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a str> {
        let value = self
            .pairs()
            .filter(|(candidate, _)| *candidate == name.as_bytes())
            .last()?
            .1;
        std::str::from_utf8(value).ok()
    }

    /// Names and values in the order of the string, duplicates included.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs().filter_map(|(name, value)| {
            Some((
                std::str::from_utf8(name).ok()?,
                std::str::from_utf8(value).ok()?,
            ))
        })
    }

    /// The same as bytes; for those who look for few names in many records.
    #[must_use]
    pub fn pairs(self) -> Pairs<'a> {
        Pairs { rest: self.encoded }
    }
}

/// Iterator of [`Properties::pairs`].
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = self
                .rest
                .iter()
                .position(|byte| *byte == PROPERTY_SEPARATOR);
            let (pair, rest) = match end {
                Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
                None => (self.rest, &[][..]),
            };
            self.rest = rest;
            if let Some(between) = pair.iter().position(|byte| *byte == NAME_VALUE_SEPARATOR)
                && between > 0
                && between + 1 < pair.len()
            {
                return Some((&pair[..between], &pair[between + 1..]));
            }
        }
        None
    }
}

/// Properties that are edited and then encoded. Keeps the order in which names first came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PropertiesBuf {
    pairs: Vec<(String, String)>,
}

impl PropertiesBuf {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that `encoded` says.
    #[must_use]
    pub fn parse(encoded: &[u8]) -> Self {
        let mut properties = Self::new();
        for (name, value) in Properties::new(encoded).iter() {
            properties.set(name, value);
        }
        properties
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(candidate, _)| candidate == name)
            .map(|(_, value)| value.as_str())
    }

    /// Gives `name` a value; an empty one removes it, since the encoding cannot carry it.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if value.is_empty() || name.is_empty() {
            self.remove(name);
            return;
        }
        match self
            .pairs
            .iter_mut()
            .find(|(candidate, _)| candidate == name)
        {
            Some((_, old)) => *old = value,
            None => self.pairs.push((name.to_owned(), value)),
        }
    }

    /// Takes `name` out and gives what it was.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let at = self
            .pairs
            .iter()
            .position(|(candidate, _)| candidate == name)?;
        Some(self.pairs.remove(at).1)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The encoded string, with the separator behind the last value as well.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let bytes = self
            .pairs
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum();
        let mut encoded = Vec::with_capacity(bytes);
        for (name, value) in &self.pairs {
            push_pair(&mut encoded, name, value);
        }
        encoded
    }
}

/// Writes one pair behind an encoded string.
pub fn push_pair(encoded: &mut Vec<u8>, name: &str, value: &str) {
    encoded.extend_from_slice(name.as_bytes());
    encoded.push(NAME_VALUE_SEPARATOR);
    encoded.extend_from_slice(value.as_bytes());
    encoded.push(PROPERTY_SEPARATOR);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_original_reads() {
        let text = b"KEYS\x01a b\x02\x01no name\x02empty\x01\x02nothing\x02TAGS\x01x\x02TAGS\x01y";
        let properties = Properties::new(text);
        assert_eq!(properties.get(KEYS), Some("a b"));
        assert_eq!(properties.get(TAGS), Some("y"));
        assert_eq!(properties.get("empty"), None);
        let all: Vec<_> = properties.iter().collect();
        assert_eq!(all, [("KEYS", "a b"), ("TAGS", "x"), ("TAGS", "y")]);
    }

    #[test]
    fn a_value_may_hold_the_name_separator() {
        assert_eq!(
            Properties::new(b"a\x01b\x01c\x02").get("a"),
            Some("b\u{1}c")
        );
    }

    #[test]
    fn editing_keeps_order_and_ends_with_a_separator() {
        let mut properties = PropertiesBuf::parse(b"A\x011\x02B\x012");
        properties.set("A", "3");
        properties.set("C", "4");
        properties.remove("B");
        properties.set("D", "");
        assert_eq!(properties.encode(), b"A\x013\x02C\x014\x02");
    }

    proptest! {
        #[test]
        fn any_bytes_read_without_panic(bytes in prop::collection::vec(0_u8..8, 0..64)) {
            let parsed = PropertiesBuf::parse(&bytes);
            prop_assert_eq!(PropertiesBuf::parse(&parsed.encode()), parsed);
        }
    }
}
