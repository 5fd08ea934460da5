//! [`ProcessedKeys`] in a table of the application's own SQLite database, written in its own transactions: the key is there
//! if and only if the work is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::clock::{Clock, SystemClock};
use rusqlite::{Connection, Transaction, params};

use super::{Claim, ProcessedKeys};

/// The keys of one consumer group in the table `agena_processed` of a database.
///
/// Groups that share a database do not see each other's keys: each does its own work for a message.
///
/// ```no_run
/// use agena_client::{FirstTime, ProcessedKeys, ReceivedMessage, SqliteKeys};
///
/// fn book(
///     database: &mut rusqlite::Connection,
///     keys: &SqliteKeys,
///     message: &ReceivedMessage,
/// ) -> rusqlite::Result<()> {
///     // Immediate: two consumers of one database wait for each other here, not in the middle.
///     let transaction = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
///     let here = keys.within(&transaction);
///     if let FirstTime::Yes(guard) = here.first_time(&message.once_key())? {
///         transaction.execute("UPDATE account SET balance = balance + 1", [])?;
///         guard.commit()?;
///     }
///     transaction.commit()
/// }
///
/// # fn example() -> rusqlite::Result<()> {
/// let database = rusqlite::Connection::open("billing.db")?;
/// SqliteKeys::create(&database)?;
/// let keys = SqliteKeys::of("billing");
/// // Now and then:
/// keys.forget(&database, std::time::Duration::from_secs(3 * 24 * 3600))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteKeys {
    group: String,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for SqliteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteKeys").field(&self.group).finish()
    }
}

impl SqliteKeys {
    /// Makes the table unless it is there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn create(database: &Connection) -> rusqlite::Result<()> {
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS agena_processed (
                 consumer_group TEXT NOT NULL, key TEXT NOT NULL, at_ms INTEGER NOT NULL,
                 PRIMARY KEY (consumer_group, key)) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS agena_processed_at ON agena_processed (consumer_group, at_ms);",
        )
    }

    /// The keys of a consumer group, or of anything else whose work is done once for each message.
    #[must_use]
    pub fn of(group: &str) -> Self {
        Self::with_clock(group, Arc::new(SystemClock::new()))
    }

    /// [`SqliteKeys::of`], with a clock for tests.
    #[must_use]
    pub fn with_clock(group: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            group: group.to_owned(),
            clock,
        }
    }

    /// The keys as seen and changed by a transaction.
    #[must_use]
    pub fn within<'t>(&'t self, transaction: &'t Transaction<'_>) -> KeysInTransaction<'t> {
        KeysInTransaction {
            keys: self,
            transaction,
        }
    }

    /// Forgets the keys of this group whose work was done longer ago than this: the table grows until this is called.
    /// Gives how many.
    ///
    /// The time is that of the work and not of the message: after a backlog of days, a message can come again as soon as
    /// after any other.
    ///
    /// # Errors
    /// SQLite's.
    pub fn forget(&self, database: &Connection, keep_for: Duration) -> rusqlite::Result<usize> {
        let keep_ms = i64::try_from(keep_for.as_millis()).unwrap_or(i64::MAX);
        database.execute(
            "DELETE FROM agena_processed WHERE consumer_group = ?1 AND at_ms < ?2",
            params![self.group, self.clock.now_ms().saturating_sub(keep_ms)],
        )
    }
}

/// The keys within one transaction: kept when it commits, gone when it rolls back.
#[derive(Debug)]
pub struct KeysInTransaction<'t> {
    keys: &'t SqliteKeys,
    transaction: &'t Connection,
}

