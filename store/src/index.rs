//! Lookup of messages by key and time, over the index files from the newest to the oldest.
//!
//! Dispatch hands keys over ([`Index::add`]); a thread of its own writes them, behind the append path. A query writes
//! what is waiting first, so that it sees every message that a consumer could see. Only hashes are stored: different keys
//! may be found together, and the caller compares. Apache: `IndexService`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::properties;
use agena_protocol::record::RecordView;
use agena_protocol::sys_flag::TransactionState;
use agena_protocol::tags::{java_hash, java_hash_more};
use chrono::{DateTime, Local};
use parking_lot::{Condvar, Mutex};

use crate::error::StoreError;
use crate::index_file::{IndexFile, Key, Shape};
use crate::medium::{Medium, make_dir};

/// Keys that may wait; who adds more writes them himself.
const WAITING_MAX: usize = 65_536;
/// How long the first key waits for company.
const GATHER: Duration = Duration::from_millis(50);

/// The key index.
#[derive(Debug)]
pub(crate) struct Index {
    dir: PathBuf,
    medium: Arc<dyn Medium>,
    shape: Shape,
    /// Lock order: `files` before `waiting`.
    files: Mutex<Vec<IndexFile>>,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    keys: Vec<Key>,
    stopped: bool,
}

impl Index {
    /// Maps the files of `dir`; names that are not numbers are left alone.
    pub(crate) fn open(
        medium: &Arc<dyn Medium>,
        dir: &Path,
        shape: Shape,
    ) -> Result<Self, StoreError> {
        let mut names: Vec<String> = medium
            .list(dir)
            .map_err(|error| StoreError::io("list", dir, error))?
            .into_iter()
            .filter(|entry| !entry.is_dir && is_file_name(&entry.name))
            .map(|entry| entry.name)
            .collect();
        names.sort_unstable();
        let mut files: Vec<IndexFile> = Vec::with_capacity(names.len());
        for name in names {
            let path = dir.join(name);
            let fail = |operation| move |error| StoreError::io(operation, dir, error);
            if medium.meta(&path).map_err(fail("stat"))?.len == 0 {
                // Made in front of a crash, or emptied: as good as missing, and recovery counts it so.
                medium.remove_file(&path).map_err(fail("remove"))?;
                continue;
            }
            files.push(IndexFile::open(medium, &path, shape, None)?);
        }
        Ok(Self {
            dir: dir.to_owned(),
            medium: Arc::clone(medium),
            shape,
            files: Mutex::new(files),
            waiting: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Takes keys over, in log order; `keys` is empty afterwards.
    pub(crate) fn add(&self, keys: &mut Vec<Key>) {
        let mut waiting = self.waiting.lock();
        let wake = waiting.keys.is_empty();
        waiting.keys.append(keys);
        let too_many = waiting.keys.len() > WAITING_MAX;
        drop(waiting);
        if wake {
            self.changed.notify_one();
        }
        if too_many {
            // Slows down who is ahead of the index; errors are seen again by the index's own thread.
            let _ = self.write_waiting();
        }
    }

    /// Writes what is waiting. After an error the rest still waits.
    pub(crate) fn write_waiting(&self) -> Result<(), StoreError> {
        let mut files = self.files.lock();
        let keys = std::mem::take(&mut self.waiting.lock().keys);
        let mut done = 0;
        let mut result = Ok(());
        for key in &keys {
            if let Err(error) = self.put(&mut files, key) {
                result = Err(error);
                break;
            }
            done += 1;
        }
        if done < keys.len() {
            self.waiting
                .lock()
                .keys
                .splice(0..0, keys[done..].iter().copied());
        }
        result
    }

    fn put(&self, files: &mut Vec<IndexFile>, key: &Key) -> Result<(), StoreError> {
        if let Some(last) = files.last_mut()
            && last.put(&self.medium, key)?
        {
            return Ok(());
        }
        if let Some(full) = files.last() {
            full.sync(&self.medium)?;
        }
        make_dir(&*self.medium, &self.dir)
            .map_err(|error| StoreError::io("create", &self.dir, error))?;
        let path = self.new_path(files.last(), key.store_timestamp);
        let mut file = IndexFile::open(&self.medium, &path, self.shape, files.last())?;
        self.medium
            .sync_dir(&self.dir)
            .map_err(|error| StoreError::io("sync", &self.dir, error))?;
        file.put(&self.medium, key)?;
        files.push(file);
        Ok(())
    }

    /// Named by local time, as the original does; never by a name that does not sort behind the last.
    fn new_path(&self, last: Option<&IndexFile>, now_ms: i64) -> PathBuf {
        let last_name = last
            .and_then(|file| file.path().file_name())
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let mut name = local_time_name(now_ms);
        if name.as_str() <= last_name {
            let number = last_name.parse::<u64>().unwrap_or(0) + 1;
            name = format!("{number:017}");
        }
        self.dir.join(name)
    }

    /// The thread that writes keys: sleeps until there is one, lets some gather, writes them. Returns when stopped.
    pub(crate) fn run(&self, mut failed: impl FnMut(StoreError)) {
        loop {
            {
                let mut waiting = self.waiting.lock();
                while waiting.keys.is_empty() && !waiting.stopped {
                    self.changed.wait(&mut waiting);
                }
                if waiting.stopped {
                    return;
                }
                self.changed.wait_for(&mut waiting, GATHER);
            }
            if let Err(error) = self.write_waiting() {
                failed(error);
                // A full disk: the keys wait, and the next attempt comes with the next housekeeping or query.
                let mut waiting = self.waiting.lock();
                if !waiting.stopped {
                    self.changed.wait_for(&mut waiting, Duration::from_secs(1));
                }
            }
        }
    }

    /// Ends [`run`](Self::run).
    pub(crate) fn stop(&self) {
        self.waiting.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Everything handed over is on the device when this returns.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.write_waiting()?;
        let files = self.files.lock();
        // Full ones were synced when they became so.
        files.last().map_or(Ok(()), |last| last.sync(&self.medium))
    }

    /// Places of messages whose key has the hash of `key`, at most `max`, of the newest ones first; ascending.
    pub(crate) fn query(
        &self,
        topic: &str,
        key: &str,
        max: usize,
        begin: i64,
        end: i64,
    ) -> Vec<u64> {
        // A full disk keeps keys waiting; what is written can be found all the same.
        let _ = self.write_waiting();
        let hash = key_hash(topic, key);
        let mut found = Vec::new();
        for file in self.files.lock().iter().rev() {
            if file.overlaps(begin, end) {
                file.select(hash, begin, end, max, &mut found);
            }
            if file.begin_timestamp() < begin || found.len() >= max {
                break;
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Removes files of which no message is left; the newest stays.
    pub(crate) fn drop_below(&self, log_start: u64) -> Result<usize, StoreError> {
        let mut files = self.files.lock();
        let mut removed = 0;
        while files.len() > 1 && files[0].end_offset() < log_start {
            match self.medium.remove_file(files[0].path()) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", files[0].path(), error)),
            }
            files.remove(0);
            removed += 1;
        }
        Ok(removed)
    }

    /// How many files there are.
    pub(crate) fn file_count(&self) -> usize {
        self.files.lock().len()
    }

    /// Prepares for the keys of records from `from` on to be added again: what the files have of them is taken back.
    /// Entries of records below `from` are kept; chains that a crash left torn are built anew. Returns whether all files
    /// were whole. `holds` tells whether the record at an offset has a key with a hash.
    pub(crate) fn take_back(
        &self,
        from: u64,
        log_end: u64,
        holds: &dyn Fn(u64, u32) -> bool,
    ) -> Result<bool, StoreError> {
        let mut files = self.files.lock();
        let mut whole = true;
        while let Some(last) = files.last_mut() {
            let first = last.first_from(from, holds);
            let is_whole = last.is_consistent(first, from..log_end);
            if is_whole {
                last.take_back(first);
            }
            // A slot may have been written without its entry.
            if !is_whole || !last.slots_are_below(first) {
                whole = false;
                last.rebuild_slots(first);
            }
            if first > 1 {
                break;
            }
            // Nothing is left in it: removed, so that the one before goes on.
            let path = last.path().to_owned();
            files.pop();
            self.medium
                .remove_file(&path)
                .map_err(|error| StoreError::io("remove", &path, error))?;
        }
        Ok(whole)
    }
}

/// Java's hash of `topic#key`, made positive as the original does.
pub(crate) fn key_hash(topic: &str, key: &str) -> u32 {
    let hash = java_hash_more(java_hash_more(java_hash(topic), "#"), key);
    // `Math.abs` of the smallest integer is negative; the original makes it 0.
    hash.checked_abs().unwrap_or(0).cast_unsigned()
}

/// The keys of a record, in the order in which the original indexes them: the unique one, then each word of `KEYS`.
pub(crate) fn keys_of(
    record: &RecordView<'_>,
    unique_key: Option<&str>,
    keys: Option<&str>,
    out: &mut Vec<Key>,
) {
    if record.transaction() == TransactionState::Rollback {
        return;
    }
    let words = keys.into_iter().flat_map(|keys| keys.split(' '));
    for key in unique_key.into_iter().chain(words) {
        if !key.is_empty() {
            out.push(Key {
                hash: key_hash(record.topic(), key),
                physical_offset: record.physical_offset().number(),
                store_timestamp: record.store_timestamp(),
            });
        }
    }
}

/// The names that [`keys_of`] wants the values of.
pub(crate) const KEY_NAMES: [&str; 2] = [properties::UNIQ_KEY, properties::KEYS];

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 19 && name.bytes().all(|byte| byte.is_ascii_digit())
}

fn local_time_name(now_ms: i64) -> String {
    DateTime::from_timestamp_millis(now_ms)
        .unwrap_or_default()
        .with_timezone(&Local)
        .format("%Y%m%d%H%M%S%3f")
        .to_string()
}
