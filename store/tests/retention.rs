//! Which log files go, when, and what follows them: with a clock that is turned by hand and a disk that is as full as a
//! test says.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/roomy.rs"]
mod roomy;
#[path = "support/store.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agena_protocol::clock::{Clock, ManualClock, SystemClock};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_store::{
    Boundary, Dispatched, Expiry, Going, Observer, Opened, ReadOnlyReason, ReadStatus, Store,
    StoreConfig, StoreError,
};
use chrono::{DateTime, Local, Timelike};
use roomy::RoomyMedium;
use support::{all, append, durable, message, properties, put, read, small_sync};

/// Bytes of a log file; six messages of `BODY` fit.
const SEGMENT: u64 = 64 * 1024;
const BODY: [u8; 10_000] = [7; 10_000];
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A store, its disk and its clock.
struct Kept {
    store: Arc<Store>,
    opened: Opened,
    medium: Arc<RoomyMedium>,
    clock: Arc<ManualClock>,
    going: Arc<Goings>,
}

/// Remembers what the store said goes.
#[derive(Debug, Default)]
struct Goings(Mutex<Vec<Going>>);

impl Observer for Goings {
    fn dispatched(&self, _record: &Dispatched<'_>) {}

    fn going(&self, going: &Going) {
        self.0.lock().unwrap().push(going.clone());
    }
}

fn open(root: &Path) -> Kept {
    open_with(root, |_| {})
}

/// Looks at the files whenever the clock was turned; nothing is in the way of age but the hour.
fn open_with(root: &Path, change: impl FnOnce(&mut StoreConfig)) -> Kept {
    let medium = Arc::new(RoomyMedium::default());
    let clock = Arc::new(ManualClock::at(SystemClock::new().now_ms()));
    let going = Arc::new(Goings::default());
    let mut config = small_sync(root);
    config.medium = medium.clone();
    config.retention.interval = Duration::from_millis(5);
    config.retention.reserved = DAY;
    change(&mut config);
    let (store, opened) = Store::open(config, clock.clone(), going.clone()).unwrap();
    Kept {
        store,
        opened,
        medium,
        clock,
        going,
    }
}

impl Kept {
    /// Appends so many messages to queue 0 of `topic`.
    fn fill(&self, topic: &str, messages: usize) {
        for _ in 0..messages {
            put(&self.store, topic, 0, &BODY);
        }
    }

    fn segments(&self) -> usize {
        self.store.stats().segments
    }

    fn bounds(&self, topic: &str, queue: u32) -> (u64, u64) {
        let id = QueueId::new(queue);
        let min = self.store.min_offset(topic, id).number();
        (min, self.store.max_offset(topic, id).number())
    }

    /// Lets the keeper look at the files three times.
    fn look(&self) {
        for _ in 0..3 {
            let looks = self.medium.looks.load(Ordering::SeqCst);
            self.until("a look", || {
                self.clock.advance(Duration::from_millis(5));
                self.medium.looks.load(Ordering::SeqCst) > looks
            });
        }
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not come");
            std::thread::yield_now();
        }
    }

    /// Removes what is expired, as an operator orders it, until nothing is. The files are made old and the clock stands
    /// still: the keeper, who would put much right behind us, has nothing to do.
    fn expire_all(&self, root: &Path) {
        for entry in std::fs::read_dir(root.join("commitlog")).unwrap() {
            make_old(&entry.unwrap().path());
        }
        self.until("the end of expiry", || {
            self.store.delete_expired_segments().unwrap();
            self.segments() == 1
        });
    }
}

fn make_old(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() - 30 * DAY)
        .unwrap();
}

fn crash(kept: Kept) {
    drop(kept.store);
}

fn set_hours(kept: &Kept, hours: Vec<u32>) {
    let mut retention = kept.store.retention_outlook(0).unwrap().retention;
    retention.delete_hours = hours;
    kept.store.set_retention(retention);
}

fn local_hour(clock: &ManualClock) -> u32 {
    let now = DateTime::from_timestamp_millis(clock.now_ms()).unwrap();
    now.with_timezone(&Local).hour()
}

