//! Clusters: the state of every broker at a glance.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agena_protocol::bodies::names::KVTable;
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, flag, value};
use crate::failure::Failure;
use crate::remote::{Question, body};
use crate::table::{Table, left, right};

pub(crate) const CLUSTER_LIST: SubCommand = SubCommand {
    name: "clusterList",
    about: "List cluster infos.",
    options: &[
        flag('m', "moreStats", "Print more stats"),
        value(
            'i',
            "interval",
            "specify intervals numbers, it is in seconds",
        ),
        value('c', "clusterName", "which cluster"),
    ],
    examples: &[
        example(
            "",
            "every broker with its version, rates, waiting requests, age of the oldest message and disk share",
        ),
        example("-m", "messages in and out, yesterday and today"),
        example(
            "-c DefaultCluster -i 5",
            "one cluster, again every 5 seconds until interrupted",
        ),
    ],
    json: r#"{"brokers":[{"cluster","brokerName","brokerId","address","version","inTps","outTps","hours","diskRatio","active","stats":{every key of brokerStatus}}]}; stats is {} for a broker that does not answer"#,
    run: cluster_list,
};

/// One broker and what it tells of itself; nothing if it does not answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BrokerRow {
    cluster: String,
    broker_name: String,
    broker_id: i64,
    address: String,
    version: String,
    in_tps: f64,
    out_tps: f64,
    hours: f64,
    disk_ratio: f64,
    active: bool,
    stats: BTreeMap<String, String>,
}

impl BrokerRow {
    fn text(&self, key: &str) -> &str {
        self.stats.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> f64 {
        self.text(key)
            .split_whitespace()
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    }

    /// The growth of a counter between two of the values that the broker keeps.
    fn grown(&self, from: &str, to: &str) -> i64 {
        let count = |key| self.text(key).parse::<i64>().unwrap_or(0);
        count(to) - count(from)
    }

    fn fill(&mut self, stats: BTreeMap<String, String>, now_millis: i64) {
        self.stats = stats;
        self.version = self.text("brokerVersionDesc").to_owned();
        self.in_tps = self.number("putTps");
        self.out_tps = self.number("getTransferredTps");
        if let Ok(earliest) = self.text("earliestMessageTimeStamp").parse::<i64>() {
            self.hours = Duration::from_millis(u64::try_from(now_millis - earliest).unwrap_or(0))
                .as_secs_f64()
                / 3600.0;
        }
        self.disk_ratio = self.number("commitLogDiskRatio");
        self.active = self.text("brokerActive") == "true";
    }
}

#[derive(Serialize)]
struct Clusters {
    brokers: Vec<BrokerRow>,
}

const CLUSTERS: Table = Table(&[
    left("#Cluster Name", 22),
    left("#Broker Name", 22),
    left("#BID", 4),
    left("#Addr", 22),
    left("#Version", 16).gap(1),
    right("#InTPS(LOAD)", 16),
    right("#OutTPS(LOAD)", 30),
    left("#Timer(Progress)", 22),
    right("#PCWait(ms)", 11),
    left("#Hour", 12),
    left("#SPACE", 8),
    right("#ACTIVATED", 10),
]);

impl Display for Clusters {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        CLUSTERS.head(f)?;
        for row in &self.brokers {
            let load = |pool: &str| {
                let size = row.text(&format!("{pool}ThreadPoolQueueSize"));
                format!(
                    "{size},{}ms",
                    row.text(&format!("{pool}ThreadPoolQueueHeadWaitTimeMills"))
                )
            };
            let timer = format!(
                "{}-{}({:.1}w, {:.1}, {:.1})",
                row.text("timerReadBehind"),
                row.text("timerOffsetBehind"),
                row.number("timerCongestNum") / 10_000.0,
                row.number("timerEnqueueTps"),
                row.number("timerDequeueTps")
            );
            CLUSTERS.row(
                f,
                &[
                    &row.cluster,
                    &row.broker_name,
                    &row.broker_id,
                    &row.address,
                    &row.version,
                    &format_args!("{:9.2}({})", row.in_tps, load("send")),
                    &format_args!("{:9.2}({}|{})", row.out_tps, load("pull"), load("ack")),
                    &timer,
                    &row.text("pageCacheLockTimeMills"),
                    &format_args!("{:.2}", row.hours),
                    &format_args!("{:.4}", row.disk_ratio),
                    &row.text("brokerActive"),
                ],
            )?;
        }
        Ok(())
    }
}

