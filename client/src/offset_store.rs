//! Where a group's progress is kept between runs: with the brokers when its members share the queues, with each member
//! when every one reads all.
//!
//! Apache: `RemoteBrokerOffsetStore`, `LocalFileOffsetStore`. Unlike there, what is in memory belongs to each
//! [`ProcessQueue`](crate::process_queue::ProcessQueue), so that late results of a queue that was given up cannot move
//! the offset of the same queue taken again.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agena_protocol::bodies::offsets::ResetOffsetBody;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::Header;
use agena_protocol::headers::offsets::{
    GetMaxOffsetRequest, GetMinOffsetRequest, QueryConsumerOffsetRequest,
    SearchOffsetByTimestampRequest, UpdateConsumerOffsetRequest,
};
use agena_protocol::queue::{MessageQueue, QueueMap};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use parking_lot::Mutex;

use crate::error::ClientError;
use crate::instance::{Instance, bad_answer};
use crate::route_cache::MASTER_ID;

/// Keeps the offsets of a broadcasting consumer, which no broker does.
///
/// Called from a blocking thread; `save` gets all offsets of the group every time.
pub trait BroadcastOffsets: Send + Sync + fmt::Debug + 'static {
    /// What was saved last; empty if nothing was.
    ///
    /// # Errors
    /// Any text; the consumer does not start a queue whose offset it cannot know.
    fn load(&self) -> Result<QueueMap<i64>, String>;

    /// Keeps these in place of what was saved before.
    ///
    /// # Errors
    /// Any text; it is logged, and the next save comes 5 s later.
    fn save(&self, offsets: &QueueMap<i64>) -> Result<(), String>;
}

/// Forgets everything when the process ends: a consumer then begins where its
/// [`ConsumeFrom`](crate::ConsumeFrom) says. The default.
#[derive(Debug, Default)]
pub struct MemoryOffsets {
    offsets: Mutex<QueueMap<i64>>,
}

impl BroadcastOffsets for MemoryOffsets {
    fn load(&self) -> Result<QueueMap<i64>, String> {
        Ok(self.offsets.lock().clone())
    }

    fn save(&self, offsets: &QueueMap<i64>) -> Result<(), String> {
        self.offsets.lock().clone_from(offsets);
        Ok(())
    }
}

/// Keeps offsets in a file of RocketMQ's form (`offsets.json`), with the state before in `<file>.bak`.
#[derive(Debug)]
pub struct FileOffsets {
    path: PathBuf,
}

impl FileOffsets {
    /// In this file, whose directory is made if needed.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn backup(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".bak");
        name.into()
    }
}

impl BroadcastOffsets for FileOffsets {
    fn load(&self) -> Result<QueueMap<i64>, String> {
        let mut damaged = None;
        for path in [self.path.clone(), self.backup()] {
            match std::fs::read(&path) {
                Ok(text) => match fastjson::from_slice::<ResetOffsetBody>(&text) {
                    Ok(body) => return Ok(body.offset_table),
                    Err(error) => damaged = Some(format!("{}: {error}", path.display())),
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
        damaged.map_or(Ok(QueueMap::new()), Err)
    }

    fn save(&self, offsets: &QueueMap<i64>) -> Result<(), String> {
        // The table is the only member, as in the body of a reset.
        let body = ResetOffsetBody {
            offset_table: offsets.clone(),
        };
        let text = fastjson::to_vec(&body, KeyStyle::Bare);
        let fault = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| fault(directory, error))?;
        }
        let mut next = self.path.clone().into_os_string();
        next.push(".tmp");
        let next = PathBuf::from(next);
        let mut file = std::fs::File::create(&next).map_err(|error| fault(&next, error))?;
        file.write_all(&text)
            .and_then(|()| file.sync_data())
            .map_err(|error| fault(&next, error))?;
        if self.path.exists() {
            let backup = self.backup();
            std::fs::rename(&self.path, &backup).map_err(|error| fault(&backup, error))?;
        }
        std::fs::rename(&next, &self.path).map_err(|error| fault(&self.path, error))
    }
}

/// Where the offsets of one group live.
#[derive(Debug, Clone)]
pub(crate) enum OffsetHome {
    /// With the broker of each queue.
    Brokers {
        instance: Arc<Instance>,
        group: String,
    },
    /// With this member alone.
    Local(Arc<dyn BroadcastOffsets>),
}

impl OffsetHome {
    /// The offset that was kept for `queue`, if there is one.
    pub(crate) async fn read(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        match self {
            Self::Brokers { instance, group } => committed(instance, group, queue).await,
            Self::Local(store) => {
                let store = Arc::clone(store);
                let offsets = blocking(move || store.load()).await?;
                Ok(offsets.get(queue).copied())
            }
        }
    }

