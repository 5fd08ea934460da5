//! Taking a timer message back before it is due: request 370. Source: spec/semantics.md §5.2.8; Apache `RecallMessageProcessor`.

use std::sync::Arc;

use agena_protocol::command::Command;
use agena_protocol::headers::send::{RecallMessageRequest, RecallMessageResponse};
use agena_protocol::properties::{self, Properties, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_store::NewMessage;

use super::Answer;
use crate::broker::Broker;
use crate::delay::recall::{self, RecallHandle};
use crate::send::Refused;

/// Tag of the message that takes another back.
const RECALL_TAG: &str = "_RECALL_TAG_";

/// Request 370: stores a mark that is due at the same time and names the message, which is then not delivered.
pub(crate) fn recall(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    request: &Command,
) -> Answer {
    let header: RecallMessageRequest<'_> = request.header()?;
    let config = broker.config.get();
    if !config.recall_message_enable {
        let remark = "recall failed, operation is forbidden";
        return Err(Refused::new(ResponseCode::NoPermission, remark));
    }
    if broker.topics.get(header.topic).is_none() {
        let remark = format!("recall failed, the topic[{}] not exist", header.topic);
        return Err(Refused::new(ResponseCode::TopicNotExist, remark));
    }
    let handle = checked(broker, &header)?;
    store_mark(broker, connection, &header, &handle)?;
    Ok(Command::success().with_header(&RecallMessageResponse {
        msg_id: &handle.unique_key,
        msg_region: Some(&config.region_id),
    }))
}

fn checked(broker: &Broker, header: &RecallMessageRequest<'_>) -> Result<RecallHandle, Refused> {
    let illegal = |remark: &str| Refused::new(ResponseCode::IllegalOperation, remark);
    let handle =
        recall::parse(header.recall_handle).ok_or_else(|| illegal("recall handle is invalid"))?;
    if handle.topic != header.topic {
        return Err(illegal("recall failed, topic not match"));
    }
    if handle.broker_name != broker.identity.name {
        return Err(illegal("recall failed, broker service not available"));
    }
    let wait_ms = handle.deliver_ms.saturating_sub(broker.clock.now_ms());
    let longest = broker.config.get().timer_max_delay.duration();
    let longest_ms = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    if wait_ms <= 0 || wait_ms >= longest_ms {
        return Err(illegal("recall failed, timestamp invalid"));
    }
    Ok(handle)
}

fn store_mark(
    broker: &Broker,
    connection: &Connection,
    header: &RecallMessageRequest<'_>,
    handle: &RecallHandle,
) -> Result<(), Refused> {
    let now_ms = broker.clock.now_ms();
    let mut mark = PropertiesBuf::new();
    mark.set(properties::TAGS, RECALL_TAG);
    let key = recall::delete_key(&handle.topic, &handle.unique_key);
    mark.set(properties::TIMER_DEL_UNIQKEY, key);
    mark.set(properties::UNIQ_KEY, handle.unique_key.as_str());
    mark.set(properties::TIMER_DELIVER_MS, handle.deliver_ms.to_string());
    mark.set(properties::BORN_TIMESTAMP, now_ms.to_string());
    mark.set(
        properties::PGROUP,
        header.producer_group.unwrap_or_default(),
    );
    let encoded = mark.encode();
    let waits = broker.delay.on_send(
        Properties::new(&encoded),
        &handle.topic,
        QueueId::new(0),
        now_ms,
    )?;
    let waits = waits.ok_or_else(|| {
        Refused::new(
            ResponseCode::IllegalOperation,
            "recall failed, timestamp invalid",
        )
    })?;
    let unavailable = |fault: &dyn std::fmt::Display| {
        Refused::new(ResponseCode::ServiceNotAvailable, fault.to_string())
    };
    let mut batch = broker.store.batch();
    let message = NewMessage {
        topic: waits.topic,
        queue_id: waits.queue,
        flag: 0,
        sys_flag: 0,
        born_timestamp: now_ms,
        born_host: connection.peer(),
        store_host: broker.identity.advertised,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"0",
        properties: &waits.properties,
        wait_for_flush: false,
    };
    batch.push(message).map_err(|fault| unavailable(&fault))?;
    let appended = broker.store.append(&mut batch);
    appended.map(drop).map_err(|fault| unavailable(&fault))
}