/// The same brokers, counting messages.
#[derive(Serialize)]
#[serde(transparent)]
struct Totals(Clusters);

const TOTALS: Table = Table(&[
    left("#Cluster Name", 16),
    left("#Broker Name", 32),
    right("#InTotalYest", 14).gap(1),
    right("#OutTotalYest", 14).gap(1),
    right("#InTotalToday", 14).gap(1),
    right("#OutTotalToday", 14).gap(1),
]);

impl Display for Totals {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        TOTALS.head(f)?;
        for row in &self.0.brokers {
            TOTALS.row(
                f,
                &[
                    &row.cluster,
                    &row.broker_name,
                    &row.grown("msgPutTotalYesterdayMorning", "msgPutTotalTodayMorning"),
                    &row.grown("msgGetTotalYesterdayMorning", "msgGetTotalTodayMorning"),
                    &row.grown("msgPutTotalTodayMorning", "msgPutTotalTodayNow"),
                    &row.grown("msgGetTotalTodayMorning", "msgGetTotalTodayNow"),
                ],
            )?;
        }
        Ok(())
    }
}

fn cluster_list(call: &mut Call) -> Result<(), Failure> {
    let interval = call
        .options
        .number::<u64>("interval")?
        .map(Duration::from_secs);
    loop {
        let outcome = print_once(call);
        let Some(pause) = interval else {
            return outcome;
        };
        outcome?;
        std::thread::sleep(pause);
    }
}

/// Prints every broker, also those that do not answer; says then which one did not.
fn print_once(call: &mut Call) -> Result<(), Failure> {
    let mut brokers = rows(call)?;
    let questions = brokers
        .iter()
        .map(|row| stats_question(&row.address))
        .collect();
    let answers = call.remote.ask_all(questions);
    let now = now_millis();
    let mut silent = Ok(());
    for (row, answer) in brokers.iter_mut().zip(answers) {
        let table = answer.and_then(|answer| {
            body::<KVTable>("reading the broker's figures", &row.address, &answer)
        });
        match table {
            Ok(table) => row.fill(table.table, now),
            Err(failure) => silent = Err(failure),
        }
    }
    let clusters = Clusters { brokers };
    if call.options.is_set("moreStats") {
        call.out.show(&Totals(clusters))
    } else {
        call.out.show(&clusters)
    }?;
    silent
}

fn rows(call: &Call) -> Result<Vec<BrokerRow>, Failure> {
    let clusters = call.remote.clusters()?;
    let wanted = call.options.get("clusterName");
    if let Some(name) = wanted {
        call.remote.brokers_of(name)?;
    }
    let mut rows = Vec::new();
    for (cluster, names) in &clusters.cluster_addr_table {
        if wanted.is_some_and(|name| name != cluster) {
            continue;
        }
        let mut names: Vec<&String> = names.iter().collect();
        names.sort();
        for broker in names
            .into_iter()
            .filter_map(|name| clusters.broker_addr_table.get(name))
        {
            rows.extend(broker.broker_addrs.iter().map(|(id, address)| BrokerRow {
                cluster: cluster.clone(),
                broker_name: broker.broker_name.clone(),
                broker_id: *id,
                address: address.clone(),
                version: String::new(),
                in_tps: 0.0,
                out_tps: 0.0,
                hours: 0.0,
                disk_ratio: 0.0,
                active: false,
                stats: BTreeMap::new(),
            }));
        }
    }
    Ok(rows)
}

/// Asks a broker for its figures.
pub(super) fn stats_question(address: &str) -> Question {
    Question {
        step: "asking for the broker's figures".to_owned(),
        address: address.to_owned(),
        request: Command::request(RequestCode::GetBrokerRuntimeInfo),
    }
}

/// Now, as the wire has times.
pub(crate) fn now_millis() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
