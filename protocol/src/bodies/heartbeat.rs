//! What a client tells every broker each 30 s: its groups and what they subscribe. Source: spec/wire.md §4.2.1.

use serde::{Deserialize, Serialize};

use super::subscription::SubscriptionData;
use crate::fastjson::{self, KeyStyle};
use crate::tags::java_hash;
use crate::wire_enum;

wire_enum! {
    /// How a group gets its messages.
    pub enum ConsumeType {
        /// The application pulls.
        ConsumeActively = "CONSUME_ACTIVELY",
        /// The client pulls and calls a listener.
        #[default]
        ConsumePassively = "CONSUME_PASSIVELY",
        /// The broker hands out.
        ConsumePop = "CONSUME_POP",
    }
}

wire_enum! {
    /// Who of a group gets a message.
    pub enum MessageModel {
        /// Each client.
        Broadcasting = "BROADCASTING",
        /// One client.
        #[default]
        Clustering = "CLUSTERING",
    }
}

wire_enum! {
    /// Where a group starts that has no offset yet.
    pub enum ConsumeFromWhere {
        /// At the end.
        #[default]
        ConsumeFromLastOffset = "CONSUME_FROM_LAST_OFFSET",
        /// Deprecated in the original; as the first.
        ConsumeFromLastOffsetAndFromMinWhenBootFirst = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        /// Deprecated in the original.
        ConsumeFromMinOffset = "CONSUME_FROM_MIN_OFFSET",
        /// Deprecated in the original.
        ConsumeFromMaxOffset = "CONSUME_FROM_MAX_OFFSET",
        /// At the beginning.
        ConsumeFromFirstOffset = "CONSUME_FROM_FIRST_OFFSET",
        /// At a time the client gives.
        ConsumeFromTimestamp = "CONSUME_FROM_TIMESTAMP",
    }
}

/// A producer group of the client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    /// The group.
    pub group_name: String,
}

/// A consumer group of the client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    /// Where the group starts without an offset.
    pub consume_from_where: ConsumeFromWhere,
    /// How it gets messages.
    pub consume_type: ConsumeType,
    /// The group.
    pub group_name: String,
    /// Who of it gets a message.
    pub message_model: MessageModel,
    /// What it subscribes; empty in a short heartbeat.
    pub subscription_data_set: Vec<SubscriptionData>,
    /// The client belongs to a unit.
    pub unit_mode: bool,
}

/// Body of 34.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatData {
    /// The client.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Its consumer groups.
    pub consumer_data_set: Vec<ConsumerData>,
    /// 0 in the first form of heartbeats; else [`HeartbeatData::fingerprint`] of the full one.
    pub heartbeat_fingerprint: i32,
    /// Its producer groups.
    pub producer_data_set: Vec<ProducerData>,
    /// A short heartbeat: subscriptions are left out, since the broker knows them by the fingerprint.
    pub without_sub: bool,
}

impl HeartbeatData {
    /// The number that is equal for heartbeats which say the same, whoever sends them and whenever.
    ///
    /// Groups and topics are sorted first, so the order in which they were added does not matter. Never 0, which
    /// would mean the first form.
    #[must_use]
    pub fn fingerprint(&self) -> i32 {
        let mut plain = self.clone();
        plain.client_id.clear();
        plain.heartbeat_fingerprint = 0;
        plain.without_sub = false;
        plain
            .producer_data_set
            .sort_by(|a, b| a.group_name.cmp(&b.group_name));
        plain
            .consumer_data_set
            .sort_by(|a, b| a.group_name.cmp(&b.group_name));
        for consumer in &mut plain.consumer_data_set {
            consumer
                .subscription_data_set
                .sort_by(|a, b| a.topic.cmp(&b.topic));
            for subscription in &mut consumer.subscription_data_set {
                subscription.sub_version = 0;
            }
        }
        let text = fastjson::to_vec(&plain, KeyStyle::Bare);
        match java_hash(&String::from_utf8_lossy(&text)) {
            0 => 1,
            hash => hash,
        }
    }

    /// The short form that may follow a full heartbeat with this fingerprint.
    #[must_use]
    pub fn shortened(&self) -> Self {
        let mut short = self.clone();
        short.heartbeat_fingerprint = self.fingerprint();
        short.without_sub = true;
        for consumer in &mut short.consumer_data_set {
            consumer.subscription_data_set.clear();
        }
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(client: &str, topics: &[&str], version: i64) -> HeartbeatData {
        HeartbeatData {
            client_id: client.into(),
            consumer_data_set: vec![ConsumerData {
                group_name: "CG".into(),
                subscription_data_set: topics
                    .iter()
                    .map(|topic| SubscriptionData {
                        sub_version: version,
                        ..SubscriptionData::by_tags(topic, "*").unwrap()
                    })
                    .collect(),
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        }
    }

    #[test]
    fn the_fingerprint_is_of_what_is_subscribed() {
        let one = heartbeat("a", &["T1", "T2"], 1);
        assert_eq!(
            one.fingerprint(),
            heartbeat("b", &["T2", "T1"], 2).fingerprint()
        );
        assert_ne!(one.fingerprint(), heartbeat("a", &["T1"], 1).fingerprint());
        assert_eq!(one.shortened().heartbeat_fingerprint, one.fingerprint());
        assert!(
            one.shortened().consumer_data_set[0]
                .subscription_data_set
                .is_empty()
        );
    }

    #[test]
    fn numbers_in_place_of_enum_names_are_ordinals() {
        let text = br#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":4,"consumeType":0,"groupName":"g","messageModel":1,"subscriptionDataSet":[{"codeSet":["12"],"subString":"a","tagsSet":["a"],"topic":"T"}]}]}"#;
        let data: HeartbeatData = fastjson::from_slice(text).unwrap();
        let consumer = &data.consumer_data_set[0];
        assert_eq!(
            consumer.consume_from_where,
            ConsumeFromWhere::ConsumeFromFirstOffset
        );
        assert_eq!(consumer.consume_type, ConsumeType::ConsumeActively);
        assert_eq!(consumer.message_model, MessageModel::Clustering);
        assert_eq!(consumer.subscription_data_set[0].expression_type, "TAG");
        assert!(consumer.subscription_data_set[0].code_set.contains(&12));
    }
}
