//! A broker with one transaction, and all that can happen to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agena_broker::config::BrokerConfig;
use agena_broker::{Broker, RunningBroker};
use agena_protocol::bodies::heartbeat::{HeartbeatData, ProducerData};
use agena_protocol::bodies::names::KVTable;
use agena_protocol::bodies::transactions::{TransactionInfo, TransactionList};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::offsets::GetMaxOffsetRequest;
use agena_protocol::headers::query::ViewMessageByIdRequest;
use agena_protocol::headers::send::{SendMessageRequestV2, SendMessageResponse};
use agena_protocol::headers::topic::DeleteTopicInBrokerRequest;
use agena_protocol::headers::transaction::{
    EndTransactionRequest, ListTransactionsRequest, ResolveTransactionRequest,
    ResumeCheckHalfMessageRequest,
};
use agena_protocol::message_id::OffsetId;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic;
use agena_remoting::client::{Client, ClientConfig, RequestHandler};
use agena_remoting::connection::Connection;

const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const COMMIT: i32 = 8;
pub(crate) const ROLLBACK: i32 = 12;
pub(crate) const UNKNOWN: i32 = 0;
pub(crate) const ID: &str = "U1";

/// Messages in the half queue, the op queue, the real queue and the queue of parked messages.
pub(crate) type Counts = [(&'static str, i64); 4];

/// Counts the questions of the broker.
#[derive(Default)]
struct Asked(AtomicUsize);

impl RequestHandler for Asked {
    fn request(&self, _: &Arc<Connection>, request: Command) -> Option<Command> {
        if request.code == RequestCode::CheckTransactionState.number() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        None
    }
}

/// Where a half is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) half: i64,
    pub(crate) physical: i64,
}

pub(crate) struct HalfBroker {
    broker: RunningBroker,
    client: Client,
    asked: Arc<Asked>,
    address: String,
}

/// Settings under which nothing happens by itself.
pub(crate) fn quiet(directory: &Path) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.store_path_root_dir = directory.display().to_string();
    config.bind_address = "127.0.0.1".to_owned();
    config.broker_ip1 = "127.0.0.1".to_owned();
    config.listen_port = 0;
    config.mapped_file_size_commit_log = 1 << 20;
    config.max_hash_slot_num = 500;
    config.max_index_num = 2_000;
    config.transaction_time_out = Duration::from_secs(3_600);
    config
}

/// The same, but halves are due at once and a thousandth of a second after each look.
pub(crate) fn eager(directory: &Path) -> BrokerConfig {
    let mut config = quiet(directory);
    config.transaction_time_out = Duration::ZERO;
    config.transaction_check_interval = Duration::from_millis(50);
    config
}

impl HalfBroker {
    pub(crate) async fn start(config: BrokerConfig) -> Self {
        let broker = Broker::start(config).await.unwrap();
        let asked = Arc::new(Asked::default());
        Self {
            address: broker.addr().to_string(),
            client: Client::new(ClientConfig::default(), asked.clone()),
            broker,
            asked,
        }
    }

    pub(crate) async fn stop(self) {
        self.client.shutdown().await;
        self.broker.shutdown().await.unwrap();
    }

    pub(crate) async fn call(&self, command: Command) -> Command {
        let answer = self.client.call(&self.address, command, TIMEOUT).await;
        answer.unwrap()
    }

    /// Sends the half message.
    pub(crate) async fn try_prepare(&self, body: &[u8]) -> Command {
        self.try_prepare_with(&[], body).await
    }

    /// The same with more properties.
    pub(crate) async fn try_prepare_with(&self, more: &[(&str, &str)], body: &[u8]) -> Command {
        let pairs = [("TRAN_MSG", "true"), ("PGROUP", "PG"), ("UNIQ_KEY", ID)];
        let text: String = pairs
            .iter()
            .filter(|(name, _)| more.iter().all(|(other, _)| other != name))
            .chain(more)
            .map(|(name, value)| format!("{name}\u{1}{value}\u{2}"))
            .collect();
        self.send("T", &text, body).await
    }

    /// Sends an ordinary message to another topic.
    pub(crate) async fn send_elsewhere(&self, body: &[u8]) -> Command {
        self.send("Elsewhere", "", body).await
    }

    /// The record at a place.
    pub(crate) async fn record_bytes(&self, place: Place) -> Vec<u8> {
        let view = ViewMessageByIdRequest {
            offset: place.physical,
            ..ViewMessageByIdRequest::default()
        };
        let request = Command::request(RequestCode::ViewMessageById).with_header(&view);
        self.call(request).await.body.to_vec()
    }

    async fn send(&self, topic: &str, properties: &str, body: &[u8]) -> Command {
        let header = SendMessageRequestV2 {
            producer_group: "PG",
            topic,
            default_topic: "TBW102",
            default_topic_queue_nums: 1,
            queue_id: 0,
            properties: Some(properties),
            ..SendMessageRequestV2::default()
        };
        let request = Command::request(RequestCode::SendMessageV2)
            .with_header(&header)
            .with_body(body.to_vec());
        self.call(request).await
    }

    pub(crate) async fn prepare(&self, body: &[u8]) -> Place {
        place_of(&self.try_prepare(body).await)
    }

    pub(crate) async fn end(&self, place: Place, what: i32) -> Command {
        self.end_as("PG", place, what).await
    }

    /// The producer was asked, and answers.
    pub(crate) async fn answer(&self, place: Place, what: i32) -> Command {
        let header = EndTransactionRequest {
            from_transaction_check: Some(true),
            ..Self::ending("PG", place, what)
        };
        self.call(Command::request(RequestCode::EndTransaction).with_header(&header))
            .await
    }

