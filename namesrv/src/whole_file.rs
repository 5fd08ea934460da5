//! Small files that are written as a whole: after a crash there is the old text or the new one, never a part.

use std::fs::File;
use std::io::{Result, Write};
use std::path::Path;

/// Writes beside the file, syncs, and renames over it. Makes the directory if it is not there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    // The rename itself must survive as well.
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
