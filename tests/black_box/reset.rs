//! A reset can be taken back: also after the broker was killed, one reset after the other, to what is still there.

use serde_json::{Value, json};

use crate::mqadmin::{UPDATE_CONSUMER_OFFSET, document, failure, with_orders};
use crate::servers::Servers;

const UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: i32 = 200;

fn with_group_at(offset: &str) -> Servers {
    let servers = with_orders();
    let mut raw = servers.raw();
    let group = json!({"groupName": "Billing"}).to_string();
    let made = raw.call(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], group.as_bytes());
    assert_eq!(made.code, 0, "{}", made.remark);
    let fields = [
        ("consumerGroup", "Billing"),
        ("topic", "Orders"),
        ("queueId", "0"),
        ("commitOffset", offset),
    ];
    assert_eq!(raw.call(UPDATE_CONSUMER_OFFSET, &fields, &[]).code, 0);
    servers
}

fn reset(servers: &Servers, more: &[&str]) -> Value {
    let arguments: Vec<&str> = ["resetOffsetByTime", "-g", "Billing", "-t", "Orders"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    document(servers, &arguments)
}

fn offset(servers: &Servers) -> i64 {
    let arguments = ["consumerProgress", "-g", "Billing", "-t", "Orders"];
    let progress = document(servers, &arguments);
    progress["queues"][0]["consumerOffset"]
        .as_i64()
        .expect("an offset")
}

#[test]
fn resets_are_taken_back_one_after_the_other_over_a_crash() {
    let mut servers = with_group_at("2");
    reset(&servers, &["-s", "0"]);
    reset(&servers, &["-s", "-1"]);
    assert_eq!(offset(&servers), 3);
    servers.kill();
    servers.start_again();
    assert_eq!(offset(&servers), 3, "an answered reset outlives a crash");

    let rehearsed = reset(&servers, &["--undo", "--dry-run"]);
    let broker = &rehearsed["brokers"][0];
    assert_eq!(
        (&rehearsed["dryRun"], &broker["resetsLeft"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(broker["queues"][0]["consumerOffset"], 3);
    assert_eq!(broker["queues"][0]["offset"], 0);
    assert_eq!(offset(&servers), 3);

    reset(&servers, &["--undo"]);
    assert_eq!(offset(&servers), 0);
    servers.kill();
    servers.start_again();
    reset(&servers, &["--undo"]);
    assert_eq!(offset(&servers), 2);
    let arguments = [
        "resetOffsetByTime",
        "-g",
        "Billing",
        "-t",
        "Orders",
        "--undo",
    ];
    assert_eq!(
        failure(&servers, &arguments),
        "resetOffsetByTime failed: group Billing has no reset in topic Orders that can be taken back\n"
    );
}

#[test]
fn a_group_goes_on_at_a_message_by_either_id() {
    let servers = with_group_at("3");
    let hits = document(&servers, &["queryMsgByKey", "-t", "Orders", "-k", "k2"]);
    let hit = &hits["messages"][0];
    for name in ["msgId", "offsetMsgId"] {
        let id = hit[name].as_str().expect("an id");
        let rehearsed = reset(&servers, &["--message", id, "--dry-run"]);
        let queue = &rehearsed["queues"][0];
        assert_eq!(
            (
                &queue["consumerOffset"],
                &queue["offset"],
                &queue["messages"]
            ),
            (&json!(3), &json!(1), &json!(2))
        );
        assert_eq!(queue["firstMessage"]["msgId"], hit["msgId"]);
        assert_eq!(offset(&servers), 3);
        reset(&servers, &["--message", id]);
        assert_eq!(offset(&servers), 1);
        reset(&servers, &["--undo"]);
        assert_eq!(offset(&servers), 3);
    }
}
