//! Producers that keep messages in a file while their brokers are away.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use agena_client::{
    ClientError, Delivery, FaultPolicy, Message, Producer, ProducerBuilder, ProducerId,
    SendSettings, SpoolSettings,
};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use parking_lot::Mutex;

use crate::servers::{Scripted, Told, body, eventually, property, refusal};

const SEND: RequestCode = RequestCode::SendMessageV2;
const AWAY: u8 = 0;
const SILENT: u8 = 1;
const WELL: u8 = 2;

/// As a broker remembers by default.
const WINDOW: u64 = 1_000;

/// A broker whose state the test decides, the bodies that it took in their order, and under which pair it saw each body
/// while it was silent or well. It refuses numbers that it does not remember any more.
struct Broker {
    server: Scripted,
    state: Arc<AtomicU8>,
    taken: Arc<Mutex<Vec<String>>>,
    pairs: Arc<Mutex<Vec<(String, String)>>>,
}

fn pair(send: &Command) -> Option<String> {
    let id = property(send, "AGENA_PRODUCER_ID")?;
    Some(format!("{id} {}", property(send, "AGENA_SEQUENCE")?))
}

impl Broker {
    async fn start(state: u8) -> Self {
        let state = Arc::new(AtomicU8::new(state));
        let taken: Arc<Mutex<Vec<String>>> = Arc::default();
        let pairs: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let (now, take, see) = (Arc::clone(&state), Arc::clone(&taken), Arc::clone(&pairs));
        let highest = AtomicU64::new(0);
        let server = Scripted::start(move |request| {
            if request.code != SEND.number() {
                return Told::Usual;
            }
            let state = now.load(Ordering::SeqCst);
            // The others of the test's topics are there for the window alone.
            if state == AWAY && body(request) != "other" {
                return Told::from(refusal(ResponseCode::ServiceNotAvailable));
            }
            if let Some(pair) = pair(request) {
                see.lock().push((body(request), pair));
            }
            let sequence = property(request, "AGENA_SEQUENCE").map(|it| it.parse::<u64>().unwrap());
            let newest = highest.fetch_max(sequence.unwrap_or(0), Ordering::SeqCst);
            let is_old = sequence.is_some_and(|it| it + WINDOW <= newest);
            match state {
                SILENT => Told::Silence,
                _ if is_old || body(request) == "bad" => {
                    Told::from(refusal(ResponseCode::MessageIllegal))
                }
                _ => {
                    take.lock().push(body(request));
                    Told::Usual
                }
            }
        })
        .await;
        Self {
            server,
            state,
            taken,
            pairs,
        }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().clone()
    }
}

fn builder(names: &str, path: &Path) -> ProducerBuilder {
    Producer::builder("g")
        .name_servers(names)
        .fault_policy(FaultPolicy::Failfast)
        .spool(SpoolSettings::at(path))
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

async fn deliver(producer: &Producer, text: &str) -> Delivery {
    let message = Message::new("T", text.to_owned()).with_sharding_key("k");
    producer.deliver(message).await.unwrap()
}

#[tokio::test]
async fn what_is_spooled_goes_first_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(AWAY).await;
    let names = Scripted::name_server("T", &[("a", &broker.server.address)], 4).await;
    let path = directory.path().join("spool");
    let producer = builder(&names.address, &path).start().await.unwrap();
    for number in 0..20 {
        let delivery = deliver(&producer, &number.to_string()).await;
        assert!(matches!(delivery, Delivery::Spooled { .. }), "{delivery:?}");
    }
    assert_eq!(producer.spool_status().await.unwrap().unwrap().waiting, 20);
    broker.set(WELL);
    for number in 20..60 {
        deliver(&producer, &number.to_string()).await;
    }
    eventually("all are sent", || broker.taken().len() == 60).await;
    assert_eq!(broker.taken(), numbers(60));
    // Empty again, so the next one goes straight to the broker.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while producer.spool_status().await.unwrap().unwrap().waiting > 0 {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    let delivery = deliver(&producer, "60").await;
    assert!(delivery.stored().is_some(), "{delivery:?}");
    producer.shutdown().await;
}

