//! The file of a spool: messages that wait for brokers, in the order they came, and the notes of those that were sent.
//!
//! ```text
//! file    "AGSPOOL1", then records
//! record  length of the payload (u32) | CRC-32 of the payload (u32) | payload, both big-endian
//! payload bincode 2, standard configuration: Message { number, doubtful, message }, Sent { number },
//!         Doubtful { number, queue } or Leaving { number, queue, pair }
//! ```
//!
//! A message is on the device before its append returns. The notes that it was sent, or may have been, are written at once
//! and synced with the next message: they survive the end of the process, but a power cut may take them back. A
//! record that is cut off at the end of the file is dropped on opening; damage anywhere else is an error, since what lies
//! behind it would be lost in silence. One process at a time has the file: it holds a lock on `<file>.lock`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agena_protocol::queue::MessageQueue;
use rustix::fs::FlockOperation;

use crate::error::ClientError;
use crate::producer_id::Pair;
use crate::send::Kept;

const MAGIC: &[u8; 8] = b"AGSPOOL1";
const HEADER_BYTES: u64 = 8;
const RECORD_HEAD_BYTES: usize = 4 + 4;

#[derive(Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
enum Record {
    Message {
        number: u64,
        doubtful: Option<(String, i32)>,
        message: Kept,
    },
    Sent {
        number: u64,
    },
    Doubtful {
        number: u64,
        queue: Option<(String, i32)>,
    },
    /// As `Doubtful`, of a message that got its pair only when it was to leave.
    Leaving {
        number: u64,
        queue: (String, i32),
        pair: Pair,
    },
}

/// A message that waits, and where a send without an answer may have left it.
#[derive(Debug)]
pub(crate) struct Spooled {
    pub(crate) message: Kept,
    pub(crate) doubtful: Option<MessageQueue>,
    /// Its pair, if that was given when it left; `message` has it too.
    pub(crate) pair: Option<Pair>,
}

/// Where the record of a waiting message lies.
#[derive(Debug, Clone)]
struct Place {
    at: u64,
    bytes: u64,
    topic: Arc<str>,
    /// Where the message may be already: broker and queue.
    doubtful: Option<(String, i32)>,
    /// Under which it may be there, unless that is among its properties.
    pair: Option<Pair>,
}

/// An open spool file and what is known of it.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    path: PathBuf,
    file: File,
    _lock: File,
    bytes_max: u64,
    end: u64,
    next_number: u64,
    waiting: BTreeMap<u64, Place>,
    /// Bytes of the records of `waiting`.
    waiting_bytes: u64,
    /// A write or sync failed: nobody knows what the device has.
    broken: Option<String>,
}

impl SpoolFile {
    /// Opens or makes the file and reads what waits.
    pub(crate) fn open(path: &Path, bytes_max: u64) -> Result<Self, ClientError> {
        let fault = |reason: String| ClientError::Spool {
            path: path.to_owned(),
            reason,
        };
        let lock = lock(path)?;
        let file = options()
            .open(path)
            .map_err(|error| fault(error.to_string()))?;
        let mut spool = Self {
            path: path.to_owned(),
            file,
            _lock: lock,
            bytes_max,
            end: HEADER_BYTES,
            next_number: 0,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            broken: None,
        };
        spool.read_all().map_err(fault)?;
        sync_directory(path).map_err(|error| fault(error.to_string()))?;
        Ok(spool)
    }

    fn read_all(&mut self) -> Result<(), String> {
        let said = |error: std::io::Error| error.to_string();
        let length = self.file.metadata().map_err(said)?.len();
        if length < HEADER_BYTES {
            // New, or a crash came before the header was whole: then nothing was taken yet.
            self.file.set_len(0).map_err(said)?;
            self.file.write_all_at(MAGIC, 0).map_err(said)?;
            return self.file.sync_all().map_err(said);
        }
        let mut reader = BufReader::new(self.file.try_clone().map_err(said)?);
        let mut magic = [0; 8];
        reader.read_exact(&mut magic).map_err(said)?;
        if &magic != MAGIC {
            return Err("it is not a spool of this version".to_owned());
        }
        while self.end < length {
            match read_record(&mut reader, length - self.end)? {
                Next::Record(record, bytes) => {
                    self.learn(record, bytes);
                    self.end += bytes;
                }
                Next::Torn => {
                    tracing::warn!(spool = %self.path.display(), at = self.end, bytes = length - self.end, "cut-off record dropped: its message was never taken");
                    self.file.set_len(self.end).map_err(said)?;
                    self.file.sync_all().map_err(said)?;
                    break;
                }
                Next::Damaged(reason) => {
                    return Err(format!("damaged at byte {}: {reason}", self.end));
                }
            }
        }
        Ok(())
    }