    fn ending(group: &str, place: Place, what: i32) -> EndTransactionRequest<'_> {
        EndTransactionRequest {
            producer_group: group,
            tran_state_table_offset: place.half,
            commit_log_offset: place.physical,
            commit_or_rollback: what,
            msg_id: ID,
            ..EndTransactionRequest::default()
        }
    }

    pub(crate) async fn end_as(&self, group: &str, place: Place, what: i32) -> Command {
        let header = Self::ending(group, place, what);
        let request = Command::request(RequestCode::EndTransaction).with_header(&header);
        if what == UNKNOWN {
            // Nobody is answered.
            self.client.one_way(&self.address, request).await.unwrap();
            return Command::success();
        }
        self.call(request).await
    }

    pub(crate) async fn decide(&self, what: i32) -> Command {
        let header = ResolveTransactionRequest {
            id: ID,
            commit_or_rollback: what,
        };
        self.call(Command::request(RequestCode::ResolveTransaction).with_header(&header))
            .await
    }

    pub(crate) async fn resume(&self) -> Command {
        let header = ResumeCheckHalfMessageRequest {
            topic: None,
            msg_id: ID,
        };
        self.call(Command::request(RequestCode::ResumeCheckHalfMessage).with_header(&header))
            .await
    }

    pub(crate) async fn delete_topic(&self, topic: &str) {
        let header = DeleteTopicInBrokerRequest { topic };
        let request = Command::request(RequestCode::DeleteTopicInBroker).with_header(&header);
        assert_eq!(self.call(request).await.code, 0);
    }

    /// Log files go that retention has go.
    pub(crate) async fn clean_log(&self) {
        let request = Command::request(RequestCode::DeleteExpiredCommitlog);
        assert_eq!(self.call(request).await.code, 0);
    }

    /// A producer of the group connects.
    pub(crate) async fn connect_producer(&self) {
        assert_eq!(self.call(heartbeat()).await.code, 0);
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn wait_for(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "no {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Questions that have come.
    pub(crate) fn questions(&self) -> usize {
        self.asked.0.load(Ordering::SeqCst)
    }

    pub(crate) async fn counts(&self) -> Counts {
        let mut counts = [("half", 0), ("parked", 0), ("real", 0), ("op", 0)];
        let topics = [
            topic::TRANS_HALF,
            topic::TRANS_CHECK_MAX_TIME,
            "T",
            topic::TRANS_OP_HALF,
        ];
        for ((_, count), topic) in counts.iter_mut().zip(topics) {
            let header = GetMaxOffsetRequest {
                topic,
                queue_id: 0,
                ..GetMaxOffsetRequest::default()
            };
            let request = Command::request(RequestCode::GetMaxOffset).with_header(&header);
            let answer = self.call(request).await;
            *count = answer.ext.parsed("offset").unwrap().unwrap_or(0);
        }
        counts
    }

    pub(crate) async fn list(&self, state: &str) -> Vec<TransactionInfo> {
        let header = ListTransactionsRequest {
            state: Some(state),
            ..ListTransactionsRequest::default()
        };
        let request = Command::request(RequestCode::ListTransactions).with_header(&header);
        let answer = self.call(request).await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        let list: TransactionList = fastjson::from_slice(&answer.body).unwrap();
        list.transactions
    }

    /// How many are pending; a list has a part of them only.
    pub(crate) async fn count_pending(&self) -> usize {
        let request = Command::request(RequestCode::GetBrokerRuntimeInfo);
        let answer = self.call(request).await;
        let table: KVTable = fastjson::from_slice(&answer.body).unwrap();
        table.table["transactionsPending"].parse().unwrap()
    }

    /// Where the pending halves are in their queue.
    pub(crate) async fn pending_offsets(&self) -> Vec<i64> {
        let pending = self.list("pending").await;
        pending.iter().map(|one| one.queue_offset).collect()
    }

    /// The state in the page's words.
    pub(crate) async fn state(&self) -> &'static str {
        let pending = self.list("pending").await;
        let parked = self.list("parked").await;
        let counts = self.counts().await;
        let is_parked = parked.iter().any(|info| info.state == "parked");
        match (pending.first(), counts) {
            (Some(info), _) if info.checks > 0 => "pending, asked",
            (Some(_), _) => "pending",
            (None, _) if is_parked => "parked",
            (None, [_, _, (_, 1..), _]) => "committed",
            (None, [(_, 0), ..]) => "none",
            (None, _) => "rolled back",
        }
    }

    pub(crate) async fn wait_for_state(&self, state: &str) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let now = self.state().await;
            if now == state {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{now} and not {state}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until the pending transaction was looked at: its next check has moved on.
    pub(crate) async fn wait_for_look(&self) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let next = async || self.list("pending").await[0].next_check_timestamp;
        let first = next().await;
        while next().await <= first {
            assert!(tokio::time::Instant::now() < deadline, "never looked at");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn wait_for_questions(&self, count: usize) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while self.questions() < count {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} questions and not {count}",
                self.questions()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A producer of the group says that it is there.
pub(crate) fn heartbeat() -> Command {
    let body = HeartbeatData {
        client_id: "127.0.0.1@test".to_owned(),
        producer_data_set: vec![ProducerData {
            group_name: "PG".to_owned(),
        }],
        ..HeartbeatData::default()
    };
    let body = fastjson::to_vec(&body, KeyStyle::Bare);
    Command::request(RequestCode::HeartBeat).with_body(body)
}

pub(crate) fn place_of(answer: &Command) -> Place {
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
    let header: SendMessageResponse<'_> = answer.header().unwrap();
    let physical: PhysicalOffset = OffsetId::parse(header.msg_id).unwrap().offset;
    Place {
        half: header.queue_offset,
        physical: physical.wire(),
    }
}
