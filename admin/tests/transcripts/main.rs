//! The binary against the original's transcripts (`tests/fixtures/mqadmin`): a server with canned answers stands in
//! for the name server and broker of the transcripts, and what is printed must be what the original printed, byte for
//! byte apart from blank lines at the end and the order of rows that the original takes from a hash map.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod canned;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use canned::Canned;

/// Addresses of the captured name server and broker.
const CAPTURED: [&str; 2] = ["127.0.0.1:25876", "127.0.0.1:25911"];

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mqadmin");
    let path: PathBuf = folder.join(format!("{name}.txt"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs the binary with the arguments of a transcript's first line, at the canned server.
fn run(arguments: &str, server: &Canned) -> Output {
    let arguments = CAPTURED.iter().fold(arguments.to_owned(), |text, from| {
        text.replace(from, &server.address())
    });
    Command::new(env!("CARGO_BIN_EXE_mqadmin"))
        .args(arguments.split_whitespace())
        .env("TZ", "UTC")
        .env_remove("NAMESRV_ADDR")
        .output()
        .unwrap()
}

/// A transcript's arguments, and what came out with the server's address in it.
fn transcript(name: &str, server: &Canned) -> (String, String) {
    let text = fixture(name);
    let (first, rest) = text.split_once('\n').unwrap();
    let arguments = first.strip_prefix("$ mqadmin ").unwrap().to_owned();
    let expected = CAPTURED.iter().fold(rest.to_owned(), |text, from| {
        text.replace(from, &server.address())
    });
    (arguments, expected.trim_end_matches('\n').to_owned())
}

fn outcome(name: &str) -> (String, String) {
    let server = Canned::start();
    let (arguments, expected) = transcript(name, &server);
    let output = run(&arguments, &server);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    (
        expected,
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end_matches('\n')
            .to_owned(),
    )
}

fn same(name: &str) {
    let (expected, printed) = outcome(name);
    assert_eq!(printed, expected, "{name}");
}

/// As [`same`], whatever the order of the lines.
fn same_lines(name: &str) {
    let (expected, printed) = outcome(name);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    };
    let (printed, expected) = (sorted(&printed), sorted(&expected));
    assert!(
        printed == expected,
        "{name}: printed\n{printed}\nexpected\n{expected}"
    );
}

#[test]
fn topics_print_as_the_original_does() {
    for name in [
        "topicRoute_list",
        "topicStatus",
        "topicClusterList",
        "updateTopic",
        "updateTopic_attr",
        "updateTopic_order",
        "deleteTopic",
        "updateTopicPerm",
        "updateOrderConf_get",
        "updateOrderConf_put",
        "updateOrderConf_delete",
    ] {
        same(name);
    }
    same_lines("topicList_cluster");
    same_lines("statsAll_topic");
}

#[test]
fn a_route_prints_as_the_original_has_it() {
    let (expected, printed) = outcome("topicRoute");
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(dense(&printed), dense(&expected));
}

#[test]
fn groups_print_as_the_original_does() {
    for name in [
        "consumerProgress_group",
        "consumerProgress_group_ip",
        "brokerConsumeStats",
        "producerConnection",
        "updateSubGroup",
        "updateSubGroup_broker",
        "getConsumerConfig",
        "deleteSubGroup",
        "setConsumeMode",
        "cloneGroupOffset",
        "resetOffsetByTime_queue",
    ] {
        same(name);
    }
    same_lines("consumerProgress");
    same_lines("consumerConnection");
    same_lines("skipAccumulatedMessage");
}

#[test]
fn brokers_and_name_servers_print_as_the_original_does() {
    for name in [
        "clusterList",
        "clusterList_more",
        "updateBrokerConfig",
        "updateBrokerConfig_cluster",
        "haStatus",
        "queryCq",
        "cleanExpiredCQ",
        "cleanUnusedTopic",
        "deleteExpiredCommitLog",
        "wipeWritePerm",
        "addWritePerm",
        "updateKvConfig",
        "deleteKvConfig",
        "updateNamesrvConfig",
    ] {
        same(name);
    }
}

#[test]
fn messages_print_as_the_original_does() {
    same("queryMsgByKey");
    let (_, printed) = outcome("queryMsgByOffset");
    // As captured: the store host is the record's. The track of the bogus group is a stack trace there.
    let expected = fixture("queryMsgByOffset");
    let block: Vec<&str> = expected.lines().skip(1).take(15).collect();
    assert_eq!(printed.lines().take(15).collect::<Vec<_>>(), block);
    for line in expected
        .lines()
        .filter(|line| line.ends_with("exceptionDesc=null]"))
    {
        assert!(printed.contains(line), "{line}\nis not in\n{printed}");
    }
    let (expected, printed) = outcome("consumeMessage");
    assert_eq!(printed.lines().next(), expected.lines().next());
    assert_eq!(printed.lines().last(), expected.lines().last());
    let line = fixture("printMsg").lines().nth(5).unwrap().to_owned();
    let server = Canned::start();
    let output = run(
        "printMsg -n 127.0.0.1:25876 -t TopicDemo -d true -s TagA",
        &server,
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains(&line));
}

#[test]
fn unknown_and_unsupported_commands_are_told_apart() {
    let server = Canned::start();
    let output = run("nosuchcmd", &server);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr).trim_end(),
        fixture("unknown_command").lines().nth(1).unwrap()
    );
    assert_eq!(output.status.code(), Some(1));
    let output = run("electmaster", &server);
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .starts_with("The sub command electMaster is not supported")
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_failure_is_one_line_that_names_the_step() {
    let server = Canned::start();
    let output = run("topicRoute -n 127.0.0.1:25876 -t NoSuchTopic", &server);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(errors.lines().count(), 1);
    assert!(
        errors.starts_with(
            "topicRoute failed: asking for the route of topic NoSuchTopic: 127.0.0.1:"
        ),
        "{errors}"
    );
    let output = run("clusterList -n 127.0.0.1:1", &server);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors.starts_with("clusterList failed: asking for the clusters: 127.0.0.1:1: "),
        "{errors}"
    );
}

