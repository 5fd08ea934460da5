//! [`OutboxStore`] in a table of the application's own SQLite database.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agena_protocol::clock::{Clock, SystemClock};
use agena_protocol::properties::{self, PropertiesBuf};
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use rustix::fs::FlockOperation;

use super::{OutboxMessage, OutboxStatus, OutboxStore};
use crate::message::Message;
use crate::producer_id::{MILLISECOND_BITS, ProducerId};

/// The tables `agena_outbox`, one row for each message that waits or was refused, and `agena_outbox_producer` with the
/// producer id under which this database's messages are numbered.
///
/// The relay has a connection of its own; [`SqliteOutbox::record`] uses the application's. A row that was sent is deleted;
/// one that no broker will take, or that cannot be read, stays, with its reason in `refused`.
///
/// One relay at a time sends: it holds a lock on `<database>.outbox-lock`, and another one that was opened meanwhile, as in
/// a rolling restart, waits until that is gone.
///
/// A database that is restored from a backup goes on with numbers beyond all that it gave before, since they do not
/// begin below the clock (ms × 2^20) at an `open`. What waited at the time of the backup is sent again. Of two copies that
/// are both used, one has to become another producer before it is opened, or brokers take its messages for those of the other:
/// `DELETE FROM agena_outbox; DELETE FROM agena_outbox_producer;`.
#[derive(Debug)]
pub struct SqliteOutbox {
    database: Mutex<Connection>,
    lock: Option<RelayLock>,
}

/// Tells relays of one database apart, in one process or several.
#[derive(Debug)]
struct RelayLock {
    file: File,
    is_held: AtomicBool,
}

impl RelayLock {
    fn open(database: &Path) -> std::io::Result<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push(".outbox-lock");
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self {
            file,
            is_held: AtomicBool::new(false),
        })
    }

    /// It is freed with the file: the next relay goes on as soon as this process has ended, however that comes.
    fn try_hold(&self) -> Result<bool, String> {
        if self.is_held.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.is_held.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(format!("its lock: {error}")),
        }
    }
}

/// How long the relay waits for the application's transactions.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl SqliteOutbox {
    /// Opens the database for the relay and makes the tables unless they are there.
    ///
    /// # Errors
    /// SQLite's; `SQLITE_CANTOPEN` if the lock file cannot be made.
    pub fn open(path: impl AsRef<Path>) -> rusqlite::Result<Self> {
        Self::open_at(path.as_ref(), SystemClock::new().now_ms())
    }

    fn open_at(path: &Path, now_ms: i64) -> rusqlite::Result<Self> {
        let mut database = Connection::open(path)?;
        database.busy_timeout(BUSY_TIMEOUT)?;
        let tables = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // AUTOINCREMENT: the number of a row that is gone is not given again, since it is what brokers deduplicate by.
        tables.execute_batch(
            "CREATE TABLE IF NOT EXISTS agena_outbox (
                 number INTEGER PRIMARY KEY AUTOINCREMENT,
                 topic TEXT NOT NULL, flag INTEGER NOT NULL, properties BLOB NOT NULL, body BLOB NOT NULL,
                 refused TEXT);
             CREATE TABLE IF NOT EXISTS agena_outbox_producer (
                 only INTEGER PRIMARY KEY CHECK (only = 1), id TEXT NOT NULL);
             INSERT INTO sqlite_sequence (name, seq) SELECT 'agena_outbox', 0
                 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'agena_outbox');",
        )?;
        // A backup knows nothing of the numbers that were given after it.
        tables.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'agena_outbox'",
            params![now_ms << MILLISECOND_BITS],
        )?;
        tables.execute(
            "INSERT OR IGNORE INTO agena_outbox_producer VALUES (1, ?1)",
            params![ProducerId::random().as_str()],
        )?;
        tables.commit()?;
        // Only a database in memory has no path, and no other relay either.
        let lock = match database.path().filter(|path| !path.is_empty()) {
            Some(path) => {
                Some(RelayLock::open(Path::new(path)).map_err(|error| cannot_lock(&error))?)
            }
            None => None,
        };
        Ok(Self {
            database: Mutex::new(database),
            lock,
        })
    }

    /// Records a message in the application's transaction: it is sent when that commits. Gives its number.
    ///
    /// # Errors
    /// SQLite's, among them that [`SqliteOutbox::open`] has not made the tables yet.
    pub fn record(transaction: &Transaction<'_>, message: &Message) -> rusqlite::Result<i64> {
        transaction.execute(
            "INSERT INTO agena_outbox (topic, flag, properties, body) VALUES (?1, ?2, ?3, ?4)",
            params![
                message.topic,
                message.flag,
                message.properties.encode(),
                &message.body[..]
            ],
        )?;
        Ok(transaction.last_insert_rowid())
    }

    fn count(&self) -> rusqlite::Result<OutboxStatus> {
        self.database.lock().query_row(
            "SELECT count(*) FILTER (WHERE refused IS NULL), count(*) FILTER (WHERE refused IS NOT NULL)
             FROM agena_outbox",
            [],
            |row| {
                Ok(OutboxStatus {
                    waiting: row.get::<_, i64>(0)?.unsigned_abs(),
                    refused: row.get::<_, i64>(1)?.unsigned_abs(),
                })
            },
        )
    }

    fn read(&self, count: usize, without: &[String]) -> rusqlite::Result<Vec<OutboxMessage>> {
        let database = self.database.lock();
        let producer: String =
            database.query_row("SELECT id FROM agena_outbox_producer", [], |row| row.get(0))?;
        let mut statement = database.prepare(
            "SELECT number, topic, flag, properties, body FROM agena_outbox
             WHERE refused IS NULL AND topic NOT IN (SELECT value FROM json_each(?2))
             ORDER BY number LIMIT ?1",
        )?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let without = serde_json::Value::from(without).to_string();
        let mut rows = statement.query(params![count, without])?;
        let (mut messages, mut unreadable) = (Vec::new(), Vec::<(i64, String)>::new());
        while let Some(row) = rows.next()? {
            let number = row.get(0)?;
            match read_message(row, number, &producer) {
                Ok(message) => messages.push(message),
                Err(error) => unreadable.push((number, error.to_string())),
            }
        }
        drop(rows);
        // What somebody else wrote into the table must not stop what stands behind it.
        for (number, reason) in unreadable {
            tracing::error!(number, %reason, "row of the outbox set aside: it cannot be read");
            set_aside(&database, number, &reason)?;
        }
        Ok(messages)
    }
}

