//! One process per store, and the mark of an unclean end.
//!
//! `lock` holds the word `lock` and an exclusive lock of the system while the store is open (`fcntl`, as Java's
//! `FileLock` takes it, so that Apache's broker and ours exclude each other; and `flock`, which also excludes a second
//! store in one process). `abort` holds the process id and exists while the store is open. spec/store.md §1.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::error::StoreError;
use crate::medium::{Access, Medium, StoreFile};

/// Holds the directory until dropped.
#[derive(Debug)]
pub(crate) struct LockFile {
    _file: StoreFile,
}

impl LockFile {
    /// Takes the lock of `root`.
    pub(crate) fn take(medium: &Arc<dyn Medium>, root: &Path) -> Result<Self, StoreError> {
        let path = root.join("lock");
        let file = medium
            .open(&path, Access::Create)
            .map_err(|error| StoreError::io("open", &path, error))?;
        let held = |_| StoreError::Held { path: path.clone() };
        rustix::fs::flock(&file.file, FlockOperation::NonBlockingLockExclusive).map_err(held)?;
        rustix::fs::fcntl_lock(&file.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(held)?;
        medium
            .write_at(&file, b"lock", 0)
            .map_err(|error| StoreError::io("write", &path, error))?;
        Ok(Self { _file: file })
    }
}

/// The file `abort`.
#[derive(Debug)]
pub(crate) struct AbortMark {
    path: PathBuf,
}

impl AbortMark {
    /// The mark of the store at `root`, set or not.
    pub(crate) fn of(root: &Path) -> Self {
        Self {
            path: root.join("abort"),
        }
    }

    /// Whether the last holder did not close the store.
    pub(crate) fn is_set(&self, medium: &dyn Medium) -> bool {
        medium.meta(&self.path).is_ok()
    }

    /// Sets the mark, on the device.
    pub(crate) fn set(&self, medium: &dyn Medium) -> Result<(), StoreError> {
        let pid = std::process::id().to_string();
        let write = || {
            let file = medium.open(&self.path, Access::Create)?;
            medium.set_len(&file, 0)?;
            medium.write_at(&file, pid.as_bytes(), 0)?;
            medium.sync_data(&file)?;
            self.path
                .parent()
                .map_or(Ok(()), |dir| medium.sync_dir(dir))
        };
        write().map_err(|error| StoreError::io("write", &self.path, error))
    }

    /// Takes the mark away, on the device.
    pub(crate) fn clear(&self, medium: &dyn Medium) -> Result<(), StoreError> {
        medium
            .remove_file(&self.path)
            .and_then(|()| {
                self.path
                    .parent()
                    .map_or(Ok(()), |dir| medium.sync_dir(dir))
            })
            .map_err(|error| StoreError::io("remove", &self.path, error))
    }
}
