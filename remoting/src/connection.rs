//! A handle to one connection, for both directions: whoever holds it may send frames, call the peer and close it,
//! from any thread. The connection's task alone reads the socket; whoever has bytes writes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::frame::Frame;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::oneshot;

use crate::error::{CallError, SendError};
use crate::limits::Share;
use crate::outbox::Outbox;
use crate::reply::Reply;

/// Calls that may wait for their answers on one connection.
const CALLS_MAX: usize = 65_536;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One TCP connection, accepted or opened by us.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    announced: OnceLock<SocketAddr>,
    /// Cleared once, by whoever ends the connection first.
    open: AtomicBool,
    pub(crate) outbox: Outbox,
    pub(crate) share: Share,
    /// Requests whose answer is to come through a `ReplyTo`.
    deferred: AtomicUsize,
    /// The task waits for `share` or `deferred` to shrink and wants to be woken by that.
    pub(crate) waits_for_release: AtomicBool,
    calls: Mutex<HashMap<i32, Call>>,
    next_opaque: AtomicI32,
}

#[derive(Debug)]
struct Call {
    /// The caller's own opaque, put back into the answer.
    opaque: i32,
    answer: oneshot::Sender<Command>,
}

impl Connection {
    /// Of a new socket, which the connection's task reads and everybody writes.
    pub(crate) fn new(
        stream: TcpStream,
        share: Share,
    ) -> std::io::Result<(Arc<Self>, OwnedReadHalf)> {
        stream.set_nodelay(true)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        let (reader, writer) = stream.into_split();
        let connection = Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            peer,
            local,
            announced: OnceLock::new(),
            open: AtomicBool::new(true),
            outbox: Outbox::new(writer),
            share,
            deferred: AtomicUsize::new(0),
            waits_for_release: AtomicBool::new(false),
            calls: Mutex::new(HashMap::new()),
            next_opaque: AtomicI32::new(1),
        };
        Ok((Arc::new(connection), reader))
    }

    /// Unique in this process and never used again.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The other end of the socket.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This end of the socket.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The client that a proxy in between announced, for logs; anybody may claim anything here.
    #[must_use]
    pub fn announced_peer(&self) -> Option<SocketAddr> {
        self.announced.get().copied()
    }

    pub(crate) fn announce_peer(&self, address: SocketAddr) {
        let _ = self.announced.set(address);
    }

    /// Neither end has closed it, as far as is known.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether a request that may as well come later should come now: half of what the connection may hold is free.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.share.held() <= self.share.per_connection_max() / 2
    }

    /// Queues an answer and wakes the task. Dropped when the connection is closed, as its reader is gone.
    pub fn send(&self, reply: Reply) {
        let _ = self.queue(std::iter::once(reply));
    }

    /// Queues answers with one lock and one wake-up.
    pub fn send_all(&self, replies: impl IntoIterator<Item = Reply>) {
        let _ = self.queue(replies.into_iter());
    }

    /// Writes an answer to the socket before it returns, as far as that takes it: for the one frame that somebody waits for.
    /// Many are better queued, as the task writes them together.
    pub(crate) fn send_now(&self, reply: Reply) {
        if self.may_send().is_ok() {
            self.outbox.send_now(reply, &self.share);
        }
    }

    /// Sends a request that is not answered, marked as such.
    ///
    /// # Errors
    /// [`SendError`] when nothing was queued.
    pub fn one_way(&self, command: &Command) -> Result<(), SendError> {
        let marked;
        let command = if command.is_one_way() {
            command
        } else {
            marked = command.clone().one_way();
            &marked
        };
        self.queue(std::iter::once(Reply::from_command(command)))
    }

    fn queue(&self, replies: impl Iterator<Item = Reply>) -> Result<(), SendError> {
        self.may_send()?;
        if self.outbox.push(replies, &self.share) {
            return Ok(());
        }
        Err(SendError::Closed { peer: self.peer })
    }

    fn may_send(&self) -> Result<(), SendError> {
        let queued_bytes = self.share.held();
        if !self.is_open() {
            return Err(SendError::Closed { peer: self.peer });
        }
        if queued_bytes > self.share.per_connection_max().saturating_mul(2) {
            return Err(self.overrun(queued_bytes));
        }
        Ok(())
    }

    /// The task stops reading at the bound itself; at twice the bound, what others send to this peer goes on without
    /// being read. The peer learns it by the closed connection rather than by silence.
    fn overrun(&self, queued_bytes: usize) -> SendError {
        tracing::warn!(peer = %self.peer, queued_bytes, "connection closed: the peer does not read");
        self.close("the peer does not read");
        SendError::Overrun {
            peer: self.peer,
            queued_bytes,
        }
    }

    /// Sends a request and waits for its answer. Dropping the future forgets the call.
    ///
    /// # Errors
    /// [`CallError`]; an answer with an error code is not one.
    pub async fn call(
        &self,
        mut command: Command,
        timeout: Duration,
    ) -> Result<Command, CallError> {
        let (answer, answered) = oneshot::channel();
        let waiting = self.register(&mut command, answer)?;
        self.queue(std::iter::once(Reply::from_command(&command)))?;
        drop(command);
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallError::Interrupted { peer: self.peer }),
            Err(_) => {
                drop(waiting);
                Err(CallError::Timeout {
                    peer: self.peer,
                    after: timeout,
                })
            }
        }
    }

    /// Gives the command an opaque that is free on this connection and enters the call.
    fn register(
        &self,
        command: &mut Command,
        answer: oneshot::Sender<Command>,
    ) -> Result<WaitingCall<'_>, CallError> {
        let mut calls = self.calls.lock();
        if calls.len() >= CALLS_MAX {
            return Err(CallError::TooMany {
                peer: self.peer,
                outstanding: calls.len(),
            });
        }
        let opaque = loop {
            let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
            if !calls.contains_key(&opaque) {
                break opaque;
            }
        };
        let callers = std::mem::replace(&mut command.opaque, opaque);
        calls.insert(
            opaque,
            Call {
                opaque: callers,
                answer,
            },
        );
        Ok(WaitingCall {
            connection: self,
            opaque,
        })
    }

    /// Hands an answer to its caller; one that nobody waits for any more is dropped.
    pub(crate) fn complete(&self, frame: &Frame<'_>) {
        let call = self.calls.lock().remove(&frame.opaque);
        if let Some(call) = call {
            let mut answer = frame.to_command();
            answer.opaque = call.opaque;
            let _ = call.answer.send(answer);
        }
    }

    /// Ends the connection after what can be written at once. The reason is for the log.
    pub fn close(&self, reason: &str) {
        if self.open.swap(false, Ordering::AcqRel) {
            self.outbox.close(reason);
        }
    }

    /// The task is gone: nothing more will be written, every waiting call ends.
    pub(crate) fn ended(&self) {
        self.open.store(false, Ordering::Release);
        self.outbox.end(&self.share);
        self.calls.lock().clear();
    }

    pub(crate) fn hold(&self, weight: usize) {
        self.deferred.fetch_add(1, Ordering::Relaxed);
        self.share.add(weight);
    }

    pub(crate) fn release(&self, weight: usize) {
        self.share.sub(weight);
        self.deferred.fetch_sub(1, Ordering::AcqRel);
        if self.waits_for_release.swap(false, Ordering::AcqRel) {
            self.outbox.nudge();
        }
    }

    /// No answer is owed any more.
    pub(crate) fn owes_nothing(&self) -> bool {
        self.deferred.load(Ordering::Acquire) == 0
    }
}

/// Takes its call out of the table when the caller stops waiting, for whatever reason.
struct WaitingCall<'c> {
    connection: &'c Connection,
    opaque: i32,
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.connection.calls.lock().remove(&self.opaque);
    }
}
