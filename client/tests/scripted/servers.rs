//! Servers that answer the boring requests by themselves and the others as told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_protocol::bodies::heartbeat::HeartbeatData;
use agena_protocol::bodies::names::GetConsumerListByGroupResponseBody;
use agena_protocol::bodies::queue_locks::{LockBatchRequestBody, LockBatchResponseBody};
use agena_protocol::bodies::route::{BrokerData, QueueData, TopicRouteData};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::frame::Frame;
use agena_protocol::headers::pull::PullMessageResponse;
use agena_protocol::headers::send::SendMessageResponse;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordEncoder, RecordFields};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::Replies;
use agena_remoting::server::{Server, ServerConfig, Service};
use parking_lot::Mutex;

/// What a test tells a server to do with a request.
pub(crate) enum Told {
    /// This is the answer.
    Answer(Box<Command>),
    /// No answer at all.
    Silence,
    /// Whatever a server in good health would answer.
    Usual,
}

impl From<Command> for Told {
    fn from(answer: Command) -> Self {
        Self::Answer(Box::new(answer))
    }
}

type Script = Box<dyn Fn(&Command) -> Told + Send + Sync>;

/// A server that plays by a script and remembers what it was asked.
pub(crate) struct Scripted {
    pub(crate) address: String,
    server: Option<Server>,
    play: Arc<Play>,
}

struct Play {
    script: Script,
    seen: Mutex<Vec<Command>>,
    clients: Mutex<Vec<String>>,
    opened: Mutex<Vec<Arc<Connection>>>,
}

impl Service for Play {
    fn opened(&self, connection: &Arc<Connection>) {
        self.opened.lock().push(Arc::clone(connection));
    }

    fn requests(&self, _: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        for frame in frames {
            let request = frame.to_command();
            let answer = match (self.script)(&request) {
                Told::Answer(answer) => Some(*answer),
                Told::Silence => None,
                Told::Usual => self.usual(&request),
            };
            self.seen.lock().push(request);
            if let Some(answer) = answer {
                replies.push_command(frame, answer);
            }
        }
    }
}

impl Play {
    /// A broker with empty queues that grants every lock.
    fn usual(&self, request: &Command) -> Option<Command> {
        let success = Command::success();
        Some(match RequestCode::from_number(request.code)? {
            RequestCode::HeartBeat => {
                let data: HeartbeatData = fastjson::from_slice(&request.body).unwrap();
                *self.clients.lock() = vec![data.client_id];
                success
            }
            RequestCode::GetConsumerListByGroup => {
                let consumer_id_list = self.clients.lock().clone();
                let body = GetConsumerListByGroupResponseBody { consumer_id_list };
                success.with_body(fastjson::to_vec(&body, KeyStyle::Quoted))
            }
            RequestCode::SendMessageV2 | RequestCode::SendBatchMessage => stored(0),
            RequestCode::QueryConsumerOffset
            | RequestCode::GetMaxOffset
            | RequestCode::GetMinOffset => success.with_ext("offset", 0),
            // Held for as long as any test takes.
            RequestCode::PullMessage => return None,
            RequestCode::LockBatchMq => {
                let asked: LockBatchRequestBody = fastjson::from_slice(&request.body).unwrap();
                let body = LockBatchResponseBody {
                    lock_ok_mq_set: asked.mq_set,
                };
                success.with_body(fastjson::to_vec(&body, KeyStyle::Quoted))
            }
            _ => success,
        })
    }
}

impl Scripted {
    pub(crate) async fn start(script: impl Fn(&Command) -> Told + Send + Sync + 'static) -> Self {
        let play = Arc::new(Play {
            script: Box::new(script),
            seen: Mutex::default(),
            clients: Mutex::default(),
            opened: Mutex::default(),
        });
        let service: Arc<dyn Service> = Arc::clone(&play) as _;
        let server = Server::bind(ServerConfig::default(), service)
            .await
            .unwrap();
        Self {
            address: server.local_addr().to_string(),
            server: Some(server),
            play,
        }
    }

