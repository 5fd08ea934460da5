//! Consumer groups: create, change, delete, show.

use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::subscription_group::{
    SubscriptionGroupConfig, SubscriptionGroupWrapper,
};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX};
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, long_value, value};
use crate::failure::Failure;

use super::topic::{attributes, delete_on_brokers, delete_on_name_servers};

pub(crate) const UPDATE_SUB_GROUP: SubCommand = SubCommand {
    name: "updateSubGroup",
    about: "Update or create subscription group.",
    options: &[
        value(
            'b',
            "brokerAddr",
            "create subscription group to which broker",
        ),
        value(
            'c',
            "clusterName",
            "create subscription group to which cluster",
        ),
        value('g', "groupName", "consumer group name").required(),
        value('s', "consumeEnable", "consume enable"),
        value('m', "consumeFromMinEnable", "from min offset"),
        value('d', "consumeBroadcastEnable", "broadcast"),
        value('o', "consumeMessageOrderly", "consume message orderly"),
        value('q', "retryQueueNums", "retry queue nums"),
        value('r', "retryMaxTimes", "retry max times"),
        value(
            'p',
            "groupRetryPolicy",
            "the json string of retry policy ( exp: \
             {\"type\":\"EXPONENTIAL\",\"exponentialRetryPolicy\":{\"initial\":5000,\"max\":7200000,\"multiplier\":2}} \
             {\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[1000,5000,10000]}} )",
        ),
        value('i', "brokerId", "consumer from which broker id"),
        value(
            'w',
            "whichBrokerWhenConsumeSlowly",
            "which broker id when consume slowly",
        ),
        value('a', "notifyConsumerIdsChanged", "notify consumerId changed"),
        long_value("attributes", "attribute(+a=b,+c=d,-e)"),
    ],
    examples: &[
        example(
            "-c DefaultCluster -g Billing -r 5",
            "after 5 failed retries a message goes to %DLQ%Billing",
        ),
        example(
            "-c DefaultCluster -g Billing -s false",
            "nobody in the group gets messages until -s true",
        ),
        example(
            "-c DefaultCluster -g Steps -o true",
            "5.x clients get the group's messages in order",
        ),
    ],
    json: r#"per broker {"broker":"ip:port","groupConfig":{"groupName","consumeEnable","retryMaxTimes",...}}"#,
    run: update_sub_group,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupCreated<'a> {
    broker: &'a str,
    group_config: &'a SubscriptionGroupConfig,
}

impl Display for GroupCreated<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "create subscription group to {} success.", self.broker)
    }
}

fn update_sub_group(call: &mut Call) -> Result<(), Failure> {
    let config = group_config(call)?;
    let body = fastjson::to_vec(&config, KeyStyle::Quoted);
    for broker in &call.chosen_brokers("brokerAddr", "clusterName")? {
        let request =
            Command::request(RequestCode::UpdateAndCreateSubscriptiongroup).with_body(body.clone());
        call.remote.ask(
            &format!("creating group {}", config.group_name),
            broker,
            request,
        )?;
        call.out.show(&GroupCreated {
            broker,
            group_config: &config,
        })?;
    }
    call.out.note(Described(&config))
}

/// Every call overwrites all settings, as the original's does: what is not named gets its default.
fn group_config(call: &Call) -> Result<SubscriptionGroupConfig, Failure> {
    let options = &call.options;
    let standard = SubscriptionGroupConfig::default();
    let retry_policy = match options.get("groupRetryPolicy") {
        None => standard.group_retry_policy.clone(),
        Some(text) => fastjson::from_slice(text.as_bytes())
            .map_err(|error| Failure::Input(format!("-p takes a retry policy as JSON: {error}")))?,
    };
    Ok(SubscriptionGroupConfig {
        group_name: options.required("groupName")?.to_owned(),
        consume_enable: options.truth("consumeEnable")?.unwrap_or(true),
        consume_from_min_enable: options.truth("consumeFromMinEnable")?.unwrap_or(false),
        consume_broadcast_enable: options.truth("consumeBroadcastEnable")?.unwrap_or(false),
        consume_message_orderly: options.truth("consumeMessageOrderly")?.unwrap_or(false),
        retry_queue_nums: options
            .number("retryQueueNums")?
            .unwrap_or(standard.retry_queue_nums),
        retry_max_times: options
            .number("retryMaxTimes")?
            .unwrap_or(standard.retry_max_times),
        group_retry_policy: retry_policy,
        broker_id: options.number("brokerId")?.unwrap_or(standard.broker_id),
        which_broker_when_consume_slowly: options
            .number("whichBrokerWhenConsumeSlowly")?
            .unwrap_or(standard.which_broker_when_consume_slowly),
        notify_consumer_ids_changed_enable: options
            .truth("notifyConsumerIdsChanged")?
            .unwrap_or(true),
        attributes: options
            .get("attributes")
            .map(attributes)
            .transpose()?
            .unwrap_or_default(),
        ..standard
    })
}

