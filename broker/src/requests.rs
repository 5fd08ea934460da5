//! P3: where a request goes. One `match` from request code to function; nothing else decides it.
//!
//! What is asked often and answered from memory runs on the connection's task; what may wait for the disk or walk over
//! much goes to the pool of clerks. Source: spec/wire.md §3; Apache: `BrokerController.registerProcessor`.

use std::sync::Arc;

use agena_protocol::command::Command;
use agena_protocol::frame::Frame;
use agena_protocol::headers::NoHeader;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::{Replies, ReplyTo};
use agena_remoting::server::Service;

use crate::admin::{self, assignment, consume_stats, group, offset, topic};
use crate::broker::Broker;
use crate::pool::Turn;
use crate::send::Refused;
use crate::sessions::requests as clients;
use crate::{lag, pull, query, request_reply, retry, send, transaction};

/// A request that runs on the pool.
type Clerk = fn(&Arc<Broker>, &Arc<Connection>, &Command) -> Command;

/// A request that runs on the pool and may be refused.
type RefusableClerk = fn(&Arc<Broker>, &Arc<Connection>, &Command) -> Result<Command, Refused>;

/// A request that runs on the pool and is answered later.
type DeferringClerk = fn(&Arc<Broker>, &Arc<Connection>, &Command, ReplyTo);

/// The requests of one listener.
pub(crate) struct Requests {
    broker: Arc<Broker>,
    /// The fast port serves everything but what may be held.
    is_fast: bool,
}

impl Requests {
    /// For the listen port, or for the fast one.
    pub(crate) fn new(broker: Arc<Broker>, is_fast: bool) -> Self {
        Self { broker, is_fast }
    }

    fn one(&self, connection: &Arc<Connection>, frame: &Frame<'_>, replies: &mut Replies) {
        let broker = &self.broker;
        let Some(code) = RequestCode::from_number(frame.code) else {
            return not_supported(frame, replies);
        };
        if self.is_fast && may_be_held(code) {
            return not_supported(frame, replies);
        }
        match code {
            RequestCode::PullMessage | RequestCode::LitePullMessage => {
                pull::pull(broker, connection, frame, replies);
            }
            RequestCode::QueryConsumerOffset => {
                query::query_consumer_offset(broker, frame, replies)
            }
            RequestCode::UpdateConsumerOffset => {
                query::update_consumer_offset(broker, connection, frame, replies);
            }
            RequestCode::GetMaxOffset => query::max_offset(broker, frame, replies),
            RequestCode::GetMinOffset => query::min_offset(broker, frame, replies),
            RequestCode::SearchOffsetByTimestamp => {
                self.aside(connection, frame, |broker, _, request| {
                    query::search_offset(broker, request)
                });
            }
            RequestCode::GetEarliestMsgStoretime => {
                self.aside(connection, frame, |broker, _, request| {
                    query::earliest_store_time(broker, request)
                });
            }
            RequestCode::ViewMessageById => {
                self.aside(connection, frame, |broker, _, request| {
                    query::view_message(broker, request)
                });
            }
            RequestCode::QueryMessage => {
                self.aside(connection, frame, |broker, _, request| {
                    query::query_message(broker, request)
                });
            }
            RequestCode::HeartBeat => {
                answer(
                    frame,
                    clients::heartbeat(broker, connection, frame),
                    replies,
                );
            }
            RequestCode::UnregisterClient => {
                answer(
                    frame,
                    clients::unregister(broker, connection, frame),
                    replies,
                );
            }
            RequestCode::GetConsumerListByGroup => {
                answer(frame, clients::consumer_list(broker, frame), replies);
            }
            RequestCode::CheckClientConfig => {
                answer(frame, clients::check_client_config(broker, frame), replies);
            }
            RequestCode::LockBatchMq => answer(frame, clients::lock_queues(broker, frame), replies),
            RequestCode::UnlockBatchMq => {
                answer(frame, clients::unlock_queues(broker, frame), replies);
            }
            RequestCode::SendReplyMessage | RequestCode::SendReplyMessageV2 => {
                let reply_to = ReplyTo::of(connection, frame);
                request_reply::reply(broker, connection, frame.to_command(), reply_to);
            }
            RequestCode::GetConsumerRunningInfo
            | RequestCode::ConsumeMessageDirectly
            | RequestCode::InvokeBrokerToGetConsumerStatus => {
                let reply_to = ReplyTo::of(connection, frame);
                admin::relay::relay(broker, frame.to_command(), reply_to);
            }
            RequestCode::EndTransaction => {
                transaction::end::end(broker, connection, frame, replies)
            }
            RequestCode::ResumeCheckHalfMessage => {
                self.deferred(connection, frame, transaction::operators::resume);
            }
            RequestCode::ResolveTransaction => {
                self.deferred(connection, frame, transaction::operators::decide);
            }
            RequestCode::ConsumerSendMsgBack => self.refusable(connection, frame, retry::send_back),
            code => match operators(code) {
                Some(clerk) => self.refusable(connection, frame, clerk),
                None => not_supported(frame, replies),
            },
        }
    }

