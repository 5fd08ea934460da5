//! Requests as clients send them.

use std::sync::Arc;
use std::time::Duration;

use agena_broker::config::BrokerConfig;
use agena_broker::{Broker, RunningBroker};
use agena_protocol::bodies::heartbeat::{ConsumerData, HeartbeatData};
use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::frame::SerializeType;
use agena_protocol::headers::pull::{PULL_SUBSCRIPTION, PullMessageRequest, PullMessageResponse};
use agena_protocol::headers::send::{SendMessageRequestV2, SendMessageResponse};
use agena_protocol::record::records;
use agena_protocol::request_code::RequestCode;
use agena_remoting::client::{Client, ClientConfig, NoRequests};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// A broker of its own and a client of it.
pub(crate) struct Asked {
    pub(crate) broker: RunningBroker,
    pub(crate) client: Client,
    pub(crate) address: String,
}

/// A message's properties as producers write them.
pub(crate) fn properties(pairs: &[(&str, &str)]) -> String {
    pairs
        .iter()
        .map(|(name, value)| format!("{name}\u{1}{value}\u{2}"))
        .collect()
}

impl Asked {
    pub(crate) async fn start(config: BrokerConfig) -> Self {
        let broker = Broker::temp_with(config).await.unwrap();
        Self::to(broker)
    }

    pub(crate) fn to(broker: RunningBroker) -> Self {
        let address = broker.addr().to_string();
        let client = Client::new(ClientConfig::default(), Arc::new(NoRequests));
        Self {
            broker,
            client,
            address,
        }
    }

    pub(crate) async fn call(&self, command: Command) -> Command {
        self.client
            .call(&self.address, command, TIMEOUT)
            .await
            .unwrap()
    }

    pub(crate) async fn send(&self, topic: &str, queue: i32, text: &str, body: &[u8]) -> Command {
        self.call(message(topic, queue, text, body)).await
    }

    /// Sends what must be taken, and says where it went.
    pub(crate) async fn stored(&self, topic: &str, queue: i32, text: &str, body: &[u8]) -> i64 {
        let answer = self.send(topic, queue, text, body).await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        answer
            .header::<SendMessageResponse<'_>>()
            .unwrap()
            .queue_offset
    }

    pub(crate) async fn pull(&self, request: &PullMessageRequest<'_>) -> Pulled {
        let command = Command::request(RequestCode::PullMessage).with_header(request);
        Pulled::of(&self.call(command).await)
    }

    /// Joins a group that subscribes `topic`.
    pub(crate) async fn join(&self, group: &str, topic: &str, expression: &str) {
        let answer = self.call(heartbeat(group, topic, expression)).await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
    }
}

pub(crate) fn heartbeat(group: &str, topic: &str, expression: &str) -> Command {
    let mut data = SubscriptionData::by_tags(topic, expression).unwrap();
    data.sub_version = 1;
    let body = HeartbeatData {
        client_id: "127.0.0.1@test".to_owned(),
        consumer_data_set: vec![ConsumerData {
            group_name: group.to_owned(),
            subscription_data_set: vec![data],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    Command::request(RequestCode::HeartBeat).with_body(fastjson::to_vec(&body, KeyStyle::Bare))
}

pub(crate) fn message(topic: &str, queue: i32, text: &str, body: &[u8]) -> Command {
    let header = SendMessageRequestV2 {
        producer_group: "PG",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: queue,
        born_timestamp: 1_700_000_000_000,
        properties: Some(text),
        ..SendMessageRequestV2::default()
    };
    Command::request(RequestCode::SendMessageV2)
        .with_header(&header)
        .with_body(body.to_vec())
}

/// A pull of everything from `offset` on that does not wait.
pub(crate) fn pull_of<'e>(topic: &'e str, queue: i32, offset: i64) -> PullMessageRequest<'e> {
    PullMessageRequest {
        consumer_group: "CG",
        topic,
        queue_id: queue,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: PULL_SUBSCRIPTION,
        subscription: Some("*"),
        ..PullMessageRequest::default()
    }
}

/// An answer to a pull.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) code: i32,
    pub(crate) remark: String,
    pub(crate) next: i64,
    pub(crate) bounds: (i64, i64),
    pub(crate) forbidden_type: Option<i32>,
    pub(crate) bodies: Vec<String>,
    pub(crate) properties: Vec<String>,
}

impl Pulled {
    pub(crate) fn of(answer: &Command) -> Self {
        let header = answer.header::<PullMessageResponse>().ok();
        let records: Vec<_> = records(&answer.body).map(Result::unwrap).collect();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            code: answer.code,
            remark: answer.remark.clone().unwrap_or_default(),
            next: header
                .as_ref()
                .map_or(-1, |header| header.next_begin_offset),
            bounds: header
                .as_ref()
                .map_or((-1, -1), |header| (header.min_offset, header.max_offset)),
            forbidden_type: answer.ext.parsed("forbiddenType").unwrap(),
            bodies: records.iter().map(|record| text(record.body())).collect(),
            properties: records
                .iter()
                .map(|record| text(record.properties().encoded()))
                .collect(),
        }
    }
}

/// The same request in the other header form.
pub(crate) fn in_binary(mut command: Command) -> Command {
    command.serialize = SerializeType::Rocketmq;
    command
}
