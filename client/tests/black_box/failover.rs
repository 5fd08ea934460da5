//! Members that are killed, keys side by side, and producers whose brokers come and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_client::{
    Batch, ConsumedInOrder, Delivery, FaultPolicy, FirstTime, MemoryKeys, Message, ProcessedKeys,
    Producer, ProducerId, PushConsumer, ReceivedMessage, SpoolSettings,
};
use parking_lot::Mutex;

use crate::consume::{builder, collect};
use crate::support::{config, create_topic, eventually, producer, send_numbers, text, unique};

fn queues_of(consumer: &PushConsumer, topic: &str) -> usize {
    let queues = consumer.queues();
    queues.iter().filter(|queue| queue.topic == topic).count()
}

#[tokio::test]
async fn the_queues_of_a_killed_member_have_an_owner_within_two_seconds() {
    let topic = unique("T");
    create_topic(&topic, 8).await;
    let group = unique("CG");
    let (first, _) = collect(builder(&group, &topic)).await;
    let (second, _) = collect(builder(&group, &topic)).await;
    eventually("each has its half", async || {
        (queues_of(&first, &topic) == 4 && queues_of(&second, &topic) == 4).then_some(())
    })
    .await;
    // It says nothing to anybody: its connections end, as those of a killed process do.
    drop(second);
    let killed = Instant::now();
    eventually("the other has all", async || {
        (queues_of(&first, &topic) == 8).then_some(())
    })
    .await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    first.shutdown().await;
}

#[tokio::test]
async fn the_order_of_each_key_holds_side_by_side() {
    let topic = unique("T");
    create_topic(&topic, 2).await;
    let producer = producer().await;
    let seen: Arc<Mutex<HashMap<String, Vec<usize>>>> = Arc::default();
    let failures: Arc<Mutex<usize>> = Arc::default();
    let (put, fail) = (Arc::clone(&seen), Arc::clone(&failures));
    let key = |message: &ReceivedMessage| message.sharding_key().map(str::to_owned);
    let consumer = builder(&unique("CG"), &topic)
        .start_by_key(key, move |batch: Batch| {
            let (put, fail) = (Arc::clone(&put), Arc::clone(&fail));
            async move {
                tokio::task::yield_now().await;
                let mut failures = fail.lock();
                *failures += 1;
                if *failures % 7 == 0 {
                    let pause = Some(Duration::from_millis(10));
                    return ConsumedInOrder::SuspendQueue { pause };
                }
                for message in &batch {
                    let key = message.sharding_key().unwrap().to_owned();
                    let step = text(message).parse().unwrap();
                    put.lock().entry(key).or_default().push(step);
                }
                ConsumedInOrder::Done
            }
        })
        .await
        .unwrap();
    for step in 0..20 {
        for key in 0..10 {
            let message = Message::new(&topic, step.to_string());
            let message = message.with_sharding_key(format!("key-{key}"));
            let delivery = producer.deliver(message).await.unwrap();
            assert!(delivery.stored().is_some());
        }
    }
    eventually("all steps of all keys", async || {
        let seen = seen.lock();
        let done = seen.values().filter(|steps| steps.len() == 20).count();
        (done == 10).then_some(())
    })
    .await;
    let all: Vec<usize> = (0..20).collect();
    for (key, steps) in seen.lock().iter() {
        assert_eq!(*steps, all, "{key}");
    }
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_numbered_producer_and_a_spool_send_to_any_broker() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let directory = tempfile::tempdir().unwrap();
    let producer = Producer::builder(&unique("PG"))
        .config(config())
        .fault_policy(FaultPolicy::Failover)
        .deduplicate(ProducerId::random())
        .spool(SpoolSettings::at(directory.path().join("spool")))
        .start()
        .await
        .unwrap();
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    for number in 0..20 {
        let message = Message::new(&topic, number.to_string());
        let delivery = producer.deliver(message).await.unwrap();
        assert!(matches!(delivery, Delivery::Stored(_)), "{delivery:?}");
    }
    inbox.wait_for(20).await;
    let mut sequences: Vec<u64> = inbox
        .all()
        .iter()
        .map(|message| message.property("AGENA_SEQUENCE").unwrap().parse().unwrap())
        .collect();
    sequences.sort_unstable();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1));
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn what_comes_again_has_no_second_effect() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let keys = Arc::new(MemoryKeys::new(1000, Duration::from_secs(600)));
    let effects: Arc<Mutex<Vec<String>>> = Arc::default();
    let (known, done) = (Arc::clone(&keys), Arc::clone(&effects));
    let start = || {
        let (known, done) = (Arc::clone(&known), Arc::clone(&done));
        // Another group gets all of it again, as a crash before the commit would.
        builder(&unique("CG"), &topic).start(move |batch: Batch| {
            let (known, done) = (Arc::clone(&known), Arc::clone(&done));
            async move {
                for message in &batch {
                    let first = known.first_time(&message.once_key());
                    match first.map_err(|error| error.to_string())? {
                        FirstTime::Yes(guard) => {
                            done.lock().push(text(message));
                            guard.commit().map_err(|error| error.to_string())?;
                        }
                        FirstTime::Done => done.lock().push("again".to_owned()),
                        FirstTime::Running => return Err("somebody is at it".to_owned()),
                    }
                }
                Ok(())
            }
        })
    };
    send_numbers(&producer, &topic, "A", 10).await;
    let first = start().await.unwrap();
    eventually("ten effects", async || {
        (effects.lock().len() == 10).then_some(())
    })
    .await;
    let second = start().await.unwrap();
    eventually("ten more deliveries", async || {
        (effects.lock().len() == 20).then_some(())
    })
    .await;
    assert!(effects.lock()[10..].iter().all(|effect| effect == "again"));
    first.shutdown().await;
    second.shutdown().await;
    producer.shutdown().await;
}
