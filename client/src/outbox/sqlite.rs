//! [`OutboxStore`] in a table of the application's own SQLite database.

use std::path::Path;
use std::time::Duration;

use agena_protocol::properties::{self, PropertiesBuf};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{OutboxMessage, OutboxStore};
use crate::message::Message;
use crate::producer_id::ProducerId;

/// The tables `agena_outbox`, one row for each message that waits or was refused, and `agena_outbox_producer` with the
/// producer id under which this database's messages are numbered.
///
/// The relay has a connection of its own; [`SqliteOutbox::record`] uses the application's. A row that was sent is deleted;
/// one that no broker will take stays, with its reason in `refused`.
#[derive(Debug)]
pub struct SqliteOutbox {
    database: Mutex<Connection>,
}

/// How long the relay waits for the application's transactions.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl SqliteOutbox {
    /// Opens the database for the relay and makes the tables unless they are there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(path: impl AsRef<Path>) -> rusqlite::Result<Self> {
        let database = Connection::open(path)?;
        database.busy_timeout(BUSY_TIMEOUT)?;
        // AUTOINCREMENT: the number of a row that is gone is not given again, since it is what brokers deduplicate by.
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS agena_outbox (
                 number INTEGER PRIMARY KEY AUTOINCREMENT,
                 topic TEXT NOT NULL, flag INTEGER NOT NULL, properties BLOB NOT NULL, body BLOB NOT NULL,
                 refused TEXT);
             CREATE TABLE IF NOT EXISTS agena_outbox_producer (
                 only INTEGER PRIMARY KEY CHECK (only = 1), id TEXT NOT NULL);",
        )?;
        database.execute(
            "INSERT OR IGNORE INTO agena_outbox_producer VALUES (1, ?1)",
            params![ProducerId::random().as_str()],
        )?;
        Ok(Self {
            database: Mutex::new(database),
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

    /// Messages that wait, and messages that were refused.
    ///
    /// # Errors
    /// SQLite's.
    pub fn counts(&self) -> rusqlite::Result<(i64, i64)> {
        self.database.lock().query_row(
            "SELECT count(*) FILTER (WHERE refused IS NULL), count(*) FILTER (WHERE refused IS NOT NULL)
             FROM agena_outbox",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    fn read(&self, count: usize, without: &[String]) -> rusqlite::Result<Vec<OutboxMessage>> {
        let database = self.database.lock();
        let producer: Option<String> = database
            .query_row("SELECT id FROM agena_outbox_producer", [], |row| row.get(0))
            .optional()?;
        let mut rows = database.prepare(
            "SELECT number, topic, flag, properties, body FROM agena_outbox
             WHERE refused IS NULL AND topic NOT IN (SELECT value FROM json_each(?2))
             ORDER BY number LIMIT ?1",
        )?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let without = serde_json::Value::from(without).to_string();
        let messages = rows.query_map(params![count, without], |row| {
            read_message(row, producer.as_deref())
        })?;
        messages.collect()
    }
}

fn read_message(row: &Row<'_>, producer: Option<&str>) -> rusqlite::Result<OutboxMessage> {
    let number: i64 = row.get(0)?;
    let topic: String = row.get(1)?;
    let mut properties = PropertiesBuf::parse(&row.get::<_, Vec<u8>>(3)?);
    if let Some(producer) = producer {
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
    }
    Ok(OutboxMessage {
        number,
        message: Message {
            topic,
            flag: row.get(2)?,
            body: row.get::<_, Vec<u8>>(4)?.into(),
            properties,
        },
    })
}

impl OutboxStore for SqliteOutbox {
    fn waiting(&self, count: usize, without: &[String]) -> Result<Vec<OutboxMessage>, String> {
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
        let database = self.database.lock();
        let noted = database.execute(
            "UPDATE agena_outbox SET refused = ?2 WHERE number = ?1",
            params![number, reason],
        );
        noted.map(drop).map_err(|error| error.to_string())
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
        assert_eq!(outbox.counts().unwrap(), (0, 1));
        record("c", true);
        let next = outbox.waiting(9, &[]).unwrap();
        assert!(next[0].number > waiting[1].number);
    }
}
