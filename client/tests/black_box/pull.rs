//! Pull consumers.

use std::collections::HashSet;
use std::time::Duration;

use agena_client::{ClientError, ConsumeFrom, Message, PullConsumer, PullConsumerBuilder};

use crate::support::{
    config, create_topic, eventually, numbers, producer, send_numbers, text, unique,
};

fn builder(group: &str) -> PullConsumerBuilder {
    PullConsumer::builder(group)
        .config(config())
        .auto_commit(None)
}

async fn poll_all(consumer: &PullConsumer, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    eventually("the messages", async || {
        let messages = consumer.poll(Duration::from_millis(200)).await.unwrap();
        bodies.extend(messages.iter().map(|message| text(message)));
        (bodies.len() >= count).then_some(())
    })
    .await;
    bodies.sort();
    bodies
}

#[tokio::test]
async fn what_is_committed_is_where_the_next_one_begins() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let group = unique("CG");
    let producer = producer().await;
    send_numbers(&producer, &topic, "A", 10).await;
    let consumer = builder(&group).poll_max(4).start().await.unwrap();
    let queue = consumer.queues_of(&topic).await.unwrap().remove(0);
    consumer.assign([queue.clone()]).await;
    consumer.seek(&queue, 2).await.unwrap();
    let polled = consumer.poll(Duration::from_secs(5)).await.unwrap();
    let bodies: Vec<_> = polled.iter().map(|message| text(message)).collect();
    assert_eq!(bodies, ["2", "3", "4", "5"]);
    assert_eq!(consumer.position(&queue).unwrap(), Some(6));
    consumer.commit().await.unwrap();
    assert_eq!(consumer.committed(&queue).await.unwrap(), Some(6));
    consumer.shutdown().await;
    let next = builder(&group).start().await.unwrap();
    next.assign([queue.clone()]).await;
    assert_eq!(poll_all(&next, 4).await, ["6", "7", "8", "9"]);
    next.seek(&queue, 9).await.unwrap();
    assert_eq!(poll_all(&next, 1).await, ["9"]);
    next.seek_to_end(&queue).await.unwrap();
    assert!(
        next.poll(Duration::from_millis(100))
            .await
            .unwrap()
            .is_empty()
    );
    producer.send(Message::new(&topic, "last")).await.unwrap();
    assert_eq!(poll_all(&next, 1).await, ["last"]);
    next.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn the_range_of_a_queue_bounds_a_seek() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    send_numbers(&producer, &topic, "A", 3).await;
    let consumer = builder(&unique("CG")).start().await.unwrap();
    let queue = consumer.queues_of(&topic).await.unwrap().remove(0);
    let refused = consumer.seek(&queue, 1).await;
    assert!(matches!(refused, Err(ClientError::NotAssigned { .. })));
    consumer.assign([queue.clone()]).await;
    assert_eq!(consumer.min_offset(&queue).await.unwrap(), 0);
    assert_eq!(consumer.max_offset(&queue).await.unwrap(), 3);
    let refused = consumer.seek(&queue, 4).await;
    assert!(
        matches!(
            refused,
            Err(ClientError::OffsetOutOfRange { min: 0, max: 3, .. })
        ),
        "{refused:?}"
    );
    consumer.commit_to(&queue, 2).await.unwrap();
    assert_eq!(consumer.committed(&queue).await.unwrap(), Some(2));
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_paused_queue_gives_nothing() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    send_numbers(&producer, &topic, "A", 3).await;
    let consumer = builder(&unique("CG")).start().await.unwrap();
    let queues = consumer.queues_of(&topic).await.unwrap();
    consumer.assign(queues.clone()).await;
    consumer.pause(&queues);
    consumer.seek_to_begin(&queues[0]).await.unwrap();
    assert!(
        consumer
            .poll(Duration::from_millis(200))
            .await
            .unwrap()
            .is_empty()
    );
    consumer.resume(&queues);
    assert_eq!(poll_all(&consumer, 3).await, numbers(3));
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn subscribers_share_the_queues() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let group = unique("CG");
    let producer = producer().await;
    let subscriber = || {
        builder(&group)
            .subscribe(&topic, "A")
            .consume_from(ConsumeFrom::First)
            .auto_commit(Some(Duration::from_millis(100)))
            .start()
    };
    let (first, second) = (subscriber().await.unwrap(), subscriber().await.unwrap());
    eventually("each has its half", async || {
        let a: HashSet<_> = first.assignment().into_iter().collect();
        let b: HashSet<_> = second.assignment().into_iter().collect();
        (a.len() == 2 && b.len() == 2 && a.is_disjoint(&b)).then_some(())
    })
    .await;
    send_numbers(&producer, &topic, "A", 20).await;
    send_numbers(&producer, &topic, "B", 20).await;
    let mut bodies = poll_all(&first, 10).await;
    bodies.extend(poll_all(&second, 10).await);
    bodies.sort();
    assert_eq!(bodies, numbers(20));
    second.shutdown().await;
    eventually("the other has all", async || {
        (first.assignment().len() == 4).then_some(())
    })
    .await;
    assert!(
        first
            .poll(Duration::from_millis(300))
            .await
            .unwrap()
            .is_empty()
    );
    first.shutdown().await;
    producer.shutdown().await;
}
