//! Sending in all its forms.

use std::collections::HashSet;
use std::time::Duration;

use agena_client::choose_queue::ByHash;
use agena_client::{
    ClientConfig, ClientError, Message, Producer, PullConsumer, SendSettings, SendStatus,
};
use agena_protocol::frame::SerializeType;
use agena_protocol::sys_flag::Codec;
use tokio::sync::oneshot;

use crate::support::{config, create_topic, eventually, in_time, producer, text, unique};

/// Everything a topic holds.
async fn contents(topic: &str, count: usize) -> Vec<std::sync::Arc<agena_client::ReceivedMessage>> {
    let consumer = PullConsumer::builder(&unique("CG"))
        .config(config())
        .start()
        .await
        .unwrap();
    let queues = consumer.queues_of(topic).await.unwrap();
    consumer.assign(queues.clone()).await;
    for queue in &queues {
        consumer.seek_to_begin(queue).await.unwrap();
    }
    let mut messages = Vec::new();
    eventually("the messages are there", async || {
        messages.extend(consumer.poll(Duration::from_millis(200)).await.unwrap());
        (messages.len() >= count).then_some(())
    })
    .await;
    consumer.shutdown().await;
    messages
}

#[tokio::test]
async fn a_send_tells_where_the_message_is() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let producer = producer().await;
    let mut places = HashSet::new();
    let mut ids = HashSet::new();
    for number in 0..20 {
        let message = Message::new(&topic, number.to_string())
            .with_tag("A")
            .with_key("k");
        let result = producer.send(message).await.unwrap();
        assert_eq!(result.status, SendStatus::Ok);
        assert_eq!(result.queue.topic, topic);
        assert!([32, 56].contains(&result.offset_msg_id.len()), "{result:?}");
        assert!([32, 56].contains(&result.msg_id.len()), "{result:?}");
        assert_eq!(result.region, "DefaultRegion");
        assert!(places.insert((result.queue.clone(), result.queue_offset)));
        assert!(ids.insert(result.msg_id));
    }
    let queues: HashSet<_> = places.iter().map(|(queue, _)| queue.queue_id).collect();
    assert_eq!(queues.len(), 4, "all queues are used in turn");
    for message in contents(&topic, 20).await {
        assert!(places.contains(&(message.queue.clone(), message.queue_offset)));
        assert!(ids.contains(&message.msg_id()));
        assert_eq!(message.tag(), Some("A"));
        assert_eq!(message.keys().collect::<Vec<_>>(), ["k"]);
    }
    producer.shutdown().await;
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_made_by_its_first_message() {
    let topic = unique("T");
    let producer = producer().await;
    let result = producer.send(Message::new(&topic, "first")).await.unwrap();
    assert_eq!(result.queue.topic, topic);
    producer.shutdown().await;
}

#[tokio::test]
async fn both_header_forms_are_understood() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    for form in [SerializeType::Json, SerializeType::Rocketmq] {
        let config = ClientConfig {
            header_form: form,
            ..config()
        };
        let producer = Producer::builder(&unique("PG"))
            .config(config)
            .start()
            .await
            .unwrap();
        let result = producer.send(Message::new(&topic, "ü")).await.unwrap();
        assert_eq!(result.status, SendStatus::Ok);
        producer.shutdown().await;
    }
    assert_eq!(contents(&topic, 2).await.len(), 2);
}

#[tokio::test]
async fn sends_in_the_background_and_without_answer_arrive() {
    let topic = unique("T");
    create_topic(&topic, 2).await;
    let producer = producer().await;
    let pending: Vec<_> = (0..50)
        .map(|number| {
            let message = Message::new(&topic, format!("pending {number}"));
            producer.send_async(message).unwrap()
        })
        .collect();
    for send in pending {
        assert_eq!(send.await.unwrap().status, SendStatus::Ok);
    }
    let (sender, receiver) = oneshot::channel();
    producer
        .send_with_callback(Message::new(&topic, "callback"), move |result| {
            let _ = sender.send(result);
        })
        .unwrap();
    assert!(in_time("the callback", receiver).await.unwrap().is_ok());
    let message = Message::new(&topic, "one way");
    producer.send_one_way(message).await.unwrap();
    assert_eq!(contents(&topic, 52).await.len(), 52);
    producer.shutdown().await;
}