#[tokio::test]
async fn a_second_owner_is_kept_out_and_a_full_spool_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(AWAY).await;
    let names = Scripted::name_server("T", &[("a", &broker.server.address)], 1).await;
    let settings = SpoolSettings {
        bytes_max: 2000,
        ..SpoolSettings::at(directory.path().join("spool"))
    };
    let start = || {
        let builder = Producer::builder("g").name_servers(&names.address);
        builder.spool(settings.clone()).start()
    };
    let producer = start().await.unwrap();
    assert!(matches!(start().await, Err(ClientError::SpoolInUse { .. })));
    let mut taken = 0;
    let error = loop {
        match producer.deliver(Message::new("T", "x".repeat(300))).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!((2..6).contains(&taken), "{taken}");
    assert!(
        matches!(error, ClientError::SpoolFull { max: 2000, .. }),
        "{error}"
    );
    producer.shutdown().await;
    assert!(start().await.is_ok(), "the lock ends with its owner");
}

#[tokio::test]
async fn what_no_broker_takes_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(AWAY).await;
    let names = Scripted::name_server("T", &[("a", &broker.server.address)], 1).await;
    let path = directory.path().join("spool");
    let producer = builder(&names.address, &path).start().await.unwrap();
    for text in ["0", "bad", "1"] {
        deliver(&producer, text).await;
    }
    broker.set(WELL);
    eventually("the good ones are sent", || broker.taken().len() == 2).await;
    assert_eq!(broker.taken(), numbers(2));
    let aside = std::fs::read(directory.path().join("spool.refused")).unwrap();
    assert!(aside.windows(3).any(|bytes| bytes == b"bad"));
    producer.shutdown().await;
}

#[tokio::test]
async fn a_numbered_message_without_an_answer_is_sent_again_where_it_may_be() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (Broker::start(SILENT).await, Broker::start(SILENT).await);
    let brokers = [
        ("a", a.server.address.as_str()),
        ("b", b.server.address.as_str()),
    ];
    let names = Scripted::name_server("T", &brokers, 2).await;
    let path = directory.path().join("spool");
    let start = || {
        let settings = SendSettings {
            timeout: Duration::from_millis(100),
            deduplicate: Some(ProducerId::new("spooling-1").unwrap()),
            ..SendSettings::default()
        };
        let builder = builder(&names.address, &path).settings(settings);
        builder.spool(SpoolSettings::at(&path)).start()
    };
    let producer = start().await.unwrap();
    for number in 0..4 {
        let message = Message::new("T", number.to_string());
        producer.deliver(message).await.unwrap();
    }
    drop(producer);
    // What comes back is another process, as far as the spool can tell.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let producer = loop {
        match start().await {
            Ok(producer) => break producer,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    a.set(WELL);
    b.set(WELL);
    eventually("all are sent", || a.taken().len() + b.taken().len() == 4).await;
    let places = |text: &str| {
        let mut places: Vec<_> = [&a, &b]
            .into_iter()
            .flat_map(|broker| broker.server.asked(SEND))
            .filter(|send| body(send) == text)
            .map(|send| {
                let sequence = property(&send, "AGENA_SEQUENCE").unwrap();
                let broker = send.ext.get("n").map(str::to_owned);
                (broker, send.ext.get("e").unwrap().to_owned(), sequence)
            })
            .collect();
        places.dedup();
        places.len()
    };
    // Only the first was sent before it was spooled; the others went behind it.
    for text in numbers(4) {
        assert_eq!(places(&text), 1, "{text}");
    }
    producer.shutdown().await;
}

