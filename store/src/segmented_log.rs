//! Segments as one address space of offsets: find, roll, drop the head. Apache: `MappedFileQueue`.
//!
//! A file is named by the offset of its first byte, in twenty digits. Segments may be missing at the head (retention) or,
//! after damage, in the middle; offsets in a gap have no segment.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::error::StoreError;
use crate::medium::{Medium, make_dir};
use crate::segment::{Segment, SegmentWriter};

/// Digits of a file name.
const NAME_DIGITS: usize = 20;

/// The name of the file that begins at `base`.
pub(crate) fn file_name(base: u64) -> String {
    format!("{base:0NAME_DIGITS$}")
}

/// The offset a file name tells. Offsets are signed in the format: no file begins beyond.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    (name.len() == NAME_DIGITS && name.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| name.parse::<u64>().ok())?
        .filter(|base| i64::try_from(*base).is_ok())
}

/// The segments of a log, in order.
#[derive(Debug)]
pub(crate) struct SegmentedLog {
    dir: PathBuf,
    segment_bytes: u64,
    medium: Arc<dyn Medium>,
    segments: RwLock<Vec<Arc<Segment>>>,
    /// The segment behind the last, made ahead of its use and not yet part of the log.
    next: Mutex<Next>,
    /// Segments whose files are removed: what is left of them, readers hold.
    gone: Mutex<Vec<Weak<Segment>>>,
}

/// Held while a segment is made, so that appender and preparer never make the same one.
#[derive(Debug, Default)]
struct Next {
    writer: Option<SegmentWriter>,
    /// The last base that [`SegmentedLog::make`] handed out: from there on a segment may be in use.
    handed_out: Option<u64>,
}

