//! How far consumer groups are: what people look at first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::connections::ConsumerConnection;
use agena_protocol::bodies::heartbeat::ConsumeType;
use agena_protocol::bodies::route::TopicRouteData;
use agena_protocol::bodies::running_info::ConsumerRunningInfo;
use agena_protocol::bodies::stats::{ConsumeStats, ConsumeStatsList};
use agena_protocol::command::Command;
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic::RETRY_PREFIX;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::remote::{Question, body, reader_address};
use crate::table::{Column, Table, left, rest};
use crate::time_text;
use crate::version_name::version_name;

use super::topic::all_topics;

pub(crate) const CONSUMER_PROGRESS: SubCommand = SubCommand {
    name: "consumerProgress",
    about: "Query consumer's progress, speed.",
    options: &[
        value('g', "groupName", "consumer group name"),
        value('t', "topicName", "topic name"),
        value('s', "showClientIP", "Show Client IP per Queue"),
        value(
            'c',
            "cluster",
            "Cluster name or lmq parent topic, lmq is used to find the route.",
        ),
    ],
    examples: &[
        example(
            "",
            "every group: members, version, model, rate and how much is not consumed, largest lag first",
        ),
        example(
            "-g Billing",
            "every queue of a group: broker offset, consumer offset, difference, time of the last consumed message",
        ),
        example(
            "-g Billing -t Orders -s true",
            "one topic only, with the address of the client that has each queue",
        ),
    ],
    json: r#"{"groups":[{"group","count","version","consumeType","messageModel","consumeTps","diffTotal"}]}; with -g {"group","queues":[{"topic","brokerName","queueId","brokerOffset","consumerOffset","diff","inflight","lastTimestamp","clientIp"}],"consumeTps","diffTotal","inflightTotal"}"#,
    run: consumer_progress,
};

fn consumer_progress(call: &mut Call) -> Result<(), Failure> {
    let Some(group) = call.options.get("groupName").map(str::to_owned) else {
        let groups = all_groups(call)?;
        return call.out.show(&groups);
    };
    let stats = stats_of_group(call, &group, call.options.get("topicName"))?;
    let show_clients = call.options.truth("showClientIP")?.unwrap_or(false);
    let owners = if show_clients {
        owners(call, &group)
    } else {
        HashMap::new()
    };
    let progress = Progress::new(group, stats, show_clients.then_some(&owners));
    if show_clients {
        call.out.show(&WithClients(progress))
    } else {
        call.out.show(&progress)
    }
}

/// Where one group stands in every queue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    group: String,
    queues: Vec<QueueProgress>,
    consume_tps: f64,
    diff_total: i64,
    inflight_total: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueProgress {
    topic: String,
    broker_name: String,
    queue_id: i32,
    broker_offset: i64,
    consumer_offset: i64,
    diff: i64,
    inflight: i64,
    last_timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ip: Option<String>,
}

impl Progress {
    fn new(
        group: String,
        stats: ConsumeStats,
        owners: Option<&HashMap<MessageQueue, String>>,
    ) -> Self {
        let mut queues: Vec<(MessageQueue, _)> = stats.offset_table.into_iter().collect();
        queues.sort_by(|a, b| a.0.cmp(&b.0));
        let queues: Vec<QueueProgress> = queues
            .into_iter()
            .map(|(queue, offsets)| QueueProgress {
                client_ip: owners
                    .map(|owners| owners.get(&queue).map_or("NA", String::as_str).to_owned()),
                topic: queue.topic,
                broker_name: queue.broker_name,
                queue_id: queue.queue_id,
                broker_offset: offsets.broker_offset,
                consumer_offset: offsets.consumer_offset,
                diff: offsets.broker_offset - offsets.consumer_offset,
                inflight: offsets.pull_offset - offsets.consumer_offset,
                last_timestamp: offsets.last_timestamp,
            })
            .collect();
        Self {
            group,
            consume_tps: stats.consume_tps,
            diff_total: queues.iter().map(|queue| queue.diff).sum(),
            inflight_total: queues.iter().map(|queue| queue.inflight).sum(),
            queues,
        }
    }

