//! Delays against a log in memory and a clock that is turned by hand.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

use agena_protocol::clock::ManualClock;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::record::{RecordEncoder, RecordFields, RecordView};

use super::levels::{Waiting, parse_levels};
use super::timers::TimerRules;
use super::*;

const START: i64 = 1_700_000_000_000;

#[derive(Debug)]
struct MemoryLog {
    clock: Arc<ManualClock>,
    delays: Vec<Duration>,
    content: Mutex<Content>,
    /// So many appends are refused.
    refusals: AtomicUsize,
}

#[derive(Debug, Default)]
struct Content {
    records: Vec<Vec<u8>>,
    queues: HashMap<(String, u32), Vec<Waiting>>,
}

impl MemoryLog {
    fn new(clock: Arc<ManualClock>, delays: Vec<Duration>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            delays,
            content: Mutex::default(),
            refusals: AtomicUsize::new(0),
        })
    }

    /// Topic, queue and properties of everything that was stored outside of the two waiting topics.
    fn delivered(&self) -> Vec<(String, u32, PropertiesBuf, String)> {
        let content = self.content.lock();
        let records = content
            .records
            .iter()
            .map(|bytes| RecordView::parse(bytes).unwrap());
        records
            .filter(|record| ![topic::SCHEDULE, topic::TIMER_WHEEL].contains(&record.topic()))
            .map(|record| {
                let properties = PropertiesBuf::parse(record.properties().encoded());
                let body = String::from_utf8(record.body().to_vec()).unwrap();
                (
                    record.topic().to_owned(),
                    record.queue_id().number(),
                    properties,
                    body,
                )
            })
            .collect()
    }

    fn bodies(&self) -> Vec<String> {
        self.delivered()
            .into_iter()
            .map(|(_, _, _, body)| body)
            .collect()
    }
}

impl DelayLog for MemoryLog {
    fn bounds(&self, topic: &str, queue: QueueId) -> (u64, u64) {
        let content = self.content.lock();
        let queue = content.queues.get(&(topic.to_owned(), queue.number()));
        (0, queue.map_or(0, |queue| queue.len() as u64))
    }

    fn entries(&self, topic: &str, queue: QueueId, from: u64, count: usize) -> Vec<Waiting> {
        let content = self.content.lock();
        let queue = content.queues.get(&(topic.to_owned(), queue.number()));
        let entries = queue.into_iter().flatten();
        entries
            .filter(|entry| entry.offset >= from)
            .take(count)
            .copied()
            .collect()
    }

    fn look_at(&self, place: PhysicalOffset, look: &mut dyn FnMut(&RecordView<'_>)) -> Option<()> {
        let at = usize::try_from(place.number()).unwrap();
        let record = self.content.lock().records[at].clone();
        look(&RecordView::parse(&record).unwrap());
        Some(())
    }

    fn append(&self, messages: &[RecordFields<'_>]) -> Result<PhysicalOffset, LogFault> {
        if self.refusals.load(Ordering::SeqCst) > 0 {
            self.refusals.fetch_sub(1, Ordering::SeqCst);
            return Err("no".into());
        }
        let mut content = self.content.lock();
        for fields in messages {
            let now = self.clock.now_ms();
            let place = PhysicalOffset::new(content.records.len() as u64);
            let key = (fields.topic.to_owned(), fields.queue_id.number());
            let queue = content.queues.entry(key).or_default();
            let offset = queue.len() as u64;
            let tags_code = if fields.topic == topic::SCHEDULE {
                now + i64::try_from(self.delays[fields.queue_id.index()].as_millis()).unwrap()
            } else {
                0
            };
            queue.push(Waiting {
                offset,
                place,
                tags_code,
            });
            let mut encoder = RecordEncoder::new(*fields, false).unwrap();
            let mut bytes = vec![0; encoder.total_bytes()];
            encoder.write(&mut bytes, QueueOffset::new(offset), place, now);
            content.records.push(bytes);
        }
        Ok(PhysicalOffset::new(content.records.len() as u64))
    }

    fn end(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.content.lock().records.len() as u64)
    }

    fn flushed(&self) -> PhysicalOffset {
        self.end()
    }
}

struct Bench {
    clock: Arc<ManualClock>,
    log: Arc<MemoryLog>,
    delay: Arc<Delay>,
    directory: tempfile::TempDir,
}

fn settings() -> DelaySettings {
    let levels = parse_levels("1s 5s 10s").unwrap();
    DelaySettings {
        send: SendRules {
            levels: levels.len(),
            timers_enabled: true,
            timer_delay_max_ms: 259_200_000,
            timers: TimerRules::default(),
        },
        levels,
        broker_name: "broker-a".into(),
    }
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let log = MemoryLog::new(Arc::clone(&clock), settings().levels);
        let directory = tempfile::tempdir().unwrap();
        let delay = open(directory.path(), &log, &clock);
        Self {
            clock,
            log,
            delay,
            directory,
        }
    }

