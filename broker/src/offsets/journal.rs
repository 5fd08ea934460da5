//! Changes of offsets since the last `consumerOffset.json`, so that a killed broker forgets a fifth of a second of
//! commits and not five.
//!
//! A commit only marks its queue; what is marked is written together a moment later, one line `offset queue topic@group`
//! each. The lines are read on top of the JSON file and dropped when that is written anew.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::QueueId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Offsets, Progress};
use crate::snapshot_files::{ChangeJournal, SnapshotError};

const FILE_NAME: &str = "consumerOffset.journal";

/// How long commits are gathered before they are written.
pub(crate) const GATHER: Duration = Duration::from_millis(200);

/// The journal and what is to be written to it. Lock order: `file`, then a [`Progress`], then `marked`.
#[derive(Debug)]
pub(super) struct Journal {
    file: Mutex<ChangeJournal>,
    marked: Mutex<Vec<Marked>>,
    noticed: Notify,
}

/// A group's progress on a topic in which a queue is marked.
#[derive(Debug)]
struct Marked {
    key: String,
    progress: Arc<Mutex<Progress>>,
}

/// A line of the journal.
pub(super) struct Change {
    /// `topic@group`.
    pub(super) key: String,
    pub(super) queue: QueueId,
    pub(super) offset: QueueOffset,
}

impl Journal {
    /// Opens the journal in `config_dir`, with the changes that it holds, oldest first.
    pub(super) fn open(config_dir: &Path) -> Result<(Self, Vec<Change>), SnapshotError> {
        let (file, lines) = ChangeJournal::open(config_dir, FILE_NAME)?;
        let changes = lines
            .iter()
            .filter_map(|line| Change::parse(line))
            .collect();
        let journal = Self {
            file: Mutex::new(file),
            marked: Mutex::default(),
            noticed: Notify::new(),
        };
        Ok((journal, changes))
    }

    /// Notes a change of `queue`, whose progress the caller has locked.
    pub(super) fn mark(
        &self,
        key: impl FnOnce() -> String,
        progress: &Arc<Mutex<Progress>>,
        locked: &mut Progress,
        queue: QueueId,
    ) {
        let is_first = locked.marked.is_empty();
        locked.marked.insert(queue);
        if is_first {
            let progress = Arc::clone(progress);
            let mut marked = self.marked.lock();
            marked.push(Marked {
                key: key(),
                progress,
            });
            if marked.len() == 1 {
                self.noticed.notify_one();
            }
        }
    }

    /// Lines of all that is marked; nothing is marked then.
    fn take(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let marked = std::mem::take(&mut *self.marked.lock());
        for Marked { key, progress } in marked {
            let mut progress = progress.lock();
            for queue in std::mem::take(&mut progress.marked) {
                if let Some(offset) = progress.committed.get(&queue) {
                    lines.push(format!("{} {} {key}", offset.number(), queue.number()));
                }
            }
        }
        lines
    }

    fn append(file: &mut ChangeJournal, lines: &[String]) -> Result<(), SnapshotError> {
        file.append(lines.iter().map(String::as_bytes))
    }
}

impl Change {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(line).ok()?.splitn(3, ' ');
        let offset = QueueOffset::new(words.next()?.parse().ok()?);
        let queue = QueueId::new(words.next()?.parse().ok()?);
        let key = words.next()?.to_owned();
        Some(Self { key, queue, offset })
    }
}

impl Offsets {
    /// Returns when a commit waits to be written.
    pub(crate) async fn marked(&self) {
        self.journal.noticed.notified().await;
    }

    /// Writes what was committed since the last time; it then survives the end of this process.
    ///
    /// # Errors
    /// [`SnapshotError`]; the commits are in memory and come with the next JSON file.
    pub(crate) fn write_journal(&self) -> Result<(), SnapshotError> {
        let mut file = self.journal.file.lock();
        Journal::append(&mut file, &self.journal.take())
    }

    /// Has `save` put `snapshot` into the JSON file and drops the lines that this makes superfluous. A crash in between
    /// leaves lines that are never older than the file: what was committed while the snapshot was taken is written
    /// behind them first, and once more behind the file. What was marked before is in the snapshot: without commits
    /// meanwhile, as at the stop, the journal is empty afterwards and another program may go on with the file.
    pub(super) fn replace_journal<S>(
        &self,
        snapshot: impl FnOnce() -> S,
        save: impl FnOnce(S) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut file = self.journal.file.lock();
        Journal::append(&mut file, &self.journal.take())?;
        let snapshot = snapshot();
        let late = self.journal.take();
        Journal::append(&mut file, &late)?;
        save(snapshot)?;
        file.clear()?;
        Journal::append(&mut file, &late)
    }
}
