//! The CommitLog record: the form in which a message lies on disk and in the body of a pull answer.
//!
//! ```text
//!  0 totalSize i32 | 4 magic i32 | 8 bodyCRC i32 | 12 queueId i32 | 16 flag i32 | 20 queueOffset i64
//! 28 physicalOffset i64 | 36 sysFlag i32 | 40 bornTimestamp i64 | 48 bornHost 4|16 + port i32
//! .. storeTimestamp i64 | storeHost 4|16 + port i32 | reconsumeTimes i32 | preparedTransactionOffset i64
//! .. bodyLength i32 + body | topicLength i8 (v1) | i16 (v2) + topic | propertiesLength i16 + properties
//! ```
//! A [`RecordView`] exists only for bytes whose lengths add up; [`RecordView::parse`] checks the sums over the content
//! as well. Source: Apache's `MessageExtEncoder`, `MessageDecoder`; spec/store.md §2.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{Ordering, compiler_fence};

use thiserror::Error;

use crate::message_id::OffsetId;
use crate::offset::{PhysicalOffset, QueueOffset};
use crate::properties::{self, Properties};
use crate::queue::QueueId;
use crate::sys_flag::{self, TransactionState};

/// Magic number of records with a one-byte topic length.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic number of records with a two-byte topic length.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic number of the filler at the end of a log file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;

/// Bytes of the filler: its length and its magic. So many are always left at the end of a log file.
pub const BLANK_BYTES: usize = 8;
/// Bytes of a v1 record between two IPv4 hosts without body, topic and properties.
pub const OVERHEAD_BYTES: usize = HEAD_V4_BYTES + 1 + 2;
/// Bytes at the end of the properties that hold the sum over the whole record: name, 0x01, ten digits, 0x02.
pub const CRC_PROPERTY_BYTES: usize = properties::CRC32.len() + 1 + 10 + 1;

/// The bytes in front of a record without which it is none: its size and magic.
pub const LEAD_BYTES: usize = 8;

const QUEUE_ID_AT: usize = 12;
const FLAG_AT: usize = 16;
const QUEUE_OFFSET_AT: usize = 20;
const PHYSICAL_OFFSET_AT: usize = 28;
const SYS_FLAG_AT: usize = 36;
const BORN_TIMESTAMP_AT: usize = 40;
const BORN_HOST_AT: usize = 48;
const HOST_V4_BYTES: usize = 4 + 4;
const HOST_V6_BYTES: usize = 16 + 4;
/// Everything in front of the body.
const HEAD_V4_BYTES: usize = BORN_HOST_AT + HOST_V4_BYTES + 8 + HOST_V4_BYTES + 4 + 8 + 4;
const HEAD_BYTES_MAX: usize = HEAD_V4_BYTES + 2 * (HOST_V6_BYTES - HOST_V4_BYTES);
/// The longest topic a one-byte length can tell; Java reads the byte as signed.
const TOPIC_V1_BYTES_MAX: usize = 127;

const _: () = assert!(OVERHEAD_BYTES == 91);
const _: () = assert!(CRC_PROPERTY_BYTES == 20);

/// What is wrong with bytes that should be a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Fewer bytes than the record says it has, or than any record has.
    #[error("cut: {wanted} bytes wanted, {found} there")]
    Cut {
        /// Bytes the record needs.
        wanted: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The total size is not one that a record can have.
    #[error("impossible size {0}")]
    Size(i32),
    /// Neither of the two magic numbers. Zero where nothing was written.
    #[error("unknown magic number {0:#010x}")]
    Magic(u32),
    /// The length of a part is negative or leaves the record.
    #[error("length of the {0} leaves the record")]
    Length(&'static str),
    /// The lengths of the parts do not add up to the total size.
    #[error("parts add up to {sum} bytes, the record says {total}")]
    Sum {
        /// Bytes of the parts.
        sum: usize,
        /// Bytes the record says it has.
        total: usize,
    },
    /// A field holds a number that it cannot have.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// The topic is not UTF-8.
    #[error("topic is not text")]
    Topic,
    /// The sum over the body is not what the record says.
    #[error("body has CRC {found:#010x}, the record says {expected:#010x}")]
    BodyCrc {
        /// What the record says.
        expected: u32,
        /// What the body has.
        found: u32,
    },
    /// The sum over the record is not what its property says.
    #[error("record has CRC {found}, its property says {expected}")]
    RecordCrc {
        /// What the property says.
        expected: u32,
        /// What the record has.
        found: u32,
    },
}

/// CRC-32 (IEEE) as RocketMQ keeps it: without the sign bit.
#[must_use]
pub fn crc31(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}

/// One whole record, read in place.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Exactly the record.
    bytes: &'a [u8],
    /// Where the body begins; its length stands in the four bytes before.
    body_at: usize,
    topic_at: usize,
    topic: &'a str,
    properties_at: usize,
    store_timestamp_at: usize,
}

