//! One mapped file of fixed size. The only unsafe code of the workspace.
//!
//! A segment is shared by readers, who see what lies below its *published end*, and written by its one
//! [`SegmentWriter`], who writes beyond it. **A byte below the published end never changes**, so slices need no lock and
//! no copy; each keeps the mapping alive. Space is allocated before it is written: a full disk is an error of
//! [`SegmentWriter::reserve`] and never a SIGBUS. Apache: `DefaultMappedFile`.

#![expect(
    unsafe_code,
    reason = "mapped memory is written by one and read by many; the published end keeps them apart"
)]

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::error::StoreError;
use crate::medium::{Access, Medium, StoreFile};

/// What residency is told in. Where pages are larger, each answer counts for several of these and still is right.
const PAGE_BYTES: usize = 4096;
/// Pages that are asked about in one call.
const PAGES_LOOKED_AT: usize = 64;

/// A mapped file, as readers see it.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Offset of its first byte in the address space of its log.
    base: u64,
    len: usize,
    map: MmapRaw,
    file: StoreFile,
    /// Bytes that readers may see. Stored with Release by the writer after the bytes; loaded with Acquire by readers.
    published: AtomicU64,
    /// Bytes whose space is reserved. Raised by the writer and by the thread that prepares ahead.
    allocated: AtomicU64,
    /// Bytes whose pages are faulted in for writing; raised by the thread that prepares ahead.
    populated: AtomicU64,
    /// What a fault does, as that thread last told the system.
    reads_around: AtomicBool,
}

/// The right to write to a segment; there is one per segment.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    segment: Arc<Segment>,
}

impl Segment {
    /// Maps the file `path`, which has `len` bytes, or makes it. Nothing is published yet.
    pub(crate) fn open(
        medium: &Arc<dyn Medium>,
        path: &Path,
        base: u64,
        len: u64,
    ) -> Result<SegmentWriter, StoreError> {
        let fail = |operation| move |error| StoreError::io(operation, path, error);
        let file = medium.open(path, Access::Create).map_err(fail("open"))?;
        let found = file.file.metadata().map_err(fail("stat"))?.len();
        if found == 0 {
            medium.set_len(&file, len).map_err(fail("extend"))?;
        } else if found != len {
            let reason = format!("has {found} bytes where the configuration says {len}");
            return Err(StoreError::layout(path, reason));
        }
        let len = usize::try_from(len)
            .map_err(|_| StoreError::layout(path, "is too large for this machine"))?;
        let map = MmapOptions::new()
            .len(len)
            .map_raw(&file.file)
            .map_err(fail("map"))?;
        let segment = Arc::new(Self {
            base,
            len,
            map,
            file,
            published: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            populated: AtomicU64::new(0),
            reads_around: AtomicBool::new(true),
        });
        Ok(SegmentWriter { segment })
    }

    /// Offset of the first byte.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Offset behind the last byte of the file.
    pub(crate) fn limit(&self) -> u64 {
        self.base + self.len as u64
    }

    /// Offset behind the last byte that readers may see.
    pub(crate) fn end(&self) -> u64 {
        // Acquire pairs with the Release in `SegmentWriter::publish`: bytes below are visible.
        self.base + self.published.load(Ordering::Acquire)
    }

    /// The open file.
    pub(crate) fn file(&self) -> &StoreFile {
        &self.file
    }

    /// The published bytes from offset `from` on.
    pub(crate) fn bytes_from(&self, from: u64) -> &[u8] {
        let end = self.published_bytes();
        let from = position(from.saturating_sub(self.base), end);
        // SAFETY: the range lies in the mapping, which lives as long as `self`. Bytes below the published end are
        // never written again (`SegmentWriter::bytes_mut` asserts it), so a shared slice of them is sound. Another
        // process changing the file is excluded by the store's lock file.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(from), end - from) }
    }

