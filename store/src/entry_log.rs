//! Entries of fixed size in numbered files: what the two kinds of queues are made of.
//!
//! There are tens of thousands of these, so one costs what it holds: a few numbers, the entries that are not on disk yet
//! and the last ones that are (readers at the tail need no file), and no open file of its own. Files are sparse, of the
//! size that the original expects, and named by the byte offset of their first entry.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agena_protocol::queue::QueueId;
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::medium::{Access, Medium, StoreFile};
use crate::read::Residency;
use crate::segmented_log::{file_name, parse_file_name};
use crate::unsynced::Touched;

/// Bytes of written entries that all queues of a kind keep for readers at the tail.
const KEPT_BYTES_MAX: u64 = 64 << 20;
/// Entries that one queue's tail has at most before it is trimmed, and at least, however many queues there are.
const TAIL_ENTRIES_MAX: u64 = 1024;
const TAIL_ENTRIES_MIN: u64 = 16;
/// Trimming leaves this part of them, so that it is rare.
const TRIM_TO: u64 = 8;

/// Read at once to see whether a queue ends there.
const PAGE_BYTES: u64 = 4096;

/// The files of all queues of one kind, of which a bounded number is open.
#[derive(Debug)]
pub(crate) struct EntryFiles {
    root: PathBuf,
    medium: Arc<dyn Medium>,
    entry_bytes: u64,
    file_bytes: u64,
    open_max: usize,
    open: Mutex<OpenFiles>,
    /// Written entries that a tail may keep: fewer, the more queues there are. Any thread sets and reads it; a value of a
    /// moment ago only trims a tail a little earlier or later.
    tail_entries: AtomicU64,
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: HashMap<(u64, u64), (Arc<StoreFile>, u64)>,
    uses: u64,
}

/// One queue's name, from which its files are found.
#[derive(Debug)]
pub(crate) struct QueueName {
    pub(crate) topic: Arc<str>,
    pub(crate) id: QueueId,
    /// Tells queues apart in the table of open files; a topic made anew is another queue.
    serial: u64,
}

