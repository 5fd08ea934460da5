//! Every message sent twice, with kills in between: stored once, answered twice alike.

use std::collections::HashMap;
use std::path::Path;

use agena_protocol::command::Command;

use super::process::BrokerProcess;
use super::wire::Wire;

const MESSAGES: u64 = 3_000;
const KILLS: u64 = 3;

fn send(wire: &mut Wire, sequence: u64) -> Command {
    let sequence = sequence.to_string();
    wire.send(
        "T",
        &sequence,
        &[
            ("AGENA_PRODUCER_ID", "p-1"),
            ("AGENA_SEQUENCE", &sequence),
            ("UNIQ_KEY", &sequence),
        ],
    )
}

fn places(answer: &Command) -> [Option<String>; 3] {
    ["msgId", "queueId", "queueOffset"].map(|field| answer.ext.get(field).map(str::to_owned))
}

fn start(directory: &Path) -> BrokerProcess {
    let conf = "mappedFileSizeCommitLog=16777216\nmaxHashSlotNum=1000\nmaxIndexNum=4000\ndedupWindow=5000\nlistenPort=0\n";
    BrokerProcess::start_with(directory, conf)
}

/// The first answers of the last hundred messages are asked for again after each kill, and a few unanswered ones too.
#[test]
fn every_message_sent_twice_over_kills_is_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = start(directory.path());
    let mut wire = broker.connect();
    let mut first: HashMap<u64, [Option<String>; 3]> = HashMap::new();
    for sequence in 0..MESSAGES {
        let answer = send(&mut wire, sequence);
        first.insert(sequence, places(&answer));
        if sequence % (MESSAGES / (KILLS + 1)) == MESSAGES / (KILLS + 1) - 1 {
            broker.kill();
            broker = start(directory.path());
            wire = broker.connect();
            // The message ids name the port, which is another one now.
            let offset = |places: &[Option<String>; 3]| {
                let id = places[0].clone().unwrap();
                (id[16..].to_owned(), places[1].clone(), places[2].clone())
            };
            for known in sequence.saturating_sub(200)..=sequence {
                let again = places(&send(&mut wire, known));
                assert_eq!(offset(&again), offset(&first[&known]), "{known}");
            }
        } else {
            assert_eq!(places(&send(&mut wire, sequence)), first[&sequence]);
        }
    }
    broker.stop();
    // A clean stop and start, and all of them once more.
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in (0..MESSAGES).step_by(7) {
        send(&mut wire, sequence);
    }
    let bodies: Vec<_> = wire
        .read_all("T")
        .into_iter()
        .map(|(body, _, _)| body)
        .collect();
    let expected: Vec<_> = (0..MESSAGES).map(|sequence| sequence.to_string()).collect();
    assert_eq!(bodies, expected);
}

/// The file that spares the scan is lost or damaged: the log has it all.
#[test]
fn a_damaged_snapshot_costs_a_scan_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in 0..100 {
        send(&mut wire, sequence);
    }
    broker.stop();
    let file = directory.path().join("store/config/dedup.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"producer\":\"p-1\""), "{text}");
    let damaged = text.replace("[99,", "[98,");
    assert_ne!(damaged, text);
    std::fs::write(&file, damaged).unwrap();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in 0..100 {
        send(&mut wire, sequence);
    }
    assert_eq!(wire.max_offset("T"), 100);
}
