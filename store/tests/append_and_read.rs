//! Append, read, close, open again.

#[path = "support/store.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_protocol::offset::PhysicalOffset;
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::sys_flag::TransactionState;
use agena_store::{
    Boundary, Filter, MessageIllegal, NewMessage, Opened, ReadRequest, ReadStatus, Residency,
    StoreError,
};
use support::{
    all, append, clock, durable, message, open, properties, put, read, small, small_sync,
};

#[test]
fn messages_come_back_in_order_and_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let expected: Vec<_> = (0..700_u64)
        .map(|i| {
            (
                i,
                format!("body {i} {}", "x".repeat(usize::try_from(i % 300).unwrap())).into_bytes(),
            )
        })
        .collect();
    {
        let (store, opened) = open(small(dir.path()));
        assert!(matches!(opened, Opened::Recovered(_)));
        for (i, body) in &expected {
            assert_eq!(put(&store, "T", 0, body), *i);
            assert_eq!(
                store.max_offset("T", QueueId::new(0)).number(),
                i + 1,
                "visible when appended"
            );
        }
        assert_eq!(all(&store, "T", 0), expected);
        assert!(store.stats().segments > 2);
        store.close().unwrap();
    }
    let (store, opened) = open(small(dir.path()));
    assert!(matches!(opened, Opened::Clean), "{opened:?}");
    assert_eq!(all(&store, "T", 0), expected);
    assert_eq!(put(&store, "T", 0, b"more"), 700);
}

#[test]
fn a_store_that_was_not_closed_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4_u64 {
        let (store, opened) = open(small(dir.path()));
        assert!(matches!(opened, Opened::Recovered(_)));
        for queue in 0..3 {
            assert_eq!(all(&store, "T", queue).len() as u64, round * 100);
            for i in 0..100_u64 {
                assert_eq!(put(&store, "T", queue, &[b'b'; 200]), round * 100 + i);
            }
        }
        drop(store);
    }
}

#[test]
fn sync_flush_answers_only_after_data_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small_sync(dir.path()));
    for i in 0..50 {
        let appended = append(&store, &[message("T", 0, b"body", b"")]).unwrap();
        durable(&store, &appended).unwrap();
        let stats = store.stats();
        assert_eq!(stats.flushed, stats.log_max);
        assert_eq!(store.max_offset("T", QueueId::new(0)).number(), i + 1);
    }
    store.close().unwrap();
}

#[test]
fn a_batch_gets_consecutive_places_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    let body = [b'b'; 9_000];
    for _ in 0..5 {
        let mut batch = store.batch();
        batch
            .push_all_or_nothing(&[message("T", 0, &body, b""); 4])
            .unwrap();
        let placed = store.append(&mut batch).unwrap().placed;
        let first = placed[0].physical_offset.number();
        let last = placed[3].physical_offset.number();
        assert_eq!(first / 65_536, last / 65_536, "one file");
        assert_eq!(
            placed[3].queue_offset.number(),
            placed[0].queue_offset.number() + 3
        );
    }
    assert_eq!(all(&store, "T", 0).len(), 20);
    let mut batch = store.batch();
    batch
        .push_all_or_nothing(&[message("T", 0, &body, b""); 8])
        .unwrap();
    assert!(matches!(
        store.append(&mut batch),
        Err(StoreError::TooLarge { .. })
    ));
    assert_eq!(put(&store, "T", 0, b"next"), 20, "no offset was used up");
}

#[test]
fn statuses_and_corrections_at_the_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    let check = |offset, status, next| {
        let outcome = read(&store, "T", 0, offset, 32);
        assert_eq!(
            (outcome.status, outcome.next_offset.number()),
            (status, next),
            "{offset}"
        );
    };
    check(0, ReadStatus::NoMessageInQueue, 0);
    for i in 0..50 {
        put(&store, "T", 0, &[i; 100]);
    }
    check(-1, ReadStatus::OffsetTooSmall, 0);
    check(0, ReadStatus::Found, 32);
    check(20, ReadStatus::Found, 40);
    check(40, ReadStatus::Found, 50);
    check(50, ReadStatus::OffsetOverflowOne, 50);
    check(51, ReadStatus::OffsetOverflowBadly, 50);
}

