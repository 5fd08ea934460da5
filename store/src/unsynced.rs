//! Queue files that were written and are not synced yet. Shared by whoever makes a mark: the keeper, a clean stop, an operator's
//! order.

use std::sync::Arc;

use crate::medium::StoreFile;

/// More files than this are synced by one call for the whole file system, and are not held open until then.
const SYNCED_SINGLY_MAX: usize = 32;

/// A file that got entries, and whether it is new.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) file: Arc<StoreFile>,
    pub(crate) is_new: bool,
}

/// Files with entries that are not synced: by name while they are few. Each is held open, so there must not be many.
#[derive(Debug)]
pub(crate) struct Unsynced {
    files: Vec<Touched>,
    /// Too many to be listed, or not known.
    all: bool,
}

impl Unsynced {
    /// Nothing, or, behind a recovery that wrote here and there, everything.
    pub(crate) fn new(all: bool) -> Self {
        Self {
            files: Vec::new(),
            all,
        }
    }

    /// Remembers a file.
    pub(crate) fn add(&mut self, touched: Touched) {
        if self.files.len() >= SYNCED_SINGLY_MAX {
            self.all = true;
        }
        if self.all {
            self.files.clear();
        } else {
            self.files.push(touched);
        }
    }

    /// Nothing is to be synced.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.all
    }

    /// The files; `None` when there are too many to be told.
    pub(crate) fn files(&self) -> Option<&[Touched]> {
        (!self.all).then_some(&self.files)
    }
}
