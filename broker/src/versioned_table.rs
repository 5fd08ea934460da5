//! Settings by name with a data version: what topics and subscription groups have in common.
//!
//! Reads are those of a [`NameTable`]. A change raises the version by one, is journaled before it can be seen, and reaches
//! RocketMQ's file a moment later with other changes. Who asked for durability gets an answer only when the journal is on the device.
//! The version's counter stands in every journal line, so a line that the file already holds is recognised and skipped.
//! Apache: `TopicConfigManager`, `SubscriptionGroupManager`, which rewrite their whole file for each change.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::clock::Clock;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::name_table::NameTable;
use crate::snapshot_files::{ChangeJournal, Save, Saver, SnapshotError, SnapshotFile};

/// How long changes are gathered before the file is rewritten; until then the journal has them.
const SAVE_DELAY: Duration = Duration::from_millis(500);

/// What a file of settings holds.
#[derive(Debug)]
pub struct Content<V> {
    /// The version the file was written with.
    pub version: DataVersion,
    /// Settings by name.
    pub entries: Vec<(String, V)>,
}

/// Names and values, in no order.
pub type Entries<V> = Vec<(Arc<str>, Arc<V>)>;

/// How a table looks in its file.
pub trait FileForm: Sized + Send + Sync + 'static {
    /// The file's name below `config/`.
    const FILE_NAME: &'static str;

    /// Reads the file.
    ///
    /// # Errors
    /// [`SnapshotError`] when there is a file that nobody can read.
    fn load(file: &SnapshotFile) -> Result<Option<Content<Self>>, SnapshotError>;

    /// The file's text.
    fn encode(version: &DataVersion, entries: &[(Arc<str>, Arc<Self>)]) -> Vec<u8>;
}

/// Settings by name.
pub struct VersionedTable<V> {
    table: NameTable<V>,
    clock: Arc<dyn Clock>,
    file: SnapshotFile,
    saver: Arc<Saver>,
    /// Taken by every change, never by a read.
    changes: Mutex<Changes>,
    itself: Weak<Self>,
}

struct Changes {
    version: DataVersion,
    journal: ChangeJournal,
    /// The counter that the file holds.
    saved: Option<i64>,
}

/// One line of the journal.
#[derive(Serialize, Deserialize)]
struct Change<N, V> {
    counter: i64,
    timestamp: i64,
    name: N,
    /// Absent: the name was removed.
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    value: Option<V>,
}

/// The table while its changes are held: nobody else changes it meanwhile.
pub struct Edit<'a, V> {
    table: &'a VersionedTable<V>,
    changes: &'a mut Changes,
    fault: Option<SnapshotError>,
    edited: bool,
}

impl<V: FileForm + Serialize + DeserializeOwned> VersionedTable<V> {
    /// Reads the file and what the journal has beyond it.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn open(
        directory: &Path,
        saver: &Arc<Saver>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, SnapshotError> {
        let file = SnapshotFile::new(directory, V::FILE_NAME);
        let content = V::load(&file)?;
        let (journal, lines) =
            ChangeJournal::open(directory, &format!("{}.journal", V::FILE_NAME))?;
        let table = NameTable::default();
        let mut version = DataVersion::first(clock.now_ms());
        let mut saved = None;
        if let Some(content) = content {
            saved = Some(content.version.counter);
            version = content.version;
            for (name, value) in content.entries {
                table.insert(&name, Arc::new(value));
            }
        }
        replay(&lines, &table, &mut version);
        let opened = Arc::new_cyclic(|itself| Self {
            table,
            clock,
            file,
            saver: Arc::clone(saver),
            changes: Mutex::new(Changes {
                version,
                journal,
                saved,
            }),
            itself: itself.clone(),
        });
        Ok(opened)
    }

    /// The settings of `name`.
    pub fn get(&self, name: &str) -> Option<Arc<V>> {
        self.table.get(name)
    }

    /// Whether `name` has settings.
    pub fn contains(&self, name: &str) -> bool {
        self.table.contains(name)
    }

    /// Everything, in no order.
    pub fn entries(&self) -> Entries<V> {
        self.table.entries()
    }

    /// Everything at one moment, with the version of that moment.
    pub fn versioned_entries(&self) -> (DataVersion, Entries<V>) {
        let changes = self.changes.lock();
        (changes.version, self.table.entries())
    }

    /// How often the settings were changed, and when last.
    pub fn version(&self) -> DataVersion {
        self.changes.lock().version
    }

    /// Adds what every broker has, unless the file had it. That is no change: the version stays.
    pub fn provide(&self, name: &str, value: V) {
        if !self.contains(name) {
            self.table.insert(name, Arc::new(value));
        }
    }