impl<'a> RecordView<'a> {
    /// Reads the record at the start of `bytes` and checks everything that can be checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let record = Self::parse_unsummed(bytes)?;
        record.check_sums()?;
        Ok(record)
    }

    /// Reads the record at the start of `bytes`; every bound is checked, the sums over its content are not. For bytes
    /// that were checked before, or that this process wrote.
    ///
    /// # Errors
    /// [`RecordError`], but not its CRC variants.
    pub fn parse_unsummed(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let total = i32_at(bytes, 0).ok_or(RecordError::Cut {
            wanted: OVERHEAD_BYTES,
            found: bytes.len(),
        })?;
        let magic = u32_at(bytes, 4).ok_or(RecordError::Cut {
            wanted: OVERHEAD_BYTES,
            found: bytes.len(),
        })?;
        let topic_length_bytes = match magic {
            MAGIC_V1 => 1,
            MAGIC_V2 => 2,
            other => return Err(RecordError::Magic(other)),
        };
        let size = usize::try_from(total).map_err(|_| RecordError::Size(total))?;
        if size < OVERHEAD_BYTES {
            return Err(RecordError::Size(total));
        }
        let bytes = bytes.get(..size).ok_or(RecordError::Cut {
            wanted: size,
            found: bytes.len(),
        })?;
        Self::of_exact(bytes, topic_length_bytes)
    }

    fn of_exact(bytes: &'a [u8], topic_length_bytes: usize) -> Result<Self, RecordError> {
        let sys_flag = i32_at(bytes, SYS_FLAG_AT).ok_or(RecordError::Length("head"))?;
        let born_host_bytes = host_bytes(sys_flag, sys_flag::BORN_HOST_V6);
        let store_host_bytes = host_bytes(sys_flag, sys_flag::STORE_HOST_V6);
        let store_timestamp_at = BORN_HOST_AT + born_host_bytes;
        let body_at = store_timestamp_at + 8 + store_host_bytes + 4 + 8 + 4;

        let body_bytes = i32_at(bytes, body_at - 4).ok_or(RecordError::Length("head"))?;
        let body_bytes = usize::try_from(body_bytes).map_err(|_| RecordError::Length("body"))?;
        let topic_length_at = body_at
            .checked_add(body_bytes)
            .ok_or(RecordError::Length("body"))?;
        let topic_bytes = if topic_length_bytes == 1 {
            bytes
                .get(topic_length_at)
                .map(|byte| i16::from(byte.cast_signed()))
        } else {
            i16_at(bytes, topic_length_at)
        };
        let topic_bytes = usize::try_from(topic_bytes.ok_or(RecordError::Length("body"))?)
            .map_err(|_| RecordError::Length("topic"))?;
        let topic_at = topic_length_at + topic_length_bytes;
        let properties_length_at = topic_at + topic_bytes;
        let properties_bytes =
            i16_at(bytes, properties_length_at).ok_or(RecordError::Length("topic"))?;
        let properties_bytes =
            usize::try_from(properties_bytes).map_err(|_| RecordError::Length("properties"))?;
        let properties_at = properties_length_at + 2;
        let sum = properties_at + properties_bytes;
        if sum != bytes.len() {
            return Err(RecordError::Sum {
                sum,
                total: bytes.len(),
            });
        }
        let topic = std::str::from_utf8(&bytes[topic_at..properties_length_at])
            .map_err(|_| RecordError::Topic)?;
        let record = Self {
            bytes,
            body_at,
            topic_at,
            topic,
            properties_at,
            store_timestamp_at,
        };
        for (field, value) in [
            ("queue id", i64::from(record.i32(QUEUE_ID_AT))),
            ("queue offset", record.i64(QUEUE_OFFSET_AT)),
            ("physical offset", record.i64(PHYSICAL_OFFSET_AT)),
        ] {
            if value < 0 {
                return Err(RecordError::Range(field));
            }
        }
        Ok(record)
    }

    /// Checks the sums over body and record.
    ///
    /// # Errors
    /// [`RecordError::BodyCrc`], [`RecordError::RecordCrc`].
    pub fn check_sums(&self) -> Result<(), RecordError> {
        let body = self.body();
        let expected = self.body_crc();
        if !body.is_empty() {
            let found = crc31(body);
            if found != expected {
                return Err(RecordError::BodyCrc { expected, found });
            }
        }
        if let Some(expected) = crc_property(self.properties().encoded()) {
            let found = crc31(&self.bytes[..self.bytes.len() - CRC_PROPERTY_BYTES]);
            if found != expected {
                return Err(RecordError::RecordCrc { expected, found });
            }
        }
        Ok(())
    }

    /// The record itself.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the topic's length takes two bytes.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        u32_at(self.bytes, 4) == Some(MAGIC_V2)
    }

    /// CRC of the stored body, without the sign bit.
    #[must_use]
    pub fn body_crc(&self) -> u32 {
        u32_at(self.bytes, 8).unwrap_or_default()
    }

    /// The queue within the topic.
    #[must_use]
    pub fn queue_id(&self) -> QueueId {
        QueueId::from_wire(self.i32(QUEUE_ID_AT)).unwrap_or_default()
    }

    /// The application's flag.
    #[must_use]
    pub fn flag(&self) -> i32 {
        self.i32(FLAG_AT)
    }

    /// The place in the queue; 0 for messages that are in none.
    #[must_use]
    pub fn queue_offset(&self) -> QueueOffset {
        QueueOffset::from_wire(self.i64(QUEUE_OFFSET_AT)).unwrap_or_default()
    }

    /// The place in the log, as the record itself says.
    #[must_use]
    pub fn physical_offset(&self) -> PhysicalOffset {
        PhysicalOffset::from_wire(self.i64(PHYSICAL_OFFSET_AT)).unwrap_or_default()
    }

    /// The bits described in [`sys_flag`].
    #[must_use]
    pub fn sys_flag(&self) -> i32 {
        self.i32(SYS_FLAG_AT)
    }

    /// Where the message stands in a transaction.
    #[must_use]
    pub fn transaction(&self) -> TransactionState {
        TransactionState::of(self.sys_flag())
    }

    /// When the producer made the message, ms, by its clock.
    #[must_use]
    pub fn born_timestamp(&self) -> i64 {
        self.i64(BORN_TIMESTAMP_AT)
    }

    /// The producer.
    #[must_use]
    pub fn born_host(&self) -> SocketAddr {
        self.host(BORN_HOST_AT, sys_flag::BORN_HOST_V6)
    }

    /// When the broker stored the message, ms.
    #[must_use]
    pub fn store_timestamp(&self) -> i64 {
        self.i64(self.store_timestamp_at)
    }

    /// The broker's advertised address and listen port.
    #[must_use]
    pub fn store_host(&self) -> SocketAddr {
        self.host(self.store_timestamp_at + 8, sys_flag::STORE_HOST_V6)
    }

    /// How often the message was consumed before.
    #[must_use]
    pub fn reconsume_times(&self) -> i32 {
        self.i32(self.body_at - 16)
    }

    /// Place of the half message that was committed; 0 when there is none.
    #[must_use]
    pub fn prepared_transaction_offset(&self) -> i64 {
        self.i64(self.body_at - 12)
    }

    /// The body as stored, compressed when the flag says so.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        let length_bytes = if self.is_v2() { 2 } else { 1 };
        &self.bytes[self.body_at..self.topic_at - length_bytes]
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// The properties.
    #[must_use]
    pub fn properties(&self) -> Properties<'a> {
        Properties::new(&self.bytes[self.properties_at..])
    }

    /// The broker's id of the message.
    #[must_use]
    pub fn offset_id(&self) -> OffsetId {
        OffsetId {
            store_host: self.store_host(),
            offset: self.physical_offset(),
        }
    }

    fn i32(&self, at: usize) -> i32 {
        i32_at(self.bytes, at).unwrap_or_default()
    }

    fn i64(&self, at: usize) -> i64 {
        i64_at(self.bytes, at).unwrap_or_default()
    }

    fn host(&self, at: usize, v6: i32) -> SocketAddr {
        let field = &self.bytes[at..at + host_bytes(self.sys_flag(), v6)];
        let (address, port) = field.split_at(field.len() - 4);
        let address = if let Ok(octets) = <[u8; 16]>::try_from(address) {
            IpAddr::from(Ipv6Addr::from(octets))
        } else {
            let octets = <[u8; 4]>::try_from(address).unwrap_or_default();
            IpAddr::from(Ipv4Addr::from(octets))
        };
        let port = i32_at(port, 0).unwrap_or_default();
        SocketAddr::new(address, u16::try_from(port).unwrap_or_default())
    }
}