impl QueueName {
    pub(crate) fn new(topic: Arc<str>, id: QueueId) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            topic,
            id,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl EntryFiles {
    pub(crate) fn new(
        root: PathBuf,
        medium: Arc<dyn Medium>,
        entry_bytes: usize,
        file_bytes: u64,
        open_max: usize,
    ) -> Self {
        Self {
            root,
            medium,
            entry_bytes: entry_bytes as u64,
            file_bytes,
            open_max,
            open: Mutex::default(),
            tail_entries: AtomicU64::new(TAIL_ENTRIES_MAX),
        }
    }

    /// Tells how many queues share the memory for tails.
    pub(crate) fn set_queue_count(&self, count: usize) {
        let each = KEPT_BYTES_MAX / (self.entry_bytes * count.max(1) as u64);
        let entries = each.clamp(TAIL_ENTRIES_MIN, TAIL_ENTRIES_MAX);
        self.tail_entries.store(entries, Ordering::Relaxed);
    }

    /// The directory above the topics.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of one queue.
    pub(crate) fn dir(&self, name: &QueueName) -> PathBuf {
        self.root.join(&*name.topic).join(name.id.to_string())
    }

    /// Entries of one file.
    pub(crate) fn file_entries(&self) -> u64 {
        self.file_bytes / self.entry_bytes
    }

    fn path(&self, name: &QueueName, file: u64) -> PathBuf {
        self.dir(name).join(file_name(file * self.file_bytes))
    }

    /// The numbers of the first file and of the one behind the last; what does not join the last file is left out.
    pub(crate) fn find(&self, name: &QueueName) -> Result<(u64, u64), StoreError> {
        let dir = self.dir(name);
        let mut bases: Vec<u64> = self
            .medium
            .list(&dir)
            .map_err(|error| StoreError::io("list", &dir, error))?
            .iter()
            .filter_map(|entry| parse_file_name(&entry.name))
            .filter(|base| base.is_multiple_of(self.file_bytes))
            .collect();
        bases.sort_unstable();
        let Some(last) = bases.pop() else {
            return Ok((0, 0));
        };
        let mut first = last;
        while bases
            .pop()
            .is_some_and(|base| base + self.file_bytes == first)
        {
            first -= self.file_bytes;
        }
        Ok((first / self.file_bytes, last / self.file_bytes + 1))
    }

    /// Whether the queue's last file is there and as long as it should be.
    pub(crate) fn has_file(&self, name: &QueueName, file: u64) -> bool {
        self.medium
            .meta(&self.path(name, file))
            .is_ok_and(|meta| meta.len == self.file_bytes)
    }

    fn open(
        &self,
        name: &QueueName,
        file: u64,
        access: Access,
    ) -> Result<Arc<StoreFile>, StoreError> {
        let key = (name.serial, file);
        {
            let mut open = self.open.lock();
            open.uses += 1;
            let now = open.uses;
            if let Some((handle, used)) = open.files.get_mut(&key) {
                *used = now;
                return Ok(Arc::clone(handle));
            }
        }
        let path = self.path(name, file);
        let handle = Arc::new(self.open_path(&path, access)?);
        // Dropped behind the lock: closing a file is a call of its own.
        let mut closed = Vec::new();
        let mut open = self.open.lock();
        if open.files.len() >= self.open_max {
            // Half of them at once, those not used for longest, so that one open costs a few steps on average.
            let limit = open.uses.saturating_sub(self.open_max as u64 / 2);
            open.files.retain(|_, (handle, used)| {
                let is_kept = *used > limit;
                if !is_kept {
                    closed.push(Arc::clone(handle));
                }
                is_kept
            });
        }
        open.uses += 1;
        let now = open.uses;
        open.files.insert(key, (Arc::clone(&handle), now));
        Ok(handle)
    }

    /// Reads the entries of `range`, which are on disk and in one file. False when the caller may not wait for the device and
    /// would have to.
    pub(crate) fn read(
        &self,
        name: &QueueName,
        range: &Range<u64>,
        residency: Residency,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let handle = self.open(name, range.start / self.file_entries(), Access::Write)?;
        let at = (range.start % self.file_entries()) * self.entry_bytes;
        let bytes = (range.end - range.start) * self.entry_bytes;
        out.resize(usize::try_from(bytes).unwrap_or(0), 0);
        let is_read = match residency {
            Residency::MemoryOnly => self.medium.read_cached_at(&handle, out, at),
            Residency::Anywhere => self.medium.read_at(&handle, out, at).map(|()| true),
        };
        is_read.map_err(|error| StoreError::io("read", &handle.path, error))
    }

    /// Writes entries that were taken from a tail; `filler` stands in front of a queue that begins within a file.
    pub(crate) fn write(
        &self,
        name: &QueueName,
        part: &Unwritten,
        filler: &[u8],
    ) -> Result<Touched, StoreError> {
        let file = self.open(name, part.file, Access::Create)?;
        let fail = |error| StoreError::io("write", &file.path, error);
        let first = part.entries.start % self.file_entries();
        if part.is_new_file && first > 0 {
            let fillers = filler.repeat(usize::try_from(first).unwrap_or(0));
            self.medium.write_at(&file, &fillers, 0).map_err(fail)?;
        }
        self.medium
            .write_at(&file, &part.bytes, first * self.entry_bytes)
            .map_err(fail)?;
        Ok(Touched {
            file,
            is_new: part.is_new_file,
        })
    }

    fn open_path(&self, path: &Path, access: Access) -> Result<StoreFile, StoreError> {
        let fail = |operation| move |error| StoreError::io(operation, path, error);
        match self.medium.open(path, Access::Write) {
            Ok(file) => {
                // A crash may leave a file between being made and getting its length.
                let len = self.medium.meta(path).map_err(fail("stat"))?.len;
                if len < self.file_bytes {
                    self.medium
                        .set_len(&file, self.file_bytes)
                        .map_err(fail("extend"))?;
                }
                Ok(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && access == Access::Create => {
                if let Some(dir) = path.parent() {
                    self.medium
                        .create_dir(dir)
                        .map_err(|error| StoreError::io("create", dir, error))?;
                }
                let file = self
                    .medium
                    .open(path, Access::Create)
                    .map_err(fail("open"))?;
                self.medium
                    .set_len(&file, self.file_bytes)
                    .map_err(fail("extend"))?;
                Ok(file)
            }
            Err(error) => Err(fail("open")(error)),
        }
    }

    fn forget(&self, name: &QueueName) {
        self.open
            .lock()
            .files
            .retain(|(serial, _), _| *serial != name.serial);
    }
}

/// The entries of one queue. All functions run under the queue's lock.
#[derive(Debug)]
pub(crate) struct EntryLog {
    /// Files on disk: numbers of the first and of the one behind the last.
    files: (u64, u64),
    /// First entry that was ever put here or found on disk.
    start: u64,
    /// First entry that is not on disk.
    written: u64,
    /// Entry that `tail` begins with; at most `written`.
    tail_start: u64,
    /// Entries from `tail_start` on, encoded.
    tail: Vec<u8>,
    entry_bytes: usize,
}

/// Entries of one file that are to be written, as they were when they were looked at.
#[derive(Debug)]
pub(crate) struct Unwritten {
    file: u64,
    is_new_file: bool,
    entries: Range<u64>,
    bytes: Vec<u8>,
}

impl EntryLog {
    /// No entries and no files.
    pub(crate) fn empty(files: &EntryFiles) -> Self {
        Self {
            files: (0, 0),
            start: 0,
            written: 0,
            tail_start: 0,
            tail: Vec::new(),
            entry_bytes: usize::try_from(files.entry_bytes).unwrap_or(usize::MAX),
        }
    }

    /// A queue whose files are `found` and whose entries end at `end`.
    pub(crate) fn of_files(files: &EntryFiles, found: (u64, u64), end: u64) -> Self {
        Self {
            files: found,
            start: found.0 * files.file_entries(),
            written: end,
            tail_start: end,
            ..Self::empty(files)
        }
    }

    /// Number of the first entry there is, which may be a filler.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Number of the first entry that is not on disk.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Number behind the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.tail_start + (self.tail.len() / self.entry_bytes) as u64
    }

    /// Numbers of the first file on disk and of the one behind the last.
    pub(crate) fn files(&self) -> (u64, u64) {
        self.files
    }

    /// Whether there is a file in front of the last one, which alone can go.
    pub(crate) fn is_long(&self) -> bool {
        self.files.0 + 1 < self.files.1
    }

    /// Whether there are no entries and never were.
    pub(crate) fn is_virgin(&self) -> bool {
        self.files.0 == self.files.1 && self.tail.is_empty() && self.start == self.written
    }

    /// An empty log goes on at this number.
    pub(crate) fn begin_at(&mut self, number: u64) {
        self.start = number;
        self.written = number;
        self.tail_start = number;
    }

    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: &[u8]) {
        debug_assert_eq!(entry.len(), self.entry_bytes);
        self.tail.extend_from_slice(entry);
    }

    /// Bytes that are not on disk yet.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.tail.len() - self.tail_at(self.written)
    }