fn numbered(names: &str, path: &Path, id: ProducerId) -> ProducerBuilder {
    builder(names, path).settings(SendSettings {
        timeout: Duration::from_millis(300),
        deduplicate: Some(id),
        ..SendSettings::default()
    })
}

/// What waits while its producer sends thousands of others is not older than what its broker remembers when it leaves.
#[tokio::test]
async fn a_message_that_waited_for_long_has_a_number_that_its_broker_still_takes() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(AWAY).await;
    let brokers = [("a", broker.server.address.as_str())];
    let names = Scripted::name_server_of(&["T", "U"], &brokers, 1).await;
    let path = directory.path().join("spool");
    let id = ProducerId::new("spooling-2").unwrap();
    let producer = numbered(&names.address, &path, id).start().await.unwrap();
    for text in ["0", "1"] {
        let delivery = deliver(&producer, text).await;
        assert!(matches!(delivery, Delivery::Spooled { .. }), "{delivery:?}");
    }
    for _ in 0..WINDOW + 100 {
        producer.send(Message::new("U", "other")).await.unwrap();
    }
    broker.set(WELL);
    eventually("both are sent", || {
        broker.taken().iter().filter(|it| *it != "other").count() == 2
    })
    .await;
    assert!(!directory.path().join("spool.refused").exists());
    producer.shutdown().await;
}

#[tokio::test]
async fn a_message_that_left_the_spool_without_an_answer_keeps_its_number_over_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(AWAY).await;
    let names = Scripted::name_server("T", &[("a", &broker.server.address)], 4).await;
    let path = directory.path().join("spool");
    // An id of its own for each life: what is repeated is repeated under the old one.
    let start = || numbered(&names.address, &path, ProducerId::random()).start();
    let producer = start().await.unwrap();
    deliver(&producer, "0").await;
    broker.set(SILENT);
    let seen = || broker.pairs.lock().clone();
    eventually("it left twice in one life", || seen().len() >= 2).await;
    drop(producer);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let producer = loop {
        match start().await {
            Ok(producer) => break producer,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let before = seen().len();
    eventually("it left again", || seen().len() > before).await;
    broker.set(WELL);
    eventually("it is taken", || !broker.taken().is_empty()).await;
    let mut pairs = seen();
    pairs.dedup();
    assert_eq!(pairs.len(), 1, "{pairs:?}");
    producer.shutdown().await;
}

const CHILD: &str = "AGENA_TEST_SPOOL_CHILD";

/// Not a test of its own: what the process does that the next test kills.
#[tokio::test]
async fn child_process() {
    let Ok(told) = std::env::var(CHILD) else {
        return;
    };
    let (names, path) = told.split_once(' ').unwrap();
    let producer = builder(names, Path::new(path)).start().await.unwrap();
    for number in 0.. {
        deliver(&producer, &number.to_string()).await;
        println!("spooled {number}");
    }
}

#[tokio::test]
async fn what_was_answered_as_spooled_outlives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(AWAY).await;
    let names = Scripted::name_server("T", &[("a", &broker.server.address)], 4).await;
    let path = directory.path().join("spool");
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "spooling::child_process", "--nocapture"])
        .env(CHILD, format!("{} {}", names.address, path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let answered = tokio::task::spawn_blocking(move || {
        let mut answered = 0;
        for line in output.lines().map_while(Result::ok) {
            if line.ends_with(&format!("spooled {answered}")) {
                answered += 1;
            }
            if answered == 30 {
                break;
            }
        }
        // On Unix this is kill -9.
        child.kill().unwrap();
        child.wait().unwrap();
        answered
    })
    .await
    .unwrap();
    assert_eq!(answered, 30);
    broker.set(WELL);
    let producer = builder(&names.address, &path).start().await.unwrap();
    eventually("all are sent", || broker.taken().len() >= answered).await;
    let taken = broker.taken();
    assert_eq!(taken, numbers(taken.len()));
    producer.shutdown().await;
}
