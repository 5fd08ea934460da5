//! Interceptors and message traces.

use std::sync::Arc;
use std::time::Duration;

use agena_client::{
    Batch, ClientError, ConsumeInterceptor, Message, Producer, PullConsumer, SendInterceptor,
    SendResult,
};
use parking_lot::Mutex;

use crate::consume::{builder, collect};
use crate::support::{config, create_topic, eventually, text, unique};

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl SendInterceptor for Seen {
    fn before(&self, message: &mut Message) {
        *message = message.clone().with_property("seen", "yes");
        self.0.lock().push("before send".into());
    }

    fn after(&self, _: &Message, result: &Result<SendResult, ClientError>) {
        self.0.lock().push(format!("after send {}", result.is_ok()));
    }
}

impl ConsumeInterceptor for Seen {
    fn before(&self, _: &str, batch: &Batch) {
        let seen = batch[0].property("seen").unwrap_or("no").to_owned();
        self.0.lock().push(format!("before consume {seen}"));
    }

    fn after(&self, _: &str, _: &Batch, success: bool) {
        self.0.lock().push(format!("after consume {success}"));
    }
}

#[tokio::test]
async fn interceptors_see_everything_on_its_way() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let seen = Arc::new(Seen::default());
    let producer = Producer::builder(&unique("PG"))
        .config(config())
        .interceptor(seen.clone())
        .start()
        .await
        .unwrap();
    producer.send(Message::new(&topic, "x")).await.unwrap();
    let watched = builder(&unique("CG"), &topic).interceptor(seen.clone());
    let (consumer, inbox) = collect(watched).await;
    inbox.wait_for(1).await;
    consumer.shutdown().await;
    producer.shutdown().await;
    assert_eq!(
        *seen.0.lock(),
        [
            "before send",
            "after send true",
            "before consume yes",
            "after consume true"
        ]
    );
}

#[tokio::test]
async fn traces_tell_of_sending_and_consuming() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let producer = Producer::builder(&unique("PG"))
        .config(config())
        .trace(true)
        .start()
        .await
        .unwrap();
    let sent = producer.send(Message::new(&topic, "x")).await.unwrap();
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic).trace(true)).await;
    inbox.wait_for(1).await;
    consumer.shutdown().await;
    producer.shutdown().await;
    let reader = PullConsumer::builder(&unique("CG"))
        .config(config())
        .start()
        .await
        .unwrap();
    // The first trace made the topic, of which the name server hears a moment later.
    let queues = eventually("a route of the traces", async || {
        reader.queues_of("RMQ_SYS_TRACE_TOPIC").await.ok()
    })
    .await;
    reader.assign(queues.clone()).await;
    for queue in &queues {
        reader.seek_to_begin(queue).await.unwrap();
    }
    let mut kinds = Vec::new();
    eventually("three traces", async || {
        for message in reader.poll(Duration::from_millis(200)).await.unwrap() {
            let records = text(&message);
            let ours = records
                .split('\u{2}')
                .filter(|it| it.contains(&sent.msg_id));
            kinds.extend(ours.map(|it| it.split('\u{1}').next().unwrap().to_owned()));
        }
        (kinds.len() >= 3).then_some(())
    })
    .await;
    kinds.sort();
    assert_eq!(kinds, ["Pub", "SubAfter", "SubBefore"]);
    reader.shutdown().await;
}
