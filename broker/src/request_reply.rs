//! Replies to a producer that waits for one: pushed to its connection, and kept if the broker shall.
//!
//! A consumer sends its reply (324, 325) to the reply topic of the cluster; the properties name the client that asked. The broker hands
//! the reply to that client (326) and answers the consumer when the client has taken it. Source: spec/semantics.md §3.6,
//! spec/wire.md §4.3.2; Apache `ReplyMessageProcessor`.

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::headers::Header;
use agena_protocol::headers::send::{
    MessageRegion, PushReplyMessageToClientRequest, SendMessageRequest, SendMessageResponse,
};
use agena_protocol::message_id::OffsetId;
use agena_protocol::properties::{self, Properties, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;
use agena_remoting::reply::ReplyTo;
use agena_store::{NewMessage, Placed};

use crate::broker::Broker;
use crate::send::Refused;

/// How long the waiting client has to take the reply.
const PUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests 324 and 325: answers through `reply_to` once the waiting client has answered.
pub(crate) fn reply(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    request: Command,
    reply_to: ReplyTo,
) {
    let broker = Arc::clone(broker);
    let connection = Arc::clone(connection);
    let runtime = broker.runtime.clone();
    runtime.spawn(async move {
        let answer = take(&broker, &connection, &request).await;
        let config = broker.config.get();
        let region = MessageRegion {
            msg_region: Some(&config.region_id),
            trace_on: Some(config.trace_on),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(refused) => Command::response(refused.code, refused.remark),
        };
        region.write(&mut answer.ext);
        drop(config);
        reply_to.send(answer);
    });
}

async fn take(
    broker: &Broker,
    connection: &Connection,
    request: &Command,
) -> Result<Command, Refused> {
    let code = RequestCode::from_number(request.code).unwrap_or(RequestCode::SendReplyMessageV2);
    let header = SendMessageRequest::read(code, &request.ext)?;
    let queue = checked_queue(broker, &header)?;
    let pushed = push(broker, connection, request, &header).await;
    // A push that failed is no reason not to keep the reply: the original keeps it as well.
    let placed = if broker.config.get().store_reply_message_enable {
        store(broker, connection, request, &header, queue)
    } else {
        None
    };
    let id = placed.map(|placed| {
        let id = OffsetId {
            store_host: broker.identity.advertised,
            offset: placed.physical_offset,
        };
        id.to_string()
    });
    let success = SendMessageResponse {
        msg_id: id.as_deref().unwrap_or("0"),
        queue_id: queue.wire(),
        queue_offset: placed.map_or(0, |placed| placed.queue_offset.wire()),
        transaction_id: Properties::new(header.properties.unwrap_or_default().as_bytes())
            .get(properties::UNIQ_KEY),
        ..SendMessageResponse::default()
    };
    let answer = match pushed {
        Ok(()) => Command::success(),
        Err(remark) => Command::response(ResponseCode::SystemError, remark),
    };
    Ok(answer.with_header(&success))
}

fn checked_queue(broker: &Broker, header: &SendMessageRequest<'_>) -> Result<QueueId, Refused> {
    let name = header.topic;
    topic::check(name)
        .map_err(|fault| Refused::new(ResponseCode::InvalidParameter, fault.to_string()))?;
    let unit_mode = header.unit_mode == Some(true);
    let queues = header.default_topic_queue_nums;
    let created = broker
        .topics
        .create_on_send(name, header.default_topic, queues, unit_mode);
    let config = created.ok_or_else(|| {
        let remark = format!("topic[{name}] not exist, apply first please!");
        Refused::new(ResponseCode::TopicNotExist, remark)
    })?;
    if header.queue_id >= config.write_queue_nums.max(config.read_queue_nums) {
        let remark = format!("request queueId[{}] is illegal, {config}", header.queue_id);
        return Err(Refused::new(ResponseCode::InvalidParameter, remark));
    }
    let asked = QueueId::from_wire(header.queue_id);
    Ok(asked.unwrap_or_else(|| broker.next_queue(config.write_queue_nums)))
}

/// Hands the reply to the client that waits for it; the error is the remark of the answer.
async fn push(
    broker: &Broker,
    connection: &Connection,
    request: &Command,
    header: &SendMessageRequest<'_>,
) -> Result<(), String> {
    let mut pushed = PropertiesBuf::parse(header.properties.unwrap_or_default().as_bytes());
    let Some(client_id) = pushed.get(properties::REPLY_TO_CLIENT).map(str::to_owned) else {
        return Err("reply message properties[REPLY_TO_CLIENT] is null".into());
    };
    let Some(client) = broker.sessions.client(&client_id) else {
        return Err(format!(
            "push reply message fail, channel of <{client_id}> not found."
        ));
    };
    let now_ms = broker.clock.now_ms();
    pushed.set(properties::PUSH_REPLY_TIME, now_ms.to_string());
    let encoded = pushed.encode();
    let call = Command::request(RequestCode::PushReplyMessageToClient)
        .with_header(&PushReplyMessageToClientRequest {
            producer_group: header.producer_group,
            topic: header.topic,
            default_topic: Some(header.default_topic),
            default_topic_queue_nums: Some(header.default_topic_queue_nums),
            queue_id: header.queue_id,
            sys_flag: header.sys_flag,
            born_timestamp: header.born_timestamp,
            flag: header.flag,
            properties: Some(&String::from_utf8_lossy(&encoded)),
            reconsume_times: header.reconsume_times,
            unit_mode: header.unit_mode,
            born_host: &connection.peer().to_string(),
            store_host: &broker.identity.advertised.to_string(),
            store_timestamp: now_ms,
        })
        .with_body(request.body.clone());
    match client.connection.call(call, PUSH_TIMEOUT).await {
        Ok(answer) if answer.is_success() => Ok(()),
        Ok(_) | Err(_) => Err(format!("push reply message to {client_id}fail.")),
    }
}

fn store(
    broker: &Broker,
    connection: &Connection,
    request: &Command,
    header: &SendMessageRequest<'_>,
    queue_id: QueueId,
) -> Option<Placed> {
    let mut batch = broker.store.batch();
    let message = NewMessage {
        topic: header.topic,
        queue_id,
        flag: header.flag,
        sys_flag: header.sys_flag,
        born_timestamp: header.born_timestamp,
        born_host: connection.peer(),
        store_host: broker.identity.advertised,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_transaction_offset: 0,
        body: &request.body,
        properties: header.properties.unwrap_or_default().as_bytes(),
        wait_for_flush: false,
    };
    if let Err(illegal) = batch.push(message) {
        tracing::warn!(topic = header.topic, %illegal, "a reply is not stored");
        return None;
    }
    match broker.store.append(&mut batch) {
        Ok(appended) => appended.placed.first().copied(),
        Err(fault) => {
            tracing::warn!(topic = header.topic, %fault, "a reply is not stored");
            None
        }
    }
}