    fn learn(&mut self, record: Record, bytes: u64) {
        match record {
            Record::Message {
                number,
                message,
                doubtful,
            } => {
                self.next_number = self.next_number.max(number.saturating_add(1));
                self.waiting_bytes += bytes;
                let place = Place {
                    at: self.end,
                    bytes,
                    topic: message.topic.into(),
                    doubtful,
                    pair: None,
                };
                self.waiting.insert(number, place);
            }
            Record::Sent { number } => self.forget(number),
            Record::Doubtful { number, queue } => {
                if let Some(place) = self.waiting.get_mut(&number) {
                    place.doubtful = queue;
                    place.pair = None;
                }
            }
            Record::Leaving {
                number,
                queue,
                pair,
            } => {
                if let Some(place) = self.waiting.get_mut(&number) {
                    place.doubtful = Some(queue);
                    place.pair = Some(pair);
                }
            }
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(place) = self.waiting.remove(&number) {
            self.waiting_bytes -= place.bytes;
        }
    }

    /// Takes a message: it is on the device when this returns.
    pub(crate) fn append(
        &mut self,
        message: Kept,
        doubtful: Option<&MessageQueue>,
    ) -> Result<u64, ClientError> {
        let number = self.next_number;
        let topic: Arc<str> = message.topic.as_str().into();
        let doubtful = doubtful.map(|queue| (queue.broker_name.clone(), queue.queue_id));
        let record = Record::Message {
            number,
            doubtful: doubtful.clone(),
            message,
        };
        let bytes = self.encode(&record)?;
        let wanted = to_u64(bytes.len());
        let needed = HEADER_BYTES + self.waiting_bytes;
        if self.end + wanted > self.bytes_max
            && self.end > needed
            && needed + wanted <= self.bytes_max
        {
            self.rewrite()?;
        }
        if self.end + wanted > self.bytes_max {
            return Err(ClientError::SpoolFull {
                path: self.path.clone(),
                bytes: self.end,
                wanted,
                max: self.bytes_max,
            });
        }
        let at = self.end;
        self.write(&bytes)?;
        if let Err(error) = self.file.sync_data() {
            return Err(self.broke(&error));
        }
        self.next_number += 1;
        self.waiting_bytes += wanted;
        let place = Place {
            at,
            bytes: wanted,
            topic,
            doubtful,
            pair: None,
        };
        self.waiting.insert(number, place);
        Ok(number)
    }

    /// Notes that a message was sent.
    pub(crate) fn sent(&mut self, number: u64) -> Result<(), ClientError> {
        self.forget(number);
        if self.waiting.is_empty() {
            // The file gets small again; what a power cut brings back of it is sent twice, nothing is lost.
            self.usable()?;
            return match self.file.set_len(HEADER_BYTES) {
                Ok(()) => {
                    self.end = HEADER_BYTES;
                    Ok(())
                }
                Err(error) => Err(self.broke(&error)),
            };
        }
        let bytes = self.encode(&Record::Sent { number })?;
        self.write(&bytes)
    }

    /// Notes where a message may be from now on, and under which pair if its properties do not say so, before it is sent
    /// there; or that it is nowhere.
    pub(crate) fn doubt(
        &mut self,
        number: u64,
        queue: Option<&MessageQueue>,
        pair: Option<Pair>,
    ) -> Result<(), ClientError> {
        let queue = queue.map(|queue| (queue.broker_name.clone(), queue.queue_id));
        match self.waiting.get_mut(&number) {
            Some(place) if place.doubtful != queue || place.pair != pair => {
                place.doubtful.clone_from(&queue);
                place.pair.clone_from(&pair);
            }
            _ => return Ok(()),
        }
        let bytes = self.encode(&doubt_of(number, queue, pair))?;
        self.write(&bytes)
    }

    /// Numbers of up to `count` waiting messages whose topic `wanted` accepts, in their order.
    pub(crate) fn waiting(&self, count: usize, wanted: impl Fn(&str) -> bool) -> Vec<u64> {
        self.waiting
            .iter()
            .filter(|(_, place)| wanted(&place.topic))
            .map(|(number, _)| *number)
            .take(count)
            .collect()
    }

    /// Topics of waiting messages and how many each has.
    pub(crate) fn topics(&self) -> BTreeMap<String, usize> {
        let mut topics = BTreeMap::new();
        for place in self.waiting.values() {
            *topics.entry(place.topic.to_string()).or_default() += 1;
        }
        topics
    }

    /// Messages that wait, and bytes of the file.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.waiting.len(), self.end)
    }