#[test]
fn an_original_broker_that_cannot_explain_lag_is_named() {
    let server = Canned::start();
    let output = run(
        "lagExplain -n 127.0.0.1:25876 -g CG_demo -t TopicDemo",
        &server,
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors.starts_with("lagExplain failed: the broker at 127.0.0.1:")
            && errors.contains("is not an Agena broker and cannot explain lag"),
        "{errors}"
    );
}

#[test]
fn json_is_one_document_a_line() {
    let server = Canned::start();
    let output = run(
        "consumerProgress -n 127.0.0.1:25876 -g CG_demo --json",
        &server,
    );
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["group"], "CG_demo");
    assert_eq!(document["diffTotal"], 0);
    assert_eq!(document["queues"][1]["brokerOffset"], 10);
    let output = run("clusterList -n 127.0.0.1:25876 --json", &server);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["brokers"][0]["version"], "V5_3_3");
    let output = run("topicRoute -n 127.0.0.1:25876 -t TopicDemo --json", &server);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["queueDatas"][0]["readQueueNums"], 4);
}

/// The options of a usage text: letter, long name, whether it takes a value.
fn options(usage: &str) -> Vec<(String, String, bool)> {
    let lines = usage
        .lines()
        .filter(|line| line.starts_with(" -") || line.starts_with("    --"));
    let mut found: Vec<_> = lines
        .map(|line| {
            let letter = line
                .trim_start()
                .strip_prefix('-')
                .and_then(|rest| rest.split_once(','))
                .map_or("", |(letter, _)| letter);
            let rest = line.split_once("--").unwrap().1;
            let (head, takes_value) = match rest.split_once("<arg>") {
                Some((head, _)) => (head, true),
                None => (rest.split("  ").next().unwrap(), false),
            };
            (
                letter.to_owned(),
                head.split_whitespace()
                    .collect::<String>()
                    .to_ascii_lowercase(),
                takes_value,
            )
        })
        .filter(|(_, long, _)| !["json", "dry-run", "undo", "message"].contains(&long.as_str()))
        .collect();
    found.sort();
    found
}

