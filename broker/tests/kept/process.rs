//! `mqbroker` as a process of its own, in a directory that outlives it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::wire::Wire;

/// The command that starts a broker on a free port, with its data below `directory` and `more` lines in its configuration,
/// and its standard output in a pipe.
pub(super) fn command(directory: &Path, more: &str) -> Command {
    let conf = directory.join("broker.conf");
    let root = directory.join("store");
    let lines = format!(
        "brokerName=broker-a\nbrokerIP1=127.0.0.1\nbindAddress=127.0.0.1\nlistenPort=0\nnamesrvAddr=\n\
         storePathRootDir={}\nrecallMessageEnable=true\n{more}",
        root.display()
    );
    std::fs::write(&conf, lines).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqbroker"));
    command
        .arg("-c")
        .arg(&conf)
        .env_remove("NAMESRV_ADDR")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Asks a process to stop in order, as supervisors do.
pub(super) fn terminate(child: &Child) {
    let told = Command::new("kill").arg(child.id().to_string()).status();
    assert!(told.unwrap().success());
}

/// A running broker; killed when dropped.
pub(super) struct BrokerProcess {
    child: Child,
    pub(super) address: SocketAddr,
}

impl BrokerProcess {
    /// Starts a broker on a free port, with its data below `directory`, and waits until it serves.
    pub(super) fn start(directory: &Path) -> Self {
        Self::start_with(
            directory,
            "mappedFileSizeCommitLog=16777216\nmaxHashSlotNum=1000\nmaxIndexNum=4000\n",
        )
    }

    /// The same with these lines in its configuration.
    pub(super) fn start_with(directory: &Path, more: &str) -> Self {
        Self::of(&mut command(directory, more))
    }

    /// The broker that a command starts.
    pub(super) fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(
                said.read_line(&mut line).unwrap(),
                0,
                "the broker ended before it served"
            );
            if let Some((_, rest)) = line.split_once("The broker[broker-a, ") {
                let (address, _) = rest.split_once(']').unwrap();
                break address.parse().unwrap();
            }
        };
        // Whoever stops reading a pipe stops its writer.
        std::thread::spawn(move || said.lines().for_each(drop));
        Self { child, address }
    }

    /// Files that it has open.
    pub(super) fn open_files(&self) -> usize {
        let files = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(files).unwrap().count()
    }

    /// A connection to it.
    pub(super) fn connect(&self) -> Wire {
        Wire::connect(self.address)
    }

    /// Ends it without a word, as `kill -9` does.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) {
        terminate(&self.child);
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
