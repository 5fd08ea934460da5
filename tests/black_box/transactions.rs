//! Transactions through `mqadmin`: seen while nobody decides them, decided by an operator once, parked and resumed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agena_client::{Message, Producer, ReceivedMessage, Resolution, TransactionListener};
use serde_json::{Value, json};

use crate::mqadmin::{admin, document, documents, failure, text};
use crate::raw::{Raw, SEND_MESSAGE};
use crate::servers::{Servers, free_ports};
use crate::stored::stored;

const WITHIN: Duration = Duration::from_secs(30);

/// Sends a half message of group `shop`, whose id is `id`.
fn half(servers: &Servers, id: &str, body: &str) {
    let properties = format!(
        "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}shop\u{2}UNIQ_KEY\u{1}{id}\u{2}WAIT\u{1}true\u{2}"
    );
    let fields = [
        ("producerGroup", "shop"),
        ("topic", "Orders"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "1"),
        ("queueId", "0"),
        ("sysFlag", "4"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "0"),
        ("properties", &properties),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
        ("batch", "false"),
    ];
    let answer = servers.raw().call(SEND_MESSAGE, &fields, body.as_bytes());
    assert_eq!(answer.code, 0, "{}", answer.remark);
}

fn listed(servers: &Servers, more: &[&str]) -> Vec<Value> {
    let arguments: Vec<&str> = ["transactions", "list"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    documents(servers, &arguments)
}

/// Waits until the list has one entry, and gives it.
async fn the_one_listed(servers: &Servers, more: &[&str]) -> Value {
    let deadline = Instant::now() + WITHIN;
    loop {
        let mut all = listed(servers, more);
        if all.len() == 1 {
            return all.swap_remove(0);
        }
        assert!(Instant::now() < deadline, "{more:?}: {all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_operator_decides_what_no_producer_does() {
    let mut servers = Servers::start_with(&["transactionTimeOut=600000"]);
    servers.raw().create_topic("Orders", 1);
    half(&servers, "id-1", "one");
    half(&servers, "id-2", "two");

    let pending = listed(&servers, &[]);
    let facts = |entry: &Value| {
        ["transactionId", "state", "topic", "producerGroup"].map(|name| entry[name].clone())
    };
    let ids: Vec<_> = pending.iter().map(facts).collect();
    assert_eq!(ids[0], ["id-1", "pending", "Orders", "shop"]);
    assert_eq!(ids[1], ["id-2", "pending", "Orders", "shop"]);
    let counts = (
        &pending[0]["producers"],
        &pending[0]["checks"],
        &pending[0]["checksMax"],
    );
    assert_eq!(counts, (&json!(0), &json!(0), &json!(15)));
    assert!(listed(&servers, &["-g", "others"]).is_empty());
    assert!(listed(&servers, &["--parked"]).is_empty());
    let shown = text(&servers, &["transactions", "show", "-i", "id-2"]);
    assert!(shown.contains("Orders queue 0"), "{shown}");

    let resolve =
        |id: &'static str, how: &'static str| ["transactions", "resolve", "-i", id, how, "--yes"];
    // Nobody answers the question, so nothing is done.
    let asked = admin(&servers, &resolve("id-1", "--commit")[..5]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(
        said.contains("[y/N]") && said.contains("nothing was done"),
        "{said}"
    );
    assert_eq!(asked.status.code(), Some(1));
    assert_eq!(listed(&servers, &[]).len(), 2);

    let done = document(&servers, &resolve("id-1", "--commit"));
    assert_eq!(
        (&done["state"], &done["transactionId"]),
        (&json!("committed"), &json!("id-1"))
    );
    assert_eq!(stored(&servers, "Orders"), ["one"]);
    let done = document(&servers, &resolve("id-2", "--rollback"));
    assert_eq!(done["state"], "rolled back");
    for id in ["id-1", "id-2"] {
        let said = failure(&servers, &resolve(id, "--commit"));
        assert!(
            said.contains(&format!("no transaction {id} is pending or parked")),
            "{said}"
        );
    }

    servers.kill();
    servers.start_again();
    assert!(listed(&servers, &[]).is_empty());
    assert_eq!(stored(&servers, "Orders"), ["one"]);
}

/// Knows of nothing until it is told.
struct Shop(Arc<AtomicBool>);

impl TransactionListener for Shop {
    async fn execute(&self, _: &Message, _: &str) -> Resolution {
        Resolution::Unknown
    }

    async fn check(&self, _: &ReceivedMessage) -> Resolution {
        match self.0.load(Ordering::SeqCst) {
            true => Resolution::Commit,
            false => Resolution::Unknown,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_resumed_and_delivered_once() {
    let servers = Servers::start_with(&[
        "transactionTimeOut=100",
        "transactionCheckInterval=100",
        "transactionCheckMax=2",
    ]);
    servers.raw().create_topic("Orders", 1);
    let knows = Arc::new(AtomicBool::new(false));
    let producer = Producer::builder("shop")
        .name_servers(&servers.name_server())
        .topics(["Orders"])
        .timeout(Duration::from_secs(10))
        .start_transactional(Shop(Arc::clone(&knows)))
        .await
        .expect("the producer starts");
    let sent = producer.send(Message::new("Orders", "late")).await;
    let id = sent.expect("the half is stored").half.msg_id;

    let parked = the_one_listed(&servers, &["--parked"]).await;
    assert_eq!(
        (
            &parked["transactionId"],
            &parked["state"],
            &parked["checks"]
        ),
        (&json!(id), &json!("parked"), &json!(2))
    );
    assert!(listed(&servers, &[]).is_empty());
    let arguments = ["transactions", "resolve", "-i", &id, "--commit", "--yes"];
    let said = failure(&servers, &arguments);
    assert!(said.contains("resume it first"), "{said}");
    assert!(stored(&servers, "Orders").is_empty());

    knows.store(true, Ordering::SeqCst);
    let resumed = document(&servers, &["transactions", "resume", "-i", &id]);
    assert_eq!(resumed["state"], "resumed");
    let deadline = Instant::now() + WITHIN;
    while stored(&servers, "Orders").is_empty() {
        assert!(Instant::now() < deadline, "{:?}", listed(&servers, &[]));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(listed(&servers, &[]).is_empty());
    // Once more, and nothing comes of it.
    let said = failure(&servers, &["transactions", "resume", "-i", &id]);
    assert!(said.contains("transactions resume failed"), "{said}");
    assert!(listed(&servers, &[]).is_empty());
    assert_eq!(stored(&servers, "Orders"), ["late"]);
    producer.shutdown().await;
}

/// What the program says of input that it cannot do anything with.
fn bad_input(servers: &Servers, arguments: &[&str]) -> String {
    let answer = admin(servers, arguments);
    assert_eq!(answer.status.code(), Some(1));
    String::from_utf8_lossy(&answer.stderr).into_owned()
}

const REGISTER_BROKER: i32 = 103;

/// Has the name server of `servers` know one more master, as long as the connection is kept.
fn register(servers: &Servers, name: &str, address: &str) -> Raw {
    let mut registered = Raw::connect(&servers.name_server());
    let fields = [
        ("brokerName", name),
        ("brokerAddr", address),
        ("clusterName", "DefaultCluster"),
        ("haServerAddr", address),
        ("brokerId", "0"),
    ];
    let body = br#"{"topicConfigSerializeWrapper":{"topicConfigTable":{},"dataVersion":{"counter":1,"timestamp":1}},"filterServerList":[]}"#;
    let answer = registered.call(REGISTER_BROKER, &fields, body);
    assert_eq!(answer.code, 0, "{}", answer.remark);
    registered
}

#[test]
fn what_two_brokers_have_under_one_id_is_decided_by_place_only() {
    let first = Servers::start_with(&["transactionTimeOut=600000"]);
    let second = Servers::start_with(&["transactionTimeOut=600000"]);
    for servers in [&first, &second] {
        servers.raw().create_topic("Orders", 1);
        half(servers, "tried-twice", "one");
    }
    let _registered = register(&first, "second", &second.broker());
    let pending = listed(&first, &[]);
    assert_eq!(pending.len(), 2);
    let of_second = pending
        .iter()
        .find(|one| one["brokerAddr"] == second.broker().as_str())
        .and_then(|one| one["offsetMsgId"].as_str())
        .expect("the second broker's half");

    let resolve = |id| ["transactions", "resolve", "-i", id, "--commit", "--yes"];
    let said = bad_input(&first, &resolve("tried-twice"));
    assert!(
        said.contains("names more than one") && said.contains(of_second),
        "{said}"
    );
    assert_eq!(listed(&first, &[]).len(), 2);
    document(&first, &resolve(of_second));
    assert!(stored(&first, "Orders").is_empty());
    assert_eq!(stored(&second, "Orders"), ["one"]);
    document(&first, &resolve("tried-twice"));
    assert_eq!(stored(&first, "Orders"), ["one"]);
}

#[test]
fn a_broker_that_is_down_hides_no_transactions_of_others() {
    let servers = Servers::start_with(&["transactionTimeOut=600000"]);
    servers.raw().create_topic("Orders", 1);
    half(&servers, "id-1", "one");
    let nobody = format!("127.0.0.1:{}", free_ports().0);
    // In front of the other and behind it.
    let _before = register(&servers, "a-down", &nobody);
    let _behind = register(&servers, "z-down", &nobody);

    let answer = admin(&servers, &["transactions", "list", "--json"]);
    assert!(!answer.status.success());
    let lines = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("id-1"), "{lines}");
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(said.contains(&nobody), "{said}");
    let rolled_back = [
        "transactions",
        "resolve",
        "-i",
        "id-1",
        "--rollback",
        "--yes",
    ];
    assert!(admin(&servers, &rolled_back).status.success());
}

#[test]
fn a_list_is_read_in_parts_and_may_be_of_old_ones_only() {
    let servers = Servers::start_with(&["transactionTimeOut=600000"]);
    servers.raw().create_topic("Orders", 1);
    for number in 0..1_100 {
        half(&servers, &format!("id-{number}"), "x");
    }
    let ids: Vec<_> = listed(&servers, &[])
        .iter()
        .map(|one| one["transactionId"].clone())
        .collect();
    let expected: Vec<_> = (0..1_100)
        .map(|number| json!(format!("id-{number}")))
        .collect();
    assert_eq!(ids, expected);
    assert_eq!(listed(&servers, &["--older-than", "1h"]).len(), 0);
    assert_eq!(listed(&servers, &["--older-than", "0s"]).len(), 1_100);
    let both = [
        "transactions",
        "resolve",
        "-i",
        "id-1",
        "--commit",
        "--rollback",
        "--yes",
    ];
    assert!(bad_input(&servers, &both).contains("give --commit or --rollback"));
}

#[test]
fn the_log_tells_of_a_group_that_nobody_can_be_asked_of() {
    let servers = Servers::start_with(&["transactionTimeOut=50"]);
    servers.raw().create_topic("Orders", 1);
    half(&servers, "id-1", "one");
    let told = "transactions are pending and no producer of their group is connected";
    servers.wait_for_line(|line| line.contains(told) && line.contains("shop"));
    let pending = listed(&servers, &[]);
    assert_eq!(
        (&pending[0]["producers"], &pending[0]["checks"]),
        (&json!(0), &json!(0))
    );
}
