//! Settings of topics and groups as a file.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use agena_protocol::bodies::subscription_group::{
    SubscriptionGroupConfig, SubscriptionGroupWrapper,
};
use agena_protocol::bodies::topic_config::{TopicConfig, TopicConfigSerializeWrapper};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX, is_system};
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, flag, value};
use crate::failure::Failure;

use super::cluster::now_millis;

pub(crate) const EXPORT_METADATA: SubCommand = SubCommand {
    name: "exportMetadata",
    about: "Export metadata.",
    options: &[
        value('c', "clusterName", "choose a cluster to export"),
        value('b', "brokerAddr", "choose a broker to export"),
        value(
            'f',
            "filePath",
            "export metadata.json path | default /tmp/rocketmq/export",
        ),
        flag('t', "topic", "only export topic metadata"),
        flag(
            'g',
            "subscriptionGroup",
            "only export subscriptionGroup metadata",
        ),
        flag('s', "specialTopic", "need retryTopic and dlqTopic"),
    ],
    examples: &[
        example(
            "-c DefaultCluster -f ./export",
            "writes ./export/metadata.json: topics and groups of all masters",
        ),
        example(
            "-b 127.0.0.1:10911 -t --json",
            "one broker's topics to standard output too",
        ),
    ],
    json: r#"{"file","exportTime","topicConfigTable":{"name":{...}},"subscriptionGroupTable":{"name":{...}}}"#,
    run: export_metadata,
};

/// What is written to the file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    export_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_group_table: Option<BTreeMap<String, SubscriptionGroupConfig>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_config_table: Option<BTreeMap<String, TopicConfig>>,
}

#[derive(Serialize)]
struct Exported {
    file: String,
    #[serde(flatten)]
    metadata: Metadata,
}

impl Display for Exported {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "export {} success", self.file)
    }
}

fn export_metadata(call: &mut Call) -> Result<(), Failure> {
    let addresses = call.chosen_brokers("brokerAddr", "clusterName")?;
    let (topics_only, groups_only) = (
        call.options.is_set("topic"),
        call.options.is_set("subscriptionGroup"),
    );
    let topics = if groups_only {
        None
    } else {
        Some(topics(call, &addresses)?)
    };
    let groups = if topics_only {
        None
    } else {
        Some(groups(call, &addresses)?)
    };
    let metadata = Metadata {
        export_time: now_millis(),
        subscription_group_table: groups,
        topic_config_table: topics,
    };
    let folder = Path::new(
        call.options
            .get("filePath")
            .unwrap_or("/tmp/rocketmq/export"),
    );
    let name = match (topics_only, groups_only) {
        (true, false) => "topic.json",
        (false, true) => "subscriptionGroup.json",
        (true, true) | (false, false) => "metadata.json",
    };
    let file = folder.join(name);
    std::fs::create_dir_all(folder)?;
    std::fs::write(
        &file,
        serde_json::to_vec_pretty(&metadata).map_err(std::io::Error::from)?,
    )?;
    call.out.show(&Exported {
        file: file.display().to_string(),
        metadata,
    })
}

/// The widest settings of each topic: brokers may differ, and what is made from the file must hold all.
fn topics(call: &Call, addresses: &[String]) -> Result<BTreeMap<String, TopicConfig>, Failure> {
    let special = call.options.is_set("specialTopic");
    let mut all: BTreeMap<String, TopicConfig> = BTreeMap::new();
    for address in addresses {
        let request = Command::request(RequestCode::GetAllTopicConfig);
        let wrapper: TopicConfigSerializeWrapper =
            call.remote
                .ask_for("asking for all topics", address, request)?;
        for (name, config) in wrapper.topic_config_table {
            let derived = name.starts_with(RETRY_PREFIX) || name.starts_with(DLQ_PREFIX);
            if is_system(&name) || (derived && !special) {
                continue;
            }
            let entry = all.entry(name).or_insert_with(|| config.clone());
            entry.read_queue_nums = entry.read_queue_nums.max(config.read_queue_nums);
            entry.write_queue_nums = entry.write_queue_nums.max(config.write_queue_nums);
        }
    }
    Ok(all)
}

fn groups(
    call: &Call,
    addresses: &[String],
) -> Result<BTreeMap<String, SubscriptionGroupConfig>, Failure> {
    let mut all = BTreeMap::new();
    for address in addresses {
        let request = Command::request(RequestCode::GetAllSubscriptiongroupConfig);
        let wrapper: SubscriptionGroupWrapper =
            call.remote
                .ask_for("asking for all groups", address, request)?;
        for (name, config) in wrapper.subscription_group_table {
            all.entry(name).or_insert(config);
        }
    }
    Ok(all)
}
