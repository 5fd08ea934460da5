//! Topics: create, change, delete, list, and where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::names::{GroupList, TopicList};
use agena_protocol::bodies::route::{QueueData, TopicRouteData};
use agena_protocol::bodies::stats::TopicStatsTable;
use agena_protocol::bodies::topic_config::{TopicConfig, perm_text};
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX};
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, flag, value};
use crate::failure::Failure;
use crate::remote::reader_address;
use crate::table::{Table, left, rest};
use crate::time_text;

use super::order_conf;

pub(crate) const UPDATE_TOPIC: SubCommand = SubCommand {
    name: "updateTopic",
    about: "Update or create topic.",
    options: &[
        value('b', "brokerAddr", "create topic to which broker").one_of(),
        value('c', "clusterName", "create topic to which cluster").one_of(),
        value('t', "topic", "topic name").required(),
        value('r', "readQueueNums", "set read queue nums"),
        value('w', "writeQueueNums", "set write queue nums"),
        value(
            'p',
            "perm",
            "set topic's permission(2|4|6), intro[2:W 4:R; 6:RW]",
        ),
        value('o', "order", "set topic's order(true|false)"),
        value('u', "unit", "is unit topic (true|false)"),
        value('s', "hasUnitSub", "has unit sub (true|false)"),
        value('a', "attributes", "attribute(+a=b,+c=d,-e)"),
    ],
    examples: &[
        example(
            "-c DefaultCluster -t Orders",
            "8 read and 8 write queues on every broker of the cluster",
        ),
        example(
            "-b 127.0.0.1:10911 -t Orders -r 16 -w 16",
            "on one broker only; what is not named is set to its default",
        ),
        example(
            "-c DefaultCluster -t Steps -a +message.type=FIFO",
            "a topic for ordered messages of 5.x clients",
        ),
    ],
    json: r#"per broker {"broker":"ip:port","topicConfig":{"topicName","readQueueNums","writeQueueNums","perm",...}}, then {"orderConf":"..."} with -o true"#,
    run: update_topic,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicCreated<'a> {
    broker: &'a str,
    topic_config: &'a TopicConfig,
}

impl Display for TopicCreated<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "create topic to {} success.", self.broker)
    }
}

fn update_topic(call: &mut Call) -> Result<(), Failure> {
    let config = topic_config(call)?;
    let addresses = call.chosen_brokers("brokerAddr", "clusterName")?;
    for address in &addresses {
        create(call, address, &config)?;
        call.out.show(&TopicCreated {
            broker: address,
            topic_config: &config,
        })?;
    }
    if config.order {
        let written = order_conf::write(
            call,
            &config.topic_name,
            config.write_queue_nums,
            &addresses,
        )?;
        call.out.show(&written)?;
    }
    call.out.note(Described(&config))
}

fn topic_config(call: &Call) -> Result<TopicConfig, Failure> {
    let options = &call.options;
    let unit = options.truth("unit")?.unwrap_or(false);
    let unit_sub = options.truth("hasUnitSub")?.unwrap_or(false);
    Ok(TopicConfig {
        topic_name: options.required("topic")?.to_owned(),
        read_queue_nums: options.number("readQueueNums")?.unwrap_or(8),
        write_queue_nums: options.number("writeQueueNums")?.unwrap_or(8),
        perm: options.number("perm")?.unwrap_or(6),
        topic_sys_flag: i32::from(unit) | i32::from(unit_sub) << 1,
        order: options.truth("order")?.unwrap_or(false),
        attributes: options
            .get("attributes")
            .map(attributes)
            .transpose()?
            .unwrap_or_default(),
        ..TopicConfig::default()
    })
}

/// `+a=b,-c` as pairs; the sign stays with the name, as the original shows and sends it.
pub(super) fn attributes(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut pairs = BTreeMap::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if !name.starts_with(['+', '-']) || (name.starts_with('+') && value.is_empty()) {
            return Err(Failure::Input(format!(
                "'{part}' is no attribute: write +name=value to set, -name to remove"
            )));
        }
        pairs.insert(name.to_owned(), value.to_owned());
    }
    Ok(pairs)
}