#[tokio::test]
async fn more_background_sends_than_allowed_are_refused_at_once() {
    let producer = Producer::builder(&unique("PG"))
        .config(config())
        .in_flight_max(2)
        .start()
        .await
        .unwrap();
    let topic = unique("T");
    let send = || producer.send_async(Message::new(&topic, "x"));
    let (first, second) = (send().unwrap(), send().unwrap());
    assert!(matches!(
        send().unwrap_err(),
        ClientError::TooManyInFlight { limit: 2 }
    ));
    assert!(first.await.is_ok() && second.await.is_ok());
    producer.shutdown().await;
}

#[tokio::test]
async fn a_batch_gets_consecutive_places() {
    let topic = unique("T");
    create_topic(&topic, 4).await;
    let producer = producer().await;
    let messages = (0..10)
        .map(|number| Message::new(&topic, number.to_string()).with_tag("B"))
        .collect();
    let result = producer.send_batch(messages).await.unwrap();
    assert_eq!(result.msg_id.split(',').count(), 10);
    assert_eq!(result.offset_msg_id.split(',').count(), 10);
    let mut stored = contents(&topic, 10).await;
    stored.sort_by_key(|message| message.queue_offset);
    for (number, message) in stored.iter().enumerate() {
        assert_eq!(text(message), number.to_string());
        assert_eq!(message.queue, result.queue);
        let offset = result.queue_offset + i64::try_from(number).unwrap();
        assert_eq!(message.queue_offset, offset);
        assert_eq!(message.tag(), Some("B"));
    }
    producer.shutdown().await;
}

#[tokio::test]
async fn the_queue_is_the_application_s_choice() {
    let topic = unique("T");
    create_topic(&topic, 8).await;
    let producer = producer().await;
    let queues = producer.publish_queues(&topic).await.unwrap();
    assert_eq!(queues.len(), 8);
    let message = Message::new(&topic, "to");
    let result = producer.send_to(message, &queues[5]).await.unwrap();
    assert_eq!(result.queue, queues[5]);
    let mut of_key = HashSet::new();
    for _ in 0..5 {
        let message = Message::new(&topic, "by");
        let selector = ByHash::of("order-17");
        let result = producer.send_by(message, &selector).await.unwrap();
        of_key.insert(result.queue);
    }
    assert_eq!(of_key.len(), 1);
    let nothing = |_: &[_], _: &Message| None;
    let refused = producer.send_by(Message::new(&topic, "x"), &nothing).await;
    assert!(matches!(refused, Err(ClientError::NoWritableQueue { .. })));
    producer.shutdown().await;
}

#[tokio::test]
async fn large_bodies_travel_compressed_and_arrive_whole() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let body = "abcdefghij".repeat(20_000);
    for codec in [Codec::Zlib, Codec::Lz4, Codec::Zstd] {
        let settings = SendSettings {
            codec,
            ..SendSettings::default()
        };
        let producer = Producer::builder(&unique("PG"))
            .config(config())
            .settings(settings)
            .start()
            .await
            .unwrap();
        let message = Message::new(&topic, body.clone());
        producer.send(message).await.unwrap();
        producer.shutdown().await;
    }
    for message in contents(&topic, 3).await {
        assert_eq!(text(&message), body);
    }
}

#[tokio::test]
async fn a_refusal_of_the_broker_comes_with_its_code_and_words() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    // Over the broker's limit of 4 MiB, and not compressible into it by switching compression off.
    let settings = SendSettings {
        body_bytes_max: 10 << 20,
        compress_from_bytes: usize::MAX,
        ..SendSettings::default()
    };
    let producer = Producer::builder(&unique("PG"))
        .config(config())
        .settings(settings)
        .start()
        .await
        .unwrap();
    let message = Message::new(&topic, vec![b'x'; (4 << 20) + 1]);
    let error = producer.send(message).await.unwrap_err();
    assert_eq!(error.broker_code(), Some(13), "{error}");
    producer.shutdown().await;
}

#[tokio::test]
async fn the_error_says_which_step_failed() {
    let group = unique("PG");
    // Port 9 of the loopback: nobody listens.
    let producer = Producer::builder(&group)
        .name_servers("127.0.0.1:9")
        .start()
        .await
        .unwrap();
    let error = producer.send(Message::new("T", "x")).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::NoNameServer { tried } if tried.len() == 1),
        "{error}"
    );
    producer.shutdown().await;
}

#[tokio::test]
async fn a_group_is_taken_once_in_an_instance() {
    let instance = crate::support::instance();
    let group = unique("PG");
    let builder = || Producer::builder(&group).instance(&instance);
    let first = builder().start().await.unwrap();
    let second = builder().start().await;
    assert!(matches!(second, Err(ClientError::GroupTaken { .. })));
    first.shutdown().await;
    builder().start().await.unwrap().shutdown().await;
    instance.shutdown().await;
}