    /// Where the first entry stands in `tail` that is not below `number`.
    fn tail_at(&self, number: u64) -> usize {
        let entries = usize::try_from(number.saturating_sub(self.tail_start)).unwrap_or(usize::MAX);
        entries
            .saturating_mul(self.entry_bytes)
            .min(self.tail.len())
    }

    /// Reads up to `count` entries from `from` on into `out`, from the tail or from one file, and only what there is.
    pub(crate) fn read(
        &self,
        files: &EntryFiles,
        name: &QueueName,
        from: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        match self.read_tail(files, from, count, out) {
            None => Ok(()),
            Some(range) => files
                .read(name, &range, Residency::Anywhere, out)
                .map(|_| ()),
        }
    }

    /// The same as far as it needs no file; else the entries that have to be read from one. Those never change, so that may
    /// be done without the queue's lock.
    pub(crate) fn read_tail(
        &self,
        files: &EntryFiles,
        from: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Option<Range<u64>> {
        out.clear();
        let file_end = (from / files.file_entries() + 1) * files.file_entries();
        let to = from.saturating_add(count).min(self.end()).min(file_end);
        if from >= to || from < self.start {
            return None;
        }
        if from < self.tail_start {
            return Some(from..to.min(self.written));
        }
        out.extend_from_slice(&self.tail[self.tail_at(from)..self.tail_at(to)]);
        None
    }

    /// The next entries to write, of those below `upto`: of one file.
    pub(crate) fn unwritten(&self, files: &EntryFiles, upto: u64) -> Option<Unwritten> {
        let file = self.written / files.file_entries();
        let to = upto.min(self.end()).min((file + 1) * files.file_entries());
        (self.written < to).then(|| Unwritten {
            file,
            is_new_file: self.files.0 == self.files.1 || file >= self.files.1,
            entries: self.written..to,
            bytes: self.tail[self.tail_at(self.written)..self.tail_at(to)].to_vec(),
        })
    }

    /// These entries are in their file. True when it is the queue's first.
    pub(crate) fn note_written(&mut self, files: &EntryFiles, part: &Unwritten) -> bool {
        let is_first = self.files.0 == self.files.1;
        self.written = part.entries.end;
        if is_first {
            self.files.0 = part.file;
            self.start = self.start.min(part.file * files.file_entries());
        }
        if part.is_new_file {
            self.files.1 = part.file + 1;
        }
        self.trim(files);
        is_first
    }

    /// Lets go of written entries beyond those kept for readers.
    fn trim(&mut self, files: &EntryFiles) {
        let entries_max = files.tail_entries.load(Ordering::Relaxed);
        let keep_from = self
            .written
            .saturating_sub(entries_max / TRIM_TO)
            .max(self.tail_start);
        let is_long = keep_from - self.tail_start >= entries_max - entries_max / TRIM_TO;
        if is_long || self.tail.capacity() > 64 * self.tail.len() {
            let cut = self.tail_at(keep_from);
            self.tail.drain(..cut);
            self.tail_start = keep_from;
            self.tail.shrink_to(self.tail.len() * 2);
        }
    }

    /// Changes an entry that is there already, for recovery.
    pub(crate) fn overwrite(
        &mut self,
        files: &EntryFiles,
        name: &QueueName,
        number: u64,
        entry: &[u8],
    ) -> Result<(), StoreError> {
        if number >= self.tail_start && number < self.end() {
            let at = self.tail_at(number);
            self.tail[at..at + self.entry_bytes].copy_from_slice(entry);
        }
        if number < self.written {
            let handle = files.open(name, number / files.file_entries(), Access::Create)?;
            let at = (number % files.file_entries()) * files.entry_bytes;
            files
                .medium
                .write_at(&handle, entry, at)
                .map_err(|error| StoreError::io("write", &handle.path, error))?;
        }
        Ok(())
    }

    /// Drops the entries from `end` on, in memory and on disk, where zeros take their place: stale ones would look
    /// valid to the next who opens the queue.
    pub(crate) fn truncate(
        &mut self,
        files: &EntryFiles,
        name: &QueueName,
        end: u64,
    ) -> Result<(), StoreError> {
        let cut = self.tail_at(end);
        self.tail.truncate(cut);
        if self.tail_start > end {
            self.tail_start = end;
        }
        self.written = self.written.min(end);
        self.start = self.start.min(end);
        let last = (end / files.file_entries()).max(self.files.0);
        while self.files.1 > last + 1 {
            let file = self.files.1 - 1;
            let path = files.path(name, file);
            files.forget(name);
            files
                .medium
                .remove_file(&path)
                .map_err(|error| StoreError::io("remove", &path, error))?;
            self.files.1 = file;
        }
        if self.files.1 > last {
            let handle = files.open(name, last, Access::Create)?;
            let at = (end.saturating_sub(last * files.file_entries())) * files.entry_bytes;
            let len = files.file_bytes.saturating_sub(at);
            files
                .medium
                .zero(&handle, at, len)
                .map_err(|error| StoreError::io("zero", &handle.path, error))?;
        }
        Ok(())
    }

    /// Removes the files whose entries all lie below `min`; the last one stays.
    pub(crate) fn drop_below(
        &mut self,
        files: &EntryFiles,
        name: &QueueName,
        min: u64,
    ) -> Result<usize, StoreError> {
        let mut removed = 0;
        while self.files.0 + 1 < self.files.1 && (self.files.0 + 1) * files.file_entries() <= min {
            let path = files.path(name, self.files.0);
            match files.medium.remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", &path, error)),
            }
            self.files.0 += 1;
            removed += 1;
        }
        if removed > 0 {
            self.start = self.start.max(self.files.0 * files.file_entries());
            files.forget(name);
        }
        Ok(removed)
    }