#[test]
fn options_and_their_need_are_the_originals() {
    let server = Canned::start();
    let mut seen = 0;
    for line in fixture("help_all")
        .lines()
        .filter(|line| line.starts_with("   "))
    {
        let name = line.split_whitespace().next().unwrap();
        let text = fixture(&format!("help_{name}"));
        let output = run(&format!("help {name}"), &server);
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.contains("is not supported"), "{name}: {errors}");
            continue;
        }
        seen += 1;
        assert_eq!(
            options(&String::from_utf8_lossy(&output.stdout)),
            options(&text),
            "{name}"
        );
        if let Some(missing) = text
            .lines()
            .find(|line| line.starts_with("Missing required"))
        {
            let output = run(name, &server);
            assert_eq!(output.status.code(), Some(1), "{name}");
            assert_eq!(
                String::from_utf8_lossy(&output.stderr).lines().next(),
                Some(missing),
                "{name}"
            );
        }
    }
    assert!(
        seen >= 46,
        "only {seen} of the original's commands are there"
    );
}

#[test]
fn every_command_of_ours_is_in_the_list_and_teaches_by_example() {
    let server = Canned::start();
    let list = String::from_utf8(run("", &server).stdout).unwrap();
    for line in list.lines().filter(|line| line.starts_with("   ")) {
        // A name may have two words; at least one blank is behind it.
        let name = line.get(3..38).unwrap().trim();
        let output = run(&format!("{} -h", name.to_ascii_uppercase()), &server);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && help.contains("Examples:") && help.contains("With --json:"),
            "{name}: {help}"
        );
    }
}

#[test]
fn retention_is_explained_in_words_an_operator_can_act_on() {
    let server = Canned::start();
    let output = run(
        "retentionExplain -n 127.0.0.1:25876 -b 127.0.0.1:25911",
        &server,
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let expected = format!(
        "\
Broker {}
Disk:  44 % of 100.0 GiB in use, 56.0 GiB free.
       Above 75 % files past their time go at any hour: 31.0 GiB from here.
       Above 85 % the oldest go whatever their age: 41.0 GiB from here.
       Above 90 % sends are refused: 46.0 GiB from here.
Age:   a file goes when it was last written to 72 h ago, in the hour from 04:00 on.
Size:  3.0 GiB in 3 files; above 4.0 GiB (logBytesMax) the oldest go whatever their age.

/store/commitlog/00000000000000000000
  offsets 0 to 1073741824, last written 2026-11-18 01:17:00
  goes at 2026-11-21 04:00:00 at the latest (past its time from 2026-11-21 01:17:00 on), or when the log grows by 1.0 GiB
  Billing has not read 1200 messages of Orders up to here
  Audit has not read 1 message of Orders up to here
  and 3 more have not read 17 messages

/store/commitlog/00000000001073741824
  offsets 1073741824 to 2147483648, last written 2026-11-19 01:18:00
  goes at 2026-11-22 04:00:00 at the latest (past its time from 2026-11-22 01:18:00 on), or when the log grows by 2.0 GiB
  every group that commits offsets has read it
",
        server.address()
    );
    assert_eq!(printed, expected);

    let output = run(
        "retentionExplain -n 127.0.0.1:25876 -c DefaultCluster -t Orders --json",
        &server,
    );
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["broker"], server.address());
    assert_eq!(document["topic"], "Orders");
    assert_eq!(document["next"][0]["unread"][0]["messages"], 1200);

    let output = run(
        "retentionExplain -n 127.0.0.1:25876 -t OfTheOriginal",
        &server,
    );
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("it is a broker of the original"),
        "{errors}"
    );
}
