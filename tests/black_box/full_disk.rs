//! A file system of 64 MiB that is full five times: sends are refused with the original's code, everything acknowledged stays, and
//! within a second of space coming back messages are taken again, without a restart.
//!
//! The file system is a tmpfs in a mount namespace of its own, in which the test starts itself anew. Where the system allows
//! neither, the test says so and does nothing.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::raw::{Answer, Raw};
use crate::servers::{Servers, agena};
use crate::stored::{check_with_script, stored};

const INSIDE: &str = "AGENA_TEST_IN_MOUNT_NAMESPACE";
const THIS_TEST: &str = "full_disk::a_full_disk_refuses_loses_nothing_and_is_left_again";

const SERVICE_NOT_AVAILABLE: i64 = 14;
const TIMES: usize = 5;
const MESSAGE_BYTES: usize = 100_000;
const TOPIC: &str = "full";

/// Space that the first message of a round finds, so that the disk becomes full under load.
const ROOM_BYTES: u64 = 7 << 20;

/// What the broker is given to see the space; on a machine with other work one time may be late, not most of them.
const AGAIN_WITHIN: Duration = Duration::from_secs(1);
const AGAIN_WITHIN_EVER: Duration = Duration::from_secs(20);

const INDEX_SLOTS: &str = "10000";
const SETTINGS: [&str; 7] = [
    "mappedFileSizeCommitLog=4194304",
    "mappedFileSizeConsumeQueue=200000",
    "maxHashSlotNum=10000",
    "maxIndexNum=40000",
    // Neither the hour nor the fullness of the disk may delete what the test reads back, nor refuse before the disk is full.
    "fileReservedTime=876000",
    "cleanFileForciblyEnable=false",
    "diskSpaceWarningLevelRatio=100",
];

#[test]
fn a_full_disk_refuses_loses_nothing_and_is_left_again() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let Some(namespace) = namespace() else {
        eprintln!(
            "SKIPPED: {THIS_TEST}: no file system can be mounted here, neither as this user nor as root of a user namespace"
        );
        return;
    };
    let status = Command::new("unshare")
        .args(namespace)
        .arg(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", THIS_TEST, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("unshare was there a moment ago");
    assert!(status.success(), "inside the namespace: {status}");
}

