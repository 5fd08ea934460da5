//! Brokers: figures, settings, permissions, cleaning, replication.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use agena_protocol::bodies::names::KVTable;
use agena_protocol::bodies::replication::HARuntimeInfo;
use agena_protocol::command::Command;
use agena_protocol::properties_text;
use agena_protocol::request_code::RequestCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::remote::body;
use crate::table::{Table, left, right};
use crate::time_text;

use super::cluster::stats_question;

pub(crate) const BROKER_STATUS: SubCommand = SubCommand {
    name: "brokerStatus",
    about: "Fetch broker runtime status data.",
    options: &[
        value('b', "brokerAddr", "Broker address").one_of(),
        value('c', "clusterName", "which cluster").one_of(),
    ],
    examples: &[
        example(
            "-b 127.0.0.1:10911",
            "every figure of one broker, one a line",
        ),
        example(
            "-c DefaultCluster",
            "of all masters and slaves of a cluster, each line with its address",
        ),
    ],
    json: r#"per broker {"broker":"ip:port","stats":{"key":"value"}}"#,
    run: broker_status,
};

#[derive(Serialize)]
struct Status {
    broker: String,
    stats: BTreeMap<String, String>,
    #[serde(skip)]
    with_address: bool,
}

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.stats {
            if self.with_address {
                writeln!(f, "{:<24} {key:<32}: {value}", self.broker)?;
            } else {
                writeln!(f, "{key:<32}: {value}")?;
            }
        }
        Ok(())
    }
}

fn broker_status(call: &mut Call) -> Result<(), Failure> {
    let (addresses, with_address) = match call.options.get("clusterName") {
        Some(cluster) => (call.remote.members(cluster)?, true),
        None => (vec![call.options.required("brokerAddr")?.to_owned()], false),
    };
    let answers = call.remote.ask_all(
        addresses
            .iter()
            .map(|address| stats_question(address))
            .collect(),
    );
    let mut outcome = Ok(());
    for (broker, answer) in addresses.into_iter().zip(answers) {
        match answer
            .and_then(|answer| body::<KVTable>("reading the broker's figures", &broker, &answer))
        {
            Ok(table) => call.out.show(&Status {
                broker,
                stats: table.table,
                with_address,
            })?,
            Err(failure) => outcome = Err(failure),
        }
    }
    outcome
}

pub(crate) const GET_BROKER_CONFIG: SubCommand = SubCommand {
    name: "getBrokerConfig",
    about: "Get broker config by cluster or special broker.",
    options: &[
        value('b', "brokerAddr", "get which broker"),
        value('c', "clusterName", "get which cluster"),
    ],
    examples: &[
        example("-b 127.0.0.1:10911", "every setting of one broker"),
        example(
            "-c DefaultCluster",
            "of all masters and slaves of a cluster",
        ),
    ],
    json: r#"per broker {"broker":"ip:port","config":{"key":"value"}}"#,
    run: get_broker_config,
};

/// A server's settings.
#[derive(Serialize)]
pub(super) struct Settings {
    pub(super) broker: String,
    pub(super) config: BTreeMap<String, String>,
    /// The line above them.
    #[serde(skip)]
    pub(super) title: String,
}

impl Display for Settings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for (key, value) in &self.config {
            writeln!(f, "{key:<50}=  {value}")?;
        }
        Ok(())
    }
}

fn get_broker_config(call: &mut Call) -> Result<(), Failure> {
    if let Some(address) = call.options.get("brokerAddr").map(str::to_owned) {
        return show_config(call, &address, format!("============{address}============"));
    }
    let Some(cluster) = call.options.get("clusterName") else {
        return Err(Failure::Input(
            "give a broker's address (-b) or a cluster (-c)".to_owned(),
        ));
    };
    for broker in call.remote.brokers_of(cluster)? {
        let master = broker.broker_addrs.get(&0).cloned().unwrap_or_default();
        for (id, address) in &broker.broker_addrs {
            let title = if *id == 0 {
                format!("============Master: {address}============")
            } else {
                format!("============My Master: {master}=====Slave: {address}============")
            };
            show_config(call, address, title)?;
        }
    }
    Ok(())
}

fn show_config(call: &mut Call, address: &str, title: String) -> Result<(), Failure> {
    let request = Command::request(RequestCode::GetBrokerConfig);
    let answer = call
        .remote
        .ask("asking for the broker's settings", address, request)?;
    let config = config_pairs(&answer);
    call.out.show(&Settings {
        broker: address.to_owned(),
        config,
        title,
    })
}

