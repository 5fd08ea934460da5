//! Push consumers in a cluster, side by side.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agena_client::{
    Batch, ConsumeFrom, Consumed, ConsumerSettings, Filter, Message, PullConsumer, PushConsumer,
    PushConsumerBuilder, RetryDelay,
};

use crate::support::{
    Inbox, config, create_topic, eventually, numbers, producer, send_numbers, unique,
};

pub(crate) fn builder(group: &str, topic: &str) -> PushConsumerBuilder {
    PushConsumer::builder(group)
        .config(config())
        .subscribe(topic, "*")
        .consume_from(ConsumeFrom::First)
}

pub(crate) async fn collect(builder: PushConsumerBuilder) -> (PushConsumer, Inbox) {
    let inbox = Inbox::default();
    let put = inbox.clone();
    let listener = move |batch: Batch| {
        put.put(&batch);
        async {}
    };
    (builder.start(listener).await.unwrap(), inbox)
}

#[tokio::test]
async fn every_message_comes_once() {
    let topic = unique("T");
    create_topic(&topic, 8).await;
    let producer = producer().await;
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    send_numbers(&producer, &topic, "A", 300).await;
    inbox.wait_for(300).await;
    assert_eq!(inbox.bodies(), numbers(300));
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_new_consumer_has_its_messages_in_well_under_a_second() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let producer = producer().await;
    send_numbers(&producer, &topic, "A", 10).await;
    let began = Instant::now();
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    inbox.wait_for(10).await;
    let took = began.elapsed();
    assert!(took < Duration::from_millis(900), "{took:?}");
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn tags_select() {
    let topic = unique("T");
    create_topic(&topic, 2).await;
    let producer = producer().await;
    // "Aa" and "BB" have one hash, so the broker cannot tell them apart.
    let filtered = PushConsumer::builder(&unique("CG"))
        .config(config())
        .subscribe(&topic, "Aa || C")
        .consume_from(ConsumeFrom::First);
    let (consumer, inbox) = collect(filtered).await;
    for tag in ["Aa", "BB", "C", "D", "Aa"] {
        let message = Message::new(&topic, tag).with_tag(tag);
        producer.send(message).await.unwrap();
    }
    producer.send(Message::new(&topic, "none")).await.unwrap();
    inbox.wait_for(3).await;
    assert_eq!(inbox.bodies(), ["Aa", "Aa", "C"]);
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn members_share_the_queues_and_go_on_without_who_left() {
    let topic = unique("T");
    create_topic(&topic, 8).await;
    let group = unique("CG");
    let producer = producer().await;
    let (first, first_inbox) = collect(builder(&group, &topic)).await;
    let (second, second_inbox) = collect(builder(&group, &topic)).await;
    let of_topic = |consumer: &PushConsumer| {
        let queues = consumer.queues().into_iter();
        queues
            .filter(|queue| queue.topic == topic)
            .collect::<HashSet<_>>()
    };
    eventually("each has its half", async || {
        let (a, b) = (of_topic(&first), of_topic(&second));
        (a.len() == 4 && b.len() == 4 && a.is_disjoint(&b)).then_some(())
    })
    .await;
    send_numbers(&producer, &topic, "A", 80).await;
    eventually("all are consumed", async || {
        (first_inbox.len() + second_inbox.len() >= 80).then_some(())
    })
    .await;
    assert_eq!((first_inbox.len(), second_inbox.len()), (40, 40));
    let left = Instant::now();
    second.shutdown().await;
    eventually("the other has all", async || {
        (of_topic(&first).len() == 8).then_some(())
    })
    .await;
    assert!(
        left.elapsed() < Duration::from_secs(2),
        "{:?}",
        left.elapsed()
    );
    send_numbers(&producer, &topic, "A", 40).await;
    first_inbox.wait_for(80).await;
    first.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn offsets_survive_the_consumer() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let group = unique("CG");
    let producer = producer().await;
    send_numbers(&producer, &topic, "A", 40).await;
    let (consumer, inbox) = collect(builder(&group, &topic)).await;
    inbox.wait_for(40).await;
    consumer.shutdown().await;
    producer.send(Message::new(&topic, "next")).await.unwrap();
    let (consumer, inbox) = collect(builder(&group, &topic)).await;
    inbox.wait_for(1).await;
    assert_eq!(inbox.bodies(), ["next"]);
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn what_failed_comes_again_later() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let inbox = Inbox::default();
    let put = inbox.clone();
    let consumer = builder(&unique("CG"), &topic)
        .start(move |batch: Batch| {
            put.put(&batch);
            let times = batch[0].reconsume_times;
            async move {
                match times {
                    0 => Consumed::Again(RetryDelay::Level(1)),
                    1 => panic!("the listener's own fault"),
                    _ => Consumed::Done,
                }
            }
        })
        .await
        .unwrap();
    let sent = producer.send(Message::new(&topic, "x")).await.unwrap();
    inbox.wait_for(2).await;
    for (times, message) in inbox.all().iter().enumerate() {
        assert_eq!(message.reconsume_times, i32::try_from(times).unwrap());
        assert_eq!(message.topic, topic);
        assert_eq!(message.msg_id(), sent.msg_id);
    }
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn part_of_a_batch_can_fail() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let messages = (0..5).map(|number| Message::new(&topic, number.to_string()));
    producer.send_batch(messages.collect()).await.unwrap();
    let inbox = Inbox::default();
    let put = inbox.clone();
    let consumer = builder(&unique("CG"), &topic)
        .batch_max(5)
        .start(move |batch: Batch| {
            let is_first = batch[0].reconsume_times == 0;
            put.put(&batch);
            async move {
                match is_first {
                    true => Consumed::DoneUpTo {
                        done: 3,
                        then: RetryDelay::Level(1),
                    },
                    false => Consumed::Done,
                }
            }
        })
        .await
        .unwrap();
    inbox.wait_for(7).await;
    assert_eq!(inbox.bodies(), ["0", "1", "2", "3", "3", "4", "4"]);
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_dead_letter_lies_in_its_topic() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let group = unique("CG");
    let producer = producer().await;
    let consumer = builder(&group, &topic)
        .start(|_: Batch| async { Consumed::Again(RetryDelay::DeadLetter) })
        .await
        .unwrap();
    producer.send(Message::new(&topic, "dead")).await.unwrap();
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
    assert_eq!(&message.body[..], b"dead");
    reader.shutdown().await;
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn no_more_listeners_run_at_once_than_allowed() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let producer = producer().await;
    send_numbers(&producer, &topic, "A", 60).await;
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let inbox = Inbox::default();
    let (put, now, max) = (inbox.clone(), Arc::clone(&running), Arc::clone(&most));
    let consumer = builder(&unique("CG"), &topic)
        .concurrency(3)
        .start(move |batch: Batch| {
            let (put, now, max) = (put.clone(), Arc::clone(&now), Arc::clone(&max));
            async move {
                max.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                put.put(&batch);
            }
        })
        .await
        .unwrap();
    inbox.wait_for(60).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn shutdown_waits_for_the_listener_and_keeps_its_result() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let group = unique("CG");
    let producer = producer().await;
    let started = Arc::new(AtomicUsize::new(0));
    let mark = Arc::clone(&started);
    let consumer = builder(&group, &topic)
        .start(move |_: Batch| {
            mark.fetch_add(1, Ordering::SeqCst);
            async { tokio::time::sleep(Duration::from_millis(300)).await }
        })
        .await
        .unwrap();
    producer.send(Message::new(&topic, "slow")).await.unwrap();
    eventually("the listener runs", async || {
        (started.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    consumer.shutdown().await;
    producer.send(Message::new(&topic, "next")).await.unwrap();
    let (consumer, inbox) = collect(builder(&group, &topic)).await;
    inbox.wait_for(1).await;
    assert_eq!(inbox.bodies(), ["next"]);
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_suspended_consumer_pulls_nothing_until_it_goes_on() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    send_numbers(&producer, &topic, "A", 1).await;
    inbox.wait_for(1).await;
    consumer.suspend();
    // The pull that is held already may still bring what comes next.
    producer.send(Message::new(&topic, "0")).await.unwrap();
    inbox.wait_for(2).await;
    send_numbers(&producer, &topic, "A", 5).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(inbox.len() <= 2, "{}", inbox.len());
    consumer.resume();
    inbox.wait_for(7).await;
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn where_a_new_group_begins_can_be_a_time() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    producer.send(Message::new(&topic, "old")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    producer.send(Message::new(&topic, "new")).await.unwrap();
    let reader = PullConsumer::builder(&unique("CG"))
        .config(config())
        .start()
        .await
        .unwrap();
    let queue = reader.queues_of(&topic).await.unwrap().remove(0);
    let at = i64::try_from(now.as_millis()).unwrap();
    assert_eq!(reader.offset_by_time(&queue, at).await.unwrap(), 1);
    reader.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_topic_can_be_subscribed_before_it_exists() {
    let topic = unique("T");
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    let producer = producer().await;
    producer.send(Message::new(&topic, "first")).await.unwrap();
    inbox.wait_for(1).await;
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn limits_bound_what_is_held() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let messages = (0..200).map(|number| Message::new(&topic, number.to_string()));
    producer.send_batch(messages.collect()).await.unwrap();
    let settings = ConsumerSettings {
        consume_from: ConsumeFrom::First,
        limits: agena_client::QueueLimits {
            messages: 10,
            ..Default::default()
        },
        concurrency: 1,
        ..ConsumerSettings::default()
    };
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic).settings(settings)).await;
    inbox.wait_for(200).await;
    assert_eq!(inbox.bodies(), numbers(200));
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn an_expression_selects_by_properties() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let filter = Filter::Sql92("a > 5 AND b = 'x'".to_owned());
    let filtered = PushConsumer::builder(&unique("CG"))
        .config(config())
        .subscribe(&topic, filter)
        .consume_from(ConsumeFrom::First);
    let (consumer, inbox) = collect(filtered).await;
    for (a, b) in [(3, "x"), (6, "x"), (7, "y"), (8, "x")] {
        let message = Message::new(&topic, a.to_string())
            .with_property("a", a.to_string())
            .with_property("b", b);
        producer.send(message).await.unwrap();
    }
    inbox.wait_for(2).await;
    assert_eq!(inbox.bodies(), ["6", "8"]);
    consumer.shutdown().await;
    let broken = PushConsumer::builder(&unique("CG"))
        .config(config())
        .subscribe(&topic, Filter::Sql92("a > ".to_owned()))
        .start(|_: Batch| async {})
        .await;
    assert_eq!(broken.unwrap_err().broker_code(), Some(23));
    producer.shutdown().await;
}
