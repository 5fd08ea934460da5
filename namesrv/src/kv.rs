//! The key-value configuration: namespace, key, value. Operators keep the order of topics here. In memory, and in its
//! file after every change. Apache: `KVConfigManager`, kvConfig.json.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agena_protocol::fastjson;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::whole_file;

/// The namespace that says which topics are ordered, and over which queues (`broker-a:2;broker-b:4`).
pub(crate) const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

/// Keys and values of one namespace.
pub(crate) type Table = BTreeMap<String, String>;

/// Entries in all namespaces. Anybody who reaches the port may put them, so there is an end.
const ENTRIES_MAX: usize = 1_000_000;

/// Trouble with the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KvError {
    /// It cannot be read or written.
    #[error("key-value configuration {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not what we or the original wrote. It is left alone: what is in it must not be lost.
    #[error("key-value configuration {path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not parse.
        reason: String,
    },
    /// There are as many entries as may be.
    #[error("there are {ENTRIES_MAX} entries already")]
    Full,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "configTable", default)]
    config_table: BTreeMap<String, Table>,
}

/// All namespaces.
#[derive(Debug)]
pub(crate) struct KeyValues {
    path: PathBuf,
    /// The lock is held while the file is written, so that the file has the changes in their order.
    stored: Mutex<Stored>,
}

impl KeyValues {
    /// Reads the file, if there is one.
    pub(crate) fn open(path: PathBuf) -> Result<Self, KvError> {
        let stored = match std::fs::read(&path) {
            Ok(text) => fastjson::from_slice(&text).map_err(|error| KvError::Damaged {
                path: path.clone(),
                reason: error.to_string(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stored::default(),
            Err(source) => return Err(KvError::Io { path, source }),
        };
        Ok(Self {
            path,
            stored: Mutex::new(stored),
        })
    }

    /// Sets a value and writes the file. Blocks for the device.
    pub(crate) fn put(&self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let mut stored = self.stored.lock();
        let entries: usize = stored.config_table.values().map(BTreeMap::len).sum();
        if entries >= ENTRIES_MAX {
            return Err(KvError::Full);
        }
        let table = stored.config_table.entry(namespace.to_owned()).or_default();
        let before = table.insert(key.to_owned(), value.to_owned());
        if before.as_deref() == Some(value) {
            return Ok(());
        }
        tracing::info!(namespace, key, value, "key-value configuration set");
        self.write_or_restore(&mut stored, namespace, key, before)
    }

    /// Removes a value, if it is there, and writes the file. The namespace stays, as in the original.
    pub(crate) fn delete(&self, namespace: &str, key: &str) -> Result<(), KvError> {
        let mut stored = self.stored.lock();
        let Some(table) = stored.config_table.get_mut(namespace) else {
            return Ok(());
        };
        let before = table.remove(key);
        if before.is_none() {
            return Ok(());
        }
        tracing::info!(namespace, key, "key-value configuration removed");
        self.write_or_restore(&mut stored, namespace, key, before)
    }

    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<String> {
        let stored = self.stored.lock();
        stored.config_table.get(namespace)?.get(key).cloned()
    }

    /// One namespace, `None` if nothing was ever put there.
    pub(crate) fn list(&self, namespace: &str) -> Option<Table> {
        self.stored.lock().config_table.get(namespace).cloned()
    }

    /// A change that is not in the file does not count: the same request, made again, has to write it.
    fn write_or_restore(
        &self,
        stored: &mut Stored,
        namespace: &str,
        key: &str,
        before: Option<String>,
    ) -> Result<(), KvError> {
        let written = self.write(stored);
        if written.is_err()
            && let Some(table) = stored.config_table.get_mut(namespace)
        {
            match before {
                Some(value) => table.insert(key.to_owned(), value),
                None => table.remove(key),
            };
        }
        written
    }

    fn write(&self, stored: &Stored) -> Result<(), KvError> {
        let text = fastjson::to_vec_pretty(stored);
        whole_file::replace(&self.path, &text).map_err(|source| KvError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/kvConfig.json");
        let kv = KeyValues::open(path.clone()).unwrap();
        assert_eq!(kv.list("N"), None);
        kv.put("N", "k", "v1").unwrap();
        kv.put("N", "k", "v2").unwrap();
        kv.put("N", "gone", "x").unwrap();
        kv.delete("N", "gone").unwrap();
        kv.delete("nowhere", "x").unwrap();
        drop(kv);
        let kv = KeyValues::open(path).unwrap();
        assert_eq!(kv.get("N", "k").as_deref(), Some("v2"));
        assert_eq!(kv.list("N").unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_written_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvConfig.json");
        let kv = KeyValues::open(path.clone()).unwrap();
        kv.put("N", "k", "v1").unwrap();
        // The name that the new text is written under is taken by a directory.
        let in_the_way = directory.path().join("kvConfig.json.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(kv.put("N", "k", "v2").is_err());
        assert!(kv.put("N", "other", "v").is_err());
        assert!(kv.delete("N", "k").is_err());
        assert_eq!(kv.get("N", "k").as_deref(), Some("v1"));
        assert_eq!(kv.get("N", "other"), None);
        std::fs::remove_dir(&in_the_way).unwrap();
        kv.put("N", "k", "v2").unwrap();
        let again = KeyValues::open(path).unwrap();
        assert_eq!(again.get("N", "k").as_deref(), Some("v2"));
    }

    #[test]
    fn a_file_of_the_original_is_read_and_a_damaged_one_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvConfig.json");
        let original =
            "{\n\t\"configTable\":{\"ORDER_TOPIC_CONFIG\":{\"T\":\"broker-a:2\"}\n\t}\n}";
        std::fs::write(&path, original).unwrap();
        let kv = KeyValues::open(path.clone()).unwrap();
        assert_eq!(
            kv.get(ORDER_TOPIC_CONFIG, "T").as_deref(),
            Some("broker-a:2")
        );
        std::fs::write(&path, "{\"configTable\":{").unwrap();
        let error = KeyValues::open(path.clone()).unwrap_err().to_string();
        assert!(error.contains("kvConfig.json"), "{error}");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"configTable\":{"
        );
    }
}
