//! Requests that brokers send to their clients, each to the producer or consumer it concerns.
//!
//! Apache: `ClientRemotingProcessor`.

use std::sync::{Arc, Weak};

use agena_protocol::bodies::offsets::{GetConsumerStatusBody, ResetOffsetBody};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::properties;
use agena_protocol::record::RecordView;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::{compression, sys_flag};
use agena_remoting::client::RequestHandler;
use agena_remoting::connection::Connection;
use agena_remoting::reply::Reply;
use bytes::Bytes;

use crate::instance::{ConsumerMember, Instance, TransactionCheck};
use crate::message::{BODY_BYTES_MAX, ReceivedMessage};
use crate::request_reply;

/// Hands requests over to an instance, which it does not keep alive.
pub(crate) struct FromBroker {
    instance: Weak<Instance>,
}

impl FromBroker {
    pub(crate) fn new(instance: Weak<Instance>) -> Self {
        Self { instance }
    }
}

impl RequestHandler for FromBroker {
    fn request(&self, connection: &Arc<Connection>, request: Command) -> Option<Command> {
        let instance = self.instance.upgrade()?;
        let one_way = request.is_one_way();
        let answer = match RequestCode::from_number(request.code) {
            Some(RequestCode::NotifyConsumerIdsChanged) => {
                group_changed(&instance, &request);
                return None;
            }
            Some(RequestCode::CheckTransactionState) => {
                check_transaction(&instance, connection, request);
                return None;
            }
            Some(RequestCode::ResetConsumerClientOffset) => {
                reset_offsets(&instance, &request);
                return None;
            }
            Some(RequestCode::GetConsumerStatusFromClient) => consumer_status(&instance, &request),
            Some(RequestCode::GetConsumerRunningInfo) => running_info(&instance, &request),
            Some(RequestCode::ConsumeMessageDirectly) => {
                return consume_directly(&instance, connection, request);
            }
            Some(RequestCode::PushReplyMessageToClient) => reply_arrived(&instance, &request),
            _ => {
                let remark = format!(" request type {} not supported", request.code);
                Command::response(ResponseCode::RequestCodeNotSupported, remark)
            }
        };
        (!one_way).then_some(answer)
    }

    fn connected(&self, address: &str) {
        if let Some(instance) = self.instance.upgrade() {
            instance.connected(address);
        }
    }

    fn closed(&self, address: &str) {
        if let Some(instance) = self.instance.upgrade() {
            instance.disconnected(address);
        }
    }
}

fn field<'c>(request: &'c Command, name: &str) -> &'c str {
    request.ext.get(name).unwrap_or_default()
}

fn failure(remark: impl Into<String>) -> Command {
    Command::response(ResponseCode::SystemError, remark.into())
}

fn no_such_consumer(group: &str) -> Command {
    failure(format!(
        "The Consumer Group <{group}> not exist in this consumer"
    ))
}

fn group_changed(instance: &Instance, request: &Command) {
    let group = field(request, "consumerGroup");
    if let Some(consumer) = instance.consumer(group) {
        tracing::debug!(group, "members of the group changed");
        consumer.rebalance_soon();
    }
}

fn check_transaction(instance: &Instance, connection: &Arc<Connection>, request: Command) {
    let message = match RecordView::parse(&request.body) {
        Ok(record) => ReceivedMessage::from_record(&request.body, &record, ""),
        Err(error) => Err(error.to_string()),
    };
    let message = match message {
        Ok(message) => message,
        Err(reason) => {
            tracing::warn!(broker = %connection.peer(), %reason, "transaction check does not parse");
            return;
        }
    };
    let group = message.property(properties::PGROUP).unwrap_or_default();
    match instance.producer(group) {
        Some(producer) => producer.check_transaction(TransactionCheck {
            address: connection.peer().to_string(),
            request,
            message,
        }),
        None => tracing::debug!(group, "transaction check for a group that is not here"),
    }
}

fn reset_offsets(instance: &Instance, request: &Command) {
    let (group, topic) = (field(request, "group"), field(request, "topic"));
    let Some(consumer) = instance.consumer(group) else {
        return;
    };
    match fastjson::from_slice::<ResetOffsetBody>(&request.body) {
        Ok(body) => {
            tracing::info!(group, topic, "offsets are reset by an operator");
            let reset = consumer.reset_offsets(topic.to_owned(), body.offset_table);
            instance.tasks().spawn(reset);
        }
        Err(error) => tracing::warn!(group, topic, %error, "reset of offsets does not parse"),
    }
}

fn consumer_status(instance: &Instance, request: &Command) -> Command {
    let (group, topic) = (field(request, "group"), field(request, "topic"));
    let body = GetConsumerStatusBody {
        message_queue_table: instance
            .consumer(group)
            .map(|consumer| consumer.offsets_of(topic))
            .unwrap_or_default(),
        ..GetConsumerStatusBody::default()
    };
    Command::success().with_body(fastjson::to_vec(&body, KeyStyle::Bare))
}

fn running_info(instance: &Instance, request: &Command) -> Command {
    let group = field(request, "consumerGroup");
    match instance.consumer(group) {
        Some(consumer) => Command::success().with_body(consumer.running_info()),
        None => no_such_consumer(group),
    }
}

/// The listener may take its time: the answer follows from a task.
fn consume_directly(
    instance: &Arc<Instance>,
    connection: &Arc<Connection>,
    request: Command,
) -> Option<Command> {
    let group = field(&request, "consumerGroup");
    let Some(consumer) = instance.consumer(group) else {
        return Some(no_such_consumer(group));
    };
    let broker = field(&request, "brokerName");
    let message = match RecordView::parse(&request.body) {
        Ok(record) => ReceivedMessage::from_record(&request.body, &record, broker),
        Err(error) => Err(error.to_string()),
    };
    let message = match message {
        Ok(message) => message.with_original_topic(group),
        Err(reason) => return Some(failure(format!("the message does not parse: {reason}"))),
    };
    let connection = Arc::clone(connection);
    instance
        .tasks()
        .spawn(answer_later(consumer, message, connection, request));
    None
}

async fn answer_later(
    consumer: Arc<dyn ConsumerMember>,
    message: ReceivedMessage,
    connection: Arc<Connection>,
    request: Command,
) {
    let answer = match consumer.consume_directly(message).await {
        Some(body) => Command::success().with_body(body),
        None => failure("this consumer has no listener"),
    };
    let answer = answer.answering(request.opaque, request.serialize);
    connection.send(Reply::from_command(&answer));
}

fn reply_arrived(instance: &Instance, request: &Command) -> Command {
    let fields = properties::Properties::new(field(request, "properties").as_bytes());
    let flags = field(request, "sysFlag").parse().unwrap_or(0);
    let body = match sys_flag::compression(flags) {
        None => request.body.clone(),
        Some(Ok(codec)) => match compression::decompress(codec, &request.body, BODY_BYTES_MAX) {
            Ok(plain) => Bytes::from(plain),
            Err(error) => return failure(error.to_string()),
        },
        Some(Err(bits)) => return failure(format!("unknown compression {bits:#x}")),
    };
    let reply = request_reply::Reply {
        body,
        properties: fields
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    };
    let correlation_id = fields.get(properties::CORRELATION_ID).unwrap_or_default();
    if !instance.replies().arrived(correlation_id, reply) {
        tracing::debug!(
            correlation_id,
            "a reply came that nobody waits for any more"
        );
    }
    Command::success()
}
