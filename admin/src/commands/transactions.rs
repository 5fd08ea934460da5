//! Transactions that are not decided: list them, look at one, decide it, have it asked about again.
//!
//! These are requests of our own (900003, 900004), which the original does not know; `resume` (323) it knows as well.

use std::fmt::{self, Display, Formatter};
use std::io::{BufRead, Write};
use std::time::Duration;

use agena_protocol::bodies::transactions::{TransactionInfo, TransactionList};
use agena_protocol::command::Command;
use agena_protocol::headers::transaction::{
    ListTransactionsRequest, ResolveTransactionRequest, ResumeCheckHalfMessageRequest,
};
use agena_protocol::message_id::OffsetId;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use serde::Serialize;

use crate::call::Call;
use crate::command::{Opt, SubCommand, example, flag, long_flag, long_value, value};
use crate::failure::Failure;
use crate::table::{Table, left, rest, right};
use crate::time_text;

use super::cluster::now_millis;

const INFO: &str = r#"{"brokerAddr","state","transactionId","offsetMsgId","queueOffset","topic","queueId","producerGroup","producers","bornTimestamp","storeTimestamp","ageMs","checks","checksMax","nextCheckTimestamp"}"#;

const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;

const BROKER: Opt = value(
    'b',
    "brokerAddr",
    "address of the broker; else every master is asked",
);
const CLUSTER: Opt = value('c', "clusterName", "only the masters of this cluster");
const ID: Opt = value(
    'i',
    "id",
    "transaction id, or offset id of the half or parked message",
)
.required();

pub(crate) const LIST: SubCommand = SubCommand {
    name: "transactions list",
    about: "List transactions that nobody has decided yet.",
    options: &[
        BROKER,
        CLUSTER,
        value('g', "group", "only of this producer group"),
        long_value(
            "older-than",
            "only those that wait for this long, eg: 30s, 5m, 2h",
        ),
        flag(
            'p',
            "parked",
            "those that were given up, not those that are asked about",
        ),
    ],
    examples: &[
        example("", "what is pending, oldest first"),
        example(
            "-g OrderProducers --older-than 5m",
            "what one group should have decided long ago",
        ),
        example("--parked", "what nobody decided in time"),
    ],
    json: INFO,
    run: list,
};

pub(crate) const SHOW: SubCommand = SubCommand {
    name: "transactions show",
    about: "Show one transaction that is pending or parked.",
    options: &[ID, BROKER, CLUSTER],
    examples: &[example(
        "-i 7F000001000065370000000000000001",
        "where it stands and when it is asked about",
    )],
    json: INFO,
    run: show,
};

pub(crate) const RESUME: SubCommand = SubCommand {
    name: "transactions resume",
    about: "Have a parked transaction asked about again.",
    options: &[ID, BROKER, CLUSTER],
    examples: &[
        example(
            "-i 7F000001000065370000000000000001",
            "its checks begin anew",
        ),
        example(
            "-b 127.0.0.1:10911 -i 7F00000100002A9F0000000000000FA0",
            "by the parked message's offset id: an original broker does it as well",
        ),
    ],
    json: r#"{"brokerAddr","transactionId","offsetMsgId","state":"resumed"}"#,
    run: resume,
};

pub(crate) const RESOLVE: SubCommand = SubCommand {
    name: "transactions resolve",
    about: "Decide a pending transaction in place of its producer.",
    options: &[
        ID,
        long_flag("commit", "deliver the message"),
        long_flag("rollback", "never deliver it"),
        long_flag("yes", "do not ask"),
        BROKER,
        CLUSTER,
    ],
    examples: &[
        example(
            "-i 7F000001000065370000000000000001 --commit",
            "asks, then delivers the message",
        ),
        example(
            "-i 7F000001000065370000000000000001 --rollback --yes",
            "for scripts",
        ),
    ],
    json: r#"{"brokerAddr","transactionId","offsetMsgId","state":"committed" or "rolled back"}"#,
    run: resolve,
};

