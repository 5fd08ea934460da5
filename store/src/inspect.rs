//! A stopped store's files, read without opening the store: what `mqadmin storeVerify`, `storeDump` and `storeRebuild` do.
//!
//! Nothing is ever deleted: a rebuild sets the derived files aside. The store's lock is held meanwhile, so that no broker
//! starts on the directory.

mod rebuild;
mod verify;

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agena_protocol::record::{MAGIC_BLANK, MAGIC_V1, MAGIC_V2, RecordView};

use crate::error::StoreError;
use crate::lock_file::LockFile;
use crate::medium::{DiskMedium, Medium};

pub use rebuild::{Rebuilt, rebuild};
pub use verify::{Fault, Verified, VerifyOptions, verify};

/// No record is longer; a size word above it is damage, and nothing is allocated for it.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// How far an inspection is: bytes of the log, then files of what is derived from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is looked at.
    pub part: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

/// What stands at a place of the log.
#[derive(Debug)]
pub enum Found<'a> {
    /// A record that holds.
    Record(RecordView<'a>),
    /// Something else, and why it is no record.
    Damage(String),
}

/// Calls `each` with every record of the store at `root`, in log order, and with everything that should be one.
///
/// # Errors
/// [`StoreError::Held`] while a broker runs on the directory; [`StoreError`] when there is no log or it cannot be read.
pub fn dump(
    root: &Path,
    mut each: impl FnMut(&Path, u64, Found<'_>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let _lock = lock(root)?;
    walk(root, &mut |_| (), &mut each)
}

/// Keeps brokers away while the store is inspected.
fn lock(root: &Path) -> Result<LockFile, StoreError> {
    if !log_dir(root).is_dir() {
        return Err(StoreError::layout(
            root,
            "no directory commitlog: not a store",
        ));
    }
    let medium: Arc<dyn Medium> = Arc::new(DiskMedium);
    LockFile::take(&medium, root)
}

fn log_dir(root: &Path) -> PathBuf {
    root.join("commitlog")
}

/// A file whose name is the offset of its first byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Numbered {
    base: u64,
    bytes: u64,
    path: PathBuf,
}

/// The numbered files of a directory, ascending; none if it is missing.
fn numbered(dir: &Path) -> Result<Vec<Numbered>, StoreError> {
    let mut files = Vec::new();
    for path in children(dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let base = name
            .filter(|name| name.len() == 20)
            .and_then(|name| name.parse().ok());
        if let Some(base) = base {
            let bytes = std::fs::metadata(&path)
                .map_err(|error| StoreError::io("read", &path, error))?
                .len();
            files.push(Numbered { base, bytes, path });
        }
    }
    files.sort();
    Ok(files)
}

/// What is in a directory, by name; nothing if it is missing.
fn children(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |error| StoreError::io("list", dir, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

type Each<'e> = &'e mut dyn FnMut(&Path, u64, Found<'_>) -> ControlFlow<()>;

/// Goes over the log, file by file.
fn walk(root: &Path, progress: &mut dyn FnMut(Progress), each: Each<'_>) -> Result<(), StoreError> {
    let files = numbered(&log_dir(root))?;
    let total = files.iter().map(|file| file.bytes).sum();
    let mut done = 0;
    for (index, file) in files.iter().enumerate() {
        progress(Progress {
            part: "commitlog",
            done,
            total,
        });
        if index > 0 && files[index - 1].base + files[index - 1].bytes != file.base {
            let gap = "the file before does not end where this one begins".to_owned();
            if each(&file.path, file.base, Found::Damage(gap)).is_break() {
                return Ok(());
            }
        }
        // The file behind the last one is made ahead; a crash leaves it there, empty.
        let is_last = files[index + 1..].iter().all(is_unused);
        if walk_file(file, is_last, each)?.is_break() {
            return Ok(());
        }
        done += file.bytes;
    }
    progress(Progress {
        part: "commitlog",
        done,
        total,
    });
    Ok(())
}

/// Whether nothing was written to a file yet.
fn is_unused(file: &Numbered) -> bool {
    let mut head = [1; 8];
    let read = File::open(&file.path).and_then(|mut file| file.read_exact(&mut head));
    file.bytes < 8 || (read.is_ok() && head == [0; 8])
}

/// One file: records until a filler, the end, or something whose length cannot be trusted.
fn walk_file(
    file: &Numbered,
    is_last: bool,
    each: Each<'_>,
) -> Result<ControlFlow<()>, StoreError> {
    let failed = |error| StoreError::io("read", &file.path, error);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(&file.path).map_err(failed)?);
    let mut record = Vec::new();
    let mut at = 0;
    while file.bytes - at >= 8 {
        record.resize(8, 0);
        reader.read_exact(&mut record).map_err(failed)?;
        let size = u32::from_be_bytes([record[0], record[1], record[2], record[3]]);
        let magic = u32::from_be_bytes([record[4], record[5], record[6], record[7]]);
        let room = file.bytes - at;
        if magic == MAGIC_BLANK && u64::from(size) == room {
            return Ok(ControlFlow::Continue(()));
        }
        if size == 0 && magic == 0 && is_last {
            return Ok(ControlFlow::Continue(()));
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let known = magic == MAGIC_V1 || magic == MAGIC_V2;
        if !known || !(8..=RECORD_BYTES_MAX).contains(&length) || u64::from(size) > room {
            let why = format!(
                "size {size} and magic {magic:08x} begin no record; what follows in the file is not looked at"
            );
            return Ok(each(&file.path, file.base + at, Found::Damage(why)));
        }
        record.resize(length, 0);
        reader.read_exact(&mut record[8..]).map_err(failed)?;
        let found = match RecordView::parse(&record) {
            Ok(view) if view.physical_offset().number() == file.base + at => Found::Record(view),
            Ok(view) => Found::Damage(format!(
                "the record says it stands at {}",
                view.physical_offset().number()
            )),
            Err(error) => Found::Damage(error.to_string()),
        };
        if each(&file.path, file.base + at, found).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        at += u64::from(size);
    }
    Ok(ControlFlow::Continue(()))
}
