//! Half messages, what becomes of them, and brokers that ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agena_client::{
    ClientConfig, ClientError, Instance, Message, Producer, ProducerBuilder, ReceivedMessage,
    Resolution, SendInterceptor, SendResult, TransactionListener,
};
use agena_protocol::bodies::heartbeat::HeartbeatData;
use agena_protocol::command::Command;
use agena_protocol::compression;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::send::SendMessageResponse;
use agena_protocol::headers::transaction::CheckTransactionStateRequest;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordEncoder, RecordFields};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::sys_flag::{self, Codec};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::servers::{Scripted, Told, body, eventually, property, refusal, stored};

const END: RequestCode = RequestCode::EndTransaction;

/// Commits what says "commit", rolls back what says "rollback"; what says "wait" is held until the gate lets it through.
#[derive(Clone)]
struct AsTold {
    executed: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    running_max: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Default for AsTold {
    fn default() -> Self {
        Self {
            executed: Arc::default(),
            checks: Arc::default(),
            running: Arc::default(),
            running_max: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        }
    }
}

impl AsTold {
    fn open_gate(&self) {
        self.gate.add_permits(100_000);
    }
}

fn told(body: &[u8]) -> Resolution {
    match body {
        [b'r', ..] => Resolution::Rollback,
        [b'u', ..] => Resolution::Unknown,
        _ => Resolution::Commit,
    }
}

impl TransactionListener for AsTold {
    async fn execute(&self, message: &Message, _: &str) -> Resolution {
        self.executed.fetch_add(1, Ordering::SeqCst);
        told(message.body())
    }

    async fn check(&self, message: &ReceivedMessage) -> Resolution {
        self.checks.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_max.fetch_max(running, Ordering::SeqCst);
        if message.body.starts_with(b"wait") {
            self.gate.acquire().await.unwrap().forget();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        told(&message.body)
    }
}

/// Panics when it is called, before there is a future.
struct Panics;

impl TransactionListener for Panics {
    fn execute(&self, _: &Message, _: &str) -> impl Future<Output = Resolution> + Send {
        assert!(!self.is_called(), "the listener's own fault");
        std::future::ready(Resolution::Commit)
    }

    fn check(&self, _: &ReceivedMessage) -> impl Future<Output = Resolution> + Send {
        assert!(!self.is_called(), "the listener's own fault");
        std::future::ready(Resolution::Commit)
    }
}

impl Panics {
    fn is_called(&self) -> bool {
        true
    }
}

fn builder(names: &Scripted) -> ProducerBuilder {
    Producer::builder("g")
        .name_servers(&names.address)
        .topics(["T"])
}

async fn is_known(broker: &Scripted) {
    eventually("the broker knows the producer", || {
        !broker.asked(RequestCode::HeartBeat).is_empty()
    })
    .await;
}

/// The question for a half message that now is number `place` of its queue.
fn question(id: &str, place: u64, body: &[u8], sys_flag: i32) -> Command {
    let host = SocketAddr::from(([127, 0, 0, 1], 10911));
    let mut properties = PropertiesBuf::new();
    properties.set(properties::PGROUP, "g");
    properties.set(properties::UNIQ_KEY, id);
    let fields = RecordFields {
        topic: "T",
        queue_id: QueueId::new(0),
        flag: 0,
        sys_flag,
        born_timestamp: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: &properties.encode(),
    };
    let mut encoder = RecordEncoder::new(fields, false).unwrap();
    let mut record = vec![0; encoder.total_bytes()];
    let physical = PhysicalOffset::new(place * 1000);
    encoder.write(&mut record, QueueOffset::new(place), physical, 2);
    Command::request(RequestCode::CheckTransactionState)
        .with_header(&CheckTransactionStateRequest {
            topic: Some("T"),
            tran_state_table_offset: i64::try_from(place).unwrap(),
            commit_log_offset: physical.wire(),
            msg_id: Some(id),
            transaction_id: Some(id),
            offset_msg_id: None,
            bname: Some("a"),
        })
        .with_body(record)
        .one_way()
}

fn field<'c>(end: &'c Command, name: &str) -> &'c str {
    end.ext.get(name).unwrap_or_default()
}

