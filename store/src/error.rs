//! What can go wrong, by what the receiver can do about it.

use std::io;
use std::path::{Path, PathBuf};

use agena_protocol::record::RecordError;
use thiserror::Error;

/// A failure of the store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another store of this one, holds the directory.
    #[error("{path} is held by another broker")]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// There is no room. Nothing was written; the store goes on by itself once there is.
    #[error("no space left for {path}")]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The file system is fuller than the configuration allows; the store goes on by itself when it no longer is.
    #[error("{path} lies on a file system that is fuller than {limit_percent} %")]
    DiskRatio {
        /// The directory of the log.
        path: PathBuf,
        /// `diskSpaceWarningLevelRatio`.
        limit_percent: u8,
    },
    /// The store takes no more messages until an operator reopens it.
    #[error("the store is read-only: {cause}")]
    ReadOnly {
        /// What happened, with file and operation.
        cause: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A file is not what its name and the configuration promise.
    #[error("{file}: {reason}")]
    Layout {
        /// The file or directory.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record does not hold.
    #[error("{file}, offset {offset}: {reason}")]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Place in the log.
        offset: u64,
        /// What does not hold.
        reason: RecordError,
    },
    /// A batch that can never fit into one log file.
    #[error("{bytes} bytes never fit into a log file of {segment_bytes}")]
    TooLarge {
        /// Bytes of the record or of the batch that must stay together.
        bytes: u64,
        /// Bytes of a log file.
        segment_bytes: u64,
    },
    /// An operation on a file failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Names the operation and the file of a failed call; a full disk gets its own variant.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        if is_disk_full(&source) {
            return Self::DiskFull {
                path: path.to_owned(),
            };
        }
        Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the system had no descriptor left to open a file with: nothing was written, and it can be tried again.
    pub(crate) fn is_out_of_files(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        let errno = rustix::io::Errno::from_io_error(source);
        matches!(
            errno,
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
        )
    }

    /// Whether a device failed in changing or keeping what it has; as opposed to a file that cannot be opened now, for want
    /// of descriptors perhaps, and to a full disk.
    pub(crate) fn is_failed_write(&self) -> bool {
        match self {
            Self::Io { operation, .. } if !self.is_out_of_files() => {
                matches!(
                    *operation,
                    "sync" | "write" | "zero" | "extend" | "allocate"
                )
            }
            _ => false,
        }
    }

    /// A file that is not what it should be.
    pub(crate) fn layout(file: &Path, reason: impl Into<String>) -> Self {
        Self::Layout {
            file: file.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Whether a call failed for want of space.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Why a message cannot be stored by anybody, ever. RocketMQ answers MESSAGE_ILLEGAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageIllegal {
    /// The topic is empty, too long (127 bytes; 255 for retry topics), or not fit for a directory name.
    #[error("illegal topic of {bytes} bytes")]
    Topic {
        /// Its length.
        bytes: usize,
    },
    /// The body is over `maxMessageSize`.
    #[error("message body of {bytes} bytes is over the limit of {limit}")]
    Body {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The properties do not fit their length word. RocketMQ answers PROPERTIES_SIZE_EXCEEDED.
    #[error("properties of {bytes} bytes are over the limit of 32767")]
    Properties {
        /// Their length.
        bytes: usize,
    },
    /// The whole record is over `maxMessageSize` + 64 KiB.
    #[error("record of {bytes} bytes is over the limit of {limit}")]
    Record {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An inner batch (system flag 0x80); only existing ones are read.
    #[error("inner batches are not taken")]
    InnerBatch,
}
