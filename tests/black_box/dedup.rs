//! The client's numbers and the broker's memory of them together: whatever a producer sends while the broker is killed and
//! started again is there once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agena_client::{
    Delivery, FaultPolicy, Message, Producer, ProducerBuilder, ProducerId, SendSettings,
    SpoolSettings,
};

use crate::servers::Servers;
use crate::stored::stored;

const WITHIN: Duration = Duration::from_secs(60);
const EACH: usize = 600;
const BATCH: usize = 5;
const KILLS: usize = 3;

/// One that goes on for as long as a restart takes.
fn patient(servers: &Servers, id: &str) -> ProducerBuilder {
    Producer::builder(id)
        .name_servers(&servers.name_server())
        .settings(SendSettings {
            timeout: WITHIN,
            retries: 10_000,
            deduplicate: Some(ProducerId::new(id).expect("a name")),
            ..SendSettings::default()
        })
}

async fn send(producer: Producer, done: Arc<AtomicUsize>) {
    for number in 0..EACH {
        let message = Message::new("numbered", format!("send {number}"));
        producer
            .send(message)
            .await
            .expect("it is stored in the end");
        done.fetch_add(1, Ordering::Relaxed);
    }
    producer.shutdown().await;
}

async fn send_batches(producer: Producer, done: Arc<AtomicUsize>) {
    for first in (0..EACH).step_by(BATCH) {
        let messages = (first..first + BATCH)
            .map(|number| Message::new("numbered", format!("batch {number}")))
            .collect();
        let sent = producer.send_batch(messages).await;
        sent.expect("they are stored in the end");
        done.fetch_add(BATCH, Ordering::Relaxed);
    }
    producer.shutdown().await;
}

async fn deliver(producer: Producer, done: Arc<AtomicUsize>) {
    let mut spooled = 0;
    for number in 0..EACH {
        let message = Message::new("numbered", format!("deliver {number}"));
        match producer.deliver(message).await.expect("it is taken") {
            Delivery::Spooled { .. } => spooled += 1,
            delivery => assert!(delivery.stored().is_some(), "{delivery:?}"),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    assert!(spooled > 0, "no kill met it");
    let deadline = Instant::now() + WITHIN;
    while producer
        .spool_status()
        .await
        .expect("the spool is well")
        .is_some_and(|status| status.waiting > 0)
    {
        assert!(Instant::now() < deadline, "the spool is not sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    producer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_numbered_producers_send_over_kills_is_stored_once() {
    let mut servers = Servers::start_with(&["maxHashSlotNum=1000", "maxIndexNum=4000"]);
    servers.raw().create_topic("numbered", 1);
    let directory = tempfile::tempdir().expect("a directory");
    let done = Arc::new(AtomicUsize::new(0));
    let spooling = patient(&servers, "delivers")
        .timeout(Duration::from_millis(500))
        .fault_policy(FaultPolicy::Failfast)
        .spool(SpoolSettings::at(directory.path().join("spool")));
    let [sends, batches, delivers] = [
        patient(&servers, "sends"),
        patient(&servers, "batches"),
        spooling,
    ]
    .map(|builder| async move {
        // Known before the first kill: a topic without a route is an error, and not one of this test.
        let producer = builder.topics(["numbered"]).start().await;
        producer.expect("the producer starts")
    });
    let tasks = [
        tokio::spawn(send(sends.await, Arc::clone(&done))),
        tokio::spawn(send_batches(batches.await, Arc::clone(&done))),
        tokio::spawn(deliver(delivers.await, Arc::clone(&done))),
    ];
    for kill in 1..=KILLS {
        let due = 3 * EACH * kill / (KILLS + 2);
        let deadline = Instant::now() + WITHIN;
        while done.load(Ordering::Relaxed) < due {
            assert!(Instant::now() < deadline, "kill {kill} is not reached");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        servers.kill();
        servers.start_again();
    }
    for task in tasks {
        task.await.expect("the producer is well");
    }
    assert!(!directory.path().join("spool.refused").exists());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for body in stored(&servers, "numbered") {
        *times.entry(body).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(times.len(), 3 * EACH);
}
