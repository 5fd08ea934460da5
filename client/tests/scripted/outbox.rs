//! Messages that are part of a transaction in SQLite.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agena_client::{
    Message, Outbox, OutboxMessage, OutboxStore, Producer, ProducerBuilder, SendSettings,
    SqliteOutbox,
};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use rusqlite::Connection;

use crate::servers::{Scripted, Told, body, eventually, property, refusal};

const SEND: RequestCode = RequestCode::SendMessageV2;

fn builder(names: &Scripted) -> ProducerBuilder {
    let settings = SendSettings {
        retries: 0,
        ..SendSettings::default()
    };
    let builder = Producer::builder("g").name_servers(&names.address);
    builder.settings(settings)
}

fn record(path: &Path, bodies: &[&str]) {
    let mut database = Connection::open(path).unwrap();
    database.busy_timeout(Duration::from_secs(5)).unwrap();
    let transaction = database.transaction().unwrap();
    for body in bodies {
        let message = Message::new("T", (*body).to_owned()).with_sharding_key("k");
        SqliteOutbox::record(&transaction, &message).unwrap();
    }
    transaction.commit().unwrap();
}

/// Refuses everything until it is well, then everything that says "bad".
async fn broker() -> (Scripted, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let broker = Scripted::start(move |request| {
        if request.code != SEND.number() {
            return Told::Usual;
        }
        match (is_well.load(Ordering::SeqCst), body(request).as_str()) {
            (false, _) => Told::from(refusal(ResponseCode::ServiceNotAvailable)),
            (true, "bad") => Told::from(refusal(ResponseCode::MessageIllegal)),
            (true, _) => Told::Usual,
        }
    })
    .await;
    (broker, well)
}

#[tokio::test]
async fn recorded_messages_are_sent_in_order_when_a_broker_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (broker, well) = broker().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 4).await;
    let store = SqliteOutbox::open(&path).unwrap();
    record(&path, &["0", "1"]);
    let producer = builder(&names).start().await.unwrap();
    let outbox = Outbox::start(&producer, store);
    record(&path, &["bad", "2"]);
    outbox.wake();
    eventually("the first is tried", || broker.asked(SEND).len() >= 2).await;
    let before: Vec<_> = broker.asked(SEND);
    assert!(before.iter().all(|send| body(send) == "0"));
    well.store(true, Ordering::SeqCst);
    let bodies = || broker.asked(SEND).iter().map(body).collect::<Vec<_>>();
    eventually("all are tried", || bodies().last().unwrap() == "2").await;
    let mut once = bodies();
    once.dedup();
    assert_eq!(once, ["0", "1", "bad", "2"]);
    outbox.shutdown().await;
    producer.shutdown().await;
    assert_eq!(SqliteOutbox::open(&path).unwrap().counts(), Ok((0, 1)));
}

/// Its first note of a message that was sent gets lost, as when the process dies in between.
struct Forgetful {
    store: SqliteOutbox,
    forgot: AtomicBool,
}

impl OutboxStore for Forgetful {
    fn waiting(&self, count: usize) -> Result<Vec<OutboxMessage>, String> {
        self.store.waiting(count)
    }

    fn sent(&self, number: i64) -> Result<(), String> {
        if !self.forgot.swap(true, Ordering::SeqCst) {
            return Err("as told".to_owned());
        }
        self.store.sent(number)
    }

    fn refused(&self, number: i64, reason: &str) -> Result<(), String> {
        self.store.refused(number, reason)
    }
}

#[tokio::test]
async fn a_message_that_is_sent_twice_has_one_number_id_and_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (one, two) = (Scripted::usual().await, Scripted::usual().await);
    let brokers = [("a", one.address.as_str()), ("b", two.address.as_str())];
    let names = Scripted::name_server("T", &brokers, 4).await;
    let store = Forgetful {
        store: SqliteOutbox::open(&path).unwrap(),
        forgot: AtomicBool::new(false),
    };
    record(&path, &["0", "1"]);
    let producer = builder(&names).start().await.unwrap();
    let outbox = Outbox::start(&producer, store);
    let sends = || [one.asked(SEND), two.asked(SEND)].concat();
    eventually("three sends", || sends().len() == 3).await;
    let first: Vec<_> = sends()
        .into_iter()
        .filter(|send| body(send) == "0")
        .collect();
    assert_eq!(first.len(), 2);
    for name in ["AGENA_PRODUCER_ID", "AGENA_SEQUENCE", "UNIQ_KEY"] {
        assert!(property(&first[0], name).is_some());
        assert_eq!(property(&first[0], name), property(&first[1], name));
    }
    assert_eq!(first[0].ext.get("e"), first[1].ext.get("e"));
    assert!(one.asked(SEND).is_empty() || two.asked(SEND).is_empty());
    outbox.shutdown().await;
    producer.shutdown().await;
}
