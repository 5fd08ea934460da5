//! A medium that fails the n-th call, runs out of space when told, and follows what the device has, so that a test can
//! cut the power: now, or at calls chosen before.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; tests may unwrap"
)]

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use agena_store::medium::{Access, DiskMedium, Entry, Medium, Space, StoreFile};

use crate::device::{Captured, Device};

/// Which calls a countdown counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    All,
    Syncs,
}

/// Called before the device is captured and behind it; what it returns stays with the capture.
type Witness = Box<dyn Fn() -> u64 + Send + Sync>;

pub(crate) struct FaultyMedium {
    /// Calls until one fails; negative when none will.
    countdown: AtomicI64,
    counts_all: AtomicBool,
    failed: AtomicBool,
    full: AtomicBool,
    /// Calls so far that a power cut may precede.
    pub(crate) calls: AtomicU64,
    device: Mutex<Device>,
    cuts: Mutex<Cuts>,
}

#[derive(Default)]
struct Cuts {
    at: HashSet<u64>,
    witness: Option<Witness>,
    captured: Vec<([u64; 2], Captured)>,
}

impl std::fmt::Debug for FaultyMedium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyMedium").finish_non_exhaustive()
    }
}

impl FaultyMedium {
    /// Everything below `base` is on the device.
    pub(crate) fn new(base: &Path) -> Self {
        Self {
            countdown: AtomicI64::new(-1),
            counts_all: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            device: Mutex::new(Device::new(base)),
            cuts: Mutex::default(),
        }
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

    /// The device is captured in front of these calls. `witness` is asked first, because what it saw by then the device has,
    /// and again behind it, because what it has not seen by then the device does not have.
    pub(crate) fn cut_at(&self, calls: HashSet<u64>, witness: Witness) {
        let mut cuts = self.cuts.lock().unwrap();
        cuts.at = calls;
        cuts.witness = Some(witness);
    }

    /// The captures so far, with what the witness said before and behind.
    pub(crate) fn captured(&self) -> Vec<([u64; 2], Captured)> {
        std::mem::take(&mut self.cuts.lock().unwrap().captured)
    }

    /// What the device has now.
    pub(crate) fn capture(&self) -> Captured {
        self.device.lock().unwrap().capture()
    }

    fn call(&self, is_sync: bool) -> io::Result<()> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut cuts = self.cuts.lock().unwrap();
        if cuts.at.remove(&number) {
            let ask = || cuts.witness.as_ref().map_or(0, |witness| witness());
            let before = ask();
            let captured = self.capture();
            let seen = [before, ask()];
            cuts.captured.push((seen, captured));
        }
        drop(cuts);
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

    /// Runs a change of names and notes it, with no capture in between.
    fn change<T>(
        &self,
        run: impl FnOnce() -> io::Result<T>,
        note: impl FnOnce(&mut Device),
    ) -> io::Result<T> {
        let mut device = self.device.lock().unwrap();
        let result = run()?;
        note(&mut device);
        Ok(result)
    }
}

impl Medium for FaultyMedium {
    fn open(&self, path: &Path, access: Access) -> io::Result<StoreFile> {
        self.call(false)?;
        if access == Access::Create && !path.exists() {
            self.space()?;
            return self.change(
                || DiskMedium.open(path, access),
                |device| device.made_file(path),
            );
        }
        DiskMedium.open(path, access)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.call(false)?;
        DiskMedium.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(false)?;
        let missing: Vec<PathBuf> = dir
            .ancestors()
            .take_while(|dir| !dir.exists())
            .map(Path::to_owned)
            .collect();
        if !missing.is_empty() {
            self.space()?;
        }
        self.change(
            || DiskMedium.create_dir(dir),
            |device| {
                for dir in missing.iter().rev() {
                    device.made_dir(dir);
                }
            },
        )
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

    fn read_cached_at(&self, file: &StoreFile, bytes: &mut [u8], at: u64) -> io::Result<bool> {
        self.read_at(file, bytes, at).map(|()| true)
    }

    fn write_at(&self, file: &StoreFile, bytes: &[u8], at: u64) -> io::Result<()> {
        self.call(false)?;
        self.space()?;
        DiskMedium.write_at(file, bytes, at)
    }

    fn sync_data(&self, file: &StoreFile) -> io::Result<()> {
        self.call(true)?;
        self.device.lock().unwrap().file_is_synced(&file.file);
        Ok(())
    }

    fn sync_all(&self, _dir: &Path) -> io::Result<()> {
        self.call(true)?;
        self.device.lock().unwrap().everything_is_synced();
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(true)?;
        self.device.lock().unwrap().names_are_synced(dir);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(false)?;
        self.change(
            || DiskMedium.rename(from, to),
            |device| device.renamed(from, to),
        )
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(false)?;
        self.change(
            || DiskMedium.remove_file(path),
            |device| device.removed(path),
        )
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(false)?;
        self.change(|| DiskMedium.remove_dir(dir), |device| device.removed(dir))
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
