//! Old log files: what an operator is told before they go, and what the log says when they go unread.

use std::process::{Command, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::servers::Servers;

const UPDATE_CONSUMER_OFFSET: i32 = 15;
const UPDATE_BROKER_CONFIG: i32 = 25;
const GET_MIN_OFFSET: i32 = 31;
const OFFSET_ILLEGAL: i64 = 21;
const WITHIN: Duration = Duration::from_secs(30);

/// Bytes of a log file; three messages of `BODY` fit.
const SEGMENT: &str = "mappedFileSizeCommitLog=131072";
static BODY: [u8; 40_000] = [b'x'; 40_000];

fn admin(servers: &Servers, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_agena"))
        .arg("admin")
        .args(arguments)
        .args(["-n", &servers.name_server()])
        .stdin(Stdio::null())
        .output()
        .expect("agena runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    output.stdout
}

fn explain(servers: &Servers, more: &[&str]) -> Value {
    let arguments: Vec<&str> = ["retentionExplain", "--json"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    serde_json::from_slice(&admin(servers, &arguments)).expect("one document")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn what_goes_next_is_explained_and_what_went_unread_is_in_the_log() {
    let servers = Servers::start_with(&[SEGMENT, "cleanResourceInterval=50"]);
    let mut raw = servers.raw();
    raw.create_topic("Orders", 1);
    for _ in 0..8 {
        assert_eq!(raw.send("Orders", "0", "", &BODY).code, 0);
    }
    for (group, offset) in [("Billing", "1"), ("Audit", "8")] {
        admin(
            &servers,
            &["updateSubGroup", "-b", &servers.broker(), "-g", group],
        );
        let offset = [
            ("consumerGroup", group),
            ("topic", "Orders"),
            ("queueId", "0"),
            ("commitOffset", offset),
        ];
        assert_eq!(raw.call(UPDATE_CONSUMER_OFFSET, &offset, &[]).code, 0);
    }
    let explained = explain(&servers, &["-b", &servers.broker()]);
    assert_eq!(explained["files"], 3, "{explained}");
    let next = explained["next"].as_array().expect("a list");
    assert_eq!(next.len(), 2, "the file that is written to stays");
    assert_eq!(next[0]["to"], 131_072);
    let unread = |at: usize| {
        (
            &next[at]["unread"][0]["group"],
            &next[at]["unread"][0]["messages"],
        )
    };
    assert_eq!(unread(0), (&"Billing".into(), &2.into()));
    assert_eq!(unread(1), (&"Billing".into(), &5.into()));
    assert_eq!(
        next[0]["unread"].as_array().map(Vec::len),
        Some(1),
        "Audit is through"
    );
    let other = explain(&servers, &["-c", "DefaultCluster", "-t", "Bills"]);
    assert_eq!(other["next"][0]["unread"].as_array().map(Vec::len), Some(0));

    // An operator gives the log less room than it has.
    let changed = raw.call(UPDATE_BROKER_CONFIG, &[], b"logBytesMax=200000\n");
    assert_eq!(changed.code, 0);
    let min_offset = |raw: &mut crate::raw::Raw| {
        let answer = raw.call(
            GET_MIN_OFFSET,
            &[("topic", "Orders"), ("queueId", "0")],
            &[],
        );
        answer.ext["offset"].as_str().map(str::to_owned)
    };
    until("the first two files go", || {
        min_offset(&mut raw).as_deref() == Some("6")
    });
    let told = servers.output();
    let told: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("has not read"))
        .collect();
    assert_eq!(told.len(), 2, "one line for each file: {told:?}");
    assert!(
        told.iter()
            .all(|line| line.contains("Billing") && line.contains("Orders"))
    );
    assert!(!told.iter().any(|line| line.contains("Audit")));
    let too_small = raw.pull("Orders", "0", 1);
    assert_eq!(too_small.code, OFFSET_ILLEGAL);
    assert_eq!(too_small.ext["nextBeginOffset"], "6");
    let explained = explain(&servers, &[]);
    assert_eq!(explained["files"], 1);
    assert_eq!(explained["next"].as_array().map(Vec::len), Some(0));
}
