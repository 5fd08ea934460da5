//! Ordered consumption: per key nothing overtakes anything, not even when a listener fails in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use agena_client::choose_queue::ByHash;
use agena_client::{Batch, ConsumeFrom, Message, PushConsumer};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::produce_consume::producer;
use crate::servers::Servers;

const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
const KEYS: usize = 10;
const PER_KEY: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_within_a_key_although_listeners_fail() {
    let servers = Servers::start();
    servers.raw().create_topic("steps", 4);
    let producer = producer(&servers).await;
    for step in 0..PER_KEY {
        for key in 0..KEYS {
            let message = Message::new("steps", format!("{key}:{step}"));
            let queue = ByHash::of(&key.to_string());
            producer
                .send_by(message, &queue)
                .await
                .expect("it is stored");
        }
    }
    let (sender, mut received) = unbounded_channel();
    // Every tenth message fails the first time it comes.
    let failed = Arc::new(Mutex::new(BTreeMap::new()));
    let consumer = PushConsumer::builder("in-order")
        .name_servers(&servers.name_server())
        .subscribe("steps", "*")
        .consume_from(ConsumeFrom::First)
        .settings(agena_client::ConsumerSettings {
            consume_from: ConsumeFrom::First,
            suspend: Duration::from_millis(20),
            ..agena_client::ConsumerSettings::default()
        })
        .start_orderly(move |batch: Batch| {
            let sender = sender.clone();
            let failed = Arc::clone(&failed);
            async move {
                for message in &batch {
                    let text = String::from_utf8_lossy(&message.body).into_owned();
                    let first_time = failed.lock().unwrap().insert(text.clone(), ()).is_none();
                    if first_time && message.queue_offset % 10 == 9 {
                        return Err(format!("{text} fails once"));
                    }
                    let _ = sender.send(text);
                }
                Ok(())
            }
        })
        .await
        .expect("the consumer starts");
    let mut next = vec![0; KEYS];
    for _ in 0..KEYS * PER_KEY {
        let text = timeout(ARRIVES_WITHIN, received.recv())
            .await
            .unwrap_or_else(|_| panic!("stopped at {next:?}"))
            .expect("the consumer runs");
        let (key, step) = text.split_once(':').expect("key:step");
        let (key, step): (usize, usize) = (key.parse().unwrap(), step.parse().unwrap());
        assert_eq!(step, next[key], "key {key} out of order");
        next[key] += 1;
    }
    consumer.shutdown().await;
    producer.shutdown().await;
}
