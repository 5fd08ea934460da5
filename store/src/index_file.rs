//! One file of the key index: a hash table on disk whose chains run from newer to older entries.
//!
//! ```text
//! 0 first store timestamp i64 | 8 last i64 | 16 first physical offset i64 | 24 last i64 | 32 used slots i32 | 36 next entry i32
//! 40 slot i32 x slots           number of the newest entry of the slot, 0 for none
//!    entry x entries            0 key hash i32 | 4 physical offset i64 | 12 seconds since the first i32 | 16 older entry i32
//! ```
//! Entry 0 is never used. The functions here keep nothing in memory: what the mapping says is what there is. Apache:
//! `IndexFile`; spec/store.md §4.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::StoreError;
use crate::medium::{Access, Medium};
use crate::segment::MappedFile;

const HEADER_BYTES: usize = 4 * 8 + 2 * 4;
const SLOT_BYTES: usize = 4;
const ENTRY_BYTES: usize = 4 + 8 + 4 + 4;

const BEGIN_TIMESTAMP_AT: usize = 0;
const END_TIMESTAMP_AT: usize = 8;
const BEGIN_OFFSET_AT: usize = 16;
const END_OFFSET_AT: usize = 24;
const USED_SLOTS_AT: usize = 32;
const NEXT_ENTRY_AT: usize = 36;

/// Space for entries is reserved in steps of this.
const RESERVE_STEP: u64 = 1 << 20;

const _: () = assert!(HEADER_BYTES == 40 && ENTRY_BYTES == 20);

/// A key's hash and where its message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// Java's hash of `topic#key`, made positive.
    pub(crate) hash: u32,
    pub(crate) physical_offset: u64,
    pub(crate) store_timestamp: i64,
}

/// Shape of an index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) slots: u32,
    pub(crate) entries: u32,
}

impl Shape {
    /// Bytes of the file.
    pub(crate) fn file_bytes(self) -> usize {
        self.entry_at(self.entries)
    }

    fn slot_at(self, slot: u32) -> usize {
        HEADER_BYTES + slot as usize * SLOT_BYTES
    }

    fn entry_at(self, entry: u32) -> usize {
        HEADER_BYTES + self.slots as usize * SLOT_BYTES + entry as usize * ENTRY_BYTES
    }
}

/// One index file, mapped.
#[derive(Debug)]
pub(crate) struct IndexFile {
    map: MappedFile,
    shape: Shape,
    /// Bytes whose space is reserved.
    reserved: u64,
}

struct StoredEntry {
    hash: u32,
    physical_offset: u64,
    seconds: i32,
    older: u32,
}

impl StoredEntry {
    /// Whether nothing was written here.
    fn is_blank(&self) -> bool {
        (self.hash, self.physical_offset, self.seconds, self.older) == (0, 0, 0, 0)
    }
}

impl IndexFile {
    /// Maps the file, or makes it: then it continues where `last` ends.
    pub(crate) fn open(
        medium: &Arc<dyn Medium>,
        path: &Path,
        shape: Shape,
        last: Option<&IndexFile>,
    ) -> Result<Self, StoreError> {
        let fail = |operation| move |error| StoreError::io(operation, path, error);
        let bytes = shape.file_bytes();
        let file = medium.open(path, Access::Create).map_err(fail("open"))?;
        let found = medium.meta(path).map_err(fail("stat"))?.len;
        let is_new = found == 0;
        if is_new {
            medium
                .set_len(&file, bytes as u64)
                .map_err(fail("extend"))?;
        } else if found != bytes as u64 {
            let reason = format!("has {found} bytes where slots and entries make {bytes}");
            return Err(StoreError::layout(path, reason));
        }
        let mut index = Self {
            map: MappedFile::new(file, bytes)?,
            shape,
            reserved: 0,
        };
        if is_new {
            index.reserve(medium, index.shape.entry_at(1))?;
            index.put_u32(NEXT_ENTRY_AT, 1);
            if let Some(last) = last {
                index.put_i64(BEGIN_TIMESTAMP_AT, last.end_timestamp());
                index.put_i64(END_TIMESTAMP_AT, last.end_timestamp());
                index.put_u64(BEGIN_OFFSET_AT, last.end_offset());
                index.put_u64(END_OFFSET_AT, last.end_offset());
            }
        } else {
            // What is in use may lie in holes of a sparse file: a write there must not meet a full disk.
            let end = index.shape.entry_at(index.next_entry());
            index.reserve(medium, end)?;
            if !index.is_full() {
                index.map.will_need(index.shape.entry_at(0));
            }
        }
        Ok(index)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.map.file().path
    }

