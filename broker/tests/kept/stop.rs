//! A broker is told to stop, at whatever moment of its life, and one is started where another has not quite ended.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::process::{BrokerProcess, command, terminate};

/// A broker that was not said to serve yet: a name server takes its connection and answers nothing.
struct Registering {
    child: Child,
    name_server: (TcpListener, TcpStream),
}

impl Registering {
    fn start(directory: &Path) -> Self {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let name_server = format!("namesrvAddr={}\n", silent.local_addr().unwrap());
        let child = command(directory, &name_server).spawn().unwrap();
        let (connection, _) = silent.accept().unwrap();
        let name_server = (silent, connection);
        Self { child, name_server }
    }
}

/// A supervisor may change its mind before the broker has said that it serves.
#[test]
fn a_stop_before_the_broker_says_that_it_serves_is_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut starting = Registering::start(directory.path());
    terminate(&starting.child);
    let ended = starting.child.wait().unwrap();
    assert!(ended.success(), "{ended}");
    assert!(
        !directory.path().join("store/abort").exists(),
        "the next start takes it for a crash"
    );
}

/// Whoever started the broker through a pipe may be gone when it says that it serves.
#[test]
fn a_broker_whose_output_nobody_reads_serves() {
    let directory = tempfile::tempdir().unwrap();
    let mut starting = Registering::start(directory.path());
    drop(starting.child.stdout.take());
    drop(starting.name_server);
    terminate(&starting.child);
    let ended = starting.child.wait().unwrap();
    assert!(ended.success(), "{ended}");
}

/// An opening that takes long is not waited for. Here a file that is read at the open comes from somebody who writes
/// nothing.
#[test]
fn a_stop_while_a_store_is_opened_ends_the_broker_soon() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("store/config");
    std::fs::create_dir_all(&kept).unwrap();
    let topics = kept.join("topics.json");
    assert!(
        Command::new("mkfifo")
            .arg(&topics)
            .status()
            .unwrap()
            .success()
    );
    let mut child = command(directory.path(), "")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Opens when the broker opens it for reading.
    let _silent = OpenOptions::new().write(true).open(&topics).unwrap();
    terminate(&child);
    let ended = child.wait().unwrap();
    let mut log = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(ended.success(), "{ended}\n{log}");
    assert!(log.contains("while the store was being opened"), "{log}");
    std::fs::remove_file(&topics).unwrap();
    BrokerProcess::start(directory.path()).stop();
}

/// Whoever kills a broker starts the next one at once, while the system still ends the writes of the first.
#[test]
fn a_start_waits_for_a_store_that_is_being_given_up() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("store")).unwrap();
    let lock = File::create(directory.path().join("store/lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut command = command(directory.path(), "");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits = log.find(|line| line.as_ref().unwrap().contains("is held by another broker"));
    assert!(waits.is_some(), "it does not say what it waits for");
    assert!(child.try_wait().unwrap().is_none(), "it does not wait");
    drop(lock);
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let serves = said.find(|line| line.as_ref().unwrap().contains("boot success"));
    assert!(serves.is_some(), "it does not go on");
    terminate(&child);
    assert!(child.wait().unwrap().success());
}