fn create(call: &Call, address: &str, config: &TopicConfig) -> Result<(), Failure> {
    let attributes: Vec<String> = config
        .attributes
        .iter()
        .map(|(name, value)| {
            if value.is_empty() {
                name.clone()
            } else {
                format!("{name}={value}")
            }
        })
        .collect();
    let request = Command::request(RequestCode::UpdateAndCreateTopic)
        .with_ext("topic", &config.topic_name)
        .with_ext("defaultTopic", agena_protocol::topic::AUTO_CREATE)
        .with_ext("readQueueNums", config.read_queue_nums)
        .with_ext("writeQueueNums", config.write_queue_nums)
        .with_ext("perm", config.perm)
        .with_ext("topicFilterType", "SINGLE_TAG")
        .with_ext("topicSysFlag", config.topic_sys_flag)
        .with_ext("order", config.order)
        .with_ext("attributes", attributes.join(","));
    call.remote
        .ask(
            &format!("creating topic {}", config.topic_name),
            address,
            request,
        )
        .map(drop)
}

/// A topic's settings in the original's words.
struct Described<'a>(&'a TopicConfig);

impl Display for Described<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let config = self.0;
        let attributes: Vec<String> = config
            .attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        write!(
            f,
            "TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, perm={}, topicFilterType={}, \
             topicSysFlag={}, order={}, attributes={{{}}}]",
            config.topic_name,
            config.read_queue_nums,
            config.write_queue_nums,
            perm_text(config.perm),
            config.topic_filter_type,
            config.topic_sys_flag,
            config.order,
            attributes.join(", ")
        )
    }
}

pub(crate) const UPDATE_TOPIC_PERM: SubCommand = SubCommand {
    name: "updateTopicPerm",
    about: "Update topic perm.",
    options: &[
        value('b', "brokerAddr", "create topic to which broker"),
        value('c', "clusterName", "create topic to which cluster"),
        value('t', "topic", "topic name").required(),
        value(
            'p',
            "perm",
            "set topic's permission(2|4|6), intro[2:W; 4:R; 6:RW]",
        )
        .required(),
    ],
    examples: &[
        example(
            "-c DefaultCluster -t Orders -p 4",
            "no more sends; consumers go on reading",
        ),
        example(
            "-b 127.0.0.1:10911 -t Orders -p 6",
            "read and write on one broker",
        ),
    ],
    json: r#"per broker {"broker":"ip:port","topic","from":6,"to":4,"changed":true}"#,
    run: update_topic_perm,
};

#[derive(Serialize)]
struct PermChanged<'a> {
    broker: &'a str,
    topic: &'a str,
    from: i32,
    to: i32,
    changed: bool,
}

impl Display for PermChanged<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.changed {
            writeln!(
                f,
                "update topic perm from {} to {} in {} success.",
                self.from, self.to, self.broker
            )
        } else {
            writeln!(f, "new perm equals to the old one!")
        }
    }
}

fn update_topic_perm(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let perm = call.options.number("perm")?.unwrap_or(6);
    let route = call.remote.route(&topic)?;
    let single = call.options.get("brokerAddr").is_some();
    for address in call.chosen_brokers("brokerAddr", "clusterName")? {
        let config = config_on(call, &topic, &route, &address)?;
        let changed = config.perm != perm;
        let updated = TopicConfig {
            perm,
            ..config.clone()
        };
        if changed {
            create(call, &address, &updated)?;
        }
        let from = config.perm;
        call.out.show(&PermChanged {
            broker: &address,
            topic: &topic,
            from,
            to: perm,
            changed,
        })?;
        if changed && single {
            call.out.note(format_args!("{}.", Described(&updated)))?;
        }
    }
    Ok(())
}

/// A topic's settings on one broker, as far as its route tells them.
fn config_on(
    call: &Call,
    topic: &str,
    route: &TopicRouteData,
    address: &str,
) -> Result<TopicConfig, Failure> {
    let broker = route
        .broker_datas
        .iter()
        .find(|broker| broker.broker_addrs.get(&0).is_some_and(|a| a == address));
    let queues = broker.and_then(|broker| {
        route
            .queue_datas
            .iter()
            .find(|queues| queues.broker_name == broker.broker_name)
    });
    let Some(queues) = queues else {
        return Err(Failure::Absent(format!(
            "topic {topic} is not on a master at {address}"
        )));
    };
    let request = Command::request(RequestCode::GetTopicConfig).with_ext("topic", topic);
    let step = format!("asking for the settings of topic {topic}");
    let stored: Result<TopicConfig, Failure> = call.remote.ask_for(&step, address, request);
    // Attributes are kept as they are by naming none: the broker changes only those that are named.
    Ok(TopicConfig {
        topic_name: topic.to_owned(),
        read_queue_nums: queues.read_queue_nums,
        write_queue_nums: queues.write_queue_nums,
        perm: queues.perm,
        topic_sys_flag: queues.topic_sys_flag,
        order: stored.is_ok_and(|config| config.order),
        ..TopicConfig::default()
    })
}