    pub(crate) fn begin_timestamp(&self) -> i64 {
        self.i64(BEGIN_TIMESTAMP_AT)
    }

    pub(crate) fn end_timestamp(&self) -> i64 {
        self.i64(END_TIMESTAMP_AT)
    }

    /// Physical offset of the last record indexed here.
    pub(crate) fn end_offset(&self) -> u64 {
        u64::try_from(self.i64(END_OFFSET_AT)).unwrap_or(0)
    }

    /// Physical offset of the first record indexed here.
    pub(crate) fn begin_offset(&self) -> u64 {
        u64::try_from(self.i64(BEGIN_OFFSET_AT)).unwrap_or(0)
    }

    /// Number of the next entry; one more than there are.
    pub(crate) fn next_entry(&self) -> u32 {
        self.u32(NEXT_ENTRY_AT).clamp(1, self.shape.entries)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.next_entry() >= self.shape.entries
    }

    /// Everything put here is on the device when this returns.
    pub(crate) fn sync(&self, medium: &Arc<dyn Medium>) -> Result<(), StoreError> {
        medium
            .sync_data(self.map.file())
            .map_err(|error| StoreError::io("sync", self.path(), error))
    }

    /// Adds a key; false when the file is full.
    pub(crate) fn put(&mut self, medium: &Arc<dyn Medium>, key: &Key) -> Result<bool, StoreError> {
        if self.is_full() {
            return Ok(false);
        }
        let number = self.next_entry();
        self.reserve(medium, self.shape.entry_at(number + 1))?;
        let slot_at = self.shape.slot_at(key.hash % self.shape.slots);
        let older = match self.u32(slot_at) {
            older if older < number => older,
            // Newer than the newest: the slot is damaged.
            _ => 0,
        };
        if number == 1 {
            self.put_i64(BEGIN_TIMESTAMP_AT, key.store_timestamp);
            self.put_u64(BEGIN_OFFSET_AT, key.physical_offset);
        }
        let begin = self.begin_timestamp();
        let seconds = if begin > 0 {
            i32::try_from((key.store_timestamp - begin) / 1000)
                .unwrap_or(i32::MAX)
                .max(0)
        } else {
            0
        };
        self.put_entry(
            number,
            &StoredEntry {
                hash: key.hash,
                physical_offset: key.physical_offset,
                seconds,
                older,
            },
        );
        self.put_u32(slot_at, number);
        if older == 0 {
            self.put_u32(USED_SLOTS_AT, self.u32(USED_SLOTS_AT).wrapping_add(1));
        }
        self.put_i64(END_TIMESTAMP_AT, key.store_timestamp);
        self.put_u64(END_OFFSET_AT, key.physical_offset);
        self.put_u32(NEXT_ENTRY_AT, number + 1);
        Ok(true)
    }

    /// Whether times between `begin` and `end` may be here.
    pub(crate) fn overlaps(&self, begin: i64, end: i64) -> bool {
        begin <= self.end_timestamp() && end >= self.begin_timestamp()
    }

    /// Adds to `found` the places of messages with this hash, stored between `begin` and `end` (to the second), newest
    /// first, until there are `max`.
    pub(crate) fn select(&self, hash: u32, begin: i64, end: i64, max: usize, found: &mut Vec<u64>) {
        let next_entry = self.next_entry();
        let mut number = self.u32(self.shape.slot_at(hash % self.shape.slots));
        while number > 0 && number < next_entry && found.len() < max {
            let entry = self.entry(number);
            if entry.seconds < 0 {
                return;
            }
            let time = self.begin_timestamp() + i64::from(entry.seconds) * 1000;
            if entry.hash == hash && begin <= time && time <= end {
                found.push(entry.physical_offset);
            }
            // Chains only run to older entries; what does not is damaged and would be walked for ever.
            if entry.older >= number || time < begin {
                return;
            }
            number = entry.older;
        }
    }