    /// Another start on the same log and files; the present one is simply dropped, as by `kill -9`.
    fn restart(&mut self) {
        self.delay = open(self.directory.path(), &self.log, &self.clock);
    }

    fn send(&self, body: &str, pairs: &[(&str, &str)]) -> Option<String> {
        let mut buffer = PropertiesBuf::new();
        buffer.set(properties::UNIQ_KEY, format!("key-{body}"));
        for (name, value) in pairs {
            buffer.set(name, *value);
        }
        let encoded = buffer.encode();
        let now = self.clock.now_ms();
        let redirect = self
            .delay
            .on_send(Properties::new(&encoded), "T", QueueId::new(3), now);
        let redirect = redirect.unwrap().expect("is delayed");
        self.store(redirect.topic, redirect.queue, &redirect.properties, body);
        self.delay.arrived(redirect.topic, redirect.queue);
        redirect.recall_handle
    }

    fn store(&self, topic: &str, queue_id: QueueId, properties: &[u8], body: &str) {
        let host = "127.0.0.1:10911".parse().unwrap();
        let fields = RecordFields {
            topic,
            queue_id,
            flag: 7,
            sys_flag: 0,
            born_timestamp: 5,
            born_host: host,
            store_host: host,
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body: body.as_bytes(),
            properties,
        };
        self.log.append(&[fields]).unwrap();
    }

    fn advance(&self, ms: u64) -> Duration {
        self.clock.advance(Duration::from_millis(ms));
        self.delay.deliver_due()
    }
}

fn open(directory: &Path, log: &Arc<MemoryLog>, clock: &Arc<ManualClock>) -> Arc<Delay> {
    let log = Arc::clone(log) as Arc<dyn DelayLog>;
    Delay::open(
        settings(),
        directory,
        log,
        Arc::clone(clock) as Arc<dyn Clock>,
    )
    .unwrap()
}

#[test]
fn a_level_is_delivered_at_its_millisecond_with_its_properties_as_stored() {
    let bench = Bench::new();
    bench.send("a", &[("DELAY", "2"), ("x", "y")]);
    assert_eq!(bench.advance(4999), Duration::from_millis(1));
    assert!(bench.log.delivered().is_empty());
    assert_eq!(bench.advance(1), Duration::MAX);
    let delivered = bench.log.delivered();
    let (topic, queue, properties, body) = &delivered[0];
    assert_eq!((topic.as_str(), *queue, body.as_str()), ("T", 3, "a"));
    assert_eq!(properties.get("DELAY"), Some("2"));
    assert_eq!(properties.get("REAL_TOPIC"), Some("T"));
    assert_eq!(properties.get("x"), Some("y"));
}

#[test]
fn levels_do_not_wait_for_each_other() {
    let bench = Bench::new();
    bench.send("ten", &[("DELAY", "3")]);
    bench.send("one", &[("DELAY", "1")]);
    bench.advance(1000);
    assert_eq!(bench.log.bodies(), ["one"]);
    assert_eq!(bench.advance(8999), Duration::from_millis(1));
    bench.advance(1);
    assert_eq!(bench.log.bodies(), ["one", "ten"]);
}

#[test]
fn a_timer_is_delivered_at_the_millisecond_asked_for_in_the_order_of_time() {
    let bench = Bench::new();
    bench.send("late", &[("TIMER_DELAY_MS", "3500")]);
    bench.send("soon", &[("TIMER_DELIVER_MS", &(START + 1234).to_string())]);
    assert_eq!(bench.advance(1233), Duration::from_millis(1));
    assert!(bench.log.bodies().is_empty());
    bench.advance(1);
    assert_eq!(bench.log.bodies(), ["soon"]);
    bench.advance(2265);
    assert_eq!(bench.log.bodies(), ["soon"]);
    bench.advance(1);
    let (_, _, properties, body) = &bench.log.delivered()[1];
    assert_eq!(body, "late");
    assert_eq!(properties.get("TIMER_DELAY_MS"), Some("3500"));
    assert_eq!(
        properties.get("TIMER_DEQUEUE_MS"),
        Some((START + 3500).to_string().as_str())
    );
    assert!(properties.get("TIMER_ENQUEUE_MS").is_some());
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice_after_a_kill() {
    let mut bench = Bench::new();
    for number in 0..200 {
        bench.send(&format!("l{number}"), &[("DELAY", "1")]);
        bench.send(
            &format!("t{number}"),
            &[("TIMER_DELAY_MS", &(number * 10 + 1).to_string())],
        );
    }
    for _ in 0..20 {
        bench.restart();
        bench.advance(100);
    }
    bench.restart();
    bench.advance(1000);
    let mut bodies = bench.log.bodies();
    assert_eq!(bodies.len(), 400);
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 400);
}

