//! Bytes that are torn, flipped, cut off or replaced, in every kind of file: a store opens and serves what is whole, or
//! says which file is wrong. It never panics, and never delivers what was not sent.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests may unwrap"
)]

#[path = "support/device.rs"]
mod device;
#[path = "support/store.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agena_protocol::record::RecordView;
use agena_store::inspect::{VerifyOptions, verify};
use agena_store::{Opened, Store, StoreConfig};
use device::{Random, fast_dir};
use support::{all, append, clock, message, open, properties, put};

const MESSAGES: u32 = 12;
/// Bytes of the last record in front of its topic.
const HEAD_AND_BODY: usize = 88 + 20 + MESSAGES as usize - 1;
const SLOTS: u32 = 16;

fn small(root: &Path) -> StoreConfig {
    let mut config = support::small(root);
    config.index_slots = SLOTS;
    config
}

/// What a stretch that is torn has in it, in turn from byte to byte: nothing, or anything.
fn garbage(cut: usize) -> u8 {
    if cut.is_multiple_of(2) { 0 } else { 0xA5 }
}

/// A store's files in memory, so that each damage starts from the same.
struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    fn of(root: &Path) -> Self {
        let mut files = Vec::new();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let relative = path.strip_prefix(root).unwrap().to_owned();
                    files.push((relative, fs::read(path).unwrap()));
                }
            }
        }
        files.sort();
        Self(files)
    }

    /// The files in a directory of their own.
    fn laid_out(&self) -> tempfile::TempDir {
        let dir = fast_dir();
        for (relative, content) in &self.0 {
            let path = dir.path().join(relative);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    /// The only file below a directory, or the file itself.
    fn one(&self, below: &str) -> &(PathBuf, Vec<u8>) {
        self.0
            .iter()
            .find(|(path, _)| path.starts_with(below))
            .unwrap()
    }
}

fn body(number: u32) -> Vec<u8> {
    vec![number as u8 + 1; 20 + number as usize]
}

fn key(number: u32) -> String {
    format!("k{number}")
}

/// Messages in one queue, each with a key. `ends` says where each record ends.
fn write(config: StoreConfig, ends: &mut Vec<usize>) -> Arc<Store> {
    let (store, _) = open(config);
    for number in 0..MESSAGES {
        let properties = properties(&[("KEYS", &key(number)), ("TAGS", "t")]);
        let _ = append(&store, &[message("T", 0, &body(number), &properties)]).unwrap();
        ends.push(store.stats().log_max as usize);
    }
    store
}

/// The files that a crash leaves behind a mark: half of the messages below it.
fn after_a_crash(config: impl Fn(&Path) -> StoreConfig) -> (Files, Vec<usize>) {
    let dir = fast_dir();
    let mut ends = Vec::new();
    write(config(dir.path()), &mut ends).close().unwrap();
    // Closed once, so that queue, index and mark are there; then opened, and gone.
    let (store, _) = open(config(dir.path()));
    drop(store);
    (Files::of(dir.path()), ends)
}

/// Every message is there, in its place, and is found by its key.
fn check_whole(store: &Store, what: &str) {
    let expected: Vec<_> = (0..MESSAGES)
        .map(|number| (u64::from(number), body(number)))
        .collect();
    assert!(
        all(store, "T", 0) == expected,
        "{what}: the queue is not whole"
    );
    for number in 0..MESSAGES {
        let found = store.query("T", &key(number), 64, 0, i64::MAX);
        let is_found = found.iter().any(|offset| {
            let record = store.record_at(*offset).unwrap();
            RecordView::parse(&record).unwrap().body() == body(number)
        });
        assert!(is_found, "{what}: {} is not found", key(number));
    }
    let next = u64::from(MESSAGES);
    assert_eq!(put(store, "T", 0, b"next"), next, "{what}");
}

fn check_verified(root: &Path, what: &str) {
    let options = VerifyOptions { index_slots: SLOTS };
    let report = verify(root, &options, &mut |_| ()).unwrap();
    assert_eq!(report.fault_count, 0, "{what}: {:?}", report.faults);
}

/// What is torn from a byte on: the rest of the stretch is zeros, or anything.
fn torn(content: &[u8], stretch: std::ops::Range<usize>, garbage: u8) -> Vec<u8> {
    let mut torn = content.to_vec();
    torn[stretch].fill(garbage);
    torn
}

#[test]
fn a_record_torn_at_any_byte_costs_at_most_itself() {
    for sums in [false, true] {
        let config = |root: &Path| {
            let mut config = small(root);
            config.sum_records = sums;
            config
        };
        let dir = fast_dir();
        let mut ends = Vec::new();
        drop(write(config(dir.path()), &mut ends));
        let files = Files::of(dir.path());
        let (path, whole) = files.one("commitlog");
        let (last, end) = (ends[ends.len() - 2], ends[ends.len() - 1]);
        for (cut, garbage) in (last..end).map(|cut| (cut, garbage(cut))) {
            let torn = torn(whole, cut..end, garbage);
            if torn == *whole {
                continue;
            }
            let what = format!("sums {sums}, cut at {cut} of {last}..{end}, {garbage}");
            let dir = files.laid_out();
            fs::write(dir.path().join(path), &torn).unwrap();
            let (store, opened) = open(config(dir.path()));
            let found = all(&store, "T", 0);
            let is_kept = found.len() == MESSAGES as usize;
            // Nothing covers what follows the body, when the sum over the record is torn off with it: there a torn record
            // may pass, with its body whole.
            assert!(
                !is_kept || cut > last + HEAD_AND_BODY,
                "{what}: not noticed"
            );
            for (number, (offset, body_found)) in (0..).zip(&found) {
                assert_eq!(*offset, u64::from(number), "{what}");
                assert!(*body_found == body(number), "{what}: {number}");
            }
            assert!(
                found.len() + 1 >= MESSAGES as usize,
                "{what}: {}",
                found.len()
            );
            if !is_kept {
                let Opened::Recovered(report) = opened else {
                    panic!("{what}: not scanned");
                };
                assert_eq!(report.log_end as usize, last, "{what}");
                assert_eq!(put(&store, "T", 0, b"next"), u64::from(MESSAGES) - 1);
            }
            store.close().unwrap();
        }
    }
}

#[test]
fn what_is_derived_may_be_torn_at_any_byte() {
    let (files, _) = after_a_crash(small);
    let queue_bytes = MESSAGES as usize * 20;
    let index_bytes = 40 + SLOTS as usize * 4 + (MESSAGES as usize + 1) * 20;
    // Without the mark, the crash came before it: nothing derived is promised, all is built again.
    let unmarked: Vec<_> = files
        .0
        .iter()
        .filter(|(path, _)| path != Path::new("checkpoint"))
        .cloned()
        .collect();
    let unmarked = Files(unmarked);
    for (below, bytes) in [("consumequeue", queue_bytes), ("index", index_bytes)] {
        let (path, whole) = unmarked.one(below);
        for (cut, garbage) in (0..bytes).map(|cut| (cut, garbage(cut))) {
            let what = format!("{below}, cut at {cut}, {garbage}");
            let dir = unmarked.laid_out();
            fs::write(dir.path().join(path), torn(whole, cut..bytes, garbage)).unwrap();
            let (store, _) = open(small(dir.path()));
            check_whole(&store, &what);
            store.close().unwrap();
            check_verified(dir.path(), &what);
        }
    }
}

#[test]
fn the_checkpoint_and_the_summary_of_a_clean_stop_may_be_torn_at_any_byte() {
    let (crashed, _) = after_a_crash(small);
    let dir = fast_dir();
    write(small(dir.path()), &mut Vec::new()).close().unwrap();
    let stopped = Files::of(dir.path());
    for (files, name) in [
        (&crashed, "checkpoint"),
        (&stopped, "checkpoint"),
        (&stopped, "queues.clean"),
    ] {
        let (path, whole) = files.one(name);
        let bytes = whole.len().min(600);
        // Between the original's part of the checkpoint and ours there is nothing.
        for cut in (0..bytes).filter(|cut| name != "checkpoint" || !(48..504).contains(cut)) {
            let garbage = Some(garbage(cut)).filter(|_| cut % 3 > 0);
            let content = match garbage {
                Some(garbage) => torn(whole, cut..bytes, garbage),
                None => whole[..cut].to_vec(),
            };
            let what = format!("{name}, cut at {cut}, {garbage:?}");
            let dir = files.laid_out();
            fs::write(dir.path().join(path), content).unwrap();
            let (store, _) = open(small(dir.path()));
            check_whole(&store, &what);
            store.close().unwrap();
        }
    }
}

#[test]
fn a_flipped_bit_in_any_file_is_never_delivered() {
    let config = |root: &Path| {
        let mut config = small(root);
        config.sum_records = true;
        config
    };
    let (crashed, ends) = after_a_crash(config);
    let dir = fast_dir();
    write(config(dir.path()), &mut Vec::new()).close().unwrap();
    let stopped = Files::of(dir.path());
    let mut random = Random::new(11);
    for (files, state) in [(&crashed, "crashed"), (&stopped, "stopped")] {
        for (path, whole) in &files.0 {
            let bytes = match path.starts_with("commitlog") {
                true => *ends.last().unwrap(),
                false => whole.len().min(800),
            };
            for _ in 0..if bytes == 0 { 0 } else { 40 } {
                let bit = random.below(bytes as u64 * 8) as usize;
                let what = format!("{state}, {}, bit {bit}", path.display());
                let mut damaged = whole.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let dir = files.laid_out();
                fs::write(dir.path().join(path), damaged).unwrap();
                let (store, _) = open(config(dir.path()));
                let found = all(&store, "T", 0);
                for (number, content) in &found {
                    assert!(*content == body(*number as u32), "{what}: {number}");
                }
                // One bit costs one message at most.
                assert!(
                    found.len() + 1 >= MESSAGES as usize,
                    "{what}: {}",
                    found.len()
                );
                for number in 0..MESSAGES {
                    for offset in store.query("T", &key(number), 64, 0, i64::MAX) {
                        let _ = store.record_at(offset);
                    }
                }
                store.close().unwrap();
            }
        }
    }
}

/// What stands in place of a file.
#[derive(Debug, Clone, Copy)]
enum Instead {
    Nothing,
    Bytes(usize),
    OneMore,
    OneLess,
    Directory,
}

#[test]
fn a_file_of_the_wrong_kind_or_length_is_built_again_or_named() {
    let (crashed, _) = after_a_crash(small);
    let dir = fast_dir();
    write(small(dir.path()), &mut Vec::new()).close().unwrap();
    let stopped = Files::of(dir.path());
    for (path, whole) in crashed.0.iter().chain(&stopped.0) {
        let files = match stopped.0.iter().any(|(known, _)| known == path) {
            true => &stopped,
            false => &crashed,
        };
        for instead in [
            Instead::Nothing,
            Instead::Bytes(0),
            Instead::Bytes(1),
            Instead::Bytes(19),
            Instead::OneMore,
            Instead::OneLess,
            Instead::Directory,
        ] {
            let is_the_log = path.starts_with("commitlog") && whole.iter().any(|byte| *byte != 0);
            let what = format!("{}: {instead:?}", path.display());
            let dir = files.laid_out();
            let target = dir.path().join(path);
            fs::remove_file(&target).unwrap();
            match instead {
                Instead::Nothing => {}
                Instead::Bytes(bytes) => fs::write(&target, vec![0xA5; bytes]).unwrap(),
                Instead::OneMore => fs::write(&target, [&whole[..], &[1]].concat()).unwrap(),
                Instead::OneLess => {
                    fs::write(&target, &whole[..whole.len().saturating_sub(1)]).unwrap();
                }
                Instead::Directory => fs::create_dir(&target).unwrap(),
            }
            match Store::open(small(dir.path()), clock(), Arc::new(())) {
                Ok((store, _)) if is_the_log => {
                    // Without its only file the log is empty, and so is all that is derived.
                    assert!(all(&store, "T", 0).is_empty(), "{what}");
                }
                Ok((store, _)) => check_whole(&store, &what),
                Err(error) => {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    assert!(error.to_string().contains(name), "{what}: {error}");
                }
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_in_any_file_open_or_are_named(
        choice in 0_usize..5,
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..700),
        from in 0_usize..200,
    ) {
        let below = ["commitlog", "consumequeue", "index", "checkpoint", "queues.clean"][choice];
        let dir = fast_dir();
        write(small(dir.path()), &mut Vec::new()).close().unwrap();
        let files = Files::of(dir.path());
        let (path, whole) = files.one(below);
        let mut content = whole.clone();
        let from = from.min(content.len());
        let to = (from + bytes.len()).min(content.len());
        content[from..to].copy_from_slice(&bytes[..to - from]);
        let damaged = files.laid_out();
        fs::write(damaged.path().join(path), content).unwrap();
        let (store, _) = open(small(damaged.path()));
        for (number, found) in all(&store, "T", 0) {
            // Bytes of the log may make another message of it, without sums; never from derived files.
            proptest::prop_assert!(below == "commitlog" || found == body(number as u32));
        }
        for number in 0..MESSAGES {
            for offset in store.query("T", &key(number), 64, 0, i64::MAX) {
                let _ = store.record_at(offset);
            }
        }
        put(&store, "T", 1, b"next");
        store.close().unwrap();
    }
}