    /// Removes all files.
    pub(crate) fn remove_all(
        &mut self,
        files: &EntryFiles,
        name: &QueueName,
    ) -> Result<(), StoreError> {
        files.forget(name);
        let dir = files.dir(name);
        match files.medium.remove_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", &dir, error)),
        }
        *self = Self::empty(files);
        Ok(())
    }

    /// Where the entries on disk end: the first that is not `valid`, found by halving the last file. Everything in front
    /// of the last file counts as valid.
    pub(crate) fn find_end(
        files: &EntryFiles,
        name: &QueueName,
        found: (u64, u64),
        valid: impl Fn(&[u8]) -> bool,
    ) -> Result<u64, StoreError> {
        let (first, behind) = found;
        let mut file = behind;
        while file > first {
            file -= 1;
            let base = file * files.file_entries();
            let all = Self::of_files(files, found, behind * files.file_entries());
            // Most queues are short: one read of their first page tells.
            let mut first_page = Vec::new();
            let count = (PAGE_BYTES / files.entry_bytes).min(files.file_entries());
            all.read(files, name, base, count, &mut first_page)?;
            let entries: Vec<&[u8]> = first_page.chunks_exact(all.entry_bytes).collect();
            let in_page = entries.partition_point(|entry| valid(entry)) as u64;
            if in_page == 0 {
                // Made for entries that never came, or torn: the file before decides.
                continue;
            }
            if in_page < count {
                return Ok(base + in_page);
            }
            let mut entry = Vec::new();
            let mut is_valid = |number: u64| -> Result<bool, StoreError> {
                all.read(files, name, base + number, 1, &mut entry)?;
                Ok(valid(&entry))
            };
            let (mut low, mut high) = (in_page - 1, files.file_entries());
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if is_valid(middle)? {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            return Ok(base + high);
        }
        Ok(first * files.file_entries())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::medium::DiskMedium;

    #[test]
    fn many_queues_keep_few_written_entries_each() {
        let dir = tempfile::tempdir().unwrap();
        let medium = Arc::new(DiskMedium);
        let files = EntryFiles::new(dir.path().to_owned(), medium, 20, 20 * 5000, 4);
        let name = QueueName::new(Arc::from("T"), QueueId::new(0));
        let mut log = EntryLog::empty(&files);
        let mut kept = |queues| {
            files.set_queue_count(queues);
            for _ in 0..TAIL_ENTRIES_MAX {
                log.push(&[1; 20]);
            }
            let part = log.unwritten(&files, u64::MAX).unwrap();
            files.write(&name, &part, &[]).unwrap();
            log.note_written(&files, &part);
            log.tail.len() / 20
        };
        assert_eq!(kept(1), 128);
        assert!(kept(1_000_000) <= 16);
        let mut bytes = Vec::new();
        log.read(&files, &name, 1000, 3, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 60], "what is not kept is read from the file");
    }
}