/// The settings as names and texts, in the order in which the original's class has them.
fn fields(config: &SubscriptionGroupConfig) -> Vec<(&'static str, String)> {
    let attributes: Vec<String> = config
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    vec![
        ("groupName", config.group_name.clone()),
        ("consumeEnable", config.consume_enable.to_string()),
        (
            "consumeFromMinEnable",
            config.consume_from_min_enable.to_string(),
        ),
        (
            "consumeBroadcastEnable",
            config.consume_broadcast_enable.to_string(),
        ),
        (
            "consumeMessageOrderly",
            config.consume_message_orderly.to_string(),
        ),
        ("retryQueueNums", config.retry_queue_nums.to_string()),
        ("retryMaxTimes", config.retry_max_times.to_string()),
        ("groupRetryPolicy", policy_text(config)),
        ("brokerId", config.broker_id.to_string()),
        (
            "whichBrokerWhenConsumeSlowly",
            config.which_broker_when_consume_slowly.to_string(),
        ),
        (
            "notifyConsumerIdsChangedEnable",
            config.notify_consumer_ids_changed_enable.to_string(),
        ),
        ("groupSysFlag", config.group_sys_flag.to_string()),
        (
            "consumeTimeoutMinute",
            config.consume_timeout_minute.to_string(),
        ),
        ("attributes", format!("{{{}}}", attributes.join(", "))),
    ]
}

fn policy_text(config: &SubscriptionGroupConfig) -> String {
    let policy = &config.group_retry_policy;
    let exponential = policy.exponential_retry_policy.as_ref().map_or_else(
        || "null".to_owned(),
        |steps| {
            let (initial, max) = (steps.initial, steps.max);
            format!(
                "ExponentialRetryPolicy{{initial={initial}, max={max}, multiplier={}}}",
                steps.multiplier
            )
        },
    );
    let customized = policy.customized_retry_policy.as_ref().map_or_else(
        || "null".to_owned(),
        |steps| format!("CustomizedRetryPolicy{{next={:?}}}", steps.next),
    );
    format!(
        "GroupRetryPolicy{{type={}, exponentialRetryPolicy={exponential}, customizedRetryPolicy={customized}}}",
        policy.kind
    )
}

fn subscriptions_text(config: &SubscriptionGroupConfig, none: &str) -> String {
    config.subscription_data_set.as_ref().map_or_else(
        || none.to_owned(),
        |set| {
            let topics: Vec<&str> = set.iter().map(|data| data.topic.as_str()).collect();
            format!("[{}]", topics.join(", "))
        },
    )
}

struct Described<'a>(&'a SubscriptionGroupConfig);

impl Display for Described<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = fields(self.0)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        parts.insert(
            parts.len() - 1,
            format!("subscriptionDataSet={}", subscriptions_text(self.0, "null")),
        );
        write!(f, "SubscriptionGroupConfig{{{}}}", parts.join(", "))
    }
}

pub(crate) const DELETE_SUB_GROUP: SubCommand = SubCommand {
    name: "deleteSubGroup",
    about: "Delete subscription group from broker.",
    options: &[
        value(
            'b',
            "brokerAddr",
            "delete subscription group from which broker",
        ),
        value(
            'c',
            "clusterName",
            "delete subscription group from which cluster",
        ),
        value('g', "groupName", "subscription group name").required(),
        value('r', "removeOffset", "remove offset"),
    ],
    examples: &[
        example(
            "-c DefaultCluster -g Billing",
            "the group and its retry and dead letter topics; offsets stay",
        ),
        example("-c DefaultCluster -g Billing -r true", "offsets too"),
    ],
    json: r#"per broker {"broker":"ip:port","group","cluster":"name" or null,"offsetsRemoved":true}"#,
    run: delete_sub_group,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupDeleted<'a> {
    broker: &'a str,
    group: &'a str,
    cluster: Option<&'a str>,
    offsets_removed: bool,
}

impl Display for GroupDeleted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let within = self
            .cluster
            .map(|name| format!(" in cluster [{name}]"))
            .unwrap_or_default();
        writeln!(
            f,
            "delete subscription group [{}] from broker [{}]{within} success.",
            self.group, self.broker
        )
    }
}

fn delete_sub_group(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("groupName")?.to_owned();
    let offsets_removed = call.options.truth("removeOffset")?.unwrap_or(false);
    let single = call.options.get("brokerAddr").is_some();
    let cluster = call
        .options
        .get("clusterName")
        .filter(|_| !single)
        .map(str::to_owned);
    for broker in &call.chosen_brokers("brokerAddr", "clusterName")? {
        let request = Command::request(RequestCode::DeleteSubscriptiongroup)
            .with_ext("groupName", &group)
            .with_ext("cleanOffset", offsets_removed);
        call.remote
            .ask(&format!("deleting group {group}"), broker, request)?;
        call.out.show(&GroupDeleted {
            broker,
            group: &group,
            cluster: cluster.as_deref(),
            offsets_removed,
        })?;
    }
    let Some(cluster) = cluster else {
        return Ok(());
    };
    for topic in [
        format!("{RETRY_PREFIX}{group}"),
        format!("{DLQ_PREFIX}{group}"),
    ] {
        delete_on_brokers(call, &topic, &call.remote.members(&cluster)?)?;
        delete_on_name_servers(call, &topic, &cluster)?;
    }
    Ok(())
}

