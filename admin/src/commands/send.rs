//! Sending: a message by hand, and how long brokers take to answer.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use agena_protocol::command::Command;
use agena_protocol::message_id::UniqueIds;
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::message::Message;
use crate::pull::Queue;
use crate::remote::{self, TIMEOUT};
use crate::table::{Table, left, rest};

use super::cluster::now_millis;

/// The producer group of this tool; brokers want one.
const GROUP: &str = "AGENA_MQADMIN";

pub(crate) const SEND_MESSAGE: SubCommand = SubCommand {
    name: "sendMessage",
    about: "Send a message.",
    options: &[
        value('t', "topic", "Topic name").required(),
        value('p', "body", "UTF-8 string format of the message body").required(),
        value('k', "key", "Message keys"),
        value('c', "tags", "Message tags"),
        value('b', "broker", "Send message to target broker"),
        value('i', "qid", "Send message to target queue"),
        value(
            'm',
            "msgTraceEnable",
            "Message Trace Enable, Default: false",
        ),
    ],
    examples: &[
        example(
            "-t Orders -p 'hello' -k order-4711 -c paid",
            "to any queue that can be written",
        ),
        example(
            "-t Orders -p 'hello' -b broker-a -i 1",
            "to queue 1 of broker-a",
        ),
    ],
    json: r#"{"brokerName","queueId","status":"SEND_OK","msgId","offsetMsgId","queueOffset","milliseconds"}"#,
    run: send_message,
};

/// How a send ended.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    broker_name: String,
    queue_id: i32,
    status: &'static str,
    msg_id: String,
    offset_msg_id: String,
    queue_offset: i64,
    milliseconds: u128,
    #[serde(skip)]
    topic: String,
}

const SENT: Table = Table(&[
    left("#Broker Name", 32),
    left("#QID", 4),
    left("#Send Result", 20),
    rest("#MsgId").gap(4),
]);

impl Display for Sent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        SENT.head(f)?;
        SENT.row(
            f,
            &[
                &self.broker_name,
                &self.queue_id,
                &self.status,
                &self.msg_id,
            ],
        )
    }
}

/// What is sent.
struct Outgoing<'a> {
    body: &'a [u8],
    keys: Option<&'a str>,
    tags: Option<&'a str>,
}

fn send_message(call: &mut Call) -> Result<(), Failure> {
    if call.options.truth("msgTraceEnable")?.unwrap_or(false) {
        return Err(Failure::Input(
            "message traces are not written by this tool: leave -m away".to_owned(),
        ));
    }
    let options = &call.options;
    let topic = options.required("topic")?;
    let message = Outgoing {
        body: options.required("body")?.as_bytes(),
        keys: options.get("key"),
        tags: options.get("tags"),
    };
    let queue_id: Option<i32> = options.number("qid")?;
    let broker = options.get("broker");
    if queue_id.is_some() && broker.is_none() {
        return Err(Failure::Input(
            "Broker name must be set if the queue is chosen!".to_owned(),
        ));
    }
    let queues = writable_queues(call, topic, broker, queue_id)?;
    let sent = Sender::new().send_to_any(call, &queues, &message)?;
    call.out.show(&sent)
}

/// Queues of masters that can be written. A topic that no broker has leads to the template's brokers, which create it
/// if they may, as producers do.
fn writable_queues(
    call: &Call,
    topic: &str,
    broker: Option<&str>,
    queue_id: Option<i32>,
) -> Result<Vec<Queue>, Failure> {
    let route = match call.remote.route(topic) {
        Err(failure) if failure.refusal() == Some(ResponseCode::TopicNotExist) => {
            let template = call.remote.route(agena_protocol::topic::AUTO_CREATE);
            let Ok(mut route) = template else {
                return Err(failure);
            };
            for queues in &mut route.queue_datas {
                queues.write_queue_nums = queues.write_queue_nums.min(4);
            }
            route
        }
        other => other?,
    };
    let mut queues = Vec::new();
    for data in route.queue_datas.iter().filter(|data| data.is_writable()) {
        if broker.is_some_and(|name| name != data.broker_name) {
            continue;
        }
        let owner = route
            .broker_datas
            .iter()
            .find(|owner| owner.broker_name == data.broker_name);
        let Some(address) = owner.and_then(|owner| owner.master()) else {
            continue;
        };
        let numbers = queue_id.map_or(0..data.write_queue_nums, |id| id..id.saturating_add(1));
        queues.extend(numbers.map(|queue_id| Queue {
            topic: topic.to_owned(),
            broker_name: data.broker_name.clone(),
            queue_id,
            address: address.to_owned(),
        }));
    }
    if queues.is_empty() {
        return Err(Failure::Absent(format!(
            "topic {topic} has no such queue that can be written"
        )));
    }
    Ok(queues)
}