pub(crate) const DELETE_TOPIC: SubCommand = SubCommand {
    name: "deleteTopic",
    about: "Delete topic from broker and NameServer.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('c', "clusterName", "delete topic from which cluster").required(),
    ],
    examples: &[example(
        "-c DefaultCluster -t Orders",
        "messages, queues and offsets of the topic are gone afterwards",
    )],
    json: r#"{"topic","cluster","brokers":["ip:port"],"nameServers":["ip:port"]}"#,
    run: delete_topic,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicDeleted<'a> {
    topic: &'a str,
    cluster: &'a str,
    brokers: Vec<String>,
    name_servers: Vec<String>,
}

impl Display for TopicDeleted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "delete topic [{}] from cluster [{}] success.",
            self.topic, self.cluster
        )?;
        writeln!(f, "delete topic [{}] from NameServer success.", self.topic)
    }
}

fn delete_topic(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let cluster = call.options.required("clusterName")?.to_owned();
    let brokers = call.remote.members(&cluster)?;
    delete_on_brokers(call, &topic, &brokers)?;
    let name_servers = delete_on_name_servers(call, &topic, &cluster)?;
    call.out.show(&TopicDeleted {
        topic: &topic,
        cluster: &cluster,
        brokers,
        name_servers,
    })
}

/// Deletes a topic on brokers.
pub(super) fn delete_on_brokers(
    call: &Call,
    topic: &str,
    brokers: &[String],
) -> Result<(), Failure> {
    let step = format!("deleting topic {topic}");
    for address in brokers {
        let request = Command::request(RequestCode::DeleteTopicInBroker).with_ext("topic", topic);
        call.remote.ask(&step, address, request)?;
    }
    Ok(())
}

/// Deletes a cluster's routes of a topic on every name server.
pub(super) fn delete_on_name_servers(
    call: &Call,
    topic: &str,
    cluster: &str,
) -> Result<Vec<String>, Failure> {
    let step = format!("deleting the route of topic {topic}");
    for address in call.remote.name_servers() {
        let request = Command::request(RequestCode::DeleteTopicInNamesrv)
            .with_ext("topic", topic)
            .with_ext("clusterName", cluster);
        call.remote.ask(&step, address, request)?;
    }
    Ok(call.remote.name_servers().to_vec())
}

pub(crate) const TOPIC_LIST: SubCommand = SubCommand {
    name: "topicList",
    about: "Fetch all topic list from name server.",
    options: &[flag('c', "clusterModel", "clusterModel")],
    examples: &[
        example("", "one name a line, %RETRY% and system topics included"),
        example(
            "-c",
            "with cluster and consumer groups, without %RETRY% and %DLQ%",
        ),
    ],
    json: r#"{"topics":["name"]}; with -c {"topics":[{"cluster","topic","groups":["name"]}]}"#,
    run: topic_list,
};

#[derive(Serialize)]
struct TopicNames {
    topics: Vec<String>,
}

impl Display for TopicNames {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.topics
            .iter()
            .try_for_each(|topic| writeln!(f, "{topic}"))
    }
}

#[derive(Serialize)]
struct TopicGroups {
    topics: Vec<TopicGroupsRow>,
}

#[derive(Serialize)]
struct TopicGroupsRow {
    cluster: String,
    topic: String,
    groups: Vec<String>,
}

/// The original's titles stand closer together than its rows.
const TOPIC_GROUPS_HEAD: Table = Table(&[
    left("#Cluster Name", 20),
    left("#Topic", 48),
    left("#Consumer Group", 48),
]);
const TOPIC_GROUPS: Table = Table(&[left("", 20).cut(), left("", 64).cut(), left("", 64).cut()]);

impl Display for TopicGroups {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        TOPIC_GROUPS_HEAD.head(f)?;
        for row in &self.topics {
            if row.groups.is_empty() {
                TOPIC_GROUPS.row(f, &[&row.cluster, &row.topic, &""])?;
            }
            for group in &row.groups {
                TOPIC_GROUPS.row(f, &[&row.cluster, &row.topic, group])?;
            }
        }
        Ok(())
    }
}

fn topic_list(call: &mut Call) -> Result<(), Failure> {
    let topics = all_topics(call)?;
    if !call.options.is_set("clusterModel") {
        return call.out.show(&TopicNames { topics });
    }
    let mut rows = Vec::new();
    for topic in topics {
        if topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX) {
            continue;
        }
        rows.push(topic_groups(call, topic));
    }
    call.out.show(&TopicGroups { topics: rows })
}

