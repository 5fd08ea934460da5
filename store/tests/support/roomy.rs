//! A medium over the machine's file systems whose space is what a test says, and that counts what retention must not do
//! often: looks at the space, and openings of files below `consumequeue/`.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agena_store::medium::{Access, DiskMedium, Medium, Space, StoreFile};

/// Bytes of the file system that a test sees.
const TOTAL: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct RoomyMedium {
    used: AtomicU64,
    /// Whether a file that is removed gives its bytes back at once.
    gives_back: AtomicBool,
    pub(crate) looks: AtomicU64,
    pub(crate) queue_files_opened: AtomicU64,
    /// Removing a file fails.
    pub(crate) keeps_files: AtomicBool,
}

impl RoomyMedium {
    /// So many percent are in use, whatever the store has.
    pub(crate) fn use_percent(&self, percent: u64) {
        self.gives_back.store(false, Ordering::SeqCst);
        self.used.store(TOTAL * percent / 100, Ordering::SeqCst);
    }

    /// So many percent are in use, and less when files are removed.
    pub(crate) fn use_percent_with_files(&self, percent: u64) {
        self.used.store(TOTAL * percent / 100, Ordering::SeqCst);
        self.gives_back.store(true, Ordering::SeqCst);
    }
}

impl Medium for RoomyMedium {
    fn space(&self, _path: &Path) -> io::Result<Space> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let used = self.used.load(Ordering::SeqCst);
        Ok(Space {
            total: TOTAL,
            available: TOTAL.saturating_sub(used),
        })
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<StoreFile> {
        if path.to_string_lossy().contains("/consumequeue/") {
            self.queue_files_opened.fetch_add(1, Ordering::SeqCst);
        }
        DiskMedium.open(path, access)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if self.keeps_files.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if self.gives_back.load(Ordering::SeqCst) {
            let bytes = DiskMedium.meta(path)?.len;
            self.used.fetch_sub(bytes, Ordering::SeqCst);
        }
        DiskMedium.remove_file(path)
    }

    /// What these tests ask for is not on any device: without the wait they take a tenth of the time.
    fn sync_data(&self, _file: &StoreFile) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}