#[test]
fn expired_files_go_in_their_hour_oldest_first_and_the_last_stays() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    kept.fill("T", 20);
    assert_eq!(kept.segments(), 4);
    set_hours(&kept, vec![(local_hour(&kept.clock) + 12) % 24]);
    kept.clock.advance(2 * DAY);
    kept.look();
    assert_eq!(kept.segments(), 4, "expired, but not in this hour");
    set_hours(&kept, (0..24).collect());
    kept.until("expiry", || {
        kept.look();
        kept.segments() == 1
    });
    let going = kept.going.0.lock().unwrap();
    let bases: Vec<u64> = going.iter().map(|going| going.from).collect();
    assert_eq!(bases, [0, SEGMENT, 2 * SEGMENT]);
    assert!(going.iter().all(|going| going.why == Expiry::Age));
    assert!(going.iter().all(|going| !going.file.exists()));
    drop(going);
    assert_eq!(kept.bounds("T", 0), (18, 20));
}

#[test]
fn what_is_not_expired_stays_in_the_hour_and_above_the_first_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| {
        config.retention.delete_hours = (0..24).collect();
        config.retention.expire_ratio = 75;
    });
    kept.fill("T", 20);
    kept.medium.use_percent(80);
    kept.clock.advance(DAY - HOUR);
    kept.look();
    assert_eq!(kept.segments(), 4);
}

#[test]
fn expired_files_go_at_any_hour_above_the_first_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| config.retention.expire_ratio = 75);
    kept.fill("T", 20);
    kept.clock.advance(2 * DAY);
    kept.medium.use_percent(75);
    kept.look();
    assert_eq!(kept.segments(), 4, "no hour, and not above it");
    kept.medium.use_percent(76);
    kept.until("expiry", || {
        kept.look();
        kept.segments() == 1
    });
}

#[test]
fn above_the_second_ratio_the_oldest_go_but_no_more_than_must() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| config.retention.force_ratio = 85);
    kept.fill("T", 50);
    let before = kept.segments();
    // One file is 6 %.
    kept.medium.use_percent_with_files(90);
    kept.look();
    kept.look();
    assert_eq!(kept.segments(), before - 1);
    let going = kept.going.0.lock().unwrap();
    assert_eq!(going[0].why, Expiry::DiskRatio);
    assert_eq!((going[0].from, going[0].to), (0, SEGMENT));
}

#[test]
fn space_that_readers_hold_costs_no_further_file() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| config.retention.force_ratio = 85);
    kept.fill("T", 50);
    let before = kept.segments();
    let held = read(&kept.store, "T", 0, 0, 1).records;
    // As a file system sees it: the removed file's space is not back while it is mapped.
    kept.medium.use_percent(88);
    kept.look();
    assert_eq!(kept.segments(), before - 1);
    kept.medium.use_percent(50);
    let record = RecordView::parse(&held[0]).unwrap();
    assert_eq!(record.body(), BODY, "a slice outlives its file");
    assert_eq!(record.queue_offset().number(), 0);
    assert!(!dir.path().join("commitlog").join("0".repeat(20)).exists());
}

#[test]
fn forced_removal_can_be_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| {
        config.retention.force_ratio = 85;
        config.retention.force = false;
    });
    kept.fill("T", 20);
    kept.medium.use_percent(99);
    kept.look();
    assert_eq!(kept.segments(), 4);
}

#[test]
fn a_log_over_its_bytes_loses_its_oldest_files() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| {
        config.retention.log_bytes_max = Some(3 * SEGMENT);
    });
    kept.fill("T", 50);
    kept.until("the log's limit", || {
        kept.look();
        kept.segments() == 3
    });
    kept.look();
    assert_eq!(kept.segments(), 3, "not one more");
    assert!(
        kept.going
            .0
            .lock()
            .unwrap()
            .iter()
            .all(|going| going.why == Expiry::Bytes)
    );
    assert_eq!(kept.bounds("T", 0), (36, 50));
    kept.store.set_retention({
        let mut retention = kept.store.retention_outlook(0).unwrap().retention;
        retention.log_bytes_max = Some(1);
        retention
    });
    kept.until("the new limit", || {
        kept.look();
        kept.segments() == 1
    });
    kept.look();
    assert_eq!(kept.segments(), 1, "the last stays whatever its size");
}