    /// Keeps offsets and waits until they are kept. Of several failures the last one is told.
    pub(crate) async fn write(&self, offsets: &QueueMap<i64>) -> Result<(), ClientError> {
        match self {
            Self::Brokers { instance, group } => {
                let mut outcome = Ok(());
                for (queue, offset) in offsets {
                    if let Err(error) = commit(instance, group, queue, *offset).await {
                        outcome = Err(error);
                    }
                }
                outcome
            }
            Self::Local(store) => self.merge(store, offsets).await,
        }
    }

    /// Keeps offsets without waiting for brokers: for those that are written again and again.
    pub(crate) async fn write_soon(&self, offsets: &QueueMap<i64>) -> Result<(), ClientError> {
        match self {
            Self::Brokers { instance, group } => {
                let mut outcome = Ok(());
                for (queue, offset) in offsets {
                    let sent = async {
                        let address = home_of(instance, queue)?;
                        let request = update_request(group, queue, *offset);
                        instance.one_way(&address, request).await
                    };
                    if let Err(error) = sent.await {
                        outcome = Err(error);
                    }
                }
                outcome
            }
            Self::Local(store) => self.merge(store, offsets).await,
        }
    }

    async fn merge(
        &self,
        store: &Arc<dyn BroadcastOffsets>,
        changed: &QueueMap<i64>,
    ) -> Result<(), ClientError> {
        let (store, changed) = (Arc::clone(store), changed.clone());
        blocking(move || {
            let mut offsets = store.load()?;
            offsets.extend(changed);
            store.save(&offsets)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, ClientError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(panic.to_string()))
        .map_err(|reason| ClientError::OffsetStore { reason })
}

/// Where a group without an offset begins to read a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsumeFrom {
    /// Behind what is there now. Brokers answer 0 for topics that are young and small, so that nothing of them is missed.
    #[default]
    Last,
    /// With the oldest message that is still there.
    First,
    /// With the first message stored at or after this time, in ms since 1970-01-01 UTC.
    Timestamp(i64),
}

/// Where to begin to read `queue`: at the offset that is kept, else as `from` says.
pub(crate) async fn start_offset(
    instance: &Instance,
    home: &OffsetHome,
    queue: &MessageQueue,
    from: ConsumeFrom,
) -> Result<i64, ClientError> {
    if let Some(offset) = home.read(queue).await? {
        return Ok(offset);
    }
    let is_retry = topic::is_retry(&queue.topic);
    match from {
        // What failed is wanted again, whenever it was.
        ConsumeFrom::Last if is_retry => Ok(0),
        ConsumeFrom::Last => max_offset(instance, queue).await,
        ConsumeFrom::First => Ok(0),
        ConsumeFrom::Timestamp(_) if is_retry => max_offset(instance, queue).await,
        ConsumeFrom::Timestamp(at_ms) => offset_by_time(instance, queue, at_ms).await,
    }
}

/// The offset that the group's broker keeps for `queue`.
pub(crate) async fn committed(
    instance: &Instance,
    group: &str,
    queue: &MessageQueue,
) -> Result<Option<i64>, ClientError> {
    let code = RequestCode::QueryConsumerOffset;
    let address = home_of(instance, queue)?;
    let request = Command::request(code).with_header(&QueryConsumerOffsetRequest {
        consumer_group: group,
        topic: &queue.topic,
        queue_id: queue.queue_id,
        set_zero_if_not_found: None,
        bname: Some(&queue.broker_name),
        lo: None,
    });
    let answer = instance.call_broker(&address, request).await?;
    if answer.response_code() == Some(ResponseCode::QueryNotFound) {
        return Ok(None);
    }
    let answer = Instance::success(&address, code, answer)?;
    read_offset(&address, code, &answer).map(Some)
}

/// Keeps `offset` with the queue's broker.
pub(crate) async fn commit(
    instance: &Instance,
    group: &str,
    queue: &MessageQueue,
    offset: i64,
) -> Result<(), ClientError> {
    let address = home_of(instance, queue)?;
    let request = update_request(group, queue, offset);
    let code = RequestCode::UpdateConsumerOffset;
    instance.ask(&address, code, request).await.map(drop)
}

fn update_request(group: &str, queue: &MessageQueue, offset: i64) -> Command {
    Command::request(RequestCode::UpdateConsumerOffset).with_header(&UpdateConsumerOffsetRequest {
        consumer_group: group,
        topic: &queue.topic,
        queue_id: queue.queue_id,
        commit_offset: offset,
        bname: Some(&queue.broker_name),
        lo: None,
    })
}

/// The next offset to be written.
pub(crate) async fn max_offset(
    instance: &Instance,
    queue: &MessageQueue,
) -> Result<i64, ClientError> {
    let header = GetMaxOffsetRequest {
        topic: &queue.topic,
        queue_id: queue.queue_id,
        committed: None,
        bname: Some(&queue.broker_name),
        lo: None,
    };
    ask_offset(instance, queue, RequestCode::GetMaxOffset, &header).await
}

/// The first offset that is still there.
pub(crate) async fn min_offset(
    instance: &Instance,
    queue: &MessageQueue,
) -> Result<i64, ClientError> {
    let header = GetMinOffsetRequest {
        topic: &queue.topic,
        queue_id: queue.queue_id,
        bname: Some(&queue.broker_name),
        lo: None,
    };
    ask_offset(instance, queue, RequestCode::GetMinOffset, &header).await
}

/// The offset of the first message stored at or after `at_ms`.
pub(crate) async fn offset_by_time(
    instance: &Instance,
    queue: &MessageQueue,
    at_ms: i64,
) -> Result<i64, ClientError> {
    let header = SearchOffsetByTimestampRequest {
        topic: &queue.topic,
        queue_id: queue.queue_id,
        timestamp: at_ms,
        boundary_type: None,
        bname: Some(&queue.broker_name),
        lo: None,
    };
    ask_offset(
        instance,
        queue,
        RequestCode::SearchOffsetByTimestamp,
        &header,
    )
    .await
}

async fn ask_offset(
    instance: &Instance,
    queue: &MessageQueue,
    code: RequestCode,
    header: &impl Header,
) -> Result<i64, ClientError> {
    let address = instance.routes().master(&queue.broker_name)?;
    let request = Command::request(code).with_header(header);
    let answer = instance.ask(&address, code, request).await?;
    read_offset(&address, code, &answer)
}

fn read_offset(address: &str, code: RequestCode, answer: &Command) -> Result<i64, ClientError> {
    // All of these answers have this one field.
    let offset = answer.ext.parsed::<i64>("offset").ok().flatten();
    offset.ok_or_else(|| bad_answer(address, code, &"no offset"))
}

/// The master, or whoever is left.
fn home_of(instance: &Instance, queue: &MessageQueue) -> Result<String, ClientError> {
    instance
        .routes()
        .address(&queue.broker_name, MASTER_ID, false)
        .map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(entries: &[(i32, i64)]) -> QueueMap<i64> {
        entries
            .iter()
            .map(|(queue, offset)| (MessageQueue::new("T", "b", *queue), *offset))
            .collect()
    }

    #[test]
    fn a_file_of_offsets_has_the_original_s_form_and_a_backup() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("group").join("offsets.json");
        let store = FileOffsets::at(&path);
        assert_eq!(store.load().unwrap(), offsets(&[]));
        store.save(&offsets(&[(0, 7)])).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:7}}"#
        );
        store.save(&offsets(&[(0, 8), (1, 1)])).unwrap();
        assert_eq!(store.load().unwrap(), offsets(&[(0, 8), (1, 1)]));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(store.load().unwrap(), offsets(&[(0, 7)]));
        std::fs::write(store.backup(), "{").unwrap();
        assert!(store.load().unwrap_err().contains("offsets.json.bak"));
    }

    #[tokio::test]
    async fn a_local_home_keeps_what_others_did_not_change() {
        let home = OffsetHome::Local(Arc::new(MemoryOffsets::default()));
        home.write(&offsets(&[(0, 5), (1, 6)])).await.unwrap();
        home.write_soon(&offsets(&[(1, 9)])).await.unwrap();
        let read = async |queue| {
            home.read(&MessageQueue::new("T", "b", queue))
                .await
                .unwrap()
        };
        assert_eq!(read(0).await, Some(5));
        assert_eq!(read(1).await, Some(9));
        assert_eq!(read(2).await, None);
    }
}
