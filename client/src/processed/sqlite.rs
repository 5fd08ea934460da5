//! [`ProcessedKeys`] in a table of the application's own SQLite database, written in its own transactions: the key is there
//! if and only if the work is.

use rusqlite::{Connection, Transaction, params};

use super::{Claim, ProcessedKeys};

/// The table `agena_processed` of one database: `key TEXT PRIMARY KEY, at_ms INTEGER`.
///
/// ```no_run
/// use agena_client::{FirstTime, ProcessedKeys, ReceivedMessage, SqliteKeys};
///
/// fn book(database: &mut rusqlite::Connection, message: &ReceivedMessage) -> rusqlite::Result<()> {
///     // Immediate: two consumers of one database wait for each other here, not in the middle.
///     let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
///     let keys = SqliteKeys::within(&transaction, message.store_timestamp);
///     if let FirstTime::Yes(guard) = keys.first_time(&message.once_key())? {
///         transaction.execute("UPDATE account SET balance = balance + 1", [])?;
///         guard.commit()?;
///     }
///     transaction.commit()
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct SqliteKeys;

impl SqliteKeys {
    /// Makes the table unless it is there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn create(database: &Connection) -> rusqlite::Result<()> {
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS agena_processed (key TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS agena_processed_at ON agena_processed (at_ms);",
        )
    }

    /// The table as seen and changed by a transaction. Keys are written with the time `at_ms`, for [`SqliteKeys::forget`].
    #[must_use]
    pub fn within<'t>(transaction: &'t Transaction<'_>, at_ms: i64) -> KeysInTransaction<'t> {
        KeysInTransaction { transaction, at_ms }
    }

    /// Forgets keys with a time before `before_ms`: the table grows until this is called. Gives how many.
    ///
    /// # Errors
    /// SQLite's.
    pub fn forget(database: &Connection, before_ms: i64) -> rusqlite::Result<usize> {
        database.execute(
            "DELETE FROM agena_processed WHERE at_ms < ?1",
            params![before_ms],
        )
    }
}

/// The keys within one transaction: kept when it commits, gone when it rolls back.
#[derive(Debug)]
pub struct KeysInTransaction<'t> {
    transaction: &'t Connection,
    at_ms: i64,
}

impl ProcessedKeys for KeysInTransaction<'_> {
    type Error = rusqlite::Error;

    /// Never [`Claim::Running`]: who has the key in another transaction makes this one wait or fail.
    fn claim(&self, key: &str) -> Result<Claim, rusqlite::Error> {
        let added = self.transaction.execute(
            "INSERT OR IGNORE INTO agena_processed (key, at_ms) VALUES (?1, ?2)",
            params![key, self.at_ms],
        )?;
        Ok(if added == 0 {
            Claim::Done
        } else {
            Claim::First
        })
    }

    fn keep(&self, _: &str) -> Result<(), rusqlite::Error> {
        Ok(())
    }

    /// For transactions that commit although the work of this key was given up.
    fn release(&self, key: &str) {
        let removed = self
            .transaction
            .execute("DELETE FROM agena_processed WHERE key = ?1", params![key]);
        if let Err(error) = removed {
            tracing::error!(key, %error, "key of unfinished work not removed: roll the transaction back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processed::FirstTime;

    fn first(database: &mut Connection, key: &str, work: bool, commit: bool) -> bool {
        let transaction = database.transaction().unwrap();
        let keys = SqliteKeys::within(&transaction, 7);
        let first = match keys.first_time(key).unwrap() {
            FirstTime::Yes(guard) => {
                if work {
                    guard.commit().unwrap();
                }
                true
            }
            FirstTime::Done | FirstTime::Running => false,
        };
        if commit {
            transaction.commit().unwrap();
        }
        first
    }

    #[test]
    fn a_key_is_kept_with_the_work_and_only_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let mut database = Connection::open(&path).unwrap();
        SqliteKeys::create(&database).unwrap();
        SqliteKeys::create(&database).unwrap();
        assert!(first(&mut database, "a", true, false), "rolled back");
        assert!(first(&mut database, "a", false, true), "the guard dropped");
        assert!(first(&mut database, "a", true, true));
        drop(database);
        let mut database = Connection::open(&path).unwrap();
        assert!(!first(&mut database, "a", true, true));
        assert_eq!(SqliteKeys::forget(&database, 7).unwrap(), 0);
        assert_eq!(SqliteKeys::forget(&database, 8).unwrap(), 1);
        assert!(first(&mut database, "a", true, true));
    }
}
