//! `resetOffsetByTime --undo`: a group goes back to where it was before its last reset.
//!
//! Brokers of ours keep the former offsets (request 900005); the original's keep none and say that they do not know the request.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::offsets::{UndoneQueue, UndoneReset};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use serde::Serialize;

use crate::call::Call;
use crate::failure::Failure;
use crate::table::{Table, left};
use crate::time_text;

/// What was taken back, or would be.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Undone {
    group: String,
    topic: String,
    dry_run: bool,
    brokers: Vec<UndoneOnBroker>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UndoneOnBroker {
    address: String,
    #[serde(flatten)]
    reset: UndoneReset,
}

const QUEUES: Table = Table(&[
    left("#Broker Name", 32).cut(),
    left("#QID", 4),
    left("#Consumer Offset", 20),
    left("#Former Offset", 20),
    left("#Messages", 24),
]);

impl Display for Undone {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            writeln!(
                f,
                "dry run, nothing is changed: group[{}], topic[{}]",
                self.group, self.topic
            )?;
        }
        for UndoneOnBroker { address, reset } in &self.brokers {
            if reset.reset_timestamp == 0 {
                writeln!(f, "{address}: no reset to take back")?;
                continue;
            }
            writeln!(
                f,
                "{address}: reset of {}; resets before it that can be taken back: {}",
                time_text::seconds(reset.reset_timestamp),
                reset.resets_left
            )?;
            QUEUES.head(f)?;
            for queue in &reset.queues {
                let former: &dyn Display = if queue.offset < 0 {
                    &"none, stays"
                } else {
                    &queue.offset
                };
                QUEUES.row(
                    f,
                    &[
                        &queue.broker_name,
                        &queue.queue_id,
                        &queue.consumer_offset,
                        former,
                        &moved(queue),
                    ],
                )?;
            }
        }
        Ok(())
    }
}

/// How many messages the move skips or brings again.
fn moved(queue: &UndoneQueue) -> String {
    if queue.offset < 0 || queue.consumer_offset < 0 {
        return "-".to_owned();
    }
    match queue.offset - queue.consumer_offset {
        0 => "-".to_owned(),
        skipped if skipped > 0 => format!("{skipped} skipped"),
        again => format!("{} again", again.unsigned_abs()),
    }
}

pub(super) fn undo(call: &mut Call, group: String, topic: String) -> Result<(), Failure> {
    for other in ["timestamp", "queue", "offset", "message"] {
        if call.options.get(other).is_some() {
            return Err(Failure::Input(format!(
                "--undo goes back to where the group was; leave --{other} away"
            )));
        }
    }
    let dry_run = call.options.is_set("dry-run");
    let only = call.options.get("broker").map(str::to_owned);
    let route = call
        .remote
        .route(call.options.get("cluster").unwrap_or(&topic))?;
    let masters = route.broker_datas.iter();
    let addresses: Vec<&str> = masters
        .filter_map(|broker| broker.master())
        .filter(|address| only.as_deref().is_none_or(|only| only == *address))
        .collect();
    if addresses.is_empty() {
        return Err(Failure::Absent(format!(
            "topic {topic} has no such broker that can be written"
        )));
    }
    // First everybody is asked what there is, so that a broker without the request is heard of before anything is moved.
    let mut resets = ask(call, &group, &topic, &addresses, true)?;
    if resets.values().all(|reset| reset.reset_timestamp == 0) {
        return Err(Failure::Absent(format!(
            "group {group} has no reset in topic {topic} that can be taken back"
        )));
    }
    // Brokers that took no part in the last reset would take back an older one.
    let last = resets.values().map(|reset| reset.reset_timestamp).max();
    resets.retain(|_, reset| last.is_some_and(|last| last - reset.reset_timestamp < SAME_RESET_MS));
    if !dry_run {
        let parties: Vec<&str> = resets.keys().map(String::as_str).collect();
        resets = ask(call, &group, &topic, &parties, false)?;
    }
    let brokers = resets.into_iter();
    call.out.show(&Undone {
        group,
        topic,
        dry_run,
        brokers: brokers
            .map(|(address, reset)| UndoneOnBroker { address, reset })
            .collect(),
    })
}

/// One run of the command resets all brokers within this time.
const SAME_RESET_MS: i64 = 60_000;

fn ask(
    call: &Call,
    group: &str,
    topic: &str,
    addresses: &[&str],
    dry_run: bool,
) -> Result<BTreeMap<String, UndoneReset>, Failure> {
    let mut resets = BTreeMap::new();
    for address in addresses {
        let request = Command::request(RequestCode::UndoResetOffset)
            .with_ext("group", group)
            .with_ext("topic", topic)
            .with_ext("dryRun", dry_run);
        let step = format!("taking back the last reset of group {group}");
        let answer = call.remote.ask_for(&step, address, request);
        let reset: UndoneReset = answer.map_err(|failure| match failure.refusal() {
            Some(ResponseCode::RequestCodeNotSupported) => Failure::Absent(format!(
                "the broker at {address} keeps no former offsets: only Agena's brokers do"
            )),
            _ => failure,
        })?;
        resets.insert((*address).to_owned(), reset);
    }
    Ok(resets)
}
