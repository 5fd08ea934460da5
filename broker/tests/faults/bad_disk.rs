//! A disk that is full when told, and whose syncs fail or wait when told.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agena_store::medium::{DiskMedium, Medium, Space, StoreFile};

#[derive(Debug, Default)]
pub(crate) struct BadDisk {
    pub(crate) is_full: AtomicBool,
    pub(crate) fails: AtomicBool,
    pub(crate) waits: AtomicBool,
}

impl BadDisk {
    fn room(&self) -> io::Result<()> {
        match self.is_full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        while self.waits.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        match self.fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("injected")),
            false => Ok(()),
        }
    }
}

impl Medium for BadDisk {
    fn allocate(&self, file: &StoreFile, at: u64, len: u64) -> io::Result<()> {
        self.room()?;
        DiskMedium.allocate(file, at, len)
    }

    fn write_at(&self, file: &StoreFile, bytes: &[u8], at: u64) -> io::Result<()> {
        self.room()?;
        DiskMedium.write_at(file, bytes, at)
    }

    fn sync_data(&self, file: &StoreFile) -> io::Result<()> {
        self.sync()?;
        DiskMedium.sync_data(file)
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        self.sync()?;
        DiskMedium.sync_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.sync()?;
        DiskMedium.sync_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        match self.is_full.load(Ordering::SeqCst) {
            true => Ok(Space {
                total: 1 << 30,
                available: 0,
            }),
            false => DiskMedium.space(path),
        }
    }
}
