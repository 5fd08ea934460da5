//! Users and what they may do. Source: spec/wire.md §7.2.

use serde::{Deserialize, Serialize};

/// A user; body of 3001 and 3002, answer to 3004 and, as a list, to 3005.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserInfo {
    /// In plain text, as the original has it.
    pub password: Option<String>,
    /// `enable` or `disable`.
    pub user_status: Option<String>,
    /// `Normal` or `Super`.
    pub user_type: Option<String>,
    /// The name.
    pub username: Option<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyEntryInfo {
    /// `Pub`, `Sub`, …
    pub actions: Vec<String>,
    /// `Allow` or `Deny`.
    pub decision: Option<String>,
    /// `Topic:T`, `Group:*`, …
    pub resource: Option<String>,
    /// Addresses it holds for; none means all.
    pub source_ips: Option<Vec<String>>,
}

/// Rules of one type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyInfo {
    /// The rules.
    pub entries: Vec<PolicyEntryInfo>,
    /// `Custom` or `Default`.
    pub policy_type: Option<String>,
}

/// A subject's rules; body of 3006 and 3007, answer to 3009 and, as a list, to 3010.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AclInfo {
    /// The rules.
    pub policies: Vec<PolicyInfo>,
    /// `User:name`.
    pub subject: Option<String>,
}
