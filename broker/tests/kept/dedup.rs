//! Every message sent twice, with kills in between: stored once, answered twice alike.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agena_protocol::batch::InnerMessage;
use agena_protocol::command::Command;
use agena_protocol::headers::send::SendMessageRequestV2;
use agena_protocol::properties::PropertiesBuf;
use agena_protocol::record::RecordView;
use agena_protocol::request_code::RequestCode;

use super::process::BrokerProcess;
use super::wire::Wire;

const MESSAGES: u64 = 3_000;
const KILLS: u64 = 3;
const WITHIN: Duration = Duration::from_secs(60);

/// Snapshots follow each other closely: some 300 messages, and whatever is written is on the device soon.
const OFTEN: &str =
    "dedupSnapshotBytes=100000\nflushCommitLogThoroughInterval=100\nflushIntervalCommitLog=100\n";

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
    start_with(directory, "dedupWindow=5000\n")
}

fn start_with(directory: &Path, more: &str) -> BrokerProcess {
    let conf =
        "mappedFileSizeCommitLog=16777216\nmaxHashSlotNum=1000\nmaxIndexNum=4000\nlistenPort=0\n";
    BrokerProcess::start_with(directory, &format!("{conf}{more}"))
}

fn snapshot(directory: &Path) -> PathBuf {
    directory.join("store/config/dedup.windows")
}

/// Where the log behind the snapshot begins; `None` between the two renames that put a new one in its place.
fn mark(directory: &Path) -> Option<u64> {
    let bytes = std::fs::read(snapshot(directory)).ok()?;
    let config = bincode::config::standard();
    let ((version, mark), _): ((u32, u64), _) = bincode::decode_from_slice(&bytes, config).unwrap();
    assert_eq!(version, 1);
    Some(mark)
}

