//! How far delays are delivered, kept so that nothing is lost and little comes twice.
//!
//! Two places. RocketMQ's own files `delayOffset.json` and `timercheck` are written every ten seconds and at stop, and never say
//! more than what the device already has. Beside them `delayProgress` is overwritten in place after every delivery without a sync:
//! it survives `kill -9`, so that a restart repeats almost nothing. After a loss of power it may be newer than the log; each state in
//! it names the end of the log that it stands on, and one that the recovered log does not reach is not believed.
//!
//! ```text
//! delayProgress   two slots, written in turn; integers big-endian
//!   0  u32 crc of the rest of the slot      4  u32 count of levels
//!   8  u64 sequence                        16  u64 end of the log it stands on
//!  24  u64 timer low   32 u64 timer read   40  i64 timer acted, ms
//!  48  u64 next offset of each level
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::offsets::DelayOffsetSerializeWrapper;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::offset::PhysicalOffset;

use super::timers::TimerProgress;
use crate::snapshot_files::{SnapshotError, SnapshotFile};

const LEVELS_MAX: usize = 256;
const HEAD_BYTES: usize = 48;
const SLOT_BYTES: usize = HEAD_BYTES + LEVELS_MAX * 8;
const TIMER_CHECK_BYTES: usize = 4096;

/// How far everything is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The next offset of each level, level 1 first.
    pub levels: Vec<u64>,
    /// How far timers are done.
    pub timers: TimerProgress,
    /// The end of the log at the last delivery: what is said above holds for a log that reaches so far.
    pub log_end: PhysicalOffset,
}

/// The files.
#[derive(Debug)]
pub struct ProgressFiles {
    offsets: SnapshotFile,
    timer_check: SnapshotFile,
    live: File,
    sequence: u64,
}

impl ProgressFiles {
    /// Opens the files below `config/` and reads how far `levels` levels and the timers are, for a log that ends at `log_end`.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn open(
        directory: &Path,
        levels: usize,
        log_end: PhysicalOffset,
    ) -> Result<(Self, Progress), SnapshotError> {
        let path = directory.join("delayProgress");
        let io_error = |cause| SnapshotError::Io {
            path: path.clone(),
            cause,
        };
        std::fs::create_dir_all(directory).map_err(io_error)?;
        let live = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error)?;
        let slots = read_slots(&live).map_err(io_error)?;
        let newest = slots.iter().flatten().map(|(sequence, _)| *sequence).max();
        let believed = slots
            .into_iter()
            .flatten()
            .filter(|(_, progress)| progress.log_end <= log_end)
            .max_by_key(|(sequence, _)| *sequence);
        let files = Self {
            offsets: SnapshotFile::new(directory, "delayOffset.json"),
            timer_check: SnapshotFile::new(directory, "timercheck"),
            live,
            sequence: newest.map_or(0, |newest| newest + 1),
        };
        let mut progress = files.saved(levels)?;
        if let Some((_, live)) = believed {
            progress.raise_to(&live);
        }
        progress.log_end = log_end;
        Ok((files, progress))
    }

    /// Notes a delivery. It survives the end of the process.
    ///
    /// # Errors
    /// What the system said.
    pub fn note(&mut self, progress: &Progress) -> io::Result<()> {
        let slot = encode_slot(progress, self.sequence);
        let at = if self.sequence.is_multiple_of(2) {
            0
        } else {
            SLOT_BYTES as u64
        };
        self.sequence += 1;
        self.live.write_all_at(&slot, at)
    }

    /// Writes RocketMQ's files. The caller vouches that the device has what `progress` says.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn save(&self, progress: &Progress, now_ms: i64) -> Result<(), SnapshotError> {
        let levels = (1..).zip(&progress.levels);
        let wrapper = DelayOffsetSerializeWrapper {
            data_version: DataVersion::first(now_ms),
            offset_table: levels
                .filter(|(_, next)| **next > 0)
                .map(|(level, next)| (level, i64::try_from(*next).unwrap_or(i64::MAX)))
                .collect(),
        };
        self.offsets
            .save(&fastjson::to_vec(&wrapper, KeyStyle::Bare))?;
        self.timer_check
            .save(&encode_timer_check(progress.timers))?;
        self.drop_wheel();
        Ok(())
    }

    /// RocketMQ's own index of timers knows nothing of what was delivered here. Without it, and with the file just written, RocketMQ
    /// builds it anew from the first timer that still waits.
    fn drop_wheel(&self) {
        let Some(root) = self.timer_check.path().ancestors().nth(2) else {
            return;
        };
        // Neither is there in most stores; what cannot be removed costs repetitions, no message.
        let _ = std::fs::remove_dir_all(root.join("timerlog"));
        let _ = std::fs::remove_file(root.join("timerwheel"));
    }

    fn saved(&self, levels: usize) -> Result<Progress, SnapshotError> {
        let offsets: Option<DelayOffsetSerializeWrapper> = self.offsets.load()?;
        let table: BTreeMap<i32, i64> = offsets.unwrap_or_default().offset_table;
        let of_level = |level| {
            let next = table.get(&level).copied();
            next.and_then(|next| u64::try_from(next).ok()).unwrap_or(0)
        };
        let timers = std::fs::read(self.timer_check.path())
            .ok()
            .and_then(|bytes| decode_timer_check(&bytes));
        Ok(Progress {
            levels: (1..).take(levels).map(of_level).collect(),
            timers: timers.unwrap_or_default(),
            log_end: PhysicalOffset::new(0),
        })
    }
}

