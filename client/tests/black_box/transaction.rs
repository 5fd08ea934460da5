//! Transactions: committed, rolled back, unknown and asked about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agena_client::{Message, Producer, ReceivedMessage, Resolution, TransactionListener};

use crate::consume::{builder, collect};
use crate::support::{config, create_topic, unique};

/// Does what the body says, and commits what it is asked about.
#[derive(Clone, Default)]
struct AsTold {
    checks: Arc<AtomicUsize>,
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
        self.checks.fetch_add(1, Ordering::SeqCst);
        match &message.body[..] {
            b"rollback later" => Resolution::Rollback,
            _ => Resolution::Commit,
        }
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
        .start_transactional(listener)
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
    inbox.wait_for(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(inbox.bodies(), ["commit", "commit"]);
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
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while inbox.len() < 2 || listener.checks.load(Ordering::SeqCst) < 3 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            inbox.bodies()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(inbox.bodies()[..2], ["panic", "unknown"]);
    consumer.shutdown().await;
    producer.shutdown().await;
}