    /// Reads a waiting message.
    pub(crate) fn read(&self, number: u64) -> Result<Option<Spooled>, ClientError> {
        let Some(place) = self.waiting.get(&number) else {
            return Ok(None);
        };
        let bytes = self.record_bytes(place)?;
        match read_record(&mut bytes.as_slice(), place.bytes) {
            Ok(Next::Record(Record::Message { mut message, .. }, _)) => {
                if let Some(pair) = &place.pair {
                    message.set_pair(pair);
                }
                let doubtful = place.doubtful.as_ref().map(|(broker, queue)| {
                    MessageQueue::new(message.topic.as_str(), broker.as_str(), *queue)
                });
                let pair = place.pair.clone();
                Ok(Some(Spooled {
                    message,
                    doubtful,
                    pair,
                }))
            }
            _ => Err(self.fault(format!("damaged at byte {}", place.at))),
        }
    }

    fn record_bytes(&self, place: &Place) -> Result<Vec<u8>, ClientError> {
        // Its length was checked against that of the file, or is what was written.
        let mut bytes = vec![0; usize::try_from(place.bytes).unwrap_or(0)];
        match self.file.read_exact_at(&mut bytes, place.at) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(self.fault(error.to_string())),
        }
    }

    /// Writes what waits into a new file that takes the place of this one, to have the room of what was sent.
    fn rewrite(&mut self) -> Result<(), ClientError> {
        let next_path = beside(&self.path, ".next");
        let written = self.write_waiting(&next_path);
        let (file, places, end) = match written {
            Ok(written) => written,
            Err(error) => return Err(self.fault(error.to_string())),
        };
        if let Err(error) =
            std::fs::rename(&next_path, &self.path).and_then(|()| sync_directory(&self.path))
        {
            return Err(self.broke(&error));
        }
        self.file = file;
        self.waiting = places;
        self.end = end;
        Ok(())
    }

    fn write_waiting(&self, path: &Path) -> std::io::Result<(File, BTreeMap<u64, Place>, u64)> {
        let file = options().truncate(true).open(path)?;
        file.write_all_at(MAGIC, 0)?;
        let mut places = BTreeMap::new();
        let mut end = HEADER_BYTES;
        for (number, place) in &self.waiting {
            let bytes = self.record_bytes(place).map_err(std::io::Error::other)?;
            file.write_all_at(&bytes, end)?;
            let moved = Place {
                at: end,
                ..place.clone()
            };
            places.insert(*number, moved);
            end += place.bytes;
        }
        for (number, place) in &self.waiting {
            if place.doubtful.is_some() {
                let note = doubt_of(*number, place.doubtful.clone(), place.pair.clone());
                let bytes = self.encode(&note).map_err(std::io::Error::other)?;
                file.write_all_at(&bytes, end)?;
                end += to_u64(bytes.len());
            }
        }
        file.sync_all()?;
        Ok((file, places, end))
    }

    fn encode(&self, record: &Record) -> Result<Vec<u8>, ClientError> {
        let payload = bincode::encode_to_vec(record, bincode::config::standard())
            .map_err(|error| self.fault(error.to_string()))?;
        let length = u32::try_from(payload.len())
            .map_err(|_| self.fault(format!("a record of {} bytes", payload.len())))?;
        let mut bytes = Vec::with_capacity(RECORD_HEAD_BYTES + payload.len());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_be_bytes());
        bytes.extend_from_slice(&payload);
        Ok(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.usable()?;
        match self.file.write_all_at(bytes, self.end) {
            Ok(()) => {
                self.end += to_u64(bytes.len());
                Ok(())
            }
            Err(error) => {
                // What was written of it is cut off here or on the next opening.
                let _ = self.file.set_len(self.end);
                Err(self.broke(&error))
            }
        }
    }

    fn usable(&self) -> Result<(), ClientError> {
        match &self.broken {
            Some(reason) => Err(self.fault(reason.clone())),
            None => Ok(()),
        }
    }

    fn broke(&mut self, error: &std::io::Error) -> ClientError {
        let reason = format!("a write failed, it is closed until the next start: {error}");
        tracing::error!(spool = %self.path.display(), %error, "spool closed after a failed write");
        self.broken = Some(reason.clone());
        self.fault(reason)
    }

    fn fault(&self, reason: String) -> ClientError {
        ClientError::Spool {
            path: self.path.clone(),
            reason,
        }
    }
}

