//! What an operator may get wrong: the process says what is the matter in one line and ends with a status, or names what it
//! ignores and goes on.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::servers::{Servers, agena, free_ports};

const ENDS_WITHIN: Duration = Duration::from_secs(20);

fn conf(folder: &Path, lines: &str) -> String {
    let path = folder.join("broker.conf");
    let (_, port) = free_ports();
    let store = folder.join("store");
    let text = format!(
        "bindAddress=127.0.0.1\nbrokerIP1=127.0.0.1\nlistenPort={port}\nstorePathRootDir={}\n{lines}\n",
        store.display()
    );
    std::fs::write(&path, text).expect("the file is written");
    path.to_str().expect("a plain path").to_owned()
}

/// Runs until it ends by itself, which these must soon.
fn run(arguments: &[&str]) -> Output {
    let mut child = agena()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("agena can be started");
    let deadline = Instant::now() + ENDS_WITHIN;
    while child.try_wait().expect("the process is ours").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let output = child.wait_with_output().expect("its output");
            panic!("agena {arguments:?} goes on:\n{}", said(&output));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn an_unknown_key_is_named_and_ignored() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let conf = conf(folder.path(), "flushDiskTyp=SYNC_FLUSH");
    let mut child = agena()
        .args(["broker", "-c", &conf])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("agena can be started");
    let mut log = child.stderr.take().expect("piped");
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    // Ends with the line, or with the output when the process ends without it.
    while !String::from_utf8_lossy(&seen).contains("flushDiskTyp") {
        let n = log.read(&mut chunk).expect("the output is readable");
        if n == 0 {
            break;
        }
        seen.extend(&chunk[..n]);
    }
    let running = child.try_wait().expect("the process is ours").is_none();
    let _ = child.kill();
    let _ = child.wait();
    let seen = String::from_utf8_lossy(&seen);
    assert!(
        seen.contains("flushDiskTyp"),
        "the key is not named:\n{seen}"
    );
    assert!(
        running,
        "an unknown key must not keep the broker from starting:\n{seen}"
    );
}

#[test]
fn a_bad_number_is_named_with_its_file_line_and_key() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let conf = conf(folder.path(), "fileReservedTime=three days");
    let output = run(&["broker", "-c", &conf]);
    let said = said(&output);
    assert!(!output.status.success());
    for part in ["broker.conf", "5", "fileReservedTime", "three days"] {
        assert!(said.contains(part), "{part} is not named:\n{said}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let conf = conf(folder.path(), &format!("listenPort={port}"));
    let output = run(&["broker", "-c", &conf]);
    let said = said(&output);
    assert!(!output.status.success());
    assert!(said.contains(&port) && said.contains("in use"), "{said}");
}

#[test]
fn agena_names_a_port_in_use() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let data = folder.path().join("data");
    let data = data.to_str().expect("a plain path");
    let output = run(&["--data", data, "--namesrv-port", &port]);
    let said = said(&output);
    assert!(!output.status.success());
    assert!(said.contains(&port) && said.contains("in use"), "{said}");
}

#[test]
fn a_data_directory_held_by_another_broker_is_named() {
    let servers = Servers::start();
    let held = servers.data().join("agena-data");
    let (name_server_port, broker_port) = free_ports();
    let output = run(&[
        "--data",
        held.to_str().expect("a plain path"),
        "--namesrv-port",
        &name_server_port.to_string(),
        "--broker-port",
        &broker_port.to_string(),
    ]);
    let said = said(&output);
    assert!(!output.status.success());
    assert!(
        said.contains("agena-data"),
        "the directory is not named:\n{said}"
    );
    // The holder goes on.
    assert_eq!(servers.raw().call(9_999, &[], b"").code, 3);
}