/// The settings in a body of properties text.
pub(super) fn config_pairs(answer: &Command) -> BTreeMap<String, String> {
    properties_text::parse(&String::from_utf8_lossy(&answer.body))
        .into_iter()
        .collect()
}

pub(crate) const UPDATE_BROKER_CONFIG: SubCommand = SubCommand {
    name: "updateBrokerConfig",
    about: "Update broker's config.",
    options: &[
        value('b', "brokerAddr", "update which broker"),
        value('c', "clusterName", "update which cluster"),
        value('a', "updateAllBroker", "update all brokers include slave"),
        value('k', "key", "config key").required(),
        value('v', "value", "config value").required(),
    ],
    examples: &[
        example(
            "-b 127.0.0.1:10911 -k fileReservedTime -v 72",
            "at once, and kept in the broker's configuration file",
        ),
        example(
            "-c DefaultCluster -k fileReservedTime -v 72",
            "on the masters of a cluster; with -a true on slaves too",
        ),
    ],
    json: r#"per broker {"broker":"ip:port","key","value"}"#,
    run: update_broker_config,
};

#[derive(Serialize)]
struct ConfigChanged<'a> {
    broker: &'a str,
    key: &'a str,
    value: &'a str,
}

impl Display for ConfigChanged<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "update broker config success, {}", self.broker)
    }
}

fn update_broker_config(call: &mut Call) -> Result<(), Failure> {
    let (key, value) = (
        call.options.required("key")?.to_owned(),
        call.options.required("value")?.to_owned(),
    );
    let slaves_too = call.options.truth("updateAllBroker")?.unwrap_or(false);
    let addresses = match call.options.get("clusterName") {
        Some(cluster) if slaves_too && call.options.get("brokerAddr").is_none() => {
            call.remote.members(cluster)?
        }
        Some(_) | None => call.chosen_brokers("brokerAddr", "clusterName")?,
    };
    let text = properties_text::write([(key.as_str(), value.as_str())]);
    for address in &addresses {
        let request =
            Command::request(RequestCode::UpdateBrokerConfig).with_body(text.clone().into_bytes());
        call.remote
            .ask(&format!("setting {key}"), address, request)?;
        call.out.show(&ConfigChanged {
            broker: address,
            key: &key,
            value: &value,
        })?;
    }
    Ok(())
}

const CHOICE: [crate::command::Opt; 2] = [
    value('b', "brokerAddr", "Broker address"),
    value('c', "cluster", "cluster name"),
];

const CLEANED: &str = r#"{"brokers":["ip:port"],"done":true}"#;

pub(crate) const CLEAN_EXPIRED_CQ: SubCommand = SubCommand {
    name: "cleanExpiredCQ",
    about: "Clean expired ConsumeQueue on broker.",
    options: &CHOICE,
    examples: &[example(
        "-b 127.0.0.1:10911",
        "queue files of deleted messages go; without -b and -c on all brokers",
    )],
    json: CLEANED,
    run: |call| {
        clean(
            call,
            RequestCode::CleanExpiredConsumequeue,
            "cleaning expired consume queues",
        )
    },
};

pub(crate) const CLEAN_UNUSED_TOPIC: SubCommand = SubCommand {
    name: "cleanUnusedTopic",
    about: "Clean unused topic on broker.",
    options: &CHOICE,
    examples: &[example(
        "-c DefaultCluster",
        "queues of topics that no longer exist go",
    )],
    json: CLEANED,
    run: |call| {
        clean(
            call,
            RequestCode::CleanUnusedTopic,
            "cleaning unused topics",
        )
    },
};

pub(crate) const DELETE_EXPIRED_COMMIT_LOG: SubCommand = SubCommand {
    name: "deleteExpiredCommitLog",
    about: "Delete expired CommitLog files.",
    options: &CHOICE,
    examples: &[example(
        "-b 127.0.0.1:10911",
        "now instead of at the hour of deleteWhen; only files past their time",
    )],
    json: CLEANED,
    run: |call| {
        clean(
            call,
            RequestCode::DeleteExpiredCommitlog,
            "deleting expired commit log files",
        )
    },
};

#[derive(Serialize)]
struct Cleaned {
    brokers: Vec<String>,
    done: bool,
}

impl Display for Cleaned {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.done { "success" } else { "false" })
    }
}

