//! What a producer hands over: messages that are checked and encoded before the log is locked.

use std::net::SocketAddr;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::PROPERTIES_BYTES_MAX;
use agena_protocol::queue::QueueId;
use agena_protocol::record::{EncodeError, RecordEncoder, RecordFields};
use agena_protocol::{sys_flag, topic};
use smallvec::SmallVec;

use crate::durability::Ack;
use crate::error::MessageIllegal;

/// A record may be this much longer than the longest body.
const RECORD_EXTRA_BYTES: usize = 64 * 1024;
const TOPIC_BYTES_MAX: usize = 127;
const RETRY_TOPIC_BYTES_MAX: usize = 255;

/// One message, borrowed from whoever received it.
#[derive(Debug, Clone, Copy)]
pub struct NewMessage<'a> {
    /// The topic it is stored under.
    pub topic: &'a str,
    /// The queue of the topic.
    pub queue_id: QueueId,
    /// The application's flag.
    pub flag: i32,
    /// The bits of [`sys_flag`]; those of the host families are set by the store.
    pub sys_flag: i32,
    /// When the producer made it, ms.
    pub born_timestamp: i64,
    /// The producer.
    pub born_host: SocketAddr,
    /// The advertised address and listen port of this broker.
    pub store_host: SocketAddr,
    /// How often it was consumed before.
    pub reconsume_times: i32,
    /// Place of the half message that is committed; 0 when there is none.
    pub prepared_transaction_offset: i64,
    /// The body, as it is to be stored.
    pub body: &'a [u8],
    /// The encoded properties.
    pub properties: &'a [u8],
    /// Property `WAIT`: whether the producer waits for the device at all.
    pub wait_for_flush: bool,
}

/// Messages that are appended under one lock and become visible together.
#[derive(Debug)]
pub struct AppendBatch<'a> {
    pub(crate) items: SmallVec<[Item<'a>; 4]>,
    limits: Limits,
}

/// What the store's configuration says about single messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) body_bytes_max: usize,
    pub(crate) sum_records: bool,
}

#[derive(Debug)]
pub(crate) struct Item<'a> {
    pub(crate) encoder: RecordEncoder<'a>,
    /// The next item must follow in the same file.
    pub(crate) joined: bool,
    pub(crate) wait_for_flush: bool,
}

/// Where a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its number in the queue; 0 for messages that are in none (old transaction states).
    pub queue_offset: QueueOffset,
    /// Its place in the log.
    pub physical_offset: PhysicalOffset,
    /// When it was stored, ms. Never less than that of the message before.
    pub store_timestamp: i64,
    /// Bytes of its record.
    pub bytes: u32,
}

/// What became of a batch.
#[derive(Debug, Clone)]
#[must_use = "the messages are promised only once the acknowledgement resolves"]
pub struct Appended {
    /// One for each message, in the order of the batch.
    pub placed: SmallVec<[Placed; 8]>,
    /// Resolves when the whole batch is as durable as the store promises.
    pub ack: Ack,
    /// Whether any of the messages wants to wait for that.
    pub wait_for_flush: bool,
}

impl<'a> AppendBatch<'a> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            items: SmallVec::new(),
            limits,
        }
    }

    /// Takes a message of its own.
    ///
    /// # Errors
    /// [`MessageIllegal`]; the batch is as before.
    pub fn push(&mut self, message: NewMessage<'a>) -> Result<(), MessageIllegal> {
        let item = self.check(&message)?;
        self.items.push(item);
        Ok(())
    }

    /// Takes messages that get consecutive places in one file, all or none: RocketMQ's plain batch.
    ///
    /// # Errors
    /// [`MessageIllegal`] of the first that is; the batch is as before.
    pub fn push_all_or_nothing(
        &mut self,
        messages: &[NewMessage<'a>],
    ) -> Result<(), MessageIllegal> {
        let before = self.items.len();
        for message in messages {
            match self.check(message) {
                Ok(mut item) => {
                    item.joined = true;
                    self.items.push(item);
                }
                Err(illegal) => {
                    self.items.truncate(before);
                    return Err(illegal);
                }
            }
        }
        if let Some(last) = self.items.last_mut() {
            last.joined = false;
        }
        Ok(())
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn check(&self, message: &NewMessage<'a>) -> Result<Item<'a>, MessageIllegal> {
        check_topic(message.topic)?;
        if message.body.len() > self.limits.body_bytes_max {
            return Err(MessageIllegal::Body {
                bytes: message.body.len(),
                limit: self.limits.body_bytes_max,
            });
        }
        if message.sys_flag & sys_flag::INNER_BATCH != 0 {
            return Err(MessageIllegal::InnerBatch);
        }
        let fields = RecordFields {
            topic: message.topic,
            queue_id: message.queue_id,
            flag: message.flag,
            sys_flag: message.sys_flag,
            born_timestamp: message.born_timestamp,
            born_host: message.born_host,
            store_host: message.store_host,
            reconsume_times: message.reconsume_times,
            prepared_transaction_offset: message.prepared_transaction_offset,
            body: message.body,
            properties: message.properties,
        };
        let limit = self.limits.body_bytes_max + RECORD_EXTRA_BYTES;
        let encoder =
            RecordEncoder::new(fields, self.limits.sum_records).map_err(|error| match error {
                EncodeError::Topic(bytes) => MessageIllegal::Topic { bytes },
                EncodeError::Properties(bytes) => MessageIllegal::Properties { bytes },
                EncodeError::Record => MessageIllegal::Record {
                    bytes: message.body.len() + PROPERTIES_BYTES_MAX,
                    limit,
                },
            })?;
        if encoder.total_bytes() > limit {
            return Err(MessageIllegal::Record {
                bytes: encoder.total_bytes(),
                limit,
            });
        }
        Ok(Item {
            encoder,
            joined: false,
            wait_for_flush: message.wait_for_flush,
        })
    }
}

/// A topic is also the name of a directory, so what would leave its parent or cannot be a name is refused here as well,
/// whatever the broker lets through.
fn check_topic(name: &str) -> Result<(), MessageIllegal> {
    let limit = if name.starts_with(topic::RETRY_PREFIX) {
        RETRY_TOPIC_BYTES_MAX
    } else {
        TOPIC_BYTES_MAX
    };
    let bytes = name.len();
    let is_name = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte == b'/' || byte == 0);
    if bytes > limit || !is_name {
        return Err(MessageIllegal::Topic { bytes });
    }
    Ok(())
}
