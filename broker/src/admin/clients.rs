//! Who is connected: requests 203, 204 and 328.

use std::sync::Arc;

use agena_protocol::bodies::connections::{
    Connection as ConnectionInfo, ConsumerConnection, ProducerConnection, ProducerInfo,
    ProducerTableInfo,
};
use agena_protocol::command::Command;
use agena_protocol::headers::admin::{
    GetConsumerConnectionListRequest, GetProducerConnectionListRequest,
};
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;

use super::{Answer, system_error, with_json};
use crate::broker::Broker;
use crate::send::Refused;
use crate::sessions::Client;

/// Names of the languages by number (spec/wire.md §2.2).
const LANGUAGES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP",
    "OMS", "RUST", "NODE_JS",
];

/// Request 203.
pub(crate) fn of_consumer_group(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    request: &Command,
) -> Answer {
    let header: GetConsumerConnectionListRequest<'_> = request.header()?;
    let name = header.consumer_group;
    let group = broker.sessions.consumer_group(name).ok_or_else(|| {
        let remark = format!("the consumer group[{name}] not online");
        Refused::new(ResponseCode::ConsumerNotOnline, remark)
    })?;
    let subscriptions = group.subscriptions.iter();
    Ok(with_json(&ConsumerConnection {
        connection_set: group
            .members
            .iter()
            .map(|member| info(&member.client))
            .collect(),
        consume_from_where: group.consume_from_where,
        consume_type: group.consume_type,
        message_model: group.message_model,
        subscription_table: subscriptions
            .map(|(topic, subscription)| (topic.clone(), (*subscription.data).clone()))
            .collect(),
        subscription_conflicts: group.conflicts(),
    }))
}

/// Request 204.
pub(crate) fn of_producer_group(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    request: &Command,
) -> Answer {
    let header: GetProducerConnectionListRequest<'_> = request.header()?;
    let clients = broker.sessions.producers(header.producer_group);
    if clients.is_empty() {
        let remark = format!("the producer group[{}] not exist", header.producer_group);
        return Err(system_error(remark));
    }
    Ok(with_json(&ProducerConnection {
        connection_set: clients.iter().map(|client| info(client)).collect(),
    }))
}

/// Request 328.
pub(crate) fn all_producers(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    let groups = broker.sessions.producer_groups().into_iter();
    let data = groups.map(|group| {
        let clients = broker.sessions.producers(&group);
        let infos = clients.iter().map(|client| ProducerInfo {
            client_id: client.id.to_string(),
            language: language(client.language),
            last_update_timestamp: client.last_heartbeat_ms(),
            remote_ip: format!("/{}", client.connection.peer()),
            version: client.version,
        });
        (group.to_string(), infos.collect())
    });
    Ok(with_json(&ProducerTableInfo {
        data: data.collect(),
    }))
}

fn info(client: &Client) -> ConnectionInfo {
    ConnectionInfo {
        client_addr: client.connection.peer().to_string(),
        client_id: client.id.to_string(),
        language: language(client.language),
        version: client.version,
    }
}

fn language(number: u8) -> String {
    let name = LANGUAGES.get(usize::from(number)).copied();
    name.unwrap_or("OTHER").to_owned()
}