impl ProcessedKeys for KeysInTransaction<'_> {
    type Error = rusqlite::Error;

    /// Never [`Claim::Running`]: who has the key in another transaction makes this one wait or fail.
    fn claim(&self, key: &str) -> Result<Claim, rusqlite::Error> {
        let added = self.transaction.execute(
            "INSERT OR IGNORE INTO agena_processed (consumer_group, key, at_ms) VALUES (?1, ?2, ?3)",
            params![self.keys.group, key, self.keys.clock.now_ms()],
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
        let removed = self.transaction.execute(
            "DELETE FROM agena_processed WHERE consumer_group = ?1 AND key = ?2",
            params![self.keys.group, key],
        );
        if let Err(error) = removed {
            tracing::error!(key, %error, "key of unfinished work not removed: roll the transaction back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processed::FirstTime;
    use agena_protocol::clock::ManualClock;
    use rusqlite::TransactionBehavior;

    fn first(
        database: &mut Connection,
        keys: &SqliteKeys,
        key: &str,
        work: bool,
        commit: bool,
    ) -> bool {
        let transaction = database.transaction().unwrap();
        let first = match keys.within(&transaction).first_time(key).unwrap() {
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
        let keys = SqliteKeys::of("g");
        assert!(first(&mut database, &keys, "a", true, false), "rolled back");
        assert!(
            first(&mut database, &keys, "a", false, true),
            "the guard dropped"
        );
        assert!(first(&mut database, &keys, "a", true, true));
        drop(database);
        let mut database = Connection::open(&path).unwrap();
        assert!(!first(&mut database, &keys, "a", true, true));
    }

    #[test]
    fn groups_that_share_a_database_each_do_their_own_work() {
        let mut database = Connection::open_in_memory().unwrap();
        SqliteKeys::create(&database).unwrap();
        let (billing, shipping) = (SqliteKeys::of("billing"), SqliteKeys::of("shipping"));
        assert!(first(&mut database, &billing, "a", true, true));
        assert!(
            first(&mut database, &shipping, "a", false, true),
            "given up"
        );
        assert!(first(&mut database, &shipping, "a", true, true));
        assert!(!first(&mut database, &billing, "a", true, true));
        assert!(!first(&mut database, &shipping, "a", true, true));
    }

    #[test]
    fn keys_are_forgotten_by_the_time_of_their_work() {
        let mut database = Connection::open_in_memory().unwrap();
        SqliteKeys::create(&database).unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let keys = SqliteKeys::with_clock("g", Arc::clone(&clock) as _);
        let other = SqliteKeys::with_clock("other", Arc::clone(&clock) as _);
        assert!(first(&mut database, &keys, "a", true, true));
        assert!(first(&mut database, &other, "a", true, true));
        clock.advance(Duration::from_secs(10));
        assert_eq!(keys.forget(&database, Duration::from_secs(10)), Ok(0));
        clock.advance(Duration::from_millis(1));
        assert_eq!(keys.forget(&database, Duration::from_secs(10)), Ok(1));
        assert!(first(&mut database, &keys, "a", true, true));
        assert!(!first(&mut database, &other, "a", true, true));
    }

    /// As in the documentation: transactions are Immediate, so members wait for each other and none fails.
    #[test]
    fn members_on_one_database_do_each_work_once() {
        const KEYS: usize = 40;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let database = Connection::open(&path).unwrap();
        SqliteKeys::create(&database).unwrap();
        database
            .execute_batch("CREATE TABLE done (key TEXT)")
            .unwrap();
        let keys = SqliteKeys::of("g");
        let work = || {
            let mut database = Connection::open(&path).unwrap();
            database.busy_timeout(Duration::from_secs(30)).unwrap();
            for key in 0..KEYS {
                let transaction = database
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .unwrap();
                let here = keys.within(&transaction);
                if let FirstTime::Yes(guard) = here.first_time(&key.to_string()).unwrap() {
                    transaction
                        .execute("INSERT INTO done VALUES (?1)", params![key.to_string()])
                        .unwrap();
                    guard.commit().unwrap();
                }
                transaction.commit().unwrap();
            }
        };
        std::thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(work);
            }
        });
        let counts = database.query_row(
            "SELECT count(*), count(DISTINCT key) FROM done",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        );
        assert_eq!(counts, Ok((40, 40)));
    }
}
