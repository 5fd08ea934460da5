//! Names to values, read on every message and written seldom: reads take no lock and no reader waits for a writer.
//!
//! The table is cut into shards, each an immutable map that a writer replaces whole. A shard of a table with 20,000 names
//! holds some 300 of them, so a write copies that many pointers and not 20,000. What belongs together over several names
//! is guarded by the owner of the table, which has a lock of its own for its writers.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

const SHARDS: usize = 64;

type Shard<V> = HashMap<Arc<str>, Arc<V>>;

/// A map from names to shared values.
#[derive(Debug)]
pub struct NameTable<V> {
    shards: Vec<ArcSwap<Shard<V>>>,
    /// Writers of one shard take turns, so that none replaces what another just added.
    writers: Vec<Mutex<()>>,
}

impl<V> Default for NameTable<V> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            writers: (0..SHARDS).map(|_| Mutex::new(())).collect(),
        }
    }
}

impl<V> NameTable<V> {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<Arc<V>> {
        self.shards[shard_of(name)].load().get(name).cloned()
    }

    /// Whether there is a value of `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.shards[shard_of(name)].load().contains_key(name)
    }

    /// Sets the value of `name` and returns the one before.
    pub fn insert(&self, name: &str, value: Arc<V>) -> Option<Arc<V>> {
        self.replace(name, |shard| shard.insert(Arc::from(name), value))
    }

    /// Removes `name` and returns its value.
    pub fn remove(&self, name: &str) -> Option<Arc<V>> {
        if !self.contains(name) {
            return None;
        }
        self.replace(name, |shard| shard.remove(name))
    }

    /// The value of `name`; made by `make`, once, when there is none.
    pub fn get_or_insert_with(&self, name: &str, make: impl FnOnce() -> Arc<V>) -> Arc<V> {
        if let Some(value) = self.get(name) {
            return value;
        }
        self.replace(name, |shard| {
            Arc::clone(shard.entry(Arc::from(name)).or_insert_with(make))
        })
    }

    /// Removes `name` if `unwanted` holds for the value it has now.
    pub fn remove_if(&self, name: &str, unwanted: impl FnOnce(&V) -> bool) -> Option<Arc<V>> {
        self.replace(name, |shard| {
            if shard.get(name).is_some_and(|value| unwanted(value)) {
                shard.remove(name)
            } else {
                None
            }
        })
    }

    /// Every name and value, shard by shard: not one moment of the whole table.
    pub fn entries(&self) -> Vec<(Arc<str>, Arc<V>)> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.load();
            all.extend(
                shard
                    .iter()
                    .map(|(name, value)| (Arc::clone(name), Arc::clone(value))),
            );
        }
        all
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    /// No name at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn replace<R>(&self, name: &str, change: impl FnOnce(&mut Shard<V>) -> R) -> R {
        let at = shard_of(name);
        let _turn = self.writers[at].lock();
        let mut shard = Shard::clone(&self.shards[at].load());
        let result = change(&mut shard);
        self.shards[at].store(Arc::new(shard));
        result
    }
}

/// Cheap, because it comes on top of the shard's own hash: FNV-1a. Names that meet in one shard on purpose make writes slower,
/// not reads.
fn shard_of(name: &str) -> usize {
    let hash = name.bytes().fold(0x811C_9DC5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash >> 16) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_there_until_removed() {
        let table = NameTable::default();
        for number in 0..1000 {
            assert!(
                table
                    .insert(&format!("t{number}"), Arc::new(number))
                    .is_none()
            );
        }
        assert_eq!(table.len(), 1000);
        assert_eq!(table.get("t999").as_deref(), Some(&999));
        assert_eq!(table.insert("t7", Arc::new(70)).as_deref(), Some(&7));
        assert_eq!(table.remove("t7").as_deref(), Some(&70));
        assert_eq!(table.get("t7"), None);
        assert_eq!(table.entries().len(), 999);
    }

    #[test]
    fn a_value_is_made_once_however_many_ask_for_it() {
        let table: Arc<NameTable<usize>> = Arc::default();
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    table.get_or_insert_with("name", || {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Arc::new(1)
                    });
                });
            }
        });
        assert_eq!(made.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    #[test]
    fn a_value_is_removed_only_while_it_is_unwanted() {
        let table = NameTable::default();
        table.insert("a", Arc::new(1));
        assert!(table.remove_if("a", |value| *value == 2).is_none());
        assert!(table.remove_if("a", |value| *value == 1).is_some());
        assert!(table.is_empty());
    }
}
