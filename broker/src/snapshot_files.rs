//! The small JSON files of a broker (`config/*.json`): replaced atomically, read with their backup, and a journal beside those that
//! change often.
//!
//! RocketMQ copies the present file to `.bak` and then overwrites it in place, so a crash can leave half a file. Here the new text
//! is written to another name and synced, the present file becomes `.bak`, and a rename puts the new one in its place: at every
//! moment one of the two is whole, and RocketMQ reads what it finds (main first, then `.bak`). Source: spec/store.md §1.2, Apache
//! `ConfigManager`.
//!
//! A [`ChangeJournal`] makes one change durable by one short append instead of a rewrite of megabytes. The file is rewritten a
//! little later, for many changes at once, by the [`Saver`]'s thread; then the journal is emptied. After a clean stop every journal
//! is empty, and the directory is RocketMQ's own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agena_protocol::fastjson;
use parking_lot::{Condvar, Mutex};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tracing::{error, warn};

/// Why a small file could not be read or written.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file system refused.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Neither the file nor its backup can be read as what it should be. Nothing is guessed: an operator decides.
    #[error("{path} does not parse, and neither does its backup: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One file that is always replaced whole.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    /// Two writers would rename each other's half-written text.
    writing: Mutex<()>,
}

impl SnapshotFile {
    /// The file `name` in `directory`; neither needs to exist.
    pub fn new(directory: &Path, name: &str) -> Self {
        Self {
            path: directory.join(name),
            writing: Mutex::new(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file holds, or else its backup; `None` when there is neither, or both are empty. What was to become the file is
    /// looked at last: it is all there is when a file that nobody could read had just been moved aside.
    ///
    /// # Errors
    /// [`SnapshotError::Unreadable`] when something is there and none of it parses; [`SnapshotError::Io`].
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, SnapshotError> {
        let mut fault = None;
        for path in [
            self.path.clone(),
            self.with_suffix(".bak"),
            self.with_suffix(".new"),
        ] {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(SnapshotError::Io { path, cause }),
            };
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match fastjson::from_slice(&bytes) {
                Ok(value) => return Ok(Some(value)),
                Err(reason) => {
                    warn!(path = %path.display(), %reason, "does not parse");
                    fault.get_or_insert(reason.to_string());
                }
            }
        }
        match fault {
            None => Ok(None),
            Some(reason) => Err(SnapshotError::Unreadable {
                path: self.path.clone(),
                reason,
            }),
        }
    }

    /// Puts `bytes` in the place of the present content, which becomes the backup. On return the new content is on the device.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; then the former content is still there, or its backup is.
    pub fn save(&self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let _turn = self.writing.lock();
        self.replace(bytes).map_err(|cause| SnapshotError::Io {
            path: self.path.clone(),
            cause,
        })
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let fresh = self.with_suffix(".new");
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match fs::rename(&self.path, self.with_suffix(".bak")) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        fs::rename(&fresh, &self.path)?;
        File::open(directory)?.sync_all()
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }
}

/// Changes since a snapshot, one line each: the CRC-32 of the text in eight hex digits, a blank, the text. A torn last line, as a
/// crash leaves it, is recognised by its CRC and cut off; its change was not yet answered. A damaged line between whole ones is
/// skipped: the changes behind it were answered.
#[derive(Debug)]
pub struct ChangeJournal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    whole: u64,
    /// An append failed half-way, and what it wrote could not be taken back yet.
    is_torn: bool,
}

impl ChangeJournal {
    /// Opens or makes the journal and returns it with the changes in it, oldest first.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn open(directory: &Path, name: &str) -> Result<(Self, Vec<Vec<u8>>), SnapshotError> {
        let path = directory.join(name);
        Self::open_at(&path).map_err(|cause| SnapshotError::Io { path, cause })
    }