fn doubt_of(number: u64, queue: Option<(String, i32)>, pair: Option<Pair>) -> Record {
    match (queue, pair) {
        (Some(queue), Some(pair)) => Record::Leaving {
            number,
            queue,
            pair,
        },
        (queue, _) => Record::Doubtful { number, queue },
    }
}

enum Next {
    Record(Record, u64),
    /// It does not end within the file.
    Torn,
    Damaged(String),
}

/// Reads the record at the reader's place, of which `left` bytes are there.
fn read_record(reader: &mut impl Read, left: u64) -> Result<Next, String> {
    if left < to_u64(RECORD_HEAD_BYTES) {
        return Ok(Next::Torn);
    }
    let mut head = [0; RECORD_HEAD_BYTES];
    reader.read_exact(&mut head).map_err(|e| e.to_string())?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let crc = u32::from_be_bytes([c0, c1, c2, c3]);
    let bytes = to_u64(RECORD_HEAD_BYTES) + u64::from(length);
    if bytes > left {
        return Ok(Next::Torn);
    }
    let mut payload = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
    reader.read_exact(&mut payload).map_err(|e| e.to_string())?;
    // A file system may show a length before the bytes: then the last record is zeros.
    if length == 0 || crc32fast::hash(&payload) != crc {
        return Ok(if bytes == left || is_zeros(reader, &head) {
            Next::Torn
        } else {
            Next::Damaged("its checksum does not match".to_owned())
        });
    }
    match bincode::decode_from_slice(&payload, bincode::config::standard()) {
        Ok((record, used)) if used == payload.len() => Ok(Next::Record(record, bytes)),
        Ok((_, used)) => Ok(Next::Damaged(format!("{used} of {length} bytes are used"))),
        Err(error) => Ok(Next::Damaged(error.to_string())),
    }
}

fn is_zeros(rest: &mut impl Read, head: &[u8]) -> bool {
    if head.iter().any(|byte| *byte != 0) {
        return false;
    }
    let mut buffer = [0; 4096];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) if buffer[..count].iter().all(|byte| *byte == 0) => {}
            _ => return false,
        }
    }
}

/// Appends a message to a file of the same form that nobody reads back: what no broker will take, for its operator.
pub(crate) fn set_aside(path: &Path, spooled: &Kept, bytes_max: u64) -> Result<(), ClientError> {
    let mut aside = SpoolFile::open(&beside(path, ".refused"), bytes_max)?;
    aside.append(spooled.clone(), None).map(drop)
}

