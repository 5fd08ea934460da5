//! A message's traces: who sent and who consumed it, when, with which result, as clients with traces on report.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::message::Message;
use crate::table::{Column, Table, left};
use crate::time_text;

use super::query::trace_messages;

pub(crate) const QUERY_TRACE: SubCommand = SubCommand {
    name: "queryMsgTraceById",
    about: "Query a message trace.",
    options: &[
        value('i', "msgId", "Message Id").required(),
        value('t', "traceTopic", "The name value of message trace topic"),
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
            'c',
            "maxNum",
            "The maximum number of messages returned by the query, default:64",
        ),
    ],
    examples: &[example(
        "-i FD00000000000000000000000000000270A730946E096746B8D80000",
        "by the producer's id; needs clients with traces on",
    )],
    json: r#"{"msgId","sent":[{"group","clientHost","time","costMs","success"}],"consumed":[{...}]}"#,
    run: query_trace,
};

/// One event of a trace.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Event {
    group: String,
    client_host: String,
    time: i64,
    cost_ms: i64,
    success: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    msg_id: String,
    sent: Vec<Event>,
    consumed: Vec<Event>,
}

const SENT: Table = Table(&columns("#ProducerGroup", "#SendTime"));
const CONSUMED: Table = Table(&columns("#ConsumerGroup", "#ConsumerTime"));

const fn columns(group: &'static str, time: &'static str) -> [Column; 6] {
    [
        left("#Type", 10),
        left(group, 20).gap(1),
        left("#ClientHost", 20).gap(1),
        left(time, 20).gap(1),
        left("#CostTimes", 10).gap(1),
        left("#Status", 10).gap(1),
    ]
}

impl Display for Trace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (table, kind, events) in [
            (&SENT, "Pub", &self.sent),
            (&CONSUMED, "Sub", &self.consumed),
        ] {
            if events.is_empty() {
                continue;
            }
            table.head(f)?;
            for event in events {
                let status = if event.success { "success" } else { "failed" };
                let (time, cost) = (
                    time_text::seconds(event.time),
                    format!("{}ms", event.cost_ms),
                );
                table.row(
                    f,
                    &[
                        &kind,
                        &event.group,
                        &event.client_host,
                        &time,
                        &cost,
                        &status,
                    ],
                )?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn query_trace(call: &mut Call) -> Result<(), Failure> {
    let options = &call.options;
    let msg_id = options.required("msgId")?.to_owned();
    let topic = options
        .get("traceTopic")
        .unwrap_or(agena_protocol::topic::TRACE)
        .to_owned();
    let max = options.number("maxNum")?.unwrap_or(64);
    let (begin, end) = (
        options.number("beginTimestamp")?.unwrap_or(0),
        options.number("endTimestamp")?.unwrap_or(i64::MAX),
    );
    let messages = trace_messages(call, &topic, &msg_id, max, begin, end)?;
    if messages.is_empty() {
        return Err(Failure::Absent(format!(
            "topic {topic} has no trace of {msg_id}: clients write it only with traces on"
        )));
    }
    let (sent, consumed) = events(&messages, &msg_id);
    call.out.show(&Trace {
        msg_id,
        sent,
        consumed,
    })
}

/// The events about one message in the bodies of trace messages (spec/semantics.md §10.2).
fn events(messages: &[Message], msg_id: &str) -> (Vec<Event>, Vec<Event>) {
    let (mut sent, mut consumed) = (Vec::new(), Vec::new());
    // What a "before" record says, by request id, until its "after" comes.
    let mut begun: Vec<(String, String, i64)> = Vec::new();
    for message in messages {
        let body = message.body.text();
        let host = message
            .born_host
            .rsplit_once(':')
            .map_or("", |(host, _)| host)
            .trim_matches(['[', ']']);
        for record in body.split('\u{2}') {
            let fields: Vec<&str> = record.split('\u{1}').collect();
            let field = |index: usize| fields.get(index).copied().unwrap_or_default();
            let number = |index: usize| field(index).parse::<i64>().unwrap_or(0);
            match field(0) {
                "Pub" if field(5) == msg_id => sent.push(Event {
                    group: field(3).to_owned(),
                    client_host: host.to_owned(),
                    time: number(1),
                    cost_ms: number(10),
                    success: fields.last().is_some_and(|text| *text == "true"),
                }),
                "SubBefore" if field(5) == msg_id => {
                    begun.push((field(4).to_owned(), field(3).to_owned(), number(1)));
                }
                "SubAfter" if field(2) == msg_id => {
                    let before = begun.iter().find(|(request, _, _)| request == field(1));
                    consumed.push(Event {
                        group: before.map_or(field(8), |(_, group, _)| group).to_owned(),
                        client_host: host.to_owned(),
                        time: before.map_or(number(7), |(_, _, time)| *time),
                        cost_ms: number(3),
                        success: field(4) == "true",
                    });
                }
                _ => {}
            }
        }
    }
    (sent, consumed)
}