    /// Whether the entries from number `from` on can have come about by putting them: recovery asks before it takes some
    /// back. All of them are of records in `log`. The slots are looked at as a whole.
    pub(crate) fn is_consistent(&self, from: u32, log: Range<u64>) -> bool {
        let next_entry = self.next_entry();
        let mut last_offset = log.start;
        self.slots_are_below(next_entry)
            && (from..next_entry).all(|number| {
                let entry = self.entry(number);
                let ascends = entry.physical_offset >= last_offset;
                last_offset = entry.physical_offset;
                let newest = self.u32(self.shape.slot_at(entry.hash % self.shape.slots));
                ascends
                    && !entry.is_blank()
                    && entry.physical_offset < log.end.max(1)
                    && entry.older < number
                    && newest >= number
            })
    }

    /// Whether no slot points to entry `number` or behind it.
    pub(crate) fn slots_are_below(&self, number: u32) -> bool {
        (0..self.shape.slots).all(|slot| self.u32(self.shape.slot_at(slot)) < number)
    }

    /// The first entry behind the last one that is whole and of a record below `offset`. What was not synced before a
    /// power cut may be there in parts: an entry counts if it does not lie before its neighbour, and if `holds` says that
    /// the record at its offset has a key with its hash.
    pub(crate) fn first_from(&self, offset: u64, holds: &dyn Fn(u64, u32) -> bool) -> u32 {
        let is_whole = |number: u32| {
            let entry = self.entry(number);
            let is_behind =
                number == 1 || self.entry(number - 1).physical_offset <= entry.physical_offset;
            entry.physical_offset < offset
                && is_behind
                && !entry.is_blank()
                && holds(entry.physical_offset, entry.hash)
        };
        let mut behind = self.next_entry();
        while behind > 1 && !is_whole(behind - 1) {
            behind -= 1;
        }
        behind
    }

    /// Takes the entries from number `from` on back, newest first, as if they had never been put.
    pub(crate) fn take_back(&mut self, from: u32) {
        let mut number = self.next_entry();
        while number > from.max(1) {
            number -= 1;
            let entry = self.entry(number);
            let slot_at = self.shape.slot_at(entry.hash % self.shape.slots);
            if self.u32(slot_at) == number {
                self.put_u32(slot_at, entry.older);
                if entry.older == 0 {
                    self.put_u32(USED_SLOTS_AT, self.u32(USED_SLOTS_AT).saturating_sub(1));
                }
            }
            self.put_entry(
                number,
                &StoredEntry {
                    hash: 0,
                    physical_offset: 0,
                    seconds: 0,
                    older: 0,
                },
            );
        }
        self.set_end(from.max(1));
    }

    /// Builds slots and chains anew from the entries below number `below`, which are known to be whole.
    pub(crate) fn rebuild_slots(&mut self, below: u32) {
        let slots = self.shape.slot_at(0)..self.shape.entry_at(0);
        self.map.bytes_mut()[slots].fill(0);
        let mut used = 0;
        for number in 1..below {
            let mut entry = self.entry(number);
            let slot_at = self.shape.slot_at(entry.hash % self.shape.slots);
            entry.older = self.u32(slot_at);
            used += u32::from(entry.older == 0);
            self.put_entry(number, &entry);
            self.put_u32(slot_at, number);
        }
        let behind = self.shape.entry_at(below)..self.shape.entry_at(self.next_entry().max(below));
        self.map.bytes_mut()[behind].fill(0);
        self.put_u32(USED_SLOTS_AT, used);
        self.set_end(below);
    }

    fn set_end(&mut self, next_entry: u32) {
        self.put_u32(NEXT_ENTRY_AT, next_entry);
        let (offset, timestamp) = if next_entry > 1 {
            let last = self.entry(next_entry - 1);
            let seconds = i64::from(last.seconds);
            // Seconds are all that is known of the last entry's time.
            (
                last.physical_offset,
                self.begin_timestamp() + seconds * 1000,
            )
        } else {
            (self.begin_offset(), self.begin_timestamp())
        };
        self.put_u64(END_OFFSET_AT, offset);
        self.put_i64(END_TIMESTAMP_AT, timestamp);
    }

