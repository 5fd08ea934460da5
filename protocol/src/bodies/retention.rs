//! What retention removes next: the answer to our own request 900001.

use serde::{Deserialize, Serialize};

/// The rules in force, the disk, and the files that go next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionExplanation {
    /// Bytes that may still be written to the file system of the log.
    pub disk_available: u64,
    /// Bytes of that file system.
    pub disk_total: u64,
    /// Percentage of it that is in use.
    pub disk_used_percent: u8,
    /// Files of the log, the one that is written to included.
    pub files: usize,
    /// Bytes of those files.
    pub log_bytes: u64,
    /// What goes next, oldest first. The last file of the log never does.
    pub next: Vec<ExpiringFile>,
    /// When this was said, in ms.
    pub now: i64,
    /// The rules.
    pub rules: RetentionRules,
    /// Whether every group's every queue was looked at; if not, groups may be missing.
    pub unread_is_complete: bool,
}

/// When files go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionRules {
    /// `deleteWhen`: hours of the local day.
    pub delete_hours: Vec<u32>,
    /// `diskMaxUsedSpaceRatio`: above it, expired files go at any hour.
    pub expire_percent: u8,
    /// `cleanFileForciblyEnable`.
    pub force: bool,
    /// `diskSpaceCleanForciblyRatio`: above it, the oldest files go whatever their age.
    pub force_percent: u8,
    /// `logBytesMax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes_max: Option<u64>,
    /// `diskSpaceWarningLevelRatio`: above it, messages are refused.
    pub refuse_percent: u8,
    /// `fileReservedTime`, in ms.
    pub reserved_ms: u64,
}

/// A file of the log that goes some day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExpiringFile {
    /// By how many bytes the log may grow until it goes for the log's size; 0 when that is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_left: Option<u64>,
    /// When it goes at the latest, in ms; none where there is no hour of deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// When it is old enough, in ms.
    pub expires: i64,
    /// Its path on the broker.
    pub file: String,
    /// Offset of its first byte in the log.
    pub from: u64,
    /// When it was last written to, in ms.
    pub last_written: i64,
    /// Groups in addition to those in `unread`.
    pub more_groups: usize,
    /// What those have not read.
    pub more_messages: u64,
    /// Offset behind its last byte.
    pub to: u64,
    /// Who has not read what is in this file and those in front of it, largest first.
    pub unread: Vec<UnreadCount>,
}

/// What one group has not read of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnreadCount {
    /// The group.
    pub group: String,
    /// How many messages.
    pub messages: u64,
    /// The topic.
    pub topic: String,
}
