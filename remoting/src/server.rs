//! Accepts connections and gives each a task. One connection's trouble is its own: it is closed with one log line, and
//! nobody else notices.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::clock::{Clock, SystemClock};
use agena_protocol::frame::Frame;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};

use crate::connection::Connection;
use crate::connection_task::ConnectionTask;
use crate::error::{BindError, Ended};
use crate::file_limit;
use crate::limits::{Limits, LogBound, Share};
use crate::reply::Replies;
use crate::threads::{ConnectionThreads, Seat};

/// What a server does with requests.
pub trait Service: Send + Sync + 'static {
    /// A peer connected. Before any of its requests.
    fn opened(&self, connection: &Arc<Connection>) {
        let _ = connection;
    }

    /// All whole request frames that one read brought, in order. Runs on the connection's task and so must not
    /// block. Answers go to `replies`, which is written when this returns, or later through a
    /// [`ReplyTo`](crate::reply::ReplyTo).
    fn requests(&self, connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies);

    /// The connection ended. Behind all of its requests; called exactly once per `opened`.
    fn closed(&self, connection: &Arc<Connection>) {
        let _ = connection;
    }
}

/// How a server listens and what it lets its peers do.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// A connection on which nothing was read or written for so long is closed.
    pub idle_timeout: Duration,
    /// Bytes that one connection may have in flight before its socket is not read any more.
    pub in_flight_bytes_per_connection: usize,
    /// The same for all connections together; see [`crate::limits`].
    pub in_flight_bytes_total: usize,
    /// More connections than this are closed as they come, and those that would take the process's last files
    /// ([`crate::file_limit`]).
    pub connections_max: usize,
    /// Connections that the system accepts on our behalf while we are busy.
    pub backlog: u32,
    /// Who serves the connections; by default the runtime that binds.
    pub threads: Option<Arc<ConnectionThreads>>,
}

impl Default for ServerConfig {
    /// A free port on loopback with RocketMQ's idle time-out.
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            idle_timeout: Duration::from_secs(120),
            in_flight_bytes_per_connection: 32 * 1024 * 1024,
            in_flight_bytes_total: 256 * 1024 * 1024,
            connections_max: 100_000,
            backlog: 1024,
            threads: None,
        }
    }
}

/// A listening server. Dropping it closes the listener and leaves the connections alone; see [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    local: SocketAddr,
    shared: Arc<Shared>,
    /// Ends the accept loop, by being dropped.
    stop_accepting: oneshot::Sender<()>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    config: ServerConfig,
    service: Arc<dyn Service>,
    limits: Arc<Limits>,
    log_bound: LogBound,
    clock: SystemClock,
    connections: Mutex<HashMap<u64, Served>>,
    /// Notified when the last connection ends.
    all_ended: Notify,
}

struct Served {
    connection: Arc<Connection>,
    task: Option<tokio::task::AbortHandle>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("connections", &self.connections.lock().len())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Listens and begins to accept.
    ///
    /// # Errors
    /// [`BindError`], for example when the port is in use.
    pub async fn bind(config: ServerConfig, service: Arc<dyn Service>) -> Result<Self, BindError> {
        let address = config.address;
        let bind_error = |source| BindError { address, source };
        let listener = listen(&config).map_err(bind_error)?;
        let local = listener.local_addr().map_err(bind_error)?;
        let shared = Arc::new(Shared {
            limits: Limits::new(
                config.in_flight_bytes_per_connection,
                config.in_flight_bytes_total,
            ),
            config,
            service,
            log_bound: LogBound::default(),
            clock: SystemClock::new(),
            connections: Mutex::new(HashMap::new()),
            all_ended: Notify::new(),
        });
        let (stop_accepting, stopped) = oneshot::channel();
        let accepting = tokio::spawn(accept(listener, shared.clone(), stopped));
        Ok(Self {
            local,
            shared,
            stop_accepting,
            accepting,
        })
    }

    /// Where it listens; the port is the real one.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.shared.connections.lock().len()
    }

    /// Stops in order: accepts no more, reads no more requests, lets the answers that are owed leave, closes. What
    /// is not done after `grace` is cut off.
    pub async fn shutdown(self, grace: Duration) {
        drop(self.stop_accepting);
        let _ = self.accepting.await;
        for served in self.shared.connections.lock().values() {
            served.connection.outbox.drain();
        }
        if tokio::time::timeout(grace, self.shared.wait_all_ended())
            .await
            .is_err()
        {
            for served in self.shared.connections.lock().values() {
                if let Some(task) = &served.task {
                    task.abort();
                }
            }
            // Aborted tasks end at their next poll, so this is short.
            self.shared.wait_all_ended().await;
        }
    }
}