/// A topic may vanish while the list is made, or have no broker left: then cluster and groups stay empty.
fn topic_groups(call: &Call, topic: String) -> TopicGroupsRow {
    let route = call.remote.route(&topic).unwrap_or_default();
    let cluster = route
        .broker_datas
        .first()
        .map(|broker| broker.cluster.clone())
        .unwrap_or_default();
    let groups = groups_of(call, &topic, &route).unwrap_or_default();
    TopicGroupsRow {
        cluster,
        topic,
        groups,
    }
}

/// The names of all topics.
pub(super) fn all_topics(call: &Call) -> Result<Vec<String>, Failure> {
    let request = Command::request(RequestCode::GetAllTopicListFromNameserver);
    let list: TopicList = call
        .remote
        .ask_name_server_for("asking for all topics", &request)?;
    Ok(list.topic_list)
}

/// The groups that consume a topic, by the first broker that has it, as the original asks.
pub(crate) fn groups_of(
    call: &Call,
    topic: &str,
    route: &TopicRouteData,
) -> Result<Vec<String>, Failure> {
    let Some(address) = route.broker_datas.iter().find_map(reader_address) else {
        return Ok(Vec::new());
    };
    let request = Command::request(RequestCode::QueryTopicConsumeByWho).with_ext("topic", topic);
    let step = format!("asking who consumes topic {topic}");
    let list: GroupList = call.remote.ask_for(&step, &address, request)?;
    Ok(list.group_list.into_iter().collect())
}

pub(crate) const TOPIC_ROUTE: SubCommand = SubCommand {
    name: "topicRoute",
    about: "Examine topic route info.",
    options: &[
        value('t', "topic", "topic name").required(),
        flag('l', "list", "Use list format to print data"),
    ],
    examples: &[
        example(
            "-t Orders",
            "which brokers have the topic, with how many queues and which permission",
        ),
        example("-t Orders -l", "the same as a table with totals"),
    ],
    json: r#"{"brokerDatas":[{"brokerAddrs":{"0":"ip:port"},"brokerName","cluster",...}],"queueDatas":[{"brokerName","perm","readQueueNums","writeQueueNums","topicSysFlag"}],...}"#,
    run: topic_route,
};

/// A route as the original prints it: its JSON dialect, indented.
#[derive(Serialize)]
#[serde(transparent)]
struct Route(TopicRouteData);

impl Display for Route {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}",
            String::from_utf8_lossy(&fastjson::to_vec_pretty(&self.0))
        )
    }
}

/// A route as a table.
#[derive(Serialize)]
#[serde(transparent)]
struct RouteList(TopicRouteData);

const ROUTE_LIST: Table = Table(&[
    left("#ClusterName", 45),
    left("#BrokerName", 32).gap(1),
    left("#BrokerAddrs", 50).gap(1),
    left("#ReadQueue", 10).gap(1),
    left("#WriteQueue", 11).gap(1),
    left("#Perm", 5).gap(1),
]);

impl Display for RouteList {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        ROUTE_LIST.head(f)?;
        let route = &self.0;
        for queues in &route.queue_datas {
            let Some(broker) = route
                .broker_datas
                .iter()
                .find(|broker| broker.broker_name == queues.broker_name)
            else {
                continue;
            };
            let addresses: Vec<String> = broker
                .broker_addrs
                .iter()
                .map(|(id, address)| format!("{id}={address}"))
                .collect();
            let addresses = format!("{{{}}}", addresses.join(", "));
            ROUTE_LIST.row(
                f,
                &[
                    &broker.cluster,
                    &broker.broker_name,
                    &addresses,
                    &queues.read_queue_nums,
                    &queues.write_queue_nums,
                    &queues.perm,
                ],
            )?;
        }
        writeln!(f, "{}", "-".repeat(158))?;
        let total = |count: fn(&QueueData) -> i32| -> i64 {
            route
                .queue_datas
                .iter()
                .map(|queues| i64::from(count(queues)))
                .sum()
        };
        let (read, write) = (
            total(|queues| queues.read_queue_nums),
            total(|queues| queues.write_queue_nums),
        );
        ROUTE_LIST.row(
            f,
            &[
                &"Total:",
                &route.broker_datas.len(),
                &"",
                &read,
                &write,
                &"",
            ],
        )
    }
}

