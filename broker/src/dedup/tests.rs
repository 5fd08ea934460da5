//! Windows over a log, without a broker around them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agena_protocol::clock::SystemClock;
use agena_protocol::properties::PropertiesBuf;
use agena_store::{Durability, NewMessage, StoreConfig};
use parking_lot::Mutex;

use super::*;

/// A log in a directory, and what it is opened with.
pub(super) struct Log {
    root: PathBuf,
    pub(super) store: Arc<Store>,
}

impl Log {
    /// Nothing goes to the device unless the store is closed.
    pub(super) fn lazy(root: &Path) -> Self {
        let hour = Duration::from_secs(3600);
        Self::open(
            root,
            Durability::PageCache {
                interval: hour,
                least_pages: 4,
                thorough_interval: hour,
            },
        )
    }

    pub(super) fn open(root: &Path, durability: Durability) -> Self {
        let config = StoreConfig {
            segment_bytes: 1 << 20,
            index_enabled: false,
            durability,
            ..StoreConfig::new(root)
        };
        let (store, _) = Store::open(config, Arc::new(SystemClock::new()), Arc::new(())).unwrap();
        let root = root.to_owned();
        Self { root, store }
    }

    pub(super) fn config_dir(&self) -> PathBuf {
        self.root.join("config")
    }

    /// The windows, as a start of the broker has them.
    pub(super) fn windows(&self, config: &BrokerConfig) -> Arc<Dedup> {
        Arc::new(Dedup::open(&self.config_dir(), config, &self.store))
    }

    pub(super) fn now(&self) -> Now {
        Now {
            wall_ms: 1_000,
            log_end: self.store.log_end(),
            idle: Duration::ZERO,
        }
    }

    /// Appends so many messages as one batch, and says where they are.
    pub(super) fn append(&self, producer: &str, sequence: u64, count: u32) -> (First, i64) {
        let mut text = PropertiesBuf::new();
        text.set(PRODUCER_ID, producer);
        text.set(SEQUENCE, sequence.to_string());
        let properties = text.encode();
        let host = "127.0.0.1:10911".parse().unwrap();
        let message = NewMessage {
            topic: "T",
            queue_id: QueueId::new(0),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: &properties,
            wait_for_flush: true,
        };
        let messages = vec![message; count as usize];
        let mut batch = self.store.batch();
        batch.push_all_or_nothing(&messages).unwrap();
        let appended = self.store.append(&mut batch).unwrap();
        let place = appended.placed[0];
        let first = First {
            physical: place.physical_offset,
            queue_offset: place.queue_offset,
            queue: QueueId::new(0),
            bytes: appended.placed.iter().map(|placed| placed.bytes).sum(),
            count,
            topic_sum: topic_sum("T"),
        };
        (first, place.store_timestamp)
    }

    /// What a broker does with a message that is no repeat.
    pub(super) fn store(&self, windows: &Arc<Dedup>, producer: &str, sequence: u64) -> First {
        let identity = Identity { producer, sequence };
        let begun = windows.begin(identity, ("T", 1), self.now(), || {
            Box::new(|answer| panic!("{answer:?}"))
        });
        let Begun::First(reservation) = begun else {
            panic!("a repeat")
        };
        let (first, at_ms) = self.append(producer, sequence, 1);
        reservation.stored(first, at_ms);
        first
    }
}

type Heard = Arc<Mutex<Vec<Result<First, Refused>>>>;

fn hear(heard: &Heard) -> impl FnOnce() -> Answer {
    let heard = heard.clone();
    move || Box::new(move |answer| heard.lock().push(answer))
}

/// What is known of a message that would be sent now; nothing is left of it.
pub(super) fn known(windows: &Arc<Dedup>, log: &Log, producer: &str, sequence: u64) -> String {
    let heard = Heard::default();
    let identity = Identity { producer, sequence };
    let begun = windows.begin(identity, ("T", 1), log.now(), hear(&heard));
    if matches!(begun, Begun::First(_)) {
        return "new".to_owned();
    }
    match heard.lock().pop().unwrap() {
        Ok(first) => first.physical.number().to_string(),
        Err(refused) if refused.remark.contains("older than") => "too old".to_owned(),
        Err(refused) => refused.remark,
    }
}

