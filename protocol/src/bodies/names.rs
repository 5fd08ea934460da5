//! Bodies that are lists of names: topics, groups, clients, and tables of strings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Topic names; answer to 206, 224, 304, 305, 311–313 and 343. Apache: `TopicList`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicList {
    /// A broker to ask further (304) or the one that answers (343).
    pub broker_addr: Option<String>,
    /// The names, in no order.
    pub topic_list: Vec<String>,
}

/// Group names; answer to 300. Apache: `GroupList`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupList {
    /// The names, in no order.
    pub group_list: Vec<String>,
}

/// The clients of a group; answer to 38.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetConsumerListByGroupResponseBody {
    /// Client ids.
    pub consumer_id_list: Vec<String>,
}

/// Strings by name; answer to 28, 103 and 219. Apache: `KVTable`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KVTable {
    /// The pairs.
    pub table: BTreeMap<String, String>,
}
