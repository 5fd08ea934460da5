//! Messages that consumers see later.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agena_client::Message;

use crate::consume::{builder, collect};
use crate::support::{create_topic, producer, unique};

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[tokio::test]
async fn delayed_messages_come_late_and_never_early() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    let began = now_ms();
    let by_level = Message::new(&topic, "level").with_delay_level(1);
    let after = Message::new(&topic, "after").deliver_after(Duration::from_millis(2500));
    let at = Message::new(&topic, "at").deliver_at_ms(began + 2500);
    assert!(
        producer
            .send(by_level)
            .await
            .unwrap()
            .recall_handle
            .is_none()
    );
    assert!(producer.send(after).await.unwrap().recall_handle.is_some());
    producer.send(at).await.unwrap();
    inbox.wait_for(3).await;
    assert_eq!(inbox.bodies(), ["after", "at", "level"]);
    for message in inbox.all() {
        // Timers of the original are rounded down to the second, minus one step.
        let least = if &message.body[..] == b"level" {
            950
        } else {
            1400
        };
        let waited = message.store_timestamp - began;
        assert!(waited >= least, "{waited} ms");
    }
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_recall_that_the_broker_does_not_allow_says_so() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = producer().await;
    let timed = Message::new(&topic, "x").deliver_after(Duration::from_secs(60));
    let handle = producer.send(timed).await.unwrap().recall_handle.unwrap();
    // recallMessageEnable is off by default: 16. Where it is on, the message is taken back.
    match producer.recall(&topic, &handle).await {
        Ok(msg_id) => assert!([32, 56].contains(&msg_id.len())),
        Err(error) => assert_eq!(error.broker_code(), Some(16), "{error}"),
    }
    let broken = producer.recall(&topic, "djEgVA==").await.unwrap_err();
    assert!(
        [Some(16), Some(604)].contains(&broken.broker_code()),
        "{broken}"
    );
    producer.shutdown().await;
}