    fn totals(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nConsume TPS: {:.2}", self.consume_tps)?;
        writeln!(f, "Consume Diff Total: {}", self.diff_total)?;
        writeln!(f, "Consume Inflight Total: {}", self.inflight_total)
    }
}

impl QueueProgress {
    /// When the message before the consumer offset was stored.
    fn last_time(&self) -> String {
        if self.last_timestamp > 0 {
            time_text::seconds(self.last_timestamp)
        } else {
            "N/A".to_owned()
        }
    }
}

const TOPIC: Column = left("#Topic", 64).cut();
const BROKER: Column = left("#Broker Name", 32).cut();
const QUEUE: Column = left("#QID", 4);
const BROKER_OFFSET: Column = left("#Broker Offset", 20);
const CONSUMER_OFFSET: Column = left("#Consumer Offset", 20);

const PROGRESS: Table = Table(&[
    TOPIC,
    BROKER,
    QUEUE,
    BROKER_OFFSET,
    CONSUMER_OFFSET,
    left("#Diff", 20),
    left("#Inflight", 20).gap(1),
    rest("#LastTime").gap(0).row_gap(1),
]);

impl Display for Progress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        PROGRESS.head(f)?;
        for queue in &self.queues {
            PROGRESS.row(
                f,
                &[
                    &queue.topic,
                    &queue.broker_name,
                    &queue.queue_id,
                    &queue.broker_offset,
                    &queue.consumer_offset,
                    &queue.diff,
                    &queue.inflight,
                    &queue.last_time(),
                ],
            )?;
        }
        self.totals(f)
    }
}

/// The same with a column of client addresses.
#[derive(Serialize)]
#[serde(transparent)]
struct WithClients(Progress);

const PROGRESS_WITH_CLIENTS: Table = Table(&[
    TOPIC,
    BROKER,
    QUEUE,
    BROKER_OFFSET,
    CONSUMER_OFFSET,
    left("#Client IP", 20),
    left("#Diff", 20).gap(1),
    left("#Inflight", 20).gap(1),
    rest("#LastTime").gap(0).row_gap(1),
]);

impl Display for WithClients {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        PROGRESS_WITH_CLIENTS.head(f)?;
        for queue in &self.0.queues {
            PROGRESS_WITH_CLIENTS.row(
                f,
                &[
                    &queue.topic,
                    &queue.broker_name,
                    &queue.queue_id,
                    &queue.broker_offset,
                    &queue.consumer_offset,
                    &queue.client_ip.as_deref().unwrap_or("NA"),
                    &queue.diff,
                    &queue.inflight,
                    &queue.last_time(),
                ],
            )?;
        }
        self.0.totals(f)
    }
}

/// Offsets of a group on all brokers that have it.
pub(crate) fn stats_of_group(
    call: &Call,
    group: &str,
    topic: Option<&str>,
) -> Result<ConsumeStats, Failure> {
    let route = route_of_group(call, group, topic)?;
    let addresses: Vec<String> = route
        .broker_datas
        .iter()
        .filter_map(reader_address)
        .collect();
    let questions = addresses
        .iter()
        .map(|address| stats_question(group, topic, address))
        .collect();
    let mut all = ConsumeStats::default();
    for (address, answer) in addresses.iter().zip(call.remote.ask_all(questions)) {
        let stats: ConsumeStats = body("reading the group's offsets", address, &answer?)?;
        all.consume_tps += stats.consume_tps;
        all.offset_table.extend(stats.offset_table);
    }
    if all.offset_table.is_empty() {
        return Err(Failure::Absent(format!(
            "group {group} has no offsets{}: it never consumed",
            topic
                .map(|topic| format!(" in topic {topic}"))
                .unwrap_or_default()
        )));
    }
    Ok(all)
}