fn wait_for_mark_beyond(directory: &Path, before: u64) -> u64 {
    let begin = Instant::now();
    loop {
        if let Some(mark) = mark(directory).filter(|mark| *mark > before) {
            return mark;
        }
        assert!(begin.elapsed() < WITHIN, "no snapshot beyond {before}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The first answers of the last two hundred messages are asked for again after each kill: some stand in front of the
/// mark of the last snapshot and some behind it.
#[test]
fn every_message_sent_twice_over_kills_is_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let start = |directory: &Path| start_with(directory, &format!("dedupWindow=5000\n{OFTEN}"));
    let mut broker = start(directory.path());
    let (mut mark, mut since) = (0, 0);
    let mut wire = broker.connect();
    let mut first: HashMap<u64, [Option<String>; 3]> = HashMap::new();
    for sequence in 0..MESSAGES {
        let answer = send(&mut wire, sequence);
        first.insert(sequence, places(&answer));
        let turn = sequence % (MESSAGES / (KILLS + 1));
        if turn == MESSAGES / (KILLS + 1) - 100 {
            // The messages from here to the kill are in the log alone.
            mark = wait_for_mark_beyond(directory.path(), mark);
            since += 1;
        }
        if turn == MESSAGES / (KILLS + 1) - 1 {
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
    assert_eq!(since, KILLS + 1);
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
    let file = snapshot(directory.path());
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x40;
    std::fs::write(&file, bytes).unwrap();
    std::fs::remove_file(file.with_extension("windows.bak")).unwrap();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in 0..100 {
        send(&mut wire, sequence);
    }
    assert_eq!(wire.max_offset("T"), 100);
}

fn request(code: RequestCode, pairs: &[(&str, &str)], body: Vec<u8>) -> Command {
    let mut encoded = PropertiesBuf::new();
    for (name, value) in pairs {
        encoded.set(name, *value);
    }
    let encoded = String::from_utf8(encoded.encode()).unwrap();
    let header = SendMessageRequestV2 {
        producer_group: "p",
        topic: "T",
        default_topic: "TBW102",
        default_topic_queue_nums: 1,
        properties: Some(&encoded),
        batch: Some(code == RequestCode::SendBatchMessage),
        ..SendMessageRequestV2::default()
    };
    Command::request(code).with_header(&header).with_body(body)
}

fn numbered<'a>(producer: &'a str, sequence: &'a str) -> [(&'a str, &'a str); 3] {
    let sequence = ("AGENA_SEQUENCE", sequence);
    [("AGENA_PRODUCER_ID", producer), sequence, ("UNIQ_KEY", "U")]
}

fn batch(sequence: &str, messages: usize) -> Command {
    let mut body = Vec::new();
    for number in 0..messages {
        let text = format!("{sequence}-{number}");
        let part = InnerMessage {
            flag: 0,
            body: text.as_bytes(),
            properties: b"",
        };
        part.write(&mut body).unwrap();
    }
    request(
        RequestCode::SendBatchMessage,
        &numbered("p", sequence),
        body,
    )
}

/// Places in the log; the ids name the port too, which is another one after a start.
fn logged(answer: &Command) -> Vec<String> {
    let ids = answer.ext.get("msgId").unwrap().split(',');
    ids.map(|id| id[16..].to_owned()).collect()
}

/// Changes the only log file, by where its records begin and where the last one ends.
fn change_log(directory: &Path, change: impl FnOnce(&mut [u8], &[usize], usize)) {
    let file = directory.join("store/commitlog/00000000000000000000");
    let mut bytes = std::fs::read(&file).unwrap();
    let (mut starts, mut end) = (Vec::new(), 0);
    while let Ok(record) = RecordView::parse(&bytes[end..]) {
        starts.push(end);
        end += record.bytes().len();
    }
    change(&mut bytes, &starts, end);
    std::fs::write(&file, bytes).unwrap();
}

/// Takes the last records out, as a power cut does that came before they were written.
fn tear(directory: &Path, last: usize) {
    change_log(directory, |bytes, starts, end| {
        bytes[starts[starts.len() - last]..end].fill(0);
    });
}

#[test]
fn a_batch_of_which_a_crash_left_a_part_is_stored_whole_when_it_comes_again() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    wire.ask(&batch("1", 3));
    wire.ask(&batch("2", 10));
    broker.kill();
    tear(directory.path(), 6);
    let broker = start(directory.path());
    let mut wire = broker.connect();
    assert_eq!(wire.max_offset("T"), 3 + 4);
    let whole = wire.ask(&batch("2", 10));
    assert_eq!(logged(&whole).len(), 10);
    assert_eq!(wire.max_offset("T"), 3 + 4 + 10);
    // The part and the whole stand one behind the other in the log, and a start has to tell them apart.
    let again = wire.ask(&batch("2", 10));
    assert_eq!(logged(&again), logged(&whole));
    broker.kill();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    let again = wire.ask(&batch("2", 10));
    assert_eq!(logged(&again), logged(&whole));
    assert_eq!(again.ext.get("queueOffset"), Some("7"));
    broker.stop();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    assert_eq!(logged(&wire.ask(&batch("2", 10))), logged(&whole));
    assert_eq!(wire.max_offset("T"), 3 + 4 + 10);
}

/// All that an answer says but the port in its ids.
fn said(answer: &Command) -> Vec<(String, String)> {
    let fields = answer.ext.iter().filter(|(name, _)| *name != "msgId");
    let mut fields: Vec<_> = fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    fields.push(("msgId".to_owned(), logged(answer).join(",")));
    fields.sort();
    fields
}

#[test]
fn batches_halves_and_delayed_messages_are_known_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = start(directory.path());
    let mut wire = broker.connect();
    let with = |sequence, more: &[(&str, &str)]| {
        let pairs = [&numbered("p", sequence), more].concat();
        request(RequestCode::SendMessageV2, &pairs, b"x".to_vec())
    };
    let requests = [
        with("1", &[]),
        with("2", &[("TRAN_MSG", "true"), ("PGROUP", "PG")]),
        with("3", &[("DELAY", "18")]),
        with("4", &[("TIMER_DELAY_SEC", "3600")]),
    ];
    let firsts: Vec<_> = requests.iter().map(|request| wire.ask(request)).collect();
    let of_batch = wire.ask(&batch("5", 3));
    broker.kill();
    for _ in 0..2 {
        broker = start(directory.path());
        wire = broker.connect();
        for (request, first) in requests.iter().zip(&firsts) {
            assert_eq!(said(&wire.ask(request)), said(first));
        }
        assert_eq!(logged(&wire.ask(&batch("5", 3))), logged(&of_batch));
        broker.stop();
    }
}

#[test]
fn a_delayed_message_that_is_delivered_takes_no_producer_s_place() {
    let directory = tempfile::tempdir().unwrap();
    let one = "dedupProducersMax=1\ndedupProducerIdleMillis=0\n";
    let broker = start_with(directory.path(), one);
    let mut wire = broker.connect();
    wire.send("T", "other", &[]);
    let delayed = [&numbered("p", "1")[..], &[("DELAY", "1")]].concat();
    wire.ask(&request(
        RequestCode::SendMessageV2,
        &delayed,
        b"d".to_vec(),
    ));
    let next = request(
        RequestCode::SendMessageV2,
        &numbered("q", "1"),
        b"q".to_vec(),
    );
    let first = wire.ask(&next);
    let begin = Instant::now();
    while wire.max_offset("T") < 3 {
        assert!(begin.elapsed() < WITHIN, "it is not delivered");
        std::thread::sleep(Duration::from_millis(20));
    }
    broker.kill();
    let broker = start_with(directory.path(), one);
    let mut wire = broker.connect();
    // Its place says that it was not stored again. The delayed one may have been: its progress may not have been noted.
    assert_eq!(said(&wire.ask(&next)), said(&first));
}

/// The log is made anew and the files beside it are kept: what they say is not true of it.
#[test]
fn windows_of_a_log_that_is_gone_swallow_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let start = |directory: &Path| start_with(directory, "dedupWindow=50\n");
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in 0..100 {
        send(&mut wire, sequence);
    }
    broker.stop();
    for gone in std::fs::read_dir(directory.path().join("store")).unwrap() {
        let gone = gone.unwrap().path();
        if gone.is_dir() && !gone.ends_with("config") {
            std::fs::remove_dir_all(gone).unwrap();
        } else if gone.is_file() {
            std::fs::remove_file(gone).unwrap();
        }
    }
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in 0..100 {
        send(&mut wire, sequence);
    }
    assert_eq!(wire.max_offset("T"), 100);
    broker.kill();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in 50..101 {
        send(&mut wire, sequence);
    }
    assert_eq!(wire.max_offset("T"), 101);
}

/// A record that the device spoilt is none that consumers get: its message is stored once more when it comes again.
#[test]
fn a_repeat_of_what_does_not_hold_any_more_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let mut wire = broker.connect();
    for sequence in 0..10 {
        send(&mut wire, sequence);
    }
    broker.stop();
    change_log(directory.path(), |bytes, starts, _| {
        // One of one byte, behind the lengths, times and hosts.
        let body = starts[7] + 88;
        assert_eq!(bytes[body], b'7');
        bytes[body] ^= 1;
    });
    let broker = start(directory.path());
    let mut wire = broker.connect();
    let seventh = request(
        RequestCode::SendMessageV2,
        &[("AGENA_PRODUCER_ID", "p-1"), ("AGENA_SEQUENCE", "7")],
        b"7".to_vec(),
    );
    let answer = wire.call(&seventh);
    assert_eq!(answer.code, 2, "{:?}", answer.remark);
    assert_eq!(wire.ask(&seventh).ext.get("queueOffset"), Some("10"));
    assert_eq!(wire.ask(&seventh).ext.get("queueOffset"), Some("10"));
    send(&mut wire, 6);
    assert_eq!(wire.max_offset("T"), 11);
}
