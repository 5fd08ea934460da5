//! A process that is killed in the middle of a record leaves nothing of it. A record's page is where that happens: its first
//! touch may wait for a device, and who waits is killed there.
//!
//! The test takes the page away: the file ends in front of it, so that the writer dies of SIGBUS at its first byte there.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/store.rs"]
mod support;

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use agena_store::{NewMessage, Store};
use support::{all, append, durable, message, open, properties, put, small};

/// Where the file ends while the record is written.
const END: u64 = 8192;
/// The writer's store, and how many bytes of the record lie in front of the page's end.
const DIR: &str = "AGENA_KILLED_WRITING";
const IN_FRONT: &str = "AGENA_KILLED_WRITING_IN_FRONT";

fn log_file(dir: &Path) -> File {
    let path = dir.join("commitlog/00000000000000000000");
    File::options().write(true).open(path).unwrap()
}

/// Two messages, the second of which ends `in_front` bytes before the page does.
fn fill(store: &Store, in_front: u64) {
    let first = append(store, &[message("T", 0, b"x", b"")]).unwrap();
    let bytes = u64::from(first.placed[0].bytes);
    let body = vec![b'f'; usize::try_from(END - in_front - 2 * bytes + 1).unwrap()];
    let filler = append(store, &[message("T", 0, &body, b"")]).unwrap();
    durable(store, &filler).unwrap();
    assert_eq!(store.log_end().number(), END - in_front);
}

/// As a process of its own, which is this test once more: runs it until it dies.
fn die(test: &str, dir: &Path, in_front: u64) {
    let status = Command::new("sh")
        .args(["-c", "ulimit -c 0; exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(DIR, dir)
        .env(IN_FRONT, in_front.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{in_front}: {status}");
}

/// What a writer that dies while it appends leaves, wherever in the `count` messages of one append it dies.
fn nothing_is_left(test: &str, count: usize, is_batch: bool) {
    let pairs = [("UNIQ_KEY", "0".repeat(32)), ("SEQUENCE", "1".repeat(20))];
    let pairs = pairs.each_ref().map(|(name, value)| (*name, &**value));
    let encoded = properties(&pairs);
    let messages: Vec<NewMessage<'_>> = (0..count)
        .map(|_| message("T", 0, b"the body of it", &encoded))
        .collect();
    let push = |store: &Store| {
        let mut batch = store.batch();
        if is_batch {
            batch.push_all_or_nothing(&messages).unwrap();
        } else {
            for message in &messages {
                batch.push(*message).unwrap();
            }
        }
        store.append(&mut batch).unwrap()
    };
    if let Some(dir) = std::env::var_os(DIR) {
        let dir = Path::new(&dir);
        let (store, _) = open(small(dir));
        fill(&store, std::env::var(IN_FRONT).unwrap().parse().unwrap());
        log_file(dir).set_len(END).unwrap();
        let _ = push(&store);
        unreachable!("the page is not there");
    }
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(small(dir.path()));
        let placed = push(&store).placed;
        placed.iter().map(|placed| u64::from(placed.bytes)).sum()
    };
    for in_front in (0..whole).step_by(5) {
        let dir = tempfile::tempdir().unwrap();
        let config = small(dir.path());
        die(test, dir.path(), in_front);
        log_file(dir.path()).set_len(config.segment_bytes).unwrap();
        let (store, _) = open(config);
        assert_eq!(all(&store, "T", 0).len(), 2, "{in_front} of {whole}");
        assert_eq!(store.log_end().number(), END - in_front);
        assert_eq!(put(&store, "T", 0, b"the next"), 2);
        store.close().unwrap();
    }
}

#[test]
fn of_a_message_nothing_is_left() {
    nothing_is_left("of_a_message_nothing_is_left", 1, false);
}

#[test]
fn of_a_batch_nothing_is_left() {
    nothing_is_left("of_a_batch_nothing_is_left", 4, true);
}

#[test]
fn of_messages_that_came_together_nothing_is_left() {
    nothing_is_left("of_messages_that_came_together_nothing_is_left", 4, false);
}
