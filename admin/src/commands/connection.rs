//! Who is connected: members of consumer groups, producers.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::connections::{
    Connection, ConsumerConnection, ProducerConnection, ProducerTableInfo, SubscriptionConflict,
};
use agena_protocol::bodies::heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel};
use agena_protocol::bodies::running_info::ConsumerRunningInfo;
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic::RETRY_PREFIX;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, flag, value};
use crate::failure::Failure;
use crate::remote::{body, reader_address};
use crate::table::{Table, left, rest};
use crate::version_name::version_name;

use super::lag::opinions;
use super::progress::{connections, route_of_group, running_info_question};

/// One connected client.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    client_id: String,
    client_addr: String,
    language: String,
    version: String,
}

fn clients(connections: impl IntoIterator<Item = Connection>) -> Vec<Client> {
    let mut clients: Vec<Client> = connections
        .into_iter()
        .map(|connection| Client {
            client_id: connection.client_id,
            client_addr: connection.client_addr,
            language: connection.language,
            version: version_name(connection.version),
        })
        .collect();
    clients.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    clients
}

pub(crate) const CONSUMER_CONNECTION: SubCommand = SubCommand {
    name: "consumerConnection",
    about: "Query consumer's socket connection, client version and subscription.",
    options: &[
        value('g', "consumerGroup", "consumer group name").required(),
        value('b', "brokerAddr", "broker address"),
    ],
    examples: &[example(
        "-g Billing",
        "the group's members and what they subscribe to",
    )],
    json: r#"{"group","clients":[{"clientId","clientAddr","language","version"}],"subscriptions":{"topic":"expression"},"subscriptionConflicts":[{"topic","members":[{"clientId","expression"}]}],"consumeType","messageModel","consumeFromWhere"}"#,
    run: consumer_connection,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Consumers {
    group: String,
    clients: Vec<Client>,
    subscriptions: BTreeMap<String, String>,
    subscription_conflicts: Vec<SubscriptionConflict>,
    consume_type: ConsumeType,
    message_model: MessageModel,
    consume_from_where: ConsumeFromWhere,
}

const CONSUMERS: Table = Table(&[
    left("#ClientId", 36),
    left("#ClientAddr", 22).gap(1),
    left("#Language", 10).gap(1),
    rest("#Version").gap(1),
]);
const SUBSCRIPTIONS: Table = Table(&[left("#Topic", 20), rest("#SubExpression").gap(1)]);

impl Display for Consumers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        CONSUMERS.head(f)?;
        for client in &self.clients {
            CONSUMERS.row(
                f,
                &[
                    &client.client_id,
                    &client.client_addr,
                    &client.language,
                    &client.version,
                ],
            )?;
        }
        writeln!(f, "\nBelow is subscription:")?;
        SUBSCRIPTIONS.head(f)?;
        for (topic, expression) in &self.subscriptions {
            SUBSCRIPTIONS.row(f, &[topic, expression])?;
        }
        writeln!(f, "\nConsumeType: {}", self.consume_type)?;
        writeln!(f, "MessageModel: {}", self.message_model)?;
        writeln!(f, "ConsumeFromWhere: {}", self.consume_from_where)?;
        for conflict in &self.subscription_conflicts {
            let opinions = opinions(&conflict.members);
            writeln!(
                f,
                "\nWARN: members subscribe {} differently: {opinions}",
                conflict.topic
            )?;
        }
        Ok(())
    }
}

fn consumer_connection(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("consumerGroup")?.to_owned();
    let connection = members(call, &group)?;
    let subscriptions = connection
        .subscription_table
        .into_iter()
        .map(|(topic, data)| (topic, data.sub_string))
        .collect();
    call.out.show(&Consumers {
        group,
        clients: clients(connection.connection_set),
        subscriptions,
        subscription_conflicts: connection.subscription_conflicts,
        consume_type: connection.consume_type,
        message_model: connection.message_model,
        consume_from_where: connection.consume_from_where,
    })
}

/// The members of a group, by the broker of `-b` or the first that has any.
fn members(call: &Call, group: &str) -> Result<ConsumerConnection, Failure> {
    if let Some(address) = call.options.get("brokerAddr") {
        return connections(call, group, address);
    }
    let route = call.remote.route(&format!("{RETRY_PREFIX}{group}"))?;
    let mut outcome = Err(Failure::Absent(format!(
        "no broker has members of group {group}"
    )));
    for address in route.broker_datas.iter().filter_map(reader_address) {
        outcome = connections(call, group, &address);
        if outcome
            .as_ref()
            .is_ok_and(|members| !members.connection_set.is_empty())
        {
            break;
        }
    }
    outcome
}

pub(crate) const PRODUCER_CONNECTION: SubCommand = SubCommand {
    name: "producerConnection",
    about: "Query producer's socket connection and client version.",
    options: &[
        value('g', "producerGroup", "producer group name").required(),
        value('t', "topic", "topic name").required(),
    ],
    examples: &[example(
        "-g OrderService -t Orders",
        "the producers of a group, as the topic's brokers see them",
    )],
    json: r#"{"group","clients":[{"clientId","clientAddr","language","version"}]}"#,
    run: producer_connection,
};