/// Without a choice every broker of every cluster is told, as in the original.
fn clean(call: &mut Call, code: RequestCode, step: &str) -> Result<(), Failure> {
    let brokers = if let Some(address) = call.options.get("brokerAddr") {
        vec![address.to_owned()]
    } else if let Some(cluster) = call.options.get("cluster") {
        call.remote.members(cluster)?
    } else {
        let clusters = call.remote.clusters()?;
        clusters
            .broker_addr_table
            .values()
            .flat_map(|broker| broker.broker_addrs.values().cloned())
            .collect()
    };
    for address in &brokers {
        call.remote.ask_within(
            step,
            address,
            Command::request(code),
            Duration::from_secs(30),
        )?;
    }
    let done = !brokers.is_empty();
    call.out.show(&Cleaned { brokers, done })
}

pub(crate) const HA_STATUS: SubCommand = SubCommand {
    name: "haStatus",
    about: "Fetch ha runtime status data.",
    options: &[
        value('c', "clusterName", "which cluster"),
        value('b', "brokerAddr", "which broker to fetch"),
        value('i', "interval", "the interval(second) of get info"),
    ],
    examples: &[example(
        "-b 127.0.0.1:10911 -i 5",
        "how far each slave is, again every 5 seconds until interrupted",
    )],
    json: r#"per broker {"broker":"ip:port","master":true,"masterCommitLogMaxOffset","inSyncSlaveNums","haConnectionInfo":[{"addr","slaveAckOffset","diff","inSync",...}],"haClientRuntimeInfo":{...}}"#,
    run: ha_status,
};

#[derive(Serialize)]
struct HaStatus {
    broker: String,
    #[serde(flatten)]
    info: HARuntimeInfo,
}

const SLAVES: Table = Table(&[
    left("#SlaveAddr", 32),
    left("#SlaveAckOffset", 16),
    right("#Diff", 16).gap(1),
    right("#TransferSpeed(KB/s)", 16).gap(1),
    right("#Status", 16).gap(1),
    right("#TransferFromWhere", 16).gap(1),
]);

impl Display for HaStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        writeln!(f, "\n#MasterAddr\t{}", self.broker)?;
        if !info.master {
            let client = &info.ha_client_runtime_info;
            writeln!(f, "#CommitLogMaxOffset\t{}", client.max_offset)?;
            writeln!(
                f,
                "#TransferSpeed(KB/s)\t{}",
                kilobytes(client.transferred_byte_in_second)
            )?;
            writeln!(
                f,
                "#LastReadTime\t{}",
                time_text::seconds(client.last_read_timestamp)
            )?;
            writeln!(
                f,
                "#LastWriteTime\t{}",
                time_text::seconds(client.last_write_timestamp)
            )?;
            return writeln!(f, "#MasterFlushOffset\t{}", client.master_flush_offset);
        }
        writeln!(
            f,
            "#MasterCommitLogMaxOffset\t{}",
            info.master_commit_log_max_offset
        )?;
        writeln!(f, "#SlaveNum\t{}", info.ha_connection_info.len())?;
        writeln!(f, "#InSyncSlaveNum\t{}", info.in_sync_slave_nums)?;
        SLAVES.head(f)?;
        for slave in &info.ha_connection_info {
            let status = if slave.in_sync { "OK" } else { "Fall Behind" };
            SLAVES.row(
                f,
                &[
                    &slave.addr,
                    &slave.slave_ack_offset,
                    &slave.diff,
                    &kilobytes(slave.transferred_byte_in_second),
                    &status,
                    &slave.transfer_from_where,
                ],
            )?;
        }
        Ok(())
    }
}

fn kilobytes(bytes: i64) -> String {
    let thousandths = bytes * 1000 / 1024;
    format!("{}.{:02}", thousandths / 1000, thousandths % 1000 / 10)
}

fn ha_status(call: &mut Call) -> Result<(), Failure> {
    let interval = call
        .options
        .number::<u64>("interval")?
        .map(Duration::from_secs);
    loop {
        for broker in call.chosen_brokers("brokerAddr", "clusterName")? {
            let request = Command::request(RequestCode::GetBrokerHaStatus);
            let info =
                call.remote
                    .ask_for("asking for the state of replication", &broker, request)?;
            call.out.show(&HaStatus { broker, info })?;
        }
        let Some(pause) = interval else { return Ok(()) };
        std::thread::sleep(pause);
    }
}