fn listen(config: &ServerConfig) -> std::io::Result<TcpListener> {
    let socket = if config.address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restarted server gets its port back although old connections linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(config.address)?;
    socket.listen(config.backlog)
}

const ACCEPT_BACK_OFF_MIN: Duration = Duration::from_millis(10);
const ACCEPT_BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Accepts until told to stop. Out of file descriptors it waits a little longer each time instead of spinning.
async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut back_off = ACCEPT_BACK_OFF_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                back_off = ACCEPT_BACK_OFF_MIN;
                shared.serve(stream, peer);
            }
            Err(error) => {
                shared.warn(|suppressed| {
                    tracing::warn!(%error, ?back_off, suppressed, "accept failed");
                });
                tokio::select! {
                    () = tokio::time::sleep(back_off) => {}
                    _ = &mut stopped => return,
                }
                back_off = (back_off * 2).min(ACCEPT_BACK_OFF_MAX);
            }
        }
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if !file_limit::leaves_room(&stream) {
            self.refuse(peer, file_limit::connections_max());
            return;
        }
        let seat = Seat::take(self.config.threads.as_deref());
        let entered = seat.enter();
        let share = Share::new(self.limits.clone());
        let connection = seat.adopt(stream);
        let connection = connection.and_then(|stream| Connection::new(stream, share));
        let Ok((connection, reader)) = connection else {
            // The peer is gone already.
            return;
        };
        if !self.enter(&connection) {
            return;
        }
        let task = ConnectionTask::accepted(
            reader,
            connection.clone(),
            self.service.clone(),
            self.config.idle_timeout,
        );
        drop(entered);
        let runtime = seat.runtime().clone();
        let leaving = Leaving {
            shared: self.clone(),
            id: connection.id(),
            seat: Some(seat),
        };
        let log = self.clone();
        let task = runtime.spawn(async move {
            let leaving = leaving;
            let ended = task.run().await;
            log.log_end(peer, &ended);
            drop(leaving);
        });
        if let Some(served) = self.connections.lock().get_mut(&connection.id()) {
            served.task = Some(task.abort_handle());
        }
    }

    /// Takes the connection into the table unless that is full.
    fn enter(&self, connection: &Arc<Connection>) -> bool {
        let mut connections = self.connections.lock();
        if connections.len() >= self.config.connections_max {
            drop(connections);
            self.refuse(connection.peer(), self.config.connections_max as u64);
            return false;
        }
        connections.insert(
            connection.id(),
            Served {
                connection: connection.clone(),
                task: None,
            },
        );
        true
    }

    fn refuse(&self, peer: SocketAddr, max: u64) {
        self.warn(|suppressed| {
            tracing::warn!(%peer, max, suppressed, "connection refused: there are as many as may be");
        });
    }

    fn log_end(&self, peer: SocketAddr, ended: &Ended) {
        if ended.is_misbehaviour() {
            self.warn(|suppressed| {
                tracing::warn!(%peer, reason = %ended, suppressed, "connection closed");
            });
        } else {
            tracing::debug!(%peer, reason = %ended, "connection closed");
        }
    }

    fn warn(&self, write: impl FnOnce(u64)) {
        if let Some(suppressed) = self.log_bound.allow(self.clock.now_ms()) {
            write(suppressed);
        }
    }

    async fn wait_all_ended(&self) {
        loop {
            let notified = self.all_ended.notified();
            tokio::pin!(notified);
            // Registered before the look, so that an end in between is not missed.
            notified.as_mut().enable();
            if self.connections.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }
}

/// Takes a connection out of the table when its task ends, also by panic or abort.
struct Leaving {
    shared: Arc<Shared>,
    id: u64,
    seat: Option<Seat>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // Whoever sees that the connection is gone finds its place free.
        self.seat = None;
        let mut connections = self.shared.connections.lock();
        connections.remove(&self.id);
        if connections.is_empty() {
            self.shared.all_ended.notify_waiters();
        }
    }
}
