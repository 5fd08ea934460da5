//! Limits on reading old data. Source: spec/wire.md §4.6 (2003).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one group read of old data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccAndTimeStamp {
    /// Bytes in the current window.
    pub cold_acc: i64,
    /// When the window was made, in ms.
    pub create_time_mills: i64,
    /// When it last read, in ms.
    pub last_cold_read_time_mills: i64,
}

/// Answer to 2003; the original writes it by hand, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ColdDataFlowCtrInfo {
    /// What each group read.
    pub runtime_table: BTreeMap<String, AccAndTimeStamp>,
    /// Limits by group, in bytes.
    pub config_table: BTreeMap<String, i64>,
    /// The limit of a group without its own, in bytes.
    pub cg_cold_read_threshold: i64,
    /// The limit of all groups, in bytes.
    pub global_cold_read_threshold: i64,
    /// What all groups read.
    pub global_acc: i64,
}
