//! What need not be scanned again.
//!
//! ```text
//!    0 physic ms i64 | 8 logics ms i64 | 16 index ms i64 | 24 master flushed i64 | 32 confirmed i64     the original's
//!  512 magic u32 "AGNA" | 516 version u32 = 1 | 520 mark u64 | 528 queues u64 | 536 index files u64 | 544 crc u32   ours
//! ```
//! The original's recovery goes by the times; ours by the mark: every record below it is on the device, and so is all
//! that was derived from it. Both parts lie in sectors of their own and never run ahead of what is synced. 4096 bytes.
//! Apache: `StoreCheckpoint`; spec/store.md §5.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;
use crate::medium::{Access, Medium, read_file};

const FILE_BYTES: usize = 4096;
const OURS_AT: usize = 512;
const MAGIC: u32 = 0x4147_4E41;
const VERSION: u32 = 1;
const SUM_AT: usize = OURS_AT + 32;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Store timestamp of the last record that is synced.
    pub physic_ms: i64,
    /// Store timestamp of the last record whose queue entry is synced.
    pub logics_ms: i64,
    /// Last store timestamp in an index file that is synced.
    pub index_ms: i64,
    /// Of replication; kept as it is.
    pub master_flushed: i64,
    /// Start of the last record.
    pub confirmed: i64,
    /// Our own part; `None` in files of the original.
    pub mark: Option<Mark>,
}

/// Up to where the log and all that is derived from it is on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// A record boundary.
    pub offset: u64,
    /// Queues that had files.
    pub queues: u64,
    /// Index files.
    pub index_files: u64,
}

impl Checkpoint {
    /// Reads the file of the store at `root`; all zeros when it is missing.
    pub(crate) fn read(medium: &dyn Medium, root: &Path) -> Result<Self, StoreError> {
        let path = path(root);
        let bytes = read_file(medium, &path, FILE_BYTES as u64)
            .map_err(|error| StoreError::io("read", &path, error))?;
        Ok(bytes.map(|bytes| Self::decode(&bytes)).unwrap_or_default())
    }

    /// Reads what there is; short files lack what they lack.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            physic_ms: i64_at(bytes, 0),
            logics_ms: i64_at(bytes, 8),
            index_ms: i64_at(bytes, 16),
            master_flushed: i64_at(bytes, 24),
            confirmed: i64_at(bytes, 32),
            mark: decode_mark(bytes),
        }
    }

    fn encode(&self) -> [u8; FILE_BYTES] {
        let mut bytes = [0; FILE_BYTES];
        let times = [
            self.physic_ms,
            self.logics_ms,
            self.index_ms,
            self.master_flushed,
            self.confirmed,
        ];
        for (at, value) in (0..).step_by(8).zip(times) {
            bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        if let Some(mark) = &self.mark {
            bytes[OURS_AT..OURS_AT + 4].copy_from_slice(&MAGIC.to_be_bytes());
            bytes[OURS_AT + 4..OURS_AT + 8].copy_from_slice(&VERSION.to_be_bytes());
            let numbers = [mark.offset, mark.queues, mark.index_files];
            for (at, value) in (OURS_AT + 8..).step_by(8).zip(numbers) {
                bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
            }
            let sum = crc32fast::hash(&bytes[OURS_AT..SUM_AT]);
            bytes[SUM_AT..SUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// Writes the file and syncs it.
    pub(crate) fn write(&self, medium: &Arc<dyn Medium>, root: &Path) -> Result<(), StoreError> {
        let path = path(root);
        let write = || {
            let is_new = medium.meta(&path).is_err();
            let file = medium.open(&path, Access::Create)?;
            medium.write_at(&file, &self.encode(), 0)?;
            medium.sync_data(&file)?;
            if is_new {
                medium.sync_dir(root)?;
            }
            Ok(())
        };
        write().map_err(|error| StoreError::io("write", &path, error))
    }

    /// The time below which the original trusts log and queues after a crash.
    pub(crate) fn min_timestamp(&self) -> i64 {
        (self.physic_ms.min(self.logics_ms) - 3000).max(0)
    }
}

fn path(root: &Path) -> PathBuf {
    root.join("checkpoint")
}

fn decode_mark(bytes: &[u8]) -> Option<Mark> {
    let ours = bytes.get(OURS_AT..SUM_AT + 4)?;
    let (summed, sum) = ours.split_at(SUM_AT - OURS_AT);
    let number = |at| u64::from_be_bytes(summed[at..at + 8].try_into().unwrap_or_default());
    let is_ours = summed[..4] == MAGIC.to_be_bytes()
        && summed[4..8] == VERSION.to_be_bytes()
        && crc32fast::hash(summed).to_be_bytes() == sum;
    is_ours.then(|| Mark {
        offset: number(8),
        queues: number(16),
        index_files: number(24),
    })
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_undoes_encode() {
        let mut checkpoint = Checkpoint {
            physic_ms: 1_795_224_643_257,
            logics_ms: 2,
            index_ms: 3,
            master_flushed: 4,
            confirmed: 5,
            mark: None,
        };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), checkpoint);
        checkpoint.mark = Some(Mark {
            offset: 77,
            queues: 8,
            index_files: 1,
        });
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes), checkpoint);
        assert_eq!(Checkpoint::decode(&bytes[..40]).mark, None);
        assert_eq!(Checkpoint::decode(&[]), Checkpoint::default());
    }

    #[test]
    fn a_damaged_mark_is_none() {
        let checkpoint = Checkpoint {
            mark: Some(Mark {
                offset: 77,
                queues: 8,
                index_files: 1,
            }),
            ..Checkpoint::default()
        };
        for bit in OURS_AT * 8..(SUM_AT + 4) * 8 {
            let mut bytes = checkpoint.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Checkpoint::decode(&bytes).mark, None, "bit {bit}");
        }
    }
}