impl Progress {
    /// Takes over whatever `other` has gone further. Both hold, so the further one does.
    fn raise_to(&mut self, other: &Self) {
        for (next, further) in self.levels.iter_mut().zip(&other.levels) {
            *next = (*next).max(*further);
        }
        if (other.timers.read, other.timers.acted_ms) >= (self.timers.read, self.timers.acted_ms) {
            self.timers = other.timers;
        }
    }
}

fn read_slots(live: &File) -> io::Result<[Option<(u64, Progress)>; 2]> {
    let mut bytes = vec![0; SLOT_BYTES * 2];
    let mut filled = 0;
    while filled < bytes.len() {
        match live.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    let (first, second) = bytes.split_at(SLOT_BYTES);
    Ok([decode_slot(first), decode_slot(second)])
}

fn encode_slot(progress: &Progress, sequence: u64) -> Vec<u8> {
    let levels = &progress.levels[..progress.levels.len().min(LEVELS_MAX)];
    let mut slot = vec![0; 4];
    slot.extend(u32::try_from(levels.len()).unwrap_or(0).to_be_bytes());
    slot.extend(sequence.to_be_bytes());
    slot.extend(progress.log_end.number().to_be_bytes());
    slot.extend(progress.timers.low.to_be_bytes());
    slot.extend(progress.timers.read.to_be_bytes());
    slot.extend(progress.timers.acted_ms.to_be_bytes());
    for next in levels {
        slot.extend(next.to_be_bytes());
    }
    let sum = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&sum.to_be_bytes());
    slot
}

