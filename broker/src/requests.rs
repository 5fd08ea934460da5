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

use crate::broker::Broker;
use crate::pool::Turn;
use crate::{pull, query, send};

/// A request that runs on the pool.
type Clerk = fn(&Arc<Broker>, &Arc<Connection>, &Command) -> Command;

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
                query::update_consumer_offset(broker, frame, replies);
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
            _ => not_supported(frame, replies),
        }
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
                Turn::Full => {
                    let remark = "too many requests wait for a thread".to_owned();
                    Command::response(ResponseCode::SystemBusy, remark)
                }
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
