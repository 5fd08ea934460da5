//! Where a topic is, and who is in a cluster. Source: spec/wire.md §4.1.1, §4.1.6, §4.1.8.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::static_topic::TopicQueueMappingInfo;
use super::topic_config::{PERM_READ, PERM_WRITE};
use crate::fastjson::{self, KeyStyle};

/// The broker id of a master.
pub const MASTER_ID: i64 = 0;

/// From this MQVersion ordinal (4.9.4) on, a client reads standard JSON.
pub const STANDARD_JSON_VERSION: i32 = 401;

/// A broker with its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    /// Addresses by broker id; 0 is the master.
    pub broker_addrs: BTreeMap<i64, String>,
    /// The name all replicas share.
    pub broker_name: String,
    /// Its cluster.
    pub cluster: String,
    /// A replica may act for a missing master.
    pub enable_acting_master: bool,
    /// The zone, where brokers announce one.
    pub zone_name: Option<String>,
}

impl BrokerData {
    /// The master's address.
    #[must_use]
    pub fn master(&self) -> Option<&str> {
        self.broker_addrs.get(&MASTER_ID).map(String::as_str)
    }

    /// The master's address, else that of the replica with the smallest id.
    #[must_use]
    pub fn any_address(&self) -> Option<&str> {
        self.broker_addrs.values().next().map(String::as_str)
    }
}

/// A topic's queues on one broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    /// The broker.
    pub broker_name: String,
    /// Permission bits of the topic there.
    pub perm: i32,
    /// Queues that consumers see.
    pub read_queue_nums: i32,
    /// `topicSysFlag` of the topic there.
    pub topic_sys_flag: i32,
    /// Queues that producers see.
    pub write_queue_nums: i32,
}

impl QueueData {
    /// Consumers may read there.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.perm & PERM_READ != 0
    }

    /// Producers may write there.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.perm & PERM_WRITE != 0
    }
}

/// Where a topic is; answer to 105, body of 217.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicRouteData {
    /// The brokers that have it.
    pub broker_datas: Vec<BrokerData>,
    /// Filter servers, a feature long gone; always empty.
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// `broker-a:2;broker-b:4` for topics with fixed queue numbers.
    pub order_topic_conf: Option<String>,
    /// Its queues on each broker.
    pub queue_datas: Vec<QueueData>,
    /// Mappings of a static topic by broker.
    pub topic_queue_mapping_by_broker: Option<BTreeMap<String, TopicQueueMappingInfo>>,
}

impl TopicRouteData {
    /// How the keys of an answer are written for a client of this version.
    #[must_use]
    pub fn key_style(client_version: i32, accept_standard_json_only: bool) -> KeyStyle {
        if client_version >= STANDARD_JSON_VERSION || accept_standard_json_only {
            KeyStyle::Quoted
        } else {
            KeyStyle::Bare
        }
    }

    /// The answer's body.
    #[must_use]
    pub fn encode(&self, keys: KeyStyle) -> Vec<u8> {
        fastjson::to_vec(self, keys)
    }
}

/// All brokers by name, and names by cluster; answer to 106. Its keys are never quoted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    /// Brokers by name.
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    /// Broker names by cluster.
    pub cluster_addr_table: BTreeMap<String, BTreeSet<String>>,
}

/// The replicas of one broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroup {
    /// Addresses by broker id.
    pub broker_addrs: BTreeMap<i64, String>,
    /// The name all replicas share.
    pub broker_name: String,
    /// Its cluster.
    pub cluster: String,
}

/// Answer to 901.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetBrokerMemberGroupResponseBody {
    /// The replicas; without addresses if the broker is unknown.
    pub broker_member_group: BrokerMemberGroup,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_the_client_s_version() {
        let route = TopicRouteData {
            broker_datas: vec![BrokerData {
                broker_addrs: BTreeMap::from([(0, "127.0.0.1:1".into())]),
                broker_name: "b".into(),
                cluster: "größe".into(),
                ..BrokerData::default()
            }],
            ..TopicRouteData::default()
        };
        let text = |version| {
            String::from_utf8(route.encode(TopicRouteData::key_style(version, false))).unwrap()
        };
        assert_eq!(
            text(401),
            r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:1"},"brokerName":"b","cluster":"gr\u00F6\u00DFe","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[]}"#
        );
        assert!(text(400).contains(r#"{0:"127.0.0.1:1"}"#));
        assert_eq!(TopicRouteData::key_style(0, true), KeyStyle::Quoted);
    }
}
