//! Single messages: by id, key, unique key or offset, with who consumed them.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agena_protocol::bodies::running_info::{
    ConsumeMessageDirectlyResult, ConsumerRunningInfo, PROP_CONSUME_TYPE,
};
use agena_protocol::command::Command;
use agena_protocol::message_id::OffsetId;
use agena_protocol::properties;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, flag, value};
use crate::failure::Failure;
use crate::message::Message;
use crate::pull::{PullStatus, Queue, TOOLS_GROUP, pull};
use crate::remote::{Question, body, reader_address};
use crate::table::{Table, left, right};
use crate::time_text;
use crate::track::{Track, tracks};

use super::progress::running_info_question;
use super::send;

const FOUND: &str = r#"per message {"msgId","offsetMsgId","topic","brokerName","queueId","queueOffset","commitLogOffset","properties":{},"body" or "bodyHex",...,"tracks":[{"consumerGroup","trackType","exceptionDesc"}]}"#;

/// Where the original puts bodies.
const BODY_FOLDER: &str = "/tmp/rocketmq/msgbodys";

pub(crate) const QUERY_BY_ID: SubCommand = SubCommand {
    name: "queryMsgById",
    about: "Query Message by Id.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('i', "msgId", "Message Id").required(),
        value('g', "consumerGroup", "consumer group name"),
        value('d', "clientId", "The consumer's client id"),
        value('s', "sendMessage", "resend message"),
        value('u', "unitName", "unit name"),
        value(
            'f',
            "bodyFormat",
            "print message body by the specified format",
        ),
        value(
            'c',
            "cluster",
            "Cluster name or lmq parent topic, lmq is used to find the route.",
        ),
    ],
    examples: &[
        example(
            "-t Orders -i 7F0000010000653700000000000002A7",
            "by the broker's id (offsetMsgId) or the client's; several with commas",
        ),
        example("-t Orders -i ID -f UTF-8", "with the body as text"),
        example(
            "-t Orders -i ID -g Billing -d 10.0.0.7@4711",
            "lets that client consume it now",
        ),
        example("-t Orders -i ID -s true", "sends a copy of it again"),
    ],
    json: FOUND,
    run: query_by_id,
};

pub(crate) const QUERY_BY_UNIQUE_KEY: SubCommand = SubCommand {
    name: "queryMsgByUniqueKey",
    about: "Query Message by Unique key.",
    options: &[
        value('i', "msgId", "Message Id").required(),
        value('g', "consumerGroup", "consumer group name"),
        value('d', "clientId", "The consumer's client id"),
        value('t', "topic", "The topic of msg").required(),
        flag('a', "showAll", "Print all message, the limit is 32"),
        value(
            'c',
            "cluster",
            "Cluster name or lmq parent topic, lmq is used to find the route.",
        ),
    ],
    examples: &[
        example(
            "-t Orders -i FD00000000000000000000000000000270A730946E096746B8D80000",
            "by the id that the producer got",
        ),
        example(
            "-t Orders -i ID -a",
            "all copies: retries and resends keep the id",
        ),
    ],
    json: FOUND,
    run: query_by_unique_key,
};

pub(crate) const QUERY_BY_OFFSET: SubCommand = SubCommand {
    name: "queryMsgByOffset",
    about: "Query Message by offset.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('b', "brokerName", "Broker Name").required(),
        value('i', "queueId", "Queue Id").required(),
        value('o', "offset", "Queue Offset").required(),
        value(
            'f',
            "bodyFormat",
            "print message body by the specified format",
        ),
    ],
    examples: &[example(
        "-t Orders -b broker-a -i 0 -o 42",
        "the message at offset 42 of a queue",
    )],
    json: FOUND,
    run: query_by_offset,
};

/// A message in the original's block of labels, with what groups did with it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    #[serde(flatten)]
    message: Message,
    tracks: Vec<Track>,
    #[serde(skip)]
    body_path: String,
    #[serde(skip)]
    with_body: bool,
    /// The unique key's command leaves this line out.
    #[serde(skip)]
    with_offset_id: bool,
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let message = &self.message;
        let mut line = |label: &str, value: &dyn Display| writeln!(f, "{label:<20} {value}");
        if self.with_offset_id {
            line("OffsetID:", &message.offset_msg_id)?;
        }
        line("Topic:", &message.topic)?;
        line(
            "Tags:",
            &format_args!("[{}]", message.tags().unwrap_or("null")),
        )?;
        line(
            "Keys:",
            &format_args!("[{}]", message.keys().unwrap_or("null")),
        )?;
        line("Queue ID:", &message.queue_id)?;
        line("Queue Offset:", &message.queue_offset)?;
        line("CommitLog Offset:", &message.commit_log_offset)?;
        line("Reconsume Times:", &message.reconsume_times)?;
        line(
            "Born Timestamp:",
            &time_text::millis(message.born_timestamp),
        )?;
        line(
            "Store Timestamp:",
            &time_text::millis(message.store_timestamp),
        )?;
        line("Born Host:", &message.born_host)?;
        line("Store Host:", &message.store_host)?;
        line("System Flag:", &message.sys_flag)?;
        line("Properties:", &message.properties_text())?;
        line("Message Body Path:", &self.body_path)?;
        if self.with_body {
            line("Message Body:", &message.body.text())?;
        }
        if self.tracks.is_empty() {
            return writeln!(f, "\n\nWARN: No Consumer");
        }
        writeln!(f, "\n")?;
        self.tracks
            .iter()
            .try_for_each(|track| writeln!(f, "{track}"))
    }
}