    /// Has a request answered by the pool of clerks that may be refused.
    fn refusable(&self, connection: &Arc<Connection>, frame: &Frame<'_>, clerk: RefusableClerk) {
        let broker = self.broker.clone();
        let connection = connection.clone();
        let reply_to = ReplyTo::of(&connection, frame);
        let request = frame.to_command();
        self.broker.clerks.run(move |turn| {
            reply_to.send(match turn {
                Turn::Run => command_of(clerk(&broker, &connection, &request)),
                Turn::Full => too_busy(),
            });
        });
    }

    /// Has a request done by the pool of clerks and answered when it is durable.
    fn deferred(&self, connection: &Arc<Connection>, frame: &Frame<'_>, clerk: DeferringClerk) {
        let broker = self.broker.clone();
        let connection = connection.clone();
        let reply_to = ReplyTo::of(&connection, frame);
        let request = frame.to_command();
        self.broker.clerks.run(move |turn| match turn {
            Turn::Run => clerk(&broker, &connection, &request, reply_to),
            Turn::Full => reply_to.send(too_busy()),
        });
    }

    /// Has a request answered by the pool of clerks.
    fn aside(&self, connection: &Arc<Connection>, frame: &Frame<'_>, clerk: Clerk) {
        let broker = self.broker.clone();
        let connection = connection.clone();
        let reply_to = ReplyTo::of(&connection, frame);
        let request = frame.to_command();
        self.broker.clerks.run(move |turn| {
            reply_to.send(match turn {
                Turn::Run => clerk(&broker, &connection, &request),
                Turn::Full => too_busy(),
            });
        });
    }
}

impl Service for Requests {
    /// Sends that stand side by side go through together; the order between sends and other requests stays.
    fn requests(&self, connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        for run in frames.chunk_by(|a, b| is_send(a) && is_send(b)) {
            match run {
                [frame] if !is_send(frame) => self.one(connection, frame, replies),
                sends => send::send(&self.broker, connection, sends, replies),
            }
        }
    }

    fn closed(&self, connection: &Arc<Connection>) {
        self.broker.sessions.closed(connection.id());
    }
}