    /// A broker in good health.
    pub(crate) async fn usual() -> Self {
        Self::start(|_| Told::Usual).await
    }

    /// A name server that knows one topic on these brokers, with so many queues on each.
    pub(crate) async fn name_server(topic: &str, brokers: &[(&str, &str)], queues: i32) -> Self {
        Self::name_server_of(&[topic], brokers, queues).await
    }

    /// A name server that knows these topics.
    pub(crate) async fn name_server_of(
        topics: &[&str],
        brokers: &[(&str, &str)],
        queues: i32,
    ) -> Self {
        let topics: Vec<_> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let route = TopicRouteData {
            broker_datas: brokers
                .iter()
                .map(|(name, address)| BrokerData {
                    cluster: "c".into(),
                    broker_name: (*name).into(),
                    broker_addrs: BTreeMap::from([(0, (*address).to_owned())]),
                    ..BrokerData::default()
                })
                .collect(),
            queue_datas: brokers
                .iter()
                .map(|(name, _)| QueueData {
                    broker_name: (*name).into(),
                    read_queue_nums: queues,
                    write_queue_nums: queues,
                    perm: 6,
                    ..QueueData::default()
                })
                .collect(),
            ..TopicRouteData::default()
        };
        Self::start(move |request| {
            let asked = request.ext.get("topic").unwrap_or_default();
            let known = topics.iter().any(|topic| topic == asked);
            let answer = if known {
                Command::success().with_body(route.encode(KeyStyle::Quoted))
            } else {
                refusal(ResponseCode::TopicNotExist)
            };
            answer.into()
        })
        .await
    }

    /// Requests with this code so far.
    pub(crate) fn asked(&self, code: RequestCode) -> Vec<Command> {
        let seen = self.play.seen.lock();
        let of_code = seen.iter().filter(|it| it.code == code.number());
        of_code.cloned().collect()
    }

    /// Sends a request to everyone who is connected.
    pub(crate) fn tell(&self, request: &Command) {
        for connection in self.play.opened.lock().iter() {
            let _ = connection.one_way(request);
        }
    }

    pub(crate) async fn stop(mut self) {
        let server = self.server.take().unwrap();
        server.shutdown(Duration::ZERO).await;
    }
}

/// A property of the message in a request to send.
pub(crate) fn property(send: &Command, name: &str) -> Option<String> {
    let properties = send.ext.get("i").unwrap_or_default();
    let properties = agena_protocol::properties::Properties::new(properties.as_bytes());
    properties.get(name).map(str::to_owned)
}

/// The body of a request as text.
pub(crate) fn body(request: &Command) -> String {
    String::from_utf8_lossy(&request.body).into_owned()
}

pub(crate) fn refusal(code: ResponseCode) -> Command {
    Command::response(code, "as told".to_owned())
}

/// The answer to a send.
pub(crate) fn stored(queue_offset: i64) -> Command {
    Command::success().with_header(&SendMessageResponse {
        msg_id: "7F00000100002A9F0000000000000000",
        queue_id: 0,
        queue_offset,
        ..SendMessageResponse::default()
    })
}

/// An answer to a pull, without messages.
pub(crate) fn pulled(code: ResponseCode, next: i64) -> Command {
    Command::response(code, None).with_header(&PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: next,
        min_offset: 0,
        max_offset: next,
        ..PullMessageResponse::default()
    })
}

/// One message as a pull gives it.
pub(crate) fn record(topic: &str, queue_offset: i64, body: &str) -> Vec<u8> {
    let host = SocketAddr::from(([127, 0, 0, 1], 10911));
    let fields = RecordFields {
        topic,
        queue_id: QueueId::new(0),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: body.as_bytes(),
        properties: b"",
    };
    let mut encoder = RecordEncoder::new(fields, false).unwrap();
    let mut bytes = vec![0; encoder.total_bytes()];
    let place = u64::try_from(queue_offset).unwrap();
    encoder.write(
        &mut bytes,
        QueueOffset::new(place),
        PhysicalOffset::new(place * 1000),
        2,
    );
    bytes
}

/// Waits until it is so.
pub(crate) async fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
