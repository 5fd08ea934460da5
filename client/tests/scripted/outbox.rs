//! Messages that are part of a transaction in SQLite.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agena_client::{
    ClientError, Message, Outbox, OutboxMessage, OutboxStatus, OutboxStore, Producer,
    ProducerBuilder, SendInterceptor, SendResult, SendSettings, SqliteOutbox,
};
use agena_protocol::command::Command;
use agena_protocol::headers::send::SendMessageResponse;
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
    let message = |body: &&str| Message::new("T", (*body).to_owned()).with_sharding_key("k");
    let messages: Vec<_> = bodies.iter().map(message).collect();
    record_all(path, &messages);
}

fn record_all(path: &Path, messages: &[Message]) {
    let mut database = Connection::open(path).unwrap();
    database.busy_timeout(Duration::from_secs(5)).unwrap();
    let transaction = database.transaction().unwrap();
    for message in messages {
        SqliteOutbox::record(&transaction, message).unwrap();
    }
    transaction.commit().unwrap();
}

/// Messages that wait, and those that were set aside.
fn counts(path: &Path) -> (u64, u64) {
    let status = SqliteOutbox::open(path).unwrap().status().unwrap();
    (status.waiting, status.refused)
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
    let mut tried = bodies();
    // While nothing is well the first is tried again and again, and no other.
    let refused = tried.iter().take_while(|body| *body == "0").count();
    assert_eq!(tried.split_off(refused), ["1", "bad", "2"]);
    outbox.shutdown().await;
    producer.shutdown().await;
    assert_eq!(counts(&path), (0, 1));
}

/// Some calls to note that a message was sent fail, as on a full disk.
struct Forgetful {
    store: SqliteOutbox,
    fail: Range<usize>,
    calls: AtomicUsize,
}

impl Forgetful {
    fn open(path: &Path, fail: Range<usize>) -> Self {
        Self {
            store: SqliteOutbox::open(path).unwrap(),
            fail,
            calls: AtomicUsize::new(0),
        }
    }
}

impl OutboxStore for Forgetful {
    fn waiting(&self, count: usize, without: &[String]) -> Result<Vec<OutboxMessage>, String> {
        self.store.waiting(count, without)
    }

    fn sent(&self, number: i64) -> Result<(), String> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.fail.contains(&call) {
            true => Err("as told".to_owned()),
            false => self.store.sent(number),
        }
    }

    fn refused(&self, number: i64, reason: &str) -> Result<(), String> {
        self.store.refused(number, reason)
    }

    fn status(&self) -> Result<OutboxStatus, String> {
        self.store.status()
    }
}

#[tokio::test]
async fn what_a_broker_has_is_not_sent_again_because_it_cannot_be_noted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 4).await;
    let store = Forgetful::open(&path, 0..3);
    record(&path, &["0", "1"]);
    let producer = builder(&names).start().await.unwrap();
    let outbox = Outbox::start(&producer, store);
    eventually("the last is sent", || {
        broker.asked(SEND).iter().any(|send| body(send) == "1")
    })
    .await;
    outbox.shutdown().await;
    producer.shutdown().await;
    let bodies: Vec<_> = broker.asked(SEND).iter().map(body).collect();
    assert_eq!(bodies, ["0", "1"]);
    assert_eq!(counts(&path), (0, 0));
}

/// The process dies between the answer and its note.
#[tokio::test]
async fn a_message_that_is_sent_twice_has_one_number_id_and_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let (one, two) = (Scripted::usual().await, Scripted::usual().await);
    let brokers = [("a", one.address.as_str()), ("b", two.address.as_str())];
    let names = Scripted::name_server("T", &brokers, 4).await;
    let store = Forgetful::open(&path, 0..usize::MAX);
    let of_application = Message::new("T", "0")
        .with_property("AGENA_PRODUCER_ID", "mine")
        .with_property("AGENA_SEQUENCE", "7");
    record_all(&path, &[of_application]);
    record(&path, &["1"]);
    let producer = builder(&names).start().await.unwrap();
    let sends = || [one.asked(SEND), two.asked(SEND)].concat();
    let of = |text: &str| {
        let sends = sends().into_iter().filter(|send| body(send) == text);
        sends.collect::<Vec<_>>()
    };
    for (sent, store) in [("0", store), ("1", Forgetful::open(&path, 1..usize::MAX))] {
        let outbox = Outbox::start(&producer, store);
        eventually("it is sent", || !of(sent).is_empty()).await;
        drop(outbox);
    }
    let outbox = Outbox::start(&producer, SqliteOutbox::open(&path).unwrap());
    eventually("all are noted", || counts(&path) == (0, 0)).await;
    for text in ["0", "1"] {
        let sends = of(text);
        assert!(sends.len() >= 2, "{text}");
        for name in ["AGENA_PRODUCER_ID", "AGENA_SEQUENCE", "UNIQ_KEY"] {
            assert!(property(&sends[0], name).is_some());
            assert_eq!(property(&sends[0], name), property(&sends[1], name));
        }
        assert_eq!(sends[0].ext.get("e"), sends[1].ext.get("e"));
        let on_one = one.asked(SEND).iter().any(|send| body(send) == text);
        let on_two = two.asked(SEND).iter().any(|send| body(send) == text);
        assert!(on_one != on_two);
    }
    outbox.shutdown().await;
    producer.shutdown().await;
}

