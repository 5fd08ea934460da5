//! The client's numbers and the broker's memory of them together: whatever a producer sends while the broker is killed and
//! started again is there once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agena_client::{
    Delivery, FaultPolicy, Message, Producer, ProducerBuilder, ProducerId, SendSettings,
    SpoolSettings,
};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::servers::Servers;
use crate::stored::stored_messages;

const GET_BROKER_RUNTIME_INFO: i32 = 28;

const WITHIN: Duration = Duration::from_secs(60);
const BATCH: usize = 5;
/// Sends of one producer at a time.
const LANES: usize = 16;
const KILLS: usize = 3;
/// Not every kill meets a message that is stored and not answered; so many in a row that meet none would be a fault.
const KILLS_MAX: usize = 30;

/// What the producers have in common with the test.
#[derive(Clone, Default)]
struct Load {
    is_over: Arc<AtomicBool>,
    /// Messages that were answered, or taken into the spool.
    done: Arc<AtomicUsize>,
}

impl Load {
    /// Numbers from `first` on, `step` apart, until the load is over.
    fn numbers(&self, first: usize, step: usize) -> impl Iterator<Item = usize> {
        let is_over = Arc::clone(&self.is_over);
        (first..)
            .step_by(step)
            .take_while(move |_| !is_over.load(Ordering::Relaxed))
    }

    fn did(&self, messages: usize) {
        self.done.fetch_add(messages, Ordering::Relaxed);
    }

    async fn wait_for(&self, messages: usize) {
        let due = self.done.load(Ordering::Relaxed) + messages;
        let deadline = Instant::now() + WITHIN;
        while self.done.load(Ordering::Relaxed) < due {
            assert!(Instant::now() < deadline, "nothing is sent any more");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// One that goes on for as long as a restart takes.
fn patient(servers: &Servers, id: &str) -> ProducerBuilder {
    Producer::builder(id)
        .name_servers(&servers.name_server())
        // Known before the first kill: a topic without a route is an error, and not one of this test.
        .topics(["numbered"])
        .settings(SendSettings {
            timeout: WITHIN,
            retries: 10_000,
            deduplicate: Some(ProducerId::new(id).expect("a name")),
            ..SendSettings::default()
        })
}

async fn send(producer: Producer, load: Load) {
    let producer = Arc::new(producer);
    let mut sends = JoinSet::new();
    for lane in 0..LANES {
        let (producer, load) = (Arc::clone(&producer), load.clone());
        sends.spawn(async move {
            for number in load.numbers(lane, LANES) {
                let message = Message::new("numbered", format!("send {number}"));
                let sent = producer.send(message).await;
                sent.expect("it is stored in the end");
                load.did(1);
            }
        });
    }
    while let Some(lane) = sends.join_next().await {
        lane.expect("no send failed");
    }
}

async fn send_batches(producer: Producer, load: Load) {
    for first in load.numbers(0, BATCH) {
        let messages = (first..first + BATCH)
            .map(|number| Message::new("numbered", format!("batch {number}")))
            .collect();
        let sent = producer.send_batch(messages).await;
        sent.expect("they are stored in the end");
        load.did(BATCH);
    }
    producer.shutdown().await;
}

async fn deliver(producer: Producer, load: Load) {
    let mut spooled = 0;
    for number in load.numbers(0, 1) {
        let message = Message::new("numbered", format!("deliver {number}"));
        match producer.deliver(message).await.expect("it is taken") {
            Delivery::Spooled { .. } => spooled += 1,
            delivery => assert!(delivery.stored().is_some(), "{delivery:?}"),
        }
        load.did(1);
    }
    assert!(spooled > 0, "no kill met it");
    // How much waits depends on how fast it was taken: what counts is that it becomes less.
    let mut least = usize::MAX;
    let mut deadline = Instant::now() + WITHIN;
    loop {
        let status = producer.spool_status().await.expect("the spool is well");
        let waiting = status.map_or(0, |status| status.waiting);
        if waiting == 0 {
            break;
        }
        if waiting < least {
            least = waiting;
            deadline = Instant::now() + WITHIN;
        }
        assert!(Instant::now() < deadline, "{waiting} are not sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    producer.shutdown().await;
}

/// How many repeats the broker has recognised since it was started.
fn repeats(servers: &Servers) -> u64 {
    let answer = servers.raw().call(GET_BROKER_RUNTIME_INFO, &[], b"");
    let table: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let count = table["table"]["dedupRepeats"].as_str().expect("a count");
    count.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_numbered_producers_send_over_kills_is_stored_once() {
    // What waits for its data sync when the broker is killed is stored and was not answered: that is what comes twice.
    let mut servers = Servers::start_with(&[
        "flushDiskType=SYNC_FLUSH",
        "maxHashSlotNum=1000",
        "maxIndexNum=4000",
        // What is remembered is written down now and then, and starts begin within the log.
        "dedupSnapshotBytes=65536",
    ]);
    servers.raw().create_topic("numbered", 1);
    let directory = tempfile::tempdir().expect("a directory");
    let spooling = patient(&servers, "delivers")
        .timeout(Duration::from_millis(500))
        .fault_policy(FaultPolicy::Failfast)
        .spool(SpoolSettings::at(directory.path().join("spool")));
    let start = async |builder: ProducerBuilder| builder.start().await.expect("it starts");
    let load = Load::default();
    let tasks = [
        tokio::spawn(send(start(patient(&servers, "sends")).await, load.clone())),
        tokio::spawn(send_batches(
            start(patient(&servers, "batches")).await,
            load.clone(),
        )),
        tokio::spawn(deliver(start(spooling).await, load.clone())),
    ];
    let (mut kills, mut repeated) = (0, 0);
    while kills < KILLS || repeated == 0 {
        assert!(kills < KILLS_MAX, "no repeat was recognised");
        load.wait_for(200).await;
        servers.kill();
        servers.start_again();
        kills += 1;
        load.wait_for(200).await;
        repeated += repeats(&servers);
    }
    load.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("the producer is well");
    }
    assert!(!directory.path().join("spool.refused").exists());
    // With what tells which side is at fault: the same number in both is the broker's.
    let mut times: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in stored_messages(&servers, "numbered") {
        times
            .entry(message.body)
            .or_default()
            .push(message.properties);
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| times.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
    assert_eq!(times.len(), load.done.load(Ordering::Relaxed));
}
