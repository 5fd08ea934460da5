//! Push consumers that all get everything.

use std::sync::Arc;

use agena_client::{Consumed, FileOffsets, Message, RetryDelay};

use crate::consume::{builder, collect};
use crate::support::{create_topic, numbers, producer, send_numbers, unique};

#[tokio::test]
async fn every_member_gets_every_message() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let group = unique("CG");
    let producer = producer().await;
    let (first, first_inbox) = collect(builder(&group, &topic).broadcasting()).await;
    let (second, second_inbox) = collect(builder(&group, &topic).broadcasting()).await;
    send_numbers(&producer, &topic, "A", 20).await;
    for inbox in [&first_inbox, &second_inbox] {
        inbox.wait_for(20).await;
        assert_eq!(inbox.bodies(), numbers(20));
    }
    first.shutdown().await;
    second.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn offsets_in_a_file_survive_the_member() {
    let topic = unique("T");
    create_topic(&topic, 2).await;
    let group = unique("CG");
    let producer = producer().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("offsets.json");
    let member = || builder(&group, &topic).broadcast_offsets(Arc::new(FileOffsets::at(&path)));
    send_numbers(&producer, &topic, "A", 10).await;
    let (consumer, inbox) = collect(member()).await;
    inbox.wait_for(10).await;
    consumer.shutdown().await;
    producer.send(Message::new(&topic, "next")).await.unwrap();
    let (consumer, inbox) = collect(member()).await;
    inbox.wait_for(1).await;
    assert_eq!(inbox.bodies(), ["next"]);
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn what_failed_does_not_come_again() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let inbox = crate::support::Inbox::default();
    let put = inbox.clone();
    let consumer = builder(&unique("CG"), &topic)
        .broadcasting()
        .start(move |batch: agena_client::Batch| {
            put.put(&batch);
            async { Consumed::Again(RetryDelay::Level(1)) }
        })
        .await
        .unwrap();
    send_numbers(&producer, &topic, "A", 3).await;
    inbox.wait_for(3).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(inbox.bodies(), numbers(3));
    consumer.shutdown().await;
    producer.shutdown().await;
}