/// Sends, with ids of its own.
struct Sender {
    ids: UniqueIds,
}

impl Sender {
    fn new() -> Self {
        let pid = u16::try_from(std::process::id() & 0xFFFF).unwrap_or_default();
        let salt = u32::try_from(now_millis() & 0xFFFF_FFFF).unwrap_or_default();
        let zone = i64::from(chrono::Local::now().offset().local_minus_utc()) * 1000;
        Self {
            ids: UniqueIds::new(own_address(), pid, salt, zone),
        }
    }

    /// Sends to one of the queues, starting at a random one; a broker that cannot be reached is passed over.
    fn send_to_any(
        &self,
        call: &Call,
        queues: &[Queue],
        message: &Outgoing<'_>,
    ) -> Result<Sent, Failure> {
        let start = usize::try_from(now_millis().unsigned_abs()).unwrap_or(0) % queues.len();
        let mut unreachable: Vec<String> = Vec::new();
        let mut last = None;
        for queue in queues.iter().cycle().skip(start).take(queues.len()) {
            if unreachable.contains(&queue.address) {
                continue;
            }
            match self.send(call, queue, message) {
                Err(failure @ Failure::Unreachable { .. }) => {
                    unreachable.push(queue.address.clone());
                    last = Some(failure);
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Failure::Absent("no queue can be written".to_owned())))
    }

    fn send(&self, call: &Call, queue: &Queue, message: &Outgoing<'_>) -> Result<Sent, Failure> {
        let now = now_millis();
        let msg_id = self.ids.next(now);
        let mut properties = PropertiesBuf::new();
        for (name, value) in [
            (properties::KEYS, message.keys),
            (properties::TAGS, message.tags),
        ] {
            if let Some(value) = value {
                properties.set(name, value);
            }
        }
        properties.set(properties::UNIQ_KEY, msg_id.clone());
        properties.set(properties::WAIT, "true");
        let request = Command::request(RequestCode::SendMessageV2)
            .with_ext("a", GROUP)
            .with_ext("b", &queue.topic)
            .with_ext("c", agena_protocol::topic::AUTO_CREATE)
            .with_ext("d", 4)
            .with_ext("e", queue.queue_id)
            .with_ext("f", 0)
            .with_ext("g", now)
            .with_ext("h", 0)
            .with_ext("i", String::from_utf8_lossy(&properties.encode()))
            .with_ext("j", 0)
            .with_ext("k", false)
            .with_ext("m", false)
            .with_ext("n", &queue.broker_name)
            .with_body(message.body.to_vec());
        let step = format!("sending to {queue}");
        let begun = Instant::now();
        let answer = call
            .remote
            .ask_any(&step, &queue.address, request, TIMEOUT)?;
        let milliseconds = begun.elapsed().as_millis();
        let status = match answer.response_code() {
            Some(ResponseCode::Success) => "SEND_OK",
            Some(ResponseCode::FlushDiskTimeout) => "FLUSH_DISK_TIMEOUT",
            Some(ResponseCode::FlushSlaveTimeout) => "FLUSH_SLAVE_TIMEOUT",
            Some(ResponseCode::SlaveNotAvailable) => "SLAVE_NOT_AVAILABLE",
            Some(_) | None => return Err(remote::refused(&step, &queue.address, &answer)),
        };
        let field = |name: &str| answer.ext.get(name).unwrap_or_default();
        Ok(Sent {
            broker_name: queue.broker_name.clone(),
            queue_id: field("queueId").parse().unwrap_or(queue.queue_id),
            status,
            msg_id,
            offset_msg_id: field("msgId").to_owned(),
            queue_offset: field("queueOffset").parse().unwrap_or(-1),
            milliseconds,
            topic: queue.topic.clone(),
        })
    }
}

/// The address this machine would send from; ids carry it so that tools can tell where a message was made.
fn own_address() -> IpAddr {
    // Connecting a datagram socket sends nothing: it only chooses the route.
    let address = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket
            .connect((Ipv4Addr::new(192, 0, 2, 1), 9))
            .and_then(|()| socket.local_addr())
    });
    address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// Sends a copy of a message: same topic, body, keys and tags, an id of its own.
pub(super) fn resend(call: &mut Call, message: &Message) -> Result<(), Failure> {
    let queues = writable_queues(call, &message.topic, None, None)?;
    let copy = Outgoing {
        body: &message.body.0,
        keys: message.keys(),
        tags: message.tags(),
    };
    let sent = Sender::new().send_to_any(call, &queues, &copy)?;
    call.out.show(&SendResult(sent))
}

/// A send in the words of the original's `SendResult`.
#[derive(Serialize)]
#[serde(transparent)]
struct SendResult(Sent);