#[test]
fn too_full_a_disk_refuses_with_its_own_reason_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| config.retention.refuse_ratio = 90);
    kept.fill("T", 3);
    kept.medium.use_percent(91);
    kept.look();
    assert_eq!(
        kept.store.read_only_reason(),
        Some(ReadOnlyReason::DiskRatio)
    );
    let refused = append(&kept.store, &[message("T", 0, b"x", b"")]);
    assert!(
        matches!(
            refused,
            Err(StoreError::DiskRatio {
                limit_percent: 90,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(all(&kept.store, "T", 0).len(), 3, "reads go on");
    kept.medium.use_percent(90);
    kept.look();
    assert!(kept.store.is_writable());
    assert_eq!(put(&kept.store, "T", 0, b"x"), 3);
}

#[test]
fn a_file_that_cannot_be_removed_fences_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| {
        config.retention.log_bytes_max = Some(2 * SEGMENT);
    });
    kept.medium.keeps_files.store(true, Ordering::SeqCst);
    kept.fill("T", 20);
    kept.look();
    assert!(kept.store.is_writable());
    assert_eq!(all(&kept.store, "T", 0).len(), 20, "all is as it was");
    // Somebody removes the first by hand, and the others can be removed again.
    std::fs::remove_file(dir.path().join("commitlog").join("0".repeat(20))).unwrap();
    kept.medium.keeps_files.store(false, Ordering::SeqCst);
    kept.until("removal", || {
        kept.look();
        kept.segments() == 2
    });
    assert!(kept.store.is_writable());
}

#[test]
fn heads_of_queues_and_index_files_follow() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    // Files of queues have 40 entries, of the index 299 keys.
    for number in 0..1200_u32 {
        let key = properties(&[("KEYS", &format!("k{number}"))]);
        let body = [1; 500];
        let appended = append(&kept.store, &[message("T", number % 2, &body, &key)]).unwrap();
        durable(&kept.store, &appended).unwrap();
    }
    let find = |key: &str| kept.store.query("T", key, 10, 0, i64::MAX).len();
    // Which writes the keys that wait.
    assert_eq!((find("k0"), find("k1199")), (1, 1));
    let index_files = kept.store.stats().index_files;
    assert!(index_files >= 4);
    let queue_dir = dir.path().join("consumequeue/T/0");
    kept.expire_all(dir.path());
    let (min, max) = kept.bounds("T", 0);
    assert!(min > 500 && max == 600, "{min} {max}");
    let bases: Vec<u64> = std::fs::read_dir(&queue_dir)
        .unwrap()
        .map(|entry| {
            let name = entry.unwrap().file_name();
            name.to_str().unwrap().parse::<u64>().unwrap() / 20
        })
        .collect();
    assert_eq!(*bases.iter().min().unwrap(), min / 40 * 40, "{bases:?}");
    assert!(kept.store.stats().index_files < index_files);
    assert_eq!((find("k0"), find("k1199")), (0, 1));
    assert_eq!(all(&kept.store, "T", 0).first().unwrap().0, min);
    // A crash now finds as many index files as were marked: nothing is built from the start.
    crash(kept);
    let kept = open(dir.path());
    let Opened::Recovered(report) = &kept.opened else {
        panic!("not scanned");
    };
    assert!(!report.rebuilt, "{report:?}");
    assert_eq!(kept.bounds("T", 0), (min, max));
}

#[test]
fn offsets_in_front_of_the_first_message_are_answered_so() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    kept.fill("T", 20);
    let start_ms = kept.clock.now_ms();
    kept.expire_all(dir.path());
    let outcome = read(&kept.store, "T", 0, 3, 32);
    assert_eq!(outcome.status, ReadStatus::OffsetTooSmall);
    assert_eq!(
        (outcome.next_offset.number(), outcome.min_offset.number()),
        (18, 18)
    );
    let at = |time_ms, boundary| {
        let offset = kept
            .store
            .offset_by_time("T", QueueId::new(0), time_ms, boundary);
        offset.number()
    };
    assert_eq!(at(0, Boundary::Lower), 18);
    assert_eq!(at(start_ms + 1, Boundary::Lower), 20);
    assert_eq!(at(start_ms, Boundary::Upper), 19);
}