fn show(call: &mut Call, message: Message, with_offset_id: bool) -> Result<(), Failure> {
    let with_body = match (with_offset_id, call.options.get("bodyFormat")) {
        (true, Some(charset)) => utf8_only(charset)?,
        _ => false,
    };
    let tracks = tracks(call, &message)?;
    let body_path = if call.options.is_set("json") {
        String::new()
    } else {
        save_body(&message)?.display().to_string()
    };
    call.out.show(&Found {
        message,
        tracks,
        body_path,
        with_body,
        with_offset_id,
    })
}

/// Bodies are shown as UTF-8; other character sets are named as not supported instead of shown wrong.
pub(super) fn utf8_only(charset: &str) -> Result<bool, Failure> {
    match charset.to_ascii_uppercase().replace('-', "").as_str() {
        "UTF8" | "USASCII" | "ASCII" => Ok(true),
        _ => Err(Failure::Input(format!(
            "character set {charset} is not supported: UTF-8 is; or use --json"
        ))),
    }
}

/// Writes the body to a file named after the message's id.
fn save_body(message: &Message) -> Result<PathBuf, Failure> {
    // The id comes from the producer: only one that is a plain word may name a file.
    let plain = message
        .msg_id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric())
        && message.msg_id.len() <= 128;
    let name = if plain {
        &message.msg_id
    } else {
        &message.offset_msg_id
    };
    let path = Path::new(BODY_FOLDER).join(name);
    std::fs::create_dir_all(BODY_FOLDER)?;
    std::fs::write(&path, &message.body.0)?;
    Ok(path)
}

fn query_by_id(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let ids: Vec<String> = call
        .options
        .required("msgId")?
        .split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect();
    let resend = call.options.truth("sendMessage")?;
    for id in ids {
        let message = find(call, &topic, &id)?;
        if let Some((group, client)) = consumer_choice(call)? {
            consume_directly(call, &message, &group, &client)?;
        } else if resend == Some(true) {
            call.out
                .note(format_args!("prepare resend msg. originalMsgId={id}"))?;
            send::resend(call, &message)?;
        } else {
            show(call, message, true)?;
        }
    }
    Ok(())
}

/// `-g` and `-d` go together.
fn consumer_choice(call: &Call) -> Result<Option<(String, String)>, Failure> {
    match (
        call.options.get("consumerGroup"),
        call.options.get("clientId"),
    ) {
        (Some(group), Some(client)) => Ok(Some((group.to_owned(), client.to_owned()))),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(Failure::Input(
            "direct consumption needs both -g group and -d client id".to_owned(),
        )),
    }
}

/// An id is the broker's, which names its place, or the client's, which the index knows.
pub(super) fn find(call: &Call, topic: &str, id: &str) -> Result<Message, Failure> {
    let place = OffsetId::parse(id);
    if let Some(place) = &place {
        match view(call, topic, place) {
            Ok(message) => return Ok(message),
            // A client's id of 32 digits reads like a place, mostly one that does not exist.
            Err(failure) => {
                return by_key(call, topic, id, true)
                    .and_then(|found| found.into_iter().next().ok_or(failure));
            }
        }
    }
    let not_found = || Failure::Absent(format!("no message of topic {topic} has the id {id}"));
    by_key(call, topic, id, true)?
        .into_iter()
        .next()
        .ok_or_else(not_found)
}