#[derive(Serialize)]
struct Producers {
    group: String,
    clients: Vec<Client>,
}

const PRODUCERS: Table = Table(&[
    left("", 4),
    left("", 32),
    left("", 22).gap(1),
    left("", 8).gap(1),
    rest("").gap(1),
]);

impl Display for Producers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, client) in self.clients.iter().enumerate() {
            let number = format!("{:04}", number + 1);
            PRODUCERS.row(
                f,
                &[
                    &number,
                    &client.client_id,
                    &client.client_addr,
                    &client.language,
                    &client.version,
                ],
            )?;
        }
        Ok(())
    }
}

fn producer_connection(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("producerGroup")?.to_owned();
    let route = call.remote.route(call.options.required("topic")?)?;
    let mut outcome = Err(Failure::Absent(format!(
        "no broker has producers of group {group}"
    )));
    for address in route.broker_datas.iter().filter_map(reader_address) {
        let request = Command::request(RequestCode::GetProducerConnectionList)
            .with_ext("producerGroup", &group);
        let step = format!("asking for the producers of group {group}");
        let answer: Result<ProducerConnection, Failure> =
            call.remote.ask_for(&step, &address, request);
        let found = answer.is_ok();
        outcome = answer;
        if found {
            break;
        }
    }
    call.out.show(&Producers {
        group,
        clients: clients(outcome?.connection_set),
    })
}

pub(crate) const PRODUCER: SubCommand = SubCommand {
    name: "producer",
    about: "Query producer's instances, connection, status, etc.",
    options: &[value('b', "broker", "broker address").required()],
    examples: &[example(
        "-b 127.0.0.1:10911",
        "every producer that is connected to the broker",
    )],
    json: r#"{"broker","producers":{"group":[{"clientId","remoteIP","language","version","lastUpdateTimestamp"}]}}"#,
    run: producer,
};

#[derive(Serialize)]
struct AllProducers {
    broker: String,
    producers: ProducerTableInfo,
}

impl Display for AllProducers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (group, instances) in &self.producers.data {
            for instance in instances {
                writeln!(
                    f,
                    "producer group ({group}) instance : clientId={},remoteIP={}, language={}, version={}, lastUpdateTimestamp={}",
                    instance.client_id,
                    instance.remote_ip,
                    instance.language,
                    instance.version,
                    instance.last_update_timestamp
                )?;
            }
        }
        Ok(())
    }
}

fn producer(call: &mut Call) -> Result<(), Failure> {
    let broker = call.options.required("broker")?.to_owned();
    let request = Command::request(RequestCode::GetAllProducerInfo);
    let producers = call
        .remote
        .ask_for("asking for all producers", &broker, request)?;
    call.out.show(&AllProducers { broker, producers })
}

pub(crate) const CONSUMER_STATUS: SubCommand = SubCommand {
    name: "consumerStatus",
    about: "Query consumer's internal data structure.",
    options: &[
        value('g', "consumerGroup", "consumer group name").required(),
        value('i', "clientId", "The consumer's client id"),
        value('b', "brokerAddr", "broker address"),
        flag('s', "jstack", "Run jstack command in the consumer progress"),
    ],
    examples: &[
        example(
            "-g Billing",
            "asks every member for its queues and settings, and says whether they agree",
        ),
        example(
            "-g Billing -i 10.0.0.7@4711 -s",
            "one member, with the stacks of its threads",
        ),
    ],
    json: r#"per member {"clientId","version","properties":{},"subscriptions":{"topic":"expression"},"queues":[{"topic","brokerName","queueId","commitOffset","cachedMessages","locked","lastPullTimestamp","lastConsumeTimestamp"}],"jstack"}, then {"sameSubscription":true,"rebalanceOk":true}"#,
    run: consumer_status,
};

/// A member's state, as it tells it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    client_id: String,
    version: String,
    properties: BTreeMap<String, String>,
    subscriptions: BTreeMap<String, String>,
    queues: Vec<MemberQueue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jstack: Option<String>,
    #[serde(skip)]
    number: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberQueue {
    topic: String,
    broker_name: String,
    queue_id: i32,
    commit_offset: i64,
    cached_messages: i64,
    locked: bool,
    last_pull_timestamp: i64,
    last_consume_timestamp: i64,
}

impl Member {
    fn new(connection: &Connection, info: ConsumerRunningInfo, number: Option<usize>) -> Self {
        let mut queues: Vec<MemberQueue> = info
            .mq_table
            .into_iter()
            .map(|(queue, state)| MemberQueue {
                topic: queue.topic,
                broker_name: queue.broker_name,
                queue_id: queue.queue_id,
                commit_offset: state.commit_offset,
                cached_messages: i64::from(state.cached_msg_count),
                locked: state.locked,
                last_pull_timestamp: state.last_pull_timestamp,
                last_consume_timestamp: state.last_consume_timestamp,
            })
            .collect();
        queues.sort_by(|a, b| {
            (&a.topic, &a.broker_name, a.queue_id).cmp(&(&b.topic, &b.broker_name, b.queue_id))
        });
        Self {
            client_id: connection.client_id.clone(),
            version: version_name(connection.version),
            properties: info.properties.into_iter().collect(),
            subscriptions: info
                .subscription_set
                .into_iter()
                .map(|data| (data.topic, data.sub_string))
                .collect(),
            queues,
            jstack: info.jstack,
            number,
        }
    }