/// The records of a pull answer or of any other run of whole records. Ends with the first error.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<RecordView<'_>, RecordError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = RecordView::parse(rest);
        rest = match &record {
            Ok(record) => &rest[record.bytes.len()..],
            Err(_) => &[],
        };
        Some(record)
    })
}

/// What a record says apart from its place: everything known before the log is locked.
#[derive(Debug, Clone, Copy)]
pub struct RecordFields<'a> {
    /// The topic; at most 255 bytes.
    pub topic: &'a str,
    /// The queue within the topic.
    pub queue_id: QueueId,
    /// The application's flag.
    pub flag: i32,
    /// The bits of [`sys_flag`]; those of the host families are set by the encoder.
    pub sys_flag: i32,
    /// When the producer made the message, ms.
    pub born_timestamp: i64,
    /// The producer.
    pub born_host: SocketAddr,
    /// The broker.
    pub store_host: SocketAddr,
    /// How often the message was consumed before.
    pub reconsume_times: i32,
    /// Place of the half message that is committed; 0 when there is none.
    pub prepared_transaction_offset: i64,
    /// The body as it is to be stored.
    pub body: &'a [u8],
    /// The encoded properties; at most [`properties::PROPERTIES_BYTES_MAX`].
    pub properties: &'a [u8],
}