    /// Lets `edit` look and change while nobody else does. What it changed survives the end of this process; a fault of the disk
    /// is logged, and the change holds in memory.
    pub fn edit<R>(&self, edit: impl FnOnce(&mut Edit<'_, V>) -> R) -> R {
        let (result, edited, fault) = self.run_edit(edit);
        if let Some(fault) = fault {
            error!(%fault, "a change of settings is not in the journal; it is lost if the broker ends before it is saved");
        }
        if edited {
            self.save_soon();
        }
        result
    }

    /// The same, and what was changed is on the device on return.
    ///
    /// # Errors
    /// [`SnapshotError`]: the change holds in memory, and it is not known whether it survives.
    pub fn edit_durably<R>(
        &self,
        edit: impl FnOnce(&mut Edit<'_, V>) -> R,
    ) -> Result<R, SnapshotError> {
        let (result, edited, fault) = self.run_edit(edit);
        if edited {
            self.save_soon();
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        // Also when nothing changed: what was found to be so already may be somebody else's change, still on its way.
        let journal = {
            let changes = self.changes.lock();
            if changes.journal.is_empty() {
                return Ok(result);
            }
            changes.journal.sync_handle()?
        };
        journal.sync_data().map_err(|cause| SnapshotError::Io {
            path: self.file.path().to_owned(),
            cause,
        })?;
        Ok(result)
    }

    fn run_edit<R>(
        &self,
        edit: impl FnOnce(&mut Edit<'_, V>) -> R,
    ) -> (R, bool, Option<SnapshotError>) {
        let mut changes = self.changes.lock();
        let mut editing = Edit {
            table: self,
            changes: &mut changes,
            fault: None,
            edited: false,
        };
        let result = edit(&mut editing);
        (result, editing.edited, editing.fault)
    }

    /// Has the file written soon, if it is behind.
    pub fn save_soon(&self) {
        let itself: Weak<dyn Save> = self.itself.clone();
        self.saver.schedule(itself, SAVE_DELAY);
    }
}

impl<V: FileForm + Serialize + DeserializeOwned> Save for VersionedTable<V> {
    fn save(&self) -> Result<(), SnapshotError> {
        let (version, entries) = {
            let changes = self.changes.lock();
            if changes.saved == Some(changes.version.counter) {
                return Ok(());
            }
            (changes.version, self.table.entries())
        };
        self.file.save(&V::encode(&version, &entries))?;
        let mut changes = self.changes.lock();
        changes.saved = Some(version.counter);
        // Lines of later changes stay until the save that those have scheduled.
        if changes.version.counter == version.counter {
            changes.journal.clear()?;
        }
        Ok(())
    }
}

impl<V: FileForm + Serialize + DeserializeOwned> Edit<'_, V> {
    /// The settings of `name` now.
    pub fn get(&self, name: &str) -> Option<Arc<V>> {
        self.table.get(name)
    }

    /// Sets the settings of `name`.
    pub fn set(&mut self, name: &str, value: V) -> Arc<V> {
        let value = Arc::new(value);
        self.record(name, Some(&*value));
        self.table.table.insert(name, Arc::clone(&value));
        value
    }

    /// Removes `name`, if it is there.
    pub fn remove(&mut self, name: &str) -> Option<Arc<V>> {
        self.get(name)?;
        self.record(name, None);
        self.table.table.remove(name)
    }

    /// Raises the version although no entry changed: something did that is told together with them.
    pub fn bump_version(&mut self) {
        self.raise_version();
    }

    /// The version as this edit has made it.
    pub fn version(&self) -> &DataVersion {
        &self.changes.version
    }

    fn raise_version(&mut self) {
        self.edited = true;
        self.changes.version.next(self.table.clock.now_ms());
    }

    fn record(&mut self, name: &str, value: Option<&V>) {
        self.raise_version();
        let line = Change {
            counter: self.changes.version.counter,
            timestamp: self.changes.version.timestamp,
            name,
            value,
        };
        let written = match serde_json::to_vec(&line) {
            Ok(text) => self.changes.journal.append([text.as_slice()]),
            Err(reason) => Err(SnapshotError::Unreadable {
                path: self.table.file.path().to_owned(),
                reason: reason.to_string(),
            }),
        };
        if let Err(fault) = written {
            self.fault.get_or_insert(fault);
        }
    }
}

fn replay<V: DeserializeOwned>(lines: &[Vec<u8>], table: &NameTable<V>, version: &mut DataVersion) {
    for line in lines {
        let change: Change<String, V> = match serde_json::from_slice(line) {
            Ok(change) => change,
            Err(reason) => {
                warn!(%reason, "a line of the journal does not parse and is skipped");
                continue;
            }
        };
        if change.counter <= version.counter {
            continue;
        }
        version.counter = change.counter;
        version.timestamp = change.timestamp;
        match change.value {
            Some(value) => table.insert(&change.name, Arc::new(value)),
            None => table.remove(&change.name),
        };
    }
}

impl<V> std::fmt::Debug for VersionedTable<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VersionedTable")
            .field("file", &self.file.path())
            .field("entries", &self.table.len())
            .finish_non_exhaustive()
    }
}