fn lock(path: &Path) -> Result<File, ClientError> {
    let fault = |error: std::io::Error| ClientError::Spool {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(fault)?;
    }
    let file = options().open(beside(path, ".lock")).map_err(fault)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ClientError::SpoolInUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(fault(error.into())),
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// Makes a new name in the file's directory last.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use agena_protocol::properties::PropertiesBuf;

    use super::*;

    const ROOM: u64 = 1 << 20;

    fn kept(topic: &str, body: &str) -> Kept {
        Kept {
            topic: topic.to_owned(),
            msg_id: format!("id-{body}"),
            body: body.as_bytes().to_vec(),
            properties: "KEYS\u{1}k\u{2}".to_owned(),
            flag: 3,
            sys_flag: 1,
        }
    }

    fn bodies(spool: &SpoolFile) -> Vec<String> {
        spool
            .waiting(usize::MAX, |_| true)
            .into_iter()
            .map(|number| {
                let spooled = spool.read(number).unwrap().unwrap();
                String::from_utf8(spooled.message.body).unwrap()
            })
            .collect()
    }

    #[test]
    fn what_was_taken_and_not_sent_is_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep").join("spool");
        let mut spool = SpoolFile::open(&path, ROOM).unwrap();
        let queue = MessageQueue::new("T", "b", 2);
        for body in ["a", "b", "c"] {
            spool.append(kept("T", body), Some(&queue)).unwrap();
        }
        spool.sent(1).unwrap();
        drop(spool);
        let mut spool = SpoolFile::open(&path, ROOM).unwrap();
        assert_eq!(bodies(&spool), ["a", "c"]);
        let first = spool.read(0).unwrap().unwrap();
        assert_eq!(
            (first.message, first.doubtful),
            (kept("T", "a"), Some(queue))
        );
        assert_eq!(spool.append(kept("U", "d"), None).unwrap(), 3);
        assert_eq!(
            spool.topics(),
            BTreeMap::from([("T".into(), 2), ("U".into(), 1)])
        );
        assert_eq!(spool.waiting(9, |topic| topic == "U"), [3]);
        for number in [0, 2, 3] {
            spool.sent(number).unwrap();
        }
        assert_eq!(spool.size(), (0, HEADER_BYTES));
    }

    #[test]
    fn doubts_outlive_the_process_and_a_rewrite() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let queue = MessageQueue::new("T", "b", 2);
        let mut spool = SpoolFile::open(&path, ROOM).unwrap();
        for body in ["a", "b", "c"] {
            spool.append(kept("T", body), None).unwrap();
        }
        let pair = Pair {
            producer_id: "p".to_owned(),
            sequence: 7,
        };
        spool.doubt(1, Some(&queue), Some(pair.clone())).unwrap();
        spool.doubt(2, Some(&queue), Some(pair)).unwrap();
        spool.doubt(2, None, None).unwrap();
        spool.sent(0).unwrap();
        let doubtful = |spool: &SpoolFile, number| {
            let spooled = spool.read(number).unwrap().unwrap();
            let properties = PropertiesBuf::parse(spooled.message.properties.as_bytes());
            let sequence = properties.get("AGENA_SEQUENCE").map(str::to_owned);
            (spooled.doubtful, sequence)
        };
        let leaving = (Some(queue.clone()), Some("7".to_owned()));
        drop(spool);
        let mut spool = SpoolFile::open(&path, ROOM).unwrap();
        assert_eq!(doubtful(&spool, 1), leaving);
        assert_eq!(doubtful(&spool, 2), (None, None));
        spool.rewrite().unwrap();
        drop(spool);
        let spool = SpoolFile::open(&path, ROOM).unwrap();
        assert_eq!(doubtful(&spool, 1), leaving);
        assert_eq!(bodies(&spool), ["b", "c"]);
    }

    #[test]
    fn a_record_cut_anywhere_is_dropped_and_what_stands_before_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let mut spool = SpoolFile::open(&path, ROOM).unwrap();
        spool.append(kept("T", "whole"), None).unwrap();
        let (_, whole) = spool.size();
        spool.append(kept("T", "torn"), None).unwrap();
        let (_, all) = spool.size();
        drop(spool);
        let bytes = std::fs::read(&path).unwrap();
        for cut in whole..all {
            std::fs::write(&path, &bytes[..usize::try_from(cut).unwrap()]).unwrap();
            let spool = SpoolFile::open(&path, ROOM).unwrap();
            assert_eq!(bodies(&spool), ["whole"], "cut at {cut}");
            assert_eq!(spool.size(), (1, whole));
        }
        let mut zeros = bytes[..usize::try_from(whole).unwrap()].to_vec();
        zeros.resize(bytes.len() + 5000, 0);
        std::fs::write(&path, zeros).unwrap();
        assert_eq!(bodies(&SpoolFile::open(&path, ROOM).unwrap()), ["whole"]);
    }

    #[test]
    fn damage_in_the_middle_is_named_and_nothing_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let mut spool = SpoolFile::open(&path, ROOM).unwrap();
        spool.append(kept("T", "a"), None).unwrap();
        spool.append(kept("T", "b"), None).unwrap();
        drop(spool);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = SpoolFile::open(&path, ROOM).unwrap_err().to_string();
        assert!(error.contains("damaged at byte 8"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn any_bytes_open_or_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut bytes = MAGIC.to_vec();
            let count = chance.usize(..200);
            bytes.extend((0..count).map(|_| chance.u8(..4)));
            std::fs::write(&path, bytes).unwrap();
            let _ = SpoolFile::open(&path, ROOM);
        }
    }

    #[test]
    fn a_full_spool_says_so_and_gets_the_room_of_what_was_sent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let mut spool = SpoolFile::open(&path, 1000).unwrap();
        let mut count = 0;
        let error = loop {
            match spool.append(kept("T", &"x".repeat(100)), None) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, ClientError::SpoolFull { max: 1000, .. }),
            "{error}"
        );
        assert!(count > 3);
        spool.sent(0).unwrap();
        spool.sent(1).unwrap();
        spool.append(kept("T", "again"), None).unwrap();
        assert_eq!(spool.size().0, count - 1);
        drop(spool);
        let spool = SpoolFile::open(&path, 1000).unwrap();
        assert_eq!(bodies(&spool).last().unwrap(), "again");
        assert_eq!(spool.size().0, count - 1);
    }

    #[test]
    fn one_owner_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        let spool = SpoolFile::open(&path, ROOM).unwrap();
        assert!(matches!(
            SpoolFile::open(&path, ROOM),
            Err(ClientError::SpoolInUse { .. })
        ));
        drop(spool);
        assert!(SpoolFile::open(&path, ROOM).is_ok());
    }
}