fn cannot_lock(error: &std::io::Error) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    rusqlite::Error::SqliteFailure(code, Some(format!("the outbox's lock file: {error}")))
}

fn set_aside(database: &Connection, number: i64, reason: &str) -> rusqlite::Result<()> {
    let noted = database.execute(
        "UPDATE agena_outbox SET refused = ?2 WHERE number = ?1",
        params![number, reason],
    );
    noted.map(drop)
}

fn read_message(row: &Row<'_>, number: i64, producer: &str) -> rusqlite::Result<OutboxMessage> {
    // Text is as good as a blob: SQLite stores what it is given, whatever the column says.
    let bytes = |column| {
        row.get_ref(column)?
            .as_bytes()
            .map_err(rusqlite::Error::from)
    };
    let topic: String = row.get(1)?;
    let mut properties = PropertiesBuf::parse(bytes(3)?);
    // The id has to be the same at every attempt: consumers go by it, and the queue follows from it.
    if properties.get(properties::UNIQ_KEY).is_none() {
        properties.set(properties::UNIQ_KEY, format!("{producer}-{number}"));
        properties.set(properties::WAIT, "true");
    }
    if properties.get(properties::SEQUENCE).is_none() {
        // Numbers of each topic under an id of their own: a broker remembers the last ones of an id, and a topic that
        // is held back must not fall behind what it remembers because others go on.
        let of_topic = format!("{producer}-{:08x}", crc32fast::hash(topic.as_bytes()));
        properties.set(properties::PRODUCER_ID, of_topic);
        properties.set(properties::SEQUENCE, number.to_string());
    }
    Ok(OutboxMessage {
        number,
        message: Message {
            topic,
            flag: row.get(2)?,
            body: Bytes::copy_from_slice(bytes(4)?),
            properties,
        },
    })
}

impl OutboxStore for SqliteOutbox {
    fn waiting(&self, count: usize, without: &[String]) -> Result<Vec<OutboxMessage>, String> {
        if let Some(lock) = &self.lock
            && !lock.try_hold()?
        {
            tracing::debug!("another relay sends what is in this outbox");
            return Ok(Vec::new());
        }
        self.read(count, without).map_err(|error| error.to_string())
    }

    fn sent(&self, number: i64) -> Result<(), String> {
        let database = self.database.lock();
        let deleted = database.execute(
            "DELETE FROM agena_outbox WHERE number = ?1",
            params![number],
        );
        deleted.map(drop).map_err(|error| error.to_string())
    }

    fn refused(&self, number: i64, reason: &str) -> Result<(), String> {
        set_aside(&self.database.lock(), number, reason).map_err(|error| error.to_string())
    }

