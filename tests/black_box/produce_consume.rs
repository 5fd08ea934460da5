//! Messages through the client crate: what is sent arrives once, whole, at every group that wants it.

use std::collections::BTreeSet;
use std::time::Duration;

use agena_client::{Batch, ConsumeFrom, Message, Producer, PullConsumer, PushConsumer, SendStatus};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::servers::Servers;

const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// Long enough to see a message that comes twice at once; nothing waits for it but a test that is done otherwise.
const QUIET: Duration = Duration::from_millis(500);

pub(crate) async fn producer(servers: &Servers) -> Producer {
    Producer::builder("producers")
        .name_servers(&servers.name_server())
        .timeout(Duration::from_secs(10))
        .start()
        .await
        .expect("the producer starts")
}

/// What a consumer got, one text a message.
async fn consumer(
    servers: &Servers,
    group: &str,
    topic: &str,
    tags: &str,
) -> (PushConsumer, UnboundedReceiver<String>) {
    let (sender, receiver) = unbounded_channel();
    let consumer = PushConsumer::builder(group)
        .name_servers(&servers.name_server())
        .subscribe(topic, tags)
        .consume_from(ConsumeFrom::First)
        .start(move |batch: Batch| {
            let sender = sender.clone();
            async move {
                for message in &batch {
                    let text = String::from_utf8_lossy(&message.body).into_owned();
                    let _ = sender.send(text);
                }
            }
        })
        .await
        .expect("the consumer starts");
    (consumer, receiver)
}

/// The next `count` messages, and then none for a moment.
pub(crate) async fn exactly(
    receiver: &mut UnboundedReceiver<String>,
    count: usize,
) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let next = timeout(ARRIVES_WITHIN, receiver.recv())
            .await
            .unwrap_or_else(|_| panic!("{} of {count} arrived", seen.len()))
            .expect("the consumer runs");
        assert!(seen.insert(next.clone()), "{next} came twice");
    }
    let more = timeout(QUIET, receiver.recv()).await;
    assert!(more.is_err(), "one too many: {more:?}");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_once_at_every_group() {
    let servers = Servers::start();
    servers.raw().create_topic("news", 4);
    let producer = producer(&servers).await;
    let mut sent = BTreeSet::new();
    for number in 0..500 {
        let text = format!("message {number}");
        let result = producer
            .send(Message::new("news", text.clone()))
            .await
            .expect("it is stored");
        assert_eq!(result.status, SendStatus::Ok);
        sent.insert(text);
    }
    let (first, mut at_first) = consumer(&servers, "first", "news", "*").await;
    let (second, mut at_second) = consumer(&servers, "second", "news", "*").await;
    assert_eq!(exactly(&mut at_first, 500).await, sent);
    assert_eq!(exactly(&mut at_second, 500).await, sent);
    // A message that comes while they wait wakes them: far sooner than any poll interval.
    producer
        .send(Message::new("news", "late"))
        .await
        .expect("it is stored");
    assert!(exactly(&mut at_first, 1).await.contains("late"));
    assert!(exactly(&mut at_second, 1).await.contains("late"));
    first.shutdown().await;
    second.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_stopped_even_over_a_restart_of_the_broker() {
    let mut servers = Servers::start();
    servers.raw().create_topic("news", 2);
    let first_run = producer(&servers).await;
    for number in 0..20 {
        first_run
            .send(Message::new("news", format!("early {number}")))
            .await
            .expect("it is stored");
    }
    let (reader, mut received) = consumer(&servers, "readers", "news", "*").await;
    exactly(&mut received, 20).await;
    reader.shutdown().await;
    first_run.shutdown().await;

    assert!(servers.stop().success());
    servers.start_again();

    let second_run = producer(&servers).await;
    for number in 0..20 {
        second_run
            .send(Message::new("news", format!("later {number}")))
            .await
            .expect("it is stored");
    }
    let (reader, mut received) = consumer(&servers, "readers", "news", "*").await;
    let seen = exactly(&mut received, 20).await;
    assert!(
        seen.iter().all(|text| text.starts_with("later")),
        "{seen:?}"
    );
    reader.shutdown().await;
    second_run.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_keys_properties_and_big_bodies_come_back_as_they_were() {
    let servers = Servers::start();
    servers.raw().create_topic("fields", 1);
    let producer = producer(&servers).await;
    // Over 4 KiB: the client compresses it on the way.
    let body = "compressible ".repeat(10_000);
    let message = Message::new("fields", body.clone())
        .with_tag("red")
        .with_key("k1")
        .with_key("k2")
        .with_property("colour", "crimson")
        .with_flag(7);
    producer.send(message).await.expect("it is stored");
    let consumer = PullConsumer::builder("readers")
        .name_servers(&servers.name_server())
        .start()
        .await
        .expect("the consumer starts");
    let queues = consumer.queues_of("fields").await.expect("a route");
    consumer.assign(queues.clone()).await;
    consumer.seek_to_begin(&queues[0]).await.expect("an offset");
    let polled = consumer.poll(ARRIVES_WITHIN).await.expect("an answer");
    let message = &polled[0];
    assert_eq!(message.body, body.as_bytes());
    assert_eq!(message.tag(), Some("red"));
    assert_eq!(message.keys().collect::<Vec<_>>(), ["k1", "k2"]);
    assert_eq!(message.property("colour"), Some("crimson"));
    assert_eq!(message.flag, 7);
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_stored_together_and_a_filter_takes_its_share() {
    let servers = Servers::start();
    servers.raw().create_topic("batch", 4);
    let producer = producer(&servers).await;
    let messages = (0..30)
        .map(|number| {
            let tag = if number % 3 == 0 { "three" } else { "other" };
            Message::new("batch", format!("{number}")).with_tag(tag)
        })
        .collect();
    let result = producer.send_batch(messages).await.expect("it is stored");
    assert_eq!(result.offset_msg_id.split(',').count(), 30);
    let (consumer, mut received) = consumer(&servers, "three-only", "batch", "three").await;
    let seen = exactly(&mut received, 10).await;
    assert!(
        seen.iter()
            .all(|n| n.parse::<u32>().is_ok_and(|n| n % 3 == 0)),
        "{seen:?}"
    );
    consumer.shutdown().await;
    producer.shutdown().await;
}