/// How often each transaction was answered, and how.
fn answers(broker: &Scripted) -> BTreeMap<String, Vec<String>> {
    let mut answers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for end in broker.asked(END) {
        assert_eq!(field(&end, "producerGroup"), "g");
        let of_transaction = answers.entry(field(&end, "msgId").to_owned()).or_default();
        of_transaction.push(field(&end, "commitOrRollback").to_owned());
    }
    answers
}

const COMMIT: &str = "8";
const UNKNOWN: &str = "0";

#[tokio::test]
async fn checks_that_come_at_once_are_all_answered_some_after_others() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let listener = AsTold::default();
    let producer = builder(&names)
        .start_transactional(listener.clone())
        .await
        .unwrap();
    is_known(&broker).await;
    for number in 0..1_000 {
        broker.tell(&question(&format!("id-{number}"), number, b"wait", 0));
    }
    eventually("as many run as may", || {
        listener.running.load(Ordering::SeqCst) == 64
    })
    .await;
    listener.open_gate();
    eventually("all are answered", || answers(&broker).len() == 1_000).await;
    assert!(answers(&broker).values().all(|it| *it == [COMMIT]));
    assert_eq!(listener.running_max.load(Ordering::SeqCst), 64);
    producer.shutdown().await;
}

#[tokio::test]
async fn a_transaction_is_checked_once_at_a_time_and_answered_at_its_latest_place() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let listener = AsTold::default();
    let producer = builder(&names)
        .start_transactional(listener.clone())
        .await
        .unwrap();
    is_known(&broker).await;
    for place in 0..100 {
        broker.tell(&question("slow", place, b"wait", 0));
    }
    // Read behind them over the same connection.
    broker.tell(&question("quick", 100, b"commit", 0));
    eventually("another is answered", || {
        answers(&broker).contains_key("quick")
    })
    .await;
    assert_eq!(listener.checks.load(Ordering::SeqCst), 2);
    listener.open_gate();
    eventually("the slow one too", || answers(&broker).len() == 2).await;
    let ends = broker.asked(END);
    let slow = ends.iter().find(|end| field(end, "msgId") == "slow");
    assert_eq!(field(slow.unwrap(), "tranStateTableOffset"), "99");
    assert_eq!(field(slow.unwrap(), "commitLogOffset"), "99000");
    broker.tell(&question("slow", 101, b"wait", 0));
    eventually("it may be asked for again", || broker.asked(END).len() == 3).await;
    producer.shutdown().await;
}

#[tokio::test]
async fn a_check_that_hangs_counts_as_unknown_and_makes_room() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let listener = AsTold::default();
    let producer = builder(&names)
        .check_timeout(Duration::from_millis(50))
        .start_transactional(listener.clone())
        .await
        .unwrap();
    is_known(&broker).await;
    for number in 0..64 {
        broker.tell(&question(&format!("id-{number}"), number, b"wait", 0));
    }
    broker.tell(&question("quick", 64, b"commit", 0));
    eventually("all are answered", || answers(&broker).len() == 65).await;
    let mut answers = answers(&broker);
    assert_eq!(answers.remove("quick").unwrap(), [COMMIT]);
    assert!(answers.values().all(|it| *it == [UNKNOWN]));
    producer.shutdown().await;
}

#[tokio::test]
async fn a_listener_that_panics_when_called_does_not_know() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let producer = builder(&names).start_transactional(Panics).await.unwrap();
    let sent = producer.send(Message::new("T", "x")).await.unwrap();
    assert_eq!(sent.resolution, Resolution::Unknown);
    is_known(&broker).await;
    broker.tell(&question("asked", 0, b"x", 0));
    eventually("the check is answered", || {
        answers(&broker).contains_key("asked")
    })
    .await;
    assert_eq!(answers(&broker)["asked"], [UNKNOWN]);
    producer.shutdown().await;
}

