//! Directories written by Apache RocketMQ 5.3.3 open with the answers that Apache gave (`tests/fixtures/store`), except
//! where it loses data and we need not: there the test says exactly what is kept in addition.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/store.rs"]
mod support;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties;
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::tags::tags_code;
use agena_store::{
    Boundary, Filter, Opened, ReadRequest, ReadStatus, Residency, Store, StoreConfig,
};
use serde_json::Value;
use support::{all, clock, put};
use tempfile::TempDir;

struct Golden {
    manifest: Value,
    dir: TempDir,
}

impl Golden {
    /// Unpacks a set, with a damage variant applied.
    fn unpack(set: &str, variant: Option<&str>) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fixtures/store")
            .join(set);
        let manifest: Value =
            serde_json::from_slice(&fs::read(from.join("manifest.json")).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let packed = File::open(from.join("store.tar.gz")).unwrap();
        tar::Archive::new(flate2::read::GzDecoder::new(packed))
            .unpack(dir.path())
            .unwrap();
        let golden = Self { manifest, dir };
        if let Some(variant) = variant {
            golden.apply(&golden.variant(variant));
        }
        golden
    }

    fn variant(&self, name: &str) -> Value {
        let variants = self.manifest["variants"].as_array().unwrap();
        variants
            .iter()
            .find(|variant| variant["name"] == name)
            .unwrap()
            .clone()
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn apply(&self, variant: &Value) {
        for patch in variant["patches"].as_array().unwrap() {
            let path = self.root().join(patch["file"].as_str().unwrap());
            let hex = patch["hex"].as_str().unwrap();
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let mut file = File::options().write(true).open(path).unwrap();
            file.seek(SeekFrom::Start(patch["offset"].as_u64().unwrap()))
                .unwrap();
            file.write_all(&bytes).unwrap();
        }
        for name in variant["deletes"].as_array().unwrap() {
            let path = self.root().join(name.as_str().unwrap());
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else if path.exists() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    fn config(&self) -> StoreConfig {
        let size = |key: &str| self.manifest["config"][key].as_u64().unwrap();
        let mut config = support::small(&self.root());
        config.segment_bytes = size("mappedFileSizeCommitLog");
        config.queue_file_bytes = size("mappedFileSizeConsumeQueue");
        config.batch_queue_file_bytes = size("mapperFileSizeBatchConsumeQueue");
        config.index_slots = u32::try_from(size("maxHashSlotNum")).unwrap();
        config.index_entries = u32::try_from(size("maxIndexNum")).unwrap();
        config.is_batch_topic = Arc::new(|topic| topic == "MixInnerBatch");
        config
    }

    fn open(&self) -> (Arc<Store>, Opened) {
        Store::open(self.config(), clock(), Arc::new(())).unwrap()
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap()
}

fn number(value: &Value, key: &str) -> i64 {
    value[key]
        .as_i64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

fn queue_of(value: &Value) -> (&str, QueueId) {
    let id = u32::try_from(number(value, "queueId")).unwrap();
    (text(value, "topic"), QueueId::new(id))
}

fn check_queues(store: &Store, answers: &Value) {
    for queue in answers["queues"].as_array().unwrap() {
        if queue.get("error").is_some() {
            continue;
        }
        let (topic, id) = queue_of(queue);
        let max = store.max_offset(topic, id).wire();
        // Apache's own background tasks appended after it had answered.
        if queue["growing"] == true {
            assert!(max >= number(queue, "maxOffset"), "{queue}");
            continue;
        }
        assert_eq!(max, number(queue, "maxOffset"), "{queue}");
        let min = store.min_offset(topic, id).wire();
        assert_eq!(min, number(queue, "minOffset"), "{queue}");
    }
}

struct OneTag<'t>(Option<&'t str>);

impl Filter for OneTag<'_> {
    fn by_tags_code(&self, code: i64) -> bool {
        self.0.is_none_or(|tag| tags_code(tag) == code)
    }
}

fn check_pulls(store: &Store, answers: &Value) {
    let Some(pulls) = answers.get("pulls").and_then(Value::as_array) else {
        return;
    };
    for pull in pulls {
        let (topic, queue_id) = queue_of(pull);
        let offset = number(pull, "offset");
        let tag = Some(text(pull, "sub")).filter(|tag| *tag != "*");
        let outcome = store.read(
            &ReadRequest {
                topic,
                queue_id,
                offset,
                messages_max: usize::try_from(number(pull, "maxNums")).unwrap(),
                bytes_max: None,
                residency: Residency::Anywhere,
            },
            &OneTag(tag),
        );
        let found: usize = outcome
            .records
            .iter()
            .map(|record| RecordView::parse(record).unwrap().properties())
            .filter(|properties| tag.is_none() || properties.get(properties::TAGS) == tag)
            .map(|properties| {
                properties
                    .get(properties::INNER_NUM)
                    .map_or(1, |count| count.parse().unwrap())
            })
            .sum();
        let status = match outcome.status {
            ReadStatus::Found if found == 0 => "NO_MATCHED_MSG",
            ReadStatus::Found => "FOUND",
            ReadStatus::NoMatchedMessage | ReadStatus::MessageWasRemoving => "NO_MATCHED_MSG",
            ReadStatus::OffsetOverflowOne | ReadStatus::OffsetFoundNull => "NO_NEW_MSG",
            ReadStatus::NoMessageInQueue if offset == 0 => "NO_NEW_MSG",
            ReadStatus::NoMessageInQueue
            | ReadStatus::OffsetTooSmall
            | ReadStatus::OffsetOverflowBadly => "OFFSET_ILLEGAL",
            other => panic!("{other:?} for {pull}"),
        };
        if answers["queues"]
            .as_array()
            .unwrap()
            .iter()
            .any(|queue| queue["growing"] == true && queue["topic"] == pull["topic"])
        {
            continue;
        }
        assert_eq!(status, text(pull, "status"), "{pull} {outcome:?}");
        assert_eq!(
            outcome.next_offset.wire(),
            number(pull, "nextBeginOffset"),
            "{pull}"
        );
        // Apache says -1 for a batch queue that never had a message, where we say 0 as for all others.
        let min = number(pull, "minOffset").max(0);
        assert_eq!(outcome.min_offset.wire(), min, "{pull}");
        assert_eq!(
            outcome.max_offset.wire(),
            number(pull, "maxOffset"),
            "{pull}"
        );
        assert_eq!(
            i64::try_from(found).unwrap(),
            number(pull, "found"),
            "{pull}"
        );
    }
}

fn check_times(store: &Store, answers: &Value) {
    let Some(times) = answers.get("offsetByTime").and_then(Value::as_array) else {
        return;
    };
    for time in times {
        let (topic, id) = queue_of(time);
        let at = number(time, "timestamp");
        let lower = store.offset_by_time(topic, id, at, Boundary::Lower);
        let upper = store.offset_by_time(topic, id, at, Boundary::Upper);
        assert_eq!(lower.wire(), number(time, "lower"), "{time}");
        assert_eq!(upper.wire(), number(time, "upper"), "{time}");
    }
}

/// What a client finds: the hash's hits whose key is the one asked for.
fn query(store: &Store, topic: &str, key: &str, max: usize) -> Vec<i64> {
    store
        .query(topic, key, max, 0, i64::MAX - 1)
        .into_iter()
        .filter(|offset| {
            let record = store.record_at(*offset).unwrap();
            let record = RecordView::parse(&record).unwrap();
            let properties = record.properties();
            record.topic() == topic
                && (properties.get(properties::UNIQ_KEY) == Some(key)
                    || properties
                        .get(properties::KEYS)
                        .is_some_and(|keys| keys.split(' ').any(|word| word == key)))
        })
        .map(PhysicalOffset::wire)
        .collect()
}

fn check_index(store: &Store, answers: &Value) {
    for asked in answers["indexQueries"].as_array().unwrap() {
        let max = usize::try_from(number(asked, "maxNum")).unwrap();
        let found = query(store, text(asked, "topic"), text(asked, "key"), max);
        let expected: Vec<i64> = asked["physicalOffsets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|offset| offset.as_i64().unwrap())
            .collect();
        assert_eq!(found, expected, "{asked}");
    }
}

fn check_records(store: &Store, manifest: &Value, from: i64, below: i64) {
    for expected in manifest["records"].as_array().unwrap() {
        let at = number(expected, "physicalOffset");
        let record = store.record_at(PhysicalOffset::from_wire(at).unwrap());
        if at < from || at >= below {
            assert!(record.is_none(), "{expected}");
            continue;
        }
        let record = record.unwrap_or_else(|| panic!("no record: {expected}"));
        let record = RecordView::parse(&record).unwrap();
        let (topic, id) = queue_of(expected);
        assert_eq!((record.topic(), record.queue_id()), (topic, id));
        assert_eq!(
            record.queue_offset().wire(),
            number(expected, "queueOffset")
        );
        assert_eq!(
            i64::try_from(record.bytes().len()).unwrap(),
            number(expected, "size")
        );
        assert_eq!(i64::from(record.sys_flag()), number(expected, "sysFlag"));
        assert_eq!(i64::from(record.flag()), number(expected, "flag"));
        assert_eq!(i64::from(record.body_crc()), number(expected, "bodyCRC"));
        assert_eq!(
            i64::try_from(record.body().len()).unwrap(),
            number(expected, "bodyLen")
        );
        assert_eq!(record.born_timestamp(), number(expected, "bornTimestamp"));
        assert_eq!(record.store_timestamp(), number(expected, "storeTimestamp"));
        assert_eq!(
            i64::from(record.reconsume_times()),
            number(expected, "reconsumeTimes")
        );
        assert_eq!(
            record.prepared_transaction_offset(),
            number(expected, "preparedTransactionOffset")
        );
        assert_eq!(
            record.offset_id().to_string(),
            text(expected, "offsetMsgId")
        );
        let properties = expected["properties"].as_object().unwrap();
        for (name, value) in properties {
            assert_eq!(record.properties().get(name), value.as_str(), "{name}");
        }
    }
}

/// Opens the set, compares all answers, and again after a clean stop and after a crash of ours.
fn check_set(set: &str) {
    let golden = Golden::unpack(set, None);
    for round in 0..3 {
        let (store, opened) = golden.open();
        assert_eq!(matches!(opened, Opened::Clean), round == 1, "{opened:?}");
        let manifest = &golden.manifest;
        check_queues(&store, manifest);
        check_pulls(&store, manifest);
        check_times(&store, manifest);
        check_index(&store, manifest);
        let runtime = &manifest["runtime"];
        let stats = store.stats();
        let start = number(runtime, "commitLogMinOffset");
        let end = number(runtime, "commitLogMaxOffset");
        assert_eq!(stats.log_min, u64::try_from(start).unwrap());
        assert!(stats.log_max >= u64::try_from(end).unwrap());
        assert_eq!(
            store.earliest_log_time(),
            runtime["earliestMessageTimeStamp"].as_i64()
        );
        check_records(&store, manifest, start, i64::MAX);
        if round == 0 {
            store.close().unwrap();
        }
    }
}

#[test]
fn plain() {
    check_set("plain");
}

#[test]
fn mixed() {
    check_set("mixed");
}

#[test]
fn expired() {
    check_set("expired");
}

#[test]
fn ipv6_and_record_sums() {
    check_set("ipv6-crc");
}

#[test]
fn default_sizes() {
    check_set("default-sizes");
}

#[test]
fn head_removed_by_hand() {
    let golden = Golden::unpack("plain", Some("head-removed"));
    let oracle = &golden.variant("head-removed")["oracle"];
    let (store, _) = golden.open();
    check_queues(&store, oracle);
    check_pulls(&store, oracle);
    check_times(&store, oracle);
    check_index(&store, oracle);
}

/// Opens a variant of the crashed set, compares what the oracle says, and that it is still so after a clean stop.
fn check_crash(variant: &str, check: impl Fn(&Golden, &Store, &Value)) {
    let golden = Golden::unpack("crash", Some(variant));
    let oracle = golden.variant(variant)["oracle"].clone();
    for round in 0..2 {
        let (store, opened) = golden.open();
        assert_eq!(matches!(opened, Opened::Clean), round == 1);
        check(&golden, &store, &oracle);
        store.close().unwrap();
    }
    // The next message takes the next place.
    let (store, _) = golden.open();
    let id = QueueId::new(0);
    let max = store.max_offset("CrashA", id).number();
    assert_eq!(put(&store, "CrashA", 0, b"next"), max);
}

fn check_like_apache(golden: &Golden, store: &Store, oracle: &Value) {
    check_queues(store, oracle);
    check_index(store, oracle);
    let end = number(&oracle["runtime"], "commitLogMaxOffset");
    assert_eq!(store.stats().log_max, u64::try_from(end).unwrap());
    check_records(store, &golden.manifest, 0, end);
}

#[test]
fn c1_killed() {
    check_crash("c1", check_like_apache);
}

#[test]
fn c2_last_body_damaged() {
    check_crash("c2", |golden, store, oracle| {
        check_like_apache(golden, store, oracle);
        let aside: Vec<_> = fs::read_dir(golden.root().join("damaged"))
            .unwrap()
            .collect();
        assert_eq!(aside.len(), 1, "the last record is set aside, not lost");
    });
}

#[test]
fn c3_last_record_torn() {
    check_crash("c3", check_like_apache);
}

#[test]
fn c5_everything_derived_is_gone() {
    check_crash("c5", check_like_apache);
}

#[test]
fn c6_last_body_damaged_and_no_mark() {
    check_crash("c6", check_like_apache);
}

/// Apache drops all from the bad record on, 61083 bytes with a whole file. Ours loses that one record: 687392 is its
/// damaged magic, what follows is served, and its place in its queue stays empty.
#[test]
fn c4_bad_record_in_the_middle_costs_only_itself() {
    const BAD: i64 = 687_388;
    check_crash("c4", |golden, store, _| {
        let records = golden.manifest["records"].as_array().unwrap();
        let bad = records
            .iter()
            .find(|record| record["physicalOffset"] == BAD)
            .unwrap();
        let end = number(&golden.manifest["runtime"], "commitLogMaxOffset");
        assert_eq!(store.stats().log_max, u64::try_from(end).unwrap());
        assert!(
            store
                .record_at(PhysicalOffset::from_wire(BAD).unwrap())
                .is_none()
        );
        for queue in golden.manifest["queues"].as_array().unwrap() {
            let (topic, id) = queue_of(queue);
            let expected: Vec<u64> = records
                .iter()
                .filter(|record| queue_of(record) == (topic, id) && *record != bad)
                .map(|record| u64::try_from(number(record, "queueOffset")).unwrap())
                .collect();
            let found: Vec<u64> = all(store, topic, id.number())
                .into_iter()
                .map(|(offset, _)| offset)
                .collect();
            assert_eq!(found, expected, "{topic}/{id}");
        }
    });
}

/// Apache deletes its index files here and builds anew only what recovery scans; ours keeps every key.
#[test]
fn c7_no_key_is_lost() {
    check_crash("c7", |golden, store, oracle| {
        check_queues(store, oracle);
        for record in golden.manifest["records"].as_array().unwrap() {
            let at = number(record, "physicalOffset");
            let key = text(&record["properties"], "UNIQ_KEY");
            assert_eq!(query(store, text(record, "topic"), key, 64), [at], "{key}");
        }
    });
}

/// Apache skips the one record that was not dispatched, and gives its number away again; ours dispatches it.
#[test]
fn c8_the_last_record_is_in_its_queue() {
    check_crash("c8", |golden, store, oracle| {
        let end = number(&oracle["runtime"], "commitLogMaxOffset");
        check_records(store, &golden.manifest, 0, end);
        let id = QueueId::new(1);
        assert_eq!(store.max_offset("CrashB", id), QueueOffset::new(221));
        assert_eq!(all(store, "CrashB", 1).last().unwrap().0, 220);
        check_queues(store, &golden.variant("c1")["oracle"]);
    });
}

/// A store of ours, continued from Apache's, goes on being one.
#[test]
fn messages_are_appended_behind_those_of_apache() {
    let golden = Golden::unpack("mixed", None);
    let before = {
        let (store, _) = golden.open();
        let before = all(&store, "MixNormal", 0);
        for i in 0..300 {
            put(&store, "MixNormal", 0, format!("ours {i}").as_bytes());
        }
        let batch_queue = golden.manifest["queues"]
            .as_array()
            .unwrap()
            .iter()
            .find(|queue| queue_of(queue) == ("MixInnerBatch", QueueId::new(0)))
            .unwrap();
        assert_eq!(
            put(&store, "MixInnerBatch", 0, b"single"),
            u64::try_from(number(batch_queue, "maxOffset")).unwrap()
        );
        before
    };
    let (store, opened) = golden.open();
    assert!(matches!(opened, Opened::Recovered(_)));
    let after = all(&store, "MixNormal", 0);
    assert_eq!(after.len(), before.len() + 300);
    assert_eq!(after[..before.len()], before);
}