/// Why fields cannot become a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The topic is longer than 255 bytes.
    #[error("topic of {0} bytes is too long")]
    Topic(usize),
    /// The properties are longer than their length word can tell.
    #[error("properties of {0} bytes are too long")]
    Properties(usize),
    /// The whole is longer than a record can be.
    #[error("record is too long")]
    Record,
}

/// A record whose place is not known yet: the head in front of the body, ready but for three numbers, and the sums.
///
/// What follows is written in this order: head, body, the topic and its length, properties length,
/// properties, and the sum over all of it if asked for. [`write`](Self::write) does that into one slice.
#[derive(Debug, Clone)]
pub struct RecordEncoder<'a> {
    fields: RecordFields<'a>,
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    store_timestamp_at: usize,
    total: usize,
    /// CRC state of everything behind the head, when the sum over the record is wanted.
    tail_crc: Option<crc32fast::Hasher>,
}

impl<'a> RecordEncoder<'a> {
    /// Prepares the head and the body's sum; with `sum_record`, room for and most of the sum over the record.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn new(fields: RecordFields<'a>, sum_record: bool) -> Result<Self, EncodeError> {
        if fields.topic.len() > 255 {
            return Err(EncodeError::Topic(fields.topic.len()));
        }
        let v2 = fields.topic.len() > TOPIC_V1_BYTES_MAX;
        let mut sys_flag = fields.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
        if fields.born_host.is_ipv6() {
            sys_flag |= sys_flag::BORN_HOST_V6;
        }
        if fields.store_host.is_ipv6() {
            sys_flag |= sys_flag::STORE_HOST_V6;
        }
        let store_timestamp_at = BORN_HOST_AT + host_bytes(sys_flag, sys_flag::BORN_HOST_V6);
        let head_bytes =
            store_timestamp_at + 8 + host_bytes(sys_flag, sys_flag::STORE_HOST_V6) + 4 + 8 + 4;
        let mut encoder = Self {
            fields,
            head: [0; HEAD_BYTES_MAX],
            head_bytes,
            store_timestamp_at,
            total: 0,
            tail_crc: None,
        };
        let properties_bytes = fields.properties.len() + encoder.extra_bytes(sum_record);
        if properties_bytes > properties::PROPERTIES_BYTES_MAX {
            return Err(EncodeError::Properties(properties_bytes));
        }
        let topic_length_bytes = if v2 { 2 } else { 1 };
        encoder.total = head_bytes
            + fields.body.len()
            + topic_length_bytes
            + fields.topic.len()
            + 2
            + properties_bytes;
        encoder.fill_head(sys_flag, v2)?;
        if sum_record {
            encoder.tail_crc = Some(encoder.sum_tail());
        }
        Ok(encoder)
    }

    /// Bytes of the whole record.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.total
    }

    /// The fields it was made of.
    #[must_use]
    pub fn fields(&self) -> &RecordFields<'a> {
        &self.fields
    }

    /// Writes the record, with its place, over the start of `out`, which must have [`total_bytes`](Self::total_bytes).
    ///
    /// # Panics
    /// When `out` is shorter.
    pub fn write(
        &mut self,
        out: &mut [u8],
        queue_offset: QueueOffset,
        physical_offset: PhysicalOffset,
        store_timestamp: i64,
    ) {
        self.write_without_lead(out, queue_offset, physical_offset, store_timestamp);
        self.write_lead(out);
    }

    /// [`write`](Self::write) without the first [`LEAD_BYTES`], which make it a record: until then nobody takes it for one.
    ///
    /// # Panics
    /// When `out` is shorter than the record.
    pub fn write_without_lead(
        &mut self,
        out: &mut [u8],
        queue_offset: QueueOffset,
        physical_offset: PhysicalOffset,
        store_timestamp: i64,
    ) {
        let out = &mut out[..self.total];
        put(
            &mut self.head,
            QUEUE_OFFSET_AT,
            &queue_offset.number().to_be_bytes(),
        );
        put(
            &mut self.head,
            PHYSICAL_OFFSET_AT,
            &physical_offset.number().to_be_bytes(),
        );
        put(
            &mut self.head,
            self.store_timestamp_at,
            &store_timestamp.to_be_bytes(),
        );
        let head = &self.head[..self.head_bytes];
        let mut at = LEAD_BYTES;
        let mut append = |part: &[u8]| {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        append(&head[LEAD_BYTES..]);
        self.for_each_tail_part(&mut append);
        if let Some(tail_crc) = &self.tail_crc {
            let mut crc = crc32fast::Hasher::new();
            crc.update(head);
            crc.combine(tail_crc);
            append(&encode_crc_property(crc.finalize() & 0x7FFF_FFFF));
        }
    }

    /// Writes what [`write_without_lead`](Self::write_without_lead) left out, behind everything else that this thread wrote: its
    /// size and magic.
    ///
    /// # Panics
    /// When `out` is shorter than that.
    pub fn write_lead(&self, out: &mut [u8]) {
        // A process is killed between two of its instructions: their order is what counts, not what other threads see.
        compiler_fence(Ordering::SeqCst);
        out[..LEAD_BYTES].copy_from_slice(&self.head[..LEAD_BYTES]);
    }

    /// Bytes that the sum takes behind the properties.
    fn extra_bytes(&self, sum_record: bool) -> usize {
        if sum_record {
            CRC_PROPERTY_BYTES + usize::from(self.lacks_separator())
        } else {
            0
        }
    }

    fn lacks_separator(&self) -> bool {
        self.fields
            .properties
            .last()
            .is_some_and(|last| *last != properties::PROPERTY_SEPARATOR)
    }

    fn fill_head(&mut self, sys_flag: i32, v2: bool) -> Result<(), EncodeError> {
        let total = i32::try_from(self.total).map_err(|_| EncodeError::Record)?;
        let body_bytes = i32::try_from(self.fields.body.len()).map_err(|_| EncodeError::Record)?;
        let magic = if v2 { MAGIC_V2 } else { MAGIC_V1 };
        let fields = self.fields;
        let head = &mut self.head;
        put(head, 0, &total.to_be_bytes());
        put(head, 4, &magic.to_be_bytes());
        put(head, 8, &crc31(fields.body).to_be_bytes());
        put(head, QUEUE_ID_AT, &fields.queue_id.wire().to_be_bytes());
        put(head, FLAG_AT, &fields.flag.to_be_bytes());
        put(head, SYS_FLAG_AT, &sys_flag.to_be_bytes());
        put(
            head,
            BORN_TIMESTAMP_AT,
            &fields.born_timestamp.to_be_bytes(),
        );
        put_host(head, BORN_HOST_AT, fields.born_host);
        put_host(head, self.store_timestamp_at + 8, fields.store_host);
        let end = self.head_bytes;
        put(head, end - 16, &fields.reconsume_times.to_be_bytes());
        put(
            head,
            end - 12,
            &fields.prepared_transaction_offset.to_be_bytes(),
        );
        put(head, end - 4, &body_bytes.to_be_bytes());
        Ok(())
    }

    /// Body, topic and properties with their lengths; the record's sum not.
    fn for_each_tail_part(&self, take: &mut impl FnMut(&[u8])) {
        let fields = &self.fields;
        take(fields.body);
        // Lengths were checked in `new`: at most 255 and 32767.
        let topic_length = u16::try_from(fields.topic.len())
            .unwrap_or_default()
            .to_be_bytes();
        take(if fields.topic.len() > TOPIC_V1_BYTES_MAX {
            &topic_length
        } else {
            &topic_length[1..]
        });
        take(fields.topic.as_bytes());
        let sum_record = self.total > self.plain_total();
        let properties_bytes = fields.properties.len() + self.extra_bytes(sum_record);
        take(
            &u16::try_from(properties_bytes)
                .unwrap_or_default()
                .to_be_bytes(),
        );
        take(fields.properties);
        if sum_record && self.lacks_separator() {
            take(&[properties::PROPERTY_SEPARATOR]);
        }
    }

    /// Bytes of the record without a sum over it.
    fn plain_total(&self) -> usize {
        let topic_length_bytes = if self.fields.topic.len() > TOPIC_V1_BYTES_MAX {
            2
        } else {
            1
        };
        self.head_bytes
            + self.fields.body.len()
            + topic_length_bytes
            + self.fields.topic.len()
            + 2
            + self.fields.properties.len()
    }

    fn sum_tail(&self) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        self.for_each_tail_part(&mut |part| crc.update(part));
        crc
    }
}

