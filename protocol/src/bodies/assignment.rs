//! Queues that a broker assigns to clients, and whether they pull or pop them. Source: spec/wire.md §4.5.1, §4.5.2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::heartbeat::MessageModel;
use crate::queue::MessageQueue;
use crate::wire_enum;

wire_enum! {
    /// How messages of a queue are fetched.
    pub enum MessageRequestMode {
        /// The client keeps the offset.
        #[default]
        Pull = "PULL",
        /// The broker hands out.
        Pop = "POP",
    }
}

/// Which queues are mine; body of 400.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryAssignmentRequestBody {
    /// The client.
    pub client_id: String,
    /// Its group.
    pub consumer_group: String,
    /// Who of the group gets a message.
    pub message_model: MessageModel,
    /// `AVG` or `AVG_BY_CIRCLE`.
    pub strategy_name: String,
    /// The topic.
    pub topic: String,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueueAssignment {
    /// Extras.
    pub attachments: Option<BTreeMap<String, String>>,
    /// The queue; number -1 is all queues of its broker.
    pub message_queue: MessageQueue,
    /// How it is to be fetched.
    pub mode: MessageRequestMode,
}

/// Answer to 400.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryAssignmentResponseBody {
    /// The queues; missing means "keep what you have", empty means "drop all".
    pub message_queue_assignments: Option<Vec<MessageQueueAssignment>>,
}

/// How a group is to fetch a topic; body of 401.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetMessageRequestModeRequestBody {
    /// The group.
    pub consumer_group: String,
    /// How.
    pub mode: MessageRequestMode,
    /// How many clients share a queue by pop.
    pub pop_share_queue_num: i32,
    /// The topic.
    pub topic: String,
}

/// All such settings; answer to 402, and `messageRequestMode.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageRequestModeSerializeWrapper {
    /// By topic and group.
    pub message_request_mode_map:
        BTreeMap<String, BTreeMap<String, SetMessageRequestModeRequestBody>>,
}
