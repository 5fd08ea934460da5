//! `agena admin dlq …`: dead letters are found, say why they are dead, and come again once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agena_client::{Batch, ConsumeFrom, Message, PushConsumer};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::mqadmin::{document, documents, failure, text};
use crate::produce_consume::producer;
use crate::servers::Servers;

const LADDER: &str = "messageDelayLevel=1s 1s 1s 1s 1s";
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// A consumer that fails while `fails` is set, and what it gets: body and number of failures before.
pub(crate) async fn failing_consumer(
    servers: &Servers,
    fails: &Arc<AtomicBool>,
) -> (PushConsumer, UnboundedReceiver<(String, i32)>) {
    let (sender, received) = unbounded_channel();
    let fails = Arc::clone(fails);
    let consumer = PushConsumer::builder("unlucky")
        .name_servers(&servers.name_server())
        .subscribe("fragile", "*")
        .consume_from(ConsumeFrom::First)
        .max_reconsume_times(1)
        .start(move |batch: Batch| {
            let sender = sender.clone();
            let fails = fails.load(Ordering::SeqCst);
            async move {
                for message in &batch {
                    let body = String::from_utf8_lossy(&message.body).into_owned();
                    let _ = sender.send((body, message.reconsume_times));
                }
                if fails { Err("always") } else { Ok(()) }
            }
        })
        .await
        .expect("the consumer starts");
    (consumer, received)
}

async fn next(received: &mut UnboundedReceiver<(String, i32)>) -> (String, i32) {
    let arrived = timeout(ARRIVES_WITHIN, received.recv()).await;
    arrived.expect("it comes again").expect("the consumer runs")
}

/// Waits until a command's answer is as wished.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + ARRIVES_WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_say_why_and_are_sent_again_once() {
    let servers = Servers::start_with(&[LADDER]);
    servers.raw().create_topic("fragile", 1);
    let producer = producer(&servers).await;
    let fails = Arc::new(AtomicBool::new(true));
    let (consumer, mut received) = failing_consumer(&servers, &fails).await;
    for body in ["one", "two", "three"] {
        let message = Message::new("fragile", body).with_key(body);
        producer.send(message).await.expect("it is stored");
    }
    let dead = || documents(&servers, &["dlq", "list", "-g", "unlucky"]);
    until("three dead letters", || {
        dead().first().is_some_and(|yard| yard["count"] == 3)
    })
    .await;
    let yard = dead().swap_remove(0);
    assert_eq!(
        (&yard["redriven"], &yard["minOffset"]),
        (&json!(0), &json!(0))
    );
    assert!(yard["oldestTimestamp"].as_i64() <= yard["newestTimestamp"].as_i64());

    let shown = documents(&servers, &["dlq", "show", "-g", "unlucky"]);
    assert_eq!(shown.len(), 3);
    let client_id = consumer.instance().client_id().to_owned();
    for letter in &shown {
        assert_eq!(letter["originTopic"], "fragile");
        assert_eq!(letter["reason"], "MAX_RECONSUME_TIMES");
        assert_eq!(letter["timesTried"], 2);
        assert_eq!(letter["lastConsumer"], client_id.as_str());
    }
    let id = shown[1]["message"]["msgId"].as_str().expect("an id");
    // They died in the order in which they were consumed, side by side: any of the three stands second.
    let second = shown[1]["message"]["body"].as_str().expect("a body");
    let one = document(&servers, &["dlq", "show", "-g", "unlucky", "-i", id]);
    assert_eq!(
        one["message"]["offsetMsgId"],
        shown[1]["message"]["offsetMsgId"]
    );
    let origin = shown[1]["originMsgId"].as_str().expect("an id");
    let same = document(&servers, &["dlq", "show", "-g", "unlucky", "-i", origin]);
    assert_eq!(same["message"]["msgId"], id);

    fails.store(false, Ordering::SeqCst);
    while received.try_recv().is_ok() {}
    let redrive = |more: &[&str]| -> Value {
        let arguments: Vec<&str> = ["dlq", "redrive", "-g", "unlucky", "--rate", "1000"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        document(&servers, &arguments)
    };
    let rehearsed = redrive(&["--dry-run"]);
    assert_eq!(rehearsed["redriven"], 3);
    // One by its id first: the run over all then finds that it was sent.
    assert_eq!(redrive(&["-i", id])["redriven"], 1);
    assert_eq!(redrive(&["-i", id])["alreadyRedriven"], 1);
    let all = redrive(&[]);
    assert_eq!(
        (&all["redriven"], &all["alreadyRedriven"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(all["target"], "%RETRY%unlucky");
    assert_eq!(redrive(&[])["redriven"], 0);
    // Without its mark, as after a run on a broker that lost it, the copies still tell.
    let again = redrive(&["--from", "0"]);
    assert_eq!(
        (&again["redriven"], &again["alreadyRedriven"]),
        (&json!(0), &json!(3))
    );
    assert_eq!(dead()[0]["redriven"], 3);

    // A slow machine may deliver one twice; how often it was sent is what the topics' ends say, below.
    let mut bodies = BTreeSet::new();
    while bodies.len() < 3 {
        let (body, tries) = next(&mut received).await;
        assert_eq!(tries, 0);
        bodies.insert(body);
    }
    let end = |topic: &str| {
        let status = document(&servers, &["topicStatus", "-t", topic]);
        status["queues"][0]["maxOffset"].clone()
    };
    // Each failed once before it died, and was sent again once.
    assert_eq!(end("%RETRY%unlucky"), 6);

    // For everybody: the topic gets it as a new message.
    let to_origin = redrive(&["--to-origin", "-i", id]);
    assert_eq!(to_origin["redriven"], 1);
    assert_eq!(redrive(&["--to-origin", "-i", id])["redriven"], 0);
    while next(&mut received).await.0 != second {}
    assert_eq!((end("fragile"), end("%DLQ%unlucky")), (json!(4), json!(3)));
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[test]
fn a_group_without_dead_letters_and_half_a_command_say_so() {
    let servers = Servers::start();
    assert_eq!(text(&servers, &["dlq", "list"]), "no dead letters\n");
    assert_eq!(
        failure(&servers, &["dlq", "redrive", "-g", "nobody"]),
        "dlq redrive failed: group nobody has no dead letters\n"
    );
}