impl Display for SendResult {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sent = &self.0;
        writeln!(
            f,
            "SendResult [sendStatus={}, msgId={}, offsetMsgId={}, messageQueue=MessageQueue [topic={}, brokerName={}, \
             queueId={}], queueOffset={}, recallHandle=null]",
            sent.status,
            sent.msg_id,
            sent.offset_msg_id,
            sent.topic,
            sent.broker_name,
            sent.queue_id,
            sent.queue_offset
        )
    }
}

pub(crate) const SEND_MSG_STATUS: SubCommand = SubCommand {
    name: "sendMsgStatus",
    about: "Send msg to broker.",
    options: &[
        value(
            'b',
            "brokerName",
            "Broker Name e.g. clusterName_brokerName as DefaultCluster_broker-a",
        )
        .required(),
        value('s', "messageSize", "Message Size, Default: 128"),
        value('c', "count", "send message count, Default: 50"),
    ],
    examples: &[example(
        "-b broker-a -c 10",
        "10 messages to the topic that has the broker's own name, with their times",
    )],
    json: r#"per message {"brokerName","queueId","status","msgId","offsetMsgId","queueOffset","milliseconds"}"#,
    run: send_msg_status,
};

#[derive(Serialize)]
#[serde(transparent)]
struct Timed(SendResult);

impl Display for Timed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "rt={}ms, SendResult={}", self.0.0.milliseconds, self.0)
    }
}

fn send_msg_status(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("brokerName")?.to_owned();
    let body = vec![b'a'; call.options.number("messageSize")?.unwrap_or(128)];
    let count: u32 = call.options.number("count")?.unwrap_or(50);
    let queues = writable_queues(call, &topic, None, None)?;
    let sender = Sender::new();
    let message = Outgoing {
        body: &body,
        keys: None,
        tags: None,
    };
    // The first message opens the connection and is not counted.
    sender.send_to_any(call, &queues, &message)?;
    for number in 0..count {
        let queue = &queues[usize::try_from(number).unwrap_or(0) % queues.len()];
        let sent = sender.send(call, queue, &message)?;
        call.out.show(&Timed(SendResult(sent)))?;
    }
    Ok(())
}

pub(crate) const CHECK_MSG_SEND_RT: SubCommand = SubCommand {
    name: "checkMsgSendRT",
    about: "Check message send response time.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('a', "amount", "message amount | default 100"),
        value('s', "size", "message size | default 128 Byte"),
    ],
    examples: &[example(
        "-t Orders -a 20 -s 1024",
        "20 messages of 1 KiB, queue after queue, and the mean time",
    )],
    json: r#"{"sends":[{"brokerName","queueId","ok":true,"milliseconds"}],"averageMilliseconds"} (without the first send, which connects)"#,
    run: check_msg_send_rt,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    sends: Vec<TimedSend>,
    average_milliseconds: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TimedSend {
    broker_name: String,
    queue_id: i32,
    ok: bool,
    milliseconds: u128,
}

const TIMES: Table = Table(&[
    left("#Broker Name", 32),
    left("#QID", 4),
    left("#Send Result", 20),
    rest("#RT").gap(4),
]);

impl Display for Times {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        TIMES.head(f)?;
        for send in &self.sends {
            TIMES.row(
                f,
                &[
                    &send.broker_name,
                    &send.queue_id,
                    &send.ok,
                    &send.milliseconds,
                ],
            )?;
        }
        writeln!(f, "Avg RT: {:.2}", self.average_milliseconds)
    }
}

fn check_msg_send_rt(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let amount: usize = call.options.number("amount")?.unwrap_or(100);
    let body = vec![b'a'; call.options.number("size")?.unwrap_or(128)];
    let queues = writable_queues(call, &topic, None, None)?;
    let sender = Sender::new();
    let message = Outgoing {
        body: &body,
        keys: None,
        tags: None,
    };
    let mut sends = Vec::new();
    for queue in queues.iter().cycle().take(amount) {
        let begun = Instant::now();
        let ok = sender.send(call, queue, &message).is_ok();
        let milliseconds = begun.elapsed().as_millis();
        sends.push(TimedSend {
            broker_name: queue.broker_name.clone(),
            queue_id: queue.queue_id,
            ok,
            milliseconds,
        });
    }
    let later: Vec<u64> = sends
        .iter()
        .skip(1)
        .map(|send| u64::try_from(send.milliseconds).unwrap_or(u64::MAX))
        .collect();
    let sum = Duration::from_millis(later.iter().sum()).as_secs_f64() * 1000.0;
    let average_milliseconds = if later.is_empty() {
        0.0
    } else {
        sum / f64::from(u32::try_from(later.len()).unwrap_or(u32::MAX))
    };
    call.out.show(&Times {
        sends,
        average_milliseconds,
    })
}