/// Brokers ask until they hear that a producer goes, and count each question.
#[tokio::test]
async fn a_producer_that_goes_says_so_first_and_answers_what_comes_meanwhile() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let listener = AsTold::default();
    let instance = Instance::start(ClientConfig::new(&names.address)).unwrap();
    let producer = builder(&names)
        .instance(&instance)
        .start_transactional(listener.clone())
        .await
        .unwrap();
    is_known(&broker).await;
    broker.tell(&question("slow", 0, b"wait", 0));
    eventually("a check runs", || {
        listener.running.load(Ordering::SeqCst) == 1
    })
    .await;
    let shutdown = tokio::spawn(producer.shutdown());
    eventually("it says that it goes", || {
        !broker.asked(RequestCode::UnregisterClient).is_empty()
    })
    .await;
    assert!(!shutdown.is_finished(), "it waits for the check");
    listener.open_gate();
    shutdown.await.unwrap();
    eventually("the check is answered", || {
        answers(&broker).contains_key("slow")
    })
    .await;
    assert_eq!(answers(&broker)["slow"], [COMMIT]);
    // Its connection is open still, and its group free.
    let next = builder(&names).instance(&instance).start().await.unwrap();
    next.shutdown().await;
    instance.shutdown().await;
}

#[tokio::test]
async fn a_check_that_crosses_the_farewell_is_answered() {
    let asker: Arc<OnceLock<Arc<Scripted>>> = Arc::default();
    let ask = Arc::clone(&asker);
    // In front of its answer to the farewell.
    let broker = Scripted::start(move |request| {
        if request.code == RequestCode::UnregisterClient.number() {
            ask.get().unwrap().tell(&question("late", 0, b"commit", 0));
        }
        Told::Usual
    })
    .await;
    let broker = Arc::new(broker);
    assert!(asker.set(Arc::clone(&broker)).is_ok());
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let producer = builder(&names)
        .start_transactional(AsTold::default())
        .await
        .unwrap();
    is_known(&broker).await;
    producer.shutdown().await;
    eventually("the check is answered", || {
        answers(&broker).contains_key("late")
    })
    .await;
    assert_eq!(answers(&broker)["late"], [COMMIT]);
}

fn groups(heartbeat: &Command) -> Vec<String> {
    let data: HeartbeatData = fastjson::from_slice(&heartbeat.body).unwrap();
    let producers = data.producer_data_set.into_iter();
    producers.map(|producer| producer.group_name).collect()
}

#[tokio::test]
async fn a_producer_that_joins_an_instance_is_known_at_once() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let instance = Instance::start(ClientConfig::new(&names.address)).unwrap();
    let on_instance = |group| {
        let builder = Producer::builder(group).instance(&instance);
        builder.topics(["T"])
    };
    let first = on_instance("first").start().await.unwrap();
    is_known(&broker).await;
    let second = on_instance("second").start().await.unwrap();
    eventually("the broker knows both", || {
        let heartbeats = broker.asked(RequestCode::HeartBeat);
        let mut groups = heartbeats.iter().flat_map(groups);
        groups.any(|group| group == "second")
    })
    .await;
    second.shutdown().await;
    first.shutdown().await;
    instance.shutdown().await;
}