#[test]
fn without_the_live_progress_rocketmq_s_files_are_enough_for_nothing_to_be_lost() {
    let mut bench = Bench::new();
    bench.send("a", &[("DELAY", "1")]);
    bench.send("b", &[("TIMER_DELAY_MS", "1000")]);
    bench.send("c", &[("TIMER_DELAY_SEC", "60")]);
    bench.advance(1000);
    bench.delay.save().unwrap();
    std::fs::remove_file(bench.directory.path().join("delayProgress")).unwrap();
    bench.restart();
    bench.advance(1000);
    assert_eq!(bench.log.bodies(), ["a", "b"]);
    bench.advance(60_000);
    assert_eq!(bench.log.bodies(), ["a", "b", "c"]);
}

#[test]
fn a_refusing_store_is_asked_again_later_and_later() {
    let bench = Bench::new();
    bench.send("a", &[("DELAY", "1")]);
    bench.send("b", &[("TIMER_DELAY_MS", "1000")]);
    bench.log.refusals.store(6, Ordering::SeqCst);
    let pauses = [bench.advance(1000), bench.advance(0), bench.advance(0)];
    assert_eq!(pauses, [100, 200, 400].map(Duration::from_millis));
    bench.advance(800);
    assert_eq!(bench.log.bodies(), ["a", "b"]);
}

#[test]
fn a_message_that_cannot_be_delivered_holds_up_no_other() {
    let bench = Bench::new();
    bench.store(
        topic::SCHEDULE,
        QueueId::new(0),
        b"DELAY\x011\x02",
        "nowhere",
    );
    bench.store(
        topic::TIMER_WHEEL,
        QueueId::new(0),
        b"TIMER_OUT_MS\x015\x02",
        "nowhere",
    );
    bench.send("a", &[("DELAY", "1")]);
    bench.send("b", &[("TIMER_DELAY_MS", "1000")]);
    bench.advance(1000);
    assert_eq!(bench.log.bodies(), ["a", "b"]);
}

#[test]
fn a_recalled_message_is_not_delivered() {
    let mut bench = Bench::new();
    let handle = bench.send("a", &[("TIMER_DELAY_MS", "3500")]).unwrap();
    bench.send("b", &[("TIMER_DELAY_MS", "3500")]);
    let handle = recall::parse(&handle).unwrap();
    assert_eq!(
        (handle.topic.as_str(), handle.unique_key.as_str()),
        ("T", "key-a")
    );
    bench.advance(1000);
    let key = recall::delete_key(&handle.topic, &handle.unique_key);
    let deliver = handle.deliver_ms.to_string();
    let mark = [
        (properties::TIMER_DEL_UNIQKEY, key.as_str()),
        (properties::TIMER_DELIVER_MS, &deliver),
    ];
    bench.send("mark", &mark);
    bench.restart();
    bench.advance(10_000);
    assert_eq!(bench.log.bodies(), ["b"]);
}

#[test]
fn a_long_timer_is_stored_anew_and_still_comes_on_time() {
    const DAY: u64 = 86_400_000;
    let bench = Bench::new();
    bench.send("a", &[("TIMER_DELAY_SEC", "259200")]);
    bench.advance(2 * DAY);
    assert_eq!(bench.log.bounds(topic::TIMER_WHEEL, QueueId::new(0)).1, 2);
    bench.advance(DAY - 1);
    assert!(bench.log.bodies().is_empty());
    bench.advance(1);
    assert_eq!(bench.log.bodies(), ["a"]);
}

#[test]
fn an_arrival_wakes_a_thread_that_sleeps_without_end() {
    let bench = Bench::new();
    let saver = Saver::start();
    bench.delay.start(&saver);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !bench
        .delay
        .caught_up
        .iter()
        .all(|mark| mark.load(Ordering::SeqCst))
    {
        assert!(
            std::time::Instant::now() < deadline,
            "the thread never caught up"
        );
        std::thread::yield_now();
    }
    bench.clock.advance(Duration::from_secs(1));
    bench.store(
        topic::SCHEDULE,
        QueueId::new(0),
        b"REAL_TOPIC\x01T\x02REAL_QID\x010\x02",
        "a",
    );
    bench.clock.advance(Duration::from_secs(1));
    bench.delay.arrived(topic::SCHEDULE, QueueId::new(0));
    while bench.log.bodies().is_empty() {
        assert!(std::time::Instant::now() < deadline, "never delivered");
        std::thread::yield_now();
    }
    bench.delay.stop();
    saver.stop();
}