/// What operators ask and do.
fn operators(code: RequestCode) -> Option<RefusableClerk> {
    Some(match code {
        RequestCode::UpdateAndCreateTopic => topic::update,
        RequestCode::UpdateAndCreateTopicList => topic::update_list,
        RequestCode::DeleteTopicInBroker => topic::delete,
        RequestCode::GetAllTopicConfig => topic::all,
        RequestCode::GetTopicConfig => topic::config,
        RequestCode::GetTopicStatsInfo => topic::stats,
        RequestCode::QueryTopicConsumeByWho => topic::consumed_by,
        RequestCode::GetSystemTopicListFromBroker => topic::system,
        RequestCode::CleanUnusedTopic => topic::clean_unused,
        RequestCode::CleanExpiredConsumequeue => topic::clean_expired_queues,
        RequestCode::DeleteExpiredCommitlog => topic::delete_expired_log,
        RequestCode::UpdateAndCreateSubscriptiongroup => group::update,
        RequestCode::UpdateAndCreateSubscriptiongroupList => group::update_list,
        RequestCode::DeleteSubscriptiongroup => group::delete,
        RequestCode::GetAllSubscriptiongroupConfig => group::all,
        RequestCode::GetSubscriptiongroupConfig => group::config,
        RequestCode::UpdateAndGetGroupForbidden => group::forbidden,
        RequestCode::QueryTopicsByConsumer => group::topics,
        RequestCode::QuerySubscriptionByConsumer => group::subscription,
        RequestCode::GetConsumerConnectionList => admin::clients::of_consumer_group,
        RequestCode::GetProducerConnectionList => admin::clients::of_producer_group,
        RequestCode::GetAllProducerInfo => admin::clients::all_producers,
        RequestCode::GetConsumeStats => consume_stats::of_group,
        RequestCode::GetBrokerConsumeStats => consume_stats::of_broker,
        RequestCode::QueryConsumeTimeSpan => consume_stats::time_span,
        RequestCode::InvokeBrokerToResetOffset => admin::reset::reset,
        RequestCode::UndoResetOffset => admin::reset::undo,
        RequestCode::CloneGroupOffset => offset::clone_group,
        RequestCode::QueryCorrectionOffset => offset::correction,
        RequestCode::GetAllConsumerOffset => offset::all,
        RequestCode::GetAllDelayOffset => offset::of_delay_levels,
        RequestCode::GetTimerCheckPoint => offset::timer_check_point,
        RequestCode::GetTimerMetrics => offset::timer_metrics,
        RequestCode::UpdateBrokerConfig => admin::broker::update_config,
        RequestCode::GetBrokerConfig => admin::broker::config,
        RequestCode::GetBrokerRuntimeInfo => admin::broker::runtime_info,
        RequestCode::ViewBrokerStatsData => admin::broker::view_stats,
        RequestCode::QueryConsumeQueue => admin::broker::queue_entries,
        RequestCode::GetBrokerHaStatus => admin::broker::replication_status,
        RequestCode::UpdateColdDataFlowCtrConfig => admin::broker::set_cold_thresholds,
        RequestCode::RemoveColdDataFlowCtrConfig => admin::broker::remove_cold_threshold,
        RequestCode::GetColdDataFlowCtrInfo => admin::broker::cold_thresholds,
        RequestCode::SetCommitlogReadMode => admin::broker::set_read_ahead,
        RequestCode::QueryAssignment => assignment::query,
        RequestCode::SetMessageRequestMode => assignment::set_mode,
        RequestCode::GetAllMessageRequestMode => assignment::all_modes,
        RequestCode::RecallMessage => admin::recall::recall,
        RequestCode::ExplainRetention => admin::retention::explain,
        RequestCode::ListTransactions => transaction::operators::list,
        RequestCode::ExplainLag => lag::explain,
        _ => return None,
    })
}

fn answer(frame: &Frame<'_>, answer: Result<Command, Refused>, replies: &mut Replies) {
    replies.push_command(frame, command_of(answer));
}

fn command_of(answer: Result<Command, Refused>) -> Command {
    answer.unwrap_or_else(|refused| Command::response(refused.code, refused.remark))
}

fn too_busy() -> Command {
    let remark = "too many requests wait for a thread".to_owned();
    Command::response(ResponseCode::SystemBusy, remark)
}

fn is_send(frame: &Frame<'_>) -> bool {
    const SEND: i32 = 10;
    const SEND_V2: i32 = 310;
    const SEND_BATCH: i32 = 320;
    matches!(frame.code, SEND | SEND_V2 | SEND_BATCH)
}

fn may_be_held(code: RequestCode) -> bool {
    matches!(
        code,
        RequestCode::PullMessage
            | RequestCode::LitePullMessage
            | RequestCode::PopMessage
            | RequestCode::PeekMessage
            | RequestCode::Notification
            | RequestCode::PollingInfo
    )
}

/// The original's words, its leading blank included.
fn not_supported(frame: &Frame<'_>, replies: &mut Replies) {
    let remark = format!(" request type {} not supported", frame.code);
    replies.push(
        frame,
        ResponseCode::RequestCodeNotSupported,
        Some(&remark),
        &NoHeader,
    );
}