/// Counts what it sees before and after.
#[derive(Default)]
struct Counts([AtomicUsize; 2]);

impl SendInterceptor for Counts {
    fn before(&self, _: &mut Message) {
        self.0[0].fetch_add(1, Ordering::SeqCst);
    }

    fn after(&self, _: &Message, _: &Result<SendResult, ClientError>) {
        self.0[1].fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn interceptors_see_what_the_outbox_sends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let store = SqliteOutbox::open(&path).unwrap();
    record(&path, &["0", "1"]);
    let seen = Arc::new(Counts::default());
    let builder = builder(&names).interceptor(Arc::clone(&seen) as _);
    let producer = builder.start().await.unwrap();
    let outbox = Outbox::start(&producer, store);
    eventually("all are sent", || counts(&path) == (0, 0)).await;
    outbox.shutdown().await;
    producer.shutdown().await;
    let seen = seen.0.each_ref().map(|it| it.load(Ordering::SeqCst));
    assert_eq!(seen, [2, 2]);
}

#[tokio::test]
async fn a_topic_that_cannot_be_sent_to_holds_back_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let created = Arc::new(AtomicBool::new(false));
    let is_created = Arc::clone(&created);
    let broker = Scripted::start(move |request| {
        let of_typo = request.code == SEND.number() && request.ext.get("b") == Some("typo");
        if of_typo && !is_created.load(Ordering::SeqCst) {
            return Told::from(refusal(ResponseCode::TopicNotExist));
        }
        Told::Usual
    })
    .await;
    let brokers = [("a", broker.address.as_str())];
    let names = Scripted::name_server_of(&["T", "typo"], &brokers, 1).await;
    let store = SqliteOutbox::open(&path).unwrap();
    // More than one look at the table brings.
    let typos: Vec<_> = (0..100)
        .map(|number| Message::new("typo", format!("t{number}")))
        .collect();
    record_all(&path, &typos);
    record(&path, &["0", "1"]);
    let producer = builder(&names).start().await.unwrap();
    let outbox = Outbox::start(&producer, store);
    let stored = |topic: &str| {
        let sends = broker.asked(SEND).into_iter();
        let sends = sends.filter(|send| send.ext.get("b") == Some(topic));
        sends.collect::<Vec<_>>()
    };
    eventually("the other topic", || stored("T").len() == 2).await;
    assert!(stored("typo").iter().all(|send| body(send) == "t0"));
    created.store(true, Ordering::SeqCst);
    eventually("all are sent", || counts(&path) == (0, 0)).await;
    outbox.shutdown().await;
    producer.shutdown().await;
    let bodies = |topic: &str| stored(topic).iter().map(body).collect::<Vec<_>>();
    assert_eq!(bodies("T"), ["0", "1"]);
    let typos = bodies("typo");
    let refused = typos.iter().take_while(|body| *body == "t0").count();
    let expected: Vec<_> = (1..100).map(|number| format!("t{number}")).collect();
    assert_eq!(typos[refused..], expected);
    // What waited is not too old for a broker that remembers the last numbers of each id.
    let id = |topic: &str| property(&stored(topic)[0], "AGENA_PRODUCER_ID").unwrap();
    assert_ne!(id("T"), id("typo"));
}

/// What the broker says of the n-th send.
async fn saying(say: impl Fn(usize) -> Told + Send + Sync + 'static) -> Scripted {
    let count = AtomicUsize::new(0);
    Scripted::start(move |request| match request.code == SEND.number() {
        true => say(count.fetch_add(1, Ordering::SeqCst)),
        false => Told::Usual,
    })
    .await
}

fn not_flushed(physical_offset: usize) -> Told {
    let mut answer = Command::success().with_header(&SendMessageResponse {
        msg_id: &format!("7F00000100002A9F{physical_offset:016X}"),
        queue_id: 0,
        queue_offset: 0,
        ..SendMessageResponse::default()
    });
    answer.code = ResponseCode::FlushDiskTimeout.number();
    Told::from(answer)
}

/// Sends two messages and gives what the broker got.
async fn relayed(broker: &Scripted) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let store = SqliteOutbox::open(&path).unwrap();
    record(&path, &["0", "1"]);
    let producer = builder(&names).start().await.unwrap();
    let outbox = Outbox::start(&producer, store);
    eventually("all are sent", || counts(&path) == (0, 0)).await;
    outbox.shutdown().await;
    producer.shutdown().await;
    broker.asked(SEND).iter().map(body).collect()
}

#[tokio::test]
async fn a_message_that_is_not_on_disk_yet_is_sent_until_it_is() {
    let broker = saying(|nth| match nth {
        0..3 => not_flushed(100),
        _ => Told::Usual,
    })
    .await;
    assert_eq!(relayed(&broker).await, ["0", "0", "0", "0", "1"]);
}

#[tokio::test]
async fn a_broker_that_stores_again_what_it_has_is_taken_at_its_word() {
    let broker = saying(not_flushed).await;
    assert_eq!(relayed(&broker).await, ["0", "0", "1"]);
}

#[tokio::test]
async fn an_answer_that_does_not_parse_leaves_a_message_in_the_outbox() {
    let broker = saying(|nth| match nth {
        0 => Told::from(Command::success()),
        _ => Told::Usual,
    })
    .await;
    assert_eq!(relayed(&broker).await, ["0", "0", "1"]);
}