/// As when a whole site starts anew, the name servers last: halves of the process before must not wait for a first send.
#[tokio::test]
async fn a_topic_that_is_not_there_at_the_start_is_looked_up_until_it_is() {
    let broker = Scripted::usual().await;
    let real = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let route = {
        let instance = Instance::start(ClientConfig::new(&real.address)).unwrap();
        let route = instance.fetch_route("T").await.unwrap();
        instance.shutdown().await;
        route.encode(KeyStyle::Quoted)
    };
    let asked = AtomicUsize::new(0);
    let names = Scripted::start(move |request| {
        let of_topic = request.ext.get("topic") == Some("T");
        // Nothing is known the first time.
        let known = of_topic && asked.fetch_add(1, Ordering::SeqCst) > 0;
        Told::from(match known {
            true => Command::success().with_body(route.clone()),
            false => refusal(ResponseCode::TopicNotExist),
        })
    })
    .await;
    let config = ClientConfig {
        route_poll_interval: Duration::from_millis(20),
        ..ClientConfig::new(&names.address)
    };
    let producer = Producer::builder("g")
        .config(config)
        .topics(["T"])
        .start_transactional(AsTold::default())
        .await
        .unwrap();
    is_known(&broker).await;
    broker.tell(&question("earlier", 0, b"commit", 0));
    eventually("a half of an earlier process", || {
        answers(&broker).contains_key("earlier")
    })
    .await;
    producer.shutdown().await;
}

/// Adds a property, and notes what comes of the messages.
#[derive(Default)]
struct Signs(Mutex<Vec<(String, bool)>>);

impl SendInterceptor for Signs {
    fn before(&self, message: &mut Message) {
        *message = message.clone().with_property("signed", "yes");
    }

    fn after(&self, message: &Message, result: &Result<SendResult, ClientError>) {
        let body = String::from_utf8_lossy(message.body()).into_owned();
        self.0.lock().push((body, result.is_ok()));
    }
}

#[tokio::test]
async fn interceptors_and_traces_see_half_messages() {
    let broker = Scripted::usual().await;
    let brokers = [("a", broker.address.as_str())];
    let names = Scripted::name_server_of(&["T", "RMQ_SYS_TRACE_TOPIC"], &brokers, 1).await;
    let signs = Arc::new(Signs::default());
    let producer = builder(&names)
        .interceptor(Arc::clone(&signs) as _)
        .trace(true)
        .start_transactional(AsTold::default())
        .await
        .unwrap();
    producer.send(Message::new("T", "half")).await.unwrap();
    let batch = vec![Message::new("T", "b1"), Message::new("T", "b2")];
    producer.producer().send_batch(batch).await.unwrap();
    let one_way = Message::new("T", "one-way");
    producer.producer().send_one_way(one_way).await.unwrap();
    let sends = || broker.asked(RequestCode::SendMessageV2);
    let of = |text: &str| sends().into_iter().find(|send| body(send) == text);
    eventually("the last", || of("one-way").is_some()).await;
    producer.shutdown().await;
    for text in ["half", "one-way"] {
        let signed = property(&of(text).unwrap(), "signed");
        assert_eq!(signed.as_deref(), Some("yes"), "{text}");
    }
    let batch = broker.asked(RequestCode::SendBatchMessage);
    let signatures = body(&batch[0]).matches("signed\u{1}yes").count();
    assert_eq!(signatures, 2);
    let expected = ["half", "b1", "b2"].map(|body| (body.to_owned(), true));
    assert_eq!(*signs.0.lock(), expected);
    let traces = sends().into_iter().map(|send| body(&send));
    // The number of half messages among the original's kinds stands in front of the client's address.
    let trace = traces
        .filter(|text| text.starts_with("Pub\u{1}"))
        .collect::<Vec<_>>();
    let kinds = trace.iter().map(|text| text.split('\u{1}').nth(11));
    assert_eq!(kinds.collect::<Vec<_>>(), [Some("1")]);
}

/// Answers sends from a place of its own.
async fn storing_at(physical_offset: u64, queue_offset: i64) -> Scripted {
    Scripted::start(move |request| {
        if request.code != RequestCode::SendMessageV2.number() {
            return Told::Usual;
        }
        let answer = Command::success().with_header(&SendMessageResponse {
            msg_id: &format!("7F00000100002A9F{physical_offset:016X}"),
            queue_id: 0,
            queue_offset,
            transaction_id: Some("the-transaction"),
            ..SendMessageResponse::default()
        });
        Told::from(answer)
    })
    .await
}

