//! How replicas follow their master, and what a controller knows of them. Source: spec/wire.md §4.6 (907, 1007), §6.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::route::BrokerMemberGroup;

/// One replica as its master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HAConnectionRuntimeInfo {
    /// The replica's address.
    pub addr: String,
    /// Bytes it is behind.
    pub diff: i64,
    /// It counts as in sync.
    pub in_sync: bool,
    /// The offset it confirmed.
    pub slave_ack_offset: i64,
    /// The offset sent so far.
    pub transfer_from_where: i64,
    /// Bytes a second.
    pub transferred_byte_in_second: i64,
}

/// A replica's own view.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HAClientRuntimeInfo {
    /// Time of the last read in ms.
    pub last_read_timestamp: i64,
    /// Time of the last report in ms.
    pub last_write_timestamp: i64,
    /// The master's address.
    pub master_addr: Option<String>,
    /// How far the master's disk is.
    pub master_flush_offset: i64,
    /// How far this replica is.
    pub max_offset: i64,
    /// Bytes a second.
    pub transferred_byte_in_second: i64,
}

/// Answer to 907.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HARuntimeInfo {
    /// Of a replica.
    pub ha_client_runtime_info: HAClientRuntimeInfo,
    /// Of a master: one a replica.
    pub ha_connection_info: Vec<HAConnectionRuntimeInfo>,
    /// How many replicas are in sync.
    pub in_sync_slave_nums: i32,
    /// It is a master.
    pub master: bool,
    /// The end of the master's log.
    pub master_commit_log_max_offset: i64,
}

/// One master's reign.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EpochEntry {
    /// Where it ended.
    pub end_offset: i64,
    /// Its number.
    pub epoch: i32,
    /// Where it began.
    pub start_offset: i64,
}

/// Answer to 1007.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EpochEntryCache {
    /// The broker's id.
    pub broker_id: i64,
    /// The broker.
    pub broker_name: String,
    /// Its cluster.
    pub cluster_name: String,
    /// Oldest first.
    pub epoch_list: Vec<EpochEntry>,
    /// The end of its log.
    pub max_offset: i64,
}

/// The replicas in sync; body of 1001 and 1008, answer to 1001, 1003 and 1004.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncStateSet {
    /// Broker ids.
    pub sync_state_set: Option<BTreeSet<i64>>,
    /// Rises with each change.
    pub sync_state_set_epoch: i32,
}

/// Answer to 1002.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ElectMasterResponseBody {
    /// All replicas.
    pub broker_member_group: Option<BrokerMemberGroup>,
    /// Those in sync.
    pub sync_state_set: Option<BTreeSet<i64>>,
}

/// One replica as the controller knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaIdentity {
    /// It reports.
    pub alive: Option<bool>,
    /// Its address.
    pub broker_address: String,
    /// Its id.
    pub broker_id: i64,
    /// The broker.
    pub broker_name: String,
}

/// The replicas of one broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicasInfo {
    /// Those in sync.
    pub in_sync_replicas: Vec<ReplicaIdentity>,
    /// The master's address.
    pub master_address: Option<String>,
    /// The master's id.
    pub master_broker_id: Option<i64>,
    /// The number of its reign.
    pub master_epoch: i32,
    /// The others.
    pub not_in_sync_replicas: Vec<ReplicaIdentity>,
    /// Rises with each change.
    pub sync_state_set_epoch: i32,
}

/// Answer to 1006.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerReplicasInfo {
    /// By broker.
    pub replicas_info_table: BTreeMap<String, ReplicasInfo>,
}