    /// All published bytes as a handle that keeps the mapping; cut records out of it with `Bytes::slice`.
    pub(crate) fn share(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Shared {
            end: self.published_bytes(),
            segment: Arc::clone(self),
        })
    }

    /// Reserves space up to `end` (an offset), in steps, so that writing there cannot fail. Any thread may ask.
    pub(crate) fn reserve(
        &self,
        medium: &dyn Medium,
        end: u64,
        step: u64,
    ) -> Result<(), StoreError> {
        let wanted = end.min(self.limit()) - self.base;
        let have = self.allocated.load(Ordering::Acquire);
        if wanted <= have {
            return Ok(());
        }
        let upto = wanted.max(have + step).min(self.len());
        let grown = match medium.allocate(&self.file, have, upto - have) {
            // Where a step does not fit any more, what is needed may still.
            Err(error) if crate::error::is_disk_full(&error) && upto > wanted => medium
                .allocate(&self.file, have, wanted - have)
                .map(|()| wanted),
            other => other.map(|()| upto),
        };
        let grown = grown.map_err(|error| StoreError::io("allocate", &self.file.path, error))?;
        self.allocated.fetch_max(grown, Ordering::AcqRel);
        Ok(())
    }

    /// Bytes up to this offset have their space.
    pub(crate) fn reserved_end(&self) -> u64 {
        self.base + self.allocated.load(Ordering::Acquire)
    }

    /// Faults pages in for writing, up to `end` or what is reserved, one `step` at a time. True when there is more to do.
    ///
    /// `only_these`: a fault in a mapping otherwise reads around itself as far as the device's setting goes, often 8 MiB. That
    /// takes a core for 13 ms on end, but less of it in all.
    pub(crate) fn populate(&self, end: u64, step: u64, only_these: bool) -> bool {
        let have = self.populated.load(Ordering::Relaxed);
        let wanted = end.min(self.reserved_end()).saturating_sub(self.base);
        // Pages behind the tail were faulted in by their writing.
        let from = have.max(self.published.load(Ordering::Relaxed)) & !4095;
        if from >= wanted {
            return false;
        }
        let upto = (from + step).min(wanted);
        let (at, len) = (position(from, self.len), position(upto - from, self.len));
        self.read_around(!only_these);
        if only_these {
            let _ = self.map.advise_range(Advice::WillNeed, at, len);
        }
        // A kernel without this advice faults when the page is written: slower, not wrong.
        let _ = self.map.advise_range(Advice::PopulateWrite, at, len);
        self.populated.store(upto, Ordering::Relaxed);
        if upto == self.len() {
            // From now on there are only readers.
            self.read_around(true);
        }
        upto < wanted
    }

    /// What a fault in this mapping does. Asked by one thread.
    fn read_around(&self, wanted: bool) {
        if self.reads_around.swap(wanted, Ordering::Relaxed) != wanted {
            let advice = match wanted {
                true => Advice::Normal,
                false => Advice::Random,
            };
            let _ = self.map.advise(advice);
        }
    }

    /// Asks the system to read a range in, for readers that are not in memory.
    pub(crate) fn will_need(&self, from: u64, len: u64) {
        let at = position(from.saturating_sub(self.base), self.len) & !4095;
        let len = position(len + 4096, self.len - at);
        let _ = self.map.advise_range(Advice::WillNeed, at, len);
    }

    /// Has the system begin to write the whole pages between two offsets, without waiting for it. An error is kept by the
    /// system for the next sync.
    pub(crate) fn write_out(&self, from: u64, to: u64) {
        let page = PAGE_BYTES as u64;
        let from = from.saturating_sub(self.base) / page * page;
        let to = (to.saturating_sub(self.base)).min(self.len()) / page * page;
        let (Ok(at), Ok(len)) = (i64::try_from(from), i64::try_from(to.saturating_sub(from)))
        else {
            return;
        };
        if len > 0 {
            // SAFETY: a call about an open file, which `self` keeps open; no memory is touched.
            unsafe {
                libc::sync_file_range(
                    self.file.file.as_raw_fd(),
                    at,
                    len,
                    libc::SYNC_FILE_RANGE_WRITE,
                );
            }
        }
    }

    /// How many bytes from `from` on are in memory, up to `len`: reading them waits for no device. A kernel that does not tell
    /// counts as having all. What is in memory now may have left it when it is read.
    pub(crate) fn resident_bytes(&self, from: u64, len: u64) -> u64 {
        let from = from.saturating_sub(self.base);
        let at = position(from, self.len);
        let end = position(from.saturating_add(len), self.len);
        let mut upto = at - at % PAGE_BYTES;
        while upto < end {
            let wanted = (end - upto).min(PAGES_LOOKED_AT * PAGE_BYTES);
            let found = self.resident_pages(upto, wanted) * PAGE_BYTES;
            upto += found;
            if found < wanted {
                break;
            }
        }
        upto.min(end).saturating_sub(at) as u64
    }

    /// How many pages from byte `at` on, which begins one, are in memory; at most those of `bytes`.
    fn resident_pages(&self, at: usize, bytes: usize) -> usize {
        let mut pages = [0_u8; PAGES_LOOKED_AT];
        let count = bytes.div_ceil(PAGE_BYTES);
        assert!(at + bytes <= self.len && count <= PAGES_LOOKED_AT);
        // SAFETY: the range lies in the mapping (asserted) and begins at a page, since mappings do; `pages` has a byte for each
        // of its pages (asserted). Nothing is read or written through the mapping.
        let answer = unsafe {
            libc::mincore(
                self.map.as_mut_ptr().add(at).cast(),
                bytes,
                pages.as_mut_ptr(),
            )
        };
        match answer {
            0 => pages[..count]
                .iter()
                .take_while(|page| *page & 1 == 1)
                .count(),
            _ => count,
        }
    }

    fn published_bytes(&self) -> usize {
        position(self.published.load(Ordering::Acquire), self.len)
    }
}

