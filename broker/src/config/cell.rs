//! The configuration in force: read without a lock, replaced as a whole, changes written back into the file.

use std::path::PathBuf;
use std::sync::Arc;

use agena_protocol::properties_text;
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use thiserror::Error;

use super::{BrokerConfig, ConfigError, file};

/// Never changeable at run time, whatever the black list says: it is the list's own lock.
const ALWAYS_BLACK: &str = "rocketmqHome";

/// Why a change at run time was refused; nothing of it was applied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// One of the keys is on the black list.
    #[error("Can not update config in black list.")]
    BlackListed,
    /// The new state would not be one.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file could not be written, so the change would not outlive a restart.
    #[error("cannot write {path}: {source}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Holds the [`BrokerConfig`] in force.
#[derive(Debug)]
pub struct ConfigCell {
    current: ArcSwap<BrokerConfig>,
    /// Where changes are written; without a file they last until the stop.
    path: Option<PathBuf>,
    /// One change at a time: reading, checking and writing the file is one step.
    changing: Mutex<()>,
}

impl ConfigCell {
    /// Starts with `config`, read from `path` if there was a file.
    #[must_use]
    pub fn new(config: BrokerConfig, path: Option<PathBuf>) -> Self {
        Self {
            current: ArcSwap::from_pointee(config),
            path,
            changing: Mutex::new(()),
        }
    }

    /// The configuration in force; it stays the same as long as the guard is held.
    #[must_use]
    pub fn get(&self) -> Guard<Arc<BrokerConfig>> {
        self.current.load()
    }

    /// Applies a properties text, all or nothing. Unknown keys are ignored, as the original does, but named in the log.
    /// Keys that are read at the start only take effect at the next one.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub fn update(&self, text: &str) -> Result<(), UpdateError> {
        let _one_at_a_time = self.changing.lock();
        let mut next = BrokerConfig::clone(&self.get());
        let black_list = next.config_black_list.clone();
        let mut changes = Vec::new();
        for (key, value) in properties_text::parse(text) {
            if key == ALWAYS_BLACK || black_list.0.contains(&key) {
                return Err(UpdateError::BlackListed);
            }
            match next.set(&key, &value) {
                Ok(true) => changes.push((key, value)),
                Ok(false) => tracing::warn!("unknown key {key} in an update ignored"),
                Err(expected) => {
                    return Err(UpdateError::Config(ConfigError::Value {
                        place: "update".to_owned(),
                        key,
                        value,
                        expected,
                    }));
                }
            }
        }
        next.resolve()?;
        self.write_back(&changes)?;
        for (key, value) in &changes {
            tracing::info!("configuration changed: {key}={value}");
        }
        self.current.store(Arc::new(next));
        Ok(())
    }

    fn write_back(&self, changes: &[(String, String)]) -> Result<(), UpdateError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let unwritable = |source| UpdateError::Unwritable {
            path: path.clone(),
            source,
        };
        let before = std::fs::read_to_string(path).map_err(unwritable)?;
        let pairs = changes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let after = file::with_changes(&before, pairs);
        if after == before {
            return Ok(());
        }
        let new = path.with_extension("new");
        std::fs::write(&new, after)
            .and_then(|()| std::fs::File::open(&new)?.sync_all())
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(unwritable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> (tempfile::NamedTempFile, ConfigCell) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut config = BrokerConfig::default();
        config.read_file(file.path()).unwrap();
        config.resolve().unwrap();
        let path = file.path().to_owned();
        (file, ConfigCell::new(config, Some(path)))
    }

    #[test]
    fn an_update_changes_its_keys_alone_in_the_file() {
        let (file, cell) = cell("# operator's words\nbrokerName=b\nfileReservedTime=48\n");
        cell.update("fileReservedTime=24\nnobodyKnows=1\n").unwrap();
        assert_eq!(cell.get().file_reserved_time.0, 24);
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "# operator's words\nbrokerName=b\nfileReservedTime=24\n"
        );
    }

    #[test]
    fn a_refused_update_changes_nothing() {
        let (file, cell) = cell("brokerName=b\n");
        for text in [
            "traceOn=false\nconfigBlackList=x\n",
            "traceOn=false\nrocketmqHome=/\n",
            "traceOn=false\nfileReservedTime=soon\n",
            "traceOn=false\nbrokerRole=SLAVE\n",
        ] {
            assert!(cell.update(text).is_err(), "{text}");
            assert!(cell.get().trace_on);
        }
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "brokerName=b\n"
        );
    }
}
