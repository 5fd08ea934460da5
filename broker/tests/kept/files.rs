//! A broker that may have few files open, and peers that take as many connections as they get.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use super::process::{BrokerProcess, command};

const FILES: usize = 300;

/// A connection is refused by its end.
fn is_refused(connection: &mut TcpStream) -> bool {
    connection
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    matches!(connection.read(&mut [0]), Ok(0))
}

#[test]
fn connections_leave_files_to_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let settings = "mappedFileSizeCommitLog=1048576\nmaxHashSlotNum=1000\nmaxIndexNum=4000\n";
    let direct = command(directory.path(), settings);
    let mut limited = Command::new("sh");
    limited
        .arg("-c")
        .arg(format!(
            "ulimit -Sn 100; ulimit -Hn {FILES}; exec \"$0\" \"$@\""
        ))
        .arg(direct.get_program())
        .args(direct.get_args())
        .env_remove("NAMESRV_ADDR")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null());
    let broker = BrokerProcess::of(&mut limited);
    let mut neighbour = broker.connect();
    let mut flood: Vec<_> = (0..FILES + 50)
        .map(|_| TcpStream::connect(broker.address).unwrap())
        .collect();
    assert!(is_refused(flood.last_mut().unwrap()));
    // As many as it may have and not only those that it was given, but for the last ones.
    let open = broker.open_files();
    assert!((FILES / 2..FILES - 50).contains(&open), "{open}");
    // New log files, queues and an index: the store opens what it needs.
    for number in 0..40 {
        let body = "x".repeat(100_000);
        neighbour.send(&format!("T{number}"), &body, &[("KEYS", "k")]);
    }
    drop(flood);
    broker.stop();
    let broker = BrokerProcess::start_with(directory.path(), settings);
    let mut wire = broker.connect();
    for number in 0..40 {
        assert_eq!(wire.max_offset(&format!("T{number}")), 1, "{number}");
    }
}