impl SegmentWriter {
    /// The segment itself.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Lets `fill` write `len` bytes at offset `at`, which lie beyond the published end and in reserved space.
    ///
    /// # Panics
    /// When they do not: that would be a defect of the log.
    pub(crate) fn write(&mut self, at: u64, len: usize, fill: impl FnOnce(&mut [u8])) {
        let segment = &*self.segment;
        let from = position(at - segment.base, segment.len);
        assert!(
            at >= segment.end() && at + len as u64 <= segment.reserved_end(),
            "a write must lie between the published end and the reserved space"
        );
        // SAFETY: the range lies in the mapping (asserted: below the reserved end, which is at most the length) and at
        // or beyond the published end, so no reader's slice covers it. `&mut self` of the one writer excludes a second
        // mutable slice.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(segment.map.as_mut_ptr().add(from), len) };
        fill(bytes);
    }

    /// The bytes of the whole file, published or not, for the scan of recovery. No write can run meanwhile.
    pub(crate) fn all_bytes(&self) -> &[u8] {
        // SAFETY: as in `bytes_from`; unpublished bytes are written through `&mut self` only, which this borrow excludes.
        unsafe { std::slice::from_raw_parts(self.segment.map.as_ptr(), self.segment.len) }
    }

    /// Readers may see everything below offset `end`. The end only grows.
    ///
    /// # Panics
    /// When it would shrink or leave the file.
    pub(crate) fn publish(&mut self, end: u64) {
        let segment = &*self.segment;
        assert!(
            end >= segment.end() && end <= segment.limit(),
            "the published end only grows"
        );
        // Release pairs with Acquire in `Segment::end` and `published_bytes`.
        segment
            .published
            .store(end - segment.base, Ordering::Release);
    }
}

/// What a [`Bytes`] of a segment holds on to.
struct Shared {
    segment: Arc<Segment>,
    end: usize,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.segment.bytes_from(self.segment.base)[..self.end]
    }
}

/// A file that is mapped for one owner, who reads and writes it at any place: the index files.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: MmapRaw,
    file: StoreFile,
}

impl MappedFile {
    /// Maps the first `len` bytes of `file`, which must have them.
    pub(crate) fn new(file: StoreFile, len: usize) -> Result<Self, StoreError> {
        let found = file
            .file
            .metadata()
            .map_err(|error| StoreError::io("stat", &file.path, error))?
            .len();
        if found < len as u64 {
            return Err(StoreError::layout(&file.path, "is shorter than its parts"));
        }
        let map = MmapOptions::new()
            .len(len)
            .map_raw(&file.file)
            .map_err(|error| StoreError::io("map", &file.path, error))?;
        // Hashes lie anywhere: what is around them is no more wanted than the rest, and reading it takes a core for milliseconds.
        let _ = map.advise(Advice::Random);
        Ok(Self { map, file })
    }

    /// Has the first `bytes` read in, without waiting for it.
    pub(crate) fn will_need(&self, bytes: usize) {
        let _ = self.map.advise_range(Advice::WillNeed, 0, bytes);
    }

    /// The file.
    pub(crate) fn file(&self) -> &StoreFile {
        &self.file
    }

    /// What is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self`; writes need `&mut self`, so none runs meanwhile.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) }
    }

    /// The same, for writing. The owner has reserved the space of what it writes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only slice.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) }
    }
}

/// A place in a file as an index, never beyond `limit`.
fn position(at: u64, limit: usize) -> usize {
    usize::try_from(at).map_or(limit, |at| at.min(limit))
}