/// The options of `unshare` with which a tmpfs can be mounted.
fn namespace() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--map-root-user", "--mount"]];
    ways.into_iter().find(|way| {
        Command::new("unshare")
            .args(*way)
            .args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

fn inside() {
    let disk = Disk::mount();
    let root = format!("storePathRootDir={}", disk.path.join("store").display());
    let settings: Vec<&str> = SETTINGS.into_iter().chain([root.as_str()]).collect();
    let mut servers = Servers::start_with(&settings);
    let mut raw = servers.raw();
    raw.create_topic(TOPIC, 1);
    let mut acknowledged = Vec::new();
    let mut again_after = Vec::new();
    for time in 0..TIMES {
        let full_at = acknowledged.len();
        disk.leave(ROOM_BYTES);
        let refused = send_until_refused(&mut raw, &mut acknowledged);
        assert_eq!(refused.code, SERVICE_NOT_AVAILABLE, "{}", refused.remark);
        assert!(
            refused.remark.contains("disk is full"),
            "{}",
            refused.remark
        );
        assert!(acknowledged.len() > full_at, "there was some room");
        disk.leave(0);
        // While there is no byte left: still refused, nothing of it is stored, and what is there is read.
        for _ in 0..20 {
            assert_eq!(send(&mut raw, usize::MAX).code, SERVICE_NOT_AVAILABLE);
        }
        change_topics(&mut raw, time);
        assert_eq!(stored(&servers, TOPIC), acknowledged, "full time {time}");
        disk.free();
        again_after.push(until_taken(&mut raw, &mut acknowledged));
        raw.create_topic(&format!("after{time}"), 1);
    }
    again_after.sort();
    eprintln!("messages were taken again after {again_after:?}");
    assert!(again_after[TIMES / 2] < AGAIN_WITHIN, "{again_after:?}");
    assert_eq!(stored(&servers, TOPIC), acknowledged, "at the end");

    // A crash, and an orderly stop: all is there, and the files agree.
    servers.kill();
    servers.start_again();
    assert_eq!(stored(&servers, TOPIC), acknowledged, "after a kill");
    let mut raw = servers.raw();
    for time in 0..TIMES {
        let answer = raw.pull(&format!("after{time}"), "0", 0);
        assert_eq!(
            answer.code, 19,
            "after{time} is there, and empty: {}",
            answer.remark
        );
    }
    assert!(servers.stop().success());
    let verified = agena()
        .args(["admin", "storeVerify", "-s", INDEX_SLOTS, "-d"])
        .arg(disk.path.join("store"))
        .stdin(Stdio::null())
        .output()
        .expect("agena runs");
    assert!(verified.status.success(), "{verified:?}");
    check_with_script(&disk.path.join("store"), INDEX_SLOTS);
}

/// Message `number`, which its body begins with.
fn send(raw: &mut Raw, number: usize) -> Answer {
    raw.send(
        TOPIC,
        "0",
        &format!("KEYS\u{1}k{number}\u{2}"),
        body(number).as_bytes(),
    )
}

fn body(number: usize) -> String {
    let mut body = format!("message {number} ");
    body.extend(std::iter::repeat_n('x', MESSAGE_BYTES - body.len()));
    body
}

fn send_until_refused(raw: &mut Raw, acknowledged: &mut Vec<String>) -> Answer {
    // More than the whole disk holds.
    for _ in 0..700 {
        let number = acknowledged.len();
        let answer = send(raw, number);
        if answer.code != 0 {
            return answer;
        }
        assert_eq!(answer.ext["queueOffset"], number.to_string());
        acknowledged.push(body(number));
    }
    panic!("more was taken than the disk holds");
}

/// Changes of settings are answered, either way; the last ones here break off in the middle of a line of the journal.
fn change_topics(raw: &mut Raw, time: usize) {
    for number in 0..30 {
        let name = format!("tight{time}-{number}-{}", "x".repeat(80));
        let _ = raw.call(
            crate::raw::UPDATE_AND_CREATE_TOPIC,
            &[
                ("topic", &name),
                ("defaultTopic", "TBW102"),
                ("readQueueNums", "1"),
                ("writeQueueNums", "1"),
                ("perm", "6"),
                ("topicFilterType", "SINGLE_TAG"),
                ("topicSysFlag", "0"),
                ("order", "false"),
            ],
            b"",
        );
    }
}

fn until_taken(raw: &mut Raw, acknowledged: &mut Vec<String>) -> Duration {
    let freed = Instant::now();
    loop {
        let number = acknowledged.len();
        let answer = send(raw, number);
        if answer.code == 0 {
            acknowledged.push(body(number));
            return freed.elapsed();
        }
        assert_eq!(answer.code, SERVICE_NOT_AVAILABLE, "{}", answer.remark);
        assert!(freed.elapsed() < AGAIN_WITHIN_EVER, "{}", answer.remark);
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// 64 MiB, of which a file of the test's takes what it wants. Gone with the namespace.
struct Disk {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("disk");
        std::fs::create_dir(&path).expect("a place to mount at");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(&path)
            .status()
            .expect("mount runs");
        assert!(status.success());
        Self {
            path,
            _directory: directory,
        }
    }

    /// Takes all space but `room`.
    fn leave(&self, room: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.other_file())
            .expect("the other file");
        while available(&self.path) > room {
            let take = (available(&self.path) - room).min(1 << 20);
            let take = usize::try_from(take).expect("a megabyte");
            if file.write_all(&vec![0; take]).is_err() {
                return;
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.other_file()).expect("the other file is there");
    }

    fn other_file(&self) -> PathBuf {
        self.path.join("other")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn available(path: &Path) -> u64 {
    let space = rustix::fs::statvfs(path).expect("the file system tells");
    space.f_bavail * space.f_frsize
}