#[tokio::test]
async fn an_outcome_is_told_where_the_half_message_is() {
    let (a, b) = (storing_at(0xA0, 1).await, storing_at(0xB0, 2).await);
    let brokers = [("a", a.address.as_str()), ("b", b.address.as_str())];
    let names = Scripted::name_server("T", &brokers, 1).await;
    let listener = AsTold::default();
    let producer = builder(&names)
        .start_transactional(listener.clone())
        .await
        .unwrap();
    for number in 0..4 {
        let text = if number < 2 { "commit" } else { "rollback" };
        let sent = producer.send(Message::new("T", text)).await.unwrap();
        assert_eq!(sent.resolution, told(text.as_bytes()));
    }
    producer.shutdown().await;
    assert_eq!(listener.executed.load(Ordering::SeqCst), 4);
    for (name, broker, place, offset) in [("a", &a, 1, 0xA0), ("b", &b, 2, 0xB0)] {
        let sends = broker.asked(RequestCode::SendMessageV2);
        let ends = broker.asked(END);
        // In turn, so each has one that is committed and one that is not.
        assert_eq!((sends.len(), ends.len()), (2, 2));
        for (send, end) in sends.iter().zip(&ends) {
            let outcome = if body(send) == "commit" { "8" } else { "12" };
            assert_eq!(field(end, "commitOrRollback"), outcome);
            assert_eq!(field(end, "tranStateTableOffset"), place.to_string());
            assert_eq!(field(end, "commitLogOffset"), offset.to_string());
            assert_eq!(field(end, "fromTransactionCheck"), "false");
            assert_eq!(field(end, "producerGroup"), "g");
            assert_eq!(field(end, "transactionId"), "the-transaction");
            assert_eq!(field(end, "msgId"), property(send, "UNIQ_KEY").unwrap());
            assert_eq!(field(end, "bname"), name);
            assert!(end.is_one_way());
        }
    }
}

#[tokio::test]
async fn a_half_message_says_so_and_is_not_delayed() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let producer = builder(&names)
        .start_transactional(AsTold::default())
        .await
        .unwrap();
    let delayed = Message::new("T", "commit").with_delay_level(3);
    producer.send(delayed.clone()).await.unwrap();
    producer.producer().send(delayed).await.unwrap();
    producer.shutdown().await;
    let sends = broker.asked(RequestCode::SendMessageV2);
    let of = |name: &str| [property(&sends[0], name), property(&sends[1], name)];
    assert_eq!(of("TRAN_MSG"), [Some("true".to_owned()), None]);
    assert_eq!(of("PGROUP"), [Some("g".to_owned()), None]);
    assert_eq!(of("DELAY"), [None, Some("3".to_owned())]);
    // The system flag.
    assert_eq!([field(&sends[0], "f"), field(&sends[1], "f")], ["4", "0"]);
}

#[tokio::test]
async fn a_half_message_that_may_get_lost_is_rolled_back_and_nothing_runs() {
    for code in [
        ResponseCode::FlushDiskTimeout,
        ResponseCode::FlushSlaveTimeout,
        ResponseCode::SlaveNotAvailable,
    ] {
        let broker = Scripted::start(move |request| {
            if request.code != RequestCode::SendMessageV2.number() {
                return Told::Usual;
            }
            let mut answer = stored(7);
            answer.code = code.number();
            Told::from(answer)
        })
        .await;
        let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
        let listener = AsTold::default();
        let producer = builder(&names)
            .start_transactional(listener.clone())
            .await
            .unwrap();
        let sent = producer.send(Message::new("T", "commit")).await.unwrap();
        assert_eq!(sent.resolution, Resolution::Rollback);
        producer.shutdown().await;
        assert_eq!(listener.executed.load(Ordering::SeqCst), 0);
        let ends = broker.asked(END);
        assert_eq!(ends.len(), 1);
        assert_eq!(field(&ends[0], "commitOrRollback"), "12");
    }
}

