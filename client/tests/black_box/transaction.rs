//! Transactions: committed, rolled back, unknown and asked about.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agena_client::{Message, Producer, ReceivedMessage, Resolution, TransactionListener};
use parking_lot::Mutex;

use crate::consume::{builder, collect};
use crate::support::{Inbox, config, create_topic, text, unique};

/// Does what the body says, and commits what it is asked about, unless that is to be rolled back later.
#[derive(Clone, Default)]
struct AsTold {
    /// Bodies that it was asked about.
    checked: Arc<Mutex<BTreeSet<String>>>,
}

impl AsTold {
    fn checked(&self) -> Vec<String> {
        self.checked.lock().iter().cloned().collect()
    }
}

impl TransactionListener for AsTold {
    async fn execute(&self, message: &Message, transaction_id: &str) -> Resolution {
        assert!([32, 56].contains(&transaction_id.len()));
        match &message.body()[..] {
            b"commit" => Resolution::Commit,
            b"rollback" => Resolution::Rollback,
            b"panic" => panic!("the listener's own fault"),
            _ => Resolution::Unknown,
        }
    }

    async fn check(&self, message: &ReceivedMessage) -> Resolution {
        self.checked.lock().insert(text(message));
        match &message.body[..] {
            b"rollback later" => Resolution::Rollback,
            _ => Resolution::Commit,
        }
    }
}

/// As long as it takes a broker with the original's settings to ask.
async fn wait_for(inbox: &Inbox, count: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while inbox.len() < count {
        let is_late = tokio::time::Instant::now() >= deadline;
        assert!(!is_late, "{:?}", inbox.bodies());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn only_what_is_committed_is_seen() {
    let topic = unique("T");
    create_topic(&topic, 2).await;
    let listener = AsTold::default();
    let producer = Producer::builder(&unique("PG"))
        .config(config())
        .topics([topic.as_str()])
        .start_transactional(listener.clone())
        .await
        .unwrap();
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    for (body, resolution) in [
        ("rollback", Resolution::Rollback),
        ("commit", Resolution::Commit),
        ("rollback", Resolution::Rollback),
        ("commit", Resolution::Commit),
    ] {
        let sent = producer.send(Message::new(&topic, body)).await.unwrap();
        assert_eq!(sent.resolution, resolution);
        assert_eq!(
            sent.half.transaction_id.as_deref(),
            Some(&*sent.half.msg_id)
        );
    }
    // Brokers ask in the order of the halves: once this one is decided, they would have asked for those before it.
    let last = Message::new(&topic, "unknown");
    producer.send(last).await.unwrap();
    wait_for(&inbox, 3).await;
    assert_eq!(inbox.bodies(), ["commit", "commit", "unknown"]);
    assert_eq!(listener.checked(), ["unknown"]);
    consumer.shutdown().await;
    producer.shutdown().await;
}

/// Quick where the broker's `transactionTimeOut` and `transactionCheckInterval` are short, as with our own servers.
#[tokio::test]
async fn what_is_unknown_is_asked_about() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let listener = AsTold::default();
    let producer = Producer::builder(&unique("PG"))
        .config(config())
        .topics([topic.as_str()])
        .start_transactional(listener.clone())
        .await
        .unwrap();
    let (consumer, inbox) = collect(builder(&unique("CG"), &topic)).await;
    for body in ["unknown", "panic", "rollback later"] {
        let sent = producer.send(Message::new(&topic, body)).await.unwrap();
        assert_eq!(sent.resolution, Resolution::Unknown);
    }
    wait_for(&inbox, 2).await;
    // Sent when those are decided, and asked about after the one that is rolled back, which would be here by now.
    let last = Message::new(&topic, "unknown at last");
    producer.send(last).await.unwrap();
    wait_for(&inbox, 3).await;
    assert_eq!(inbox.bodies(), ["panic", "unknown", "unknown at last"]);
    let all = ["panic", "rollback later", "unknown", "unknown at last"];
    assert_eq!(listener.checked(), all);
    consumer.shutdown().await;
    producer.shutdown().await;
}
