//! Rates and lags of all topics.

use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::route::TopicRouteData;
use agena_protocol::bodies::stats::{BrokerStatsData, ConsumeStats};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX};
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, flag, value};
use crate::failure::Failure;
use crate::remote::{Question, body};
use crate::table::{Table, left, right};

use super::topic::{all_topics, groups_of};

pub(crate) const STATS_ALL: SubCommand = SubCommand {
    name: "statsAll",
    about: "Topic and Consumer tps stats.",
    options: &[
        flag('a', "activeTopic", "print active topic only"),
        value('t', "topic", "print select topic only"),
    ],
    examples: &[
        example(
            "-a",
            "topics that had messages within 24 hours, each with its groups",
        ),
        example("-t Orders", "one topic"),
    ],
    json: r#"{"rows":[{"topic","group":"name" or null,"accumulation","inTps","outTps","inMsg24Hour","outMsg24Hour"}]}"#,
    run: stats_all,
};

#[derive(Serialize)]
struct AllStats {
    rows: Vec<StatsRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsRow {
    topic: String,
    group: Option<String>,
    accumulation: i64,
    in_tps: f64,
    out_tps: f64,
    #[serde(rename = "inMsg24Hour")]
    in_messages: i64,
    #[serde(rename = "outMsg24Hour")]
    out_messages: i64,
}

const STATS: Table = Table(&[
    left("#Topic", 64).cut(),
    left("#Consumer Group", 64).cut(),
    right("#Accumulation", 12).gap(1),
    right("#InTPS", 11).gap(1),
    right("#OutTPS", 11).gap(1),
    right("#InMsg24Hour", 14).gap(1),
    right("#OutMsg24Hour", 14).gap(1),
]);

impl Display for AllStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        STATS.head(f)?;
        for row in &self.rows {
            let in_tps = format!("{:.2}", row.in_tps);
            match &row.group {
                Some(group) => {
                    let out_tps = format!("{:.2}", row.out_tps);
                    STATS.row(
                        f,
                        &[
                            &row.topic,
                            group,
                            &row.accumulation,
                            &in_tps,
                            &out_tps,
                            &row.in_messages,
                            &row.out_messages,
                        ],
                    )?;
                }
                None => {
                    STATS.row(
                        f,
                        &[
                            &row.topic,
                            &"",
                            &0,
                            &in_tps,
                            &"",
                            &row.in_messages,
                            &"NO_CONSUMER",
                        ],
                    )?;
                }
            }
        }
        Ok(())
    }
}

fn stats_all(call: &mut Call) -> Result<(), Failure> {
    let only = call.options.get("topic").map(str::to_owned);
    let active = call.options.is_set("activeTopic");
    let mut rows = Vec::new();
    for topic in all_topics(call)? {
        let derived = topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX);
        if derived || only.as_ref().is_some_and(|only| *only != topic) {
            continue;
        }
        // A topic may vanish while the list is made.
        let Ok(route) = call.remote.route(&topic) else {
            continue;
        };
        rows.extend(
            topic_rows(call, &topic, &route)?
                .into_iter()
                .filter(|row| !active || row.in_messages > 0),
        );
    }
    call.out.show(&AllStats { rows })
}

/// A sum of the figures of all masters.
#[derive(Default, Clone, Copy)]
struct Rate {
    tps: f64,
    day: i64,
}

fn topic_rows(call: &Call, topic: &str, route: &TopicRouteData) -> Result<Vec<StatsRow>, Failure> {
    let masters: Vec<&str> = route
        .broker_datas
        .iter()
        .filter_map(|broker| broker.master())
        .collect();
    let groups = groups_of(call, topic, route)?;
    let input = rate(call, &masters, "TOPIC_PUT_NUMS", topic);
    let row = |group: Option<String>, accumulation: i64, output: Rate| StatsRow {
        topic: topic.to_owned(),
        group,
        accumulation,
        in_tps: input.tps,
        out_tps: output.tps,
        in_messages: input.day,
        out_messages: output.day,
    };
    if groups.is_empty() {
        return Ok(vec![row(None, 0, Rate::default())]);
    }
    Ok(groups
        .into_iter()
        .map(|group| {
            let output = rate(
                call,
                &masters,
                "GROUP_GET_NUMS",
                &format!("{topic}@{group}"),
            );
            let lag = accumulation(call, &masters, topic, &group);
            row(Some(group), lag, output)
        })
        .collect())
}

/// Brokers that keep no such figure (nothing happened yet) count as zero.
fn rate(call: &Call, masters: &[&str], name: &str, key: &str) -> Rate {
    let questions = masters.iter().map(|address| Question {
        step: format!("asking for {name} of {key}"),
        address: (*address).to_owned(),
        request: Command::request(RequestCode::ViewBrokerStatsData)
            .with_ext("statsName", name)
            .with_ext("statsKey", key),
    });
    let mut sum = Rate::default();
    for (address, answer) in masters.iter().zip(call.remote.ask_all(questions.collect())) {
        if let Ok(data) = answer.and_then(|answer| body::<BrokerStatsData>("", address, &answer)) {
            sum.tps += data.stats_minute.tps;
            let spans = [
                data.stats_day.sum,
                data.stats_hour.sum,
                data.stats_minute.sum,
            ];
            sum.day += spans.into_iter().find(|count| *count != 0).unwrap_or(0);
        }
    }
    sum
}

fn accumulation(call: &Call, masters: &[&str], topic: &str, group: &str) -> i64 {
    let questions = masters.iter().map(|address| Question {
        step: format!("asking for the offsets of group {group}"),
        address: (*address).to_owned(),
        request: Command::request(RequestCode::GetConsumeStats)
            .with_ext("consumerGroup", group)
            .with_ext("topic", topic),
    });
    let answers = call.remote.ask_all(questions.collect());
    let stats = masters.iter().zip(answers).filter_map(|(address, answer)| {
        answer
            .and_then(|answer| body::<ConsumeStats>("", address, &answer))
            .ok()
    });
    stats.map(|stats| stats.total_diff().max(0)).sum()
}