#[tokio::test]
async fn a_half_message_that_is_refused_runs_nothing_and_tells_nothing() {
    let broker =
        Scripted::start(
            |request| match request.code == RequestCode::SendMessageV2.number() {
                true => Told::from(refusal(ResponseCode::MessageIllegal)),
                false => Told::Usual,
            },
        )
        .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let listener = AsTold::default();
    let producer = builder(&names)
        .start_transactional(listener.clone())
        .await
        .unwrap();
    assert!(producer.send(Message::new("T", "commit")).await.is_err());
    producer.shutdown().await;
    assert_eq!(listener.executed.load(Ordering::SeqCst), 0);
    assert!(broker.asked(END).is_empty());
}

#[tokio::test]
async fn who_asked_is_answered_about_the_place_it_named() {
    let (a, b) = (Scripted::usual().await, Scripted::usual().await);
    let brokers = [("a", a.address.as_str()), ("b", b.address.as_str())];
    let names = Scripted::name_server("T", &brokers, 1).await;
    let producer = builder(&names)
        .start_transactional(AsTold::default())
        .await
        .unwrap();
    is_known(&a).await;
    is_known(&b).await;
    // The same id at both, as when the answer of the first got lost.
    a.tell(&question("id", 7, b"commit", 0));
    b.tell(&question("id", 8, b"rollback", 0));
    for (broker, place, outcome) in [(&a, "7", "8"), (&b, "8", "12")] {
        eventually("the answer", || !broker.asked(END).is_empty()).await;
        let end = &broker.asked(END)[0];
        assert_eq!(field(end, "tranStateTableOffset"), place);
        assert_eq!(field(end, "commitLogOffset"), format!("{place}000"));
        assert_eq!(field(end, "commitOrRollback"), outcome);
        assert_eq!(field(end, "fromTransactionCheck"), "true");
        assert_eq!(field(end, "transactionId"), "id");
        assert_eq!(field(end, "producerGroup"), "g");
        assert!(end.is_one_way());
    }
    producer.shutdown().await;
    assert_eq!((a.asked(END).len(), b.asked(END).len()), (1, 1));
}

#[tokio::test]
async fn a_check_shows_the_message_as_it_was_sent() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let producer = builder(&names)
        .start_transactional(AsTold::default())
        .await
        .unwrap();
    is_known(&broker).await;
    let long = "rollback ".repeat(1_000);
    let packed = compression::compress(Codec::Zlib, 5, long.as_bytes()).unwrap();
    let flag = sys_flag::COMPRESSED | Codec::Zlib.bits();
    broker.tell(&question("packed", 0, &packed, flag));
    eventually("the answer", || !broker.asked(END).is_empty()).await;
    assert_eq!(answers(&broker)["packed"], ["12"]);
    producer.shutdown().await;
}

/// Ends the broker in the middle of the local transaction.
struct Cuts(Mutex<Option<Scripted>>);

impl TransactionListener for Cuts {
    async fn execute(&self, _: &Message, _: &str) -> Resolution {
        let broker = self.0.lock().take();
        if let Some(broker) = broker {
            broker.stop().await;
        }
        Resolution::Commit
    }

    async fn check(&self, _: &ReceivedMessage) -> Resolution {
        Resolution::Commit
    }
}

/// The local transaction has happened: that its outcome could not be told is no reason to say that it failed.
#[tokio::test]
async fn an_outcome_that_gets_lost_does_not_make_the_send_fail() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let producer = builder(&names)
        .start_transactional(Cuts(Mutex::new(Some(broker))))
        .await
        .unwrap();
    let sent = producer.send(Message::new("T", "commit")).await.unwrap();
    assert_eq!(sent.resolution, Resolution::Commit);
    producer.shutdown().await;
}