fn topic_route(call: &mut Call) -> Result<(), Failure> {
    let mut route = call.remote.route(call.options.required("topic")?)?;
    route
        .queue_datas
        .sort_by(|a, b| a.broker_name.cmp(&b.broker_name));
    if call.options.is_set("list") {
        call.out.show(&RouteList(route))
    } else {
        call.out.show(&Route(route))
    }
}

pub(crate) const TOPIC_STATUS: SubCommand = SubCommand {
    name: "topicStatus",
    about: "Examine topic Status info.",
    options: &[
        value('t', "topic", "topic name").required(),
        value(
            'c',
            "cluster",
            "cluster name or lmq parent topic, lmq is used to find the route.",
        ),
    ],
    examples: &[example(
        "-t Orders",
        "first and next offset of every queue, and when the last message was stored",
    )],
    json: r#"{"topic","queues":[{"brokerName","queueId","minOffset","maxOffset","lastUpdateTimestamp"}],"topicPutTps":0.0}"#,
    run: topic_status,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicStatus {
    topic: String,
    queues: Vec<QueueStatus>,
    topic_put_tps: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueStatus {
    broker_name: String,
    queue_id: i32,
    min_offset: i64,
    max_offset: i64,
    last_update_timestamp: i64,
}

const QUEUE_STATUS: Table = Table(&[
    left("#Broker Name", 32).cut(),
    left("#QID", 4),
    left("#Min Offset", 20),
    left("#Max Offset", 20),
    rest("#Last Updated").gap(4),
]);

impl Display for TopicStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        QUEUE_STATUS.head(f)?;
        for queue in &self.queues {
            let updated = if queue.last_update_timestamp > 0 {
                time_text::millis(queue.last_update_timestamp)
            } else {
                String::new()
            };
            QUEUE_STATUS.row(
                f,
                &[
                    &queue.broker_name,
                    &queue.queue_id,
                    &queue.min_offset,
                    &queue.max_offset,
                    &updated,
                ],
            )?;
        }
        writeln!(f, "\nTopic Put TPS: {:?}", self.topic_put_tps)
    }
}

fn topic_status(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    // A light queue has no route of its own: that of the cluster or parent topic leads to its broker.
    let route = call
        .remote
        .route(call.options.get("cluster").unwrap_or(&topic))?;
    let mut status = TopicStatus {
        topic: topic.clone(),
        queues: Vec::new(),
        topic_put_tps: 0.0,
    };
    for address in route.broker_datas.iter().filter_map(reader_address) {
        let stats = stats_of(call, &topic, &address)?;
        status.topic_put_tps += stats.topic_put_tps;
        status.queues.extend(
            stats
                .offset_table
                .into_iter()
                .map(|(queue, offsets)| QueueStatus {
                    broker_name: queue.broker_name,
                    queue_id: queue.queue_id,
                    min_offset: offsets.min_offset,
                    max_offset: offsets.max_offset,
                    last_update_timestamp: offsets.last_update_timestamp,
                }),
        );
    }
    if status.queues.is_empty() {
        return Err(Failure::Absent(format!(
            "no broker has queues of topic {topic}"
        )));
    }
    status
        .queues
        .sort_by(|a, b| (&a.broker_name, a.queue_id).cmp(&(&b.broker_name, b.queue_id)));
    call.out.show(&status)
}

/// First and next offsets of a topic's queues on one broker.
pub(super) fn stats_of(
    call: &Call,
    topic: &str,
    address: &str,
) -> Result<TopicStatsTable, Failure> {
    let request = Command::request(RequestCode::GetTopicStatsInfo).with_ext("topic", topic);
    call.remote.ask_for(
        &format!("asking for the offsets of topic {topic}"),
        address,
        request,
    )
}

pub(crate) const TOPIC_CLUSTER_LIST: SubCommand = SubCommand {
    name: "topicClusterList",
    about: "Get cluster info for topic.",
    options: &[value('t', "topic", "topic name").required()],
    examples: &[example(
        "-t Orders",
        "the clusters that have the topic, one name a line",
    )],
    json: r#"{"topic","clusters":["name"]}"#,
    run: topic_cluster_list,
};

#[derive(Serialize)]
struct TopicClusters {
    topic: String,
    clusters: BTreeSet<String>,
}

impl Display for TopicClusters {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.clusters
            .iter()
            .try_for_each(|cluster| writeln!(f, "{cluster}"))
    }
}

fn topic_cluster_list(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let route = call.remote.route(&topic)?;
    let clusters = route
        .broker_datas
        .into_iter()
        .map(|broker| broker.cluster)
        .collect();
    call.out.show(&TopicClusters { topic, clusters })
}
