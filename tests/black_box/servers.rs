//! `agena` as a process: started on free ports, waited for until its broker is registered, stopped or killed.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::raw::Raw;

const GET_BROKER_CLUSTER_INFO: i32 = 106;
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running name server and broker; killed when dropped.
pub(crate) struct Servers {
    data: TempDir,
    settings: Vec<String>,
    name_server_port: u16,
    broker_port: u16,
    process: Child,
}

impl Servers {
    /// With the settings of a broker.conf without lines.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With lines `key=value` of a broker.conf.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let settings: Vec<String> = settings.iter().map(|&line| line.to_owned()).collect();
        // Another test may take a port between our look and the server's: then it says so, and others are tried.
        for _ in 0..10 {
            let (name_server_port, broker_port) = free_ports();
            let mut process = spawn(data.path(), name_server_port, broker_port, &settings);
            if wait_ready(&mut process, name_server_port) {
                return Self {
                    data,
                    settings,
                    name_server_port,
                    broker_port,
                    process,
                };
            }
        }
        panic!("agena does not start:\n{}", output(data.path()));
    }

    pub(crate) fn name_server(&self) -> String {
        format!("127.0.0.1:{}", self.name_server_port)
    }

    pub(crate) fn broker(&self) -> String {
        format!("127.0.0.1:{}", self.broker_port)
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// What the process has printed so far.
    pub(crate) fn output(&self) -> String {
        output(self.data())
    }

    /// Waits until the process has printed a line like this: what it does may be seen before what it says of it.
    pub(crate) fn wait_for_line(&self, is_it: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.output().lines().any(&is_it) {
            assert!(Instant::now() < deadline, "the line does not come");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// A connection to the broker.
    pub(crate) fn raw(&self) -> Raw {
        Raw::connect(&self.broker())
    }

    /// kill -9, as a crash.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("the process can be killed");
        self.process.wait().expect("the process ends");
    }

    /// SIGTERM, and what the process ended with.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("the process runs");
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.process.try_wait().expect("the process is ours") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "no end after SIGTERM:\n{}",
                self.output()
            );
            std::thread::yield_now();
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The same ports and directory again, after [`Servers::kill`] or [`Servers::stop`].
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(
            self.data.path(),
            self.name_server_port,
            self.broker_port,
            &self.settings,
        );
        assert!(
            wait_ready(&mut self.process, self.name_server_port),
            "agena does not start again:\n{}",
            self.output()
        );
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- what agena printed:\n{}", self.output());
        }
    }
}

fn output(data: &Path) -> String {
    std::fs::read_to_string(data.join("output")).unwrap_or_default()
}

fn spawn(data: &Path, name_server_port: u16, broker_port: u16, settings: &[String]) -> Child {
    let open = || {
        File::options()
            .create(true)
            .append(true)
            .open(data.join("output"))
            .expect("the output file opens")
    };
    let mut command = agena();
    command
        .arg("--data")
        .arg(data.join("agena-data"))
        .args(["--namesrv-port", &name_server_port.to_string()])
        .args(["--broker-port", &broker_port.to_string()]);
    for line in settings {
        command.args(["--set", line]);
    }
    command
        .stdin(Stdio::null())
        .stdout(open())
        .stderr(open())
        .spawn()
        .expect("agena can be started")
}

/// The binary under test, without the variables of whoever runs the tests.
pub(crate) fn agena() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agena"));
    command.env_remove("NAMESRV_ADDR").env_remove("RUST_LOG");
    command
}

/// Until the name server knows the broker; `false` when the process ended before.
fn wait_ready(process: &mut Child, name_server_port: u16) -> bool {
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        if process.try_wait().expect("the process is ours").is_some() {
            return false;
        }
        if let Some(mut raw) = Raw::try_connect(&format!("127.0.0.1:{name_server_port}"))
            && let Ok(answer) = raw.try_call(GET_BROKER_CLUSTER_INFO, &[], b"")
            && String::from_utf8_lossy(&answer.body).contains("brokerAddrs")
        {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let _ = process.kill();
    let _ = process.wait();
    false
}

/// A port for the name server, and one for the broker whose neighbours (fast port, replication) are free as well.
pub(crate) fn free_ports() -> (u16, u16) {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
        let (name_server, broker) = (port(&first), port(&second));
        let neighbours = [broker.wrapping_sub(2), broker.wrapping_add(1)];
        let free =
            |port: &u16| *port > 1024 && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        if neighbours.iter().all(free) && !neighbours.contains(&name_server) {
            return (name_server, broker);
        }
    }
}
