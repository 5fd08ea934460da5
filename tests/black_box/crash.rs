//! kill -9 under SYNC_FLUSH: everything that was acknowledged is there again, at its offset, with its body. `.ci/crash` does
//! the same with real load, as often as wanted.

use crate::servers::Servers;

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
        assert_eq!(stored(&servers), acknowledged, "after kill {round}");
    }
    assert!(servers.stop().success());
    servers.start_again();
    assert_eq!(stored(&servers), acknowledged, "after an orderly stop");
}

/// Every body of the queue, read record by record from the raw answers.
fn stored(servers: &Servers) -> Vec<String> {
    let mut raw = servers.raw();
    let mut bodies = Vec::new();
    loop {
        let offset = i64::try_from(bodies.len()).expect("few messages");
        let answer = raw.pull("crash", "0", offset);
        if answer.code != 0 {
            return bodies;
        }
        let mut rest = &answer.body[..];
        while let Some(size) = rest.first_chunk::<4>() {
            let (record, tail) = rest.split_at(u32::from_be_bytes(*size) as usize);
            // total size, magic, CRC, queue id, flag: 20 bytes; then the queue offset.
            let at = u64::from_be_bytes(record[20..28].try_into().expect("eight bytes"));
            assert_eq!(at, bodies.len() as u64, "offsets are consecutive");
            // ... up to the prepared transaction's offset with IPv4 hosts: 84 bytes; then the body's length and the body.
            let length =
                u32::from_be_bytes(record[84..88].try_into().expect("four bytes")) as usize;
            bodies.push(String::from_utf8(record[88..88 + length].to_vec()).expect("text"));
            rest = tail;
        }
    }
}
