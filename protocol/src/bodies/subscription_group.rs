//! A consumer group's settings on a broker, and the table of them (`subscriptionGroup.json`).
//!
//! Source: spec/wire.md §4.6, spec/store.md §1.2. Apache: `SubscriptionGroupConfig`, `GroupRetryPolicy`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::data_version::DataVersion;
use crate::wire_enum;

wire_enum! {
    /// How the pause before the next try is found.
    pub enum GroupRetryPolicyType {
        /// It doubles, or so.
        Exponential = "EXPONENTIAL",
        /// It is looked up.
        #[default]
        Customized = "CUSTOMIZED",
    }
}

/// A pause that grows by a factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExponentialRetryPolicy {
    /// The first pause in ms.
    pub initial: i64,
    /// The longest pause in ms.
    pub max: i64,
    /// The factor.
    pub multiplier: i64,
}

impl Default for ExponentialRetryPolicy {
    fn default() -> Self {
        Self {
            initial: 5_000,
            max: 7_200_000,
            multiplier: 2,
        }
    }
}

/// Pauses from a table, whose first two entries are skipped: they stand for levels of old that retries never used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomizedRetryPolicy {
    /// Pauses in ms.
    pub next: Vec<i64>,
}

impl Default for CustomizedRetryPolicy {
    fn default() -> Self {
        const SECONDS: [i64; 18] = [
            1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200,
        ];
        Self {
            next: SECONDS.iter().map(|seconds| seconds * 1000).collect(),
        }
    }
}

/// How long a message waits before a group tries it again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupRetryPolicy {
    /// Used when `kind` says so.
    pub customized_retry_policy: Option<CustomizedRetryPolicy>,
    /// Used when `kind` says so.
    pub exponential_retry_policy: Option<ExponentialRetryPolicy>,
    /// Which of the two holds.
    #[serde(rename = "type")]
    pub kind: GroupRetryPolicyType,
}

impl GroupRetryPolicy {
    /// The pause in ms after the message failed, having been tried again `reconsume_times` times before.
    #[must_use]
    pub fn next_delay_ms(&self, reconsume_times: i32) -> i64 {
        let times = u32::try_from(reconsume_times.max(0)).unwrap_or(0);
        match (self.kind, &self.exponential_retry_policy) {
            (GroupRetryPolicyType::Exponential, Some(policy)) => {
                let factor = policy.multiplier.saturating_pow(times.min(32));
                policy.initial.saturating_mul(factor).min(policy.max)
            }
            (GroupRetryPolicyType::Exponential | GroupRetryPolicyType::Customized, _) => {
                let default = CustomizedRetryPolicy::default();
                let pauses = match &self.customized_retry_policy {
                    Some(policy)
                        if self.kind == GroupRetryPolicyType::Customized
                            && !policy.next.is_empty() =>
                    {
                        &policy.next
                    }
                    _ => &default.next,
                };
                let at = usize::try_from(times).unwrap_or(0).saturating_add(2);
                pauses[at.min(pauses.len() - 1)]
            }
        }
    }
}

/// A subscription that a group is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SimpleSubscriptionData {
    /// The expression.
    pub expression: String,
    /// Its type.
    pub expression_type: String,
    /// The topic.
    pub topic: String,
    /// Rises with each change.
    pub version: i64,
}

/// A consumer group's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupConfig {
    /// Named extras.
    pub attributes: BTreeMap<String, String>,
    /// The broker to read from.
    pub broker_id: i64,
    /// Broadcasting is allowed.
    pub consume_broadcast_enable: bool,
    /// Reading is allowed.
    pub consume_enable: bool,
    /// A group without an offset may start at the beginning.
    pub consume_from_min_enable: bool,
    /// The group reads in order.
    pub consume_message_orderly: bool,
    /// Minutes a listener may take.
    pub consume_timeout_minute: i32,
    /// The group.
    pub group_name: String,
    /// Pauses between tries.
    pub group_retry_policy: GroupRetryPolicy,
    /// Flags that clients pass through.
    pub group_sys_flag: i32,
    /// Members are told when others come and go.
    pub notify_consumer_ids_changed_enable: bool,
    /// Tries before a message is dead.
    pub retry_max_times: i32,
    /// Queues of the retry topic.
    pub retry_queue_nums: i32,
    /// Subscriptions the group is bound to.
    pub subscription_data_set: Option<Vec<SimpleSubscriptionData>>,
    /// The broker to send a slow reader to.
    pub which_broker_when_consume_slowly: i64,
}

impl Default for SubscriptionGroupConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: GroupRetryPolicy::default(),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            subscription_data_set: None,
            which_broker_when_consume_slowly: 1,
        }
    }
}

impl SubscriptionGroupConfig {
    /// A group with the settings of one that was created by itself.
    #[must_use]
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group_name: group.into(),
            ..Self::default()
        }
    }
}

/// All groups of a broker; answer to 201, and `subscriptionGroup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupWrapper {
    /// The table's version.
    pub data_version: DataVersion,
    /// Forbidden topics by group: bits, 1 forbids reading.
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    /// Settings by group.
    pub subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

/// Groups to create or change together; body of 225.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupList {
    /// The settings.
    pub group_config_list: Vec<SubscriptionGroupConfig>,
}

/// Whether a group may read a topic; answer to 353.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupForbidden {
    /// The group.
    pub group: String,
    /// It may.
    pub readable: bool,
    /// The topic.
    pub topic: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_policy() {
        let by_table = GroupRetryPolicy::default();
        assert_eq!(by_table.next_delay_ms(0), 10_000);
        assert_eq!(by_table.next_delay_ms(-3), 10_000);
        assert_eq!(by_table.next_delay_ms(15), 7_200_000);
        assert_eq!(by_table.next_delay_ms(i32::MAX), 7_200_000);
        let growing = GroupRetryPolicy {
            kind: GroupRetryPolicyType::Exponential,
            exponential_retry_policy: Some(ExponentialRetryPolicy {
                initial: 1000,
                max: 60_000,
                multiplier: 2,
            }),
            customized_retry_policy: None,
        };
        assert_eq!(growing.next_delay_ms(0), 1000);
        assert_eq!(growing.next_delay_ms(3), 8000);
        assert_eq!(growing.next_delay_ms(i32::MAX), 60_000);
        let short = GroupRetryPolicy {
            customized_retry_policy: Some(CustomizedRetryPolicy { next: vec![7] }),
            ..GroupRetryPolicy::default()
        };
        assert_eq!(short.next_delay_ms(5), 7);
    }
}
