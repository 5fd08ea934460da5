//! `agena admin messageStory`: what became of a message, told from the log and the offsets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agena_client::Message;
use serde_json::{Value, json};

use crate::dead_letters::{failing_consumer, until};
use crate::mqadmin::{document, failure, text, with_orders};
use crate::produce_consume::producer;
use crate::raw::SEND_MESSAGE;
use crate::servers::Servers;

fn story(servers: &Servers, id: &str) -> Value {
    document(servers, &["messageStory", "-i", id])
}

fn kinds(story: &Value) -> Vec<&str> {
    let events = story["events"].as_array().expect("a list");
    let kinds = events.iter();
    kinds
        .map(|event| event["kind"].as_str().expect("a kind"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_dies_and_comes_again_tells_all_of_it() {
    let servers = Servers::start_with(&["messageDelayLevel=1s 1s 2s 1s 1s"]);
    servers.raw().create_topic("fragile", 1);
    let producer = producer(&servers).await;
    let fails = Arc::new(AtomicBool::new(true));
    let (consumer, _received) = failing_consumer(&servers, &fails).await;
    let sent = producer.send(Message::new("fragile", "breaks")).await;
    let id = sent.expect("it is stored").msg_id;
    until("it waits for its second try", || {
        let story = story(&servers, &id);
        story["groups"][0]["state"] == "WAITS_FOR_RETRY"
    })
    .await;
    let waiting = story(&servers, &id);
    assert_eq!(kinds(&waiting), ["STORED", "RETRY_DELAYED"]);
    let wait = &waiting["events"][1];
    assert_eq!(
        wait["dueTimestamp"].as_i64(),
        wait["timestamp"].as_i64().map(|stored| stored + 2000)
    );
    assert_eq!(waiting["groups"][0]["nextTry"], wait["dueTimestamp"]);
    until("it is dead", || {
        story(&servers, &id)["groups"][0]["state"] == "DEAD"
    })
    .await;
    let dead = story(&servers, &id);
    assert_eq!(kinds(&dead), ["STORED", "RETRY_DELAYED", "RETRY", "DEAD"]);
    let words = dead["groups"][0]["text"].as_str().expect("text");
    assert!(words.contains("as often as the group allows"), "{words}");
    fails.store(false, Ordering::SeqCst);
    text(&servers, &["dlq", "redrive", "-g", "unlucky"]);
    until("it is consumed", || {
        story(&servers, &id)["groups"][0]["state"] == "CONSUMED"
    })
    .await;
    let end = story(&servers, &id);
    assert_eq!(kinds(&end).last(), Some(&"RETRY"));
    let printed = text(&servers, &["messageStory", "-i", &id, "-t", "fragile"]);
    assert!(printed.contains("sent again from dead letter"), "{printed}");
    consumer.shutdown().await;
    producer.shutdown().await;
}

/// Sends a message with these properties to the topic `Orders`, and gives its id.
fn send(servers: &Servers, id: &str, properties: &str, sys_flag: &str) -> Value {
    let properties = format!("UNIQ_KEY\u{1}{id}\u{2}{properties}");
    let fields = [
        ("producerGroup", "P"),
        ("topic", "Orders"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "1"),
        ("queueId", "0"),
        ("sysFlag", sys_flag),
        ("bornTimestamp", "1"),
        ("flag", "0"),
        ("properties", properties.as_str()),
        ("reconsumeTimes", "0"),
    ];
    let answer = servers.raw().call(SEND_MESSAGE, &fields, b"x");
    assert_eq!(answer.code, 0, "{}", answer.remark);
    answer.ext
}

#[test]
fn delays_and_transactions_are_told_and_an_unknown_id_is_said_to_be_one() {
    let servers = with_orders();
    send(&servers, "LATER", "DELAY\u{1}5\u{2}", "0");
    let later = story(&servers, "LATER");
    assert_eq!(
        (&later["topic"], kinds(&later)),
        (&json!("Orders"), vec!["DELAYED"])
    );
    let stored = later["events"][0]["timestamp"].as_i64();
    assert_eq!(later["delayedUntil"].as_i64(), stored.map(|at| at + 60_000));

    let half = "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}P\u{2}";
    let sent = send(&servers, "MAYBE", half, "4");
    let pending = story(&servers, "MAYBE");
    assert_eq!(
        (&pending["transaction"], kinds(&pending)),
        (&json!("PENDING"), vec!["HALF"])
    );
    let file = pending["events"][0]["file"].as_str().expect("a name");
    assert_eq!(file, "0".repeat(20));
    end_transaction(&servers, &sent, &pending, "12");
    assert_eq!(story(&servers, "MAYBE")["transaction"], "ROLLED_BACK");

    let sent = send(&servers, "SURE", half, "4");
    let pending = story(&servers, "SURE");
    end_transaction(&servers, &sent, &pending, "8");
    let sure = story(&servers, "SURE");
    assert_eq!(
        (&sure["transaction"], kinds(&sure)),
        (&json!("COMMITTED"), vec!["HALF", "STORED"])
    );
    assert_eq!(
        failure(&servers, &["messageStory", "-i", "NOBODY"]),
        "messageStory failed: no message has the id NOBODY\n"
    );
}

/// `end` is 8 for commit, 12 for rollback.
fn end_transaction(servers: &Servers, sent: &Value, story: &Value, end: &str) {
    const END_TRANSACTION: i32 = 37;
    let half = &story["events"][0];
    let (at, place) = (
        half["queueOffset"].to_string(),
        half["commitLogOffset"].to_string(),
    );
    let fields = [
        ("producerGroup", "P"),
        ("tranStateTableOffset", at.as_str()),
        ("commitLogOffset", place.as_str()),
        ("commitOrRollback", end),
        ("fromTransactionCheck", "false"),
        ("msgId", sent["msgId"].as_str().unwrap_or_default()),
    ];
    let answer = servers.raw().call(END_TRANSACTION, &fields, b"");
    assert_eq!(answer.code, 0, "{}", answer.remark);
}
