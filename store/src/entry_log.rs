//! Entries of fixed size in numbered files: what the two kinds of queues are made of.
//!
//! There are tens of thousands of these, so one costs what it holds: a few numbers, the entries that are not on disk yet
//! and the last ones that are (readers at the tail need no file), and no open file of its own. Files are sparse, of the
//! size that the original expects, and named by the byte offset of their first entry.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agena_protocol::queue::QueueId;
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::medium::{Access, Medium, StoreFile};
use crate::segmented_log::{file_name, parse_file_name};

/// Written entries that are kept for readers at the tail.
const KEPT_ENTRIES: u64 = 128;
/// What the tail may hold in addition before it is trimmed, so that trimming is rare.
const TRIM_SLACK: u64 = 896;

/// The files of all queues of one kind, of which a bounded number is open.
#[derive(Debug)]
pub(crate) struct EntryFiles {
    root: PathBuf,
    medium: Arc<dyn Medium>,
    entry_bytes: u64,
    file_bytes: u64,
    open_max: usize,
    open: Mutex<OpenFiles>,
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
        }
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
        let mut open = self.open.lock();
        if open.files.len() >= self.open_max
            && let Some(oldest) = open
                .files
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, _)| *key)
        {
            open.files.remove(&oldest);
        }
        let now = open.uses;
        open.files.insert(key, (Arc::clone(&handle), now));
        Ok(handle)
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

/// A file that got entries, and whether it is new.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) file: Arc<StoreFile>,
    pub(crate) is_new: bool,
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

    /// Reads up to `count` entries from `from` on into `out`, from one file at most, and only what there is.
    pub(crate) fn read(
        &self,
        files: &EntryFiles,
        name: &QueueName,
        from: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        out.clear();
        let file_end = (from / files.file_entries() + 1) * files.file_entries();
        let to = from.saturating_add(count).min(self.end()).min(file_end);
        if from >= to || from < self.start {
            return Ok(());
        }
        if from >= self.tail_start {
            out.extend_from_slice(&self.tail[self.tail_at(from)..self.tail_at(to)]);
            return Ok(());
        }
        let on_disk = to.min(self.written);
        self.read_disk(files, name, from, on_disk, out)?;
        if to > on_disk {
            out.extend_from_slice(&self.tail[self.tail_at(on_disk)..self.tail_at(to)]);
        }
        Ok(())
    }

    fn read_disk(
        &self,
        files: &EntryFiles,
        name: &QueueName,
        from: u64,
        to: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let file = from / files.file_entries();
        let handle = files.open(name, file, Access::Write)?;
        let at = (from % files.file_entries()) * files.entry_bytes;
        let bytes = usize::try_from(to - from).unwrap_or(0) * self.entry_bytes;
        out.resize(bytes, 0);
        files
            .medium
            .read_at(&handle, out, at)
            .map_err(|error| StoreError::io("read", &handle.path, error))
    }

    /// Writes the entries below `upto` that are not on disk yet; `filler` stands in front of a queue that begins within a
    /// file. What was written before an error stays written.
    pub(crate) fn write(
        &mut self,
        files: &EntryFiles,
        name: &QueueName,
        upto: u64,
        filler: &[u8],
        touched: &mut Vec<Touched>,
    ) -> Result<(), StoreError> {
        let upto = upto.min(self.end());
        while self.written < upto {
            let file = self.written / files.file_entries();
            let file_end = (file + 1) * files.file_entries();
            let to = upto.min(file_end);
            let is_new = self.files.0 == self.files.1 || file >= self.files.1;
            let handle = files.open(name, file, Access::Create)?;
            if is_new && !self.written.is_multiple_of(files.file_entries()) {
                let count = usize::try_from(self.written % files.file_entries()).unwrap_or(0);
                let fillers = filler.repeat(count);
                files
                    .medium
                    .write_at(&handle, &fillers, 0)
                    .map_err(|error| StoreError::io("write", &handle.path, error))?;
            }
            let bytes = &self.tail[self.tail_at(self.written)..self.tail_at(to)];
            let at = (self.written % files.file_entries()) * files.entry_bytes;
            files
                .medium
                .write_at(&handle, bytes, at)
                .map_err(|error| StoreError::io("write", &handle.path, error))?;
            self.written = to;
            if is_new {
                if self.files.0 == self.files.1 {
                    self.files.0 = file;
                    self.start = self.start.min(file * files.file_entries());
                }
                self.files.1 = file + 1;
            }
            touched.push(Touched {
                file: handle,
                is_new,
            });
        }
        self.trim();
        Ok(())
    }

    /// Lets go of written entries beyond those kept for readers.
    fn trim(&mut self) {
        let keep_from = self
            .written
            .saturating_sub(KEPT_ENTRIES)
            .max(self.tail_start);
        if keep_from - self.tail_start >= TRIM_SLACK || self.tail.capacity() > 64 * self.tail.len()
        {
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
            let mut entry = Vec::new();
            let mut is_valid = |number: u64| -> Result<bool, StoreError> {
                all.read(files, name, base + number, 1, &mut entry)?;
                Ok(valid(&entry))
            };
            if !is_valid(0)? {
                // Made for entries that never came, or torn: the file before decides.
                continue;
            }
            let (mut low, mut high) = (0, files.file_entries());
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
