//! What only a client can answer: requests 223, 307 and 309, handed on to it.
//!
//! These wait for the client on the runtime, not on a thread of the pool. Source: spec/wire.md §4.6.4, §4.6.5, §4.6.10; Apache
//! `AdminBrokerProcessor.callConsumer`, `Broker2Client.getConsumeStatus`.

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::offsets::GetConsumerStatusBody;
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::headers::admin::{
    ConsumeMessageDirectlyRequest, GetConsumerRunningInfoRequest,
    GetConsumerStatusFromClientRequest, InvokeBrokerToGetConsumerStatusRequest,
};
use agena_protocol::message_id::OffsetId;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::error::CallError;
use agena_remoting::reply::ReplyTo;
use bytes::Bytes;

use super::{Answer, system_error, with_json};
use crate::broker::Broker;
use crate::send::Refused;
use crate::sessions::Client;

/// How long a client has to answer for itself, and how long to say where it is.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients of older versions do not know the question.
const VERSION_3_1_8_SNAPSHOT: i32 = 52;

/// Has `request` answered by a client, or by several, through `reply_to`.
pub(crate) fn relay(broker: &Arc<Broker>, request: Command, reply_to: ReplyTo) {
    let broker = Arc::clone(broker);
    let runtime = broker.runtime.clone();
    runtime.spawn(async move {
        let answer = match RequestCode::from_number(request.code) {
            Some(RequestCode::GetConsumerRunningInfo) => running_info(&broker, &request).await,
            Some(RequestCode::ConsumeMessageDirectly) => consume_directly(&broker, &request).await,
            _ => consumer_status(&broker, &request).await,
        };
        reply_to
            .send(answer.unwrap_or_else(|refused| Command::response(refused.code, refused.remark)));
    });
}

/// Request 307: what a consumer says of itself.
async fn running_info(broker: &Broker, request: &Command) -> Answer {
    let header: GetConsumerRunningInfoRequest<'_> = request.header()?;
    let client = online(broker, header.consumer_group, header.client_id)?;
    if client.version < VERSION_3_1_8_SNAPSHOT {
        let remark = format!(
            "The Consumer <{}> Version too low to finish, please upgrade it",
            header.client_id
        );
        return Err(system_error(remark));
    }
    let mut call = Command::request(RequestCode::GetConsumerRunningInfo);
    call.ext = request.ext.clone();
    call.body = request.body.clone();
    hand_on(&client, header.consumer_group, call).await
}

/// Request 309: one message of the log, consumed by a certain client now.
async fn consume_directly(broker: &Broker, request: &Command) -> Answer {
    let header: ConsumeMessageDirectlyRequest<'_> = request.header()?;
    let group = header.consumer_group;
    let client = online(broker, group, header.client_id.unwrap_or_default())?;
    let message_id = header.msg_id.unwrap_or_default();
    let gone = || system_error(format!("can not find message by the offset, {message_id}"));
    let place = OffsetId::parse(message_id).ok_or_else(gone)?.offset;
    let record = broker.store.record_at(place).ok_or_else(gone)?;
    let mut call = Command::request(RequestCode::ConsumeMessageDirectly)
        .with_body(Bytes::copy_from_slice(&record));
    call.ext = request.ext.clone();
    call = call.with_ext("brokerName", &broker.identity.name);
    if let Some(config) = header.topic.and_then(|topic| broker.topics.get(topic)) {
        call = call.with_ext("topicSysFlag", config.topic_sys_flag);
    }
    if let Some(config) = broker.groups.get(group) {
        call = call.with_ext("groupSysFlag", config.group_sys_flag);
    }
    hand_on(&client, group, call).await
}

/// Request 223: where the clients of a group are, each by its own account (221).
async fn consumer_status(broker: &Broker, request: &Command) -> Answer {
    let header: InvokeBrokerToGetConsumerStatusRequest<'_> = request.header()?;
    let (topic, group) = (header.topic, header.group);
    let online = broker.sessions.consumer_group(group).ok_or_else(|| {
        system_error(format!(
            "No Any Consumer online in the consumer group: [{group}]"
        ))
    })?;
    let wanted = header.client_addr.filter(|id| !id.trim().is_empty());
    let mut status = GetConsumerStatusBody::default();
    for member in &online.members {
        let client = &member.client;
        if wanted.is_some_and(|wanted| *wanted != *client.id) {
            continue;
        }
        let call = Command::request(RequestCode::GetConsumerStatusFromClient)
            .with_header(&GetConsumerStatusFromClientRequest { topic, group });
        let answer = match client.connection.call(call, STATUS_TIMEOUT).await {
            Ok(answer) if answer.is_success() => answer,
            Ok(answer) => {
                tracing::warn!(client = %client.id, code = answer.code, "does not say where it is");
                continue;
            }
            Err(fault) => {
                tracing::warn!(client = %client.id, %fault, "does not say where it is");
                continue;
            }
        };
        let own: GetConsumerStatusBody = fastjson::from_slice(&answer.body)?;
        status
            .consumer_table
            .insert(client.id.to_string(), own.message_queue_table);
    }
    Ok(with_json(&status))
}

fn online(broker: &Broker, group: &str, client_id: &str) -> Result<Arc<Client>, Refused> {
    let client = broker.sessions.consumer(group, client_id);
    client.ok_or_else(|| system_error(format!("The Consumer <{group}> <{client_id}> not online")))
}

/// The client's answer, as it is.
async fn hand_on(client: &Client, group: &str, call: Command) -> Answer {
    match client.connection.call(call, CALL_TIMEOUT).await {
        Ok(answer) => Ok(answer),
        Err(CallError::Timeout { .. }) => {
            let remark = format!("consumer <{group}> <{}> Timeout: 10000ms", client.id);
            Err(Refused::new(ResponseCode::ConsumeMsgTimeout, remark))
        }
        Err(fault) => Err(system_error(format!(
            "invoke consumer <{group}> <{}> Exception: {fault}",
            client.id
        ))),
    }
}