fn decode_slot(slot: &[u8]) -> Option<(u64, Progress)> {
    let word = |at: usize| Some(u64::from_be_bytes(slot.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_be_bytes(slot.get(at..at + 4)?.try_into().ok()?));
    let levels = usize::try_from(half(4)?)
        .ok()
        .filter(|count| *count <= LEVELS_MAX)?;
    let end = HEAD_BYTES + levels * 8;
    if crc32fast::hash(slot.get(4..end)?) != half(0)? {
        return None;
    }
    let progress = Progress {
        levels: (0..levels)
            .filter_map(|level| word(HEAD_BYTES + level * 8))
            .collect(),
        timers: TimerProgress {
            low: word(24)?,
            read: word(32)?,
            acted_ms: word(40)?.cast_signed(),
        },
        log_end: PhysicalOffset::new(word(16)?),
    };
    Some((word(8)?, progress))
}

/// Seven numbers at the start of 4096 bytes (spec/store.md §6.4). RocketMQ, given the store back, reads the timer queue again from
/// the number that stands where its own position was, so that is the first timer which still waits.
pub fn timer_check_point(timers: TimerProgress) -> Vec<u8> {
    let low = i64::try_from(timers.low).unwrap_or(i64::MAX);
    [timers.acted_ms, 0, low, low, 0, 0, 0]
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect()
}

fn encode_timer_check(timers: TimerProgress) -> Vec<u8> {
    let mut bytes = timer_check_point(timers);
    // Behind RocketMQ's numbers, which end at 56: how far we ourselves have read, and a sum which says that nobody changed the
    // numbers since.
    bytes.extend(timers.read.to_be_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    bytes.resize(TIMER_CHECK_BYTES, 0);
    bytes
}

fn decode_timer_check(bytes: &[u8]) -> Option<TimerProgress> {
    let number = |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let queued = u64::try_from(number(16)?).ok()?;
    let acted_ms = number(0)?;
    let sum = u32::from_be_bytes(bytes.get(64..68)?.try_into().ok()?);
    if crc32fast::hash(bytes.get(..64)?) == sum {
        return Some(TimerProgress {
            low: queued,
            read: u64::try_from(number(56)?).ok()?,
            acted_ms,
        });
    }
    // RocketMQ's own: its timers that are due later still wait, wherever they stand in the queue.
    Some(TimerProgress {
        low: 0,
        read: queued,
        acted_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(next: u64, log_end: u64) -> Progress {
        Progress {
            levels: vec![next, 0, next * 2],
            timers: TimerProgress {
                low: next,
                read: next + 5,
                acted_ms: 1_700_000_000_000 + i64::try_from(next).unwrap(),
            },
            log_end: PhysicalOffset::new(log_end),
        }
    }

    fn open(directory: &Path, log_end: u64) -> (ProgressFiles, Progress) {
        ProgressFiles::open(directory, 3, PhysicalOffset::new(log_end)).unwrap()
    }

    #[test]
    fn a_new_store_begins_at_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (_, progress) = open(directory.path(), 0);
        assert_eq!(progress.levels, [0, 0, 0]);
        assert_eq!(progress.timers, TimerProgress::default());
    }

    #[test]
    fn what_was_noted_survives_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, _) = open(directory.path(), 0);
        for next in 1..=5 {
            files.note(&progress(next, next * 100)).unwrap();
        }
        drop(files);
        assert_eq!(open(directory.path(), 500).1, progress(5, 500));
    }

    #[test]
    fn what_the_recovered_log_does_not_reach_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, _) = open(directory.path(), 0);
        files.save(&progress(2, 200), 7).unwrap();
        files.note(&progress(4, 400)).unwrap();
        files.note(&progress(5, 500)).unwrap();
        drop(files);
        assert_eq!(open(directory.path(), 450).1.levels, [4, 0, 8]);
        assert_eq!(open(directory.path(), 399).1.levels, [2, 0, 4]);
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, _) = open(directory.path(), 0);
        files.note(&progress(4, 400)).unwrap();
        files.note(&progress(5, 500)).unwrap();
        files
            .live
            .write_all_at(&[0xff], SLOT_BYTES as u64 + 60)
            .unwrap();
        drop(files);
        assert_eq!(open(directory.path(), 900).1.levels, [4, 0, 8]);
    }

    #[test]
    fn rocketmq_s_files_hold_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (files, _) = open(directory.path(), 0);
        files.save(&progress(3, 300), 7).unwrap();
        let text = std::fs::read_to_string(directory.path().join("delayOffset.json")).unwrap();
        assert!(text.contains("\"offsetTable\":{1:3,3:6}"), "{text}");
        let check = std::fs::read(directory.path().join("timercheck")).unwrap();
        assert_eq!(check.len(), 4096);
        assert_eq!(open(directory.path(), 300).1, progress(3, 300));
    }

    #[test]
    fn a_wheel_of_rocketmq_goes_when_its_place_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let (files, _) = open(&root.path().join("config"), 0);
        std::fs::create_dir(root.path().join("timerlog")).unwrap();
        std::fs::write(root.path().join("timerwheel"), b"").unwrap();
        files.save(&progress(3, 300), 7).unwrap();
        assert!(!root.path().join("timerlog").exists() && !root.path().join("timerwheel").exists());
    }

    #[test]
    fn of_rocketmq_s_timers_those_that_are_due_later_still_wait() {
        let mut bytes = vec![0; 4096];
        bytes[..8].copy_from_slice(&5_000_i64.to_be_bytes());
        bytes[16..24].copy_from_slice(&40_i64.to_be_bytes());
        bytes[56..64].copy_from_slice(&40_i64.to_be_bytes());
        let timers = decode_timer_check(&bytes).unwrap();
        assert!(timers.is_settled(3, 5_000));
        assert!(!timers.is_settled(3, 5_001));
        assert!(!timers.is_settled(40, 1));
    }
}