impl SegmentedLog {
    /// Maps the files of `dir`. The writers come in order, with nothing published; the log's own list of segments is
    /// complete already.
    pub(crate) fn open(
        medium: &Arc<dyn Medium>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<(Self, Vec<SegmentWriter>), StoreError> {
        let fail = |operation| move |error| StoreError::io(operation, dir, error);
        make_dir(&**medium, dir).map_err(fail("create"))?;
        let mut bases: Vec<u64> = medium
            .list(dir)
            .map_err(fail("list"))?
            .iter()
            .filter(|entry| !entry.is_dir)
            .filter_map(|entry| parse_file_name(&entry.name))
            .collect();
        bases.sort_unstable();
        let mut writers = Vec::with_capacity(bases.len());
        for base in &bases {
            let path = dir.join(file_name(*base));
            if !base.is_multiple_of(segment_bytes) {
                let reason = format!("does not begin at a multiple of {segment_bytes}");
                return Err(StoreError::layout(&path, reason));
            }
            writers.push(Segment::open(medium, &path, *base, segment_bytes)?);
        }
        let log = Self {
            dir: dir.to_owned(),
            segment_bytes,
            medium: Arc::clone(medium),
            segments: RwLock::new(
                writers
                    .iter()
                    .map(|writer| Arc::clone(writer.segment()))
                    .collect(),
            ),
            next: Mutex::default(),
            gone: Mutex::default(),
        };
        Ok((log, writers))
    }

    /// Where the files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of every file.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The segment that holds `offset`.
    pub(crate) fn find(&self, offset: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        // The tail is what nearly everybody asks for.
        let last = segments.last()?;
        if offset >= last.base() {
            return (offset < last.limit()).then(|| Arc::clone(last));
        }
        let behind = segments.partition_point(|segment| segment.base() <= offset);
        let segment = segments.get(behind.checked_sub(1)?)?;
        (offset < segment.limit()).then(|| Arc::clone(segment))
    }

    /// The first segment that begins at or behind `offset`.
    pub(crate) fn first_from(&self, offset: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let at = segments.partition_point(|segment| segment.base() < offset);
        segments.get(at).cloned()
    }

    /// All segments.
    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    /// Offset of the first byte there is.
    pub(crate) fn first_offset(&self) -> Option<u64> {
        self.segments.read().first().map(|segment| segment.base())
    }

    /// Hands out the segment that begins at `base`, made ahead or now, with `reserve` bytes of space. It is not part
    /// of the log until [`push`](Self::push).
    pub(crate) fn make(&self, base: u64, reserve: u64) -> Result<SegmentWriter, StoreError> {
        let mut next = self.next.lock();
        let writer = match next.writer.take() {
            Some(writer) if writer.segment().base() == base => writer,
            Some(_) | None => self.create(base, reserve)?,
        };
        next.handed_out = Some(base);
        Ok(writer)
    }

    fn create(&self, base: u64, reserve: u64) -> Result<SegmentWriter, StoreError> {
        let path = self.dir.join(file_name(base));
        let writer = Segment::open(&self.medium, &path, base, self.segment_bytes)?;
        writer
            .segment()
            .reserve(&*self.medium, base + reserve, reserve)
            .and_then(|()| {
                self.medium
                    .sync_dir(&self.dir)
                    .map_err(|error| StoreError::io("sync", &self.dir, error))
            })
            .inspect_err(|_| {
                // An empty file would do no harm, but on a full disk its inode may.
                let _ = self.remove_file(writer.segment());
            })?;
        Ok(writer)
    }

    /// Makes the segment that begins at `base` for the roll that comes, unless it is there, or already in use: who
    /// prepares may be late, and the file of a segment in use must neither be made nor be thrown away again.
    pub(crate) fn prepare(&self, base: u64, reserve: u64, populate: u64) -> Result<(), StoreError> {
        let mut next = self.next.lock();
        if next.writer.is_some() || next.handed_out.is_some_and(|last| base <= last) {
            return Ok(());
        }
        let writer = self.create(base, reserve)?;
        let segment = Arc::clone(writer.segment());
        next.writer = Some(writer);
        drop(next);
        segment.populate(base + populate, populate, true);
        Ok(())
    }

    /// Takes back a segment that was handed out and is not needed yet.
    pub(crate) fn keep_ahead(&self, writer: SegmentWriter) {
        let mut next = self.next.lock();
        next.handed_out = writer.segment().base().checked_sub(1);
        next.writer = Some(writer);
    }

    /// The log goes on in `segment`.
    pub(crate) fn push(&self, segment: &Arc<Segment>) {
        self.segments.write().push(Arc::clone(segment));
    }

    /// Removes the file that was made ahead and never used.
    pub(crate) fn discard_ahead(&self) -> Result<(), StoreError> {
        let Some(writer) = self.next.lock().writer.take() else {
            return Ok(());
        };
        self.remove_file(writer.segment())?;
        // Back after a power cut, it would stand behind the end that a clean stop wrote down.
        self.sync_names()
    }

    /// Removes the file of `segment` and takes it out of the log, if it is the first and not the last; slices of it stay
    /// valid. The file goes first: when that fails, all is as it was.
    pub(crate) fn drop_first(&self, segment: &Arc<Segment>) -> Result<bool, StoreError> {
        let is_first = |segments: &[Arc<Segment>]| {
            segments.len() > 1 && segments.first().is_some_and(|it| Arc::ptr_eq(it, segment))
        };
        if !is_first(&self.segments.read()) {
            return Ok(false);
        }
        let path = &segment.file().path;
        match self.medium.remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", path, error)),
        }
        let mut segments = self.segments.write();
        if is_first(&segments) {
            segments.remove(0);
        }
        drop(segments);
        self.gone.lock().push(Arc::downgrade(segment));
        Ok(true)
    }

    /// Bytes of removed files that readers still hold: the file system has them back when those let go.
    pub(crate) fn held_bytes(&self) -> u64 {
        let mut gone = self.gone.lock();
        gone.retain(|segment| segment.strong_count() > 0);
        gone.iter()
            .filter_map(Weak::upgrade)
            .map(|segment| segment.len())
            .sum()
    }

    /// Names made and removed are on the device when this returns.
    pub(crate) fn sync_names(&self) -> Result<(), StoreError> {
        self.medium
            .sync_dir(&self.dir)
            .map_err(|error| StoreError::io("sync", &self.dir, error))
    }

    /// Takes every segment behind the one that ends at or before `limit` out of the log, for recovery; the files are
    /// the caller's to remove.
    pub(crate) fn truncate_list(&self, from: u64) -> Vec<Arc<Segment>> {
        let mut segments = self.segments.write();
        let keep = segments.partition_point(|segment| segment.base() < from);
        segments.split_off(keep)
    }

    /// Removes the file of a segment that is no longer part of the log.
    pub(crate) fn remove_file(&self, segment: &Segment) -> Result<(), StoreError> {
        let path = &segment.file().path;
        self.medium
            .remove_file(path)
            .map_err(|error| StoreError::io("remove", path, error))
    }
}