    fn block(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "#Consumer Properties#")?;
        for (key, value) in &self.properties {
            writeln!(f, "{key:<40}: {value}")?;
        }
        writeln!(f, "\n\n#Consumer Subscription#")?;
        for (number, (topic, expression)) in self.subscriptions.iter().enumerate() {
            writeln!(
                f,
                "{number:03} Topic: {topic:<40} SubExpression: {expression}"
            )?;
        }
        writeln!(f, "\n\n#Consumer Offset#")?;
        MEMBER_OFFSETS.head(f)?;
        for queue in &self.queues {
            MEMBER_OFFSETS.row(
                f,
                &[
                    &queue.topic,
                    &queue.broker_name,
                    &queue.queue_id,
                    &queue.commit_offset,
                ],
            )?;
        }
        if let Some(stacks) = &self.jstack {
            writeln!(f, "\n\n#Consumer jstack#\n{stacks}")?;
        }
        Ok(())
    }
}

const MEMBER_OFFSETS: Table = Table(&[
    left("#Topic", 64).cut(),
    left("#Broker Name", 32),
    left("#QID", 4),
    rest("#Consumer Offset"),
]);
const MEMBERS: Table = Table(&[
    left("#Index", 10),
    left("#ClientId", 40).gap(1),
    left("#Version", 20).gap(1),
    rest("#ConsumerRunningInfoFile").gap(1),
]);

impl Display for Member {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // The original writes a file for each member; here `-i` or `--json` show what would be in it.
        let Some(number) = self.number else {
            return self.block(f);
        };
        let where_to_look = format!("-i {}", self.client_id);
        MEMBERS.row(
            f,
            &[&number, &self.client_id, &self.version, &where_to_look],
        )
    }
}

/// What the members' states say together.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Agreement {
    same_subscription: bool,
    rebalance_ok: bool,
}

impl Display for Agreement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let same = if self.same_subscription {
            "Same"
        } else {
            "WARN: Different"
        };
        writeln!(f, "\n\n{same} subscription in the same group of consumer")?;
        writeln!(
            f,
            "\n{}",
            if self.rebalance_ok {
                "Rebalance OK"
            } else {
                "WARN: Rebalance not OK: a queue has two owners"
            }
        )
    }
}

struct Heading;

impl Display for Heading {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        MEMBERS.head(f)
    }
}

fn consumer_status(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("consumerGroup")?.to_owned();
    let only = call.options.get("clientId").map(str::to_owned);
    let stacks = call.options.is_set("jstack");
    let address = match call.options.get("brokerAddr") {
        Some(address) => address.to_owned(),
        None => route_of_group(call, &group, None)?
            .broker_datas
            .iter()
            .find_map(reader_address)
            .ok_or_else(|| Failure::Absent(format!("no broker has group {group}")))?,
    };
    let connection = connections(call, &group, &address)?;
    let chosen: Vec<&Connection> = connection
        .connection_set
        .iter()
        .filter(|member| only.as_ref().is_none_or(|id| *id == member.client_id))
        .collect();
    if chosen.is_empty() {
        return Err(Failure::Absent(format!(
            "group {group} has no such member; see consumerConnection -g {group}"
        )));
    }
    let mut members = Vec::new();
    for (index, member) in chosen.into_iter().enumerate() {
        let mut question = running_info_question(&group, &member.client_id, &address);
        question.request = question.request.with_ext("jstackEnable", stacks);
        let answer = call
            .remote
            .ask(&question.step, &address, question.request)?;
        let info: ConsumerRunningInfo = body("reading a client's state", &address, &answer)?;
        members.push(Member::new(
            member,
            info,
            only.is_none().then_some(index + 1),
        ));
    }
    show_members(call, &members, only.is_none())
}

fn show_members(call: &mut Call, members: &[Member], all: bool) -> Result<(), Failure> {
    if all {
        call.out.note(Heading.to_string().trim_end())?;
    }
    for member in members {
        call.out.show(member)?;
    }
    if !all {
        return Ok(());
    }
    call.out.show(&Agreement {
        same_subscription: members
            .windows(2)
            .all(|pair| pair[0].subscriptions == pair[1].subscriptions),
        rebalance_ok: one_owner_each(members),
    })
}

/// Whether no queue is consumed by two members.
fn one_owner_each(members: &[Member]) -> bool {
    let mut seen = std::collections::HashSet::new();
    let queues = members.iter().flat_map(|member| &member.queues);
    queues
        .map(|queue| (&queue.topic, &queue.broker_name, queue.queue_id))
        .all(|queue| seen.insert(queue))
}