/// The filler that covers the last `bytes` of a log file; only its first eight bytes are ever written.
#[must_use]
pub fn blank(bytes: u32) -> [u8; BLANK_BYTES] {
    let mut blank = [0; BLANK_BYTES];
    blank[..4].copy_from_slice(&bytes.to_be_bytes());
    blank[4..].copy_from_slice(&MAGIC_BLANK.to_be_bytes());
    blank
}

/// The bytes a filler covers, when `bytes` begin with one.
#[must_use]
pub fn blank_length(bytes: &[u8]) -> Option<u32> {
    (u32_at(bytes, 4)? == MAGIC_BLANK).then(|| u32_at(bytes, 0))?
}

/// The sum at the end of `properties`, if there is one: ten digits, the least significant first. One that was damaged is
/// a number that no record has.
fn crc_property(properties: &[u8]) -> Option<u32> {
    let start = properties.len().checked_sub(CRC_PROPERTY_BYTES)?;
    let value = properties[start..]
        .strip_prefix(properties::CRC32.as_bytes())?
        .strip_prefix(&[properties::NAME_VALUE_SEPARATOR])?;
    let sum = value
        .strip_suffix(&[properties::PROPERTY_SEPARATOR])
        .and_then(|digits| {
            digits.iter().rev().try_fold(0_u32, |value, digit| {
                let digit = char::from(*digit).to_digit(10)?;
                value.checked_mul(10)?.checked_add(digit)
            })
        });
    Some(sum.unwrap_or(u32::MAX))
}

