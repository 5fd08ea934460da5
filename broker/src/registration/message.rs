//! What is said to a name server, and what is learnt from its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::names::KVTable;
use agena_protocol::bodies::register_broker::RegisterBrokerBody;
use agena_protocol::bodies::topic_config::{
    PERM_READ, PERM_WRITE, TopicConfig, TopicConfigAndMappingSerializeWrapper,
};
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::headers::namesrv::{RegisterBrokerRequest, UnregisterBrokerRequest};
use agena_protocol::record::crc31;
use agena_protocol::request_code::RequestCode;

use crate::broker::Broker;

/// All topics with their version.
pub(super) fn everything(broker: &Broker) -> Command {
    let (version, topics) = broker.topics.versioned();
    registration(broker, version, &topics)
}

/// Only the topics that changed, with the version that is theirs now.
pub(super) fn changes(broker: &Broker, topics: &[Arc<TopicConfig>]) -> Command {
    registration(broker, broker.topics.data_version(), topics)
}

fn registration(broker: &Broker, version: DataVersion, topics: &[Arc<TopicConfig>]) -> Command {
    let permission = broker.permission();
    let body = RegisterBrokerBody {
        topic_config_serialize_wrapper: TopicConfigAndMappingSerializeWrapper {
            data_version: version,
            topic_config_table: topics
                .iter()
                .map(|topic| (topic.topic_name.clone(), masked(topic, permission)))
                .collect(),
            ..TopicConfigAndMappingSerializeWrapper::default()
        },
        ..RegisterBrokerBody::default()
    };
    let config = broker.config.get();
    let compressed = config
        .compressed_register
        .then(|| body.encode_compressed().ok())
        .flatten();
    let is_compressed = compressed.is_some();
    let body = compressed.unwrap_or_else(|| body.encode());
    let address = broker.identity.advertised.to_string();
    let ha_address = format!("{}:{}", config.broker_ip2, config.ha_listen_port);
    let header = RegisterBrokerRequest {
        broker_name: &broker.identity.name,
        broker_addr: &address,
        cluster_name: &broker.identity.cluster,
        ha_server_addr: &ha_address,
        broker_id: broker.identity.id,
        enable_acting_master: Some(false),
        compressed: Some(is_compressed),
        body_crc32: i32::try_from(crc31(&body)).ok(),
        ..RegisterBrokerRequest::default()
    };
    Command::request(RequestCode::RegisterBroker)
        .with_header(&header)
        .with_body(body)
}

/// What the broker as a whole may not do, no topic of it may.
fn masked(topic: &TopicConfig, permission: i32) -> TopicConfig {
    let mut topic = topic.clone();
    if permission & (PERM_READ | PERM_WRITE) != PERM_READ | PERM_WRITE {
        topic.perm &= permission;
    }
    topic
}

pub(super) fn farewell(broker: &Broker) -> Command {
    let address = broker.identity.advertised.to_string();
    Command::request(RequestCode::UnregisterBroker).with_header(&UnregisterBrokerRequest {
        broker_name: &broker.identity.name,
        broker_addr: &address,
        cluster_name: &broker.identity.cluster,
        broker_id: broker.identity.id,
    })
}

/// The answer names the topics that have an order configuration.
pub(super) fn learn(broker: &Broker, answer: &Command) {
    if answer.body.is_empty() {
        return;
    }
    match fastjson::from_slice::<KVTable>(&answer.body) {
        Ok(ordered) => {
            let table: BTreeMap<String, String> = ordered.table;
            broker.topics.mark_order(table.keys().map(String::as_str));
        }
        Err(error) => tracing::warn!(%error, "the answer to a registration does not parse"),
    }
}