#[test]
fn a_queue_whose_messages_are_all_gone_keeps_its_end_over_every_restart() {
    for clean in [true, false] {
        for asked in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let kept = open(dir.path());
            kept.fill("Old", 9);
            kept.fill("T", 20);
            // The keeper has written nothing yet: the removal itself must see to it that `Old` is on disk.
            kept.expire_all(dir.path());
            if asked {
                assert_eq!(kept.bounds("Old", 0), (9, 9));
            }
            if clean {
                kept.store.close().unwrap();
            }
            crash(kept);
            let kept = open(dir.path());
            assert_eq!(matches!(kept.opened, Opened::Clean), clean);
            assert_eq!(kept.bounds("Old", 0), (9, 9), "clean {clean}");
            let outcome = read(&kept.store, "Old", 0, 0, 32);
            assert_eq!(outcome.status, ReadStatus::OffsetTooSmall);
            assert_eq!(outcome.next_offset.number(), 9);
            assert_eq!(put(&kept.store, "Old", 0, b"next"), 9, "clean {clean}");
            assert_eq!(all(&kept.store, "Old", 0), [(9, b"next".to_vec())]);
        }
    }
}

#[test]
fn what_came_of_a_file_is_on_disk_before_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    kept.fill("Old", 9);
    kept.fill("T", 20);
    kept.medium.keeps_files.store(true, Ordering::SeqCst);
    make_old(&dir.path().join("commitlog").join("0".repeat(20)));
    let queue = dir.path().join("consumequeue/Old/0");
    assert!(!queue.exists(), "the keeper has not written it yet");
    assert!(kept.store.delete_expired_segments().is_err());
    assert!(queue.join("0".repeat(20)).exists());
}

#[test]
fn queues_that_nobody_asked_for_since_a_crash_lose_their_heads_too() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    for number in 0..200_u8 {
        put(&kept.store, "Quiet", 3, &[number; 500]);
    }
    kept.store.close().unwrap();
    let kept = open(dir.path());
    kept.fill("T", 20);
    crash(kept);
    let kept = open(dir.path());
    let quiet = dir.path().join("consumequeue/Quiet/3");
    let files = || std::fs::read_dir(&quiet).unwrap().count();
    assert_eq!(files(), 5);
    kept.expire_all(dir.path());
    assert_eq!(files(), 1, "the last stays, since it knows the queue's end");
    assert_eq!(kept.bounds("Quiet", 3), (200, 200));
    assert_eq!(put(&kept.store, "Quiet", 3, b"next"), 200);
}

#[test]
fn many_short_queues_are_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    let topics: Vec<String> = (0..60).map(|number| format!("T{number}")).collect();
    for topic in &topics {
        for queue in 0..5 {
            let appended = append(&kept.store, &[message(topic, queue, &[1; 100], b"")]).unwrap();
            durable(&kept.store, &appended).unwrap();
        }
    }
    kept.store.close().unwrap();
    let kept = open(dir.path());
    kept.fill("T0", 20);
    let before = kept.medium.queue_files_opened.load(Ordering::SeqCst);
    kept.expire_all(dir.path());
    let opened = kept.medium.queue_files_opened.load(Ordering::SeqCst) - before;
    assert!(opened <= 3, "{opened} files for 300 queues");
    assert_eq!(kept.bounds("T7", 4), (1, 1));
}

#[test]
fn two_orders_at_once_remove_nothing_that_neither_has_judged() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let kept = open_with(dir.path(), |config| config.retention.files_per_run = 1);
        kept.fill("T", 20);
        kept.clock.advance(2 * DAY);
        let removed: usize = std::thread::scope(|scope| {
            let order = || kept.store.delete_expired_segments().unwrap().segments.len();
            let orders = [scope.spawn(order), scope.spawn(order)];
            orders.map(|order| order.join().unwrap()).iter().sum()
        });
        assert_eq!(removed, 4 - kept.segments());
        assert_eq!(removed, kept.going.0.lock().unwrap().len());
    }
}

#[test]
fn files_go_while_messages_come_and_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| {
        config.retention.log_bytes_max = Some(2 * SEGMENT);
    });
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| kept.fill("T", 150));
        while !producer.is_finished() {
            kept.clock.advance(Duration::from_millis(5));
            let (min, max) = kept.bounds("T", 0);
            assert!(min <= max);
            let outcome = read(&kept.store, "T", 0, i64::try_from(min).unwrap(), 32);
            for record in &outcome.records {
                assert_eq!(RecordView::parse(record).unwrap().body(), BODY);
            }
        }
    });
    kept.until("the log's limit", || {
        kept.look();
        kept.segments() == 2
    });
    assert_eq!(kept.bounds("T", 0).1, 150);
    assert_eq!(all(&kept.store, "T", 0).last().unwrap().0, 149);
}

