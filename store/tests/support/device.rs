//! What a device has of a directory, and what it may have: a power cut at any moment leaves one of many images.
//!
//! - A **name** (made, renamed, removed; of a file or a directory) is there for certain once its directory was synced.
//!   Until then each change may have happened or not, a rename as a whole.
//! - **Content and length** of a file are there for certain as of its last sync. Of what was written since, mapped or
//!   not, each page of 4 KiB is kept, dropped, or torn into sectors of 512 bytes, each there or not.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; tests may unwrap"
)]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A file by its number, or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(u64),
    Dir,
}

/// A change of names that is not synced.
#[derive(Debug, Clone)]
enum Change {
    Made(PathBuf, Node),
    Renamed(PathBuf, PathBuf, u64),
    Removed(PathBuf),
}

/// The device below one directory.
#[derive(Debug)]
pub(crate) struct Device {
    base: PathBuf,
    names: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
    /// Content as of the last sync.
    synced: HashMap<u64, Arc<Vec<u8>>>,
    /// Handles of all files ever seen, so that numbers are not used twice and removed ones can be read.
    handles: HashMap<u64, File>,
}

/// A device at one moment, with what was written and not synced.
#[derive(Debug)]
pub(crate) struct Captured {
    base: PathBuf,
    names: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
    /// Content as synced, and as written since.
    contents: HashMap<u64, (Arc<Vec<u8>>, Vec<u8>)>,
}

impl Device {
    /// Everything below `base` is on the device.
    pub(crate) fn new(base: &Path) -> Self {
        let mut device = Self {
            base: base.to_owned(),
            names: BTreeMap::new(),
            pending: Vec::new(),
            synced: HashMap::new(),
            handles: HashMap::new(),
        };
        device.everything_is_synced();
        device
    }

    pub(crate) fn everything_is_synced(&mut self) {
        self.names.clear();
        self.pending.clear();
        for (path, is_dir) in paths_below(&self.base) {
            let node = if is_dir {
                Node::Dir
            } else {
                let number = self.know(&path);
                self.content_is_synced(number);
                Node::File(number)
            };
            self.names.insert(path, node);
        }
    }

    /// The file's number; from now on its content is followed.
    fn know(&mut self, path: &Path) -> u64 {
        let file = File::open(path).unwrap();
        let number = file.metadata().unwrap().ino();
        self.handles.entry(number).or_insert(file);
        number
    }

    fn content_is_synced(&mut self, number: u64) {
        let content = read(&self.handles[&number]);
        self.synced.insert(number, Arc::new(content));
    }

    pub(crate) fn file_is_synced(&mut self, file: &File) {
        let number = file.metadata().unwrap().ino();
        if self.handles.contains_key(&number) {
            self.content_is_synced(number);
        }
    }

    pub(crate) fn made_file(&mut self, path: &Path) {
        let number = self.know(path);
        let made = Change::Made(path.to_owned(), Node::File(number));
        self.pending.push(made);
    }

    pub(crate) fn made_dir(&mut self, path: &Path) {
        let made = Change::Made(path.to_owned(), Node::Dir);
        self.pending.push(made);
    }

    pub(crate) fn renamed(&mut self, from: &Path, to: &Path) {
        let number = self.know(to);
        let renamed = Change::Renamed(from.to_owned(), to.to_owned(), number);
        self.pending.push(renamed);
    }

    pub(crate) fn removed(&mut self, path: &Path) {
        self.pending.push(Change::Removed(path.to_owned()));
    }

    pub(crate) fn names_are_synced(&mut self, dir: &Path) {
        let is_in = |path: &Path| path.parent() == Some(dir);
        let pending = std::mem::take(&mut self.pending);
        for change in pending {
            let is_synced = match &change {
                Change::Made(path, _) | Change::Removed(path) => is_in(path),
                Change::Renamed(from, to, _) => is_in(from) || is_in(to),
            };
            if is_synced {
                apply(&mut self.names, &change);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// What the device has, and may have, at this moment.
    pub(crate) fn capture(&self) -> Captured {
        let contents = self.handles.iter().map(|(number, file)| {
            let synced = self.synced.get(number).cloned().unwrap_or_default();
            (*number, (synced, read(file)))
        });
        Captured {
            base: self.base.clone(),
            names: self.names.clone(),
            pending: self.pending.clone(),
            contents: contents.collect(),
        }
    }
}

impl Captured {
    /// One of the images that a power cut at that moment leaves, written below `to`.
    pub(crate) fn image(&self, to: &Path, random: &mut Random) {
        let mut names = self.names.clone();
        // Now and then all or nothing, else each change for itself.
        let mode = random.below(4);
        for change in &self.pending {
            if mode == 0 || (mode > 1 && random.below(2) == 0) {
                apply(&mut names, change);
            }
        }
        for (path, node) in &names {
            let has_dirs = path
                .ancestors()
                .skip(1)
                .take_while(|dir| *dir != self.base)
                .all(|dir| names.get(dir) == Some(&Node::Dir));
            if !has_dirs {
                continue;
            }
            let target = to.join(path.strip_prefix(&self.base).unwrap());
            match node {
                Node::Dir => fs::create_dir_all(target).unwrap(),
                Node::File(number) => {
                    let (synced, live) = &self.contents[number];
                    fs::write(target, torn(synced, live, random)).unwrap();
                }
            }
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    match change {
        Change::Made(path, node) => {
            names.insert(path.clone(), *node);
        }
        Change::Renamed(from, to, number) => {
            names.remove(from);
            names.insert(to.clone(), Node::File(*number));
        }
        Change::Removed(gone) => names.retain(|path, _| !path.starts_with(gone)),
    }
}

/// The synced content with some of the pages written since.
fn torn(synced: &[u8], live: &[u8], random: &mut Random) -> Vec<u8> {
    if synced == live {
        return live.to_vec();
    }
    let mut content = synced.to_vec();
    if synced.len() == live.len() || random.below(2) == 0 {
        content.resize(live.len(), 0);
    }
    let mode = random.below(4);
    for at in (0..content.len().min(live.len())).step_by(PAGE) {
        let end = (at + PAGE).min(content.len()).min(live.len());
        if content[at..end] == live[at..end] {
            continue;
        }
        // Now and then everything or nothing reached the device, else each page for itself.
        match if mode < 2 { mode } else { random.below(3) } {
            0 => {}
            1 => content[at..end].copy_from_slice(&live[at..end]),
            _ => {
                for sector in (at..end).step_by(SECTOR) {
                    let end = (sector + SECTOR).min(end);
                    if random.below(2) == 0 {
                        content[sector..end].copy_from_slice(&live[sector..end]);
                    }
                }
            }
        }
    }
    content
}

fn read(file: &File) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    // A file that was cut meanwhile reads as far as it goes.
    let mut at = 0;
    while at < content.len() {
        match file.read_at(&mut content[at..], at as u64).unwrap() {
            0 => break,
            read => at += read,
        }
    }
    content.truncate(at);
    content
}

/// Everything below a directory, and whether it is a directory itself.
fn paths_below(dir: &Path) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = path.is_dir();
        if is_dir {
            found.append(&mut paths_below(&path));
        }
        found.push((path, is_dir));
    }
    found
}

/// A small seeded generator (xorshift), so that a failure is replayed by its seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// A temporary directory in memory where the system has such, so that syncs of no interest cost nothing.
pub(crate) fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}