/// Appends while a read goes on, as producers do: at each entry that the read looks at, until there are enough.
struct AppendsMeanwhile<'a> {
    store: &'a agena_store::Store,
    left: std::cell::Cell<u32>,
}

impl Filter for AppendsMeanwhile<'_> {
    fn by_tags_code(&self, _: i64) -> bool {
        if self.left.get() > 0 {
            self.left.set(self.left.get() - 1);
            put(self.store, "T", 0, b"appended meanwhile");
        }
        true
    }
}

#[test]
fn what_is_appended_during_a_read_is_given_or_left_for_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    put(&store, "T", 0, b"first");
    put(&store, "T", 0, b"second");
    let request = ReadRequest {
        topic: "T",
        queue_id: QueueId::new(0),
        offset: 0,
        messages_max: 32,
        bytes_max: None,
        residency: Residency::Anywhere,
    };
    let filter = AppendsMeanwhile {
        store: &store,
        left: std::cell::Cell::new(10),
    };
    let outcome = store.read(&request, &filter);
    assert_eq!(outcome.status, ReadStatus::Found);
    let given = u64::try_from(outcome.records.len()).unwrap();
    assert_eq!(
        outcome.next_offset.number(),
        given,
        "nothing is passed over"
    );
    assert!(given >= 2);
    assert_eq!(all(&store, "T", 0).len(), 12);
}

#[test]
fn keys_ids_and_times_find_messages() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    let mut places = Vec::new();
    for i in 0..400 {
        let encoded = properties(&[
            ("KEYS", &format!("shared k{i}")),
            ("UNIQ_KEY", &format!("U{i}")),
        ]);
        let appended = append(&store, &[message("T", 1, b"body", &encoded)]).unwrap();
        places.push(appended.placed[0]);
    }
    for (i, place) in places.iter().enumerate() {
        for key in [format!("k{i}"), format!("U{i}")] {
            let found = store.query("T", &key, 64, 0, i64::MAX);
            assert!(found.contains(&place.physical_offset), "{key}");
        }
        let record = store.record_at(place.physical_offset).unwrap();
        let record = RecordView::parse(&record).unwrap();
        assert_eq!(record.queue_offset(), place.queue_offset);
        let lower =
            store.offset_by_time("T", QueueId::new(1), place.store_timestamp, Boundary::Lower);
        assert!(lower <= place.queue_offset);
        assert_eq!(
            store.store_time_at("T", QueueId::new(1), place.queue_offset),
            Some(place.store_timestamp)
        );
    }
    assert!(store.query("T", "shared", 64, 0, i64::MAX).len() == 64);
    assert!(store.query("U", "k1", 64, 0, i64::MAX).is_empty());
    assert!(store.record_at(PhysicalOffset::new(1)).is_none());
    assert!(store.stats().index_files > 1);
}

#[test]
fn illegal_messages_are_refused_before_anything_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(dir.path());
    config.body_bytes_max = 1000;
    let (store, _) = open(config);
    let long = "t".repeat(128);
    let mut batch = store.batch();
    for topic in ["", "..", "a/b", &long] {
        assert!(matches!(
            batch.push(message(topic, 0, b"", b"")),
            Err(MessageIllegal::Topic { .. })
        ));
    }
    assert!(matches!(
        batch.push(message("T", 0, &[0; 1001], b"")),
        Err(MessageIllegal::Body { .. })
    ));
    assert!(matches!(
        batch.push(message("T", 0, b"", &[b'p'; 32_768])),
        Err(MessageIllegal::Properties { .. })
    ));
    assert!(batch.is_empty());
}

