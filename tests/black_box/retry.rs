//! What a listener fails on comes again with its count, and at last becomes a dead letter that can be read.

use std::time::Duration;

use agena_client::{Batch, ConsumeFrom, Message, PullConsumer, PushConsumer};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::produce_consume::producer;
use crate::servers::Servers;

/// The ladder's first two steps are 10 s and 30 s; a broker may have another one, as here.
const LADDER: &str = "messageDelayLevel=1s 1s 1s 1s 1s";
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_comes_again_and_then_is_a_dead_letter() {
    let servers = Servers::start_with(&[LADDER]);
    servers.raw().create_topic("fragile", 1);
    let producer = producer(&servers).await;
    producer
        .send(Message::new("fragile", "breaks").with_key("k"))
        .await
        .expect("it is stored");
    let (sender, mut received) = unbounded_channel();
    let consumer = PushConsumer::builder("unlucky")
        .name_servers(&servers.name_server())
        .subscribe("fragile", "*")
        .consume_from(ConsumeFrom::First)
        .max_reconsume_times(2)
        .start(move |batch: Batch| {
            let sender = sender.clone();
            async move {
                for message in &batch {
                    let _ = sender.send((message.topic.clone(), message.reconsume_times));
                }
                Err::<(), _>("always")
            }
        })
        .await
        .expect("the consumer starts");
    for count in 0..=2 {
        let (topic, reconsume_times) = timeout(ARRIVES_WITHIN, received.recv())
            .await
            .unwrap_or_else(|_| panic!("no delivery {count}"))
            .expect("the consumer runs");
        assert_eq!((topic.as_str(), reconsume_times), ("fragile", count));
    }
    let reader = PullConsumer::builder("undertaker")
        .name_servers(&servers.name_server())
        .start()
        .await
        .expect("the consumer starts");
    let dead = dead_letters(&reader).await;
    assert_eq!(dead, [b"breaks".to_vec()]);
    reader.shutdown().await;
    consumer.shutdown().await;
    producer.shutdown().await;
}

/// The bodies in the group's dead letter topic, as soon as there is one.
async fn dead_letters(reader: &PullConsumer) -> Vec<Vec<u8>> {
    let found = async {
        loop {
            if let Ok(queues) = reader.queues_of("%DLQ%unlucky").await {
                reader.assign(queues.clone()).await;
                reader.seek_to_begin(&queues[0]).await.expect("an offset");
                let polled = reader
                    .poll(Duration::from_secs(1))
                    .await
                    .expect("an answer");
                if !polled.is_empty() {
                    return polled.iter().map(|message| message.body.to_vec()).collect();
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(ARRIVES_WITHIN, found).await.expect("a dead letter")
}