pub(crate) const GET_CONSUMER_CONFIG: SubCommand = SubCommand {
    name: "getConsumerConfig",
    about: "Get consumer config by subscription group name.",
    options: &[value('g', "groupName", "subscription group name").required()],
    examples: &[example(
        "-g Billing",
        "the group's settings on every broker that has it",
    )],
    json: r#"per broker {"cluster","brokerName","groupConfig":{"groupName","consumeEnable","retryMaxTimes",...}}"#,
    run: get_consumer_config,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupSettings<'a> {
    cluster: &'a str,
    broker_name: &'a str,
    group_config: SubscriptionGroupConfig,
}

impl Display for GroupSettings<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bar = "=".repeat(29);
        writeln!(f, "{bar}{}:{}{bar}", self.cluster, self.broker_name)?;
        let mut fields = fields(&self.group_config);
        fields.insert(
            fields.len() - 1,
            (
                "subscriptionDataSet",
                subscriptions_text(&self.group_config, ""),
            ),
        );
        fields
            .iter()
            .try_for_each(|(name, value)| writeln!(f, "{name:<40}=  {value}"))
    }
}

fn get_consumer_config(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("groupName")?.to_owned();
    let clusters = call.remote.clusters()?;
    let mut found = false;
    for broker in clusters.broker_addr_table.values() {
        let Some(address) = broker.broker_addrs.get(&0) else {
            continue;
        };
        // All groups and not the one: asking for one by name (code 352) creates it where groups create themselves.
        let request = Command::request(RequestCode::GetAllSubscriptiongroupConfig);
        let all: SubscriptionGroupWrapper =
            call.remote
                .ask_for("asking for all groups", address, request)?;
        if let Some(config) = all.subscription_group_table.get(&group) {
            found = true;
            let (cluster, broker_name) = (&broker.cluster, &broker.broker_name);
            call.out.show(&GroupSettings {
                cluster,
                broker_name,
                group_config: config.clone(),
            })?;
        }
    }
    if found {
        Ok(())
    } else {
        Err(Failure::Absent(format!("no broker has group {group}")))
    }
}

pub(crate) const SET_CONSUME_MODE: SubCommand = SubCommand {
    name: "setConsumeMode",
    about: "Set consume message mode. pull/pop etc.",
    options: &[
        value(
            'b',
            "brokerAddr",
            "create subscription group to which broker",
        ),
        value(
            'c',
            "clusterName",
            "create subscription group to which cluster",
        ),
        value('t', "topicName", "topic name").required(),
        value('g', "groupName", "consumer group name").required(),
        value('m', "mode", "consume mode. PULL/POP").required(),
        value(
            'q',
            "popShareQueueNum",
            "num of queue which share in pop mode",
        ),
    ],
    examples: &[example(
        "-c DefaultCluster -t Orders -g Billing -m PULL",
        "clients pull their queues, as 4.x clients do",
    )],
    json: r#"per broker {"broker":"ip:port","topic","group","mode","popShareQueueNum"}"#,
    run: set_consume_mode,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModeSet<'a> {
    broker: &'a str,
    topic: &'a str,
    group: &'a str,
    mode: &'a str,
    pop_share_queue_num: i32,
}

impl Display for ModeSet<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "set consume mode to {} success.", self.broker)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModeBody<'a> {
    consumer_group: &'a str,
    mode: &'a str,
    pop_share_queue_num: i32,
    topic: &'a str,
}

fn set_consume_mode(call: &mut Call) -> Result<(), Failure> {
    let (topic, group) = (
        call.options.required("topicName")?,
        call.options.required("groupName")?,
    );
    let mode = match call.options.required("mode")?.to_ascii_uppercase().as_str() {
        "PULL" => "PULL",
        "POP" => "POP",
        other => {
            return Err(Failure::Input(format!(
                "-m takes PULL or POP, not '{other}'"
            )));
        }
    };
    let pop_share_queue_num = call.options.number("popShareQueueNum")?.unwrap_or(0);
    let body = ModeBody {
        consumer_group: group,
        mode,
        pop_share_queue_num,
        topic,
    };
    let body = fastjson::to_vec(&body, KeyStyle::Quoted);
    for broker in &call.chosen_brokers("brokerAddr", "clusterName")? {
        let request = Command::request(RequestCode::SetMessageRequestMode).with_body(body.clone());
        call.remote
            .ask("setting the consume mode", broker, request)?;
        call.out.show(&ModeSet {
            broker,
            topic,
            group,
            mode,
            pop_share_queue_num,
        })?;
    }
    call.out.note(format_args!(
        "topic[{topic}] group[{group}] consume mode[{mode}] popShareQueueNum[{pop_share_queue_num}]"
    ))
}