    fn open_at(path: &Path) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        // A journal whose name a power cut takes back has kept nothing.
        File::open(directory)?.sync_all()?;
        let mut content = Vec::new();
        io::Read::read_to_end(&mut file, &mut content)?;
        let mut changes = Vec::new();
        let (mut at, mut whole) = (0, 0);
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            match checked_text(line) {
                Some(text) => {
                    changes.push(text.to_vec());
                    whole = at + line.len();
                }
                None => {
                    warn!(path = %path.display(), at, "a line of the journal is torn or damaged and is left out")
                }
            }
            at += line.len();
        }
        // Later changes must not stand behind a torn line, where they would be taken for a part of it.
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        file.set_len(whole)?;
        let journal = Self {
            path: path.to_owned(),
            file,
            whole,
            is_torn: false,
        };
        Ok((journal, changes))
    }

    /// Appends changes, by one write. They survive the end of this process; after `sync` also the end of the machine.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]: none of the changes counts, and what was written of them is taken back.
    pub fn append<'t>(
        &mut self,
        texts: impl IntoIterator<Item = &'t [u8]>,
    ) -> Result<(), SnapshotError> {
        let mut lines = Vec::new();
        for text in texts {
            let _ = write!(lines, "{:08x} ", crc32fast::hash(text));
            lines.extend_from_slice(text);
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.append_lines(&lines)
            .map_err(|cause| self.io_error(cause))
    }

    fn append_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.take_back()?;
        }
        if let Err(cause) = self.file.write_all(lines) {
            // On a full disk half of a line may be there: the next one must not be glued to it.
            self.is_torn = true;
            let _ = self.take_back();
            return Err(cause);
        }
        self.whole += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn take_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.whole)?;
        self.is_torn = false;
        Ok(())
    }

    /// Whether no change is in it.
    pub fn is_empty(&self) -> bool {
        self.whole == 0
    }

    /// A handle to sync what was appended so far, without the lock that the journal is kept under.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn sync_handle(&self) -> Result<File, SnapshotError> {
        self.file.try_clone().map_err(|cause| self.io_error(cause))
    }

    /// Forgets every change: a snapshot holds them all.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn clear(&mut self) -> Result<(), SnapshotError> {
        self.whole = 0;
        self.is_torn = true;
        self.take_back().map_err(|cause| self.io_error(cause))
    }

    fn io_error(&self, cause: io::Error) -> SnapshotError {
        SnapshotError::Io {
            path: self.path.clone(),
            cause,
        }
    }
}

fn checked_text(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, text) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum.strip_suffix(b" ")?).ok()?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (crc32fast::hash(text) == sum).then_some(text)
}

/// Something with a file that the [`Saver`] brings up to date.
pub trait Save: Send + Sync {
    /// Writes the file if it is behind. Called from one thread at a time.
    ///
    /// # Errors
    /// [`SnapshotError`]; it is tried again after a while.
    fn save(&self) -> Result<(), SnapshotError>;
}

