//! The program `mqnamesrv` as an operator or a script meets it: lines, exit codes, signals.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

const BOOTED: &str = "The Name Server boot success. serializeType=JSON, address ";

fn program(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mqnamesrv"))
        .args(arguments)
        .env_remove("HOME")
        .env_remove("ROCKETMQ_HOME")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Exit code, stdout and stderr of a run that ends by itself.
fn ended(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = program(arguments).wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn properties(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn it_says_when_it_is_ready_and_stops_in_order_when_told_to() {
    for signal in ["-TERM", "-INT"] {
        let file = properties("listenPort=0\nbindAddress=127.0.0.1\nnobodyKnows=1\n");
        let path = file.path().to_str().unwrap();
        let mut child = program(&["-c", path, "-n", "127.0.0.1:1"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(
            lines.next().unwrap().unwrap(),
            format!("load config properties file OK, {path}")
        );
        let booted = lines.next().unwrap().unwrap();
        let address: SocketAddr = booted.strip_prefix(BOOTED).unwrap().parse().unwrap();
        let mut connection = TcpStream::connect(address).unwrap();
        let killed = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
        let mut log = String::new();
        child.stderr.unwrap().read_to_string(&mut log).unwrap();
        assert!(log.contains(":3: unknown key nobodyKnows ignored"), "{log}");
    }
}

#[test]
fn items_are_printed_as_the_file_sets_them() {
    let file = properties("listenPort=19876\n");
    let (code, out, _) = ended(&["-c", file.path().to_str().unwrap(), "-p"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("\nlistenPort=19876\n"), "{out}");
    assert!(
        out.contains("\nscanNotActiveBrokerInterval=5000\n"),
        "{out}"
    );
}

#[test]
fn what_an_operator_got_wrong_is_named() {
    let file = properties("# mine\nlistenPort=many\n");
    let path = file.path().to_str().unwrap();
    let (code, _, error) = ended(&["-c", path]);
    assert_eq!(code, Some(2));
    let expected = format!("{path}:2: listenPort=many is not a number from 0 to 65535");
    assert!(error.contains(&expected), "{error}");
    let (code, _, error) = ended(&["-c", "/nowhere/namesrv.conf"]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("cannot read /nowhere/namesrv.conf"),
        "{error}"
    );
    let (code, _, error) = ended(&["--no-such-flag"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--no-such-flag"), "{error}");
    let (code, out, _) = ended(&["-h"]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("--configFile") && out.contains("--printConfigItem"),
        "{out}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let file = properties(&format!(
        "listenPort={}\nbindAddress=127.0.0.1\n",
        address.port()
    ));
    let (code, _, error) = ended(&["-c", file.path().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!("cannot listen on {address}")),
        "{error}"
    );
}
