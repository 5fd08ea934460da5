//! Queues, index and checkpoint built anew from the log. What was there is set aside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agena_protocol::clock::SystemClock;
use serde::Serialize;

use super::{children, lock, log_dir, numbered};
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::recovery::{Opened, RecoveryReport};
use crate::store::Store;

/// Everything that is derived from the log, and what says that it need not be looked at.
const DERIVED: [&str; 5] = [
    "consumequeue",
    "batchconsumequeue",
    "index",
    "checkpoint",
    "queues.clean",
];

/// What a rebuild did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuilt {
    /// Where the former files are.
    pub set_aside: PathBuf,
    /// Offset behind the last record.
    pub log_end: u64,
    /// Records that the queues were built from.
    pub records: u64,
    /// Queues that there are now.
    pub queues: u64,
}

/// Sets aside what is derived in the store below `config.root` and builds it again.
///
/// File sizes are `config`'s, but for the log's, which is what its files have. Retention does not run meanwhile.
///
/// # Errors
/// [`StoreError`] when the store is held, is none, or cannot be read or written. What was set aside stays there.
pub fn rebuild(mut config: StoreConfig) -> Result<Rebuilt, StoreError> {
    let root = config.root.clone();
    let lock = lock(&root)?;
    if let Some(first) = numbered(&log_dir(&root))?.first() {
        config.segment_bytes = first.bytes;
    }
    let set_aside = free_name(&root);
    std::fs::create_dir(&set_aside).map_err(|error| StoreError::io("create", &set_aside, error))?;
    for path in children(&root)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| DERIVED.contains(name)) {
            std::fs::rename(&path, set_aside.join(name))
                .map_err(|error| StoreError::io("rename", &path, error))?;
        }
    }
    // The store takes the lock itself.
    drop(lock);
    config.retention.delete_hours = Vec::new();
    config.retention.expire_ratio = 100;
    config.retention.force_ratio = 100;
    config.retention.refuse_ratio = 100;
    config.retention.log_bytes_max = None;
    let (store, opened) = Store::open(config, Arc::new(SystemClock::new()), Arc::new(()))?;
    let queues = u64::try_from(store.queues().len()).unwrap_or(u64::MAX);
    store.close()?;
    let report = match opened {
        Opened::Recovered(report) => report,
        Opened::Clean => RecoveryReport::default(),
    };
    Ok(Rebuilt {
        set_aside,
        log_end: report.log_end,
        records: report.records,
        queues,
    })
}

/// `set-aside-1`, or the first number that is free.
fn free_name(root: &Path) -> PathBuf {
    let mut number = 1_u32;
    loop {
        let path = root.join(format!("set-aside-{number}"));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}