fn stats_question(group: &str, topic: Option<&str>, address: &str) -> Question {
    let mut request =
        Command::request(RequestCode::GetConsumeStats).with_ext("consumerGroup", group);
    if let Some(topic) = topic {
        request = request.with_ext("topic", topic);
    }
    let step = format!("asking for the offsets of group {group}");
    Question {
        step,
        address: address.to_owned(),
        request,
    }
}

/// A group is where its retry topic is; one that only pulls may have none, and then its topic shows the way.
pub(crate) fn route_of_group(
    call: &Call,
    group: &str,
    topic: Option<&str>,
) -> Result<TopicRouteData, Failure> {
    if let Some(cluster) = call.options.get("cluster") {
        return call.remote.route(cluster);
    }
    let retry = format!("{RETRY_PREFIX}{group}");
    match call.remote.route(&retry) {
        Err(failure) if failure.refusal() == Some(ResponseCode::TopicNotExist) => match topic {
            Some(topic) => call.remote.route(topic),
            None => Err(Failure::Absent(format!(
                "no broker knows group {group}: the name server has no topic {retry}"
            ))),
        },
        other => other,
    }
}

/// Which address consumes which queue, as far as the members tell; who does not answer is left out.
fn owners(call: &Call, group: &str) -> HashMap<MessageQueue, String> {
    let mut owners = HashMap::new();
    let Ok(route) = route_of_group(call, group, None) else {
        return owners;
    };
    for address in route.broker_datas.iter().filter_map(reader_address) {
        let Ok(connections) = connections(call, group, &address) else {
            continue;
        };
        let questions = connections
            .connection_set
            .iter()
            .map(|connection| running_info_question(group, &connection.client_id, &address))
            .collect();
        for (connection, answer) in connections
            .connection_set
            .iter()
            .zip(call.remote.ask_all(questions))
        {
            let info = answer.and_then(|answer| {
                body::<ConsumerRunningInfo>("reading a client's state", &address, &answer)
            });
            // The client's own word for its address, the first part of its id, as in the original.
            let host = connection.client_id.split('@').next().unwrap_or_default();
            owners.extend(
                info.into_iter()
                    .flat_map(|info| info.mq_table)
                    .map(|(queue, _)| (queue, host.to_owned())),
            );
        }
    }
    owners
}

/// Asks a member for its inner state, through a broker.
pub(super) fn running_info_question(group: &str, client_id: &str, address: &str) -> Question {
    Question {
        step: format!("asking client {client_id} for its state"),
        address: address.to_owned(),
        request: Command::request(RequestCode::GetConsumerRunningInfo)
            .with_ext("consumerGroup", group)
            .with_ext("clientId", client_id)
            .with_ext("jstackEnable", false),
    }
}

/// The members of a group that are connected to one broker.
pub(crate) fn connections(
    call: &Call,
    group: &str,
    address: &str,
) -> Result<ConsumerConnection, Failure> {
    let question = connections_question(group, address);
    call.remote
        .ask_for(&question.step, address, question.request)
}

fn connections_question(group: &str, address: &str) -> Question {
    Question {
        step: format!("asking for the members of group {group}"),
        address: address.to_owned(),
        request: Command::request(RequestCode::GetConsumerConnectionList)
            .with_ext("consumerGroup", group),
    }
}

/// All groups.
#[derive(Serialize)]
struct Groups {
    groups: Vec<GroupProgress>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupProgress {
    group: String,
    count: usize,
    version: String,
    consume_type: String,
    message_model: String,
    consume_tps: f64,
    diff_total: i64,
}

const GROUPS: Table = Table(&[
    left("#Group", 64).cut(),
    left("#Count", 6),
    left("#Version", 24),
    left("#Type", 5).gap(1),
    left("#Model", 14),
    left("#TPS", 7),
    rest("#Diff Total"),
]);

impl Display for Groups {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        GROUPS.head(f)?;
        for row in &self.groups {
            // The original shows whole messages per second.
            let tps = row.consume_tps.trunc();
            GROUPS.row(
                f,
                &[
                    &row.group,
                    &row.count,
                    &row.version,
                    &row.consume_type,
                    &row.message_model,
                    &tps,
                    &row.diff_total,
                ],
            )?;
        }
        Ok(())
    }
}

