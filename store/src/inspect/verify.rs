//! Whether log, queues, index, consumer offsets and checkpoint say the same.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use agena_protocol::bodies::offsets::ConsumerOffsetSerializeWrapper;
use agena_protocol::fastjson;
use agena_protocol::properties;
use agena_protocol::record::{BLANK_BYTES, RecordView, blank_length};
use agena_protocol::sys_flag;
use agena_protocol::tags::{java_hash, tags_code};
use agena_protocol::topic;
use serde::Serialize;

use super::{Found, Numbered, Progress, children, lock, numbered, walk};
use crate::checkpoint::Checkpoint;
use crate::consume_queue::{ENTRY_BYTES, Entry};
use crate::error::StoreError;
use crate::medium::DiskMedium;

/// Faults beyond this are counted but not kept.
const FAULTS_KEPT_MAX: usize = 1000;
/// Queue files that are open at a time.
const OPEN_FILES_MAX: usize = 256;
const INDEX_HEADER_BYTES: u64 = 40;
const INDEX_ENTRY_BYTES: usize = 20;

/// What a check needs to know that the files do not say.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// `maxHashSlotNum` of the broker that wrote the index.
    pub index_slots: u32,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            index_slots: 5_000_000,
        }
    }
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Where.
    pub file: PathBuf,
    /// In the log: the offset; in a queue: the number of the entry; in an index file: the number of the entry.
    pub at: u64,
    /// What.
    pub reason: String,
}

/// What was checked, and what does not hold.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// First offset of the log.
    pub log_start: u64,
    /// Offset behind the last record.
    pub log_end: u64,
    /// Records that hold.
    pub records: u64,
    /// Queues that have records or files.
    pub queues: u64,
    /// Queue entries that were compared with their records.
    pub entries: u64,
    /// Records of batch queues, whose entries are not compared.
    pub batch_records: u64,
    /// Files of the key index.
    pub index_files: u64,
    /// Index entries that were compared with their records.
    pub index_entries: u64,
    /// Consumer offsets that were compared with their queues.
    pub consumer_offsets: u64,
    /// All faults, also those not kept.
    pub fault_count: u64,
    /// The first faults.
    pub faults: Vec<Fault>,
}

impl Verified {
    fn fault(&mut self, file: &Path, at: u64, reason: impl Into<String>) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_KEPT_MAX {
            self.faults.push(Fault {
                file: file.to_owned(),
                at,
                reason: reason.into(),
            });
        }
    }
}

/// Checks the store at `root`, which no broker may have open.
///
/// # Errors
/// [`StoreError`] when it is held, is no store or cannot be read. Faults are no error: they are in the answer.
pub fn verify(
    root: &Path,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Verified, StoreError> {
    let _lock = lock(root)?;
    let mut check = Check {
        root,
        report: Verified::default(),
        queues: BTreeMap::new(),
        open: HashMap::new(),
    };
    check.log(progress)?;
    check.surplus_entries(progress)?;
    check.index(options, progress)?;
    check.consumer_offsets();
    check.checkpoint()?;
    check.report.queues = u64::try_from(check.queues.len()).unwrap_or(u64::MAX);
    Ok(check.report)
}

/// One queue's files and what the log says of it.
#[derive(Debug, Default)]
struct QueueState {
    files: Vec<Numbered>,
    /// Records of the log that are in the queue.
    records: u64,
    /// The number behind the last of them.
    end: Option<u64>,
}

type QueueKey = (String, u32);

struct Check<'r> {
    root: &'r Path,
    report: Verified,
    queues: BTreeMap<QueueKey, QueueState>,
    open: HashMap<PathBuf, File>,
}

