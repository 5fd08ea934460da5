//! Sharing the queues of a group's topics among its members: when, and which part is ours.
//!
//! Every member computes its own part from the route and the broker's list of members. It does so at the start, when a
//! broker says that members came or went, when a route changes, and now and then in case news was lost.
//! Apache: `RebalanceService`, `RebalanceImpl`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::names::GetConsumerListByGroupResponseBody;
use agena_protocol::command::Command;
use agena_protocol::headers::client::GetConsumerListByGroupRequest;
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::allocate::Allocate;
use crate::error::ClientError;
use crate::instance::{Instance, parse_body};
use crate::route_cache::TopicRoute;
use crate::tasks::Tasks;

/// The part of one topic that a member should have now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) queues: Vec<MessageQueue>,
    /// Others share the topic, so a queue that is new to us may just have been somebody else's.
    pub(crate) has_others: bool,
}

/// Who takes and gives up queues.
pub(crate) trait QueueOwner: Sync {
    /// Topics to share, at this moment.
    fn topics(&self) -> Vec<String>;

    /// Takes and gives up queues until the share is what is owned. False if something of it has to be tried again.
    fn settle(&self, topic: &str, share: Share) -> impl Future<Output = bool> + Send;
}

/// Computes shares for one consumer.
#[derive(Debug)]
pub(crate) struct Rebalance {
    instance: Arc<Instance>,
    group: String,
    broadcasting: bool,
    strategy: Arc<dyn Allocate>,
    due: Notify,
}

/// A round in case news was lost.
const ROUND_INTERVAL: Duration = Duration::from_secs(20);

/// Topics that could not be settled are tried again: at first soon, since a topic that was just created or a member that
/// just joined shows within moments. Not much later either, since nobody tells when another member's lock ends.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

impl Rebalance {
    pub(crate) fn new(
        instance: Arc<Instance>,
        group: &str,
        broadcasting: bool,
        strategy: Arc<dyn Allocate>,
    ) -> Self {
        Self {
            instance,
            group: group.to_owned(),
            broadcasting,
            strategy,
            due: Notify::new(),
        }
    }

    /// Has the next round begin now.
    pub(crate) fn soon(&self) {
        self.due.notify_one();
    }

    /// The name of the strategy, for status pages.
    pub(crate) fn strategy_name(&self) -> String {
        self.strategy.name()
    }

    /// Settles all topics in rounds, and those that could not be settled in between, until the owner stops.
    pub(crate) async fn run(&self, tasks: &Tasks, owner: &impl QueueOwner) {
        let mut retry = RETRY_MIN;
        let mut unsettled = Vec::new();
        let mut next_round = Instant::now();
        loop {
            if unsettled.is_empty() || Instant::now() >= next_round {
                next_round = Instant::now() + ROUND_INTERVAL;
                unsettled = owner.topics();
            }
            unsettled = self.settle(owner, unsettled).await;
            let wait = if unsettled.is_empty() {
                retry = RETRY_MIN;
                ROUND_INTERVAL
            } else {
                let wait = retry;
                retry = (retry * 2).min(RETRY_MAX);
                wait
            };
            tokio::select! {
                () = tasks.stopping() => return,
                () = self.due.notified() => {
                    retry = RETRY_MIN;
                    unsettled.clear();
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Settles topics once. Gives those back that have to be tried again.
    pub(crate) async fn settle(&self, owner: &impl QueueOwner, topics: Vec<String>) -> Vec<String> {
        let mut unsettled = Vec::new();
        for topic in topics {
            let settled = match self.share(&topic).await {
                Ok(Some(share)) => owner.settle(&topic, share).await,
                Ok(None) => false,
                Err(error) => {
                    tracing::debug!(group = %self.group, topic, %error, "queues not shared out, what is owned stays");
                    false
                }
            };
            if !settled {
                unsettled.push(topic);
            }
        }
        unsettled
    }

    /// Our part of a topic; `None` while the brokers do not count us as a member.
    async fn share(&self, topic: &str) -> Result<Option<Share>, ClientError> {
        let route = self.instance.route(topic).await?;
        let queues = route.subscribe_queues();
        if queues.is_empty() || self.broadcasting {
            return Ok(Some(Share {
                queues: queues.to_vec(),
                has_others: false,
            }));
        }
        let mut members = self.members(&route).await?;
        members.sort();
        members.dedup();
        let client_id = self.instance.client_id();
        if !members.iter().any(|member| member == client_id) {
            // The broker has lost us, or has never seen us: without this we would wait for the next heartbeat.
            self.instance.heartbeat().await;
            return Ok(None);
        }
        Ok(Some(Share {
            queues: self.strategy.allocate(client_id, queues, &members),
            has_others: members.len() > 1,
        }))
    }

    /// The group's members as the first broker of the route that answers has them. All members ask in the same order, so
    /// that they see the same list.
    async fn members(&self, route: &TopicRoute) -> Result<Vec<String>, ClientError> {
        let code = RequestCode::GetConsumerListByGroup;
        let mut brokers: Vec<_> = route
            .data
            .broker_datas
            .iter()
            .filter_map(|broker| Some((&broker.broker_name, broker.any_address()?)))
            .collect();
        brokers.sort();
        let mut failure = None;
        for (name, address) in brokers {
            let request = Command::request(code).with_header(&GetConsumerListByGroupRequest {
                consumer_group: &self.group,
                bname: Some(name),
            });
            match self.instance.call_broker(address, request).await {
                Ok(answer) if answer.is_success() => {
                    let body: GetConsumerListByGroupResponseBody =
                        parse_body(address, code, &answer)?;
                    return Ok(body.consumer_id_list);
                }
                // It says so when it knows no member, ourselves included.
                Ok(_) => return Ok(Vec::new()),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(ClientError::UnknownBroker {
            broker: "of any name".to_owned(),
        }))
    }
}
