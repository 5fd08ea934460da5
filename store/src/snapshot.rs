//! What a clean stop writes down so that the next start scans nothing: where the log ends and what each queue has.
//!
//! The file `queues.clean` is removed as soon as it was read; after a crash there is none. It counts only if the log ends
//! where it says: another program may have run on the directory in between.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::consume_queue::Summary;
use crate::error::StoreError;
use crate::medium::{Medium, read_file, replace_file};

const VERSION: u32 = 1;
/// A million queues take some 60 MB.
const BYTES_MAX: usize = 1 << 30;
const FILE_BYTES_MAX: u64 = BYTES_MAX as u64;

/// The state at a clean stop.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Snapshot {
    version: u32,
    pub(crate) log_start: u64,
    pub(crate) log_end: u64,
    /// Start of the last record, unless the log is empty.
    pub(crate) last_record: Option<u64>,
    pub(crate) store_timestamp: i64,
    pub(crate) index_files: u64,
    pub(crate) queues: Vec<QueueSnapshot>,
}

/// One queue of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct QueueSnapshot {
    pub(crate) topic: String,
    pub(crate) id: u32,
    pub(crate) is_batch: bool,
    /// Whether the numbers below are known; a queue nobody asked for since a crash is opened when somebody does.
    pub(crate) is_known: bool,
    pub(crate) first_file: u64,
    pub(crate) behind_file: u64,
    entries_end: u64,
    min: u64,
    max: u64,
    physical_end: u64,
}

impl Snapshot {
    pub(crate) fn new(
        (log_start, log_end): (u64, u64),
        last_record: Option<u64>,
        store_timestamp: i64,
        index_files: u64,
        queues: Vec<QueueSnapshot>,
    ) -> Self {
        Self {
            version: VERSION,
            log_start,
            log_end,
            last_record,
            store_timestamp,
            index_files,
            queues,
        }
    }

    /// Reads and checks the file; `None` when there is none that holds.
    pub(crate) fn read(medium: &dyn Medium, root: &Path) -> Result<Option<Self>, StoreError> {
        let path = path(root);
        let bytes = read_file(medium, &path, FILE_BYTES_MAX)
            .map_err(|error| StoreError::io("read", &path, error))?;
        Ok(bytes.and_then(|bytes| Self::decode(&bytes)))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, content) = bytes.split_first_chunk::<4>()?;
        if crc32fast::hash(content).to_be_bytes() != *sum {
            return None;
        }
        let (snapshot, _) = bincode::decode_from_slice::<Self, _>(
            content,
            bincode::config::standard().with_limit::<BYTES_MAX>(),
        )
        .ok()?;
        (snapshot.version == VERSION).then_some(snapshot)
    }

    /// Writes the file, on the device.
    pub(crate) fn write(&self, medium: &Arc<dyn Medium>, root: &Path) -> Result<(), StoreError> {
        let path = path(root);
        let content = bincode::encode_to_vec(self, bincode::config::standard())
            .map_err(|error| StoreError::layout(&path, error.to_string()))?;
        let mut bytes = crc32fast::hash(&content).to_be_bytes().to_vec();
        bytes.extend_from_slice(&content);
        replace_file(&**medium, &path, &bytes)
            .map_err(|error| StoreError::io("write", &path, error))
    }

    /// Removes the file, if there is one.
    pub(crate) fn remove(medium: &dyn Medium, root: &Path) -> Result<(), StoreError> {
        let path = path(root);
        if medium.meta(&path).is_err() {
            return Ok(());
        }
        medium
            .remove_file(&path)
            .and_then(|()| medium.sync_dir(root))
            .map_err(|error| StoreError::io("remove", &path, error))
    }
}

impl QueueSnapshot {
    pub(crate) fn new(
        topic: &str,
        id: u32,
        is_batch: bool,
        is_known: bool,
        files: (u64, u64),
        summary: Summary,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            id,
            is_batch,
            is_known,
            first_file: files.0,
            behind_file: files.1,
            entries_end: summary.entries_end,
            min: summary.min,
            max: summary.max,
            physical_end: summary.physical_end,
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            entries_end: self.entries_end,
            min: self.min,
            max: self.max,
            physical_end: self.physical_end,
        }
    }
}

fn path(root: &Path) -> PathBuf {
    root.join("queues.clean")
}
