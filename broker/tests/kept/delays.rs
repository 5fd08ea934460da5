//! Delayed messages over kills and stops.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agena_protocol::command::Command;
use agena_protocol::headers::send::RecallMessageRequest;
use agena_protocol::request_code::RequestCode;

use super::process::BrokerProcess;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn three_kills_lose_no_delayed_message_and_none_comes_early() {
    const EACH: i64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let mut broker = BrokerProcess::start(directory.path());
    let mut wire = broker.connect();
    let begin = now_ms();
    let mut due: BTreeMap<String, i64> = BTreeMap::new();
    for number in 0..EACH {
        let deliver = begin + 1500 + number * 5;
        let body = format!("timer-{number}");
        wire.send("T", &body, &[("TIMER_DELIVER_MS", &deliver.to_string())]);
        due.insert(body, deliver);
        let body = format!("level-{number}");
        let sent = now_ms();
        wire.send("T", &body, &[("DELAY", "1")]);
        due.insert(body, sent + 1000);
    }
    for delivered in [50, 200, 450] {
        wait_until("some deliveries", || wire.max_offset("T") >= delivered);
        broker.kill();
        broker = BrokerProcess::start(directory.path());
        wire = broker.connect();
    }
    let mut got: BTreeMap<String, i64> = BTreeMap::new();
    wait_until("every delivery", || {
        got = wire
            .read_all("T")
            .into_iter()
            .map(|(body, _, stored)| (body, stored))
            .collect();
        got.len() == due.len()
    });
    for (body, stored) in &got {
        assert!(
            *stored >= due[body],
            "{body} came {} ms early",
            due[body] - stored
        );
    }
    // A kill between an append and the note of it repeats at most that append.
    let repeated = wire.max_offset("T") - EACH * 2;
    assert!(repeated <= 3 * 2 * 64, "{repeated} messages came twice");
    broker.stop();
}

#[test]
fn what_waits_at_a_stop_is_delivered_after_the_start_and_what_was_delivered_is_not_again() {
    let directory = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(directory.path());
    let mut wire = broker.connect();
    wire.send("T", "level before", &[("DELAY", "1")]);
    wire.send("T", "timer before", &[("TIMER_DELAY_MS", "300")]);
    wait_until("two deliveries", || wire.max_offset("T") == 2);
    wire.send("T", "level after", &[("DELAY", "2")]);
    wire.send("T", "timer after", &[("TIMER_DELAY_MS", "5500")]);
    broker.stop();
    let broker = BrokerProcess::start(directory.path());
    let mut wire = broker.connect();
    assert_eq!(wire.max_offset("T"), 2);
    wait_until("two more deliveries", || wire.max_offset("T") >= 4);
    let bodies: Vec<_> = wire
        .read_all("T")
        .into_iter()
        .map(|(body, _, _)| body)
        .collect();
    assert_eq!(bodies[2..], ["level after", "timer after"]);
    broker.stop();
}

#[test]
fn a_recalled_timer_is_not_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(directory.path());
    let mut wire = broker.connect();
    let sent = wire.send(
        "T",
        "recalled",
        &[("TIMER_DELAY_MS", "2500"), ("UNIQ_KEY", "K1")],
    );
    wire.send(
        "T",
        "kept",
        &[("TIMER_DELAY_MS", "2500"), ("UNIQ_KEY", "K2")],
    );
    let handle = sent.ext.get("recallHandle").unwrap().to_owned();
    let recall = |handle: &str| {
        Command::request(RequestCode::RecallMessage).with_header(&RecallMessageRequest {
            topic: "T",
            recall_handle: handle,
            ..RecallMessageRequest::default()
        })
    };
    let answer = wire.ask(&recall(&handle));
    assert_eq!(answer.ext.get("msgId"), Some("K1"));
    assert_eq!(wire.call(&recall("nonsense")).code, 604);
    wait_until("the other delivery", || wire.max_offset("T") >= 1);
    wire.send("T", "behind both", &[("TIMER_DELAY_MS", "200")]);
    wait_until("a later delivery", || wire.max_offset("T") >= 2);
    let bodies: Vec<_> = wire
        .read_all("T")
        .into_iter()
        .map(|(body, _, _)| body)
        .collect();
    assert_eq!(bodies, ["kept", "behind both"]);
}