/// The message at a place in a broker's log.
pub(super) fn view(call: &Call, topic: &str, place: &OffsetId) -> Result<Message, Failure> {
    let address = place.store_host.to_string();
    let step = format!("asking for the message at {}", place.offset.wire());
    let request = Command::request(RequestCode::ViewMessageById)
        .with_ext("topic", topic)
        .with_ext("offset", place.offset.wire());
    let answer = call.remote.ask(&step, &address, request)?;
    let name = broker_name(call, &address);
    let garbled = |cause: String| Failure::Garbled {
        step: step.clone(),
        address: address.clone(),
        cause,
    };
    let messages =
        Message::read_all(&answer.body, &name).map_err(|error| garbled(error.to_string()))?;
    messages
        .into_iter()
        .next()
        .ok_or_else(|| garbled("no message".to_owned()))
}

/// The name of the broker at an address; its address where the name server does not know it.
fn broker_name(call: &Call, address: &str) -> String {
    let clusters = call.remote.clusters().unwrap_or_default();
    let mut brokers = clusters.broker_addr_table.into_values();
    let found = brokers.find(|broker| broker.broker_addrs.values().any(|known| known == address));
    found.map_or_else(|| address.to_owned(), |broker| broker.broker_name)
}

/// What a query by key asks for.
struct KeyQuery<'a> {
    topic: &'a str,
    key: &'a str,
    unique: bool,
    max: i64,
    begin: i64,
    end: i64,
}

pub(super) fn by_key(
    call: &Call,
    topic: &str,
    key: &str,
    unique: bool,
) -> Result<Vec<Message>, Failure> {
    search(
        call,
        &KeyQuery {
            topic,
            key,
            unique,
            max: 64,
            begin: 0,
            end: i64::MAX,
        },
    )
}

/// Asks every broker of the topic's route; the index finds by hash, so that others are dropped here.
fn search(call: &Call, query: &KeyQuery<'_>) -> Result<Vec<Message>, Failure> {
    let route = call
        .remote
        .route(call.options.get("cluster").unwrap_or(query.topic))?;
    let brokers: Vec<(String, String)> = route
        .broker_datas
        .iter()
        .filter_map(|broker| {
            reader_address(broker).map(|address| (broker.broker_name.clone(), address))
        })
        .collect();
    let questions = brokers
        .iter()
        .map(|(_, address)| Question {
            step: format!("asking for messages with key {}", query.key),
            address: address.clone(),
            request: Command::request(RequestCode::QueryMessage)
                .with_ext("topic", query.topic)
                .with_ext("key", query.key)
                .with_ext("maxNum", query.max)
                .with_ext("beginTimestamp", query.begin)
                .with_ext("endTimestamp", query.end)
                .with_ext("_UNIQUE_KEY_QUERY", query.unique),
        })
        .collect();
    let mut messages = Vec::new();
    for ((name, address), answer) in brokers.iter().zip(call.remote.ask_all(questions)) {
        match answer {
            Ok(answer) => {
                let found =
                    Message::read_all(&answer.body, name).map_err(|error| Failure::Garbled {
                        step: "reading messages".to_owned(),
                        address: address.clone(),
                        cause: error.to_string(),
                    })?;
                messages.extend(found.into_iter().filter(|message| carries(message, query)));
            }
            Err(failure) if failure.refusal() == Some(ResponseCode::QueryNotFound) => {}
            Err(failure) => return Err(failure),
        }
    }
    messages.sort_by_key(|message| message.store_timestamp);
    Ok(messages)
}

fn carries(message: &Message, query: &KeyQuery<'_>) -> bool {
    if query.unique {
        return message.property(properties::UNIQ_KEY) == Some(query.key);
    }
    message
        .keys()
        .is_some_and(|keys| keys.split(' ').any(|key| key == query.key))
}

fn query_by_unique_key(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let id = call.options.required("msgId")?.to_owned();
    let mut messages = by_key(call, &topic, &id, true)?;
    if messages.is_empty() {
        return Err(Failure::Absent(format!(
            "no message of topic {topic} has the unique key {id}"
        )));
    }
    if let Some((group, client)) = consumer_choice(call)? {
        return consume_directly(call, &messages[0], &group, &client);
    }
    if !call.options.is_set("showAll") {
        messages.truncate(1);
    }
    for message in messages {
        show(call, message, false)?;
    }
    Ok(())
}

fn query_by_offset(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let broker_name = call.options.required("brokerName")?.to_owned();
    let queue_id = call.options.number("queueId")?.unwrap_or(0);
    let offset: i64 = call.options.number("offset")?.unwrap_or(0);
    let address = call.remote.broker_address(&broker_name)?;
    let queue = Queue {
        topic,
        broker_name,
        queue_id,
        address,
    };
    let pulled = pull(call, &queue, TOOLS_GROUP, "*", offset, 1)?;
    let message = pulled
        .messages
        .into_iter()
        .find(|message| message.queue_offset == offset);
    match message {
        Some(message) => show(call, message, true),
        None => Err(Failure::Absent(match pulled.status {
            PullStatus::OffsetIllegal => {
                format!(
                    "{queue} has no offset {offset}; the nearest it has is {}",
                    pulled.next
                )
            }
            PullStatus::Found | PullStatus::NoMatched | PullStatus::NoNew => {
                format!("{queue} has no message at offset {offset}")
            }
        })),
    }
}

