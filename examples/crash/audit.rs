//! Reading back what the broker holds, with a client that did not see it die.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use agena_client::{ClientConfig, ClientError, Instance, PullConsumer};
use agena_protocol::command::Command;
use agena_protocol::headers::offsets::{QueryConsumerOffsetRequest, QueryConsumerOffsetResponse};
use agena_protocol::headers::topic::UpdateAndCreateTopicRequest;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::servers::Addresses;
use crate::{GROUP, QUEUES, TOPIC};

/// A restarted broker is read within this.
const READ_WITHIN: Duration = Duration::from_secs(300);

/// Nothing more of a queue that should have more.
const SILENCE: Duration = Duration::from_secs(30);

const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// A commit is durable after so long: the journal gathers for a fifth of a second, and a busy machine is given time.
const DURABLE_AFTER: Duration = Duration::from_millis(700);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Looks at the broker after every restart.
pub(crate) struct Auditor {
    addresses: Addresses,
    ledger: Arc<Ledger>,
}

/// What was committed, seen again and again while the broker lived.
pub(crate) struct Watch {
    task: JoinHandle<Vec<(Instant, Vec<usize>)>>,
}

impl Auditor {
    pub(crate) fn new(addresses: Addresses, ledger: Arc<Ledger>) -> Self {
        Self { addresses, ledger }
    }

    /// Looks at the committed offsets until the broker is gone.
    pub(crate) fn watch_committed(&self) -> Watch {
        let addresses = self.addresses.clone();
        Watch {
            task: tokio::spawn(async move {
                let mut seen = Vec::new();
                if let Ok(broker) = Broker::reach(&addresses) {
                    while let Ok(committed) = broker.committed().await {
                        seen.push((Instant::now(), committed));
                        tokio::time::sleep(WATCH_INTERVAL).await;
                    }
                }
                seen
            }),
        }
    }

    /// Compares the broker with the ledger: its bounds and commits, what came in this round, and if `whole` everything before.
    /// `durable` are offsets that were committed long enough before the end of the broker.
    pub(crate) async fn look(&mut self, whole: bool, durable: &[usize]) -> Outcome<()> {
        let broker = Broker::reach(&self.addresses)?;
        // The commits first: consumers go on committing, and their ends are asked for afterwards.
        let committed = broker.committed().await?;
        let reader = PullConsumer::builder("crash-auditor")
            .config(ClientConfig::new(&self.addresses.name_server))
            .auto_commit(None)
            .poll_max(1024)
            .start()
            .await?;
        let queues = reader.queues_of(TOPIC).await?;
        if queues.len() != QUEUES {
            self.ledger
                .fault(&format!("{} queues instead of {QUEUES}", queues.len()));
        }
        reader.pause(&queues);
        reader.assign(queues.iter().cloned()).await;
        let mut to_come = 0;
        for queue in &queues {
            let number = usize::try_from(queue.queue_id)?;
            let end = usize::try_from(reader.max_offset(queue).await?)?;
            let durable = durable.get(number).copied().unwrap_or(0);
            let committed = committed.get(number).copied().unwrap_or(0);
            self.ledger.restarted(number, end, committed, durable);
            let from = if whole {
                0
            } else {
                self.ledger.read_up_to(number)
            };
            reader.seek(queue, i64::try_from(from.min(end))?).await?;
            to_come += end.saturating_sub(from);
        }
        self.read(&reader, to_come).await?;
        reader.shutdown().await;
        self.ledger.compare(whole);
        Ok(())
    }

    async fn read(&self, reader: &PullConsumer, mut to_come: usize) -> Outcome<()> {
        let deadline = Instant::now() + READ_WITHIN;
        while to_come > 0 {
            let messages = reader.poll(SILENCE).await?;
            if messages.is_empty() || Instant::now() > deadline {
                self.ledger
                    .fault(&format!("{to_come} messages below the ends do not come"));
                return Ok(());
            }
            to_come = to_come.saturating_sub(messages.len());
            for message in &messages {
                self.ledger.read(message);
            }
        }
        Ok(())
    }
}

impl Watch {
    /// What was seen the last time that leaves no excuse for forgetting it.
    pub(crate) async fn end(self, killed_at: Instant) -> Vec<usize> {
        let seen = self.task.await.unwrap_or_default();
        let old_enough = seen
            .into_iter()
            .rev()
            .find(|(at, _)| *at + DURABLE_AFTER <= killed_at);
        old_enough
            .map(|(_, committed)| committed)
            .unwrap_or_default()
    }
}

/// Calls that no consumer offers.
struct Broker {
    instance: Arc<Instance>,
    address: String,
}

impl Broker {
    fn reach(addresses: &Addresses) -> Result<Self, ClientError> {
        let instance = Instance::start(ClientConfig::new(&addresses.name_server))?;
        Ok(Self {
            instance,
            address: addresses.broker.clone(),
        })
    }

    async fn ask(&self, code: RequestCode, request: Command) -> Result<Command, ClientError> {
        let answer = self.instance.call_broker(&self.address, request).await?;
        Instance::success(&self.address, code, answer)
    }

    /// The committed offset of every queue, 0 where there is none.
    async fn committed(&self) -> Outcome<Vec<usize>> {
        let code = RequestCode::QueryConsumerOffset;
        let mut offsets = Vec::new();
        for queue in 0..QUEUES {
            let header = QueryConsumerOffsetRequest {
                consumer_group: GROUP,
                topic: TOPIC,
                queue_id: i32::try_from(queue)?,
                set_zero_if_not_found: None,
                bname: None,
                lo: None,
            };
            let request = Command::request(code).with_header(&header);
            let answer = self.instance.call_broker(&self.address, request).await?;
            if answer.response_code() == Some(ResponseCode::QueryNotFound) {
                offsets.push(0);
                continue;
            }
            let answer = Instance::success(&self.address, code, answer)?;
            let header: QueryConsumerOffsetResponse = answer.header()?;
            offsets.push(usize::try_from(header.offset)?);
        }
        Ok(offsets)
    }
}

/// Makes the topic, which is durable when this returns.
pub(crate) async fn create_topic(addresses: &Addresses) -> Outcome<()> {
    let broker = Broker::reach(addresses)?;
    let code = RequestCode::UpdateAndCreateTopic;
    let queues = i32::try_from(QUEUES)?;
    let request = Command::request(code).with_header(&UpdateAndCreateTopicRequest {
        topic: TOPIC,
        default_topic: "TBW102",
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm: 6,
        topic_filter_type: "SINGLE_TAG",
        ..UpdateAndCreateTopicRequest::default()
    });
    broker.ask(code, request).await?;
    Ok(())
}
