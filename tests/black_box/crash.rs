//! kill -9 under SYNC_FLUSH: everything that was acknowledged is there again, at its offset, with its body. `.ci/crash` does
//! the same with real load, as often as wanted.

use crate::servers::Servers;
use crate::stored::{check_with_script, stored};

const ROUNDS: usize = 3;
const PER_ROUND: usize = 200;

#[test]
fn acknowledged_messages_survive_kill_9() {
    let mut servers = Servers::start_with(&["flushDiskType=SYNC_FLUSH"]);
    servers.raw().create_topic("crash", 1);
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let mut raw = servers.raw();
        for number in 0..PER_ROUND {
            let body = format!("round {round} message {number}");
            let answer = raw.send("crash", "0", "", body.as_bytes());
            assert_eq!(answer.code, 0, "{}", answer.remark);
            assert_eq!(answer.ext["queueOffset"], acknowledged.len().to_string());
            acknowledged.push(body);
        }
        servers.kill();
        servers.start_again();
        assert_eq!(
            stored(&servers, "crash"),
            acknowledged,
            "after kill {round}"
        );
    }
    assert!(servers.stop().success());
    check_with_script(&servers.data().join("agena-data/store"), "5000000");
    servers.start_again();
    assert_eq!(
        stored(&servers, "crash"),
        acknowledged,
        "after an orderly stop"
    );
}
