//! Files as the store sees them: every call that can fail on a device goes through a [`Medium`], so that tests pass one
//! that fails, tears and forgets. Mapped writes do not fail; what they cost or lose is decided by `sync_data`.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::ReadWriteFlags;

/// An open file and its name.
#[derive(Debug)]
pub struct StoreFile {
    /// The handle.
    pub file: File,
    /// Where it was opened; kept for messages and for media that follow names.
    pub path: PathBuf,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// The same, made empty when it is missing.
    Create,
}

/// One name in a directory.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name; names that are not UTF-8 are left out of listings.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Size and age of a file.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// Bytes.
    pub len: u64,
    /// Last change, ms since 1970.
    pub modified_ms: i64,
}

/// Space of a file system.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be written.
    pub available: u64,
}

impl Space {
    /// Percentage in use, rounded up as `df` does.
    #[must_use]
    pub fn used_percent(&self) -> u8 {
        let used = self.total.saturating_sub(self.available);
        let percent = (used * 100).checked_div(self.total).map_or(0, |floor| {
            floor + u64::from(!(used * 100).is_multiple_of(self.total))
        });
        u8::try_from(percent).unwrap_or(100)
    }
}

/// A file system: that of the machine, but for what an implementation does itself. All calls may block.
#[expect(
    clippy::missing_errors_doc,
    reason = "each call fails as the system call of its name does"
)]
pub trait Medium: Send + Sync + fmt::Debug + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<StoreFile> {
        let file = File::options()
            .read(true)
            .write(access != Access::Read)
            .create(access == Access::Create)
            .truncate(false)
            .open(path)?;
        Ok(StoreFile {
            file,
            path: path.to_owned(),
        })
    }

    /// Size and age.
    fn meta(&self, path: &Path) -> io::Result<Meta> {
        let meta = fs::metadata(path)?;
        let modified_ms = meta
            .modified()?
            .duration_since(UNIX_EPOCH)
            .map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        Ok(Meta {
            len: meta.len(),
            modified_ms,
        })
    }

    /// Names in a directory, in no order; none when the directory is missing.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            if let Ok(name) = entry.file_name().into_string() {
                listed.push(Entry { name, is_dir });
            }
        }
        Ok(listed)
    }

    /// Makes a directory and those above it.
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    /// Gives a file its length; what is new is a hole.
    fn set_len(&self, file: &StoreFile, len: u64) -> io::Result<()> {
        file.file.set_len(len)
    }

    /// Reserves space, so that writing a mapping of it cannot fail for want of any.
    fn allocate(&self, file: &StoreFile, at: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&file.file, FallocateFlags::KEEP_SIZE, at, len) {
            // File systems without it cannot promise space; there a full disk is met when writing.
            Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a range read as zeros, without keeping its space.
    fn zero(&self, file: &StoreFile, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&file.file, mode, at, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(&file.file, at, len),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }

    /// The first place at or behind `at` that is not in a hole.
    fn next_data(&self, file: &StoreFile, at: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&file.file, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(found)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads exactly.
    fn read_at(&self, file: &StoreFile, bytes: &mut [u8], at: u64) -> io::Result<()> {
        file.file.read_exact_at(bytes, at)
    }

    /// Reads exactly, unless that would have to wait for the device: then false, and `bytes` are anything.
    fn read_cached_at(&self, file: &StoreFile, bytes: &mut [u8], at: u64) -> io::Result<bool> {
        let wanted = bytes.len();
        let mut parts = [IoSliceMut::new(bytes)];
        match rustix::io::preadv2(&file.file, &mut parts, at, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == wanted),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            // File systems that cannot tell: tmpfs, which never waits, and old network ones.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.read_at(file, bytes, at).map(|()| true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes all.
    fn write_at(&self, file: &StoreFile, bytes: &[u8], at: u64) -> io::Result<()> {
        file.file.write_all_at(bytes, at)
    }

    /// Everything written to the file, through a mapping or not, is on the device when this returns.
    fn sync_data(&self, file: &StoreFile) -> io::Result<()> {
        file.file.sync_data()
    }

    /// Everything written to the file system of `dir` is on the device.
    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(dir)?)?)
    }

    /// Names made and removed in `dir` are on the device.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Gives a file another name, over one that exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Removes a directory and all in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    /// Space of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total: (stat.f_blocks - stat.f_bfree + stat.f_bavail).saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// The machine's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskMedium;

impl Medium for DiskMedium {}

fn write_zeros(file: &File, at: u64, len: u64) -> io::Result<()> {
    let zeros = [0_u8; 65_536];
    let mut done = 0;
    while done < len {
        let step = usize::try_from((len - done).min(zeros.len() as u64)).unwrap_or(zeros.len());
        file.write_all_at(&zeros[..step], at + done)?;
        done += step as u64;
    }
    Ok(())
}

/// Makes a directory and those above it, whose names are on the device when this returns. The parent is synced in any
/// case: who made the directory before may not have come to it.
pub(crate) fn make_dir(medium: &dyn Medium, dir: &Path) -> io::Result<()> {
    let missing = dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && medium.meta(dir).is_err())
        .count();
    medium.create_dir(dir)?;
    let parents = dir.ancestors().skip(1).take(missing.max(1));
    for parent in parents {
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        match medium.sync_dir(parent) {
            // Somebody else's directory, which may be entered and not read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// Replaces the file `path` by one with `bytes`: written anew, synced, renamed over it, and the name synced. After a
/// crash there is the old content or the new one.
pub(crate) fn replace_file(medium: &dyn Medium, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let file = medium.open(&fresh, Access::Create)?;
    medium.set_len(&file, 0)?;
    medium.write_at(&file, bytes, 0)?;
    medium.sync_data(&file)?;
    drop(file);
    medium.rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |dir| medium.sync_dir(dir))
}

/// The whole of a small file; `None` when it is missing or longer than `limit`.
pub(crate) fn read_file(
    medium: &dyn Medium,
    path: &Path,
    limit: u64,
) -> io::Result<Option<Vec<u8>>> {
    let meta = match medium.meta(path) {
        Ok(meta) if meta.len <= limit => meta,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let file = medium.open(path, Access::Read)?;
    let mut bytes = vec![0; usize::try_from(meta.len).unwrap_or(usize::MAX)];
    medium.read_at(&file, &mut bytes, 0)?;
    Ok(Some(bytes))
}
