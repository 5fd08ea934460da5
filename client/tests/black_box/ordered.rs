//! Push consumers in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agena_client::choose_queue::ByHash;
use agena_client::{Batch, ConsumedInOrder, Message, PullConsumer};
use parking_lot::Mutex;

use crate::consume::builder;
use crate::support::{Inbox, config, create_topic, eventually, producer, text, unique};

#[tokio::test]
async fn the_order_of_each_key_holds_over_failures_and_changes_of_members() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let group = unique("CG");
    let producer = producer().await;
    let seen: Arc<Mutex<HashMap<String, Vec<usize>>>> = Arc::default();
    let fails: Arc<Mutex<usize>> = Arc::default();
    let listener = |seen: Arc<Mutex<HashMap<String, Vec<usize>>>>, fails: Arc<Mutex<usize>>| {
        move |batch: Batch| {
            let (seen, fails) = (Arc::clone(&seen), Arc::clone(&fails));
            async move {
                {
                    let mut fails = fails.lock();
                    *fails += 1;
                    if *fails % 7 == 0 {
                        let pause = Some(Duration::from_millis(10));
                        return ConsumedInOrder::SuspendQueue { pause };
                    }
                }
                for message in &batch {
                    let body = text(message);
                    let (key, step) = body.split_once(':').unwrap();
                    let mut seen = seen.lock();
                    let steps = seen.entry(key.to_owned()).or_default();
                    steps.push(step.parse().unwrap());
                }
                ConsumedInOrder::Done
            }
        }
    };
    let start = || {
        let listener = listener(Arc::clone(&seen), Arc::clone(&fails));
        builder(&group, &topic).start_orderly(listener)
    };
    let first = start().await.unwrap();
    let mut second = None;
    for step in 0..30 {
        if step == 10 {
            second = Some(start().await.unwrap());
        }
        if step == 20 {
            second.take().unwrap().shutdown().await;
        }
        for key in 0..10 {
            let message = Message::new(&topic, format!("{key}:{step}"));
            let selector = ByHash::of(&key.to_string());
            producer.send_by(message, &selector).await.unwrap();
        }
    }
    eventually("all steps of all keys", async || {
        let seen = seen.lock();
        let done = |steps: &Vec<usize>| steps.last() == Some(&29);
        (seen.len() == 10 && seen.values().all(done)).then_some(())
    })
    .await;
    for (key, steps) in seen.lock().iter() {
        // A message may come again when its queue changes hands, but never behind a later one.
        let mut distinct = steps.clone();
        distinct.dedup();
        assert_eq!(distinct, (0..30).collect::<Vec<_>>(), "key {key}");
    }
    first.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_failing_message_is_tried_in_place_and_blocks_what_is_behind_it() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let inbox = Inbox::default();
    let put = inbox.clone();
    let consumer = builder(&unique("CG"), &topic)
        .start_orderly(move |batch: Batch| {
            put.put(&batch);
            let fails = text(&batch[0]) == "bad" && batch[0].reconsume_times < 3;
            async move {
                if fails {
                    let pause = Some(Duration::from_millis(20));
                    return ConsumedInOrder::SuspendQueue { pause };
                }
                ConsumedInOrder::Done
            }
        })
        .await
        .unwrap();
    for body in ["bad", "good"] {
        producer.send(Message::new(&topic, body)).await.unwrap();
    }
    inbox.wait_for(5).await;
    let seen: Vec<_> = inbox
        .all()
        .iter()
        .map(|message| (text(message), message.reconsume_times))
        .collect();
    let expected = [("bad", 0), ("bad", 1), ("bad", 2), ("bad", 3), ("good", 0)];
    assert_eq!(seen, expected.map(|(body, times)| (body.to_owned(), times)));
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_message_that_fails_too_often_becomes_a_dead_letter() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let group = unique("CG");
    let producer = producer().await;
    let inbox = Inbox::default();
    let put = inbox.clone();
    let consumer = builder(&group, &topic)
        .max_reconsume_times(1)
        .start_orderly(move |batch: Batch| {
            put.put(&batch);
            let result = match text(&batch[0]).as_str() {
                "bad" => Err("as expected"),
                _ => Ok(()),
            };
            async move { result }
        })
        .await
        .unwrap();
    for body in ["bad", "good"] {
        producer.send(Message::new(&topic, body)).await.unwrap();
    }
    inbox.wait_for(3).await;
    let seen: Vec<_> = inbox.all().iter().map(|message| text(message)).collect();
    assert_eq!(seen, ["bad", "bad", "good"]);
    let dead_letters = format!("%DLQ%{group}");
    let reader = PullConsumer::builder(&unique("CG"))
        .config(config())
        .start()
        .await
        .unwrap();
    let queues = eventually("the dead letters' topic", async || {
        reader.queues_of(&dead_letters).await.ok()
    })
    .await;
    reader.assign(queues.clone()).await;
    reader.seek_to_begin(&queues[0]).await.unwrap();
    let message = eventually("the dead letter", async || {
        reader.poll(Duration::from_millis(200)).await.unwrap().pop()
    })
    .await;
    assert_eq!(text(&message), "bad");
    assert_eq!(message.property("RETRY_TOPIC"), Some(topic.as_str()));
    reader.shutdown().await;
    consumer.shutdown().await;
    producer.shutdown().await;
}