impl Check<'_> {
    fn queue_dir(&self, key: &QueueKey) -> PathBuf {
        let (topic, number) = key;
        self.root
            .join("consumequeue")
            .join(topic)
            .join(number.to_string())
    }

    fn log(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), StoreError> {
        let mut first = None;
        let mut failed = None;
        walk(self.root, progress, &mut |file, at, found| {
            first.get_or_insert(at);
            match found {
                Found::Damage(reason) => self.report.fault(file, at, reason),
                Found::Record(record) => {
                    self.report.records += 1;
                    let bytes = u64::try_from(record.bytes().len()).unwrap_or(0);
                    self.report.log_end = at + bytes;
                    if let Err(error) = self.record(&record) {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        self.report.log_start = first.unwrap_or(0);
        failed.map_or(Ok(()), Err)
    }

    /// Compares a record with its place in its queue.
    fn record(&mut self, record: &RecordView<'_>) -> Result<(), StoreError> {
        if !record.transaction().is_queued() {
            return Ok(());
        }
        let batch = sys_flag::INNER_BATCH | sys_flag::NEED_UNWRAP;
        let batch_dir = self.root.join("batchconsumequeue").join(record.topic());
        if record.sys_flag() & batch != 0 || batch_dir.is_dir() {
            self.report.batch_records += 1;
            return Ok(());
        }
        let key = (record.topic().to_owned(), record.queue_id().number());
        let dir = self.queue_dir(&key);
        let number = record.queue_offset().number();
        if !self.queues.contains_key(&key) {
            let files = numbered(&dir)?;
            self.queues.insert(
                key.clone(),
                QueueState {
                    files,
                    records: 0,
                    end: None,
                },
            );
        }
        let state = self.queues.entry(key.clone()).or_default();
        let expected = state.end.replace(number + 1).unwrap_or(number);
        state.records += 1;
        if expected != number && !self.is_kept_free(&key, expected, number)? {
            let reason = format!(
                "the record before it has number {}, this one {number}",
                expected.wrapping_sub(1)
            );
            self.report.fault(&dir, number, reason);
        }
        let entry = self.entry_of(&key, number)?;
        let Some(entry) = entry else {
            let reason = format!(
                "no entry for the record at {}",
                record.physical_offset().number()
            );
            self.report.fault(&dir, number, reason);
            return Ok(());
        };
        self.report.entries += 1;
        let wanted = Entry {
            physical_offset: record.physical_offset().number(),
            size: u32::try_from(record.bytes().len()).unwrap_or(u32::MAX),
            tags_code: record
                .properties()
                .get(properties::TAGS)
                .map_or(0, tags_code),
        };
        // Delayed messages have the time of their delivery instead, which depends on the broker's levels.
        let scheduled = record.topic() == topic::SCHEDULE;
        let same_tags = scheduled || entry.tags_code == wanted.tags_code;
        if entry.physical_offset != wanted.physical_offset
            || entry.size != wanted.size
            || !same_tags
        {
            let reason = format!("{entry:?}, the log says {wanted:?}");
            self.report.fault(&dir, number, reason);
        }
        Ok(())
    }

    /// Whether fillers stand from number `from` to `to`, as where damage took records.
    fn is_kept_free(&mut self, key: &QueueKey, from: u64, to: u64) -> Result<bool, StoreError> {
        let mut number = from;
        while number < to {
            match self.entry_of(key, number)? {
                Some(entry) if entry.is_filler() => number += 1,
                Some(_) | None => return Ok(false),
            }
        }
        Ok(from < to)
    }

    fn entry_of(&mut self, key: &QueueKey, number: u64) -> Result<Option<Entry>, StoreError> {
        let files = self.queues.get(key).map_or(&[][..], |state| &state.files);
        let file = files
            .iter()
            .rev()
            .find(|file| file.base <= number.saturating_mul(ENTRY_BYTES as u64))
            .cloned();
        match file {
            Some(file) => self.entry(&file, number),
            None => Ok(None),
        }
    }

    /// The entry with a number; `None` where the file ends before it or nothing is written.
    fn entry(&mut self, file: &Numbered, number: u64) -> Result<Option<Entry>, StoreError> {
        let at = number.saturating_mul(ENTRY_BYTES as u64) - file.base;
        if at.saturating_add(ENTRY_BYTES as u64) > file.bytes {
            return Ok(None);
        }
        let mut bytes = [0; ENTRY_BYTES];
        let failed = |error| StoreError::io("read", &file.path, error);
        if self.open.len() >= OPEN_FILES_MAX {
            self.open.clear();
        }
        if !self.open.contains_key(&file.path) {
            let opened = File::open(&file.path).map_err(failed)?;
            self.open.insert(file.path.clone(), opened);
        }
        self.open[&file.path]
            .read_exact_at(&mut bytes, at)
            .map_err(failed)?;
        Ok(Entry::decode(&bytes).filter(|entry| entry.size != 0))
    }

    /// Every queue has as many entries into the log as the log has records for it.
    fn surplus_entries(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), StoreError> {
        for topic_dir in children(&self.root.join("consumequeue"))? {
            for dir in children(&topic_dir)? {
                let name = |path: &Path| {
                    path.file_name()
                        .map(|name| name.to_string_lossy().into_owned())
                };
                let (Some(topic), Some(Ok(number))) =
                    (name(&topic_dir), name(&dir).map(|name| name.parse()))
                else {
                    continue;
                };
                let key = (topic, number);
                if let btree_map::Entry::Vacant(place) = self.queues.entry(key) {
                    place.insert(QueueState {
                        files: numbered(&dir)?,
                        ..QueueState::default()
                    });
                }
            }
        }
        let total = u64::try_from(self.queues.len()).unwrap_or(u64::MAX);
        let keys: Vec<QueueKey> = self.queues.keys().cloned().collect();
        for (done, key) in (0..).zip(keys) {
            progress(Progress {
                part: "consumequeue",
                done,
                total,
            });
            // Light queues get entries from records of other topics.
            if key.0.starts_with(topic::LMQ_PREFIX) {
                continue;
            }
            let (live, end) = self.live_entries(&key)?;
            let state = &mut self.queues.entry(key.clone()).or_default();
            let records = state.records;
            state.end = state.end.max(end);
            if live > records {
                let reason = format!(
                    "{live} entries lead into the log, which has {records} records for the queue"
                );
                let dir = self.queue_dir(&key);
                self.report.fault(&dir, end.unwrap_or(0), reason);
            }
        }
        progress(Progress {
            part: "consumequeue",
            done: total,
            total,
        });
        Ok(())
    }

    /// How many entries lead to where the log begins or beyond, and the number behind the last.
    fn live_entries(&self, key: &QueueKey) -> Result<(u64, Option<u64>), StoreError> {
        let (mut live, mut end) = (0, None);
        for file in self.queues.get(key).map_or(&[][..], |state| &state.files) {
            let bytes = std::fs::read(&file.path)
                .map_err(|error| StoreError::io("read", &file.path, error))?;
            let first = file.base / ENTRY_BYTES as u64;
            for (number, entry) in (first..).zip(bytes.chunks_exact(ENTRY_BYTES)) {
                let Some(entry) = Entry::decode(entry).filter(|entry| entry.size != 0) else {
                    break;
                };
                if !entry.is_filler() {
                    live += u64::from(entry.physical_offset >= self.report.log_start);
                    end = Some(number + 1);
                }
            }
        }
        Ok((live, end))
    }

    /// Every index entry into the log leads to a record that has such a key.
    fn index(
        &mut self,
        options: &VerifyOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), StoreError> {
        let logs = numbered(&super::log_dir(self.root))?;
        let files: Vec<PathBuf> = children(&self.root.join("index"))?
            .into_iter()
            .filter(|path| path.is_file())
            .collect();
        let total = u64::try_from(files.len()).unwrap_or(u64::MAX);
        for (done, path) in (0..).zip(&files) {
            progress(Progress {
                part: "index",
                done,
                total,
            });
            self.report.index_files += 1;
            self.index_file(path, &logs, options)?;
        }
        progress(Progress {
            part: "index",
            done: total,
            total,
        });
        Ok(())
    }

    fn index_file(
        &mut self,
        path: &Path,
        logs: &[Numbered],
        options: &VerifyOptions,
    ) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("read", path, error);
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let entries_at = INDEX_HEADER_BYTES + u64::from(options.index_slots) * 4;
        let mut next = [0; 4];
        if length >= INDEX_HEADER_BYTES {
            file.read_exact_at(&mut next, 36).map_err(failed)?;
        }
        let next = u64::from(u32::from_be_bytes(next));
        if length < entries_at + next * INDEX_ENTRY_BYTES as u64 {
            self.report.fault(path, next, "the file is shorter than its slots and entries: were there other numbers of slots?");
            return Ok(());
        }
        for number in 1..next {
            let mut entry = [0; INDEX_ENTRY_BYTES];
            file.read_exact_at(&mut entry, entries_at + number * INDEX_ENTRY_BYTES as u64)
                .map_err(failed)?;
            let hash = u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let [_, _, _, _, rest @ ..] = entry;
            let offset = u64::from_be_bytes([
                rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7],
            ]);
            if offset < self.report.log_start {
                continue;
            }
            self.report.index_entries += 1;
            match self.has_key(logs, offset, hash)? {
                Some(true) => {}
                Some(false) => {
                    self.report.fault(
                        path,
                        number,
                        format!("the record at {offset} has no key with hash {hash}"),
                    );
                }
                None => self
                    .report
                    .fault(path, number, format!("there is no record at {offset}")),
            }
        }
        Ok(())
    }

    /// Whether the record at `offset` has a key with this hash; `None` if there is no record.
    fn has_key(
        &mut self,
        logs: &[Numbered],
        offset: u64,
        hash: u32,
    ) -> Result<Option<bool>, StoreError> {
        if offset >= self.report.log_end {
            return Ok(None);
        }
        let Some(log) = logs.iter().rev().find(|log| log.base <= offset) else {
            return Ok(None);
        };
        let failed = |error| StoreError::io("read", &log.path, error);
        if !self.open.contains_key(&log.path) {
            let opened = File::open(&log.path).map_err(failed)?;
            self.open.insert(log.path.clone(), opened);
        }
        let file = &self.open[&log.path];
        let mut size = [0; 4];
        if file.read_exact_at(&mut size, offset - log.base).is_err() {
            return Ok(None);
        }
        let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
        if size > super::RECORD_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; size];
        if file.read_exact_at(&mut bytes, offset - log.base).is_err() {
            return Ok(None);
        }
        let Ok(record) = RecordView::parse_unsummed(&bytes) else {
            return Ok(None);
        };
        let properties = record.properties();
        let unique = properties.get(properties::UNIQ_KEY).into_iter();
        let keys = properties
            .get(properties::KEYS)
            .unwrap_or_default()
            .split(' ');
        let mut all = unique.chain(keys.filter(|key| !key.is_empty()));
        Ok(Some(all.any(|key| {
            let text = format!("{}#{key}", record.topic());
            java_hash(&text).checked_abs().unwrap_or(0).cast_unsigned() == hash
        })))
    }

    /// No group is further than its queue.
    fn consumer_offsets(&mut self) {
        let path = self.root.join("config").join("consumerOffset.json");
        let Ok(text) = std::fs::read(&path) else {
            return;
        };
        let wrapper: ConsumerOffsetSerializeWrapper = match fastjson::from_slice(&text) {
            Ok(wrapper) => wrapper,
            Err(error) => return self.report.fault(&path, 0, error.to_string()),
        };
        for (key, offsets) in &wrapper.offset_table {
            let Some((topic, group)) = ConsumerOffsetSerializeWrapper::split_key(key) else {
                continue;
            };
            for (number, offset) in offsets {
                let Ok(number) = u32::try_from(*number) else {
                    continue;
                };
                let state = self.queues.get(&(topic.to_owned(), number));
                let Some(end) = state.and_then(|state| state.end) else {
                    continue;
                };
                self.report.consumer_offsets += 1;
                if u64::try_from(*offset).is_ok_and(|offset| offset > end) {
                    let reason = format!(
                        "group {group} is at {offset} in queue {number} of {topic}, which ends at {end}"
                    );
                    self.report.fault(&path, 0, reason);
                }
            }
        }
    }

    /// The end of the log, and of the filler that may stand there.
    fn behind_filler(&self) -> Result<u64, StoreError> {
        let end = self.report.log_end;
        for log in numbered(&super::log_dir(self.root))? {
            if !(log.base..log.base + log.bytes).contains(&end) {
                continue;
            }
            let mut head = [0; BLANK_BYTES];
            let read = File::open(&log.path)
                .and_then(|file| file.read_exact_at(&mut head, end - log.base));
            let filler = read.ok().and_then(|()| blank_length(&head));
            return Ok(end + filler.map_or(0, u64::from));
        }
        Ok(end)
    }

    /// The checkpoint is not ahead of the log.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let checkpoint = Checkpoint::read(&DiskMedium, self.root)?;
        let path = self.root.join("checkpoint");
        let end = self.behind_filler()?.max(self.report.log_start);
        if let Some(mark) = checkpoint.mark.filter(|mark| mark.offset > end) {
            let reason = format!(
                "the mark is {}, the log ends at {}",
                mark.offset, self.report.log_end
            );
            self.report.fault(&path, mark.offset, reason);
        }
        Ok(())
    }
}
