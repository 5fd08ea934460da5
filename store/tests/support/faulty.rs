//! A medium that fails the n-th call, runs out of space when told, and remembers what was synced, so that a test can cut
//! the power: every page that was not synced is kept, dropped or torn, as a seeded generator decides.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use agena_store::medium::{Access, DiskMedium, Entry, Medium, Meta, Space, StoreFile};

const PAGE: usize = 4096;

/// Which calls a countdown counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    All,
    Syncs,
}

#[derive(Debug)]
pub(crate) struct FaultyMedium {
    root: PathBuf,
    /// Calls until one fails; negative when none will.
    countdown: AtomicI64,
    counts_all: AtomicBool,
    failed: AtomicBool,
    full: AtomicBool,
    pub(crate) syncs: AtomicU64,
    /// Names and content as the device has them.
    device: Mutex<HashMap<PathBuf, Vec<u8>>>,
}

impl FaultyMedium {
    pub(crate) fn new(root: &Path) -> Self {
        let medium = Self {
            root: root.to_owned(),
            countdown: AtomicI64::new(-1),
            counts_all: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            device: Mutex::default(),
        };
        medium.everything_is_synced();
        medium
    }

    /// The `n`-th call from now on fails, and only that.
    pub(crate) fn fail_nth(&self, n: i64, calls: Calls) {
        self.counts_all.store(calls == Calls::All, Ordering::SeqCst);
        self.countdown.store(n, Ordering::SeqCst);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    fn call(&self, is_sync: bool) -> io::Result<()> {
        if (is_sync || self.counts_all.load(Ordering::SeqCst))
            && self.countdown.fetch_sub(1, Ordering::SeqCst) == 1
        {
            self.failed.store(true, Ordering::SeqCst);
            return Err(io::Error::other("injected"));
        }
        Ok(())
    }

    fn space(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn everything_is_synced(&self) {
        let mut device = self.device.lock().unwrap();
        device.clear();
        for path in files_below(&self.root) {
            let content = fs::read(&path).unwrap_or_default();
            device.insert(path, content);
        }
    }

    fn file_is_synced(&self, path: &Path) {
        let content = fs::read(path).unwrap_or_default();
        self.device.lock().unwrap().insert(path.to_owned(), content);
    }

    fn names_are_synced(&self, dir: &Path) {
        let mut device = self.device.lock().unwrap();
        device.retain(|path, _| path.parent() != Some(dir) || path.exists());
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_file() {
                let len = entry.metadata().map_or(0, |meta| meta.len());
                device
                    .entry(path)
                    .or_insert_with(|| vec![0; usize::try_from(len).unwrap()]);
            }
        }
    }

    /// What a power cut at this moment leaves, written below `to`.
    pub(crate) fn cut_power(&self, to: &Path, random: &mut Random) {
        let device = self.device.lock().unwrap().clone();
        let mut names: Vec<PathBuf> = device.keys().cloned().collect();
        for path in files_below(&self.root) {
            // A name that was not synced may be there all the same.
            if !device.contains_key(&path) && random.below(2) == 0 {
                names.push(path);
            }
        }
        names.sort();
        for path in names {
            let synced = device.get(&path).cloned().unwrap_or_default();
            let live = fs::read(&path).unwrap_or_else(|_| synced.clone());
            let content = torn(synced, &live, random);
            let target = to.join(path.strip_prefix(&self.root).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, content).unwrap();
        }
    }
}

/// The synced content with some of the pages written since.
fn torn(mut content: Vec<u8>, live: &[u8], random: &mut Random) -> Vec<u8> {
    content.resize(live.len(), 0);
    for (at, page) in (0..).step_by(PAGE).zip(live.chunks(PAGE)) {
        let have = &mut content[at..at + page.len()];
        if have == page {
            continue;
        }
        match random.below(3) {
            0 => {}
            1 => have.copy_from_slice(page),
            _ => {
                // Sectors of 512 bytes are written or not.
                let sectors = page.len().div_ceil(512);
                let until = (random.below(sectors as u64 + 1) as usize * 512).min(page.len());
                have[..until].copy_from_slice(&page[..until]);
            }
        }
    }
    content
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.append(&mut files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A small seeded generator (xorshift), so that a failure is replayed by its seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

impl Medium for FaultyMedium {
    fn open(&self, path: &Path, access: Access) -> io::Result<StoreFile> {
        self.call(false)?;
        DiskMedium.open(path, access)
    }

    fn meta(&self, path: &Path) -> io::Result<Meta> {
        DiskMedium.meta(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.call(false)?;
        DiskMedium.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(false)?;
        DiskMedium.create_dir(dir)
    }

    fn set_len(&self, file: &StoreFile, len: u64) -> io::Result<()> {
        self.call(false)?;
        DiskMedium.set_len(file, len)
    }

    fn allocate(&self, file: &StoreFile, at: u64, len: u64) -> io::Result<()> {
        self.call(false)?;
        self.space()?;
        DiskMedium.allocate(file, at, len)
    }

    fn zero(&self, file: &StoreFile, at: u64, len: u64) -> io::Result<()> {
        self.call(false)?;
        DiskMedium.zero(file, at, len)
    }

    fn next_data(&self, file: &StoreFile, at: u64) -> io::Result<Option<u64>> {
        self.call(false)?;
        DiskMedium.next_data(file, at)
    }

    fn read_at(&self, file: &StoreFile, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.call(false)?;
        DiskMedium.read_at(file, bytes, at)
    }

    fn write_at(&self, file: &StoreFile, bytes: &[u8], at: u64) -> io::Result<()> {
        self.call(false)?;
        self.space()?;
        DiskMedium.write_at(file, bytes, at)
    }

    fn sync_data(&self, file: &StoreFile) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.call(true)?;
        self.file_is_synced(&file.path);
        Ok(())
    }

    fn sync_all(&self, _dir: &Path) -> io::Result<()> {
        self.call(true)?;
        self.everything_is_synced();
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(true)?;
        self.names_are_synced(dir);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(false)?;
        DiskMedium.rename(from, to)?;
        let mut device = self.device.lock().unwrap();
        if let Some(content) = device.remove(from) {
            device.insert(to.to_owned(), content);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(false)?;
        DiskMedium.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(false)?;
        DiskMedium.remove_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        if self.full.load(Ordering::SeqCst) {
            return Ok(Space {
                total: 1 << 30,
                available: 0,
            });
        }
        DiskMedium.space(path)
    }
}