pub(crate) const QUERY_BY_KEY: SubCommand = SubCommand {
    name: "queryMsgByKey",
    about: "Query Message by Key.",
    options: &[
        value('t', "topic", "Topic name").required(),
        value('k', "msgKey", "Message Key").required(),
        value(
            'b',
            "beginTimestamp",
            "Begin timestamp(ms). default:0, eg:1676730526212",
        ),
        value(
            'e',
            "endTimestamp",
            "End timestamp(ms). default:Long.MAX_VALUE, eg:1676730526212",
        ),
        value(
            'm',
            "maxNum",
            "The maximum number of messages returned by the query, default:64",
        ),
        value(
            'c',
            "cluster",
            "Cluster name or lmq parent topic, lmq is used to find the route.",
        ),
    ],
    examples: &[example(
        "-t Orders -k order-4711",
        "where the messages with this key are; queryMsgByOffset shows one",
    )],
    json: r#"{"messages":[{"msgId","offsetMsgId","brokerName","queueId","queueOffset","storeTimestamp",...}]}"#,
    run: query_by_key,
};

#[derive(Serialize)]
struct Hits {
    messages: Vec<Message>,
}

const HITS: Table = Table(&[
    left("#Message ID", 50),
    right("#QID", 4).gap(1),
    right("#Offset", 40).gap(1),
]);

impl Display for Hits {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        HITS.head(f)?;
        for hit in &self.messages {
            HITS.row(f, &[&hit.msg_id, &hit.queue_id, &hit.queue_offset])?;
        }
        Ok(())
    }
}

fn query_by_key(call: &mut Call) -> Result<(), Failure> {
    let options = &call.options;
    let (topic, key) = (options.required("topic")?, options.required("msgKey")?);
    let messages = search(
        call,
        &KeyQuery {
            topic,
            key,
            unique: false,
            max: options.number("maxNum")?.unwrap_or(64),
            begin: options.number("beginTimestamp")?.unwrap_or(0),
            end: options.number("endTimestamp")?.unwrap_or(i64::MAX),
        },
    )?;
    if messages.is_empty() {
        return Err(Failure::Absent(format!(
            "no message of topic {topic} has the key {key}"
        )));
    }
    call.out.show(&Hits { messages })
}

/// Messages of a trace topic about one message.
pub(super) fn trace_messages(
    call: &Call,
    topic: &str,
    id: &str,
    max: i64,
    begin: i64,
    end: i64,
) -> Result<Vec<Message>, Failure> {
    search(
        call,
        &KeyQuery {
            topic,
            key: id,
            unique: false,
            max,
            begin,
            end,
        },
    )
}

/// What a client's listener made of a message.
#[derive(Serialize)]
#[serde(transparent)]
struct Consumed(ConsumeMessageDirectlyResult);

impl Display for Consumed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let result = &self.0;
        writeln!(
            f,
            "ConsumeMessageDirectlyResult [order={}, autoCommit={}, consumeResult={}, remark={}, spentTimeMills={}]",
            result.order,
            result.auto_commit,
            result.consume_result,
            result.remark.as_deref().unwrap_or("null"),
            result.spent_time_mills
        )
    }
}

fn consume_directly(
    call: &mut Call,
    message: &Message,
    group: &str,
    client: &str,
) -> Result<(), Failure> {
    let question = running_info_question(group, client, &message.store_host);
    let info: ConsumerRunningInfo =
        call.remote
            .ask_for(&question.step, &message.store_host, question.request)?;
    if info
        .properties
        .get(PROP_CONSUME_TYPE)
        .is_some_and(|kind| kind != "CONSUME_PASSIVELY")
    {
        return Err(Failure::Absent(format!(
            "client {client} is no push consumer: it cannot be handed a message"
        )));
    }
    let request = Command::request(RequestCode::ConsumeMessageDirectly)
        .with_ext("consumerGroup", group)
        .with_ext("clientId", client)
        .with_ext("msgId", &message.offset_msg_id)
        .with_ext("topic", &message.topic)
        .with_ext("brokerName", &message.broker_name);
    let step = format!("handing the message to client {client}");
    let answer =
        call.remote
            .ask_within(&step, &message.store_host, request, Duration::from_secs(30))?;
    let result = body(&step, &message.store_host, &answer)?;
    call.out.show(&Consumed(result))
}
