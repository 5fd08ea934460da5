//! A stored message as commands show it: the original's one-line form, and the fields of `--json`.

use std::fmt::{self, Display, Formatter};

use agena_protocol::compression;
use agena_protocol::properties;
use agena_protocol::record::{RecordError, RecordView, records};
use agena_protocol::sys_flag;
use agena_protocol::tags;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// The largest body that is unpacked for showing; well above what brokers take.
const BODY_BYTES_MAX: usize = 64 << 20;

/// One message with everything that its record says.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Message {
    /// The client's id, or the offset id where there is none.
    pub(crate) msg_id: String,
    pub(crate) offset_msg_id: String,
    pub(crate) topic: String,
    pub(crate) broker_name: String,
    pub(crate) queue_id: i32,
    pub(crate) queue_offset: i64,
    pub(crate) commit_log_offset: i64,
    pub(crate) store_size: usize,
    pub(crate) sys_flag: i32,
    pub(crate) flag: i32,
    pub(crate) born_timestamp: i64,
    pub(crate) born_host: String,
    pub(crate) store_timestamp: i64,
    pub(crate) store_host: String,
    #[serde(rename = "bodyCRC")]
    pub(crate) body_crc: u32,
    pub(crate) reconsume_times: i32,
    pub(crate) prepared_transaction_offset: i64,
    #[serde(serialize_with = "as_object")]
    pub(crate) properties: Vec<(String, String)>,
    #[serde(flatten)]
    pub(crate) body: Body,
}

fn as_object<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, value) in pairs {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

/// A body: `body` in JSON if it is text, else `bodyHex`.
#[derive(Debug, Clone)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl Body {
    /// As text; bytes that are none become replacement characters.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match std::str::from_utf8(&self.0) {
            Ok(text) => map.serialize_entry("body", text)?,
            Err(_) => map.serialize_entry("bodyHex", &hex(&self.0))?,
        }
        map.end()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Message {
    /// Reads every message of a body of records.
    pub(crate) fn read_all(bytes: &[u8], broker_name: &str) -> Result<Vec<Self>, RecordError> {
        records(bytes)
            .map(|record| Ok(Self::of(&record?, broker_name)))
            .collect()
    }

    /// Copies a record. A compressed body is unpacked, as clients do; one that does not unpack stays as it is.
    pub(crate) fn of(record: &RecordView<'_>, broker_name: &str) -> Self {
        let properties: Vec<(String, String)> = record
            .properties()
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let offset_msg_id = record.offset_id().to_string();
        let mut flags = record.sys_flag();
        let body = match sys_flag::compression(flags) {
            Some(Ok(codec)) => compression::decompress(codec, record.body(), BODY_BYTES_MAX).ok(),
            Some(Err(_)) | None => None,
        };
        if body.is_some() {
            flags &= !sys_flag::COMPRESSED;
        }
        let body = body.unwrap_or_else(|| record.body().to_vec());
        let mut message = Self {
            msg_id: String::new(),
            offset_msg_id,
            topic: record.topic().to_owned(),
            broker_name: broker_name.to_owned(),
            queue_id: record.queue_id().wire(),
            queue_offset: record.queue_offset().wire(),
            commit_log_offset: record.physical_offset().wire(),
            store_size: record.bytes().len(),
            sys_flag: flags,
            flag: record.flag(),
            born_timestamp: record.born_timestamp(),
            born_host: record.born_host().to_string(),
            store_timestamp: record.store_timestamp(),
            store_host: record.store_host().to_string(),
            body_crc: record.body_crc(),
            reconsume_times: record.reconsume_times(),
            prepared_transaction_offset: record.prepared_transaction_offset(),
            properties,
            body: Body(body),
        };
        message.msg_id = message
            .property(properties::UNIQ_KEY)
            .unwrap_or(&message.offset_msg_id)
            .to_owned();
        message
    }

    /// The value of a property; the last one counts.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn tags(&self) -> Option<&str> {
        self.property(properties::TAGS)
    }

    pub(crate) fn keys(&self) -> Option<&str> {
        self.property(properties::KEYS)
    }

    /// `{A=1, B=2}`, as Java shows a map, in the order of the original's (a `HashMap` of 128 buckets), so that outputs
    /// can be compared.
    pub(crate) fn properties_text(&self) -> String {
        let bucket = |name: &str| {
            let hash = tags::java_hash(name).cast_unsigned();
            (hash ^ (hash >> 16)) & 127
        };
        let mut pairs: Vec<&(String, String)> = self.properties.iter().collect();
        pairs.sort_by_key(|(name, _)| bucket(name));
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        format!("{{{}}}", pairs.join(", "))
    }
}

/// `MSGID: … MessageExt […] BODY: …` and a line feed, as the commands that print queues write it.
pub(crate) struct Line<'a> {
    pub(crate) message: &'a Message,
    pub(crate) with_body: bool,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.message.serialize(serializer)
    }
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let message = self.message;
        // Java prints bytes as signed numbers.
        let body: Vec<i8> = message
            .body
            .0
            .iter()
            .map(|byte| i8::from_ne_bytes([*byte]))
            .collect();
        let shown = if self.with_body {
            message.body.text()
        } else {
            "NOT PRINT BODY".to_owned()
        };
        let transaction = message
            .property(properties::TRANSACTION_ID)
            .unwrap_or("null");
        writeln!(
            f,
            "MSGID: {} MessageExt [brokerName={}, queueId={}, storeSize={}, queueOffset={}, sysFlag={}, \
             bornTimestamp={}, bornHost=/{}, storeTimestamp={}, storeHost=/{}, msgId={}, commitLogOffset={}, \
             bodyCRC={}, reconsumeTimes={}, preparedTransactionOffset={}, toString()=Message{{topic='{}', flag={}, \
             properties={}, body={body:?}, transactionId='{transaction}'}}] BODY: {shown}",
            message.msg_id,
            message.broker_name,
            message.queue_id,
            message.store_size,
            message.queue_offset,
            message.sys_flag,
            message.born_timestamp,
            message.born_host,
            message.store_timestamp,
            message.store_host,
            message.offset_msg_id,
            message.commit_log_offset,
            message.body_crc,
            message.reconsume_times,
            message.prepared_transaction_offset,
            message.topic,
            message.flag,
            message.properties_text(),
        )
    }
}