#[test]
fn a_store_whose_head_is_gone_opens_and_goes_on() {
    for clean in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let kept = open(dir.path());
        kept.fill("Old", 7);
        kept.fill("T", 20);
        kept.store.close().unwrap();
        let kept = open(dir.path());
        if clean {
            kept.store.close().unwrap();
        }
        crash(kept);
        for base in [0, SEGMENT] {
            let name = format!("{base:020}");
            std::fs::remove_file(dir.path().join("commitlog").join(name)).unwrap();
        }
        let kept = open(dir.path());
        assert_eq!(kept.bounds("Old", 0), (7, 7), "clean {clean}");
        assert_eq!(kept.bounds("T", 0), (5, 20), "clean {clean}");
        assert_eq!(all(&kept.store, "T", 0).len(), 15);
        assert_eq!(put(&kept.store, "Old", 0, b"next"), 7);
    }
}

#[test]
fn a_deleted_topic_is_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    for number in 0..200_u8 {
        put(&kept.store, "Gone", 0, &[number; 500]);
    }
    kept.fill("T", 20);
    kept.store.delete_topic("Gone").unwrap();
    kept.expire_all(dir.path());
    assert!(!dir.path().join("consumequeue/Gone").exists());
    assert_eq!(kept.bounds("T", 0).1, 20);
}

#[test]
fn the_outlook_says_what_goes_when() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open_with(dir.path(), |config| {
        config.retention.log_bytes_max = Some(5 * SEGMENT);
    });
    kept.fill("T", 20);
    kept.medium.use_percent(40);
    set_hours(&kept, vec![4]);
    let outlook = kept.store.retention_outlook(2).unwrap();
    assert_eq!((outlook.files, outlook.log_bytes), (4, 4 * SEGMENT));
    assert_eq!(outlook.space.used_percent(), 40);
    let ends: Vec<_> = outlook
        .next
        .iter()
        .map(|file| (file.from, file.to))
        .collect();
    assert_eq!(ends, [(0, SEGMENT), (SEGMENT, 2 * SEGMENT)]);
    let bytes: Vec<_> = outlook.next.iter().map(|file| file.bytes_left).collect();
    assert_eq!(bytes, [Some(SEGMENT), Some(2 * SEGMENT)]);
    let first = &outlook.next[0];
    assert_eq!(first.expires_ms, first.written_ms + 24 * 3_600_000);
    let due = DateTime::from_timestamp_millis(first.due_ms.unwrap()).unwrap();
    assert_eq!(due.with_timezone(&Local).hour(), 4);
    assert!(first.due_ms.unwrap() >= first.expires_ms);
    assert!(first.due_ms.unwrap() <= first.expires_ms + 25 * 3_600_000);
    assert_eq!(
        kept.store.retention_outlook(16).unwrap().next.len(),
        3,
        "not the last"
    );
    let offset_at = |physical| {
        kept.store
            .offset_at("T", QueueId::new(0), physical)
            .number()
    };
    assert_eq!(
        [offset_at(0), offset_at(SEGMENT), offset_at(4 * SEGMENT)],
        [0, 6, 20]
    );
}

#[test]
fn files_of_a_store_taken_over_keep_their_age() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    kept.fill("T", 20);
    kept.store.close().unwrap();
    let path = |base: u64| dir.path().join("commitlog").join(format!("{base:020}"));
    for base in [0, SEGMENT] {
        make_old(&path(base));
    }
    // After an end without order as well, where the log is scanned and derived anew.
    std::fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
    std::fs::write(dir.path().join("abort"), b"1").unwrap();
    let kept = open(dir.path());
    kept.fill("T", 1);
    kept.store.delete_expired_segments().unwrap();
    assert_eq!(kept.segments(), 2);
    assert!(!path(0).exists() && !path(SEGMENT).exists() && path(2 * SEGMENT).exists());
}

#[test]
fn writing_through_the_mapping_makes_a_file_young() {
    let dir = tempfile::tempdir().unwrap();
    let kept = open(dir.path());
    kept.fill("T", 1);
    kept.store.close().unwrap();
    let path = dir.path().join("commitlog").join("0".repeat(20));
    make_old(&path);
    let kept = open(dir.path());
    kept.fill("T", 7);
    assert_eq!(kept.segments(), 2);
    kept.store.delete_expired_segments().unwrap();
    assert_eq!(kept.segments(), 2, "written to a moment ago");
}