    fn reserve(&mut self, medium: &Arc<dyn Medium>, end: usize) -> Result<(), StoreError> {
        let end = end as u64;
        if end <= self.reserved {
            return Ok(());
        }
        let upto = (end + RESERVE_STEP).min(self.shape.file_bytes() as u64);
        medium
            .allocate(self.map.file(), self.reserved, upto - self.reserved)
            .map_err(|error| StoreError::io("allocate", self.path(), error))?;
        self.reserved = upto;
        Ok(())
    }

    fn entry(&self, number: u32) -> StoredEntry {
        let at = self.shape.entry_at(number);
        StoredEntry {
            hash: self.u32(at),
            physical_offset: u64::try_from(self.i64(at + 4)).unwrap_or(0),
            seconds: self.u32(at + 12).cast_signed(),
            older: self.u32(at + 16),
        }
    }

    fn put_entry(&mut self, number: u32, entry: &StoredEntry) {
        let at = self.shape.entry_at(number);
        self.put_u32(at, entry.hash);
        self.put_u64(at + 4, entry.physical_offset);
        self.put_u32(at + 12, entry.seconds.cast_unsigned());
        self.put_u32(at + 16, entry.older);
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = &self.map.bytes()[at..at + 4];
        u32::from_be_bytes(bytes.try_into().unwrap_or_default())
    }

    fn i64(&self, at: usize) -> i64 {
        let bytes = &self.map.bytes()[at..at + 8];
        i64::from_be_bytes(bytes.try_into().unwrap_or_default())
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.map.bytes_mut()[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn put_i64(&mut self, at: usize, value: i64) {
        self.map.bytes_mut()[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.map.bytes_mut()[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::medium::DiskMedium;

    const SHAPE: Shape = Shape {
        slots: 8,
        entries: 200,
    };

    fn key(number: u32) -> Key {
        Key {
            hash: 1000 + number,
            physical_offset: u64::from(number) * 100,
            store_timestamp: 1_700_000_000_000,
        }
    }

    fn is_found(file: &IndexFile, number: u32) -> bool {
        let mut found = Vec::new();
        file.select(key(number).hash, 0, i64::MAX, 10, &mut found);
        found == [key(number).physical_offset]
    }

    /// Keys 0 to 99, of which those below 40 were synced. Sectors of the rest are as `lost` says.
    fn torn(dir: &Path, lost: impl Fn(usize) -> bool) -> IndexFile {
        let medium: Arc<dyn Medium> = Arc::new(DiskMedium);
        let mut file = IndexFile::open(&medium, &dir.join("1"), SHAPE, None).unwrap();
        for number in 0..40 {
            file.put(&medium, &key(number)).unwrap();
        }
        let synced = file.map.bytes().to_vec();
        for number in 40..100 {
            file.put(&medium, &key(number)).unwrap();
        }
        for at in (0..synced.len()).step_by(512).filter(|at| lost(*at / 512)) {
            let end = (at + 512).min(synced.len());
            file.map.bytes_mut()[at..end].copy_from_slice(&synced[at..end]);
        }
        file
    }

    #[test]
    fn entries_that_a_power_cut_tore_cost_no_older_one() {
        // Every choice of the sectors that hold the keys from 40 on, the first with header and slots.
        for lost in 0..32_usize {
            let dir = tempfile::tempdir().unwrap();
            // What the log would say: each of its records has one key.
            let holds = |offset: u64, hash: u32| u64::from(hash) * 100 == 100_000 + offset;
            let mut file = torn(dir.path(), |sector| lost >> sector & 1 == 1);
            let first = file.first_from(4000, &holds);
            assert!(first == 41 || file.next_entry() < 41, "{lost:b}: {first}");
            let is_whole = file.is_consistent(first, 4000..10_000);
            if is_whole {
                file.take_back(first);
            }
            if !is_whole || !file.slots_are_below(first) {
                file.rebuild_slots(first);
            }
            assert_eq!(file.next_entry(), first);
            for number in 0..40 {
                assert!(is_found(&file, number), "{lost:b}: {number}");
            }
            assert!((40..100).all(|number| !is_found(&file, number)), "{lost:b}");
        }
    }
}
