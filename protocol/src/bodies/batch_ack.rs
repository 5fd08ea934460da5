//! Acknowledgements of many popped messages. Source: spec/wire.md §4.5.4.

use serde::{Deserialize, Serialize};

/// Messages of one pop. Members have one-letter names on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchAck {
    /// Base64 of a bit set, lowest bit first: bit i is offset `start_offset + i`.
    #[serde(rename = "b")]
    pub bit_set: String,
    /// The group.
    #[serde(rename = "c")]
    pub consumer_group: String,
    /// Milliseconds the messages stay hidden.
    #[serde(rename = "it")]
    pub invisible_time: i64,
    /// When they were popped, in ms.
    #[serde(rename = "pt")]
    pub pop_time: i64,
    /// The queue.
    #[serde(rename = "q")]
    pub queue_id: i32,
    /// `0` of the topic itself, `1` or `2` of its retry topic.
    #[serde(rename = "r")]
    pub retry: String,
    /// The queue of the receipts.
    #[serde(rename = "rq")]
    pub revive_queue_id: i32,
    /// The first offset of the pop.
    #[serde(rename = "so")]
    pub start_offset: i64,
    /// The topic.
    #[serde(rename = "t")]
    pub topic: String,
}

/// Body of 200151.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchAckMessageRequestBody {
    /// One a pop.
    pub acks: Vec<BatchAck>,
    /// The broker.
    pub broker_name: String,
}
