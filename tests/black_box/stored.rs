//! What a broker's store holds, read from outside: bodies of a queue out of raw answers, and the check of a stopped store by the
//! script that came with the original's stores.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::servers::Servers;

/// A message as the log has it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) body: String,
    /// Encoded; control characters separate them.
    pub(crate) properties: String,
}

/// Every message of the topic's first queue, read record by record from the raw answers.
pub(crate) fn stored_messages(servers: &Servers, topic: &str) -> Vec<Stored> {
    let mut raw = servers.raw();
    let mut messages = Vec::new();
    loop {
        let offset = i64::try_from(messages.len()).expect("few messages");
        let answer = raw.pull(topic, "0", offset);
        if answer.code != 0 {
            return messages;
        }
        let mut rest = &answer.body[..];
        while let Some(size) = rest.first_chunk::<4>() {
            let (record, tail) = rest.split_at(u32::from_be_bytes(*size) as usize);
            // total size, magic, CRC, queue id, flag: 20 bytes; then the queue offset.
            let at = u64::from_be_bytes(record[20..28].try_into().expect("eight bytes"));
            assert_eq!(at, messages.len() as u64, "offsets are consecutive");
            // ... up to the prepared transaction's offset with IPv4 hosts: 84 bytes; then the body's length and the body,
            // and the topic and the properties behind theirs.
            let text = |from: usize, length: usize| {
                String::from_utf8(record[from..from + length].to_vec()).expect("text")
            };
            let length =
                u32::from_be_bytes(record[84..88].try_into().expect("four bytes")) as usize;
            let behind = 88 + length + 1 + usize::from(record[88 + length]) + 2;
            messages.push(Stored {
                body: text(88, length),
                properties: text(behind, record.len() - behind),
            });
            rest = tail;
        }
    }
}

/// Their bodies alone.
pub(crate) fn stored(servers: &Servers, topic: &str) -> Vec<String> {
    let messages = stored_messages(servers, topic).into_iter();
    messages.map(|message| message.body).collect()
}

/// Has `verify.py`, which shares no code with ours, look at a stopped store: records, queues and index have to agree.
pub(crate) fn check_with_script(store: &Path, index_slots: &str) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store/verify.py");
    let output = Command::new("python3")
        .arg(script)
        .arg("--check")
        .arg(store)
        .args(["--slots", index_slots])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => eprintln!("SKIPPED: verify.py: python3 cannot be started: {error}"),
    }
}
