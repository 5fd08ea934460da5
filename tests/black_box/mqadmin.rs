//! `agena admin` against our own servers: what operators do in a day, read back through other commands. That the text is
//! the original's is proven on its transcripts, in `admin/tests/transcripts`.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::servers::Servers;

pub(crate) const UPDATE_CONSUMER_OFFSET: i32 = 15;
pub(crate) const HEART_BEAT: i32 = 34;

pub(crate) fn admin(servers: &Servers, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agena"))
        .arg("admin")
        .args(arguments)
        .args(["-n", &servers.name_server()])
        .stdin(Stdio::null())
        .output()
        .expect("agena runs")
}

/// What a command prints.
pub(crate) fn text(servers: &Servers, arguments: &[&str]) -> String {
    let output = admin(servers, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The documents a command prints with `--json`.
pub(crate) fn documents(servers: &Servers, arguments: &[&str]) -> Vec<Value> {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let printed = text(servers, &arguments);
    let parse = |line: &str| serde_json::from_str(line).expect("a document a line");
    printed.lines().map(parse).collect()
}

pub(crate) fn document(servers: &Servers, arguments: &[&str]) -> Value {
    documents(servers, arguments).swap_remove(0)
}

/// The line that says why a command failed.
pub(crate) fn failure(servers: &Servers, arguments: &[&str]) -> String {
    let output = admin(servers, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

/// Servers with a topic of one queue and three messages in it.
pub(crate) fn with_orders() -> Servers {
    let servers = Servers::start();
    text(
        &servers,
        &[
            "updateTopic",
            "-b",
            &servers.broker(),
            "-t",
            "Orders",
            "-r",
            "1",
            "-w",
            "1",
        ],
    );
    for (key, tag, body) in [
        ("k1", "paid", "one"),
        ("k2", "sent", "two"),
        ("k1", "paid", "three"),
    ] {
        let sent = document(
            &servers,
            &[
                "sendMessage",
                "-t",
                "Orders",
                "-p",
                body,
                "-k",
                key,
                "-c",
                tag,
            ],
        );
        assert_eq!(sent["status"], "SEND_OK");
    }
    servers
}

#[test]
fn a_message_is_found_by_key_offset_and_both_ids() {
    let servers = with_orders();
    let hits = document(&servers, &["queryMsgByKey", "-t", "Orders", "-k", "k1"]);
    let hits = hits["messages"].as_array().expect("a list");
    let bodies: Vec<&Value> = hits.iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, ["one", "three"]);
    let hit = &hits[1];
    let offset = hit["queueOffset"].to_string();
    let broker = hit["brokerName"].as_str().expect("a name");
    let by_offset = document(
        &servers,
        &[
            "queryMsgByOffset",
            "-t",
            "Orders",
            "-b",
            broker,
            "-i",
            "0",
            "-o",
            &offset,
        ],
    );
    let id = |name: &str| hit[name].as_str().expect("an id").to_owned();
    let by_place = document(
        &servers,
        &["queryMsgById", "-t", "Orders", "-i", &id("offsetMsgId")],
    );
    let by_client_id = document(
        &servers,
        &["queryMsgById", "-t", "Orders", "-i", &id("msgId")],
    );
    let by_unique_key = document(
        &servers,
        &["queryMsgByUniqueKey", "-t", "Orders", "-i", &id("msgId")],
    );
    for found in [by_offset, by_place, by_client_id, by_unique_key] {
        assert_eq!(found["body"], "three");
        assert_eq!(found["offsetMsgId"], hit["offsetMsgId"]);
        assert_eq!(found["properties"]["TAGS"], "paid");
    }
    let status = document(&servers, &["topicStatus", "-t", "Orders"]);
    assert_eq!(status["queues"][0]["maxOffset"], 3);
    let entries = document(&servers, &["queryCq", "-t", "Orders", "-q", "0", "-i", "2"]);
    assert_eq!(
        entries["queueData"][0]["physicOffset"],
        hit["commitLogOffset"]
    );
    let why = failure(&servers, &["queryMsgByKey", "-t", "Orders", "-k", "nobody"]);
    assert_eq!(
        why,
        "queryMsgByKey failed: no message of topic Orders has the key nobody\n"
    );
}

#[test]
fn queues_print_what_is_in_them_filtered_by_tag() {
    let servers = with_orders();
    let bodies = |arguments: &[&str]| -> Vec<String> {
        let messages = documents(&servers, arguments);
        messages
            .iter()
            .map(|message| message["body"].as_str().expect("text").to_owned())
            .collect()
    };
    assert_eq!(
        bodies(&["printMsg", "-t", "Orders"]),
        ["one", "two", "three"]
    );
    assert_eq!(
        bodies(&["printMsg", "-t", "Orders", "-s", "paid"]),
        ["one", "three"]
    );
    assert_eq!(
        bodies(&["consumeMessage", "-t", "Orders", "-c", "2"]),
        ["one", "two"]
    );
    let broker = document(&servers, &["clusterList"])["brokers"][0]["brokerName"]
        .as_str()
        .expect("a name")
        .to_owned();
    let counts = documents(
        &servers,
        &[
            "printMsgByQueue",
            "-t",
            "Orders",
            "-a",
            &broker,
            "-i",
            "0",
            "-f",
            "true",
        ],
    );
    assert_eq!(
        counts[0]["tags"],
        json!([{"tag": "paid", "count": 2}, {"tag": "sent", "count": 1}])
    );
}

/// The body of a heartbeat of one consumer.
pub(crate) fn heartbeat(group: &str) -> Vec<u8> {
    let everything = |topic: &str| {
        json!({"classFilterMode": false, "topic": topic, "subString": "*", "tagsSet": [], "codeSet": [],
            "subVersion": 1, "expressionType": "TAG"})
    };
    json!({"clientID": "192.0.2.9@1", "producerDataSet": [], "consumerDataSet": [{
        "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
        "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": false,
        "subscriptionDataSet": [everything("Orders"), everything(&format!("%RETRY%{group}"))]}]})
    .to_string()
    .into_bytes()
}

#[test]
fn a_groups_progress_is_shown_rehearsed_reset_cloned_and_deleted() {
    let servers = with_orders();
    let mut member = servers.raw();
    assert_eq!(member.call(HEART_BEAT, &[], &heartbeat("Billing")).code, 0);
    let offset = [
        ("consumerGroup", "Billing"),
        ("topic", "Orders"),
        ("queueId", "0"),
        ("commitOffset", "2"),
    ];
    // Not on the member's connection: the broker speaks there too, of the group's members.
    let mut other = servers.raw();
    assert_eq!(other.call(UPDATE_CONSUMER_OFFSET, &offset, &[]).code, 0);

    let progress = document(
        &servers,
        &["consumerProgress", "-g", "Billing", "-t", "Orders"],
    );
    let queue = &progress["queues"][0];
    assert_eq!(
        (
            &queue["brokerOffset"],
            &queue["consumerOffset"],
            &queue["diff"]
        ),
        (&json!(3), &json!(2), &json!(1))
    );
    assert!(queue["lastTimestamp"].as_i64() > Some(0));
    // The group is found by its retry topic, which the name server is told of behind the heartbeat's answer.
    let deadline = Instant::now() + Duration::from_secs(20);
    let billing = loop {
        let groups = document(&servers, &["consumerProgress"]);
        let groups = groups["groups"].as_array().expect("a list").clone();
        if let Some(billing) = groups.into_iter().find(|row| row["group"] == "Billing") {
            break billing;
        }
        assert!(Instant::now() < deadline, "the group is not listed");
    };
    assert_eq!(billing["count"], 1);
    let connection = document(&servers, &["consumerConnection", "-g", "Billing"]);
    assert_eq!(connection["clients"][0]["clientId"], "192.0.2.9@1");
    assert_eq!(connection["subscriptions"]["Orders"], "*");

    let rehearsal = document(
        &servers,
        &[
            "resetOffsetByTime",
            "-g",
            "Billing",
            "-t",
            "Orders",
            "-s",
            "0",
            "--dry-run",
        ],
    );
    assert_eq!(rehearsal["queues"][0]["messages"], 2);
    let unchanged = document(
        &servers,
        &["consumerProgress", "-g", "Billing", "-t", "Orders"],
    );
    assert_eq!(unchanged["queues"][0]["consumerOffset"], 2);
    let reset = document(
        &servers,
        &[
            "resetOffsetByTime",
            "-g",
            "Billing",
            "-t",
            "Orders",
            "-s",
            "0",
        ],
    );
    assert_eq!(
        reset["queues"],
        json!([{"brokerName": queue["brokerName"], "queueId": 0, "offset": 0}])
    );
    let after = document(
        &servers,
        &["consumerProgress", "-g", "Billing", "-t", "Orders"],
    );
    assert_eq!(after["diffTotal"], 3);

    text(
        &servers,
        &[
            "updateSubGroup",
            "-b",
            &servers.broker(),
            "-g",
            "Audit",
            "-r",
            "3",
        ],
    );
    let config = document(&servers, &["getConsumerConfig", "-g", "Audit"]);
    assert_eq!(config["groupConfig"]["retryMaxTimes"], 3);
    text(
        &servers,
        &[
            "cloneGroupOffset",
            "-s",
            "Billing",
            "-d",
            "Audit",
            "-t",
            "Orders",
        ],
    );
    let cloned = document(
        &servers,
        &["consumerProgress", "-g", "Audit", "-t", "Orders"],
    );
    assert_eq!(cloned["queues"][0]["consumerOffset"], 0);
    text(
        &servers,
        &[
            "deleteSubGroup",
            "-b",
            &servers.broker(),
            "-g",
            "Audit",
            "-r",
            "true",
        ],
    );
    assert_eq!(
        failure(&servers, &["getConsumerConfig", "-g", "Audit"]),
        "getConsumerConfig failed: no broker has group Audit\n"
    );
}

#[test]
fn topics_and_settings_change_and_say_so() {
    let servers = with_orders();
    let broker = servers.broker();
    text(
        &servers,
        &["updateTopicPerm", "-b", &broker, "-t", "Orders", "-p", "4"],
    );
    let route = document(&servers, &["topicRoute", "-t", "Orders"]);
    assert_eq!(route["queueDatas"][0]["perm"], 4);
    let why = failure(&servers, &["sendMessage", "-t", "Orders", "-p", "x"]);
    assert!(why.contains("no such queue that can be written"), "{why}");

    let changed = document(
        &servers,
        &[
            "updateBrokerConfig",
            "-b",
            &broker,
            "-k",
            "fileReservedTime",
            "-v",
            "49",
        ],
    );
    assert_eq!(changed["value"], "49");
    let config = document(&servers, &["getBrokerConfig", "-b", &broker]);
    assert_eq!(config["config"]["fileReservedTime"], "49");
    let why = failure(
        &servers,
        &[
            "updateBrokerConfig",
            "-b",
            &broker,
            "-k",
            "brokerConfigPath",
            "-v",
            "/x",
        ],
    );
    assert!(
        why.contains("Can not update config in black list."),
        "{why}"
    );
    let why = failure(&servers, &["updateTopic", "-b", &broker, "-t", "TBW102"]);
    assert!(
        why.contains("The topic[TBW102] is conflict with system topic."),
        "{why}"
    );

    let cluster = route["brokerDatas"][0]["cluster"].as_str().expect("a name");
    text(&servers, &["deleteTopic", "-c", cluster, "-t", "Orders"]);
    let topics = document(&servers, &["topicList"]);
    let names = topics["topics"].as_array().expect("a list");
    assert!(!names.contains(&json!("Orders")));
    let status = document(&servers, &["clusterList", "-c", cluster]);
    assert_eq!(status["brokers"][0]["active"], true);
}

#[test]
fn lag_is_explained_in_words_and_as_a_document() {
    let servers = with_orders();
    let mut member = servers.raw();
    assert_eq!(member.call(HEART_BEAT, &[], &heartbeat("Billing")).code, 0);
    let offset = [
        ("consumerGroup", "Billing"),
        ("topic", "Orders"),
        ("queueId", "0"),
        ("commitOffset", "1"),
    ];
    let mut other = servers.raw();
    assert_eq!(other.call(UPDATE_CONSUMER_OFFSET, &offset, &[]).code, 0);
    // The route of the group's retry topic comes with the broker's next registration.
    let explain = ["lagExplain", "-g", "Billing", "-t", "Orders"];
    let explained = document(&servers, &explain);
    assert_eq!(explained["lagTotal"], 2);
    assert_eq!(explained["members"], json!(["192.0.2.9@1"]));
    let queue = &explained["queues"][0];
    assert_eq!(
        (&queue["topic"], &queue["lag"], &queue["committed"]),
        (&json!("Orders"), &json!(2), &json!(1))
    );
    assert!(queue["behindMs"].as_i64() > Some(0));
    assert!(queue["brokerName"].is_string());
    assert_eq!(queue["lastCommit"]["connected"], false);
    let words =
        "no owner: none of 1 connected members has pulled this queue since this broker started";
    assert_eq!(
        queue["causes"],
        json!([{"kind": "NO_OWNER", "members": 1, "since": null, "by": null, "words": words}])
    );
    let shown = text(&servers, &explain);
    let first = shown.lines().next().expect("a line");
    assert!(
        first.starts_with("Group Billing: 2 messages behind in 1 of "),
        "{first}"
    );
    assert!(shown.contains(&format!("  - {words}\n")), "{shown}");
    let refused = failure(&servers, &["lagExplain", "-g", "Nobody", "-t", "Orders"]);
    assert!(refused.contains("[Nobody] does not exist"), "{refused}");
}