#[test]
fn identities_are_checked() {
    let of = |producer, sequence| Identity::of(producer, sequence);
    assert_eq!(of(None, None), Ok(None));
    let identity = of(Some("order-1_a.b"), Some("18446744073709551615"));
    let sequence = u64::MAX;
    let producer = "order-1_a.b";
    assert_eq!(identity, Ok(Some(Identity { producer, sequence })));
    let long = "x".repeat(65);
    for (producer, sequence) in [
        (None, Some("1")),
        (Some("p"), None),
        (Some(""), Some("1")),
        (Some("a b"), Some("1")),
        (Some("ä"), Some("1")),
        (Some(long.as_str()), Some("1")),
        (Some("p"), Some("")),
        (Some("p"), Some("+1")),
        (Some("p"), Some("-1")),
        (Some("p"), Some("1.0")),
        (Some("p"), Some("18446744073709551616")),
    ] {
        let refused = of(producer, sequence).unwrap_err();
        assert_eq!(
            refused.code,
            ResponseCode::MessageIllegal,
            "{producer:?} {sequence:?}"
        );
    }
}

#[test]
fn repeats_wait_for_the_first_and_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::lazy(directory.path());
    let windows = log.windows(&BrokerConfig::default());
    let heard = Heard::default();
    let (producer, sequence) = ("p", 7);
    let identity = Identity { producer, sequence };
    let begin = || windows.begin(identity, ("T", 1), log.now(), hear(&heard));
    for is_stored in [false, true] {
        heard.lock().clear();
        let Begun::First(reservation) = begin() else {
            panic!("a repeat")
        };
        for _ in 0..WAITERS_MAX {
            assert!(matches!(begin(), Begun::Repeat));
        }
        assert!(heard.lock().is_empty());
        begin();
        let busy = heard.lock().pop().unwrap().unwrap_err();
        assert_eq!(busy.code, ResponseCode::SystemBusy);
        let (first, at_ms) = log.append(producer, sequence, 1);
        let expected = if is_stored {
            reservation.stored(first, at_ms);
            Ok(first)
        } else {
            let refused = Refused::new(ResponseCode::ServiceNotAvailable, "full");
            reservation.failed(&refused);
            Err(refused)
        };
        assert_eq!(*heard.lock(), vec![expected; WAITERS_MAX]);
    }
    assert!(matches!(begin(), Begun::Repeat));
    assert_eq!(windows.totals().sequences, 1);
}

#[test]
fn a_first_that_is_dropped_answers_who_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::lazy(directory.path());
    let windows = log.windows(&BrokerConfig::default());
    let heard = Heard::default();
    let (producer, sequence) = ("p", 7);
    let identity = Identity { producer, sequence };
    let begin = || windows.begin(identity, ("T", 1), log.now(), hear(&heard));
    let first = begin();
    begin();
    drop(first);
    let refused = heard.lock().pop().unwrap().unwrap_err();
    assert_eq!(refused.code, ResponseCode::ServiceNotAvailable);
    assert_eq!(windows.totals().producers, 0);
}

#[test]
fn ids_of_which_nothing_is_stored_take_no_place() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::lazy(directory.path());
    let mut config = BrokerConfig::default();
    config.dedup_producers_max = 1;
    let windows = log.windows(&config);
    for producer in ["a", "b", "c"] {
        assert_eq!(known(&windows, &log, producer, 1), "new");
    }
    assert_eq!(windows.totals().producers, 0);
}

#[test]
fn a_clock_that_was_set_back_keeps_nobody_s_place() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::lazy(directory.path());
    let mut config = BrokerConfig::default();
    config.dedup_producers_max = 1;
    let windows = log.windows(&config);
    // The log's times are those of today, the clock of these tests stands at 1970.
    log.store(&windows, "a", 1);
    log.store(&windows, "b", 1);
    // Its number is known no more.
    assert_eq!(known(&windows, &log, "a", 1), "new");
}

#[test]
fn a_batch_of_which_a_crash_left_a_part_is_stored_whole() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::lazy(directory.path());
    // What recovery leaves of a batch of five: nobody was answered.
    log.append("p", 1, 2);
    let windows = log.windows(&BrokerConfig::default());
    let heard = Heard::default();
    let (producer, sequence) = ("p", 1);
    let identity = Identity { producer, sequence };
    let begin = |windows: &Arc<Dedup>| windows.begin(identity, ("T", 5), log.now(), hear(&heard));
    let Begun::First(reservation) = begin(&windows) else {
        panic!("it would be answered as stored")
    };
    // Times of two appends differ, but for a clock that stands.
    let before = log.store.earliest_log_time().unwrap();
    let (whole, at_ms) = loop {
        let (whole, at_ms) = log.append("p", 1, 5);
        if at_ms > before {
            break (whole, at_ms);
        }
    };
    reservation.stored(whole, at_ms);
    begin(&windows);
    assert_eq!(heard.lock().pop(), Some(Ok(whole)));
    // The two stand one behind the other in the log, and are told apart again.
    let windows = log.windows(&BrokerConfig::default());
    begin(&windows);
    assert_eq!(heard.lock().pop(), Some(Ok(whole)));
}
