//! A stopped store is verified, dumped and rebuilt; each kind of damage is found and named.

#[path = "support/store.rs"]
mod support;

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use agena_store::StoreError;
use agena_store::inspect::{Found, Verified, VerifyOptions, dump, rebuild, verify};
use support::{all, append, message, open, properties, small};

/// A store of three queues and several log files, closed.
fn written(root: &Path) {
    let (store, _) = open(small(root));
    for number in 0..300_u32 {
        let key = format!("k{number}");
        let tagged = properties(&[
            ("KEYS", &key),
            ("TAGS", "red"),
            ("UNIQ_KEY", &format!("U{number}")),
        ]);
        let body = vec![b'x'; 300];
        let appended = append(&store, &[message("T", number % 3, &body, &tagged)]);
        assert_eq!(appended.expect("there is room").placed.len(), 1);
    }
    store.close().expect("it closes");
}

fn check(root: &Path) -> Verified {
    verify(root, &VerifyOptions { index_slots: 64 }, &mut |_| ()).expect("the files can be read")
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options()
        .write(true)
        .open(file)
        .expect("the file is there");
    file.write_all_at(bytes, at).expect("it can be written");
}

fn first_file(dir: PathBuf) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files.swap_remove(0)
}

#[test]
fn what_we_wrote_agrees_with_itself() {
    let root = tempfile::tempdir().expect("a directory");
    written(root.path());
    let report = check(root.path());
    assert_eq!(report.faults, []);
    assert_eq!(
        (report.records, report.entries, report.queues),
        (300, 300, 3)
    );
    assert_eq!(report.index_entries, 600);
}

#[test]
fn damage_is_named_with_file_and_place() {
    let root = tempfile::tempdir().expect("a directory");
    written(root.path());
    // A byte of the first record's body.
    let log = first_file(root.path().join("commitlog"));
    overwrite(&log, 100, b"?");
    let report = check(root.path());
    let reason = report
        .faults
        .iter()
        .find(|fault| fault.file == log && fault.at == 0);
    assert!(reason.is_some(), "{:?}", report.faults);
    overwrite(&log, 100, b"x");
    assert_eq!(check(root.path()).faults, []);

    // The size of the second entry of a queue.
    let queue = first_file(root.path().join("consumequeue/T/1"));
    overwrite(&queue, 28, &7_u32.to_be_bytes());
    let report = check(root.path());
    assert_eq!(
        (report.fault_count, report.faults[0].at),
        (1, 1),
        "{:?}",
        report.faults
    );
    assert!(report.faults[0].file.ends_with("consumequeue/T/1"));

    // A group that is further than its queue.
    let config = root.path().join("config");
    std::fs::create_dir_all(&config).expect("a directory");
    std::fs::write(
        config.join("consumerOffset.json"),
        r#"{"offsetTable":{"T@G":{0:100,2:101}}}"#,
    )
    .expect("written");
    let report = check(root.path());
    assert_eq!(
        (report.fault_count, report.consumer_offsets),
        (2, 2),
        "{:?}",
        report.faults
    );
    assert!(
        report.faults[1].reason.contains("group G is at 101"),
        "{:?}",
        report.faults
    );
}

#[test]
fn a_rebuild_makes_queues_and_index_from_the_log_and_keeps_the_former() {
    let root = tempfile::tempdir().expect("a directory");
    written(root.path());
    overwrite(
        &first_file(root.path().join("consumequeue/T/1")),
        28,
        &7_u32.to_be_bytes(),
    );
    std::fs::remove_dir_all(root.path().join("consumequeue/T/2")).expect("removed");
    assert_ne!(check(root.path()).fault_count, 0);
    let done = rebuild(small(root.path())).expect("it can be rebuilt");
    assert_eq!((done.records, done.queues), (300, 3));
    assert!(done.set_aside.join("consumequeue/T/1").is_dir());
    let report = check(root.path());
    assert_eq!(report.faults, []);
    assert_eq!((report.entries, report.index_entries), (300, 600));
    let (store, _) = open(small(root.path()));
    assert_eq!(all(&store, "T", 2).len(), 100);
}

#[test]
fn a_store_in_use_or_none_at_all_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let none = dump(root.path(), |_, _, _| ControlFlow::Continue(()));
    assert!(matches!(none, Err(StoreError::Layout { .. })), "{none:?}");
    let (store, _) = open(small(root.path()));
    let held = dump(root.path(), |_, _, _| ControlFlow::Continue(()));
    assert!(matches!(held, Err(StoreError::Held { .. })), "{held:?}");
    store.close().expect("it closes");
}

#[test]
fn a_dump_stops_when_it_is_told() {
    let root = tempfile::tempdir().expect("a directory");
    written(root.path());
    let mut numbers = Vec::new();
    dump(root.path(), |_, _, found| {
        if let Found::Record(record) = found {
            numbers.push((record.queue_id().number(), record.queue_offset().number()));
        }
        if numbers.len() == 4 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .expect("it can be read");
    assert_eq!(numbers, [(0, 0), (1, 0), (2, 0), (0, 1)]);
}