/// A transaction, and whose it is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    broker_addr: String,
    #[serde(flatten)]
    info: TransactionInfo,
    age_ms: i64,
}

impl Found {
    fn of(broker_addr: &str, info: TransactionInfo) -> Self {
        Self {
            broker_addr: broker_addr.to_owned(),
            age_ms: now_millis().saturating_sub(info.store_timestamp).max(0),
            info,
        }
    }
}

const COLUMNS: Table = Table(&[
    left("#State", 8),
    right("#Age", 9),
    right("#Checks", 8),
    right("#Next Check", 11),
    right("#Producers", 10),
    left("#Producer Group", 24),
    left("#Topic", 24),
    rest("#Transaction Id"),
]);

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        let checks = format!("{}/{}", info.checks, info.checks_max);
        let next = match info.next_check_timestamp {
            0 => "-".to_owned(),
            at => format!("in {}", short(at.saturating_sub(now_millis()))),
        };
        COLUMNS.row(
            f,
            &[
                &info.state,
                &short(self.age_ms),
                &checks,
                &next,
                &info.producers,
                &info.producer_group,
                &info.topic,
                &info.transaction_id,
            ],
        )
    }
}

/// A span of time in its largest unit.
fn short(ms: i64) -> String {
    match ms.max(0) / 1000 {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7_199 => format!("{}m", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `30s`, `5m`, `2h`, `1d`, or ms without a unit.
fn span(text: &str) -> Option<Duration> {
    let (number, unit_ms) = match text.char_indices().last()? {
        (at, 's') => (&text[..at], 1_000),
        (at, 'm') => (&text[..at], 60_000),
        (at, 'h') => (&text[..at], 3_600_000),
        (at, 'd') => (&text[..at], 86_400_000),
        _ => (text, 1),
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_millis(number.checked_mul(unit_ms)?))
}

/// The brokers to ask: one, a cluster's masters, or all masters.
fn brokers(call: &Call) -> Result<Vec<String>, Failure> {
    let is_chosen =
        call.options.get("brokerAddr").is_some() || call.options.get("clusterName").is_some();
    if is_chosen {
        return call.chosen_brokers("brokerAddr", "clusterName");
    }
    let clusters = call.remote.clusters()?;
    let brokers = clusters.broker_addr_table.values();
    Ok(brokers
        .filter_map(|broker| broker.broker_addrs.get(&0).cloned())
        .collect())
}

/// One part of a list; an original broker's refusal is said in words.
fn part(
    call: &Call,
    address: &str,
    header: &ListTransactionsRequest<'_>,
) -> Result<TransactionList, Failure> {
    let request = Command::request(RequestCode::ListTransactions).with_header(header);
    let asked = call
        .remote
        .ask_for("asking for transactions", address, request);
    asked.map_err(original_cannot)
}

fn original_cannot(failure: Failure) -> Failure {
    match failure {
        Failure::Refused { address, code, .. }
            if code == ResponseCode::RequestCodeNotSupported.number() =>
        {
            Failure::Absent(format!(
                "the broker {address} is none of ours: the original shows and decides no transactions"
            ))
        }
        other => other,
    }
}

fn list(call: &mut Call) -> Result<(), Failure> {
    let older_than_ms = match call.options.get("older-than") {
        None => None,
        Some(text) => {
            let span = span(text).ok_or_else(|| {
                Failure::Input(format!(
                    "--older-than takes 30s, 5m, 2h or 1d, not '{text}'"
                ))
            })?;
            Some(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
        }
    };
    call.out.note(Heads.to_string().trim_end())?;
    // What one broker cannot say does not hide the others' answers, and is still a failure.
    let mut failed = None;
    for address in brokers(call)? {
        if let Err(failure) = list_of(call, &address, older_than_ms) {
            failed = Some(later(failed, failure)?);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The failure to end with: the last one; those before it are said at once.
fn later(before: Option<Failure>, failure: Failure) -> Result<Failure, Failure> {
    if let Failure::Output(_) = failure {
        return Err(failure);
    }
    if let Some(before) = before {
        say(&before)?;
    }
    Ok(failure)
}

/// On standard error, since standard output may be read by a program.
fn say(failure: &Failure) -> Result<(), Failure> {
    Ok(writeln!(std::io::stderr(), "{failure}")?)
}

fn list_of(call: &mut Call, address: &str, older_than_ms: Option<i64>) -> Result<(), Failure> {
    let mut from = Some(0);
    while let Some(at) = from {
        let header = ListTransactionsRequest {
            state: Some(if call.options.is_set("parked") {
                "parked"
            } else {
                "pending"
            }),
            producer_group: call.options.get("group"),
            older_than_ms,
            from: Some(at),
            ..ListTransactionsRequest::default()
        };
        let part = part(call, address, &header)?;
        from = part.next_from;
        for info in part.transactions {
            call.out.show(&Found::of(address, info))?;
        }
    }
    Ok(())
}

/// The line of titles.
struct Heads;

impl Display for Heads {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        COLUMNS.head(f)
    }
}

/// Looks for a transaction in these states on all brokers that are asked. A send that was tried again may have left a half on
/// two of them: then nothing is guessed.
fn find(call: &Call, id: &str, states: &[&str]) -> Result<Found, Failure> {
    let addresses = brokers(call)?;
    let mut found = Vec::new();
    let mut failed = None;
    for address in &addresses {
        match find_on(call, address, id, states) {
            Ok(one) => found.extend(one),
            Err(failure) => failed = Some(later(failed, failure)?),
        }
    }
    match (found.pop(), failed) {
        (Some(one), failed) if found.is_empty() => {
            if let Some(failure) = failed {
                say(&failure)?;
            }
            Ok(one)
        }
        (Some(one), _) => {
            found.push(one);
            let places = found.iter().map(|one| {
                let info = &one.info;
                format!(
                    "{} ({}, on {})",
                    info.offset_msg_id, info.state, one.broker_addr
                )
            });
            let places = places.collect::<Vec<_>>().join(", ");
            Err(Failure::Input(format!(
                "{id} names more than one: give one of {places} as the id"
            )))
        }
        (None, Some(failure)) => Err(failure),
        (None, None) => Err(Failure::Absent(format!(
            "no transaction {id} is {} on {}",
            states.join(" or "),
            addresses.join(", ")
        ))),
    }
}

fn find_on(
    call: &Call,
    address: &str,
    id: &str,
    states: &[&str],
) -> Result<Option<Found>, Failure> {
    for state in states {
        let header = ListTransactionsRequest {
            state: Some(state),
            id: Some(id),
            ..ListTransactionsRequest::default()
        };
        if let Some(info) = part(call, address, &header)?.transactions.pop() {
            return Ok(Some(Found::of(address, info)));
        }
    }
    Ok(None)
}

fn show(call: &mut Call) -> Result<(), Failure> {
    let id = call.options.required("id")?.to_owned();
    let found = find(call, &id, &["pending", "parked"])?;
    call.out.show(&Shown(found))
}

/// One transaction, a line for each fact.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(Found);

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let info = &self.0.info;
        let mut line = |name: &str, value: &dyn Display| writeln!(f, "{name:<20} {value}");
        line("State:", &info.state)?;
        line("Transaction Id:", &info.transaction_id)?;
        line("Offset Message Id:", &info.offset_msg_id)?;
        line("Broker:", &self.0.broker_addr)?;
        line("Topic:", &format!("{} queue {}", info.topic, info.queue_id))?;
        line("Producer Group:", &info.producer_group)?;
        line("Producers Online:", &info.producers)?;
        line("Stored:", &time_text::millis(info.store_timestamp))?;
        line("Age:", &short(self.0.age_ms))?;
        line(
            "Checks:",
            &format!("{} of {}", info.checks, info.checks_max),
        )?;
        let next = match info.next_check_timestamp {
            0 => "none".to_owned(),
            at => time_text::millis(at),
        };
        line("Next Check:", &next)
    }
}

/// What was done.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    broker_addr: String,
    transaction_id: String,
    offset_msg_id: String,
    state: &'static str,
}

impl Done {
    fn of(found: &Found, state: &'static str) -> Self {
        Self {
            broker_addr: found.broker_addr.clone(),
            transaction_id: found.info.transaction_id.clone(),
            offset_msg_id: found.info.offset_msg_id.clone(),
            state,
        }
    }
}

impl Display for Done {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let id = match &*self.transaction_id {
            "" => &self.offset_msg_id,
            id => id,
        };
        writeln!(f, "transaction {id} is {}", self.state)
    }
}

fn resume(call: &mut Call) -> Result<(), Failure> {
    let id = call.options.required("id")?.to_owned();
    let done = match (call.options.get("brokerAddr"), OffsetId::parse(&id)) {
        // All is known that the request needs, and the original answers it too.
        (Some(broker), Some(_)) => Done {
            broker_addr: broker.to_owned(),
            transaction_id: String::new(),
            offset_msg_id: id,
            state: "resumed",
        },
        _ => Done::of(&find(call, &id, &["parked"])?, "resumed"),
    };
    let request = Command::request(RequestCode::ResumeCheckHalfMessage).with_header(
        &ResumeCheckHalfMessageRequest {
            topic: Some(topic::TRANS_CHECK_MAX_TIME),
            msg_id: &done.offset_msg_id,
        },
    );
    call.remote
        .ask("resuming the transaction", &done.broker_addr, request)?;
    call.out.show(&done)
}

fn resolve(call: &mut Call) -> Result<(), Failure> {
    let id = call.options.required("id")?.to_owned();
    let (code, state) = match (
        call.options.is_set("commit"),
        call.options.is_set("rollback"),
    ) {
        (true, false) => (COMMIT, "committed"),
        (false, true) => (ROLLBACK, "rolled back"),
        (true, true) | (false, false) => {
            return Err(Failure::Input("give --commit or --rollback".to_owned()));
        }
    };
    let found = find(call, &id, &["pending", "parked"])?;
    if found.info.state != "pending" {
        let state = &found.info.state;
        return Err(Failure::Absent(format!(
            "the transaction {id} is {state}: resume it first"
        )));
    }
    if !call.options.is_set("yes") && !confirmed(&found, state)? {
        return Err(Failure::Input("nothing was done".to_owned()));
    }
    let request =
        Command::request(RequestCode::ResolveTransaction).with_header(&ResolveTransactionRequest {
            id: &found.info.offset_msg_id,
            commit_or_rollback: code,
        });
    call.remote
        .ask("deciding the transaction", &found.broker_addr, request)
        .map_err(original_cannot)?;
    call.out.show(&Done::of(&found, state))
}

/// Asks on standard error, since standard output may be read by a program.
fn confirmed(found: &Found, state: &str) -> Result<bool, Failure> {
    let info = &found.info;
    let mut screen = std::io::stderr();
    write!(
        screen,
        "The transaction {} of group {} for topic {} will be {state}, and this is final. Go on? [y/N] ",
        info.transaction_id, info.producer_group, info.topic
    )?;
    screen.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        let ms = |text| span(text).map(|span| span.as_millis());
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("5m"), Some(300_000));
        assert_eq!(ms("2h"), Some(7_200_000));
        assert_eq!(ms("1d"), Some(86_400_000));
        assert_eq!(ms("1500"), Some(1_500));
        for text in ["", "m", "5 m", "-5m", "fünf", "18446744073709551615d"] {
            assert_eq!(ms(text), None, "{text}");
        }
    }

    #[test]
    fn ages_are_short() {
        let texts = [0, 119_000, 120_000, 7_200_000, 180_000_000].map(short);
        assert_eq!(texts, ["0s", "119s", "2m", "2h", "2d"]);
    }
}