    fn status(&self) -> Result<OutboxStatus, String> {
        self.count().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wait_from_their_commit_on_with_the_same_ids_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let outbox = SqliteOutbox::open(&path).unwrap();
        let mut application = Connection::open(&path).unwrap();
        let mut record = |body: &str, commit: bool| {
            let transaction = application.transaction().unwrap();
            let message = Message::new("T", body.to_owned())
                .with_key("k")
                .with_flag(3);
            SqliteOutbox::record(&transaction, &message).unwrap();
            if commit {
                transaction.commit().unwrap();
            }
        };
        record("a", true);
        record("rolled back", false);
        record("b", true);
        let waiting = outbox.waiting(9, &[]).unwrap();
        let bodies: Vec<_> = waiting
            .iter()
            .map(|entry| entry.message.body().clone())
            .collect();
        assert_eq!(bodies, ["a", "b"]);
        assert_eq!(waiting[0].message.property("KEYS"), Some("k"));
        assert_eq!(waiting[0].message.flag, 3);
        let sequence =
            |entry: &OutboxMessage| entry.message.property("AGENA_SEQUENCE").map(str::to_owned);
        assert!(sequence(&waiting[0]) < sequence(&waiting[1]));
        drop(outbox);
        let outbox = SqliteOutbox::open(&path).unwrap();
        assert_eq!(outbox.waiting(9, &[]).unwrap(), waiting);
        assert_eq!(outbox.waiting(1, &[]).unwrap(), waiting[..1]);
        outbox.sent(waiting[0].number).unwrap();
        outbox.refused(waiting[1].number, "too large").unwrap();
        assert_eq!(outbox.waiting(9, &[]).unwrap(), []);
        let status = outbox.status().unwrap();
        assert_eq!((status.waiting, status.refused), (0, 1));
        record("c", true);
        let next = outbox.waiting(9, &[]).unwrap();
        assert!(next[0].number > waiting[1].number);
    }

    fn record(path: &Path, body: &str) -> i64 {
        let mut application = Connection::open(path).unwrap();
        let transaction = application.transaction().unwrap();
        let message = Message::new("T", body.to_owned());
        let number = SqliteOutbox::record(&transaction, &message).unwrap();
        transaction.commit().unwrap();
        number
    }

    #[test]
    fn a_restored_database_gives_no_number_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, backup) = (directory.path().join("db"), directory.path().join("backup"));
        let outbox = SqliteOutbox::open_at(&path, 1_000).unwrap();
        let waiting = record(&path, "waits");
        std::fs::copy(&path, &backup).unwrap();
        let lost = record(&path, "lost with the backup");
        assert!(waiting < lost);
        drop(outbox);
        std::fs::rename(&backup, &path).unwrap();
        let outbox = SqliteOutbox::open_at(&path, 1_001).unwrap();
        let new = record(&path, "new");
        assert!(new > lost, "{new} {lost}");
        let waiting_now = outbox.waiting(9, &[]).unwrap();
        let numbers: Vec<_> = waiting_now.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [waiting, new]);
        drop(outbox);
        SqliteOutbox::open_at(&path, 0).unwrap();
        assert_eq!(record(&path, "the clock was set back"), new + 1);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_set_aside_and_text_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let outbox = SqliteOutbox::open(&path).unwrap();
        let by_hand = Connection::open(&path).unwrap();
        for (properties, body) in [("''", "7"), ("''", "'text'"), ("3.5", "x'00'")] {
            let sql = format!(
                "INSERT INTO agena_outbox (topic, flag, properties, body) VALUES ('T', 0, {properties}, {body})"
            );
            by_hand.execute(&sql, []).unwrap();
        }
        record(&path, "last");
        let waiting = outbox.waiting(9, &[]).unwrap();
        let bodies: Vec<_> = waiting.iter().map(|it| it.message.body().clone()).collect();
        assert_eq!(bodies, ["text", "last"]);
        let status = outbox.status().unwrap();
        assert_eq!((status.waiting, status.refused), (2, 2));
        assert_eq!(outbox.waiting(9, &[]).unwrap(), waiting);
    }

    #[test]
    fn a_second_relay_waits_for_the_end_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let (old, new) = (
            SqliteOutbox::open(&path).unwrap(),
            SqliteOutbox::open(&path).unwrap(),
        );
        record(&path, "a");
        assert_eq!(old.waiting(9, &[]).unwrap().len(), 1);
        assert_eq!(new.waiting(9, &[]).unwrap(), []);
        drop(old);
        assert_eq!(new.waiting(9, &[]).unwrap().len(), 1);
    }
}
