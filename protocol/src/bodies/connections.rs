//! Who is connected. Source: spec/wire.md §4.6, §4.6.2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel};
use super::subscription::SubscriptionData;

/// One client. Apache: `Connection`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// Its address.
    pub client_addr: String,
    /// Its id.
    pub client_id: String,
    /// Its language by name.
    pub language: String,
    /// Its MQVersion ordinal.
    pub version: i32,
}

/// A consumer group's clients; answer to 203.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerConnection {
    /// The clients.
    pub connection_set: Vec<Connection>,
    /// Where the group starts without an offset.
    pub consume_from_where: ConsumeFromWhere,
    /// How it gets messages.
    pub consume_type: ConsumeType,
    /// Who of it gets a message.
    pub message_model: MessageModel,
    /// What it subscribes, by topic.
    pub subscription_table: BTreeMap<String, SubscriptionData>,
    /// Topics that its members do not subscribe alike. Our own field, left out when there are none; the original's
    /// readers pass over it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscription_conflicts: Vec<SubscriptionConflict>,
}

/// A topic that the members of a group do not subscribe alike.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionConflict {
    /// The topic.
    pub topic: String,
    /// What each member says.
    pub members: Vec<MemberExpression>,
}

/// What one member of a group subscribes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberExpression {
    /// The member.
    pub client_id: String,
    /// Its expression; none when it does not subscribe the topic.
    pub expression: Option<String>,
}

/// A producer group's clients; answer to 204.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerConnection {
    /// The clients.
    pub connection_set: Vec<Connection>,
}

/// One producing client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerInfo {
    /// Its id.
    pub client_id: String,
    /// Its language by name.
    pub language: String,
    /// Time of its last heartbeat in ms.
    pub last_update_timestamp: i64,
    /// Its address, with a leading slash.
    #[serde(rename = "remoteIP")]
    pub remote_ip: String,
    /// Its MQVersion ordinal.
    pub version: i32,
}

/// All producing clients by group; answer to 328.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerTableInfo {
    /// By group.
    pub data: BTreeMap<String, Vec<ProducerInfo>>,
}