fn encode_crc_property(mut crc: u32) -> [u8; CRC_PROPERTY_BYTES] {
    let mut property = [0; CRC_PROPERTY_BYTES];
    let name = properties::CRC32.len();
    property[..name].copy_from_slice(properties::CRC32.as_bytes());
    property[name] = properties::NAME_VALUE_SEPARATOR;
    for digit in &mut property[name + 1..CRC_PROPERTY_BYTES - 1] {
        *digit = b'0' + u8::try_from(crc % 10).unwrap_or_default();
        crc /= 10;
    }
    property[CRC_PROPERTY_BYTES - 1] = properties::PROPERTY_SEPARATOR;
    property
}

fn host_bytes(sys_flag: i32, v6: i32) -> usize {
    if sys_flag & v6 == 0 {
        HOST_V4_BYTES
    } else {
        HOST_V6_BYTES
    }
}

fn put(head: &mut [u8; HEAD_BYTES_MAX], at: usize, bytes: &[u8]) {
    head[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_host(head: &mut [u8; HEAD_BYTES_MAX], at: usize, host: SocketAddr) {
    let port = u32::from(host.port()).to_be_bytes();
    match host.ip() {
        IpAddr::V4(address) => {
            put(head, at, &address.octets());
            put(head, at + 4, &port);
        }
        IpAddr::V6(address) => {
            put(head, at, &address.octets());
            put(head, at + 16, &port);
        }
    }
}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    let end = at.checked_add(2)?;
    Some(i16::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    let end = at.checked_add(4)?;
    Some(i32::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    i32_at(bytes, at).map(i32::cast_unsigned)
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    let end = at.checked_add(8)?;
    Some(i64::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A committed transaction message, from a pull answer of Apache RocketMQ 5.3.3
    /// (fixture `pull_resp_transaction_committed`, spec/wire.md §5.1).
    const COMMITTED: &[u8] = b"\x00\x00\x01V\xda\xa3 \xa7N\xd4.\xad\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x1f\x8f\x00\x00\x00\x08\x00\x00\x01\xa1\xfb\xb1^1\x7f\x00\x00\x01\x00\x00\x82v\x00\x00\x01\xa1\xfb\xb1_\x07\
        \x7f\x00\x00\x02\x00\x00Y\x7f\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1e&\x00\x00\x00\x06commit\x05T_txn\x00\xf0\
        MSG_REGION\x01DefaultRegion\x02UNIQ_KEY\x017F0000010AA75FFD2B276749762D0000\x02CLUSTER\x01DefaultCluster\x02PGROUP\x01PG_txn\x02\
        __transactionId__\x017F0000010AA75FFD2B276749762D0000\x02TAGS\x01TagA\x02TRAN_MSG\x01true\x02KEYS\x01tx1\x02WAIT\x01true\x02\
        TRACE_ON\x01true\x02REAL_TOPIC\x01T_txn\x02REAL_QID\x010\x02";

    fn fields_of<'a>(record: &RecordView<'a>) -> RecordFields<'a> {
        RecordFields {
            topic: record.topic(),
            queue_id: record.queue_id(),
            flag: record.flag(),
            sys_flag: record.sys_flag(),
            born_timestamp: record.born_timestamp(),
            born_host: record.born_host(),
            store_host: record.store_host(),
            reconsume_times: record.reconsume_times(),
            prepared_transaction_offset: record.prepared_transaction_offset(),
            body: record.body(),
            properties: record.properties().encoded(),
        }
    }

    fn encode(fields: RecordFields<'_>, sum: bool) -> Vec<u8> {
        let mut encoder = RecordEncoder::new(fields, sum).unwrap();
        let mut out = vec![0xEE; encoder.total_bytes()];
        encoder.write(
            &mut out,
            QueueOffset::new(5),
            PhysicalOffset::new(77),
            1_795_224_067_847,
        );
        out
    }

    fn sample<'a>(topic: &'a str, body: &'a [u8], properties: &'a [u8]) -> RecordFields<'a> {
        RecordFields {
            topic,
            queue_id: QueueId::new(3),
            flag: -9,
            sys_flag: 0x101,
            born_timestamp: 1_795_224_067_633,
            born_host: "[fd00::1]:5".parse().unwrap(),
            store_host: "10.0.0.1:10911".parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 11,
            body,
            properties,
        }
    }

    #[test]
    fn reads_a_captured_record() {
        let record = RecordView::parse(COMMITTED).unwrap();
        assert_eq!(record.topic(), "T_txn");
        assert_eq!(record.physical_offset(), PhysicalOffset::new(8079));
        assert_eq!(record.transaction(), TransactionState::Commit);
        assert_eq!(record.body_crc(), 1_322_528_429);
        assert_eq!(record.born_timestamp(), 1_795_224_067_633);
        assert_eq!(record.store_timestamp(), 1_795_224_067_847);
        assert_eq!(record.born_host(), "127.0.0.1:33398".parse().unwrap());
        assert_eq!(record.store_host(), "127.0.0.2:22911".parse().unwrap());
        assert_eq!(record.prepared_transaction_offset(), 7718);
        assert_eq!(record.body(), b"commit");
        assert_eq!(record.properties().get(properties::KEYS), Some("tx1"));
        assert_eq!(
            record.offset_id().to_string(),
            "7F0000020000597F0000000000001F8F"
        );
    }

    #[test]
    fn encodes_the_captured_record_byte_for_byte() {
        let record = RecordView::parse(COMMITTED).unwrap();
        let mut encoder = RecordEncoder::new(fields_of(&record), false).unwrap();
        let mut out = vec![0xEE; encoder.total_bytes()];
        encoder.write(
            &mut out,
            record.queue_offset(),
            record.physical_offset(),
            record.store_timestamp(),
        );
        assert_eq!(out, COMMITTED);
    }

    #[test]
    fn long_topics_and_ipv6_hosts_come_back() {
        let topic = "%RETRY%".repeat(30);
        let bytes = encode(sample(&topic, b"body", b"A\x01b\x02"), false);
        let record = RecordView::parse(&bytes).unwrap();
        assert!(record.is_v2());
        assert_eq!(record.topic(), topic);
        assert_eq!(record.born_host(), "[fd00::1]:5".parse().unwrap());
        assert_eq!(record.queue_id(), QueueId::new(3));
        assert_eq!(record.flag(), -9);
        assert_eq!(record.reconsume_times(), 2);
        assert_eq!(bytes.len(), OVERHEAD_BYTES + 1 + 12 + topic.len() + 4 + 4);
    }

    #[test]
    fn the_sum_over_the_record_finds_a_bit_flipped_anywhere() {
        let bytes = encode(sample("T", b"body", b"A\x01b"), true);
        let record = RecordView::parse(&bytes).unwrap();
        assert_eq!(record.properties().get("A"), Some("b"));
        assert_eq!(
            record.properties().get(properties::CRC32).map(str::len),
            Some(10)
        );
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A flip inside the sum's own property may hide the property; the body is still covered then.
            if bit / 8 < bytes.len() - CRC_PROPERTY_BYTES {
                assert!(RecordView::parse(&damaged).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn cut_anywhere_is_an_error() {
        for end in 0..COMMITTED.len() {
            assert!(RecordView::parse(&COMMITTED[..end]).is_err(), "{end}");
        }
        assert_eq!(
            RecordView::parse(&[0; 200]).unwrap_err(),
            RecordError::Magic(0)
        );
    }

    #[test]
    fn limits_are_checked_before_encoding() {
        let long = "t".repeat(256);
        assert_eq!(
            RecordEncoder::new(sample(&long, b"", b""), false).unwrap_err(),
            EncodeError::Topic(256)
        );
        let properties = vec![b'p'; properties::PROPERTIES_BYTES_MAX - 10];
        assert!(RecordEncoder::new(sample("t", b"", &properties), false).is_ok());
        assert!(RecordEncoder::new(sample("t", b"", &properties), true).is_err());
    }

    #[test]
    fn a_filler_tells_its_length() {
        assert_eq!(blank_length(&blank(580)), Some(580));
        assert_eq!(blank_length(COMMITTED), None);
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(
            topic in "[a-zA-Z0-9_%-]{1,255}",
            body in prop::collection::vec(any::<u8>(), 0..300),
            properties in prop::collection::vec(any::<u8>(), 0..100),
            sum: bool,
        ) {
            let bytes = encode(sample(&topic, &body, &properties), sum);
            let record = RecordView::parse(&bytes).unwrap();
            prop_assert_eq!(record.topic(), topic.as_str());
            prop_assert_eq!(record.body(), &body[..]);
            prop_assert!(record.properties().encoded().starts_with(&properties));
            prop_assert_eq!(record.queue_offset(), QueueOffset::new(5));
            prop_assert_eq!(record.physical_offset(), PhysicalOffset::new(77));
        }

        #[test]
        fn any_bytes_end_in_a_value_or_an_error(
            at in 0..COMMITTED.len(),
            noise in prop::collection::vec(any::<u8>(), 1..16),
        ) {
            let mut bytes = COMMITTED.to_vec();
            let end = (at + noise.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&noise[..end - at]);
            for record in records(&bytes).flatten() {
                let _ = (record.born_host(), record.store_host(), record.body(), record.properties().get("x"));
            }
            prop_assert!(records(&noise).all(|record| record.is_err()));
        }
    }
}