/// The thread that rewrites small files: each once after a delay, however often it was changed meanwhile.
#[derive(Debug)]
pub struct Saver {
    shared: Arc<Waiting>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Waiting {
    state: Mutex<SaverState>,
    changed: Condvar,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct SaverState {
    due: Vec<(Instant, Weak<dyn Save>)>,
    stopping: bool,
}

impl Saver {
    /// Starts the thread.
    pub fn start() -> Arc<Self> {
        let shared: Arc<Waiting> = Arc::default();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("saver".into())
            .spawn(move || of_thread.run())
            .inspect_err(|cause| error!(%cause, "no thread for saving; files are written at stop"))
            .ok();
        Arc::new(Self {
            shared,
            thread: Mutex::new(thread),
        })
    }

    /// Has `file` saved after `delay`, unless that is to happen already.
    pub fn schedule(&self, file: Weak<dyn Save>, delay: Duration) {
        let mut state = self.shared.state.lock();
        if state
            .due
            .iter()
            .any(|(_, other)| Weak::ptr_eq(other, &file))
        {
            return;
        }
        state.due.push((Instant::now() + delay, file));
        self.shared.changed.notify_one();
    }

    /// Saves what is due, however soon, and ends the thread.
    pub fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic in the thread was reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Waiting {
    fn run(&self) {
        loop {
            let Some(file) = self.next() else { return };
            let Some(target) = file.upgrade() else {
                continue;
            };
            if let Err(fault) = target.save() {
                error!(%fault, "a small file could not be written; trying again");
                let mut state = self.state.lock();
                if !state.stopping {
                    state.due.push((Instant::now() + RETRY_DELAY, file));
                }
            }
        }
    }

    /// Waits for the next file that is due; `None` once stopped and nothing is left.
    fn next(&self) -> Option<Weak<dyn Save>> {
        let mut state = self.state.lock();
        loop {
            let first = (0..state.due.len()).min_by_key(|at| state.due[*at].0);
            match first {
                None if state.stopping => return None,
                None => self.changed.wait(&mut state),
                Some(at) if state.stopping || state.due[at].0 <= Instant::now() => {
                    return Some(state.due.swap_remove(at).1);
                }
                Some(at) => {
                    let until = state.due[at].0;
                    self.changed.wait_until(&mut state, until);
                }
            }
        }
    }
}

const RETRY_DELAY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_former_content_becomes_the_backup() {
        let directory = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(&directory.path().join("config"), "x.json");
        assert_eq!(file.load::<Vec<i32>>().unwrap(), None);
        file.save(b"[1]").unwrap();
        file.save(b"[2]").unwrap();
        assert_eq!(file.load::<Vec<i32>>().unwrap(), Some(vec![2]));
        assert_eq!(fs::read(file.with_suffix(".bak")).unwrap(), b"[1]");
    }

    #[test]
    fn half_a_file_is_answered_by_its_backup_and_nothing_is_guessed() {
        let directory = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(directory.path(), "x.json");
        file.save(b"[1]").unwrap();
        file.save(b"[1,2]").unwrap();
        fs::write(file.path(), b"[1,").unwrap();
        assert_eq!(file.load::<Vec<i32>>().unwrap(), Some(vec![1]));
        fs::write(file.with_suffix(".bak"), b"{").unwrap();
        assert!(matches!(
            file.load::<Vec<i32>>(),
            Err(SnapshotError::Unreadable { .. })
        ));
    }

    fn append(journal: &mut ChangeJournal, text: &str) {
        journal.append([text.as_bytes()]).unwrap();
    }

    #[test]
    fn between_two_renames_the_backup_or_the_new_text_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(directory.path(), "x.json");
        file.save(b"[1]").unwrap();
        // A crash when the present file had become the backup.
        fs::write(file.with_suffix(".new"), b"[2]").unwrap();
        fs::rename(file.path(), file.with_suffix(".bak")).unwrap();
        assert_eq!(file.load::<Vec<i32>>().unwrap(), Some(vec![1]));
        // The same, and the file had been damaged before.
        fs::write(file.with_suffix(".bak"), b"[").unwrap();
        assert_eq!(file.load::<Vec<i32>>().unwrap(), Some(vec![2]));
    }

    #[test]
    fn a_torn_tail_is_cut_at_every_length_and_the_lines_before_it_hold() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let texts = ["one", "twenty", "three hundred"];
        let (mut journal, _) = ChangeJournal::open(directory.path(), "j").unwrap();
        let mut ends = Vec::new();
        for text in texts {
            append(&mut journal, text);
            ends.push(fs::metadata(&path).unwrap().len());
        }
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, changes) = ChangeJournal::open(directory.path(), "j").unwrap();
            let held = ends.iter().filter(|end| **end <= cut as u64).count();
            assert_eq!(changes.len(), held, "cut at {cut}");
            append(&mut journal, "later");
            let (_, changes) = ChangeJournal::open(directory.path(), "j").unwrap();
            let expected = texts[..held].iter().chain([&"later"]);
            let expected: Vec<_> = expected.map(|text| text.as_bytes().to_vec()).collect();
            assert_eq!(changes, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_line_costs_its_own_change_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = ChangeJournal::open(directory.path(), "j").unwrap();
        for text in ["one", "two", "three"] {
            append(&mut journal, text);
        }
        let sound = fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            let (_, changes) = ChangeJournal::open(directory.path(), "j").unwrap();
            // The byte between two lines belongs to both.
            assert!(!changes.is_empty(), "byte {at}");
            let kept = |text: &str| changes.iter().any(|change| change == text.as_bytes());
            assert!(at < 26 || kept("one"), "byte {at}");
            assert!(at >= 12 || kept("three"), "byte {at}");
        }
    }

    #[test]
    fn what_a_failed_append_left_is_taken_back_before_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = ChangeJournal::open(directory.path(), "j").unwrap();
        append(&mut journal, "one");
        // Half a line, as a full disk leaves it.
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        other.write_all(b"01234567 tw").unwrap();
        journal.is_torn = true;
        append(&mut journal, "three");
        let (_, changes) = ChangeJournal::open(directory.path(), "j").unwrap();
        assert_eq!(changes, [b"one".to_vec(), b"three".to_vec()]);
    }

    #[test]
    fn a_cleared_journal_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = ChangeJournal::open(directory.path(), "j").unwrap();
        append(&mut journal, "one");
        journal.clear().unwrap();
        append(&mut journal, "two");
        let (_, changes) = ChangeJournal::open(directory.path(), "j").unwrap();
        assert_eq!(changes, [b"two".to_vec()]);
    }

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Save for Counted {
        fn save(&self) -> Result<(), SnapshotError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }

    #[test]
    fn many_changes_are_one_save_and_none_is_left_at_stop() {
        let saver = Saver::start();
        let file = Arc::new(Counted::default());
        let as_save: Arc<dyn Save> = file.clone();
        for _ in 0..100 {
            saver.schedule(Arc::downgrade(&as_save), Duration::from_secs(3600));
        }
        saver.stop();
        assert_eq!(file.0.load(Ordering::SeqCst), 1);
    }
}