/// Asks for all groups at once, some questions at a time; a group that does not answer counts as offline with no lag
/// known, as in the original.
fn all_groups(call: &Call) -> Result<Groups, Failure> {
    let topics = all_topics(call)?;
    let names: BTreeSet<&str> = topics
        .iter()
        .filter_map(|topic| topic.strip_prefix(RETRY_PREFIX))
        .collect();
    let routes = name_routes(call, &names)?;
    let places: Vec<(&str, String)> = routes
        .iter()
        .flat_map(|(name, route)| {
            route
                .broker_datas
                .iter()
                .filter_map(reader_address)
                .map(|address| (*name, address))
        })
        .collect();
    let mut rows: BTreeMap<&str, (ConsumeStats, ConsumerConnection)> = names
        .iter()
        .map(|name| (*name, Default::default()))
        .collect();
    let stats = call.remote.ask_all(
        places
            .iter()
            .map(|(name, address)| stats_question(name, None, address))
            .collect(),
    );
    let members = call.remote.ask_all(
        places
            .iter()
            .map(|(name, address)| connections_question(name, address))
            .collect(),
    );
    for (((name, address), stats), members) in places.iter().zip(stats).zip(members) {
        let Some((all_stats, connection)) = rows.get_mut(name) else {
            continue;
        };
        if let Ok(stats) = stats.and_then(|answer| body::<ConsumeStats>("", address, &answer)) {
            all_stats.consume_tps += stats.consume_tps;
            all_stats.offset_table.extend(stats.offset_table);
        }
        if let Ok(members) =
            members.and_then(|answer| body::<ConsumerConnection>("", address, &answer))
        {
            // Each member is connected to every broker.
            if members.connection_set.len() > connection.connection_set.len() {
                *connection = members;
            }
        }
    }
    let mut groups: Vec<GroupProgress> = rows
        .into_iter()
        .map(|(name, (stats, connection))| group_row(name, &stats, &connection))
        .collect();
    groups.sort_by(|a, b| {
        b.diff_total
            .cmp(&a.diff_total)
            .then_with(|| a.group.cmp(&b.group))
    });
    Ok(Groups { groups })
}

