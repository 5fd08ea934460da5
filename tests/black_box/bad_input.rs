//! What a client may send by mistake or malice: a clear answer (or the end of that one connection), and nobody else notices.

use std::time::Duration;

use crate::raw::{Answer, PULL_MESSAGE, Raw, frame};
use crate::servers::Servers;

const SYSTEM_ERROR: i64 = 1;
const REQUEST_CODE_NOT_SUPPORTED: i64 = 3;
const MESSAGE_ILLEGAL: i64 = 13;
const INVALID_PARAMETER: i64 = 29;

/// A server with one neighbour that has sent and goes on sending on its own connection.
struct Scene {
    servers: Servers,
    neighbour: Raw,
    sent: i64,
}

impl Scene {
    fn set() -> Self {
        let servers = Servers::start();
        let mut neighbour = servers.raw();
        neighbour.create_topic("good", 1);
        let mut scene = Self {
            servers,
            neighbour,
            sent: 0,
        };
        scene.nobody_else_noticed();
        scene
    }

    fn culprit(&self) -> Raw {
        self.servers.raw()
    }

    /// The neighbour's connection still works, its queue has what it sent and nothing else.
    fn nobody_else_noticed(&mut self) {
        let answer = self.neighbour.send("good", "0", "", b"good");
        assert_eq!(answer.code, 0, "{}", answer.remark);
        assert_eq!(answer.ext["queueOffset"], self.sent.to_string());
        self.sent += 1;
        let pulled = self.neighbour.pull("good", "0", 0);
        assert_eq!(pulled.code, 0, "{}", pulled.remark);
        assert_eq!(pulled.ext["maxOffset"], self.sent.to_string());
    }

    fn closes_on(&mut self, bytes: &[u8]) {
        let mut culprit = self.culprit();
        culprit.write(bytes);
        assert!(
            culprit.is_closed_by_server(),
            "the connection was not closed"
        );
        self.nobody_else_noticed();
        // It names the peer.
        self.servers
            .wait_for_line(|line| line.contains("WARN") && line.contains("127.0.0.1:"));
    }

    fn answers(&mut self, call: impl FnOnce(&mut Raw) -> Answer) -> Answer {
        let mut culprit = self.culprit();
        culprit.create_topic("target", 2);
        let answer = call(&mut culprit);
        // An error answer is not the end of the connection.
        assert_eq!(culprit.send("target", "0", "", b"fine").code, 0);
        self.nobody_else_noticed();
        answer
    }
}

#[test]
fn a_frame_over_the_limit_ends_its_connection() {
    let mut bytes = (16 * 1024 * 1024 + 1_u32).to_be_bytes().to_vec();
    bytes.extend([0; 64]);
    Scene::set().closes_on(&bytes);
}

#[test]
fn a_header_longer_than_its_frame_ends_its_connection() {
    let mut bytes = frame(PULL_MESSAGE, 1, &[], b"");
    bytes[5..8].copy_from_slice(&[0x7f, 0xff, 0xff]);
    Scene::set().closes_on(&bytes);
}

#[test]
fn random_bytes_end_their_connection() {
    // A fixed seed, and a first byte that makes the length absurd: what is tested is not chance.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    })
    .take(4096)
    .collect();
    bytes[0] = 0x7b;
    Scene::set().closes_on(&bytes);
}

#[test]
fn half_a_frame_waits_without_disturbing_and_is_answered_when_whole() {
    let mut scene = Scene::set();
    let mut culprit = scene.culprit();
    let bytes = frame(9_999, 77, &[], b"");
    let (first, second) = bytes.split_at(bytes.len() / 2);
    culprit.write(first);
    assert!(culprit.is_silent_for(Duration::from_millis(300)));
    scene.nobody_else_noticed();
    culprit.write(second);
    let answer = culprit.read_answer().expect("an answer");
    assert_eq!(answer.code, REQUEST_CODE_NOT_SUPPORTED);
}

#[test]
fn an_unknown_request_code_is_named_in_the_answer() {
    let answer = Scene::set().answers(|raw| raw.call(9_999, &[], b""));
    assert_eq!(answer.code, REQUEST_CODE_NOT_SUPPORTED);
    assert_eq!(answer.remark, " request type 9999 not supported");
}

#[test]
fn a_message_over_the_size_limit_is_refused() {
    let body = vec![b'x'; 4 * 1024 * 1024 + 1];
    let answer = Scene::set().answers(|raw| raw.send("target", "0", "", &body));
    assert_eq!(answer.code, MESSAGE_ILLEGAL);
    assert!(answer.remark.contains("4194304"), "{}", answer.remark);
}

#[test]
fn an_illegal_topic_name_is_refused() {
    let answer = Scene::set().answers(|raw| raw.send("a b/c", "0", "", b"x"));
    assert_eq!(answer.code, INVALID_PARAMETER);
    assert!(
        answer.remark.contains("illegal characters"),
        "{}",
        answer.remark
    );
}

#[test]
fn a_queue_out_of_range_is_refused() {
    let answer = Scene::set().answers(|raw| raw.send("target", "99", "", b"x"));
    assert_eq!(answer.code, INVALID_PARAMETER);
    assert!(
        answer.remark.contains("queueId[99] is illegal"),
        "{}",
        answer.remark
    );
}

#[test]
fn properties_over_their_limit_are_refused() {
    let properties = format!("k\u{1}{}\u{2}", "v".repeat(32_767));
    let answer = Scene::set().answers(|raw| raw.send("target", "0", &properties, b"x"));
    assert_eq!(answer.code, MESSAGE_ILLEGAL);
    assert!(answer.remark.contains("32KB"), "{}", answer.remark);
}

#[test]
fn a_request_without_its_fields_is_refused() {
    let answer = Scene::set().answers(|raw| raw.call(PULL_MESSAGE, &[("topic", "target")], b""));
    assert_eq!(answer.code, SYSTEM_ERROR);
    assert!(!answer.remark.is_empty());
}