#[test]
fn one_directory_has_one_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    let second = agena_store::Store::open(small(dir.path()), clock(), std::sync::Arc::new(()));
    assert!(matches!(second, Err(StoreError::Held { .. })));
    store.close().unwrap();
}

#[test]
fn a_client_s_batch_properties_do_not_move_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(dir.path());
    config.is_batch_topic = Arc::new(|_| true);
    let (store, _) = open(config);
    let pretended = properties(&[("INNER_NUM", "5"), ("INNER_BASE", "0")]);
    for number in 0..3 {
        let appended = append(&store, &[message("T", 0, b"x", &pretended)]).unwrap();
        assert_eq!(appended.placed[0].queue_offset.number(), number);
        assert_eq!(
            store.max_offset("T", QueueId::new(0)).number(),
            number + 1,
            "the queue's end is behind the message"
        );
    }
    assert_eq!(all(&store, "T", 0).len(), 3);
}

#[test]
fn a_topic_made_anew_does_not_mix_with_the_one_of_its_name_after_a_crash() {
    for config in [small, small_sync] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(config(dir.path()));
        for number in 0..50_u8 {
            put(&store, "T", 0, &[number; 10]);
        }
        store.delete_topic("T").unwrap();
        for number in 0..3 {
            assert_eq!(put(&store, "T", 0, b"new"), number);
        }
        drop(store);
        let (store, _) = open(config(dir.path()));
        assert_eq!(store.max_offset("T", QueueId::new(0)).number(), 3);
        assert!(all(&store, "T", 0).iter().all(|(_, body)| body == b"new"));
        assert_eq!(put(&store, "T", 0, b"new"), 3);
    }
}

#[test]
fn what_a_recovery_went_over_is_soon_marked() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    for _ in 0..10 {
        put(&store, "T", 0, b"x");
    }
    drop(store);
    let (store, opened) = open(small(dir.path()));
    let Opened::Recovered(report) = opened else {
        panic!("{opened:?}")
    };
    let checkpoint = || std::fs::read(dir.path().join("checkpoint")).ok();
    let (before, began) = (checkpoint(), Instant::now());
    // Long before the next mark would be due in its turn, which is after five seconds.
    while checkpoint() == before && began.elapsed() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(store);
    let (_store, opened) = open(small(dir.path()));
    let Opened::Recovered(again) = opened else {
        panic!("{opened:?}")
    };
    assert_eq!(again.scanned_from, report.log_end);
}

#[test]
fn behind_a_record_of_no_queue_the_next_is_in_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    let half = NewMessage {
        sys_flag: TransactionState::Prepared.bits(),
        ..message("A", 0, b"half", b"")
    };
    let _ = append(&store, &[half, message("B", 1, b"b", b"")]).unwrap();
    assert_eq!(all(&store, "A", 0), []);
    assert_eq!(all(&store, "B", 1), [(0, b"b".to_vec())]);
}

#[test]
fn appends_side_by_side_reach_their_own_queues() {
    const THREADS: u32 = 4;
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(small(dir.path()));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                let topic = format!("T{thread}");
                for number in 0..500_u32 {
                    let (a, b) = (format!("a{number}"), format!("b{number}"));
                    // The same numbers in all topics, and two queues of each.
                    let pair = [
                        message(&topic, 0, a.as_bytes(), b""),
                        message(&topic, 1, b.as_bytes(), b""),
                    ];
                    let _ = append(store, &pair).unwrap();
                }
            });
        }
    });
    for thread in 0..THREADS {
        for (queue, letter) in [(0, "a"), (1, "b")] {
            let expected: Vec<_> = (0..500_u64)
                .map(|n| (n, format!("{letter}{n}").into_bytes()))
                .collect();
            assert_eq!(all(&store, &format!("T{thread}"), queue), expected);
        }
    }
}