fn name_routes<'n>(
    call: &Call,
    names: &BTreeSet<&'n str>,
) -> Result<Vec<(&'n str, TopicRouteData)>, Failure> {
    let Some(name_server) = call.remote.name_servers().first() else {
        return Ok(Vec::new());
    };
    let questions = names
        .iter()
        .map(|name| Question {
            step: format!("asking for the route of group {name}"),
            address: name_server.clone(),
            request: Command::request(RequestCode::GetRouteinfoByTopic)
                .with_ext("topic", format!("{RETRY_PREFIX}{name}")),
        })
        .collect();
    let mut routes = Vec::new();
    for (name, answer) in names.iter().zip(call.remote.ask_all(questions)) {
        match answer {
            Ok(answer) => routes.push((*name, body("reading a route", name_server, &answer)?)),
            // Deleted since the list was made.
            Err(failure) if failure.refusal() == Some(ResponseCode::TopicNotExist) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(routes)
}

fn group_row(name: &str, stats: &ConsumeStats, connection: &ConsumerConnection) -> GroupProgress {
    let count = connection.connection_set.len();
    let passive = connection.consume_type == ConsumeType::ConsumePassively;
    let (version, consume_type, message_model) = if count == 0 {
        ("OFFLINE".to_owned(), "", String::new())
    } else {
        let oldest = connection
            .connection_set
            .iter()
            .map(|member| member.version)
            .min()
            .unwrap_or(0);
        let kind = if connection.consume_type == ConsumeType::ConsumeActively {
            "PULL"
        } else {
            "PUSH"
        };
        let model = if passive {
            connection.message_model.to_string()
        } else {
            String::new()
        };
        (version_name(oldest), kind, model)
    };
    GroupProgress {
        group: name.to_owned(),
        count,
        version,
        consume_type: consume_type.to_owned(),
        message_model,
        consume_tps: stats.consume_tps,
        diff_total: stats
            .offset_table
            .values()
            .map(|offsets| offsets.broker_offset - offsets.consumer_offset)
            .sum(),
    }
}

pub(crate) const BROKER_CONSUME_STATS: SubCommand = SubCommand {
    name: "brokerConsumeStats",
    about: "Fetch broker consume stats data.",
    options: &[
        value('b', "brokerAddr", "Broker address").required(),
        value('t', "timeoutMillis", "request timeout Millis"),
        value('l', "level", "threshold of print diff"),
        value('o', "order", "order topic"),
    ],
    examples: &[
        example(
            "-b 127.0.0.1:10911",
            "every queue of every group on one broker",
        ),
        example(
            "-b 127.0.0.1:10911 -l 1000",
            "only queues with at least 1000 messages not consumed",
        ),
    ],
    json: r#"{"broker","queues":[{"group","topic","brokerName","queueId","brokerOffset","consumerOffset","diff","lastTimestamp"}],"diffTotal"}"#,
    run: broker_consume_stats,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BrokerProgress {
    broker: String,
    queues: Vec<GroupQueue>,
    diff_total: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupQueue {
    group: String,
    #[serde(flatten)]
    queue: QueueProgress,
}

const BROKER_PROGRESS: Table = Table(&[
    TOPIC,
    left("#Group", 64).cut(),
    BROKER,
    QUEUE,
    BROKER_OFFSET,
    CONSUMER_OFFSET,
    left("#Diff", 20),
    rest("#LastTime"),
]);

impl Display for BrokerProgress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        BROKER_PROGRESS.head(f)?;
        for row in &self.queues {
            let queue = &row.queue;
            BROKER_PROGRESS.row(
                f,
                &[
                    &queue.topic,
                    &row.group,
                    &queue.broker_name,
                    &queue.queue_id,
                    &queue.broker_offset,
                    &queue.consumer_offset,
                    &queue.diff,
                    &queue.last_time(),
                ],
            )?;
        }
        writeln!(f, "\nDiff Total: {}", self.diff_total)
    }
}

fn broker_consume_stats(call: &mut Call) -> Result<(), Failure> {
    let broker = call.options.required("brokerAddr")?.to_owned();
    let patience =
        std::time::Duration::from_millis(call.options.number("timeoutMillis")?.unwrap_or(50_000));
    let level: i64 = call.options.number("level")?.unwrap_or(0);
    let ordered = call.options.truth("order")?.unwrap_or(false);
    let request = Command::request(RequestCode::GetBrokerConsumeStats).with_ext("isOrder", ordered);
    let answer = call.remote.ask_within(
        "asking for all consumer offsets",
        &broker,
        request,
        patience,
    )?;
    let list: ConsumeStatsList = body("reading all consumer offsets", &broker, &answer)?;
    let mut queues = Vec::new();
    for (group, stats) in list.consume_stats_list.into_iter().flatten() {
        for stats in stats {
            let progress = Progress::new(group.clone(), stats, None);
            let rows = progress.queues.into_iter().filter(|queue| {
                queue.diff >= level && (queue.diff != 0 || queue.last_timestamp > 0)
            });
            queues.extend(rows.map(|queue| GroupQueue {
                group: group.clone(),
                queue,
            }));
        }
    }
    call.out.show(&BrokerProgress {
        broker,
        queues,
        diff_total: list.total_diff,
    })
}
